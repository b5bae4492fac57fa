package kv

import (
	"encoding/binary"
	"fmt"

	"lockstep/smr"
)

// Formats of a payload, its first byte.
const (
	formatCommand     = 1
	formatTransaction = 2
	formatRecord      = 3

	// withEnvelope is added to the format where an envelope follows that is not the zero one.
	withEnvelope = 1 << 7
)

// Flags of an envelope.
const (
	flagNoTouch  = 1 << 4
	flagUser     = 1 << 5
	maskDatabase = Databases - 1
)

// Envelope is what a request says about the connection that it comes from.
type Envelope struct {
	Database int    // selected, 0..Databases-1
	User     string // authenticated; empty: the default user
	NoTouch  bool   // CLIENT NO-TOUCH: the commands are no use of the keys they meet
	// Denials is told what scripts of a read (ReadIn) are denied; nil: nobody. It is no part of a payload.
	Denials Denials
}

func (e Envelope) append(b []byte, format byte) []byte {
	e.Denials = nil
	if e == (Envelope{}) {
		return append(b, format)
	}
	flags := byte(e.Database)
	if e.NoTouch {
		flags |= flagNoTouch
	}
	if e.User != "" {
		flags |= flagUser
	}
	b = append(b, format|withEnvelope, flags)
	if e.User != "" {
		b = binary.AppendUvarint(b, uint64(len(e.User)))
		b = append(b, e.User...)
	}
	return b
}

// Watch is a key that a transaction depends on, with the version it had (Machine.Version).
type Watch struct {
	Database int
	Key      []byte
	Version  smr.LSN
}

// Payload is a decoded payload. It shares memory with the bytes it was decoded from.
type Payload struct {
	Envelope    Envelope
	Transaction bool
	Record      bool // the command is a record (Envelope.AppendRecord)
	Watches     []Watch
	Commands    [][][]byte // exactly one unless Transaction
}

// AppendCommand appends the payload of a request that executes one command in database 0. args must not be empty.
func AppendCommand(b []byte, args [][]byte) []byte { return Envelope{}.AppendCommand(b, args) }

// AppendTransaction appends the payload of a transaction that begins in database 0 (Envelope.AppendTransaction).
func AppendTransaction(b []byte, watches []Watch, commands [][][]byte) []byte {
	return Envelope{}.AppendTransaction(b, watches, commands)
}

// AppendCommand appends the payload of a request that executes one command. args must not be empty.
func (e Envelope) AppendCommand(b []byte, args [][]byte) []byte {
	return appendArgs(e.append(b, formatCommand), args)
}

// AppendRecord appends the payload of a record: what a node, not a client, writes into the log (records.go).
func (e Envelope) AppendRecord(b []byte, args [][]byte) []byte {
	return appendArgs(e.append(b, formatRecord), args)
}

// AppendTransaction appends the payload of a request that executes all commands, or none if a watched key has
// changed. No command may be empty.
func (e Envelope) AppendTransaction(b []byte, watches []Watch, commands [][][]byte) []byte {
	b = e.append(b, formatTransaction)
	b = binary.AppendUvarint(b, uint64(len(watches)))
	for _, w := range watches {
		b = binary.AppendUvarint(b, uint64(w.Database))
		b = appendBytes(b, w.Key)
		b = binary.LittleEndian.AppendUint64(b, uint64(w.Version))
	}
	b = binary.AppendUvarint(b, uint64(len(commands)))
	for _, args := range commands {
		b = appendArgs(b, args)
	}
	return b
}

func appendArgs(b []byte, args [][]byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(args)))
	for _, arg := range args {
		b = appendBytes(b, arg)
	}
	return b
}

func appendBytes(b, s []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// DecodePayload decodes and checks a payload.
func DecodePayload(b []byte) (Payload, error) {
	r := payloadReader{rest: b}
	p := r.payload()
	if r.err == nil && len(r.rest) != 0 {
		r.fail("%d bytes behind the payload", len(r.rest))
	}
	if r.err != nil {
		return Payload{}, r.err
	}
	return p, nil
}

// payloadReader cuts pieces from the front of rest. After the first error every piece is empty.
type payloadReader struct {
	rest []byte
	err  error
}

func (r *payloadReader) fail(format string, values ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("payload: "+format, values...)
	}
	r.rest = nil
}

func (r *payloadReader) payload() Payload {
	format, envelope := r.format()
	switch format {
	case formatCommand, formatRecord:
		return Payload{Envelope: envelope, Record: format == formatRecord, Commands: [][][]byte{r.args(nil)}}
	case formatTransaction:
		p := Payload{Envelope: envelope, Transaction: true, Watches: r.watches()}
		count := r.count("commands", 2)
		for range count {
			p.Commands = append(p.Commands, r.args(nil))
		}
		return p
	default:
		r.fail("unknown format %d", format)
		return Payload{}
	}
}

func (r *payloadReader) format() (format byte, e Envelope) {
	if len(r.rest) == 0 {
		return 0, e
	}
	format = r.rest[0]
	r.rest = r.rest[1:]
	if format&withEnvelope == 0 {
		return format, e
	}
	return format &^ withEnvelope, r.envelope()
}

// envelope reads an envelope that is not the zero one.
func (r *payloadReader) envelope() (e Envelope) {
	if len(r.rest) == 0 {
		r.fail("cut short before its flags")
		return e
	}
	flags := r.rest[0]
	r.rest = r.rest[1:]
	if flags&^(flagNoTouch|flagUser|maskDatabase) != 0 {
		r.fail("unknown flags %#x", flags)
		return e
	}
	e.Database, e.NoTouch = int(flags&maskDatabase), flags&flagNoTouch != 0
	if flags&flagUser != 0 {
		e.User = string(r.bytes())
	}
	if e == (Envelope{}) {
		r.fail("an envelope that says nothing")
	}
	return e
}

// args appends the arguments of one command to args.
func (r *payloadReader) args(args [][]byte) [][]byte {
	count := r.count("arguments", 1)
	if count == 0 {
		r.fail("command without a name")
	}
	for range count {
		args = append(args, r.bytes())
	}
	return args
}

func (r *payloadReader) watches() []Watch {
	var watches []Watch
	for range r.count("watches", 10) {
		w := Watch{Database: int(r.uvarint()), Key: r.bytes()}
		if w.Database < 0 || w.Database >= Databases || len(r.rest) < 8 {
			r.fail("watch of database %d, %d bytes left", w.Database, len(r.rest))
			return nil
		}
		w.Version = smr.LSN(binary.LittleEndian.Uint64(r.rest))
		r.rest = r.rest[8:]
		watches = append(watches, w)
	}
	return watches
}

// count reads how many things follow, each of which takes at least size bytes: a count that the rest cannot hold
// is refused before memory is taken for it.
func (r *payloadReader) count(things string, size int) int {
	n := r.uvarint()
	if n > uint64(len(r.rest)/size) {
		r.fail("%d %s in %d bytes", n, things, len(r.rest))
		return 0
	}
	return int(n)
}

func (r *payloadReader) uvarint() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.fail("cut short in a number")
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *payloadReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail("%d bytes announced, %d are there", n, len(r.rest))
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

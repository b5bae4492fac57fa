package rdb

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"lockstep/internal/kv"
)

// Opcodes of a file.
const (
	opSlotInfo    = 244
	opFunction    = 245
	opModuleAux   = 247
	opIdle        = 248
	opFrequency   = 249
	opAux         = 250
	opResize      = 251
	opExpireMs    = 252
	opExpire      = 253
	opSelect      = 254
	opEnd         = 255
	versionOut    = 10
	versionNewest = 12
)

// Writer writes one file. After the first error everything else is left out, and Close returns it.
type Writer struct {
	out      *bufio.Writer
	sum      kv.RDBChecksum
	buffer   []byte
	database int // selected; -1 is none
	err      error
}

// Aux is a line about the file's origin. Redis knows the names redis-ver, redis-bits, ctime and used-mem, and reads over others.
type Aux struct{ Name, Text string }

// NewWriter begins a file on w, which stays the caller's.
func NewWriter(w io.Writer, about ...Aux) *Writer {
	out := &Writer{out: bufio.NewWriterSize(w, 256<<10), database: -1}
	out.buffer = fmt.Appendf(out.buffer, "REDIS%04d", versionOut)
	for _, aux := range about {
		out.buffer = append(out.buffer, opAux)
		out.buffer = kv.AppendRDBText(kv.AppendRDBText(out.buffer, []byte(aux.Name)), []byte(aux.Text))
	}
	out.flush()
	return out
}

// flush sends the buffer.
func (w *Writer) flush() {
	w.sum.Add(w.buffer)
	if w.err == nil {
		_, w.err = w.out.Write(w.buffer)
	}
	w.buffer = w.buffer[:0]
}

// Function writes a library of functions. They stand in front of all keys.
func (w *Writer) Function(code []byte) error {
	w.buffer = kv.AppendRDBText(append(w.buffer, opFunction), code)
	w.flush()
	return w.err
}

// Key writes a key. expire is the Unix time in milliseconds, 0 is never; payload is what DUMP answers. Keys of one
// database stand together.
func (w *Writer) Key(database int, key []byte, expire int64, payload []byte) error {
	value, ok := kv.CutDumpFooter(payload)
	if !ok {
		return fmt.Errorf("write key %q: %d bytes are no payload of DUMP", short(key), len(payload))
	}
	if database != w.database {
		w.buffer = kv.AppendRDBLength(append(w.buffer, opSelect), uint64(database))
		w.database = database
	}
	if expire > 0 {
		w.buffer = binary.LittleEndian.AppendUint64(append(w.buffer, opExpireMs), uint64(expire))
	}
	w.buffer = kv.AppendRDBText(append(w.buffer, value[0]), key)
	w.buffer = append(w.buffer, value[1:]...)
	w.flush()
	return w.err
}

// Close ends the file.
func (w *Writer) Close() error {
	w.buffer = append(w.buffer, opEnd)
	w.flush()
	w.buffer = binary.LittleEndian.AppendUint64(w.buffer, w.sum.Sum())
	w.flush()
	if w.err == nil {
		w.err = w.out.Flush()
	}
	return w.err
}

// Commands writes a keyspace as commands in RESP, for `redis-cli --pipe` or anything that sends them.
type Commands struct {
	out      *bufio.Writer
	buffer   []byte
	database int
}

// NewCommands begins on w, which stays the caller's. The commands assume a connection in database 0.
func NewCommands(w io.Writer) *Commands { return &Commands{out: bufio.NewWriterSize(w, 256<<10)} }

func (c *Commands) send(args ...[]byte) error {
	c.buffer = AppendCommand(c.buffer[:0], args...)
	_, err := c.out.Write(c.buffer)
	return err
}

// Function writes FUNCTION LOAD.
func (c *Commands) Function(code []byte) error {
	return c.send([]byte("FUNCTION"), []byte("LOAD"), code)
}

// Key writes RESTORE, and SELECT before it where the database changes.
func (c *Commands) Key(database int, key []byte, expire int64, payload []byte) error {
	if database != c.database {
		c.database = database
		if err := c.send([]byte("SELECT"), strconv.AppendInt(nil, int64(database), 10)); err != nil {
			return err
		}
	}
	return c.send(RestoreCommand(key, expire, payload)...)
}

// Close sends what is buffered.
func (c *Commands) Close() error { return c.out.Flush() }

// RestoreCommand returns the command that makes a key of a payload.
func RestoreCommand(key []byte, expire int64, payload []byte) [][]byte {
	args := [][]byte{[]byte("RESTORE"), key, strconv.AppendInt(nil, expire, 10), payload}
	if expire > 0 {
		args = append(args, []byte("ABSTTL"))
	}
	return args
}

// AppendCommand appends a command in RESP.
func AppendCommand(b []byte, args ...[]byte) []byte {
	b = strconv.AppendInt(append(b, '*'), int64(len(args)), 10)
	b = append(b, "\r\n"...)
	for _, arg := range args {
		b = strconv.AppendInt(append(b, '$'), int64(len(arg)), 10)
		b = append(b, "\r\n"...)
		b = append(b, arg...)
		b = append(b, "\r\n"...)
	}
	return b
}

// short returns the front of a key, for messages.
func short(key []byte) []byte { return key[:min(len(key), 64)] }

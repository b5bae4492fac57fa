package rdb

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"lockstep/internal/kv"
)

// ErrFormat: what is read is no RDB file, or a damaged one.
var ErrFormat = errors.New("not a whole RDB file")

// Item is what a Reader finds: a library of functions, or a key.
type Item struct {
	Function []byte // the code of a library, else nil
	Database int
	Key      []byte
	Expire   int64  // Unix milliseconds; 0 is never
	Payload  []byte // as RESTORE takes it; nil if Refused
	Type     byte
	Refused  string // why the group cannot hold the value; "" if it may
}

// Reader reads one file, in order. What Next returns is the caller's.
type Reader struct {
	in       *bufio.Reader
	sum      kv.RDBChecksum
	at       int64 // bytes read
	version  int
	database int
	limit    int // bytes of a value that is kept

	keeps bool // what is read is to be kept
	kept  []byte
	large bool // it was more than the limit, and is not kept any more
}

// maxText bounds a string that has to be decoded here: a key, or a library.
const maxText = 512 << 20

// NewReader begins with the file's head. Values of more than limit bytes are refused. Errors: ErrFormat, or of r.
func NewReader(r io.Reader, limit int) (*Reader, error) {
	reader := &Reader{in: bufio.NewReaderSize(r, 256<<10), limit: limit}
	head := make([]byte, 9)
	if err := reader.full(head); err != nil {
		return nil, err
	}
	version, err := strconv.Atoi(string(head[5:]))
	if string(head[:5]) != "REDIS" || err != nil || version < 1 {
		return nil, fmt.Errorf("%w: it begins with %q", ErrFormat, head)
	}
	if version > versionNewest {
		return nil, fmt.Errorf("%w: it has version %d, and versions up to %d (Redis 7.4) can be read", ErrFormat, version, versionNewest)
	}
	reader.version = version
	return reader, nil
}

// Offset returns how many bytes have been read.
func (r *Reader) Offset() int64 { return r.at }

// Next returns the next item, and io.EOF at the end of a whole file. Errors: ErrFormat, or of the reader underneath.
func (r *Reader) Next() (Item, error) {
	item := Item{}
	for {
		op, err := r.byte()
		if err != nil {
			return item, err
		}
		switch op {
		case opSlotInfo:
			err = r.lengths(3)
		case opFunction:
			item.Function, err = r.text()
			return item, err
		case opModuleAux:
			err = r.moduleAux()
		case opIdle:
			err = r.lengths(1)
		case opFrequency:
			_, err = r.byte()
		case opAux:
			err = errors.Join(r.skipText(), r.skipText())
		case opResize:
			err = r.lengths(2)
		case opExpireMs:
			item.Expire, err = r.expire(8, 1)
		case opExpire:
			item.Expire, err = r.expire(4, 1000)
		case opSelect:
			var n uint64
			n, err = r.length()
			r.database = int(min(n, math.MaxInt32))
		case opEnd:
			return item, r.end()
		default:
			return r.key(item, op)
		}
		if err != nil {
			return item, err
		}
	}
}

// key reads a key and its value.
func (r *Reader) key(item Item, kind byte) (_ Item, err error) {
	if item.Key, err = r.text(); err != nil {
		return item, err
	}
	item.Database, item.Type = r.database, kind
	r.keeps, r.large, r.kept = true, false, append([]byte(nil), kind)
	item.Refused, err = r.value(kind)
	r.keeps = false
	if err != nil {
		return item, fmt.Errorf("value of key %q: %w", short(item.Key), err)
	}
	switch {
	case item.Refused != "":
	case r.large:
		item.Refused = fmt.Sprintf("the value has more than %d bytes, which no command can carry", r.limit)
	case item.Database >= kv.Databases:
		item.Refused = fmt.Sprintf("it is in database %d, and there are %d", item.Database, kv.Databases)
	default:
		item.Payload = kv.AppendDumpFooter(r.kept)
	}
	r.kept = nil
	return item, nil
}

// end reads the checksum.
func (r *Reader) end() error {
	if r.version >= 5 {
		want := r.sum.Sum()
		var b [8]byte
		if err := r.full(b[:]); err != nil {
			return err
		}
		if got := binary.LittleEndian.Uint64(b[:]); got != 0 && got != want {
			return fmt.Errorf("%w: its checksum is %016x and its bytes have %016x", ErrFormat, got, want)
		}
	}
	return io.EOF
}

// expire reads a time of so many bytes.
func (r *Reader) expire(size int, milliseconds int64) (int64, error) {
	var b [8]byte
	if err := r.full(b[:size]); err != nil {
		return 0, err
	}
	n := int64(binary.LittleEndian.Uint64(b[:]))
	if n < 0 || n > math.MaxInt64/milliseconds {
		return 0, r.damaged("an expiry of %d", n)
	}
	return max(n*milliseconds, 1), nil // 1: long ago; 0 would be never
}

func (r *Reader) damaged(format string, values ...any) error {
	return fmt.Errorf("%w: at offset %d: %s", ErrFormat, r.at, fmt.Sprintf(format, values...))
}

// full reads all of b.
func (r *Reader) full(b []byte) error {
	n, err := io.ReadFull(r.in, b)
	r.took(b[:n])
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return r.damaged("it is cut short")
	}
	return err
}

// took notes bytes that were read.
func (r *Reader) took(b []byte) {
	r.sum.Add(b)
	r.at += int64(len(b))
	if !r.keeps || r.large {
		return
	}
	if len(r.kept)+len(b) > r.limit {
		r.large, r.kept = true, nil
		return
	}
	r.kept = append(r.kept, b...)
}

func (r *Reader) byte() (byte, error) {
	var b [1]byte
	err := r.full(b[:])
	return b[0], err
}

// skip reads over n bytes, in pieces: what is announced need not come.
func (r *Reader) skip(n uint64) error {
	piece := make([]byte, min(n, 64<<10))
	for n > 0 {
		part := piece[:min(n, uint64(len(piece)))]
		if err := r.full(part); err != nil {
			return err
		}
		n -= uint64(len(part))
	}
	return nil
}

// Encodings of a string's length that are none.
const (
	encodedInt8  = 0xc0
	encodedInt16 = 0xc1
	encodedInt32 = 0xc2
	encodedLZF   = 0xc3
	length32     = 0x80
	length64     = 0x81
)

// lengthOrEncoding reads a length, or how a string is encoded.
func (r *Reader) lengthOrEncoding() (n uint64, encoding byte, err error) {
	first, err := r.byte()
	if err != nil {
		return 0, 0, err
	}
	var b [8]byte
	switch {
	case first < 0x40:
		return uint64(first), 0, nil
	case first < 0x80:
		err = r.full(b[:1])
		return uint64(first&0x3f)<<8 | uint64(b[0]), 0, err
	case first == length32:
		err = r.full(b[:4])
		return uint64(binary.BigEndian.Uint32(b[:4])), 0, err
	case first == length64:
		err = r.full(b[:8])
		return binary.BigEndian.Uint64(b[:8]), 0, err
	case first >= encodedInt8 && first <= encodedLZF:
		return 0, first, nil
	}
	return 0, 0, r.damaged("%#x is no length", first)
}

func (r *Reader) length() (uint64, error) {
	n, encoding, err := r.lengthOrEncoding()
	if err == nil && encoding != 0 {
		err = r.damaged("%#x is no length", encoding)
	}
	return n, err
}

func (r *Reader) lengths(count int) error {
	for range count {
		if _, err := r.length(); err != nil {
			return err
		}
	}
	return nil
}

// skipText reads over a string.
func (r *Reader) skipText() error {
	n, encoding, err := r.lengthOrEncoding()
	if err != nil {
		return err
	}
	switch encoding {
	case 0:
		return r.skip(n)
	case encodedInt8:
		return r.skip(1)
	case encodedInt16:
		return r.skip(2)
	case encodedInt32:
		return r.skip(4)
	}
	packed, err := r.length()
	if err != nil {
		return err
	}
	if _, err := r.length(); err != nil {
		return err
	}
	return r.skip(packed)
}

// text reads a string.
func (r *Reader) text() ([]byte, error) {
	limit := r.limit
	r.limit, r.keeps, r.large, r.kept = maxText, true, false, nil
	err := r.skipText()
	kept, large := r.kept, r.large
	r.limit, r.keeps, r.kept = limit, false, nil
	if err != nil {
		return nil, err
	}
	text, ok := kv.DecodeRDBText(kept)
	if large || !ok {
		return nil, r.damaged("a string that cannot be decoded")
	}
	return text, nil
}

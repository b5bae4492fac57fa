package kv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
)

// RowOp says what to do with a row of an image.
type RowOp uint8

const (
	// RowPut writes a row, in place of one of the same key.
	RowPut RowOp = iota
	// RowDelete takes a row out, if it is there.
	RowDelete
	// RowDeleteRange takes out all rows from the key to the value, the latter excluded.
	RowDeleteRange
	// RowCheck says what a row that was written earlier must hold.
	RowCheck
	// RowFront writes the row of a key whose value is cold: what is given is its front; kind and content are those of the row of that
	// key in the pinned image (JoinRow). If the image is full, and RowObject finds a large object in it, the rows of that come from there, too.
	RowFront
	// RowCheckFront says what the front of a row must be that was written earlier.
	RowCheckFront
)

// ImageRows is a batch of changes to the rows of an image. The zero value is empty.
type ImageRows struct {
	data  []byte
	early int // bytes at the front that NextRows took out of turn
}

// Len returns the bytes of the batch.
func (r *ImageRows) Len() int { return len(r.data) }

// Bytes returns the batch as bytes, from which RowsOf makes it again: for each change the operation, the lengths of key (1 byte) and value (4 bytes, little
// endian), key and value. They are valid until the batch changes.
func (r *ImageRows) Bytes() []byte { return r.data }

// RowsOf returns the batch whose Bytes are b, which it keeps. Each reports what is torn.
func RowsOf(b []byte) ImageRows { return ImageRows{data: b} }

// Add appends a change. Keys have at most 255 bytes.
func (r *ImageRows) Add(op RowOp, key, value []byte) {
	r.data = append(r.data, byte(op), byte(len(key)))
	r.data = binary.LittleEndian.AppendUint32(r.data, uint32(len(value)))
	r.data = append(append(r.data, key...), value...)
}

// Reset empties the batch and keeps its memory.
func (r *ImageRows) Reset() { r.data, r.early = r.data[:0], 0 }

// Split returns the changes that were taken out of turn, because something was about to change or at the beginning of an image, and those
// behind them, of which most follow in the order of their keys. Both share the batch's memory.
func (r *ImageRows) Split() (early, ordered ImageRows) {
	return ImageRows{data: r.data[:r.early]}, ImageRows{data: r.data[r.early:]}
}

var errTornRows = errors.New("a batch of rows is torn")

// Each visits the changes in their order until visit returns an error. Key and value are valid until Reset.
func (r *ImageRows) Each(visit func(op RowOp, key, value []byte) error) error {
	for b := r.data; len(b) > 0; {
		if len(b) < 6 {
			return errTornRows
		}
		op, keyEnd := RowOp(b[0]), 6+int(b[1])
		end := keyEnd + int(binary.LittleEndian.Uint32(b[2:]))
		if end > len(b) || end < keyEnd {
			return errTornRows
		}
		if err := visit(op, b[6:keyEnd], b[keyEnd:end]); err != nil {
			return err
		}
		b = b[end:]
	}
	return nil
}

// Append appends the changes of another batch, in their order.
func (r *ImageRows) Append(other *ImageRows) { r.data = append(r.data, other.data...) }

// EachByKey visits the changes in the order of their keys until visit returns an error; those of the same key in the order of the batch. Key and
// value are valid until Reset.
func (r *ImageRows) EachByKey(visit func(op RowOp, key, value []byte) error) error {
	type change struct {
		op         RowOp
		key, value []byte
	}
	var all []change
	err := r.Each(func(op RowOp, key, value []byte) error {
		all = append(all, change{op, key, value})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b change) int { return bytes.Compare(a.key, b.key) })
	for _, c := range all {
		if err := visit(c.op, c.key, c.value); err != nil {
			return err
		}
	}
	return nil
}

// begin appends the head of a change with its key; the value is appended to data by the caller, who then calls end with what
// begin returned.
func (r *ImageRows) begin(op RowOp, key rowKey) (head int) {
	head = len(r.data)
	r.data = append(r.data, byte(op), 0, 0, 0, 0, 0)
	r.data = key.append(r.data)
	r.data[head+1] = byte(len(r.data) - head - 6)
	return head
}

func (r *ImageRows) end(head int) {
	binary.LittleEndian.PutUint32(r.data[head+2:], uint32(len(r.data)-head-6-int(r.data[head+1])))
}

func (r *ImageRows) put(key rowKey, value []byte) {
	head := r.begin(RowPut, key)
	r.data = append(r.data, value...)
	r.end(head)
}

func (r *ImageRows) remove(key rowKey) { r.end(r.begin(RowDelete, key)) }

func (r *ImageRows) removeRange(from, end rowKey) {
	head := r.begin(RowDeleteRange, from)
	r.data = end.append(r.data)
	r.end(head)
}

// rowKey is the key of a row:
//
//	'a' part                                                     the machine: rowMachine ...
//	'k' database (1) number of the key (8)                       a key, see imageentry.go; the database as it was numbered first
//	'o' object (8) part (1) [number (8), or group (4) ID (16)]   a part of a large object
//
// Numbers are big endian, so that rows have the order in which they are loaded.
type rowKey struct {
	space  byte
	number uint64 // of the key or of the object; its database, its part
	part   byte   // database, or part
	row    uint64
	group  uint32
	id     streamID
}

// Spaces of rows.
const (
	spaceMachine = 'a'
	spaceKeys    = 'k'
	spaceObjects = 'o'
)

// Parts of the machine.
const (
	rowMachine   = iota // log time, Applied, leases, the heads of the databases
	rowSessions         // the session table
	rowSettings         // those that were set
	rowUsers            // users that are not those of a new group
	rowScripts          // scripts and libraries
	rowWaiters          // who waits for a key
	rowDatabases        // one for each database: this and its number
)

// Parts of a large object.
const (
	partShape   = iota // what is small, or orders the others
	partItems          // elements of a table, by number / 32; chunks of a list
	partBlocks         // of a stream
	partPending        // of a group of a stream
)

func (k rowKey) append(b []byte) []byte {
	b = append(b, k.space)
	switch k.space {
	case spaceMachine:
		return append(b, k.part)
	case spaceKeys:
		return binary.BigEndian.AppendUint64(append(b, k.part), k.number)
	}
	b = append(binary.BigEndian.AppendUint64(b, k.number), k.part)
	switch k.part {
	case partItems:
		b = binary.BigEndian.AppendUint64(b, k.row)
	case partBlocks, partPending:
		b = binary.BigEndian.AppendUint32(b, k.group)
		b = binary.BigEndian.AppendUint64(b, k.id.ms)
		b = binary.BigEndian.AppendUint64(b, k.id.seq)
	}
	return b
}

var errRowKey = errors.New("no key of a row")

func parseRowKey(b []byte) (k rowKey, err error) {
	if len(b) < 2 {
		return k, errRowKey
	}
	k.space = b[0]
	want := 2
	switch k.space {
	case spaceMachine:
		k.part = b[1]
	case spaceKeys:
		if want = 10; len(b) == want {
			k.part, k.number = b[1], binary.BigEndian.Uint64(b[2:])
		}
	case spaceObjects:
		if want = 10; len(b) < want {
			return k, errRowKey
		}
		k.number, k.part = binary.BigEndian.Uint64(b[1:]), b[9]
		switch k.part {
		case partShape:
		case partItems:
			if want = 18; len(b) == want {
				k.row = binary.BigEndian.Uint64(b[10:])
			}
		case partBlocks, partPending:
			if want = 30; len(b) == want {
				k.group = binary.BigEndian.Uint32(b[10:])
				k.id = streamID{binary.BigEndian.Uint64(b[14:]), binary.BigEndian.Uint64(b[22:])}
			}
		default:
			return k, errRowKey
		}
	default:
		return k, errRowKey
	}
	if len(b) != want {
		return k, errRowKey
	}
	return k, nil
}

// JoinRow appends the row of a key to b: a front, as RowFront and RowCheckFront give it, with kind and content of another row of that key.
func JoinRow(b, front, row []byte) ([]byte, error) {
	f, held := rowReader{rest: front}, rowReader{rest: row}
	expires := f.byte()
	s := held.entry()
	if held.err != nil || f.err != nil {
		return b, errRow
	}
	flags := row[0]&^entryDue | expires
	b = append(b, flags)
	if s.large {
		b = binary.BigEndian.AppendUint64(b, s.object)
	}
	b = append(b, f.rest...)
	at := len(b) - len(s.key)
	if at < 0 || string(b[at:]) != string(s.key) {
		return b, errOtherRow
	}
	return append(b, held.rest...), nil
}

// RowObject returns the large object that a row mentions: that of a key whose parts have rows of their own. All rows of the object
// lie from ObjectRows' first result to its second.
func RowObject(key, value []byte) (object uint64, ok bool) {
	if len(key) == 0 || key[0] != spaceKeys || len(value) < 9 || value[0]&entryLarge == 0 {
		return 0, false
	}
	return binary.BigEndian.Uint64(value[1:]), true
}

// ObjectRows returns the range of the rows of a large object, the end excluded.
func ObjectRows(object uint64) (from, end []byte) {
	from = binary.BigEndian.AppendUint64([]byte{spaceObjects}, object)
	end = binary.BigEndian.AppendUint64([]byte{spaceObjects}, object+1)
	return from, end
}

// rowReader reads the value of a row. After the first error it returns zeros; err tells.
type rowReader struct {
	rest []byte
	err  error
}

var errRow = errors.New("a row is torn")

func (r *rowReader) fail() {
	r.rest = nil
	if r.err == nil {
		r.err = errRow
	}
}

func (r *rowReader) uint() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// count reads a number of things of which each takes at least size bytes of the rest.
func (r *rowReader) count(size int) int {
	n := r.uint()
	if n > uint64(len(r.rest)/size) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *rowReader) int() int64 {
	n, size := binary.Varint(r.rest)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *rowReader) fixed() uint64 {
	if len(r.rest) < 8 {
		r.fail()
		return 0
	}
	n := binary.LittleEndian.Uint64(r.rest)
	r.rest = r.rest[8:]
	return n
}

func (r *rowReader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

// text reads a text with its length; it shares the row's memory.
func (r *rowReader) text() []byte {
	n := r.count(1)
	text := r.rest[:n:n]
	r.rest = r.rest[n:]
	return text
}

func (r *rowReader) id() streamID { return streamID{r.uint(), r.uint()} }

func appendRowText[T []byte | string](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendRowID(b []byte, id streamID) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, id.ms), id.seq)
}

func appendRowFlag(b []byte, truth bool) []byte {
	if truth {
		return append(b, 1)
	}
	return append(b, 0)
}

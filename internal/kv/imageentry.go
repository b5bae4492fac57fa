package kv

import (
	"encoding/binary"
	"math"
	"slices"

	"lockstep/smr"
)

// The value of the row of a key:
//
//	offset size
//	     0    1  bits 0-4 kind of content, bit 5 the key expires, bit 7 a large object
//	     1    8  number of the object, big endian, if it is large
//	          8  little endian: bits 0-31 when the key was last used, bits 32-39 how often (value.used, value.uses)
//	     uvarint version, varint size, [varint expiry in milliseconds since 1970 UTC], uvarint length of the key, key, content
//
//	content: of a string: its bytes
//	         of a packed collection: uvarint capacity, uvarint count, [1 byte mixed, of a set], bytes
//	         of a table: shape (appendTableShape); if it is not large, uvarint length of the elements, elements (tableRows)
//	         of a list: 1 byte quicklist, uvarint count of chunks; if it is not large, the chunks (appendChunk)
//	         of a stream: head (appendStreamHead); if it is not large: groups, uvarint count of blocks, blocks (appendBlock), for each
//	         group uvarint count of pending entries, each ID (two uvarints) and entry (appendPending)
//
// Of a large object the shape, the elements, chunks, groups, blocks and pending entries have rows of their own.
const (
	entryLarge = 0x80
	entryDue   = 0x20
	entryKind  = 0x1f
)

const (
	entryText = iota
	entryRawText
	entryFloatText
	entryPackedHash
	entryPackedSet
	entryPackedZset
	entryHash
	entrySet
	entryZset
	entryList
	entryStream
	entryOwnText
)

// kindOfEntry is that of a value in memory.
func kindOfEntry(e *entry) byte {
	switch o := e.value.object().(type) {
	case nil:
		switch e.value.held {
		case heldText:
			return entryText
		case heldRaw:
			return entryRawText
		case heldFloat:
			return entryFloatText
		case heldOwn:
			return entryOwnText
		}
	case *hashObject:
		if o.big == nil {
			return entryPackedHash
		}
		return entryHash
	case *setObject:
		if o.big == nil {
			return entryPackedSet
		}
		return entrySet
	case *zsetObject:
		if o.big == nil {
			return entryPackedZset
		}
		return entryZset
	case *list:
		return entryList
	case *stream:
		return entryStream
	}
	panic("kv: an object that images do not know")
}

func appendEntry(b []byte, expiries *dueHeap, e *entry, large *objectImage) []byte {
	flags := kindOfEntry(e)
	if e.value.due != 0 {
		flags |= entryDue
	}
	if large != nil {
		b = binary.BigEndian.AppendUint64(append(b, flags|entryLarge), large.object)
	} else {
		b = append(b, flags)
	}
	return appendContent(appendFront(b, expiries, e), e, large != nil)
}

// appendFront appends what stands in a row between kind and number of a large object, and the content.
func appendFront(b []byte, expiries *dueHeap, e *entry) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(e.value.used)|uint64(e.value.uses)<<32)
	b = binary.AppendUvarint(b, uint64(e.value.version))
	b = binary.AppendVarint(b, e.value.size())
	if e.value.due != 0 {
		b = binary.AppendVarint(b, expiries.at(e))
	}
	return appendRowText(b, e.key())
}

// appendContent appends what the entry holds.
func appendContent(b []byte, e *entry, large bool) []byte {
	switch o := e.value.object().(type) {
	case *hashObject:
		if o.big == nil {
			return appendPack(b, o.pack, o.count)
		}
		return appendTable(b, o.rows(), large)
	case *setObject:
		if o.big == nil {
			b = appendRowFlag(b, o.mixed)
			return appendPack(b, o.pack, o.count)
		}
		return appendTable(b, o.rows(), large)
	case *zsetObject:
		if o.big == nil {
			return appendPack(b, o.pack, o.count)
		}
		return appendTable(b, o.rows(), large)
	case *list:
		return appendList(b, o, large)
	case *stream:
		return appendStream(b, o, large)
	}
	return append(b, e.value.text()...)
}

func appendPack(b []byte, p pack, count int) []byte {
	b = binary.AppendUvarint(b, uint64(cap(p)))
	b = binary.AppendUvarint(b, uint64(count))
	return append(b, p...)
}

func appendTable[V any](b []byte, t tableRows[V], large bool) []byte {
	if large {
		return b
	}
	b = appendTableShape(b, t.table)
	return t.append(b, 0, math.MaxUint64)
}

func appendList(b []byte, l *list, large bool) []byte {
	b = appendRowFlag(b, l.quick)
	if large {
		return b
	}
	for k := l.first; k != nil; k = k.next {
		b = appendChunk(b, k)
	}
	return b
}

func appendStream(b []byte, s *stream, large bool) []byte {
	b = appendStreamHead(b, s)
	if large {
		return b
	}
	b = s.appendShape(b)
	b = binary.AppendUvarint(b, uint64(s.blocks.size))
	s.blocks.ascend(streamID{}, func(_ streamID, block **streamBlock) bool {
		b = appendBlock(b, *block)
		return true
	})
	for _, g := range s.groups {
		b = binary.AppendUvarint(b, uint64(g.pending.size))
		g.pending.ascend(streamID{}, func(id streamID, p *pendingEntry) bool {
			b = appendPending(appendRowID(b, id), p)
			return true
		})
	}
	return b
}

func appendRowFloat(b []byte, f float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
}

// storedEntry is an entry as its row says.
type storedEntry struct {
	kind    byte
	large   bool
	object  uint64
	used    uint32
	uses    uint8
	version smr.LSN
	size    int64
	expires bool
	due     int64
	key     []byte // shares the memory of the row
}

// entry reads the front of the row of a key; the content follows.
func (r *rowReader) entry() (s storedEntry) {
	flags := r.byte()
	s.kind, s.large, s.expires = flags&entryKind, flags&entryLarge != 0, flags&entryDue != 0
	if s.large {
		if len(r.rest) < 8 {
			r.fail()
			return s
		}
		s.object = binary.BigEndian.Uint64(r.rest)
		r.rest = r.rest[8:]
	}
	recency := r.fixed()
	s.used, s.uses = uint32(recency), uint8(recency>>32)
	s.version, s.size = smr.LSN(r.uint()), r.int()
	if s.expires {
		s.due = r.int()
	}
	s.key = r.text()
	return s
}

// pack reads a packed collection to the end of the row.
func (r *rowReader) pack(width int) (p pack, count int) {
	capacity := r.uint()
	entries := r.uint()
	if r.err != nil || capacity < uint64(len(r.rest)) || capacity > uint64(4*len(r.rest)+64) {
		r.fail()
		return nil, 0
	}
	if capacity > 0 {
		p = make(pack, len(r.rest), capacity)
		copy(p, r.rest)
	}
	at := uint64(0)
	for range entries * uint64(width) { // what the methods of pack rely on
		if at >= uint64(len(p)) {
			r.fail()
			return nil, 0
		}
		at += 1 + uint64(p[at])
	}
	if at != uint64(len(p)) {
		r.fail()
		return nil, 0
	}
	r.rest = nil
	return p, int(entries)
}

// tableShape is what appendTableShape wrote.
type tableShape struct {
	lastID uint64
	size   int
	chunks []int
}

func (r *rowReader) tableShape() (s tableShape) {
	s.lastID = r.uint()
	size := r.uint()
	total := uint64(0)
	s.chunks = make([]int, r.count(1))
	for i := range s.chunks {
		n := r.uint()
		if n == 0 || n > chunkNodes {
			r.fail()
			return tableShape{}
		}
		s.chunks[i] = int(n)
		total += n
	}
	if total != size || size > s.lastID {
		r.fail()
		return tableShape{}
	}
	s.size = int(size)
	return s
}

// tableLoader fills a table with elements in the order of their numbers.
type tableLoader[V any] struct {
	table  *table[V]
	shape  tableShape
	loaded int
	read   func(r *rowReader) V
	insert func(n *node[V]) // nil: nothing else has to know
}

func newTableLoader[V any](t *table[V], shape tableShape, read func(r *rowReader) V) *tableLoader[V] {
	t.shaped(shape.lastID, shape.size, len(shape.chunks))
	return &tableLoader[V]{table: t, shape: shape, read: read}
}

// add puts in the next element; false if there must be no other, or none of that number.
func (l *tableLoader[V]) add(id uint64, key string, v V) bool {
	if l.loaded == l.shape.size || id > l.shape.lastID {
		return false
	}
	n, ok := l.table.restore(id, key, v, l.shape.chunks)
	if ok {
		l.loaded++
		if l.insert != nil {
			l.insert(n)
		}
	}
	return ok
}

// items reads elements to the end of the row, whose numbers begin at from.
func (l *tableLoader[V]) items(r *rowReader, from uint64) {
	for id := from; len(r.rest) > 0 && r.err == nil; {
		id += r.uint()
		key := string(r.text())
		if v := l.read(r); r.err == nil && !l.add(id, key, v) {
			r.fail()
		}
	}
}

func (l *tableLoader[V]) complete() bool { return l.loaded == l.shape.size }

// keyLoader fills the table of the keys of a database in the order of their numbers.
type keyLoader struct {
	table *keyTable
	shape tableShape
}

func newKeyLoader(t *keyTable, shape tableShape) *keyLoader {
	t.shaped(shape.lastID, shape.size, len(shape.chunks))
	return &keyLoader{t, shape}
}

// add puts in the next entry, which holds nothing; nil if there must be no other, or none of that number.
func (l *keyLoader) add(id uint64, key []byte) *entry {
	if l.table.size == l.shape.size || id > l.shape.lastID {
		return nil
	}
	return l.table.restore(id, key, l.shape.chunks)
}

func (l *keyLoader) complete() bool { return l.table.size == l.shape.size }

func (r *rowReader) chunk(k *listChunk, l *list) {
	k.count = r.count(2)
	k.packed = slices.Clone(r.text())
	at, n := uint64(0), 0
	for ; at < uint64(len(k.packed)); n++ { // what the methods of a chunk rely on
		length, size := uint64(k.packed[at]), uint64(1)
		if length == longElement && at+5 <= uint64(len(k.packed)) {
			length, size = uint64(binary.LittleEndian.Uint32(k.packed[at+1:])), 5
		}
		at += 2*size + length
		l.bytes += int(length)
	}
	if r.err != nil || at != uint64(len(k.packed)) || n != k.count || n == 0 {
		r.fail()
	}
	l.length += k.count
}

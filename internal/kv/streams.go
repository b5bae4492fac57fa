package kv

import (
	"math"
	"slices"
	"strconv"

	"lockstep/smr"
)

// maxEntryBytes is the most that the fields and values of one entry may add up to, and what a block may hold.
const maxEntryBytes = 1 << 30

// blockLimits say when a block is full: the next entry begins another one.
type blockLimits struct {
	bytes   int // stream-node-max-bytes; 0: maxEntryBytes
	entries int // stream-node-max-entries, those deleted included; 0: no limit
}

var streamSettings = []settingRule{
	{name: "stream-node-max-bytes", standard: "4096", parse: parseMemory, apply: func(m *Machine, value string) {
		m.set.stream.bytes, _ = strconv.Atoi(value)
	}},
	{name: "stream-node-max-entries", standard: "100", parse: parseBetween(0, math.MaxInt), apply: func(m *Machine, value string) {
		m.set.stream.entries, _ = strconv.Atoi(value)
	}},
}

// full reports whether a block has no room for an entry of so many bytes.
func (l blockLimits) full(b *streamBlock, bytes int) bool {
	limit := l.bytes
	if limit == 0 || limit > maxEntryBytes {
		limit = maxEntryBytes
	}
	return b.size()+bytes >= limit || l.entries > 0 && b.live+b.deleted >= l.entries
}

// trimLimit bounds what one approximate trimming without LIMIT takes out, in entries: a hundred full blocks.
func (l blockLimits) trimLimit() int64 {
	switch {
	case l.entries == 0:
		return 10_000
	case l.entries > 10_000:
		return 1_000_000
	}
	return int64(100 * l.entries)
}

// Flags of a packed entry.
const (
	entryDeleted    = 1
	entrySameFields = 2 // its fields are those of the block; only the values are there
)

// stream is the value of a key of type stream: blocks of packed entries in a tree, ordered by ID, and consumer groups.
//
// Invariants: length counts the entries that are not deleted; first is the ID of the first of them, 0-0 if there is none;
// last and maxDeleted never go back except by XSETID; groups are sorted by name.
type stream struct {
	blocks     idTree[*streamBlock] // by master
	tail       *streamBlock         // the last one, nil if there is none
	length     uint64
	first      streamID
	last       streamID // the highest that was ever given
	maxDeleted streamID // the highest that was deleted by XDEL
	added      uint64   // entries added ever
	groups     []*streamGroup
	bytes      int // in all blocks

	image *objectImage // nil: the stream was in no image as a large one
}

// streamBlock holds entries as the listpack of a stream's node in Redis does, without its frame: what Redis calls the
// master entry (the fields that most entries have), then the entries, those deleted included:
//
//	count of fields, fields, 0
//	flags, ms - master.ms, seq - master.seq, [count of fields, fields and values] or [values], count of these elements
//
// Once another block stands behind it, only deletions change a block.
type streamBlock struct {
	master  streamID // ID of its first entry; the others are written as differences from it
	last    streamID // ID of its last entry
	live    int
	deleted int
	fields  int // of the master entry
	head    int // where the first entry begins in data
	data    []byte
	changed smr.LSN // version of its last change: an image of the state from there on holds it as it is
}

// streamEntry is an entry found in a block. It is valid until the stream changes.
type streamEntry struct {
	id     streamID
	block  *streamBlock
	flags  int64
	fields int
	at     int // where it begins in the block
	body   int // where its fields and values begin
	end    int // where the next entry begins
}

// size returns the bytes that Redis' listpack of this block takes.
func (b *streamBlock) size() int {
	return 7 + packedIntSize(int64(b.live)) + packedIntSize(int64(b.deleted)) + len(b.data)
}

// entryAt reads the entry at a place.
func (b *streamBlock) entryAt(at int) streamEntry {
	e := streamEntry{block: b, at: at}
	flags, next := packedAt(b.data, at)
	ms, next := packedAt(b.data, next)
	seq, next := packedAt(b.data, next)
	e.flags = flags.integer
	e.id = streamID{b.master.ms + uint64(ms.integer), b.master.seq + uint64(seq.integer)}
	e.fields = b.fields
	elements := b.fields
	if e.flags&entrySameFields == 0 {
		var count packed
		count, next = packedAt(b.data, next)
		e.fields = int(count.integer)
		elements = 2 * e.fields
	}
	e.body = next
	e.end = skipPacked(b.data, next, elements+1)
	return e
}

// entryBefore reads the entry that ends before a place, which must lie behind head.
func (b *streamBlock) entryBefore(end int) streamEntry {
	at := packedBefore(b.data, end)
	count, _ := packedAt(b.data, at)
	for range count.integer {
		at = packedBefore(b.data, at)
	}
	return b.entryAt(at)
}

// each visits the fields and values of an entry.
func (e streamEntry) each(visit func(field, value packed)) {
	fieldAt, at := 0, e.body
	same := e.flags&entrySameFields != 0
	if same {
		_, fieldAt = packedAt(e.block.data, 0)
	}
	for range e.fields {
		var field, value packed
		if same {
			field, fieldAt = packedAt(e.block.data, fieldAt)
		} else {
			field, at = packedAt(e.block.data, at)
		}
		value, at = packedAt(e.block.data, at)
		visit(field, value)
	}
}

// ascend visits the entries from start to end, both included, in order, until visit returns false. visit must not change
// the blocks.
func (s *stream) ascend(start, end streamID, visit func(streamEntry) bool) {
	from, _, ok := s.floor(start)
	if !ok {
		from = start
	}
	s.blocks.ascend(from, func(master streamID, block **streamBlock) bool {
		b := *block
		if end.less(master) {
			return false
		}
		for at := b.head; at < len(b.data); {
			e := b.entryAt(at)
			at = e.end
			if e.flags&entryDeleted != 0 || e.id.less(start) {
				continue
			}
			if end.less(e.id) || !visit(e) {
				return false
			}
		}
		return true
	})
}

// descend visits the entries from end down to start, both included, until visit returns false. visit must not change the
// blocks.
func (s *stream) descend(start, end streamID, visit func(streamEntry) bool) {
	s.blocks.descend(end, func(_ streamID, block **streamBlock) bool {
		b := *block
		for at := len(b.data); at > b.head; {
			e := b.entryBefore(at)
			at = e.at
			if e.flags&entryDeleted != 0 || end.less(e.id) {
				continue
			}
			if e.id.less(start) || !visit(e) {
				return false
			}
		}
		return true
	})
}

// floor returns the block whose entries may include id: the last one that begins at or below it.
func (s *stream) floor(id streamID) (master streamID, block *streamBlock, ok bool) {
	if s.tail != nil && !id.less(s.tail.master) {
		return s.tail.master, s.tail, true
	}
	s.blocks.descend(id, func(at streamID, b **streamBlock) bool {
		master, block, ok = at, *b, true
		return false
	})
	return master, block, ok
}

// find returns the entry of an ID; false if there is none, or no more.
func (s *stream) find(id streamID) (streamEntry, bool) {
	_, b, ok := s.floor(id)
	if !ok || b.last.less(id) {
		return streamEntry{}, false
	}
	for at := b.head; at < len(b.data); {
		e := b.entryAt(at)
		if !e.id.less(id) {
			return e, e.id == id && e.flags&entryDeleted == 0
		}
		at = e.end
	}
	return streamEntry{}, false
}

// top returns the ID of the last entry that is there; 0-0 if there is none.
func (s *stream) top() (id streamID) {
	s.descend(streamID{}, lastStreamID, func(e streamEntry) bool {
		id = e.id
		return false
	})
	return id
}

// append adds an entry behind all others. pairs are its fields and values; id must be above s.last.
func (s *stream) append(id streamID, pairs [][]byte, limits blockLimits, version smr.LSN) {
	s.cutTombstones(id)
	b := s.tail
	if b != nil && limits.full(b, textBytes(pairs)) {
		b.data = slices.Clone(b.data) // it will not grow any more
		b = nil
	}
	if b != nil {
		s.changingBlock(b.master)
	}
	if b == nil {
		s.changingBlock(id)
		b = newStreamBlock(id, pairs)
		s.blocks.set(id, b)
		s.tail = b
		s.bytes += len(b.data)
	}
	s.bytes -= len(b.data)
	b.append(id, pairs)
	s.bytes += len(b.data)
	b.changed = version
	s.length++
	s.added++
	s.last = id
	if s.length == 1 {
		s.first = id
	}
}

// cutTombstones takes deleted entries at or above an ID off the tail: XSETID can make the stream give an ID a second time.
func (s *stream) cutTombstones(id streamID) {
	for s.tail != nil && !s.tail.last.less(id) {
		b := s.tail
		s.changingBlock(b.master)
		e := b.entryBefore(len(b.data))
		s.bytes -= len(b.data) - e.at
		b.data = b.data[:e.at]
		b.deleted--
		if e.at == b.head {
			s.unlink(b)
			continue
		}
		b.last = b.entryBefore(e.at).id
	}
}

func textBytes(texts [][]byte) int {
	total := 0
	for _, text := range texts {
		total += len(text)
	}
	return total
}

// newStreamBlock returns a block without entries whose master entry has the fields of pairs.
func newStreamBlock(id streamID, pairs [][]byte) *streamBlock {
	b := &streamBlock{master: id, fields: len(pairs) / 2}
	b.data = appendPackedInt(nil, int64(b.fields))
	for i := 0; i < len(pairs); i += 2 {
		b.data = appendPackedText(b.data, pairs[i])
	}
	b.data = appendPackedInt(b.data, 0)
	b.head = len(b.data)
	return b
}

// append adds an entry behind the others of the block.
func (b *streamBlock) append(id streamID, pairs [][]byte) {
	fields := len(pairs) / 2
	elements := int64(3 + fields)
	same := b.hasFields(pairs)
	if same {
		b.data = appendPackedInt(b.data, entrySameFields)
	} else {
		b.data = appendPackedInt(b.data, 0)
		elements += int64(fields) + 1
	}
	b.data = appendPackedInt(b.data, int64(id.ms-b.master.ms))
	b.data = appendPackedInt(b.data, int64(id.seq-b.master.seq))
	if !same {
		b.data = appendPackedInt(b.data, int64(fields))
	}
	for i := 0; i < len(pairs); i += 2 {
		if !same {
			b.data = appendPackedText(b.data, pairs[i])
		}
		b.data = appendPackedText(b.data, pairs[i+1])
	}
	b.data = appendPackedInt(b.data, elements)
	b.live++
	b.last = id
}

// hasFields reports whether the fields of pairs are those of the master entry.
func (b *streamBlock) hasFields(pairs [][]byte) bool {
	if len(pairs) != 2*b.fields {
		return false
	}
	_, at := packedAt(b.data, 0)
	for i := 0; i < len(pairs); i += 2 {
		var field packed
		if field, at = packedAt(b.data, at); !field.equal(pairs[i]) {
			return false
		}
	}
	return true
}

// drop marks an entry of the block as deleted.
func (b *streamBlock) drop(e streamEntry, version smr.LSN) {
	b.data[e.at] |= entryDeleted // the flags are an integer of one byte
	b.live--
	b.deleted++
	b.changed = version
}

// remove takes the entry of an ID out, as XDEL does, and reports whether it was there. The caller sees to first.
func (s *stream) remove(id streamID, version smr.LSN) bool {
	e, ok := s.find(id)
	if !ok {
		return false
	}
	s.changingBlock(e.block.master)
	e.block.drop(e, version)
	s.length--
	if e.block.live == 0 {
		s.unlink(e.block)
	}
	if s.maxDeleted.less(id) {
		s.maxDeleted = id
	}
	return true
}

// unlink takes a block out.
func (s *stream) unlink(b *streamBlock) {
	s.changingBlock(b.master)
	if s.image != nil {
		s.image.blocks.gone(b.master)
	}
	s.bytes -= len(b.data)
	s.blocks.remove(b.master)
	if b == s.tail {
		_, s.tail, _ = s.blocks.last()
	}
}

// findFirst makes first the ID of the first entry.
func (s *stream) findFirst() {
	s.first = streamID{}
	s.ascend(streamID{}, lastStreamID, func(e streamEntry) bool {
		s.first = e.id
		return false
	})
}

// streamTrim says how far a stream is trimmed from its front.
type streamTrim struct {
	strategy trimStrategy
	length   uint64   // trimByLength: that many entries stay
	id       streamID // trimByID: entries from here on stay
	approx   bool     // only whole blocks go
	limit    int64    // at most that many entries go; 0: no limit
}

type trimStrategy uint8

const (
	trimNothing trimStrategy = iota
	trimByLength
	trimByID
)

// trim takes entries out from the front and returns how many.
func (s *stream) trim(t streamTrim, version smr.LSN) int64 {
	var removed int64
	for t.strategy != trimNothing {
		if t.strategy == trimByLength && s.length <= t.length {
			break
		}
		_, b, ok := s.blocks.first()
		if !ok || t.limit > 0 && removed+int64(b.live) > t.limit {
			break
		}
		whole := b.last.less(t.id)
		if t.strategy == trimByLength {
			whole = s.length-uint64(b.live) >= t.length
		}
		if whole {
			s.unlink(b)
			s.length -= uint64(b.live)
			removed += int64(b.live)
			continue
		}
		if !t.approx {
			removed += s.trimBlock(b, t, version)
		}
		break
	}
	if removed > 0 {
		s.findFirst()
	}
	return removed
}

// trimBlock takes entries out from the front of the first block, which stays, even if none is left in it.
func (s *stream) trimBlock(b *streamBlock, t streamTrim, version smr.LSN) int64 {
	var removed int64
	for at := b.head; at < len(b.data); {
		e := b.entryAt(at)
		if t.strategy == trimByLength && s.length <= t.length || t.strategy == trimByID && !e.id.less(t.id) {
			break
		}
		at = e.end
		if e.flags&entryDeleted == 0 {
			s.changingBlock(b.master)
			b.drop(e, version)
			s.length--
			removed++
		}
	}
	return removed
}

// readCount estimates how many entries were ever added up to an ID, itself included; false if nobody can tell any more.
func (s *stream) readCount(id streamID) (int64, bool) {
	toLast := id.compare(s.last)
	switch {
	case s.added == 0:
		return 0, true
	case s.length == 0 && toLast <= 0, toLast == 0:
		return int64(s.added), true
	case toLast > 0:
		return 0, false
	}
	if s.maxDeleted == (streamID{}) || s.maxDeleted.less(s.first) {
		switch id.compare(s.first) {
		case -1:
			return int64(s.added - s.length), true
		case 0:
			return int64(s.added - s.length + 1), true
		}
	}
	return 0, false
}

// hasGap reports whether entries at or behind an ID may have been deleted by XDEL.
func (s *stream) hasGap(id streamID) bool {
	return s.length > 0 && s.maxDeleted != (streamID{}) && !s.maxDeleted.less(s.first) && !s.maxDeleted.less(id)
}

func (s *stream) kind() string     { return "stream" }
func (s *stream) encoding() string { return "stream" }

// Overheads of the estimates, in bytes.
const (
	streamOverhead  = 240
	blockOverhead   = 128 // the block, its place in the tree
	groupOverhead   = 240
	pendingOverhead = 60 // in the group and in the consumer
)

func (s *stream) size() int {
	n := streamOverhead + s.bytes + s.blocks.size*blockOverhead
	for _, g := range s.groups {
		n += groupOverhead + len(g.name) + g.pending.size*pendingOverhead
		n += len(g.consumers) * groupOverhead
	}
	return n
}

func (s *stream) clone() object {
	twin := *s
	twin.image = nil
	twin.blocks = s.blocks.clone(func(b *streamBlock) *streamBlock {
		copied := *b
		copied.data = slices.Clone(b.data)
		return &copied
	})
	_, twin.tail, _ = twin.blocks.last()
	twin.groups = make([]*streamGroup, len(s.groups))
	for i, g := range s.groups {
		twin.groups[i] = g.clone()
	}
	return &twin
}

func (s *stream) digest(d *digester) {
	d.number(s.length)
	d.number(s.added)
	for _, id := range []streamID{s.first, s.last, s.maxDeleted} {
		d.streamID(id)
	}
	d.number(uint64(s.blocks.size))
	s.blocks.ascend(streamID{}, func(_ streamID, block **streamBlock) bool {
		b := *block
		d.streamID(b.master)
		d.number(uint64(b.live))
		d.number(uint64(b.deleted))
		d.bytes(b.data)
		return true
	})
	d.number(uint64(len(s.groups)))
	for _, g := range s.groups {
		g.digest(d)
	}
}

func (d *digester) streamID(id streamID) {
	d.number(id.ms)
	d.number(id.seq)
}

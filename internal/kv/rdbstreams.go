package kv

import (
	"encoding/binary"

	"lockstep/internal/resp"
)

// standardBlocks are the limits of the blocks of a stream that RESTORE makes.
var standardBlocks = blockLimits{bytes: 4096, entries: 100}

func appendRDBID(b []byte, id streamID) []byte {
	return appendRDBLength(appendRDBLength(b, id.ms), id.seq)
}

func appendRawID(b []byte, id streamID) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, id.ms), id.seq)
}

// listpack returns the block as Redis' node.
func (b *streamBlock) listpack() []byte {
	w := newListpack()
	w.b = appendPackedInt(appendPackedInt(w.b, int64(b.live)), int64(b.deleted))
	w.b = append(w.b, b.data...)
	for at := listpackHeader; at < len(w.b); w.count++ {
		_, at = packedAt(w.b, at)
	}
	return w.bytes()
}

func (s *stream) appendRDB(b []byte) []byte {
	blocks := uint64(0)
	s.blocks.ascend(streamID{}, func(streamID, **streamBlock) bool {
		blocks++
		return true
	})
	b = appendRDBLength(append(b, rdbStream2), blocks)
	s.blocks.ascend(streamID{}, func(master streamID, block **streamBlock) bool {
		b = appendRDBBlob(b, appendRawID(nil, master))
		b = appendRDBBlob(b, (*block).listpack())
		return true
	})
	b = appendRDBID(appendRDBLength(b, s.length), s.last)
	b = appendRDBLength(appendRDBID(appendRDBID(b, s.first), s.maxDeleted), s.added)
	b = appendRDBLength(b, uint64(len(s.groups)))
	for _, g := range s.groups {
		b = g.appendRDB(b)
	}
	return b
}

func (g *streamGroup) appendRDB(b []byte) []byte {
	b = appendRDBBlob(b, []byte(g.name))
	b = appendRDBLength(appendRDBID(b, g.last), uint64(g.read))
	b = appendRDBLength(b, uint64(g.pending.size))
	g.pending.ascend(streamID{}, func(id streamID, p *pendingEntry) bool {
		b = binary.LittleEndian.AppendUint64(appendRawID(b, id), uint64(p.delivered))
		b = appendRDBLength(b, uint64(p.deliveries))
		return true
	})
	b = appendRDBLength(b, uint64(len(g.consumers)))
	for _, c := range g.consumers {
		b = binary.LittleEndian.AppendUint64(appendRDBBlob(b, []byte(c.name)), uint64(c.seen))
		b = appendRDBLength(b, uint64(c.pending.size))
		c.pending.ascend(streamID{}, func(id streamID, _ *struct{}) bool {
			b = appendRawID(b, id)
			return true
		})
	}
	return b
}

func (r *rdbReader) id() streamID { return streamID{r.plainLength(), r.plainLength()} }

func (r *rdbReader) rawID() (id streamID) {
	if b := r.take(16); b != nil {
		id = streamID{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	}
	return id
}

// stream reads a stream: its entries are added one by one, so that nothing of a malformed block survives. Entries that
// were deleted are not kept.
func (r *rdbReader) stream(kind byte) *stream {
	s := new(stream)
	blocks := r.plainLength()
	for i := uint64(0); i < blocks && r.err == nil; i++ {
		key := rdbReader{rest: r.text()}
		master := key.rawID()
		if key.err != nil || len(key.rest) > 0 || !r.streamBlock(s, master, r.text()) {
			r.fail()
		}
	}
	length, last := r.plainLength(), r.id()
	if r.err != nil || length != s.length || last.less(s.last) {
		r.fail()
		return s
	}
	s.last, s.added = last, length
	if kind != rdbStream1 {
		r.id() // of the first entry: known by now
		s.maxDeleted, s.added = r.id(), r.plainLength()
	}
	groups := r.plainLength()
	for i := uint64(0); i < groups && r.err == nil; i++ {
		r.streamGroup(s, kind)
	}
	return s
}

// streamBlock adds the entries of a listpack; false if it is not well formed.
func (r *rdbReader) streamBlock(s *stream, master streamID, blob []byte) bool {
	if r.err != nil {
		return false
	}
	if count, ok := readListpack(blob, func([]byte) {}); !ok || count < 4 {
		return false
	}
	p := rdbReader{rest: blob[listpackHeader : len(blob)-1]}
	p.number64() // entries, and entries deleted: counted below
	p.number64()
	fields := make([][]byte, 0, 4)
	for range p.smallCount() {
		fields = append(fields, p.packedItem())
	}
	p.number64()
	for len(p.rest) > 0 {
		flags := p.number64()
		id := streamID{master.ms + uint64(p.number64()), master.seq + uint64(p.number64())}
		var pairs [][]byte
		if flags&entrySameFields != 0 {
			for _, field := range fields {
				pairs = append(pairs, field, p.packedItem())
			}
		} else {
			for range p.smallCount() {
				pairs = append(pairs, p.packedItem(), p.packedItem())
			}
		}
		p.number64()
		if p.err != nil || id.less(master) || len(pairs) == 0 || s.length > 0 && !s.last.less(id) || id == (streamID{}) {
			return false
		}
		if flags&entryDeleted == 0 {
			s.append(id, pairs, standardBlocks, 0)
		}
	}
	return p.err == nil
}

// packedItem reads an element of a listpack that is known to be well formed.
func (r *rdbReader) packedItem() []byte {
	before := len(r.rest)
	item := r.listpackItem()
	r.take(uint64(packedLengthSize(before - len(r.rest))))
	return item
}

func (r *rdbReader) number64() int64 {
	n, ok := resp.ParseInt(r.packedItem())
	if !ok {
		r.fail()
	}
	return n
}

// smallCount reads how many elements follow: no more than there are bytes.
func (r *rdbReader) smallCount() int {
	n := r.number64()
	if n < 0 || n > int64(len(r.rest)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *rdbReader) streamGroup(s *stream, kind byte) {
	name, last, read := r.text(), r.id(), int64(unknownCount)
	if kind != rdbStream1 {
		read = max(int64(r.plainLength()), unknownCount)
	}
	if r.err != nil {
		return
	}
	g := s.addGroup(string(name), last, read)
	if g == nil {
		r.fail()
		return
	}
	orphans := uint64(0)
	pending := r.plainLength()
	for i := uint64(0); i < pending && r.err == nil; i++ {
		id := r.rawID()
		p := pendingEntry{delivered: int64(r.integer(8)), deliveries: int64(r.plainLength()), consumer: noConsumer}
		if r.err != nil || p.deliveries < 0 || !g.pending.set(id, p) {
			r.fail()
			return
		}
		orphans++
	}
	consumers := r.plainLength()
	for i := uint64(0); i < consumers && r.err == nil; i++ {
		orphans -= r.streamConsumer(g, kind)
	}
	if orphans != 0 {
		r.fail()
	}
}

// noConsumer stands for the owner of a pending entry until the owner is read.
const noConsumer = 1<<32 - 1

// streamConsumer reads a consumer and returns how many entries are pending for it.
func (r *rdbReader) streamConsumer(g *streamGroup, kind byte) (owned uint64) {
	name, seen := r.text(), int64(r.integer(8))
	active := seen
	if kind == rdbStream3 {
		active = int64(r.integer(8))
	}
	count := r.plainLength()
	if r.err != nil {
		return 0
	}
	c := g.addConsumer(string(name), seen)
	if c == nil {
		r.fail()
		return 0
	}
	c.active = active
	for ; owned < count && r.err == nil; owned++ {
		id := r.rawID()
		p := g.pending.find(id)
		if r.err != nil || p == nil || p.consumer != noConsumer {
			r.fail()
			return owned
		}
		p.consumer = c.number
		c.pending.set(id, struct{}{})
	}
	return owned
}

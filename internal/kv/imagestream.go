package kv

import (
	"encoding/binary"

	"lockstep/smr"
)

// The rows of a large stream: its groups with their consumers in the shape, a row for each block, a row for each pending entry.

func (s *stream) imageOf() **objectImage { return &s.image }

func (s *stream) large() bool {
	pending := 0
	for _, g := range s.groups {
		pending += g.pending.size
	}
	return s.blocks.size >= largeStream || pending >= largePending
}

func (s *stream) begin(o *objectImage, all bool) {
	_, tail, _ := s.blocks.last()
	last := streamID{}
	if tail != nil {
		last = tail.master
	}
	o.blocks.begin(all, last)
	o.image.work = append(o.image.work, &blocksWork{o: o, stream: s})
	w := &groupsWork{o: o, ended: o.ended}
	o.ended = nil
	for _, g := range s.groups {
		if all || g.number == 0 {
			o.group++
			g.image, g.number, g.marks = o, o.group, idMarks{}
			g.marks.begin(true, g.lastPending())
		} else {
			g.marks.begin(false, g.lastPending())
		}
		w.groups = append(w.groups, g)
	}
	o.image.work = append(o.image.work, w)
}

func (o *objectImage) blockKey(master streamID) rowKey {
	return rowKey{space: spaceObjects, number: o.object, part: partBlocks, id: master}
}

func (o *objectImage) pendingKey(g *streamGroup, id streamID) rowKey {
	return rowKey{space: spaceObjects, number: o.object, part: partPending, group: g.number, id: id}
}

// changingBlock is called when a block is about to change, come or go.
func (s *stream) changingBlock(master streamID) {
	if o := s.image; o != nil && o.blocks.before(master) && o.running() {
		o.takeBlock(s, master, &o.image.early)
	}
}

func (o *objectImage) takeBlock(s *stream, master streamID, rows *ImageRows) {
	b := s.blocks.find(master)
	if b == nil {
		rows.remove(o.blockKey(master))
		return
	}
	head := rows.begin(RowPut, o.blockKey(master))
	rows.data = appendBlock(rows.data, *b)
	rows.end(head)
}

// changing is called when a pending entry is about to change, come or go.
func (g *streamGroup) changing(id streamID) {
	if o := g.image; o != nil && g.marks.before(id) && o.running() {
		o.takePending(g, id, &o.image.early)
	}
}

func (g *streamGroup) lastPending() streamID {
	last, _, _ := g.pending.last()
	return last
}

func (o *objectImage) takePending(g *streamGroup, id streamID, rows *ImageRows) {
	p := g.pending.find(id)
	if p == nil {
		rows.remove(o.pendingKey(g, id))
		return
	}
	head := rows.begin(RowPut, o.pendingKey(g, id))
	rows.data = appendPending(rows.data, p)
	rows.end(head)
}

// endsGroup is called when a group is about to be taken out.
func (s *stream) endsGroup(g *streamGroup) {
	if s.image != nil && g.number != 0 {
		s.image.ended = append(s.image.ended, g.number)
	}
}

// blocksWork takes the blocks of a stream.
type blocksWork struct {
	o      *objectImage
	stream *stream
}

func (w *blocksWork) next(_ *imaging, rows *ImageRows) bool {
	row, _, ok := w.o.blocks.take(w.stream.blocks.ceil)
	if ok {
		w.o.takeBlock(w.stream, row, rows)
	}
	return ok
}

// groupsWork takes the pending entries of the groups of a stream.
type groupsWork struct {
	o      *objectImage
	groups []*streamGroup
	ended  []uint32
}

func (w *groupsWork) next(_ *imaging, rows *ImageRows) bool {
	if n := len(w.ended); n > 0 {
		from := rowKey{space: spaceObjects, number: w.o.object, part: partPending, group: w.ended[n-1]}
		end := from
		end.group++
		rows.removeRange(from, end)
		w.ended = w.ended[:n-1]
		return true
	}
	if len(w.groups) == 0 {
		return false
	}
	g := w.groups[0]
	if row, _, ok := g.marks.take(g.pending.ceil); ok {
		w.o.takePending(g, row, rows)
	} else {
		w.groups = w.groups[1:]
	}
	return true
}

// ceil returns the first ID at or behind one that is there.
func (t *idTree[V]) ceil(id streamID) (found streamID, ok bool) {
	t.ascend(id, func(at streamID, _ *V) bool {
		found, ok = at, true
		return false
	})
	return found, ok
}

func appendBlock(b []byte, block *streamBlock) []byte {
	b = appendRowID(b, block.master)
	b = appendRowID(b, block.last)
	b = binary.AppendUvarint(b, uint64(block.live))
	b = binary.AppendUvarint(b, uint64(block.deleted))
	b = binary.AppendUvarint(b, uint64(block.fields))
	b = binary.AppendUvarint(b, uint64(block.head))
	b = binary.AppendUvarint(b, uint64(block.changed))
	return appendRowText(b, block.data)
}

func (r *rowReader) block() *streamBlock {
	b := &streamBlock{master: r.id(), last: r.id()}
	b.live, b.deleted, b.fields, b.head = int(r.uint()), int(r.uint()), int(r.uint()), int(r.uint())
	b.changed = smr.LSN(r.uint())
	b.data = append([]byte(nil), r.text()...)
	return b
}

func appendPending(b []byte, p *pendingEntry) []byte {
	b = binary.AppendVarint(b, p.delivered)
	b = binary.AppendVarint(b, p.deliveries)
	return binary.AppendUvarint(b, uint64(p.consumer))
}

func (r *rowReader) pending() pendingEntry {
	return pendingEntry{delivered: r.int(), deliveries: r.int(), consumer: uint32(r.uint())}
}

// appendStreamHead appends what is small in a stream, but its groups.
func appendStreamHead(b []byte, s *stream) []byte {
	b = binary.AppendUvarint(b, s.length)
	b = appendRowID(b, s.first)
	b = appendRowID(b, s.last)
	b = appendRowID(b, s.maxDeleted)
	return binary.AppendUvarint(b, s.added)
}

func (r *rowReader) streamHead() *stream {
	return &stream{length: r.uint(), first: r.id(), last: r.id(), maxDeleted: r.id(), added: r.uint()}
}

// appendShape appends the groups, without what is pending.
func (s *stream) appendShape(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(s.groups)))
	for _, g := range s.groups {
		b = appendRowText(b, g.name)
		b = binary.AppendUvarint(b, uint64(g.number))
		b = appendRowID(b, g.last)
		b = binary.AppendVarint(b, g.read)
		b = binary.AppendUvarint(b, uint64(len(g.numbered)))
		b = binary.AppendUvarint(b, uint64(len(g.consumers)))
		for _, c := range g.consumers {
			b = appendRowText(b, c.name)
			b = binary.AppendUvarint(b, uint64(c.number))
			b = binary.AppendVarint(b, c.seen)
			b = binary.AppendVarint(b, c.active)
		}
	}
	return b
}

// groups reads what appendShape wrote.
func (r *rowReader) groups(s *stream) {
	for range r.count(6) {
		g := &streamGroup{name: string(r.text()), number: uint32(r.uint()), last: r.id(), read: r.int()}
		numbers := r.uint()
		consumers := r.count(4)
		if numbers > 1<<24+16*uint64(consumers) {
			r.fail()
			return
		}
		g.numbered = make([]*streamConsumer, numbers)
		for range consumers {
			c := &streamConsumer{name: string(r.text()), number: uint32(r.uint()), seen: r.int(), active: r.int()}
			if uint64(c.number) >= numbers || g.numbered[c.number] != nil {
				r.fail()
				return
			}
			g.numbered[c.number] = c
			g.consumers = append(g.consumers, c)
		}
		s.groups = append(s.groups, g)
	}
}

// restore puts a pending entry that was read into its group; false if its consumer is not there.
func (g *streamGroup) restore(id streamID, p pendingEntry) bool {
	if uint64(p.consumer) >= uint64(len(g.numbered)) || g.numbered[p.consumer] == nil {
		return false
	}
	g.pending.set(id, p)
	g.numbered[p.consumer].pending.set(id, struct{}{})
	return true
}

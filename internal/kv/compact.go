package kv

import (
	"lockstep/internal/keyhash"
	"lockstep/internal/view"
)

// Places that are free wait for a tenant of the same kind. Where more than a quarter of a storage waits, because many keys went or
// because values have other sizes than they had, what the sparsest slabs hold is moved to others, so that they go.
//
// It is done in runs over the entries, a few of them with each request, before it: nobody has a pointer to an entry then. A run clears slabs of up to
// an eighth of the storage, and the next one follows while more than a quarter is free. So an entry takes another place and another
// number, and no one sees it: neither order nor ids depend on them.

const (
	// wasteShare: one byte in so many may be of a place that is free.
	wasteShare = 4
	// clearedShare: a run clears places of one byte in so many.
	clearedShare = 8
	// compactEach is how many entries are looked at before each request, and compactForEach how many more for each place that was
	// released: who frees much has more moved.
	compactEach    = 32
	compactForEach = 32
	// barrenShare: after a run that has brought less than one byte in so many there is no other until that much more is free.
	barrenShare = 128
)

// compaction is a run over the entries of a storage.
type compaction struct {
	running bool
	next    uint64 // id of the entry to go on with
	budget  int64  // bytes that may still be cleared
	before  int64  // waste when the run began
	barren  int64  // waste that a run could not help; 0: none
	cleared []clearedSlab
}

type clearedSlab struct {
	of     *pool
	slab   *slab
	number uint32
}

func (s *storage) bytes() int64 { return s.nodes.bytes + s.texts.bytes + s.objects.bytes }
func (s *storage) waste() int64 { return s.nodes.waste + s.texts.waste + s.objects.waste }

// wasteful reports whether the storage has more free places than it should.
func (s *storage) wasteful() bool {
	waste := s.waste()
	return waste > s.leaving.least && waste > s.bytes()/wasteShare && waste > s.compact.barren
}

// settle begins a request, or what stands between two: what the last one let go is released, and entries are moved where there is reason to. No
// entry, key or value that was met before may be used.
func (m *Machine) settle() {
	if len(m.leaving.places) > 0 || m.leaving.wasteful {
		m.tidy(compactEach + compactForEach*len(m.leaving.places))
	}
}

// tidy is settle where there is something to do: it looks at so many entries.
func (m *Machine) tidy(looks int) {
	m.leaving.release()
	if !m.leaving.wasteful {
		return
	}
	m.leaving.wasteful = false
	for _, d := range &m.databases {
		if s := d.keys.storage; s != nil && (s.compact.running || s.wasteful()) {
			looks = d.compact(looks)
			m.leaving.wasteful = m.leaving.wasteful || s.compact.running || s.wasteful()
		}
	}
}

// compact looks at some entries, and returns how many are left to look at.
func (d *database) compact(looks int) int {
	t, run := &d.keys, &d.keys.storage.compact
	if !run.running {
		run.running, run.next = true, 0
		run.budget, run.before = t.storage.bytes()/clearedShare, t.storage.waste()
	}
	chunk, i, more := t.seek(run.next)
	for ; more && chunk < len(t.order); chunk, i = chunk+1, 0 {
		for ; i < len(t.order[chunk]); i++ {
			if looks == 0 {
				run.next = t.storage.entry(t.order[chunk][i]).id
				return 0
			}
			looks--
			t.order[chunk][i] = d.rehouse(t.order[chunk][i])
		}
	}
	t.storage.endRun()
	return looks
}

// endRun gives back what could not be cleared.
func (s *storage) endRun() {
	run := &s.compact
	for _, c := range run.cleared {
		if c.of.slabs[c.number] != c.slab {
			continue // it is gone
		}
		if c.slab.clearing = false; c.slab.used < c.slab.places {
			c.of.list(c.number)
		}
	}
	for _, of := range []*pool{&s.nodes, &s.texts, &s.objects} {
		of.dropUnused()
	}
	if len(s.nodes.slabs) == len(s.nodes.spare)+1 { // none is left
		clear(s.entries)
	}
	barren := int64(0)
	if left := s.bytes() / barrenShare; s.waste() > run.before-left {
		barren = s.waste() + left
	}
	*run = compaction{barren: barren}
}

// shallClear reports whether what a slab holds shall go elsewhere.
func (s *storage) shallClear(of *pool, number uint32) bool {
	at := of.slabs[number]
	if at.clearing {
		return true
	}
	on, run := of.shelf(at.kind), &s.compact
	switch {
	case run.budget <= 0 || at.kind == kindLargeText:
		return false
	case (on.given-on.used)*clearedShare < on.given: // the shelf is dense
		return false
	case uint64(at.used)*uint64(on.given) > uint64(at.given)*uint64(on.used): // the slab is denser than others
		return false
	}
	of.unlist(number)
	at.clearing = true
	run.budget -= int64(at.used) * int64(at.size)
	run.cleared = append(run.cleared, clearedSlab{of, at, number})
	return true
}

// rehouse moves an entry and what it holds out of slabs that are cleared, and returns the number that it has then.
func (d *database) rehouse(number uint32) uint32 {
	s := d.keys.storage
	e := s.entry(number)
	s.rehouseText(&e.name)
	switch v := &e.value; {
	case v.held <= heldOwn:
		s.rehouseText(&v.box)
	case v.held&heldCold == 0:
		s.rehouseObject(v)
	}
	if !s.shallClear(&s.nodes, number>>placeBits) {
		return number
	}
	twin, place := s.addEntry()
	*place = *e
	if d.keys.index != nil {
		d.keys.index.renumber(keyhash.String(e.key()), number, twin)
	}
	if e.value.due != 0 {
		d.due.get(int(e.value.due - 1)).entry = view.Hide(place)
	}
	s.free(kindEntry, number>>placeBits, number&(maxPlaces-1), s.leaving.spoil)
	return twin
}

func (s *storage) rehouseText(text *view.Box) {
	number := text.Place()
	if number == 0 || !s.shallClear(&s.texts, number) {
		return
	}
	from := s.texts.slabs[number]
	to, other, i := s.texts.take(from.kind)
	copy(to.text(i), text.Bytes())
	place := uint32(text.OffsetIn(from.texts)) / from.size
	*text = view.BoxBytes(to.text(i)[:text.Len()], other)
	s.free(from.kind, number, place, s.leaving.spoil)
}

func (s *storage) rehouseObject(v *value) {
	if number := v.box.Place() >> placeBits; s.shallClear(&s.objects, number) {
		before := *v
		to, other, i := s.objects.take(kindObject)
		to.objects[i] = v.object()
		v.setObject(to.objects[i], other<<placeBits|i)
		s.free(kindObject, number, before.box.Place()&(maxPlaces-1), s.leaving.spoil)
	}
}

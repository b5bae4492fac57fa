package kv

import (
	"slices"
	"strings"
)

// unknownCount stands for a number of entries read that nobody can tell.
const unknownCount = -1

// streamGroup is a consumer group: how far the stream was delivered, what is pending, and its consumers.
//
// Invariants: every pending entry belongs to a consumer, and the pending entries of the consumers are together those of
// the group; consumers are sorted by name; numbered[c.number] is c for each of them and nil elsewhere.
type streamGroup struct {
	name      string
	last      streamID // the highest that was delivered
	read      int64    // entries read up to last, or unknownCount
	pending   idTree[pendingEntry]
	consumers []*streamConsumer
	numbered  []*streamConsumer

	// What images know of it; no part of the state.
	image  *objectImage // of the stream; nil: the group was in no image of a large stream
	number uint32       // in the rows of the stream
	marks  idMarks      // rows are pending entries
}

// pendingEntry is an entry that was delivered and not acknowledged. It holds no pointer, so that the garbage collector
// passes by.
type pendingEntry struct {
	delivered  int64  // when, the last time, in milliseconds since 1970 UTC
	deliveries int64  // how often
	consumer   uint32 // its number
}

// streamConsumer is a consumer of a group.
type streamConsumer struct {
	name    string
	number  uint32
	seen    int64 // when it last asked for something, in milliseconds since 1970 UTC
	active  int64 // when it last got something; -1: never
	pending idTree[struct{}]
}

func byGroupName(g *streamGroup, name string) int { return strings.Compare(g.name, name) }

// group returns the group of that name, nil if there is none.
func (s *stream) group(name []byte) *streamGroup {
	if i, found := slices.BinarySearchFunc(s.groups, string(name), byGroupName); found {
		return s.groups[i]
	}
	return nil
}

// addGroup makes a group; nil if there is one of that name.
func (s *stream) addGroup(name string, last streamID, read int64) *streamGroup {
	i, found := slices.BinarySearchFunc(s.groups, name, byGroupName)
	if found {
		return nil
	}
	g := &streamGroup{name: name, last: last, read: read}
	s.groups = slices.Insert(s.groups, i, g)
	return g
}

// dropGroup takes a group out and reports whether it was there.
func (s *stream) dropGroup(name []byte) bool {
	i, found := slices.BinarySearchFunc(s.groups, string(name), byGroupName)
	if found {
		s.endsGroup(s.groups[i])
		s.groups = slices.Delete(s.groups, i, i+1)
	}
	return found
}

func byConsumerName(c *streamConsumer, name string) int { return strings.Compare(c.name, name) }

// consumer returns the consumer of that name, nil if there is none.
func (g *streamGroup) consumer(name []byte) *streamConsumer {
	if i, found := slices.BinarySearchFunc(g.consumers, string(name), byConsumerName); found {
		return g.consumers[i]
	}
	return nil
}

// addConsumer makes a consumer that was seen at a time and got nothing yet; nil if there is one of that name.
func (g *streamGroup) addConsumer(name string, seen int64) *streamConsumer {
	i, found := slices.BinarySearchFunc(g.consumers, name, byConsumerName)
	if found {
		return nil
	}
	c := &streamConsumer{name: name, seen: seen, active: -1}
	number := len(g.numbered)
	if len(g.consumers) < len(g.numbered) {
		number = slices.Index(g.numbered, nil)
		g.numbered[number] = c
	} else {
		g.numbered = append(g.numbered, c)
	}
	c.number = uint32(number)
	g.consumers = slices.Insert(g.consumers, i, c)
	return c
}

// dropConsumer takes a consumer out, with what is pending for it.
func (g *streamGroup) dropConsumer(c *streamConsumer) {
	c.pending.ascend(streamID{}, func(id streamID, _ *struct{}) bool {
		g.changing(id)
		g.pending.remove(id)
		g.marks.gone(id)
		return true
	})
	g.numbered[c.number] = nil
	i, _ := slices.BinarySearchFunc(g.consumers, c.name, byConsumerName)
	g.consumers = slices.Delete(g.consumers, i, i+1)
}

// owner returns the consumer that a pending entry belongs to.
func (g *streamGroup) owner(p *pendingEntry) *streamConsumer { return g.numbered[p.consumer] }

// acknowledge takes an entry out of what is pending and reports whether it was there.
func (g *streamGroup) acknowledge(id streamID) bool {
	p := g.pending.find(id)
	if p == nil {
		return false
	}
	g.changing(id)
	g.owner(p).pending.remove(id)
	g.pending.remove(id)
	g.marks.gone(id)
	return true
}

// assign makes an entry pending for a consumer, as it is given; it is taken from the one it belonged to.
func (g *streamGroup) assign(id streamID, c *streamConsumer, p pendingEntry) {
	p.consumer = c.number
	g.changing(id)
	before := g.pending.find(id)
	if before == nil {
		g.pending.set(id, p)
		c.pending.set(id, struct{}{})
		return
	}
	if owner := g.owner(before); owner != c {
		owner.pending.remove(id)
		c.pending.set(id, struct{}{})
	}
	*before = p
}

// deliver notes that the group was given an entry of the stream that it had not been given before.
func (g *streamGroup) deliver(s *stream, id streamID) {
	if g.read != unknownCount && !s.hasGap(id) {
		g.read++
	} else if s.added > 0 {
		g.read = unknownCount
		if n, ok := s.readCount(id); ok {
			g.read = n
		}
	}
	g.last = id
}

// lag returns how many entries the group has still to be given; false if nobody can tell.
func (g *streamGroup) lag(s *stream) (int64, bool) {
	if s.added == 0 {
		return 0, true
	}
	if g.read != unknownCount && !s.hasGap(g.last) {
		return int64(s.added) - g.read, true
	}
	n, ok := s.readCount(g.last)
	return int64(s.added) - n, ok
}

func itself[V any](v V) V { return v }

func (g *streamGroup) clone() *streamGroup {
	twin := *g
	twin.image, twin.number, twin.marks = nil, 0, idMarks{}
	twin.pending = g.pending.clone(itself[pendingEntry])
	twin.consumers = make([]*streamConsumer, len(g.consumers))
	twin.numbered = make([]*streamConsumer, len(g.numbered))
	for i, c := range g.consumers {
		copied := *c
		copied.pending = c.pending.clone(itself[struct{}])
		twin.consumers[i], twin.numbered[c.number] = &copied, &copied
	}
	return &twin
}

func (g *streamGroup) digest(d *digester) {
	d.text(g.name)
	d.streamID(g.last)
	d.number(uint64(g.read))
	d.number(uint64(len(g.consumers)))
	for _, c := range g.consumers {
		d.text(c.name)
		d.number(uint64(c.seen))
		d.number(uint64(c.active))
		d.number(uint64(c.pending.size))
		c.pending.ascend(streamID{}, func(id streamID, _ *struct{}) bool {
			p := g.pending.find(id)
			d.streamID(id)
			d.number(uint64(p.delivered))
			d.number(uint64(p.deliveries))
			return true
		})
	}
}

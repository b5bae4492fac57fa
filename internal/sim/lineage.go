package sim

import (
	"bytes"
	"slices"

	"lockstep/internal/failover"
	"lockstep/log"
	"lockstep/smr"

	"github.com/cespare/xxhash/v2"
)

// lineage is the stream of the group from one forced recovery to the next, and all that its nodes have come to by it. Those
// that follow each other share what lies below cut: the rest of the former one was given up, and stays what the replicas that were
// left out hold.
type lineage struct {
	after smr.Epoch // the epoch that was forced: all above it belong here
	cut   smr.LSN   // below it this one is as the one before
	begun []byte    // the log of its first master, up to behind the first epoch start

	// committed is the prefix of the log that somebody has called committed. It only grows.
	committed []byte
	sessions  smr.SessionTable
	lists     [][]uint64 // by key: ids in the order of execution
	floors    []int      // by key: so many elements are known to have been there when somebody was answered
	results   []uint64   // hashes of replies, by number of the request in the log
	digests   map[smr.LSN][32]byte
	model     model

	// Only where a stream may be given up: the LSN of each result, and what the model was told, so that another one can be told so.
	resultAt []smr.LSN
	journal  []told
}

// told is a reply that the model took in.
type told struct {
	lsn   smr.LSN
	op    *operation
	reply []byte
}

func newLineage(w *world) *lineage {
	return &lineage{lists: make([][]uint64, len(listKeys)), floors: make([]int, len(listKeys)), digests: make(map[smr.LSN][32]byte), model: model{w: w}}
}

func (s *lineage) end() smr.LSN { return smr.LSN(len(s.committed)) }

// of returns the lineage that an epoch belongs to.
func (c *checker) of(epoch smr.Epoch) *lineage {
	for i := len(c.older) - 1; i >= 0 && epoch <= c.after; i-- {
		if epoch > c.older[i].after || i == 0 {
			return c.older[i]
		}
	}
	return c.lineage
}

// lineageOf returns the lineage of a log, or an image, whose last byte is of an epoch. By that alone it is not told: the first master
// of a lineage may have had more than was committed before. begins tells whether what a lineage began with begins with it.
func (c *checker) lineageOf(epoch smr.Epoch, end smr.LSN, begins func(log []byte) bool) *lineage {
	if len(c.older) > 0 && epoch <= c.after && int(end) <= len(c.begun) && begins(c.begun[:end]) {
		return c.lineage
	}
	return c.of(epoch)
}

// ofBase returns the lineage of an image.
func (c *checker) ofBase(encoded []byte) *lineage {
	base, err := log.ParseBase(encoded)
	if err != nil {
		c.w.violate("a base does not survive its encoding", "%v", err)
	}
	return c.lineageOf(base.Position().Epoch, base.LSN, func(log []byte) bool { return xxhash.Sum64(log) == base.Digest() })
}

// isOlder reports whether s was given up for t.
func (c *checker) isOlder(s, t *lineage) bool { return s.after < t.after }

// forced is called when a forced recovery is on record.
func (c *checker) forced(recovery *failover.Recovery) {
	if recovery.Epoch <= c.forcedEpoch {
		return // by another confmaster
	}
	if c.forcedEpoch <= c.after {
		c.announced = recovery.From
	}
	c.forcedEpoch, c.announced = recovery.Epoch, min(c.announced, recovery.From)
	c.w.hit(probeForced)
}

// fork begins a new lineage when the first master of epochs above the one that was forced leads: with what it has in its log.
func (c *checker) fork(r *replicator) {
	w, old := c.w, c.lineage
	common := 0
	for common < len(old.committed) && common < len(r.shadow) && old.committed[common] == r.shadow[common] {
		common++
	}
	s := newLineage(w)
	s.after, s.begun = c.forcedEpoch, bytes.Clone(r.shadow)
	for _, op := range w.work.all {
		op.executed, op.taken = false, false
	}
	c.older = append(c.older, old)
	c.lineage = s
	for rest := old.committed; len(rest) > 0; {
		f, err := smr.DecodeFrame(rest, s.end())
		if err != nil {
			w.violate("committed bytes are no frames", "%v", err)
		}
		if int(f.End()) > common {
			break
		}
		c.commit(rest[:f.Size()])
		rest = rest[f.Size():]
	}
	s.cut = s.end()
	if s.cut < old.end() {
		w.hit(probeForcedLoss)
		if s.cut < c.announced {
			w.violate("more is lost than was announced", "%s leads on from %d, committed was %d; what may be lost was said to begin at %d",
				r.h.id, s.cut, old.end(), c.announced)
		}
	}
	c.inherit(old)
	if w.trace != nil {
		w.say("----", "the stream goes on from %d in epoch %d, committed was %d", s.cut, r.status.Epoch, old.end())
	}
}

// inherit takes over from the lineage before what lies below the cut.
func (c *checker) inherit(old *lineage) {
	s := c.lineage
	results, _ := slices.BinarySearch(old.resultAt, s.cut)
	s.results, s.resultAt = slices.Clone(old.results[:results]), slices.Clone(old.resultAt[:results])
	for lsn, digest := range old.digests {
		if lsn <= s.cut {
			s.digests[lsn] = digest
		}
	}
	for _, t := range old.journal {
		if t.lsn < s.cut {
			s.journal = append(s.journal, t)
			s.model.done(t.op, t.reply)
		}
	}
	for _, lsn := range old.model.messages {
		if lsn < s.cut {
			s.model.messages = append(s.model.messages, lsn)
		}
	}
	for key, list := range s.lists {
		s.floors[key] = min(old.floors[key], len(list))
	}
	for _, op := range c.w.work.all {
		if op.key >= 0 && !op.executed {
			op.floor = min(op.floor, len(s.lists[op.key])) // what it was to follow may be lost
		}
	}
}

// moveOn moves a KV node to the lineage of the frame that it executes next: of what several share, the newest.
func (c *checker) moveOn(k *kvnode, f smr.Frame, raw []byte) {
	matches := func(s *lineage) bool { return f.End() <= s.end() && bytes.Equal(raw, s.committed[f.LSN:f.End()]) }
	if matches(c.lineage) {
		if k.lineage != c.lineage && k.applied > c.sharedEnd(k.lineage, c.lineage) {
			c.w.violate("a state is made of two streams", "%s executed up to %d of the stream that was given up at %d, and goes on with the one after epoch %d",
				k.h.id, k.applied, c.sharedEnd(k.lineage, c.lineage), c.after)
		}
		k.lineage = c.lineage
		return
	}
	for i := len(c.older) - 1; i >= 0 && k.lineage == c.lineage; i-- {
		if s := c.older[i]; k.applied <= c.sharedEnd(s, c.lineage) && matches(s) {
			k.lineage = s
		}
	}
}

// takesImage moves a KV node to the lineage of an image that it loads.
func (c *checker) takesImage(k *kvnode, i *image) {
	if len(c.older) == 0 {
		k.lineage = c.lineage
		return
	}
	next := c.ofBase(i.base)
	if k.lineage != nil && c.isOlder(next, k.lineage) && k.applied > c.sharedEnd(next, k.lineage) {
		c.w.violate("an image of a stream that was given up is loaded", "%s: image at %d of the stream after epoch %d over %d of that after epoch %d", k.h.id,
			i.lsn, next.after, k.applied, k.lineage.after)
	}
	k.lineage = next
}

// sharedEnd returns the end of what two lineages share.
func (c *checker) sharedEnd(older, newer *lineage) smr.LSN {
	end := newer.cut
	for i := len(c.older) - 1; i >= 0; i-- {
		if s := c.older[i]; s.after > older.after && s.after <= newer.after {
			end = min(end, s.cut)
		}
	}
	return end
}

// learn notes for a later lineage what the model was told at an LSN.
func (s *lineage) learn(w *world, lsn smr.LSN, op *operation, reply []byte) {
	if w.o.mayLose() && op != nil {
		s.journal = append(s.journal, told{lsn, op, bytes.Clone(reply)})
	}
}

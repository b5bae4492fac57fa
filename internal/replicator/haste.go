package replicator

import (
	"sync/atomic"
	"time"

	"lockstep/smr"
	"lockstep/smr/replica"
)

const (
	// leisure is how long what a slave need not know at once may wait, so that more of it goes together; leisureBeside how long what the KV node beside a slave
	// need not know may wait in turn. Twice as much of either saves nothing more (docs/performance-notes.md).
	leisure       = 5 * time.Millisecond
	leisureBeside = 2 * time.Millisecond
	// leisureBytes is how much of the log may wait so for one slave.
	leisureBytes = 256 << 10
	// hasteTicks is for how long a slave is told at once after somebody asked for what depends on it.
	hasteTicks = 10
	// raceTicks is how often all slaves are sent the next frames at once, to learn who is fastest.
	raceTicks = 10
)

// haste decides which slaves are sent what there is for them at once, and for whom it may wait for a moment. Every write waits for Copies-1
// slaves: the frames go at once to those that were first to acknowledge, and to the others with what came meanwhile, as one message,
// one write to their disk and one sync. If one of the fast stalls, the others have the frames after no more than leisure, and the
// first of them takes its place. That the commit LSN has moved is told with the next frames.
//
// Nothing here bears on safety: a slave may be sent anything at any time. Where somebody waits for a certain slave it is told at once: if its KV
// node has asked for something lately, or anybody for a number of copies.
//
// Beside a slave the KV node has some leisure, too: see tellKV.
//
// It belongs to who has the loop's turn, but for late.
type haste struct {
	tick    uint64
	asked   map[smr.NodeID]uint64 // the tick after which the KV node of this node last asked for something
	counted uint64                // the same for a number of copies
	raced   uint64                // the tick of the last race
	shipped smr.LSN               // where the log ended when ship looked last

	beaten bool        // the master of this slave has said something in this round
	now    bool        // in this round all are told all
	waits  bool        // somebody waits to be told, and timer runs
	timer  *time.Timer // nil: not yet used
	late   atomic.Bool // it has fired

	status replica.Status // of who leads, as of the last round
}

// noteAsked notes that the KV node of node waits for something.
func (h *haste) noteAsked(node smr.NodeID) { h.asked[node] = h.tick + 1 }

// noteCounted notes that somebody waits for a number of copies.
func (h *haste) noteCounted() { h.counted = h.tick + 1 }

// lately reports whether a note was made in the last ticks.
func (h *haste) lately(noted uint64) bool { return noted > 0 && h.tick-(noted-1) < hasteTicks }

// stop ends what may call the loop.
func (h *haste) stop() {
	if h.timer != nil {
		h.timer.Stop()
	}
}

// choose marks those links as fast that a write waits for: so many as acknowledgements are needed, those first that are ahead, and
// among equals those that were fast before.
func (h *haste) choose(links map[replica.ConnID]*link) {
	s := &h.status
	needed := max(s.Config.Copies, s.Base.Copies) - 1
	for _, link := range links { // each is judged alone: the order does not matter
		link.ahead = 0
		for _, p := range s.Peers {
			if p.Member.Node == link.peer && p.InConfig && p.Streams {
				link.ahead = p.Durable
			}
		}
	}
	for _, link := range links {
		link.rank = 0
		for _, other := range links {
			if other != link && other.beats(link) {
				link.rank++
			}
		}
	}
	for _, link := range links {
		link.fast = link.ahead > 0 && link.rank < needed || s.Config.Epoch != s.Base.Epoch
	}
}

// beats reports whether a write rather waits for l than for the other one.
func (l *link) beats(other *link) bool {
	switch {
	case l.ahead != other.ahead:
		return l.ahead > other.ahead
	case l.fast != other.fast:
		return l.fast
	default:
		return l.id < other.id
	}
}

// ship sends all links what there is for them, at once or within leisure.
func (l *loop) ship() {
	h := &l.haste
	h.now = h.late.Swap(false)
	if h.now {
		h.waits = false
	}
	end := l.node.stream.reach()
	if end > h.shipped && h.tick-h.raced >= raceTicks {
		h.raced, h.now = h.tick, true
	}
	h.shipped = end
	all := h.now || !h.status.Leading || h.lately(h.counted)
	waits := false
	for _, link := range l.links { // each writes what it has: the order does not matter
		asked := h.lately(h.asked[link.peer])
		link.asked.Store(asked)
		switch has := link.has(end); {
		case all || has.urgent || has.frames > leisureBytes || link.fast && has.frames > 0 || asked:
			link.say()
		case has.frames > 0 || has.messages:
			waits = true
		}
	}
	if waits {
		l.later(leisure)
	}
}

// later has all be told what waits for that. Who leads lets slaves wait, and the others the KV node beside, so that there is one such time at once.
func (l *loop) later(leisure time.Duration) {
	h := &l.haste
	if h.waits {
		return
	}
	h.waits = true
	if h.timer == nil {
		h.timer = time.AfterFunc(leisure, func() {
			h.late.Store(true)
			l.step()
		})
	} else {
		h.timer.Reset(leisure)
	}
}

// tellKV tells the KV node beside what has changed. Beside a slave what it may execute can wait, until the master says of a sudden that the commit LSN has
// moved: it does so, other than with the next frames, where somebody waits.
func (l *loop) tellKV(status *replica.Status) {
	h := &l.haste
	if h.now {
		l.node.local.remind()
	}
	if l.node.local.show(l.node.statusForKV(status), !status.Leading && !h.now && !h.beaten) {
		l.later(leisureBeside)
	}
	h.beaten = false
}

package kvnode

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// gatherTime is how long writes wait for others at most.
	gatherTime = time.Millisecond
	// gatherEnough is how many writes wait for no others.
	gatherEnough = 128
	// gatherTrust is how many times in a row those who were answered must have come back in time before any is waited for.
	gatherTrust = 2
)

// gathering decides when the writes of the event loops are sent to the log. What a frame costs, on three nodes, is the same for one request as for a
// hundred: messages, wake-ups, three syncs. So while a frame is on its way the requests that come wait for it to be committed; and behind
// that, for the clients that it answered, if these are such that send their next request at once. Otherwise the clients of a busy node fall into
// two groups that take turns, with twice as many frames. A request that comes alone never waits, nor do many.
//
// A flight is what one call of flush sent. A connection has one run of writes in the log at a time.
type gathering struct {
	now   func() time.Duration
	flush func()      // sends what is waiting; called without mu
	reads atomic.Bool // questions for an LSN to read at wait for flush, too: never for long

	mu      sync.Mutex
	flight  uint64 // number of the next flight; from 1
	waiting int    // connections whose writes go with it
	writes  int    // theirs
	since   time.Duration
	flying  int // connections whose writes are on their way

	// Those that the newest flight to be answered has answered.
	answered uint64        // its number
	last     time.Duration // when the last of them was
	all      int           // how many were answered so far
	expected int           // how many of them have not come back
	trust    int           // how many flights in a row nearly all came back

	timer *time.Timer // runs while held; nil: never used
	armed bool
}

// place is what a gathering knows of a connection.
type place struct {
	flight   uint64 // that its writes go with, or went with
	writes   int    // how many they are
	expected uint64 // the flight that answered it last, if it has not come back since
}

func newGathering(now func() time.Duration, flush func()) *gathering {
	return &gathering{now: now, flush: flush, flight: 1}
}

// submitted notes that the writes of a connection wait for the next flight.
func (g *gathering) submitted(p *place, writes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting == 0 {
		g.since = g.now()
	}
	p.flight, p.writes = g.flight, writes
	g.waiting++
	g.writes += writes
}

// withdrawn takes submitted back: the connection goes its own way.
func (g *gathering) withdrawn(p *place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leave(p)
}

// leave takes a connection out of the flight that it waits for, or is on. mu is held.
func (g *gathering) leave(p *place) {
	if p.flight != g.flight {
		g.flying--
		return
	}
	g.waiting-- // refused, or sent by others
	g.writes -= p.writes
}

// holds reports whether something waits.
func (g *gathering) holds() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting > 0
}

// finished notes that a connection has the outcome of its writes, and is about to be answered.
func (g *gathering) finished(p *place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leave(p)
	if p.flight != g.answered {
		g.judge()
		g.answered, g.all, g.expected = p.flight, 0, 0
	}
	g.all++
	g.expected++
	g.last = g.now()
	p.expected = p.flight
}

// judge looks at how many came back of those that the newest flight answered. mu is held.
func (g *gathering) judge() {
	if g.expected*8 <= g.all {
		g.trust = min(g.trust+1, gatherTrust)
	} else {
		g.trust = 0
	}
}

// returned notes that a connection has sent something, or is gone.
func (g *gathering) returned(p *place) {
	if p.expected == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.expected == g.answered && g.now()-g.last < gatherTime {
		g.expected--
	}
	p.expected = 0
}

// consider flushes if nothing more is to be waited for. It is called behind everything that may have changed that.
func (g *gathering) consider() {
	if asked := g.reads.Swap(false); g.ready() || asked {
		g.flush()
	}
}

// ready reports whether what waits is to be sent, and begins another flight if so.
func (g *gathering) ready() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting == 0 {
		return false
	}
	now := g.now()
	if g.writes < gatherEnough && now-g.since < gatherTime && (g.flying > 0 || g.trust >= gatherTrust && g.expected*8 > g.waiting && now-g.last < gatherTime) {
		g.alarm(gatherTime - (now - g.since))
		return false
	}
	g.flying += g.waiting
	g.waiting, g.writes = 0, 0
	g.flight++
	return true
}

// alarm has consider called after a while. mu is held.
func (g *gathering) alarm(after time.Duration) {
	switch {
	case g.armed:
		return
	case g.timer == nil:
		g.timer = time.AfterFunc(after, g.ring)
	default:
		g.timer.Reset(after)
	}
	g.armed = true
}

func (g *gathering) ring() {
	g.mu.Lock()
	g.armed = false
	g.mu.Unlock()
	g.consider()
}

// stop ends the alarm.
func (g *gathering) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = true
	if g.timer != nil {
		g.timer.Stop()
	}
}

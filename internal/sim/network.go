package sim

import (
	"bytes"

	"lockstep/smr/wire"
)

// network connects places: hosts first, then configuration masters.
type network struct {
	w      *world
	places int
	// cut[from*places+to] is until when nothing passes, slow until when all is late by slowBy microseconds.
	cut, slow []int64
	slowBy    []int64
	lost      []bool // the place has no power: nobody answers
	scratch   []byte
	// Messages that cross as bytes: written here, read by reader.
	crossing bytes.Buffer
	reader   *wire.Reader
	arriving bytes.Reader // a part of a message, read by parts
	parts    *wire.Reader
}

func (n *network) init(w *world, places int) {
	n.w, n.places = w, places
	n.cut, n.slow, n.slowBy = make([]int64, places*places), make([]int64, places*places), make([]int64, places*places)
	n.lost = make([]bool, places)
}

func (n *network) isCut(from, to int) bool { return n.cut[from*n.places+to] > n.w.now }

// delay draws how long a message takes.
func (n *network) delay(from, to int) int64 {
	if from == to {
		return between(n.w.draw.network, 5, 60)
	}
	d := between(n.w.draw.network, n.w.o.DelayLow, n.w.o.DelayHigh)
	if at := from*n.places + to; n.slow[at] > n.w.now {
		d += n.slowBy[at]
	}
	return d
}

// mend ends all cuts and delays.
func (n *network) mend() {
	clear(n.cut)
	clear(n.slow)
}

// control carries a message that belongs to no connection of its own: it may be lost, repeated and late.
func (n *network) control(from, to int, arrive later) {
	draw, o := n.w.draw.control, &n.w.o
	copies := 1
	if !n.w.healing {
		if chance(draw, o.Lose) {
			copies--
		}
		if chance(draw, o.Repeat) {
			copies++
		}
	}
	for range copies {
		d := n.delay(from, to)
		if !n.w.healing && chance(draw, o.Late) {
			d += between(draw, 10*millisecond, 1500*millisecond)
			n.w.hit(probeLateControl)
		}
		if n.isCut(from, to) {
			continue
		}
		n.w.after(d, later(func() {
			if !n.lost[to] {
				arrive()
			}
		}), 1)
	}
}

// port is who serves one end of a connection.
type port interface {
	// hear takes the next message.
	hear(e *end, message any)
	// gone says that the connection has ended by the other side.
	gone(e *end)
}

// end is one side of a connection. Messages arrive in order, or not at all once one was lost.
type end struct {
	w     *world
	place int
	peer  *end
	port  port
	alive *bool // false once the process of this side is dead

	open   bool
	fin    bool // the other side has closed: behind the queue
	queue  []any
	sizes  []int
	head   int
	last   int64 // arrival of the last message in the queue
	bytes  int   // in the queue
	drain  actor // waits for room; belongs to the peer's side
	wanted bool
}

const (
	whatArrive = 10 + iota
	whatFin
)

// connect makes a connection. The ends get their ports from the caller.
func (n *network) connect(from, to int) (near, far *end) {
	near, far = &end{w: n.w, place: from, open: true}, &end{w: n.w, place: to, open: true}
	near.peer, far.peer = far, near
	return near, far
}

// send passes a message of about size bytes to the other side.
func (e *end) send(message any, size int) {
	far := e.peer
	if !e.open || e.fin {
		return
	}
	if e.w.o.Wire {
		message, size = e.w.net.recode(message)
	}
	far.queue = append(far.queue, message)
	far.sizes = append(far.sizes, size)
	far.bytes += size
	far.last = max(far.last, e.w.now+e.w.net.delay(e.place, far.place))
	e.w.at(far.last, far, whatArrive)
}

// part has the front of a message arrive, up to any byte, and then the end of the connection: that must be no message.
func (n *network) part(message any) {
	if n.w.draw.network.IntN(8) > 0 {
		return // that would be a connection that ended between two messages
	}
	n.scratch = wire.AppendMessage(n.scratch[:0], message)
	arrived := n.scratch[:n.w.draw.network.IntN(len(n.scratch))]
	n.arriving.Reset(arrived)
	if n.parts == nil {
		n.parts = wire.NewReader(&n.arriving, wire.StreamLimit)
	}
	n.parts.Reset(&n.arriving)
	decoded, err := n.parts.Next()
	if err == nil {
		n.w.violate("a part of a message was taken for one", "%T: %d of %d bytes: %+v", message, len(arrived), len(n.scratch), decoded)
	}
}

// full reports whether the sender has to wait, and notes who.
func (e *end) full(sender actor) bool {
	if e.peer.bytes < e.w.o.Window {
		return false
	}
	e.peer.drain, e.peer.wanted = sender, true
	return true
}

// recode sends a message through its encoding.
func (n *network) recode(message any) (any, int) {
	n.scratch = wire.AppendMessage(n.scratch[:0], message)
	if n.reader == nil {
		n.reader = wire.NewReader(&n.crossing, wire.StreamLimit)
	}
	n.crossing.Write(n.scratch)
	decoded, err := n.reader.Next()
	if err != nil {
		n.w.violate("a message does not survive its encoding", "%T %+v: %v", message, message, err)
	}
	return decoded, len(n.scratch)
}

func (e *end) fire(what uint64) {
	w := e.w
	if e.peer.place != e.place && w.net.isCut(e.peer.place, e.place) {
		// TCP sends again: after the cut everything arrives, in order, unless somebody has given up by then.
		retry := w.net.cut[e.peer.place*w.net.places+e.place] + w.net.delay(e.peer.place, e.place)
		e.last = max(e.last, retry)
		w.at(e.last, e, what)
		return
	}
	if what == whatFin {
		if e.open {
			e.fin, e.open = true, false
			if *e.alive {
				e.port.gone(e)
			}
		}
		return
	}
	if e.head >= len(e.queue) {
		return // lost with a reset
	}
	message, size := e.queue[e.head], e.sizes[e.head]
	e.queue[e.head] = nil
	e.head++
	e.bytes -= size
	if e.head == len(e.queue) {
		e.queue, e.sizes, e.head = e.queue[:0], e.sizes[:0], 0
	}
	if e.wanted && e.bytes < w.o.Window {
		e.wanted = false
		w.after(w.net.delay(e.place, e.peer.place), e.drain, whatPump)
	}
	switch {
	case w.net.lost[e.place]:
	case e.open && *e.alive:
		e.port.hear(e, message)
	case e.peer.open:
		// Nobody is there any more: the answer is a reset.
		w.after(w.net.delay(e.place, e.peer.place), e.peer, whatFin)
	}
}

// close ends the connection from this side. What this side has sent still arrives, or a part of it.
func (e *end) close() {
	if !e.open {
		return
	}
	e.open = false
	far := e.peer
	if chance(e.w.draw.network, e.w.o.Reset) && len(far.queue) > far.head {
		keep := far.head + e.w.draw.network.IntN(len(far.queue)-far.head)
		e.w.net.part(far.queue[keep])
		far.queue, far.sizes = far.queue[:keep], far.sizes[:keep]
		e.w.hit(probeBrokenMidway)
	}
	far.last = max(far.last, e.w.now+e.w.net.delay(e.place, far.place))
	e.w.at(far.last, far, whatFin)
}

// vanish ends this side without a word: its host has lost power.
func (e *end) vanish() {
	e.open = false
	e.queue, e.sizes, e.head = e.queue[:0], e.sizes[:0], 0
}

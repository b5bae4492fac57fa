package client

import (
	"bytes"
	"sync"
	"time"

	"lockstep/smr"
	"lockstep/smr/session"
)

const (
	// arenaSize is the size in bytes of the memory that gathers small payloads; larger ones get their own.
	arenaSize   = 256 << 10
	arenaAlone  = arenaSize / 4
	keptEntries = 1 << 14 // a longer list is not kept for reuse
)

// submission is one request on its way to the session loop.
type submission struct {
	waiter  Waiter
	payload []byte
	slot    uint16
	flags   uint8
}

type readCall func(lsn smr.LSN, err error)

type countCall struct {
	lsn  smr.LSN
	done func(copies int, err error)
}

// event is what a connection tells the session loop. link is set with session.Connected.
type event struct {
	input session.Input
	link  *link
}

// work is what the session loop takes out of the inbox at once.
type work struct {
	submissions []submission
	arena       []byte // the last of those that payloads lie in
	reads       []readCall
	counts      []countCall
	events      []event
	closed      bool
}

// inbox is where everybody leaves work for the session loop.
type inbox struct {
	knock func() // has the session loop look

	maxPending, maxBytes int
	refuseWhenFull       bool
	timeout              time.Duration

	mu   sync.Mutex
	room sync.Cond // pending has shrunk, or refusing or closed is set, or blocked callers may be late
	work
	spare  work // memory of the work done before
	queued int  // bytes of the submissions in here
	// pending and bytes count the requests in here and in the session; never less than there are.
	pending, bytes int
	blocked        int // callers that wait for room
	// refusing: what is submitted would be refused by the session.
	refusing bool
	// knocked: the session loop knows that there are submissions or questions.
	knocked bool
}

func (in *inbox) init(config Config, knock func()) {
	in.knock = knock
	in.room.L = &in.mu
	in.maxPending, in.maxBytes = config.MaxPending, config.MaxPendingBytes
	in.refuseWhenFull, in.timeout = config.RefuseWhenFull, config.Timeout
}

// submit leaves a request, or returns why it is turned away. Without wait, taken is false if it would have to wait for room, and the
// caller sees to it that the session loop looks.
func (in *inbox) submit(s submission, wait bool) (outcome Outcome, taken bool) {
	size := smr.RequestHeaderSize + len(s.payload)
	alone := len(s.payload) > arenaAlone
	if alone {
		s.payload = bytes.Clone(s.payload)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if !wait && !in.closed && !in.refusing && !in.refuseWhenFull && !in.fits(size) {
		return Overloaded, false
	}
	if outcome := in.waitForRoom(size); outcome != session.Success {
		return outcome, true
	}
	if !alone {
		s.payload = in.keep(s.payload)
	}
	in.submissions = append(in.submissions, s)
	in.pending++
	in.bytes += size
	in.queued += size
	if wait && !in.knocked {
		in.knocked = true
		in.knock()
	}
	return session.Success, true
}

// fits reports whether there is room for a request of that size. Called with mu held.
func (in *inbox) fits(size int) bool {
	return in.pending < in.maxPending && in.bytes+size <= in.maxBytes
}

func (in *inbox) keep(payload []byte) []byte {
	if cap(in.arena)-len(in.arena) < len(payload) {
		in.arena = make([]byte, 0, arenaSize)
	}
	start := len(in.arena)
	in.arena = append(in.arena, payload...)
	return in.arena[start:]
}

// waitForRoom returns Success once a request of that size may be left.
func (in *inbox) waitForRoom(size int) Outcome {
	var deadline time.Time
	for {
		switch {
		case in.closed || in.refusing:
			return Refused
		case in.fits(size):
			return session.Success
		case in.refuseWhenFull:
			return Overloaded
		}
		if now := time.Now(); deadline.IsZero() {
			deadline = now.Add(in.timeout)
		} else if !now.Before(deadline) {
			return Overloaded
		}
		in.blocked++
		in.room.Wait()
		in.blocked--
	}
}

// read leaves a question for an LSN to read at; false if the inbox is closed. Unless it is to go now, the caller knocks.
func (in *inbox) read(done readCall, now bool) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	in.reads = append(in.reads, done)
	if now && !in.knocked {
		in.knocked = true
		in.knock()
	}
	return true
}

// count leaves a question for copies; false if the inbox is closed.
func (in *inbox) count(lsn smr.LSN, done func(copies int, err error)) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	in.counts = append(in.counts, countCall{lsn: lsn, done: done})
	in.knock()
	return true
}

// post leaves what a connection has to tell. The caller sees to it that the session loop looks.
func (in *inbox) post(e event) {
	in.mu.Lock()
	in.events = append(in.events, e)
	in.mu.Unlock()
}

// take returns all work there is. It is valid until the next take.
func (in *inbox) take() *work {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.spare.reset()
	closed := in.closed
	in.work, in.spare = in.spare, in.work
	in.closed = closed
	in.queued, in.knocked = 0, false
	return &in.spare
}

// reset empties w and keeps its memory, within bounds.
func (w *work) reset() {
	clear(w.submissions)
	clear(w.reads)
	clear(w.counts)
	clear(w.events)
	w.submissions, w.reads, w.counts, w.events = w.submissions[:0], w.reads[:0], w.counts[:0], w.events[:0]
	w.arena = w.arena[:0]
	if cap(w.submissions) > keptEntries {
		w.submissions = nil
	}
	if cap(w.reads) > keptEntries {
		w.reads = nil
	}
}

// settle says what is left in the session after the work taken last was handed to it.
func (in *inbox) settle(pending, bytes int, refusing bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pending, in.bytes, in.refusing = pending+len(in.submissions), bytes+in.queued, refusing // some came since
	if in.blocked > 0 {
		in.room.Broadcast()
	}
}

func (in *inbox) close() {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
	in.room.Broadcast()
}

// state returns what Stats tells.
func (in *inbox) state() (pending, bytes int, refusing bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.pending, in.bytes, in.refusing
}

// isBlocked reports whether somebody waits for room.
func (in *inbox) isBlocked() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.blocked > 0
}

// owners holds the waiters of sent requests in order of their sequences. The session loop adds and withdraws, the
// Machine takes.
type owners struct {
	mu      sync.Mutex
	base    uint64   // sequence of waiting[head]
	waiting []Waiter // nil: withdrawn
	head    int
	through uint64 // highest sequence that was taken
}

// add notes the waiters of the next sequences.
func (o *owners) add(sent []ticketed[Waiter]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting)+len(sent) > cap(o.waiting) && o.head > len(o.waiting)/2 {
		n := copy(o.waiting, o.waiting[o.head:])
		clear(o.waiting[n:])
		o.waiting, o.head = o.waiting[:n], 0
	}
	for i := range sent {
		o.waiting = append(o.waiting, sent[i].who)
	}
}

// take removes and returns the waiter of that sequence; those before it are gone too.
func (o *owners) take(sequence uint64) Waiter {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.through = max(o.through, sequence)
	var waiter Waiter
	for o.base <= sequence && o.head < len(o.waiting) {
		waiter = o.waiting[o.head]
		o.waiting[o.head] = nil
		o.head++
		o.base++
	}
	if o.head == len(o.waiting) {
		o.waiting, o.head = o.waiting[:0], 0
	}
	return waiter
}

// skip removes and returns the waiters up to that sequence: their requests were executed, but not here.
func (o *owners) skip(through uint64) (waiters []Waiter) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.through = max(o.through, through)
	for o.base <= through && o.head < len(o.waiting) {
		if waiter := o.waiting[o.head]; waiter != nil {
			waiters = append(waiters, waiter)
		}
		o.waiting[o.head] = nil
		o.head++
		o.base++
	}
	if o.head == len(o.waiting) {
		o.waiting, o.head = o.waiting[:0], 0
	}
	return waiters
}

// withdraw returns the waiter of that sequence, nil if it has been taken, and leaves none.
func (o *owners) withdraw(sequence uint64) Waiter {
	o.mu.Lock()
	defer o.mu.Unlock()
	if sequence < o.base {
		return nil
	}
	at := o.head + int(sequence-o.base)
	waiter := o.waiting[at]
	o.waiting[at] = nil
	return waiter
}

// taken returns the highest sequence that was taken.
func (o *owners) taken() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.through
}

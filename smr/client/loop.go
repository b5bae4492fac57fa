package client

import (
	"context"
	"sync/atomic"
	"time"

	"lockstep/internal/invariant"
	"lockstep/internal/turn"
	"lockstep/smr/session"
)

// maxTicks bounds the ticks that are made up for at once: a process that was stopped for long first hears what its
// connections have to say.
const maxTicks = 50

// idleTicks is how many ticks come together while nobody waits for anything; not more than maxTicks.
const idleTicks = 50

// maxRounds is how many rounds a goroutine that brought something steps the session for others, before it leaves that to the session
// loop's own goroutine.
const maxRounds = 2

// sessionLoop owns the session and everybody who waits for its answers. Its own goroutine brings ticks. Client.Flush and what the
// master's answers bring step it on the goroutines where they come up (see package turn).
type sessionLoop struct {
	client *Client
	turn   turn.Turn
	due    atomic.Int64 // ticks
	busy   atomic.Bool  // somebody waits, or there is no connection to the master
	// rests: the next ticks come together. Who begins to wait stirs (1) the loop's own goroutine then.
	rests   atomic.Bool
	stirred chan struct{}
	// stopping: the turn is to be left to the loop's own goroutine, which gives it to nobody.
	stopping atomic.Bool

	// What is below belongs to who has the turn.
	session *session.Session
	effects session.Effects
	link    *link // the connection to the master, nil if none

	// In order of their tickets. unsent are the waiters of requests that have no sequence yet.
	unsent     []ticketed[Waiter]
	reads      []ticketed[readCall]
	counts     map[session.Ticket]countCall
	lastTicket session.Ticket

	written uint64 // by link at the last tick
	writing bool   // link was at it then

	// Inputs, used again and again.
	submitInput   session.Submit
	readInput     session.Read
	countInput    session.Count
	executedInput session.Executed
}

type ticketed[T any] struct {
	ticket session.Ticket
	who    T
}

func newSessionLoop(c *Client) *sessionLoop {
	return &sessionLoop{client: c, turn: turn.New(), stirred: make(chan struct{}, 1), session: session.New(c.config.sessionOptions()), counts: map[session.Ticket]countCall{}}
}

// run brings ticks, and steps the session whenever the turn is left to it. When ctx ends it answers everybody.
func (l *sessionLoop) run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	last, period, told := time.Now(), tick, time.Time{}
	for {
		select {
		case <-l.turn.Left():
			if ctx.Err() != nil {
				l.turn.Leave() // to the end, below
			} else {
				l.rounds()
			}
		case now := <-ticker.C:
			ticks := now.Sub(last) / tick
			last = last.Add(ticks * tick)
			l.due.Store(int64(min(ticks, maxTicks)))
			if now.Sub(told) >= useEvery {
				told = now
				l.client.tellUse()
			}
			if l.turn.Knock() {
				l.rounds()
			}
			if next := l.pace(); next != period {
				period = next
				ticker.Reset(period)
			}
		case <-l.stirred:
			period = tick
			ticker.Reset(period)
		case <-ctx.Done():
			l.stopping.Store(true)
			if !l.turn.Knock() {
				<-l.turn.Left() // who has the turn hears the knock, and leaves
			}
			l.end()
			return
		}
	}
}

// pace returns how long to wait for the next ticks.
func (l *sessionLoop) pace() time.Duration {
	l.rests.Store(true)
	if l.busy.Load() { // or it becomes so now, and stirs
		l.rests.Store(false)
		return tick
	}
	return idleTicks * tick
}

// end answers everybody. The turn is given to nobody any more.
func (l *sessionLoop) end() {
	in := &l.client.inbox
	in.close()
	l.handle(in.take(), 0)
	l.step(&session.Stop{})
	l.finish()
}

// bring steps the session, unless somebody else does.
func (l *sessionLoop) bring() {
	if l.turn.Knock() && !l.some(maxRounds) {
		l.turn.Leave()
	}
}

// knock has the loop's own goroutine step the session, unless somebody else does.
func (l *sessionLoop) knock() {
	if l.turn.Knock() {
		l.turn.Leave()
	}
}

// rounds steps the session until nobody knocks any more.
func (l *sessionLoop) rounds() {
	for !l.some(maxRounds) {
	}
}

// some makes up to so many rounds and reports whether the turn was given away.
func (l *sessionLoop) some(most int) bool {
	for range most {
		heard := l.turn.Heard()
		if l.stopping.Load() {
			l.turn.Leave()
			return true
		}
		l.handle(l.client.inbox.take(), int(l.due.Swap(0)))
		l.finish()
		if l.turn.End(heard) {
			return true
		}
	}
	return false
}

func (l *sessionLoop) step(in session.Input) { l.session.Step(in, &l.effects) }

// finish flushes the session and carries out what it wants.
func (l *sessionLoop) finish() {
	l.session.Flush(&l.effects)
	l.carryOut()
	l.effects.Reset()
	pending, bytes := l.session.Pending()
	busy := pending > 0 || len(l.reads) > 0 || len(l.counts) > 0 || l.link == nil
	l.busy.Store(busy)
	if busy && l.rests.Load() && l.rests.Swap(false) {
		signal(l.stirred)
	}
	l.client.inbox.settle(pending, bytes, l.session.Refusing())
}

// handle gives the session all inputs of one wake-up.
func (l *sessionLoop) handle(w *work, ticks int) {
	l.executedInput.Through = l.client.owners.taken()
	l.step(&l.executedInput)
	for i := range w.events {
		e := &w.events[i]
		switch in := e.input.(type) {
		case *session.Connected:
			l.link, l.written, l.writing = e.link, 0, false
		case *session.Disconnected:
			if l.link != nil && l.link.id == in.Conn {
				l.link = nil
			}
		}
		l.step(e.input)
	}
	for i := range w.submissions {
		l.submit(&w.submissions[i])
	}
	for _, done := range w.reads {
		l.read(done)
	}
	for _, call := range w.counts {
		l.lastTicket++
		l.counts[l.lastTicket] = call
		l.countInput = session.Count{Ticket: l.lastTicket, LSN: call.lsn}
		l.step(&l.countInput)
	}
	if ticks > 0 {
		l.watchLink()
	}
	for range ticks {
		l.step(&session.Tick{})
	}
}

// submit gives the session one request. If it is turned away that is answered at once, so that the queue of the
// unsent holds what the session's does.
func (l *sessionLoop) submit(s *submission) {
	l.lastTicket++
	l.submitInput = session.Submit{Ticket: l.lastTicket, Slot: s.slot, Flags: s.flags, Payload: s.payload}
	before := len(l.effects.Done)
	l.step(&l.submitInput)
	if len(l.effects.Done) > before {
		outcome := l.effects.Done[before].Outcome
		l.effects.Done = l.effects.Done[:before]
		s.waiter.Finish(outcome)
		return
	}
	l.unsent = append(l.unsent, ticketed[Waiter]{l.lastTicket, s.waiter})
}

func (l *sessionLoop) read(done readCall) {
	l.lastTicket++
	l.readInput.Ticket = l.lastTicket
	l.step(&l.readInput)
	if refused := l.effects.ReadsRefused; len(refused) > 0 {
		l.effects.ReadsRefused = refused[:0]
		done(0, failure(refused[0].Outcome))
		return
	}
	l.reads = append(l.reads, ticketed[readCall]{l.lastTicket, done})
}

// watchLink tells the session that a silent connection is busy: it was writing at this tick and at the last one, and
// has got on with it.
func (l *sessionLoop) watchLink() {
	if l.link == nil {
		return
	}
	written, writing := l.link.Progress()
	if writing && l.writing && written != l.written {
		l.step(&session.Busy{Conn: l.link.id})
	}
	l.written, l.writing = written, writing
}

func (l *sessionLoop) carryOut() {
	for _, done := range l.effects.Done { // before number: what is refused stood in front of what is sent
		l.answer(done)
	}
	l.number()
	if l.link != nil && len(l.effects.Send) > 0 {
		l.link.push(l.effects.Send)
	}
	for _, conn := range l.effects.Drop {
		l.client.links.drop(conn)
	}
	answered := 0
	for _, done := range l.effects.Reads {
		for ; answered < len(l.reads) && l.reads[answered].ticket <= done.Through; answered++ {
			l.reads[answered].who(done.LSN, failure(done.Outcome))
		}
	}
	l.reads = cut(l.reads, answered)
	for _, done := range l.effects.Counts {
		call := l.counts[done.Ticket]
		delete(l.counts, done.Ticket)
		call.done(done.Copies, failure(done.Outcome))
	}
}

// number notes who waits for a sequence before it is sent, so that the Machine finds it.
func (l *sessionLoop) number() {
	count := len(l.effects.Numbered)
	if count == 0 {
		return
	}
	for i, n := range l.effects.Numbered {
		if l.unsent[i].ticket != n.Ticket {
			invariant.Fail("requests are sent in the order of submission", n.Ticket, n.Sequence)
		}
	}
	l.client.owners.add(l.unsent[:count])
	l.unsent = cut(l.unsent, count)
}

// answer tells a waiter what became of its request.
func (l *sessionLoop) answer(done session.Done) {
	if done.Sequence != 0 {
		if waiter := l.client.owners.withdraw(done.Sequence); waiter != nil {
			waiter.Finish(done.Outcome)
		}
		return
	}
	invariant.Assert(l.unsent[0].ticket == done.Ticket, "requests are refused in the order of submission", done.Ticket)
	waiter := l.unsent[0].who
	l.unsent = cut(l.unsent, 1)
	waiter.Finish(done.Outcome)
}

// cut removes the first items; an empty queue starts again at the front of its memory.
func cut[T any](queue []T, number int) []T {
	clear(queue[:number])
	if number == len(queue) && cap(queue) <= keptEntries {
		return queue[:0]
	}
	return queue[number:]
}

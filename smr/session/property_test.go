package session

import (
	"encoding/binary"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"lockstep/internal/steady"

	"lockstep/smr"
)

var _ = steady.Draws()

// world is a group as a session sees it, made simple: a log of which a prefix is committed, reigns of masters that
// may lose what is not, connections that lose, delay and repeat, and a state machine with its session table.
type world struct {
	t       *rapid.T
	session *Session
	effects Effects

	log       []smr.Request
	committed int // requests of log
	applied   int
	reported  uint64 // Executed told to the session
	reign     int
	conns     []*pipe // open at the client, or with messages still on their way
	current   *pipe   // open at the client, nil if none
	lastConn  ConnID

	table     smr.SessionTable
	executed  map[Ticket]int
	order     []Ticket // as executed
	submitted []Ticket
	now       int
	since     []int             // tick of submission, by ticket-1
	numbers   map[uint64]Ticket // sequence -> ticket
	outcomes  map[Ticket]Outcome
	readAt    map[Ticket]int // committed when the read arrived; deleted when it is answered
	lastRead  Ticket
	counts    map[Ticket]bool // waiting
	lastCount Ticket
}

// pipe is one connection: messages arrive in order, up to where it broke.
type pipe struct {
	id       ConnID
	reign    int
	messages []any
}

func newWorld(t *rapid.T, options Options) *world {
	return &world{t: t, session: New(options), reign: 1, executed: map[Ticket]int{}, numbers: map[uint64]Ticket{},
		outcomes: map[Ticket]Outcome{}, readAt: map[Ticket]int{}, counts: map[Ticket]bool{}}
}

func testOptions() Options {
	return Options{ID: 7, MaxPending: 40, MaxPendingBytes: smr.RequestHeaderSize + smr.MaxPayload, MaxReads: 20, BatchBytes: 200,
		RefuseAfterTicks: 30, TimeoutTicks: 60, AskTicks: 10, DeadTicks: 25}
}

func (w *world) step(inputs ...Input) {
	for _, in := range inputs {
		w.session.Step(in, &w.effects)
	}
	w.session.Flush(&w.effects)
	w.carryOut()
	w.check()
}

func (w *world) carryOut() {
	for _, n := range w.effects.Numbered {
		if _, taken := w.numbers[n.Sequence]; taken || n.Sequence != uint64(len(w.numbers)+1) {
			w.t.Fatalf("ticket %d got sequence %d after %d others", n.Ticket, n.Sequence, len(w.numbers))
		}
		w.numbers[n.Sequence] = n.Ticket
	}
	for _, send := range w.effects.Send {
		if w.current == nil || send.Conn != w.current.id {
			continue
		}
		w.current.messages = append(w.current.messages, send.Message)
	}
	for _, conn := range w.effects.Drop {
		if w.current != nil && conn == w.current.id {
			w.current = nil
		}
	}
	for _, done := range w.effects.Done {
		w.done(done)
	}
	for _, done := range w.effects.Reads {
		for ticket, needed := range w.readAt {
			if ticket > done.Through {
				continue
			}
			if done.Outcome == Success && int(done.LSN) < needed {
				w.t.Fatalf("read %d at %d, but %d requests were committed when it arrived", ticket, done.LSN, needed)
			}
			delete(w.readAt, ticket)
		}
	}
	for _, done := range w.effects.ReadsRefused {
		if _, waits := w.readAt[done.Ticket]; !waits {
			w.t.Fatalf("read %d refused twice", done.Ticket)
		}
		delete(w.readAt, done.Ticket)
	}
	for _, done := range w.effects.Counts {
		if !w.counts[done.Ticket] {
			w.t.Fatalf("count %d answered twice", done.Ticket)
		}
		delete(w.counts, done.Ticket)
	}
	w.effects.Reset()
}

func (w *world) done(done Done) {
	if _, answered := w.outcomes[done.Ticket]; answered {
		w.t.Fatalf("ticket %d answered twice", done.Ticket)
	}
	w.outcomes[done.Ticket] = done.Outcome
	if numbered := w.numbers[done.Sequence] == done.Ticket && done.Sequence != 0; numbered != (done.Outcome == Uncertain) {
		w.t.Fatalf("ticket %d with sequence %d is answered %s", done.Ticket, done.Sequence, done.Outcome)
	}
}

// check holds after every step: limits, and the bookkeeping between the fields.
func (w *world) check() {
	s := w.session
	requests, bytes := s.Pending()
	real := 0
	for i := range s.sent.len() {
		real += len(s.sent.at(i).encoded)
	}
	for i := range s.unsent.len() {
		real += len(s.unsent.at(i).encoded)
	}
	for i, ticket := range w.submitted {
		_, answered := w.outcomes[ticket]
		if !answered && w.now-w.since[i] >= s.options.TimeoutTicks && !(s.executed > 0 && w.numbers[s.executed] >= ticket) {
			w.t.Fatalf("ticket %d has waited for %d ticks", ticket, w.now-w.since[i])
		}
	}
	inRounds := 0
	for _, r := range s.rounds {
		inRounds += r.reads
	}
	switch {
	case requests > s.options.MaxPending || bytes != real:
		w.t.Fatalf("%d requests of %d bytes pending, counted %d", requests, real, bytes)
	case s.doubted > s.sent.len() || s.onConn > s.sent.len():
		w.t.Fatalf("%d doubted and %d sent again of %d", s.doubted, s.onConn, s.sent.len())
	case inRounds != s.inRound || inRounds > s.reads.len():
		w.t.Fatalf("%d reads asked for, counted %d, %d wait", inRounds, s.inRound, s.reads.len())
	case s.conn != 0 && s.unsent.len() > 0:
		w.t.Fatalf("%d requests are kept back on a connection", s.unsent.len())
	case s.reads.len() != len(w.readAt) || len(s.counts) != len(w.counts):
		w.t.Fatalf("%d reads and %d counts wait, the session knows %d and %d", len(w.readAt), len(w.counts), s.reads.len(), len(s.counts))
	}
}

func (w *world) submit() {
	ticket := Ticket(len(w.submitted) + 1)
	w.submitted = append(w.submitted, ticket)
	w.since = append(w.since, w.now)
	payload := make([]byte, 8+rapid.IntRange(0, 40).Draw(w.t, "payload"))
	binary.LittleEndian.PutUint64(payload, uint64(ticket))
	in := &Submit{Ticket: ticket, Slot: 5, Payload: payload}
	w.session.Step(in, &w.effects)
	clear(payload) // the session must have taken a copy
}

func (w *world) connect() {
	if w.current != nil && rapid.Bool().Draw(w.t, "tell of the old one") {
		w.step(&Disconnected{Conn: w.current.id})
	}
	w.lastConn++
	w.current = &pipe{id: w.lastConn, reign: w.reign}
	w.conns = append(w.conns, w.current)
	w.step(&Connected{Conn: w.lastConn})
}

func (w *world) disconnect() {
	if w.current == nil {
		return
	}
	p := w.current
	w.current = nil
	p.messages = p.messages[:rapid.IntRange(0, len(p.messages)).Draw(w.t, "arrives")]
	w.step(&Disconnected{Conn: p.id})
}

// deliver lets one message arrive at the master of any connection, also of one that the client has given up.
func (w *world) deliver(p *pipe) {
	if len(p.messages) == 0 {
		return
	}
	message := p.messages[0]
	p.messages = p.messages[1:]
	if p.reign != w.reign {
		return // that master does not lead any more
	}
	switch m := message.(type) {
	case *smr.Propose:
		w.append(m)
	case *smr.ReadIndex:
		if p == w.current || rapid.Bool().Draw(w.t, "late answer") {
			w.step(&ReadReady{Conn: p.id, Message: smr.ReadReady{ID: m.ID, LSN: smr.LSN(w.committed)}})
		}
	case *smr.CountCopies:
		if p == w.current || rapid.Bool().Draw(w.t, "late answer") {
			w.step(&CopiesCounted{Conn: p.id, Message: smr.CopiesCounted{ID: m.ID, Copies: 2}})
		}
	}
}

func (w *world) append(m *smr.Propose) {
	rest := m.Requests
	for range m.Count {
		var request smr.Request
		var err error
		if request, rest, err = smr.CutRequest(rest); err != nil {
			w.t.Fatalf("propose of %d requests: %v", m.Count, err)
		}
		w.log = append(w.log, request)
	}
	if len(rest) != 0 || m.Count > 1 && len(m.Requests) > w.session.options.BatchBytes {
		w.t.Fatalf("propose of %d requests in %d bytes, %d left over", m.Count, len(m.Requests), len(rest))
	}
}

// apply executes committed requests as every replica does.
func (w *world) apply(limit int) {
	for ; w.applied < limit; w.applied++ {
		request := w.log[w.applied]
		verdict := w.table.Admit(request.Session, request.Sequence, smr.LSN(w.applied))
		ticket := Ticket(binary.LittleEndian.Uint64(request.Payload))
		switch {
		case w.numbers[request.Sequence] != ticket:
			w.t.Fatalf("sequence %d carries ticket %d, it was given to %d", request.Sequence, ticket, w.numbers[request.Sequence])
		case verdict == smr.OutOfOrder:
			w.t.Fatalf("sequence %d is committed after %d: it will never be executed", request.Sequence, w.table.Last(request.Session))
		case verdict == smr.Execute:
			w.executed[ticket]++
			w.order = append(w.order, ticket)
		}
	}
}

func (w *world) report() {
	if executed := w.table.Last(7); executed > w.reported {
		w.reported = executed
		w.step(&Executed{Through: executed})
	}
}

// Property: whatever connections, masters and time do, each request executes at most once and in order of
// submission; when all is well again, exactly once unless it was refused. A request that was refused never executes.
// It would be seen as a ticket executed twice, never, out of order, or after its refusal.
func TestEachRequestExecutesOnceWhateverHappens(t *testing.T) { rapid.Check(t, chaos) }

// FuzzChaos is the same property, with schedules that the fuzzer chooses.
func FuzzChaos(f *testing.F) { f.Fuzz(rapid.MakeFuzz(chaos)) }

func chaos(t *rapid.T) {
	options := testOptions()
	options.RefuseAfterTicks = rapid.SampledFrom([]int{5, 30, 90}).Draw(t, "refuse after")
	w := newWorld(t, options)
	w.step(&Writable{Writable: true})
	t.Repeat(map[string]func(*rapid.T){
		"submit": func(t *rapid.T) {
			for range rapid.IntRange(1, 6).Draw(t, "requests") {
				w.submit()
			}
			w.step()
		},
		"read": func(t *rapid.T) {
			w.lastRead++
			w.readAt[w.lastRead] = w.committed
			w.step(&Read{Ticket: w.lastRead})
		},
		"count": func(t *rapid.T) {
			w.lastCount++
			w.counts[w.lastCount] = true
			w.step(&Count{Ticket: w.lastCount, LSN: 5})
		},
		"tick": func(t *rapid.T) {
			for range rapid.IntRange(1, 12).Draw(t, "ticks") {
				w.now++
				w.step(&Tick{})
			}
		},
		"connect":    func(*rapid.T) { w.connect() },
		"disconnect": func(*rapid.T) { w.disconnect() },
		"busy": func(t *rapid.T) {
			if w.current != nil {
				w.step(&Busy{Conn: w.current.id})
			}
		},
		"deliver": func(t *rapid.T) {
			for range rapid.IntRange(1, 5).Draw(t, "messages") {
				if len(w.conns) > 0 {
					w.deliver(rapid.SampledFrom(w.conns).Draw(t, "connection"))
				}
			}
		},
		"commit": func(t *rapid.T) {
			w.committed = rapid.IntRange(w.committed, len(w.log)).Draw(t, "commit")
		},
		"apply":  func(t *rapid.T) { w.apply(rapid.IntRange(w.applied, w.committed).Draw(t, "applied")) },
		"report": func(*rapid.T) { w.report() },
		"fail over": func(t *rapid.T) {
			w.reign++
			w.log = w.log[:rapid.IntRange(w.committed, len(w.log)).Draw(t, "survives")]
		},
		"writable": func(t *rapid.T) { w.step(&Writable{Writable: rapid.Bool().Draw(t, "writable")}) },
	})
	w.heal()
}

// heal ends the chaos and checks what must be true of each ticket.
func (w *world) heal() {
	w.connect()
	w.step(&Writable{Writable: true})
	for len(w.current.messages) > 0 {
		w.deliver(w.current)
	}
	w.committed = len(w.log)
	w.apply(w.committed)
	w.report()
	if requests, bytes := w.session.Pending(); requests != 0 || bytes != 0 {
		w.t.Fatalf("%d requests of %d bytes are left over", requests, bytes)
	}
	if len(w.readAt) > 0 || len(w.counts) > 0 {
		w.t.Fatalf("%d reads and %d counts are left over", len(w.readAt), len(w.counts))
	}
	for _, ticket := range w.submitted {
		outcome, answered := w.outcomes[ticket]
		want := 1
		if answered && outcome != Uncertain {
			want = 0
		}
		if w.executed[ticket] != want {
			w.t.Fatalf("ticket %d, answered %s (%v), was executed %d times", ticket, outcome, answered, w.executed[ticket])
		}
	}
	for i := 1; i < len(w.order); i++ {
		if w.order[i] <= w.order[i-1] {
			w.t.Fatalf("ticket %d was executed after %d", w.order[i], w.order[i-1])
		}
	}
}

// Property: the queue is one, whatever its memory does.
func TestFifoIsAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q fifo[int]
		var want []int
		next := 0
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "push") || len(want) == 0 {
				q.push(next)
				want = append(want, next)
				next++
			} else if got := q.pop(); got != want[0] {
				t.Fatalf("popped %d, want %d", got, want[0])
			} else {
				want = want[1:]
			}
			got := []int{}
			for i := range q.len() {
				got = append(got, *q.at(i))
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%v, want %v", got, want)
			}
		}
	})
}

package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/smr"
	"lockstep/smr/page"
	"lockstep/smr/session"
	"lockstep/smr/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a client with its machine.
type running struct {
	*Client
	tape *tape
	stop context.CancelFunc
	done chan error
}

func start(t testing.TB, config Config) *running {
	machine := &tape{own: config.Session, next: config.Applied}
	return startTape(t, config, machine)
}

func startTape(t testing.TB, config Config, machine *tape) *running {
	c, err := New(config, machine)
	if err != nil {
		t.Fatal(err)
	}
	machine.client = c
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Client: c, tape: machine, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err, open := <-r.done; open && err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// end waits for Run to end by itself.
func (r *running) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		close(r.done)
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("Run does not end")
		return nil
	}
}

// Many callers at once: each request executes once, in the order of its caller, and each caller gets its own reply.
func TestRequestsOfManyCallersExecuteOnce(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	r := start(t, testConfig(g))
	const callers, each = 20, 200
	var tasks sync.WaitGroup
	for caller := range uint64(callers) {
		tasks.Go(func() {
			for i := range uint64(each) {
				call := newCall()
				r.Submit(5, 1, number(caller<<32|i), call)
				if outcome := call.wait(t); outcome != session.Success || call.lsn == 0 {
					t.Errorf("caller %d request %d: %s at %d", caller, i, outcome, call.lsn)
				}
			}
		})
	}
	tasks.Wait()
	checkTape(t, r.tape.executed(), callers, each)
	read := make(chan smr.LSN, 1)
	r.Read(func(lsn smr.LSN, err error) {
		if err != nil || r.Applied() < lsn {
			t.Errorf("read at %d, applied %d: %v", lsn, r.Applied(), err)
		}
		read <- lsn
	})
	if lsn := <-read; lsn != g.end() {
		t.Errorf("read at %d, the log ends at %d", lsn, g.end())
	}
	counted := make(chan int, 1)
	r.CountCopies(r.Applied(), func(copies int, err error) { counted <- copies })
	if copies := <-counted; copies != 2 {
		t.Errorf("%d copies", copies)
	}
	r.SetCheckpoint(r.Applied())
	until(t, "progress is told", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.progress == smr.Progress{Applied: g.log.End(), Checkpoint: g.log.End()}
	})
	// The session loop hears of the last requests at its next tick.
	until(t, "nothing is pending", func() bool { return r.Stats().Pending == 0 })
	if stats := r.Stats(); !stats.Attached || stats.Master != "n2" || stats.PendingBytes != 0 || stats.Trouble != "" || stats.Refusing {
		t.Errorf("%+v", stats)
	}
	if r.Status().Master != "n2" {
		t.Errorf("%+v", r.Status())
	}
}

// checkTape checks that each caller's numbers stand on the tape once and in order.
func checkTape(t *testing.T, numbers []uint64, callers, each int) {
	t.Helper()
	next := make([]uint64, callers)
	for _, n := range numbers {
		caller := n >> 32
		if n&(1<<32-1) != next[caller] {
			t.Fatalf("caller %d: request %d was executed when %d was due", caller, n&(1<<32-1), next[caller])
		}
		next[caller]++
	}
	for caller, n := range next {
		if n != uint64(each) {
			t.Errorf("caller %d: %d requests were executed of %d", caller, n, each)
		}
	}
}

// Connections of all kinds break again and again, masters change, and proposals get lost with them. Nothing may be
// lost, doubled or reordered, and nobody may see an error.
func TestNothingIsLostWhenConnectionsBreak(t *testing.T) {
	g := newGroup(t)
	stopLocal := g.serveLocal()
	g.lead("n1", 1)
	r := start(t, testConfig(g))
	const callers, each = 8, 150
	var tasks sync.WaitGroup
	for caller := range uint64(callers) {
		tasks.Go(func() {
			var calls []*call
			for i := range uint64(each) {
				call := newCall()
				calls = append(calls, call)
				r.Submit(5, 1, number(caller<<32|i), call)
				if i%10 == 9 {
					if outcome := call.wait(t); outcome != session.Success {
						t.Errorf("caller %d request %d: %s", caller, i, outcome)
					}
				}
				read := make(chan error, 1)
				r.Read(func(_ smr.LSN, err error) { read <- err })
				if err := <-read; err != nil {
					t.Errorf("read: %v", err)
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { tasks.Wait(); close(finished) }()
	random := rand.New(rand.NewPCG(1, 2))
	epoch := smr.Epoch(1)
	for working := true; working; {
		switch random.IntN(5) {
		case 0:
			g.swallow.Store(true) // what comes before the connection breaks is lost
			time.Sleep(time.Millisecond)
			g.breakAll()
			g.swallow.Store(false)
		case 1:
			epoch++
			g.lead(smr.NodeID(fmt.Sprintf("n%d", epoch%3+1)), epoch)
		case 2:
			stopLocal()
			g.breakAll()
			stopLocal = g.serveLocal()
		case 3:
			g.update(func(s *smr.Status) { s.Master, s.MasterAddr, s.Writable = "", "", false })
			time.Sleep(5 * time.Millisecond)
			epoch++
			g.lead("n2", epoch)
		}
		select {
		case <-finished:
			working = false
		case <-time.After(time.Duration(5+random.IntN(20)) * time.Millisecond):
		}
	}
	until(t, "nothing is pending", func() bool { return r.Stats().Pending == 0 })
	checkTape(t, r.tape.executed(), callers, each)
}

// A request that was never sent is refused for certain; afterwards the same client goes on.
func TestRequestsAreRefusedWithoutMaster(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	config := testConfig(g)
	config.RefuseAfter = 100 * time.Millisecond
	r := start(t, config)
	first := newCall()
	r.Submit(5, 0, number(1), first)
	if outcome := first.wait(t); outcome != Refused {
		t.Fatalf("without a master: %s", outcome)
	}
	second := newCall()
	r.Submit(5, 0, number(2), second)
	if outcome := second.wait(t); outcome != Refused {
		t.Fatalf("without a master, later: %s", outcome)
	}
	read := make(chan error, 1)
	r.ReadIndex(func(_ smr.LSN, err error) { read <- err })
	if err := <-read; !errors.Is(err, ErrNoAnswer) {
		t.Errorf("read without a master: %v", err)
	}
	if stats := r.Stats(); !stats.Refusing || stats.Pending != 0 {
		t.Errorf("%+v", stats)
	}
	g.lead("n2", 1)
	until(t, "not refusing", func() bool { return !r.Stats().Refusing })
	third := newCall()
	r.Submit(5, 0, number(3), third)
	if outcome := third.wait(t); outcome != session.Success {
		t.Fatalf("with a master: %s", outcome)
	}
	if executed := r.tape.executed(); fmt.Sprint(executed) != "[3]" {
		t.Errorf("executed %v", executed)
	}
}

// A sent request may be answered as uncertain only; when it is executed after all, nobody is told twice.
func TestSentRequestBecomesUncertain(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	g.hold.Store(true)
	config := testConfig(g)
	config.Timeout = 1500 * time.Millisecond // the second request must be done within it
	r := start(t, config)
	first := newCall()
	r.Submit(5, 0, number(1), first)
	if outcome := first.wait(t); outcome != Uncertain {
		t.Fatalf("held: %s", outcome)
	}
	waited := make(chan error, 1)
	r.WaitApplied(1<<40, func(err error) { waited <- err })
	if err := <-waited; !errors.Is(err, ErrNoAnswer) {
		t.Errorf("waiting for an LSN that does not come: %v", err)
	}
	g.release()
	second := newCall()
	r.Submit(5, 0, number(2), second)
	if outcome := second.wait(t); outcome != session.Success {
		t.Fatalf("released: %s", outcome)
	}
	if executed := r.tape.executed(); fmt.Sprint(executed) != "[1 2]" || first.times.Load() != 1 {
		t.Errorf("executed %v, the first was answered %d times", executed, first.times.Load())
	}
}

// A master that accepts and never answers is given up and dialled again, without any word of a change.
func TestSilentMasterIsDialledAgain(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	m := g.lead("n2", 1)
	m.silent.Store(true)
	r := start(t, testConfig(g))
	until(t, "dialled again", func() bool { return m.accepted.Load() >= 2 })
	m.silent.Store(false)
	call := newCall()
	r.Submit(5, 0, number(1), call)
	if outcome := call.wait(t); outcome != session.Success {
		t.Errorf("after silence: %s", outcome)
	}
}

// A connection to a deposed master stays open; the status of the own replicator must move the client on.
func TestClientFollowsTheMaster(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	r := start(t, testConfig(g))
	until(t, "connected to n2", func() bool { return r.Stats().Master == "n2" })
	g.lead("n3", 2)
	until(t, "connected to n3", func() bool { return r.Stats().Master == "n3" })
	g.lead("n3", 3) // the same node, elected again
	until(t, "told", func() bool {
		r.tape.mu.Lock()
		defer r.tape.mu.Unlock()
		return len(r.tape.statuses) > 0 && r.tape.statuses[len(r.tape.statuses)-1].Epoch == 3
	})
	call := newCall()
	r.Submit(5, 0, number(1), call)
	if outcome := call.wait(t); outcome != session.Success {
		t.Error(outcome)
	}
	r.tape.mu.Lock()
	defer r.tape.mu.Unlock()
	for i := 1; i < len(r.tape.statuses); i++ {
		before, after := r.tape.statuses[i-1], r.tape.statuses[i]
		after.Start, after.Safe, after.Commit = before.Start, before.Safe, before.Commit
		if before == after {
			t.Errorf("status %d says nothing new: %+v", i, after)
		}
	}
}

// The host of a master has vanished: dialling it gets no answer at all. The news of another master must not wait for
// the dial to time out; it would be seen as a dial that ends by its deadline instead of being cancelled.
func TestDialOfAVanishedMasterIsGivenUp(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	vanished := "192.0.2.1:7100"
	ended := make(chan error, 100)
	began := make(chan struct{}, 100)
	config := testConfig(g)
	config.Dial = func(ctx context.Context, _ smr.NodeID, address string) (net.Conn, error) {
		if address == vanished {
			began <- struct{}{}
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	r := start(t, config)
	g.update(func(s *smr.Status) { s.Epoch, s.Master, s.MasterAddr = 1, "n1", vanished })
	<-began
	g.lead("n2", 2)
	call := newCall()
	r.Submit(5, 0, number(1), call)
	if outcome := call.wait(t); outcome != session.Success {
		t.Error(outcome)
	}
	for len(ended) > 1 {
		<-ended // a slow machine may have dialled more than once
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the last dial ended with %v", err)
	}
}

// A master may be behind the news: one that leads an older epoch, or another node at its address, is not accepted.
func TestWrongMasterIsNotAccepted(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	m := g.lead("n2", 1)
	g.update(func(s *smr.Status) { s.Master = "n3" })
	r := start(t, testConfig(g))
	until(t, "refused the wrong node", func() bool { return m.accepted.Load() >= 2 })
	if master := r.Stats().Master; master != "" {
		t.Errorf("connected to %s", master)
	}
	g.update(func(s *smr.Status) { s.Master, s.Epoch = "n2", 2 })
	before := m.accepted.Load()
	until(t, "refused the stale master", func() bool { return m.accepted.Load() >= before+2 })
	if master := r.Stats().Master; master != "" {
		t.Errorf("connected to %s", master)
	}
}

func TestRunEndsWhenTheLogBeginsBehindUs(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	r := start(t, testConfig(g))
	until(t, "attached", func() bool { return r.Stats().Attached })
	g.update(func(s *smr.Status) { s.Start = 1 << 20 })
	if err := r.end(t); !errors.Is(err, ErrTrimmed) || !strings.Contains(err.Error(), "checkpoint") {
		t.Errorf("Run: %v", err)
	}
}

func TestRunEndsAtTheWrongDoor(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	config := testConfig(g)
	config.Cluster = "other"
	r := start(t, config)
	var rejected *wire.RejectedError
	if err := r.end(t); !errors.As(err, &rejected) || rejected.Code != smr.RejectForeign {
		t.Errorf("Run: %v", err)
	}
}

func TestRunEndsWithTheMachinesError(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	broken := errors.New("broken")
	r := startTape(t, testConfig(g), &tape{own: 7, fail: broken})
	if err := r.end(t); !errors.Is(err, broken) {
		t.Errorf("Run: %v", err)
	}
}

// A little that has become safe is executed by who hears of it, much is left to the apply loop, and the Machine's error ends Run from either.
func TestLittleIsExecutedByWhoHearsOfIt(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	r := startTape(t, testConfig(g), &tape{own: 7, stacks: true})
	n := uint64(0)
	submit := func() *call {
		call := newCall()
		r.Submit(5, 1, number(n), call)
		n++
		return call
	}
	until(t, "who hears of a frame executes it", func() bool { // behind the proof of the log, which is the apply loop's
		if outcome := submit().wait(t); outcome != session.Success {
			t.Fatal(outcome)
		}
		heard, _ := r.tape.executors()
		return heard >= 3
	})
	g.hold.Store(true)
	before := g.logEnd()
	var calls []*call
	for g.logEnd()-before <= hereBytes {
		calls = append(calls, submit())
	}
	_, looped := r.tape.executors()
	g.hold.Store(false)
	calls = append(calls, submit())
	for i, call := range calls {
		if outcome := call.wait(t); outcome != session.Success {
			t.Fatal(i, outcome)
		}
	}
	if _, now := r.tape.executors(); now == looped {
		t.Error("the apply loop has executed nothing of more than it is left for")
	}
	r.tape.mu.Lock()
	r.tape.slow = true
	r.tape.mu.Unlock()
	heard, _ := r.tape.executors()
	for range 5 {
		submit().wait(t)
	}
	if now, _ := r.tape.executors(); now != heard {
		t.Error("who hears the replicator has executed what may take long")
	}
	r.tape.mu.Lock()
	r.tape.slow = false
	r.tape.mu.Unlock()
	checkTape(t, r.tape.executed(), 1, int(n))
	broken := errors.New("broken")
	r.tape.mu.Lock()
	r.tape.fail = broken
	r.tape.mu.Unlock()
	submit()
	if err := r.end(t); !errors.Is(err, broken) {
		t.Errorf("Run: %v", err)
	}
}

// When Run ends, everybody who waits is answered, and whoever comes later is turned away.
func TestEverybodyIsAnsweredAtTheEnd(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	g.hold.Store(true)
	r := start(t, testConfig(g))
	until(t, "connected", func() bool { return r.Stats().Master == "n2" })
	sent := newCall()
	r.Submit(5, 0, number(1), sent)
	var frames smr.LSN
	until(t, "the request is at the master", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		frames = g.log.End()
		return frames > g.status.Safe
	})
	waited := make(chan error, 1)
	r.WaitApplied(frames, func(err error) { waited <- err })
	r.stop()
	if outcome := sent.wait(t); outcome != Uncertain {
		t.Errorf("sent: %s", outcome)
	}
	if err := <-waited; !errors.Is(err, ErrClosed) {
		t.Errorf("waiting for an LSN: %v", err)
	}
	if err := r.end(t); err != nil {
		t.Errorf("Run: %v", err)
	}
	late := newCall()
	r.Submit(5, 0, number(2), late)
	if outcome := late.wait(t); outcome != Refused {
		t.Errorf("submitted afterwards: %s", outcome)
	}
	reads := 0
	r.ReadIndex(func(_ smr.LSN, err error) { reads++ })
	r.Read(func(_ smr.LSN, err error) { reads++ })
	r.WaitApplied(frames, func(err error) { reads++ })
	r.CountCopies(0, func(_ int, err error) { reads++ })
	if reads != 4 {
		t.Errorf("%d of 4 were answered afterwards", reads)
	}
}

// A full client stops its callers until there is room, or turns them away if it is told to.
func TestFullClient(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		g := newGroup(t)
		g.serveLocal()
		g.lead("n2", 1)
		g.hold.Store(true)
		config := testConfig(g)
		config.MaxPending, config.RefuseWhenFull = 3, refuse
		r := start(t, config)
		calls := []*call{}
		for i := range uint64(3) {
			calls = append(calls, newCall())
			r.Submit(5, 0, number(i), calls[i])
		}
		returned := make(chan struct{})
		fourth := newCall()
		go func() {
			r.Submit(5, 0, number(3), fourth)
			close(returned)
		}()
		if refuse {
			if outcome := fourth.wait(t); outcome != Overloaded {
				t.Errorf("full: %s", outcome)
			}
		} else {
			until(t, "blocked", r.inbox.isBlocked)
			select {
			case <-returned:
				t.Error("Submit returned although there is no room")
			default:
			}
		}
		g.release()
		for i, call := range calls {
			if outcome := call.wait(t); outcome != session.Success {
				t.Errorf("request %d: %s", i, outcome)
			}
		}
		if !refuse {
			if outcome := fourth.wait(t); outcome != session.Success {
				t.Errorf("blocked: %s", outcome)
			}
		}
		<-returned
		tooLarge := newCall()
		r.Submit(5, 0, make([]byte, smr.MaxPayload+1), tooLarge)
		if outcome := tooLarge.wait(t); outcome != TooLarge {
			t.Errorf("too large: %s", outcome)
		}
	}
}

// Payloads of all sizes arrive as they were, also when the caller uses its memory again at once.
func TestPayloadsAreCopied(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	r := start(t, testConfig(g))
	buffer := make([]byte, 3<<20)
	calls := []*call{}
	for i, size := range []int{8, 100, 5000, arenaAlone, arenaAlone + 1, 200 << 10, 3 << 20, 8, 60 << 10, 60 << 10, 60 << 10, 60 << 10, 60 << 10} {
		payload := buffer[:size]
		binary.LittleEndian.PutUint64(payload, uint64(i))
		call := newCall()
		calls = append(calls, call)
		r.Submit(5, 0, payload, call)
		clear(payload)
	}
	for i, call := range calls {
		if outcome := call.wait(t); outcome != session.Success {
			t.Errorf("request %d: %s", i, outcome)
		}
	}
	if executed := r.tape.executed(); fmt.Sprint(executed) != "[0 1 2 3 4 5 6 7 8 9 10 11 12]" {
		t.Errorf("executed %v", executed)
	}
}

// A log that cannot be read for a while holds the client up, says so, and does it no harm.
func TestUnreadableLogIsTriedAgain(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	r := start(t, testConfig(g))
	until(t, "applied", func() bool { return r.Applied() == g.end() })
	end := g.end()
	g.update(func(s *smr.Status) { s.Safe = end + 1000 })
	until(t, "trouble is told", func() bool { return r.Stats().Trouble != "" })
	if applied := r.Applied(); applied != end {
		t.Errorf("applied %d, the log ends at %d", applied, end)
	}
	call := newCall()
	r.Submit(5, 0, number(1), call)
	if outcome := call.wait(t); outcome != session.Success {
		t.Error(outcome)
	}
	until(t, "trouble is over", func() bool { return r.Stats().Trouble == "" })
}

// A client that begins in the middle gets the frames from there. Without a master it still executes what is safe.
func TestClientBeginsWhereItsStateStands(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	middle := g.end()
	request := smr.AppendRequest(nil, smr.Request{Session: 99, Sequence: 1, Slot: 1, Payload: number(42)})
	g.append(smr.Frame{Epoch: 1, Kind: smr.KindRequests, Count: 1, Body: request})
	g.update(func(s *smr.Status) { s.Master, s.MasterAddr = "", "" })
	config := testConfig(g)
	config.Applied, config.Checkpoint = middle, middle
	r := start(t, config)
	until(t, "applied", func() bool { return r.Applied() == g.end() })
	if executed := r.tape.executed(); fmt.Sprint(executed) != "[42]" {
		t.Errorf("executed %v", executed)
	}
}

// What could go wrong: reads under a lease, of which the replicator does not know, go on while it takes its master for unused and lets the
// lease run out. Of nothing that was read nothing is told.
func TestUseOfALeaseIsTold(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	m := g.lead("n1", 1)
	r := start(t, testConfig(g))
	until(t, "applied", func() bool { return r.Proved() && r.Applied() == g.end() && r.Stats().Master == "n1" })
	file := filepath.Join(t.TempDir(), "page")
	w, err := page.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	clocks := page.Now()
	w.Tick(clocks)
	w.Show(clocks.Boot+time.Hour.Microseconds(), g.end())
	shown, err := page.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	r.page.Store(shown)
	if r.leased.Load() || m.asked.Load() != 0 {
		t.Fatal("a use is told, and there was none")
	}
	for range 2 {
		before := m.asked.Load()
		if lsn, ok := r.ReadLease(); !ok || lsn != g.end() {
			t.Fatalf("the lease answers %d %v", lsn, ok)
		}
		until(t, "the use is told", func() bool { return m.asked.Load() > before })
	}
}

// What could go wrong: somebody begins to wait while the session rests, and the ticks that count for him come late.
func TestWhoBeginsToWaitEndsTheRest(t *testing.T) {
	c, err := New(Config{Cluster: "c", Group: "g1", Node: "n1", Session: 1, SocketPath: "/x"}, &tape{})
	if err != nil {
		t.Fatal(err)
	}
	l := c.session
	if pace := l.pace(); pace != idleTicks*tick {
		t.Errorf("a session without work comes round each %v", pace)
	}
	for _, want := range []int{1, 0} { // without a connection it waits for one; that it is awake is known then
		l.finish()
		if len(l.stirred) != want {
			t.Errorf("stirred %d times", len(l.stirred))
		}
		for len(l.stirred) > 0 {
			<-l.stirred
		}
	}
	if pace := l.pace(); pace != tick {
		t.Errorf("a session that waits comes round each %v", pace)
	}
}

// Those who wait for an LSN are answered in order of the LSN, and no sooner.
func TestWaitersAreAnsweredInOrder(t *testing.T) {
	var a applied
	a.init(100, Config{MaxReads: 4, Timeout: time.Minute})
	var got []int
	for i, lsn := range []smr.LSN{100, 300, 200, 200, 250, 400} {
		a.wait(lsn, func(err error) {
			if err != nil {
				i = -i
			}
			got = append(got, i)
		})
	}
	a.advance(199)
	a.advance(250)
	a.advance(1000)
	if fmt.Sprint(got) != "[0 -5 2 3 4 1]" {
		t.Errorf("answered %v", got)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Cluster: "c", Group: "g1", Node: "n1", Session: 1, SocketPath: "/x"}
	if err := good.Validate(); err != nil {
		t.Errorf("good: %v", err)
	}
	err := Config{Node: "N 1", KVAddr: strings.Repeat("x", 300), Checkpoint: 1, MaxPendingBytes: 1, Timeout: time.Nanosecond}.Validate()
	if err == nil || len(strings.Split(err.Error(), "\n")) != 9 {
		t.Errorf("bad: %v", err)
	}
	if _, err := New(Config{}, nil); err == nil {
		t.Error("New takes an empty config")
	}
}

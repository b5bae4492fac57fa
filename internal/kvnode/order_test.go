package kvnode

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lockstep/internal/kv"
	"lockstep/smr"
	"lockstep/smr/client"
)

// A pipeline of reads, writes and commands of the shell must be answered in order, and each command must see what
// those before it did and nothing of those behind it.
func TestPipelineKeepsProgramOrder(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	c.send("GET a", "SET a 1", "GET a", "SET a 2", "PING", "GET a", "INCR a", "GET a", "DEL a", "GET a", "ECHO x")
	c.want("$-1\r\n", "+OK\r\n", "$1\r\n1\r\n", "+OK\r\n", "+PONG\r\n", "$1\r\n2\r\n", ":3\r\n", "$1\r\n3\r\n", ":1\r\n", "$-1\r\n", "$1\r\nx\r\n")
}

// Large pipelines are cut into several runs; none may lose or swap a reply.
func TestLongPipeline(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	const count = 20000
	var lines []string
	for i := range count {
		lines = append(lines, fmt.Sprintf("INCR n%d", i%7), fmt.Sprintf("GET n%d", i%7))
	}
	go c.send(lines...)
	for i := range count {
		n := fmt.Sprint(i/7 + 1)
		c.want(":"+n+"\r\n", fmt.Sprintf("$%d\r\n%s\r\n", len(n), n))
	}
}

// A write on one node is seen by a read on another that arrives after the acknowledgement, however far that node lags.
func TestReadWaitsUntilTheNodeHasCaughtUp(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	g.set(func() { g.nodes[1].lagging = true })
	a.expect("SET k v", "+OK\r\n")
	b.send("GET k", "STRLEN k")
	eventually(t, "reader waits", func() bool { return g.nodes[1].node.applied.waiting.Load() == 1 })
	g.set(func() { g.nodes[1].lagging = false })
	b.want("$1\r\nv\r\n", ":1\r\n")
}

// Refused writes are answered in place; reads around them are still linearizable, and keep their order.
func TestRefusedWritesAmongReads(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	c.expect("SET a 1", "+OK\r\n")
	set := func(refusing bool) {
		g.nodes[0].mu.Lock()
		g.nodes[0].refusing = refusing
		g.nodes[0].mu.Unlock()
	}
	set(true)
	c.send("GET a", "SET a 2", "GET a", "INCR a")
	c.want("$1\r\n1\r\n")
	if got := string(c.next()); !strings.HasPrefix(got, "-NOREPLICAS Not enough good replicas to write. Group g1: ") {
		t.Fatal(got)
	}
	c.want("$1\r\n1\r\n")
	if got := string(c.next()); !strings.HasPrefix(got, "-NOREPLICAS") {
		t.Fatal(got)
	}
	set(false)
	c.expect("INCR a", ":2\r\n")
}

// A write whose outcome is unknown is answered as such; when it is executed later its reply must not reach anybody, and
// later commands of the connection must get their own replies.
func TestUncertainWriteIsExecutedLater(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	c.expect("SET a 10", "+OK\r\n")
	g.set(func() { g.held = true })
	c.send("INCR a", "GET a", "INCR a")
	eventually(t, "two writes wait", func() bool { return g.nodes[0].pending() == 2 })
	g.set(func() { g.noReads = true })
	g.nodes[0].giveUp()
	for _, prefix := range []string{"-UNCERTAIN the outcome of this write is unknown", "-MASTERDOWN this read cannot be linearizable now", "-UNCERTAIN "} {
		if got := string(c.next()); !strings.HasPrefix(got, prefix) {
			t.Fatalf("reply %q, want %q...", got, prefix)
		}
	}
	c.send("INCR a", "GET a")
	eventually(t, "a third write waits", func() bool { return g.nodes[0].pending() == 1 })
	g.set(func() { g.held, g.noReads = false, false })
	c.want(":13\r\n", "$2\r\n13\r\n")
}

// A write that is being given up as unknown at the moment at which it comes up in the log, so that the log no longer
// knows who waits for it and the connection has not been told yet, was executed: its reply may not say that it never will
// be.
func TestWriteGivenUpWhileItIsExecutedIsUncertain(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	g.set(func() { g.held = true })
	c.send("INCR a", "INCR a", "GET a")
	eventually(t, "two writes wait", func() bool { return g.nodes[0].pending() == 2 })
	withdrawn := g.nodes[0].Take(1) // as smr/client does before it calls Finish
	g.set(func() { g.held = false })
	if got := string(c.next()); !strings.HasPrefix(got, "-UNCERTAIN ") {
		t.Fatalf("the first write was executed, and its reply is %q", got)
	}
	c.want(":2\r\n", "$1\r\n2\r\n")
	withdrawn.Finish(client.Uncertain)
	c.expect("GET a", "$1\r\n2\r\n")
}

// A client that leaves while its writes are pending: they are executed, and nothing is stuck.
func TestClientLeavesWithWritesPending(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	g.set(func() { g.held = true })
	a := dial(t, address)
	a.send("INCR a", "INCR a", "INCR a")
	eventually(t, "writes wait", func() bool { return g.nodes[0].pending() == 3 })
	a.Close()
	g.set(func() { g.held = false })
	b := dial(t, address)
	eventually(t, "the writes are executed", func() bool { // nobody was told of them: a read need not see them at once
		b.send("GET a")
		return string(b.next()) == "$1\r\n3\r\n"
	})
	eventually(t, "the connection ends", func() bool { return g.nodes[0].node.clients.count() == 1 })
}

// A key that has expired by the clock is not read as alive although no frame has moved log time.
func TestReadOfKeyThatExpiredOnIdleStream(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	c.expect("SET k v PX 30", "+OK\r\n")
	c.expect("SET other v", "+OK\r\n")
	c.expect("SET k2 v PX 60", "+OK\r\n")
	eventually(t, "key expires", func() bool { return c.do("GET k") == "$-1\r\n" })
	var before, now smr.LSN
	g.set(func() { before = g.end })
	c.expect("GET other", "$1\r\nv\r\n")
	c.expect("MGET k k", "*2\r\n$-1\r\n$-1\r\n")
	g.set(func() { now = g.end })
	n := g.nodes[0].node
	n.lock.RLock()
	due := n.machine.EarliestDue()
	n.lock.RUnlock()
	if now != before && due != 0 {
		t.Error("a read that needs no newer log time wrote to the log")
	}
	eventually(t, "the second expires", func() bool { return c.do("DBSIZE") == ":1\r\n" })
	c.send("MULTI", "GET k2", "EXEC")
	c.want("+OK\r\n", "+QUEUED\r\n", "*1\r\n$-1\r\n")
}

// slowSubmission holds up the goroutine that applies the log.
type slowSubmission struct {
	Submission
	entered, goOn chan struct{}
}

func (s slowSubmission) Execute(m *kv.Machine, at kv.Instant, request smr.Request, end smr.LSN) {
	close(s.entered)
	<-s.goOn
	s.Submission.Execute(m, at, request, end)
}

// Readers get their turn in the middle of a long frame. A digest taken there would belong to no LSN, and replicas that
// are equal would seem to differ.
func TestDigestIsTakenBetweenFrames(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	const each = lockRequests / 4
	clients, address := make([]*redisClient, 10), g.serve(t, 0)
	for i := range clients {
		clients[i] = dial(t, address)
		clients[i].expect("SET a 0", "+OK\r\n")
	}
	n := g.nodes[0].node
	before, start := n.digest()
	g.set(func() { g.held = true })
	for _, c := range clients {
		c.send(strings.Split(strings.Repeat("INCR a\n", each)+"PING", "\n")...)
	}
	eventually(t, "a long frame waits", func() bool { return g.nodes[0].pending() == each*len(clients) })
	slow := slowSubmission{entered: make(chan struct{}), goOn: make(chan struct{})}
	g.nodes[0].mu.Lock()
	const early = 20 // its sequence
	slow.Submission = g.nodes[0].waiting[early]
	g.nodes[0].waiting[early] = slow
	g.nodes[0].mu.Unlock()
	g.set(func() { g.held = false })
	<-slow.entered
	type taken struct {
		sum string
		lsn smr.LSN
	}
	meanwhile := make(chan taken)
	go func() {
		sum, lsn := n.digest()
		meanwhile <- taken{sum, lsn}
	}()
	time.Sleep(20 * time.Millisecond) // so that it waits; if it does not yet, nothing is found
	close(slow.goOn)
	got := <-meanwhile
	for _, c := range clients {
		for range each {
			c.next()
		}
		c.want("+PONG\r\n")
	}
	after, end := n.digest()
	if got != (taken{before, start}) && got != (taken{after, end}) {
		t.Errorf("digest at %d is neither that at %d nor that at %d", got.lsn, start, end)
	}
}

package kvnode

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// waiters returns how many commands wait in the state of a node.
func (l *fakeLog) waiters() int {
	l.node.lock.RLock()
	defer l.node.lock.RUnlock()
	return l.node.machine.AllWaiters()
}

func awaitWaiters(t *testing.T, l *fakeLog, count int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d commands wait", count), func() bool { return l.waiters() == count })
}

// What was sent before a blocking command is answered while it waits; what was sent behind it waits.
func TestBlockedCommandHoldsBackWhatFollows(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	a, b := dial(t, address), dial(t, address)
	a.send("SET x 1", "BLPOP l m 0", "SET x 2", "GET x", "RPUSH l again", "BLPOP l 0", "PING")
	a.want("+OK\r\n")
	awaitWaiters(t, g.nodes[0], 1)
	b.expect("GET x", "$1\r\n1\r\n")
	b.expect("RPUSH m v w", ":2\r\n")
	a.want("*2\r\n$1\r\nm\r\n$1\r\nv\r\n", "+OK\r\n", "$1\r\n2\r\n", ":1\r\n", "*2\r\n$1\r\nl\r\n$5\r\nagain\r\n", "+PONG\r\n")
	b.expect("LRANGE m 0 -1", "*1\r\n$1\r\nw\r\n")
}

// Whoever waited first is served first, on whichever nodes they and the pushing client are; each gets the reply in its own
// protocol, and a push feeds as many as it has elements for.
func TestWaitersAreServedInOrderAcrossNodes(t *testing.T) {
	g := newFakeGroup(t, 3, nil)
	addresses := []string{g.serve(t, 0), g.serve(t, 1), g.serve(t, 2)}
	var blocked []*redisClient
	for i := range 6 {
		c := dial(t, addresses[i%3])
		if i == 4 {
			c.send("HELLO 3")
			c.next()
			c.send("BZPOPMIN z 0")
		} else {
			c.send("BLPOP l 0")
		}
		awaitWaiters(t, g.nodes[i%3], i+1)
		blocked = append(blocked, c)
	}
	pusher := dial(t, addresses[1])
	pusher.expect("RPUSH l a b c", ":3\r\n")
	for i, element := range []string{"a", "b", "c"} {
		blocked[i].want("*2\r\n$1\r\nl\r\n$1\r\n" + element + "\r\n")
	}
	pusher.send("MULTI", "RPUSH l d e f", "LPOP l", "ZADD z 1.5 m", "EXEC")
	pusher.want("+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*3\r\n:3\r\n$1\r\nd\r\n:1\r\n")
	blocked[3].want("*2\r\n$1\r\nl\r\n$1\r\ne\r\n")
	blocked[5].want("*2\r\n$1\r\nl\r\n$1\r\nf\r\n")
	blocked[4].want("*3\r\n$1\r\nz\r\n$1\r\nm\r\n,1.5\r\n")
	pusher.expect("EXISTS l z", ":0\r\n")
	for i, c := range blocked {
		c.expect("PING", "+PONG\r\n")
		if n := g.nodes[i%3].node.blocked.count(); n != 0 {
			t.Errorf("node %d keeps %d blocked commands", i%3, n)
		}
	}
}

// A time-out is a record: it is tried again until the group takes it.
func TestBlockedCommandTimesOut(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	c.expect("BLPOP l 0.02", "*-1\r\n")
	c.expect("BLMOVE l m LEFT RIGHT 0.02", "*-1\r\n")
	c.send("BLPOP l 0.3")
	awaitWaiters(t, g.nodes[0], 1)
	refuse := func(refusing bool) {
		g.nodes[0].mu.Lock()
		defer g.nodes[0].mu.Unlock()
		g.nodes[0].refusing = refusing
	}
	refuse(true)
	time.Sleep(500 * time.Millisecond) // so that it is refused; if it is not yet, less is shown
	refuse(false)
	c.want("*-1\r\n")
	c.expect("PING", "+PONG\r\n")
	if n := g.nodes[0].waiters(); n != 0 {
		t.Errorf("%d commands wait", n)
	}
}

// A client that leaves while it waits takes nothing with it, whether it has sent nothing more, or so much that its end
// stands behind bytes that nobody has read.
func TestBlockedClientLeaves(t *testing.T) {
	for name, behind := range map[string]int{"silent": 0, "with commands behind": 3, "with more than the buffer takes": 4000} {
		t.Run(name, func(t *testing.T) {
			g := newFakeGroup(t, 1, func(c *Config) { c.MaxQuery = 64 << 10 })
			address := g.serve(t, 0)
			a, b := dial(t, address), dial(t, address)
			a.send("BLPOP l 0")
			awaitWaiters(t, g.nodes[0], 1)
			a.send(strings.Split(strings.Repeat("RPUSH l x\n", behind)+"PING", "\n")...)
			a.Close()
			awaitWaiters(t, g.nodes[0], 0)
			b.expect("RPUSH l v", ":1\r\n")
			eventually(t, "the connection ends", func() bool { return g.nodes[0].node.clients.count() == 1 })
		})
	}
}

// CLIENT UNBLOCK and CLIENT KILL end the wait of another client; of two that want to end it one wins.
func TestClientUnblock(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	a, b := dial(t, address), dial(t, address)
	id := strings.Trim(a.do("CLIENT ID"), ":\r\n")
	b.expect("CLIENT UNBLOCK "+id, ":0\r\n")
	for _, way := range []struct{ how, reply string }{
		{"", "*-1\r\n"}, {" TIMEOUT", "*-1\r\n"}, {" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"},
	} {
		a.send("BRPOP l 0")
		eventually(t, "it is listed as blocked", func() bool {
			return strings.Contains(b.do("CLIENT LIST"), "id="+id+" ") && strings.Contains(b.do("CLIENT LIST"), "flags=b ")
		})
		b.expect("CLIENT UNBLOCK "+id+way.how, ":1\r\n")
		b.expect("CLIENT UNBLOCK "+id+way.how, ":0\r\n")
		a.want(way.reply)
	}
	a.send("BRPOP l 0")
	awaitWaiters(t, g.nodes[0], 1)
	b.expect("CLIENT KILL ID "+id, ":1\r\n")
	awaitWaiters(t, g.nodes[0], 0)
	if got := a.next(); got != nil {
		t.Errorf("killed, and answered %q", got)
	}
}

// A blocking command whose outcome was unknown and that then came up in the log waits for nobody: it is ended, and no
// element is lost to it.
func TestUncertainBlockingCommandLeavesNoWaiter(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	a, b := dial(t, address), dial(t, address)
	g.set(func() { g.held = true })
	a.send("BLPOP l 0")
	eventually(t, "it is sent", func() bool { return g.nodes[0].pending() == 1 })
	g.nodes[0].giveUp()
	if got := string(a.next()); !strings.HasPrefix(got, "-UNCERTAIN ") {
		t.Fatalf("reply %q", got)
	}
	g.set(func() { g.held = false })
	b.expect("SET x 1", "+OK\r\n")
	awaitWaiters(t, g.nodes[0], 0)
	b.expect("RPUSH l v", ":1\r\n")
	b.expect("LLEN l", ":1\r\n")
	a.expect("PING", "+PONG\r\n")
}

// In a transaction nothing waits, and a node that stops lets its blocked clients go.
func TestBlockingCommandsInTransactionAndAtTheEnd(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	c := dial(t, address)
	c.send("MULTI", "BLPOP l 0", "BLMOVE l m LEFT LEFT 0", "BZMPOP 0 1 z MIN", "EXEC")
	c.want("+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*3\r\n*-1\r\n$-1\r\n*-1\r\n")
	c.send("BLPOP l 0")
	awaitWaiters(t, g.nodes[0], 1) // and the clean-up of serve waits for the connection to end
}

// The first sign of a restarted node, which has a new session, ends what waited on the old one.
func TestRestartedNodeEndsItsOldWaiters(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	c := dial(t, g.serve(t, 0))
	c.send("BLPOP l 0")
	awaitWaiters(t, g.nodes[1], 1)
	l := g.nodes[0]
	eventually(t, "the first sign is in the log", func() bool {
		l.node.lock.RLock()
		defer l.node.lock.RUnlock()
		return l.node.machine.LastSequence(l.node.session) == 2
	})
	other := g.nodes[1]
	other.node.submitRecord(kv.SignRecord("n1"), func(bool, []byte) {}) // node n2 says that it is n1
	if got := string(c.next()); !strings.HasPrefix(got, "-UNBLOCKED force unblock ") {
		t.Errorf("reply %q", got)
	}
	awaitWaiters(t, g.nodes[1], 0)
}

// Signs keep a wait alive however long log time runs; a session that shows none loses its waiters.
func TestWaitersOfSilentSessionEnd(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	stamp := time.Now().UnixMilli()
	g.set(func() { g.clock = func() int64 { stamp += 900; return stamp } })
	c := dial(t, g.serve(t, 0))
	c.send("BLPOP l 0")
	awaitWaiters(t, g.nodes[1], 1)
	for range 10 {
		g.tick()
	}
	signed := make(chan struct{})
	g.nodes[0].node.submitRecord(kv.SignRecord("n1"), func(bool, []byte) { close(signed) })
	<-signed // the ticks behind it would end the wait if they came before
	for range 10 {
		g.tick()
	}
	awaitWaiters(t, g.nodes[1], 1)
	end := smr.LSN(0)
	for range 20 {
		g.tick()
	}
	g.set(func() { end = g.end })
	eventually(t, "the ticks are executed", func() bool { return g.nodes[1].node.Applied() >= end })
	awaitWaiters(t, g.nodes[1], 0)
	if got := string(c.next()); !strings.HasPrefix(got, "-UNBLOCKED force unblock ") {
		t.Errorf("reply %q", got)
	}
}

// A node goes on with the image of a peer, in which a command of its own waits that it had only sent: its client was told that
// the outcome is unknown, so nobody waits for the reply. It is ended, and takes no element for as long as the node lives.
func TestImageWithAWaiterOfNobody(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	g.serve(t, 0)
	node := g.nodes[0].node
	g.set(func() { g.held = true })
	machine := kv.New()
	blpop := smr.Request{Session: node.session, Sequence: 1, Slot: smr.NoSlot,
		Payload: kv.AppendCommand(nil, [][]byte{[]byte("BLPOP"), []byte("l"), []byte("0")})}
	var reply resp.Reply
	machine.Apply(kv.Instant{LSN: 1, Stamp: 1}, blpop, &reply)
	machine.Advance(1, 100)
	node.become(machine)
	end := kv.Envelope{}.AppendRecord(nil, kv.WaiterRecord(kv.WaiterGone, 1))
	eventually(t, "the end of the command is submitted", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return bytes.Contains(g.pending, end)
	})
}

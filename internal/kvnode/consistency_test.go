package kvnode

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A node that lags behind: linearizable reads wait for it, stale ones do not, one at least at the LSN of a write waits
// exactly for that, and a bound that nobody can confirm is refused.
func TestConsistencyOfReads(t *testing.T) {
	g := newFakeGroup(t, 2, func(c *Config) { c.WriteTimeout = 2 * time.Second })
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	a.expect("SMR LSN", ":0\r\n")
	a.expect("SET k old", "+OK\r\n")
	b.expect("GET k", "$3\r\nold\r\n")
	g.set(func() { g.nodes[1].lagging = true })
	a.expect("SET k new", "+OK\r\n")
	lsn := strings.Trim(a.do("SMR LSN"), ":\r\n")
	b.expect("SMR CONSISTENCY", "+LINEARIZABLE\r\n")
	b.expect("SMR CONSISTENCY STALE", "+OK\r\n")
	b.expect("GET k", "$3\r\nold\r\n")
	b.send("MULTI", "GET k", "EXEC")
	b.want("+OK\r\n", "+QUEUED\r\n", "*1\r\n$3\r\nold\r\n")
	b.expect("SMR CONSISTENCY ATLEAST 1", "+OK\r\n")
	b.expect("GET k", "$3\r\nold\r\n")
	b.expect("SMR CONSISTENCY ATLEAST "+lsn, "+OK\r\n")
	b.expect("SMR CONSISTENCY", "+ATLEAST "+lsn+"\r\n")
	b.send("GET k")
	eventually(t, "reader waits", func() bool { return g.nodes[1].node.applied.waiting.Load() == 1 })
	g.set(func() { g.nodes[1].lagging = false })
	b.want("$3\r\nnew\r\n")
	b.expect("SMR CONSISTENCY ATLEAST 1"+lsn, "+OK\r\n")
	if got := b.do("GET k"); !strings.HasPrefix(got, "-MASTERDOWN this read cannot be as new as SMR CONSISTENCY ATLEAST 1"+lsn+" asks: this node has executed the log up to LSN "+lsn) {
		t.Errorf("an LSN that is not there: %q", got)
	}
	b.expect("READWRITE", "+OK\r\n")
	b.expect("GET k", "$3\r\nnew\r\n")
	g.set(func() { g.noReads = true })
	if got := b.do("GET k"); !strings.HasPrefix(got, "-MASTERDOWN this read cannot be linearizable now") {
		t.Errorf("linearizable: %q", got)
	}
	b.expect("READONLY", "+OK\r\n")
	b.expect("GET k", "$3\r\nnew\r\n")
	b.expect("RESET", "+RESET\r\n")
	b.expect("SMR CONSISTENCY", "+LINEARIZABLE\r\n")
	for _, wrong := range []string{"SMR CONSISTENCY BOUNDED", "SMR CONSISTENCY FRESH", "SMR CONSISTENCY STALE 1", "SMR CONSISTENCY BOUNDED 0", "SMR CONSISTENCY BOUNDED x", "SMR CONSISTENCY ATLEAST -1", "SMR DURABILITY 2", "SMR DURABILITY COPIES 0", "SMR DURABILITY COPIES 65"} {
		if got := b.do(wrong); !strings.HasPrefix(got, "-ERR ") {
			t.Errorf("%s: %q", wrong, got)
		}
	}
}

// What could go wrong: the replicator beside a node comes back with the log of another history, of a forced recovery, and a read at an LSN, or
// one with a bound, is answered from what that history has given up. It waits, and is an error when the doubt does not end.
func TestReadsAreNotAnsweredFromAStateInDoubt(t *testing.T) {
	g := newFakeGroup(t, 1, func(c *Config) { c.WriteTimeout = 2 * time.Second })
	node := g.nodes[0]
	c := dial(t, g.serve(t, 0))
	c.expect("SET k v", "+OK\r\n")
	c.expect("GET k", "$1\r\nv\r\n") // fresh from now on
	for _, consistency := range []string{"ATLEAST 1", "ATLEAST 0", "BOUNDED 3600000"} {
		g.set(func() { node.doubted, g.noReads = false, false })
		c.expect("SMR CONSISTENCY "+consistency, "+OK\r\n")
		c.expect("GET k", "$1\r\nv\r\n")
		// A linearizable read would get no answer in doubt; nor does one that the bound lets do without.
		g.set(func() { node.doubted, g.noReads = true, true })
		waits := func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(node.trusting) == 1
		}
		for _, transaction := range []bool{false, true} {
			if transaction {
				c.send("MULTI", "GET k")
				c.want("+OK\r\n", "+QUEUED\r\n")
				c.send("EXEC")
			} else {
				c.send("GET k")
			}
			if strings.HasPrefix(consistency, "ATLEAST") {
				eventually(t, "reader waits", waits)
				node.endDoubt(errFakeNoMaster)
			}
			if got := string(c.next()); !strings.HasPrefix(got, "-MASTERDOWN this read cannot be as new as SMR CONSISTENCY "+consistency) {
				t.Errorf("%s in doubt: %q", consistency, got)
			}
		}
		if strings.HasPrefix(consistency, "ATLEAST") {
			c.send("GET k")
			eventually(t, "reader waits", waits)
			node.endDoubt(nil)
			c.want("$1\r\nv\r\n")
		}
	}
	c.expect("SMR CONSISTENCY STALE", "+OK\r\n")
	g.set(func() { node.doubted = true })
	c.expect("GET k", "$1\r\nv\r\n")
}

// Whatever tells of the replicated state is as new as a GET would be, and refused where a GET is: what the machine answers, and what the
// shell reads of it.
func TestEveryLookAtTheStateIsLinearizable(t *testing.T) {
	g := newFakeGroup(t, 2, func(c *Config) { c.WriteTimeout = 2 * time.Second })
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	for _, c := range []struct{ change, ask, reply string }{
		{"CONFIG SET hash-max-listpack-entries 33", "CONFIG GET hash-max-listpack-entries", "*2\r\n$25\r\nhash-max-listpack-entries\r\n$2\r\n33\r\n"},
		{"SET k 1", "DBSIZE", ":1\r\n"},
		{"SETRANGE k 3 x", "OBJECT ENCODING k", "$3\r\nraw\r\n"},
		{"SCRIPT LOAD 'return 1'", "SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "*1\r\n:1\r\n"},
		{`FUNCTION LOAD "#!lua name=lib\nredis.register_function('f', function() return 1 end)"`, "FUNCTION LIST LIBRARYNAME l*",
			"*1\r\n*6\r\n$12\r\nlibrary_name\r\n$3\r\nlib\r\n$6\r\nengine\r\n$3\r\nLUA\r\n$9\r\nfunctions\r\n*1\r\n*6\r\n" +
				"$4\r\nname\r\n$1\r\nf\r\n$11\r\ndescription\r\n$-1\r\n$5\r\nflags\r\n*0\r\n"},
		{"DEL k", "MEMORY USAGE k", "$-1\r\n"},
		{"FLUSHALL", "DEBUG OBJECT k", "-ERR no such key\r\n"},
		{"SET a 1", "RANDOMKEY", "$1\r\na\r\n"},
		{"SET b 1 EX 1000", "EXISTS b", ":1\r\n"},
	} {
		g.set(func() { g.nodes[1].lagging = true })
		if got := a.do(c.change); got[0] == '-' {
			t.Fatalf("%s: %s", c.change, got)
		}
		b.send(c.ask)
		eventually(t, c.ask+" waits", func() bool { return g.nodes[1].node.applied.waiting.Load() == 1 })
		g.set(func() { g.nodes[1].lagging = false })
		b.want(c.reply)
	}
	g.set(func() { g.noReads = true })
	for _, ask := range []string{"CONFIG GET maxmem*", "MEMORY USAGE k", "MEMORY STATS", "DEBUG OBJECT k", "DBSIZE"} {
		if got := b.do(ask); !strings.HasPrefix(got, "-MASTERDOWN this read cannot be linearizable now") {
			t.Errorf("%s: %q", ask, got)
		}
	}
	b.expect("CONFIG GET maxclients", "*2\r\n$10\r\nmaxclients\r\n$5\r\n10000\r\n") // of this node
	b.expect("READONLY", "+OK\r\n")
	b.expect("CONFIG GET maxmemory", "*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n")
	b.expect("MEMORY USAGE none", "$-1\r\n")
}

// A bounded read is served without a round while an earlier round is young enough, and never when it is not.
func TestBoundedStaleness(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	n := g.nodes[0].node
	c.expect("SMR CONSISTENCY BOUNDED 3600000", "+OK\r\n")
	g.set(func() { g.noReads = true })
	refused := "-MASTERDOWN this read cannot be as new as SMR CONSISTENCY BOUNDED 3600000 asks: no master answers"
	if got := c.do("GET k"); !strings.HasPrefix(got, refused) {
		t.Fatalf("nothing was ever confirmed: %q", got)
	}
	g.set(func() { g.noReads = false })
	c.expect("GET k", "$-1\r\n")
	g.set(func() { g.noReads = true })
	c.expect("GET k", "$-1\r\n") // that round is less than an hour old
	n.fresh.at.Store(int64(n.now() - 2*time.Hour))
	if got := c.do("GET k"); !strings.HasPrefix(got, refused) {
		t.Errorf("two hours old: %q", got)
	}
	n.fresh.note(n.now())
	n.fresh.note(n.now() - time.Hour) // a slower round does not take it back
	c.expect("GET k", "$-1\r\n")
}

// A connection that asks for more copies than the group has them acknowledged by waits for them, and is told when they do not
// come: for each write, and in its place.
func TestDurabilityOfConnection(t *testing.T) {
	g := newFakeGroup(t, 1, func(c *Config) { c.WriteTimeout = 300 * time.Millisecond })
	c := dial(t, g.serve(t, 0))
	g.set(func() { g.copies = 2 })
	c.expect("SMR DURABILITY", "+GROUP\r\n")
	c.expect("SMR DURABILITY COPIES 2", "+OK\r\n")
	c.expect("SMR DURABILITY", "+COPIES 2\r\n")
	c.send("SET k 1", "GET k", "INCR k")
	c.want("+OK\r\n", "$1\r\n1\r\n", ":2\r\n")
	c.expect("SMR DURABILITY COPIES 3", "+OK\r\n")
	c.send("GET k", "INCR k", "GET k", "MULTI", "INCR k", "EXEC", "PING", "RPUSH l a", "BLPOP l 0")
	refused := "-NOCOPIES this write was executed and is durable as the group demands, but 2 members were seen to hold it, fewer than the 3 that SMR DURABILITY COPIES asks for"
	for i, want := range []string{"$1\r\n2\r\n", refused, "$1\r\n3\r\n", "+OK\r\n", "+QUEUED\r\n", refused, "+PONG\r\n", refused, refused} {
		if got := string(c.next()); !strings.HasPrefix(got, want) {
			t.Errorf("reply %d is %q", i, got)
		}
	}
	c.expect("GET k", "$1\r\n4\r\n")
	c.send("INCR k")
	g.set(func() { g.copies = 3 })
	if got := string(c.next()); got != ":5\r\n" && !strings.HasPrefix(got, refused) {
		t.Errorf("reply %q", got)
	}
	c.send("BLPOP l 0")
	awaitWaiters(t, g.nodes[0], 1)
	other := dial(t, g.nodes[0].node.address.Load().String())
	other.expect("RPUSH l b", ":1\r\n")
	c.want("*2\r\n$1\r\nl\r\n$1\r\nb\r\n")
	c.expect("SMR DURABILITY GROUP", "+OK\r\n")
	g.set(func() { g.copies = 1 })
	c.expect("SET k 1", "+OK\r\n")
}

// WAIT and WAITAOF count real copies.
func TestWaitAOF(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	g.set(func() { g.copies = 2 })
	c.expect("SET k 1", "+OK\r\n")
	c.expect("WAIT 1 0", ":1\r\n")
	c.expect("WAITAOF 1 1 0", "*2\r\n:1\r\n:1\r\n")
	c.expect("WAITAOF 0 5 20", "*2\r\n:1\r\n:1\r\n")
	for wrong, want := range map[string]string{
		"WAITAOF x 1 0": "value is not an integer or out of range", "WAITAOF 2 1 0": "value is out of range, value must between 0 and 1",
		"WAITAOF 1 -1 0": "value is out of range, must be positive", "WAITAOF 1 1 x": "timeout is not an integer or out of range", "WAITAOF 1 1 -1": "timeout is negative",
	} {
		c.expect(wrong, fmt.Sprintf("-ERR %s\r\n", want))
	}
}

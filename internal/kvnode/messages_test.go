package kvnode

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func push(words ...string) string { return ">" + strings.TrimPrefix(bulks(words...), "*") }

func bulks(words ...string) string {
	text := fmt.Sprintf("*%d\r\n", len(words))
	for _, word := range words {
		text += fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
	}
	return text
}

func confirmation(word, channel string, count int) string {
	return strings.TrimPrefix(bulks("", word, channel), "*3\r\n$0\r\n\r\n") + fmt.Sprintf(":%d\r\n", count)
}

// Messages published through any node reach the listeners of all, in one order, and the reply counts those of the node.
func TestPublishReachesAllNodes(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	addresses := []string{g.serve(t, 0), g.serve(t, 1)}
	a, b := dial(t, addresses[0]), dial(t, addresses[1])
	a.expect("SUBSCRIBE c", "*3\r\n"+confirmation("subscribe", "c", 1))
	b.expect("PSUBSCRIBE c*", "*3\r\n"+confirmation("psubscribe", "c*", 1))
	writer := dial(t, addresses[0])
	writer.expect("PUBLISH c 1", ":1\r\n")
	a.want(bulks("message", "c", "1"))
	b.want(bulks("pmessage", "c*", "c", "1"))
	const count = 200
	var wait sync.WaitGroup
	for i := range 2 {
		w := dial(t, addresses[i])
		wait.Go(func() {
			for j := range count {
				w.do(fmt.Sprintf("PUBLISH c %d-%d", i, j))
			}
		})
	}
	wait.Wait()
	for range 2 * count {
		first, second := string(a.next()), string(b.next())
		if want := strings.Replace(second, "*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n", "*3\r\n$7\r\nmessage\r\n", 1); first != want {
			t.Fatalf("one node has %q, the other %q", first, second)
		}
	}
	a.expect("UNSUBSCRIBE", "*3\r\n"+confirmation("unsubscribe", "c", 0))
	writer.expect("PUBLISH c 2", ":0\r\n")
	a.expect("GET x", "$-1\r\n")
}

// A confirmation comes before the first message, also where the same client publishes in the same pipeline; and a RESP3
// client goes on with other commands meanwhile.
func TestMessagesStandBehindTheirConfirmation(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	c.do("HELLO 3")
	c.send("SUBSCRIBE c", "PUBLISH c 1", "GET k", "UNSUBSCRIBE c", "PUBLISH c 2", "PING")
	c.want(">3\r\n"+confirmation("subscribe", "c", 1), ":1\r\n", "_\r\n", push("message", "c", "1"),
		">3\r\n"+confirmation("unsubscribe", "c", 0), ":0\r\n", "+PONG\r\n")
	c.send("MULTI", "PUBLISH c x", "SSUBSCRIBE s", "SPUBLISH s y", "EXEC", "PING")
	c.want("+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "+QUEUED\r\n")
	for got := ""; got != "+PONG\r\n"; got = string(c.next()) {
	}
}

// A client that waits in a blocking command gets its messages meanwhile.
func TestMessagesPassWhileBlocked(t *testing.T) {
	address := newFakeGroup(t, 1, nil).serve(t, 0)
	c, other := dial(t, address), dial(t, address)
	c.do("HELLO 3")
	c.do("SUBSCRIBE c")
	c.send("BLPOP l 0")
	eventually(t, "it waits", func() bool { return strings.Contains(other.do("INFO clients"), "blocked_clients:1") })
	other.expect("PUBLISH c 1", ":1\r\n")
	c.want(push("message", "c", "1"))
	other.expect("RPUSH l x", ":1\r\n")
	c.want(bulks("l", "x"))
}

// RESP2 clients that listen may do little else, in Redis' words.
func TestListeningClientsAreRestricted(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	c.do("SUBSCRIBE c")
	c.expect("GET k", "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context\r\n")
	c.expect("PING", bulks("pong", ""))
	c.expect("PING x", bulks("pong", "x"))
	c.expect("SSUBSCRIBE s", "*3\r\n"+confirmation("ssubscribe", "s", 1))
	c.expect("RESET", "+RESET\r\n")
	c.expect("GET k", "$-1\r\n")
	c.expect("PUBSUB CHANNELS", "*0\r\n")
	c.expect("PUBSUB SHARDNUMSUB s", "*2\r\n$1\r\ns\r\n:0\r\n")
}

// A listener that does not read is cut at its limit; others get everything.
func TestListenerThatNeverReadsIsCut(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	bad, good, writer := dial(t, address), dial(t, address), dial(t, address)
	writer.expect(`CONFIG SET client-output-buffer-limit "pubsub 1mb 0 0"`, "+OK\r\n")
	bad.do("SUBSCRIBE c")
	good.do("SUBSCRIBE c")
	text := strings.Repeat("x", 50_000)
	want := bulks("message", "c", text)
	for i := 0; g.nodes[0].node.stats.slowReaders.Load() == 0; i++ {
		if i == 1000 {
			t.Fatal("50 MB wait for a client that does not read")
		}
		writer.do("PUBLISH c " + text)
		good.want(want)
	}
	eventually(t, "it is gone", func() bool { return g.nodes[0].node.clients.count() == 2 })
	writer.expect("PUBLISH c 1", ":1\r\n")
	good.want(bulks("message", "c", "1"))
}

// Keyspace events come from the node that executes, to listeners of every node.
func TestKeyspaceEvents(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	a.expect("CONFIG SET notify-keyspace-events KEA", "+OK\r\n")
	a.expect("CONFIG GET notify-keyspace-events", bulks("notify-keyspace-events", "AKE"))
	b.do("PSUBSCRIBE __key*__:*")
	a.expect("SELECT 3", "+OK\r\n")
	a.expect("SET k 1", "+OK\r\n")
	b.want(bulks("pmessage", "__key*__:*", "__keyspace@3__:k", "set"), bulks("pmessage", "__key*__:*", "__keyevent@3__:set", "k"))
}

// What a client remembers must be taken back before anybody can believe it: the message comes behind the reply that showed
// the old value, and no change is missed.
func TestTrackingTellsOfChanges(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	invalid := func(keys ...string) string { return ">2\r\n$10\r\ninvalidate\r\n" + bulks(keys...) }
	b.do("HELLO 3")
	b.expect("CLIENT TRACKING on", "+OK\r\n")
	b.do("GET k")
	a.do("SET k 1")
	b.want(invalid("k"))
	a.do("SET k 2") // not remembered any more
	b.expect("GET k", "$1\r\n2\r\n")
	a.do("DEL k")
	b.want(invalid("k"))
	b.send("MULTI", "GET x", "SET y 1", "EXEC")
	b.want("+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*2\r\n_\r\n+OK\r\n")
	a.do("SET x 1")
	b.want(invalid("x"))
	b.do("GET x")
	b.send("SET x 2", "GET x")
	b.want("+OK\r\n", "$1\r\n2\r\n", invalid("x"))
	a.do("FLUSHALL")
	b.want(">2\r\n$10\r\ninvalidate\r\n_\r\n")

	b.do("CLIENT TRACKING off")
	b.expect("CLIENT TRACKING on OPTIN", "+OK\r\n")
	b.do("GET n")
	b.expect("CLIENT CACHING yes", "+OK\r\n")
	b.do("GET o")
	b.do("GET p")
	a.send("SET n 1", "SET p 1", "SET o 1")
	a.want("+OK\r\n", "+OK\r\n", "+OK\r\n")
	b.want(invalid("o"))
	b.do("CLIENT TRACKING off")
	b.expect("CLIENT TRACKING on BCAST PREFIX q PREFIX r NOLOOP", "+OK\r\n")
	b.expect("SET q1 1", "+OK\r\n")
	a.do("SET n 1")
	a.do("SET r1 1")
	b.want(invalid("r1"))
	b.expect("CLIENT TRACKINGINFO", "%3\r\n$5\r\nflags\r\n~3\r\n$2\r\non\r\n$5\r\nbcast\r\n$6\r\nnoloop\r\n$8\r\nredirect\r\n:0\r\n$8\r\nprefixes\r\n"+bulks("q", "r"))
}

// RESP2 clients get their messages on another connection; when that one has gone, they learn it.
func TestTrackingRedirected(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	listener, reader, writer := dial(t, address), dial(t, address), dial(t, address)
	var id int
	fmt.Sscanf(listener.do("CLIENT ID"), ":%d", &id)
	listener.do("SUBSCRIBE __redis__:invalidate")
	reader.expect(fmt.Sprintf("CLIENT TRACKING on REDIRECT %d", id), "+OK\r\n")
	reader.expect("CLIENT GETREDIR", fmt.Sprintf(":%d\r\n", id))
	reader.do("GET k")
	writer.do("SET k 1")
	listener.want("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nk\r\n")
	reader.do("HELLO 3")
	reader.do("GET k")
	listener.Close()
	eventually(t, "it is gone", func() bool { return g.nodes[0].node.clients.count() == 2 })
	writer.do("SET k 2")
	reader.want(fmt.Sprintf(">2\r\n$21\r\ntracking-redir-broken\r\n:%d\r\n", id))
}

// Many writers and one reader with a cache: whenever a message about a key has come and nothing is on its way, the
// cached value is the one of the node.
func TestCacheIsNeverStale(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	addresses := []string{g.serve(t, 0), g.serve(t, 1)}
	reader := dial(t, addresses[1])
	reader.do("HELLO 3")
	reader.do("CLIENT TRACKING on")
	var wait sync.WaitGroup
	const rounds = 300
	for i := range 2 {
		w := dial(t, addresses[i])
		wait.Go(func() {
			for j := range rounds {
				w.do(fmt.Sprintf("SET k %d-%d", i, j))
			}
		})
	}
	cached, fresh := "", false
	note := func(got string) bool { // reports whether it was a reply
		if strings.HasPrefix(got, ">2\r\n$10\r\ninvalidate") {
			fresh = false
			return false
		}
		cached, fresh = got, true
		return true
	}
	for range rounds {
		reader.send("GET k")
		for !note(string(reader.next())) {
		}
	}
	wait.Wait()
	reader.send("ECHO end")
	for got := string(reader.next()); got != "$3\r\nend\r\n"; got = string(reader.next()) {
		note(got)
	}
	if end := dial(t, addresses[1]).do("GET k"); fresh && cached != end {
		t.Errorf("the cache holds %q and was not told that it is %q", cached, end)
	}
}

// MONITOR shows what clients do, without passwords.
func TestMonitor(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	m, c := dial(t, address), dial(t, address)
	m.expect("MONITOR", "+OK\r\n")
	c.do(`SET "a\n\x01" 1`)
	c.send("MULTI", "GET a", "EXEC", "AUTH default secret", "CONFIG GET x")
	for range 5 {
		c.next()
	}
	c.do("PING")
	for _, want := range []string{`"SET" "a\n\x01" "1"`, `"MULTI"`, `"GET" "a"`, `"EXEC"`, `"AUTH" "(redacted)" "(redacted)"`, `"PING"`} {
		if got := string(m.next()); !strings.HasSuffix(got, "] "+want+"\r\n") || got[0] != '+' {
			t.Errorf("%q, want %s", got, want)
		}
	}
	m.expect("RESET", "+RESET\r\n")
	c.do("PING")
	m.expect("ECHO x", "$1\r\nx\r\n")
}

// CLIENT PAUSE holds writes back, not reads, until it is taken back.
func TestPause(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	c, w := dial(t, address), dial(t, address)
	c.expect("CLIENT PAUSE 100000 WRITE", "+OK\r\n")
	w.send("SET k 1")
	eventually(t, "the write waits", func() bool { return g.nodes[0].node.shell.pauses.wait.Load() == 1 })
	c.expect("GET k", "$-1\r\n")
	c.expect("CLIENT UNPAUSE", "+OK\r\n")
	w.want("+OK\r\n")
	c.expect("CLIENT PAUSE 30", "+OK\r\n")
	c.expect("GET k", "$1\r\n1\r\n")
}

// CONFIG SET timeout and maxclients take effect at once.
func TestLimitsChangeAtRunTime(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	c := dial(t, address)
	silent := dial(t, address)
	silent.expect("PING", "+PONG\r\n")
	c.expect("CONFIG SET maxclients 2", "+OK\r\n")
	dial(t, address).want("-ERR max number of clients reached\r\n", "")
	c.expect("CONFIG SET timeout 1", "+OK\r\n")
	for deadline := time.Now().Add(20 * time.Second); g.nodes[0].node.clients.count() > 1; {
		c.expect("PING", "+PONG\r\n")
		if time.Now().After(deadline) {
			t.Fatal("the silent client stays")
		}
	}
	silent.want("")
}

// Listeners of the node that is asked are told of keys that are read and not there.
func TestKeyMissesAreTold(t *testing.T) {
	address := newFakeGroup(t, 1, nil).serve(t, 0)
	c, listener := dial(t, address), dial(t, address)
	c.expect("CONFIG SET notify-keyspace-events Em", "+OK\r\n")
	listener.do("SUBSCRIBE __keyevent@0__:keymiss")
	c.expect("GET x", "$-1\r\n")
	listener.want(bulks("message", "__keyevent@0__:keymiss", "x"))
	c.send("MULTI", "GET y", "SET k 1", "EXEC")
	c.want("+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*2\r\n$-1\r\n+OK\r\n")
	listener.want(bulks("message", "__keyevent@0__:keymiss", "y"))
}

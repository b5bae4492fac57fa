package kvnode

import (
	"testing"
	"time"
)

// What could go wrong: the replicator beside a node dies and another node leads; clients that found this node through
// Sentinel stay and see errors for ever. They are sent away, those that come back too; who reads old state on purpose stays,
// and so does who waits in a blocking command: it is served when the replicator is back.
func TestClientsOfOrphanAreSentAway(t *testing.T) {
	g := newFakeGroup(t, 2, func(c *Config) { c.RefuseAfter = 50 * time.Millisecond })
	address := g.serve(t, 1)
	other := dial(t, g.serve(t, 0))
	plain, listening, stale, blocked := dial(t, address), dial(t, address), dial(t, address), dial(t, address)
	plain.expect("SET k 1", "+OK\r\n")
	listening.expect("SUBSCRIBE c", "*3\r\n"+confirmation("subscribe", "c", 1))
	stale.expect("READONLY", "+OK\r\n")
	blocked.send("BLPOP l 0")
	awaitWaiters(t, g.nodes[1], 1)
	g.set(func() { g.nodes[1].orphaned, g.nodes[1].lagging = true, true })
	plain.want("")
	listening.want("")
	dial(t, address).want("") // one that came back
	stale.expect("GET k", "$1\r\n1\r\n")
	other.expect("RPUSH l x", ":1\r\n")
	g.set(func() { g.nodes[1].orphaned, g.nodes[1].lagging = false, false })
	blocked.want("*2\r\n$1\r\nl\r\n$1\r\nx\r\n")
	eventually(t, "clients may stay", func() bool {
		c := dial(t, address)
		return c.do("GET k") == "$1\r\n1\r\n"
	})
}

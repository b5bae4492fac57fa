package kvnode

import (
	"strings"
	"testing"
)

// maxmemory-clients closes those that take most, one after the other, until the rest fits; NO-EVICT keeps a client, and small ones stay.
func TestClientsAreEvicted(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	admin, kept, large, larger := dial(t, address), dial(t, address), dial(t, address), dial(t, address)
	kept.expect("CLIENT NO-EVICT on", "+OK\r\n")
	for c, size := range map[*redisClient]int{kept: 3 << 20, large: 1 << 20, larger: 2 << 20} {
		c.expect("MULTI", "+OK\r\n")
		c.queueSet(size)
	}
	buffersAreSmall := func() bool { // a read buffer is given back behind the reply
		return g.nodes[0].node.clientBytes() < (3+1+2+1)<<20
	}
	eventually(t, "buffers are given back", buffersAreSmall)
	admin.expect("CONFIG GET maxmemory-clients", "*2\r\n$17\r\nmaxmemory-clients\r\n$1\r\n0\r\n")
	admin.expect("CONFIG SET maxmemory-clients 4718592", "+OK\r\n") // 3 + 1 + 0.5 MB
	larger.want("")
	large.expect("DISCARD", "+OK\r\n")
	kept.expect("DISCARD", "+OK\r\n")
	evicted := func() string { return line(admin.do("INFO stats"), "evicted_clients") }
	eventually(t, "it is counted", func() bool { return evicted() == "evicted_clients:1" })
	// A part of maxmemory, and a client that grows while nobody asks.
	admin.expect("CONFIG SET maxmemory-clients 50%", "+OK\r\n")
	large.expect("MULTI", "+OK\r\n")
	large.queueSet(1 << 20)
	admin.expect("CONFIG SET maxmemory 1500000", "+OK\r\n")
	large.want("")
	eventually(t, "it is counted", func() bool { return evicted() == "evicted_clients:2" })
	admin.expect("CONFIG GET maxmemory-clients", "*2\r\n$17\r\nmaxmemory-clients\r\n$3\r\n50%\r\n")
	for _, wrong := range []string{"101%", "-1", "x", "%"} {
		problem := "argument must be a memory or percent value"
		if wrong == "101%" {
			problem = "argument must be less or equal to 100"
		}
		if got := admin.do("CONFIG SET maxmemory-clients " + wrong); got != "-ERR CONFIG SET failed (possibly related to argument 'maxmemory-clients') - "+problem+"\r\n" {
			t.Errorf("%s: %q", wrong, got)
		}
	}
}

// queueSet queues a SET of so many bytes.
func (c *redisClient) queueSet(size int) {
	c.t.Helper()
	if _, err := c.Write(appendCommand(nil, [][]byte{[]byte("SET"), []byte("k"), make([]byte, size)})); err != nil {
		c.t.Fatal(err)
	}
	c.want("+QUEUED\r\n")
}

// line returns the line of INFO that shows a field.
func line(info, field string) string {
	for text := range strings.SplitSeq(info, "\r\n") {
		if strings.HasPrefix(text, field+":") {
			return text
		}
	}
	return ""
}

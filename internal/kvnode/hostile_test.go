package kvnode

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"lockstep/internal/resp"
)

// A client beyond the limit gets Redis' error and is closed; when one leaves there is room again.
func TestTooManyClients(t *testing.T) {
	g := newFakeGroup(t, 1, func(c *Config) { c.MaxClients = 2 })
	address := g.serve(t, 0)
	a, b := dial(t, address), dial(t, address)
	a.expect("PING", "+PONG\r\n")
	b.expect("PING", "+PONG\r\n")
	c := dial(t, address)
	c.want("-ERR max number of clients reached\r\n", "")
	a.Close()
	eventually(t, "there is room again", func() bool { return g.nodes[0].node.clients.count() == 1 })
	dial(t, address).expect("PING", "+PONG\r\n")
	b.expect("PING", "+PONG\r\n")
}

// A client that asks and never reads is cut when its replies exceed the limit; others go on.
func TestClientThatNeverReadsIsCut(t *testing.T) {
	g := newFakeGroup(t, 1, func(c *Config) { c.MaxOutput = 1 << 20 })
	address := g.serve(t, 0)
	good := dial(t, address)
	good.expect("SET big "+strings.Repeat("x", 60000), "+OK\r\n")
	bad := dial(t, address)
	request := bytes.Repeat(appendCommand(nil, [][]byte{[]byte("GET"), []byte("big")}), 100)
	bad.SetWriteDeadline(time.Now().Add(time.Minute))
	var err error
	for err == nil {
		_, err = bad.Write(request)
	}
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Fatal("the client was not cut")
	}
	eventually(t, "it is gone", func() bool { return g.nodes[0].node.clients.count() == 1 })
	if g.nodes[0].node.stats.slowReaders.Load() != 1 {
		t.Error("the cut is not counted")
	}
	good.expect("PING", "+PONG\r\n")
}

// A client that sends a long pipeline before it reads the first reply must be served: its replies wait for it.
func TestClientThatReadsLate(t *testing.T) {
	address := newFakeGroup(t, 1, nil).serve(t, 0)
	c := dial(t, address)
	value := strings.Repeat("y", 10000)
	c.expect("SET k "+value, "+OK\r\n")
	const count = 3000 // 30 MB of replies: more than the sockets hold
	if _, err := c.Write(bytes.Repeat(appendCommand(nil, words(t, "GET k")), count)); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("$%d\r\n%s\r\n", len(value), value)
	for range count {
		c.want(want)
	}
	c.expect("PING", "+PONG\r\n")
}

// Replies to one run that exceed the limit must not take memory beyond it, also when the apply goroutine writes them.
func TestRepliesOfOneRunAreBounded(t *testing.T) {
	g := newFakeGroup(t, 1, func(c *Config) { c.MaxOutput = 1 << 20 })
	address := g.serve(t, 0)
	c := dial(t, address)
	c.expect("SET big "+strings.Repeat("x", 60000), "+OK\r\n")
	lines := []string{"SET a 1"}
	for range 100 {
		lines = append(lines, "GET big")
	}
	c.send(lines...)
	for c.next() != nil {
	}
	eventually(t, "it is cut", func() bool { return g.nodes[0].node.stats.slowReaders.Load() == 1 })
	dial(t, address).expect("GET a", "$1\r\n1\r\n")
}

// Large values pass, in pieces; what exceeds the limit of a request is refused before it is received.
func TestLargeValues(t *testing.T) {
	g := newFakeGroup(t, 1, func(c *Config) { c.MaxQuery = 4 << 20 })
	address := g.serve(t, 0)
	c := dial(t, address)
	value := bytes.Repeat([]byte("0123456789"), 300000)
	if _, err := c.Write(appendCommand(nil, [][]byte{[]byte("SET"), []byte("k"), value})); err != nil {
		t.Fatal(err)
	}
	c.want("+OK\r\n")
	c.want2("GET k", fmt.Sprintf("$%d\r\n%s\r\n", len(value), value))
	c.Write([]byte("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5000000\r\n"))
	c.want("-ERR Protocol error: too big request\r\n", "")
}

func (c *redisClient) want2(line, reply string) {
	c.t.Helper()
	if got := c.do(line); got != reply {
		c.t.Fatalf("%s: reply of %d bytes, want %d", line, len(got), len(reply))
	}
}

// A request larger than a request of the log is refused, with certainty, and the connection goes on.
func TestCommandLargerThanTheLogTakes(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	value := make([]byte, 64<<20)
	if _, err := c.Write(appendCommand(nil, [][]byte{[]byte("SET"), []byte("k"), value})); err != nil {
		t.Fatal(err)
	}
	if got := string(c.next()); !strings.HasPrefix(got, "-ERR the command takes more than") {
		t.Fatal(got)
	}
	c.expect("EXISTS k", ":0\r\n")
}

// Commands cut anywhere, one byte at a time or at random, give the same replies.
func TestRequestsInPieces(t *testing.T) {
	address := newFakeGroup(t, 1, nil).serve(t, 0)
	var stream []byte
	var want []string
	for i := range 30 {
		value := strings.Repeat("v", i*7)
		stream = appendCommand(stream, [][]byte{[]byte("SET"), []byte("k"), []byte(value)})
		stream = append(stream, "GET k\r\nPING\r\n"...)
		want = append(want, "+OK\r\n", fmt.Sprintf("$%d\r\n%s\r\n", len(value), value), "+PONG\r\n")
	}
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 3 {
		c := dial(t, address)
		go func() {
			rest := stream
			for len(rest) > 0 {
				n := 1
				if round > 0 {
					n = min(len(rest), 1+random.IntN(40*round))
				}
				if _, err := c.Write(rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
		}()
		c.want(want...)
	}
}

// Garbage gets an error or a closed connection, and never harms others.
func TestGarbage(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	good := dial(t, address)
	random := rand.New(rand.NewPCG(3, 4))
	const garbage = "*$\r\n0123456789 abcSETGET\x00\xff\"'-"
	for range 200 {
		c := dial(t, address)
		b := make([]byte, random.IntN(3000))
		for i := range b {
			b[i] = garbage[random.IntN(len(garbage))]
		}
		c.Write(b)
		c.Conn.(*net.TCPConn).CloseWrite()
		for {
			n, err := c.Read(make([]byte, 4096))
			if err != nil || n == 0 {
				break
			}
		}
		c.Close()
		good.expect("PING", "+PONG\r\n")
	}
	eventually(t, "they are gone", func() bool { return g.nodes[0].node.clients.count() == 1 })
}

// A count of arguments that is announced must not take memory before the arguments arrive.
func TestAnnouncedArgumentsTakeNoMemory(t *testing.T) {
	address := newFakeGroup(t, 1, nil).serve(t, 0)
	for range 100 {
		c := dial(t, address)
		c.Write([]byte("*1000000\r\n$60000000\r\nabc"))
	}
	dial(t, address).expect("PING", "+PONG\r\n")
}

// A client that closes its sending side still gets its replies, as `printf ... | nc` expects.
func TestHalfClosedClientGetsReplies(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	c.Write([]byte("SET a 1\r\nGET a\r\n"))
	c.Conn.(*net.TCPConn).CloseWrite()
	c.want("+OK\r\n", "$1\r\n1\r\n", "")
}

// An idle client is closed if there is a timeout.
func TestIdleTimeout(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, func(c *Config) { c.IdleTimeout = time.Second }).serve(t, 0))
	c.expect("PING", "+PONG\r\n")
	c.want("")
}

// A transaction that does not fit into a request is refused while it is queued.
func TestTransactionTooLarge(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	c.expect("MULTI", "+OK\r\n")
	value := make([]byte, 25<<20)
	set := appendCommand(nil, [][]byte{[]byte("SET"), []byte("k"), value})
	for _, want := range []string{"+QUEUED\r\n", "+QUEUED\r\n", "-ERR the transaction is too large for one request of the log\r\n"} {
		if _, err := c.Write(set); err != nil {
			t.Fatal(err)
		}
		c.want(want)
	}
	c.expect("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n")
	c.expect("EXISTS k", ":0\r\n")
}

// FuzzConnection feeds bytes to a connection: it must answer well-formed replies, or close, and not hang or panic.
func FuzzConnection(f *testing.F) {
	for _, seed := range []string{"PING\r\n", "*1\r\n$4\r\nPING\r\n", "MULTI\r\nSET a 1\r\nCLIENT ID\r\nEXEC\r\n", "HELLO 3\r\nCONFIG GET *\r\nINFO all\r\n",
		"WATCH a\r\nMULTI\r\nGET a\r\nEXEC\r\n", "CLIENT REPLY SKIP\r\nGET a\r\nSET a 1 EX 10\r\nCLIENT LIST\r\nQUIT\r\n",
		"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$-1\r\n", "DEBUG DIGEST\r\nSLOWLOG GET\r\nLATENCY HISTOGRAM\r\nMEMORY STATS\r\nCOMMAND\r\nROLE\r\n"} {
		f.Add([]byte(seed))
	}
	address := newFakeGroup(f, 1, nil).serve(f, 0)
	f.Fuzz(func(t *testing.T, input []byte) {
		if bytes.Contains(bytes.ToUpper(input), []byte("WAIT")) { // may wait for ever, as it says
			return
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		c.Write(input)
		c.(*net.TCPConn).CloseWrite()
		var got bytes.Buffer
		if _, err := got.ReadFrom(c); err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Fatal("the connection hangs")
			}
			return // reset: it was closed with bytes unread
		}
		for rest := got.Bytes(); len(rest) > 0; {
			_, used, err := resp.Decode(rest)
			if err != nil || used == 0 {
				t.Fatalf("malformed reply at %q: %v", rest, err)
			}
			rest = rest[used:]
		}
	})
}

package kvnode

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/internal/kv"
)

// Commands for the loop, for the log and for a goroutine of their own stand in one pipeline, cut at several places: replies must
// come in the order of the commands, whoever executes them.
func TestPipelineKeepsItsOrderAcrossGoroutines(t *testing.T) {
	address := newFakeGroup(t, 1, nil).serve(t, 0)
	c := dial(t, address)
	c.expect("SMR CONSISTENCY STALE", "+OK\r\n") // so that GET is for the loop
	steps := []struct{ line, reply string }{
		{"PING", "+PONG\r\n"},
		{"SET k 1", "+OK\r\n"},
		{"GET k", "$1\r\n1\r\n"},
		{"LRANGE l 0 -1", "*0\r\n"},
		{"INCR k", ":2\r\n"},
		{"CLIENT GETNAME", "$-1\r\n"},
		{"GET k", "$1\r\n2\r\n"},
		{"MULTI", "+OK\r\n"},
		{"INCR k", "+QUEUED\r\n"},
		{"EXEC", "*1\r\n:3\r\n"},
		{"NOCOMMAND", "-ERR unknown command 'NOCOMMAND', with args beginning with: \r\n"},
		{"ECHO x", "$1\r\nx\r\n"},
		{"BLPOP l 0.01", "*-1\r\n"},
		{"GET k", "$1\r\n3\r\n"},
		{"DEL k", ":1\r\n"},
		{"SELECT 0", "+OK\r\n"},
	}
	var pipeline []byte
	var replies []string
	for _, step := range steps {
		pipeline = appendCommand(pipeline, words(t, step.line))
		replies = append(replies, step.reply)
	}
	for round := range 8 {
		cut := len(pipeline) * round / 8
		c.Write(pipeline[:cut])
		time.Sleep(time.Millisecond) // so that the server most often sees the first part alone
		c.Write(pipeline[cut:])
		c.want(replies...)
	}
}

// A loop must not wait for room in the log: its other connections would stand still. The writes that found none are submitted by a goroutine, in
// their order, and executed once.
func TestLoopDoesNotWaitForRoom(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	writer, reader := dial(t, address), dial(t, address)
	reader.expect("SMR CONSISTENCY STALE", "+OK\r\n")
	l := g.nodes[0]
	l.setFull(true)
	var lines, replies []string
	for i := range 20 {
		lines, replies = append(lines, "INCR n"), append(replies, ":"+strconv.Itoa(i+1)+"\r\n")
	}
	writer.send(lines...)
	eventually(t, "a goroutine waits for room", func() bool { return l.waitingForRoom() })
	reader.expect("GET n", "$-1\r\n")
	reader.expect("PING", "+PONG\r\n")
	l.setFull(false)
	writer.want(replies...)
	writer.expect("INCR n", ":21\r\n")
}

// A client that leaves while its write is in the log, or is killed then, leaves nothing behind; the write is executed.
func TestClientLeavesWhileItsWriteIsInTheLog(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	n := g.nodes[0].node
	admin := dial(t, address)
	admin.expect("SMR CONSISTENCY STALE", "+OK\r\n")
	g.set(func() { g.held = true })
	leaving, killed := dial(t, address), dial(t, address)
	leaving.send("INCR n")
	killed.send("INCR n")
	eventually(t, "both are in the log", func() bool { return g.nodes[0].pending() == 2 })
	leaving.Close()
	admin.expect("CLIENT KILL ADDR "+killed.LocalAddr().String(), ":1\r\n")
	if reply := killed.next(); reply != nil {
		t.Errorf("a killed client is answered %q", reply)
	}
	g.set(func() { g.held = false })
	eventually(t, "both are gone", func() bool { return n.clients.count() == 1 })
	admin.expect("GET n", "$1\r\n2\r\n")
}

// A node that stops while writes wait for a log that calls back no more must end their connections.
func TestStopEndsConnectionsThatWaitForTheLog(t *testing.T) {
	g := newFakeGroup(t, 1, func(c *Config) { c.Grace = time.Millisecond })
	address := g.serve(t, 0)
	g.set(func() { g.held = true })
	for range 5 {
		dial(t, address).send("SET k v")
	}
	eventually(t, "all are in the log", func() bool { return g.nodes[0].pending() == 5 })
	// The clean-up of the test stops the node, and goleak finds what is left.
}

// Plain reads and writes must take no memory that lasts only for them: what the collector does is what the next request waits for.
func TestRequestsTakeNoMemory(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	c := dial(t, address)
	c.expect("SMR CONSISTENCY STALE", "+OK\r\n")
	c.expect("SET k "+strings.Repeat("v", 64), "+OK\r\n")
	c.expect("RPUSH l a b", ":2\r\n")
	c.expect("HSET h a b", ":1\r\n")
	for _, test := range []struct{ request, reply string }{
		{"GET k", "$64\r\n" + strings.Repeat("v", 64) + "\r\n"},
		{"LRANGE l 0 -1", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"}, // their time grows with the values, which are small
		{"HGETALL h", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"},
	} {
		request, reply := bytes.Repeat(appendCommand(nil, words(t, test.request)), 16), make([]byte, 16*len(test.reply))
		once := func() {
			if _, err := c.Write(request); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, reply); err != nil {
				t.Fatal(err)
			}
		}
		once()
		if string(reply) != strings.Repeat(test.reply, 16) {
			t.Errorf("%s is answered %q", test.request, reply)
		}
		if took := testing.AllocsPerRun(500, once); took > 1 { // of 16 reads; the second in 16 seconds would do for a whole one
			t.Errorf("16 times %s takes memory %v times", test.request, took)
		}
	}
}

// Connections that are not of TCP, as those of TLS will be, have a goroutine of their own.
func TestOtherConnectionsHaveAGoroutine(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	g.serve(t, 0)
	n := g.nodes[0].node
	eventually(t, "the node serves", func() bool { return n.address.Load() != nil })
	ours, theirs := net.Pipe()
	defer ours.Close()
	n.admit(theirs)
	ours.SetDeadline(time.Now().Add(time.Minute))
	var wait sync.WaitGroup
	wait.Go(func() { ours.Write(appendCommand(nil, [][]byte{[]byte("SET"), []byte("k"), []byte("v")})) })
	got := make([]byte, 5)
	if _, err := io.ReadFull(ours, got); err != nil || string(got) != "+OK\r\n" {
		t.Errorf("answered %q, %v", got, err)
	}
	wait.Wait()
}

// Whatever a run holds can be executed by the machine without being looked up again.
func TestCommandsOfRunsAreExecutable(t *testing.T) {
	for _, c := range newCommandTable().all {
		name, _, _ := strings.Cut(c.name, "|") // the machine executes a subcommand by its command
		if c.local == nil && !c.exec && c.sub == nil && (c.machine == nil || !c.machine.Executable() || kv.Lookup([]byte(name)) != c.machine) {
			t.Errorf("%s cannot be executed", c.name)
		}
	}
}

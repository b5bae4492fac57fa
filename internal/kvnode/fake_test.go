package kvnode

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lockstep/internal/resp"
	"lockstep/smr"
	"lockstep/smr/client"
)

// fakeGroup is a replicated log in memory: it commits at once what its nodes submit, and delivers it to all of
// them. Tests hold it, make it refuse, or move its clock.
type fakeGroup struct {
	nodes []*fakeLog

	mu       sync.Mutex
	cond     *sync.Cond
	pending  []byte // encoded requests
	count    int
	end      smr.LSN
	history  []smr.Frame
	held     bool         // nothing is committed
	noReads  bool         // no read index can be had
	clock    func() int64 // stamps of frames
	copies   int
	closed   bool
	finished sync.WaitGroup
}

// fakeLog is what one node sees of the group.
type fakeLog struct {
	group *fakeGroup
	node  *Node

	mu       sync.Mutex
	sequence uint64
	waiting  map[uint64]Submission
	refusing bool
	applied  int           // frames delivered, guarded by group.mu
	lagging  bool          // guarded by group.mu: frames are not delivered
	orphaned bool          // guarded by group.mu: the replicator is not there
	doubted  bool          // guarded by group.mu: what was executed may be of another stream
	trusting []func(error) // guarded by group.mu: who waits for the end of the doubt

	waits  atomic.Int32 // callers of Submit that wait for room
	roomMu sync.Mutex
	full   chan struct{} // not nil: there is no room, until it is closed
}

// The nodes of a group that is under test.
func newFakeGroup(t testing.TB, nodes int, change func(*Config)) *fakeGroup {
	t.Helper()
	g := &fakeGroup{clock: func() int64 { return time.Now().UnixMilli() }, copies: nodes}
	g.cond = sync.NewCond(&g.mu)
	for i := range nodes {
		config := DefaultConfig()
		config.ReplicatorDir, config.Cluster, config.Node = "/tmp/dir", "c", smr.NodeID(fmt.Sprintf("n%d", i+1))
		config.Listen = "127.0.0.1:0"
		config.Grace = 2 * time.Second
		config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
		if change != nil {
			change(&config)
		}
		if err := config.Validate(); err != nil {
			t.Fatal(err)
		}
		l := &fakeLog{group: g, waiting: make(map[uint64]Submission)}
		l.node = NewNode(config, smr.SessionID(100+i), strings.Repeat("a", 40), l)
		l.node.StatusChanged(l.Status())
		g.nodes = append(g.nodes, l)
	}
	g.finished.Go(g.commit)
	for _, l := range g.nodes {
		g.finished.Go(func() { g.deliver(l) })
	}
	t.Cleanup(g.close)
	return g
}

func (g *fakeGroup) close() {
	g.mu.Lock()
	g.closed = true
	g.cond.Broadcast()
	g.mu.Unlock()
	g.finished.Wait()
}

// set changes the group under its lock.
func (g *fakeGroup) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	g.cond.Broadcast()
}

// commit makes frames of what is pending.
func (g *fakeGroup) commit() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		for !g.closed && (g.count == 0 || g.held) {
			g.cond.Wait()
		}
		if g.closed {
			return
		}
		g.append(smr.Frame{LSN: g.end, Epoch: 1, Stamp: g.clock(), Kind: smr.KindRequests, Count: g.count, Body: g.pending})
		g.pending, g.count = nil, 0
	}
}

// append commits a frame. Called with mu held.
func (g *fakeGroup) append(f smr.Frame) {
	g.history = append(g.history, f)
	g.end = f.End()
	g.cond.Broadcast()
}

// deliver gives a node the frames one by one.
func (g *fakeGroup) deliver(l *fakeLog) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		for !g.closed && (l.applied == len(g.history) || l.lagging) {
			g.cond.Wait()
		}
		if g.closed {
			return
		}
		f := g.history[l.applied]
		l.applied++
		g.mu.Unlock()
		if err := l.node.ApplyFrame(f); err != nil {
			panic(err)
		}
		g.mu.Lock()
	}
}

// tick commits a frame that moves log time.
func (g *fakeGroup) tick() {
	g.set(func() { g.append(smr.Frame{LSN: g.end, Epoch: 1, Stamp: g.clock(), Kind: smr.KindTick}) })
}

// Flush implements Log.
func (l *fakeLog) Flush() {}

// TryReadIndex implements Log.
func (l *fakeLog) TryReadIndex(done func(smr.LSN, error)) { l.ReadIndex(done) }

func (l *fakeLog) TrySubmit(slot uint16, payload []byte, submission Submission) bool {
	l.roomMu.Lock()
	full := l.full != nil
	l.roomMu.Unlock()
	if !full {
		l.Submit(slot, payload, submission)
	}
	return !full
}

// setFull makes Submit wait, and TrySubmit fail, until it is unset.
func (l *fakeLog) setFull(full bool) {
	l.roomMu.Lock()
	defer l.roomMu.Unlock()
	if full {
		l.full = make(chan struct{})
	} else {
		close(l.full)
		l.full = nil
	}
}

func (l *fakeLog) waitingForRoom() bool { return l.waits.Load() > 0 }

// awaitRoom waits while the log is full.
func (l *fakeLog) awaitRoom() {
	l.roomMu.Lock()
	full := l.full
	l.roomMu.Unlock()
	if full != nil {
		l.waits.Add(1)
		<-full
		l.waits.Add(-1)
	}
}

func (l *fakeLog) Submit(slot uint16, payload []byte, submission Submission) {
	l.awaitRoom()
	l.mu.Lock()
	if l.refusing {
		l.mu.Unlock()
		submission.Finish(client.Refused)
		return
	}
	defer l.mu.Unlock()
	l.sequence++
	l.waiting[l.sequence] = submission
	request := smr.Request{Session: l.node.session, Sequence: l.sequence, Slot: slot, Payload: payload}
	g := l.group
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending = smr.AppendRequest(g.pending, request)
	g.count++
	g.cond.Broadcast()
}

func (l *fakeLog) Take(sequence uint64) Submission {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.waiting[sequence]
	delete(l.waiting, sequence)
	return s
}

// giveUp answers everything that waits as uncertain.
func (l *fakeLog) giveUp() {
	l.mu.Lock()
	waiting := l.waiting
	l.waiting = make(map[uint64]Submission)
	l.mu.Unlock()
	for _, s := range waiting {
		s.Finish(client.Uncertain)
	}
}

func (l *fakeLog) pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

var errFakeNoMaster = errors.New("no master answers")

// ReadLease: a fake group grants none.
func (l *fakeLog) ReadLease() (smr.LSN, bool) { return 0, false }

func (l *fakeLog) ReadIndex(done func(smr.LSN, error)) {
	l.group.mu.Lock()
	end, none := l.group.end, l.group.noReads
	l.group.mu.Unlock()
	if none {
		done(0, errFakeNoMaster)
		return
	}
	done(end, nil)
}

func (l *fakeLog) InDoubt() bool {
	l.group.mu.Lock()
	defer l.group.mu.Unlock()
	return l.doubted
}

func (l *fakeLog) AwaitTrust(done func(error)) {
	l.group.mu.Lock()
	if l.doubted {
		l.trusting = append(l.trusting, done)
		l.group.mu.Unlock()
		return
	}
	l.group.mu.Unlock()
	done(nil)
}

// endDoubt answers those who wait for the end of the doubt, which ends if err is nil.
func (l *fakeLog) endDoubt(err error) {
	l.group.mu.Lock()
	l.doubted = err != nil
	waiting := l.trusting
	l.trusting = nil
	l.group.mu.Unlock()
	for _, done := range waiting {
		done(err)
	}
}

func (l *fakeLog) Status() smr.Status {
	role := smr.RoleSlave
	if l.node.config.Node == "n1" {
		role = smr.RoleMaster
	}
	l.group.mu.Lock()
	defer l.group.mu.Unlock()
	if l.orphaned {
		return smr.Status{Role: smr.RoleNone}
	}
	return smr.Status{Role: role, Epoch: 3, Master: "n1", MasterAddr: "127.0.0.1:17100", Writable: true, Safe: l.group.end, Commit: l.group.end}
}

func (l *fakeLog) CountCopies(_ smr.LSN, done func(int, error)) {
	l.group.mu.Lock()
	copies := l.group.copies
	l.group.mu.Unlock()
	done(copies, nil)
}

// serve starts a node of the group on a port of its own and returns the address.
func (g *fakeGroup) serve(t testing.TB, i int) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.nodes[i].node.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		g.close()
		g.nodes[i].node.Stop()
	})
	return listener.Addr().String()
}

// redisClient is a connection of a test.
type redisClient struct {
	t testing.TB
	net.Conn
	r   *bufio.Reader
	buf []byte
	// queueing: commands are between MULTI and EXEC (transcripts).
	queueing bool
	id       string // as CLIENT ID tells it; empty: nobody has asked (transcripts)
}

func dial(t testing.TB, address string) *redisClient {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return &redisClient{t: t, Conn: c, r: bufio.NewReader(c)}
}

// send writes commands, each a line of words, in one write.
func (c *redisClient) send(lines ...string) {
	c.t.Helper()
	var b []byte
	for _, line := range lines {
		b = appendCommand(b, words(c.t, line))
	}
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func appendCommand(b []byte, args [][]byte) []byte {
	r := resp.Reply{Buf: b}
	r.Array(len(args))
	for _, arg := range args {
		r.Bulk(arg)
	}
	return r.Buf
}

// words splits a line as an inline request.
func words(t testing.TB, line string) [][]byte {
	t.Helper()
	args, used, err := resp.NewParser(resp.DefaultLimits()).Next([]byte(line + "\n"))
	if err != nil || used == 0 {
		t.Fatalf("words of %q: %v", line, err)
	}
	copied := make([][]byte, len(args))
	for i, arg := range args {
		copied[i] = bytes.Clone(arg)
	}
	return copied
}

// next reads one reply, as its bytes; nil if the connection was closed.
func (c *redisClient) next() []byte {
	c.t.Helper()
	for {
		if len(c.buf) > 0 {
			_, used, err := resp.Decode(c.buf)
			if err != nil {
				c.t.Fatalf("reply %q: %v", c.buf, err)
			}
			if used > 0 {
				reply := bytes.Clone(c.buf[:used])
				c.buf = c.buf[used:]
				return reply
			}
		}
		b := make([]byte, 64<<10)
		n, err := c.Read(b)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				c.t.Fatalf("no reply, have %q", c.buf)
			}
			return nil
		}
		c.buf = append(c.buf, b[:n]...)
	}
}

// want reads as many replies as there are in wanted and compares them.
func (c *redisClient) want(wanted ...string) {
	c.t.Helper()
	for i, w := range wanted {
		got := string(c.next())
		if got != w {
			c.t.Fatalf("reply %d is %q, want %q", i, got, w)
		}
	}
}

// do sends one command and returns its reply.
func (c *redisClient) do(line string) string {
	c.t.Helper()
	c.send(line)
	return string(c.next())
}

func (c *redisClient) expect(line, reply string) {
	c.t.Helper()
	if got := c.do(line); got != reply {
		c.t.Fatalf("%s: reply %q, want %q", line, got, reply)
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: does not come true", what)
		}
	}
}

package client

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/wire"
)

var testUs = smr.Handshake{Cluster: "c0ffee", Group: "g1", Node: "n1"}

// group is a replicator beside the client and masters, made simple: what a master is proposed stands in the log and
// is safe at once, unless a knob is turned.
type group struct {
	t          testing.TB
	dir        string
	socketPath string
	stopped    chan struct{}
	tasks      sync.WaitGroup

	mu       sync.Mutex
	log      *log.Log
	status   smr.Status
	change   chan struct{} // closed and replaced when status changes
	conns    map[net.Conn]bool
	progress smr.Progress
	bases    []log.Base // that the client has brought
	transfer smr.Transfer
	sources  []smr.ImageSource
	hello    smr.LocalHello
	refusal  *smr.Reject // the client is sent away with it
	// refusedHello answers every hello in place of a welcome.
	refusedHello *smr.Reject
	masters      []*master

	swallow atomic.Bool // a proposal is read and lost, and its connection with it
	hold    atomic.Bool // proposals are appended but not safe
}

// master listens for clients.
type master struct {
	group    *group
	node     smr.NodeID
	epoch    smr.Epoch
	listener net.Listener
	accepted atomic.Int64
	silent   atomic.Bool  // accepts and then says nothing
	asked    atomic.Int64 // for an LSN to read at
}

func newGroup(t testing.TB) *group {
	dir := t.TempDir()
	l, _, err := log.Open(log.Options{Dir: filepath.Join(dir, "log"), FileSize: 1 << 20, Sync: smr.SyncOS, Cluster: "c0ffee", Group: "g1"})
	if err != nil {
		t.Fatal(err)
	}
	g := &group{t: t, dir: dir, socketPath: filepath.Join(dir, "s"), log: l, stopped: make(chan struct{}),
		change: make(chan struct{}), conns: map[net.Conn]bool{}}
	t.Cleanup(g.stop)
	return g
}

func (g *group) stop() {
	close(g.stopped)
	g.breakAll()
	g.mu.Lock()
	for _, m := range g.masters {
		m.listener.Close()
	}
	g.mu.Unlock()
	g.tasks.Wait()
	if err := g.log.Close(); err != nil {
		g.t.Errorf("close log: %v", err)
	}
}

// breakAll closes all connections.
func (g *group) breakAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for conn := range g.conns {
		conn.Close()
	}
}

func (g *group) track(conn net.Conn) func() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[conn] = true
	return func() {
		conn.Close()
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.conns, conn)
	}
}

// serveLocal listens on the local socket until the test ends or the function it returns is called.
func (g *group) serveLocal() func() {
	listener, err := net.Listen("unix", g.socketPath)
	if err != nil {
		g.t.Fatal(err)
	}
	g.accept(listener, g.local)
	return func() { listener.Close() }
}

func (g *group) accept(listener net.Listener, serve func(net.Conn)) {
	g.tasks.Add(2)
	go func() {
		defer g.tasks.Done()
		<-g.stopped
		listener.Close()
	}()
	go func() {
		defer g.tasks.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			untrack := g.track(conn)
			g.tasks.Add(1)
			go func() {
				defer g.tasks.Done()
				defer untrack()
				serve(conn)
			}()
		}
	}()
}

func (g *group) local(conn net.Conn) {
	r := wire.NewReader(conn, wire.HelloLimit)
	hello, err := wire.Expect[smr.LocalHello](r)
	if err != nil {
		return
	}
	if reject := wire.CheckHandshake(hello.Handshake, testUs); reject != nil {
		conn.Write(wire.AppendMessage(nil, reject))
		return
	}
	r.SetLimit(wire.LocalLimit)
	g.mu.Lock()
	if reject := g.refusedHello; reject != nil {
		g.mu.Unlock()
		conn.Write(wire.AppendMessage(nil, reject))
		return
	}
	g.hello = *hello
	sources := wire.AppendMessage(nil, &smr.ImageSources{Sources: g.sources})
	g.mu.Unlock()
	conn.Write(wire.AppendMessage(nil, &smr.LocalWelcome{Handshake: testUs, Incarnation: 1, LogDir: filepath.Join(g.dir, "log")}))
	g.tasks.Add(1)
	go func() {
		defer g.tasks.Done()
		for {
			message, err := r.Next()
			if err != nil {
				conn.Close()
				return
			}
			g.mu.Lock()
			switch message := message.(type) {
			case *smr.Progress:
				g.progress = *message
			case *smr.Transfer:
				g.transfer = *message
			case *smr.LocalBase:
				base, err := log.ParseBase(message.Base)
				if err != nil {
					g.t.Errorf("the client brings a base: %v", err)
				}
				g.bases = append(g.bases, base)
			default:
				g.t.Errorf("the client says %T", message)
			}
			g.mu.Unlock()
		}
	}()
	conn.Write(sources)
	for {
		g.mu.Lock()
		status, change, refusal := g.status, g.change, g.refusal
		g.mu.Unlock()
		if refusal != nil {
			conn.Write(wire.AppendMessage(nil, refusal))
			conn.Close()
			return
		}
		if _, err := conn.Write(wire.AppendMessage(nil, &status)); err != nil {
			return
		}
		select {
		case <-change:
		case <-time.After(500 * time.Millisecond):
		case <-g.stopped:
			return
		}
	}
}

func (g *group) update(change func(status *smr.Status)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.status)
	close(g.change)
	g.change = make(chan struct{})
}

// lead starts a master and makes it the group's.
func (g *group) lead(node smr.NodeID, epoch smr.Epoch) *master {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	m := &master{group: g, node: node, epoch: epoch, listener: listener}
	g.mu.Lock()
	g.masters = append(g.masters, m)
	g.mu.Unlock()
	config := smr.Config{Epoch: epoch, Reign: epoch, Master: node, Copies: 1, Members: []smr.Member{{Node: node, Incarnation: 1}}}
	g.append(smr.Frame{Epoch: epoch, Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, config)})
	g.accept(listener, m.serve)
	g.update(func(s *smr.Status) {
		s.Role, s.Epoch, s.Master, s.MasterAddr, s.Writable = smr.RoleSlave, epoch, node, listener.Addr().String(), true
	})
	return m
}

// append writes a frame and makes it safe, unless its master has been followed by another.
func (g *group) append(f smr.Frame) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f.Epoch < g.status.Epoch {
		return false
	}
	g.status.Epoch = f.Epoch
	f.LSN = g.log.End()
	f.Stamp = int64(f.LSN)
	if err := g.log.Append(smr.AppendFrame(nil, f)); err != nil {
		g.t.Errorf("append: %v", err)
		return false
	}
	if !g.hold.Load() {
		g.status.Safe, g.status.Commit = g.log.End(), g.log.End()
		close(g.change)
		g.change = make(chan struct{})
	}
	return true
}

// release makes everything safe.
func (g *group) release() {
	g.hold.Store(false)
	g.update(func(s *smr.Status) { s.Safe, s.Commit = g.log.End(), g.log.End() })
}

func (m *master) serve(conn net.Conn) {
	m.accepted.Add(1)
	r := wire.NewReader(conn, wire.HelloLimit)
	if _, err := wire.Expect[smr.ClientHello](r); err != nil {
		return
	}
	g := m.group
	g.mu.Lock()
	leads := g.status.Epoch <= m.epoch
	g.mu.Unlock()
	if !leads {
		conn.Write(wire.AppendMessage(nil, &smr.Reject{Code: smr.RejectNotMaster, Epoch: m.epoch + 1, Reason: "not any more"}))
		return
	}
	welcome := testUs
	welcome.Node = m.node
	conn.Write(wire.AppendMessage(nil, &smr.ClientWelcome{Handshake: welcome, Epoch: m.epoch}))
	r.SetLimit(wire.StreamLimit)
	for {
		message, err := r.Next()
		if err != nil {
			return
		}
		var answer any
		switch message := message.(type) {
		case *smr.Propose:
			// Whoever loses a proposal must give up the connection: what comes behind it would leave a gap.
			if g.swallow.Load() || !g.append(smr.Frame{Epoch: m.epoch, Kind: smr.KindRequests, Count: message.Count, Body: message.Requests}) {
				return
			}
		case *smr.ReadIndex:
			m.asked.Add(1)
			answer = &smr.ReadReady{ID: message.ID, LSN: g.end()}
		case *smr.CountCopies:
			answer = &smr.CopiesCounted{ID: message.ID, Copies: 2}
		}
		if answer != nil && !m.silent.Load() {
			conn.Write(wire.AppendMessage(nil, answer))
		}
	}
}

func (g *group) end() smr.LSN {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.status.Commit
}

// logEnd returns where the log ends, safe or not.
func (g *group) logEnd() smr.LSN {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.End()
}

// tape is a Machine that remembers what it executed. A request's payload is 8 bytes of a number.
type tape struct {
	client *Client
	own    smr.SessionID
	table  smr.SessionTable
	delay  chan struct{}
	stacks bool // count who executes

	mu       sync.Mutex
	slow     bool  // no frame is prompt
	fail     error // of the next ApplyFrame
	heard    int   // frames that were executed by who hears the replicator
	looped   int   // by the apply loop
	numbers  []uint64
	statuses []smr.Status
	next     smr.LSN
}

func (m *tape) Prompt(smr.Frame) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.slow
}

func (m *tape) ApplyFrame(f smr.Frame) error {
	if m.delay != nil {
		<-m.delay
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	switch {
	case !m.stacks:
	case bytes.Contains(debug.Stack(), []byte("hearStatus")):
		m.heard++
	default:
		m.looped++
	}
	if f.LSN != m.next {
		return fmt.Errorf("frame at %d after %d", f.LSN, m.next)
	}
	m.next = f.End()
	rest := f.Body
	for range f.Count {
		var request smr.Request
		var err error
		if request, rest, err = smr.CutRequest(rest); err != nil {
			return err
		}
		verdict := m.table.Admit(request.Session, request.Sequence, f.LSN)
		if verdict == smr.OutOfOrder && request.Session == m.own {
			return ErrSessionLost
		}
		if verdict != smr.Execute {
			continue
		}
		m.numbers = append(m.numbers, binary.LittleEndian.Uint64(request.Payload))
		if request.Session == m.own {
			if waiter := m.client.Take(request.Sequence); waiter != nil {
				waiter.(*call).executed(f.LSN)
			}
		}
	}
	return nil
}

func (m *tape) StatusChanged(status smr.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.statuses = append(m.statuses, status)
}

func (m *tape) executed() []uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]uint64(nil), m.numbers...)
}

// executors returns how many frames who has executed.
func (m *tape) executors() (heard, looped int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard, m.looped
}

// call is a Waiter that a goroutine waits on.
type call struct {
	done  chan Outcome // session.Success: executed
	lsn   smr.LSN
	times atomic.Int64
}

func newCall() *call { return &call{done: make(chan Outcome, 2)} }

func (c *call) executed(lsn smr.LSN) {
	c.lsn = lsn
	c.times.Add(1)
	c.done <- 0
}

func (c *call) Finish(outcome Outcome) {
	c.times.Add(1)
	c.done <- outcome
}

func (c *call) wait(t testing.TB) Outcome {
	t.Helper()
	select {
	case outcome := <-c.done:
		return outcome
	case <-time.After(30 * time.Second):
		t.Fatal("no outcome")
		return 0
	}
}

func testConfig(g *group) Config {
	return Config{Cluster: "c0ffee", Group: "g1", Node: "n1", Session: 7, SocketPath: g.socketPath, KVAddr: "127.0.0.1:6379",
		Logger: slog.New(slog.DiscardHandler)}
}

func number(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// until waits for something to become true.
func until(t testing.TB, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !fact(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

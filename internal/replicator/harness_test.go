package replicator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lockstep/log"
	"lockstep/proto"
	"lockstep/smr"
	"lockstep/smr/wire"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	testCluster = "test-cluster"
	testGroup   = "g1"
	// patience bounds waits in tests: a failure, never a measurement.
	patience = time.Minute
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tester is a replicator that runs in this process.
type tester struct {
	t      testing.TB
	cfg    Config
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of Run, valid once ended
	ends   Endpoints
	conn   *grpc.ClientConn
	manage proto.ReplicatorClient
	logged *syncBuffer
}

// syncBuffer keeps log lines for a failed test.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func testConfig(dir, node string) Config {
	return Config{
		Dir: dir, Cluster: testCluster, Group: testGroup, Node: node,
		DataAddr: "127.0.0.1:0", ManageAddr: "127.0.0.1:0", FileSize: 256 << 10,
	}
}

// tempDir is short enough for a unix socket.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lsrep")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start runs a replicator until stop or the end of the test.
func start(t testing.TB, cfg Config) *tester {
	t.Helper()
	x, err := tryStart(t, cfg)
	if err != nil {
		t.Fatalf("start %s: %v\n%s", cfg.Node, err, x.logged)
	}
	return x
}

func tryStart(t testing.TB, cfg Config) (*tester, error) {
	t.Helper()
	x := &tester{t: t, cfg: cfg, ended: make(chan struct{}), logged: &syncBuffer{}}
	var ctx context.Context
	ctx, x.cancel = context.WithCancel(context.Background())
	ready := make(chan Endpoints, 1)
	x.cfg.Ready = func(e Endpoints) { ready <- e }
	if x.cfg.Logger == nil {
		x.cfg.Logger = slog.New(slog.NewTextHandler(x.logged, nil))
	}
	go func() {
		defer close(x.ended)
		x.err = Run(ctx, x.cfg)
	}()
	select {
	case x.ends = <-ready:
	case <-x.ended:
		x.cancel()
		return x, x.err
	}
	conn, err := grpc.NewClient(x.ends.Manage.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	x.conn, x.manage = conn, proto.NewReplicatorClient(conn)
	t.Cleanup(func() { x.stop() })
	return x, nil
}

// stop ends the replicator and returns what Run returned.
func (x *tester) stop() error {
	x.conn.Close()
	x.cancel()
	<-x.ended
	if x.t.Failed() && x.logged != nil {
		x.t.Logf("log of %s:\n%s", x.cfg.Node, x.logged)
		x.logged = nil
	}
	return x.err
}

func (x *tester) target() *proto.Target {
	return &proto.Target{Cluster: x.cfg.Cluster, Group: x.cfg.Group, Node: x.cfg.Node}
}

func (x *tester) state() *proto.ReplicaState {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	state, err := x.manage.State(ctx, &proto.WatchRequest{Target: x.target()})
	if err != nil {
		x.t.Fatalf("state of %s: %v", x.cfg.Node, err)
	}
	return state
}

// await waits until a fact about the state holds.
func (x *tester) await(what string, fact func(*proto.ReplicaState) bool) *proto.ReplicaState {
	x.t.Helper()
	var state *proto.ReplicaState
	eventually(x.t, func() error {
		if state = x.state(); !fact(state) {
			return fmt.Errorf("%s: not so: %s\n%s", x.cfg.Node, what, state)
		}
		return nil
	})
	return state
}

func eventually(t testing.TB, attempt func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := attempt()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// conductor plays the configuration master.
type conductor struct {
	t           testing.TB
	epoch       uint64
	established *proto.GroupConfig
	nodes       []*tester
	copies      uint32
}

func call(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return f(ctx)
}

// create makes a group of blank replicas: epoch 1 is established on record, then all learn it.
func create(t testing.TB, copies uint32, nodes ...*tester) *conductor {
	t.Helper()
	c := &conductor{t: t, epoch: 1, nodes: nodes, copies: copies}
	config := &proto.GroupConfig{Epoch: 1, Reign: 1, Master: nodes[0].cfg.Node, Copies: copies}
	for _, x := range nodes {
		state := x.await("blank", func(s *proto.ReplicaState) bool { return s.Blank })
		config.Members = append(config.Members, &proto.Member{Node: x.cfg.Node, Incarnation: state.Incarnation})
	}
	c.established = config
	for _, x := range nodes {
		if err := c.learn(x); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *conductor) learn(x *tester) error {
	return call(func(ctx context.Context) error {
		_, err := x.manage.Learn(ctx, &proto.LearnRequest{Target: x.target(), Epoch: 1})
		return err
	})
}

// elect fences the given replicas, lets the one with the highest Position lead (the first of equals), makes the others
// follow, and establishes the epoch.
func (c *conductor) elect(from ...*tester) *tester {
	c.t.Helper()
	c.epoch++
	answers := make([]*proto.FenceReply, len(from))
	best := 0
	for i, x := range from {
		err := call(func(ctx context.Context) (err error) {
			answers[i], err = x.manage.Fence(ctx, &proto.FenceRequest{Target: x.target(), Epoch: c.epoch})
			return err
		})
		if err != nil {
			c.t.Fatalf("fence %s: %v", x.cfg.Node, err)
		}
		a, b := answers[i], answers[best]
		if a.PositionEpoch > b.PositionEpoch || a.PositionEpoch == b.PositionEpoch && a.End > b.End {
			best = i
		}
	}
	master := from[best]
	c.lead(master, answers[best])
	for _, x := range from {
		if x != master {
			c.follow(x, master)
		}
	}
	c.establish(master)
	return master
}

func (c *conductor) config(master *tester) *proto.GroupConfig {
	return &proto.GroupConfig{Epoch: c.epoch, Reign: c.epoch, Master: master.cfg.Node, Copies: c.copies, Members: c.established.Members}
}

func (c *conductor) lead(master *tester, answer *proto.FenceReply) {
	c.t.Helper()
	err := call(func(ctx context.Context) error {
		_, err := master.manage.Lead(ctx, &proto.LeadRequest{
			Target: master.target(), Incarnation: answer.Incarnation, Life: answer.Life,
			Config: c.config(master), Base: c.established, Addresses: []*proto.Address{{Node: master.cfg.Node, DataAddr: master.ends.Data.String()}},
		})
		return err
	})
	if err != nil {
		c.t.Fatalf("lead %s: %v", master.cfg.Node, err)
	}
}

func (c *conductor) follow(x, master *tester) {
	c.t.Helper()
	err := call(func(ctx context.Context) error {
		_, err := x.manage.Follow(ctx, &proto.FollowRequest{
			Target: x.target(), Epoch: c.epoch, Master: master.cfg.Node, MasterAddr: master.ends.Data.String(),
		})
		return err
	})
	if err != nil {
		c.t.Fatalf("follow %s: %v", x.cfg.Node, err)
	}
}

func (c *conductor) establish(master *tester) {
	c.t.Helper()
	master.await("reportable", func(s *proto.ReplicaState) bool { return s.Reportable == c.epoch })
	c.established = c.config(master)
	err := call(func(ctx context.Context) error {
		_, err := master.manage.Established(ctx, &proto.EstablishedRequest{Target: master.target(), Config: c.established})
		return err
	})
	if err != nil {
		c.t.Fatalf("established at %s: %v", master.cfg.Node, err)
	}
}

// testKV plays the KV node beside a replicator: it attaches, reads what is safe from the log files, and remembers what
// it executed.
type testKV struct {
	x        *tester
	conn     net.Conn
	ended    chan struct{}
	sequence func() uint64
	// keeps: what is executed is durable here, so that the log below may go.
	keeps bool
	// fetch gets the state of another KV node when an image is needed at an LSN or above; nil: no image comes.
	fetch func(from smr.LSN) (*testImage, error)

	mu       sync.Mutex
	sources  []smr.ImageSource
	moved    *sync.Cond
	status   smr.Status
	applied  smr.LSN
	sessions smr.SessionTable
	executed map[smr.SessionID]uint64
	failure  error
}

func handshake(node string) smr.Handshake {
	return smr.Handshake{Cluster: testCluster, Group: testGroup, Node: smr.NodeID(node)}
}

func attachKV(x *tester) *testKV { return attachKVWith(x, func(*testKV) {}) }

// attachKVWith attaches a KV node that was changed before.
func attachKVWith(x *tester, change func(*testKV)) *testKV {
	x.t.Helper()
	k := &testKV{x: x, ended: make(chan struct{}), executed: make(map[smr.SessionID]uint64)}
	k.moved = sync.NewCond(&k.mu)
	change(k)
	conn, err := net.Dial("unix", x.ends.Socket)
	if err != nil {
		x.t.Fatal(err)
	}
	k.conn = conn
	if _, err := conn.Write(wire.AppendMessage(nil, &smr.LocalHello{
		Handshake: handshake(x.cfg.Node), Session: 1, Pid: os.Getpid(), KVAddr: "127.0.0.1:1", AdminAddr: "127.0.0.1:2", Applied: k.applied,
	})); err != nil {
		x.t.Fatal(err)
	}
	r := wire.NewReader(conn, wire.HelloLimit)
	welcome, err := wire.Expect[smr.LocalWelcome](r)
	if err != nil {
		x.t.Fatal(err)
	}
	r.SetLimit(wire.LocalLimit)
	reader, err := log.OpenReader(nil, welcome.LogDir)
	if err != nil {
		x.t.Fatal(err)
	}
	go func() {
		defer close(k.ended)
		defer reader.Close()
		err := k.run(r, reader)
		k.mu.Lock()
		k.failure = err
		k.moved.Broadcast()
		k.mu.Unlock()
	}()
	x.t.Cleanup(k.detach)
	return k
}

func (k *testKV) detach() {
	k.conn.Close()
	<-k.ended
}

func (k *testKV) run(r *wire.Reader, reader *log.Reader) error {
	buffer := make([]byte, 256<<10)
	var out []byte
	for {
		message, err := r.Next()
		if err != nil {
			return err
		}
		if m, ok := message.(*smr.ImageSources); ok {
			k.mu.Lock()
			k.sources = m.Sources
			k.mu.Unlock()
			continue
		}
		status, ok := message.(*smr.Status)
		if !ok {
			return fmt.Errorf("%T from the replicator", message)
		}
		if status.NeedImage > 0 && k.fetch != nil {
			if err := k.bring(status.NeedImage); err != nil {
				return err
			}
		}
		if r.Buffered() {
			continue
		}
		if status.Safe < k.applied && k.fetch == nil {
			return fmt.Errorf("safe goes back from %d to %d", k.applied, status.Safe)
		}
		for k.applied < status.Safe {
			var next smr.LSN
			next, buffer, err = reader.Frames(buffer, k.applied, status.Safe, k.apply)
			if err != nil {
				return err
			}
			if next == k.applied {
				return fmt.Errorf("no frame at %d below safe %d", next, status.Safe)
			}
			k.mu.Lock()
			k.applied = next
			k.mu.Unlock()
		}
		k.mu.Lock()
		k.status = *status
		k.moved.Broadcast()
		k.mu.Unlock()
		progress := &smr.Progress{Applied: k.applied}
		if k.keeps {
			progress.Checkpoint = k.applied
		}
		out = wire.AppendMessage(out[:0], progress)
		if _, err := k.conn.Write(out); err != nil {
			return err
		}
	}
}

func (k *testKV) apply(f smr.Frame, _ []byte) error {
	rest := f.Body
	k.mu.Lock()
	defer k.mu.Unlock()
	for range f.Count {
		var q smr.Request
		var err error
		if q, rest, err = smr.CutRequest(rest); err != nil {
			return err
		}
		if k.sessions.Admit(q.Session, q.Sequence, f.LSN) == smr.Execute {
			k.executed[q.Session] = q.Sequence
		}
	}
	return nil
}

// awaitExecuted waits until the request has been executed here.
func (k *testKV) awaitExecuted(session smr.SessionID, sequence uint64) error {
	timer := time.AfterFunc(patience, func() {
		k.mu.Lock()
		k.failure = errors.Join(k.failure, errors.New("not executed in time"))
		k.moved.Broadcast()
		k.mu.Unlock()
	})
	defer timer.Stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.executed[session] < sequence && k.failure == nil {
		k.moved.Wait()
	}
	if k.executed[session] >= sequence {
		return nil
	}
	return fmt.Errorf("request %d of session %d at %s, applied %d: %w", sequence, session, k.x.cfg.Node, k.applied, k.failure)
}

func (k *testKV) awaitStatus(what string, fact func(smr.Status) bool) {
	k.x.t.Helper()
	eventually(k.x.t, func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if !fact(k.status) {
			return fmt.Errorf("kv node of %s: not so: %s: %+v %v", k.x.cfg.Node, what, k.status, k.failure)
		}
		return nil
	})
}

// testClient is a client connection with a session that resends.
type testClient struct {
	conn    net.Conn
	r       *wire.Reader
	session smr.SessionID
	buffer  []byte
	batch   []byte
}

func dialData(address string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

func dialClient(x *tester, session smr.SessionID) (*testClient, error) {
	conn, err := dialData(x.ends.Data.String())
	if err != nil {
		return nil, err
	}
	c := &testClient{conn: conn, r: wire.NewReader(conn, wire.HelloLimit), session: session}
	if _, err := conn.Write(wire.AppendMessage(nil, &smr.ClientHello{Handshake: handshake("kv"), Session: session})); err != nil {
		conn.Close()
		return nil, err
	}
	if _, err := wire.Expect[smr.ClientWelcome](c.r); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// propose sends the requests from, from+1, … , to of the session.
func (c *testClient) propose(from, to uint64, payload []byte) error {
	c.batch = c.batch[:0]
	for sequence := from; sequence <= to; sequence++ {
		c.batch = smr.AppendRequest(c.batch, smr.Request{Session: c.session, Sequence: sequence, Slot: smr.NoSlot, Payload: payload})
	}
	c.buffer = wire.AppendMessage(c.buffer[:0], &smr.Propose{Count: int(to - from + 1), Requests: c.batch})
	_, err := c.conn.Write(c.buffer)
	return err
}

// logBytes reads all bytes of a stopped replica's log below end.
func logBytes(t testing.TB, dir string, end smr.LSN) []byte {
	t.Helper()
	reader, err := log.OpenReader(nil, filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	b := make([]byte, end)
	n, err := reader.ReadAt(b, 0, end)
	if err != nil && err != io.EOF || n != len(b) {
		t.Fatalf("read %d of %d bytes of the log in %s: %v", n, end, dir, err)
	}
	return b
}

package confmaster

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/fault"
	"lockstep/internal/pause"
	lockstep "lockstep/proto"
)

// fakeGroup is the replicas of one group as a configuration master meets them: gRPC servers on loopback that keep the
// rules of a replica's orders (S2, S3, S7, S10), with a log that is nothing but its length and its epochs. A slave that
// streams has what its master has, at once.
type fakeGroup struct {
	t       *testing.T
	cluster string
	name    string
	fakes   []*fakeReplica

	mu      sync.Mutex
	changed chan struct{} // closed and made anew at every change
	serial  uint64
	leads   map[uint64]leadRecord // by epoch: who took it
}

type leadRecord struct {
	node string
	life uint64
	at   time.Time
}

// fakeReplica is one of them. The mutex of the group guards it.
type fakeReplica struct {
	lockstep.UnimplementedReplicatorServer
	group  *fakeGroup
	node   string
	manage string // address
	kv     string // address

	// Durable.
	incarnation uint64
	blank       bool
	promise     uint64
	spans       []*lockstep.HistorySpan
	end         uint64

	// Of the process life.
	server   *grpc.Server
	life     uint64
	leading  bool
	fenced   uint64 // epoch of the fence that was answered last
	master   string // it follows, "" for none
	config   *lockstep.GroupConfig
	base     *lockstep.GroupConfig
	began    uint64 // LSN of config's epoch start
	commit   uint64
	attached bool
	frozen   bool // answers nothing, like a stopped process
	slow     time.Duration
	fences   int
	kvAdmin  string // management address of its KV node, "" if that has none
	level    uint32 // highest feature level of replicator and KV node, 0 is 1
	told     uint32 // the cluster's, as it was told last
	resets   bool   // its connections end with a reset, like those of a host that forgot them
}

// resetting is a listener whose connections are reset when they are closed.
type resetting struct{ net.Listener }

func (l resetting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok {
		err = tcp.SetLinger(0)
	}
	return conn, err
}

func newFakeGroup(t *testing.T, cluster, name string, nodes ...string) *fakeGroup {
	g := &fakeGroup{t: t, cluster: cluster, name: name, changed: make(chan struct{}), leads: make(map[uint64]leadRecord)}
	for _, node := range nodes {
		f := &fakeReplica{group: g, node: node, manage: freeAddr(t), kv: freeAddr(t), incarnation: uint64(len(g.fakes) + 100), blank: true}
		g.fakes = append(g.fakes, f)
		f.start()
	}
	return g
}

func (g *fakeGroup) stop() {
	for _, f := range g.fakes {
		f.kill()
	}
}

func (g *fakeGroup) of(node string) *fakeReplica {
	return g.fakes[slices.IndexFunc(g.fakes, func(f *fakeReplica) bool { return f.node == node })]
}

func (g *fakeGroup) request() *lockstep.CreateGroupRequest {
	request := &lockstep.CreateGroupRequest{Name: g.name, Copies: 2, MinCopies: 2}
	for _, f := range g.fakes {
		request.Replicas = append(request.Replicas, &lockstep.ReplicaSpec{Node: f.node, ManageAddr: f.manage, DataAddr: "127.0.0.1:1", KvAddr: f.kv})
	}
	return request
}

// start begins a process life; it is also the restart after kill.
func (f *fakeReplica) start() {
	f.group.t.Helper()
	listener, err := net.Listen("tcp", f.manage)
	if err != nil {
		f.group.t.Fatal(err)
	}
	f.group.change(func() {
		f.group.serial++
		f.life, f.server, f.attached, f.frozen = f.group.serial, grpc.NewServer(), true, false
		f.rest()
	})
	if f.resets {
		listener = resetting{listener}
	}
	lockstep.RegisterReplicatorServer(f.server, f)
	fault.New(fault.Options{Allowed: true, Logger: quietLogger()}).Register(f.server, func(*lockstep.Target) error { return nil }, nil)
	go f.server.Serve(listener)
}

// rest forgets the role.
func (f *fakeReplica) rest() {
	f.leading, f.fenced, f.master, f.config, f.base, f.commit = false, 0, "", nil, nil, 0
}

// kill ends the process: its connections break at once, and new ones are refused.
func (f *fakeReplica) kill() {
	f.group.mu.Lock()
	server := f.server
	f.server = nil
	f.group.mu.Unlock()
	if server != nil {
		f.group.change(func() { f.frozen = false })
		server.Stop()
	}
	f.group.change(func() {})
}

// freeze and thaw are SIGSTOP and SIGCONT.
func (f *fakeReplica) freeze() { f.group.change(func() { f.frozen = true }) }
func (f *fakeReplica) thaw()   { f.group.change(func() { f.frozen = false }) }

// change alters the group, lets bytes flow and wakes who waits.
func (g *fakeGroup) change(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	do()
	for _, m := range g.fakes {
		if m.server != nil && m.leading && !m.frozen {
			g.replicate(m)
		}
	}
	close(g.changed)
	g.changed = make(chan struct{})
}

// replicate gives the slaves of m its log and lets it commit what enough members hold (S5).
func (g *fakeGroup) replicate(m *fakeReplica) {
	for _, s := range g.slavesOf(m) {
		s.spans, s.end = slices.Clone(m.spans), m.end
	}
	if g.held(m, m.config) && (m.base.GetEpoch() == m.config.GetEpoch() || g.held(m, m.base)) {
		m.commit = m.end
	}
}

func (g *fakeGroup) slavesOf(m *fakeReplica) []*fakeReplica {
	var slaves []*fakeReplica
	for _, s := range g.fakes {
		if s != m && s.server != nil && !s.frozen && s.master == m.node && s.promise == m.promise {
			slaves = append(slaves, s)
		}
	}
	return slaves
}

// held reports whether as many members of config as it asks for have all that m has.
func (g *fakeGroup) held(m *fakeReplica, config *lockstep.GroupConfig) bool {
	count := 0
	for _, member := range config.GetMembers() {
		for _, f := range append(g.slavesOf(m), m) {
			if f.node == member.GetNode() && f.incarnation == member.GetIncarnation() {
				count++
			}
		}
	}
	return count >= int(config.GetCopies())
}

func (f *fakeReplica) position() uint64 {
	if len(f.spans) == 0 {
		return 0
	}
	return f.spans[len(f.spans)-1].GetEpoch()
}

// state is what Watch shows. Called with the mutex held.
func (f *fakeReplica) state() *lockstep.ReplicaState {
	s := &lockstep.ReplicaState{Cluster: f.group.cluster, Group: f.group.name, Node: f.node, Incarnation: f.incarnation, Life: f.life,
		Blank: f.blank, Role: "none", Leading: f.leading, Promise: f.promise, Epoch: f.promise, Master: f.master, End: f.end, Durable: f.end,
		Commit: f.commit, Safe: f.commit, Applied: f.commit, PositionEpoch: f.position(), Attached: f.attached, KvAddr: f.kv, DataAddr: f.kv, Pid: 1, KvPid: 2, KvAdminAddr: f.kvAdmin,
		HighestLevel: f.level, KvHighestLevel: f.level, Version: f.node + "-version"}
	switch {
	case f.leading:
		s.Role, s.Master, s.Writable = "master", f.node, f.group.held(f, f.config)
		if f.commit > f.began {
			s.Reportable = f.config.GetEpoch()
		}
		for _, slave := range f.group.slavesOf(f) {
			s.Peers = append(s.Peers, &lockstep.PeerState{Node: slave.node, Incarnation: slave.incarnation, Streams: true, Durable: slave.end})
		}
	case f.master != "":
		m := f.group.of(f.master)
		s.Role, s.Joined = "slave", m.server != nil && m.leading && m.promise == f.promise
		s.Commit = f.end
	case f.fenced != 0:
		s.Role = "fenced"
	}
	return s
}

// order runs do with the mutex held, once the replica is not frozen, unless the order is for another.
func (f *fakeReplica) order(ctx context.Context, target *lockstep.Target, do func() error) (*lockstep.OrderReply, error) {
	if target.GetCluster() != f.group.cluster || target.GetGroup() != f.group.name || target.GetNode() != f.node {
		return nil, status.Errorf(codes.FailedPrecondition, "meant for %v", target)
	}
	for {
		f.group.mu.Lock()
		frozen, changed := f.frozen, f.group.changed
		f.group.mu.Unlock()
		if !frozen {
			break
		}
		select {
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-changed:
		}
	}
	var err error
	f.group.change(func() { err = do() })
	if err != nil {
		return nil, err
	}
	return &lockstep.OrderReply{}, nil
}

func (f *fakeReplica) Watch(request *lockstep.WatchRequest, stream grpc.ServerStreamingServer[lockstep.ReplicaState]) error {
	ticker := time.NewTicker(time.Duration(request.GetIntervalMs()) * time.Millisecond)
	defer ticker.Stop()
	f.group.change(func() { f.told = request.GetTarget().GetLevel() })
	for {
		f.group.mu.Lock()
		state, frozen, changed := f.state(), f.frozen, f.group.changed
		f.group.mu.Unlock()
		if !frozen {
			if err := stream.Send(state); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-ticker.C:
		case <-changed:
		}
	}
}

func (f *fakeReplica) State(ctx context.Context, request *lockstep.WatchRequest) (*lockstep.ReplicaState, error) {
	var state *lockstep.ReplicaState
	_, err := f.order(ctx, request.GetTarget(), func() error { state = f.state(); return nil })
	return state, err
}

func (f *fakeReplica) Fence(ctx context.Context, request *lockstep.FenceRequest) (*lockstep.FenceReply, error) {
	f.group.mu.Lock()
	slow := f.slow
	f.fences++
	f.group.mu.Unlock()
	pause.For(ctx, slow)
	var reply *lockstep.FenceReply
	_, err := f.order(ctx, request.GetTarget(), func() error {
		epoch := request.GetEpoch()
		again := epoch == f.promise && f.fenced == epoch
		switch {
		case f.blank:
			return status.Error(codes.FailedPrecondition, "blank")
		case epoch <= f.promise && !again:
			return status.Errorf(codes.Aborted, "epoch %d is promised", f.promise)
		}
		f.rest()
		f.fenced, f.promise = epoch, epoch
		reply = &lockstep.FenceReply{Epoch: epoch, Incarnation: f.incarnation, Life: f.life, PositionEpoch: f.position(), End: f.end,
			Commit: f.commit, Applied: f.commit, History: f.spans}
		return nil
	})
	return reply, err
}

func (f *fakeReplica) Lead(ctx context.Context, request *lockstep.LeadRequest) (*lockstep.OrderReply, error) {
	return f.order(ctx, request.GetTarget(), func() error {
		epoch := request.GetConfig().GetEpoch()
		switch {
		case request.GetIncarnation() != f.incarnation || request.GetLife() != f.life:
			return status.Error(codes.FailedPrecondition, "another life")
		case f.leading && f.config.GetReign() == epoch:
			return nil
		case f.fenced != epoch:
			return status.Errorf(codes.FailedPrecondition, "fenced for %d, not %d", f.fenced, epoch)
		}
		if before, taken := f.group.leads[epoch]; taken {
			f.group.t.Errorf("epoch %d is led by %s/%d and by %s/%d", epoch, before.node, before.life, f.node, f.life)
		}
		f.group.leads[epoch] = leadRecord{node: f.node, life: f.life, at: time.Now()}
		f.rest()
		f.leading, f.base = true, request.GetBase()
		f.beginEpoch(request.GetConfig())
		return nil
	})
}

// beginEpoch writes the epoch start.
func (f *fakeReplica) beginEpoch(config *lockstep.GroupConfig) {
	f.config, f.promise, f.began = config, config.GetEpoch(), f.end
	f.spans = append(slices.Clone(f.spans), &lockstep.HistorySpan{Epoch: config.GetEpoch(), From: f.end})
	f.end += 100
	for _, s := range f.group.fakes { // slaves raise their promise with the epoch starts of a reconfiguration
		if s.master == f.node && s.promise >= config.GetReign() {
			s.promise = config.GetEpoch()
		}
	}
}

func (f *fakeReplica) Follow(ctx context.Context, request *lockstep.FollowRequest) (*lockstep.OrderReply, error) {
	return f.order(ctx, request.GetTarget(), func() error {
		switch {
		case f.blank:
			return status.Error(codes.FailedPrecondition, "blank")
		case request.GetEpoch() < f.promise || f.leading && request.GetEpoch() == f.promise:
			return status.Errorf(codes.Aborted, "epoch %d is promised", f.promise)
		}
		f.rest()
		f.master, f.promise = request.GetMaster(), request.GetEpoch()
		return nil
	})
}

func (f *fakeReplica) Reconfigure(ctx context.Context, request *lockstep.LeadRequest) (*lockstep.OrderReply, error) {
	return f.order(ctx, request.GetTarget(), func() error {
		config := request.GetConfig()
		switch {
		case !f.leading || f.config.GetReign() != config.GetReign():
			return status.Error(codes.FailedPrecondition, "not the master of that reign")
		case f.config.GetEpoch() == config.GetEpoch():
			return nil
		case config.GetEpoch() < f.promise:
			return status.Errorf(codes.Aborted, "epoch %d is promised", f.promise)
		}
		f.base = request.GetBase()
		f.beginEpoch(config)
		return nil
	})
}

func (f *fakeReplica) Established(ctx context.Context, request *lockstep.EstablishedRequest) (*lockstep.OrderReply, error) {
	return f.order(ctx, request.GetTarget(), func() error {
		if !f.leading {
			return status.Error(codes.FailedPrecondition, "not master")
		}
		if request.GetConfig().GetEpoch() == f.config.GetEpoch() {
			f.base = request.GetConfig()
		}
		return nil
	})
}

func (f *fakeReplica) Learn(ctx context.Context, request *lockstep.LearnRequest) (*lockstep.OrderReply, error) {
	return f.order(ctx, request.GetTarget(), func() error {
		if f.blank {
			f.blank, f.promise = false, request.GetEpoch()
		}
		return nil
	})
}

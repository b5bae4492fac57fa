package replicator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"lockstep/internal/trust"
	"lockstep/proto"
	"lockstep/smr"
	"lockstep/smr/replica"
	"lockstep/smr/wire"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

const (
	// maxManageMessage bounds a request to the management port in bytes.
	maxManageMessage = 1 << 20
	// manageWindow is how many bytes of requests may be under way on a connection to it.
	manageWindow = 1 << 20
	// maxManageConns bounds the connections to it, maxManageStreams the calls on each.
	maxManageConns   = 128
	maxManageStreams = 64
	// orderPatience bounds how long an order without a deadline of its own waits for its reply.
	orderPatience = 10 * time.Second
	// Bounds and default of WatchRequest.interval_ms.
	minWatchMillis     = 10
	maxWatchMillis     = 60_000
	defaultWatchMillis = 1000
	// stopPatience is how long calls under way may take when the process ends.
	stopPatience = 500 * time.Millisecond
)

var errBusy = errors.New("too many orders wait for their reply")

// manage answers the configuration master. State and Watch never touch the loop; orders go through its queue.
type manage struct {
	proto.UnimplementedReplicatorServer
	node *node
	ctx  context.Context // of the process: ends streams
	// readers has room for those who read records at once.
	readers chan struct{}
}

// serveManage runs the management server until ctx ends.
func (n *node) serveManage(ctx context.Context, listener net.Listener) error {
	guard := trust.Guard{Keeper: n.cfg.Keeper, Methods: methodRoles(), Denied: n.denied}
	server := grpc.NewServer(append(guard.Options(),
		grpc.MaxRecvMsgSize(maxManageMessage),
		// Windows of a fixed size: measuring the connection to adapt them takes a ping for each message of a quiet stream.
		grpc.InitialWindowSize(manageWindow), grpc.InitialConnWindowSize(manageWindow),
		grpc.MaxConcurrentStreams(maxManageStreams),
		grpc.ConnectionTimeout(helloPatience),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			// The configuration master keeps Watch open; a connection without any call is given up.
			MaxConnectionIdle: time.Minute, Time: 5 * time.Second, Timeout: 2 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 200 * time.Millisecond, PermitWithoutStream: true}),
	)...)
	proto.RegisterReplicatorServer(server, &manage{node: n, ctx: ctx, readers: make(chan struct{}, maxRecordReaders)})
	n.cfg.drills.Register(server, (&manage{node: n}).checkTarget, ctx.Done())
	checks := health.NewServer()
	checks.SetServingStatus(proto.Replicator_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, checks)
	reflection.Register(server)

	stopped := make(chan struct{})
	n.group.Go(func() error {
		defer close(stopped)
		<-ctx.Done()
		checks.Shutdown()
		hard := time.AfterFunc(stopPatience, server.Stop)
		server.GracefulStop()
		hard.Stop()
		return nil
	})
	err := server.Serve(&boundedListener{Listener: listener, limit: maxManageConns})
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return fmt.Errorf("management port: %w", err)
}

// methodRoles says who may make which call: whoever gives orders can stop the group, or lose what was acknowledged.
func methodRoles() map[string][]trust.Role {
	return map[string][]trust.Role{
		proto.Replicator_Watch_FullMethodName:       {trust.Confmaster, trust.Viewer},
		proto.Replicator_State_FullMethodName:       {trust.Confmaster, trust.Viewer},
		proto.Replicator_Digests_FullMethodName:     {trust.Viewer},
		proto.Replicator_Records_FullMethodName:     {trust.Confmaster, trust.Viewer},
		proto.Replicator_Fence_FullMethodName:       {trust.Confmaster},
		proto.Replicator_Lead_FullMethodName:        {trust.Confmaster},
		proto.Replicator_Follow_FullMethodName:      {trust.Confmaster},
		proto.Replicator_Reconfigure_FullMethodName: {trust.Confmaster},
		proto.Replicator_Established_FullMethodName: {trust.Confmaster},
		proto.Replicator_Learn_FullMethodName:       {trust.Confmaster},
		// Whoever may look sees what is in force. A drill makes faults as an admin; an operator may have them taken back.
		proto.Drills_Faults_FullMethodName: {trust.Viewer},
		proto.Drills_End_FullMethodName:    {trust.Operator},
	}
}

// denied tells of a call that its caller may not make.
func (n *node) denied(caller trust.Caller, method, reason string) {
	n.cfg.Logger.Warn("call refused", "group", n.cfg.Group, "node", n.cfg.Node, "who", caller.String(), "call", method, "reason", reason)
}

// boundedListener closes connections above its limit as they come.
type boundedListener struct {
	net.Listener
	limit int64
	open  atomic.Int64
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) > l.limit {
			l.open.Add(-1)
			conn.Close()
			continue
		}
		return &countedConn{Conn: conn, open: &l.open}, nil
	}
}

type countedConn struct {
	net.Conn
	open   *atomic.Int64
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

// checkTarget refuses what is meant for another replica.
func (m *manage) checkTarget(target *proto.Target) error {
	got := smr.Handshake{Cluster: target.GetCluster(), Group: target.GetGroup(), Node: smr.NodeID(target.GetNode())}
	if reject := wire.CheckHandshake(got, m.node.handshake()); reject != nil {
		return status.Errorf(codes.FailedPrecondition, "not the replica that is meant: %s", reject.Reason)
	}
	return nil
}

// addressed refuses what is meant for another replica, and takes the cluster's feature level from what is meant for this one.
func (m *manage) addressed(ctx context.Context, target *proto.Target) error {
	if err := m.checkTarget(target); err != nil {
		return err
	}
	return m.node.learnLevel(ctx, target)
}

// State implements proto.ReplicatorServer.
func (m *manage) State(ctx context.Context, in *proto.WatchRequest) (*proto.ReplicaState, error) {
	if err := m.addressed(ctx, in.GetTarget()); err != nil {
		return nil, err
	}
	return m.node.state(), nil
}

// Watch implements proto.ReplicatorServer.
func (m *manage) Watch(in *proto.WatchRequest, out grpc.ServerStreamingServer[proto.ReplicaState]) error {
	if err := m.addressed(out.Context(), in.GetTarget()); err != nil {
		return err
	}
	interval := watchMillis(in.GetIntervalMs(), defaultWatchMillis)
	rest := max(interval, watchMillis(in.GetRestMs(), interval))
	timer := time.NewTimer(0)
	defer timer.Stop()
	changed, stop := m.node.snapshot.watch()
	defer stop()
	last := &proto.ReplicaState{}
	for {
		state := m.node.state()
		if err := out.Send(state); err != nil {
			return err
		}
		wait := interval
		if restsSince(last, state) {
			wait = rest
		}
		last = state
		// All watchers are told in one go, and hear from all replicas at about the same time: each message that comes alone wakes a process.
		timer.Reset(time.Duration(wait-time.Now().UnixMilli()%wait) * time.Millisecond)
		select {
		case <-changed:
		case <-timer.C:
		case <-out.Context().Done():
			return out.Context().Err()
		case <-m.ctx.Done():
			return status.Error(codes.Unavailable, "the replicator stops")
		}
	}
}

// watchMillis is a pause between two states as it is used, 0 for none asked for.
func watchMillis(asked uint32, otherwise int64) int64 {
	if asked == 0 {
		return otherwise
	}
	return min(max(int64(asked), minWatchMillis), maxWatchMillis)
}

// idleMillis is more than a loop that has nothing to do rests.
const idleMillis = 700

// restsSince reports whether nothing has moved between two states, and nothing looks stuck.
func restsSince(before, after *proto.ReplicaState) bool {
	if after.GetLoopIdleMs() > idleMillis || after.GetDiskStuckMs() > 0 || after.GetKvSilentMs() > 2*uint32(statusEvery.Milliseconds()) {
		return false
	}
	return before.GetEnd() == after.GetEnd() && before.GetDurable() == after.GetDurable() && before.GetCommit() == after.GetCommit() &&
		before.GetApplied() == after.GetApplied() && before.GetCheckpoint() == after.GetCheckpoint() && before.GetBytesDone() == after.GetBytesDone() &&
		slices.EqualFunc(before.GetPeers(), after.GetPeers(), func(a, b *proto.PeerState) bool { return a.GetDurable() == b.GetDurable() })
}

// order passes an order to the loop and waits for the core's reply.
func (m *manage) order(ctx context.Context, input replica.Input) (replica.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, orderPatience)
	defer cancel()
	reply := make(chan replica.Reply, 1) // the loop never waits for a caller that is gone
	select {
	case m.node.loop.control <- item{input: input, reply: reply}:
		m.node.loop.knock()
	case <-ctx.Done():
		return replica.Reply{}, status.FromContextError(ctx.Err()).Err()
	case <-m.ctx.Done():
		return replica.Reply{}, status.Error(codes.Unavailable, "the replicator stops")
	}
	select {
	case r := <-reply:
		return r, orderError(r.Err)
	case <-ctx.Done():
		return replica.Reply{}, status.FromContextError(ctx.Err()).Err()
	case <-m.ctx.Done():
		return replica.Reply{}, status.Error(codes.Unavailable, "the replicator stops")
	}
}

func orderError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errBusy):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, replica.ErrStale):
		return status.Error(codes.Aborted, err.Error())
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

func (m *manage) simpleOrder(ctx context.Context, input replica.Input) (*proto.OrderReply, error) {
	if _, err := m.order(ctx, input); err != nil {
		return nil, err
	}
	return &proto.OrderReply{}, nil
}

// Fence implements proto.ReplicatorServer.
func (m *manage) Fence(ctx context.Context, in *proto.FenceRequest) (*proto.FenceReply, error) {
	if err := m.addressed(ctx, in.GetTarget()); err != nil {
		return nil, err
	}
	reply, err := m.order(ctx, &replica.Fence{Epoch: smr.Epoch(in.GetEpoch()), LeaseOver: in.GetLeaseOver()})
	if err != nil {
		return nil, err
	}
	answer := reply.Answer
	out := &proto.FenceReply{
		Epoch: uint64(answer.Epoch), Incarnation: uint64(answer.Incarnation), Life: uint64(answer.Life),
		PositionEpoch: uint64(answer.Position.Epoch), End: uint64(answer.Position.End),
		Commit: uint64(answer.Commit), Applied: uint64(answer.Applied),
	}
	for _, span := range answer.History {
		out.History = append(out.History, &proto.HistorySpan{Epoch: uint64(span.Epoch), From: uint64(span.From)})
	}
	return out, nil
}

// Lead implements proto.ReplicatorServer.
func (m *manage) Lead(ctx context.Context, in *proto.LeadRequest) (*proto.OrderReply, error) {
	config, base, err := m.leadRequest(ctx, in)
	if err != nil {
		return nil, err
	}
	return m.simpleOrder(ctx, &replica.Lead{
		Incarnation: smr.Incarnation(in.GetIncarnation()), Life: smr.Life(in.GetLife()), Config: config, Base: base,
	})
}

// Reconfigure implements proto.ReplicatorServer.
func (m *manage) Reconfigure(ctx context.Context, in *proto.LeadRequest) (*proto.OrderReply, error) {
	config, base, err := m.leadRequest(ctx, in)
	if err != nil {
		return nil, err
	}
	return m.simpleOrder(ctx, &replica.Reconfigure{Config: config, Base: base})
}

// leadRequest checks all of a LeadRequest before anything of it takes effect.
func (m *manage) leadRequest(ctx context.Context, in *proto.LeadRequest) (config, base smr.Config, err error) {
	if err := m.addressed(ctx, in.GetTarget()); err != nil {
		return config, base, err
	}
	if config, err = configOf(in.GetConfig()); err != nil {
		return config, base, status.Errorf(codes.FailedPrecondition, "config: %v", err)
	}
	if base, err = configOf(in.GetBase()); err != nil {
		return config, base, status.Errorf(codes.FailedPrecondition, "last established config: %v", err)
	}
	if len(in.GetAddresses()) > maxAddresses {
		return config, base, status.Errorf(codes.FailedPrecondition, "%d addresses: at most %d are possible", len(in.GetAddresses()), maxAddresses)
	}
	for _, a := range in.GetAddresses() {
		if err := checkPeerAddress(a.GetNode(), a.GetDataAddr()); err != nil {
			return config, base, err
		}
	}
	for _, a := range in.GetAddresses() {
		m.node.addresses.learn(smr.NodeID(a.GetNode()), a.GetDataAddr())
	}
	return config, base, nil
}

func checkPeerAddress(node, address string) error {
	err := smr.CheckNodeID(node)
	checkAddress(address, "address of "+node, func(format string, arguments ...any) {
		err = errors.Join(err, fmt.Errorf(format, arguments...))
	})
	if err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return nil
}

// configOf converts and checks a configuration from outside.
func configOf(in *proto.GroupConfig) (smr.Config, error) {
	if len(in.GetMembers()) > smr.MaxMembers {
		return smr.Config{}, fmt.Errorf("%d members: at most %d are possible", len(in.GetMembers()), smr.MaxMembers)
	}
	config := smr.Config{
		Epoch: smr.Epoch(in.GetEpoch()), Reign: smr.Epoch(in.GetReign()), Master: smr.NodeID(in.GetMaster()), Copies: int(in.GetCopies()),
	}
	for _, m := range in.GetMembers() {
		config.Members = append(config.Members, smr.Member{Node: smr.NodeID(m.GetNode()), Incarnation: smr.Incarnation(m.GetIncarnation())})
	}
	return config, config.Check()
}

// Follow implements proto.ReplicatorServer.
func (m *manage) Follow(ctx context.Context, in *proto.FollowRequest) (*proto.OrderReply, error) {
	if err := m.addressed(ctx, in.GetTarget()); err != nil {
		return nil, err
	}
	if err := checkPeerAddress(in.GetMaster(), in.GetMasterAddr()); err != nil {
		return nil, err
	}
	sources, err := sourcesOf(in.GetSources())
	if err != nil {
		return nil, err
	}
	m.node.local.setSources(sources)
	m.node.addresses.learn(smr.NodeID(in.GetMaster()), in.GetMasterAddr())
	return m.simpleOrder(ctx, &replica.Follow{Epoch: smr.Epoch(in.GetEpoch()), Master: smr.NodeID(in.GetMaster())})
}

// sourcesOf converts and checks a list of who lends images.
func sourcesOf(in []*proto.ImageSource) ([]smr.ImageSource, error) {
	if len(in) > smr.MaxImageSources {
		return nil, status.Errorf(codes.FailedPrecondition, "%d sources of images: at most %d are possible", len(in), smr.MaxImageSources)
	}
	var sources []smr.ImageSource
	for _, s := range in {
		if err := checkPeerAddress(s.GetNode(), s.GetAdminAddr()); err != nil {
			return nil, err
		}
		sources = append(sources, smr.ImageSource{Node: smr.NodeID(s.GetNode()), Addr: s.GetAdminAddr()})
	}
	return sources, nil
}

// Established implements proto.ReplicatorServer.
func (m *manage) Established(ctx context.Context, in *proto.EstablishedRequest) (*proto.OrderReply, error) {
	if err := m.addressed(ctx, in.GetTarget()); err != nil {
		return nil, err
	}
	config, err := configOf(in.GetConfig())
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "config: %v", err)
	}
	return m.simpleOrder(ctx, &replica.Established{Config: config})
}

// Learn implements proto.ReplicatorServer.
func (m *manage) Learn(ctx context.Context, in *proto.LearnRequest) (*proto.OrderReply, error) {
	if err := m.addressed(ctx, in.GetTarget()); err != nil {
		return nil, err
	}
	if in.GetEpoch() == 0 {
		return nil, status.Error(codes.FailedPrecondition, "epoch 0 cannot be learned")
	}
	return m.simpleOrder(ctx, &replica.Learn{Epoch: smr.Epoch(in.GetEpoch())})
}

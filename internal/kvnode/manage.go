package kvnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
	"lockstep/internal/level"
	"lockstep/internal/transfer"
	"lockstep/internal/trust"
	"lockstep/proto"
	"lockstep/smr"
)

const (
	// maxManageMessage bounds a request to the management port in bytes.
	maxManageMessage = 1 << 20
	// maxManageConns bounds the connections to it, maxManageStreams the calls on each.
	maxManageConns   = 64
	maxManageStreams = 16
	// helloPatience bounds how long a connection may take until it has shaken hands.
	helloPatience = 10 * time.Second
	// managePatience is how long calls under way may take when the process ends.
	managePatience = 500 * time.Millisecond
)

// Images takes images of this node's state. The management port calls it, from any goroutine.
type Images interface {
	// Dir is where the images are.
	Dir() string
	// TakeImage takes an image of the state as it is now, or later, and returns its LSN when it is durable and verified. Calls that come
	// while one is being taken may share the next.
	TakeImage(ctx context.Context) (smr.LSN, error)
}

// manage answers the management port.
type manage struct {
	proto.UnimplementedKVNodeServer
	node     *Node
	listener net.Listener
	proved   func() bool // whether the state is known to be of the stream of the log beside; nil: it is. Set before serve
}

// openManage opens the management port, so that its address can be announced; nil if there is none. images is nil if this node
// keeps none. The caller runs serve, or closes listener.
func (n *Node) openManage(images Images) (*manage, error) {
	m := &manage{node: n}
	config := n.config.Admin
	if config.Listen == "" {
		return nil, nil
	}
	n.images = images
	var err error
	if images != nil {
		if n.lender, err = transfer.NewSource(transfer.SourceOptions{
			Images: images.Dir(), Lent: filepath.Join(filepath.Dir(images.Dir()), "lent"), Senders: config.Senders, BytesPerSecond: config.BytesPerSecond,
		}); err != nil {
			return nil, err
		}
	}
	if m.listener, err = net.Listen("tcp", config.Listen); err != nil {
		return nil, fmt.Errorf("listen for the management: %w", err)
	}
	return m, nil
}

// address is where others reach the port, "" if there is none. Where it listens on all addresses, they use the name by which they reach
// the node (announced): a container may get another address while it runs.
func (m *manage) address(announced string) string {
	if m == nil {
		return ""
	}
	name, _, _ := splitHostPort(m.node.config.Admin.Listen)
	if ip := net.ParseIP(name); name == "" || ip != nil && ip.IsUnspecified() {
		name, _, _ = splitHostPort(announced)
	}
	return net.JoinHostPort(name, strconv.Itoa(m.listener.Addr().(*net.TCPAddr).Port))
}

// serve serves the management port until ctx ends.
func (m *manage) serve(ctx context.Context) error {
	guard := trust.Guard{Keeper: m.node.config.Keeper, Methods: methodRoles(), Denied: m.denied}
	server := grpc.NewServer(append(guard.Options(),
		grpc.MaxRecvMsgSize(maxManageMessage),
		grpc.MaxConcurrentStreams(maxManageStreams),
		grpc.ConnectionTimeout(helloPatience),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, Time: 5 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 200 * time.Millisecond, PermitWithoutStream: true}),
	)...)
	proto.RegisterKVNodeServer(server, m)
	checks := health.NewServer()
	checks.SetServingStatus(proto.KVNode_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, checks)
	reflection.Register(server)

	// Leases outlive the streams that use them.
	lending, endLending := context.WithCancel(context.Background())
	var streams, lender sync.WaitGroup
	if m.node.lender != nil {
		lender.Go(func() { m.node.lender.Run(lending) })
	}
	ctx, cancel := context.WithCancel(ctx)
	streams.Go(func() {
		<-ctx.Done()
		checks.Shutdown()
		hard := time.AfterFunc(managePatience, server.Stop)
		server.GracefulStop()
		hard.Stop()
	})
	err := server.Serve(limitListener(m.listener, maxManageConns))
	stopped := ctx.Err() != nil
	cancel()
	streams.Wait()
	endLending()
	lender.Wait()
	if stopped {
		return nil
	}
	return fmt.Errorf("management port: %w", err)
}

// methodRoles says who may make which call. An image is all data of the group.
func methodRoles() map[string][]trust.Role {
	looks := []trust.Role{trust.Viewer, trust.Confmaster, trust.KVNode}
	images := []trust.Role{trust.Operator, trust.KVNode}
	return map[string][]trust.Role{
		proto.KVNode_State_FullMethodName:         looks,
		proto.KVNode_Images_FullMethodName:        looks,
		proto.KVNode_Settings_FullMethodName:      looks,
		proto.KVNode_Digest_FullMethodName:        looks,
		proto.KVNode_Describe_FullMethodName:      {trust.Operator},
		proto.KVNode_Checkpoint_FullMethodName:    images,
		proto.KVNode_Hold_FullMethodName:          images,
		proto.KVNode_Fetch_FullMethodName:         images,
		proto.KVNode_Release_FullMethodName:       images,
		proto.KVNode_CheckSettings_FullMethodName: {trust.Confmaster},
		proto.KVNode_ApplySettings_FullMethodName: {trust.Confmaster},
	}
}

// denied tells of a call that its caller may not make.
func (m *manage) denied(caller trust.Caller, method, reason string) {
	m.node.logger.Warn("call refused", "who", caller.String(), "call", method, "reason", reason)
}

// errNoImages is the answer of a node without a directory for images.
var errNoImages = status.Error(codes.FailedPrecondition, "this node keeps no images: start it with a directory for them")

// checkTarget refuses what is meant for another node. What the target leaves empty is not compared.
func (m *manage) checkTarget(target *proto.Target) error {
	config := &m.node.config
	for _, field := range []struct{ what, asked, here string }{
		{"cluster", target.GetCluster(), config.Cluster},
		{"group", target.GetGroup(), config.Group},
		{"node", target.GetNode(), string(config.Node)},
	} {
		if field.asked != "" && field.asked != field.here {
			return status.Errorf(codes.FailedPrecondition, "not the node that is meant: you ask for %s %q, here is %q", field.what, field.asked, field.here)
		}
	}
	return nil
}

// State implements proto.KVNodeServer.
func (m *manage) State(_ context.Context, in *proto.KVStateRequest) (*proto.KVState, error) {
	if err := m.checkTarget(in.GetTarget()); err != nil {
		return nil, err
	}
	n := m.node
	role := n.log.Status()
	state := &proto.KVState{
		Cluster: n.config.Cluster, Group: n.config.Group, Node: string(n.config.Node), Version: n.config.Version, Pid: uint32(os.Getpid()),
		Applied: uint64(n.Applied()), Safe: uint64(role.Safe), CatchingUp: n.catchingUp(role),
		Receiving: n.incoming.Transfer(),
		Level:     uint32(n.level.Level()), HighestLevel: uint32(level.Highest()),
	}
	if m.node.lender != nil {
		state.Sending = m.node.lender.Transfers()
	}
	if address := n.address.Load(); address != nil {
		state.KvAddr = address.String()
	}
	n.lock.RLock()
	for database := range kv.Databases {
		state.Keys += uint64(n.machine.DBSize(database))
	}
	state.LogTimeMs, state.ClockMs = n.machine.Now(), time.Now().UnixMilli()
	n.lock.RUnlock()
	var err error
	state.Images, err = m.list()
	return state, err
}

// list returns the complete images, the newest first.
func (m *manage) list() ([]*proto.Image, error) {
	if m.node.images == nil {
		return nil, nil
	}
	found, err := checkpoint.List(m.node.images.Dir())
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "list the images: %v", err)
	}
	var list []*proto.Image
	for _, image := range found {
		if image.Err == nil { // a damaged one is the engine's affair: it says so and falls back
			list = append(list, imageMessage(image.Manifest))
		}
	}
	return list, nil
}

func imageMessage(m *checkpoint.Manifest) *proto.Image {
	return &proto.Image{
		Lsn: uint64(m.LSN), StampMs: m.Stamp, CreatedMs: m.Created.UnixMilli(), Keys: uint64(m.Keys), Bytes: uint64(m.Bytes), Files: uint32(len(m.Files)),
	}
}

// Checkpoint implements proto.KVNodeServer.
func (m *manage) Checkpoint(ctx context.Context, in *proto.CheckpointRequest) (*proto.CheckpointReply, error) {
	if err := m.checkTarget(in.GetTarget()); err != nil {
		return nil, err
	}
	if m.node.images == nil {
		return nil, errNoImages
	}
	lsn, err := m.node.images.TakeImage(ctx)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, status.FromContextError(err).Err()
	case err != nil:
		return nil, status.Errorf(codes.FailedPrecondition, "take an image of node %s: %v", m.node.config.Node, err)
	}
	list, err := m.list()
	if err != nil {
		return nil, err
	}
	for _, image := range list {
		if image.Lsn == uint64(lsn) {
			return &proto.CheckpointReply{Image: image}, nil
		}
	}
	// A newer one has replaced it already.
	return &proto.CheckpointReply{Image: &proto.Image{Lsn: uint64(lsn)}}, nil
}

// Images implements proto.KVNodeServer.
func (m *manage) Images(_ context.Context, in *proto.ImagesRequest) (*proto.ImagesReply, error) {
	if err := m.checkTarget(in.GetTarget()); err != nil {
		return nil, err
	}
	list, err := m.list()
	return &proto.ImagesReply{Images: list}, err
}

// Hold implements proto.KVNodeServer. An image must not reach another cluster, so this target has to name cluster and group.
func (m *manage) Hold(ctx context.Context, in *proto.HoldRequest) (*proto.HoldReply, error) {
	if in.GetTarget().GetCluster() == "" || in.GetTarget().GetGroup() == "" {
		return nil, status.Error(codes.FailedPrecondition, "name cluster and group that the image is for")
	}
	if err := m.checkTarget(in.GetTarget()); err != nil {
		return nil, err
	}
	if m.node.lender == nil {
		return nil, errNoImages
	}
	if m.proved != nil && !m.proved() {
		return nil, status.Errorf(codes.FailedPrecondition, "node %s has not yet held its state against the log beside it, which may be of another history: ask another node, or again later",
			m.node.config.Node)
	}
	return m.node.lender.Hold(ctx, in)
}

// Fetch implements proto.KVNodeServer.
func (m *manage) Fetch(in *proto.FetchRequest, out grpc.ServerStreamingServer[proto.Chunk]) error {
	if m.node.lender == nil {
		return errNoImages
	}
	return m.node.lender.Fetch(in, out)
}

// Release implements proto.KVNodeServer.
func (m *manage) Release(ctx context.Context, in *proto.ReleaseRequest) (*proto.ReleaseReply, error) {
	if m.node.lender == nil {
		return &proto.ReleaseReply{}, nil
	}
	return m.node.lender.Release(ctx, in)
}

// limitListener closes connections above the limit as they come.
func limitListener(listener net.Listener, limit int) net.Listener {
	return &limitedListener{Listener: listener, places: make(chan struct{}, limit)}
}

type limitedListener struct {
	net.Listener
	places chan struct{} // one for each open connection
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
			return &limitedConn{Conn: conn, places: l.places}, nil
		default:
			conn.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	places chan struct{}
	once   sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() { <-c.places })
	return c.Conn.Close()
}

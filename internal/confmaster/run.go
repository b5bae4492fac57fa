package confmaster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"lockstep/internal/fault"
	"lockstep/internal/pause"
	"lockstep/internal/trust"
	lockstep "lockstep/proto"
)

const (
	// maxMessage bounds a gRPC message, in bytes: a raft snapshot is the largest.
	maxMessage = 64 << 20
	// windowSize is how many bytes may be under way on a connection, in each direction.
	windowSize = 1 << 20
	// maxStreams bounds the calls of one connection that are under way at once.
	maxStreams = 256
	// handOverGrace is how long a leader that stops waits for the next one.
	handOverGrace = 500 * time.Millisecond
	// stopGrace is how long answers may take to leave when the process stops. Nothing waits for the loop any more then.
	stopGrace = 250 * time.Millisecond
	// maxConnections bounds the connections of operators and peers. Full: a further one is closed at once.
	maxConnections = 1024
)

// Run is the whole life of a configuration master. It ends with ctx, which is no error.
func Run(ctx context.Context, config Config) error {
	if err := config.Validate(); err != nil {
		return err
	}
	h, err := openHome(&config)
	if err != nil {
		return err
	}
	defer h.close()
	listener, err := net.Listen("tcp", config.self().Addr)
	if err != nil {
		return fmt.Errorf("listen for operators and peers (--peers): %w", err)
	}
	defer listener.Close()
	var sentinels []net.Listener
	if config.Sentinel != "" {
		plain, err := net.Listen("tcp", config.Sentinel)
		if err != nil {
			return fmt.Errorf("listen for Redis clients (--sentinel): %w", err)
		}
		defer plain.Close()
		sentinels = append(sentinels, plain)
	}
	if config.SentinelTLS != "" {
		if config.Keeper == nil {
			return errors.New("listen for Redis clients with TLS (--sentinel-tls): give --tls-cert, --tls-key and --tls-ca")
		}
		secured, err := net.Listen("tcp", config.SentinelTLS)
		if err != nil {
			return fmt.Errorf("listen for Redis clients with TLS (--sentinel-tls): %w", err)
		}
		defer secured.Close()
		sentinels = append(sentinels, config.Keeper.Listen(secured, config.SentinelAuth))
	}
	n, err := newNode(&config, h)
	if err != nil {
		return err
	}
	n.drills = fault.New(fault.Options{Allowed: config.AllowDrills, Logger: config.Logger})
	err = n.serve(ctx, listener, sentinels)
	return errors.Join(err, n.store.close())
}

// serve runs all goroutines and waits for them.
func (n *node) serve(outer context.Context, listener net.Listener, sentinels []net.Listener) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(outer))
	defer cancel(nil)
	conns := &conns{dial: dialer(n.config.Keeper), open: make(map[remote]*grpc.ClientConn)}
	n.links, n.opiner = newLinks(n, conns), newOpiner(n, conns)
	n.watch, n.calls = newWatcher(ctx, n, conns), newCaller(ctx, n, conns)
	service := &service{node: n, conns: conns, steward: newSteward(n, conns)}
	service.web = n.newWeb(service)
	server, alive := newServer(service)
	n.drills.Register(server, n.checkDrillTarget, ctx.Done())
	if err := n.replay(); err != nil {
		cancel(err)
		n.watch.wait()
		n.calls.wait()
		conns.close()
		return err
	}

	var tasks sync.WaitGroup
	start := func(what string, run func(context.Context) error) {
		tasks.Go(func() {
			if err := run(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	start("raft", n.run)
	start("raft links", n.links.run)
	start("opinions", n.opiner.run)
	start("settings", service.steward.run)
	start("gRPC", func(context.Context) error {
		if err := server.Serve(&limitedListener{Listener: listener, slots: make(chan struct{}, maxConnections)}); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	if len(sentinels) > 0 {
		sentinel := newSentinel(n, service)
		start("sentinel", func(ctx context.Context) error { return sentinel.serve(ctx, sentinels) })
	}
	if service.web != nil {
		n.config.Observer.Mount(service.web)
	}
	n.logger.Info("serving", "id", n.config.ID, "address", listener.Addr().String(), "sentinel", n.config.Sentinel)
	n.config.Observer.Show(n.gauges)
	n.config.Observer.Serving()
	select {
	case <-ctx.Done():
	case <-outer.Done():
		n.handOver(ctx)
		cancel(nil)
	}
	alive.Shutdown()
	stopServer(server)
	tasks.Wait()
	n.watch.wait()
	n.calls.wait()
	conns.close()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// checkDrillTarget refuses what is meant for another process.
func (n *node) checkDrillTarget(target *lockstep.Target) error {
	if target.GetCluster() != n.config.Cluster || target.GetGroup() != "" || target.GetNode() != "" {
		return status.Errorf(codes.FailedPrecondition, "not the process that is meant: this is configuration master %d of cluster %s", n.config.ID, n.config.Cluster)
	}
	return nil
}

// handOver lets another configuration master lead before this one stops, if it leads and another is up to date: that
// takes milliseconds, while its plain absence would be noticed after a second.
func (n *node) handOver(ctx context.Context) {
	if n.leader.Load() != n.config.ID || len(n.config.Peers) == 1 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOverGrace)
	defer cancel()
	_ = n.send(ctx, func() error {
		if heir := n.heir(); heir != 0 {
			n.raft.TransferLeader(heir)
		} else {
			cancel() // there is nobody to wait for
		}
		return nil
	})
	for ctx.Err() == nil {
		if leader := n.leader.Load(); leader != 0 && leader != n.config.ID {
			return
		}
		pause.For(ctx, tickLength)
	}
}

// newServer returns the gRPC server with health and reflection.
func newServer(s *service) (*grpc.Server, *health.Server) {
	guard := trust.Guard{Keeper: s.node.config.Keeper, Methods: methodRoles(), Denied: s.denied}
	server := grpc.NewServer(append(guard.Options(),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(windowSize), grpc.InitialConnWindowSize(windowSize), grpc.ConnectionTimeout(5*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 5 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)...)
	lockstep.RegisterConfmasterServer(server, s)
	lockstep.RegisterPeerServer(server, s)
	alive := health.NewServer()
	healthpb.RegisterHealthServer(server, alive)
	alive.SetServingStatus("lockstep.v1.Confmaster", healthpb.HealthCheckResponse_SERVING)
	reflection.Register(server)
	return server, alive
}

func stopServer(server *grpc.Server) {
	done := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(done)
	}()
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		server.Stop()
		<-done
	}
}

// dialer prepares connections. Their own pauses are short: who is down is judged by us, not by gRPC.
func dialer(keeper *trust.Keeper) func(remote) (*grpc.ClientConn, error) {
	return func(to remote) (*grpc.ClientConn, error) { return dial(to, keeper) }
}

func dial(to remote, keeper *trust.Keeper) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+to.addr,
		grpc.WithTransportCredentials(keeper.Credentials(to.who)), grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.2, Jitter: 0.2, MaxDelay: 150 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		// Windows of a fixed size: measuring the connection to adapt them takes a ping for each message of a quiet stream.
		grpc.WithInitialWindowSize(windowSize), grpc.WithInitialConnWindowSize(windowSize),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
}

// limitedListener bounds the connections that are open at once.
type limitedListener struct {
	net.Listener
	slots chan struct{}
}

// Accept returns the next connection for which there is room.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &limitedConn{Conn: conn, free: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			conn.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	free func()
}

// Close makes room for another connection.
func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}

package confmaster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"lockstep/internal/pause"
	"lockstep/internal/trust"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

const (
	// linkLength bounds the raft messages that wait for a peer. Full: they are dropped; raft sends again.
	linkLength = 256
	linkPause  = 100 * time.Millisecond
)

// links carries raft messages to the peers: one goroutine and one stream each.
type links struct {
	node   *node
	conns  *conns
	logger *slog.Logger
	queues map[uint64]chan *raftpb.Message // fixed after newLinks
}

func newLinks(n *node, conns *conns) *links {
	l := &links{node: n, conns: conns, logger: n.logger, queues: make(map[uint64]chan *raftpb.Message)}
	for _, p := range n.config.Peers {
		if p.ID != n.config.ID {
			l.queues[p.ID] = make(chan *raftpb.Message, linkLength)
		}
	}
	return l
}

// send queues a message; called from the loop.
func (l *links) send(m *raftpb.Message) {
	queue := l.queues[m.GetTo()]
	if queue == nil {
		return
	}
	select {
	case queue <- m:
	default:
		l.failed(m)
	}
}

// failed tells raft that a message did not arrive. Called from the loop.
func (l *links) failed(m *raftpb.Message) {
	l.node.raft.ReportUnreachable(m.GetTo())
	if m.GetType() == raftpb.MsgSnap {
		l.node.raft.ReportSnapshot(m.GetTo(), raft.SnapshotFailure)
	}
}

// run serves all peers until ctx ends.
func (l *links) run(ctx context.Context) error {
	var tasks sync.WaitGroup
	for id, queue := range l.queues {
		tasks.Go(func() { l.serve(ctx, id, queue) })
	}
	tasks.Wait()
	return nil
}

func (l *links) serve(ctx context.Context, id uint64, queue chan *raftpb.Message) {
	told := ""
	for ctx.Err() == nil {
		lost, err := l.stream(ctx, id, queue)
		if lost != nil {
			_ = l.node.send(ctx, func() error { l.failed(lost); return nil })
		}
		text := "" // an operator has crossed wires or certificates; a peer that is down is no news here
		if message := status.Convert(err).Message(); status.Code(err) == codes.PermissionDenied || trust.Mentioned(message) {
			text = message
		}
		if text != "" && text != told {
			l.logger.Warn("no raft messages reach a peer", "peer", id, "address", l.node.config.peer(id).Addr, "error", text)
		}
		told = text
		pause.For(ctx, linkPause)
	}
}

// stream sends messages to one peer until that fails; it returns the message that was lost, if any.
func (l *links) stream(ctx context.Context, id uint64, queue chan *raftpb.Message) (*raftpb.Message, error) {
	var m *raftpb.Message
	select {
	case <-ctx.Done():
		return nil, nil
	case m = <-queue:
	}
	conn, err := l.conns.get(l.node.config.peer(id).remote())
	if err != nil {
		return m, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := lockstep.NewPeerClient(conn).Raft(ctx)
	if err != nil {
		return m, err
	}
	for {
		data, err := proto.Marshal(m)
		if err == nil {
			err = stream.Send(&lockstep.RaftMessage{Data: data, From: l.node.config.ID, Cluster: l.node.config.Cluster})
		}
		if err != nil {
			if errors.Is(err, io.EOF) { // the stream is over; its status says why
				_, err = stream.CloseAndRecv()
			}
			return m, err
		}
		if m.GetType() == raftpb.MsgSnap {
			_ = l.node.send(ctx, func() error { l.node.raft.ReportSnapshot(id, raft.SnapshotFinish); return nil })
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-stream.Context().Done():
			return nil, nil
		case m = <-queue:
		}
	}
}

// opiner sends the newest own opinions to the leader; older ones that did not leave in time are forgotten.
type opiner struct {
	node  *node
	conns *conns
	wake  chan struct{}

	mu      sync.Mutex
	to      uint64
	message *lockstep.Opinions
}

func newOpiner(n *node, conns *conns) *opiner {
	return &opiner{node: n, conns: conns, wake: make(chan struct{}, 1)}
}

func (o *opiner) put(to uint64, message *lockstep.Opinions) {
	o.mu.Lock()
	o.to, o.message = to, message
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *opiner) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		}
		o.mu.Lock()
		to, message := o.to, o.message
		o.message = nil
		o.mu.Unlock()
		if message == nil {
			continue
		}
		conn, err := o.conns.get(o.node.config.peer(to).remote())
		if err != nil {
			continue
		}
		call, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		reply, err := lockstep.NewPeerClient(conn).Opine(call, message)
		cancel()
		if err == nil {
			_ = o.node.send(ctx, func() error { o.node.told = reply.GetConfmasters(); return nil })
		}
	}
}

// remote is a process: where it is, and who has to be there.
type remote struct {
	addr string
	who  trust.Wanted
}

// replicatorAt and kvNodeAt are processes of a node.
func replicatorAt(addr string, node smr.NodeID) remote {
	return remote{addr, trust.Wanted{Role: trust.Replicator, Name: string(node)}}
}

func kvNodeAt(addr string, node smr.NodeID) remote {
	return remote{addr, trust.Wanted{Role: trust.KVNode, Name: string(node)}}
}

// conns keeps one gRPC connection to each process.
type conns struct {
	dial func(remote) (*grpc.ClientConn, error)

	mu     sync.Mutex
	open   map[remote]*grpc.ClientConn
	closed bool
}

func (c *conns) get(to remote) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errStopped
	}
	if conn := c.open[to]; conn != nil {
		return conn, nil
	}
	conn, err := c.dial(to)
	if err != nil {
		return nil, err
	}
	c.open[to] = conn
	return conn, nil
}

// drop gives a connection up; the next call dials anew.
func (c *conns) drop(to remote, conn *grpc.ClientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[to] == conn {
		delete(c.open, to)
		conn.Close()
	}
}

func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, conn := range c.open {
		conn.Close()
	}
}

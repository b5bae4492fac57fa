package confmaster

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/failover"
	"lockstep/internal/pause"
	"lockstep/internal/trust"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

const (
	// watchPause is how long to wait before a broken Watch stream is opened again.
	watchPause = 100 * time.Millisecond
	// maxCalls bounds the calls to replicators that are under way at once.
	maxCalls = 256
)

// watcher keeps a Watch stream to every registered replica.
type watcher struct {
	node  *node
	conns *conns
	ctx   context.Context
	tasks sync.WaitGroup

	streams map[replicaKey]*watchStream // belongs to the loop
}

type watchStream struct {
	addr   string
	level  int // feature level that the replica was told
	cancel context.CancelFunc
}

func newWatcher(ctx context.Context, n *node, conns *conns) *watcher {
	return &watcher{node: n, conns: conns, ctx: ctx, streams: make(map[replicaKey]*watchStream)}
}

// follow starts and stops streams so that they are those of the replicas in state. Called from the loop.
func (w *watcher) follow(state *failover.State) {
	wanted := make(map[replicaKey]string)
	for i := range state.Groups {
		g := &state.Groups[i]
		for j := range g.Replicas {
			wanted[replicaKey{g.Name, g.Replicas[j].Node}] = g.Replicas[j].ManageAddr
		}
	}
	for key, stream := range w.streams {
		if wanted[key] != stream.addr || stream.level != state.FeatureLevel() { // opened anew it tells the replica what was raised
			stream.cancel()
			delete(w.streams, key)
		}
	}
	for key, addr := range wanted {
		if w.streams[key] == nil {
			ctx, cancel := context.WithCancel(w.ctx)
			w.streams[key] = &watchStream{addr: addr, level: state.FeatureLevel(), cancel: cancel}
			w.tasks.Go(func() {
				defer cancel()
				w.serve(ctx, key, addr)
			})
		}
	}
}

// wait returns when all streams have ended; their context must have.
func (w *watcher) wait() { w.tasks.Wait() }

// serve opens the stream again for ever. One that has worked and breaks is opened again at once, and the replica is
// reported only if that fails as well: a connection may break for reasons of its own, a dead process refuses the next.
func (w *watcher) serve(ctx context.Context, key replicaKey, addr string) {
	for ctx.Err() == nil {
		worked, err := w.stream(ctx, key, addr)
		if ctx.Err() != nil {
			return
		}
		if worked {
			continue
		}
		if saw := sawOf(err); saw != "" {
			_ = w.node.send(ctx, func() error {
				w.node.step(&failover.Unreachable{Group: key.group, Node: key.node, Saw: saw})
				return nil
			})
		}
		pause.For(ctx, watchPause)
	}
}

// stream reads one Watch stream until it breaks, or is silent for so long that its connection may be half open: then
// the connection is given up, since the host may come back long before TCP finds out. It reports whether any state came.
func (w *watcher) stream(ctx context.Context, key replicaKey, addr string) (worked bool, err error) {
	to := replicatorAt(addr, key.node)
	conn, err := w.conns.get(to)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(3*w.node.config.Suspect, func() { cancel(errQuiet) })
	defer quiet.Stop()
	stream, err := lockstep.NewReplicatorClient(conn).Watch(ctx, &lockstep.WatchRequest{
		Target:     w.node.target(key.group, key.node),
		IntervalMs: uint32(w.node.config.Probe.Milliseconds()), RestMs: uint32(w.node.config.restProbe().Milliseconds()),
	})
	for err == nil {
		var state *lockstep.ReplicaState
		if state, err = stream.Recv(); err != nil {
			break
		}
		worked = true
		quiet.Reset(3 * w.node.config.Suspect)
		err = w.node.send(ctx, func() error {
			if ctx.Err() != nil {
				return nil // the replica was registered with another address since
			}
			w.node.observe(key, state)
			return nil
		})
	}
	if cause := context.Cause(ctx); cause != nil {
		if cause == errQuiet {
			w.conns.drop(to, conn)
		}
		return false, cause
	}
	return worked, err
}

var errQuiet = status.Error(codes.DeadlineExceeded, "the stream is silent")

// sawOf puts the end of a stream in words; "" if it says nothing about the replica (silence is counted by ticks).
func sawOf(err error) string {
	switch s, _ := status.FromError(err); s.Code() {
	case codes.Canceled, codes.DeadlineExceeded:
		return ""
	case codes.Unavailable, codes.OK, codes.Unknown:
		if trust.Mentioned(s.Message()) {
			return s.Message()
		}
		for _, slow := range []string{"timeout", "timed out", "deadline exceeded", "server preface"} {
			if strings.Contains(s.Message(), slow) {
				return "" // it may only be slow
			}
		}
		for _, known := range []string{"connection refused", "connection reset", "no route to host"} {
			if strings.Contains(s.Message(), known) {
				return known
			}
		}
		return "connection broken"
	default:
		return s.Message()
	}
}

// target names a replica of the cluster, and tells it the cluster's feature level.
func (n *node) target(group string, replica smr.NodeID) *lockstep.Target {
	return &lockstep.Target{Cluster: n.config.Cluster, Group: group, Node: string(replica), Level: uint32(n.level.Level())}
}

// viewOf turns what a replicator says into what the driver reads.
func viewOf(s *lockstep.ReplicaState) failover.ReplicaView {
	view := failover.ReplicaView{
		Incarnation: smr.Incarnation(s.GetIncarnation()), Life: smr.Life(s.GetLife()), Blank: s.GetBlank(), Role: roleOf(s.GetRole()),
		Leading: s.GetLeading(), Epoch: smr.Epoch(s.GetEpoch()), Promise: smr.Epoch(s.GetPromise()), Master: smr.NodeID(s.GetMaster()),
		Reportable: smr.Epoch(s.GetReportable()), Start: smr.LSN(s.GetStart()), End: smr.LSN(s.GetEnd()), Durable: smr.LSN(s.GetDurable()),
		Commit: smr.LSN(s.GetCommit()), Safe: smr.LSN(s.GetSafe()), Applied: smr.LSN(s.GetApplied()), Checkpoint: smr.LSN(s.GetCheckpoint()),
		PositionEpoch: smr.Epoch(s.GetPositionEpoch()), Attached: s.GetAttached(), Writable: s.GetWritable(), Joined: s.GetJoined(),
		Stopped: s.GetStopped(), NeedImage: s.GetNeedImage(), LoopIdleMillis: s.GetLoopIdleMs(), DiskStuckMillis: s.GetDiskStuckMs(),
		KVSilentMillis: s.GetKvSilentMs(), KVAddr: s.GetKvAddr(), DataAddr: s.GetDataAddr(),
		KVAdminAddr: s.GetKvAdminAddr(), ImageFrom: s.GetImageFrom(),
		Level: int(s.GetHighestLevel()), KVLevel: int(s.GetKvHighestLevel()),
	}
	for _, p := range s.GetPeers() {
		view.Peers = append(view.Peers, failover.PeerView{
			Member:  smr.Member{Node: smr.NodeID(p.GetNode()), Incarnation: smr.Incarnation(p.GetIncarnation())},
			Streams: p.GetStreams(), Durable: smr.LSN(p.GetDurable()),
		})
	}
	return view
}

func roleOf(name string) smr.Role {
	for _, role := range []smr.Role{smr.RoleNone, smr.RoleFenced, smr.RoleMaster, smr.RoleSlave, smr.RoleLearner} {
		if role.String() == name {
			return role
		}
	}
	return smr.RoleNone
}

// caller carries out the driver's calls, each on its own goroutine.
type caller struct {
	node     *node
	conns    *conns
	ctx      context.Context
	tasks    sync.WaitGroup
	slots    chan struct{}
	answered func(*failover.Answer) // called on the loop, once a call
}

func newCaller(ctx context.Context, n *node, conns *conns) *caller {
	return &caller{node: n, conns: conns, ctx: ctx, slots: make(chan struct{}, maxCalls), answered: func(a *failover.Answer) { n.step(a) }}
}

func (c *caller) wait() { c.tasks.Wait() }

// start begins a call; its Answer comes by the inbox. With too many under way it is answered as unavailable.
func (c *caller) start(call failover.Call) {
	select {
	case c.slots <- struct{}{}:
	default:
		c.answered(&failover.Answer{ID: call.ID, Code: failover.AnswerUnavailable, Text: "too many calls are under way"})
		return
	}
	c.tasks.Go(func() {
		defer func() { <-c.slots }()
		answer := c.do(call)
		_ = c.node.send(c.ctx, func() error { c.answered(answer); return nil })
	})
}

func (c *caller) do(call failover.Call) *failover.Answer {
	answer := &failover.Answer{ID: call.ID}
	conn, err := c.conns.get(replicatorAt(call.Addr, call.Node))
	if err == nil {
		ctx, cancel := context.WithTimeout(c.ctx, time.Duration(call.TimeoutTicks)*tickLength)
		defer cancel()
		err = c.order(ctx, lockstep.NewReplicatorClient(conn), &call, answer)
	}
	if err == nil {
		return answer
	}
	s, _ := status.FromError(err)
	answer.Text = s.Message()
	switch s.Code() {
	case codes.Aborted:
		answer.Code = failover.AnswerStale
	case codes.FailedPrecondition, codes.InvalidArgument, codes.PermissionDenied, codes.NotFound:
		answer.Code = failover.AnswerRefused
	default:
		answer.Code = failover.AnswerUnavailable
	}
	return answer
}

// order makes the one call that is asked for.
func (c *caller) order(ctx context.Context, client lockstep.ReplicatorClient, call *failover.Call, answer *failover.Answer) error {
	target := c.node.target(call.Group, call.Node)
	var err error
	switch call.Kind {
	case failover.CallFence:
		var reply *lockstep.FenceReply
		if reply, err = client.Fence(ctx, &lockstep.FenceRequest{Target: target, Epoch: uint64(call.Epoch), LeaseOver: call.LeaseOver}); err == nil {
			answer.Fence = &failover.FenceAnswer{
				Epoch: smr.Epoch(reply.GetEpoch()), Incarnation: smr.Incarnation(reply.GetIncarnation()), Life: smr.Life(reply.GetLife()),
				Position: smr.Position{Epoch: smr.Epoch(reply.GetPositionEpoch()), End: smr.LSN(reply.GetEnd())},
				Commit:   smr.LSN(reply.GetCommit()), Applied: smr.LSN(reply.GetApplied()),
			}
		}
	case failover.CallLead, failover.CallReconfigure:
		request := &lockstep.LeadRequest{Target: target, Incarnation: uint64(call.Incarnation), Life: uint64(call.Life),
			Config: configMessage(call.Config), Base: configMessage(call.Base)}
		for _, a := range call.Addresses {
			request.Addresses = append(request.Addresses, &lockstep.Address{Node: string(a.Node), DataAddr: a.DataAddr})
		}
		if call.Kind == failover.CallLead {
			_, err = client.Lead(ctx, request)
		} else {
			_, err = client.Reconfigure(ctx, request)
		}
	case failover.CallFollow:
		request := &lockstep.FollowRequest{Target: target, Epoch: uint64(call.Epoch), Master: string(call.Master), MasterAddr: call.MasterAddr}
		for _, source := range call.Sources {
			request.Sources = append(request.Sources, &lockstep.ImageSource{Node: string(source.Node), AdminAddr: source.Addr})
		}
		_, err = client.Follow(ctx, request)
	case failover.CallEstablished:
		_, err = client.Established(ctx, &lockstep.EstablishedRequest{Target: target, Config: configMessage(call.Config)})
	case failover.CallLearn:
		_, err = client.Learn(ctx, &lockstep.LearnRequest{Target: target, Epoch: uint64(call.Epoch)})
	case failover.CallLook:
		var state *lockstep.ReplicaState
		if state, err = client.State(ctx, &lockstep.WatchRequest{Target: target}); err == nil {
			view := viewOf(state)
			answer.View = &view
		}
	default:
		err = status.Errorf(codes.Internal, "unknown call %q", call.Kind)
	}
	return err
}

func configMessage(c smr.Config) *lockstep.GroupConfig {
	m := &lockstep.GroupConfig{Epoch: uint64(c.Epoch), Reign: uint64(c.Reign), Master: string(c.Master), Copies: uint32(c.Copies)}
	for _, member := range c.Members {
		m.Members = append(m.Members, &lockstep.Member{Node: string(member.Node), Incarnation: uint64(member.Incarnation)})
	}
	return m
}

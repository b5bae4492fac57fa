package confmaster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"lockstep/internal/failover"
	"lockstep/internal/level"
	"lockstep/internal/trust"
	"lockstep/internal/web"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

const (
	// askTimeout bounds a change that an operator asked for; a switch-over is given up by the driver before.
	askTimeout = 30 * time.Second
	// passedOn marks a call that another configuration master passed on, so that it is not passed on again.
	passedOn = "lockstep-passed-on"
	// maxEntries bounds the answer of WorkLog.
	maxEntries = 1000
)

// service answers the gRPC calls of operators and peers.
type service struct {
	lockstep.UnimplementedConfmasterServer
	lockstep.UnimplementedPeerServer
	node    *node
	conns   *conns
	steward *steward
	web     *web.Server // nil: there is none
}

// leaderConn returns the connection to the leader, nil if that is this one, or an error if there is none.
func (s *service) leaderConn(ctx context.Context) (context.Context, *grpc.ClientConn, error) {
	leader := s.node.leader.Load()
	switch {
	case leader == s.node.config.ID:
		return ctx, nil, nil
	case leader == 0:
		return ctx, nil, status.Error(codes.Unavailable, "the configuration masters have no leader: a majority of them must be up; try again")
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md.Get(passedOn)) > 0 {
		return ctx, nil, status.Error(codes.Unavailable, "the leader of the configuration masters is changing; try again")
	}
	conn, err := s.conns.get(s.node.config.peer(leader).remote())
	if err != nil {
		return ctx, nil, status.Error(codes.Unavailable, err.Error())
	}
	return metadata.AppendToOutgoingContext(trust.PassOn(ctx), passedOn, "1"), conn, nil
}

// Status answers from the leader where there is one, else with what is known here.
func (s *service) Status(ctx context.Context, request *lockstep.StatusRequest) (*lockstep.ClusterStatus, error) {
	if !request.GetLocal() {
		if out, conn, err := s.leaderConn(ctx); err == nil && conn != nil {
			call, cancel := context.WithTimeout(out, time.Second)
			defer cancel()
			if reply, err := lockstep.NewConfmasterClient(conn).Status(call, &lockstep.StatusRequest{Local: true}); err == nil {
				return reply, nil
			}
		}
	}
	if known := s.node.status.Load(); known != nil {
		return known, nil
	}
	return nil, status.Error(codes.Unavailable, "starting; try again")
}

// CreateGroup registers a group.
func (s *service) CreateGroup(ctx context.Context, request *lockstep.CreateGroupRequest) (*lockstep.ChangeReply, error) {
	ctx, conn, err := s.leaderConn(ctx)
	if err != nil {
		return nil, err
	}
	if conn != nil {
		return lockstep.NewConfmasterClient(conn).CreateGroup(ctx, request)
	}
	create, err := createOf(request)
	if err != nil {
		return nil, err
	}
	reply, err := s.ask(ctx, &failover.Request{CreateGroup: create})
	return reply, s.audit(ctx, create.Name, "create the group", err)
}

// Switchover hands mastership over.
func (s *service) Switchover(ctx context.Context, request *lockstep.SwitchoverRequest) (*lockstep.ChangeReply, error) {
	ctx, conn, err := s.leaderConn(ctx)
	if err != nil {
		return nil, err
	}
	if conn != nil {
		return lockstep.NewConfmasterClient(conn).Switchover(ctx, request)
	}
	group := request.GetGroup()
	if group == "" {
		known := s.node.status.Load().GetGroups()
		if len(known) != 1 {
			return nil, status.Errorf(codes.InvalidArgument, "name the group: there are %d", len(known))
		}
		group = known[0].GetName()
	}
	to := smr.NodeID(request.GetTo())
	reply, err := s.ask(ctx, &failover.Request{Switchover: &failover.Switchover{Group: group, To: to}})
	return reply, s.audit(ctx, group, switchoverText(to), err)
}

// ask gives a request to the driver and waits until it is done; that it was refused is an error.
func (s *service) ask(ctx context.Context, request *failover.Request) (*lockstep.ChangeReply, error) {
	reply, err := s.await(ctx, request)
	switch {
	case err != nil:
		return nil, err
	case !reply.Done:
		return nil, status.Error(codes.FailedPrecondition, reply.Text)
	}
	return &lockstep.ChangeReply{Epoch: uint64(reply.Epoch), Text: reply.Text}, nil
}

// await gives a request to the driver and waits for its answer.
func (s *service) await(ctx context.Context, request *failover.Request) (*failover.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answers, unheard := make(chan failover.Reply, 1), make(chan struct{})
	err := s.node.send(ctx, func() error {
		if !s.node.elected {
			close(unheard)
			return nil
		}
		s.node.ask(request, func(reply failover.Reply) { answers <- reply })
		return nil
	})
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	select {
	case reply := <-answers:
		if reply.Unsure {
			return nil, status.Error(codes.Unknown, reply.Text)
		}
		return &reply, nil
	case <-unheard: // no decision: the caller may ask again, here or elsewhere
		return nil, status.Error(codes.Unavailable, "this configuration master does not lead; try again")
	case <-ctx.Done():
		return nil, status.Error(codes.DeadlineExceeded, "no answer in time: ask for the status to see what became of it")
	case <-s.node.stopped:
		return nil, status.Error(codes.Unavailable, errStopped.Error())
	}
}

// WorkLog lists decisions, newest last. Every configuration master has them; the leader has them all.
func (s *service) WorkLog(ctx context.Context, request *lockstep.WorkLogRequest) (*lockstep.WorkLogReply, error) {
	if out, conn, err := s.leaderConn(ctx); err == nil && conn != nil {
		call, cancel := context.WithTimeout(out, 2*time.Second)
		defer cancel()
		if reply, err := lockstep.NewConfmasterClient(conn).WorkLog(call, request); err == nil {
			return reply, nil
		}
	}
	limit := int(request.GetLimit())
	if limit <= 0 || limit > maxEntries {
		limit = maxEntries
	}
	return onLoop(ctx, s.node, func() *lockstep.WorkLogReply {
		reply := &lockstep.WorkLogReply{}
		for i := len(s.node.state.Log) - 1; i >= 0 && len(reply.Entries) < limit; i-- {
			if e := &s.node.state.Log[i]; request.GetGroup() == "" || e.Group == "" || e.Group == request.GetGroup() {
				reply.Entries = append(reply.Entries, entryMessage(e))
			}
		}
		slices.Reverse(reply.Entries)
		return reply
	})
}

// onLoop returns what look sees of a node on its loop, to which all of it belongs. The error is one to answer a call with.
func onLoop[T any](ctx context.Context, n *node, look func() T) (seen T, err error) {
	looked := make(chan T, 1)
	if err := n.send(ctx, func() error { looked <- look(); return nil }); err != nil {
		return seen, status.Error(codes.Unavailable, err.Error())
	}
	select {
	case seen = <-looked:
		return seen, nil
	case <-ctx.Done():
		return seen, status.FromContextError(ctx.Err()).Err()
	case <-n.stopped:
		return seen, status.Error(codes.Unavailable, errStopped.Error())
	}
}

func entryMessage(e *failover.WorkEntry) *lockstep.WorkEntry {
	m := &lockstep.WorkEntry{Id: e.ID, TimeMs: e.StampMillis, Group: e.Group, Epoch: uint64(e.Epoch), Kind: string(e.Kind),
		Reason: e.Reason, Master: string(e.Master), Confmaster: e.Confmaster}
	for _, w := range e.Witnesses {
		m.Witnesses = append(m.Witnesses, &lockstep.Witness{Confmaster: w.Confmaster, Node: string(w.Node), Saw: w.Saw, SilentMs: w.SilentMillis})
	}
	for _, c := range e.Candidates {
		m.Candidates = append(m.Candidates, &lockstep.Candidate{Node: string(c.Node), Incarnation: uint64(c.Incarnation),
			PositionEpoch: uint64(c.Position.Epoch), End: uint64(c.Position.End), Commit: uint64(c.Commit), Applied: uint64(c.Applied),
			Chosen: c.Chosen, Note: c.Note})
	}
	return m
}

// Events follows what happens. A subscriber that is too slow is told to come again.
func (s *service) Events(request *lockstep.EventsRequest, stream grpc.ServerStreamingServer[lockstep.Event]) error {
	subscriber, kept := s.node.events.subscribe(request.GetAfter())
	if subscriber == nil {
		return status.Error(codes.ResourceExhausted, "too many follow the events")
	}
	defer subscriber.leave()
	wanted := func(e *lockstep.Event) bool {
		return request.GetGroup() == "" || e.GetGroup() == "" || e.GetGroup() == request.GetGroup()
	}
	if request.GetAfter() > 0 { // 0 follows from now on
		for _, e := range kept {
			if wanted(e) {
				if err := stream.Send(e); err != nil {
					return err
				}
			}
		}
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case <-s.node.stopped:
			return status.Error(codes.Unavailable, errStopped.Error())
		case n, ok := <-subscriber.C:
			if !ok {
				return status.Error(codes.ResourceExhausted, "too slow for the events: follow again after the last id")
			}
			if wanted(n.event) {
				if err := stream.Send(n.event); err != nil {
					return err
				}
			}
		}
	}
}

// checkPeer refuses what does not come from a configuration master of this cluster.
func (s *service) checkPeer(ctx context.Context, cluster string, from uint64) error {
	if cluster != s.node.config.Cluster {
		return status.Errorf(codes.PermissionDenied, "cluster %q, this is %q", cluster, s.node.config.Cluster)
	}
	if s.node.config.peer(from) == nil || from == s.node.config.ID {
		return status.Errorf(codes.PermissionDenied, "configuration master %d is no peer of %d", from, s.node.config.ID)
	}
	if caller := trust.CallerOf(ctx); caller.Secure {
		if _, is := caller.Peer.As(s.node.config.peer(from).wanted()); !is {
			return status.Errorf(codes.PermissionDenied, "configuration master %d must show the certificate of %s, and this is that of %s", from, s.node.config.peer(from).wanted(), caller.Peer)
		}
	}
	return nil
}

// checkMessage refuses what no peer may send: what raft, or the loop, would stop the process for must not reach them.
func (s *service) checkMessage(m *raftpb.Message, from uint64) error {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgSnap, raftpb.MsgTimeoutNow:
	default:
		return fmt.Errorf("no peer sends %v", m.GetType())
	}
	if m.GetFrom() != from || m.GetTo() != s.node.config.ID {
		return fmt.Errorf("it is from %d to %d, this is %d", m.GetFrom(), m.GetTo(), s.node.config.ID)
	}
	for _, entry := range m.GetEntries() {
		if entry.GetType() != raftpb.EntryNormal {
			return fmt.Errorf("entry %d changes the membership, which is fixed", entry.GetIndex())
		}
	}
	if m.GetType() != raftpb.MsgSnap {
		return nil
	}
	state, err := decodeState(m.GetSnapshot().GetData(), s.node.config.highestLevel())
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if state.Cluster != s.node.config.Cluster {
		return fmt.Errorf("snapshot of cluster %q, this is %q", state.Cluster, s.node.config.Cluster)
	}
	return s.node.config.checkVoters(m.GetSnapshot().GetMetadata().GetConfState().GetVoters())
}

// Raft takes the messages of one peer.
func (s *service) Raft(stream grpc.ClientStreamingServer[lockstep.RaftMessage, lockstep.RaftDone]) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&lockstep.RaftDone{})
		}
		if err != nil {
			return err
		}
		if err := s.checkPeer(stream.Context(), m.GetCluster(), m.GetFrom()); err != nil {
			return err
		}
		message := &raftpb.Message{}
		if err := proto.Unmarshal(m.GetData(), message); err != nil {
			return status.Errorf(codes.InvalidArgument, "raft message of %d: %v", m.GetFrom(), err)
		}
		if err := s.checkMessage(message, m.GetFrom()); err != nil {
			if errors.Is(err, level.ErrTooLow) { // nothing that comes from here on would be understood
				_ = s.node.send(stream.Context(), func() error { return err })
			}
			return status.Errorf(codes.InvalidArgument, "raft message of %d: %v", m.GetFrom(), err)
		}
		if err := s.node.send(stream.Context(), func() error { s.node.stepRaft(message); return nil }); err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
}

// Opine takes what a follower observes.
func (s *service) Opine(ctx context.Context, m *lockstep.Opinions) (*lockstep.OpinionsReply, error) {
	if err := s.checkPeer(ctx, m.GetCluster(), m.GetFrom()); err != nil {
		return nil, err
	}
	if len(m.GetOpinions()) > failover.MaxGroups*failover.MaxReplicas {
		return nil, status.Errorf(codes.InvalidArgument, "%d opinions", len(m.GetOpinions()))
	}
	if s.node.leader.Load() != s.node.config.ID {
		return nil, status.Error(codes.Unavailable, "this configuration master does not lead")
	}
	if err := s.node.send(ctx, func() error { s.node.takeOpinions(m); return nil }); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &lockstep.OpinionsReply{Confmasters: s.node.status.Load().GetConfmasters()}, nil
}

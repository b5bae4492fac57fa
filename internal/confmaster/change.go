package confmaster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/failover"
	"lockstep/internal/level"
	"lockstep/internal/trust"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

// lookTimeout bounds the look at a replica that is to be registered.
const lookTimeout = 10 * time.Second

// Change alters a group, or says what it would do.
func (s *service) Change(ctx context.Context, request *lockstep.ChangeRequest) (*lockstep.ChangePlan, error) {
	if err := may(ctx, request); err != nil {
		s.denied(trust.CallerOf(ctx), lockstep.Confmaster_Change_FullMethodName, status.Convert(err).Message())
		return nil, err
	}
	out, conn, err := s.leaderConn(ctx)
	if err != nil {
		return nil, err
	}
	if conn != nil {
		return lockstep.NewConfmasterClient(conn).Change(out, request)
	}
	plan, err := s.change(ctx, request)
	if !request.GetDryRun() {
		group := request.GetGroup()
		if create := request.GetCreate(); create != nil {
			group = create.GetName()
		}
		err = s.audit(ctx, group, changeText(request), err)
	}
	return plan, err
}

// change carries a Change out at the leader.
func (s *service) change(ctx context.Context, request *lockstep.ChangeRequest) (*lockstep.ChangePlan, error) {
	change := &failover.ChangeRequest{Group: request.GetGroup(), Version: request.GetVersion(), DryRun: request.GetDryRun()}
	checks, err := s.readChange(ctx, request, change)
	if err != nil {
		return nil, err
	}
	reply, err := s.await(ctx, &failover.Request{Change: change})
	if err != nil {
		return nil, err
	}
	checks = append(checks, reply.Checks...)
	if !reply.Done {
		code := codes.FailedPrecondition
		if reply.Stale {
			code = codes.Aborted
		}
		text := reply.Text
		if len(checks) > 0 {
			text += "\n  " + strings.Join(checks, "\n  ")
		}
		return nil, status.Error(code, text)
	}
	plan := &lockstep.ChangePlan{Version: reply.Version, Epoch: uint64(reply.Epoch), Checks: checks, Steps: reply.Steps, Text: reply.Text}
	if reply.Recovery != nil {
		plan.Recovery = recoveryMessage(reply.Recovery)
	}
	return plan, nil
}

// readChange turns the message into what the driver reads. It asks a replica that is to be registered for what the operator
// did not say, and returns what was found.
func (s *service) readChange(ctx context.Context, request *lockstep.ChangeRequest, change *failover.ChangeRequest) (checks []string, err error) {
	switch c := request.GetChange().(type) {
	case *lockstep.ChangeRequest_SetPolicy:
		change.Policy, err = policyChange(c.SetPolicy)
	case *lockstep.ChangeRequest_AddReplica:
		change.Add, checks, err = s.look(ctx, change.Group, c.AddReplica)
	case *lockstep.ChangeRequest_RemoveReplica:
		change.Begin = &failover.BeginChange{Kind: failover.ChangeRemove, Node: smr.NodeID(c.RemoveReplica.GetNode()), Switchover: c.RemoveReplica.GetSwitchover()}
	case *lockstep.ChangeRequest_DrainReplica:
		change.Begin = &failover.BeginChange{Kind: failover.ChangeDrain, Node: smr.NodeID(c.DrainReplica.GetNode()), Switchover: c.DrainReplica.GetSwitchover()}
		if c.DrainReplica.GetUndo() {
			change.Begin.Kind = failover.ChangeUndrain
		}
	case *lockstep.ChangeRequest_ReplaceReplica:
		change.Begin = &failover.BeginChange{Kind: failover.ChangeReplace, Node: smr.NodeID(c.ReplaceReplica.GetNode()), Switchover: c.ReplaceReplica.GetSwitchover()}
		change.Begin.By, checks, err = s.look(ctx, change.Group, c.ReplaceReplica.GetBy())
	case *lockstep.ChangeRequest_Cancel:
		change.Cancel = true
	case *lockstep.ChangeRequest_Recover:
		change.Recover = &failover.RecoverRequest{Confirm: c.Recover.GetConfirm(), AcceptLoss: c.Recover.GetAcceptLoss()}
	case *lockstep.ChangeRequest_Settings:
		change.Settings, checks, err = s.readSettings(ctx, change.Group, c.Settings)
	case *lockstep.ChangeRequest_Create:
		change.Group = c.Create.GetName()
		change.Create, err = createOf(c.Create)
	default:
		err = status.Error(codes.InvalidArgument, "the request names no change")
	}
	return checks, err
}

func policyChange(p *lockstep.Policy) (*failover.PolicyChange, error) {
	change := &failover.PolicyChange{Copies: int(p.GetCopies()), MinCopies: int(p.GetMinCopies())}
	if p.GetSync() != "" {
		mode, err := smr.ParseSyncMode(p.GetSync())
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		change.Sync = &mode
	}
	if p.SlowBytes != nil {
		bytes := smr.LSN(p.GetSlowBytes())
		change.SlowBytes = &bytes
	}
	for _, field := range []struct {
		to   **int
		from *uint32
	}{{&change.SlowMillis, p.SlowMs}, {&change.SlowForMillis, p.SlowForMs}} {
		if field.from != nil {
			millis := int(*field.from)
			*field.to = &millis
		}
	}
	return change, nil
}

func createOf(request *lockstep.CreateGroupRequest) (*failover.CreateGroup, error) {
	mode := smr.SyncAlways
	if request.GetSync() != "" {
		var err error
		if mode, err = smr.ParseSyncMode(request.GetSync()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	create := &failover.CreateGroup{Name: request.GetName(),
		Policy: failover.Policy{Copies: int(request.GetCopies()), MinCopies: int(request.GetMinCopies()), Sync: mode}}
	for _, r := range request.GetReplicas() {
		create.Replicas = append(create.Replicas, *replicaOf(r))
	}
	return create, nil
}

func replicaOf(r *lockstep.ReplicaSpec) *failover.Replica {
	return &failover.Replica{Node: smr.NodeID(r.GetNode()), ManageAddr: r.GetManageAddr(),
		DataAddr: r.GetDataAddr(), KVAddr: r.GetKvAddr(), Preference: int(r.GetPreference())}
}

// look asks the replica at the management address for its other addresses, if they were not given. That it answers as a
// replica of this cluster, this group and this name is worth knowing before it is registered.
func (s *service) look(ctx context.Context, group string, spec *lockstep.ReplicaSpec) (*failover.Replica, []string, error) {
	r := replicaOf(spec)
	if r.DataAddr != "" && s.node.level.Level() == level.First {
		return r, nil, nil
	}
	if r.ManageAddr == "" {
		return nil, nil, status.Errorf(codes.InvalidArgument, "replica %s: its management address is missing", r.Node)
	}
	conn, err := s.conns.get(replicatorAt(r.ManageAddr, r.Node))
	if err != nil {
		return nil, nil, status.Errorf(codes.InvalidArgument, "replica %s at %s: %v", r.Node, r.ManageAddr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	target := s.node.target(group, r.Node)
	target.Level = 0 // it is none of ours yet: it may be asked what it can, and told that it cannot be added
	state, err := lockstep.NewReplicatorClient(conn).State(ctx, &lockstep.WatchRequest{Target: target})
	if err != nil && r.DataAddr != "" {
		return r, nil, nil // all was said; what it can it will be asked when it is there
	}
	if err != nil {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "replica %s at %s: %s: start its replicator first, with --node %s --group %s --cluster %s",
			r.Node, r.ManageAddr, status.Convert(err).Message(), r.Node, group, s.node.config.Cluster)
	}
	if err := s.checkNewcomer(r.Node, state); err != nil || r.DataAddr != "" {
		return r, nil, err
	}
	r.DataAddr, r.KVAddr = state.GetDataAddr(), state.GetKvAddr()
	content := fmt.Sprintf("holds a log up to LSN %d", state.GetEnd())
	if state.GetBlank() {
		content = "is blank"
	}
	return r, []string{fmt.Sprintf("%s answers at %s: data %s, incarnation %016x, it %s", r.Node, r.ManageAddr, r.DataAddr, state.GetIncarnation(), content)}, nil
}

// Join registers the replica that asks for it.
func (s *service) Join(ctx context.Context, request *lockstep.JoinRequest) (*lockstep.ChangeReply, error) {
	if caller := trust.CallerOf(ctx); caller.Secure {
		if wanted := (trust.Wanted{Role: trust.Replicator, Name: request.GetReplica().GetNode()}); !caller.Is(wanted) {
			return nil, status.Errorf(codes.PermissionDenied, "the certificate is that of %s, and only %s may register itself under that name", caller.Peer, wanted)
		}
	}
	if request.GetCluster() != s.node.config.Cluster {
		return nil, status.Errorf(codes.PermissionDenied, "cluster %q, this is %q", request.GetCluster(), s.node.config.Cluster)
	}
	if known, can := s.node.level.Level(), level.Of(request.GetHighestLevel()); can < known {
		return nil, status.Error(codes.OutOfRange, level.Refuse(known, can))
	}
	out, conn, err := s.leaderConn(ctx)
	if err != nil {
		return nil, err
	}
	if conn != nil {
		return lockstep.NewConfmasterClient(conn).Join(out, request)
	}
	reply, err := s.await(ctx, &failover.Request{Join: &failover.JoinRequest{Group: request.GetGroup(), Replica: *replicaOf(request.GetReplica()),
		Incarnation: smr.Incarnation(request.GetIncarnation())}})
	switch {
	case err != nil:
		return nil, err
	case reply.Taken:
		return nil, status.Error(codes.AlreadyExists, reply.Text)
	case !reply.Done:
		return nil, status.Error(codes.FailedPrecondition, reply.Text)
	}
	return &lockstep.ChangeReply{Epoch: uint64(reply.Epoch), Text: reply.Text}, s.audit(ctx, request.GetGroup(), "join as "+request.GetReplica().GetNode(), nil)
}

func recoveryMessage(r *failover.Recovery) *lockstep.Recovery {
	return &lockstep.Recovery{Epoch: uint64(r.Epoch), TimeMs: r.StampMillis, Kept: nodeNames(r.Kept), Lost: nodeNames(r.Outcasts),
		From: uint64(r.From), Seen: uint64(r.Seen), SinceMs: r.SinceMillis, Text: r.Text}
}

func nodeNames(members []smr.Member) []string {
	names := make([]string, 0, len(members))
	for _, m := range members {
		names = append(names, string(m.Node))
	}
	return names
}

func policyMessage(p failover.Policy) *lockstep.Policy {
	bytes, millis, patience := uint64(p.SlowBytes), uint32(p.SlowMillis), uint32(p.SlowForMillis)
	return &lockstep.Policy{Copies: uint32(p.Copies), MinCopies: uint32(p.MinCopies), Sync: p.Sync.String(),
		SlowBytes: &bytes, SlowMs: &millis, SlowForMs: &patience}
}

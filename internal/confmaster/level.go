package confmaster

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/failover"
	"lockstep/internal/level"
	"lockstep/internal/trust"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

// decodeState reads a state of the cluster. One of a feature level above highest, the one that this program can, is not looked into.
func decodeState(b []byte, highest int) (*failover.State, error) {
	known, err := failover.StateLevel(b)
	if err != nil {
		return nil, err
	}
	if err := level.Check(known, highest); err != nil {
		return nil, err
	}
	return failover.DecodeState(b)
}

// learnLevel makes the level of the state known to all, or ends this process if it cannot it: before anything that follows is applied.
func (n *node) learnLevel() error {
	known := n.state.FeatureLevel()
	if err := level.Check(known, n.config.highestLevel()); err != nil {
		return err
	}
	if n.level.Learn(known) {
		n.logger.Info("feature level", "level", known, "highest", n.config.highestLevel())
	}
	return nil
}

// checkNewcomer refuses to add a replica that cannot the cluster's level, or whose KV node cannot.
func (s *service) checkNewcomer(node smr.NodeID, state *lockstep.ReplicaState) error {
	known := s.node.level.Level()
	for _, process := range []struct {
		name string
		runs bool
		can  int
	}{
		{"replicator", true, level.Of(state.GetHighestLevel())},
		{"KV node", state.GetAttached(), level.Of(state.GetKvHighestLevel())},
	} {
		if process.runs && process.can < known {
			return status.Errorf(codes.FailedPrecondition, "the %s of %s supports feature level %d at most, and the cluster's is %d: install the version there that the other nodes run",
				process.name, node, process.can, known)
		}
	}
	return nil
}

// Levels tells what every process can.
func (s *service) Levels(ctx context.Context, request *lockstep.LevelsRequest) (*lockstep.LevelsReply, error) {
	out, conn, err := s.leaderConn(ctx)
	if err != nil {
		return nil, err
	}
	if conn != nil {
		return lockstep.NewConfmasterClient(conn).Levels(out, request)
	}
	return onLoop(ctx, s.node, s.node.levelsMessage)
}

// levelsMessage adds to what the driver knows the versions. Called on the loop.
func (n *node) levelsMessage() *lockstep.LevelsReply {
	report := n.driver.Levels()
	reply := &lockstep.LevelsReply{Level: uint32(report.Level), Possible: uint32(report.Possible)}
	for i := range report.Processes {
		p := &report.Processes[i]
		out := &lockstep.LevelOf{Kind: string(p.Kind), Group: p.Group, Name: string(p.Node), Highest: uint32(p.Highest), Problem: p.Problem}
		switch p.Kind {
		case failover.ProcessConfmaster:
			out.Name, out.Version = (&Peer{ID: p.Confmaster}).Name(), n.peers[p.Confmaster].version
			if p.Confmaster == n.config.ID {
				out.Version = n.config.version()
			}
		case failover.ProcessReplicator:
			out.Version = n.seen[replicaKey{p.Group, p.Node}].GetVersion()
		}
		reply.Processes = append(reply.Processes, out)
	}
	for _, row := range level.Table(report.Level) {
		reply.Brings = append(reply.Brings, &lockstep.LevelRow{Level: uint32(row.Level), Brings: row.Brings})
	}
	return reply
}

// RaiseLevel raises the cluster's level, or says whether it would.
func (s *service) RaiseLevel(ctx context.Context, request *lockstep.RaiseLevelRequest) (*lockstep.LevelsReply, error) {
	out, conn, err := s.leaderConn(ctx)
	if err != nil {
		return nil, err
	}
	if conn != nil {
		return lockstep.NewConfmasterClient(conn).RaiseLevel(out, request)
	}
	reply, err := s.raiseLevel(ctx, request)
	if !request.GetDryRun() {
		err = s.auditAll(ctx, fmt.Sprintf("raise the feature level to %d", request.GetTo()), err)
	}
	return reply, err
}

// raiseLevel carries it out at the leader.
func (s *service) raiseLevel(ctx context.Context, request *lockstep.RaiseLevelRequest) (*lockstep.LevelsReply, error) {
	if request.GetTo() > smr.MaxLevel || request.GetSeen() > smr.MaxLevel {
		return nil, status.Errorf(codes.InvalidArgument, "there is no feature level %d: levels go up to %d", max(request.GetTo(), request.GetSeen()), smr.MaxLevel)
	}
	answer, err := s.await(ctx, &failover.Request{Raise: &failover.RaiseRequest{To: int(request.GetTo()), Seen: int(request.GetSeen()),
		By: trust.CallerOf(ctx).String(), DryRun: request.GetDryRun()}})
	switch {
	case err != nil:
		return nil, err
	case answer.Stale:
		return nil, status.Error(codes.Aborted, answer.Text)
	case !answer.Done:
		return nil, status.Error(codes.FailedPrecondition, strings.Join(append([]string{answer.Text}, answer.Checks...), "\n  "))
	}
	reply, err := onLoop(ctx, s.node, s.node.levelsMessage)
	if err != nil {
		return nil, err
	}
	reply.Text = answer.Text
	return reply, nil
}

// auditAll puts on record, in the work log of every group, what somebody changed for all of them.
func (s *service) auditAll(ctx context.Context, what string, err error) error {
	groups := s.node.status.Load().GetGroups()
	if err != nil || len(groups) == 0 {
		return s.audit(ctx, "", what, err)
	}
	for _, group := range groups {
		if err := s.audit(ctx, group.GetName(), what, nil); err != nil {
			return err
		}
	}
	return nil
}

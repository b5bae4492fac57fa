package confmaster

import (
	"context"
	"fmt"
	"strings"
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
	// auditMark begins the entries of the work log that say who changed what. They are notes, so that older versions know them.
	auditMark = "audit: "
	// eventAudit is the event of such an entry.
	eventAudit failover.EventName = "audit"
	// auditTries is how often an entry is proposed: an epoch may be given out meanwhile, and then it is refused.
	auditTries = 5
	// auditPatience bounds the wait for one of them.
	auditPatience = time.Second
	// auditLook is how many of the newest entries are searched for it.
	auditLook = 50
)

// audit puts on record who changed what, and what came of it: in the log of this process, and, if it was done, in the work log
// of the group, before the caller is answered; of no group there is none. It returns err.
func (s *service) audit(ctx context.Context, group, what string, err error) error {
	outcome := "done"
	if err != nil {
		outcome = "refused: " + status.Convert(err).Message()
	}
	who := trust.CallerOf(ctx).String()
	s.node.logger.Info("audit", "who", who, "group", group, "what", what, "outcome", outcome)
	if err != nil || group == "" {
		return err
	}
	text := fmt.Sprintf("%s%s: %s: %s (%s)", auditMark, who, what, outcome, time.Now().UTC().Format(time.RFC3339Nano))
	for range auditTries {
		if s.record(ctx, group, text) {
			return nil
		}
	}
	s.node.logger.Warn("audit: not in the work log of the group", "group", group, "what", what)
	return nil
}

// record proposes an entry and reports whether it is in the work log.
func (s *service) record(ctx context.Context, group, text string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditPatience)
	defer cancel()
	err := s.node.send(ctx, func() error {
		if g := s.node.state.Group(group); g != nil && s.node.elected {
			note := failover.Command{Confmaster: s.node.config.ID, StampMillis: time.Now().UnixMilli(),
				Note: &failover.Note{Group: group, Expect: g.Epoch, Kind: failover.EntryNote, Text: text}}
			if err := s.node.raft.Propose(note.Encode()); err != nil {
				s.node.logger.Warn("proposal dropped", "group", group, "error", err)
			}
		}
		return nil
	})
	if err != nil {
		return false
	}
	for ctx.Err() == nil {
		there, err := onLoop(ctx, s.node, func() bool { return s.node.recorded(text) })
		if err != nil || there {
			return there
		}
		pause.For(ctx, tickLength)
	}
	return false
}

// recorded reports whether a text is among the newest entries. Called on the loop.
func (n *node) recorded(text string) bool {
	for i := len(n.state.Log) - 1; i >= max(0, len(n.state.Log)-auditLook); i-- {
		if n.state.Log[i].Reason == text {
			return true
		}
	}
	return false
}

// auditEvents are the events of an entry that was committed: those who follow events at any configuration master see who changed what.
func auditEvents(entry *failover.WorkEntry) []failover.Event {
	if entry == nil || entry.Kind != failover.EntryNote || !strings.HasPrefix(entry.Reason, auditMark) {
		return nil
	}
	return []failover.Event{{StampMillis: entry.StampMillis, Group: entry.Group, Name: eventAudit, Epoch: entry.Epoch, Text: strings.TrimPrefix(entry.Reason, auditMark)}}
}

// may refuses a caller that has not the role for what it wants changed.
func may(ctx context.Context, request *lockstep.ChangeRequest) error {
	caller, role := trust.CallerOf(ctx), changeRole(request)
	if !caller.May(role) {
		return status.Errorf(codes.PermissionDenied, "%s may not %s: it needs the role %s", caller.Peer, changeText(request), role)
	}
	return nil
}

// changeText says what a change is about, without values: they may be secret.
func changeText(request *lockstep.ChangeRequest) string {
	switch c := request.GetChange().(type) {
	case *lockstep.ChangeRequest_SetPolicy:
		return "change the policy"
	case *lockstep.ChangeRequest_AddReplica:
		return "add replica " + c.AddReplica.GetNode()
	case *lockstep.ChangeRequest_RemoveReplica:
		return "remove replica " + c.RemoveReplica.GetNode()
	case *lockstep.ChangeRequest_DrainReplica:
		if c.DrainReplica.GetUndo() {
			return "take replica " + c.DrainReplica.GetNode() + " back"
		}
		return "drain replica " + c.DrainReplica.GetNode()
	case *lockstep.ChangeRequest_ReplaceReplica:
		return "replace replica " + c.ReplaceReplica.GetNode() + " by " + c.ReplaceReplica.GetBy().GetNode()
	case *lockstep.ChangeRequest_Cancel:
		return "give a change up"
	case *lockstep.ChangeRequest_Recover:
		return "force a recovery"
	case *lockstep.ChangeRequest_Create:
		return "create the group"
	case *lockstep.ChangeRequest_Settings:
		var names []string
		for _, item := range c.Settings.GetSettings() {
			names = append(names, item.GetKind()+" "+item.GetName())
		}
		return "change " + strings.Join(names[:min(10, len(names))], ", ")
	}
	return "change something"
}

// switchoverText says what a switch-over is about.
func switchoverText(to smr.NodeID) string {
	if to == "" {
		return "switch over"
	}
	return "switch over to " + string(to)
}

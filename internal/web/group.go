package web

import (
	"net/http"

	"lockstep/proto"
)

// policyView is the policy of a group. In a change null leaves a field as it is.
type policyView struct {
	Copies    *uint32 `json:"copies"`
	MinCopies *uint32 `json:"min_copies"`
	SlowBytes *uint64 `json:"slow_bytes"`
	SlowMs    *uint32 `json:"slow_ms"`
	SlowForMs *uint32 `json:"slow_for_ms"`
}

func policyOf(p *proto.Policy) policyView {
	copies, least, bytes, ms, forMs := p.GetCopies(), p.GetMinCopies(), p.GetSlowBytes(), p.GetSlowMs(), p.GetSlowForMs()
	return policyView{&copies, &least, &bytes, &ms, &forMs}
}

// planView is what a change would do, or has done.
type planView struct {
	Version uint64   `json:"version"` // of a dry run: to send with the change
	Epoch   uint64   `json:"epoch"`
	Checks  []string `json:"checks"`
	Steps   []string `json:"steps"`
	Text    string   `json:"text"`
}

// groupChange is what a browser sends: one change, as a dry run first, then with the version of that.
type groupChange struct {
	Group   string       `json:"group"`
	Version uint64       `json:"version"`
	DryRun  bool         `json:"dry_run"`
	Policy  *policyView  `json:"policy"`
	Drain   *drainChange `json:"drain"`
	Cancel  bool         `json:"cancel"` // gives up the change that is running
}

type drainChange struct {
	Node       string `json:"node"`
	Switchover bool   `json:"switchover"` // if it leads, hand mastership over first
	Undo       bool   `json:"undo"`
}

// changeGroup alters policies or the standing of a replica. Without a version it would be done to whatever somebody else has made of the
// group meanwhile, so one is asked for; the configuration masters refuse an old one.
func (s *Server) changeGroup(w http.ResponseWriter, r *http.Request) (any, error) {
	var in groupChange
	if err := read(w, r, &in); err != nil {
		return nil, err
	}
	if !in.DryRun && in.Version == 0 {
		return nil, refusef(http.StatusBadRequest, "the version of the group is missing: look at what would be done first")
	}
	request := &proto.ChangeRequest{Group: in.Group, Version: in.Version, DryRun: in.DryRun}
	changes := 0
	if p := in.Policy; p != nil {
		changes++
		policy := &proto.Policy{SlowBytes: p.SlowBytes, SlowMs: p.SlowMs, SlowForMs: p.SlowForMs}
		for _, field := range []struct {
			name string
			from *uint32
			to   *uint32
		}{{"copies", p.Copies, &policy.Copies}, {"min_copies", p.MinCopies, &policy.MinCopies}} {
			if field.from != nil && *field.from == 0 {
				return nil, refusef(http.StatusBadRequest, "%s 0: use 1 or more", field.name)
			}
			if field.from != nil {
				*field.to = *field.from
			}
		}
		request.Change = &proto.ChangeRequest_SetPolicy{SetPolicy: policy}
	}
	if d := in.Drain; d != nil {
		changes++
		request.Change = &proto.ChangeRequest_DrainReplica{DrainReplica: &proto.DrainReplica{Node: d.Node, Switchover: d.Switchover, Undo: d.Undo}}
	}
	if in.Cancel {
		changes++
		request.Change = &proto.ChangeRequest_Cancel{Cancel: &proto.CancelChange{}}
	}
	if changes != 1 {
		return nil, refusef(http.StatusBadRequest, "%d changes in one request: send one", changes)
	}
	plan, err := s.config.Masters.Change(r.Context(), request)
	if err != nil {
		return nil, err
	}
	return planView{Version: plan.GetVersion(), Epoch: plan.GetEpoch(), Checks: append([]string{}, plan.GetChecks()...), Steps: append([]string{}, plan.GetSteps()...), Text: plan.GetText()}, nil
}

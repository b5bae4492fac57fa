package drill

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lockstep/internal/drill/plan"
	"lockstep/internal/drill/report"
	"lockstep/proto"
)

// graceOfOthers is for how long something else may look broken before a drill is aborted: looks are snapshots, and this machine may
// be slow.
const graceOfOthers = 4 * time.Second

// follow takes down what the configuration masters decide and see, until ctx ends.
func (r *run) follow(ctx context.Context) {
	_ = r.Client.Events(ctx, r.Group, 0, func(e *proto.Event) { // it ends with ctx only
		text := e.GetName()
		if e.GetNode() != "" {
			text += " " + e.GetNode()
		}
		if e.GetText() != "" {
			text += ": " + e.GetText()
		}
		at := r.work.Now()
		r.mu.Lock()
		r.timeline = append(r.timeline, report.Moment{Stamp: at, Who: "confmaster", Name: e.GetName(), Text: text})
		struck := r.strikeAt
		r.mu.Unlock()
		if struck != 0 && (e.GetName() == electionBegun || e.GetName() == established) {
			r.say("%+.3f s  confmaster: %s", float64(at-struck)/1e9, text)
		}
	})
}

// Names of events that the figures are made of.
const (
	electionBegun = "election-begun"
	chosen        = "chosen"
	established   = "established"
)

// guard aborts the drill when something breaks that it has not broken itself, until ctx ends.
func (r *run) guard(ctx context.Context, abort context.CancelCauseFunc) {
	since := make(map[string]time.Time)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, last := r.work.Acknowledged(); r.work.Now()-last > int64(r.Longest) {
			abort(fmt.Errorf("no write was acknowledged for %v", r.Longest))
			return
		}
		look, cancel := context.WithTimeout(ctx, 2*time.Second)
		status, group, err := r.look(look)
		cancel()
		if err != nil {
			continue // clients tell whether that matters
		}
		if group.GetVersion() != r.plan.Version {
			abort(fmt.Errorf("somebody else changes group %s", r.Group))
			return
		}
		now := r.strange(status, group)
		for what := range since {
			if !slices.Contains(now, what) {
				delete(since, what)
			}
		}
		for _, what := range now {
			if since[what].IsZero() {
				since[what] = time.Now()
			}
			if time.Since(since[what]) > graceOfOthers {
				abort(fmt.Errorf("%s, which the drill has not done", what))
				return
			}
		}
	}
}

// strange lists what is broken and not touched by the drill.
func (r *run) strange(status *proto.ClusterStatus, group *proto.GroupStatus) (list []string) {
	hands := r.hands()
	for _, replica := range group.GetReplicas() {
		node, state := replica.GetNode(), replica.GetState()
		switch {
		case state.GetStopped():
			list = append(list, node+" has stopped: it found its log wrong")
		case slices.Contains(hands, node):
		case !replica.GetUp():
			list = append(list, node+" is not up")
		case !state.GetAttached():
			list = append(list, node+" has no KV node")
		}
	}
	for _, c := range status.GetConfmasters() {
		if name := plan.Confmaster(c.GetId()); !slices.Contains(hands, name) && !c.GetUp() && !c.GetLeader() {
			list = append(list, name+" is not up")
		}
	}
	return list
}

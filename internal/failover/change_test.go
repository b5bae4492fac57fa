package failover

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"lockstep/smr"
)

// What the world of the tests needs for changes of the replicas and for forced recovery.

func replicaOf(node smr.NodeID) *Replica {
	return &Replica{Node: node, ManageAddr: string(node) + ":7200", DataAddr: string(node) + ":7100", KVAddr: string(node) + ":6379"}
}

// addNode starts a blank replica that nobody knows yet.
func (w *world) addNode(node smr.NodeID) *fake {
	w.serial++
	f := &fake{w: w, node: node, inc: smr.Incarnation(w.serial), blank: true}
	f.start()
	w.fakes = append(w.fakes, f)
	return f
}

func describeChange(cmd *Command) string {
	switch {
	case cmd.AddReplica != nil:
		return fmt.Sprintf("add-replica %s", cmd.AddReplica.Replica.Node)
	case cmd.BeginChange != nil:
		return fmt.Sprintf("begin-change %s %s", cmd.BeginChange.Kind, cmd.BeginChange.Node)
	case cmd.AdvanceChange != nil:
		return fmt.Sprintf("advance-change %s", cmd.AdvanceChange.Step)
	case cmd.CancelChange != nil:
		return "cancel-change"
	case cmd.Recover != nil:
		return "recover"
	}
	return ""
}

// recovered is called when a forced recovery was committed: what only the others held is lost with consent. What a kept
// replica knows to be committed must never be.
func (w *world) recovered(r *Recovery) {
	kept := 0
	for _, f := range w.fakes {
		if !hasMember(r.Kept, f.self()) {
			continue
		}
		kept = max(kept, min(f.commit, len(f.log)))
		for i := range min(len(f.log), len(w.committed)) {
			if f.log[i] != w.committed[i] {
				break
			}
			kept = max(kept, i+1)
		}
	}
	w.givenUp += len(w.committed) - min(kept, len(w.committed))
	w.committed = w.committed[:min(kept, len(w.committed))]
}

// change asks for one change of the replicas, sensible or not. It returns 1 if a switch-over may follow.
func (w *world) change(rng *rand.Rand, g *Group) int {
	node := w.fakes[rng.IntN(len(w.fakes))].node
	other := smr.NodeID(fmt.Sprintf("n%d", 1+rng.IntN(w.o.nodes+2)))
	if w.find(other) == nil {
		w.addNode(other)
	}
	c := &ChangeRequest{Group: "g1", DryRun: rng.IntN(10) == 0}
	if rng.IntN(10) == 0 {
		c.Version = g.Version + uint64(rng.IntN(2))
	}
	switch rng.IntN(9) {
	case 0, 1:
		c.Add = replicaOf(other)
	case 2:
		c.Begin = &BeginChange{Kind: ChangeRemove, Node: node, Switchover: rng.IntN(2) == 0}
	case 3:
		c.Begin = &BeginChange{Kind: ChangeDrain, Node: node, Switchover: rng.IntN(2) == 0}
	case 4, 5:
		c.Begin = &BeginChange{Kind: ChangeUndrain, Node: node}
	case 6, 7:
		c.Begin = &BeginChange{Kind: ChangeReplace, Node: node, By: replicaOf(other), Switchover: rng.IntN(2) == 0}
	case 8:
		c.Cancel = true
	}
	what := "add or cancel"
	if c.Begin != nil {
		what = string(c.Begin.Kind)
	}
	w.log("-- change %s of %s by %s, dry %v, version %d", what, node, other, c.DryRun, c.Version)
	w.request(&Request{Change: c})
	return 1
}

// forced loses more replicas than the group can stand, for some seeds, and has an operator force its way. What the others
// held is lost; nothing that a replica which was left knows to be committed may be, and all must come together again
// when those that come back with an old log are wiped.
func (w *world) forced(rng *rand.Rand) {
	if rng.IntN(2) != 0 {
		return
	}
	w.run(rng.IntN(600))
	left := w.fakes[rng.IntN(len(w.fakes))]
	if rng.IntN(2) == 0 { // what it does not get is lost
		for _, other := range w.fakes {
			w.cuts = append(w.cuts, string(left.node+"|"+other.node))
		}
		w.run(rng.IntN(120))
		w.cuts = nil
	}
	lost := 0
	for _, f := range w.fakes {
		if f != left && rng.IntN(6) > 0 {
			w.kill(f)
			lost++
		}
	}
	w.log("-- %d killed for good", lost)
	for try := 0; try < 8 && w.failed == ""; try++ {
		w.run(100 + rng.IntN(200))
		if w.leader < 0 {
			continue
		}
		g := w.group()
		before := len(g.Recoveries)
		w.request(&Request{Change: &ChangeRequest{Group: "g1", Recover: &RecoverRequest{Confirm: "g1", AcceptLoss: true}}})
		w.run(rng.IntN(60))
		if len(w.group().Recoveries) > before && rng.IntN(2) == 0 {
			break
		}
		if rng.IntN(4) == 0 {
			w.lead(rng.IntN(len(w.cms)))
		}
	}
	w.run(rng.IntN(500))
	w.log("-- all come back")
	for _, f := range w.fakes {
		if !f.up {
			f.start()
		}
	}
	w.run(300)
	for _, f := range w.fakes { // an operator reads the status
		if w.outcast(f) {
			w.log("-- wipe %s, which was left out", f.node)
			w.kill(f)
			f.wipe()
			f.start()
		}
	}
}

// outcast reports whether the confmasters leave a replica out.
func (w *world) outcast(f *fake) bool {
	d := w.cms[max(w.leader, 0)].driver
	r := d.replica("g1", f.node)
	return r != nil && d.outcast(w.group(), r) != 0
}

// What could go wrong: an operator sets the copies of a group that was founded and has no master yet, and the configuration master
// that leads ends (simulation seed 30 in full mode).
func TestPolicyMayChangeBeforeTheFirstMaster(t *testing.T) {
	state := NewState("c")
	create := &CreateGroup{Name: "g1", Policy: Policy{Copies: 2, MinCopies: 1}, Replicas: []Replica{*replicaOf("n1"), *replicaOf("n2"), *replicaOf("n3")}}
	config := smr.Config{Copies: 2, Master: "n1", Members: []smr.Member{{Node: "n1", Incarnation: 1}, {Node: "n2", Incarnation: 2}, {Node: "n3", Incarnation: 3}}}
	for i, cmd := range []Command{{CreateGroup: create}, {Found: &Found{Group: "g1", Config: config}}} {
		cmd.ID = uint64(i + 1)
		if result := state.Apply(&cmd); !result.Applied {
			t.Fatal(result.Reason)
		}
	}
	d := New(Options{Self: 1, Voters: []uint64{1}}, state)
	var out Effects
	d.Step(&Elected{}, &out)
	for _, dry := range []bool{true, false} {
		d.Step(&Request{ID: 7, Change: &ChangeRequest{Group: "g1", DryRun: dry, Policy: &PolicyChange{Copies: 3}}}, &out)
	}
	if len(out.Replies) != 1 || !out.Replies[0].Done || len(out.Replies[0].Steps) != 2 {
		t.Errorf("the dry run: %+v", out.Replies)
	}
	if n := len(out.Proposals); n == 0 || out.Proposals[n-1].SetPolicy == nil {
		t.Errorf("proposed: %+v", out.Proposals)
	}
}

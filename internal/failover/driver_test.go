package failover

import (
	"strings"
	"testing"

	"lockstep/smr"
)

// After a crash (refused connection seen by a majority) no step may wait for a tick: with a network that takes no time, Lead
// leaves within the very same tick, except for the grace given to living members that have not answered.
func TestFailOverNeverWaitsForATick(t *testing.T) {
	s := testState(t)
	must(t, s, chooseOf(2, candidate("n1", 11, 0, 0), candidate("n2", 12, 0, 0), candidate("n3", 13, 0, 0)))
	must(t, s, Command{Establish: &Establish{Group: "g1", Epoch: 2}})
	d := New(Options{Self: 1, Voters: []uint64{1, 2, 3}}, s)
	var out Effects
	d.Step(&Elected{}, &out)
	for _, node := range []smr.NodeID{"n2", "n3"} {
		r := candidate(node, map[smr.NodeID]smr.Incarnation{"n2": 12, "n3": 13}[node], 0, 0)
		d.Step(&Observed{Group: "g1", Node: node, View: ReplicaView{Incarnation: r.Incarnation, Life: r.Life, Epoch: 2, Promise: 2, Master: "n1", Joined: true}}, &out)
	}
	d.Step(&Unreachable{Group: "g1", Node: "n1", Saw: "connection refused"}, &out)
	if !out.Opine {
		t.Fatal("the other confmasters are not told at once")
	}
	if len(out.Proposals) != 0 {
		t.Fatal("one of three confmasters deposed a master")
	}
	down := []Opinion{{Group: "g1", Node: "n1", Saw: "connection refused"}}
	d.Step(&Opinions{From: 7, Opinions: down}, &out) // no voter
	d.Step(&Opinions{From: 1, Opinions: down}, &out) // itself: would count twice
	if len(out.Proposals) != 0 {
		t.Fatal("an opinion was counted that is none")
	}
	d.Step(&Opinions{From: 3, Opinions: down}, &out)
	if len(out.Proposals) != 1 || out.Proposals[0].BeginElection == nil {
		t.Fatalf("no election: %+v", out.Proposals)
	}
	commit := func() {
		t.Helper()
		if len(out.Proposals) == 0 {
			t.Fatal("nothing was proposed")
		}
		cmd := out.Proposals[0]
		out.Reset()
		d.Step(&Committed{Result: must(t, s, cmd)}, &out)
	}
	commit()
	fences := append([]Call(nil), out.Calls...)
	out.Reset()
	for _, call := range fences {
		if call.Kind != CallFence || call.Epoch != 3 {
			t.Fatalf("unexpected %+v", call)
		}
		if call.Node != "n1" {
			inc := map[smr.NodeID]smr.Incarnation{"n2": 12, "n3": 13}[call.Node]
			d.Step(&Answer{ID: call.ID, Fence: &FenceAnswer{Epoch: 3, Incarnation: inc, Life: smr.Life(inc), Position: smr.Position{Epoch: 2, End: smr.LSN(inc)}}}, &out)
		}
	}
	commit()
	if len(out.Calls) != 1 || out.Calls[0].Kind != CallLead || out.Calls[0].Node != "n3" || out.Calls[0].Life != 13 || out.Calls[0].Base.Epoch != 2 {
		t.Fatalf("Lead did not leave: %+v", out.Calls)
	}
	entry := s.Log[len(s.Log)-2]
	if entry.Kind != EntryElection || len(entry.Witnesses) != 2 || entry.Witnesses[1].Confmaster != 3 {
		t.Fatalf("the election is not explained: %+v", entry)
	}
}

// A group whose masters die as soon as they are chosen must not spin: a few elections at once, then one every ElectionTicks.
func TestElectionsAreRationed(t *testing.T) {
	w := newWorld(options{nodes: 3, confmasters: 3, policy: Policy{Copies: 2, MinCopies: 2}, calm: true})
	w.lead(0)
	w.create(3)
	w.run(60)
	before := len(w.elections)
	for range 1000 { // 10 s
		g := w.group()
		if f := w.fake(g.Reign.Master); g.Election.Epoch == 0 && f.mode == modeMaster {
			f.start() // a new life
		}
		w.run(1)
	}
	count := len(w.elections) - before
	if limit := 3 + 1000/300 + 2; count > limit || count < 3 { // two: a death may be noticed only after StandTicks
		t.Fatalf("%d elections in 10 s, 3 to %d were expected", count, limit)
	}
	w.run(1500)
	if why := w.healthy(); why != "" || w.failed != "" {
		t.Fatalf("%s %s", why, w.failed)
	}
}

// Masters that die honestly, one after the other, are each replaced at once: an election that ends a reign which lasted
// takes nothing from the ration.
func TestElectionsAfterReignsThatLastedAreNotRationed(t *testing.T) {
	w := newWorld(options{nodes: 3, confmasters: 3, policy: Policy{Copies: 2, MinCopies: 2}, calm: true})
	w.lead(0)
	w.create(3)
	w.run(60)
	before := len(w.elections)
	for range 12 {
		w.fake(w.group().Reign.Master).start() // a new life
		w.run(130)                             // 1.3 s
	}
	if count := len(w.elections) - before; count != 12 {
		t.Fatalf("%d elections for 12 masters that died in 16 s", count)
	}
}

// Opinions of confmasters that fell silent expire: they cannot depose a master later.
func TestOpinionsExpire(t *testing.T) {
	s := testState(t)
	must(t, s, chooseOf(2, candidate("n1", 11, 0, 0), candidate("n2", 12, 0, 0), candidate("n3", 13, 0, 0)))
	must(t, s, Command{Establish: &Establish{Group: "g1", Epoch: 2}})
	d := New(Options{Self: 1, Voters: []uint64{1, 2, 3, 4, 5}}, s)
	var out Effects
	d.Step(&Elected{}, &out)
	down := []Opinion{{Group: "g1", Node: "n1", Saw: "silent"}}
	for _, from := range []uint64{2, 3} {
		d.Step(&Opinions{From: from, Opinions: down}, &out)
	}
	for range d.Options().OpinionTicks {
		d.Step(&Tick{}, &out)
	}
	d.Step(&Unreachable{Group: "g1", Node: "n1"}, &out)
	d.Step(&Opinions{From: 2, Opinions: down}, &out)
	if len(out.Proposals) != 0 {
		t.Fatal("an opinion that expired was counted")
	}
	d.Step(&Opinions{From: 3, Opinions: down}, &out)
	if d.Standing("g1", "n1").Up {
		t.Fatal("three of five agree")
	}
	// What was heard under another leadership counts for nothing.
	d.Step(&Deposed{}, &out)
	d.Step(&Elected{}, &out)
	if !d.Standing("g1", "n1").Up {
		t.Fatal("a new leader judged before it heard a majority")
	}
}

// Each way of being wedged is an opinion, and each is named.
func TestOpinionNamesWhatIsWrong(t *testing.T) {
	s := testState(t)
	d := New(Options{Self: 1}, s)
	var out Effects
	if len(d.Opinions()) != 0 {
		t.Fatal("an opinion on what was never seen")
	}
	for _, c := range []struct {
		view ReplicaView
		want string
	}{
		{ReplicaView{}, ""},
		{ReplicaView{LoopIdleMillis: 1000}, "main loop"},
		{ReplicaView{LoopIdleMillis: 990, DiskStuckMillis: 1990}, ""},
		{ReplicaView{DiskStuckMillis: 2000}, "disk"},
		{ReplicaView{Stopped: true}, "stopped"},
	} {
		d.Step(&Observed{Group: "g1", Node: "n2", View: c.view}, &out)
		o := d.Opinions()[0]
		if o.Node != "n2" || o.Up != (c.want == "") || !strings.Contains(o.Saw, c.want) {
			t.Errorf("%+v: %+v", c.view, o)
		}
	}
	for range d.Options().SuspectTicks {
		d.Step(&Tick{}, &out)
	}
	if o := d.Opinions(); len(o) != 3 || o[0].Saw != "never heard of" || o[1].Saw != "silent" || o[1].SilentMillis != 1000 {
		t.Errorf("%+v", o)
	}
}

// Requests get exactly one reply, also when there is nobody to carry them out.
func TestRequestsAreAnsweredOnce(t *testing.T) {
	s := NewState("test")
	d := New(Options{Self: 1}, s)
	var out Effects
	d.Step(&Request{ID: 1, Switchover: &Switchover{Group: "g1"}}, &out)
	d.Step(&Elected{}, &out)
	d.Step(&Request{ID: 2, Switchover: &Switchover{Group: "g1"}}, &out)
	d.Step(&Request{ID: 3, SetPolicy: &SetPolicy{Group: "g1"}}, &out)
	d.Step(&Request{ID: 4, SetPolicy: &SetPolicy{Group: "g1", Policy: Policy{Copies: 1, MinCopies: 1}}}, &out)
	d.Step(&Request{ID: 5, SetPolicy: &SetPolicy{Group: "g1", Policy: Policy{Copies: 1, MinCopies: 1}}}, &out)
	d.Step(&Committed{Result: s.Apply(&out.Proposals[0])}, &out)
	for range 400 {
		d.Step(&Tick{}, &out)
	}
	d.Step(&Request{ID: 6, SetPolicy: &SetPolicy{Group: "g1", Policy: Policy{Copies: 1, MinCopies: 1}}}, &out)
	d.Step(&Deposed{}, &out)
	want := []string{"does not lead", "not known", "min_copies", "not known", "raft has not committed", "leads no longer"}
	if len(out.Replies) != len(want) {
		t.Fatalf("%+v", out.Replies)
	}
	for i, r := range out.Replies {
		if r.ID != uint64(i+1) || r.Done || !strings.Contains(r.Text, want[i]) || r.Unsure != (i >= 4) {
			t.Errorf("reply %d: %+v, want %q", i, r, want[i])
		}
	}
}

package failover

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"lockstep/smr"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run this one seed of the simulation, with its trace")
	seedsFlag = flag.Int("seeds", 40, "how many seeds of the simulation to run")
)

// Any mixture of crashes, restarts, wipes, stopped processes, stuck disks, lost KV nodes, cuts, leader changes of raft,
// restarts of confmasters, lost, late and repeated calls and answers. Wrong would be: an epoch given out twice or led
// by two, a choice without the answers of S4, Establish after a higher epoch, a reconfiguration of an older reign
// (the shadow in checkApplied), a committed record lost or replaced (the fakes' logs), confmasters that disagree,
// elections without end, and a group that is not whole again after the faults stop.
func TestSimulation(t *testing.T) {
	if *seedFlag != 0 {
		w, err := simulate(*seedFlag, true)
		t.Log(w.trace.String())
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	seeds := *seedsFlag
	if testing.Short() {
		seeds = min(seeds, 10)
	}
	elections, records, establishes, changes, recoveries, lost := 0, 0, 0, 0, 0, 0
	for seed := range seeds {
		w, err := simulate(uint64(seed+1), false)
		if err != nil {
			t.Errorf("seed %d: %v\nreplay: go test ./internal/failover -run TestSimulation -seed %d -v", seed+1, err, seed+1)
		}
		elections += len(w.elections)
		records += len(w.committed)
		for i := range w.results {
			if w.results[i].Applied && w.results[i].Entry != nil && w.results[i].Entry.Kind == EntryEstablished {
				establishes++
			}
			if cmd := &w.raft[i]; w.results[i].Applied {
				changes += fact(cmd.AdvanceChange != nil && cmd.AdvanceChange.Step == StepEnd)
				recoveries += fact(cmd.Recover != nil)
			}
		}
		lost += w.givenUp
	}
	t.Logf("%d seeds: %d elections, %d configurations established, %d records committed, %d changes of replicas carried out, %d forced recoveries, which lost %d records",
		seeds, elections, establishes, records, changes, recoveries, lost)
	if seeds >= 40 && (changes == 0 || recoveries == 0 || lost == 0) {
		t.Error("the seeds reach no change of replicas, no forced recovery, or none that loses anything")
	}
}

// The same seed must give the same run: nothing may depend on the order of a map or on memory addresses.
func TestSimulationIsDeterministic(t *testing.T) {
	for seed := range uint64(3) {
		first, _ := simulate(seed+1000, true)
		second, _ := simulate(seed+1000, true)
		if first.trace.String() != second.trace.String() {
			t.Fatalf("seed %d: two runs differ: %s", seed+1000, firstDifference(first.trace.String(), second.trace.String()))
		}
	}
}

func simulate(seed uint64, trace bool) (*world, error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	o := options{seed: seed, confmasters: 1 + 2*rng.IntN(3), nodes: 2 + rng.IntN(3), trace: trace,
		slow: []int{4, 10, 30}[rng.IntN(3)], lossy: []int{6, 20, 100}[rng.IntN(3)], eager: rng.IntN(2) == 0,
		driver: Options{DropTicks: 60 + rng.IntN(400), LowerTicks: 100 + rng.IntN(900)}}
	o.policy.Copies = 1 + rng.IntN(min(3, o.nodes))
	if rng.IntN(4) > 0 {
		o.policy.Copies = min(2, o.nodes)
	}
	o.policy.MinCopies = 1 + rng.IntN(o.policy.Copies)
	w := newWorld(o)
	w.writes = true
	w.lead(0)
	w.create(o.nodes)
	brutality := 1 + rng.IntN(4)
	changes := 0
	for range 4000 {
		if rng.IntN(60) < brutality {
			changes += w.disturb(rng)
		}
		w.run(1)
	}
	w.heal()
	healed := w.now
	w.forced(rng)
	for w.now < healed+9000 && w.failed == "" {
		w.run(10)
		if w.healthy() == "" {
			break
		}
	}
	w.check(w.healthy() == "", "not whole again: %s; %s", w.healthy(), w.cms[max(w.leader, 0)].driver.Report("g1").Detail)
	committed := len(w.committed)
	w.run(100)
	w.check(len(w.committed) > committed, "nothing commits after healing")
	bound := 3*(changes+2) + w.now/300 + 1
	w.check(len(w.elections) <= bound, "%d elections in %d ticks with %d leader changes, at most %d may be", len(w.elections), w.now, changes, bound)
	if w.failed != "" {
		return w, fmt.Errorf("%s", w.failed)
	}
	return w, nil
}

// disturb does one bad thing. It returns 1 if raft's leader, or a confmaster's memory, changed.
func (w *world) disturb(rng *rand.Rand) int {
	f := w.fakes[rng.IntN(len(w.fakes))]
	c := rng.IntN(len(w.cms))
	switch rng.IntN(18) {
	case 0, 1:
		if f.up {
			w.log("-- kill %s", f.node)
			w.kill(f)
		}
	case 2, 3, 4:
		if !f.up {
			w.log("-- restart %s", f.node)
			f.start()
		}
	case 5:
		if w.mayWipe(f) {
			w.log("-- wipe %s", f.node)
			w.kill(f)
			f.wipe()
			if rng.IntN(2) == 0 {
				f.start()
			}
		}
	case 6:
		if f.up {
			f.paused = !f.paused
			w.log("-- paused %s: %v", f.node, f.paused)
		}
	case 7:
		f.stuck = !f.stuck && rng.IntN(2) == 0
		w.log("-- stuck %s: %v", f.node, f.stuck)
	case 8:
		f.attached = !f.attached
		w.log("-- attached %s: %v", f.node, f.attached)
	case 9:
		names := make([]string, 0, len(w.fakes)+len(w.cms))
		for i := range w.fakes {
			names = append(names, string(w.fakes[i].node))
		}
		for i := range w.cms {
			names = append(names, w.cms[i].name())
		}
		cut := names[rng.IntN(len(names))] + "|" + names[rng.IntN(len(names))]
		w.log("-- cut %s", cut)
		w.cuts = append(w.cuts, cut)
	case 10, 11:
		w.cuts = nil
		w.log("-- no cuts")
	case 12:
		w.log("-- leader c%d", c)
		w.lead(c)
		return 1
	case 13:
		w.log("-- restart c%d", c)
		w.restartConfmaster(w.cms[c])
		return 1
	case 14:
		if w.leader >= 0 && w.group() != nil {
			to := smr.NodeID("")
			if rng.IntN(2) == 0 {
				to = f.node
			}
			w.log("-- switch-over to %q", to)
			w.request(&Request{Switchover: &Switchover{Group: "g1", To: to}})
		}
	case 15:
		if g := w.group(); w.leader >= 0 && g != nil {
			copies := 1 + rng.IntN(len(w.fakes))
			policy := Policy{Copies: max(copies, w.o.policy.MinCopies), MinCopies: w.o.policy.MinCopies}
			w.log("-- policy %+v", policy)
			w.request(&Request{SetPolicy: &SetPolicy{Group: "g1", Policy: policy}})
		}
	case 16:
		if g := w.group(); w.leader >= 0 && g != nil && g.Reign.Epoch != 0 {
			w.log("-- sever %s", g.Reign.Master)
			for _, other := range w.fakes {
				if other.node != g.Reign.Master {
					w.cuts = append(w.cuts, string(g.Reign.Master+"|"+other.node))
				}
			}
			return 1 // one more election may follow
		}
	case 17:
		if g := w.group(); w.leader >= 0 && g != nil {
			return w.change(rng, g)
		}
	}
	return 0
}

// mayWipe reports whether the loss of one more log is what two copies must survive: every member of the configurations that
// matter still has the log that it was recorded with, and holds are never fewer than two.
func (w *world) mayWipe(f *fake) bool {
	for _, cm := range w.cms {
		g := cm.state.Group("g1")
		if g == nil || cm.applied < len(w.raft) && cm.up {
			return false
		}
		if g.Epoch < 2 || w.o.policy.MinCopies < 2 {
			return false
		}
		for _, config := range []smr.Config{g.Established, g.Provisional} {
			for _, m := range config.Members {
				if w.fake(m.Node).self() != m {
					return false
				}
			}
		}
	}
	return f.up
}

// loseLeader has another confmaster lead raft some time after cm has gone, if it did.
func (w *world) loseLeader(cm *confmaster) {
	if w.leader < 0 || w.cms[w.leader] != cm {
		return
	}
	w.leader, w.term = -1, w.term+1
	for i, other := range w.cms {
		if other != cm || len(w.cms) == 1 {
			w.post(30+w.rng.IntN(100), func() {
				if w.leader < 0 && w.cms[i].up {
					w.lead(i)
				}
			})
		}
	}
}

// restartConfmaster ends a confmaster's process; it comes back from a snapshot and the rest of raft's log.
func (w *world) restartConfmaster(cm *confmaster) {
	w.loseLeader(cm)
	snapshot, err := DecodeState(cm.state.Encode())
	w.check(err == nil, "snapshot: %v", err)
	cm.leads = false
	if err != nil {
		return
	}
	cm.state = snapshot
	o := cm.driver.Options()
	o.Level = cm.level
	cm.driver = New(o, cm.state)
	cm.up, cm.began = true, w.now
	if w.endTooOld(cm); cm.up {
		w.applyAll(cm)
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.log("-- healed")
	w.o.calm = true
	w.cuts = nil
	for _, f := range w.fakes {
		if !f.up {
			f.start()
		}
		f.paused, f.stuck, f.attached = false, false, true
	}
	if w.leader < 0 {
		w.lead(0)
	}
	if w.group() == nil {
		w.create(w.o.nodes) // the request was lost; its operator asks again
	}
}

// After a crash of the master, raft's leader changes right after the n-th thing that happens (a command applied, a call
// answered), for every n. Whatever was half done, the next leader must finish: the group is whole again with one new
// master, and all checks of the simulation hold.
func TestNextLeaderContinuesAfterEveryStep(t *testing.T) {
	for _, scenario := range []struct {
		name string
		do   func(w *world)
	}{
		{"create", func(w *world) { w.create(3) }},
		{"fail-over", func(w *world) { w.kill(w.fake("n1")) }},
		{"wipe", func(w *world) { w.kill(w.fake("n1")); w.fake("n1").wipe(); w.fake("n1").start() }},
		{"switch-over", func(w *world) {
			w.fake("n1").append()
			w.request(&Request{Switchover: &Switchover{Group: "g1", To: "n3"}})
		}},
		{"replace", func(w *world) {
			if w.find("n4") == nil {
				w.addNode("n4")
			}
			w.request(&Request{Change: &ChangeRequest{Group: "g1", Begin: &BeginChange{Kind: ChangeReplace, Node: "n1", By: replicaOf("n4"), Switchover: true}}})
		}},
		{"drain", func(w *world) {
			w.request(&Request{Change: &ChangeRequest{Group: "g1", Begin: &BeginChange{Kind: ChangeDrain, Node: "n1", Switchover: true}}})
		}},
		{"recover", func(w *world) {
			if w.fake("n1").up {
				w.kill(w.fake("n1"))
				w.kill(w.fake("n2"))
				w.run(150)
			}
			w.request(&Request{Change: &ChangeRequest{Group: "g1", Recover: &RecoverRequest{Confirm: "g1", AcceptLoss: true}}})
		}},
		{"policy", func(w *world) {
			w.request(&Request{SetPolicy: &SetPolicy{Group: "g1", Policy: Policy{Copies: 3, MinCopies: 2}}})
		}},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			for n := 1; n < 60; n++ {
				w := newWorld(options{nodes: 3, confmasters: 3, policy: Policy{Copies: 2, MinCopies: 2}, calm: true, trace: true,
					driver: Options{DropTicks: 100}})
				w.writes = true
				w.lead(0)
				if scenario.name != "create" {
					w.create(3)
					w.run(60)
				}
				changed := false
				before := w.events
				w.onEvent = func(events int) {
					if events == before+n && !changed {
						changed = true
						w.post(0, func() { w.lead(1) })
					}
				}
				scenario.do(w)
				w.run(400)
				if !changed {
					break
				}
				if scenario.name == "recover" {
					if len(w.group().Recoveries) == 0 {
						scenario.do(w) // the request was lost with its leader; the operator asks again
						w.run(400)
					}
					w.check(len(w.group().Recoveries) == 1, "%d recoveries", len(w.group().Recoveries))
					w.fake("n1").wipe()
					w.fake("n2").wipe()
					w.fake("n2").start()
				}
				if !w.fake("n1").up {
					w.fake("n1").start()
				}
				w.run(1200)
				if g := w.group(); scenario.name == "replace" && g.Version > 1 {
					w.check(g.Replica("n1") == nil && g.Change.Kind == "", "n1 was not replaced: %+v", g.Change)
				}
				if scenario.name == "create" && w.group() == nil {
					continue // the request was lost with its leader; the operator was told
				}
				committed := len(w.committed)
				w.run(100)
				w.check(w.healthy() == "", "%s", w.healthy())
				w.check(len(w.committed) > committed, "nothing commits")
				if w.failed != "" {
					t.Fatalf("leader change after event %d: %s\n%s", n, w.failed, w.trace.String())
				}
			}
		})
	}
}

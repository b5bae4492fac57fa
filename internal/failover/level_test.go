package failover

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"lockstep/smr"
)

// endTooOld ends a confmaster that cannot the level of its State, as the shell does.
func (w *world) endTooOld(cm *confmaster) {
	if cm.state.FeatureLevel() <= max(1, cm.level) {
		return
	}
	w.log("c%d ends: it can level %d, the cluster's is %d", cm.id, max(1, cm.level), cm.state.FeatureLevel())
	cm.up, cm.leads = false, false
	w.loseLeader(cm)
}

// settledLife is how many ticks a process must have run for the leader to have learned what it can, whatever messages did.
const settledLife = 900

// raised is called when a raise was applied first.
func (w *world) raised(c *RaiseLevel) {
	w.level = c.To
	g := w.group()
	for _, f := range w.fakes {
		if g == nil || g.Replica(f.node) == nil || !f.up || w.now-f.began < settledLife {
			continue
		}
		w.check(max(1, f.level) >= c.To, "level %d was asked of %s, which can %d and has run for %d ticks", c.To, f.node, f.level, w.now-f.began)
		w.check(max(1, f.kvLevel) >= c.To || w.now-f.installed < settledLife, "level %d was asked of the KV node of %s, which can %d", c.To, f.node, f.kvLevel)
	}
	for _, cm := range w.cms {
		w.check(max(1, cm.level) >= c.To || !cm.up || w.now-cm.began < settledLife, "level %d was asked of c%d, which can %d", c.To, cm.id, cm.level)
	}
}

// install puts a program of that level in place of a process's and starts it again: nN, kvN or cN.
func (w *world) install(process string, level int) {
	number, _ := strconv.Atoi(strings.TrimLeft(process, "nkvc"))
	switch {
	case strings.HasPrefix(process, "c"):
		cm := w.cms[number-1]
		cm.level = level
		w.restartConfmaster(cm)
	case strings.HasPrefix(process, "kv"):
		f := w.fake(smr.NodeID(fmt.Sprintf("n%d", number)))
		f.kvLevel, f.installed = level, w.now
	default:
		f := w.fake(smr.NodeID(process))
		if f.up {
			w.kill(f)
		}
		f.level = level
		f.start()
	}
}

// performLevel carries out: install PROCESS LEVEL; raise [LEVEL [SEEN]] ["dry"].
func (w *world) performLevel(words []string) {
	number := func(i int) int {
		if i >= len(words) {
			return 0
		}
		n, _ := strconv.Atoi(words[i])
		return n
	}
	if words[0] == "install" {
		w.install(words[1], number(2))
		return
	}
	w.request(&Request{Raise: &RaiseRequest{To: number(1), Seen: number(2), By: "ann", DryRun: words[len(words)-1] == "dry"}})
}

// What could go wrong: the level is lowered or raised twice over, by somebody who saw another one; a refused raise changes something; or
// its entry, event or encoding breaks what knows groups only.
func TestLevelIsOnlyRaised(t *testing.T) {
	s := testState(t)
	raise := func(from, to int) Command {
		return Command{Confmaster: 1, RaiseLevel: &RaiseLevel{From: from, To: to, By: "ann"}}
	}
	if s.FeatureLevel() != 1 || strings.Contains(string(s.Encode()), "Level") {
		t.Fatalf("a new state is of level %d: %s", s.FeatureLevel(), s.Encode())
	}
	mustNot(t, s, raise(1, 1), "must hold")
	mustNot(t, s, raise(0, 2), "must hold")
	mustNot(t, s, raise(1, smr.MaxLevel+1), "must hold")
	mustNot(t, s, raise(2, 3), "it is 1, you saw 2")
	result := must(t, s, raise(1, 2))
	if s.FeatureLevel() != 2 || result.Group != "" || len(result.Events) != 1 || result.Events[0].Name != EventLevel ||
		result.Entry == nil || result.Entry.Kind != EntryLevel || !strings.Contains(result.Entry.Reason, "level 2 in place of 1") || !strings.Contains(result.Entry.Reason, "ann") {
		t.Fatalf("level %d: %+v", s.FeatureLevel(), result)
	}
	again := s.Apply(&Command{RaiseLevel: &RaiseLevel{From: 1, To: 3}})
	if again.Applied || !again.Stale {
		t.Errorf("raised by somebody who saw level 1: %+v", again)
	}
	must(t, s, raise(2, 9))
	decoded, err := DecodeState(s.Encode())
	if err != nil || decoded.FeatureLevel() != 9 {
		t.Errorf("%v, %v", decoded, err)
	}
}

// These bytes are read by programs of every level, for ever: who is too old must understand that it is. What could go wrong: somebody
// changes them, and an old configuration master meets a level as damage, or does not meet it at all.
func TestWhatTellsALevelNeverChanges(t *testing.T) {
	command := Command{ID: 3, Confmaster: 2, StampMillis: 5, RaiseLevel: &RaiseLevel{From: 1, To: 2, By: "operator/ann"}}
	const want = `{"Version":1,"ID":3,"Confmaster":2,"StampMillis":5,"RaiseLevel":{"From":1,"To":2,"By":"operator/ann"}}`
	if got := string(command.Encode()); got != want {
		t.Errorf("a raise is\n%s, not\n%s", got, want)
	}
	if decoded, err := DecodeCommand([]byte(want)); err != nil || decoded.RaiseLevel == nil || decoded.RaiseLevel.To != 2 {
		t.Errorf("%+v, %v", decoded, err)
	}
	for text, level := range map[string]int{
		`{"Version":1,"Cluster":"c"}`: 1, `{"Version":1,"Level":0}`: 1, `{"Version":1,"Level":1}`: 1,
		`{"Version":7,"Cluster":["another","form"],"Unheard":{"of":[1]},"Level":4}`: 4,
	} {
		if got, err := StateLevel([]byte(text)); err != nil || got != level {
			t.Errorf("level of %s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", `{"Level":"two"}`, `[]`} {
		if got, err := StateLevel([]byte(text)); err == nil {
			t.Errorf("level of %q: %d", text, got)
		}
	}
	if _, err := DecodeState([]byte(`{"Version":1,"NextEntry":1,"NextEvent":1,"Level":256}`)); err == nil {
		t.Error("a state of level 256 was accepted")
	}
}

// Programs are exchanged, forwards and backwards, levels raised at any time, beside the faults of TestSimulation. Wrong would be: a
// level that is asked of a process that has said for long that it cannot it; a master that knows of a level and counts a slave
// that cannot it; a process that is too old and goes on; or a group that is not whole, and of the new level, when all are new.
func TestLevelsInSimulation(t *testing.T) {
	seeds := 16
	if testing.Short() {
		seeds = 4
	}
	early, ended, refused := 0, 0, 0
	for seed := range uint64(seeds) {
		w, before := simulateLevels(seed + 1)
		if w.failed != "" {
			t.Fatalf("seed %d: %s\n%s", seed+1, w.failed, w.trace.String()[max(0, w.trace.Len()-6000):])
		}
		early += before
		ended += strings.Count(w.trace.String(), " ends: it can level")
		refused += strings.Count(w.trace.String(), "cannot become")
	}
	t.Logf("%d seeds: raised %d times amid the faults, refused %d times, %d configuration masters too old", seeds, early, refused, ended)
	if !testing.Short() && (early == 0 || refused == 0 || ended == 0) {
		t.Error("the seeds reach no raise, no refusal, or nobody that is too old")
	}
}

func simulateLevels(seed uint64) (w *world, raisedEarly int) {
	rng := rand.New(rand.NewPCG(seed, 3))
	w = newWorld(options{seed: seed, confmasters: 3, nodes: 3, policy: Policy{Copies: 2, MinCopies: 1 + rng.IntN(2)}, trace: true,
		slow: 30, lossy: 100, driver: Options{DropTicks: 60 + rng.IntN(400), LowerTicks: 100 + rng.IntN(900)}})
	w.writes = true
	w.lead(0)
	w.create(3)
	processes := []string{"n1", "n2", "n3", "kv1", "kv2", "kv3", "c1", "c2", "c3"}
	faults := rng.IntN(3)
	upgrading := 0
	for range 3000 {
		if rng.IntN(60) < faults {
			w.disturb(rng)
		}
		switch rng.IntN(120) {
		case 0: // an upgrade, one process after the other, all of them the more often the later
			w.install(processes[upgrading%len(processes)], 2)
			upgrading++
		case 1:
			if rng.IntN(8) == 0 {
				w.install(processes[rng.IntN(len(processes))], 1)
			}
		case 2:
			if w.leader >= 0 {
				w.request(&Request{Raise: &RaiseRequest{To: 2 * rng.IntN(2), By: "ann"}})
			}
		}
		w.run(1)
	}
	raisedEarly = fact(w.level == 2)
	w.heal()
	w.run(400)
	for _, f := range w.fakes {
		w.check(!f.up || max(1, f.level) >= w.level, "%s runs and can %d; the cluster's level is %d", f.node, f.level, w.level)
	}
	for _, f := range w.fakes[3:] { // added meanwhile
		processes = append(processes, string(f.node), "kv"+strings.TrimPrefix(string(f.node), "n"))
	}
	for _, process := range processes {
		w.install(process, 2)
		w.run(200)
	}
	for range 20 {
		if w.leader < 0 {
			w.lead(0)
		}
		w.request(&Request{Raise: &RaiseRequest{To: 2}})
		w.run(200)
		if w.level == 2 && w.healthy() == "" {
			break
		}
	}
	w.check(w.level == 2 && w.group().Established.Epoch > 1, "the level is %d when all can 2", w.level)
	w.run(2000)
	w.check(w.healthy() == "", "not whole again: %s", w.healthy())
	committed := len(w.committed)
	w.run(100)
	w.check(len(w.committed) > committed, "nothing commits at level 2")
	return w, raisedEarly
}

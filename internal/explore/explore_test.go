package explore

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

var (
	full    = flag.Bool("explore.full", false, "search the large scopes too: minutes each")
	seconds = flag.Int("explore.seconds", 300, "give a large scope up after so many seconds, and a walk; 0: never")
	only    = flag.String("explore.only", "", "of the large scopes, only those whose names contain this")
)

// What could go wrong: a rule of the core or of Apply that permits the loss of committed bytes in some order of events that
// nobody thought of. Small groups are searched completely.
func TestScopesKeepThePromise(t *testing.T) {
	t.Logf("%-72s %12s %12s %8s  %s", "scope", "states", "transitions", "seconds", "search")
	if *full {
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(6 << 30))
		for _, scope := range Full() {
			if strings.Contains(scope.Name, *only) {
				searchOne(t, scope, Limits{Seconds: *seconds, MiB: 3 << 10})
			}
		}
		return
	}
	for _, scope := range Small() {
		if r := searchOne(t, scope, Limits{}); !r.Complete || r.States < 1000 {
			t.Errorf("%s: %d states, complete %v", scope.Name, r.States, r.Complete)
		}
	}
}

func searchOne(t *testing.T, scope Scope, limits Limits) Result {
	t.Helper()
	r, err := Search(scope, limits)
	if err != nil {
		t.Fatal(err)
	}
	how := fmt.Sprintf("to depth %d", r.Depth)
	if r.Complete {
		how = fmt.Sprintf("complete, depth %d", r.Depth)
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	t.Logf("%-72s %12d %12d %8.1f  %s (core steps %d, %d MiB)", scope.Name, r.States, r.Transitions, r.Seconds, how, r.CoreSteps, memory.Sys>>20)
	if r.Fault != "" {
		t.Errorf("%s: %s\n%s", scope.Name, r.Fault, strings.Join(r.Trace, "\n"))
	}
	return r
}

// What could go wrong: the shortcuts of the package comment hide a state that breaks a promise. One small scope is searched with
// none of them: each step that they merge is a step of its own.
func TestWithoutShortcutsThePromiseIsKeptToo(t *testing.T) {
	scope := three("2 epochs, everything slow", func(s *Scope) {
		s.Epochs, s.Frames, s.Crashes, s.Cuts = 2, 2, 1, 1
		s.SlowTold, s.SlowHello, s.SlowSlaves, s.SlowDisk, s.SlowMaster, s.SlowFollow, s.SlaveCommit = true, true, true, true, true, true, true
	})
	searchOne(t, scope, Limits{States: 400_000})
}

// What could go wrong: an action of the adversary that never does anything, so that a search which is called complete never
// tried it. All kinds together must occur in the small scopes and the walks.
func TestEveryKindOfActionOccurs(t *testing.T) {
	var taken [actKinds]int
	for _, scope := range Large() {
		done, err := Walk(scope, 1, 100, 300)
		if err != nil {
			t.Fatal(err)
		}
		if done.Fault != "" {
			t.Errorf("%s: seed %d: %s\n%s", scope.Name, done.Seed, done.Fault, strings.Join(done.Trace, "\n"))
		}
		if done.Commits == 0 || done.Epochs < done.Walks {
			t.Errorf("%s: %d walks led %d epochs, and %d committed anything", scope.Name, done.Walks, done.Epochs, done.Commits)
		}
		for kind, count := range done.Taken {
			taken[kind] += count
		}
		t.Logf("%-28s %d walks, %d steps, %.1f s", scope.Name, done.Walks, done.Steps, done.Seconds)
	}
	for kind, count := range taken {
		if count == 0 {
			t.Errorf("no action of kind %d was ever taken", kind)
		}
	}
}

// What could go wrong: two searches of one scope differ, and no trace can be trusted.
func TestSearchesAreEqual(t *testing.T) {
	scope := three("", func(s *Scope) { s.Epochs, s.Frames, s.Crashes = 2, 3, 1 })
	a, err := Search(scope, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Search(scope, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if a.States != b.States || a.Transitions != b.Transitions || a.Taken != b.Taken || a.Depth != b.Depth {
		t.Fatalf("two searches differ:\n%+v\n%+v", a, b)
	}
}

// What could go wrong: a part of the world is lost when it is stored, or two worlds that behave differently have one
// fingerprint. Random worlds are stored and read again; a world with its replicas renamed must have the same fingerprint.
func TestWorldsAreStoredWhole(t *testing.T) {
	for _, scope := range Large() {
		x, err := newExplorer(scope)
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(40) {
			for _, w := range x.wander(seed, 80) {
				got, rest := x.cutWorld(x.appendWorld(nil, &w))
				if got != w || len(rest) != 0 {
					t.Fatalf("%s: stored\n%+v\nread\n%+v", scope.Name, w, got)
				}
			}
		}
	}
}

// wander returns the worlds of a random walk.
func (x *explorer) wander(seed uint64, steps int) []world {
	w := x.start()
	all := []world{w}
	for k := range steps {
		actions := x.actions(&w, nil)
		a := actions[(seed*2654435761+uint64(k)*40503)%uint64(len(actions))]
		after := w
		x.fault = ""
		if x.apply(&after, a) {
			w = after
			all = append(all, w)
		}
	}
	return all
}

// What could go wrong: states are taken for one that are not, or are searched six times. The same step of either slave gives
// one fingerprint; a different step gives another.
func TestNamesDoNotShowInFingerprints(t *testing.T) {
	x, err := newExplorer(three("", func(s *Scope) { s.Crashes, s.Reconfigurations, s.SlowHello, s.SlaveCommit = 1, 1, true, true }))
	if err != nil {
		t.Fatal(err)
	}
	steps := func(first, second uint8) uint64 {
		w := x.start()
		for _, a := range []action{{kind: actPropose}, {kind: actReceive, node: first}, {kind: actElect}, {kind: actFence, node: first, epoch: 3},
			{kind: actFence, node: second, epoch: 3}, {kind: actChoose, node: first, epoch: 3, members: pair(first, second)},
			{kind: actLead, node: first, epoch: 3}, {kind: actFollow, node: second, epoch: 3}} {
			if !x.apply(&w, a) {
				t.Fatalf("%s does nothing", x.describe(&w, a))
			}
		}
		return x.fingerprint(&w)
	}
	if steps(1, 2) != steps(2, 1) {
		t.Error("slaves that change their parts give another state")
	}
	w := x.start()
	before := x.fingerprint(&w)
	for _, a := range []action{{kind: actPropose}, {kind: actElect}, {kind: actCrash}, {kind: actCrash, node: 1}, {kind: actFollow, node: 1, epoch: 2}} {
		after := w
		if x.apply(&after, a) && x.fingerprint(&after) == before {
			t.Errorf("%s does not show", x.describe(&w, a))
		}
	}
}

func pair(i, j uint8) (members [maxNodes]uint8) {
	members[i], members[j] = 1, 1
	return members
}

// What could go wrong: checks that cannot fail. Each is shown a world in which a promise is broken.
func TestChecksSeeBrokenPromises(t *testing.T) {
	x, err := newExplorer(three("", func(s *Scope) {}))
	if err != nil {
		t.Fatal(err)
	}
	w := x.start()
	must := func(w *world, a action) {
		if !x.apply(w, a) {
			t.Fatalf("%s does nothing", x.describe(w, a))
		}
	}
	lost := w
	must(&lost, action{kind: actPropose})
	lost.truth = x.node(&lost, 0).log // as if it were committed, though no slave has it
	if fault := x.check(&lost); !strings.Contains(fault, "would lose") {
		t.Errorf("a commit on one replica of three: %q", fault)
	}
	behind := w
	behind.truth = 0 // as if nothing had been committed
	if fault := x.check(&behind); !strings.Contains(fault, "only 0 ever was") {
		t.Errorf("a replica that has committed more than anybody: %q", fault)
	}
	twice := w
	for _, a := range []action{{kind: actElect}, {kind: actFence, node: 1, epoch: 3}, {kind: actFence, node: 2, epoch: 3},
		{kind: actChoose, node: 1, epoch: 3, members: pair(1, 2)}} {
		must(&twice, a)
	}
	twice.plan(3).led = true
	if x.apply(&twice, action{kind: actLead, node: 1, epoch: 3}); !strings.Contains(x.fault, "two writers") {
		t.Errorf("an epoch that is led again: %q", x.fault)
	}
}

// What could go wrong: a scope that cannot be searched is searched.
func TestImpossibleScopesAreRefused(t *testing.T) {
	for _, scope := range []Scope{
		{}, {Replicas: 6, Members: 6, Copies: 2, MinCopies: 1, Epochs: 2, Frames: 2}, {Replicas: 3, Members: 3, Copies: 4, MinCopies: 1, Epochs: 2, Frames: 2},
		{Replicas: 3, Members: 3, Copies: 2, MinCopies: 1, Epochs: 40, Frames: 2},
	} {
		if _, err := Search(scope, Limits{}); err == nil {
			t.Errorf("%+v is searched", scope)
		}
		if _, err := Walk(scope, 1, 1, 1); err == nil {
			t.Errorf("%+v is walked", scope)
		}
	}
}

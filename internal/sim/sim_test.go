package sim

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	from  = flag.Uint64("sim.from", 1, "first seed of TestSchedules")
	count = flag.Uint64("sim.seeds", 600, "how many seeds TestSchedules runs")
)

// What could go wrong: an error that was found once comes back. Every schedule that ever broke a promise runs first.
func TestRegressions(t *testing.T) {
	all, err := ReadRegressions("testdata/regressions")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if result := Run(r.Config()); result.Violation != nil {
			c := r.Config()
			c.TraceLines = 60
			t.Errorf("this was: %s\n%s", r.Note, Run(c).Explain("under test"))
		}
	}
}

// What could go wrong: anything. A few hundred schedules, one in ten with three members of raft.
func TestSchedules(t *testing.T) {
	if raceEnabled {
		*count /= 6
	}
	campaign := Campaign{From: *from, Count: *count, Workers: 2, FullShare: 0.1, TwiceEvery: 20, Commit: "under test"}
	outcome := campaign.Run()
	if outcome.Failed != nil {
		t.Fatal(outcome.Failed.Explain("under test"))
	}
	t.Log(outcome.Summary())
	if outcome.Stats.Elections < *count || outcome.Stats.Acknowledged < 20**count || outcome.Stats.Crashes < *count/2 {
		t.Fatalf("the schedules are too calm to show anything: %+v", outcome.Stats)
	}
}

// What could go wrong: something that the seed does not decide (a clock, the order of a map, a goroutine, an address, the
// race detector) takes part, and a failure cannot be shown again. Some seeds run twice here, in both modes, and once more in
// another process, which is built without the race detector: all must give the same events.
func TestSeedDecidesEverything(t *testing.T) {
	seeds := uint64(40)
	if raceEnabled {
		seeds = 12
	}
	elsewhere := hashesElsewhere(t, seeds)
	for seed := uint64(1); seed <= seeds; seed++ {
		line := itoa(seed)
		for _, full := range []bool{false, true} {
			first, second := Run(Config{Seed: seed, Full: full}), Run(Config{Seed: seed, Full: full, TraceLines: 10})
			if first.Hash != second.Hash || first.Stats != second.Stats {
				t.Fatalf("seed %d, full %v: hashes %x and %x\n%+v\n%+v", seed, full, first.Hash, second.Hash, first.Stats, second.Stats)
			}
			line += fmt.Sprintf(" %016x", first.Hash)
		}
		if elsewhere[seed-1] != line {
			t.Fatalf("seed and hashes, fast and full: %s here, %s in another process", line, elsewhere[seed-1])
		}
	}
}

// hashesElsewhere returns the lines that the command prints for the first seeds.
func hashesElsewhere(t *testing.T, seeds uint64) []string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "smrsim")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "lockstep/cmd/smrsim").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(program, "-hashes", "-from", "1", "-count", itoa(seeds)).Output()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || uint64(len(lines)) != seeds {
		t.Fatalf("%v: %q", err, out)
	}
	return lines
}

// What could go wrong: a kind of fault is never drawn, or has no probe of its own.
func TestEveryKindOfFaultIsDrawn(t *testing.T) {
	if len(faultKinds) > maxFaultKinds {
		t.Fatalf("%d kinds of faults, there is room for %d", len(faultKinds), maxFaultKinds)
	}
	drawn := make(map[FaultKind]int)
	for seed := range uint64(2000) {
		o := drawOptions(seed, false)
		for _, f := range drawFaults(&o, 1) {
			drawn[f.Kind]++
		}
	}
	for _, kind := range faultKinds {
		if drawn[kind] == 0 {
			t.Errorf("%s is never drawn", kind)
		}
	}
	if len(drawn) != len(faultKinds) {
		t.Errorf("%d kinds are drawn, %d known", len(drawn), len(faultKinds))
	}
}

// What could go wrong: the checker sleeps. Each of these schedules is made to break one promise by hand, behind the back of
// the cores.
func TestCheckerSeesBrokenPromises(t *testing.T) {
	breaks := map[string]func(w *world){
		"committed bytes differ": func(w *world) {
			r := w.leading()
			frames := append([]byte(nil), w.check.committed...)
			frames[len(frames)-1] ^= 1
			w.check.agree(w.check.lineage, r.h, frames, 0, w.check.end())
		},
		"two writers in one epoch": func(w *world) { w.check.writers[w.leading().status.Epoch+1]++; w.elect() },
		"safe went back":           func(w *world) { r := w.leading(); s := r.status; s.Safe += 1 << 40; r.status = s; r.publish() },
		"a request executes twice": func(w *world) { w.check.sessions, _, _ = decodeEmptySessions(); w.check.commit(w.firstRequests()) },
		"durable bytes are lost": func(w *world) {
			h := w.leading().h
			h.crashReplicator()
			h.drive.durable += 1 << 20
			h.startReplicator()
		},
		"a promise is lost":            func(w *world) { h := w.leading().h; h.crashReplicator(); h.drive.promised += 1000; h.startReplicator() },
		"nodes give different replies": func(w *world) { clear(w.check.results); w.restartAllKV() },
		"states differ": func(w *world) {
			for lsn, digest := range w.check.digests {
				digest[0] ^= 1
				w.check.digests[lsn] = digest
			}
			w.restartAllKV()
		},
		"a linearizable read misses what was answered before": func(w *world) { w.o.ReadShare = 1; w.check.floors[0] += 1 << 20 },
		"a refused request executes": func(w *world) {
			for _, op := range w.work.all {
				if op.outcome == outcomePending && !op.executed && !op.reading {
					op.outcome = outcomeRefused
				}
			}
		},
	}
	for kind, breakIt := range breaks {
		if got := Broken(3, breakIt); got == nil || got.Kind != kind {
			t.Errorf("%s: found %v", kind, got)
		}
	}
}

// What could go wrong: a list of faults cannot be made shorter, or comes back from a file as another schedule.
func TestFailuresAreShrunkAndKept(t *testing.T) {
	faults := drawFaults(&Options{Seed: 5, Faults: 20, Replicas: 3, FaultMillis: 2000, Copies: 2}, 1)
	failed := &Result{Seed: 5, Options: drawOptions(5, false), Faults: faults, Violation: &Violation{Kind: "none"}}
	if got := Shrink(failed); len(got.Faults) != len(faults) {
		t.Fatalf("%d faults are left of a schedule that breaks nothing without them", len(got.Faults))
	}
	dir := t.TempDir()
	name, err := WriteRegression(dir, failed)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadRegression(name)
	if err != nil || len(again.Faults) != len(faults) || again.Faults[7] != faults[7] || again.Seed != 5 {
		t.Fatalf("%+v, %v", again, err)
	}
	first, second := Run(Config{Seed: 5, Faults: faults}), Run(again.Config())
	if first.Hash != second.Hash {
		t.Fatal("a schedule from a file is another one")
	}
	if err := os.WriteFile(filepath.Join(dir, "zz.json"), []byte(`{"Seed": 1, "Unknown": 2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRegressions(dir); err == nil {
		t.Fatal("a file that means something else was read")
	}
}

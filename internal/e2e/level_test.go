package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/internal/local"
)

// exchange stops processes and starts them with other programs.
func (w *world) exchange(t *testing.T, programs string, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := w.StopProcess(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		if _, err := w.StartProcess(name, programs); err != nil {
			t.Fatal(err)
		}
	}
}

// tooOld starts a process with an older program; it must end with exit code 2 and say why. Then it gets the newer one again.
func (w *world) tooOld(t *testing.T, name, newer string) {
	t.Helper()
	if w.Pid(name) != 0 {
		if _, err := w.StopProcess(name); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = w.StartProcess(name, binaries) // an early end is what is wanted
	eventually(t, name+" ends", func() error {
		if how := w.HowEnded(name); how != "exit status 2" {
			return fmt.Errorf("it is %q, pid %d\n%s", how, w.Pid(name), w.Tail(name, 5))
		}
		return nil
	})
	for _, part := range []string{"too old for the cluster", "level is 2", "1 at most"} {
		if tail := w.Tail(name, 3); !strings.Contains(tail, part) {
			t.Errorf("%s does not say %q:\n%s", name, part, tail)
		}
	}
	if _, err := w.StartProcess(name, newer); err != nil {
		t.Fatal(err)
	}
}

// A cluster is upgraded process by process while clients write: programs that support level 2 beside those that support 1. What could go
// wrong: mixed versions do not work together, or an upgrade cannot be taken back; the level is raised while somebody is old, or not when nobody
// is; a client sees an error, or a write is lost; an old program of any kind is let in afterwards, or does not end for good; or the group
// is harmed by it.
func TestRollingUpgradeRaisesTheLevel(t *testing.T) {
	t.Parallel()
	newer := filepath.Join(temporary(t), "bin")
	flags := append([]string{"-ldflags", "-X lockstep/internal/level.highest=2"}, raceFlags...)
	if err := local.Build(context.Background(), "../..", newer, flags...); err != nil {
		t.Fatal(err)
	}
	w := start(t, local.Options{}, map[local.Kind][]string{local.KindKVNode: {"--write-timeout", "60s", "--refuse-after", "60s"}})
	last, _ := w.master(t)
	slaves := w.others(last)
	group := w.Plan.Group
	upgrade := func(node, programs string) {
		t.Helper()
		w.exchange(t, programs, local.ReplicatorOf(node), local.KVNodeOf(node))
		w.healthy(t)
	}
	first := count(w.addr(last), "first")
	upgrade(slaves[0], newer)
	w.refused(t, fmt.Sprintf("replicator of %s/%s supports level 1 at most", group, slaves[1]), "level", "raise", "2", "--yes")
	upgrade(slaves[0], binaries) // taken back
	upgrade(slaves[0], newer)
	upgrade(slaves[1], newer)
	for _, c := range w.Plan.Confmasters {
		w.exchange(t, newer, c.Name())
		w.healthy(t)
	}
	w.refused(t, fmt.Sprintf("replicator of %s/%s supports level 1 at most", group, last), "level", "raise", "--yes")
	counted := map[string]int64{"first": first.end(t)}
	second := count(w.addr(slaves[0]), "second")
	w.operate(t, "switchover", group, "--to", slaves[1])
	upgrade(last, newer)

	if found := w.operate(t, "doctor", "--only", "level"); !strings.Contains(found, "every process supports 2") {
		t.Errorf("doctor: %s", found)
	}
	eventually(t, "the level is raised", func() error {
		stdout, stderr, code := smrctl(t, w.Dir, "level", "raise", "2", "--yes", "--dir", w.Dir)
		if code != 0 || !strings.Contains(stdout, "feature level 2 in place of 1") {
			return fmt.Errorf("exit code %d\n%s%s", code, stdout, stderr)
		}
		return nil
	})
	w.refused(t, "never lowered", "level", "raise", "1", "--yes")
	for _, node := range w.others() {
		eventually(t, node+" knows", func() error {
			if info := mustDial(t, w.addr(node)).must(t, "INFO", "smr").Text; !strings.Contains(info, "smr_feature_level:2\r\n") {
				return fmt.Errorf("%s", info)
			}
			return nil
		})
	}
	if shown := w.operate(t, "status", "-o", "wide"); !strings.Contains(shown, "Feature level 2") {
		t.Errorf("status: %s", shown)
	}

	w.tooOld(t, local.KVNodeOf(last), newer)
	w.healthy(t)
	w.tooOld(t, local.ReplicatorOf(last), newer) // its directory says so
	w.healthy(t)
	if _, err := w.StopProcess(local.ReplicatorOf(last)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.ReplicaDir(last), "level")); err != nil {
		t.Fatal(err)
	}
	w.tooOld(t, local.ReplicatorOf(last), newer) // the configuration masters say so
	w.healthy(t)
	w.tooOld(t, w.Plan.Confmasters[0].Name(), newer)
	w.healthy(t)
	counted["second"] = second.end(t)
	for key, want := range counted {
		if got := mustDial(t, w.addr(last)).must(t, "GET", key).Text; got != fmt.Sprint(want) || want == 0 {
			t.Errorf("%s is %s, %d were acknowledged", key, got, want)
		}
	}
}

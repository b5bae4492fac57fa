package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"lockstep/internal/local"
)

// fault is one way to take processes away while clients write.
type fault struct {
	name string
	// choose returns which processes are killed at once, given the master and another replica.
	choose func(w *world, master, slave string) (processes []string, victim string)
	moves  bool // mastership must pass to another node
}

var faults = []fault{
	{"replicator and KV node of the master", func(_ *world, master, _ string) ([]string, string) {
		return []string{local.ReplicatorOf(master), local.KVNodeOf(master)}, master
	}, true},
	{"replicator of the master", func(_ *world, master, _ string) ([]string, string) {
		return []string{local.ReplicatorOf(master)}, master
	}, true},
	{"KV node of the master", func(_ *world, master, _ string) ([]string, string) {
		return []string{local.KVNodeOf(master)}, master
	}, true},
	{"replicator and KV node of a slave", func(_ *world, _, slave string) ([]string, string) {
		return []string{local.ReplicatorOf(slave), local.KVNodeOf(slave)}, slave
	}, false},
	{"replicator of a slave", func(_ *world, _, slave string) ([]string, string) {
		return []string{local.ReplicatorOf(slave)}, slave
	}, false},
	{"KV node of a slave", func(_ *world, _, slave string) ([]string, string) {
		return []string{local.KVNodeOf(slave)}, slave
	}, false},
	{"leader of the configuration masters", func(w *world, _, _ string) ([]string, string) {
		return []string{w.leader()}, ""
	}, false},
	{"leader of the configuration masters and master at once", func(w *world, master, _ string) ([]string, string) {
		return []string{w.leader(), local.ReplicatorOf(master), local.KVNodeOf(master)}, master
	}, true},
}

// What could go wrong: an acknowledged write is lost or executed twice, a client of a surviving node sees an error, or
// nobody takes over. Writers run on every node through each fault and the return of what was killed; the lists and
// counters they leave behind show it.
func TestKillWhileClientsWrite(t *testing.T) {
	w := start(t, local.Options{}, nil)
	chosen := faults
	if testing.Short() {
		chosen = faults[:1]
	}
	for _, f := range chosen {
		ok := t.Run(f.name, func(t *testing.T) { w.endure(t, f) })
		if !ok {
			return // what comes next would only show the same again
		}
	}
}

// leader returns the process name of the configuration masters' leader, c1 if nobody says.
func (w *world) leader() string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, err := w.admin.Status(ctx)
	if err == nil {
		for _, c := range status.GetConfmasters() {
			if c.GetLeader() {
				return fmt.Sprintf("c%d", c.GetId())
			}
		}
	}
	return "c1"
}

// endure puts a load on the cluster, does the fault, heals it, and judges.
func (w *world) endure(t *testing.T, f fault) {
	w.healthy(t)
	master, epoch := w.master(t)
	processes, victim := f.choose(w, master, w.others(master)[0])
	var victims []string
	if victim != "" {
		victims = []string{victim}
	}
	l := w.startLoad(t, loadOptions{victims: victims})
	w.kill(t, processes...)
	survivors := w.others(victims...)
	l.progress(t, survivors...)
	if f.moves {
		t.Logf("mastership passed from %s to %s", master, w.masterIsNot(t, master))
	} else if now, _ := w.master(t); now != master {
		t.Logf("mastership passed from %s (epoch %d) to %s, which was not necessary", master, epoch, now)
	}
	w.startAgain(t, processes...)
	w.healthy(t)
	l.progress(t, w.others()...)
	l.finish(t)
}

// What could go wrong: after a power cut of the whole rack the cluster does not come back by itself, or comes back without
// something that was acknowledged.
func TestAllProcessesKilledAtOnceAndResumed(t *testing.T) {
	w := start(t, local.Options{}, nil)
	l := w.startLoad(t, loadOptions{victims: w.others()})
	var names []string
	for _, p := range w.Processes() {
		names = append(names, p.Name)
	}
	w.kill(t, names...)
	again, err := local.Open(w.Dir)
	if err != nil {
		t.Fatal(err)
	}
	w.Cluster = run(t, again).Cluster
	l.progress(t, w.others()...)
	l.finish(t)
}

// What could go wrong: a sleeper wakes up as the master it was, answers an old value, or acknowledges a write that the new
// master's stream does not have.
func TestStoppedMasterWakesUpFenced(t *testing.T) {
	w := start(t, local.Options{}, nil)
	whole := func(node string) []string { return []string{local.ReplicatorOf(node), local.KVNodeOf(node)} }
	cases := []struct {
		name      string
		processes func(node string) []string
	}{
		{"replicator and KV node", whole},
		{"replicator", func(node string) []string { return []string{local.ReplicatorOf(node)} }},
		{"KV node", func(node string) []string { return []string{local.KVNodeOf(node)} }},
	}
	if testing.Short() {
		cases = cases[:1]
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { w.sleepAndWake(t, c.processes) })
	}
}

func (w *world) sleepAndWake(t *testing.T, processes func(string) []string) {
	w.healthy(t)
	sleeper, _ := w.master(t)
	awake := w.others(sleeper)[0]
	key := fmt.Sprintf("sleep%d", loads.Add(1))
	before := mustDial(t, w.addr(sleeper))
	before.must(t, "SET", key, "old")
	before.must(t, "GET", key)
	l := w.startLoad(t, loadOptions{victims: []string{sleeper}})

	w.signal(t, syscall.SIGSTOP, processes(sleeper)...)
	w.masterIsNot(t, sleeper)
	l.progress(t, w.others(sleeper)...)
	mustDial(t, w.addr(awake)).must(t, "SET", key, "new")
	// Sent after "new" was acknowledged, to a node that cannot know: it must answer "new", or an error.
	for range 20 {
		if err := before.send("GET", key); err != nil {
			t.Fatal(err)
		}
	}
	w.signal(t, syscall.SIGCONT, processes(sleeper)...)
	for range 20 {
		value, err := before.receive()
		if err != nil {
			t.Logf("the sleeper answers %v", err)
			break
		}
		if value.Text != "new" {
			t.Fatalf("the sleeper answers %q after \"new\" was acknowledged", value.Text)
		}
	}
	w.healthy(t)
	l.progress(t, w.others()...)
	l.finish(t)
}

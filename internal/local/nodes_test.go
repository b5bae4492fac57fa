package local

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/internal/admin"
)

// What could go wrong: a node that was added or removed makes the description unusable, names or ports clash, a node is
// wiped while it runs, or what it held is lost.
func TestNodesComeAndGo(t *testing.T) {
	dir := t.TempDir()
	plan := newPlan(Options{Port: 20000}.WithDefaults())
	if err := savePlan(dir, plan); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for node, says := range map[string]string{"n2": "is a node of this cluster", "n10": "n1 to n9", "x": "n1 to n9", "n04": "n1 to n9"} {
		if _, err := c.AddNode(node, dir); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("add %s: %v, want %q", node, err, says)
		}
	}
	if r, err := c.newReplica(""); err != nil || r.Node != "n4" || r.KVAddr != "127.0.0.1:20003" || !r.Joins {
		t.Errorf("the first free node is %+v, %v", r, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "n4"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r, err := c.newReplica(""); err != nil || r.Node != "n5" {
		t.Errorf("beside the remains of n4 the first free node is %+v, %v", r, err)
	}

	with := plan
	with.Replicas = append(append([]Replica{}, plan.Replicas[1:]...), Replica{Node: "n5", KVAddr: "127.0.0.1:20004", DataAddr: "127.0.0.1:30004", ManageAddr: "127.0.0.1:31004", Joins: true})
	if err := savePlan(dir, with); err != nil {
		t.Fatal(err)
	}
	if c, err = Open(dir); err != nil || len(c.Plan.Replicas) != 3 {
		t.Fatalf("n1 gone and n5 added: %v", err)
	}
	if args := strings.Join(c.arguments(Process{Kind: KindReplicator, Node: "n5"}), " "); !strings.Contains(args, "--join 127.0.0.1:32000,127.0.0.1:32001,127.0.0.1:32002") {
		t.Errorf("n5 is started with %s", args)
	}
	if args := strings.Join(c.arguments(Process{Kind: KindReplicator, Node: "n2"}), " "); strings.Contains(args, "--join") {
		t.Errorf("n2 is started with %s", args)
	}
	with.Replicas[0], with.Replicas[1] = with.Replicas[1], with.Replicas[0]
	if err := savePlan(dir, with); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("replicas in another order are taken")
	}
}

func TestWipedNodeIsSetAside(t *testing.T) {
	dir := t.TempDir()
	if err := savePlan(dir, newPlan(Options{Port: 20000}.WithDefaults())); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WipeNode("n9"); err == nil {
		t.Error("a node that is none is wiped")
	}
	if aside, err := c.WipeNode("n1"); err != nil || aside != "" {
		t.Errorf("wiped where nothing was: %q, %v", aside, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "n1", "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.KVDir("n1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "pids"), 0o755); err != nil {
		t.Fatal(err)
	}
	self, ok := identify(os.Getpid())
	if !ok {
		t.Fatal("this process is not known")
	}
	if err := c.writePid("n1-kvnode", self); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WipeNode("n1"); err == nil || !strings.Contains(err.Error(), "smrctl node stop n1") {
		t.Errorf("wiped while it runs: %v", err)
	}
	if err := os.Remove(c.pidPath("n1-kvnode")); err != nil {
		t.Fatal(err)
	}
	aside, err := c.WipeNode("n1")
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{filepath.Join(aside, "log"), aside + "-images"} {
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("what n1 held is gone: %v", err)
		}
	}
	if _, err := os.Stat(c.KVDir("n1")); err == nil {
		t.Error("the images of n1 are where they were")
	}
	if _, err := os.Stat(c.ReplicaDir("n1")); err == nil {
		t.Error("n1 is where it was")
	}
	client, err := admin.New([]string{"127.0.0.1:1"}, admin.Login{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := c.RemoveNode(ctx, client, "n2"); err == nil {
		t.Error("n2 is removed although nobody says that it is no replica any more")
	}
}

package local

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What could go wrong: two processes are given one port. All ports of every possible cluster must differ and be possible.
func TestPortsOfAPlanDiffer(t *testing.T) {
	for _, port := range []int{1, 6379, MaxPort} {
		options := Options{Replicas: MaxReplicas, Confmasters: 5, Port: port}.WithDefaults()
		if err := options.Check(); err != nil {
			t.Fatal(err)
		}
		plan := newPlan(options)
		taken := make(map[string]bool)
		add := func(addr string) {
			if _, err := net.ResolveTCPAddr("tcp", addr); err != nil || taken[addr] {
				t.Errorf("port %d: %s is taken twice or impossible: %v", port, addr, err)
			}
			taken[addr] = true
		}
		for _, r := range plan.Replicas {
			add(r.KVAddr)
			add(r.DataAddr)
			add(r.ManageAddr)
			add(r.AdminAddr())
		}
		for _, c := range plan.Confmasters {
			add(c.Addr)
			add(c.SentinelAddr)
		}
	}
}

func TestDefaultsAskForMoreThanHalf(t *testing.T) {
	for replicas, copies := range map[int]int{1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 9: 5} {
		o := Options{Replicas: replicas}.WithDefaults()
		if o.Copies != copies || o.MinCopies != copies || o.Check() != nil {
			t.Errorf("%d replicas: copies %d, min copies %d, %v", replicas, o.Copies, o.MinCopies, o.Check())
		}
	}
}

// What could go wrong: a description that somebody edited, or a disk damaged, starts processes on wrong ports or outside the
// directory. Every change of a field must be refused.
func TestEditedPlanIsRefused(t *testing.T) {
	dir := t.TempDir()
	good := newPlan(Options{}.WithDefaults())
	if err := savePlan(dir, good); err != nil {
		t.Fatal(err)
	}
	loaded, err := loadPlan(dir)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := mustJSON(t, loaded), mustJSON(t, good); a != b {
		t.Errorf("loaded %s, saved %s", a, b)
	}
	edits := map[string]func(*Plan){
		"format":       func(p *Plan) { p.Format = 0 },
		"newer format": func(p *Plan) { p.Format = 2 },
		"cluster":      func(p *Plan) { p.Cluster = "" },
		"group":        func(p *Plan) { p.Group = "" },
		"port":         func(p *Plan) { p.Port++ },
		"copies":       func(p *Plan) { p.Copies = 4 },
		"min copies":   func(p *Plan) { p.MinCopies = 3 },
		"sync":         func(p *Plan) { p.Sync = "sometimes" },
		"node":         func(p *Plan) { p.Replicas[0].Node = "../../etc" },
		"kv address":   func(p *Plan) { p.Replicas[1].KVAddr = "0.0.0.0:6380" },
		"replicas":     func(p *Plan) { p.Replicas = nil },
		"confmasters":  func(p *Plan) { p.Confmasters = p.Confmasters[:2] },
		"id":           func(p *Plan) { p.Confmasters[0].ID = 7 },
	}
	for name, edit := range edits {
		bad := newPlan(Options{}.WithDefaults())
		edit(&bad)
		if err := savePlan(dir, bad); err != nil {
			t.Fatal(err)
		}
		if _, err := loadPlan(dir); err == nil {
			t.Errorf("a plan with another %s is taken", name)
		}
	}
}

func mustJSON(t *testing.T, value any) string {
	t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// What could go wrong: smrctl kills a stranger that was given the id of a process that ended. The pid file names another
// start time than the living process has: nothing may be signalled.
func TestStrangerWithTheSamePidIsLeftAlone(t *testing.T) {
	c := testCluster(t)
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	id, lives := identify(cmd.Process.Pid)
	if !lives {
		t.Fatal("a process that was just started does not live")
	}
	for _, wrong := range []identity{{id.pid, id.start + "0", id.boot}, {id.pid, id.start, "another boot"}} {
		if err := c.writePid("n1-kvnode", wrong); err != nil {
			t.Fatal(err)
		}
		if pid := c.Pid("n1-kvnode"); pid != 0 {
			t.Errorf("%+v is taken for n1-kvnode", wrong)
		}
		if err := c.Signal("n1-kvnode", syscall.SIGKILL); !errors.Is(err, ErrNotRunning) {
			t.Errorf("signal: %v", err)
		}
		if stopped, _ := c.stopAll(); len(stopped) > 0 {
			t.Errorf("stopped %v", stopped)
		}
	}
	if !id.lives() {
		t.Fatal("the stranger was killed")
	}
	if err := c.writePid("n1-kvnode", id); err != nil {
		t.Fatal(err)
	}
	if pid := c.Pid("n1-kvnode"); pid != id.pid {
		t.Errorf("the process itself is not found: pid %d", pid)
	}
}

// What could go wrong: a pid file cut short by a crash, or written by somebody else, is taken for a process.
func TestDamagedPidFileNamesNobody(t *testing.T) {
	c := testCluster(t)
	for _, content := range []string{"", "1", "1 2 3", "-5 1 x", "x y z", "99999999999999999999 1 x", "0 0 0"} {
		if err := os.WriteFile(c.pidPath("c1"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if pid := c.Pid("c1"); pid != 0 {
			t.Errorf("%q names pid %d", content, pid)
		}
	}
}

// testCluster returns a cluster whose processes are never started.
func testCluster(t *testing.T) *Cluster {
	t.Helper()
	c, err := Prepare(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"pids", "logs"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// stubs makes a directory with three binaries that are shell scripts.
func stubs(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	for _, kind := range kinds {
		if err := os.WriteFile(filepath.Join(dir, string(kind)), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// freeCluster prepares a cluster of one replica on free ports.
func freeCluster(t *testing.T) *Cluster {
	t.Helper()
	o := Options{Replicas: 1, Confmasters: 1}
	port, release, err := ReservePorts(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	o.Port = port
	c, err := Prepare(filepath.Join(t.TempDir(), "c"), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What could go wrong: two tests, of this process or of another one, are given the same ports, because the cluster that
// has them is down at the moment.
func TestReservedPortsAreGivenOnce(t *testing.T) {
	taken := make(map[int]bool)
	for range 5 {
		port, release, err := ReservePorts(Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if taken[port] {
			t.Errorf("port %d is given twice", port)
		}
		taken[port] = true
	}
}

// What could go wrong: one process of the cluster cannot start, and the others stay; or the user is not told why.
func TestFailedStartLeavesNothingAndShowsTheLog(t *testing.T) {
	c := freeCluster(t)
	bin := stubs(t, `case "$0" in *replicator) echo "the disk is on fire" >&2; exit 1;; esac; exec sleep 600`)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := c.Start(ctx, bin)
	if err == nil || !strings.Contains(err.Error(), "n1-replicator ended while starting (exit status 1)") || !strings.Contains(err.Error(), "the disk is on fire") {
		t.Errorf("error is %v", err)
	}
	for _, p := range c.Processes() {
		if p.Pid != 0 {
			t.Errorf("%s still runs", p.Name)
		}
	}
	if lock, err := lockDir(c.Dir); err != nil {
		t.Errorf("the directory is still locked: %v", err)
	} else {
		lock.Close()
	}
}

// What could go wrong: nobody answers and `up` hangs for ever, or goes away and leaves processes.
func TestStartThatNobodyAnswersEndsWithItsContext(t *testing.T) {
	c := freeCluster(t)
	c.stopTime = 200 * time.Millisecond // the stubs do not listen
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	err := c.Start(ctx, stubs(t, "trap '' TERM; while :; do sleep 0.05; done"))
	if err == nil || !strings.Contains(err.Error(), "does not serve yet") {
		t.Errorf("error is %v", err)
	}
	for _, p := range c.Processes() {
		if p.Pid != 0 {
			t.Errorf("%s still runs", p.Name)
		}
	}
}

// What could go wrong: two smrctl start the same directory at once.
func TestSecondStarterIsTurnedAway(t *testing.T) {
	c := freeCluster(t)
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := c.Start(context.Background(), stubs(t, "exec sleep 600")); err == nil || !strings.Contains(err.Error(), "another smrctl") {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, planName)); err == nil {
		t.Error("a cluster was begun in a locked directory")
	}
}

func TestDiskWithoutSpaceIsRefused(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "not", "there", "yet")
	if err := checkDisk(missing, 1); err != nil {
		t.Errorf("one byte: %v", err)
	}
	if err := checkDisk(missing, 1<<62); err == nil || !strings.Contains(err.Error(), "make room") {
		t.Errorf("more than there is: %v", err)
	}
}

func TestDirectoryWithOtherThingsIsRefused(t *testing.T) {
	dir := t.TempDir()
	if known, err := checkDir(dir); known || err != nil {
		t.Errorf("empty: %v %v", known, err)
	}
	for _, name := range []string{"logs", "pids", "bin"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if known, err := checkDir(dir); known || err != nil {
		t.Errorf("left by an up that failed early: %v %v", known, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := checkDir(dir); err == nil || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("foreign: %v", err)
	}
}

func TestTailShowsTheLastLines(t *testing.T) {
	c := testCluster(t)
	if err := os.WriteFile(c.LogPath("c1"), []byte(strings.Repeat("x\n", 100_000)+"a\nb\nc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := c.Tail("c1", 2); got != "  b\n  c" {
		t.Errorf("tail is %q", got)
	}
}

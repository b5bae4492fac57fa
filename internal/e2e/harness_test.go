package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/proto"
)

// patience is how long anything may take to come true before the test fails. It is far longer than needed, so that a slow
// machine fails nothing.
const patience = time.Minute

// binaries is the directory with all four commands, built once.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	if os.Getenv("JUDGE_THIS") != "" { // started by TestJudgeFindsWhatIsWrong, which needs no processes
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "ls-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := local.Build(context.Background(), "../..", dir, raceFlags...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binaries = dir
	return m.Run()
}

// world is a running cluster and a client of its configuration masters.
type world struct {
	*local.Cluster
	admin *admin.Client
}

// temporary returns a new directory with a short path (sockets live in it). It is kept if the test fails.
func temporary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ls-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("data and logs are kept in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	return dir
}

// freePort returns a first port whose cluster can have all its ports, and which is the test's own until it ends.
func freePort(t *testing.T, options local.Options) int {
	t.Helper()
	port, release, err := local.ReservePorts(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// start starts a cluster that ends with the test.
func start(t *testing.T, options local.Options, extra map[local.Kind][]string) *world {
	t.Helper()
	options.Port = freePort(t, options)
	cluster, err := local.Prepare(filepath.Join(temporary(t), "c"), options)
	if err != nil {
		t.Fatal(err)
	}
	cluster.Extra = extra
	return run(t, cluster)
}

// run starts a prepared cluster that ends with the test.
func run(t *testing.T, cluster *local.Cluster) *world {
	t.Helper()
	cluster.DieWithParent = true
	cluster.Progress = func(line string) { t.Log(line) }
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := cluster.Start(ctx, binaries); err != nil {
		t.Fatal(err)
	}
	client, err := cluster.Admin()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Cluster: cluster, admin: client}
	t.Cleanup(func() {
		client.Close()
		if t.Failed() {
			w.showLogs(t)
		}
		if _, killed, err := cluster.Stop(); err != nil || len(killed) > 0 {
			t.Errorf("stop: killed %v, error %v", killed, err)
		}
		w.checkLogs(t)
	})
	return w
}

// fatal is what no process may ever write to its log.
var fatal = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*|WARNING: DATA RACE)$|invariant broken|violated: `)

// checkLogs fails the test if a process panicked, found itself wrong, or raced with itself.
func (w *world) checkLogs(t *testing.T) {
	for _, p := range w.Processes() {
		content, err := os.ReadFile(w.LogPath(p.Name))
		if err != nil {
			t.Error(err)
			continue
		}
		if at := fatal.FindIndex(content); at != nil {
			t.Errorf("%s:\n%s", p.Name, content[at[0]:min(at[0]+6000, len(content))])
		}
	}
}

func (w *world) showLogs(t *testing.T) {
	for _, p := range w.Processes() {
		t.Logf("%s (pid %d):\n%s", p.Name, p.Pid, w.Tail(p.Name, 25))
	}
}

// eventually waits until attempt returns nil.
func eventually(t *testing.T, what string, attempt func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := attempt()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so after %v: %v", what, patience, err)
		}
		<-tick.C
	}
}

// healthy waits until every replica is a member and every KV node serves.
func (w *world) healthy(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.AwaitHealthy(ctx, w.admin); err != nil {
		t.Fatal(err)
	}
}

// group returns the group's status as the configuration masters have it.
func (w *world) group() (*proto.GroupStatus, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, err := w.admin.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, group := range status.GetGroups() {
		if group.GetName() == w.Plan.Group {
			return group, nil
		}
	}
	return nil, fmt.Errorf("group %s is unknown", w.Plan.Group)
}

// master waits for an established master and returns its name.
func (w *world) master(t *testing.T) (name string, epoch uint64) {
	t.Helper()
	eventually(t, "the group has a master", func() error {
		group, err := w.group()
		if err != nil {
			return err
		}
		if group.GetMaster() == "" || group.GetEpoch() != group.GetEstablished() {
			return fmt.Errorf("epoch %d, established %d, master %q: %s", group.GetEpoch(), group.GetEstablished(), group.GetMaster(), group.GetDetail())
		}
		name, epoch = group.GetMaster(), group.GetEstablished()
		return nil
	})
	return name, epoch
}

// masterIsNot waits until another node than the one named is the established master.
func (w *world) masterIsNot(t *testing.T, old string) string {
	t.Helper()
	var name string
	eventually(t, "another master than "+old, func() error {
		if name, _ = w.master(t); name == old {
			return fmt.Errorf("it is still %s", old)
		}
		return nil
	})
	return name
}

// addr returns where the KV node of a node listens.
func (w *world) addr(node string) string {
	for _, r := range w.Plan.Replicas {
		if r.Node == node {
			return r.KVAddr
		}
	}
	panic("no node " + node)
}

// others lists the nodes that are not among those named.
func (w *world) others(named ...string) []string {
	var list []string
	for _, r := range w.Plan.Replicas {
		if !strings.Contains(" "+strings.Join(named, " ")+" ", " "+r.Node+" ") {
			list = append(list, r.Node)
		}
	}
	return list
}

// kill kills processes at once, by name, and waits until they are gone.
func (w *world) kill(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := w.Signal(name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		<-w.Ended(name)
	}
}

// startAgain starts processes that were killed.
func (w *world) startAgain(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := w.StartProcess(name, binaries); err != nil {
			t.Fatal(err)
		}
	}
}

// signal sends a signal to processes by name.
func (w *world) signal(t *testing.T, sig syscall.Signal, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := w.Signal(name, sig); err != nil {
			t.Fatal(err)
		}
	}
}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lockstep/internal/local"
)

// smrctl runs one command line and returns its output and exit code.
func smrctl(t *testing.T, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return execute(t, exec.CommandContext(ctx, filepath.Join(binaries, "smrctl"), args...), dir)
}

func execute(t *testing.T, cmd *exec.Cmd, dir string) (stdout, stderr string, code int) {
	t.Helper()
	var out, problems bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &problems
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

// What could go wrong: a user mistypes or points at the wrong place, and something is half-started, overwritten, or fails
// with a message that does not say what to do.
func TestUpRefusesWhatCannotWork(t *testing.T) {
	dir := temporary(t)
	foreign := filepath.Join(dir, "foreign")
	mustWrite(t, filepath.Join(foreign, "holiday.jpg"), "x")
	damaged := filepath.Join(dir, "damaged")
	mustWrite(t, filepath.Join(damaged, "cluster.json"), "{\"format\":1,")
	newer := filepath.Join(dir, "newer")
	mustWrite(t, filepath.Join(newer, "cluster.json"), "{\"format\":99}")
	file := filepath.Join(dir, "file")
	mustWrite(t, file, "x")
	port := freePort(t, local.Options{})
	busy := strconv.Itoa(freePort(t, local.Options{})) // not any that the system gives: ports of a cluster end below its highest ones
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", busy))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	cases := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"flag unknown", []string{"up", "--replica", "3"}, 2, "unknown flag"},
		{"argument too many", []string{"up", "here"}, 2, "here"},
		{"no replicas", []string{"up", "--replicas", "0"}, 2, "--replicas"},
		{"too many replicas", []string{"up", "--replicas", "10"}, 2, "use 1 to 9"},
		{"two configuration masters", []string{"up", "--confmasters", "2"}, 2, "use 1, 3 or 5"},
		{"more copies than replicas", []string{"up", "--copies", "4"}, 2, "use 1 to 3"},
		{"sync mode unknown", []string{"up", "--sync", "never"}, 2, "always, interval or os"},
		{"port too high", []string{"up", "--port", "60000"}, 2, "port 60000"},
		{"output unknown", []string{"status", "-o", "xml"}, 2, "use table, wide, json or yaml"},
		{"foreign directory", []string{"up", "--dir", foreign}, 1, "holiday.jpg"},
		{"damaged description", []string{"up", "--dir", damaged}, 1, "cluster.json cannot be used"},
		{"newer format", []string{"up", "--dir", newer}, 1, "newer smrctl"},
		{"file in place of a directory", []string{"up", "--dir", file}, 1, "not a directory"},
		{"path too long for sockets", []string{"up", "--dir", filepath.Join(dir, strings.Repeat("long", 30))}, 1, "shorter --dir"},
		{"port in use", []string{"up", "--dir", filepath.Join(dir, "busy"), "--port", busy}, 1, ":" + busy},
		{"status of nothing", []string{"status", "--dir", filepath.Join(dir, "none")}, 1, "smrctl up"},
		{"down of nothing", []string{"down", "--dir", filepath.Join(dir, "none")}, 1, "no cluster here"},
		{"confmaster without port", []string{"status", "--confmaster", "localhost"}, 2, "use HOST:PORT"},
		{"nobody answers", []string{"status", "--confmaster", loopback(port)}, 4, "no configuration master answers"},
		{"log of nothing", []string{"log", "verify", filepath.Join(dir, "none")}, 1, "none"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			stdout, stderr, code := smrctl(t, dir, c.args...)
			if code != c.code || !strings.Contains(stderr, c.says) || stdout != "" {
				t.Errorf("smrctl %v: exit code %d, want %d with %q; standard output %q, error:\n%s", c.args, code, c.code, c.says, stdout, stderr)
			}
		})
	}
	for _, left := range []string{"busy", "none", "var"} {
		if _, err := os.Stat(filepath.Join(dir, left)); err == nil {
			t.Errorf("%s was created by a command that failed", left)
		}
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func mustWrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What could go wrong: the processes themselves take nonsense and start with it.
func TestProcessesRefuseBadFlags(t *testing.T) {
	dir := temporary(t)
	for _, kind := range []local.Kind{local.KindReplicator, local.KindKVNode, local.KindConfmaster} {
		binary := filepath.Join(binaries, string(kind))
		for _, args := range [][]string{{"--no-such-flag"}, {}, {"unexpected"}} {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_, stderr, code := execute(t, exec.CommandContext(ctx, binary, args...), dir)
			cancel()
			if code != 2 || strings.TrimSpace(stderr) == "" {
				t.Errorf("%s %v: exit code %d, want 2; standard error %q", kind, args, code, stderr)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		stdout, stderr, code := execute(t, exec.CommandContext(ctx, binary, "--help"), dir)
		cancel()
		if text := stdout + stderr; code != 0 || !strings.Contains(text, "cluster") {
			t.Errorf("%s --help: exit code %d, text %q", kind, code, text)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

// What could go wrong: the commands that the manual shows do not work as it says. One cluster goes through its whole life by
// smrctl alone: up, status, a kill, explain, start, switch-over, log, down, resume with data, down.
func TestLifeOfAClusterBySmrctl(t *testing.T) {
	dir := temporary(t)
	port := freePort(t, local.Options{})
	data := filepath.Join(dir, "c")
	defer smrctl(t, dir, "down", "--dir", data)
	must := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := smrctl(t, dir, append(args, "--dir", data)...)
		if code != 0 {
			t.Fatalf("smrctl %v: exit code %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout
	}
	shown := must("up", "--detach", "--port", strconv.Itoa(port))
	for _, part := range []string{"n1-kvnode", "c3", loopback(port + 1), loopback(port + 20000), "redis-cli -p " + strconv.Itoa(port+1) + " set a 1"} {
		if !strings.Contains(shown, part) {
			t.Errorf("up does not show %q:\n%s", part, shown)
		}
	}
	if _, err := once(loopback(port+1), "SET", "a", "1"); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := smrctl(t, dir, "up", "--detach", "--dir", data); code != 1 || !strings.Contains(stderr, "already running") {
		t.Errorf("a second up: exit code %d, %q", code, stderr)
	}

	status := readStatus(t, must("status", "-o", "json"))
	old := status.Groups[0].Master
	for _, r := range status.Groups[0].Replicas {
		if (r.Role == "master") != (r.Node == old) || r.KVPid == 0 || r.ReplicatorPid == 0 {
			t.Errorf("replica %+v with master %s", r, old)
		}
	}
	if killed := must("node", "kill", old); !strings.Contains(killed, local.KVNodeOf(old)) {
		t.Errorf("node kill shows %q", killed)
	}
	eventually(t, "another master", func() error {
		status = readStatus(t, must("status", "-o", "json"))
		if now := status.Groups[0].Master; now == "" || now == old {
			return errors.New("master is " + now)
		}
		return nil
	})
	if text := must("explain"); !strings.Contains(text, "chosen") || !strings.Contains(text, old) {
		t.Errorf("explain shows:\n%s", text)
	}
	var told struct{ Decisions []map[string]any }
	if err := json.Unmarshal([]byte(must("explain", "-o", "json")), &told); err != nil || len(told.Decisions) == 0 {
		t.Errorf("explain -o json: %v, %d decisions", err, len(told.Decisions))
	}
	if _, stderr, code := smrctl(t, dir, "node", "kill", old, "--dir", data); code != 1 || !strings.Contains(stderr, "not running") {
		t.Errorf("killing the dead: exit code %d, %q", code, stderr)
	}
	must("node", "start", old)
	awaitOK(t, must)
	eventually(t, "switch-over back to "+old, func() error {
		_, stderr, code := smrctl(t, dir, "switchover", "g1", "--to", old, "--dir", data)
		if code != 0 {
			return errors.New(stderr)
		}
		return nil
	})
	must("node", "stop", "c1")
	must("node", "start", "c1")
	checkLogs(t, dir, data)

	must("down")
	if stopped := must("down"); strings.Contains(stopped, "kvnode") {
		t.Errorf("a second down stops %q", stopped)
	}
	if _, stderr, code := smrctl(t, dir, "status", "--dir", data); code != 4 || !strings.Contains(stderr, "does not run") {
		t.Errorf("status of a stopped cluster: exit code %d, %q", code, stderr)
	}
	checkLogs(t, dir, data)
	if _, stderr, code := smrctl(t, dir, "up", "--detach", "--dir", data, "--replicas", "5"); code != 1 || !strings.Contains(stderr, "replicas is 3") {
		t.Errorf("resume with other replicas: exit code %d, %q", code, stderr)
	}
	must("up", "--detach")
	if value, err := once(loopback(port+2), "GET", "a"); err != nil || value.Text != "1" {
		t.Errorf("after resuming a is %q, %v", value.Text, err)
	}
}

// awaitOK waits until the group is whole.
func awaitOK(t *testing.T, must func(...string) string) {
	t.Helper()
	eventually(t, "the group is ok", func() error {
		group := readStatus(t, must("status", "-o", "json")).Groups[0]
		if group.State != "ok" {
			return errors.New("it is " + group.State)
		}
		return nil
	})
}

// checkLogs verifies and dumps the log of every replica, whether it runs or not.
func checkLogs(t *testing.T, dir, data string) {
	t.Helper()
	for _, node := range []string{"n1", "n2", "n3"} {
		path := filepath.Join(data, node)
		stdout, stderr, code := smrctl(t, dir, "log", "verify", path, "-o", "json")
		if code != 0 {
			t.Errorf("log verify %s: exit code %d\n%s%s", node, code, stdout, stderr)
		}
		stdout, stderr, code = smrctl(t, dir, "log", "dump", path)
		if code != 0 || !strings.Contains(stdout, "epoch-start") || !strings.Contains(stdout, "requests") {
			t.Errorf("log dump %s: exit code %d\n%s%s", node, code, stdout, stderr)
		}
	}
}

// statusJSON is what scripts read of `smrctl status -o json`.
type statusJSON struct {
	Groups []struct {
		Name, Master, State, Sync string
		Epoch                     uint64
		Replicas                  []struct {
			Node, Role    string
			KVPid         int `json:"kv_pid"`
			ReplicatorPid int `json:"replicator_pid"`
		}
	}
	Confmasters []struct {
		ID     int
		Leader bool
	}
}

func readStatus(t *testing.T, text string) statusJSON {
	t.Helper()
	var status statusJSON
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if len(status.Groups) != 1 || len(status.Groups[0].Replicas) != 3 || len(status.Confmasters) != 3 {
		t.Fatalf("status is %s", text)
	}
	return status
}

// What could go wrong: Ctrl-C in the foreground leaves processes behind.
func TestForegroundUpStopsEverythingOnInterrupt(t *testing.T) {
	dir := temporary(t)
	data := filepath.Join(dir, "c")
	port := freePort(t, local.Options{Replicas: 1, Confmasters: 1})
	cmd := exec.Command(filepath.Join(binaries, "smrctl"), "up", "--dir", data, "--replicas", "1", "--confmasters", "1", "--port", strconv.Itoa(port), "-o", "json")
	var out, problems lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	eventually(t, "up shows the cluster", func() error {
		if !strings.Contains(problems.String(), "Events") {
			return errors.New(problems.String())
		}
		return nil
	})
	cluster, err := local.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	if running := runningNames(cluster); !slices.Equal(running, []string{"c1", "n1-replicator", "n1-kvnode"}) {
		t.Errorf("running: %v", running)
	}
	if _, err := once(loopback(port), "SET", "a", "1"); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("up ended with %v\n%s", err, problems.String())
		}
	case <-time.After(patience):
		t.Fatal("up does not end")
	}
	if running := runningNames(cluster); len(running) > 0 {
		t.Errorf("still running: %v", running)
	}
}

func runningNames(cluster *local.Cluster) []string {
	var names []string
	for _, p := range cluster.Processes() {
		if p.Pid != 0 {
			names = append(names, p.Name)
		}
	}
	return names
}

// What could go wrong: a process is started with another cluster's directory, or twice with the same one, and both write.
func TestReplicatorRefusesForeignAndLockedDirectories(t *testing.T) {
	w := start(t, local.Options{Replicas: 1, Confmasters: 1}, nil)
	r := w.Plan.Replicas[0]
	try := func(cluster, node string) (string, int) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, stderr, code := execute(t, exec.CommandContext(ctx, filepath.Join(binaries, "replicator"), "--dir", w.ReplicaDir(r.Node),
			"--cluster", cluster, "--group", w.Plan.Group, "--node", node, "--data", "127.0.0.1:0", "--manage", "127.0.0.1:0"), w.Dir)
		return stderr, code
	}
	if stderr, code := try(w.Plan.Cluster, r.Node); code != 1 || !strings.Contains(stderr, r.Node) {
		t.Errorf("a second replicator in one directory: exit code %d, %q", code, stderr)
	}
	w.kill(t, local.ReplicatorOf(r.Node))
	if stderr, code := try("another", r.Node); code != 1 || !strings.Contains(stderr, "another") {
		t.Errorf("a replicator of another cluster: exit code %d, %q", code, stderr)
	}
	if stderr, code := try(w.Plan.Cluster, "n9"); code != 1 || !strings.Contains(stderr, "n9") {
		t.Errorf("a replicator of another name: exit code %d, %q", code, stderr)
	}
	w.startAgain(t, local.ReplicatorOf(r.Node))
	w.healthy(t)
}

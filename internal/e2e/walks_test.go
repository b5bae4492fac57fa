package e2e

import (
	"context"
	"encoding/json"
	"fmt"
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

// walk is what an operator has who follows docs/operations.md: a shell in a directory, the four programs and redis-cli.
type walk struct {
	t    *testing.T
	dir  string
	ran  int
	done map[string]bool // what of replace has been needed
	// replace are the words of the manual that stand for something of the operator's own.
	replace [][2]string
	// answers are typed where a command asks; before and after are called beside the command that holds those words.
	answers       map[string]string
	before, after map[string]func(output string)
	// patient commands refuse until something is seen, and are tried again, as the manual says.
	patient []string
}

func newWalk(t *testing.T) *walk {
	t.Helper()
	w := &walk{t: t, dir: temporary(t), done: map[string]bool{}, answers: map[string]string{}, before: map[string]func(string){}, after: map[string]func(string){}}
	t.Cleanup(func() { w.stop(filepath.Join(w.dir, "var", "lockstep")) })
	return w
}

// stop stops a cluster, if there is one.
func (w *walk) stop(dir string) {
	if _, err := os.Stat(filepath.Join(dir, "cluster.json")); err != nil {
		return
	}
	if w.t.Failed() {
		out, notes, code := smrctl(w.t, w.dir, "status", "--dir", dir)
		w.t.Logf("status of %s: %d\n%s%s", dir, code, out, notes)
	}
	if _, stderr, code := smrctl(w.t, w.dir, "down", "--dir", dir); code != 0 {
		w.t.Errorf("down: %d %s", code, stderr)
	}
}

// commands returns the lines of the shell in a section of the manual, block by block.
func commands(t *testing.T, section string) (blocks [][]string) {
	t.Helper()
	content, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(content), "\n## "+section+"\n")
	if !found {
		t.Fatalf("docs/operations.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "```sh":
			inside = true
			blocks = append(blocks, nil)
		case strings.HasPrefix(line, "```"):
			inside = false
		case inside && line != "":
			blocks[len(blocks)-1] = append(blocks[len(blocks)-1], line)
		}
	}
	if len(blocks) == 0 {
		t.Fatalf("section %q of docs/operations.md has no commands", section)
	}
	return blocks
}

// take runs blocks of commands.
func (w *walk) take(blocks ...[]string) {
	w.t.Helper()
	for _, line := range slices.Concat(blocks...) {
		w.run(line)
	}
}

// run runs one line as it stands in the manual.
func (w *walk) run(line string) {
	w.t.Helper()
	command, typed := line, ""
	for _, pair := range w.replace {
		if strings.Contains(command, pair[0]) {
			command = strings.ReplaceAll(command, pair[0], pair[1])
			w.done[pair[0]] = true
		}
	}
	beside := func(hooks map[string]func(string), output string) {
		for words, call := range hooks {
			if strings.HasPrefix(line, words) {
				w.done[words] = true
				delete(hooks, words)
				call(output)
			}
		}
	}
	beside(w.before, "")
	for words, answer := range w.answers {
		if strings.HasPrefix(line, words) {
			typed = answer + "\n"
			w.done[words] = true
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	var output string
	try := func() error {
		shell := exec.CommandContext(ctx, "bash", "-c", command)
		shell.Dir, shell.Stdin = w.dir, strings.NewReader(typed)
		shell.Env = append(os.Environ(), "PATH="+binaries+":"+os.Getenv("PATH"), "SMRCTL_CONFIG="+filepath.Join(w.dir, "smrctl.yaml"))
		out, err := shell.CombinedOutput()
		if output = string(out); err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, output)
		}
		return nil
	}
	if slices.ContainsFunc(w.patient, func(words string) bool { return strings.HasPrefix(line, words) }) {
		eventually(w.t, line, try)
	} else if err := try(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Logf("$ %s\n%s", line, output)
	w.ran++
	beside(w.after, output)
}

// finish fails the test if the manual no longer has what the test expected in it.
func (w *walk) finish() {
	w.t.Helper()
	for _, pair := range w.replace {
		if !w.done[pair[0]] {
			w.t.Errorf("no command of the manual has %q any more", pair[0])
		}
	}
	for words := range w.answers {
		if !w.done[words] {
			w.t.Errorf("the manual does not run %q any more", words)
		}
	}
	for _, hooks := range []map[string]func(string){w.before, w.after} {
		for words := range hooks {
			w.t.Errorf("the manual does not run %q any more", words)
		}
	}
}

// up starts the operator's cluster with `smrctl up --detach` in ./var/lockstep, which the commands of the manual mean.
func (w *walk) up() {
	w.t.Helper()
	w.run("smrctl up --detach --port " + strconv.Itoa(freePort(w.t, local.Options{})))
	w.ran = 0
}

// cluster returns the cluster in ./var/lockstep as it is now, with a client of its configuration masters.
func (w *walk) cluster() *world {
	w.t.Helper()
	cluster, err := local.Open(filepath.Join(w.dir, "var", "lockstep"))
	if err != nil {
		w.t.Fatal(err)
	}
	client, err := cluster.Admin()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(client.Close)
	return &world{Cluster: cluster, admin: client}
}

// fill writes what each walk begins with.
func (w *world) fill(t *testing.T) {
	t.Helper()
	c := mustDial(t, w.addr("n3"))
	for i := range 200 {
		c.must(t, "SET", "key:"+strconv.Itoa(i), strings.Repeat("v", i))
	}
	c.must(t, "RPUSH", "list", "a", "b")
}

// holds fails unless a node has what fill has written.
func (w *world) holds(t *testing.T, node string) {
	t.Helper()
	eventually(t, node+" serves", func() error {
		_, err := once(w.addr(node), "GET", "key:1")
		return err
	})
	c := mustDial(t, w.addr(node))
	for i := range 200 {
		if got := c.must(t, "GET", "key:"+strconv.Itoa(i)); got.Text != strings.Repeat("v", i) {
			t.Fatalf("%s: key:%d is %q", node, i, got.Text)
		}
	}
	if got := c.must(t, "LRANGE", "list", "0", "-1"); len(got.Items) != 2 {
		t.Errorf("%s: list is %v", node, got)
	}
}

// The manual replaces a machine, one that lives and leads, and one that is dead. What could go wrong: a command of the manual does not exist, asks for
// something that it does not say, or leaves the operator with less than it promises.
func TestManualReplacesAMachine(t *testing.T) {
	t.Parallel()
	for _, dead := range []bool{false, true} {
		if dead && testing.Short() {
			continue
		}
		t.Run(fmt.Sprintf("dead=%v", dead), func(t *testing.T) {
			w := newWalk(t)
			w.up()
			world := w.cluster()
			world.fill(t)
			if dead {
				world.operate(t, "node", "kill", "n1")
			} else if master, _ := world.master(t); master != "n1" {
				world.operate(t, "switchover", "--to", "n1")
			}
			w.answers["smrctl replica replace g1 n1 n4 --switchover"] = "y"
			c := mustDial(t, world.addr("n3"))
			w.after["smrctl node add n4"] = func(string) { c.must(t, "SET", "between", "1") }
			w.after["smrctl replica replace g1 n1 n4 --switchover --dry-run"] = func(plan string) {
				if strings.Contains(plan, "hand mastership over") == dead {
					t.Errorf("the plan is\n%s", plan)
				}
			}
			w.take(commands(t, "Replace a machine")...)
			w.finish()
			if w.ran < 5 {
				t.Errorf("%d commands", w.ran)
			}
			world = w.cluster()
			var nodes []string
			for _, r := range world.Plan.Replicas {
				nodes = append(nodes, r.Node)
				world.holds(t, r.Node)
			}
			if fmt.Sprint(nodes) != "[n2 n3 n4]" {
				t.Errorf("the cluster has nodes %v", nodes)
			}
			if got := mustDial(t, world.addr("n4")).must(t, "GET", "between"); got.Text != "1" {
				t.Errorf("n4: what was written meanwhile is %q", got.Text)
			}
			world.healthy(t)
		})
	}
}

// The manual recovers a group that has lost its quorum. What could go wrong: as above; or what the last replica holds is lost, or the lost ones
// come back with what they had.
func TestManualRecoversALostQuorum(t *testing.T) {
	t.Parallel()
	w := newWalk(t)
	w.up()
	world := w.cluster()
	world.fill(t)
	world.sameEverywhere(t)
	world.operate(t, "node", "kill", "n1")
	world.operate(t, "node", "kill", "n2")
	w.before["smrctl status"] = func(string) {
		eventually(t, "the loss of the quorum is seen", func() error {
			group, err := world.group()
			if err == nil && group.GetState() != "unavailable" {
				err = fmt.Errorf("%s: %s", group.GetState(), group.GetDetail())
			}
			return err
		})
	}
	w.after["smrctl status"] = func(shown string) {
		if !strings.Contains(shown, "unavailable") {
			t.Errorf("the status is\n%s", shown)
		}
	}
	w.patient = []string{"smrctl group recover g1 --dry-run"}
	w.answers["smrctl group recover g1 --force"] = "g1"
	w.answers["smrctl replica replace g1 n2 n4"] = "y"
	w.after["smrctl group recover g1 --force"] = func(string) {
		world.holds(t, "n3")
		mustDial(t, world.addr("n3")).must(t, "SET", "afterwards", "1")
	}
	w.after["smrctl explain --all"] = func(shown string) {
		if !strings.Contains(shown, "recover") {
			t.Errorf("the work log does not tell of the recovery:\n%s", shown)
		}
	}
	w.take(commands(t, "Lost quorum: recovery by force")...)
	w.finish()
	world = w.cluster()
	for _, node := range []string{"n1", "n3", "n4"} {
		world.holds(t, node)
		if got := mustDial(t, world.addr(node)).must(t, "GET", "afterwards"); got.Text != "1" {
			t.Errorf("%s: what was written behind the recovery is %q", node, got.Text)
		}
	}
	world.healthy(t)
}

// logTime is the time of the last frame that a node has executed.
func logTime(t *testing.T, addr string) time.Time {
	t.Helper()
	for line := range strings.Lines(mustDial(t, addr).must(t, "INFO", "everything").Text) {
		if text, found := strings.CutPrefix(strings.TrimSpace(line), "smr_log_time_ms:"); found {
			stamp, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return time.UnixMilli(stamp)
		}
	}
	t.Fatal("INFO does not tell log time")
	return time.Time{}
}

// The manual sets up an archive and brings yesterday back. What could go wrong: as above; or what comes back is of another moment, or the living
// cluster is touched.
func TestManualRestoresYesterday(t *testing.T) {
	t.Parallel()
	w := newWalk(t)
	for _, dir := range []string{"backup", "data"} {
		if err := os.Mkdir(filepath.Join(w.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { w.stop(filepath.Join(w.dir, "data", "yesterday")) })
	moment := "2026-11-20 18:00:00"
	w.replace = [][2]string{
		{"/backup/", filepath.Join(w.dir, "backup") + "/"}, {"/data/", filepath.Join(w.dir, "data") + "/"},
		{"smrctl up --detach --archive", "smrctl up --port " + strconv.Itoa(freePort(t, local.Options{})) + " --detach --archive"},
		{"7000", strconv.Itoa(freePort(t, local.Options{}))},
	}
	w.before["smrctl backup create --archive"] = func(string) { w.cluster().fill(t) }
	w.take(commands(t, "Backup")[0])
	world := w.cluster()
	c := mustDial(t, world.addr("n2"))
	c.must(t, "SET", "mine", "yesterday")
	then := logTime(t, world.addr("n2"))
	w.replace = append(w.replace, [2]string{moment, then.Format("2006-01-02 15:04:05.000")})
	eventually(t, "log time goes on", func() error {
		if now := logTime(t, world.addr("n2")); !now.After(then) {
			return fmt.Errorf("it is %v", now)
		}
		return nil
	})
	c.must(t, "SET", "mine", "today")
	c.must(t, "DEL", "list")
	c.must(t, "SET", "new", "1")
	awaitArchived(t, filepath.Join(w.dir, "backup", "ls"), world.applied(t, "n2"))
	w.after["redis-cli -p 7000 dbsize"] = func(shown string) {
		if strings.TrimSpace(shown) != "202" {
			t.Errorf("%q keys, want 202", shown)
		}
		if got := c.must(t, "GET", "mine"); got.Text != "today" {
			t.Errorf("the living cluster: mine is %q", got.Text)
		}
		restored, err := local.Open(filepath.Join(w.dir, "data", "yesterday"))
		if err != nil || restored.Plan.Cluster == world.Plan.Cluster {
			t.Fatalf("%v; both clusters have the same id", err)
		}
		for _, r := range restored.Plan.Replicas {
			if got := mustDial(t, r.KVAddr).must(t, "GET", "mine"); got.Text != "yesterday" {
				t.Errorf("%s of the restored cluster: mine is %q", r.Node, got.Text)
			}
		}
	}
	w.take(commands(t, "Restore to yesterday")...)
	w.finish()
	if got := c.must(t, "GET", "mine"); got.Text != "yesterday" {
		t.Errorf("after the import mine is %q", got.Text)
	}
	if got := c.must(t, "GET", "new"); got.Text != "1" {
		t.Errorf("after the import new is %q", got.Text)
	}
	world.holds(t, "n1")
	stdout, stderr, code := smrctl(t, w.dir, "backup", "list", "--archive", filepath.Join(w.dir, "backup", "yesterday"), "-o", "json")
	var list struct{ Backups []any }
	if err := json.Unmarshal([]byte(stdout), &list); code != 0 || err != nil || len(list.Backups) != 1 {
		t.Errorf("backups of the new cluster: %d, %v\n%s%s", code, err, stdout, stderr)
	}
}

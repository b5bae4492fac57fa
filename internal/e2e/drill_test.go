package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"lockstep/internal/drill"
	"lockstep/internal/drill/plan"
	"lockstep/internal/drill/report"
	"lockstep/internal/local"
)

// smrctlOf prepares a command line of smrctl for the cluster.
func (w *world) smrctlOf(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "smrctl"), append(args, "--dir", w.Dir)...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME=/nonexistent", "SMRCTL_CONTEXT=", "SMRCTL_CONFIG=")
	return cmd
}

// drillPatience bounds one drill.
const drillPatience = 5 * time.Minute

// runDrill runs a drill to its end and returns its report, nil if it was refused, and what smrctl said.
func (w *world) runDrill(t *testing.T, args ...string) (result *report.Report, said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), drillPatience)
	defer cancel()
	cmd := w.smrctlOf(ctx, append([]string{"drill", "run", "--yes", "-o", "json"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v\n%s", args, err, stderr.String())
	}
	if stdout.Len() > 0 {
		result = &report.Report{}
		if err := json.Unmarshal(stdout.Bytes(), result); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, stdout.String())
		}
	}
	return result, stderr.String(), cmd.ProcessState.ExitCode()
}

// Every drill, on a real cluster as `smrctl up` starts it. What could go wrong: a fault that is not made, not taken back, or that the
// group does not survive; a report without figures; an acknowledged write that is gone (the drill's own clients check).
func TestDrills(t *testing.T) {
	w := start(t, local.Options{Replicas: 3}, nil)
	short := []string{"kill-master", "one-way-cut", "lose-confmaster-majority"}
	names := plan.Names()
	if testing.Short() {
		names = short
	}
	for _, name := range names {
		result, said, code := w.runDrill(t, name, "--hold", "4s", "--longest", "2m")
		if result == nil || code != 0 || !result.Good() {
			t.Fatalf("%s: exit code %d\n%s%+v", name, code, said, result)
		}
		if result.Writes == 0 || result.Reads == 0 || result.FirstWriteMs == nil || result.Digests != "equal" || result.Nodes != 3 || len(result.Violations) != 0 {
			t.Errorf("%s: %+v", name, result)
		}
		page, err := os.ReadFile(filepath.Join(w.Dir, "drills", result.ID, "report.html"))
		if err != nil || !bytes.Contains(page, []byte("</html>")) {
			t.Errorf("%s: page of %d bytes, %v", name, len(page), err)
		}
		t.Logf("%s; detection %s, election %s, first write %s, longest pause %.0f ms, %d writes, %d errors on nodes that were not hit",
			result.Summary(), report.Millis(result.DetectionMs), report.Millis(result.ElectionMs), report.Millis(result.FirstWriteMs), result.PauseMs, result.Writes, result.ErrorsOfOthers())
	}
	reports, err := drill.Reports(filepath.Join(w.Dir, "drills"))
	if err != nil || len(reports) != len(names) {
		t.Errorf("%d reports in the history, %v", len(reports), err)
	}
	w.refuseDrills(t)
	w.survivesKilledSmrctl(t)
}

// refuseDrills: on a group that is not whole every drill is refused, and nothing is done.
func (w *world) refuseDrills(t *testing.T) {
	victim := w.Plan.Replicas[2].Node
	w.signal(t, syscall.SIGKILL, local.KVNodeOf(victim))
	eventually(t, "the KV node is missed", func() error {
		group, err := w.group()
		for _, r := range group.GetReplicas() {
			if r.GetNode() == victim && r.GetState().GetAttached() {
				return errors.New("still attached")
			}
		}
		return err
	})
	for _, name := range plan.Names() {
		result, said, code := w.runDrill(t, name)
		if result != nil || code != 1 || !strings.Contains(said, "refused") || !strings.Contains(said, victim+" has no KV node") {
			t.Errorf("%s on a group without a KV node: exit code %d, report %v\n%s", name, code, result, said)
		}
	}
	w.startAgain(t, local.KVNodeOf(victim))
	w.healthy(t)
}

// survivesKilledSmrctl: smrctl dies by SIGKILL while a fault lasts. The fault ends without it, and what only smrctl can undo the next
// one does, before it does anything else.
func (w *world) survivesKilledSmrctl(t *testing.T) {
	for _, name := range []string{"isolate-master", "kill-master"} {
		ctx, cancel := context.WithTimeout(context.Background(), drillPatience)
		defer cancel()
		cmd := w.smrctlOf(ctx, "drill", "run", name, "--yes", "--hold", "60s", "--longest", "2m")
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := make([]byte, 0, 4096)
		chunk := make([]byte, 512)
		for !bytes.Contains(said, []byte("established")) { // the fault is there and has had its effect
			n, err := stderr.Read(chunk)
			if said = append(said, chunk[:n]...); err != nil {
				t.Fatalf("%s ended early: %v\n%s", name, err, said)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		if name == "isolate-master" {
			w.healthy(t) // by itself
		}
		out, err := w.smrctlOf(ctx, "drill", "history", "-o", "json").CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("was not finished: cleaning up behind it")) || !bytes.Contains(out, []byte(`"verdict": "aborted"`)) {
			t.Errorf("%s: after smrctl was killed: %v\n%s", name, err, out)
		}
		w.healthy(t)
		for _, r := range w.Plan.Replicas {
			client := redis.NewClient(&redis.Options{Addr: r.KVAddr})
			if keys, err := client.DBSize(ctx).Result(); err != nil || keys != 0 {
				t.Errorf("%s: %d keys of drills are left at %s, %v", name, keys, r.Node, err)
			}
			client.Close()
		}
	}
}

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/internal/chaos"
	"lockstep/internal/local"
)

// What could go wrong: on a cluster that speaks TLS and wants a password everywhere, as one outside of a laboratory does, the tools that use it
// like clients (drills, bench, top) are not let in, do half of their work, or tell the password to whoever lists processes.
func TestToolsWithTLSAndPasswords(t *testing.T) {
	w := start(t, local.Options{Replicas: 3, TLS: true}, nil)
	secret := filepath.Join(t.TempDir(), "password")
	mustWrite(t, secret, "correct-horse\n")
	ctx, cancel := context.WithTimeout(context.Background(), drillPatience)
	defer cancel()
	for _, args := range [][]string{{"user", "set", "tool", "on", "~*", "&*", "+@all"}, {"user", "set", "default", "resetpass"}} {
		stdout, stderr, code := execute(t, w.smrctlOf(ctx, append(args, "--yes", "--password-file", secret)...), w.Dir)
		if code != 0 {
			t.Fatalf("%v: exit code %d\n%s%s", args, code, stdout, stderr)
		}
	}
	eventually(t, "every node wants a password", func() error {
		for _, r := range w.Plan.Replicas {
			if err := chaos.Knock(ctx, w.admin.Login, r.KVAddr); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
				return &strange{r.Node, err}
			}
		}
		return nil
	})
	report, said, code := w.runDrill(t, "kill-master")
	if report != nil || code != 1 || !strings.Contains(said, "clients are not let in at n1") || !strings.Contains(said, "--password-file") {
		t.Errorf("a drill without a password: exit code %d, report %v\n%s", code, report, said)
	}
	for _, name := range []string{"kill-master", "isolate-master"} {
		report, said, code := w.runDrill(t, name, "--hold", "4s", "--longest", "2m", "--user", "tool", "--password-file", secret)
		if report == nil || code != 0 || !report.Good() || report.Writes == 0 || report.Nodes != 3 {
			t.Fatalf("%s: exit code %d\n%s%+v", name, code, said, report)
		}
	}
	files := w.ClientCertificate()
	var result struct {
		Operations uint64            `json:"operations"`
		Errors     map[string]uint64 `json:"errors"`
	}
	w.ask(t, &result, []string{"bench", "--addr", w.Plan.Replicas[0].KVAddr + "," + w.Plan.Replicas[1].KVAddr, "--tls-ca", files.CA, "--tls-cert", files.Cert,
		"--tls-key", files.Key, "--user", "tool", "--password-file", secret, "-c", "8", "-P", "4", "--time", "1s", "--warmup", "100ms", "--keys", "1000"})
	if result.Operations == 0 || len(result.Errors) != 0 {
		t.Errorf("bench: %+v", result)
	}
	var top struct {
		Groups []struct {
			Replicas []struct {
				Node   string   `json:"node"`
				ReadMs *float64 `json:"read_ms"`
			} `json:"replicas"`
		} `json:"groups"`
	}
	w.ask(t, &top, []string{"top", "--once", "--password-file", secret, "--dir", w.Dir})
	if len(top.Groups) != 1 || len(top.Groups[0].Replicas) != 3 {
		t.Fatalf("top: %+v", top)
	}
	for _, r := range top.Groups[0].Replicas {
		if r.ReadMs == nil {
			t.Errorf("top is not let in at %s", r.Node)
		}
	}
}

// ask runs smrctl and reads what it prints as JSON.
func (w *world) ask(t *testing.T, into any, args []string) {
	t.Helper()
	stdout, stderr, code := smrctl(t, w.Dir, append(args, "-o", "json")...)
	if code != 0 {
		t.Fatalf("%v: exit code %d\n%s%s", args, code, stdout, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), into); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, stdout)
	}
}

// strange is an answer that was not expected.
type strange struct {
	who string
	got error
}

func (s *strange) Error() string {
	if s.got == nil {
		return s.who + " answers"
	}
	return s.who + ": " + s.got.Error()
}

// What could go wrong: faults that are made on links find nothing in bytes that are encrypted, or clients and smrctl are not let in, and a chaos run
// over TLS proves less than it says; a node that has just started, or that is cut off, lets people in whom the group does not.
func TestChaosWithTLSAndPasswords(t *testing.T) {
	length := 20 * time.Second
	if testing.Short() {
		length = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir := filepath.Join(temporary(t), "chaos")
	report, err := chaos.Run(ctx, chaos.Config{Dir: dir, Binaries: binaries, Seed: 4, Duration: length, Lanes: 2,
		Pause: time.Second, Clients: 2, TLS: true, Passwords: true, Progress: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Good() || report.Outcomes[chaos.OK] == 0 || report.Passwords.Changed == 0 || report.Passwords.Refused == 0 {
		page, err := os.ReadFile(filepath.Join(dir, "report.json"))
		t.Errorf("%s, %v\n%s", report.Summary(), err, page)
	}
	t.Log(report.Summary())
}

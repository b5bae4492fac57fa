package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lockstep/internal/drill/report"
	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// machines are the programs of three machines, each below a supervisor of its own that starts it again when it ends, as systemd does. There is no
// directory of a cluster.
type machines struct {
	t           *testing.T
	dir         string
	cluster     string
	confmasters []string // addresses
	config      string   // of smrctl: none
	ended       sync.WaitGroup
}

// supervise keeps a program running until ctx ends, with its first arguments at first and the others from then on.
func (m *machines) supervise(ctx context.Context, machine, program string, first, later []string) {
	dir := filepath.Join(m.dir, machine)
	out, err := os.OpenFile(filepath.Join(dir, program+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Error(err)
		return
	}
	defer out.Close()
	for args := first; ctx.Err() == nil; args = later {
		cmd := exec.CommandContext(ctx, filepath.Join(binaries, program), args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 20 * time.Second
		if err := cmd.Start(); err != nil {
			m.t.Errorf("start %s of %s: %v", program, machine, err)
			return
		}
		// How it ended is what a supervisor does not ask.
		_ = cmd.Wait()
		pause.For(ctx, 100*time.Millisecond)
	}
}

// startMachines starts three machines, and founds a group on them with smrctl. drills is what replicators and configuration masters are told beside.
func startMachines(t *testing.T, drills ...string) *machines {
	t.Helper()
	options := local.Options{Replicas: 3}
	options.Port = freePort(t, options)
	numbers, err := local.Prepare(filepath.Join(t.TempDir(), "unused"), options) // for its ports
	if err != nil {
		t.Fatal(err)
	}
	plan := numbers.Plan
	m := &machines{t: t, dir: temporary(t), cluster: "apart", confmasters: plan.ConfmasterAddrs()}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() {
		stop()
		m.ended.Wait()
	})
	var voters, nodes []string
	for i, c := range plan.Confmasters {
		voters = append(voters, fmt.Sprintf("%d=%s", c.ID, c.Addr))
		nodes = append(nodes, plan.Replicas[i].Node+"="+plan.Replicas[i].KVAddr)
	}
	masters := strings.Join(m.confmasters, ",")
	create := []string{"group", "create", "g1"}
	for i, r := range plan.Replicas {
		machine := fmt.Sprintf("m%d", i+1)
		here := func(name string) string { return filepath.Join(m.dir, machine, name) }
		if err := os.Mkdir(filepath.Join(m.dir, machine), 0o700); err != nil {
			t.Fatal(err)
		}
		run := func(program string, first, later []string) {
			m.ended.Go(func() { m.supervise(ctx, machine, program, first, later) })
		}
		c := plan.Confmasters[i]
		confmaster := append([]string{"--cluster", m.cluster, "--dir", here("confmaster"), "--id", strconv.Itoa(c.ID), "--peers", strings.Join(voters, ","),
			"--sentinel", c.SentinelAddr}, drills...)
		run("confmaster", append(slices.Clone(confmaster), "--new"), confmaster)
		replicator := append([]string{"--cluster", m.cluster, "--dir", here("replicator"), "--group", "g1", "--node", r.Node, "--data", r.DataAddr,
			"--manage", r.ManageAddr}, drills...)
		run("replicator", replicator, replicator)
		kvnode := []string{"--cluster", m.cluster, "--replicator-dir", here("replicator"), "--data", here("images"), "--group", "g1", "--node", r.Node,
			"--listen", r.KVAddr, "--announce", r.KVAddr, "--admin", r.AdminAddr(), "--peers", strings.Join(nodes, ","), "--masters", masters}
		run("kvnode", kvnode, kvnode)
		create = append(create, "--replica", fmt.Sprintf("%s=%s,%s,%s", r.Node, r.KVAddr, r.DataAddr, r.ManageAddr))
	}
	eventually(t, "the group is founded", func() error {
		if said, code := m.smrctl(nil, create...); code != 0 {
			return errors.New(said)
		}
		return nil
	})
	m.whole()
	return m
}

// smrctl runs smrctl as on a machine of an operator: it knows the addresses of the configuration masters, and nothing else.
func (m *machines) smrctl(into any, args ...string) (said string, code int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), drillPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "smrctl"), append(args, "--confmaster", strings.Join(m.confmasters, ","))...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME=/nonexistent", "SMRCTL_CONTEXT=", "SMRCTL_CONFIG=", "XDG_STATE_HOME="+filepath.Join(m.dir, "state"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatalf("%v: %v\n%s", args, err, stderr.String())
	}
	if into != nil && stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
			m.t.Fatalf("%v: %v\n%s", args, err, stdout.String())
		}
	}
	return stderr.String(), cmd.ProcessState.ExitCode()
}

// whole waits until the group serves, with all its replicas.
func (m *machines) whole() {
	m.t.Helper()
	eventually(m.t, "the group is whole", func() error {
		var status struct {
			Groups []struct {
				State    string `json:"state"`
				Replicas []struct {
					Node  string `json:"node"`
					Role  string `json:"role"`
					KVPid int    `json:"kv_pid"`
				} `json:"replicas"`
			} `json:"groups"`
		}
		said, _ := m.smrctl(&status, "status", "-o", "json")
		if len(status.Groups) != 1 || status.Groups[0].State != "ok" || len(status.Groups[0].Replicas) != 3 {
			return fmt.Errorf("%+v %s", status, said)
		}
		for _, r := range status.Groups[0].Replicas {
			if r.Role != "master" && r.Role != "slave" || r.KVPid == 0 {
				return fmt.Errorf("%+v", r)
			}
		}
		return nil
	})
}

// What could go wrong: drills work on the machine where smrctl has started the cluster, and nowhere else, because they look for files or processes
// there. Here smrctl has addresses only, and supervisors start what was killed.
func TestDrillsOnOtherMachines(t *testing.T) {
	m := startMachines(t, "--allow-drills")
	for _, name := range []string{"kill-master", "pause-master", "switchover", "rolling-restart"} {
		var result report.Report
		said, code := m.smrctl(&result, "drill", "run", name, "--yes", "-o", "json", "--hold", "4s", "--longest", "2m")
		if code != 0 || !result.Good() || result.Writes == 0 || result.Digests != "equal" || result.Nodes != 3 {
			t.Fatalf("%s: exit code %d\n%s%+v", name, code, said, result)
		}
		t.Logf("%s", result.Summary())
		m.whole()
	}
	var history struct {
		Drills []struct {
			Verdict string `json:"verdict"`
		} `json:"drills"`
	}
	if said, code := m.smrctl(&history, "drill", "history", "-o", "json"); code != 0 || len(history.Drills) != 4 {
		t.Errorf("history: exit code %d, %+v\n%s", code, history, said)
	}
}

// What could go wrong: a process is killed from afar although nobody has allowed it, or the operator is not told what to configure.
func TestDrillsOnOtherMachinesNeedPermission(t *testing.T) {
	m := startMachines(t)
	for _, name := range []string{"kill-master", "pause-master", "rolling-restart"} {
		var result report.Report
		said, code := m.smrctl(&result, "drill", "run", name, "--yes", "-o", "json")
		if code != 1 || result.ID != "" || !strings.Contains(said, "drills are not allowed at n1: start its process with --allow-drills") {
			t.Errorf("%s: exit code %d\n%s%+v", name, code, said, result)
		}
	}
	var result report.Report
	if said, code := m.smrctl(&result, "drill", "run", "switchover", "--yes", "-o", "json"); code != 0 || !result.Good() {
		t.Errorf("switchover, which needs none: exit code %d\n%s%+v", code, said, result)
	}
}

package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"lockstep/internal/local"
)

// program is how the user called smrctl.
func program() string {
	if strings.Contains(os.Args[0], string(filepath.Separator)) {
		return os.Args[0]
	}
	return "smrctl"
}

// done is what was done to one process.
type done struct {
	Process string `json:"process"`
	Pid     int    `json:"pid"`
	Done    string `json:"done"` // started, stopped, killed
}

func showDone(s *screen, list []done) error {
	return s.show(map[string][]done{"processes": list}, func() {
		rows := [][]string{{"PROCESS", "PID", "DONE"}}
		for _, d := range list {
			rows = append(rows, []string{d.Process, fmt.Sprint(d.Pid), d.Done})
		}
		s.table(rows)
	})
}

func newDown(s *screen) *cobra.Command {
	var at where
	var dry dryRun
	command := &cobra.Command{
		Use:   "down",
		Short: "Stop every process of a cluster started by up; its data stay",
		Long:  "Asks every process of the cluster to end (SIGTERM) and kills those that still run after 10 seconds. Data stay:\n`smrctl up` with the same directory resumes the cluster.",
		Args:  cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			cluster, err := local.Open(at.dir)
			if err != nil {
				return err
			}
			pids := make(map[string]int)
			var running []string
			for _, p := range cluster.Processes() {
				if pids[p.Name] = p.Pid; p.Pid != 0 {
					running = append(running, fmt.Sprintf("stop %s (pid %d)", p.Name, p.Pid))
				}
			}
			if dry.on {
				return dry.show(s, running)
			}
			stopped, killed, err := cluster.Stop()
			if err != nil {
				return err
			}
			if len(stopped) == 0 {
				s.note("no process of the cluster was running")
			}
			list := []done{}
			for _, name := range stopped {
				list = append(list, done{Process: name, Pid: pids[name], Done: ending(name, killed)})
			}
			return showDone(s, list)
		}),
	}
	at.addDir(command)
	dry.add(command)
	return command
}

func ending(name string, killed []string) string {
	for _, other := range killed {
		if other == name {
			return "killed"
		}
	}
	return "stopped"
}

func newNode(s *screen) *cobra.Command {
	return group("node", "Start, stop or kill processes of a cluster started by up",
		newNodeCommand(s, "start", "Start the processes of a node again", startNode),
		newNodeCommand(s, "stop", "Ask the processes of a node to end (SIGTERM, after 10 s SIGKILL)", stopNode),
		newNodeCommand(s, "kill", "Kill the processes of a node at once (SIGKILL)", killNode),
		newNodeAdd(s), newNodeRemove(s), newNodeWipe(s),
	)
}

type nodeAction func(ctx context.Context, s *screen, cluster *local.Cluster, processes []local.Process) ([]done, error)

func newNodeCommand(s *screen, name, short string, action nodeAction) *cobra.Command {
	var at where
	var dry dryRun
	var what string
	command := &cobra.Command{
		Use:   name + " NODE",
		Short: short,
		Long:  short + ".\nNODE is the name of a replica (n1, n2, …) or of a configuration master (c1, c2, …).",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			if what != "replicator" && what != "kvnode" && what != "both" {
				return usage("--what %q: use replicator, kvnode or both", what)
			}
			cluster, err := local.Open(at.dir)
			if err != nil {
				return err
			}
			chosen, err := chooseProcesses(cluster, args[0], what)
			if err != nil {
				return err
			}
			if dry.on {
				return dry.show(s, processSteps(name, chosen))
			}
			list, err := action(ctx, s, cluster, chosen)
			if len(list) > 0 {
				err = errors.Join(showDone(s, list), err)
			}
			return err
		}),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			cluster, err := local.Open(at.dir)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nodeNames(cluster), cobra.ShellCompDirectiveNoFileComp
		},
	}
	at.addDir(command)
	dry.add(command)
	command.Flags().StringVar(&what, "what", "both", "which process of a replica: replicator, kvnode or both")
	complete(command, "what", "replicator", "kvnode", "both")
	return command
}

// processSteps is what start, stop or kill would do.
func processSteps(verb string, processes []local.Process) []string {
	var steps []string
	for _, p := range processes {
		if running := p.Pid != 0; running == (verb != "start") {
			steps = append(steps, strings.TrimSuffix(fmt.Sprintf("%s %s (pid %d)", verb, p.Name, p.Pid), " (pid 0)"))
		}
	}
	return steps
}

func nodeNames(cluster *local.Cluster) []string {
	var names []string
	for _, r := range cluster.Plan.Replicas {
		names = append(names, r.Node)
	}
	for _, c := range cluster.Plan.Confmasters {
		names = append(names, c.Name())
	}
	return names
}

// chooseProcesses returns the processes of node, replicator first.
func chooseProcesses(cluster *local.Cluster, node, what string) ([]local.Process, error) {
	var chosen []local.Process
	found := false
	for _, p := range cluster.Processes() {
		if p.Node != node {
			continue
		}
		found = true
		if what == "both" || what == string(p.Kind) {
			chosen = append(chosen, p)
		}
	}
	if !found {
		return nil, fmt.Errorf("no node %q: there are %s", node, strings.Join(nodeNames(cluster), ", "))
	}
	if len(chosen) == 0 {
		return nil, usage("%s is a configuration master and has no %s: leave --what away", node, what)
	}
	return chosen, nil
}

func startNode(ctx context.Context, s *screen, cluster *local.Cluster, processes []local.Process) ([]done, error) {
	if err := checkAny(processes, false, local.ErrRunning); err != nil {
		return nil, err
	}
	bin, err := binaries(ctx, cluster.Dir, s)
	if err != nil {
		return nil, err
	}
	var list []done
	for _, p := range processes {
		if p.Pid != 0 {
			continue
		}
		pid, err := cluster.StartProcess(p.Name, bin)
		if err != nil {
			return list, err
		}
		list = append(list, done{Process: p.Name, Pid: pid, Done: "started"})
	}
	return list, nil
}

func stopNode(_ context.Context, _ *screen, cluster *local.Cluster, processes []local.Process) ([]done, error) {
	if err := checkAny(processes, true, local.ErrNotRunning); err != nil {
		return nil, err
	}
	var list []done
	for i := len(processes) - 1; i >= 0; i-- { // the KV node first, so that it can answer what is in flight
		p := processes[i]
		if p.Pid == 0 {
			continue
		}
		killed, err := cluster.StopProcess(p.Name)
		if errors.Is(err, local.ErrNotRunning) {
			continue // ended by itself in between
		}
		if err != nil {
			return list, err
		}
		d := done{Process: p.Name, Pid: p.Pid, Done: "stopped"}
		if killed {
			d.Done = "killed"
		}
		list = append(list, d)
	}
	return list, nil
}

func killNode(_ context.Context, _ *screen, cluster *local.Cluster, processes []local.Process) ([]done, error) {
	if err := checkAny(processes, true, local.ErrNotRunning); err != nil {
		return nil, err
	}
	var list []done
	for _, p := range processes {
		if cluster.Signal(p.Name, syscall.SIGKILL) == nil {
			list = append(list, done{Process: p.Name, Pid: p.Pid, Done: "killed"})
		}
	}
	return list, nil
}

// checkAny returns reason unless at least one of the processes runs (or does not).
func checkAny(processes []local.Process, running bool, reason error) error {
	var names []string
	for _, p := range processes {
		if (p.Pid != 0) == running {
			return nil
		}
		names = append(names, p.Name)
	}
	return fmt.Errorf("%s: %w", strings.Join(names, ", "), reason)
}

package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/bench"
)

// benchDir is where benchmarks keep the data of their servers while they run.
const benchDir = "var/bench"

func newBench(s *screen) *cobra.Command {
	var dir string
	var rounds int
	var duration time.Duration
	command := &cobra.Command{
		Use:   "bench",
		Short: "Measure a cluster of its own, side by side with redis-server if that is installed",
		Long: `Starts a cluster of three replicas and, if redis-server is installed, three redis-servers (appendfsync always, each
pipeline of writes closed by WAIT 1 0), puts the same load on both in alternating rounds and shows medians and ratios.
SET and GET of 64 bytes on 100,000 keys; all connections go to the master. Only ratios of one run mean something.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			if rounds < 1 || rounds > 1000 || duration < 100*time.Millisecond {
				return usage("use 1 to 1000 rounds of at least 100ms")
			}
			bin, err := binaries(ctx, dir, s)
			if err != nil {
				return err
			}
			report, err := bench.Run(ctx, bench.Config{Dir: dir, Binaries: bin, Rounds: rounds, Duration: duration, Progress: s.note})
			if err != nil {
				return err
			}
			return s.show(report, func() { showBench(s, report) })
		}),
	}
	command.PersistentFlags().StringVar(&dir, "dir", benchDir, "directory for data while it runs")
	command.Flags().IntVar(&rounds, "rounds", 5, "rounds of every kind of load")
	command.Flags().DurationVar(&duration, "time", 2*time.Second, "time of one kind of load in one round")
	command.AddCommand(newDrill(s, &dir))
	return command
}

func showBench(s *screen, report bench.Report) {
	s.printf("%s; %d rounds of %.1f s; medians\n", report.Machine, report.Rounds, report.Seconds)
	if report.Redis != "" {
		s.printf("%s\n", report.Redis)
	}
	rows := [][]string{{"LOAD", "SERVER", "OPS/S", "P50 US", "P99 US", "CPU US/OP"}}
	for _, r := range report.Scenarios {
		rows = append(rows, figures(r.Name, "lockstep", r.Lockstep))
		if r.Redis != nil {
			rows = append(rows, figures("", "redis", *r.Redis))
			rows = append(rows, []string{"", "ratio", fmt.Sprintf("%.2f", r.Ratio.Rate), fmt.Sprintf("%.2f", r.Ratio.P50),
				fmt.Sprintf("%.2f", r.Ratio.P99), fmt.Sprintf("%.2f", r.Ratio.CPU)})
		}
	}
	s.table(rows)
}

func figures(load, server string, f bench.Figures) []string {
	return []string{load, server, fmt.Sprintf("%.0f", f.Rate), fmt.Sprintf("%.0f", f.P50us), fmt.Sprintf("%.0f", f.P99us), fmt.Sprintf("%.1f", f.CPUus)}
}

func newDrill(s *screen, dir *string) *cobra.Command {
	var kills int
	var what string
	var pause time.Duration
	command := &cobra.Command{
		Use:   "failover",
		Short: "Kill the master again and again and measure until the first acknowledged write on another node",
		Args:  cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			if kills < 1 || kills > 100000 {
				return usage("--kills %d: use 1 to 100000", kills)
			}
			if what != "replicator" && what != "kvnode" && what != "both" {
				return usage("--what %q: use replicator, kvnode or both", what)
			}
			if pause < 0 {
				return usage("--pause %v is negative", pause)
			}
			bin, err := binaries(ctx, *dir, s)
			if err != nil {
				return err
			}
			report, err := bench.RunDrill(ctx, bench.DrillConfig{Dir: *dir, Binaries: bin, Kills: kills, Pause: pause, What: what, Progress: s.note})
			if err != nil {
				return err
			}
			err = s.show(report, func() {
				s.printf("%s; kill -9 of the master's %s; until the first acknowledged write on another node\n", report.Machine, report.What)
				s.printf("%d kills: p50 %.0f ms, maximum %.0f ms, errors on surviving nodes %d\n", len(report.Kills), report.P50ms, report.MaxMs, report.Errors)
			})
			if err == nil && report.Errors > 0 {
				err = fmt.Errorf("%d writes on surviving nodes were answered with errors", report.Errors)
			}
			return err
		}),
	}
	command.Flags().IntVar(&kills, "kills", 20, "how often")
	command.Flags().StringVar(&what, "what", "both", "which process of the master: replicator, kvnode or both")
	command.Flags().DurationVar(&pause, "pause", 0, "time between the return of a killed node and the next kill")
	complete(command, "what", "replicator", "kvnode", "both")
	return command
}

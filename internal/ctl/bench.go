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
	command := group("bench", "Measure speed: the figures that are to be reached, or fail-overs", newFigures(s, &dir), newDrill(s, &dir))
	command.PersistentFlags().StringVar(&dir, "dir", benchDir, "`directory` for data while it runs")
	return command
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

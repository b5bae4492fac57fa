package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/bench"
)

func newStages(s *screen, dir *string) *cobra.Command {
	var out, record string
	env := bench.Env{Rounds: 1, Kills: 1, Progress: s.note}
	command := &cobra.Command{
		Use:   "stages",
		Short: "Show where the time of a write goes, beside what the machine takes at least",
		Long: `Starts a cluster with sync always, puts SETs on it, and shows the means of the processes' own histograms, the CPU time of each
kind of process, and the floors: a sync of 4 KiB on the same disk and a round trip on loopback. --out also takes profiles
of processor time, allocations, waiting and locks (go tool pprof) and execution traces (go tool trace) of all processes under each load; taking them
costs time itself.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			if env.Time < time.Second || env.Time > time.Hour {
				return usage("--time %v: use 1s to 1h", env.Time)
			}
			var err error
			if env.Binaries, err = binaries(ctx, *dir, s); err != nil {
				return err
			}
			if err := env.Open(*dir); err != nil {
				return err
			}
			stages, report, err := bench.RunStages(ctx, &env, out, revision(ctx))
			if closeErr := env.Close(); err == nil {
				err = closeErr
			}
			if err == nil && out != "" {
				_, err = report.Write(out)
			}
			if err == nil && record != "" {
				err = report.RecordStages(record, stages)
			}
			if err != nil {
				return err
			}
			return s.show(stages, func() {
				s.printf("%s; %s; load average %s\n\n", report.Revision, report.Machine, report.Load)
				rows := [][]string{{"LOAD", "PART OF A WRITE", "MEAN", "", "FLOOR OF THIS MACHINE"}}
				for _, stage := range stages {
					rows = append(rows, []string{stage.Load, stage.What, fmt.Sprintf("%.1f", stage.Mean), stage.Unit, stage.Floor})
				}
				s.table(rows)
			})
		}),
	}
	flags := command.Flags()
	flags.DurationVar(&env.Time, "time", 5*time.Second, "time of each load")
	flags.StringVar(&out, "out", "", "`directory` for CPU profiles, report.json, CSV and plots")
	flags.StringVar(&record, "record", "", "`page` into which the table is written")
	return command
}

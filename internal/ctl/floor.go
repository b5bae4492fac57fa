package ctl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/bench"
	"lockstep/internal/bench/floor"
)

func newFloor(s *screen, dir *string) *cobra.Command {
	var rows []string
	var out, record string
	env := bench.Env{Kills: 1, Progress: s.note}
	command := &cobra.Command{
		Use:   "floor",
		Short: "Measure what the arrangement of processes could reach at most, beside Lockstep and redis-server",
		Long: `Starts a bare skeleton of a write's way through three nodes: processes that move and store the bytes, and do nothing else. A write
is answered when two of three have stored it. It is measured as every other system: in turn with redis-servers and Lockstep, under the loads
of the rows of smrctl bench figures. floor has one process for clients and three for logs; floor-full has a process for clients on each node,
which executes what is committed.

BY REDIS is what the system has by what redis-servers have: rates, of set-c1 p50. LOCKSTEP BY IT is what Lockstep has by what it has.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			for _, name := range rows {
				if !slices.Contains(bench.FloorRows(), name) {
					return usage("--rows: no row %q: use %s", name, strings.Join(bench.FloorRows(), ", "))
				}
			}
			if env.Rounds < 1 || env.Rounds > 1000 || env.Time < 100*time.Millisecond || env.Time > time.Hour {
				return usage("use 1 to 1000 rounds of 100ms to 1h")
			}
			if env.Flights < 1 || env.Flights > floor.MaxFlights {
				return usage("--flights %d: use 1 to %d", env.Flights, floor.MaxFlights)
			}
			var err error
			if env.Binaries, err = binaries(ctx, *dir, s); err != nil {
				return err
			}
			if err := env.Open(*dir); err != nil {
				return err
			}
			cells, report, err := bench.RunFloor(ctx, &env, rows, revision(ctx))
			if closeErr := env.Close(); err == nil {
				err = closeErr
			}
			if err == nil && out != "" {
				_, err = report.Write(out)
			}
			if err == nil && record != "" {
				err = report.RecordFloor(record, cells)
			}
			if err != nil {
				return err
			}
			return showFloor(s, report, cells)
		}),
	}
	flags := command.Flags()
	flags.StringSliceVar(&rows, "rows", nil, "`names` of the rows to measure: "+strings.Join(bench.FloorRows(), ", ")+" (default all)")
	flags.IntVar(&env.Rounds, "rounds", 5, "rounds of every load and system")
	flags.DurationVar(&env.Time, "time", 2*time.Second, "time of one load in one round")
	flags.IntVar(&env.Flights, "flights", 1, "frames of the skeleton that may be on their way at once; Lockstep has one")
	flags.StringVar(&out, "out", "", "`directory` for report.json, CSV and plots")
	flags.StringVar(&record, "record", "", "`page` into which the table is written, with plots beside it")
	complete(command, "rows", bench.FloorRows()...)
	return command
}

func showFloor(s *screen, report *bench.Report, cells []bench.FloorCell) error {
	return s.show(cells, func() {
		s.printf("%s; %s; load average %s; medians of %d rounds of %.1f s\n\n", report.Revision, report.Machine, report.Load, report.Rounds, report.Seconds)
		rows := [][]string{{"ROW", "GOAL", "SYSTEM", "OPS/S", "P50 US", "CPU US/OP", "BY REDIS", "LOCKSTEP BY IT", "FAILED"}}
		for _, c := range cells {
			rows = append(rows, []string{c.Row, c.Goal, c.System, fmt.Sprintf("%.0f", c.Rate), micro(c.Latency.P50), fmt.Sprintf("%.2f", c.CPU), bench.RatioText(c.ByRedis),
				bench.RatioText(c.Lockstep), fmt.Sprint(c.Failed)})
		}
		s.table(rows)
	})
}

// newFloorPart is what the processes of the floor are: nobody calls it by hand.
func newFloorPart() *cobra.Command {
	return &cobra.Command{
		Use: bench.FloorPart + " CONFIG", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: work(func(_ context.Context, args []string) error { return floor.RunPart(args[0]) }),
	}
}

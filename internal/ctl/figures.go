package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/bench"
	"lockstep/internal/release"
)

func newFigures(s *screen, dir *string) *cobra.Command {
	var rows []string
	var list, smoke bool
	env := bench.Env{Progress: s.note}
	command := &cobra.Command{
		Use:   "figures",
		Short: "Measure the figures that are to be reached, beside redis-server where it is installed",
		Long: `Starts what each row needs on this machine, measures in turn, and shows medians beside what is to be reached. Only ratios
of one run mean something: the load generator and all servers share this machine.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			chosen, err := bench.ChooseRows(rows, smoke)
			if err != nil {
				return usage("--rows: %v", err)
			}
			if list {
				return showRows(s, chosen)
			}
			if env.Rounds < 1 || env.Rounds > 1000 || env.Time < 100*time.Millisecond || env.Time > time.Hour || env.Kills < 1 || env.Kills > 100000 {
				return usage("use 1 to 1000 rounds of 100ms to 1h, and 1 to 100000 kills")
			}
			if env.Binaries, err = binaries(ctx, *dir, s); err != nil {
				return err
			}
			env.Small = smoke
			if err := env.Open(*dir); err != nil {
				return err
			}
			report, err := bench.RunRows(ctx, &env, chosen, release.String())
			if closeErr := env.Close(); err == nil {
				err = closeErr
			}
			if err != nil {
				return err
			}
			return s.show(report, func() { showFigures(s, report) })
		}),
	}
	flags := command.Flags()
	flags.StringSliceVar(&rows, "rows", nil, "`names` of the rows to measure; name* takes all that begin so (default all)")
	flags.BoolVar(&list, "list", false, "show what rows there are, and measure nothing")
	flags.BoolVar(&smoke, "smoke", false, "only rows that are quick to measure, with smaller data sets")
	flags.IntVar(&env.Rounds, "rounds", 5, "rounds of every comparison")
	flags.DurationVar(&env.Time, "time", 2*time.Second, "time of one measurement in one round")
	flags.IntVar(&env.Kills, "kills", 50, "kills, and other faults, of rows that break something")
	return command
}

func showRows(s *screen, chosen []bench.Row) error {
	type row struct {
		Name  string `json:"name"`
		About string `json:"about"`
		Goal  string `json:"goal"`
		Smoke bool   `json:"smoke"`
	}
	list := []row{}
	table := [][]string{{"ROW", "GOAL", "WHAT"}}
	for _, r := range chosen {
		list = append(list, row{r.Name, r.About, r.Goal.String(), r.Smoke})
		table = append(table, []string{r.Name, r.Goal.String(), r.About})
	}
	return s.show(list, func() { s.table(table) })
}

func showFigures(s *screen, report *bench.Report) {
	s.printf("%s; %s\n", report.Revision, report.Machine)
	if report.Redis != "" {
		s.printf("%s\n", report.Redis)
	}
	s.printf("load average %s; medians of %d rounds of %.1f s; took %.0f s\n\n", report.Load, report.Rounds, report.Seconds, report.Took)
	table := [][]string{{"ROW", "FIGURE", "ROUNDS", "GOAL", "VERDICT", "MEASURED"}}
	for _, f := range report.Figures {
		spread, measured := "", f.Measured
		if f.Low != f.High {
			spread = fmt.Sprintf("%.2f to %.2f", f.Low, f.High)
		}
		if f.Why != "" {
			measured = f.Why
		}
		table = append(table, []string{f.Name, f.Shown, spread, f.Goal, f.Verdict, measured})
	}
	s.table(table)
	for _, f := range report.Figures {
		s.printf("\n%s: %s\n", s.paint(bold, f.Name), f.About)
		for _, note := range f.Notes {
			s.printf("  %s\n", note)
		}
		s.printf("  again: %s\n", f.Command)
	}
}

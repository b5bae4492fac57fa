package ctl

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/bench"
	"lockstep/internal/release"
)

func newFigures(s *screen, dir *string) *cobra.Command {
	var rows []string
	var list, smoke bool
	var out outputs
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
			report, err := bench.RunRows(ctx, &env, chosen, revision(ctx))
			if closeErr := env.Close(); err == nil {
				err = closeErr
			}
			if err != nil {
				return err
			}
			return out.write(s, report, chosen)
		}),
	}
	flags := command.Flags()
	flags.StringSliceVar(&rows, "rows", nil, "`names` of the rows to measure; name* takes all that begin so (default all)")
	flags.BoolVar(&list, "list", false, "show what rows there are, and measure nothing")
	flags.BoolVar(&smoke, "smoke", false, "only rows that are quick to measure, with smaller data sets")
	flags.IntVar(&env.Rounds, "rounds", 5, "rounds of every comparison")
	flags.DurationVar(&env.Time, "time", 2*time.Second, "time of one measurement in one round")
	flags.IntVar(&env.Kills, "kills", 50, "kills, and other faults, of rows that break something")
	flags.StringVar(&out.dir, "out", "", "`directory` for report.json, CSV and plots")
	flags.StringVar(&out.record, "record", "", "`page` into which the table is written, with plots beside it")
	flags.StringVar(&out.baseline, "baseline", "", "`file` of an earlier run: say what moved")
	flags.StringVar(&out.newBaseline, "write-baseline", "", "`file` to write for that")
	return command
}

// outputs is where results go.
type outputs struct{ dir, record, baseline, newBaseline string }

func (o outputs) write(s *screen, report *bench.Report, chosen []bench.Row) error {
	if o.dir != "" {
		if _, err := report.Write(o.dir); err != nil {
			return err
		}
	}
	if o.record != "" {
		if err := report.Record(o.record, "figures"); err != nil {
			return err
		}
	}
	var baseline bench.Baseline
	if o.baseline != "" {
		var err error
		if baseline, err = bench.LoadBaseline(o.baseline); err != nil {
			return err
		}
		report.Moves = report.Compare(baseline, chosen)
	}
	if o.newBaseline != "" {
		if err := report.Baseline().Write(o.newBaseline); err != nil {
			return err
		}
	}
	return s.show(report, func() {
		showFigures(s, report)
		if o.baseline != "" {
			showMoves(s, report, baseline)
		}
	})
}

// showMoves informs: ratios on a shared machine move for many reasons, and nobody is stopped by them.
func showMoves(s *screen, report *bench.Report, baseline bench.Baseline) {
	s.printf("\nBeside the baseline (%s; load average %s):\n", baseline.Revision, baseline.Load)
	rows := [][]string{{"ROW", "BEFORE", "NOW", "CHANGE %", ""}}
	for _, m := range report.Moves {
		rows = append(rows, []string{m.Name, fmt.Sprintf("%.2f", m.Before), fmt.Sprintf("%.2f", m.Now), fmt.Sprintf("%.0f", m.Change), m.Word})
	}
	s.table(rows)
}

// revision says what is measured. Where the build did not note it, the source tree around says it.
func revision(ctx context.Context) string {
	if release.Revision() != "unknown" {
		return release.String()
	}
	head, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return release.String()
	}
	text := release.String() + " " + strings.TrimSpace(string(head))
	if changes, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no").Output(); err != nil || len(changes) > 0 {
		text += "+changes"
	}
	return text
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

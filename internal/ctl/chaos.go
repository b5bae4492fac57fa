package ctl

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/chaos"
)

// chaosDir is where chaos runs leave their reports.
const chaosDir = "var/chaos"

// maxMinutes bounds one run: its history is checked in memory.
const maxMinutes = 24 * 60

func newChaos(s *screen) *cobra.Command {
	var config chaos.Config
	var forced bool
	var minutes float64
	command := &cobra.Command{
		Use:   "chaos",
		Short: "Put a cluster of its own through faults while clients work, and check what they saw",
		Long: `Starts a cluster of three replicas and three configuration masters on this machine, lets clients work on every KV node, and
kills, stops, cuts off, wipes and damages its processes as drawn from the seed, while images are taken, logs trimmed, replicas
added, removed, replaced and drained, and archived moments restored into clusters of their own. Afterwards everything the
clients saw is checked: linearizability, no acknowledged write lost or doubled, no refused one present, queues, streams,
scripts and messages, windows without a write explained.

The report (report.html, report.json) and the history stay in a directory of --dir. Faults that need what this machine
does not give (mount, strace) are left out, with a line that says why. Exit code 1: a promise was broken.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			if minutes <= 0 || minutes > maxMinutes {
				return usage("--minutes %v: use more than 0 and at most %d", minutes, maxMinutes)
			}
			if config.Seed == 0 {
				config.Seed = rand.Uint64N(1_000_000) + 1 // #nosec G404 -- a seed, which stands in the report
			}
			config.Duration = time.Duration(minutes * float64(time.Minute))
			bin, err := binaries(ctx, config.Dir, s)
			if err != nil {
				return err
			}
			config.Binaries, config.Progress = bin, s.note
			config.Dir = filepath.Join(config.Dir, fmt.Sprintf("%s-seed-%d", time.Now().UTC().Format("20060102-150405"), config.Seed))
			run := chaos.Run
			if forced {
				run = chaos.RunRecoveries
			}
			report, err := run(ctx, config)
			if err != nil {
				return err
			}
			if err := s.show(report, func() { s.printf("%s\n%s\n", report.Summary(), filepath.Join(config.Dir, "report.html")) }); err != nil {
				return err
			}
			if !report.Good() {
				return fmt.Errorf("a promise was broken or could not be judged; everything is kept in %s", config.Dir)
			}
			return nil
		}),
	}
	command.Flags().StringVar(&config.Dir, "dir", chaosDir, "directory for reports, histories and data")
	command.Flags().Float64Var(&minutes, "minutes", 5, "time with faults, in minutes")
	command.Flags().Uint64Var(&config.Seed, "seed", 0, "what faults are drawn from; 0 draws one")
	command.Flags().IntVar(&config.Lanes, "lanes", 2, "most faults at a time")
	command.Flags().DurationVar(&config.Pause, "pause", time.Second, "mean time between two faults of a lane")
	command.Flags().IntVar(&config.Clients, "clients", 3, "clients on each KV node")
	command.Flags().StringSliceVar(&config.Only, "only", nil, "kinds of faults to draw from; a wrong one lists all (default all)")
	command.Flags().BoolVar(&config.TLS, "tls", false, "the cluster speaks TLS everywhere, and its clients with it")
	command.Flags().BoolVar(&config.Passwords, "passwords", false, "nobody is let in without a password, which is changed every few seconds; an old one must be refused on every node from then on")
	command.Flags().BoolVar(&forced, "forced-recovery", false, "another kind of run: lose the quorum of a group again and again, recover it by force, and compare what was lost with what was reported")
	command.MarkFlagsMutuallyExclusive("forced-recovery", "only")
	command.MarkFlagsMutuallyExclusive("forced-recovery", "passwords")
	command.AddCommand(newChaosCheck(s))
	return command
}

func newChaosCheck(s *screen) *cobra.Command {
	return &cobra.Command{
		Use:   "check HISTORY",
		Short: "Check a kept history again",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(_ context.Context, args []string) error {
			if _, err := os.Stat(args[0]); err != nil {
				return usage("history: %v", err)
			}
			checked, err := chaos.Check(args[0], filepath.Dir(args[0]))
			if err != nil {
				return err
			}
			err = s.show(checked, func() {
				s.printf("%d operations on %d keys, %d violations, %d keys undecided\n", checked.Ops, checked.Keys, len(checked.Violations), len(checked.Undecided))
				for _, v := range checked.Violations {
					s.printf("%s: %s %s\n", v.Rule, v.Key, v.Text)
				}
			})
			if err == nil && len(checked.Violations) > 0 {
				err = fmt.Errorf("%d violations", len(checked.Violations))
			}
			return err
		}),
	}
}

package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// watching is what commands that look have in common: they can look again and again.
type watching struct {
	on       bool
	interval period
}

// minInterval bounds how often a watcher looks.
const minInterval = 50 * time.Millisecond

func (w *watching) add(command *cobra.Command) {
	command.Flags().BoolVar(&w.on, "watch", false, "show it again and again until Ctrl-C (with -o json: one line each)")
	w.interval = period(time.Second)
	command.Flags().Var(&w.interval, "interval", "time between two looks with --watch, 50ms or more")
}

// period is a time between two looks, as a flag.
type period time.Duration

func (p *period) String() string { return time.Duration(*p).String() }
func (p *period) Type() string   { return "duration" }

// Set implements pflag.Value.
func (p *period) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err == nil && d < minInterval {
		err = fmt.Errorf("use %v or more", minInterval)
	}
	*p = period(d)
	return err
}

// run looks once, or until ctx ends. With --watch a look that fails is no reason to stop: it says so and tries again.
func (w *watching) run(ctx context.Context, s *screen, look func(context.Context) error) error {
	if !w.on {
		return look(ctx)
	}
	s.compact = true
	tick := time.NewTicker(time.Duration(w.interval))
	defer tick.Stop()
	for {
		if s.human() {
			if s.colours {
				s.printf("\x1b[H\x1b[2J")
			}
			s.printf("%s\n", time.Now().Format("15:04:05"))
		}
		err := look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil // Ctrl-C, or --timeout, is how watching ends
		case err == nil:
		case s.human():
			s.printf("%s\n", err)
		default:
			fmt.Fprintf(s.notes, "smrctl: %v\n", err)
		}
		if s.human() {
			s.printf("\n")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

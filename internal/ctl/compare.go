package ctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/bench"
)

// compared is what `smrctl bench compare` measures.
type compared struct {
	systems, places, loads        []string
	connections, pipelines, sizes []int
	load                          bench.Load
	env                           bench.Env
	out, record                   string
}

func newCompare(s *screen, dir *string) *cobra.Command {
	c := &compared{load: bench.NewLoad("set"), env: bench.Env{Kills: 1, Progress: s.note}}
	var names []string
	for _, system := range bench.Systems() {
		names = append(names, system.Name)
	}
	command := &cobra.Command{
		Use:   "compare",
		Short: "Put the same loads on several systems in turn, over connections, pipelines and sizes",
		Long: `Starts the systems on this machine, all at once, and puts every load on each of them in turn, in rounds. With several
numbers of connections the plots of --out are over connections, else over time.

Systems: ` + strings.Join(names, ", ") + `.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error { return c.run(ctx, s, *dir) }),
	}
	flags := command.Flags()
	flags.StringSliceVar(&c.systems, "systems", []string{bench.LockstepAlways, bench.RedisAlways}, "`names` of systems; ratios are to the first")
	flags.StringSliceVar(&c.places, "places", []string{"master"}, "where Lockstep's clients connect: master, slave, every")
	flags.StringSliceVar(&c.loads, "loads", []string{"set"}, "what to send: "+strings.Join(bench.Commands, ", "))
	flags.IntSliceVarP(&c.connections, "connections", "c", []int{50}, "`numbers` of connections")
	flags.IntSliceVarP(&c.pipelines, "pipelines", "P", []int{1}, "operations that a connection sends before it waits")
	flags.IntSliceVar(&c.sizes, "sizes", []int{64}, "`bytes` of a value")
	flags.IntVar(&c.env.Rounds, "rounds", 3, "rounds of every load and system")
	flags.DurationVar(&c.env.Time, "time", time.Second, "time of one load in one round")
	flags.StringVar(&c.out, "out", "", "`directory` for report.json, CSV and plots")
	flags.StringVar(&c.record, "record", "", "`page` into which the table is written, with plots beside it")
	addLoadFlags(command, &c.load)
	complete(command, "systems", names...)
	complete(command, "places", bench.Places...)
	complete(command, "loads", bench.Commands...)
	complete(command, "spread", bench.Spreads...)
	return command
}

// list returns all loads that were asked for.
func (c *compared) list() (all []bench.Load, err error) {
	for _, command := range c.loads {
		for _, pipeline := range c.pipelines {
			for _, size := range c.sizes {
				for _, connections := range c.connections {
					l := c.load
					l.Command, l.Pipeline, l.ValueSize, l.Connections, l.Time = command, pipeline, size, connections, c.env.Time
					l.Threads = min(l.Threads, connections)
					if err := l.Check(); err != nil {
						return nil, usage("%v", err)
					}
					all = append(all, l)
				}
			}
		}
	}
	return all, nil
}

func (c *compared) run(ctx context.Context, s *screen, dir string) error {
	loads, err := c.list()
	if err != nil {
		return err
	}
	for _, name := range c.systems {
		if _, err := bench.FindSystem(name); err != nil {
			return usage("--systems: %v", err)
		}
	}
	if c.env.Rounds < 1 || c.env.Rounds > 1000 || len(loads)*len(c.systems) == 0 {
		return usage("use 1 to 1000 rounds, and at least one system and load")
	}
	if c.env.Binaries, err = binaries(ctx, dir, s); err != nil {
		return err
	}
	if err := c.env.Open(dir); err != nil {
		return err
	}
	cells, report, err := bench.RunComparison(ctx, &c.env, bench.Comparison{Systems: c.systems, Places: c.places, Loads: loads}, revision(ctx))
	if closeErr := c.env.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if c.out != "" {
		if _, err := report.Write(c.out); err != nil {
			return err
		}
	}
	if c.record != "" {
		table := "compare"
		if len(c.loads) > 1 {
			table = "loads"
		}
		if err := report.RecordCells(c.record, table, cells); err != nil {
			return err
		}
	}
	return s.show(cells, func() {
		s.printf("%s; %s; load average %s; medians of %d rounds of %.1f s\n\n", report.Revision, report.Machine, report.Load, report.Rounds, report.Seconds)
		s.table(cellRows(cells))
	})
}

func cellRows(cells []bench.Cell) [][]string {
	rows := [][]string{{"LOAD", "SYSTEM", "PLACE", "OPS/S", "RATIO", "P50 US", "P99 US", "P99.9 US", "MAX US", "CPU US/OP", "MIB", "FAILED"}}
	for _, c := range cells {
		rows = append(rows, []string{c.Load.String(), c.System, c.Place, fmt.Sprintf("%.0f", c.Rate), fmt.Sprintf("%.2f", c.Ratio), micro(c.Latency.P50), micro(c.Latency.P99),
			micro(c.Latency.P999), micro(c.Latency.Max), fmt.Sprintf("%.2f", c.CPU), fmt.Sprintf("%.0f", c.Memory/(1<<20)), fmt.Sprint(c.Failed)})
	}
	return rows
}

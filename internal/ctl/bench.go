package ctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/internal/bench"
	"lockstep/internal/release"
)

// benchDir is where benchmarks keep the data of their servers while they run.
const benchDir = "var/bench"

func newBench(s *screen) *cobra.Command {
	var dir string
	own := &ownLoad{}
	command := own.command(s)
	command.AddCommand(newFigures(s, &dir), newCompare(s, &dir), newStages(s, &dir), newFloor(s, &dir), newDrill(s, &dir), newFloorPart())
	command.PersistentFlags().StringVar(&dir, "dir", benchDir, "`directory` for what servers keep while they run")
	return command
}

// ownLoad is a load on servers that run already.
type ownLoad struct {
	identity
	addrs    []string
	password string
	out      string
	fill     bool
	load     bench.Load
}

func (o *ownLoad) command(s *screen) *cobra.Command {
	o.load = bench.NewLoad("set")
	command := &cobra.Command{
		Use:   "bench --addr HOST:PORT",
		Short: "Measure speed: of any Redis server, or of a cluster beside redis-server",
		Long: `With --addr puts a load on servers that run, and shows rate, latencies and errors. It writes to them: keys begin with
"b:". Without --rate each of the connections sends as soon as it was answered (closed loop); with it requests have a time table,
and latencies count from there (open loop). With --tls-ca, --tls-cert and --tls-key it speaks TLS; the load generator then passes every byte on once
more, so that rates are those of server and generator together.

The other commands start servers of their own on this machine.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error { return o.run(ctx, s) }),
	}
	flags := command.Flags()
	flags.StringSliceVar(&o.addrs, "addr", nil, "`host:port` of one or more servers; connections are dealt to them in turn")
	o.addTLS(command)
	o.addLogin(command)
	flags.StringVar(&o.password, "password", "", "password for --user; others on this machine may see it: better --password-file")
	command.MarkFlagsMutuallyExclusive("password", "password-file")
	flags.StringVar(&o.load.Command, "load", "set", "what to send: "+strings.Join(bench.Commands, ", "))
	flags.BoolVar(&o.fill, "fill", true, "before get, mix and lrange: write all keys that are read")
	flags.StringVar(&o.out, "out", "", "`directory` for report.json, CSV and plots")
	addLoadFlags(command, &o.load)
	flags.IntVarP(&o.load.Connections, "connections", "c", o.load.Connections, "connections")
	flags.IntVarP(&o.load.Pipeline, "pipeline", "P", o.load.Pipeline, "operations that a connection sends before it waits")
	flags.IntVar(&o.load.ValueSize, "size", o.load.ValueSize, "`bytes` of a value")
	flags.DurationVar(&o.load.Time, "time", 10*time.Second, "time that counts")
	flags.Uint64Var(&o.load.Operations, "operations", 0, "stop after so many operations, if that comes first")
	complete(command, "load", bench.Commands...)
	complete(command, "spread", bench.Spreads...)
	return command
}

// addLoadFlags adds the flags that every load has.
func addLoadFlags(command *cobra.Command, l *bench.Load) {
	flags := command.Flags()
	flags.IntVar(&l.Keys, "keys", l.Keys, "different keys")
	flags.StringVar(&l.Spread, "spread", l.Spread, "how keys are drawn: "+strings.Join(bench.Spreads, ", "))
	flags.IntVar(&l.Reads, "reads", l.Reads, "per cent of GET in the load mix")
	flags.Float64Var(&l.Rate, "rate", 0, "operations a second of an open loop; 0 is a closed loop")
	flags.DurationVar(&l.Warmup, "warmup", l.Warmup, "time before anything counts")
	flags.IntVar(&l.Threads, "threads", l.Threads, "threads of the load generator")
}

func (o *ownLoad) run(ctx context.Context, s *screen) error {
	if len(o.addrs) == 0 {
		return usage("name a server with --addr, or use figures, compare or failover, which start their own")
	}
	o.load.Slice = max(time.Second, o.load.Time/1000)
	if err := o.load.Check(); err != nil {
		return usage("%v", err)
	}
	login, err := o.loginOf()
	if err != nil {
		return err
	}
	target := bench.Target{Addrs: o.addrs, Login: login}
	if o.fill {
		if err := o.load.Fill(ctx, target); err != nil {
			return err
		}
	}
	result, err := o.load.Run(ctx, target, nil)
	if err != nil {
		return err
	}
	if o.out != "" {
		if _, err := bench.ReportOf(result, strings.Join(o.addrs, " "), release.String()).Write(o.out); err != nil {
			return err
		}
	}
	return s.show(result, func() { showResult(s, result) })
}

// loginOf is how the load shows who it is.
func (o *ownLoad) loginOf() (admin.Login, error) {
	if o.password == "" {
		return o.login(nil)
	}
	user := o.user
	o.user = "" // which goes with a file only
	login, err := o.login(nil)
	login.User, login.Password = user, o.password
	return login, err
}

func showResult(s *screen, r *bench.Result) {
	s.printf("%v\n", r.Load)
	s.printf("%.0f operations a second (%d in %.1f s)\n", r.Rate, r.Operations, r.Seconds)
	l := r.Latency
	s.table([][]string{
		{"MEAN US", "P50", "P90", "P99", "P99.9", "MAX"},
		{micro(l.Mean), micro(l.P50), micro(l.P90), micro(l.P99), micro(l.P999), micro(l.Max)},
	})
	if r.Load.Rate > 0 {
		s.printf("the generator sent too late by %.0f us (p99)\n", r.Late)
	}
	if r.Empty > 0 {
		s.printf("%d replies say that there is no such key\n", r.Empty)
	}
	if trouble := r.Troubles(); trouble != "" {
		s.printf("%s\n", s.paint(red, "failed: "+trouble))
	}
	if len(r.Slices) < 2 {
		return
	}
	rows := [][]string{{"SECOND", "OPS", "FAILED", "P50 US", "P99 US", "MAX US"}}
	for _, t := range r.Slices {
		rows = append(rows, []string{fmt.Sprintf("%.0f", t.At), fmt.Sprint(t.Operations), fmt.Sprint(t.Failed), micro(t.P50), micro(t.P99), micro(t.Max)})
	}
	s.printf("\n")
	s.table(rows)
}

func micro(us float64) string { return fmt.Sprintf("%.0f", us) }

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

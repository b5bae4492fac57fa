package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"lockstep/internal/mutant"
	"lockstep/internal/sim"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

const regressions = "internal/sim/testdata/regressions"

// probesFrom is how many schedules a campaign must have for missed probes to be a failure: the rarest is hit in one of
// about a thousand.
const probesFrom = 20_000

// options are the command line.
type options struct {
	seed                uint64
	seeded              bool // -seed was given
	full, hashes        bool
	lines, workers      int
	replay, keep, off   string
	from, count, least  uint64
	minutes, fullShare  float64
	every               time.Duration
	twiceEvery          uint64
	probes, noRegressed bool
}

func parse(args []string, problems io.Writer) (o options, ok bool) {
	flags := flag.NewFlagSet("smrsim", flag.ContinueOnError)
	flags.SetOutput(problems)
	flags.Uint64Var(&o.seed, "seed", 0, "run this seed only, and show what happened")
	flags.BoolVar(&o.full, "full", false, "with -seed: three raft members in place of the oracle")
	flags.IntVar(&o.lines, "lines", 200, "with -seed or -replay: show so many of the last lines")
	flags.StringVar(&o.replay, "replay", "", "run the schedule in this file, and show what happened")
	flags.Uint64Var(&o.from, "from", 0, "first seed; 0: one that nobody has run before")
	flags.Uint64Var(&o.count, "count", 0, "schedules; 0: until the time is over")
	flags.Float64Var(&o.minutes, "minutes", 0, "end after so long; 0: when -count says, or after one minute without it")
	flags.Uint64Var(&o.least, "least", 0, "go on after the time is over until there were so many schedules")
	flags.IntVar(&o.workers, "workers", runtime.NumCPU(), "schedules at a time")
	flags.Float64Var(&o.fullShare, "full-share", 0.1, "share of the schedules, 0 to 1, with three raft members")
	flags.Uint64Var(&o.twiceEvery, "twice-every", 100, "of so many schedules one runs twice, with equal events; 0: none")
	flags.DurationVar(&o.every, "every", 5*time.Second, "between two lines of progress; 0: none")
	flags.StringVar(&o.keep, "keep", regressions, "directory for what is found; empty: not kept")
	flags.BoolVar(&o.noRegressed, "no-regressions", false, "do not run first what was found before")
	flags.BoolVar(&o.probes, "probes", false, "list all probes at the end")
	flags.BoolVar(&o.hashes, "hashes", false, "only print the hash of the events of each schedule, -count of them in both modes")
	flags.StringVar(&o.off, "mutant", "", "switch this rule off (needs the build tag mutants)")
	if err := flags.Parse(args); err != nil {
		return o, false
	}
	if flags.NArg() > 0 || o.minutes < 0 || o.fullShare < 0 || o.fullShare > 1 || o.workers < 1 {
		fmt.Fprintln(problems, "smrsim: no arguments, -minutes from 0 up, -full-share from 0 to 1, -workers from 1 up")
		return o, false
	}
	flags.Visit(func(f *flag.Flag) { o.seeded = o.seeded || f.Name == "seed" })
	if o.count == 0 && o.minutes == 0 {
		o.minutes = 1
	}
	return o, true
}

// run returns the exit status: 0 all kept, 1 a promise was broken or a probe missed, 2 bad arguments.
func run(args []string, out, problems io.Writer) int {
	o, ok := parse(args, problems)
	if !ok || o.off != "" && !switchOff(o.off, problems) {
		return 2
	}
	switch {
	case o.replay != "":
		r, err := sim.ReadRegression(o.replay)
		if err != nil {
			fmt.Fprintln(problems, err)
			return 2
		}
		c := r.Config()
		c.TraceLines = o.lines
		return show(out, sim.Run(c))
	case o.seeded:
		return show(out, sim.Run(sim.Config{Seed: o.seed, Full: o.full, TraceLines: o.lines}))
	case o.hashes:
		for seed := o.from; seed < o.from+o.count; seed++ {
			fmt.Fprintf(out, "%d %016x %016x\n", seed, sim.Run(sim.Config{Seed: seed}).Hash, sim.Run(sim.Config{Seed: seed, Full: true}).Hash)
		}
		return 0
	}
	if o.from == 0 {
		o.from = uint64(time.Now().UnixMilli()) << 10
	}
	if !o.noRegressed && !past(out, problems) {
		return 1
	}
	fmt.Fprintf(out, "seeds from %d on\n", o.from)
	campaign := sim.Campaign{From: o.from, Count: o.count, Limit: time.Duration(o.minutes * float64(time.Minute)), Least: o.least, Workers: o.workers,
		FullShare: o.fullShare, TwiceEvery: o.twiceEvery, Out: out, Every: o.every, Keep: o.keep, Commit: commit(), ProbesFrom: probesFrom}
	outcome := campaign.Run()
	fmt.Fprint(out, outcome.Summary())
	if o.probes {
		fmt.Fprintln(out, strings.Join(outcome.Probes.Lines(), "\n"))
	}
	fmt.Fprintln(out, outcome.JSON(commit()))
	if !outcome.OK() {
		return 1
	}
	return 0
}

// past runs what was found before.
func past(out, problems io.Writer) bool {
	all, err := sim.ReadRegressions(regressions)
	if err != nil {
		fmt.Fprintln(problems, err)
		return false
	}
	for _, r := range all {
		if result := sim.Run(r.Config()); result.Violation != nil {
			c := r.Config()
			c.TraceLines = 60
			fmt.Fprint(out, sim.Run(c).Explain(commit()))
			return false
		}
	}
	fmt.Fprintf(out, "%d regressions hold; ", len(all))
	return true
}

// show prints one schedule.
func show(out io.Writer, r *sim.Result) int {
	if r.Violation != nil {
		fmt.Fprint(out, r.Explain(commit()))
		return 1
	}
	fmt.Fprintf(out, "options %v\n", r.Options)
	for _, f := range r.Faults {
		fmt.Fprintln(out, f)
	}
	for _, line := range r.Trace {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintf(out, "seed %d: all kept; hash %016x; %+v\n", r.Seed, r.Hash, r.Stats)
	return 0
}

// switchOff plants an error.
func switchOff(name string, problems io.Writer) bool {
	if !mutant.Enabled {
		fmt.Fprintln(problems, "this program was built without the tag mutants")
		return false
	}
	for _, n := range mutant.All() {
		if n.String() == name {
			mutant.Set(n)
			return true
		}
	}
	fmt.Fprintf(problems, "no mutant is called %q\n", name)
	return false
}

// commit names what this program was built from.
func commit() string {
	revision, modified := "", ""
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " with changes"
		}
	}
	if revision != "" {
		return revision + modified
	}
	// Not noted by the builder: it is run where it was built.
	head, err := exec.Command("git", "rev-parse", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	if changes, err := exec.Command("git", "status", "--porcelain", "-uno").Output(); err != nil || len(changes) > 0 {
		modified = " with changes"
	}
	return strings.TrimSpace(string(head)) + modified
}

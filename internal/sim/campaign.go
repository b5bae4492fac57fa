package sim

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Campaign runs many schedules.
type Campaign struct {
	From    uint64        // first seed
	Count   uint64        // schedules; 0: until Limit
	Limit   time.Duration // 0: until Count
	Least   uint64        // Limit does not end it before so many schedules
	Workers int           // schedules at a time
	// FullShare of the schedules, 0 to 1, run in full mode: the seed decides which. Full schedules run one at a time.
	FullShare float64
	// TwiceEvery: of so many schedules one runs a second time and must give the same events; 0: none.
	TwiceEvery uint64
	Out        io.Writer     // progress, and what is found
	Every      time.Duration // between two lines of progress; 0: none
	Keep       string        // directory for what is found; "": not kept
	Commit     string        // of this program, for the report
	// ProbesFrom is how many schedules a campaign must have for missed probes to be a failure.
	ProbesFrom uint64
}

// Outcome of a campaign.
type Outcome struct {
	From                   uint64 // first seed; Schedules of them follow each other, if none failed
	Schedules, Full, Twice uint64
	Stats                  Stats
	Probes                 Probes
	Failed                 *Result // shrunk; nil if nothing was found
	Missed                 []string
	Elapsed                time.Duration
}

// OK reports whether the campaign has shown what it was to show.
func (o *Outcome) OK() bool { return o.Failed == nil && len(o.Missed) == 0 }

// isFull reports whether a seed runs in full mode.
func (c *Campaign) isFull(seed uint64) bool { return float64(mix(seed)>>11) < c.FullShare*(1<<53) }

// mix spreads seeds that follow each other.
func mix(x uint64) uint64 {
	x = (x ^ x>>31) * 0x9E3779B97F4A7C15
	x = (x ^ x>>29) * 0xBF58476D1CE4E5B9
	return x ^ x>>32
}

// one runs a schedule, or the same one twice.
func (c *Campaign) one(seed uint64) (r *Result, twice bool) {
	config := Config{Seed: seed, Full: c.isFull(seed)}
	r = Run(config)
	if r.Violation != nil || c.TwiceEvery == 0 || mix(seed+1)%c.TwiceEvery > 0 {
		return r, false
	}
	if again := Run(config); again.Hash != r.Hash || again.Stats != r.Stats {
		r.Violation = &Violation{Kind: "the seed does not decide everything", Detail: fmt.Sprintf("hashes %016x and %016x", r.Hash, again.Hash)}
	}
	return r, true
}

// Run runs the campaign. It ends with the first broken promise.
func (c *Campaign) Run() *Outcome {
	// Memory is taken and given back all the time and there is little of it: collect it rarely.
	defer debug.SetGCPercent(debug.SetGCPercent(2000))
	start := time.Now()
	o := &Outcome{From: c.From}
	var next atomic.Uint64
	var mu sync.Mutex // guards o
	var failed *Result
	stop := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return failed != nil || c.Limit > 0 && o.Schedules >= c.Least && time.Since(start) >= c.Limit
	}
	done := make(chan struct{})
	var workers, reporter sync.WaitGroup
	for range max(1, c.Workers) {
		workers.Go(func() {
			for !stop() {
				n := next.Add(1) - 1
				if c.Count > 0 && n >= c.Count {
					return
				}
				seed := c.From + n
				r, twice := c.one(seed)
				mu.Lock()
				o.Schedules++
				if twice {
					o.Twice++
				}
				if r.Options.Full {
					o.Full++
				}
				o.Stats.Add(r.Stats)
				o.Probes.add(&r.probes)
				if r.Violation != nil && (failed == nil || r.Seed < failed.Seed) {
					failed = r
				}
				mu.Unlock()
			}
		})
	}
	if c.Out != nil && c.Every > 0 {
		reporter.Go(func() { c.report(o, &mu, start, done) })
	}
	workers.Wait()
	close(done)
	reporter.Wait()
	o.Elapsed = time.Since(start)
	if c.ProbesFrom > 0 && o.Schedules >= c.ProbesFrom {
		o.Missed = slices.DeleteFunc(o.Probes.Missed(), func(name string) bool { return o.Full == 0 && name == probeNames[probeRaftSnapshot] })
	}
	if failed != nil {
		o.Failed = c.explain(failed)
	}
	return o
}

func (c *Campaign) report(o *Outcome, mu *sync.Mutex, start time.Time, done chan struct{}) {
	ticker := time.NewTicker(c.Every)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			mu.Lock()
			line := o.line(time.Since(start))
			mu.Unlock()
			fmt.Fprintln(c.Out, line)
		}
	}
}

func (o *Outcome) line(elapsed time.Duration) string {
	hit := allProbes() - len(o.Probes.Missed())
	return fmt.Sprintf("%7d schedules (%d with raft), %.0f/s; %d masterships, %d crashes, %d writes acknowledged, %d reads; probes %d of %d",
		o.Schedules, o.Full, float64(o.Schedules)/elapsed.Seconds(), o.Stats.Elections, o.Stats.Crashes, o.Stats.Acknowledged,
		o.Stats.Reads, hit, allProbes())
}

// Summary is what is printed at the end.
func (o *Outcome) Summary() string {
	text := o.line(o.Elapsed) + fmt.Sprintf("; %d ran twice; %.1f hours of virtual time, %d events in %.0f s\n", o.Twice,
		float64(o.Stats.VirtualMillis)/3.6e6, o.Stats.Events, o.Elapsed.Seconds())
	if len(o.Missed) > 0 {
		text += "never came there: " + strings.Join(o.Missed, ", ") + "\n"
	}
	return text
}

// summary is what a program reads that adds campaigns up.
type summary struct {
	From         uint64   `json:"from"`
	Schedules    uint64   `json:"schedules"` // the seeds from From on
	Full         uint64   `json:"full"`
	Twice        uint64   `json:"twice"`
	Masterships  uint64   `json:"masterships"`
	Crashes      uint64   `json:"crashes"`
	Acknowledged uint64   `json:"acknowledged"`
	Reads        uint64   `json:"reads"`
	Events       uint64   `json:"events"`
	Seconds      float64  `json:"seconds"`
	PerSecond    float64  `json:"per_second"`
	Probes       int      `json:"probes"`
	ProbesHit    int      `json:"probes_hit"`
	Missed       []string `json:"missed,omitempty"` // of a run that was long enough to hit all
	Failed       *uint64  `json:"failed_seed,omitempty"`
	Violation    string   `json:"violation,omitempty"`
	Commit       string   `json:"commit"`
}

// JSON returns one line that tells the outcome to a program.
func (o *Outcome) JSON(commit string) string {
	s := summary{From: o.From, Schedules: o.Schedules, Full: o.Full, Twice: o.Twice, Masterships: o.Stats.Elections, Crashes: o.Stats.Crashes,
		Acknowledged: o.Stats.Acknowledged, Reads: o.Stats.Reads, Events: o.Stats.Events, Seconds: o.Elapsed.Seconds(),
		PerSecond: float64(o.Schedules) / o.Elapsed.Seconds(), Probes: allProbes(), ProbesHit: allProbes() - len(o.Probes.Missed()),
		Missed: o.Missed, Commit: commit}
	if o.Failed != nil {
		s.Failed, s.Violation = &o.Failed.Seed, o.Failed.Violation.Error()
	}
	line, err := json.Marshal(s)
	if err != nil {
		panic(err) // numbers and texts always encode
	}
	return string(line)
}

// explain makes the faults of a failed schedule fewer, prints all about it and keeps it.
func (c *Campaign) explain(failed *Result) *Result {
	if c.Out != nil {
		fmt.Fprintf(c.Out, "seed %d: %v\nmaking its %d faults fewer ...\n", failed.Seed, failed.Violation, len(failed.Faults))
	}
	small := Shrink(failed)
	small = Run(Config{Seed: small.Seed, Full: small.Options.Full, Faults: small.Faults, Options: &small.Options, TraceLines: 60})
	if c.Out != nil {
		fmt.Fprint(c.Out, small.Explain(c.Commit))
	}
	if c.Keep != "" {
		name, err := WriteRegression(c.Keep, small)
		if c.Out != nil {
			if err != nil {
				fmt.Fprintf(c.Out, "it could not be kept: %v\n", err)
			} else {
				fmt.Fprintf(c.Out, "kept as %s; with these faults only: go run ./cmd/smrsim -replay %s\n", name, name)
			}
		}
	}
	return small
}

// Explain tells all about a schedule that broke a promise.
func (r *Result) Explain(commit string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nBROKEN  %v\nseed    %d, commit %s\noptions %v\n", r.Violation, r.Seed, commit, r.Options)
	fmt.Fprintf(&b, "faults  %d\n", len(r.Faults))
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "        %v\n", f)
	}
	fmt.Fprintf(&b, "last events\n")
	for _, line := range r.Trace {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	full := ""
	if r.Options.Full {
		full = " FULL=1"
	}
	fmt.Fprintf(&b, "again   make sim SEED=%d%s\n", r.Seed, full)
	return b.String()
}

package bench

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Load is what clients send. Sizes are bytes. NewLoad gives the usual one; Check says what cannot be had.
type Load struct {
	Command     string        `json:"command"` // one of Commands
	Connections int           `json:"connections"`
	Pipeline    int           `json:"pipeline"`    // operations that a connection sends before it waits for all their replies
	ValueSize   int           `json:"value_size"`  // of one value or element
	Keys        int           `json:"keys"`        // different ones
	Spread      string        `json:"spread"`      // one of Spreads: how keys are drawn
	Reads       int           `json:"reads"`       // per cent of GET in mix
	Rate        float64       `json:"rate"`        // operations a second that are begun whether or not the servers keep up; 0: each connection sends when it was answered
	Operations  uint64        `json:"operations"`  // stop after so many; 0: the time decides
	Warmup      time.Duration `json:"warmup_ns"`   // before anything counts
	Time        time.Duration `json:"time_ns"`     // that counts
	Slice       time.Duration `json:"slice_ns"`    // of the time line
	Patience    time.Duration `json:"patience_ns"` // for replies after the end
	Threads     int           `json:"threads"`     // of the generator
}

// Limits of a load.
const (
	maxConnections = 10_000
	maxPipeline    = 1024
	maxValueSize   = 16 << 20
	maxKeys        = 1_000_000_000
	maxThreads     = 64
	maxSlices      = 100_000
	maxRate        = 1e7
	maxUnderWay    = 1 << 30 // bytes of values in requests that wait for replies: the generator holds them
)

// Commands are the loads there are, by what they send.
var Commands = []string{"set", "get", "mix", "incr", "lpush", "hset", "zadd", "mset", "lrange"}

// Spreads are the ways keys are drawn: each alike, few often and many seldom (Zipf with s = 1.1), one after the other, always the same.
var Spreads = []string{"uniform", "zipf", "sequence", "one"}

// NewLoad returns the load of a command with 50 connections, no pipelining and 64-byte values on 100,000 keys.
func NewLoad(command string) Load {
	return Load{
		Command: command, Connections: 50, Pipeline: 1, ValueSize: 64, Keys: 100_000, Spread: "uniform", Reads: 90,
		Warmup: 300 * time.Millisecond, Time: 2 * time.Second, Slice: time.Second, Patience: 10 * time.Second, Threads: 1,
	}
}

// Check reports everything that is wrong with l.
func (l Load) Check() error {
	var problems []error
	within := func(what string, value, least, most int) {
		if value < least || value > most {
			problems = append(problems, fmt.Errorf("%s %d: use %d to %d", what, value, least, most))
		}
	}
	among := func(what, value string, known []string) {
		if !slices.Contains(known, value) {
			problems = append(problems, fmt.Errorf("%s %q: use one of %s", what, value, strings.Join(known, ", ")))
		}
	}
	among("load", l.Command, append(slices.Clone(Commands), fillLists))
	among("spread", l.Spread, Spreads)
	within("connections", l.Connections, 1, maxConnections)
	within("pipeline", l.Pipeline, 1, maxPipeline)
	within("value size", l.ValueSize, 1, maxValueSize)
	within("keys", l.Keys, 1, maxKeys)
	within("reads", l.Reads, 0, 100)
	within("threads", l.Threads, 1, maxThreads)
	if l.Threads > l.Connections {
		problems = append(problems, fmt.Errorf("%d threads have only %d connections: use fewer", l.Threads, l.Connections))
	}
	values := 1
	if l.Command == "mset" {
		values = msetKeys
	}
	if bytes := float64(l.Connections) * float64(l.Pipeline) * float64(l.ValueSize) * float64(values); bytes > maxUnderWay {
		problems = append(problems, fmt.Errorf("%d connections with pipelines of %d and values of %d bytes have %.0f MiB under way: use at most %d",
			l.Connections, l.Pipeline, l.ValueSize, bytes/(1<<20), maxUnderWay>>20))
	}
	if math.IsNaN(l.Rate) || l.Rate < 0 || l.Rate > maxRate {
		problems = append(problems, fmt.Errorf("rate %v: use 0 (closed loop) to %.0f operations a second", l.Rate, maxRate))
	}
	if l.Warmup < 0 || l.Patience < 0 || l.Time <= 0 || l.Slice <= 0 || l.Time/l.Slice > maxSlices {
		problems = append(problems, fmt.Errorf("time %v, warm-up %v, slices of %v: use positive times, and at most %d slices", l.Time, l.Warmup, l.Slice, maxSlices))
	}
	return errors.Join(problems...)
}

// String names the load in a line.
func (l Load) String() string {
	text := strings.ToUpper(l.Command)
	if l.Command == "mix" {
		text = fmt.Sprintf("%d %% GET, %d %% SET", l.Reads, 100-l.Reads)
	}
	text += fmt.Sprintf(", %d bytes, c %d, p %d", l.ValueSize, l.Connections, l.Pipeline)
	if l.Rate > 0 {
		text += fmt.Sprintf(", %.0f/s", l.Rate)
	}
	return text
}

// fills returns the load that makes what l reads, if it reads anything.
func (l Load) fills() (Load, bool) {
	fill := NewLoad("set")
	fill.Connections, fill.Pipeline, fill.ValueSize, fill.Spread = 8, 64, l.ValueSize, "sequence"
	fill.Warmup, fill.Time, fill.Slice = 0, fillTime, fillTime
	switch l.Command {
	case "get", "mix":
		fill.Keys = l.Keys
	case "lrange":
		fill.Command, fill.Keys, fill.Pipeline = fillLists, min(l.Keys, maxLists), 4
	default:
		return Load{}, false
	}
	fill.Operations = uint64(fill.Keys)
	return fill, true
}

// fillTime bounds how long filling may take.
const fillTime = 10 * time.Minute

package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Comparison puts loads on systems, in turn.
type Comparison struct {
	Systems []string // names; they all run at the same time
	Places  []string // for Lockstep; all others are always asked at the master
	Loads   []Load
}

// Cell is what a system came to under a load: medians of the rounds.
type Cell struct {
	Load    Load               `json:"load"`
	System  string             `json:"system"`
	Place   string             `json:"place"`
	Rate    float64            `json:"ops_per_second"`
	Latency Latency            `json:"latency"`
	CPU     float64            `json:"cpu_us_op"`
	Kinds   map[string]float64 `json:"cpu_us_op_by_kind"`
	Memory  float64            `json:"resident_bytes"`
	Failed  uint64             `json:"failed"`
	Ratio   float64            `json:"ratio"` // its rate by that of the first system under the same load
}

// RunComparison measures in e, which must be open. The report has samples and no figures.
func RunComparison(ctx context.Context, e *Env, c Comparison, revision string) ([]Cell, *Report, error) {
	var sides []side
	for _, system := range c.Systems {
		if _, err := FindSystem(system); err != nil {
			return nil, nil, err
		}
		places := c.Places
		if !strings.HasPrefix(system, "lockstep") {
			places = []string{"master"}
		}
		for _, place := range places {
			sides = append(sides, side{system, place})
		}
	}
	report := newReport(e, revision)
	cells := []Cell{}
	for _, l := range c.Loads {
		if err := l.Check(); err != nil {
			return nil, nil, err
		}
		under, err := e.measureSides(ctx, rowOf(l), sides, l)
		if err != nil {
			return nil, nil, err
		}
		cells = append(cells, under...)
	}
	report.finish(e)
	return cells, report, nil
}

// measureSides puts one load on all sides in turn, in rounds; who comes first takes turns too.
func (e *Env) measureSides(ctx context.Context, row string, sides []side, l Load) ([]Cell, error) {
	samples := make([][]Sample, len(sides))
	for round := range e.Rounds {
		for i := range sides {
			if round%2 == 1 {
				i = len(sides) - 1 - i
			}
			s, err := e.measureSide(ctx, row, sides[i], l, round)
			if err != nil {
				return nil, err
			}
			samples[i] = append(samples[i], s)
		}
	}
	var cells []Cell
	for i, s := range sides {
		cell := cellOf(samples[i])
		cell.Load, cell.System, cell.Place = l, s.system, s.place
		cells = append(cells, cell)
		cells[i].Ratio = by(cell.Rate, cells[0].Rate)
	}
	return cells, nil
}

// rowOf names what belongs into one plot: everything but the connections.
func rowOf(l Load) string {
	name := fmt.Sprintf("%s-p%d-%db", l.Command, l.Pipeline, l.ValueSize)
	if l.Rate > 0 {
		name += "-open"
	}
	return name
}

func cellOf(samples []Sample) Cell {
	of := func(figure func(Sample) float64) float64 { return median(figuresOf(samples, figure)) }
	c := Cell{
		Rate: of(rate.of), CPU: of(cpu.of), Memory: of(func(s Sample) float64 { return float64(s.Memory) }), Failed: failed(samples), Kinds: make(map[string]float64),
		Latency: Latency{
			Mean: of(func(s Sample) float64 { return s.Latency.Mean }), P50: of(p50.of), P90: of(func(s Sample) float64 { return s.Latency.P90 }),
			P99: of(func(s Sample) float64 { return s.Latency.P99 }), P999: of(func(s Sample) float64 { return s.Latency.P999 }),
			Max: of(func(s Sample) float64 { return s.Latency.Max }),
		},
	}
	for kind := range samples[0].Kinds {
		c.Kinds[kind] = of(func(s Sample) float64 { return s.Kinds[kind] })
	}
	return c
}

// Fill puts in what l reads. Servers of others are only filled when their owner asks for it.
func (l Load) Fill(ctx context.Context, target Target) error {
	fill, needed := l.fills()
	if !needed {
		return nil
	}
	fill.Connections = min(fill.Connections, l.Connections)
	result, err := fill.Run(ctx, target, nil)
	if err == nil && result.Failed() > 0 {
		err = errors.New(result.Troubles())
	}
	if err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	return nil
}

// Troubles says what failed, in one line; "" if nothing did.
func (r *Result) Troubles() string {
	var all []string
	for _, name := range sortedKeys(r.Errors) {
		text := fmt.Sprintf("%d times %s", r.Errors[name], name)
		if example := r.Examples[name]; example != "" {
			text += fmt.Sprintf(" (%s)", strings.TrimSpace(example))
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// ReportOf is the report of a single result, for its files and plots.
func ReportOf(result *Result, address, revision string) *Report {
	report := &Report{Begun: result.Begun.UTC().Truncate(time.Second), Revision: revision, Machine: machine(), Load: loadAverage(), Rounds: 1, Seconds: result.Seconds, Took: result.Seconds}
	report.Samples = []Sample{{Row: rowOf(result.Load), System: address, Kinds: map[string]float64{}, Result: result}}
	return report
}

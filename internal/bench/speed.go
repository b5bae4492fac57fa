package bench

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// side is a system and where its clients connect.
type side struct{ system, place string }

// figure is what two sides are compared by.
type figure struct {
	of   func(Sample) float64
	unit string
}

var (
	rate = figure{func(s Sample) float64 { return s.Rate }, "/s"}
	p50  = figure{func(s Sample) float64 { return s.Latency.P50 }, " us p50"}
	cpu  = figure{func(s Sample) float64 { return s.CPU }, " us CPU"}
)

// comparison is a row whose figure is that of one side by that of another, under one load, in turn.
type comparison struct {
	name, about   string
	goal          Goal
	load          Load
	mine, against side
	figure        figure
	smoke         bool
}

func (c comparison) row() Row {
	row := Row{Name: c.name, About: c.about, Goal: c.goal, Systems: []string{c.mine.system}, Smoke: c.smoke}
	if c.against.system != c.mine.system {
		row.Systems = append(row.Systems, c.against.system)
	}
	row.Run = c.run
	return row
}

// run measures both sides in turn; who comes first takes turns too.
func (c comparison) run(ctx context.Context, e *Env) (Outcome, error) {
	sides := []side{c.mine, c.against}
	samples := make([][]Sample, len(sides))
	for round := range e.Rounds {
		for i := range sides {
			if round%2 == 1 {
				i = len(sides) - 1 - i
			}
			s, err := e.measureSide(ctx, c.name, sides[i], c.load, round)
			if err != nil {
				return Outcome{}, err
			}
			samples[i] = append(samples[i], s)
		}
	}
	mine, against := figuresOf(samples[0], c.figure.of), figuresOf(samples[1], c.figure.of)
	out := Outcome{Errors: failed(samples[0]) + failed(samples[1])}
	out.compare(mine, against)
	out.Measured = fmt.Sprintf("%s by %s", number(median(mine))+c.figure.unit, number(median(against))+c.figure.unit)
	for i, name := range []string{c.mine.system + " " + c.mine.place, c.against.system + " " + c.against.place} {
		out.Notes = append(out.Notes, describe(name, samples[i]))
	}
	return out, nil
}

// describe sums samples of one side up in a line.
func describe(name string, samples []Sample) string {
	of := func(figure func(Sample) float64) string { return number(median(figuresOf(samples, figure))) }
	text := fmt.Sprintf("%s: %s/s, p50 %s us, p99 %s us, p99.9 %s us, max %s us, CPU %s us/op", name, of(rate.of), of(p50.of),
		of(func(s Sample) float64 { return s.Latency.P99 }), of(func(s Sample) float64 { return s.Latency.P999 }),
		of(func(s Sample) float64 { return s.Latency.Max }), of(cpu.of))
	var kinds []string
	for _, kind := range []string{"kvnode", "replicator", "confmaster"} {
		if _, known := samples[0].Kinds[kind]; known {
			kinds = append(kinds, kind+" "+of(func(s Sample) float64 { return s.Kinds[kind] }))
		}
	}
	if len(kinds) > 0 {
		text += " (" + strings.Join(kinds, ", ") + ")"
	}
	return text + fmt.Sprintf(", memory %.0f MiB, load generator %s us/op", median(figuresOf(samples, func(s Sample) float64 { return float64(s.Memory) }))/(1<<20),
		of(func(s Sample) float64 { return s.OwnCPU }))
}

// number shows a figure with about three digits that count.
func number(value float64) string {
	switch {
	case value >= 100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.2f", value)
}

// measureSide measures one side once and keeps the sample for the report.
func (e *Env) measureSide(ctx context.Context, row string, s side, l Load, round int) (Sample, error) {
	running, err := e.System(ctx, s.system)
	if err != nil {
		return Sample{}, err
	}
	l.Time = e.Time
	l.Slice = min(time.Second, max(e.Time/20, 10*time.Millisecond))
	sample, err := e.Measure(ctx, running, s.place, l)
	if err != nil {
		return Sample{}, err
	}
	sample.Row, sample.Round = row, round
	e.Keep(sample)
	e.Progress(fmt.Sprintf("%-22s round %d of %d: %-17s %-6s %9.0f/s  p50 %6.0f us  p99 %6.0f us  CPU %5.2f us/op", row, round+1, e.Rounds, s.system, s.place,
		sample.Rate, sample.Latency.P50, sample.Latency.P99, sample.CPU))
	return sample, nil
}

// Keep puts a sample into the report: its figures into the JSON and CSV, its time line into the plots.
func (e *Env) Keep(s Sample) { e.samples = append(e.samples, s) }

func loadOf(command string, connections, pipeline int) Load {
	l := NewLoad(command)
	l.Connections, l.Pipeline = connections, pipeline
	return l
}

// speedRows are the figures of issue 6 that compare two systems under one load.
func speedRows() []Row {
	ratio := func(bound float64) Goal { return Goal{Bound: bound, AtLeast: true} }
	atMost := func(bound float64) Goal { return Goal{Bound: bound} }
	always, redisAlways := side{LockstepAlways, "master"}, side{RedisAlways, "master"}
	slave, single := side{LockstepAlways, "slave"}, side{RedisSingle, "master"}
	system, redisNo := side{LockstepOS, "master"}, side{RedisNo, "master"}
	const promised = " by three redis-servers (always, WAIT 1)"
	var rows []Row
	for _, c := range []comparison{
		{"set", "SET, 50 connections, sync always," + promised, ratio(3), loadOf("set", 50, 1), always, redisAlways, rate, true},
		{"set-p16", "SET, 50 connections, pipeline 16, sync always," + promised, ratio(2), loadOf("set", 50, 16), always, redisAlways, rate, true},
		{"set-c1", "p50 of SET, 1 connection, sync always," + promised, atMost(0.6), loadOf("set", 1, 1), always, redisAlways, p50, true},
		{"mix", "90 % GET and 10 % SET, 50 connections, sync always," + promised, ratio(3), loadOf("mix", 50, 1), always, redisAlways, rate, true},
		{"get-cpu", "CPU of a linearizable GET on the master's node by one redis-server, 50 connections", atMost(1.1), loadOf("get", 50, 1), always, single, cpu, true},
		{"get-rate", "linearizable GET on the master's node by one redis-server, 50 connections", ratio(0.9), loadOf("get", 50, 1), always, single, rate, true},
		{"get-cpu-p16", "the same CPU at pipeline 16", atMost(1.1), loadOf("get", 50, 16), always, single, cpu, false},
		{"get-rate-p16", "the same rate at pipeline 16", ratio(0.9), loadOf("get", 50, 16), always, single, rate, false},
		{"get-slave", "linearizable GET on a slave's node by the master's node, 50 connections", ratio(0.5), loadOf("get", 50, 1), slave, always, rate, true},
		{"set-os", "SET, 50 connections, sync os, by three redis-servers (no file, WAIT 1)", ratio(1.2), loadOf("set", 50, 1), system, redisNo, rate, false},
		{"set-os-p16", "the same at pipeline 16", ratio(1.2), loadOf("set", 50, 16), system, redisNo, rate, false},
	} {
		rows = append(rows, c.row())
	}
	return rows
}

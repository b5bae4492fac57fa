package bench

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Write writes the report into a directory: report.json, figures.csv, samples.csv, timeline.csv, and a plot over time for
// each row that has samples. It returns the names of the plots.
func (r *Report) Write(dir string) (plots []string, err error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the report: %w", err)
	}
	files := map[string][]byte{
		"report.json": append(text, '\n'), "figures.csv": r.figuresCSV(), "samples.csv": r.samplesCSV(), "timeline.csv": r.timelineCSV(),
	}
	for name, chart := range r.Charts() {
		files[name+".svg"] = chart.SVG()
		plots = append(plots, name+".svg")
	}
	slices.Sort(plots)
	return plots, writeFiles(dir, files)
}

func writeFiles(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	var problems []error
	for _, name := range sortedKeys(files) {
		if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o644); err != nil {
			problems = append(problems, fmt.Errorf("write results: %w", err))
		}
	}
	return errors.Join(problems...)
}

func table(rows [][]string) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.WriteAll(rows) // a buffer takes everything
	return b.Bytes()
}

func exact(value float64) string { return strconv.FormatFloat(value, 'g', 6, 64) }

func (r *Report) figuresCSV() []byte {
	rows := [][]string{{"row", "value", "low", "high", "goal", "value_by_goal", "verdict", "why", "measured", "errors", "seconds", "command"}}
	for _, f := range r.Figures {
		rows = append(rows, []string{f.Name, exact(f.Value), exact(f.Low), exact(f.High), f.Goal, exact(f.OfGoal), f.Verdict, f.Why, f.Measured,
			strconv.FormatUint(f.Errors, 10), exact(f.Seconds), f.Command})
	}
	return table(rows)
}

func (r *Report) samplesCSV() []byte {
	rows := [][]string{{"row", "system", "place", "round", "load", "connections", "pipeline", "value_size", "keys", "spread", "rate_asked", "seconds", "operations", "ops_per_second",
		"mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us", "cpu_us_op", "cpu_kvnode_us_op", "cpu_replicator_us_op", "cpu_confmaster_us_op", "cpu_redis_us_op",
		"resident_bytes", "disk_bytes_op", "empty", "failed", "late_p99_us", "generator_cpu_us_op"}}
	for _, s := range r.Samples {
		l, t := s.Load, s.Latency
		rows = append(rows, []string{s.Row, s.System, s.Place, strconv.Itoa(s.Round), l.Command, strconv.Itoa(l.Connections), strconv.Itoa(l.Pipeline), strconv.Itoa(l.ValueSize),
			strconv.Itoa(l.Keys), l.Spread, exact(l.Rate), exact(s.Seconds), strconv.FormatUint(s.Operations, 10), exact(s.Rate),
			exact(t.Mean), exact(t.P50), exact(t.P90), exact(t.P99), exact(t.P999), exact(t.Max), exact(s.CPU), exact(s.Kinds["kvnode"]), exact(s.Kinds["replicator"]),
			exact(s.Kinds["confmaster"]), exact(s.Kinds["redis-server"]), strconv.FormatUint(s.Memory, 10), exact(s.Written), strconv.FormatUint(s.Empty, 10),
			strconv.FormatUint(s.Failed(), 10), exact(s.Late), exact(s.OwnCPU)})
	}
	return table(rows)
}

func (r *Report) timelineCSV() []byte {
	rows := [][]string{{"row", "system", "place", "round", "at_s", "slice_s", "operations", "failed", "p50_us", "p99_us", "max_us"}}
	for _, s := range r.Samples {
		for _, t := range s.Slices {
			rows = append(rows, []string{s.Row, s.System, s.Place, strconv.Itoa(s.Round), exact(t.At), exact(s.Load.Slice.Seconds()),
				strconv.FormatUint(t.Operations, 10), strconv.FormatUint(t.Failed, 10), exact(t.P50), exact(t.P99), exact(t.Max)})
		}
	}
	return table(rows)
}

// Charts returns the plots of the report by name: over time for each row, and over connections where a row has several
// numbers of them.
func (r *Report) Charts() map[string]Chart {
	byRow := make(map[string][]Sample)
	for _, s := range r.Samples {
		byRow[s.Row] = append(byRow[s.Row], s)
	}
	charts := make(map[string]Chart)
	for row, samples := range byRow {
		under := fmt.Sprintf("%s; %s; load average %s", r.Revision, r.Machine, r.Load)
		if overConnections(samples) {
			charts[row] = connectionChart(row, under, samples)
		} else {
			charts[row] = timeChart(row, under, samples)
		}
	}
	return charts
}

func overConnections(samples []Sample) bool {
	return slices.ContainsFunc(samples, func(s Sample) bool { return s.Load.Connections != samples[0].Load.Connections })
}

// lineName tells samples apart that belong on different lines.
func lineName(s Sample) string {
	name := s.System
	if s.Place != "" {
		name += ", " + s.Place
	}
	if s.Load.Rate > 0 {
		name += ", open loop"
	}
	return name
}

// timeChart shows throughput and latency over time, a line for each round.
func timeChart(row, under string, samples []Sample) Chart {
	var rates, latencies []Line
	for _, s := range samples {
		width := s.Load.Slice.Seconds()
		line := Line{Name: lineName(s), Faint: true}
		middle, tail := line, line
		tail.Dashed = true
		for i, t := range s.Slices {
			if whole := t.At + width; i > 0 && whole > s.Seconds+width/100 {
				break // the last one is no whole slice
			}
			line.Points = append(line.Points, Point{t.At + width/2, float64(t.Operations) / width})
			if t.Operations+t.Failed > 0 {
				middle.Points = append(middle.Points, Point{t.At + width/2, t.P50 / 1000})
				tail.Points = append(tail.Points, Point{t.At + width/2, t.P99 / 1000})
			}
		}
		rates = append(rates, line)
		latencies = append(latencies, middle, tail)
	}
	return Chart{Title: row + ": " + samples[0].Load.String(), Under: under, XTitle: "seconds", Panels: []Panel{
		{Title: "operations a second", Lines: rates},
		{Title: "latency in ms: p50, and p99 (dashed)", Log: true, Lines: latencies},
	}}
}

// connectionChart shows throughput and latency over the number of connections: medians of the rounds.
func connectionChart(row, under string, samples []Sample) Chart {
	type place struct {
		name        string
		connections int
	}
	var names []string
	groups := make(map[place][]Sample)
	for _, s := range samples {
		name := lineName(s)
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		groups[place{name, s.Load.Connections}] = append(groups[place{name, s.Load.Connections}], s)
	}
	var rates, latencies, costs []Line
	for _, name := range names {
		line := Line{Name: name}
		middle, tail, cost := line, line, line
		tail.Dashed = true
		for _, at := range slices.SortedFunc(maps.Keys(groups), func(a, b place) int { return a.connections - b.connections }) {
			if at.name != name {
				continue
			}
			of := func(figure func(Sample) float64) float64 { return median(figuresOf(groups[at], figure)) }
			x := float64(at.connections)
			line.Points = append(line.Points, Point{x, of(rate.of)})
			middle.Points = append(middle.Points, Point{x, of(p50.of) / 1000})
			tail.Points = append(tail.Points, Point{x, of(func(s Sample) float64 { return s.Latency.P99 }) / 1000})
			if value := of(cpu.of); value > 0 {
				cost.Points = append(cost.Points, Point{x, value})
			}
		}
		rates, latencies, costs = append(rates, line), append(latencies, middle, tail), append(costs, cost)
	}
	l := samples[0].Load
	chart := Chart{Title: fmt.Sprintf("%s: %s, %d bytes, pipeline %d", row, strings.ToUpper(l.Command), l.ValueSize, l.Pipeline), Under: under, XTitle: "connections", XLog: true, Panels: []Panel{
		{Title: "operations a second", Lines: rates},
		{Title: "latency in ms: p50, and p99 (dashed)", Log: true, Lines: latencies},
	}}
	if slices.ContainsFunc(costs, func(l Line) bool { return len(l.Points) > 0 }) { // not of servers elsewhere
		chart.Panels = append(chart.Panels, Panel{Title: "CPU of all servers, in us for an operation", Log: true, Lines: costs})
	}
	return chart
}

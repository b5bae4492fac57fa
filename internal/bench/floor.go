package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lockstep/internal/bench/floor"
)

// FloorPart names the command of `smrctl bench` that runs a process of the floor.
const FloorPart = "floor-part"

// bare returns what starts the bare skeleton (internal/bench/floor). Its processes are this program once more.
func bare(sync string, full bool) func(context.Context, *Env, string) (*Running, error) {
	return func(ctx context.Context, e *Env, dir string) (*Running, error) {
		skeleton, err := floor.Start(ctx, floor.Options{
			Program: []string{"/proc/self/exe", "bench", FloorPart}, Dir: dir, Sync: sync, Full: full, Flights: max(e.Flights, 1),
		})
		if err != nil {
			return nil, err
		}
		return &Running{
			filled: make(map[string]bool),
			list: func() (list []Process) {
				for _, p := range skeleton.Parts {
					list = append(list, Process{p.Kind, p.Node, p.Pid})
				}
				return list
			},
			addrs: func(_ context.Context, place string) ([]string, error) {
				if place != "master" {
					return nil, errors.New("the floor has one node that takes clients: use master")
				}
				return []string{skeleton.Addr}, nil
			},
			stop: skeleton.Stop,
		}, nil
	}
}

// FloorCell is what one system came to under the load of a row, beside the floor.
type FloorCell struct {
	Row  string `json:"row"`
	Goal string `json:"goal"` // of the row, which compares Lockstep with redis-server
	Cell
	ByRedis  float64 `json:"by_redis"` // its figure by that of the redis-servers, as the row has it: rates, or p50; 0: they were not measured
	Lockstep float64 `json:"lockstep"` // Lockstep's figure by its
}

// floorRow is a row of issue 6 that a write's way through all processes decides, and on what it is measured.
type floorRow struct {
	name    string
	load    Load
	figure  figure
	systems []string // redis-servers first, Lockstep last
}

func floorRows() []floorRow {
	always, system := []string{RedisAlways, FloorAlways, FloorFullAlways, LockstepAlways}, []string{RedisNo, FloorOS, FloorFullOS, LockstepOS}
	return []floorRow{
		{"set", loadOf("set", 50, 1), rate, always},
		{"set-p16", loadOf("set", 50, 16), rate, always},
		{"set-c1", loadOf("set", 1, 1), p50, always},
		{"mix", loadOf("mix", 50, 1), rate, always},
		{"set-os", loadOf("set", 50, 1), rate, system},
		{"set-os-p16", loadOf("set", 50, 16), rate, system},
	}
}

// FloorRows are the names of the rows that RunFloor knows.
func FloorRows() (names []string) {
	for _, r := range floorRows() {
		names = append(names, r.name)
	}
	return names
}

// RunFloor measures the bare skeleton beside redis-server and Lockstep in e, which must be open, under the loads of these rows; none takes all.
// The report has samples and no figures.
func RunFloor(ctx context.Context, e *Env, names []string, revision string) ([]FloorCell, *Report, error) {
	for _, name := range names {
		if !slices.Contains(FloorRows(), name) {
			return nil, nil, fmt.Errorf("no row %q beside the floor: use %s", name, strings.Join(FloorRows(), ", "))
		}
	}
	report := newReport(e, revision)
	cells := []FloorCell{}
	for _, r := range floorRows() {
		if len(names) > 0 && !slices.Contains(names, r.name) {
			continue
		}
		if _, _, err := redisVersion(ctx); errors.Is(err, ErrNoRedis) {
			e.Progress(fmt.Sprintf("%-22s without redis-servers: %v", r.name, err))
			r.systems = r.systems[1:]
		}
		if err := e.StopExcept(r.systems...); err != nil {
			return nil, nil, err
		}
		measured, err := r.measure(ctx, e)
		if err != nil {
			return nil, nil, err
		}
		cells = append(cells, measured...)
	}
	report.finish(e)
	return cells, report, nil
}

func (r floorRow) measure(ctx context.Context, e *Env) ([]FloorCell, error) {
	var sides []side
	for _, system := range r.systems {
		sides = append(sides, side{system, "master"})
	}
	measured, err := e.measureSides(ctx, "floor-"+r.name, sides, r.load)
	if err != nil {
		return nil, err
	}
	rows, err := ChooseRows([]string{r.name}, false)
	if err != nil {
		return nil, err
	}
	return r.beside(measured, rows[0].Goal.String()), nil
}

// beside adds the ratios to what was measured.
func (r floorRow) beside(measured []Cell, goal string) (cells []FloorCell) {
	of := func(c Cell) float64 { return r.figure.of(Sample{Result: &Result{Rate: c.Rate, Latency: c.Latency}}) }
	redis, lockstep := 0.0, of(measured[len(measured)-1])
	if strings.HasPrefix(measured[0].System, "redis") {
		redis = of(measured[0])
	}
	for _, c := range measured {
		cells = append(cells, FloorCell{Row: r.name, Goal: goal, Cell: c, ByRedis: by(of(c), redis), Lockstep: by(lockstep, of(c))})
	}
	return cells
}

// RecordFloor is Record for the floor.
func (r *Report) RecordFloor(page string, cells []FloorCell) error {
	return r.record(page, "floor", func(plots []string) string { return r.markdownFloor(cells, plots) })
}

func (r *Report) markdownFloor(cells []FloorCell, plots []string) string {
	var b strings.Builder
	r.writeWhen(&b)
	fmt.Fprintf(&b, "Medians of %d rounds of %g s; ratios are of rates, of set-c1 of p50.\n\n", r.Rounds, r.Seconds)
	b.WriteString("| row | goal | system | ops/s | p50 us | CPU us/op | by redis-server | Lockstep by it | failed |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range cells {
		fmt.Fprintf(&b, "| %s | %s | %s | %.0f | %.0f | %s | %s | %s | %d |\n", c.Row, c.Goal, c.System, c.Rate, c.Latency.P50, number(c.CPU), RatioText(c.ByRedis),
			RatioText(c.Lockstep), c.Failed)
	}
	writeLinks(&b, plots)
	return b.String()
}

// RatioText shows a ratio; "-" if there is nothing to compare with.
func RatioText(ratio float64) string {
	if ratio == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", ratio)
}

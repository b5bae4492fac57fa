package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Env is where rows run: one after the other, on one goroutine.
type Env struct {
	Binaries string            // directory of Lockstep's
	Rounds   int               // of every measurement that is repeated; at least 1
	Time     time.Duration     // of one measurement
	Kills    int               // of rows that break something again and again
	Small    bool              // bench-smoke: data sets may be a tenth
	Flights  int               // of the floor: frames that may be on their way at once; 0 is 1
	Progress func(line string) // must not be nil

	dir     string // for the data of all servers; removed when Close is called
	seen    int    // directories made
	systems map[string]*Running
	samples []Sample
	version string       // of redis-server
	drilled *DrillReport // what several rows show of
	volumes *volumes
}

// Open makes the working directory below parent. Close must be called.
func (e *Env) Open(parent string) error {
	if e.Rounds < 1 || e.Time <= 0 || e.Kills < 1 {
		return fmt.Errorf("%d rounds of %v, %d kills: use 1 or more", e.Rounds, e.Time, e.Kills)
	}
	dir, err := workDir(parent)
	e.dir, e.systems = dir, make(map[string]*Running)
	return err
}

// Close stops all systems and removes the working directory.
func (e *Env) Close() error {
	err := e.StopExcept()
	if e.dir != "" {
		err = errors.Join(err, os.RemoveAll(e.dir))
	}
	return err
}

// workDir makes a directory below parent for one run and returns its absolute path.
func workDir(parent string) (string, error) {
	parent, err := filepath.Abs(parent)
	if err == nil {
		err = os.MkdirAll(parent, 0o755)
	}
	dir := ""
	if err == nil {
		dir, err = os.MkdirTemp(parent, "b")
	}
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}

// Directory makes a new directory for a row; it goes away with the Env.
func (e *Env) Directory(name string) (string, error) {
	e.seen++
	dir := filepath.Join(e.dir, strconv.Itoa(e.seen)+name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}

// System returns a system that runs; it is started if it does not yet, and shared with the rows before and after. Those
// that the next row does not name are stopped before it.
func (e *Env) System(ctx context.Context, name string) (*Running, error) {
	if r := e.systems[name]; r != nil {
		return r, nil
	}
	s, err := FindSystem(name)
	if err != nil {
		return nil, err
	}
	dir, err := e.Directory("s")
	if err != nil {
		return nil, err
	}
	e.Progress("starting " + name)
	r, err := s.start(ctx, e, dir)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	r.System = s
	if r.Version != "" {
		e.version = r.Version
	}
	e.systems[name] = r
	return r, nil
}

// StopExcept stops all shared systems but those named.
func (e *Env) StopExcept(names ...string) error {
	var problems []error
	for name, r := range e.systems {
		keep := false
		for _, other := range names {
			keep = keep || other == name
		}
		if !keep {
			problems = append(problems, r.Stop())
			delete(e.systems, name)
		}
	}
	return errors.Join(problems...)
}

// Sample is one measurement.
type Sample struct {
	Row     string             `json:"row"`
	System  string             `json:"system"`
	Place   string             `json:"place"`
	Round   int                `json:"round"`
	CPU     float64            `json:"cpu_us_op"` // of all server processes for an operation
	Kinds   map[string]float64 `json:"cpu_us_op_by_kind"`
	Memory  uint64             `json:"resident_bytes"` // of all server processes, at the end
	Written float64            `json:"disk_bytes_op"`  // that the servers made the system write to disks, for an operation
	*Result
}

// Measure puts a load on a system, after having put in what the load reads.
func (e *Env) Measure(ctx context.Context, r *Running, place string, l Load) (Sample, error) {
	target, err := r.Target(ctx, place)
	if err != nil {
		return Sample{}, err
	}
	if err := e.fill(ctx, r, target, l); err != nil {
		return Sample{}, err
	}
	s := Sample{System: r.Name, Place: place, Kinds: make(map[string]float64)}
	list := r.Processes()
	var before, after usage
	var writtenBefore, writtenAfter uint64
	s.Result, err = l.Run(ctx, target, func(begins bool) {
		if begins {
			before, writtenBefore = usageOf(list), writtenOf(list)
		} else {
			after, writtenAfter = usageOf(list), writtenOf(list)
		}
	})
	if err != nil {
		return s, fmt.Errorf("%s: %w", r.Name, err)
	}
	operations := float64(s.Operations)
	for kind, used := range after.since(before) {
		s.Kinds[kind] = micros(used) / operations
		s.CPU += s.Kinds[kind]
	}
	s.Written = float64(writtenAfter-writtenBefore) / operations
	for _, p := range list {
		s.Memory += residentSize(p.Pid)
	}
	return s, nil
}

func writtenOf(list []Process) (bytes uint64) {
	for _, p := range list {
		bytes += writtenBytes(p.Pid)
	}
	return bytes
}

// fill puts in what l reads, once for each system.
func (e *Env) fill(ctx context.Context, r *Running, target Target, l Load) error {
	fill, needed := l.fills()
	if !needed {
		return nil
	}
	what := fmt.Sprint(fill.Command, fill.Keys, " ", fill.ValueSize)
	if r.filled[what] {
		return nil
	}
	result, err := fill.Run(ctx, target, nil)
	if err != nil {
		return fmt.Errorf("%s: fill: %w", r.Name, err)
	}
	if failed := result.Failed(); failed > 0 {
		return fmt.Errorf("%s: fill: %d operations failed: %v %v", r.Name, failed, result.Errors, result.Examples)
	}
	clear(r.filled) // values of another size lie there no more
	r.filled[what] = true
	return nil
}

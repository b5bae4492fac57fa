package score

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/explore"
	"lockstep/internal/mutant"
	"lockstep/internal/sim"
)

// Hunter looks for planted errors. One at a time in a process: what is planted holds for all of it.
type Hunter struct {
	Workers   int    // schedules at a time
	Schedules uint64 // the simulator gives up after so many
	States    int    // the explorer gives up after so many
	Known     Known  // nil: only search
	Shrink    bool   // make the faults of what is found fewer
}

// Finding is what became of one planted error.
type Finding struct {
	Row *Row

	// By the simulator.
	Seed      uint64  // 0: not found
	Schedules uint64  // that were run
	Faults    int     // that the schedule needs; -1: not made fewer
	Fired     string  // which promise was broken
	Recorded  bool    // by a seed of Known
	Seconds   float64 // until it was found, or given up
	began     time.Time

	// By the explorer.
	States int // 0: not asked
	Depth  int // actions until a promise was broken; 0: none was
	Fault  string

	// Problem says why the row fails, "" if it does not.
	Problem string
}

// Found reports whether the planted error was found.
func (f *Finding) Found() bool { return f.Seed != 0 || f.Depth != 0 }

// ErrNotBuilt: the program was built without the tag mutants.
var ErrNotBuilt = errors.New("errors can be planted only in a program that was built with the tag mutants")

// Hunt looks for one planted error with all that is there to find it.
func (h *Hunter) Hunt(r *Row) (Finding, error) {
	f := Finding{Row: r, Faults: -1, began: time.Now()}
	if !mutant.Enabled {
		return f, ErrNotBuilt
	}
	defer mutant.Set()
	scope, explored := r.scope()
	h.simulate(r, explored, &f)
	if f.Seed == 0 {
		f.Seconds = time.Since(f.began).Seconds()
	}
	if explored {
		if err := h.explore(scope, r, &f); err != nil {
			return f, err
		}
	}
	f.judge()
	return f, nil
}

// judge says what is wrong with a finding.
func (f *Finding) judge() {
	r := f.Row
	switch {
	case f.Problem != "":
	case r.Harmless != "" && f.Found():
		f.Problem = fmt.Sprintf("found, though %s", r.Harmless)
	case r.Harmless == "" && !f.Found():
		f.Problem = "not found"
	}
}

// fewSchedules are enough, when it must be quick, for a row of which nothing may be found.
const fewSchedules = 100

// simulate tries the seeds that are known, then all others in order; if it must be quick, only where the explorer is of no help.
func (h *Hunter) simulate(r *Row, explored bool, f *Finding) {
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	for _, seed := range h.Known[r.Name()].Seeds {
		if h.clean(seed, f) && h.breaks(r, seed, f) {
			f.Recorded = true
			return
		}
		if f.Problem != "" {
			return
		}
	}
	limit := h.Schedules
	if explored && h.Known != nil && len(h.Known) > 0 {
		return
	}
	if r.Harmless != "" && h.Known != nil {
		limit = min(limit, fewSchedules)
	}
	from := uint64(1)
	for f.Schedules < limit {
		seed := h.search(r, from, limit-f.Schedules)
		if seed == 0 {
			f.Schedules = limit
			return
		}
		f.Schedules += seed - from + 1
		from = seed + 1
		if h.clean(seed, f) && h.breaks(r, seed, f) || f.Problem != "" {
			return
		}
	}
}

// clean reports whether the schedule keeps all promises when no error is planted.
func (h *Hunter) clean(seed uint64, f *Finding) bool {
	mutant.Set()
	if v := sim.Run(sim.Config{Seed: seed}).Violation; v != nil {
		f.Problem = fmt.Sprintf("seed %d breaks a promise without any planted error: %v", seed, v)
		return false
	}
	return true
}

// breaks reports whether the schedule breaks a promise when the error is planted, and notes it.
func (h *Hunter) breaks(r *Row, seed uint64, f *Finding) bool {
	mutant.Set(r.Off...)
	result := sim.Run(sim.Config{Seed: seed})
	if result.Violation == nil {
		return false
	}
	f.Seed, f.Fired, f.Seconds = seed, result.Violation.Kind, time.Since(f.began).Seconds()
	if h.Shrink {
		f.Faults = len(sim.Shrink(result).Faults)
	}
	return true
}

// search runs schedules in order and returns the first seed that breaks a promise, 0 if none of count does.
func (h *Hunter) search(r *Row, from, count uint64) uint64 {
	mutant.Set(r.Off...)
	var next atomic.Uint64
	var least atomic.Uint64
	least.Store(from + count)
	next.Store(from)
	var workers sync.WaitGroup
	for range max(1, h.Workers) {
		workers.Go(func() {
			for seed := next.Add(1) - 1; seed < least.Load(); seed = next.Add(1) - 1 {
				if sim.Run(sim.Config{Seed: seed}).Violation == nil {
					continue
				}
				for known := least.Load(); seed < known && !least.CompareAndSwap(known, seed); known = least.Load() {
				}
			}
		})
	}
	workers.Wait()
	if found := least.Load(); found < from+count {
		return found
	}
	return 0
}

// explore searches the scope that is planned for the row.
func (h *Hunter) explore(scope explore.Planted, r *Row, f *Finding) error {
	mutant.Set(r.Off...)
	result, err := explore.Search(scope.Scope, explore.Limits{States: h.States})
	if err != nil {
		return fmt.Errorf("explore %s: %w", r.Name(), err)
	}
	f.States = result.States
	if result.Fault != "" {
		f.Depth, f.Fault = result.Depth+1, result.Fault
	}
	return nil
}

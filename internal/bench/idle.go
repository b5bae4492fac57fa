package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

const (
	// idleCalm is how long a cluster is left alone before it is measured: longer than a master takes to find that nobody uses it.
	idleCalm = 10 * time.Second
	// idleTime is for how long it is measured then. Ticks of /proc, where there is no better clock, are 10 ms.
	idleTime = time.Minute
)

// idleRows is the figure of issue 7 about a cluster without work.
func idleRows() []Row {
	return []Row{
		{Name: "idle", About: "processor time of all processes of a cluster of three nodes that nobody is connected to, of one core's", Goal: Goal{Bound: 3, Unit: "%"}, Run: idle},
	}
}

// idle measures a cluster of its own.
func idle(ctx context.Context, e *Env) (Outcome, error) {
	r, err := e.StartLockstep(ctx, "idle", local.Options{}, nil)
	if err != nil {
		return Outcome{}, err
	}
	out, err := idleOf(ctx, r)
	return out, errors.Join(err, r.Stop())
}

func idleOf(ctx context.Context, r *Running) (Outcome, error) {
	if !pause.For(ctx, idleCalm) {
		return Outcome{}, ctx.Err()
	}
	list := r.Processes()
	before, begun := usageOf(list), time.Now()
	if !pause.For(ctx, idleTime) {
		return Outcome{}, ctx.Err()
	}
	used, passed := usageOf(list).since(before), time.Since(begun)
	out := idleOutcome(used, passed)
	out.Measured = fmt.Sprintf("%d processes, %.0f s", len(list), passed.Seconds())
	return out, nil
}

// idleOutcome sums up what kinds of processes used in a time.
func idleOutcome(used map[string]time.Duration, passed time.Duration) Outcome {
	var out Outcome
	var shares []string
	for _, kind := range slices.Sorted(maps.Keys(used)) {
		share := 100 * used[kind].Seconds() / passed.Seconds()
		out.Value += share
		shares = append(shares, fmt.Sprintf("%s %.2f", kind, share))
	}
	out.Notes = []string{"in %, all of a kind: " + strings.Join(shares, ", ")}
	return out
}

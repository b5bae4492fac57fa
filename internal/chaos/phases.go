package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"lockstep/internal/pause"
	"lockstep/proto"
)

// Phase is what happened beside the faults: a decision of the configuration masters on its way, or this machine not coming
// round to anything.
type Phase struct {
	Kind string `json:"kind"` // "fail-over", "switch-over" or slowMachine
	Text string `json:"text"`
	From int64  `json:"from"` // stamps of the history's clock
	To   int64  `json:"to"`
}

// slowMachine is the Kind of a time in which a write of one page to this machine's disk, or the processor, was not to be had.
const slowMachine = "slow machine"

const (
	stallProbe = 20 * time.Millisecond  // between two probes
	stallLimit = 150 * time.Millisecond // from which on a probe that takes so long is noted
)

// probeStalls writes and syncs a page every stallProbe, as the replicators do, and notes when that took long. The cluster
// knows nothing of it: what makes it slow makes everything slow.
func probeStalls(ctx context.Context, dir string, now func() int64) ([]Phase, error) {
	path := filepath.Join(dir, "probe")
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("probe the disk: %w", err)
	}
	defer os.Remove(path)
	defer file.Close()
	var stalls []Phase
	page := make([]byte, 4096)
	for {
		began := now()
		goesOn := pause.For(ctx, stallProbe)
		woke := now()
		if _, err := file.WriteAt(page, 0); err != nil {
			return stalls, fmt.Errorf("probe the disk: %w", err)
		}
		if err := file.Sync(); err != nil {
			return stalls, fmt.Errorf("probe the disk: %w", err)
		}
		end := now()
		if end-began >= int64(stallLimit) {
			stalls = append(stalls, Phase{Kind: slowMachine, From: began, To: end, Text: fmt.Sprintf("a pause of %v took %v, a sync of one page %v", stallProbe,
				time.Duration(woke-began).Round(time.Millisecond), time.Duration(end-woke).Round(time.Millisecond))})
		}
		if !goesOn {
			return stalls, nil
		}
	}
}

// failOvers lists the elections in a work log, oldest first: each from its beginning until it was established, overtaken, or
// the log ends. began is the time of stamp 0.
func failOvers(entries []*proto.WorkEntry, began time.Time, end int64) []Phase {
	var list []Phase
	open := false
	for _, e := range entries {
		stamp := min(max(time.UnixMilli(e.GetTimeMs()).Sub(began).Nanoseconds(), 0), end)
		kind := map[string]string{"election": "fail-over", "switchover": "switch-over"}[e.GetKind()]
		if open && (kind != "" || e.GetKind() == "established") {
			list[len(list)-1].To, open = stamp, false
		}
		if kind != "" {
			list = append(list, Phase{Kind: kind, Text: fmt.Sprintf("epoch %d: %s", e.GetEpoch(), e.GetReason()), From: stamp, To: end})
			open = true
		}
	}
	return list
}

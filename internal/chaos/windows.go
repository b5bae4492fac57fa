package chaos

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is a time in which no write was acknowledged on any node.
type Window struct {
	From   int64    `json:"from"` // stamps of the acknowledged writes before and behind it
	To     int64    `json:"to"`
	Calm   int64    `json:"calm"`   // nanoseconds of it in which no fault was active
	Causes []string `json:"causes"` // faults that were active when it began or ended shortly before, and phases that overlap it
	// Unexplained: there was no fault, and this machine was slow for less than a quarter of the time. A fail-over alone explains nothing: why was there one?
	Unexplained bool `json:"unexplained,omitempty"`
}

const (
	// windowLength is from which length on a pause counts as a window.
	windowLength = 500 * time.Millisecond
	// afterEffect is for how long a healed fault may still be the cause of a window: detection, election, catching up.
	afterEffect = 5 * time.Second
	// calmLimit is for how long a window may last while no fault is active, before that is a broken promise.
	calmLimit = 15 * time.Second
)

// findWindows lists the windows between from and to, the stamps between which clients were at work.
func findWindows(ops []Op, faults []Fault, phases []Phase, from, to int64) []Window {
	var acks []int64
	for _, op := range ops {
		if op.Outcome == OK && op.writes() && op.Return >= from && op.Return <= to {
			acks = append(acks, op.Return)
		}
	}
	slices.Sort(acks)
	acks = append(acks, to)
	windows := []Window{}
	last := from
	for _, ack := range acks {
		if ack-last >= int64(windowLength) {
			windows = append(windows, explain(last, ack, faults, phases))
		}
		last = ack
	}
	return windows
}

// explain finds the causes of a window.
func explain(from, to int64, faults []Fault, phases []Phase) Window {
	w := Window{From: from, To: to, Causes: []string{}}
	inOrder := slices.Clone(faults)
	var stalls, stalled, longest int64
	for _, phase := range phases {
		switch {
		case phase.From > to || phase.To < from:
		case phase.Kind == slowMachine:
			length := min(phase.To, to) - max(phase.From, from)
			stalls, stalled, longest = stalls+1, stalled+length, max(longest, length)
		default:
			w.Causes = append(w.Causes, phase.Kind+" "+phase.Text)
		}
	}
	w.Unexplained = 4*stalled < to-from
	if stalls > 0 {
		w.Causes = append(w.Causes, fmt.Sprintf("%s: %d pauses, together %v, longest %v", slowMachine, stalls,
			time.Duration(stalled).Round(time.Millisecond), time.Duration(longest).Round(time.Millisecond)))
	}
	covered := from
	slices.SortFunc(inOrder, func(a, b Fault) int { return int(min(max(a.Began-b.Began, -1), 1)) })
	for _, f := range inOrder {
		end := f.Ended
		if end == 0 {
			end = to
		}
		if f.Began <= to && end+int64(afterEffect) >= from {
			w.Causes = append(w.Causes, fmt.Sprintf("%d %s", f.ID, f.Kind))
			w.Unexplained = false
		}
		if f.Began > covered {
			w.Calm += min(f.Began, to) - covered
		}
		covered = min(max(covered, end), to)
	}
	w.Calm = max(w.Calm+to-covered-stalled, 0)
	return w
}

// judgeWindows lists windows that break a promise.
func judgeWindows(windows []Window) []Violation {
	var found []Violation
	for _, w := range windows {
		length := time.Duration(w.To - w.From).Round(time.Millisecond)
		at := time.Duration(w.From).Round(time.Millisecond)
		if w.Unexplained {
			found = append(found, Violation{Rule: "every window has a cause", Text: fmt.Sprintf("no write was acknowledged for %v from %v on, and there was no fault; what happened: %s",
				length, at, strings.Join(append(w.Causes, "nothing"), "; "))})
		}
		if w.Calm > int64(calmLimit) {
			found = append(found, Violation{Rule: "the group recovers by itself", Text: fmt.Sprintf("no write was acknowledged for %v from %v on, of which %v without any fault",
				length, at, time.Duration(w.Calm).Round(time.Millisecond))})
		}
	}
	return found
}

// Latency is how long acknowledged operations of a kind took, in milliseconds.
type Latency struct {
	Kind  Kind    `json:"kind"`
	Count int     `json:"count"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

func latencies(ops []Op) []Latency {
	times := make(map[Kind][]int64)
	for _, op := range ops {
		if op.Outcome == OK && !op.Final && !op.Restored {
			times[op.Kind] = append(times[op.Kind], op.Return-op.Call)
		}
	}
	list := []Latency{}
	for _, kind := range []Kind{Get, Set, Swap, Incr, Append, Push, Range, Call, Add, Take, Ack, Publish} {
		all := times[kind]
		if len(all) == 0 {
			continue
		}
		slices.Sort(all)
		at := func(share float64) float64 {
			return float64(all[min(int(share*float64(len(all))), len(all)-1)]) / float64(time.Millisecond)
		}
		list = append(list, Latency{Kind: kind, Count: len(all), P50: at(0.5), P99: at(0.99), P999: at(0.999), Max: at(1)})
	}
	return list
}

// perSecond counts acknowledged writes in each second of the run.
func perSecond(ops []Op, to int64) []int {
	counts := make([]int, to/int64(time.Second)+1)
	for _, op := range ops {
		if op.Outcome == OK && op.writes() && op.Return <= to {
			counts[op.Return/int64(time.Second)]++
		}
	}
	return counts
}

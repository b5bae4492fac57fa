package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Report of a run.
type Report struct {
	Mode            string          `json:"mode,omitempty"` // "" or "forced recovery"
	Seed            uint64          `json:"seed"`
	Began           time.Time       `json:"began"`
	Seconds         float64         `json:"seconds"` // with faults
	Machine         string          `json:"machine"`
	Version         string          `json:"version"`
	Notes           []string        `json:"notes"` // faults that could not be had, and why
	Outcomes        map[Outcome]int `json:"outcomes"`
	FailedDials     int64           `json:"failed_dials"`
	Faults          []Fault         `json:"faults"`
	PerKind         []KindCount     `json:"per_kind"`
	Phases          []Phase         `json:"phases"`
	Windows         []Window        `json:"windows"`
	Latencies       []Latency       `json:"latencies"`
	LoadFrom        int64           `json:"load_from"`
	LoadTo          int64           `json:"load_to"`
	WritesPerSecond []int           `json:"writes_per_second"`
	Images          Images          `json:"images"`
	Passwords       *Passwords      `json:"passwords,omitempty"`
	Recoveries      []Recovery      `json:"recoveries,omitempty"`
	Checked         Checked         `json:"checked"`
}

// Images is what became of images and of the log, counted in what the processes said.
type Images struct {
	Taken    int `json:"taken"`
	Needed   int `json:"needed"`   // KV nodes found that the log does not reach back to them
	Jumped   int `json:"jumped"`   // running KV nodes went on from an image of a peer
	Loaded   int `json:"loaded"`   // KV nodes started from an image
	Trimmed  int `json:"trimmed"`  // times that a log was trimmed
	Restored int `json:"restored"` // clusters of a moment in the archive, started and read
}

// Passwords is what became of passwords, in a run in which they are wanted.
type Passwords struct {
	Changed int `json:"changed"` // times that the password of the clients was changed and the old one taken away
	Refused int `json:"refused"` // attempts without a password, or with an old one, that were refused
}

// Good reports whether no promise was broken and everything could be judged.
func (r *Report) Good() bool { return len(r.Checked.Violations) == 0 && len(r.Checked.Undecided) == 0 }

// Effective counts the faults that had an effect.
func (r *Report) Effective() int {
	n := 0
	for _, f := range r.Faults {
		if !f.Idle && f.Error == "" {
			n++
		}
	}
	return n
}

// KindCount is how often faults of a kind were done.
type KindCount struct {
	Kind      string `json:"kind"`
	Done      int    `json:"done"`
	Effective int    `json:"effective"` // of which had an effect
}

// perKind counts faults by kind, the most frequent first.
func perKind(faults []Fault) []KindCount {
	counts := []KindCount{}
	for _, f := range faults {
		at := slices.IndexFunc(counts, func(c KindCount) bool { return c.Kind == f.Kind })
		if at < 0 {
			at = len(counts)
			counts = append(counts, KindCount{Kind: f.Kind})
		}
		counts[at].Done++
		if !f.Idle && f.Error == "" {
			counts[at].Effective++
		}
	}
	slices.SortStableFunc(counts, func(a, b KindCount) int { return b.Done - a.Done })
	return counts
}

// Summary is the verdict in one line.
func (r *Report) Summary() string {
	verdict := "no violation"
	if n := len(r.Checked.Violations); n > 0 {
		verdict = fmt.Sprintf("%d VIOLATIONS", n)
	}
	if n := len(r.Checked.Undecided); n > 0 {
		verdict += fmt.Sprintf(", %d keys undecided", n)
	}
	var longest, total time.Duration
	for _, w := range r.Windows {
		length := time.Duration(w.To - w.From)
		longest, total = max(longest, length), total+length
	}
	if r.Mode != "" {
		acked, lost := 0, 0
		for _, recovery := range r.Recoveries {
			acked, lost = acked+recovery.Acked, lost+recovery.Lost
		}
		return fmt.Sprintf("seed %d, %s: %s; %d quorums lost and recovered in %.0f s; %d writes acknowledged, %d of them lost, all within what was reported",
			r.Seed, r.Mode, verdict, len(r.Recoveries), r.Seconds, acked, lost)
	}
	return fmt.Sprintf("seed %d: %s; %d faults in %.0f s (and %d without effect); %d operations on %d keys: %d ok, %d refused, %d unknown; %d windows, longest %v, together %v; "+
		"%d images taken, %d needed by nodes that the log did not reach, %d logs trimmed, %d moments restored; %d elements went to clients that are gone",
		r.Seed, verdict, r.Effective(), r.Seconds, len(r.Faults)-r.Effective(), r.Checked.Ops, r.Checked.Keys, r.Outcomes[OK], r.Outcomes[Refused], r.Outcomes[Unknown],
		len(r.Windows), longest.Round(time.Millisecond), total.Round(time.Millisecond),
		r.Images.Taken, r.Images.Needed, r.Images.Trimmed, r.Images.Restored, len(r.Checked.Handed))
}

// write leaves report.json and report.html in dir.
func (r *Report) write(dir string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.html"), pageOf(r).Bytes(), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

package report

import (
	"errors"
	"fmt"
	"time"
)

// Verdicts.
const (
	Passed  = "passed"
	Failed  = "failed"  // a promise was broken, or what the drill shows did not come about
	Aborted = "aborted" // it was ended before its end; nothing is proved
)

// Report is how a drill went. Times are of this machine's monotonic clock; stamps are nanoseconds since the clients began.
type Report struct {
	ID       string    `json:"id"`
	Drill    string    `json:"drill"`
	What     string    `json:"what"`
	Proves   string    `json:"proves"`
	Group    string    `json:"group"`
	By       string    `json:"by"`
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"`
	Version  string    `json:"version"` // of smrctl
	Victims  []string  `json:"victims"`
	Checks   []string  `json:"checks"`
	Verdict  string    `json:"verdict"`
	Problems []string  `json:"problems"` // why it did not pass

	// Milliseconds from the fault until an election began, from then until the new master was established, and from the fault until the
	// first write was acknowledged after the election had begun (without an election: one that was sent after the fault). null: did
	// not happen.
	DetectionMs  *float64 `json:"detection_ms"`
	ElectionMs   *float64 `json:"election_ms"`
	FirstWriteMs *float64 `json:"first_write_ms"`
	PauseMs      float64  `json:"pause_ms"` // longest time without an acknowledged write, from the fault on
	MendedMs     *float64 `json:"mended_ms"`

	MasterBefore string `json:"master_before"`
	MasterAfter  string `json:"master_after"`
	EpochBefore  uint64 `json:"epoch_before"`
	EpochAfter   uint64 `json:"epoch_after"`

	Writes          int          `json:"writes"` // acknowledged, each read back at the end on every node
	Reads           int          `json:"reads"`  // answered, each checked
	Keys            int          `json:"keys"`
	Nodes           int          `json:"nodes"` // on which every key was read at the end
	Errors          []ErrorCount `json:"errors"`
	Violations      []string     `json:"violations"`
	Digests         string       `json:"digests"`          // equal, or why that is not known
	WritesPerSecond []int        `json:"writes_per_tenth"` // acknowledged in each tenth of a second
	FaultAt         int64        `json:"fault_at"`         // stamp, 0 if it was not made
	MendedAt        int64        `json:"mended_at"`
	Timeline        []Moment     `json:"timeline"`
}

// ErrorCount is how often clients of a node saw an error.
type ErrorCount struct {
	Name   string `json:"name"`
	Node   string `json:"node"`
	Victim bool   `json:"victim"` // the drill hit that node
	Count  int    `json:"count"`
}

// Moment is something that happened.
type Moment struct {
	Stamp int64  `json:"at"`
	Who   string `json:"who"` // drill, confmaster, clients, or the node where a fault was made
	Name  string `json:"name,omitempty"`
	Text  string `json:"text"`
}

// Summary is a report in one line.
func (r *Report) Summary() string {
	text := fmt.Sprintf("%s: %s", r.Drill, r.Verdict)
	if r.Verdict != Passed && len(r.Problems) > 0 {
		text += ": " + r.Problems[0]
	}
	return text
}

// Good reports whether the drill passed.
func (r *Report) Good() bool { return r.Verdict == Passed }

// ErrorsOfOthers counts errors that clients of nodes saw which the drill did not hit.
func (r *Report) ErrorsOfOthers() (n int) {
	for _, e := range r.Errors {
		if !e.Victim {
			n += e.Count
		}
	}
	return n
}

// errNotPassed is what a caller may turn a report into.
var errNotPassed = errors.New("the drill did not pass")

// Err is nil if the drill passed.
func (r *Report) Err() error {
	if r.Good() {
		return nil
	}
	return fmt.Errorf("%w: %s", errNotPassed, r.Summary())
}

// Brief is a copy without what only somebody who reads one report wants: of the size of a line, for lists of many.
func (r *Report) Brief() *Report {
	brief := *r
	brief.Checks, brief.Errors, brief.Violations, brief.WritesPerSecond, brief.Timeline = nil, nil, nil, nil, nil
	return &brief
}

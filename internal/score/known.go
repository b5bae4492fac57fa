package score

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"

	"lockstep/internal/explore"
	"lockstep/internal/sim"
)

// Hint says what found a row before.
type Hint struct {
	Seeds  []uint64 `json:",omitempty"` // of the simulator, the best first
	States int      `json:",omitempty"` // so many the explorer needed; only of rows that the simulator does not find
	// Schedules and Seconds are those of the last search from seed 1, successful or not.
	Schedules uint64  `json:",omitempty"`
	Seconds   float64 `json:",omitempty"`
}

// Known holds hints by the name of a row.
type Known map[string]Hint

// ReadKnown reads what WriteKnown wrote.
func ReadKnown(name string) (Known, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	known := make(Known)
	if err := json.Unmarshal(b, &known); err != nil {
		return nil, fmt.Errorf("known seeds %s: %w", name, err)
	}
	return known, nil
}

// WriteKnown replaces the file.
func WriteKnown(name string, known Known) error {
	b, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

// Note keeps what found a row.
func (k Known) Note(f *Finding) {
	hint := Hint{Schedules: f.Schedules, Seconds: math.Round(10*f.Seconds) / 10}
	if f.Recorded || f.Schedules == 0 {
		hint.Schedules, hint.Seconds = k[f.Row.Name()].Schedules, k[f.Row.Name()].Seconds
	}
	if f.Seed != 0 {
		hint.Seeds = []uint64{f.Seed}
	} else if f.Depth != 0 {
		hint.States = f.States
	}
	k[f.Row.Name()] = hint
}

// Control runs what is known to find planted errors, all of it, over the code as it is, and returns what it finds: nothing, unless a
// rule is broken that somebody has planted before. Rows that only the explorer finds are searched up to a tenth more
// states than it took then.
func Control(known Known) ([]string, error) {
	var problems []string
	finds := make(map[uint64]string) // what each seed is known to find
	for _, r := range Rows() {
		for _, seed := range known[r.Name()].Seeds {
			finds[seed] += fmt.Sprintf(" %s (%s: %s)", r.Name(), r.Rule, r.Text)
		}
	}
	for _, seed := range slices.Sorted(maps.Keys(finds)) {
		if v := sim.Run(sim.Config{Seed: seed}).Violation; v != nil {
			problems = append(problems, fmt.Sprintf("seed %d, known to find%s: %v", seed, finds[seed], v))
		}
	}
	for _, r := range Rows() {
		states := known[r.Name()].States
		planned, explored := r.scope()
		if states == 0 || !explored {
			continue
		}
		result, err := explore.Search(planned.Scope, explore.Limits{States: states + states/10})
		if err != nil {
			return nil, err
		}
		if result.Fault != "" {
			problems = append(problems, fmt.Sprintf("the scope that finds %s (%s: %s): %s", r.Name(), r.Rule, r.Text, result.Fault))
		}
	}
	return problems, nil
}

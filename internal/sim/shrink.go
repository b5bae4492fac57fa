package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxShrink bounds the schedules that are run to make a list of faults shorter.
const maxShrink = 400

// Shrink returns a schedule that breaks the same promise with as few faults as it finds: it leaves them out in halves,
// quarters and so on down to single ones, as long as that goes on breaking it.
func Shrink(failed *Result) *Result {
	best := failed
	tries := 0
	try := func(faults []Fault) bool {
		if tries >= maxShrink {
			return false
		}
		tries++
		r := Run(Config{Seed: failed.Seed, Full: failed.Options.Full, Faults: faults, Options: &failed.Options})
		if r.Violation == nil || r.Violation.Kind != failed.Violation.Kind {
			return false
		}
		best = r
		return true
	}
	for size := max(1, len(failed.Faults)/2); ; size = max(1, size/2) {
		shorter := false
		for from := 0; from < len(best.Faults); {
			end := min(from+size, len(best.Faults))
			if try(append(append([]Fault{}, best.Faults[:from]...), best.Faults[end:]...)) {
				shorter = true // what followed has moved to from
			} else {
				from = end
			}
		}
		if size == 1 && !shorter || tries >= maxShrink {
			return best
		}
	}
}

// Regression is a schedule that once broke a promise. It is kept and run before anything else.
type Regression struct {
	Seed    uint64
	Full    bool
	Options *Options // nil: those of the seed
	Faults  []Fault  // the same
	Kind    string   // what it broke
	Note    string   // what was wrong
}

// Config returns the schedule of a regression.
func (r Regression) Config() Config {
	return Config{Seed: r.Seed, Full: r.Full, Options: r.Options, Faults: r.Faults}
}

// ReadRegressions reads all regressions of a directory, in the order of their names.
func ReadRegressions(dir string) ([]Regression, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []Regression
	for _, name := range names {
		r, err := ReadRegression(name)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// ReadRegression reads one regression.
func ReadRegression(name string) (Regression, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return Regression{}, err
	}
	var r Regression
	decoder := json.NewDecoder(strings.NewReader(string(b)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return Regression{}, fmt.Errorf("regression %s: %w", name, err)
	}
	return r, nil
}

// WriteRegression keeps a schedule that broke a promise and returns the name of the file.
func WriteRegression(dir string, r *Result) (string, error) {
	mode := "fast"
	if r.Options.Full {
		mode = "full"
	}
	b, err := json.MarshalIndent(Regression{Seed: r.Seed, Full: r.Options.Full, Options: &r.Options, Faults: r.Faults, Kind: r.Violation.Kind}, "", "  ")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, fmt.Sprintf("%s-%d.json", mode, r.Seed))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return name, os.WriteFile(name, append(b, '\n'), 0o644)
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Row is a figure that is to be reached.
type Row struct {
	Name    string // in flags and baselines: a-z, 0-9 and '-'
	About   string // a line of the table
	Goal    Goal
	Systems []string // shared systems that Run asks the Env for; others are stopped before
	Smoke   bool     // part of bench-smoke
	Run     func(ctx context.Context, e *Env) (Outcome, error)
}

// Goal is the bound of a figure.
type Goal struct {
	Bound   float64
	AtLeast bool   // the figure must be at least Bound; else at most
	Unit    string // "" for ratios; "s", "ms", "1/s", "%"
}

func (g Goal) String() string {
	if g.AtLeast {
		return "at least " + g.show(g.Bound)
	}
	return "at most " + g.show(g.Bound)
}

// Reached reports whether a value is within the goal.
func (g Goal) Reached(value float64) bool {
	if g.AtLeast {
		return value >= g.Bound
	}
	return value <= g.Bound
}

// show shows a value with its unit.
func (g Goal) show(value float64) string {
	text := fmt.Sprintf("%.2f", value)
	if value >= 1000 {
		text = fmt.Sprintf("%.0f", value)
	}
	if g.Unit != "" {
		text += " " + g.Unit
	}
	return text
}

// Outcome is what a row's Run measured.
type Outcome struct {
	Value    float64 // in the goal's unit
	Low      float64 // least and greatest of the single rounds, in the same unit; 0, 0 if there was one
	High     float64
	Measured string   // what the value was made of, for the table: "61,200/s by 20,100/s"
	Notes    []string // what else belongs to it
	Errors   uint64   // operations that failed; a row with any is not reached
}

// compare sets the value to the ratio of the medians of two figures, of which each has one for every round.
func (o *Outcome) compare(mine, against []float64) {
	o.Value = by(median(mine), median(against))
	for i := range mine {
		ratio := by(mine[i], against[i])
		if i == 0 || ratio < o.Low {
			o.Low = ratio
		}
		o.High = max(o.High, ratio)
	}
}

// Rows lists all rows in the order in which they run.
func Rows() []Row {
	return slices.Concat(speedRows(), loopRows(), faultRows(), idleRows(), lifecycleRows())
}

// ChooseRows returns the rows of these names; "name*" takes all that begin so. No name takes all, or with smoke those of
// bench-smoke.
func ChooseRows(names []string, smoke bool) ([]Row, error) {
	all := Rows()
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(r Row) bool { return smoke && !r.Smoke }), nil
	}
	var chosen []Row
	var problems []error
	for _, name := range names {
		begin, open := strings.CutSuffix(name, "*")
		found := false
		for _, r := range all {
			if r.Name == name || open && strings.HasPrefix(r.Name, begin) {
				found = true
				if !slices.ContainsFunc(chosen, func(other Row) bool { return other.Name == r.Name }) {
					chosen = append(chosen, r)
				}
			}
		}
		if !found {
			problems = append(problems, fmt.Errorf("no row %q: see smrctl bench figures --list", name))
		}
	}
	return chosen, errors.Join(problems...)
}

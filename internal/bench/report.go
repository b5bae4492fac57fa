package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Report is what a run of rows came to.
type Report struct {
	Begun    time.Time `json:"begun"`
	Revision string    `json:"revision"` // of the program that measured
	Machine  string    `json:"machine"`
	Load     string    `json:"load_average"` // of the machine, before and after: 1, 5 and 15 minutes
	Redis    string    `json:"redis"`        // version, "" if it was not needed or is not installed
	Rounds   int       `json:"rounds"`
	Seconds  float64   `json:"seconds"` // of one measurement
	Small    bool      `json:"smoke"`
	Took     float64   `json:"took_s"`
	Figures  []Figure  `json:"figures"`
	Moves    []Move    `json:"moves,omitempty"` // against a baseline
	Samples  []Sample  `json:"samples"`
}

// Figure is a row with what was measured.
type Figure struct {
	Name     string   `json:"name"`
	About    string   `json:"about"`
	Goal     string   `json:"goal"`
	Value    float64  `json:"value"`
	Shown    string   `json:"shown"` // value with its unit
	Low      float64  `json:"low"`   // of the single rounds
	High     float64  `json:"high"`
	OfGoal   float64  `json:"of_goal"`  // value by bound
	Verdict  string   `json:"verdict"`  // Reached, Missed, or NotMeasured
	Why      string   `json:"why"`      // of NotMeasured, or errors
	Measured string   `json:"measured"` // what the value was made of
	Command  string   `json:"command"`  // that repeats it
	Notes    []string `json:"notes"`
	Errors   uint64   `json:"errors"`
	Seconds  float64  `json:"seconds"` // that the row took
}

// Verdicts.
const (
	Reached     = "reached"
	Missed      = "missed"
	NotMeasured = "not measured"
)

// RunRows runs rows one after the other in e, which must be open, and returns what they came to. A row that cannot be
// measured does not stop the others: its figure says why. The error is that of ctx, or of stopping what was started.
func RunRows(ctx context.Context, e *Env, rows []Row, revision string) (*Report, error) {
	report := newReport(e, revision)
	var problems []error
	for _, row := range rows {
		if ctx.Err() != nil {
			break
		}
		if err := e.StopExcept(row.Systems...); err != nil {
			problems = append(problems, err)
		}
		begun := time.Now()
		out, err := row.Run(ctx, e)
		figure := newFigure(row, out, err)
		figure.Seconds = time.Since(begun).Seconds()
		e.Progress(fmt.Sprintf("%-22s %s: %s (%s) %s", row.Name, figure.Verdict, figure.Shown, figure.Goal, figure.Why))
		report.Figures = append(report.Figures, figure)
	}
	report.finish(e)
	return report, errors.Join(append(problems, context.Cause(ctx))...)
}

func newReport(e *Env, revision string) *Report {
	return &Report{Begun: time.Now().UTC().Truncate(time.Second), Revision: revision, Machine: machine(), Load: loadAverage(), Rounds: e.Rounds, Seconds: e.Time.Seconds(), Small: e.Small}
}

func (r *Report) finish(e *Env) {
	r.Load += " before, " + loadAverage() + " after"
	r.Redis, r.Samples = e.version, e.samples
	r.Took = time.Since(r.Begun).Seconds()
}

func newFigure(row Row, out Outcome, err error) Figure {
	f := Figure{
		Name: row.Name, About: row.About, Goal: row.Goal.String(), Value: out.Value, Shown: row.Goal.show(out.Value), Low: out.Low, High: out.High,
		OfGoal: by(out.Value, row.Goal.Bound), Measured: out.Measured, Command: "smrctl bench figures --rows " + row.Name, Notes: out.Notes, Errors: out.Errors,
	}
	switch {
	case err != nil:
		f.Verdict, f.Why, f.Shown, f.Value = NotMeasured, err.Error(), "", 0
	case out.Errors > 0:
		f.Verdict, f.Why = Missed, fmt.Sprintf("%d operations failed", out.Errors)
	case row.Goal.Reached(out.Value):
		f.Verdict = Reached
	default:
		f.Verdict = Missed
	}
	return f
}

// loadAverage is what the machine does, as /proc/loadavg says it.
func loadAverage() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(content))[:3], " ")
}

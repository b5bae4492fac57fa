package bench

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What could go wrong: two rows share a name and hide each other in flags and baselines, or a row names a system that there
// is not and is only found out after minutes.
func TestRowsAreWellFormed(t *testing.T) {
	named := make(map[string]bool)
	shape := regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	for _, r := range Rows() {
		if named[r.Name] || !shape.MatchString(r.Name) {
			t.Errorf("row %q: its name is taken, or no name", r.Name)
		}
		named[r.Name] = true
		if r.About == "" || r.Goal.Bound <= 0 || r.Run == nil {
			t.Errorf("row %s lacks something: %+v", r.Name, r.Goal)
		}
		for _, name := range r.Systems {
			if _, err := FindSystem(name); err != nil {
				t.Errorf("row %s: %v", r.Name, err)
			}
		}
	}
	smoke, err := ChooseRows(nil, true)
	if err != nil || len(smoke) == 0 || len(smoke) >= len(named) {
		t.Errorf("%d of %d rows are smoke, %v", len(smoke), len(named), err)
	}
}

func TestChoosingRows(t *testing.T) {
	chosen, err := ChooseRows([]string{"mix", "set*", "set-p16"}, false)
	if err != nil || len(chosen) < 4 || chosen[0].Name != "mix" || chosen[1].Name != "set" {
		t.Errorf("%d rows, %v", len(chosen), err)
	}
	count := 0
	for _, r := range chosen {
		if r.Name == "set-p16" {
			count++
		}
	}
	if count != 1 {
		t.Errorf("set-p16 was chosen %d times", count)
	}
	if _, err := ChooseRows([]string{"mix", "nosuch", "other*"}, false); err == nil || !strings.Contains(err.Error(), "nosuch") || !strings.Contains(err.Error(), "other*") {
		t.Errorf("rows that there are not: %v", err)
	}
}

func TestGoals(t *testing.T) {
	most, least := Goal{Bound: 0.5, Unit: "s"}, Goal{Bound: 3, AtLeast: true}
	if !most.Reached(0.5) || most.Reached(0.51) || !least.Reached(3) || least.Reached(2.99) {
		t.Error("a goal is reached where it is not")
	}
	if most.String() != "at most 0.50 s" || least.String() != "at least 3.00" || least.show(12345.6) != "12346" {
		t.Errorf("%v, %v", most, least)
	}
}

// Rows that fail or miss must not stop the others, nor pass for reached.
func TestRowsThatCannotBeMeasured(t *testing.T) {
	e := &Env{Rounds: 1, Time: time.Second, Kills: 1, Progress: func(string) {}}
	if err := e.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	ends := func(out Outcome, err error) func(context.Context, *Env) (Outcome, error) {
		return func(context.Context, *Env) (Outcome, error) { return out, err }
	}
	goal := Goal{Bound: 2, AtLeast: true}
	report, err := RunRows(context.Background(), e, []Row{
		{Name: "a", Goal: goal, Run: ends(Outcome{Value: 9}, ErrNoRedis)},
		{Name: "b", Goal: goal, Run: ends(Outcome{Value: 3}, nil)},
		{Name: "c", Goal: goal, Run: ends(Outcome{Value: 1}, nil)},
		{Name: "d", Goal: goal, Run: ends(Outcome{Value: 3, Errors: 1}, nil)},
	}, "r")
	if err != nil || len(report.Figures) != 4 {
		t.Fatal(report, err)
	}
	var verdicts []string
	for _, f := range report.Figures {
		verdicts = append(verdicts, f.Verdict)
	}
	if got := strings.Join(verdicts, ", "); got != "not measured, reached, missed, missed" {
		t.Errorf("verdicts %s", got)
	}
	if f := report.Figures[0]; f.Value != 0 || f.Why != ErrNoRedis.Error() || f.Command != "smrctl bench figures --rows a" {
		t.Errorf("%+v", f)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("enough"))
	if _, err := RunRows(ctx, e, Rows(), "r"); err == nil {
		t.Error("rows run on when nobody waits")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

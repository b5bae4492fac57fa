//go:build mutants

package score

import (
	"testing"

	"lockstep/internal/mutant"
)

// What could go wrong: the hunter reports what it did not find, or leaves an error planted behind.
func TestHunterFindsWhatIsPlanted(t *testing.T) {
	found := row(mutant.ReadWaitless, "S11", "")
	f, err := (&Hunter{Workers: 2, Schedules: 500, States: 1000}).Hunt(&found)
	if err != nil || f.Problem != "" || f.Seed == 0 || f.Schedules != f.Seed || f.Recorded {
		t.Fatalf("%+v, %v", f, err)
	}
	again, err := (&Hunter{Workers: 2, Known: Known{found.Name(): {Seeds: []uint64{f.Seed}}}}).Hunt(&found)
	if err != nil || again.Problem != "" || !again.Recorded || again.Fired != f.Fired {
		t.Fatalf("%+v, %v", again, err)
	}
	none := Row{Off: []mutant.Name{mutant.None}}
	f, err = (&Hunter{Workers: 2, Schedules: 10}).Hunt(&none)
	if err != nil || f.Problem != "not found" || f.Schedules != 10 {
		t.Fatalf("%+v, %v", f, err)
	}
	if mutant.On(mutant.ReadWaitless) {
		t.Fatal("the error stays planted")
	}
}

//go:build !mutants

package score

import (
	"errors"
	"testing"
)

// What could go wrong: a program without planted errors reports a perfect score, or a perfectly bad one.
func TestNothingIsPlantedInAnOrdinaryBuild(t *testing.T) {
	r := Rows()[0]
	if _, err := (&Hunter{Schedules: 1, States: 1}).Hunt(&r); !errors.Is(err, ErrNotBuilt) {
		t.Fatal(err)
	}
}

//go:build mutants

package explore

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"lockstep/internal/mutant"
)

var (
	showTraces  = flag.Bool("explore.traces", false, "print the trace of every mutant that is found")
	onlyPlanted = flag.String("explore.mutant", "", "try this mutant only")
)

// What could go wrong: an explorer that finds nothing because it looks at nothing. Each rule that is switched off in the real
// cores must be missed, by a promise that is broken; where two rules guard the same thing, only without both.
func TestMutantsAreFound(t *testing.T) {
	defer mutant.Set()
	t.Logf("%-32s %8s %6s %8s  %s", "switched off", "states", "depth", "seconds", "found")
	for _, p := range AllPlanted() {
		if *onlyPlanted != "" && p.Off[0].String() != *onlyPlanted {
			continue
		}
		mutant.Set(p.Off...)
		r, err := Search(p.Scope, Limits{States: 5_000_000})
		if err != nil {
			t.Fatal(err)
		}
		names := make([]string, 0, len(p.Off))
		for _, off := range p.Off {
			names = append(names, off.String())
		}
		found := r.Fault
		switch {
		case p.Safe && r.Complete && r.Fault == "":
			found = "no, complete: another rule is enough"
		case p.Safe || r.Fault == "":
			t.Errorf("%v: complete %v, found %q", p.Off, r.Complete, r.Fault)
		}
		depth := fmt.Sprint(r.Depth)
		if r.Fault != "" {
			depth = fmt.Sprint(r.Depth + 1)
		}
		t.Logf("%-32s %8d %6s %8.1f  %s", strings.Join(names, " + "), r.States, depth, r.Seconds, found)
		if *showTraces && r.Fault != "" {
			t.Logf("\n%s", strings.Join(r.Trace, "\n"))
		}
	}
}

//go:build mutants

package mutant

import "strings"

// Enabled says whether rules can be switched off in this build.
const Enabled = true

// planted names rules, with commas between, that are off from the start, so that one can see what the ordinary tests say of it:
//
//	go test -tags mutants -ldflags '-X lockstep/internal/mutant.planted=no-rewind' ./...
var planted string

// active is written by Set only, before whatever is tested starts.
var active = atStart()

func atStart() (off [count]bool) {
	if planted == "" {
		return off
	}
	for _, name := range strings.Split(planted, ",") {
		n, known := Named(name)
		if !known {
			panic("no mutant is called " + name)
		}
		off[n] = true
	}
	return off
}

// On reports whether the rule is switched off.
func On(n Name) bool { return active[n] }

// Set switches exactly these rules off, and all others on. It must not be called while anything runs that asks On.
func Set(off ...Name) {
	active = [count]bool{}
	for _, n := range off {
		active[n] = true
	}
	active[None] = false
}

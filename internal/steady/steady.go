// Package steady makes property tests draw the same cases in every run, so that a red build means a change.
package steady

import "flag"

// Draws sets the seed of pgregory.net/rapid, which the caller imports. A test package calls it once, for a variable:
//
//	var _ = steady.Draws()
//
// -rapid.seed=N on the command line draws others.
func Draws() bool {
	if err := flag.Set("rapid.seed", "20261121"); err != nil {
		panic("steady: the flag of pgregory.net/rapid is not there: " + err.Error())
	}
	return true
}

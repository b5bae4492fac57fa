// Package mutant names the planted errors with which the explorer and the simulator prove that they would find real ones.
//
// Each safety rule that can be switched off has a Name here and a line `if mutant.On(mutant.X)` where it is kept. Without the
// build tag `mutants` On is constantly false and the compiler leaves those lines out. With it, a test switches one rule off
// with Set, and must then see the promise broken.
package mutant

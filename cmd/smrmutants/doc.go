// Command smrmutants plants one error after the other in the real cores and measures how soon the simulator and the explorer find
// it. It needs the build tag mutants. See internal/score, and `make mutants`.
package main

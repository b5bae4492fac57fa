//go:build race

package e2e

// raceFlags make the processes find data races in themselves when the test is built to find them.
var raceFlags = []string{"-race"}

//go:build race

package log_test

// sampling is the share (one of so many) of the exhaustive tests' cases that run: the race detector has nothing to find
// in code of one goroutine, and is slow.
const sampling = 17

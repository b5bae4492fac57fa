//go:build race

package kv

// They are described in strict.go.
const (
	spoilReleased = true
	leastWaste    = 0
)

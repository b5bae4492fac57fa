//go:build !race

package kv

const (
	// spoilReleased: what entries let go is overwritten when it is released, so that a test meets whoever still uses it. The build with the
	// race detector does so.
	spoilReleased = false
	// leastWaste is how many bytes of free places are never too many. There it is none, so that entries move all the time.
	leastWaste = 1 << 20
)

package kv

import (
	"math/bits"
	"math/rand/v2"
)

// dice draws numbers for one command. They follow from where the command stands in the log, so that every replica
// draws the same.
type dice struct{ source rand.PCG }

func (c call) dice() *dice {
	d := new(dice)
	d.source.Seed(uint64(c.version), c.seed)
	return d
}

// below returns a number in [0, n). n must be positive.
func (d *dice) below(n int) int {
	bound := uint64(n)
	high, low := bits.Mul64(d.source.Uint64(), bound)
	for low < -bound%bound { // Lemire's method: rejects what would favour small numbers
		high, low = bits.Mul64(d.source.Uint64(), bound)
	}
	return int(high)
}

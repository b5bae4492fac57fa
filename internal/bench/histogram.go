package bench

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets that are 1/32 of their size wide: an error of 3 per cent at most.
type histogram struct {
	counts [60 * 32]uint64
	total  uint64
}

// bucket returns the number of the bucket of d: exact below 32 ns, then 32 buckets for each power of two.
func bucket(d time.Duration) int {
	n := uint64(max(d, 0))
	if n < 32 {
		return int(n)
	}
	shift := bits.Len64(n) - 6
	return shift*32 + int(n>>shift)
}

// low returns the smallest duration of a bucket.
func low(bucket int) time.Duration {
	if bucket < 64 {
		return time.Duration(bucket)
	}
	shift := bucket/32 - 1
	return time.Duration(uint64(bucket-shift*32) << shift)
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.total++
}

func (h *histogram) merge(other *histogram) {
	for i, count := range other.counts {
		h.counts[i] += count
	}
	h.total += other.total
}

// quantile returns the duration that a share q of all are not longer than; 0 if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.total))
	var seen uint64
	for i, count := range h.counts {
		if seen += count; seen > rank {
			return low(i)
		}
	}
	return 0
}

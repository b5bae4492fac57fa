package bench

import (
	"math/bits"
	"time"
)

// Histogram counts durations in buckets whose width is at most 1/128 of what they hold, as HdrHistogram does: what it says
// of a quantile is wrong by less than 1 %. Sum, least and longest are exact. The zero value is empty. It is not safe for
// concurrent use.
type Histogram struct {
	counts [buckets]uint64
	total  uint64
	sum    time.Duration
	least  time.Duration
	most   time.Duration
}

const (
	fineBits = 7                                                // 128 buckets for each power of two
	longest  = 1<<42 - 1                                        // ns, 73 minutes: what takes longer is counted as that
	buckets  = (42-(fineBits+1))<<fineBits + 1<<(fineBits+1)    // of all durations up to longest
	_        = uint(buckets - 1 - (34<<fineBits + longest>>34)) // compile error if the last bucket lies outside
)

func bucket(d time.Duration) int {
	n := uint64(d)
	if n < 1<<(fineBits+1) {
		return int(n)
	}
	shift := bits.Len64(n) - (fineBits + 1)
	return shift<<fineBits + int(n>>shift)
}

// low returns the smallest duration of a bucket.
func low(bucket int) time.Duration {
	if bucket < 1<<(fineBits+1) {
		return time.Duration(bucket)
	}
	shift := bucket>>fineBits - 1
	return time.Duration(uint64(bucket-shift<<fineBits) << shift)
}

// middle returns the duration that stands for all of a bucket.
func middle(bucket int) time.Duration { return (low(bucket) + low(bucket+1) - 1) / 2 }

// Add counts d, times times.
func (h *Histogram) Add(d time.Duration, times uint64) {
	if times == 0 {
		return
	}
	d = min(max(d, 0), longest)
	if h.total == 0 || d < h.least {
		h.least = d
	}
	h.most = max(h.most, d)
	h.counts[bucket(d)] += times
	h.total += times
	h.sum += d * time.Duration(times)
}

// Merge adds all that other has counted.
func (h *Histogram) Merge(other *Histogram) {
	if other.total == 0 {
		return
	}
	if h.total == 0 || other.least < h.least {
		h.least = other.least
	}
	h.most = max(h.most, other.most)
	for i, count := range other.counts {
		h.counts[i] += count
	}
	h.total += other.total
	h.sum += other.sum
}

// Count is how many durations there are.
func (h *Histogram) Count() uint64 { return h.total }

// Max is the longest, 0 if there is none.
func (h *Histogram) Max() time.Duration { return h.most }

// Mean is the average, 0 if there is none.
func (h *Histogram) Mean() time.Duration {
	if h.total == 0 {
		return 0
	}
	return h.sum / time.Duration(h.total)
}

// Quantile returns the duration that a share q (0 to 1) of all are not longer than; 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := min(uint64(q*float64(h.total)), max(h.total, 1)-1)
	var seen uint64
	for i, count := range h.counts {
		if seen += count; seen > rank {
			return min(max(middle(i), h.least), h.most)
		}
	}
	return 0
}

// Latency is what a histogram says, in microseconds.
type Latency struct {
	Mean float64 `json:"mean_us"`
	P50  float64 `json:"p50_us"`
	P90  float64 `json:"p90_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	Max  float64 `json:"max_us"`
}

// Latency sums the histogram up.
func (h *Histogram) Latency() Latency {
	return Latency{
		Mean: micros(h.Mean()), P50: micros(h.Quantile(0.5)), P90: micros(h.Quantile(0.9)),
		P99: micros(h.Quantile(0.99)), P999: micros(h.Quantile(0.999)), Max: micros(h.most),
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

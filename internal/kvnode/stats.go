package kvnode

import (
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// latencyBuckets is the number of buckets of a latency histogram: bucket i counts executions below 2^i * 1024 nanoseconds that are
// not in bucket i-1; the last one counts the rest (from 2^40 ns, 18 minutes).
const latencyBuckets = 32

// bucketBound returns the longest execution of a bucket in nanoseconds as Redis' histograms, which keep two digits, have it: clients know
// the buckets by it.
func bucketBound(bucket int) int64 { return 1032<<bucket - 1 }

// commandStats counts the executions of one command, or of one subcommand. Any goroutine adds to it.
type commandStats struct {
	calls    atomic.Int64
	nanos    atomic.Int64 // total execution time
	rejected atomic.Int64 // refused before execution: arity, transaction state ...
	failed   atomic.Int64 // executed and answered with an error
	buckets  [latencyBuckets]atomic.Int64
}

// add counts one execution.
func (s *commandStats) add(duration time.Duration, failed bool) {
	s.calls.Add(1)
	s.nanos.Add(int64(duration))
	s.buckets[min(bits.Len64(uint64(duration)>>10), latencyBuckets-1)].Add(1)
	if failed {
		s.failed.Add(1)
	}
}

// count counts one execution whose duration is not kept (latency-tracking no).
func (s *commandStats) count(duration time.Duration, failed bool) {
	s.calls.Add(1)
	s.nanos.Add(int64(duration))
	if failed {
		s.failed.Add(1)
	}
}

// timed reports whether the durations of executions were kept.
func (s *commandStats) timed() bool {
	for i := range s.buckets {
		if s.buckets[i].Load() > 0 {
			return true
		}
	}
	return false
}

// used reports whether there is anything to show.
func (s *commandStats) used() bool {
	return s.calls.Load() > 0 || s.rejected.Load() > 0 || s.failed.Load() > 0
}

func (s *commandStats) reset() {
	s.calls.Store(0)
	s.nanos.Store(0)
	s.rejected.Store(0)
	s.failed.Store(0)
	for i := range s.buckets {
		s.buckets[i].Store(0)
	}
}

// percentile returns the upper bound in microseconds of the bucket in which the given part of all executions ends.
func (s *commandStats) percentile(part float64) float64 {
	var total, seen int64
	for i := range s.buckets {
		total += s.buckets[i].Load()
	}
	for i := range s.buckets {
		if seen += s.buckets[i].Load(); float64(seen) >= part*float64(total) {
			return float64(bucketBound(i)) / float64(time.Microsecond)
		}
	}
	return 0
}

// stats are the counters of the whole node since its start or since CONFIG RESETSTAT.
type stats struct {
	commands    atomic.Int64 // processed
	connections atomic.Int64 // accepted
	rejected    atomic.Int64 // connections beyond MaxClients
	netInput    atomic.Int64 // bytes
	netOutput   atomic.Int64 // bytes
	reads       atomic.Int64 // network reads
	batches     atomic.Int64 // flushes of replies
	hits        atomic.Int64
	readsBack   atomic.Int64 // cold values read for reading commands
	misses      atomic.Int64
	errors      atomic.Int64 // error replies
	slowReaders atomic.Int64 // connections cut for not reading
	// evictedClients counts connections closed to keep to maxmemory-clients.
	evictedClients atomic.Int64
	peakMemory     atomic.Int64 // bytes
	opsPerSec      atomic.Int64
	inPerSec       atomic.Int64 // bytes
	outPerSec      atomic.Int64 // bytes

	// expiredBefore is how many keys the machine had expired at the last CONFIG RESETSTAT.
	expiredBefore atomic.Int64

	mu     sync.Mutex
	byCode map[string]int64 // by the first word of the reply
}

// maxErrorKinds bounds the number of different error codes that are counted apart, as in Redis.
const maxErrorKinds = 128

// countError counts one error reply by its code, the first word behind the '-'.
func (s *stats) countError(code string) {
	s.errors.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byCode == nil {
		s.byCode = make(map[string]int64)
	}
	if _, known := s.byCode[code]; known || len(s.byCode) < maxErrorKinds {
		s.byCode[code]++
	}
}

// errorCodes returns the codes that were counted, sorted, with their counts.
func (s *stats) errorCodes() (codes []string, counts map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.byCode)), maps.Clone(s.byCode)
}

// reset is CONFIG RESETSTAT for the counters of the node.
func (s *stats) reset() {
	for _, counter := range []*atomic.Int64{&s.commands, &s.connections, &s.rejected, &s.netInput, &s.netOutput,
		&s.reads, &s.batches, &s.hits, &s.misses, &s.readsBack, &s.errors, &s.slowReaders, &s.evictedClients} {
		counter.Store(0)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byCode = nil
}

package kv

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"lockstep/smr"
)

// One cycle of Go's garbage collector beside a million keys with strings of 100 bytes: how long it takes, how much of the processors (GC/cpu-ms,
// of the whole process), and what a key takes of the heap. The cycles with which runtime.GC begins and ends are in it.
func BenchmarkCollect(b *testing.B) {
	const keys = 1_000_000
	m, before := New(), heapInUse()
	text := strings.Repeat("x", 100)
	for i := range keys {
		payload := AppendCommand(nil, bytesOf([]string{"SET", fmt.Sprintf("key:%012d", i), text}))
		m.Apply(Instant{LSN: smr.LSN(200 * i), Stamp: 1}, smr.Request{Session: 1, Sequence: m.LastSequence(1) + 1, Payload: payload}, nil)
	}
	heap := heapInUse() - before
	began := processorTime()
	for b.Loop() {
		runtime.GC()
	}
	b.ReportMetric(float64(heap)/keys, "B/key")
	b.ReportMetric(float64((processorTime()-began).Milliseconds())/float64(b.N), "GC/cpu-ms")
	if m.DBSize(0) != keys {
		b.Fatalf("%d keys", m.DBSize(0))
	}
}

// heapInUse returns the bytes of what lives on the heap.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

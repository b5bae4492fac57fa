package kvnode

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The bound of a node that tiers is one of its process, as the system counts it. Three things share it:
//
//	outside   what the Go runtime knows nothing of: the program, what the stores of images take from C, and the process that writes an image
//	limit     what the Go runtime may have of the system; the collector works the harder the nearer it is
//	  other   of it, in use beside keys and values: buffers, connections, marks of images, what is being read and written
//	  room    of it, for keys and values; so much is left beside that the collector finds what is worth its while
//
// outside and other are measured, limit and room follow from them. Where the bound is small room does not become less than leastRoom of it, and
// the process takes more than its bound.
const (
	// liveShare of the limit is to be in use, in percent.
	liveShare = 80
	// leastRoom and mostRoom bound the room, in percent of the bound; firstRoom is what it is before anything was measured.
	leastRoom, mostRoom, firstRoom = 60, 95, 60
	// leastLimit is the least limit, in bytes: with less, who reads much has the collector run all the time.
	leastLimit = 96 << 20
	// footprintPeriod is how often the process is measured.
	footprintPeriod = time.Second
)

// footprint divides a bound. One goroutine uses it, after the start.
type footprint struct {
	bound   int64
	limits  bool         // the operator has not set the collector's limit (GOMEMLIMIT)
	beside  func() int64 // returns what other processes take on behalf of this one
	samples []metrics.Sample
	at      time.Time
	cycles  uint64 // of the collector, when other was measured
	outside int64
	other   int64
}

// What samples hold, in this order.
const (
	sampleCycles = iota
	sampleLive
	sampleTotal
	sampleReleased
	sampleHeapFree
	sampleHeapObjects
	sampleHeapUnused
)

func newFootprint(bound int64, beside func() int64) *footprint {
	f := &footprint{bound: bound, beside: beside, limits: os.Getenv("GOMEMLIMIT") == ""}
	for _, name := range []string{"/gc/cycles/total:gc-cycles", "/gc/heap/live:bytes", "/memory/classes/total:bytes", "/memory/classes/heap/released:bytes",
		"/memory/classes/heap/free:bytes", "/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes"} {
		f.samples = append(f.samples, metrics.Sample{Name: name})
	}
	if f.limits {
		debug.SetMemoryLimit(bound + tierProcess) // until it was measured
	}
	return f
}

// firstRoom is the room before anything was measured.
func (f *footprint) firstRoom() int64 { return f.bound / 100 * firstRoom }

// measure returns the room for keys and values that take so many bytes now, and sets the limit. It does so once in a while, and behind each collection:
// before it, what was let go of still counts.
func (f *footprint) measure(values int64) (room int64, measured bool) {
	metrics.Read(f.samples[:1])
	cycles := f.samples[sampleCycles].Value.Uint64()
	now := time.Now()
	if cycles == f.cycles && now.Sub(f.at) < footprintPeriod {
		return 0, false
	}
	f.at = now
	metrics.Read(f.samples)
	value := func(i int) int64 { return int64(f.samples[i].Value.Uint64()) }
	held := value(sampleTotal) - value(sampleReleased)
	if outside := max(residentBytes()-held, 0) + f.beside(); outside > f.outside {
		f.outside = outside
	} else {
		f.outside -= (f.outside - outside) / 16
	}
	if cycles != f.cycles {
		runtimeOwn := held - value(sampleHeapFree) - value(sampleHeapObjects) - value(sampleHeapUnused) // stacks, tables
		other := max(value(sampleLive)-values, 0) + max(runtimeOwn, 0)
		if f.cycles == 0 {
			f.other = other
		}
		f.other += (other - f.other) / 4
		f.cycles = cycles
	}
	limit, room := divide(f.bound, f.outside, f.other)
	if f.limits {
		debug.SetMemoryLimit(limit)
	}
	return room, true
}

// divide returns the limit of the Go runtime and the room for keys and values in it.
func divide(bound, outside, other int64) (limit, room int64) {
	limit = bound - outside
	room = min(max(limit/100*liveShare-other, bound/100*leastRoom), bound/100*mostRoom)
	return max(limit, (room+other)/liveShare*100, leastLimit), room
}

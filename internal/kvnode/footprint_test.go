package kvnode

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

// What could go wrong: what a process takes beside keys and values is not counted, and it takes more than its bound; or a bound that cannot be kept leaves
// no room for values, or has the collector run all the time.
func TestBoundIsDividedAmongAllThatAProcessTakes(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	for bound := int64(16 * mb); bound <= 64<<30; bound *= 2 {
		for _, outside := range []int64{0, 20 * mb, 60 * mb} {
			for _, other := range []int64{0, 10 * mb, 40 * mb, 300 * mb} {
				limit, room := divide(bound, outside, other)
				if room < bound/100*leastRoom || room > bound/100*mostRoom {
					t.Errorf("bound %d, outside %d, other %d: room %d", bound, outside, other, room)
				}
				if live := room + other; live > limit/100*(liveShare+1)+100 {
					t.Errorf("bound %d, outside %d, other %d: %d in use of a limit of %d: the collector has nothing to find", bound, outside, other, live, limit)
				}
				if small := outside+other > bound/8 || bound < 256*mb; !small && limit+outside > bound {
					t.Errorf("bound %d, outside %d, other %d: the limit of %d is too much", bound, outside, other, limit)
				}
			}
		}
	}
}

// What could go wrong: the process is not measured, or by other names than the runtime has, so that the room stays what it was at the start.
func TestProcessIsMeasured(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	const bound = 4 << 30
	f := newFootprint(bound, func() int64 { return 0 })
	if !f.limits || debug.SetMemoryLimit(-1) != bound+tierProcess {
		t.Errorf("the limit is %d", debug.SetMemoryLimit(-1))
	}
	held := make([]byte, 200<<20)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	runtime.GC()
	room, measured := f.measure(0)
	if !measured || f.other < 200<<20 || f.outside <= 0 || f.outside > 1<<30 {
		t.Errorf("measured %v: outside %d, other %d", measured, f.outside, f.other)
	}
	if want := (bound-f.outside)/100*liveShare - f.other; room != want {
		t.Errorf("room for %d, want %d", room, want)
	}
	if limit := debug.SetMemoryLimit(-1); limit != bound-f.outside {
		t.Errorf("the limit is %d", limit)
	}
	if _, again := f.measure(0); again && f.cycles == 0 {
		t.Error("measured again at once")
	}
	before := f.other
	runtime.GC()
	for range 12 { // it approaches what it finds
		f.cycles--
		f.measure(200 << 20)
	}
	if f.other > before-150<<20 {
		t.Errorf("other is %d where keys and values take what it was before: %d", f.other, before)
	}
	runtime.KeepAlive(held)
}

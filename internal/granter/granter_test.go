package granter

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// What could go wrong: compactions that a store needs do not run, or it cannot be closed. One is written to until it must have compacted
// several times, by itself and on order.
func TestStoreCompacts(t *testing.T) {
	db, err := pebble.Open("store", options())
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 1<<10)
	for i := range 3000 {
		if err := db.Set(fmt.Appendf(nil, "%d", i*7919%3000), value, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := db.Compact(t.Context(), []byte("0"), []byte("9"), true); err != nil {
		t.Fatal(err)
	}
	if metrics := db.Metrics(); metrics.Compact.DefaultCount == 0 {
		t.Errorf("nothing was compacted:\n%v", metrics)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func options() *pebble.Options {
	o := &pebble.Options{FS: vfs.NewMem(), MemTableSize: 64 << 10, L0CompactionThreshold: 2, L0StopWritesThreshold: 8, FormatMajorVersion: pebble.FormatNewest}
	o.Experimental.CompactionScheduler = New()
	return o
}

// fake is a store in which so many compactions wait.
type fake struct {
	mu      sync.Mutex
	allowed int
	waiting int
	began   int
	looked  int
}

func (f *fake) GetAllowedWithoutPermission() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked++
	return f.allowed
}

func (f *fake) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting > 0, pebble.WaitingCompaction{}
}

func (f *fake) Schedule(pebble.CompactionGrantHandle) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting--
	f.began++
	return true
}

// What could go wrong: what was refused is never granted, more run than are allowed, or a store at rest is looked at for nothing.
func TestWhatWaitsIsGrantedWhenItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{allowed: 1}
		g := New()
		g.Register(1, f)
		if ok, handle := g.TrySchedule(); !ok || handle == nil {
			t.Error("the first is refused")
		}
		if ok, _ := g.TrySchedule(); ok {
			t.Error("a second one runs, one is allowed")
		}
		f.waiting = 3
		began := func(want int, when string) {
			t.Helper()
			synctest.Wait()
			if f.began != want {
				t.Errorf("%s %d run, not %d", when, f.began, want)
			}
		}
		began(0, "at first")
		g.Done()
		began(1, "after the first")
		f.allowed = 2
		g.UpdateGetAllowedWithoutPermission()
		began(2, "when more are allowed")
		g.Done()
		began(3, "after another one")
		g.Done()
		g.Done()
		synctest.Wait()
		looked := f.looked
		time.Sleep(time.Hour)
		if f.looked != looked {
			t.Errorf("it was looked at %d times while nothing happened", f.looked-looked)
		}
		g.Unregister()
		if ok, _ := g.TrySchedule(); ok {
			t.Error("it runs in a store that is closed")
		}
	})
}

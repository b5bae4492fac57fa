// Package granter lets stores of pebble compact: each as many at a time as it allows itself. Pebble's own scheduler does the same, and
// besides looks ten times a second whether a store allows itself more; here that is looked at when a flush or a compaction has ended, because
// nothing else changes it.
//
// It knows nothing of what is in a store.
package granter

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Granter is the scheduler of one store. It owns a goroutine from Register to Unregister, which the store calls when it is opened and closed.
type Granter struct {
	store  pebble.DBForCompaction // set by Register, before all else
	poke   chan struct{}          // 1: it is to be looked at what may run
	closed chan struct{}
	ended  chan struct{}

	mu      sync.Mutex
	running int
	over    bool
}

var (
	_ pebble.CompactionScheduler   = (*Granter)(nil)
	_ pebble.CompactionGrantHandle = (*Granter)(nil)
)

// New returns the scheduler for a store that is about to be opened. It is good for one.
func New() *Granter {
	return &Granter{poke: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Register implements pebble.CompactionScheduler.
func (g *Granter) Register(_ int, store pebble.DBForCompaction) {
	g.store, g.ended = store, make(chan struct{})
	go g.run()
}

// Unregister implements pebble.CompactionScheduler. When it returns the store is not called any more.
func (g *Granter) Unregister() {
	g.mu.Lock()
	g.over = true
	g.mu.Unlock()
	close(g.closed)
	if g.ended != nil {
		<-g.ended
	}
}

// TrySchedule implements pebble.CompactionScheduler. The store holds its own lock.
func (g *Granter) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.mayRun() {
		return false, nil // who is running has Done called, and what waits is granted then
	}
	g.running++
	return true, g
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler: a flush has ended. The store holds its own lock.
func (g *Granter) UpdateGetAllowedWithoutPermission() { g.wake() }

// Done implements pebble.CompactionGrantHandle: one compaction has ended.
func (g *Granter) Done() {
	g.mu.Lock()
	g.running--
	g.mu.Unlock()
	g.wake()
}

// Started implements pebble.CompactionGrantHandle.
func (g *Granter) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (g *Granter) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (g *Granter) CumulativeStats(pebble.CompactionGrantHandleStats) {}

func (g *Granter) wake() {
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

// mayRun reports whether the store allows itself one more. mu is held.
func (g *Granter) mayRun() bool {
	return !g.over && g.store.GetAllowedWithoutPermission() > g.running
}

// run grants what waits whenever it is poked.
func (g *Granter) run() {
	defer close(g.ended)
	for {
		select {
		case <-g.poke:
			for g.grant() {
			}
		case <-g.closed:
			return
		}
	}
}

// grant has one waiting compaction run, if one may, and reports whether it did. mu is not held while the store is called: it may call back.
func (g *Granter) grant() bool {
	g.mu.Lock()
	may := g.mayRun()
	g.mu.Unlock()
	if !may {
		return false
	}
	if waiting, _ := g.store.GetWaitingCompaction(); !waiting || !g.store.Schedule(g) {
		return false
	}
	g.mu.Lock()
	g.running++
	g.mu.Unlock()
	return true
}

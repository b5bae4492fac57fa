package kvnode

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
)

// minTierMemory is the least that ImageConfig.TierMemory may be, but 0.
const minTierMemory = 16 << 20

const (
	// tierPeriod is how often values move between memory and image while no frame does it.
	tierPeriod = 50 * time.Millisecond
	// tierSlice bounds how long that holds the machine, tierLooks how many keys it looks at between two looks at the clock.
	tierSlice = 2 * time.Millisecond
	tierLooks = 1024
	// tierBack bounds how many values that were read back wait to be put into memory.
	tierBack = 4096
)

// tierProcess is what a process is let take beside the bound before it was measured, in bytes.
const tierProcess = 64 << 20

// tier keeps the memory that a node takes near a bound: values that are idle leave the memory for the last image (kv.Tier), which is taken
// sooner when too few can. nil: everything stays in memory.
//
// Thresholds, in parts of the room that keys and values have within the bound (footprint): an image is due at an eighth of it in log bytes once 75 % are in use, and at a thirty-second once values
// cannot leave fast enough; values leave above 95 %; above 105 % the log is not executed further while an image is wanted or taken, since
// nothing else can make room.
type tier struct {
	keeper *imageKeeper
	bound  int64
	room   atomic.Int64 // of the bound, for keys and values

	// used has a bit for each key, chosen by its number: it was used since the hand of the clock came by. Several keys may share one.
	used []atomic.Uint32

	resident atomic.Int64 // as of the last look
	cold     atomic.Int64 // keys
	coldSize atomic.Int64 // bytes
	taken    atomic.Int64 // values that are back in memory
	waits    atomic.Int64 // times that the log was not executed further
	awaited  atomic.Bool  // it is not now, until an image is taken
	hurried  atomic.Uint64

	footprint *footprint // of run

	hurry  chan struct{} // an image is wanted; capacity 1
	wanted atomic.Bool   // from then until it is taken, or cannot be

	mu    sync.Mutex
	back  []kv.ReadBack // read back, and not in memory
	bytes int64         // of back
	eased chan struct{} // closed at the end of the next image
}

func newTier(keeper *imageKeeper, bound int64) *tier {
	words := 1 << bits.Len64(uint64(bound)/128/32)
	t := &tier{keeper: keeper, bound: bound, footprint: newFootprint(bound, keeper.apartBytes), used: make([]atomic.Uint32, words), hurry: make(chan struct{}, 1), eased: make(chan struct{})}
	t.room.Store(t.footprint.firstRoom())
	return t
}

func (t *tier) place(database byte, key uint64) (word *atomic.Uint32, bit uint32) {
	at := key + uint64(database)<<59 | uint64(database)<<12
	return &t.used[at/32&uint64(len(t.used)-1)], 1 << (at % 32)
}

// Used implements kv.Tier.
func (t *tier) Used(database byte, key uint64) {
	if word, bit := t.place(database, key); word.Load()&bit == 0 {
		word.Or(bit)
	}
}

// Idle implements kv.Tier.
func (t *tier) Idle(database byte, key uint64) bool {
	word, bit := t.place(database, key)
	if word.Load()&bit == 0 {
		return true
	}
	word.And(^bit)
	return false
}

// Read implements kv.Tier.
func (t *tier) Read(back kv.ReadBack) {
	t.keeper.node.stats.readsBack.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if size := back.Bytes(); len(t.back) < tierBack && t.bytes+size <= t.room.Load()/20 {
		t.back = append(t.back, back)
		t.bytes += size
	}
}

// settle puts what was read back into memory, and lets values leave it that are too much. It is called between frames, while nobody uses the
// machine.
func (t *tier) settle(m *kv.Machine) {
	t.mu.Lock()
	back := t.back
	t.back, t.bytes = nil, 0
	t.mu.Unlock()
	for _, b := range back {
		m.TakeBack(b)
	}
	room := t.room.Load()
	target := room / 100 * 95
	began := time.Now()
	stats := m.TierStats()
	exhausted := false
	for stats.Resident > target && !exhausted && time.Since(began) < tierSlice {
		exhausted = m.Chill(target, tierLooks)
		stats = m.TierStats()
	}
	t.publish(stats)
	grown := uint64(m.Applied()) - min(t.hurried.Load(), uint64(m.Applied()))
	if stats.Resident > room/4*3 && grown > uint64(room/8) || (exhausted || stats.Resident > target) && grown > uint64(room/32) {
		t.hurried.Store(uint64(m.Applied()))
		t.wanted.Store(true) // before: who takes the wish away says that it is no more
		select {
		case t.hurry <- struct{}{}:
		default:
		}
	}
}

func (t *tier) publish(stats kv.TierStats) {
	t.resident.Store(stats.Resident)
	t.cold.Store(int64(stats.Keys))
	t.coldSize.Store(stats.Bytes)
	t.taken.Store(stats.Back)
}

// afterFrame is settle where there is something to do. It is cheap else.
func (t *tier) afterFrame(m *kv.Machine) {
	if t != nil && m.TierStats().Resident > t.room.Load()/4*3 {
		t.settle(m)
	}
}

// await holds the log up while too much is in memory and the image is taken that will make room. It gives up when there is no image to wait for:
// a node that cannot take images, because its disk is full, goes on and takes more memory. The caller holds nothing.
func (t *tier) await() {
	if t == nil {
		return
	}
	waited := false
	defer t.awaited.Store(false)
	for t.resident.Load() > t.room.Load()/100*105 {
		t.mu.Lock()
		eased := t.eased
		t.mu.Unlock()
		if !t.wanted.Load() && !t.keeper.busy() {
			return
		}
		if !waited {
			waited = true
			t.waits.Add(1)
			t.awaited.Store(true)
		}
		select {
		case <-eased:
			t.keeper.Between(t.settle)
		case <-t.keeper.ended:
			return
		}
	}
}

// ease lets those go on who await.
func (t *tier) ease() {
	if t == nil {
		return
	}
	t.wanted.Store(false)
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.eased)
	t.eased = make(chan struct{})
}

// run looks after values while no frame does, until ctx ends.
func (t *tier) run(ctx context.Context) {
	if t == nil {
		return
	}
	poll := time.NewTicker(tierPeriod)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			t.mu.Lock()
			waiting := len(t.back)
			t.mu.Unlock()
			if over := t.over(); over || waiting > 0 {
				t.keeper.Between(t.settle)
			}
		}
	}
}

// over reports whether values should leave the memory.
func (t *tier) over() bool {
	n := t.keeper.node
	n.lock.RLock()
	stats := n.machine.TierStats()
	n.lock.RUnlock()
	t.publish(stats)
	if room, measured := t.footprint.measure(stats.Resident); measured {
		t.room.Store(room)
	}
	return stats.Resident > t.room.Load()/100*95
}

// hurried returns what an image is wanted by, nil if nobody wants one.
func (k *imageKeeper) hurried() <-chan struct{} {
	if k.tier == nil {
		return nil
	}
	return k.tier.hurry
}

// stopIfRotten ends the process if values that are not in memory cannot be read: there is no state any more that could be served or saved. A start
// verifies the image, and takes another one, of a peer if need be.
func (k *imageKeeper) stopIfRotten(err error) {
	if errors.Is(err, checkpoint.ErrCold) {
		panic(fmt.Errorf("node %s cannot go on: %w", k.node.config.Node, err))
	}
}

// infoTier writes what INFO says of values that are not in memory.
func (n *Node) infoTier(w *infoWriter) {
	if n.keeper == nil || n.keeper.tier == nil {
		w.line("tiering_enabled", 0)
		return
	}
	t := n.keeper.tier
	w.line("tiering_enabled", 1)
	w.line("tiering_memory", t.bound)
	w.line("tiering_room_bytes", t.room.Load())
	w.line("tiering_resident_bytes", t.resident.Load())
	w.line("tiering_cold_keys", t.cold.Load())
	w.line("tiering_cold_bytes", t.coldSize.Load())
	w.line("tiering_reads_back", n.stats.readsBack.Load())
	w.line("tiering_taken_back", t.taken.Load())
	w.line("tiering_waits", t.waits.Load())
	w.line("tiering_hit_ratio", fmt.Sprintf("%.4f", hitRatio(n.stats.hits.Load(), n.stats.readsBack.Load())))
}

// hitRatio returns the part of the keys that reading commands found whose values were in memory.
func hitRatio(hits, readsBack int64) float64 {
	if hits <= 0 {
		return 1
	}
	return 1 - float64(min(readsBack, hits))/float64(hits)
}

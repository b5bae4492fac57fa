package kvnode

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/smr"
)

// progress is how far the log is executed, and who waits for it to get further. The goroutine that applies the log
// advances it.
type progress struct {
	lsn     atomic.Uint64
	waiting atomic.Int32

	mu      sync.Mutex
	waiters []waiter
	parked  []parked
}

// parked is a connection whose reads need everything below lsn executed.
type parked struct {
	lsn   smr.LSN
	since time.Duration // node time
	conn  *conn
}

// park is wait for a connection of an event loop: it is posted to it.
func (p *progress) park(lsn smr.LSN, c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting.Add(1) // as in wait
	if p.reached(lsn) {
		p.waiting.Add(-1)
		return false
	}
	p.parked = append(p.parked, parked{lsn: lsn, since: c.node.now(), conn: c})
	return true
}

// overdue takes those out that have been parked since before, and has give called for each.
func (p *progress) overdue(before time.Duration, give func(lsn smr.LSN, c *conn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parked = slices.DeleteFunc(p.parked, func(w parked) bool {
		if w.since >= before {
			return false
		}
		p.waiting.Add(-1)
		give(w.lsn, w.conn)
		return true
	})
}

// waiter is one reader that needs everything below lsn executed.
type waiter struct {
	lsn   smr.LSN
	ready chan struct{}
}

func (p *progress) load() smr.LSN            { return smr.LSN(p.lsn.Load()) }
func (p *progress) reached(lsn smr.LSN) bool { return p.load() >= lsn }

// wait registers a waiter, unless lsn has been reached meanwhile; it reports whether it did.
func (p *progress) wait(lsn smr.LSN, ready chan struct{}) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting.Add(1) // before the look at lsn, so that advance either sees us or is seen
	if p.reached(lsn) {
		p.waiting.Add(-1)
		return false
	}
	p.waiters = append(p.waiters, waiter{lsn: lsn, ready: ready})
	return true
}

// forget takes a waiter out. It reports false if the waiter was released meanwhile.
func (p *progress) forget(ready chan struct{}) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.waiters, func(w waiter) bool { return w.ready == ready })
	if i < 0 {
		return false
	}
	p.waiters = slices.Delete(p.waiters, i, i+1)
	p.waiting.Add(-1)
	return true
}

// advance says that everything below lsn is executed.
func (p *progress) advance(lsn smr.LSN) {
	p.lsn.Store(uint64(lsn))
	if p.waiting.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.waiters[:0]
	for _, w := range p.waiters {
		if w.lsn > lsn {
			kept = append(kept, w)
			continue
		}
		p.waiting.Add(-1)
		w.ready <- struct{}{}
	}
	clear(p.waiters[len(kept):])
	p.waiters = kept
	p.parked = slices.DeleteFunc(p.parked, func(w parked) bool {
		if w.lsn > lsn {
			return false
		}
		p.waiting.Add(-1)
		w.conn.post()
		return true
	})
}

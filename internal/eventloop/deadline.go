package eventloop

import (
	"sync"
	"time"
)

// deadline is a moment that can be waited for and moved.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{} // closed when the moment has come
}

func (d *deadline) init() { d.expired = make(chan struct{}) }

// done returns a channel that is closed at the moment. It is to be fetched anew for each wait.
func (d *deadline) done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

// set moves the moment; the zero time is never. Who waits already is woken if it has come, and waits for the new one otherwise.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop()
	if isClosed(d.expired) {
		d.expired = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.expired)
		return
	}
	expired := d.expired
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.expired == expired && !isClosed(expired) {
			close(expired)
		}
	})
}

// stop stops the timer. If that is too late, the moment has come: who waits looks again. Called with mu held.
func (d *deadline) stop() {
	if d.timer != nil && !d.timer.Stop() && !isClosed(d.expired) {
		close(d.expired)
	}
	d.timer = nil
}

// end stops the timer for good.
func (d *deadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop()
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

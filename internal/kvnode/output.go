package kvnode

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lockstep/internal/eventloop"
	"lockstep/internal/trust"
)

// errSlowReader ends a connection whose client does not read its replies.
var errSlowReader = errors.New("output buffer limit reached")

// bufferLimit bounds what waits for a client to read it.
type bufferLimit struct {
	hard     int           // bytes; beyond them the client is cut at once
	soft     int           // bytes; beyond them for softTime it is cut; 0: no such limit
	softTime time.Duration // see soft
}

// output sends the replies of one connection without ever blocking the goroutine that executes its commands:
// what the kernel does not take at once waits in a bounded backlog, which a second goroutine drains. A client that
// sends a long pipeline before it reads the first reply is therefore served, as by Redis, and one that never reads
// is cut when the backlog exceeds its limit.
//
// send and hold are called from the connection's goroutine only, push from any. What is pushed while the connection
// executes a batch (from hold to the last send) waits until the replies of that batch are sent: it may tell of changes
// that those replies do not show yet, and it must not come before the reply that announces it (SUBSCRIBE).
type output struct {
	conn    net.Conn
	socket  *eventloop.Socket // nil if Go's scheduler watches the connection
	raw     syscall.RawConn   // nil if replies cannot be given to the kernel as they are (TLS, tests)
	below   syscall.RawConn   // of the TCP connection, to look at its state; nil if there is none (tests)
	attempt func(fd uintptr) bool
	limit   func() bufferLimit
	tasks   *sync.WaitGroup // counts the draining goroutine
	total   *atomic.Int64   // bytes sent, of all connections

	// Used by one call of try only.
	rest    []byte
	tryErr  error
	waiting atomic.Int64 // bytes of backlog, for CLIENT LIST

	mu       sync.Mutex
	backlog  []byte        // not yet taken by the draining goroutine
	inFlight int           // bytes taken by it and not yet sent
	drained  chan struct{} // closed by it when it ends; nil before the first
	draining bool          // it lives; only it writes to conn
	busy     bool          // a batch is being executed: pushes are held
	held     []byte        // pushes that wait for the end of the batch
	softFrom time.Time     // since when the soft limit is exceeded; zero: it is not
	err      error         // sticky
}

func newOutput(conn net.Conn, limit func() bufferLimit, tasks *sync.WaitGroup, total *atomic.Int64) *output {
	o := &output{conn: conn, limit: limit, tasks: tasks, total: total}
	o.socket, _ = conn.(*eventloop.Socket)
	if file, ok := conn.(syscall.Conn); ok {
		if raw, err := file.SyscallConn(); err == nil {
			o.raw, o.below = raw, raw
			o.attempt = o.writeRest
		}
	}
	if secured, ok := conn.(*trust.ClientConn); ok {
		o.below = secured.Descriptor()
	}
	return o
}

// hold begins a batch.
func (o *output) hold() {
	o.mu.Lock()
	o.busy = true
	o.mu.Unlock()
}

// send sends replies, and behind them what was pushed meanwhile; last ends the batch. It reports whether it keeps b: the
// caller must then forget it, and otherwise may use it again.
func (o *output) send(b []byte, last bool) (kept bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last {
		o.busy = false
	}
	if o.err != nil {
		return false, o.err
	}
	if kept, err = o.deliver(b); err == nil && len(o.held) > 0 {
		held := o.held
		o.held = nil
		_, err = o.deliver(held)
	}
	return kept, err
}

// deliver gives b to the kernel or to the backlog. Called with mu held.
func (o *output) deliver(b []byte) (kept bool, err error) {
	if len(b) == 0 {
		return false, nil
	}
	o.total.Add(int64(len(b)))
	if !o.draining {
		if b, err = o.try(b); len(b) == 0 || err != nil {
			o.err = err
			return false, err
		}
	}
	if err := o.checkLimit(o.inFlight + len(o.backlog) + len(b)); err != nil {
		return false, err
	}
	if len(o.backlog) == 0 && len(b) > keptBuffer {
		o.backlog, kept = b, true
	} else {
		o.backlog = append(o.backlog, b...)
	}
	o.startDraining()
	return kept, nil
}

// push sends an out-of-band message, from any goroutine; it never waits and makes no system call. An error means that
// the client does not read, or is gone: the caller closes the connection.
func (o *output) push(b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	if err := o.checkLimit(o.inFlight + len(o.backlog) + len(o.held) + len(b)); err != nil {
		return err
	}
	if o.busy {
		o.held = append(o.held, b...)
		return nil
	}
	o.total.Add(int64(len(b)))
	o.backlog = append(o.backlog, b...)
	o.startDraining()
	return nil
}

// takeHeld returns what was pushed during the batch so far: the connection's goroutine puts it behind the replies it has.
func (o *output) takeHeld() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	held := o.held
	o.held = nil
	return held
}

// checkLimit notes and returns an error if so many bytes may not wait. Called with mu held.
func (o *output) checkLimit(waiting int) error {
	limit := o.limit()
	switch {
	case waiting > limit.hard:
		o.err = fmt.Errorf("%w: %d bytes wait, the limit is %d", errSlowReader, waiting, limit.hard)
	case limit.soft == 0 || waiting <= limit.soft:
		o.softFrom = time.Time{}
	case o.softFrom.IsZero():
		o.softFrom = time.Now()
	case time.Since(o.softFrom) > limit.softTime:
		o.err = fmt.Errorf("%w: more than %d bytes wait for more than %v", errSlowReader, limit.soft, limit.softTime)
	}
	return o.err
}

// overdue checks the soft limit again for a client to which nothing more is sent.
func (o *output) overdue() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil || o.softFrom.IsZero() {
		return nil
	}
	return o.checkLimit(o.inFlight + len(o.backlog) + len(o.held))
}

// startDraining sees to it that the backlog is sent. Called with mu held.
func (o *output) startDraining() {
	o.waiting.Store(int64(o.inFlight + len(o.backlog)))
	if !o.draining {
		o.draining, o.drained = true, make(chan struct{})
		o.tasks.Go(o.drain)
	}
}

// try gives the kernel what it takes at once and returns the rest. Called with mu held, while nobody drains.
func (o *output) try(b []byte) ([]byte, error) {
	if o.socket != nil {
		n, err := o.socket.TryWrite(b)
		return b[n:], err
	}
	if o.raw == nil {
		return b, nil
	}
	o.rest, o.tryErr = b, nil
	err := o.raw.Write(o.attempt)
	b, o.rest = o.rest, nil
	if o.tryErr != nil {
		return b, o.tryErr
	}
	return b, err
}

// writeRest is the callback of syscall.RawConn.Write. It always reports true: never wait.
func (o *output) writeRest(fd uintptr) bool {
	for len(o.rest) > 0 {
		n, err := syscall.Write(int(fd), o.rest)
		switch err {
		case nil:
			o.rest = o.rest[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			return true
		default:
			o.tryErr = err
			return true
		}
	}
	return true
}

// drain writes the backlog until it is empty or the connection is closed.
func (o *output) drain() {
	var spare []byte
	for {
		o.mu.Lock()
		if len(o.backlog) == 0 || o.err != nil {
			o.draining, o.backlog, o.inFlight = false, nil, 0
			o.waiting.Store(0)
			close(o.drained)
			o.mu.Unlock()
			return
		}
		taken := o.backlog
		o.backlog, o.inFlight = spare[:0], len(taken)
		o.mu.Unlock()

		_, err := o.conn.Write(taken)
		spare = nil
		if cap(taken) <= keptBuffer {
			spare = taken
		}
		if err != nil {
			o.mu.Lock()
			o.err = err
			o.mu.Unlock()
		}
	}
}

// isDraining reports whether something is left to be sent.
func (o *output) isDraining() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.draining
}

// finish waits until everything was sent, at most until the deadline. The caller then closes the connection.
func (o *output) finish(deadline time.Time) {
	o.mu.Lock()
	drained, draining := o.drained, o.draining
	o.mu.Unlock()
	if !draining {
		return
	}
	if err := o.conn.SetWriteDeadline(deadline); err != nil {
		return
	}
	<-drained
}

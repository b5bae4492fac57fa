// Package speaker writes to connections. Whoever has something to say on a connection says it at once if the socket takes it; what it does not take
// is left to a goroutine that waits. So a message that fits the socket's buffer needs no other goroutine to be sent.
package speaker

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// keepBuffer is the largest buffer that is kept between messages, in bytes.
	keepBuffer = 1 << 20
	// pieceSize is how many bytes Run writes at once: so much progress can be seen.
	pieceSize = 256 << 10
)

// Compose appends what is to be written next to buffer; nothing if there is nothing. It is called by one goroutine at a time. Unless patient
// it must not wait for anything; it may leave something out then, and calls Wake for it. last: nothing follows, and the
// connection is over once this is written. After an error it is called again, patient.
type Compose func(buffer []byte, patient bool) (composed []byte, last bool, err error)

// Speaker writes to one connection. All methods but Run may be called from any goroutine.
type Speaker struct {
	conn    net.Conn
	wake    chan struct{} // 1: Run has something to do
	compose Compose
	// patience is how long the peer may take no byte of so many, 0: as long as it likes.
	patience func(bytes int) time.Duration

	raw     syscall.RawConn // nil: the connection can only be written to by waiting
	held    func() bool     // reports whether writing has to wait; nil: it never has
	attempt func(fd uintptr) bool
	written atomic.Uint64
	writing atomic.Bool

	busy   sync.Mutex // held by whoever composes or writes; guards what is below
	buffer []byte
	rest   []byte // of buffer, what is not yet written
	last   bool   // behind rest nothing follows
	wrote  int    // by attempt
	failed error  // of attempt
}

// New returns a speaker of conn. Whoever calls it sees to it that Run runs.
func New(conn net.Conn, compose Compose, patience func(bytes int) time.Duration) *Speaker {
	s := &Speaker{conn: conn, wake: make(chan struct{}, 1), compose: compose, patience: patience}
	socket := conn
	if w, ok := conn.(wrapped); ok {
		socket, s.held = w.NetConn(), w.Held
	}
	if direct, ok := socket.(syscall.Conn); ok {
		s.raw, _ = direct.SyscallConn() // it fails for closed connections only: Run notices
	}
	s.attempt = func(fd uintptr) bool {
		s.wrote, s.failed = unix.Write(int(fd), s.rest)
		return true // never wait
	}
	return s
}

// wrapped is a connection that only sometimes does more than the one behind it: while Held is false that one may be written to.
type wrapped interface {
	NetConn() net.Conn
	Held() bool
}

// Say writes what there is to be written. It never blocks.
func (s *Speaker) Say() {
	if s.raw == nil || s.held != nil && s.held() || !s.busy.TryLock() {
		s.Wake() // who is at it comes round again
		return
	}
	defer s.busy.Unlock()
	if len(s.rest) > 0 || s.last {
		s.Wake()
		return
	}
	if s.next(false) != nil {
		s.Wake()
		return
	}
	if len(s.rest) > 0 {
		s.wrote, s.failed = 0, nil
		if err := s.raw.Write(s.attempt); err == nil && s.failed == nil {
			s.rest = s.rest[s.wrote:]
			s.written.Add(uint64(s.wrote))
		}
	}
	if len(s.rest) > 0 || s.last {
		s.Wake() // Run waits until the socket takes more, or learns what is wrong with it
	}
}

// Wake has Run look for what there is to be written.
func (s *Speaker) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Progress returns how many bytes have been written, and whether more are waiting for the socket to take them.
func (s *Speaker) Progress() (written uint64, writing bool) {
	return s.written.Load(), s.writing.Load()
}

// Run writes what Say could not, until ctx ends, stopped says so, or the last was written: nil. Otherwise it returns why it gave up. The connection is
// left to be closed by the caller; closing it ends Run. It is called once.
func (s *Speaker) Run(ctx context.Context, stopped func() bool) error {
	for {
		over, err := s.write(stopped)
		if over || err != nil {
			return err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// write writes all there is.
func (s *Speaker) write(stopped func() bool) (over bool, err error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	defer s.writing.Store(false)
	for !stopped() {
		if len(s.rest) == 0 {
			if s.last {
				return true, nil
			}
			if err := s.next(true); err != nil {
				return true, err
			}
			if len(s.rest) == 0 && !s.last {
				return false, nil
			}
		}
		if err := s.push(); err != nil {
			return true, err
		}
	}
	return true, nil
}

// push writes rest, and waits for it.
func (s *Speaker) push() error {
	s.writing.Store(true)
	if patience := s.patience(len(s.rest)); patience > 0 {
		if err := s.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		defer s.conn.SetWriteDeadline(time.Time{}) // Say would find it expired; it fails only if the connection is closed
	}
	for len(s.rest) > 0 {
		n, err := s.conn.Write(s.rest[:min(len(s.rest), pieceSize)])
		s.rest = s.rest[n:]
		s.written.Add(uint64(n))
		if err != nil {
			return err
		}
	}
	return nil
}

// next composes.
func (s *Speaker) next(patient bool) error {
	if cap(s.buffer) > keepBuffer {
		s.buffer = nil
	}
	composed, last, err := s.compose(s.buffer[:0], patient)
	if err != nil {
		return err
	}
	s.buffer, s.rest, s.last = composed, composed, last
	return nil
}

// Settle calls f while nobody composes.
func (s *Speaker) Settle(f func()) {
	s.busy.Lock()
	defer s.busy.Unlock()
	f()
}

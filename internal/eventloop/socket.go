package eventloop

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lockstep/internal/atonce"

	"golang.org/x/sys/unix"
)

// ErrAgain says that a socket has nothing to read, or takes nothing, at present.
var ErrAgain = errors.New("not at present")

// The states of a socket's turn.
const (
	atRest uint32 = iota
	taken
	takenMore // and something has arrived since
)

// Socket is a TCP connection that is watched by a Loop instead of by Go's scheduler. TryRead, Read and Rest belong to who has
// the turn; Release to its last holder. All other methods may be called from any goroutine.
type Socket struct {
	fd            int
	local, remote net.Addr
	loop          *Loop
	handler       Handler

	turn atomic.Uint32
	// ending: an edge told of the end of the connection, which stands behind what has arrived. It is told only once.
	ending             atomic.Bool
	readable, writable chan struct{} // capacity 1: edges that the loop has seen
	reading, writing   deadline
	closed             chan struct{}
	isClosed           atomic.Bool

	// mu guards the descriptor: it is closed when it is released and no call of others uses it.
	mu       sync.Mutex
	users    int
	released bool
}

// NewSocket takes a connection out of Go's scheduler. It takes c over: c is closed, also with an error.
func NewSocket(c *net.TCPConn) (*Socket, error) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take a connection over: %w", err)
	}
	fd := -1
	var failed error
	err = raw.Control(func(number uintptr) {
		fd, failed = unix.FcntlInt(number, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("take a connection over: %w", err)
	}
	s := &Socket{
		fd: fd, local: c.LocalAddr(), remote: c.RemoteAddr(), closed: make(chan struct{}),
		readable: make(chan struct{}, 1), writable: make(chan struct{}, 1),
	}
	s.reading.init()
	s.writing.init()
	return s, nil
}

// arrive notes that something has arrived. It reports true if the caller has the turn now.
func (s *Socket) arrive() bool {
	for {
		switch s.turn.Load() {
		case atRest:
			if s.turn.CompareAndSwap(atRest, taken) {
				return true
			}
		case taken:
			if s.turn.CompareAndSwap(taken, takenMore) {
				signal(s.readable)
				return false
			}
		default:
			signal(s.readable)
			return false
		}
	}
}

// Nudge makes the handler look at a socket as if something had arrived.
func (s *Socket) Nudge() {
	if s.arrive() {
		s.loop.Post(nudged{s.handler})
	}
}

// nudged stands for a handler that is to be called as ready.
type nudged struct{ handler Handler }

func (n nudged) Ready()  { n.handler.Ready() }
func (n nudged) Posted() { n.handler.Ready() }

// Rest ends the turn, once TryRead has returned fewer bytes than it might have. If something has arrived since the turn began, or
// the end of the connection has not been read, the caller keeps the turn, and false is reported.
func (s *Socket) Rest() bool {
	if !s.ending.Load() && s.turn.CompareAndSwap(taken, atRest) {
		return true
	}
	s.turn.Store(taken)
	return false
}

// TryRead reads what has arrived, without waiting: ErrAgain if there is nothing, io.EOF at the end.
func (s *Socket) TryRead(b []byte) (int, error) {
	for {
		n, err := atonce.Read(s.fd, b)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case err == unix.EAGAIN:
			s.ending.Store(false)
			return 0, ErrAgain
		case err != unix.EINTR:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// TryWrite gives the kernel what it takes at once, and returns how much: fewer than all with a nil error if it is full.
func (s *Socket) TryWrite(b []byte) (written int, err error) {
	if !s.use() {
		return 0, net.ErrClosed
	}
	defer s.leave()
	for written < len(b) {
		n, err := atonce.Write(s.fd, b[written:])
		switch {
		case err == nil:
			written += n
		case err == unix.EAGAIN:
			return written, nil
		case err != unix.EINTR:
			return written, os.NewSyscallError("write", err)
		}
	}
	return written, nil
}

// Read implements net.Conn for a goroutine that has the turn.
func (s *Socket) Read(b []byte) (int, error) {
	for {
		expired := s.reading.done()
		select {
		case <-expired:
			return 0, s.fail("read", os.ErrDeadlineExceeded)
		default:
		}
		n, err := s.TryRead(b)
		switch {
		case err == nil:
			return n, nil
		case err != ErrAgain:
			return n, err
		}
		select {
		case <-s.readable:
		case <-expired:
		case <-s.closed:
			return 0, s.fail("read", net.ErrClosed)
		}
	}
}

// Write implements net.Conn. One goroutine at a time may call it.
func (s *Socket) Write(b []byte) (written int, err error) {
	for {
		expired := s.writing.done()
		select {
		case <-expired:
			return written, s.fail("write", os.ErrDeadlineExceeded)
		default:
		}
		n, err := s.TryWrite(b[written:])
		written += n
		if err != nil || written == len(b) {
			return written, err
		}
		select {
		case <-s.writable:
		case <-expired:
		case <-s.closed:
			return written, s.fail("write", net.ErrClosed)
		}
	}
}

func (s *Socket) fail(operation string, err error) error {
	return &net.OpError{Op: operation, Net: "tcp", Source: s.local, Addr: s.remote, Err: err}
}

// use keeps the descriptor from being closed until leave. It reports false if it may not be used any more.
func (s *Socket) use() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return false
	}
	s.users++
	return true
}

func (s *Socket) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.released && s.users == 0 {
		unix.Close(s.fd)
	}
}

// Close ends the connection: whoever reads or writes is woken, and who has the turn, or gets it, finds the end. It implements
// net.Conn.
func (s *Socket) Close() error {
	if s.isClosed.Swap(true) {
		return net.ErrClosed
	}
	close(s.closed)
	if s.use() {
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // an error says that the peer was faster
		s.leave()
	}
	return nil
}

// Release gives the descriptor back. The last holder of the turn calls it, once; nothing is called for the socket any more.
func (s *Socket) Release() {
	_ = s.Close()
	s.reading.end()
	s.writing.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loop.forget(s) // before the number can be given out again
	s.released = true
	if s.users == 0 {
		unix.Close(s.fd)
	}
}

// LocalAddr implements net.Conn.
func (s *Socket) LocalAddr() net.Addr { return s.local }

// RemoteAddr implements net.Conn.
func (s *Socket) RemoteAddr() net.Addr { return s.remote }

// SetDeadline implements net.Conn.
func (s *Socket) SetDeadline(t time.Time) error {
	s.reading.set(t)
	s.writing.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (s *Socket) SetReadDeadline(t time.Time) error {
	s.reading.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	s.writing.set(t)
	return nil
}

// SyscallConn implements syscall.Conn.
func (s *Socket) SyscallConn() (syscall.RawConn, error) { return rawSocket{s}, nil }

// rawSocket gives the descriptor to functions. Those of Read and Write are called once: they may not ask to wait.
type rawSocket struct{ s *Socket }

// Control implements syscall.RawConn.
func (r rawSocket) Control(f func(fd uintptr)) error {
	if !r.s.use() {
		return net.ErrClosed
	}
	defer r.s.leave()
	f(uintptr(r.s.fd))
	return nil
}

// Read implements syscall.RawConn.
func (r rawSocket) Read(f func(fd uintptr) bool) error { return r.once(f) }

// Write implements syscall.RawConn.
func (r rawSocket) Write(f func(fd uintptr) bool) error { return r.once(f) }

func (r rawSocket) once(f func(fd uintptr) bool) error {
	done := false
	if err := r.Control(func(fd uintptr) { done = f(fd) }); err != nil {
		return err
	}
	if !done {
		return ErrAgain
	}
	return nil
}

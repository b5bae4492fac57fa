package floor

import (
	"errors"
	"fmt"
	"reflect"

	"golang.org/x/sys/unix"
)

// memory is a buffer for system calls that Go's scheduler is not told of. Its address is taken once: it is on the heap, where the
// collector moves nothing, and the slice keeps it.
type memory struct {
	bytes   []byte
	address uintptr
}

func newMemory(size int) memory {
	b := make([]byte, size)
	return memory{b, reflect.ValueOf(b).Pointer()}
}

// read reads into bytes[from:]. It returns 0 and no error if there is nothing to read now, and errEnded at the end of the stream.
func (m memory) read(fd, from int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), m.address+uintptr(from), uintptr(len(m.bytes)-from))
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return 0, nil
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, errEnded
		default:
			return int(n), nil
		}
	}
}

var errEnded = errors.New("the other end has closed the connection")

// write writes bytes[from:end] to a socket. It returns how much the socket took.
func (m memory) write(fd, from, end int) (int, error) {
	for done := from; ; {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), m.address+uintptr(done), uintptr(end-done))
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return done - from, nil
		case errno != 0:
			return done - from, errno
		}
		if done += int(n); done == end {
			return done - from, nil
		}
	}
}

// writeAt writes all of bytes[from:end] into a file.
func (m memory) writeAt(fd, from, end int, offset int64) error {
	for from < end {
		n, _, errno := unix.RawSyscall6(unix.SYS_PWRITE64, uintptr(fd), m.address+uintptr(from), uintptr(end-from), uintptr(offset), 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return fmt.Errorf("write the file: %w", errno)
		}
		from, offset = from+int(n), offset+int64(n)
	}
	return nil
}

// makeDurable is fdatasync.
func makeDurable(fd int) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_FDATASYNC, uintptr(fd), 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return fmt.Errorf("sync the file: %w", errno)
		}
		return nil
	}
}

// poller waits for many sockets.
type poller struct {
	fd      int
	ready   []unix.EpollEvent
	address uintptr
}

// events is how many sockets one wait reports at most.
const events = 256

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	ready := make([]unix.EpollEvent, events)
	return &poller{fd, ready, reflect.ValueOf(ready).Pointer()}, nil
}

// watch reports a socket under a mark when something comes: once, until it was read.
func (p *poller) watch(fd, mark int) error { return p.control(unix.EPOLL_CTL_ADD, fd, mark, 0) }

func (p *poller) control(operation, fd, mark int, further uint32) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff | further, Fd: int32(mark)}
	if err := unix.EpollCtl(p.fd, operation, fd, &event); err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	return nil
}

// open returns a stream over a socket, which it watches.
func (p *poller) open(fd, mark int) (stream, error) {
	return stream{fd: fd, poller: p, mark: mark}, p.watch(fd, mark)
}

// wait returns how many sockets are ready, 0 if milliseconds have passed; -1 waits for ever.
func (p *poller) wait(milliseconds int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), p.address, events, uintptr(milliseconds), 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, fmt.Errorf("wait for sockets: %w", errno)
		}
		return int(n), nil
	}
}

// stream is a socket that never blocks. pending is what it did not take; only while there is some is room in the socket reported: the kernel
// wakes who waits for room in a unix socket each time when the other end reads.
type stream struct {
	fd      int // -1: closed
	poller  *poller
	mark    int
	pending []byte
}

// maxPending is how much a stream keeps for a socket that takes nothing. Who is slower than that is gone.
const maxPending = 64 << 20

var errSlow = fmt.Errorf("the other end does not read: %d MiB wait for it", maxPending>>20)

// send sends bytes[from:end] of m, or keeps them.
func (s *stream) send(m memory, from, end int) error {
	if len(s.pending) == 0 {
		n, err := m.write(s.fd, from, end)
		if err != nil {
			return err
		}
		from += n
	}
	if from == end {
		return nil
	}
	if len(s.pending)+end-from > maxPending {
		return errSlow
	}
	s.pending = append(s.pending, m.bytes[from:end]...)
	return s.poller.control(unix.EPOLL_CTL_MOD, s.fd, s.mark, unix.EPOLLOUT)
}

// flush sends what was kept, by way of scratch.
func (s *stream) flush(scratch memory) error {
	if len(s.pending) == 0 {
		return nil
	}
	for len(s.pending) > 0 {
		size := copy(scratch.bytes, s.pending)
		n, err := scratch.write(s.fd, 0, size)
		if err != nil {
			return err
		}
		if s.pending = s.pending[n:]; n < size {
			return nil
		}
	}
	s.pending = nil
	return s.poller.control(unix.EPOLL_CTL_MOD, s.fd, s.mark, 0)
}

func (s *stream) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd, s.pending = -1, nil
}

// listenTCP listens on a free port of the loopback interface.
func listenTCP() (fd, port int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1024))
	}
	if err != nil {
		return 0, 0, fmt.Errorf("listen on loopback: %w", err)
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		return 0, 0, fmt.Errorf("address of a socket: %w", err)
	}
	return fd, address.(*unix.SockaddrInet4).Port, nil
}

// listenUnix listens on a unix socket with that name.
func listenUnix(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: name}), unix.Listen(fd, 1))
	}
	if err != nil {
		return 0, fmt.Errorf("listen on %s: %w", name, err)
	}
	return fd, nil
}

// dial connects to a listener on this machine.
func dial(family int, to unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, to)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err == nil && family == unix.AF_INET {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err != nil {
		return 0, fmt.Errorf("connect to %v: %w", to, err)
	}
	return fd, nil
}

// accept returns the next connection of a listener, -1 if there is none now.
func accept(listener int) (int, error) {
	for {
		fd, from, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case errors.Is(err, unix.EAGAIN):
			return -1, nil
		case err != nil:
			return -1, fmt.Errorf("accept a connection: %w", err)
		}
		if _, tcp := from.(*unix.SockaddrInet4); tcp {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("accept a connection: %w", err)
		}
		return fd, nil
	}
}

package eventloop

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"lockstep/internal/atonce"

	"golang.org/x/sys/unix"
)

// Handler is who uses a socket.
type Handler interface {
	// Ready is called on the loop's goroutine with the turn of the socket: something has arrived, or the connection has ended.
	Ready()
	// Posted is called on the loop's goroutine after Post. Who posts passes the turn on.
	Posted()
}

const (
	// maxEvents bounds what one system call tells.
	maxEvents = 256
	// maxCalls is for how many handlers the call of after may be put off.
	maxCalls = 64
)

// watched are the events of interest. Each is told once when it comes about.
const watched = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// Loop watches sockets. All methods but Run may be called from any goroutine.
type Loop struct {
	epoll int // file descriptor
	bell  int // file descriptor of an eventfd: wakes Run

	// asleep is true while Run waits, or is about to, without having seen what was posted since.
	asleep atomic.Bool

	// after is called on the loop's goroutine behind handlers: behind the last one that has something to do, and once in a while before.
	after func()

	mu      sync.Mutex
	sockets []*Socket // by file descriptor
	posted  []Handler
	stopped bool

	// Of Run.
	calls int // of handlers since after was called
	ready []*Socket
	spare []Handler
}

// New returns a loop that watches nothing yet. Its descriptors are closed when Run returns. after, which may be nil, is called on Run's goroutine
// when handlers have been called, for several of them at once: there they finish together what each has begun.
func New(after func()) (*Loop, error) {
	if after == nil {
		after = func() {}
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an event loop: %w", os.NewSyscallError("epoll_create1", err))
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("create an event loop: %w", os.NewSyscallError("eventfd", err))
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(bell)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, bell, &event); err != nil {
		unix.Close(epoll)
		unix.Close(bell)
		return nil, fmt.Errorf("create an event loop: %w", os.NewSyscallError("epoll_ctl", err))
	}
	return &Loop{epoll: epoll, bell: bell, after: after}, nil
}

// Add has the loop watch a socket at rest, until its Release. What has arrived already is told at once.
func (l *Loop) Add(s *Socket, handler Handler) error {
	s.loop, s.handler = l, handler
	l.mu.Lock()
	for s.fd >= len(l.sockets) {
		l.sockets = append(l.sockets, make([]*Socket, max(64, len(l.sockets)))...)
	}
	l.sockets[s.fd] = s
	l.mu.Unlock()
	event := unix.EpollEvent{Events: watched, Fd: int32(s.fd)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, s.fd, &event); err != nil {
		l.forget(s)
		return fmt.Errorf("watch a connection: %w", os.NewSyscallError("epoll_ctl", err))
	}
	return nil
}

// forget takes a socket out, before its descriptor is closed. Closing ends the registration.
func (l *Loop) forget(s *Socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sockets[s.fd] = nil
}

// Post has Posted called for each handler, in order. The slice is not kept.
func (l *Loop) Post(handlers ...Handler) {
	l.mu.Lock()
	l.posted = append(l.posted, handlers...)
	l.mu.Unlock()
	l.ring()
}

// Stop makes Run return. No socket may be watched any more.
func (l *Loop) Stop() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.ring()
}

// ring wakes Run if it waits.
func (l *Loop) ring() {
	if l.asleep.Swap(false) {
		one := [8]byte{1}
		_, _ = unix.Write(l.bell, one[:]) // it can only fail because the bell is ringing already
	}
}

// Run calls handlers until Stop. It returns an error if the system does not tell events any more.
func (l *Loop) Run() error {
	defer unix.Close(l.bell)
	defer unix.Close(l.epoll)
	events := make([]unix.EpollEvent, maxEvents)
	for {
		for _, handler := range l.take() {
			handler.Posted()
			l.called()
		}
		count, err := atonce.Poll(l.epoll, events)
		if count == 0 && err == nil {
			l.calls = 0
			l.after()
			l.asleep.Store(true)
			if stopped := l.idle(); stopped {
				return nil
			}
			if l.asleep.Load() {
				count, err = unix.EpollWait(l.epoll, events, -1)
			}
			l.asleep.Store(false)
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for connections: %w", os.NewSyscallError("epoll_wait", err))
		}
		l.dispatch(events[:max(count, 0)])
	}
}

// called counts calls of handlers, and calls after if it has been put off for enough of them.
func (l *Loop) called() {
	if l.calls++; l.calls == maxCalls {
		l.calls = 0
		l.after()
	}
}

// idle looks, once asleep is set, whether there is something to do: it is then unset. It reports whether Stop was called.
func (l *Loop) idle() (stopped bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.posted) > 0 {
		l.asleep.Store(false)
	}
	return l.stopped
}

// take returns what was posted. It is valid until the next take.
func (l *Loop) take() []Handler {
	clear(l.spare)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.posted, l.spare = l.spare[:0], l.posted
	return l.spare
}

// dispatch tells sockets what has happened to them.
func (l *Loop) dispatch(events []unix.EpollEvent) {
	l.ready = l.ready[:0]
	l.mu.Lock()
	for i := range events {
		fd := int(events[i].Fd)
		if fd == l.bell {
			var count [8]byte
			_, _ = unix.Read(l.bell, count[:])
			continue
		}
		s := l.sockets[fd]
		if s == nil {
			continue // released since
		}
		if events[i].Events&^unix.EPOLLIN != 0 {
			signal(s.writable)
		}
		if events[i].Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			s.ending.Store(true)
		}
		if events[i].Events&^unix.EPOLLOUT != 0 {
			l.ready = append(l.ready, s)
		}
	}
	l.mu.Unlock()
	for _, s := range l.ready {
		if s.arrive() {
			s.handler.Ready()
			l.called()
		}
	}
	clear(l.ready)
}

// signal wakes whoever waits on a channel of capacity 1.
func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

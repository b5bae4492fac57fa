package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Run puts the load on the target and returns what came of it. around, if not nil, is called at both ends of the time that
// counts, from another goroutine than the caller's, and never twice at once. Replies that are errors are counted, not
// returned; an error is returned if the load cannot begin, if ctx ends, or if not one operation was answered.
//
// Each thread waits for all its sockets at once (epoll): two system calls for a pipeline, and no goroutine to wake.
func (l Load) Run(ctx context.Context, target Target, around func(begins bool)) (*Result, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	if len(target.Addrs) == 0 {
		return nil, errors.New("the load has no address to go to")
	}
	if around == nil {
		around = func(bool) {}
	}
	begun := time.Now()
	var loops []*loop
	defer func() {
		for _, p := range loops {
			p.close()
		}
	}()
	for thread := range l.Threads {
		p, err := newLoop(l, target, thread)
		if p != nil {
			loops = append(loops, p)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, p := range loops {
		p.begin(time.Now())
	}
	loops[0].around = around
	errs := make([]error, len(loops))
	var wait sync.WaitGroup
	for i, p := range loops {
		wait.Go(func() {
			runtime.LockOSThread() // its timers and its processor time are its own
			defer runtime.UnlockOSThread()
			errs[i] = p.run(ctx)
		})
	}
	wait.Wait()
	if err := errors.Join(append(errs, context.Cause(ctx))...); err != nil {
		return nil, fmt.Errorf("%v: %w", l, err)
	}
	result := newResult(l, begun)
	for _, p := range loops {
		result.merge(p.seen)
	}
	result.finish()
	if result.Operations == 0 {
		return nil, fmt.Errorf("%v: not one operation was answered well: %v", l, result.Errors)
	}
	return result, nil
}

// connection is one client.
type connection struct {
	fd       int // -1 while there is none
	addr     string
	request  []byte // of the pipeline under way
	replies  replies
	waits    int // replies that are still to come; 0: idle
	closes   bool
	size     int    // operations of the pipeline under way
	failed   uint64 // of them: answered with an error
	written  int    // bytes of the request
	intended time.Duration
}

// loop is one thread of the generator. Times are since its start.
type loop struct {
	load   Load
	target Target
	source *source
	around func(begins bool)
	epoll  int
	timer  int // wakes an open loop, and all threads at their ends
	bell   int // rung when a connection was made again
	conns  []connection
	seen   *recorder
	start  time.Time
	warm   time.Duration // what counts begins
	end    time.Duration
	counts bool // warm has passed
	ended  bool
	busy   int   // connections that wait for replies
	idle   []int // open loop: connections that wait for work, as a queue
	next   time.Duration
	step   time.Duration // between two pipelines of this thread's share; 0 in a closed loop
	// carriers pass on what the load and connections with TLS say to each other.
	carriers sync.WaitGroup
	late     bool  // the pipelines that are due wait for connections
	left     int64 // operations that may still begin; < 0: no bound
	piece    []byte
	dialled  struct {
		sync.Mutex
		made []made // connections that were made again
		wait sync.WaitGroup
	}
}

// made is a connection that was made again, or could not be.
type made struct {
	at, fd int
	err    error
}

const (
	pieceSize = 256 << 10
	// redialPause is the time between two tries to make a connection again.
	redialPause = 50 * time.Millisecond
	events      = 256
)

// The sockets of epoll that are no connections.
const (
	timerEvent = -1
	bellEvent  = -2
)

// newLoop opens the thread's connections. What it returns must be closed, also beside an error.
func newLoop(l Load, target Target, thread int) (*loop, error) {
	p := &loop{load: l, target: target, source: newSource(l, target.Closing, thread), around: func(bool) {}, epoll: -1, timer: -1, bell: -1, left: -1, piece: make([]byte, pieceSize)}
	p.seen = newRecorder(l.Slice)
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return p, fmt.Errorf("epoll: %w", err)
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err == nil {
		p.bell, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	}
	if err != nil {
		return p, fmt.Errorf("timer: %w", err)
	}
	if err := errors.Join(p.watch(p.timer, timerEvent, unix.EPOLLIN), p.watch(p.bell, bellEvent, unix.EPOLLIN)); err != nil {
		return p, err
	}
	for at := thread; at < l.Connections; at += l.Threads {
		addr := target.Addrs[at%len(target.Addrs)]
		fd, err := target.dial(addr, &p.carriers)
		if err != nil {
			return p, err
		}
		p.conns = append(p.conns, connection{fd: fd, addr: addr})
		if err := p.watch(fd, len(p.conns)-1, socketEvents); err != nil {
			return p, err
		}
	}
	if l.Rate > 0 {
		p.step = time.Duration(float64(l.Pipeline) * float64(l.Threads) / l.Rate * float64(time.Second))
		p.next = p.step * time.Duration(thread) / time.Duration(l.Threads)
	}
	if l.Operations > 0 {
		p.left = int64(l.Operations) / int64(l.Threads)
		if thread < int(l.Operations%uint64(l.Threads)) {
			p.left++
		}
	}
	return p, nil
}

// socketEvents are edges: a socket is reported once when something comes, and once when room for a request that did not fit appears.
const socketEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff

func (p *loop) watch(fd, mark int, events uint32) error {
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(mark)}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (p *loop) close() {
	p.dialled.wait.Wait()
	for _, m := range p.dialled.made {
		if m.err == nil {
			unix.Close(m.fd)
		}
	}
	for i := range p.conns {
		if p.conns[i].fd >= 0 {
			unix.Close(p.conns[i].fd)
		}
	}
	p.carriers.Wait()
	for _, fd := range []int{p.epoll, p.timer, p.bell} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// begin sets the times.
func (p *loop) begin(start time.Time) {
	p.start, p.warm, p.end = start, p.load.Warmup, p.load.Warmup+p.load.Time
	for i := range p.conns {
		p.idle = append(p.idle, i)
	}
}

func (p *loop) now() time.Duration { return time.Since(p.start) }

// run is the thread.
func (p *loop) run(ctx context.Context) error {
	// Wake up when asked, not 50 µs later. Where that is refused, lateness says so.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	defer context.AfterFunc(ctx, p.ring)()
	p.seen.beginCPU()
	ready := make([]unix.EpollEvent, events)
	p.work(p.now())
	for {
		now := p.now()
		if done, err := p.over(ctx, now); done || err != nil {
			return err
		}
		if err := p.arm(now); err != nil {
			return err
		}
		n, err := unix.EpollWait(p.epoll, ready, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for i := range max(n, 0) {
			switch at := int(ready[i].Fd); at {
			case timerEvent:
				p.drain(p.timer)
			case bellEvent:
				p.drain(p.bell)
				p.takeMade()
			default:
				p.handle(at)
			}
		}
		p.work(p.now())
	}
}

// drain reads the counter of a timer or bell, so that it is not reported again.
func (p *loop) drain(fd int) {
	var count [8]byte
	_, _ = unix.Read(fd, count[:]) // nothing to read is as good
}

// ring wakes the thread. Any goroutine may call it.
func (p *loop) ring() {
	_, _ = unix.Write(p.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // a counter that is full rings as well
}

// over notes the borders of the time that counts, and reports whether all is done.
func (p *loop) over(ctx context.Context, now time.Duration) (bool, error) {
	if ctx.Err() != nil {
		return true, context.Cause(ctx)
	}
	if !p.counts && now >= p.warm {
		p.counts = true
		p.seen.begin(now)
		p.around(true)
	}
	due := now < p.end && p.left != 0
	if p.step > 0 && p.next < p.end && p.left != 0 && now < p.end+p.load.Patience {
		due = true // what was due before the end is sent, however late
	}
	if due || p.busy > 0 && now < p.end+p.load.Patience {
		return false, nil
	}
	if !p.ended {
		p.ended = true
		p.abandon(now)
		p.seen.end(now)
		p.around(false)
	}
	return true, nil
}

// abandon counts what was never answered, and what an open loop never got to send: both took at least until now.
func (p *loop) abandon(now time.Duration) {
	for i := range p.conns {
		if c := &p.conns[i]; c.waits > 0 {
			p.seen.unanswered(now, c.intended, uint64(c.size), "no answer")
		}
	}
	for ; p.step > 0 && p.left != 0 && p.next < p.end; p.next += p.step {
		p.seen.unanswered(now, p.next, uint64(p.load.Pipeline), "not sent")
	}
}

// arm sets the timer to when something is due.
func (p *loop) arm(now time.Duration) error {
	wake := p.end
	if !p.counts {
		wake = p.warm
	}
	if now >= p.end {
		wake = p.end + p.load.Patience
	}
	if p.step > 0 && !p.late && p.next < p.end {
		wake = min(wake, p.next)
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(wake-now, 1)))}
	if err := unix.TimerfdSettime(p.timer, 0, &spec, nil); err != nil {
		return fmt.Errorf("timer: %w", err)
	}
	return nil
}

// work sends what is due on connections that are idle.
func (p *loop) work(now time.Duration) {
	if p.step == 0 {
		for len(p.idle) > 0 && now < p.end && p.left != 0 {
			at := p.idle[len(p.idle)-1]
			p.idle = p.idle[:len(p.idle)-1]
			p.send(at, p.now())
		}
		return
	}
	sent := 0
	for p.next <= now && p.next < p.end && p.left != 0 && sent < len(p.idle) {
		if !p.late && p.counts {
			p.seen.late.Add(now-p.next, 1)
		}
		p.send(p.idle[sent], p.next)
		p.next += p.step
		sent++
		now = p.now()
	}
	p.idle = slices.Delete(p.idle, 0, sent)
	p.late = p.next <= now && p.next < p.end && len(p.idle) == 0
}

// send begins a pipeline on an idle connection. Its time runs from intended.
func (p *loop) send(at int, intended time.Duration) {
	c := &p.conns[at]
	pipeline := p.load.Pipeline
	if p.left > 0 {
		pipeline = int(min(int64(pipeline), p.left))
		p.left -= int64(pipeline)
	}
	c.request, c.waits, c.closes = p.source.append(c.request[:0], pipeline)
	c.failed, c.intended, c.size = 0, intended, pipeline
	p.busy++
	p.write(at)
}

// write writes as much of the request as the socket takes.
func (p *loop) write(at int) {
	c := &p.conns[at]
	for len(c.request) > c.written {
		n, err := unix.Write(c.fd, c.request[c.written:])
		switch {
		case err == nil:
			c.written += n
		case errors.Is(err, unix.EAGAIN):
			return // epoll reports when there is room
		case errors.Is(err, unix.EINTR):
		default:
			p.lose(at, err)
			return
		}
	}
}

// handle reads what has come on a connection, and writes what did not fit.
func (p *loop) handle(at int) {
	c := &p.conns[at]
	if c.fd < 0 {
		return // lost since epoll reported it
	}
	if c.waits > 0 && c.written < len(c.request) {
		if p.write(at); c.fd < 0 {
			return
		}
	}
	for {
		n, err := unix.Read(c.fd, p.piece)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			p.lose(at, err)
			return
		case n == 0:
			p.lose(at, errClosed)
			return
		}
		if err := p.take(at, p.piece[:n]); err != nil {
			p.lose(at, err)
			return
		}
		if n < len(p.piece) {
			return // edges: whatever comes now is reported anew
		}
	}
}

var errClosed = errors.New("closed by the server")

// take counts the replies in a piece.
func (p *loop) take(at int, piece []byte) error {
	c := &p.conns[at]
	for {
		rest, done, err := c.replies.next(piece)
		if err != nil {
			return err
		}
		if !done {
			return nil
		}
		piece = rest
		if c.waits == 0 {
			return errors.New("a reply that nobody asked for")
		}
		c.waits--
		switch {
		case c.replies.kind == '-':
			p.seen.fails(errorName(c.replies.text), c.replies.text, 1)
			c.failed++
		case c.closes && c.waits == 0 && (c.replies.kind != ':' || c.replies.integer < 1):
			p.seen.fails("the closing command counts nobody", nil, uint64(c.size))
			c.failed = uint64(c.size)
		case c.replies.empty:
			p.seen.empty++
		}
		if c.waits == 0 {
			now := p.now()
			p.seen.answered(now, now-c.intended, uint64(c.size), min(c.failed, uint64(c.size)))
			p.busy--
			c.written = 0
			p.idle = append(p.idle, at)
		}
	}
}

// lose closes a connection that has failed, and makes it again.
func (p *loop) lose(at int, err error) {
	c := &p.conns[at]
	unix.Close(c.fd)
	now := p.now()
	if c.waits > 0 {
		p.seen.unanswered(now, c.intended, uint64(c.size), "connection lost")
		p.busy--
	} else {
		p.idle = slices.DeleteFunc(p.idle, func(other int) bool { return other == at })
	}
	p.seen.explain("connection lost", err.Error())
	c.fd, c.waits, c.written, c.request, c.replies = -1, 0, 0, c.request[:0], replies{}
	p.redial(at, c.addr)
}

// redial makes a connection again, in a goroutine of its own.
func (p *loop) redial(at int, addr string) {
	if p.ended || p.now() >= p.end {
		return
	}
	p.dialled.wait.Go(func() {
		timer := time.NewTimer(redialPause)
		defer timer.Stop()
		<-timer.C
		fd, err := p.target.dial(addr, &p.carriers)
		p.dialled.Lock()
		p.dialled.made = append(p.dialled.made, made{at, fd, err})
		p.dialled.Unlock()
		p.ring()
	})
}

// takeMade takes over the connections that were made again.
func (p *loop) takeMade() {
	p.dialled.Lock()
	list := p.dialled.made
	p.dialled.made = nil
	p.dialled.Unlock()
	for _, m := range list {
		c := &p.conns[m.at]
		if m.err == nil {
			if m.err = p.watch(m.fd, m.at, socketEvents); m.err != nil {
				unix.Close(m.fd)
			}
		}
		if m.err != nil {
			p.seen.fails("no connection", []byte(m.err.Error()), 0)
			p.redial(m.at, c.addr)
			continue
		}
		c.fd = m.fd
		p.idle = append(p.idle, m.at)
	}
}

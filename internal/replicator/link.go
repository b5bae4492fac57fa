package replicator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/speaker"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/replica"
	"lockstep/smr/wire"
)

const (
	// feedBytes is about how many bytes of frames go into one Append, unless one frame alone is larger.
	feedBytes = 256 << 10
	// maxQueued bounds the messages that wait on a link; heartbeats and acknowledgements replace each other. A peer that
	// lets more gather is hung up.
	maxQueued = 64
	// writePatience is how long a peer may take no byte of what is written to it. Frames of many megabytes get
	// a second more for each.
	writePatience = 5 * time.Second
	// keepBuffer is the largest send buffer that is kept between messages, in bytes.
	keepBuffer = 1 << 20
)

// link is one slave connection, seen from either end. A reader goroutine brings what the peer sends to the loop; a speaker writes: at a
// master it is the feeder of that slave. The loop never waits for it.
type link struct {
	id   replica.ConnID
	conn net.Conn
	peer smr.NodeID // who is at the other end
	// order is the dialer's order that this connection answers; 0 at a master.
	order uint64

	feeder feeder

	mu      sync.Mutex
	queued  []any
	feeding bool
	from    smr.LSN // where the feed begins; valid once feeding
	closed  bool
	urgent  bool          // something in queued cannot wait
	beat    smr.Heartbeat // the last that was queued

	asked atomic.Bool // the peer's KV node waits for what moves the commit LSN: see haste

	// Of who has the loop's turn: see haste.
	ahead smr.LSN // what the peer has acknowledged, if it is a member
	rank  int
	fast  bool
}

// pending is what a link has not sent.
type pending struct {
	urgent   bool // a message that cannot wait
	messages bool
	frames   int64 // bytes of the log
}

// has returns what there is to be sent if the log ends at end.
func (l *link) has(end smr.LSN) pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	has := pending{urgent: l.urgent, messages: len(l.queued) > 0}
	if l.feeding {
		has.frames = int64(end) - int64(max(l.from, smr.LSN(l.feeder.sent.Load())))
	}
	return has
}

// newLink returns a link whose feeder feeds from stream, or from what files opens; both are nil at a slave.
func newLink(id replica.ConnID, conn net.Conn, peer smr.NodeID, stream *stream, files func() (*log.Reader, error)) *link {
	l := &link{id: id, conn: conn, peer: peer}
	l.feeder = feeder{link: l, stream: stream, files: files}
	l.feeder.Speaker = speaker.New(conn, l.feeder.compose, func(bytes int) time.Duration {
		return writePatience + time.Duration(bytes>>20)*time.Second
	})
	return l
}

// send queues a message. It is written by the next say. Called by the loop.
func (l *link) send(message any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.urgent = l.urgent || !l.onlyCommits(message)
	if n := len(l.queued); n > 0 && replaces(message, l.queued[n-1]) {
		l.queued[n-1] = message
	} else {
		l.queued = append(l.queued, message)
	}
	if len(l.queued) > maxQueued {
		l.closeLocked()
	}
}

// onlyCommits reports whether message tells nothing but that the commit LSN has moved. mu is held.
func (l *link) onlyCommits(message any) bool {
	beat, ok := message.(*smr.Heartbeat)
	if !ok {
		return false
	}
	before := l.beat
	before.Commit = beat.Commit
	l.beat = *beat
	return before == *beat
}

// replaces reports whether the later message says all that the earlier one said.
func replaces(later, earlier any) bool {
	switch later.(type) {
	case *smr.Heartbeat:
		_, same := earlier.(*smr.Heartbeat)
		return same
	case *smr.Ack:
		_, same := earlier.(*smr.Ack)
		return same
	}
	return false
}

// feed starts the stream, with the next say. Called by the loop, once.
func (l *link) feed(from smr.LSN) {
	l.mu.Lock()
	l.feeding, l.from = true, from
	l.mu.Unlock()
}

// say writes what was queued, and the stream, without waiting. Called by the loop.
func (l *link) say() { l.feeder.Say() }

// run writes what say could not until the connection is closed or ctx ends. It returns why it gave up, nil if the link was closed.
func (l *link) run(ctx context.Context) error {
	defer l.close()
	defer l.feeder.closeReader()
	return l.feeder.Run(ctx, l.isClosed)
}

// close ends the connection; reader and writer notice. Any goroutine, any number of times.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeLocked()
}

func (l *link) closeLocked() {
	if !l.closed {
		l.closed = true
		l.conn.Close() // an error here changes nothing: the peer notices either way
	}
	l.feeder.Wake()
}

func (l *link) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// takeQueued returns what is to be sent. minor says that it is no more than that the commit LSN has moved, and that the peer need not hear of it before others.
func (l *link) takeQueued(into []any) (queued []any, minor, feeding bool, from smr.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	minor = len(l.queued) == 1 && !l.urgent && !l.asked.Load()
	queued, l.queued, l.urgent = l.queued, into[:0], false
	return queued, minor, l.feeding, l.from
}

// feeder composes what a link writes.
type feeder struct {
	*speaker.Speaker
	link   *link
	stream *stream
	files  func() (*log.Reader, error)
	sent   atomic.Uint64 // next, for those who do not compose; 0 before the feed has started

	// Of who composes.
	reader  *log.Reader
	queued  []any
	next    smr.LSN // the feed goes on here
	started bool
	gather  []byte // joined frames
	frames  []byte // memory of the log reader
}

// compose implements speaker.Compose: what is queued, and one Append if the log goes on. An Append has the commit LSN too: of a heartbeat that says nothing else the
// slave would conclude that somebody waits (see tellKV).
func (f *feeder) compose(buffer []byte, patient bool) (composed []byte, last bool, err error) {
	queued, minor, feeding, from := f.link.takeQueued(f.queued)
	if feeding && !f.started {
		f.started, f.next = true, from
	}
	if minor && feeding && f.knows(queued[0]) {
		size := len(buffer)
		if buffer, err = f.appendFrames(buffer, patient); len(buffer) > size {
			clear(queued)
			queued = queued[:0]
		}
		feeding = false // that was tried
	}
	for _, message := range queued {
		buffer = wire.AppendMessage(buffer, message)
		if _, last = message.(*smr.Reject); last {
			break // the peer is sent away: nothing else matters to it
		}
	}
	clear(queued)
	f.queued = queued
	if feeding && !last {
		buffer, err = f.appendFrames(buffer, patient)
	}
	return buffer, last, err
}

// knows reports whether the next Append has the commit LSN of a heartbeat.
func (f *feeder) knows(message any) bool {
	beat, ok := message.(*smr.Heartbeat)
	epoch, commit := f.stream.label()
	return ok && beat.Epoch == epoch && beat.Commit <= commit
}

// appendFrames appends one Append to the buffer if the log goes on behind next. Unless patient, it leaves to run what is in files only.
func (f *feeder) appendFrames(buffer []byte, patient bool) ([]byte, error) {
	t, gather := f.stream.take(f.next, feedBytes, f.gather)
	f.gather = gather
	if t.filesUpTo > f.next {
		if !patient {
			f.Wake()
			return buffer, nil
		}
		frames, err := f.readFiles(t.filesUpTo)
		if err != nil {
			return buffer, err
		}
		t.frames = frames
		t.epoch, t.commit = f.stream.label()
	}
	if len(t.frames) == 0 {
		return buffer, nil
	}
	buffer = wire.AppendMessage(buffer, &smr.Append{Epoch: t.epoch, Commit: t.commit, From: f.next, Frames: t.frames})
	f.next += smr.LSN(len(t.frames))
	f.sent.Store(uint64(f.next))
	if cap(f.gather) > keepBuffer {
		f.gather = nil
	}
	return buffer, nil
}

// readFiles reads whole frames from next on, below limit, from the log's files.
func (f *feeder) readFiles(limit smr.LSN) ([]byte, error) {
	if f.reader == nil {
		reader, err := f.files()
		if err != nil {
			return nil, err
		}
		f.reader = reader
	}
	if cap(f.frames) > keepBuffer || f.frames == nil {
		f.frames = make([]byte, feedBytes)
	}
	f.gather = f.gather[:0]
	var err error
	_, f.frames, err = f.reader.Frames(f.frames, f.next, limit, func(_ smr.Frame, raw []byte) error {
		if len(f.gather) > 0 && len(f.gather)+len(raw) > feedBytes {
			return errEnough
		}
		f.gather = append(f.gather, raw...)
		if len(f.gather) >= feedBytes {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	if len(f.gather) == 0 {
		return nil, fmt.Errorf("%w: the files hold no frame at %d, they should reach %d", log.ErrCorrupt, f.next, limit)
	}
	return f.gather, nil
}

func (f *feeder) closeReader() {
	f.Settle(func() {
		if f.reader != nil {
			_ = f.reader.Close()
		}
	})
}

package replicator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

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

// link is one slave connection, seen from either end. Two goroutines serve it: a reader, which passes messages on to the
// loop, and a writer: at a master the feeder of that slave. The loop hands messages to the writer and never waits.
type link struct {
	id   replica.ConnID
	conn net.Conn
	peer smr.NodeID // who is at the other end
	// order is the dialer's order that this connection answers; 0 at a master.
	order uint64

	wake chan struct{} // 1: something is to be written

	mu      sync.Mutex
	queued  []any
	feeding bool
	from    smr.LSN // where the feed begins; valid once feeding
	closed  bool
}

func newLink(id replica.ConnID, conn net.Conn, peer smr.NodeID) *link {
	return &link{id: id, conn: conn, peer: peer, wake: make(chan struct{}, 1)}
}

// send queues a message for the writer. Called by the loop.
func (l *link) send(message any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.queued); n > 0 && replaces(message, l.queued[n-1]) {
		l.queued[n-1] = message
	} else {
		l.queued = append(l.queued, message)
	}
	if len(l.queued) > maxQueued {
		l.closeLocked()
	}
	signal(l.wake)
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

// feed starts the stream. Called by the loop, once.
func (l *link) feed(from smr.LSN) {
	l.mu.Lock()
	l.feeding, l.from = true, from
	l.mu.Unlock()
	signal(l.wake)
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
	signal(l.wake)
}

func (l *link) takeQueued(into []any) (queued []any, feeding, closed bool, from smr.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queued, l.queued = l.queued, into[:0]
	return queued, l.feeding, l.closed, l.from
}

// feeder is the writer of a link.
type feeder struct {
	link   *link
	stream *stream
	files  func() (*log.Reader, error)

	reader  *log.Reader
	next    smr.LSN // the feed goes on here
	started bool
	buffer  []byte // what is about to be written
	gather  []byte // joined frames
	frames  []byte // memory of the log reader
}

// run writes until the connection is closed or ctx ends. It returns why it gave up, nil if the link was closed.
func (f *feeder) run(ctx context.Context) error {
	defer f.link.close()
	defer f.closeReader()
	var queued []any
	for {
		var feeding, closed bool
		var from smr.LSN
		queued, feeding, closed, from = f.link.takeQueued(queued)
		if closed {
			return nil
		}
		f.buffer = f.buffer[:0]
		last := false
		for _, message := range queued {
			f.buffer = wire.AppendMessage(f.buffer, message)
			_, last = message.(*smr.Reject)
		}
		clear(queued)
		if feeding && !last {
			if !f.started {
				f.started, f.next = true, from
			}
			if err := f.appendFrames(); err != nil {
				return err
			}
		}
		if len(f.buffer) == 0 {
			select {
			case <-f.link.wake:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		if err := f.write(); err != nil || last {
			return err
		}
	}
}

// appendFrames appends one Append to the buffer if the log goes on behind next.
func (f *feeder) appendFrames() error {
	t, gather := f.stream.take(f.next, feedBytes, f.gather)
	f.gather = gather
	if t.filesUpTo > f.next {
		frames, err := f.readFiles(t.filesUpTo)
		if err != nil {
			return err
		}
		t.frames = frames
		t.epoch, t.commit = f.stream.label()
	}
	if len(t.frames) == 0 {
		return nil
	}
	f.buffer = wire.AppendMessage(f.buffer, &smr.Append{Epoch: t.epoch, Commit: t.commit, From: f.next, Frames: t.frames})
	f.next += smr.LSN(len(t.frames))
	if cap(f.gather) > keepBuffer {
		f.gather = nil
	}
	return nil
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

func (f *feeder) write() error {
	patience := writePatience + time.Duration(len(f.buffer)>>20)*time.Second
	if err := f.link.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := f.link.conn.Write(f.buffer)
	if cap(f.buffer) > keepBuffer {
		f.buffer = nil
	}
	return err
}

func (f *feeder) closeReader() {
	if f.reader != nil {
		f.reader.Close()
	}
}

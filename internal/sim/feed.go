package sim

import (
	"errors"
	"sort"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
	"lockstep/smr/replica"
)

// stream is the newest part of the log in memory and the label of messages made of it; see internal/replicator/stream.go.
type stream struct {
	epoch  smr.Epoch
	commit smr.LSN
	chunks []chunk
	bytes  int
	end    smr.LSN
}

type chunk struct {
	from   smr.LSN
	bytes  []byte
	ticket uint64
}

func (c *chunk) end() smr.LSN { return c.from + smr.LSN(len(c.bytes)) }

func (s *stream) publish(ops []replica.DiskOp, epoch smr.Epoch, commit smr.LSN, executed uint64, keep int) {
	s.epoch, s.commit = epoch, commit
	for i := range ops {
		switch op := &ops[i]; {
		case op.Append != nil:
			s.chunks = append(s.chunks, chunk{from: s.end, bytes: op.Append, ticket: op.Ticket})
			s.bytes += len(op.Append)
			s.end += smr.LSN(len(op.Append))
		case op.Rewind != nil:
			s.rewindTo(op.Rewind.To)
		case op.Begin != nil:
			s.chunks, s.bytes, s.end = s.chunks[:0], 0, op.Begin.LSN
		}
	}
	old := 0
	for old < len(s.chunks) && s.bytes > keep && s.chunks[old].ticket <= executed {
		s.bytes -= len(s.chunks[old].bytes)
		old++
	}
	s.chunks = append(s.chunks[:0], s.chunks[old:]...)
}

func (s *stream) rewindTo(point smr.LSN) {
	for n := len(s.chunks); n > 0 && s.chunks[n-1].end() > point; n = len(s.chunks) {
		last := &s.chunks[n-1]
		if last.from < point {
			s.bytes -= int(last.end() - point)
			last.bytes = last.bytes[:point-last.from]
			break
		}
		s.bytes -= len(last.bytes)
		s.chunks = s.chunks[:n-1]
	}
	s.end = point
}

// take returns whole frames from lsn on, about limit bytes, or up to where they must be read from files.
func (s *stream) take(lsn smr.LSN, limit int) (frames []byte, filesUpTo smr.LSN) {
	oldest := s.end
	if len(s.chunks) > 0 {
		oldest = s.chunks[0].from
	}
	switch {
	case lsn >= s.end:
		return nil, 0
	case lsn < oldest:
		return nil, oldest
	}
	i := sort.Search(len(s.chunks), func(i int) bool { return s.chunks[i].end() > lsn })
	frames = cutFrames(s.chunks[i].bytes[lsn-s.chunks[i].from:], limit)
	if lsn+smr.LSN(len(frames)) != s.chunks[i].end() || i+1 == len(s.chunks) || len(frames)+len(s.chunks[i+1].bytes) > limit {
		return frames, 0
	}
	joined := append(make([]byte, 0, limit), frames...)
	for i++; i < len(s.chunks) && len(joined)+len(s.chunks[i].bytes) <= limit; i++ {
		joined = append(joined, s.chunks[i].bytes...)
	}
	return joined, 0
}

// cutFrames returns the whole frames at the front that fit into limit bytes, at least one.
func cutFrames(frames []byte, limit int) []byte {
	end := 0
	for end < len(frames) {
		size, err := smr.PeekFrame(frames[end:])
		if err != nil || end > 0 && end+size > limit {
			break
		}
		end += size
	}
	return frames[:end]
}

const whatPump = 30

// link is a slave connection of a replicator, at either side, with its writer.
type link struct {
	r      *replicator
	id     replica.ConnID
	end    *end
	master smr.NodeID // at a slave: who was dialled

	slave   smr.NodeID // at a master: who dials
	greeted bool       // at a slave: the master's hello has come

	queued  []any
	pumping bool
	feeding bool
	closing bool // a Reject is the last message
	next    smr.LSN
	reader  *log.Reader
}

// send queues a message for the writer; heartbeats and acknowledgements replace each other.
func (l *link) send(message any) {
	if n := len(l.queued); n > 0 && replaces(message, l.queued[n-1]) {
		l.queued[n-1] = message
	} else {
		l.queued = append(l.queued, message)
	}
	l.wake()
}

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

func (l *link) wake() {
	if !l.pumping && l.end.open {
		l.pumping = true
		l.r.w.after(between(l.r.w.draw.network, 1, 80), l, whatPump)
	}
}

// fire is the writer coming round.
func (l *link) fire(uint64) {
	l.pumping = false
	if l.r.dead || !l.end.open {
		return
	}
	if l.r.paused {
		l.r.stalled = append(l.r.stalled, l)
		return
	}
	for i, message := range l.queued {
		l.queued[i] = nil
		l.end.send(message, 64)
		if _, last := message.(*smr.Reject); last {
			l.r.forget(l)
			l.end.close()
			return
		}
	}
	l.queued = l.queued[:0]
	if !l.feeding || l.end.full(l) {
		return
	}
	s, o := &l.r.stream, &l.r.w.o
	frames, files := s.take(l.next, o.FeedBytes)
	if files > l.next {
		frames = l.readFiles(files, o.FeedBytes)
		if frames == nil {
			l.r.lose(l)
			return
		}
	}
	if len(frames) == 0 {
		return
	}
	l.end.send(&smr.Append{Epoch: s.epoch, Commit: s.commit, From: l.next, Frames: frames}, 64+len(frames))
	l.next += smr.LSN(len(frames))
	l.wake()
}

var errEnough = errors.New("enough")

// readFiles reads whole frames from the files; nil if they cannot be read.
func (l *link) readFiles(limit smr.LSN, most int) []byte {
	l.r.w.hit(probeFeedFiles)
	if l.reader == nil {
		reader, err := log.OpenReader(l.r.h.disk, dirLog)
		if err != nil {
			return nil
		}
		l.reader = reader
	}
	var frames []byte
	buffer := l.r.w.buffers.take()
	_, buffer, err := l.reader.Frames(buffer, l.next, limit, func(_ smr.Frame, raw []byte) error {
		if len(frames) > 0 && len(frames)+len(raw) > most {
			return errEnough
		}
		frames = append(frames, raw...)
		return nil
	})
	l.r.w.buffers.put(buffer)
	if err != nil && !errors.Is(err, errEnough) {
		l.r.w.hit(probeFeedFailed)
		if errors.Is(err, log.ErrTrimmed) && l.next < l.r.status.Start {
			l.r.w.hit(probeTrimmedFeed)
			return nil
		}
		if !l.r.h.drive.harmed && !errors.Is(err, simfs.ErrCrashed) {
			l.r.w.violate("the log's files cannot be read", "%s at %d: %v", l.r.h.id, l.next, err)
		}
		return nil
	}
	return frames
}

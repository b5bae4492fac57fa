package replicator

import (
	"sort"
	"sync"

	"lockstep/smr"
	"lockstep/smr/replica"
)

const (
	// recentBytes and recentChunks bound the newest part of the log that is kept in memory for feeders. What is not in
	// the log's files yet stays in any case; that is bounded by diskBehindBytes.
	recentBytes  = 16 << 20
	recentChunks = 1 << 16
)

// stream is the newest part of the log in memory, and the label that messages made of it carry. The loop writes it,
// feeders read it.
//
// Invariant: chunks are contiguous and end at end. Everything below the first chunk is in the log's files.
type stream struct {
	disk      *disk
	keepBytes int // recentBytes

	mu     sync.Mutex
	epoch  smr.Epoch
	commit smr.LSN
	chunks []chunk // chunks[first:] are valid
	first  int
	bytes  int // of all chunks
	end    smr.LSN
}

// chunk is the bytes of one append: whole frames. Nobody changes them.
type chunk struct {
	from   smr.LSN
	bytes  []byte
	ticket uint64 // of the append
}

func (c chunk) end() smr.LSN { return c.from + smr.LSN(len(c.bytes)) }

func newStream(d *disk, end smr.LSN) *stream {
	return &stream{disk: d, keepBytes: recentBytes, end: end}
}

// publish takes in what the core has given out, with the label that belongs to it. Connections that were hung up must be
// closed before: no feeder of an earlier reign may put the new label on old bytes.
func (s *stream) publish(ops []replica.DiskOp, epoch smr.Epoch, commit smr.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
			clear(s.chunks)
			s.chunks, s.first, s.bytes, s.end = s.chunks[:0], 0, 0, op.Begin.LSN
		}
	}
	s.evict()
}

func (s *stream) rewindTo(point smr.LSN) {
	for n := len(s.chunks); n > s.first && s.chunks[n-1].end() > point; n = len(s.chunks) {
		last := &s.chunks[n-1]
		if last.from < point {
			cut := last.bytes[:point-last.from]
			s.bytes -= len(last.bytes) - len(cut)
			last.bytes = cut
			break
		}
		s.bytes -= len(last.bytes)
		*last = chunk{}
		s.chunks = s.chunks[:n-1]
	}
	s.end = point
}

// evict forgets the oldest chunks above the bounds, except what is not in the files yet.
func (s *stream) evict() {
	executed := s.disk.executed.Load()
	for s.first < len(s.chunks) && (s.bytes > s.keepBytes || len(s.chunks)-s.first > recentChunks) {
		oldest := &s.chunks[s.first]
		if oldest.ticket > executed {
			break
		}
		s.bytes -= len(oldest.bytes)
		*oldest = chunk{}
		s.first++
	}
	if s.first > 1024 && s.first > len(s.chunks)/2 {
		kept := copy(s.chunks, s.chunks[s.first:])
		clear(s.chunks[kept:])
		s.chunks, s.first = s.chunks[:kept], 0
	}
}

// reach returns where the log ends.
func (s *stream) reach() smr.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}

// label returns the epoch and commit LSN that a message composed now carries.
func (s *stream) label() (smr.Epoch, smr.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch, s.commit
}

// taken is what stream.take found.
type taken struct {
	epoch  smr.Epoch
	commit smr.LSN
	frames []byte // whole frames from the asked LSN on; empty if there are none, or if they are in files only
	// filesUpTo is above the asked LSN if the bytes below it must be read from the log's files.
	filesUpTo smr.LSN
}

// take returns whole frames from lsn on, about limit bytes or one frame if that is larger. gather is memory for
// joining several chunks; it is returned grown. frames may share memory with the stream or with gather.
func (s *stream) take(lsn smr.LSN, limit int, gather []byte) (taken, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := taken{epoch: s.epoch, commit: s.commit}
	live := s.chunks[s.first:]
	oldest := s.end
	if len(live) > 0 {
		oldest = live[0].from
	}
	switch {
	case lsn >= s.end:
		return t, gather
	case lsn < oldest:
		t.filesUpTo = oldest
		return t, gather
	}
	i := sort.Search(len(live), func(i int) bool { return live[i].end() > lsn })
	t.frames = cutFrames(live[i].bytes[lsn-live[i].from:], limit)
	if live[i].from+smr.LSN(len(live[i].bytes)) != lsn+smr.LSN(len(t.frames)) || i+1 == len(live) ||
		len(t.frames)+len(live[i+1].bytes) > limit {
		return t, gather // one chunk is enough: no copy
	}
	gather = append(gather[:0], t.frames...)
	for i++; i < len(live) && len(gather)+len(live[i].bytes) <= limit; i++ {
		gather = append(gather, live[i].bytes...)
	}
	t.frames = gather
	return t, gather
}

// cutFrames returns the whole frames at the front of frames that fit into limit bytes, at least one.
func cutFrames(frames []byte, limit int) []byte {
	if len(frames) <= limit {
		return frames
	}
	end := 0
	for end < len(frames) {
		size, err := smr.PeekFrame(frames[end:])
		if err != nil || end > 0 && end+size > limit {
			break // the log writer has checked all of them: err is nil
		}
		end += size
	}
	return frames[:end]
}

package log

import (
	"encoding/binary"
	"fmt"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// cursor is a place in the stream between two frames and what the frames before it amount to.
//
// Invariant: epoch is that of the last History entry; stamp and commit are the highest of any frame below.
type cursor struct {
	next    smr.LSN // where the next frame begins
	last    smr.LSN // where the frame before it begins
	epoch   smr.Epoch
	stamp   int64
	commit  smr.LSN
	history smr.History
}

// cursorAfter returns the cursor that a file's header describes: behind the frames that begin below its base.
func cursorAfter(h *header) cursor {
	c := cursor{next: h.firstFrame, last: h.frameStart, stamp: h.stamp, commit: h.commit, history: h.history.Clone()}
	if n := len(c.history); n > 0 {
		c.epoch = c.history[n-1].Epoch
	}
	return c
}

// take moves c behind the frame whose header is at the front of b and returns its size. It checks what the header
// alone tells: length, LSN, kind, and that the frame continues the stream. The checksum was checked before. On an
// error c is unchanged.
func (c *cursor) take(b []byte) (int, error) {
	size, err := smr.PeekFrame(b)
	if err == nil && len(b) < smr.HeaderSize {
		err = smr.ErrShortFrame
	}
	if err != nil {
		return 0, fmt.Errorf("frame at %d: %w", c.next, err)
	}
	lsn := smr.LSN(binary.LittleEndian.Uint64(b[8:]))
	epoch := smr.Epoch(binary.LittleEndian.Uint64(b[16:]))
	commit := smr.LSN(binary.LittleEndian.Uint64(b[24:]))
	stamp := int64(binary.LittleEndian.Uint64(b[32:]))
	kind := smr.Kind(b[40])
	begins := kind == smr.KindEpochStart
	switch {
	case lsn != c.next && !mutant.On(mutant.SpareRecycled):
		return 0, fmt.Errorf("frame at %d: %w: it carries LSN %d", c.next, smr.ErrBadFrame, lsn)
	case c.next+smr.LSN(size) < c.next:
		return 0, fmt.Errorf("frame at %d: %w: the stream is at its end", c.next, smr.ErrBadFrame)
	case kind < smr.KindRequests || kind > smr.KindTick:
		return 0, fmt.Errorf("frame at %d: %w: unknown kind %d", c.next, smr.ErrBadFrame, kind)
	case !begins && epoch != c.epoch, begins && epoch <= c.epoch, epoch == 0:
		return 0, fmt.Errorf("frame at %d: %w: %s of epoch %d follows epoch %d", c.next, smr.ErrBadFrame, kind, epoch, c.epoch)
	case stamp < c.stamp:
		return 0, fmt.Errorf("frame at %d: %w: timestamp %d follows %d", c.next, smr.ErrBadFrame, stamp, c.stamp)
	case commit > lsn:
		return 0, fmt.Errorf("frame at %d: %w: commit %d", c.next, smr.ErrBadFrame, commit)
	case begins && len(c.history) >= smr.MaxHistory:
		return 0, fmt.Errorf("frame at %d: %w: more than %d epochs", c.next, smr.ErrBadFrame, smr.MaxHistory)
	}
	if begins {
		c.history = append(c.history, smr.Span{Epoch: epoch, From: lsn})
		c.epoch = epoch
	}
	c.stamp, c.commit = stamp, max(c.commit, commit)
	c.last, c.next = c.next, c.next+smr.LSN(size)
	return size, nil
}

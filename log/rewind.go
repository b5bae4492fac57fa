package log

import (
	"errors"
	"fmt"
	"slices"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// Rewind cuts the log at the back: End = to, durably on return. to must be a frame boundary from Start to End;
// otherwise nothing happens and the log goes on. Any other error is for good.
//
// A durable intent comes first, so that a crash leaves either the old log or one that recovery cuts at to.
func (l *Log) Rewind(to smr.LSN) error {
	if err := l.usable(); err != nil {
		return err
	}
	if to == l.tip.next {
		return l.syncForRewind()
	}
	if to < l.Start() || to > l.tip.next {
		return fmt.Errorf("rewind to %d: the log holds %d to %d", to, l.Start(), l.tip.next)
	}
	i := l.fileAt(to)
	target, end, err := l.lookBack(l.files[i], to)
	if err != nil {
		return fmt.Errorf("rewind to %d: %w", to, err)
	}
	// Nobody may read or count what is about to go.
	l.durable.Store(min(l.durable.Load(), uint64(to)))
	l.end.Store(uint64(to))
	if err := l.rewindTo(i, target, end); err != nil {
		return l.fail(fmt.Errorf("rewind to %d: %w", to, err))
	}
	return nil
}

func (l *Log) syncForRewind() error {
	if err := l.SyncNow(); err != nil {
		return err
	}
	l.durable.Store(uint64(l.synced))
	return nil
}

// fileAt returns the index of the file that holds the byte at lsn, or of the last one if that is full up to lsn.
func (l *Log) fileAt(lsn smr.LSN) int {
	i, ok := slices.BinarySearchFunc(l.files, lsn, func(f fileRange, lsn smr.LSN) int {
		switch {
		case f.base > lsn:
			return 1
		case f.end() <= lsn:
			return -1
		}
		return 0
	})
	if !ok {
		return len(l.files) - 1
	}
	return i
}

// lookBack reads the file that to lies in and returns it with the cursor at to, or why there is none. It checks all bytes
// below to: their checksums are computed anew from what it reads, and damage must not get a checksum of its own.
func (l *Log) lookBack(r fileRange, to smr.LSN) (*found, cursor, error) {
	file, err := l.fs.OpenRead(LabelRewindRead, l.path(fileName(r.base)))
	if err != nil {
		return nil, cursor{}, err
	}
	defer file.Close()
	f, err := readMeta(file, r.base)
	if err != nil {
		return nil, cursor{}, err
	}
	headFits, err := headChecks(file, LabelRewindRead, f, min(f.firstFrame, f.end()))
	switch {
	case err != nil:
		return nil, cursor{}, err
	case !headFits:
		return nil, cursor{}, fmt.Errorf("%w: the frame across the beginning of %s does not check", ErrCorrupt, fileName(f.base))
	}
	c := cursorAfter(&f.header)
	_, cause, err := scanFrames(file, LabelRewindRead, f, to, &c)
	switch {
	case err != nil:
		return nil, cursor{}, err
	case cause != nil && !errors.Is(cause, smr.ErrShortFrame):
		return nil, cursor{}, fmt.Errorf("%w: %w", ErrCorrupt, cause)
	case c.next != to:
		return nil, cursor{}, ErrNoBorder
	}
	return f, c, nil
}

// rewindTo makes file i the tail and end the tip.
func (l *Log) rewindTo(i int, target *found, end cursor) error {
	if i < len(l.files)-1 {
		_ = l.tail.file.Close()
		file, err := l.fs.Open(LabelOpen, l.path(fileName(target.base)))
		if err != nil {
			return err
		}
		l.tail = &tail{
			fileRange: l.files[i],
			layout:    target.layout,
			file:      file,
			sequence:  target.newest.sequence,
			pages:     make([]uint32, target.layout.pages),
		}
	} else if l.markUnsynced {
		if err := l.tail.file.Sync(LabelRewindSync); err != nil {
			return err
		}
	}
	l.markUnsynced = false
	target.newest = slot{kind: slotRewind, sequence: l.tail.sequence + 1, base: target.base, lsn: end.next, reached: l.tip.next}
	if err := writeSlotTo(l.tail.file, LabelRewindIntent, target.layout, target.newest); err != nil {
		return err
	}
	if err := l.tail.file.Sync(LabelRewindSync); err != nil {
		return err
	}
	var above []smr.LSN
	for _, f := range l.files[i+1:] {
		above = append(above, f.base)
	}
	if err := l.carryOut(l.tail.file, target, above); err != nil {
		return err
	}
	l.tail.sequence = target.newest.sequence
	l.files = l.files[:i+1]
	if err := l.recount(target, end, LabelRewindRead); err != nil {
		return err
	}
	l.marked = l.synced
	return nil
}

// intendRewind is how recovery cuts: it writes the intent, and the next round carries it out.
func (l *Log) intendRewind(files []*found, to smr.LSN) error {
	i := slices.IndexFunc(files, func(f *found) bool { return f.base <= to && to < f.end() })
	if i < 0 || to < files[i].firstFrame {
		last := files[len(files)-1]
		return damage(last.base, to, "the log would have to end at %d, which is not stored", to)
	}
	f := files[i]
	file, err := l.fs.Open(LabelOpen, l.path(fileName(f.base)))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(LabelSyncFound); err != nil { // the newest slot must be durable before the other is overwritten
		return err
	}
	intent := slot{kind: slotRewind, sequence: f.newest.sequence + 1, base: f.base, lsn: to, reached: to}
	if err := writeSlotTo(file, LabelRewindIntent, f.layout, intent); err != nil {
		return err
	}
	return file.Sync(LabelRewindSync)
}

// finishRewind is how recovery carries out the intent that f holds.
func (l *Log) finishRewind(f *found, above []*found) error {
	file, err := l.fs.Open(LabelOpen, l.path(fileName(f.base)))
	if err != nil {
		return err
	}
	defer file.Close()
	var bases []smr.LSN
	for _, other := range above {
		bases = append(bases, other.base)
	}
	return l.carryOut(file, f, bases)
}

// carryOut removes the files above, takes the seal of f away, zeroes its data behind the intent's LSN, and replaces
// the intent in both slots, so that no damage to one can bring it back.
func (l *Log) carryOut(file File, f *found, above []smr.LSN) error {
	for i := len(above) - 1; i >= 0; i-- {
		if err := l.fs.Remove(LabelRewindRemove, l.path(fileName(above[i]))); err != nil {
			return err
		}
	}
	if len(above) > 0 {
		if err := l.fs.SyncDir(LabelSyncDir, l.options.Dir); err != nil {
			return err
		}
	}
	point := f.newest.lsn
	if err := zeroUsed(file, f.layout.sealAt, f.layout.historyAt); err != nil {
		return err
	}
	if !mutant.On(mutant.RewindUnzeroed) {
		if err := zeroUsed(file, int64(point-f.base), f.dataSize); err != nil {
			return err
		}
	}
	if err := file.Sync(LabelRewindSync); err != nil {
		return err
	}
	for range 2 {
		f.newest = slot{kind: slotDurable, sequence: f.newest.sequence + 1, base: f.base, lsn: point, reached: point}
		if err := writeSlotTo(file, LabelRewindDone, f.layout, f.newest); err != nil {
			return err
		}
		if err := file.Sync(LabelRewindSync); err != nil {
			return err
		}
	}
	return nil
}

// zeroUsed writes zeros over the pieces of [from, end) that hold anything else.
func zeroUsed(file File, from, end int64) error {
	buf := make([]byte, min(end-from, zeroPiece))
	return eachPiece(file, LabelRewindRead, from, end, buf, func(piece []byte, at int64) error {
		if allZero(piece) {
			return nil
		}
		return file.WriteAt(LabelRewindZero, zeros()[:len(piece)], at)
	})
}

// TrimTo removes the files that lie wholly below lsn, the oldest first, and never the last one. It may leave more
// than asked for, and does nothing if lsn is at or below Start. lsn must not be above Durable. An error leaves a
// usable log unless Err says otherwise. The owner has saved lsn as State.LogStart before: files that were trimmed and files
// that were lost look alike.
func (l *Log) TrimTo(lsn smr.LSN) error {
	if err := l.usable(); err != nil {
		return err
	}
	if lsn > l.Durable() {
		return fmt.Errorf("trim to %d: only %d is durable", lsn, l.Durable())
	}
	// The frame across the border must be below lsn as well: the next file cannot tell it from its second half.
	for len(l.files) > 1 && l.files[0].end() <= lsn && l.files[1].firstFrame <= min(lsn, l.synced) {
		l.start.Store(uint64(l.files[1].firstFrame))
		if err := l.fs.Remove(LabelTrim, l.path(fileName(l.files[0].base))); err != nil {
			return fmt.Errorf("trim to %d: %w", lsn, err)
		}
		l.files = append(l.files[:0], l.files[1:]...)
		// One by one: a hole in the chain of files must never be anything but damage.
		if err := l.fs.SyncDir(LabelSyncDir, l.options.Dir); err != nil {
			return l.fail(fmt.Errorf("trim to %d: %w", lsn, err))
		}
	}
	return nil
}

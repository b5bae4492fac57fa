package log

import (
	"fmt"
	"hash/crc32"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// Append writes whole frames that continue the stream at End. It checks their headers (the checksum was checked by the
// caller), and nothing is written if they do not continue the stream: that error wraps smr.ErrBadFrame and the log goes
// on. ErrFull means the same: nothing was written. Any other error is for good. frames is not kept. The bytes are
// written but not yet durable.
func (l *Log) Append(frames []byte) error {
	if err := l.usable(); err != nil {
		return err
	}
	tip := l.tip
	for rest := frames; len(rest) > 0; {
		size, err := tip.take(rest)
		if err == nil && size > len(rest) {
			err = fmt.Errorf("frame at %d: %w", tip.last, smr.ErrShortFrame)
		}
		if err != nil {
			return fmt.Errorf("append at %d: %w", l.tip.next, err)
		}
		rest = rest[size:]
	}
	if len(frames) == 0 {
		return nil
	}
	if err := l.makeRoom(len(frames), len(tip.history)); err != nil {
		return err
	}
	if err := l.write(frames); err != nil {
		return l.fail(fmt.Errorf("append at %d: %w", l.tip.next, err))
	}
	l.spares.refill()
	l.spares.appended(len(frames))
	l.tip = tip
	l.end.Store(uint64(tip.next))
	return nil
}

// makeRoom makes sure, before anything is written, that every file is there that the bytes need, each with room for a
// History of so many spans.
func (l *Log) makeRoom(size, spans int) error {
	var room int64
	if l.tail != nil {
		room = int64(l.tail.end() - l.tip.next)
	}
	missing := int64(size) - room
	if missing <= 0 {
		return nil
	}
	count := int((missing + l.options.FileSize - 1) / l.options.FileSize)
	if err := l.spares.provide(count, spans); err != nil {
		if isFull(err) {
			return fmt.Errorf("append at %d: %w: %w", l.tip.next, ErrFull, err)
		}
		return l.fail(fmt.Errorf("append at %d: %w", l.tip.next, err))
	}
	return nil
}

// write writes frames, which begin at End, over as many files as it takes.
func (l *Log) write(frames []byte) error {
	lsn := l.tip.next
	for rest := frames; len(rest) > 0; {
		if l.tail == nil || lsn == l.tail.end() {
			if err := l.rotate(lsn, frames); err != nil {
				return err
			}
		}
		part := rest[:min(len(rest), int(l.tail.end()-lsn))]
		if err := l.tail.file.WriteBlocks(LabelAppend, part, int64(lsn-l.tail.base)); err != nil {
			return err
		}
		l.tally(part, lsn)
		lsn += smr.LSN(len(part))
		l.writeBack(int64(lsn - l.tail.base))
		l.release(int64(lsn - l.tail.base))
		rest = rest[len(part):]
	}
	return nil
}

// writeBackEvery is how many bytes may be appended until the system is told to write them, in bytes: the sync that seals a file has as many left to wait for.
const writeBackEvery = 256 << 10

// writeBack keeps the bytes of the tail, which ends at end, on their way to the device where no sync follows the append: all of a file at once would hold up
// appends for tens of milliseconds when it is sealed.
func (l *Log) writeBack(end int64) {
	if t := l.tail; l.options.Sync != smr.SyncAlways && end-t.written >= writeBackEvery {
		t.file.WriteBack(LabelWriteBack, t.written, end-t.written)
		t.written = end
	}
}

// releaseEvery is the step in which bytes are released from memory, and releaseMost how many are in one go, behind a start or a rewind.
const (
	releaseEvery = 1 << 20
	releaseMost  = 4 << 20
)

// release lets as much of the file before the tail go from memory as the tail, which ends at end, has taken of it: the log then goes on in the same pages, and
// leaves the memory of the machine to others. Who lags by more than a file reads from the device.
func (l *Log) release(end int64) {
	t := l.tail
	step := min(releaseEvery, t.size)
	end = min(end-end%step, t.released+releaseMost) // the system keeps a page, or several that it keeps together, of which it is told a part
	if end <= t.released || len(l.files) < 2 {
		return
	}
	at, size := t.released, end-t.released
	if t.released = end; end == t.size {
		size = 0 // with what lies behind the data
	}
	l.fs.Release(LabelRelease, l.path(fileName(l.files[len(l.files)-2].base)), at, size)
}

// tally takes bytes of the tail at lsn into the page checksums and the digest.
func (l *Log) tally(part []byte, lsn smr.LSN) {
	_, _ = l.digest.Write(part) // never fails
	t := l.tail
	at := int64(lsn - t.base)
	for len(part) > 0 {
		page := at / t.layout.pageSize
		n := min(len(part), int((page+1)*t.layout.pageSize-at))
		t.pages[page] = crc32.Update(t.pages[page], castagnoli, part[:n])
		part, at = part[n:], at+int64(n)
	}
}

// rotate seals the tail, if there is one, and begins the file at base. frames are the ones being appended, from End
// on: the frame that covers base is the last before it or among them.
//
// The order matters to recovery: a file gets its name only when everything below its base is durable and sealed, and
// the file before it is told of it afterwards, so that a missing last file is noticed.
func (l *Log) rotate(base smr.LSN, frames []byte) error {
	if err := l.clearDamage(); err != nil {
		return err
	}
	old := l.tail
	h := l.headerAt(base, frames)
	if old != nil {
		seal := encodeSeal(old.base, h.digest, old.pages)
		if err := old.file.WriteAt(LabelSeal, seal, old.layout.sealAt); err != nil {
			return err
		}
		if err := old.file.Sync(LabelSyncSeal); err != nil {
			return err
		}
		l.markUnsynced = false
	}
	file := l.spares.take()
	next, err := l.activate(file, h)
	if err != nil {
		_ = file.file.Close()
		return err
	}
	if old != nil {
		if err := l.writeSlot(LabelContinue, slotContinued, l.marked); err != nil {
			return err
		}
		if err := old.file.Sync(LabelContinue); err != nil {
			return err
		}
		_ = old.file.Close()
	}
	l.tail = next
	l.files = append(l.files, next.fileRange)
	l.marked = l.synced
	if len(l.files) == 1 {
		l.start.Store(uint64(h.firstFrame))
	}
	return nil
}

// headerAt describes the file that begins at base while frames are being appended.
func (l *Log) headerAt(base smr.LSN, frames []byte) *header {
	c := l.tip
	for c.next < base {
		_, err := c.take(frames[c.next-l.tip.next:])
		assert(err == nil, "Append has checked the frames")
	}
	h := &header{
		base:       base,
		dataSize:   l.options.FileSize,
		frameStart: base,
		firstFrame: c.next,
		stamp:      c.stamp,
		commit:     c.commit,
		history:    c.history,
		digest:     marshalDigest(&l.digest),
		cluster:    l.options.Cluster,
		group:      l.options.Group,
	}
	if c.next > base {
		h.frameStart = c.last
		head := frames[base-l.tip.next:]
		h.headSum = crc32.Checksum(head[:min(c.next, h.end())-base], castagnoli)
	}
	return h
}

// describe makes h and the durable mark of a spare file durable. Both slots are written, so that the system need not read what is there.
func (l *Log) describe(s spare, h *header, mark slot) error {
	y := h.layout()
	if err := s.file.WriteAt(LabelActivate, h.encode(s.size), y.historyAt); err != nil {
		return err
	}
	var slots [2 * BlockSize]byte
	mark.encode((*[slotSize]byte)(slots[y.slotAt(mark.sequence)-y.dataSize:]))
	if err := s.file.WriteAt(LabelActivate, slots[:], y.dataSize); err != nil {
		return err
	}
	return s.file.Sync(LabelActivateSync)
}

// activate makes a spare file the log file that h describes.
func (l *Log) activate(s spare, h *header) (*tail, error) {
	y := h.layout()
	mark := slot{kind: slotDurable, sequence: 1, base: h.base, lsn: l.synced, reached: l.tip.next}
	if err := l.describe(s, h, mark); err != nil {
		return nil, err
	}
	if err := l.fs.Rename(LabelActivateName, s.name, l.path(fileName(h.base))); err != nil {
		return nil, err
	}
	if !mutant.On(mutant.NameUnsynced) {
		if err := l.fs.SyncDir(LabelSyncDir, l.options.Dir); err != nil {
			return nil, err
		}
	}
	return &tail{
		fileRange: fileRange{base: h.base, size: h.dataSize, firstFrame: h.firstFrame},
		layout:    y,
		file:      s.file,
		sequence:  1,
		pages:     make([]uint32, y.pages),
	}, nil
}

// Sync makes everything below End durable as the sync mode defines it: in SyncAlways by a real sync, else by word.
// Durable = End on return. An error is for good.
func (l *Log) Sync() error {
	if l.options.Sync == smr.SyncAlways {
		return l.SyncNow()
	}
	if err := l.usable(); err != nil {
		return err
	}
	l.durable.Store(uint64(l.tip.next))
	return nil
}

// SyncNow makes everything below End really durable, whatever the mode. An error is for good.
func (l *Log) SyncNow() error {
	if err := l.usable(); err != nil {
		return err
	}
	if l.synced == l.tip.next {
		return nil
	}
	if err := l.syncTail(); err != nil {
		return l.fail(fmt.Errorf("sync up to %d: %w", l.tip.next, err))
	}
	l.synced = l.tip.next
	l.durable.Store(uint64(l.synced))
	l.markUnsynced = false
	if l.synced-l.marked < l.markEvery {
		return nil
	}
	return l.mark()
}

// syncTail makes durable what was written to the tail.
func (l *Log) syncTail() error {
	if mutant.On(mutant.SyncSkipped) {
		return nil
	}
	err := l.tail.file.Sync(LabelSync)
	if mutant.On(mutant.SyncErrorIgnored) {
		return nil
	}
	return err
}

// markEvery is how many bytes may be synced before the durable mark is written again: see doc.go.
const markEvery smr.LSN = 1

// mark writes the durable mark. The next sync takes it along.
func (l *Log) mark() error {
	if err := l.writeSlot(LabelMark, slotDurable, l.synced); err != nil {
		return l.fail(err)
	}
	l.marked, l.markUnsynced = l.synced, true
	return nil
}

// Settle makes the durable mark itself durable. To be called when the log has been idle for a moment: a power cut
// then leaves no doubt about any byte. It does nothing if nothing was synced since the last time.
func (l *Log) Settle() error {
	if err := l.usable(); err != nil {
		return err
	}
	if l.tail == nil || l.marked == l.synced && !l.markUnsynced {
		return nil
	}
	if l.marked != l.synced {
		if err := l.mark(); err != nil {
			return err
		}
	}
	if l.tip.next != l.synced {
		return nil // the next sync takes it along
	}
	if err := l.tail.file.Sync(LabelSyncMark); err != nil {
		return l.fail(fmt.Errorf("sync durable mark: %w", err))
	}
	l.markUnsynced = false
	return nil
}

// writeSlot writes the tail's next slot, over the older of the two. The newer one must be durable: torn writes could
// take both otherwise.
func (l *Log) writeSlot(label Label, kind slotKind, lsn smr.LSN) error {
	assert(!l.markUnsynced, "the newest slot is durable before the other is overwritten")
	t := l.tail
	t.sequence++
	slot{kind: kind, sequence: t.sequence, base: t.base, lsn: lsn, reached: l.tip.next}.encode(&l.scratch)
	return t.file.WriteAt(label, l.scratch[:], t.layout.slotAt(t.sequence))
}

package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// damageError says that stored bytes do not check in a way that no crash explains.
type damageError struct {
	file   string
	lsn    smr.LSN
	reason string
}

func (e *damageError) Error() string { return fmt.Sprintf("%s: %s", e.file, e.reason) }
func (e *damageError) Unwrap() error { return ErrCorrupt }

func damage(base smr.LSN, lsn smr.LSN, format string, a ...any) error {
	return &damageError{file: fileName(base), lsn: lsn, reason: fmt.Sprintf(format, a...)}
}

// maxRounds is far above what any crash needs: a stopped rewind and a torn tail take two rounds each.
const maxRounds = 16

// found is a log file as recovery finds it, all metadata read.
type found struct {
	header
	layout   layout
	newest   slot
	seal     *seal // nil if there is none that checks
	repaired bool  // one of its slots does not check
}

// recover brings l into a state to append from, whatever a crash left, and fills the report. Each round either ends
// or takes one step that is durable before the next round looks again; so a crash in the middle of recovery is
// nothing but a crash.
func (l *Log) recover() (Report, error) {
	var report Report
	names, err := l.fs.List(LabelList, l.options.Dir)
	if err != nil {
		return report, err
	}
	// A name that a crash left without SyncDir may still vanish: what is built upon below must stay.
	if err := l.fs.SyncDir(LabelSyncDir, l.options.Dir); err != nil {
		return report, err
	}
	if slices.Contains(names, damageName) {
		return l.finishQuarantine(names)
	}
	if slices.Contains(names, beginName) {
		err := l.resumeBegin(names)
		var bad *damageError
		if errors.As(err, &bad) {
			return l.quarantine(bad)
		}
		if err != nil {
			return report, err
		}
	}
	for round := 1; ; round++ {
		assert(round <= maxRounds, "each round of recovery takes a step")
		again, err := l.recoverRound(&report)
		var bad *damageError
		if errors.As(err, &bad) {
			return l.quarantine(bad)
		}
		if err != nil {
			return report, err
		}
		if !again {
			break
		}
	}
	if err := removeLeftovers(l.fs, l.options.Dir, names); err != nil {
		return report, err
	}
	if err := holdReserve(l.fs, l.options.Dir, names); err != nil {
		return report, err
	}
	report.Files = len(l.files)
	report.Start, report.End = l.Start(), l.End()
	report.Position, report.History = l.Position(), l.History()
	report.LastStamp, report.LastCommit = l.tip.stamp, l.tip.commit
	return report, nil
}

// recoverRound looks at all files. It reports whether it changed something and wants to look again.
func (l *Log) recoverRound(report *Report) (again bool, err error) {
	files, err := l.inspectAll(report)
	if err != nil || len(files) == 0 {
		return false, err
	}
	for i, f := range files {
		if f.newest.kind == slotRewind {
			return true, l.finishRewind(f, files[i+1:])
		}
	}
	if err := l.checkChain(files); err != nil {
		return false, err
	}
	if err := l.verifySealed(files); err != nil {
		return false, err
	}
	return l.recoverTail(files, report)
}

// inspectAll reads the metadata of all files. A newer format or a foreign file is reported before anything else, so
// that nothing is touched.
func (l *Log) inspectAll(report *Report) ([]*found, error) {
	names, err := l.fs.List(LabelList, l.options.Dir)
	if err != nil {
		return nil, err
	}
	var files []*found
	var firstDamage error
	for _, name := range names {
		base, ok := parseFileName(name)
		if !ok {
			continue
		}
		f, err := l.inspect(name, base)
		var bad *damageError
		switch {
		case errors.As(err, &bad):
			if firstDamage == nil {
				firstDamage = err
			}
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		default:
			files = append(files, f)
		}
	}
	if firstDamage != nil {
		return nil, firstDamage
	}
	for _, f := range files {
		if f.repaired {
			note := fmt.Sprintf("%s: a durable mark does not check, its double does", fileName(f.base))
			if !slices.Contains(report.Repaired, note) {
				report.Repaired = append(report.Repaired, note)
			}
		}
	}
	return files, nil
}

// inspect reads and checks one file's metadata.
func (l *Log) inspect(name string, base smr.LSN) (*found, error) {
	file, err := l.fs.Open(LabelOpen, l.path(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	f, err := readMeta(file, base)
	if err != nil {
		return nil, err
	}
	if f.cluster != l.options.Cluster || f.group != l.options.Group {
		return nil, fmt.Errorf("%w: it belongs to cluster %q group %q, this is cluster %q group %q", ErrForeign,
			f.cluster, f.group, l.options.Cluster, l.options.Group)
	}
	if f.newest.kind == slotRewind {
		// It may be in memory only, if the sync that should have made it durable failed. Look at the disk.
		if f, err = l.reread(file, base); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// reread syncs file and reads its metadata again from the device: a page that a failed sync left clean in memory is not
// what a crash would leave.
func (l *Log) reread(file File, base smr.LSN) (*found, error) {
	if err := file.Sync(LabelSyncFound); err != nil {
		return nil, err
	}
	if !mutant.On(mutant.CacheTrusted) {
		if err := file.DropCache(LabelDropCache); err != nil {
			return nil, err
		}
	}
	return readMeta(file, base)
}

// readMeta reads and checks the metadata part of the file at base. Errors: ErrNewerFormat, damageError, or what the
// file system says.
func readMeta(file File, base smr.LSN) (*found, error) {
	f, meta, err := readHeader(file, LabelReadMeta, base, nil)
	if err != nil {
		return nil, err
	}
	return f, f.takeSlots(meta[:2*BlockSize])
}

// readHeader reads and checks the metadata part but for the slots, with which meta begins. It reads into buffer, or into new
// memory if that is too small; nothing of found refers to it.
func readHeader(file File, label Label, base smr.LSN, buffer []byte) (f *found, meta []byte, err error) {
	length, err := file.Size(label)
	if err != nil {
		return nil, nil, err
	}
	if length < 2*BlockSize {
		return nil, nil, damage(base, 0, "%d bytes are too few for a log file", length)
	}
	if len(buffer) < BlockSize {
		buffer = make([]byte, BlockSize)
	}
	block := buffer[:BlockSize]
	if _, err := file.ReadAt(label, block, length-BlockSize); err != nil {
		return nil, nil, err
	}
	h, spans, sum, err := decodeHeader(block, length)
	if errors.Is(err, ErrNewerFormat) {
		return nil, nil, err
	}
	if err != nil {
		return nil, nil, damage(base, 0, "%v", err)
	}
	if h.base != base {
		return nil, nil, damage(base, 0, "it says that it begins at %d", h.base)
	}
	f = &found{header: h, layout: h.layout()}
	if size := length - BlockSize - h.dataSize; int64(len(buffer)) < size {
		meta = make([]byte, size)
	} else {
		meta = buffer[:size]
	}
	if _, err := file.ReadAt(label, meta, h.dataSize); err != nil {
		return nil, nil, err
	}
	if f.history, err = decodeHistory(meta[f.layout.historyAt-h.dataSize:], spans, sum, base); err != nil {
		return nil, nil, damage(base, 0, "%v", err)
	}
	f.seal = decodeSeal(meta[2*BlockSize:f.layout.historyAt-h.dataSize], base, f.layout.pages)
	return f, meta, nil
}

func (f *found) takeSlots(blocks []byte) error {
	valid := 0
	for i := range 2 {
		s, ok, damaged := decodeSlot(blocks[i*BlockSize:(i+1)*BlockSize], f.base, i)
		f.repaired = f.repaired || damaged
		if !ok {
			continue
		}
		valid++
		if s.sequence > f.newest.sequence {
			f.newest = s
		}
	}
	inside := f.newest.lsn <= f.end()
	if f.newest.kind == slotRewind {
		inside = f.newest.lsn >= f.base && f.newest.lsn < f.end() && f.newest.lsn >= f.firstFrame
	}
	if valid == 0 || !inside {
		return damage(f.base, 0, "none of its durable marks checks")
	}
	return nil
}

// checkChain checks that files follow each other without a hole and agree on what lies below each base.
func (l *Log) checkChain(files []*found) error {
	for i, f := range files[1:] {
		before := files[i]
		switch {
		case f.base != before.end():
			return damage(f.base, before.end(), "the file before it ends at %d", before.end())
		case before.seal == nil:
			return damage(before.base, 0, "its seal does not check, though %s follows", fileName(f.base))
		case before.seal.digest != f.digest:
			return damage(f.base, 0, "the digest at its base is not that of the end of %s", fileName(before.base))
		case f.stamp < before.stamp || f.commit < before.commit || !slices.Equal(f.history.RewoundTo(before.base), before.history):
			return damage(f.base, 0, "its header contradicts that of %s", fileName(before.base))
		}
		if before.newest.kind != slotContinued {
			if err := l.markContinued(before); err != nil {
				return err
			}
		}
	}
	if last := files[len(files)-1]; last.newest.kind == slotContinued {
		return damage(last.base, last.end(), "a file at %d followed it and is missing", last.end())
	}
	return nil
}

// markContinued repeats what a crash kept rotate from doing.
func (l *Log) markContinued(f *found) error {
	file, err := l.fs.Open(LabelOpen, l.path(fileName(f.base)))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(LabelSyncFound); err != nil { // the newest slot must be durable before the other is overwritten
		return err
	}
	f.newest = slot{kind: slotContinued, sequence: f.newest.sequence + 1, base: f.base, lsn: f.newest.lsn, reached: f.end()}
	if err := writeSlotTo(file, LabelContinue, f.layout, f.newest); err != nil {
		return err
	}
	return file.Sync(LabelContinue)
}

func writeSlotTo(file File, label Label, y layout, s slot) error {
	var p [slotSize]byte
	s.encode(&p)
	block := make([]byte, BlockSize) // all of it: the block may be damaged
	copy(block, p[:])
	return file.WriteAt(label, block, y.slotAt(s.sequence))
}

// verifySealed checks the pages of the full files, as far as the options ask, the latest first.
func (l *Log) verifySealed(files []*found) error {
	budget := l.options.VerifyBytes
	buf := make([]byte, 0)
	for i := len(files) - 2; i >= 0; i-- {
		f := files[i]
		if l.options.VerifyBytes != 0 {
			if budget -= f.dataSize; budget < 0 {
				return nil
			}
		}
		if size := min(16*maxPageSize, f.dataSize); int64(len(buf)) < size {
			buf = make([]byte, size)
		}
		if err := l.verifyPages(f, buf); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) verifyPages(f *found, buf []byte) error {
	file, err := l.fs.OpenRead(LabelOpen, l.path(fileName(f.base)))
	if err != nil {
		return err
	}
	defer file.Close()
	return eachPiece(file, LabelVerify, 0, f.dataSize, buf, func(piece []byte, at int64) error {
		for page := at / f.layout.pageSize; len(piece) > 0; page++ {
			if crc32.Checksum(piece[:f.layout.pageSize], castagnoli) != f.seal.pages[page] && !mutant.On(mutant.PageUnchecked) {
				return damage(f.base, f.base+smr.LSN(page*f.layout.pageSize), "checksum of page %d differs", page)
			}
			piece = piece[f.layout.pageSize:]
		}
		return nil
	})
}

// eachPiece reads [from, end) in pieces of at most len(buf) bytes.
func eachPiece(file File, label Label, from, end int64, buf []byte, visit func(piece []byte, at int64) error) error {
	for at := from; at < end; {
		piece := buf[:min(int64(len(buf)), end-at)]
		if _, err := file.ReadAt(label, piece, at); err != nil {
			return err
		}
		if err := visit(piece, at); err != nil {
			return err
		}
		at += int64(len(piece))
	}
	return nil
}

// recoverTail judges the last file by the table in doc.go and opens it for appending.
func (l *Log) recoverTail(files []*found, report *Report) (again bool, err error) {
	last := files[len(files)-1]
	file, err := l.fs.Open(LabelOpen, l.path(fileName(last.base)))
	if err != nil {
		return false, err
	}
	kept := false
	defer func() {
		if !kept {
			_ = file.Close()
		}
	}()
	if last, err = l.reread(file, last.base); err != nil {
		return false, err
	}
	if last.newest.kind == slotRewind {
		return true, nil // inspect looked before the cache was dropped; the next round sees it
	}
	verdict, err := judgeTail(file, last)
	if err != nil {
		return false, err
	}
	if report.DurableBound == 0 {
		report.DurableBound = last.newest.lsn
	}
	report.CutBytes += verdict.cut
	if verdict.rewind {
		return true, l.intendRewind(files, verdict.end.next)
	}
	report.Clean = last.newest.kind == slotClean && last.newest.lsn == verdict.end.next && report.CutBytes == 0
	kept = true
	return false, l.resume(files, file, last, verdict.end)
}

// resume makes file the tail and end the tip.
func (l *Log) resume(files []*found, file File, last *found, end cursor) error {
	l.files = l.files[:0]
	for _, f := range files {
		l.files = append(l.files, fileRange{base: f.base, size: f.dataSize, firstFrame: f.firstFrame})
	}
	l.tail = &tail{
		fileRange: l.files[len(l.files)-1],
		layout:    last.layout,
		file:      file,
		sequence:  last.newest.sequence,
		pages:     make([]uint32, last.layout.pages),
	}
	if err := l.recount(last, end, LabelScan); err != nil {
		return err
	}
	l.start.Store(uint64(l.files[0].firstFrame))
	// Everything up to End was read back from the device after a sync: it is durable. The new mark says so.
	l.tail.sequence++
	mark := slot{kind: slotDurable, sequence: l.tail.sequence, base: last.base, lsn: l.synced, reached: l.synced}
	if err := writeSlotTo(file, LabelMark, last.layout, mark); err != nil {
		return err
	}
	l.marked = l.synced
	return file.Sync(LabelSyncMark)
}

// recount sets the tip to end, which lies in the tail, and computes digest and page checksums up to it.
func (l *Log) recount(f *found, end cursor, label Label) error {
	digest, err := unmarshalDigest(f.digest)
	if err != nil {
		return damage(f.base, 0, "digest: %v", err)
	}
	l.digest = digest
	clear(l.tail.pages)
	buf := make([]byte, min(f.dataSize, 1<<20))
	err = eachPiece(l.tail.file, label, 0, int64(end.next-f.base), buf, func(piece []byte, at int64) error {
		l.tally(piece, f.base+smr.LSN(at))
		return nil
	})
	if err != nil {
		return err
	}
	l.tip = end
	l.synced = end.next
	l.end.Store(uint64(end.next))
	l.durable.Store(uint64(end.next))
	l.markUnsynced = false
	return nil
}

// verdict is what judgeTail finds.
type verdict struct {
	end    cursor // only next is meaningful if it lies in an earlier file
	rewind bool   // there are bytes behind end, or a seal, that must go
	cut    int64
}

// judgeTail scans the last file and decides where the log ends, or that it is damaged.
func judgeTail(file File, f *found) (verdict, error) {
	c := cursorAfter(&f.header)
	var badEnd smr.LSN // end of the first frame that does not check, as far as it is known
	var cause error
	headEnd := min(f.firstFrame, f.end())
	headFits, err := headChecks(file, LabelScan, f, headEnd)
	switch {
	case err != nil:
		return verdict{}, err
	case !headFits || f.firstFrame > f.end():
		c.next, badEnd = f.frameStart, headEnd
		cause = errors.New("the frame across the file's beginning does not check")
	default:
		if badEnd, cause, err = scanFrames(file, LabelScan, f, f.end(), &c); err != nil {
			return verdict{}, err
		}
	}
	if c.next < f.newest.lsn && !mutant.On(mutant.TailDamageCut) {
		return verdict{}, damage(f.base, c.next, "bytes at %d do not check, but all below %d were durable: %v", c.next, f.newest.lsn, cause)
	}
	rest := max(c.next, f.base)
	used, err := lastUsed(file, f, rest)
	if err != nil {
		return verdict{}, err
	}
	v := verdict{end: c, cut: int64(used - rest)}
	if c.next < f.base {
		v.cut += int64(f.base - c.next)
	}
	v.rewind = used > rest || c.next < f.base || f.seal != nil && c.next < f.end()
	if used == rest || cause == nil || badEnd > f.end() || f.firstFrame > f.end() && headFits {
		return v, nil // nothing is there, or a whole beginning whose rest had not yet got its file
	}
	lost, err := lineLost(file, f, rest, badEnd)
	if err != nil {
		return verdict{}, err
	}
	if !lost && !mutant.On(mutant.TailDamageCut) {
		return verdict{}, damage(f.base, c.next, "bytes at %d do not check, and no write that a crash cut short explains it: %v", c.next, cause)
	}
	return v, nil
}

// headChecks compares the bytes of the frame that began in an earlier file.
func headChecks(file File, label Label, f *found, headEnd smr.LSN) (bool, error) {
	var sum uint32
	buf := make([]byte, min(f.dataSize, 1<<20))
	err := eachPiece(file, label, 0, int64(headEnd-f.base), buf, func(piece []byte, _ int64) error {
		sum = crc32.Update(sum, castagnoli, piece)
		return nil
	})
	return headEnd == f.base || sum == f.headSum, err
}

// scanFrames moves c over the frames of the file that begin below limit, and checks them. cause says why it stopped before
// that, nil if it did not; badEnd is the end of the frame that stopped it.
func scanFrames(file File, label Label, f *found, limit smr.LSN, c *cursor) (badEnd smr.LSN, cause, err error) {
	buf := make([]byte, min(f.dataSize, 1<<20))
	var window []byte // bytes from c.next on
	read := c.next    // end of window
	for c.next < limit {
		need := smr.HeaderSize
		size, peekErr := smr.PeekFrame(window)
		if peekErr == nil {
			need = size
		} else if len(window) >= 8 {
			return c.next + smr.HeaderSize, peekErr, nil
		}
		if c.next+smr.LSN(need) > f.end() {
			return c.next + smr.LSN(need), smr.ErrShortFrame, nil
		}
		if len(window) < need {
			if cap(buf) < need {
				buf = make([]byte, need)
			}
			kept := copy(buf, window)
			window = buf[:min(int64(len(buf)), int64(f.end()-c.next))]
			if _, err := file.ReadAt(label, window[kept:], int64(read-f.base)); err != nil {
				return 0, nil, err
			}
			read = c.next + smr.LSN(len(window))
			continue
		}
		at := c.next
		if mutant.On(mutant.SpareRecycled) {
			at = smr.LSN(binary.LittleEndian.Uint64(window[8:]))
		}
		if _, err := smr.DecodeFrame(window[:need], at); err != nil {
			return c.next + smr.LSN(need), err, nil
		}
		if _, err := c.take(window); err != nil {
			return 0, nil, damage(f.base, c.next, "a whole frame does not continue the stream: %v", err)
		}
		window = window[need:]
	}
	return c.next, nil, nil
}

// lastUsed returns one past the last byte at or after from that is not zero, or from if there is none.
func lastUsed(file File, f *found, from smr.LSN) (smr.LSN, error) {
	used := from
	buf := make([]byte, min(f.dataSize, 1<<20))
	err := eachPiece(file, LabelScan, int64(from-f.base), f.dataSize, buf, func(piece []byte, at int64) error {
		for len(piece) > 0 && piece[len(piece)-1] == 0 {
			if n := len(piece) - 512; n > 0 && allZero(piece[n:]) {
				piece = piece[:n]
				continue
			}
			piece = piece[:len(piece)-1]
		}
		if len(piece) > 0 {
			used = f.base + smr.LSN(at) + smr.LSN(len(piece))
		}
		return nil
	})
	return used, err
}

// lineSize is the grain in bytes at which a write may be lost: see doc.go.
const lineSize = 64

// lineLost reports whether one of the lines that [from, end) touches is all zero as far as it lies in it: a write
// that a crash cut short leaves at least one such line.
func lineLost(file File, f *found, from, end smr.LSN) (bool, error) {
	buf := make([]byte, min(f.dataSize, 1<<20))
	lost := false
	begin := int64(from-f.base) / lineSize * lineSize
	err := eachPiece(file, LabelScan, begin, int64(min(end, f.end())-f.base), buf, func(piece []byte, at int64) error {
		for len(piece) > 0 && !lost {
			line := piece[:min(lineSize, len(piece))]
			lost = allZero(line[max(0, int64(from-f.base)-at):])
			piece, at = piece[len(line):], at+int64(len(line))
		}
		return nil
	})
	return lost, err
}

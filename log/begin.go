package log

import (
	"errors"
	"fmt"

	"lockstep/smr"
)

// beginName is the file that takes the place of all others: see "Order of writes" in doc.go.
const beginName = "begin"

// BeginAt replaces whatever the log holds by an empty log that begins at base: Start = End = Durable = base.LSN, durably on
// return. A crash leaves the log as it was, or the new one. Whether what the log held may go is for the caller to say; it
// has saved base.LSN as State.LogStart before, as for TrimTo. Errors: ErrForeign and ErrFull, and what is wrong with base:
// nothing has changed then and the log goes on. Any other error is for good.
func (l *Log) BeginAt(base Base) error {
	if err := l.usable(); err != nil {
		return err
	}
	h := base.header(l.options.FileSize)
	switch err := base.check(); {
	case err != nil:
		return fmt.Errorf("begin log at %d: %w", base.LSN, err)
	case base.LSN == 0:
		return fmt.Errorf("begin log at 0: every empty log does")
	case base.Cluster != l.options.Cluster || base.Group != l.options.Group:
		return fmt.Errorf("begin log at %d: %w: the base is of cluster %q group %q, this is cluster %q group %q", base.LSN, ErrForeign,
			base.Cluster, base.Group, l.options.Cluster, l.options.Group)
	case h.end() < h.base:
		return fmt.Errorf("begin log at %d: the LSN is too high", base.LSN)
	}
	if err := l.spares.provide(1, len(h.history)); err != nil {
		if isFull(err) {
			return fmt.Errorf("begin log at %d: %w: %w", base.LSN, ErrFull, err)
		}
		return l.fail(fmt.Errorf("begin log at %d: %w", base.LSN, err))
	}
	if err := l.beginAt(&base, h); err != nil {
		return l.fail(fmt.Errorf("begin log at %d: %w", base.LSN, err))
	}
	return nil
}

func (l *Log) beginAt(base *Base, h *header) error {
	if err := l.clearDamage(); err != nil {
		return err
	}
	digest, err := unmarshalDigest(base.digest)
	assert(err == nil, "the base was checked")
	file := l.spares.take()
	kept := false
	defer func() {
		if !kept {
			_ = file.file.Close()
		}
	}()
	mark := slot{kind: slotDurable, sequence: 1, base: h.base, lsn: h.base, reached: h.base}
	if err := l.describe(file, h, mark); err != nil {
		return err
	}
	if err := l.fs.Rename(LabelBegin, file.name, l.path(beginName)); err != nil {
		return err
	}
	if err := l.fs.SyncDir(LabelSyncDir, l.options.Dir); err != nil {
		return err
	}
	var below []string
	for _, f := range l.files {
		below = append(below, fileName(f.base))
	}
	if l.tail != nil {
		_ = l.tail.file.Close()
		l.tail = nil
	}
	if err := l.finishBegin(below, h.base); err != nil {
		return err
	}
	kept = true
	y := h.layout()
	l.tail = &tail{
		fileRange: fileRange{base: h.base, size: h.dataSize, firstFrame: h.base},
		layout:    y, file: file.file, sequence: mark.sequence, pages: make([]uint32, y.pages),
	}
	l.files = append(l.files[:0], l.tail.fileRange)
	l.tip, l.digest = cursorAfter(h), digest
	l.synced, l.marked, l.markUnsynced = h.base, h.base, false
	l.durable.Store(min(l.durable.Load(), uint64(h.base))) // Start <= End and Durable <= End for whoever looks meanwhile
	l.end.Store(uint64(h.base))
	l.durable.Store(uint64(h.base))
	l.start.Store(uint64(h.base))
	l.spares.refill()
	return nil
}

// finishBegin removes the files named, the oldest first, so that a reader of what is gone hears ErrTrimmed, and gives the
// file that is to take their place its name.
func (l *Log) finishBegin(names []string, base smr.LSN) error {
	for _, name := range names {
		if err := l.fs.Remove(LabelBeginRemove, l.path(name)); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		if err := l.fs.SyncDir(LabelSyncDir, l.options.Dir); err != nil {
			return err
		}
	}
	if err := l.fs.Rename(LabelBegin, l.path(beginName), l.path(fileName(base))); err != nil {
		return err
	}
	return l.fs.SyncDir(LabelSyncDir, l.options.Dir)
}

// resumeBegin is how recovery carries out what the file of that name stands for.
func (l *Log) resumeBegin(names []string) error {
	base, err := l.inspectBegin()
	if err != nil {
		return err
	}
	var below []string
	for _, name := range names { // sorted
		if _, ok := parseFileName(name); ok {
			below = append(below, name)
		}
	}
	return l.finishBegin(below, base)
}

// inspectBegin checks the file and returns the LSN that it begins at.
func (l *Log) inspectBegin() (smr.LSN, error) {
	file, err := l.fs.Open(LabelOpen, l.path(beginName))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	length, err := file.Size(LabelReadMeta)
	if err != nil {
		return 0, err
	}
	bad := func(reason string) error { return &damageError{file: beginName, reason: reason} }
	if length < 2*BlockSize {
		return 0, bad(fmt.Sprintf("%d bytes are too few for a log file", length))
	}
	block := make([]byte, BlockSize)
	if _, err := file.ReadAt(LabelReadMeta, block, length-BlockSize); err != nil {
		return 0, err
	}
	h, _, _, err := decodeHeader(block, length)
	if errors.Is(err, ErrNewerFormat) {
		return 0, fmt.Errorf("%s: %w", beginName, err)
	}
	if err != nil {
		return 0, bad(err.Error())
	}
	f, err := l.reread(file, h.base)
	switch {
	case err != nil:
		return 0, err
	case f.cluster != l.options.Cluster || f.group != l.options.Group:
		return 0, fmt.Errorf("%s: %w: it belongs to cluster %q group %q, this is cluster %q group %q", beginName, ErrForeign,
			f.cluster, f.group, l.options.Cluster, l.options.Group)
	case f.firstFrame != f.base || f.newest.lsn != f.base:
		return 0, bad("it holds bytes already")
	}
	return f.base, nil
}

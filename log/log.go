package log

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"lockstep/smr"

	"github.com/cespare/xxhash/v2"
)

// Errors that callers branch on.
var (
	// ErrCorrupt: stored bytes do not check. They are never handed out.
	ErrCorrupt = errors.New("stored bytes are damaged")
	// ErrTrimmed: the LSN lies below Start.
	ErrTrimmed = errors.New("LSN is trimmed")
	// ErrNoBorder: a frame lies across the LSN, which was to be the border of two.
	ErrNoBorder = errors.New("it is not the border of two frames")
	// ErrNewerFormat: the files were written by a later version of this program. Nothing was touched.
	ErrNewerFormat = errors.New("newer format")
	// ErrForeign: the files belong to another cluster or group. Nothing was touched.
	ErrForeign = errors.New("foreign files")
	// ErrFull: there is no room for a further file. Nothing was appended, the log goes on at its old End, and the
	// same Append may be tried again.
	ErrFull = errors.New("disk full")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log is closed")
)

// Options of Open.
type Options struct {
	// Dir is the directory of the log files; made with mode 0700 if missing. One Log at a time uses it.
	Dir string
	// FS is the file system; nil means that of the operating system.
	FS FS
	// FileSize is the length of the data part of new files in bytes: a power of two from MinFileSize to
	// MaxFileSize; 0 means DefaultFileSize. Existing files keep theirs.
	FileSize int64
	// Sync says when Sync counts a byte as durable.
	Sync smr.SyncMode
	// Cluster and Group are written into each file and checked by Open; at most 255 bytes each.
	Cluster, Group string
	// VerifyBytes bounds how many bytes of full files Open reads back and checks, counted from the end of the log.
	// 0 means all of them, a negative number none: then damage shows when the bytes are read. The metadata of every
	// file and the last file are always checked.
	VerifyBytes int64
	// Synchronous makes Append itself prepare a further file at the moment that it needs one, instead of a
	// goroutine ahead of need: for simulation, where one seed must give one order of calls.
	Synchronous bool
}

func (o *Options) validate() error {
	if o.FS == nil {
		o.FS = OS{}
	}
	if o.FileSize == 0 {
		o.FileSize = DefaultFileSize
	}
	if o.Dir == "" {
		return errors.New("no log directory given")
	}
	if len(o.Cluster) > maxName || len(o.Group) > maxName {
		return fmt.Errorf("names of cluster and group have %d and %d bytes: at most %d are possible", len(o.Cluster), len(o.Group), maxName)
	}
	if o.Sync > smr.SyncOS {
		return fmt.Errorf("unknown sync mode %d", o.Sync)
	}
	return checkDataSize(o.FileSize)
}

// Report says what Open found and did.
type Report struct {
	// Files is the number of log files.
	Files      int
	Start, End smr.LSN
	Position   smr.Position
	History    smr.History
	// LastStamp and LastCommit are the highest timestamp and commit LSN in any frame header, 0 in an empty log.
	LastStamp  int64
	LastCommit smr.LSN
	// DurableBound is the lower bound of Durable that was found in the metadata: at most End.
	DurableBound smr.LSN
	// CutBytes counts the bytes behind End that were there and are gone now: a tail that was never durable.
	CutBytes int64
	// Clean: the log had been closed, and ended where it ends now.
	Clean bool
	// Repaired lists what was found damaged or half-written in the metadata and could be restored from its double.
	Repaired []string
	// Damage is nil unless the files were damaged. Then the log is empty, the caller must take a new incarnation
	// before it appends, and Open goes on reporting the damage until something was appended.
	Damage *Damage
}

// Damage says why the files of a log were given up and where they are.
type Damage struct {
	Reason string
	// File and LSN name the place; the LSN is 0 if the damage is not at a byte of the stream.
	File string
	LSN  smr.LSN
	// Quarantine is the directory that the files were moved to, together with a report.
	Quarantine string
}

func (d *Damage) String() string {
	return fmt.Sprintf("%s: %s (files kept in %s)", d.File, d.Reason, d.Quarantine)
}

// Log is the log of one replica. One goroutine owns it; Start, End, Durable and Err may be called from any.
//
// Invariants: Start <= End; Durable <= End. All files but the last are full, sealed and durable, and marked as
// continued. In the last file every byte at or above End is zero, durably, whenever Append begins.
type Log struct {
	start, end, durable atomic.Uint64 // written by the owner
	failure             atomic.Pointer[error]

	options Options
	fs      FS
	lock    io.Closer

	files  []fileRange // sorted by base, contiguous; the last one is tail's
	tail   *tail       // nil until something was appended to an empty log
	tip    cursor      // at End
	synced smr.LSN     // really on the disk, whatever the sync mode; a frame boundary
	marked smr.LSN     // the LSN of the tail's newest slot
	// markUnsynced: the newest slot was written after the last sync.
	markUnsynced bool
	markEvery    smr.LSN
	digest       xxhash.Digest // of all bytes below End

	spares  spares
	damaged bool // a damage report waits to be removed by the first Append
	scratch [slotSize]byte
	closed  bool
}

// fileRange is what stays in memory of each file.
type fileRange struct {
	base       smr.LSN
	size       int64
	firstFrame smr.LSN
}

func (f fileRange) end() smr.LSN { return f.base + smr.LSN(f.size) }

// tail is the file that is being appended to.
type tail struct {
	fileRange
	layout   layout
	file     File
	sequence uint64   // of the newest slot
	pages    []uint32 // CRC32C of each page as far as it is written; the last one is partial
	released int64    // bytes of the file before that need not be in memory any more
	written  int64    // bytes of the file that the system was told to write back, in modes that do not sync what they append
}

// Open recovers the log in o.Dir, or begins an empty one. Damaged files are not an error: they are moved away, the
// report says so, and the log is empty. Errors that callers branch on: ErrNewerFormat, ErrForeign; nothing was
// touched then. What Open reports as End is durable.
func Open(o Options) (*Log, Report, error) {
	if err := o.validate(); err != nil {
		return nil, Report{}, fmt.Errorf("open log: %w", err)
	}
	l := &Log{options: o, fs: o.FS, markEvery: markEvery}
	l.digest.Reset()
	if err := l.fs.MkdirAll(LabelMakeDir, o.Dir); err != nil {
		return nil, Report{}, fmt.Errorf("open log %s: %w", o.Dir, err)
	}
	lock, err := l.fs.Lock(LabelLock, filepath.Join(o.Dir, lockName))
	if err != nil {
		return nil, Report{}, fmt.Errorf("open log %s: %w", o.Dir, err)
	}
	l.lock = lock
	report, err := l.recover()
	if err != nil {
		l.closeFiles()
		return nil, Report{}, fmt.Errorf("open log %s: %w", o.Dir, err)
	}
	l.spares.begin(l.fs, o, len(l.tip.history))
	return l, report, nil
}

// Start returns the LSN of the oldest whole frame that is still stored, or End if there is none.
func (l *Log) Start() smr.LSN { return smr.LSN(l.start.Load()) }

// End returns one past the last byte appended.
func (l *Log) End() smr.LSN { return smr.LSN(l.end.Load()) }

// Durable returns the end of what survives a crash, as the sync mode defines it.
func (l *Log) Durable() smr.LSN { return smr.LSN(l.durable.Load()) }

// Synced returns the end of what really is on the disk: in the relaxed modes Durable less the exposure. For the owner.
func (l *Log) Synced() smr.LSN { return l.synced }

// History returns a copy of the History as of End. For the owner.
func (l *Log) History() smr.History { return l.tip.history.Clone() }

// Position returns the Position of End. For the owner.
func (l *Log) Position() smr.Position {
	if l.tip.next == 0 {
		return smr.Position{}
	}
	return smr.Position{Epoch: l.tip.epoch, End: l.tip.next}
}

// LastStamp returns the timestamp of the last frame, 0 if there is none. For the owner.
func (l *Log) LastStamp() int64 { return l.tip.stamp }

// LastCommit returns the highest commit LSN that any frame header carries. For the owner.
func (l *Log) LastCommit() smr.LSN { return l.tip.commit }

// Digest returns the running digest (xxhash64) of all bytes of the stream below End, trimmed ones included: equal on
// every replica at the same LSN, whatever its file size. For the owner.
func (l *Log) Digest() (end smr.LSN, sum uint64) { return l.tip.next, l.digest.Sum64() }

// Err returns the error that made the log unusable, or nil. A failed write or sync does: what the disk holds is
// unknown then, and only Open finds out.
func (l *Log) Err() error {
	if p := l.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes the log unusable for good and returns the error.
func (l *Log) fail(err error) error {
	err = fmt.Errorf("log is unusable: %w", err)
	l.failure.CompareAndSwap(nil, &err)
	return l.Err()
}

// usable returns why the log cannot be used.
func (l *Log) usable() error {
	if l.closed {
		return ErrClosed
	}
	return l.Err()
}

// Close syncs, writes the clean mark and gives everything back. After a failure it only gives back, and returns the
// failure. A second Close does nothing.
func (l *Log) Close() error {
	if l.closed {
		return l.Err()
	}
	err := l.Err()
	if err == nil {
		err = l.closeCleanly()
	}
	l.closed = true
	if spareErr := l.spares.end(); err == nil {
		err = spareErr
	}
	l.closeFiles()
	return err
}

// closeCleanly writes both slots: one flipped bit must not hide that, and where, the log ended cleanly.
func (l *Log) closeCleanly() error {
	if err := l.SyncNow(); err != nil || l.tail == nil {
		return err
	}
	if err := l.Settle(); err != nil {
		return err
	}
	for range 2 {
		if err := l.writeSlot(LabelMark, slotClean, l.tip.next); err != nil {
			return l.fail(err)
		}
		if err := l.tail.file.Sync(LabelSyncMark); err != nil {
			return l.fail(err)
		}
	}
	return nil
}

// closeFiles gives handles back. Errors of close are of no interest: what matters was synced before.
func (l *Log) closeFiles() {
	if l.tail != nil {
		_ = l.tail.file.Close()
		l.tail = nil
	}
	if l.lock != nil {
		_ = l.lock.Close()
		l.lock = nil
	}
}

func (l *Log) path(name string) string { return filepath.Join(l.options.Dir, name) }

// isFull reports whether err says that the device has no room.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

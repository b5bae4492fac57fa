package page

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"lockstep/internal/view"
	"lockstep/smr"
)

const (
	// Size of the file in bytes.
	Size = 4096
	// Tolerance is how far the gap between two clocks may be from the one in the page. It is taken off the lease.
	Tolerance = 5 * time.Millisecond

	magic = 0x4c53545050473031
)

// Places of the words.
const (
	wordMagic = iota
	wordChanges
	wordUntil
	wordGap
	wordCommit
	wordCount
)

// ErrBadPage: the file is no page of this version.
var ErrBadPage = errors.New("no page of a replicator")

// Writer is the replicator's side. Not safe for concurrent use.
type Writer struct {
	words  []atomic.Uint64
	unmap  func() error
	clocks Clocks
	lease  int64 // as it was shown last
	commit smr.LSN
}

// Create makes the file anew and maps it. The Writer belongs to the caller, who closes it.
func Create(path string) (*Writer, error) {
	fresh := path + ".new"
	file, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the page of the KV node: %w", err)
	}
	defer file.Close()
	if err := file.Truncate(Size); err != nil {
		return nil, fmt.Errorf("make the page of the KV node: %w", err)
	}
	// Written, not only mapped: a device without room says so here, and not by a signal later.
	if _, err := file.WriteAt(make([]byte, Size), 0); err != nil {
		return nil, fmt.Errorf("make the page of the KV node: %w", err)
	}
	memory, unmap, err := mapFile(file, true)
	if err != nil {
		return nil, fmt.Errorf("map the page of the KV node: %w", err)
	}
	w := &Writer{words: view.Atomics(memory, wordCount), unmap: unmap}
	w.words[wordMagic].Store(magic)
	if err := os.Rename(fresh, path); err != nil {
		return nil, errors.Join(fmt.Errorf("make the page of the KV node: %w", err), unmap())
	}
	return w, nil
}

// Tick notes what the clocks show. Show counts from the last Tick.
func (w *Writer) Tick(clocks Clocks) { w.clocks = clocks }

// Show publishes until when the lease holds, in microseconds on Clocks.Boot (0: there is none), and the master's Commit.
func (w *Writer) Show(until int64, commit smr.LSN) {
	lease := int64(0)
	if until > 0 && w.clocks.Boot > 0 {
		lease = w.clocks.Monotonic + (until-w.clocks.Boot)*int64(time.Microsecond) - int64(Tolerance)
	}
	if lease == w.lease && commit == w.commit && uint64(w.clocks.Gap) == w.words[wordGap].Load() {
		return
	}
	w.lease, w.commit = lease, commit
	w.words[wordChanges].Add(1)
	w.words[wordUntil].Store(uint64(max(lease, 0)))
	w.words[wordGap].Store(uint64(w.clocks.Gap))
	w.words[wordCommit].Store(uint64(commit))
	w.words[wordChanges].Add(1)
}

// Close takes the lease away and unmaps the page. The file stays for those who have it mapped.
func (w *Writer) Close() error {
	w.Show(0, 0)
	w.words = nil
	return w.unmap()
}

// Reader is the KV node's side. Safe for concurrent use. Its memory is given back when nobody refers to it any more.
type Reader struct {
	words []atomic.Uint64
	start time.Time
	base  int64 // CLOCK_MONOTONIC at start, or a little more
}

// Open maps the page that a replicator has made.
func Open(path string) (*Reader, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the page of the replicator: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the page of the replicator: %w", err)
	}
	if info.Size() != Size {
		return nil, fmt.Errorf("open %s: %w: it has %d bytes", path, ErrBadPage, info.Size())
	}
	memory, unmap, err := mapFile(file, false)
	if err != nil {
		return nil, fmt.Errorf("map the page of the replicator: %w", err)
	}
	r := &Reader{words: view.Atomics(memory, wordCount)}
	if r.words[wordMagic].Load() != magic {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, ErrBadPage), unmap())
	}
	r.start, r.base = monotonicBase()
	runtime.SetFinalizer(r, func(*Reader) { _ = unmap() }) // nobody is left who could be told
	return r, nil
}

// tries bounds how often a page is looked at that is being changed, and the clocks, between which the process may have been
// interrupted.
const tries = 8

// Lease returns the LSN at which may be read now: what is executed up to it holds everything that was acknowledged before the
// call. ok is false if there is no lease, or if that cannot be told.
func (r *Reader) Lease() (commit smr.LSN, ok bool) {
	if r.base == 0 {
		return 0, false
	}
	for range tries {
		changes := r.words[wordChanges].Load()
		until, gap, lsn := int64(r.words[wordUntil].Load()), int64(r.words[wordGap].Load()), r.words[wordCommit].Load()
		if changes%2 != 0 || r.words[wordChanges].Load() != changes {
			continue
		}
		runtime.KeepAlive(r)
		now := time.Now() // behind what was read: the lease is checked after the read has arrived
		monotonic := r.base + int64(now.Sub(r.start))
		if monotonic >= until {
			return 0, false
		}
		if off := now.UnixNano() - monotonic - gap; off < int64(Tolerance) && off > -int64(Tolerance) {
			return smr.LSN(lsn), true
		}
	}
	return 0, false
}

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// memtableBytes and cacheBytes are the sizes of what a store writes from and reads into, where memory has no bound. Cold values have a store, and a cache, of
	// their own; the system's page cache holds what that does not.
	memtableBytes = 32 << 20
	cacheBytes    = 16 << 20
	// leastStoreBytes is the least that each of them is with a bound, storePart their part of it.
	leastStoreBytes = 2 << 20
	storePart       = 64
	// compactPercent is how large what images added may become, in percent of an image, before the store is put in order, so that
	// its files are written once in so many images, not with each.
	compactPercent = 33
)

// within returns the size of a buffer that has so many bytes where memory has no bound.
func (e *Engine) within(bytes int64) int64 {
	if e.options.Memory == 0 {
		return bytes
	}
	return min(bytes, max(leastStoreBytes, e.options.Memory/storePart))
}

// storeOptions are those of pebble. Nothing is logged: a store that was not made an image of is never opened again.
func (e *Engine) storeOptions(broken *breakage, readonly bool) *pebble.Options {
	o := &pebble.Options{
		FS:                          e.fs,
		DisableWAL:                  true,
		DisableAutomaticCompactions: true,
		ReadOnly:                    readonly,
		MemTableSize:                uint64(e.within(memtableBytes)),
		MemTableStopWritesThreshold: 4,
		L0StopWritesThreshold:       1 << 20,
		CacheSize:                   e.within(cacheBytes),
		MaxOpenFiles:                256,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      storeLogger{e.options.Logger, broken},
		EventListener: &pebble.EventListener{BackgroundError: func(err error) {
			broken.because(fmt.Errorf("write the store of images: %w", err))
		}, DataCorruption: func(info pebble.DataCorruptionInfo) { // who reads gets the error, too; by default the goroutine would end
			broken.because(fmt.Errorf("read the store of images: %w", info.Details))
		}},
	}
	if !readonly && !e.options.Hurried {
		o.FS = pacedFS{e.fs}
	}
	for i := range o.TargetFileSizes {
		o.TargetFileSizes[i] = 16 << 20
	}
	for i := range o.Levels {
		o.Levels[i].BlockSize = 16 << 10
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most rows that are looked for are in one of many files
	}
	o.FlushSplitBytes = 32 << 20
	return o
}

// breakage says that a store is of no use any more, and why.
type breakage struct {
	once, last sync.Once
	done       chan struct{} // closed when err is set
	err        error
	fatal      chan struct{} // closed when a goroutine of the store has ended in the middle of something
}

func newBreakage() *breakage {
	return &breakage{done: make(chan struct{}), fatal: make(chan struct{})}
}

func (b *breakage) because(err error) {
	b.once.Do(func() {
		b.err = err
		close(b.done)
	})
}

// storeLogger takes what pebble wants to log. What it calls fatal (it could not write the list of its files) breaks the store, not the
// node: the goroutine of pebble ends, and the store is given up.
type storeLogger struct {
	logger *slog.Logger
	broken *breakage
}

func (l storeLogger) Infof(string, ...any) {}

func (l storeLogger) Errorf(format string, args ...any) {
	l.logger.Warn("store of images", "error", fmt.Sprintf(format, args...))
}

func (l storeLogger) Fatalf(format string, args ...any) {
	l.broken.last.Do(func() { close(l.broken.fatal) })
	failure := &storeFailure{text: fmt.Sprintf("write the store of images: "+format, args...)}
	for _, a := range args {
		if err, isError := a.(error); isError {
			failure.cause = err
		}
	}
	l.broken.because(failure)
	runtime.Goexit()
}

// storeFailure is what pebble calls fatal.
type storeFailure struct {
	text  string
	cause error // nil if pebble did not say
}

func (f *storeFailure) Error() string { return f.text }
func (f *storeFailure) Unwrap() error { return f.cause }

// openEmpty begins a new store.
func (e *Engine) openEmpty() error {
	if err := e.closeStore(); err != nil {
		return err
	}
	if err := e.fs.RemoveAll(e.live); err != nil {
		return fmt.Errorf("remove the old store of images: %w", err)
	}
	e.digest, e.rows = Digest{}, 0
	return e.openLive()
}

func (e *Engine) openLive() error {
	e.broken = newBreakage()
	var db *pebble.DB
	err := e.broken.outlives(func() (err error) {
		db, err = pebble.Open(e.live, e.storeOptions(e.broken, false))
		return err
	})
	if err != nil {
		return fmt.Errorf("open the store of images: %w", err)
	}
	e.db, e.flushedBefore = db, 0
	return nil
}

// outlives calls the store, which may end the goroutine that calls it (storeLogger.Fatalf): that is never the caller's.
func (b *breakage) outlives(call func() error) (err error) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		returned := false
		defer func() {
			if !returned {
				err = b.err // because came before
			}
		}()
		err = call()
		returned = true
	}()
	<-ended
	return err
}

// openFrom makes the store a copy of an image, with hard links.
func (e *Engine) openFrom(m *Manifest) error {
	if err := e.linkFiles(m, e.live); err != nil {
		return fmt.Errorf("make the store of images: %w", err)
	}
	return e.openLive()
}

// sameForGood reports whether pebble never changes a file of that name.
func sameForGood(name string) bool {
	return strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob")
}

// flush writes what the store has in memory.
func (e *Engine) flush(ctx context.Context) error {
	done, err := e.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("write the store of images: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-e.broken.done:
		return e.broken.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flushed returns how many bytes of rows were written to files since the store was opened, those of compactions not counted.
func (e *Engine) flushed() int64 { return int64(e.db.Metrics().Levels[0].TableBytesFlushed) }

// publish makes an image of the store.
func (e *Engine) publish(ctx context.Context, m, before *Manifest) error {
	final := e.fs.PathJoin(e.images, Name(m.LSN))
	dir := final + newSuffix
	for _, left := range []string{dir, final} { // a damaged one may have that name
		if err := e.fs.RemoveAll(left); err != nil {
			return fmt.Errorf("remove an old image: %w", err)
		}
	}
	if err := e.broken.outlives(func() error { return e.db.Checkpoint(dir) }); err != nil {
		return fmt.Errorf("link the files: %w", err)
	}
	names, err := e.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list the files: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := e.addFile(m, before, dir, name); err != nil {
			return err
		}
	}
	e.flushedBefore = e.flushed()
	if err := e.writeManifest(dir, m); err != nil {
		return err
	}
	if err := e.verifyRows(ctx, dir, m); err != nil {
		return err
	}
	if err := e.fs.Rename(dir, final); err != nil {
		return fmt.Errorf("name the image: %w", err)
	}
	if err := e.syncDir(e.images); err != nil {
		return fmt.Errorf("name the image: %w", err)
	}
	return nil
}

// addFile puts a file of the image into its manifest. A file of pebble's that the image before has is the same: its name is given once.
func (e *Engine) addFile(m, before *Manifest, dir, name string) error {
	path := e.fs.PathJoin(dir, name)
	if before != nil && strings.HasSuffix(name, ".sst") {
		i, found := slices.BinarySearchFunc(before.Files, name, func(f File, name string) int { return strings.Compare(f.Name, name) })
		if found {
			m.Files = append(m.Files, before.Files[i])
			m.Bytes += before.Files[i].Size
			return nil
		}
	}
	size, sum, err := checksum(e.fs, path)
	if err != nil {
		return fmt.Errorf("read the image: %w", err)
	}
	m.Files = append(m.Files, File{name, size, sum})
	m.Bytes += size
	m.Written += size
	return nil
}

// writeManifest writes image.json, durable.
func (e *Engine) writeManifest(dir string, m *Manifest) error {
	encoded, err := m.Encode()
	if err != nil {
		return err
	}
	path := e.fs.PathJoin(dir, ManifestName)
	f, err := e.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(encoded)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = e.syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// verifyRows opens an image as a restart would, and compares the digest of all its rows.
func (e *Engine) verifyRows(ctx context.Context, dir string, m *Manifest) error {
	db, err := pebble.Open(dir, e.storeOptions(newBreakage(), true))
	if err != nil {
		return fmt.Errorf("verify image %s: %w: %v", dir, ErrDamaged, err)
	}
	digest, rows := Digest{}, int64(0)
	p := pace{hurried: e.options.Hurried}
	err = eachRow(db, nil, nil, func(key, value []byte) error {
		digest.add(e.hash.of(key, value))
		if rows++; rows%64 != 0 {
			return nil
		}
		p.rest(ctx)
		return ctx.Err()
	})
	err = errors.Join(err, db.Close())
	if err == nil {
		err = m.sameRows(digest, rows)
	}
	if err != nil {
		return fmt.Errorf("verify image %s: %w", dir, err)
	}
	lock := e.fs.PathJoin(dir, "LOCK")
	if m.hasFile("LOCK") || !e.exists(lock) {
		return nil
	}
	return e.fs.Remove(lock)
}

func (m *Manifest) hasFile(name string) bool {
	return slices.ContainsFunc(m.Files, func(f File) bool { return f.Name == name })
}

// sameRows compares what was read with what the manifest says.
func (m *Manifest) sameRows(digest Digest, rows int64) error {
	if got := digest.String(); got != m.Digest || rows != m.Rows {
		return fmt.Errorf("%w: %d rows with digest %s instead of %d with %s", ErrDamaged, rows, got, m.Rows, m.Digest)
	}
	return nil
}

// eachRow visits the rows from, end in the order of their keys; nil is no bound.
func eachRow(db *pebble.DB, from, end []byte, visit func(key, value []byte) error) error {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: end})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var value []byte
		if value, err = it.ValueAndErr(); err == nil {
			err = visit(it.Key(), value)
		}
	}
	return errors.Join(err, it.Close())
}

// maybeCompact puts the rows of the store one behind the other when what images added upon before is too much, so that it can be read
// in one go again. It returns how much images added since that was done last. A disk that is too full for it puts it off.
func (e *Engine) maybeCompact(ctx context.Context, before *Manifest) (overlay int64, err error) {
	if before == nil {
		return 0, nil
	}
	added := e.flushed() - e.flushedBefore
	overlay = before.Overlay + added
	size := before.Bytes + added
	if overlay <= size*compactPercent/100 {
		return overlay, nil
	}
	if err := e.room(2 * size); err != nil {
		e.options.Logger.Warn("the store of images is not in order", "error", err.Error())
		return overlay, nil
	}
	if err := e.db.Compact(ctx, []byte{0}, []byte{0xff}, false); err != nil {
		return 0, fmt.Errorf("put the store of images in order: %w", err)
	}
	return 0, nil
}

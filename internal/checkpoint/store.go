package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstep/internal/granter"
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

// store is the store of pebble from which images are made: what it holds is what the image before holds, and what was written since. Its methods are called by one
// goroutine at a time.
type store struct {
	options   Options // with FS and Logger
	courtesy  *Courtesy
	fs        vfs.FS
	images    string
	live      string // its directory
	abandoned int    // stores that could not be closed

	db     *pebble.DB // nil: it is not open
	broken *breakage  // why db is of no use any more

	digest Digest // of the rows in it
	rows   int64
	// flushedBefore is what flushed returned when the last image was made of it.
	flushedBefore int64
	merge
}

func newStore(options Options, live string) store {
	return store{options: options, fs: options.FS, images: options.FS.PathJoin(options.Dir, imagesName), live: options.FS.PathJoin(options.Dir, live)}
}

// newPace is of a goroutine that begins to work for the store.
func (s *store) newPace() pace {
	return pace{courtesy: s.courtesy, hurried: s.options.Hurried, waiting: s.options.Waiting}
}

// close gives the store up.
func (s *store) close() error {
	if s.db == nil {
		return nil
	}
	if s.batch != nil {
		_ = s.batch.Close()
		s.batch = nil
	}
	_ = s.before.close()
	db := s.db
	s.db = nil
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			return fmt.Errorf("close the store of images: %w", err)
		}
	case <-s.broken.fatal: // a goroutine of it has ended in the middle of something: it is abandoned, with its directory
		_ = s.fs.RemoveAll(s.live)
		s.abandoned++
		s.live = s.fs.PathJoin(s.options.Dir, fmt.Sprintf("%s%d", liveName, s.abandoned))
	}
	return nil
}

// discard gives it up with all that it holds.
func (s *store) discard() {
	_ = s.close()
	_ = s.fs.RemoveAll(s.live)
}

// within returns the size of a buffer that has so many bytes where memory has no bound.
func (s *store) within(bytes int64) int64 {
	if s.options.Memory == 0 {
		return bytes
	}
	return min(bytes, max(leastStoreBytes, s.options.Memory/storePart))
}

// storeOptions are those of pebble. Nothing is logged: a store that was not made an image of is never opened again.
func (s *store) storeOptions(broken *breakage, readonly bool) *pebble.Options {
	o := &pebble.Options{
		FS:                          s.fs,
		DisableWAL:                  true,
		DisableAutomaticCompactions: true,
		ReadOnly:                    readonly,
		MemTableSize:                uint64(s.within(memtableBytes)),
		MemTableStopWritesThreshold: 4,
		L0StopWritesThreshold:       1 << 20,
		CacheSize:                   s.within(cacheBytes),
		MaxOpenFiles:                256,
		FormatMajorVersion:          pebble.FormatValueSeparation, // a later one only with a feature level: other nodes read the images
		Logger:                      storeLogger{s.options.Logger, broken},
		EventListener: &pebble.EventListener{BackgroundError: func(err error) {
			broken.because(fmt.Errorf("write the store of images: %w", err))
		}, DataCorruption: func(info pebble.DataCorruptionInfo) { // who reads gets the error, too; by default the goroutine would end
			broken.because(fmt.Errorf("read the store of images: %w", info.Details))
		}},
	}
	if !readonly && !s.options.Hurried {
		o.FS = pacedFS{s.fs, s.courtesy, s.options.Waiting}
	}
	o.Experimental.CompactionScheduler = granter.New()
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
func (s *store) openEmpty() error {
	if err := s.close(); err != nil {
		return err
	}
	if err := s.fs.RemoveAll(s.live); err != nil {
		return fmt.Errorf("remove the old store of images: %w", err)
	}
	s.digest, s.rows = Digest{}, 0
	return s.openLive()
}

func (s *store) openLive() error {
	s.broken = newBreakage()
	var db *pebble.DB
	err := s.broken.outlives(func() (err error) {
		db, err = pebble.Open(s.live, s.storeOptions(s.broken, false))
		return err
	})
	if err != nil {
		return fmt.Errorf("open the store of images: %w", err)
	}
	s.db, s.flushedBefore = db, 0
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
func (s *store) openFrom(m *Manifest) error {
	if err := s.close(); err != nil {
		return err
	}
	if err := s.linkFiles(m.Files, s.fs.PathJoin(s.images, Name(m.LSN)), s.live); err != nil {
		return fmt.Errorf("make the store of images: %w", err)
	}
	digest, err := parseDigest(m.Digest)
	if err != nil {
		return fmt.Errorf("make the store of images: %w", err)
	}
	s.digest, s.rows = digest, m.Rows
	return s.openLive()
}

// sameForGood reports whether pebble never changes a file of that name.
func sameForGood(name string) bool {
	return strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob")
}

// flush writes what the store has in memory.
func (s *store) flush(ctx context.Context) error {
	done, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("write the store of images: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-s.broken.done:
		return s.broken.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flushed returns how many bytes of rows were written to files since the store was opened, those of compactions not counted.
func (s *store) flushed() int64 { return int64(s.db.Metrics().Levels[0].TableBytesFlushed) }

// seal makes an image of the store that is verified and durable, but has not its name yet: newSuffix stands behind it. It fills in what m says of rows and
// files; before is the image before, nil if this one is full.
func (s *store) seal(ctx context.Context, m, before *Manifest) (err error) {
	if err := s.flush(ctx); err != nil {
		return err
	}
	if m.Overlay, err = s.maybeCompact(ctx, before); err != nil {
		return err
	}
	m.Digest, m.Rows = s.digest.String(), s.rows
	final := s.fs.PathJoin(s.images, Name(m.LSN))
	dir := final + newSuffix
	for _, left := range []string{dir, final} { // a damaged one may have that name
		if err := s.fs.RemoveAll(left); err != nil {
			return fmt.Errorf("remove an old image: %w", err)
		}
	}
	if err := s.broken.outlives(func() error { return s.db.Checkpoint(dir) }); err != nil {
		return fmt.Errorf("link the files: %w", err)
	}
	names, err := s.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list the files: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := s.addFile(m, before, dir, name); err != nil {
			return err
		}
	}
	s.flushedBefore = s.flushed()
	if err := s.writeManifest(dir, m); err != nil {
		return err
	}
	return s.verifyRows(ctx, dir, m)
}

// addFile puts a file of the image into its manifest. A file of pebble's that the image before has is the same: its name is given once.
func (s *store) addFile(m, before *Manifest, dir, name string) error {
	path := s.fs.PathJoin(dir, name)
	if before != nil && strings.HasSuffix(name, ".sst") {
		i, found := slices.BinarySearchFunc(before.Files, name, func(f File, name string) int { return strings.Compare(f.Name, name) })
		if found {
			m.Files = append(m.Files, before.Files[i])
			m.Bytes += before.Files[i].Size
			return nil
		}
	}
	size, sum, err := checksum(s.fs, path)
	if err != nil {
		return fmt.Errorf("read the image: %w", err)
	}
	m.Files = append(m.Files, File{name, size, sum})
	m.Bytes += size
	m.Written += size
	return nil
}

// writeManifest writes image.json, durable.
func (s *store) writeManifest(dir string, m *Manifest) error {
	encoded, err := m.Encode()
	if err != nil {
		return err
	}
	path := s.fs.PathJoin(dir, ManifestName)
	f, err := s.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(encoded)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// verifyRows opens an image as a restart would, and compares the digest of all its rows.
func (s *store) verifyRows(ctx context.Context, dir string, m *Manifest) error {
	db, err := pebble.Open(dir, s.storeOptions(newBreakage(), true))
	if err != nil {
		return fmt.Errorf("verify image %s: %w: %v", dir, ErrDamaged, err)
	}
	digest, rows := Digest{}, int64(0)
	p := s.newPace()
	err = eachRow(db, nil, nil, func(key, value []byte) error {
		digest.add(s.hash.of(key, value))
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
	lock := s.fs.PathJoin(dir, "LOCK")
	if m.hasFile("LOCK") || !s.exists(lock) {
		return nil
	}
	return s.fs.Remove(lock)
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
func (s *store) maybeCompact(ctx context.Context, before *Manifest) (overlay int64, err error) {
	if before == nil {
		return 0, nil
	}
	added := s.flushed() - s.flushedBefore
	overlay = before.Overlay + added
	size := before.Bytes + added
	if overlay <= size*compactPercent/100 {
		return overlay, nil
	}
	if err := s.room(2 * size); err != nil {
		s.options.Logger.Warn("the store of images is not in order", "error", err.Error())
		return overlay, nil
	}
	if err := s.db.Compact(ctx, []byte{0}, []byte{0xff}, false); err != nil {
		return 0, fmt.Errorf("put the store of images in order: %w", err)
	}
	return 0, nil
}

func (s *store) syncDir(dir string) error {
	d, err := s.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// exists reports whether a path is there.
func (s *store) exists(path string) bool {
	_, err := s.fs.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

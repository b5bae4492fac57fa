package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstep/internal/kv"
	"lockstep/smr"
)

const (
	imagesName = "images"
	liveName   = "live"
	coldName   = "cold"
	newSuffix  = ".new"
	// Keep is how many images are kept: the newest, and the one before, should the newest turn out damaged.
	Keep = 2
	// sliceBytes is what is taken from the machine in one hold of its lock, in bytes of rows: about 0.1 ms.
	sliceBytes = 32 << 10
	// earlyBytes is how much that was taken out of turn is gathered, in bytes, until it is brought into the store, where memory has no bound.
	earlyBytes = 8 << 20
	// hurryBytes of rows that were taken out of turn within one slice say that they come faster than they are written: there are no rests
	// then, so that they do not fill the memory.
	hurryBytes = 4 << 20
	// batchBytes is how much is brought into the store at once. pebble keeps the memory of batches of up to 1 MiB for the next one.
	batchBytes = 256 << 10
	// reserve is the room on the disk below which nothing is written, in bytes: the log beside needs it more.
	reserve = 64 << 20
	// spaceEvery is how many bytes are written between two looks at the room on the disk.
	spaceEvery = 8 << 20
)

// ErrNoSpace: the disk is too full to write an image.
var ErrNoSpace = errors.New("not enough room on the disk for an image")

// State gives access to the machine whose images are taken. Both are called by one goroutine at a time, and call what they are
// given before they return.
type State interface {
	// Between calls use between two frames, while nobody else uses the machine.
	Between(use func(*kv.Machine))
	// Beside calls use while nothing is applied; others may read.
	Beside(use func(*kv.Machine))
}

// Options of an Engine.
type Options struct {
	Dir            string // the KV node's data directory
	Cluster, Group string
	FS             vfs.FS       // nil: the operating system's
	Logger         *slog.Logger // nil: none
	// Hurried says that nobody works beside: images are written as fast as the machine can. Else they take half of a processor.
	Hurried bool
	// Base returns what a log needs to begin at an LSN (log.Base, encoded). It is called when everything of the image is
	// written; nil, or an error, and the image has none.
	Base func(lsn smr.LSN) ([]byte, error)
	// Cold keeps the last image open, so that values of the machine need not be in memory (kv.ColdRows). Of a machine that is loaded, values
	// are in memory until it takes Warm bytes.
	Cold bool
	Warm int64
	// Memory is what keys and values may take beside, in bytes: buffers and caches of the stores are a small part of it. 0: there is no bound, they are
	// as large as they need to be.
	Memory int64
}

// Engine takes images. Its methods are called by one goroutine at a time.
type Engine struct {
	options Options
	fs      vfs.FS
	images  string
	live    string

	abandoned int // stores that could not be closed

	db     *pebble.DB
	broken *breakage // why db is of no use any more
	last   *Manifest // the image that the store was made from, or that was made of it last; nil: the store is empty

	digest Digest // of the rows in the store
	rows   int64
	hash   hasher
	before before       // reads what the store held before the image that is being written
	early  kv.ImageRows // of the image being written: taken out of turn, and not yet in the store
	// unsettled: something was written that before does not see.
	unsettled bool
	batch     *pebble.Batch
	cold      *coldRows   // from which the machine reads cold values; nil: it has none
	former    []*coldRows // from which it did
	pins      int
	// flushedBefore is what flushed returned when the last image was made.
	flushedBefore int64
	written       int64 // bytes applied since the room on the disk was looked at
	// released are the large objects that a key mentions no more, used those that one mentions, of the image being written.
	released, used map[uint64]struct{}
}

// Open prepares the directories of an engine: what is left of a crash is removed. It loads nothing: see Restore.
func Open(options Options) (*Engine, error) {
	e := &Engine{options: options, fs: options.FS}
	if e.fs == nil {
		e.fs = vfs.Default
	}
	if options.Logger == nil {
		e.options.Logger = discard()
	}
	e.images, e.live = e.fs.PathJoin(options.Dir, imagesName), e.fs.PathJoin(options.Dir, liveName)
	for _, dir := range []string{options.Dir, e.images} {
		if err := e.fs.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory for images: %w", err)
		}
	}
	if err := e.syncDir(options.Dir); err != nil {
		return nil, fmt.Errorf("make the directory for images: %w", err)
	}
	others, err := e.fs.List(options.Dir)
	if err != nil {
		return nil, fmt.Errorf("list the data directory: %w", err)
	}
	for _, name := range others {
		if strings.HasPrefix(name, liveName) || strings.HasPrefix(name, coldName) {
			if err := e.fs.RemoveAll(e.fs.PathJoin(options.Dir, name)); err != nil {
				return nil, fmt.Errorf("remove the store of an earlier life: %w", err)
			}
		}
	}
	entries, err := e.fs.List(e.images)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	for _, name := range entries {
		if strings.HasSuffix(name, newSuffix) {
			if err := e.fs.RemoveAll(e.fs.PathJoin(e.images, name)); err != nil {
				return nil, fmt.Errorf("remove an image that was not completed: %w", err)
			}
		}
	}
	return e, nil
}

// Images returns the directory of the images.
func (e *Engine) Images() string { return e.images }

// Last returns the image that was taken or loaded last, nil if there is none.
func (e *Engine) Last() *Manifest { return e.last }

// Close gives the store up, and the images that are kept for cold values: the machine must not be used any more. What was not made an image of
// is lost.
func (e *Engine) Close() error {
	if e.cold != nil {
		e.former, e.cold = append(e.former, e.cold), nil
	}
	e.ReleaseCold()
	return e.closeStore()
}

// closeStore gives the store up.
func (e *Engine) closeStore() error {
	if e.db == nil {
		return nil
	}
	if e.batch != nil {
		_ = e.batch.Close()
		e.batch = nil
	}
	db := e.db
	e.db = nil
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			return fmt.Errorf("close the store of images: %w", err)
		}
	case <-e.broken.fatal: // a goroutine of it has ended in the middle of something: it is abandoned, with its directory
		_ = e.fs.RemoveAll(e.live)
		e.abandoned++
		e.live = e.fs.PathJoin(e.options.Dir, fmt.Sprintf("%s%d", liveName, e.abandoned))
	}
	return nil
}

// Take takes an image of the state as it is now. On return it is durable, verified, and the newest of the images; older ones than the
// one before are removed. If the state's LSN has one already, that is returned. After an error the images that there were are
// there as before, and the next image will be a full one; it wraps ErrNoSpace if the disk is too full.
func (e *Engine) Take(ctx context.Context, state State) (*Manifest, error) {
	if err := e.room(0); err != nil {
		return nil, fmt.Errorf("take an image: %w", err)
	}
	var start kv.ImageStart
	begun := false
	created := time.Now()
	state.Between(func(m *kv.Machine) {
		if e.last == nil || m.Applied() != e.last.LSN {
			start, begun = m.BeginImage(e.db == nil), true
		}
	})
	if !begun {
		return e.last, nil
	}
	made, err := e.write(ctx, state, start, created)
	var cold *coldRows
	if err == nil && e.options.Cold {
		var problem error
		if cold, problem = e.pin(made); problem != nil { // the one before has all that is cold
			e.options.Logger.Warn("no more values can leave the memory until the next image", "error", problem.Error())
		}
	}
	state.Between(func(m *kv.Machine) {
		if m.EndImage(err == nil); cold != nil {
			e.exchange(m, cold)
		}
	})
	e.ReleaseCold()
	if err != nil {
		// The store holds rows of different LSNs now.
		_ = e.closeStore()
		_ = e.fs.RemoveAll(e.live)
		_ = e.fs.RemoveAll(e.fs.PathJoin(e.images, Name(start.LSN)+newSuffix))
		return nil, fmt.Errorf("take an image at LSN %d: %w", start.LSN, err)
	}
	before := e.last
	e.last = made
	e.options.Logger.Info("image taken", "lsn", uint64(made.LSN), "keys", made.Keys, "bytes", made.Bytes, "written", made.Written,
		"milliseconds", time.Since(created).Milliseconds())
	if err := e.removeOld(before); err != nil {
		e.options.Logger.Warn("old images remain", "error", err.Error())
	}
	return made, nil
}

// write brings the store to the state that start names and makes an image of it.
func (e *Engine) write(ctx context.Context, state State, start kv.ImageStart, created time.Time) (*Manifest, error) {
	before := e.last
	if start.Full {
		before = nil
		if err := e.openEmpty(); err != nil {
			return nil, err
		}
	}
	if err := e.writeRows(ctx, state, start.Full); err != nil {
		return nil, err
	}
	if err := e.flush(ctx); err != nil {
		return nil, err
	}
	overlay, err := e.maybeCompact(ctx, before)
	if err != nil {
		return nil, err
	}
	m := &Manifest{
		Format: Format, Cluster: e.options.Cluster, Group: e.options.Group, LSN: start.LSN, Stamp: start.Stamp, Created: created,
		Digest: e.digest.String(), Keys: int64(start.Keys), Rows: e.rows, Overlay: overlay,
	}
	if e.options.Base != nil {
		base, err := e.options.Base(start.LSN)
		if err != nil {
			e.options.Logger.Warn("the image has no base for a log", "lsn", uint64(start.LSN), "error", err.Error())
		}
		m.Base = base
	}
	if err := e.publish(ctx, m, before); err != nil {
		return nil, err
	}
	return m, nil
}

// writeRows brings the rows of the image that was begun into the store.
func (e *Engine) writeRows(ctx context.Context, state State, full bool) (err error) {
	e.released, e.used = make(map[uint64]struct{}), make(map[uint64]struct{})
	defer func() { err, e.early = errors.Join(err, e.before.close()), kv.ImageRows{} }()
	var rows kv.ImageRows
	p := pace{hurried: e.options.Hurried}
	apply := func(op kv.RowOp, key, value []byte) error {
		if op == kv.RowDeleteRange || op == kv.RowCheck || op == kv.RowCheckFront { // they are about what came before
			if err := e.bringEarly(ctx, full, &p); err != nil {
				return err
			}
		}
		return e.apply(op, key, value, full)
	}
	for first, more := true, true; more; first = false {
		state.Beside(func(m *kv.Machine) { more = m.NextRows(sliceBytes, &rows) })
		early, ordered := rows.Split()
		e.early.Append(&early)
		p.hurried = e.options.Hurried || early.Len() >= hurryBytes
		if first || !more || int64(e.early.Len()) >= e.within(earlyBytes) {
			err = e.bringEarly(ctx, full, &p)
		}
		if err == nil {
			err = ordered.Each(apply)
		}
		if err == nil {
			err = e.commit(ctx, !more)
		}
		if err != nil {
			return err
		}
		rows.Reset()
		p.rest(ctx)
	}
	return e.removeReleased()
}

// bringEarly brings the rows that were taken out of turn into the store, in the order of their keys: they come from everywhere, and looked for one by one each
// of them would read a block of the store.
func (e *Engine) bringEarly(ctx context.Context, full bool, p *pace) error {
	err := e.early.EachByKey(func(op kv.RowOp, key, value []byte) error {
		p.rest(ctx)
		return errors.Join(e.apply(op, key, value, full), e.commit(ctx, false))
	})
	e.early.Reset()
	return err
}

// apply brings one change into the store.
func (e *Engine) apply(op kv.RowOp, key, value []byte, full bool) error {
	if e.batch == nil {
		e.batch = e.db.NewBatch()
	}
	e.unsettled = e.unsettled || op != kv.RowCheck && op != kv.RowCheckFront
	switch op {
	case kv.RowPut:
		if !full {
			if err := e.forget(key); err != nil {
				return err
			}
		}
		if object, ok := kv.RowObject(key, value); ok {
			e.used[object] = struct{}{}
		}
		e.digest.add(e.hash.of(key, value))
		e.rows++
		return e.batch.Set(key, value, nil)
	case kv.RowFront:
		return e.applyFront(key, value, full)
	case kv.RowDelete:
		if err := e.forget(key); err != nil {
			return err
		}
		return e.batch.Delete(key, nil)
	case kv.RowDeleteRange:
		return e.removeRange(key, value)
	case kv.RowCheck, kv.RowCheckFront: // of a row that this image may have written
		if err := e.settle(); err != nil {
			return err
		}
		held, found, err := e.before.find(e.db, key)
		if err != nil {
			return fmt.Errorf("compare the row %x of an earlier image: %w", key, err)
		}
		if op == kv.RowCheckFront && found {
			if value, err = kv.JoinRow(nil, value, held); err != nil {
				return fmt.Errorf("compare the row %x of an earlier image: %w", key, err)
			}
		}
		if !found || !bytes.Equal(held, value) {
			return fmt.Errorf("the row %x of an earlier image is not what the state has, though nothing changed it: a bug, please report it", key)
		}
	}
	return nil
}

// settle makes held see all that was written.
func (e *Engine) settle() error {
	if !e.unsettled {
		return nil
	}
	e.unsettled = false
	return errors.Join(e.commit(context.Background(), true), e.before.close())
}

// forget takes a row out of the digest, if it is there.
func (e *Engine) forget(key []byte) error {
	held, found, err := e.before.find(e.db, key)
	if found && err == nil {
		e.drop(key, held)
	}
	return err
}

// drop takes a row that is there out of the digest.
func (e *Engine) drop(key, held []byte) {
	e.digest.remove(e.hash.of(key, held))
	e.rows--
	if object, ok := kv.RowObject(key, held); ok {
		e.released[object] = struct{}{}
	}
}

func (e *Engine) removeRange(from, end []byte) error {
	// What was applied before may lie in the range.
	if err := e.commit(context.Background(), true); err != nil {
		return err
	}
	err := eachRow(e.db, from, end, func(key, value []byte) error {
		e.drop(key, value)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the store of images: %w", err)
	}
	if err := e.before.close(); err != nil { // what it would find in the range is gone
		return err
	}
	if e.batch == nil {
		e.batch = e.db.NewBatch()
	}
	return e.batch.DeleteRange(from, end, nil)
}

// removeReleased removes the parts of large objects that no key holds any more. (One that was renamed is held by another key.)
func (e *Engine) removeReleased() error {
	gone := make([]uint64, 0, len(e.released))
	for object := range e.released {
		if _, held := e.used[object]; !held {
			gone = append(gone, object)
		}
	}
	slices.Sort(gone)
	for _, object := range gone {
		from, end := kv.ObjectRows(object)
		if err := e.removeRange(from, end); err != nil {
			return err
		}
	}
	return e.commit(context.Background(), true)
}

// commit brings the batch into the store when it is large enough, or at any rate.
func (e *Engine) commit(ctx context.Context, whole bool) error {
	if e.batch == nil || e.batch.Len() < batchBytes && !whole {
		return ctx.Err()
	}
	size := int64(e.batch.Len())
	if e.written += size; e.written >= spaceEvery {
		if err := e.room(size); err != nil {
			return err
		}
		e.written = 0
	}
	batch := e.batch
	e.batch = nil
	defer batch.Close()
	if err := batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write the store of images: %w", err)
	}
	select {
	case <-e.broken.done:
		return e.broken.err
	default:
		return ctx.Err()
	}
}

// room reports ErrNoSpace if the disk would not hold so many bytes more than the reserve.
func (e *Engine) room(bytes int64) error {
	usage, err := e.fs.GetDiskUsage(e.options.Dir)
	if err != nil || usage.AvailBytes >= uint64(bytes)+reserve {
		return nil // a file system that does not tell answers when it is full
	}
	return fmt.Errorf("%w: %s has %d MiB left, %d MiB are kept free. Make room; images are tried again", ErrNoSpace, e.options.Dir,
		usage.AvailBytes>>20, reserve>>20)
}

// removeOld removes all images but the last Keep, and, if it was damaged, none of those.
func (e *Engine) removeOld(before *Manifest) error {
	found, err := list(e.fs, e.images)
	if err != nil {
		return err
	}
	kept := 0
	for _, image := range found {
		if kept < Keep || before != nil && image.LSN == before.LSN {
			if image.Manifest != nil {
				kept++
			}
			continue
		}
		if err := e.fs.RemoveAll(image.Dir); err != nil {
			return fmt.Errorf("remove image %s: %w", image.Dir, err)
		}
	}
	return nil
}

func (e *Engine) syncDir(dir string) error {
	d, err := e.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// exists reports whether a path is there.
func (e *Engine) exists(path string) bool {
	_, err := e.fs.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

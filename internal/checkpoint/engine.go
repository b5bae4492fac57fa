package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

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
	// reserve is the room on the disk below which nothing is written, in bytes: the log beside needs it more.
	reserve = 64 << 20
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
	// Hurried says that nobody works beside: images are written as fast as the machine can. Else they take half of a processor, or what ServeApart is told.
	Hurried bool
	// Waiting reports whether somebody can do nothing until the image that is being written is there: it does not rest then. nil: nobody ever. Any goroutine calls it.
	Waiting func() bool
	// Base returns what a log needs to begin at an LSN (log.Base, encoded). It is called when everything of the image is
	// written; nil, or an error, and the image has none.
	Base func(lsn smr.LSN) ([]byte, error)
	// Cold keeps the last image open, so that values of the machine need not be in memory (kv.ColdRows). Of a machine that is loaded, values
	// are in memory until it takes Warm bytes.
	Cold bool
	Warm int64
	// Apart begins a process that writes one image with ServeApart, and is given standard input and output of it: see apart.go. Images then cost
	// the process that calls Take neither memory nor much of its processors. nil: they are written by the calling process. FS must be nil then.
	Apart func() (Process, error)
	// Memory is what keys and values may take beside, in bytes: buffers and caches of the stores are a small part of it. 0: there is no bound, they are
	// as large as they need to be.
	Memory int64
}

// Engine takes images. Its methods are called by one goroutine at a time.
type Engine struct {
	options Options // with FS and Logger
	fs      vfs.FS
	images  string
	store   store
	last    *Manifest // the image that was taken or loaded last; nil: none was
	// amiss: the next image must be full, since the last one was not completed, or there is none.
	amiss  bool
	apart  int         // images that were written in a process of their own
	cold   *coldRows   // from which the machine reads cold values; nil: it has none
	former []*coldRows // from which it did
	pins   int
}

// writer brings the rows of one image after the other to the disk.
type writer interface {
	// begin, bring and seal are called in this order for each image, bring until it was given the last rows: see store.
	begin(before *Manifest, cold *coldRows) error
	bring(ctx context.Context, early, ordered *kv.ImageRows, last bool) error
	seal(ctx context.Context, m, before *Manifest) error
	// discard gives everything up, but what was sealed.
	discard()
}

// Open prepares the directories of an engine: what is left of a crash is removed. It loads nothing: see Restore.
func Open(options Options) (*Engine, error) {
	if options.FS == nil {
		options.FS = vfs.Default
	}
	if options.Logger == nil {
		options.Logger = discard()
	}
	e := &Engine{options: options, fs: options.FS, store: newStore(options, liveName), amiss: true}
	e.images = e.store.images
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
	return e.store.close()
}

// Take takes an image of the state as it is now. On return it is durable, verified, and the newest of the images; older ones than the
// one before are removed. If the state's LSN has one already, that is returned. After an error the images that there were are
// there as before, and the next image will be a full one; it wraps ErrNoSpace if the disk is too full.
func (e *Engine) Take(ctx context.Context, state State) (*Manifest, error) {
	if err := e.store.room(0); err != nil {
		return nil, fmt.Errorf("take an image: %w", err)
	}
	var start kv.ImageStart
	begun := false
	created := time.Now()
	state.Between(func(m *kv.Machine) {
		if e.last == nil || m.Applied() != e.last.LSN {
			start, begun = m.BeginImage(e.amiss), true
		}
	})
	if !begun {
		return e.last, nil
	}
	made, err := e.write(ctx, state, start, created)
	e.amiss = err != nil
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

// write writes the image that start names.
func (e *Engine) write(ctx context.Context, state State, start kv.ImageStart, created time.Time) (m *Manifest, err error) {
	before := e.last
	if start.Full {
		before = nil
	}
	w := e.writer()
	defer func() {
		if err != nil { // what it holds are rows of different LSNs
			w.discard()
		}
	}()
	if err := w.begin(before, e.cold); err != nil {
		return nil, err
	}
	if err := e.bringRows(ctx, state, w); err != nil {
		return nil, err
	}
	m = &Manifest{
		Format: Format, Cluster: e.options.Cluster, Group: e.options.Group, LSN: start.LSN, Stamp: start.Stamp, Created: created, Keys: int64(start.Keys),
	}
	if e.options.Base != nil {
		base, err := e.options.Base(start.LSN)
		if err != nil {
			e.options.Logger.Warn("the image has no base for a log", "lsn", uint64(start.LSN), "error", err.Error())
		}
		m.Base = base
	}
	if err := w.seal(ctx, m, before); err != nil {
		return nil, err
	}
	final := e.fs.PathJoin(e.images, Name(m.LSN))
	if err := errors.Join(e.fs.Rename(final+newSuffix, final), e.syncDir(e.images)); err != nil {
		return nil, fmt.Errorf("name the image: %w", err)
	}
	return m, nil
}

// writer returns what the next image is written by.
func (e *Engine) writer() writer {
	if e.options.Apart == nil {
		return &e.store
	}
	_ = e.store.close() // it was loaded from
	e.apart++
	return newApart(e.options, fmt.Sprintf("%s-apart%d", liveName, e.apart))
}

// bringRows takes the rows of the image that was begun from the machine, and gives them to who writes them.
func (e *Engine) bringRows(ctx context.Context, state State, w writer) error {
	var rows kv.ImageRows
	p := pace{hurried: e.options.Hurried, waiting: e.options.Waiting}
	for more := true; more; {
		state.Beside(func(m *kv.Machine) { more = m.NextRows(sliceBytes, &rows) })
		early, ordered := rows.Split()
		if err := w.bring(ctx, &early, &ordered, !more); err != nil {
			return err
		}
		rows.Reset()
		p.rest(ctx)
	}
	return nil
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

func (e *Engine) syncDir(dir string) error { return e.store.syncDir(dir) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

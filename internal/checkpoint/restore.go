package checkpoint

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstep/internal/kv"
	"lockstep/smr"
)

// Restore loads the newest image that is good, and makes it what the next image is written upon. fresh returns a new machine,
// one for each image that is tried. No image at all is no error: machine and manifest are nil. Images that cannot be loaded
// are logged and passed over, and stay where they are; one of another cluster or group is an error (ErrForeign), and so is one of a newer
// version (ErrNewer), since passing it over would lose what it holds. If there are images and none can be loaded, that is an error
// that wraps ErrDamaged. With Options.Cold the machine reads its cold values from that image; call ReleaseCold when the machine before it,
// if there was one, is not used any more.
func (e *Engine) Restore(fresh func() *kv.Machine) (*kv.Machine, *Manifest, error) {
	found, err := list(e.fs, e.images)
	if err != nil {
		return nil, nil, err
	}
	var problems []error
	for _, image := range found {
		m, manifest, err := e.restore(image, fresh)
		switch {
		case err == nil:
			return m, manifest, nil
		case errors.Is(err, ErrForeign), errors.Is(err, ErrNewer):
			return nil, nil, err
		}
		e.options.Logger.Error("image passed over", "lsn", uint64(image.LSN), "error", err.Error())
		problems = append(problems, err)
	}
	return nil, nil, errors.Join(problems...)
}

// RestoreAt loads the image at an LSN.
func (e *Engine) RestoreAt(lsn smr.LSN, fresh func() *kv.Machine) (*kv.Machine, *Manifest, error) {
	image := Image{Dir: e.fs.PathJoin(e.images, Name(lsn)), LSN: lsn}
	if image.Manifest, image.Err = readManifest(e.fs, image.Dir); image.Err != nil {
		return nil, nil, image.Err
	}
	return e.restore(image, fresh)
}

func (e *Engine) restore(image Image, fresh func() *kv.Machine) (*kv.Machine, *Manifest, error) {
	manifest, err := image.Manifest, image.Err
	if err == nil {
		err = manifest.Of(e.options.Cluster, e.options.Group)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, f := range manifest.Files {
		if err := verifyFile(e.fs, image.Dir, f); err != nil {
			return nil, nil, err
		}
	}
	e.last, e.amiss = nil, true
	if err := e.store.openFrom(manifest); err != nil {
		return nil, nil, err
	}
	m := fresh()
	loader := kv.LoadImage
	if e.options.Cold {
		loader = func(m *kv.Machine) *kv.ImageLoader { return kv.LoadCold(m, e.options.Warm) }
	}
	err = loadRows(e.store.db, manifest, m, loader)
	var cold *coldRows
	if err == nil && e.options.Cold {
		cold, err = e.pin(manifest)
	}
	if err != nil {
		err = fmt.Errorf("load image %s: %w", image.Dir, err)
		return nil, nil, errors.Join(err, e.store.close())
	}
	if cold != nil {
		e.exchange(m, cold)
	}
	e.last, e.amiss = manifest, false
	if e.options.Apart != nil { // images are written upon the files
		e.store.discard()
	}
	return m, manifest, nil
}

// loadRows fills a machine from a store that holds what a manifest says. Rows are read and hashed by a goroutine of their own.
func loadRows(db *pebble.DB, manifest *Manifest, m *kv.Machine, load func(*kv.Machine) *kv.ImageLoader) error {
	digest, rows := Digest{}, int64(0)
	loader := load(m)
	err := readAhead(db, func(b *rowBatch) error {
		digest.add(b.digest)
		rows += int64(b.rows())
		for i := range b.rows() {
			if err := loader.Row(b.row(i)); err != nil {
				return fmt.Errorf("%w: %v", ErrDamaged, err)
			}
		}
		return nil
	})
	if err == nil {
		err = manifest.sameRows(digest, rows)
	}
	if err == nil {
		if err = loader.End(); err != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, err)
		}
	}
	if err == nil && m.Applied() != manifest.LSN {
		err = fmt.Errorf("%w: its state is at LSN %d", ErrDamaged, m.Applied())
	}
	return err
}

// Load fills a new machine from an image, which is only read: for tools. It verifies files and digest, as Verify does; pass the
// manifest's cluster and group to Of first where they matter.
func Load(dir string, m *kv.Machine) (*Manifest, error) {
	manifest, err := Verify(dir)
	if err != nil {
		return nil, err
	}
	s := newStore(Options{FS: vfs.Default, Logger: discard()}, liveName)
	db, err := pebble.Open(dir, s.storeOptions(newBreakage(), true))
	if err != nil {
		return nil, fmt.Errorf("load image %s: %w: %v", dir, ErrDamaged, err)
	}
	err = loadRows(db, manifest, m, kv.LoadImage)
	if err = errors.Join(err, db.Close()); err != nil {
		return nil, fmt.Errorf("load image %s: %w", dir, err)
	}
	return manifest, nil
}

package checkpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstep/internal/kv"
)

// ErrCold: what an image needs of the values that are not in memory cannot be read. The machine of which they are is of no use any more.
var ErrCold = errors.New("values that are not in memory cannot be read back")

// coldRows are the rows of an image that is kept open, in a directory of its own: kv.ColdRows. Its files are links, so that images come and go
// beside it.
type coldRows struct {
	db  *pebble.DB
	dir string
}

// Row implements kv.ColdRows. pebble compares the checksum of what it reads from the disk.
func (c *coldRows) Row(key []byte, visit func(value []byte) error) error {
	value, closer, err := c.db.Get(key)
	if err != nil {
		return fmt.Errorf("read row %x of %s: %w", key, c.dir, err)
	}
	return errors.Join(visit(value), closer.Close())
}

// Rows implements kv.ColdRows.
func (c *coldRows) Rows(from, end []byte, visit func(key, value []byte) error) error {
	if err := eachRow(c.db, from, end, visit); err != nil {
		return fmt.Errorf("read rows %x to %x of %s: %w", from, end, c.dir, err)
	}
	return nil
}

// pin opens an image for cold values.
func (e *Engine) pin(m *Manifest) (*coldRows, error) {
	e.pins++
	dir := e.fs.PathJoin(e.options.Dir, fmt.Sprintf("%s%d", coldName, e.pins))
	if err := e.linkFiles(m, dir); err != nil {
		_ = e.fs.RemoveAll(dir)
		return nil, fmt.Errorf("keep image %s for cold values: %w", Name(m.LSN), err)
	}
	db, err := pebble.Open(dir, e.storeOptions(newBreakage(), true))
	if err != nil {
		_ = e.fs.RemoveAll(dir)
		return nil, fmt.Errorf("keep image %s for cold values: %w", Name(m.LSN), err)
	}
	return &coldRows{db, dir}, nil
}

// linkFiles makes a directory with the files of an image.
func (e *Engine) linkFiles(m *Manifest, to string) error {
	if err := e.fs.RemoveAll(to); err != nil {
		return fmt.Errorf("remove %s: %w", to, err)
	}
	if err := e.fs.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", to, err)
	}
	dir := e.fs.PathJoin(e.images, Name(m.LSN))
	for _, f := range m.Files {
		copied := func(fs vfs.FS, from, to string) error { return vfs.Copy(fs, from, to) }
		if sameForGood(f.Name) {
			copied = func(fs vfs.FS, from, to string) error { return vfs.LinkOrCopy(fs, from, to) }
		}
		if err := copied(e.fs, e.fs.PathJoin(dir, f.Name), e.fs.PathJoin(to, f.Name)); err != nil {
			return fmt.Errorf("copy %s to %s: %w", f.Name, to, err)
		}
	}
	return nil
}

// exchange makes rows those from which the machine reads cold values. The ones before are closed by ReleaseCold, when no machine uses them.
func (e *Engine) exchange(m *kv.Machine, rows *coldRows) {
	m.Pin(rows)
	if e.cold != nil {
		e.former = append(e.former, e.cold)
	}
	e.cold = rows
}

// ReleaseCold closes the images that a machine read cold values from which has another one by now, or is not used any more.
func (e *Engine) ReleaseCold() {
	for _, rows := range e.former {
		if err := errors.Join(rows.db.Close(), e.fs.RemoveAll(rows.dir)); err != nil {
			e.options.Logger.Warn("an image that was kept for cold values remains", "dir", rows.dir, "error", err.Error())
		}
	}
	e.former = nil
}

// applyFront brings the row of a key into the store whose value is cold, with its large object if the store does not have it.
func (e *Engine) applyFront(key, front []byte, full bool) error {
	if e.cold == nil {
		return fmt.Errorf("%w: no image was kept for them", ErrCold)
	}
	var row []byte
	err := e.cold.Row(key, func(held []byte) (err error) {
		row, err = kv.JoinRow(nil, front, held)
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCold, err)
	}
	if err := e.apply(kv.RowPut, key, row, full); err != nil || !full {
		return err
	}
	object, large := kv.RowObject(key, row)
	if !large {
		return nil
	}
	var failed error // of the store, not of the cold rows
	from, end := kv.ObjectRows(object)
	err = e.cold.Rows(from, end, func(key, value []byte) error {
		if failed = e.apply(kv.RowPut, key, value, full); failed == nil {
			failed = e.commit(context.Background(), false)
		}
		return failed
	})
	if err != nil && failed == nil {
		err = fmt.Errorf("%w: %w", ErrCold, err)
	}
	return err
}

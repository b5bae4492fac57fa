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
	db    *pebble.DB
	dir   string
	files []File
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
	cold, err := e.store.openCold(e.fs.PathJoin(e.images, Name(m.LSN)), dir, m.Files)
	if err != nil {
		return nil, fmt.Errorf("keep image %s for cold values: %w", Name(m.LSN), err)
	}
	return cold, nil
}

// openCold opens the files of an image, which are in one directory, in another one.
func (s *store) openCold(from, dir string, files []File) (*coldRows, error) {
	err := s.linkFiles(files, from, dir)
	var db *pebble.DB
	if err == nil {
		db, err = pebble.Open(dir, s.storeOptions(newBreakage(), true))
	}
	if err != nil {
		_ = s.fs.RemoveAll(dir)
		return nil, err
	}
	return &coldRows{db, dir, files}, nil
}

// closeCold closes what openCold opened, and removes its directory.
func (s *store) closeCold(c *coldRows) error {
	return errors.Join(c.db.Close(), s.fs.RemoveAll(c.dir))
}

// linkFiles makes a directory with files of an image, from one that has them.
func (s *store) linkFiles(files []File, from, to string) error {
	if err := s.fs.RemoveAll(to); err != nil {
		return fmt.Errorf("remove %s: %w", to, err)
	}
	if err := s.fs.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", to, err)
	}
	for _, f := range files {
		copied := func(fs vfs.FS, from, to string) error { return vfs.Copy(fs, from, to) }
		if sameForGood(f.Name) {
			copied = func(fs vfs.FS, from, to string) error { return vfs.LinkOrCopy(fs, from, to) }
		}
		if err := copied(s.fs, s.fs.PathJoin(from, f.Name), s.fs.PathJoin(to, f.Name)); err != nil {
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
		if err := e.store.closeCold(rows); err != nil {
			e.options.Logger.Warn("an image that was kept for cold values remains", "dir", rows.dir, "error", err.Error())
		}
	}
	e.former = nil
}

// applyFront brings the row of a key into the store whose value is cold, with its large object if the store does not have it.
func (s *store) applyFront(key, front []byte) error {
	if s.cold == nil {
		return fmt.Errorf("%w: no image was kept for them", ErrCold)
	}
	var row []byte
	err := s.cold.Row(key, func(held []byte) (err error) {
		row, err = kv.JoinRow(nil, front, held)
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCold, err)
	}
	if err := s.apply(kv.RowPut, key, row); err != nil || !s.full {
		return err
	}
	object, large := kv.RowObject(key, row)
	if !large {
		return nil
	}
	var failed error // of the store, not of the cold rows
	from, end := kv.ObjectRows(object)
	err = s.cold.Rows(from, end, func(key, value []byte) error {
		if failed = s.apply(kv.RowPut, key, value); failed == nil {
			failed = s.commit(context.Background(), false)
		}
		return failed
	})
	if err != nil && failed == nil {
		err = fmt.Errorf("%w: %w", ErrCold, err)
	}
	return err
}

package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Store keeps objects. Any goroutine calls it. Names are clean relative paths with slashes; errors of objects that are
// not there wrap fs.ErrNotExist.
type Store interface {
	// Put makes an object of what write writes, durably and at once; an object of that name is replaced. If write fails there is
	// none. The error of write is returned as it is.
	Put(ctx context.Context, name string, write func(io.Writer) error) error
	// Open reads an object from its beginning. The caller closes it.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// List returns the objects and folders directly below a folder, sorted by name; a folder's name ends in a slash. A
	// folder that is not there is empty.
	List(ctx context.Context, folder string) ([]Object, error)
	// Remove removes an object; one that is not there is no error.
	Remove(ctx context.Context, name string) error
	// Sweep removes what is left below a folder of objects that never came to be, because who wrote them died: of those last written at, or begun, before a
	// moment. It returns how many there were.
	Sweep(ctx context.Context, folder string, before time.Time) (swept int, err error)
	// String says where it is.
	String() string
}

// Object is one entry of a folder.
type Object struct {
	Name string // without the folder
	Size int64  // bytes; 0 of a folder
}

// Dir is a Store in a directory.
type Dir struct{ root string }

// tempPrefix begins the names of objects that are being written.
const tempPrefix = ".tmp-"

// OpenDir opens a directory that is there already: one that is made here by mistake would be an archive that nobody finds.
func OpenDir(root string) (*Dir, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", root, err)
	}
	info, err := os.Stat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("archive %s does not exist: make the directory, or mount what should be there", root)
	case err != nil:
		return nil, fmt.Errorf("archive: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("archive %s is no directory", root)
	}
	return &Dir{root: root}, nil
}

// String implements Store.
func (d *Dir) String() string { return d.root }

// path returns where an object is. Names come from this package; a wrong one must not leave the directory.
func (d *Dir) path(name string) (string, error) {
	if name != path.Clean(name) || !filepath.IsLocal(name) {
		return "", fmt.Errorf("archive %s: %q is no name of an object", d.root, name)
	}
	return filepath.Join(d.root, filepath.FromSlash(name)), nil
}

// Put implements Store.
func (d *Dir) Put(_ context.Context, name string, write func(io.Writer) error) error {
	target, err := d.path(name)
	if err != nil {
		return err
	}
	if _, err := os.Stat(d.root); err != nil {
		return fmt.Errorf("archive: %w", err) // unmounted, perhaps: nothing is to be made in its place
	}
	folder := filepath.Dir(target)
	if err := d.makeFolder(folder); err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	file, err := os.CreateTemp(folder, tempPrefix)
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	defer os.Remove(file.Name()) // gone when all went well
	if err := write(file); err != nil {
		return errors.Join(err, file.Close())
	}
	err = file.Chmod(0o640)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), target)
	}
	if err == nil {
		err = syncDir(folder)
	}
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return nil
}

// makeFolder makes a folder and those above it, durably.
func (d *Dir) makeFolder(folder string) error {
	if _, err := os.Stat(folder); err == nil || folder == d.root {
		return err
	}
	above := filepath.Dir(folder)
	if err := d.makeFolder(above); err != nil {
		return err
	}
	if err := os.Mkdir(folder, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(above)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Open implements Store.
func (d *Dir) Open(_ context.Context, name string) (io.ReadCloser, error) {
	target, err := d.path(name)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(target)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return file, nil
}

// List implements Store.
func (d *Dir) List(_ context.Context, folder string) ([]Object, error) {
	target, err := d.path(folder)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	var list []Object
	for _, entry := range entries {
		info, err := entry.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(entry.Name(), tempPrefix):
			continue
		case err != nil:
			return nil, fmt.Errorf("archive: %w", err)
		case entry.IsDir():
			list = append(list, Object{Name: entry.Name() + "/"})
		default:
			list = append(list, Object{Name: entry.Name(), Size: info.Size()})
		}
	}
	return list, nil
}

// Remove implements Store. Folders that it leaves empty go too.
func (d *Dir) Remove(_ context.Context, name string) error {
	target, err := d.path(name)
	if err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("archive: %w", err)
	}
	for folder := filepath.Dir(target); folder != d.root; folder = filepath.Dir(folder) {
		if os.Remove(folder) != nil { // not empty
			break
		}
	}
	return nil
}

// Sweep implements Store.
func (d *Dir) Sweep(_ context.Context, folder string, before time.Time) (swept int, err error) {
	root, err := d.path(folder)
	if err != nil {
		return 0, err
	}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !strings.HasPrefix(entry.Name(), tempPrefix) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || !info.ModTime().Before(before) {
			return nil // gone meanwhile, or being written
		}
		swept++
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		_ = os.Remove(filepath.Dir(path)) // if it is empty now
		return nil
	})
	if err != nil {
		return swept, fmt.Errorf("archive: %w", err)
	}
	return swept, nil
}

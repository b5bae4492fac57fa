package log

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"lockstep/internal/atonce"
	"lockstep/internal/filelock"
)

// OS is the file system of the operating system.
type OS struct{}

var _ FS = OS{}

// MkdirAll implements FS: every directory that it makes is synced into its parent.
func (o OS) MkdirAll(label Label, dir string) error {
	dir = filepath.Clean(dir)
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		// The process that made it may have died before it had synced the parent. One that we may not read was
		// not made by us.
		if err := o.SyncDir(label, filepath.Dir(dir)); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
		return nil
	case err == nil:
		return fmt.Errorf("%s: %s is not a directory", label, dir)
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s: %w", label, err)
	}
	parent := filepath.Dir(dir)
	if err := o.MkdirAll(label, parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s: %w", label, err)
	}
	return o.SyncDir(label, parent)
}

// List implements FS.
func (OS) List(label Label, dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	sort.Strings(names)
	return names, nil
}

// Create implements FS.
func (OS) Create(label Label, name string) (File, error) {
	return openOS(label, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
}

// Open implements FS.
func (OS) Open(label Label, name string) (File, error) { return openOS(label, name, unix.O_RDWR) }

// OpenRead implements FS.
func (OS) OpenRead(label Label, name string) (File, error) { return openOS(label, name, unix.O_RDONLY) }

// Rename implements FS.
func (OS) Rename(label Label, source, target string) error {
	if err := os.Rename(source, target); err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	return nil
}

// Remove implements FS.
func (OS) Remove(label Label, name string) error {
	if err := os.Remove(name); err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	return nil
}

// Release implements FS.
func (OS) Release(label Label, name string, at, size int64) {
	if f, err := openOS(label, name, unix.O_RDONLY); err == nil {
		_ = unix.Fadvise(f.(*osFile).fd, at, size, unix.FADV_DONTNEED)
		_ = f.Close()
	}
}

// SyncDir implements FS.
func (OS) SyncDir(label Label, dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	return nil
}

// Lock implements FS with flock.
func (OS) Lock(label Label, name string) (io.Closer, error) {
	lock, err := filelock.Take(name)
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return nil, fmt.Errorf("%s: %s is locked: another process uses this directory", label, name)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	return lock, nil
}

// osFile calls the system directly: an append and its sync allocate nothing.
type osFile struct {
	name string
	fd   int
}

func openOS(label Label, name string, flags int) (File, error) {
	for {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o600)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", label, &os.PathError{Op: "open", Path: name, Err: err})
		}
		return &osFile{name: name, fd: fd}, nil
	}
}

func (f *osFile) failed(label Label, err error) error {
	return fmt.Errorf("%s: %s: %w", label, f.name, err)
}

func (f *osFile) ReadAt(label Label, p []byte, at int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := f.readSome(p[done:], at+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, f.failed(label, err)
		case n == 0 && done == 0:
			return 0, io.EOF
		case n == 0:
			return done, io.ErrUnexpectedEOF
		}
		done += n
	}
	return done, nil
}

// readSome is pread. What is in memory, as the end of the log is, is read without a thought that it might take long.
func (f *osFile) readSome(p []byte, at int64) (int, error) {
	if n, err := atonce.ReadCached(f.fd, p, at); err == nil {
		return n, nil
	}
	return unix.Pread(f.fd, p, at)
}

func (f *osFile) WriteAt(label Label, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(f.fd, p, at)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return f.failed(label, err)
		case n == 0:
			return f.failed(label, io.ErrShortWrite)
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// WriteBlocks implements File.
func (f *osFile) WriteBlocks(label Label, p []byte, at int64) error {
	end := at + int64(len(p))
	parts := [2][]byte{p, zeros()[:roundUp(end)-end]}
	for at < end {
		n, err := unix.Pwritev(f.fd, parts[:], at)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return f.failed(label, err)
		case n == 0:
			return f.failed(label, io.ErrShortWrite)
		}
		parts[0], at = parts[0][min(n, len(parts[0])):], at+int64(n)
	}
	return nil
}

// WriteZeros implements File, with O_DIRECT where the file system has it.
func (f *osFile) WriteZeros(label Label, at, size int64) error {
	direct := f.setDirect(true) == nil
	if direct {
		defer f.setDirect(false) // were that to fail, the next write would
	}
	for end := at + size; at < end; {
		n, err := unix.Pwrite(f.fd, zeros()[:min(end-at, zeroPiece)], at)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EINVAL && direct: // blocks of the device are larger, or the file system only seemed to have it
			if err := f.setDirect(false); err != nil {
				return f.failed(label, err)
			}
			direct = false
			continue
		case err != nil:
			return f.failed(label, err)
		case n == 0:
			return f.failed(label, io.ErrShortWrite)
		}
		f.WriteBack(label, at, int64(n)) // some file systems take them into memory without a word
		at += int64(n)
	}
	return nil
}

// zeros are zeroPiece bytes that begin a page, as writes past the page cache need them. They take no memory, and nobody writes to them.
var zeros = sync.OnceValue(func() []byte {
	b, err := unix.Mmap(-1, 0, zeroPiece, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return make([]byte, zeroPiece) // where these begin elsewhere they go by way of the page cache
	}
	return b
})

// setDirect says whether writes go past the page cache.
func (f *osFile) setDirect(on bool) error {
	flags := 0 // of those that can be set, a log file has no other
	if on {
		flags = unix.O_DIRECT
	}
	_, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags)
	return err
}

func (f *osFile) Allocate(label Label, size int64) error {
	for {
		err := unix.Fallocate(f.fd, 0, 0, size)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EOPNOTSUPP || err == unix.ENOSYS:
			// The caller writes zeros over all of it anyway, which reserves the space on such a system.
			err = unix.Ftruncate(f.fd, size)
		}
		if err != nil {
			return f.failed(label, err)
		}
		return nil
	}
}

func (f *osFile) Size(label Label) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, f.failed(label, err)
	}
	return st.Size, nil
}

func (f *osFile) Sync(label Label) error {
	for {
		err := unix.Fdatasync(f.fd)
		if err == unix.EINTR { // interrupted before it began: nothing was reported lost
			continue
		}
		if err != nil {
			return f.failed(label, err)
		}
		return nil
	}
}

func (f *osFile) WriteBack(_ Label, at, size int64) {
	_ = unix.SyncFileRange(f.fd, at, size, unix.SYNC_FILE_RANGE_WRITE) // fdatasync tells of every error of writing, told here or not
}

func (f *osFile) DropCache(label Label) error {
	if err := unix.Fadvise(f.fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		return f.failed(label, err)
	}
	return nil
}

func (f *osFile) Removed(label Label) (bool, error) {
	names, err := atonce.Links(f.fd)
	if err != nil {
		return false, f.failed(label, err)
	}
	return names == 0, nil
}

func (f *osFile) Close() error { return unix.Close(f.fd) }

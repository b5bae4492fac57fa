package backup

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"lockstep/log"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// filling is a disk that has no room from a call on: none that needs room succeeds any more.
type filling struct {
	left  atomic.Int64 // calls that find room
	calls atomic.Int64
}

func (f *filling) take() error {
	f.calls.Add(1)
	if f.left.Add(-1) < 0 {
		return syscall.ENOSPC
	}
	return nil
}

// disk returns the disk as a restore uses it.
func (f *filling) disk() *disk {
	return &disk{
		FS: fullFS{log.OS{}, f},
		images: errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
			switch op.Kind {
			case errorfs.OpFileWrite, errorfs.OpCreate, errorfs.OpFileWriteAt, errorfs.OpMkdirAll:
				return f.take()
			}
			return nil
		})),
		create: func(name string) (io.WriteCloser, error) {
			file, err := os.Create(name)
			return fullWriter{file, f}, err
		},
	}
}

type fullWriter struct {
	io.WriteCloser
	f *filling
}

func (w fullWriter) Write(p []byte) (int, error) {
	if err := w.f.take(); err != nil {
		return 0, err
	}
	return w.WriteCloser.Write(p)
}

type fullFS struct {
	log.FS
	f *filling
}

func (x fullFS) MkdirAll(label log.Label, dir string) error {
	if err := x.f.take(); err != nil {
		return err
	}
	return x.FS.MkdirAll(label, dir)
}

func (x fullFS) Create(label log.Label, name string) (log.File, error) {
	if err := x.f.take(); err != nil {
		return nil, err
	}
	file, err := x.FS.Create(label, name)
	return fullFile{file, x.f}, err
}

type fullFile struct {
	log.File
	f *filling
}

func (x fullFile) WriteAt(label log.Label, p []byte, at int64) error {
	if err := x.f.take(); err != nil {
		return err
	}
	return x.File.WriteAt(label, p, at)
}

func (x fullFile) WriteBlocks(label log.Label, p []byte, at int64) error {
	if err := x.f.take(); err != nil {
		return err
	}
	return x.File.WriteBlocks(label, p, at)
}

func (x fullFile) WriteZeros(label log.Label, at, size int64) error {
	if err := x.f.take(); err != nil {
		return err
	}
	return x.File.WriteZeros(label, at, size)
}

func (x fullFile) Allocate(label log.Label, size int64) error {
	if err := x.f.take(); err != nil {
		return err
	}
	return x.File.Allocate(label, size)
}

// What could go wrong: the disk becomes full while a cluster is restored, and what is there looks like one, starts, or is in the way of the next
// attempt. The disk becomes full at every call that needs room, one after the other; then there is room, and the same is asked for again.
func TestFullDiskLeavesNoHalfRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 20 {
		w.run("set key" + string(rune('a'+i)) + " " + strings.Repeat("v", 200))
	}
	w.backup()
	w.run("rpush list a b c")
	w.flush()
	count := &filling{}
	count.left.Store(1 << 40)
	into := filepath.Join(w.dir, "into")
	order := func(r *Restore) { r.Into, r.disk = into, count.disk() }
	if _, _, err := restoreTo(t, w, Target{}, order); err != nil {
		t.Fatal(err)
	}
	calls := count.calls.Load()
	w.check(os.RemoveAll(into))
	refused := 0
	for room := range calls {
		f := &filling{}
		f.left.Store(room)
		// restoreTo sees to it that neither the target nor anything beside it is there behind the error.
		result, _, err := restoreTo(t, w, Target{}, func(r *Restore) { r.Into, r.disk = into, f.disk() })
		switch {
		case errors.Is(err, syscall.ENOSPC):
			refused++
			continue
		case err != nil:
			t.Fatalf("full behind %d of %d calls: %v", room, calls, err)
		}
		// What found no room was a file ahead of need, or there were fewer calls than the first time: all is there.
		if got := ask(t, load(t, into, "n2", result), "lindex list 2"); got != "c" {
			t.Fatalf("full behind %d of %d calls: the list ends with %q", room, calls, got)
		}
		w.check(os.RemoveAll(into))
	}
	if refused < 30 {
		t.Errorf("%d of %d restores were refused: the disk is not the one that is written to", refused, calls)
	}
	result, _, err := restoreTo(t, w, Target{}, func(r *Restore) { r.Into = into })
	if err != nil {
		t.Fatalf("again, with room: %v", err)
	}
	if got := ask(t, load(t, into, "n2", result), "lindex list 2"); got != "c" {
		t.Errorf("again, with room: the list ends with %q", got)
	}
}

package log_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
)

// What could go wrong: a full device makes the log unusable, or bytes of the refused append stay. The device is full at
// every possible level; the log takes what fits, refuses the rest, rewinds, syncs and trims, goes on when there is room,
// and nothing is lost.
func TestFullDeviceRefusesAppendsAndNothingElse(t *testing.T) {
	each(t, 60, func(n int) error { return fullDevice(1, n*1711) })
}

// What could go wrong: so many elections that a file's History outgrows its first block, and the room for it is asked for when the
// file is begun, where a full device is for good (seen in chaos, behind 256 fail-overs).
func TestFullDeviceBehindManyElections(t *testing.T) {
	each(t, 20, func(n int) error { return fullDevice(300, n*5133) })
}

// fullDevice writes so many epochs, then lets the device have room for that many bytes more.
func fullDevice(epochs, room int) error {
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	if err != nil {
		return err
	}
	w := &twin{}
	for range epochs {
		if err := l.Append(w.epoch()); err != nil {
			return err
		}
	}
	if err := fs.Remove(log.LabelFreeReserve, options(fs).Dir+"/reserve"); err != nil { // an earlier shortage has taken it
		return err
	}
	fs.SetCapacity(fs.Used() + int64(room))
	refused := 0
	for i := range 40 {
		before := w.clone()
		frame := append([]byte(nil), w.frame(i*397%9000)...)
		if err := l.Append(frame); err != nil {
			if !errors.Is(err, log.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
				return err
			}
			refused++
			w = before
		}
		if l.Err() != nil || l.End() != w.end() {
			return errors.New("an append that was refused changed the log")
		}
		if err := l.Sync(); err != nil {
			return err
		}
	}
	if refused == 0 && room < 40*1711 {
		return errors.New("the device was never full")
	}
	if err := w.check(fs, l); err != nil {
		return err
	}
	if err := l.TrimTo(l.Durable()); err != nil {
		return err
	}
	to := w.last().LSN
	if to >= l.Start() && to > 0 {
		if err := l.Rewind(to); err != nil {
			return err
		}
		w.rewindTo(to)
	}
	fs.SetCapacity(0)
	if err := l.Append(w.frame(9000)); err != nil {
		return err
	}
	if err := w.check(fs, l); err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	if l, _, err = log.Open(options(fs)); err != nil {
		return err
	}
	return w.check(fs, l)
}

// What could go wrong: a damaged log on a full device cannot be moved away, and the replica does not come back. The
// reserve gives way to the report.
func TestFullDeviceDoesNotKeepDamageFromQuarantine(t *testing.T) {
	base := finished(t)
	must(t, base.fs.FlipBit(logFiles(base.fs)[0], 100, 1))
	base.fs.SetCapacity(base.fs.Used())
	_, report, err := log.Open(options(base.fs))
	must(t, err)
	if report.Damage == nil || len(logFiles(base.fs)) != 0 {
		t.Fatalf("%+v", report)
	}
}

// What could go wrong: the helper goroutine finds the device full and nobody asks again.
func TestHelperThatFoundTheDeviceFullIsAskedAgain(t *testing.T) {
	fs := simfs.New()
	o := options(fs)
	o.Synchronous = false
	fs.SetCapacity(192 << 10)
	l, _, err := log.Open(o)
	must(t, err)
	w := &twin{}
	must(t, l.Append(w.epoch()))
	var full error
	for full == nil {
		before := w.clone()
		if full = l.Append(append([]byte(nil), w.frame(3000)...)); full != nil {
			w = before
		}
	}
	if !errors.Is(full, log.ErrFull) {
		t.Fatal(full)
	}
	fs.SetCapacity(0)
	for range 10 {
		must(t, l.Append(w.frame(3000)))
	}
	must(t, w.check(fs, l))
	must(t, l.Close())
	for _, name := range fs.Files() {
		if bytes.Contains([]byte(name), []byte("spare-")) {
			t.Errorf("%s stays after Close", name)
		}
	}
}

// What could go wrong: a long History does not fit into the file that was prepared.
func TestLongHistoryFitsIntoTheNextFile(t *testing.T) {
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	must(t, err)
	w := &twin{}
	for range 600 {
		must(t, l.Append(w.epoch()))
	}
	must(t, w.check(fs, l))
	must(t, l.Close())
	l, report, err := log.Open(options(fs))
	must(t, err)
	if report.Damage != nil {
		t.Fatal(report.Damage)
	}
	must(t, w.check(fs, l))
	to := w.frames[300].LSN
	must(t, l.Rewind(to))
	w.rewindTo(to)
	for range 100 {
		must(t, l.Append(w.frame(100)))
	}
	must(t, w.check(fs, l))
	must(t, l.Close())
}

// What could go wrong: a relaxed sync mode calls bytes durable in the mark on the disk that never were, and recovery
// takes their loss for damage.
func TestRelaxedModesDoNotOverstateTheMark(t *testing.T) {
	for _, mode := range []smr.SyncMode{smr.SyncInterval, smr.SyncOS} {
		fs := simfs.New()
		o := options(fs)
		o.Sync = mode
		l, _, err := log.Open(o)
		must(t, err)
		w := &twin{}
		must(t, l.Append(w.epoch()))
		must(t, l.SyncNow())
		synced := l.End()
		for range 10 {
			must(t, l.Append(w.frame(200)))
			must(t, l.Sync())
			must(t, l.Settle())
			if l.Durable() != l.End() || l.Synced() != synced {
				t.Fatalf("%v: Durable %d Synced %d End %d", mode, l.Durable(), l.Synced(), l.End())
			}
		}
		l, report, err := log.Open(optionsOf(fs.Crashed(simfs.Image{}), mode))
		must(t, err)
		if report.Damage != nil || l.End() < synced {
			t.Fatalf("%v: %+v", mode, report)
		}
	}
}

// What could go wrong: a file whose bytes nobody syncs is written to the device all at once when it is sealed, with everybody waiting; or what a
// sync is about to write anyway is asked for twice.
func TestRelaxedModesWriteBackAsTheyGo(t *testing.T) {
	for _, mode := range []smr.SyncMode{smr.SyncAlways, smr.SyncInterval, smr.SyncOS} {
		fs := watched()
		o := optionsOf(fs, mode)
		o.FileSize = 8 << 20
		l, _, err := log.Open(o)
		must(t, err)
		w := &twin{}
		must(t, l.Append(w.epoch()))
		for l.End() < 20<<20 {
			must(t, l.Append(w.frame(150<<10)))
			must(t, l.Sync())
		}
		must(t, l.Close())
		switch total := fs.total(); {
		case mode == smr.SyncAlways && total > 0:
			t.Errorf("%v: %d bytes are written back beside the syncs", mode, total)
		case mode != smr.SyncAlways && total < 16<<20:
			t.Errorf("%v: %d bytes of %d are written back", mode, total, l.End())
		}
		if fs.fault != "" {
			t.Errorf("%v: %s", mode, fs.fault)
		}
	}
}

// What could go wrong: the next file is zeroed all at once, and the log's syncs wait for that; or it is not ready when it is needed; or Close waits
// until it is.
func TestNextFileIsMadeInStep(t *testing.T) {
	fs := watched()
	o := options(fs)
	o.FileSize, o.Synchronous = 16<<20, false
	l, _, err := log.Open(o)
	must(t, err)
	w := &twin{}
	must(t, l.Append(w.epoch())) // into the first, which was made at once
	first := fs.zeroed.Load()
	if first < o.FileSize {
		t.Fatalf("%d bytes of the first file were zeroed", first)
	}
	for l.End() < 4<<20 {
		must(t, l.Append(w.frame(100<<10)))
		if ahead := fs.zeroed.Load() - first; ahead > 2*int64(l.End())+1<<20 {
			t.Fatalf("%d bytes of the next file are zeroed, %d appended", ahead, l.End())
		}
	}
	for deadline := time.Now().Add(time.Minute); fs.zeroed.Load()-first < 7<<20; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes of the next file are zeroed, %d appended", fs.zeroed.Load()-first, l.End())
		}
	}
	for l.End() < 40<<20 {
		must(t, l.Append(w.frame(100<<10)))
	}
	must(t, l.Sync())
	must(t, w.check(fs, l))
	before := fs.zeroed.Load()
	must(t, l.Close())
	if done := fs.zeroed.Load() - before; done > 4<<20 {
		t.Errorf("Close had %d bytes zeroed", done)
	}
	l, report, err := log.Open(o)
	must(t, err)
	if report.Damage != nil {
		t.Fatal(report.Damage)
	}
	must(t, w.check(fs, l))
	must(t, l.Close())
}

// What could go wrong: the log fills the memory of the machine with what nobody reads any more; or what was just written is released, and read from the device
// again.
func TestMemoryHoldsAsMuchAsOneFile(t *testing.T) {
	for _, mode := range []smr.SyncMode{smr.SyncAlways, smr.SyncOS} {
		const size = 8 << 20
		fs := watched()
		o := optionsOf(fs, mode)
		o.FileSize = size
		l, _, err := log.Open(o)
		must(t, err)
		w := &twin{}
		must(t, l.Append(w.epoch()))
		for l.End() < 5*size+3<<20 {
			must(t, l.Append(w.frame(150<<10)))
			must(t, l.Sync())
			if ahead := fs.released - max(0, int64(l.End())-size); ahead < -1300<<10 || ahead > 0 {
				t.Fatalf("%v: %d bytes are appended, and released up to %d", mode, l.End(), fs.released)
			}
		}
		to := w.frames[len(w.frames)*7/10].LSN // a file and more goes
		must(t, l.Rewind(to))
		w.rewindTo(to)
		fs.released = 0
		for l.End() < 5*size+3<<20 {
			must(t, l.Append(w.frame(150<<10)))
		}
		to = w.frames[len(w.frames)-12].LSN // not as far as the file begins
		must(t, l.Rewind(to))
		w.rewindTo(to)
		for l.End() < 5*size+6<<20 {
			must(t, l.Append(w.frame(150<<10)))
			if ahead := fs.released - (int64(l.End()) - size); ahead < -1300<<10 || ahead > 2<<20 {
				t.Errorf("%v: %d bytes are appended behind a rewind to %d, and released up to %d", mode, l.End(), to, fs.released)
			}
		}
		must(t, l.Close())
		l, _, err = log.Open(o)
		must(t, err)
		fs.released = 0
		for range 10 { // by 4 MiB at a time it catches up
			must(t, l.Append(w.frame(100)))
		}
		if ahead := fs.released - (int64(l.End()) - size); ahead < -1300<<10 || ahead > 0 {
			t.Errorf("%v: %d bytes are there behind a start, and released up to %d", mode, l.End(), fs.released)
		}
		must(t, w.check(fs, l))
		must(t, l.Close())
		if fs.fault != "" {
			t.Errorf("%v: %s", mode, fs.fault)
		}
	}
}

// What could go wrong: writes of whole blocks, of zeros past the page cache, or behind those, leave other bytes on a real device than on a simulated one; zeros take
// memory all the same, and what is released stays there.
func TestRealFilesHoldWhatWasWritten(t *testing.T) {
	const size = 1 << 20
	name := filepath.Join(t.TempDir(), "file")
	disk, err := log.OS{}.Create("", name)
	must(t, err)
	defer disk.Close()
	sim, err := simfs.New().Create("", "/file")
	must(t, err)
	must(t, disk.Allocate("", size))
	must(t, sim.Allocate("", size))
	draw := rand.New(rand.NewPCG(1, 2))
	got, want := make([]byte, size), make([]byte, size)
	for round := range 5 {
		for _, f := range []log.File{disk, sim} {
			must(t, f.WriteZeros("", 0, 300<<10))
			must(t, f.WriteZeros("", 300<<10, size-300<<10))
			must(t, f.Sync(""))
		}
		if round == 0 {
			for _, at := range inMemory(t, name, 0, size/2, size-1) {
				t.Errorf("the byte at %d is in memory though nobody has read it", at)
			}
		}
		for at := 0; at < size; {
			p := make([]byte, min(1+draw.IntN(30_000), size-at))
			for i := range p {
				p[i] = byte(1 + draw.IntN(255))
			}
			for _, f := range []log.File{disk, sim} {
				must(t, f.WriteBlocks("", p, int64(at)))
			}
			if at += len(p); draw.IntN(10) == 0 {
				must(t, disk.Sync(""))
				left := []int64{0}
				for tries := 0; len(left) > 0; tries++ { // the kernel leaves what it has on a list of its own at that moment
					if tries > 2000 {
						t.Fatalf("the bytes at %d stay in memory", left)
					}
					time.Sleep(time.Duration(min(tries, 1)) * time.Millisecond)
					log.OS{}.Release("", name, 0, 0)
					left = inMemory(t, name, 0, int64(at-1))
				}
			}
			_, err := disk.ReadAt("", got, 0)
			must(t, err)
			_, err = sim.ReadAt("", want, 0)
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Fatalf("round %d: the files differ when %d bytes are written", round, at)
			}
		}
		if length, err := disk.Size(""); err != nil || length != size {
			t.Fatalf("%d bytes long: %v", length, err)
		}
	}
	must(t, disk.WriteBlocks("", []byte("begin"), 0)) // over what stands there, which the log never does: so that the zeros are seen
	must(t, disk.WriteZeros("", 8192+1, 4096))        // no device takes this past the page cache
	_, err = disk.ReadAt("", got[:16384], 0)
	must(t, err)
	for i, b := range got[5:16384] {
		if at := 5 + i; (b == 0) != (at < 4096 || at > 8192 && at <= 8192+4096) {
			t.Fatalf("%d stands at %d", b, at)
		}
	}
	log.OS{}.Release("", name+" that is not there", 0, 0)
}

// inMemory returns which bytes of a file are in memory. It reads none: that would begin to read ahead. Only file systems that are known to do as they are told are asked.
func inMemory(t *testing.T, name string, at ...int64) (are []int64) {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	var kind unix.Statfs_t
	must(t, unix.Fstatfs(int(f.Fd()), &kind))
	if kind.Type != unix.EXT4_SUPER_MAGIC && kind.Type != unix.XFS_SUPER_MAGIC {
		return nil
	}
	for _, at := range at {
		page := at &^ int64(os.Getpagesize()-1)
		mapped, err := unix.Mmap(int(f.Fd()), page, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
		must(t, err)
		var state [1]byte
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&state[0])))
		must(t, unix.Munmap(mapped))
		if errno != 0 {
			t.Fatal(errno)
		}
		if state[0]&1 != 0 {
			are = append(are, at)
		}
	}
	return are
}

// watchedFS notes how far what was appended to each file was written back, and counts the zeros that are written into spare files.
type watchedFS struct {
	log.FS
	back   map[string]int64
	fault  string
	zeroed atomic.Int64
	// released is up to where the stream need not be in memory; what is released must follow.
	released int64
}

// Release implements log.FS.
func (fs *watchedFS) Release(label log.Label, name string, at, size int64) {
	base, err := strconv.ParseInt(filepath.Base(name), 10, 64)
	if from := base + at; err != nil || from < fs.released && size > 0 || from > fs.released && fs.released > 0 {
		fs.fault = fmt.Sprintf("%d bytes at %d of %s are released, and those up to %d were: %v", size, at, name, fs.released, err)
	}
	if fs.released = base + at + size; size == 0 {
		fs.released = base + 8<<20
	}
	fs.FS.Release(label, name, at, size)
}

func watched() *watchedFS { return &watchedFS{FS: simfs.New(), back: make(map[string]int64)} }

func (fs *watchedFS) total() (bytes int64) {
	for _, n := range fs.back {
		bytes += n
	}
	return bytes
}

// Create implements log.FS.
func (fs *watchedFS) Create(label log.Label, name string) (log.File, error) {
	file, err := fs.FS.Create(label, name)
	return &watchedFile{file, fs, name}, err
}

type watchedFile struct {
	log.File
	fs   *watchedFS
	name string
}

// WriteBack implements log.File.
func (f *watchedFile) WriteBack(label log.Label, at, size int64) {
	if label == log.LabelWriteBack {
		if at != f.fs.back[f.name] || size < 256<<10 || size > 512<<10 {
			f.fs.fault = fmt.Sprintf("%s is written back up to %d, then %d bytes from %d", f.name, f.fs.back[f.name], size, at)
		}
		f.fs.back[f.name] = at + size
	}
	f.File.WriteBack(label, at, size)
}

// WriteZeros implements log.File.
func (f *watchedFile) WriteZeros(label log.Label, at, size int64) error {
	f.fs.zeroed.Add(size)
	return f.File.WriteZeros(label, at, size)
}

func optionsOf(fs log.FS, mode smr.SyncMode) log.Options {
	o := options(fs)
	o.Sync = mode
	return o
}

package log_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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

// watchedFS notes how far what was appended to each file was written back, and counts the zeros that are written into spare files.
type watchedFS struct {
	log.FS
	back   map[string]int64
	fault  string
	zeroed atomic.Int64
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

// WriteAt implements log.File.
func (f *watchedFile) WriteAt(label log.Label, p []byte, at int64) error {
	if label == log.LabelSpareZero {
		f.fs.zeroed.Add(int64(len(p)))
	}
	return f.File.WriteAt(label, p, at)
}

func optionsOf(fs log.FS, mode smr.SyncMode) log.Options {
	o := options(fs)
	o.Sync = mode
	return o
}

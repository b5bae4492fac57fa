package simfs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"lockstep/log/simfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What could go wrong: the simulated disk is kinder than a real one. What was synced stays, what was not may be lost, kept
// or torn at sectors, and every such outcome does come up.
func TestCrashLeavesAnyPartOfWhatWasNotSynced(t *testing.T) {
	f := simfs.New()
	must(t, f.MkdirAll("", "/d"))
	h, err := f.Create("", "/d/a")
	must(t, err)
	must(t, h.WriteAt("", bytes.Repeat([]byte{1}, 2048), 0))
	must(t, h.Sync(""))
	must(t, f.SyncDir("", "/d"))
	must(t, h.WriteAt("", bytes.Repeat([]byte{2}, 1024), 512))
	must(t, h.WriteAt("", bytes.Repeat([]byte{3}, 100), 1024))

	read := func(image simfs.Image) string {
		b, err := f.Crashed(image).ReadFile("/d/a")
		must(t, err)
		if len(b) != 2048 || b[0] != 1 || b[2047] != 1 {
			t.Fatalf("%v: synced bytes changed", image)
		}
		for at := 0; at < 2048; at += simfs.SectorSize {
			for _, c := range b[at+100 : at+simfs.SectorSize] {
				if c != b[at+100] {
					t.Fatalf("%v: the sector at %d is torn", image, at)
				}
			}
		}
		return string([]byte{b[512], b[1024], b[1200]})
	}
	if got := read(simfs.Image{}); got != "\x01\x01\x01" {
		t.Errorf("lost: %q", got)
	}
	if got := read(simfs.Image{Pages: simfs.Kept}); got != "\x02\x03\x02" {
		t.Errorf("kept: %q", got)
	}
	seen := map[string]bool{}
	for seed := range uint64(200) {
		got := read(simfs.Image{Pages: simfs.Torn, Seed: seed})
		if got != read(simfs.Image{Pages: simfs.Torn, Seed: seed}) {
			t.Fatal("one seed, two outcomes")
		}
		seen[got] = true
	}
	if len(seen) != 6 { // first sector: old, new; second: old, first write, both
		t.Errorf("%d outcomes of 6: %v", len(seen), seen)
	}
}

// What could go wrong: names are durable without a sync of their directory, or a rename is torn.
func TestNamesAreDurableOnlyAfterSyncDir(t *testing.T) {
	f := simfs.New()
	must(t, f.MkdirAll("", "/d"))
	h, err := f.Create("", "/d/a")
	must(t, err)
	must(t, h.WriteAt("", []byte("x"), 0))
	must(t, h.Sync(""))
	if _, err := f.Crashed(simfs.Image{}).ReadFile("/d/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("created and not synced: %v", err)
	}
	must(t, f.SyncDir("", "/d"))
	must(t, f.Rename("", "/d/a", "/d/b"))
	for seed := range uint64(20) {
		after := f.Crashed(simfs.Image{Names: simfs.Torn, Seed: seed})
		_, errA := after.ReadFile("/d/a")
		_, errB := after.ReadFile("/d/b")
		if (errA == nil) == (errB == nil) {
			t.Fatalf("seed %d: %v, %v", seed, errA, errB)
		}
	}
	must(t, f.SyncDir("", "/d"))
	if _, err := f.Crashed(simfs.Image{}).ReadFile("/d/b"); err != nil {
		t.Error(err)
	}
}

// What could go wrong: a failed sync is harmless. The bytes stay in memory and never reach the disk, and a second sync
// says nothing of it.
func TestFailedSyncForgetsBytes(t *testing.T) {
	f := simfs.New()
	h, err := f.Create("", "/a")
	must(t, err)
	must(t, f.SyncDir("", "/"))
	must(t, h.WriteAt("", []byte("one"), 0))
	f.SetHook(func(c simfs.Call) simfs.Verdict {
		if c.Op == "sync" {
			return simfs.Verdict{Err: syscall.EIO}
		}
		return simfs.Verdict{}
	})
	if err := h.Sync("test"); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	f.SetHook(nil)
	must(t, h.Sync(""))
	if b, _ := f.ReadFile("/a"); string(b) != "one" {
		t.Errorf("in memory: %q", b)
	}
	if b, _ := f.Crashed(simfs.Image{Names: simfs.Kept}).ReadFile("/a"); len(b) != 0 {
		t.Errorf("on the disk: %q", b)
	}
	must(t, h.DropCache(""))
	if b, _ := f.ReadFile("/a"); string(b) != "\x00\x00\x00" {
		t.Errorf("after the cache was dropped: %q", b)
	}
}

// What could go wrong: a flipped bit makes bytes durable that a failed sync had lost.
func TestFlipDoesNotBringBackLostBytes(t *testing.T) {
	f := simfs.New()
	h, err := f.Create("", "/a")
	must(t, err)
	must(t, f.SyncDir("", "/"))
	must(t, h.WriteAt("", []byte("one"), 0))
	must(t, h.Sync(""))
	must(t, h.WriteAt("", []byte("two"), 0))
	f.SetHook(func(c simfs.Call) simfs.Verdict {
		if c.Op == "sync" {
			return simfs.Verdict{Err: syscall.EIO}
		}
		return simfs.Verdict{}
	})
	if err := h.Sync(""); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	f.SetHook(nil)
	must(t, f.FlipBit("/a", 0, 0))
	for _, at := range []*simfs.FS{f, f.Crashed(simfs.Image{})} {
		if b, err := at.ReadFile("/a"); err != nil || string(b) != "nne" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// What could go wrong: a copy shares bytes with its original.
func TestClonesAreApart(t *testing.T) {
	f := simfs.New()
	h, err := f.Create("", "/a")
	must(t, err)
	must(t, h.WriteAt("", []byte("one"), 0))
	must(t, h.Sync(""))
	c := f.Clone()
	d := f.Crashed(simfs.Image{Names: simfs.Kept})
	must(t, h.WriteAt("", []byte("two"), 0))
	must(t, h.Sync(""))
	must(t, d.FlipBit("/a", 0, 0))
	for want, fs := range map[string]*simfs.FS{"two": f, "one": c, "nne": d} {
		if b, err := fs.ReadFile("/a"); err != nil || string(b) != want {
			t.Errorf("%q instead of %q, %v", b, want, err)
		}
	}
}

// What could go wrong: after a crash the old process goes on; or the device takes more than it has.
func TestCrashedAndFullRefuse(t *testing.T) {
	f := simfs.New()
	f.SetCapacity(10)
	h, err := f.Create("", "/a")
	must(t, err)
	must(t, h.WriteAt("", make([]byte, 10), 0))
	must(t, h.WriteAt("", make([]byte, 5), 5))
	if err := h.WriteAt("", make([]byte, 5), 6); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	if err := h.Allocate("", 11); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	f.SetHook(func(c simfs.Call) simfs.Verdict { return simfs.Verdict{CrashAfter: c.Op == "write"} })
	if err := h.WriteAt("", []byte("end"), 0); !errors.Is(err, simfs.ErrCrashed) {
		t.Error(err)
	}
	if err := h.Sync(""); !errors.Is(err, simfs.ErrCrashed) {
		t.Error(err)
	}
	if b, _ := f.Clone().ReadFile("/a"); string(b[:3]) != "end" {
		t.Errorf("the call before the crash did not happen: %q", b)
	}
}

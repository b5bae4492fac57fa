package page

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lockstep/smr"
)

func create(t *testing.T) (*Writer, *Reader, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "page")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return w, r, path
}

const hour = int64(time.Hour / time.Microsecond)

// A lease must be seen while it holds, with the commit LSN that belongs to it, and not before, behind or without it.
func TestLeaseIsSeenWhileItHolds(t *testing.T) {
	w, r, _ := create(t)
	see := func(what string, until int64, want bool) {
		t.Helper()
		w.Show(until, 77)
		if lsn, ok := r.Lease(); ok != want || want && lsn != 77 {
			t.Fatalf("%s: lease %v at %d, want %v", what, ok, lsn, want)
		}
	}
	see("before the first tick", hour, false)
	now := Now()
	if now.Boot == 0 {
		t.Fatal("this machine has no clock for leases")
	}
	w.Tick(now)
	see("an hour", now.Boot+hour, true)
	see("none", 0, false)
	see("an hour again", now.Boot+hour, true)
	see("over", now.Boot-1, false)
	see("less than the tolerance", now.Boot+int64(Tolerance/time.Microsecond), false)
	slept := now
	slept.Gap -= int64(10 * time.Millisecond) // what a reader finds after ten milliseconds of sleep
	w.Tick(slept)
	see("behind a suspension", now.Boot+hour, false)
	slept.Gap += int64(20 * time.Millisecond)
	w.Tick(slept)
	see("behind a step of the clock", now.Boot+hour, false)
	w.Tick(now)
	see("as before", now.Boot+hour, true)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Lease(); ok {
		t.Fatal("the lease outlives its writer")
	}
}

// A replicator that was started again must not disturb who has the page of its last life, nor be seen by it.
func TestNewLifeMakesNewPage(t *testing.T) {
	w, r, path := create(t)
	now := Now()
	w.Tick(now)
	w.Show(now.Boot+hour, 5)
	next, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if lsn, ok := r.Lease(); !ok || lsn != 5 {
		t.Fatalf("the old page holds %v at %d", ok, lsn)
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := again.Lease(); ok {
		t.Fatal("the new page begins with a lease")
	}
	for _, w := range []*Writer{w, next} {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever stands where the page should be is told apart.
func TestWhatIsNoPage(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string][]byte{"empty": nil, "short": make([]byte, Size-1), "zeros": make([]byte, Size)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, ErrBadPage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

// A reader must never see the lease of one change with the commit LSN of another. Odd LSNs are shown without a lease.
func TestChangesAreSeenWhole(t *testing.T) {
	w, r, _ := create(t)
	now := Now()
	w.Tick(now)
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for last := smr.LSN(0); ; {
				lsn, ok := r.Lease()
				if ok && (lsn%2 != 0 || lsn < last) {
					t.Errorf("a lease at %d after %d", lsn, last)
					return
				}
				if ok {
					last = lsn
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for lsn := smr.LSN(2); lsn < 200_000; lsn++ {
		until := now.Boot + hour
		if lsn%2 != 0 {
			until = 0
		}
		w.Show(until, lsn)
	}
	close(stop)
	readers.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkLease(b *testing.B) {
	path := filepath.Join(b.TempDir(), "page")
	w, err := Create(path)
	if err != nil {
		b.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		b.Fatal(err)
	}
	now := Now()
	w.Tick(now)
	w.Show(now.Boot+hour, 5)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := r.Lease(); !ok {
			b.Fatal("no lease")
		}
	}
}

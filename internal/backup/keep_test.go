package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lockstep/internal/archive"
	"lockstep/internal/checkpoint"
	"lockstep/smr"
)

// grown is a world with so many backups, each with some log before and behind it, all archived.
func grown(t *testing.T, backups int) (w *world, list []Backup) {
	t.Helper()
	w = newWorld(t)
	for i := range backups {
		w.run(fmt.Sprintf("set n %d", i))
		w.flush()
		list = append(list, w.backup())
		w.run(fmt.Sprintf("set m %d", i))
		w.flush()
	}
	return w, list
}

// good fails unless there is a backup and everything from the oldest one on can be restored.
func (w *world) good(ctx context.Context) []Backup {
	w.t.Helper()
	list, problems, err := w.archive.List(ctx)
	if err != nil || len(problems) > 0 || len(list) == 0 {
		w.t.Fatalf("%d backups, %v, %v", len(list), problems, err)
	}
	for _, b := range list {
		if v, err := w.archive.Verify(ctx, b.LSN); err != nil || v.Gap != nil || v.LogEnd != w.log.End() {
			w.t.Fatalf("backup of LSN %d: the log behind it reaches %d, gap %v; %v", b.LSN, v.LogEnd, v.Gap, err)
		}
	}
	return list
}

// What could go wrong: more or less goes than the bounds say, the last backup goes, or the log that one needs that stays.
func TestBoundsOfAnArchive(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w, list := grown(t, 5)
	now := time.UnixMilli(list[4].Stamp).Add(time.Hour)
	ranges, _, err := w.archive.Log().Stored(ctx)
	w.check(err)
	from := func(oldest int) (bytes int64) { return stored(list[oldest:], ranges) }
	for _, test := range []struct {
		name string
		keep Keep
		left int
	}{
		{"no bound", Keep{}, 5},
		{"images", Keep{Images: 2}, 2},
		{"fewer than none", Keep{Images: 1}, 1},
		{"more than there are", Keep{Images: 9}, 5},
		{"all is older: the newest one stays", Keep{Age: time.Second}, 1},
		{"a moment at an image needs that image", Keep{Age: now.Sub(time.UnixMilli(list[2].Stamp))}, 3},
		{"a moment before an image needs the one before", Keep{Age: now.Sub(time.UnixMilli(list[2].Stamp)) + time.Millisecond}, 4},
		{"a moment before the first image: nothing goes", Keep{Age: 1000 * time.Hour}, 5},
		{"bytes, just enough", Keep{Bytes: from(1)}, 4},
		{"bytes, one too few", Keep{Bytes: from(1) - 1}, 3},
		{"fewer bytes than one backup: it stays", Keep{Bytes: 1}, 1},
		{"the tightest of several", Keep{Images: 4, Bytes: from(3), Age: 1000 * time.Hour}, 2},
	} {
		p, err := w.archive.Plan(ctx, test.keep, now)
		if err != nil || len(p.Kept) != test.left || len(p.Images) != 5-test.left || p.Kept[len(p.Kept)-1].LSN != list[4].LSN {
			t.Errorf("%s: %d stay, %v", test.name, len(p.Kept), err)
			continue
		}
		for _, r := range p.Log {
			if r.End > p.Kept[0].LSN {
				t.Errorf("%s: the log to %d goes, and the backup of %d needs it", test.name, r.End, p.Kept[0].LSN)
			}
		}
		if p.Remains != from(5-test.left) {
			t.Errorf("%s: %d bytes remain, want %d", test.name, p.Remains, from(5-test.left))
		}
	}
	if _, err := w.archive.Plan(ctx, Keep{Images: -1}, now); err == nil {
		t.Error("-1 images are to be kept")
	}
	p, err := w.archive.Plan(ctx, Keep{Images: 3}, now)
	w.check(err)
	w.check(w.archive.Remove(ctx, p))
	if left := w.good(ctx); len(left) != 3 || left[0].LSN != list[2].LSN {
		t.Errorf("left: %+v", left)
	}
	w.check(w.archive.Remove(ctx, p)) // as a second node would that saw the same
	if again, err := w.archive.Plan(ctx, Keep{Images: 3}, now); err != nil || !again.Empty() {
		t.Errorf("again: %+v, %v", again, err)
	}
	moment := smr.LSN(0)
	for _, r := range ranges {
		if r.From == list[2].LSN {
			moment = r.End
		}
	}
	result, into, err := restoreTo(t, w, Target{LSN: moment}, nil)
	w.check(err)
	if got := ask(t, load(t, into, "n1", result), "get m"); got != "2" || result.Backup.LSN != list[2].LSN {
		t.Errorf("restored to %d: m is %q", moment, got)
	}
}

// What could go wrong: an image is removed although the one that would stand for it is damaged, or cannot even be read; what a crash left
// behind stays for ever, or what is being written is taken for that.
func TestNothingGoesWhileSomethingIsWrong(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w, list := grown(t, 3)
	p, err := w.archive.Plan(ctx, Keep{Images: 2}, time.Now())
	w.check(err)
	images := filepath.Join(w.root, "old/g1/images")
	file := func(b Backup) string {
		found, err := filepath.Glob(filepath.Join(images, checkpoint.Name(b.LSN)+"-*", "*.sst"))
		if err != nil || len(found) == 0 {
			t.Fatalf("%v, %v", found, err)
		}
		return found[0]
	}
	content, err := os.ReadFile(file(list[1]))
	w.check(err)
	name := file(list[1])
	w.check(os.WriteFile(name, content[:len(content)-1], 0o644))
	if err := w.archive.Remove(ctx, p); !errors.Is(err, archive.ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("backup delete %d", list[1].LSN)) {
		t.Errorf("the image that would be the oldest is cut: %v", err)
	}
	w.check(os.WriteFile(name, content, 0o644))
	manifest := filepath.Join(images, checkpoint.Name(list[2].LSN)+".json")
	sealed, err := os.ReadFile(manifest)
	w.check(err)
	w.check(os.WriteFile(manifest, []byte(`{"format":99}`), 0o644))
	if _, err := w.archive.Plan(ctx, Keep{Images: 2}, time.Now()); err == nil || !strings.Contains(err.Error(), "nothing is removed") || !strings.Contains(err.Error(), "use a newer one") {
		t.Errorf("an image of a newer format: %v", err)
	}
	w.check(os.WriteFile(manifest, sealed, 0o644))
	w.good(ctx)

	old := newFolder(list[2].LSN, time.Now().Add(-SweepAge-time.Minute)) // of another node, that was slower
	left := []string{"images/" + checkpoint.Name(1) + "/000007.sst", "images/" + old + "/000007.sst", "log/00000000000000000001-00000000000000000002.log.zst"}
	busy := []string{"images/" + checkpoint.Name(list[2].LSN+1) + "/000007.sst", "images/" + newFolder(1, time.Now()) + "/000007.sst", fmt.Sprintf("log/%020d-%020d.log", uint64(w.log.End()), uint64(w.log.End()+10))}
	for _, name := range slices.Concat(left, busy) {
		w.check(w.archive.Store.Put(ctx, "old/g1/"+name, func(out io.Writer) error { _, err := out.Write([]byte("part")); return err }))
	}
	p, err = w.archive.Plan(ctx, Keep{}, time.Now())
	w.check(err)
	if len(p.Leftover) != len(left) {
		t.Errorf("left behind: %v", p.Leftover)
	}
	w.check(w.archive.Remove(ctx, p))
	for _, name := range left {
		if _, err := os.Stat(filepath.Join(w.root, "old/g1", name)); err == nil {
			t.Errorf("%s stays", name)
		}
	}
	for _, name := range busy {
		if _, err := os.Stat(filepath.Join(w.root, "old/g1", name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.good(ctx)
}

// What could go wrong: an image whose files are being written when somebody takes them for leftovers is announced without them.
func TestAnImageIsAnnouncedWhole(t *testing.T) {
	t.Parallel()
	w, _ := grown(t, 1)
	ctx := context.Background()
	w.run("set n again")
	w.flush()
	dir, _ := w.take(w.engine)
	gone, put := false, ""
	store := &fallible{Store: w.archive.Store, before: func(_, name string) error {
		if put == "" {
			put = name
		} else if !gone {
			gone = true
			return w.archive.Store.Remove(ctx, put)
		}
		return nil
	}}
	a := w.archive
	a.Store = store
	if _, err := a.Create(ctx, Source{Dir: dir}); !errors.Is(err, archive.ErrDamaged) || !gone {
		t.Errorf("%v, removed: %v", err, gone)
	}
	if list := w.good(ctx); len(list) != 1 {
		t.Errorf("%d backups", len(list))
	}
	if entries, err := filepath.Glob(filepath.Join(w.root, "old/g1/images/*")); err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// fallible is a store that asks before each change.
type fallible struct {
	archive.Store
	before func(what, name string) error
}

// Put implements archive.Store.
func (f *fallible) Put(ctx context.Context, name string, write func(io.Writer) error) error {
	if err := f.before("put", name); err != nil {
		return err
	}
	return f.Store.Put(ctx, name, write)
}

// Remove implements archive.Store.
func (f *fallible) Remove(ctx context.Context, name string) error {
	if err := f.before("remove", name); err != nil {
		return err
	}
	return f.Store.Remove(ctx, name)
}

var errCrash = errors.New("crashed")

// dying returns the archive as a node sees it that dies behind so many changes: each later one fails with errCrash.
func (w *world) dying(changes int) Archive {
	a, made := w.archive, 0
	a.Store = &fallible{Store: w.archive.Store, before: func(string, string) error {
		if made++; made > changes {
			return errCrash
		}
		return nil
	}}
	return a
}

// What could go wrong: a node dies while it brings an image into the archive or removes what is too much, and what is left then cannot be
// restored, or is never cleaned up. It dies before each change of the store.
func TestCrashesLeaveAGoodArchive(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for at, done := 0, false; !done; at++ {
		w, list := grown(t, 3)
		w.run("set n last")
		w.flush()
		dir, m := w.take(w.engine)
		round := func(a Archive) error {
			if _, err := a.Create(ctx, Source{Dir: dir}); err != nil {
				return err
			}
			p, err := a.Plan(ctx, Keep{Images: 2}, time.Now().Add(2*SweepAge))
			if err != nil {
				return err
			}
			return a.Remove(ctx, p)
		}
		err := round(w.dying(at))
		if done = err == nil; !done && !errors.Is(err, errCrash) {
			t.Fatalf("change %d: %v", at, err)
		}
		w.good(ctx)
		w.check(round(w.archive)) // the next life
		left := w.good(ctx)
		if len(left) != 2 || left[0].LSN != list[2].LSN || left[1].LSN != m.LSN {
			t.Fatalf("change %d: then %+v", at, left)
		}
		entries, err := filepath.Glob(filepath.Join(w.root, "old/g1/images/*"))
		if err != nil || len(entries) != 4 {
			t.Fatalf("change %d: left %v, %v", at, entries, err)
		}
		for _, span := range mustSpans(t, w) {
			if span.End <= left[0].LSN {
				t.Fatalf("change %d: the log to %d stays", at, span.End)
			}
		}
		if at > 200 {
			t.Fatal("the round has no end")
		}
	}
}

func mustSpans(t *testing.T, w *world) []archive.Span {
	t.Helper()
	spans, err := w.archive.Log().Spans(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return spans
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/internal/archive"
	"lockstep/internal/checkpoint"
	"lockstep/smr"
)

// twin is an engine beside that of the world, as another node has one: its images of the same LSN have other files.
func (w *world) twin() *checkpoint.Engine {
	w.t.Helper()
	e, err := checkpoint.Open(checkpoint.Options{Dir: filepath.Join(w.dir, "twin"), Cluster: "old", Group: "g1", Base: w.base})
	w.check(err)
	w.t.Cleanup(func() { w.check(e.Close()) })
	return e
}

// Two nodes bring images of the same LSN into the archive at the same time, or one behind the other, and one of them may die on the way. What could go wrong:
// the files of one are taken for those of the other, so that an image that is listed is damaged.
func TestImagesOfOneLSNDoNotMix(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w, _ := grown(t, 1)
	beside := w.twin()
	w.run("set k early")
	w.flush()
	w.take(beside) // so that the next one shares no files with that of the first
	w.run("set k late")
	w.flush()
	first, m := w.take(w.engine)
	second, twin := w.take(beside)
	if m.LSN != twin.LSN || alike(m, twin) {
		t.Fatalf("images of LSN %d and %d, the same files: %v", m.LSN, twin.LSN, alike(m, twin))
	}
	before := os.DirFS(w.root)
	done := false
	for at := 0; !done; at++ { // the second node works before this change of the first
		for dies := 0; ; dies++ { // and dies before this change of its own
			root := filepath.Join(w.dir, fmt.Sprintf("%d-%d", at, dies))
			w.check(os.CopyFS(root, before))
			store, err := archive.OpenDir(root)
			w.check(err)
			w.archive.Store = store
			other := w.dying(dies)
			changes, whole := 0, false
			one := w.archive
			one.Store = &fallible{Store: w.archive.Store, before: func(string, string) error {
				if changes++; changes == at+1 {
					_, err := other.Create(ctx, Source{Dir: second, Node: "n2"})
					if whole = err == nil; !whole && !errors.Is(err, errCrash) {
						t.Fatalf("the second, before change %d of the first: %v", at, err)
					}
				}
				return nil
			}}
			if _, err := one.Create(ctx, Source{Dir: first, Node: "n1"}); err != nil {
				t.Fatalf("the first: %v", err)
			}
			if done = changes <= at; done { // behind the last change of the first
				_, err := other.Create(ctx, Source{Dir: second, Node: "n2"})
				whole = err == nil
			}
			if list := w.good(ctx); len(list) != 2 || list[1].LSN != m.LSN {
				t.Fatalf("change %d, death %d: %+v", at, dies, list)
			}
			p, err := w.archive.Plan(ctx, Keep{}, time.Now().Add(2*SweepAge))
			w.check(err)
			w.check(w.archive.Remove(ctx, p))
			w.good(ctx)
			entries, err := filepath.Glob(filepath.Join(root, "old/g1/images/*"))
			if err != nil || len(entries) != 4 {
				t.Fatalf("change %d, death %d: left %v, %v", at, dies, entries, err)
			}
			if whole {
				break
			}
			if dies > 100 {
				t.Fatal("the second never gets done")
			}
		}
		if at > 100 {
			t.Fatal("the first never gets done")
		}
	}
}

// alike reports whether two images have the same files.
func alike(a, b *checkpoint.Manifest) bool { return fmt.Sprint(a.Files) == fmt.Sprint(b.Files) }

// What could go wrong: backups of a version before each had a folder of its own cannot be read, or removed, or what is left of them stays.
func TestBackupsOfOlderFormats(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w, list := grown(t, 3)
	for i := range list[:2] {
		b := list[i]
		images := filepath.Join(w.root, "old/g1/images")
		w.check(os.Rename(filepath.Join(images, b.Folder), filepath.Join(images, checkpoint.Name(b.LSN))))
		b.Format, b.Folder = 2, ""
		w.check(archive.WriteManifest(ctx, w.archive.Store, w.archive.manifestName(b.LSN), &b))
	}
	if left := w.good(ctx); len(left) != 3 {
		t.Errorf("%+v", left)
	}
	if _, err := w.archive.Fetch(ctx, list[0].LSN, filepath.Join(w.dir, "fetched")); err != nil {
		t.Error(err)
	}
	again := w.backup() // an image of the LSN of the newest one would replace it; this is another
	w.check(w.archive.Store.Remove(ctx, w.archive.manifestName(list[0].LSN)))
	p, err := w.archive.Plan(ctx, Keep{Images: 2}, time.Now().Add(2*SweepAge))
	w.check(err)
	if len(p.Images) != 1 || p.Images[0].LSN != list[1].LSN || len(p.Leftover) == 0 || !strings.Contains(p.Leftover[0], checkpoint.Name(list[0].LSN)+"/") {
		t.Errorf("%+v", p)
	}
	w.check(w.archive.Remove(ctx, p))
	if left := w.good(ctx); len(left) != 2 || left[0].LSN != list[2].LSN || left[1].LSN != again.LSN {
		t.Errorf("%+v", left)
	}
	entries, err := filepath.Glob(filepath.Join(w.root, "old/g1/images/*"))
	if err != nil || len(entries) != 4 {
		t.Errorf("left: %v, %v", entries, err)
	}
	for _, folder := range []string{"../" + again.Folder, checkpoint.Name(list[2].LSN), again.Folder + "/x", "x" + again.Folder} {
		b := again
		b.Folder = folder
		w.check(archive.WriteManifest(ctx, w.archive.Store, w.archive.manifestName(b.LSN), &b))
		if _, _, err := w.archive.Get(ctx, b.LSN); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("its files are in %q: %v", folder, err)
		}
	}
}

// What could go wrong: the archived log is that of a history that was given up, an image is not, and because no frame of that log begins where the image ends, a restore
// ends there as if that was all (simulation seed 921005561).
func TestNoFrameBeginsInsideOfAnother(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	inside := w.run("set k 1") - 1
	r := w.flush()
	for at := smr.LSN(0); at <= r.End; at++ {
		walk, err := w.archive.walkFrom(ctx, at)
		w.check(err)
		first := smr.LSN(0)
		err = walk.each(ctx, func(f smr.Frame, _ []byte) error {
			first = f.LSN
			return errReached
		})
		switch {
		case at == r.End && err == nil:
		case errors.Is(err, errReached) && first == at:
		case errors.Is(err, archive.ErrDamaged) && strings.Contains(err.Error(), fmt.Sprintf("no frame begins at %d", at)):
		default:
			t.Errorf("from %d: frame at %d, %v", at, first, err)
		}
	}
	if walk, err := w.archive.walkFrom(ctx, inside); err != nil || walk.each(ctx, func(smr.Frame, []byte) error { return nil }) == nil {
		t.Errorf("a frame begins at %d: %v", inside, err)
	}
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"lockstep/internal/archive"
	"lockstep/smr"
)

// Keep says how much of an archive is kept. Zero fields are no bounds. Whatever they say, the newest image stays, and the log from
// the oldest one that stays on.
type Keep struct {
	// Age: every moment within that time can still be restored. An image goes when the one behind it is that old, too, by log time.
	Age time.Duration
	// Bytes bounds the images and the log together: the oldest go first.
	Bytes int64
	// Images is how many images stay, at most.
	Images int
}

// Limited reports whether anything is ever removed.
func (k Keep) Limited() bool { return k != Keep{} }

// Check says what is wrong with k.
func (k Keep) Check() error {
	if k.Age < 0 || k.Bytes < 0 || k.Images < 0 {
		return errors.New("what is kept of an archive cannot be negative: use 0 for no bound")
	}
	return nil
}

// Plan is what a Keep removes from an archive.
type Plan struct {
	Images   []Removal // that go, oldest first
	Log      []archive.Stored
	Leftover []string // objects that belong to nothing: what a crash left behind
	Kept     []Backup // that stay, oldest first
	Remains  int64    // bytes of images and log that stay
}

// Removal is an image that goes, and why.
type Removal struct {
	Backup
	Why string
}

// Empty reports whether nothing is removed.
func (p *Plan) Empty() bool { return len(p.Images) == 0 && len(p.Log) == 0 && len(p.Leftover) == 0 }

// Bytes returns how many bytes of images and log go.
func (p *Plan) Bytes() (bytes int64) {
	for _, image := range p.Images {
		bytes += image.Bytes
	}
	for _, r := range p.Log {
		bytes += r.Bytes
	}
	return bytes
}

// Plan looks what k removes from the archive now. It removes nothing if an image cannot be read: nobody knows what that one needs.
func (a Archive) Plan(ctx context.Context, k Keep, now time.Time) (p Plan, err error) {
	if err := k.Check(); err != nil {
		return p, err
	}
	list, problems, err := a.List(ctx)
	if err == nil && len(problems) > 0 {
		err = fmt.Errorf("nothing is removed from the archive, because images cannot be read; `smrctl backup delete LSN` removes one: %w", errors.Join(problems...))
	}
	if err != nil || len(list) == 0 { // the first image will need the log
		return p, err
	}
	ranges, loose, err := a.Log().Stored(ctx)
	if err != nil {
		return p, err
	}
	p.Kept = list
	for {
		p.Remains = stored(p.Kept, ranges)
		why := k.refuses(p.Kept, p.Remains, now)
		if why == "" {
			break
		}
		p.Images, p.Kept = append(p.Images, Removal{p.Kept[0], why}), p.Kept[1:]
	}
	oldest := p.Kept[0].LSN
	for _, r := range ranges {
		if r.End <= oldest {
			p.Log = append(p.Log, r)
		}
	}
	for _, r := range loose { // what is being written ends where the archive does
		if r.End <= oldest {
			p.Leftover = append(p.Leftover, r.Names...)
		}
	}
	files, err := a.leftovers(ctx, list, oldest, now.Add(-SweepAge))
	p.Leftover = append(p.Leftover, files...)
	return p, err
}

// refuses says why the oldest of the images does not stay, "" if it does.
func (k Keep) refuses(images []Backup, bytes int64, now time.Time) string {
	count := len(images)
	if count == 1 {
		return ""
	}
	next := images[1]
	switch {
	case k.Images > 0 && count > k.Images:
		return fmt.Sprintf("it is one of %d, and %d are kept", count, k.Images)
	case k.Age > 0 && next.Stamp <= now.Add(-k.Age).UnixMilli():
		return fmt.Sprintf("that of LSN %d is older than %v, too", next.LSN, k.Age)
	case k.Bytes > 0 && bytes > k.Bytes:
		return fmt.Sprintf("there are %d bytes, and %d are kept", bytes, k.Bytes)
	}
	return ""
}

// stored returns the bytes of images and of the log that the first of them needs.
func stored(images []Backup, ranges []archive.Stored) (bytes int64) {
	for i := range images {
		bytes += images[i].Bytes
	}
	for i := range ranges {
		if ranges[i].End > images[0].LSN {
			bytes += ranges[i].Bytes
		}
	}
	return bytes
}

// leftovers lists the files of images that no manifest names, if they were begun before a moment: those of later ones are being written, perhaps. Of formats 1 and 2
// nobody knows when that was: theirs are listed if they lie below an LSN.
func (a Archive) leftovers(ctx context.Context, list []Backup, below smr.LSN, before time.Time) (names []string, err error) {
	named := make(map[string]bool)
	for i := range list {
		named[list[i].place()] = true
	}
	places, err := a.places(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range places {
		if named[p.name] || p.begun.IsZero() && p.lsn >= below || !p.begun.Before(before) {
			continue
		}
		files, err := a.files(ctx, p.name)
		if err != nil {
			return nil, err
		}
		names = append(names, files...)
	}
	return names, nil
}

// SweepAge is how old what is left of an object or an image must be that was never completed until it counts as a dead writer's.
const SweepAge = 24 * time.Hour

// Sweep removes what writers left behind that died while they wrote an object of this group, and returns how many parts that was.
func (a Archive) Sweep(ctx context.Context, now time.Time) (int, error) {
	return a.Store.Sweep(ctx, archive.Folder(a.Cluster, a.Group), now.Add(-SweepAge))
}

// Remove does what a plan says. What stays is looked at before: the oldest image that stays must be whole, and the newest.
func (a Archive) Remove(ctx context.Context, p Plan) error {
	if p.Empty() {
		return nil
	}
	if len(p.Kept) == 0 {
		return errors.New("a plan that keeps no image: this is an error of the program")
	}
	for _, b := range []Backup{p.Kept[0], p.Kept[len(p.Kept)-1]} {
		found, manifest, err := a.Get(ctx, b.LSN)
		if err == nil {
			err = a.whole(ctx, &found, manifest)
		}
		if err != nil {
			return fmt.Errorf("nothing is removed from the archive, because an image that would stay is not good; `smrctl backup delete %d` removes it: %w", b.LSN, err)
		}
	}
	for _, image := range p.Images {
		if err := a.Delete(ctx, image.LSN); err != nil && !errors.Is(err, fs.ErrNotExist) { // another node may be at it, too
			return err
		}
	}
	l := a.Log()
	for _, r := range p.Log {
		if err := l.Remove(ctx, r); err != nil {
			return err
		}
	}
	for _, name := range p.Leftover {
		if err := a.Store.Remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

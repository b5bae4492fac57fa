package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"lockstep/internal/archive"
	"lockstep/internal/backup"
	"lockstep/log"
	"lockstep/smr"
)

// archiving is what is kept outside of the cluster: the committed stream, as internal/archive keeps it, and images.
type archiving struct {
	store  *memoryStore
	log    *archive.Log
	list   []backup.Backup // of images, oldest first
	images map[smr.LSN]*image

	ranges  []archived       // in the order in which they were archived
	matches map[*lineage]int // so many of the first ranges are known to be a part of that stream; -1: one of them is not
}

// archived is a range of the archive.
type archived struct {
	from  smr.LSN
	bytes []byte
}

func newArchiving(cluster string) *archiving {
	store := &memoryStore{objects: make(map[string][]byte)}
	return &archiving{store: store, log: archive.OpenLog(store, cluster, groupName), images: make(map[smr.LSN]*image), matches: make(map[*lineage]int)}
}

// holdsOne reports whether everything that is archived is a part of one of the streams.
func (a *archiving) holdsOne(streams []*lineage) bool {
	one := false
	for _, s := range streams {
		at := a.matches[s]
		for ; at >= 0 && at < len(a.ranges); at++ {
			r := a.ranges[at]
			end := min(r.from+smr.LSN(len(r.bytes)), s.end())
			if r.from < end && !bytes.Equal(r.bytes[:end-r.from], s.committed[r.from:end]) {
				at = -2
			} else if int(end-r.from) < len(r.bytes) {
				break // the rest is not known to be committed yet
			}
		}
		a.matches[s] = at
		one = one || at >= 0
	}
	return one
}

// back brings an image into the archive; one of the same LSN is replaced.
func (a *archiving) back(i *image, stamp int64) {
	at, known := slices.BinarySearchFunc(a.list, i.lsn, func(b backup.Backup, lsn smr.LSN) int { return int(b.LSN) - int(lsn) })
	if !known {
		a.list = slices.Insert(a.list, at, backup.Backup{})
	}
	a.list[at] = backup.Backup{LSN: i.lsn, Stamp: stamp}
	a.images[i.lsn] = i
}

// backUp brings the image that was just taken into the archive, now and then.
func (k *kvnode) backUp(i *image) {
	if a := k.w.archive; a != nil && !k.doubted && k.w.draw.disk.IntN(2) == 0 {
		a.back(i, k.images.start.Stamp)
	}
}

// archiver is that of internal/replicator, which it follows: it writes the committed stream into the archive while its replica leads.
type archiver struct {
	r      *replicator
	reader *log.Reader
	reach  archive.Reach
	held   smr.LSN
}

var errArchive = errors.New("the archive cannot be written")

func (a *archiver) close() {
	if a.reader != nil {
		_ = a.reader.Close()
		a.reader = nil
	}
}

// hold returns from where on the log must stay when the KV node can start from checkpoint.
func (a *archiver) hold(checkpoint smr.LSN) smr.LSN {
	w := a.r.w
	if w.archive == nil {
		return checkpoint
	}
	to := min(checkpoint, a.reach.End())
	if safe := a.r.status.Safe; safe > to && safe-to > w.o.ArchiveLag {
		to = max(to, min(checkpoint, safe-w.o.ArchiveLag))
	}
	a.held = max(to, a.held)
	return min(a.held, checkpoint)
}

// round looks once. What goes wrong is tried again.
func (a *archiver) round() {
	r := a.r
	if a.reach.Due(r.status.Leading) && !a.look() {
		return
	}
	for r.status.Leading {
		if more, err := a.append(); err != nil || !more {
			return
		}
	}
}

// look looks how far the archive is. It reports whether the archive goes on in this log: if it keeps another history, an operator moves it away.
func (a *archiver) look() bool {
	r, w := a.r, a.r.w
	if a.reader == nil {
		var err error
		if a.reader, err = log.OpenReader(r.h.disk, dirLog); err != nil {
			return false
		}
	}
	finding, newest, err := a.reach.Look(context.Background(), w.archive.log, r.status.Leading, archive.Own{Reader: a.reader, Start: r.status.Start, Safe: r.status.Safe, End: r.status.End})
	if errors.Is(err, archive.ErrDamaged) {
		w.violate("the archive cannot be read", "%v", err)
	}
	if err != nil {
		a.close() // it may have kept a file open that is damaged no more
	}
	switch finding {
	case archive.Unreadable:
		w.hit(probeArchiveDoubt)
	case archive.Undecided:
		w.hit(probeArchiveUndecided)
	case archive.Broken:
		if len(w.check.older) == 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(w.check.writers)), func(e smr.Epoch) bool { return e > r.status.Epoch }) {
			w.violate("an archive is taken for that of another history", "%s leads epoch %d up to %d, archived up to %d", r.h.id, r.status.Epoch, r.status.End, newest.End)
		}
		if r.h.lineage == w.check.lineage && len(w.check.older) > 0 { // else it leads no more, and has not heard of it
			w.hit(probeArchiveGivenUp)
			w.archive = newArchiving(w.cluster)
		}
	}
	return finding == archive.Continues || finding == archive.Unreadable
}

// append archives a range of what lies below Safe.
func (a *archiver) append() (more bool, err error) {
	r := a.r
	from := a.reach.End()
	if from < r.status.Start {
		if from > 0 {
			r.w.hit(probeArchiveGap)
		}
		from = r.status.Start
	}
	if r.status.Safe <= from {
		return false, nil
	}
	content, err := a.gather(from, r.status.Safe)
	if err != nil || len(content.Bytes) == 0 {
		return false, err
	}
	made, err := r.w.archive.log.Append(context.Background(), content, false)
	if err != nil {
		return false, err
	}
	a.reach.Appended(archive.Span{From: made.From, End: made.End})
	r.w.archive.ranges = append(r.w.archive.ranges, archived{made.From, content.Bytes})
	if c := r.w.check; !r.w.archive.holdsOne(append(slices.Clone(c.older), c.lineage)) {
		r.w.violate("two histories are archived as one", "%s leads epoch %d, archived [%d, %d)", r.h.id, r.status.Epoch, made.From, made.End)
	}
	return made.End < r.status.Safe, nil
}

func (a *archiver) gather(from, safe smr.LSN) (content archive.Content, err error) {
	r := a.r
	if a.reader == nil {
		if a.reader, err = log.OpenReader(r.h.disk, dirLog); err != nil {
			return content, err
		}
	}
	if !r.w.healing && r.w.draw.disk.IntN(30) == 0 {
		return content, errArchive
	}
	content = archive.Content{From: from, Node: string(r.h.id)}
	_, _, err = a.reader.Frames(nil, from, safe, func(f smr.Frame, raw []byte) error {
		if len(content.Bytes) > 0 && len(content.Bytes)+len(raw) > r.w.o.ArchiveRange {
			return errEnough
		}
		if content.Frames == 0 {
			content.FirstStamp = f.Stamp
		}
		content.LastStamp = f.Stamp
		content.Frames++
		content.Bytes = append(content.Bytes, raw...)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err != nil {
		a.close()
	}
	return content, err
}

// memoryStore is an archive.Store.
type memoryStore struct {
	objects map[string][]byte
	names   []string // sorted
}

var _ archive.Store = (*memoryStore)(nil)

// Put implements archive.Store.
func (s *memoryStore) Put(_ context.Context, name string, write func(io.Writer) error) error {
	var content bytes.Buffer
	if err := write(&content); err != nil {
		return err
	}
	if at, known := slices.BinarySearch(s.names, name); !known {
		s.names = slices.Insert(s.names, at, name)
	}
	s.objects[name] = content.Bytes()
	return nil
}

// Open implements archive.Store.
func (s *memoryStore) Open(_ context.Context, name string) (io.ReadCloser, error) {
	content, known := s.objects[name]
	if !known {
		return nil, fmt.Errorf("archive: %s: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

// List implements archive.Store.
func (s *memoryStore) List(_ context.Context, folder string) (list []archive.Object, err error) {
	prefix := folder + "/"
	for i := sort.SearchStrings(s.names, prefix); i < len(s.names) && strings.HasPrefix(s.names[i], prefix); i++ {
		name, _, isFolder := strings.Cut(s.names[i][len(prefix):], "/")
		if isFolder {
			name += "/"
		}
		if n := len(list); n == 0 || list[n-1].Name != name {
			list = append(list, archive.Object{Name: name, Size: int64(len(s.objects[s.names[i]]))})
		}
	}
	return list, nil
}

// Remove implements archive.Store.
func (s *memoryStore) Remove(_ context.Context, name string) error {
	if at, known := slices.BinarySearch(s.names, name); known {
		s.names = slices.Delete(s.names, at, at+1)
		delete(s.objects, name)
	}
	return nil
}

// Sweep implements archive.Store: nothing is ever left.
func (s *memoryStore) Sweep(context.Context, string, time.Time) (int, error) { return 0, nil }

// String implements archive.Store.
func (s *memoryStore) String() string { return "memory" }

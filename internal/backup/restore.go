package backup

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
	"lockstep/log"
	"lockstep/smr"
)

// Refusals. Their errors say what to do.
var (
	// ErrFuture: the target lies behind what is archived.
	ErrFuture = errors.New("the target lies behind the end of the archive")
	// ErrBefore: the target lies before the first backup.
	ErrBefore = errors.New("the target lies before the first backup")
)

// Target says to which state to go back. At most one of LSN and Time is set; none is the newest that there is.
type Target struct {
	LSN  smr.LSN
	Time time.Time
}

// Restore says what is made.
type Restore struct {
	Target  Target
	Backup  smr.LSN  // the backup to begin with; 0 is the newest one that is not above the target
	Into    string   // directory of the new cluster: not there, or empty
	Cluster string   // id of the new cluster; empty: a random one
	Nodes   []string // names of its replicas
	// FileSize is the size of the log files that are made, in bytes; 0 is log.DefaultFileSize. Later ones have the size that the
	// replicator is started with.
	FileSize int64
	Note     func(string)                    // told what is going on; it may be nil
	Extra    func(dir, cluster string) error // writes further files into the directory before it gets its name; may be nil
}

// Restored is what was made.
type Restored struct {
	Cluster string
	LSN     smr.LSN
	Stamp   int64 // log time at LSN, Unix milliseconds
	Backup  Backup
	Frames  int // executed on top of the backup
	Keys    int64
}

// KVDir is the directory of a KV node's images beside a replicator's directory.
func KVDir(replicatorDir string) string { return replicatorDir + "-images" }

// Restore makes the directories of a new cluster with the state of an earlier LSN of the archived one. Errors: ErrFuture,
// ErrBefore, archive.ErrGap, archive.ErrDamaged, and those of the file system. Nothing is left after an error.
func (a Archive) Restore(ctx context.Context, r Restore) (result Restored, err error) {
	if err := r.check(); err != nil {
		return result, err
	}
	if r.Cluster == "" {
		id := make([]byte, 8)
		rand.Read(id)
		r.Cluster = hex.EncodeToString(id)
	}
	if r.Cluster == a.Cluster {
		return result, fmt.Errorf("restore: %q is the id of the archived cluster: a new one needs its own, or they would mix", r.Cluster)
	}
	chosen, err := a.choose(ctx, r)
	if err != nil {
		return result, err
	}
	parent := filepath.Dir(r.Into)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return result, fmt.Errorf("restore: %w", err)
	}
	stage, err := os.MkdirTemp(parent, "."+filepath.Base(r.Into)+".restore-")
	if err != nil {
		return result, fmt.Errorf("restore: %w", err)
	}
	defer os.RemoveAll(stage) // gone when all went well
	w := &worker{archive: a, order: r, stage: stage, note: r.Note}
	if w.note == nil {
		w.note = func(string) {}
	}
	if result, err = w.restore(ctx, chosen); err != nil {
		return Restored{}, fmt.Errorf("restore from the backup of LSN %d: %w", chosen.LSN, err)
	}
	made := filepath.Join(stage, "cluster")
	if r.Extra != nil {
		if err := r.Extra(made, r.Cluster); err != nil {
			return Restored{}, fmt.Errorf("restore: %w", err)
		}
	}
	if err := os.Remove(r.Into); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	if err := os.Rename(made, r.Into); err != nil {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	return result, nil
}

func (r *Restore) check() error {
	into, err := filepath.Abs(r.Into)
	if err != nil || r.Into == "" {
		return fmt.Errorf("restore: name a directory for the new cluster: %w", err)
	}
	r.Into = into
	entries, err := os.ReadDir(into)
	switch {
	case err == nil && len(entries) > 0:
		return fmt.Errorf("restore: %s is not empty: name a directory that does not exist yet", into)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("restore: %w", err)
	case r.Target.LSN != 0 && !r.Target.Time.IsZero():
		return errors.New("restore: either to an LSN or to a time, not both")
	case len(r.Nodes) == 0:
		return errors.New("restore: name the nodes of the new cluster")
	}
	for _, node := range r.Nodes {
		if err := smr.CheckNodeID(node); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	return nil
}

// choose picks the backup to begin with.
func (a Archive) choose(ctx context.Context, r Restore) (Backup, error) {
	list, problems, err := a.List(ctx)
	if err != nil {
		return Backup{}, err
	}
	var chosen *Backup
	for i := range list {
		b := &list[i]
		above := r.Target.LSN != 0 && b.LSN > r.Target.LSN || !r.Target.Time.IsZero() && b.Stamp > r.Target.Time.UnixMilli()
		if above || r.Backup != 0 && b.LSN != r.Backup {
			continue
		}
		chosen = b
	}
	switch {
	case chosen != nil:
		return *chosen, nil
	case r.Backup != 0:
		return Backup{}, fmt.Errorf("restore: there is no backup of LSN %d that the target does not lie before: `smrctl backup list` shows what there is", r.Backup)
	case len(list) == 0:
		return Backup{}, errors.Join(fmt.Errorf("restore: %s holds no backup of cluster %q, group %q: `smrctl backup create` makes one", a.Store, a.Cluster, a.Group), errors.Join(problems...))
	}
	return Backup{}, errors.Join(fmt.Errorf("%w, which is of LSN %d, %v: choose a later target", ErrBefore, list[0].LSN, timeOf(list[0].Stamp)), errors.Join(problems...))
}

func timeOf(stamp int64) string { return time.UnixMilli(stamp).Format("2006-01-02 15:04:05.000 MST") }

// worker makes a cluster of a backup.
type worker struct {
	archive Archive
	order   Restore
	stage   string
	note    func(string)

	machine *kv.Machine
	log     *log.Log // the archived log, once more, from the image on: what a Base can be taken of
	frames  int
	stamp   int64
}

// errReached ends the walk at the target.
var errReached = errors.New("target reached")

func (w *worker) restore(ctx context.Context, b Backup) (Restored, error) {
	w.note(fmt.Sprintf("fetching the backup of LSN %d, %s, %d bytes", b.LSN, timeOf(b.Stamp), b.Bytes))
	dir := filepath.Join(w.stage, "image", checkpoint.Name(b.LSN))
	if _, err := w.archive.Fetch(ctx, b.LSN, dir); err != nil {
		return Restored{}, fmt.Errorf("%w\n  choose an earlier backup with --backup if there is one", err)
	}
	w.machine, w.stamp = kv.New(), b.Stamp
	manifest, err := checkpoint.Load(dir, w.machine)
	if err != nil {
		return Restored{}, err
	}
	base, err := log.ParseBase(manifest.Base)
	if err != nil {
		return Restored{}, err
	}
	logDir := filepath.Join(w.stage, "log")
	opened, _, err := log.Open(log.Options{Dir: logDir, Cluster: w.archive.Cluster, Group: w.archive.Group, FileSize: w.replayFileSize(), Sync: smr.SyncOS, VerifyBytes: -1})
	if err != nil {
		return Restored{}, err
	}
	w.log = opened
	defer opened.Close()
	if err := opened.BeginAt(base); err != nil {
		return Restored{}, err
	}
	if err := w.replay(ctx, b.LSN); err != nil {
		return Restored{}, err
	}
	if opened.End() > base.LSN {
		if base, err = baseAt(opened, logDir); err != nil {
			return Restored{}, err
		}
	}
	// The new cluster's epochs begin behind 1, whatever those of the old one were.
	base.Cluster, base.History = w.order.Cluster, smr.History{{Epoch: 1, From: 0}}
	made, err := w.build(ctx, base)
	if err != nil {
		return Restored{}, err
	}
	return Restored{Cluster: w.order.Cluster, LSN: made.LSN, Stamp: made.Stamp, Backup: b, Frames: w.frames, Keys: made.Keys}, nil
}

// replayFileSize is the file size of the log that is only there to take a Base of.
func (w *worker) replayFileSize() int64 {
	const most = 16 << 20
	if w.order.FileSize == 0 {
		return most
	}
	return min(w.order.FileSize, most)
}

// baseAt returns the Base of the end of a log.
func baseAt(l *log.Log, dir string) (log.Base, error) {
	if err := l.Sync(); err != nil {
		return log.Base{}, err
	}
	reader, err := log.OpenReader(nil, dir)
	if err != nil {
		return log.Base{}, err
	}
	defer reader.Close()
	return reader.BaseAt(l.End())
}

// replay executes the archived log up to the target.
func (w *worker) replay(ctx context.Context, from smr.LSN) error {
	target := w.order.Target
	walk, err := w.archive.walkFrom(ctx, from)
	if err != nil {
		return err
	}
	w.note("executing the archived log")
	err = walk.each(ctx, func(f smr.Frame, raw []byte) error {
		if target.LSN != 0 && f.End() > target.LSN || !target.Time.IsZero() && f.Stamp > target.Time.UnixMilli() {
			return errReached
		}
		if err := w.log.Append(raw); err != nil {
			return fmt.Errorf("the archived log does not continue at %d: %w", f.LSN, err)
		}
		if err := apply(w.machine, f); err != nil {
			return err
		}
		w.stamp = f.Stamp
		if w.frames++; w.frames%100_000 == 0 {
			w.note(fmt.Sprintf("at LSN %d, %s", f.End(), timeOf(f.Stamp)))
		}
		return nil
	})
	end := w.log.End()
	switch {
	case errors.Is(err, errReached) || err == nil && end == target.LSN:
		return nil
	case err != nil:
		return err
	case walk.gap != nil:
		return fmt.Errorf("%w\n  what lies before the gap can be restored: use --to-lsn %d; what lies behind it needs a backup from behind it", walk.gap, end)
	case target.LSN != 0 || !target.Time.IsZero() && w.stamp < target.Time.UnixMilli():
		return fmt.Errorf("%w: it ends at LSN %d, %s: choose an earlier target, or none for all that there is", ErrFuture, end, timeOf(w.stamp))
	}
	return nil
}

// apply executes a frame, as a KV node does.
func apply(m *kv.Machine, f smr.Frame) error {
	if f.Kind == smr.KindRequests {
		rest := f.Body
		for i := range f.Count {
			request, behind, err := smr.CutRequest(rest)
			if err != nil {
				return fmt.Errorf("execute frame at %d: %w", f.LSN, err)
			}
			rest = behind
			m.Apply(kv.Instant{LSN: f.LSN, Index: i, Stamp: f.Stamp}, request, nil)
		}
	}
	m.Advance(f.Stamp, f.End())
	return nil
}

// still is a machine that nothing is applied to.
type still struct{ m *kv.Machine }

func (s still) Between(use func(*kv.Machine)) { use(s.m) }
func (s still) Beside(use func(*kv.Machine))  { use(s.m) }

// build makes the directories of all nodes.
func (w *worker) build(ctx context.Context, base log.Base) (*checkpoint.Manifest, error) {
	w.note(fmt.Sprintf("writing the image of LSN %d for %d nodes", base.LSN, len(w.order.Nodes)))
	encoded, err := base.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(w.stage, "cluster")
	first := KVDir(filepath.Join(root, w.order.Nodes[0]))
	engine, err := checkpoint.Open(checkpoint.Options{
		Dir: first, Cluster: w.order.Cluster, Group: w.archive.Group, Hurried: true, Base: func(smr.LSN) ([]byte, error) { return encoded, nil },
	})
	if err != nil {
		return nil, err
	}
	made, err := engine.Take(ctx, still{w.machine})
	if err = errors.Join(err, engine.Close()); err != nil {
		return nil, err
	}
	if made.LSN != base.LSN {
		return nil, fmt.Errorf("the state is at LSN %d and its log would begin at %d: this is an error of the program", made.LSN, base.LSN)
	}
	for i, node := range w.order.Nodes {
		dir := filepath.Join(root, node)
		if i > 0 {
			if err := LinkImage(filepath.Join(engine.Images(), checkpoint.Name(made.LSN)), filepath.Join(KVDir(dir), "images", checkpoint.Name(made.LSN)), made); err != nil {
				return nil, err
			}
		}
		if err := w.makeReplica(dir, node, base); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// LinkImage makes another directory of the same files: they are never changed, and stay when the image goes.
func LinkImage(from, to string, m *checkpoint.Manifest) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("link image %s: %w", from, err)
	}
	names := []string{checkpoint.ManifestName}
	for _, file := range m.Files {
		names = append(names, file.Name)
	}
	for _, name := range names {
		if err := os.Link(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return fmt.Errorf("link image %s: %w", from, err)
		}
	}
	return nil
}

// makeReplica makes a replicator's directory: a new incarnation with an empty log that begins at base.
func (w *worker) makeReplica(dir, node string, base log.Base) error {
	state, _, _, err := log.OpenState(log.OS{}, filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	var b [8]byte
	rand.Read(b[:])
	err = state.Save(log.State{
		Incarnation: smr.Incarnation(max(binary.LittleEndian.Uint64(b[:]), 1)), Cluster: base.Cluster, Group: base.Group, Node: smr.NodeID(node),
		LogBegun: true, LogStart: base.LSN, Clean: true,
	})
	if err = errors.Join(err, state.Close()); err != nil {
		return err
	}
	l, _, err := log.Open(log.Options{Dir: filepath.Join(dir, "log"), Cluster: base.Cluster, Group: base.Group, FileSize: w.order.FileSize})
	if err != nil {
		return err
	}
	return errors.Join(l.BeginAt(base), l.Close())
}

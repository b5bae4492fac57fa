package backup

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
	"lockstep/internal/mutant"
	"lockstep/log"
	"lockstep/smr"

	"github.com/cockroachdb/pebble/v2/vfs"
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
	disk     *disk                           // nil: that of the operating system
}

// disk is what a restore writes to.
type disk struct {
	log.FS
	images vfs.FS // nil: the operating system's
	create func(name string) (io.WriteCloser, error)
}

func createFile(name string) (io.WriteCloser, error) { return os.Create(name) }

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
	if r.Cluster, err = a.NewID(r.Cluster); err != nil {
		return result, err
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
	if err := syncTree(made); err != nil {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	if err := os.Remove(r.Into); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	if err := os.Rename(made, r.Into); err != nil {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	if err := syncFile(parent); err != nil {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	return result, nil
}

// syncTree makes all files and directories below root durable, before they get their name: a power cut behind that leaves all of them.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncFile(path)
	})
}

func syncFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// Preview says with which backup Restore would begin, and up to where the archived log behind it reaches. It refuses what can be refused without
// reading the log, as Restore does, and makes nothing.
func (a Archive) Preview(ctx context.Context, r Restore) (chosen Backup, end smr.LSN, err error) {
	if err := r.check(); err != nil {
		return chosen, 0, err
	}
	if chosen, err = a.choose(ctx, r); err != nil {
		return chosen, 0, err
	}
	walk, err := a.walkFrom(ctx, chosen.LSN)
	if err != nil {
		return chosen, 0, err
	}
	end = max(walk.end(), chosen.LSN)
	switch {
	case r.Target.LSN > end && walk.gap != nil:
		return chosen, end, fmt.Errorf("restore from the backup of LSN %d: %w", chosen.LSN, walk.gap)
	case r.Target.LSN > end:
		return chosen, end, fmt.Errorf("restore from the backup of LSN %d: %w: it ends at LSN %d", chosen.LSN, ErrFuture, end)
	}
	return chosen, end, nil
}

func (r *Restore) check() error {
	into, err := filepath.Abs(r.Into)
	if err != nil || r.Into == "" {
		return fmt.Errorf("restore: name a directory for the new cluster: %w", err)
	}
	r.Into = into
	if r.disk == nil {
		r.disk = &disk{FS: log.OS{}, create: createFile}
	}
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

// NewID returns the id of a cluster that is restored: the one that is wanted, or a random one for "". It is never that of the archived one.
func (a Archive) NewID(wanted string) (string, error) {
	if mutant.On(mutant.RestoredKeepsID) {
		return a.Cluster, nil
	}
	if wanted == "" {
		id := make([]byte, 8)
		rand.Read(id)
		wanted = hex.EncodeToString(id)
	}
	if wanted == a.Cluster {
		return "", fmt.Errorf("restore: %q is the id of the archived cluster: a new one needs its own, or they would mix", wanted)
	}
	return wanted, nil
}

// choose picks the backup to begin with.
func (a Archive) choose(ctx context.Context, r Restore) (Backup, error) {
	list, problems, err := a.List(ctx)
	if err != nil {
		return Backup{}, err
	}
	chosen, err := r.Target.Choose(list, r.Backup)
	switch {
	case err == nil:
		return chosen, nil
	case r.Backup != 0:
		return Backup{}, fmt.Errorf("restore: there is no backup of LSN %d that the target does not lie before: `smrctl backup list` shows what there is", r.Backup)
	case len(list) == 0:
		return Backup{}, errors.Join(fmt.Errorf("restore: %s holds no backup of cluster %q, group %q: `smrctl backup create` makes one", a.Store, a.Cluster, a.Group), errors.Join(problems...))
	}
	return Backup{}, errors.Join(err, errors.Join(problems...))
}

// Choose picks the backup to begin with from a list, oldest first: the newest that is not above the target; only that of one LSN unless
// only is 0. Its error wraps ErrBefore.
func (t Target) Choose(list []Backup, only smr.LSN) (Backup, error) {
	for i := len(list) - 1; i >= 0; i-- {
		if b := &list[i]; !t.isBelow(b.LSN, b.Stamp) && (only == 0 || b.LSN == only) {
			return *b, nil
		}
	}
	if len(list) == 0 {
		return Backup{}, ErrBefore
	}
	return Backup{}, fmt.Errorf("%w, which is of LSN %d, %v: choose a later target", ErrBefore, list[0].LSN, timeOf(list[0].Stamp))
}

// isBelow reports whether the target lies before what ends at an LSN and was written at a time.
func (t Target) isBelow(end smr.LSN, stamp int64) bool {
	return t.LSN != 0 && end > t.LSN || !t.Time.IsZero() && stamp > t.Time.UnixMilli()
}

func timeOf(stamp int64) string { return time.UnixMilli(stamp).Format("2006-01-02 15:04:05.000 MST") }

// worker makes a cluster of a backup.
type worker struct {
	archive Archive
	order   Restore
	stage   string
	note    func(string)

	machine *kv.Machine
}

func (w *worker) restore(ctx context.Context, b Backup) (Restored, error) {
	w.note(fmt.Sprintf("fetching the backup of LSN %d, %s, %d bytes", b.LSN, timeOf(b.Stamp), b.Bytes))
	dir := filepath.Join(w.stage, "image", checkpoint.Name(b.LSN))
	if _, err := w.archive.fetch(ctx, b.LSN, dir, w.order.disk.create); err != nil {
		return Restored{}, fmt.Errorf("%w\n  choose an earlier backup with --backup if there is one", err)
	}
	w.machine = kv.New()
	manifest, err := checkpoint.Load(dir, w.machine)
	if err != nil {
		return Restored{}, err
	}
	base, err := log.ParseBase(manifest.Base)
	if err != nil {
		return Restored{}, err
	}
	logDir := filepath.Join(w.stage, "log")
	opened, _, err := log.Open(log.Options{FS: w.order.disk, Dir: logDir, Cluster: w.archive.Cluster, Group: w.archive.Group, FileSize: w.replayFileSize(), Sync: smr.SyncOS, VerifyBytes: -1})
	if err != nil {
		return Restored{}, err
	}
	defer opened.Close()
	w.note("executing the archived log")
	replay := Replay{Archive: w.archive, Target: w.order.Target, Machine: w.machine, Log: opened, FS: w.order.disk, Dir: logDir, stamp: b.Stamp}
	if base, err = replay.Run(ctx, base); err != nil {
		return Restored{}, err
	}
	made, err := w.build(ctx, Foundation(base, w.order.Cluster))
	if err != nil {
		return Restored{}, err
	}
	return Restored{Cluster: w.order.Cluster, LSN: made.LSN, Stamp: made.Stamp, Backup: b, Frames: replay.Frames, Keys: made.Keys}, nil
}

// Foundation returns what the logs of a new cluster begin with that goes on from a Base of another one. Its epochs begin behind 1, whatever
// those of the old one were.
func Foundation(base log.Base, cluster string) log.Base {
	base.Cluster = cluster
	if !mutant.On(mutant.RestoredKeepsHistory) {
		base.History = smr.History{{Epoch: 1, From: 0}}
	}
	return base
}

// replayFileSize is the file size of the log that is only there to take a Base of.
func (w *worker) replayFileSize() int64 {
	const most = 16 << 20
	if w.order.FileSize == 0 {
		return most
	}
	return min(w.order.FileSize, most)
}

// Replay executes the archived log on top of an image.
type Replay struct {
	Archive Archive
	Target  Target
	Machine *kv.Machine // the state of the image
	Log     *log.Log    // empty: it takes the archived log once more, from the image on, so that a Base can be taken of its end
	FS      log.FS      // that Log is on; nil: that of the operating system
	Dir     string      // of Log

	Frames int // that were executed
	stamp  int64
}

// errReached ends the walk at the target.
var errReached = errors.New("target reached")

// Run begins at the base of the image and goes up to the target. It returns the Base of where that is. Errors: ErrFuture, archive.ErrGap,
// archive.ErrDamaged.
func (r *Replay) Run(ctx context.Context, base log.Base) (log.Base, error) {
	if err := r.Log.BeginAt(base); err != nil {
		return log.Base{}, err
	}
	if err := r.execute(ctx, base.LSN); err != nil {
		return log.Base{}, err
	}
	if r.Log.End() == base.LSN {
		return base, nil
	}
	if err := r.Log.Sync(); err != nil {
		return log.Base{}, err
	}
	reader, err := log.OpenReader(r.FS, r.Dir)
	if err != nil {
		return log.Base{}, err
	}
	defer reader.Close()
	return reader.BaseAt(r.Log.End())
}

// isBehind reports whether a frame lies behind the target.
func (r *Replay) isBehind(f smr.Frame) bool {
	if mutant.On(mutant.RestoreBeyond) {
		return r.Target.isBelow(f.LSN, f.Stamp)
	}
	return r.Target.isBelow(f.End(), f.Stamp)
}

func (r *Replay) execute(ctx context.Context, from smr.LSN) error {
	target := r.Target
	walk, err := r.Archive.walkFrom(ctx, from)
	if err != nil {
		return err
	}
	last := walk.end()
	if target.LSN != 0 {
		last = min(last, target.LSN)
	}
	err = walk.each(ctx, func(f smr.Frame, raw []byte) error {
		if r.isBehind(f) {
			return errReached
		}
		if err := r.Log.Append(raw); err != nil {
			return fmt.Errorf("the archived log does not continue at %d: %w", f.LSN, err)
		}
		if err := apply(r.Machine, f); err != nil {
			return err
		}
		r.stamp = f.Stamp
		r.Frames++
		r.Archive.progress("executing the archived log", int64(f.End()-from), int64(last-min(from, last)))
		return nil
	})
	end := r.Log.End()
	switch {
	case errors.Is(err, errReached) || err == nil && end == target.LSN:
		return nil
	case err != nil:
		return err
	case walk.gap != nil:
		return fmt.Errorf("%w\n  what lies before the gap can be restored: use --to-lsn %d; what lies behind it needs a backup from behind it", walk.gap, end)
	case target.LSN != 0 || !target.Time.IsZero() && r.stamp < target.Time.UnixMilli():
		return fmt.Errorf("%w: it ends at LSN %d, %s: choose an earlier target, or none for all that there is", ErrFuture, end, timeOf(r.stamp))
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
		FS: w.order.disk.images, Dir: first, Cluster: w.order.Cluster, Group: w.archive.Group, Hurried: true, Base: func(smr.LSN) ([]byte, error) { return encoded, nil },
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
		var b [8]byte
		rand.Read(b[:])
		replica := Replica{FS: w.order.disk, Dir: dir, Node: node, Incarnation: smr.Incarnation(max(binary.LittleEndian.Uint64(b[:]), 1)), FileSize: w.order.FileSize}
		if err := replica.Make(base); err != nil {
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

// Replica is a replicator's directory that is made for a new cluster.
type Replica struct {
	FS          log.FS
	Dir         string
	Node        string
	Incarnation smr.Incarnation // a new one
	FileSize    int64           // of log files
}

// Make makes the directory, durably: a new incarnation that has promised nothing, with an empty log that begins at base.
func (r Replica) Make(base log.Base) error {
	state, _, _, err := log.OpenState(r.FS, path.Join(filepath.ToSlash(r.Dir), "state"))
	if err != nil {
		return err
	}
	err = state.Save(log.State{
		Incarnation: r.Incarnation, Cluster: base.Cluster, Group: base.Group, Node: smr.NodeID(r.Node), LogBegun: true, LogStart: base.LSN, Clean: true,
	})
	if err = errors.Join(err, state.Close()); err != nil {
		return err
	}
	l, _, err := log.Open(log.Options{FS: r.FS, Dir: path.Join(filepath.ToSlash(r.Dir), "log"), Cluster: base.Cluster, Group: base.Group, FileSize: r.FileSize, Synchronous: true})
	if err != nil {
		return err
	}
	return errors.Join(l.BeginAt(base), l.Close())
}

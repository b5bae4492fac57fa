package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/internal/archive"
	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/log"
	"lockstep/smr"
)

const day = 1_700_000_000_000 // log time at the beginning, Unix milliseconds

// world is a group of one: a machine and its log, of which backups and ranges get into an archive.
type world struct {
	t        *testing.T
	dir      string
	root     string // of the archive
	archive  Archive
	machine  *kv.Machine
	log      *log.Log
	sequence uint64
	stamp    int64
	raw      []byte // not archived yet
	from     smr.LSN
	frames   int
	engine   *checkpoint.Engine
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, dir: dir, root: filepath.Join(dir, "archive"), machine: kv.New(), stamp: day}
	w.check(os.Mkdir(w.root, 0o755))
	store, err := archive.OpenDir(w.root)
	w.check(err)
	w.archive = Archive{Store: store, Cluster: "old", Group: "g1"}
	w.log, _, err = log.Open(log.Options{Dir: filepath.Join(dir, "log"), Cluster: "old", Group: "g1", FileSize: 64 << 10})
	w.check(err)
	w.engine, err = checkpoint.Open(checkpoint.Options{Dir: filepath.Join(dir, "kv"), Cluster: "old", Group: "g1", Base: w.base})
	w.check(err)
	t.Cleanup(func() {
		w.check(errors.Join(w.engine.Close(), w.log.Close()))
	})
	w.frame(smr.KindEpochStart, 0, smr.AppendConfig(nil, smr.Config{Epoch: 7, Reign: 7, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: 5}}}))
	return w
}

// base is for checkpoint.Options.
func (w *world) base(lsn smr.LSN) ([]byte, error) {
	w.check(w.log.Sync())
	reader, err := log.OpenReader(nil, filepath.Join(w.dir, "log"))
	w.check(err)
	defer reader.Close()
	base, err := reader.BaseAt(lsn)
	if err != nil {
		return nil, err
	}
	return base.AppendBinary(nil)
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// frame appends a frame and executes it.
func (w *world) frame(kind smr.Kind, count int, body []byte) {
	w.t.Helper()
	w.stamp += 1000
	raw := smr.AppendFrame(nil, smr.Frame{LSN: w.log.End(), Epoch: 7, Stamp: w.stamp, Kind: kind, Count: count, Body: body})
	f, err := smr.DecodeFrame(raw, w.log.End())
	w.check(err)
	w.check(w.log.Append(raw))
	w.raw = append(w.raw, raw...)
	w.frames++
	w.check(apply(w.machine, f))
}

// run executes a command in a frame of its own, one second later, and returns where it ends.
func (w *world) run(line string) smr.LSN {
	w.t.Helper()
	var args [][]byte
	for _, word := range strings.Fields(line) {
		args = append(args, []byte(word))
	}
	w.sequence++
	w.frame(smr.KindRequests, 1, smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: w.sequence, Payload: kv.AppendCommand(nil, args)}))
	return w.log.End()
}

// flush archives what is new.
func (w *world) flush() archive.Range {
	w.t.Helper()
	r, err := w.archive.Log().Append(context.Background(), archive.Content{
		From: w.from, Bytes: w.raw, FirstStamp: day, LastStamp: w.stamp, Frames: w.frames, Node: "n1",
	}, true)
	w.check(err)
	w.from, w.raw, w.frames = r.End, nil, 0
	return r
}

// take takes an image with an engine, and returns its directory.
func (w *world) take(e *checkpoint.Engine) (dir string, m *checkpoint.Manifest) {
	w.t.Helper()
	m, err := e.Take(context.Background(), still{w.machine})
	w.check(err)
	return filepath.Join(e.Images(), checkpoint.Name(m.LSN)), m
}

func (w *world) backup() Backup {
	w.t.Helper()
	dir, _ := w.take(w.engine)
	b, err := w.archive.Create(context.Background(), Source{Dir: dir, Label: "a label"})
	w.check(err)
	return b
}

func ask(t *testing.T, m *kv.Machine, line string) string {
	t.Helper()
	var args [][]byte
	for _, word := range strings.Fields(line) {
		args = append(args, []byte(word))
	}
	var reply resp.Reply
	m.Read(0, args, &reply)
	v, _, err := resp.Decode(reply.Buf)
	if err != nil {
		t.Fatal(err)
	}
	return v.Text
}

// load returns the machine of a restored node, and checks that its log begins where its image ends.
func load(t *testing.T, into, node string, result Restored) *kv.Machine {
	t.Helper()
	dir := filepath.Join(into, node)
	images, err := checkpoint.List(filepath.Join(KVDir(dir), "images"))
	if err != nil || len(images) != 1 || images[0].Err != nil {
		t.Fatalf("images of %s: %+v, %v", node, images, err)
	}
	m := kv.New()
	manifest, err := checkpoint.Load(images[0].Dir, m)
	if err != nil {
		t.Fatal(err)
	}
	base, err := log.ParseBase(manifest.Base)
	if err != nil || manifest.Cluster != result.Cluster || base.Cluster != result.Cluster || manifest.LSN != result.LSN || base.LSN != result.LSN {
		t.Errorf("image of cluster %q at %d, base of %q at %d, %v, want %+v", manifest.Cluster, manifest.LSN, base.Cluster, base.LSN, err, result)
	}
	_, state, found, err := openState(dir)
	if err != nil || !found || state.Cluster != result.Cluster || state.Promise != 0 || string(state.Node) != node || state.LogStart != result.LSN || !state.LogBegun {
		t.Errorf("hard state of %s: %+v, found %v, %v", node, state, found, err)
	}
	l, report, err := log.Open(log.Options{Dir: filepath.Join(dir, "log"), Cluster: result.Cluster, Group: "g1"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Start() != result.LSN || l.End() != result.LSN || report.Damage != nil || l.Position().Epoch != 1 {
		t.Errorf("log of %s: [%d, %d), position %v, %+v", node, l.Start(), l.End(), l.Position(), report)
	}
	return m
}

func openState(dir string) (*log.StateFile, log.State, bool, error) {
	file, state, found, err := log.OpenState(log.OS{}, filepath.Join(dir, "state"))
	if file != nil {
		err = errors.Join(err, file.Close())
	}
	return nil, state, found, err
}

func restoreTo(t *testing.T, w *world, target Target, change func(*Restore)) (Restored, string, error) {
	t.Helper()
	order := Restore{Target: target, Into: filepath.Join(w.dir, fmt.Sprintf("into-%d", rand.Uint64())), Nodes: []string{"n1", "n2"}, FileSize: 64 << 10}
	if change != nil {
		change(&order)
	}
	result, err := w.archive.Restore(context.Background(), order)
	leftovers, globErr := filepath.Glob(filepath.Join(w.dir, ".into-*"))
	if globErr != nil || len(leftovers) > 0 {
		t.Errorf("left behind: %v, %v", leftovers, globErr)
	}
	if err != nil {
		if _, statErr := os.Stat(order.Into); !errors.Is(statErr, fs.ErrNotExist) {
			t.Errorf("after %v: the target exists: %v", err, statErr)
		}
	}
	return result, order.Into, err
}

// What could go wrong: the restored state is not the one of the target: a frame too many or too few, another backup, or an image
// and a log that do not belong together. Every LSN of a history is restored and compared.
func TestEveryMomentCanBeRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	type moment struct {
		lsn    smr.LSN
		stamp  int64
		digest [32]byte
	}
	var moments []moment
	note := func() { moments = append(moments, moment{w.log.End(), w.stamp, w.machine.Digest()}) }
	w.run("set n 0")
	w.backup()
	note()
	for i := 1; i <= 8; i++ {
		w.run(fmt.Sprintf("set n %d", i))
		note()
		switch i {
		case 3:
			w.run("rpush list a b c")
			w.flush()
			note()
		case 5:
			w.backup()
		case 6:
			w.run("set gone 1 px 1500")
			note()
		}
	}
	w.flush()
	for i, m := range moments {
		target := []Target{{LSN: m.lsn}, {Time: time.UnixMilli(m.stamp + 999)}, {LSN: m.lsn + 10}}[i%3]
		if i == len(moments)-1 {
			target = Target{LSN: m.lsn}
		}
		result, into, err := restoreTo(t, w, target, func(r *Restore) { r.Nodes = []string{"n1"} })
		if err != nil {
			t.Fatalf("moment %d, %+v: %v", i, target, err)
		}
		if got := load(t, into, "n1", result); got.Digest() != m.digest || got.Applied() != m.lsn {
			t.Errorf("moment %d, %+v: another state at LSN %d", i, target, got.Applied())
		}
		_ = os.RemoveAll(into)
	}
	result, into, err := restoreTo(t, w, Target{}, func(r *Restore) { r.Cluster = "mine" })
	if err != nil || result.LSN != w.log.End() || result.Cluster != "mine" || result.Frames == 0 {
		t.Fatalf("newest: %+v, %v", result, err)
	}
	if got := ask(t, load(t, into, "n2", result), "get n"); got != "8" {
		t.Errorf("newest: n is %q", got)
	}
}

// What could go wrong: a restore that cannot be done right is done wrong, or says nothing that helps.
func TestImpossibleRestoresAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, _, err := restoreTo(t, w, Target{}, nil); err == nil || !strings.Contains(err.Error(), "backup create") {
		t.Errorf("no backup: %v", err)
	}
	before := w.run("set n 1")
	w.run("set n 2")
	b := w.backup()
	w.flush()
	inside := w.run("set n 3")
	gapStamp := w.stamp
	gap := w.flush()
	w.run("set n 4")
	last := w.flush()
	file := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join(w.root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		return found[0]
	}
	refused := func(name string, target Target, is error, says string, change func(*Restore)) {
		t.Helper()
		_, _, err := restoreTo(t, w, target, change)
		if err == nil || is != nil && !errors.Is(err, is) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", name, err, says)
		}
	}
	refused("before the first backup", Target{LSN: before}, ErrBefore, "choose a later target", nil)
	refused("before the first backup", Target{Time: time.UnixMilli(day)}, ErrBefore, "choose a later target", nil)
	refused("future", Target{LSN: last.End + 1000}, ErrFuture, "choose an earlier target", nil)
	refused("future", Target{Time: time.UnixMilli(w.stamp + 1)}, ErrFuture, "choose an earlier target", nil)
	refused("both", Target{LSN: 5, Time: time.UnixMilli(5)}, nil, "not both", nil)
	refused("no nodes", Target{}, nil, "name the nodes", func(r *Restore) { r.Nodes = nil })
	refused("bad node", Target{}, nil, "node", func(r *Restore) { r.Nodes = []string{"../x"} })
	refused("same cluster", Target{}, nil, "needs its own", func(r *Restore) { r.Cluster = "old" })
	refused("no such backup", Target{}, nil, "no backup of LSN 5", func(r *Restore) { r.Backup = 5 })
	full := filepath.Join(w.dir, "archive")
	if _, err := w.archive.Restore(context.Background(), Restore{Into: full, Nodes: []string{"n1"}}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("into what is there: %v", err)
	}

	object := file(fmt.Sprintf("old/g1/log/%020d-*.log.zst", uint64(gap.From)))
	content, err := os.ReadFile(object)
	w.check(err)
	flipped := append([]byte(nil), content...)
	flipped[len(flipped)/2] ^= 1
	w.check(os.WriteFile(object, flipped, 0o644))
	refused("flipped", Target{}, archive.ErrDamaged, "checksum", nil)
	v, err := w.archive.Verify(context.Background(), b.LSN)
	if !errors.Is(err, archive.ErrDamaged) || v.LogEnd >= last.End {
		t.Errorf("verify of a flipped range: %+v, %v", v, err)
	}
	w.check(os.WriteFile(object, content, 0o644))

	manifest := file(fmt.Sprintf("old/g1/log/%020d-*.json", uint64(gap.From)))
	kept, err := os.ReadFile(manifest)
	w.check(err)
	w.check(os.Remove(manifest))
	refused("gap", Target{}, archive.ErrGap, "what lies before the gap can be restored", nil)
	refused("behind the gap", Target{LSN: last.End}, archive.ErrGap, fmt.Sprintf("the log from %d to %d is missing", gap.From, gap.End), nil)
	refused("in the gap", Target{LSN: inside}, archive.ErrGap, "is missing", nil)
	refused("in the gap", Target{Time: time.UnixMilli(gapStamp)}, archive.ErrGap, "is missing", nil)
	if _, into, err := restoreTo(t, w, Target{LSN: b.LSN}, nil); err != nil {
		t.Errorf("before the gap: %v", err)
	} else {
		_ = os.RemoveAll(into)
	}
	if v, err := w.archive.Verify(context.Background(), b.LSN); err != nil || !errors.Is(v.Gap, archive.ErrGap) || v.LogEnd != gap.From {
		t.Errorf("verify with a gap: %+v, %v", v, err)
	}
	w.check(os.WriteFile(manifest, kept, 0o644))
	if v, err := w.archive.Verify(context.Background(), b.LSN); err != nil || v.Gap != nil || v.LogEnd != last.End || v.LogStamp != w.stamp || v.Frames == 0 || v.Files == 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}

	image := file(fmt.Sprintf("old/g1/images/%020d-*/*.sst", uint64(b.LSN)))
	content, err = os.ReadFile(image)
	w.check(err)
	content[len(content)/2] ^= 1
	w.check(os.WriteFile(image, content, 0o644))
	refused("flipped image", Target{}, archive.ErrDamaged, "checksum", nil)
	w.check(os.Remove(image))
	refused("missing file of the image", Target{}, archive.ErrDamaged, "is missing", nil)
	backups := file(fmt.Sprintf("old/g1/images/%020d.json", uint64(b.LSN)))
	w.check(os.WriteFile(backups, []byte("{}"), 0o644))
	refused("manifest of the backup", Target{}, archive.ErrDamaged, "checksum", nil)
}

// What could go wrong: a deleted backup is listed still, or leaves its files; the log that is dropped is needed by another.
func TestBackupsAreListedAndDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.run("set n 1")
	w.flush()
	first := w.backup()
	w.run("set n 2")
	w.flush()
	second := w.backup()
	w.run("set n 3")
	w.flush()
	list, problems, err := w.archive.List(ctx)
	if err != nil || len(problems) != 0 || len(list) != 2 || list[0].LSN != first.LSN || list[1].LSN != second.LSN || list[0].Label != "a label" || list[0].Bytes == 0 {
		t.Fatalf("%+v, %v, %v", list, problems, err)
	}
	drop := func() {
		t.Helper()
		p, err := w.archive.Plan(ctx, Keep{}, time.Now())
		if err != nil || len(p.Log) != 1 || len(p.Images) != 0 {
			t.Errorf("without bounds %+v is to be removed, %v", p, err)
		}
		w.check(w.archive.Remove(ctx, p))
	}
	drop()
	if v, err := w.archive.Verify(ctx, first.LSN); err != nil || v.Gap != nil || v.LogEnd != w.log.End() {
		t.Errorf("after that: %+v, %v", v, err)
	}
	if err := w.archive.Delete(ctx, first.LSN); err != nil {
		t.Error(err)
	}
	if err := w.archive.Delete(ctx, first.LSN); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted twice: %v", err)
	}
	drop()
	left, err := filepath.Glob(filepath.Join(w.root, "old/g1/images/*"))
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
	if result, into, err := restoreTo(t, w, Target{}, nil); err != nil {
		t.Error(err)
	} else if got := ask(t, load(t, into, "n1", result), "get n"); got != "3" {
		t.Errorf("n is %q", got)
	}
	if _, err := w.archive.Create(ctx, Source{Dir: filepath.Join(w.dir, "none")}); err == nil {
		t.Error("a backup of nothing")
	}
	other := Archive{Store: w.archive.Store, Cluster: "new", Group: "g1"}
	if _, err := other.Create(ctx, Source{Dir: filepath.Join(w.engine.Images(), checkpoint.Name(second.LSN))}); !errors.Is(err, checkpoint.ErrForeign) {
		t.Errorf("of another cluster: %v", err)
	}
}

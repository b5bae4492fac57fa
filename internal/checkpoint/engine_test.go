package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"lockstep/internal/kv"
	"lockstep/smr"
)

// node is a machine with a log of its own.
type node struct {
	mu       sync.RWMutex
	m        *kv.Machine
	lsn      smr.LSN
	sequence uint64
	stamp    int64
	// busy writes something whenever the engine has let the machine go.
	busy func()
}

func newNode() *node { return &node{m: kv.New(), stamp: 1_700_000_000_000} }

func (n *node) Between(use func(*kv.Machine)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	use(n.m)
}

func (n *node) Beside(use func(*kv.Machine)) {
	if n.busy != nil {
		n.busy()
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	use(n.m)
}

func (n *node) do(args ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := make([][]byte, len(args))
	for i, arg := range args {
		b[i] = []byte(arg)
	}
	n.sequence++
	n.stamp++
	n.m.Apply(kv.Instant{LSN: n.lsn, Stamp: n.stamp}, smr.Request{Session: 1, Sequence: n.sequence, Payload: kv.AppendCommand(nil, b)}, nil)
	n.lsn += 100
	n.m.Advance(n.stamp, n.lsn)
}

func (n *node) digest() [32]byte {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.m.Digest()
}

func engineAt(t testing.TB, fs vfs.FS, dir string) *Engine {
	t.Helper()
	return opened(t, false, Options{Dir: dir, FS: fs})
}

func take(t testing.TB, e *Engine, n *node) *Manifest {
	t.Helper()
	m, err := e.Take(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func restore(t testing.TB, e *Engine) (*kv.Machine, *Manifest) {
	t.Helper()
	m, manifest, err := e.Restore(kv.New)
	if err != nil {
		t.Fatal(err)
	}
	return m, manifest
}

// What could go wrong: an image misses what was written while it was taken, or holds it; a restart goes on from something else than
// the newest image; the store and the images drift apart over many images and restarts.
func TestImagesSurviveRestarts(t *testing.T) {
	t.Parallel()
	bothWays(t, imagesSurviveRestarts)
}

func imagesSurviveRestarts(t *testing.T, apart bool) {
	dir := t.TempDir()
	n := newNode()
	dice := rand.New(rand.NewPCG(1, 1))
	key := func() string { return "key" + strconv.Itoa(dice.IntN(500)) }
	change := func() {
		for range 20 {
			switch dice.IntN(12) {
			case 0:
				n.do("del", key(), key())
			case 1:
				n.do("rename", key(), key())
			case 2:
				n.do("sadd", "set"+strconv.Itoa(dice.IntN(2)), strconv.Itoa(dice.IntN(3000)), strconv.Itoa(dice.IntN(3000)))
			case 3:
				n.do("rename", "set0", "set1")
			case 4:
				if dice.IntN(60) == 0 {
					n.do("flushall")
				}
			default:
				n.do("set", key(), strings.Repeat("x", dice.IntN(200)))
			}
		}
	}
	n.busy = change
	e := opened(t, apart, Options{Dir: dir})
	for round := range 40 {
		for range 10 {
			change()
		}
		var digest [32]byte
		at := stateFunc{between: func(use func(*kv.Machine)) {
			n.Between(func(m *kv.Machine) {
				if use(m); digest == [32]byte{} {
					digest = m.Digest()
				}
			})
		}, beside: n.Beside}
		manifest, err := e.Take(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		if round%8 == 7 {
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			e = opened(t, apart, Options{Dir: dir})
			loaded, from := restore(t, e)
			if from.LSN != manifest.LSN || loaded.Digest() != digest {
				t.Fatalf("round %d: restored from %d, the last image is %d; digests equal: %v", round, from.LSN, manifest.LSN, loaded.Digest() == digest)
			}
			n.m, n.lsn, n.sequence, n.stamp = loaded, loaded.Applied(), loaded.LastSequence(1), loaded.Now()
		}
	}
	found, err := List(e.Images())
	if err != nil || len(found) != Keep {
		t.Fatalf("%d images remain: %v", len(found), err)
	}
	for _, image := range found {
		if _, err := Load(image.Dir, kv.New()); err != nil {
			t.Error(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

type stateFunc struct {
	between, beside func(func(*kv.Machine))
}

func (s stateFunc) Between(use func(*kv.Machine)) { s.between(use) }
func (s stateFunc) Beside(use func(*kv.Machine))  { s.beside(use) }

// What could go wrong: an image after a small change writes everything again, or the disk fills up with what images left.
func TestImageWritesWhatChanged(t *testing.T) {
	t.Parallel()
	bothWays(t, imageWritesWhatChanged)
}

func imageWritesWhatChanged(t *testing.T, apart bool) {
	dir := t.TempDir()
	n, e := newNode(), opened(t, apart, Options{Dir: dir})
	dice := rand.New(rand.NewPCG(1, 1))
	random := func() string {
		b := make([]byte, 100)
		for i := range b {
			b[i] = byte(dice.Uint32())
		}
		return string(b)
	}
	const keys = 10_000
	for i := range keys {
		n.do("set", "key:"+strconv.Itoa(i), random())
	}
	full := take(t, e, n)
	if full.Written != full.Bytes || full.Keys != keys {
		t.Fatalf("full image: %+v", full)
	}
	written := int64(0)
	const images = 36
	for range images {
		for range keys / 100 {
			n.do("set", "key:"+strconv.Itoa(dice.IntN(keys)), random())
		}
		m := take(t, e, n)
		written += m.Written
		if m.Written > full.Bytes/2 {
			t.Logf("written %d of %d, overlay %d", m.Written, m.Bytes, m.Overlay)
		} else if m.Written > full.Bytes/20 {
			t.Errorf("after a change of 1 %% an image wrote %d bytes, a full one %d", m.Written, full.Bytes)
		}
		if m.Bytes > 2*full.Bytes {
			t.Errorf("an image has %d bytes, a full one %d", m.Bytes, full.Bytes)
		}
	}
	t.Logf("full %d, then %d on average", full.Bytes, written/images)
	if written/images > full.Bytes/14 {
		t.Errorf("%d images wrote %d bytes", images, written)
	}
	if m := take(t, e, n); m != e.Last() || m.Written != e.Last().Written {
		t.Errorf("an image of the same LSN is taken twice: %+v", m)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// What could go wrong: a damaged image is loaded, or stops the node although there is an older one; or that of another cluster is
// taken for ours.
func TestDamagedImageFallsBack(t *testing.T) {
	t.Parallel()
	bothWays(t, damagedImageFallsBack)
}

func damagedImageFallsBack(t *testing.T, apart bool) {
	dir := t.TempDir()
	n, e := newNode(), opened(t, apart, Options{Dir: dir})
	n.do("set", "a", "1")
	first := take(t, e, n)
	digest := n.digest()
	n.do("set", "a", strings.Repeat("2", 5000))
	second := take(t, e, n)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	newest := filepath.Join(e.Images(), Name(second.LSN))
	for _, f := range append(second.Files, File{Name: ManifestName}) {
		if shared(first, f) {
			continue // hard links: the older image has that damage, too
		}
		path := filepath.Join(newest, f.Name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		damages := [][]byte{append([]byte("x"), whole...), nil}
		if len(whole) > 0 {
			damages = append(damages, whole[:len(whole)/2], flip(whole, len(whole)/2), flip(whole, 0))
		}
		for _, damaged := range damages {
			if err := os.WriteFile(path, damaged, 0o644); err != nil {
				t.Fatal(err)
			}
			if damaged == nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			e := opened(t, apart, Options{Dir: dir})
			m, from := restore(t, e)
			if from.LSN != first.LSN || m.Digest() != digest {
				t.Errorf("%s damaged: restored %d", f.Name, from.LSN)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// On top of the older one the next image is taken, and replaces the damaged one of the same LSN.
	if err := os.Remove(filepath.Join(newest, ManifestName)); err != nil {
		t.Fatal(err)
	}
	e = opened(t, apart, Options{Dir: dir})
	m, _ := restore(t, e)
	n = &node{m: m, lsn: m.Applied(), sequence: m.LastSequence(1), stamp: m.Now()}
	n.do("set", "a", strings.Repeat("2", 5000))
	if again := take(t, e, n); again.LSN != second.LSN {
		t.Errorf("image at %d, want %d", again.LSN, second.LSN)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := Open(Options{Dir: dir, Cluster: "c", Group: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Restore(kv.New); !errors.Is(err, ErrForeign) {
		t.Errorf("an image of another group: %v", err)
	}
}

func shared(m *Manifest, f File) bool {
	for _, other := range m.Files {
		if other == f {
			return true
		}
	}
	return false
}

func flip(b []byte, at int) []byte {
	flipped := append([]byte(nil), b...)
	flipped[at] ^= 0x10
	return flipped
}

// What could go wrong: a crash at some call leaves half an image that is taken for a whole one, or none at all. The file system is
// copied before every call as a crash would leave it, with nothing of what was not synced, and with some of it.
func TestCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, apart bool) { crashAtEveryCall(t, apart, Options{}) })
}

// The same must hold where values are cold, of the machine that takes images and of the one that is loaded.
func TestCrashAtEveryCallWithColdValues(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, apart bool) { crashAtEveryCall(t, apart, Options{Cold: true}) })
}

func crashAtEveryCall(t *testing.T, apart bool, options Options) {
	type crash struct {
		fs          *vfs.MemFS
		done, next  smr.LSN // the last image that was announced, and the one being taken
		description string
	}
	var mu sync.Mutex
	var crashes []crash
	var done, next atomic.Uint64
	dice := rand.New(rand.NewPCG(3, 3))
	disk := vfs.NewCrashableMem()
	fs := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		c := crash{done: smr.LSN(done.Load()), next: smr.LSN(next.Load()), description: fmt.Sprint(op)}
		for _, percent := range []int{0, 50} {
			c.fs = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: dice})
			crashes = append(crashes, c)
		}
		return nil
	}))
	makeData(t, disk)
	n := newNode()
	options.Dir, options.Cluster, options.Group, options.FS = "/data", "c", "g", fs
	e := opened(t, apart, options)
	n.m.SetTier(allIdle{})
	digests := map[smr.LSN][32]byte{}
	for i := range 4 {
		for j := range 30 {
			n.do("set", "key"+strconv.Itoa(i*j), strconv.Itoa(j))
			n.do("sadd", "set", strconv.Itoa(i*1000+j))
		}
		if i == 3 {
			n.do("flushall")
		}
		digests[n.lsn] = n.digest()
		next.Store(uint64(n.lsn))
		m := take(t, e, n)
		done.Store(uint64(m.LSN))
		n.m.Chill(0, 1000)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	fresh := [32]byte{}
	for _, c := range crashes {
		options.FS = c.fs
		e, err := Open(options)
		if err != nil {
			t.Fatalf("crash before %s: %v", c.description, err)
		}
		m, manifest, err := e.Restore(kv.New)
		switch {
		case err != nil:
			t.Fatalf("crash before %s: %v", c.description, err)
		case m == nil:
			if c.done != 0 {
				t.Fatalf("crash before %s: image %d is lost", c.description, c.done)
			}
		case manifest.LSN != c.done && manifest.LSN != c.next || m.Digest() != digests[manifest.LSN] || m.Digest() == fresh:
			t.Fatalf("crash before %s: restored %d, done was %d, taken was %d", c.description, manifest.LSN, c.done, c.next)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d crashes", len(crashes))
	if len(crashes) < 200 {
		t.Error("too few: the calls are not seen")
	}
}

// makeData makes the data directory, durable.
func makeData(t testing.TB, disk vfs.FS) {
	t.Helper()
	err := disk.MkdirAll("/data", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	root, err := disk.OpenDir("/")
	if err == nil {
		err = errors.Join(root.Sync(), root.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What could go wrong: a disk that is full stops the node, leaves a mixture for an image, or is never tried again.
func TestFullDiskHarmsNothing(t *testing.T) {
	t.Parallel()
	bothWays(t, fullDiskHarmsNothing)
}

func fullDiskHarmsNothing(t *testing.T, apart bool) {
	for _, pattern := range []string{".sst", "MANIFEST", "image.json", "OPTIONS", "room"} {
		disk := vfs.NewCrashableMem()
		makeData(t, disk)
		var full atomic.Bool
		fs := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if !full.Load() || op.Kind.ReadOrWrite() == errorfs.OpIsRead {
				return nil
			}
			switch op.Kind {
			case errorfs.OpFileWrite, errorfs.OpCreate, errorfs.OpFileWriteAt, errorfs.OpFileSync:
				if strings.Contains(op.Path, pattern) {
					return syscall.ENOSPC
				}
			}
			return nil
		}))
		n, e := newNode(), opened(t, apart, Options{Dir: "/data", FS: fs})
		n.do("set", "a", "1")
		n.do("set", "b", "1")
		first := take(t, e, n)
		n.do("set", "a", "2")
		full.Store(true)
		if pattern == "room" {
			disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: reserve - 1, TotalBytes: 1 << 30})
		}
		for range 2 {
			_, err := e.Take(t.Context(), n)
			if err == nil {
				t.Fatalf("%s: an image was taken on a full disk", pattern)
			}
			if pattern == "room" && !errors.Is(err, ErrNoSpace) {
				t.Errorf("no room: %v", err)
			}
			n.do("set", "c", "3")
		}
		if e.Last() == nil || e.Last().LSN != first.LSN {
			t.Errorf("%s: the last image is %+v", pattern, e.Last())
		}
		full.Store(false)
		disk.TestingSetDiskUsage(vfs.DiskUsage{})
		n.do("set", "d", "4")
		m := take(t, e, n)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		// Another process: what was abandoned in this one holds its lock.
		e = opened(t, apart, Options{Dir: "/data", FS: disk.CrashClone(vfs.CrashCloneCfg{})})
		loaded, from := restore(t, e)
		if from.LSN != m.LSN || loaded.Digest() != n.digest() {
			t.Errorf("%s: restored %d, taken was %d", pattern, from.LSN, m.LSN)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What could go wrong: a node that ends while an image is taken waits for it, or leaves half of one.
func TestTakeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	bothWays(t, takeEndsWithItsContext)
}

func takeEndsWithItsContext(t *testing.T, apart bool) {
	n, e := newNode(), opened(t, apart, Options{Dir: t.TempDir()})
	for i := range 5000 {
		n.do("set", strconv.Itoa(i), "1")
	}
	ctx, cancel := context.WithCancel(t.Context())
	n.busy = cancel
	if _, err := e.Take(ctx, n); !errors.Is(err, context.Canceled) {
		t.Errorf("Take returned %v", err)
	}
	if found, err := List(e.Images()); err != nil || len(found) != 0 {
		t.Errorf("images: %v, %v", found, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// What could go wrong: a node that is started again after each image keeps in its images what changed since, again and again, until
// loading one takes much longer than its rows need. (Found by the row image-load of `smrctl bench figures`: 277 MB for 121.)
func TestImagesStaySmallOverRestarts(t *testing.T) {
	t.Parallel()
	bothWays(t, imagesStaySmallOverRestarts)
}

func imagesStaySmallOverRestarts(t *testing.T, apart bool) {
	dir, n, dice := t.TempDir(), newNode(), rand.New(rand.NewPCG(9, 9))
	set := func(i int) {
		value := make([]byte, 100)
		for j := range value {
			value[j] = byte(dice.Uint32())
		}
		n.do("set", "key"+strconv.Itoa(i), string(value))
	}
	for i := range 4000 {
		set(i)
	}
	e := opened(t, apart, Options{Dir: dir})
	full := take(t, e, n).Bytes
	compacted := false
	for round := range 12 {
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = opened(t, apart, Options{Dir: dir})
		m, manifest := restore(t, e)
		if m.Digest() != n.digest() {
			t.Fatalf("round %d: another state", round)
		}
		n.m = m
		for range 600 {
			set(dice.IntN(4000))
		}
		made := take(t, e, n)
		compacted = compacted || made.Overlay == 0
		if made.Bytes > full*2 || made.Overlay > made.Bytes*compactPercent/100 {
			t.Errorf("round %d: an image of %d bytes with an overlay of %d behind one of %d, and a full one of %d", round, made.Bytes, made.Overlay, manifest.Bytes, full)
		}
	}
	if !compacted {
		t.Error("the store was never put in order")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

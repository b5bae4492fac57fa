package checkpoint

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// allIdle is a kv.Tier for which every value may become cold.
type allIdle struct{}

func (allIdle) Used(byte, uint64)      {}
func (allIdle) Idle(byte, uint64) bool { return true }
func (allIdle) Read(kv.ReadBack)       {}

// failingWrites returns a file system on which writes of files with a pattern in their name fail while it is not empty.
func failingWrites(disk vfs.FS) (vfs.FS, *atomic.Pointer[string]) {
	var pattern atomic.Pointer[string]
	return errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		fails := pattern.Load()
		switch op.Kind {
		case errorfs.OpFileWrite, errorfs.OpCreate, errorfs.OpFileWriteAt, errorfs.OpFileSync:
			if fails != nil && strings.Contains(op.Path, *fails) {
				return syscall.ENOSPC
			}
		}
		return nil
	})), &pattern
}

// What could go wrong: a row that a cold value needs is not carried over: by an image, one that fails, the full one behind that, by rows
// that are put in order, a restart, or an image of a peer that is loaded; or it is read from files that were removed. Everything happens at
// random while most values are cold, and digests are compared with those of a twin that keeps all values in memory.
func TestColdRowsAreCarriedOver(t *testing.T) {
	t.Parallel()
	bothWays(t, coldRowsAreCarriedOver)
}

func coldRowsAreCarriedOver(t *testing.T, apart bool) {
	dice := rand.New(rand.NewPCG(5, 5))
	disk := vfs.NewMem()
	fs, pattern := failingWrites(disk)
	n, twin := newNode(), newNode()
	n.m.SetTier(allIdle{})
	options := Options{Dir: "/data", Cluster: "c", Group: "g", FS: fs, Cold: true, Warm: 20_000}
	e := opened(t, apart, options)
	both := func(args ...string) {
		n.do(args...)
		twin.do(args...)
	}
	key := func() string { return "key" + strconv.Itoa(dice.IntN(300)) }
	change := func() {
		for range 5 {
			switch dice.IntN(12) {
			case 0:
				both("del", key(), key())
			case 1:
				both("rename", key(), key())
			case 2:
				both("sadd", "set"+strconv.Itoa(dice.IntN(2)), strconv.Itoa(dice.IntN(3000)), strconv.Itoa(dice.IntN(3000)))
			case 3:
				both("rename", "set0", "set1")
			case 4:
				both("pexpire", key(), strconv.Itoa(dice.IntN(3000)))
			case 5:
				both("append", key(), "more")
			case 6:
				if dice.IntN(40) == 0 {
					both("flushall")
				}
			case 7:
				for range 100 {
					both("rpush", "list", strconv.Itoa(dice.IntN(1e9))+strings.Repeat("y", dice.IntN(100)))
				}
			case 8:
				both("copy", key(), key())
			default:
				both("set", key(), strings.Repeat("x", dice.IntN(200)))
			}
		}
	}
	chill := func() { n.Between(func(m *kv.Machine) { m.Chill(0, 100_000) }) }
	n.busy = func() {
		change()
		if dice.IntN(3) == 0 {
			chill()
		}
	}
	fill := func() {
		for i := range 3000 {
			both("sadd", "set0", strconv.Itoa(i))
		}
		for i := range 300 {
			both("set", "key"+strconv.Itoa(i), strings.Repeat("x", 50+i))
		}
	}
	fill()
	failed, restarts, cold := 0, 0, 0
	patterns := []string{".sst", "OPTIONS", "image.json"}
	for round := range 60 {
		change()
		if dice.IntN(12) == 0 {
			fill()
		}
		if dice.IntN(4) == 0 {
			pattern.Store(&patterns[dice.IntN(len(patterns))])
		}
		_, err := e.Take(t.Context(), n)
		pattern.Store(nil)
		if errors.Is(err, ErrCold) {
			t.Fatalf("round %d: %v", round, err)
		}
		if err != nil {
			failed++
		}
		chill()
		if n.digest() != twin.digest() {
			t.Fatalf("round %d: the twin differs", round)
		}
		cold += n.m.TierStats().Keys
		if dice.IntN(5) > 0 {
			continue
		}
		if take(t, e, n); dice.IntN(2) == 0 { // a machine that goes on as after an image of a peer
			before := n.m
			m, _, err := e.RestoreAt(e.Last().LSN, kv.New)
			if err != nil {
				t.Fatal(err)
			}
			before.Digest()
			e.ReleaseCold()
			n.m = m
		} else {
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			e = opened(t, apart, options)
			n.m, _ = restore(t, e)
		}
		restarts++
		n.m.SetTier(allIdle{})
		n.lsn, n.sequence = n.m.Applied(), n.m.LastSequence(1)
		twin.m = catchUp(t, e)
		twin.lsn, twin.sequence, twin.stamp = n.lsn, n.sequence, n.m.Now()
		n.stamp = twin.stamp
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := disk.List("/data"); err != nil || len(left) > 3 {
		t.Errorf("left behind are %q, %v", left, err)
	}
	if failed < 5 || restarts < 5 || cold < 2000 {
		t.Errorf("too little happened: %d images failed, %d restarts, %d cold keys", failed, restarts, cold)
	}
}

// catchUp returns what the newest image holds, all of it in memory.
func catchUp(t *testing.T, e *Engine) *kv.Machine {
	t.Helper()
	m := kv.New()
	if err := loadRows(e.cold.db, e.Last(), m, kv.LoadImage); err != nil {
		t.Fatal(err)
	}
	return m
}

// What could go wrong: bytes of a cold value that rotted on the disk become a reply, or make the key vanish; or the image that is taken next
// holds them. The machine must stop, and a start must not take that image.
func TestRottenColdRowStops(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := newNode()
	n.m.SetTier(allIdle{})
	options := Options{Dir: dir, Cluster: "c", Group: "g", Cold: true}
	e, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	dice := rand.New(rand.NewPCG(6, 6))
	for i := range 2000 {
		text := make([]byte, 100)
		for j := range text {
			text[j] = byte(dice.Uint32())
		}
		n.do("set", "key"+strconv.Itoa(i), string(text))
	}
	take(t, e, n)
	n.m.Chill(0, 100_000)
	if got := n.m.TierStats().Keys; got != 2000 {
		t.Fatalf("%d cold keys", got)
	}
	files, err := filepath.Glob(filepath.Join(e.cold.dir, "*.sst"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for at := 100; at < len(b)*3/4; at += 5000 {
			if _, err := f.WriteAt([]byte{^b[at]}, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	stopped := 0
	for i := range 10 { // pebble takes its time to find out which bit it was
		func() {
			defer func() {
				if p := recover(); p != nil {
					if _, ok := p.(*kv.Damage); !ok {
						panic(p)
					}
					stopped++
				}
			}()
			var reply resp.Reply
			n.m.Read(0, [][]byte{[]byte("get"), []byte("key" + strconv.Itoa(i))}, &reply)
			if !bytes.HasPrefix(reply.Buf, []byte("$100\r\n")) {
				t.Errorf("key %d: %q", i, reply.Buf)
			}
		}()
	}
	if stopped < 5 {
		t.Errorf("%d of 10 reads stopped the machine", stopped)
	}
	n.do("pexpire", "key0", "100000")
	n.m.BeginImage(true) // so that the next one copies
	n.m.EndImage(false)
	if err := e.store.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Take(t.Context(), n); !errors.Is(err, ErrCold) {
		t.Errorf("an image of rotten rows: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if e, err = Open(options); err != nil {
		t.Fatal(err)
	}
	if m, _, err := e.Restore(kv.New); m != nil || !errors.Is(err, ErrDamaged) {
		t.Errorf("a start from rotten rows: %v", err)
	}
}

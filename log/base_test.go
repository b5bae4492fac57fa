package log_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"

	"github.com/cespare/xxhash/v2"
)

// What could go wrong: BaseAt misses the frames of an earlier file, counts the file's own twice, or takes what is no frame
// boundary; a log that begins there then contradicts the others. Every LSN of a log of many files is asked for.
func TestBaseAtTellsWhatTheStreamBelowAmountsTo(t *testing.T) {
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	must(t, err)
	w := &twin{}
	for _, size := range []int{0, 100, 3000, 9000, 0, 4096 - 72, 12, 700, 5000, 0, 60} {
		frame := w.epoch
		if size > 0 {
			frame = func() []byte { return w.frame(size) }
		}
		must(t, l.Append(frame()))
	}
	must(t, l.Sync())
	r, err := log.OpenReader(fs, dir)
	must(t, err)
	defer r.Close()
	for lsn := smr.LSN(0); lsn <= w.end(); lsn++ {
		if !w.boundary(lsn) {
			if lsn%61 == 0 {
				if _, err := r.BaseAt(lsn); err == nil {
					t.Fatalf("a base at %d, which is no frame boundary", lsn)
				}
			}
			continue
		}
		base, err := r.BaseAt(lsn)
		must(t, err)
		must(t, checkBase(w, base, lsn))
		encoded, err := base.AppendBinary([]byte("before"))
		must(t, err)
		parsed, err := log.ParseBase(encoded[len("before"):])
		must(t, err)
		if fmt.Sprint(parsed) != fmt.Sprint(base) {
			t.Fatalf("parsed as %v, it was %v", parsed, base)
		}
	}
	if _, err := r.BaseAt(w.end() + 100); err == nil {
		t.Fatal("a base behind the end")
	}
}

func checkBase(w *twin, base log.Base, lsn smr.LSN) error {
	var stamp int64
	var commit smr.LSN
	for _, f := range w.frames {
		if f.LSN < lsn {
			stamp, commit = f.Stamp, max(commit, f.Commit)
		}
	}
	switch {
	case base.LSN != lsn, base.Stamp != stamp, base.Commit != commit, !slices.Equal(base.History, w.historyAt(lsn)):
		return fmt.Errorf("base at %d is %+v", lsn, base)
	case base.Digest() != xxhash.Sum64(w.stream[:lsn]):
		return fmt.Errorf("digest of the base at %d differs", lsn)
	case base.Cluster != "cluster" || base.Group != "g1":
		return fmt.Errorf("base of cluster %q group %q", base.Cluster, base.Group)
	}
	return nil
}

// What could go wrong: after a trim, or in a log that itself begins at a base, the base is wrong or below Start.
func TestBaseAtKnowsWhereTheLogStarts(t *testing.T) {
	w := &twin{}
	w.epoch()
	for range 12 {
		w.frame(1500)
	}
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	must(t, err)
	base, err := baseOf(w, w.frames[5].LSN)
	must(t, err)
	must(t, l.BeginAt(base))
	must(t, l.Append(w.stream[base.LSN:]))
	must(t, l.Sync())
	r, err := log.OpenReader(fs, dir)
	must(t, err)
	defer r.Close()
	check := func() {
		t.Helper()
		for _, f := range w.frames {
			base, err := r.BaseAt(f.LSN)
			if f.LSN >= l.Start() {
				must(t, err)
				must(t, checkBase(w, base, f.LSN))
			} else if f.LSN > 0 && !errors.Is(err, log.ErrTrimmed) {
				t.Fatalf("base at %d, below Start %d: %v", f.LSN, l.Start(), err)
			}
		}
	}
	check()
	must(t, l.TrimTo(w.frames[10].LSN))
	if l.Start() <= base.LSN {
		t.Fatal("nothing was trimmed")
	}
	check()
}

// What could go wrong: a Base that a disk or a network changed is believed.
func TestDamagedBaseIsRefused(t *testing.T) {
	w := &twin{}
	w.epoch()
	w.frame(100)
	w.epoch()
	base, err := baseOf(w, w.end())
	must(t, err)
	good, err := base.AppendBinary(nil)
	must(t, err)
	for bit := range len(good) * 8 {
		bad := slices.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := log.ParseBase(bad); !errors.Is(err, log.ErrCorrupt) && !errors.Is(err, log.ErrNewerFormat) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
	}
	for n := range good {
		if _, err := log.ParseBase(good[:n]); !errors.Is(err, log.ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := log.ParseBase(append(slices.Clone(good), 0)); !errors.Is(err, log.ErrCorrupt) {
		t.Fatalf("a byte more: %v", err)
	}
}

// The bytes of a Base, so that the drawing in doc.go cannot lie.
func TestBaseBytes(t *testing.T) {
	w := &twin{}
	w.epoch()
	w.frame(100)
	w.epoch()
	base, err := baseOf(w, w.end())
	must(t, err)
	encoded, err := base.AppendBinary(nil)
	must(t, err)
	compareBytes(t, "base", encoded, baseBytes)
}

// What could go wrong: a log begins at what is no place to begin, or is unusable after it has refused to.
func TestBeginRefusesWhatCannotBe(t *testing.T) {
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	must(t, err)
	w := &twin{}
	must(t, l.Append(w.epoch()))
	must(t, l.Sync())
	good, err := baseOf(w, w.end())
	must(t, err)
	foreign, zero, high, odd := good, log.Base{Cluster: "cluster", Group: "g1"}, good, good
	foreign.Group = "g2"
	high.LSN = ^smr.LSN(0) - 5
	odd.History = smr.History{{Epoch: 1, From: good.LSN}}
	for name, base := range map[string]log.Base{"foreign": foreign, "zero": zero, "high": high, "odd": odd} {
		if err := l.BeginAt(base); err == nil || (name == "foreign") != errors.Is(err, log.ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
	fs.SetCapacity(fs.Used())
	if err := l.BeginAt(good); !errors.Is(err, log.ErrFull) {
		t.Errorf("on a full device: %v", err)
	}
	fs.SetCapacity(0)
	must(t, w.check(fs, l))
	must(t, l.BeginAt(good))
	must(t, w.check(fs, l))
	if l.Start() != good.LSN || l.End() != good.LSN || l.Durable() != good.LSN {
		t.Errorf("the log holds %d to %d, durable %d", l.Start(), l.End(), l.Durable())
	}
}

// What could go wrong: the file that takes the place of all others is damaged between a crash and the next start, and
// recovery removes the others for it, or takes what is left for a good log. Any bit of it may flip.
func TestDamageToABeginningIsFound(t *testing.T) {
	w := &twin{}
	w.epoch()
	w.frame(9000)
	base, err := baseOf(w, w.end())
	must(t, err)
	begun := simfs.New()
	l, _, err := log.Open(options(begun))
	must(t, err)
	must(t, l.Append(w.stream))
	must(t, l.Sync())
	var crashed *simfs.FS
	begun.SetHook(func(c simfs.Call) simfs.Verdict {
		return simfs.Verdict{CrashBefore: c.Label == log.LabelBeginRemove}
	})
	if err := l.BeginAt(base); !errors.Is(err, simfs.ErrCrashed) {
		t.Fatal(err)
	}
	crashed = begun.Crashed(simfs.Image{Pages: simfs.Kept, Names: simfs.Kept})
	name := dir + "/begin"
	content, err := crashed.ReadFile(name)
	must(t, err)
	each(t, len(content), sampled(func(n int) error {
		if n%7 != 0 && n < 4096 {
			return nil // zeros of the data part
		}
		fs := crashed.Crashed(simfs.Image{Pages: simfs.Kept, Names: simfs.Kept})
		if err := fs.FlipBit(name, int64(n-1), uint(n%8)); err != nil {
			return err
		}
		l, report, err := log.Open(options(fs))
		switch {
		case errors.Is(err, log.ErrNewerFormat), errors.Is(err, log.ErrForeign):
			return nil // nothing was touched
		case err != nil:
			return err
		case report.Damage == nil && (l.Start() != base.LSN || l.End() != base.LSN || l.Position() != base.Position()):
			return fmt.Errorf("the log holds %d to %d", l.Start(), l.End())
		case report.Damage != nil && strings.Contains(strings.Join(fs.Files(), " "), dir+"/0"):
			return errors.New("damage was found, and files are left")
		}
		return l.Close()
	}))
}

// What could go wrong: a reader of a log that begins anew below it reads a hole, or hears of damage.
func TestReaderSeesALogBeginAnew(t *testing.T) {
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	must(t, err)
	w := &twin{}
	must(t, l.Append(w.epoch()))
	for range 10 {
		must(t, l.Append(w.frame(3000)))
	}
	must(t, l.Sync())
	r, err := log.OpenReader(fs, dir)
	must(t, err)
	defer r.Close()
	if _, _, err := r.Frames(nil, 0, l.End(), func(smr.Frame, []byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	end := l.End()
	for range 10 {
		w.frame(3000)
	}
	base, err := baseOf(w, w.end())
	must(t, err)
	must(t, l.BeginAt(base))
	for _, lsn := range []smr.LSN{0, 5000, end - 100} {
		if _, err := r.ReadAt(make([]byte, 100), lsn, end); !errors.Is(err, log.ErrTrimmed) {
			t.Errorf("read at %d: %v", lsn, err)
		}
	}
	must(t, l.Append(w.frame(300)))
	got := make([]byte, 372)
	if n, err := r.ReadAt(got, base.LSN, l.End()); err != nil || n != len(got) || string(got) != string(w.stream[base.LSN:]) {
		t.Errorf("%d bytes from the base on: %v", n, err)
	}
}

func FuzzParseBase(f *testing.F) {
	w := &twin{}
	w.epoch()
	w.frame(10)
	base, err := baseOf(w, w.end())
	if err != nil {
		f.Fatal(err)
	}
	good, _ := base.AppendBinary(nil)
	f.Add(good)
	f.Add(good[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		base, err := log.ParseBase(b)
		if err != nil {
			return
		}
		again, _ := base.AppendBinary(nil)
		if hex.EncodeToString(again) != hex.EncodeToString(b) {
			t.Fatalf("%x encodes as %x", b, again)
		}
	})
}

const baseBytes = `
	6c 73 74 70 62 61 73 65  01 00 00 00 94 2a 34 ae
	50 01 00 00 00 00 00 00  09 00 00 00 00 00 00 00
	00 00 00 00 00 00 00 00  02 00 00 00 78 78 68 06
	0c 00 38 0b 22 98 81 c6  c2 a9 94 7f c4 50 c0 b3
	e5 ff 63 c1 f0 71 54 49  d9 51 5d e3 0f 14 45 8b
	50 01 00 00 00 00 00 00  01 00 02 6e 31 02 6e 31
	04 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
	00 00 00 00 00 00 00 00  07 63 6c 75 73 74 65 72
	02 67 31 01 00 00 00 00  00 00 00 00 00 00 00 00
	00 00 00 02 00 00 00 00  00 00 00 fe 00 00 00 00
	00 00 00`

// What could go wrong: a flipped bit makes a frame look as if it went on behind its file, and a boundary within it is taken for none: a KV node
// that has executed up to there then takes its state for that of another stream.
func TestDamageIsNoMissingBoundary(t *testing.T) {
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	must(t, err)
	w := &twin{}
	must(t, l.Append(w.epoch()))
	for _, size := range []int{100, 3000, 200, 9000, 700, 300, 60, 2000, 3000, 500} {
		must(t, l.Append(w.frame(size)))
	}
	must(t, l.Sync())
	// Intact: what lies in a frame, also in one that goes on in another file, is no boundary.
	r, err := log.OpenReader(fs, dir)
	must(t, err)
	for lsn := smr.LSN(0); lsn <= w.end(); lsn += 13 {
		if _, err := r.BaseAt(lsn); !w.boundary(lsn) && !errors.Is(err, log.ErrNoBorder) {
			t.Fatalf("base at %d, in the middle of a frame: %v", lsn, err)
		}
	}
	must(t, r.Close())
	const fileData = 4096 // options; a file begins with it
	longer := 0
	for _, f := range w.frames {
		for bit := range uint(32) {
			at := f.LSN + 4 + smr.LSN(bit/8) // its length
			name := ""
			for _, candidate := range logFiles(fs) {
				base, err := strconv.ParseUint(candidate[strings.LastIndexByte(candidate, '/')+1:], 10, 64)
				must(t, err)
				if smr.LSN(base) <= at && at < smr.LSN(base)+fileData {
					name, at = candidate, at-smr.LSN(base)
					break
				}
			}
			damaged := fs.Clone()
			must(t, damaged.FlipBit(name, int64(at), bit%8))
			r, err := log.OpenReader(damaged, dir)
			must(t, err)
			for _, later := range w.frames {
				if _, err := r.BaseAt(later.LSN); errors.Is(err, log.ErrNoBorder) {
					t.Fatalf("bit %d of the length of the frame at %d in %s is flipped: base at %d: %v", bit, f.LSN, name, later.LSN, err)
				} else if errors.Is(err, log.ErrCorrupt) {
					longer++
				}
			}
			must(t, r.Close())
		}
	}
	if longer == 0 {
		t.Fatal("no flipped bit was found")
	}
}

package log_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
)

// finished returns a small log that was closed in good order: three files, a frame across each border, two epochs.
func finished(t testing.TB) *run {
	r := &run{fs: simfs.New(), w: &twin{}}
	name, err := r.play([]step{
		openStep, epochStep, appendStep(100, 900), syncStep, appendStep(3500), syncStep, epochStep, appendStep(300), syncStep,
		appendStep(4000, 50), syncStep, appendStep(20), closeStep,
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r
}

func logFiles(fs *simfs.FS) []string {
	var names []string
	for _, name := range fs.Files() {
		if strings.HasPrefix(name, dir+"/0") {
			names = append(names, name)
		}
	}
	return names
}

// What could go wrong: a flipped bit passes as data, or is taken for a torn tail and shortens the log. One bit in each
// byte of every file that means anything is flipped: Open either finds the whole log, unchanged, or reports damage; and a reader that looks
// at files that were not verified hands out good bytes or an error.
func TestEveryFlippedBitIsDetected(t *testing.T) {
	base := finished(t)
	var damaged, whole atomic.Int64
	for _, name := range logFiles(base.fs) {
		content, err := base.fs.ReadFile(name)
		must(t, err)
		each(t, len(content), sampled(func(n int) error {
			at := n - 1
			if at >= 4096 && at%16 != 0 && content[at] == 0 {
				return nil // zeros that fill a block are all checked by one comparison
			}
			bits := []uint{uint(at*5+at/8) % 8}
			if at%67 == 0 {
				bits = []uint{0, 1, 2, 3, 4, 5, 6, 7}
			}
			for _, bit := range bits {
				found, err := flipped(base, name, content, at, bit)
				if err != nil {
					return fmt.Errorf("%s byte %d bit %d: %w", name, at, bit, err)
				}
				if found {
					damaged.Add(1)
				} else {
					whole.Add(1)
				}
			}
			return nil
		}))
	}
	t.Logf("%d reported as damage, %d repaired or harmless", damaged.Load(), whole.Load())
}

// flipped flips one bit and reports whether Open found damage; otherwise all must be well.
func flipped(base *run, name string, content []byte, at int, bit uint) (damage bool, err error) {
	fs := base.fs.Clone()
	if err := fs.FlipBit(name, int64(at), bit); err != nil {
		return false, err
	}
	if at < 4096 || content[at] != 0 {
		if err := readUnverified(base, fs); err != nil {
			return false, err
		}
	}
	l, report, err := log.Open(options(fs))
	if err != nil {
		return false, err
	}
	if report.Damage != nil {
		if l.End() != 0 || len(logFiles(fs)) != 0 {
			return true, errors.New("damaged log is not empty")
		}
		return true, nil
	}
	// Behind End the file is unused: there a flipped bit is zeroed like anything else.
	unused := name == logFiles(base.fs)[2] && at >= int(base.w.end())-8192 && at < 4096
	if l.End() != base.w.end() || report.CutBytes != 0 && !unused {
		return false, fmt.Errorf("log ends at %d instead of %d, %d bytes were cut", l.End(), base.w.end(), report.CutBytes)
	}
	// Where the last file's seal will be written over it, a stray bit is nobody's business.
	unused = unused || name == logFiles(base.fs)[2] && at >= 3*4096 && at < 4*4096
	if again, _ := fs.ReadFile(name); !unused && len(report.Repaired) == 0 && again[at] == content[at]^1<<bit {
		return false, errors.New("neither reported nor repaired")
	}
	return false, base.w.check(fs, l)
}

// readUnverified reads everything without Open.
func readUnverified(base *run, fs *simfs.FS) error {
	err := base.w.checkReader(fs, 0, base.w.end())
	if err != nil && !errors.Is(err, log.ErrCorrupt) && !errors.Is(err, log.ErrNewerFormat) {
		return fmt.Errorf("reader: %w", err)
	}
	return nil
}

// What could go wrong: a file is lost, cut, doubled or swapped, and the rest looks like a good log.
func TestFileSurgeryIsDamage(t *testing.T) {
	base := finished(t)
	names := logFiles(base.fs)
	if len(names) != 3 {
		t.Fatalf("%d files", len(names))
	}
	contents := make([][]byte, 3)
	for i, name := range names {
		contents[i], _ = base.fs.ReadFile(name)
	}
	older := finishedOlder(t)
	for name, operate := range map[string]func(fs *simfs.FS){
		"last file missing":   func(fs *simfs.FS) { must(t, fs.Remove("", names[2])) },
		"middle file missing": func(fs *simfs.FS) { must(t, fs.Remove("", names[1])) },
		"last two missing":    func(fs *simfs.FS) { must(t, fs.Remove("", names[1])); must(t, fs.Remove("", names[2])) },
		"last file empty":     func(fs *simfs.FS) { fs.WriteFile(names[2], nil) },
		"last file cut":       func(fs *simfs.FS) { fs.WriteFile(names[2], contents[2][:5000]) },
		"first file cut":      func(fs *simfs.FS) { fs.WriteFile(names[0], contents[0][:len(contents[0])-1]) },
		"first file longer":   func(fs *simfs.FS) { fs.WriteFile(names[0], append(bytes.Clone(contents[0]), 0)) },
		"files swapped": func(fs *simfs.FS) {
			fs.WriteFile(names[0], contents[1])
			fs.WriteFile(names[1], contents[0])
		},
		"file doubled": func(fs *simfs.FS) { fs.WriteFile(names[1], contents[0]) },
		"file of another history": func(fs *simfs.FS) {
			other, _ := older.fs.ReadFile(names[1])
			fs.WriteFile(names[1], other)
		},
		"last file zeroed": func(fs *simfs.FS) { fs.WriteFile(names[2], make([]byte, len(contents[2]))) },
		"last data zeroed": func(fs *simfs.FS) {
			fs.WriteFile(names[2], append(make([]byte, 4096), contents[2][4096:]...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := base.fs.Clone()
			operate(fs)
			_, report, err := log.Open(options(fs))
			must(t, err)
			if report.Damage == nil {
				t.Fatalf("taken for good: %+v", report)
			}
			if report.Damage.File == "" || report.Damage.Reason == "" {
				t.Fatalf("damage without place or reason: %+v", report.Damage)
			}
			if _, err := fs.ReadFile(report.Damage.Quarantine + "/report.txt"); err != nil {
				t.Fatalf("no report: %v", err)
			}
		})
	}
}

// finishedOlder is a log whose files have the same names as finished's and other bytes.
func finishedOlder(t testing.TB) *run {
	r := &run{fs: simfs.New(), w: &twin{seed: 100}}
	name, err := r.play([]step{openStep, epochStep, appendStep(4000, 5000), closeStep})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r
}

// What could go wrong: a bit that rotted behind the last durable mark is taken for a tear, though no tear looks like
// that; or a real tear is taken for damage and costs the replica its vote. The process dies without Close, its last
// sync's mark not on the disk.
func TestTearsAreToldFromDamage(t *testing.T) {
	prepare := func() *run {
		r := &run{fs: simfs.New(), w: &twin{}}
		if name, err := r.play([]step{openStep, epochStep, appendStep(600), syncStep, appendStep(1500, 700)}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return r
	}
	file := dir + "/00000000000000000000"
	zero := func(fs *simfs.FS, from, end smr.LSN) {
		content, _ := fs.ReadFile(file)
		clear(content[from:end])
		fs.WriteFile(file, content)
	}
	w := prepare().w
	big, small := w.frames[2], w.frames[3]
	for _, c := range []struct {
		name   string
		change func(fs *simfs.FS)
		end    smr.LSN // where the log ends; 0 for damage
	}{
		{"all there", func(fs *simfs.FS) {}, w.end()},
		{"a sector of the last frame lost", func(fs *simfs.FS) { zero(fs, 2560, 3072) }, small.LSN},
		{"a sector of the frame before it lost, the last frame whole", func(fs *simfs.FS) { zero(fs, 1024, 1536) }, big.LSN},
		{"header's sector lost", func(fs *simfs.FS) { zero(fs, big.LSN, 1024) }, big.LSN},
		{"all of it lost", func(fs *simfs.FS) { zero(fs, big.LSN, w.end()) }, big.LSN},
		{"end of the last frame lost", func(fs *simfs.FS) { zero(fs, w.end()-100, w.end()) }, small.LSN},
		{"a bit of the last frame flipped", func(fs *simfs.FS) { must(t, fs.FlipBit(file, int64(w.end())-5, 3)) }, 0},
		{"a bit of its header flipped", func(fs *simfs.FS) { must(t, fs.FlipBit(file, int64(small.LSN)+9, 3)) }, 0},
		{"a bit of the frame before it flipped", func(fs *simfs.FS) { must(t, fs.FlipBit(file, int64(big.LSN)+100, 0)) }, 0},
		{"a sector below the durable mark lost", func(fs *simfs.FS) { zero(fs, 512, 600) }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := prepare()
			fs := r.fs.Clone()
			c.change(fs)
			l, report, err := log.Open(options(fs))
			must(t, err)
			if c.end == 0 {
				if report.Damage == nil {
					t.Fatalf("taken for a tear: End %d", l.End())
				}
				return
			}
			if report.Damage != nil {
				t.Fatalf("taken for damage: %v", report.Damage)
			}
			if l.End() != c.end {
				t.Fatalf("End is %d, should be %d", l.End(), c.end)
			}
			must(t, w.check(fs, l))
			must(t, l.Close())
			content, _ := fs.ReadFile(file)
			for i, b := range content[c.end:4096] {
				if b != 0 {
					t.Fatalf("byte %d behind End is not zero", i)
				}
			}
		})
	}
}

// What could go wrong: a crash while damaged files are moved away leaves some of them, which look like a good log; or a
// crash before the caller has saved its new incarnation hides that there was damage.
func TestDamageIsReportedUntilTheCallerAppends(t *testing.T) {
	base := finished(t)
	must(t, base.fs.FlipBit(logFiles(base.fs)[2], 100, 1))
	for n := 1; ; n++ {
		fs := base.fs.Clone()
		fs.SetHook(crashAt(n, false))
		l, report, err := log.Open(options(fs))
		if err == nil {
			if report.Damage == nil {
				t.Fatal("no damage found")
			}
			fs.SetHook(nil)
			w := &twin{}
			must(t, l.Append(w.epoch()))
			must(t, l.Close())
			l, report, err = log.Open(options(fs))
			must(t, err)
			if report.Damage != nil || l.End() != w.end() {
				t.Fatalf("after the first append: %+v", report)
			}
			must(t, w.check(fs, l))
			return
		}
		for _, image := range images(uint64(n)) {
			next := fs.Crashed(image)
			for life := range 3 {
				l, report, err := log.Open(options(next))
				must(t, err)
				if report.Damage == nil || l.End() != 0 {
					t.Fatalf("crash in call %d, %v, life %d: no damage, End %d", n, image, life, l.End())
				}
				kept := 0
				for _, name := range next.Files() {
					if strings.Contains(name, "/quarantine-") && !strings.HasSuffix(name, ".txt") {
						kept++
					}
				}
				if kept != 3 {
					t.Fatalf("crash in call %d, %v: %d of 3 files in quarantine", n, image, kept)
				}
				next = next.Crashed(simfs.Image{})
			}
		}
	}
}

// What could go wrong: files of another cluster, or of a later version, are used, moved or changed.
func TestForeignAndNewerFilesAreLeftAlone(t *testing.T) {
	base := finished(t)
	same := func(t *testing.T, fs *simfs.FS) {
		for _, name := range logFiles(base.fs) {
			before, _ := base.fs.ReadFile(name)
			after, err := fs.ReadFile(name)
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("%s was touched", name)
			}
		}
	}
	for _, other := range []log.Options{{Cluster: "other", Group: "g1"}, {Cluster: "cluster", Group: "g2"}, {Cluster: "clusterg", Group: "1"}} {
		fs := base.fs.Clone()
		o := options(fs)
		o.Cluster, o.Group = other.Cluster, other.Group
		_, _, err := log.Open(o)
		if !errors.Is(err, log.ErrForeign) || !strings.Contains(err.Error(), "00000000000000000000") || !strings.Contains(err.Error(), `"cluster"`) {
			t.Errorf("%v", err)
		}
		same(t, fs)
	}
	for i, name := range logFiles(base.fs) {
		fs := base.fs.Clone()
		content, _ := fs.ReadFile(name)
		fs.WriteFile(name, log.WithVersion(content, 2))
		_, _, err := log.Open(options(fs))
		if !errors.Is(err, log.ErrNewerFormat) || !strings.Contains(err.Error(), name[len(dir)+1:]) {
			t.Errorf("%v", err)
		}
		for j, other := range logFiles(base.fs) {
			if j != i {
				before, _ := base.fs.ReadFile(other)
				after, err := fs.ReadFile(other)
				if err != nil || !bytes.Equal(before, after) {
					t.Errorf("%s was touched", other)
				}
			}
		}
	}
}

// What could go wrong: two processes append to one log.
func TestSecondOpenIsRefused(t *testing.T) {
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	must(t, err)
	if _, _, err := log.Open(options(fs)); err == nil || !strings.Contains(err.Error(), "locked") {
		t.Fatalf("second Open: %v", err)
	}
	must(t, l.Close())
	l, _, err = log.Open(options(fs))
	must(t, err)
	must(t, l.Close())
	onDisk := log.Options{Dir: t.TempDir(), FileSize: 4096}
	l, _, err = log.Open(onDisk)
	must(t, err)
	if _, _, err := log.Open(onDisk); err == nil || !strings.Contains(err.Error(), "locked") {
		t.Fatalf("second Open: %v", err)
	}
	must(t, l.Close())
}

// What could go wrong: after a rewind its intent still lies in the other slot; a flipped bit in the newest one brings it
// back, and recovery cuts what was appended since. The mark of the last sync is not on the disk yet.
func TestFinishedRewindIsNotRepeated(t *testing.T) {
	base := &run{fs: simfs.New(), w: &twin{}}
	name, err := base.play([]step{openStep, epochStep, appendStep(100, 200), syncStep, rewindStep(1), appendStep(300), syncStep})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	file := dir + "/00000000000000000000"
	for at := int64(4096); at < 3*4096; at++ {
		fs := base.fs.Crashed(simfs.Image{})
		must(t, fs.FlipBit(file, at, uint(at%8)))
		l, report, err := log.Open(options(fs))
		must(t, err)
		if report.Damage == nil && l.End() != base.w.end() {
			t.Fatalf("byte %d: the log ends at %d instead of %d", at, l.End(), base.w.end())
		}
	}
}

// What could go wrong: a rewind computes the checksums of the file that it makes the last one anew, and a byte that has been
// damaged since it was written gets a checksum that fits it (found by simulation). A rewind over such bytes must be refused, and
// the next Open must find the damage.
func TestRewindGivesDamageNoChecksum(t *testing.T) {
	for _, steps := range [][]step{
		{openStep, epochStep, appendStep(100, 900, 500, 100), syncStep},                        // the point lies in the last file
		{openStep, epochStep, appendStep(100, 900, 500), syncStep, appendStep(4000), syncStep}, // in a full one
	} {
		base := &run{fs: simfs.New(), w: &twin{}}
		if name, err := base.play(steps); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		must(t, base.log.Settle())
		point := base.w.last().LSN
		must(t, base.fs.FlipBit(dir+"/00000000000000000000", 700, 3))
		if err := base.log.Rewind(point); !errors.Is(err, log.ErrCorrupt) {
			t.Fatalf("rewind to %d over a damaged byte: %v", point, err)
		}
		_, report, err := log.Open(options(base.fs.Clone()))
		must(t, err)
		if report.Damage == nil {
			t.Fatalf("the damage is not found: the log ends at %d", report.End)
		}
	}
}

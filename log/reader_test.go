package log_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
)

// What could go wrong: a reader beside the writer sees half a frame, misses a file that began a moment ago, or stumbles
// over a trim. The writer appends, rotates and trims while two readers follow its Durable.
func TestReadersFollowTheWriter(t *testing.T) {
	dir := t.TempDir()
	l, _, err := log.Open(log.Options{Dir: dir, FileSize: 16384})
	must(t, err)
	const rounds = 400
	total := &twin{}
	total.epoch()
	for i := range rounds {
		total.frame(i * 53 % 6000)
	}
	var applied [2]atomic.Uint64
	done := make(chan error, 2)
	for i := range 2 {
		go func() { done <- follow(dir, l, total, &applied[i], int64(i)) }()
	}
	for i, f := range total.frames {
		end := total.end()
		if i+1 < len(total.frames) {
			end = total.frames[i+1].LSN
		}
		must(t, l.Append(total.stream[f.LSN:end]))
		if i%3 == 0 || i == len(total.frames)-1 {
			must(t, l.Sync())
		}
		if i%20 == 0 {
			must(t, l.TrimTo(smr.LSN(min(applied[0].Load(), applied[1].Load()))))
		}
	}
	for range 2 {
		must(t, <-done)
	}
	if l.Start() == 0 {
		t.Error("nothing was trimmed")
	}
	must(t, l.Close())
}

// follow reads up to the end of total as it becomes durable.
func follow(dir string, l *log.Log, total *twin, applied *atomic.Uint64, buffer int64) error {
	r, err := log.OpenReader(nil, dir)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, buffer*5000)
	for next := smr.LSN(0); next < total.end(); {
		limit := l.Durable()
		next, buf, err = r.Frames(buf, next, limit, func(f smr.Frame, raw []byte) error {
			if !bytes.Equal(raw, total.stream[f.LSN:f.End()]) {
				return fmt.Errorf("frame at %d differs", f.LSN)
			}
			return nil
		})
		if err != nil {
			return err
		}
		applied.Store(uint64(next))
	}
	return nil
}

// What could go wrong: another process sees something else than this one. The test binary runs itself as the reader.
func TestReaderInAnotherProcess(t *testing.T) {
	if dir := os.Getenv("LOCKSTEP_TEST_READ"); dir != "" {
		limit, err := strconv.ParseUint(os.Getenv("LOCKSTEP_TEST_LIMIT"), 10, 64)
		must(t, err)
		r, err := log.OpenReader(nil, dir)
		must(t, err)
		var buf []byte
		for next := smr.LSN(0); next < smr.LSN(limit); {
			next, buf, err = r.Frames(buf, next, smr.LSN(limit), func(_ smr.Frame, raw []byte) error {
				_, err := os.Stderr.Write(raw)
				return err
			})
			must(t, err)
		}
		return
	}
	dir := t.TempDir()
	l, _, err := log.Open(log.Options{Dir: dir, FileSize: 4096})
	must(t, err)
	defer l.Close()
	w := &twin{}
	must(t, l.Append(w.epoch()))
	for i := range 30 {
		must(t, l.Append(w.frame(i*31)))
	}
	command := exec.Command(os.Args[0], "-test.run=^TestReaderInAnotherProcess$")
	command.Env = append(os.Environ(), "LOCKSTEP_TEST_READ="+dir, fmt.Sprintf("LOCKSTEP_TEST_LIMIT=%d", l.End()))
	var got bytes.Buffer
	command.Stderr = &got
	must(t, command.Run())
	if !bytes.Equal(got.Bytes(), w.stream) {
		t.Fatalf("%d bytes read, %d written", got.Len(), len(w.stream))
	}
}

// What could go wrong: a reader keeps serving bytes of files that were trimmed or rewound and written anew, or is confused
// by a frame that is bigger than its buffer, a limit inside a file, or the callback's error.
func TestReaderSeesTrimAndRewind(t *testing.T) {
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
	read := func(from, limit smr.LSN) error {
		p := make([]byte, limit-from)
		n, err := r.ReadAt(p, from, limit)
		if err == nil && (n != len(p) || !bytes.Equal(p, w.stream[from:limit])) {
			return fmt.Errorf("%d to %d: %d bytes, they differ", from, limit, n)
		}
		return err
	}
	must(t, read(0, w.end()))
	must(t, read(4000, 4200))
	must(t, read(4095, 8193))

	// Across files, and the same names come again with other bytes.
	to := w.frames[3].LSN
	must(t, l.Rewind(to))
	w.rewindTo(to)
	for range 7 {
		must(t, l.Append(w.frame(3001)))
	}
	must(t, read(0, w.end()))
	var buf []byte
	for next := smr.LSN(0); next < w.end(); {
		next, buf, err = r.Frames(buf, next, w.end(), func(f smr.Frame, raw []byte) error {
			if !bytes.Equal(raw, w.stream[f.LSN:f.End()]) {
				t.Errorf("frame at %d is stale", f.LSN)
			}
			return nil
		})
		must(t, err)
	}

	must(t, l.Sync())
	must(t, l.TrimTo(w.end()))
	start := l.Start()
	if start < 8192 {
		t.Fatalf("Start is %d", start)
	}
	for _, lsn := range []smr.LSN{0, 4096, w.frames[3].LSN} {
		if err := read(lsn, w.end()); !errors.Is(err, log.ErrTrimmed) {
			t.Errorf("read at %d: %v", lsn, err)
		}
		if _, _, err := r.Frames(nil, lsn, w.end(), nil); !errors.Is(err, log.ErrTrimmed) {
			t.Errorf("frames at %d: %v", lsn, err)
		}
	}
	must(t, read(start, w.end()))

	stop := errors.New("stop")
	calls := 0
	next, _, err := r.Frames(nil, start, w.end(), func(smr.Frame, []byte) error { calls++; return stop })
	if !errors.Is(err, stop) || next != start || calls != 1 {
		t.Errorf("next %d err %v after %d calls", next, err, calls)
	}
	if n, err := r.ReadAt(make([]byte, 9), w.end(), w.end()); n != 0 || err != nil {
		t.Errorf("read at the limit: %d, %v", n, err)
	}
	big := w.frame(300 << 10)
	must(t, l.Append(big))
	next, buf, err = r.Frames(buf, w.last().LSN, w.end(), func(_ smr.Frame, raw []byte) error {
		if !bytes.Equal(raw, big) {
			t.Error("big frame differs")
		}
		return nil
	})
	if err != nil || next != w.end() || len(buf) < len(big) {
		t.Errorf("big frame: next %d, buffer %d, %v", next, len(buf), err)
	}
	must(t, r.Close())
	if _, err := r.ReadAt(make([]byte, 9), 0, 9); !errors.Is(err, log.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

// What could go wrong: damage that came after Open is handed out.
func TestReaderRefusesDamage(t *testing.T) {
	base := finished(t)
	fs := base.fs.Clone()
	r, err := log.OpenReader(fs, dir)
	must(t, err)
	must(t, fs.FlipBit(filepath.Join(dir, "00000000000000004096"), 1234, 5))
	p := make([]byte, 10)
	if _, err := r.ReadAt(p, 4096, base.w.end()); !errors.Is(err, log.ErrCorrupt) {
		t.Errorf("read in the damaged page: %v", err)
	}
	if _, err := r.ReadAt(p, 0, base.w.end()); err != nil {
		t.Errorf("read beside it: %v", err)
	}
}

// What could go wrong: the survey of the files, which people look at after a failure, says something else than the files.
func TestSurveySaysWhatTheFilesSay(t *testing.T) {
	base := finished(t)
	list, err := log.Survey(base.fs, dir)
	must(t, err)
	var got string
	for _, f := range list {
		got += fmt.Sprintf("%d-%d first %d %s %d sealed %v %s/%s\n", f.Base, f.End, f.FirstFrame, f.Mark, f.Durable, f.Sealed, f.Cluster, f.Group)
	}
	want := fmt.Sprintf("0-4096 first 0 continued %d sealed true cluster/g1\n4096-8192 first %d continued %d sealed true cluster/g1\n"+
		"8192-12288 first %d clean %d sealed false cluster/g1\n",
		base.w.frames[3].LSN, base.w.frames[4].LSN, base.w.frames[6].LSN, base.w.frames[7].LSN, base.w.end())
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	must(t, base.fs.FlipBit(dir+"/"+list[1].Name, 6*4096-1, 0))
	list, err = log.Survey(base.fs, dir)
	if !errors.Is(err, log.ErrCorrupt) || len(list) != 1 {
		t.Errorf("%d files, %v", len(list), err)
	}
}

package log_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"

	"github.com/cespare/xxhash/v2"
)

// twin is what a log should hold: the stream as one slice of bytes, and its frames.
type twin struct {
	stream []byte
	frames []smr.Frame // without bodies
	seed   byte
}

func (w *twin) end() smr.LSN { return smr.LSN(len(w.stream)) }

func (w *twin) clone() *twin {
	return &twin{stream: append([]byte(nil), w.stream...), frames: append([]smr.Frame(nil), w.frames...), seed: w.seed}
}

func (w *twin) last() smr.Frame {
	if len(w.frames) == 0 {
		return smr.Frame{}
	}
	return w.frames[len(w.frames)-1]
}

// frame appends a requests frame with a payload of that size, never the same twice, and returns its bytes.
func (w *twin) frame(size int) []byte {
	w.seed++
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(i)*31 + w.seed + byte(i>>8) | 1
	}
	body := smr.AppendRequest(nil, smr.Request{Session: 7, Sequence: uint64(len(w.frames) + 1), Slot: smr.NoSlot, Payload: payload})
	return w.add(smr.Frame{Epoch: w.last().Epoch, Kind: smr.KindRequests, Count: 1, Body: body})
}

// epoch appends an epoch start.
func (w *twin) epoch() []byte {
	w.seed++
	e := w.last().Epoch + 1
	c := smr.Config{Epoch: e, Reign: e, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: smr.Incarnation(w.seed) + 1}}}
	return w.add(smr.Frame{Epoch: e, Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, c)})
}

func (w *twin) add(f smr.Frame) []byte {
	f.LSN = w.end()
	f.Stamp = w.last().Stamp + 3
	if n := len(w.frames); n > 2 {
		f.Commit = w.frames[n-2].LSN
	}
	from := len(w.stream)
	w.stream = smr.AppendFrame(w.stream, f)
	f.Body = nil
	w.frames = append(w.frames, f)
	return w.stream[from:]
}

// rewindTo cuts the twin; to must be a frame boundary.
func (w *twin) rewindTo(to smr.LSN) {
	w.stream = w.stream[:to:to]
	for n := len(w.frames); n > 0 && w.frames[n-1].LSN >= to; n-- {
		w.frames = w.frames[:n-1]
	}
}

func (w *twin) boundary(lsn smr.LSN) bool {
	if lsn == w.end() {
		return true
	}
	for _, f := range w.frames {
		if f.LSN == lsn {
			return true
		}
	}
	return false
}

func (w *twin) historyAt(end smr.LSN) smr.History {
	var h smr.History
	for _, f := range w.frames {
		if f.LSN < end && f.Kind == smr.KindEpochStart {
			h = append(h, smr.Span{Epoch: f.Epoch, From: f.LSN})
		}
	}
	return h
}

// check compares everything that l shows with the prefix of w of l's length.
func (w *twin) check(fs log.FS, l *log.Log) error {
	end := l.End()
	if end > w.end() || !w.boundary(end) {
		return fmt.Errorf("End is %d, the twin ends at %d", end, w.end())
	}
	if l.Start() > end || !w.boundary(l.Start()) {
		return fmt.Errorf("Start is %d, End %d", l.Start(), end)
	}
	h := w.historyAt(end)
	if got := l.History(); fmt.Sprint(got) != fmt.Sprint(h) {
		return fmt.Errorf("History is %v, should be %v", got, h)
	}
	if got := l.Position(); got != h.PositionOf(end) {
		return fmt.Errorf("Position is %v, should be %v", got, h.PositionOf(end))
	}
	if _, sum := l.Digest(); sum != xxhash.Sum64(w.stream[:end]) {
		return fmt.Errorf("digest at %d differs", end)
	}
	var stamp int64
	var commit smr.LSN
	for _, f := range w.frames {
		if f.LSN < end {
			stamp, commit = f.Stamp, max(commit, f.Commit)
		}
	}
	if l.LastStamp() != stamp || l.LastCommit() != commit {
		return fmt.Errorf("last stamp %d commit %d, should be %d %d", l.LastStamp(), l.LastCommit(), stamp, commit)
	}
	return w.checkReader(fs, l.Start(), end)
}

// checkReader reads [start, end) in both ways and compares.
func (w *twin) checkReader(fs log.FS, start, end smr.LSN) error {
	r, err := log.OpenReader(fs, dir)
	if err != nil {
		return err
	}
	defer r.Close()
	next := start
	var buf []byte
	for next < end {
		from := next
		next, buf, err = r.Frames(buf, from, end, func(f smr.Frame, raw []byte) error {
			if !bytes.Equal(raw, w.stream[f.LSN:f.End()]) {
				return fmt.Errorf("frame at %d differs", f.LSN)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if next == from {
			return fmt.Errorf("reader is stuck at %d", from)
		}
	}
	all := make([]byte, end-start)
	if n, err := r.ReadAt(all, start, end); err != nil || n != len(all) {
		return fmt.Errorf("read %d bytes at %d: %d, %w", len(all), start, n, err)
	}
	if !bytes.Equal(all, w.stream[start:end]) {
		return errors.New("bytes differ")
	}
	return nil
}

const dir = "/data/log"

func options(fs log.FS) log.Options {
	return log.Options{Dir: dir, FS: fs, FileSize: 4096, Cluster: "cluster", Group: "g1", Synchronous: true}
}

// run is one life of a replica's log: it carries out steps and notes what it was told.
type run struct {
	fs  *simfs.FS
	log *log.Log
	w   *twin
	// floor is the highest LSN that is known to be durable; a rewind lowers it when it begins.
	floor smr.LSN
	// ceiling is where the log may end at most; a finished rewind lowers it.
	ceiling smr.LSN
	// start is the highest LSN that was asked to be trimmed.
	start  smr.LSN
	report log.Report
	// old is what the log held before it began at begun, while a crash may still leave that.
	old   *twin
	begun smr.LSN
}

// twinOf returns what a log that ends there should hold.
func (r *run) twinOf(end smr.LSN) *twin {
	if r.old != nil && end != r.begun {
		return r.old
	}
	return r.w
}

// begin replaces the log by one that begins at the end of a stream that shares all but so many frames with it and goes on
// with others.
func (r *run) begin(drop int, sizes ...int) error {
	w := r.w.clone()
	if drop > 0 {
		w.rewindTo(w.frames[len(w.frames)-drop].LSN)
	}
	w.seed += 100
	w.epoch()
	for _, size := range sizes {
		w.frame(size)
	}
	base, err := baseOf(w, w.end())
	if err != nil {
		return err
	}
	r.old, r.w, r.begun = r.w, w, w.end()
	r.start = max(r.start, r.begun)
	if err := r.log.BeginAt(base); err != nil {
		return err
	}
	r.old = nil
	r.floor, r.ceiling = r.begun, r.begun
	return nil
}

// baseOf returns the Base at lsn of a log that holds what w does.
func baseOf(w *twin, lsn smr.LSN) (log.Base, error) {
	key := [2]uint64{xxhash.Sum64(w.stream), uint64(lsn)}
	if known, ok := basesMade.Load(key); ok {
		return known.(log.Base), nil
	}
	base, err := makeBase(w, lsn)
	if err == nil {
		basesMade.Store(key, base)
	}
	return base, err
}

// basesMade remembers what makeBase made: the exhaustive tests ask for the same ones thousands of times.
var basesMade sync.Map

func makeBase(w *twin, lsn smr.LSN) (log.Base, error) {
	fs := simfs.New()
	l, _, err := log.Open(options(fs))
	if err != nil {
		return log.Base{}, err
	}
	if err := l.Append(w.stream); err != nil {
		return log.Base{}, err
	}
	reader, err := log.OpenReader(fs, dir)
	if err != nil {
		return log.Base{}, err
	}
	defer reader.Close()
	return reader.BaseAt(lsn)
}

func (r *run) open() error {
	l, report, err := log.Open(options(r.fs))
	if err != nil {
		return err
	}
	r.log, r.report = l, report
	return nil
}

func (r *run) append(frames ...[]byte) error {
	var all []byte
	for _, f := range frames {
		all = append(all, f...)
	}
	r.ceiling = r.w.end()
	return r.log.Append(all)
}

func (r *run) sync() error {
	if err := r.log.Sync(); err != nil {
		return err
	}
	r.floor = r.log.Durable()
	return nil
}

func (r *run) rewind(to smr.LSN) error {
	r.floor = min(r.floor, to)
	if err := r.log.Rewind(to); err != nil {
		return err
	}
	r.w.rewindTo(to)
	r.floor, r.ceiling = to, to
	return nil
}

func (r *run) trim(to smr.LSN) error {
	r.start = max(r.start, to)
	return r.log.TrimTo(to)
}

// step is one operation of a script.
type step struct {
	name string
	do   func(r *run) error
}

func appendStep(sizes ...int) step {
	return step{fmt.Sprint("append ", sizes), func(r *run) error {
		var all [][]byte
		for _, size := range sizes {
			all = append(all, r.w.frame(size))
		}
		return r.append(all...)
	}}
}

var (
	openStep   = step{"open", (*run).open}
	syncStep   = step{"sync", (*run).sync}
	epochStep  = step{"epoch", func(r *run) error { return r.append(r.w.epoch()) }}
	settleStep = step{"settle", func(r *run) error { return r.log.Settle() }}
	closeStep  = step{"close", func(r *run) error { return r.log.Close() }}
)

// rewindStep rewinds by so many frames.
func rewindStep(frames int) step {
	return step{fmt.Sprint("rewind ", frames), func(r *run) error { return r.rewind(r.w.frames[len(r.w.frames)-frames].LSN) }}
}

func trimStep(frame int) step {
	return step{fmt.Sprint("trim ", frame), func(r *run) error { return r.trim(r.w.frames[frame].LSN) }}
}

// script visits every kind of change in every kind of place.
func script() []step {
	return []step{
		openStep, epochStep, syncStep, appendStep(100), syncStep, appendStep(1), appendStep(700, 30), syncStep,
		appendStep(3000), syncStep, appendStep(200), // spans the first two files; then an unsynced rest
		rewindStep(1), appendStep(90), syncStep, appendStep(400), appendStep(5), rewindStep(2), appendStep(44), syncStep,
		appendStep(9000, 60), syncStep, // covers a whole file
		settleStep, appendStep(5000), appendStep(20), syncStep,
		trimStep(6), rewindStep(2), epochStep, appendStep(100), syncStep, // across files
		rewindStep(3), epochStep, appendStep(3000, 3000, 3000), syncStep, appendStep(10), closeStep,
		openStep, appendStep(11), syncStep, trimStep(9), appendStep(4096 - 72), syncStep, closeStep, openStep, closeStep,
	}
}

func beginStep(drop int, sizes ...int) step {
	return step{fmt.Sprint("begin ", drop, sizes), func(r *run) error { return r.begin(drop, sizes...) }}
}

// beginScript begins a log anew wherever it may stand: empty, within the first file, over several, with what continues it
// and with what contradicts it, twice in a row, and with a spare file that is no longer than a file's first frame.
func beginScript() []step {
	return []step{
		openStep, beginStep(0, 100), appendStep(50), syncStep, closeStep,
		openStep, appendStep(3000, 3000), syncStep, appendStep(10), beginStep(0, 9000, 70), beginStep(0), epochStep, syncStep,
		appendStep(5000), appendStep(80), syncStep, appendStep(7000), beginStep(2, 20), appendStep(6000), syncStep,
		trimStep(14), rewindStep(1), appendStep(33), settleStep, beginStep(1, 300), closeStep, openStep, epochStep, closeStep,
	}
}

// play carries out steps until one fails.
func (r *run) play(steps []step) (string, error) {
	for _, s := range steps {
		if err := s.do(r); err != nil {
			return s.name, err
		}
	}
	return "", nil
}

// checkRecovered opens the log on fs and compares it with what r knows. It returns the open log.
func (r *run) checkRecovered(fs *simfs.FS) (*log.Log, error) {
	l, report, err := log.Open(options(fs))
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	switch {
	case report.Damage != nil:
		return nil, fmt.Errorf("reported as damage: %v", report.Damage)
	case r.old != nil && l.End() == r.begun:
	case l.End() < r.floor:
		return nil, fmt.Errorf("End is %d, but %d was durable", l.End(), r.floor)
	case l.End() > r.ceiling:
		return nil, fmt.Errorf("End is %d, but only %d was written", l.End(), r.ceiling)
	case l.Start() > r.start:
		return nil, fmt.Errorf("Start is %d, but only %d was trimmed", l.Start(), r.start)
	case l.Durable() != l.End():
		return nil, fmt.Errorf("Durable is %d, End %d", l.Durable(), l.End())
	case report.DurableBound > l.End():
		return nil, fmt.Errorf("DurableBound is %d, End %d", report.DurableBound, l.End())
	}
	return l, r.twinOf(l.End()).check(fs, l)
}

func must(t interface {
	Helper()
	Fatal(args ...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

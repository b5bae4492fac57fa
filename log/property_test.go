package log_test

import (
	"errors"
	"fmt"
	"testing"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"

	"pgregory.net/rapid"

	"lockstep/internal/steady"
)

var _ = steady.Draws()

// What could go wrong: a sequence of operations that nobody thought of. Any sequence, with crashes, clean ends, file
// sizes that change and reads between, is compared with a naive twin after each step.
func TestLogEqualsItsTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{run: run{fs: simfs.New(), w: &twin{}}, mode: rapid.SampledFrom([]smr.SyncMode{
			smr.SyncAlways, smr.SyncAlways, smr.SyncInterval, smr.SyncOS}).Draw(t, "mode")}
		m.reopen(t)
		must(t, m.append(m.w.epoch()))
		t.Repeat(map[string]func(*rapid.T){
			"append": m.appendSome,
			"epoch":  func(t *rapid.T) { must(t, m.append(m.w.epoch())) },
			"sync":   m.syncSome,
			"settle": func(t *rapid.T) { must(t, m.log.Settle()) },
			"rewind": m.rewindSome,
			"trim":   m.trimSome,
			"close":  m.closeAndReopen,
			"crash":  m.crash,
			"reject": m.reject,
			"":       m.check,
		})
	})
}

type machine struct {
	run
	mode smr.SyncMode
	seed uint64
}

func (m *machine) reopen(t *rapid.T) {
	o := options(m.fs)
	o.FileSize = rapid.SampledFrom([]int64{4096, 4096, 8192, 32768}).Draw(t, "file size")
	o.Sync = m.mode
	o.VerifyBytes = rapid.SampledFrom([]int64{0, -1, 5000}).Draw(t, "verify")
	l, report, err := log.Open(o)
	must(t, err)
	if report.Damage != nil {
		t.Fatalf("damage: %v", report.Damage)
	}
	m.log, m.report = l, report
}

func (m *machine) appendSome(t *rapid.T) {
	var frames [][]byte
	for range rapid.IntRange(1, 4).Draw(t, "frames") {
		frames = append(frames, m.w.frame(rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 12000)).Draw(t, "size")))
	}
	must(t, m.append(frames...))
}

func (m *machine) syncSome(t *rapid.T) {
	if m.mode != smr.SyncAlways {
		must(t, m.log.Sync())
		if m.log.Durable() != m.log.End() {
			t.Fatalf("Durable is %d after Sync, End %d", m.log.Durable(), m.log.End())
		}
	}
	must(t, m.log.SyncNow())
	m.floor = m.log.Durable()
	if m.floor != m.w.end() || m.log.Synced() != m.floor {
		t.Fatalf("Durable is %d after a sync, End %d", m.floor, m.w.end())
	}
}

func (m *machine) rewindSome(t *rapid.T) {
	var points []smr.LSN
	for _, f := range m.w.frames {
		if f.LSN >= m.log.Start() {
			points = append(points, f.LSN)
		}
	}
	points = append(points, m.w.end())
	to := rapid.SampledFrom(points).Draw(t, "to")
	if to == 0 {
		return // keeps the epoch start, as every log that has bytes does
	}
	must(t, m.rewind(to))
	if m.log.Durable() != to || m.log.End() != to {
		t.Fatalf("rewound to %d: Durable %d End %d", to, m.log.Durable(), m.log.End())
	}
	if m.w.last().Epoch == 0 {
		must(t, m.append(m.w.epoch()))
	}
}

func (m *machine) trimSome(t *rapid.T) {
	to := smr.LSN(rapid.Uint64Range(0, uint64(m.log.Durable())).Draw(t, "to"))
	must(t, m.trim(to))
	if m.log.Start() > m.start {
		t.Fatalf("trimmed to %d: Start is %d", to, m.log.Start())
	}
	if err := m.log.TrimTo(m.log.Durable() + 1); err == nil {
		t.Fatal("trimmed above Durable")
	}
}

func (m *machine) closeAndReopen(t *rapid.T) {
	must(t, m.log.Close())
	end := m.w.end()
	m.reopen(t)
	if !m.report.Clean || m.log.End() != end || m.report.DurableBound != end {
		t.Fatalf("closed at %d: %+v", end, m.report)
	}
	m.floor, m.ceiling = end, end
}

func (m *machine) crash(t *rapid.T) {
	m.seed++
	fate := rapid.SampledFrom([]simfs.Fate{simfs.Lost, simfs.Kept, simfs.Torn, simfs.Backwards})
	m.fs = m.fs.Crashed(simfs.Image{Pages: fate.Draw(t, "pages"), Names: fate.Draw(t, "names"), Seed: m.seed})
	if _, err := m.checkRecovered(m.fs); err != nil {
		t.Fatal(err)
	}
	m.fs = m.fs.Crashed(simfs.Image{})
	m.reopen(t)
	m.w.rewindTo(m.log.End())
	m.floor, m.ceiling = m.log.End(), m.log.End()
	if m.w.last().Epoch == 0 {
		must(t, m.append(m.w.epoch()))
	}
}

// reject offers what does not continue the stream; nothing of it may stick.
func (m *machine) reject(t *rapid.T) {
	good := m.w.clone()
	frame := good.frame(10)
	other := m.w.clone()
	other.stream = append(other.stream, make([]byte, 8)...)
	stale := smr.AppendFrame(nil, smr.Frame{LSN: m.w.end(), Epoch: m.w.last().Epoch, Stamp: m.w.last().Stamp - 1, Kind: smr.KindTick})
	foreign := smr.AppendFrame(nil, smr.Frame{LSN: m.w.end(), Epoch: m.w.last().Epoch + 1, Stamp: 1 << 40, Kind: smr.KindTick})
	again := smr.AppendFrame(nil, smr.Frame{LSN: m.w.end(), Epoch: m.w.last().Epoch, Stamp: 1 << 40, Kind: smr.KindEpochStart})
	future := smr.AppendFrame(nil, smr.Frame{LSN: m.w.end(), Epoch: m.w.last().Epoch, Commit: m.w.end() + 1, Stamp: 1 << 40, Kind: smr.KindTick})
	for _, bad := range [][]byte{
		frame[:len(frame)-1], frame[:20], frame[:5], make([]byte, 100), other.frame(10), stale, foreign, again, future,
		append(append([]byte(nil), frame...), 1, 2, 3), append(append([]byte(nil), frame...), frame...),
	} {
		if err := m.log.Append(bad); !errors.Is(err, smr.ErrBadFrame) {
			t.Fatalf("append of %d bad bytes: %v", len(bad), err)
		}
	}
	for _, f := range m.w.frames {
		if f.Size() > 1 && f.LSN >= m.log.Start() {
			if err := m.log.Rewind(f.LSN + 1); err == nil {
				t.Fatalf("rewound into the frame at %d", f.LSN)
			}
		}
	}
	if err := m.log.Rewind(m.w.end() + 1); err == nil {
		t.Fatal("rewound above End")
	}
	must(t, m.log.Err())
}

func (m *machine) check(t *rapid.T) {
	if m.log.End() != m.w.end() {
		t.Fatalf("End is %d, should be %d", m.log.End(), m.w.end())
	}
	if m.log.Durable() < m.floor || m.log.Durable() > m.log.End() || m.log.Start() > m.start {
		t.Fatalf("Durable %d floor %d End %d Start %d", m.log.Durable(), m.floor, m.log.End(), m.log.Start())
	}
	if err := m.w.check(m.fs, m.log); err != nil {
		t.Fatal(fmt.Errorf("%w (files %v)", err, logFiles(m.fs)))
	}
}

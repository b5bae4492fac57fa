package transfer

import (
	"sync"
	"time"

	"lockstep/proto"
	"lockstep/smr"
)

// rateWindow is how far back the rate of a transfer is measured.
const rateWindow = 5 * time.Second

// Meter tells how far a transfer is. It is safe for concurrent use.
type Meter struct {
	mu          sync.Mutex
	busy        bool
	peer        string
	lsn         smr.LSN
	done, total int64
	problem     string
	marks       []mark // at least one while busy: where the transfer was in the last rateWindow
}

type mark struct {
	at   time.Time
	done int64
}

// NewMeter returns a Meter of no transfer.
func NewMeter() *Meter { return &Meter{} }

// Progress is what a Meter shows.
type Progress struct {
	Busy           bool   // a transfer is on its way
	Peer           string // node at the other end
	LSN            smr.LSN
	Done, Total    int64 // bytes
	BytesPerSecond int64
	Left           time.Duration // estimate; 0 is unknown
	Problem        string        // what went wrong last, "" if nothing has since the last success
}

// Progress returns how far the transfer is now.
func (m *Meter) Progress() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Progress{Busy: m.busy, Peer: m.peer, LSN: m.lsn, Done: m.done, Total: m.total, Problem: m.problem}
	if !m.busy || len(m.marks) == 0 {
		return p
	}
	now := time.Now()
	m.forget(now)
	first := m.marks[0]
	if span := now.Sub(first.at); span > 0 && m.done > first.done {
		p.BytesPerSecond = int64(float64(m.done-first.done) / span.Seconds())
	}
	if p.BytesPerSecond > 0 {
		p.Left = time.Duration(float64(m.total-m.done) / float64(p.BytesPerSecond) * float64(time.Second))
	}
	return p
}

// forget drops marks that are too old, but for the youngest of these.
func (m *Meter) forget(now time.Time) {
	for len(m.marks) > 1 && now.Sub(m.marks[1].at) > rateWindow {
		m.marks = m.marks[1:]
	}
}

func (m *Meter) begin(lsn smr.LSN, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy, m.lsn, m.done, m.total = true, lsn, 0, total
	m.marks = append(m.marks[:0], mark{at: time.Now()})
}

// from notes who sends.
func (m *Meter) from(peer string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peer = peer
}

// found counts bytes that are there without having been sent.
func (m *Meter) found(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += bytes
	for i := range m.marks {
		m.marks[i].done += bytes
	}
}

// add counts bytes that were sent; a negative number takes back what turned out to be wrong.
func (m *Meter) add(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += bytes
	now := time.Now()
	if last := len(m.marks) - 1; last < 0 || now.Sub(m.marks[last].at) > rateWindow/50 {
		m.marks = append(m.marks, mark{at: now, done: m.done})
		m.forget(now)
	}
}

func (m *Meter) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problem = err.Error()
}

// end notes that the transfer is over.
func (m *Meter) end(success bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy = false
	if success {
		m.problem = ""
	}
}

// transfer returns the progress as a message.
func (m *Meter) transfer(peer string) *proto.ImageTransfer {
	p := m.Progress()
	return &proto.ImageTransfer{
		Peer: peer, Lsn: uint64(p.LSN), BytesDone: uint64(max(p.Done, 0)), BytesTotal: uint64(max(p.Total, 0)),
		BytesPerSecond: uint64(max(p.BytesPerSecond, 0)), LeftMs: uint64(p.Left / time.Millisecond),
	}
}

// Transfer returns the progress as a message, nil unless a transfer is on its way.
func (m *Meter) Transfer() *proto.ImageTransfer {
	if p := m.Progress(); !p.Busy {
		return nil
	}
	return m.transfer(m.Progress().Peer)
}

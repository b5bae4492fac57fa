package sim

import (
	"fmt"
	"math/rand/v2"

	"lockstep/smr"
)

// Virtual time is counted in microseconds since the start.
const (
	millisecond = int64(1000)
	second      = 1000 * millisecond
	tickLength  = 10 * millisecond
	// epochStamp is the wall clock at the start, in milliseconds since 1970 UTC.
	epochStamp = int64(1_700_000_000_000)
)

// actor is who an event happens to. Events hold pointers to actors and a number that says what happens, so that most of
// them need no memory of their own.
type actor interface{ fire(what uint64) }

// later is an actor for what happens rarely.
type later func()

func (f later) fire(uint64) { f() }

// event is something that will happen. Events of one time happen in the order in which they were planned.
type event struct {
	at   int64
	seq  uint64
	who  actor
	what uint64
}

// streams are independent sources of randomness, so that a change in one place of a schedule disturbs the others little.
type streams struct {
	network, disk, clock, work, names, control *rand.Rand
}

// timeline is the time of a schedule and what is going to happen in it.
type timeline struct {
	now    int64
	seq    uint64
	heap   []event
	hash   uint64
	events uint64
	trace  *traceRing // nil unless somebody wants to read it
}

// world is a cluster and all around it: that of the schedule, or one that is restored beside it (restore.go).
type world struct {
	*timeline
	o       Options
	cluster string
	draw    streams
	raft    *rand.Rand // full mode: what raft draws

	hosts   []*host
	masters []*confmaster
	// cutReconfigured: for so many milliseconds the next master that reconfigures is cut off; 0: it is not.
	cutReconfigured int64
	net             network
	check           *checker
	work            workload
	faults          []Fault
	healing         bool // the second phase
	lostOnly        bool // a node lost images while one copy was all that was asked for: they may have been the only ones that reach into a log
	tendedAt        int64

	archive  *archiving // nil: nothing is archived
	other    *world     // the cluster beside this one: a restored one, or the one that it was restored from; nil if there is none
	restored bool       // from another's archive
	strayed  int64      // until when what is sent may come to the namesake in the other cluster

	probes  probeSet
	stats   Stats
	buffers pool
}

// Stats counts what happened in a schedule.
type Stats struct {
	Events, Elections, Established, Reconfigured uint64
	Crashes, Acknowledged, Refused, Uncertain    uint64
	Reads, Frames, Bytes                         uint64
	VirtualMillis                                int64
}

// Add adds the counts of another schedule.
func (s *Stats) Add(t Stats) {
	s.Events += t.Events
	s.Elections += t.Elections
	s.Established += t.Established
	s.Reconfigured += t.Reconfigured
	s.Crashes += t.Crashes
	s.Acknowledged += t.Acknowledged
	s.Refused += t.Refused
	s.Uncertain += t.Uncertain
	s.Reads += t.Reads
	s.Frames += t.Frames
	s.Bytes += t.Bytes
	s.VirtualMillis += t.VirtualMillis
}

func newStreams(seed uint64) streams {
	stream := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }
	return streams{network: stream(1), disk: stream(2), clock: stream(3), work: stream(4), names: stream(5), control: stream(6)}
}

// at plans an event. The past is now.
func (w *world) at(when int64, who actor, what uint64) {
	w.seq++
	e := event{at: max(when, w.now), seq: w.seq, who: who, what: what}
	h := append(w.heap, e)
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / 4
		if h[parent].before(&e) {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = e
	w.heap = h
}

func (w *world) after(delay int64, who actor, what uint64) { w.at(w.now+delay, who, what) }

func (e *event) before(f *event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

// pop takes the earliest event out of the heap, which has four children to a node.
func (w *world) pop() event {
	h := w.heap
	first := h[0]
	last := h[len(h)-1]
	h[len(h)-1] = event{}
	h = h[:len(h)-1]
	w.heap = h
	for i := 0; len(h) > 0; {
		least := 4*i + 1
		if least >= len(h) {
			h[i] = last
			break
		}
		for c := least + 1; c < min(4*i+5, len(h)); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if !h[least].before(&last) {
			h[i] = last
			break
		}
		h[i] = h[least]
		i = least
	}
	return first
}

// run lets everything happen up to a time.
func (w *world) run(until int64) {
	for len(w.heap) > 0 && w.heap[0].at <= until {
		e := w.pop()
		w.now = e.at
		w.events++
		w.fold(uint64(e.at)<<8 ^ e.what ^ e.seq<<40)
		e.who.fire(e.what)
	}
	w.now = until
}

// fold mixes a number into the hash of the schedule.
func (w *world) fold(x uint64) {
	h := (w.hash ^ x) * 0x9E3779B97F4A7C15
	w.hash = h ^ h>>29
}

// Violation is a broken promise.
type Violation struct {
	Kind   string // what is broken: the same for every instance
	Detail string
	At     int64 // microseconds
}

func (v *Violation) Error() string {
	return fmt.Sprintf("%s: %s (at %d.%03d ms)", v.Kind, v.Detail, v.At/millisecond, v.At%millisecond)
}

// violate ends the schedule.
func (w *world) violate(kind, format string, arguments ...any) {
	panic(&Violation{Kind: kind, Detail: fmt.Sprintf(format, arguments...), At: w.now})
}

// name returns a random number that is not zero, for incarnations, lives and sessions.
func (w *world) name() uint64 { return w.draw.names.Uint64() | 1 }

// between draws from [low, high].
func between(r *rand.Rand, low, high int64) int64 {
	if high <= low {
		return low
	}
	return low + int64(r.Uint64N(uint64(high-low+1)))
}

// chance draws true with the probability p.
func chance(r *rand.Rand, p float64) bool { return p > 0 && r.Float64() < p }

// traceRing keeps the last lines of what happened.
type traceRing struct {
	lines []string
	next  int
	limit int
}

func (t *traceRing) add(line string) {
	if len(t.lines) < t.limit {
		t.lines = append(t.lines, line)
		return
	}
	t.lines[t.next] = line
	t.next = (t.next + 1) % t.limit
}

func (t *traceRing) all() []string {
	return append(append([]string(nil), t.lines[t.next:]...), t.lines[:t.next]...)
}

// say adds a line to the trace. Callers ask tracing first where arguments cost something.
func (w *world) say(who, format string, arguments ...any) {
	if w.trace != nil {
		if w.restored {
			who += "'"
		}
		w.trace.add(fmt.Sprintf("%10.3f ms %-4s %s", float64(w.now)/float64(millisecond), who, fmt.Sprintf(format, arguments...)))
	}
}

// pool keeps memory from one process life, or schedule, for the next.
type pool struct{ read [][]byte }

func (p *pool) take() []byte {
	if n := len(p.read); n > 0 {
		b := p.read[n-1]
		p.read = p.read[:n-1]
		return b
	}
	return make([]byte, 8<<10)
}

func (p *pool) put(b []byte) {
	if len(b) >= 4<<10 && len(b) <= 64<<10 {
		p.read = append(p.read, b)
	}
}

// nodeName returns the name of a host.
func nodeName(i int) smr.NodeID {
	return smr.NodeID([]string{"n1", "n2", "n3", "n4", "n5", "n6", "n7"}[i])
}

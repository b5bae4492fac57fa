package kvnode

import (
	"sync/atomic"
	"testing"
	"time"
)

// gatheringAt is a gathering whose clock the test moves.
type gatheringAt struct {
	*gathering
	clock   time.Duration
	flushes int
}

func newGatheringAt() *gatheringAt {
	g := &gatheringAt{clock: time.Second}
	g.gathering = newGathering(func() time.Duration { return g.clock }, func() { g.flushes++ })
	g.armed = true // no alarm of its own: the test calls consider
	return g
}

// wants fails unless so many flights have left.
func (g *gatheringAt) wants(t *testing.T, flushes int, when string) {
	t.Helper()
	g.consider()
	if g.flushes != flushes {
		t.Fatalf("%s: %d flights, want %d", when, g.flushes, flushes)
	}
}

// round has all places submit, fly, and be answered.
func (g *gatheringAt) round(t *testing.T, places []place) {
	t.Helper()
	for i := range places {
		g.returned(&places[i])
		g.submitted(&places[i], 1)
	}
	g.wants(t, g.flushes+1, "all are there")
	for i := range places {
		g.finished(&places[i])
	}
}

func TestALoneWriteNeverWaits(t *testing.T) {
	g := newGatheringAt()
	p := make([]place, 1)
	for range 10 {
		g.round(t, p)
		g.clock += 50 * time.Microsecond
	}
}

func TestWritesWaitForTheFlightAndForThoseItAnswered(t *testing.T) {
	g := newGatheringAt()
	p := make([]place, 10)
	for range gatherTrust + 1 {
		g.round(t, p)
		g.clock += 100 * time.Microsecond
	}
	before := g.flushes
	for i := range p[:5] {
		g.returned(&p[i])
		g.submitted(&p[i], 1)
	}
	g.wants(t, before, "half of those that were answered are not back")
	for i := range p[5:9] {
		g.returned(&p[5+i])
		g.submitted(&p[5+i], 1)
	}
	g.wants(t, before+1, "one of ten is waited for no longer")

	var late place
	g.submitted(&late, 1)
	g.wants(t, before+1, "a flight is on its way")
	for i := range p[:9] {
		g.finished(&p[i])
	}
	g.wants(t, before+1, "nine were answered, and will be back")
	g.clock += gatherTime
	g.wants(t, before+2, "long enough")
}

func TestWhoThinksIsNotWaitedFor(t *testing.T) {
	g := newGatheringAt()
	p := make([]place, 10)
	for range 5 {
		g.round(t, p)
		g.clock += 20 * gatherTime // before they are back
	}
	before := g.flushes
	g.returned(&p[0])
	g.submitted(&p[0], 1)
	g.wants(t, before+1, "the others are thinking")
}

func TestManyWritesDoNotWait(t *testing.T) {
	g := newGatheringAt()
	p := make([]place, 2)
	g.submitted(&p[0], 1)
	g.wants(t, 1, "alone")
	g.submitted(&p[1], gatherEnough)
	g.wants(t, 2, "many")
}

// What is refused, what goes with what others send, what finds no room and who goes away must leave the numbers right: otherwise
// writes would wait for nothing ever after.
func TestNothingIsCountedTwice(t *testing.T) {
	g := newGatheringAt()
	p := make([]place, 4)
	g.submitted(&p[0], 1)
	g.finished(&p[0]) // before it has left
	if g.writes != 0 {
		t.Errorf("%d writes wait, of nobody", g.writes)
	}
	g.submitted(&p[1], 3)
	g.withdrawn(&p[1])
	g.submitted(&p[2], 1)
	g.wants(t, 1, "alone")
	g.withdrawn(&p[2]) // behind its flight
	g.returned(&p[0])
	g.returned(&p[0])
	g.submitted(&p[3], 1)
	g.wants(t, 2, "nobody else is there")
	g.finished(&p[3])
	g.returned(&p[3])
	if g.waiting != 0 || g.writes != 0 || g.flying != 0 || g.expected != 0 {
		t.Errorf("left: %d waiting with %d writes, %d flying, %d expected", g.waiting, g.writes, g.flying, g.expected)
	}
}

func TestTheAlarmSendsWhatWaits(t *testing.T) {
	var flushes atomic.Int32
	began := time.Now()
	g := newGathering(func() time.Duration { return time.Since(began) }, func() { flushes.Add(1) })
	defer g.stop()
	p := make([]place, 2)
	g.submitted(&p[0], 1)
	g.consider()
	g.submitted(&p[1], 1)
	g.consider() // held: the first is on its way for ever
	eventually(t, "the second has left", func() bool { return flushes.Load() == 2 })
}

func TestQuestionsDoNotWait(t *testing.T) {
	g := newGatheringAt()
	p := make([]place, 2)
	g.submitted(&p[0], 1)
	g.wants(t, 1, "alone")
	g.submitted(&p[1], 1)
	g.reads.Store(true)
	g.wants(t, 2, "a question")
	g.wants(t, 2, "it was sent")
}

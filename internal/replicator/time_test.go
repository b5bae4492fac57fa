package replicator

import (
	"testing"
	"time"

	"lockstep/smr"
	"lockstep/smr/replica"
)

// What could go wrong: more ticks come than time has passed, and a grant of a lease ends early (S11). Time is set back under a loop, as by a process
// that was stopped; what comes is counted.
func TestTicksAreNeverMoreThanTime(t *testing.T) {
	for _, c := range []struct {
		passed      time.Duration
		least, most uint64
	}{
		{tickLength / 2, 0, 50},
		{3*tickLength + tickLength/2, 3, 50},
		{10 * time.Minute, maxTicks, maxTicks},
	} {
		n := &node{levels: &levels{}, local: newLocal(), clients: newClients(1)}
		n.disk = newDisk(nil)
		l := newLoop(n, replica.New(replica.Options{Self: smr.Member{Node: "n1", Incarnation: 1}, Cluster: "c", Group: "g", Blank: true}))
		began := time.Now()
		l.ticked = began.Add(-c.passed)
		l.passTime()
		ticks, left := l.countDone.Load(), time.Since(l.ticked)
		if ticks < c.least || ticks > c.most {
			t.Errorf("%d ticks after %v", ticks, c.passed)
		}
		if bound := uint64((c.passed + time.Since(began)) / tickLength); ticks > bound {
			t.Errorf("%d ticks after %v: time for %d has passed", ticks, c.passed, bound)
		}
		if left > tickLength+time.Since(began) {
			t.Errorf("after %v, %v more are to be made up for", c.passed, left)
		}
		l.alarm.Stop()
	}
}

// What could go wrong: the state that is shown before the loop runs has a timer step the core, while whoever makes the replica is still at it.
func TestNobodyStepsBeforeTheLoopRuns(t *testing.T) {
	n := &node{levels: &levels{}, local: newLocal(), clients: newClients(1), snapshot: newSnapshot()}
	n.disk = newDisk(nil)
	n.loop = newLoop(n, replica.New(replica.Options{Self: smr.Member{Node: "n1", Incarnation: 1}, Cluster: "c", Group: "g", Blank: true}))
	defer n.loop.alarm.Stop()
	defer n.loop.haste.stop()
	n.loop.begin()
	n.loop.step()
	if rounds := n.loop.countDone.Load(); rounds != 0 {
		t.Errorf("the core took %d inputs", rounds)
	}
	if len(n.loop.turn.Left()) != 1 {
		t.Error("the turn does not stand ready")
	}
}

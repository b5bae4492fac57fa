package client

import (
	"errors"
	"testing"

	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/session"
)

// ticks appends n frames of an epoch.
func (g *group) ticks(epoch smr.Epoch, n int) {
	for range n {
		g.append(smr.Frame{Epoch: epoch, Kind: smr.KindTick})
	}
}

// What could go wrong: the replicator beside a node that runs comes back with another directory, whose stream is that of another
// history: the node goes on executing, or answers reads at an LSN that it has reached, with a state that no other node has. Or it takes its own
// stream for another one, and ends.
func TestNodeRefusesTheLogOfAnotherStream(t *testing.T) {
	cases := []struct {
		name  string
		grow  func(other *group, end smr.LSN) // makes the stream that comes back; end is what the node has executed
		fatal bool
	}{
		{"of the same length", func(g *group, end smr.LSN) {
			g.lead("n3", 1)
			for g.end() < end {
				g.ticks(1, 1)
			}
		}, true},
		{"longer, with other borders", func(g *group, end smr.LSN) {
			g.lead("long-name-of-another-node", 1)
			for g.end() <= end {
				g.ticks(1, 1)
			}
			g.ticks(1, 3)
		}, true},
		{"shorter, of another epoch", func(g *group, _ smr.LSN) {
			g.lead("n2", 1)
			g.lead("n3", 2)
		}, true},
		{"shorter, and the same so far", func(g *group, _ smr.LSN) { g.lead("n2", 1) }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g, other := newGroup(t), newGroup(t)
			stop := g.serveLocal()
			g.lead("n2", 1)
			g.ticks(1, 20)
			r := start(t, testConfig(g))
			until(t, "all is executed", func() bool { return r.Applied() == g.end() })
			c.grow(other, g.end())
			stop()
			g.breakAll()
			until(t, "the replicator is away", func() bool { return !r.Stats().Attached })
			other.socketPath = g.socketPath
			stopOther := other.serveLocal()
			if c.fatal {
				if err := r.end(t); !errors.Is(err, ErrOtherStream) {
					t.Errorf("Run ended with %v", err)
				}
				return
			}
			until(t, "the other replicator is there", func() bool { return r.Stats().Attached && r.Stats().Safe > 0 })
			read := make(chan error, 2)
			r.WaitApplied(g.end(), func(err error) { read <- err })
			r.ReadIndex(func(_ smr.LSN, err error) { read <- err })
			until(t, "the master there is asked", func() bool { return r.Stats().Master == "n2" })
			select {
			case err := <-read:
				t.Errorf("a read was answered (%v) although the log does not reach what was executed", err)
			default:
			}
			stopOther()
			other.breakAll()
			until(t, "it is away", func() bool { return !r.Stats().Attached })
			g.serveLocal()
			for range cap(read) {
				if err := <-read; err != nil {
					t.Errorf("beside the log of its own stream a read ends with %v", err)
				}
			}
			last := newCall()
			r.Submit(1, 0, number(1), last)
			if outcome := last.wait(t); outcome != session.Success {
				t.Error(outcome)
			}
		})
	}
}

// What could go wrong: a log that agrees is found to differ, or one that differs to agree.
func TestTrailTellsStreamsApart(t *testing.T) {
	g, other := newGroup(t), newGroup(t)
	g.lead("n2", 1)
	g.ticks(1, 3)
	other.lead("n2", 1)
	other.lead("n3", 2)
	trail := log.NewTrail()
	reader, err := log.OpenReader(nil, g.dir+"/log")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var borders []smr.LSN
	_, _, err = reader.Frames(nil, 0, g.end(), func(f smr.Frame, raw []byte) error {
		trail.Follow(f, raw)
		borders = append(borders, f.End())
		return nil
	})
	if err != nil || trail.LSN() != g.end() {
		t.Fatal(trail.LSN(), err)
	}
	for _, lsn := range append(borders, 0) {
		base, err := reader.BaseAt(lsn)
		if err != nil || !trail.Fits(&base) {
			t.Errorf("its own log at %d does not fit: %v", lsn, err)
		}
		if lsn == g.end() && (!base.Trail().Fits(&base) || base.Trail().LSN() != lsn) {
			t.Error("the trail of a base does not fit it")
		}
	}
	if _, err := reader.BaseAt(borders[1] + 1); !errors.Is(err, log.ErrNoBorder) {
		t.Errorf("in the middle of a frame: %v", err)
	}
	others, err := log.OpenReader(nil, other.dir+"/log")
	if err != nil {
		t.Fatal(err)
	}
	defer others.Close()
	base, err := others.BaseAt(other.end())
	if err != nil || trail.Fits(&base) {
		t.Errorf("another epoch at %d fits: %v", other.end(), err)
	}
}

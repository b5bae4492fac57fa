package client

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/session"
)

// imageOf returns what FetchImage would bring: the state of another machine that has executed the log up to lsn.
func (g *group) imageOf(machine *tape, lsn smr.LSN) (Image, error) {
	reader, err := log.OpenReader(nil, filepath.Join(g.dir, "log"))
	if err != nil {
		return Image{}, err
	}
	defer reader.Close()
	base, err := reader.BaseAt(lsn)
	if err != nil {
		return Image{}, err
	}
	other := &tape{client: &Client{}}
	other.client.owners.base = 1
	for next, buf := smr.LSN(0), []byte(nil); next < lsn; {
		next, buf, err = reader.Frames(buf, next, lsn, func(f smr.Frame, _ []byte) error { return other.ApplyFrame(f) })
		if err != nil {
			return Image{}, err
		}
	}
	return Image{Base: base, Load: func() (uint64, error) {
		machine.mu.Lock()
		defer machine.mu.Unlock()
		machine.table, machine.numbers, machine.next = other.table, other.numbers, lsn
		return machine.table.Last(machine.own), nil
	}}, nil
}

// What could go wrong: a node whose log was trimmed above it stops, skips, executes twice, or leaves somebody waiting for ever.
// Requests are in the log, unexecuted here, when the log's Start jumps above them: those below the image are answered Uncertain,
// all others execute, once and in order.
func TestImageClosesTheGapBelowTheLogsStart(t *testing.T) {
	g := newGroup(t)
	g.sources = []smr.ImageSource{{Node: "n3", Addr: "127.0.0.1:1"}}
	g.serveLocal()
	g.lead("n2", 1)
	config := testConfig(g)
	config.AdminAddr = "127.0.0.1:7777"
	machine := &tape{own: config.Session}
	var asked atomic.Int64
	config.FetchImage = func(_ context.Context, need Need) (Image, error) {
		if n := asked.Add(1); n == 1 {
			return Image{}, errors.New("the first one asked is away")
		}
		if !slices.Equal(need.Sources, g.sources) || need.Applied >= need.From {
			return Image{}, fmt.Errorf("asked for %+v", need)
		}
		return g.imageOf(machine, need.From)
	}
	r := startTape(t, config, machine)
	first := newCall()
	r.Submit(1, 0, number(1), first)
	if outcome := first.wait(t); outcome != session.Success {
		t.Fatal(outcome)
	}
	g.hold.Store(true)
	var calls []*call
	for n := range uint64(20) {
		calls = append(calls, newCall())
		r.Submit(1, 0, number(2+n), calls[n])
	}
	var middle smr.LSN // the border behind some of them
	until(t, "all are in the log", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		reader, err := log.OpenReader(nil, filepath.Join(g.dir, "log"))
		if err != nil {
			return false
		}
		defer reader.Close()
		count := 0
		_, _, err = reader.Frames(nil, 0, g.log.End(), func(f smr.Frame, _ []byte) error {
			count += f.Count
			middle = f.LSN
			return nil
		})
		return err == nil && count == 21
	})
	applied := r.Applied()
	if middle <= applied { // one frame holds all: the border is its end
		middle = g.log.End()
	}
	g.update(func(s *smr.Status) { s.Start = middle })
	until(t, "the image is loaded", func() bool { return r.Applied() >= middle })
	g.update(func(s *smr.Status) { s.NeedImage = middle })
	until(t, "the replicator is told of it", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.bases) > 0 && g.bases[0].LSN == middle
	})
	g.update(func(s *smr.Status) { s.NeedImage = 0 })
	g.release()
	uncertain := 0
	for n, call := range calls {
		outcome := call.wait(t)
		if outcome == Uncertain {
			uncertain++
		}
		if outcome != Uncertain && (outcome != session.Success || call.lsn < middle) || outcome == Uncertain && n > 0 && uncertain != n+1 {
			t.Errorf("request %d: %s at %d, the image was at %d", n, outcome, call.lsn, middle)
		}
	}
	if uncertain == 0 {
		t.Error("nobody was told that the outcome is unknown")
	}
	last := newCall()
	r.Submit(1, 0, number(22), last)
	if outcome := last.wait(t); outcome != session.Success {
		t.Error(outcome)
	}
	var want []uint64
	for n := range uint64(22) {
		want = append(want, n+1)
	}
	if got := machine.executed(); !slices.Equal(got, want) {
		t.Errorf("executed %v", got)
	}
	until(t, "nothing is pending", func() bool { return r.Stats().Pending == 0 })
	for n, call := range append(calls, first, last) {
		if call.times.Load() != 1 {
			t.Errorf("call %d was answered %d times", n, call.times.Load())
		}
	}
	if asked.Load() != 2 || g.hello.AdminAddr != config.AdminAddr {
		t.Errorf("asked %d times; hello %+v", asked.Load(), g.hello)
	}
	r.SetTransfer(smr.Transfer{Done: 5, Total: 9, From: "x"})
	until(t, "the transfer is told", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.transfer == smr.Transfer{Done: 5, Total: 9, From: "x"}
	})
}

// What could go wrong: a node that starts from an image of its own, beside a replicator without a log, waits for ever, loads what
// it has, or is not heard when the replicator comes back.
func TestImageOfOnesOwnIsBroughtWithoutLoadingIt(t *testing.T) {
	g := newGroup(t)
	stop := g.serveLocal()
	g.lead("n2", 1)
	config := testConfig(g)
	config.Applied, config.Checkpoint = g.end(), g.end()
	config.FetchImage = func(_ context.Context, need Need) (Image, error) {
		if need.From > config.Applied || need.Applied != config.Applied {
			return Image{}, fmt.Errorf("asked for %+v", need)
		}
		image, err := g.imageOf(&tape{}, config.Applied)
		image.Load = func() (uint64, error) { return 0, errors.New("nothing was to be loaded") }
		return image, err
	}
	g.update(func(s *smr.Status) { s.NeedImage = 10 })
	r := start(t, config)
	brought := func(n int) func() bool {
		return func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.bases) >= n
		}
	}
	until(t, "the base is brought", brought(1))
	stop()
	g.breakAll()
	until(t, "the replicator is away", func() bool { return !r.Stats().Attached })
	g.serveLocal()
	until(t, "the base is brought again", brought(2))
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.bases[0].LSN != config.Applied || g.bases[1].LSN != config.Applied {
		t.Errorf("%+v", g.bases)
	}
}

// What could go wrong: a node goes on from the image of a stream that the group has given up: its state differs from all others
// for ever.
func TestStateOfAnotherStreamIsRefused(t *testing.T) {
	for _, own := range []bool{true, false} {
		g := newGroup(t)
		g.serveLocal()
		g.lead("n2", 1)
		other := newGroup(t)
		other.serveLocal()
		other.lead("n3", 1)
		source := other
		if own {
			source = g
		}
		image, err := source.imageOf(&tape{}, source.end())
		if err != nil {
			t.Fatal(err)
		}
		config := testConfig(g)
		config.Applied, config.Base = g.end(), &image.Base
		if image.Base.LSN != g.end() {
			t.Fatalf("streams of other lengths: %d and %d", image.Base.LSN, g.end())
		}
		r := start(t, config)
		g.append(smr.Frame{Epoch: 1, Kind: smr.KindTick})
		if own {
			until(t, "the frame is executed", func() bool { return r.Applied() == g.end() })
			continue
		}
		if err := r.end(t); !errors.Is(err, ErrOtherStream) {
			t.Errorf("Run ended with %v", err)
		}
	}
}

// What could go wrong: the image of a stream that the group has given up comes from a peer, and reads at an LSN that it is above are
// answered from it before the log of the group reaches it; or it is lent to another node.
func TestReadsWaitUntilAnImageIsProved(t *testing.T) {
	for _, own := range []bool{true, false} {
		g, given := newGroup(t), newGroup(t)
		g.sources = []smr.ImageSource{{Node: "n3", Addr: "127.0.0.1:1"}}
		g.serveLocal()
		g.lead("n2", 1)
		g.ticks(1, 5)
		middle := g.end()
		g.ticks(1, 5)
		given.serveLocal()
		given.lead("n2", 1)
		given.ticks(1, 5)
		given.append(smr.Frame{Epoch: 1, Kind: smr.KindCommit})
		given.ticks(1, 4)
		if given.end() != g.end() {
			t.Fatalf("streams of other lengths: %d and %d", given.end(), g.end())
		}
		source := given
		if own {
			source = g
		}
		config := testConfig(g)
		machine := &tape{own: config.Session}
		image := g.end()
		config.FetchImage = func(context.Context, Need) (Image, error) { return source.imageOf(machine, image) }
		g.update(func(s *smr.Status) { s.Safe, s.Commit, s.NeedImage = middle, middle, middle })
		r := startTape(t, config, machine)
		until(t, "the image is loaded", func() bool { return r.Applied() == image })
		read := make(chan error, 1)
		r.WaitApplied(middle, func(err error) { read <- err })
		until(t, "the base is brought", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.bases) > 0 && g.progress.Applied == image
		})
		select {
		case err := <-read:
			t.Fatalf("a read was answered (%v) from an image that nobody has held against the log", err)
		default:
		}
		g.mu.Lock()
		checkpoint := g.progress.Checkpoint
		g.mu.Unlock()
		if checkpoint > 0 || r.Proved() {
			t.Errorf("checkpoint %d, proved %v", checkpoint, r.Proved())
		}
		g.update(func(s *smr.Status) { s.Safe, s.Commit, s.NeedImage = image, image, 0 })
		if !own {
			if err := r.end(t); !errors.Is(err, ErrOtherStream) {
				t.Errorf("Run ended with %v", err)
			}
			continue
		}
		if err := <-read; err != nil || !r.Proved() {
			t.Errorf("the read ends with %v, proved %v", err, r.Proved())
		}
	}
}

// What could go wrong: a node whose image was refused, because its stream was given up, brings it for ever.
func TestRefusedImageEndsTheNode(t *testing.T) {
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	r := start(t, testConfig(g))
	until(t, "it is attached", func() bool { return r.Applied() == g.end() })
	g.mu.Lock()
	g.refusal = &smr.Reject{Code: smr.RejectForeign, Reason: "the stream was given up"}
	g.mu.Unlock()
	g.update(func(*smr.Status) {})
	if err := r.end(t); !errors.Is(err, ErrOtherStream) {
		t.Errorf("Run ended with %v", err)
	}
}

// What could go wrong: a group was recovered by force with a master and a member whose log ends below where the master's begins. Nothing
// becomes committed before that one has an image, and the only node that could lend one waits for the commit to be sure of its own state. Beside the
// master all of its log counts; beside a slave only what is committed does, for the rest may be cut off.
func TestMastersLogProvesWhatIsNotCommittedYet(t *testing.T) {
	for _, c := range []struct {
		role  smr.Role
		own   bool
		proof bool
	}{{smr.RoleMaster, true, true}, {smr.RoleMaster, false, false}, {smr.RoleSlave, true, false}} {
		g, given := newGroup(t), newGroup(t)
		for _, of := range []*group{g, given} {
			of.serveLocal()
			of.lead("n2", 1)
			of.ticks(1, 5)
		}
		middle := g.end()
		g.ticks(1, 5)
		given.append(smr.Frame{Epoch: 1, Kind: smr.KindCommit})
		given.ticks(1, 4)
		end := g.end()
		source := given
		if c.own {
			source = g
		}
		config := testConfig(g)
		machine := &tape{own: config.Session}
		image, err := source.imageOf(machine, end)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := image.Load(); err != nil {
			t.Fatal(err)
		}
		config.Base, config.Applied, config.Checkpoint = &image.Base, end, end
		g.update(func(s *smr.Status) { s.Role, s.Safe, s.Commit = c.role, middle, middle })
		r := startTape(t, config, machine)
		told := func() (smr.LSN, smr.LSN) {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.progress.Applied, g.progress.Checkpoint
		}
		if c.proof {
			until(t, "the state is proved", func() bool { _, checkpoint := told(); return r.Proved() && checkpoint == end })
			continue
		}
		until(t, "it is attached", func() bool { applied, _ := told(); return applied == end })
		if _, checkpoint := told(); checkpoint > 0 || r.Proved() {
			t.Errorf("%v, own %v: checkpoint %d, proved %v", c.role, c.own, checkpoint, r.Proved())
		}
		g.update(func(s *smr.Status) { s.Safe, s.Commit = end, end })
		if c.own {
			until(t, "the state is proved", r.Proved)
		} else if err := r.end(t); !errors.Is(err, ErrOtherStream) {
			t.Errorf("Run ended with %v", err)
		}
	}
}

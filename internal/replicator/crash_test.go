package replicator

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
	"lockstep/smr/replica"
)

// firstSteps is the first life of a replica until its log holds two synced frames. told is called with what anybody may
// have heard of by then.
func firstSteps(cfg Config, told func(incarnation smr.Incarnation, promise smr.Epoch, durable smr.LSN)) error {
	h, err := openHome(cfg)
	if err != nil {
		return err
	}
	defer h.release()
	defer h.log.Close()
	told(h.saved.Incarnation, 0, 0)
	d := newDisk(h)
	if err := d.save(&replica.Saved{Promise: 7}); err != nil {
		return err
	}
	told(h.saved.Incarnation, 7, 0)
	config := smr.Config{Epoch: 7, Reign: 7, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: h.saved.Incarnation}}}
	frames := []smr.Frame{{Epoch: 7, Kind: smr.KindEpochStart, Stamp: 1, Body: smr.AppendConfig(nil, config)}, {Epoch: 7, Kind: smr.KindTick, Stamp: 1}}
	for _, f := range frames {
		f.LSN = h.log.End()
		if err := d.append(smr.AppendFrame(nil, f)); err != nil {
			return err
		}
		if err := h.log.Sync(); err != nil {
			return err
		}
		told(h.saved.Incarnation, 7, h.log.Durable())
	}
	return nil
}

// A crash is no loss of a log. What could go wrong: the machines of a group that is being founded go down together, each
// has noted that its log begins and holds nothing yet, all come back as new incarnations, and nobody is left to elect.
func TestCrashKeepsTheIncarnation(t *testing.T) {
	config := func(fs *simfs.FS) Config {
		cfg := testConfig("/replica", "n1").withDefaults()
		cfg.Logger, cfg.FileSize, cfg.fs = quiet(), 4096, fs
		return cfg
	}
	whole := simfs.New()
	if err := firstSteps(config(whole), func(smr.Incarnation, smr.Epoch, smr.LSN) {}); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= whole.Calls(); n++ {
		fs := simfs.New()
		fs.SetHook(func(c simfs.Call) simfs.Verdict { return simfs.Verdict{CrashBefore: c.Number == n} })
		var incarnation smr.Incarnation
		var promise smr.Epoch
		var durable smr.LSN
		err := firstSteps(config(fs), func(i smr.Incarnation, p smr.Epoch, d smr.LSN) { incarnation, promise, durable = i, p, d })
		if err != nil && !errors.Is(err, simfs.ErrCrashed) {
			t.Fatalf("call %d: %v", n, err)
		}
		for _, image := range []simfs.Image{{}, {Pages: simfs.Kept, Names: simfs.Kept}, {Pages: simfs.Torn, Names: simfs.Torn, Seed: uint64(n)},
			{Pages: simfs.Backwards, Names: simfs.Kept}} {
			h, err := openHome(config(fs.Crashed(image)))
			if err != nil {
				t.Fatalf("call %d, %v: %v", n, image, err)
			}
			if incarnation != 0 && h.saved.Incarnation != incarnation || h.saved.Promise < promise || h.log.End() < durable {
				t.Errorf("call %d, %v: incarnation %x promise %d end %d, told were %x, %d, %d", n, image,
					h.saved.Incarnation, h.saved.Promise, h.log.End(), incarnation, promise, durable)
			}
			h.log.Close()
			h.release()
		}
	}
}

// A stop while an append waits for space is a stop in good order: nothing that was ordered behind the append is carried
// out in front of it.
func TestStopWithAFullDisk(t *testing.T) {
	cfg := testConfig(tempDir(t), "n1")
	fs := newFaultFS()
	cfg.fs, cfg.FileSize = fs, 4096
	h := openTestHome(t, cfg)
	defer h.release()
	config := smr.Config{Epoch: 7, Reign: 7, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: h.saved.Incarnation}}}
	var ops []replica.DiskOp
	end := smr.LSN(0)
	add := func(f smr.Frame) {
		f.LSN, f.Epoch, f.Stamp = end, 7, 1
		ops = append(ops, replica.DiskOp{Ticket: uint64(len(ops) + 1), Append: smr.AppendFrame(nil, f)})
		end = f.End()
	}
	add(smr.Frame{Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, config)})
	for range 300 { // three files
		add(smr.Frame{Kind: smr.KindTick})
	}
	fs.set(log.LabelSpareCreate, func() error { return syscall.ENOSPC })
	d := newDisk(h)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	for i := range ops {
		if err := d.submit(ops[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		if !d.full.Load() {
			return errors.New("the disk is not full")
		}
		return nil
	})
	if err := d.submit([]replica.DiskOp{{Ticket: uint64(len(ops) + 1), Save: &replica.Saved{Promise: 9}}}); err != nil {
		t.Fatal(err)
	}
	add(smr.Frame{Kind: smr.KindTick})
	if err := d.submit(ops[len(ops)-1:]); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("stop: %v", err)
	}
	if h.saved.Promise == 9 {
		t.Error("an order was carried out although one before it was not")
	}
	if err := h.closeCleanly(); err != nil {
		t.Error(err)
	}
}

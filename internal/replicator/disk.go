package replicator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/invariant"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/replica"
)

const (
	// diskBehindBytes is how many bytes may wait for the disk before the loop takes no more proposals and no more of the
	// master's stream. Acknowledgements and orders go on.
	diskBehindBytes = 32 << 20
	// maxDiskOps bounds the operations that wait while nothing can be held back at the source (orders, ticks): far
	// above what a wedged disk gathers in an hour. Beyond it the process gives up.
	maxDiskOps = 1 << 16
	// joinBytes is up to how many bytes of several appends are written at once.
	joinBytes = 128 << 10
	// fullRetry is the pause before an append is tried again on a full disk.
	fullRetry = 200 * time.Millisecond
	// settleAfter is how long the log has to be quiet before its durable mark is made durable itself.
	settleAfter = 250 * time.Millisecond
)

// disk is the log writer: one goroutine that owns the directory's log and hard state. The loop submits operations; they
// are executed in order, as many as are waiting with one sync, and reported as one progress: the last ticket done.
//
// A failed write or sync ends the process: what the disk holds is then unknown, and only recovery finds out. The one
// exception is a full disk, which log.Append reports before it writes anything: the append, and everything behind it,
// waits until space returns; only trims behind it are carried out before. Meanwhile full is true: no proposals are taken, the KV nodes are told that nothing is
// writable, acknowledgements of slaves go on. An order to fence that arrives in this state is answered when space
// returns, because operations keep their order; an election does not need it as long as enough others answer.
type disk struct {
	home *home
	wake chan struct{} // 1: operations are waiting
	done func()        // called when progress was made, or full has changed; set before run

	queue struct {
		sync.Mutex
		ops      []replica.DiskOp
		ticket   uint64  // progress: everything up to it is done
		durable  smr.LSN // as of ticket
		progress bool    // not yet taken by the loop
	}

	waitingBytes atomic.Int64  // of appends submitted and not yet done
	waitingOps   atomic.Int64  // operations submitted and not yet done
	executed     atomic.Uint64 // ticket: the bytes of every append up to it are in the log's files
	busySince    atomic.Int64  // process time in milliseconds when what is being done began, 0 if idle
	full         atomic.Bool

	batch         []replica.DiskOp // owned by run, as is all below
	joined        []byte           // several appends as one write
	unsyncedSince time.Time        // of the oldest byte not really synced, in SyncInterval; zero if none
}

func newDisk(h *home) *disk {
	return &disk{home: h, wake: make(chan struct{}, 1), done: func() {}}
}

// submit hands operations over, in order. Called by the loop; never blocks. The bytes belong to the disk and to whoever
// else has them: nobody changes them.
func (d *disk) submit(ops []replica.DiskOp) error {
	if len(ops) == 0 {
		return nil
	}
	bytes := 0
	for i := range ops {
		bytes += len(ops[i].Append)
	}
	d.waitingBytes.Add(int64(bytes))
	if waiting := d.waitingOps.Add(int64(len(ops))); waiting > maxDiskOps {
		return fmt.Errorf("%d disk operations wait: the disk does not go on", waiting)
	}
	d.queue.Lock()
	d.queue.ops = append(d.queue.ops, ops...)
	d.queue.Unlock()
	signal(d.wake)
	return nil
}

// behind reports whether so much waits for the disk that no more may be taken in.
func (d *disk) behind() bool { return d.waitingBytes.Load() >= diskBehindBytes || d.full.Load() }

// takeProgress returns what has been done since it was last called.
func (d *disk) takeProgress() (done replica.DiskDone, some bool) {
	d.queue.Lock()
	defer d.queue.Unlock()
	some = d.queue.progress
	d.queue.progress = false
	return replica.DiskDone{Ticket: d.queue.ticket, Durable: d.queue.durable}, some
}

// stuckMillis tells how long the disk operation under way has been running.
func (d *disk) stuckMillis() int64 {
	since := d.busySince.Load()
	if since == 0 {
		return 0
	}
	return max(0, processMillis()-since)
}

// run executes operations until ctx ends and then what is still waiting. It returns the error that ends the process.
func (d *disk) run(ctx context.Context) error {
	if err := d.serve(ctx); !errors.Is(err, errStopping) {
		return err
	}
	return nil
}

// serve is run, but that it says so if it had to leave operations undone.
func (d *disk) serve(ctx context.Context) error {
	timer := time.NewTimer(settleAfter)
	defer timer.Stop()
	for {
		select {
		case <-d.wake:
		case <-timer.C: // it is not set again before something was done: the log is settled
			if err := d.idle(); err != nil {
				return err
			}
			continue
		case <-ctx.Done():
			return d.drain(ctx)
		}
		if err := d.drain(ctx); err != nil {
			return err
		}
		d.arm(timer)
	}
}

// arm sets timer to when the next sync in the background is due.
func (d *disk) arm(timer *time.Timer) {
	pause := settleAfter
	if !d.unsyncedSince.IsZero() {
		pause = max(0, time.Until(d.unsyncedSince.Add(time.Duration(d.home.cfg.SyncMillis)*time.Millisecond)))
	}
	timer.Reset(pause)
}

// idle runs when the timer fires: nothing has been submitted for a moment, or a sync is due.
func (d *disk) idle() error {
	d.busySince.Store(processMillis())
	defer d.busySince.Store(0)
	if !d.unsyncedSince.IsZero() {
		return d.syncNow()
	}
	if d.home.cfg.Sync == smr.SyncAlways {
		return d.home.log.Settle()
	}
	return nil
}

func (d *disk) syncNow() error {
	d.unsyncedSince = time.Time{}
	err := d.home.log.SyncNow()
	d.home.cfg.gauges.noteSynced(d.home.log.Synced())
	return err
}

// drain executes all that is waiting, batch by batch.
func (d *disk) drain(ctx context.Context) error {
	for {
		d.queue.Lock()
		d.batch, d.queue.ops = d.queue.ops, d.batch[:0]
		d.queue.Unlock()
		if len(d.batch) == 0 {
			d.busySince.Store(0)
			return nil
		}
		err := d.execute(ctx, d.batch)
		clear(d.batch)
		if err != nil {
			return err
		}
	}
}

// execute carries out a batch with one sync at its end.
func (d *disk) execute(ctx context.Context, batch []replica.DiskOp) error {
	d.busySince.Store(processMillis())
	reported := 0
	for i := 0; i < len(batch); i++ {
		op := &batch[i]
		switch {
		case op.Append != nil:
			frames, count := d.join(batch[i:])
			write := func() error { return d.append(frames) }
			err := write()
			if errors.Is(err, log.ErrFull) {
				if err := d.report(batch[reported:i]); err != nil {
					return err
				}
				reported = i
				err = d.waitForSpace(ctx, write, err, batch[i+count:])
			}
			if err != nil {
				return err
			}
			i += count - 1
			op = &batch[i]
		case op.Begin != nil:
			begin := func() error { return d.begin(op.Begin) }
			err := begin()
			if errors.Is(err, log.ErrFull) {
				err = d.waitForSpace(ctx, begin, err, nil)
			}
			if err != nil {
				return err
			}
		case op.Trim != nil:
			if err := d.trim(op.Trim.To); err != nil {
				return err
			}
		case op.Save != nil:
			if err := d.save(op.Save); err != nil {
				return err
			}
		case op.Rewind != nil:
			if err := d.home.log.Rewind(op.Rewind.To); err != nil {
				return fmt.Errorf("rewind to %d: %w", op.Rewind.To, err)
			}
		default:
			invariant.Assert(false, "a disk operation without contents", op.Ticket)
		}
		d.executed.Store(op.Ticket)
	}
	return d.report(batch[reported:])
}

// join returns the bytes of the appends at the front of ops, as many as fit into one write of joinBytes, and their count.
func (d *disk) join(ops []replica.DiskOp) (frames []byte, count int) {
	if len(ops) == 1 || ops[1].Append == nil || len(ops[0].Append)+len(ops[1].Append) > joinBytes {
		return ops[0].Append, 1
	}
	d.joined = d.joined[:0]
	for count < len(ops) && ops[count].Append != nil && len(d.joined)+len(ops[count].Append) <= joinBytes {
		d.joined = append(d.joined, ops[count].Append...)
		count++
	}
	return d.joined, count
}

func (d *disk) append(frames []byte) error {
	h := d.home
	if h.cfg.drills.DiskFull() {
		return fmt.Errorf("append at %d: %w: by a drill", h.log.End(), log.ErrFull)
	}
	if err := h.log.Append(frames); err != nil {
		return err
	}
	if !h.saved.LogBegun {
		if err := h.markLogBegun(); err != nil {
			return err
		}
	}
	if h.cfg.Sync == smr.SyncInterval {
		if d.unsyncedSince.IsZero() {
			d.unsyncedSince = time.Now()
		}
		if int64(h.log.End()-h.log.Synced()) >= h.cfg.SyncBytes {
			if err := d.syncNow(); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin lets the log begin anew at the LSN of an image.
func (d *disk) begin(op *replica.Begin) error {
	base, err := log.ParseBase(op.Base)
	if err != nil {
		return fmt.Errorf("begin the log at %d: %w", op.LSN, err)
	}
	invariant.Assert(base.LSN == op.LSN, "the base is that of the image", base.LSN, op.LSN)
	h := d.home
	if err := h.allowStart(op.LSN); err != nil {
		return err
	}
	if err := h.log.BeginAt(base); err != nil {
		return err
	}
	d.unsyncedSince = time.Time{}
	if !h.saved.LogBegun {
		return h.markLogBegun()
	}
	return nil
}

// trim removes the files below to. A file that cannot be removed only takes room: the next trim tries again.
func (d *disk) trim(to smr.LSN) error {
	h := d.home
	if err := h.allowStart(to); err != nil {
		return err
	}
	before := h.log.Start()
	err := h.log.TrimTo(to)
	switch {
	case err != nil && h.log.Err() != nil:
		return err
	case err != nil:
		h.cfg.Logger.Warn("log not trimmed", "group", h.cfg.Group, "node", h.cfg.Node, "lsn", uint64(to), "error", err)
	case h.log.Start() != before:
		h.cfg.Logger.Info("log trimmed", "group", h.cfg.Group, "node", h.cfg.Node, "from", uint64(before), "lsn", uint64(h.log.Start()))
	}
	return nil
}

// trimAhead carries out the trims that stand behind an append which finds the disk full: they may be what makes room.
// They are carried out again in their turn, which does nothing.
func (d *disk) trimAhead(behind []replica.DiskOp) error {
	d.queue.Lock()
	ops := append(slices.Clone(behind), d.queue.ops...)
	d.queue.Unlock()
	for i := range ops {
		switch op := &ops[i]; {
		case op.Begin != nil:
			return nil // what is trimmed behind it is another log
		case op.Trim != nil && op.Trim.To <= d.home.log.Durable():
			if err := d.trim(op.Trim.To); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *disk) save(saved *replica.Saved) error {
	st := d.home.saved
	invariant.Assert(saved.Promise >= st.Promise, "a promise goes back", st.Promise, saved.Promise)
	st.Promise, st.LeaseHoldTicks = saved.Promise, max(st.LeaseHoldTicks, saved.LeaseHold)
	return d.home.save(st)
}

// report makes ops durable and tells the loop.
func (d *disk) report(ops []replica.DiskOp) error {
	if len(ops) == 0 {
		return nil
	}
	if err := d.home.log.Sync(); err != nil {
		return err
	}
	d.home.cfg.gauges.noteSynced(d.home.log.Synced())
	bytes := 0
	for i := range ops {
		bytes += len(ops[i].Append)
	}
	d.waitingBytes.Add(int64(-bytes))
	d.waitingOps.Add(int64(-len(ops)))
	d.queue.Lock()
	d.queue.ticket, d.queue.durable, d.queue.progress = ops[len(ops)-1].Ticket, d.home.log.Durable(), true
	d.queue.Unlock()
	d.done()
	return nil
}

// errStopping: the process ends while an append waits for space. Nobody was told that it is durable, and nothing that was
// ordered behind it may be carried out.
var errStopping = errors.New("stopping")

// waitForSpace tries again to write until there is room for it. behind are operations that wait as well.
func (d *disk) waitForSpace(ctx context.Context, write func() error, err error, behind []replica.DiskOp) error {
	cfg := d.home.cfg
	cfg.Logger.Error("disk full", "group", cfg.Group, "node", cfg.Node, "lsn", uint64(d.home.log.End()), "error", err)
	d.full.Store(true)
	d.done()
	retry := time.NewTicker(fullRetry)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return errStopping
		case <-retry.C:
		}
		if err := d.trimAhead(behind); err != nil {
			return err
		}
		if err = write(); errors.Is(err, log.ErrFull) {
			continue
		}
		if err == nil {
			cfg.Logger.Info("disk has room again", "group", cfg.Group, "node", cfg.Node, "lsn", uint64(d.home.log.End()))
			d.full.Store(false)
			d.done()
		}
		return err
	}
}

// signal wakes whoever waits on c, a channel of capacity 1; several signals may become one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

var processStart = time.Now()

// processMillis is monotonic time in milliseconds since the process started, from 1.
func processMillis() int64 { return int64(time.Since(processStart)/time.Millisecond) + 1 }

package sim

import (
	"errors"

	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
	"lockstep/smr/replica"
)

const (
	whatDiskBegin = 20 + iota
	whatDiskEnd
	whatDiskRetry
)

// fullRetry is the pause before an append is tried again on a full disk, settleTicks how long the log is quiet
// before its mark is made durable.
const (
	fullRetry   = 200 * millisecond
	settleTicks = 25
)

// diskWriter is the log writer of internal/replicator: operations are executed in order, as many as are waiting with one
// sync at the end, which comes some time after the writes.
type diskWriter struct {
	r        *replicator
	waiting  []replica.DiskOp
	batch    []replica.DiskOp
	position int // in batch: everything before it is executed
	reported int // everything before it is reported

	busy      bool
	busySince int64
	full      bool
	bytes     int // of appends that wait or are being done
	executed  uint64
	done      replica.DiskDone
	progress  bool // done has news
	idle      int  // ticks
}

func (d *diskWriter) submit(ops []replica.DiskOp) {
	if len(ops) == 0 {
		return
	}
	for i := range ops {
		d.bytes += len(ops[i].Append)
	}
	d.waiting = append(d.waiting, ops...)
	d.begin()
}

func (d *diskWriter) begin() {
	if !d.busy && len(d.waiting) > 0 {
		d.busy, d.busySince = true, d.r.w.now
		d.r.w.after(between(d.r.w.draw.disk, 1, 50), d.r, whatDiskBegin)
	}
}

// behind reports whether no more may be taken in.
func (d *diskWriter) behind() bool { return d.full || d.bytes >= d.r.w.o.MaxBehind }

// stuckMillis tells for how long the disk has been at it.
func (d *diskWriter) stuckMillis() int64 {
	if !d.busy {
		return 0
	}
	return (d.r.w.now - d.busySince) / millisecond
}

// start takes what is waiting and writes it.
func (d *diskWriter) start() error {
	d.batch, d.waiting = d.waiting, d.batch[:0]
	d.position, d.reported = 0, 0
	return d.write()
}

// write executes operations. A full disk ends it for the moment.
func (d *diskWriter) write() error {
	w, h := d.r.w, d.r.h
	for ; d.position < len(d.batch); d.position++ {
		op := &d.batch[d.position]
		var err error
		switch {
		case op.Append != nil:
			err = d.append(op.Append)
			if errors.Is(err, log.ErrFull) {
				w.hit(probeDiskFull)
				d.full = true
				w.after(fullRetry, d.r, whatDiskRetry)
				return d.report(d.position)
			}
		case op.Save != nil:
			st := d.r.home.saved
			if op.Save.Promise < st.Promise {
				w.violate("a promise goes back", "%s: %d after %d", h.id, op.Save.Promise, st.Promise)
			}
			st.Promise, st.LeaseHoldTicks = op.Save.Promise, max(st.LeaseHoldTicks, op.Save.LeaseHold)
			err = d.r.home.save(st)
		case op.Rewind != nil:
			v := h.drive // what is above goes by order
			v.durable, v.marked, v.judged = min(v.durable, op.Rewind.To), min(v.marked, op.Rewind.To), min(v.judged, op.Rewind.To)
			err = d.r.home.log.Rewind(op.Rewind.To)
		case op.Begin != nil:
			if err = d.beginLog(op.Begin); errors.Is(err, log.ErrFull) {
				w.hit(probeDiskFull)
				d.full = true
				w.after(fullRetry, d.r, whatDiskRetry)
				return d.report(d.position)
			}
		case op.Trim != nil:
			err = d.trim(op.Trim.To)
		}
		if err != nil {
			return err
		}
		d.executed = op.Ticket
	}
	delay := between(w.draw.disk, w.o.DiskLow, w.o.DiskHigh)
	if h.slowDisk > w.now {
		delay += h.slowBy
	}
	w.after(delay, d.r, whatDiskEnd)
	return nil
}

func (d *diskWriter) append(frames []byte) error {
	m := d.r.home
	if err := m.log.Append(frames); err != nil {
		return err
	}
	if !m.saved.LogBegun {
		st := m.saved
		st.LogBegun = true
		return m.save(st)
	}
	return nil
}

// beginLog lets the log begin anew at an image.
func (d *diskWriter) beginLog(op *replica.Begin) error {
	base, err := log.ParseBase(op.Base)
	if err != nil || base.LSN != op.LSN {
		d.r.w.violate("a base does not survive its encoding", "%s: %d is %d: %v", d.r.h.id, op.LSN, base.LSN, err)
	}
	m, v := d.r.home, d.r.h.drive
	if err := m.allowStart(op.LSN); err != nil {
		return err
	}
	common := d.r.begun[0] // a crash leaves the old log or the new one: what both hold stays
	v.durable, v.marked, v.judged = min(v.durable, common), min(v.marked, common), min(v.judged, common)
	if err := m.log.BeginAt(base); err != nil {
		return err
	}
	d.r.begun = d.r.begun[1:]
	if !m.saved.LogBegun {
		st := m.saved
		st.LogBegun = true
		return m.save(st)
	}
	return nil
}

// trim removes what lies wholly below to.
func (d *diskWriter) trim(to smr.LSN) error {
	m := d.r.home
	if err := m.allowStart(to); err != nil {
		return err
	}
	before := m.log.Start()
	err := m.log.TrimTo(to)
	if m.log.Start() > before {
		d.r.w.hit(probeTrim)
	}
	if err != nil && m.log.Err() == nil && !errors.Is(err, simfs.ErrCrashed) {
		return nil // the next one tries again
	}
	return err
}

// trimAhead carries out the trims that stand behind what finds the disk full.
func (d *diskWriter) trimAhead() error {
	for _, ops := range [][]replica.DiskOp{d.batch[d.position+1:], d.waiting} {
		for i := range ops {
			if ops[i].Begin != nil {
				return nil
			}
			if op := ops[i].Trim; op != nil && op.To <= d.r.home.log.Durable() {
				if err := d.trim(op.To); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// retry tries what found the disk full again.
func (d *diskWriter) retry() error {
	op := &d.batch[d.position]
	err := d.trimAhead()
	switch {
	case err != nil:
	case op.Begin != nil:
		err = d.beginLog(op.Begin)
	default:
		err = d.append(op.Append)
	}
	if errors.Is(err, log.ErrFull) {
		d.r.w.after(fullRetry, d.r, whatDiskRetry)
		return nil
	}
	if err != nil {
		return err
	}
	d.full = false
	d.r.wake()
	d.executed = d.batch[d.position].Ticket
	d.position++
	return d.write()
}

// finish makes the batch durable.
func (d *diskWriter) finish() error {
	if err := d.report(len(d.batch)); err != nil {
		return err
	}
	clear(d.batch)
	d.busy, d.idle = false, 0
	d.begin()
	return nil
}

// report makes everything before position durable and tells the loop.
func (d *diskWriter) report(position int) error {
	if position == d.reported {
		return nil
	}
	before := d.r.home.log.Durable()
	if err := d.r.home.log.Sync(); err != nil {
		return err
	}
	d.r.h.drive.marked = before
	for i := d.reported; i < position; i++ {
		d.bytes -= len(d.batch[i].Append)
	}
	d.reported = position
	d.done = replica.DiskDone{Ticket: d.batch[position-1].Ticket, Durable: d.r.home.log.Durable()}
	d.progress = true
	d.r.wake()
	return nil
}

// told notes what the core has been told: it must survive from now on.
func (d *diskWriter) told() {
	v := d.r.h.drive
	// A rewind that has been carried out since the report took bytes by order.
	v.durable = max(v.durable, min(d.done.Durable, d.r.home.log.Durable()))
	v.judged = v.durable
	v.promised = d.r.home.saved.Promise
}

// settle makes the durable mark durable when the log has been quiet.
func (d *diskWriter) settle() error {
	if d.busy {
		return nil
	}
	if d.idle++; d.idle%settleTicks != 0 {
		return nil
	}
	return d.r.home.log.Settle()
}

package kvnode

import (
	"errors"
	"fmt"
	"time"

	"lockstep/internal/kv"
	"lockstep/smr"
	"lockstep/smr/client"
)

// errStopped ends what waits when the node stops.
var errStopped = errors.New("this node is stopping")

// settle carries out the run and leaves its replies, in order, in c.reply.
func (c *conn) settle() {
	r := &c.run
	if len(r.ops) == 0 {
		return
	}
	c.countWrites()
	if r.writes > 0 && !r.settled {
		c.submit(false)
		if !c.await() {
			return
		}
		c.noteWrites()
		if c.copies > 0 && c.waiting == nil && !c.demandCopies() {
			return
		}
	}
	c.answerRest()
	r.reset()
}

// countWrites counts the writes of the run, unless some of them are submitted already.
func (c *conn) countWrites() {
	r := &c.run
	if r.writes > 0 {
		return
	}
	for _, o := range r.ops {
		if o.write {
			r.writes++
		}
	}
	r.open = r.writes
	c.began = c.node.now()
}

// noteWrites notes that all writes of the run have their outcome.
func (c *conn) noteWrites() {
	r := &c.run
	c.node.committed(c.began, r.writes)
	c.lastWrite = max(c.lastWrite, r.lastWrite)
	r.settled = true
}

// submit hands the writes of the run to the log that it does not have. If there is no room it waits, or, with try, gives up and reports
// false. From the first one on, the run belongs to others; behind the last one, with try, the whole connection does.
func (c *conn) submit(try bool) bool {
	ops, from, payload := c.run.ops, c.run.submitted, c.payload
	last := len(ops) - 1
	for !ops[last].write {
		last--
	}
	for i, o := range ops[from : last+1] {
		if !o.write {
			continue
		}
		slot := uint16(smr.NoSlot)
		if o.queue != nil {
			payload = o.queue.appendPayload(payload[:0], o.envelope)
		} else {
			payload = o.envelope.AppendCommand(payload[:0], o.args)
			slot = o.command.machine.Slot(o.args)
		}
		if from+i == last {
			c.payload = nil
			if cap(payload) <= keptBuffer {
				c.payload = payload
			}
		}
		switch {
		case len(payload) > smr.MaxPayload:
			o.Finish(client.TooLarge)
		case !try:
			c.node.log.Submit(slot, payload, o)
		case !c.node.log.TrySubmit(slot, payload, o):
			c.run.submitted = from + i
			return false
		}
	}
	return true
}

// await waits until what the connection asked of the log is answered. It reports false if the node stopped
// before; the connection is then dead.
func (c *conn) await() bool {
	select {
	case <-c.run.wake:
		return true
	case <-c.node.stopped:
		c.dead = true
		return false
	}
}

// answerRest answers what remains once all writes have their outcome: failed writes, and the reads that no write
// carried into the log. All these reads share one read index, taken after they arrived.
func (c *conn) answerRest() {
	r := &c.run
	linearized := false
	for r.next < len(r.ops) && !c.dead {
		o := r.ops[r.next]
		switch {
		case o.write:
			r.answerFailed(o)
			r.next++
		case linearized:
			c.answerReads(true)
		default:
			if err := c.prepareRead(); err != nil {
				c.answerUnread(err)
			} else {
				linearized = true
			}
		}
	}
}

// linearize waits until this node has executed everything that was acknowledged before now.
func (c *conn) linearize() error {
	if lsn, ok := c.node.log.ReadLease(); ok {
		if c.node.Applied() >= lsn {
			return nil
		}
		return c.node.waitApplied(lsn, c.caughtUp)
	}
	began := c.node.now()
	c.node.log.ReadIndex(c.onIndex)
	if !c.await() {
		return errStopped
	}
	if c.index.err != nil {
		return c.index.err
	}
	err := c.node.waitApplied(c.index.lsn, c.caughtUp)
	if err == nil {
		c.node.gauges.readIndex.Observe((c.node.now() - began).Seconds())
		c.node.fresh.note(began)
	}
	return err
}

// indexReady takes the answer of a read index round, on a goroutine of the log.
func (c *conn) indexReady(lsn smr.LSN, err error) {
	c.index = indexAnswer{lsn: lsn, err: err}
	c.run.wake <- struct{}{}
}

// answerUnread answers the reads from the next operation up to the next write with the reason why they cannot be
// linearizable.
func (c *conn) answerUnread(err error) {
	r := &c.run
	text := c.unreadable(err)
	for ; r.next < len(r.ops) && !r.ops[r.next].write; r.next++ {
		o := r.ops[r.next]
		r.target(o).Error(text)
		c.node.countFailure(o.command, text)
	}
}

// answerReads executes the reads from the next operation up to the next write. The node has executed what they
// must see. Unless it may wait, it stops at one that has to, and reports false.
func (c *conn) answerReads(patient bool) bool {
	n, r := c.node, &c.run
	n.lock.RLock()
	defer n.lock.RUnlock()
	defer r.publish()
	r.began, r.wall = n.now(), 0
	for warm := r.next; r.next < len(r.ops) && !r.ops[r.next].write; {
		if r.next == warm {
			warm += kv.WarmKeys
			r.warmReads(warm)
		}
		o := r.ops[r.next]
		if !c.timed && !c.mayReadOld() && n.expiresUnseen(o) {
			if !patient {
				return false
			}
			n.lock.RUnlock()
			err := c.moveTime()
			n.lock.RLock()
			r.began, r.wall = n.now(), 0
			if err != nil {
				r.target(o).Error(n.unreadable(err))
				n.countFailure(o.command, n.unreadable(err))
				r.next++
				continue
			}
		}
		r.answerUpTo(r.next + 1)
		if len(c.reply.Buf) > flushAt && !c.held && !c.flushReads() {
			return true
		}
	}
	return true
}

// warmReads fetches the memory of the keys of the reads from the next operation up to end or to the next write. The caller holds the machine.
func (r *run) warmReads(end int) {
	if len(r.ops)-r.next < kv.LeastWarm {
		return
	}
	var w kv.Warmth
	for _, o := range r.ops[r.next:min(end, len(r.ops))] {
		if o.write {
			break
		}
		if len(o.args) > 1 {
			w.Key(r.node.machine, o.envelope.Database, o.args[1])
		}
	}
	w.Fetch()
}

// flushReads sends replies without holding the machine.
func (c *conn) flushReads() bool {
	c.node.lock.RUnlock()
	defer c.node.lock.RLock()
	return c.flush()
}

// moveTime moves log time past the arrival of the batch, with a request that does nothing else. Log time otherwise
// moves only with the frames of others and with the master's tick, and a key that has expired by the clock would be
// read as alive for up to a second.
func (c *conn) moveTime() error {
	if err := c.node.submitNothing(); err != nil {
		return fmt.Errorf("a key has expired by the clock of this node, and log time does not move: %w", err)
	}
	c.timed = true
	return nil
}

// nothing is a request without commands. done has capacity 1.
type nothing struct{ done chan error }

// Execute implements Submission.
func (t nothing) Execute(m *kv.Machine, at kv.Instant, request smr.Request, _ smr.LSN) {
	m.Apply(at, request, nil)
	select {
	case t.done <- nil:
	default: // given up before
	}
}

// Finish implements Submission.
func (t nothing) Finish(outcome Outcome) { t.done <- fmt.Errorf("the request was %s", outcome) }

// submitNothing has the group execute a request without commands and waits until this node has.
func (n *Node) submitNothing() error {
	submission := nothing{done: make(chan error, 1)}
	n.log.Submit(smr.NoSlot, kv.AppendTransaction(nil, nil, nil), submission)
	select {
	case err := <-submission.done:
		return err
	case <-n.stopped:
		return errStopped
	}
}

// linearize waits until this node has executed everything that was acknowledged before now.
func (n *Node) linearize() error {
	type answer struct {
		lsn smr.LSN
		err error
	}
	asked := make(chan answer, 1)
	n.log.ReadIndex(func(lsn smr.LSN, err error) { asked <- answer{lsn, err} })
	select {
	case a := <-asked:
		if a.err != nil {
			return a.err
		}
		return n.waitApplied(a.lsn, make(chan struct{}, 1))
	case <-n.stopped:
		return errStopped
	}
}

// waitApplied waits until this node has executed everything below lsn. ready is the caller's own channel, of
// capacity 1 and empty.
func (n *Node) waitApplied(lsn smr.LSN, ready chan struct{}) error {
	if n.applied.reached(lsn) || !n.applied.wait(lsn, ready) {
		return nil
	}
	timer := time.NewTimer(n.config.WriteTimeout)
	defer timer.Stop()
	select {
	case <-ready:
		return nil
	case <-n.stopped:
		return errStopped
	case <-timer.C:
		if !n.applied.forget(ready) {
			<-ready
			return nil
		}
		return n.notExecuted(lsn)
	}
}

// notExecuted is the error of a read that needs everything below lsn executed.
func (n *Node) notExecuted(lsn smr.LSN) error {
	return fmt.Errorf("this node has executed the log up to LSN %d, the read needs it up to %d", n.applied.load(), lsn)
}

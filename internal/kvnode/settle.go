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
	r.open = 0
	for _, o := range r.ops {
		if o.write {
			r.open++
		}
	}
	if r.open > 0 {
		began, writes := c.node.now(), r.open
		c.submit()
		if !c.await() {
			return
		}
		c.node.committed(began, writes)
		c.lastWrite = max(c.lastWrite, r.lastWrite)
		if c.copies > 0 && c.waiting == nil && !c.demandCopies() {
			return
		}
	}
	c.answerRest()
	r.reset()
}

// submit hands the writes of the run to the log. From the first one on, the run belongs to others.
func (c *conn) submit() {
	ops := c.run.ops
	for _, o := range ops {
		if !o.write {
			continue
		}
		slot := uint16(smr.NoSlot)
		if o.queue != nil {
			c.payload = o.queue.appendPayload(c.payload[:0], o.envelope)
		} else {
			c.payload = o.envelope.AppendCommand(c.payload[:0], o.args)
			slot = o.command.machine.Slot(o.args)
		}
		if len(c.payload) > smr.MaxPayload {
			o.Finish(client.TooLarge)
			continue
		}
		c.node.log.Submit(slot, c.payload, o)
	}
	if cap(c.payload) > keptBuffer {
		c.payload = nil
	}
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
			c.answerReads()
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
// must see.
func (c *conn) answerReads() {
	n, r := c.node, &c.run
	n.lock.RLock()
	defer n.lock.RUnlock()
	for r.next < len(r.ops) && !r.ops[r.next].write {
		o := r.ops[r.next]
		if !c.timed && !c.mayReadOld() && n.expiresUnseen(o) {
			n.lock.RUnlock()
			err := c.moveTime()
			n.lock.RLock()
			if err != nil {
				r.target(o).Error(n.unreadable(err))
				n.countFailure(o.command, n.unreadable(err))
				r.next++
				continue
			}
		}
		r.answerUpTo(r.next + 1)
		if len(c.reply.Buf) > flushAt && !c.held && !c.flushReads() {
			return
		}
	}
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
		return fmt.Errorf("this node has executed the log up to LSN %d, the read needs it up to %d", n.applied.load(), lsn)
	}
}

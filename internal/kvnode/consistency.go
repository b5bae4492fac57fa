package kvnode

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// readKind is how new the state must be that a connection reads.
type readKind uint8

const (
	readLinearizable readKind = iota // everything that was acknowledged before the read arrived
	readBounded                      // everything that was acknowledged a given time before
	readAtLeast                      // everything below a given LSN
	readStale                        // whatever this node has executed
)

// consistency is what SMR CONSISTENCY set. The zero value is the default: linearizable.
type consistency struct {
	kind  readKind
	bound time.Duration // of readBounded
	lsn   smr.LSN       // of readAtLeast
}

// String returns what SMR CONSISTENCY takes.
func (k consistency) String() string {
	switch k.kind {
	case readBounded:
		return "BOUNDED " + strconv.FormatInt(k.bound.Milliseconds(), 10)
	case readAtLeast:
		return "ATLEAST " + strconv.FormatUint(uint64(k.lsn), 10)
	case readStale:
		return "STALE"
	}
	return "LINEARIZABLE"
}

// freshness is the latest node time at which this node was seen to hold everything that had been acknowledged. It is a lower
// bound: nothing but a round to the master raises it, so no other node's clock enters.
type freshness struct{ at atomic.Int64 }

// note says that the state holds everything that had been acknowledged at a node time.
func (f *freshness) note(at time.Duration) {
	for {
		before := f.at.Load()
		if int64(at) <= before || f.at.CompareAndSwap(before, int64(at)) {
			return
		}
	}
}

// prepareRead waits until this node's state is as new as the connection wants to read it.
func (c *conn) prepareRead() error {
	switch k := c.consistency; k.kind {
	case readStale:
		return nil
	case readAtLeast:
		if err := c.settleDoubt(); err != nil {
			return err
		}
		return c.node.waitApplied(k.lsn, c.caughtUp)
	case readBounded:
		if c.node.isFresh(k.bound) {
			return nil
		}
	}
	return c.linearize()
}

// isFresh reports whether this node was seen to hold everything that had been acknowledged a given time ago, and does not hold it in doubt.
func (n *Node) isFresh(bound time.Duration) bool {
	at := n.fresh.at.Load()
	return at > 0 && n.now()-time.Duration(at) <= bound && !n.log.InDoubt()
}

// settleDoubt waits until what this node has executed is known to be of the stream of the log beside it: an LSN of another one, which a forced
// recovery has given up, is not the LSN that the client means.
func (c *conn) settleDoubt() error {
	if !c.node.log.InDoubt() {
		return nil
	}
	c.node.log.AwaitTrust(func(err error) { c.indexReady(0, err) })
	if !c.await() {
		return errStopped
	}
	return c.index.err
}

// readiness is whether a read can be executed.
type readiness uint8

const (
	readNow   readiness = iota
	readLater           // once everything below an LSN is executed
	readAsks            // once the master has answered up to where that is
	readAlone           // once it is known what this node has executed: for a goroutine that may wait
)

// readiness is prepareRead for who cannot wait. lsn is that of readLater.
func (c *conn) readiness() (ready readiness, lsn smr.LSN) {
	switch k := c.consistency; k.kind {
	case readStale:
		return readNow, 0
	case readAtLeast:
		if c.node.log.InDoubt() {
			return readAlone, 0
		}
		return c.reached(k.lsn)
	case readBounded:
		if c.node.isFresh(k.bound) {
			return readNow, 0
		}
	}
	lsn, leased := c.node.log.ReadLease()
	if !leased {
		return readAsks, 0
	}
	return c.reached(lsn)
}

// reached returns the readiness of a read that needs everything below lsn executed.
func (c *conn) reached(lsn smr.LSN) (readiness, smr.LSN) {
	if c.node.applied.reached(lsn) {
		return readNow, 0
	}
	return readLater, lsn
}

// readable is prepareRead for commands of the shell: it replies why they cannot read, and reports whether they can.
func (c *conn) readable() bool {
	err := c.prepareRead()
	if err != nil && !errors.Is(err, errStopped) {
		c.reply.Error(c.unreadable(err))
	}
	return err == nil
}

// mayReadOld reports whether keys that have expired by the clock and not by log time may be read as alive.
func (c *conn) mayReadOld() bool { return c.consistency.kind >= readAtLeast }

// unreadable returns the reply to a read that cannot be as new as the connection wants it.
func (c *conn) unreadable(err error) string {
	if c.consistency.kind == readLinearizable {
		return c.node.unreadable(err)
	}
	return fmt.Sprintf("MASTERDOWN this read cannot be as new as SMR CONSISTENCY %v asks: %v. Group %s, node %s, executed up to LSN %d."+
		" Try again, on another node, or ask for less.", c.consistency, err, c.node.config.Group, c.node.config.Node, c.node.Applied())
}

// maxBound bounds SMR CONSISTENCY BOUNDED, in milliseconds.
const maxBound = 24 * 60 * 60 * 1000

// smrConsistency is SMR CONSISTENCY [LINEARIZABLE | BOUNDED milliseconds | ATLEAST lsn | STALE].
func smrConsistency(c *conn, args [][]byte) {
	switch {
	case len(args) == 2:
		c.reply.Simple(c.consistency.String())
		return
	case len(args) == 3 && isWord(args[2], "linearizable"):
		c.setConsistency(consistency{})
	case len(args) == 3 && isWord(args[2], "stale"):
		c.setConsistency(consistency{kind: readStale})
	case len(args) == 4 && isWord(args[2], "bounded"):
		bound, ok := resp.ParseInt(args[3])
		if !ok || bound < 1 || bound > maxBound {
			c.reply.Error("ERR the bound must be from 1 to " + strconv.Itoa(maxBound) + " milliseconds")
			return
		}
		c.setConsistency(consistency{kind: readBounded, bound: time.Duration(bound) * time.Millisecond})
	case len(args) == 4 && isWord(args[2], "atleast"):
		lsn, ok := resp.ParseInt(args[3])
		if !ok || lsn < 0 {
			c.reply.Error("ERR the LSN must be an integer that is not negative")
			return
		}
		c.setConsistency(consistency{kind: readAtLeast, lsn: smr.LSN(lsn)})
	default:
		c.reply.Error(errSyntax)
		return
	}
	c.reply.OK()
}

// setConsistency also decides what CLIENT LIST shows as read-only.
func (c *conn) setConsistency(k consistency) {
	c.consistency = k
	c.about.set(func(a *about) { a.readonly = k.kind == readStale })
}

// smrLSN is SMR LSN: the end of the frame that held this connection's last write, 0 if there was none. Who asks another node for
// at least that (SMR CONSISTENCY ATLEAST) sees the write.
func smrLSN(c *conn, _ [][]byte) { c.reply.Int(int64(c.lastWrite)) }

// maxCopies bounds SMR DURABILITY COPIES.
const maxCopies = 64

// smrDurability is SMR DURABILITY [COPIES n | GROUP]: how many members must hold a write of this connection before it is
// acknowledged. The group's own number is always needed.
func smrDurability(c *conn, args [][]byte) {
	switch {
	case len(args) == 2 && c.copies == 0:
		c.reply.Simple("GROUP")
		return
	case len(args) == 2:
		c.reply.Simple("COPIES " + strconv.Itoa(c.copies))
		return
	case len(args) == 3 && isWord(args[2], "group"):
		c.copies = 0
	case len(args) == 4 && isWord(args[2], "copies"):
		copies, ok := resp.ParseInt(args[3])
		if !ok || copies < 1 || copies > maxCopies {
			c.reply.Error("ERR the number of copies must be from 1 to " + strconv.Itoa(maxCopies))
			return
		}
		c.copies = int(copies)
	default:
		c.reply.Error(errSyntax)
		return
	}
	c.reply.OK()
}

// awaitCopies waits until as many members as the connection wants hold its last write, at most for the write timeout. It
// returns the error to reply if they do not, and reports whether the connection goes on.
func (c *conn) awaitCopies() (problem string, goesOn bool) {
	deadline := c.node.now() + c.node.config.WriteTimeout
	copies := 0
	for {
		counted, err := c.countCopies(deadline)
		if err == nil {
			copies = counted
		}
		switch {
		case c.dead:
			return "", false
		case copies >= c.copies:
			return "", true
		case c.node.now() >= deadline || !c.pause(min(waitPoll, deadline-c.node.now())):
			return fmt.Sprintf("NOCOPIES this write was executed and is durable as the group demands, but %d members were seen to hold it, fewer than the %d"+
				" that SMR DURABILITY COPIES asks for, within %v. It will not be undone.", copies, c.copies, c.node.config.WriteTimeout), !c.dead
		}
	}
}

// demandCopies holds the replies of the run's writes back until enough members hold them; where they do not, errors take the
// place of the replies. It reports whether the connection goes on.
func (c *conn) demandCopies() bool {
	problem, goesOn := c.awaitCopies()
	if problem == "" || !goesOn {
		return goesOn
	}
	r := &c.run
	for _, o := range slices.Backward(r.ops) {
		if o.write && o.state == opDone && o.end > o.from && !r.overflow {
			c.reply.Buf = slices.Replace(c.reply.Buf, o.from, o.end, []byte("-"+problem+"\r\n")...)
			c.reply.Errors++
			c.node.countFailure(o.command, problem)
		}
	}
	return true
}

// waitAOFCommand is WAITAOF numlocal numreplicas timeout: whether this node, and how many other members, hold this connection's
// writes durably. What this node has executed is durable here.
func waitAOFCommand(c *conn, args [][]byte) {
	local, ok := resp.ParseInt(args[1])
	if !ok {
		c.reply.Error(errInteger)
		return
	}
	if local < 0 || local > 1 {
		c.reply.Error("ERR value is out of range, value must between 0 and 1")
		return
	}
	wanted, ok := resp.ParseInt(args[2])
	if !ok || wanted < 0 {
		c.reply.Error("ERR value is out of range, must be positive")
		return
	}
	replicas, ok := c.waitReplicas(wanted, args[3])
	if !ok {
		return
	}
	c.reply.Array(2)
	c.reply.Int(1)
	c.reply.Int(replicas)
}

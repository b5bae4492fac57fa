package kvnode

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

const (
	// signPeriod is how often the node shows in the log that it lives, while commands of it wait.
	signPeriod = 5 * time.Second
	// keeperPeriod is how often the keeper looks whether there is something to do that nobody told it.
	keeperPeriod = time.Second
	// blockedPoll is how often a blocked connection whose buffer is full looks after its client.
	blockedPoll = 250 * time.Millisecond
	// endRetry is how long a blocked connection waits before it tries again to end its command.
	endRetry = 200 * time.Millisecond
)

// blockedCommand is a command of a client of this node that waits in the state for a key.
type blockedCommand struct {
	conn     *conn
	sequence uint64
	timeout  time.Duration // 0: for ever
	mute     bool

	// reply is written by the goroutine that applies the log until done is set, and then belongs to the connection.
	reply     resp.Reply
	lastWrite smr.LSN
	done      atomic.Bool
	failed    atomic.Bool // the record that was to end it was not executed

	// mu orders those who wake the connection and its leaving: a deadline that wakes it must not stay behind.
	mu   sync.Mutex
	left bool // the connection waits no longer
}

// set sets done or failed and makes the connection's goroutine look at it.
func (b *blockedCommand) set(flag *atomic.Bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	flag.Store(true)
	if !b.left {
		b.conn.net.SetReadDeadline(time.Unix(1, 0))
	}
}

// leave ends the wait of the connection.
func (b *blockedCommand) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = true
	b.conn.net.SetReadDeadline(time.Time{})
	if b.conn.node.stopping.Load() {
		b.conn.net.SetReadDeadline(time.Unix(1, 0)) // as Serve has set it
	}
}

// blockedCommands are those of this node that wait, and what the keeper has to do about them.
type blockedCommands struct {
	mu         sync.Mutex
	bySequence map[uint64]*blockedCommand
	abandoned  []uint64      // nobody waits for their reply: they are to be ended
	announce   bool          // the node's first sign is not in the log yet
	ready      chan struct{} // capacity 1: there is something new for the keeper
}

func (l *blockedCommands) begin() {
	l.bySequence = make(map[uint64]*blockedCommand)
	l.ready = make(chan struct{}, 1)
}

func (l *blockedCommands) tell() {
	select {
	case l.ready <- struct{}{}:
	default: // it knows
	}
}

func (l *blockedCommands) add(b *blockedCommand) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bySequence[b.sequence] = b
	if len(l.bySequence) == 1 {
		l.tell()
	}
}

func (l *blockedCommands) find(sequence uint64) *blockedCommand {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bySequence[sequence]
}

func (l *blockedCommands) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.bySequence)
}

// remove forgets a command whose reply is complete.
func (l *blockedCommands) remove(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.bySequence, sequence)
}

// abandon has the keeper end a waiting request whose reply nobody wants any more.
func (l *blockedCommands) abandon(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.bySequence, sequence)
	l.abandoned = append(l.abandoned, sequence)
	l.tell()
}

// takeAbandoned returns what was abandoned since the last call.
func (l *blockedCommands) takeAbandoned() []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.abandoned
	l.abandoned = nil
	return taken
}

// Served implements kv.Host.
func (n *Node) Served(session smr.SessionID, sequence uint64) *resp.Reply {
	if session != n.session {
		return nil
	}
	b := n.blocked.find(sequence)
	if b == nil || b.mute {
		return nil
	}
	return &b.reply
}

// ServedEnd implements kv.Host.
func (n *Node) ServedEnd(session smr.SessionID, sequence uint64, again bool) {
	if session != n.session || again {
		return
	}
	if b := n.blocked.find(sequence); b != nil {
		n.blocked.remove(sequence)
		b.lastWrite = n.executing
		b.set(&b.done)
	}
}

// noteBlocked is called on the goroutine that applies the log behind a request of this node. If the request waits now, it
// is kept for its connection; c is nil if nobody waits for the reply.
func (n *Node) noteBlocked(c *conn, sequence uint64, mute bool) {
	timeout, blocked := n.machine.Blocked()
	if !blocked {
		return
	}
	if c == nil {
		n.blocked.abandon(sequence)
		return
	}
	b := &blockedCommand{conn: c, sequence: sequence, mute: mute, reply: resp.Reply{Proto: c.reply.Proto}}
	b.timeout = time.Duration(min(timeout, int64(1<<62)/int64(time.Millisecond))) * time.Millisecond
	c.waiting = b
	n.blocked.add(b)
}

// block executes a command that may wait. What the client sent before is answered first; what it sends behind waits until
// this command has its reply. No lock is held meanwhile.
func (c *conn) block(command *command, args [][]byte) {
	c.settle()
	if !c.rest() {
		return
	}
	defer c.resume()
	kept := make([][]byte, len(args))
	for i, arg := range args {
		kept[i] = bytes.Clone(arg) // the read buffer moves while the command waits
	}
	o := c.run.add()
	o.command, o.args, o.write, o.mute, o.envelope = command, kept, true, c.mode.muted(), c.envelope()
	c.waiting = nil
	c.settle()
	b := c.waiting
	if b == nil || c.dead {
		return
	}
	c.waiting = nil
	c.about.blocked.Store(b)
	c.rest() // messages pass while it waits
	c.awaitService(b)
	c.resume()
	c.about.blocked.Store(nil)
	if c.dead {
		return
	}
	c.lastWrite = max(c.lastWrite, b.lastWrite)
	if c.copies > 0 {
		if problem, goesOn := c.awaitCopies(); problem != "" && goesOn && !b.mute {
			b.reply.Reset()
			b.reply.Error(problem)
		}
	}
	c.reply.Raw(b.reply.Buf)
	c.reply.Errors += b.reply.Errors
	if b.reply.Errors > 0 {
		c.node.countErrors(b.reply.Buf)
	}
}

// awaitService waits until the command is served or ends otherwise, or the connection does. Meanwhile it reads what the
// client sends, into a bounded buffer, and so learns when the client closes.
func (c *conn) awaitService(b *blockedCommand) {
	var deadline time.Time
	if b.timeout > 0 {
		deadline = time.Now().Add(b.timeout)
	}
	for !b.done.Load() {
		if b.failed.CompareAndSwap(true, false) {
			deadline = time.Now().Add(endRetry)
		}
		if !deadline.IsZero() && !time.Now().Before(deadline) {
			deadline = time.Time{}
			c.node.submitEnd(b, kv.WaiterTimedOut)
		}
		if !c.listen(b, deadline) {
			c.dead, c.closing = true, true // nothing behind it is executed
			c.node.blocked.abandon(b.sequence)
			return
		}
	}
	b.leave()
}

// listen waits until the client sends something, the deadline (zero: none) has come or somebody wakes the connection. It
// reports false if the connection is at its end.
func (c *conn) listen(b *blockedCommand, deadline time.Time) bool {
	if c.end == len(c.buf) && !c.roomWhileBlocked() {
		next := time.Now().Add(blockedPoll)
		if deadline.IsZero() || next.Before(deadline) {
			deadline = next
		}
		return c.waitUnread(b, deadline)
	}
	if err := c.net.SetReadDeadline(deadline); err != nil {
		return false
	}
	// Both are set before the deadline is put into the past: either they are seen here, or Read is woken.
	if b.done.Load() || b.failed.Load() {
		return true
	}
	if c.node.stopping.Load() {
		return false
	}
	n, err := c.net.Read(c.buf[c.end:])
	c.end += n
	c.node.stats.netInput.Add(int64(n))
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return !c.node.stopping.Load() || b.done.Load()
	}
	return err == nil
}

// roomWhileBlocked makes room behind what was received and reports whether there is any: a blocked client may pipeline
// as much as a request may take, then it has to wait.
func (c *conn) roomWhileBlocked() bool {
	if c.from > 0 {
		copy(c.buf, c.buf[c.from:c.end])
		c.from, c.end = 0, c.end-c.from
		return true
	}
	if len(c.buf) >= c.node.config.MaxQuery {
		return false
	}
	grown := make([]byte, min(2*len(c.buf), c.node.config.MaxQuery))
	copy(grown, c.buf[:c.end])
	c.buf = grown
	return true
}

// waitUnread waits as listen does, while the client's bytes stay in the socket.
func (c *conn) waitUnread(b *blockedCommand, deadline time.Time) bool {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.node.stopped:
		return false
	}
	return b.done.Load() || !c.node.stopping.Load() && !c.halfClosed()
}

// tcpCloseWait is the state of a TCP connection whose peer has closed its side.
const tcpCloseWait = 8

// halfClosed reports whether the client has closed its side, even where bytes of it are still unread.
func (c *conn) halfClosed() bool {
	if c.out.below == nil {
		return false
	}
	closed := false
	err := c.out.below.Control(func(fd uintptr) {
		info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		state := info & 0xff // the first byte of struct tcp_info
		closed = err == nil && (state == 0 || state >= 4 && state <= tcpCloseWait)
	})
	return closed || err != nil
}

// submitEnd asks the group to end a waiting command. What comes of it is in the command's reply.
func (n *Node) submitEnd(b *blockedCommand, end kv.WaiterEnd) {
	n.submitRecord(kv.WaiterRecord(end, b.sequence), func(executed bool, _ []byte) {
		if !executed {
			b.set(&b.failed)
		}
	})
}

// nodeRecord is a submission of the node itself. done is called once, with the reply if it was executed; it must not block.
type nodeRecord struct {
	done func(executed bool, reply []byte)
}

// Execute implements Submission.
func (t nodeRecord) Execute(m *kv.Machine, at kv.Instant, request smr.Request, _ smr.LSN) {
	var reply resp.Reply
	m.Apply(at, request, &reply)
	t.done(true, reply.Buf)
}

// Finish implements Submission.
func (t nodeRecord) Finish(Outcome) { t.done(false, nil) }

// submitRecord writes a record into the log.
func (n *Node) submitRecord(args [][]byte, done func(executed bool, reply []byte)) {
	n.log.Submit(smr.NoSlot, kv.Envelope{}.AppendRecord(nil, args), nodeRecord{done: done})
}

// keepBlocked writes what the machine has to know about the commands of this node that wait, until the node has stopped:
// that the node lives, and which of them have lost their client. It looks after the replicator, too.
func (n *Node) keepBlocked() {
	ticker := time.NewTicker(keeperPeriod)
	defer ticker.Stop()
	signed := time.Time{}
	var orphan orphan
	for {
		select {
		case <-n.stopped:
			return
		case <-n.blocked.ready:
		case <-ticker.C:
			if closed := orphan.look(n); closed > 0 {
				n.logger.Warn("the replicator is not there: clients were sent away", "clients", closed)
			}
		}
		for _, sequence := range n.blocked.takeAbandoned() {
			n.submitRecord(kv.WaiterRecord(kv.WaiterGone, sequence), func(executed bool, _ []byte) {
				if !executed {
					n.blocked.retryAbandoned(sequence)
				}
			})
		}
		if n.blocked.wantsSign() && time.Since(signed) >= signPeriod {
			signed = time.Now()
			n.submitRecord(kv.SignRecord(string(n.config.Node)), func(executed bool, _ []byte) {
				if executed {
					n.blocked.announced()
				}
			})
		}
	}
}

// retryAbandoned puts a sequence back; the keeper finds it at its next look.
func (l *blockedCommands) retryAbandoned(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.abandoned, sequence) {
		l.abandoned = append(l.abandoned, sequence)
	}
}

// wantsSign reports whether the log has to show that this node lives.
func (l *blockedCommands) wantsSign() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.announce || len(l.bySequence) > 0
}

// announceNode makes the keeper write a sign, by which the group learns that what waited on an earlier process of this node is over.
func (l *blockedCommands) announceNode() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.announce = true
	l.tell()
}

func (l *blockedCommands) announced() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.announce = false
}

// unblock ends the waiting command of another connection, for CLIENT UNBLOCK, and replies 1, or 0 if it waits no longer.
func (c *conn) unblock(other *conn, end kv.WaiterEnd) {
	b := other.about.blocked.Load()
	if b == nil {
		c.reply.Int(0)
		return
	}
	type answer struct {
		executed bool
		reply    []byte
	}
	answered := make(chan answer, 1)
	c.node.submitRecord(kv.WaiterRecord(end, b.sequence), func(executed bool, reply []byte) {
		answered <- answer{executed, reply}
	})
	select {
	case got := <-answered:
		if got.executed {
			c.reply.Raw(got.reply)
		} else {
			c.reply.Error("UNCERTAIN the group did not confirm in time that the client was unblocked; it may have been, or may still be.")
		}
	case <-c.node.stopped:
		c.dead = true
	}
}

package kvnode

import (
	"sync"
	"time"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
	"lockstep/smr/client"
)

// opState of an operation.
type opState uint8

const (
	opOpen   opState = iota // not answered
	opDone                  // executed; its reply is written
	opFailed                // a write that was refused, or whose outcome is unknown
)

// op is one command of a run: a write that goes through the log, or a read of the machine.
type op struct {
	run      *run
	command  *command
	args     [][]byte     // valid until the run is settled
	queue    *transaction // of EXEC, else nil
	envelope kv.Envelope
	index    int // in run.ops
	write    bool
	mute     bool // the client does not want the reply (CLIENT REPLY)
	track    bool // the keys it reads are to be remembered (CLIENT TRACKING)
	state    opState
	outcome  Outcome
	from     int // of an executed write: where its reply begins and ends in conn.reply
	end      int
}

// run is a sequence of operations of one connection that are submitted together and answered in order.
//
// While writes are open the run belongs to the goroutine that applies the log: it executes each write when it comes
// up, and the reads around it at the same place of the log, straight into the connection's reply buffer. So program
// order holds, and a pipeline of any mixture costs one commit. (A read that stands before or behind a write of its run
// needs no read index: that write was submitted after the read had arrived, hence everything that was acknowledged
// before is below it in the log.) Once no write is open, the connection's goroutine is woken and owns the run.
type run struct {
	node  *Node
	conn  *conn
	reply *resp.Reply
	wake  chan struct{} // capacity 1

	// mu orders the apply goroutine and the callbacks that report failures. The connection's goroutine touches
	// the fields below without it while no write is open.
	mu        sync.Mutex
	ops       []*op         // len(ops) are in use, those behind are kept for reuse
	next      int           // ops below are answered
	open      int           // writes without an outcome
	writes    int           // of ops, once they are submitted
	submitted int           // ops below are handed to the log, if there are writes
	settled   bool          // all of them have their outcome, and that was noted
	async     bool          // when the last write has its outcome, the connection goes on where it happens to be: nobody waits
	hits      int64         // keys that reads have found, not yet published
	misses    int64         // and not found
	wall      int64         // see clock; 0: to be read
	began     time.Duration // node time at which the next execution begins
	overflow  bool          // the replies exceed the output limit: the connection must be cut
	lastWrite smr.LSN
}

// add appends an operation, reusing memory.
func (r *run) add() *op {
	n := len(r.ops)
	if n < cap(r.ops) {
		r.ops = r.ops[:n+1]
	} else {
		r.ops = append(r.ops, nil)
	}
	o := r.ops[n]
	if o == nil {
		o = &op{run: r}
		r.ops[n] = o
	}
	o.index, o.state, o.queue, o.mute, o.track = n, opOpen, nil, false, r.conn.standing.trackNext
	return o
}

// keptOps bounds the operations that an idle connection keeps for reuse.
const keptOps = 64

// reset forgets the operations. Those that failed are never reused: the log may still know them.
func (r *run) reset() {
	if len(r.ops) > keptOps {
		r.ops = nil
	}
	for i, o := range r.ops {
		if o.state == opFailed {
			r.ops[i] = nil
			continue
		}
		o.args, o.command, o.queue = nil, nil, nil
	}
	r.ops, r.next, r.open, r.writes, r.submitted, r.settled = r.ops[:0], 0, 0, 0, 0, false
}

// target returns where the reply of o goes: nil discards it.
func (r *run) target(o *op) *resp.Reply {
	if o.mute || r.overflow {
		return nil
	}
	return r.reply
}

// Finish implements Submission.
func (o *op) Finish(outcome Outcome) {
	r := o.run
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.state != opOpen {
		return
	}
	o.state, o.outcome = opFailed, outcome
	if r.closeOne() {
		r.conn.post()
	}
}

// closeOne notes that one more write has its outcome. It reports true with the last one of a connection that nobody waits for: the
// caller then sees to it that it goes on. Called with mu held.
func (r *run) closeOne() (goesOn bool) {
	r.open--
	switch {
	case r.open > 0:
	case r.async:
		return true
	default:
		r.wake <- struct{}{}
	}
	return false
}

// Execute implements Submission: it applies the write, with the reads around it.
func (o *op) Execute(m *kv.Machine, at kv.Instant, request smr.Request, end smr.LSN) {
	r := o.run
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.state != opOpen { // answered as unknown: it is executed all the same
		m.Apply(at, request, nil)
		r.node.noteBlocked(nil, request.Sequence, o.mute)
		return
	}
	r.began, r.wall = r.node.executionBegins(), 0
	r.answerUpTo(o.index)
	reply := r.target(o)
	errors := errorsOf(reply)
	mark := reply.Mark()
	r.node.shell.acting = r.conn
	m.Apply(at, request, reply)
	r.node.shell.acting = nil
	if o.track && o.queue != nil {
		r.conn.rememberReads(o)
	}
	r.node.noteBlocked(r.conn, request.Sequence, o.mute)
	o.state, r.next, r.lastWrite = opDone, o.index+1, end
	o.from, o.end = mark, reply.Mark()
	r.account(o, mark, errors)
	for r.next < len(r.ops) && !(r.ops[r.next].write && r.ops[r.next].state == opOpen) {
		r.answerUpTo(r.next + 1)
	}
	r.node.lastEnd = r.began
	r.publish()
	if r.closeOne() {
		r.node.executed = append(r.node.executed, r.conn)
	}
}

// answerUpTo answers the operations below index: reads by executing them on the machine as it is, failed writes with
// their error. A write below index without an outcome is just being given up: the log has taken it from its waiters, so
// that it was executed without us, and Finish is still on its way. (A refusal is told before anything behind it is sent.)
// The caller holds the machine.
func (r *run) answerUpTo(index int) {
	for ; r.next < index; r.next++ {
		o := r.ops[r.next]
		switch {
		case !o.write:
			r.read(o)
		case o.state == opOpen:
			o.state, o.outcome = opFailed, client.Uncertain
			r.answerFailed(o)
			r.open--
		default:
			r.answerFailed(o)
		}
	}
}

// answerFailed writes the error of a write that was not executed.
func (r *run) answerFailed(o *op) {
	text := r.node.failure(o.outcome)
	r.target(o).Error(text)
	r.node.countFailure(o.command, text)
}

// read executes one read on the machine as it is. The caller holds the machine.
func (r *run) read(o *op) {
	reply := r.target(o)
	errors := errorsOf(reply)
	mark := reply.Mark()
	switch {
	case o.queue != nil:
		r.node.readTransaction(o.envelope, o.queue, reply)
	case o.command.get && reply != nil:
		r.node.machine.ReadAs(o.command.machine, o.envelope, r.clock(), o.args, reply)
		r.countGet(reply.Buf[mark:])
	default:
		r.node.countLookups(o.envelope.Database, o.command, o.args)
		r.node.machine.ReadAs(o.command.machine, o.envelope, r.clock(), o.args, reply)
	}
	if o.track {
		r.conn.rememberReads(o)
	}
	o.state = opDone
	r.account(o, mark, errors)
}

// clock returns the clock of this node in milliseconds since 1970 UTC, as of the first of the reads that are executed together.
func (r *run) clock() int64 {
	if r.wall == 0 {
		r.wall = time.Now().UnixMilli()
	}
	return r.wall
}

// countGet counts a GET by its reply, so that the key is looked up once.
func (r *run) countGet(reply []byte) {
	if len(reply) > 1 && (reply[0] == '_' || reply[0] == '$' && reply[1] == '-') {
		r.misses++
	} else {
		r.hits++
	}
}

// publish adds what was counted in the run to the counters of the node, which all connections share.
func (r *run) publish() {
	if r.hits > 0 {
		r.node.stats.hits.Add(r.hits)
	}
	if r.misses > 0 {
		r.node.stats.misses.Add(r.misses)
	}
	r.hits, r.misses = 0, 0
}

// account counts an execution that began when the one before ended, or at began, and whose reply begins at mark. It gives the reply up
// when it is too long to be sent.
func (r *run) account(o *op, mark, errors int) {
	reply := r.target(o)
	var failure []byte
	if reply != nil && reply.Errors > errors {
		failure = reply.Buf[mark:]
		r.node.countErrors(failure)
	}
	now := r.node.now()
	r.node.countExecution(r.conn, o, now-r.began, failure)
	r.began = now
	if reply != nil && len(reply.Buf) > r.conn.outputLimit().hard {
		r.overflow, reply.Buf = true, nil
	}
}

// errorsOf returns how many errors were written to reply, which may be nil.
func errorsOf(reply *resp.Reply) int {
	if reply == nil {
		return 0
	}
	return reply.Errors
}

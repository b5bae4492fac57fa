package kvnode

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/acl"
	"lockstep/internal/eventloop"
	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

const (
	// firstBuffer is the read buffer of a new connection, in bytes. It doubles while a client fills it.
	firstBuffer = 4 << 10
	// batchBuffer is the largest read buffer for pipelines of small requests, and so bounds a batch, in bytes.
	batchBuffer = 64 << 10
	// keptBuffer bounds the buffers that a connection keeps while it is idle, in bytes.
	keptBuffer = 64 << 10
	// flushAt is how many bytes of replies are gathered before they are sent, when nothing else ends a batch.
	flushAt = 256 << 10
	// maxRun bounds the operations that are submitted together.
	maxRun = 1024
	// keptArgs bounds the arguments of a batch for which a connection keeps memory.
	keptArgs = 4096
)

// conn is the connection of one client. Its goroutine owns all fields but about, unless a comment says otherwise.
type conn struct {
	node *Node
	id   int64
	net  net.Conn
	out  *output
	turn loopPart

	parser resp.Parser
	buf    []byte // [from, end) is received and not yet executed
	from   int
	end    int
	argv   [][]byte   // arguments of the current batch
	reply  resp.Reply // not yet sent
	run    run        // see its comment for who owns it when

	database int         // selected; about.database is a copy for others
	tx       transaction // being queued, if tx.queueing
	mode     replyMode

	standing standing
	names    names       // what it listens to; guarded by the node's pubsub.mu
	ended    atomic.Bool // somebody has closed it; others see it no more

	consistency consistency // of its reads
	copies      int         // that must hold its writes beyond what the group demands; 0: none

	waiting   *blockedCommand // what the command just executed waits as; set by the goroutine that applies the log
	lastWrite smr.LSN         // end of the frame that held the last write; 0 if there was none
	closing   bool            // no further command is executed; what was answered is sent
	dead      bool            // nothing can be sent any more
	held      bool            // c.reply is not sent yet, however long it gets
	timed     bool            // log time has moved since the current batch arrived
	full      bool            // the batch filled the read buffer
	payload   []byte          // scratch for the payload of a request
	began     time.Duration   // node time at which the writes of the run were submitted

	index   indexAnswer
	onIndex func(smr.LSN, error) // conn.indexReady, made once
	// onReadable is conn.indexKnown, made once
	onReadable func(smr.LSN, error)
	caughtUp   chan struct{} // capacity 1: the node has executed what a read needs
	about      about
}

// indexAnswer is what a read index round brought.
type indexAnswer struct {
	lsn smr.LSN
	err error
}

// replyMode is what CLIENT REPLY set.
type replyMode struct {
	off      bool
	skip     bool // the reply of the current command
	skipNext bool // that of the next one
}

func (m replyMode) muted() bool { return m.off || m.skip }

// about is what other connections may see of this one (CLIENT LIST).
type about struct {
	opened  time.Duration // node time
	seen    atomic.Int64  // node time of the last batch
	command atomic.Pointer[command]
	multi   atomic.Int32 // queued commands, -1 outside of MULTI
	watched atomic.Int32
	// multiBytes is what the queued commands take, in bytes.
	multiBytes atomic.Int64
	proto      atomic.Int32
	database   atomic.Int32
	pending    atomic.Int64                   // bytes in the read buffer
	blocked    atomic.Pointer[blockedCommand] // nil: it does not wait
	room       atomic.Int64                   // bytes free in it

	busy           atomic.Bool // a batch is being executed
	user           atomic.Pointer[acl.User]
	subscriptions  [subscriptionKinds]atomic.Int32
	monitoring     atomic.Bool
	tracking       atomic.Bool
	broadcast      atomic.Bool
	brokenRedirect atomic.Bool
	redirect       atomic.Int64

	mu             sync.Mutex
	name           string
	library        string
	libraryVersion string
	noEvict        bool
	noTouch        bool
	readonly       bool
}

func newConn(node *Node, id int64, c net.Conn, socket *eventloop.Socket) *conn {
	conn := &conn{node: node, id: id, net: c, buf: make([]byte, firstBuffer)}
	conn.turn.socket = socket
	conn.out = newOutput(c, conn.outputLimit, &node.tasks, &node.stats.netOutput)
	conn.run = run{node: node, conn: conn, reply: &conn.reply, wake: make(chan struct{}, 1)}
	conn.onIndex = conn.indexReady
	conn.onReadable = conn.indexKnown
	conn.caughtUp = make(chan struct{}, 1)
	conn.reply.Proto = 2
	conn.reply.Draws = rand.Uint64() // #nosec G404 -- two connections that draw at the same LSN draw differently; what is drawn is no secret
	conn.about.opened = node.now()
	conn.about.seen.Store(int64(conn.about.opened))
	conn.about.multi.Store(-1)
	conn.about.proto.Store(2)
	conn.begin()
	conn.limitQueries()
	return conn
}

// limitQueries bounds what the client may send: less before it has authenticated.
func (c *conn) limitQueries() {
	limits := resp.DefaultLimits()
	if !c.standing.authenticated {
		limits = resp.GuestLimits()
	}
	limits.Bulk = min(limits.Bulk, smr.MaxPayload)
	limits.Query = min(limits.Query, int(c.node.settings.maxQuery.Load()))
	if c.standing.authenticated {
		limits.Query = int(c.node.settings.maxQuery.Load())
	}
	c.parser.SetLimits(limits)
}

// outputLimit returns the limits of the class that the connection belongs to. It is called from any goroutine.
func (c *conn) outputLimit() bufferLimit {
	class := normalClient
	switch {
	case c.about.monitoring.Load():
		class = replicaClient
	case c.about.listening():
		class = pubsubClient
	}
	return c.node.settings.outputLimits.Load()[class]
}

// serve executes the client's commands until either side ends the connection.
func (c *conn) serve() {
	for c.fill() && c.executeBatch() {
	}
	if !c.dead {
		c.out.finish(time.Now().Add(c.node.config.Grace))
	}
	c.net.Close()
	c.leave()
}

// leave takes the connection out of everything that would still send to it.
func (c *conn) leave() {
	c.node.shell.pubsub.removeAll(c)
	c.endMonitoring()
	c.endTracking()
}

// fill reads what has arrived and reports whether the connection goes on.
func (c *conn) fill() bool {
	c.makeRoom()
	if c.node.settings.timeoutUsed.Load() {
		deadline := time.Time{}
		if idle := time.Duration(c.node.settings.timeout.Load()); idle > 0 && !c.about.listening() && !c.standing.monitoring {
			deadline = time.Now().Add(idle)
		}
		if err := c.net.SetReadDeadline(deadline); err != nil {
			return false
		}
	}
	if c.node.stopping.Load() { // checked behind the deadline, which must not take back that of a stop
		return false
	}
	n, err := c.net.Read(c.buf[c.end:])
	c.end += n
	c.about.pending.Store(int64(c.end))
	c.node.stats.reads.Add(1)
	c.node.stats.netInput.Add(int64(n))
	return n > 0 || err == nil
}

// makeRoom brings the unexecuted bytes to the front of a buffer with room behind them. The buffer grows with
// what was received, never with what was announced.
func (c *conn) makeRoom() {
	have := c.end - c.from
	switch {
	case have == 0 && len(c.buf) > keptBuffer:
		c.buf = make([]byte, firstBuffer)
	case have == len(c.buf), c.end == len(c.buf) && have > len(c.buf)/2:
		size := 2 * len(c.buf)
		if missing := c.parser.Missing(c.buf[c.from:c.end]); missing > 0 {
			size = min(size, max(have+missing, batchBuffer))
		}
		grown := make([]byte, max(size, have+firstBuffer))
		copy(grown, c.buf[c.from:c.end])
		c.buf = grown
	case c.from > 0:
		copy(c.buf, c.buf[c.from:c.end])
	}
	c.from, c.end = 0, have
	c.about.room.Store(int64(len(c.buf) - have))
}

// executeBatch executes all complete commands of the buffer, sends the replies, and reports whether the connection
// goes on.
func (c *conn) executeBatch() bool {
	c.beginBatch()
	return c.executeRest()
}

// beginBatch notes that what has arrived is being executed.
func (c *conn) beginBatch() {
	c.full = c.end == len(c.buf)
	c.timed = false
	c.out.hold()
	c.about.busy.Store(true)
}

// executeRest executes the complete commands from c.from on, behind what the run holds already, and ends the batch.
func (c *conn) executeRest() bool {
	for !c.closing && !c.ended.Load() && c.from < c.end {
		inline := c.buf[c.from] != '*'
		args, used, err := c.parser.Next(c.buf[c.from:c.end])
		if err != nil {
			c.settle()
			c.reply.Error(err.Error())
			c.node.stats.countError("ERR")
			c.closing = true
			break
		}
		if used == 0 {
			break
		}
		c.from += used
		if len(args) > 0 {
			c.handle(args, inline)
		}
		if len(c.reply.Buf) > flushAt && len(c.run.ops) == 0 && !c.flush() {
			return false
		}
	}
	c.settle()
	return c.endBatch()
}

// endBatch sends the replies of a batch, of which no operation is open, and reports whether the connection goes on.
func (c *conn) endBatch() bool {
	if c.full && c.from == c.end && len(c.buf) < batchBuffer { // a client that pipelines: take more at once
		c.buf, c.from, c.end = make([]byte, 2*len(c.buf)), 0, 0
	}
	if cap(c.argv) > keptArgs {
		c.argv = nil
	}
	c.argv = c.argv[:0]
	c.about.seen.Store(int64(c.node.now()))
	c.about.busy.Store(false)
	c.about.pending.Store(int64(c.end - c.from))
	c.about.room.Store(int64(len(c.buf) - c.end + c.from))
	c.node.stats.batches.Add(1)
	return c.rest() && !c.closing
}

// rest sends the replies gathered so far, and lets messages through until resume: nothing is being executed. It reports
// whether the connection goes on.
func (c *conn) rest() bool { return c.sendReplies(true) }

// resume holds messages back again.
func (c *conn) resume() { c.out.hold() }

// flush sends the replies gathered so far and reports whether the connection goes on.
func (c *conn) flush() bool { return c.sendReplies(false) }

func (c *conn) sendReplies(last bool) bool {
	switch {
	case c.dead:
		return false
	case c.run.overflow:
		c.cut(errSlowReader)
		return false
	}
	kept, err := c.out.send(c.reply.Buf, last)
	if err != nil {
		c.cut(err)
		return false
	}
	if kept || cap(c.reply.Buf) > keptBuffer {
		c.reply.Buf = nil
	}
	c.reply.Reset()
	return true
}

// disconnect closes the connection from any goroutine; its own finds out by itself. No further command is executed and nobody sees the
// client any more, as if it were gone already. It reports false if somebody else was first.
func (c *conn) disconnect() (first bool) {
	first = !c.ended.Swap(true)
	c.net.Close()
	return first
}

// cut gives the connection up.
func (c *conn) cut(err error) {
	c.dead = true
	c.noteCut(err)
}

// noteCut counts and logs that a client is cut because it does not read. It may be called from any goroutine.
func (c *conn) noteCut(err error) {
	if errors.Is(err, errSlowReader) {
		c.node.stats.slowReaders.Add(1)
		c.node.logger.Warn("client cut", "client", c.net.RemoteAddr().String(), "reason", err.Error())
	}
}

// handle executes one command, or adds it to the run.
func (c *conn) handle(args [][]byte, inline bool) {
	c.node.stats.commands.Add(1)
	command, problem := c.node.commands.find(args)
	if command != nil && c.about.command.Load() != command {
		c.about.command.Store(command)
	}
	if s := &c.standing; s.guarded || s.generation != c.node.shell.generation.Load() {
		problem = c.guardUnless(problem, command, args)
	}
	switch {
	case problem != "":
		if command != nil && command.exec { // Redis gives the transaction up, and says so even where there is none
			problem = "EXECABORT Transaction discarded because of: " + strings.TrimPrefix(problem, "ERR ")
			c.endTransaction()
		}
		c.reject(command, problem)
	case c.tx.queueing && !command.immediate:
		c.settle()
		c.queue(command, args)
	case command.exec:
		c.settle()
		c.exec(command)
	case command.local != nil:
		c.settle()
		c.executeLocal(command, args)
	case command.machine != nil && command.machine.MayBlock(args):
		c.block(command, args)
	default:
		c.operate(command, args, inline)
		if len(c.run.ops) >= maxRun {
			c.settle()
		}
	}
	c.mode.skip, c.mode.skipNext = c.mode.skipNext, false
}

// operate makes a command of the machine the next operation of the run.
func (c *conn) operate(command *command, args [][]byte, inline bool) {
	o := c.run.add()
	o.command, o.write, o.mute, o.envelope = command, command.writes(args), c.mode.muted(), c.envelope()
	o.args = c.keepArgs(args, inline)
}

// envelope returns what goes into the log with each command of this connection.
func (c *conn) envelope() kv.Envelope {
	return kv.Envelope{Database: c.database, User: c.standing.envelopeUser(), NoTouch: c.standing.noTouch, Denials: c}
}

// guardUnless asks guard about a command that is not refused already.
func (c *conn) guardUnless(problem string, command *command, args [][]byte) string {
	if problem != "" {
		return problem
	}
	return c.guard(command, args)
}

// keepArgs makes arguments valid until the end of the batch. Those of a multibulk request stand in the read buffer;
// those of an inline request belong to the parser.
func (c *conn) keepArgs(args [][]byte, inline bool) [][]byte {
	from := len(c.argv)
	for _, arg := range args {
		if inline {
			arg = bytes.Clone(arg)
		}
		c.argv = append(c.argv, arg)
	}
	return c.argv[from:len(c.argv):len(c.argv)]
}

// reject answers a command that cannot be executed, and dooms the transaction that it would have been part of.
// command is nil if it is not known.
func (c *conn) reject(command *command, problem string) {
	c.settle()
	c.tx.aborted = c.tx.aborted || c.tx.queueing
	if command != nil {
		command.stats.rejected.Add(1)
	}
	mark := len(c.reply.Buf)
	c.reply.Error(problem)
	c.node.countErrors(c.reply.Buf[mark:])
	c.mute(mark)
}

// mute takes back what was replied since mark if the client does not want it.
func (c *conn) mute(mark int) {
	if c.mode.muted() && mark <= len(c.reply.Buf) {
		c.reply.Buf = c.reply.Buf[:mark]
	}
}

// executeLocal executes a command of the shell. No operation is open.
func (c *conn) executeLocal(command *command, args [][]byte) {
	began := c.node.now()
	mark, failures := len(c.reply.Buf), c.reply.Errors
	command.local(c, args)
	failed := c.reply.Errors > failures
	duration := c.node.now() - began
	c.node.countStats(command, duration, failed)
	if !command.unlogged {
		c.node.noteLatency(command, duration)
	}
	if c.node.isSlow(duration) && !command.unlogged {
		c.node.noteSlow(c, redacted(command, args), duration)
	}
	if failed {
		c.node.countErrors(c.reply.Buf[mark:])
	}
	if !command.pushes {
		c.mute(mark)
	}
}

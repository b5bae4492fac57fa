package kvnode

import (
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"lockstep/internal/eventloop"
	"lockstep/smr"
)

const (
	// maxLoops bounds the event loops of a node. There is one for two processors: the other one applies the log and sends it.
	maxLoops = 8
	// answeredHere bounds how many connections the goroutine that applies the log answers itself behind a frame: a few are
	// answered sooner so, for many of them it has no time.
	answeredHere = 4
)

// loopPart is what a connection has beyond others if an event loop watches it. Whoever has the turn of the socket owns the connection.
type loopPart struct {
	socket *eventloop.Socket // nil: a goroutine of its own serves the connection from beginning to end
	loop   *eventloop.Loop
	where  atomic.Int32  // who has the turn: one of those below
	place  place         // of gathering
	asked  time.Duration // node time at which the reads that wait have asked the master; 0: they have not
	unread error         // why those that waited cannot be executed
	last   bool          // behind the run in the log there is no further complete command in the buffer
}

const (
	atLoop  int32 = iota // the event loop, or nobody
	inLog                // whoever learns the outcome of its last write
	inRead               // whoever learns that its reads can be executed
	lostLog              // the node stops, and nobody learns it
	atOwn                // a goroutine that was started for commands that may wait or take long
	gone                 // it has ended
)

// startLoops starts the event loops. They end in Stop.
func (n *Node) startLoops() error {
	for range min(maxLoops, max(1, runtime.GOMAXPROCS(0)/2)) {
		loop, err := eventloop.New(n.gathering.consider)
		if err != nil {
			return err
		}
		n.loops = append(n.loops, loop)
		n.loopTasks.Go(func() {
			if err := loop.Run(); err != nil {
				n.logger.Error("event loop", "error", err.Error())
			}
		})
	}
	return nil
}

// stopLoops ends the event loops, when no connection is left.
func (n *Node) stopLoops() {
	for _, loop := range n.loops {
		loop.Stop()
	}
	n.loopTasks.Wait()
	n.gathering.stop()
}

// socketOf takes a TCP connection out of Go's scheduler, for an event loop. For others it returns nil: they stay what they are.
func (n *Node) socketOf(c net.Conn) (*eventloop.Socket, error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok || len(n.loops) == 0 {
		return nil, nil
	}
	return eventloop.NewSocket(tcp)
}

// start begins to serve a connection.
func (n *Node) start(c *conn) {
	if c.turn.socket == nil {
		n.tasks.Go(func() {
			defer n.clients.remove(c)
			c.serve()
		})
		return
	}
	n.tasks.Add(1)
	c.turn.loop = n.loops[c.id%int64(len(n.loops))]
	if err := c.turn.loop.Add(c.turn.socket, c); err != nil {
		n.logger.Warn("accept", "error", err.Error())
		c.finish()
	}
}

// Ready implements eventloop.Handler: something has arrived.
func (c *conn) Ready() {
	for c.receive() {
		c.node.gathering.returned(&c.turn.place)
		c.beginBatch()
		if !c.goOn() || c.restOrPost() {
			return
		}
	}
}

// Posted implements eventloop.Handler: the loop has the turn again.
func (c *conn) Posted() {
	if c.turn.where.CompareAndSwap(inLog, atLoop) {
		if c.finishRun() && c.goOn() && !c.restOrPost() {
			c.Ready()
		}
		return
	}
	if c.turn.where.CompareAndSwap(inRead, atLoop) {
		if c.finishReads() && c.goOn() && !c.restOrPost() {
			c.Ready()
		}
		return
	}
	switch c.turn.where.Load() {
	case gone:
	case lostLog:
		c.dead = true
		c.finish()
	default:
		c.turn.where.Store(atLoop)
		c.Ready()
	}
}

// post has the loop go on with the connection.
func (c *conn) post() { c.turn.loop.Post(c) }

// restOrPost ends the turn, or lets other connections come first if the client may have sent more than fits the buffer. It reports false
// if more has arrived, which is to be read at once.
func (c *conn) restOrPost() bool {
	if c.full {
		c.post()
		return true
	}
	return c.turn.socket.Rest()
}

// receive reads what has arrived. It reports false if there is nothing, or the connection has ended.
func (c *conn) receive() bool {
	for {
		if c.node.stopping.Load() || c.ended.Load() {
			c.finish()
			return false
		}
		c.makeRoom()
		n, err := c.turn.socket.TryRead(c.buf[c.end:])
		switch {
		case err == nil:
			c.end += n
			c.node.stats.reads.Add(1)
			c.node.stats.netInput.Add(int64(n))
			return true
		case !errors.Is(err, eventloop.ErrAgain):
			c.finish()
			return false
		case c.turn.socket.Rest():
			return false
		}
	}
}

// verdict is how far a loop came with the buffer of a connection.
type verdict uint8

const (
	batchDone verdict = iota // all complete commands are executed
	submitted                // the writes of the run are in the log, or its reads wait for it, and the connection with them
	mayWait                  // what comes next may wait, or take long
)

// goOn executes the complete commands of the buffer and ends the batch. It reports false if the caller has the turn no longer.
func (c *conn) goOn() bool {
	switch c.executeReady() {
	case submitted:
		return false
	case mayWait:
		c.goAlone()
		return false
	}
	if !c.endBatch() {
		c.finish()
		return false
	}
	return true
}

// goAlone gives the turn to a goroutine that is started for it, which goes on where the loop stopped.
func (c *conn) goAlone() {
	c.turn.where.Store(atOwn)
	c.node.tasks.Go(c.serveAlone)
}

// serveAlone executes what may wait or take long, until the loop can have the connection again.
func (c *conn) serveAlone() {
	goesOn := c.executeRest()
	for goesOn && c.staysAlone() {
		goesOn = c.fill() && c.executeBatch()
	}
	if !goesOn {
		c.finish()
		return
	}
	c.turn.where.Store(atLoop)
	if !c.restOrPost() {
		c.post()
	}
}

// staysAlone reports whether the loop could execute no command of the connection anyway.
func (c *conn) staysAlone() bool { return c.standing.guarded || c.tx.queueing || c.copies > 0 }

// finish ends the connection: what was answered is sent, then it is closed. The caller has the turn, and nobody afterwards.
func (c *conn) finish() {
	c.turn.where.Store(gone)
	if !c.dead && c.out.isDraining() {
		c.node.tasks.Go(c.bury)
		return
	}
	c.bury()
}

func (c *conn) bury() {
	if !c.dead {
		c.out.finish(time.Now().Add(c.node.config.Grace))
	}
	c.net.Close()
	c.leave()
	c.node.clients.remove(c)
	c.node.gathering.returned(&c.turn.place)
	c.turn.socket.Release()
	c.node.tasks.Done()
}

// nudge has a connection look whether the node stops.
func (c *conn) nudge() {
	c.net.SetReadDeadline(time.Unix(1, 0)) // wakes a goroutine that waits for a command
	if c.turn.socket != nil {
		c.turn.socket.Nudge()
	}
}

// giveUp closes a connection, which may wait for a log that calls back no more.
func (c *conn) giveUp() {
	c.net.Close()
	if c.turn.socket != nil && (c.turn.where.CompareAndSwap(inLog, lostLog) || c.turn.where.CompareAndSwap(inRead, lostLog)) {
		c.post()
	}
}

// executeReady executes the complete commands of the buffer, as long as none may wait or take long.
func (c *conn) executeReady() verdict {
	for {
		next := c.gather()
		if next == slowNext {
			return mayWait
		}
		c.turn.last = next == nothingNext
		if verdict := c.settleReady(); verdict != batchDone || next == nothingNext {
			return verdict
		}
		if len(c.reply.Buf) > flushAt && !c.flush() {
			return batchDone
		}
	}
}

// upcoming is what stands behind the operations that were gathered.
type upcoming uint8

const (
	nothingNext upcoming = iota // no complete command
	moreNext                    // a command that can be executed when the run is settled
	slowNext                    // a command that is not for the loop
)

// gather makes operations of the run of the complete commands of the buffer, as many as a run may have, and executes those of the shell
// between runs.
func (c *conn) gather() upcoming {
	for !c.closing && !c.dead && !c.ended.Load() && c.from < c.end {
		if c.buf[c.from] != '*' {
			return slowNext
		}
		args, used, err := c.parser.Next(c.buf[c.from:c.end])
		if err != nil {
			return slowNext // where the error is told
		}
		if used == 0 {
			break
		}
		if len(args) > 0 {
			command := c.plain(args)
			switch {
			case command == nil:
				return slowNext
			case len(c.run.ops) >= maxRun, command.local != nil && len(c.run.ops) > 0:
				return moreNext
			}
			c.node.stats.commands.Add(1)
			if c.about.command.Load() != command {
				c.about.command.Store(command)
			}
			if command.local != nil {
				c.executeLocal(command, args)
			} else {
				c.operate(command, args, false)
			}
			c.mode.skip, c.mode.skipNext = c.mode.skipNext, false
		}
		c.from += used
	}
	return nothingNext
}

// plain returns the command that args name, if a loop may execute it for this connection: it neither waits, unless the log is what it
// waits for, nor does it take long, because its time does not grow with the values it reads or because they are small. Otherwise it returns nil.
func (c *conn) plain(args [][]byte) *command {
	command, problem := c.node.commands.find(args)
	if problem != "" || c.tx.queueing || c.copies > 0 {
		return nil
	}
	if s := &c.standing; s.generation != c.node.shell.generation.Load() {
		c.refresh()
	}
	switch {
	case c.standing.guarded:
		return nil
	case command.local != nil:
		if !command.quick {
			return nil
		}
	case command.exec, command.machine == nil, command.machine.MayBlock(args), !command.fast && !command.writes(args) && !c.isBrief(command, args):
		return nil
	}
	return command
}

// isBrief reports whether a command that only reads takes little time, with the values as they are. Where that cannot be seen at once it does not.
func (c *conn) isBrief(command *command, args [][]byte) bool {
	if !c.node.lock.TryRLock() {
		return false
	}
	defer c.node.lock.RUnlock()
	return c.node.machine.Brief(c.database, command.machine, args)
}

// settleReady carries out the run: reads at once, writes by handing them to the log.
func (c *conn) settleReady() verdict {
	r := &c.run
	if len(r.ops) == 0 {
		return batchDone
	}
	c.countWrites()
	if r.writes > 0 {
		return c.submitRun()
	}
	switch ready, lsn := c.readiness(); {
	case ready == readLater || ready == readAsks:
		return c.awaitReads(ready, lsn)
	case ready == readAlone || !c.answerReads(false):
		return mayWait
	}
	r.reset()
	return batchDone
}

// submitRun hands the writes of the run to the log. With the last one the turn goes to whoever learns its outcome.
func (c *conn) submitRun() verdict {
	c.run.async = true
	c.turn.where.Store(inLog)
	if isStopped(c.node.stopped) { // looked at behind where: either Stop sees that it is in the log, or this does
		if c.turn.where.CompareAndSwap(inLog, atLoop) {
			c.dead = true
			c.finish()
		}
		return submitted
	}
	c.node.gathering.submitted(&c.turn.place, c.run.writes)
	if c.submit(true) {
		return submitted
	}
	c.node.gathering.withdrawn(&c.turn.place)
	if !c.turn.where.CompareAndSwap(inLog, atLoop) {
		return submitted // the node stops, and ends the connection
	}
	c.run.mu.Lock()
	defer c.run.mu.Unlock()
	c.run.async = false // the write that found no room is still open
	return mayWait
}

// isStopped reports whether a channel is closed.
// awaitReads has the run, all of it reads, wait until everything below lsn is executed or, with readAsks, below what the master answers.
func (c *conn) awaitReads(ready readiness, lsn smr.LSN) verdict {
	c.turn.where.Store(inRead)
	if isStopped(c.node.stopped) { // as in submitRun
		if c.turn.where.CompareAndSwap(inRead, atLoop) {
			c.dead = true
			c.finish()
		}
		return submitted
	}
	if ready == readAsks {
		c.turn.asked = c.node.now()
		c.node.gathering.reads.Store(true)
		c.node.log.TryReadIndex(c.onReadable)
		return submitted
	}
	if c.node.applied.park(lsn, c) {
		return submitted
	}
	if !c.turn.where.CompareAndSwap(inRead, atLoop) {
		return submitted // the node stops, and ends the connection
	}
	if !c.answerReads(false) {
		return mayWait
	}
	c.run.reset()
	return batchDone
}

// indexKnown takes the answer to the question of awaitReads, on whatever goroutine learns it.
func (c *conn) indexKnown(lsn smr.LSN, err error) {
	c.turn.unread = err
	if err != nil || !c.node.applied.park(lsn, c) {
		c.post()
	}
}

// finishReads answers the reads that waited. It reports false if the connection is with others now.
func (c *conn) finishReads() bool {
	r := &c.run
	if asked := c.turn.asked; asked > 0 && c.turn.unread == nil {
		c.node.gauges.readIndex.Observe((c.node.now() - asked).Seconds())
		c.node.fresh.note(asked)
	}
	c.turn.asked = 0
	if err := c.turn.unread; err != nil {
		c.turn.unread = nil
		c.answerUnread(err)
	} else if !c.answerReads(false) {
		c.goAlone()
		return false
	}
	r.reset()
	return true
}

func isStopped(stopped chan struct{}) bool {
	select {
	case <-stopped:
		return true
	default:
		return false
	}
}

// finishRun ends a run whose writes have their outcome. It reports false if that is left to a goroutine of its own.
func (c *conn) finishRun() bool {
	r := &c.run
	r.async = false
	c.node.gathering.finished(&c.turn.place)
	c.noteWrites()
	for ; r.next < len(r.ops) && r.ops[r.next].write; r.next++ {
		r.answerFailed(r.ops[r.next])
	}
	if r.next < len(r.ops) { // reads that no write has carried into the log
		c.goAlone()
		return false
	}
	r.reset()
	return true
}

// answerExecuted answers the connections whose last write was executed in a frame. It is called on the goroutine that applies the log, with
// no lock held.
func (n *Node) answerExecuted() {
	here := len(n.executed) <= answeredHere
	for _, c := range n.executed {
		if here && c.turn.last {
			c.answerHere()
		} else {
			c.post()
		}
	}
	if here && len(n.executed) > 0 && n.gathering.holds() {
		n.loops[0].Post() // it considers whether to send that
	}
	clear(n.executed)
	n.executed = n.executed[:0]
}

// answerHere ends the batch of a connection with its writes.
func (c *conn) answerHere() {
	c.turn.where.Store(atLoop)
	switch {
	case !c.finishRun():
	case !c.endBatch():
		c.finish()
	case !c.restOrPost():
		c.post()
	}
}

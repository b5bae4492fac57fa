package kvnode

import (
	"bytes"
	"errors"
	"time"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

const (
	// maxQueuedBytes bounds what a transaction may queue, arguments and overhead: it must fit into one request.
	maxQueuedBytes = smr.MaxPayload
	// argOverhead is what an argument counts beyond its bytes.
	argOverhead = 16
	// maxWatches bounds the keys that one connection watches.
	maxWatches = 1 << 16
)

// queued is one command of a transaction.
type queued struct {
	command *command
	args    [][]byte
}

// transaction is what stands between MULTI and EXEC, and the keys watched before.
type transaction struct {
	queueing  bool
	aborted   bool // a command was refused: EXEC will be, too
	commands  []queued
	bytes     int
	executing bool // commands of the shell are being executed: none may wait
	watches   []kv.Watch
}

// writes reports whether any command changes the keyspace.
func (t *transaction) writes() bool {
	for _, q := range t.commands {
		if q.command.writes(q.args) {
			return true
		}
	}
	return false
}

// mixed reports whether there is a command that the machine cannot execute.
func (t *transaction) mixed() bool {
	for _, q := range t.commands {
		if !q.command.inMachine {
			return true
		}
	}
	return false
}

// selects reports whether any command is SELECT.
func (t *transaction) selects() bool {
	for _, q := range t.commands {
		if q.command.name == "select" {
			return true
		}
	}
	return false
}

// machinePart returns the same transaction with the machine's commands only.
func (t *transaction) machinePart() *transaction {
	part := &transaction{watches: t.watches}
	for _, q := range t.commands {
		if q.command.inMachine {
			part.commands = append(part.commands, q)
		}
	}
	return part
}

// appendPayload appends the payload of the request that executes the transaction.
func (t *transaction) appendPayload(b []byte, envelope kv.Envelope) []byte {
	commands := make([][][]byte, len(t.commands))
	for i, q := range t.commands {
		commands[i] = q.args
	}
	return envelope.AppendTransaction(b, t.watches, commands)
}

// readTransaction executes a transaction that changes nothing on the machine as it is. The caller holds the machine.
func (n *Node) readTransaction(envelope kv.Envelope, t *transaction, reply *resp.Reply) {
	clock := time.Now().UnixMilli()
	for _, w := range t.watches {
		if n.machine.Version(w.Database, w.Key) != w.Version {
			reply.NullArray()
			return
		}
	}
	reply.Array(len(t.commands))
	for _, q := range t.commands {
		n.countLookups(envelope.Database, q.command, q.args)
		errors := errorsOf(reply)
		n.machine.ReadIn(envelope, clock, q.args, reply)
		if q.command.name == "select" && errorsOf(reply) == errors && reply != nil {
			envelope.Database = selected(q.args, envelope.Database)
		}
	}
}

// queue adds a command to the transaction.
func (c *conn) queue(command *command, args [][]byte) {
	for _, arg := range args {
		c.tx.bytes += len(arg) + argOverhead
	}
	if c.tx.bytes > maxQueuedBytes {
		c.reject(command, "ERR the transaction is too large for one request of the log")
		c.tx.commands = nil
		return
	}
	kept := make([][]byte, len(args))
	for i, arg := range args {
		kept[i] = bytes.Clone(arg)
	}
	c.tx.commands = append(c.tx.commands, queued{command: command, args: kept})
	c.about.multi.Store(int32(len(c.tx.commands)))
	c.about.multiBytes.Store(int64(c.tx.bytes))
	if !c.mode.muted() {
		c.reply.Simple("QUEUED")
	}
}

func multiCommand(c *conn, _ [][]byte) {
	if c.tx.queueing {
		c.reply.Error("ERR MULTI calls can not be nested")
		return
	}
	c.tx.queueing = true
	c.about.multi.Store(0)
	c.reply.OK()
}

func discardCommand(c *conn, _ [][]byte) {
	if !c.tx.queueing {
		c.reply.Error("ERR DISCARD without MULTI")
		return
	}
	c.endTransaction()
	c.reply.OK()
}

// endTransaction forgets the transaction and the watched keys.
func (c *conn) endTransaction() {
	c.tx = transaction{}
	c.about.multi.Store(-1)
	c.about.multiBytes.Store(0)
	c.about.watched.Store(0)
}

// exec executes the transaction. What goes to the machine becomes an operation of the run, like any other command.
func (c *conn) exec(command *command) {
	if !c.tx.queueing {
		c.execFails(command, "ERR EXEC without MULTI")
		return
	}
	tx := c.tx
	c.endTransaction()
	switch {
	case tx.aborted:
		c.execFails(command, "EXECABORT Transaction discarded because of previous errors.")
	case tx.mixed():
		c.execMixed(command, &tx)
	case tx.selects():
		defer c.mute(len(c.reply.Buf))
		replies := c.execHeld(command, &tx)
		c.reply.Raw(replies)
		c.followSelects(&tx, replies)
	default:
		c.addTransaction(command, &tx)
	}
}

// execFails answers an EXEC that has nothing to execute. It counts as a call that failed, as in Redis.
func (c *conn) execFails(command *command, problem string) {
	defer c.mute(len(c.reply.Buf))
	c.node.countStats(command, 0, true)
	c.reply.Error(problem)
	c.node.stats.countError(errorCode([]byte(problem)))
}

func (c *conn) addTransaction(command *command, tx *transaction) {
	o := c.run.add()
	o.command, o.args, o.queue = command, nil, tx
	o.write, o.mute, o.envelope = tx.writes(), c.mode.muted(), c.envelope()
}

// execMixed executes a transaction with commands of the shell among those of the machine. The machine's part is one
// request; the shell's commands are executed behind it and their replies put in their places.
func (c *conn) execMixed(command *command, tx *transaction) {
	defer c.mute(len(c.reply.Buf))
	machine := c.execHeld(command, tx.machinePart())
	if c.dead {
		return
	}
	replies, ok := splitArray(machine)
	if !ok { // not executed: an error, or a watched key has changed
		c.reply.Raw(machine)
		return
	}
	c.followSelects(tx.machinePart(), machine)
	c.reply.Array(len(tx.commands))
	c.tx.executing = true
	defer func() { c.tx.executing = false }()
	for _, q := range tx.commands {
		if q.command.inMachine {
			c.reply.Raw(replies[0])
			replies = replies[1:]
			continue
		}
		c.executeLocal(q.command, q.args)
	}
}

// execHeld executes a transaction of the machine and returns its reply, which is not sent.
func (c *conn) execHeld(command *command, tx *transaction) []byte {
	saved := c.reply
	c.reply = resp.Reply{Proto: saved.Proto, Draws: saved.Draws}
	c.held = true
	c.addTransaction(command, tx)
	c.run.ops[len(c.run.ops)-1].mute = false
	c.settle()
	c.held = false
	reply := c.reply.Buf
	saved.Errors += c.reply.Errors
	saved.Draws = c.reply.Draws
	c.reply = saved
	return reply
}

// followSelects makes the connection select the database that the transaction's last SELECT has left, if its reply shows
// that it was executed.
func (c *conn) followSelects(tx *transaction, reply []byte) {
	replies, ok := splitArray(reply)
	if !ok || len(replies) != len(tx.commands) {
		return
	}
	for i, q := range tx.commands {
		if q.command.name == "select" && string(replies[i]) == "+OK\r\n" {
			c.setDatabase(selected(q.args, c.database))
		}
	}
}

// splitArray cuts the reply of a transaction into those of its commands. It reports false for anything else.
func splitArray(b []byte) (replies [][]byte, ok bool) {
	end := bytes.Index(b, []byte("\r\n"))
	if end < 2 || b[0] != '*' {
		return nil, false
	}
	count, ok := resp.ParseInt(b[1:end])
	if !ok || count < 0 {
		return nil, false
	}
	b = b[end+2:]
	for range count {
		_, used, err := resp.Decode(b)
		if used == 0 || err != nil {
			return nil, false
		}
		replies = append(replies, b[:used])
		b = b[used:]
	}
	return replies, true
}

// watchCommand remembers versions that are linearizable: the transaction will see every change after this moment.
func watchCommand(c *conn, args [][]byte) {
	switch {
	case c.tx.queueing:
		c.reply.Error("ERR WATCH inside MULTI is not allowed")
		return
	case len(c.tx.watches)+len(args)-1 > maxWatches:
		c.reply.Error("ERR too many watched keys")
		return
	}
	if err := c.linearize(); err != nil {
		if !errors.Is(err, errStopped) {
			c.reply.Error(c.node.unreadable(err))
		}
		return
	}
	c.node.lock.RLock()
	for _, key := range args[1:] {
		c.tx.watches = append(c.tx.watches, kv.Watch{Database: c.database, Key: bytes.Clone(key), Version: c.node.machine.Version(c.database, key)})
	}
	c.node.lock.RUnlock()
	c.about.watched.Store(int32(len(c.tx.watches)))
	c.reply.OK()
}

func unwatchCommand(c *conn, _ [][]byte) {
	c.tx.watches = nil
	c.about.watched.Store(0)
	c.reply.OK()
}

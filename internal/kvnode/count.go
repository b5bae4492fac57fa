package kvnode

import (
	"bytes"
	"time"

	"lockstep/internal/resp"
)

// countExecution counts one command that the machine executed. reply is what it answered if it failed, else nil.
func (n *Node) countExecution(c *conn, o *op, duration time.Duration, reply []byte) {
	if o.queue != nil && len(o.queue.commands) > 0 {
		n.countTransaction(o, duration, reply)
		return
	}
	if bytes.HasPrefix(reply, []byte("-OOM ")) { // Redis looks before it executes
		o.command.stats.rejected.Add(1)
		return
	}
	n.countStats(o.command, duration, reply != nil)
	n.noteLatency(o.command, duration)
	if n.isSlow(duration) && o.args != nil {
		n.noteSlow(c, redacted(o.command, o.args), duration)
	}
}

// countStats counts one execution, with its duration unless latency-tracking is off.
func (n *Node) countStats(command *command, duration time.Duration, failed bool) {
	if n.settings.untimed.Load() {
		command.stats.count(duration, failed)
		return
	}
	command.stats.add(duration, failed)
}

// countTransaction counts EXEC and the commands that the machine executed in it: errors belong to the command that they answer.
func (n *Node) countTransaction(o *op, duration time.Duration, reply []byte) {
	var answers []resp.Value
	if reply != nil && reply[0] == '*' {
		if value, used, err := resp.Decode(reply); used > 0 && err == nil && len(value.Items) == len(o.queue.commands) {
			answers = value.Items
		}
	}
	n.countStats(o.command, duration, reply != nil && answers == nil)
	n.noteLatency(o.command, duration)
	share := duration / time.Duration(len(o.queue.commands)) // the machine does not tell them apart
	for i, q := range o.queue.commands {
		if q.command.inMachine {
			n.countStats(q.command, share, answers != nil && answers[i].Kind == '-')
		}
	}
}

// isSlow reports whether a command that took so long belongs into the slow log.
func (n *Node) isSlow(duration time.Duration) bool {
	limit := n.settings.slowerThan.Load()
	return limit >= 0 && duration.Microseconds() >= limit
}

// noteSlow enters a command, without passwords, into the slow log.
func (n *Node) noteSlow(c *conn, args [][]byte, duration time.Duration) {
	name, _, _, _, _, _ := c.about.text()
	n.slow.add(args, duration, c.net.RemoteAddr().String(), name)
}

// countFailure counts a command that was answered with an error and not executed.
func (n *Node) countFailure(command *command, text string) {
	command.stats.failed.Add(1)
	n.stats.countError(errorCode([]byte(text)))
}

// countErrors counts the error replies among the encoded reply b, which holds at least one.
func (n *Node) countErrors(b []byte) {
	if len(b) > 0 && b[0] == '-' {
		n.stats.countError(errorCode(b[1:]))
		return
	}
	if value, used, err := resp.Decode(b); used > 0 && err == nil {
		n.countErrorsIn(value)
	}
}

func (n *Node) countErrorsIn(value resp.Value) {
	if value.Kind == '-' {
		n.stats.countError(errorCode([]byte(value.Text)))
	}
	for _, item := range value.Items {
		n.countErrorsIn(item)
	}
}

// errorCode returns the first word of an error.
func errorCode(text []byte) string {
	if end := bytes.IndexAny(text, " \r"); end >= 0 {
		text = text[:end]
	}
	return string(text)
}

// countLookups counts the keys that a read finds and misses. (What a transaction that writes reads is not counted:
// the machine does not tell.) The caller holds the machine.
func (n *Node) countLookups(database int, command *command, args [][]byte) {
	if command.machine == nil || command.writes(args) {
		return
	}
	present, absent := n.machine.CountKeys(database, command.machine, args)
	if present > 0 {
		n.stats.hits.Add(int64(present))
	}
	if absent > 0 {
		n.stats.misses.Add(int64(absent))
	}
}

// expiresUnseen reports whether a read touches a key that has expired by the clock of this node and not by log time.
// The caller holds the machine.
func (n *Node) expiresUnseen(o *op) bool {
	earliest := n.machine.EarliestDue()
	if earliest == 0 {
		return false
	}
	clock := time.Now().UnixMilli()
	if earliest > clock {
		return false
	}
	unseen := func(command *command, args [][]byte) bool {
		due := n.machine.NextDue(o.envelope.Database, command.machine, args)
		return due != 0 && due <= clock
	}
	if o.queue == nil {
		return unseen(o.command, o.args)
	}
	for _, q := range o.queue.commands {
		if q.command.machine.CheckArity(len(q.args)) && unseen(q.command, q.args) {
			return true
		}
	}
	return false
}

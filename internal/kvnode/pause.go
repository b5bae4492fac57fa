package kvnode

import (
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/resp"
)

// pauses is what CLIENT PAUSE holds back on this node: writes, or everything.
type pauses struct {
	on atomic.Bool

	mu    sync.Mutex
	until time.Time
	all   bool
	ended chan struct{} // closed when the pause ends or changes
	wait  atomic.Int32  // connections that wait
}

func (p *pauses) active() bool { return p.on.Load() }

// begin starts a pause, or makes the one that goes on longer and stricter.
func (p *pauses) begin(until time.Time, all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on.Load() {
		all = all || p.all
		if until.Before(p.until) {
			until = p.until
		}
		close(p.ended)
	}
	p.until, p.all, p.ended = until, all, make(chan struct{})
	p.on.Store(true)
}

// end ends the pause.
func (p *pauses) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on.Load() {
		p.on.Store(false)
		close(p.ended)
	}
}

// current returns what a command has to wait for: nil if for nothing.
func (p *pauses) current(writes bool) (ended chan struct{}, left time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on.Load() || !p.all && !writes {
		return nil, 0
	}
	if left = time.Until(p.until); left <= 0 {
		p.on.Store(false)
		close(p.ended)
		return nil, 0
	}
	return p.ended, left
}

// waitForPause waits as long as commands like this one are held back. CLIENT UNPAUSE never waits.
func (c *conn) waitForPause(command *command) {
	if command.name == "client|unpause" {
		return
	}
	p := &c.node.shell.pauses
	writes := command.write || command.mayWrite || command.exec && c.tx.writes()
	if c.tx.queueing && !command.exec {
		writes = false
	}
	if ended, _ := p.current(writes); ended == nil {
		return
	}
	c.settle()
	p.wait.Add(1)
	defer p.wait.Add(-1)
	c.rest()
	defer c.resume()
	poll := time.NewTicker(pausePoll)
	defer poll.Stop()
	for {
		ended, left := p.current(writes)
		if ended == nil {
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-ended:
		case <-timer.C:
		case <-poll.C: // has the client gone?
			if c.node.stopping.Load() || c.peerGone() {
				c.dead = true
			}
		case <-c.node.stopped:
			c.dead = true
		}
		timer.Stop()
		if c.dead {
			return
		}
	}
}

// pausePoll is how often a connection that waits for the end of a pause looks after its client.
const pausePoll = 100 * time.Millisecond

// maxPause bounds CLIENT PAUSE, in milliseconds: as long as time can be computed with.
const maxPause = int64(1<<62) / int64(time.Millisecond)

// clientPause is CLIENT PAUSE milliseconds [WRITE | ALL].
func clientPause(c *conn, args [][]byte) {
	all := true
	switch {
	case len(args) == 4 && isWord(args[3], "write"):
		all = false
	case len(args) == 3, len(args) == 4 && isWord(args[3], "all"):
	case len(args) == 4:
		c.reply.Error("ERR CLIENT PAUSE mode must be WRITE or ALL")
		return
	default:
		c.reply.Error(unknownSubcommand("CLIENT", args[1]))
		return
	}
	milliseconds, ok := resp.ParseInt(args[2])
	switch {
	case !ok || milliseconds > maxPause:
		c.reply.Error("ERR timeout is not an integer or out of range")
		return
	case milliseconds < 0:
		c.reply.Error("ERR timeout is negative")
		return
	}
	c.node.shell.pauses.begin(time.Now().Add(time.Duration(milliseconds)*time.Millisecond), all)
	c.node.shell.changed()
	c.reply.OK()
}

func clientUnpause(c *conn, _ [][]byte) {
	c.node.shell.pauses.end()
	c.node.shell.changed()
	c.reply.OK()
}

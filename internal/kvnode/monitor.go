package kvnode

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// monitors are the connections in MONITOR: they see the commands of the clients of this node.
type monitors struct {
	count atomic.Int32
	mu    sync.Mutex
	conns map[*conn]struct{}
}

func (m *monitors) add(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns == nil {
		m.conns = make(map[*conn]struct{})
	}
	m.conns[c] = struct{}{}
	m.count.Store(int32(len(m.conns)))
}

func (m *monitors) remove(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, c)
	m.count.Store(int32(len(m.conns)))
}

func (m *monitors) feed(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		c.push([]byte(line))
	}
}

func monitorCommand(c *conn, _ [][]byte) {
	if c.tx.executing {
		c.reply.Error("ERR MONITOR isn't allowed for DENY BLOCKING client")
		return
	}
	if !c.standing.monitoring {
		c.standing.monitoring = true
		c.about.monitoring.Store(true)
		c.node.shell.monitors.add(c)
		c.node.shell.changed()
	}
	c.reply.OK()
}

// endMonitoring takes the connection out of MONITOR.
func (c *conn) endMonitoring() {
	if c.standing.monitoring {
		c.standing.monitoring = false
		c.about.monitoring.Store(false)
		c.node.shell.monitors.remove(c)
		c.node.shell.changed()
	}
}

// feedMonitors shows a command. Those of a transaction are shown when it is executed.
func (c *conn) feedMonitors(command *command, args [][]byte) {
	if c.tx.queueing && !command.immediate {
		return
	}
	if command.exec && c.tx.queueing && !c.tx.aborted {
		for _, q := range c.tx.commands {
			c.feedOne(q.command, q.args)
		}
	}
	c.feedOne(command, args)
}

func (c *conn) feedOne(command *command, args [][]byte) {
	if command.hidden || command.name == "reset" && c.standing.monitoring {
		return
	}
	now := time.Now()
	var line strings.Builder
	fmt.Fprintf(&line, "+%d.%06d [%d %s]", now.Unix(), now.Nanosecond()/1000, c.database, c.net.RemoteAddr())
	for i, arg := range redacted(command, args) {
		if line.Len() > maxMonitorLine {
			fmt.Fprintf(&line, " \"... (%d more arguments)\"", len(args)-i)
			break
		}
		line.WriteByte(' ')
		line.WriteString(quote(arg))
	}
	line.WriteString("\r\n")
	c.node.shell.monitors.feed(line.String())
}

// maxMonitorLine is the length in bytes from which no further argument is shown.
const maxMonitorLine = 1 << 20

// quote prints bytes as Redis does: in double quotes, with escapes.
func quote(b []byte) string {
	q := make([]byte, 0, len(b)+2)
	q = append(q, '"')
	for _, c := range b {
		switch {
		case c == '"' || c == '\\':
			q = append(q, '\\', c)
		case c == '\n':
			q = append(q, `\n`...)
		case c == '\r':
			q = append(q, `\r`...)
		case c == '\t':
			q = append(q, `\t`...)
		case c == '\a':
			q = append(q, `\a`...)
		case c == '\b':
			q = append(q, `\b`...)
		case c >= ' ' && c <= '~':
			q = append(q, c)
		default:
			q = append(q, fmt.Sprintf(`\x%02x`, c)...)
		}
	}
	return string(append(q, '"'))
}

// secretSettings are the parameters of CONFIG SET that MONITOR and the slow log do not show.
var secretSettings = []string{"requirepass", "masterauth", "masteruser", "tls-key-file-pass", "tls-client-key-file-pass"}

// redacted returns the arguments without passwords, for MONITOR and the slow log.
func redacted(command *command, args [][]byte) [][]byte {
	var shown [][]byte
	hide := func(from, end int) {
		if shown == nil {
			shown = slices.Clone(args)
		}
		for i := from; i < min(end, len(args)); i++ {
			shown[i] = []byte("(redacted)")
		}
	}
	switch command.name {
	case "auth":
		hide(1, len(args))
	case "acl|setuser", "acl|getuser", "acl|deluser":
		hide(2, len(args))
	case "hello": // HELLO protocol [AUTH user password | SETNAME name] ...
		for i := 2; i < len(args); i++ {
			switch {
			case isWord(args[i], "auth"):
				hide(i+1, i+3)
				i += 2
			case isWord(args[i], "setname"):
				i++
			}
		}
	case "config|set":
		for i := 2; i < len(args); i += 2 {
			if slices.Contains(secretSettings, strings.ToLower(string(args[i]))) {
				hide(i+1, i+2)
			}
		}
	}
	if shown == nil {
		return args
	}
	return shown
}

func appendInt(b []byte, n int) []byte { return strconv.AppendInt(b, int64(n), 10) }

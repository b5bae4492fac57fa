package fault

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// links is the state of this process's connections.
type links struct {
	active atomic.Bool // anything is cut: what passes looks no further without it

	mu                sync.Mutex
	inbound, outbound bool   // nothing arrives here; nothing that is sent from here arrives
	exempt            string // remote address of the connection over which that was ordered
	hits              *atomic.Uint64
	changed           chan struct{} // closed when any of it changes
}

// cut puts a cut in force and returns what heals it.
func (l *links) cut(inbound, outbound bool, exempt string, hits *atomic.Uint64) (heal func()) {
	l.set(inbound, outbound, exempt, hits)
	return func() { l.set(false, false, "", nil) }
}

func (l *links) set(inbound, outbound bool, exempt string, hits *atomic.Uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inbound, l.outbound, l.exempt, l.hits = inbound, outbound, exempt, hits
	l.active.Store(inbound || outbound)
	close(l.changed)
	l.changed = make(chan struct{})
}

// cutFor reports whether a connection to remote is cut in a direction, and what tells of the next change.
func (l *links) cutFor(remote string, outbound bool) (cut bool, changed <-chan struct{}) {
	if !l.active.Load() {
		return false, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	cut = (l.inbound && !outbound || l.outbound && outbound) && remote != l.exempt
	if cut {
		l.hits.Add(1)
	}
	return cut, l.changed
}

// Listener returns l, or where drills are allowed one whose connections can be cut.
func (a *Agent) Listener(l net.Listener) net.Listener {
	if !a.Allowed() {
		return l
	}
	return &listener{l, a}
}

type listener struct {
	net.Listener
	agent *Agent
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.agent.Conn(c), nil
}

// Conn returns c, or where drills are allowed one that can be cut.
func (a *Agent) Conn(c net.Conn) net.Conn {
	if !a.Allowed() {
		return c
	}
	return &conn{Conn: c, links: &a.links, remote: c.RemoteAddr().String(), closed: make(chan struct{})}
}

// conn is a connection that can be cut. A cut looks as it does on a network: reads get nothing, writes wait as with a full buffer,
// deadlines pass, and what was held back arrives when the cut is over.
type conn struct {
	net.Conn
	links  *links
	remote string
	once   sync.Once
	closed chan struct{}

	held     []byte // came before the cut was known to whoever reads; owned by the reader
	heldErr  error
	readEnd  deadline
	writeEnd deadline
}

// deadline is the deadline of one direction.
type deadline struct {
	mu      sync.Mutex
	at      time.Time
	changed chan struct{} // closed when at changes; nil while nobody waits
}

func (d *deadline) set(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = at
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

func (d *deadline) get() (at time.Time, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.at, d.changed
}

// pass returns once the direction is not cut, or why it waits no longer.
func (c *conn) pass(outbound bool, end *deadline) error {
	for {
		cut, healed := c.links.cutFor(c.remote, outbound)
		if !cut {
			return nil
		}
		at, moved := end.get()
		var due <-chan time.Time
		var timer *time.Timer
		if !at.IsZero() {
			timer = time.NewTimer(time.Until(at))
			due = timer.C
		}
		var err error
		select {
		case <-healed:
		case <-moved:
		case <-due:
			err = os.ErrDeadlineExceeded
		case <-c.closed:
			err = net.ErrClosed
		}
		if timer != nil {
			timer.Stop()
		}
		if err != nil {
			return err
		}
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.held) == 0 && c.heldErr == nil {
		if err := c.pass(false, &c.readEnd); err != nil {
			return 0, err
		}
		n, err := c.Conn.Read(p)
		if n == 0 {
			return 0, err
		}
		if c.pass(false, &c.readEnd) == nil { // what came after the cut waits
			return n, err
		}
		c.held, c.heldErr = append([]byte(nil), p[:n]...), err
		return 0, os.ErrDeadlineExceeded
	}
	if err := c.pass(false, &c.readEnd); err != nil {
		return 0, err
	}
	n := copy(p, c.held)
	c.held = c.held[n:]
	err := c.heldErr
	if len(c.held) > 0 {
		return n, nil
	}
	c.heldErr = nil
	return n, err
}

// NetConn returns the connection behind this one. While Held is false it may be written to directly (internal/speaker).
func (c *conn) NetConn() net.Conn { return c.Conn }

// Held reports whether what is written has to wait.
func (c *conn) Held() bool {
	cut, _ := c.links.cutFor(c.remote, true)
	return cut
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.pass(true, &c.writeEnd); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.readEnd.set(t)
	c.writeEnd.set(t)
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.readEnd.set(t)
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writeEnd.set(t)
	return c.Conn.SetWriteDeadline(t)
}

// Close implements net.Conn. Whoever waits behind a cut goes.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

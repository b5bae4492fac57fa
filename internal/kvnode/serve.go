package kvnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"lockstep/internal/acl"
	"lockstep/internal/trust"
	"lockstep/smr"
)

const (
	// samplePeriod is how often rates and copies are measured.
	samplePeriod = time.Second
	// acceptPause is how long the node waits when it cannot accept, for want of file descriptors for instance.
	acceptPause = 100 * time.Millisecond
)

const errMaxClients = "-ERR max number of clients reached\r\n"

// Serve accepts clients until ctx is done or the listener fails, then lets them finish what they have asked for, at
// most for the grace time. It closes the listeners, of which there is at least one. The goroutines of connections end at the latest in Stop.
func (n *Node) Serve(ctx context.Context, listeners ...net.Listener) error {
	if address, ok := listeners[0].Addr().(*net.TCPAddr); ok {
		n.address.Store(address)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := func() { cancel() }
	n.shell.stop.Store(&stop)
	closeAll := func() {
		for _, listener := range listeners {
			listener.Close()
		}
	}
	unhook := context.AfterFunc(ctx, closeAll)
	defer unhook()
	if err := n.startLoops(); err != nil {
		closeAll()
		return err
	}
	n.tasks.Go(func() { n.sample(ctx) })
	n.tasks.Go(func() { n.keepClientMemory(ctx) })
	n.tasks.Go(n.keepBlocked)
	var group errgroup.Group
	for _, listener := range listeners {
		group.Go(func() error {
			defer cancel()
			return n.accept(ctx, listener)
		})
	}
	err := group.Wait()
	n.stopping.Store(true)
	for _, c := range n.clients.list() {
		c.nudge()
	}
	n.drain()
	return err
}

// accept takes connections until ctx is done.
func (n *Node) accept(ctx context.Context, listener net.Listener) error {
	for {
		c, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if c != nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept clients: %w", err)
		case err != nil: // of this connection, or a shortage that may pass
			n.logger.Warn("accept", "error", err.Error())
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
		default:
			n.admit(c)
		}
	}
}

// admit starts the connection of a client, or refuses it.
func (n *Node) admit(c net.Conn) {
	n.stats.connections.Add(1)
	period := time.Duration(n.settings.keepAlive.Load())
	if period > 0 {
		probing := net.KeepAliveConfig{Enable: true, Idle: period, Interval: period / 3, Count: 3}
		switch c := c.(type) {
		case *net.TCPConn:
			_ = c.SetKeepAliveConfig(probing)
		case *trust.ClientConn:
			c.KeepAlive(probing)
		}
	}
	if n.protectedFrom(c) {
		n.stats.rejected.Add(1)
		c.SetWriteDeadline(time.Now().Add(acceptPause))
		_, _ = c.Write([]byte(errProtected))
		c.Close()
		return
	}
	conn, err := n.clients.add(n, c)
	switch {
	case err != nil:
		n.stats.rejected.Add(1)
		n.logger.Warn("accept", "error", err.Error())
		c.Close()
		return
	case conn == nil:
		n.stats.rejected.Add(1)
		c.SetWriteDeadline(time.Now().Add(acceptPause))
		_, _ = c.Write([]byte(errMaxClients))
		c.Close()
		return
	}
	n.start(conn)
}

// errProtected is Redis' answer to strangers when there is no password.
const errProtected = "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. In this mode connections are only accepted from the loopback interface. If you want to connect from external computers to Redis you may adopt one of the following solutions: 1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting to Redis from the same host the server is running, however MAKE SURE Redis is not publicly accessible from internet if you do so. Use CONFIG REWRITE to make this change permanent. 2) Alternatively you can just disable the protected mode by editing the Redis configuration file, and setting the protected mode option to 'no', and then restarting the server. 3) If you started the server manually just for testing, restart it with the '--protected-mode no' option. 4) Setup a an authentication password for the default user. NOTE: You only need to do one of the above things in order for the server to start accepting connections from the outside.\r\n"

// protectedFrom reports whether a client must be refused because anybody could be it. Who had to show a certificate is
// somebody.
func (n *Node) protectedFrom(c net.Conn) bool {
	if _, secured := c.(*trust.ClientConn); secured && n.config.TLS.Auth == trust.AuthRequired {
		return false
	}
	return n.settings.protected.Load() && n.shell.users.Load().Get(acl.Default).NoPass() && !isLoopback(c)
}

func isLoopback(c net.Conn) bool {
	address, ok := c.RemoteAddr().(*net.TCPAddr)
	return !ok || address.IP.IsLoopback()
}

// add registers a connection; it returns nil if there are too many.
func (l *clients) add(n *Node, c net.Conn) (*conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int64(len(l.byID)) >= n.settings.maxClients.Load() {
		return nil, nil
	}
	socket, err := n.socketOf(c)
	if err != nil {
		return nil, err
	}
	if socket != nil {
		c = socket
	}
	l.lastID++
	conn := newConn(n, l.lastID, c, socket)
	l.byID[conn.id] = conn
	return conn, nil
}

func (l *clients) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byID, c.id)
}

// drain waits until all connections have ended, at most for the grace time.
func (n *Node) drain() {
	deadline := time.NewTimer(n.config.Grace)
	defer deadline.Stop()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for n.clients.count() > 0 {
		select {
		case <-poll.C:
		case <-deadline.C:
			return
		}
	}
}

// drainPoll is how often drain looks.
const drainPoll = 5 * time.Millisecond

// Stop ends all connections that are left. It is called after Serve has returned and the log calls back no more:
// what still waits for the log will not be answered.
func (n *Node) Stop() {
	close(n.stopped)
	for _, c := range n.clients.everyone() {
		c.giveUp()
	}
	n.tasks.Wait()
	n.stopLoops()
}

// sample measures rates, memory and copies once a second.
func (n *Node) sample(ctx context.Context) {
	ticker := time.NewTicker(samplePeriod)
	defer ticker.Stop()
	before := n.measure()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		n.closeSilent()
		n.applied.overdue(n.now()-n.config.WriteTimeout, func(lsn smr.LSN, c *conn) {
			c.turn.unread = n.notExecuted(lsn)
			c.post()
		})
		now := n.measure()
		n.stats.opsPerSec.Store(max(now.commands-before.commands, 0))
		n.stats.inPerSec.Store(max(now.input-before.input, 0))
		n.stats.outPerSec.Store(max(now.output-before.output, 0))
		before = now
		n.sampleMemory()
		if n.leads() {
			n.log.CountCopies(0, func(copies int, err error) {
				if err == nil {
					n.slaves.Store(int64(max(copies-1, 0)))
				}
			})
		}
	}
}

// closeSilent closes clients that say nothing for too long, and those whose replies wait for too long.
func (n *Node) closeSilent() {
	timeout := time.Duration(n.settings.timeout.Load())
	for _, c := range n.clients.list() {
		a := &c.about
		if err := c.out.overdue(); err != nil && c.disconnect() {
			c.noteCut(err)
		}
		silent := n.now() - time.Duration(a.seen.Load())
		if timeout > 0 && silent > timeout && !a.listening() && !a.monitoring.Load() && a.blocked.Load() == nil && !a.busy.Load() {
			c.disconnect()
		}
	}
}

// measurement is what rates are computed from.
type measurement struct{ commands, input, output int64 }

func (n *Node) measure() measurement {
	return measurement{n.stats.commands.Load(), n.stats.netInput.Load(), n.stats.netOutput.Load()}
}

// peerGone reports whether the client has closed its side. It takes nothing from the connection.
func (c *conn) peerGone() bool {
	if c.out.raw == nil {
		return c.halfClosed() // with TLS the farewell itself is still unread
	}
	gone := false
	err := c.out.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
		return true
	})
	return gone || err != nil
}

package trust

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxGreeting bounds the connections of clients whose handshake is under way; one more is closed at once.
	maxGreeting = 256
	// greetPatience bounds a handshake of a client.
	greetPatience = 10 * time.Second
	// farewell bounds how long a close may take to tell the client of it.
	farewell = 50 * time.Millisecond
)

// clientListener hands out connections of Redis clients whose handshake is done. Handshakes are done in goroutines of their own,
// so that nobody waits for a client that is slow or says nothing.
type clientListener struct {
	net.Listener
	keeper *Keeper
	config *tls.Config

	begin   sync.Once
	ready   chan net.Conn
	failed  chan error
	ctx     context.Context
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	pending chan struct{}
}

// Listen makes a port for Redis clients with TLS of a listener, which it takes over.
func (k *Keeper) Listen(listener net.Listener, auth Auth) net.Listener {
	l := &clientListener{
		Listener: listener, keeper: k, config: k.ForClients(auth),
		ready: make(chan net.Conn), failed: make(chan error), pending: make(chan struct{}, maxGreeting),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Accept returns the next connection whose handshake is done: a *ClientConn.
func (l *clientListener) Accept() (net.Conn, error) {
	l.begin.Do(func() { l.tasks.Go(l.take) })
	select {
	case conn := <-l.ready:
		return conn, nil
	case err := <-l.failed:
		return nil, err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends the port and what has not shaken hands.
func (l *clientListener) Close() error {
	l.cancel()
	err := l.Listener.Close()
	l.tasks.Wait()
	return err
}

// take accepts connections until the port is closed.
func (l *clientListener) take() {
	for l.ctx.Err() == nil {
		conn, err := l.Listener.Accept()
		if err != nil {
			select {
			case l.failed <- err:
			case <-l.ctx.Done():
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		select {
		case l.pending <- struct{}{}:
			l.tasks.Go(func() {
				defer func() { <-l.pending }()
				l.greet(conn)
			})
		default:
			conn.Close()
		}
	}
}

// greet shakes hands and hands the connection out.
func (l *clientListener) greet(conn net.Conn) {
	raw := &hasty{Conn: conn}
	c := &ClientConn{Conn: tls.Server(raw, l.config), raw: raw}
	ctx, cancel := context.WithTimeout(l.ctx, greetPatience)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		if err = Explain(err); IsTrust(err) {
			l.keeper.complaints.note(conn.RemoteAddr(), err)
		}
		conn.Close()
		return
	}
	select {
	case l.ready <- c:
	case <-l.ctx.Done():
		conn.Close()
	}
}

// ClientConn is the connection of a Redis client with TLS.
type ClientConn struct {
	*tls.Conn
	raw *hasty
}

// Close tells the client, if that is possible at once, and closes the connection.
func (c *ClientConn) Close() error {
	c.raw.closing.Store(true)
	return c.Conn.Close()
}

// Descriptor returns the connection below, for what has nothing to do with its bytes; nil if there is none.
func (c *ClientConn) Descriptor() syscall.RawConn {
	file, ok := c.raw.Conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// KeepAlive sets the period after which a silent client is probed.
func (c *ClientConn) KeepAlive(config net.KeepAliveConfig) {
	if tcp, ok := c.raw.Conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(config) // fails if the connection has ended, which its reader finds out
	}
}

// hasty is a connection that does not wait long any more once it is being closed: tls.Conn would for 5 s.
type hasty struct {
	net.Conn
	closing atomic.Bool
}

// SetWriteDeadline implements net.Conn.
func (h *hasty) SetWriteDeadline(t time.Time) error {
	if h.closing.Load() {
		t = time.Now().Add(farewell)
	}
	return h.Conn.SetWriteDeadline(t)
}

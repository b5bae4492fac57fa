package replicator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"lockstep/internal/trust"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/replica"
	"lockstep/smr/wire"
)

const (
	// helloPatience is how long a connection may take to say who it is.
	helloPatience = 2 * time.Second
	// maxUnchecked bounds the connections on the data port that have not said who they are. For one more the oldest is
	// closed: a peer that behaves says hello at once, and so comes through a flood of those that do not.
	maxUnchecked = 128
	// acceptPause is the pause after the system refused to accept (no file descriptors left).
	acceptPause = 50 * time.Millisecond
)

// keepAlive notices half-open peers of connections on which nothing is said for long.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

// accept serves every connection of listener with serve, in a goroutine of its own, until ctx ends. At most limit are
// served at a time; more are closed at once.
func (n *node) accept(ctx context.Context, listener net.Listener, limit int, serve func(context.Context, net.Conn)) error {
	served := make(chan struct{}, limit)
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			// Nothing is wrong with the port itself: descriptors are short, or the peer was gone already.
			select {
			case <-time.After(acceptPause):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case served <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		n.group.Go(func() error {
			defer func() { <-served }()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			defer conn.Close()
			serve(ctx, conn)
			return nil
		})
	}
}

// serveData serves one connection on the data port: its hello tells what it is.
func (n *node) serveData(ctx context.Context, conn net.Conn) {
	conn = n.cfg.Keeper.Accepted(conn)
	n.unchecked.add(conn)
	m := &meter{ctx: ctx, conn: conn, slots: n.bigSlots}
	r := wire.NewReader(m, wire.HelloLimit)
	message, err := n.readHello(conn, r)
	n.unchecked.remove(conn)
	if err != nil {
		n.connectionEnded(conn, "data", err)
		return
	}
	defer n.levels.forget(conn)
	switch hello := message.(type) {
	case *smr.ClientHello:
		if n.checkHandshake(conn, hello.Handshake, "") && n.checkIdentity(conn, trust.KVNode, hello.Node) {
			n.serveClient(ctx, conn, r, m, hello.Node)
		}
	case *smr.SlaveHello:
		if n.checkHandshake(conn, hello.Handshake, "") && n.checkIdentity(conn, trust.Replicator, hello.Node) {
			n.serveSlave(ctx, conn, r, hello)
		}
	default:
		n.reject(conn, &smr.Reject{Code: smr.RejectVersion, Reason: fmt.Sprintf("%T cannot begin a connection", message)})
	}
}

// readHello reads the first message. A peer of another wire version is told so.
func (n *node) readHello(conn net.Conn, r *wire.Reader) (any, error) {
	if err := conn.SetDeadline(time.Now().Add(helloPatience)); err != nil {
		return nil, err
	}
	message, err := r.Next()
	if errors.Is(err, wire.ErrVersion) {
		n.reject(conn, &smr.Reject{Code: smr.RejectVersion, Reason: err.Error()})
	}
	return message, err
}

// checkHandshake refuses a peer of another cluster or group, of another node unless want is empty, or that cannot the cluster's feature level.
// One that it lets in is known to levels until that forgets it.
func (n *node) checkHandshake(conn net.Conn, got smr.Handshake, want smr.NodeID) bool {
	expected := n.handshake()
	expected.Node = want
	reject := wire.CheckHandshake(got, expected)
	if reject == nil {
		reject = n.levels.admit(conn, got)
	}
	if reject != nil {
		n.reject(conn, reject)
	}
	return reject == nil
}

// checkIdentity refuses a peer whose certificate is not that of who it says that it is.
func (n *node) checkIdentity(conn net.Conn, role trust.Role, node smr.NodeID) bool {
	err := n.cfg.Keeper.Admit(conn, trust.Wanted{Role: role, Name: string(node)})
	if err != nil {
		n.reject(conn, &smr.Reject{Code: smr.RejectForeign, Reason: fmt.Sprintf("you say that you are %s/%s: %v", role, node, err)})
	}
	return err == nil
}

// reject tells a peer why and leaves the connection to be closed by the caller.
func (n *node) reject(conn net.Conn, reject *smr.Reject) {
	if conn.SetWriteDeadline(time.Now().Add(helloPatience)) == nil {
		_, _ = conn.Write(wire.AppendMessage(nil, reject)) // the connection is given up either way
	}
}

// serveSlave serves a slave connection at a master: it reads acknowledgements; the feeder writes.
func (n *node) serveSlave(ctx context.Context, conn net.Conn, r *wire.Reader, hello *smr.SlaveHello) {
	if n.slaves.Add(1) > int64(n.cfg.MaxSlaves) {
		n.slaves.Add(-1)
		n.reject(conn, &smr.Reject{Code: smr.RejectBusy, Reason: fmt.Sprintf("%d slaves are connected already", n.cfg.MaxSlaves)})
		return
	}
	defer n.slaves.Add(-1)
	if conn.SetDeadline(time.Time{}) != nil {
		return
	}
	link := newLink(n.nextConn(), conn, hello.Node, n.stream, n.openReader)
	defer link.close()
	n.group.Go(func() error {
		if err := link.run(ctx); errors.Is(err, log.ErrCorrupt) {
			n.cfg.Logger.Error("log cannot be read", "group", n.cfg.Group, "node", n.cfg.Node, "slave", string(link.peer), "error", err)
		} else {
			n.connectionEnded(conn, "slave", err)
		}
		return nil
	})
	err := n.bring(ctx, n.loop.control, item{link: link, input: &replica.PeerHello{Conn: link.id, Hello: *hello}})
	for err == nil {
		var message any
		if message, err = r.Next(); err != nil {
			break
		}
		switch message := message.(type) {
		case *smr.Ack:
			err = n.bring(ctx, n.loop.control, item{link: link, input: &replica.PeerAck{Conn: link.id, Ack: *message}})
		case *smr.SlaveStart:
			err = n.bring(ctx, n.loop.control, item{link: link, input: &replica.PeerStart{Conn: link.id, Start: *message}})
		default:
			err = fmt.Errorf("%w: %T from a slave", wire.ErrBadMessage, message)
		}
	}
	n.connectionEnded(conn, "slave", err)
	_ = n.bring(ctx, n.loop.control, item{link: link, input: &replica.ConnDown{Conn: link.id}})
}

// openReader opens the log's files for a feeder.
func (n *node) openReader() (*log.Reader, error) { return log.OpenReader(n.cfg.fs, n.logDir) }

// connectionEnded logs protocol errors of peers; that connections end is nobody's concern.
func (n *node) connectionEnded(conn net.Conn, what string, err error) {
	if errors.Is(err, wire.ErrBadMessage) || errors.Is(err, wire.ErrVersion) || trust.IsTrust(err) {
		n.events.complain(what, conn.RemoteAddr().String(), err)
	}
}

// unchecked is the connections on the data port that have not said who they are, oldest first.
type unchecked struct {
	mu    sync.Mutex
	conns []net.Conn
}

// add closes the oldest one if conn is one too many.
func (u *unchecked) add(conn net.Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conns = append(u.conns, conn)
	if len(u.conns) > maxUnchecked {
		_ = u.conns[0].Close()
		u.conns = slices.Delete(u.conns, 0, 1)
	}
}

func (u *unchecked) remove(conn net.Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.Index(u.conns, conn); i >= 0 {
		u.conns = slices.Delete(u.conns, i, i+1)
	}
}

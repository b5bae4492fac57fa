package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"lockstep/internal/speaker"
	"lockstep/smr"
	"lockstep/smr/session"
	"lockstep/smr/wire"

	"golang.org/x/sync/errgroup"
)

const (
	// writeSize is about how many bytes a writer gathers, and hands to the socket at once.
	writeSize = 256 << 10
	// calmAfter is how long a connection must have lasted for the next dial to come soon.
	calmAfter = time.Second
)

// links holds the present connection to a master for those who do not own it.
type links struct {
	mu      sync.Mutex
	current *link
}

func (s *links) set(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = l
}

// drop closes the connection of that name.
func (s *links) drop(id session.ConnID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && s.current.id == id {
		s.current.conn.Close()
	}
}

// master returns the node that is connected, "" if none.
func (s *links) master() smr.NodeID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return ""
	}
	return s.current.to.node
}

// link is an accepted connection to a master.
type link struct {
	id   session.ConnID
	to   target // epoch: in which it was accepted
	conn net.Conn
	*speaker.Speaker

	mu       sync.Mutex
	messages []any // messages[next:] are to be written; they refer to memory of the session
	next     int
}

func newLink(id session.ConnID, to target, conn net.Conn) *link {
	l := &link{id: id, to: to, conn: conn}
	l.Speaker = speaker.New(conn, l.compose, func(int) time.Duration { return 0 }) // the session watches for silence
	return l
}

// push writes messages. Those for other connections are thrown away. Called by the session loop.
func (l *link) push(sends []session.Send) {
	l.mu.Lock()
	for _, send := range sends {
		if send.Conn == l.id {
			l.messages = append(l.messages, send.Message)
		}
	}
	l.mu.Unlock()
	l.Say()
}

// compose implements speaker.Compose: about writeSize bytes of what was pushed.
func (l *link) compose(buffer []byte, _ bool) (composed []byte, last bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; l.next < len(l.messages) && len(buffer) < writeSize; l.next++ {
		buffer = wire.AppendMessage(buffer, l.messages[l.next])
		l.messages[l.next] = nil
	}
	if l.next < len(l.messages) {
		l.Wake() // for the rest
		return buffer, false, nil
	}
	l.messages, l.next = l.messages[:0], 0
	if cap(l.messages) > keptEntries {
		l.messages = nil
	}
	return buffer, false, nil
}

// runMaster keeps a connection to the master, whoever that is.
func (c *Client) runMaster(ctx context.Context) {
	again := pause{least: masterPauseMin, most: masterPauseMax}
	logger := c.config.Logger.With("group", c.config.Group, "node", string(c.config.Node))
	var id session.ConnID
	var tried target
	said := ""
	for ctx.Err() == nil {
		to := c.view.target()
		if to != tried {
			again.reset()
			tried = to
		}
		if to.address == "" {
			select {
			case <-c.view.targetChanged:
			case <-ctx.Done():
			}
			continue
		}
		start := time.Now()
		id++
		err := c.serveMaster(ctx, to, id)
		if text := fmt.Sprint(err); text != said && ctx.Err() == nil {
			logger.Warn("master away", "master", string(to.node), "address", to.address, "epoch", uint64(to.epoch), "why", text)
			said = text
		}
		if time.Since(start) > calmAfter {
			again.reset()
			said = ""
		}
		if c.view.target() == to {
			again.wait(ctx, c.view.targetChanged)
		}
	}
}

// serveMaster connects to a master and serves the connection until it breaks or another one is to be had.
func (c *Client) serveMaster(ctx context.Context, to target, id session.ConnID) error {
	conn, reader, accepted, err := c.connect(ctx, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	to.epoch = accepted
	l := newLink(id, to, conn)
	c.config.Logger.Info("master connected", "group", c.config.Group, "node", string(c.config.Node),
		"master", string(to.node), "address", to.address, "epoch", uint64(to.epoch))
	c.links.set(l)
	c.post(event{input: &session.Connected{Conn: id}, link: l})
	defer func() {
		c.links.set(nil)
		c.post(event{input: &session.Disconnected{Conn: id}})
	}()
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer conn.Close()
		if err := l.Run(inner, func() bool { return inner.Err() != nil }); err != nil {
			return fmt.Errorf("write to master: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		defer conn.Close()
		return c.watchTarget(inner, to)
	})
	group.Go(func() error {
		defer conn.Close()
		return c.hearMaster(l, reader)
	})
	return group.Wait()
}

// connect dials a master and has it accept us, in the epoch that it returns. It gives up as soon as another master is
// to be had: the one that is dialled may have vanished with its host.
func (c *Client) connect(ctx context.Context, to target) (net.Conn, *wire.Reader, smr.Epoch, error) {
	dialing, cancel := context.WithTimeout(ctx, handshakePatience)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		for c.view.target() == to {
			select {
			case <-c.view.targetChanged:
			case <-dialing.Done():
				return
			}
		}
		cancel()
	})
	conn, err := c.config.Dial(dialing, to.node, to.address)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("dial master: %w", err)
	}
	keep := context.AfterFunc(dialing, func() { conn.Close() })
	reader := wire.NewReader(conn, wire.HelloLimit)
	accepted, err := c.greetMaster(conn, reader, to)
	if !keep() && err == nil {
		err = dialing.Err()
	}
	if err != nil {
		conn.Close()
		return nil, nil, 0, fmt.Errorf("greet master: %w", err)
	}
	return conn, reader, accepted, nil
}

func (c *Client) greetMaster(conn net.Conn, reader *wire.Reader, to target) (smr.Epoch, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakePatience)); err != nil {
		return 0, err
	}
	hello := &smr.ClientHello{Handshake: c.config.handshake(), Session: c.config.Session}
	if _, err := conn.Write(wire.AppendMessage(nil, hello)); err != nil {
		return 0, err
	}
	welcome, err := wire.Expect[smr.ClientWelcome](reader)
	if err != nil {
		return 0, err
	}
	want := c.config.handshake()
	want.Node = to.node
	if reject := wire.CheckHandshake(welcome.Handshake, want); reject != nil {
		return 0, &wire.RejectedError{Reject: *reject}
	}
	if welcome.Epoch < to.epoch {
		return 0, fmt.Errorf("%w: it leads epoch %d, the group is at %d", smr.ErrStaleEpoch, welcome.Epoch, to.epoch)
	}
	return welcome.Epoch, conn.SetDeadline(time.Time{})
}

// watchTarget returns when the connection is not the one to have any more. An unknown master is no reason: the old
// one is as good a guess as any, and asks are resent anyway.
func (c *Client) watchTarget(ctx context.Context, connected target) error {
	for {
		now := c.view.target()
		if now.address != "" && (now.node != connected.node || now.address != connected.address || now.epoch > connected.epoch) {
			return fmt.Errorf("%s leads epoch %d", now.node, now.epoch)
		}
		select {
		case <-c.view.targetChanged:
		case <-ctx.Done():
			return nil
		}
	}
}

// hearMaster passes answers on until the connection ends.
func (c *Client) hearMaster(l *link, reader *wire.Reader) error {
	for {
		message, err := reader.Next()
		if err != nil {
			return fmt.Errorf("hear master: %w", err)
		}
		switch m := message.(type) {
		case *smr.ReadReady:
			c.post(event{input: &session.ReadReady{Conn: l.id, Message: *m}})
		case *smr.CopiesCounted:
			c.post(event{input: &session.CopiesCounted{Conn: l.id, Message: *m}})
		case *smr.Reject:
			return &wire.RejectedError{Reject: *m}
		default:
			return fmt.Errorf("%w: %T from a master", wire.ErrBadMessage, message)
		}
	}
}

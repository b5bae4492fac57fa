package replicator

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/speaker"
	"lockstep/smr"
	"lockstep/smr/replica"
	"lockstep/smr/wire"

	"golang.org/x/sync/semaphore"
)

const (
	// maxProposal bounds the requests of one Propose: together with a frame header they must make a frame.
	maxProposal = smr.MaxFrame - smr.HeaderSize
	// bigMessage is the size in bytes above which a message of a client needs one of the bigSlots, of which there
	// are few, while it is being read and until the core has it. So memory is bounded whatever clients send, and
	// small messages never wait for big ones.
	bigMessage = 1 << 20
	bigSlots   = 4
	// bigPatience is how long a client may wait for a slot, and how long it may take to send a big message.
	bigPatience = 30 * time.Second
	// maxCounted bounds the answers to CountCopies that wait to be written; a client that does not read is hung up.
	maxCounted = 1024

	_ = uint(maxProposal - smr.RequestHeaderSize - smr.MaxPayload) // compile error unless the largest request fits
	_ = uint(wire.MaxBatch - smr.MaxFrame)                         // and its frame can be shipped
)

// client is one connection of a KV node. A reader goroutine brings messages to the loop, a speaker writes what the loop pushes.
type client struct {
	*speaker.Speaker
	id   replica.ClientID
	node smr.NodeID // of the KV node that it is
	conn net.Conn
	// dropped: the connection or the reign in which it connected is over. What still waits of it is not appended: its
	// session sends it again.
	dropped atomic.Bool

	mu      sync.Mutex
	ready   smr.ReadReady // the newest; valid if hasReady
	counted []smr.CopiesCounted
	// hasReady and closed are states of the fields above and of conn.
	hasReady, closed bool

	// Owned by the loop: one ReadIndex of a connection is with the core at a time; the answer to it answers all
	// smaller ones, the highest later one follows it.
	asking bool
	next   uint64
}

// asks reports whether the question is to be passed to the core now. Loop only.
func (c *client) asks(id uint64) bool {
	if c.asking {
		c.next = max(c.next, id)
		return false
	}
	c.asking = true
	return true
}

// answered returns the question to be passed to the core next, 0 if there is none. Loop only.
func (c *client) answered(id uint64) uint64 {
	next := c.next
	c.asking, c.next = next > id, 0
	if c.asking {
		return next
	}
	return 0
}

// push sends an answer. Called by the loop; never blocks.
func (c *client) push(message any) {
	c.queue(message)
	c.Say()
}

func (c *client) queue(message any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m := message.(type) {
	case *smr.ReadReady:
		c.ready, c.hasReady = *m, true // it answers every smaller ID too
	case *smr.CopiesCounted:
		c.counted = append(c.counted, *m)
		if len(c.counted) > maxCounted {
			c.closeLocked()
		}
	}
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked()
}

func (c *client) closeLocked() {
	if !c.closed {
		c.closed = true
		c.conn.Close() // an error here changes nothing: the peer notices either way
	}
	c.Wake()
}

func (c *client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// compose implements speaker.Compose.
func (c *client) compose(buffer []byte, _ bool) (composed []byte, last bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hasReady {
		buffer = wire.AppendMessage(buffer, &c.ready)
	}
	for i := range c.counted {
		buffer = wire.AppendMessage(buffer, &c.counted[i])
	}
	c.hasReady, c.counted = false, c.counted[:0]
	return buffer, false, nil
}

// read passes messages on until the connection ends or the client breaks the protocol.
func (c *client) read(ctx context.Context, n *node, r *wire.Reader, m *meter) error {
	for {
		message, err := r.Next()
		if err != nil {
			return err
		}
		taken := m.messageEnded()
		switch message := message.(type) {
		case *smr.Propose:
			if len(message.Requests) > maxProposal {
				return fmt.Errorf("%w: %d bytes of requests, %d are possible", wire.ErrBadMessage, len(message.Requests), maxProposal)
			}
			select {
			case n.loop.proposals <- proposal{client: c, batch: *message, taken: taken}:
				if !r.Buffered() {
					n.loop.step()
				}
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		case *smr.ReadIndex:
			err = n.bring(ctx, n.loop.control, item{client: c, input: &replica.ReadIndex{Client: c.id, ID: message.ID}})
		case *smr.CountCopies:
			err = n.bring(ctx, n.loop.control, item{client: c, count: message})
		default:
			err = fmt.Errorf("%w: %T from a client", wire.ErrBadMessage, message)
		}
		if taken != nil {
			taken() // large without need
		}
		if err != nil {
			return err
		}
	}
}

// clients is the set of client connections. It exists only while this replica leads.
type clients struct {
	limit int

	mu      sync.Mutex
	leading bool
	epoch   smr.Epoch
	lastID  replica.ClientID
	byID    map[replica.ClientID]*client
}

func newClients(limit int) *clients {
	return &clients{limit: limit, byID: make(map[replica.ClientID]*client)}
}

// setLeading is called by the loop.
func (s *clients) setLeading(leading bool, epoch smr.Epoch) {
	s.mu.Lock()
	s.leading, s.epoch = leading, epoch
	s.mu.Unlock()
}

// admit makes conn a client of the reign, or says why not.
func (s *clients) admit(conn net.Conn, node smr.NodeID) (*client, smr.Epoch, *smr.Reject) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.leading:
		return nil, 0, &smr.Reject{Code: smr.RejectNotMaster, Epoch: s.epoch, Reason: "this replica does not lead"}
	case len(s.byID) >= s.limit:
		return nil, 0, &smr.Reject{Code: smr.RejectBusy, Epoch: s.epoch, Reason: fmt.Sprintf("%d clients are connected already", s.limit)}
	}
	s.lastID++
	c := &client{id: s.lastID, node: node, conn: conn}
	c.Speaker = speaker.New(conn, c.compose, func(int) time.Duration { return writePatience })
	s.byID[c.id] = c
	return c, s.epoch, nil
}

func (s *clients) find(id replica.ClientID) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

func (s *clients) remove(c *client) {
	s.mu.Lock()
	delete(s.byID, c.id)
	s.mu.Unlock()
}

// pushAll hands an answer to every client. Called by the loop.
func (s *clients) pushAll(message any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.byID { // all of them: the order does not matter
		c.push(message)
	}
}

// dropAll closes all client connections: the reign is over. Called by the loop.
func (s *clients) dropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leading = false
	for _, c := range s.byID { // all of them: the order does not matter
		c.dropped.Store(true)
		c.close()
	}
}

// serveClient serves one client connection from its checked hello to its end.
func (n *node) serveClient(ctx context.Context, conn net.Conn, r *wire.Reader, m *meter, node smr.NodeID) {
	c, epoch, reject := n.clients.admit(conn, node)
	if reject != nil {
		n.reject(conn, reject)
		return
	}
	defer n.clients.remove(c)
	defer c.close()
	welcome := wire.AppendMessage(nil, &smr.ClientWelcome{Handshake: n.handshake(), Epoch: epoch})
	if _, err := conn.Write(welcome); err != nil {
		return
	}
	if conn.SetDeadline(time.Time{}) != nil {
		return
	}
	r.SetLimit(wire.StreamLimit)
	m.metering = true
	n.group.Go(func() error {
		defer c.close()
		_ = c.Run(ctx, c.isClosed) // why it ended is the same as why reading does
		return nil
	})
	err := c.read(ctx, n, r, m)
	c.dropped.Store(true)
	m.drop()
	n.connectionEnded(conn, "client", err)
	// The loop may wait for nothing of this connection any more. If the process ends, so does the loop.
	_ = n.bring(ctx, n.loop.control, item{input: &replica.ClientDown{Client: c.id}})
}

// meter reads a client's socket and takes a slot before a message grows big.
type meter struct {
	ctx      context.Context
	conn     net.Conn
	slots    *semaphore.Weighted
	metering bool
	bytes    int // read since a message ended
	held     bool
}

func (m *meter) Read(p []byte) (int, error) {
	if m.metering && m.bytes > bigMessage && !m.held {
		ctx, cancel := context.WithTimeout(m.ctx, bigPatience)
		defer cancel()
		if err := m.slots.Acquire(ctx, 1); err != nil {
			return 0, fmt.Errorf("wait to take in a large message: %w", err)
		}
		m.held = true
		if err := m.conn.SetReadDeadline(time.Now().Add(bigPatience)); err != nil {
			return 0, err
		}
	}
	n, err := m.conn.Read(p)
	m.bytes += n
	return n, err
}

// messageEnded begins to count anew. If the message held a slot, the function that gives it back is returned.
func (m *meter) messageEnded() func() {
	m.bytes = 0
	if !m.held {
		return nil
	}
	m.held = false
	_ = m.conn.SetReadDeadline(time.Time{}) // fails if the connection is closed: the next read says so
	return func() { m.slots.Release(1) }
}

// drop gives back the slot of a message that never ended.
func (m *meter) drop() {
	if m.held {
		m.held = false
		m.slots.Release(1)
	}
}

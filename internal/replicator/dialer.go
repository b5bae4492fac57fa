package replicator

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"lockstep/internal/level"
	"lockstep/internal/pause"
	"lockstep/internal/trust"
	"lockstep/smr"
	"lockstep/smr/replica"
	"lockstep/smr/wire"

	"golang.org/x/sync/semaphore"
)

const (
	// Dials to a master that cannot be reached, or that hangs up at once, are this far apart: doubled each time.
	minDialPause = 5 * time.Millisecond
	maxDialPause = 200 * time.Millisecond
	// goodConnection is how long a connection has to last for the next dial to be made without a pause.
	goodConnection = time.Second
	dialPatience   = time.Second
	// busyEvery is how often the core is told that a large message is still coming.
	busyEvery = 100 * time.Millisecond
	// receiveWindow is how many bytes of the stream may wait for the loop before the master's socket is read no further.
	receiveWindow = 4 << 20
)

// dialer keeps at most one connection to the master: one for each order of the core.
type dialer struct {
	node *node
	wake chan struct{} // 1: there is another order

	mu     sync.Mutex
	order  uint64 // number of the order in force, 0: none
	last   uint64 // last number given out
	master smr.NodeID
	cancel context.CancelFunc // ends what is being done for the order before
}

func newDialer(n *node) *dialer { return &dialer{node: n, wake: make(chan struct{}, 1)} }

// dial replaces the order in force and returns the new one's number. Called by the loop.
func (d *dialer) dial(master smr.NodeID) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	d.order, d.master = d.last, master
	d.cancelLocked()
	return d.order
}

// stop ends the order in force. Called by the loop, which has hung up on the connection itself.
func (d *dialer) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.order = 0
	d.cancelLocked()
}

func (d *dialer) cancelLocked() {
	if d.cancel != nil {
		d.cancel()
		d.cancel = nil
	}
	signal(d.wake)
}

// take returns the order in force if it is not the one already served.
func (d *dialer) take(ctx context.Context, served uint64) (context.Context, uint64, smr.NodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.order == 0 || d.order == served {
		return nil, 0, ""
	}
	ctx, d.cancel = context.WithCancel(ctx)
	return ctx, d.order, d.master
}

// run serves order after order until ctx ends: dials until it is connected, and then reads that connection to its end.
func (d *dialer) run(ctx context.Context) error {
	wait := time.Duration(0)
	var served uint64
	var lastMaster smr.NodeID
	for {
		orderCtx, order, master := d.take(ctx, served)
		if order == 0 {
			select {
			case <-d.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		served = order
		if master != lastMaster {
			wait, lastMaster = 0, master
		}
		for orderCtx.Err() == nil {
			if !pause.For(orderCtx, wait) {
				break
			}
			began := time.Now()
			connected := d.connect(orderCtx, ctx, order, master)
			wait = min(max(minDialPause, 2*wait), maxDialPause)
			if connected {
				if time.Since(began) >= goodConnection {
					wait = 0
				}
				break // the core orders the next one
			}
		}
	}
}

// connect dials once and serves the connection. It returns whether one came about.
func (d *dialer) connect(orderCtx, ctx context.Context, order uint64, master smr.NodeID) bool {
	address := d.node.addresses.find(master)
	if address == "" {
		return false // the next follow order brings it
	}
	dialling := net.Dialer{Timeout: dialPatience, KeepAliveConfig: keepAlive}
	conn, err := d.node.cfg.Keeper.Dial(orderCtx, &dialling, address, trust.Wanted{Role: trust.Replicator, Name: string(master)})
	if err != nil {
		if trust.IsTrust(err) {
			d.node.events.complain("master", address, err)
		}
		return false
	}
	conn = d.node.cfg.drills.Conn(conn)
	// The connection outlives its order: the core hangs up on it when it likes.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	link := newLink(d.node.nextConn(), conn, master, nil, nil)
	link.order = order
	defer link.close()
	d.node.group.Go(func() error {
		d.node.connectionEnded(conn, "master", link.run(ctx))
		return nil
	})
	if d.node.bring(ctx, d.node.loop.upstream, item{link: link, input: &replica.Connected{Conn: link.id}}) != nil {
		return true
	}
	err = d.read(ctx, link)
	d.node.connectionEnded(conn, "master", err)
	_ = d.node.bring(ctx, d.node.loop.upstream, item{link: link, input: &replica.ConnDown{Conn: link.id}})
	return true
}

// read passes what the master sends on to the loop. The core watches for silence.
func (d *dialer) read(ctx context.Context, link *link) error {
	window := semaphore.NewWeighted(receiveWindow)
	source := &busyReader{conn: link.conn, last: time.Now(), tell: func() error {
		return d.node.bring(ctx, d.node.loop.upstream, item{link: link, input: &replica.Busy{Conn: link.id}})
	}}
	r := wire.NewReader(source, wire.HistoryLimit)
	greeted := false
	for {
		message, err := r.Next()
		if err != nil {
			return err
		}
		source.last = time.Now()
		in := item{link: link}
		switch message := message.(type) {
		case *smr.MasterHello:
			if reject := wire.CheckHandshake(message.Handshake, d.node.handshakeOf(link.peer)); reject != nil || greeted {
				return fmt.Errorf("%w: hello of %s: %v", wire.ErrBadMessage, link.peer, reject)
			}
			if known, can := d.node.levels.Level(), level.Of(message.Level); can < known {
				return fmt.Errorf("%w: master %s supports feature level %d at most, and the cluster's is %d", wire.ErrBadMessage, link.peer, can, known)
			}
			greeted = true
			r.SetLimit(wire.StreamLimit)
			in.input = &replica.MasterHello{Conn: link.id, Hello: *message}
		case *smr.Append:
			size := min(int64(len(message.Frames)), receiveWindow)
			if err := window.Acquire(ctx, size); err != nil {
				return err
			}
			in.taken = func() { window.Release(size) }
			in.input = &replica.Received{Conn: link.id, Append: *message}
		case *smr.Heartbeat:
			in.input = &replica.Beat{Conn: link.id, Heartbeat: *message}
		case *smr.Reject:
			if message.Code == smr.RejectLevel {
				d.node.refusedLevel(link.peer, message.Reason)
			}
			in.input = &replica.Rejected{Conn: link.id, Reject: *message}
		default:
			return fmt.Errorf("%w: %T from the master", wire.ErrBadMessage, message)
		}
		if _, isReject := message.(*smr.Reject); !greeted && !isReject {
			return fmt.Errorf("%w: %T before the master's hello", wire.ErrBadMessage, message)
		}
		if err := d.node.post(ctx, d.node.loop.upstream, in); err != nil {
			return err
		}
		if !r.Buffered() { // what came with it is stepped with it
			d.node.loop.step()
		}
	}
}

// busyReader reads a socket and tells every so often that bytes come, when no message has ended meanwhile.
type busyReader struct {
	conn net.Conn
	last time.Time // when a message ended, or when it told
	tell func() error
}

func (b *busyReader) Read(p []byte) (int, error) {
	n, err := b.conn.Read(p)
	if n > 0 && time.Since(b.last) >= busyEvery {
		b.last = time.Now()
		if err := b.tell(); err != nil {
			return n, err
		}
	}
	return n, err
}

// maxAddresses bounds the address book: what orders have named since the start.
const maxAddresses = 4 * smr.MaxMembers

// addresses remembers the data addresses that orders carried, by node.
type addresses struct {
	mu     sync.Mutex
	byNode map[smr.NodeID]string
}

// learn remembers an address. Beyond the bound the book begins anew: the orders that matter come again.
func (a *addresses) learn(node smr.NodeID, address string) {
	if address == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byNode == nil || len(a.byNode) >= maxAddresses {
		a.byNode = make(map[smr.NodeID]string)
	}
	a.byNode[node] = address
}

func (a *addresses) find(node smr.NodeID) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byNode[node]
}

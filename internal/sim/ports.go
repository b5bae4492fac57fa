package sim

import (
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/replica"
)

// inbound is a connection to a replicator that has not said what it is.
type inbound struct {
	r     *replicator
	end   *end
	local bool // over the unix socket
}

// accept takes a new connection.
func (r *replicator) accept(e *end, local bool) {
	in := &inbound{r: r, end: e, local: local}
	e.port, e.alive = in, &r.alive
	r.inbound = append(r.inbound, in)
}

func (i *inbound) forget() {
	for n, known := range i.r.inbound {
		if known == i {
			i.r.inbound = append(i.r.inbound[:n], i.r.inbound[n+1:]...)
			return
		}
	}
}

func (i *inbound) gone(*end) { i.forget() }

// hear takes the hello. A stopped process hears it when it goes on.
func (i *inbound) hear(e *end, message any) {
	r := i.r
	if r.paused {
		r.stalled = append(r.stalled, later(func() {
			if !r.dead && e.open {
				e.port.hear(e, message)
			}
		}))
		return
	}
	if e.port != i {
		e.port.hear(e, message)
		return
	}
	i.forget()
	if i.refuses(message) {
		e.port = (*deaf)(nil)
		e.send(&smr.Reject{Code: smr.RejectForeign}, 64)
		e.close()
		return
	}
	switch hello := message.(type) {
	case *smr.SlaveHello:
		r.lastConn++
		l := &link{r: r, id: r.lastConn, end: e, slave: hello.Node}
		for _, other := range r.links {
			if other.slave == hello.Node {
				r.w.hit(probeTwoConnections)
			}
		}
		e.port = l
		r.control = append(r.control, item{link: l, input: &replica.PeerHello{Conn: l.id, Hello: *hello}})
		r.wake()
	case *smr.ClientHello:
		r.admitClient(e)
	case *smr.LocalHello:
		r.attach(e, hello)
	default:
		r.w.violate("the protocol is broken", "%T begins a connection to %s", message, r.h.id)
	}
}

// refuses reports whether somebody is at the wrong door.
func (i *inbound) refuses(message any) bool {
	w := i.r.w
	switch hello := message.(type) {
	case *smr.SlaveHello:
		return w.isForeign(hello.Handshake, "")
	case *smr.ClientHello:
		return w.isForeign(hello.Handshake, "")
	case *smr.LocalHello:
		return w.isForeign(hello.Handshake, i.r.h.id)
	}
	return false
}

// hear takes messages of a slave, or of the master.
func (l *link) hear(_ *end, message any) {
	r := l.r
	in := item{link: l}
	up := true
	switch m := message.(type) {
	case *smr.Ack:
		ack := takeSpare(&r.spare.acks)
		*ack = replica.PeerAck{Conn: l.id, Ack: *m}
		in.input, up = ack, false
	case *smr.SlaveStart:
		in.input, up = &replica.PeerStart{Conn: l.id, Start: *m}, false
	case *smr.MasterHello:
		if l.greeted || m.Node != l.master {
			r.w.violate("the protocol is broken", "hello of %s on the connection to %s", m.Node, l.master)
		}
		if r.w.isForeign(m.Handshake, l.master) {
			r.lose(l)
			return
		}
		l.greeted = true
		in.input = &replica.MasterHello{Conn: l.id, Hello: *m}
	case *smr.Append:
		received := takeSpare(&r.spare.received)
		*received = replica.Received{Conn: l.id, Append: *m}
		in.input = received
	case *smr.Heartbeat:
		beat := takeSpare(&r.spare.beats)
		*beat = replica.Beat{Conn: l.id, Heartbeat: *m}
		in.input = beat
	case *smr.Reject:
		in.input = &replica.Rejected{Conn: l.id, Reject: *m}
	default:
		r.w.violate("the protocol is broken", "%T between replicators", message)
	}
	if up != (l.master != "") {
		r.w.violate("the protocol is broken", "%T in the wrong direction at %s", message, r.h.id)
	}
	if up {
		r.upstream = append(r.upstream, in)
	} else {
		r.control = append(r.control, in)
	}
	r.wake()
}

func (l *link) gone(*end) { l.r.down(l) }

// Dials are doubled from minDialPause to maxDialPause apart; a connection that lasted goodConnection resets that.
const (
	minDialPause   = 5 * millisecond
	maxDialPause   = 200 * millisecond
	goodConnection = second
	dialPatience   = second
)

// dial follows the core's order to connect to a master.
func (r *replicator) dial(master smr.NodeID) {
	if master != r.dialMaster {
		r.dialMaster, r.dialPause = master, 0
	}
	r.dialTo = master
	r.dialOrder++
	r.dialAgain(r.dialOrder)
}

func (r *replicator) dialAgain(order uint64) {
	r.w.after(r.dialPause+between(r.w.draw.network, 1, 100), later(func() { r.dialNow(order) }), 2)
	r.dialPause = min(max(minDialPause, 2*r.dialPause), maxDialPause)
}

func (r *replicator) dialNow(order uint64) {
	if r.dead || order != r.dialOrder || r.dialTo == "" {
		return
	}
	if r.paused {
		r.stalled = append(r.stalled, later(func() { r.dialNow(order) }))
		return
	}
	master := r.dialTo
	began := r.w.now
	r.w.dial(r.h.place, master, false, func(e *end) {
		switch {
		case r.dead || order != r.dialOrder:
			if e != nil {
				e.alive, e.port = &r.alive, (*deaf)(nil)
				e.close()
			}
		case e == nil:
			r.dialAgain(order)
		default:
			if r.w.now-began >= goodConnection {
				r.dialPause = 0
			}
			r.lastConn++
			l := &link{r: r, id: r.lastConn, end: e, master: master}
			e.port, e.alive = l, &r.alive
			r.dialOrder++ // the core orders the next one
			r.upstream = append(r.upstream, item{link: l, input: &replica.Connected{Conn: l.id}})
			r.wake()
		}
	})
}

// deaf is the port of a connection that nobody wants.
type deaf struct{}

func (*deaf) hear(*end, any) {}
func (*deaf) gone(*end)      {}

// dial connects to a replicator's data port, or its unix socket; done gets nil if that does not succeed.
func (w *world) dial(from int, to smr.NodeID, local bool, done func(*end)) {
	target := w.host(to)
	if target == nil || w.net.isCut(from, target.place) || w.net.isCut(target.place, from) || w.net.lost[target.place] {
		w.after(dialPatience, later(func() { done(nil) }), 3)
		return
	}
	place := target.place
	if !local {
		target = target.astray()
	}
	w.after(w.net.delay(from, place), later(func() {
		back := w.net.delay(place, from)
		r := target.replicator
		if r == nil || target.w.net.lost[target.place] {
			w.after(back, later(func() { done(nil) }), 4)
			return
		}
		near, far := w.net.connect(from, place)
		r.accept(far, local)
		near.alive, near.port = new(bool), (*deaf)(nil)
		w.after(back, later(func() {
			if !near.open {
				done(nil)
				return
			}
			done(near)
		}), 5)
	}), 6)
}

func (w *world) host(id smr.NodeID) *host {
	for _, h := range w.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}

// client is a connection of a KV node to a replicator that leads.
type client struct {
	r       *replicator
	id      replica.ClientID
	end     *end
	dropped bool
	asking  bool
	next    uint64
}

// proposed stands for a batch in an item.
type proposed struct {
	replica.Input
	batch *smr.Propose
}

func (r *replicator) admitClient(e *end) {
	if !r.status.Leading {
		e.port = (*deaf)(nil)
		e.send(&smr.Reject{Code: smr.RejectNotMaster, Epoch: r.status.Epoch}, 64)
		e.close()
		return
	}
	r.lastClient++
	c := &client{r: r, id: r.lastClient, end: e}
	e.port = c
	r.clients = append(r.clients, c)
	e.send(&smr.ClientWelcome{Handshake: r.w.handshake(r.h.id), Epoch: r.status.Epoch}, 64)
}

func (c *client) hear(_ *end, message any) {
	r := c.r
	switch m := message.(type) {
	case *smr.Propose:
		r.proposals = append(r.proposals, item{client: c, input: &proposed{batch: m}})
	case *smr.ReadIndex:
		r.control = append(r.control, item{client: c, input: &replica.ReadIndex{Client: c.id, ID: m.ID}})
	case *smr.CountCopies:
		r.control = append(r.control, item{client: c, count: m})
	default:
		r.w.violate("the protocol is broken", "%T from a client", message)
	}
	r.wake()
}

func (c *client) gone(*end) {
	r := c.r
	c.dropped = true
	for i, known := range r.clients {
		if known == c {
			r.clients = append(r.clients[:i], r.clients[i+1:]...)
			break
		}
	}
	r.control = append(r.control, item{input: &replica.ClientDown{Client: c.id}})
	r.wake()
}

// asks reports whether a question is to be passed to the core now: one of a connection at a time.
func (c *client) asks(id uint64) bool {
	if c.asking {
		c.next = max(c.next, id)
		return false
	}
	c.asking = true
	return true
}

// answered returns the question to be passed on next, 0 if there is none.
func (c *client) answered(id uint64) uint64 {
	next := c.next
	c.asking, c.next = false, 0
	if next > id {
		return next
	}
	return 0
}

// attach makes a KV node the one that is served; an older one is sent away.
func (r *replicator) attach(e *end, hello *smr.LocalHello) {
	if r.local != nil {
		r.local.close()
		r.control = append(r.control, item{input: &replica.Detached{}})
	}
	r.local = e
	e.port = (*localPort)(r)
	r.kvHeard = r.w.now
	r.control = append(r.control, item{input: &replica.Attached{Applied: hello.Applied, Checkpoint: hello.Checkpoint}})
	e.send(&smr.LocalWelcome{Handshake: r.w.handshake(r.h.id), Incarnation: r.home.saved.Incarnation, LogDir: dirLog}, 64)
	r.localTold, r.told = smr.Status{}, nil
	r.tellKV()
	r.wake()
}

// localPort serves the KV node beside a replicator.
type localPort replicator

func (p *localPort) hear(e *end, message any) {
	r := (*replicator)(p)
	var input replica.Input
	switch m := message.(type) {
	case *smr.Progress:
		input = &replica.Progress{Applied: m.Applied, Checkpoint: r.archiver.hold(m.Checkpoint)}
	case *smr.LocalBase:
		base, err := log.ParseBase(m.Base)
		if err != nil || base.Cluster != r.w.cluster || base.Group != groupName {
			r.w.violate("a KV node brings a base that does not check", "%s: %v", r.h.id, err)
		}
		input = &replica.ImageLoaded{LSN: base.LSN, History: base.History, Stamp: base.Stamp, Base: m.Base}
	default:
		r.w.violate("the protocol is broken", "%T from a KV node", message)
	}
	if e == r.local {
		r.kvHeard = r.w.now
		r.control = append(r.control, item{input: input})
		r.wake()
	}
}

func (p *localPort) gone(e *end) {
	r := (*replicator)(p)
	if e == r.local {
		r.local = nil
		r.control = append(r.control, item{input: &replica.Detached{}})
		r.wake()
	}
}

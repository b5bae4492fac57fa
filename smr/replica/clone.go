package replica

import (
	"cmp"
	"encoding/binary"
	"slices"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// Clone returns a replica in the same state that shares nothing with r which either of them ever changes. It is for tools
// that try several continuations of one state (internal/explore). What both may share are bytes and configurations, which
// a core replaces but never changes.
func (r *Replica) Clone() *Replica {
	c := *r
	c.o.History = r.o.History.Clone()
	c.o.Config = r.o.Config.Clone()
	c.history = r.history.Clone()
	c.held = slices.Clone(r.held)
	c.cfg, c.base = r.cfg.Clone(), r.base.Clone()
	c.fence.waiting = slices.Clone(r.fence.waiting)
	c.fence.answer.History = r.fence.answer.History.Clone()
	c.follow.stream.history = r.follow.stream.history.Clone()
	c.trim.marks = slices.Clone(r.trim.marks)
	c.lead.peers = slices.Clone(r.lead.peers)
	c.lead.active = slices.Clone(r.lead.active)
	c.lead.asked = slices.Clone(r.lead.asked)
	c.lead.asks.at = slices.Clone(r.lead.asks.at)
	return &c
}

// Naming tells AppendState how to write what only names things, so that states which differ by names alone can be written
// alike. Node must keep distinct nodes apart, Conn distinct connections; Incarnation is asked with its node.
type Naming struct {
	Node        func(smr.NodeID) uint64
	Incarnation func(smr.Member) uint64
	Conn        func(ConnID) uint64
	// Still: no Tick will ever come, so that what only ticks look at (kind, commit LSN and time of the last frame) is left out.
	Still bool
}

// AppendState appends all of the state that what r will do depends on: two replicas with the same encoding answer the same
// inputs alike, for ever. It is for fingerprints, not for storing. Left out, because nothing but names or times depends on it:
//
//   - options, which never change, and Life: the caller knows them;
//   - order ids of answers that are held, and answers without content: they say who is told, not what is done;
//   - tickets that are done; the others count from the last one that is done, so that the length of the past does not show;
//   - what belongs to a mode that the replica is not in: cfg, base and lead of one that does not lead (its connections only
//     wait to be hung up), follow of one that does not follow, fence of one that is not fenced;
//   - ticks themselves: of the past only the distance to now counts.
func (r *Replica) AppendState(b []byte, names Naming) []byte {
	e := encoder{b: b, names: names, r: r}
	e.facts(r.blank, r.attached)
	e.numbers(uint64(r.mode), uint64(r.promise), uint64(r.start), uint64(r.end), uint64(r.durable), uint64(r.commit))
	e.history(r.history)
	e.numbers(uint64(r.lastStamp), uint64(r.stampFloor), uint64(r.now), uint64(r.clock), min(r.ticks, r.o.LeaseHold+leaseSlack))
	e.grant(&r.grant)
	e.trim(&r.trim)
	e.numbers(uint64(r.applied), uint64(r.checkpoint), r.ticket-r.done, e.ticket(r.rewind.ticket))
	if r.rewind.ticket > r.done {
		e.numbers(uint64(r.rewind.to))
	}
	for _, h := range r.held {
		if h.kind != heldReply {
			e.numbers(1, e.ticket(h.ticket), uint64(h.kind), e.conn(h.conn))
		}
	}
	e.numbers(0)
	switch r.mode {
	case modeFenced:
		e.fence(&r.fence)
	case modeMaster:
		e.config(r.cfg)
		e.config(r.base)
		e.lead(&r.lead)
	case modeSlave:
		e.follow(&r.follow)
	}
	if mutant.On(mutant.AcksOutliveReign) && r.mode != modeMaster {
		e.lead(&r.lead)
	}
	return e.b
}

type encoder struct {
	b     []byte
	names Naming
	r     *Replica
}

func (e *encoder) numbers(all ...uint64) {
	for _, n := range all {
		e.b = binary.AppendUvarint(e.b, n)
	}
}

func (e *encoder) facts(all ...bool) {
	for _, fact := range all {
		n := byte(0)
		if fact {
			n = 1
		}
		e.b = append(e.b, n)
	}
}

func (e *encoder) ticket(ticket uint64) uint64 {
	if ticket <= e.r.done {
		return 0
	}
	return ticket - e.r.done
}

// age of a tick: what happened then is looked at as so long ago.
func (e *encoder) age(tick uint64) uint64 { return e.r.ticks - tick }

func (e *encoder) conn(conn ConnID) uint64 {
	if conn == 0 {
		return 0
	}
	return 1 + e.names.Conn(conn)
}

func (e *encoder) history(h smr.History) {
	e.numbers(uint64(len(h)))
	for _, span := range h {
		e.numbers(uint64(span.Epoch), uint64(span.From))
	}
}

// member stands for (name, incarnation).
type member struct{ node, incarnation uint64 }

func (e *encoder) member(m smr.Member) member {
	return member{e.names.Node(m.Node), e.names.Incarnation(m)}
}

func (e *encoder) config(c smr.Config) {
	e.numbers(uint64(c.Epoch))
	if c.Epoch == 0 {
		return
	}
	e.numbers(uint64(c.Reign), e.names.Node(c.Master), uint64(c.Copies), uint64(len(c.Members)))
	var room [smr.MaxMembers]member
	members := room[:0]
	for _, m := range c.Members {
		members = append(members, e.member(m))
	}
	slices.SortFunc(members, func(x, y member) int { return cmp.Compare(x.node, y.node) })
	for _, m := range members {
		e.numbers(m.node, m.incarnation)
	}
}

func (e *encoder) fence(f *fence) {
	e.numbers(uint64(f.epoch))
	e.facts(f.ready, len(f.waiting) > 0)
	if !f.ready {
		return
	}
	a := &f.answer
	e.numbers(uint64(a.Epoch), uint64(a.Position.Epoch), uint64(a.Position.End), uint64(a.Commit), uint64(a.Applied))
	e.history(a.History)
}

func (e *encoder) lead(l *lead) {
	e.numbers(uint64(l.reignStart), uint64(l.cfgStart))
	order := make([]int, len(l.peers))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		return cmp.Compare(e.names.Node(l.peers[i].member.Node), e.names.Node(l.peers[j].member.Node))
	})
	e.numbers(uint64(len(order)))
	for _, i := range order {
		p := &l.peers[i]
		m := e.member(p.member)
		e.facts(p.streams)
		e.numbers(m.node, m.incarnation, e.conn(p.conn), uint64(p.durable), p.round, uint64(p.leased))
		if p.conn != 0 {
			e.numbers(e.age(p.heard))
		}
	}
	if !e.names.Still {
		e.numbers(uint64(l.lastKind), uint64(l.lastCommit), e.age(l.lastFrame), e.age(l.lastBeat), e.age(l.lastUse))
	}
	e.numbers(l.round, l.activeRound, uint64(l.activeIndex), uint64(len(l.asks.at)))
	if len(l.asks.at) > 0 {
		e.numbers(e.age(l.asks.last))
	}
	for _, at := range l.asks.at {
		e.numbers(uint64(at))
	}
	for _, reads := range [][]read{l.active, l.asked} {
		e.numbers(uint64(len(reads)))
		for _, q := range reads {
			e.numbers(uint64(q.client), q.id)
		}
	}
}

// grant of a lease: only how long it still runs counts.
func (e *encoder) grant(g *grant) {
	left := uint64(0)
	if g.until > e.r.ticks {
		left = g.until - e.r.ticks
	}
	e.numbers(left, g.recorded, g.wanted, e.ticket(g.ticket))
}

func (e *encoder) trim(t *trim) {
	e.numbers(uint64(t.floor), uint64(len(t.marks)))
	for _, m := range t.marks {
		e.numbers(e.age(m.tick), uint64(m.end))
	}
}

func (e *encoder) follow(f *follow) {
	e.numbers(e.names.Node(f.master), uint64(f.state), e.ticket(f.ticket), e.conn(f.conn), e.age(f.acked), f.round, f.leased)
	if f.conn != 0 {
		e.numbers(e.age(f.heard))
	}
	e.facts(f.writable, f.needImage)
	e.numbers(uint64(f.imageFrom))
	if f.needImage {
		e.numbers(uint64(f.stream.epoch), uint64(f.stream.end))
		e.history(f.stream.history)
	}
}

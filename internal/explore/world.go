package explore

import (
	"encoding/binary"
	"fmt"

	"lockstep/smr"
)

// maxLate bounds the messages to masters that are under way (Scope.SlowMaster).
const maxLate = 6

// world is one state of everything. It holds no pointers and is compared, copied and stored as it is.
type world struct {
	nodes [maxNodes]nodeID
	conns [maxNodes]conn // by slave: the connection of its last hello
	late  [maxLate]letter
	lates uint8

	state   stateID
	truth   logID // the committed bytes, as first committed anywhere: nothing may ever contradict them
	plans   [maxPlans]plan
	answers [maxNodes]answer // to the election that waits for a choice

	crashes, wipes, reconfigurations, cuts uint8 // left
}

// conn is a slave's connection to a master. The slave's end closes when it has hung up; what the master sent before its own end
// closed stays deliverable.
type conn struct {
	on       bool // the slave's end is open
	up       bool // the master's end is open
	feeding  bool // what the master appends goes out on it
	hello    bool // the master's answer to the hello is under way
	early    bool // a heartbeat was sent before the stream began
	master   uint8
	slot     uint8
	helloEra uint8 // epoch of the hello under way
	epoch    uint8 // label of the stream
	commit   uint32
	helloLog logID // the master's log as of the hello
	log      logID // all that the master has sent
}

// letter is a message to a master that is under way.
type letter struct {
	conn, master, wipes, epoch uint8
	kind                       inputKind
	lsn                        uint32
}

// plan is what was decided for one epoch. The orders that follow from it can be delivered at any time, any number of times.
type plan struct {
	election    bool
	chosen      bool // or given out, if it is a reconfiguration
	stale       bool // the chosen process has ended since
	reported    bool // its master has been seen to hold it durably on enough replicas
	established bool
	led         bool // somebody has led this reign
	master      uint8
	wipes       uint8 // incarnation of the chosen
	config      configID
	base        configID
}

// answer to a fence.
type answer struct {
	given, stale bool
	wipes        uint8
	log          logID
}

func (w *world) plan(epoch smr.Epoch) *plan { return &w.plans[epoch-firstEpoch] }

func (x *explorer) node(w *world, i int) *node { return x.nodes[w.nodes[i]] }

// deliver gives one input to a replica and carries its effects into the world. It returns whether anything happened.
func (x *explorer) deliver(w *world, i int, in input) bool {
	r := x.step(w.nodes[i], in)
	if r == nil || x.fault != "" {
		return false
	}
	if r.fault != "" {
		x.fault = r.fault
		return true
	}
	w.nodes[i] = r.next
	if r.answers {
		x.noteAnswer(w, i)
	}
	for _, conn := range r.feeds {
		if c := &w.conns[slaveOf(conn)]; c.matches(conn, i) {
			c.feeding, c.early = true, false
		}
	}
	x.refresh(w, i)
	for _, m := range r.sends {
		x.send(w, i, m)
	}
	for _, conn := range r.hangups {
		x.hangup(w, i, conn)
	}
	x.refresh(w, i)
	return true
}

// matches reports whether c is the connection conn and its master's end, at node i, is open.
func (c *conn) matches(conn uint8, i int) bool {
	return c.on && c.up && int(c.master) == i && int(c.slot) == slotOf(conn)
}

// refresh follows what a replica does as a master: what it appended goes out, and when it leads no longer nothing does.
func (x *explorer) refresh(w *world, i int) {
	n := x.node(w, i)
	for s := range x.scope.Replicas {
		c := &w.conns[s]
		if !c.on || int(c.master) != i {
			continue
		}
		if !n.status.leading {
			c.up, c.feeding = false, false
			continue
		}
		if c.feeding && c.up {
			c.log, c.epoch = n.log, uint8(n.status.epoch)
			if x.scope.SlaveCommit {
				c.commit = uint32(n.status.commit)
			}
		}
	}
	if !n.status.leading {
		w.dropLetters(func(l *letter) bool { return int(l.master) == i })
		return
	}
	x.noteCommit(w, i)
	if e := n.status.report; e != 0 && e >= firstEpoch {
		w.plan(e).reported = true
	}
}

func (w *world) dropLetters(drop func(*letter) bool) {
	kept := uint8(0)
	for k := range w.lates {
		if !drop(&w.late[k]) {
			w.late[kept] = w.late[k]
			kept++
		}
	}
	for k := kept; k < w.lates; k++ {
		w.late[k] = letter{}
	}
	w.lates = kept
}

// send puts a message on its way, or delivers it at once.
func (x *explorer) send(w *world, i int, m message) {
	slave := slaveOf(m.conn)
	c := &w.conns[slave]
	if !c.on || int(c.slot) != slotOf(m.conn) {
		return
	}
	if slave == i {
		if c.up {
			x.post(w, letter{conn: m.conn, master: c.master, wipes: m.wipes, epoch: uint8(m.epoch), kind: m.kind, lsn: uint32(m.lsn)})
		}
		return
	}
	if int(c.master) != i {
		return
	}
	switch m.kind {
	case inMasterHello:
		c.hello, c.helloEra, c.helloLog = true, uint8(m.epoch), m.log
		if !x.scope.SlowHello {
			x.takeHello(w, slave)
		}
	case inBeat:
		if !c.feeding && x.scope.SlaveCommit {
			c.early, c.commit = true, uint32(m.lsn)
		}
	case inRejected:
		x.deliver(w, slave, input{kind: inRejected, conn: m.conn, epoch: m.epoch})
	}
}

// post sends a slave's message to its master.
func (x *explorer) post(w *world, l letter) {
	if !x.scope.SlowMaster {
		x.open(w, l)
		return
	}
	if int(w.lates) == maxLate {
		x.overflows++ // that connection breaks, with all that was under way to the master
		if c := &w.conns[slaveOf(l.conn)]; c.on && connOf(slaveOf(l.conn), int(c.slot)) == l.conn {
			c.up, c.feeding = false, false
		}
		w.dropLetters(func(other *letter) bool { return other.conn == l.conn })
		l.kind = inConnDown
		x.open(w, l)
		return
	}
	w.late[w.lates] = l
	w.lates++
}

// open delivers a message to a master.
func (x *explorer) open(w *world, l letter) {
	x.deliver(w, int(l.master), input{kind: l.kind, conn: l.conn, peer: uint8(slaveOf(l.conn)), wipes: l.wipes,
		epoch: smr.Epoch(l.epoch), lsn: smr.LSN(l.lsn)})
}

// hangup closes one end of a connection.
func (x *explorer) hangup(w *world, i int, conn uint8) {
	slave := slaveOf(conn)
	c := &w.conns[slave]
	if slave != i {
		if c.matches(conn, i) {
			c.up, c.feeding = false, false
		}
		w.dropLetters(func(l *letter) bool { return l.conn == conn && int(l.master) == i })
		return
	}
	if c.on && int(c.slot) == slotOf(conn) {
		x.closeSlave(w, slave)
	}
}

// closeSlave ends the slave's end: nothing more arrives there. The master notices, once it has what was sent before.
func (x *explorer) closeSlave(w *world, slave int) {
	c := w.conns[slave]
	w.conns[slave] = conn{}
	if c.on && c.up {
		x.post(w, letter{conn: connOf(slave, int(c.slot)), master: c.master, kind: inConnDown})
	}
}

// freeSlot returns a slot that no replica and no message knows.
func (x *explorer) freeSlot(w *world, slave int) (uint8, bool) {
next:
	for slot := range 7 {
		id := connOf(slave, slot)
		for k := range w.lates {
			if w.late[k].conn == id {
				continue next
			}
		}
		return uint8(slot), true
	}
	return 0, false
}

// connect lets a slave's dial succeed.
func (x *explorer) connect(w *world, slave int) bool {
	n := x.node(w, slave)
	if n.dial < 0 || w.conns[slave].on || !x.node(w, int(n.dial)).status.leading {
		return false
	}
	slot, ok := x.freeSlot(w, slave)
	if !ok {
		return false
	}
	w.conns[slave] = conn{on: true, up: true, master: uint8(n.dial), slot: slot}
	return x.deliver(w, slave, input{kind: inConnected, conn: connOf(slave, int(slot))})
}

func (x *explorer) takeHello(w *world, slave int) bool {
	c := &w.conns[slave]
	if !c.on || !c.hello {
		return false
	}
	c.hello = false
	in := input{kind: inMasterHello, conn: connOf(slave, int(c.slot)), peer: c.master, epoch: smr.Epoch(c.helloEra), log: c.helloLog}
	c.helloEra, c.helloLog = 0, 0
	return x.deliver(w, slave, in)
}

// receive gives a slave the next frame of its stream.
func (x *explorer) receive(w *world, slave int) bool {
	c := &w.conns[slave]
	if !c.on || c.log == 0 {
		return false
	}
	next, ok := x.logs.next(c.log, x.logs.at(x.node(w, slave).log).end)
	if !ok || x.logs.at(next).frames > x.scope.Frames {
		return false
	}
	return x.deliver(w, slave, input{kind: inReceived, conn: connOf(slave, int(c.slot)), epoch: smr.Epoch(c.epoch), lsn: smr.LSN(c.commit), log: next})
}

// beat gives a slave the commit LSN of its connection.
func (x *explorer) beat(w *world, slave int) bool {
	c := &w.conns[slave]
	if !c.on || c.commit == 0 || !c.early && c.log == 0 {
		return false
	}
	return x.deliver(w, slave, input{kind: inBeat, conn: connOf(slave, int(c.slot)), epoch: smr.Epoch(c.epoch), lsn: smr.LSN(c.commit)})
}

// cut breaks a slave's connection.
func (x *explorer) cut(w *world, slave int) bool {
	c := w.conns[slave]
	if !c.on {
		return false
	}
	x.closeSlave(w, slave)
	x.deliver(w, slave, input{kind: inConnDown, conn: connOf(slave, int(c.slot))})
	return true
}

// restart crashes a replica and starts it again from its disk; with inWipe from an empty one.
func (x *explorer) restart(w *world, i int, kind inputKind) {
	x.closeSlave(w, i)
	for s := range x.scope.Replicas {
		if c := &w.conns[s]; c.on && int(c.master) == i {
			c.up, c.feeding = false, false
		}
	}
	w.dropLetters(func(l *letter) bool { return int(l.master) == i })
	w.answers[i].stale = w.answers[i].given
	for k := range w.plans {
		if p := &w.plans[k]; p.election && p.chosen && int(p.master) == i {
			p.stale = true
		}
	}
	x.deliver(w, i, input{kind: kind})
}

// noteAnswer keeps a fence answer, if it is one to the election that waits.
func (x *explorer) noteAnswer(w *world, i int) {
	g := &x.states[w.state].group
	n := x.node(w, i)
	if g.Electing() && n.status.promise == g.Election.Epoch {
		w.answers[i] = answer{given: true, wipes: n.wipes, log: n.log}
	}
}

// noteCommit takes what a master has committed into the truth.
func (x *explorer) noteCommit(w *world, i int) {
	n := x.node(w, i)
	if n.status.commit <= x.logs.at(w.truth).end {
		return
	}
	committed, ok := x.logs.cut(n.log, n.status.commit)
	switch {
	case !ok:
		x.fault = fmt.Sprintf("n%d commits %d, inside a frame", i, n.status.commit)
	case !x.logs.isPrefix(w.truth, committed):
		x.fault = fmt.Sprintf("n%d (epoch %d) commits [%s], but [%s] was committed", i, n.status.epoch, x.logs.words(committed), x.logs.words(w.truth))
	default:
		w.truth = committed
	}
}

// appendWorld and cutWorld store a world in few bytes.
func (x *explorer) appendWorld(b []byte, w *world) []byte {
	u := func(all ...uint64) {
		for _, n := range all {
			b = binary.AppendUvarint(b, n)
		}
	}
	for i := range x.scope.Replicas {
		c, a := &w.conns[i], &w.answers[i]
		u(uint64(w.nodes[i]), bits(c.on, c.up, c.feeding, c.hello, c.early, a.given, a.stale))
		if c.on {
			u(uint64(c.master)<<4|uint64(c.slot), uint64(c.helloEra)<<6|uint64(c.epoch), uint64(c.commit), uint64(c.helloLog), uint64(c.log))
		}
		if a.given {
			u(uint64(a.wipes), uint64(a.log))
		}
	}
	u(uint64(w.state), uint64(w.truth), uint64(w.crashes), uint64(w.wipes), uint64(w.reconfigurations), uint64(w.cuts), uint64(w.lates))
	for k := range w.lates {
		l := &w.late[k]
		u(uint64(l.conn), uint64(l.master), uint64(l.wipes), uint64(l.epoch), uint64(l.kind), uint64(l.lsn))
	}
	for k := range x.scope.Epochs {
		p := &w.plans[k]
		u(bits(p.election, p.chosen, p.stale, p.reported, p.established, p.led))
		if p.chosen {
			u(uint64(p.master)<<4|uint64(p.wipes), uint64(p.config), uint64(p.base))
		}
	}
	return b
}

func (x *explorer) cutWorld(b []byte) (world, []byte) {
	var w world
	u := func() uint64 {
		n, size := binary.Uvarint(b)
		b = b[size:]
		return n
	}
	for i := range x.scope.Replicas {
		c, a := &w.conns[i], &w.answers[i]
		w.nodes[i] = nodeID(u())
		setBits(u(), &c.on, &c.up, &c.feeding, &c.hello, &c.early, &a.given, &a.stale)
		if c.on {
			n := u()
			c.master, c.slot = uint8(n>>4), uint8(n&15)
			n = u()
			c.helloEra, c.epoch = uint8(n>>6), uint8(n&63)
			c.commit, c.helloLog, c.log = uint32(u()), logID(u()), logID(u())
		}
		if a.given {
			a.wipes, a.log = uint8(u()), logID(u())
		}
	}
	w.state, w.truth = stateID(u()), logID(u())
	w.crashes, w.wipes, w.reconfigurations, w.cuts, w.lates = uint8(u()), uint8(u()), uint8(u()), uint8(u()), uint8(u())
	for k := range w.lates {
		l := &w.late[k]
		l.conn, l.master, l.wipes, l.epoch, l.kind, l.lsn = uint8(u()), uint8(u()), uint8(u()), uint8(u()), inputKind(u()), uint32(u())
	}
	for k := range x.scope.Epochs {
		p := &w.plans[k]
		setBits(u(), &p.election, &p.chosen, &p.stale, &p.reported, &p.established, &p.led)
		if p.chosen {
			n := u()
			p.master, p.wipes = uint8(n>>4), uint8(n&15)
			p.config, p.base = configID(u()), configID(u())
		}
	}
	return w, b
}

func bits(all ...bool) uint64 {
	n := uint64(0)
	for i, set := range all {
		n |= fact(set) << i
	}
	return n
}

func setBits(n uint64, all ...*bool) {
	for i, set := range all {
		*set = n>>i&1 == 1
	}
}

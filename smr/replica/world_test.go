package replica

import (
	"bytes"
	"fmt"
	"math/rand/v2"

	"lockstep/smr"
)

// world is a group of replica cores, their disks, the network between them and an oracle in place of the
// configuration master, all driven by one random stream. It is deliberately hostile: any message may be late, any
// order may come twice or never, disks lose what was not synced, elections begin for no reason.
//
// What could go wrong: two histories below a commit LSN, a master without committed bytes, two writers in one epoch, a
// read below an earlier commit, a replica that finds its promise broken. Each is checked after every action.
type world struct {
	rng   *rand.Rand
	nodes []*simNode
	conns []*simConn
	next  uint64 // ids: connections, orders, lives, incarnations, requests

	// truth is the committed prefix as first committed anywhere; nothing may ever contradict it.
	truth   []byte
	writers map[smr.Epoch]string

	cm    oracle
	mail  []mail // management messages under way
	reads []pendingRead

	calm  bool // heal phase: no faults, nothing duplicated
	stats struct{ elections, established, crashes, wipes, rewinds, reconfigs, reads, commits int }
	fault string
}

type simNode struct {
	id   smr.NodeID
	inc  smr.Incarnation
	life smr.Life
	r    *Replica
	out  Effects

	log     []byte // as given out by the core, executed or not
	queue   []DiskOp
	disk    []byte // as executed
	synced  int    // of disk
	promise smr.Epoch
	blank   bool
	ticket  uint64
	checked int // bytes of log compared with truth so far
	leading bool
	dial    *Dial
}

// simConn is a slave connection. Messages under way survive the death of their sender.
type simConn struct {
	id                 ConnID
	slave, master      *simNode
	slaveLife          smr.Life
	masterLife         smr.Life
	toMaster, toSlave  []any
	feed               bool
	next               smr.LSN
	slaveEnd, mastrEnd bool // this side has closed
}

type mail struct {
	deliver func()
	again   bool
}

type pendingRead struct {
	node  *simNode
	life  smr.Life
	id    uint64
	floor int // len(truth) when it was asked
}

// oracle keeps the rules of the configuration master and is otherwise arbitrary.
type oracle struct {
	epoch       smr.Epoch
	established smr.Config
	latest      smr.Config // newest configuration given out in the reign, zero while electing
	electing    smr.Epoch  // 0: none
	answers     []oracleAnswer
}

type oracleAnswer struct {
	node   *simNode
	answer FenceAnswer
}

func newWorld(seed uint64, size, copies int) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7)), writers: map[smr.Epoch]string{}}
	cfg := smr.Config{Epoch: 1, Reign: 1, Copies: copies}
	for i := range size {
		n := &simNode{id: smr.NodeID(fmt.Sprintf("n%d", i)), inc: smr.Incarnation(w.id()), promise: 1}
		w.nodes = append(w.nodes, n)
		cfg.Members = append(cfg.Members, smr.Member{Node: n.id, Incarnation: n.inc})
	}
	cfg.Master = w.nodes[0].id
	w.cm = oracle{epoch: 1, established: cfg}
	for _, n := range w.nodes {
		w.start(n)
	}
	return w
}

func (w *world) id() uint64 { w.next++; return w.next }

func (w *world) fail(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
	}
}

// start boots a node from its disk.
func (w *world) start(n *simNode) {
	n.life = smr.Life(w.id())
	n.queue, n.ticket, n.leading, n.dial = nil, 0, false, nil
	n.synced, n.log = len(n.disk), append([]byte(nil), n.disk...)
	n.checked = 0
	o := Options{Self: smr.Member{Node: n.id, Incarnation: n.inc}, Life: n.life, Blank: n.blank, Promise: n.promise,
		End: smr.LSN(len(n.disk)), HeartbeatTicks: 2, CommitTicks: 3, TimeTicks: 6, DeadTicks: 30}
	for lsn := smr.LSN(0); int(lsn) < len(n.disk); {
		f, err := smr.DecodeFrame(n.disk[lsn:], lsn)
		if err != nil {
			panic(err)
		}
		if f.Kind == smr.KindEpochStart {
			o.History = append(o.History, smr.Span{Epoch: f.Epoch, From: f.LSN})
			o.Config, _, _ = smr.DecodeConfig(f.Body)
		}
		o.Commit, o.Stamp, lsn = max(o.Commit, f.Commit), f.Stamp, f.End()
	}
	n.r = New(o)
	w.step(n, &Attached{})
}

// step feeds one input to a node and carries its effects out into the world.
func (w *world) step(n *simNode, in Input) {
	if n.r == nil {
		return
	}
	n.r.Step(in, &n.out)
	out := n.out
	n.out = Effects{}
	for _, op := range out.Disk {
		switch {
		case op.Append != nil:
			n.log = append(n.log, op.Append...)
		case op.Rewind != nil:
			n.log = n.log[:op.Rewind.To:op.Rewind.To]
			n.checked = min(n.checked, len(n.log))
			w.stats.rewinds++
		}
		if op.Ticket != n.ticket+1 {
			w.fail("ticket %d after %d", op.Ticket, n.ticket)
		}
		n.ticket = op.Ticket
		n.queue = append(n.queue, op)
	}
	for _, s := range out.Send {
		w.send(n, s)
	}
	for _, f := range out.Feed {
		if c := w.conn(f.Conn); c != nil {
			c.feed, c.next = true, f.From
		}
	}
	for _, id := range out.Hangup {
		w.closeSide(n, w.conn(id))
	}
	if out.StopDial {
		n.dial = nil
	}
	if out.Dial != nil {
		n.dial = out.Dial
	}
	for _, reply := range out.Replies {
		w.answered(n, reply)
	}
	for _, ready := range out.Reads {
		w.readAnswered(n, ready)
	}
	for _, e := range out.Events {
		if e.Name == EventBroken {
			w.fail("%s: %s", n.id, e.Text)
		}
	}
	w.check(n)
}

func (w *world) conn(id ConnID) *simConn {
	for _, c := range w.conns {
		if c.id == id {
			return c
		}
	}
	return nil
}

func (w *world) send(n *simNode, s Send) {
	c := w.conn(s.Conn)
	if c == nil {
		return
	}
	if n == c.slave && !c.slaveEnd {
		c.toMaster = append(c.toMaster, copyMessage(s.Message))
	} else if n == c.master && !c.mastrEnd {
		c.toSlave = append(c.toSlave, copyMessage(s.Message))
	}
}

// copyMessage detaches a message: later effects may not change what is under way.
func copyMessage(m any) any {
	switch m := m.(type) {
	case *smr.Heartbeat:
		c := *m
		return &c
	case *smr.Ack:
		c := *m
		return &c
	}
	return m
}

// closeSide ends a node's half: what is on its way to it is gone, what it sent may still arrive.
func (w *world) closeSide(n *simNode, c *simConn) {
	if c == nil {
		return
	}
	if n == c.slave {
		c.slaveEnd, c.toSlave = true, nil
	}
	if n == c.master {
		c.mastrEnd, c.toMaster, c.feed = true, nil, false
	}
}

// check holds a node against the truth.
func (w *world) check(n *simNode) {
	s := n.r.Status()
	if int(s.End) != len(n.log) {
		w.fail("%s: end %d, log has %d", n.id, s.End, len(n.log))
		return
	}
	known := min(int(s.Commit), len(n.log))
	if int(s.Durable) > len(n.log) || s.Safe > s.Commit {
		w.fail("%s: order broken %+v", n.id, s)
	}
	if s.Leading {
		w.checkMaster(n, s)
		if known > len(w.truth) && int(s.Commit) <= len(n.log) {
			w.truth = append(w.truth, n.log[len(w.truth):known]...)
			w.stats.commits++
		}
	}
	n.leading = s.Leading
	if known > len(w.truth) {
		w.fail("%s: commit %d, but only %d was ever committed", n.id, known, len(w.truth))
		return
	}
	if known > n.checked {
		if !bytes.Equal(n.log[n.checked:known], w.truth[n.checked:known]) {
			w.fail("%s (epoch %d): differs from the committed bytes below %d", n.id, s.Epoch, known)
		}
		n.checked = known
	}
}

func (w *world) checkMaster(n *simNode, s Status) {
	writer := fmt.Sprintf("%s life %d", n.id, n.life)
	if other, ok := w.writers[s.Epoch]; ok && other != writer {
		w.fail("epoch %d is written by %s and %s", s.Epoch, other, writer)
	}
	w.writers[s.Epoch] = writer
	if n.leading {
		return
	}
	// An established configuration can be led only by a replica that holds all that was committed before. A reign that
	// was overtaken before it could commit anything may lack what a later one committed: it never commits itself.
	if w.cm.epoch == s.Config.Epoch && !bytes.HasPrefix(n.log, w.truth) {
		w.fail("%s leads epoch %d without the committed bytes: %d of %d", n.id, s.Epoch, len(n.log), len(w.truth))
	}
}

// diskStep executes some queued operations and reports them.
func (w *world) diskStep(n *simNode) {
	if n.r == nil || len(n.queue) == 0 {
		return
	}
	count := 1 + w.rng.IntN(len(n.queue))
	ticket := uint64(0)
	for _, op := range n.queue[:count] {
		n.execute(op)
		ticket = op.Ticket
	}
	n.queue = n.queue[count:]
	n.synced = len(n.disk)
	w.step(n, &DiskDone{Ticket: ticket, Durable: smr.LSN(n.synced)})
}

func (n *simNode) execute(op DiskOp) {
	switch {
	case op.Append != nil:
		n.disk = append(n.disk, op.Append...)
	case op.Save != nil:
		n.promise = max(n.promise, op.Save.Promise)
		n.blank = false
	case op.Rewind != nil:
		n.disk = n.disk[:op.Rewind.To:op.Rewind.To]
		n.synced = min(n.synced, len(n.disk))
	}
}

// crash keeps a random prefix of the operations given out and loses a random part of the bytes never synced.
func (w *world) crash(n *simNode) {
	if n.r == nil {
		return
	}
	w.stats.crashes++
	for _, op := range n.queue[:w.rng.IntN(len(n.queue)+1)] {
		n.execute(op)
	}
	keep := n.synced
	for lsn := 0; lsn < len(n.disk); {
		size, err := smr.PeekFrame(n.disk[lsn:])
		if err != nil {
			panic(err)
		}
		lsn += size
		if lsn > keep && w.rng.IntN(2) == 0 {
			break
		}
		keep = max(keep, lsn)
	}
	n.disk = n.disk[:keep:keep]
	w.down(n)
}

func (w *world) down(n *simNode) {
	n.r, n.out = nil, Effects{}
	for _, c := range w.conns {
		w.closeSide(n, c)
	}
}

// wipe loses a node's disk, if the configurations that count can bear it.
func (w *world) wipe(n *simNode) {
	if w.cm.electing != 0 {
		return // an answer given before might put the lost incarnation into a configuration that cannot bear it
	}
	for _, cfg := range []smr.Config{w.cm.established, w.cm.latest} {
		if cfg.Epoch != 0 && w.lost(cfg, n) > cfg.Copies-1 {
			return
		}
	}
	w.stats.wipes++
	w.down(n)
	n.disk, n.log, n.promise, n.blank = nil, nil, 0, true
	n.inc = smr.Incarnation(w.id())
}

// lost counts the members of cfg whose incarnation is gone, or would be without n.
func (w *world) lost(cfg smr.Config, n *simNode) int {
	lost := 0
	for _, m := range cfg.Members {
		if other := w.node(m.Node); other == n || other.inc != m.Incarnation {
			lost++
		}
	}
	return lost
}

func (w *world) node(id smr.NodeID) *simNode {
	for _, n := range w.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

package replica

import (
	"encoding/binary"
	"flag"
	"fmt"
	"testing"

	"lockstep/smr"
)

var (
	walkSeed  = flag.Uint64("walk.seed", 0, "replay this one seed")
	walkCount = flag.Int("walk.count", 6000, "random schedules to walk")
)

// TestRandomSchedulesKeepThePromise walks random schedules of orders, messages, disk completions, crashes, wipes,
// elections and reconfigurations, then heals the world and demands that a new request commits.
func TestRandomSchedulesKeepThePromise(t *testing.T) {
	if *walkSeed != 0 {
		w := walk(*walkSeed, t.Logf)
		t.Logf("%+v committed %d bytes", w.stats, len(w.truth))
		if w.fault != "" {
			t.Fatalf("seed %d: %s", *walkSeed, w.fault)
		}
		return
	}
	var sum world
	for seed := uint64(1); seed <= uint64(*walkCount); seed++ {
		w := walk(seed, nil)
		if w.fault != "" {
			t.Fatalf("seed %d: %s\nreplay: go test ./smr/replica -run Walk\\|Random -walk.seed=%d -v", seed, w.fault, seed)
		}
		sum.stats.elections += w.stats.elections
		sum.stats.established += w.stats.established
		sum.stats.crashes += w.stats.crashes
		sum.stats.wipes += w.stats.wipes
		sum.stats.rewinds += w.stats.rewinds
		sum.stats.reconfigs += w.stats.reconfigs
		sum.stats.reads += w.stats.reads
		sum.stats.commits += w.stats.commits
	}
	t.Logf("%d schedules: %+v", *walkCount, sum.stats)
	if s := sum.stats; s.established == 0 || s.wipes == 0 || s.rewinds == 0 || s.reconfigs == 0 || s.reads == 0 || s.commits == 0 {
		t.Fatalf("the walk never went where it should: %+v", s)
	}
}

// TestWalkIsDeterministic: the same seed gives the same world, or no seed could be replayed.
func TestWalkIsDeterministic(t *testing.T) {
	for seed := uint64(1); seed <= 50; seed++ {
		a, b := walk(seed, nil), walk(seed, nil)
		if a.next != b.next || string(a.truth) != string(b.truth) || a.stats != b.stats {
			t.Fatalf("seed %d: two runs differ", seed)
		}
	}
}

func walk(seed uint64, logf func(string, ...any)) *world {
	shapes := []struct{ size, copies int }{{3, 2}, {3, 2}, {3, 3}, {2, 2}, {5, 3}, {4, 2}}
	shape := shapes[seed%uint64(len(shapes))]
	w := newWorld(seed, shape.size, shape.copies)
	steps := 200 + w.rng.IntN(600)
	crashy := w.rng.IntN(3) // 0: never, 1: seldom, 2: often
	electing := 5 + w.rng.IntN(60)
	for i := 0; i < steps && w.fault == ""; i++ {
		w.act(crashy, electing)
		if logf != nil && w.fault != "" {
			logf("step %d of %d", i, steps)
		}
	}
	if w.fault == "" {
		w.heal()
	}
	return w
}

// act does one random thing.
func (w *world) act(crashy, electing int) {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	switch p := w.rng.IntN(100); {
	case p < 22:
		w.deliverMail()
	case p < 50:
		w.network()
	case p < 64:
		w.diskStep(n)
	case p < 72:
		w.step(n, &Tick{Stamp: int64(w.next) + int64(w.rng.IntN(50)) - 25})
	case p < 80:
		w.propose(n)
	case p < 84:
		w.ask(n)
	case p < 90:
		w.connect(n)
	case p < 92:
		w.cutConn()
	case p < 96:
		w.configure(electing)
	case n.r == nil:
		w.start(n)
	case crashy == 2 || crashy == 1 && w.rng.IntN(5) == 0:
		if w.rng.IntN(4) == 0 {
			w.wipe(n)
		} else {
			w.crash(n)
		}
	}
}

func (w *world) propose(n *simNode) {
	if n.r == nil || !n.r.Status().Leading {
		return
	}
	id := w.id()
	body := smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: id, Slot: smr.NoSlot, Payload: binary.LittleEndian.AppendUint64(nil, id)})
	w.step(n, &Propose{Batches: []smr.Propose{{Count: 1, Requests: body}}})
}

func (w *world) ask(n *simNode) {
	if n.r == nil || !n.r.Status().Leading {
		return
	}
	id := w.id()
	w.reads = append(w.reads, pendingRead{node: n, life: n.life, id: id, floor: len(w.truth)})
	w.step(n, &ReadIndex{Client: 1, ID: id})
}

func (w *world) readAnswered(n *simNode, ready ReadReady) {
	for i, read := range w.reads {
		if read.node == n && read.life == n.life && read.id == ready.ID {
			if int(ready.LSN) < read.floor {
				w.fail("%s: read at %d, %d was committed when it was asked", n.id, ready.LSN, read.floor)
			}
			w.stats.reads++
			w.reads = append(w.reads[:i], w.reads[i+1:]...)
			return
		}
	}
}

// connect carries out a dial order.
func (w *world) connect(n *simNode) {
	if n.r == nil || n.dial == nil {
		return
	}
	master := w.node(n.dial.Master)
	for _, c := range w.conns {
		if c.slave == n && !c.slaveEnd && c.slaveLife == n.life {
			return // one connection at a time
		}
	}
	if master == nil || master.r == nil {
		return
	}
	c := &simConn{id: ConnID(w.id()), slave: n, master: master, slaveLife: n.life, masterLife: master.life}
	w.conns = append(w.conns, c)
	w.step(n, &Connected{Conn: c.id})
}

func (w *world) cutConn() {
	if len(w.conns) == 0 || w.calm {
		return
	}
	c := w.conns[w.rng.IntN(len(w.conns))]
	if w.rng.IntN(2) == 0 {
		c.toMaster = nil
	}
	if w.rng.IntN(2) == 0 {
		c.toSlave = nil
	}
	w.endSide(c, c.slave)
	if w.rng.IntN(2) == 0 {
		w.endSide(c, c.master)
	}
}

// endSide lets one side notice that the connection is gone.
func (w *world) endSide(c *simConn, n *simNode) {
	mine := n == c.slave && !c.slaveEnd && c.slaveLife == n.life || n == c.master && !c.mastrEnd && c.masterLife == n.life
	w.closeSide(n, c)
	if mine {
		w.step(n, &ConnDown{Conn: c.id})
	}
}

// network delivers one message, feeds some bytes, or lets a side notice that the other has closed.
func (w *world) network() {
	if len(w.conns) == 0 {
		return
	}
	i := w.rng.IntN(len(w.conns))
	c := w.conns[i]
	if c.slaveEnd && c.mastrEnd && len(c.toMaster)+len(c.toSlave) == 0 {
		w.conns = append(w.conns[:i], w.conns[i+1:]...)
		return
	}
	switch w.rng.IntN(3) {
	case 0:
		w.toMaster(c)
	case 1:
		w.toSlave(c)
	case 2:
		w.feed(c)
	}
}

func (w *world) toMaster(c *simConn) {
	n := c.master
	if c.mastrEnd || n.r == nil || n.life != c.masterLife {
		c.mastrEnd, c.toMaster = true, nil
		return
	}
	if len(c.toMaster) == 0 {
		if c.slaveEnd {
			w.endSide(c, n)
		}
		return
	}
	m := c.toMaster[0]
	c.toMaster = c.toMaster[1:]
	switch m := m.(type) {
	case *smr.SlaveHello:
		w.step(n, &PeerHello{Conn: c.id, Hello: *m})
	case *smr.SlaveStart:
		w.step(n, &PeerStart{Conn: c.id, Start: *m})
	case *smr.Ack:
		w.step(n, &PeerAck{Conn: c.id, Ack: *m})
	}
}

func (w *world) toSlave(c *simConn) {
	n := c.slave
	if c.slaveEnd || n.r == nil || n.life != c.slaveLife {
		c.slaveEnd, c.toSlave = true, nil
		return
	}
	if len(c.toSlave) == 0 {
		if c.mastrEnd {
			w.endSide(c, n)
		}
		return
	}
	m := c.toSlave[0]
	c.toSlave = c.toSlave[1:]
	switch m := m.(type) {
	case *smr.MasterHello:
		w.step(n, &MasterHello{Conn: c.id, Hello: *m})
	case *smr.Append:
		w.step(n, &Received{Conn: c.id, Append: *m})
	case *smr.Heartbeat:
		w.step(n, &Beat{Conn: c.id, Heartbeat: *m})
	case *smr.Reject:
		w.step(n, &Rejected{Conn: c.id, Reject: *m})
	}
}

// feed composes the next piece of the stream.
func (w *world) feed(c *simConn) {
	n := c.master
	if !c.feed || c.mastrEnd || n.r == nil || int(c.next) >= len(n.log) {
		return
	}
	end := c.next
	for count := 1 + w.rng.IntN(4); count > 0 && int(end) < len(n.log); count-- {
		size, err := smr.PeekFrame(n.log[end:])
		if err != nil {
			panic(err)
		}
		end += smr.LSN(size)
	}
	c.toSlave = append(c.toSlave, &smr.Append{Epoch: n.r.Epoch(), Commit: n.r.Commit(), From: c.next,
		Frames: append([]byte(nil), n.log[c.next:end]...)})
	c.next = end
}

func (w *world) post(again bool, deliver func()) {
	w.mail = append(w.mail, mail{deliver: deliver, again: again && !w.calm})
}

func (w *world) deliverMail() {
	if len(w.mail) == 0 {
		return
	}
	i := w.rng.IntN(len(w.mail))
	if w.rng.IntN(3) > 0 { // mostly recent mail, sometimes very old
		i = max(0, len(w.mail)-1-w.rng.IntN(4))
	}
	m := w.mail[i]
	if !m.again || w.rng.IntN(3) > 0 {
		w.mail = append(w.mail[:i], w.mail[i+1:]...)
	}
	if w.calm || w.rng.IntN(12) > 0 {
		m.deliver()
	}
}

// configure is the oracle's turn: elections, reconfigurations, reports, orders sent again.
func (w *world) configure(electing int) {
	cm := &w.cm
	switch p := w.rng.IntN(100); {
	case p < electing || cm.latest.Epoch == 0 && cm.electing == 0:
		w.beginElection()
	case p < electing+12 && cm.latest.Epoch != 0:
		w.reconfigure()
	case p < electing+45:
		w.report()
	default:
		w.orderUpkeep()
	}
}

func (w *world) beginElection() {
	cm := &w.cm
	cm.epoch++
	cm.electing, cm.latest, cm.answers = cm.epoch, smr.Config{}, nil
	w.stats.elections++
	for _, n := range w.nodes {
		epoch := cm.epoch
		w.post(true, func() { w.step(n, &Fence{Order: OrderID(w.id()), Epoch: epoch}) })
	}
}

// answered takes replies of replicas; only fence answers matter to the oracle.
func (w *world) answered(n *simNode, reply Reply) {
	if reply.Answer == nil {
		return
	}
	answer := *reply.Answer
	w.post(true, func() { w.takeAnswer(n, answer) })
}

func (w *world) takeAnswer(n *simNode, answer FenceAnswer) {
	cm := &w.cm
	if cm.electing != answer.Epoch || !cm.established.Has(smr.Member{Node: n.id, Incarnation: answer.Incarnation}) {
		return
	}
	for i := range cm.answers {
		if cm.answers[i].node == n {
			cm.answers[i].answer = answer
			w.maybeChoose()
			return
		}
	}
	cm.answers = append(cm.answers, oracleAnswer{node: n, answer: answer})
	w.maybeChoose()
}

func (w *world) maybeChoose() {
	cm := &w.cm
	need := len(cm.established.Members) - cm.established.Copies + 1
	if len(cm.answers) < need || !w.calm && len(cm.answers) < len(w.nodes) && w.rng.IntN(3) == 0 {
		return
	}
	best := cm.answers[0]
	for _, a := range cm.answers[1:] {
		if a.answer.Position.Compare(best.answer.Position) > 0 {
			best = a
		}
	}
	cfg := cm.established.Clone()
	cfg.Epoch, cfg.Reign, cfg.Master = cm.electing, cm.electing, best.node.id
	if !w.calm && w.rng.IntN(4) == 0 { // an election that changes the members too
		cfg.Members = cfg.Members[:0]
		for _, n := range w.nodes {
			for _, a := range cm.answers {
				if a.node == n {
					cfg.Members = append(cfg.Members, smr.Member{Node: n.id, Incarnation: a.answer.Incarnation})
				}
			}
		}
		cfg.Copies = 1 + w.rng.IntN(len(cfg.Members))
	}
	base, chosen := cm.established.Clone(), best
	cm.electing, cm.latest = 0, cfg
	w.post(true, func() {
		w.step(chosen.node, &Lead{Order: OrderID(w.id()), Incarnation: chosen.answer.Incarnation, Life: chosen.answer.Life, Config: cfg, Base: base})
	})
	w.sendFollow()
}

func (w *world) sendFollow() {
	cfg := w.cm.latest
	for _, n := range w.nodes {
		if n.id != cfg.Master {
			w.post(true, func() { w.step(n, &Follow{Order: OrderID(w.id()), Epoch: cfg.Epoch, Master: cfg.Master}) })
		}
	}
}

// reconfigure drops, admits or changes copies under the same master, established or not (S8).
func (w *world) reconfigure() {
	cm := &w.cm
	cfg := cm.latest.Clone()
	cm.epoch++
	cfg.Epoch = cm.epoch
	var members []smr.Member
	for _, n := range w.nodes {
		old, was := cfg.Find(n.id)
		switch {
		case n.id == cfg.Master:
			members = append(members, old)
		case w.rng.IntN(4) == 0: // drop, or leave out
		case was && w.rng.IntN(3) > 0:
			members = append(members, old)
		default:
			members = append(members, smr.Member{Node: n.id, Incarnation: n.inc}) // admit, perhaps under a new incarnation
		}
	}
	cfg.Members = members
	cfg.Copies = min(len(members), max(1, cfg.Copies+w.rng.IntN(3)-1))
	if w.lost(cfg, nil) > cfg.Copies-1 {
		return // could never be led again
	}
	base := cm.established.Clone()
	cm.latest = cfg
	w.stats.reconfigs++
	w.post(true, func() {
		w.step(w.node(cfg.Master), &Reconfigure{Order: OrderID(w.id()), Config: cfg, Base: base})
	})
}

// report carries what a master can report to the oracle, late (S6).
func (w *world) report() {
	cm := &w.cm
	for _, n := range w.nodes {
		if n.r == nil {
			continue
		}
		if s := n.r.Status(); s.Reportable != 0 {
			cfg := s.Config
			w.post(true, func() {
				if cm.epoch != cfg.Epoch || cm.latest.Epoch != cfg.Epoch || cm.established.Epoch == cfg.Epoch {
					return
				}
				cm.established = cfg
				w.stats.established++
				w.post(true, func() { w.step(w.node(cfg.Master), &Established{Order: OrderID(w.id()), Config: cfg}) })
			})
		}
	}
}

func (w *world) orderUpkeep() {
	cm := &w.cm
	for _, n := range w.nodes {
		if n.r != nil && n.r.Status().Blank {
			epoch := cm.epoch
			w.post(true, func() { w.step(n, &Learn{Order: OrderID(w.id()), Epoch: epoch}) })
		}
	}
	if cm.latest.Epoch != 0 {
		w.sendFollow()
	}
}

// heal stops all faults, starts everything and demands that a new request commits everywhere.
func (w *world) heal() {
	w.calm = true
	w.mail = nil
	for _, n := range w.nodes {
		if n.r == nil {
			w.start(n)
		}
	}
	w.orderUpkeep()
	w.beginElection()
	goal := 0
	for round := range 4000 {
		for _, n := range w.nodes {
			w.step(n, &Tick{Stamp: int64(w.next)})
			w.connect(n)
			w.diskStep(n)
		}
		for range 8 {
			w.deliverMail()
			w.network()
			w.network()
			w.network()
		}
		switch {
		case w.fault != "":
			return
		case round%10 == 0:
			w.report()
		case round%100 == 99 && w.cm.electing != 0:
			w.beginElection() // somebody was blank when the fence came
		case round%25 == 1:
			w.orderUpkeep()
		}
		if round%200 == 199 && goal == 0 && w.cm.latest.Epoch != 0 {
			w.replaceWiped()
		}
		if goal == 0 && w.cm.latest.Epoch != 0 && w.cm.latest.Epoch == w.cm.established.Epoch {
			w.propose(w.node(w.cm.latest.Master))
			goal = len(w.node(w.cm.latest.Master).log)
		}
		if goal > 0 && w.converged(goal) {
			return
		}
	}
	text := ""
	for _, n := range w.nodes {
		s := n.r.Status()
		text += fmt.Sprintf("\n%s inc %d: %s epoch %d promise %d master %s end %d durable %d commit %d blank %v joined %v writable %v",
			n.id, n.inc, s.Role, s.Epoch, s.Promise, s.Master, s.End, s.Durable, s.Commit, s.Blank, s.Joined, s.Writable)
	}
	w.fail("does not converge: goal %d cm %+v%s", goal, w.cm, text)
}

// replaceWiped puts the incarnations that live now on record (S8): wiped members do not come back otherwise.
func (w *world) replaceWiped() {
	cm := &w.cm
	cm.epoch++
	cfg := smr.Config{Epoch: cm.epoch, Reign: cm.latest.Reign, Master: cm.latest.Master, Copies: cm.latest.Copies}
	for _, n := range w.nodes {
		cfg.Members = append(cfg.Members, smr.Member{Node: n.id, Incarnation: n.inc})
	}
	base := cm.established.Clone()
	cm.latest = cfg
	w.post(false, func() {
		w.step(w.node(cfg.Master), &Reconfigure{Order: OrderID(w.id()), Config: cfg, Base: base})
	})
}

func (w *world) converged(goal int) bool {
	for _, n := range w.nodes {
		if n.r.Safe() < smr.LSN(goal) {
			return false
		}
	}
	return true
}

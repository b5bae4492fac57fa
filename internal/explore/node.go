package explore

import (
	"fmt"

	"lockstep/smr"
	"lockstep/smr/replica"
)

// nodeID names the state of one replica with its disk. Equal states of one replica have equal ids.
type nodeID uint32

// life is the process life of every replica; otherLife stands for one that has ended. Whether an order names the present life
// is noted beside the order, so that a restart gives no new numbers.
const (
	life      smr.Life = 7
	otherLife smr.Life = 8
)

// node is a replica: the real core, its log and its disk.
type node struct {
	self  int
	wipes uint8 // its incarnation
	core  *replica.Replica

	log   logID // as the core has given it out
	disk  logID // as it would be found after a crash
	saved smr.Epoch
	blank bool // on disk: has learned no epoch
	queue []diskOp
	dial  int8 // whom it dials, -1 nobody

	status summary
	hash   [maxPerms]uint64
}

// summary is what the world looks at of a replica's status.
type summary struct {
	leading, blank  bool
	promise, report smr.Epoch
	reign, epoch    smr.Epoch // of the configuration that it writes in
	base            smr.Epoch
	commit          smr.LSN
}

type opKind uint8

const (
	opAppend opKind = iota
	opSave
	opRewind
)

// diskOp waits to be done.
type diskOp struct {
	kind   opKind
	ticket uint64
	log    logID     // what the log is behind an append or a rewind
	epoch  smr.Epoch // to save
}

// inputKind is one kind of what can happen to a replica.
type inputKind uint8

const (
	inFence inputKind = iota
	inLead
	inFollow
	inReconfigure
	inEstablished
	inLearn
	inConnected
	inMasterHello
	inReceived
	inBeat
	inConnDown
	inRejected
	inPeerHello
	inPeerStart
	inPeerAck
	inDisk
	inPropose
	inRestart
	inWipe
)

// input is one thing that happens to a replica, in numbers, so that it can be a key.
type input struct {
	kind   inputKind
	conn   uint8
	peer   uint8 // replica that is meant
	wipes  uint8 // incarnation that is meant
	stale  bool  // another process life is meant
	epoch  smr.Epoch
	lsn    smr.LSN // commit, start or durable
	log    logID
	config configID
	base   configID
}

type stepKey struct {
	node nodeID
	in   input
}

// message leaves a replica on a connection.
type message struct {
	conn  uint8
	kind  inputKind // what it is to the receiver
	epoch smr.Epoch
	lsn   smr.LSN
	log   logID
	wipes uint8
}

// result is what a step of one replica does.
type result struct {
	next    nodeID
	sends   []message
	feeds   []uint8
	hangups []uint8
	answers bool // a fence answer leaves
	fault   string
}

// step returns what happens to a replica in state id; nil if nothing does. The real core runs once for each state and input.
func (x *explorer) step(id nodeID, in input) *result {
	key := stepKey{id, in}
	if at, ok := x.memo[key]; ok {
		if at < 0 {
			return nil
		}
		return x.results[at]
	}
	x.coreSteps++
	r := x.run(id, in)
	if r.next == id && len(r.sends)+len(r.feeds)+len(r.hangups) == 0 && !r.answers && r.fault == "" {
		x.memo[key] = -1
		return nil
	}
	x.memo[key] = int32(len(x.results))
	x.results = append(x.results, r)
	return r
}

// run carries out a step. An invariant of the core that breaks is a fault.
func (x *explorer) run(id nodeID, in input) (r *result) {
	r = &result{next: id}
	defer func() {
		if broken := recover(); broken != nil {
			r.fault = fmt.Sprintf("%s: %v", x.names.nodes[x.nodes[id].self], broken)
		}
	}()
	old := x.nodes[id]
	n := &node{}
	*n = *old
	n.queue = append([]diskOp(nil), old.queue...)
	switch in.kind {
	case inRestart:
		n.queue = nil
		x.boot(n)
	case inWipe:
		n.queue, n.disk, n.saved, n.blank, n.wipes = nil, 0, 0, true, n.wipes+1
		x.boot(n)
	case inDisk:
		n.core = old.core.Clone()
		x.doDisk(n, r)
	default:
		n.core = old.core.Clone()
		x.feed(n, x.inputOf(in), r)
	}
	x.settle(n, r)
	r.next = x.internNode(n)
	return r
}

// boot starts the process anew from its disk.
func (x *explorer) boot(n *node) {
	n.log, n.dial = n.disk, -1
	l := x.logs.at(n.disk)
	n.core = replica.New(replica.Options{
		Self: x.names.member(n.self, n.wipes), Life: life, Blank: n.blank, Promise: n.saved,
		End: l.end, History: l.history, Commit: l.commit, Config: l.config,
	})
}

// settle does at once what the scope does not let wait.
func (x *explorer) settle(n *node, r *result) {
	for len(n.queue) > 0 && r.fault == "" {
		if n.queue[0].kind != opAppend {
			if x.scope.SlowDisk {
				return
			}
		} else if leading := n.core.Status().Leading; leading && !x.scope.quickSync() || !leading && x.scope.SlowSlaves {
			return
		}
		x.doDisk(n, r)
	}
}

// doDisk does the next disk operation and reports it.
func (x *explorer) doDisk(n *node, r *result) {
	if len(n.queue) == 0 {
		return
	}
	op := n.queue[0]
	n.queue = n.queue[1:]
	switch op.kind {
	case opAppend, opRewind:
		n.disk = op.log
	case opSave:
		n.saved, n.blank = max(n.saved, op.epoch), false
	}
	x.feed(n, &replica.DiskDone{Ticket: op.ticket, Durable: x.logs.at(n.disk).end}, r)
}

// feed gives the core one input and takes its effects.
func (x *explorer) feed(n *node, in replica.Input, r *result) {
	var out replica.Effects
	n.core.Step(in, &out)
	for _, op := range out.Disk {
		x.takeDisk(n, op, r)
	}
	if out.StopDial {
		n.dial = -1
	}
	if out.Dial != nil {
		n.dial = int8(x.names.index(out.Dial.Master))
	}
	for _, send := range out.Send {
		x.takeSend(n, send, r)
	}
	for _, feed := range out.Feed {
		r.feeds = append(r.feeds, uint8(feed.Conn))
	}
	for _, conn := range out.Hangup {
		r.hangups = append(r.hangups, uint8(conn))
	}
	for _, reply := range out.Replies {
		if reply.Answer == nil {
			continue
		}
		r.answers = true
		if reply.Answer.Position != x.logs.position(n.log) {
			r.fault = fmt.Sprintf("%s answers a fence at %v, its log is at %v", x.names.nodes[n.self], reply.Answer.Position, x.logs.position(n.log))
		}
	}
	for _, event := range out.Events {
		if event.Name == replica.EventBroken {
			r.fault = fmt.Sprintf("%s stops: %s", x.names.nodes[n.self], event.Text)
		}
	}
	if end := n.core.Status().End; end != x.logs.at(n.log).end && r.fault == "" {
		r.fault = fmt.Sprintf("%s says that its log ends at %d, it ends at %d", x.names.nodes[n.self], end, x.logs.at(n.log).end)
	}
}

func (x *explorer) takeDisk(n *node, op replica.DiskOp, r *result) {
	switch {
	case op.Append != nil:
		log, err := x.logs.append(n.log, op.Append)
		if err != nil {
			r.fault = fmt.Sprintf("%s appends what is no frame: %v", x.names.nodes[n.self], err)
			return
		}
		n.log = log
		n.queue = append(n.queue, diskOp{kind: opAppend, ticket: op.Ticket, log: log})
	case op.Rewind != nil:
		log, ok := x.logs.cut(n.log, op.Rewind.To)
		if !ok {
			r.fault = fmt.Sprintf("%s cuts its log inside a frame, at %d", x.names.nodes[n.self], op.Rewind.To)
			return
		}
		n.log = log
		n.queue = append(n.queue, diskOp{kind: opRewind, ticket: op.Ticket, log: log})
	case op.Save != nil:
		n.queue = append(n.queue, diskOp{kind: opSave, ticket: op.Ticket, epoch: op.Save.Promise})
	}
}

func (x *explorer) takeSend(n *node, send replica.Send, r *result) {
	m := message{conn: uint8(send.Conn)}
	switch sent := send.Message.(type) {
	case *smr.SlaveHello:
		m.kind, m.epoch, m.wipes = inPeerHello, sent.Epoch, n.wipes
	case *smr.SlaveStart:
		m.kind, m.epoch, m.lsn = inPeerStart, sent.Epoch, sent.From
	case *smr.Ack:
		m.kind, m.epoch, m.lsn = inPeerAck, sent.Epoch, sent.Durable
	case *smr.MasterHello:
		m.kind, m.epoch, m.log = inMasterHello, sent.Epoch, n.log
		if l := x.logs.at(n.log); sent.End != l.end || !equalHistory(sent.History, l.history) {
			r.fault = fmt.Sprintf("%s says hello with end %d and history %v: they are %d and %v", x.names.nodes[n.self], sent.End, sent.History, l.end, l.history)
		}
	case *smr.Heartbeat:
		m.kind, m.epoch, m.lsn = inBeat, sent.Epoch, sent.Commit
	case *smr.Reject:
		m.kind, m.epoch = inRejected, sent.Epoch
	}
	r.sends = append(r.sends, m)
}

func equalHistory(a, b smr.History) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// inputOf turns a key into what the core is given.
func (x *explorer) inputOf(in input) replica.Input {
	conn := replica.ConnID(in.conn)
	lead := replica.Lead{Incarnation: x.names.member(int(in.peer), in.wipes).Incarnation, Life: life}
	if in.stale {
		lead.Life = otherLife
	}
	switch in.kind {
	case inFence:
		return &replica.Fence{Epoch: in.epoch}
	case inLead:
		lead.Config, lead.Base = x.configs.at(in.config), x.configs.at(in.base)
		return &lead
	case inFollow:
		return &replica.Follow{Epoch: in.epoch, Master: x.names.nodes[in.peer]}
	case inReconfigure:
		return &replica.Reconfigure{Config: x.configs.at(in.config), Base: x.configs.at(in.base)}
	case inEstablished:
		return &replica.Established{Config: x.configs.at(in.config)}
	case inLearn:
		return &replica.Learn{Epoch: in.epoch}
	case inConnected:
		return &replica.Connected{Conn: conn}
	case inMasterHello:
		l := x.logs.at(in.log)
		return &replica.MasterHello{Conn: conn, Hello: smr.MasterHello{
			Handshake: smr.Handshake{Node: x.names.nodes[in.peer]}, Epoch: in.epoch, History: l.history, End: l.end}}
	case inReceived:
		l := x.logs.at(in.log)
		return &replica.Received{Conn: conn, Append: smr.Append{Epoch: in.epoch, Commit: in.lsn, From: x.logs.at(l.parent).end, Frames: l.frame}}
	case inBeat:
		return &replica.Beat{Conn: conn, Heartbeat: smr.Heartbeat{Epoch: in.epoch, Commit: in.lsn}}
	case inConnDown:
		return &replica.ConnDown{Conn: conn}
	case inRejected:
		return &replica.Rejected{Conn: conn, Reject: smr.Reject{Code: smr.RejectStaleEpoch, Epoch: in.epoch}}
	case inPeerHello:
		return &replica.PeerHello{Conn: conn, Hello: smr.SlaveHello{Handshake: smr.Handshake{Node: x.names.nodes[in.peer]},
			Epoch: in.epoch, Incarnation: x.names.member(int(in.peer), in.wipes).Incarnation}}
	case inPeerStart:
		return &replica.PeerStart{Conn: conn, Start: smr.SlaveStart{Epoch: in.epoch, From: in.lsn}}
	case inPeerAck:
		return &replica.PeerAck{Conn: conn, Ack: smr.Ack{Epoch: in.epoch, Durable: in.lsn}}
	case inPropose:
		return &replica.Propose{Batches: []smr.Propose{{Count: 1, Requests: x.request(int(in.peer))}}}
	}
	panic(fmt.Sprintf("no input %d", in.kind))
}

// request is what node i appends: as long as an epoch start of the first configuration, so that logs which went different ways
// have frames of equal length at equal places, and errors show that whole frames of other lengths would hide.
func (x *explorer) request(i int) []byte {
	body := len(smr.AppendConfig(nil, x.configs.at(x.first)))
	return smr.AppendRequest(nil, smr.Request{Session: smr.SessionID(i + 1), Sequence: 1, Slot: smr.NoSlot,
		Payload: make([]byte, body-smr.RequestHeaderSize)})
}

// internNode returns the id of the state n.
func (x *explorer) internNode(n *node) nodeID {
	s := n.core.Status()
	n.status = summary{leading: s.Leading, blank: s.Blank, promise: s.Promise, report: s.Reportable, reign: s.Config.Reign,
		epoch: s.Config.Epoch, base: s.Base.Epoch, commit: s.Commit}
	for p := range x.names.perms {
		perm := &x.names.perms[p]
		naming := replica.Naming{
			Still:       true,
			Node:        func(id smr.NodeID) uint64 { return uint64(perm[x.names.index(id)]) },
			Incarnation: func(m smr.Member) uint64 { return uint64(x.names.wipesOf(m)) },
			Conn:        func(c replica.ConnID) uint64 { return uint64(perm[slaveOf(uint8(c))])<<4 | uint64(slotOf(uint8(c))) },
		}
		x.scratch = n.core.AppendState(x.scratch[:0], naming)
		h := mix(hashBytes(x.scratch), x.logs.at(n.log).hash[p])
		h = mix(h, x.logs.at(n.disk).hash[p])
		h = mix(h, uint64(n.saved)<<16|uint64(n.wipes)<<8|uint64(perm[n.self])<<1|fact(n.blank))
		if n.dial >= 0 {
			h = mix(h, 1+uint64(perm[n.dial]))
		}
		for _, op := range n.queue {
			h = mix(h, uint64(op.kind)<<32|uint64(op.epoch))
			h = mix(h, x.logs.at(op.log).hash[p])
		}
		n.hash[p] = mix(h, uint64(len(n.queue)))
	}
	if id, ok := x.nodeIDs[n.hash[0]]; ok {
		return id
	}
	id := nodeID(len(x.nodes))
	x.nodes = append(x.nodes, n)
	x.nodeIDs[n.hash[0]] = id
	return id
}

func fact(holds bool) uint64 {
	if holds {
		return 1
	}
	return 0
}

// Connections are numbered by slave and slot, from 1, so that a replica's state names few of them. A slot is used again when
// nobody knows its connection any more, which no core can tell from a new number.
func connOf(slave, slot int) uint8 { return uint8(slave<<3 | slot + 1) }
func slaveOf(conn uint8) int       { return int(conn) >> 3 }
func slotOf(conn uint8) int        { return int(conn)&7 - 1 }

package replica

import (
	"fmt"
	"slices"

	"lockstep/internal/invariant"
	"lockstep/internal/mutant"
	"lockstep/smr"
)

// mode is what a replica is doing. Role is derived from it for people.
type mode uint8

const (
	// modeIdle: started, has neither promised, led nor followed in this process life.
	modeIdle mode = iota
	// modeFenced: promised fence.epoch in this life; acknowledges nothing of lower epochs.
	modeFenced
	modeMaster
	modeSlave
	// modeStopped: the log contradicts a master's; evidence is kept, nothing is done any more.
	modeStopped
)

// Replica is the core of one replicator. Not safe for concurrent use.
type Replica struct {
	o    Options
	mode mode

	// blank: a new incarnation that has not learned the current epoch (S10).
	blank bool
	// promise is the highest epoch promised. The save of it may still be on its way to the disk: whatever depends on
	// it being durable is held.
	promise smr.Epoch

	// start, end, history and lastStamp describe the log as it will be when all disk operations given out are done.
	start, end smr.LSN
	history    smr.History
	// lastStamp is at least the time of the log's last frame, stampFloor at most: a rewind takes frames away whose
	// times only they knew.
	lastStamp, stampFloor int64
	// durable: below it, bytes of that log survive a crash. Invariant: durable <= end.
	durable smr.LSN
	// commit never decreases as far as it is about bytes of this log. It may exceed end on a slave that lags: what lies above is
	// forgotten with the master that said so.
	commit smr.LSN

	now   int64  // wall clock of the last tick, milliseconds
	clock int64  // Tick.Clock of the last tick, microseconds
	ticks uint64 // since the start

	attached            bool
	applied, checkpoint smr.LSN
	trim                trim

	ticket, done uint64 // last ticket given out, last one reported
	rewind       struct {
		ticket uint64
		to     smr.LSN
	}
	held []held

	// cfg is the newest configuration known: at a master the one it writes in, elsewhere that of the last epoch start in
	// the log (zero if unknown). base is the last established one that a master knows; its rule holds beside cfg's until
	// cfg itself is established (S5).
	cfg, base smr.Config

	fence  fence
	lead   lead
	follow follow
	grant  grant
}

// fence is the state of the answer to the last fence accepted in this process life (S2).
type fence struct {
	epoch   smr.Epoch // 0: none, or the replica has led or followed since
	ready   bool      // the answer has been given out and may be repeated
	waiting []OrderID
	answer  FenceAnswer
}

// held is something that may only be said once a ticket is done.
type held struct {
	ticket uint64
	kind   heldKind
	order  OrderID
	conn   ConnID
}

type heldKind uint8

const (
	heldFence heldKind = iota // release the fence answer
	heldReply                 // answer an order with success
	heldDial                  // dial the master, promise saved
	heldStart                 // ask for the stream, promise saved and rewind done
	heldLearn                 // blank no more
)

// New returns a replica as its process starts. It neither leads nor follows.
func New(o Options) *Replica {
	o.HeartbeatTicks = orDefault(o.HeartbeatTicks, 5)
	o.CommitTicks = orDefault(o.CommitTicks, 20)
	o.TimeTicks = orDefault(o.TimeTicks, 100)
	o.DeadTicks = orDefault(o.DeadTicks, 150)
	invariant.Assert(o.Start <= o.End, "start above end", o.Start, o.End)
	invariant.Assert(o.History.Check() == nil, "history of the log", o.History)
	r := &Replica{
		o: o, blank: o.Blank, promise: o.Promise,
		start: o.Start, end: o.End, durable: o.End, history: o.History.Clone(),
		commit: max(o.Commit, o.Start), lastStamp: o.Stamp, stampFloor: o.Stamp, now: o.Stamp,
		cfg: o.Config.Clone(), grant: grant{recorded: o.LeaseHold},
	}
	// A byte of an epoch is stored only after that epoch was promised; the save of it came first (S7).
	r.promise = max(r.promise, r.position().Epoch)
	return r
}

func orDefault(value, otherwise int) int {
	if value == 0 {
		return otherwise
	}
	return value
}

// Step carries out one input and notes what has to be done in out.
func (r *Replica) Step(in Input, out *Effects) {
	safe := r.Safe()
	switch in := in.(type) {
	case *Tick:
		r.clock = in.Clock
		r.tick(in.Stamp, out)
	case *DiskDone:
		r.diskDone(in, out)
	case *Fence, *Lead, *Follow, *Reconfigure, *Established, *Learn:
		r.order(in, out)
	case *Attached:
		r.attached, r.applied, r.checkpoint = true, in.Applied, in.Checkpoint
	case *Progress:
		r.applied, r.checkpoint = max(r.applied, in.Applied), max(r.checkpoint, in.Checkpoint)
	case *Detached:
		r.attached = false
	case *ImageLoaded:
		r.imageLoaded(in, out)
	case *Propose:
		r.propose(in, out)
	case *ReadIndex:
		r.readIndex(in, out)
	case *ClientDown:
		r.forgetReads(in.Client)
	case *PeerHello:
		r.peerHello(in, out)
	case *PeerStart:
		r.peerStart(in, out)
	case *PeerAck:
		r.peerAck(in, out)
	case *Connected:
		r.connected(in, out)
	case *MasterHello:
		r.masterHello(in, out)
	case *Received:
		r.received(in, out)
	case *Beat:
		r.beat(in, out)
	case *Rejected:
		r.rejected(in, out)
	case *Busy:
		r.busy(in, out)
	case *ConnDown:
		r.connDown(in.Conn, out)
	default:
		invariant.Assert(false, "unknown input", fmt.Sprintf("%T", in))
	}
	if r.durable > r.end {
		invariant.Fail("durable above end", r.durable, r.end)
	}
	if r.Safe() < safe {
		invariant.Fail("safe went back", safe, r.Safe())
	}
}

// Safe returns min(Commit, Durable): what the local KV node may execute (S12). It never decreases in a process life.
func (r *Replica) Safe() smr.LSN {
	if mutant.On(mutant.ExecuteUncommitted) {
		return r.durable
	}
	return min(r.commit, r.durable)
}

// Commit returns the commit LSN, for messages that carry it.
func (r *Replica) Commit() smr.LSN { return r.commit }

// Epoch returns the epoch to label the stream with while feeding slaves: that of the configuration written in. It stays
// after a fence, so that slaves see what was sent before it for what it is.
func (r *Replica) Epoch() smr.Epoch { return r.cfg.Epoch }

func (r *Replica) position() smr.Position { return r.history.PositionOf(r.end) }

func (r *Replica) event(out *Effects, name EventName, lsn smr.LSN, node smr.NodeID, text string) {
	out.Events = append(out.Events, Event{Name: name, Epoch: r.currentEpoch(), LSN: lsn, Node: node, Text: text})
}

// currentEpoch is the epoch this replica works in: of the reign led or followed, else its promise.
func (r *Replica) currentEpoch() smr.Epoch {
	if r.mode == modeMaster {
		return r.cfg.Epoch
	}
	return r.promise
}

// disk gives out one disk operation and returns its ticket.
func (r *Replica) disk(out *Effects, op DiskOp) uint64 {
	r.ticket++
	op.Ticket = r.ticket
	out.Disk = append(out.Disk, op)
	return r.ticket
}

// raisePromise promises epoch, if it is higher, and returns the ticket after which all promises are durable.
func (r *Replica) raisePromise(epoch smr.Epoch, out *Effects) uint64 {
	if epoch > r.promise {
		r.promise = epoch
		if mutant.On(mutant.PromiseUnsaved) {
			return r.ticket
		}
		return r.save(out)
	}
	return r.ticket
}

// save gives out the hard state to be saved.
func (r *Replica) save(out *Effects) uint64 {
	return r.disk(out, DiskOp{Save: &Saved{Promise: r.promise, LeaseHold: max(r.grant.recorded, r.grant.wanted)}})
}

// hold keeps h until its ticket is done.
func (r *Replica) hold(h held, out *Effects) {
	if h.ticket <= r.done {
		r.release(h, out)
		return
	}
	r.held = append(r.held, h)
}

func (r *Replica) diskDone(in *DiskDone, out *Effects) {
	if in.Ticket > r.ticket {
		invariant.Fail("a ticket that was not given out", in.Ticket, r.ticket)
	}
	r.done = max(r.done, in.Ticket)
	durable := in.Durable
	if r.done < r.rewind.ticket {
		durable = min(durable, r.rewind.to) // what lies above is about to be cut
	}
	if durable > r.durable {
		r.durable = durable
		switch r.mode {
		case modeMaster:
			r.advanceCommit(out)
		case modeSlave:
			r.acknowledge(out)
		}
	}
	r.releaseHeld(out)
}

// releaseHeld says what was held for tickets that are done. What that may hold in turn waits behind.
func (r *Replica) releaseHeld(out *Effects) {
	if len(r.held) == 0 {
		return
	}
	all := r.held
	r.held = nil
	ready := make([]held, 0, len(all))
	for _, h := range all {
		if h.ticket <= r.done {
			ready = append(ready, h)
		} else {
			r.held = append(r.held, h)
		}
	}
	for _, h := range ready {
		r.release(h, out)
	}
}

func (r *Replica) release(h held, out *Effects) {
	switch h.kind {
	case heldFence:
		r.releaseFence(out)
	case heldReply:
		out.Replies = append(out.Replies, Reply{Order: h.order})
	case heldDial:
		if r.mode == modeSlave && r.follow.state == followSaving && r.follow.ticket == h.ticket {
			r.dial(out)
		}
	case heldStart:
		r.askForStream(h.conn, out)
	case heldLearn:
		r.blank = false
		out.Replies = append(out.Replies, Reply{Order: h.order})
	}
}

func (r *Replica) tick(stamp int64, out *Effects) {
	r.ticks++
	r.now = stamp
	switch r.mode {
	case modeMaster:
		r.tickMaster(out)
	case modeSlave:
		r.tickSlave(out)
	case modeFenced:
		r.releaseFence(out)
	}
	r.maybeTrim(out)
}

func (r *Replica) connDown(conn ConnID, out *Effects) {
	if r.mode == modeSlave && conn == r.follow.conn {
		r.masterGone(out, "connection lost")
		return
	}
	r.peerDown(conn, out)
}

// stop ends all activity: the log contradicts what this replica was told to be true.
func (r *Replica) stop(why string, out *Effects) {
	r.leaveReign(out)
	r.leaveMaster(out)
	r.mode = modeStopped
	r.event(out, EventBroken, r.Safe(), "", why)
}

// Status returns what the shell shows to the KV node, the configuration master and people. Config and Base share memory
// with the core, which replaces but never changes them.
func (r *Replica) Status() (s Status) {
	r.Observe(&s)
	return s
}

// Observe makes s what Status returns, with the memory that its Peers have.
func (r *Replica) Observe(s *Status) {
	peers := s.Peers[:0]
	*s = Status{
		Role: r.role(), Leading: r.mode == modeMaster, Epoch: r.currentEpoch(), Promise: r.promise,
		Config: r.cfg, Base: r.base,
		Start: min(r.start, r.Safe()), End: r.end, Durable: r.durable, Commit: r.commit, Safe: r.Safe(),
		Applied: r.applied, Checkpoint: r.checkpoint, Attached: r.attached,
		Stopped: r.mode == modeStopped, Position: r.position(), Blank: r.blank,
	}
	switch r.mode {
	case modeMaster:
		s.Master, s.Writable, s.Reportable = r.o.Self.Node, r.writable(), r.reportable()
		s.LeaseUntil, s.Unused = r.LeaseUntil(), r.unused()
		s.Peers = slices.Grow(peers, len(r.lead.peers))
		for _, p := range r.lead.peers {
			s.Peers = append(s.Peers, PeerStatus{Member: p.member, Streams: p.streams, Durable: p.durable, InConfig: r.cfg.Has(p.member)})
		}
	case modeSlave:
		s.Master, s.NeedImage = r.follow.master, r.follow.needImage
		s.ImageFrom = r.follow.imageFrom
		s.Joined = r.follow.state == followStreams
		s.Writable = s.Joined && r.follow.writable
	}
}

func (r *Replica) role() smr.Role {
	switch {
	case r.mode == modeMaster:
		return smr.RoleMaster
	case !r.attached:
		return smr.RoleNone
	case r.mode != modeSlave:
		return smr.RoleFenced
	case r.cfg.Has(r.o.Self):
		return smr.RoleSlave
	}
	return smr.RoleLearner
}

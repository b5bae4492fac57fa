package replica

import (
	"slices"

	"lockstep/internal/invariant"
	"lockstep/internal/mutant"
	"lockstep/smr"
)

const (
	// maxBatch is how many bytes of requests are gathered into one frame, unless one batch alone is larger.
	maxBatch = 1 << 20
	// maxPeers bounds the slaves and learners of one master.
	maxPeers = 2 * smr.MaxMembers
	// maxReads bounds the read questions that wait for a round; a KV node asks one at a time.
	maxReads = 1 << 16
)

// lead is the state of a reign. The peers outlive it until the replica does something else: see orderFence.
type lead struct {
	reignStart smr.LSN // end of the reign's epoch-start frame: commit moves only at or past it (S5)
	cfgStart   smr.LSN // end of the epoch-start frame of the current configuration

	peers []peer // sorted by node

	lastKind   smr.Kind
	lastCommit smr.LSN // commit LSN in the header of the last frame
	lastFrame  uint64  // tick of the last frame
	lastBeat   uint64  // tick of the last round of heartbeats
	lastUse    uint64  // tick of the last request or read question, at first that of the beginning

	// Rounds are numbered; asks has when the last ones were begun (see lease.go).
	round uint64
	asks  asks
	// Reads: asked wait for the next round; active were asked before activeRound went out.
	activeRound uint64
	activeIndex smr.LSN
	active      []read
	asked       []read
}

type read struct {
	client ClientID
	id     uint64
}

// peer is a slave or learner. It is known by node and incarnation; an entry outlives its connection, because
// what it has acknowledged in this reign stays true.
type peer struct {
	member  smr.Member
	conn    ConnID // 0: not connected
	streams bool
	durable smr.LSN // acknowledged in this reign
	round   uint64  // highest round echoed on this connection
	leased  int64   // Tick.Clock before the last round whose lease it granted on this connection was begun, 0: none
	heard   uint64  // tick
}

// beginReign appends the epoch start of an election epoch.
func (r *Replica) beginReign(config, base smr.Config, out *Effects) {
	r.forgetHearsay()
	r.base = base
	r.lead = lead{lastBeat: r.ticks, lastUse: r.ticks, peers: r.lead.peers} // none: whoever takes a reign has left the one before
	r.beginEpoch(config, out)
	r.lead.reignStart = r.lead.cfgStart
	r.event(out, EventLeading, r.end, "", describe(config))
	r.advanceCommit(out)
}

// beginEpoch appends an epoch start and works in its configuration from there on.
func (r *Replica) beginEpoch(config smr.Config, out *Effects) {
	r.cfg = config
	r.appendFrame(smr.Frame{Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, config)}, out)
	r.lead.cfgStart = r.end
}

// appendFrame completes f and appends it to the log.
func (r *Replica) appendFrame(f smr.Frame, out *Effects) {
	r.lastStamp = max(r.lastStamp, r.now)
	r.stampFloor = r.lastStamp
	f.LSN, f.Epoch, f.Commit, f.Stamp = r.end, r.cfg.Epoch, min(r.commit, r.end), r.lastStamp
	if f.Kind == smr.KindEpochStart {
		r.history = append(r.history, smr.Span{Epoch: f.Epoch, From: f.LSN})
		invariant.Assert(r.history.Check() == nil, "an epoch start that does not follow", r.history)
	}
	if r.history.EpochAt(f.LSN) != f.Epoch || f.Size() > smr.MaxFrame {
		invariant.Fail("frame of another epoch than its start, or too large", f.LSN, f.Epoch, f.Size())
	}
	r.disk(out, DiskOp{Append: smr.AppendFrame(make([]byte, 0, f.Size()), f)})
	r.end = f.End()
	r.lead.lastKind, r.lead.lastCommit, r.lead.lastFrame = f.Kind, f.Commit, r.ticks
}

// propose appends requests, several batches to a frame.
func (r *Replica) propose(in *Propose, out *Effects) {
	if r.mode != modeMaster {
		return
	}
	for from := 0; from < len(in.Batches); {
		size, count, next := 0, 0, from
		for next < len(in.Batches) && (next == from || size+len(in.Batches[next].Requests) <= maxBatch) {
			size += len(in.Batches[next].Requests)
			count += in.Batches[next].Count
			next++
		}
		body := in.Batches[from].Requests
		if next > from+1 {
			body = make([]byte, 0, size)
			for _, batch := range in.Batches[from:next] {
				body = append(body, batch.Requests...)
			}
		}
		if count > 0 {
			r.lead.lastUse = r.ticks
			r.appendFrame(smr.Frame{Kind: smr.KindRequests, Count: count, Body: body}, out)
		}
		from = next
	}
}

// ruleHolds returns the highest LSN that config.Copies of its members hold durably.
func (r *Replica) ruleHolds(config smr.Config) smr.LSN {
	var held [smr.MaxMembers]smr.LSN
	lsns := held[:0]
	if mutant.On(mutant.DropAtMaster) {
		config = r.withoutGone(config)
	}
	for _, m := range config.Members {
		lsns = append(lsns, r.durableOf(m))
	}
	if mutant.On(mutant.CountLearners) {
		lsns = r.appendLearners(lsns, config)
	}
	if config.Copies < 1 || config.Copies > len(lsns) {
		return 0
	}
	slices.Sort(lsns)
	return lsns[len(lsns)-config.Copies]
}

// withoutGone is a mutant at work: it leaves out who is not there, and asks for fewer copies.
func (r *Replica) withoutGone(config smr.Config) smr.Config {
	there := config
	there.Members = nil
	for _, m := range config.Members {
		if i, known := r.findPeer(m.Node); m == r.o.Self || known && r.lead.peers[i].member == m && r.lead.peers[i].streams {
			there.Members = append(there.Members, m)
		}
	}
	there.Copies = min(config.Copies, len(there.Members))
	return there
}

// appendLearners is a mutant at work: it counts who is no member.
func (r *Replica) appendLearners(lsns []smr.LSN, config smr.Config) []smr.LSN {
	for _, p := range r.lead.peers {
		if !config.Has(p.member) {
			lsns = append(lsns, p.durable)
		}
	}
	return lsns
}

// durableOf returns what m is known to hold durably of this reign's stream, by name and incarnation (S10).
func (r *Replica) durableOf(m smr.Member) smr.LSN {
	if m == r.o.Self {
		if mutant.On(mutant.CountUnsynced) {
			return r.end
		}
		return r.durable
	}
	if i, ok := r.findPeer(m.Node); ok && (r.lead.peers[i].member == m || mutant.On(mutant.CountByName)) {
		return r.lead.peers[i].durable
	}
	return 0
}

// advanceCommit applies S5: the rule of the current configuration and, until that is known to be established, the
// rule of the last established one too; and only at or past an epoch start of the own reign.
func (r *Replica) advanceCommit(out *Effects) {
	if r.mode != modeMaster {
		return
	}
	point := r.ruleHolds(r.cfg)
	if r.base.Epoch != r.cfg.Epoch && !mutant.On(mutant.NoJointRule) {
		point = min(point, r.ruleHolds(r.base))
		if mutant.On(mutant.OldRuleOnly) {
			point = r.ruleHolds(r.base)
		}
	}
	if point < r.lead.reignStart && !mutant.On(mutant.Figure8) || point <= r.commit {
		return
	}
	if point > r.end {
		invariant.Fail("commit above end", point, r.end)
	}
	first := r.commit < r.lead.reignStart
	r.commit = point
	r.sendBeats(out)
	if first {
		r.startRound(out) // reads that waited for the first commit of the reign
	}
}

// reportable returns the current epoch once its start is durable on Copies of its members (S6), else 0.
func (r *Replica) reportable() smr.Epoch {
	rule := r.cfg
	if mutant.On(mutant.ReportByOld) {
		rule = r.base
	}
	if r.ruleHolds(rule) >= r.lead.cfgStart || mutant.On(mutant.Figure8) || mutant.On(mutant.ReportEarly) {
		return r.cfg.Epoch
	}
	return 0
}

// writable reports whether enough copies are attached for new requests to commit.
func (r *Replica) writable() bool {
	return r.attachedOf(r.cfg) >= r.cfg.Copies && (r.base.Epoch == r.cfg.Epoch || r.attachedOf(r.base) >= r.base.Copies)
}

func (r *Replica) attachedOf(config smr.Config) int {
	return r.count(config, func(p *peer) bool { return p.streams })
}

// count returns how many members of config are this replica itself or a peer that fits.
func (r *Replica) count(config smr.Config, fits func(*peer) bool) int {
	n := 0
	for _, m := range config.Members {
		if m == r.o.Self {
			n++
		} else if i, ok := r.findPeer(m.Node); ok && r.lead.peers[i].member == m && fits(&r.lead.peers[i]) {
			n++
		}
	}
	return n
}

// readIndex notes a question for an LSN to read at (S11, index round).
func (r *Replica) readIndex(in *ReadIndex, out *Effects) {
	if r.mode != modeMaster || len(r.lead.asked) >= maxReads {
		return // the KV node asks again on its next connection
	}
	r.lead.lastUse = r.ticks
	if r.leaseHolds(in.Clock) {
		out.Reads = append(out.Reads, ReadReady{Client: in.Client, ID: in.ID, LSN: r.commit})
		return
	}
	r.lead.asked = append(r.lead.asked, read{client: in.Client, id: in.ID})
	r.startRound(out)
}

// startRound sends out a round for all reads that were asked, if none is under way. The first commit of the reign must
// have come: before it, earlier committed bytes may lie above the commit LSN known here.
func (r *Replica) startRound(out *Effects) {
	if len(r.lead.active) > 0 || len(r.lead.asked) == 0 || r.commit < r.lead.reignStart && !mutant.On(mutant.ReadBeforeOwn) {
		return
	}
	r.nextRound()
	r.lead.active, r.lead.asked = r.lead.asked, r.lead.active
	r.lead.activeRound, r.lead.activeIndex = r.lead.round, r.commit
	if mutant.On(mutant.ReadAtSafe) {
		r.lead.activeIndex = r.Safe()
	}
	if !r.confirmReads(out) {
		r.sendBeats(out)
	}
}

// confirmReads answers the round under way once C members of the last established configuration and, in a provisional
// epoch, C of the current one have echoed it on connections of this reign. It returns whether it did.
func (r *Replica) confirmReads(out *Effects) bool {
	if len(r.lead.active) == 0 {
		return false
	}
	echoed := func(p *peer) bool { return p.streams && p.round >= r.lead.activeRound }
	confirmed := r.count(r.cfg, echoed) >= r.cfg.Copies && (r.base.Epoch == r.cfg.Epoch || r.count(r.base, echoed) >= r.base.Copies)
	if !confirmed && !mutant.On(mutant.ReadUnconfirmed) {
		return false
	}
	for _, q := range r.lead.active {
		out.Reads = append(out.Reads, ReadReady{Client: q.client, ID: q.id, LSN: r.lead.activeIndex})
	}
	r.lead.active = r.lead.active[:0]
	r.startRound(out)
	return true
}

func (r *Replica) forgetReads(client ClientID) {
	forget := func(reads []read) []read {
		kept := reads[:0]
		for _, q := range reads {
			if q.client != client {
				kept = append(kept, q)
			}
		}
		return kept
	}
	r.lead.active, r.lead.asked = forget(r.lead.active), forget(r.lead.asked)
}

func (r *Replica) tickMaster(out *Effects) {
	for i := range r.lead.peers {
		p := &r.lead.peers[i]
		if p.conn != 0 && r.ticks-p.heard > uint64(r.o.DeadTicks) {
			out.Hangup = append(out.Hangup, p.conn)
			r.peerDown(p.conn, out)
		}
	}
	quiet := r.ticks - r.lead.lastFrame
	settled := r.commit == r.end // otherwise a frame more would only make an uncommitted tail longer
	switch {
	case settled && quiet >= uint64(r.o.TimeTicks):
		r.appendFrame(smr.Frame{Kind: smr.KindTick}, out)
	case settled && quiet >= uint64(r.o.CommitTicks) && r.commitFrameDue():
		r.appendFrame(smr.Frame{Kind: smr.KindCommit}, out)
	}
	if r.ticks-r.lead.lastBeat >= r.beatTicks() || r.leaseDue() {
		r.askLease(out)
		r.sendBeats(out)
	}
	r.startRound(out)
}

// sendBeats tells every streaming slave the commit LSN and the read round. Of several in one Effects only the last is
// sent.
func (r *Replica) sendBeats(out *Effects) {
	r.lead.lastBeat = r.ticks
	writable := r.writable()
	for i := range r.lead.peers {
		p := &r.lead.peers[i]
		if !p.streams && !(mutant.On(mutant.CommitBeforeRewind) && p.conn != 0) {
			continue
		}
		beat := smr.Heartbeat{Epoch: r.cfg.Epoch, Commit: r.commit, Round: r.lead.round, Writable: writable, Lease: r.leaseAsked()}
		if last := lastSend(out, p.conn); last != nil {
			if earlier, ok := last.(*smr.Heartbeat); ok {
				*earlier = beat
				continue
			}
		}
		out.Send = append(out.Send, Send{Conn: p.conn, Message: &beat})
	}
}

// lastSend returns the last message noted for conn, nil if there is none.
func lastSend(out *Effects, conn ConnID) any {
	for i := len(out.Send) - 1; i >= 0; i-- {
		if out.Send[i].Conn == conn {
			return out.Send[i].Message
		}
	}
	return nil
}

// abdicate stops leading and keeps the slaves' connections open.
func (r *Replica) abdicate(out *Effects) {
	r.mode = modeIdle
	r.lead.active, r.lead.asked = nil, nil
	out.DropClients = true
}

// leaveReign stops leading, if it does, and hangs up on all slaves.
func (r *Replica) leaveReign(out *Effects) {
	if r.mode == modeMaster {
		r.abdicate(out)
	}
	for i := range r.lead.peers {
		if conn := r.lead.peers[i].conn; conn != 0 {
			out.Hangup = append(out.Hangup, conn)
		}
	}
	outlived := r.lead.peers
	r.lead = lead{}
	if mutant.On(mutant.AcksOutliveReign) {
		for i := range outlived {
			outlived[i].conn, outlived[i].streams, outlived[i].round = 0, false, 0
		}
		r.lead.peers = outlived
	}
}

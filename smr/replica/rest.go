package replica

import "lockstep/smr"

// Time passes in ticks, but of most nothing follows. Rest says for how long none of them matters, so that the shell need not wake up for
// each: it may bring those of a rest together, as long as it brings them before any other input. A replica never sees
// more ticks than time has passed, however they come: so whatever counts ticks for safety (lease.go) is only ever late.

const (
	// longestRest bounds what Rest returns, in ticks: a shell that does not come round for a second counts as stuck.
	longestRest = 50
	// useTicks after the last request or question of a KV node a master is at rest: it asks for no lease, and sends heartbeats each restBeat
	// ticks. Who then asks waits for one round, and the lease is asked for again.
	useTicks = 500
	restBeat = 50
)

// Rest returns which of the next ticks is the first that matters: 1 is the next one. Nothing follows from those before it, but that the log
// may be trimmed, which can wait. Any other input may change that.
func (r *Replica) Rest() uint64 {
	first := r.ticks + longestRest
	matters := func(tick uint64) { first = min(first, max(tick, r.ticks+1)) }
	switch r.mode {
	case modeMaster:
		r.restMaster(matters)
	case modeSlave:
		if r.follow.conn != 0 {
			matters(r.follow.heard + uint64(r.o.DeadTicks) + 1)
		}
	case modeFenced:
		if len(r.fence.waiting) > 0 {
			matters(r.ticks + 1)
		}
	}
	return first - r.ticks
}

// restMaster calls matters with every tick at which tickMaster may do something.
func (r *Replica) restMaster(matters func(tick uint64)) {
	for i := range r.lead.peers {
		if p := &r.lead.peers[i]; p.conn != 0 {
			matters(p.heard + uint64(r.o.DeadTicks) + 1)
		}
	}
	if r.commit == r.end {
		matters(r.lead.lastFrame + uint64(r.o.TimeTicks))
		if r.commitFrameDue() {
			matters(r.lead.lastFrame + uint64(r.o.CommitTicks))
		}
	}
	matters(r.lead.lastBeat + r.beatTicks())
	if r.leaseAsked() > 0 {
		matters(r.lead.asks.last + r.beatTicks())
	}
	if len(r.lead.asked) > 0 && len(r.lead.active) == 0 {
		matters(r.ticks + 1)
	}
}

// commitFrameDue reports whether, after CommitTicks of quiet, a frame has to tell the commit LSN.
func (r *Replica) commitFrameDue() bool {
	return r.commit > r.lead.lastCommit && r.lead.lastKind != smr.KindCommit && r.lead.lastKind != smr.KindTick
}

// unused reports whether this master is at rest.
func (r *Replica) unused() bool { return r.ticks-r.lead.lastUse >= useTicks }

// beatTicks is how long a master that has nothing to tell waits between two rounds of heartbeats. At rest it is longer, but so that several of them
// fit into the patience of slaves.
func (r *Replica) beatTicks() uint64 {
	if r.unused() {
		return uint64(max(r.o.HeartbeatTicks, min(restBeat, r.o.DeadTicks/3)))
	}
	return uint64(r.o.HeartbeatTicks)
}

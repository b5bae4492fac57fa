package replica

import (
	"slices"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// Read leases (S11). A master asks with every round that its heartbeats begin; a slave grants by not answering a fence for so
// many of its ticks; the master counts from the clock of its last tick before it asked. Three things are lost on the way, all of
// them on the safe side: ticks are never more frequent than time is, the ask was on its way for a while, and the master's last
// tick lies behind it when it asks.
//
// The master itself is one of those who granted. It returns its lease in the moment in which it is fenced: whoever reads its
// page later finds none, and who had read it before came before the election. If its process is killed, the page stays with the
// KV node beside: so the next life holds its first answer back as a slave's does.

const (
	// keptAsks is how many rounds the master remembers the beginning of. A grant of an older one counts for nothing.
	keptAsks = 64
	// leaseSlack, in ticks, is how much more often ticks may come than time passes, counted from a heartbeat: part of the first had passed
	// before it, and one may come on the heels of one that waited.
	leaseSlack = 2
)

// grant is what this replica has promised to masters.
type grant struct {
	// until: before this tick no fence is answered.
	until uint64
	// recorded is the longest lease, in ticks, that the hard state knows of; wanted is on its way there with ticket.
	recorded, wanted uint64
	ticket           uint64
}

// asks is when rounds were begun: at[round % keptAsks] is Tick.Clock before it; nil where no leases are asked for. last is the tick
// of the last one that asked for a lease.
type asks struct {
	at   []int64
	last uint64
}

// leaseRuns reports whether a fence must not be answered yet.
func (r *Replica) leaseRuns() bool {
	hold := r.ticks < r.grant.until && !mutant.On(mutant.LeaseNotAwaited)
	return hold || r.holdsAfterStart()
}

// holdsAfterStart reports whether a lease may still run that this replica granted, or relied on, in an earlier life.
func (r *Replica) holdsAfterStart() bool {
	return r.o.LeaseHold > 0 && r.ticks < r.o.LeaseHold+leaseSlack && !mutant.On(mutant.LeaseForgotten)
}

// record has the hard state know that leases of so many ticks are granted or relied on, and reports whether it does.
func (r *Replica) record(lease uint64, out *Effects) bool {
	if r.grant.wanted > r.grant.recorded && r.grant.ticket <= r.done {
		r.grant.recorded = r.grant.wanted
	}
	if lease > max(r.grant.recorded, r.grant.wanted) {
		r.grant.wanted = lease
		r.grant.ticket = r.save(out)
	}
	return lease <= r.grant.recorded
}

// grantLease takes note of what a heartbeat says of leases: it may ask for one, or give all back that this master's reign had.
// Those of earlier reigns have ended before this one could begin.
func (r *Replica) grantLease(beat *smr.Heartbeat, out *Effects) {
	switch {
	case beat.LeaseOver:
		r.grant.until = 0
	case beat.Lease == 0 || beat.Round <= r.follow.leased || r.holdsAfterStart() || !r.record(beat.Lease, out):
	default:
		r.grant.until = max(r.grant.until, r.ticks+beat.Lease+leaseSlack)
		r.follow.leased = beat.Round
	}
}

// endGrant takes note of what a fence that is accepted says of leases. The master's own word comes on a connection that the fence may overtake.
func (r *Replica) endGrant(in *Fence) {
	if in.LeaseOver {
		r.grant.until = 0
	}
}

// leaseAsked is what heartbeats ask for: nothing while nobody reads.
func (r *Replica) leaseAsked() uint64 {
	if r.o.LeaseTicks > 0 && r.clock > 0 && !r.unused() {
		return uint64(r.o.LeaseTicks)
	}
	return 0
}

// leaseDue reports whether it is time to ask again. Heartbeats may be more frequent, when there is something to tell, without
// asking.
func (r *Replica) leaseDue() bool {
	return r.leaseAsked() > 0 && r.ticks-r.lead.asks.last >= r.beatTicks()
}

// askLease begins a round that asks for a lease, once it is on record that this replica relies on leases.
func (r *Replica) askLease(out *Effects) {
	if lease := r.leaseAsked(); lease > 0 && !r.holdsAfterStart() && r.record(lease, out) {
		r.lead.asks.last = r.ticks
		r.nextRound()
	}
}

// nextRound begins a round: everything sent from here on carries its number.
func (r *Replica) nextRound() {
	r.lead.round++
	if r.o.LeaseTicks == 0 {
		return
	}
	if r.lead.asks.at == nil {
		r.lead.asks.at = make([]int64, keptAsks)
	}
	r.lead.asks.at[r.lead.round%keptAsks] = r.clock
}

// askedAt returns the clock before a round was begun, 0 for none and for one that was forgotten or never begun.
func (r *Replica) askedAt(round uint64) int64 {
	if round == 0 || round > r.lead.round || r.lead.round-round >= keptAsks || r.lead.asks.at == nil {
		return 0
	}
	if mutant.On(mutant.LeaseFromReceipt) {
		return r.clock
	}
	return r.lead.asks.at[round%keptAsks]
}

// leasedOf returns since when m has promised not to answer a fence, by name and incarnation (S10); 0 if it has not.
func (r *Replica) leasedOf(m smr.Member) int64 {
	if m == r.o.Self {
		if uint64(r.o.LeaseTicks) > r.grant.recorded {
			return 0
		}
		return r.askedAt(r.lead.round)
	}
	if i, ok := r.findPeer(m.Node); ok && r.lead.peers[i].member == m && r.lead.peers[i].streams {
		return r.lead.peers[i].leased
	}
	return 0
}

// leasedSince returns the latest time since when Copies members of config have promised.
func (r *Replica) leasedSince(config smr.Config) int64 {
	var room [smr.MaxMembers]int64
	times := room[:0]
	for _, m := range config.Members {
		times = append(times, r.leasedOf(m))
	}
	if config.Copies < 1 || config.Copies > len(times) {
		return 0
	}
	slices.Sort(times)
	return times[len(times)-config.Copies]
}

// LeaseUntil returns until when this master may be read without asking: Copies members of the last established configuration
// and, in a provisional epoch, also of the current one have promised, and a byte of the own reign has been committed. 0: not
// at all.
func (r *Replica) LeaseUntil() int64 {
	if r.mode != modeMaster || r.o.LeaseTicks == 0 || r.commit < r.lead.reignStart {
		return 0
	}
	since := r.leasedSince(r.cfg)
	if r.base.Epoch != r.cfg.Epoch && !mutant.On(mutant.LeaseNoJointRule) {
		since = min(since, r.leasedSince(r.base))
	}
	if since == 0 {
		return 0
	}
	return since + r.leaseUse()
}

// leaseUse is how long a lease is relied on, in microseconds: less than it is granted for, because clocks differ.
func (r *Replica) leaseUse() int64 {
	granted := int64(r.o.LeaseTicks) * TickMillis * 1000
	if mutant.On(mutant.LeaseNoBound) {
		return granted * 3 / 2
	}
	return granted * 3 / 4
}

// leaseHolds reports whether the lease holds at a time.
func (r *Replica) leaseHolds(clock int64) bool { return clock > 0 && clock < r.LeaseUntil() }

// returnLease tells the slaves that this replica, which leads no more, reads under no lease: they need not wait for it.
func (r *Replica) returnLease(out *Effects) {
	if r.o.LeaseTicks == 0 {
		return
	}
	for i := range r.lead.peers {
		if p := &r.lead.peers[i]; p.streams {
			out.Send = append(out.Send, Send{Conn: p.conn, Message: &smr.Heartbeat{
				Epoch: r.cfg.Epoch, Commit: r.commit, Round: r.lead.round, LeaseOver: true,
			}})
		}
	}
}

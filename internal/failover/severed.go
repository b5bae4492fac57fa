package failover

import (
	"fmt"

	"lockstep/smr"
)

// severed is what the leader remembers of a master that is alive and in touch with the confmasters, but not with enough of
// its slaves to commit anything.
type severed struct {
	since uint64 // tick since when it is so, 0 if it is not
	whole uint64 // tick since when it has enough slaves, 0 if it has not
	times int    // elections for this reason, without a time between them that counts as whole
}

// maxSeverances bounds how often the patience with a severed master is doubled: to 64 times SuspectTicks.
const maxSeverances = 6

// wholeFactor times SuspectTicks with enough slaves show that the last election helped, and end the doubling. A link that
// comes and goes costs no more than one election in wholeFactor+1 times SuspectTicks.
const wholeFactor = 3

// severance returns why the master must be replaced because it has lost its slaves, "" if it need not, and who is on its
// side of the cut. The confmasters see both sides, so that waiting for the link would only keep writes blocked. Three things
// are needed, for SuspectTicks: too few members stream from the master; the others say themselves that they have lost it;
// and they are enough to elect and to commit without it. Whether they reach each other nobody knows before they try: if
// not, they are severed in turn, and each further try is waited for twice as long.
func (d *Driver) severance(g *Group, p *plan, master *replica) (why string, cut []smr.NodeID) {
	s := &p.severed
	if !d.fresh(p, master) || !d.leads(g, master) {
		return "", nil
	}
	current := g.Current()
	streaming := d.presence(g, master, current.Members)
	enough := streaming >= current.Copies
	d.since(&s.whole, enough)
	if d.lasted(s.whole, wholeFactor*d.o.SuspectTicks) {
		s.times = 0
	}
	ready := 0
	for _, m := range g.Established.Members {
		r := d.replica(g.Name, m.Node)
		switch {
		case m.Node != master.node && d.hasLost(g, r, m):
			ready++
		case m.Node == master.node || d.up(r) && r.seen && r.view.Joined:
			cut = append(cut, m.Node)
		}
	}
	d.since(&s.since, !enough && ready >= max(g.AnswersNeeded(), g.Established.Copies))
	if !d.lasted(s.since, d.o.SuspectTicks<<min(s.times, maxSeverances)) {
		return "", nil
	}
	return fmt.Sprintf("master %s has lost its slaves: %d of the %d members it needs stream, and %d others are there that have lost it",
		master.node, streaming, current.Copies, ready), cut
}

// hasLost reports whether a living member follows the master of the reign and says that it does not reach it.
func (d *Driver) hasLost(g *Group, r *replica, m smr.Member) bool {
	if !d.up(r) || !r.seen || r.view.Incarnation != m.Incarnation {
		return false
	}
	view := &r.view
	follows := view.Master == g.Reign.Master && view.Epoch >= g.Reign.Epoch && !view.Leading
	return follows && !view.Joined && !view.NeedImage && !view.Stopped && !view.Blank
}

package failover

import "slices"

// longestRest bounds what Rest returns, in ticks.
const longestRest = 50

// Rest returns which of the next ticks is the first that matters: 1 is the next one. Nothing follows from those before it, so that the shell need not
// wake up for each: it may bring those of a rest as one Tick, as long as it brings them before any other input. Where anything is
// under way every tick matters.
func (d *Driver) Rest() int {
	first := d.ticks + longestRest
	for _, r := range d.replicas {
		heard := r.began
		if r.seen {
			heard = r.heard
		}
		if !r.suspected {
			first = min(first, heard+uint64(d.o.SuspectTicks))
		}
		if d.leading && (r.suspected || r.agreedDown) {
			return 1
		}
	}
	if d.leading && (d.stirred || !d.settled()) { // what has just been done may let something else go on
		return 1
	}
	return int(max(first, d.ticks+1) - d.ticks)
}

// count returns how much there is to do and to tell.
func (e *Effects) count() int {
	return len(e.Proposals) + len(e.Calls) + len(e.Replies) + len(e.Events)
}

// Suspects reports whether this confmaster thinks of any replica that it is down.
func (d *Driver) Suspects() bool {
	return slices.ContainsFunc(d.replicas, func(r *replica) bool { return r.suspected })
}

// settled reports whether the leader has nothing to do, to wait for or to watch the length of.
func (d *Driver) settled() bool {
	if len(d.requests) > 0 {
		return false
	}
	for i := range d.peers {
		for _, o := range d.peers[i].opinions {
			if !o.Up {
				return false
			}
		}
	}
	for _, p := range d.plans {
		if !d.planSettled(d.state.Group(p.group), p) {
			return false
		}
	}
	return true
}

func (d *Driver) planSettled(g *Group, p *plan) bool {
	if g.Epoch == 0 || g.Epoch != p.epoch || g.Electing() || g.Reign.Epoch == 0 || g.Provisional.Epoch != 0 || g.Change.Kind != "" {
		return false
	}
	if p.proposed.id != 0 || p.led != g.Reign.Epoch || p.told != g.Established.Epoch || p.missing != "" {
		return false
	}
	if p.lostSince != 0 || p.bareSince != 0 || p.severed.since != 0 || p.reconfigured != 0 && d.ticks-p.reconfigured < reconfigurePause {
		return false
	}
	for _, o := range p.orders {
		if o.id != 0 {
			return false
		}
	}
	for _, u := range p.upkeep {
		if u.goneSince != 0 || u.nearSince != 0 || u.lag.slowSince != 0 {
			return false
		}
	}
	for i := range g.Replicas {
		r := d.replica(g.Name, g.Replicas[i].Node)
		if r == nil || !r.seen || r.view.Stopped || r.view.NeedImage || r.view.Blank || r.node != g.Reign.Master && !(g.followed(&r.view) && r.view.Joined) {
			return false
		}
	}
	return true
}

package failover

import (
	"fmt"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// reign looks after a group whose master has been chosen: it makes the master lead and the others follow, puts on
// record what becomes established, and begins an election when the master is gone.
func (d *Driver) reign(g *Group, p *plan, out *Effects) {
	p.missing = ""
	master := d.replica(g.Name, g.Reign.Master)
	if d.leads(g, master) {
		p.led = g.Reign.Epoch
	}
	if why := d.trouble(g, p, master); why != "" {
		d.failOver(g, p, BeginElection{Reason: why, Witnesses: d.witnesses(master)}, out)
		return
	}
	if why, cut := d.severance(g, p, master); why != "" {
		before := p.proposed.id
		d.failOver(g, p, BeginElection{Reason: why, Without: cut, Witnesses: d.witnesses(master)}, out)
		if p.proposed.id != before {
			p.severed = severed{times: p.severed.times + 1}
		}
		return
	}
	if p.led != g.Reign.Epoch {
		d.lead(g, p, out)
		return
	}
	if g.Provisional.Epoch != 0 && d.leads(g, master) && master.view.Reportable == g.Provisional.Epoch {
		d.propose(p, Command{Establish: &Establish{Group: g.Name, Epoch: g.Provisional.Epoch}}, out)
	}
	d.tellEstablished(g, p, out)
	d.tellReconfigured(g, p, master, out)
	for i := range g.Replicas {
		if g.Replicas[i].Node != g.Reign.Master {
			d.follow(g, p, d.replica(g.Name, g.Replicas[i].Node), master, out)
		}
	}
	if !d.fresh(p, master) || !d.leads(g, master) {
		return
	}
	d.noteMembers(g, p, master)
	d.advanceChange(g, p, out)
	d.handOver(g, p, master, out)
	d.reconcile(g, p, master, out)
	d.noteAddresses(g, p, out)
}

// leads reports whether the master was seen leading the present reign. Such a view is evidence however old it is: a
// process that led a reign led it, and Reportable never becomes untrue.
func (d *Driver) leads(g *Group, r *replica) bool {
	return r != nil && r.seen && r.view.Leading && r.view.Epoch >= g.Reign.Epoch && r.view.Epoch <= g.Epoch &&
		r.view.Incarnation == g.Reign.Incarnation && r.view.Life == g.Reign.Life
}

// trouble returns why the master of the present reign must be replaced, "" if it need not. That it is down takes a majority
// of the confmasters. What it says of itself needs no second witness, but must have been said after the last decision.
func (d *Driver) trouble(g *Group, p *plan, master *replica) string {
	if master.agreedDown {
		return fmt.Sprintf("master %s is down: %s (%d of %d confmasters agree)", master.node, d.complaint(master), d.downs(master), len(d.o.Voters))
	}
	waited := d.ticks - p.changed
	if d.fresh(p, master) {
		view := &master.view
		started := p.led == g.Reign.Epoch || g.Established.Reign == g.Reign.Epoch || g.Provisional.Epoch > g.Reign.Epoch
		d.since(&p.lostSince, started && !d.leads(g, master))
		switch {
		case view.Incarnation != g.Reign.Incarnation:
			return fmt.Sprintf("master %s lost its log: it is a new incarnation", master.node)
		case view.Life != g.Reign.Life:
			return fmt.Sprintf("master %s restarted", master.node)
		case d.lasted(p.lostSince, d.o.LostTicks):
			return fmt.Sprintf("master %s says that it does not lead: role %v, epoch %d", master.node, view.Role, view.Epoch)
		case g.Provisional.Epoch > g.Reign.Epoch && view.Epoch < g.Provisional.Epoch && waited >= uint64(d.o.LeadTicks):
			return fmt.Sprintf("master %s does not take the configuration of epoch %d", master.node, g.Provisional.Epoch)
		}
	}
	if p.led == g.Reign.Epoch || g.Provisional.Epoch != g.Reign.Epoch {
		return ""
	}
	switch {
	case p.refusal != "":
		return fmt.Sprintf("%s refused to lead: %s", master.node, p.refusal)
	case waited >= uint64(d.o.LeadTicks):
		return fmt.Sprintf("%s was chosen, but does not lead", master.node)
	}
	return ""
}

// failOver begins an election if enough members can be expected to answer. If not, the old reign may go on: an
// election that cannot be finished would only stop a master that comes back.
func (d *Driver) failOver(g *Group, p *plan, election BeginElection, out *Effects) {
	if missing := d.tooFew(g); missing != "" {
		d.unavailable(g, p, fmt.Sprintf("%s, and no election: %s", election.Reason, missing), out)
		return
	}
	election.Kind = ElectionFailover
	if g.Established.Epoch == 1 {
		election.Kind = ElectionFirst
	}
	d.begin(g, p, election, out)
}

// tooFew returns which members of the established configuration cannot be expected to answer an election, if those that can are not
// enough, and "" if they are.
func (d *Driver) tooFew(g *Group) string {
	able, missing := 0, ""
	for _, m := range g.Established.Members {
		r := d.replica(g.Name, m.Node)
		switch {
		case !d.up(r):
			missing += fmt.Sprintf(" %s (%s)", m.Node, d.complaint(r))
		case r.seen && r.view.Incarnation != m.Incarnation && !mutant.On(mutant.CountWiped):
			missing += fmt.Sprintf(" %s (it lost its log)", m.Node)
		default:
			able++
		}
	}
	if able >= g.AnswersNeeded() {
		return ""
	}
	return fmt.Sprintf("%d answers of the %d members of epoch %d are needed; missing:%s", g.AnswersNeeded(), len(g.Established.Members),
		g.Established.Epoch, missing)
}

func (d *Driver) lead(g *Group, p *plan, out *Effects) {
	if g.Provisional.Epoch != g.Reign.Epoch {
		return // it was seen leading before a reconfiguration was given out: never tell it again
	}
	d.order(g, p, Call{Node: g.Reign.Master, Kind: CallLead, Incarnation: g.Reign.Incarnation, Life: g.Reign.Life,
		Config: g.Provisional.Clone(), Base: g.Established.Clone(), Addresses: g.addresses()}, out)
}

// tellEstablished tells the master what is established in its reign, once a leadership.
func (d *Driver) tellEstablished(g *Group, p *plan, out *Effects) {
	if g.Established.Reign == g.Reign.Epoch && p.told != g.Established.Epoch && d.up(d.replica(g.Name, g.Reign.Master)) {
		d.order(g, p, Call{Node: g.Reign.Master, Kind: CallEstablished, Epoch: g.Established.Epoch, Config: g.Established.Clone()}, out)
	}
}

// tellReconfigured repeats a reconfiguration until its master has taken it.
func (d *Driver) tellReconfigured(g *Group, p *plan, master *replica, out *Effects) {
	if g.Provisional.Epoch > g.Reign.Epoch && d.up(master) && !(d.leads(g, master) && master.view.Epoch >= g.Provisional.Epoch) {
		d.order(g, p, Call{Node: g.Reign.Master, Kind: CallReconfigure,
			Config: g.Provisional.Clone(), Base: g.Established.Clone(), Addresses: g.addresses()}, out)
	}
}

// follow makes a living replica a slave of the present reign, member or not (S7, S9, S10).
func (d *Driver) follow(g *Group, p *plan, r, master *replica, out *Effects) {
	if !r.seen || !d.up(r) || r.view.Stopped {
		return
	}
	if d.outcast(g, r) != 0 {
		if g.Outcast(smr.Member{Node: r.node, Incarnation: r.view.Incarnation}) != 0 && r.view.Promise < g.Reign.Epoch {
			d.order(g, p, Call{Node: r.node, Kind: CallFence, Epoch: g.Reign.Epoch}, out) // it may still lead its old reign
		}
		return
	}
	view := &r.view
	if view.Blank {
		d.order(g, p, Call{Node: r.node, Kind: CallLearn, Epoch: g.Epoch}, out)
		return
	}
	epoch := g.Reign.Epoch
	if d.leads(g, master) {
		epoch = master.view.Epoch // the slave must not promise an epoch that its master has not yet taken
	}
	o := p.orderOf(r.node, CallFollow)
	follows := g.followed(view)
	switch {
	case follows && view.Joined && !view.NeedImage: // its KV node may need an image though its log has all
		return
	case follows && o != nil && d.ticks-o.sent < uint64(d.o.LeadTicks) && !(view.NeedImage && p.upkeepOf(r.node).source == ""):
		return // it dials by itself; its master's address may have changed
	case view.Promise > epoch && d.fresh(p, r):
		return // until the master has taken the epoch that this slave has promised
	}
	d.order(g, p, Call{Node: r.node, Kind: CallFollow, Epoch: epoch, Master: g.Reign.Master, MasterAddr: g.Replica(g.Reign.Master).DataAddr,
		Sources: d.sources(g, p, r, master)}, out)
}

// followed reports whether a replica is a slave of the present reign, whose master it streams from or dials.
func (g *Group) followed(view *ReplicaView) bool {
	return !view.Leading && view.Master == g.Reign.Master && view.Epoch >= g.Reign.Epoch
}

func (g *Group) addresses() []Address {
	addresses := make([]Address, 0, len(g.Replicas))
	for i := range g.Replicas {
		addresses = append(addresses, Address{Node: g.Replicas[i].Node, DataAddr: g.Replicas[i].DataAddr})
	}
	return addresses
}

// handOver begins a switch-over by itself when the master's KV node is gone or has no state that reaches into the log, and
// another member has one, or when the master is drained.
func (d *Driver) handOver(g *Group, p *plan, master *replica, out *Effects) {
	why := ""
	switch {
	case !d.attached(g, master.node):
		why = "has no KV node"
	case master.view.NeedImage:
		why = "has a KV node that needs an image"
	case g.drained(master.node):
		why = "is drained"
	}
	d.since(&p.bareSince, why != "")
	if !d.lasted(p.bareSince, d.o.HandOverTicks) || g.Provisional.Epoch != 0 || p.tokens < 2 || d.switchoverOf(g.Name) != nil {
		return // the last token is kept for a fail-over
	}
	target, _ := d.bestTarget(g, master)
	if target == "" || d.tooFew(g) != "" { // the group would stand still with a master that works
		return
	}
	d.begin(g, p, BeginElection{Kind: ElectionSwitchover, Target: target, Witnesses: d.witnesses(master),
		Reason: fmt.Sprintf("master %s %s: it hands over to %s", master.node, why, target)}, out)
}

// noteAddresses registers the address that a KV node announces, when it has changed.
func (d *Driver) noteAddresses(g *Group, p *plan, out *Effects) {
	for i := range g.Replicas {
		r := d.replica(g.Name, g.Replicas[i].Node)
		if !d.fresh(p, r) || !r.view.Attached || r.view.KVAddr == "" || r.view.KVAddr == g.Replicas[i].KVAddr || len(r.view.KVAddr) > 255 {
			continue
		}
		changed := g.Replicas[i]
		changed.KVAddr = r.view.KVAddr
		if d.propose(p, Command{SetReplica: &SetReplica{Group: g.Name, Replica: changed, Known: true}}, out) {
			return
		}
	}
}

// peerOf returns what the master says of a replica, by name and incarnation.
func (r *replica) peerOf(m smr.Member) (PeerView, bool) {
	for _, peer := range r.view.Peers {
		if peer.Member == m {
			return peer, true
		}
	}
	return PeerView{}, false
}

// streams reports whether a member streams from the master and nobody thinks it down.
func (d *Driver) streams(g *Group, master *replica, m smr.Member) bool {
	peer, known := master.peerOf(m)
	r := d.replica(g.Name, m.Node)
	return known && peer.Streams && r != nil && !r.agreedDown
}

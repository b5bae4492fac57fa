package failover

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// reconfigurePause is the least time between two reconfigurations of a group, in ticks.
const reconfigurePause = 20

// noteMembers keeps, for each replica, since when it has been gone, or near enough to be admitted.
func (d *Driver) noteMembers(g *Group, p *plan, master *replica) {
	if p.upkept != g.Reign.Epoch {
		p.upkept, p.upkeep = g.Reign.Epoch, nil // everybody gets its time to join a new master
	}
	current := g.Current()
	for i := range g.Replicas {
		node := g.Replicas[i].Node
		if node == master.node {
			continue
		}
		u := p.upkeepOf(node)
		member, isMember := current.Find(node)
		d.since(&u.goneSince, isMember && !d.streams(g, master, member))
		learner, near := d.nearLearner(g, master, node)
		d.since(&u.nearSince, near && !current.Has(learner))
		d.noteLag(g, u, master)
		if u.dropping && !isMember {
			u.lag.drops, u.lag.slowSince = u.lag.drops+1, 0
		}
		u.dropping = u.dropping && isMember && u.lag.slowSince != 0
	}
}

// nearLearner returns the incarnation of a replica that streams from the master, and whether it is near enough to be
// admitted: within AdmitDistance of Commit.
func (d *Driver) nearLearner(g *Group, master *replica, node smr.NodeID) (smr.Member, bool) {
	r := d.replica(g.Name, node)
	if r == nil || r.agreedDown || g.drained(node) || d.outcast(g, r) != 0 {
		return smr.Member{}, false
	}
	for _, peer := range master.view.Peers {
		if peer.Member.Node == node && peer.Streams && (peer.Durable+d.o.AdmitDistance >= master.view.Commit || mutant.On(mutant.AdmitEarly)) {
			return peer.Member, true
		}
	}
	return smr.Member{}, false
}

// reconcile brings the members and copies nearer to the policy, one reconfiguration at a time (S8). The master goes on
// meanwhile. A configuration is only given out if enough of its members are there to establish it.
func (d *Driver) reconcile(g *Group, p *plan, master *replica, out *Effects) {
	current := g.Current()
	if p.proposed.id != 0 || master.view.Epoch != current.Epoch || d.switchoverOf(g.Name) != nil ||
		p.reconfigured != 0 && d.ticks-p.reconfigured < reconfigurePause {
		return
	}
	next, ok := d.lower(g, p, master, current)
	if !ok {
		next, ok = d.drop(g, p, master, current)
	}
	if !ok && g.Provisional.Epoch == 0 {
		if next, ok = d.release(g, master, current); !ok {
			next, ok = d.dropSlow(g, p, master, current)
		}
	}
	// A provisional configuration is waited for, unless too few of its members are there: if one has lost its log, only
	// its new incarnation helps.
	if !ok && (g.Provisional.Epoch == 0 || d.presence(g, master, current.Members) < current.Copies) {
		next, ok = d.admit(g, p, master, current)
	}
	if !ok && g.Provisional.Epoch == 0 {
		next, ok = d.adjustCopies(g, master, current)
	}
	if !ok {
		return
	}
	next.Group, next.Expect, next.Reign, next.Reason = g.Name, g.Epoch, g.Reign.Epoch, clip(next.Reason)
	if d.propose(p, Command{BeginReconfigure: &next}, out) {
		p.reconfigured = d.ticks
	}
}

// present returns the members of a configuration that hold new bytes: the master, and whoever streams from it.
func (d *Driver) present(g *Group, master *replica, config smr.Config) []smr.Member {
	members := make([]smr.Member, 0, len(config.Members))
	for _, m := range config.Members {
		if m.Node == master.node || d.streams(g, master, m) {
			members = append(members, m)
		}
	}
	return members
}

// presence counts the members among some that hold new bytes.
func (d *Driver) presence(g *Group, master *replica, members []smr.Member) int {
	count := 0
	for _, m := range members {
		if m.Node == master.node || d.streams(g, master, m) {
			count++
		}
	}
	return count
}

// lower reduces copies to the members that are there, never below MinCopies, after LowerTicks. The others are dropped
// at the same time: they would not count, but elections would need their answers.
func (d *Driver) lower(g *Group, p *plan, master *replica, current smr.Config) (BeginReconfigure, bool) {
	if count := d.presence(g, master, current.Members); count >= current.Copies || count < g.Policy.MinCopies {
		return BeginReconfigure{}, false
	}
	possible := len(current.Members)
	for _, m := range current.Members {
		if m.Node != master.node && d.lasted(p.upkeepOf(m.Node).goneSince, d.o.LowerTicks) {
			possible--
		}
	}
	if possible >= current.Copies {
		return BeginReconfigure{}, false
	}
	present := d.present(g, master, current)
	return BeginReconfigure{Kind: EntryCopies, Copies: len(present), Members: present, Witnesses: d.absentees(g, current, present),
		Reason: fmt.Sprintf("only %d members are there: copies lowered from %d to %d", len(present), current.Copies, len(present))}, true
}

// drop leaves out members that have been gone for DropTicks, as long as Copies of the others are there.
func (d *Driver) drop(g *Group, p *plan, master *replica, current smr.Config) (BeginReconfigure, bool) {
	gone := func(m smr.Member) bool {
		return m.Node != master.node && d.lasted(p.upkeepOf(m.Node).goneSince, d.o.DropTicks)
	}
	if !slices.ContainsFunc(current.Members, gone) {
		return BeginReconfigure{}, false
	}
	kept := make([]smr.Member, 0, len(current.Members))
	dropped := make([]string, 0, len(current.Members))
	for _, m := range current.Members {
		if gone(m) {
			dropped = append(dropped, string(m.Node))
		} else {
			kept = append(kept, m)
		}
	}
	if d.presence(g, master, kept) < current.Copies {
		return BeginReconfigure{}, false
	}
	return BeginReconfigure{Kind: EntryDrop, Copies: current.Copies, Members: kept, Witnesses: d.absentees(g, current, kept),
		Reason: fmt.Sprintf("%s dropped: not streaming from %s for %d ms", strings.Join(dropped, ", "), master.node, d.o.DropTicks*TickMillis)}, true
}

// admit makes learners that have caught up members, and raises copies with them, up to the policy.
func (d *Driver) admit(g *Group, p *plan, master *replica, current smr.Config) (BeginReconfigure, bool) {
	members := current.Members // a copy once somebody is admitted
	var admitted []string
	for i := range g.Replicas {
		node := g.Replicas[i].Node
		learner, near := d.nearLearner(g, master, node)
		if node == master.node || !near || current.Has(learner) || !d.lasted(p.upkeepOf(node).nearSince, d.o.AdmitTicks) ||
			!d.keptUp(g, p.upkeepOf(node)) || g.Outcast(learner) != 0 {
			continue
		}
		if len(admitted) == 0 {
			members = append([]smr.Member(nil), members...)
		}
		at := sort.Search(len(members), func(i int) bool { return members[i].Node >= node })
		if at < len(members) && members[at].Node == node {
			members[at] = learner // a new incarnation takes the place of the one that lost its log
		} else if len(members) < smr.MaxMembers {
			members = append(members, smr.Member{})
			copy(members[at+1:], members[at:])
			members[at] = learner
		} else {
			continue
		}
		admitted = append(admitted, string(node))
	}
	if len(admitted) == 0 {
		return BeginReconfigure{}, false
	}
	present := d.presence(g, master, members)
	copies := max(current.Copies, min(g.Policy.Copies, present))
	if present < copies {
		return BeginReconfigure{}, false
	}
	reason := fmt.Sprintf("%s admitted: caught up with %s", strings.Join(admitted, ", "), master.node)
	if copies != current.Copies {
		reason += fmt.Sprintf("; copies raised from %d to %d", current.Copies, copies)
	}
	return BeginReconfigure{Kind: EntryAdmit, Copies: copies, Members: members, Reason: reason}, true
}

// adjustCopies follows the policy when the members for it are there.
func (d *Driver) adjustCopies(g *Group, master *replica, current smr.Config) (BeginReconfigure, bool) {
	copies := g.Policy.Copies
	present := d.presence(g, master, current.Members)
	if copies > current.Copies {
		copies = max(current.Copies, min(copies, present))
	}
	if copies == current.Copies || copies > present {
		return BeginReconfigure{}, false
	}
	return BeginReconfigure{Kind: EntryCopies, Copies: copies, Members: current.Members,
		Reason: fmt.Sprintf("copies changed from %d to %d, as the policy says", current.Copies, copies)}, true
}

// absentees returns what was seen of the members of current that are not in kept.
func (d *Driver) absentees(g *Group, current smr.Config, kept []smr.Member) []Witness {
	rest := smr.Config{Members: kept}
	var witnesses []Witness
	for _, m := range current.Members {
		if !rest.Has(m) {
			witnesses = append(witnesses, d.witnesses(d.replica(g.Name, m.Node))...)
		}
	}
	return witnesses[:min(len(witnesses), MaxWitnesses)]
}

package failover

import (
	"fmt"
	"slices"
	"strings"

	"lockstep/smr"
)

// lag is how far a slave is behind its master, measured by the leader from what the master says.
//
// In time: a mark is set where the master's log ends. As long as the slave has not reached it, it is at least as far behind
// as the mark is old; once it has, that was how far it was behind, and the next mark is set.
type lag struct {
	member smr.Member
	bytes  smr.LSN
	ticks  uint64 // of the last mark that was reached
	mark   smr.LSN
	set    uint64 // tick at which the mark was set, 0: none is
	seen   uint64 // step of the view that was last counted

	slowSince uint64 // tick since when it is slow by the policy, 0 if it is not
	drops     int    // how often it was dropped for that in this reign
}

// maxProbation bounds how often the time that a dropped slow member must keep up is doubled.
const maxProbation = 5

// noteLag measures how far node is behind.
func (d *Driver) noteLag(g *Group, u *upkeep, master *replica) {
	l := &u.lag
	var peer PeerView
	for _, other := range master.view.Peers {
		if other.Member.Node == u.node && other.Streams {
			peer = other
		}
	}
	if peer.Member != l.member {
		*l = lag{member: peer.Member, drops: l.drops}
	}
	if peer.Member.Node == "" || l.seen == master.step {
		return
	}
	l.seen = master.step
	end := master.view.End
	l.bytes = end - min(end, peer.Durable)
	if l.set == 0 {
		l.mark, l.set = end, d.ticks
	}
	if peer.Durable >= l.mark {
		l.ticks = d.ticks - l.set
		l.mark, l.set = end, d.ticks
	}
	policy := &g.Policy
	d.since(&l.slowSince, policy.SlowForMillis > 0 && d.behind(l, policy, l.slowSince != 0))
}

// behind reports whether a slave is slow by the policy. One that was so is not until it is within half of the bounds.
func (d *Driver) behind(l *lag, policy *Policy, was bool) bool {
	factor := 1
	if was {
		factor = 2
	}
	return policy.SlowBytes > 0 && l.bytes*smr.LSN(factor) > policy.SlowBytes ||
		policy.SlowMillis > 0 && d.lagMillis(l)*factor > policy.SlowMillis
}

// lagMillis is how far a slave is behind in time.
func (d *Driver) lagMillis(l *lag) int {
	ticks := l.ticks
	if l.set != 0 {
		ticks = max(ticks, d.ticks-l.set)
	}
	return int(ticks) * TickMillis
}

// tooSlow reports whether a member has been slow for times as long as the policy allows.
func (d *Driver) tooSlow(g *Group, u *upkeep, times int) bool {
	return u.lag.slowSince != 0 && d.lasted(u.lag.slowSince, times*g.Policy.SlowForMillis/TickMillis)
}

// keptUp reports whether a replica that was dropped because it was slow has kept up for long enough to be admitted again: as
// long as it was allowed to be slow, and twice as long each further time.
func (d *Driver) keptUp(g *Group, u *upkeep) bool {
	l := &u.lag
	if l.slowSince != 0 || g.Policy.SlowForMillis > 0 && d.behind(l, &g.Policy, true) {
		return false
	}
	if l.drops == 0 {
		return true
	}
	return d.lasted(u.nearSince, g.Policy.SlowForMillis/TickMillis<<min(l.drops-1, maxProbation))
}

// dropSlow leaves out members that are too slow: while Copies of the others are there, and later, with fewer copies, while
// MinCopies are.
func (d *Driver) dropSlow(g *Group, p *plan, master *replica, current smr.Config) (BeginReconfigure, bool) {
	for times := 1; times <= 2; times++ {
		slow := func(m smr.Member) bool { return m.Node != master.node && d.tooSlow(g, p.upkeepOf(m.Node), times) }
		if !slices.ContainsFunc(current.Members, slow) {
			continue
		}
		kept := make([]smr.Member, 0, len(current.Members))
		var dropped []*upkeep
		for _, m := range current.Members {
			if slow(m) {
				dropped = append(dropped, p.upkeepOf(m.Node))
			} else {
				kept = append(kept, m)
			}
		}
		present := d.present(g, master, smr.Config{Members: kept})
		if times == 1 && len(present) < current.Copies || len(present) < min(current.Copies, g.Policy.MinCopies) {
			continue
		}
		next := BeginReconfigure{Kind: EntryDrop, Copies: current.Copies, Members: kept}
		next.Reason = d.describeSlow(g, dropped, master, times)
		if len(present) < current.Copies {
			next.Kind, next.Copies, next.Members = EntryCopies, len(present), present
			next.Reason += fmt.Sprintf("; copies lowered from %d to %d", current.Copies, len(present))
		}
		for _, u := range dropped {
			u.dropping = true
		}
		return next, true
	}
	return BeginReconfigure{}, false
}

func (d *Driver) describeSlow(g *Group, dropped []*upkeep, master *replica, times int) string {
	list := make([]string, 0, len(dropped))
	for _, u := range dropped {
		list = append(list, fmt.Sprintf("%s (%d bytes, %d ms behind)", u.node, u.lag.bytes, d.lagMillis(&u.lag)))
	}
	return fmt.Sprintf("%s dropped: too slow for %s for %d ms", strings.Join(list, ", "), master.node, times*g.Policy.SlowForMillis)
}

package explore

import (
	"fmt"

	"lockstep/smr"
)

// check looks at a whole state. It returns what is wrong, "" if nothing is.
func (x *explorer) check(w *world) string {
	if x.fault != "" {
		return x.fault
	}
	for i := range x.scope.Replicas {
		if fault := x.checkCommit(w, i); fault != "" {
			return fault
		}
	}
	return x.checkElection(w)
}

// checkCommit: what a replica takes for committed was committed, with these bytes.
func (x *explorer) checkCommit(w *world, i int) string {
	n := x.node(w, i)
	known := min(n.status.commit, x.logs.at(n.log).end)
	if n.status.commit > x.logs.at(w.truth).end {
		return fmt.Sprintf("n%d takes %d for committed, only %d ever was", i, n.status.commit, x.logs.at(w.truth).end)
	}
	have, whole := x.logs.cut(n.log, known)
	if !whole || !x.logs.isPrefix(have, w.truth) {
		return fmt.Sprintf("n%d takes [%s] for committed up to %d, but [%s] was", i, x.logs.words(n.log), known, x.logs.words(w.truth))
	}
	return ""
}

// checkElection: an election begun now, whichever sufficient set of members answers it, would keep the committed bytes. The
// best answer of a set wins; so a replica without them wins some set if enough replicas are no better than it.
func (x *explorer) checkElection(w *world) string {
	g := &x.states[w.state].group
	needed := len(g.Established.Members) - g.Established.Copies + 1
	for i := range x.scope.Replicas {
		n := x.node(w, i)
		if !x.counts(w, i) || x.logs.isPrefix(w.truth, n.log) {
			continue
		}
		mine := x.logs.position(n.log)
		below := 0
		for j := range x.scope.Replicas {
			if x.counts(w, j) && x.logs.position(x.node(w, j).log).Compare(mine) <= 0 {
				below++
			}
		}
		if below >= needed {
			return fmt.Sprintf("an election begun now would lose committed bytes: %d answers are enough, n%d with [%s] can win, committed is [%s]",
				needed, i, x.logs.words(n.log), x.logs.words(w.truth))
		}
	}
	return ""
}

// counts reports whether the answer of replica i would count in an election begun now.
func (x *explorer) counts(w *world, i int) bool {
	n := x.node(w, i)
	return !n.status.blank && x.states[w.state].group.Established.Has(x.names.member(i, n.wipes))
}

// fingerprint is the same for states that differ by the names of replicas only.
func (x *explorer) fingerprint(w *world) uint64 {
	var plans [maxPlans]open
	for k := range x.scope.Epochs {
		plans[k] = x.openOf(w, k)
	}
	best := ^uint64(0)
	for p := range x.names.perms {
		best = min(best, x.fingerprintAs(w, p, &plans))
	}
	return best
}

// open says which orders of a plan can still be taken by somebody. The others are left out of fingerprints.
type open uint8

const (
	openFollow open = 1 << iota // and fence
	openLead
	openTake
	openTold
	openReport
)

func (x *explorer) openOf(w *world, k int) open {
	plan, g := &w.plans[k], &x.states[w.state].group
	epoch := firstEpoch + smr.Epoch(k)
	var o open
	if plan.reported && !plan.established && g.Provisional.Epoch == epoch {
		o |= openReport
	}
	for i := range x.scope.Replicas {
		s := &x.node(w, i).status
		if s.blank || w.wipes > 0 {
			return o | openFollow | openLead | openTake | openTold
		}
		if s.promise <= epoch {
			o |= openFollow
		}
		if !plan.chosen || int(plan.master) != i {
			continue
		}
		ofReign := s.leading && s.reign == x.configs.at(plan.config).Reign
		if plan.election && s.promise <= epoch && !ofReign {
			o |= openLead
		}
		if !plan.election && ofReign && s.epoch < epoch {
			o |= openTake
		}
		if ofReign && s.base < epoch {
			o |= openTold
		}
	}
	return o
}

func (x *explorer) fingerprintAs(w *world, p int, plans *[maxPlans]open) uint64 {
	perm := &x.names.perms[p]
	var parts [maxNodes]uint64
	for i := range x.scope.Replicas {
		h := x.node(w, i).hash[p]
		if c := &w.conns[i]; c.on {
			h = mix(h, bits(c.on, c.up, c.feeding, c.hello, c.early)<<48|uint64(perm[c.master])<<40|uint64(c.slot)<<32|uint64(c.helloEra)<<8|uint64(c.epoch))
			h = mix(h, uint64(c.commit))
			h = mix(h, x.logs.at(c.helloLog).hash[p])
			h = mix(h, x.logs.at(c.log).hash[p])
		}
		if a := &w.answers[i]; a.given {
			h = mix(h, 3+fact(a.stale)<<8|uint64(a.wipes)<<16)
			h = mix(h, x.logs.at(a.log).hash[p])
		}
		parts[perm[i]] = h
	}
	h := mix(x.states[w.state].hash[p], x.logs.at(w.truth).hash[p])
	for i := range x.scope.Replicas {
		h = mix(h, parts[i])
	}
	h = mix(h, uint64(w.crashes)|uint64(w.wipes)<<8|uint64(w.reconfigurations)<<16|uint64(w.cuts)<<24|uint64(w.lates)<<32)
	for k := range w.lates {
		l := &w.late[k]
		h = mix(h, uint64(perm[slaveOf(l.conn)])<<40|uint64(slotOf(l.conn))<<32|uint64(perm[l.master])<<24|uint64(l.wipes)<<16|uint64(l.epoch)<<8|uint64(l.kind))
		h = mix(h, uint64(l.lsn))
	}
	for k := range x.scope.Epochs {
		plan := &w.plans[k]
		o := plans[k]
		if o == 0 {
			continue
		}
		h = mix(h, uint64(k)<<32|uint64(o)<<16|bits(plan.election, plan.chosen, plan.stale && o&openLead != 0, plan.led && o&openLead != 0,
			plan.established && o&openTold != 0))
		if plan.chosen {
			h = mix(h, uint64(perm[plan.master])<<8|uint64(plan.wipes))
		}
		if o&(openLead|openTake|openTold) != 0 {
			h = mix(h, x.configs.hash[plan.config][p])
			h = mix(h, x.configs.hash[plan.base][p])
		}
	}
	return h
}

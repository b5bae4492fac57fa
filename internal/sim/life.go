package sim

import (
	"math/rand/v2"
	"slices"
	"strings"

	"lockstep/internal/failover"
	"lockstep/smr"
)

// What happens to a group that lives for years: replicas are added, removed, drained and replaced, copies raised and lowered, disks
// lost and refilled, quorums lost and the group recovered by force. An operator asks for it, as smrctl does, and the configuration
// master decides. One schedule in four has such a life; its events are drawn from streams of their own, and meet all other faults.
const (
	FaultAdd     FaultKind = "replica-add" // by an operator, or by itself (--join)
	FaultRemove  FaultKind = "replica-remove"
	FaultDrain   FaultKind = "replica-drain"
	FaultUndrain FaultKind = "replica-undrain"
	FaultReplace FaultKind = "replica-replace"
	FaultSet     FaultKind = "group-set" // copies, min_copies, what counts as slow
	FaultCancel  FaultKind = "group-cancel"
	FaultRefill  FaultKind = "replace-disk"
	FaultForce   FaultKind = "lose-quorum-and-recover"
)

var lifeFaults = []FaultKind{FaultAdd, FaultAdd, FaultRemove, FaultRemove, FaultDrain, FaultUndrain, FaultReplace, FaultReplace, FaultSet, FaultCancel,
	FaultRefill, FaultForce, FaultForce, FaultForce}

// mayLose reports whether the stream may be given up for another one.
func (o *Options) mayLose() bool { return o.Life }

// drawLife draws whether the group has a life, and from how many more machines it may take replicas.
func drawLife(o *Options) {
	r := rand.New(rand.NewPCG(o.Seed, 14))
	if r.IntN(4) > 0 {
		return
	}
	o.Life, o.Spares = true, 1+r.IntN(2)
	o.AdmitBytes = []smr.LSN{0, 500, 4 << 10}[r.IntN(3)]
	if o.ImageBytes == 0 && r.IntN(3) > 0 { // most of what happens to such groups is about images
		o.FileSize = 4 << 10
		o.ImageBytes, o.ImageStep = smr.LSN(300+r.IntN(2000)), 500
		o.TrimKeep, o.TrimLag = 1, smr.LSN(1<<10+r.IntN(8<<10))
		o.FetchLow, o.FetchHigh = 500, between(r, 2000, 200_000)
	}
}

// drawLifeFaults draws the events of such a life, and for some of them another fault close behind: what is half done then is what
// has to be right.
func drawLifeFaults(o *Options) (faults []Fault) {
	if !o.Life {
		return nil
	}
	r := rand.New(rand.NewPCG(o.Seed, 15))
	hosts := o.Replicas + o.Spares
	beside := []FaultKind{FaultElect, FaultPower, FaultKillReplicator, FaultKillKV, FaultIsolate, FaultMaster, FaultSwitchover, FaultBreak}
	for range 1 + r.IntN(7) {
		f := Fault{At: 250 + r.Int64N(o.FaultMillis), Kind: lifeFaults[r.IntN(len(lifeFaults))], Node: r.IntN(hosts), Other: r.IntN(hosts),
			Millis: 20 + int64(r.ExpFloat64()*300), Number: r.Uint64() >> 11}
		faults = append(faults, f)
		if r.IntN(2) == 0 {
			faults = append(faults, Fault{At: f.At + r.Int64N(120), Kind: beside[r.IntN(len(beside))], Node: r.IntN(hosts), Other: r.IntN(hosts),
				Millis: 5 + int64(r.ExpFloat64()*250), Number: r.Uint64() >> 11})
		}
	}
	return faults
}

// group returns the group as the configuration master has it that leads, or else one that is up; nil if there is none.
func (w *world) group() *failover.Group {
	var found *failover.Group
	for _, m := range w.masters {
		if g := m.state.Group(groupName); m.up && g != nil && (found == nil || m.driver.Leading()) {
			found = g
		}
	}
	return found
}

// inService returns the machines whose replicas are registered.
func (w *world) inService() []*host {
	if !w.o.Life {
		return w.hosts
	}
	g := w.group()
	if g == nil {
		return nil
	}
	var list []*host
	for _, h := range w.hosts {
		if g.Replica(h.id) != nil {
			list = append(list, h)
		}
	}
	return list
}

// request has the configuration master that leads do what an operator wants, if there is one.
func (w *world) request(r failover.Request) {
	for _, m := range w.masters {
		if m.up && m.driver.Leading() {
			m.requests++
			r.ID = m.requests
			m.step(&r)
			m.carryOut()
			return
		}
	}
}

func (w *world) change(c failover.ChangeRequest) {
	c.Group = groupName
	w.request(failover.Request{Change: &c})
}

// replied is called with the answer to an operator.
func (m *confmaster) replied(r *failover.Reply) {
	if !r.Done {
		m.w.hit(probeRequestRefused)
	}
	if m.w.trace != nil {
		m.w.say(m.name(), "replies %v: %s", r.Done, r.Text)
	}
}

// registration of a machine's replica.
func (h *host) registration() failover.Replica {
	return failover.Replica{Node: h.id, ManageAddr: string(h.id), DataAddr: string(h.id), KVAddr: string(h.id), Preference: h.place % 2}
}

// strikeLife carries out one of lifeFaults.
func (w *world) strikeLife(f *Fault) {
	g, h, draw := w.group(), w.hosts[f.Node], f.draw()
	if g == nil {
		return
	}
	w.noteMeeting(f, g, h)
	switch f.Kind {
	case FaultAdd:
		spare := w.engage(g, draw)
		if spare == nil {
			return
		}
		replica := spare.registration()
		if draw.IntN(2) == 0 {
			w.request(failover.Request{Join: &failover.JoinRequest{Group: groupName, Replica: replica, Incarnation: spare.incarnation()}})
			return
		}
		w.change(failover.ChangeRequest{Add: &replica})
	case FaultRemove, FaultDrain, FaultUndrain:
		kinds := map[FaultKind]failover.ChangeKind{FaultRemove: failover.ChangeRemove, FaultDrain: failover.ChangeDrain, FaultUndrain: failover.ChangeUndrain}
		w.change(failover.ChangeRequest{Begin: &failover.BeginChange{Kind: kinds[f.Kind], Node: h.id, Switchover: draw.IntN(4) > 0}})
	case FaultReplace:
		if spare := w.engage(g, draw); spare != nil {
			replica := spare.registration()
			w.change(failover.ChangeRequest{Begin: &failover.BeginChange{Kind: failover.ChangeReplace, Node: h.id, By: &replica, Switchover: draw.IntN(4) > 0}})
		}
	case FaultSet:
		policy := &failover.PolicyChange{Copies: 1 + draw.IntN(min(len(g.Replicas), 3))}
		policy.MinCopies = 1 + draw.IntN(policy.Copies)
		if draw.IntN(2) == 0 {
			behind, millis, patience := smr.LSN(100<<draw.IntN(6)), 1000*draw.IntN(2), 30+draw.IntN(200)
			policy.SlowBytes, policy.SlowMillis, policy.SlowForMillis = &behind, &millis, &patience
		}
		w.change(failover.ChangeRequest{Policy: policy})
	case FaultCancel:
		w.change(failover.ChangeRequest{Cancel: true})
	case FaultRefill:
		w.replaceDisk(f, h, draw)
	case FaultForce:
		w.loseQuorum(f, g, draw)
	}
}

// noteMeeting marks which rare things meet.
func (w *world) noteMeeting(f *Fault, g *failover.Group, h *host) {
	joins := f.Kind == FaultAdd || f.Kind == FaultReplace
	leaves := f.Kind == FaultRemove || f.Kind == FaultReplace
	switch {
	case joins && g.Electing():
		w.hit(probeJoinElecting)
	case leaves && g.Reign.Master == h.id:
		w.hit(probeMasterLeaves)
	}
	if f.Kind != FaultReplace {
		return
	}
	for _, m := range g.Established.Members {
		if w.host(m.Node).replicator == nil {
			w.hit(probeReplaceDown)
			return
		}
	}
}

// engage switches on a machine that is not in service, some of them with what they have left from another time.
func (w *world) engage(g *failover.Group, draw *rand.Rand) *host {
	for _, h := range w.hosts {
		if g.Replica(h.id) != nil || !h.spare {
			continue
		}
		if h.away && draw.IntN(2) == 0 && h.drive.home == h.place {
			h.powerCut(imageOf(draw))
			h.wipe()
		}
		h.away = false
		h.powerOn()
		h.startReplicator()
		h.startKV()
		return h
	}
	return nil
}

// retire switches a machine off whose replica was removed, if it was not added again.
func (w *world) retire(node smr.NodeID) {
	h := w.host(node)
	removed := h.incarnation() // each configuration master says so: meanwhile the machine may have begun anew, to be added
	w.after(between(w.draw.control, 20, 600)*millisecond, later(func() {
		if g := w.group(); g != nil && g.Replica(node) == nil && !h.away && h.incarnation() == removed {
			h.powerCut(imageOf(Fault{Number: uint64(w.now)}.draw()))
			h.away, h.spare = true, true
		}
	}), 9)
}

// replaceDisk gives a machine an empty disk, if no promise stands against it: its replica is no member, or it is the only one
// of which a copy too many is kept.
func (w *world) replaceDisk(f *Fault, h *host, draw *rand.Rand) {
	for _, m := range w.masters {
		g := m.state.Group(groupName)
		if g == nil || g.Epoch < 2 || !w.sparesDisk(g, h) {
			return
		}
	}
	if h.away || h.drive.home != h.place {
		return
	}
	h.powerCut(imageOf(draw))
	h.wipe()
	h.refilled = true
	w.unless(f, h.powerOn)
}

func (w *world) sparesDisk(g *failover.Group, h *host) bool {
	for _, config := range []smr.Config{g.Established, g.Provisional} {
		if _, member := config.Find(h.id); !member {
			continue
		}
		if w.o.Harm || config.Copies < 2 || g.Policy.MinCopies < 2 {
			return false
		}
		for _, m := range config.Members {
			if other := w.host(m.Node); other.incarnation() != m.Incarnation {
				return false
			}
		}
	}
	return true
}

// loseQuorum takes so many members away that nobody can be elected. An operator makes sure that they are switched off, recovers the
// group by force, and brings the machines back later.
func (w *world) loseQuorum(f *Fault, g *failover.Group, draw *rand.Rand) {
	leader := w.leader()
	if leader == nil || g.Electing() || g.Reign.Epoch == 0 {
		return
	}
	members := append([]smr.Member(nil), g.Established.Members...)
	draw.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	lost := []*host{leader}
	for _, m := range members {
		if left := len(members) - len(lost); m.Node != leader.id && left >= g.AnswersNeeded() {
			lost = append(lost, w.host(m.Node))
		}
	}
	if len(lost) >= len(w.inService()) {
		return // nobody would be left
	}
	// What is committed before is on those alone that are lost: the others are cut off, or were down and are catching up.
	pause := int64(0)
	switch draw.IntN(3) {
	case 0:
		pause = (50 + draw.Int64N(600)) * millisecond
		for _, h := range lost {
			for _, other := range w.inService() {
				if !slices.Contains(lost, other) {
					w.net.cut[h.place*w.net.places+other.place] = w.now + pause
				}
			}
		}
	case 1:
		down := (50 + draw.Int64N(300)) * millisecond
		pause = down + draw.Int64N(120*millisecond)
		for _, other := range w.inService() {
			if !slices.Contains(lost, other) && other.replicator != nil {
				other.crashReplicator()
				w.after(down, later(other.startReplicator), 8)
			}
		}
	}
	w.after(pause, later(func() {
		if !w.healing {
			w.loseForGood(f, lost, draw)
		}
	}), 9)
}

func (w *world) loseForGood(f *Fault, lost []*host, draw *rand.Rand) {
	for _, h := range lost {
		h.powerCut(imageOf(draw))
		h.away = true
	}
	began := w.check.forcedEpoch
	tries := 0
	var try func()
	try = func() {
		if tries++; w.healing || w.check.forcedEpoch > began || tries > 20 {
			w.bringBack(lost, f.Number)
			return
		}
		w.force()
		w.after(150*millisecond, later(try), 9)
	}
	w.after(int64(w.o.SuspectTicks+10)*tickLength, later(try), 9)
}

// force has an operator recover the group with what is left.
func (w *world) force() {
	w.change(failover.ChangeRequest{Recover: &failover.RecoverRequest{Confirm: groupName, AcceptLoss: true}})
}

// recovered is called when a forced recovery is on record. Whoever it leaves out is switched off: the operator has seen to that before.
func (w *world) recovered(recovery *failover.Recovery) {
	if recovery.Epoch <= w.check.forcedEpoch {
		return // by another confmaster
	}
	w.check.forced(recovery)
	var lost []*host
	for _, m := range recovery.Outcasts {
		if h := w.host(m.Node); h.incarnation() == m.Incarnation && !h.away {
			h.powerCut(imageOf(Fault{Number: uint64(w.now)}.draw()))
			h.away = true
			lost = append(lost, h)
		}
	}
	w.bringBack(lost, uint64(recovery.Epoch))
}

// bringBack switches machines on again: as they were, and only later, or at once, with their directories set aside, or those of the
// replicator alone.
func (w *world) bringBack(lost []*host, number uint64) {
	draw := Fault{Number: number}.draw()
	for _, h := range lost {
		how := draw.IntN(5)
		w.after((1+draw.Int64N(500))*millisecond, later(func() {
			if !h.away {
				return // all is mended
			}
			h.away = false
			switch {
			case how == 0 && w.isOutcast(h):
				h.wipe()
			case how < 3 && w.isOutcast(h):
				h.loseReplica()
			}
			h.powerOn()
			h.startReplicator()
			h.startKV()
		}), 9)
		if how > 2 {
			w.after((600+draw.Int64N(600))*millisecond, later(func() { w.setAside(h) }), 9)
		}
	}
}

// isOutcast reports whether the log on a machine was left out by a forced recovery: by name, or because it has promised nothing since.
func (w *world) isOutcast(h *host) bool {
	g := w.group()
	if g == nil || len(g.Recoveries) == 0 || h.incarnation() == 0 {
		return false
	}
	m := smr.Member{Node: h.id, Incarnation: h.incarnation()}
	if g.Outcast(m) != 0 {
		return true
	}
	last := &g.Recoveries[len(g.Recoveries)-1]
	for _, kept := range last.Kept {
		if kept == m {
			return false
		}
	}
	return h.drive.promised > 0 && h.drive.promised < last.Epoch
}

// loseReplica has an operator put away what the replicator had, and forget what its KV node has: images of what may be lost.
func (h *host) loseReplica() {
	h.lose(dirLog)
	h.loseState(true)
}

// setAside has an operator put away the directories of a replica that was left out, so that it comes back as a new incarnation.
func (w *world) setAside(h *host) {
	if !w.isOutcast(h) || h.away || h.drive.home != h.place {
		return
	}
	w.hit(probeSetAsideOutcast)
	draw := Fault{Number: uint64(w.now)}.draw()
	h.powerCut(imageOf(draw))
	if draw.IntN(2) == 0 {
		h.wipe()
	} else {
		h.loseReplica()
	}
	h.refilled = true
	w.after(w.o.Restarts*millisecond, later(h.powerOn), 9)
}

// tend is what an operator does while the group heals: a quorum that is lost for good is replaced, and what was left out set aside.
func (w *world) tend() {
	g := w.group()
	if !w.o.Life || g == nil || g.Reign.Epoch == 0 {
		return
	}
	for _, h := range w.inService() {
		if h.powered {
			w.setAside(h)
		}
	}
	if g.Policy.SlowForMillis > 0 { // a bound that nobody may be able to keep
		var bytes smr.LSN
		var millis, patience int
		w.change(failover.ChangeRequest{Policy: &failover.PolicyChange{SlowBytes: &bytes, SlowMillis: &millis, SlowForMillis: &patience}})
	}
	if w.membersAlive(g) < g.AnswersNeeded() {
		w.force()
	}
}

// ordered reports whether the group is as its policy and its operators want it.
func (w *world) ordered() bool {
	if !w.o.Life {
		return true
	}
	g := w.group()
	if g == nil || g.Change.Kind != "" || g.Election.Epoch != 0 || g.Provisional.Epoch != 0 || g.Established.Copies != g.Policy.Copies {
		return false
	}
	for i := range g.Replicas {
		r := &g.Replicas[i]
		member := g.Established.Has(smr.Member{Node: r.Node, Incarnation: w.host(r.Node).incarnation()})
		if member == r.Drained {
			return false
		}
	}
	return true
}

// noteChange marks what a configuration master has carried out.
func (m *confmaster) noteChange(cmd *failover.Command, before failover.Change) {
	w := m.w
	g := m.state.Group(groupName)
	switch {
	case cmd.AddReplica != nil:
		w.hit(probeAdded)
	case cmd.BeginChange != nil && cmd.BeginChange.Kind == failover.ChangeUndrain:
		w.hit(probeUndrained)
	case cmd.CancelChange != nil:
		w.hit(probeCancelled)
	case cmd.Recover != nil:
		w.recovered(&g.Recoveries[len(g.Recoveries)-1])
	case cmd.AdvanceChange != nil && cmd.AdvanceChange.Step == failover.StepEnd:
		switch before.Kind {
		case failover.ChangeDrain:
			w.hit(probeDrained)
		case failover.ChangeReplace:
			w.hit(probeReplaced)
		default:
			w.hit(probeRemoved)
		}
		if g.Replica(before.Node) == nil {
			w.retire(before.Node)
		}
	case cmd.Establish != nil:
		w.noteMembers(g)
	}
}

// noteSlow marks members that are left out because they are slow, and those that come back by themselves.
func (w *world) noteSlow(next *failover.BeginReconfigure, before []smr.Member) {
	for _, m := range before {
		if strings.Contains(next.Reason, "too slow") && !slices.Contains(next.Members, m) {
			w.host(m.Node).slow = true
			w.hit(probeSlowDropped)
		}
	}
	for _, m := range next.Members {
		if h := w.host(m.Node); h.slow && next.Kind == failover.EntryAdmit && !slices.Contains(before, m) {
			h.slow = false
			w.hit(probeSlowAdmitted)
		}
	}
}

// noteMembers marks machines that have become members.
func (w *world) noteMembers(g *failover.Group) {
	for _, m := range g.Established.Members {
		h := w.host(m.Node)
		if h.incarnation() != m.Incarnation {
			continue
		}
		if h.spare {
			h.spare = false
			w.hit(probeJoined)
		}
		if h.refilled {
			h.refilled = false
			w.hit(probeRefilled)
		}
	}
}

package explore

import (
	"fmt"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// actionKind is one kind of step of the adversary.
type actionKind uint8

const (
	actElect actionKind = iota
	actChoose
	actEstablish
	actReconfigure
	actFence
	actLead
	actTakeConfig
	actTellEstablished
	actFollow
	actLearn
	actConnect
	actHello
	actReceive
	actBeat
	actCut
	actNotice
	actLetter
	actSync
	actPropose
	actCrash
	actWipe
	actKinds
)

// action is one step: of replica node, about epoch; of a choice the answers counted, of a reconfiguration the members.
type action struct {
	kind    actionKind
	node    uint8
	copies  uint8
	epoch   smr.Epoch
	members [maxNodes]uint8
}

// actions appends what the adversary may try in w. Not all of it changes anything.
func (x *explorer) actions(w *world, all []action) []action {
	all = x.decisions(w, all)
	last := x.states[w.state].group.Epoch
	for i := range x.scope.Replicas {
		n := x.node(w, i)
		id := uint8(i)
		for e := firstEpoch; e <= last; e++ {
			all = x.orders(w, i, e, all)
		}
		if n.status.blank {
			for e := smr.Epoch(1); e <= last; e++ {
				all = append(all, action{kind: actLearn, node: id, epoch: e})
			}
		}
		c := &w.conns[i]
		if n.dial >= 0 && !c.on {
			all = append(all, action{kind: actConnect, node: id})
		}
		if c.on {
			all = x.connActions(w, i, all)
		}
		if len(n.queue) > 0 {
			all = append(all, action{kind: actSync, node: id})
		}
		if n.status.leading && x.logs.at(n.log).frames < x.scope.Frames {
			all = append(all, action{kind: actPropose, node: id})
		}
		if w.crashes > 0 {
			all = append(all, action{kind: actCrash, node: id})
		}
		if w.wipes > 0 && x.canWipe(w, i) {
			all = append(all, action{kind: actWipe, node: id})
		}
	}
	for k := range w.lates {
		if w.isFirst(k) {
			all = append(all, action{kind: actLetter, node: k})
		}
	}
	return all
}

// isFirst reports whether letter k is the next of its connection.
func (w *world) isFirst(k uint8) bool {
	for j := range k {
		if w.late[j].conn == w.late[k].conn {
			return false
		}
	}
	return true
}

func (x *explorer) connActions(w *world, i int, all []action) []action {
	c := &w.conns[i]
	id := uint8(i)
	if c.hello {
		all = append(all, action{kind: actHello, node: id})
	}
	if c.log != 0 {
		all = append(all, action{kind: actReceive, node: id})
	}
	if c.commit != 0 {
		all = append(all, action{kind: actBeat, node: id})
	}
	if w.cuts > 0 {
		all = append(all, action{kind: actCut, node: id})
	}
	if !c.up && x.node(w, int(c.master)).status.leading {
		all = append(all, action{kind: actNotice, node: id})
	}
	return all
}

// orders appends the orders of one epoch to replica i that are under way.
func (x *explorer) orders(w *world, i int, e smr.Epoch, all []action) []action {
	p := w.plan(e)
	n := x.node(w, i)
	id := uint8(i)
	if p.election && n.status.promise <= e && (!x.quickFollow(n) || !p.chosen && e == x.states[w.state].group.Epoch) {
		all = append(all, action{kind: actFence, node: id, epoch: e})
	}
	if !p.chosen {
		return all
	}
	room := x.logs.at(n.log).frames < x.scope.Frames
	switch {
	case int(p.master) != i:
		if n.status.promise <= e {
			all = append(all, action{kind: actFollow, node: id, epoch: e})
		}
	case p.election:
		if room && !(n.status.leading && n.status.reign == e) {
			all = append(all, action{kind: actLead, node: id, epoch: e})
		}
	case room && n.status.leading && n.status.epoch < e:
		all = append(all, action{kind: actTakeConfig, node: id, epoch: e})
	}
	if int(p.master) == i && p.established && n.status.leading && n.status.base < e {
		all = append(all, action{kind: actTellEstablished, node: id, epoch: e})
	}
	return all
}

// decisions appends what the configuration master may decide; State.Apply has the last word.
func (x *explorer) decisions(w *world, all []action) []action {
	g := &x.states[w.state].group
	if g.Epoch < x.scope.lastEpoch() {
		all = append(all, action{kind: actElect})
		if w.reconfigurations > 0 {
			all = x.reconfigurationsOf(w, all)
		}
	}
	if g.Electing() {
		all = x.choices(w, all)
	}
	for e := firstEpoch; e <= g.Epoch; e++ {
		if p := w.plan(e); p.reported && !p.established {
			all = append(all, action{kind: actEstablish, epoch: e})
		}
	}
	return all
}

// choices appends every winner with every set of answers.
func (x *explorer) choices(w *world, all []action) []action {
	g := &x.states[w.state].group
	for mask := 1; mask < 1<<x.scope.Replicas; mask++ {
		a := action{kind: actChoose, epoch: g.Election.Epoch}
		complete := true
		for i := range x.scope.Replicas {
			if mask>>i&1 == 0 {
				continue
			}
			complete = complete && w.answers[i].given
			a.members[i] = 1 + w.answers[i].wipes
		}
		if !complete {
			continue
		}
		for i := range x.scope.Replicas {
			if mask>>i&1 == 1 {
				a.node = uint8(i)
				all = append(all, a)
			}
		}
	}
	return all
}

// reconfigurationsOf appends every configuration that may be given out next under the present master.
func (x *explorer) reconfigurationsOf(w *world, all []action) []action {
	g := &x.states[w.state].group
	if g.Reign.Epoch == 0 {
		return all
	}
	if e := g.Reign.Epoch - 1; e >= firstEpoch { // Apply must refuse whatever names an older reign
		all = append(all, action{kind: actReconfigure, epoch: e, members: x.membersOf(g.Current()), copies: 1})
	}
	current := g.Current()
	var options [maxNodes][]uint8 // 0: no member
	for i := range x.scope.Replicas {
		now := 1 + x.node(w, i).wipes
		member, isMember := current.Find(x.names.nodes[i])
		switch {
		case x.names.nodes[i] == g.Reign.Master:
			options[i] = []uint8{1 + x.names.wipesOf(member)}
		case isMember && 1+x.names.wipesOf(member) != now:
			options[i] = []uint8{0, now, 1 + x.names.wipesOf(member)}
		default:
			options[i] = []uint8{0, now}
		}
	}
	var members [maxNodes]uint8
	var pick func(i int)
	pick = func(i int) {
		if i < x.scope.Replicas {
			for _, members[i] = range options[i] {
				pick(i + 1)
			}
			return
		}
		for copies := 1; copies <= x.scope.Replicas; copies++ {
			if x.isStep(current, members, copies) {
				all = append(all, action{kind: actReconfigure, epoch: g.Reign.Epoch, members: members, copies: uint8(copies)})
			}
		}
	}
	pick(0)
	return all
}

// membersOf writes the members of a configuration as an action does.
func (x *explorer) membersOf(c smr.Config) (members [maxNodes]uint8) {
	for _, m := range c.Members {
		members[x.names.index(m.Node)] = 1 + x.names.wipesOf(m)
	}
	return members
}

// isStep reports whether a configuration may follow current in one reconfiguration of this scope.
func (x *explorer) isStep(current smr.Config, members [maxNodes]uint8, copies int) bool {
	count, changes := 0, 0
	for i := range x.scope.Replicas {
		member, isMember := current.Find(x.names.nodes[i])
		before := uint8(0)
		if isMember {
			before = 1 + x.names.wipesOf(member)
		}
		count += int(fact(members[i] != 0))
		changes += int(fact(members[i] != before))
	}
	moved := copies - current.Copies
	switch {
	case copies > count || changes == 0 && moved == 0:
		return false
	case x.scope.AnyConfig:
		return true
	}
	return changes <= 1 && moved >= -1 && moved <= 1
}

// canWipe reports whether the configurations that count can bear the loss of replica i: of Copies-1 members (P1).
func (x *explorer) canWipe(w *world, i int) bool {
	g := &x.states[w.state].group
	for _, config := range []smr.Config{g.Established, g.Provisional} {
		lost := 0
		for _, m := range config.Members {
			at := x.names.index(m.Node)
			lost += int(fact(at == i || x.names.wipesOf(m) != x.node(w, at).wipes))
		}
		if config.Epoch != 0 && lost >= config.Copies {
			return false
		}
	}
	return true
}

// apply carries out an action. It returns whether anything changed; x.fault says whether anything is wrong then.
func (x *explorer) apply(w *world, a action) bool {
	i := int(a.node)
	switch a.kind {
	case actElect, actChoose, actEstablish, actReconfigure:
		return x.applyDecision(w, a)
	case actFence:
		return x.deliver(w, i, input{kind: inFence, epoch: a.epoch})
	case actLead:
		return x.applyLead(w, i, a.epoch)
	case actTakeConfig:
		p := w.plan(a.epoch)
		return x.deliver(w, i, input{kind: inReconfigure, config: p.config, base: p.base})
	case actTellEstablished:
		return x.deliver(w, i, input{kind: inEstablished, config: w.plan(a.epoch).config})
	case actFollow:
		return x.applyFollow(w, i, a.epoch)
	case actLearn:
		return x.deliver(w, i, input{kind: inLearn, epoch: a.epoch})
	case actConnect:
		return x.connect(w, i)
	case actHello:
		return x.takeHello(w, i)
	case actReceive:
		return x.receive(w, i)
	case actBeat:
		return x.beat(w, i)
	case actCut:
		w.cuts--
		return x.cut(w, i)
	case actNotice:
		return x.cut(w, i)
	case actLetter:
		l := w.late[i]
		w.late[i].conn |= 0x80 // taken out below, whatever its delivery does to the list
		w.dropLetters(func(l *letter) bool { return l.conn&0x80 != 0 })
		x.open(w, l)
		return true
	case actSync:
		return x.deliver(w, i, input{kind: inDisk})
	case actPropose:
		return x.deliver(w, i, input{kind: inPropose, peer: a.node})
	case actCrash:
		w.crashes--
		x.restart(w, i, inRestart)
		return true
	case actWipe:
		w.wipes--
		x.restart(w, i, inWipe)
		return true
	}
	panic(fmt.Sprintf("no action %d", a.kind))
}

// quickFollow: see the package comment. Not for a replica that lost its disk: it would hide fences and promises that come late
// to it.
func (x *explorer) quickFollow(n *node) bool { return !x.scope.SlowFollow && n.wipes == 0 }

// applyFollow delivers a follow order and, unless that is a step of its own, lets the slave connect.
func (x *explorer) applyFollow(w *world, i int, e smr.Epoch) bool {
	if !x.deliver(w, i, input{kind: inFollow, epoch: e, peer: w.plan(e).master}) || x.fault != "" {
		return x.fault != ""
	}
	return !x.quickFollow(x.node(w, i)) || x.connect(w, i) && w.conns[i].on || x.fault != ""
}

// applyLead delivers a lead order, and checks what must hold of a new master.
func (x *explorer) applyLead(w *world, i int, e smr.Epoch) bool {
	p := w.plan(e)
	in := input{kind: inLead, peer: p.master, wipes: p.wipes, stale: p.stale, config: p.config, base: p.base}
	before := x.node(w, i)
	if !x.deliver(w, i, in) || x.fault != "" {
		return x.fault != ""
	}
	n := x.node(w, i)
	if !n.status.leading || n.status.reign != e || before.status.leading && before.status.reign == e {
		return true
	}
	g := &x.states[w.state].group
	switch {
	case p.led:
		x.fault = fmt.Sprintf("n%d leads epoch %d, which was led before: one epoch, two writers", i, e)
	case g.Reign.Epoch == e && !g.Electing() && !x.logs.isPrefix(w.truth, n.log):
		x.fault = fmt.Sprintf("n%d leads epoch %d without the committed bytes: it has [%s], committed is [%s]", i, e,
			x.logs.words(n.log), x.logs.words(w.truth))
	}
	p.led = true
	return true
}

func (x *explorer) applyDecision(w *world, a action) bool {
	c := command{state: w.state, node: a.node, copies: a.copies, members: a.members, epoch: a.epoch}
	switch a.kind {
	case actElect:
		c.kind, c.node = cmdElection, 0
	case actChoose:
		c.kind = cmdChoose
		for i := range x.scope.Replicas {
			if a.members[i] != 0 {
				c.logs[i] = w.answers[i].log
			}
		}
	case actEstablish:
		c.kind = cmdEstablish
	case actReconfigure:
		c.kind = cmdReconfigure
	}
	next := x.decide(c)
	if next == w.state {
		return false
	}
	before, s := &x.states[w.state], &x.states[next]
	w.state = next
	if given := s.group.Epoch - before.group.Epoch; given != smr.Epoch(fact(a.kind == actElect || a.kind == actReconfigure)) {
		x.fault = fmt.Sprintf("epoch %d was given out after %d", s.group.Epoch, before.group.Epoch)
		return true
	}
	if a.kind == actReconfigure && a.epoch != before.group.Reign.Epoch {
		x.fault = fmt.Sprintf("a reconfiguration of reign %d is given out in reign %d", a.epoch, before.group.Reign.Epoch)
		return true
	}
	switch a.kind {
	case actElect:
		*w.plan(s.group.Epoch) = plan{election: true}
		w.answers = [maxNodes]answer{}
	case actChoose:
		p := w.plan(a.epoch)
		config := s.group.Established.Clone() // an election changes the master only (F2)
		config.Epoch, config.Reign, config.Master = a.epoch, a.epoch, x.names.nodes[a.node]
		p.chosen, p.master, p.config, p.base = true, a.node, x.configs.intern(config), s.established
		if p.config != s.provisional && !mutant.On(mutant.EstablishSuperseded) {
			x.fault = fmt.Sprintf("the choice of epoch %d changes more than the master", a.epoch)
		}
		p.wipes, p.stale = w.answers[a.node].wipes, w.answers[a.node].stale
		w.answers = [maxNodes]answer{}
	case actReconfigure:
		w.reconfigurations--
		*w.plan(s.group.Epoch) = plan{chosen: true, master: uint8(x.names.index(s.group.Reign.Master)), config: s.provisional, base: s.established}
	case actEstablish:
		p := w.plan(a.epoch)
		p.established = true
		if !x.scope.SlowTold {
			x.deliver(w, int(p.master), input{kind: inEstablished, config: p.config})
		}
	}
	return true
}

package failover

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// tally holds the answers of the running election.
type tally struct {
	epoch   smr.Epoch
	began   uint64   // tick
	answers []answer // sorted by node
	enough  uint64   // tick since when there are enough, 0 if there are not

	// Of a switch-over: whether the slaves may be fenced too, when the old master had answered, and where
	// the target's log ended when it was last looked at.
	drained bool
	stopped uint64
	target  smr.Position

	all bool // Election.Without is asked like the others
}

// leavesOut reports whether node is not asked: it is on the side of a master that has lost its slaves, and the others may be
// enough.
func (t *tally) leavesOut(g *Group, node smr.NodeID) bool {
	return !t.all && slices.Contains(g.Election.Without, node)
}

type answer struct {
	node smr.NodeID
	step uint64 // of its arrival
	FenceAnswer
}

func (t *tally) add(node smr.NodeID, got FenceAnswer, step uint64) {
	i := sort.Search(len(t.answers), func(i int) bool { return t.answers[i].node >= node })
	if i == len(t.answers) || t.answers[i].node != node {
		t.answers = append(t.answers, answer{})
		copy(t.answers[i+1:], t.answers[i:])
	}
	t.answers[i] = answer{node: node, step: step, FenceAnswer: got}
}

func (t *tally) of(node smr.NodeID) *answer {
	for i := range t.answers {
		if t.answers[i].node == node {
			return &t.answers[i]
		}
	}
	return nil
}

// masterFenced reports whether the master of the last reign has answered, in the life in which it led: from that on it reads under no
// lease, and those of reigns before had run out when it was chosen (S2).
func (t *tally) masterFenced(g *Group) bool {
	got := t.of(g.Reign.Master)
	return got != nil && got.Incarnation == g.Reign.Incarnation && got.Life == g.Reign.Life
}

func (t *tally) targetSeen(position smr.Position) {
	if position.Compare(t.target) > 0 {
		t.target = position
	}
}

// found puts a new group's first configuration on record once all its replicas were seen, blank (S10).
func (d *Driver) found(g *Group, p *plan, out *Effects) {
	config := smr.Config{Copies: g.Policy.Copies}
	missing := make([]string, 0, len(g.Replicas))
	p.foreign, p.missing = "", ""
	if len(g.Replicas) < g.Policy.Copies {
		p.missing = fmt.Sprintf("waiting for replicas: %d are registered, %d copies are wanted", len(g.Replicas), g.Policy.Copies)
		return
	}
	first, end := &g.Replicas[0], smr.LSN(0)
	for i := range g.Replicas {
		replica := &g.Replicas[i]
		r := d.replica(g.Name, replica.Node)
		switch {
		case !r.seen || r.suspected || r.view.Incarnation == 0:
			missing = append(missing, string(replica.Node))
		case !r.view.Blank || r.view.End != r.view.Start:
			p.foreign = fmt.Sprintf("%s is not blank: it holds a log that ends at %d and has promised epoch %d", replica.Node, r.view.End, r.view.Promise)
		case len(config.Members) > 0 && r.view.End != end:
			// Restored ones (smrctl restore) hold nothing either, and all of them begin at the same LSN: whoever is elected, nothing is lost.
			p.foreign = fmt.Sprintf("%s begins at LSN %d and %s at %d: give all of them directories of one restore, or empty ones", replica.Node, r.view.End, config.Members[0].Node, end)
		default:
			end = r.view.End
			config.Members = append(config.Members, smr.Member{Node: replica.Node, Incarnation: r.view.Incarnation})
		}
		if replica.Preference > first.Preference {
			first = replica
		}
	}
	p.missing = ""
	switch {
	case p.foreign != "":
		p.missing = p.foreign
		if !p.waits {
			p.waits = true
			out.Events = append(out.Events, Event{StampMillis: d.stamp, Group: g.Name, Name: EventForeignReplica, Text: clip(p.foreign)})
		}
		return
	case len(missing) > 0:
		p.missing = "waiting for " + strings.Join(missing, ", ")
		return
	}
	config.Master = first.Node
	d.propose(p, Command{Found: &Found{Group: g.Name, Config: config}}, out)
}

// beginFirstElection tells every replica of a founded group its epoch, then begins the election.
func (d *Driver) beginFirstElection(g *Group, p *plan, out *Effects) {
	told, missing := 0, ""
	for _, m := range g.Established.Members {
		r := d.replica(g.Name, m.Node)
		if p.done(m.Node, CallLearn) || r.seen && r.view.Incarnation == m.Incarnation && !r.view.Blank {
			told++
			continue
		}
		missing += " " + string(m.Node)
		d.order(g, p, Call{Node: m.Node, Kind: CallLearn, Epoch: g.Epoch}, out)
	}
	p.missing = ""
	if told == len(g.Established.Members) || told >= g.AnswersNeeded() && d.ticks-p.changed >= uint64(d.o.FoundTicks) {
		d.propose(p, Command{BeginElection: &BeginElection{
			Group: g.Name, Expect: g.Epoch, Kind: ElectionFirst, Reason: "the first master of a new group is elected",
		}}, out)
		return
	}
	p.missing = "waiting until these learned the first epoch:" + missing
}

// elect carries on the election that State says is running (S2, S4).
func (d *Driver) elect(g *Group, p *plan, out *Effects) {
	t := &p.tally
	if t.epoch != g.Election.Epoch {
		*t = tally{epoch: g.Election.Epoch, began: d.ticks, drained: g.Election.Target == ""}
	}
	d.forgetAnswers(g, p)
	if !t.drained && !d.drain(g, p, out) {
		return
	}
	c := d.count(g, p)
	if len(g.Election.Without) > 0 && (c.counted+c.pending < c.needed || d.ticks-t.began >= uint64(d.o.LeadTicks)) {
		t.all = true // the others are not enough after all
	}
	for i := range g.Replicas {
		if node := g.Replicas[i].Node; t.of(node) == nil && !t.leavesOut(g, node) && d.mayFence(g, node) {
			d.fence(g, p, node, out)
		}
	}
	c = d.count(g, p)
	p.missing = ""
	d.since(&t.enough, c.counted >= c.needed)
	switch {
	case c.counted >= c.needed:
		grace := d.o.GraceTicks
		if c.awaitsTarget {
			grace = d.o.CatchUpTicks
		}
		if !c.awaits || d.lasted(t.enough, grace) {
			d.choose(g, p, out)
		}
	case c.counted+c.pending < c.needed && c.counted+c.pending+c.stale >= c.needed:
		// A restarted replica never answers the same epoch again (S2): only a higher one helps.
		d.begin(g, p, BeginElection{Kind: g.Election.Kind, Target: g.Election.Target, Without: g.Election.Without,
			Reason: clip(fmt.Sprintf("the election of epoch %d cannot be finished: %s", g.Election.Epoch, d.missing(g, p)))}, out)
	case c.counted+c.pending < c.needed || d.ticks-t.began >= uint64(d.o.LeadTicks):
		d.unavailable(g, p, fmt.Sprintf("no election: %d answers of the %d members of epoch %d are needed, %d came; missing: %s",
			c.needed, len(g.Established.Members), g.Established.Epoch, c.counted, d.missing(g, p)), out)
	}
}

// fence asks one replica for its promise. One that is thought down is asked more rarely.
func (d *Driver) fence(g *Group, p *plan, node smr.NodeID, out *Effects) {
	o := p.orderOf(node, CallFence)
	r := d.replica(g.Name, node)
	if o != nil && o.times > 0 && !d.up(r) && d.ticks-o.sent < uint64(5*d.o.RetryTicks) {
		return
	}
	if o != nil && o.code == AnswerRefused && !o.done && r.seen && r.view.Blank {
		// A replica that learned no epoch yet refuses. Once it has learned this one, it can answer the next.
		d.order(g, p, Call{Node: node, Kind: CallLearn, Epoch: g.Epoch}, out)
	}
	d.order(g, p, Call{Node: node, Kind: CallFence, Epoch: g.Election.Epoch, LeaseOver: p.tally.masterFenced(g)}, out)
}

// drain is the first half of a switch-over: the old master is fenced alone, so that its slaves still receive what it had
// appended. It returns true when the others may be fenced: the target has caught up, or it was waited for long enough.
func (d *Driver) drain(g *Group, p *plan, out *Effects) bool {
	t := &p.tally
	old := g.Reign.Master
	got := t.of(old)
	o := p.orderOf(old, CallFence)
	switch {
	case got == nil && (!d.up(d.replica(g.Name, old)) || o != nil && o.times > 0 && o.id == 0 && !o.done):
		t.drained = true // it is gone or refuses: go on as for a fail-over
	case got == nil:
		d.fence(g, p, old, out)
		t.drained = d.ticks-t.began >= uint64(d.o.CatchUpTicks)
	case old == g.Election.Target || got.Position.Compare(t.target) <= 0:
		t.drained = true
	default:
		d.since(&t.stopped, true)
		d.order(g, p, Call{Node: g.Election.Target, Kind: CallLook}, out)
		t.drained = d.lasted(t.stopped, d.o.CatchUpTicks)
	}
	return t.drained
}

// forgetAnswers drops answers of replicas that died since: choosing one of them would only fail. Any other sufficient
// set is as good (S4).
func (d *Driver) forgetAnswers(g *Group, p *plan) {
	kept := p.tally.answers[:0]
	for _, a := range p.tally.answers {
		r := d.replica(g.Name, a.node)
		reborn := r != nil && r.seen && r.step > a.step && (r.view.Life != a.Life || r.view.Incarnation != a.Incarnation)
		if r == nil || r.agreedDown || reborn || a.Life == r.buried {
			continue
		}
		kept = append(kept, a)
	}
	p.tally.answers = kept
}

// count of an election. Only members of the last established configuration are in it, by name and incarnation.
type count struct {
	needed, counted int
	pending         int  // may yet answer
	stale           int  // will not answer this epoch, but a higher one
	awaits          bool // a pending one is being asked right now
	awaitsTarget    bool
}

// response says how a member of the last established configuration has answered.
type response uint8

const (
	responseCounts response = iota
	responseUnasked
	responseLost
	responseDown
	responseStale
	responsePending
)

func (d *Driver) responseOf(g *Group, p *plan, m smr.Member) response {
	if p.tally.leavesOut(g, m.Node) {
		return responseUnasked
	}
	if a := p.tally.of(m.Node); a != nil && (a.Incarnation == m.Incarnation || mutant.On(mutant.CountWiped)) {
		return responseCounts
	}
	r := d.replica(g.Name, m.Node)
	o := p.orderOf(m.Node, CallFence)
	switch {
	case p.tally.of(m.Node) != nil || r.seen && r.view.Incarnation != m.Incarnation:
		return responseLost
	case !d.up(r):
		return responseDown
	case o != nil && o.times > 0 && !o.done && o.code == AnswerStale:
		return responseStale
	}
	return responsePending
}

func (d *Driver) count(g *Group, p *plan) count {
	c := count{needed: g.AnswersNeeded()}
	for _, m := range g.Established.Members {
		switch d.responseOf(g, p, m) {
		case responseCounts:
			c.counted++
		case responseStale:
			c.stale++
		case responsePending:
			c.pending++
			if o := p.orderOf(m.Node, CallFence); o == nil || o.times == 0 || o.id != 0 {
				c.awaits = true
				c.awaitsTarget = c.awaitsTarget || m.Node == g.Election.Target
			}
		}
	}
	return c
}

// missing says who has not answered, and why.
func (d *Driver) missing(g *Group, p *plan) string {
	missing := make([]string, 0, len(g.Established.Members))
	for _, m := range g.Established.Members {
		why := ""
		switch d.responseOf(g, p, m) {
		case responseCounts:
			continue
		case responseUnasked:
			why = "not asked: it was cut from the others"
		case responseLost:
			why = "it lost its log"
		case responseDown:
			why = d.complaint(d.replica(g.Name, m.Node))
		case responseStale:
			why = "it restarted after its promise"
		default:
			why = "has not answered"
		}
		missing = append(missing, fmt.Sprintf("%s (%s)", m.Node, why))
	}
	return strings.Join(missing, ", ")
}

// complaint says why a replica is thought down.
func (d *Driver) complaint(r *replica) string {
	return firstComplaint(d.witnesses(r))
}

// choose puts the best answer on record: the highest Position (S4). Equal ones: the target of a switch-over, then one with
// a KV node, then preference, then name.
func (d *Driver) choose(g *Group, p *plan, out *Effects) {
	candidates := make([]Candidate, 0, len(p.tally.answers))
	for _, a := range p.tally.answers {
		c := Candidate{Node: a.node, Incarnation: a.Incarnation, Life: a.Life, Position: a.Position, Commit: a.Commit, Applied: a.Applied}
		if !g.Counts(c) {
			c.Note = "not a member of the last established configuration: does not count"
		}
		candidates = append(candidates, c)
	}
	best := -1
	for i := range candidates {
		if !g.Counts(candidates[i]) {
			continue
		}
		if best < 0 {
			best = i
		} else if better, _ := d.compare(g, candidates[i], candidates[best]); better > 0 {
			best = i
		}
	}
	chosen := &candidates[best]
	chosen.Chosen = true
	reason := fmt.Sprintf("%s leads: it is at %v, %d of %d answers", chosen.Node, chosen.Position, len(candidates), len(g.Replicas))
	for i := range candidates {
		if i == best || !g.Counts(candidates[i]) {
			continue
		}
		if _, why := d.compare(g, *chosen, candidates[i]); why != "" {
			reason += "; " + why
		}
	}
	if target := g.Election.Target; target != "" && target != chosen.Node {
		reason += fmt.Sprintf("; %s was wanted, but it is behind or did not answer", target)
	}
	d.propose(p, Command{Choose: &Choose{Group: g.Name, Epoch: g.Election.Epoch, Master: chosen.Node, Incarnation: chosen.Incarnation,
		Life: chosen.Life, Candidates: candidates, Reason: clip(reason)}}, out)
}

// compare returns a positive number if x is the better master, a negative one if y is, and what set the winner
// apart if their Positions are equal.
func (d *Driver) compare(g *Group, x, y Candidate) (int, string) {
	if order := comparePositions(x.Position, y.Position); order != 0 {
		return order, ""
	}
	for _, rule := range []struct {
		x, y int
		text string
	}{
		{fact(x.Node == g.Election.Target), fact(y.Node == g.Election.Target), "was asked for"},
		{fact(d.attached(g, x.Node)), fact(d.attached(g, y.Node)), "has a KV node"},
		{fact(!g.drained(x.Node)), fact(!g.drained(y.Node)), "is not drained"},
		{g.preference(x.Node), g.preference(y.Node), "is preferred"},
		{cmp.Compare(y.Node, x.Node), 0, "is first by name"},
	} {
		if rule.x == rule.y {
			continue
		}
		winner, loser := x.Node, y.Node
		if rule.x < rule.y {
			winner, loser = loser, winner
		}
		return rule.x - rule.y, fmt.Sprintf("%s is as far, but %s %s", loser, winner, rule.text)
	}
	return 0, ""
}

func fact(holds bool) int {
	if holds {
		return 1
	}
	return 0
}

func (g *Group) preference(node smr.NodeID) int {
	if r := g.Replica(node); r != nil {
		return r.Preference
	}
	return 0
}

// attached reports whether node has a living KV node, as far as this confmaster knows.
func (d *Driver) attached(g *Group, node smr.NodeID) bool {
	r := d.replica(g.Name, node)
	return r != nil && r.seen && !r.suspected && r.view.Attached && r.view.KVSilentMillis < uint32(d.o.KVSilentTicks*TickMillis)
}

// begin proposes an election, unless they follow each other too fast: what counts are elections that came to nothing, or
// whose reign did not last. A group that loses its masters honestly, one after the other, is served each time.
func (d *Driver) begin(g *Group, p *plan, election BeginElection, out *Effects) {
	if p.proposed.id != 0 {
		return
	}
	lasted := !p.waits && p.reigns != 0 && d.ticks-p.reigns >= uint64(d.o.StandTicks)
	if p.tokens == 0 && !lasted {
		if !p.waits {
			p.waits = true
			out.Events = append(out.Events, Event{StampMillis: d.stamp, Group: g.Name, Name: EventElectionWaits, Epoch: g.Epoch,
				Text: clip("too many elections: the next one waits, though " + election.Reason)})
		}
		return
	}
	p.waits, p.reigns = false, 0
	if !lasted {
		p.tokens--
	}
	election.Group, election.Expect = g.Name, g.Epoch
	election.Reason = clip(election.Reason)
	d.propose(p, Command{BeginElection: &election}, out)
}

// unavailable notes, once an epoch, why there can be no master.
func (d *Driver) unavailable(g *Group, p *plan, text string, out *Effects) {
	p.missing = clip(text)
	if p.noted == g.Epoch {
		return
	}
	for i := len(d.state.Log) - 1; i >= 0; i-- {
		entry := &d.state.Log[i]
		if entry.Group != g.Name {
			continue
		}
		if entry.Kind == EntryUnavailable && entry.Epoch == g.Epoch {
			p.noted = g.Epoch
			return
		}
		if entry.Epoch != g.Epoch {
			break
		}
	}
	var witnesses []Witness
	for _, m := range g.Established.Members {
		if r := d.replica(g.Name, m.Node); d.downs(r) > 0 {
			witnesses = append(witnesses, d.witnesses(r)...)
		}
	}
	witnesses = witnesses[:min(len(witnesses), MaxWitnesses)]
	if d.propose(p, Command{Note: &Note{Group: g.Name, Expect: g.Epoch, Kind: EntryUnavailable, Text: p.missing, Witnesses: witnesses}}, out) {
		p.noted = g.Epoch
	}
}

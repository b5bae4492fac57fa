package failover

import (
	"slices"
	"sort"

	"lockstep/smr"
)

// Driver observes replicas on every confmaster, and on the raft leader carries out the plans.
//
// Everything in it is volatile. What it may rely on after a change of leaders is State and what it is told anew.
type Driver struct {
	o     Options
	state *State

	ticks   uint64 // time
	steps   uint64 // inputs so far: orders observations against decisions
	stirred bool   // an input since the last tick, or that one, had effects
	stamp   int64  // wall clock of the last tick
	leading bool

	lastCall    CallID
	lastCommand uint64

	replicas []*replica // every registered replica, sorted by group and node
	plans    []*plan    // at the leader: one a group, sorted by name
	peers    []peer     // at the leader: what other confmasters think, sorted by their id
	requests []*request // at the leader: of operators, in order of arrival
}

// plan is what the leader does for one group.
type plan struct {
	group   string
	began   uint64    // tick
	epoch   smr.Epoch // State's highest epoch when this was last looked at
	settled uint64    // step at which the group last changed: what was observed before says nothing about it
	changed uint64    // tick of the same

	proposed proposal
	orders   []*order

	tally     tally
	led       smr.Epoch // reign that its master was told, or was seen, to lead
	refusal   string    // why the chosen master refused to lead
	told      smr.Epoch // established epoch that the master was told of
	lostSince uint64    // tick since when the master says that it does not lead, 0 if it does
	bareSince uint64    // tick since when the master has no KV node, 0 if it has one
	severed   severed
	upkeep    []*upkeep // one a replica, in order of first need
	upkept    smr.Epoch // reign that upkeep belongs to

	tokens       int    // elections that may be begun at once
	tokenAt      uint64 // tick of the last refill
	waits        bool   // EventElectionWaits was reported
	reigns       uint64 // tick at which the present reign was established, 0 if that is not known
	reconfigured uint64 // tick of the last reconfiguration
	missing      string // why the group is unavailable, "" if it is not
	noted        smr.Epoch
	foreign      string // why the group cannot be founded
}

// proposal is the one command of a group that is on its way through raft.
type proposal struct {
	id   uint64 // 0: none
	tick uint64
}

// order is a call to a replica for one purpose: the last one sent, and what came of it.
type order struct {
	node  smr.NodeID
	kind  CallKind
	epoch smr.Epoch

	id      CallID // 0: none is outstanding
	sent    uint64 // tick
	retryAt uint64 // tick before which it is not repeated
	times   int
	done    bool // the last answer was AnswerOK
	code    AnswerCode
	text    string
}

// upkeep is what the leader remembers of a replica for drop and admission.
type upkeep struct {
	node      smr.NodeID
	goneSince uint64 // a member that does not stream from the master: tick since when, 0 if it does
	nearSince uint64 // a learner that streams and is near: tick since when, 0 if it is not

	lag      lag
	dropping bool // its drop for being slow was proposed

	source     smr.NodeID // whom it was sent to for an image, and when
	sourceTick uint64
}

// New returns a Driver that reads state, which is not copied, during Step.
func New(o Options, state *State) *Driver {
	d := &Driver{o: o.withDefaults(), state: state, ticks: 1}
	d.trackReplicas()
	return d
}

func (o Options) withDefaults() Options {
	o.Voters = slices.Clone(o.Voters)
	if !slices.Contains(o.Voters, o.Self) {
		o.Voters = append(o.Voters, o.Self)
	}
	slices.Sort(o.Voters)
	for _, field := range []struct {
		ticks    *int
		standard int
	}{
		{&o.ProbeTicks, 10}, {&o.OpineTicks, 10}, {&o.SuspectTicks, 100}, {&o.LoopIdleTicks, 100}, {&o.DiskStuckTicks, 200},
		{&o.KVSilentTicks, 300}, {&o.OpinionTicks, 50}, {&o.GraceTicks, 3}, {&o.CatchUpTicks, 20}, {&o.RetryTicks, 20},
		{&o.LostTicks, 20}, {&o.LeadTicks, 200}, {&o.HandOverTicks, 30}, {&o.FoundTicks, 300}, {&o.ProposeTicks, 100},
		{&o.CallTicks, 100}, {&o.SwitchTicks, 1500}, {&o.ElectionBurst, 3}, {&o.ElectionTicks, 300}, {&o.DropTicks, 500},
		{&o.LowerTicks, 1000}, {&o.AdmitTicks, 20}, {&o.StandTicks, 30}, {&o.SourceFetches, 2},
	} {
		if *field.ticks <= 0 {
			*field.ticks = field.standard
		}
	}
	if o.AdmitDistance == 0 {
		o.AdmitDistance = 1 << 20
	}
	if o.TargetDistance == 0 {
		o.TargetDistance = 4 << 20
	}
	return o
}

// Options returns the options with all defaults filled in.
func (d *Driver) Options() Options { return d.o }

// Leading reports whether this Driver was told that its confmaster leads raft.
func (d *Driver) Leading() bool { return d.leading }

// Step takes one input and adds what follows from it to out.
func (d *Driver) Step(in Input, out *Effects) {
	d.steps++
	before := out.count()
	_, ticks := in.(*Tick)
	defer func() { d.stirred = d.stirred && !ticks || out.count() > before }()
	if !d.tracksAll() {
		d.trackReplicas() // a command was applied whose Committed has yet to come
	}
	switch in := in.(type) {
	case *Tick:
		d.ticks += uint64(max(in.Ticks, 1))
		d.stamp = in.StampMillis
	case *Observed:
		d.observed(in)
	case *Unreachable:
		d.unreachable(in)
	case *Elected:
		d.elected()
	case *Deposed:
		d.deposed(out)
	case *Restored:
		d.trackReplicas()
		if d.leading {
			d.trackPlans()
		}
	case *Committed:
		d.committed(&in.Result, out)
	case *Opinions:
		d.opinions(in)
	case *Answer:
		d.answer(in, out)
	case *Request:
		d.request(in, out)
	}
	d.judge(out)
	if d.leading {
		for _, p := range d.plans {
			d.advance(p, out)
		}
		d.expireRequests(out)
	}
}

// elected begins with nothing but State and own observations.
func (d *Driver) elected() {
	d.leading = true
	d.plans, d.peers = nil, nil
	for _, r := range d.replicas {
		r.agreedDown = false
	}
	d.trackPlans()
}

func (d *Driver) deposed(out *Effects) {
	d.leading = false
	d.plans, d.peers = nil, nil
	for _, r := range d.replicas {
		r.agreedDown = false
	}
	for _, q := range d.requests {
		q.reply(out, Reply{Unsure: true, Text: "this confmaster leads no longer; the next leader goes on with what was decided: ask for the status"})
	}
	d.requests = nil
}

// trackPlans keeps one plan for each group of State.
func (d *Driver) trackPlans() {
	plans := make([]*plan, 0, len(d.state.Groups))
	for i := range d.state.Groups {
		name := d.state.Groups[i].Name
		p := d.plan(name)
		if p == nil {
			p = &plan{group: name, began: d.ticks, settled: d.steps, changed: d.ticks, tokens: d.o.ElectionBurst, tokenAt: d.ticks}
		}
		plans = append(plans, p)
	}
	d.plans = plans
}

func (d *Driver) plan(group string) *plan {
	i := sort.Search(len(d.plans), func(i int) bool { return d.plans[i].group >= group })
	if i < len(d.plans) && d.plans[i].group == group {
		return d.plans[i]
	}
	return nil
}

func (d *Driver) committed(result *Result, out *Effects) {
	d.trackReplicas()
	if !d.leading {
		return
	}
	d.trackPlans()
	if p := d.plan(result.Group); p != nil {
		if result.Confmaster == d.o.Self && result.ID == p.proposed.id {
			p.proposed = proposal{}
		}
		if result.Applied {
			p.settled, p.changed = d.steps, d.ticks
			p.lostSince = 0
			d.noteReign(p, result)
		}
	}
	d.requestCommitted(result, out)
}

// advance does for a group whatever State and the observations call for now. It is idempotent.
func (d *Driver) advance(p *plan, out *Effects) {
	g := d.state.Group(p.group)
	if g.Epoch != p.epoch {
		p.epoch = g.Epoch
		p.orders = nil
		p.refusal = ""
		p.severed = severed{times: p.severed.times}
	}
	d.refill(p)
	if p.proposed.id != 0 && d.ticks-p.proposed.tick >= uint64(d.o.ProposeTicks) {
		p.proposed = proposal{}
	}
	switch {
	case g.Epoch == 0:
		d.found(g, p, out)
	case g.Electing():
		d.elect(g, p, out)
	case g.Reign.Epoch == 0:
		d.beginFirstElection(g, p, out)
	default:
		d.reign(g, p, out)
	}
	d.advanceRequests(g, p, out)
}

// propose sends a command to raft, unless one of this group is on its way.
func (d *Driver) propose(p *plan, cmd Command, out *Effects) bool {
	if p.proposed.id != 0 {
		return false
	}
	p.proposed = proposal{id: d.send(cmd, out), tick: d.ticks}
	return true
}

func (d *Driver) send(cmd Command, out *Effects) uint64 {
	d.lastCommand++
	cmd.ID, cmd.Confmaster, cmd.StampMillis = d.lastCommand, d.o.Self, d.stamp
	out.Proposals = append(out.Proposals, cmd)
	return cmd.ID
}

// order sends a call, unless the same one is outstanding or it is too early to repeat it. Calls of one kind, node and
// epoch are the same; those of other epochs were forgotten when the epoch changed.
func (d *Driver) order(g *Group, p *plan, call Call, out *Effects) *order {
	o := p.orderOf(call.Node, call.Kind)
	if o == nil {
		o = &order{node: call.Node, kind: call.Kind}
		p.orders = append(p.orders, o)
	}
	if o.id != 0 && d.ticks-o.sent > uint64(2*d.o.CallTicks) {
		o.id = 0 // the shell broke its word; do not wait for ever
	}
	if o.id != 0 || d.ticks < o.retryAt {
		return o
	}
	d.lastCall++
	call.ID, call.Group, call.Addr, call.TimeoutTicks = d.lastCall, g.Name, g.Replica(call.Node).ManageAddr, d.o.CallTicks
	o.id, o.sent, o.epoch, o.retryAt = call.ID, d.ticks, call.Epoch, d.ticks+uint64(d.o.RetryTicks)
	o.times++
	out.Calls = append(out.Calls, call)
	return o
}

func (p *plan) orderOf(node smr.NodeID, kind CallKind) *order {
	for _, o := range p.orders {
		if o.node == node && o.kind == kind {
			return o
		}
	}
	return nil
}

// done reports whether the last call of that kind to node was carried out.
func (p *plan) done(node smr.NodeID, kind CallKind) bool {
	o := p.orderOf(node, kind)
	return o != nil && o.done
}

// answer notes what came of a call. An answer to a call that was forgotten (another epoch, another leadership) is
// dropped: whatever it says is asked again if it still matters.
func (d *Driver) answer(in *Answer, out *Effects) {
	for _, p := range d.plans {
		for _, o := range p.orders {
			if o.id != in.ID || in.ID == 0 {
				continue
			}
			refused := in.Code == AnswerStale || in.Code == AnswerRefused
			repeated := o.times > 1 && o.code == in.Code && o.text == clip(in.Text)
			o.id, o.done, o.code, o.text = 0, in.Code == AnswerOK, in.Code, clip(in.Text)
			if refused && !repeated {
				out.Events = append(out.Events, Event{StampMillis: d.stamp, Group: p.group, Name: EventCallFailed, Node: o.node,
					Epoch: p.epoch, Text: clip(string(o.kind) + " " + in.Code.String() + ": " + in.Text)})
			}
			d.orderAnswered(d.state.Group(p.group), p, o, in)
			return
		}
	}
}

func (d *Driver) orderAnswered(g *Group, p *plan, o *order, in *Answer) {
	if g.Epoch != p.epoch {
		return // the epoch has moved on since the call; advance forgets it
	}
	switch o.kind {
	case CallFence:
		if in.Code == AnswerOK && in.Fence != nil && g.Electing() && in.Fence.Epoch == g.Election.Epoch {
			p.tally.add(o.node, *in.Fence, d.steps)
		}
	case CallLook:
		if in.Code == AnswerOK && in.View != nil {
			p.tally.targetSeen(smr.Position{Epoch: in.View.PositionEpoch, End: in.View.End})
		}
		o.retryAt = d.ticks + 1
	case CallLead:
		switch in.Code {
		case AnswerOK:
			p.led = g.Reign.Epoch
		case AnswerStale, AnswerRefused:
			p.refusal = o.text
		}
	case CallEstablished:
		if in.Code == AnswerOK {
			p.told = max(p.told, o.epoch)
		}
	}
}

// refill lets one more election begin every ElectionTicks.
func (d *Driver) refill(p *plan) {
	for d.ticks-p.tokenAt >= uint64(d.o.ElectionTicks) {
		p.tokenAt += uint64(d.o.ElectionTicks)
		p.tokens = min(p.tokens+1, d.o.ElectionBurst)
	}
}

// noteReign remembers since when the present reign stands.
func (d *Driver) noteReign(p *plan, result *Result) {
	if g := d.state.Group(p.group); result.Entry != nil && result.Entry.Kind == EntryEstablished && g.Established.Epoch == g.Established.Reign {
		p.reigns = d.ticks
	}
}

func (p *plan) upkeepOf(node smr.NodeID) *upkeep {
	for _, u := range p.upkeep {
		if u.node == node {
			return u
		}
	}
	u := &upkeep{node: node}
	p.upkeep = append(p.upkeep, u)
	return u
}

// since keeps a tick at which something began to be the case: 0 while it is not.
func (d *Driver) since(tick *uint64, holds bool) {
	switch {
	case !holds:
		*tick = 0
	case *tick == 0:
		*tick = d.ticks
	}
}

// lasted reports whether what began at tick has lasted for so many ticks.
func (d *Driver) lasted(tick uint64, ticks int) bool {
	return tick != 0 && d.ticks-tick >= uint64(ticks)
}

package sim

import (
	"errors"
	"fmt"

	"lockstep/internal/failover"
	"lockstep/smr"
	"lockstep/smr/replica"
)

const (
	whatMasterTick = 80 + iota
	whatDriver
)

// confmaster is a configuration master: the oracle, or one of three members of raft.
type confmaster struct {
	w      *world
	id     uint64
	place  int
	voters []uint64

	up       bool
	life     uint64 // counts restarts and changes of the oracle's Driver
	state    *failover.State
	driver   *failover.Driver
	out      failover.Effects
	seen     []seenView // by host
	ticks    int
	ticking  bool   // a tick is on its way: there is never more than one, whatever crashes and restarts
	requests uint64 // of operators

	raft *raftMember // nil: the oracle
}

// seenView orders what a replicator said: a stream delivers in order.
type seenView struct {
	life   smr.Life
	number uint64
}

func (w *world) driverOptions(m *confmaster) failover.Options {
	o := &w.o
	return failover.Options{Self: m.id, Voters: m.voters, SuspectTicks: o.SuspectTicks, DropTicks: o.DropTicks, LowerTicks: o.LowerTicks,
		LeadTicks: 60, LostTicks: 10, HandOverTicks: 20, FoundTicks: 100, ProposeTicks: 50, CallTicks: 40, RetryTicks: 8,
		ElectionTicks: 60, KVSilentTicks: 60, DiskStuckTicks: 40, LoopIdleTicks: 30, SwitchTicks: 300, AdmitTicks: 5, GraceTicks: 2, AdmitDistance: o.AdmitBytes}
}

// createGroup is the command that registers the group.
func (w *world) createGroup() *failover.Command {
	group := &failover.CreateGroup{Name: groupName, Policy: failover.Policy{Copies: w.o.Copies, MinCopies: w.o.MinCopies}}
	for _, h := range w.hosts[:w.o.Replicas] {
		group.Replicas = append(group.Replicas, h.registration())
	}
	return &failover.Command{ID: 1, Confmaster: 1, StampMillis: epochStamp, CreateGroup: group}
}

// startOracle makes the configuration master of fast mode.
func (w *world) startOracle() {
	m := &confmaster{w: w, id: 1, place: len(w.hosts), voters: []uint64{1}, up: true, state: failover.NewState(w.cluster),
		seen: make([]seenView, len(w.hosts))}
	if result := m.state.Apply(w.createGroup()); !result.Applied {
		w.violate("the group cannot be created", "%s", result.Reason)
	}
	m.driver = failover.New(w.driverOptions(m), m.state)
	w.masters = []*confmaster{m}
	m.step(&failover.Elected{})
	m.tickOn()
}

// tickOn has ticks begin, unless one of an earlier life is still on its way.
func (m *confmaster) tickOn() {
	if !m.ticking {
		m.ticking = true
		m.w.after(between(m.w.draw.clock, 0, tickLength), m, whatMasterTick)
	}
}

// replaceDriver is a change of leaders: whatever was merely observed is forgotten.
func (m *confmaster) replaceDriver(pause int64) {
	m.w.hit(probeMasterChange)
	m.life++
	m.driver = failover.New(m.w.driverOptions(m), m.state)
	clear(m.seen)
	m.out = failover.Effects{}
	life := m.life
	m.w.after(pause, later(func() {
		if m.life == life {
			m.step(&failover.Elected{})
			m.carryOut()
		}
	}), 1)
}

func (m *confmaster) stamp() int64 { return epochStamp + m.w.now/millisecond }

func (m *confmaster) step(in failover.Input) { m.driver.Step(in, &m.out) }

func (m *confmaster) fire(what uint64) {
	if what != whatMasterTick {
		return
	}
	if m.ticking = m.up; !m.up {
		return
	}
	m.w.after(tickLength, m, whatMasterTick)
	m.ticks++
	rests := m.driver.Rest() > 1
	m.step(&failover.Tick{StampMillis: m.stamp()})
	if o := &m.out; rests && (len(o.Proposals)+len(o.Calls)+len(o.Replies)+len(o.Events) > 0 || o.Opine) {
		m.w.violate("a tick of a rest mattered", "configuration master %d: %+v", m.id, *o)
	}
	if m.raft != nil {
		m.raft.tick()
	}
	m.carryOut()
}

// observed takes a state from a replicator's stream.
func (m *confmaster) observed(r *replicator, number uint64, view failover.ReplicaView) {
	m.observedAs(r.h, r, number, view)
}

// observedAs takes a state from the stream of a replicator that is taken for that of h.
func (m *confmaster) observedAs(h *host, r *replicator, number uint64, view failover.ReplicaView) {
	if !m.up {
		return
	}
	seen := &m.seen[h.place]
	if r.dead || seen.life == r.life && number <= seen.number {
		return // its stream has ended, or this one came before
	}
	*seen = seenView{life: r.life, number: number}
	m.step(&failover.Observed{Group: groupName, Node: h.id, View: view})
	m.carryOut()
}

// brokenStream is called when a replicator's process has died while its host lives.
func (m *confmaster) brokenStream(h *host) {
	life := m.life
	m.w.net.control(h.place, m.place, func() {
		if m.up && m.life == life && h.replicator == nil {
			m.step(&failover.Unreachable{Group: groupName, Node: h.id, Saw: "connection refused"})
			m.carryOut()
		}
	})
}

// carryOut does what the Driver wants, and what raft wants, until neither wants more: that raft no longer leads gives the Driver something to say.
func (m *confmaster) carryOut() {
	for m.carryOutOnce() {
	}
}

// carryOutOnce reports whether the Driver wanted anything.
func (m *confmaster) carryOutOnce() bool {
	if m.raft != nil {
		m.raft.ready()
	}
	if len(m.out.Proposals)+len(m.out.Calls)+len(m.out.Replies)+len(m.out.Events) == 0 && !m.out.Opine {
		return false
	}
	out := m.out
	m.out = failover.Effects{}
	for i := range out.Proposals {
		m.propose(&out.Proposals[i])
	}
	for i := range out.Calls {
		m.call(&out.Calls[i])
	}
	for i := range out.Replies {
		m.replied(&out.Replies[i])
	}
	for i := range out.Events {
		if m.w.trace != nil {
			e := &out.Events[i]
			m.w.say(m.name(), "sees %s %s epoch %d %s", e.Name, e.Node, e.Epoch, e.Text)
		}
	}
	if out.Opine && m.raft != nil {
		m.raft.opine()
	}
	return true
}

func (m *confmaster) name() string { return "c" + itoa(m.id) }

// propose hands a command to raft, or has the oracle apply it after a while.
func (m *confmaster) propose(cmd *failover.Command) {
	w := m.w
	if m.raft != nil {
		m.raft.propose(cmd)
		return
	}
	draw := w.draw.control
	if !w.healing && chance(draw, w.o.Lose/4) {
		return // the leader changed, and the entry was lost
	}
	encoded := cmd.Encode()
	w.after(between(draw, 200, 4000), later(func() {
		decoded, err := failover.DecodeCommand(encoded)
		if err != nil {
			w.violate("a command does not survive its encoding", "%v", err)
		}
		m.apply(&decoded)
		m.carryOut()
	}), 2)
}

// apply carries out a committed command.
func (m *confmaster) apply(cmd *failover.Command) {
	w := m.w
	var before failover.Change
	var members []smr.Member
	if g := m.state.Group(groupName); g != nil {
		before, members = g.Change, g.Current().Members
	}
	result := m.state.Apply(cmd)
	if w.trace != nil {
		w.say(m.name(), "applies %s: %v %s", kindOf(cmd), result.Applied, result.Reason)
	}
	switch {
	case result.Applied && result.Entry != nil:
		w.noteEntry(result.Entry)
	case !result.Applied && cmd.Establish != nil:
		w.hit(probeSuperseded)
	}
	if result.Applied && w.o.Life {
		m.noteChange(cmd, before)
		if cmd.BeginReconfigure != nil {
			w.noteSlow(cmd.BeginReconfigure, members)
		}
	}
	m.step(&failover.Committed{Result: result})
}

func (w *world) noteEntry(e *failover.WorkEntry) {
	switch e.Kind {
	case failover.EntrySwitchover:
		w.hit(probeSwitchover)
	case failover.EntryCopies:
		w.hit(probeLowered)
	case failover.EntryAdmit:
		w.hit(probeAdmitted)
	case failover.EntryDrop:
		w.hit(probeDropped)
	case failover.EntryUnavailable:
		w.hit(probeUnavailable)
	}
}

func kindOf(cmd *failover.Command) string {
	switch {
	case cmd.CreateGroup != nil:
		return "create"
	case cmd.Found != nil:
		return "found"
	case cmd.BeginElection != nil:
		return "begin-election " + string(cmd.BeginElection.Kind) + ": " + cmd.BeginElection.Reason
	case cmd.Choose != nil:
		return "choose " + string(cmd.Choose.Master) + ": " + cmd.Choose.Reason
	case cmd.Establish != nil:
		return "establish " + itoa(uint64(cmd.Establish.Epoch))
	case cmd.BeginReconfigure != nil:
		return "reconfigure: " + cmd.BeginReconfigure.Reason
	case cmd.Note != nil:
		return "note: " + cmd.Note.Text
	case cmd.AddReplica != nil:
		return "add " + string(cmd.AddReplica.Replica.Node)
	case cmd.BeginChange != nil:
		return string(cmd.BeginChange.Kind) + " " + string(cmd.BeginChange.Node)
	case cmd.AdvanceChange != nil:
		return "change goes on: " + string(cmd.AdvanceChange.Step)
	case cmd.Recover != nil:
		return "recover by force: " + cmd.Recover.Recovery.Text
	case cmd.SetPolicy != nil:
		return fmt.Sprintf("policy %+v", cmd.SetPolicy.Policy)
	}
	return "other"
}

// pendingCall is a call to a replicator on its way.
type pendingCall struct {
	m        *confmaster
	life     uint64
	id       failover.CallID
	answered bool
}

func (p *pendingCall) answer(a failover.Answer) {
	if p.answered || p.life != p.m.life || !p.m.up {
		return
	}
	p.answered = true
	a.ID = p.id
	p.m.step(&a)
	p.m.carryOut()
}

// call sends an order. It may arrive late, or twice; its answer may be lost.
func (m *confmaster) call(call *failover.Call) {
	w := m.w
	target := w.host(call.Node)
	pending := &pendingCall{m: m, life: m.life, id: call.ID}
	order := *call
	if w.trace != nil {
		w.say(m.name(), "calls %s %s epoch %d/%d", call.Kind, call.Node, call.Epoch, call.Config.Epoch)
	}
	w.net.control(m.place, target.place, func() {
		answer := func(a failover.Answer) {
			w.net.control(target.place, m.place, func() { pending.answer(a) })
		}
		target := target.astray()
		if target.w.isForeign(w.handshake(call.Node), target.id) {
			answer(failover.Answer{Code: failover.AnswerRefused, Text: "not the replica that is meant"})
		} else if r := target.replicator; r != nil {
			r.called(&order, answer)
		} else if target.powered {
			answer(failover.Answer{Code: failover.AnswerUnavailable, Text: "connection refused"})
		}
	})
	w.after(int64(call.TimeoutTicks)*tickLength, later(func() {
		pending.answer(failover.Answer{Code: failover.AnswerUnavailable, Text: "timed out"})
	}), 3)
}

// called takes an order from a configuration master.
func (r *replicator) called(call *failover.Call, answer func(failover.Answer)) {
	var input replica.Input
	switch call.Kind {
	case failover.CallFence:
		input = &replica.Fence{Epoch: call.Epoch, LeaseOver: call.LeaseOver}
	case failover.CallLead:
		input = &replica.Lead{Incarnation: call.Incarnation, Life: call.Life, Config: call.Config.Clone(), Base: call.Base.Clone()}
	case failover.CallFollow:
		input = &replica.Follow{Epoch: call.Epoch, Master: call.Master}
		var sources []smr.ImageSource
		for _, s := range call.Sources {
			sources = append(sources, smr.ImageSource{Node: s.Node, Addr: s.Addr})
		}
		r.sources = sources
		r.tellSources()
	case failover.CallReconfigure:
		input = &replica.Reconfigure{Config: call.Config.Clone(), Base: call.Base.Clone()}
	case failover.CallEstablished:
		input = &replica.Established{Config: call.Config.Clone()}
	case failover.CallLearn:
		input = &replica.Learn{Epoch: call.Epoch}
	case failover.CallLook:
		if !r.paused {
			view := r.view()
			answer(failover.Answer{View: &view})
		}
		return
	}
	r.control = append(r.control, item{input: input, reply: func(reply replica.Reply) {
		answer(r.answerOf(reply))
	}})
	r.wake()
}

func (r *replicator) answerOf(reply replica.Reply) failover.Answer {
	if err := reply.Err; err != nil {
		a := failover.Answer{Code: failover.AnswerRefused, Text: err.Error()}
		switch {
		case errors.Is(err, replica.ErrStale):
			a.Code = failover.AnswerStale
			r.w.hit(probeStaleOrder)
		case errors.Is(err, errStopped):
			a.Code = failover.AnswerUnavailable
		case errors.Is(err, replica.ErrOtherLife):
			r.w.hit(probeOtherLife)
		}
		if r.w.trace != nil {
			r.w.say(string(r.h.id), "refuses: %v", err)
		}
		return a
	}
	var a failover.Answer
	if f := reply.Answer; f != nil {
		a.Fence = &failover.FenceAnswer{Epoch: f.Epoch, Incarnation: f.Incarnation, Life: f.Life, Position: f.Position,
			Commit: f.Commit, Applied: f.Applied}
	}
	return a
}

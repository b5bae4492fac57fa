package failover

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"lockstep/smr"
)

// The world of the tests: confmasters with real Drivers and States, an oracle in place of raft, and small fakes of
// replicas that keep whole logs, so that a lost committed record is seen as such. Everything happens in virtual
// ticks, in an order that the seed decides.

// confmaster is one configuration master: the real State and Driver.
type confmaster struct {
	id      uint64
	up      bool
	state   *State
	driver  *Driver
	applied int
	leads   bool // believes so
	calls   []CallID
	level   int // highest feature level that its program can, 0 is 1
	began   int // tick
}

type event struct {
	at     int
	serial int
	do     func()
}

type options struct {
	seed        uint64
	confmasters int
	nodes       int
	policy      Policy
	calm        bool // no faults of the network: fixed delays, nothing lost
	slow        int  // one message in so many takes long (default 30)
	lossy       int  // one in so many is lost (default 20)
	eager       bool // masters append whether or not it can commit
	trace       bool
	driver      Options
}

type world struct {
	o      options
	rng    *rand.Rand
	now    int
	serial int
	mail   []event
	cms    []*confmaster
	fakes  []*fake
	cuts   []string // "a|b"

	raft    []Command // committed
	results []Result
	leader  int // index of the confmaster that leads raft, -1 none
	term    int

	committed []record
	givenUp   int // committed records that forced recoveries gave up
	leaders   map[smr.Epoch]string
	answers   map[string]bool
	shadow    shadow
	replies   []Reply
	trace     strings.Builder
	failed    string
	events    int // of any kind: for tests that interfere at the n-th
	onEvent   func(n int)
	elections []int // ticks
	writes    bool
	hold      func(Call) int // extra delay of a call's answer, in ticks
	requestID uint64
	rests     int // ticks that were promised to do nothing
	level     int // feature level of the cluster as raised, 0 is 1
}

// shadow repeats the rules of State in the plainest way, from the applied commands alone.
type shadow struct {
	epoch, established, reign smr.Epoch
	electing                  bool
}

func newWorld(o options) *world {
	if o.slow == 0 {
		o.slow, o.lossy = 30, 20
	}
	w := &world{o: o, rng: rand.New(rand.NewPCG(o.seed, 7)), leader: -1, leaders: map[smr.Epoch]string{}, answers: map[string]bool{}}
	voters := make([]uint64, 0, o.confmasters)
	for i := range o.confmasters {
		voters = append(voters, uint64(i+1))
	}
	for i := range o.confmasters {
		cm := &confmaster{id: uint64(i + 1)}
		w.cms = append(w.cms, cm)
		w.startConfmaster(cm, voters)
	}
	for i := range o.nodes {
		w.serial++
		f := &fake{w: w, node: smr.NodeID(fmt.Sprintf("n%d", i+1)), inc: smr.Incarnation(w.serial), blank: true}
		f.start()
		w.fakes = append(w.fakes, f)
	}
	return w
}

func (w *world) startConfmaster(cm *confmaster, voters []uint64) {
	o := w.o.driver
	o.Self, o.Voters, o.Level = cm.id, voters, cm.level
	cm.up, cm.leads, cm.applied = true, false, 0
	cm.state = NewState("test")
	cm.driver = New(o, cm.state)
}

func (w *world) check(fact bool, format string, args ...any) {
	if !fact && w.failed == "" {
		w.failed = fmt.Sprintf("tick %d: ", w.now) + fmt.Sprintf(format, args...)
	}
}

func (w *world) fake(node smr.NodeID) *fake {
	for _, f := range w.fakes {
		if f.node == node {
			return f
		}
	}
	panic("no such node " + node)
}

// find returns the fake of that name, nil if there is none.
func (w *world) find(node smr.NodeID) *fake {
	for _, f := range w.fakes {
		if f.node == node {
			return f
		}
	}
	return nil
}

func (w *world) log(format string, args ...any) {
	w.events++
	if w.o.trace {
		fmt.Fprintf(&w.trace, "%5d %s\n", w.now, fmt.Sprintf(format, args...))
	}
	if w.onEvent != nil {
		w.onEvent(w.events)
	}
}

// post does something after some ticks.
func (w *world) post(delay int, do func()) {
	w.serial++
	w.mail = append(w.mail, event{at: w.now + delay, serial: w.serial, do: do})
}

// delay of a message in ticks.
func (w *world) delay() int {
	switch {
	case w.o.calm:
		return 1
	case w.rng.IntN(w.o.slow) == 0:
		return w.rng.IntN(300)
	}
	return 1 + w.rng.IntN(4)
}

func (w *world) lost() bool { return !w.o.calm && w.rng.IntN(w.o.lossy) == 0 }

func (w *world) cut(a, b string) bool {
	return slices.Contains(w.cuts, a+"|"+b) || slices.Contains(w.cuts, b+"|"+a)
}

func (cm *confmaster) name() string { return fmt.Sprintf("c%d", cm.id) }

// answered, led and committedBy note what must be unique.
func (w *world) answered(node smr.NodeID, a FenceAnswer) {
	w.answers[fmt.Sprint(node, a.Epoch, a.Incarnation, a.Life, a.Position)] = true
}

func (w *world) led(epoch smr.Epoch, node smr.NodeID, life smr.Life) {
	who := fmt.Sprint(node, " life ", life)
	before, known := w.leaders[epoch]
	w.check(!known || before == who, "epoch %d is led by %s and by %s", epoch, before, who)
	w.leaders[epoch] = who
}

func (w *world) committedBy(f *fake, commit int) {
	for i := range min(commit, len(w.committed)) {
		if w.committed[i] != f.log[i] {
			w.check(false, "%s commits %v at %d, %v was committed there", f.node, f.log[i], i, w.committed[i])
			return
		}
	}
	if commit > len(w.committed) {
		w.committed = append(w.committed, f.log[len(w.committed):commit]...)
	}
}

// step gives one input to a confmaster and carries the effects out.
func (w *world) step(cm *confmaster, in Input) {
	if !cm.up {
		return
	}
	var out Effects
	cm.driver.Step(in, &out)
	for _, cmd := range out.Proposals {
		w.propose(cm, cmd)
	}
	for _, call := range out.Calls {
		w.call(cm, call)
	}
	for _, reply := range out.Replies {
		w.replies = append(w.replies, reply)
		w.log("c%d reply done=%v: %s", cm.id, reply.Done, reply.Text)
		for _, check := range reply.Checks {
			w.log("  checked: %s", check)
		}
		for _, step := range reply.Steps {
			w.log("  step: %s", step)
		}
	}
	for _, e := range out.Events {
		if cm.leads || e.Name != EventSuspected && e.Name != EventSuspectedEnd {
			w.log("c%d event %s %s %s", cm.id, e.Name, e.Node, e.Text)
		}
	}
	if out.Opine {
		w.opine(cm)
	}
}

func (w *world) opine(cm *confmaster) {
	if w.leader < 0 || w.cms[w.leader] == cm {
		return
	}
	leader := w.cms[w.leader]
	opinions, level := cm.driver.Opinions(), cm.level
	if w.lost() || w.cut(cm.name(), leader.name()) {
		return
	}
	w.post(w.delay(), func() {
		if leader.leads {
			w.step(leader, &Opinions{From: cm.id, Level: level, Opinions: opinions})
		}
	})
}

// propose hands a command to the oracle: it commits if the proposer still leads raft when it gets there.
func (w *world) propose(cm *confmaster, cmd Command) {
	decoded, err := DecodeCommand(cmd.Encode())
	w.check(err == nil, "proposal does not survive its encoding: %v", err)
	if w.lost() {
		return
	}
	term := w.term
	w.post(w.delay(), func() {
		if w.leader >= 0 && w.cms[w.leader] == cm && w.term == term && cm.up {
			w.raft = append(w.raft, decoded)
			w.applyAll(cm)
			for _, other := range w.cms {
				if other != cm {
					w.post(w.delay(), func() { w.applyAll(other) })
				}
			}
		}
	})
}

// applyAll applies what a confmaster has not applied yet.
func (w *world) applyAll(cm *confmaster) {
	if !cm.up {
		return
	}
	for cm.applied < len(w.raft) {
		cmd := w.raft[cm.applied]
		cm.applied++
		result := cm.state.Apply(&cmd)
		if cm.applied > len(w.results) {
			w.results = append(w.results, result)
			w.checkApplied(cm, &cmd, &result)
			w.logApplied(&cmd, &result)
		}
		w.check(w.results[cm.applied-1].Epoch == result.Epoch && w.results[cm.applied-1].Applied == result.Applied,
			"confmasters disagree on command %d", cm.applied)
		w.step(cm, &Committed{Result: result})
		if w.endTooOld(cm); !cm.up {
			return
		}
	}
}

// checkApplied compares what was applied with the shadow.
func (w *world) checkApplied(cm *confmaster, cmd *Command, result *Result) {
	s := &w.shadow
	if !result.Applied {
		return
	}
	switch {
	case cmd.RaiseLevel != nil:
		w.raised(cmd.RaiseLevel)
	case cmd.Found != nil:
		w.check(s.epoch == 0 && result.Epoch == 1, "founded at epoch %d", result.Epoch)
		s.epoch, s.established = 1, 1
	case cmd.BeginElection != nil:
		w.check(result.Epoch == s.epoch+1, "election gave out epoch %d after %d", result.Epoch, s.epoch)
		s.epoch, s.electing = result.Epoch, true
		if cmd.BeginElection.Kind != ElectionSwitchover {
			w.elections = append(w.elections, w.now)
		}
	case cmd.Choose != nil:
		w.check(s.electing && cmd.Choose.Epoch == s.epoch, "choice in epoch %d, epoch %d was given out", cmd.Choose.Epoch, s.epoch)
		s.electing, s.reign = false, cmd.Choose.Epoch
		for _, c := range cmd.Choose.Candidates {
			w.check(w.answers[fmt.Sprint(c.Node, cmd.Choose.Epoch, c.Incarnation, c.Life, c.Position)], "an answer of %s was made up", c.Node)
		}
	case cmd.Recover != nil:
		w.check(result.Epoch == s.epoch+2, "a recovery gave out epoch %d after %d", result.Epoch, s.epoch)
		s.epoch, s.electing = result.Epoch, true
		w.recovered(&cmd.Recover.Recovery)
	case cmd.Establish != nil:
		w.check(cmd.Establish.Epoch == s.epoch && !s.electing, "epoch %d established after %d was given out", cmd.Establish.Epoch, s.epoch)
		s.established = cmd.Establish.Epoch
	case cmd.BeginReconfigure != nil:
		w.check(!s.electing && cmd.BeginReconfigure.Reign == s.reign && result.Epoch == s.epoch+1,
			"reconfiguration of reign %d, the last election is %d (running: %v)", cmd.BeginReconfigure.Reign, s.reign, s.electing)
		s.epoch = result.Epoch
	}
	encoded := cm.state.Encode()
	decoded, err := DecodeState(encoded)
	w.check(err == nil, "state does not survive its encoding: %v", err)
	w.check(err != nil || string(decoded.Encode()) == string(encoded), "state changes in its encoding")
}

func (w *world) logApplied(cmd *Command, result *Result) {
	what := ""
	switch {
	case cmd.CreateGroup != nil:
		what = "create-group"
	case cmd.Found != nil:
		what = "found"
	case cmd.BeginElection != nil:
		what = fmt.Sprintf("begin-election %s", cmd.BeginElection.Kind)
		if cmd.BeginElection.Target != "" {
			what += " target " + string(cmd.BeginElection.Target)
		}
	case cmd.Choose != nil:
		what = fmt.Sprintf("choose %s", cmd.Choose.Master)
	case cmd.Establish != nil:
		what = "establish"
	case cmd.BeginReconfigure != nil:
		what = fmt.Sprintf("reconfigure %s", cmd.BeginReconfigure.Kind)
	case cmd.SetPolicy != nil:
		what = "set-policy"
	case cmd.SetReplica != nil:
		what = "set-replica"
	case cmd.Note != nil:
		what = fmt.Sprintf("note %s", cmd.Note.Kind)
	case cmd.RaiseLevel != nil:
		what = fmt.Sprintf("raise-level %d", cmd.RaiseLevel.To)
	default:
		what = describeChange(cmd)
	}
	if !result.Applied {
		w.log("raft c%d %s: refused: %s", cmd.Confmaster, what, result.Reason)
		return
	}
	reason := ""
	if result.Entry != nil {
		reason = ": " + result.Entry.Reason
	}
	w.log("raft c%d %s -> epoch %d%s", cmd.Confmaster, what, result.Epoch, reason)
	for _, e := range result.Events {
		if e.Name == EventSwitchMaster {
			w.log("event %s from %s to %s", e.Name, e.FromAddr, e.ToAddr)
		}
	}
}

// call carries an order to a fake and its answer back. It may be lost, late or delivered twice.
func (w *world) call(cm *confmaster, c Call) {
	f := w.fake(c.Node)
	answered := false
	answer := func(a Answer) {
		if answered {
			return
		}
		answered = true
		a.ID = c.ID
		if c.Kind != CallLook || a.Code != AnswerOK {
			w.log("c%d %s %s: %s", cm.id, c.Kind, describeCall(c), describeAnswer(a))
		}
		w.step(cm, &a)
	}
	deliver := func() {
		if f.paused || w.cut(cm.name(), string(c.Node)) {
			return
		}
		if !f.up {
			w.post(w.delay(), func() { answer(Answer{Code: AnswerUnavailable, Text: "connection refused"}) })
			return
		}
		if !f.learn(cm.state.FeatureLevel()) {
			return
		}
		a := f.call(c)
		extra := 0
		if w.hold != nil {
			extra = w.hold(c)
		}
		w.watch(f)
		w.post(w.delay()+extra, func() {
			if !w.cut(cm.name(), string(c.Node)) {
				answer(a) // even if the process that gave it has died since
			}
		})
	}
	if !w.lost() {
		w.post(w.delay(), deliver)
	}
	if !w.o.calm && w.rng.IntN(20) == 0 {
		w.post(w.rng.IntN(400), deliver)
	}
	w.post(c.TimeoutTicks, func() { answer(Answer{Code: AnswerUnavailable, Text: "time-out"}) })
}

func describeCall(c Call) string {
	text := string(c.Node)
	switch c.Kind {
	case CallFence, CallLearn:
		text += fmt.Sprintf(" epoch %d", c.Epoch)
		if c.LeaseOver {
			text += " lease over"
		}
	case CallFollow:
		text += fmt.Sprintf(" epoch %d master %s", c.Epoch, c.Master)
		for i, source := range c.Sources {
			text += [2]string{" sources ", ", "}[fact(i > 0)] + source.Addr
		}
	case CallLead, CallReconfigure, CallEstablished:
		text += fmt.Sprintf(" epoch %d copies %d of %d", c.Config.Epoch, c.Config.Copies, len(c.Config.Members))
		if c.Kind != CallEstablished {
			text += fmt.Sprintf(" base %d", c.Base.Epoch)
		}
	}
	return text
}

func describeAnswer(a Answer) string {
	switch {
	case a.Code != AnswerOK:
		return fmt.Sprintf("%v: %s", a.Code, a.Text)
	case a.Fence != nil:
		return fmt.Sprintf("ok: %v", a.Fence.Position)
	}
	return "ok"
}

// watch sends a replica's state to every confmaster that can see it.
func (w *world) watch(f *fake) {
	if !f.up || f.paused {
		return
	}
	view := f.view()
	for _, cm := range w.cms {
		if w.cut(cm.name(), string(f.node)) || w.lost() {
			continue
		}
		life := f.life
		w.post(1, func() { // a stream keeps its order: always the same delay
			if f.life == life && f.up {
				w.step(cm, &Observed{Group: "g1", Node: f.node, View: view})
				f.learn(cm.state.FeatureLevel()) // streams are opened anew when it is raised
			}
		})
	}
}

// kill ends a replica's process; confmasters see the connection break.
func (w *world) kill(f *fake) {
	f.crash()
	for _, cm := range w.cms {
		if !w.cut(cm.name(), string(f.node)) {
			w.post(w.delay(), func() {
				if !f.up {
					w.step(cm, &Unreachable{Group: "g1", Node: f.node, Saw: "connection refused"})
				}
			})
		}
	}
}

// lead changes the raft leader. The old one may believe in itself for a while.
func (w *world) lead(index int) {
	if w.leader >= 0 {
		old := w.cms[w.leader]
		linger := 0
		if !w.o.calm {
			linger = w.rng.IntN(100)
		}
		w.post(linger, func() {
			if old.leads && (w.leader < 0 || w.cms[w.leader] != old) {
				old.leads = false
				w.step(old, &Deposed{})
			}
		})
	}
	w.leader, w.term = index, w.term+1
	if index < 0 {
		return
	}
	cm := w.cms[index]
	w.applyAll(cm)
	if cm.leads {
		w.step(cm, &Deposed{})
	}
	cm.leads = true
	w.step(cm, &Elected{})
	for _, other := range w.cms {
		w.opine(other)
	}
}

// tick passes one tick.
func (w *world) tick() {
	w.now++
	for {
		best := -1
		for i := range w.mail {
			if w.mail[i].at <= w.now && (best < 0 || w.mail[i].at < w.mail[best].at ||
				w.mail[i].at == w.mail[best].at && w.mail[i].serial < w.mail[best].serial) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		do := w.mail[best].do
		w.mail[best] = w.mail[len(w.mail)-1]
		w.mail = w.mail[:len(w.mail)-1]
		do()
	}
	for _, f := range w.fakes {
		if w.writes && f.up && !f.paused && !f.stuck && f.mode == modeMaster && (w.o.eager || f.view().Writable) && w.now%7 == 0 {
			f.append()
			f.advanceCommit()
		}
		limit := 3
		if !w.o.calm {
			limit = w.rng.IntN(3)
		}
		f.stream(limit)
		if f.up && f.mode == modeMaster && !f.stuck {
			f.advanceCommit()
		}
		view := f.view()
		view.End, view.Durable, view.Commit = 0, 0, 0
		for i := range view.Peers {
			view.Peers[i].Durable = 0
		}
		if w.now%10 == 0 || !reflect.DeepEqual(view, f.lastView) {
			f.lastView = view
			w.watch(f)
		}
	}
	for _, cm := range w.cms {
		w.tickOne(cm)
		if w.now%10 == int(cm.id) {
			w.opine(cm)
		}
	}
}

// tickOne passes a tick to one confmaster: nothing may follow from one of a rest.
func (w *world) tickOne(cm *confmaster) {
	tick := &Tick{StampMillis: int64(w.now) * TickMillis}
	if rest := cm.driver.Rest(); cm.up && rest > 1 {
		w.rests++
		var out Effects
		cm.driver.Step(tick, &out)
		w.check(len(out.Proposals)+len(out.Calls)+len(out.Replies)+len(out.Events) == 0 && !out.Opine, "a tick of a rest of %d mattered to c%d: %+v", rest, cm.id, out)
		return
	}
	w.step(cm, tick)
}

func (w *world) run(ticks int) {
	for range ticks {
		if w.failed != "" {
			return
		}
		w.tick()
	}
}

func (w *world) request(r *Request) {
	w.requestID++
	r.ID = w.requestID
	w.step(w.cms[w.leader], r)
}

func (w *world) create(nodes int) {
	c := &CreateGroup{Name: "g1", Policy: w.o.policy}
	for i := range nodes {
		node := smr.NodeID(fmt.Sprintf("n%d", i+1))
		c.Replicas = append(c.Replicas, Replica{Node: node, ManageAddr: string(node) + ":7200", DataAddr: string(node) + ":7100", KVAddr: string(node) + ":6379"})
	}
	w.request(&Request{CreateGroup: c})
}

func (w *world) group() *Group { return w.cms[max(w.leader, 0)].state.Group("g1") }

// healthy returns why the group is not as its policy wants it, "" if it is.
func (w *world) healthy() string {
	g := w.group()
	if g == nil {
		return "no group"
	}
	if g.Election.Epoch != 0 || g.Provisional.Epoch != 0 {
		return fmt.Sprintf("election %+v provisional %v", g.Election, g.Provisional)
	}
	c := g.Established
	if g.Change.Kind != "" {
		return "change: " + g.Change.describe()
	}
	if c.Copies != g.Policy.Copies || len(c.Members) != g.Stays() {
		return "established: " + describe(c)
	}
	for _, f := range w.fakes {
		switch {
		case g.Replica(f.node) == nil || g.Replica(f.node).Drained:
		case !c.Has(f.self()):
			return string(f.node) + " is no member"
		case f.node == c.Master && (f.mode != modeMaster || f.cfg.Epoch != c.Epoch || f.base.Epoch != c.Epoch):
			return fmt.Sprintf("%s does not lead epoch %d: mode %d epoch %d base %d", f.node, c.Epoch, f.mode, f.cfg.Epoch, f.base.Epoch)
		case f.node != c.Master && !f.joined:
			return string(f.node) + " has not joined"
		}
	}
	return ""
}

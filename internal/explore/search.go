package explore

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"lockstep/internal/invariant"
	"lockstep/smr"
)

// explorer holds what a search knows: every component state once, and what each step of each component does.
type explorer struct {
	scope Scope
	names *names
	first configID // the configuration of the first reign

	logs     *logs
	configs  *configs
	nodes    []*node
	nodeIDs  map[uint64]nodeID
	states   []confmaster
	stateIDs map[uint64]stateID
	decided  map[command]stateID

	memo      map[stepKey]int32 // into results; -1: nothing happens
	results   []*result
	coreSteps int // of the real core
	overflows int // connections that broke because Scope.SlowMaster has room for few messages
	scratch   []byte

	fault string // what is wrong since the last action
}

func newExplorer(scope Scope) (*explorer, error) {
	if err := scope.check(); err != nil {
		return nil, err
	}
	n := newNames(scope.Replicas)
	x := &explorer{
		scope: scope, names: n, logs: newLogs(n), configs: newConfigs(n), nodeIDs: make(map[uint64]nodeID),
		stateIDs: make(map[uint64]stateID), decided: make(map[command]stateID), memo: make(map[stepKey]int32),
	}
	x.logs.plain = !scope.SlaveCommit
	return x, nil
}

// start returns the state in which every search begins, reached by the same actions as all others.
func (x *explorer) start() world {
	var w world
	told, hello, slaves := x.scope.SlowTold, x.scope.SlowHello, x.scope
	w.state = x.found()
	x.first = x.states[w.state].established
	x.scope.SlowTold, x.scope.SlowHello, x.scope.SlowSlaves, x.scope.SlowDisk, x.scope.SlowMaster = false, false, false, false, false
	for i := range x.scope.Replicas {
		n := &node{self: i, blank: true}
		x.boot(n)
		w.nodes[i] = x.internNode(n)
		x.must(&w, action{kind: actLearn, node: uint8(i), epoch: 1})
	}
	x.must(&w, action{kind: actElect})
	choose := action{kind: actChoose, epoch: firstEpoch}
	for i := range x.scope.Replicas {
		x.must(&w, action{kind: actFence, node: uint8(i), epoch: firstEpoch})
		choose.members[i] = 1
	}
	x.must(&w, choose)
	x.must(&w, action{kind: actLead, epoch: firstEpoch})
	for i := 1; i < x.scope.Replicas; i++ {
		x.must(&w, action{kind: actFollow, node: uint8(i), epoch: firstEpoch})
		x.apply(&w, action{kind: actConnect, node: uint8(i)})
		x.must(&w, action{kind: actReceive, node: uint8(i)})
	}
	x.apply(&w, action{kind: actSync})
	x.must(&w, action{kind: actEstablish, epoch: firstEpoch})
	x.scope.SlowTold, x.scope.SlowHello = told, hello
	x.scope.SlowSlaves, x.scope.SlowDisk, x.scope.SlowMaster = slaves.SlowSlaves, slaves.SlowDisk, slaves.SlowMaster
	w.crashes, w.wipes = uint8(x.scope.Crashes), uint8(x.scope.Wipes)
	w.reconfigurations, w.cuts = uint8(x.scope.Reconfigurations), uint8(x.scope.Cuts)
	return w
}

// must carries out an action of the start, which cannot fail.
func (x *explorer) must(w *world, a action) {
	changed := x.apply(w, a)
	invariant.Assert(x.check(w) == "", "the start", x.fault)
	if !changed {
		invariant.Fail("a step of the start does nothing", x.describe(w, a))
	}
}

// Limits of a search; 0 is none.
type Limits struct {
	States  int
	Seconds int
	MiB     int // of memory in use
}

// Result of a search.
type Result struct {
	Scope       Scope
	States      int
	Transitions int
	CoreSteps   int           // of the real core: equal ones run once
	Depth       int           // of the last level that was complete
	Taken       [actKinds]int // transitions by kind of action
	Complete    bool
	Seconds     float64
	Fault       string   // "" if no state breaks a promise
	Trace       []string // the shortest way there
}

// Search visits every state of a scope, breadth first, and checks each.
func Search(scope Scope, limits Limits) (Result, error) {
	x, err := newExplorer(scope)
	if err != nil {
		return Result{}, err
	}
	s := &search{explorer: x, limits: limits, began: time.Now(), seen: newSet()}
	s.result.Scope = scope
	s.run()
	s.result.States, s.result.CoreSteps, s.result.Seconds = len(s.fingerprints), x.coreSteps, time.Since(s.began).Seconds()
	return s.result, nil
}

// search is a breadth-first search under way.
type search struct {
	*explorer
	limits Limits
	began  time.Time
	result Result
	looked int // transitions when time and memory were looked at

	seen         *set
	fingerprints []uint64 // by number of the state, in order of discovery
	parents      []uint32
	level, next  []byte // worlds of this level and of the one below
}

func (s *search) run() {
	first := s.start()
	s.add(&first, 0)
	number := uint32(0) // of the first state of the level
	for s.level, s.next = s.next, nil; len(s.level) > 0; s.level, s.next = s.next, s.level[:0] {
		for rest := s.level; len(rest) > 0; number++ {
			var w world
			w, rest = s.cutWorld(rest)
			if s.expand(&w, number) || s.isOver() {
				return
			}
		}
		s.result.Depth++
	}
	s.result.Complete = s.overflows == 0
}

func (s *search) isOver() bool {
	if s.limits.States > 0 && len(s.fingerprints) >= s.limits.States {
		return true
	}
	if s.result.Transitions-s.looked < 1<<16 {
		return false
	}
	s.looked = s.result.Transitions
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return s.limits.Seconds > 0 && time.Since(s.began) >= time.Duration(s.limits.Seconds)*time.Second ||
		s.limits.MiB > 0 && memory.HeapInuse>>20 >= uint64(s.limits.MiB)
}

// add notes a state unless it was seen.
func (s *search) add(w *world, parent uint32) {
	fp := s.fingerprint(w)
	if !s.seen.add(fp) {
		return
	}
	s.fingerprints = append(s.fingerprints, fp)
	s.parents = append(s.parents, parent)
	s.next = s.appendWorld(s.next, w)
}

// expand tries every action in w. It returns true when a promise was broken.
func (s *search) expand(w *world, number uint32) bool {
	var room [128]action
	for _, a := range s.actions(w, room[:0]) {
		after := *w
		s.fault = ""
		if !s.apply(&after, a) || after == *w {
			continue
		}
		s.result.Transitions++
		s.result.Taken[a.kind]++
		if fault := s.check(&after); fault != "" {
			s.fault = ""
			s.result.Fault = fault
			s.result.Trace = append(s.trace(number), s.describe(w, a), "broken: "+fault)
			return true
		}
		s.add(&after, number)
	}
	return false
}

// trace walks again from the start to a state and says each step in words.
func (s *search) trace(number uint32) []string {
	var path []uint64
	for ; number != 0; number = s.parents[number] {
		path = append(path, s.fingerprints[number])
	}
	w := s.start()
	words := []string{"start: " + s.show(&w)}
	for k := len(path) - 1; k >= 0; k-- {
		found := false
		for _, a := range s.actions(&w, nil) {
			after := w
			s.fault = ""
			if s.apply(&after, a) && s.fingerprint(&after) == path[k] {
				words = append(words, s.describe(&w, a), "      "+s.show(&after))
				w, found = after, true
				break
			}
		}
		invariant.Assert(found, "a state was reached by no action", k)
	}
	return words
}

// show writes a state in one line.
func (x *explorer) show(w *world) string {
	g := &x.states[w.state].group
	text := fmt.Sprintf("confmaster %d established %d", g.Epoch, g.Established.Epoch)
	for i := range x.scope.Replicas {
		n := x.node(w, i)
		text += fmt.Sprintf(" | n%d promise %d", i, n.status.promise)
		switch {
		case n.status.blank:
			text += " blank"
		case n.status.leading:
			text += fmt.Sprintf(" LEADS %d", n.status.epoch)
		case w.conns[i].on:
			text += fmt.Sprintf(" on n%d", w.conns[i].master)
		case n.dial >= 0:
			text += fmt.Sprintf(" dials n%d", n.dial)
		}
		text += " [" + x.logs.words(n.log) + "]"
		if n.disk != n.log {
			text += " disk [" + x.logs.words(n.disk) + "]"
		}
	}
	return text + " | committed [" + x.logs.words(w.truth) + "]"
}

// describe says an action in words.
func (x *explorer) describe(w *world, a action) string {
	node := fmt.Sprintf("n%d", a.node)
	members := func() string {
		var all []string
		for i, m := range a.members {
			if m != 0 {
				all = append(all, fmt.Sprintf("n%d", i)+strings.Repeat("'", int(m-1)))
			}
		}
		return strings.Join(all, ",")
	}
	switch a.kind {
	case actElect:
		return fmt.Sprintf("the configuration master begins election %d", x.states[w.state].group.Epoch+1)
	case actChoose:
		return fmt.Sprintf("it counts the answers of %s and chooses %s for epoch %d", members(), node, a.epoch)
	case actEstablish:
		return fmt.Sprintf("it takes the report of epoch %d: established", a.epoch)
	case actReconfigure:
		return fmt.Sprintf("it gives out epoch %d of reign %d: members %s copies %d", x.states[w.state].group.Epoch+1, a.epoch, members(), a.copies)
	case actFence:
		return fmt.Sprintf("fence %d reaches %s", a.epoch, node)
	case actLead:
		return fmt.Sprintf("lead %d reaches %s", a.epoch, node)
	case actTakeConfig:
		return fmt.Sprintf("reconfigure %d reaches %s", a.epoch, node)
	case actTellEstablished:
		return fmt.Sprintf("established %d reaches %s", a.epoch, node)
	case actFollow:
		return fmt.Sprintf("follow n%d in epoch %d reaches %s", w.plan(a.epoch).master, a.epoch, node)
	case actLearn:
		return fmt.Sprintf("learn %d reaches %s", a.epoch, node)
	case actLetter:
		return x.describeLetter(&w.late[a.node])
	}
	text := map[actionKind]string{
		actConnect: "%s reaches its master and says hello", actHello: "the master's hello reaches %s", actReceive: "%s receives a frame",
		actBeat: "%s learns the commit LSN", actCut: "the connection of %s breaks", actNotice: "%s notices that its master has hung up",
		actSync: "the disk of %s does its next operation", actPropose: "%s appends a request", actCrash: "%s crashes and restarts",
		actWipe: "%s loses its disk and restarts blank",
	}[a.kind]
	return fmt.Sprintf(text, node)
}

func (x *explorer) describeLetter(l *letter) string {
	what := map[inputKind]string{inPeerHello: "hello", inPeerStart: "start", inPeerAck: "acknowledgement", inConnDown: "end of the connection"}[l.kind]
	return fmt.Sprintf("%s of n%d (epoch %d, %d) reaches n%d", what, slaveOf(l.conn), l.epoch, smr.LSN(l.lsn), l.master)
}

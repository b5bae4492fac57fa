package sim

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"

	"lockstep/internal/failover"
	"lockstep/log/simfs"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// Config of one schedule.
type Config struct {
	Seed uint64
	Full bool // three members of raft in place of the oracle
	// Faults replaces the faults that the seed would draw; nil means those of the seed. Options likewise.
	Faults  []Fault
	Options *Options
	// TraceLines keeps so many of the last lines of what happened.
	TraceLines int
}

// Result of one schedule.
type Result struct {
	Seed      uint64
	Options   Options
	Faults    []Fault
	Violation *Violation // nil: every promise was kept
	Hash      uint64
	Stats     Stats
	Trace     []string
	probes    probeSet
}

// Run runs one schedule.
func Run(c Config) *Result {
	if c.Full {
		return runFull(c)
	}
	return run(c)
}

func run(c Config) *Result {
	w := newWorld(drawOptions(c.Seed, c.Full))
	if c.Options != nil {
		w.o = *c.Options
	}
	if c.TraceLines > 0 {
		w.trace = &traceRing{limit: c.TraceLines}
	}
	masters := 1
	if c.Full {
		masters = fullMembers
	}
	w.faults = c.Faults
	if w.faults == nil {
		w.faults = drawFaults(&w.o, masters)
	}
	result := &Result{Seed: c.Seed, Options: w.o, Faults: w.faults}
	result.Violation = w.guarded(masters)
	result.Hash, result.Stats, result.probes = w.hash, w.stats, w.probes
	result.Stats.Events, result.Stats.VirtualMillis = w.events, w.now/millisecond
	if w.check != nil {
		result.Stats.Bytes = uint64(len(w.check.committed))
	}
	if w.trace != nil {
		result.Trace = w.trace.all()
	}
	return result
}

// guarded runs both phases.
func (w *world) guarded(masters int) *Violation {
	broken := w.guardedBy(func() {
		w.build(masters)
		w.plan(w.faults)
		w.run((200 + w.o.FaultMillis) * millisecond)
		w.heal()
		if w.other != nil {
			w.other.heal()
		}
		w.converge()
		if w.other != nil {
			w.other.converge()
		}
	})
	w.absorb()
	return broken
}

// guardedBy runs a schedule; a broken promise or invariant ends it. It is the outermost function of the schedule, and so
// the place to recover.
func (w *world) guardedBy(schedule func()) (broken *Violation) {
	defer func() {
		switch caught := recover().(type) {
		case nil:
		case *Violation:
			broken = caught
		case string:
			broken = &Violation{Kind: kindOfPanic(caught), Detail: caught, At: w.now}
		case runtime.Error:
			broken = &Violation{Kind: "a core panics", Detail: caught.Error() + "\n" + string(debug.Stack()), At: w.now}
		default:
			panic(caught)
		}
	}()
	schedule()
	return nil
}

// kindOfPanic takes the details off the text of package invariant.
func kindOfPanic(text string) string {
	for i := range text {
		if text[i] == '[' {
			return text[:i]
		}
	}
	return text
}

// newWorld returns what build makes a cluster of.
func newWorld(o Options) *world {
	w := &world{timeline: &timeline{hash: o.Seed}, o: o, cluster: clusterName, draw: newStreams(o.Seed)}
	return w
}

func (w *world) build(masters int) {
	w.net.init(w, w.o.Replicas+w.o.Spares+masters)
	w.check = newChecker(w)
	w.work.init(w)
	if w.o.Archive {
		w.archive = newArchiving(w.cluster)
	}
	w.addHosts()
	if w.o.Full {
		w.startMembers()
	} else {
		w.startOracle()
	}
	if w.o.LateMillis > 0 {
		last := w.hosts[w.o.Replicas-1]
		last.late = true
		w.after(w.o.LateMillis*millisecond, later(last.arrive), 9)
	}
	for _, h := range w.hosts {
		h.startReplicator()
		h.startKV()
	}
}

func (w *world) addHosts() {
	for i := range w.o.Replicas + w.o.Spares {
		h := &host{w: w, place: i, away: i >= w.o.Replicas, spare: i >= w.o.Replicas, drive: &drive{home: i}, id: nodeName(i), disk: simfs.New(), powered: true, rate: 1}
		if w.o.Drift > 0 {
			h.rate = 1 + w.o.Drift*(2*w.draw.clock.Float64()-1)
		}
		w.hosts = append(w.hosts, h)
	}
}

// arrive switches a machine on for the first time: an empty replica joins a group that may have trimmed its log.
func (h *host) arrive() {
	h.late = false
	h.startReplicator()
	h.startKV()
}

// heal ends all faults. What was harmed is looked at by a restart, as an operator would do.
func (w *world) heal() {
	w.healing, w.strayed = true, 0
	if w.trace != nil {
		w.say("----", "all is mended")
	}
	w.net.mend()
	w.swapBack()
	for _, h := range w.hosts {
		h.disk.SetHook(nil)
		if _, err := h.disk.List(labelHome, "/"); err != nil { // it has crashed, and nobody has noticed
			h.powerCut(imageOf(Fault{Number: uint64(w.now)}.draw()))
		}
		h.disk.SetCapacity(0)
		h.slowDisk = 0
		h.setClock(0, 1)
		if r := h.replicator; r != nil && r.paused {
			r.resume()
		}
		if k := h.kv; k != nil && k.paused {
			k.resume()
		}
		if h.drive.harmed {
			h.crashReplicator()
		}
		h.late = false
		h.powerOn()
		h.startReplicator()
		h.startKV()
	}
	for _, h := range w.inService() {
		if h.away { // lost with a quorum
			h.away = false
			h.powerOn()
			h.startReplicator()
			h.startKV()
		}
	}
	for _, m := range w.masters {
		if m.raft != nil && !m.up {
			m.raft.restart()
		}
	}
}

// converge waits until the group is whole again: a write and a linearizable read of every node succeed, and all nodes have
// executed the same.
func (w *world) converge() {
	deadline := w.now + w.o.HealMillis*millisecond
	const step = 50 * millisecond
	for w.now < deadline && !w.whole() {
		if w.tendedAt+500*millisecond <= w.now {
			w.tendedAt = w.now
			w.tend()
		}
		w.run(w.now + step)
	}
	if w.hopeless() {
		w.hit(probeHopeless)
		if !w.o.Harm && !w.lostOnly && w.check.forcedEpoch == 0 {
			w.violate("replicas are lost without harm", "%s", w.describe())
		}
		return
	}
	asked := false
	for w.now < deadline {
		if !asked && w.whole() {
			asked = true
			w.askAll()
		}
		w.run(w.now + step)
		if asked && w.work.finals == 0 {
			w.work.stop = true
			if w.settled() {
				for _, h := range w.inService() {
					w.check.digest(h.kv)
					w.check.model.settled(h.kv)
					w.fold(uint64(h.kv.applied))
				}
				return
			}
		}
		asked = asked && !w.failedFinal()
	}
	w.violate("the group does not become whole", "after %d ms: %s", w.o.HealMillis, w.describe())
}

// whole reports whether all replicas stream and all KV nodes are connected.
func (w *world) whole() bool {
	if !w.ordered() {
		return false
	}
	streaming, leading := 0, 0
	hosts := w.inService()
	for _, h := range hosts {
		r, k := h.replicator, h.kv
		if r == nil || k == nil || h.clearing || !k.attached || k.masterID == 0 || !r.status.Writable {
			return false
		}
		if r.status.Leading {
			leading++
		} else if r.status.Joined {
			streaming++
		}
	}
	return leading == 1 && leading+streaming == len(hosts)
}

// askAll asks a write and a read of every node.
func (w *world) askAll() {
	w.work.finals = 0
	for _, h := range w.inService() {
		write := w.work.appending(h, 0, false)
		write.final = true
		h.kv.submit(write)
		read := w.work.newOperation(h, 0)
		read.reading, read.final = true, true
		read.args = [][]byte{[]byte("lrange"), listKeys[0], []byte("0"), []byte("-1")}
		h.kv.read(read)
		w.work.finals += 2
	}
}

// failedFinal reports whether one of the last operations was answered without success: all are asked again.
func (w *world) failedFinal() bool {
	if w.work.finals == 0 {
		return false
	}
	for i := len(w.work.all) - 1; i >= 0; i-- {
		if op := w.work.all[i]; op.final && (op.outcome == outcomeRefused || op.outcome == outcomeUncertain) {
			for _, other := range w.work.all[i:] {
				other.final = false
			}
			for _, other := range w.work.all {
				other.final = false
			}
			return true
		}
	}
	return false
}

// settled reports whether all nodes have executed all that there is.
func (w *world) settled() bool {
	for _, h := range w.inService() {
		if h.kv == nil || h.kv.applied != w.check.end() || h.kv.count > 0 || len(h.kv.waits.abandoned) > 0 {
			return false
		}
	}
	return true
}

// hopeless reports whether so many members of the last established configuration have lost their logs that no election can
// have enough answers, or no configuration enough copies: that is beyond what Copies promises. What counts is the configuration master that has
// come farthest, whether it is up or leads or not.
func (w *world) hopeless() bool {
	var newest *failover.Group
	for _, m := range w.masters {
		if g := m.state.Group(groupName); g != nil && g.Epoch > 0 && (newest == nil || g.Established.Epoch > newest.Established.Epoch) {
			newest = g
		}
	}
	return newest != nil && w.membersAlive(newest) < newest.AnswersNeeded() || w.stateLost()
}

// stateLost reports whether no node has a state any more that reaches into a log: with the images of as many nodes as copies
// were promised nothing else is left.
func (w *world) stateLost() bool {
	for _, h := range w.inService() {
		if h.kv == nil || h.replicator == nil || !h.kv.stranded() {
			return false
		}
	}
	return true
}

func (w *world) membersAlive(g *failover.Group) int {
	alive := 0
	for _, member := range g.Established.Members {
		if h := w.host(member.Node); h.incarnation() == member.Incarnation {
			alive++
		}
	}
	return alive
}

// describe says how things stand.
func (w *world) describe() string {
	text := fmt.Sprintf("committed %d, %d of the last operations open", w.check.end(), w.work.finals)
	for _, h := range w.hosts {
		if r := h.replicator; r != nil {
			s := &r.status
			text += fmt.Sprintf("; %s %v epoch %d promise %d end %d commit %d writable %v joined %v blank %v", h.id, s.Role, s.Epoch, s.Promise,
				s.End, s.Commit, s.Writable, s.Joined, s.Blank)
		} else {
			text += fmt.Sprintf("; %s down", h.id)
		}
		if k := h.kv; k != nil {
			text += fmt.Sprintf(" kv %d of %d, %d open, master %v", k.applied, k.status.Safe, k.count, k.masterID != 0)
		} else {
			text += " kv down"
		}
	}
	for _, m := range w.masters {
		if g := m.state.Group(groupName); g != nil && m.driver.Leading() {
			report := m.driver.Report(groupName)
			text += fmt.Sprintf("; group epoch %d established %d: %s %s %s", g.Epoch, g.Established.Epoch, report.State, report.Detail, report.Plan)
		}
	}
	return text
}

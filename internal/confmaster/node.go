package confmaster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"lockstep/internal/failover"
	"lockstep/internal/fault"
	"lockstep/internal/level"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

const (
	tickLength = failover.TickMillis * time.Millisecond
	// raftTicks is how many ticks make a tick of raft (100 ms). A follower that has heard nothing for raftElection
	// to twice as many of those campaigns: losing the leader costs about a second.
	raftTicks    = 10
	raftElection = 5
	// raftHeartbeat is after how many of those a leader sends heartbeats: two of them fit into the least patience.
	raftHeartbeat = 2
	// snapshotEvery entries the state is saved and the log before it dropped, but for keptEntries.
	snapshotEvery = 512
	keptEntries   = 256
	// inboxLength bounds what waits for the loop. Full: calls and streams wait, raft messages are dropped and sent again.
	inboxLength = 1024
	// drainLength bounds what the loop takes from its inbox before it looks at raft, the driver and the clock again.
	drainLength = 256
	// statusEvery ticks the status that others see is made anew, at the latest; restingEvery while nothing is under way. Either may be lateTicks
	// late, so that something else wakes the loop.
	statusEvery  = 5
	restingEvery = 50
	lateTicks    = 10
	// contentEvery ticks own opinions go to the leader while all is well: it counts those who think that a replica is down, and hears at
	// once that somebody begins to. In between it shows who is up.
	contentEvery = 100
)

// node owns raft, the replicated State and the Driver. Everything in it belongs to the loop goroutine but for the
// fields said to be otherwise.
type node struct {
	config  *Config
	logger  *slog.Logger
	store   *storage
	raft    *raft.RawNode
	state   *failover.State
	driver  *failover.Driver
	effects failover.Effects // noted, not yet carried out
	done    failover.Effects // carried out before; their memory is used again
	news    []failover.Event // to be published as soon as status and view show what they tell
	events  *bus
	drills  *fault.Agent
	calls   *caller
	watch   *watcher
	links   *links
	opiner  *opiner
	started time.Time
	gauges  *gauges

	inbox chan func() error // any goroutine sends

	confState *raftpb.ConfState
	applied   uint64 // index of the last entry applied
	known     uint64 // commit at the start: entries up to there were told of in an earlier life
	saved     uint64 // of the last snapshot
	lead      uint64
	role      raft.StateType
	elected   bool      // Elected was given to the driver, and Deposed was not yet
	ticked    time.Time // up to when time was passed on
	ticks     int
	planned   int // ticks after which the loop meant to wake up
	rafted    int // ticks that raft knows of
	quiet     int // ticks of raft since the leader was heard of, or this one leads
	opined    int // tick of the last opinions
	published int // tick of the last status
	requestID uint64
	waiting   map[uint64]func(failover.Reply)
	seen      map[replicaKey]*lockstep.ReplicaState
	kinds     map[replicaKey]string // role last seen, master or slave
	sentinels map[string]string     // Sentinels of others that subscribers were told of, by id
	peers     map[uint64]peerInfo   // at the leader: what followers told of themselves
	heard     map[uint64]time.Time  // when each of the others said something last
	told      []*lockstep.ConfmasterStatus
	dirty     bool

	status  atomic.Pointer[lockstep.ClusterStatus] // any goroutine reads
	redis   atomic.Pointer[redisView]              // any goroutine reads
	leader  atomic.Uint64                          // any goroutine reads; 0: none known
	level   level.Gate                             // any goroutine reads: the cluster's feature level, that of state
	stopped chan struct{}                          // closed when the loop has ended
}

type replicaKey struct {
	group string
	node  smr.NodeID
}

// peerInfo is what a follower tells with its opinions.
type peerInfo struct {
	pid      uint32
	sentinel string
	page     string
	version  string
	level    uint32 // highest feature level that it can, 0 is 1
}

var errStopped = errors.New("this configuration master is stopping")

// newNode opens the store and stands ready to run.
func newNode(config *Config, h *home) (*node, error) {
	voters := make([]uint64, 0, len(config.Peers))
	for _, p := range config.Peers {
		voters = append(voters, p.ID)
	}
	initial := &raftpb.Snapshot{
		Data:     failover.NewState(config.Cluster).Encode(),
		Metadata: &raftpb.SnapshotMetadata{ConfState: &raftpb.ConfState{Voters: voters}, Index: new(uint64(1)), Term: new(uint64(1))},
	}
	store, err := openStorage(h.raftDir(), nil, initial, config.Logger)
	if err != nil {
		return nil, err
	}
	n := &node{
		config: config, logger: config.Logger, store: store, events: newBus(), started: time.Now(),
		inbox: make(chan func() error, inboxLength), waiting: make(map[uint64]func(failover.Reply)),
		seen: make(map[replicaKey]*lockstep.ReplicaState), kinds: make(map[replicaKey]string), sentinels: make(map[string]string),
		peers: make(map[uint64]peerInfo), heard: make(map[uint64]time.Time), stopped: make(chan struct{}),
	}
	n.gauges = newGauges(n)
	if err := n.load(); err != nil {
		return nil, errors.Join(err, store.close())
	}
	return n, nil
}

// load starts raft and the driver from the store.
func (n *node) load() error {
	snapshot, err := n.store.Snapshot()
	if err != nil {
		return err
	}
	n.state, err = decodeState(snapshot.GetData(), n.config.highestLevel())
	if err != nil {
		return fmt.Errorf("state of the cluster in %s: %w", n.config.Dir, err)
	}
	if n.state.Cluster != n.config.Cluster {
		return fmt.Errorf("the state in %s is of cluster %q, not %q", n.config.Dir, n.state.Cluster, n.config.Cluster)
	}
	n.confState = snapshot.GetMetadata().GetConfState()
	if err := n.config.checkVoters(n.confState.GetVoters()); err != nil {
		return fmt.Errorf("directory %s: %w", n.config.Dir, err)
	}
	n.applied = snapshot.GetMetadata().GetIndex()
	n.saved = n.applied
	n.known = n.store.hard.GetCommit()
	n.raft, err = raft.NewRawNode(&raft.Config{
		ID: n.config.ID, ElectionTick: raftElection, HeartbeatTick: raftHeartbeat, Storage: n.store, Applied: n.applied,
		MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 4 << 20, MaxUncommittedEntriesSize: 64 << 20, MaxInflightMsgs: 64,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, Logger: raftLogger{n.logger},
	})
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	n.driver = failover.New(n.config.options(), n.state)
	n.level.Learn(n.state.FeatureLevel())
	n.dirty = true
	return nil
}

// replay applies what is known to be committed, before anybody is served: a restart must not show an older state than
// was shown before.
func (n *node) replay() error {
	for n.raft.HasReady() {
		if err := n.ready(n.raft.Ready()); err != nil {
			return err
		}
	}
	n.effects.Reset() // the driver does not lead: it can only want to opine, and nobody is there yet
	n.publish()
	return nil
}

// run is the loop. It ends with ctx, which is no error, or with an error after which nothing could be trusted.
func (n *node) run(ctx context.Context) error {
	defer close(n.stopped)
	n.ticked, n.planned = time.Now(), 1
	alarm := time.NewTimer(tickLength)
	defer alarm.Stop()
	n.watch.follow(n.state)
	if len(n.config.Peers) == 1 {
		if err := n.raft.Campaign(); err != nil { // nobody else could lead: do not wait
			return fmt.Errorf("campaign: %w", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-alarm.C:
			n.passTime()
		case take := <-n.inbox:
			n.passTime() // it counts from now
			if err := take(); err != nil {
				return err
			}
		}
		if err := n.drain(); err != nil {
			return err
		}
		if err := n.settle(); err != nil {
			return err
		}
		n.planned = n.rest()
		alarm.Reset(time.Until(n.ticked.Add(time.Duration(n.planned) * tickLength)))
	}
}

// drain takes what else waits in the inbox, so that one write of the raft log serves all of it.
func (n *node) drain() error {
	for range drainLength {
		select {
		case take := <-n.inbox:
			if err := take(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// send hands work to the loop; it waits while the inbox is full.
func (n *node) send(ctx context.Context, take func() error) error {
	select {
	case n.inbox <- take:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stopped:
		return errStopped
	}
}

// passTime brings the driver and raft the ticks that are due, though hardly more than were planned: who was stopped for long first hears
// what is there, and the time is lost.
func (n *node) passTime() {
	now := time.Now()
	due := int(now.Sub(n.ticked) / tickLength)
	if due == 0 {
		return
	}
	n.ticked = n.ticked.Add(time.Duration(due) * tickLength)
	due = min(due, n.planned+1)
	n.ticks += due
	n.step(&failover.Tick{StampMillis: now.UnixMilli(), Ticks: due})
	n.passRaft()
	if n.ticks-n.opined >= n.opineEvery() {
		n.opine()
	}
	if n.ticks-n.published >= n.publishEvery() {
		n.dirty = true
	}
}

// passRaft brings raft its ticks. A follower gets several only if it would not campaign with the last of them: its leader's heartbeat may
// wait in the inbox. What is left comes when the loop has come round.
func (n *node) passRaft() {
	due, most := (n.ticks-n.rafted)/raftTicks, max(1, n.calmRaft()-1)
	if n.role == raft.StateLeader {
		most = n.calmRaft()
	}
	for range min(due, most) {
		n.raft.Tick()
		n.rafted += raftTicks
		n.quiet++
	}
}

// calmRaft returns which of the next ticks of raft is the first that matters. At who looks for a leader that is the next, at the leader
// the one with heartbeats.
func (n *node) calmRaft() int {
	switch {
	case n.role == raft.StateLeader:
		return raftHeartbeat - n.quiet%raftHeartbeat
	case n.role != raft.StateFollower || n.lead == 0:
		return 1
	}
	return max(1, raftElection-n.quiet)
}

// rest returns after how many ticks the loop has to wake up if nothing comes.
func (n *node) rest() int {
	return max(1, min(n.driver.Rest(), n.rafted+n.calmRaft()*raftTicks-n.ticks,
		n.opined+n.opineEvery()+lateTicks-n.ticks, n.published+n.publishEvery()+lateTicks-n.ticks))
}

func (n *node) opineEvery() int {
	if n.driver.Suspects() {
		return n.driver.Options().OpineTicks
	}
	return contentEvery
}

func (n *node) publishEvery() int {
	if n.driver.Rest() == 1 {
		return statusEvery
	}
	return restingEvery
}

func (n *node) step(in failover.Input) { n.driver.Step(in, &n.effects) }

// settle carries out what raft and the driver want done, until neither wants more.
func (n *node) settle() error {
	for {
		if n.raft.HasReady() {
			if err := n.ready(n.raft.Ready()); err != nil {
				return err
			}
			continue
		}
		if !n.carryOut() {
			break
		}
	}
	if n.dirty {
		n.publish()
	}
	n.publishNews()
	return nil
}

// publishNews gives subscribers what happened. Who asks for the status or the master because of it sees it there.
func (n *node) publishNews() {
	view := n.redis.Load()
	for i := range n.news {
		n.events.publish(&notice{event: eventMessage(&n.news[i]), messages: sentinelMessages(&n.news[i], view)})
	}
	clear(n.news)
	n.news = n.news[:0]
}

// ready carries out one batch of raft: first to disk, then to peers, then apply.
func (n *node) ready(rd raft.Ready) error {
	began := time.Now()
	if err := n.store.save(rd.HardState, rd.Entries, rd.Snapshot, rd.MustSync); err != nil {
		return err
	}
	n.gauges.saved(began, rd.MustSync)
	if rd.SoftState != nil {
		n.roleChanged(rd.SoftState)
	}
	for _, m := range rd.Messages {
		n.links.send(m)
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := n.restore(rd.Snapshot); err != nil {
			return err
		}
	}
	for _, entry := range rd.CommittedEntries {
		if err := n.apply(entry); err != nil {
			return err
		}
	}
	n.raft.Advance(rd)
	if n.applied-n.saved >= snapshotEvery {
		if err := n.store.saveSnapshot(n.applied, n.confState, n.state.Encode(), keptEntries); err != nil {
			return err
		}
		n.saved = n.applied
	}
	return nil
}

func (n *node) roleChanged(soft *raft.SoftState) {
	if soft.Lead != n.lead || soft.RaftState != n.role {
		n.logger.Info("raft", "role", soft.RaftState.String(), "leader", soft.Lead)
	}
	if soft.RaftState == raft.StateLeader && n.role != raft.StateLeader {
		n.quiet = 0 // from now on raft counts ticks to its heartbeats
	}
	n.lead, n.role = soft.Lead, soft.RaftState
	n.leader.Store(soft.Lead)
	if n.role != raft.StateLeader {
		clear(n.peers)
		if n.elected {
			n.elected = false
			n.step(&failover.Deposed{})
		}
	}
	n.dirty = true
}

// heir is the follower that has most of the log, among those that were heard of lately; 0 if there is none.
func (n *node) heir() uint64 {
	var heir, match uint64
	progress := n.raft.Status().Progress
	for _, p := range n.config.Peers {
		if pr, ok := progress[p.ID]; ok && p.ID != n.config.ID && pr.RecentActive && pr.Match > match {
			heir, match = p.ID, pr.Match
		}
	}
	return heir
}

// restore replaces the state by a snapshot of the leader.
func (n *node) restore(snapshot *raftpb.Snapshot) error {
	state, err := decodeState(snapshot.GetData(), n.config.highestLevel())
	if err != nil {
		return fmt.Errorf("snapshot of the leader: %w", err)
	}
	if err := n.config.checkVoters(snapshot.GetMetadata().GetConfState().GetVoters()); err != nil {
		return fmt.Errorf("snapshot of the leader: %w", err)
	}
	events := skippedSwitches(n.state, state)
	*n.state = *state
	n.applied = snapshot.GetMetadata().GetIndex()
	n.saved = n.applied
	n.confState = snapshot.GetMetadata().GetConfState()
	if err := n.learnLevel(); err != nil {
		return err
	}
	n.step(&failover.Restored{})
	n.watch.follow(n.state)
	n.tell(events, false)
	n.dirty = true
	return nil
}

// skippedSwitches are the changes of masters that lie between two states: a snapshot has no events of its own, and
// the clients of this Sentinel must not go on with an old master.
func skippedSwitches(before, after *failover.State) []failover.Event {
	var events []failover.Event
	for i := range before.Groups {
		old := &before.Groups[i]
		next := after.Group(old.Name)
		if next == nil || old.Established.Epoch <= 1 || old.Established.Master == next.Established.Master {
			continue
		}
		from, to := old.Replica(old.Established.Master), next.Replica(next.Established.Master)
		if from == nil || to == nil {
			continue
		}
		events = append(events, failover.Event{Group: next.Name, Name: failover.EventSwitchMaster, Node: to.Node,
			Epoch: next.Established.Epoch, Text: "learned late, from a snapshot", FromAddr: from.KVAddr, ToAddr: to.KVAddr})
	}
	return events
}

// apply carries out one committed entry.
func (n *node) apply(entry *raftpb.Entry) error {
	n.applied = entry.GetIndex()
	if entry.GetType() != raftpb.EntryNormal {
		return fmt.Errorf("raft entry %d changes the membership, which is fixed", entry.GetIndex())
	}
	if len(entry.GetData()) > 0 {
		command, err := failover.DecodeCommand(entry.GetData())
		if err != nil {
			return fmt.Errorf("raft entry %d: %w: is this program older than the leader's?", entry.GetIndex(), err)
		}
		result := n.state.Apply(&command)
		if err := n.learnLevel(); err != nil {
			return fmt.Errorf("raft entry %d: %w", entry.GetIndex(), err)
		}
		n.step(&failover.Committed{Result: result})
		n.watch.follow(n.state)
		n.tell(result.Events, entry.GetIndex() <= n.known)
		if entry.GetIndex() > n.known {
			n.tell(auditEvents(result.Entry), false)
		}
		n.dirty = true
	}
	if n.role == raft.StateLeader && !n.elected && entry.GetTerm() == n.raft.BasicStatus().GetTerm() {
		n.elected = true
		n.step(&failover.Elected{})
	}
	return nil
}

// carryOut does what the driver noted; it reports whether there was anything.
func (n *node) carryOut() bool {
	if e := &n.effects; len(e.Proposals)+len(e.Calls)+len(e.Replies)+len(e.Events) == 0 && !e.Opine {
		return false
	}
	// What is done may note more at once (a call that cannot start is answered): that goes to the other Effects.
	n.effects, n.done = n.done, n.effects
	e := &n.done
	for i := range e.Proposals {
		if err := n.raft.Propose(e.Proposals[i].Encode()); err != nil {
			n.logger.Warn("proposal dropped", "group", e.Proposals[i].Group(), "error", err) // the driver proposes again
		}
	}
	for _, call := range e.Calls {
		n.calls.start(call)
	}
	for _, reply := range e.Replies {
		if answer := n.waiting[reply.ID]; answer != nil {
			delete(n.waiting, reply.ID)
			answer(reply)
		}
	}
	n.tell(e.Events, false)
	if e.Opine {
		n.opine()
	}
	e.Reset()
	n.dirty = true
	return true
}

// opine sends own opinions to the leader.
func (n *node) opine() {
	n.opined = n.ticks
	if n.lead == 0 || n.lead == n.config.ID {
		return
	}
	message := &lockstep.Opinions{From: n.config.ID, Cluster: n.config.Cluster, Pid: pid(), SentinelAddr: n.config.announced(), Page: n.config.page(),
		Version: n.config.version(), HighestLevel: uint32(n.config.highestLevel())}
	for _, o := range n.driver.Opinions() {
		message.Opinions = append(message.Opinions, &lockstep.Opinion{Group: o.Group, Node: string(o.Node), Up: o.Up, SilentMs: o.SilentMillis, Saw: o.Saw})
	}
	n.opiner.put(n.lead, message)
}

// takeOpinions is called on the loop with what a follower thinks. It means nothing to another follower.
func (n *node) takeOpinions(m *lockstep.Opinions) {
	if n.role != raft.StateLeader {
		return
	}
	in := failover.Opinions{From: m.GetFrom(), Level: int(m.GetHighestLevel())}
	for _, o := range m.GetOpinions() {
		in.Opinions = append(in.Opinions, failover.Opinion{Group: o.GetGroup(), Node: smr.NodeID(o.GetNode()), Up: o.GetUp(), SilentMillis: o.GetSilentMs(), Saw: o.GetSaw()})
	}
	n.peers[m.GetFrom()] = peerInfo{pid: m.GetPid(), sentinel: m.GetSentinelAddr(), page: m.GetPage(), version: m.GetVersion(), level: m.GetHighestLevel()}
	n.hear(m.GetFrom())
	n.step(&in)
}

// ask gives an operator's request to the driver; answer is called once, on the loop.
func (n *node) ask(request *failover.Request, answer func(failover.Reply)) {
	n.requestID++
	request.ID = n.requestID
	n.waiting[request.ID] = answer
	n.step(request)
}

// hear notes that another configuration master lives.
func (n *node) hear(from uint64) {
	if slices.ContainsFunc(n.config.Peers, func(p Peer) bool { return p.ID == from }) {
		n.heard[from] = time.Now()
	}
}

// stepRaft takes a message of a peer.
func (n *node) stepRaft(m *raftpb.Message) {
	if m.GetFrom() == n.lead {
		n.quiet = 0
	}
	n.hear(m.GetFrom()) // an answer to a heartbeat is a sign of life as good as an opinion, and comes sooner to a new leader
	if err := n.raft.Step(m); err != nil && !errors.Is(err, raft.ErrStepPeerNotFound) {
		n.logger.Debug("raft message refused", "from", m.GetFrom(), "error", err)
	}
}

// tell gives events to the log and to subscribers. Old ones are only kept, for subscribers who ask for all after an id.
func (n *node) tell(events []failover.Event, old bool) {
	for i := range events {
		if old {
			n.events.keep(eventMessage(&events[i]))
			continue
		}
		n.logEvent(&events[i])
		n.gauges.happened(&events[i])
		n.news = append(n.news, events[i])
		n.dirty = true
	}
}

func (n *node) logEvent(e *failover.Event) {
	n.logger.Info(string(e.Name), "group", e.Group, "node", string(e.Node), "epoch", uint64(e.Epoch), "text", e.Text)
}

func eventMessage(e *failover.Event) *lockstep.Event {
	return &lockstep.Event{Id: e.ID, TimeMs: e.StampMillis, Group: e.Group, Name: string(e.Name), Node: string(e.Node),
		Epoch: uint64(e.Epoch), Text: e.Text, FromAddr: e.FromAddr, ToAddr: e.ToAddr}
}

// raftLogger passes on what raft has to say.
type raftLogger struct{ *slog.Logger }

func (l raftLogger) Debug(v ...any)              {}
func (l raftLogger) Debugf(string, ...any)       {}
func (l raftLogger) Info(v ...any)               { l.Logger.Debug("raft", "text", fmt.Sprint(v...)) }
func (l raftLogger) Infof(f string, v ...any)    { l.Logger.Debug("raft", "text", fmt.Sprintf(f, v...)) }
func (l raftLogger) Warning(v ...any)            { l.Logger.Warn("raft", "text", fmt.Sprint(v...)) }
func (l raftLogger) Warningf(f string, v ...any) { l.Logger.Warn("raft", "text", fmt.Sprintf(f, v...)) }
func (l raftLogger) Error(v ...any)              { l.Logger.Error("raft", "text", fmt.Sprint(v...)) }
func (l raftLogger) Errorf(f string, v ...any)   { l.Logger.Error("raft", "text", fmt.Sprintf(f, v...)) }
func (l raftLogger) Fatal(v ...any)              { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(f string, v ...any)   { panic("raft: " + fmt.Sprintf(f, v...)) }
func (l raftLogger) Panic(v ...any)              { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Panicf(f string, v ...any)   { panic("raft: " + fmt.Sprintf(f, v...)) }

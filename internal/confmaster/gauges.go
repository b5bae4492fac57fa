package confmaster

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"lockstep/internal/failover"
	"lockstep/internal/obs"
	lockstep "lockstep/proto"
)

// deadLoop is the silence of the loop, which ticks every few milliseconds, after which only a restart helps.
const deadLoop = 15 * time.Second

// gauges are what the loop publishes of itself for the metrics, and the observer's view of this process (obs.Subject).
type gauges struct {
	node    *node
	began   time.Time
	seen    atomic.Pointer[raftFacts]
	rounds  atomic.Int64 // time of the last publication, since began
	changes atomic.Uint64
	save    obs.Histogram
	pause   map[string]obs.Histogram // by group; guarded by mu

	mu       sync.Mutex
	events   map[eventKey]uint64
	election map[string]int64 // time in milliseconds when the election under way began, by group
	families families
}

type eventKey struct{ group, name string }

// raftFacts are what raft says of itself.
type raftFacts struct {
	id, leader            uint64
	term, commit, applied uint64
	snapshot              uint64
	role                  raft.StateType
	behind                map[uint64]uint64 // at the leader: entries that a peer lacks
	wanted                map[string]int    // copies that were asked for, by group
}

type families struct {
	hasLeader, role, term, index, changes, behind, up, inbox, idle obs.Family
	state, epoch, copies, master, plan                             obs.Family
	replicaUp, replicaMember, silent                               obs.Family
	events, level                                                  obs.Family
}

func newGauges(n *node) *gauges {
	labels := obs.Labels{"confmaster": strconv.FormatUint(n.config.ID, 10)}
	gauge := func(name, help string, more ...string) obs.Family {
		return obs.NewFamily(obs.Gauge, "lockstep_confmaster_"+name, help, labels, more...)
	}
	counter := func(name, help string, more ...string) obs.Family {
		return obs.NewFamily(obs.Counter, "lockstep_confmaster_"+name, help, labels, more...)
	}
	return &gauges{
		node: n, began: time.Now(), pause: make(map[string]obs.Histogram),
		events: make(map[eventKey]uint64), election: make(map[string]int64),
		save: obs.NewHistogram("lockstep_confmaster_raft_save_duration_seconds", "How long a batch of the raft log took to become durable.", labels, obs.Durations()),
		families: families{
			hasLeader: gauge("has_leader", "1 if this configuration master knows a leader."),
			role:      gauge("raft_role", "1 for the role that this configuration master has in raft, 0 for the others.", "role"),
			term:      gauge("raft_term", "Term of raft."),
			index:     gauge("raft_index", "Index in the raft log: committed, applied, and of the last snapshot.", "point"),
			changes:   counter("leader_changes_total", "Changes of the raft leader that were seen."),
			behind:    gauge("raft_peer_lag_entries", "At the leader: entries of the raft log that the other one has not confirmed.", "peer"),
			up:        gauge("up", "1 if this configuration master thinks that the other one lives.", "peer"),
			inbox:     gauge("inbox_length", "Inputs that wait for the loop."),
			level:     gauge("feature_level", "The cluster's feature level as this configuration master knows it, and the highest that it supports.", "of"),
			idle:      gauge("loop_idle_seconds", "Since the loop last published its state."),

			state:  gauge("group_state", "1 for the state of the group, 0 for the others.", "group", "state"),
			epoch:  gauge("group_epoch", "Highest epoch given out, and the established one.", "group", "kind"),
			copies: gauge("group_copies", "Copies that a write needs now, the least they may be lowered to, and as many as were asked for.", "group", "kind"),
			master: gauge("group_master", "1 for the replica that is the master; none while electing.", "group", "node"),
			plan:   gauge("group_busy", "1 while something is being done with the group: an election, a switch-over, a reconfiguration.", "group"),

			replicaUp:     gauge("replica_up", "1 if this configuration master thinks that the replica lives.", "group", "node"),
			replicaMember: gauge("replica_member", "1 if the replica is a member and counts for copies.", "group", "node"),
			silent:        gauge("replica_silent_seconds", "Since this configuration master last heard of the replica.", "group", "node"),

			events: counter("events_total", "What happened to a group, as told in smrctl explain and the events.", "group", "event"),
		},
	}
}

// look notes what belongs to the loop, and is called by it with each publication.
func (g *gauges) look() {
	n := g.node
	basic := n.raft.BasicStatus()
	facts := &raftFacts{
		id: n.config.ID, leader: n.lead, term: basic.GetTerm(), commit: basic.GetCommit(),
		applied: n.applied, snapshot: n.saved, role: n.role, wanted: make(map[string]int),
	}
	if n.role == raft.StateLeader {
		last := n.store.lastIndex()
		facts.behind = make(map[uint64]uint64)
		n.raft.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
			if id != n.config.ID {
				facts.behind[id] = last - min(p.Match, last)
			}
		})
	}
	for i := range n.state.Groups {
		facts.wanted[n.state.Groups[i].Name] = n.state.Groups[i].Policy.Copies
	}
	if before := g.seen.Swap(facts); before != nil && facts.leader != 0 && before.leader != facts.leader {
		g.changes.Add(1)
	}
	g.rounds.Store(int64(time.Since(g.began)))
}

// saved notes that a batch of raft was saved, if it had to be durable.
func (g *gauges) saved(began time.Time, durable bool) {
	if durable {
		g.save.Observe(time.Since(began).Seconds())
	}
}

// happened counts an event, and measures elections. Called by the loop.
func (g *gauges) happened(e *failover.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events[eventKey{e.Group, string(e.Name)}]++
	switch e.Name {
	case failover.EventElection:
		if g.election[e.Group] == 0 {
			g.election[e.Group] = e.StampMillis
		}
	case failover.EventEstablished:
		if began := g.election[e.Group]; began != 0 {
			g.pauseOf(e.Group).Observe(float64(max(0, e.StampMillis-began)) / 1000)
			delete(g.election, e.Group)
		}
	}
}

// pauseOf returns the histogram of a group's elections. Called with mu held.
func (g *gauges) pauseOf(group string) obs.Histogram {
	h := g.pause[group]
	if h == nil {
		h = obs.NewHistogram("lockstep_confmaster_election_duration_seconds",
			"From when an election began until the new master was established. Suspecting the old one (--suspect-ms) comes before.",
			obs.Labels{"confmaster": strconv.FormatUint(g.node.config.ID, 10), "group": group}, obs.Durations())
		g.pause[group] = h
	}
	return h
}

var raftRoles = []string{
	raftRole(raft.StateFollower), raftRole(raft.StatePreCandidate), raftRole(raft.StateCandidate), raftRole(raft.StateLeader),
}

// raftRole is the name of a role without the word before it.
func raftRole(role raft.StateType) string {
	return strings.ToLower(strings.TrimPrefix(role.String(), "State"))
}

var groupStates = []string{"ok", "degraded", "electing", "unavailable", "creating"}

// Collect implements obs.Subject.
func (g *gauges) Collect(metrics chan<- prometheus.Metric) {
	n, f := g.node, &g.families
	if facts := g.seen.Load(); facts != nil {
		f.hasLeader.Send(metrics, obs.Fact(facts.leader != 0))
		f.role.States(metrics, raftRole(facts.role), raftRoles)
		f.term.Send(metrics, float64(facts.term))
		f.index.Send(metrics, float64(facts.commit), "commit")
		f.index.Send(metrics, float64(facts.applied), "applied")
		f.index.Send(metrics, float64(facts.snapshot), "snapshot")
		for group, copies := range facts.wanted {
			f.copies.Send(metrics, float64(copies), group, "wanted")
		}
		for peer, entries := range facts.behind {
			f.behind.Send(metrics, float64(entries), strconv.FormatUint(peer, 10))
		}
	}
	f.changes.Send(metrics, float64(g.changes.Load()))
	f.inbox.Send(metrics, float64(len(n.inbox)))
	f.idle.Send(metrics, g.idle().Seconds())
	f.level.Send(metrics, float64(n.level.Level()), "cluster")
	f.level.Send(metrics, float64(n.config.highestLevel()), "highest")
	if status := n.status.Load(); status != nil {
		g.collectStatus(metrics, status)
	}
	g.save.Collect(metrics)
	g.collectEvents(metrics)
}

// countedEvents are shown for every group from the start, so that their first increase is seen.
var countedEvents = []failover.EventName{
	failover.EventElection, failover.EventChosen, failover.EventEstablished, failover.EventSwitchMaster, failover.EventReconfigure,
	failover.EventUnavailable, failover.EventSuspected, failover.EventAgreedDown, failover.EventCallFailed, failover.EventElectionWaits,
}

// collectEvents sends what happened to the groups.
func (g *gauges) collectEvents(metrics chan<- prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if status := g.node.status.Load(); status != nil {
		for _, group := range status.GetGroups() {
			for _, name := range countedEvents {
				g.events[eventKey{group.GetName(), string(name)}] += 0
			}
		}
	}
	for key, count := range g.events {
		g.families.events.Send(metrics, float64(count), key.group, key.name)
	}
	for _, h := range g.pause {
		h.Collect(metrics)
	}
}

// collectStatus sends what everybody may see of the cluster.
func (g *gauges) collectStatus(metrics chan<- prometheus.Metric, status *lockstep.ClusterStatus) {
	f := &g.families
	for _, c := range status.GetConfmasters() {
		f.up.Send(metrics, obs.Fact(c.GetUp()), strconv.FormatUint(c.GetId(), 10))
	}
	for _, group := range status.GetGroups() {
		name := group.GetName()
		f.state.States(metrics, group.GetState(), groupStates, name)
		f.epoch.Send(metrics, float64(group.GetEpoch()), name, "given")
		f.epoch.Send(metrics, float64(group.GetEstablished()), name, "established")
		f.copies.Send(metrics, float64(group.GetCopies()), name, "needed")
		f.copies.Send(metrics, float64(group.GetMinCopies()), name, "least")
		if master := group.GetMaster(); master != "" {
			f.master.Send(metrics, 1, name, master)
		}
		f.plan.Send(metrics, obs.Fact(group.GetPlan() != ""), name)
		for _, replica := range group.GetReplicas() {
			f.replicaUp.Send(metrics, obs.Fact(replica.GetUp()), name, replica.GetNode())
			f.replicaMember.Send(metrics, obs.Fact(replica.GetMember()), name, replica.GetNode())
			f.silent.Send(metrics, float64(replica.GetLastSeenMs())/1000, name, replica.GetNode())
		}
	}
}

func (g *gauges) idle() time.Duration {
	return max(0, time.Since(g.began)-time.Duration(g.rounds.Load()))
}

// Live implements obs.Subject.
func (g *gauges) Live() error {
	if idle := g.idle(); idle > deadLoop {
		return fmt.Errorf("the loop of this configuration master has published nothing for %v", idle)
	}
	return nil
}

// Ready implements obs.Subject. The master is the leader of raft.
func (g *gauges) Ready(role obs.Role) []string {
	facts := g.seen.Load()
	switch {
	case facts == nil:
		return []string{"it is starting"}
	case facts.leader == 0:
		return []string{"the configuration masters have no leader: no fail-over until a majority of them is back"}
	case role == obs.Master && facts.leader != facts.id:
		return []string{fmt.Sprintf("it does not lead: configuration master %d does", facts.leader)}
	case role == obs.Slave && facts.leader == facts.id:
		return []string{"it leads"}
	}
	return nil
}

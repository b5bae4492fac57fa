package sim

import (
	"crypto/rand"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"lockstep/internal/failover"
)

const (
	fullMembers = 3
	// As in internal/confmaster: a tick of raft is so many ticks; elections after 10 to 20 of those.
	raftTicks     = 5
	raftElection  = 10
	snapshotEvery = 5
	keptEntries   = 1
)

// raftMember is the raft side of a configuration master: internal/confmaster/node.go with a simulated store.
type raftMember struct {
	m     *confmaster
	node  *raft.RawNode
	store *raft.MemoryStorage // what is durable: a crash leaves exactly this

	lead    uint64
	role    raft.StateType
	elected bool
	applied uint64
	saved   uint64
	ticks   int
	busy    bool // ready is at work
}

// fullTurn is held while crypto/rand.Reader, from which raft draws its time-outs, is replaced.
var fullTurn sync.Mutex

// seededReader stands in for crypto/rand.Reader.
type seededReader struct{ draw *mrand.Rand }

func (s seededReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.draw.Uint32())
	}
	return len(p), nil
}

// runFull runs a schedule with three members of raft.
func runFull(c Config) *Result {
	fullTurn.Lock()
	defer fullTurn.Unlock()
	var before io.Reader = rand.Reader
	rand.Reader = seededReader{mrand.New(mrand.NewPCG(c.Seed, 9))}
	defer func() { rand.Reader = before }()
	return run(c)
}

// startMembers makes the configuration masters of full mode.
func (w *world) startMembers() {
	initial := failover.NewState(w.cluster)
	if result := initial.Apply(w.createGroup()); !result.Applied {
		w.violate("the group cannot be created", "%s", result.Reason)
	}
	voters := []uint64{1, 2, 3}
	for i, id := range voters {
		m := &confmaster{w: w, id: id, place: len(w.hosts) + i, voters: voters}
		store := raft.NewMemoryStorage()
		snapshot := &raftpb.Snapshot{Data: initial.Encode(),
			Metadata: &raftpb.SnapshotMetadata{ConfState: &raftpb.ConfState{Voters: voters}, Index: proto.Uint64(1), Term: proto.Uint64(1)}}
		if err := store.ApplySnapshot(snapshot); err != nil {
			w.violate("raft fails", "%v", err)
		}
		m.raft = &raftMember{m: m, store: store}
		w.masters = append(w.masters, m)
	}
	for _, m := range w.masters {
		m.raft.restart()
	}
}

// crash stops the process; its store stays.
func (r *raftMember) crash() {
	if !r.m.up {
		return
	}
	r.m.w.hit(probeMasterChange)
	r.m.up = false
	r.m.life++
	r.node = nil
}

// restart starts the process from what is in its store.
func (r *raftMember) restart() {
	m, w := r.m, r.m.w
	if m.up {
		return
	}
	snapshot, err := r.store.Snapshot()
	if err != nil {
		w.violate("raft fails", "%v", err)
	}
	state, err := failover.DecodeState(snapshot.GetData())
	if err != nil {
		w.violate("a state does not survive its encoding", "%v", err)
	}
	applied := snapshot.GetMetadata().GetIndex()
	*r = raftMember{m: m, store: r.store, applied: applied, saved: applied}
	r.node, err = raft.NewRawNode(&raft.Config{ID: m.id, ElectionTick: raftElection, HeartbeatTick: 1, Storage: r.store, Applied: applied,
		MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 64, CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, Logger: quiet{}})
	if err != nil {
		w.violate("raft fails", "%v", err)
	}
	m.life++
	m.up, m.state, m.out = true, state, failover.Effects{}
	m.driver = failover.New(w.driverOptions(m), m.state)
	m.seen = make([]seenView, len(w.hosts))
	m.tickOn()
}

func (r *raftMember) tick() {
	if r.ticks++; r.ticks%raftTicks == 0 {
		r.node.Tick()
	}
	if r.ticks%10 == 0 {
		r.opine()
	}
}

func (r *raftMember) propose(cmd *failover.Command) {
	_ = r.node.Propose(cmd.Encode()) // the driver proposes again
}

// ready carries out what raft wants: first to the store, then to the others, then to the state.
func (r *raftMember) ready() {
	if r.busy || !r.m.up {
		return
	}
	r.busy = true
	for r.m.up && r.node.HasReady() {
		r.one(r.node.Ready())
	}
	r.busy = false
}

func (r *raftMember) one(rd raft.Ready) {
	m, w := r.m, r.m.w
	if !raft.IsEmptySnap(rd.Snapshot) {
		r.must(r.store.ApplySnapshot(rd.Snapshot))
	}
	r.must(r.store.Append(rd.Entries))
	if !raft.IsEmptyHardState(rd.HardState) {
		r.must(r.store.SetHardState(rd.HardState))
	}
	if rd.SoftState != nil {
		wasLeader := r.role == raft.StateLeader
		r.lead, r.role = rd.SoftState.Lead, rd.SoftState.RaftState
		if w.trace != nil {
			w.say(m.name(), "raft %v, leader %d", r.role, r.lead)
		}
		if wasLeader && r.role != raft.StateLeader && r.elected {
			r.elected = false
			m.step(&failover.Deposed{})
		}
	}
	for _, message := range rd.Messages {
		r.send(message)
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		r.restore(rd.Snapshot)
	}
	for _, entry := range rd.CommittedEntries {
		r.apply(entry)
	}
	r.node.Advance(rd)
	if r.applied-r.saved >= snapshotEvery {
		_, err := r.store.CreateSnapshot(r.applied, &raftpb.ConfState{Voters: m.voters}, m.state.Encode())
		r.must(err)
		r.must(r.store.Compact(r.applied - keptEntries))
		r.saved = r.applied
	}
}

func (r *raftMember) must(err error) {
	if err != nil {
		r.m.w.violate("raft fails", "member %d: %v", r.m.id, err)
	}
}

func (r *raftMember) restore(snapshot *raftpb.Snapshot) {
	state, err := failover.DecodeState(snapshot.GetData())
	r.must(err)
	*r.m.state = *state
	r.applied = snapshot.GetMetadata().GetIndex()
	r.saved = r.applied
	r.m.w.hit(probeRaftSnapshot)
	r.m.step(&failover.Restored{})
}

func (r *raftMember) apply(entry *raftpb.Entry) {
	r.applied = entry.GetIndex()
	if len(entry.GetData()) > 0 {
		cmd, err := failover.DecodeCommand(entry.GetData())
		r.must(err)
		r.m.apply(&cmd)
	}
	if r.role == raft.StateLeader && !r.elected && entry.GetTerm() == r.node.BasicStatus().GetTerm() {
		r.elected = true
		r.m.step(&failover.Elected{})
	}
}

// send passes a message of raft to another member.
func (r *raftMember) send(message *raftpb.Message) {
	w := r.m.w
	encoded, err := proto.Marshal(message)
	r.must(err)
	to := w.masters[message.GetTo()-1]
	w.net.control(r.m.place, to.place, func() {
		if !to.up {
			return
		}
		got := &raftpb.Message{}
		to.raft.must(proto.Unmarshal(encoded, got))
		_ = to.raft.node.Step(got) // a message that raft refuses is its business
		to.carryOut()
	})
}

// opine sends own opinions to the leader.
func (r *raftMember) opine() {
	if r.lead == 0 || r.lead == r.m.id {
		return
	}
	w := r.m.w
	in := &failover.Opinions{From: r.m.id, Opinions: r.m.driver.Opinions()}
	to := w.masters[r.lead-1]
	w.net.control(r.m.place, to.place, func() {
		if to.up {
			to.step(in)
			to.carryOut()
		}
	})
}

// quiet is raft's logger: it says nothing, and stops where raft would.
type quiet struct{}

func (quiet) Debug(...any)              {}
func (quiet) Debugf(string, ...any)     {}
func (quiet) Info(...any)               {}
func (quiet) Infof(string, ...any)      {}
func (quiet) Warning(...any)            {}
func (quiet) Warningf(string, ...any)   {}
func (quiet) Error(...any)              {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatal(v ...any)            { panic("raft: " + fmt.Sprint(v...)) }
func (quiet) Fatalf(f string, v ...any) { panic("raft: " + fmt.Sprintf(f, v...)) }
func (quiet) Panic(v ...any)            { panic("raft: " + fmt.Sprint(v...)) }
func (quiet) Panicf(f string, v ...any) { panic("raft: " + fmt.Sprintf(f, v...)) }

package failover

import "lockstep/smr"

// TickMillis is the length of a tick in milliseconds.
const TickMillis = 10

// Limits of what is kept and of what comes from outside.
const (
	// MaxGroups bounds the groups of a cluster.
	MaxGroups = 64
	// MaxReplicas bounds the registered replicas of a group, members or not.
	MaxReplicas = smr.MaxMembers
	// MaxLog bounds the work log, in entries; the oldest go first.
	MaxLog = 1000
	// MaxText bounds reasons and the like, in bytes; longer ones are cut.
	MaxText = 1024
	// MaxWitnesses bounds the witnesses of one decision.
	MaxWitnesses = 64
	// MaxCommand bounds an encoded Command, MaxState an encoded State, in bytes.
	MaxCommand = 1 << 20
	MaxState   = 256 << 20
)

// State is what raft replicates. Only Apply changes it.
type State struct {
	Cluster   string
	Groups    []Group     // sorted by Name
	Log       []WorkEntry // newest last, at most MaxLog
	NextEntry uint64      // ID of the next WorkEntry; the first is 1
	NextEvent uint64      // ID of the next Event; the first is 1
	// Level is the cluster's feature level, see FeatureLevel; 0 is 1, the first. It never decreases. StateLevel reads it alone: the
	// field never changes.
	Level int `json:",omitempty"`
}

// Group is one replicated log and the replicas registered for it.
//
// Invariants: Established.Epoch <= Epoch; Provisional.Epoch is 0 or above Established.Epoch; Election.Epoch is 0 or
// above Established.Epoch; an Election that has not chosen excludes a Provisional.
type Group struct {
	Name     string
	Policy   Policy
	Replicas []Replica // sorted by Node

	// Epoch is the highest epoch given out (S1). 0 until the group is founded.
	Epoch smr.Epoch
	// Established is the last established configuration; Epoch 0 until the group is founded. That of epoch 1
	// only says whose answers the first election needs: nobody leads it.
	Established smr.Config
	// Provisional is the newest configuration given out above Established, Epoch 0 if there is none. An older
	// provisional one can never become established any more and is forgotten.
	Provisional smr.Config
	// Election that has been begun and of whose reign nothing is established yet; Epoch 0 if there is none.
	Election Election
	// Reign is the last reign for which a master was chosen; Epoch 0 before the first.
	Reign Reign

	// Version grows with every change of Policy and Replicas that somebody asked for: whoever changes them says which
	// one it saw.
	Version uint64 `json:",omitempty"`
	// Change is the change of the replicas that is being carried out; Kind "" if there is none.
	Change Change `json:",omitzero"`
	// Recoveries are the forced ones, oldest first. They are never forgotten.
	Recoveries []Recovery `json:",omitempty"`
	// Removed are the last MaxRemoved replicas that were removed: in these incarnations they do not join by themselves.
	Removed []smr.Member `json:",omitempty"`
	// Settings of the KV nodes.
	Settings Settings `json:",omitzero"`
}

// Policy of a group.
type Policy struct {
	Copies    int          // replicas that shall hold a byte, master included
	MinCopies int          // how far the configuration master may lower Copies by itself
	Sync      smr.SyncMode // shown; set at the replicators

	// A member is slow while it is more than SlowBytes behind its master's End, or more than SlowMillis behind in time, and
	// until it is within half of both. 0: that bound does not count. One that is slow for SlowForMillis is dropped
	// while Copies of the others are there; for twice as long, while MinCopies are.
	SlowBytes     smr.LSN `json:",omitempty"`
	SlowMillis    int     `json:",omitempty"`
	SlowForMillis int     `json:",omitempty"`
}

// Replica as registered.
type Replica struct {
	Node       smr.NodeID
	ManageAddr string
	DataAddr   string
	KVAddr     string
	Preference int // of several candidates with equal Position the highest leads
	// Drained: it shall neither be a member nor lead, because an operator says so or because it is being removed. It
	// follows as a learner.
	Drained bool `json:",omitempty"`
}

// Election that is going on.
type Election struct {
	Epoch  smr.Epoch
	Kind   ElectionKind
	Reason string     // one sentence for people
	Target smr.NodeID // of a switch-over: who shall lead, "" otherwise
	// Without names a living master that has lost its slaves, and whoever is on its side of the cut: as long as the others
	// are enough, they are not asked. Any sufficient set of answers is as good as another (S4).
	Without []smr.NodeID `json:",omitempty"`
	Chosen  bool         // Group.Reign and Group.Provisional hold who was chosen
}

// ElectionKind says why there is an election.
type ElectionKind string

const (
	// ElectionFirst of a new group.
	ElectionFirst ElectionKind = "first"
	// ElectionFailover because the master is gone.
	ElectionFailover ElectionKind = "failover"
	// ElectionSwitchover because an operator, or a master without KV node, hands over.
	ElectionSwitchover ElectionKind = "switchover"
	// ElectionForced among the replicas that are left, because an operator accepts the loss of the others.
	ElectionForced ElectionKind = "forced"
)

// Reign is a mastership: the election epoch, and the process that was chosen, as in its answer (S3).
type Reign struct {
	Epoch       smr.Epoch
	Master      smr.NodeID
	Incarnation smr.Incarnation
	Life        smr.Life
}

// WorkEntry is a decision with its evidence (P9).
type WorkEntry struct {
	ID          uint64
	StampMillis int64 // wall clock of the confmaster that proposed it
	Group       string
	Epoch       smr.Epoch // highest given out after the decision
	Kind        EntryKind
	Reason      string // one sentence for people
	Witnesses   []Witness
	Candidates  []Candidate
	Master      smr.NodeID
	Confmaster  uint64 // that decided
}

// EntryKind names a decision.
type EntryKind string

// Kinds of WorkEntry.
const (
	EntryCreated     EntryKind = "created"
	EntryFounded     EntryKind = "founded"
	EntryElection    EntryKind = "election"
	EntrySwitchover  EntryKind = "switchover"
	EntryChosen      EntryKind = "chosen"
	EntryEstablished EntryKind = "established"
	EntryDrop        EntryKind = "drop"
	EntryAdmit       EntryKind = "admit"
	EntryCopies      EntryKind = "copies"
	EntryPolicy      EntryKind = "policy"
	EntryUnavailable EntryKind = "unavailable"
	EntryNote        EntryKind = "note"
	EntryChange      EntryKind = "change"    // of the registered replicas
	EntryRecovered   EntryKind = "recovered" // by force
	EntryLevel       EntryKind = "level"     // the feature level of the cluster was raised; Group ""
)

// Witness is what one confmaster saw of one replica.
type Witness struct {
	Confmaster   uint64
	Node         smr.NodeID
	Saw          string
	SilentMillis uint32
}

// Candidate is a fence answer as it was weighed.
type Candidate struct {
	Node        smr.NodeID
	Incarnation smr.Incarnation
	Life        smr.Life
	Position    smr.Position
	Commit      smr.LSN
	Applied     smr.LSN
	Chosen      bool
	Note        string // why it counted or not, or what set it apart
}

// Event is something that happened, for subscribers. In a Result it is the same on every confmaster and has an
// ID; in Effects it is an observation of this confmaster and has ID 0.
type Event struct {
	ID          uint64
	StampMillis int64
	Group       string
	Name        EventName
	Node        smr.NodeID
	Epoch       smr.Epoch
	Text        string
	FromAddr    string // of EventSwitchMaster: KV addresses of the old and the new master
	ToAddr      string
}

// EventName names what happened.
type EventName string

// Events of decisions (Result.Events).
const (
	EventCreated      EventName = "created"
	EventFounded      EventName = "founded"
	EventElection     EventName = "election-begun" // Node: the master until now
	EventChosen       EventName = "chosen"         // Node: the new master
	EventEstablished  EventName = "established"
	EventSwitchMaster EventName = "switch-master" // with EventEstablished, when the master's node changed
	EventReconfigure  EventName = "reconfigure"   // a reconfiguration was given out
	EventPolicy       EventName = "policy"
	EventUnavailable  EventName = "unavailable"
	EventChange       EventName = "change"
	EventRecovered    EventName = "recovered"
	EventLevel        EventName = "level" // the feature level of the cluster was raised; Group ""
)

// Events of observations (Effects.Events).
const (
	EventSuspected       EventName = "suspected"         // this confmaster thinks Node is down (+sdown)
	EventSuspectedEnd    EventName = "suspected-end"     // (-sdown)
	EventAgreedDown      EventName = "agreed-down"       // leader: a majority thinks so (+odown)
	EventAgreedDownEnd   EventName = "agreed-down-end"   // (-odown)
	EventCallFailed      EventName = "call-failed"       // a replicator refused an order
	EventSwitchoverEnded EventName = "switchover-ended"  // leader: Text says how
	EventElectionWaits   EventName = "election-waits"    // leader: elections come too fast
	EventForeignReplica  EventName = "replica-not-blank" // leader: a new group's replica holds a log
)

// Command is one decision on its way through raft. Exactly one of the pointers is set. Every body of a group names the
// highest epoch that its proposer saw given out (Expect); Apply refuses it when another has been given out since.
type Command struct {
	ID          uint64 // of the proposer: tells it in Committed which proposal was meant
	Confmaster  uint64 // the proposer
	StampMillis int64  // its wall clock

	CreateGroup      *CreateGroup      `json:",omitempty"`
	Found            *Found            `json:",omitempty"`
	BeginElection    *BeginElection    `json:",omitempty"`
	Choose           *Choose           `json:",omitempty"`
	Establish        *Establish        `json:",omitempty"`
	BeginReconfigure *BeginReconfigure `json:",omitempty"`
	SetPolicy        *SetPolicy        `json:",omitempty"`
	SetReplica       *SetReplica       `json:",omitempty"`
	Note             *Note             `json:",omitempty"`
	AddReplica       *AddReplica       `json:",omitempty"`
	BeginChange      *BeginChange      `json:",omitempty"`
	AdvanceChange    *AdvanceChange    `json:",omitempty"`
	CancelChange     *CancelChange     `json:",omitempty"`
	Recover          *Recover          `json:",omitempty"`
	ChangeSettings   *ChangeSettings   `json:",omitempty"`
	ShareSettings    *ShareSettings    `json:",omitempty"`
	RaiseLevel       *RaiseLevel       `json:",omitempty"` // of the whole cluster
}

type (
	// CreateGroup registers a group and its first replicas. Applied again for the same description it changes
	// nothing and succeeds.
	CreateGroup struct {
		Name     string
		Policy   Policy
		Replicas []Replica
	}
	// Found puts the first configuration on record, as epoch 1, established: all replicas are blank, so that
	// nothing can be lost. Config.Epoch and Reign are given by Apply.
	Found struct {
		Group  string
		Config smr.Config
	}
	// BeginElection gives out Expect+1.
	BeginElection struct {
		Group     string
		Expect    smr.Epoch
		Kind      ElectionKind
		Reason    string
		Target    smr.NodeID
		Without   []smr.NodeID `json:",omitempty"`
		Witnesses []Witness
	}
	// Choose puts the winner of the running election on record. Candidates holds every answer that counted;
	// Apply checks S4 with them once more.
	Choose struct {
		Group       string
		Epoch       smr.Epoch
		Master      smr.NodeID
		Incarnation smr.Incarnation
		Life        smr.Life
		Candidates  []Candidate
		Reason      string
	}
	// Establish makes Group.Provisional the established configuration.
	Establish struct {
		Group string
		Epoch smr.Epoch
	}
	// BeginReconfigure gives out Expect+1 in the reign. Kind is EntryDrop, EntryAdmit or EntryCopies.
	BeginReconfigure struct {
		Group     string
		Expect    smr.Epoch
		Reign     smr.Epoch
		Copies    int
		Members   []smr.Member
		Kind      EntryKind
		Reason    string
		Witnesses []Witness
	}
	// SetPolicy changes a group's policy. Version, if it is not 0, is the Group.Version that its proposer saw.
	SetPolicy struct {
		Group   string
		Policy  Policy
		Version uint64 `json:",omitempty"`
	}
	// SetReplica registers a replica or changes its addresses and preference. Known: only the addresses, and only if it
	// is registered.
	SetReplica struct {
		Group   string
		Replica Replica
		Known   bool `json:",omitempty"`
	}
	// Note puts a line into the work log. Kind is EntryUnavailable or EntryNote.
	Note struct {
		Group     string
		Expect    smr.Epoch
		Kind      EntryKind
		Text      string
		Witnesses []Witness
	}
)

// Result of Apply.
type Result struct {
	ID         uint64 // of the Command
	Confmaster uint64 // its proposer
	Group      string
	Applied    bool
	Reason     string    // if not applied: why (overtaken, invalid)
	Stale      bool      // because its proposer saw another version of the group, or another feature level
	Epoch      smr.Epoch // highest given out in the group, after the command
	Entry      *WorkEntry
	Events     []Event
}

// Input of Step: one of the types below.
type Input interface{ input() }

type (
	// Tick passes time: one every TickMillis, or as many together as Ticks says (0 is 1; see Rest). StampMillis is the wall clock; it only
	// feeds the work log.
	Tick struct {
		StampMillis int64
		Ticks       int
	}

	// Observed: a replica's state, first hand, from this confmaster's own Watch stream.
	Observed struct {
		Group string
		Node  smr.NodeID
		View  ReplicaView
	}
	// Unreachable: the replica's side broke the Watch stream, or refused the connection.
	Unreachable struct {
		Group string
		Node  smr.NodeID
		Saw   string // for people: "connection refused"
	}

	// Elected: this confmaster leads raft and has applied every entry up to the first of its own term.
	Elected struct{}
	// Deposed: it does not lead any more. Waiting requests are answered; everything else volatile is forgotten.
	Deposed struct{}
	// Restored: *State was replaced by a snapshot.
	Restored struct{}
	// Committed: a command was applied to State, whoever proposed it.
	Committed struct{ Result Result }

	// Opinions of another confmaster: all that it has, replacing what it said before.
	Opinions struct {
		From     uint64
		Level    int // highest feature level that it can; 0 is 1
		Opinions []Opinion
	}
	// Answer to a Call.
	Answer struct {
		ID    CallID
		Code  AnswerCode
		Text  string       // why not, for people
		Fence *FenceAnswer // of a CallFence with AnswerOK
		View  *ReplicaView // of a CallLook with AnswerOK
	}
	// Request of an operator. Exactly one of the pointers is set. Answered by one Reply.
	Request struct {
		ID          uint64 // chosen by the shell, never used twice in a process life
		CreateGroup *CreateGroup
		Switchover  *Switchover
		SetPolicy   *SetPolicy
		SetReplica  *SetReplica
		Share       *ShareSettings // of the shell itself
		Change      *ChangeRequest
		Join        *JoinRequest
		Raise       *RaiseRequest
	}
)

// Switchover asks to hand mastership over.
type Switchover struct {
	Group string
	To    smr.NodeID // "" lets the configuration master pick
}

func (*Tick) input()        {}
func (*Observed) input()    {}
func (*Unreachable) input() {}
func (*Elected) input()     {}
func (*Deposed) input()     {}
func (*Restored) input()    {}
func (*Committed) input()   {}
func (*Opinions) input()    {}
func (*Answer) input()      {}
func (*Request) input()     {}

// ReplicaView is what a replicator says of itself in Watch and State.
type ReplicaView struct {
	Incarnation smr.Incarnation
	Life        smr.Life
	Blank       bool
	Role        smr.Role
	Leading     bool
	Epoch       smr.Epoch
	Promise     smr.Epoch
	Master      smr.NodeID
	Reportable  smr.Epoch

	Start, End, Durable, Commit, Safe, Applied, Checkpoint smr.LSN
	PositionEpoch                                          smr.Epoch

	Attached  bool
	Writable  bool
	Joined    bool
	Stopped   bool
	NeedImage bool
	Peers     []PeerView // at a master; any order

	LoopIdleMillis  uint32
	DiskStuckMillis uint32
	KVSilentMillis  uint32
	KVAddr          string
	DataAddr        string
	KVAdminAddr     string // where the KV node beside lends its image, "" if it does not
	ImageFrom       string // the KVAdminAddr that it fetches an image from, "" if it does not

	Level, KVLevel int // highest feature level that replicator and attached KV node can; 0 is 1
}

// PeerView is what a master says of one slave.
type PeerView struct {
	Member  smr.Member
	Streams bool
	Durable smr.LSN
}

// Opinion is what one confmaster thinks of one replica.
type Opinion struct {
	Group        string
	Node         smr.NodeID
	Up           bool
	SilentMillis uint32 // since it was last heard of
	Saw          string // why it is thought down, for people; "" if up
}

// CallID names a Call. Never used twice in the life of a Driver.
type CallID uint64

// CallKind names an order to a replicator.
type CallKind string

// Kinds of Call, and which fields of it they carry.
const (
	CallFence       CallKind = "fence"       // Epoch, LeaseOver
	CallLead        CallKind = "lead"        // Incarnation, Life, Config, Base, Addresses
	CallFollow      CallKind = "follow"      // Epoch, Master, MasterAddr, Sources
	CallReconfigure CallKind = "reconfigure" // Config, Base, Addresses
	CallEstablished CallKind = "established" // Config
	CallLearn       CallKind = "learn"       // Epoch
	CallLook        CallKind = "look"        // nothing: State, answered with a View
)

// Call is an order to a replicator.
type Call struct {
	ID           CallID
	Group        string
	Node         smr.NodeID
	Addr         string // its management address
	Kind         CallKind
	TimeoutTicks int // the shell answers AnswerUnavailable when it took longer

	Epoch       smr.Epoch
	LeaseOver   bool // the master of the last reign has answered the fence: it reads under no lease
	Master      smr.NodeID
	MasterAddr  string   // its data address
	Sources     []Source // of images, in order of preference
	Incarnation smr.Incarnation
	Life        smr.Life
	Config      smr.Config
	Base        smr.Config
	Addresses   []Address
}

// Address is where a replica's data port is.
type Address struct {
	Node     smr.NodeID
	DataAddr string
}

// AnswerCode says how a Call went.
type AnswerCode uint8

const (
	// AnswerOK: done.
	AnswerOK AnswerCode = iota
	// AnswerStale: refused, the replica has promised a higher (or, for a fence, this) epoch. gRPC ABORTED.
	AnswerStale
	// AnswerRefused: refused for another reason. gRPC FAILED_PRECONDITION.
	AnswerRefused
	// AnswerUnavailable: not reached, timed out, or anything else. Whether it was done is unknown.
	AnswerUnavailable
)

func (c AnswerCode) String() string {
	switch c {
	case AnswerOK:
		return "ok"
	case AnswerStale:
		return "stale"
	case AnswerRefused:
		return "refused"
	}
	return "unavailable"
}

// FenceAnswer is what an election decides by (S2, S4).
type FenceAnswer struct {
	Epoch       smr.Epoch
	Incarnation smr.Incarnation
	Life        smr.Life
	Position    smr.Position
	Commit      smr.LSN
	Applied     smr.LSN
}

// Reply answers a Request.
type Reply struct {
	ID     uint64
	Done   bool      // false: refused or given up; Text says why
	Unsure bool      // not Done, and it may be carried out all the same
	Epoch  smr.Epoch // of the group, if it is known
	Text   string

	// Of a Change; Stale and Checks also of a Raise:
	Version  uint64 // of the group (of its settings, if it is about them), before a dry run, after a change
	Stale    bool   // refused because the group, or the feature level, is not as the operator saw it
	Taken    bool   // refused because a name or an address is another replica's
	Checks   []string
	Steps    []string
	Recovery *Recovery
}

// Effects of one or more Steps. The zero value is ready.
type Effects struct {
	Proposals []Command
	Calls     []Call
	Replies   []Reply
	Events    []Event
	Opine     bool // own opinions changed: send Driver.Opinions() to the leader now
}

// Reset empties e and keeps its memory.
func (e *Effects) Reset() {
	*e = Effects{Proposals: e.Proposals[:0], Calls: e.Calls[:0], Replies: e.Replies[:0], Events: e.Events[:0]}
}

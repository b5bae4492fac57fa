package replica

import (
	"errors"

	"lockstep/smr"
)

// ConnID names a slave connection, OrderID a management call, ClientID a client connection. The shell gives them
// out and never repeats one in a process life.
type (
	ConnID   uint64
	OrderID  uint64
	ClientID uint64
)

// Input of Step: one of the types below.
type Input interface{ input() }

type (
	// Tick passes time. The shell sends one every TickMillis, or those of a Rest together, but never more than time has passed; Stamp is the wall clock in milliseconds. It may jump:
	// log time never goes back all the same. Clock is for leases (S11): microseconds on a clock of this machine that never jumps
	// and does not stand still while the machine is suspended, read before Step is called; 0 if there is none.
	Tick struct{ Stamp, Clock int64 }

	// Fence orders a promise (S2). Answered with FenceAnswer. LeaseOver: the master of the last reign has answered its own fence, in the life in
	// which it led, so that nobody reads under a lease that this replica may have granted.
	Fence struct {
		Order     OrderID
		Epoch     smr.Epoch
		LeaseOver bool
	}
	// Lead orders to become master (S3). Base is the last established configuration (S5). Answered with nil.
	Lead struct {
		Order       OrderID
		Incarnation smr.Incarnation
		Life        smr.Life
		Config      smr.Config
		Base        smr.Config
	}
	// Follow orders to become a slave of Master in Epoch. Answered with nil once the promise is durable.
	Follow struct {
		Order  OrderID
		Epoch  smr.Epoch
		Master smr.NodeID
	}
	// Reconfigure orders a master to take a new epoch of its reign (S8). Answered with nil.
	Reconfigure struct {
		Order  OrderID
		Config smr.Config // Config.Reign names the reign
		Base   smr.Config
	}
	// Established tells a replica that Config is established (S6). Answered with nil.
	Established struct {
		Order  OrderID
		Config smr.Config
	}
	// Learn tells a blank replica the current epoch (S10). Answered with nil once it is saved.
	Learn struct {
		Order OrderID
		Epoch smr.Epoch
	}

	// Attached: the KV node beside this replicator has connected. Progress: it has moved. Detached: it is gone.
	Attached struct{ Applied, Checkpoint smr.LSN }
	Progress struct{ Applied, Checkpoint smr.LSN }
	Detached struct{}
	// ImageLoaded: the KV node beside has the state at LSN, durably, and everything below LSN is committed. History and Stamp are
	// those of the stream below it; Base is what the log needs to begin there, which the core does not look into.
	ImageLoaded struct {
		LSN     smr.LSN
		History smr.History
		Stamp   int64
		Base    []byte
	}

	// DiskDone: every disk operation up to Ticket has been done; the log is durable below Durable.
	DiskDone struct {
		Ticket  uint64
		Durable smr.LSN
	}

	// Propose: requests of KV nodes, to be appended in this order. Ignored unless master.
	Propose struct{ Batches []smr.Propose }
	// ReadIndex: a KV node asks for an LSN to read at. Clock as in Tick, read after the question arrived; 0 if there is none: a
	// lease is not relied on then.
	ReadIndex struct {
		Client ClientID
		ID     uint64
		Clock  int64
	}
	// ClientDown: a client connection is gone.
	ClientDown struct{ Client ClientID }

	// PeerHello, PeerStart, PeerAck come from slaves; Connected, MasterHello, Received, Beat and Rejected from the
	// master. ConnDown reports the end of a connection of either kind that the core did not hang up.
	PeerHello struct {
		Conn  ConnID
		Hello smr.SlaveHello
	}
	PeerStart struct {
		Conn  ConnID
		Start smr.SlaveStart
	}
	PeerAck struct {
		Conn ConnID
		Ack  smr.Ack
	}
	Connected   struct{ Conn ConnID }
	MasterHello struct {
		Conn  ConnID
		Hello smr.MasterHello
	}
	Received struct {
		Conn   ConnID
		Append smr.Append
	}
	Beat struct {
		Conn      ConnID
		Heartbeat smr.Heartbeat
	}
	Rejected struct {
		Conn   ConnID
		Reject smr.Reject
	}
	// Busy: bytes of a message from the master have come and more are coming; so its silence is no sign of death.
	Busy     struct{ Conn ConnID }
	ConnDown struct{ Conn ConnID }
)

func (*Tick) input()        {}
func (*Fence) input()       {}
func (*Lead) input()        {}
func (*Follow) input()      {}
func (*Reconfigure) input() {}
func (*Established) input() {}
func (*Learn) input()       {}
func (*Attached) input()    {}
func (*Progress) input()    {}
func (*Detached) input()    {}
func (*ImageLoaded) input() {}
func (*DiskDone) input()    {}
func (*Propose) input()     {}
func (*ReadIndex) input()   {}
func (*ClientDown) input()  {}
func (*PeerHello) input()   {}
func (*PeerStart) input()   {}
func (*PeerAck) input()     {}
func (*Connected) input()   {}
func (*MasterHello) input() {}
func (*Received) input()    {}
func (*Beat) input()        {}
func (*Rejected) input()    {}
func (*Busy) input()        {}
func (*ConnDown) input()    {}

// TickMillis is the length of a tick in milliseconds.
const TickMillis = 10

// DiskOp is one operation for the goroutine that owns the log. Exactly one of the fields besides Ticket is set.
type DiskOp struct {
	Ticket uint64  // strictly increasing by one
	Append []byte  // whole frames that continue at the log's End
	Save   *Saved  // hard state to save
	Rewind *Rewind // cut the log at the back
	Begin  *Begin  // replace the log by an empty one
	Trim   *Trim   // cut the log at the front
}

// Rewind cuts the log at To, durable before its ticket is reported.
type Rewind struct{ To smr.LSN }

// Begin replaces the log by an empty one that begins at LSN, durable before its ticket is reported. The shell saves LSN as
// the place that the log may begin at before anything else.
type Begin struct {
	LSN  smr.LSN
	Base []byte
}

// Trim lets files go that lie wholly below To: to be saved, as the place that the log may begin at, before the first is
// removed. It may be carried out before appends and saves that stand in front of it.
type Trim struct{ To smr.LSN }

// Saved is the part of the hard state that the core decides. LeaseHold, in ticks, is the longest lease that this replica may
// have granted or relied on: the next life begins with it (Options.LeaseHold).
type Saved struct {
	Promise   smr.Epoch
	LeaseHold uint64
}

// Send is a message for a slave connection. Message is *smr.SlaveHello, *smr.MasterHello, *smr.SlaveStart,
// *smr.Heartbeat, *smr.Ack or *smr.Reject. After a Reject the connection is closed by the shell when it has left.
type Send struct {
	Conn    ConnID
	Message any
}

// Feed starts the stream on a connection.
type Feed struct {
	Conn ConnID
	From smr.LSN
}

// Dial orders a connection to the master.
type Dial struct {
	Master smr.NodeID
	Epoch  smr.Epoch
}

// Reply answers a management order. Err is nil or one of the errors below, wrapped with what was the matter.
type Reply struct {
	Order  OrderID
	Err    error
	Answer *FenceAnswer // of a Fence that succeeded
}

// FenceAnswer is what an election decides by (S2, S4).
type FenceAnswer struct {
	Epoch       smr.Epoch
	Incarnation smr.Incarnation
	Life        smr.Life
	Position    smr.Position
	History     smr.History
	Commit      smr.LSN
	Applied     smr.LSN
}

// ReadReady answers a ReadIndex.
type ReadReady struct {
	Client ClientID
	ID     uint64
	LSN    smr.LSN
}

// Effects of one or more Steps, in the order of the fields where order matters. The zero value is ready.
type Effects struct {
	Disk        []DiskOp
	Send        []Send
	Feed        []Feed
	Hangup      []ConnID
	Dial        *Dial
	StopDial    bool // give up dialling; if Dial is set too, StopDial came first
	Replies     []Reply
	Reads       []ReadReady
	DropClients bool
	// RefuseImage, if it is not "": the image that the KV node beside has brought, and so its state, is of a stream that the group
	// has given up. The shell tells it so (smr.RejectForeign, with this as the reason) and hangs up.
	RefuseImage string
	Events      []Event
}

// Reset empties e and keeps its memory.
func (e *Effects) Reset() {
	*e = Effects{Disk: e.Disk[:0], Send: e.Send[:0], Feed: e.Feed[:0], Hangup: e.Hangup[:0],
		Replies: e.Replies[:0], Reads: e.Reads[:0], Events: e.Events[:0]}
}

// EventName names a change of state for logs and metrics.
type EventName string

// Event is one change of state worth a log line.
type Event struct {
	Name  EventName
	Epoch smr.Epoch
	LSN   smr.LSN
	Node  smr.NodeID
	Text  string
}

// Names of events.
const (
	EventFenced       EventName = "fenced"
	EventAwaitsLease  EventName = "fence-awaits-lease" // the answer is held back until a lease that was granted has run out
	EventLeading      EventName = "leading"
	EventFollowing    EventName = "following"
	EventAttached     EventName = "slave-attached"          // at the master: Node streams from LSN
	EventJoined       EventName = "joined-master"           // at the slave
	EventRewound      EventName = "rewound"                 // at the slave: cut to LSN, never committed bytes
	EventReconfigure  EventName = "reconfigured"            //
	EventEstablished  EventName = "established"             //
	EventPeerGone     EventName = "slave-gone"              //
	EventMasterGone   EventName = "master-gone"             //
	EventNeedImage    EventName = "need-image"              // the master's log begins above our common end
	EventBegun        EventName = "log-begun"               // the log begins anew at the LSN of an image
	EventTrimmed      EventName = "trimmed"                 // files below LSN may go
	EventImageForeign EventName = "image-of-another-stream" // the KV node's image was refused
	EventBroken       EventName = "promise-broken"          // a rewind below Safe was asked for: evidence kept, stopped
	EventRejected     EventName = "rejected"                //
)

// Errors of replies. Callers branch with errors.Is.
var (
	ErrStale     = smr.ErrStaleEpoch
	ErrBlank     = errors.New("this replica is blank and has not learned the current epoch")
	ErrOtherLife = errors.New("the order names another incarnation or process life")
	ErrNotFenced = errors.New("this replica was not fenced for that epoch")
	ErrNotMaster = errors.New("this replica does not lead that reign")
	ErrBadConfig = errors.New("impossible configuration")
	ErrStopped   = errors.New("this replica stopped: its log contradicts its master")
)

// Options of New: what the replica knows when its process starts, from its log and hard state.
type Options struct {
	Self    smr.Member
	Life    smr.Life
	Cluster string // for handshakes, as are Group and Level
	Group   string
	Level   int // highest feature level of this process, see smr.Handshake

	Blank   bool // new incarnation that has learned no epoch yet (S10): promise is 0
	Promise smr.Epoch

	Start   smr.LSN
	End     smr.LSN // == Durable after recovery
	History smr.History
	Commit  smr.LSN // lower bound: highest commit LSN found in the log's frames
	Stamp   int64   // of the last frame, milliseconds
	// Config is that of the newest epoch start in the log, zero if there is none. It only serves to show the role
	// (slave or learner) before the master's stream tells the current one.
	Config smr.Config

	// LeaseHold as it was saved last: for so long after the start the first fence answer is held back, and no lease is granted
	// (S11). 0 if no lease was ever granted or relied on.
	LeaseHold uint64
	// LeaseTicks that a master asks its slaves for; 0: it reads under no lease. It relies on three quarters of it, counted from
	// before it asked, so that clocks may differ by a seventh in rate. Several times HeartbeatTicks, or it lapses in between.
	LeaseTicks int
	// HeartbeatTicks between heartbeats of a master that has nothing else to tell (default 5; more at rest, see beatTicks), CommitTicks of quiet
	// before a commit frame (default 20), TimeTicks between time tick frames of an idle master (default 100), DeadTicks after
	// which a silent connection is given up (default 150).
	HeartbeatTicks, CommitTicks, TimeTicks, DeadTicks int

	// Trim says how much of the log is kept. The zero value keeps all of it.
	Trim TrimPolicy
}

// TrimPolicy says what of the log may go. Whatever it says, nothing goes that the KV node beside could need: all at or
// above its Checkpoint.
type TrimPolicy struct {
	// Grain is how many bytes must be free to go before any go: the size of a log file. 0: nothing is ever trimmed.
	Grain smr.LSN
	// KeepBytes of the newest log stay, and what is younger than KeepTicks.
	KeepBytes smr.LSN
	KeepTicks uint64
	// LagBytes bounds what is kept for slaves that lag or are away: who is further behind needs an image.
	LagBytes smr.LSN
}

// Status of the replica for its KV node, the configuration master and people. Kept up to date by Step.
type Status struct {
	Role    smr.Role
	Leading bool      // true even while no KV node is attached
	Epoch   smr.Epoch // current epoch: of the reign led or followed, else the promise
	Promise smr.Epoch
	Master  smr.NodeID
	Config  smr.Config // at a master: current; Base: last established known
	Base    smr.Config
	// Reportable: at a master: epoch whose start is durable on Copies of its members (S6), else 0.
	Reportable smr.Epoch

	Start, End, Durable, Commit, Safe, Applied, Checkpoint smr.LSN

	Position  smr.Position
	Blank     bool // has not learned the current epoch yet (S10)
	Attached  bool // a KV node is attached
	Writable  bool // new writes can commit: enough copies attached (a slave repeats what its master says)
	Joined    bool // at a slave: streaming from the master
	Stopped   bool // promise-broken or damage: needs a person
	NeedImage bool
	// ImageFrom: with NeedImage, the least LSN of an image that helps.
	ImageFrom smr.LSN

	// LeaseUntil: at a master: before this time, of the clock that Tick carries, it may be read at Commit without asking anybody
	// (S11). 0: no lease.
	LeaseUntil int64
	// Unused: at a master: no KV node has asked it for anything for a while, so that it asks for no lease.
	Unused bool

	Peers []PeerStatus // at a master, sorted by Node
}

// Copies counts the members, a master included, that hold everything below lsn durably; of lsn 0, which all hold, those
// that are here.
func (s *Status) Copies(lsn smr.LSN) int {
	copies := 0
	if s.Leading && s.Durable >= lsn {
		copies++
	}
	for _, peer := range s.Peers {
		if peer.InConfig && peer.Durable >= lsn && (lsn > 0 || peer.Streams) {
			copies++
		}
	}
	return copies
}

// PeerStatus is what a master knows of a slave.
type PeerStatus struct {
	Member   smr.Member
	Streams  bool // connected and streaming
	Durable  smr.LSN
	InConfig bool
}

package smr

// The messages of the framed connections. smr/wire turns them into bytes and back; the cores see only these
// structs. Every message carries the sender's current epoch where the receiver has to check it.

// Handshake is what every connection says first, in both directions, before anything else counts.
type Handshake struct {
	Cluster string // cluster id; a peer of another cluster is refused
	Group   string
	Node    NodeID // who is speaking
	// Level is the highest feature level that who is speaking can, at most MaxLevel; 0 and 1 are the first. It is no part of who it is.
	Level int
}

// MaxLevel bounds feature levels: a byte carries them.
const MaxLevel = 255

// RejectCode says why a connection was refused or is given up.
type RejectCode uint8

const (
	// RejectStaleEpoch: the peer's epoch is below ours; Reject.Epoch is ours.
	RejectStaleEpoch RejectCode = 1
	// RejectNotMaster: this replica does not lead (any more).
	RejectNotMaster RejectCode = 2
	// RejectForeign: another cluster, group or node than expected.
	RejectForeign RejectCode = 3
	// RejectVersion: the wire version or a message is not understood.
	RejectVersion RejectCode = 4
	// RejectBusy: a limit is reached (connections, memory).
	RejectBusy RejectCode = 5
	// RejectTrimmed: the log no longer reaches back to where the peer needs it.
	RejectTrimmed RejectCode = 6
	// RejectLevel: the peer cannot the cluster's feature level. It has no business here before it runs a newer program.
	RejectLevel RejectCode = 7
)

// Reject is the last message on a connection.
type Reject struct {
	Code   RejectCode
	Epoch  Epoch
	Reason string // for people
}

// SlaveHello opens a slave connection; sent by the slave after it has saved Epoch as its promise (S7).
type SlaveHello struct {
	Handshake
	Epoch       Epoch
	Incarnation Incarnation
}

// MasterHello answers SlaveHello. The slave computes the end of the common prefix from it (S7).
type MasterHello struct {
	Handshake
	Epoch   Epoch
	History History
	Start   LSN
	End     LSN
	// Config is the configuration that the master writes in, so that a slave whose log has lost its epoch start by trimming
	// knows whether it is a member. Zero if unknown.
	Config Config
}

// SlaveStart asks for the stream from this LSN, after the slave has rewound to it.
type SlaveStart struct {
	Epoch Epoch
	From  LSN
}

// Append carries whole frames, the first of which begins at From.
type Append struct {
	Epoch  Epoch
	Commit LSN // the master's Commit; may exceed From+len(Frames)
	From   LSN
	Frames []byte
}

// Heartbeat of the master to a slave, when idle, when Commit moved and to confirm reads.
type Heartbeat struct {
	Epoch    Epoch
	Commit   LSN
	Round    uint64 // the slave echoes the highest it has seen in its next Ack (S11, index round)
	Writable bool   // enough copies are attached for new writes to commit
	// Lease asks not to answer a fence for so many ticks (replica.TickMillis) from the arrival of this Round on (S11); 0 asks for
	// nothing. LeaseOver: this master leads no more, and reads under no lease that it was ever granted.
	Lease     uint64
	LeaseOver bool
}

// MaxLeaseTicks bounds Heartbeat.Lease: ten seconds.
const MaxLeaseTicks = 1000

// Ack of a slave: everything below Durable is durable there.
type Ack struct {
	Epoch   Epoch
	Durable LSN
	Round   uint64 // highest Heartbeat.Round seen on this connection
	Leased  uint64 // highest Heartbeat.Round whose Lease was granted on this connection, 0: none
}

// ClientHello opens a client connection of a KV node to the master's replicator.
type ClientHello struct {
	Handshake
	Session SessionID
}

// ClientWelcome answers it if the replica leads; otherwise Reject does.
type ClientWelcome struct {
	Handshake
	Epoch Epoch
}

// Propose carries Count encoded requests (AppendRequest), in order of their sequences.
type Propose struct {
	Count    int
	Requests []byte
}

// ReadIndex asks for an LSN to read at. Answered by ReadReady once the master has confirmed its reign after the
// arrival of the question.
type ReadIndex struct {
	ID uint64
}

// ReadReady answers the ReadIndex of that ID and all smaller ones of this connection: a read that arrived before
// it was asked is linearizable at Applied >= LSN.
type ReadReady struct {
	ID  uint64
	LSN LSN
}

// CountCopies asks how many members hold everything below LSN durably (WAIT, WAITAOF); with LSN 0, how many there are:
// the master and those that stream from it.
type CountCopies struct {
	ID  uint64
	LSN LSN
}

// CopiesCounted answers it; Copies counts the master if its own disk holds it. With ID 0 it answers nothing: it is a
// sign of life of a master that takes no requests for the moment (its disk is behind or full).
type CopiesCounted struct {
	ID     uint64
	Copies int
}

// LocalHello opens the local connection of a KV node to the replicator beside it.
type LocalHello struct {
	Handshake
	Session    SessionID
	Pid        int
	KVAddr     string // where clients reach this KV node, host:port
	AdminAddr  string // where it lends images and takes orders (gRPC), host:port; "" if nowhere
	Applied    LSN
	Checkpoint LSN
}

// LocalWelcome answers it. LogDir is where the KV node opens a log reader.
type LocalWelcome struct {
	Handshake
	Incarnation Incarnation
	LogDir      string
	Page        string // file to be mapped, see smr/page; "" if there is none
}

// Status of a replica as its KV node needs it; sent whenever it changes (coalesced) and when idle.
type Status struct {
	Role       Role
	Epoch      Epoch
	Master     NodeID // "" if unknown
	MasterAddr string // data address of the master's replicator, "" if unknown
	Start      LSN
	Safe       LSN
	Commit     LSN
	Writable   bool
	// NeedImage is not 0 if the log can only go on from an image of the state at this LSN or above: the master's log no
	// longer reaches back to where ours ends. A KV node answers with LocalBase. (A KV node that has executed less than Start
	// needs an image for itself, whatever stands here.)
	NeedImage LSN
	// Level is the cluster's feature level as far as the replicator knows it, at most MaxLevel; 0 and 1 are the first.
	Level int
}

// ImageSource is a KV node that lends images.
type ImageSource struct {
	Node NodeID
	Addr string // its AdminAddr
}

// MaxImageSources bounds a list of them.
const MaxImageSources = 64

// ImageSources tells a KV node whom to ask for an image, in order of preference. Sent behind the first Status and whenever it
// changes.
type ImageSources struct{ Sources []ImageSource }

// LocalBase answers Status.NeedImage: the KV node has the state at the LSN of this Base (log.Base, encoded), durably.
type LocalBase struct{ Base []byte }

// Transfer is how far a KV node has come with fetching an image, for people; Total 0: none is being fetched.
type Transfer struct {
	Done, Total, PerSecond uint64 // bytes
	From                   string // address that it comes from
}

// Progress of a KV node, told to its replicator.
type Progress struct {
	Applied    LSN
	Checkpoint LSN
}

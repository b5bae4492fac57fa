package failover

import "lockstep/smr"

// Options of a Driver. Zero durations take the defaults of DefaultOptions.
type Options struct {
	Self   uint64   // this confmaster
	Voters []uint64 // all confmasters, this one included: the fixed set whose majority must agree
	Level  int      // highest feature level that this confmaster can; 0 is 1

	ProbeTicks     int // between two states of a Watch stream (10: 100 ms); for the shell
	OpineTicks     int // between two sendings of Opinions while a replica is suspected (10: 100 ms); for the shell
	SuspectTicks   int // silence after which a replica is thought down (100: 1 s)
	LoopIdleTicks  int // a main loop that has not come round for so long is stuck (100: 1 s)
	DiskStuckTicks int // a disk operation that takes so long is stuck (200: 2 s)
	KVSilentTicks  int // an attached KV node that is silent for so long counts as gone (300: 3 s)
	OpinionTicks   int // after which another confmaster's opinions expire (50: 500 ms)

	GraceTicks     int     // an election that has enough answers waits so long for other living members (3: 30 ms)
	CatchUpTicks   int     // a switch-over waits so long for its target to catch up (20: 200 ms)
	RetryTicks     int     // before an unanswered or failed call is repeated (20: 200 ms)
	LostTicks      int     // a master that says of itself that it does not lead has lost its reign (20: 200 ms)
	LeadTicks      int     // a chosen master that does not lead after so long is given up (200: 2 s)
	HandOverTicks  int     // a master without KV node hands over after so long (30: 300 ms)
	FoundTicks     int     // the first election does not wait longer for replicas that cannot be told (300: 3 s)
	ProposeTicks   int     // a proposal that was not applied by then is taken for lost (100: 1 s)
	CallTicks      int     // time-out of a call to a replicator (100: 1 s)
	SwitchTicks    int     // a switch-over is given up after so long (1500: 15 s)
	ElectionBurst  int     // elections of a group that may come to nothing one after the other (3)
	ElectionTicks  int     // after which one more is allowed (300: 3 s)
	StandTicks     int     // a reign that was established for so long has not come to nothing (30: 300 ms)
	DropTicks      int     // a member that does not stream for so long is dropped (500: 5 s)
	LowerTicks     int     // copies are lowered after so long with too few members (1000: 10 s)
	AdmitTicks     int     // a learner streams and is near for so long before it is admitted (20: 200 ms)
	SourceFetches  int     // how many replicas fetch an image from one source at once (2)
	AdmitDistance  smr.LSN // how far behind the master's Commit a learner may be, in bytes (1 MiB)
	TargetDistance smr.LSN // how far behind the master's End a switch-over's target may be, in bytes (4 MiB)
}

// GroupReport is what the Driver has to say of a group, for status.
type GroupReport struct {
	State  string // ok, degraded, electing, unavailable, creating
	Detail string // why, for people: names what is missing
	Plan   string // what is being done now, "" if nothing
	Master smr.NodeID
}

// Standing is what this confmaster knows of a replica.
type Standing struct {
	Seen        bool // View is its last state
	View        ReplicaView
	SilentTicks int  // since it was last heard of (or since this confmaster started)
	Up          bool // own opinion; at the leader: no majority thinks it down
	Saw         string

	// At the leader, of a replica that streams from the master: how far it is behind.
	LagBytes  smr.LSN
	LagMillis int
}

package mutant

// Name of a rule that can be switched off.
type Name uint8

// The rules of the replica core, of the log and of the configuration master that can be switched off. Each says what the
// mutant does.
const (
	// None is no mutant.
	None Name = iota

	// Figure8: commit moves on bytes of older epochs, and the report does not wait for the own epoch start (S5, S6).
	Figure8
	// OldRuleAsTold: the old rule is the last configuration that the master was told is established; the one that reconfigure
	// carries is ignored (S8, F5).
	OldRuleAsTold
	// CountByName: acknowledgements count by name, whatever the incarnation (S10, F9).
	CountByName
	// NoJointRule: a provisional configuration commits by its own rule alone (S5).
	NoJointRule
	// NoRewind: a slave keeps what is above the common prefix (S7).
	NoRewind
	// RewindToCommit: a slave cuts its log to its own commit instead of the common prefix (S7, KIP-101).
	RewindToCommit
	// AckBeforeSync: a slave acknowledges what it has received (S6).
	AckBeforeSync
	// FenceEqual: a restarted replica accepts a fence of the epoch it has promised (S2; S3's check of lives hides it, so that
	// it does harm with LifeUnchecked only).
	FenceEqual
	// LeadOtherLife: lead is taken by a process that gave no answer in this life (S3, both checks).
	LeadOtherLife
	// LifeUnchecked: lead does not look at incarnation and process life (S3, one of the two checks; needs FenceEqual to do harm).
	LifeUnchecked
	// AttachUnpromised: a slave attaches without raising its promise, and the master takes that (S7, F8).
	AttachUnpromised
	// CommitBeforeRewind: a commit that comes before the rewind is taken (S7).
	CommitBeforeRewind
	// LongestWins: elections compare End only (S4).
	LongestWins
	// FewerAnswers: one fence answer less is enough (S4).
	FewerAnswers
	// EstablishSuperseded: a report is accepted although a higher epoch has been given out (S6, F3).
	EstablishSuperseded
	// PromiseUnsaved: a promise is given before it is durable (S2).
	PromiseUnsaved
	// OldRuleOnly: a provisional configuration commits by the rule of the established one alone (S5, S8).
	OldRuleOnly
	// ReconfigureElecting: a reconfiguration of the old reign is given out while an election waits for a choice, which can be made all the
	// same (S3, F6; with the choice refused the election is only cancelled, which was safe in 5 million states).
	ReconfigureElecting

	// LateLead: lead is taken although a higher epoch was promised since (S3).
	LateLead
	// ReconfigureUnled: a process takes a reign because of a reconfiguration, though it does not lead it in this life (S3).
	ReconfigureUnled
	// FencedLeads: a master answers a fence and goes on leading (S2).
	FencedLeads
	// FencedFollows: a slave answers a fence and goes on storing and acknowledging (S2).
	FencedFollows
	// EpochReused: an election that is begun before the one before has come to an end gets the same epoch (S1).
	EpochReused
	// ElectByProvisional: elections consult the latest provisional configuration (S4).
	ElectByProvisional
	// CountWiped: answers to a fence count by name, whatever the incarnation (S4, S10).
	CountWiped
	// ReportEarly: a master reports its configuration before copies of its members hold the epoch start (S6).
	ReportEarly
	// ReportByOld: a master reports its configuration when copies of the old members hold the epoch start (S6, S8).
	ReportByOld
	// BaseIsProvisional: the old rule is that of the epoch before, established or not (S5, F5).
	BaseIsProvisional
	// CountUnsynced: a master counts its own bytes before they are synced (S5, S6).
	CountUnsynced
	// AcksOutliveReign: what a slave acknowledged in one reign counts in a later one of the same master (S5).
	AcksOutliveReign
	// DropAtMaster: a master leaves slaves that are gone out of its rule by itself, before raft has decided it (S8).
	DropAtMaster
	// CountLearners: acknowledgements of learners count (S9).
	CountLearners
	// AdmitEarly: a learner is admitted wherever its log ends (S9; harmless: the report and the joint rule are enough).
	AdmitEarly
	// RewindEarly: a slave cuts its log to its commit when it is told to follow, before any handshake (S7).
	RewindEarly
	// ReadUnconfirmed: a read is given its LSN without a round (S11).
	ReadUnconfirmed
	// ReadBeforeOwn: a read is given its LSN before the first commit of the reign (S11).
	ReadBeforeOwn
	// ReadAtSafe: a read is given the master's Safe in place of its Commit (S11, F12).
	ReadAtSafe
	// ReadWaitless: a read does not wait until Applied has reached its LSN (S11).
	ReadWaitless
	// ExecuteUncommitted: Safe is Durable, committed or not (S12).
	ExecuteUncommitted
	// DuplicateExecuted: a request that was executed before is executed again (S13).
	DuplicateExecuted
	// SessionsForgotten: the session table is no lasting part of the state: it is gone after a pause of the stream (S13).
	SessionsForgotten
	// ResendRenumbered: a request that is sent again gets a new sequence (S13).
	ResendRenumbered
	// ReaderMovesTime: whoever reads moves log time by its own clock, so that keys expire by that.
	ReaderMovesTime

	// SyncSkipped: the log does not sync (S6).
	SyncSkipped
	// SyncErrorIgnored: the log goes on after a failed sync as if it had succeeded.
	SyncErrorIgnored
	// CacheTrusted: recovery believes what a failed sync may have left in memory.
	CacheTrusted
	// PageUnchecked: the pages of full files are not checked.
	PageUnchecked
	// TailDamageCut: damage in the last file is taken for a torn tail and cut.
	TailDamageCut
	// SpareRecycled: a new file holds the bytes of an old one in place of zeros, and the LSN in a frame is not checked.
	SpareRecycled
	// NameUnsynced: the name of a new log file is not made durable.
	NameUnsynced
	// RewindUnzeroed: bytes behind the point of a rewind stay in the file.
	RewindUnzeroed
	// StateUnsynced: the hard state is not synced (S2).
	StateUnsynced
	// StateOlderWins: the hard state is saved once in place of twice, and of two copies that check the older one is taken (S2).
	StateOlderWins
	// StateUnchecked: the checksum of the hard state is not looked at (S2, S10).
	StateUnchecked
	// TrimAboveCheckpoint: the log is trimmed above what its KV node can be started again from (section 2).
	TrimAboveCheckpoint
	// ImageUnasked: a log begins anew at an image that nobody has asked for, whatever it holds (S2, S10).
	ImageUnasked
	// ImageCountedEarly: what lies below an image counts as durable before the log has begun there (S6).
	ImageCountedEarly
	// LeaseNotAwaited: a fence is answered while a lease that this replica granted still runs (S2, S11).
	LeaseNotAwaited
	// LeaseForgotten: a replica that was started again does not hold its first answer back (S11, F4).
	LeaseForgotten
	// LeaseFromReceipt: a master counts a lease from when the grant arrived (S11).
	LeaseFromReceipt
	// LeaseNoJointRule: in a provisional configuration its own members alone grant a lease (S11).
	LeaseNoJointRule
	// LeaseNoBound: a master relies on a lease for longer than it was granted for, as if clocks did not differ (S11).
	LeaseNoBound
	// LeaseSleeps: the clock of leases stands still while the machine is suspended (S11). In the simulator's copy of the shell.
	LeaseSleeps
	// LeaseAtSafe: under a lease it is read at what the KV node has executed, in place of the master's Commit (S11, F12). In the
	// simulator's copy of the shell.
	LeaseAtSafe
	// ImageOfAny: a log begins anew at an image whatever stream the master has (S7).
	ImageOfAny
	// ReadUnproved: a read is answered before the state was held against the log beside (S12). In the simulator's copy of the shell.
	ReadUnproved
	// OutcastFollows: replicas that a forced recovery left out are told to follow, and count, like others (S10).
	OutcastFollows
	// LeaveUnwaited: a replica is removed from the registry before it has left the membership (S8).
	LeaveUnwaited
	// HearsayKept: a commit above the own end outlives the master that said it (S5, S7).
	HearsayKept
	// LogStartUnsaved: the log is trimmed, or begins at an image, and the hard state does not know. In the simulator's copy of the shell.
	LogStartUnsaved
	// LostLogKept: a replica whose log was taken away keeps its incarnation (S10). In the simulator's copy of the shell.
	LostLogKept
	// RestoredKeepsID: a restored cluster keeps the id of the archived one.
	RestoredKeepsID
	// RestoredKeepsHistory: the log of a restored cluster says that what is below its first LSN is of the epochs of the archived one.
	RestoredKeepsHistory
	// RestoreBeyond: a restore goes one frame beyond its target.
	RestoreBeyond
	// ArchiveUnsettled: a new master archives behind a range that was not held against its log yet.
	ArchiveUnsettled
	// ClusterUnchecked: a peer of another cluster is not refused.
	ClusterUnchecked

	count
)

var names = [count]string{
	None: "none", Figure8: "figure-8", OldRuleAsTold: "old-rule-as-told", CountByName: "count-by-name", NoJointRule: "no-joint-rule",
	NoRewind: "no-rewind", RewindToCommit: "rewind-to-commit", AckBeforeSync: "ack-before-sync", FenceEqual: "fence-equal",
	LeadOtherLife: "lead-other-life", LifeUnchecked: "life-unchecked", AttachUnpromised: "attach-unpromised", CommitBeforeRewind: "commit-before-rewind",
	LongestWins: "longest-wins", FewerAnswers: "fewer-answers", EstablishSuperseded: "establish-superseded", PromiseUnsaved: "promise-unsaved", OldRuleOnly: "old-rule-only",
	ReconfigureElecting: "reconfigure-electing",
	LateLead:            "late-lead", ReconfigureUnled: "reconfigure-unled", FencedLeads: "fenced-leads", FencedFollows: "fenced-follows", EpochReused: "epoch-reused",
	ElectByProvisional: "elect-by-provisional", CountWiped: "count-wiped", ReportEarly: "report-early", ReportByOld: "report-by-old",
	BaseIsProvisional: "base-is-provisional", CountUnsynced: "count-unsynced", AcksOutliveReign: "acks-outlive-reign", DropAtMaster: "drop-at-master",
	CountLearners: "count-learners", AdmitEarly: "admit-early", RewindEarly: "rewind-early", ReadUnconfirmed: "read-unconfirmed",
	ReadBeforeOwn: "read-before-own", ReadAtSafe: "read-at-safe", ReadWaitless: "read-waitless", ExecuteUncommitted: "execute-uncommitted",
	DuplicateExecuted: "duplicate-executed", SessionsForgotten: "sessions-forgotten", ResendRenumbered: "resend-renumbered", ReaderMovesTime: "reader-moves-time",
	SyncSkipped: "sync-skipped", SyncErrorIgnored: "sync-error-ignored", CacheTrusted: "cache-trusted", PageUnchecked: "page-unchecked",
	TailDamageCut: "tail-damage-cut", SpareRecycled: "spare-recycled", NameUnsynced: "name-unsynced", RewindUnzeroed: "rewind-unzeroed",
	StateUnsynced: "state-unsynced", StateOlderWins: "state-older-wins", StateUnchecked: "state-unchecked", LostLogKept: "lost-log-kept",
	TrimAboveCheckpoint: "trim-above-checkpoint", ImageUnasked: "image-unasked", ImageCountedEarly: "image-counted-early",
	LogStartUnsaved: "log-start-unsaved", ImageOfAny: "image-of-any", HearsayKept: "hearsay-kept", ReadUnproved: "read-unproved",
	OutcastFollows: "outcast-follows", LeaveUnwaited: "leave-unwaited",
	RestoredKeepsID: "restored-keeps-id", RestoredKeepsHistory: "restored-keeps-history", RestoreBeyond: "restore-beyond",
	ArchiveUnsettled: "archive-unsettled", ClusterUnchecked: "cluster-unchecked",
	LeaseNotAwaited: "lease-not-awaited", LeaseForgotten: "lease-forgotten", LeaseFromReceipt: "lease-from-receipt",
	LeaseNoJointRule: "lease-no-joint-rule", LeaseNoBound: "lease-no-bound", LeaseSleeps: "lease-sleeps", LeaseAtSafe: "lease-at-safe",
}

func (n Name) String() string {
	if n < count && names[n] != "" {
		return names[n]
	}
	return "unnamed mutant"
}

// Named returns the mutant of that name.
func Named(name string) (Name, bool) {
	for n, known := range names {
		if known == name {
			return Name(n), true
		}
	}
	return None, false
}

// All returns every mutant, None left out.
func All() []Name {
	all := make([]Name, 0, count-1)
	for n := None + 1; n < count; n++ {
		all = append(all, n)
	}
	return all
}

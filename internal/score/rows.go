package score

import (
	"strings"

	"lockstep/internal/explore"
	"lockstep/internal/mutant"
)

// Row is one planted error: rules that are switched off together.
type Row struct {
	Off  []mutant.Name
	Rule string // of the contract
	Text string // what happens in place of what the rule says
	// Unmet says why the simulator may not find it within some thousand schedules, so that the explorer must. "": the simulator must.
	Unmet string
	// Harmless says which other rule is enough, so that nothing may be found; "": something must.
	Harmless string
}

// Name lists what is switched off.
func (r *Row) Name() string {
	names := make([]string, 0, len(r.Off))
	for _, off := range r.Off {
		names = append(names, off.String())
	}
	return strings.Join(names, " + ")
}

// scope returns what the explorer has planned for the row.
func (r *Row) scope() (explore.Planted, bool) {
	for _, p := range explore.AllPlanted() {
		if len(p.Off) == len(r.Off) && p.Off[0] == r.Off[0] {
			return p, true
		}
	}
	return explore.Planted{}, false
}

func row(off mutant.Name, rule, text string) Row {
	return Row{Off: []mutant.Name{off}, Rule: rule, Text: text}
}

func unmet(off mutant.Name, rule, text, why string) Row {
	return Row{Off: []mutant.Name{off}, Rule: rule, Text: text, Unmet: why}
}

// Rows returns all planted errors, in the order of the rules.
func Rows() []Row {
	all := append(coreRows(), stateRows()...)
	return append(all, diskRows()...)
}

// coreRows are those of the replica core and of the configuration master.
func coreRows() []Row {
	return []Row{
		row(mutant.EpochReused, "S1", "an election that is begun before the one before has ended gets the same epoch"),
		row(mutant.FencedLeads, "S2", "a master answers a fence and goes on leading: it takes requests and feeds past the fence"),
		unmet(mutant.FencedFollows, "S2", "a slave answers a fence and goes on storing and acknowledging",
			"the old master must live, unfenced, and another than this slave must win with an equal answer"),
		unmet(mutant.PromiseUnsaved, "S2", "a fence is answered before the promise is saved",
			"any later save makes the promise durable: a crash must come before that, and then bytes of the older epoch"),
		row(mutant.LateLead, "S3", "a late lead is taken although a higher epoch was promised since"),
		row(mutant.LeadOtherLife, "S3", "lead is taken by a process that gave no answer in this life"),
		{Off: []mutant.Name{mutant.FenceEqual, mutant.LifeUnchecked}, Rule: "S2, S3",
			Text:  "a restarted replica accepts a fence of the epoch it has promised, and lead does not look at the life",
			Unmet: "takes a restart between lead and its duplicate, and the same fence again in between"},
		{Off: []mutant.Name{mutant.FenceEqual}, Rule: "S2", Text: "the first half of it alone", Harmless: "lead names a process life (S3)"},
		{Off: []mutant.Name{mutant.LifeUnchecked}, Rule: "S3", Text: "the second half of it alone",
			Harmless: "only a fence answer of this life lets a replica lead (S2)"},
		row(mutant.ReconfigureUnled, "S3", "a process takes a reign because of a reconfiguration, though it does not lead it in this life"),
		unmet(mutant.ReconfigureElecting, "S3", "a reconfiguration of the old reign is given out after an election began",
			"the configuration master never wants this by itself: only the fault `reconfigure` within the milliseconds of an election"),
		row(mutant.FewerAnswers, "S4", "one fence answer fewer is enough"),
		unmet(mutant.LongestWins, "S4", "elections compare End only, not the epoch of the last byte",
			"an old master must have written more that nobody got than all that was committed after it, and come back for the next election"),
		row(mutant.ElectByProvisional, "S4", "elections consult the latest provisional configuration"),
		unmet(mutant.CountWiped, "S4, S10", "answers of wiped replicas count: by name, whatever the incarnation",
			"the wiped one must have held what the only other answer lacks, before its new incarnation is admitted"),
		unmet(mutant.Figure8, "S5, S6", "commit moves on bytes of older epochs (Raft's figure 8)",
			"takes three reigns in a row, the middle one cut off with bytes of its own"),
		unmet(mutant.NoJointRule, "S5", "a provisional configuration commits by its own rule alone",
			"it becomes established within milliseconds: bytes must be committed before, and an election begun, by members that it left out"),
		unmet(mutant.OldRuleOnly, "S5, S8", "a provisional configuration commits by the rule of the established one alone",
			"it becomes established within milliseconds; then an election needs the new members only, and one that lags must win it"),
		unmet(mutant.OldRuleAsTold, "S5, S8", "the old rule is what the master was told, not what reconfigure carries",
			"takes two reconfigurations in a row, the news of the first one lost, and an election at the right moment"),
		unmet(mutant.BaseIsProvisional, "S5, S8", "the old rule is that of the epoch before, established or not",
			"takes two reconfigurations while none is established, and an election before the second one is"),
		unmet(mutant.AcksOutliveReign, "S5", "what was acknowledged in one reign counts in a later one",
			"one process must lead twice with another in between, cut more than it writes anew, and copies be 3"),
		row(mutant.AckBeforeSync, "S6", "a slave acknowledges what it has received, before its sync"),
		row(mutant.CountUnsynced, "S6", "a master counts its own bytes before its sync"),
		row(mutant.ReportEarly, "S6", "a master reports before copies of its members hold the epoch start"),
		row(mutant.ReportByOld, "S6, S8", "a master reports when copies of the old members hold the epoch start"),
		row(mutant.EstablishSuperseded, "S6", "an epoch is established although a higher one was given out"),
		row(mutant.NoRewind, "S7", "a slave keeps what is above the common prefix"),
		unmet(mutant.RewindToCommit, "S7", "a slave cuts its log to its own commit in place of the common prefix",
			"its commit lags by a heartbeat only, and whoever else holds the bytes must be gone before it has them again"),
		row(mutant.RewindEarly, "S7", "a slave cuts its log to its commit when it is told to follow, before any handshake"),
		row(mutant.CommitBeforeRewind, "S7", "a commit that comes before the rewind counts"),
		row(mutant.AttachUnpromised, "S7", "a slave says hello without having saved the master's epoch as its promise"),
		row(mutant.ImageOfAny, "S7", "a log begins anew at an image of a stream that the group has given up"),
		row(mutant.HearsayKept, "S5, S7", "a commit above the own end outlives the master that said it"),
		row(mutant.OutcastFollows, "S10", "replicas that a forced recovery left out follow like others"),
		row(mutant.LeaveUnwaited, "S8", "a replica is removed before it has left the membership"),
		row(mutant.DropAtMaster, "S8", "a master leaves slaves that are gone out of its rule by itself, before raft has decided it"),
		row(mutant.CountLearners, "S9", "acknowledgements of learners count"),
		{Off: []mutant.Name{mutant.AdmitEarly}, Rule: "S9", Text: "a learner is admitted before it has caught up",
			Harmless: "its configuration is established only when copies of its members hold the epoch start (S6), and the joint rule holds until then (S5)"},
		unmet(mutant.CountByName, "S10", "acknowledgements count by name, whatever the incarnation",
			"a wiped member must come back, be no member yet, and be the one that completes the copies before an election"),
	}
}

// stateRows are those of reads, sessions and the state machine.
func stateRows() []Row {
	return []Row{
		row(mutant.ReadUnconfirmed, "S11", "a read gets its LSN without a round to the copies"),
		row(mutant.ReadBeforeOwn, "S11", "a read gets its LSN before the first commit of the reign"),
		row(mutant.ReadAtSafe, "S11", "a read gets the master's Safe in place of its Commit"),
		row(mutant.ReadWaitless, "S11", "a read does not wait until Applied has reached its LSN"),
		row(mutant.LeaseNotAwaited, "S2, S11", "a fence is answered while a lease that was granted still runs"),
		row(mutant.LeaseForgotten, "S11", "a replica that was started again does not hold its first answer back"),
		row(mutant.LeaseFromReceipt, "S11", "a master counts a lease from when the grant arrived, not from before it asked"),
		row(mutant.LeaseNoJointRule, "S11", "in a provisional configuration its own members alone grant a lease"),
		row(mutant.LeaseNoBound, "S11", "a master relies on a lease for longer than it was granted for"),
		row(mutant.LeaseSleeps, "S11", "the clock of leases stands still while the machine is suspended"),
		row(mutant.LeaseAtSafe, "S11", "under a lease a read sees what its node has executed, whatever the master's Commit is"),
		row(mutant.ReadUnproved, "S12", "a read is answered before the state was held against the log beside it"),
		row(mutant.ExecuteUncommitted, "S12", "what is durable here is executed, committed or not"),
		row(mutant.DuplicateExecuted, "S13", "the duplicate check is skipped"),
		row(mutant.SessionsForgotten, "S13", "the session table is no lasting part of the state: a pause of the stream loses it"),
		row(mutant.ResendRenumbered, "S13", "a request that is sent again gets a new sequence"),
		row(mutant.ReaderMovesTime, "log time", "keys expire by the local clock of who reads, not by log time"),
	}
}

// diskRows are those of the log, the hard state and the directory of a replica.
func diskRows() []Row {
	return []Row{
		row(mutant.SyncSkipped, "S6", "the log says durable without a sync"),
		row(mutant.SyncErrorIgnored, "log", "the log goes on after a failed sync as if it had succeeded"),
		row(mutant.CacheTrusted, "log", "recovery believes what a failed sync has left in memory"),
		row(mutant.PageUnchecked, "log", "checksums of pages of full files are not checked"),
		row(mutant.TailDamageCut, "log", "damage in the last file is taken for a torn tail and cut"),
		row(mutant.SpareRecycled, "log", "a new file holds the bytes of an old one, and the LSN in a frame is not checked"),
		row(mutant.NameUnsynced, "log", "the name of a new log file is not made durable"),
		row(mutant.RewindUnzeroed, "log", "bytes behind the point of a rewind stay in the file"),
		row(mutant.StateUnsynced, "S2", "the hard state is not synced"),
		row(mutant.StateOlderWins, "S2", "the hard state is saved once, and the older of two copies wins"),
		row(mutant.StateUnchecked, "S2, S10", "damaged or torn hard state is accepted: its checksum is not looked at"),
		row(mutant.LostLogKept, "S10", "a replica whose log was taken away keeps its incarnation"),
		row(mutant.TrimAboveCheckpoint, "order", "the log is trimmed above the image that its KV node can start from"),
		row(mutant.ImageUnasked, "S2, S10", "a log begins anew at an image that nobody has asked for, whatever it holds"),
		row(mutant.ImageCountedEarly, "S6", "what lies below an image counts as durable before the log has begun there"),
		row(mutant.LogStartUnsaved, "S10", "the log is trimmed or begins at an image, and the hard state does not say so"),
		row(mutant.RestoredKeepsID, "cluster id", "a restored cluster keeps the id of the one that was archived"),
		{Off: []mutant.Name{mutant.RestoredKeepsHistory}, Rule: "S1", Text: "the log of a restored cluster names the epochs of the one that was archived",
			Harmless: "a replica has promised the last epoch of its log: elections go on until they have a higher one (S2)"},
		row(mutant.RestoreBeyond, "restore", "a restore executes one frame beyond its target"),
		row(mutant.ArchiveUnsettled, "archive", "a new master archives behind a range that was not held against its log"),
		row(mutant.ClusterUnchecked, "cluster id", "a peer of another cluster is not refused"),
	}
}

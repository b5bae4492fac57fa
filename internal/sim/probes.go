package sim

import "strings"

// probe marks a rare place. A long run that never came there has not tested what it claims to test.
type probe uint8

const (
	probeRewind probe = iota
	probeTailCut
	probeReborn
	probeSetAside
	probeForeign
	probeCrashInCall
	probeDiskFailed
	probeDiskFull
	probeFeedFiles
	probeFeedFailed
	probeApplyFailed
	probeLateControl
	probeBrokenMidway
	probeReconfigured
	probeRejected
	probeMasterLags
	probeLagging
	probeDuplicate
	probeUncertain
	probeUncertainDone
	probeSessionDrop
	probeReadWaits
	probeRetarget
	probeSwitchover
	probeLowered
	probeAdmitted
	probeDropped
	probeSuperseded
	probeStaleOrder
	probeOtherLife
	probeMasterChange
	probeUnavailable
	probeHopeless
	probeRaftSnapshot
	probeWriteFailed
	probeSyncFailed
	probeTwoConnections
	probeStateless
	probeImage
	probeImageFailed
	probeImageLoaded
	probeImageDamaged
	probeImageFetched
	probeFetchFailed
	probeImageLate
	probeTrim
	probeNeedImage
	probeBegun
	probeBegunAgain
	probeJumped
	probeTrimmedFeed
	probeBlocked
	probeBlockedOrphan
	probeClientLeft
	probeJumpedWaiter
	probeServed
	probeWatchFailed
	probeWatchHeld
	probeConfirmed
	probeFetched
	probeScriptFailed
	probeLeaseRead
	probeLeaseAwaited
	probeLeaseReturned
	probeReadLate
	probeForced
	probeForcedLoss
	probeImageForeign
	probeEstranged
	probeImageOfMaster
	probeImageOfSlave
	probeFetchBroken
	probeRequestRefused
	probeJoinElecting
	probeMasterLeaves
	probeReplaceDown
	probeAdded
	probeJoined
	probeRemoved
	probeDrained
	probeUndrained
	probeReplaced
	probeCancelled
	probeRefilled
	probeSetAsideOutcast
	probeSlowDropped
	probeSlowAdmitted
	probeArchiveGap
	probeArchiveGivenUp
	probeArchiveDoubt
	probeArchiveUndecided
	probeRestored
	probeRestoredPart
	probeRestoreRefused
	probeStrayed
	probeForeignRefused
	probeForeignImage
	probeMistaken
	probeUnwelcome
	probeCount // behind it one for each kind of fault
)

var probeNames = [probeCount]string{
	"rewind", "tail-cut", "reborn", "log-set-aside", "foreign-disk", "crash-in-call", "disk-failed", "disk-full", "feed-from-files",
	"feed-failed", "apply-failed", "late-control", "broken-midway", "reconfigured", "rejected", "master-disk-lags", "commit-above-end",
	"duplicate-skipped", "uncertain", "uncertain-then-done", "session-drop", "read-waits", "retarget",
	"switch-over", "copies-lowered", "admitted", "dropped", "superseded-report", "stale-order", "other-life", "confmaster-change",
	"unavailable", "beyond-repair", "raft-snapshot", "write-failed", "sync-failed", "two-connections", "state-lost", "image", "image-failed", "image-loaded-at-start", "image-damaged", "image-fetched", "fetch-failed", "image-late",
	"trim", "need-image", "log-begun", "log-begun-over-another", "jumped-over-own-requests", "feed-below-start",
	"command-waits", "waits-for-nobody", "client-left", "jumped-over-waiting", "waiting-served", "watch-failed", "watch-held", "entry-confirmed", "entry-fetched",
	"script-failed",
	"read-under-lease", "fence-awaits-lease", "lease-returned",
	"read-late", "forced-recovery", "forced-recovery-loses", "image-of-another-stream", "kv-of-another-stream", "image-from-master", "image-from-slave", "image-fetch-interrupted", "request-refused", "join-during-election", "master-leaves", "replace-while-a-member-is-down", "replica-added", "replica-joined", "replica-removed", "replica-drained", "replica-undrained", "replica-replaced", "change-cancelled", "disk-refilled", "outcast-set-aside",
	"slow-member-dropped", "slow-member-admitted-again", "archive-gap", "archive-given-up", "archive-compared-with-damage", "archive-undecided", "restored", "restored-to-the-past", "restore-refused", "message-astray", "refused-of-another-cluster", "image-of-another-cluster", "directory-of-another-cluster", "handshake-unanswered",
}

// probeSet counts the hits in one schedule.
type probeSet [probeCount + maxFaultKinds]uint32

// maxFaultKinds bounds the kinds of faults.
const maxFaultKinds = 56

// probeName names a probe, "" if there is none with this number.
func probeName(i int) string {
	switch kind := i - int(probeCount); {
	case kind < 0:
		return probeNames[i]
	case kind < len(faultKinds):
		return "fault " + string(faultKinds[kind])
	}
	return ""
}

// allProbes is how many there are.
func allProbes() int { return int(probeCount) + len(faultKinds) }

func (w *world) hit(p probe) { w.probes[p]++ }

// Probes counts the schedules in which each probe was hit.
type Probes [probeCount + maxFaultKinds]uint64

func (p *Probes) add(s *probeSet) {
	for i, n := range s {
		if n > 0 {
			p[i]++
		}
	}
}

// Add adds the counts of another run.
func (p *Probes) Add(q Probes) {
	for i, n := range q {
		p[i] += n
	}
}

// Missed names the probes that were never hit.
func (p *Probes) Missed() []string {
	var missed []string
	for i, n := range p {
		if name := probeName(i); name != "" && n == 0 {
			missed = append(missed, name)
		}
	}
	return missed
}

// Lines lists all probes with their counts.
func (p *Probes) Lines() []string {
	var lines []string
	for i, n := range p {
		if name := probeName(i); name != "" {
			lines = append(lines, name+strings.Repeat(" ", max(1, 24-len(name)))+itoa(n))
		}
	}
	return lines
}

package kvnode

import (
	"lockstep/internal/kv"
	"lockstep/smr"
	"lockstep/smr/client"
)

// Outcome of a request that was not executed, or may not have been.
type Outcome = client.Outcome

// Submission is a request on its way. Exactly one of its methods is called, once.
type Submission interface {
	// Execute applies the request to the machine. It is called from Node.ApplyFrame when the request comes up in the
	// committed log; the caller holds the machine. It must not block.
	Execute(m *kv.Machine, at kv.Instant, request smr.Request, end smr.LSN)
	// Finish says that the request ended otherwise. It may be called from any goroutine, also from within
	// Submit. It must not block.
	Finish(outcome Outcome)
}

// Log is the replicated log as a KV node uses it. smr/client is behind it in a process, and the simulator's network
// in a simulation. All methods may be called from any goroutine; none but Submit blocks.
type Log interface {
	// Submit hands in a request. Requests are executed in the order in which they were submitted. payload may be used
	// again when Submit returns. It waits for room when too many requests are pending.
	Submit(slot uint16, payload []byte, submission Submission)
	// TrySubmit is Submit, but does nothing and reports false instead of waiting for room. What was taken is on its way only with the
	// next Flush.
	TrySubmit(slot uint16, payload []byte, submission Submission) bool
	// Flush sends what TrySubmit has taken. Anything may be called back from within it: the caller holds no lock.
	Flush()
	// Take returns, and forgets, the submission of a request of the own session that is about to be executed; nil if
	// nobody waits for it. Called from Node.ApplyFrame only, in the order of the sequences.
	Take(sequence uint64) Submission
	// ReadLease returns such an LSN as ReadIndex does, at once, if this node stands beside a master that holds a read lease.
	ReadLease() (index smr.LSN, ok bool)
	// ReadIndex calls done with an LSN at which a read that arrived before this call is linearizable, or with the
	// reason why there is none within the read timeout. done is called once, from any goroutine, and does not block.
	ReadIndex(done func(index smr.LSN, err error))
	// TryReadIndex is ReadIndex, but the question is on its way only with the next Flush.
	TryReadIndex(done func(index smr.LSN, err error))
	// InDoubt reports whether what this node has executed may be of another stream than the log that is beside it now: nobody may be
	// answered from it who asks for more than a stale state.
	InDoubt() bool
	// AwaitTrust calls done when this node is not in doubt, or with the reason why it still is at the end of the read timeout. done is called as
	// that of ReadIndex.
	AwaitTrust(done func(err error))
	// CountCopies calls done with the number of members that hold everything below lsn durably, the master included.
	// done is called as that of ReadIndex.
	CountCopies(lsn smr.LSN, done func(copies int, err error))
	// Status returns what the replicator beside this node has said last; its Role is RoleNone while it is not there.
	Status() smr.Status
}

// link is the Log of a process.
type link struct{ *client.Client }

// Submit implements Log.
func (l link) Submit(slot uint16, payload []byte, submission Submission) {
	l.Client.Submit(slot, 0, payload, submission)
}

// TrySubmit implements Log.
func (l link) TrySubmit(slot uint16, payload []byte, submission Submission) bool {
	return l.Client.TrySubmit(slot, 0, payload, submission)
}

// AwaitTrust implements Log.
func (l link) AwaitTrust(done func(err error)) { l.Client.WaitApplied(0, done) }

// Take implements Log.
func (l link) Take(sequence uint64) Submission {
	submission, _ := l.Client.Take(sequence).(Submission)
	return submission
}

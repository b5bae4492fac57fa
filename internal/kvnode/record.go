package kvnode

import (
	"bytes"
	"sync"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// groupRecord is a request of the node itself, as a Submission.
type groupRecord struct {
	once  sync.Once
	reply resp.Reply
	done  chan error // capacity 1
}

// unansweredError says that a record was not executed, or may not have been.
type unansweredError struct{ outcome Outcome }

func (e *unansweredError) Error() string { return "the request was " + e.outcome.String() }

// Execute implements Submission.
func (r *groupRecord) Execute(m *kv.Machine, at kv.Instant, request smr.Request, _ smr.LSN) {
	executed := false
	r.once.Do(func() {
		m.Apply(at, request, &r.reply)
		executed = true
		r.done <- nil
	})
	if !executed {
		m.Apply(at, request, nil)
	}
}

// Finish implements Submission.
func (r *groupRecord) Finish(outcome Outcome) {
	r.once.Do(func() { r.done <- &unansweredError{outcome} })
}

// executeRecord has the group execute a record and waits for its reply. An error is an unansweredError, or errStopped.
func (n *Node) executeRecord(args [][]byte, proto int) ([]byte, error) {
	return n.executePayload(kv.Envelope{}.AppendRecord(nil, args), proto)
}

// executePayload has the group execute a request and waits for its reply. An error is an unansweredError, or errStopped.
func (n *Node) executePayload(payload []byte, proto int) ([]byte, error) {
	r := &groupRecord{reply: resp.Reply{Proto: proto}, done: make(chan error, 1)}
	n.log.Submit(smr.NoSlot, payload, r)
	select {
	case err := <-r.done:
		return bytes.Clone(r.reply.Buf), err
	case <-n.stopped:
		return nil, errStopped
	}
}

package client

import (
	"context"
	"errors"
	"sync/atomic"

	"lockstep/smr"
	"lockstep/smr/page"
	"lockstep/smr/session"

	"golang.org/x/sync/errgroup"
)

// Outcome of a request.
type Outcome = session.Outcome

// Outcomes that Waiter.Finish is called with. All but Uncertain are certain: the request was never sent and never
// will be.
const (
	Refused    = session.Refused
	Uncertain  = session.Uncertain
	TooLarge   = session.TooLarge
	Overloaded = session.Overloaded
)

// Errors of reads and of Run. Callers branch with errors.Is.
var (
	// ErrNoAnswer: the group has no master that could answer, or it did not within the timeout.
	ErrNoAnswer = errors.New("no master answers")
	// ErrOverloaded: too many wait already.
	ErrOverloaded = errors.New("too many wait already")
	// ErrClosed: Run has ended.
	ErrClosed = errors.New("the client has ended")
	// ErrTrimmed: the log begins behind what this node has executed, and there is no Config.FetchImage. Start again from a
	// checkpoint that reaches into the log.
	ErrTrimmed = errors.New("the log begins behind what this node has executed")
	// ErrOtherStream: what was executed belongs to another stream than the log beside, which is not what the group has committed.
	// The log is held against it when the replicator beside is attached to; Run ends before anything is executed or read upon
	// it. Start again without that state.
	ErrOtherStream = errors.New("the state was made of another stream than the log")
	// ErrLevel: the cluster's feature level is above Config.Level. The replicator beside says so when it is attached to, or when the
	// level is raised. Start again with a newer program.
	ErrLevel = errors.New("the cluster's feature level is above what this program can")
	// ErrSessionLost is for a Machine that finds a request of its own session OutOfOrder: its session fell out of the
	// session table. Returned from ApplyFrame it ends Run; start again with a new session.
	ErrSessionLost = errors.New("the session of this node is no longer known to the group")
)

// Machine is the deterministic program. The client calls it from one goroutine at a time while Run runs: the apply loop, or who hears the replicator.
type Machine interface {
	// ApplyFrame executes the next frame of the committed log; every kind of frame is passed, in order, without gaps but
	// those that an image has closed (Config.FetchImage), once. The implementation walks the requests (smr.CutRequest), judges each (smr.SessionTable.Admit), and for each
	// of its own session that it executes calls Client.Take exactly once, in order. The frame's memory may not be kept.
	// An error ends Run, which returns it.
	ApplyFrame(f smr.Frame) error
	// Prompt reports whether ApplyFrame with that frame, which is the next, would take little time and wait for nothing. Who hears the replicator asks
	// before it executes the frame, and leaves it to the apply loop if not.
	Prompt(f smr.Frame) bool
	// StatusChanged tells what the replicator beside this node says of itself, whenever anything but Start, Safe
	// and Commit has changed (see Client.Status for these). While there is no connection to it, Role is RoleNone and Writable
	// false; the rest is what was said last. It must not block.
	StatusChanged(status smr.Status)
}

// Waiter stands for whoever submitted a request. Exactly one happens, once: Client.Take returns it to the Machine, or
// Finish is called.
type Waiter interface {
	// Finish says that the request is not executed (in time): Refused, Uncertain, TooLarge or Overloaded. It is called
	// from the session loop, from the apply loop when an image was loaded, or from within Submit or Flush, and must not block.
	Finish(outcome Outcome)
}

// Client is one program's part in a group. All methods but Run and Take may be called from any goroutine, also from
// callbacks.
type Client struct {
	config  Config
	machine Machine

	session    *sessionLoop
	apply      *applyLoop
	inbox      inbox
	owners     owners
	applied    applied
	view       view
	page       atomic.Pointer[page.Reader] // of the replicator beside; nil while there is none
	leased     atomic.Bool                 // something was read under its lease, and the replicator was not told since
	links      links
	checkpoint atomic.Uint64
	// saved wakes the local writer (1): there is a new checkpoint, base or transfer.
	saved chan struct{}
	// moved wakes it (1): Applied has moved.
	moved    chan struct{}
	base     atomic.Pointer[[]byte]       // to be told to the replicator, nil if it was
	transfer atomic.Pointer[smr.Transfer] // the newest
}

// New returns a client of machine. Nothing happens until Run; what is submitted before then waits.
func New(config Config, machine Machine) (*Client, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	c := &Client{config: config.withDefaults(), machine: machine, saved: make(chan struct{}, 1), moved: make(chan struct{}, 1)}
	c.session, c.apply = newSessionLoop(c), newApplyLoop(c)
	c.inbox.init(c.config, c.knock)
	c.owners.base = 1
	c.applied.init(config.Applied, c.config)
	c.view.init()
	c.checkpoint.Store(uint64(config.Checkpoint))
	return c, nil
}

// Run serves until ctx ends (nil is returned) or nothing more can be done (the reason is returned). When it
// returns, everybody who waited has been answered. It is called once.
func (c *Client) Run(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { c.session.run(inner); return nil })
	group.Go(func() error { return c.runLocal(inner) })
	group.Go(func() error { c.runMaster(inner); return nil })
	group.Go(func() error { return c.apply.run(inner) })
	err := group.Wait()
	c.applied.close()
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// Submit hands in a request; requests are executed in the order in which they were submitted. payload is copied. If
// too much is pending it waits for room (Config.RefuseWhenFull).
func (c *Client) Submit(slot uint16, flags uint8, payload []byte, waiter Waiter) {
	outcome := TooLarge
	if len(payload) <= smr.MaxPayload {
		outcome, _ = c.inbox.submit(submission{waiter: waiter, payload: payload, slot: slot, flags: flags}, true)
	}
	if outcome != session.Success {
		waiter.Finish(outcome)
	}
}

// TrySubmit is Submit, but never waits: if there is no room it does nothing and reports false. What was taken is on its way only with the next
// Flush: whoever has many requests submits them first.
func (c *Client) TrySubmit(slot uint16, flags uint8, payload []byte, waiter Waiter) (taken bool) {
	outcome := TooLarge
	if len(payload) <= smr.MaxPayload {
		if outcome, taken = c.inbox.submit(submission{waiter: waiter, payload: payload, slot: slot, flags: flags}, false); !taken {
			return false
		}
	}
	if outcome != session.Success {
		waiter.Finish(outcome)
	}
	return true
}

// Flush sends what TrySubmit has taken, from the goroutine that calls it: callbacks of others may be called from within it, so that the caller
// must hold nothing that they could wait for.
func (c *Client) Flush() { c.session.bring() }

// knock has the session loop look into the inbox.
func (c *Client) knock() { c.session.knock() }

// post tells the session loop what a connection has to tell.
func (c *Client) post(e event) {
	c.inbox.post(e)
	c.session.bring()
}

// Take returns the Waiter of the request of the own session with that sequence, or nil if it was told Uncertain
// before. The Machine calls it for each such request that it executes, from ApplyFrame.
func (c *Client) Take(sequence uint64) Waiter { return c.owners.take(sequence) }

// ReadLease returns an LSN without asking anybody, if the replicator beside leads and holds a read lease: what is read at Applied >=
// LSN is linearizable, if the read arrived before this call. Otherwise ReadIndex tells.
func (c *Client) ReadLease() (lsn smr.LSN, ok bool) {
	if p := c.page.Load(); p != nil && !c.applied.inDoubt.Load() {
		if lsn, ok = p.Lease(); ok && !c.leased.Load() {
			c.leased.Store(true)
		}
		return lsn, ok
	}
	return 0, false
}

// tellUse asks the master for what its lease has answered since it was last told, so that it goes on asking for leases.
func (c *Client) tellUse() {
	if c.leased.Swap(false) {
		c.TryReadIndex(func(smr.LSN, error) {})
	}
}

// Proved reports whether what was executed is known to be of the stream of the log beside. Until then no image of it may reach
// another node.
func (c *Client) Proved() bool { return !c.applied.inDoubt.Load() }

// ReadIndex calls done once with an LSN: what is read at Applied >= LSN is linearizable, if the read arrived before
// this call. Or with ErrNoAnswer, ErrOverloaded or ErrClosed. done is called from the session loop, from within Flush, from the apply
// loop if the log beside had first to be held against what was executed, or from within ReadIndex, and must not block.
func (c *Client) ReadIndex(done func(lsn smr.LSN, err error)) { c.askIndex(done, true) }

// TryReadIndex is ReadIndex, but the question is on its way only with the next Flush: whoever has many asks them first.
func (c *Client) TryReadIndex(done func(lsn smr.LSN, err error)) { c.askIndex(done, false) }

func (c *Client) askIndex(done func(lsn smr.LSN, err error), now bool) {
	trusted := func(lsn smr.LSN, err error) {
		if err != nil {
			done(0, err)
			return
		}
		c.applied.wait(0, func(err error) { done(lsn, err) }) // what was executed may be of another stream
	}
	if !c.inbox.read(trusted, now) {
		done(0, ErrClosed)
	}
}

// Read is ReadIndex and then WaitApplied: when done is called with nil, a read of the Machine's state is linearizable.
// done is called as theirs are.
func (c *Client) Read(done func(lsn smr.LSN, err error)) {
	c.ReadIndex(func(lsn smr.LSN, err error) {
		if err != nil {
			done(0, err)
			return
		}
		c.WaitApplied(lsn, func(err error) { done(lsn, err) })
	})
}

// WaitApplied calls done once: with nil when everything below lsn has been executed here, from within WaitApplied
// if it has been, else from the apply loop between frames; or with ErrNoAnswer after Config.Timeout, ErrOverloaded or
// ErrClosed. done must not block.
func (c *Client) WaitApplied(lsn smr.LSN, done func(err error)) { c.applied.wait(lsn, done) }

// InDoubt reports whether what was executed may be of another stream than the log beside: a replicator is attached whose log was not yet
// held against it. Nothing that waits for an LSN is answered meanwhile; WaitApplied(0, done) waits for the end of it alone.
func (c *Client) InDoubt() bool { return c.applied.inDoubt.Load() }

// CountCopies calls done once with the number of members that hold everything below lsn durably, the master included, as of
// after this call; or with an error as ReadIndex does.
func (c *Client) CountCopies(lsn smr.LSN, done func(copies int, err error)) {
	if !c.inbox.count(lsn, done) {
		done(0, ErrClosed)
	}
}

// SetCheckpoint says that the Machine can be started again from lsn, so the log in front of it may be trimmed.
func (c *Client) SetCheckpoint(lsn smr.LSN) {
	c.checkpoint.Store(uint64(lsn))
	signal(c.saved)
}

// Applied returns the end of what was executed.
func (c *Client) Applied() smr.LSN { return c.applied.load() }

// Status returns what the replicator beside this node has said last; see Machine.StatusChanged.
func (c *Client) Status() smr.Status {
	status, _ := c.view.load()
	return status
}

// Stats is the state of a client for people and metrics.
type Stats struct {
	Applied smr.LSN
	// Attached: connected to the replicator. Master: the master that is connected, "" if none.
	Attached bool
	Master   smr.NodeID
	// Pending and PendingBytes of requests that are neither executed nor refused. Refusing: new ones are refused.
	Pending, PendingBytes int
	Refusing              bool
	// Safe and Commit are what the replicator has said last: this node serves the state at Applied and is on its way to
	// Commit. NeedImage: an image is needed for that, at this LSN or above.
	Safe, Commit, NeedImage smr.LSN
	// Trouble says why the log cannot be read at present, "" if it can.
	Trouble string
}

// Stats returns the state of the client.
func (c *Client) Stats() Stats {
	stats := Stats{Applied: c.Applied(), Master: c.links.master()}
	stats.Pending, stats.PendingBytes, stats.Refusing = c.inbox.state()
	stats.Attached, stats.Trouble = c.view.condition()
	status := c.Status()
	stats.Safe, stats.Commit, stats.NeedImage = status.Safe, status.Commit, needed(status, stats.Applied)
	return stats
}

// signal wakes whoever waits on a channel of capacity 1.
func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// failure is the error for the outcome of a read or a count.
func failure(outcome Outcome) error {
	switch outcome {
	case session.Success:
		return nil
	case Overloaded:
		return ErrOverloaded
	}
	return ErrNoAnswer
}

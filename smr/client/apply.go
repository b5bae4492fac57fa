package client

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/log"
	"lockstep/smr"
)

// chunkSize is about how many bytes of the log are read at once.
const chunkSize = 1 << 20

// hereBytes is how much of the log is executed at most by who hears the replicator.
const hereBytes = 16 << 10

// applyLoop reads committed frames and has the Machine execute them. Whoever hears that a little more of the log is safe does that at once, if the
// apply loop's own goroutine is not at it, so that a request needs no change of goroutines between the socket and its reply.
type applyLoop struct {
	client *Client

	mu     sync.Mutex // held by who executes; guards what is below
	ended  bool       // nothing is executed any more
	failed error      // of the Machine, where the apply loop does not see it
	reader *log.Reader
	opened place // what reader reads
	buffer []byte
	told   smr.Status // to the Machine
	images images
	// trail is what was executed amounts to; nil if that is not known: the state was loaded from an image that did not say.
	trail *log.Trail
	// proved is the attachment whose log was held against trail; looked is when that was last tried in vain.
	proved uint64
	looked time.Time
	tasks  sync.WaitGroup
}

func newApplyLoop(c *Client) *applyLoop {
	a := &applyLoop{client: c, buffer: make([]byte, chunkSize)}
	switch base := c.config.Base; {
	case base != nil:
		a.trail = base.Trail()
	case c.config.Applied == 0:
		a.trail = log.NewTrail()
	}
	a.images.done = make(chan fetched, 1)
	a.images.again = pause{least: imagePauseMin, most: imagePauseMax}
	return a
}

// run is the apply loop. The errors it returns come from the Machine.
func (a *applyLoop) run(ctx context.Context) error {
	c := a.client
	defer a.tasks.Wait()
	defer a.end()
	again := pause{least: readPauseMin, most: readPauseMax}
	late := time.NewTimer(progressEvery)
	defer late.Stop()
	for {
		tried, pace, err := a.turn(ctx)
		if err != nil {
			return err
		}
		if tried != nil {
			if text := tried.Error(); c.view.note(text) {
				c.config.Logger.Warn("log unreadable", "group", c.config.Group, "node", string(c.config.Node),
					"lsn", uint64(c.Applied()), "why", text)
			}
			again.wait(ctx, nil)
		} else {
			c.view.note("")
			again.reset()
			late.Reset(pace)
			select {
			case <-c.view.statusChanged:
			case <-late.C:
			case <-ctx.Done():
			}
		}
		c.applied.answerLate(time.Now())
		if ctx.Err() != nil {
			return nil
		}
	}
}

// turn does all that there is to be done at present. tried is why the log cannot be read; otherwise pace is for how long to wait for news. err comes
// from the Machine.
func (a *applyLoop) turn(ctx context.Context) (tried error, pace time.Duration, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed != nil {
		return nil, 0, a.failed
	}
	if err := a.takeImage(); err != nil {
		return nil, 0, err
	}
	a.seekImage(ctx)
	if tried, err = a.advance(ctx); tried != nil {
		a.close() // the next try looks at the files anew
	}
	return tried, a.pace(), err
}

// end closes what reads the log. Nothing is executed afterwards.
func (a *applyLoop) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.close()
}

// here executes what the newest status makes safe, if that is little and nothing else is to be done. It reports whether nothing is left for the
// apply loop. Called by who hears the replicator.
func (a *applyLoop) here() (done bool) {
	if !a.mu.TryLock() {
		return false
	}
	defer a.mu.Unlock()
	c := a.client
	status, where := c.view.load()
	from := c.Applied()
	switch {
	case a.ended, a.failed != nil, a.reader == nil, a.opened != where, a.proved != where.attachments, a.images.running, needed(status, from) != 0, a.isNews(status):
		return false
	case from >= status.Safe:
		return true
	case status.Safe-from > hereBytes:
		return false
	}
	next, tried, err := a.chunk(from, status.Safe, true)
	a.reached(next)
	if errors.Is(err, errNotPrompt) {
		return false
	}
	a.failed = err
	return err == nil && tried == nil && next == status.Safe
}

// errNotPrompt ends a chunk of prompt frames in front of one that is not.
var errNotPrompt = errors.New("a frame may take long")

// pace returns for how long the apply loop may wait for news: the images that it needs, a log that is to be proved and those who wait for an
// LSN are looked after every so often.
func (a *applyLoop) pace() time.Duration {
	c := a.client
	status, where := c.view.load()
	if a.images.running || a.proved != where.attachments || needed(status, c.Applied()) != 0 || c.applied.awaited() || c.inbox.isBlocked() {
		return progressEvery
	}
	return restEvery
}

// advance executes everything that is safe. tried is why it cannot be read at present; err comes from the Machine.
func (a *applyLoop) advance(ctx context.Context) (tried, err error) {
	c := a.client
	for ctx.Err() == nil {
		status, where := c.view.load()
		a.tell(status)
		from := c.Applied()
		if status.Safe == 0 || from < status.Start && c.config.FetchImage != nil {
			return nil, nil
		}
		if a.proved != where.attachments {
			if tried, err := a.prove(from, status, where); tried != nil || err != nil || a.proved != where.attachments {
				return tried, err
			}
		}
		if from >= status.Safe {
			return nil, nil
		}
		if tried := a.open(where); tried != nil {
			return tried, nil
		}
		next, tried, err := a.chunk(from, status.Safe, false)
		a.reached(next)
		switch {
		case err != nil:
			return nil, err
		case tried != nil:
			return tried, nil
		case next == from:
			return fmt.Errorf("no whole frame at LSN %d, although the log is safe up to %d", from, status.Safe), nil
		}
	}
	return nil, nil
}

// reached notes that everything below an LSN is executed.
func (a *applyLoop) reached(lsn smr.LSN) {
	c := a.client
	c.applied.advance(lsn)
	signal(c.moved)
	c.applied.answerLate(time.Now())
	if c.inbox.isBlocked() {
		c.knock() // there may be room
	}
}

// tell passes a status to the Machine if more than positions in the log has changed.
func (a *applyLoop) tell(status smr.Status) {
	if a.isNews(status) {
		a.client.machine.StatusChanged(status)
	}
	a.told = status
}

// isNews reports whether the Machine is to be told of a status.
func (a *applyLoop) isNews(status smr.Status) bool {
	told := a.told
	told.Start, told.Safe, told.Commit = status.Start, status.Safe, status.Commit
	return told != status
}

// open makes the reader read the log that was named last.
func (a *applyLoop) open(where place) error {
	if a.reader != nil && a.opened == where {
		return nil
	}
	a.close()
	reader, err := log.OpenReader(nil, where.logDir)
	if err != nil {
		return err
	}
	a.reader, a.opened = reader, where
	return nil
}

func (a *applyLoop) close() {
	if a.reader != nil {
		_ = a.reader.Close()
		a.reader = nil
	}
}

// prove holds the log beside, which may be another one with each attachment, against what was executed, before anything is executed
// upon it or read at an LSN. While the log does not reach as far only its epochs can be compared.
//
// Beside the master all of its log counts: that is the stream, committed here or not. After a forced recovery nothing may become committed before
// another member has got an image of this very node.
func (a *applyLoop) prove(from smr.LSN, status smr.Status, where place) (tried, err error) {
	lsn := min(from, status.Safe)
	if lsn < from {
		if a.trail == nil || time.Since(a.looked) < proofEvery {
			return nil, nil
		}
		a.looked = time.Now()
	}
	if tried := a.open(where); tried != nil {
		return tried, nil
	}
	if lsn < from && status.Role == smr.RoleMaster {
		if base, err := a.reader.BaseAt(from); err == nil && a.trail.Fits(&base) {
			a.accept(where)
			return nil, nil
		}
	}
	base, tried := a.reader.BaseAt(lsn)
	switch {
	case errors.Is(tried, log.ErrNoBorder) && a.trail != nil:
		return nil, fmt.Errorf("%w: a frame of the log lies across LSN %d, up to which this node has executed", ErrOtherStream, lsn)
	case tried != nil:
		return tried, nil
	case a.trail == nil:
		a.trail = base.Trail()
	case !a.trail.Fits(&base):
		return nil, fmt.Errorf("%w: at LSN %d the log has epochs %v and digest %x; this node has executed another stream up to LSN %d", ErrOtherStream, lsn,
			base.History, base.Digest(), from)
	}
	if lsn == from {
		a.accept(where)
	}
	return nil, nil
}

// accept notes that what was executed is of the stream of the log beside.
func (a *applyLoop) accept(where place) {
	a.proved = where.attachments
	a.client.applied.trust(where.attachments)
	signal(a.client.moved) // the checkpoint counts from now on
}

// chunk executes some frames of [from, limit) and returns where it stopped; with prompt, in front of one that may take long at the latest.
func (a *applyLoop) chunk(from, limit smr.LSN, prompt bool) (next smr.LSN, tried, err error) {
	next, a.buffer, tried = a.reader.Frames(a.buffer, from, limit, func(f smr.Frame, raw []byte) error {
		if prompt && !a.client.machine.Prompt(f) {
			err = errNotPrompt
		} else if err = a.client.machine.ApplyFrame(f); err == nil {
			a.trail.Follow(f, raw)
		}
		return err
	})
	if len(a.buffer) > 4*chunkSize {
		a.buffer = make([]byte, chunkSize)
	}
	if err != nil {
		return next, nil, fmt.Errorf("execute the log at LSN %d: %w", next, err)
	}
	return next, tried, nil
}

// applied is how far the log was executed, and who waits for it to get further.
type applied struct {
	limit   int
	timeout time.Duration
	lsn     atomic.Uint64

	mu      sync.Mutex
	waiting lsnHeap
	order   uint64
	looked  time.Time // for those who have waited too long
	closed  bool
	// doubted is the attachment whose log may be of another stream than what was executed, 0 if none is: nobody is told meanwhile
	// that an LSN is reached.
	doubted uint64
	inDoubt atomic.Bool // doubted is not 0: for who does not hold mu
}

// lsnWait is somebody who waits for an LSN.
type lsnWait struct {
	lsn      smr.LSN
	order    uint64 // of arrival
	deadline time.Time
	done     func(error)
}

func (a *applied) init(lsn smr.LSN, config Config) {
	a.limit, a.timeout = config.MaxReads, config.Timeout
	a.lsn.Store(uint64(lsn))
}

func (a *applied) load() smr.LSN { return smr.LSN(a.lsn.Load()) }

// wait has done called once everything below lsn is executed.
func (a *applied) wait(lsn smr.LSN, done func(error)) {
	if err, now := a.enqueue(lsn, done); now {
		done(err)
	}
}

// enqueue reports with now that done is to be called at once.
func (a *applied) enqueue(lsn smr.LSN, done func(error)) (err error, now bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.load() >= lsn && a.doubted == 0:
		return nil, true
	case a.closed:
		return ErrClosed, true
	case len(a.waiting) >= a.limit:
		return ErrOverloaded, true
	}
	a.order++
	heap.Push(&a.waiting, lsnWait{lsn: lsn, order: a.order, deadline: time.Now().Add(a.timeout), done: done})
	return nil, false
}

// advance says that everything below lsn is executed and answers those who waited for it. Called by the apply loop.
func (a *applied) advance(lsn smr.LSN) {
	a.mu.Lock()
	a.lsn.Store(uint64(lsn)) // under the lock, so that nobody is enqueued for an LSN that has been reached
	ready := a.takeReady()
	a.mu.Unlock()
	for _, w := range ready {
		w.done(nil)
	}
}

// awaited reports whether anybody waits.
func (a *applied) awaited() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.waiting) > 0
}

// takeReady takes out those whose LSN is reached. The caller holds mu.
func (a *applied) takeReady() (ready []lsnWait) {
	for a.doubted == 0 && len(a.waiting) > 0 && a.waiting[0].lsn <= a.load() {
		ready = append(ready, heap.Pop(&a.waiting).(lsnWait))
	}
	return ready
}

// doubt holds back all answers until trust, if the state stands anywhere but at the beginning: there is another log beside this node, or
// the state becomes that of an image at lsn, and either may be of another stream. Called by the local goroutine and the apply loop.
func (a *applied) doubt(lsn smr.LSN, attachment uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if lsn > 0 {
		a.doubted = max(a.doubted, attachment)
		a.inDoubt.Store(true)
	}
}

// trust says that what was executed is of the stream of an attachment's log. Called by the apply loop.
func (a *applied) trust(attachment uint64) {
	a.mu.Lock()
	if a.doubted <= attachment {
		a.doubted = 0
		a.inDoubt.Store(false)
	}
	ready := a.takeReady()
	a.mu.Unlock()
	for _, w := range ready {
		w.done(nil)
	}
}

// answerLate answers those who have waited too long; it looks for them every so often. Called by the apply loop.
func (a *applied) answerLate(now time.Time) {
	a.mu.Lock()
	if now.Sub(a.looked) < progressEvery {
		a.mu.Unlock()
		return
	}
	a.looked = now
	var late []lsnWait
	kept := a.waiting[:0]
	for _, w := range a.waiting {
		if now.Before(w.deadline) {
			kept = append(kept, w)
		} else {
			late = append(late, w)
		}
	}
	if len(late) > 0 {
		clear(a.waiting[len(kept):])
		a.waiting = kept
		heap.Init(&a.waiting)
	}
	a.mu.Unlock()
	for _, w := range late {
		w.done(fmt.Errorf("%w: this node has executed the log up to LSN %d and needed it up to %d", ErrNoAnswer, a.load(), w.lsn))
	}
}

// close answers everybody.
func (a *applied) close() {
	a.mu.Lock()
	a.closed = true
	left := a.waiting
	a.waiting = nil
	a.mu.Unlock()
	for _, w := range left {
		w.done(ErrClosed)
	}
}

// lsnHeap is a heap of waits, lowest LSN first, then in order of arrival.
type lsnHeap []lsnWait

func (h lsnHeap) Len() int { return len(h) }
func (h lsnHeap) Less(i, j int) bool {
	return h[i].lsn < h[j].lsn || h[i].lsn == h[j].lsn && h[i].order < h[j].order
}
func (h lsnHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *lsnHeap) Push(w any)   { *h = append(*h, w.(lsnWait)) }
func (h *lsnHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = lsnWait{}
	*h = (*h)[:last]
	return w
}

package kvnode

import (
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/eventloop"
	"lockstep/internal/kv"
	"lockstep/internal/level"
	"lockstep/internal/transfer"
	"lockstep/smr"
	"lockstep/smr/client"
)

// lockRequests bounds how many requests are applied before waiting readers get their turn.
const lockRequests = 256

// Node is the state of one KV node: the machine, its clients, and how both meet the log. See the package comment
// for who owns what.
type Node struct {
	config   Config
	session  smr.SessionID
	runID    string // 40 hex digits, as Redis has them
	log      Log
	logger   *slog.Logger
	commands *commandTable
	settings *settings
	started  time.Time

	stats     stats
	gauges    *gauges
	level     level.Gate // what the replicator beside has told of the cluster's feature level
	slow      slowLog
	applied   progress
	changed   atomic.Int64                // node time of the last change of the status
	role      atomic.Pointer[smr.Status]  // as of that change: not its LSNs
	caughtUp  atomic.Bool                 // once: everything that was safe when it was asked is executed
	slaves    atomic.Int64                // members besides the master that stream, as the last sample saw it
	address   atomic.Pointer[net.TCPAddr] // where clients are accepted
	tasks     sync.WaitGroup              // connections, and the goroutines of Serve
	loops     []*eventloop.Loop           // they watch connections; set by Serve
	gathering *gathering
	// loopTasks are the goroutines of loops. They end when no connection is left.
	loopTasks sync.WaitGroup
	stopping  atomic.Bool   // no new commands
	stopped   chan struct{} // closed when the log calls back no more

	// frame is held while a frame is executed; it is taken before lock, which is given up in between.
	frame sync.RWMutex
	stops []*stopAt // who waits for a point of the log; guarded by frame
	// lock guards machine: the goroutine that applies the log writes, connections read.
	lock    sync.RWMutex
	machine *kv.Machine

	authority authority
	clients   clients
	shell     shellState

	images   Images           // nil if this node keeps none; set before Serve
	lender   *transfer.Source // lends them to peers; nil if there are none, or no management port; set before Serve
	keeper   *imageKeeper     // takes them; nil likewise
	changes  atomic.Int64     // requests executed
	incoming *transfer.Meter  // shows an image that is being fetched

	fresh     freshness
	blocked   blockedCommands
	executed  []*conn       // whose last write was executed in this frame; of the goroutine that applies the log
	requests  []smr.Request // of the frame, cut; of the same
	lastEnd   time.Duration // node time at which the request before ended, if it was one of this node; else 0; of the same
	executing smr.LSN       // end of the frame that is being executed; of the goroutine that applies the log
}

// now returns the time since the node started; it is monotonic and cheap.
func (n *Node) now() time.Duration { return time.Since(n.started) }

// NewNode returns a node that has executed nothing. The caller gives it the frames of the log (ApplyFrame,
// StatusChanged) and connections (Serve).
func NewNode(config Config, session smr.SessionID, runID string, log Log) *Node {
	n := &Node{
		config:   config,
		session:  session,
		runID:    runID,
		log:      log,
		logger:   config.Logger.With("node", string(config.Node), "group", config.Group),
		started:  time.Now(),
		stopped:  make(chan struct{}),
		incoming: transfer.NewMeter(),
		machine:  kv.New(),
		gauges:   newGauges(config),
	}
	n.gathering = newGathering(n.now, func() { n.log.Flush() })
	n.commands = newCommandTable()
	n.settings = newSettings(n)
	n.slow.limit = 128
	n.clients.byID = make(map[int64]*conn)
	n.takeUsers(n.machine.Users())
	n.blocked.begin()
	n.machine.SetHost(n)
	n.role.Store(&smr.Status{})
	return n
}

// ApplyFrame executes the next frame of the committed log. It is called from one goroutine, in the order of the log.
// An error means that the log cannot be executed by this version: the node must stop.
func (n *Node) ApplyFrame(frame smr.Frame) error {
	if n.keeper != nil {
		n.keeper.tier.await()
	}
	err := n.applyFrame(frame)
	n.answerExecuted()
	return err
}

// Prompt implements client.Machine. A node that keeps its memory near a bound may have to wait for that, or to read values from its image; who looks
// at the state may do so for long.
func (n *Node) Prompt(frame smr.Frame) bool {
	if n.keeper != nil && n.keeper.tier != nil || !n.isUnused() {
		return false
	}
	if frame.Kind != smr.KindRequests {
		return true
	}
	var promptness kv.Promptness
	rest := frame.Body
	for range frame.Count {
		request, behind, err := smr.CutRequest(rest)
		if err != nil || !promptness.Prompt(request.Payload) {
			return false
		}
		rest = behind
	}
	return true
}

// isUnused reports whether nobody looks at the state at this moment.
func (n *Node) isUnused() bool {
	if !n.frame.TryLock() {
		return false
	}
	defer n.frame.Unlock()
	if !n.lock.TryLock() {
		return false
	}
	n.lock.Unlock()
	return true
}

func (n *Node) applyFrame(frame smr.Frame) error {
	n.frame.Lock()
	defer n.frame.Unlock()
	n.lock.Lock()
	defer n.lock.Unlock()
	end := frame.End()
	n.executing, n.lastEnd = end, 0
	if frame.Kind == smr.KindRequests {
		rest, next := frame.Body, []smr.Request(nil)
		for i := range frame.Count {
			if len(next) == 0 {
				var err error
				if next, rest, err = n.nextRequests(rest, frame.Count-i); err != nil {
					return fmt.Errorf("execute frame at %d: %w", frame.LSN, err)
				}
			}
			if err := n.apply(kv.Instant{LSN: frame.LSN, Index: i, Stamp: frame.Stamp}, next[0], end); err != nil {
				return fmt.Errorf("execute frame at %d: %w", frame.LSN, err)
			}
			next = next[1:]
			if i%lockRequests == lockRequests-1 {
				n.lock.Unlock()
				n.lock.Lock()
				n.lastEnd = 0
			}
		}
	}
	n.machine.Advance(frame.Stamp, end)
	if n.keeper != nil {
		n.keeper.tier.afterFrame(n.machine)
	}
	n.shell.tracker.flush(n)
	n.applied.advance(end)
	n.noteProgress()
	if len(n.stops) > 0 {
		n.answerStops(end)
	}
	return nil
}

// nextRequests returns requests that come next, of so many, and what is behind them, and fetches the memory of their keys. They are valid until the next
// call. The caller holds the machine.
func (n *Node) nextRequests(rest []byte, count int) ([]smr.Request, []byte, error) {
	var w kv.Warmth
	requests := n.requests[:0]
	for range min(count, kv.WarmKeys) {
		request, behind, err := smr.CutRequest(rest)
		if err != nil {
			return nil, nil, err
		}
		rest = behind
		requests = append(requests, request)
		if count >= kv.LeastWarm {
			w.Request(n.machine, request.Payload)
		}
	}
	n.requests = requests
	w.Fetch()
	return requests, rest, nil
}

// apply executes one request, through its submission if somebody here waits for the reply.
func (n *Node) apply(at kv.Instant, request smr.Request, end smr.LSN) error {
	own := request.Session == n.session
	n.changes.Add(1)
	if own && request.Sequence == n.machine.LastSequence(n.session)+1 {
		if submission := n.log.Take(request.Sequence); submission != nil {
			submission.Execute(n.machine, at, request, end)
			return nil
		}
	}
	n.lastEnd = 0
	switch admission := n.machine.Apply(at, request, nil); {
	case !own:
	case admission == smr.OutOfOrder:
		return client.ErrSessionLost
	case admission == smr.Execute:
		n.noteBlocked(nil, request.Sequence, false)
	}
	return nil
}

// executionBegins returns the node time at which a request begins: when the one before it ended, so that the clock is read once for each.
func (n *Node) executionBegins() time.Duration {
	if n.lastEnd == 0 {
		return n.now()
	}
	return n.lastEnd
}

// StatusChanged is told when the role of the replicator beside this node, the epoch or the master has changed.
func (n *Node) StatusChanged(status smr.Status) {
	before := n.role.Swap(&status)
	if n.level.Learn(status.Level) {
		n.logger.Info("feature level", "level", status.Level, "highest", level.Highest())
	}
	n.changed.Store(int64(n.now()))
	if before.Role != status.Role || before.Epoch != status.Epoch || before.Master != status.Master {
		n.logger.Info("role", "role", status.Role.String(), "epoch", uint64(status.Epoch),
			"master", string(status.Master), "lsn", uint64(status.Safe))
	}
	n.noteProgress()
}

// noteProgress notes when the log that was there at the start is executed.
func (n *Node) noteProgress() {
	if n.caughtUp.Load() {
		return
	}
	if status := n.log.Status(); status.Role != smr.RoleNone && n.Applied() >= status.Safe && n.caughtUp.CompareAndSwap(false, true) {
		n.logger.Info("caught up", "lsn", uint64(n.Applied()), "seconds", int64(n.now()/time.Second))
	}
}

// catchingUp reports whether the log that was there at the start is still being executed.
func (n *Node) catchingUp(status smr.Status) bool {
	return !n.caughtUp.Load() && n.Applied() < status.Safe
}

// Applied returns the end of what this node has executed.
func (n *Node) Applied() smr.LSN { return n.applied.load() }

// failure returns the reply to a write that was not executed, or may not have been.
func (n *Node) failure(outcome Outcome) string {
	status := n.log.Status()
	switch outcome {
	case client.TooLarge:
		return fmt.Sprintf("ERR the command takes more than %d bytes in the log; it was not executed", smr.MaxPayload)
	case client.Overloaded:
		return "NOREPLICAS Not enough room for more writes: too many wait for the group." +
			" The write was not executed and never will be. Try again later, or with fewer at a time."
	case client.Uncertain:
		return fmt.Sprintf("UNCERTAIN the outcome of this write is unknown: it was sent to group %s and not confirmed within %v."+
			" It may have been executed, or may still be. Read before you write again.", n.config.Group, n.config.WriteTimeout)
	}
	missing := fmt.Sprintf("its master %s has had too few replicas attached", status.Master)
	switch {
	case status.Role == smr.RoleNone:
		missing = fmt.Sprintf("the replicator beside node %s has not been there", n.config.Node)
	case status.Master == "":
		missing = "it has had no master"
	}
	return fmt.Sprintf("NOREPLICAS Not enough good replicas to write. Group %s: %s for %v."+
		" The write was not executed and never will be. Try again when 'smrctl status' shows the group writable.",
		n.config.Group, missing, n.config.RefuseAfter)
}

// unreadable returns the reply to a read that cannot be linearizable.
func (n *Node) unreadable(err error) string {
	return fmt.Sprintf("MASTERDOWN this read cannot be linearizable now: %v. Group %s, node %s, executed up to LSN %d."+
		" Try again, on another node, or when 'smrctl status' shows a master.", err, n.config.Group, n.config.Node, n.Applied())
}

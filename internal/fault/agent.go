package fault

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"lockstep/proto"
)

// Bounds of an order.
const (
	MaxLimit   = 2 * time.Minute  // of a fault
	MaxReserve = 15 * time.Minute // of a reservation
	maxDelay   = 10 * time.Second
	maxShift   = 24 * time.Hour
	maxWord    = 128 // bytes of an id and of who runs a drill
	maxWho     = 256 // bytes of who ends one
)

// Names of faults, as in proto.InjectRequest.
const (
	Reserve  = "reserve"
	Kill     = "kill"
	Pause    = "pause"
	Links    = "links"
	SlowDisk = "slow-disk"
	FullDisk = "full-disk"
	LoseLog  = "lose-log"
	Clock    = "clock"
)

// Options of an Agent.
type Options struct {
	Allowed bool // --allow-drills
	// KVNode returns the process id of the KV node beside, as the kernel tells it; 0 if none is attached. nil: there never is one.
	KVNode func() int
	// LoseLog sets log and hard state aside; the process ends right after. nil: there is no log.
	LoseLog func() error
	// Disk: this process has a log whose syncs can be slowed and whose disk can be full.
	Disk bool
	// Links: the connections of this process can be cut.
	Links  bool
	Logger *slog.Logger
}

// Agent makes faults in this process. It is safe for concurrent use. A nil Agent makes none.
type Agent struct {
	options Options
	first   bool // this process is the first of its container (pid 1), to which signals from within do nothing
	links   links
	delay   atomic.Int64 // of each sync, nanoseconds
	full    atomic.Bool
	shift   atomic.Int64 // how far the wall clock is set back, nanoseconds
	hits    atomic.Uint64

	mu     sync.Mutex
	drill  string // that has this process, "" if none
	by     string
	lastID int
	active map[int]active
}

// active is a fault in force.
type active struct {
	fault string
	until time.Time
	ended chan string // says by whom, once
}

// New returns an agent without faults.
func New(o Options) *Agent {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	a := &Agent{options: o, first: os.Getpid() == 1, active: make(map[int]active)}
	a.links.changed = make(chan struct{})
	return a
}

// Allowed reports whether faults may be made at all.
func (a *Agent) Allowed() bool { return a != nil && a.options.Allowed }

// Now is the wall clock as this process shall read it.
func (a *Agent) Now() time.Time {
	now := time.Now()
	if a == nil {
		return now
	}
	if shift := a.shift.Load(); shift != 0 {
		a.hits.Add(1)
		return now.Add(-time.Duration(shift))
	}
	return now
}

// DiskFull reports whether the log shall find no room.
func (a *Agent) DiskFull() bool {
	if a == nil || !a.full.Load() {
		return false
	}
	a.hits.Add(1)
	return true
}

// SyncDelay is how much longer a sync shall take, 0 for none.
func (a *Agent) SyncDelay() time.Duration {
	if a == nil {
		return 0
	}
	delay := a.delay.Load()
	if delay != 0 {
		a.hits.Add(1)
	}
	return time.Duration(delay)
}

// service answers proto.Drills.
type service struct {
	proto.UnimplementedDrillsServer
	agent *Agent
	check func(*proto.Target) error // refuses what is meant for another process
	done  <-chan struct{}           // closed when the process ends
}

// Register offers the agent on server. check refuses what is meant for another process; done is closed when the process ends.
func (a *Agent) Register(server *grpc.Server, check func(*proto.Target) error, done <-chan struct{}) {
	proto.RegisterDrillsServer(server, &service{agent: a, check: check, done: done})
}

// Inject implements proto.DrillsServer.
func (s *service) Inject(in *proto.InjectRequest, out grpc.ServerStreamingServer[proto.InjectState]) error {
	if err := s.check(in.GetTarget()); err != nil {
		return err
	}
	a := s.agent
	if err := a.checkOrder(in); err != nil {
		return err
	}
	id, ended, err := a.enter(in)
	if err != nil {
		return err
	}
	defer a.leave(id)
	from := ""
	if p, ok := peer.FromContext(out.Context()); ok {
		from = p.Addr.String()
	}
	a.hits.Store(0)
	limit := time.Duration(in.GetLimitMs()) * time.Millisecond
	undo, text, err := a.begin(in, from, limit)
	if err != nil {
		return err
	}
	undo = sync.OnceFunc(undo)
	defer undo()
	if in.GetFault() != Reserve {
		a.options.Logger.Warn("drill: fault made", "fault", in.GetFault(), "drill", in.GetDrill(), "by", in.GetBy(), "text", text, "limit", limit.String())
		defer func() { a.options.Logger.Warn("drill: fault over", "fault", in.GetFault(), "drill", in.GetDrill()) }()
	}
	if err := out.Send(&proto.InjectState{Text: text}); err != nil {
		return err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-timer.C:
	case who := <-ended:
		undo()
		return status.Errorf(codes.Aborted, "ended by %s", who)
	case <-out.Context().Done():
		return out.Context().Err()
	case <-s.done:
		return status.Error(codes.Unavailable, "the process stops")
	}
	undo()
	return out.Send(&proto.InjectState{Over: true, Text: fmt.Sprintf("taken back after its limit of %v", limit), Hits: a.hits.Load()})
}

// checkOrder refuses what cannot be done here, before anything is done.
func (a *Agent) checkOrder(in *proto.InjectRequest) error {
	wrong := func(format string, args ...any) error { return status.Errorf(codes.InvalidArgument, format, args...) }
	cannot := func(text string) error { return status.Error(codes.FailedPrecondition, text) }
	switch {
	case !a.Allowed():
		return cannot("drills are not allowed in this process: start it with --allow-drills")
	case in.GetDrill() == "" || len(in.GetDrill()) > maxWord || len(in.GetBy()) > maxWord:
		return wrong("drill %q by %q: use 1 to %d bytes", in.GetDrill(), in.GetBy(), maxWord)
	}
	most := MaxLimit
	if in.GetFault() == Reserve {
		most = MaxReserve
	}
	if in.GetLimitMs() == 0 || time.Duration(in.GetLimitMs())*time.Millisecond > most {
		return wrong("limit of %d ms: use 1 to %d", in.GetLimitMs(), most.Milliseconds())
	}
	switch in.GetFault() {
	case Reserve:
	case Kill, Pause:
		if !in.GetProcess() && !in.GetKvnode() {
			return wrong("%s: say what: this process, the KV node, or both", in.GetFault())
		}
		if why := a.noKVNode(); in.GetKvnode() && why != "" {
			return cannot(why)
		}
		if why := a.noPause(); in.GetFault() == Pause && in.GetProcess() && why != "" {
			return cannot(why)
		}
	case Links:
		if !a.options.Links {
			return cannot("the connections of this process cannot be cut")
		}
		if !in.GetInbound() && !in.GetOutbound() {
			return wrong("links: say which direction: inbound, outbound, or both")
		}
	case SlowDisk:
		if d := time.Duration(in.GetDelayMs()) * time.Millisecond; d <= 0 || d > maxDelay {
			return wrong("slow-disk: %d ms: use 1 to %d", in.GetDelayMs(), maxDelay.Milliseconds())
		}
		if !a.options.Disk {
			return cannot("this process has no log")
		}
	case FullDisk:
		if !a.options.Disk {
			return cannot("this process has no log")
		}
	case LoseLog:
		if a.options.LoseLog == nil {
			return cannot("this process has no log")
		}
	case Clock:
		if d := time.Duration(in.GetShiftMs()) * time.Millisecond; d <= 0 || d > maxShift {
			return wrong("clock: %d ms: use 1 to %d", in.GetShiftMs(), maxShift.Milliseconds())
		}
	default:
		return wrong("fault %q is not known", in.GetFault())
	}
	return nil
}

// noPause says why this process cannot be paused, "" if it can.
func (a *Agent) noPause() string {
	if a.first {
		return "this process is the first of its container (pid 1), which the kernel does not let stand still: run the container with an init (docker run --init; init: true in a compose file)"
	}
	return ""
}

// noKVNode says why the KV node beside cannot be killed or paused, "" if it can.
func (a *Agent) noKVNode() string {
	if a.options.KVNode == nil || a.options.KVNode() <= 1 {
		return "no KV node is attached whose process can be seen from here (in a container of its own it cannot)"
	}
	return ""
}

// enter takes this process for the drill, unless another one has it, and notes the fault.
func (a *Agent) enter(in *proto.InjectRequest) (id int, ended <-chan string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.active) > 0 && a.drill != in.GetDrill() {
		return 0, nil, status.Errorf(codes.ResourceExhausted, "drill %s of %s is under way here", a.drill, a.by)
	}
	for _, other := range a.active {
		if in.GetFault() != Reserve && other.fault == in.GetFault() {
			return 0, nil, status.Errorf(codes.ResourceExhausted, "fault %s is in force here already", other.fault)
		}
	}
	a.drill, a.by = in.GetDrill(), in.GetBy()
	a.lastID++
	end := make(chan string, 1)
	a.active[a.lastID] = active{in.GetFault(), time.Now().Add(time.Duration(in.GetLimitMs()) * time.Millisecond), end}
	return a.lastID, end, nil
}

func (a *Agent) leave(id int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.active, id)
	if len(a.active) == 0 {
		a.drill, a.by = "", ""
	}
}

// begin makes the fault and returns what takes it back.
func (a *Agent) begin(in *proto.InjectRequest, from string, limit time.Duration) (undo func(), text string, err error) {
	switch in.GetFault() {
	case Kill:
		text, err = a.kill(in.GetProcess(), in.GetKvnode())
		return func() {}, text, err
	case Pause:
		return a.pause(in.GetProcess(), in.GetKvnode(), limit)
	case Links:
		undo = a.links.cut(in.GetInbound(), in.GetOutbound(), from, &a.hits)
		return undo, "links: " + directions(in), nil
	case SlowDisk:
		a.delay.Store(int64(in.GetDelayMs()) * int64(time.Millisecond))
		return func() { a.delay.Store(0) }, fmt.Sprintf("each sync takes %d ms longer", in.GetDelayMs()), nil
	case FullDisk:
		a.full.Store(true)
		return func() { a.full.Store(false) }, "the log finds no room", nil
	case LoseLog:
		if err := a.options.LoseLog(); err != nil {
			return nil, "", status.Errorf(codes.Internal, "set the log aside: %v", err)
		}
		text, err = a.kill(true, false)
		return func() {}, text, err
	case Clock:
		a.shift.Store(int64(in.GetShiftMs()) * int64(time.Millisecond))
		return func() { a.shift.Store(0) }, fmt.Sprintf("the wall clock is read %v back", time.Duration(in.GetShiftMs())*time.Millisecond), nil
	}
	return func() {}, "reserved", nil
}

func directions(in *proto.InjectRequest) string {
	switch {
	case in.GetInbound() && in.GetOutbound():
		return "nothing arrives here, and nothing that is sent from here arrives"
	case in.GetInbound():
		return "nothing arrives here"
	}
	return "nothing that is sent from here arrives"
}

// Faults implements proto.DrillsServer.
func (s *service) Faults(_ context.Context, in *proto.FaultsRequest) (*proto.FaultsReply, error) {
	if err := s.check(in.GetTarget()); err != nil {
		return nil, err
	}
	return s.agent.State(), nil
}

// End implements proto.DrillsServer.
func (s *service) End(_ context.Context, in *proto.EndFaultsRequest) (*proto.EndFaultsReply, error) {
	if err := s.check(in.GetTarget()); err != nil {
		return nil, err
	}
	return s.agent.End(in.GetDrill(), in.GetBy())
}

// State tells what is in force now.
func (a *Agent) State() *proto.FaultsReply {
	reply := &proto.FaultsReply{Allowed: a.Allowed()}
	if a == nil {
		return reply
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	reply.Drill, reply.By, reply.NoPause = a.drill, a.by, a.noPause()
	if a.options.KVNode != nil {
		reply.NoKvnode = a.noKVNode()
	}
	for _, f := range a.active {
		reply.Faults = append(reply.Faults, f.fault)
		reply.LeftMs = max(reply.LeftMs, uint32(max(0, time.Until(f.until).Milliseconds())))
	}
	slices.Sort(reply.Faults)
	return reply
}

// End has all calls of a drill take back what they hold here. The error is one of a management call: nothing is held by that drill, or
// who asks is not named in 1 to 256 bytes.
func (a *Agent) End(drill, by string) (*proto.EndFaultsReply, error) {
	if by == "" || len(by) > maxWho {
		return nil, status.Errorf(codes.InvalidArgument, "ended by %.*q: use 1 to %d bytes", maxWord, by, maxWho)
	}
	reply := &proto.EndFaultsReply{}
	if a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, f := range a.active {
			if a.drill != drill {
				break
			}
			select {
			case f.ended <- by:
				reply.Ended++
			default: // it is ending
			}
		}
	}
	if reply.GetEnded() == 0 {
		return nil, status.Errorf(codes.NotFound, "drill %.*q holds nothing here", maxWord, drill)
	}
	return reply, nil
}

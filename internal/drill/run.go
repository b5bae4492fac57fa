package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	pb "google.golang.org/protobuf/proto"

	"lockstep/internal/admin"
	"lockstep/internal/chaos"
	"lockstep/internal/drill/plan"
	"lockstep/internal/drill/report"
	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/internal/release"
	"lockstep/proto"
)

// Config of a drill.
type Config struct {
	plan.Order

	Client   *admin.Client
	Local    *local.Cluster // nil: the processes have a supervisor elsewhere
	Binaries string         // with Local: directory of the programs
	Dir      string         // of the history of drills
	By       string         // who runs it
	// Dial connects to the agent of a process, by its management address.
	Dial func(addr string) (*grpc.ClientConn, error)
	// Digests reports whether all KV nodes hold the same state at one LSN, or why that is not known.
	Digests func(ctx context.Context) error
	// Confirm is asked before anything is done; an error ends the drill. nil: nobody is asked.
	Confirm func(*plan.Plan) error

	Progress func(line string)
}

// Patience of a drill.
const (
	// mendPatience bounds how long the group may take to be whole again, warmUp until clients work.
	mendPatience = 3 * time.Minute
	warmUp       = 30 * time.Second
	warmWrites   = 100
	// settle is how long clients go on when all is well again.
	settle = time.Second
	poll   = 100 * time.Millisecond
)

// run is a drill under way.
type run struct {
	Config
	kind      *plan.Kind
	plan      *plan.Plan
	agents    map[string]*agent
	allowed   map[string]bool // of agents
	report    *report.Report
	clientsAt []local.Replica
	work      *chaos.Workload
	folder    string // of this run
	renewed   string // node that must come back as another incarnation

	mu        sync.Mutex
	began     time.Time
	status    *proto.GroupStatus // last seen, replaced and never changed
	touched   []string           // nodes and configuration masters that the drill has its hands on now
	stopped   []string           // processes that only we start again
	strikeAt  int64              // stamp of the fault, 0 before
	mendedAt  int64              // stamp when all was whole again
	timeline  []report.Moment
	problems  []string
	abortedBy error
	abort     context.CancelCauseFunc // set before anything touches the cluster
	diary     *os.File                // report.ProgressName; nil before the run has a directory
}

// Run does a drill. The error says that it was refused or could not be done (Refusal, or what went wrong); how it went is in the
// report, which also stands in the history.
func Run(ctx context.Context, c Config) (*report.Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	history, err := openHistory(c.Dir)
	if err != nil {
		return nil, err
	}
	defer history.close()
	if err := history.tidyUp(ctx, c); err != nil {
		return nil, err
	}
	r := &run{Config: c, kind: plan.Find(c.Drill), began: time.Now()}
	r.report = newReport(&r.Config, r.kind, history.nextID(c.Drill, r.began))
	looked, err := r.inspect(ctx)
	defer r.closeAgents()
	if err != nil {
		return nil, err
	}
	if c.Confirm != nil {
		if err := c.Confirm(looked); err != nil {
			return nil, err
		}
		if looked, err = r.inspect(ctx); err != nil { // it may have taken a while
			return nil, err
		}
	}
	if r.folder, err = history.begin(r.report.ID, r.unfinished()); err != nil {
		return nil, err
	}
	note(r.report, looked)
	if r.diary, err = os.OpenFile(filepath.Join(r.folder, report.ProgressName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return nil, errors.Join(err, history.abandon(r.report.ID))
	}
	defer r.diary.Close()
	if err := r.drive(ctx); err != nil {
		return nil, errors.Join(err, history.abandon(r.report.ID))
	}
	return r.report, history.finish(r.report, r.folder)
}

// Inspect says what a drill would do, and refuses what the group could not survive, as Run does. It changes nothing.
func Inspect(ctx context.Context, c Config) (*plan.Plan, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	r := &run{Config: c, kind: plan.Find(c.Drill), began: time.Now()}
	r.report = &report.Report{}
	defer r.closeAgents()
	return r.inspect(ctx)
}

// drive does all that touches the cluster.
func (r *run) drive(ctx context.Context) error {
	outer := ctx
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	r.abort = abort
	if err := r.reserve(ctx); err != nil {
		return &Refusal{Drill: r.Drill, Group: r.Group, Problems: []string{err.Error()}}
	}
	seed := rand.Uint64() // #nosec G404 -- a seed, which stands in the report
	var err error
	r.work, err = chaos.StartWorkload(context.WithoutCancel(ctx), chaos.WorkloadOptions{
		Dir: r.folder, Nodes: r.clientsAt, Name: keyName(r.report.ID), Clients: r.Clients, Seed: seed, Login: r.Client.Login})
	if err != nil {
		return err
	}
	var watchers sync.WaitGroup
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	watchers.Go(func() { r.follow(watching) })
	failed := r.warm(ctx)
	if failed == nil {
		watchers.Go(func() { r.guard(watching, abort) })
		r.say("clients write and check what they read; now: %s", r.kind.What)
		failed = acts[r.Drill](r, ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		r.abortedBy = cause
		if outer.Err() != nil {
			r.abortedBy = errors.New("ended by the operator")
		}
		r.mark("drill", "aborted: "+r.abortedBy.Error())
	} else if failed != nil {
		r.complain("%v", failed)
	}
	r.touchAll()
	// Whatever happened: what the drill has broken is mended before anything is judged.
	mending, cancel := context.WithTimeout(context.WithoutCancel(ctx), mendPatience)
	defer cancel()
	r.say("waiting until the group is whole again")
	if err := r.mend(mending, nil); err != nil {
		r.complain("the group is not whole again: %v", err)
	}
	r.mu.Lock()
	r.mendedAt = r.work.Now()
	r.mu.Unlock()
	pause.For(mending, settle)
	stopWatching()
	watchers.Wait()
	return r.judge(mending)
}

// say tells people what happens: who runs the drill, and who looks at the web page.
func (r *run) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if r.diary != nil {
		if _, err := r.diary.WriteString(report.ProgressLine(time.Now(), text)); err != nil {
			r.complain("note what happens: %v", err)
		}
	}
	r.Progress(text)
}

// mark notes a moment of the timeline, and tells.
func (r *run) mark(who, text string) {
	at := int64(0)
	if r.work != nil {
		at = r.work.Now()
	}
	r.mu.Lock()
	r.timeline = append(r.timeline, report.Moment{Stamp: at, Who: who, Text: text})
	begun := r.strikeAt
	r.mu.Unlock()
	when := ""
	if begun != 0 {
		when = fmt.Sprintf("%+.3f s  ", float64(at-begun)/1e9)
	}
	r.say("%s%s: %s", when, who, text)
}

// complain notes why the drill has not passed.
func (r *run) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.problems, text) {
		r.problems = append(r.problems, text)
	}
}

// struck notes that the fault is there from now on.
func (r *run) struck() {
	now := r.work.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.strikeAt == 0 {
		r.strikeAt = now
	}
}

// touch says which host the drill has its hands on from now on: its trouble is no reason to abort.
func (r *run) touch(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.touched = names
}

func (r *run) touchAll() { r.touch(r.agentNames()...) }

// agentNames lists the agents, sorted.
func (r *run) agentNames() []string {
	var names []string
	for name := range r.agents {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// willStart notes processes that only this smrctl, or the next one, starts again. It is on disk before they are killed.
func (r *run) willStart(processes ...string) {
	if r.Local == nil {
		return
	}
	r.mu.Lock()
	for _, name := range processes {
		if !slices.Contains(r.stopped, name) {
			r.stopped = append(r.stopped, name)
		}
	}
	r.mu.Unlock()
	if err := writeUnfinished(r.folder, r.unfinished()); err != nil {
		r.complain("note what must be started again: %v", err)
	}
}

func (r *run) unfinished() unfinished {
	r.mu.Lock()
	defer r.mu.Unlock()
	return unfinished{ID: r.report.ID, Drill: r.Drill, Group: r.Group, By: r.By, Began: r.began, Processes: slices.Clone(r.stopped)}
}

// strike makes a fault that ends by itself, as a kill does.
func (r *run) strike(ctx context.Context, name string, in *proto.InjectRequest) error {
	r.touch(name)
	r.mark("drill", fmt.Sprintf("%s: %s", name, in.GetFault()))
	if err := r.injectOnce(ctx, name, in); err != nil {
		return err
	}
	r.struck()
	r.mark("drill", "the fault is there")
	pause.For(ctx, r.Hold)
	return context.Cause(ctx)
}

// injectOnce makes a fault that nothing takes back.
func (r *run) injectOnce(ctx context.Context, name string, in *proto.InjectRequest) error {
	h, err := r.order(ctx, r.agents[name], agentPatience, in)
	if err != nil {
		return err
	}
	h.release()
	<-h.ended
	return nil
}

// hold makes a fault on all victims, and returns when it is over.
func (r *run) hold(ctx context.Context, moves bool, in *proto.InjectRequest) error {
	r.touch(r.plan.Victims...)
	var all []*held
	defer func() {
		for _, h := range all {
			h.release()
			<-h.ended
		}
	}()
	for _, name := range r.plan.Victims {
		h, err := r.order(ctx, r.agents[name], r.Hold, pb.CloneOf(in))
		if err != nil {
			return err
		}
		all = append(all, h)
	}
	r.struck()
	hits := uint64(0)
	for _, h := range all {
		select {
		case <-h.ended:
			hits += h.hits
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	r.mark("drill", "the fault is over")
	if h := all[0]; h.err == nil && in.GetFault() != pauseFault && hits == 0 {
		r.complain("the fault had no effect: nothing passed where it was made")
	}
	if moves {
		return r.awaitOtherMaster(ctx, r.plan.Victims[0])
	}
	return nil
}

// awaitOtherMaster waits until somebody else than node leads.
func (r *run) awaitOtherMaster(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, r.Longest)
	defer cancel()
	return pause.Until(ctx, poll, func() error {
		group, err := r.group(ctx)
		switch {
		case err != nil:
			return err
		case group.GetMaster() == "" || group.GetEpoch() == r.plan.Epoch && r.kind.Target == plan.TheMaster && group.GetMaster() == r.plan.Master:
			return fmt.Errorf("nobody was elected in place of %s: the group is %s, its master %q", node, group.GetState(), group.GetMaster())
		}
		return nil
	})
}

// mend starts what does not run and waits until the group is whole: as it was when the drill began. Replicas in before must have
// another life than there.
func (r *run) mend(ctx context.Context, before map[string]uint64) error {
	return pause.Until(ctx, poll, func() error {
		if err := r.startStopped(); err != nil {
			return err
		}
		status, group, err := r.look(ctx)
		if err != nil {
			return err
		}
		if problems := r.plan.Wholeness(status, group); len(problems) > 0 {
			return errors.New(problems[0])
		}
		for _, replica := range group.GetReplicas() {
			node, state := replica.GetNode(), replica.GetState()
			if r.renewed == node && state.GetIncarnation() == r.plan.Incarnations[node] {
				return fmt.Errorf("%s is the incarnation that it was before its disk was lost", node)
			}
			if life := before[node]; life != 0 && slices.Contains(r.hands(), node) && life == state.GetLife() {
				return fmt.Errorf("%s is the process that it was", node)
			}
		}
		return nil
	})
}

func (r *run) hands() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.touched)
}

// startStopped starts the processes that we have stopped and that do not run.
func (r *run) startStopped() error {
	if r.Local == nil {
		return nil
	}
	r.mu.Lock()
	names := slices.Clone(r.stopped)
	r.mu.Unlock()
	return r.start(names, func(name string, pid int) { r.mark("drill", fmt.Sprintf("started %s (pid %d)", name, pid)) })
}

// start starts those of the named processes that do not run, and tells of each.
func (c *Config) start(names []string, tell func(name string, pid int)) error {
	for _, name := range startOrder(names) {
		if c.Local.Pid(name) != 0 {
			continue
		}
		pid, err := c.Local.StartProcess(name, c.Binaries)
		if errors.Is(err, local.ErrRunning) {
			continue
		}
		if err != nil {
			return err
		}
		tell(name, pid)
	}
	return nil
}

// startOrder puts replicators before KV nodes.
func startOrder(names []string) []string {
	ordered := slices.Clone(names)
	rank := func(process string) int {
		if process == local.KVNodeOf(nodeOf(process)) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(ordered, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return ordered
}

// warm waits until clients work on every node.
func (r *run) warm(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, warmUp)
	defer cancel()
	return pause.Until(waiting, poll, func() error {
		if writes, _ := r.work.Acknowledged(); writes < warmWrites {
			return fmt.Errorf("only %d writes were acknowledged before the fault: nothing was broken", writes)
		}
		return nil
	})
}

// keyName is in the name of every key of a run.
func keyName(id string) string { return plan.KeyMark + id }

// version is what ran.
func version() string { return release.String() }

func host() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown host"
	}
	return name
}

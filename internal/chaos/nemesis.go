package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// Fault is one entry of the timeline.
type Fault struct {
	ID      int      `json:"id"`
	Lane    int      `json:"lane"`
	Kind    string   `json:"kind"`
	Targets []string `json:"targets"`
	Detail  string   `json:"detail"`
	Began   int64    `json:"began"`           // stamps of the history's clock, when the fault was done
	Ended   int64    `json:"ended"`           // and when it was healed: the processes run again, the links carry
	Admit   int64    `json:"admit,omitempty"` // and, after data was destroyed, when the replica was a full member again
	Idle    bool     `json:"idle,omitempty"`  // it had no effect that could be seen, and does not count
	Error   string   `json:"error,omitempty"` // it could not be done
}

// nemesis draws faults and does them, in several lanes at once.
type nemesis struct {
	*cluster
	now      func() int64
	progress func(string)
	failed   func(rule, format string, args ...any) // notes a broken promise

	mu       sync.Mutex
	claimed  map[string]bool // processes, links and privileges in somebody's hands
	timeline []*Fault
	active   map[int]*Fault
}

// destroying is the claim of whoever destroys data: one replica at a time, and only while all others are full members.
const destroying = "the right to destroy data"

// kind is a kind of fault.
type kind struct {
	name   string
	weight int
	// do draws its targets, claims them, does the fault, waits and heals it. It reports false if it does not apply now.
	do func(t *turn) bool
}

// turn is one fault in the making.
type turn struct {
	*nemesis
	ctx    context.Context
	rng    *rand.Rand
	fault  *Fault
	claims []string
}

// healTime bounds what an ended run may still take to undo a fault.
const healTime = 90 * time.Second

// lane does fault after fault until ctx ends. The kinds are drawn from the lane's own stream of the seed.
func (n *nemesis) lane(ctx context.Context, lane int, seed uint64, kinds []kind, gap time.Duration) {
	rng := rand.New(rand.NewPCG(seed, 2000+uint64(lane)))
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for total > 0 && ctx.Err() == nil {
		choice := rng.IntN(total)
		for _, k := range kinds {
			if choice -= k.weight; choice >= 0 {
				continue
			}
			t := &turn{nemesis: n, ctx: ctx, rng: rand.New(rand.NewPCG(rng.Uint64(), 1)), fault: &Fault{Lane: lane, Kind: k.name}}
			done := k.do(t)
			t.release()
			if !done && !pause.For(ctx, 20*time.Millisecond) {
				return
			}
			break
		}
		pause.For(ctx, gap/2+time.Duration(rng.Int64N(int64(gap)+1)))
	}
}

// claim takes all of these things, or none: it reports whether they were free.
func (t *turn) claim(things ...string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, thing := range things {
		if t.claimed[thing] {
			return false
		}
	}
	for _, thing := range things {
		t.claimed[thing] = true
	}
	t.claims = append(t.claims, things...)
	return true
}

func (t *turn) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, thing := range t.claims {
		delete(t.claimed, thing)
	}
	t.claims = nil
}

// begin puts the fault on the timeline: it happens now.
func (t *turn) begin(targets []string, format string, args ...any) {
	f := t.fault
	f.Targets, f.Detail, f.Began = targets, fmt.Sprintf(format, args...), t.now()
	t.mu.Lock()
	f.ID = len(t.timeline) + 1
	t.timeline = append(t.timeline, f)
	t.active[f.ID] = f
	t.mu.Unlock()
	t.progress(fmt.Sprintf("fault %d: %s: %s", f.ID, f.Kind, t.text()))
}

func (t *turn) text() string {
	text := strings.Join(t.fault.Targets, ", ")
	if t.fault.Detail != "" {
		text += " (" + t.fault.Detail + ")"
	}
	return text
}

// end takes it off the list of active ones: it is healed. The first call counts.
func (t *turn) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fault.Ended == 0 {
		t.fault.Ended = t.now()
	}
	if err != nil && t.fault.Error == "" {
		t.fault.Error = err.Error()
	}
	delete(t.active, t.fault.ID)
}

// idle notes that the fault had no effect, and why.
func (t *turn) idle(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fault.Idle = true
	if t.fault.Detail != "" {
		t.fault.Detail += "; "
	}
	t.fault.Detail += "no effect: " + fmt.Sprintf(format, args...)
}

// healing is the context for undoing a fault: it outlives the time of the run.
func (t *turn) healing() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.ctx), healTime)
}

// between draws a time.
func (t *turn) between(least, most time.Duration) time.Duration {
	return least + time.Duration(t.rng.Int64N(int64(most-least)))
}

// wait waits for a drawn time, or until the run ends.
func (t *turn) wait(least, most time.Duration) { pause.For(t.ctx, t.between(least, most)) }

// startAll starts processes again, in order. What does not start is a broken promise: no fault here may need a person.
func (t *turn) startAll(names ...string) error {
	for _, name := range names {
		if t.Pid(name) != 0 {
			continue
		}
		if err := t.start(name); err != nil {
			t.failed("processes come back by themselves", "%v", err)
			return err
		}
	}
	return nil
}

// roles draws nodes: the master first, then the others in random order. Without an established master any order.
func (t *turn) roles() (master string, others []string) {
	ctx, cancel := context.WithTimeout(t.ctx, 2*time.Second)
	defer cancel()
	if group, _, err := t.group(ctx); err == nil {
		master = group.GetMaster()
	}
	for _, r := range t.nodes() {
		others = append(others, r.Node)
	}
	t.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	at := max(slices.Index(others, master), 0)
	master = others[at]
	return master, slices.Delete(others, at, at+1)
}

// node draws a node; the master as often as all others together.
func (t *turn) node() string {
	master, others := t.roles()
	if t.rng.IntN(2) == 0 {
		return master
	}
	return others[0]
}

// leader returns the process of the configuration masters' leader, and the others.
func (t *turn) leader() (leader string, others []string) {
	ctx, cancel := context.WithTimeout(t.ctx, 2*time.Second)
	defer cancel()
	status, err := t.admin.Status(ctx)
	for _, m := range t.Plan.Confmasters {
		others = append(others, m.Name())
	}
	leader = others[t.rng.IntN(len(others))]
	if err == nil {
		for _, c := range status.GetConfmasters() {
			if c.GetLeader() {
				leader = local.Confmaster{ID: int(c.GetId())}.Name()
			}
		}
	}
	return leader, slices.DeleteFunc(others, func(name string) bool { return name == leader })
}

// mayDestroy claims the right to destroy a node's data, if all nodes are full members and nobody else destroys any.
func (t *turn) mayDestroy(node string) bool {
	if !t.claim(destroying, local.ReplicatorOf(node), local.KVNodeOf(node)) {
		return false
	}
	ctx, cancel := context.WithTimeout(t.ctx, 2*time.Second)
	defer cancel()
	return t.whole(ctx) == nil
}

// awaitAdmission waits until a node whose data was destroyed is a full member again; the right to destroy is kept until
// then, also beyond the end of the run.
func (t *turn) awaitAdmission(node string, before uint64, renewed bool) {
	ctx, cancel := t.healing()
	defer cancel()
	if t.ctx.Err() == nil { // while the run lasts, other faults may delay it for as long as they like
		cancel()
		ctx, cancel = context.WithCancel(context.WithoutCancel(t.ctx))
		defer cancel()
		stop := context.AfterFunc(t.ctx, func() { time.AfterFunc(healTime, cancel) })
		defer stop()
	}
	err := pause.Until(ctx, untilPause, func() error {
		group, _, err := t.group(ctx)
		if err != nil {
			return err
		}
		now := replica(group, node).GetState().GetIncarnation()
		if renewed && now == before {
			return fmt.Errorf("%s is seen as incarnation %x still", node, now)
		}
		return admitted(group, node)
	})
	if err != nil {
		t.failed("a destroyed replica is admitted again", "fault %d: %s: %v", t.fault.ID, node, err)
		return
	}
	t.mu.Lock()
	t.fault.Admit = t.now()
	t.mu.Unlock()
}

// incarnation returns the incarnation of a node as last seen, 0 if nobody knows.
func (t *turn) incarnation(node string) uint64 {
	ctx, cancel := context.WithTimeout(t.ctx, 2*time.Second)
	defer cancel()
	group, _, err := t.group(ctx)
	if err != nil {
		return 0
	}
	return replica(group, node).GetState().GetIncarnation()
}

// snapshot returns how many faults there were and what is active.
func (n *nemesis) snapshot() (total int, active []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.timeline {
		if n.active[f.ID] != nil {
			active = append(active, f.Kind)
		}
	}
	return len(n.timeline), active
}

// faults returns the timeline. Call it when all lanes have ended.
func (n *nemesis) faults() []Fault {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]Fault, 0, len(n.timeline))
	for _, f := range n.timeline {
		list = append(list, *f)
	}
	return list
}

package failover

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// MaxRemoved bounds the removed replicas that are remembered.
const MaxRemoved = 64

// MaxRecoveries bounds the forced recoveries of a group, none of which is ever forgotten.
const MaxRecoveries = 1000

// Change of the replicas that takes more than one step. Each step is in raft before it is acted on; a new leader
// continues with the one that stands here.
type Change struct {
	ID          uint64 // of the WorkEntry that began it
	Kind        ChangeKind
	Node        smr.NodeID // that leaves
	New         smr.NodeID `json:",omitempty"` // that takes its place
	Step        ChangeStep
	StampMillis int64 // wall clock of its beginning
}

// ChangeKind says what becomes of Change.Node.
type ChangeKind string

const (
	// ChangeRemove drops it from the membership and then from the registry.
	ChangeRemove ChangeKind = "remove"
	// ChangeDrain drops it from the membership until further notice.
	ChangeDrain ChangeKind = "drain"
	// ChangeUndrain ends that. It takes one step.
	ChangeUndrain ChangeKind = "undrain"
	// ChangeReplace is ChangeRemove after another one has become a member.
	ChangeReplace ChangeKind = "replace"
)

// ChangeStep is where a Change stands.
type ChangeStep string

const (
	// StepJoin waits until Change.New is a member.
	StepJoin ChangeStep = "join"
	// StepLeave waits until Change.Node neither leads nor is a member.
	StepLeave ChangeStep = "leave"
	// StepEnd is over.
	StepEnd ChangeStep = "end"
)

// Recovery by force: what was put in place of a configuration of which too few members were left.
type Recovery struct {
	Epoch       smr.Epoch // of the configuration that was forced: nobody led it
	StampMillis int64
	Kept        []smr.Member
	// Outcasts are the replicas that were known and not kept. Their logs may hold bytes that were acknowledged and
	// that the group has lost: in these incarnations they never come back.
	Outcasts    []smr.Member
	Master      smr.NodeID // that was established before
	From        smr.LSN    // below it nothing is lost
	Seen        smr.LSN    // the highest End or Commit that was seen of anybody, at least From
	SinceMillis int64      // wall clock at which one of the lost members was heard of last; 0: never by that leader
	Text        string
}

type (
	// AddReplica registers a replica under a name that is free.
	AddReplica struct {
		Group   string
		Version uint64 `json:",omitempty"`
		Replica Replica
	}
	// BeginChange begins a Change. By is the replica that takes the place of Node; if its name is registered already, the
	// addresses must be the same.
	BeginChange struct {
		Group      string
		Version    uint64 `json:",omitempty"`
		Kind       ChangeKind
		Node       smr.NodeID
		By         *Replica `json:",omitempty"`
		Switchover bool     `json:",omitempty"` // Node may lead: it hands over
	}
	// AdvanceChange takes the Change of that ID to its next step.
	AdvanceChange struct {
		Group string
		ID    uint64
		Step  ChangeStep
		// Incarnation of Change.Node as it was last seen, 0 if it was not; with StepEnd.
		Incarnation smr.Incarnation `json:",omitempty"`
	}
	// CancelChange ends a Change where it stands.
	CancelChange struct {
		Group   string
		Version uint64 `json:",omitempty"`
	}
	// Recover makes the kept replicas the established configuration and begins an election among them. It gives out two
	// epochs: Expect+1 for the configuration, which nobody leads, and Expect+2 for the election.
	Recover struct {
		Group     string
		Version   uint64 `json:",omitempty"`
		Expect    smr.Epoch
		Recovery  Recovery
		Witnesses []Witness
	}
)

// errVersion: the group is not as the operator saw it.
var errVersion = errors.New("the group was changed meanwhile")

func (g *Group) checkVersion(version uint64) error {
	if version != 0 && version != g.Version {
		return fmt.Errorf("%w: it has version %d, you saw %d: look at it again", errVersion, g.Version, version)
	}
	return nil
}

// checkIdle reports a change that runs.
func (g *Group) checkIdle() error {
	if g.Change.Kind != "" {
		return fmt.Errorf("another change is running: %s: wait until it is done, or end it with `smrctl group cancel %s`", g.Change.describe(), g.Name)
	}
	return nil
}

func (c *Change) describe() string {
	switch {
	case c.Kind == ChangeReplace && c.Step == StepJoin:
		return fmt.Sprintf("replace %s by %s: waiting until %s is a member", c.Node, c.New, c.New)
	case c.Kind == ChangeReplace:
		return fmt.Sprintf("replace %s by %s: %s leaves", c.Node, c.New, c.Node)
	}
	return fmt.Sprintf("%s %s: it leaves the membership", c.Kind, c.Node)
}

// Stays counts the registered replicas that shall be members.
func (g *Group) Stays() int {
	count := 0
	for i := range g.Replicas {
		if r := &g.Replicas[i]; !r.Drained && !(g.Change.Kind != "" && g.Change.Node == r.Node) {
			count++
		}
	}
	return count
}

// checkPolicy reports why the policy cannot be that.
func (g *Group) checkPolicy(p Policy) error {
	gathering := g.Epoch == 0 && g.Stays() < g.Policy.Copies
	if stays := g.Stays(); p.Copies > stays && !gathering {
		return fmt.Errorf("%d copies of %d replicas: add replicas first with `smrctl replica add`", p.Copies, stays)
	}
	return nil
}

// checkAdd reports why a replica cannot be registered under a name that is free.
func (g *Group) checkAdd(r *Replica) error {
	if known := g.Replica(r.Node); known != nil {
		return fmt.Errorf("the name %s is in use by the replica at %s: choose another name, or remove that one first", r.Node, known.ManageAddr)
	}
	for i := range g.Replicas {
		if other := &g.Replicas[i]; other.ManageAddr == r.ManageAddr || other.DataAddr == r.DataAddr {
			return fmt.Errorf("%s has the address of replica %s: every replica needs its own", r.Node, other.Node)
		}
	}
	if len(g.Replicas) >= MaxReplicas {
		return fmt.Errorf("%d replicas are registered: no more are possible, remove one first", len(g.Replicas))
	}
	return nil
}

// checkBegin reports why a change cannot be begun, as far as State tells.
func (g *Group) checkBegin(c *BeginChange) error {
	if err := g.checkIdle(); err != nil {
		return err
	}
	r := g.Replica(c.Node)
	stays := g.Stays()
	switch {
	case r == nil:
		return fmt.Errorf("%s is no replica of group %s", c.Node, g.Name)
	case c.Kind == ChangeUndrain && !r.Drained:
		return fmt.Errorf("%s is not drained", c.Node)
	case c.Kind == ChangeUndrain:
		return nil
	case c.Kind == ChangeDrain && r.Drained:
		return fmt.Errorf("%s is drained already: undo it with --undo", c.Node)
	case g.Reign.Epoch == 0 && !(g.Epoch == 0 && c.Kind == ChangeRemove):
		return fmt.Errorf("group %s has no master yet: wait until it serves", g.Name)
	case c.Kind == ChangeReplace:
		if err := g.checkReplacement(c); err != nil {
			return err
		}
		if g.Replica(c.By.Node) == nil {
			stays++
		}
	}
	if !r.Drained {
		stays--
	}
	switch {
	case stays < g.Policy.MinCopies:
		return fmt.Errorf("%d replicas would be left, min_copies is %d: add one first, or use `smrctl replica replace`", stays, g.Policy.MinCopies)
	case stays < g.Policy.Copies:
		return fmt.Errorf("%d replicas would be left for %d copies: add one first, use `smrctl replica replace`, or lower copies with `smrctl group set %s --copies %d`",
			stays, g.Policy.Copies, g.Name, stays)
	case g.Reign.Master == c.Node && !c.Switchover:
		return fmt.Errorf("%s is the master: hand over first with `smrctl switchover %s`, or let this do it with --switchover", c.Node, g.Name)
	}
	return nil
}

func (g *Group) checkReplacement(c *BeginChange) error {
	known := g.Replica(c.By.Node)
	switch {
	case c.By.Node == c.Node:
		return fmt.Errorf("%s cannot take its own place: a replica that lost its disk comes back by itself under its name", c.Node)
	case known == nil:
		return g.checkAdd(c.By)
	case known.ManageAddr != c.By.ManageAddr:
		return fmt.Errorf("the name %s is in use by the replica at %s: choose another name", c.By.Node, known.ManageAddr)
	case known.Drained:
		return fmt.Errorf("%s is drained: undo that first with `smrctl replica drain %s %s --undo`", c.By.Node, g.Name, c.By.Node)
	}
	return nil
}

func (a *applying) addReplica(c *AddReplica) error {
	g := a.group
	for _, err := range []error{g.checkVersion(c.Version), g.checkIdle(), g.checkAdd(&c.Replica)} {
		if err != nil {
			return err
		}
	}
	g.register(c.Replica)
	g.Removed = slices.DeleteFunc(g.Removed, func(m smr.Member) bool { return m.Node == c.Replica.Node })
	g.Version++
	a.noteChange(fmt.Sprintf("%s was added, at %s: it becomes a member when it has caught up", c.Replica.Node, c.Replica.ManageAddr))
	return nil
}

// register puts a replica into the registry, in order, or in place of the one with its name.
func (g *Group) register(r Replica) {
	i := sort.Search(len(g.Replicas), func(i int) bool { return g.Replicas[i].Node >= r.Node })
	if i == len(g.Replicas) || g.Replicas[i].Node != r.Node {
		g.Replicas = slices.Insert(g.Replicas, i, r)
	}
	g.Replicas[i] = r
}

func (g *Group) unregister(node smr.NodeID) {
	g.Replicas = slices.DeleteFunc(g.Replicas, func(r Replica) bool { return r.Node == node })
}

func (a *applying) noteChange(text string) {
	a.log(WorkEntry{Kind: EntryChange, Reason: text, Master: a.group.Reign.Master})
	a.event(Event{Name: EventChange, Text: text})
}

func (a *applying) beginChange(c *BeginChange) error {
	g := a.group
	if err := g.checkVersion(c.Version); err != nil {
		return err
	}
	if err := g.checkBegin(c); err != nil {
		return err
	}
	change := Change{Kind: c.Kind, Node: c.Node, Step: StepLeave, ID: a.NextEntry, StampMillis: a.cmd.StampMillis}
	text := ""
	switch c.Kind {
	case ChangeUndrain:
		g.Replica(c.Node).Drained = false
		change = Change{}
		text = fmt.Sprintf("%s is drained no longer: it becomes a member when it has caught up", c.Node)
	case ChangeReplace:
		if g.Replica(c.By.Node) == nil {
			g.register(*c.By)
		}
		change.New, change.Step = c.By.Node, StepJoin
		text = fmt.Sprintf("replace %s by %s, at %s: first it becomes a member, then %s leaves", c.Node, c.By.Node, c.By.ManageAddr, c.Node)
	default:
		if g.Epoch == 0 {
			g.unregister(c.Node)
			change = Change{}
			text = fmt.Sprintf("%s was removed before the group was founded", c.Node)
			break
		}
		g.Replica(c.Node).Drained = true
		text = change.describe()
	}
	g.Change = change
	g.Version++
	a.noteChange(text)
	return nil
}

// belongs reports whether a node is in a configuration that counts, or leads.
func (g *Group) belongs(node smr.NodeID) bool {
	_, established := g.Established.Find(node)
	_, provisional := g.Provisional.Find(node)
	return established || g.Provisional.Epoch != 0 && provisional || g.Reign.Master == node || g.Election.Target == node ||
		slices.Contains(g.Election.Without, node)
}

func (a *applying) advanceChange(c *AdvanceChange) error {
	g := a.group
	change := &g.Change
	if change.Kind == "" || change.ID != c.ID {
		return fmt.Errorf("overtaken: change %d is over", c.ID)
	}
	switch {
	case c.Step == StepLeave && change.Step == StepJoin:
		if _, ok := g.Established.Find(change.New); !ok {
			return fmt.Errorf("%s is no member yet", change.New)
		}
		g.Replica(change.Node).Drained = true
		change.Step = StepLeave
		a.noteChange(fmt.Sprintf("%s is a member: now %s leaves", change.New, change.Node))
	case c.Step == StepEnd && change.Step == StepLeave:
		if g.belongs(change.Node) && !mutant.On(mutant.LeaveUnwaited) {
			return fmt.Errorf("%s has not left yet", change.Node)
		}
		text := fmt.Sprintf("%s is drained", change.Node)
		if change.Kind != ChangeDrain {
			g.unregister(change.Node)
			g.Removed = append(g.Removed, smr.Member{Node: change.Node, Incarnation: c.Incarnation})
			g.Removed = g.Removed[max(0, len(g.Removed)-MaxRemoved):]
			text = fmt.Sprintf("%s was removed: its processes can be stopped", change.Node)
		}
		*change = Change{}
		a.noteChange(text)
	default:
		return fmt.Errorf("overtaken: change %d stands at %s", c.ID, change.Step)
	}
	g.Version++
	return nil
}

func (a *applying) cancelChange(c *CancelChange) error {
	g := a.group
	if err := g.checkVersion(c.Version); err != nil {
		return err
	}
	if g.Change.Kind == "" {
		return fmt.Errorf("no change of group %s is running", g.Name)
	}
	text := fmt.Sprintf("an operator ended the change: %s; %s stays", g.Change.describe(), g.Change.Node)
	if r := g.Replica(g.Change.Node); r != nil {
		r.Drained = false
	}
	g.Change = Change{}
	g.Version++
	a.noteChange(text)
	return nil
}

func (c *AddReplica) check() error { return c.Replica.check() }

func (c *BeginChange) check() error {
	switch c.Kind {
	case ChangeRemove, ChangeDrain, ChangeUndrain:
		if c.By != nil {
			return fmt.Errorf("%s %s by %s makes no sense", c.Kind, c.Node, c.By.Node)
		}
	case ChangeReplace:
		if c.By == nil {
			return fmt.Errorf("replace %s by whom?", c.Node)
		}
		if err := c.By.check(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown kind of change %q", c.Kind)
	}
	return smr.CheckNodeID(string(c.Node))
}

func (c *AdvanceChange) check() error {
	if c.Step != StepLeave && c.Step != StepEnd {
		return fmt.Errorf("unknown step %q", c.Step)
	}
	return nil
}

// checkChange reports which invariant of a stored change is broken.
func (g *Group) checkChange() error {
	c := &g.Change
	if c.Kind == "" {
		return nil
	}
	if g.Replica(c.Node) == nil || c.Kind == ChangeReplace && g.Replica(c.New) == nil {
		return fmt.Errorf("the change of %s is about a replica that is not registered", c.Node)
	}
	if c.Step != StepJoin && c.Step != StepLeave {
		return fmt.Errorf("the change of %s has step %q", c.Node, c.Step)
	}
	return nil
}

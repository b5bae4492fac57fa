package failover

import (
	"fmt"
	"slices"
	"strings"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

type (
	// ChangeRequest of an operator. Exactly one of the pointers, or Cancel, is set.
	ChangeRequest struct {
		Group   string
		Version uint64 // of the group as the operator saw it; 0: whatever it is
		DryRun  bool   // say what would be done

		Create  *CreateGroup
		Policy  *PolicyChange
		Add     *Replica
		Begin   *BeginChange // Group and Version in it are not read
		Cancel  bool
		Recover *RecoverRequest
		// Settings: Version above is that of the settings then. Group and Version in it are not read.
		Settings *ChangeSettings
	}
	// PolicyChange names what is to change; 0 and nil stand for what is.
	PolicyChange struct {
		Copies, MinCopies         int
		Sync                      *smr.SyncMode
		SlowBytes                 *smr.LSN
		SlowMillis, SlowForMillis *int
	}
	// JoinRequest of a replica that wants to be registered.
	JoinRequest struct {
		Group       string
		Replica     Replica
		Incarnation smr.Incarnation
	}
)

// assessment of a change: the command that would carry it out, or why not.
type assessment struct {
	cmd           Command
	checks, steps []string
	recovery      *Recovery
	why           string
	stale         bool
}

func (a *assessment) refuse(err error) {
	if a.why == "" && err != nil {
		a.why = err.Error()
	}
}

func (a *assessment) check(format string, args ...any) {
	a.checks = append(a.checks, clip(fmt.Sprintf(format, args...)))
}

func (a *assessment) step(format string, args ...any) {
	a.steps = append(a.steps, clip(fmt.Sprintf(format, args...)))
}

// requestChange carries a change out, or says what it would do.
func (d *Driver) requestChange(q *request, c *ChangeRequest, out *Effects) {
	q.group = c.Group
	g := d.state.Group(c.Group)
	if g == nil && c.Create == nil {
		q.reply(out, Reply{Text: d.unknownGroup(c.Group)})
		return
	}
	a := d.assess(g, c)
	reply := Reply{Checks: a.checks, Steps: a.steps, Recovery: a.recovery, Stale: a.stale}
	if g != nil {
		reply.Epoch, reply.Version = g.Epoch, g.Version
		if q.settings = c.Settings != nil; q.settings {
			reply.Version = g.Settings.Version
		}
	}
	if a.why == "" {
		a.refuse(a.cmd.Check())
	}
	switch {
	case a.why != "":
		reply.Text, reply.Steps = a.why, nil
		q.reply(out, reply)
	case c.DryRun:
		reply.Done, reply.Text = true, "nothing was changed"
		q.reply(out, reply)
	default:
		q.answer, q.change = reply, true
		q.command = d.send(a.cmd, out)
		d.requests = append(d.requests, q)
	}
}

func (d *Driver) unknownGroup(name string) string {
	known := make([]string, 0, len(d.state.Groups))
	for i := range d.state.Groups {
		known = append(known, d.state.Groups[i].Name)
	}
	return fmt.Sprintf("group %q is not known: there are [%s]", name, strings.Join(known, " "))
}

// assess looks at everything that can be looked at before a change.
func (d *Driver) assess(g *Group, c *ChangeRequest) *assessment {
	a := &assessment{}
	if c.Create != nil {
		a.cmd = Command{CreateGroup: c.Create}
		a.step("register group %s: %s, %d replicas", c.Create.Name, c.Create.Policy.describe(), len(c.Create.Replicas))
		a.step("found it when %d blank replicas are there, and elect its first master", max(c.Create.Policy.Copies, len(c.Create.Replicas)))
		return a
	}
	if c.Settings != nil {
		d.assessSettings(a, g, c)
		return a
	}
	if err := g.checkVersion(c.Version); err != nil {
		a.stale = true
		a.refuse(err)
		return a
	}
	switch {
	case c.Policy != nil:
		d.assessPolicy(a, g, c.Policy)
	case c.Add != nil:
		a.cmd = Command{AddReplica: &AddReplica{Group: g.Name, Version: c.Version, Replica: *c.Add}}
		a.refuse(g.checkIdle())
		a.refuse(g.checkAdd(c.Add))
		if a.why == "" {
			a.check("the name %s and its addresses are free: %d of %d replicas are registered", c.Add.Node, len(g.Replicas), MaxReplicas)
		}
		d.stepsToJoin(a, g, c.Add.Node)
	case c.Begin != nil:
		d.assessBegin(a, g, c.Begin)
	case c.Cancel:
		a.cmd = Command{CancelChange: &CancelChange{Group: g.Name, Version: g.Version}}
		if g.Change.Kind == "" {
			a.refuse(fmt.Errorf("no change of group %s is running", g.Name))
			break
		}
		a.step("end where it stands: %s", g.Change.describe())
	case c.Recover != nil:
		d.assessRecovery(a, g, c)
	default:
		a.refuse(fmt.Errorf("a change of nothing"))
	}
	return a
}

func (d *Driver) assessPolicy(a *assessment, g *Group, c *PolicyChange) {
	p := g.Policy
	if c.Copies != 0 {
		p.Copies = c.Copies
	}
	if c.MinCopies != 0 {
		p.MinCopies = c.MinCopies
	}
	for _, field := range []struct{ to, from *int }{{&p.SlowMillis, c.SlowMillis}, {&p.SlowForMillis, c.SlowForMillis}} {
		if field.from != nil {
			*field.to = *field.from
		}
	}
	if c.Sync != nil {
		p.Sync = *c.Sync
	}
	if c.SlowBytes != nil {
		p.SlowBytes = *c.SlowBytes
	}
	a.cmd = Command{SetPolicy: &SetPolicy{Group: g.Name, Policy: p, Version: g.Version}}
	a.refuse(p.check())
	a.refuse(g.checkPolicy(p))
	a.check("now: %s", g.Policy.describe())
	a.step("set the policy: %s", p.describe())
	current := g.Current()
	if current.Epoch == 0 || current.Copies == p.Copies {
		return
	}
	master := d.replica(g.Name, g.Reign.Master)
	if master == nil {
		a.step("its first master will be elected with %d copies, which then become %d", current.Copies, p.Copies)
		return
	}
	present := d.presence(g, master, current.Members)
	a.check("%d members of epoch %d are there", present, current.Epoch)
	if p.Copies <= present {
		a.step("give out an epoch with %d copies in place of %d; the master goes on meanwhile (S8)", p.Copies, current.Copies)
	} else {
		a.step("raise copies to %d as soon as that many members are there", p.Copies)
	}
}

func (d *Driver) stepsToJoin(a *assessment, g *Group, node smr.NodeID) {
	a.step("register %s", node)
	a.step("it fetches an image from a peer if the log of the master begins above its own, then the log, as a learner")
	a.step("admit it when it is within %d bytes of the master's commit (S8)", d.o.AdmitDistance)
}

func (d *Driver) assessBegin(a *assessment, g *Group, asked *BeginChange) {
	c := *asked
	c.Group, c.Version = g.Name, g.Version
	a.cmd = Command{BeginChange: &c}
	if err := g.checkBegin(&c); err != nil {
		a.refuse(err)
		return
	}
	if g.Epoch == 0 {
		a.step("remove %s from the registry: the group is not founded", c.Node)
		return
	}
	if c.Kind == ChangeUndrain {
		a.step("admit %s when it has caught up (S8)", c.Node)
		return
	}
	master := d.replica(g.Name, g.Reign.Master)
	current := g.Current()
	rest := smr.Config{}
	for _, m := range current.Members {
		if m.Node != c.Node {
			rest.Members = append(rest.Members, m)
		}
	}
	present := d.presence(g, master, rest.Members)
	_, member := current.Find(c.Node)
	switch {
	case c.Kind == ChangeReplace:
		if g.Replica(c.By.Node) == nil {
			d.stepsToJoin(a, g, c.By.Node)
		} else {
			a.step("wait until %s is a member", c.By.Node)
		}
		a.check("copies stay at %d meanwhile: %s leaves only when %s is a member", current.Copies, c.Node, c.By.Node)
	case member:
		a.check("without %s, %d members are there for %d copies", c.Node, present, current.Copies)
		if present < current.Copies {
			a.refuse(fmt.Errorf("without %s only %d of %d copies would be there (%s): wait for the others, add a replica, or use `smrctl replica replace`",
				c.Node, present, current.Copies, d.describeAbsent(g, master, rest)))
		}
	default:
		a.check("%s is no member now", c.Node)
	}
	if c.Node == g.Reign.Master {
		a.step("hand mastership over to another member")
	}
	a.step("give out an epoch without %s (S8)", c.Node)
	if c.Kind == ChangeDrain {
		a.step("%s follows as a learner until it is undrained", c.Node)
	} else {
		a.step("remove %s from the registry", c.Node)
	}
}

func (d *Driver) describeAbsent(g *Group, master *replica, config smr.Config) string {
	var absent []string
	for _, m := range config.Members {
		if m.Node == master.node || d.streams(g, master, m) {
			continue
		}
		why := "does not stream"
		if r := d.replica(g.Name, m.Node); !d.up(r) {
			why = d.complaint(r)
		}
		absent = append(absent, fmt.Sprintf("%s: %s", m.Node, why))
	}
	if len(absent) == 0 {
		return "there are no others"
	}
	return strings.Join(absent, ", ")
}

func (d *Driver) assessRecovery(a *assessment, g *Group, c *ChangeRequest) {
	recovery, leader, checks, why := d.survey(g)
	recovery.Text = clip(recovery.describeLoss())
	a.checks, a.why, a.recovery = checks, why, &recovery
	if why != "" {
		return
	}
	if recovery.Seen > recovery.From {
		a.check("at least LSNs %d to %d were seen and are not kept; what was acknowledged after the lost replicas were last seen is not known", recovery.From, recovery.Seen)
	} else {
		a.check("nothing was seen that is not kept; what was acknowledged after the lost replicas were last seen is not known")
	}
	a.check("the lost replicas must not be running: one that runs where the configuration masters do not reach it may go on acknowledging")
	a.step("put a configuration of %s on record as epoch %d, established by force", names(recovery.Kept), g.Epoch+1)
	a.step("elect among them in epoch %d, which needs the answer of every one: %s would lead", g.Epoch+2, leader)
	if len(recovery.Outcasts) > 0 {
		a.step("never let %s come back with what is on disk there now", names(recovery.Outcasts))
	}
	var witnesses []Witness
	for _, m := range recovery.Outcasts {
		if r := d.replica(g.Name, m.Node); r != nil {
			witnesses = append(witnesses, d.witnesses(r)...)
		}
	}
	a.cmd = Command{Recover: &Recover{Group: g.Name, Version: g.Version, Expect: g.Epoch, Recovery: recovery,
		Witnesses: witnesses[:min(len(witnesses), MaxWitnesses)]}}
	if c.DryRun {
		return
	}
	switch {
	case !c.Recover.AcceptLoss:
		a.why = "this loses what only the others hold: say --accept-loss"
	case c.Recover.Confirm != g.Name:
		a.why = fmt.Sprintf("%q is not the name of the group, %s: nothing was changed", c.Recover.Confirm, g.Name)
	}
}

// requestJoin registers the replica that asks for it. That it is the one that is registered is told by its management
// address, or by the incarnation in its log.
func (d *Driver) requestJoin(q *request, j *JoinRequest, out *Effects) {
	q.group = j.Group
	g := d.state.Group(j.Group)
	if g == nil {
		q.reply(out, Reply{Text: d.unknownGroup(j.Group)})
		return
	}
	cmd := Command{AddReplica: &AddReplica{Group: g.Name, Replica: j.Replica}}
	for i := range g.Replicas {
		if other := &g.Replicas[i]; other.Node != j.Replica.Node && (other.ManageAddr == j.Replica.ManageAddr || other.DataAddr == j.Replica.DataAddr) {
			q.reply(out, Reply{Taken: true, Epoch: g.Epoch, Text: fmt.Sprintf("%s has the address of replica %s: every replica needs its own", j.Replica.Node, other.Node)})
			return
		}
	}
	if known := g.Replica(j.Replica.Node); known != nil {
		r := d.replica(g.Name, j.Replica.Node)
		self := smr.Member{Node: j.Replica.Node, Incarnation: j.Incarnation}
		same := known.ManageAddr == j.Replica.ManageAddr ||
			j.Incarnation != 0 && (g.Current().Has(self) || r.seen && r.view.Incarnation == j.Incarnation)
		if !same {
			q.reply(out, Reply{Taken: true, Epoch: g.Epoch, Version: g.Version,
				Text: fmt.Sprintf("the name %s is in use by the replica at %s: start this one with another --node, or remove that one first", known.Node, known.ManageAddr)})
			return
		}
		if known.ManageAddr == j.Replica.ManageAddr && known.DataAddr == j.Replica.DataAddr {
			q.reply(out, Reply{Done: true, Epoch: g.Epoch, Version: g.Version, Text: fmt.Sprintf("%s is registered", known.Node)})
			return
		}
		if j.Replica.KVAddr == "" {
			j.Replica.KVAddr = known.KVAddr
		}
		cmd = Command{SetReplica: &SetReplica{Group: g.Name, Replica: j.Replica, Known: true}}
	}
	if j.Incarnation != 0 && hasMember(g.Removed, smr.Member{Node: j.Replica.Node, Incarnation: j.Incarnation}) {
		q.reply(out, Reply{Taken: true, Epoch: g.Epoch, Version: g.Version,
			Text: fmt.Sprintf("%s was removed from group %s: add it again with `smrctl replica add`, or give it an empty directory", j.Replica.Node, g.Name)})
		return
	}
	if err := cmd.Check(); err != nil {
		q.reply(out, Reply{Text: err.Error()})
		return
	}
	q.change, q.command = true, d.send(cmd, out)
	d.requests = append(d.requests, q)
}

// advanceChange takes the change of a group that runs to its next step, when it is time.
func (d *Driver) advanceChange(g *Group, p *plan, out *Effects) {
	c := &g.Change
	if c.Kind == "" || g.Provisional.Epoch != 0 {
		return
	}
	next := StepEnd
	switch c.Step {
	case StepJoin:
		if _, ok := g.Established.Find(c.New); !ok {
			return
		}
		next = StepLeave
	case StepLeave:
		if g.belongs(c.Node) && !mutant.On(mutant.LeaveUnwaited) {
			return
		}
	}
	advance := &AdvanceChange{Group: g.Name, ID: c.ID, Step: next}
	if r := d.replica(g.Name, c.Node); next == StepEnd && r != nil {
		advance.Incarnation = r.view.Incarnation
	}
	d.propose(p, Command{AdvanceChange: advance}, out)
}

// drained reports whether an operator does not want a replica as a member.
func (g *Group) drained(node smr.NodeID) bool {
	r := g.Replica(node)
	return r != nil && r.Drained
}

// release leaves out members that are drained, as long as Copies of the others are there.
func (d *Driver) release(g *Group, master *replica, current smr.Config) (BeginReconfigure, bool) {
	leaving := func(m smr.Member) bool { return m.Node != master.node && g.drained(m.Node) }
	if !slices.ContainsFunc(current.Members, leaving) {
		return BeginReconfigure{}, false
	}
	kept := make([]smr.Member, 0, len(current.Members))
	released := make([]string, 0, len(current.Members))
	for _, m := range current.Members {
		if leaving(m) {
			released = append(released, string(m.Node))
		} else {
			kept = append(kept, m)
		}
	}
	if d.presence(g, master, kept) < current.Copies {
		return BeginReconfigure{}, false
	}
	return BeginReconfigure{Kind: EntryDrop, Copies: current.Copies, Members: kept,
		Reason: fmt.Sprintf("%s leaves the membership, as an operator wants", strings.Join(released, ", "))}, true
}

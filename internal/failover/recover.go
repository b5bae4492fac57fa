package failover

import (
	"fmt"
	"sort"
	"strings"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// Forced recovery. Too few members of the last established configuration are left for an election (S4), and an operator
// accepts that what only the others hold is lost.
//
// The kept replicas become the established configuration, of an epoch that nobody leads, with one copy: so the election
// that follows needs the answer of every one of them, and the highest Position among all that is left leads. What any of
// them ever executed lies below that: in the epoch of its last byte, or in the log with which the master of a later epoch
// began. The chosen configuration has the copies of the policy again, as far as there are members.
//
// The others are outcasts from then on, by name and incarnation: they may hold bytes above the point at which the group goes
// on, acknowledged and executed, so that cutting their logs would not bring their KV nodes back. They are fenced when they
// are met, never told to follow, never counted and never admitted. Their disks are evidence until an operator sets them aside;
// then they come back as new incarnations.

// RecoverRequest of an operator.
type RecoverRequest struct {
	Confirm    string // the group's name, typed
	AcceptLoss bool
}

// lastRecovery returns the newest forced recovery, nil if there was none.
func (g *Group) lastRecovery() *Recovery {
	if len(g.Recoveries) == 0 {
		return nil
	}
	return &g.Recoveries[len(g.Recoveries)-1]
}

func hasMember(members []smr.Member, m smr.Member) bool {
	for _, other := range members {
		if other == m {
			return true
		}
	}
	return false
}

// Outcast returns the epoch of the forced recovery that left a replica out, 0 if none did.
func (g *Group) Outcast(m smr.Member) smr.Epoch {
	for i := range g.Recoveries {
		if hasMember(g.Recoveries[i].Outcasts, m) {
			return g.Recoveries[i].Epoch
		}
	}
	return 0
}

// outcast returns the epoch of the forced recovery that left r out, 0 if none did. One that nobody knew at that time is
// told by its promise: what joined later has learned a later epoch.
func (d *Driver) outcast(g *Group, r *replica) smr.Epoch {
	last := g.lastRecovery()
	if last == nil || r == nil || !r.seen || mutant.On(mutant.OutcastFollows) {
		return 0
	}
	m := smr.Member{Node: r.node, Incarnation: r.view.Incarnation}
	if epoch := g.Outcast(m); epoch != 0 {
		return epoch
	}
	if !r.view.Blank && r.view.Promise < last.Epoch && !hasMember(last.Kept, m) {
		return last.Epoch
	}
	return 0
}

// mayFence reports whether a replica may be fenced. One that was never seen might be an outcast that is only told by its
// promise, which a fence would raise.
func (d *Driver) mayFence(g *Group, node smr.NodeID) bool {
	last := g.lastRecovery()
	if last == nil {
		return true
	}
	r := d.replica(g.Name, node)
	if _, member := g.Established.Find(node); member {
		return true
	}
	m := smr.Member{Node: node, Incarnation: r.view.Incarnation}
	return r.seen && (g.Outcast(m) != 0 || d.outcast(g, r) == 0)
}

// survey returns what a forced recovery of the group would keep and lose now, or why there must be none.
func (d *Driver) survey(g *Group) (recovery Recovery, leader smr.NodeID, checks []string, why string) {
	if g.Reign.Epoch == 0 {
		return recovery, "", nil, fmt.Sprintf("group %s has never had a master: nothing can be lost and nothing recovered", g.Name)
	}
	if len(g.Recoveries) >= MaxRecoveries {
		return recovery, "", nil, fmt.Sprintf("group %s was recovered by force %d times: no more are possible", g.Name, len(g.Recoveries))
	}
	var best smr.Position
	var durable, commit smr.LSN // of the one at best; of any
	left := 0
	for i := range g.Replicas {
		node := g.Replicas[i].Node
		r := d.replica(g.Name, node)
		m := smr.Member{Node: node, Incarnation: r.view.Incarnation}
		if r.seen {
			recovery.Seen = max(recovery.Seen, r.view.End, r.view.Commit)
		}
		if problem := d.unkept(g, r); problem != "" {
			checks = append(checks, fmt.Sprintf("%s is lost: %s%s", node, problem, d.lastKnown(r)))
			if r.seen && r.view.Incarnation != 0 {
				recovery.Outcasts = append(recovery.Outcasts, m)
			}
			continue
		}
		position := smr.Position{Epoch: r.view.PositionEpoch, End: r.view.End}
		checks = append(checks, fmt.Sprintf("%s is there: its log ends at %d in epoch %d, commit %d", node, position.End, position.Epoch, r.view.Commit))
		recovery.Kept = append(recovery.Kept, m)
		if g.Established.Has(m) {
			left++
		}
		if leader == "" || position.Compare(best) > 0 {
			best, leader, durable = position, node, min(r.view.Durable, r.view.End)
		}
		commit = max(commit, min(r.view.Commit, r.view.Durable))
	}
	// A log with a byte of the last reign is what that reign's master wrote. One without may have a tail that came to nothing, in
	// place of which others have committed bytes: only what is known there as committed is sure.
	recovery.From = durable
	if best.Epoch < g.Reign.Epoch {
		recovery.From = min(commit, durable)
	}
	recovery.Seen = max(recovery.Seen, best.End)
	d.outcasts(g, &recovery)
	switch {
	case len(recovery.Kept) == 0:
		why = "no replica with a log is left: start one that has it, or restore a backup"
	case left >= g.AnswersNeeded():
		why = fmt.Sprintf("%d of the %d members of epoch %d are there, and %d are enough to elect a master without any loss: nothing needs to be forced. "+
			"If writes wait for copies, lower them: `smrctl group set %s --copies N --min-copies M`", left, len(g.Established.Members), g.Established.Epoch, g.AnswersNeeded(), g.Name)
	}
	return recovery, leader, checks, why
}

// unkept returns why a replica cannot be kept, "" if it can.
func (d *Driver) unkept(g *Group, r *replica) string {
	switch {
	case !d.up(r) || !r.seen:
		return d.complaint(r)
	case r.view.Stopped:
		return "its log contradicts its master"
	case d.outcast(g, r) != 0:
		return fmt.Sprintf("it was left out by the forced recovery of epoch %d", d.outcast(g, r))
	case r.view.Blank || r.view.Incarnation == 0 || r.view.End == 0:
		return "it has no log"
	case r.view.NeedImage:
		return "it has no whole log: it needs an image"
	}
	return ""
}

// lastKnown says what was seen of a lost replica.
func (d *Driver) lastKnown(r *replica) string {
	if !r.seen {
		return "; what it held is not known"
	}
	return fmt.Sprintf("; last seen %.1f s ago: its log ended at %d in epoch %d, commit %d",
		float64(d.silence(r))*TickMillis/1000, r.view.End, r.view.PositionEpoch, r.view.Commit)
}

// outcasts adds the lost members that this confmaster has not seen, sorts, and notes since when they are gone.
func (d *Driver) outcasts(g *Group, recovery *Recovery) {
	for _, config := range []smr.Config{g.Established, g.Provisional} {
		for _, m := range config.Members {
			if hasMember(recovery.Kept, m) {
				continue
			}
			if !hasMember(recovery.Outcasts, m) {
				recovery.Outcasts = append(recovery.Outcasts, m)
			}
			if r := d.replica(g.Name, m.Node); r != nil && r.seen {
				recovery.SinceMillis = max(recovery.SinceMillis, d.stamp-int64(d.silence(r))*TickMillis)
			}
		}
	}
	sort.Slice(recovery.Outcasts, func(i, j int) bool {
		x, y := recovery.Outcasts[i], recovery.Outcasts[j]
		return x.Node < y.Node || x.Node == y.Node && x.Incarnation < y.Incarnation
	})
}

// describeLoss puts in one sentence what may be gone.
func (r *Recovery) describeLoss() string {
	text := fmt.Sprintf("recovered by force with %s, without %s: acknowledged writes from LSN %d on may be lost", names(r.Kept), names(r.Outcasts), r.From)
	if r.Seen > r.From {
		text += fmt.Sprintf(" (logs were seen up to %d)", r.Seen)
	}
	return text
}

func names(members []smr.Member) string {
	if len(members) == 0 {
		return "nobody"
	}
	list := make([]string, 0, len(members))
	for _, m := range members {
		list = append(list, string(m.Node))
	}
	return strings.Join(list, ", ")
}

// recover applies a forced recovery.
func (a *applying) recover(c *Recover) error {
	g := a.group
	if err := g.checkVersion(c.Version); err != nil {
		return err
	}
	kept := c.Recovery.Kept
	switch {
	case g.Reign.Epoch == 0:
		return fmt.Errorf("the group has never had a master")
	case c.Expect != g.Epoch:
		return fmt.Errorf("%w: epoch %d was the highest, now it is %d: look at it again", errVersion, c.Expect, g.Epoch)
	case len(g.Recoveries) >= MaxRecoveries:
		return fmt.Errorf("%d forced recoveries: no more are possible", len(g.Recoveries))
	case len(kept) == 0:
		return fmt.Errorf("nobody would be kept")
	}
	for _, m := range kept {
		if g.Replica(m.Node) == nil {
			return fmt.Errorf("%s, which is to be kept, is not registered", m.Node)
		}
		if epoch := g.Outcast(m); epoch != 0 {
			return fmt.Errorf("%s was left out by the forced recovery of epoch %d", m.Node, epoch)
		}
	}
	forced := smr.Config{Epoch: g.Epoch + 1, Reign: g.Epoch + 1, Master: kept[0].Node, Copies: 1, Members: append([]smr.Member(nil), kept...)}
	if err := forced.Check(); err != nil {
		return err
	}
	recovery := c.Recovery
	recovery.Epoch, recovery.StampMillis, recovery.Master = forced.Epoch, a.cmd.StampMillis, g.Established.Master
	if last := g.lastRecovery(); last != nil && last.Epoch == g.Established.Epoch {
		recovery.Master = last.Master
	}
	recovery.Text = clip(recovery.describeLoss())
	g.Epoch += 2
	g.Established, g.Provisional = forced, smr.Config{}
	g.Election = Election{Epoch: g.Epoch, Kind: ElectionForced, Reason: recovery.Text}
	g.Recoveries = append(g.Recoveries, recovery)
	if g.Change.Kind != "" {
		recovery.Text += "; the change that was running was ended: " + g.Change.describe()
		g.Change = Change{}
	}
	g.Version++
	a.log(WorkEntry{Kind: EntryRecovered, Reason: recovery.Text, Witnesses: c.Witnesses, Master: g.Reign.Master})
	a.event(Event{Name: EventRecovered, Node: g.Reign.Master, Text: recovery.Text})
	return nil
}

// chosenCopies returns the copies of a configuration whose master was just chosen: as before, or the policy's after a
// forced recovery, whose own configuration has one only so that everybody must answer.
func (g *Group) chosenCopies() int {
	if last := g.lastRecovery(); last != nil && last.Epoch == g.Established.Epoch {
		return min(g.Policy.Copies, len(g.Established.Members))
	}
	return g.Established.Copies
}

func (c *Recover) check() error {
	r := &c.Recovery
	if len(r.Kept) > MaxReplicas || len(r.Outcasts) > 4*MaxReplicas {
		return fmt.Errorf("%d kept and %d left out: too many", len(r.Kept), len(r.Outcasts))
	}
	return checkEvidence(r.Text, c.Witnesses)
}

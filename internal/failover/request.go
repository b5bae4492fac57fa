package failover

import (
	"fmt"

	"lockstep/smr"
)

const (
	// switchoverTries is how often a switch-over is begun for one request.
	switchoverTries = 2
	// targetPatienceTicks is how long a request waits for its target to be fit.
	targetPatienceTicks = 300
)

// request of an operator that is being carried out.
type request struct {
	id      uint64
	group   string
	began   uint64 // tick
	command uint64 // the proposal that decides it

	switchover bool
	to         smr.NodeID // as asked, "" for any
	from       smr.NodeID // who led when it was asked
	target     smr.NodeID // of the try that is running
	epoch      smr.Epoch  // election that the try began, 0 if none has been begun
	tries      int
	answered   bool

	change   bool  // of a group, or of a replica that joins
	settings bool  // of a group's settings
	answer   Reply // what it gets once it is committed
}

func (q *request) reply(out *Effects, r Reply) {
	q.answered = true
	r.ID = q.id
	r.Text = clip(r.Text)
	out.Replies = append(out.Replies, r)
}

func (d *Driver) request(in *Request, out *Effects) {
	q := &request{id: in.ID, began: d.ticks}
	cmd := Command{CreateGroup: in.CreateGroup, SetPolicy: in.SetPolicy, SetReplica: in.SetReplica, ShareSettings: in.Share}
	switch {
	case !d.leading:
		q.reply(out, Reply{Text: "this confmaster does not lead"})
	case len(d.requests) >= 256:
		q.reply(out, Reply{Text: "too many requests wait"})
	case in.Switchover != nil:
		d.requestSwitchover(q, in.Switchover, out)
	case in.Change != nil:
		d.requestChange(q, in.Change, out)
	case in.Join != nil:
		d.requestJoin(q, in.Join, out)
	case in.Raise != nil:
		d.requestRaise(q, in.Raise, out)
	default:
		if err := cmd.Check(); err != nil {
			q.reply(out, Reply{Text: err.Error()})
			return
		}
		q.group = cmd.Group()
		q.command = d.send(cmd, out)
		d.requests = append(d.requests, q)
	}
}

// requestSwitchover refuses at once what cannot succeed; the rest is up to advanceSwitchover.
func (d *Driver) requestSwitchover(q *request, s *Switchover, out *Effects) {
	q.group, q.to, q.switchover = s.Group, s.To, true
	g := d.state.Group(s.Group)
	switch {
	case g == nil:
		q.reply(out, Reply{Text: fmt.Sprintf("group %q is not known", s.Group)})
		return
	case g.Reign.Epoch == 0:
		q.reply(out, Reply{Text: fmt.Sprintf("group %q has no master yet", s.Group), Epoch: g.Epoch})
		return
	case s.To != "" && g.Replica(s.To) == nil:
		q.reply(out, Reply{Text: fmt.Sprintf("%s is no replica of group %q", s.To, s.Group), Epoch: g.Epoch})
		return
	case s.To != "" && !d.up(d.replica(g.Name, s.To)):
		q.reply(out, Reply{Text: fmt.Sprintf("%s is down: %s", s.To, d.complaint(d.replica(g.Name, s.To))), Epoch: g.Epoch})
		return
	case d.switchoverOf(g.Name) != nil:
		q.reply(out, Reply{Text: fmt.Sprintf("a switch-over of group %q is running", s.Group), Epoch: g.Epoch})
		return
	}
	q.from = g.Reign.Master
	d.requests = append(d.requests, q)
}

func (d *Driver) switchoverOf(group string) *request {
	for _, q := range d.requests {
		if q.switchover && q.group == group && !q.answered {
			return q
		}
	}
	return nil
}

// requestCommitted answers the request whose command was committed.
func (d *Driver) requestCommitted(result *Result, out *Effects) {
	for _, q := range d.requests {
		if q.switchover || q.answered || result.Confmaster != d.o.Self || result.ID != q.command {
			continue
		}
		reply := q.answer
		reply.Done, reply.Stale, reply.Epoch, reply.Text = result.Applied, result.Stale, result.Epoch, "done"
		if g := d.state.Group(result.Group); g != nil {
			reply.Version = g.Version
			if q.settings {
				reply.Version = g.Settings.Version
			}
		}
		switch {
		case !result.Applied:
			reply.Text = result.Reason
		case result.Entry != nil && q.change:
			reply.Text = result.Entry.Reason
		}
		q.reply(out, reply)
	}
}

// advanceRequests carries on the switch-over of a group, if one is asked for, and forgets what was answered.
func (d *Driver) advanceRequests(g *Group, p *plan, out *Effects) {
	if q := d.switchoverOf(g.Name); q != nil {
		d.advanceSwitchover(g, p, q, out)
		if q.answered {
			last := out.Replies[len(out.Replies)-1]
			out.Events = append(out.Events, Event{StampMillis: d.stamp, Group: g.Name, Name: EventSwitchoverEnded,
				Node: g.Reign.Master, Epoch: g.Epoch, Text: last.Text})
		}
	}
}

// expireRequests answers commands that raft did not commit in time, and forgets answered requests.
func (d *Driver) expireRequests(out *Effects) {
	kept := d.requests[:0]
	for _, q := range d.requests {
		if !q.switchover && !q.answered && d.ticks-q.began >= uint64(3*d.o.ProposeTicks) {
			q.reply(out, Reply{Unsure: true, Text: "raft has not committed it: too few confmasters; it may yet be done"})
		}
		if !q.answered {
			kept = append(kept, q)
		}
	}
	clear(d.requests[len(kept):])
	d.requests = kept
}

func (d *Driver) advanceSwitchover(g *Group, p *plan, q *request, out *Effects) {
	if d.ticks-q.began >= uint64(d.o.SwitchTicks) {
		q.reply(out, Reply{Epoch: g.Epoch, Text: fmt.Sprintf("given up after %d ms: %s", d.o.SwitchTicks*TickMillis, d.Report(g.Name).Detail)})
		return
	}
	if q.epoch > g.Epoch && p.proposed.id != q.command {
		q.epoch = 0 // the proposal was lost
		q.tries--
	}
	if q.epoch != 0 {
		if g.Election.Epoch != 0 || g.Established.Epoch < q.epoch {
			return // it is running
		}
		if g.Established.Master != q.target && q.tries >= switchoverTries {
			q.reply(out, Reply{Epoch: g.Epoch, Text: fmt.Sprintf("%s leads since epoch %d: it had bytes that %s had not, %d times",
				g.Established.Master, g.Established.Epoch, q.target, q.tries)})
			return
		}
		q.epoch = 0
	}
	if q.to != "" && g.Established.Master == q.to || q.to == "" && g.Established.Master != q.from {
		q.reply(out, Reply{Done: true, Epoch: g.Epoch, Text: fmt.Sprintf("%s leads since epoch %d", g.Established.Master, g.Established.Reign)})
		return
	}
	if g.Election.Epoch != 0 || g.Provisional.Epoch != 0 {
		return // something else first
	}
	why := d.beginSwitchover(g, p, q, out)
	if why != "" && d.ticks-q.began >= targetPatienceTicks {
		q.reply(out, Reply{Epoch: g.Epoch, Text: why})
	}
}

// beginSwitchover begins a try if there is a fit target; otherwise it returns why not.
func (d *Driver) beginSwitchover(g *Group, p *plan, q *request, out *Effects) string {
	master := d.replica(g.Name, g.Reign.Master)
	if !d.fresh(p, master) || !d.leads(g, master) {
		return fmt.Sprintf("master %s does not say how far it is", g.Reign.Master)
	}
	target, why := q.to, ""
	if target == "" {
		target, why = d.bestTarget(g, master)
	} else {
		why = d.unfit(g, master, target)
	}
	if why != "" {
		return why
	}
	if missing := d.tooFew(g); missing != "" { // the group would stand still with a master that works
		return "the election could not be finished: " + missing
	}
	cmd := Command{BeginElection: &BeginElection{Group: g.Name, Expect: g.Epoch, Kind: ElectionSwitchover, Target: target,
		Reason: fmt.Sprintf("an operator asked for %s to lead in place of %s", target, master.node)}}
	if d.propose(p, cmd, out) {
		q.command, q.target, q.epoch = p.proposed.id, target, g.Epoch+1
		q.tries++
	}
	return ""
}

// unfit returns why node should not be handed mastership now, "" if it may.
func (d *Driver) unfit(g *Group, master *replica, node smr.NodeID) string {
	r := d.replica(g.Name, node)
	if r == nil {
		return fmt.Sprintf("%s is no replica of the group any more", node)
	}
	if !d.up(r) {
		return fmt.Sprintf("%s is down: %s", node, d.complaint(r))
	}
	member, ok := g.Established.Find(node)
	if g.drained(node) {
		return fmt.Sprintf("%s is drained", node)
	}
	if !ok {
		return fmt.Sprintf("%s is no member of the group now", node)
	}
	peer, ok := master.peerOf(member)
	switch {
	case !ok || !peer.Streams:
		return fmt.Sprintf("%s does not stream from %s", node, master.node)
	case peer.Durable+d.o.TargetDistance < master.view.End:
		return fmt.Sprintf("%s is %d bytes behind %s", node, master.view.End-peer.Durable, master.node)
	case !d.attached(g, node):
		return fmt.Sprintf("%s has no KV node", node)
	case r.view.NeedImage:
		return fmt.Sprintf("the KV node of %s needs an image", node)
	}
	return ""
}

// bestTarget returns the fit member that is furthest; of equal ones the preferred, then the first by name. If there is
// none it says why.
func (d *Driver) bestTarget(g *Group, master *replica) (smr.NodeID, string) {
	var best smr.NodeID
	var end smr.LSN
	why := "there is no other member"
	for _, m := range g.Established.Members {
		if m.Node == master.node {
			continue
		}
		if unfit := d.unfit(g, master, m.Node); unfit != "" {
			why = unfit
			continue
		}
		peer, _ := master.peerOf(m)
		if best == "" || peer.Durable > end || peer.Durable == end && g.preference(m.Node) > g.preference(best) {
			best, end = m.Node, peer.Durable
		}
	}
	if best != "" {
		why = ""
	}
	return best, why
}

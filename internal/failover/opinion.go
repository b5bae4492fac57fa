package failover

import (
	"fmt"
	"sort"

	"lockstep/smr"
)

// replica is what this confmaster itself has seen of a registered replica.
type replica struct {
	group string
	node  smr.NodeID
	began uint64 // tick since when it is watched

	seen   bool
	view   ReplicaView
	heard  uint64   // tick of the last view
	step   uint64   // and its step
	broken string   // why its stream broke, "" while it runs
	buried smr.Life // process life that was seen before the present one: it is over

	suspected  bool // own opinion: down
	agreedDown bool // at the leader: a majority thinks so
}

// peer holds the opinions of another confmaster.
type peer struct {
	from     uint64
	tick     uint64
	level    int // highest feature level that it can, 0 is 1
	opinions []Opinion
}

// tracksAll reports whether replicas are those of State.
func (d *Driver) tracksAll() bool {
	count := 0
	for i := range d.state.Groups {
		g := &d.state.Groups[i]
		for j := range g.Replicas {
			if count == len(d.replicas) || d.replicas[count].node != g.Replicas[j].Node || d.replicas[count].group != g.Name {
				return false
			}
			count++
		}
	}
	return count == len(d.replicas)
}

// trackReplicas keeps one replica for each registered one.
func (d *Driver) trackReplicas() {
	tracked := make([]*replica, 0, len(d.replicas)+1)
	for i := range d.state.Groups {
		g := &d.state.Groups[i]
		for j := range g.Replicas {
			r := d.replica(g.Name, g.Replicas[j].Node)
			if r == nil {
				r = &replica{group: g.Name, node: g.Replicas[j].Node, began: d.ticks}
			}
			tracked = append(tracked, r)
		}
	}
	d.replicas = tracked
}

// replica returns what was seen of a registered replica, nil if it is none.
func (d *Driver) replica(group string, node smr.NodeID) *replica {
	i := sort.Search(len(d.replicas), func(i int) bool {
		r := d.replicas[i]
		return r.group > group || r.group == group && r.node >= node
	})
	if i < len(d.replicas) && d.replicas[i].group == group && d.replicas[i].node == node {
		return d.replicas[i]
	}
	return nil
}

func (d *Driver) observed(in *Observed) {
	if r := d.replica(in.Group, in.Node); r != nil {
		if r.seen && r.view.Life != in.View.Life {
			r.buried = r.view.Life
		}
		r.seen, r.view, r.heard, r.step, r.broken = true, in.View, d.ticks, d.steps, ""
	}
}

func (d *Driver) unreachable(in *Unreachable) {
	if r := d.replica(in.Group, in.Node); r != nil {
		r.broken = clip(in.Saw)
		if r.broken == "" {
			r.broken = "unreachable"
		}
	}
}

func (d *Driver) silence(r *replica) uint64 {
	if r.seen {
		return d.ticks - r.heard
	}
	return d.ticks - r.began
}

// opinion returns why this confmaster thinks r is down, "" if it does not; known is false while it cannot say.
func (d *Driver) opinion(r *replica) (why string, known bool) {
	switch {
	case r.broken != "":
		return r.broken, true
	case d.silence(r) >= uint64(d.o.SuspectTicks):
		if !r.seen {
			return "never heard of", true
		}
		return "silent", true
	case !r.seen:
		return "", false
	case r.view.Stopped:
		return "stopped itself: its log contradicts its master", true
	case r.view.LoopIdleMillis >= uint32(d.o.LoopIdleTicks*TickMillis):
		return "its main loop is stuck", true
	case r.view.DiskStuckMillis >= uint32(d.o.DiskStuckTicks*TickMillis):
		return "its disk is stuck", true
	}
	return "", true
}

// Opinions returns what this confmaster thinks of every replica that it can judge, sorted by group and node.
func (d *Driver) Opinions() []Opinion {
	opinions := make([]Opinion, 0, len(d.replicas))
	for _, r := range d.replicas {
		if why, known := d.opinion(r); known {
			opinions = append(opinions, Opinion{Group: r.group, Node: r.node, Up: why == "", SilentMillis: d.silentMillis(r), Saw: why})
		}
	}
	return opinions
}

func (d *Driver) silentMillis(r *replica) uint32 {
	return uint32(min(d.silence(r)*TickMillis, 1<<32-1))
}

func (d *Driver) opinions(in *Opinions) {
	voter := sort.Search(len(d.o.Voters), func(i int) bool { return d.o.Voters[i] >= in.From })
	if !d.leading || in.From == d.o.Self || voter == len(d.o.Voters) || d.o.Voters[voter] != in.From {
		return
	}
	i := sort.Search(len(d.peers), func(i int) bool { return d.peers[i].from >= in.From })
	if i == len(d.peers) || d.peers[i].from != in.From {
		d.peers = append(d.peers, peer{})
		copy(d.peers[i+1:], d.peers[i:])
	}
	kept := in.Opinions[:min(len(in.Opinions), MaxGroups*MaxReplicas)]
	d.peers[i] = peer{from: in.From, tick: d.ticks, level: in.Level, opinions: append([]Opinion(nil), kept...)}
}

// eachOpinion calls do with every fresh opinion on r, the own one first; why is "" if r is thought up.
func (d *Driver) eachOpinion(r *replica, do func(from uint64, why string, silentMillis uint32)) {
	if why, known := d.opinion(r); known {
		do(d.o.Self, why, d.silentMillis(r))
	}
	for i := range d.peers {
		p := &d.peers[i]
		if d.ticks-p.tick >= uint64(d.o.OpinionTicks) {
			continue
		}
		for j := range p.opinions {
			o := &p.opinions[j]
			if o.Group != r.group || o.Node != r.node {
				continue
			}
			switch {
			case o.Up:
				do(p.from, "", o.SilentMillis)
			case o.Saw == "":
				do(p.from, "down", o.SilentMillis)
			default:
				do(p.from, o.Saw, o.SilentMillis)
			}
			break
		}
	}
}

// downs counts the confmasters that think r is down.
func (d *Driver) downs(r *replica) int {
	down := 0
	d.eachOpinion(r, func(_ uint64, why string, _ uint32) {
		if why != "" {
			down++
		}
	})
	return down
}

// witnesses returns what every confmaster with a fresh opinion saw of r, sorted by confmaster.
func (d *Driver) witnesses(r *replica) []Witness {
	all := make([]Witness, 0, len(d.o.Voters))
	d.eachOpinion(r, func(from uint64, why string, silentMillis uint32) {
		if len(all) < MaxWitnesses {
			all = append(all, Witness{Confmaster: from, Node: r.node, Saw: sawOf(clip(why)), SilentMillis: silentMillis})
		}
	})
	sort.Slice(all, func(i, j int) bool { return all[i].Confmaster < all[j].Confmaster })
	return all
}

func sawOf(why string) string {
	if why == "" {
		return "up"
	}
	return why
}

// majority of the fixed voter set: a leader that has heard of too few confmasters judges nobody.
func (d *Driver) majority() int { return len(d.o.Voters)/2 + 1 }

// judge brings suspected and agreedDown up to date and reports what changed.
func (d *Driver) judge(out *Effects) {
	for _, r := range d.replicas {
		why, known := d.opinion(r)
		if suspected := why != ""; known && suspected != r.suspected {
			r.suspected = suspected
			out.Opine = true
			d.reportSuspicion(r, why, out)
		}
		if !d.leading {
			continue
		}
		down := d.downs(r)
		if agreed := down >= d.majority(); agreed != r.agreedDown {
			r.agreedDown = agreed
			name, text := EventAgreedDownEnd, fmt.Sprintf("%d of %d confmasters see it down", down, len(d.o.Voters))
			if agreed {
				name = EventAgreedDown
				text += ": " + d.complaint(r)
			}
			d.observation(r, name, text, out)
		}
	}
}

func (d *Driver) reportSuspicion(r *replica, why string, out *Effects) {
	name := EventSuspectedEnd
	if why != "" {
		name = EventSuspected
	}
	d.observation(r, name, why, out)
}

func (d *Driver) observation(r *replica, name EventName, text string, out *Effects) {
	event := Event{StampMillis: d.stamp, Group: r.group, Name: name, Node: r.node, Text: clip(text)}
	if g := d.state.Group(r.group); g != nil {
		event.Epoch = g.Epoch
		event.FromAddr = g.kvAddr(r.node)
	}
	out.Events = append(out.Events, event)
}

func firstComplaint(witnesses []Witness) string {
	for _, w := range witnesses {
		if w.Saw != "up" {
			return w.Saw
		}
	}
	return "down"
}

// up reports whether a replica may be expected to answer: the majority does not think it down, nor does this confmaster.
func (d *Driver) up(r *replica) bool { return r != nil && !r.agreedDown && !r.suspected }

// fresh reports whether r was seen, lately, and after the last decision about its group: what was observed before may be older
// than the decision.
func (d *Driver) fresh(p *plan, r *replica) bool {
	return r != nil && r.seen && !r.suspected && r.step > p.settled
}

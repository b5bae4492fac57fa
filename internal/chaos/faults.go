package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// processFaults lists faults of whole processes.
func processFaults() []kind {
	return []kind{
		{"kill replicator", 10, func(t *turn) bool { return t.killAndStart(local.ReplicatorOf(t.node())) }},
		{"kill KV node", 8, func(t *turn) bool { return t.killAndStart(local.KVNodeOf(t.node())) }},
		{"kill machine", 10, func(t *turn) bool {
			node := t.node()
			return t.killAndStart(local.ReplicatorOf(node), local.KVNodeOf(node))
		}},
		{"kill two replicators", 5, func(t *turn) bool {
			master, others := t.roles()
			pair := []string{master, others[0]}
			if t.rng.IntN(3) == 0 {
				pair[0] = others[1]
			}
			return t.killAndStart(local.ReplicatorOf(pair[0]), local.ReplicatorOf(pair[1]))
		}},
		{"kill configuration master's leader", 5, func(t *turn) bool {
			leader, _ := t.leader()
			return t.killAndStart(leader)
		}},
		{"kill two configuration masters", 2, func(t *turn) bool {
			leader, others := t.leader()
			return t.killAndStart(leader, others[t.rng.IntN(len(others))])
		}},
		{"kill leader and master at once", 4, func(t *turn) bool {
			leader, _ := t.leader()
			master, _ := t.roles()
			return t.killAndStart(leader, local.ReplicatorOf(master), local.KVNodeOf(master))
		}},
		{"kill all replicators at once", 2, func(t *turn) bool {
			var names []string
			for _, r := range t.nodes() {
				names = append(names, local.ReplicatorOf(r.Node))
			}
			return t.killAndStart(names...)
		}},
		{"kill everything at once", 2, func(t *turn) bool {
			var names []string
			for _, p := range t.processes() {
				names = append(names, p.Name)
			}
			return t.killAndStart(names...)
		}},
		{"stop replicator", 7, func(t *turn) bool { return t.sleepAndWake(local.ReplicatorOf(t.node())) }},
		{"stop KV node", 4, func(t *turn) bool { return t.sleepAndWake(local.KVNodeOf(t.node())) }},
		{"stop machine", 7, func(t *turn) bool {
			node := t.node()
			return t.sleepAndWake(local.ReplicatorOf(node), local.KVNodeOf(node))
		}},
		{"stop configuration master's leader", 3, func(t *turn) bool {
			leader, _ := t.leader()
			return t.sleepAndWake(leader)
		}},
		{"rolling restart", 2, (*turn).rollingRestart},
		{"switch-over", 6, (*turn).switchOver},
	}
}

// linkFaults lists faults of links.
func linkFaults() []kind {
	draw := func(name string, weight int, damage func(t *turn, r *rule)) kind {
		return kind{name, weight, func(t *turn) bool {
			source, target := t.link()
			r := &rule{Source: source, Target: target, Port: dataPort}
			damage(t, r)
			return t.disturb(r)
		}}
	}
	return []kind{
		draw("link cut", 6, func(_ *turn, r *rule) { r.Cut = true }),
		draw("link one-way", 6, func(t *turn, r *rule) {
			r.Forward = t.rng.IntN(2) == 0
			r.Backward = !r.Forward
		}),
		draw("link silent", 4, func(_ *turn, r *rule) { r.Forward, r.Backward = true, true }),
		draw("link delayed", 5, func(t *turn, r *rule) { r.Delay = t.between(5*time.Millisecond, 300*time.Millisecond) }),
		draw("link cut in the midst of frames", 6, func(_ *turn, r *rule) { r.MidFrame = true }),
		{"management cut", 3, func(t *turn) bool {
			return t.disturb(&rule{Source: "*", Target: t.node(), Port: managePort, Cut: true})
		}},
		{"management one-way", 3, func(t *turn) bool {
			return t.disturb(&rule{Source: "*", Target: t.node(), Port: managePort, Backward: true})
		}},
		{"node isolated", 5, (*turn).isolate},
		{"master severed", 5, (*turn).sever},
		{"configuration master's leader cut", 4, (*turn).cutLeader},
		{"configuration masters' link disturbed", 4, func(t *turn) bool {
			leader, others := t.leader()
			t.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
			source, target := leader, others[0]
			if t.rng.IntN(3) == 0 {
				source = others[1]
			}
			if t.rng.IntN(2) == 0 {
				source, target = target, source
			}
			r := &rule{Source: source, Target: target, Port: peerPort}
			switch t.rng.IntN(4) {
			case 0:
				r.Cut = true
			case 1:
				r.Forward = true
			case 2:
				r.Delay = t.between(5*time.Millisecond, 500*time.Millisecond)
			case 3:
				r.MidFrame = true
			}
			return t.disturb(r)
		}},
		{"configuration masters all cut from each other", 1, func(t *turn) bool {
			return t.disturb(&rule{Source: "*", Target: "*", Port: peerPort, Cut: true})
		}},
	}
}

// killAndStart kills processes at once and starts them again, in another order, after a while.
func (t *turn) killAndStart(names ...string) bool {
	if !t.claim(names...) {
		return false
	}
	var who []string
	for _, name := range names {
		who = append(who, fmt.Sprintf("%s[%d]", name, t.Pid(name)))
	}
	t.begin(who, "")
	t.kill(names...)
	if t.rng.IntN(3) > 0 {
		t.wait(0, 3*time.Second)
	}
	t.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	t.end(t.startAll(names...))
	return true
}

// sleepAndWake stops processes and lets them go on.
func (t *turn) sleepAndWake(names ...string) bool {
	if !t.claim(names...) {
		return false
	}
	length := t.between(200*time.Millisecond, 4*time.Second)
	t.begin(names, "for %v", length.Round(time.Millisecond))
	var err error
	for _, name := range names {
		err = errors.Join(err, t.Signal(name, syscall.SIGSTOP))
	}
	pause.For(t.ctx, length)
	for _, name := range names {
		err = errors.Join(err, t.Signal(name, syscall.SIGCONT))
	}
	t.end(err)
	return true
}

// rollingRestart stops and starts all nodes in good order, one after the other.
func (t *turn) rollingRestart() bool {
	var all []string
	for _, r := range t.nodes() {
		all = append(all, local.KVNodeOf(r.Node), local.ReplicatorOf(r.Node))
	}
	if !t.claim(all...) {
		return false
	}
	t.begin(nil, "")
	for _, r := range t.nodes() {
		for _, name := range []string{local.KVNodeOf(r.Node), local.ReplicatorOf(r.Node)} {
			killed, err := t.StopProcess(name)
			if killed {
				t.failed("processes stop in good order", "rolling restart: %s had to be killed", name)
			}
			if err == nil {
				continue
			}
			t.end(err)
		}
		if err := t.startAll(local.ReplicatorOf(r.Node), local.KVNodeOf(r.Node)); err != nil {
			t.end(err)
			return true
		}
		ctx, cancel := context.WithTimeout(t.ctx, 10*time.Second) // other lanes may keep the group from being whole
		_ = pause.Until(ctx, untilPause, func() error { return t.whole(ctx) })
		cancel()
	}
	t.end(nil)
	return true
}

// switchOver hands mastership over. It may be refused while other faults last; that is in the detail, not an error.
func (t *turn) switchOver() bool {
	if !t.claim("mastership") {
		return false
	}
	_, others := t.roles()
	t.begin([]string{others[0]}, "")
	ctx, cancel := context.WithTimeout(t.ctx, 15*time.Second)
	defer cancel()
	reply, err := t.admin.Switchover(ctx, t.Plan.Group, others[0])
	text := reply.GetText()
	if err != nil {
		text = err.Error()
	}
	t.mu.Lock()
	t.fault.Detail = text
	t.mu.Unlock()
	if err != nil {
		t.idle("refused")
	}
	t.end(nil)
	return true
}

// link draws a link: of one slave to the master, of all of them, or of any node to a slave, where something passes only once
// mastership moves.
func (t *turn) link() (source, target string) {
	master, others := t.roles()
	switch t.rng.IntN(6) {
	case 0:
		return "*", others[1]
	case 1, 2:
		return "*", master
	}
	return others[0], master
}

// sever takes the master away from its slaves and the other nodes' clients, but not from the configuration masters: for so
// long that waiting for the end is noticed.
func (t *turn) sever() bool {
	master, others := t.roles()
	rules := []*rule{{Source: "*", Target: master, Port: dataPort}}
	for _, other := range others {
		rules = append(rules, &rule{Source: master, Target: other, Port: dataPort})
	}
	how := t.rng.IntN(3)
	for _, r := range rules {
		r.Cut, r.Forward, r.Backward = how == 0, how == 1, how == 1 || how == 2
	}
	return t.disturbFor(t.between(4*time.Second, 12*time.Second), rules...)
}

// cutLeader takes the configuration masters' leader away from the others, in both directions or in one.
func (t *turn) cutLeader() bool {
	leader, others := t.leader()
	how := t.rng.IntN(4)
	rules := []*rule{{Source: "*", Target: leader, Port: peerPort, Cut: how == 0, Forward: how == 1 || how == 2, Backward: how == 1 || how == 3}}
	for _, other := range others {
		rules = append(rules, &rule{Source: leader, Target: other, Port: peerPort, Cut: how == 0, Forward: how == 1 || how == 3, Backward: how == 1 || how == 2})
	}
	return t.disturb(rules...)
}

// disturb puts rules in force for a while.
func (t *turn) disturb(rules ...*rule) bool {
	return t.disturbFor(t.between(300*time.Millisecond, 5*time.Second), rules...)
}

func (t *turn) disturbFor(length time.Duration, rules ...*rule) bool {
	var things, texts []string
	for _, r := range rules {
		things = append(things, fmt.Sprintf("link %s %s %s", r.Source, r.Target, r.Port))
		texts = append(texts, r.String())
	}
	if !t.claim(things...) {
		return false
	}
	t.begin(texts, "for %v", length.Round(time.Millisecond))
	heal := t.proxy.apply(rules...)
	pause.For(t.ctx, length)
	heal()
	hits := int64(0)
	for _, r := range rules {
		hits += r.hits.Load()
	}
	if hits == 0 {
		t.idle("nothing passed there")
	}
	t.end(nil)
	return true
}

// isolate takes a node away from all others, management included, in both directions or in one.
func (t *turn) isolate() bool {
	node := t.node()
	how := t.rng.IntN(4)
	var rules []*rule
	add := func(source, target string, port port) {
		rules = append(rules, &rule{Source: source, Target: target, Port: port, Cut: how == 3, Forward: how == 0 || how == 1, Backward: how == 0 || how == 2})
	}
	add("*", node, dataPort)
	add("*", node, managePort)
	for _, other := range t.nodes() {
		if other.Node != node {
			add(node, other.Node, dataPort)
		}
	}
	return t.disturb(rules...)
}

// kindNames lists the names of kinds, for messages.
func kindNames(kinds []kind) string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return strings.Join(names, ", ")
}

package explore

import (
	"fmt"

	"lockstep/internal/failover"
	"lockstep/internal/invariant"
	"lockstep/smr"
)

// configID names a configuration; 0 is none. stateID names a state of the configuration master.
type (
	configID uint32
	stateID  uint32
)

// configs keeps every configuration that occurs, once.
type configs struct {
	all   []smr.Config
	ids   map[string]configID
	hash  [][maxPerms]uint64
	names *names
}

func newConfigs(n *names) *configs {
	return &configs{all: make([]smr.Config, 1), ids: make(map[string]configID), hash: make([][maxPerms]uint64, 1), names: n}
}

func (c *configs) at(id configID) smr.Config { return c.all[id] }

func (c *configs) intern(config smr.Config) configID {
	if config.Epoch == 0 {
		return 0
	}
	key := string(smr.AppendConfig(nil, config))
	if id, ok := c.ids[key]; ok {
		return id
	}
	id := configID(len(c.all))
	c.all = append(c.all, config.Clone())
	var hash [maxPerms]uint64
	for p := range c.names.perms {
		hash[p] = c.names.hashConfig(config, p)
	}
	c.hash = append(c.hash, hash)
	c.ids[key] = id
	return id
}

// confmaster is one state of the configuration master: the group as raft has it. The work log, which nothing is decided by, is
// left out.
type confmaster struct {
	group       failover.Group
	established configID
	provisional configID
	hash        [maxPerms]uint64
}

const groupName = "g"

// command is one decision, in numbers, so that it can be a key.
type command struct {
	state  stateID
	kind   commandKind
	epoch  smr.Epoch
	node   uint8
	copies uint8
	// members of a reconfiguration by node: 0 absent, else 1 + wipes. Candidates of a choice likewise; logs says how far they are.
	members [maxNodes]uint8
	logs    [maxNodes]logID
}

type commandKind uint8

const (
	cmdElection commandKind = iota
	cmdChoose
	cmdEstablish
	cmdReconfigure
)

// found sets up the group: epoch 1 is established with the scope's first members.
func (x *explorer) found() stateID {
	policy := failover.Policy{Copies: x.scope.Copies, MinCopies: x.scope.MinCopies}
	create := &failover.CreateGroup{Name: groupName, Policy: policy}
	first := smr.Config{Master: x.names.nodes[0], Copies: x.scope.Copies}
	for i, id := range x.names.nodes {
		create.Replicas = append(create.Replicas, failover.Replica{Node: id, ManageAddr: string(id) + ":1", DataAddr: string(id) + ":2"})
		if i < x.scope.Members {
			first.Members = append(first.Members, x.names.member(i, 0))
		}
	}
	state := failover.NewState("c")
	for _, cmd := range []failover.Command{{CreateGroup: create}, {Found: &failover.Found{Group: groupName, Config: first}}} {
		result := state.Apply(&cmd)
		invariant.Assert(result.Applied, "the group cannot be founded", result.Reason)
	}
	return x.internState(state.Group(groupName))
}

func (x *explorer) internState(g *failover.Group) stateID {
	s := confmaster{group: *g, established: x.configs.intern(g.Established), provisional: x.configs.intern(g.Provisional)}
	for p := range x.names.perms {
		h := mix(uint64(g.Epoch)<<16|uint64(g.Election.Epoch)<<8|fact(g.Election.Chosen), x.configs.hash[s.established][p])
		h = mix(h, x.configs.hash[s.provisional][p])
		h = mix(h, uint64(g.Reign.Epoch))
		if g.Reign.Epoch != 0 {
			master := smr.Member{Node: g.Reign.Master, Incarnation: g.Reign.Incarnation}
			h = mix(h, uint64(x.names.perms[p][x.names.index(master.Node)])<<8|uint64(x.names.wipesOf(master)))
		}
		s.hash[p] = h
	}
	if id, ok := x.stateIDs[s.hash[0]]; ok {
		return id
	}
	id := stateID(len(x.states))
	x.states = append(x.states, s)
	x.stateIDs[s.hash[0]] = id
	return id
}

// decide lets the real State.Apply carry out a command. It returns the same state if Apply refuses.
func (x *explorer) decide(c command) stateID {
	if id, ok := x.decided[c]; ok {
		return id
	}
	group := x.states[c.state].group
	group.Established, group.Provisional = group.Established.Clone(), group.Provisional.Clone()
	state := &failover.State{Cluster: "c", Groups: []failover.Group{group}, NextEntry: 1, NextEvent: 1}
	cmd := x.commandOf(c, &group)
	id := c.state
	if state.Apply(&cmd).Applied {
		id = x.internState(&state.Groups[0])
	}
	x.decided[c] = id
	return id
}

func (x *explorer) commandOf(c command, g *failover.Group) failover.Command {
	switch c.kind {
	case cmdElection:
		return failover.Command{BeginElection: &failover.BeginElection{Group: groupName, Expect: g.Epoch, Kind: failover.ElectionFailover}}
	case cmdEstablish:
		return failover.Command{Establish: &failover.Establish{Group: groupName, Epoch: c.epoch}}
	case cmdReconfigure:
		reconfigure := &failover.BeginReconfigure{Group: groupName, Expect: g.Epoch, Reign: c.epoch, Copies: int(c.copies), Kind: failover.EntryAdmit}
		for i, member := range c.members {
			if member != 0 {
				reconfigure.Members = append(reconfigure.Members, x.names.member(i, member-1))
			}
		}
		return failover.Command{BeginReconfigure: reconfigure}
	case cmdChoose:
		choose := &failover.Choose{Group: groupName, Epoch: c.epoch, Master: x.names.nodes[c.node], Life: life}
		for i, member := range c.members {
			if member == 0 {
				continue
			}
			m := x.names.member(i, member-1)
			if i == int(c.node) {
				choose.Incarnation = m.Incarnation
			}
			choose.Candidates = append(choose.Candidates, failover.Candidate{Node: m.Node, Incarnation: m.Incarnation, Life: life,
				Position: x.logs.position(c.logs[i])})
		}
		return failover.Command{Choose: choose}
	}
	panic(fmt.Sprintf("no command %d", c.kind))
}

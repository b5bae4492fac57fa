package confmaster

import (
	"net"
	"os"
	"time"

	"go.etcd.io/raft/v3"

	"lockstep/internal/failover"
	lockstep "lockstep/proto"
)

func pid() uint32 { return uint32(os.Getpid()) }

// publish makes the status that others see. Messages in it are never changed afterwards.
func (n *node) publish() {
	n.dirty, n.published = false, n.ticks
	status := &lockstep.ClusterStatus{Cluster: n.state.Cluster, HasLeader: n.lead != 0, Version: n.config.version(), Level: uint32(n.state.FeatureLevel())}
	for i := range n.state.Groups {
		status.Groups = append(status.Groups, n.groupStatus(&n.state.Groups[i]))
	}
	status.Confmasters = n.confmasterStatus()
	n.status.Store(status)
	n.gauges.look()
	usable := 0
	var others []redisPeer
	for _, c := range status.Confmasters {
		if c.GetUp() {
			usable++
		}
		if c.GetId() == n.config.ID {
			continue
		}
		p := redisPeer{id: sentinelID(n.config.Cluster, c.GetId()), down: !c.GetUp(), leader: c.GetLeader()}
		if p.host, p.port, _ = net.SplitHostPort(c.GetSentinelAddr()); p.host != "" { // "": it was not heard of yet
			others = append(others, p)
		}
	}
	n.redis.Store(n.redisView(others, usable))
	n.meetSentinels(others)
}

func (n *node) groupStatus(g *failover.Group) *lockstep.GroupStatus {
	report := n.driver.Report(g.Name)
	current := g.Current()
	status := &lockstep.GroupStatus{
		Name: g.Name, Epoch: uint64(g.Epoch), Established: uint64(g.Established.Epoch), Master: string(report.Master),
		Copies: uint32(current.Copies), MinCopies: uint32(g.Policy.MinCopies), Sync: g.Policy.Sync.String(),
		State: report.State, Detail: report.Detail, Plan: report.Plan, Version: g.Version, Policy: policyMessage(g.Policy),
	}
	for i := range g.Recoveries {
		status.Recoveries = append(status.Recoveries, recoveryMessage(&g.Recoveries[i]))
	}
	if n.lead == 0 {
		status.Detail = joinText(status.Detail, "the configuration masters have no leader: no fail-over until a majority of them is back")
	}
	if current.Copies == 0 {
		status.Copies = uint32(g.Policy.Copies)
	}
	for i := range g.Replicas {
		r := &g.Replicas[i]
		standing := n.driver.Standing(g.Name, r.Node)
		_, member := current.Find(r.Node)
		out := &lockstep.ReplicaStatus{
			Node: string(r.Node), LastSeenMs: uint64(standing.SilentTicks) * failover.TickMillis,
			KvAddr: r.KVAddr, DataAddr: r.DataAddr, ManageAddr: r.ManageAddr, Member: member, Up: standing.Up,
		}
		out.Saw, out.LagBytes, out.LagMs = standing.Saw, uint64(standing.LagBytes), uint32(standing.LagMillis)
		if r.Drained {
			out.Standing = "drained"
			if g.Change.Node == r.Node && g.Change.Kind != failover.ChangeDrain {
				out.Standing = "leaving"
			}
		}
		if standing.Seen {
			out.State = n.seen[replicaKey{g.Name, r.Node}]
		}
		status.Replicas = append(status.Replicas, out)
	}
	return status
}

func joinText(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// lives reports whether another configuration master has said something lately. Raft's own mark is no measure: it is taken back once in each election timeout, until the next answer comes.
func (n *node) lives(id uint64) bool {
	return time.Since(n.heard[id]) < n.config.Suspect+5*n.config.Probe+time.Duration(n.opineEvery())*tickLength // so often it says something
}

// confmasterStatus lists all configuration masters. Who is up is known at the leader; a follower repeats what the
// leader told it.
func (n *node) confmasterStatus() []*lockstep.ConfmasterStatus {
	told := make(map[uint64]*lockstep.ConfmasterStatus)
	for _, c := range n.told {
		told[c.GetId()] = c
	}
	var all []*lockstep.ConfmasterStatus
	for _, p := range n.config.Peers {
		out := &lockstep.ConfmasterStatus{Id: p.ID, Addr: p.Addr, Leader: p.ID == n.lead, Up: p.ID == n.config.ID || n.role == raft.StateLeader && n.lives(p.ID)}
		info, known := n.peers[p.ID]
		switch c := told[p.ID]; {
		case p.ID == n.config.ID:
			out.Pid, out.SentinelAddr, out.Page = pid(), n.config.announced(), n.config.page()
			out.Version, out.HighestLevel = n.config.version(), uint32(n.config.highestLevel())
		case known && (n.role == raft.StateLeader || c == nil): // what a follower has heard itself is from when it led
			out.Pid, out.SentinelAddr, out.Page = info.pid, info.sentinel, info.page
			out.Version, out.HighestLevel = info.version, info.level
		case c != nil:
			out.Pid, out.SentinelAddr, out.Page = c.GetPid(), c.GetSentinelAddr(), c.GetPage()
			out.Version, out.HighestLevel = c.GetVersion(), c.GetHighestLevel()
			if n.role != raft.StateLeader { // what an earlier leader said of who is up is too old for a new one
				out.Up = n.lead != 0 && (c.GetUp() || p.ID == n.lead)
			}
		}
		all = append(all, out)
	}
	return all
}

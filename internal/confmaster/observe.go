package confmaster

import (
	"fmt"
	"time"

	"lockstep/internal/failover"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

// Events that this shell derives from what it sees. They are observations of this configuration master, without an ID,
// and make the rest of what Redis Sentinel tells its subscribers.
const (
	eventRestarted  failover.EventName = "restarted"   // a replica's process is another one than before (+reboot)
	eventRoleChange failover.EventName = "role-change" // a replica says that it leads, or follows, and did not before; Text: master or slave
	eventJoined     failover.EventName = "joined"      // a slave streams from its master (+slave-reconf-done)
	eventSentinel   failover.EventName = "sentinel"    // another configuration master serves Sentinel clients (+sentinel)
)

// observe takes a state of a replica, and notes what is new about it.
func (n *node) observe(key replicaKey, state *lockstep.ReplicaState) {
	before := n.seen[key]
	n.seen[key] = state
	n.step(&failover.Observed{Group: key.group, Node: key.node, View: viewOf(state)})
	kind, last := kindOf(state), n.kinds[key]
	if kind != "" {
		n.kinds[key] = kind
	}
	if before == nil {
		return
	}
	event := failover.Event{StampMillis: time.Now().UnixMilli(), Group: key.group, Node: key.node, Epoch: smr.Epoch(state.GetEpoch())}
	if before.GetLife() != state.GetLife() {
		event.Name, event.Text = eventRestarted, "another process than before"
		n.tell([]failover.Event{event}, false)
	}
	if kind != "" && last != "" && kind != last {
		event.Name, event.Text = eventRoleChange, kind
		n.tell([]failover.Event{event}, false)
	}
	if state.GetJoined() && !before.GetJoined() && kind == "slave" {
		event.Name, event.Text = eventJoined, "streams from "+state.GetMaster()
		n.tell([]failover.Event{event}, false)
	}
}

// kindOf is a replica's role in the words of Redis; "" while it has none.
func kindOf(state *lockstep.ReplicaState) string {
	switch roleOf(state.GetRole()) {
	case smr.RoleMaster:
		return "master"
	case smr.RoleSlave, smr.RoleLearner:
		return "slave"
	}
	return ""
}

// meetSentinels notes the Sentinels that were not known before. Called when the view is made.
func (n *node) meetSentinels(others []redisPeer) {
	for _, p := range others {
		text := fmt.Sprintf("%s %s %s", p.id, p.host, p.port)
		if n.sentinels[p.id] == text {
			continue
		}
		n.sentinels[p.id] = text
		for i := range n.state.Groups {
			n.news = append(n.news, failover.Event{StampMillis: time.Now().UnixMilli(), Group: n.state.Groups[i].Name, Name: eventSentinel, Text: text})
		}
	}
}

package confmaster

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3"

	lockstep "lockstep/proto"
)

// What could go wrong: a configuration master that has led before says of others what it has heard then. A drill right behind one in which the leader was
// paused was refused: another configuration master "is not up".
func TestFormerLeaderRepeatsWhatItIsTold(t *testing.T) {
	t.Parallel()
	n := &node{
		config: &Config{ID: 1, Peers: []Peer{{1, "a:1"}, {2, "b:1"}, {3, "c:1"}}},
		role:   raft.StateFollower, lead: 2,
		peers: map[uint64]peerInfo{2: {at: time.Now().Add(-time.Hour)}, 3: {at: time.Now().Add(-time.Hour)}},
		told:  []*lockstep.ConfmasterStatus{{Id: 1, Up: true}, {Id: 2, Up: true, Leader: true}, {Id: 3, Up: true, Version: "v"}},
	}
	for _, c := range n.confmasterStatus() {
		if !c.GetUp() || c.GetLeader() != (c.GetId() == 2) {
			t.Errorf("%v", c)
		}
	}
	n.told[2].Up = false
	if all := n.confmasterStatus(); all[2].GetUp() || all[2].GetVersion() != "v" {
		t.Errorf("told to be down: %v", all[2])
	}
}

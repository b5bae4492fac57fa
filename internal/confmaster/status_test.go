package confmaster

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3"

	"lockstep/internal/failover"
	lockstep "lockstep/proto"
)

// What could go wrong: a configuration master that has led before says of others what it has heard then. A drill right behind one in which the leader was
// paused was refused: another configuration master "is not up".
func TestFormerLeaderRepeatsWhatItIsTold(t *testing.T) {
	t.Parallel()
	n := &node{
		config: &Config{ID: 1, Peers: []Peer{{1, "a:1"}, {2, "b:1"}, {3, "c:1"}}},
		role:   raft.StateFollower, lead: 2,
		peers: map[uint64]peerInfo{2: {}, 3: {}},
		heard: map[uint64]time.Time{2: time.Now().Add(-time.Hour), 3: time.Now().Add(-time.Hour)},
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

// What could go wrong: a leader says of another configuration master that it is down, because that has not told its opinions yet, or in the moment in which raft takes
// its own mark back (TestDrills was refused a drill one second behind the start).
func TestWhoAnswersIsUp(t *testing.T) {
	t.Parallel()
	n := &node{
		config: &Config{ID: 1, Peers: []Peer{{1, "a:1"}, {2, "b:1"}, {3, "c:1"}, {4, "d:1"}}, Suspect: time.Second, Probe: 100 * time.Millisecond},
		role:   raft.StateLeader, lead: 1, heard: make(map[uint64]time.Time), driver: failover.New(failover.Options{Self: 1, Voters: []uint64{1, 2, 3, 4}}, failover.NewState("c")),
	}
	n.hear(2)
	n.heard[3] = time.Now().Add(-time.Hour)
	n.hear(9) // nobody knows it
	for _, c := range n.confmasterStatus() {
		if c.GetUp() != (c.GetId() <= 2) {
			t.Errorf("%v", c)
		}
	}
	if len(n.heard) != 2 {
		t.Errorf("heard of %v", n.heard)
	}
}

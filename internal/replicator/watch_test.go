package replicator

import (
	"testing"

	"lockstep/proto"
)

// What could go wrong: a replica that works is taken for one at rest, and what the configuration masters see of it is old.
func TestReplicaInWhichAnythingMovesDoesNotRest(t *testing.T) {
	state := func() *proto.ReplicaState {
		return &proto.ReplicaState{End: 5, Durable: 5, Commit: 5, Applied: 5, Checkpoint: 1, Peers: []*proto.PeerState{{Node: "n2", Durable: 5}}, LoopIdleMs: 250, KvSilentMs: 1000}
	}
	if !restsSince(state(), state()) {
		t.Error("nothing moves, and it does not rest")
	}
	for what, move := range map[string]func(*proto.ReplicaState){
		"the log":       func(s *proto.ReplicaState) { s.End++ },
		"the disk":      func(s *proto.ReplicaState) { s.Durable++ },
		"commit":        func(s *proto.ReplicaState) { s.Commit++ },
		"the KV node":   func(s *proto.ReplicaState) { s.Applied++ },
		"a checkpoint":  func(s *proto.ReplicaState) { s.Checkpoint++ },
		"a transfer":    func(s *proto.ReplicaState) { s.BytesDone++ },
		"a slave":       func(s *proto.ReplicaState) { s.Peers[0].Durable++ },
		"a stuck loop":  func(s *proto.ReplicaState) { s.LoopIdleMs = idleMillis + 1 },
		"a stuck disk":  func(s *proto.ReplicaState) { s.DiskStuckMs = 1 },
		"a silent node": func(s *proto.ReplicaState) { s.KvSilentMs = 2500 },
		"another slave": func(s *proto.ReplicaState) { s.Peers = append(s.Peers, &proto.PeerState{Node: "n3"}) },
	} {
		after := state()
		move(after)
		if restsSince(state(), after) {
			t.Errorf("%s is to be seen, and it rests", what)
		}
	}
	for _, c := range []struct {
		asked           uint32
		otherwise, want int64
	}{{0, 250, 250}, {1, 250, minWatchMillis}, {100, 250, 100}, {1 << 30, 250, maxWatchMillis}} {
		if got := watchMillis(c.asked, c.otherwise); got != c.want {
			t.Errorf("asked for %d ms, it is %d", c.asked, got)
		}
	}
}

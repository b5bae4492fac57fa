package kvnode

import (
	"strings"
	"testing"

	"lockstep/internal/level"
	"lockstep/smr"
)

// What could go wrong: a KV node does not take the cluster's feature level from its replicator, or forgets it when a replicator
// that was not told yet is attached to.
func TestLevelIsWhatTheReplicatorSaid(t *testing.T) {
	node := newFakeGroup(t, 1, nil).nodes[0].node
	feature := level.Feature{Name: "of level 2", Level: 2}
	if node.level.May(feature) {
		t.Fatal("a node that was told nothing uses what others may not understand")
	}
	for _, told := range []int{0, 1, 2, 0, 1} {
		node.StatusChanged(smr.Status{Level: told})
	}
	if !node.level.May(feature) || !strings.Contains(node.info([][]byte{[]byte("smr")}), "smr_feature_level:2\r\n") {
		t.Errorf("level %d: %s", node.level.Level(), node.info([][]byte{[]byte("smr")}))
	}
}

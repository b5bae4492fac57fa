package replicator

import (
	"errors"
	"path/filepath"
	"testing"

	"lockstep/log"
	"lockstep/proto"
	"lockstep/smr"
)

// restoredBase is what smrctl restore begins the logs of a new cluster with: a stream of epoch 1, whatever it was before.
func restoredBase(t *testing.T) log.Base {
	t.Helper()
	dir := t.TempDir()
	l, _, err := log.Open(log.Options{Dir: dir, Cluster: "old", Group: testGroup, FileSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	frame := smr.AppendFrame(nil, smr.Frame{Epoch: 9, Stamp: 5, Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, smr.Config{
		Epoch: 9, Reign: 9, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: 5}},
	})})
	if err := errors.Join(l.Append(frame), l.Sync()); err != nil {
		t.Fatal(err)
	}
	reader, err := log.OpenReader(nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	base, err := reader.BaseAt(l.End())
	if err != nil {
		t.Fatal(err)
	}
	base.Cluster, base.History = testCluster, smr.History{{Epoch: 1, From: 0}}
	return base
}

// What could go wrong: a replica of a restored cluster does not start, takes its log for a foreign or lost one, or a group of
// them cannot be founded, elect a master and commit. Seen by a group that is founded as the configuration master does it.
func TestRestoredReplicasLeadAndCommit(t *testing.T) {
	t.Parallel()
	base := restoredBase(t)
	var nodes []*tester
	for i, name := range []string{"n1", "n2", "n3"} {
		cfg := testConfig(tempDir(t), name)
		state, _, _, err := log.OpenState(log.OS{}, filepath.Join(cfg.Dir, "state"))
		if err != nil {
			t.Fatal(err)
		}
		err = state.Save(log.State{
			Incarnation: smr.Incarnation(100 + i), Cluster: testCluster, Group: testGroup, Node: smr.NodeID(name), LogBegun: true, LogStart: base.LSN, Clean: true,
		})
		if err = errors.Join(err, state.Close()); err != nil {
			t.Fatal(err)
		}
		l, _, err := log.Open(log.Options{Dir: filepath.Join(cfg.Dir, "log"), Cluster: testCluster, Group: testGroup, FileSize: cfg.FileSize})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.BeginAt(base), l.Close()); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, start(t, cfg))
		nodes[i].await("it begins at the restored LSN and is blank", func(s *proto.ReplicaState) bool {
			return s.Blank && s.Incarnation == uint64(100+i) && s.Start == uint64(base.LSN) && s.End == uint64(base.LSN)
		})
	}
	c := create(t, 2, nodes...)
	master := c.elect(nodes...)
	end := master.state().End
	for _, x := range nodes {
		x.await("the first epoch is committed behind the restored LSN", func(s *proto.ReplicaState) bool {
			return s.Commit >= end && s.End >= end && s.Start == uint64(base.LSN)
		})
	}
}

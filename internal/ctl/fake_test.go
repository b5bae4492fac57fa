package ctl

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"lockstep/proto"
)

// fakeCluster is a configuration master whose figures do not change unless a script says so.
type fakeCluster struct {
	confmaster *confmaster
	addr       string
}

func startFake(t *testing.T) *fakeCluster {
	f := &fakeCluster{confmaster: &confmaster{cluster: example(), entries: exampleEntries()}}
	f.addr = serve(t, f.confmaster)
	return f
}

// names are the addresses that differ from run to run, and what stands for them.
func (f *fakeCluster) names() map[string]string { return map[string]string{f.addr: "CONFMASTER"} }

// change is the command "fake WHAT" of a script.
func (f *fakeCluster) change(ts *testscript.TestScript, args []string) {
	switch args[0] {
	case "empty":
		f.confmaster.cluster = &proto.ClusterStatus{}
	default:
		ts.Fatalf("fake %s: not known", args[0])
	}
}

// exampleEntries is the work log of example: a fail-over from n3 to n1.
func exampleEntries() []*proto.WorkEntry {
	return []*proto.WorkEntry{
		{Id: 1, TimeMs: 1_700_000_000_000, Group: "g1", Kind: "created", Reason: "group of 3 replicas registered: copies 2, at least 1", Confmaster: 1},
		{Id: 2, TimeMs: 1_700_000_100_000, Group: "g1", Epoch: 6, Kind: "election", Reason: "n3 is down", Confmaster: 1,
			Witnesses: []*proto.Witness{{Confmaster: 1, Node: "n3", Saw: "connection refused", SilentMs: 40}, {Confmaster: 2, Node: "n3", Saw: "silent", SilentMs: 1010}}},
		{Id: 3, TimeMs: 1_700_000_100_050, Group: "g1", Epoch: 6, Kind: "chosen", Reason: "highest Position", Master: "n1", Confmaster: 1,
			Candidates: []*proto.Candidate{{Node: "n1", Incarnation: 1, PositionEpoch: 5, End: 400, Commit: 250, Applied: 250, Chosen: true, Note: "highest Position"},
				{Node: "n2", Incarnation: 2, PositionEpoch: 5, End: 380, Commit: 250, Applied: 240}}},
		{Id: 4, TimeMs: 1_700_000_100_080, Group: "g1", Epoch: 7, Kind: "established", Reason: "established: epoch 7, master n1, copies 2, members n1 n2", Master: "n1", Confmaster: 1},
	}
}

package ctl

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	"lockstep/proto"
)

// founder takes groups, after it had no leader for the first calls.
type founder struct {
	confmaster
	leaderless atomic.Int32 // calls that find no leader yet
	asked      atomic.Pointer[proto.CreateGroupRequest]
}

func (f *founder) CreateGroup(_ context.Context, r *proto.CreateGroupRequest) (*proto.ChangeReply, error) {
	if f.leaderless.Add(-1) >= 0 {
		return nil, status.Error(codes.Unavailable, "no leader")
	}
	f.asked.Store(r)
	return &proto.ChangeReply{Text: "group " + r.GetName() + " is registered"}, f.refuse
}

// What could go wrong: a port lands in the wrong field, or a cluster that is just being founded makes the command give up. The
// request is held against what the command line says.
func TestGroupCreateSaysWhatWasAsked(t *testing.T) {
	t.Parallel()
	f := &founder{}
	f.leaderless.Store(3)
	addr := serve(t, f)
	stdout, stderr, code := run(t, "group", "create", "g1", "--confmaster", addr, "--replica", "n1=10.0.0.1", "--replica", "n2=h:1,h:2,h:3",
		"--replica", "n3=fd00::3")
	if code != 0 || stdout != "group g1 is registered\n" {
		t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
	}
	want := &proto.CreateGroupRequest{Name: "g1", Copies: 2, MinCopies: 2, Sync: "always", Replicas: []*proto.ReplicaSpec{
		{Node: "n1", KvAddr: "10.0.0.1:6379", DataAddr: "10.0.0.1:7100", ManageAddr: "10.0.0.1:7200"},
		{Node: "n2", KvAddr: "h:1", DataAddr: "h:2", ManageAddr: "h:3"},
		{Node: "n3", KvAddr: "[fd00::3]:6379", DataAddr: "[fd00::3]:7100", ManageAddr: "[fd00::3]:7200"},
	}}
	if got := f.asked.Load(); prototext.Format(got) != prototext.Format(want) {
		t.Errorf("asked for\n%v\nwant\n%v", got, want)
	}
}

// A group without replicas waits for those that join.
func TestGroupCreateOfReplicasThatJoin(t *testing.T) {
	t.Parallel()
	f := &founder{}
	if _, stderr, code := run(t, "group", "create", "g1", "--confmaster", serve(t, f), "--copies", "2"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if got := f.asked.Load(); len(got.GetReplicas()) != 0 || got.GetCopies() != 2 || got.GetMinCopies() != 2 {
		t.Errorf("asked for %v", got)
	}
}

// A refusal is an answer: it is shown at once, and nothing is tried again.
func TestGroupCreateShowsARefusal(t *testing.T) {
	t.Parallel()
	f := &founder{}
	f.refuse = status.Error(codes.FailedPrecondition, "group g1 is there with other replicas")
	_, stderr, code := run(t, "group", "create", "g1", "--confmaster", serve(t, f), "--replica", "n1=h", "--copies", "1")
	if code != 1 || !strings.Contains(stderr, "there with other replicas") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestGroupCreateRefusesNonsense(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"name every replica":     {"g1"},
		"n1 stands there twice":  {"g1", "--replica", "n1=h", "--replica", "n1=i"},
		"write NODE=HOST":        {"g1", "--replica", "n1"},
		"give the host alone":    {"g1", "--replica", "n1=h:6379"},
		"give three":             {"g1", "--replica", "n1=h:1,h:2"},
		"is no address":          {"g1", "--replica", "n1=h:1,h,h:3"},
		"use 1 to 1":             {"g1", "--replica", "n1=h", "--copies", "2"},
		"--min-copies 2":         {"g1", "--replica", "n1=h", "--min-copies", "2"},
		"sync":                   {"g1", "--replica", "n1=h", "--sync", "never"},
		"use more than 0":        {"g1", "--replica", "n1=h", "--timeout", "0s"},
		"accepts 1 arg(s)":       {"--replica", "n1=h"},
		"a command is missing":   nil,
		`node name "N!"`:         {"g1", "--replica", "N!=h"},
		"use 1 to copies, which": {"g1", "--replica", "n1=h", "--min-copies", "0"},
	} {
		line := append([]string{"group", "create"}, args...)
		if args == nil {
			line = []string{"group"}
		} else {
			line = append(line, "--confmaster", "127.0.0.1:1")
		}
		if _, stderr, code := run(t, line...); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit code %d, %q is missing in: %s", args, code, want, stderr)
		}
	}
}

package confmaster

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	lockstep "lockstep/proto"
)

// fakeKV is a KV node as the steward meets it. It takes any config but those named bad, and hz is its own setting; all others are
// replicated.
type fakeKV struct {
	lockstep.UnimplementedKVNodeServer
	shared *sharedKV

	mu      sync.Mutex
	version uint64
	local   []string // what was applied here, in order
}

// sharedKV is what all nodes of a group execute.
type sharedKV struct {
	mu       sync.Mutex
	executed []string
}

func (k *fakeKV) CheckSettings(_ context.Context, in *lockstep.CheckSettingsRequest) (*lockstep.CheckSettingsReply, error) {
	out := &lockstep.CheckSettingsReply{Settings: in.GetSettings()}
	for _, s := range in.GetSettings() {
		problem := ""
		if s.GetName() == "bad" {
			problem = "there is none"
		}
		out.Problems = append(out.Problems, problem)
	}
	return out, nil
}

func (k *fakeKV) ApplySettings(_ context.Context, in *lockstep.ApplySettingsRequest) (*lockstep.ApplySettingsReply, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range in.GetSettings() {
		text := fmt.Sprintf("%s=%s", s.GetName(), s.GetValue())
		switch {
		case s.GetName() == "hz" && s.GetVersion() > k.version:
			k.local = append(k.local, text)
		case s.GetName() != "hz" && in.GetShared() && s.GetVersion() > in.GetSharedFrom():
			k.shared.mu.Lock()
			k.shared.executed = append(k.shared.executed, text)
			k.shared.mu.Unlock()
		}
	}
	k.version = max(k.version, in.GetVersion())
	return &lockstep.ApplySettingsReply{Version: k.version}, nil
}

// restart forgets what a process forgets.
func (k *fakeKV) restart() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.version, k.local = 0, nil
}

func (k *fakeKV) has() (uint64, string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.version, strings.Join(k.local, " ")
}

func (s *sharedKV) has() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.executed, " ")
}

// Settings reach every node, what is replicated once for all; a node that starts again gets its own again; a new leader of the
// configuration masters repeats nothing. What could go wrong: a node is left out; what a client has changed since is overwritten for
// no reason; a value that a node refuses is on record.
func TestSettingsReachEveryNode(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	shared := &sharedKV{}
	var nodes []*fakeKV
	for _, f := range c.group.fakes {
		k := &fakeKV{shared: shared}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		lockstep.RegisterKVNodeServer(server, k)
		go server.Serve(listener)
		defer server.Stop()
		c.group.change(func() { f.kvAdmin = listener.Addr().String() })
		nodes = append(nodes, k)
	}
	follower := c.follower()
	c.create(follower)
	set := func(version uint64, pairs ...string) (*lockstep.ChangePlan, error) {
		change := &lockstep.ChangeSettings{By: "ann"}
		for i := 0; i < len(pairs); i += 2 {
			change.Settings = append(change.Settings, &lockstep.Setting{Kind: "config", Name: pairs[i], Value: pairs[i+1]})
		}
		return c.change(follower, &lockstep.ChangeRequest{Version: version, Change: &lockstep.ChangeRequest_Settings{Settings: change}})
	}
	settings := func() (reply *lockstep.GroupSettings) {
		if err := answered(func(ctx context.Context) (err error) {
			reply, err = c.client(follower).Settings(ctx, &lockstep.GroupSettingsRequest{Group: "g1", History: true})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return reply
	}
	eventually(t, "the nodes are known", func() error {
		_, err := set(0, "bad", "1")
		if err == nil || !strings.Contains(err.Error(), "refused by node") {
			return fmt.Errorf("a bad value: %w", err)
		}
		return nil
	})
	if _, err := set(0, "hz", "5", "maxmemory", "100"); err != nil {
		t.Fatal(err)
	}
	all := func(version uint64, local string) func() error {
		return func() error {
			for i, k := range nodes {
				if v, has := k.has(); v < version || has != local {
					return fmt.Errorf("node %d has version %d and %q", i+1, v, has)
				}
			}
			if reply := settings(); reply.GetShared() != reply.GetVersion() || len(reply.GetProblems()) > 0 {
				return fmt.Errorf("%v", reply)
			}
			return nil
		}
	}
	eventually(t, "every node has the settings", all(1, "hz=5"))
	before := settings()
	if len(before.GetSettings()) != 2 || len(before.GetHistory()) < 2 || before.GetHistory()[0].GetBy() != "ann" {
		t.Errorf("%v", before)
	}
	executed := shared.has()
	if !strings.HasPrefix(executed, "maxmemory=100") {
		t.Errorf("executed: %q", executed)
	}
	_, err := set(before.GetVersion()+7, "hz", "6")
	wantCode(t, "the later operator", err, codes.Aborted, "you saw")

	nodes[1].restart()
	eventually(t, "the node that started again has them", all(1, "hz=5"))
	c.kill(c.leader())
	follower = c.follower()
	if _, err := set(0, "timeout", "9"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new leader goes on", all(before.GetVersion()+1, "hz=5"))
	if has := shared.has(); !strings.HasPrefix(has, executed+" timeout=9") || strings.Contains(strings.TrimPrefix(has, executed), "maxmemory") {
		t.Errorf("executed: %q, before %q", has, executed)
	}
}

// What could go wrong: of two changes of a user, one soon after the other, the second is made of the user as it was before the first, and takes it back.
func TestRulesAreAppliedToTheUserThatWasDecided(t *testing.T) {
	have := &lockstep.GroupSettings{Version: 4, Shared: 2, Settings: []*lockstep.Setting{
		{Kind: "user", Name: "old", Value: "on +get", Version: 2},
		{Kind: "user", Name: "ann", Value: "on #1 +get", Version: 3},
		{Kind: "user", Name: "bob", Removed: true, Version: 4},
		{Kind: "function", Name: "ann", Value: "code", Version: 4},
	}}
	wanted := []*lockstep.Setting{{Kind: "user", Name: "old", Value: "+set"}, {Kind: "user", Name: "ann", Value: "+set"}, {Kind: "user", Name: "bob", Value: "on"},
		{Kind: "user", Name: "carl", Value: "on"}, {Kind: "function", Name: "ann", Value: "new"}}
	var got []string
	for _, s := range uponDecided(have, wanted) {
		got = append(got, strings.Join(strings.Fields(s.GetKind()+" "+s.GetName()+" "+s.GetValue()), " "))
	}
	want := "user old +set; user ann reset on #1 +get +set; user bob reset on; user carl on; function ann new"
	if strings.Join(got, "; ") != want || wanted[1].GetValue() != "+set" {
		t.Errorf("%s; want %s", strings.Join(got, "; "), want)
	}
	if left := uponDecided(have, []*lockstep.Setting{{Kind: "user", Name: "ann", Removed: true}}); left[0].GetValue() != "" || !left[0].GetRemoved() {
		t.Errorf("a removal became %v", left[0])
	}
}

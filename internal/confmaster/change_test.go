package confmaster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/pause"
	lockstep "lockstep/proto"
)

// addFake starts a replica that the configuration masters do not know.
func (g *fakeGroup) addFake(node string) *fakeReplica {
	f := &fakeReplica{group: g, node: node, manage: freeAddr(g.t), kv: freeAddr(g.t), incarnation: uint64(len(g.fakes) + 100), blank: true}
	g.change(func() { g.fakes = append(g.fakes, f) })
	f.start()
	return f
}

// answered repeats a call until a leader has answered it: on a busy machine leaders of raft change.
func answered(call func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		err := call(ctx)
		if code := status.Code(err); ctx.Err() != nil || code != codes.Unavailable && code != codes.DeadlineExceeded && !isDeposed(err) {
			return err
		}
		pause.For(ctx, 50*time.Millisecond)
	}
}

// isDeposed reports whether the one that was asked led no longer.
func isDeposed(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "leads no longer") || strings.Contains(err.Error(), "does not lead"))
}

func (c *testCluster) change(i int, request *lockstep.ChangeRequest) (plan *lockstep.ChangePlan, err error) {
	request.Group = "g1"
	err = answered(func(ctx context.Context) (err error) {
		plan, err = c.client(i).Change(ctx, request)
		return err
	})
	return plan, err
}

func (c *testCluster) join(i int, request *lockstep.JoinRequest) error {
	return answered(func(ctx context.Context) error {
		_, err := c.client(i).Join(ctx, request)
		return err
	})
}

// wantCode fails unless err has the code and says what to do.
func wantCode(t *testing.T, what string, err error, code codes.Code, says string) {
	t.Helper()
	if status.Code(err) != code || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v, want %v with %q", what, err, code, says)
	}
}

// What could go wrong: a dry run changes something, the second of two operators is not told, a replica of another name is
// registered, a name is given away twice, a follower does not pass the change on, a replica that joins by itself is refused
// when it asks again, or one that was removed comes back by itself.
func TestReplicasAreChanged(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	follower := c.follower()
	before := c.create(follower)
	n4 := c.group.addFake("n4")
	add := func(node string) *lockstep.ChangeRequest {
		return &lockstep.ChangeRequest{Version: before.GetVersion(), Change: &lockstep.ChangeRequest_AddReplica{
			AddReplica: &lockstep.ReplicaSpec{Node: node, ManageAddr: n4.manage}}}
	}

	dry := add("n4")
	dry.DryRun = true
	var plan *lockstep.ChangePlan
	eventually(t, "n4 answers", func() (err error) {
		plan, err = c.change(follower, dry)
		return err
	})
	var err error
	if plan.GetVersion() != before.GetVersion() || len(plan.GetSteps()) == 0 || !strings.Contains(fmt.Sprint(plan.GetChecks()), "it is blank") {
		t.Fatalf("a dry run gives %v", plan)
	}
	_, err = c.change(follower, add("n5"))
	wantCode(t, "the replica has another name", err, codes.FailedPrecondition, "start its replicator first")
	_, err = c.change(follower, &lockstep.ChangeRequest{Change: &lockstep.ChangeRequest_AddReplica{
		AddReplica: &lockstep.ReplicaSpec{Node: "n4", ManageAddr: "nowhere"}}})
	wantCode(t, "nobody answers there", err, codes.FailedPrecondition, "n4 at nowhere")
	_, err = c.change(follower, &lockstep.ChangeRequest{})
	wantCode(t, "a change of nothing", err, codes.InvalidArgument, "no change")

	if plan, err = c.change(follower, add("n4")); status.Code(err) == codes.Aborted {
		t.Log("n4 was added, but the answer was lost")
	} else if err != nil || plan.GetVersion() <= before.GetVersion() {
		t.Fatalf("add n4: %v, %v", plan, err)
	}
	_, err = c.change(follower, add("n4"))
	wantCode(t, "the second operator", err, codes.Aborted, "you saw")
	c.groupWhen(follower, "n4 is a member", func(g *lockstep.GroupStatus) bool {
		return g.GetState() == "ok" && len(g.GetReplicas()) == 4 && g.GetReplicas()[3].GetMember() && g.GetEpoch() == g.GetEstablished()
	})

	_, err = c.change(follower, &lockstep.ChangeRequest{Change: &lockstep.ChangeRequest_SetPolicy{SetPolicy: &lockstep.Policy{Copies: 5}}})
	wantCode(t, "too many copies", err, codes.FailedPrecondition, "add replicas first")
	spec := &lockstep.ReplicaSpec{Node: "n4", ManageAddr: n4.manage, DataAddr: n4.kv}
	join := &lockstep.JoinRequest{Cluster: "c", Group: "g1", Replica: spec, Incarnation: n4.incarnation}
	wantCode(t, "who is registered joins", c.join(follower, join), codes.OK, "")
	join.Incarnation, spec.ManageAddr = 9999, "127.0.0.1:2"
	wantCode(t, "a name in use", c.join(follower, join), codes.AlreadyExists, "another --node")
	join.Cluster = "other"
	wantCode(t, "another cluster", c.join(follower, join), codes.PermissionDenied, "this is")
	join.Cluster, join.Group = "c", "g9"
	wantCode(t, "no such group", c.join(follower, join), codes.FailedPrecondition, "[g1]")

	remove := &lockstep.ChangeRequest{Change: &lockstep.ChangeRequest_RemoveReplica{RemoveReplica: &lockstep.RemoveReplica{Node: "n4", Switchover: true}}}
	if _, err = c.change(follower, remove); err != nil && !strings.Contains(err.Error(), "n4 is no replica") && !strings.Contains(err.Error(), "another change is running") {
		t.Fatal(err)
	}
	c.groupWhen(follower, "n4 is gone", func(g *lockstep.GroupStatus) bool { return len(g.GetReplicas()) == 3 && g.GetState() == "ok" })
	again := &lockstep.JoinRequest{Cluster: "c", Group: "g1", Replica: &lockstep.ReplicaSpec{Node: "n4", ManageAddr: n4.manage, DataAddr: n4.kv}, Incarnation: n4.incarnation}
	wantCode(t, "who was removed joins", c.join(follower, again), codes.AlreadyExists, "was removed from group g1")
}

// The master and one slave are lost: too few are left of three members with two copies. What could go wrong: the group is
// recovered without the operator's words, what may be lost is not shown, the recovery is not on record, or not on
// every configuration master.
func TestForcedRecoveryNeedsTheOperatorsWords(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	follower := c.follower()
	master := c.create(follower).GetMaster()
	recover := func(confirm string, accept, dry bool) (*lockstep.ChangePlan, error) {
		return c.change(follower, &lockstep.ChangeRequest{DryRun: dry, Change: &lockstep.ChangeRequest_Recover{
			Recover: &lockstep.Recover{Confirm: confirm, AcceptLoss: accept}}})
	}
	_, err := recover("g1", true, false)
	wantCode(t, "nothing is lost", err, codes.FailedPrecondition, "nothing needs to be forced")
	var left *fakeReplica
	for _, f := range c.group.fakes {
		if f.node == master || left != nil {
			f.kill()
		} else {
			left = f
		}
	}
	c.groupWhen(follower, "the loss is seen", func(g *lockstep.GroupStatus) bool {
		up := 0
		for _, r := range g.GetReplicas() {
			if r.GetUp() {
				up++
			}
		}
		return up == 1
	})
	plan, err := recover("", false, true)
	if err != nil || len(plan.GetRecovery().GetKept()) != 1 || len(plan.GetRecovery().GetLost()) != 2 || plan.GetRecovery().GetSinceMs() == 0 {
		t.Fatalf("a dry run gives %v, %v", plan, err)
	}
	_, err = recover("g1", false, false)
	wantCode(t, "loss not accepted", err, codes.FailedPrecondition, "--accept-loss")
	_, err = recover("g2", true, false)
	wantCode(t, "another name", err, codes.FailedPrecondition, "not the name of the group")
	eventually(t, "the group is recovered", func() error {
		_, err := recover("g1", true, false)
		if err != nil && status.Code(err) != codes.Aborted { // an election may be begun in between
			t.Fatal(err)
		}
		return err
	})
	for i := range c.members {
		group := c.groupWhen(i, "the group goes on", func(g *lockstep.GroupStatus) bool { return g.GetMaster() == left.node && g.GetState() == "degraded" })
		if r := group.GetRecoveries(); len(r) != 1 || r[0].GetText() == "" || r[0].GetEpoch() == 0 || group.GetCopies() != 1 {
			t.Errorf("the status shows %v", group)
		}
	}
}

package confmaster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"lockstep/internal/failover"
	"lockstep/internal/level"
	"lockstep/internal/pause"
	lockstep "lockstep/proto"
)

func (c *testCluster) raise(i int, request *lockstep.RaiseLevelRequest) (reply *lockstep.LevelsReply, err error) {
	err = answered(func(ctx context.Context) (err error) {
		reply, err = c.client(i).RaiseLevel(ctx, request)
		return err
	})
	return reply, err
}

// able puts programs of that level in place of the configuration masters' and replicas', one after the other.
func (c *testCluster) able(highest int) {
	c.t.Helper()
	for i, m := range c.members {
		if m.done != nil {
			c.stop(i)
		}
		m.config.highest = highest
		c.start(i)
		c.leader()
	}
	c.group.change(func() {
		for _, f := range c.group.fakes {
			f.level = uint32(highest)
		}
	})
}

// end waits for the end of a configuration master that ends by itself.
func (c *testCluster) end(i int) error {
	m := c.members[i]
	err := <-m.done
	m.done = nil
	m.cancel()
	return err
}

// What could go wrong: the level is raised although somebody cannot it; replicas are not told; who did it is not on record; a configuration
// master that is too old goes on with what it does not understand, met in raft's log, in a snapshot of its own or of the leader; or
// somebody who is too old is added.
func TestLevelIsRaisedWhenAllCan(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	c.create(0)
	c.able(2)
	c.group.change(func() { c.group.of("n3").level = 1 })
	asked := c.follower()
	refused := func(request *lockstep.RaiseLevelRequest, code codes.Code, says ...string) {
		t.Helper()
		eventually(t, "a refusal", func() error { // what was said of other reasons before passes
			_, err := c.raise(asked, request)
			for _, word := range says {
				if err == nil || !strings.Contains(err.Error(), word) {
					return fmt.Errorf("%v does not say %q", err, word)
				}
			}
			wantCode(t, fmt.Sprint(request), err, code, says[0])
			return nil
		})
	}
	refused(&lockstep.RaiseLevelRequest{To: 2}, codes.FailedPrecondition, "cannot become 2", "replicator of g1/n3 supports level 1 at most\n  KV node of g1/n3 supports level 1 at most")
	refused(&lockstep.RaiseLevelRequest{To: 300}, codes.InvalidArgument, "no feature level 300")
	c.group.change(func() { c.group.of("n3").level = 2 })
	c.stop(c.bystander())
	var down int
	for i, m := range c.members {
		if m.done == nil {
			down = i
		}
	}
	asked = c.leader()
	refused(&lockstep.RaiseLevelRequest{DryRun: true}, codes.FailedPrecondition, fmt.Sprintf("configuration master c%d: it has", down+1))
	c.start(down)
	asked = c.follower()
	refused(&lockstep.RaiseLevelRequest{To: 2, Seen: 9}, codes.Aborted, "you saw 9")
	eventually(t, "all can level 2", func() error {
		reply, err := c.raise(asked, &lockstep.RaiseLevelRequest{DryRun: true})
		if err != nil || reply.GetLevel() != 1 || reply.GetPossible() != 2 || len(reply.GetProcesses()) != 9 {
			return fmt.Errorf("%v, %v", reply, err)
		}
		return nil
	})
	told := c.tell(asked)
	reply, err := c.raise(asked, &lockstep.RaiseLevelRequest{To: 2, Seen: 1})
	if err != nil || reply.GetLevel() != 2 || !strings.Contains(reply.GetText(), "feature level 2 in place of 1") || len(reply.GetBrings()) != 0 {
		t.Fatalf("%v, %v", reply, err)
	}
	if event := told("level"); event.GetGroup() != "" || !strings.Contains(event.GetText(), "in place of 1") {
		t.Errorf("event %v", event)
	}
	for _, p := range reply.GetProcesses() {
		if p.GetHighest() != 2 || p.GetProblem() != "" || p.GetKind() == "replicator" && p.GetVersion() != p.GetName()+"-version" {
			t.Errorf("%v", p)
		}
	}
	eventually(t, "the replicas are told, and everybody shows it", func() error {
		for i := range c.members {
			s, err := c.status(i)
			if err != nil || s.GetLevel() != 2 || s.GetConfmasters()[0].GetHighestLevel() != 2 {
				return fmt.Errorf("%v: %v", err, s)
			}
		}
		c.group.mu.Lock()
		defer c.group.mu.Unlock()
		for _, f := range c.group.fakes {
			if f.told != 2 {
				return fmt.Errorf("%s was told level %d", f.node, f.told)
			}
		}
		return nil
	})
	var entries []string
	err = answered(func(ctx context.Context) error {
		log, err := c.client(asked).WorkLog(ctx, &lockstep.WorkLogRequest{Group: "g1"})
		for _, e := range log.GetEntries() {
			entries = append(entries, e.GetKind()+" "+e.GetGroup()+" "+e.GetReason())
		}
		return err
	})
	log := strings.Join(entries, "\n")
	if err != nil || !strings.Contains(log, "level  feature level 2 in place of 1") || !strings.Contains(log, "note g1 audit: ") || !strings.Contains(log, "raise the feature level to 2: done") {
		t.Errorf("work log: %v\n%s", err, log)
	}
	if reply, err := c.raise(asked, &lockstep.RaiseLevelRequest{To: 2}); err != nil || !strings.Contains(reply.GetText(), "already") {
		t.Errorf("again: %v, %v", reply, err)
	}
	refused(&lockstep.RaiseLevelRequest{To: 1}, codes.FailedPrecondition, "never lowered")
	c.oldAreRefused(t)
}

// oldAreRefused goes on at level 2.
func (c *testCluster) oldAreRefused(t *testing.T) {
	t.Helper()
	n4 := c.group.addFake("n4")
	spec := &lockstep.ReplicaSpec{Node: "n4", ManageAddr: n4.manage, DataAddr: n4.kv}
	for what, spec := range map[string]*lockstep.ReplicaSpec{"asked for its addresses": {Node: "n4", ManageAddr: n4.manage}, "with all addresses": spec} {
		_, err := c.change(c.leader(), &lockstep.ChangeRequest{Change: &lockstep.ChangeRequest_AddReplica{AddReplica: spec}})
		wantCode(t, what, err, codes.FailedPrecondition, "the replicator of n4 supports feature level 1 at most, and the cluster's is 2")
	}
	join := &lockstep.JoinRequest{Cluster: "c", Group: "g1", Replica: spec}
	wantCode(t, "join", c.join(c.follower(), join), codes.OutOfRange, "level is 2, and you support 1 at most")

	old := c.follower()
	ends := func(what string) {
		t.Helper()
		if err := c.end(old); !errors.Is(err, level.ErrTooLow) || !strings.Contains(err.Error(), "level is 2, and this program supports 1 at most") {
			t.Errorf("%s: it ended with %v", what, err)
		}
	}
	c.stop(old)
	c.members[old].config.highest = 1
	c.start(old)
	ends("in raft's log")

	c.members[old].config.highest = 2
	c.start(old)
	eventually(t, "it has a snapshot of level 2", func() error {
		setPolicies(t, c.members[c.leader()].node, 32)
		node := c.members[old].node
		has, err := onLoop(context.Background(), node, func() bool { // the store belongs to who steps raft
			snapshot, err := node.store.Snapshot()
			return err == nil && bytes.Contains(snapshot.GetData(), []byte(`"Level":2`))
		})
		if err == nil && !has {
			err = errors.New("it has none")
		}
		return err
	})
	c.stop(old)
	c.members[old].config.highest = 1
	m := c.members[old]
	home, err := openHome(&m.config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newNode(&m.config, home); !errors.Is(err, level.ErrTooLow) {
		t.Errorf("its own snapshot: %v", err)
	}
	home.close()
	m.config.highest = 2
	c.start(old)
	c.serves(c.leader(), "")
}

// What could go wrong: a configuration master that was down while the level was raised, and for long after, is brought up to date with a state
// that it does not understand, or refuses it for ever instead of ending.
func TestTooOldForTheLeadersSnapshot(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	c.create(0)
	old := c.follower()
	c.stop(old)
	for i, m := range c.members {
		if i != old {
			c.stop(i)
			m.config.highest = 2
			c.start(i)
			c.leader()
		}
	}
	raise := failover.Command{RaiseLevel: &failover.RaiseLevel{From: 1, To: 2}} // the driver would refuse it: one is down
	eventually(t, "the level is raised", func() error {
		leader := c.members[c.leader()].node
		proposed := make(chan error, 1)
		if err := leader.send(context.Background(), func() error { proposed <- leader.raft.Propose(raise.Encode()); return nil }); err != nil {
			return err
		}
		if err := <-proposed; err != nil {
			return err
		}
		if state := stateOf(t, leader); !bytes.Contains(state, []byte(`"Level":2`)) {
			return fmt.Errorf("%.200s", state)
		}
		return nil
	})
	for range 2 * snapshotEvery / 32 {
		setPolicies(t, c.members[c.leader()].node, 32)
	}
	c.start(old)
	if err := c.end(old); !errors.Is(err, level.ErrTooLow) {
		t.Errorf("it ended with %v", err)
	}
	c.members[old].config.highest = 2
	c.start(old)
	eventually(t, "it has a snapshot of level 2", func() error {
		if state := stateOf(t, c.members[old].node); !bytes.Contains(state, []byte(`"Level":2`)) {
			return fmt.Errorf("%.200s", state)
		}
		return nil
	})
	c.serves(c.leader(), "")
}

// What could go wrong: a configuration master waits for the audit of a cluster without groups, or for ever.
func TestLevelOfAClusterWithoutGroups(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 1)
	defer c.close()
	c.stop(0)
	c.members[0].config.highest = 3
	c.start(0)
	c.leader()
	began := time.Now()
	reply, err := c.raise(0, &lockstep.RaiseLevelRequest{})
	if err != nil || reply.GetLevel() != 3 {
		t.Errorf("%v, %v after %v", reply, err, time.Since(began))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		if levels, err := c.client(0).Levels(ctx, &lockstep.LevelsRequest{}); err == nil && levels.GetLevel() == 3 && len(levels.GetProcesses()) == 1 {
			return
		}
		pause.For(ctx, 10*time.Millisecond)
	}
	t.Error("nobody tells the level")
}

package confmaster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"lockstep/internal/failover"
	"lockstep/internal/fault"
	"lockstep/internal/pause"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

// testCluster is some configuration masters in this process, and the fake replicas of group g1.
type testCluster struct {
	t       *testing.T
	group   *fakeGroup
	members []*testMember
}

type testMember struct {
	config Config
	before func(*node) // called before a life begins to serve, if it is set
	node   *node       // of the present life
	cancel context.CancelFunc
	done   chan error // nil while it is stopped
	conn   *grpc.ClientConn
}

func newTestCluster(t *testing.T, size int, nodes ...string) *testCluster {
	t.Helper()
	c := &testCluster{t: t, group: newFakeGroup(t, "c", "g1", nodes...)}
	var peers []Peer
	for i := range size {
		peers = append(peers, Peer{ID: uint64(i + 1), Addr: freeAddr(t)})
	}
	for _, p := range peers {
		conn, err := grpc.NewClient("passthrough:///"+p.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		c.members = append(c.members, &testMember{conn: conn, config: Config{Dir: t.TempDir() + "/c", New: true, Cluster: "c", ID: p.ID, Peers: peers,
			Sentinel: freeAddr(t), Probe: DefaultProbe, Suspect: DefaultSuspect, Drop: DefaultDrop, Lower: DefaultLower, Logger: quietLogger()}})
		c.start(len(c.members) - 1)
	}
	return c
}

// start begins a life of a configuration master: Run with its node in reach.
func (c *testCluster) start(i int) {
	c.t.Helper()
	m := c.members[i]
	home, err := openHome(&m.config)
	if err != nil {
		c.t.Fatal(err)
	}
	if m.node, err = newNode(&m.config, home); err != nil {
		c.t.Fatal(err)
	}
	m.node.drills = fault.New(fault.Options{Allowed: true, Logger: quietLogger()})
	if m.before != nil {
		m.before(m.node)
	}
	listener, err := net.Listen("tcp", m.config.self().Addr)
	if err != nil {
		c.t.Fatal(err)
	}
	sentinel, err := net.Listen("tcp", m.config.Sentinel)
	if err != nil {
		c.t.Fatal(err)
	}
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	m.done = make(chan error, 1)
	go func() {
		err := m.node.serve(ctx, listener, []net.Listener{sentinel})
		listener.Close() // who ends before it serves leaves them open, as Run expects
		sentinel.Close()
		home.close()
		m.done <- errors.Join(err, m.node.store.close())
	}()
}

// stop ends a life in good order: a leader hands over before.
func (c *testCluster) stop(i int) {
	c.t.Helper()
	m := c.members[i]
	m.cancel()
	if err := <-m.done; err != nil {
		c.t.Errorf("confmaster %d: %v", m.config.ID, err)
	}
	m.done = nil
}

var errKilled = errors.New("killed by the test")

// kill ends a life without any farewell.
func (c *testCluster) kill(i int) {
	c.t.Helper()
	m := c.members[i]
	m.node.send(context.Background(), func() error { return errKilled })
	if err := <-m.done; !errors.Is(err, errKilled) {
		c.t.Errorf("confmaster %d: %v", m.config.ID, err)
	}
	m.cancel()
	m.done = nil
}

func (c *testCluster) close() {
	for i, m := range c.members {
		if m.done != nil {
			c.stop(i)
		}
		m.conn.Close()
	}
	c.group.stop()
}

func (c *testCluster) client(i int) lockstep.ConfmasterClient {
	return lockstep.NewConfmasterClient(c.members[i].conn)
}

func (c *testCluster) status(i int) (*lockstep.ClusterStatus, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return c.client(i).Status(ctx, &lockstep.StatusRequest{})
}

// leader returns the index of the raft leader among those that run; it waits until all of them agree.
func (c *testCluster) leader() int {
	c.t.Helper()
	leader := -1
	eventually(c.t, "a leader", func() error {
		var ids []uint64
		for _, m := range c.members {
			if m.done != nil {
				ids = append(ids, m.node.leader.Load())
			}
		}
		leader = int(ids[0]) - 1
		if leader < 0 || c.members[leader].done == nil || slices.ContainsFunc(ids, func(id uint64) bool { return id != ids[0] }) {
			return fmt.Errorf("leaders are %d", ids)
		}
		return nil
	})
	return leader
}

// follower returns the index of one that does not lead.
func (c *testCluster) follower() int {
	leader := c.leader()
	for i, m := range c.members {
		if i != leader && m.done != nil {
			return i
		}
	}
	c.t.Fatal("there is no follower")
	return -1
}

// bystander returns the index of one that does not lead, if there is any, or else of the only one.
func (c *testCluster) bystander() int {
	if len(c.members) == 1 {
		return 0
	}
	return c.follower()
}

// create registers g1, asked at configuration master i, and waits until it serves.
func (c *testCluster) create(i int) *lockstep.GroupStatus {
	c.t.Helper()
	eventually(c.t, "create the group", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := c.client(i).CreateGroup(ctx, c.group.request())
		return err
	})
	return c.serves(i, "")
}

// serves waits until g1 is in state ok, led by any replica but not by the one given, and every registered one is a member.
func (c *testCluster) serves(i int, other string) *lockstep.GroupStatus {
	c.t.Helper()
	return c.groupWhen(i, "g1 serves", func(g *lockstep.GroupStatus) bool {
		return g.GetState() == "ok" && g.GetMaster() != "" && g.GetMaster() != other
	})
}

func (c *testCluster) groupWhen(i int, what string, holds func(*lockstep.GroupStatus) bool) *lockstep.GroupStatus {
	c.t.Helper()
	var group *lockstep.GroupStatus
	eventually(c.t, what, func() error {
		status, err := c.status(i)
		if err != nil {
			return err
		}
		if len(status.GetGroups()) == 1 && holds(status.GetGroups()[0]) {
			group = status.GetGroups()[0]
			return nil
		}
		return fmt.Errorf("status is %v", status)
	})
	return group
}

// tell follows the events of configuration master i until the test ends.
func (c *testCluster) tell(i int) (next func(name string) *lockstep.Event) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	stream, err := c.client(i).Events(ctx, &lockstep.EventsRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cancel)
	return func(name string) *lockstep.Event {
		c.t.Helper()
		for {
			event, err := stream.Recv()
			if err != nil {
				c.t.Fatalf("confmaster %d tells no %s: %v", i+1, name, err)
			}
			if event.GetName() == name {
				return event
			}
		}
	}
}

// subscribed waits until so many follow the events of configuration master i.
func (c *testCluster) subscribed(i, count int) {
	c.t.Helper()
	eventually(c.t, "subscribers", func() error {
		bus := c.members[i].node.events
		bus.mu.Lock()
		defer bus.mu.Unlock()
		if len(bus.subscribers) < count {
			return fmt.Errorf("%d of %d", len(bus.subscribers), count)
		}
		return nil
	})
}

// What could go wrong: a group is not founded when a follower is asked; a dead master is not noticed, or not replaced;
// the others are not told, some configuration master stays silent about it, or it cannot be explained afterwards; the
// one that comes back does not rejoin.
func TestFailover(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	before := c.create(c.follower())
	if before.GetEstablished() != 2 || before.GetCopies() != 2 {
		t.Fatalf("a new group is %v", before)
	}
	var followed []func(string) *lockstep.Event
	for i := range c.members {
		followed = append(followed, c.tell(i))
		c.subscribed(i, 1)
	}
	old := c.group.of(before.GetMaster())
	killed := time.Now()
	old.kill()
	events := make([]*lockstep.Event, len(followed))
	for i, next := range followed {
		events[i] = next("switch-master")
		if e := events[i]; e.GetFromAddr() != old.kv || e.GetToAddr() != c.group.of(e.GetNode()).kv || e.GetId() != events[0].GetId() {
			t.Fatalf("confmaster %d tells %v, the first %v", i+1, e, events[0])
		}
		// Who asks because of the event must be told the same.
		if g := c.members[i].node.redis.Load().group("g1"); g == nil || net.JoinHostPort(g.master.host, g.master.port) != events[i].GetToAddr() {
			t.Fatalf("Sentinel %d shows another master than %v", i+1, events[i])
		}
	}
	told := time.Since(killed)
	after := c.groupWhen(0, "a new master", func(g *lockstep.GroupStatus) bool { return g.GetMaster() != "" && g.GetMaster() != old.node })
	c.group.mu.Lock()
	lead := c.group.leads[after.GetEstablished()]
	c.group.mu.Unlock()
	t.Logf("killed -> lead taken %v, -> told by all %v", lead.at.Sub(killed).Round(time.Millisecond), told.Round(time.Millisecond))

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reply, err := c.client(c.follower()).WorkLog(ctx, &lockstep.WorkLogRequest{Group: "g1"})
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]*lockstep.WorkEntry{}
	for _, e := range reply.GetEntries() {
		explained[e.GetKind()] = e
	}
	witnesses := map[uint64]bool{}
	for _, w := range explained["election"].GetWitnesses() {
		witnesses[w.GetConfmaster()] = w.GetNode() == old.node && w.GetSaw() != ""
	}
	if len(witnesses) < 2 || len(explained["chosen"].GetCandidates()) < 2 || explained["chosen"].GetMaster() != after.GetMaster() {
		t.Fatalf("the fail-over is explained by %v", reply.GetEntries())
	}

	old.start()
	back := c.groupWhen(0, "the old master is a slave", func(g *lockstep.GroupStatus) bool {
		i := slices.IndexFunc(g.GetReplicas(), func(r *lockstep.ReplicaStatus) bool { return r.GetNode() == old.node })
		return g.GetState() == "ok" && g.GetReplicas()[i].GetMember() && g.GetReplicas()[i].GetState().GetRole() == "slave"
	})
	if back.GetMaster() != after.GetMaster() {
		t.Fatalf("mastership went on to %s", back.GetMaster())
	}
}

// What could go wrong: the leader dies between its decision and its orders, and nobody goes on; or the next leader
// lets two replicas lead one epoch (the fakes check that). Fences are slow, so that the leader dies while it waits.
func TestLeaderDiesInTheMiddleOfAFailover(t *testing.T) {
	defer goleak.VerifyNone(t)
	for name, end := range map[string]func(*testCluster, int){"killed": (*testCluster).kill, "stopped": (*testCluster).stop} {
		t.Run(name, func(t *testing.T) {
			c := newTestCluster(t, 3, "n1", "n2", "n3")
			defer c.close()
			before := c.create(0)
			leader := c.leader()
			old := c.group.of(before.GetMaster())
			c.group.change(func() {
				for _, f := range c.group.fakes {
					f.slow, f.fences = 400*time.Millisecond, 0
				}
			})
			old.kill()
			eventually(t, "fences are on their way", func() error {
				c.group.mu.Lock()
				defer c.group.mu.Unlock()
				for _, f := range c.group.fakes {
					if f.fences > 0 {
						return nil
					}
				}
				return errors.New("none")
			})
			end(c, leader)
			after := c.groupWhen(c.follower(), "a new master", func(g *lockstep.GroupStatus) bool {
				return g.GetMaster() != "" && g.GetMaster() != old.node && g.GetEstablished() > before.GetEstablished()
			})
			if after.GetEpoch() > before.GetEpoch()+2 {
				t.Errorf("it took epochs %d to %d", before.GetEpoch(), after.GetEpoch())
			}
		})
	}
}

// What could go wrong: a restart of all configuration masters forgets the group, gives epochs out again, disturbs a
// group that does well, or tells subscribers of old changes as if they were new.
func TestRestartOfAllChangesNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	first := c.create(0)
	c.group.of(first.GetMaster()).kill()
	c.groupWhen(0, "a new master", func(g *lockstep.GroupStatus) bool { return g.GetMaster() != "" && g.GetMaster() != first.GetMaster() })
	c.group.of(first.GetMaster()).start()
	before := c.serves(0, first.GetMaster())
	for i := range c.members {
		c.stop(i)
	}
	for i := range c.members {
		c.start(i)
		if g := c.members[i].node.redis.Load(); g != nil && g.group("g1") == nil {
			t.Errorf("confmaster %d serves before it knows the group", i+1)
		}
	}
	subscriber, kept := c.members[0].node.events.subscribe(0)
	defer subscriber.leave()
	after := c.serves(c.leader(), first.GetMaster())
	if after.GetEpoch() != before.GetEpoch() || after.GetMaster() != before.GetMaster() {
		t.Fatalf("%v became %v", before, after)
	}
	for len(subscriber.C) > 0 {
		if n := <-subscriber.C; n.event.GetId() != 0 {
			t.Errorf("subscribers are told again of %v", n.event)
		}
	}
	if !slices.ContainsFunc(kept, func(e *lockstep.Event) bool { return e.GetName() == "switch-master" }) {
		t.Errorf("who asks for all events after an id is not told of the fail-over: %v", kept)
	}
}

// What could go wrong: a configuration master that lost its directory comes back as if nothing had happened and votes, with no
// memory of how it voted; or it can never come back. Without --new it is refused; with it, after the others have elected
// among themselves, it gets everything from them, and the next fail-over gives out the next epoch.
func TestLostConfmasterIsRefusedUntilToldOtherwise(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	before := c.create(0)
	lost := c.follower()
	c.kill(lost)
	m := c.members[lost]
	if err := os.RemoveAll(m.config.Dir); err != nil {
		t.Fatal(err)
	}
	m.config.New = false
	if err := Run(t.Context(), m.config); err == nil || !strings.Contains(err.Error(), "add --new") || !strings.Contains(err.Error(), m.config.Dir) {
		t.Fatalf("with an empty directory: %v", err)
	}
	leader := c.leader()
	c.stop(leader)
	c.start(leader)
	c.serves(c.leader(), "")
	m.config.New = true
	c.start(lost)
	eventually(t, "the same state everywhere", func() error {
		for _, other := range c.members {
			if !bytes.Equal(stateOf(t, m.node), stateOf(t, other.node)) {
				return fmt.Errorf("%d differs", other.config.ID)
			}
		}
		return nil
	})
	c.stop(lost)
	m.config.New = false // its directory is not empty any more
	c.start(lost)
	c.group.of(before.GetMaster()).kill()
	after := c.groupWhen(lost, "a new master", func(g *lockstep.GroupStatus) bool {
		return g.GetMaster() != "" && g.GetMaster() != before.GetMaster()
	})
	if after.GetEstablished() <= before.GetEpoch() {
		t.Errorf("epoch %d after %d", after.GetEstablished(), before.GetEpoch())
	}
}

// What could go wrong: the loss of a minority stops fail-overs, the loss of a majority does not, is not shown, or is not
// got over.
func TestMinorityAndMajorityOfConfmastersDown(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	first := c.create(0)
	c.kill(c.follower())
	c.group.of(first.GetMaster()).kill()
	second := c.groupWhen(c.leader(), "a fail-over with two of three", func(g *lockstep.GroupStatus) bool {
		return g.GetMaster() != "" && g.GetMaster() != first.GetMaster()
	})
	c.group.of(first.GetMaster()).start()
	c.serves(c.leader(), first.GetMaster())

	last := c.leader()
	c.kill(c.follower())
	eventually(t, "the loss of the majority is shown", func() error {
		status, err := c.status(last)
		if err == nil && (status.GetHasLeader() || !strings.Contains(status.GetGroups()[0].GetDetail(), "no leader")) {
			err = fmt.Errorf("status is %v", status)
		}
		return err
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := c.client(last).Switchover(ctx, &lockstep.SwitchoverRequest{Group: "g1"}); err == nil || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("a switch-over without a leader: %v", err)
	}
	c.group.of(second.GetMaster()).kill()
	pause.For(ctx, 2*DefaultSuspect)
	status, err := c.status(last)
	if err != nil || status.GetGroups()[0].GetEpoch() != second.GetEpoch() {
		t.Fatalf("one of three gave out an epoch, or does not answer: %v %v", status, err)
	}
	for i, m := range c.members {
		if m.done == nil {
			c.start(i)
		}
	}
	c.groupWhen(last, "the fail-over that was due", func(g *lockstep.GroupStatus) bool {
		return g.GetMaster() != "" && g.GetMaster() != second.GetMaster()
	})
}

// What could go wrong: a master that answers nothing but keeps its connections (a stopped process) is taken for alive,
// or one quiet confmaster's word is enough; after it wakes it leads on.
func TestSilentMasterIsReplaced(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	before := c.create(0)
	old := c.group.of(before.GetMaster())
	frozen := time.Now()
	old.freeze()
	after := c.groupWhen(0, "a new master", func(g *lockstep.GroupStatus) bool { return g.GetMaster() != "" && g.GetMaster() != old.node })
	t.Logf("frozen -> established %v", time.Since(frozen).Round(time.Millisecond))
	old.thaw()
	c.groupWhen(0, "the sleeper is a slave", func(g *lockstep.GroupStatus) bool {
		i := slices.IndexFunc(g.GetReplicas(), func(r *lockstep.ReplicaStatus) bool { return r.GetNode() == old.node })
		return g.GetMaster() == after.GetMaster() && g.GetReplicas()[i].GetState().GetRole() == "slave"
	})
}

// What could go wrong: a switch-over that a follower is asked for does not reach the leader, ends elsewhere, or is
// answered before it is done; nonsense is not refused.
func TestSwitchover(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	before := c.create(0)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, to := range []string{"n1", "n2", "n3"} {
		begun := time.Now()
		reply, err := c.client(c.follower()).Switchover(ctx, &lockstep.SwitchoverRequest{To: to})
		if err != nil {
			t.Fatalf("switch-over to %s: %v", to, err)
		}
		if status, err := c.status(c.leader()); err != nil || status.GetGroups()[0].GetMaster() != to {
			t.Fatalf("%v is followed by %v %v", reply, status, err)
		}
		t.Logf("switch-over to %s took %v", to, time.Since(begun).Round(time.Millisecond))
		c.serves(0, "")
	}
	for request, want := range map[*lockstep.SwitchoverRequest]string{
		{Group: "nosuch"}:           `group "nosuch" is not known`,
		{Group: "g1", To: "nosuch"}: "nosuch is no replica",
	} {
		if _, err := c.client(c.follower()).Switchover(ctx, request); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", request, err)
		}
	}
	bad := c.group.request()
	bad.Copies = 9
	if _, err := c.client(c.follower()).CreateGroup(ctx, bad); err == nil {
		t.Error("a group with 9 copies of 3 replicas is accepted")
	}
	if again, err := c.client(c.follower()).CreateGroup(ctx, c.group.request()); err != nil || again.GetEpoch() < before.GetEpoch() {
		t.Errorf("the same group again: %v %v", again, err)
	}
}

// What could go wrong: a configuration master that was away for longer than the raft log reaches back gets a snapshot
// that it cannot use, or holds another state afterwards; its own restart from that snapshot fails.
func TestSnapshotBringsALateConfmasterUpToDate(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	first := c.create(0)
	late := c.follower()
	c.kill(late)
	c.group.of(first.GetMaster()).kill() // one decision that clients of the late one must hear of
	c.groupWhen(c.leader(), "a new master", func(g *lockstep.GroupStatus) bool { return g.GetMaster() != "" && g.GetMaster() != first.GetMaster() })
	c.group.of(first.GetMaster()).start()
	c.serves(c.leader(), first.GetMaster())
	leader := c.members[c.leader()].node
	for range 2 * snapshotEvery / 32 {
		setPolicies(t, leader, 32)
	}
	var told *subscriber
	c.members[late].before = func(n *node) { told, _ = n.events.subscribe(0) }
	c.start(late)
	same := func() {
		t.Helper()
		eventually(t, "the same state everywhere", func() error {
			want, got := stateOf(t, leader), stateOf(t, c.members[late].node)
			if !bytes.Equal(want, got) {
				return fmt.Errorf("states of %d and %d bytes differ", len(want), len(got))
			}
			return nil
		})
	}
	same()
	if first := c.members[late].node.store.compactedIndex; first < snapshotEvery {
		t.Errorf("the late one has its log from %d on: it got no snapshot", first)
	}
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	look := time.NewTicker(2 * time.Second)
	defer look.Stop()
	for heard := false; !heard; {
		select {
		case <-look.C:
			// On a busy machine the first master may have become the master again before the late one was there: then there was nothing to hear of yet.
			if now := c.groupWhen(c.leader(), "a group", func(*lockstep.GroupStatus) bool { return true }); now.GetMaster() == first.GetMaster() {
				c.group.of(now.GetMaster()).kill()
				c.groupWhen(c.leader(), "a new master", func(g *lockstep.GroupStatus) bool { return g.GetMaster() != "" && g.GetMaster() != first.GetMaster() })
				c.group.of(first.GetMaster()).start()
			}
		case n := <-told.C:
			if n.event.GetName() != "switch-master" {
				continue // Sentinels that it meets
			}
			heard = true
			want := "g1 " + addrText(c.group.of(first.GetMaster()).kv) + " " + addrText(n.event.GetToAddr())
			if !slices.Contains(n.messages, message{"+switch-master", want}) {
				t.Errorf("the first change that clients hear of is %v", n)
			}
		case <-timer.C:
			t.Fatal("clients of the late one do not hear of the new master")
		}
	}
	c.stop(late)
	c.start(late)
	same()
}

// setPolicies puts so many commands through raft at once.
func setPolicies(t *testing.T, n *node, count int) {
	t.Helper()
	answers := make(chan failover.Reply, count)
	for i := range count {
		policy := failover.Policy{Copies: 2, MinCopies: 1 + i%2, Sync: smr.SyncAlways}
		err := n.send(context.Background(), func() error {
			n.ask(&failover.Request{SetPolicy: &failover.SetPolicy{Group: "g1", Policy: policy}}, func(reply failover.Reply) { answers <- reply })
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range count {
		if reply := <-answers; !reply.Done {
			t.Fatalf("set policy: %s", reply.Text)
		}
	}
}

func stateOf(t *testing.T, n *node) []byte {
	t.Helper()
	state := make(chan []byte, 1)
	if err := n.send(context.Background(), func() error { state <- n.state.Encode(); return nil }); err != nil {
		t.Fatal(err)
	}
	return <-state
}

// What could go wrong: a configuration master of another cluster, or a stranger, takes part in raft or in opinions.
func TestForeignPeersAreRefused(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 1, "n1")
	defer c.close()
	c.leader()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	peer := lockstep.NewPeerClient(c.members[0].conn)
	for _, m := range []*lockstep.RaftMessage{{Cluster: "other", From: 2}, {Cluster: "c", From: 1}, {Cluster: "c", From: 7}} {
		stream, err := peer.Raft(ctx)
		if err == nil {
			err = stream.Send(m)
		}
		if err == nil {
			_, err = stream.CloseAndRecv()
		}
		if err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
			t.Errorf("%v: %v", m, err)
		}
		if _, err := peer.Opine(ctx, &lockstep.Opinions{Cluster: m.GetCluster(), From: m.GetFrom()}); err == nil {
			t.Errorf("opinions of %v are taken", m)
		}
	}
}

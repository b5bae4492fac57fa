package confmaster

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"lockstep/internal/failover"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

// first of three configuration masters; the others are not there.
func first(t *testing.T) Config {
	config := alone(t, filepath.Join(t.TempDir(), "c1"))
	config.Sentinel = ""
	config.Peers = append(config.Peers, Peer{ID: 2, Addr: freeAddr(t)}, Peer{ID: 3, Addr: freeAddr(t)})
	return config
}

// What could go wrong: somebody who is no peer, a peer of another cluster, or a broken one makes the process stop, or puts
// entries, votes or a snapshot into its raft. Each message must be refused with the reason, and the process must answer
// afterwards as before.
func TestOnlyPeersSpeakRaft(t *testing.T) {
	defer goleak.VerifyNone(t)
	config := first(t)
	stop := runs(t, config)
	defer stop()
	conn, err := dial(config.self().remote(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer := lockstep.NewPeerClient(conn)
	eventually(t, "it answers", func() error { return alive(conn) })

	state := string(failover.NewState("c").Encode())
	voters := func(ids ...uint64) *raftpb.SnapshotMetadata {
		return &raftpb.SnapshotMetadata{ConfState: &raftpb.ConfState{Voters: ids}, Index: new(uint64(900)), Term: new(uint64(9))}
	}
	message := func(kind raftpb.MessageType, change func(*raftpb.Message)) func(*lockstep.RaftMessage) {
		return func(m *lockstep.RaftMessage) {
			inner := &raftpb.Message{Type: &kind, From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(9))}
			if change != nil {
				change(inner)
			}
			m.Data, _ = proto.Marshal(inner)
		}
	}
	for name, test := range map[string]struct {
		change func(*lockstep.RaftMessage)
		code   codes.Code
		want   string
	}{
		"other cluster":  {func(m *lockstep.RaftMessage) { m.Cluster = "d" }, codes.PermissionDenied, `cluster "d", this is "c"`},
		"stranger":       {func(m *lockstep.RaftMessage) { m.From = 4 }, codes.PermissionDenied, "4 is no peer of 1"},
		"itself":         {func(m *lockstep.RaftMessage) { m.From = 1 }, codes.PermissionDenied, "1 is no peer of 1"},
		"nobody":         {func(m *lockstep.RaftMessage) { m.From = 0 }, codes.PermissionDenied, "0 is no peer of 1"},
		"garbage":        {func(m *lockstep.RaftMessage) { m.Data = []byte("garbage") }, codes.InvalidArgument, "raft message of 2"},
		"in other name":  {message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.From = new(uint64(3)) }), codes.InvalidArgument, "from 3"},
		"to another":     {message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.To = new(uint64(3)) }), codes.InvalidArgument, "to 3"},
		"local":          {message(raftpb.MsgHup, nil), codes.InvalidArgument, "MsgHup"},
		"storage":        {message(raftpb.MsgStorageAppendResp, nil), codes.InvalidArgument, "MsgStorageAppendResp"},
		"proposal":       {message(raftpb.MsgProp, nil), codes.InvalidArgument, "MsgProp"},
		"empty snapshot": {message(raftpb.MsgSnap, nil), codes.InvalidArgument, "snapshot"},
		"new member": {message(raftpb.MsgApp, func(m *raftpb.Message) {
			kind := raftpb.EntryConfChange
			m.Entries = []*raftpb.Entry{{Type: &kind, Index: new(uint64(2)), Term: new(uint64(9))}}
		}), codes.InvalidArgument, "membership"},
		"bad snapshot": {message(raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = &raftpb.Snapshot{Data: []byte("nonsense"), Metadata: voters(1, 2, 3)}
		}), codes.InvalidArgument, "snapshot"},
		"newer snapshot": {message(raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = &raftpb.Snapshot{Data: []byte(strings.Replace(state, `"Version":1`, `"Version":99`, 1)), Metadata: voters(1, 2, 3)}
		}), codes.InvalidArgument, "99"},
		"other cluster's snapshot": {message(raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = &raftpb.Snapshot{Data: failover.NewState("d").Encode(), Metadata: voters(1, 2, 3)}
		}), codes.InvalidArgument, `cluster "d"`},
		"other voters": {message(raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = &raftpb.Snapshot{Data: []byte(state), Metadata: voters(1, 2)}
		}), codes.InvalidArgument, "fixed"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		stream, err := peer.Raft(ctx)
		if err != nil {
			t.Fatal(err)
		}
		m := &lockstep.RaftMessage{From: 2, Cluster: "c"}
		message(raftpb.MsgHeartbeat, nil)(m)
		test.change(m)
		stream.Send(m) // whether it was taken is what CloseAndRecv says
		_, err = stream.CloseAndRecv()
		if status.Code(err) != test.code || !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if err := alive(conn); err != nil {
		t.Error(err)
	}
}

// alive asks for the local status: without its peers, a configuration master of three has no leader and says so.
func alive(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reply, err := lockstep.NewConfmasterClient(conn).Status(ctx, &lockstep.StatusRequest{})
	if err == nil && (reply.GetHasLeader() || len(reply.GetConfmasters()) != 3) {
		err = fmt.Errorf("status %v", reply)
	}
	return err
}

// What could go wrong: opinions of a stranger, or ones sent to a follower, count; a change is accepted, or hangs, while there
// is no leader.
func TestWithoutLeaderNothingIsAccepted(t *testing.T) {
	defer goleak.VerifyNone(t)
	config := first(t)
	stop := runs(t, config)
	defer stop()
	conn, err := dial(config.self().remote(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "it answers", func() error { return alive(conn) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, peer := lockstep.NewConfmasterClient(conn), lockstep.NewPeerClient(conn)
	for name, test := range map[string]struct {
		call func() error
		code codes.Code
		want string
	}{
		"create": {func() error { _, err := client.CreateGroup(ctx, &lockstep.CreateGroupRequest{Name: "g1"}); return err },
			codes.Unavailable, "no leader"},
		"switch over": {func() error { _, err := client.Switchover(ctx, &lockstep.SwitchoverRequest{}); return err },
			codes.Unavailable, "no leader"},
		"opinions": {func() error { _, err := peer.Opine(ctx, &lockstep.Opinions{From: 2, Cluster: "c"}); return err },
			codes.Unavailable, "does not lead"},
		"a stranger's opinions": {func() error { _, err := peer.Opine(ctx, &lockstep.Opinions{From: 7, Cluster: "c"}); return err },
			codes.PermissionDenied, "7"},
		"another cluster's opinions": {func() error { _, err := peer.Opine(ctx, &lockstep.Opinions{From: 2, Cluster: "d"}); return err },
			codes.PermissionDenied, `"d"`},
		"endless opinions": {func() error {
			_, err := peer.Opine(ctx, &lockstep.Opinions{From: 2, Cluster: "c", Opinions: make([]*lockstep.Opinion, failover.MaxGroups*failover.MaxReplicas+1)})
			return err
		}, codes.InvalidArgument, "opinions"},
		"work log": {func() error { _, err := client.WorkLog(ctx, &lockstep.WorkLogRequest{}); return err }, codes.OK, ""},
	} {
		if err := test.call(); status.Code(err) != test.code || !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// stoodStill returns a node whose loop does not run: the test is the loop.
func stoodStill(t *testing.T, config Config) (n *node, stop func()) {
	t.Helper()
	h, err := openHome(&config)
	if err != nil {
		t.Fatal(err)
	}
	n, err = newNode(&config, h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	conns := &conns{dial: dialer(nil), open: make(map[remote]*grpc.ClientConn)}
	n.links, n.opiner = newLinks(n, conns), newOpiner(n, conns)
	n.watch, n.calls = newWatcher(ctx, n, conns), newCaller(ctx, n, conns)
	n.publish()
	return n, func() {
		t.Helper()
		cancel()
		close(n.stopped)
		n.watch.wait()
		n.calls.wait()
		conns.close()
		if err := n.store.close(); err != nil {
			t.Error(err)
		}
		h.close()
	}
}

// grown returns the state of a group of n1 and n2 after as many fail-overs as there are names in masters.
func grown(t *testing.T, masters ...smr.NodeID) *failover.State {
	t.Helper()
	state := failover.NewState("c")
	apply := func(c failover.Command) {
		t.Helper()
		if result := state.Apply(&c); !result.Applied {
			t.Fatal(result.Reason)
		}
	}
	apply(failover.Command{CreateGroup: &failover.CreateGroup{Name: "g1", Policy: failover.Policy{Copies: 1, MinCopies: 1}, Replicas: []failover.Replica{
		{Node: "n1", ManageAddr: "127.0.0.1:1", DataAddr: "127.0.0.1:1", KVAddr: "127.0.0.1:6001"},
		{Node: "n2", ManageAddr: "127.0.0.1:2", DataAddr: "127.0.0.1:2", KVAddr: "127.0.0.1:6002"}}}})
	members := []smr.Member{{Node: "n1", Incarnation: 1}, {Node: "n2", Incarnation: 2}}
	apply(failover.Command{Found: &failover.Found{Group: "g1", Config: smr.Config{Master: "n1", Copies: 1, Members: members}}})
	for i, master := range masters {
		epoch := smr.Epoch(i + 2)
		apply(failover.Command{BeginElection: &failover.BeginElection{Group: "g1", Expect: epoch - 1, Kind: failover.ElectionFailover}})
		choose := &failover.Choose{Group: "g1", Epoch: epoch, Master: master, Life: 1}
		for _, m := range members {
			choose.Candidates = append(choose.Candidates, failover.Candidate{Node: m.Node, Incarnation: m.Incarnation, Life: 1})
			if m.Node == master {
				choose.Incarnation = m.Incarnation
			}
		}
		apply(failover.Command{Choose: choose})
		apply(failover.Command{Establish: &failover.Establish{Group: "g1", Epoch: epoch}})
	}
	return state
}

// What could go wrong: a configuration master that was away gets a snapshot in place of the decisions, and its subscribers
// never hear of the fail-over that lies in between; or they hear of it before get-master-addr-by-name knows; or a snapshot
// without a fail-over makes news.
func TestSnapshotTellsOfMissedFailover(t *testing.T) {
	defer goleak.VerifyNone(t)
	n, stop := stoodStill(t, first(t))
	defer stop()
	index := uint64(100)
	install := func(masters ...smr.NodeID) {
		t.Helper()
		index++
		snapshot := &raftpb.Snapshot{Data: grown(t, masters...).Encode(), Metadata: &raftpb.SnapshotMetadata{ConfState: n.confState, Index: new(index), Term: new(uint64(1))}}
		n.stepRaft(&raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(5)), Snapshot: snapshot})
		if err := n.settle(); err != nil {
			t.Fatal(err)
		}
		if n.applied != index {
			t.Fatalf("applied up to %d, the snapshot is at %d", n.applied, index)
		}
	}
	subscriber, _ := n.events.subscribe(0)
	defer subscriber.leave()
	silent := func(when string) {
		t.Helper()
		if len(subscriber.C) != 0 {
			t.Errorf("%s: %v", when, (<-subscriber.C).messages)
		}
	}
	install("n1")
	silent("the first master is no switch")
	install("n1", "n2", "n1")
	silent("the master is the same again")
	install("n1", "n2", "n1", "n2")
	if len(subscriber.C) != 1 {
		t.Fatalf("%d notices", len(subscriber.C))
	}
	notice := <-subscriber.C
	want := []message{{"+failover-end", "master g1 127.0.0.1 6001"}, {"+switch-master", "g1 127.0.0.1 6001 127.0.0.1 6002"},
		{"+slave", "slave 127.0.0.1:6001 127.0.0.1 6001 @ g1 127.0.0.1 6002"}}
	if fmt.Sprint(notice.messages) != fmt.Sprint(want) {
		t.Errorf("told %v, want %v", notice.messages, want)
	}
	if notice.event.GetFromAddr() != "127.0.0.1:6001" || notice.event.GetToAddr() != "127.0.0.1:6002" || notice.event.GetEpoch() != 5 {
		t.Errorf("told %v", notice.event)
	}
	if g := n.redis.Load().group("g1"); g == nil || g.master.port != "6002" {
		t.Errorf("the view is behind the news: %v", g)
	}
	if got := n.status.Load().GetGroups()[0].GetMaster(); got != "n2" {
		t.Errorf("the status is behind the news: %s", got)
	}
	install("n1", "n2", "n1", "n2")
	silent("nothing has changed")
}

// What could go wrong: a replicator that takes calls and never answers, or one that is gone, leaves a call of the driver
// without answer, or answers it twice; calls pile up without bound; or the effects of an answer that comes while effects
// are carried out are lost. How many of the calls find no room depends on how fast others are refused: every one must be
// answered once, by its own number, whatever that is.
func TestEveryCallIsAnsweredOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	n, stop := stoodStill(t, first(t))
	defer stop()
	hung, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody speaks
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	answers := make(map[failover.CallID]int)
	n.calls.answered = func(a *failover.Answer) {
		answers[a.ID]++
		if a.Code != failover.AnswerUnavailable {
			t.Errorf("call %d is answered %v", a.ID, a)
		}
		n.effects.Events = append(n.effects.Events, failover.Event{Group: "g1", Node: "n1", Text: fmt.Sprint(a.ID)}) // what a driver may do
	}
	const surplus = 10
	next := failover.CallID(0)
	note := func(addr string) {
		next++
		n.effects.Calls = append(n.effects.Calls, failover.Call{ID: next, Group: "g1", Node: "n1", Kind: failover.CallFence, Epoch: 2, TimeoutTicks: 20, Addr: addr})
	}

	// No room at all: everything is refused while it is carried out.
	for range maxCalls {
		n.calls.slots <- struct{}{}
	}
	for range surplus {
		note(hung.Addr().String())
	}
	if !n.carryOut() {
		t.Fatal("nothing was carried out")
	}
	if len(answers) != surplus || len(n.inbox) != 0 || len(n.effects.Events) != surplus {
		t.Errorf("%d of %d calls were refused at once, %d wait, %d effects are left", len(answers), surplus, len(n.inbox), len(n.effects.Events))
	}
	for range maxCalls {
		<-n.calls.slots
	}

	// More than there is room for, half of them refused by the other side sooner or later.
	for i := range maxCalls + surplus {
		if i%2 == 0 {
			note(freeAddr(t))
		} else {
			note(hung.Addr().String())
		}
	}
	n.carryOut()
	if n.carryOut(); len(n.effects.Calls) != 0 {
		t.Error("calls were noted twice")
	}
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	for len(answers) < int(next) {
		select {
		case take := <-n.inbox:
			if err := take(); err != nil {
				t.Fatal(err)
			}
		case <-timer.C:
			t.Fatalf("%d of %d calls were answered", len(answers), next)
		}
	}
	n.calls.wait()
	for id := range next {
		if answers[id+1] != 1 {
			t.Errorf("call %d has %d answers", id+1, answers[id+1])
		}
	}
	if len(n.inbox) != 0 || len(n.calls.slots) != 0 {
		t.Errorf("%d answers are left over, %d slots taken", len(n.inbox), len(n.calls.slots))
	}
}

// What could go wrong: a subscriber that does not read holds up the loop, keeps memory, or is told of half of what happens
// without noticing; leaving, or being cut off, closes a channel twice.
func TestSlowSubscriberIsCutOff(t *testing.T) {
	b := newBus()
	slow, _ := b.subscribe(0)
	quick, _ := b.subscribe(0)
	for i := range uint64(busLength + 10) {
		b.publish(&notice{event: &lockstep.Event{Id: i + 1}})
		if got := (<-quick.C).event.GetId(); got != i+1 {
			t.Fatalf("event %d after %d", got, i)
		}
	}
	got := 0
	for range slow.C { // ends: the channel is closed
		got++
	}
	if got != busLength {
		t.Errorf("the slow one got %d", got)
	}
	slow.leave()
	quick.leave()
	quick.leave()
	if _, open := <-quick.C; open || len(b.subscribers) != 0 {
		t.Error("who left is still there")
	}
	again, kept := b.subscribe(busLength)
	defer again.leave()
	if len(kept) != 10 || kept[0].GetId() != busLength+1 {
		t.Errorf("%d were kept for who comes again", len(kept))
	}
	for i := range uint64(2 * busKept) {
		b.keep(&lockstep.Event{Id: 1000 + i})
	}
	if len(b.kept) != busKept || b.kept[0].GetId() != 1000+busKept {
		t.Errorf("%d are kept, from %d", len(b.kept), b.kept[0].GetId())
	}
	var all []*subscriber
	for s, _ := b.subscribe(0); s != nil; s, _ = b.subscribe(0) {
		all = append(all, s)
	}
	if len(all) != maxSubscribers-1 {
		t.Errorf("%d subscribers beside one", len(all))
	}
}

// What could go wrong: a flood of connections uses up all file descriptors, or a closed one keeps its place.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	listener := &limitedListener{Listener: inner, slots: make(chan struct{}, 2)}
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	connect := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		return conn
	}
	one, two, three := connect(), connect(), connect()
	defer one.Close()
	defer two.Close()
	defer three.Close()
	if _, err := three.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Fatalf("the third one stays: %v", err)
	}
	server := <-accepted
	server.Close()
	server.Close() // as gRPC may
	four := connect()
	defer four.Close()
	if _, err := (<-accepted).Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := (<-accepted).Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := four.Read(make([]byte, 1)); err != nil {
		t.Errorf("the place of a closed one is not free: %v", err)
	}
	if len(listener.slots) != 2 {
		t.Errorf("%d of 2 places are taken", len(listener.slots))
	}
}

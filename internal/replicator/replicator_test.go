package replicator

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"lockstep/proto"
	"lockstep/smr"
	"lockstep/smr/wire"
)

func startThree(t testing.TB) (nodes []*tester, kvs []*testKV, c *conductor) {
	t.Helper()
	for i := range 3 {
		nodes = append(nodes, start(t, testConfig(tempDir(t), fmt.Sprintf("n%d", i+1))))
	}
	for _, x := range nodes {
		kvs = append(kvs, attachKV(x))
	}
	return nodes, kvs, create(t, 2, nodes...)
}

// The whole path: requests reach the master, are durable on two replicas, and come out of every KV node's log files.
// Reads and counts of copies are answered. What could go wrong: any link of the chain; seen by requests that are never
// executed, or by logs that differ.
func TestThreeReplicasCommitAndExecute(t *testing.T) {
	nodes, kvs, c := startThree(t)
	master := c.elect(nodes...)
	client, err := dialClient(master, 42)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	const requests = 2000
	for sequence := uint64(1); sequence <= requests; sequence += 20 {
		if err := client.propose(sequence, sequence+19, []byte("value")); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range kvs {
		if err := k.awaitExecuted(42, requests); err != nil {
			t.Fatal(err)
		}
	}
	for id := uint64(1); id <= 3; id++ {
		client.conn.Write(wire.AppendMessage(nil, &smr.ReadIndex{ID: id}))
	}
	var ready *smr.ReadReady
	for ready == nil || ready.ID < 3 {
		message, err := client.r.Next()
		if err != nil {
			t.Fatal(err)
		}
		ready = message.(*smr.ReadReady)
	}
	for _, x := range nodes {
		x.await("all durable", func(s *proto.ReplicaState) bool { return s.Durable >= uint64(ready.LSN) })
	}
	copies := func(lsn smr.LSN, want int) {
		t.Helper()
		eventually(t, func() error {
			client.conn.Write(wire.AppendMessage(nil, &smr.CountCopies{ID: 9, LSN: lsn}))
			counted, err := wire.Expect[smr.CopiesCounted](client.r)
			if err != nil || counted.ID != 9 {
				t.Fatal(counted, err)
			}
			if counted.Copies != want {
				return fmt.Errorf("%d copies of %d, want %d", counted.Copies, lsn, want)
			}
			return nil
		})
	}
	copies(ready.LSN, 3)
	copies(0, 3)
	state := master.state()
	if !state.Writable || !state.Leading || state.Role != "master" || len(state.Peers) != 2 || state.LoopCount == 0 || state.KvPid == 0 {
		t.Errorf("state of the master: %s", state)
	}
	kvs[1].awaitStatus("knows the master", func(s smr.Status) bool {
		return s.Master == smr.NodeID(master.cfg.Node) && s.MasterAddr == master.ends.Data.String() && s.Writable && s.Role == smr.RoleSlave
	})
	for _, x := range nodes {
		if x != master {
			if err := x.stop(); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	copies(ready.LSN, 3) // it holds them, here or not
	copies(0, 2)
	compareLogs(t, smr.LSN(ready.LSN), nodes)
}

// compareLogs stops all and compares their logs below commit.
func compareLogs(t *testing.T, commit smr.LSN, nodes []*tester) {
	t.Helper()
	var first []byte
	for _, x := range nodes {
		if err := x.stop(); err != nil {
			t.Errorf("%s: %v", x.cfg.Node, err)
		}
		b := logBytes(t, x.cfg.Dir, commit)
		if first == nil {
			first = b
		}
		if !bytes.Equal(first, b) {
			t.Errorf("the logs of %s and %s differ below %d", nodes[0].cfg.Node, x.cfg.Node, commit)
		}
	}
}

// A fail-over: the master is killed while a session writes through it; another one leads; the session resends; the killed
// one comes back, is cut to the common prefix and catches up. Nothing is executed twice, nothing acknowledged is lost.
func TestFailOverLosesNothing(t *testing.T) {
	nodes, kvs, c := startThree(t)
	const session = 7
	next := uint64(1)
	for round := range 4 {
		master := c.elect(nodes...)
		client, err := dialClient(master, session)
		if err != nil {
			t.Fatal(err)
		}
		// The session begins anew from what is executed; a few of the last round may come twice.
		if next > 5 {
			if err := client.propose(next-5, next-1, []byte("again")); err != nil {
				t.Fatal(err)
			}
		}
		for range 50 {
			if err := client.propose(next, next+9, bytes.Repeat([]byte("x"), 500)); err != nil {
				t.Fatal(err)
			}
			next += 10
		}
		for _, k := range kvs {
			if err := k.awaitExecuted(session, next-1); err != nil {
				t.Fatal(err)
			}
		}
		// Some more that nobody waits for: they may or may not survive.
		_ = client.propose(next, next+2, []byte("in flight"))
		i := indexOf(nodes, master)
		kvs[i].detach()
		if err := master.stop(); err != nil {
			t.Fatal(err)
		}
		client.conn.Close()
		others := append(append([]*tester(nil), nodes[:i]...), nodes[i+1:]...)
		successor := c.elect(others...)
		nodes[i] = start(t, master.cfg)
		kvs[i] = attachKV(nodes[i])
		c.follow(nodes[i], successor)
		nodes[i].await("joined", func(s *proto.ReplicaState) bool { return s.Joined })
		if round%2 == 0 { // the requests in flight are sent again, as a session does
			client, err := dialClient(successor, session)
			if err != nil {
				t.Fatal(err)
			}
			if err := client.propose(next, next+2, []byte("in flight")); err != nil {
				t.Fatal(err)
			}
			next += 3
			for _, k := range kvs {
				if err := k.awaitExecuted(session, next-1); err != nil {
					t.Fatal(err)
				}
			}
			client.conn.Close()
		} else {
			next = kvs[0].lastExecuted(session) + 1
			for _, k := range kvs {
				next = max(next, k.lastExecuted(session)+1)
			}
		}
	}
	commit := smr.LSN(nodes[0].state().Commit)
	for _, x := range nodes {
		x.await("all durable", func(s *proto.ReplicaState) bool { return s.Durable >= uint64(commit) })
	}
	compareLogs(t, commit, nodes)
}

func (k *testKV) lastExecuted(session smr.SessionID) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.executed[session]
}

func indexOf(nodes []*tester, x *tester) int {
	for i := range nodes {
		if nodes[i] == x {
			return i
		}
	}
	return -1
}

// What could go wrong: a configuration master that asks before the first round of the loop is told of a replica that is not
// blank, holds nothing and is stuck, and takes it for a stranger's or for dead.
func TestStateBeforeTheFirstRoundIsTrue(t *testing.T) {
	cfg := testConfig(tempDir(t), "n1")
	var first *proto.ReplicaState
	cfg.started = func(n *node) { first = n.state() }
	x := start(t, cfg)
	if !first.Blank || first.Role != "none" || first.LoopIdleMs > uint32(patience.Milliseconds()) || first.Incarnation == 0 {
		t.Errorf("before the loop runs: %v", first)
	}
	x.await("blank", func(s *proto.ReplicaState) bool { return s.Blank })
}

// Watch tells of a change at once, not at the next interval; it also works while nothing changes.
func TestWatchTellsChangesAtOnce(t *testing.T) {
	x := start(t, testConfig(tempDir(t), "n1"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	watch, err := x.manage.Watch(ctx, &proto.WatchRequest{Target: x.target(), IntervalMs: 60_000})
	if err != nil {
		t.Fatal(err)
	}
	state, err := watch.Recv()
	if err != nil || !state.Blank || state.Role != "none" {
		t.Fatal(state, err)
	}
	c := create(t, 1, x)
	c.elect(x)
	for !state.Leading || state.Reportable != c.epoch {
		if state, err = watch.Recv(); err != nil {
			t.Fatal(err)
		}
	}
}

// A planned hand-over fences the master first: it answers its End, takes no more, and still ships what it had appended, so
// that the slaves reach that End and the chosen one leads without a byte lost.
func TestFencedMasterStillShipsItsTail(t *testing.T) {
	nodes, kvs, c := startThree(t)
	master := c.elect(nodes...)
	i := indexOf(nodes, master)
	client, err := dialClient(master, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	if err := client.propose(1, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := kvs[i].awaitExecuted(7, 1); err != nil {
		t.Fatal(err)
	}
	for sequence := uint64(2); sequence <= 200; sequence++ {
		if err := client.propose(sequence, sequence, make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
	}
	var answer *proto.FenceReply
	if err := call(func(ctx context.Context) (err error) {
		answer, err = master.manage.Fence(ctx, &proto.FenceRequest{Target: master.target(), Epoch: c.epoch + 1})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	others := append(append([]*tester(nil), nodes[:i]...), nodes[i+1:]...)
	for _, x := range others {
		x.await("reaches the fenced master's end", func(s *proto.ReplicaState) bool { return s.Durable == answer.End })
	}
	successor := c.elect(others...)
	c.follow(master, successor)
	master.await("joined", func(s *proto.ReplicaState) bool { return s.Joined })
	commit := smr.LSN(successor.await("committed", func(s *proto.ReplicaState) bool { return s.Commit > answer.End }).Commit)
	for _, x := range nodes {
		x.await("all durable", func(s *proto.ReplicaState) bool { return s.Durable >= uint64(commit) })
	}
	compareLogs(t, commit, nodes)
}

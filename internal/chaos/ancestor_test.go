package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/local"
	"lockstep/proto"
)

// Each test here is a fault that was reproduced in nbase-arc, or read in its code, put to real processes of ours.

// blackHole returns an address that takes connections and never answers, and counts them.
func blackHole(t *testing.T) (addr string, taken func() int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		listener.Close()
		wait.Wait()
		for _, conn := range conns {
			conn.Close()
		}
	})
	return listener.Addr().String(), func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(conns)
	}
}

// deadAddress returns an address that refuses connections.
func deadAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// nbase-arc cut a log of 169 bytes back to 66 when it was told to rejoin a master that was dead: it rewound before the
// handshake. Here the slaves of a dead master are told to follow it, at an address where nobody is and at one that never
// answers, before and after a restart of their own: not a byte may go.
func TestRejoiningADeadMasterKeepsTheLog(t *testing.T) {
	w := shared(t)
	master, slaves, epoch := w.standing()
	key := w.written(slaves[0], 50)
	w.kill(w.confmasters()...) // from here on the orders are ours
	w.kill(local.ReplicatorOf(master), local.KVNodeOf(master))
	hole, taken := blackHole(t)
	before := make(map[string]*proto.ReplicaState)
	for _, slave := range slaves {
		before[slave] = w.mustState(slave)
	}
	check := func(when string) {
		t.Helper()
		for _, slave := range slaves {
			if now := w.mustState(slave); now.GetEnd() < before[slave].GetEnd() || now.GetDurable() < before[slave].GetDurable() ||
				now.GetIncarnation() != before[slave].GetIncarnation() {
				t.Fatalf("%s: %s held bytes up to %d (durable %d), now up to %d (durable %d)", when, slave,
					before[slave].GetEnd(), before[slave].GetDurable(), now.GetEnd(), now.GetDurable())
			}
		}
	}
	follow := func(addr string) {
		t.Helper()
		for _, slave := range slaves {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_, err := manage(t, w.replica(slave).ManageAddr).Follow(ctx, &proto.FollowRequest{Target: w.target(slave), Epoch: epoch, Master: master, MasterAddr: addr})
			cancel()
			if err != nil {
				t.Fatalf("follow: %v", err)
			}
		}
	}
	follow(deadAddress(t))
	check("after an order to follow a dead address")
	follow(hole)
	w.eventually("the slaves try the black hole", func(context.Context) error {
		if taken() < len(slaves) {
			return fmt.Errorf("%d connections", taken())
		}
		return nil
	})
	check("after an order to follow a black hole")
	for _, slave := range slaves {
		w.kill(local.ReplicatorOf(slave))
		w.back(local.ReplicatorOf(slave))
	}
	check("after a restart")
	follow(deadAddress(t))
	check("after a restart and an order to follow a dead address")

	w.back(append(w.confmasters(), local.ReplicatorOf(master), local.KVNodeOf(master))...)
	w.wholeAgain()
	w.holds(key, 50, append(slaves, master)...)
}

// nbase-arc froze for over 30 s: it connected to the new master in its event loop. The order itself and all liveness
// answers must come while the address swallows everything. They take less than a millisecond; that half of them come
// within a second is far from both, whatever else this machine does.
func TestFollowingABlackHoleLeavesLivenessAlone(t *testing.T) {
	w := shared(t)
	master, slaves, epoch := w.standing()
	slave := slaves[0]
	hole, taken := blackHole(t)
	w.kill(w.confmasters()...)
	w.kill(local.ReplicatorOf(master))
	client := manage(t, w.replica(slave).ManageAddr)
	const answers = 100
	var late []time.Duration
	timed := func(call func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		began := time.Now()
		if err := call(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			late = append(late, took)
		}
	}
	timed(func(ctx context.Context) error { // which opens the connection, too
		_, err := client.State(ctx, &proto.WatchRequest{Target: w.target(slave)})
		return err
	})
	timed(func(ctx context.Context) error {
		_, err := client.Follow(ctx, &proto.FollowRequest{Target: w.target(slave), Epoch: epoch, Master: master, MasterAddr: hole})
		return err
	})
	w.eventually("the slave tries the black hole", func(context.Context) error {
		if taken() == 0 {
			return errors.New("no connection")
		}
		return nil
	})
	for range answers {
		timed(func(ctx context.Context) error {
			state, err := client.State(ctx, &proto.WatchRequest{Target: w.target(slave)})
			if err == nil && state.GetLoopIdleMs() > 25_000 {
				err = fmt.Errorf("the loop has not come round for %d ms", state.GetLoopIdleMs())
			}
			return err
		})
	}
	if len(late) > answers/2 {
		t.Errorf("%d of %d answers took longer than a second: %v", len(late), answers, late)
	}
	w.back(append(w.confmasters(), local.ReplicatorOf(master))...)
	w.wholeAgain()
}

// nbase-arc wrote through a memory map and died of SIGBUS. Here the only replica's disk is filled: writes are refused with
// an error that says so, reads go on, the process is the same one throughout, and writes go on when there is room.
func TestFullDiskRefusesWritesAndStaysUp(t *testing.T) {
	port, _, err := local.ReservePorts(local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := local.Prepare(freshDirectory(t), local.Options{Replicas: 1, Confmasters: 1, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Cluster: plain}
	c.mountSmall(context.Background(), "n1")
	if c.unmount == nil {
		t.Logf("no file system can be had that may be filled (%s): the replicator's own tests cover the same with a simulated one", c.smallKind)
		return
	}
	t.Cleanup(func() {
		if err := c.unmount(); err != nil {
			t.Error(err)
		}
	})
	plain.DieWithParent = true
	plain.Extra = map[local.Kind][]string{
		local.KindReplicator: {"--file-size", "1MiB"},
		local.KindKVNode:     {"--refuse-after", "500ms", "--write-timeout", "2s"},
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// A directory that holds something is not taken for a new cluster, and there is the mount: so without Start.
	startSingle(ctx, t, c)
	w := &world{c, t}
	t.Cleanup(func() {
		if _, killed, err := plain.Stop(); err != nil || len(killed) > 0 {
			t.Errorf("stop: killed %v, error %v", killed, err)
		}
	})
	w.do("n1", "SET", "key", "before")
	pid := c.Pid(local.ReplicatorOf("n1"))
	filler := filepath.Join(c.ReplicaDir("n1"), "filler")
	if err := fillUp(filler); err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("x", 256<<10) // soon beyond what was allocated ahead
	w.eventually("a write is refused", func(ctx context.Context) error {
		_, err := once(ctx, w.login(), w.replica("n1").KVAddr, patience, "SET", "large", value)
		var reply replyError
		if errors.As(err, &reply) && strings.HasPrefix(string(reply), "NOREPLICAS ") {
			return nil
		}
		return fmt.Errorf("the answer is %w", err)
	})
	if got := w.do("n1", "GET", "key"); got.Text != "before" {
		t.Errorf("GET answers %q while the disk is full", got.Text)
	}
	if state := w.mustState("n1"); state.GetWritable() || c.Pid(local.ReplicatorOf("n1")) != pid {
		t.Errorf("writable %v, pid %d, was %d", state.GetWritable(), c.Pid(local.ReplicatorOf("n1")), pid)
	}
	if err := syscall.Unlink(filler); err != nil {
		t.Fatal(err)
	}
	w.eventually("writes go on", func(ctx context.Context) error {
		_, err := once(ctx, w.login(), w.replica("n1").KVAddr, patience, "SET", "key", "after")
		return err
	})
	if got := w.do("n1", "GET", "key"); got.Text != "after" || c.Pid(local.ReplicatorOf("n1")) != pid {
		t.Errorf("GET answers %q, pid %d, was %d", got.Text, c.Pid(local.ReplicatorOf("n1")), pid)
	}
}

// nbase-arc's management port was locked out by one connection that said nothing. Silent and malformed connections are
// opened to every port and kept; commands and management calls on every node must be answered all the while.
func TestSilentAndMalformedConnectionsAffectNobody(t *testing.T) {
	w := shared(t)
	_, _, epoch := w.standing()
	var addrs []string
	for _, r := range w.Plan.Replicas {
		addrs = append(addrs, r.KVAddr, r.DataAddr, r.ManageAddr)
	}
	for _, m := range w.Plan.Confmasters {
		addrs = append(addrs, m.Addr, m.SentinelAddr)
	}
	openings := []string{"", "\x00", "*1\r\n$1000000000\r\n", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", strings.Repeat("A", 70000)}
	for _, addr := range addrs {
		for _, opening := range openings {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write([]byte(opening)) // it may be hung up on already
		}
	}
	for _, r := range w.Plan.Replicas {
		conn, err := net.Dial("unix", filepath.Join(w.ReplicaDir(r.Node), "local.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for i := range 20 {
		for _, r := range w.Plan.Replicas {
			w.do(r.Node, "INCR", "amid strangers")
			if state := w.mustState(r.Node); !state.GetAttached() {
				t.Errorf("round %d: the KV node of %s was put out", i, r.Node)
			}
		}
	}
	w.wholeAgain()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	log, err := w.admin.WorkLog(ctx, w.Plan.Group, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range log { // a machine with too much to do may have made somebody silent for a second
		if e.GetKind() == "election" && e.GetEpoch() > epoch && !strings.Contains(e.GetReason(), "silent") {
			t.Errorf("strangers brought about epoch %d: %s", e.GetEpoch(), e.GetReason())
		}
	}
}

// nbase-arc never switched keepalive on: a peer that vanished without a word stayed connected for ever. The link between a
// slave and the master falls silent in both directions, with both processes alive and no connection closed: both must
// notice, and join again when it carries.
func TestHalfOpenPeersAreNoticedOnBothSides(t *testing.T) {
	w := shared(t)
	master, slaves, _ := w.standing()
	slave := slaves[0]
	streams := func() bool {
		for _, peer := range w.mustState(master).GetPeers() {
			if peer.GetNode() == slave {
				return peer.GetStreams()
			}
		}
		return false
	}
	w.eventually("the slave streams", func(context.Context) error {
		if !streams() || !w.mustState(slave).GetJoined() {
			return errors.New("it does not")
		}
		return nil
	})
	heal := w.proxy.apply(&rule{Source: slave, Target: master, Port: dataPort, Forward: true, Backward: true})
	defer heal()
	w.eventually("the master notices", func(context.Context) error {
		if streams() {
			return errors.New("it takes the slave for streaming")
		}
		return nil
	})
	w.eventually("the slave notices", func(context.Context) error {
		if w.mustState(slave).GetJoined() {
			return errors.New("it takes itself for joined")
		}
		return nil
	})
	heal()
	w.wholeAgain()
	key := w.written(slave, 5)
	w.holds(key, 5, master, slave)
}

// nbase-arc answered one of two management calls that came at once. Many calls of several kinds are made at once, on
// connections of their own and on a shared one; each must have an answer.
func TestManagementCallsAtOnceAllAnswer(t *testing.T) {
	w := shared(t)
	master, slaves, epoch := w.standing()
	type call struct {
		name string
		do   func(ctx context.Context, client proto.ReplicatorClient, node string) error
		want codes.Code
	}
	calls := []call{
		{"state", func(ctx context.Context, client proto.ReplicatorClient, node string) error {
			_, err := client.State(ctx, &proto.WatchRequest{Target: w.target(node)})
			return err
		}, codes.OK},
		{"watch", func(ctx context.Context, client proto.ReplicatorClient, node string) error {
			stream, err := client.Watch(ctx, &proto.WatchRequest{Target: w.target(node), IntervalMs: 100})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}, codes.OK},
		{"stale fence", func(ctx context.Context, client proto.ReplicatorClient, node string) error {
			_, err := client.Fence(ctx, &proto.FenceRequest{Target: w.target(node), Epoch: 1})
			return err
		}, codes.Aborted},
		{"stale follow", func(ctx context.Context, client proto.ReplicatorClient, node string) error {
			_, err := client.Follow(ctx, &proto.FollowRequest{Target: w.target(node), Epoch: epoch - 1, Master: slaves[1], MasterAddr: "127.0.0.1:1"})
			return err
		}, codes.Aborted},
	}
	var wait sync.WaitGroup
	for _, node := range []string{master, slaves[0]} {
		one := manage(t, w.replica(node).ManageAddr)
		for i := range 16 {
			for _, c := range calls {
				client := one
				if i%2 == 0 {
					client = manage(t, w.replica(node).ManageAddr)
				}
				wait.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					if err := c.do(ctx, client, node); status.Code(err) != c.want {
						t.Errorf("%s on %s: %v, wanted %v", c.name, node, err, c.want)
					}
				})
			}
		}
	}
	for range 4 { // and of the configuration masters
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if _, err := w.admin.WorkLog(ctx, w.Plan.Group, 10); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	w.do(master, "PING")
}

// nbase-arc read 64-bit numbers of its management protocol into 32 bits. Epochs far above 2^32 are given to a replicator of
// its own: a promise must be kept, also across a restart, and what would be larger if cut to 32 bits must be refused as
// stale. Commands with integers at the ends of 64 bits get an answer or an error, never a wrapped number.
func TestLargeNumbersDoNotOverflow(t *testing.T) {
	port, _, err := local.ReservePorts(local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := local.Prepare(freshDirectory(t), local.Options{Replicas: 1, Confmasters: 1, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	plain.DieWithParent = true
	c := &cluster{Cluster: plain, binaries: binaries}
	w := &world{c, t}
	makeDirectories(t, c)
	w.back(local.ReplicatorOf("n1"))
	t.Cleanup(func() {
		if _, killed, err := plain.Stop(); err != nil || len(killed) > 0 {
			t.Errorf("stop: killed %v, error %v", killed, err)
		}
	})
	const large = uint64(7)<<40 + 5
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := manage(t, w.replica("n1").ManageAddr)
	if _, err := client.Learn(ctx, &proto.LearnRequest{Target: w.target("n1"), Epoch: large}); err != nil {
		t.Fatal(err)
	}
	reply, err := client.Fence(ctx, &proto.FenceRequest{Target: w.target("n1"), Epoch: large + 1})
	if err != nil || reply.GetEpoch() != large+1 {
		t.Fatalf("fence answers epoch %d, error %v", reply.GetEpoch(), err)
	}
	stale := func() {
		t.Helper()
		for _, epoch := range []uint64{1<<32 - 1, large, 1 << 41} { // cut to 32 bits, the first one is larger than large
			if _, err := client.Fence(ctx, &proto.FenceRequest{Target: w.target("n1"), Epoch: epoch}); status.Code(err) != codes.Aborted {
				t.Errorf("fence of epoch %d after %d: %v", epoch, large+1, err)
			}
		}
		if state := w.mustState("n1"); state.GetPromise() != large+1 {
			t.Errorf("promise %d, wanted %d", state.GetPromise(), large+1)
		}
	}
	stale()
	w.kill(local.ReplicatorOf("n1"))
	w.back(local.ReplicatorOf("n1"))
	stale()

	shared := shared(t)
	master, _, _ := shared.standing()
	for _, test := range []struct {
		command []string
		want    string // the reply, or the beginning of the error
	}{
		{[]string{"SET", "large", "9223372036854775807"}, "OK"},
		{[]string{"INCR", "large"}, "ERR increment or decrement would overflow"},
		{[]string{"INCRBY", "large", "9223372036854775808"}, "ERR value is not an integer or out of range"},
		{[]string{"DECRBY", "large", "-9223372036854775808"}, "ERR"},
		{[]string{"GET", "large"}, "9223372036854775807"},
		{[]string{"SETRANGE", "large", "9223372036854775807", "x"}, "ERR"},
		{[]string{"GETRANGE", "large", "-9223372036854775808", "9223372036854775807"}, "9223372036854775807"},
		{[]string{"EXPIRE", "large", "9223372036854775807"}, "ERR invalid expire time"},
		{[]string{"LRANGE", "none", "-9223372036854775808", "9223372036854775807"}, ""},
	} {
		value, err := once(ctx, shared.login(), shared.replica(master).KVAddr, patience, test.command...)
		got := value.Text
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, test.want) || test.want == "" && got != "" {
			t.Errorf("%v answers %q, wanted %q", test.command, got, test.want)
		}
	}
}

// In nbase-arc a dead slave could stop a healthy master. A slave is killed, then another one is stopped while the first one
// is back: writes through the master's node go on each time, under the same master.
func TestDeadSlaveDoesNotStopTheMaster(t *testing.T) {
	w := shared(t)
	master, slaves, _ := w.standing()
	w.kill(local.ReplicatorOf(slaves[0]), local.KVNodeOf(slaves[0]))
	key := w.written(master, 20)
	w.back(local.ReplicatorOf(slaves[0]), local.KVNodeOf(slaves[0]))
	w.wholeAgain()
	if err := w.Signal(local.ReplicatorOf(slaves[1]), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	other := w.written(master, 20)
	if err := w.Signal(local.ReplicatorOf(slaves[1]), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	w.wholeAgain()
	if now, _, _ := w.standing(); now != master {
		t.Errorf("mastership passed from %s to %s because of a slave", master, now)
	}
	w.holds(key, 20, append(slaves, master)...)
	w.holds(other, 20, append(slaves, master)...)
}

// nbase-arc's configuration master had to be set right by a person after a restart. All configuration masters are killed,
// then the master; the group must go on without a word as soon as they are back, and know its members.
func TestRestartedConfigurationMastersNeedNobody(t *testing.T) {
	w := shared(t)
	master, slaves, epoch := w.standing()
	w.kill(w.confmasters()...)
	key := w.written(master, 10) // without them the group goes on as it is
	w.kill(local.ReplicatorOf(master), local.KVNodeOf(master))
	w.back(w.confmasters()...)
	w.eventually("another master is established", func(ctx context.Context) error {
		group, _, err := w.group(ctx)
		if err != nil {
			return err
		}
		if group.GetMaster() == master || group.GetEstablished() <= epoch {
			return fmt.Errorf("master %q, established %d", group.GetMaster(), group.GetEstablished())
		}
		return nil
	})
	w.holds(key, 10, slaves...)
	w.do(slaves[0], "RPUSH", key, "10")
	w.back(local.ReplicatorOf(master), local.KVNodeOf(master))
	w.wholeAgain()
	w.holds(key, 11, append(slaves, master)...)
}

// nbase-arc's clients of a master waited for a role change to connect anew. The link from one node to the master breaks,
// again and again, while the roles stay: its KV node must connect by itself and lose nothing.
func TestKVNodeReconnectsWithoutARoleChange(t *testing.T) {
	w := shared(t)
	master, slaves, _ := w.standing()
	slave := slaves[0]
	key := fmt.Sprintf("reconnect:%d", time.Now().UnixNano())
	const rounds = 5
	for i := range rounds {
		heal := w.proxy.apply(&rule{Source: slave, Target: master, Port: dataPort, Cut: true})
		heal()
		w.do(slave, "RPUSH", key, fmt.Sprint(i))
		if i%2 == 0 {
			heal = w.proxy.apply(&rule{Source: "*", Target: master, Port: dataPort, Cut: true})
			heal()
		}
	}
	w.holds(key, rounds, append(slaves, master)...)
	if now, _, _ := w.standing(); now != master {
		t.Errorf("mastership passed from %s to %s", master, now)
	}
}

// makeDirectories makes what local.Cluster.Start would.
func makeDirectories(t *testing.T, c *cluster) {
	t.Helper()
	for _, sub := range []string{"logs", "pids"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// startSingle starts a cluster of one replica and one configuration master, without a proxy.
func startSingle(ctx context.Context, t *testing.T, c *cluster) {
	t.Helper()
	makeDirectories(t, c)
	for _, p := range c.Processes() {
		if _, err := c.StartProcess(p.Name, binaries); err != nil {
			t.Fatal(err)
		}
	}
	client, err := c.Admin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	c.admin = client
	r := c.Plan.Replicas[0]
	request := &proto.CreateGroupRequest{Name: c.Plan.Group, Copies: 1, MinCopies: 1, Sync: c.Plan.Sync,
		Replicas: []*proto.ReplicaSpec{{Node: r.Node, ManageAddr: r.ManageAddr, DataAddr: r.DataAddr, KvAddr: r.KVAddr}}}
	if err := c.create(ctx, request); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitHealthy(ctx, c.admin); err != nil {
		t.Fatal(err)
	}
}

// A master that the configuration masters see, but that has lost both slaves, blocked all writes for as long as the cut lasted
// (chaos seed 104). The slaves and the configuration masters reach each other: one of the slaves must lead, writes must
// go on while the link is still cut, and the old master must join when it is healed, without the write that it took alone.
func TestSeveredMasterIsReplaced(t *testing.T) {
	w := shared(t)
	master, slaves, epoch := w.standing()
	key := fmt.Sprintf("severed %d", epoch)
	w.do(slaves[0], "SET", key, "before")
	rules := []*rule{{Source: "*", Target: master, Port: dataPort, Forward: true, Backward: true}}
	for _, slave := range slaves {
		rules = append(rules, &rule{Source: master, Target: slave, Port: dataPort, Forward: true, Backward: true})
	}
	heal := w.proxy.apply(rules...)
	defer heal()
	w.eventually("a slave leads", func(ctx context.Context) error {
		group, _, err := w.group(ctx)
		if err == nil && (group.GetMaster() == master || group.GetEpoch() != group.GetEstablished()) {
			err = fmt.Errorf("%s leads epoch %d, established %d", group.GetMaster(), group.GetEpoch(), group.GetEstablished())
		}
		return err
	})
	w.eventually("writes go on", func(ctx context.Context) error {
		value, err := once(ctx, w.login(), w.replica(slaves[1]).KVAddr, patience, "SET", key, "amid")
		if err == nil && value.Text != "OK" {
			err = fmt.Errorf("%v", value)
		}
		return err
	})
	heal()
	w.wholeAgain()
	if _, others, _ := w.standing(); !slices.Contains(others, master) {
		t.Errorf("%s leads again", master)
	}
	w.eventually("the old master holds the same", func(ctx context.Context) error {
		value, err := once(ctx, w.login(), w.replica(master).KVAddr, patience, "GET", key)
		if err == nil && value.Text != "amid" {
			err = fmt.Errorf("%v", value)
		}
		return err
	})
}

package kvnode

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// Every goroutine must have ended when the tests have.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A transaction whose watched key was changed through another node is not executed.
func TestWatchAcrossNodes(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	a.expect("SET k 1", "+OK\r\n")
	b.expect("WATCH k other", "+OK\r\n")
	a.expect("SET k 2", "+OK\r\n")
	b.send("MULTI", "SET k 3", "EXEC", "GET k")
	b.want("+OK\r\n", "+QUEUED\r\n", "*-1\r\n", "$1\r\n2\r\n")
	b.expect("WATCH k", "+OK\r\n")
	b.send("MULTI", "SET k 3", "GET k", "EXEC")
	b.want("+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*2\r\n+OK\r\n$1\r\n3\r\n")
	a.expect("GET k", "$1\r\n3\r\n")
}

// Increments by WATCH, GET, MULTI, SET, EXEC from many connections of two nodes: none may be lost.
func TestOptimisticIncrements(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	addresses := []string{g.serve(t, 0), g.serve(t, 1)}
	var wait sync.WaitGroup
	const workers, each = 6, 15
	for i := range workers {
		c := dial(t, addresses[i%2])
		wait.Go(func() {
			for done := 0; done < each; {
				c.do("WATCH n")
				n := 0
				fmt.Sscanf(c.do("GET n"), "$%d\r\n%d", new(int), &n)
				c.do("MULTI")
				c.do(fmt.Sprintf("SET n %d", n+1))
				if c.do("EXEC") == "*1\r\n+OK\r\n" {
					done++
				}
			}
		})
	}
	wait.Wait()
	dial(t, addresses[0]).expect("GET n", fmt.Sprintf("$2\r\n%d\r\n", workers*each))
}

// Counters incremented from many connections, with reads that must never see a counter go back.
func TestManyConnections(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	addresses := []string{g.serve(t, 0), g.serve(t, 1)}
	var wait sync.WaitGroup
	const workers, rounds, depth = 20, 50, 16
	for i := range workers {
		c := dial(t, addresses[i%2])
		wait.Go(func() {
			last := int64(0)
			for range rounds {
				lines := make([]string, depth)
				for j := range lines {
					lines[j] = [2]string{"INCR n", "GET n"}[j%2]
				}
				c.send(lines...)
				for j := range lines {
					v, _, err := resp.Decode(c.next())
					n := v.Int
					if j%2 == 1 {
						fmt.Sscan(v.Text, &n)
					}
					if err != nil || n < last || j%2 == 0 && n == last {
						t.Errorf("%s: %d behind %d (%v)", lines[j], n, last, err)
						return
					}
					last = n
				}
			}
		})
	}
	wait.Wait()
	total := fmt.Sprint(workers * rounds * depth / 2)
	for _, address := range addresses {
		dial(t, address).expect("GET n", fmt.Sprintf("$%d\r\n%s\r\n", len(total), total))
	}
}

// Two nodes that executed the same log have the same digest.
func TestDigestsAgree(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	for i := range 100 {
		a.do(fmt.Sprintf("RPUSH l%d %d", i%5, i))
		b.do(fmt.Sprintf("SET s%d %d EX 100", i%9, i))
	}
	if x, y := a.do("SMR DIGEST"), b.do("SMR DIGEST"); x != y || !strings.HasPrefix(x, "*2\r\n:") {
		t.Errorf("digests %q and %q", x, y)
	}
	if x, y := a.do("DEBUG DIGEST"), b.do("DEBUG DIGEST"); x != y || len(x) != 43 {
		t.Errorf("digests %q and %q", x, y)
	}
}

// WAIT counts replicas besides the master, waits for them, and returns what there is when its time is over.
func TestWait(t *testing.T) {
	g := newFakeGroup(t, 3, nil)
	c := dial(t, g.serve(t, 0))
	c.expect("SET a 1", "+OK\r\n")
	c.expect("WAIT 2 0", ":2\r\n")
	g.set(func() { g.copies = 2 })
	c.expect("WAIT 2 30", ":1\r\n")
	c.send("WAIT 2 0", "GET a")
	g.set(func() { g.copies = 3 })
	c.want(":2\r\n", "$1\r\n1\r\n")
}

// A client that leaves while it waits for ever must not be waited for.
func TestWaitEndsWhenTheClientLeaves(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	c.send("WAIT 5 0")
	eventually(t, "it is there", func() bool { return g.nodes[0].node.clients.count() == 1 })
	c.Close()
	eventually(t, "it is gone", func() bool { return g.nodes[0].node.clients.count() == 0 })
}

// fields returns the lines of INFO as a map, and the headings.
func fields(t *testing.T, reply string) (map[string]string, []string) {
	t.Helper()
	v, _, err := resp.Decode([]byte(reply))
	if err != nil {
		t.Fatal(err)
	}
	found, headings := make(map[string]string), []string(nil)
	for _, line := range strings.Split(v.Text, "\r\n") {
		if heading, ok := strings.CutPrefix(line, "# "); ok {
			headings = append(headings, heading)
			continue
		}
		if name, value, ok := strings.Cut(line, ":"); ok {
			found[name] = value
		}
	}
	return found, headings
}

// INFO must have the fields that exporters, dashboards and clients read (tier 1), with true values.
func TestInfo(t *testing.T) {
	g := newFakeGroup(t, 2, func(c *Config) { c.Peers = map[smr.NodeID]string{"n1": "127.0.0.1:6379"} })
	address := g.serve(t, 0)
	c, slave := dial(t, address), dial(t, g.serve(t, 1))
	c.do("SET a 1")
	c.do("SET b 1 EX 1000")
	c.do("GET a")
	c.do("GET nothing")
	c.do("INCR a b")
	c.do("LPUSH a x")
	c.send("MULTI", "GET a", "LPUSH a x", "EXEC")
	c.want("+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*2\r\n$1\r\n1\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n")
	found, headings := fields(t, c.do("INFO all"))
	wanted := []string{"Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "CPU", "Modules", "Commandstats",
		"Errorstats", "Latencystats", "Cluster", "Keyspace", "Smr"}
	if !slices.Equal(headings, wanted) {
		t.Errorf("headings %v", headings)
	}
	for _, name := range strings.Fields(`redis_version redis_mode os arch_bits process_id run_id tcp_port uptime_in_seconds hz
		configured_hz connected_clients blocked_clients maxclients tracking_clients used_memory used_memory_rss used_memory_peak
		used_memory_lua used_memory_dataset used_memory_overhead maxmemory maxmemory_policy mem_fragmentation_ratio
		total_system_memory loading async_loading rdb_changes_since_last_save rdb_bgsave_in_progress rdb_last_save_time
		rdb_last_bgsave_status rdb_last_bgsave_time_sec aof_enabled aof_last_write_status aof_last_bgrewrite_status
		aof_current_size aof_delayed_fsync aof_pending_bio_fsync total_connections_received total_commands_processed
		instantaneous_ops_per_sec total_net_input_bytes total_net_output_bytes rejected_connections sync_full sync_partial_ok
		sync_partial_err expired_keys evicted_keys keyspace_hits keyspace_misses pubsub_channels pubsub_patterns
		latest_fork_usec total_error_replies role connected_slaves master_replid master_replid2 master_repl_offset
		second_repl_offset repl_backlog_active repl_backlog_size repl_backlog_first_byte_offset repl_backlog_histlen
		master_failover_state used_cpu_sys used_cpu_user used_cpu_sys_children used_cpu_user_main_thread cluster_enabled`) {
		if _, ok := found[name]; !ok {
			t.Errorf("INFO has no %s", name)
		}
	}
	_, port, _ := net.SplitHostPort(address)
	for name, want := range map[string]string{
		"tcp_port": port, "connected_clients": "1", "keyspace_hits": "1", "keyspace_misses": "1", "role": "master",
		"db0": "keys=2,expires=1,avg_ttl=0", "errorstat_ERR": "count=1", "errorstat_WRONGTYPE": "count=2",
		"total_error_replies": "3", "total_commands_processed": "11", "smr_role": "master", "smr_epoch": "3", "smr_writable": "1",
		"smr_feature_level": "1", "smr_feature_level_highest": "1",
	} {
		if found[name] != want {
			t.Errorf("%s is %q, want %q", name, found[name], want)
		}
	}
	if !strings.HasPrefix(found["cmdstat_get"], "calls=3,usec=") || !strings.HasSuffix(found["cmdstat_incr"], "rejected_calls=1,failed_calls=0") {
		t.Errorf("cmdstat_get %q cmdstat_incr %q", found["cmdstat_get"], found["cmdstat_incr"])
	}
	found, _ = fields(t, slave.do("INFO replication"))
	if found["role"] != "slave" || found["master_host"] != "127.0.0.1" || found["master_port"] != "6379" || found["slave_read_only"] != "0" {
		t.Errorf("slave says %v", found)
	}
	slave.expect("ROLE", fmt.Sprintf("*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:%d\r\n", g.nodes[1].node.Applied()))
	c.expect("CONFIG RESETSTAT", "+OK\r\n")
	if found, _ = fields(t, c.do("INFO stats")); found["keyspace_hits"] != "0" || found["total_error_replies"] != "0" {
		t.Errorf("behind RESETSTAT: %v", found)
	}
}

// Keys that expire are counted, from CONFIG RESETSTAT on.
func TestInfoCountsExpiredKeys(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	expired := func(want string) {
		t.Helper()
		if found, _ := fields(t, c.do("INFO stats")); found["expired_keys"] != want {
			t.Errorf("expired_keys is %q, want %q", found["expired_keys"], want)
		}
	}
	expired("0")
	c.do("SET a 1 PX 1")
	eventually(t, "the key has expired", func() bool { return c.do("GET a") == "$-1\r\n" })
	c.do("SET a 2")
	expired("1")
	c.expect("CONFIG RESETSTAT", "+OK\r\n")
	expired("0")
}

// Two connections that ask at the same place of the log must not draw the same lots for ever.
func TestConnectionsDrawDifferently(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	a, b := dial(t, address), dial(t, address)
	for i := range 100 {
		a.do(fmt.Sprintf("SADD s %d", i))
	}
	if x, y := a.do("SRANDMEMBER s 20"), b.do("SRANDMEMBER s 20"); x == y {
		t.Errorf("both drew %q", x)
	}
}

// CLIENT LIST shows all connections, CLIENT KILL ends them, the own one behind the reply.
func TestClientListAndKill(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	address := g.serve(t, 0)
	a, b := dial(t, address), dial(t, address)
	a.expect("CLIENT SETNAME alice", "+OK\r\n")
	a.expect("CLIENT SETINFO LIB-NAME lib", "+OK\r\n")
	a.expect("CLIENT SETINFO lib-ver 1.2", "+OK\r\n")
	b.send("MULTI", "GET x")
	b.want("+OK\r\n", "+QUEUED\r\n")
	list := a.do("CLIENT LIST")
	for _, part := range []string{"id=1 addr=" + a.LocalAddr().String() + " laddr=" + address, "name=alice", "cmd=client|list", "lib-name=lib lib-ver=1.2", "id=2 ", "flags=x", "multi=1", "cmd=get"} {
		if !strings.Contains(list, part) {
			t.Errorf("CLIENT LIST lacks %q: %s", part, list)
		}
	}
	if only := a.do("CLIENT LIST ID 2"); strings.Contains(only, "id=1 ") || !strings.Contains(only, "id=2 ") {
		t.Errorf("CLIENT LIST ID 2: %s", only)
	}
	a.expect("CLIENT KILL ID 2", ":1\r\n")
	b.want("")
	a.expect("CLIENT KILL TYPE normal", ":0\r\n")
	a.expect("CLIENT KILL "+a.LocalAddr().String(), "+OK\r\n")
	a.want("")
}

// The slow log keeps what took long, trimmed as in Redis.
func TestSlowLog(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	c.expect("CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 2", "+OK\r\n")
	c.do("SET a 1")
	c.do("SET b " + strings.Repeat("x", 200))
	c.do("SADD s " + strings.Repeat("m ", 50))
	c.expect("CONFIG SET slowlog-log-slower-than -1", "+OK\r\n") // everything else is logged, too
	c.expect("SLOWLOG LEN", ":2\r\n")
	v, _, _ := resp.Decode([]byte(c.do("SLOWLOG GET")))
	if len(v.Items) != 2 || len(v.Items[0].Items) != 6 {
		t.Fatalf("slow log %+v", v)
	}
	if args := v.Items[0].Items[3].Items; len(args) != 32 || args[31].Text != "... (21 more arguments)" {
		t.Errorf("arguments of the first: %v", args)
	}
	if args := v.Items[1].Items[3].Items; len(args) != 3 || args[2].Text != strings.Repeat("x", 128)+"... (72 more bytes)" {
		t.Errorf("arguments of the second: %v", args)
	}
	if v.Items[1].Items[0].Int+1 != v.Items[0].Items[0].Int || v.Items[0].Items[4].Text != c.LocalAddr().String() {
		t.Errorf("ids or address: %v", v)
	}
	c.expect("SLOWLOG RESET", "+OK\r\n")
	c.expect("SLOWLOG LEN", ":0\r\n")
}

// A stop lets commands in flight finish, answers them, and refuses new connections.
func TestStopFinishesWhatIsInFlight(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	node := g.nodes[0].node
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- node.Serve(ctx, listener) }()
	busy, idle := dial(t, listener.Addr().String()), dial(t, listener.Addr().String())
	idle.expect("PING", "+PONG\r\n")
	g.set(func() { g.held = true })
	busy.send("SET a 1", "GET a")
	eventually(t, "a write waits", func() bool { return g.nodes[0].pending() == 1 })
	cancel()
	idle.want("")
	g.set(func() { g.held = false })
	busy.want("+OK\r\n", "$1\r\n1\r\n", "")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		t.Error("the listener is open")
	}
	node.Stop()
}

// A stop while the group does not answer ends within the grace time; the write is left unanswered.
func TestStopGivesUpAfterTheGraceTime(t *testing.T) {
	g := newFakeGroup(t, 1, func(c *Config) { c.Grace = 20 * time.Millisecond })
	node := g.nodes[0].node
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- node.Serve(ctx, listener) }()
	c := dial(t, listener.Addr().String())
	g.set(func() { g.held = true })
	c.send("SET a 1")
	eventually(t, "a write waits", func() bool { return g.nodes[0].pending() == 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	g.close()
	node.Stop()
	c.want("")
}

// The client library that most Go programs use: handshake, pipelines, transactions, errors.
func TestGoRedis(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	address := g.serve(t, 1)
	ctx := context.Background()
	for proto := 2; proto <= 3; proto++ {
		db := redis.NewClient(&redis.Options{Addr: address, Protocol: proto, ClientName: "smoke"})
		db.FlushAll(ctx)
		if err := db.Set(ctx, "k", "v", time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
		if v, err := db.Get(ctx, "k").Result(); v != "v" || err != nil {
			t.Errorf("get: %q %v", v, err)
		}
		if _, err := db.Get(ctx, "none").Result(); err != redis.Nil {
			t.Errorf("get of nothing: %v", err)
		}
		db.HSet(ctx, "h", "a", 1, "b", 2)
		if m := db.HGetAll(ctx, "h").Val(); len(m) != 2 || m["b"] != "2" {
			t.Errorf("hgetall: %v", m)
		}
		results, err := db.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Incr(ctx, "n")
			p.Incr(ctx, "n")
			p.Get(ctx, "n")
			return nil
		})
		if err != nil || results[2].(*redis.StringCmd).Val() != "2" {
			t.Errorf("transaction: %v %v", results, err)
		}
		err = db.Watch(ctx, func(tx *redis.Tx) error {
			n, err := tx.Get(ctx, "n").Int()
			if err != nil {
				return err
			}
			db.Set(ctx, "n", 7, 0)
			_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error { p.Set(ctx, "n", n+1, 0); return nil })
			return err
		}, "n")
		if err != redis.TxFailedErr {
			t.Errorf("watched key changed: %v", err)
		}
		commands, err := db.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range 100 {
				p.RPush(ctx, "l", i)
				p.LLen(ctx, "l")
			}
			return nil
		})
		if err != nil || commands[199].(*redis.IntCmd).Val() != 100 {
			t.Errorf("pipeline: %v", err)
		}
		if name := db.ClientGetName(ctx).Val(); name != "smoke" {
			t.Errorf("name %q", name)
		}
		if m := db.ConfigGet(ctx, "databases").Val(); m["databases"] != "16" {
			t.Errorf("config get: %v", m)
		}
		if n := db.Wait(ctx, 1, time.Minute).Val(); n != 1 {
			t.Errorf("wait: %d", n)
		}
		if info := db.Info(ctx, "replication").Val(); !strings.Contains(info, "role:slave") {
			t.Errorf("info: %q", info)
		}
		db.Close()
	}
}

// All that is wrong with a configuration is reported at once; an address that others reach is none of it: protected mode looks after it.
func TestConfigValidate(t *testing.T) {
	config := DefaultConfig()
	config.ReplicatorDir, config.Cluster, config.Node = "d", "c", "n1"
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, listen := range []string{"0.0.0.0:1", ":1", "example.org:1", "[::]:1", "127.0.0.1:1", "localhost:0"} {
		config.Listen = listen
		if err := config.Validate(); err != nil {
			t.Errorf("listen on %s: %v", listen, err)
		}
	}
	err := Config{Listen: "x", Node: "N!", Announce: "y", MaxClients: -1}.Validate()
	for _, part := range []string{"replicator directory", "cluster id", "group", "node name", "listen address", "announced address", "maxclients -1", "query buffer", "output buffer", "write timeout"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("no complaint about %q: %v", part, err)
		}
	}
}

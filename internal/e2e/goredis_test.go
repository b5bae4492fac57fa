package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// goRedis returns a client of go-redis in RESP3 that retries nothing: whatever fails, fails the test.
func (s *stage) goRedis(addr string, change func(*redis.Options)) *redis.Client {
	options := &redis.Options{Addr: addr, Protocol: 3, MaxRetries: -1, ReadTimeout: 2 * patience, WriteTimeout: patience, ClientName: s.id}
	if change != nil {
		change(options)
	}
	client := redis.NewClient(options)
	s.whole.Cleanup(func() { client.Close() })
	return client
}

func tourGoRedis(t *testing.T, s *stage) func(*testing.T, *stage) {
	here, there := s.goRedis(s.here(), nil), s.goRedis(s.there(), nil)
	for _, part := range []func(*testing.T, *stage, *redis.Client, *redis.Client){
		goTransactions, goScripts, goBlocking, goStreams, goScans, goUsers, goDatabases, goNotifications,
	} {
		part(t, s, here, there)
		if t.Failed() {
			return nil
		}
	}
	messages := goPubSub(t, s, here, there)

	// These wait while the master dies.
	ctx := context.Background()
	popper := s.goRedis(s.here(), func(o *redis.Options) { o.ClientName = s.id + ":waits" })
	popped := later(func() ([]string, error) { return popper.BLPop(ctx, 0, s.key("kept")).Result() })
	if err := here.XGroupCreateMkStream(ctx, s.key("keptstream"), "g", "$").Err(); err != nil {
		t.Fatal(err)
	}
	read := later(func() ([]redis.XStream, error) {
		return popper.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: "c", Streams: []string{s.key("keptstream"), ">"}, Block: 0}).Result()
	})
	moved := later(func() (string, error) {
		return popper.BLMove(ctx, s.key("keptsource"), s.key("kepttarget"), "left", "right", 0).Result()
	})
	s.waits(t, s.here(), s.id+":waits", 3)

	return func(t *testing.T, s *stage) {
		there := s.goRedis(s.there(), nil)
		if s.broken() {
			// What waited at the node that died ended with its connection; or it still waits, if the KV node lives. The
			// same client goes on.
			eventually(t, "the client reconnects", func() error { return here.Set(ctx, s.key("again"), "1", 0).Err() })
			eventually(t, "elements reach living clients only", func() error {
				if err := there.RPush(ctx, s.key("kept"), "x").Err(); err != nil {
					return err
				}
				_, err := here.BLPop(ctx, time.Second, s.key("kept")).Result()
				return err
			})
			if err := there.XAdd(ctx, &redis.XAddArgs{Stream: s.key("keptstream"), Values: []string{"f", "v"}}).Err(); err != nil {
				t.Error(err)
			}
			if err := there.RPush(ctx, s.key("keptsource"), "m").Err(); err != nil {
				t.Error(err)
			}
			<-popped
			<-read
			<-moved
			return
		}
		pending(t, "BLPOP", popped)
		pending(t, "XREADGROUP BLOCK", read)
		pending(t, "BLMOVE", moved)
		if err := there.RPush(ctx, s.key("kept"), "1", "2").Err(); err != nil {
			t.Fatal(err)
		}
		r := <-popped
		equal(t, "BLPOP through the fail-over", []string{s.key("kept"), "1"})(r.value, r.err)
		equal(t, "it is served once", []string{"2"})(here.LRange(ctx, s.key("kept"), 0, -1).Result())
		id, err := there.XAdd(ctx, &redis.XAddArgs{Stream: s.key("keptstream"), Values: []string{"f", "v"}}).Result()
		if err != nil {
			t.Fatal(err)
		}
		streams := <-read
		if streams.err != nil || len(streams.value) != 1 || len(streams.value[0].Messages) != 1 || streams.value[0].Messages[0].ID != id {
			t.Errorf("XREADGROUP through the fail-over: %v, %v", streams.value, streams.err)
		}
		equal(t, "XACK", 1)(here.XAck(ctx, s.key("keptstream"), "g", id).Result())
		if err := there.RPush(ctx, s.key("keptsource"), "m").Err(); err != nil {
			t.Fatal(err)
		}
		move := <-moved
		equal(t, "BLMOVE through the fail-over", "m")(move.value, move.err)
		equal(t, "moved", []string{"m"})(there.LRange(ctx, s.key("kepttarget"), 0, -1).Result())

		if err := there.Publish(ctx, s.key("channel"), "after").Err(); err != nil {
			t.Fatal(err)
		}
		message, err := messages.ReceiveMessage(ctx)
		if err != nil || message.Payload != "after" {
			t.Errorf("the subscriber got %v, %v", message, err)
		}
		goTransactions(t, s, here, there)
	}
}

// goTransactions: pipelines, MULTI, WATCH against a client of another node, WAIT.
func goTransactions(t *testing.T, s *stage, here, there *redis.Client) {
	ctx := s.ctx(t)
	counter := s.key("counter")
	if err := here.Set(ctx, counter, 0, 0).Err(); err != nil {
		t.Fatal(err)
	}
	replies, err := here.Pipelined(ctx, func(p redis.Pipeliner) error {
		for range 200 {
			p.Incr(ctx, counter)
		}
		return nil
	})
	if err != nil || replies[199].(*redis.IntCmd).Val() != 200 {
		t.Fatalf("pipeline: %v", err)
	}
	equal(t, "read elsewhere", "200")(there.Get(ctx, counter).Result())
	replies, err = here.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Incr(ctx, counter)
		p.LPush(ctx, counter, "x")
		p.HSet(ctx, counter+":h", "a", 1)
		return nil
	})
	if !redis.HasErrorPrefix(err, "WRONGTYPE") || replies[0].(*redis.IntCmd).Val() != 201 || replies[2].Err() != nil {
		t.Errorf("MULTI: %v %v", replies, err)
	}

	// Two clients count with WATCH through different nodes: no count is lost.
	count := func(client *redis.Client) (int, error) {
		for done := 0; done < 20; {
			err := client.Watch(ctx, func(tx *redis.Tx) error {
				n, err := tx.Get(ctx, counter).Int()
				if err != nil {
					return err
				}
				_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error { p.Set(ctx, counter, n+1, 0); return nil })
				return err
			}, counter)
			switch {
			case err == nil:
				done++
			case !errors.Is(err, redis.TxFailedErr):
				return done, err
			}
		}
		return 20, nil
	}
	first, second := later(func() (int, error) { return count(here) }), later(func() (int, error) { return count(there) })
	for _, c := range []<-chan result[int]{first, second} {
		if r := <-c; r.err != nil {
			t.Fatal(r.err)
		}
	}
	equal(t, "counted with WATCH", "241")(here.Get(ctx, counter).Result())
	conn := here.Conn()
	defer conn.Close()
	if err := conn.Set(ctx, s.key("waited"), "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Wait(ctx, 1, 0).Result(); err != nil || n < 1 {
		t.Errorf("WAIT: %d, %v", n, err)
	}
}

// goScripts: a script that one node was given runs by its digest on another; functions are everywhere.
func goScripts(t *testing.T, s *stage, here, there *redis.Client) {
	ctx := s.ctx(t)
	script := redis.NewScript(`redis.call('INCRBY', KEYS[1], ARGV[1]); return {redis.call('GET', KEYS[1]), tonumber(ARGV[1]), '` + s.id + `'}`)
	want := []any{"7", int64(7), s.id}
	got, err := script.Run(ctx, here, []string{s.key("script")}, 7).Result() // EVALSHA, NOSCRIPT, EVAL
	equal(t, "EVAL", want)(got, err)
	got, err = script.EvalSha(ctx, there, []string{s.key("script")}, 3).Result()
	equal(t, "EVALSHA elsewhere", []any{"10", int64(3), s.id})(got, err)
	equal(t, "SCRIPT EXISTS", []bool{true})(script.Exists(ctx, there).Result())
	if err := here.Eval(ctx, "return redis.call('LPUSH', KEYS[1], 1)", []string{s.key("script")}).Err(); !redis.HasErrorPrefix(err, "WRONGTYPE") {
		t.Errorf("an error in a script: %v", err)
	}
	library := strings.NewReplacer(":", "_", "-", "_").Replace(s.id)
	code := "#!lua name=" + library + "\nredis.register_function('" + library + "_add', function(keys, args) return redis.call('SADD', keys[1], unpack(args)) end)\n" +
		"redis.register_function{function_name='" + library + "_card', callback=function(keys) return redis.call('SCARD', keys[1]) end, flags={'no-writes'}}"
	equal(t, "FUNCTION LOAD", library)(here.FunctionLoadReplace(ctx, code).Result())
	got, err = there.FCall(ctx, library+"_add", []string{s.key("function")}, "a", "b").Result()
	equal(t, "FCALL elsewhere", 2)(got, err)
	got, err = here.FCallRO(ctx, library+"_card", []string{s.key("function")}).Result()
	equal(t, "FCALL_RO", 2)(got, err)
	libraries, err := there.FunctionList(ctx, redis.FunctionListQuery{LibraryNamePattern: library}).Result()
	if err != nil || len(libraries) != 1 || len(libraries[0].Functions) != 2 {
		t.Errorf("FUNCTION LIST: %v, %v", libraries, err)
	}
	equal(t, "FUNCTION DELETE", "OK")(there.FunctionDelete(ctx, library).Result())
	if err := here.FCall(ctx, library+"_add", []string{s.key("function")}, "c").Err(); err == nil || !strings.Contains(err.Error(), "Function not found") {
		t.Errorf("a deleted function: %v", err)
	}
}

// goBlocking: a client of one node waits for what a client of another sends.
func goBlocking(t *testing.T, s *stage, here, there *redis.Client) {
	ctx := s.ctx(t)
	list, sorted := s.key("list"), s.key("sorted")
	popper := s.goRedis(s.here(), func(o *redis.Options) { o.ClientName = s.id + ":pops" })
	popped := later(func() ([]string, error) { return popper.BRPop(ctx, 0, s.key("none"), list).Result() })
	scored := later(func() (*redis.ZWithKey, error) { return popper.BZPopMin(ctx, 0, sorted).Result() })
	s.waits(t, s.here(), s.id+":pops", 2)
	equal(t, "RPUSH", 3)(there.RPush(ctx, list, "1", "2", "3").Result())
	if err := there.ZAdd(ctx, sorted, redis.Z{Score: 2, Member: "b"}, redis.Z{Score: 1, Member: "a"}).Err(); err != nil {
		t.Fatal(err)
	}
	r := <-popped
	equal(t, "BRPOP", []string{list, "3"})(r.value, r.err)
	if z := <-scored; z.err != nil || z.value.Member != "a" || z.value.Score != 1 {
		t.Errorf("BZPOPMIN: %v, %v", z.value, z.err)
	}
	equal(t, "what is left", []string{"1", "2"})(here.LRange(ctx, list, 0, -1).Result())
	key, values, err := here.BLMPop(ctx, 0, "left", 10, list).Result()
	if err != nil || key != list || fmt.Sprint(values) != "[1 2]" {
		t.Errorf("BLMPOP: %s %v, %v", key, values, err)
	}
	if got, err := here.BLPop(ctx, time.Second, list).Result(); err != redis.Nil {
		t.Errorf("a time-out: %v, %v", got, err)
	}

	// A client that went away while it waited takes nothing.
	gone := mustDial(t, s.here())
	gone.must(t, "CLIENT", "SETNAME", s.id+":gone")
	if err := gone.send("BLPOP", list, "0"); err != nil {
		t.Fatal(err)
	}
	s.waits(t, s.here(), s.id+":gone", 1)
	gone.Close()
	eventually(t, "elements reach living clients only", func() error {
		if err := there.RPush(ctx, list, "x").Err(); err != nil {
			return err
		}
		return here.LPop(ctx, list).Err()
	})

	// CLIENT UNBLOCK.
	freed := later(func() ([]string, error) { return popper.BLPop(ctx, 0, list).Result() })
	s.waits(t, s.here(), s.id+":pops", 1)
	var id string
	for line := range strings.Lines(here.ClientList(ctx).Val()) {
		if strings.Contains(line, " name="+s.id+":pops ") && strings.Contains(line, " flags=b") {
			id = strings.TrimPrefix(strings.Fields(line)[0], "id=")
		}
	}
	if err := here.Do(ctx, "CLIENT", "UNBLOCK", id, "ERROR").Err(); err != nil {
		t.Errorf("CLIENT UNBLOCK %s: %v", id, err)
	}
	if r := <-freed; !redis.HasErrorPrefix(r.err, "UNBLOCKED") {
		t.Errorf("unblocked: %v, %v", r.value, r.err)
	}
}

// goStreams: consumers at two nodes share a group.
func goStreams(t *testing.T, s *stage, here, there *redis.Client) {
	ctx := s.ctx(t)
	stream := s.key("stream")
	equal(t, "XGROUP CREATE", "OK")(here.XGroupCreateMkStream(ctx, stream, "g", "0").Result())
	name := s.id + ":reads"
	reader := s.goRedis(s.here(), func(o *redis.Options) { o.ClientName = name })
	read := func(client *redis.Client, consumer string, block time.Duration) ([]redis.XMessage, error) {
		streams, err := client.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: consumer, Streams: []string{stream, ">"}, Count: 2, Block: block}).Result()
		if err != nil {
			return nil, err
		}
		return streams[0].Messages, nil
	}
	waiting := later(func() ([]redis.XMessage, error) { return read(reader, "a", 0) })
	plain := later(func() ([]redis.XStream, error) {
		return reader.XRead(ctx, &redis.XReadArgs{Streams: []string{stream, "$"}, Block: 0}).Result()
	})
	s.waits(t, s.here(), name, 2)
	var ids []string
	for i := range 4 {
		id, err := there.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: []any{"n", i}}).Result()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	got := <-waiting
	if got.err != nil || len(got.value) != 1 || got.value[0].ID != ids[0] || got.value[0].Values["n"] != "0" {
		t.Fatalf("XREADGROUP BLOCK: %v, %v", got.value, got.err)
	}
	if r := <-plain; r.err != nil || r.value[0].Messages[0].ID != ids[0] {
		t.Errorf("XREAD BLOCK: %v, %v", r.value, r.err)
	}
	rest, err := read(there, "b", 0)
	if err != nil || len(rest) != 2 || rest[0].ID != ids[1] {
		t.Fatalf("XREADGROUP of another consumer: %v, %v", rest, err)
	}
	equal(t, "XACK", 1)(there.XAck(ctx, stream, "g", ids[0]).Result())
	pending, err := here.XPending(ctx, stream, "g").Result()
	if err != nil || pending.Count != 2 || pending.Consumers["b"] != 2 {
		t.Errorf("XPENDING: %v, %v", pending, err)
	}
	claimed, next, err := here.XAutoClaimJustID(ctx, &redis.XAutoClaimArgs{Stream: stream, Group: "g", Consumer: "a", Start: "0", Count: 10}).Result()
	if err != nil || len(claimed) != 2 || next != "0-0" {
		t.Errorf("XAUTOCLAIM: %v %s, %v", claimed, next, err)
	}
	info, err := there.XInfoStreamFull(ctx, stream, 0).Result()
	if err != nil || info.Length != 4 || len(info.Groups) != 1 || info.Groups[0].PelCount != 2 || info.Groups[0].Lag != 1 {
		t.Errorf("XINFO STREAM FULL: %+v, %v", info, err)
	}
	groups, err := here.XInfoGroups(ctx, stream).Result()
	if err != nil || len(groups) != 1 || groups[0].EntriesRead != 3 || groups[0].Consumers != 2 {
		t.Errorf("XINFO GROUPS: %+v, %v", groups, err)
	}
	equal(t, "XTRIM", 3)(here.XTrimMaxLen(ctx, stream, 1).Result())
	if got, err := here.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: "a", Streams: []string{stream, ">"}, Block: time.Millisecond}).Result(); err != nil || got[0].Messages[0].ID != ids[3] {
		t.Errorf("the last entry: %v, %v", got, err)
	}
	if got, err := read(here, "a", time.Millisecond); err != redis.Nil {
		t.Errorf("a time-out: %v, %v", got, err)
	}
}

// goScans: iterators of go-redis see everything once.
func goScans(t *testing.T, s *stage, here, there *redis.Client) {
	ctx := s.ctx(t)
	const many = 300
	if _, err := there.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range many {
			p.Set(ctx, s.key(fmt.Sprint("scan:", i)), i, 0)
			p.HSet(ctx, s.key("hash"), i, i)
			p.SAdd(ctx, s.key("set"), i, fmt.Sprint("m", i))
			p.ZAdd(ctx, s.key("zset"), redis.Z{Score: float64(i) / 10, Member: i})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		scan *redis.ScanCmd
		want int
	}{
		{"SCAN", here.ScanType(ctx, 0, s.key("scan:*"), 50, "string"), many},
		{"HSCAN", here.HScan(ctx, s.key("hash"), 0, "", 20), 2 * many},
		{"SSCAN", here.SScan(ctx, s.key("set"), 0, "m*", 20), many},
		{"ZSCAN", here.ZScan(ctx, s.key("zset"), 0, "*", 20), 2 * many},
	} {
		n := 0
		for i := c.scan.Iterator(); i.Next(ctx); n++ {
		}
		if c.scan.Err() != nil || n != c.want {
			t.Errorf("%s finds %d, %v; want %d", c.name, n, c.scan.Err(), c.want)
		}
	}
}

// goUsers: a user that was made through one node is known at all.
func goUsers(t *testing.T, s *stage, here, there *redis.Client) {
	ctx := s.ctx(t)
	user := strings.ReplaceAll(s.id, ":", "-")
	equal(t, "ACL SETUSER", "OK")(here.ACLSetUser(ctx, user, "on", ">secret", "~"+s.id+"*", "&"+s.id+"*", "+@read", "+set", "+client|setname").Result())
	client := s.goRedis(s.there(), func(o *redis.Options) { o.Username, o.Password = user, "secret" })
	equal(t, "SET", "OK")(client.Set(ctx, s.key("mine"), "1", 0).Result())
	equal(t, "GET", "1")(client.Get(ctx, s.key("mine")).Result())
	for what, err := range map[string]error{
		"another key":     client.Get(ctx, "others").Err(),
		"another command": client.Del(ctx, s.key("mine")).Err(),
		"in a transaction": func() error {
			_, err := client.TxPipelined(ctx, func(p redis.Pipeliner) error { p.Del(ctx, "x"); return nil })
			return err
		}(),
		"a configuration":   client.ConfigSet(ctx, "maxmemory", "1").Err(),
		"a foreign channel": client.Publish(ctx, "others", "x").Err(),
	} {
		if !redis.HasErrorPrefix(err, "NOPERM") && !redis.HasErrorPrefix(err, "EXECABORT") {
			t.Errorf("%s: %v", what, err)
		}
	}
	wrong := s.goRedis(s.there(), func(o *redis.Options) { o.Username, o.Password = user, "wrong" })
	if err := wrong.Ping(ctx).Err(); !redis.HasErrorPrefix(err, "WRONGPASS") {
		t.Errorf("a wrong password: %v", err)
	}
	equal(t, "ACL DELUSER", 1)(there.ACLDelUser(ctx, user).Result())
	eventually(t, "clients of a deleted user are cut", func() error {
		if err := client.Get(ctx, s.key("mine")).Err(); err == nil {
			return errors.New("it still reads")
		}
		return nil
	})
}

// goDatabases: SELECT, MOVE, COPY, DUMP and RESTORE.
func goDatabases(t *testing.T, s *stage, here, there *redis.Client) {
	ctx := s.ctx(t)
	other := s.goRedis(s.there(), func(o *redis.Options) { o.DB = s.db })
	equal(t, "SET", "OK")(other.Set(ctx, s.key("db"), "other", 0).Result())
	if got, err := here.Get(ctx, s.key("db")).Result(); err != redis.Nil {
		t.Errorf("seen in another database: %q, %v", got, err)
	}
	equal(t, "SET", "OK")(here.Set(ctx, s.key("copied"), "1", time.Hour).Result())
	equal(t, "COPY", 1)(here.Copy(ctx, s.key("copied"), s.key("copy"), s.db, false).Result())
	equal(t, "GET", "1")(other.Get(ctx, s.key("copy")).Result())
	equal(t, "MOVE", true)(here.Move(ctx, s.key("copied"), s.db).Result())
	equal(t, "EXISTS", 1)(other.Exists(ctx, s.key("copied")).Result())
	if ttl, err := other.TTL(ctx, s.key("copied")).Result(); err != nil || ttl <= 0 {
		t.Errorf("TTL: %v, %v", ttl, err)
	}
	for _, key := range []string{"hash", "zset", "set", "stream", "counter"} {
		dump, err := here.Dump(ctx, s.key(key)).Result()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "RESTORE", "OK")(other.Restore(ctx, s.key(key), 0, dump).Result())
		if key != "stream" { // of which entries were deleted: those are not kept
			equal(t, "DUMP of what was restored", dump)(other.Dump(ctx, s.key(key)).Result())
		}
		if err := other.Restore(ctx, s.key(key), 0, dump).Err(); !redis.HasErrorPrefix(err, "BUSYKEY") {
			t.Errorf("RESTORE again: %v", err)
		}
	}
	equal(t, "FLUSHDB", "OK")(other.FlushDB(ctx).Result())
	equal(t, "EXISTS", 0)(other.Exists(ctx, s.key("copied"), s.key("hash")).Result())
	equal(t, "the others are there", 1)(there.Exists(ctx, s.key("hash")).Result())
}

// goNotifications: a client of one node hears of changes made through another.
func goNotifications(t *testing.T, s *stage, here, there *redis.Client) {
	ctx := s.ctx(t)
	heard := here.PSubscribe(ctx, "__keyspace@0__:"+s.key("told*"))
	defer heard.Close()
	if _, err := heard.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, s.key("told"), "1", time.Millisecond)
		p.RPush(ctx, s.key("told2"), "x")
		p.LPop(ctx, s.key("told2"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	got := make(map[string][]string)
	for range 6 {
		message, err := heard.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		name := message.Channel[len("__keyspace@0__:"):]
		got[name] = append(got[name], message.Payload)
	}
	equal(t, "of strings", []string{"set", "expire", "expired"})(got[s.key("told")], nil)
	equal(t, "of lists", []string{"rpush", "lpop", "del"})(got[s.key("told2")], nil)
}

// goPubSub: messages cross from node to node. The subscription is kept for what comes after the fail-over.
func goPubSub(t *testing.T, s *stage, here, there *redis.Client) *redis.PubSub {
	ctx := s.ctx(t)
	kept := here.Subscribe(ctx, s.key("channel"))
	s.whole.Cleanup(func() { kept.Close() })
	pattern := here.PSubscribe(ctx, s.key("chan*"))
	defer pattern.Close()
	sharded := here.SSubscribe(ctx, s.key("channel"))
	defer sharded.Close()
	for _, p := range []*redis.PubSub{kept, pattern, sharded} {
		if _, err := p.Receive(ctx); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "PUBSUB NUMSUB", map[string]int64{s.key("channel"): 1})(here.PubSubNumSub(ctx, s.key("channel")).Result())
	const many = 50
	if _, err := there.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range many {
			p.Publish(ctx, s.key("channel"), i)
			p.SPublish(ctx, s.key("channel"), i)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*redis.PubSub{kept, pattern, sharded} {
		for i := range many {
			message, err := p.ReceiveMessage(ctx)
			if err != nil || message.Payload != fmt.Sprint(i) || message.Channel != s.key("channel") {
				t.Fatalf("message %d is %v, %v", i, message, err)
			}
		}
	}
	return kept
}

// tourSentinel: go-redis asks the configuration masters where the master is, and follows it. This client may retry, as it
// has to: its master dies.
func tourSentinel(t *testing.T, s *stage) func(*testing.T, *stage) {
	if s.node != s.Plan.Replicas[0].Node {
		return nil // it is not about one node
	}
	ctx := context.Background()
	var sentinels []string
	for _, c := range s.Plan.Confmasters {
		sentinels = append(sentinels, c.SentinelAddr)
	}
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: s.Plan.Group, SentinelAddrs: sentinels, ReadTimeout: patience, Protocol: 3})
	s.whole.Cleanup(func() { client.Close() })
	reader := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: s.Plan.Group, SentinelAddrs: sentinels, ReadTimeout: patience, ReplicaOnly: true})
	s.whole.Cleanup(func() { reader.Close() })
	use := func(t *testing.T, key string) {
		t.Helper()
		if _, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, s.key(key), key, 0)
			p.RPush(ctx, s.key(key+":list"), "1")
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		equal(t, "GET of a replica", key)(reader.Get(ctx, s.key(key)).Result())
		equal(t, "BLPOP", []string{s.key(key + ":list"), "1"})(client.BLPop(ctx, 0, s.key(key+":list")).Result())
		role, err := client.Do(ctx, "ROLE").Slice()
		if err != nil || role[0] != "master" {
			t.Errorf("the client is at a %v, %v", role, err)
		}
	}
	use(t, "before")
	told := client.Subscribe(ctx, s.key("channel"))
	s.whole.Cleanup(func() { told.Close() })
	if _, err := told.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	heard := told.Channel()
	return func(t *testing.T, s *stage) {
		eventually(t, "the client writes again", func() error { return client.Set(ctx, s.key("again"), "1", 0).Err() })
		eventually(t, "the client reads again", func() error { return reader.Get(ctx, s.key("again")).Err() })
		use(t, "after")
		eventually(t, "the subscription was renewed", func() error {
			if err := client.Publish(ctx, s.key("channel"), "x").Err(); err != nil {
				return err
			}
			select {
			case <-heard:
				return nil
			case <-time.After(100 * time.Millisecond):
				return errors.New("no message")
			}
		})
	}
}

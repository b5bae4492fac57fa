package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// rueidis returns a client of rueidis that retries nothing.
func (s *stage) rueidis(t *testing.T, addr string) rueidis.Client {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{addr}, ForceSingleClient: true, DisableRetry: true, ClientName: s.id, ConnWriteTimeout: 2 * patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.whole.Cleanup(client.Close)
	return client
}

// cached reads a key through the client's cache.
func cached(ctx context.Context, c rueidis.Client, key string) (value string, hit bool, err error) {
	reply := c.DoCache(ctx, c.B().Get().Key(key).Cache(), time.Hour)
	value, err = reply.ToString()
	return value, reply.IsCacheHit(), err
}

// fillCache reads a key until it comes out of the cache. (A client may forget it at any time; it must not lie.)
func fillCache(t *testing.T, ctx context.Context, c rueidis.Client, key, want string) {
	t.Helper()
	eventually(t, "the cache holds "+key, func() error {
		value, hit, err := cached(ctx, c, key)
		if err != nil || value != want {
			t.Fatalf("%s is %q, %v; want %q", key, value, err, want)
		}
		if !hit {
			return errors.New("not in the cache")
		}
		return nil
	})
}

// awaitInvalidation reads until the client was told that its copy is old.
func awaitInvalidation(t *testing.T, ctx context.Context, c rueidis.Client, key, want string) {
	t.Helper()
	eventually(t, "the client is told that "+key+" has changed", func() error {
		value, hit, err := cached(ctx, c, key)
		if err != nil {
			return err
		}
		if value != want {
			return fmt.Errorf("it is %q (from the cache: %t)", value, hit)
		}
		return nil
	})
}

func tourRueidis(t *testing.T, s *stage) func(*testing.T, *stage) {
	ctx := s.ctx(t)
	here, there := s.rueidis(t, s.here()), s.rueidis(t, s.there())
	for _, part := range []func(*testing.T, *stage, rueidis.Client, rueidis.Client){rueidisCommands, rueidisCache, rueidisMessages} {
		part(t, s, here, there)
		if t.Failed() {
			return nil
		}
	}
	must(t, here.Do(ctx, here.B().Set().Key(s.key("kept")).Value("old").Build()))
	fillCache(t, ctx, here, s.key("kept"), "old")
	popped := later(func() ([]string, error) {
		return here.Do(context.Background(), here.B().Blpop().Key(s.key("list")).Timeout(0).Build()).AsStrSlice()
	})
	s.waits(t, s.here(), s.id, 1)

	return func(t *testing.T, s *stage) {
		ctx := s.ctx(t)
		there := s.rueidis(t, s.there())
		must(t, there.Do(ctx, there.B().Set().Key(s.key("kept")).Value("new").Build()))
		if s.broken() {
			// If the connection is another one, nothing of the cache is believed.
			awaitInvalidation(t, ctx, here, s.key("kept"), "new")
			must(t, there.Do(ctx, there.B().Rpush().Key(s.key("list")).Element("1", "2").Build())) // it may wait still
			<-popped
		} else {
			pending(t, "BLPOP", popped)
			awaitInvalidation(t, ctx, here, s.key("kept"), "new")
			must(t, there.Do(ctx, there.B().Rpush().Key(s.key("list")).Element("1", "2").Build()))
			r := <-popped
			equal(t, "BLPOP through the fail-over", []string{s.key("list"), "1"})(r.value, r.err)
			equal(t, "it is served once", []string{"2"})(here.Do(ctx, here.B().Lrange().Key(s.key("list")).Start(0).Stop(-1).Build()).AsStrSlice())
		}
		rueidisCommands(t, s, here, there)
		rueidisCache(t, s, here, there)
	}
}

func must(t *testing.T, replies ...rueidis.RedisResult) {
	t.Helper()
	for i, reply := range replies {
		if err := reply.Error(); err != nil {
			t.Fatalf("reply %d: %v", i, err)
		}
	}
}

// rueidisCommands: pipelines, MULTI with WATCH, scripts, streams, scans.
func rueidisCommands(t *testing.T, s *stage, here, there rueidis.Client) {
	ctx := s.ctx(t)
	var pipeline rueidis.Commands
	must(t, here.Do(ctx, here.B().Del().Key(s.key("n"), s.key("hash"), s.key("stream")).Build()))
	for range 100 {
		pipeline = append(pipeline, here.B().Incr().Key(s.key("n")).Build())
	}
	must(t, here.DoMulti(ctx, pipeline...)...)
	equal(t, "read elsewhere", "100")(there.Do(ctx, there.B().Get().Key(s.key("n")).Build()).ToString())

	transaction := func(between func()) ([]rueidis.RedisMessage, error) {
		var got []rueidis.RedisMessage
		err := here.Dedicated(func(c rueidis.DedicatedClient) error {
			must(t, c.Do(ctx, c.B().Watch().Key(s.key("n")).Build()))
			between()
			replies := c.DoMulti(ctx, c.B().Multi().Build(), c.B().Incr().Key(s.key("n")).Build(), c.B().Hset().Key(s.key("hash")).FieldValue().FieldValue("a", "1").Build(), c.B().Exec().Build())
			var err error
			got, err = replies[3].ToArray()
			return err
		})
		return got, err
	}
	if got, err := transaction(func() {}); err != nil || len(got) != 2 {
		t.Errorf("MULTI: %v, %v", got, err)
	}
	if got, err := transaction(func() { must(t, there.Do(ctx, there.B().Incr().Key(s.key("n")).Build())) }); !rueidis.IsRedisNil(err) {
		t.Errorf("WATCH of a key that another node changed: %v, %v", got, err)
	}
	script := rueidis.NewLuaScript("return redis.call('APPEND', KEYS[1], ARGV[1])")
	equal(t, "EVALSHA", 4)(script.Exec(ctx, here, []string{s.key("n")}, []string{"0"}).AsInt64())

	must(t, there.Do(ctx, there.B().XgroupCreate().Key(s.key("stream")).Group("g").Id("$").Mkstream().Build()))
	must(t, here.Do(ctx, here.B().Xadd().Key(s.key("stream")).Id("*").FieldValue().FieldValue("f", "v").Build()))
	read, err := there.Do(ctx, there.B().Xreadgroup().Group("g", "c").Block(0).Streams().Key(s.key("stream")).Id(">").Build()).AsXRead()
	if err != nil || len(read[s.key("stream")]) != 1 || read[s.key("stream")][0].FieldValues["f"] != "v" {
		t.Errorf("XREADGROUP: %v, %v", read, err)
	}
	found := 0
	for cursor := uint64(0); ; {
		entry, err := here.Do(ctx, here.B().Scan().Cursor(cursor).Match(s.key("*")).Count(100).Build()).AsScanEntry()
		if err != nil {
			t.Fatal(err)
		}
		found += len(entry.Elements)
		if cursor = entry.Cursor; cursor == 0 {
			break
		}
	}
	if found < 3 {
		t.Errorf("SCAN finds %d keys", found)
	}
}

// rueidisCache: copies that the client keeps are given up when a client of any node changes the key.
func rueidisCache(t *testing.T, s *stage, here, there rueidis.Client) {
	ctx := s.ctx(t)
	key := s.key("cached")
	set := func(c rueidis.Client, value string) {
		t.Helper()
		must(t, c.Do(ctx, c.B().Set().Key(key).Value(value).Build()))
	}
	set(here, "0")
	changes := map[string]func(){
		"set there": func() { set(there, "set there") },
		"set here":  func() { set(here, "set here") },
		"by a script": func() {
			must(t, there.Do(ctx, there.B().Eval().Script("return redis.call('SET', KEYS[1], 'by a script')").Numkeys(1).Key(key).Build()))
		},
		"in MULTI": func() {
			must(t, there.DoMulti(ctx, there.B().Multi().Build(), there.B().Set().Key(key).Value("in MULTI").Build(), there.B().Exec().Build())[2])
		},
		"by renaming": func() {
			must(t, there.DoMulti(ctx, there.B().Set().Key(key+"2").Value("by renaming").Build(), there.B().Rename().Key(key+"2").Newkey(key).Build())...)
		},
		"by a deletion": func() {
			must(t, there.DoMulti(ctx, there.B().Del().Key(key).Build(), there.B().Set().Key(key).Value("by a deletion").Build())...)
		},
	}
	value := "0"
	for next, change := range changes {
		fillCache(t, ctx, here, key, value)
		change()
		awaitInvalidation(t, ctx, here, key, next)
		value = next
	}
	// Time, too, changes a key.
	must(t, there.Do(ctx, there.B().Set().Key(key).Value("short").PxMilliseconds(50).Build()))
	eventually(t, "an expired key leaves the cache", func() error {
		if value, _, err := cached(ctx, here, key); !rueidis.IsRedisNil(err) {
			return fmt.Errorf("%q, %v", value, err)
		}
		return nil
	})
}

// rueidisMessages: PUBLISH at one node, a subscriber at another.
func rueidisMessages(t *testing.T, s *stage, here, there rueidis.Client) {
	ctx, cancel := context.WithCancel(s.ctx(t))
	defer cancel()
	c, release := here.Dedicate()
	defer release()
	messages := make(chan rueidis.PubSubMessage, 10)
	c.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: func(m rueidis.PubSubMessage) { messages <- m }})
	must(t, c.Do(ctx, c.B().Subscribe().Channel(s.key("channel")).Build()))
	must(t, there.Do(ctx, there.B().Publish().Channel(s.key("channel")).Message("hello").Build()))
	select {
	case m := <-messages:
		if m.Message != "hello" || !strings.HasSuffix(m.Channel, ":channel") {
			t.Errorf("message %v", m)
		}
	case <-ctx.Done():
		t.Error("no message came")
	}
}

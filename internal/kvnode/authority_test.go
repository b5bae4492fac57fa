package kvnode

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/proto"
)

// find returns what a node says of a setting.
func find(t *testing.T, settings *proto.NodeSettings, kind, name string) *proto.NodeSetting {
	t.Helper()
	for _, s := range settings.Settings {
		if s.Kind == kind && s.Name == name {
			return s
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return nil
}

// What could go wrong: a wrong value, an unknown name or a secret is taken; a value is kept in a form that CONFIG GET does not
// show, so that it looks like drift for ever; a check changes something.
func TestSettingsAreCheckedBeforeTheyAreTaken(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	client, _, _ := startManage(t, g.nodes[0].node, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const lib = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)"
	cases := []struct{ kind, name, value, canonical, problem string }{
		{"config", "maxmemory", "100mb", "104857600", ""},
		{"config", "MaxMemory", "100mb", "104857600", ""},
		{"config", "maxmemry", "1", "", `is it "maxmemory"?`},
		{"config", "maxmemory", "much", "", "memory value"},
		{"config", "timeout", "30", "30", ""},
		{"config", "timeout", "-1", "", "must be between"},
		{"config", "protected-mode", "YES", "yes", ""},
		{"config", "client-query-buffer-limit", "2mb", "2097152", ""},
		{"config", "client-output-buffer-limit", "pubsub 1mb 0 0", "normal 0 0 0 slave 268435456 67108864 60 pubsub 1048576 0 0", ""},
		{"config", "repl-backlog-size", "1mb", "1048576", ""},
		{"config", "port", "1", "", "immutable"},
		{"config", "requirepass", "geheim", "", "is a secret"},
		{"user", "ann", "on >secret ~a:* +get", "on sanitize-payload #2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b ~a:* resetchannels -@all +get", ""},
		{"user", "ann", "on nonsense", "", "nonsense"},
		{"user", "a b", "on", "", "without blanks"},
		{"function", "mylib", lib, lib, ""},
		{"function", "other", lib, "", `names its library "mylib"`},
		{"function", "mylib", "nonsense", "", "metadata"},
		{"colour", "red", "", "", "unknown kind"},
	}
	request := &proto.CheckSettingsRequest{}
	for _, c := range cases {
		request.Settings = append(request.Settings, &proto.Setting{Kind: c.kind, Name: c.name, Value: c.value})
	}
	before, err := client.Settings(ctx, &proto.SettingsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := client.CheckSettings(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if got, problem := reply.Settings[i], reply.Problems[i]; got.Value != c.canonical || (problem == "") != (c.problem == "") || !strings.Contains(problem, c.problem) {
			t.Errorf("%s %s %q: %q, %q; want %q, %q", c.kind, c.name, c.value, got.Value, problem, c.canonical, c.problem)
		}
	}
	after, err := client.Settings(ctx, &proto.SettingsRequest{})
	if err != nil || len(after.Settings) != len(before.Settings) || find(t, after, "config", "maxmemory").Value != "0" {
		t.Errorf("the check changed something: %v %v", after, err)
	}
}

// What could go wrong: rules for a user are applied by a node that does not know him yet, having just started empty, and he loses all that he may and
// every password that he had.
func TestRulesAreAppliedToTheUserAsTheGroupHasHim(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	g.nodes[1].lagging = true
	dial(t, g.serve(t, 0)).expect("ACL SETUSER ann on >secret ~a:* +get", "+OK\r\n")
	client, _, _ := startManage(t, g.nodes[1].node, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check := func() (*proto.CheckSettingsReply, error) {
		return client.CheckSettings(ctx, &proto.CheckSettingsRequest{Settings: []*proto.Setting{{Kind: "user", Name: "ann", Value: "+set"}}})
	}
	g.set(func() { g.noReads = true })
	if reply, err := check(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "cannot ask its group which users there are") {
		t.Errorf("where the group cannot tell: %v, %v", reply, err)
	}
	g.set(func() { g.noReads = false })
	done := make(chan struct{})
	go func() {
		defer close(done)
		reply, err := check()
		const want = "on sanitize-payload #2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b ~a:* resetchannels -@all +get +set"
		if err != nil || len(reply.Settings) != 1 || reply.Settings[0].Value != want {
			t.Errorf("%v, %v", reply, err)
		}
	}()
	eventually(t, "the check waits", func() bool { return g.nodes[1].node.applied.waiting.Load() == 1 })
	g.set(func() { g.nodes[1].lagging = false })
	<-done
}

// What could go wrong: a value of the configuration masters does not take effect, on this node or on the others; an old one comes back
// over what a client has set since; a node that failed to take one says that it did.
func TestSettingsOfTheMastersTakeEffect(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	client, _, _ := startManage(t, g.nodes[0].node, nil)
	second, _, _ := startManage(t, g.nodes[1].node, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const lib = "#!lua name=mylib\nredis.register_function('f', function() return 7 end)"
	settings := []*proto.Setting{
		{Kind: "config", Name: "maxmemory", Value: "104857600", Version: 1},
		{Kind: "config", Name: "timeout", Value: "30", Version: 2},
		{Kind: "user", Name: "ann", Value: "on nopass sanitize-payload ~* resetchannels -@all +get", Version: 3},
		{Kind: "function", Name: "mylib", Value: lib, Version: 4},
	}
	apply := func(version, from uint64, list []*proto.Setting) *proto.ApplySettingsReply {
		t.Helper()
		reply, err := client.ApplySettings(ctx, &proto.ApplySettingsRequest{Version: version, Settings: list, Shared: true, SharedFrom: from})
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	if reply := apply(4, 0, settings); reply.Version != 4 || len(reply.Problems) != 0 {
		t.Fatalf("%v", reply)
	}
	c := dial(t, g.serve(t, 0))
	c.expect("FCALL f 0", ":7\r\n")
	c.expect("CONFIG GET timeout", "*2\r\n$7\r\ntimeout\r\n$2\r\n30\r\n")
	state, err := client.Settings(ctx, &proto.SettingsRequest{})
	if err != nil || state.Version != 4 || find(t, state, "config", "maxmemory").Value != "104857600" || find(t, state, "config", "maxmemory").Scope != "group" ||
		find(t, state, "user", "ann").Value != settings[2].Value || find(t, state, "function", "mylib").Value != lib ||
		find(t, state, "config", "timeout").Origin != "the configuration masters, version 2" || find(t, state, "config", "hz").Scope != "noted" {
		t.Errorf("%v, %v", state, err)
	}
	// The other node got what is replicated, and nothing else.
	dial(t, g.serve(t, 1)).expect("FCALL f 0", ":7\r\n")
	other, err := second.Settings(ctx, &proto.SettingsRequest{})
	if err != nil || other.Version != 0 || find(t, other, "config", "maxmemory").Value != "104857600" || find(t, other, "config", "timeout").Value != "0" {
		t.Errorf("%v", err)
	}
	// What a client sets stays, and says who it was, until there is a newer version.
	c.expect("CONFIG SET timeout 60 maxmemory 1gb", "+OK\r\n")
	apply(5, 4, append(settings, &proto.Setting{Kind: "user", Name: "ann", Removed: true, Version: 5}))
	state, err = client.Settings(ctx, &proto.SettingsRequest{Kind: "config"})
	if err != nil || find(t, state, "config", "timeout").Value != "60" || !strings.HasPrefix(find(t, state, "config", "timeout").Origin, "CONFIG SET by ") ||
		find(t, state, "config", "maxmemory").Value != "1073741824" {
		t.Errorf("%v, %v", state, err)
	}
	c.expect("ACL GETUSER ann", "$-1\r\n")
	// One that this node does not know is said, and the version does not count as taken.
	reply := apply(6, 5, []*proto.Setting{{Kind: "config", Name: "of-the-future", Value: "1", Version: 6}, {Kind: "function", Name: "gone", Removed: true, Version: 6}})
	if reply.Version != 5 || len(reply.Problems) != 1 || !strings.Contains(reply.Problems[0], "does not know it") {
		t.Errorf("%v", reply)
	}
}

// What could go wrong: CONFIG REWRITE says OK, and a restart forgets what a client had set; or it refuses although nothing would be forgotten.
func TestConfigRewriteIsOKWhenNothingWouldBeLost(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	client, _, _ := startManage(t, g.nodes[0].node, nil)
	c := dial(t, g.serve(t, 0))
	const ok = "+OK\r\n"
	c.expect("CONFIG REWRITE", ok)
	c.expect("CONFIG SET maxmemory 1gb maxmemory-policy allkeys-lru", ok) // in the log
	c.expect("CONFIG SET appendfsync always hz 20", ok)                   // nothing depends on them
	c.expect("CONFIG REWRITE", ok)
	c.expect("CONFIG SET timeout 60 slowlog-max-len 5", ok)
	c.send("CONFIG REWRITE")
	if reply := string(c.next()); !strings.HasPrefix(reply, "-ERR Rewriting config file: ") || !strings.Contains(reply, "gave it: slowlog-max-len, timeout. ") {
		t.Errorf("%q", reply)
	}
	c.expect("CONFIG SET slowlog-max-len "+g.nodes[0].node.settings.atStart["slowlog-max-len"], ok)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reply, err := client.ApplySettings(ctx, &proto.ApplySettingsRequest{Version: 1, Settings: []*proto.Setting{{Kind: "config", Name: "timeout", Value: "60", Version: 1}}})
	if err != nil || len(reply.Problems) > 0 {
		t.Fatal(reply, err)
	}
	c.expect("CONFIG REWRITE", ok) // the masters give it to whoever starts
	c.expect("CONFIG SET timeout 0", ok)
	c.send("CONFIG REWRITE")
	if reply := string(c.next()); !strings.Contains(reply, "gave it: timeout. ") {
		t.Errorf("%q", reply)
	}
	c.expect("CONFIG SET timeout 60", ok)
	c.expect("CONFIG REWRITE", ok)
}

// What could go wrong: two nodes answer digests of different points of the log; a node that is past the point answers with another.
func TestDigestsAreOfOnePoint(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	first, _, _ := startManage(t, g.nodes[0].node, nil)
	second, _, _ := startManage(t, g.nodes[1].node, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := dial(t, g.serve(t, 0))
	c.expect("SET k 1", "+OK\r\n")
	at := uint64(g.nodes[0].node.Applied()) + 1
	replies := make(chan *proto.DigestReply, 2)
	for _, client := range []proto.KVNodeClient{first, second} {
		go func() {
			reply, err := client.Digest(ctx, &proto.DigestRequest{At: at})
			if err != nil {
				t.Error(err)
			}
			replies <- reply
		}()
	}
	for i := range 2 { // frames pass until both have asked
		node := g.nodes[i].node
		for waiting := 0; waiting == 0 && ctx.Err() == nil; time.Sleep(time.Millisecond) {
			node.frame.RLock()
			waiting = len(node.stops)
			node.frame.RUnlock()
		}
	}
	c.expect("SET k 2", "+OK\r\n")
	x, y := <-replies, <-replies
	if x.GetLsn() < at || x.GetLsn() != y.GetLsn() || !bytes.Equal(x.GetDigest(), y.GetDigest()) || x.GetKeys() != 1 {
		t.Errorf("%v and %v", x, y)
	}
	if _, err := first.Digest(ctx, &proto.DigestRequest{At: at - 1}); status.Code(err) != codes.OutOfRange {
		t.Errorf("a point that is past: %v", err)
	}
}

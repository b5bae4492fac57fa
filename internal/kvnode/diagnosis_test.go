package kvnode

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// Test suites of clients ask for a reply of each type; these are the bytes of redis-server 7.0.15.
func TestDebugProtocolHasEveryType(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	tests := []struct{ kind, two, three string }{
		{"string", "$11\r\nHello World\r\n", "$11\r\nHello World\r\n"},
		{"integer", ":12345\r\n", ":12345\r\n"},
		{"double", "$5\r\n3.141\r\n", ",3.141\r\n"},
		{"null", "$-1\r\n", "_\r\n"},
		{"array", "*3\r\n:0\r\n:1\r\n:2\r\n", "*3\r\n:0\r\n:1\r\n:2\r\n"},
		{"set", "*3\r\n:0\r\n:1\r\n:2\r\n", "~3\r\n:0\r\n:1\r\n:2\r\n"},
		{"map", "*6\r\n:0\r\n:0\r\n:1\r\n:1\r\n:2\r\n:0\r\n", "%3\r\n:0\r\n#f\r\n:1\r\n#t\r\n:2\r\n#f\r\n"},
		{"verbatim", "$25\r\nThis is a verbatim\nstring\r\n", "=29\r\ntxt:This is a verbatim\nstring\r\n"},
		{"true", ":1\r\n", "#t\r\n"},
		{"false", ":0\r\n", "#f\r\n"},
		{"bignum", "$37\r\n1234567999999999999999999999999999999\r\n", "(1234567999999999999999999999999999999\r\n"},
		{"attrib", "$39\r\nSome real reply following the attribute\r\n", "|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n$39\r\nSome real reply following the attribute\r\n"},
	}
	for _, test := range tests {
		c.expect("DEBUG PROTOCOL "+test.kind, test.two)
	}
	c.expect("DEBUG PROTOCOL push", "-ERR RESP2 is not supported by this command\r\n")
	c.do("HELLO 3")
	for _, test := range tests {
		c.send("DEBUG PROTOCOL "+strings.ToUpper(test.kind), "PING")
		got := ""
		for !strings.HasSuffix(got, "+PONG\r\n") {
			got += string(c.next())
		}
		if got != test.three+"+PONG\r\n" {
			t.Errorf("%s: %q", test.kind, got)
		}
	}
	c.send("DEBUG PROTOCOL push")
	c.want(">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n", "$40\r\nSome real reply following the push reply\r\n")
	if got := c.do("DEBUG PROTOCOL nonsense"); !strings.HasPrefix(got, "-ERR Wrong protocol type name.") {
		t.Error(got)
	}
}

func TestDebugObject(t *testing.T) {
	c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
	c.expect("DEBUG OBJECT k", "-ERR no such key\r\n")
	c.do("SET k hello")
	c.do("SET n 123")
	c.do("SELECT 3")
	c.expect("DEBUG OBJECT k", "-ERR no such key\r\n")
	c.do("SELECT 0")
	for key, want := range map[string]string{"k": "embstr serializedlength:6", "n": "int serializedlength:2"} {
		form := regexp.MustCompile(`^\+Value at:0x0 refcount:1 encoding:` + want + ` lru:\d+ lru_seconds_idle:\d+\r\n$`)
		if got := c.do("DEBUG OBJECT " + key); !form.MatchString(got) {
			t.Errorf("%q", got)
		}
	}
}

// What could go wrong: whoever may read the slow log or MONITOR learns passwords.
func TestPasswordsAreNeverShown(t *testing.T) {
	address := newFakeGroup(t, 1, nil).serve(t, 0)
	c, watcher := dial(t, address), dial(t, address)
	c.expect("CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 1000", "+OK\r\n")
	watcher.expect("MONITOR", "+OK\r\n")
	for _, line := range []string{
		"ACL SETUSER bob on >secret1 +@all ~* &*", "AUTH bob secret1", "AUTH secret2", "AUTH a b secret3", "HELLO 3 AUTH bob secret1 SETNAME auth",
		"HELLO 2 SETNAME auth AUTH bob secret1", "HELLO 2 AUTH auth secret4", "HELLO 2 AUTH bob secret1 AUTH bob secret1", "ACL DELUSER secret5", "ACL GETUSER secret6",
		"CONFIG SET hz 10 RequirePass secret7 masterauth secret8", "AUTH secret7", "AUTH default secret7", "MULTI", "CONFIG SET requirepass secret9", "GET shown", "EXEC", "DEBUG SLEEP 0",
	} {
		c.do(line)
	}
	slow, seen := c.do("SLOWLOG GET -1"), ""
	for !strings.Contains(seen, `"GET" "shown"`) {
		seen += string(watcher.next())
	}
	for what, shown := range map[string]string{"the slow log": slow, "MONITOR": seen} {
		if strings.Contains(shown, "secret") {
			t.Errorf("%s shows a password: %s", what, shown)
		}
		if !strings.Contains(shown, "(redacted)") {
			t.Errorf("%s shows nothing: %s", what, shown)
		}
	}
	for _, want := range []string{bulks("ACL", "SETUSER", "(redacted)", "(redacted)"), "DEBUG", "RequirePass"} {
		if part := strings.SplitN(want, "\r\n", 2); !strings.Contains(slow, part[len(part)-1]) {
			t.Errorf("the slow log lacks %q: %s", want, slow)
		}
	}
}

// Exporters read what scripts take, the limit of memory, and one line for each slave.
func TestInfoTellsOfScriptsMemoryAndSlaves(t *testing.T) {
	g := newFakeGroup(t, 3, func(c *Config) {
		c.Peers = map[smr.NodeID]string{"n1": "127.0.0.1:1001", "n2": "127.0.0.1:1002", "n3": "127.0.0.1:1003"}
	})
	c := dial(t, g.serve(t, 0))
	c.do(`EVAL "return 1" 0`)
	c.do("FUNCTION LOAD \"#!lua name=l\\nredis.register_function('f', function() end)\"")
	c.do("CONFIG SET maxmemory 1gb maxmemory-policy allkeys-lru")
	found, _ := fields(t, c.do("INFO memory"))
	for name, want := range map[string]string{"number_of_cached_scripts": "1", "number_of_functions": "1", "number_of_libraries": "1",
		"maxmemory": fmt.Sprint(1 << 30), "maxmemory_policy": "allkeys-lru"} {
		if found[name] != want {
			t.Errorf("%s is %q, want %s", name, found[name], want)
		}
	}
	if found["used_memory_scripts"] == "0" || found["used_memory_functions"] == "0" || found["used_memory_scripts_eval"] == "0" {
		t.Errorf("scripts take nothing: %v", found)
	}
	eventually(t, "both slaves are told of", func() bool {
		found, _ = fields(t, c.do("INFO replication"))
		return found["slave1"] != ""
	})
	for i, port := range []string{"1002", "1003"} {
		if line := found[fmt.Sprint("slave", i)]; !strings.HasPrefix(line, "ip=127.0.0.1,port="+port+",state=online,offset=") {
			t.Errorf("slave%d: %q", i, line)
		}
	}
	role, _, err := resp.Decode([]byte(c.do("ROLE")))
	if err != nil || len(role.Items) != 3 || len(role.Items[2].Items) != 2 || role.Items[2].Items[0].Items[1].Text != "1002" {
		t.Errorf("ROLE: %+v, %v", role, err)
	}
}

// SCRIPT EXISTS and the like need no group that takes writes, alone or in a transaction.
func TestTellingSubcommandsNeedNoWrite(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	c := dial(t, g.serve(t, 0))
	c.do(`SCRIPT LOAD "return 1"`)
	g.set(func() { g.held = true })
	c.expect("SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "*1\r\n:1\r\n")
	c.expect("FUNCTION LIST", "*0\r\n")
	c.send("MULTI", "SCRIPT EXISTS x", "FUNCTION LIST", "EXEC")
	c.want("+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*2\r\n*1\r\n:0\r\n*0\r\n")
	g.set(func() { g.held = false })
}

// CONFIG SET on one node changes the encodings on all, under both names of a setting.
func TestEncodingLimitsHoldOnEveryNode(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	a.expect("HSET h f1 1 f2 2", ":2\r\n")
	a.expect("CONFIG SET hash-max-ziplist-entries 1", "+OK\r\n")
	b.expect("HSET k f1 1 f2 2", ":2\r\n")
	for _, c := range []*redisClient{a, b} {
		c.expect("OBJECT ENCODING h", "$8\r\nlistpack\r\n")
		c.expect("OBJECT ENCODING k", "$9\r\nhashtable\r\n")
		c.expect("CONFIG GET hash-max-listpack-entries", bulks("hash-max-listpack-entries", "1"))
		c.expect("CONFIG GET hash-max-ziplist-entries", bulks("hash-max-ziplist-entries", "1"))
	}
	if got := a.do("CONFIG SET hash-max-listpack-entries x"); !strings.HasPrefix(got, "-ERR CONFIG SET failed") {
		t.Error(got)
	}
}

// What could go wrong: LATENCY GRAPH draws otherwise than Redis. Held against what redis-server 7.0.15 drew: the time and the highest latency
// of all, the samples as LATENCY HISTORY has them, and the lines of the graph between bars.
func TestLatencyGraphIsDrawnAsInRedis(t *testing.T) {
	recorded, err := os.ReadFile("testdata/latency/graphs")
	if err != nil {
		t.Fatal(err)
	}
	graphs := strings.Split(string(recorded), "@ ")[1:]
	if len(graphs) < 5 {
		t.Fatalf("%d graphs", len(graphs))
	}
	for _, text := range graphs {
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		e := latencyEvent{name: "command"}
		var now int64
		if _, err := fmt.Sscanf(lines[0], "now %d most %d", &now, &e.most); err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(lines[1]) {
			var s latencySample
			if _, err := fmt.Sscanf(word, "%d:%d", &s.at, &s.milliseconds); err != nil {
				t.Fatal(err)
			}
			e.samples = append(e.samples, s)
		}
		var want strings.Builder
		for _, line := range lines[2:] {
			want.WriteString(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|") + "\n")
		}
		if got := e.graph(now); got != want.String() {
			t.Errorf("of %d samples:\n%s\nwant\n%s", len(e.samples), got, want.String())
		}
	}
}

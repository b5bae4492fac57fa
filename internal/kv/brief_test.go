package kv

import (
	"strconv"
	"strings"
	"testing"
)

// What could go wrong: a command is called brief that changes something, waits, or takes as long as it likes.
func TestBriefCommandsRead(t *testing.T) {
	t.Parallel()
	for name := range sized {
		c := Lookup([]byte(name))
		if c == nil || c.Flags&Readonly == 0 || c.Flags&(Write|Fast|Blocking|Movable|Local) != 0 || c.FirstKey == 0 || c.random {
			t.Errorf("%s: %+v", name, c)
		}
	}
	for name := range ranged {
		if !sized[name] {
			t.Errorf("%s has no size", name)
		}
	}
}

// What could go wrong: the event loop, which serves all connections, executes a script, or a command that walks through large values.
func TestPromptWritesTakeLittleTime(t *testing.T) {
	t.Parallel()
	for name := range promptWrites {
		if c := Lookup([]byte(name)); c == nil || c.Flags&Write == 0 || c.Flags&(Fast|Blocking|Movable|Local) != 0 {
			t.Errorf("%s: %+v", name, c)
		}
	}
	var p Promptness
	prompt := func(payload []byte) bool { return p.Prompt(payload) }
	for words, want := range map[string]bool{
		"set k v": true, "SET k v": true, "incr n": true, "hset h f v": true, "mset a b c d": true,
		"eval script 0": false, "sunionstore d a b": false, "lrem l 0 x": false, "flushall": false, "nosuchcommand": false, "sort k store d": false,
	} {
		var args [][]byte
		for word := range strings.SplitSeq(words, " ") {
			args = append(args, []byte(word))
		}
		if got := prompt(AppendCommand(nil, args)); got != want {
			t.Errorf("%s: %v", words, got)
		}
		if got := prompt(Envelope{Database: 3, User: "somebody"}.AppendCommand(nil, args)); got != want {
			t.Errorf("%s in an envelope: %v", words, got)
		}
		if prompt(AppendTransaction(nil, nil, [][][]byte{args})) {
			t.Errorf("%s in a transaction is called prompt", words)
		}
	}
	if prompt(nil) || prompt([]byte{formatCommand}) || prompt([]byte{formatCommand, 9, 200}) {
		t.Error("a payload that is cut short is called prompt")
	}
}

func TestBriefLooksAtSizes(t *testing.T) {
	t.Parallel()
	r := newRunner()
	do := func(args ...string) { r.apply(args...) }
	do("rpush", "list", "a", "b")
	do("hset", "hash", "a", "b")
	do("sadd", "few", "1", "2")
	do("set", "text", strings.Repeat("x", 1000))
	do("set", "large", strings.Repeat("x", briefBytes))
	for i := range 4000 {
		do("rpush", "longlist", "element"+strconv.Itoa(i))
		do("zadd", "longzset", strconv.Itoa(i), "element"+strconv.Itoa(i))
		do("sadd", "many", "member"+strconv.Itoa(i))
	}
	for _, test := range []struct {
		args string
		want bool
	}{
		{"lrange list 0 -1", true}, {"LRANGE list 0 -1", true}, {"hgetall hash", true}, {"hgetall none", true}, {"getrange text 0 -1", true}, {"getrange large 0 1", false},
		{"sinter few few", true}, {"sinter few many", false}, {"smembers many", false},
		{"sunion 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", true}, {"sunion 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17", false},
		{"lrange longlist 0 99", true}, {"lrange longlist 0 127", true}, {"lrange longlist 0 128", false}, {"lrange longlist 1024 1100", true}, {"lrange longlist 1025 1100", false},
		{"lrange longlist 0 -1", false}, {"lrange longlist -5 -1", false}, {"lrange longlist x 5", false}, {"lrange longlist 9 5", true}, {"lindex longlist 0", false},
		{"zrange longzset 0 9", true}, {"zrange longzset 0 9 withscores", true}, {"zrange longzset 0 9 BYSCORE", false}, {"zrange longzset 0 9 rev", false}, {"zrevrange longzset 0 9 WITHSCORES", true},
		{"zrange longzset 0 9 byscore limit 0 5", false}, {"zrangebyscore longzset 0 9", false},
		{"get text", false}, {"set text 1", false}, {"srandmember few -1000000", false}, {"keys *", false}, {"lcs text text", false}, {"sort_ro list", false},
	} {
		args := bytesOf(strings.Fields(test.args))
		if got := r.machine.Brief(0, Lookup(args[0]), args); got != test.want {
			t.Errorf("%s: %v", test.args, got)
		}
	}
}

package kv

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// What could go wrong: a script calls a command again and again whose time grows with the value, and runs for minutes because each
// call counts as little as a PING. A value of ten thousand elements must not be visited more often than the limit allows.
func TestScriptsAreChargedForTheWorkOfCommands(t *testing.T) {
	const elements, limit = 3000, 400_000
	r := newRunner()
	numbers := make([]string, elements)
	pairs := make([]string, 0, 2*elements)
	for i := range numbers {
		numbers[i] = strconv.Itoa(i) + "-element"
		pairs = append(pairs, strconv.Itoa(i), numbers[i])
	}
	r.apply(append([]string{"rpush", "list"}, numbers...)...)
	r.apply(append([]string{"sadd", "set"}, numbers...)...)
	r.apply(append([]string{"sadd", "other"}, numbers[elements/2:]...)...)
	r.apply(append([]string{"zadd", "zset"}, pairs...)...)
	r.apply(append([]string{"hset", "hash"}, pairs...)...)
	r.apply(append([]string{"pfadd", "hll"}, numbers...)...)
	r.apply("set", "text", strings.Repeat("abcdefgh", elements*4))
	r.apply("set", "short", strings.Repeat("x", 100))
	for i := range elements {
		r.apply("xadd", "stream", fmt.Sprintf("%d-1", i+1), "f", "v")
		r.apply("set", "key"+strconv.Itoa(i), "v")
	}
	r.apply("xgroup", "create", "stream", "g", "0")
	r.apply("xreadgroup", "group", "g", "c", "streams", "stream", ">")
	r.machine.ApplySetting("lua-instruction-limit", strconv.Itoa(limit))
	for _, command := range []string{
		"'sort','list','alpha','limit',0,1", "'sort_ro','list','by','nosort','limit',0,1", "'lpos','list','none'", "'lrem','list',0,'none'", "'linsert','list','before','none','x'",
		"'sinterstore','d','set','other'", "'sintercard',2,'set','other'", "'sunionstore','d','set','other'", "'sdiffstore','d','set','other'",
		"'zunionstore','d',1,'zset'", "'zinterstore','d',2,'zset','set'", "'zdiffstore','d',1,'zset'", "'zrangestore','d','zset',0,-1",
		"'copy','hash','d','replace'", "'bitcount','text'", "'bitpos','text',1,0,1", "'bitop','not','d','text'", "'pfcount','hll','hll'", "'pfmerge','d','hll'",
		"'keys','nothing*'", "'scan',0,'match','nothing','count',1000000", "'sscan','set',0,'match','nothing','count',1000000",
		"'lcs','text','short','len'", "'xpending','stream','g','IDLE',1000000000,'-','+',10", "'setrange','long',20000000,'x'", "'setbit','long',160000000,1",
	} {
		r.apply("del", "calls")
		reply := evalIn(r, "while true do redis.call('incr','calls') redis.call("+command+") end")
		if !strings.HasPrefix(reply, "-ERR") || !strings.Contains(reply, "script used more than") {
			t.Errorf("%s: %.100q", command, reply)
			continue
		}
		calls, _ := strconv.Atoi(strings.Trim(strings.SplitN(r.apply("get", "calls"), "\r\n", 3)[1], "\r\n"))
		if calls < 1 || calls > 300 {
			t.Errorf("%s: executed %d times before the limit", command, calls)
		}
		r.apply("del", "long", "d")
	}
	// Small things stay cheap.
	if got := evalIn(r, "for i=1,300 do redis.call('set','k'..i,i) redis.call('hget','hash',i) redis.call('zscore','zset','1-element') redis.call('lindex','list',5) end return 1"); got != ":1\r\n" {
		t.Errorf("short commands on large values: %q", got)
	}
}

// What could go wrong: a script asks for a large collection again and again, and each of its elements, which becomes a value of Lua, counts
// less than an instruction. A reply of so many elements must not be had more often than their instructions allow.
func TestScriptsAreChargedForTheElementsOfReplies(t *testing.T) {
	const elements, limit = 1000, 400_000
	r := newRunner()
	for i := range elements {
		member := strconv.Itoa(i)
		r.apply("rpush", "list", member)
		r.apply("sadd", "set", member+"-")
		r.apply("zadd", "zset", member, member)
		r.apply("hset", "hash", member, "v")
		r.apply("xadd", "stream", strconv.Itoa(i+1)+"-1", "f", "v")
	}
	r.machine.ApplySetting("lua-instruction-limit", strconv.Itoa(limit))
	for _, test := range []struct {
		command string
		values  int
	}{
		{"'lrange','list',0,-1", elements}, {"'smembers','set'", elements}, {"'hgetall','hash'", 2 * elements}, {"'hvals','hash'", elements}, {"'zrange','zset',0,-1,'withscores'", 2 * elements},
		{"'xrange','stream','-','+'", 4 * elements}, {"'mget',unpack(KEYS)", elements}, {"'zmscore','zset',unpack(KEYS)", elements}, {"'sort','list','by','nosort'", elements},
	} {
		for _, proto := range []string{"2", "3"} {
			r.apply("del", "calls")
			keys := make([]string, elements)
			for i := range keys {
				keys[i] = strconv.Itoa(i)
			}
			code := "redis.setresp(" + proto + ") while true do redis.call('incr','calls') redis.call(" + test.command + ") end"
			reply := r.apply(append([]string{"eval", code, strconv.Itoa(elements)}, keys...)...)
			if !strings.Contains(reply, "script used more than") {
				t.Fatalf("%s: %.100q", test.command, reply)
			}
			calls, _ := strconv.Atoi(strings.SplitN(r.apply("get", "calls"), "\r\n", 3)[1])
			if most := limit/(4*test.values) + 1; calls < 1 || calls > most {
				t.Errorf("%s in RESP%s: executed %d times before the limit, want at most %d", test.command, proto, calls, most)
			}
		}
	}
}

// Where a script is stopped by the work of its commands, it is stopped on every replica, and as a read as well.
func TestWorkOfCommandsIsDeterministic(t *testing.T) {
	a, b := newRunner(), newRunner()
	for _, r := range []*runner{a, b} {
		r.machine.ApplySetting("lua-instruction-limit", "300000")
		evalIn(r, "for i=1,500 do redis.call('sadd','s',i..'x') end")
	}
	code := "while true do redis.call('sunionstore','d','s') redis.call('rpush','l','x') end"
	b.read("eval_ro", "while true do redis.call('sort_ro','s','alpha') end", "0")
	if x, y := evalIn(a, code), evalIn(b, code); x != y || !strings.Contains(x, "script used more than") {
		t.Errorf("%q and %q", x, y)
	}
	if x, y := a.apply("llen", "l"), b.apply("llen", "l"); x != y || x == ":0\r\n" {
		t.Errorf("%q and %q", x, y)
	}
	if a.machine.Digest() != b.machine.Digest() {
		t.Error("the states differ")
	}
	if got := b.read("eval_ro", "while true do redis.call('sort_ro','s','alpha') end", "0"); !strings.Contains(got, "script used more than") {
		t.Errorf("a read: %q", got)
	}
}

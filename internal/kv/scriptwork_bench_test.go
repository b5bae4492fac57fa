package kv

import (
	"strconv"
	"strings"
	"testing"
)

// How long a script may run: the CPU time of 100,000,000 instructions, the standard of lua-instruction-limit, for the empty loop and for
// loops over commands that touch much. A hundredth of them is executed and the time multiplied.
func BenchmarkScriptAtItsLimit(b *testing.B) {
	const limit, standard = 1_000_000, 100_000_000
	r := newRunner()
	var members []string
	for i := range 3000 {
		members = append(members, strconv.Itoa(i)+"-element")
		r.apply("zadd", "zset", strconv.Itoa(i), members[i])
		r.apply("hset", "hash", members[i], "value")
	}
	r.apply("hset", "few", "a", "1", "b", "2")
	for i := range 300 {
		r.apply("xadd", "stream", strconv.Itoa(i+1)+"-1", "f", "v", "g", "w")
	}
	for range 33 {
		r.apply(append([]string{"rpush", "large"}, members...)...)
	}
	r.apply(append([]string{"rpush", "list"}, members...)...)
	r.apply(append([]string{"sadd", "set"}, members...)...)
	r.apply("set", "text", strings.Repeat("abcdefgh", 1<<17))
	r.machine.ApplySetting("lua-instruction-limit", strconv.Itoa(limit))
	for _, loop := range []struct{ name, body string }{
		{"empty", ""}, {"concatenation", "local s = 'x' .. 'y'"}, {"table", "local t = {1,2,3}"}, {"gsub", "string.gsub('abcabcabc','b','x')"},
		{"get", "redis.call('get','text')"}, {"set", "redis.call('set','k','v')"}, {"incr", "redis.call('incr','n')"}, {"lrange", "redis.call('lrange','list',0,-1)"},
		{"hgetall", "redis.call('hgetall','hash')"}, {"hgetall3", "redis.setresp(3) redis.call('hgetall','hash')"}, {"smembers3", "redis.setresp(3) redis.call('smembers','set')"},
		{"zrange", "redis.call('zrange','zset',0,-1,'withscores')"}, {"zrange3", "redis.setresp(3) redis.call('zrange','zset',0,-1,'withscores')"},
		{"xrange", "redis.call('xrange','stream','-','+')"}, {"mget", "redis.call('mget',unpack(KEYS))"}, {"hgetall-small", "redis.call('hgetall','few')"},
		{"large", "redis.call('lrange','large',0,-1)"}, {"sort", "redis.call('sort','list','alpha')"}, {"zunionstore", "redis.call('zunionstore','d',1,'zset')"},
		{"sinterstore", "redis.call('sinterstore','d','set','set')"}, {"lindex", "redis.call('lindex','list',1500)"}, {"bitcount", "redis.call('bitcount','text')"},
		{"compare", "local a = redis.call('get','text') local b = redis.call('get','text') local c = a < b"},
	} {
		b.Run(loop.name, func(b *testing.B) {
			before := processorTime()
			for b.Loop() {
				if reply := r.apply(append([]string{"eval", "while true do " + loop.body + " end", "300"}, members[:300]...)...); !strings.HasPrefix(reply, "-") {
					b.Fatalf("ended with %.100q", reply)
				}
			}
			b.ReportMetric((processorTime()-before).Seconds()/float64(b.N)*standard/limit, "s/limit")
		})
	}
}

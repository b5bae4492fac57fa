package kv

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"lockstep/internal/script"
)

// A script that reads, on both sides of the machine: what EVAL costs around one command decides whether people can use it. (The
// figure to reach is 10 µs on an idle core.)
func BenchmarkEval(b *testing.B) {
	r := newRunner()
	r.apply("set", "k", "v")
	for b.Loop() {
		r.apply("eval", "return redis.call('get',KEYS[1])", "1", "k")
	}
}

func BenchmarkFcall(b *testing.B) {
	r := newRunner()
	r.apply("set", "k", "v")
	r.apply("function", "load", "#!lua name=l\nredis.register_function('f', function(keys) return redis.call('get',keys[1]) end)")
	for b.Loop() {
		r.apply("fcall", "f", "1", "k")
	}
}

func evalIn(r *runner, code string, args ...string) string {
	return r.apply(append([]string{"eval", code, "0"}, args...)...)
}

// Two machines with the same log must be equal, whatever scripts do, and although one of them has run other scripts before as
// reads.
func TestScriptsLeaveTheSameState(t *testing.T) {
	scripts := []string{
		"for i=1,100 do redis.call('sadd','s',math.random(1,1000)) end return redis.call('spop','s')",
		"local t={} for i=1,50 do t['k'..i]=i end for k,v in pairs(t) do redis.call('rpush','order',k..v) end",
		"redis.call('set','clock',os.clock()) redis.call('set','name',tostring({})..tostring(print == nil and 1 or 2))",
		"redis.call('select',3) redis.call('set','in','three') return redis.call('dbsize')",
		"redis.call('set','a','1') error('in the middle')",
		"redis.call('rpush','work','x') while true do redis.call('incr','steps') end",
		"local s='x' while true do s=s..s redis.call('set','long',#s) end",
		"redis.call('set','err',tostring(select(2,pcall(function() local n return n[{}] end))))",
		"local ok, e = pcall(string.rep, 'x', -1) redis.call('set', 'e', tostring(e)) return redis.call('srandmember','s')",
	}
	a, b := newRunner(), newRunner()
	for _, r := range []*runner{a, b} {
		r.apply("function", "load", "#!lua name=l\nlocal n=0\nredis.register_function('count', function() n=n+1 return redis.call('incrby','n',n) end)")
		r.machine.ApplySetting("lua-instruction-limit", "100000")
		r.machine.ApplySetting("lua-memory-limit", "10mb")
	}
	for i, code := range scripts {
		for j := range i {
			b.read("eval_ro", strings.ReplaceAll(scripts[j], "redis.call", "redis.pcall"), "0")
		}
		if x, y := evalIn(a, code), evalIn(b, code); x != y {
			t.Errorf("%s\n gave %q\n and  %q", code, x, y)
		}
		if x, y := a.apply("fcall", "count", "0"), b.apply("fcall", "count", "0"); x != y || x != fmt.Sprintf(":%d\r\n", i+1) {
			t.Errorf("a function gave %q and %q on call %d", x, y, i+1)
		}
		if a.machine.Digest() != b.machine.Digest() {
			t.Fatalf("the states differ after %s", code)
		}
	}
	if got := a.apply("get", "a"); got != "$1\r\n1\r\n" {
		t.Errorf("what a script wrote before its error is gone: %q", got)
	}
}

// Scripts and libraries are state: the digest must see each change of them.
func TestScriptsAreInTheDigest(t *testing.T) {
	r := newRunner()
	seen := map[[32]byte]string{}
	for _, args := range [][]string{
		{"ping"}, {"script", "load", "return 1"}, {"eval", "return 2", "0"}, {"function", "load", "#!lua name=x\nredis.register_function('f',function() end)"},
		{"function", "load", "replace", "#!lua name=x\nredis.register_function('g',function() end)"},
	} {
		before := r.lsn
		r.apply(args...)
		r.lsn, r.machine.applied = before, 0 // only the content is to tell the states apart
		r.sequence = 0
		r.machine.sessions = newRunner().machine.sessions
		d := r.machine.Digest()
		if other, found := seen[d]; found {
			t.Errorf("%q did not change the digest of %s", args, other)
		}
		seen[d] = fmt.Sprint(args)
	}
}

// Reads run scripts concurrently, each on an engine of its own.
func TestScriptsReadConcurrently(t *testing.T) {
	r := newRunner()
	r.apply("set", "k", "v")
	r.apply("function", "load", "#!lua name=l\nredis.register_function{function_name='f', callback=function(keys) return redis.call('get',keys[1]) end, flags={'no-writes'}}")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 50 {
				if got := r.read("eval_ro", fmt.Sprintf("return redis.call('get',KEYS[1])..%d", i), "1", "k"); got != fmt.Sprintf("$2\r\nv%d\r\n", i) {
					t.Errorf("got %q", got)
				}
				if got := r.read("fcall_ro", "f", "1", "k"); got != "$1\r\nv\r\n" {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	all.Wait()
	if got := r.read("eval_ro", "return redis.call('set','k','w')", "0"); !strings.HasPrefix(got, "-ERR Write commands are not allowed from read-only scripts.") {
		t.Errorf("got %q", got)
	}
	if got := r.apply("get", "k"); got != "$1\r\nv\r\n" {
		t.Errorf("a read changed the state: %q", got)
	}
}

// In a transaction a script is one command among others: SELECT inside of it ends with it.
func TestScriptsInTransactions(t *testing.T) {
	r := newRunner()
	got := r.applyPayload(AppendTransaction(nil, nil, [][][]byte{
		bytesOf([]string{"eval", "redis.call('select',5) redis.call('set','k',ARGV[1]) return redis.call('get','k')", "0", "v"}),
		bytesOf([]string{"get", "k"}),
		bytesOf([]string{"evalsha", "0000000000000000000000000000000000000000", "0"}),
	}))
	if want := "*3\r\n$1\r\nv\r\n$-1\r\n-NOSCRIPT No matching script. Please use EVAL.\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Users' rights hold inside of scripts, and the setting of the limits is obeyed.
func TestScriptsAskForRights(t *testing.T) {
	r := newRunner()
	r.applyPayload(Envelope{}.AppendRecord(nil, UserRecord("reader", []string{"on", "nopass", "~*", "+eval", "+get"})))
	run := func(code string) string {
		return r.applyPayload(Envelope{User: "reader"}.AppendCommand(nil, bytesOf([]string{"eval", code, "0"})))
	}
	if got := run("return redis.call('set','a','b')"); !strings.HasPrefix(got, "-ERR ACL failure in script: User reader has no permissions to run the 'set' command script: ") {
		t.Errorf("got %q", got)
	}
	if got := run("return {redis.acl_check_cmd('get','a'), redis.acl_check_cmd('set','a','b')}"); got != "*2\r\n:1\r\n$-1\r\n" {
		t.Errorf("got %q", got)
	}
	if got := run("return redis.call('get','a')"); got != "$-1\r\n" {
		t.Errorf("got %q", got)
	}
}

// EVAL leaves no more than a bounded number of scripts, the last ones used; what SCRIPT LOAD brought stays. All of them count
// for memory, and two machines forget the same ones.
func TestScriptsKeptAreBounded(t *testing.T) {
	a, b := newRunner(), newRunner()
	for _, r := range []*runner{a, b} {
		r.apply("script", "load", "return 'loaded'")
		evalIn(r, "return 'popular'")
		evalIn(r, "return 'promoted'")
		r.apply("script", "load", "return 'promoted'")
		for i := range maxEvaluated {
			evalIn(r, fmt.Sprintf("return %d", i))
			r.apply("evalsha", script.Sum([]byte("return 'popular'")), "0")
		}
	}
	for code, want := range map[string]string{
		"return 'loaded'": ":1", "return 'promoted'": ":1", "return 'popular'": ":1", "return 0": ":0", "return 1": ":1",
		fmt.Sprintf("return %d", maxEvaluated-1): ":1",
	} {
		if got := a.read("script", "exists", script.Sum([]byte(code))); got != "*1\r\n"+want+"\r\n" {
			t.Errorf("%s: %q, want %s", code, got, want)
		}
	}
	if a.machine.Digest() != b.machine.Digest() {
		t.Error("the states differ")
	}
	evalIn(b, "return 7")
	a.apply("ping")
	b.lsn, b.sequence, b.machine.applied, b.machine.sessions = a.lsn, a.sequence, a.machine.applied, a.machine.sessions
	if a.machine.Digest() == b.machine.Digest() {
		t.Error("which script goes next is not in the digest")
	}
	stats := a.machine.Scripts()
	if want := maxEvaluated + 2; stats.Scripts != want || stats.Memory < int64(want*storedOverhead) || stats.Memory > int64(want*(storedOverhead+20)) {
		t.Errorf("%+v, want %d scripts", stats, want)
	}
	a.apply("function", "load", "#!lua name=l\nredis.register_function('f', function() end)")
	if more := a.machine.Scripts(); more.Libraries != 1 || more.Functions != 1 || more.Memory <= stats.Memory {
		t.Errorf("with a library %+v", more)
	}
	a.apply("script", "flush")
	a.apply("function", "flush")
	if got := a.machine.Scripts(); got != (ScriptStats{}) {
		t.Errorf("after the flushes %+v", got)
	}
}

// Subcommands that only tell something are reads: nothing of them goes through the log.
func TestTellingSubcommandsAreReads(t *testing.T) {
	r := newRunner()
	sum := strings.Trim(strings.TrimPrefix(r.apply("script", "load", "return 1"), "$40"), "\r\n")
	for want, args := range map[string][]string{
		"*1\r\n:1\r\n": {"SCRIPT", "Exists", sum}, "*0\r\n": {"function", "list"}, "-NOTBUSY No scripts in execution right now.\r\n": {"script", "kill"},
	} {
		if Lookup([]byte(args[0])).Writes(bytesOf(args)) {
			t.Errorf("%q goes through the log", args)
		}
		if got := r.read(args...); got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
	for _, args := range [][]string{{"script", "load", "x"}, {"script", "flush"}, {"function", "load", "x"}, {"function", "delete", "x"}, {"script", "nonsense"}} {
		if !Lookup([]byte(args[0])).Writes(bytesOf(args)) {
			t.Errorf("%q does not go through the log", args)
		}
		if got := r.read(args...); !strings.Contains(got, "cannot be executed as a read") {
			t.Errorf("%q as a read: %q", args, got)
		}
	}
}

// Where memory is full, a script that declares itself does not begin, unless it allows that or writes nothing; one that declares
// nothing fails at its first write that takes memory, but not behind another write.
func TestScriptsWithoutMemory(t *testing.T) {
	const (
		refused = "-OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'"
		inside  = "-OOM command not allowed when used memory > 'maxmemory'."
	)
	set := "return redis.call('set','k','v')"
	function := func(flags string) string {
		return "#!lua name=l\nredis.register_function{function_name='f', callback=function() " + set + " end, flags={" + flags + "}}"
	}
	tests := []struct {
		name, load string
		args       []string
		want       string
	}{
		{"plain", "", []string{"eval", set, "0"}, inside},
		{"plain that writes something before", "", []string{"eval", "redis.call('del','k0') " + set, "0"}, "+OK"},
		{"plain that reads", "", []string{"eval", "return redis.call('get','none')", "0"}, "$-1"},
		{"declared", "", []string{"eval", "#!lua\nreturn 1", "0"}, refused},
		{"declared as reading", "", []string{"eval", "#!lua flags=no-writes\nreturn 1", "0"}, ":1"},
		{"declared as allowed", "", []string{"eval", "#!lua flags=allow-oom\n" + set, "0"}, "+OK"},
		{"function", function(""), []string{"fcall", "f", "0"}, refused},
		{"function allowed", function("'allow-oom'"), []string{"fcall", "f", "0"}, "+OK"},
		{"library", "", []string{"function", "load", function("")}, inside},
		{"script load", "", []string{"script", "load", "return 1"}, "$40"},
	}
	for _, test := range tests {
		r := newRunner()
		if test.load != "" {
			r.apply("function", "load", test.load)
		}
		for i := range 10 {
			r.apply("set", fmt.Sprintf("k%d", i), strings.Repeat("x", 1000))
		}
		r.set(t, "maxmemory", "100")
		if got := r.apply(test.args...); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
		if got := r.transact(nil, test.args); !strings.HasPrefix(got, "*1\r\n"+test.want) && test.want != "+OK" {
			t.Errorf("%s in a transaction: %q, want %q", test.name, got, test.want)
		}
		r.set(t, "maxmemory", "0")
		if got := r.apply(test.args...); strings.HasPrefix(got, "-OOM") {
			t.Errorf("%s with memory again: %q", test.name, got)
		}
	}
}

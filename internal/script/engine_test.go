package script

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lockstep/internal/resp"
)

// answers is a host that answers ECHO with its argument and everything else with an error.
type answers struct{ calls int }

func (h *answers) Call(args [][]byte, proto int, reply []byte) []byte {
	h.calls++
	r := resp.Reply{Buf: reply, Proto: proto}
	if strings.EqualFold(string(args[0]), "echo") && len(args) == 2 {
		r.Bulk(args[1])
	} else {
		r.Error("ERR Unknown Redis command called from script")
	}
	return r.Buf
}

func (h *answers) Allowed(args [][]byte) (bool, string) { return true, "" }

func (h *answers) Work(args [][]byte) int64 { return 0 }
func (h *answers) Log(int, string)          {}

// small are limits that a test meets quickly.
var small = Limits{Instructions: 300_000, Memory: 8 << 20, Reply: 1 << 20}

// run executes a script and returns its reply.
func run(e *Engine, source string, limits Limits, args ...string) string {
	_, code, skipped, err := Split([]byte(source))
	if err != nil {
		return "-" + err.Error() + "\r\n"
	}
	reply := resp.Reply{Proto: 2}
	call := Call{Name: Sum([]byte(source)), Host: &answers{}, Now: 1_700_000_000_000, Seed: 7, Limits: limits}
	for _, arg := range args {
		call.Args = append(call.Args, []byte(arg))
	}
	e.Run(code, skipped, call, &reply)
	return string(reply.Buf)
}

// Whatever a script does, it must end, within its limits, with a reply that is the same on every engine.
func TestHostileScriptsEnd(t *testing.T) {
	deep := strings.Repeat("{", 3000) + "1" + strings.Repeat("}", 3000)
	for _, test := range []struct{ code, want string }{
		{"while true do end", "instructions"},
		{"while true do pcall(error) end", "instructions"},
		{"local function f() return pcall(f) end return f()", ""},
		{"local s='x' while true do s=s..s end", "not enough memory"},
		{"local t={} while true do t[#t+1]={} end", "not enough memory"},
		{"local t={} local i=0 while true do i=i+1 t['k'..i]=1 end", ""},
		{"local t={} while true do t={x=t,y=1} end", "not enough memory"},
		{"local t={} for i=1,1e9 do local a,b,c=1,2,3 t[i]=function() return a+b+c end end", "not enough memory"},
		{"local t={} t[50000000]=1", "not enough memory"},
		{"return string.rep('x',1e10)", "not enough memory"},
		{"return string.rep('x',2^62)", "not enough memory"},
		{"return pcall(string.rep,'x',1e9)", "not enough memory"},
		{"return ('x'):rep(1000000):rep(1000000)", "not enough memory"},
		{"local t={} for i=1,1e6 do t[i]=coroutine.create(print or function() end) end", ""},
		{"local t={} for i=1,1e9 do t[i]=coroutine.wrap(function() end) end", "not enough memory"},
		{"local function f(n) return coroutine.wrap(function() return f(n+1) end)() end return f(1)", "overflow"},
		{"local co co=coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end", "instructions"},
		{"local function f() return f()+1 end return f()", "stack overflow"},
		{"local t=setmetatable({},{}) getmetatable(t).__index=function(t,k) return t[k+1] end return t[1]", "overflow"},
		{"return string.find(string.rep('a',300000),string.rep('a?',3000)..'b')", ""},
		{"return string.find(string.rep('a',100000),'.-.-.-.-b')", "instructions"},
		{"return string.match(string.rep('(',100000),'%b()')", "instructions"},
		{"local t={} for i=1,7900 do t[i]=i end return select('#',unpack(t))", ":7900"},
		{"return unpack({},1,1e8)", "too many results"},
		{"table.sort({3,1,2,5,4},function() return true end) return 'sorted'", "sorted"},
		{"local t={} for i=1,1000 do t={t} end return t", ""},
		{"local t={} t[1]=t return t", "lua stack limit"},
		{"local s=string.rep('x',100000) local t={} for i=1,1000 do t[i]=s end return t", "too large"},
		{"return cjson.encode(string.rep('\\1',2000000))", "not enough memory"},
		{"return cjson.decode(string.rep('[',100000))", "too many nested"},
		{"return cmsgpack.unpack(string.rep('\\145',100000))", "Bad data"},
		{"return cmsgpack.unpack('\\221\\255\\255\\255\\255')", "Missing bytes"},
		{"return struct.pack('c999999999','x')", "too short"},
		{"return loadstring('return '..string.rep('-',100000)..'1')", ""},
		{"return " + deep, "syntax levels"},
		{"return " + strings.Repeat("1+", 3000) + "1", "syntax levels"},
		{"return '" + "'.." + strings.Repeat("'a'..", 3000) + "'a'", "aaaa"},
		{"local s = '' for i=1,1000 do s = s .. i end return #s", ":2893"},
		{"while true do redis.call('echo','x') end", "instructions"},
		{"local t={} for i=1,100000 do t[tostring(i)]=1 end while next(t) do t[next(t)]=nil end return 'drained'", ""},
	} {
		var replies [2]string
		for i := range replies {
			began := time.Now()
			replies[i] = run(NewEngine(), test.code, small)
			t.Logf("%6v %.60q", time.Since(began).Round(time.Millisecond), test.code)
		}
		if !strings.Contains(replies[0], test.want) {
			t.Errorf("%.80s\n gave %.200q, want %q", test.code, replies[0], test.want)
		}
		if replies[0] != replies[1] {
			t.Errorf("%.80s\n gave %.200q\n and  %.200q", test.code, replies[0], replies[1])
		}
	}
}

// Nothing that a script does may be seen by the next: replicas that join later would not see it.
func TestRunsLeaveNothing(t *testing.T) {
	e := NewEngine()
	for _, code := range []string{
		"string.foo=1", "x=1", "_G.x=1", "rawset(_G,'x',1)", "rawset(string,'foo',1)", "rawset(getmetatable(''),'__index',{})", "table.insert(_G,1)",
		"getmetatable('').__index=nil", "setmetatable(_G,{})", "setmetatable(string,{})", "table.sort(redis)", "local t=getmetatable(_G) t.__index=nil",
		"redis.call=nil", "cjson.null=1", "math.randomseed(5)", "redis.setresp(3)", "cjson.encode_max_depth(1)", "KEYS=1", "table.remove(math)",
		"for i=1,10 do tostring({}) end", "coroutine.wrap(function() coroutine.yield() end)()", "error({err='x'})", "while true do end",
		"local s='x' while true do s=s..s end", "local function f() return f()+1 end return f()",
	} {
		run(e, code, small)
		probe := "local r={tostring({}),math.random(1,1000000),cjson.encode({{{1}}}),string.foo==nil,rawget(_G,'x')==nil,#ARGV,(''):len(),type(redis.call),type(cjson.null),tostring(true)} for k in pairs(_G) do r[#r+1]=k end return r"
		if got, want := run(e, probe, small), run(NewEngine(), probe, small); got != want {
			t.Errorf("after %s\n got  %q\n want %q", code, got, want)
		}
	}
}

// Nothing in reach of a script leads out of it.
func TestNothingOfTheHostIsInReach(t *testing.T) {
	e := NewEngine()
	for _, name := range []string{"io", "debug", "package", "require", "dofile", "loadfile", "print", "module", "getfenv", "setfenv", "newproxy", "channel", "_printregs",
		"os.execute", "os.exit", "os.getenv", "os.time", "os.remove", "string.dump", "goroutine"} {
		table, field, dotted := strings.Cut(name, ".")
		code := fmt.Sprintf("return rawget(_G,'%s')==nil", name)
		if dotted {
			code = fmt.Sprintf("return %s['%s']==nil", table, field)
		}
		if got := run(e, code, small); got != ":1\r\n" {
			t.Errorf("%s is there: %q", name, got)
		}
	}
	if got := run(e, "return tostring(os.clock())", small); got != "$10\r\n1700000000\r\n" {
		t.Errorf("os.clock told %q, not log time", got)
	}
}

// A run that ends at its limit must end at the same instruction everywhere, with the same effects before.
func TestLimitsAreExact(t *testing.T) {
	code := "local n=0 while true do redis.call('echo','x') n=n+1 end"
	counts := map[int]bool{}
	for i := range 3 {
		e := NewEngine()
		for range i {
			run(e, "return 1", small)
			run(e, code, small)
		}
		h := &answers{}
		e.Run([]byte(code), 0, Call{Name: "x", Host: h, Limits: small}, nil)
		counts[h.calls] = true
	}
	if len(counts) != 1 || counts[0] {
		t.Errorf("calls before the limit: %v", counts)
	}
}

func fuzz(f *testing.F, seeds []string, wrap string) {
	for _, s := range seeds {
		f.Add(s)
	}
	e := NewEngine()
	f.Fuzz(func(t *testing.T, input string) {
		code, args := input, []string{}
		if wrap != "" {
			code, args = wrap, []string{input}
		}
		first := run(e, code, Limits{Instructions: 100_000, Memory: 4 << 20, Reply: 1 << 20}, args...)
		again := run(NewEngine(), code, Limits{Instructions: 100_000, Memory: 4 << 20, Reply: 1 << 20}, args...)
		if first != again {
			t.Errorf("%q gave %q, then %q", input, first, again)
		}
		if v, used, err := resp.Decode([]byte(first)); err == nil && (used != len(first) || v.Kind == 0) {
			t.Errorf("%q gave the reply %q", input, first)
		}
	})
}

// FuzzScript: no code may panic, run for ever, or give two replies.
func FuzzScript(f *testing.F) {
	fuzz(f, []string{"return 1", "local t={} for i=1,10 do t[i]=i..'' end return t", "return function(...) return ... end", "goto x ::x::", "a,b.c=1,2",
		"return {pcall(function() local a; a.b.c=1 end)}", "return coroutine.wrap(function() coroutine.yield(1) end)()", "#!lua flags=no-writes\nreturn 1"}, "")
}

// FuzzJSON: no text may panic cjson.decode; what it decodes is encoded again without a panic.
func FuzzJSON(f *testing.F) {
	fuzz(f, []string{`{"a":[1,2.5e3,null,true,"\u00e9\ud83d\ude00"]}`, "[[[[", `"\ud800"`, "-0x1p5", "{\"\":{}}", "nan", "+"}, "local v=cjson.decode(ARGV[1]) return {cjson.encode(v)}")
}

// FuzzMessagePack: no bytes may panic cmsgpack.unpack.
func FuzzMessagePack(f *testing.F) {
	fuzz(f, []string{"\x93\x01\xa1x\xc0", "\xdf\xff\xff\xff\xff", "\xcb1234", "\x81\xcb\xff\xf8\x00\x00\x00\x00\x00\x00\x01", "\xd9"}, "return cmsgpack.pack(cmsgpack.unpack(ARGV[1]))")
}

// FuzzStruct: no format and no bytes may panic the library struct.
func FuzzStruct(f *testing.F) {
	fuzz(f, []string{">I2c0", "<i4!8bd", "s", "c99999999999", "!0", "i33", "x x x"},
		"local r={pcall(struct.unpack,ARGV[1],ARGV[1])} r[#r+1]={pcall(struct.size,ARGV[1])} r[#r+1]={pcall(struct.pack,ARGV[1],1,2,3)} return r")
}

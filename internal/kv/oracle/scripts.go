package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

// recordScripts writes what redis-server answers to scripts: a list of what matters, and generated calls of the libraries.
func recordScripts(s *server, file string, seed uint64) error {
	var out bytes.Buffer
	for proto := 2; proto <= 3; proto++ {
		commands := [][]string{{"flushall"}, {"script", "flush"}, {"function", "flush"}, {"set", "text", "value"}, {"rpush", "list", "x", "y", "z"},
			{"hset", "hash", "f", "v"}, {"zadd", "zset", "1.5", "m"}, {"sadd", "set", "m"}}
		commands = append(commands, scriptCommands...)
		for _, code := range scripts {
			commands = append(commands, []string{"eval", code, "2", "k1", "k2", "arg1", "22"})
		}
		g := scriptGenerator{rand.New(rand.NewPCG(seed, uint64(proto)))}
		for range 150 {
			commands = append(commands, []string{"eval", g.script(), "0"})
		}
		if err := recordSequence(s, &out, proto, commands); err != nil {
			return fmt.Errorf("record scripts: %w", err)
		}
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

const (
	library = "#!lua name=first\nredis.register_function('f', function(keys,args) return {keys,args} end)\n" +
		"redis.register_function{function_name='g', callback=function() return redis.call('set','x','1') end, flags={'no-writes'}, description='dd'}"
	single = "#!lua name=second\nlocal n = 5\nredis.register_function('h', function(keys,args) return redis.call('get',keys[1]) .. n end)"
)

// scriptCommands are commands around scripts.
var scriptCommands = [][]string{
	{"evalsha", "c664a3bf70bd1d45c4284ffebb65a6f2299bfc9d", "0"}, {"evalsha", "short", "0"}, {"eval", "return 1", "x"}, {"eval", "return 1", "-1"},
	{"eval", "return 1", "3", "a"}, {"eval", "return {KEYS,ARGV}", "1", "a", "b", "c"}, {"eval_ro", "return redis.call('get',KEYS[1])", "1", "text"},
	{"eval_ro", "return redis.call('set','text','b')", "0"}, {"script", "load", "return 'loaded'"}, {"evalsha", "1dd2a1cd85f5d56a5d9d1c6e7a2a7a9b9d1e5a11", "0"},
	{"script", "exists", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "C3E8B0D1A0C2E1B1F4F2E5D6A7B8C9D0E1F2A3B4"}, {"script", "load", "return 1"},
	{"evalsha", "e0e1f9fabfc9d4800c877a703b823ac0578ff831", "0"}, {"EVALSHA", "E0E1F9FABFC9D4800C877A703B823AC0578FF8DB", "0"},
	{"evalsha_ro", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"}, {"script", "load", "return return"}, {"script", "flush", "x"}, {"script", "flush", "sync"},
	{"script", "exists", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"}, {"script", "kill"}, {"script", "help"}, {"script", "foo"}, {"script", "load"}, {"script", "exists"},
	{"eval", "#!lua\nreturn 1", "0"}, {"eval", "#!lua flags=no-writes\nreturn redis.call('set','text','b')", "0"}, {"eval", "#!lua flags=foo\nreturn 1", "0"},
	{"eval", "#!lua name=x\nreturn 1", "0"}, {"eval", "#!py\nreturn 1", "0"}, {"eval", "#!lua", "0"}, {"eval_ro", "#!lua\nreturn 1", "0"},
	{"eval", "#!lua flags=no-writes,allow-stale\nreturn redis.pcall('set','text','b')", "0"}, {"eval_ro", "#!lua flags=no-writes\nreturn 1", "0"},
	{"eval", "#!lua flags=allow-oom,no-cluster\nerror('x')", "0"},
	{"function", "kill"}, {"function", "help"}, {"function", "foo"}, {"function", "load"}, {"function", "load", "return 1"},
	{"function", "load", "#!lua\nredis.register_function('f', function() return 1 end)"}, {"function", "load", library}, {"function", "load", library},
	{"function", "load", "replace", library}, {"function", "load", "again", library}, {"function", "load", "#!lua name=third\nredis.register_function('f', function() end)"},
	{"function", "load", single}, {"function", "stats"}, {"fcall", "f", "1", "a", "b"}, {"fcall", "g", "0"}, {"fcall_ro", "f", "0"}, {"fcall_ro", "g", "0"},
	{"fcall", "h", "1", "text"}, {"fcall", "h", "1", "list"}, {"fcall", "h", "0"}, {"fcall", "nope", "0"}, {"fcall", "f", "x"}, {"fcall", "f", "2", "a"}, {"fcall", "f", "-1"},
	{"function", "list", "foo"}, {"function", "list", "libraryname"}, {"function", "list", "libraryname", "SEC*", "withcode"}, {"function", "delete", "nope"},
	{"function", "delete", "first"}, {"function", "list", "withcode"}, {"function", "list"}, {"function", "restore", "xx"}, {"function", "restore", "xx", "foo"},
	{"function", "load", "#!lua name=l3\nx=1"}, {"function", "load", "#!lua name=l3\nreturn x"}, {"function", "load", "#!lua name=l3\nredis.call('get','x')"},
	{"function", "load", "#!lua name=l3\nbad bad("}, {"function", "load", "#!lua name=bad-name\n"}, {"function", "load", "#!lua name=l3 foo=x\n"},
	{"function", "load", "#!py name=l3\n"}, {"function", "load", "#!lua name=l3 name=l4\n"}, {"function", "load", "#!lua name=l3"}, {"function", "load", "#!LUA NAME=l3\nlocal a = 1"},
	{"function", "load", "#!lua name=l3\nredis.register_function('f')"}, {"function", "load", "#!lua name=l3\nredis.register_function('h',1)"},
	{"function", "load", "#!lua name=l3\nredis.register_function{}"}, {"function", "load", "#!lua name=l3\nredis.register_function()"},
	{"function", "load", "#!lua name=l3\nredis.register_function{function_name='z', callback=function() end, flags={'foo'}}"},
	{"function", "load", "#!lua name=l3\nredis.register_function{function_name='z', callback=function() end, flags=1}"},
	{"function", "load", "#!lua name=l3\nredis.register_function{function_name='z', callback=1}"}, {"function", "load", "#!lua name=l3\nredis.register_function{function_name='z'}"},
	{"function", "load", "#!lua name=l3\nredis.register_function{function_name='z', foo=1}"}, {"function", "load", "#!lua name=l3\nredis.register_function('a b', function() end)"},
	{"function", "load", "#!lua name=l3\nredis.register_function({}, function() end)"}, {"function", "load", "#!lua name=l3\nredis.register_function('zz', function() end) redis.register_function('zz', function() end)"},
	{"function", "flush", "x"}, {"function", "flush", "async"}, {"function", "list"}, {"function", "stats"}, {"function", "delete", "second"},
}

// scripts are executed with the keys k1 and k2 and the arguments arg1 and 22.
var scripts = strings.Split(strings.TrimSpace(`
return
return nil
return true
return false
return 3.99
return -3.99
return 1e300
return 0/0
return 'text'
return {1,2,nil,4}
return {1,{2,'x',{ok='fine'}},3.99,true,false,'end'}
return {ok='a\r\nb'}
return {err='MY problem'}
return {err='problem'}
return {double=3.25}
return {map={a=1}}
return {set={a=true}}
return {big_number='123456789012345678901234567890'}
return {verbatim_string={format='txt',string='hello'}}
return function() end
return {KEYS[1],KEYS[2],KEYS[3]}
return {ARGV[1],ARGV[2]+1,#ARGV}
redis.setresp(3) return {map={a=1}}
redis.setresp(3) return true
redis.setresp(3) return false
redis.setresp(3) return redis.call('hgetall','hash')
redis.setresp(3) local t=redis.call('hgetall','hash') return t.map.f
redis.setresp(3) return redis.call('zscore','zset','m')
redis.setresp(3) return redis.call('zscore','zset','m').double
redis.setresp(3) return redis.call('smembers','set').set.m
redis.setresp(3) return redis.call('get','none') == nil
return redis.call('get','none') == false
return redis.call('lrange','list',0,-1)
return redis.call('get','text')
return redis.call('set',KEYS[1],ARGV[1])
return redis.call('get',KEYS[1])
return redis.call('set',KEYS[1],ARGV[1]).ok
return redis.call('incr','text')
return redis.pcall('incr','text')
return redis.pcall('incr','text').err
return redis.call('foo')
return redis.pcall('foo')
return redis.call('get')
return redis.call()
return redis.call({})
return redis.call('multi')
return redis.call('subscribe','x')
return redis.call('eval','return 1',0)
return redis.call('blpop','q',0)
return redis.call('config','get','x')
return redis.call('auth','x')
return redis.call('hello','3')
return redis.call('watch','x')
return redis.call('script','load','x')
return redis.call('function','stats')
return redis.call('ping')
return redis.call('echo','x')
return redis.call('publish','c','m')
return redis.call('set','k1',100000000)
return redis.call('incrby','k1',5)
return redis.call('set','k1',1e15)
return redis.call('get','k1')
return redis.call('del','k1','k2')
return redis.call('lpush','text','x')
return {pcall(redis.call,'lpush','text','x')}
return pcall(redis.call)
return redis.error_reply('x y')
return redis.error_reply('-x y')
return redis.error_reply('one')
return redis.error_reply('')
return redis.error_reply(1)
return redis.status_reply('FINE')
return redis.status_reply(1)
return redis.status_reply('a','b')
return redis.sha1hex('')
return redis.sha1hex(1)
return redis.sha1hex()
return redis.log(1)
return redis.log('x','y')
return redis.log(9,'y')
return redis.log(redis.LOG_DEBUG,'y')
return {redis.LOG_DEBUG,redis.LOG_VERBOSE,redis.LOG_NOTICE,redis.LOG_WARNING}
return redis.setresp(4)
return redis.setresp()
return redis.set_repl(1)
return redis.set_repl(7)
return redis.set_repl()
return {redis.REPL_NONE,redis.REPL_AOF,redis.REPL_SLAVE,redis.REPL_REPLICA,redis.REPL_ALL}
return redis.replicate_commands()
return redis.breakpoint()
return redis.acl_check_cmd('get','x')
return redis.acl_check_cmd('foo')
return redis.acl_check_cmd()
return x
x=1
function foo() end
redis.foo=1
string.foo=1
_G.foo=1
_G=1
rawset(_G,'x',1)
setmetatable(_G,{})
table.insert(_G,1)
getmetatable('').__index=1
error('boom')
error('boom',0)
error('a\nb')
error({err='MY thing'})
error({err='thing'})
error(5)
return {pcall(error,'x')}
return {pcall(error,{err='x y'})}
return {pcall(error,'x',0)}
return {pcall(function() error('x') end)}
return {xpcall(function() error('x',0) end, function(e) return 'handled '..e end)}
return {xpcall(function() return 1,2 end, print)}
return select('#',pcall(error))
return {select(2,'a','b','c')}
return {select(-1,'a','b','c')}
return select(0)
local function f() return f()+1 end return f()
return assert(false)
return assert(nil,'my message')
return {assert(1,2,3)}
return 1<'x'
return {}<{}
string.rep()
string.rep('x',-1)
return ('x'):rep(3)
return tostring(1/3)
return tostring(1e15)..tostring(1e100)..tostring(1e14)..tostring(123456789012)
return tostring(2^53)..' '..tostring(-2^63)..' '..2^31
return tostring(1e-5)..' '..tostring(0.1)..' '..tostring(100000000000000)
return tostring(nil)..tostring(true)
return {tonumber('0x10'),tonumber(' 10 '),tonumber('10',2),tonumber('zz',36),tonumber('1e2'),tonumber('')==nil,tonumber('x')==nil}
return {tonumber('8',8)==nil,tonumber('7',8),tonumber('-7'),tonumber('0x'),tonumber('1_0')==nil,tonumber('010')}
return '10'+5
return '010'*2
return '0x10'-1
return -'2'
return 10%3 + -10%3 + 10%-3
return 7.5%2
return 2^10
return 'a'..1 ..2
return 'a'<'b' and 'Z'<'a'
return #'abc' + #{1,2,3}
return 1 and 2
return nil or 'x'
return not nil
local a,b,c=(function() return 1,2,3 end)() return {a,b,c}
local a,b=((function() return 1,2 end)()) return {a,b==nil}
local t={} t.x,t.y=1,2 return {t.x,t.y}
local i,t=1,{} i,t[i]=i+1,20 return {i,t[1],t[2]==nil}
local t={1,2,3,n=5,[10]=6} return {t.n,t[10]}
local t={(function() return 1,2,3 end)()} return #t
local t={(function() return 1,2,3 end)(),10} return #t
local n=0 for i=10,1,-3 do n=n+i end return n
local n=0 for i=1,0 do n=n+1 end return n
local n=0 while true do n=n+1 if n>5 then break end end return n
local n=0 repeat local m=n n=n+1 until m>=3 return n
local r={} for i,v in ipairs({1,2,nil,4}) do r[#r+1]=v end return r
local r={} for k,v in pairs({10,20,30}) do r[#r+1]=k..'='..v end return r
local t=setmetatable({},{__index=function(t,k) return k..'!' end}) return t.foo
local t=setmetatable({},{__newindex=function(t,k,v) rawset(t,k,v*2) end}) t.x=4 return t.x
local t=setmetatable({},{__call=function(self,a) return a+1 end}) return t(4)
local t=setmetatable({},{__tostring=function() return 'me' end}) return tostring(t)
local t=setmetatable({},{__add=function(a,b) return 7 end}) return t+1
local t=setmetatable({},{__concat=function(a,b) return 'cat' end}) return 'x'..t..'y'
local t=setmetatable({},{__eq=function() return true end,__lt=function() return true end,__le=function() return false end}) return {t<t,t<=t}
local m={} m.__index=m function m.new(x) return setmetatable({x=x},m) end function m:get() return self.x end return m.new(5):get()
return {next({})==nil,next({7})}
return {unpack({1,2,3},2)}
return {unpack({1,2,3},2,3)}
return {type(nil),type(1),type('x'),type({}),type(print==nil),type(next),type(cjson.null)}
return rawequal('a','a')
return rawget({5},1)
return rawset({5},2,6)
return loadstring('return 1+1')()
return loadstring('return ...')(5)
return loadstring('bad bad')==nil
return {load(function() return nil end)}==nil
return {table.concat({1,2,3},','),table.concat({1,2,3},',',2),table.concat({1,2,3},',',2,2),table.concat({})}
return table.concat({1,{},3})
local t={1,2,3} table.insert(t,4) table.insert(t,1,0) return t
local t={1,2,3} return {table.remove(t),table.remove(t,1),#t}
local t={} return table.remove(t)
local t={5,2,8,1} table.sort(t) return t
local t={5,2,8,1} table.sort(t,function(a,b) return a>b end) return t
local t={'b','a','C'} table.sort(t) return t
table.sort({1,'x'})
return {table.getn({1,2}),table.maxn({1,2,[10]=3}),#{}}
return {string.byte('abc',1,-1)}
return string.char(72,105)
return {string.find('hello world','o w'),string.find('a.b','.',1,true),string.find('abc','b',-1)==nil}
return {string.find('hello','l+')}
return {string.find('key=value','(%w+)=(%w+)')}
return {string.match('2024-01-02','(%d+)-(%d+)-(%d+)')}
return {string.match('  trim  ','^%s*(.-)%s*$')}
return {string.match('abc','()b()')}
return string.match('abc','x')==nil
return {string.gsub('hello world','o','0')}
return {string.gsub('hello','l','L',1)}
return {string.gsub('hello','(l)(l)','%2%1')}
return {string.gsub('abc','%w','%0%0')}
return {string.gsub('$name is $age','%$(%w+)',{name='Bob',age=42})}
return {string.gsub('abc','%w',function(c) if c=='b' then return 'X' end end)}
return {string.gsub('abc','','-')}
return {string.gsub('THE (quick) fox','%((%w+)%)','<%1>')}
return {string.gsub('f(a(b)c)d','%b()','')}
return {string.gsub('THE (quick) fox','%f[%a]%a+','W')}
return string.find('a','[')
return string.find('a','%')
return string.gsub('a','(','x')
return string.gsub('a','a','%2')
local r={} for w in string.gmatch('one two  three','%a+') do r[#r+1]=w end return r
local r={} for k,v in string.gmatch('a=1, b=2','(%w+)=(%w+)') do r[#r+1]=k..v end return r
return {string.sub('hello',2,3),string.sub('hello',-3),string.sub('hello',2,-2),string.sub('hello',0),string.sub('hello',10)}
return {string.upper('aBc'),string.lower('aBc'),string.reverse('abc'),string.len('abc')}
return string.format('%d|%5d|%-5d|%05d|%+d|%x|%X|%o|%c',1,2,3,4,5,255,255,8,65)
return string.format('%s|%10s|%-10s|%.2s|%q','a','b','c','def','g"h\n')
return string.format('%f|%.2f|%10.3f|%e|%g|%g|%g',1.5,1.005,3.14159,12345.678,0.1,1e20,100)
return string.format('%5.1f|%i|%u|%%',3.14159,42,7)
return string.format('%d',3.7)
return string.format('%s',nil)
return string.format('%d','10')
return string.format('%z',1)
return string.format('%s')
return {math.floor(3.7),math.ceil(3.2),math.abs(-3),math.max(1,5,3),math.min(4,2,8),math.fmod(7,3),math.pow(2,3),math.sqrt(16)}
return tostring(math.pi)..' '..tostring(math.huge)..' '..tostring(-math.huge)
return {tostring(math.modf(3.7)),tostring(select(2,math.modf(3.5)))}
math.randomseed(42) return {math.random(1,100),math.random(1,100)}
math.randomseed(-7) return {math.random(1,1000),math.random(1,1000)}
return math.random(0)
return math.random(2,1)
return {math.ldexp(1,3),math.frexp(8)}
return {bit.band(255,15),bit.bor(1,2,4),bit.bxor(5,1),bit.bnot(0),bit.lshift(1,4),bit.rshift(-1,28),bit.arshift(-8,1)}
return {bit.rol(1,33),bit.ror(1,1),bit.bswap(1),bit.tobit(2^32+5),bit.tohex(255),bit.tohex(255,-4),bit.tohex(-1,3)}
return {bit.tobit(1.5),bit.tobit(2.5),bit.tobit(-1.5),bit.tobit(2^31)}
return bit.band('x')
return cjson.encode({1,2,3})
return cjson.encode({})
return cjson.encode({a=1})
return cjson.encode({[1]=1,[2]=2,[4]=4})
return cjson.encode({[1]=1,[100]=2})
return cjson.encode({1,'x',true,false,cjson.null,1.5,{2}})
return cjson.encode('a"b\\c/d\n\t\127\1é')
return cjson.encode(1/3)
return cjson.encode(1e100)
return cjson.encode(123456789012345678)
return cjson.encode(0/0)
return cjson.encode(function() end)
return cjson.encode({[{}]=1})
return cjson.encode({['1']=1,['x']={1}})==nil
return cjson.encode(nil)
return cjson.encode()
local t={} t[1]=t return cjson.encode(t)
cjson.encode_max_depth(2) return cjson.encode({{{1}}})
cjson.encode_max_depth(1000) cjson.decode_max_depth(1000) cjson.encode_number_precision(14) cjson.encode_sparse_array(false,2,10) cjson.decode_invalid_numbers(true) return 1
cjson.encode_number_precision(3) return cjson.encode(1/3)
cjson.encode_max_depth(1000) cjson.decode_max_depth(1000) cjson.encode_number_precision(14) cjson.encode_sparse_array(false,2,10) cjson.decode_invalid_numbers(true) return 1
cjson.encode_sparse_array(true) return cjson.encode({[1000]=1})
cjson.encode_max_depth(1000) cjson.decode_max_depth(1000) cjson.encode_number_precision(14) cjson.encode_sparse_array(false,2,10) cjson.decode_invalid_numbers(true) return 1
return {cjson.encode_sparse_array()}
return cjson.decode('[1,2,3]')
return cjson.decode('{"a":[1,{"b":2}]}').a[2].b
return cjson.decode('{"a":null}').a==cjson.null
return cjson.decode('[1.5e2,-3,0.25,1E2]')
return cjson.decode('["\\u0041\\u00e9\\ud83d\\ude00\\n\\/"]')
return cjson.decode('"x"')
return {cjson.decode('true'),cjson.decode('false'),cjson.decode(' 12 ')}
return cjson.decode('')
return cjson.decode('[1,')
return cjson.decode('[1 2]')
return cjson.decode('{"a" 1}')
return cjson.decode('{a:1}')
return cjson.decode('{"a":1,}')
return cjson.decode('[1]x')
return cjson.decode('nope')
return cjson.decode('"abc')
return cjson.decode('"\\x"')
return cjson.decode('"\\ud800"')
return cjson.decode('[tru]')
return cjson.decode('+1')
return cjson.decode('0x10')
return cjson.decode(5)
return cjson.decode({})
cjson.decode_max_depth(2) return cjson.decode('[[[1]]]')
cjson.encode_max_depth(1000) cjson.decode_max_depth(1000) cjson.encode_number_precision(14) cjson.encode_sparse_array(false,2,10) cjson.decode_invalid_numbers(true) return 1
cjson.decode_max_depth(1000) cjson.decode_invalid_numbers(false) return cjson.decode('0x10')
cjson.encode_max_depth(1000) cjson.decode_max_depth(1000) cjson.encode_number_precision(14) cjson.encode_sparse_array(false,2,10) cjson.decode_invalid_numbers(true) return 1
cjson.decode_invalid_numbers(true) return cjson.decode('inf')>0
cjson.encode_max_depth(1000) cjson.decode_max_depth(1000) cjson.encode_number_precision(14) cjson.encode_sparse_array(false,2,10) cjson.decode_invalid_numbers(true) return 1
return cjson.encode(cjson.decode('{"x":[1,2,{"y":null}]}'))
return cmsgpack.pack(1,-1,127,128,-32,-33,255,256,65535,65536,-128,-129,-32768,-32769,4294967295,4294967296,-2147483648,-2147483649,1e15)
return cmsgpack.pack(1.5,0.1,1e300)
return cmsgpack.pack('x',string.rep('y',40),true,false,nil)
return cmsgpack.pack({1,2,3},{},{a=1},{[1]=1,[3]=3})
return {cmsgpack.unpack(cmsgpack.pack({1,{2,'x'},{a=5}}))}
return cmsgpack.unpack(cmsgpack.pack({a={b=7}})).a.b
return {cmsgpack.unpack(cmsgpack.pack(1,2,3))}
return {cmsgpack.unpack_one(cmsgpack.pack(1,2,3))}
return {cmsgpack.unpack_one(cmsgpack.pack(1,2,3),1)}
return {cmsgpack.unpack_limit(cmsgpack.pack(1,2,3),2)}
return {cmsgpack.unpack_limit(cmsgpack.pack(1,2,3),2,1)}
return cmsgpack.unpack('\195\195\217')
return cmsgpack.unpack('\193')
return cmsgpack.unpack('\146\1')
return cmsgpack.unpack_one('\1',5)
return cmsgpack.unpack_one('\1',-1)
return cmsgpack.pack()
local t={} for i=1,20 do t={t} end return cmsgpack.pack(t)
return struct.pack('>I2I4','1',2)
return struct.pack('<bBhHlLd',-1,255,-2,65535,-3,4,1.5)
return struct.pack('>i3','-2')
return struct.pack('s','abc')..struct.pack('c2','abc')..struct.pack('c0','abc')
return struct.pack('!4bi4',1,2)
return struct.pack('>fx',1.5)
return {struct.unpack('>I2',string.char(1,2))}
return {struct.unpack('<i4B',struct.pack('<i4B',-5,200))}
return {struct.unpack('>Bc0',struct.pack('>Bc0',3,'abc'))}
return {struct.unpack('s','abc\0def')}
return {struct.unpack('i4',struct.pack('i4',7),1)}
return {struct.unpack('B','ab',2)}
return struct.unpack('I4','ab')
return struct.unpack('s','abc')
return struct.unpack('c0','abc')
return struct.unpack('B','a',0)
return {struct.size('<bi4'),struct.size('!bi4'),struct.size('c10'),struct.size('d')}
return struct.size('s')
return struct.pack('y',1)
return struct.pack('!3b',1)
return struct.pack('i40',1)
return struct.pack('c5','abc')
local co=coroutine.wrap(function(a) local b=coroutine.yield(a+1) return b*2 end) return {co(1),co(10)}
local co=coroutine.create(function() error('x') end) return {coroutine.resume(co)}
local co=coroutine.create(function(...) coroutine.yield(...) end) return {coroutine.resume(co,1,2)}
local co=coroutine.create(function() end) coroutine.resume(co) return coroutine.status(co)
local co=coroutine.wrap(function() return pcall(error,'deep',0) end) return {co()}
local c=0 local function add(n) return function() c=c+n return c end end local f,g=add(1),add(10) f() g() return f()
local fs={} for i=1,3 do fs[i]=function() return i end end return {fs[1](),fs[2](),fs[3]()}
local function v(...) local a,b=... return select('#',...),a,b end return {v(1,nil,3)}
local s=0 for _,v in ipairs(redis.call('lrange','list',0,-1)) do s=s+#v end return s
return this is bad
return 'unfinished
if x then
for
return {1,2
`), "\n")

type scriptGenerator struct{ *rand.Rand }

func (g scriptGenerator) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g scriptGenerator) number() string {
	switch g.IntN(4) {
	case 0:
		return strconv.Itoa(g.IntN(2000) - 1000)
	case 1:
		return strconv.FormatFloat((g.Float64()-0.5)*1000, 'g', 6, 64)
	case 2:
		return strconv.FormatFloat(g.Float64()*1e18, 'g', -1, 64)
	}
	return g.pick("0", "1", "-1", "0.5", "2^31", "2^32", "-2^31", "1e15", "1e-7", "2^53", "123456789")
}

// script returns a script that calls one function of a library with random arguments.
func (g scriptGenerator) script() string {
	switch g.IntN(7) {
	case 0:
		return fmt.Sprintf("return string.format('%%%s%s%s%s', %s)", g.pick("", "-", "+", "0", " ", "#"), g.pick("", "3", "12", "20"), g.pick("", ".0", ".3", ".10"),
			g.pick("d", "i", "f", "e", "g", "G", "E"), g.number())
	case 1:
		return fmt.Sprintf("return tostring(%s)..' '..(%s %s %s)", g.number(), g.number(), g.pick("+", "-", "*"), g.number())
	case 2:
		return fmt.Sprintf("return bit.%s(%s,%d)", g.pick("band", "bor", "bxor", "lshift", "rshift", "arshift", "rol", "ror"), g.number(), g.IntN(70))
	case 3:
		return fmt.Sprintf("return {string.%s('%s','%s')}", g.pick("find", "match"), g.word(), g.pattern())
	case 4:
		return fmt.Sprintf("return {string.gsub('%s','%s','<%%0>')}", g.word(), g.pattern())
	case 5:
		return fmt.Sprintf("return cjson.encode({%s,%s,'%s'})", g.number(), g.number(), g.word())
	}
	return fmt.Sprintf("return cmsgpack.pack(%s,%s,{%s})", g.number(), g.number(), g.number())
}

func (g scriptGenerator) word() string {
	var b strings.Builder
	for range g.IntN(12) {
		b.WriteString(g.pick("a", "b", "c", "1", "2", " ", ".", "-", "(", ")", "X"))
	}
	return b.String()
}

func (g scriptGenerator) pattern() string {
	var b strings.Builder
	if g.IntN(4) == 0 {
		b.WriteByte('^')
	}
	for range 1 + g.IntN(4) {
		b.WriteString(g.pick("a", "b", ".", "%a", "%d", "%s", "%w", "[abc]", "[^a]", "[a-c]", "%.", "%A", "(a)", "(%d)", "()", "%b()", "[%d%s]", "%u", "%p"))
		b.WriteString(g.pick("", "", "", "*", "+", "-", "?"))
	}
	if g.IntN(4) == 0 {
		b.WriteByte('$')
	}
	return b.String()
}

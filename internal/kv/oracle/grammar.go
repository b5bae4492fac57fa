package main

import (
	"math/rand/v2"
	"strconv"
	"strings"
)

// A rule describes the commands that it makes: words separated by spaces. A capital letter alone draws from the pool of
// that letter; [a|b|c] takes none to three alternatives, which may hold several words joined by '~'; a word that ends
// in '+' comes one to four times. Everything else stands for itself.

// pools are the values that arguments are drawn from. Those that are likely to be refused stand at the end, once.
var pools = map[byte][]string{
	'K': {"a", "b", "c", "a", "b", "c", "d", "none", "string", "list", "hash", "set", "zset"},
	'Z': {"a", "b", "c", "a", "b", "c", "d", "absent", "string"},
	'V': {"v", "hello", "hello world", "10", "-5", "3.25", "", "0", "a\r\nb\x00c", "0123456789012345678901234567890123456789012345", "9223372036854775807",
		"long-value-of-more-than-sixty-four-bytes-which-ends-the-compact-encoding"},
	'M': {"m1", "m2", "m3", "m4", "m5", "m6", "1", "2", "3", "", "M", "a-member-of-more-than-sixty-four-bytes-which-ends-the-compact-encoding"},
	'N': {"1", "2", "3", "-7", "100", "2147483648", "-9223372036854775808", "x"},
	'I': {"0", "1", "2", "3", "-1", "-2", "-3", "5", "100", "-100", "1", "2", "0", "9223372036854775807", "-9223372036854775808",
		"9223372036854775808", "x", "", "1.5", " 1", "+1", "01", "-0"},
	'C': {"0", "1", "2", "3", "5", "10", "1", "2", "-1", "9223372036854775807", "x", "-9223372036854775808"},
	'F': {"0", "1", "2", "3", "-1", "1.5", "3.14159", "0.1", "0.2", "-2.5", "1e20", "-1e-10", "inf", "-inf", "+inf", "1e5", "123456789012345680", "1e17",
		"-0", "0x10", ".5", "5.", "1e-5", "nan", "x", "", "1e400", "1e-400", " 1", "1 ", "5e", "0x", "infinity", "1e308", "100", "4.9e-324"},
	'L': {"0", "1", "2", "3", "-1", "1.5", "3.0", "3.14159", "0.1", "0.2", "-2.5", "1e20", "-1e-10", "1e5", "123456789012345680", "1e17", "-0", "0x10", ".5",
		"5.", "1e-5", "1e-17", "5.0e3", "99999999999.99", "nan", "x", "", "inf", "-inf", "1e5000", " 1", "1 "},
	'S': {"-inf", "+inf", "0", "1", "2", "(1", "(2", "3", "(-inf", "(+inf", "1.5", "-1", "(0.1", "1e20", "", "(", "x", "nan", " 1", "1e400"},
	'X': {"-", "+", "-", "+", "[m1", "(m2", "[m3", "(m4", "[", "(", "[z", "(A", "x", "", "-x", "+x"},
	'T': {"60000", "100000", "500000", "60000", "0", "-1", "9223372036854775807", "9223372036854775", "9223372036854776", "-9223372036854775808", "x", "1.5"},
	'A': {"4102444800", "4102444801", "4202444800", "1", "0", "-1", "9223372036854775807", "x"},
	'P': {"4102444800000", "4102444800123", "4202444800000", "4102444801500", "1", "0", "-1", "9223372036854775807", "x"},
	'G': {"*", "m*", "*1", "m?", "[mn]1", "m[^1]", "m[1-3]", "\\m1", "[", "m[1", "**", "*2*", "", "hash", "a", "[a-c]"},
	'B': {"0", "1", "7", "8", "9", "15", "63", "64", "100", "799", "4095", "-1", "4294967296", "9223372036854775807", "x", "", "#1", "1.5"},
	'W': {"i8", "u8", "u1", "i1", "i64", "u63", "i16", "u32", "i5", "u13", "u64", "i65", "x8", "i0", "u", "", "8"},
	'O': {"#0", "#1", "#2", "0", "3", "8", "100", "63", "-1", "#-1", "#x", "x", "#9223372036854775807"},
	'J': {"1", "0", "-1", "127", "128", "255", "256", "-128", "-129", "9223372036854775807", "-9223372036854775808", "100", "15", "x", "1", "10"},
	'H': {"h1", "h2", "h1", "h2", "h3", "absent", "string", "list"},
	'E': {"a", "b", "c", "1", "2", "3", "foo", "bar", "", "0123456789", "a\x00b", "zap", "x", "y", "z", "long-element-of-a-hyperloglog"},
	'Q': {"13.361389", "15.087269", "0", "-180", "180", "-74.0059", "139.69", "2.349", "2.35", "-0.1276", "179.99999", "-179.99999", "181", "x", "inf", "12.5e0"},
	'Y': {"38.115556", "37.502669", "0", "85.05112878", "-85.05112878", "40.7127", "35.68", "48.8647", "48.8648", "51.507", "84.9", "-84.9", "86", "x", "nan", "-45"},
	'R': {"100", "200", "0", "1", "1000", "5000", "20000", "-1", "x", "0.5", "1e3", "1e9", "inf"},
	'U': {"m", "km", "ft", "mi", "km", "KM", "x", "km"},
	'D': {"left", "right", "LEFT", "Right", "middle"},
}

// grammar lists the rules of each transcript. The weight of a command is how often it stands there.
var grammar = map[string][]string{
	"strings": {
		"set K V", "set K V [ex~T|px~T|exat~A|pxat~P|keepttl|nx|xx|get]", "set K N", "set K L", "get K", "get K", "getset K V", "getdel K",
		"getex K [ex~T|px~T|exat~A|pxat~P|persist]", "mget K+", "mset K V K V", "msetnx K V K V", "mset K V K", "setnx K V", "setex K T V", "psetex K T V",
		"append K V", "append K V", "strlen K", "incr K", "decr K", "lcs K K", "incrby K I", "decrby K I", "incrbyfloat K L", "incrbyfloat K L", "set K 3.0",
		"getrange K I I", "substr K I I", "setrange K I V", "setrange K 536870912 V", "setrange K 536870911 V V", "object encoding K", "ttl K", "pexpiretime K", "type K",
	},
	"keys": {
		"set K V", "rpush K V", "hset K M V", "sadd K M", "zadd K F M", "del K+", "unlink K+", "exists K+", "touch K+", "type K", "keys G",
		"scan 0 [match~G|count~1000|type~string|type~ZSET|type~foo|count~0|count~x]", "scan x", "scan +0 count 1000", "scan - count 1000", "ttl K", "pttl K", "expiretime K", "pexpiretime K",
		"expire K T [nx|xx|gt|lt]", "pexpire K T [nx|xx|gt|lt]", "expireat K A [nx|xx|gt|lt|zz]", "pexpireat K P [nx|xx|gt|lt]", "expire K T", "pexpireat K P",
		"expireat K A", "persist K", "rename K K", "renamenx K K", "copy K K [replace|db~0|db~1|db~x]", "copy K K replace", "object encoding K",
		"object refcount K", "object idletime K", "object freq K", "object help", "object nope K", "object encoding", "dbsize", "randomkey x", "flushdb x", "nosuch K V", "nosuch", "get",
		"flushall async sync",
	},
	"lists": {
		"lpush K V+", "rpush K V+", "rpush K M+", "lpush K M+", "lpushx K V+", "rpushx K V+", "lpop K", "rpop K", "lpop K C", "rpop K C", "lpop K 1 1", "llen K", "lrange K I I",
		"lrange K 0 -1", "lindex K I", "lset K I V", "linsert K before M V", "linsert K after M V", "linsert K nowhere M V", "lrem K I M", "ltrim K I I", "lpos K M",
		"lpos K M [rank~I|count~C|maxlen~C]", "lpos K M count 0", "lmove K K D D", "rpoplpush K K", "object encoding K", "exists K",
	},
	"hashes": {
		"hset K M V", "hset K M V M V", "hset K M N", "hset K M L", "hmset K M V M V", "hset K M V M", "hmset K M V M", "hget K M", "hmget K M+", "hgetall K", "hdel K M+", "hlen K", "hexists K M",
		"hincrby K M I", "hincrby K M N", "hincrbyfloat K M L", "hincrbyfloat K M L", "hkeys K", "hvals K", "hsetnx K M V", "hstrlen K M", "hscan K 0 [match~G|count~1000|count~0|type~x]",
		"hscan K x", "hrandfield K 1000 [withvalues|x]", "hrandfield none", "hrandfield none C withvalues", "hrandfield string", "hrandfield K 0", "hrandfield K x",
		"hrandfield K -9223372036854775808", "hrandfield K 9223372036854775807 withvalues", "object encoding K",
	},
	"sets": {
		"sadd K M+", "sadd K M+", "sadd K N+", "srem K M+", "smembers K", "sismember K M", "smismember K M+", "scard K", "spop K 1000", "spop absent", "spop absent C", "spop K x", "spop K 0", "spop K 1 1",
		"spop text", "spop text 1", "srandmember K 1000", "srandmember none", "srandmember none C", "srandmember K x", "srandmember K 0", "srandmember K 1 1", "srandmember K -9223372036854775808", "smove K K M",
		"sinter K+", "sunion K+", "sdiff K+", "sinterstore K K K", "sunionstore K K+", "sdiffstore K K K", "sintercard C K+", "sintercard 2 K K [limit~C|x]", "sintercard 1 K",
		"sscan K 0 [match~G|count~1000]", "object encoding K",
	},
	"zsets": {
		"zadd K F M", "zadd K F M F M F M", "zadd K I M I M", "zadd K [nx|xx|gt|lt|ch|incr] F M", "zadd K [nx|xx|gt|lt|ch] I M I M", "zadd K F", "zadd K F M F", "zrem K M+", "zscore K M", "zmscore K M+", "zincrby K F M",
		"zrank K M", "zrevrank K M", "zcard K", "zcount K S S", "zpopmin K", "zpopmax K", "zpopmin K C", "zpopmax K C", "zpopmin K 1 1", "zscan K 0 [match~G]",
		"zrandmember K 1000 [withscores|x]", "zrandmember none", "zrandmember none C withscores", "zremrangebyrank K I I", "zremrangebyscore K S S", "object encoding K",
	},
	"zranges": {
		"zadd K I M I M I M", "zadd K 0 M 0 M 0 M", "zadd K F M", "sadd K M+", "zrange K I I [withscores|rev|limit~I~I]", "zrange K 0 -1 withscores", "zrange K S S byscore [withscores|rev|limit~I~I]",
		"zrange K S S [byscore|rev|x]", "zrevrange K I I [withscores|limit~0~1]", "zrangebyscore K S S [withscores|limit~I~I]", "zrevrangebyscore K S S [withscores|limit~I~I]",
		"zrangestore K K I I [rev|withscores]", "zrangestore K K S S byscore [rev|limit~I~I]",
		"zrange K 0 -1 rev withscores",
	},
	"zlex": { // Redis defines these only where all scores are equal
		"zadd Z 0 M 0 M 0 M", "zadd Z 0 M 0 M 0 M", "zadd Z 0 V 0 V", "zrange Z X X bylex [rev|limit~I~I]", "zrange Z X X bylex withscores", "zrange Z X X [bylex|rev]", "zrangebylex Z X X [limit~I~I|withscores]",
		"zrevrangebylex Z X X [limit~I~I]", "zrangestore Z Z X X bylex [limit~I~I]", "zlexcount Z X X", "zremrangebylex Z X X", "zrem Z M+",
	},
	"bits": {
		"set K V", "set K V", "setbit K B [0|1]", "setbit K B 1", "setbit K B 0", "setbit K B C", "getbit K B", "getbit K B", "bitcount K", "bitcount K I I", "bitcount K I I [bit|byte|x]", "bitcount K I",
		"bitpos K 1", "bitpos K 0", "bitpos K C I", "bitpos K 0 I I", "bitpos K 1 I I", "bitpos K 0 I I [bit|byte|x]", "bitpos K 1 I I bit", "bitop and K K K", "bitop or K K K", "bitop xor K K K", "bitop not K K", "bitop not K K K",
		"bitop x K K", "bitop or K K+", "bitop and K K+", "bitfield K get W O", "bitfield K set W O J", "bitfield K incrby W O J", "bitfield K set u8 O J incrby i8 O J get u16 O", "bitfield K overflow sat incrby W O J set W O J",
		"bitfield K overflow fail incrby W O J incrby W O J", "bitfield K overflow wrap set W O J overflow fail set W O J", "bitfield K overflow x set u8 0 1", "bitfield_ro K get W O", "bitfield_ro K set u8 0 1", "bitfield K",
		"bitfield_ro K get u8 0 get i8 #1", "get K", "get K", "strlen K", "object encoding K", "append K V", "incr K",
	},
	"hyperloglogs": {
		"pfadd H E", "pfadd H E E E E", "pfadd H E+", "pfadd H", "pfadd H V V V", "pfadd H I I", "getrange H 16 -1", "strlen H", "pfmerge H H", "pfmerge H H H", "pfmerge H", "pfcount H", "pfcount H H", "pfcount H+", "pfdebug encoding H",
		"pfdebug decode H", "pfdebug todense H", "pfdebug nope H", "object encoding H", "set h3 x", "set h3 HYLL", "setrange h3 4 E", "getrange H 0 4", "copy H H replace", "del H",
	},
	"geos": {
		"geoadd K Q Y M", "geoadd K Q Y M Q Y M", "geoadd K [nx|xx|ch] Q Y M", "geoadd K 13.361389 38.115556 M 15.087269 37.502669 M", "geoadd K 2.349 48.8647 M -0.1276 51.507 M 2.35 48.86 M", "geodist K M M [km|m|mi|ft|x]", "geodist K M M",
		"geohash K M+", "geohash K", "geopos K M+", "geopos K", "geosearch K fromlonlat Q Y byradius R U asc [withdist|withcoord|withhash|count~C|any]", "geosearch K frommember M byradius R U desc [withdist|count~C]",
		"geosearch K frommember M bybox R R U asc [withdist|withcoord|count~C]", "geosearch K fromlonlat Q Y bybox R R U asc withdist", "geosearch K fromlonlat Q Y byradius R U", "geosearch K frommember M fromlonlat Q Y byradius R U",
		"geosearch K byradius R U asc withdist", "geosearch K frommember M asc withdist count C any", "geosearchstore K K fromlonlat Q Y byradius R U [asc|storedist|count~C|withdist]", "geosearchstore K K frommember M bybox R R U [storedist]",
		"georadius K Q Y R U asc [withdist|withcoord|withhash|count~C]", "georadius K Q Y R U [store~K|storedist~K|withdist]", "georadius_ro K Q Y R U asc [store~K|withdist]", "georadiusbymember K M R U asc [withdist|store~K]",
		"georadiusbymember_ro K M R U asc [withcoord]", "zrange K 0 -1 withscores", "zscore K M", "zcard K", "type K",
	},
	"sorts": {
		"rpush K I I I", "rpush K J J", "rpush K 1.5 -2.25 J", "rpush K V M V", "sadd K I I I", "sadd K M M", "zadd K J I J I", "set w_1 I", "set w_2 J", "set w_3 V", "set w_m1 I", "set w_m2 3", "hset h_1 f I g V", "hset h_2 f J", "hset h_m1 f 5", "set K V",
		"sort K", "sort K [asc|desc|alpha|limit~I~I|x]", "sort K alpha [desc|limit~I~I]", "sort K by w_* [desc|limit~I~I]", "sort K by w_* alpha [desc]", "sort K by h_*->f [desc|limit~I~I]", "sort K by h_*->f alpha [desc]", "sort K by nosort get # get w_*", "sort K get # get w_* get h_*->g [desc|alpha]",
		"sort K alpha get w_* [store~d]", "sort K store K", "sort K alpha store d", "sort_ro K [alpha|desc|limit~I~I]", "sort_ro K store d", "sort K by nosort desc", "lrange K 0 -1", "lrange d 0 -1",
		"sort K alpha by nosort [store~d]", "sort K get w_1", "sort K alpha by * get #", "sort K limit 0",
	},
	"lcs": {
		"set K V", "set K ohmytext", "set K mynewtext", "append K V", "setrange K C E", "lcs K K", "lcs K K len", "lcs K K idx", "lcs K K idx withmatchlen", "lcs K K [idx|minmatchlen~C|withmatchlen|len|x]", "lcs K K idx minmatchlen 2 withmatchlen",
		"lcs K K len idx", "lcs K", "lcs K K minmatchlen",
	},
	"dumps": {
		"rpush K V+", "sadd K M+", "sadd K N+", "hset K M V M V", "zadd K F M F M", "set K V", "set K I", "set K L", "setrange K 300 V", "dump K", "dump K", "dump K", "restore K 0 x", "restore K -1 x", "restore K x x", "restore K 0 x [replace|absttl|idletime~I|freq~I|x]",
		"lrange K 0 -1", "object encoding K", "pfadd h1 E", "dump h1",
	},
	"zalgebra": {
		"zadd K I M I M I M", "zadd K F M F M", "sadd K M+", "zunion 2 K K [weights~F~F|aggregate~sum|aggregate~min|aggregate~MAX|aggregate~x|withscores]", "zinter 2 K K [weights~F~F|aggregate~max|withscores]",
		"zdiff 2 K K [withscores]", "zunion 3 K K K withscores", "zdiff 3 K K K withscores", "zunionstore K 2 K K [weights~F~F|aggregate~min|withscores]", "zinterstore K 2 K K [weights~F~F|aggregate~max]", "zdiffstore K 2 K K",
		"zunion C K K", "zinterstore K C K", "zintercard 2 K K [limit~C]", "zunion 1 K weights F", "zunion 2 K K weights F", "zrange K 0 -1 withscores", "zinter 1 K withscores", "object encoding K",
	},
}

// generator draws commands.
type generator struct{ *rand.Rand }

func (g generator) pick(values []string) string { return values[g.IntN(len(values))] }

func (g generator) command(rules []string) []string {
	args := g.expand(g.pick(rules))
	if name := strings.ToLower(args[0]); name == "spop" || name == "zadd" && args[2] == "0" {
		return args // a draw would let the states diverge; another score would leave what is defined
	}
	switch g.IntN(60) {
	case 0: // one argument less
		if len(args) > 1 {
			args = args[:len(args)-1]
		}
	case 1: // one more
		args = append(args, g.pick(pools['M']))
	case 2: // another one in its place
		i := 1 + g.IntN(max(1, len(args)-1))
		if i < len(args) {
			args[i] = g.pick(pools["KVMIFS"[g.IntN(6)]])
		}
	}
	return args
}

func (g generator) expand(rule string) []string {
	var args []string
	for _, word := range strings.Fields(rule) {
		switch {
		case strings.HasPrefix(word, "["):
			alternatives := strings.Split(strings.Trim(word, "[]"), "|")
			for range g.IntN(3) + g.IntN(2) {
				for _, part := range strings.Split(g.pick(alternatives), "~") {
					args = append(args, g.word(part))
				}
			}
		case len(word) == 2 && word[1] == '+':
			for range 1 + g.IntN(4) {
				args = append(args, g.word(word[:1]))
			}
		default:
			args = append(args, g.word(word))
		}
	}
	return args
}

func (g generator) word(word string) string {
	if pool, ok := pools[word[0]]; ok && len(word) == 1 {
		return g.pick(pool)
	}
	if g.IntN(8) == 0 {
		return strings.ToUpper(word)
	}
	return word
}

// fixture makes a key of each type, so that every command meets each.
var fixture = [][]string{
	{"flushall"},
	{"set", "string", "text"},
	{"set", "text", "never changed"},
	{"rpush", "list", "m1", "m2", "m3", "m2", "m1"},
	{"hset", "hash", "m1", "v1", "m2", "10", "m3", "1.5"},
	{"sadd", "set", "m1", "m2", "m3"},
	{"zadd", "zset", "1", "m1", "2", "m2", "3", "m3", "3", "m4"},
}

// introspectionCommands ask about commands; none of them about all, because the machine does not have all.
var introspectionCommands = [][]string{
	{"command", "info", "get", "SET", "nosuch", "zunionstore", "slowlog", "config", "object"}, {"command", "info", "client|id", "client|nosuch", "get|x"},
	{"command", "docs", "get", "nosuch", "zadd", "slowlog", "client|id"}, {"command", "docs", "nosuch"}, {"command", "docs", "set", "lpop", "latency|latest"},
	{"command", "count", "x"}, {"command", "nosuch"}, {"COMMAND", "NOSUCH", "x"}, {"command", "help"}, {"command", "help", "x"},
	{"command", "list", "filterby", "pattern", "zra*"}, {"command", "list", "filterby", "pattern", "config*"}, {"command", "LIST", "FILTERBY", "PATTERN", "nosuch*"},
	{"command", "list", "filterby", "module", "x"}, {"command", "list", "filterby", "aclcat", "nosuch"}, {"command", "list", "filterby", "aclcat", "hash"}, {"command", "list", "x"},
	{"command", "list", "filterby", "pattern"}, {"command", "list", "filterby", "x", "y"},
	{"command", "getkeys"}, {"command", "getkeys", "get"}, {"command", "getkeys", "get", "a"}, {"command", "getkeys", "get", "a", "b"}, {"command", "getkeys", "nosuch", "a"}, {"command", "getkeys", "ping", "a"},
	{"command", "getkeys", "sintercard", "5", "a", "b"}, {"command", "getkeys", "sintercard", "0", "a"}, {"command", "getkeys", "sintercard", "2", "a", "b"}, {"command", "getkeys", "sintercard", "x", "a", "b"},
	{"command", "getkeys", "zunionstore", "d", "2", "a", "b"}, {"command", "getkeys", "zunionstore", "d", "3", "a", "b"}, {"command", "getkeys", "zunion", "1", "a", "withscores"},
	{"command", "getkeys", "mset", "a", "1", "b", "2"}, {"command", "getkeys", "mset", "a", "1", "b"}, {"command", "getkeys", "del", "a", "b", "c"}, {"command", "getkeys", "lmove", "a", "b", "left", "right"},
	{"command", "getkeys", "config", "get", "a"}, {"command", "getkeys", "object", "encoding", "k"}, {"command", "getkeys", "object", "nosuch", "k"}, {"command", "getkeys", "watch", "k", "l"},
	{"command", "getkeysandflags", "set", "a", "b"}, {"command", "getkeysandflags", "set", "a", "b", "GET"}, {"command", "getkeysandflags", "rename", "a", "b"}, {"command", "getkeysandflags", "get", "a"},
	{"command", "getkeysandflags", "zunionstore", "d", "2", "a", "b"}, {"command", "getkeysandflags", "sinterstore", "d", "a", "b"}, {"command", "getkeysandflags", "object", "encoding", "k"},
}

// movableKeys are calls whose keys stand behind words and numbers.
var movableKeys = []string{
	"eval s 0", "eval s 2 a b c", "eval s 3 a b", "eval s -1 a", "eval s x a", "eval s 1a b", "eval_ro s 1 a", "evalsha s 1 a b", "evalsha_ro s 2 a b", "fcall f 2 a b c", "fcall_ro f 1 a", "fcall f 0 x",
	"sort a", "sort a store b", "sort a STORE b store c", "sort a by store get store limit 0 store store d", "sort a store", "sort a limit 0 1 desc alpha store b", "sort a get # get store store b", "sort_ro a by b get c",
	"xread streams a 0", "xread streams a b 0 0", "xread count 2 block 3 streams a b 0 0", "xread streams a b 0", "xread streams a", "xread streams", "xread count streams streams a 0", "xread block 0 a b",
	"xreadgroup group g c streams a >", "xreadgroup group streams streams streams a b > >", "xreadgroup group g c noack count 1 streams a b c > > >", "xreadgroup group g c count 1",
	"zunionstore d 2 a b", "zunionstore d 2 a b weights 1 2", "zinterstore d 1 a aggregate max", "zdiffstore d 3 a b", "zunionstore d 0 a", "zunionstore d -1 a", "zunion 2 a b withscores", "zinter 1 a", "zdiff 2 a b", "zintercard 2 a b limit 3", "zrangestore d s 0 1",
	"lmpop 2 a b left", "lmpop 3 a left", "blmpop 0 2 a b right count 3", "blmpop 0 0 a left", "zmpop 1 a min", "bzmpop 1 2 a b max", "sintercard 2 a b limit 1", "sintercard 9 a",
	"blpop a b 0", "brpop a 0", "bzpopmin a b c 1", "brpoplpush a b 0", "blmove a b left right 0", "rpoplpush a b",
	"georadius a 1 2 3 m", "georadius a 1 2 3 m store b", "georadius a 1 2 3 m storedist b", "georadius a 1 2 3 m store b storedist c", "georadius a 1 2 3 m store b store c", "georadius a 1 2 3 m store", "georadiusbymember a m 3 km store b",
	"georadiusbymember a store 3 km", "georadius_ro a 1 2 3 m", "geosearch a frommember m byradius 1 m", "geosearchstore d a frommember m byradius 1 m storedist",
	"bitop and d a b", "bitop not d", "bitfield a get u8 0", "bitfield a get u8 0 set u8 0 1", "bitfield a overflow sat", "bitfield a", "bitfield_ro a get u8 0", "pfcount a b", "pfmerge d a", "pfmerge d", "pfdebug getreg a",
	"set a b get", "set a b ex 1 GET", "set a get", "set get get get", "mset a 1 b 2", "mset a 1 b", "msetnx a 1", "copy a b", "rename a b", "object encoding a", "object help", "memory usage a", "memory doctor", "debug object a",
	"xgroup create a g 0", "xgroup", "xgroup nosuch a", "xinfo stream a full", "xinfo help", "spublish a b", "ssubscribe a", "sunsubscribe", "publish a b", "watch a b", "unwatch", "restore a 0 p replace", "restore-asking a 0 p", "lcs a b idx",
}

// large returns commands that fill collections beyond the compact encodings and ask all over them.
func (g generator) large() [][]string {
	var commands [][]string
	add := func(args ...string) { commands = append(commands, args) }
	for i := range 150 {
		n, name := strconv.Itoa(i), "member:"+strconv.Itoa(i*7919%150)
		add("zadd", "z", strconv.Itoa(i%40), name)
		add("hset", "h", name, n)
		add("rpush", "l", name)
		add("lpush", "l", n)
		add("sadd", "s", name)
		add("sadd", "i", n)
	}
	for i := range 400 {
		add("sadd", "i", strconv.Itoa(1000+i))
	}
	for _, key := range []string{"z", "h", "l", "s", "i"} {
		add("object", "encoding", key)
	}
	for range 150 {
		i, j := strconv.Itoa(g.IntN(320)-160), strconv.Itoa(g.IntN(320)-160)
		name := "member:" + strconv.Itoa(g.IntN(160))
		add("zrange", "z", i, j, "withscores")
		add("zrevrange", "z", i, j)
		add("zrank", "z", name)
		add("zrevrank", "z", name)
		add("zcount", "z", strconv.Itoa(g.IntN(45)), strconv.Itoa(g.IntN(45)))
		add("zrangebyscore", "z", "("+strconv.Itoa(g.IntN(40)), "40", "limit", strconv.Itoa(g.IntN(20)), "7")
		add("lrange", "l", i, j)
		add("lindex", "l", i)
		add("linsert", "l", "before", name, "new:"+i)
		add("lrem", "l", strconv.Itoa(g.IntN(5)-2), strconv.Itoa(g.IntN(160)))
		add("lset", "l", i, "set:"+j)
		add("lpos", "l", name, "rank", "-1")
		add("zrem", "z", name)
		add("zincrby", "z", "1.25", "member:"+strconv.Itoa(g.IntN(160)))
		add("hdel", "h", name)
		add("hget", "h", "member:"+strconv.Itoa(g.IntN(160)))
		add("srem", "s", name)
	}
	for _, key := range []string{"z", "h", "l", "s", "i"} {
		add("object", "encoding", key)
	}
	add("smembers", "s")
	add("hgetall", "h")
	add("zrange", "z", "0", "-1", "withscores")
	add("lrange", "l", "0", "-1")
	add("ltrim", "l", "40", "-40")
	add("lrange", "l", "0", "-1")
	add("zremrangebyrank", "z", "10", "60")
	add("zrange", "z", "0", "-1", "withscores")
	return commands
}

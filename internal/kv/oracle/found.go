package main

import "strings"

// found are sequences that a soak has found answered differently, and that are answered alike since. Each begins with an empty keyspace.
var found = [][][]string{
	{{"incrbyfloat", "a", "1e400"}, {"incrbyfloat", "a", ".5"}, {"incrbyfloat", "a", "1" + strings.Repeat("0", 5117)}, {"incrbyfloat", "b", "1" + strings.Repeat("0", 4900)},
		{"incrbyfloat", "b", "1" + strings.Repeat("0", 5119)}, {"hincrbyfloat", "h", "f", "-1e300"}, {"hincrbyfloat", "h", "f", "1"}, {"zadd", "z", "1" + strings.Repeat("0", 255), "m"}, {"zadd", "z", "1" + strings.Repeat("0", 254), "m"}},
	{{"pexpire", "set", "9223372036854776", "a\r\nb\x00c"}, {"expire", "none", "x", "\x00nx"}},
	{{"set", "zset", "10"}, {"copy", "zset", "b"}, {"object", "refcount", "b"}, {"object", "encoding", "b"}, {"rename", "b", "c"}, {"object", "refcount", "c"}, {"copy", "c", "d"},
		{"object", "refcount", "d"}, {"move", "d", "1"}, {"incr", "c"}, {"object", "refcount", "c"}, {"append", "zset", "1"}, {"copy", "zset", "e"}, {"object", "encoding", "e"}, {"object", "refcount", "zset"}},
	{{"rpush", "list", "a"}, {"scan", "0", "type", ""}, {"scan", "0", "type", "LIST"}},
	{{"rpush", "b", "0", "4.9e-324", "-3"}, {"sort_ro", "b"}, {"sort", "b", "alpha"}, {"zadd", "reset-errno", "1", "m"}, {"rpush", "c", "3", "2.2250738585072014e-308", "-1e308"}, {"sort", "c"}, {"rpush", "c", "-1e-310"}, {"sort", "c", "desc"}},
	{{"xadd", "t", "1--01", "f", "hello world"}, {"xadd", "t", "1-*", "g", "40000"}, {"xadd", "t", "0-*", "g", "1"}, {"xadd", "t", "*", "g", "1"}},
	{{"eval", "return redis.pcall('object', 'nope', 'k')", "0"}, {"eval", "return redis.call('object', 'encoding')", "0"}, {"eval", "return redis.pcall('OBJECT', 'REFCOUNT', 'k', 'x')", "0"}, {"eval", "return redis.pcall('object')", "0"},
		{"eval", "return redis.pcall('xgroup', 'create', 'k')", "0"}, {"eval", "return redis.pcall('xinfo', 'nope')", "0"}, {"eval", "return redis.pcall('config', 'nope')", "0"}, {"eval", "return redis.pcall('config', 'get')", "0"},
		{"eval", "return redis.pcall('script', 'flush', 'x', 'y')", "0"}, {"eval", "return redis.pcall('client', 'nope')", "0"}, {"eval", "return redis.pcall('object', 'encoding', 'none')", "0"}},
}

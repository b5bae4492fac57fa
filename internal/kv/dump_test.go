package kv

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lockstep/internal/resp"
)

// footed ends a value with a footer of an older version.
func footed(value string, version uint16) string {
	b := binary.LittleEndian.AppendUint16([]byte(value), version)
	return string(binary.LittleEndian.AppendUint64(b, crc64Of(b)))
}

func bulkOf(t rapid.TB, reply string) string {
	t.Helper()
	v, _, err := resp.Decode([]byte(reply))
	if err != nil || v.Kind != '$' || v.Null {
		t.Fatalf("reply %q is no string", reply)
	}
	return v.Text
}

// The checksum must be that of Redis, to the bit.
func TestChecksumOfDump(t *testing.T) {
	if got := crc64Of([]byte("123456789")); got != 0xe9c6d914c4b8d9ca {
		t.Errorf("checksum %x", got)
	}
}

// What could go wrong: a value that comes back changed. Every value that commands can make is dumped, restored and
// dumped again; the second dump must be the first, and so must what a digest of the content shows.
func TestDumpIsRestored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		r := newRunner()
		word := func() string {
			switch dice.IntN(8) {
			case 0:
				return fmt.Sprint(dice.Int64() >> dice.IntN(64))
			case 1:
				return strings.Repeat("x", dice.IntN(300))
			case 2:
				return strings.Repeat("long", dice.IntN(5000))
			case 3:
				return fmt.Sprint(-dice.IntN(70000))
			}
			return fmt.Sprint("w", dice.IntN(400))
		}
		size := []int{1, 5, 100, 700}[dice.IntN(4)]
		for i := range size {
			r.apply("rpush", "list", word())
			r.apply("sadd", "set", word())
			r.apply("sadd", "integers", fmt.Sprint(dice.Int64()>>dice.IntN(64)))
			r.apply("hset", "hash", fmt.Sprint(i, word()), word()) // a value that was long once would be dumped otherwise
			r.apply("zadd", "zset", fmt.Sprint(dice.NormFloat64()*float64(dice.IntN(1000))), word())
			r.apply("xadd", "stream", "*", word(), word())
			r.stamp += int64(dice.IntN(3))
		}
		r.apply("set", "string", word())
		r.apply("pfadd", "hll", word(), word())
		r.apply("xgroup", "create", "stream", "group", "0")
		r.apply("xreadgroup", "group", "group", "me", "count", "7", "streams", "stream", ">")
		r.apply("xreadgroup", "group", "group", "you", "count", "7", "streams", "stream", ">")
		for _, key := range []string{"list", "set", "integers", "hash", "zset", "stream", "string", "hll"} {
			first := bulkOf(t, r.read("dump", key))
			if got := r.apply("restore", "copy", "0", first, "replace"); got != "+OK\r\n" {
				t.Fatalf("restore of %s: %q", key, got)
			}
			if again := bulkOf(t, r.read("dump", "copy")); again != first && key != "stream" {
				t.Fatalf("%s: %q became %q", key, first, again)
			}
			for _, question := range []string{"type KEY", "object encoding KEY", "xrange KEY - +", "xpending KEY group", "xinfo groups KEY"} {
				if strings.HasPrefix(question, "object") && key == "hll" {
					continue // a restored string has the encoding of its length
				}
				ask := func(name string) string { return r.read(strings.Fields(strings.ReplaceAll(question, "KEY", name))...) }
				if a, b := ask(key), ask("copy"); a != b {
					t.Fatalf("%s of %s: %q, of the copy %q", question, key, a, b)
				}
			}
		}
		checkMachine(t, r.machine)
	})
}

// Encodings that older versions of Redis wrote are read. The values are put together by hand.
func TestOldEncodingsAreRestored(t *testing.T) {
	ziplist := "\x1b\x00\x00\x00\x15\x00\x00\x00\x04\x00" + "\x00\x01a" + "\x03\xf2" + "\x02\xfe\xfb" + "\x03\xc0\x00\x10" + "\xff"
	ziplist = string(binary.LittleEndian.AppendUint32(nil, uint32(len(ziplist)))) + "\x12\x00\x00\x00" + ziplist[8:]
	listpack := "\x0f\x00\x00\x00\x02\x00\x81a\x02\x05\x01\xff"
	listpack = string(binary.LittleEndian.AppendUint32(nil, uint32(len(listpack)))) + listpack[4:]
	text := func(s string) string { return string(appendRDBBlob(nil, []byte(s))) }
	tests := []struct {
		name, value, ask, want string
	}{
		{"integer of 8 bits", "\x00\xc0\xfb", "get k", "$2\r\n-5\r\n"},
		{"integer of 16 bits", "\x00\xc1\x00\x10", "get k", "$4\r\n4096\r\n"},
		{"integer of 32 bits", "\x00\xc2\xff\xff\xff\xff", "get k", "$2\r\n-1\r\n"},
		{"compressed", "\x00\xc3\x05\x0a\x00a\xe0\x00\x00", "get k", "$10\r\naaaaaaaaaa\r\n"},
		{"list", "\x01\x02\x01a\x01b", "lrange k 0 -1", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"},
		{"set", "\x02\x02\x01a\x01b", "smembers k", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"},
		{"zset in text", "\x03\x02\x01a\x031.5\x01b\xfe", "zrange k 0 -1 withscores", "*4\r\n$1\r\na\r\n$3\r\n1.5\r\n$1\r\nb\r\n$3\r\ninf\r\n"},
		{"hash", "\x04\x01\x01a\x01b", "hgetall k", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"},
		{"zset", "\x05\x01\x01a\x00\x00\x00\x00\x00\x00\xf8\x3f", "zscore k a", "$3\r\n1.5\r\n"},
		{"zipmap", "\x09" + text("\x02\x01a\x01\x00b\x02cc\x02\x01ddx\xff"), "hgetall k", "*4\r\n$1\r\na\r\n$1\r\nb\r\n$2\r\ncc\r\n$2\r\ndd\r\n"},
		{"ziplist", "\x0a" + text(ziplist), "lrange k 0 -1", "*4\r\n$1\r\na\r\n$1\r\n1\r\n$2\r\n-5\r\n$4\r\n4096\r\n"},
		{"intset", "\x0b" + text("\x02\x00\x00\x00\x02\x00\x00\x00\xff\xff\x05\x00"), "smembers k", "*2\r\n$2\r\n-1\r\n$1\r\n5\r\n"},
		{"zset of a ziplist", "\x0c" + text(ziplist), "zcard k", ":2\r\n"},
		{"hash of a ziplist", "\x0d" + text(ziplist), "hget k -5", "$4\r\n4096\r\n"},
		{"quicklist", "\x0e\x02" + text(ziplist) + text(ziplist), "llen k", ":8\r\n"},
		{"hash of a listpack", "\x10" + text(listpack), "hget k a", "$1\r\n5\r\n"},
		{"zset of a listpack", "\x11" + text(listpack), "zscore k a", "$1\r\n5\r\n"},
		{"quicklist of listpacks", "\x12\x02\x02" + text(listpack) + "\x01\x05plain", "lrange k 1 2", "*2\r\n$1\r\n5\r\n$5\r\nplain\r\n"},
		{"set of a listpack", "\x14" + text(listpack), "smembers k", "*2\r\n$1\r\na\r\n$1\r\n5\r\n"},
	}
	for _, test := range tests {
		r := newRunner()
		if got := r.apply("restore", "k", "0", footed(test.value, 6)); got != "+OK\r\n" {
			t.Errorf("%s: %q", test.name, got)
			continue
		}
		if got := r.read(strings.Fields(test.ask)...); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
		for i := range len(test.value) { // cut short it is refused
			if got := newRunner().apply("restore", "k", "0", footed(test.value[:i], 6)); got != "-ERR Bad data format\r\n" {
				t.Errorf("%s cut to %d bytes: %q", test.name, i, got)
			}
		}
	}
}

// RESTORE must refuse, with Redis' words, what is not whole, not for it, or not well formed, and change nothing.
func TestRestoreRefuses(t *testing.T) {
	r := newRunner()
	r.apply("set", "there", "x")
	good := footed("\x00\x01x", 10)
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"there", "0", good}, "-BUSYKEY Target key name already exists."},
		{[]string{"k", "-1", good}, "-ERR Invalid TTL value, must be >= 0"},
		{[]string{"k", "x", good}, "-ERR value is not an integer or out of range"},
		{[]string{"k", "0", good[:len(good)-1] + "?"}, "-ERR DUMP payload version or checksum are wrong"},
		{[]string{"k", "0", ""}, "-ERR DUMP payload version or checksum are wrong"},
		{[]string{"k", "0", footed("\x00\x01x", 99)}, "-ERR DUMP payload version or checksum are wrong"},
		{[]string{"k", "0", footed("\x02\x02\x01a\x01a", 10)}, "-ERR Bad data format"},
		{[]string{"k", "0", footed("\x02\x00", 10)}, "-ERR Bad data format"},
		{[]string{"k", "0", footed("\x06\x00", 10)}, "-ERR Bad data format"},
		{[]string{"k", "0", footed("\x03\x01\x01a\xfd", 10)}, "-ERR Bad data format"},
		{[]string{"k", "0", footed("\x00\x01xy", 10)}, "-ERR Bad data format"},
		{[]string{"k", "0", footed("\x00\xc3\x03\x81\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03", 10)}, "-ERR Bad data format"},
		{[]string{"k", "0", good, "idletime", "-1"}, "-ERR Invalid IDLETIME value, must be >= 0"},
		{[]string{"k", "0", good, "freq", "256"}, "-ERR Invalid FREQ value, must be >= 0 and <= 255"},
		{[]string{"k", "0", good, "freq", "1", "idletime", "1"}, "-ERR syntax error"},
	}
	for _, test := range tests {
		if got := r.apply(append([]string{"restore"}, test.args...)...); got != test.want+"\r\n" {
			t.Errorf("%q: %q", test.args, got)
		}
	}
	if got := r.read("dbsize"); got != ":1\r\n" {
		t.Errorf("keys after refusals: %q", got)
	}
	r.apply("restore", "k", "5000", good, "idletime", "10")
	if got := r.read("pttl", "k"); got != ":5000\r\n" {
		t.Errorf("pttl %q", got)
	}
	r.apply("restore", "k", "1", good, "replace", "absttl")
	if got := r.read("dbsize"); got != ":1\r\n" {
		t.Errorf("a key restored with an expiry in the past stayed: %q", got)
	}
}

// FuzzRestore: no payload, whole by its checksum, may panic, take memory out of proportion, or make a value that breaks an
// invariant or cannot be dumped and restored again.
func FuzzRestore(f *testing.F) {
	r := newRunner()
	for _, args := range [][]string{{"set", "k", "hello"}, {"rpush", "l", "a", "1", strings.Repeat("x", 9000)}, {"sadd", "s", "1", "2", "70000"}, {"sadd", "t", "a", "b"}, {"hset", "h", "f", "v", "g", "12"},
		{"zadd", "z", "1.5", "a", "-inf", "b"}, {"xadd", "x", "1-1", "f", "v"}, {"xadd", "x", "2-1", "g", "w"}, {"xgroup", "create", "x", "g", "0"}, {"xreadgroup", "group", "g", "c", "streams", "x", ">"}} {
		r.apply(args...)
	}
	for _, key := range strings.Fields("k l s t h z x") {
		payload := bulkOf(f, r.read("dump", key))
		f.Add([]byte(payload[:len(payload)-rdbFooter]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newRunner()
		if r.apply("restore", "k", "0", footed(string(b), 9)) != "+OK\r\n" {
			return
		}
		checkMachine(t, r.machine)
		again := bulkOf(t, r.read("dump", "k"))
		if got := r.apply("restore", "k2", "0", again); got != "+OK\r\n" {
			t.Fatalf("%q was restored, what it dumps as is not: %q", b, got)
		}
		r.machine.Digest()
	})
}

package kv

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

func (r *runner) set(t *testing.T, pairs ...string) {
	t.Helper()
	if got := r.applyPayload(Envelope{}.AppendRecord(nil, SettingRecord(pairs...))); got != "+OK\r\n" {
		t.Fatalf("%q: %q", pairs, got)
	}
}

// full returns a machine with 200 keys, every second of which expires, that take all the memory there is.
func full(t *testing.T, policy string) *runner {
	t.Helper()
	r := newRunner()
	for i := range 200 {
		args := []string{"set", "k" + strconv.Itoa(i), strings.Repeat("x", 100)}
		if i%2 == 1 {
			args = append(args, "px", strconv.Itoa(1_000_000-i))
		}
		r.applyPayload(Envelope{Database: i % 3}.AppendCommand(nil, bytesOf(args)))
		r.stamp += 1000
	}
	r.set(t, "maxmemory", strconv.FormatInt(r.machine.Stats().Memory, 10), "maxmemory-policy", policy)
	return r
}

// Each policy must make room for a write, by keys that it may take and from the right end; without a policy, or without such
// keys, the write is refused and everything else goes on.
func TestEvictionPolicies(t *testing.T) {
	for _, policy := range []string{"allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"} {
		t.Run(policy, func(t *testing.T) {
			r := full(t, policy)
			limit := r.machine.set.maxMemory
			for i := range 40 {
				r.want(t, "+OK\r\n", "set", "new"+strconv.Itoa(i), strings.Repeat("y", 100))
				if used := r.machine.Stats().Memory; used > limit+1000 {
					t.Fatalf("write %d: %d bytes used of %d", i, used, limit)
				}
				checkMachine(t, r.machine)
			}
			old, soon := 0, 0
			for i := range 200 {
				kept := r.machine.databases[i%3].keys.findText("k"+strconv.Itoa(i)) != nil
				if !kept && strings.HasPrefix(policy, "volatile") && i%2 == 0 {
					t.Errorf("k%d does not expire and was evicted", i)
				}
				if !kept && i < 100 {
					old++
				}
				if !kept && i >= 100 {
					soon++
				}
			}
			switch policy {
			case "allkeys-lru", "volatile-lru":
				if old <= 2*soon {
					t.Errorf("%d of the older half and %d of the newer went", old, soon)
				}
			case "volatile-ttl": // the oldest expire first
				if old < 20 || soon > 0 {
					t.Errorf("%d of those that expire soonest went, %d of others", old, soon)
				}
			}
			if s := r.machine.Stats(); s.Evicted < 20 || s.Evicted != int64(240-s.Keys) {
				t.Errorf("%d evicted, %d keys", s.Evicted, s.Keys)
			}
		})
	}
	r := full(t, "noeviction")
	r.apply("append", "k0", strings.Repeat("x", 1000)) // still allowed: not over the limit yet
	refused := "-OOM command not allowed when used memory > 'maxmemory'.\r\n"
	r.want(t, refused, "set", "a", "1")
	r.want(t, refused, "lpush", "l", "1")
	r.want(t, ":1\r\n", "expire", "k3", "100")
	if got := r.transact(nil, []string{"get", "k0"}, []string{"incr", "n"}); got != "-EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.\r\n" {
		t.Errorf("transaction: %q", got)
	}
	if got := r.transact(nil, []string{"del", "k0"}); got != "*1\r\n:1\r\n" {
		t.Errorf("transaction that takes nothing: %q", got)
	}
	r.want(t, "+OK\r\n", "set", "a", "1")
	r.set(t, "maxmemory", "0")
	r.want(t, "+OK\r\n", "set", "b", "1")
	r.set(t, "maxmemory", "1", "maxmemory-policy", "volatile-lru")
	for range 3 {
		r.machine.Advance(r.stamp, r.lsn)
	}
	if expires := r.machine.Stats().Expires; expires != 0 {
		t.Errorf("%d keys that could be evicted are left", expires)
	}
	r.want(t, refused, "set", "b", "1")
}

// Eviction is part of the log's meaning: two machines that execute it evict the same keys, whatever policy.
func TestEvictionIsDeterministic(t *testing.T) {
	for _, policy := range evictionPolicies {
		a, b := full(t, policy.name), full(t, policy.name)
		for i := range 300 {
			for _, r := range []*runner{a, b} {
				r.apply("set", "n"+strconv.Itoa(i*7%50), strings.Repeat("z", i))
				r.apply("append", "k"+strconv.Itoa(i*3%200), "zz")
			}
			b.read("get", "k1") // a read is no use that the other machine could know of
		}
		if a.machine.Digest() != b.machine.Digest() {
			t.Errorf("%s: states differ", policy.name)
		}
	}
}

// LFU counts uses on a logarithmic scale and forgets with time; OBJECT tells, as far as the policy tracks it.
func TestObjectFreqAndIdleTime(t *testing.T) {
	r := newRunner()
	r.apply("set", "k", "1")
	r.stamp += 7000
	r.applyPayload(Envelope{NoTouch: true}.AppendCommand(nil, bytesOf([]string{"exists", "k"})))
	if got := r.read("object", "idletime", "k"); got != ":7\r\n" {
		t.Errorf("idle %q", got)
	}
	r.apply("getex", "k")
	if got := r.read("object", "idletime", "k"); got != ":0\r\n" {
		t.Errorf("idle %q", got)
	}
	if got := r.read("object", "freq", "k"); !strings.HasPrefix(got, "-ERR An LFU maxmemory policy is not selected") {
		t.Errorf("freq %q", got)
	}
	r.set(t, "maxmemory-policy", "allkeys-lfu")
	for range 1000 {
		r.apply("incr", "k")
	}
	var uses int
	if _, err := fmt.Sscanf(r.read("object", "freq", "k"), ":%d", &uses); err != nil || uses < 10 || uses > 60 {
		t.Errorf("a thousand uses count %d, %v", uses, err)
	}
	r.stamp += 4 * 60_000
	r.machine.Advance(r.stamp, r.lsn)
	if got := r.read("object", "freq", "k"); got != fmt.Sprintf(":%d\r\n", uses-4) {
		t.Errorf("after 4 minutes %d became %q", uses, got)
	}
	if got := r.read("object", "idletime", "k"); !strings.HasPrefix(got, "-ERR An LFU maxmemory policy is selected") {
		t.Errorf("idle %q", got)
	}
}

// Replicated settings: checked as CONFIG SET checks them, all or none, and in the digest.
func TestReplicatedSettings(t *testing.T) {
	r := newRunner()
	before := r.machine.Digest()
	for _, c := range []struct{ name, value, want string }{
		{"maxmemory", "100mb", "104857600"}, {"maxmemory", "1k", "1000"}, {"maxmemory", "5", "5"}, {"maxmemory", "x", ""}, {"maxmemory", "-1", ""},
		{"maxmemory", "99999999999gb", ""}, {"maxmemory-policy", "ALLKEYS-LRU", "allkeys-lru"}, {"maxmemory-policy", "lru", ""},
		{"notify-keyspace-events", "KEA", "AKE"}, {"notify-keyspace-events", "Ex", "xE"}, {"notify-keyspace-events", "q", ""},
		{"notify-keyspace-events", "g$lshzxetdmnKE", "AKEmn"}, {"maxmemory-samples", "0", ""}, {"maxmemory-samples", "64", "64"}, {"nosuch", "1", ""},
	} {
		got, problem := CheckSetting(c.name, c.value)
		if got != c.want || (problem == "") != (c.want != "") {
			t.Errorf("%s %s: %q, problem %q", c.name, c.value, got, problem)
		}
	}
	if got := r.applyPayload(Envelope{}.AppendRecord(nil, SettingRecord("maxmemory", "1gb", "maxmemory-samples", "x"))); !strings.HasPrefix(got, "-ERR CONFIG SET failed") {
		t.Errorf("half right: %q", got)
	}
	if v, ok := r.machine.Setting("maxmemory"); v != "0" || !ok {
		t.Errorf("maxmemory is %q", v)
	}
	r.set(t, "maxmemory", "1gb")
	if v, _ := r.machine.Setting("maxmemory"); v != "1073741824" || r.machine.set.maxMemory != 1<<30 || r.machine.Digest() == before {
		t.Errorf("maxmemory is %q, %d", v, r.machine.set.maxMemory)
	}
	if _, ok := r.machine.Setting("nosuch"); ok || New().ApplySetting("nosuch", "1") == "" {
		t.Error("an unknown setting was taken")
	}
}

// listener notes the events of a machine.
type listener struct {
	Host
	events []string
}

func (l *listener) Event(database int, class EventClass, event, key string) {
	l.events = append(l.events, fmt.Sprintf("%d %s %s %s", database, class, event, key))
}
func (l *listener) Changed(int, string)                         {}
func (l *listener) Flushed(int)                                 {}
func (l *listener) Served(smr.SessionID, uint64) *resp.Reply    { return nil }
func (l *listener) ServedEnd(_ smr.SessionID, _ uint64, _ bool) {}

// Events come at the points where Redis has them, only of the classes that are selected, in their database.
func TestKeyspaceEvents(t *testing.T) {
	r := newRunner()
	l := new(listener)
	r.machine.SetHost(l)
	r.apply("set", "quiet", "1")
	r.set(t, "notify-keyspace-events", "KEgxen")
	r.apply("set", "a", "1", "px", "50")
	r.apply("set", "b", "1")
	r.apply("pexpire", "b", "100000")
	r.apply("persist", "b")
	r.apply("persist", "b")
	r.apply("expire", "b", "-1")
	r.apply("set", "c", "1")
	r.apply("move", "c", "2")
	r.in(2, "copy", "c", "d")
	r.stamp += 50
	r.machine.Advance(r.stamp, r.lsn)
	r.set(t, "maxmemory", "1", "maxmemory-policy", "allkeys-random")
	want := []string{"0 n new a", "0 g expire a", "0 n new b", "0 g expire b", "0 g persist b", "0 g del b", "0 n new c", "2 n new c", "0 g move_from c",
		"2 g move_to c", "2 n new d", "2 g copy_to d", "0 x expired a"}
	for i, w := range want {
		if i >= len(l.events) || l.events[i] != w {
			t.Fatalf("event %d: want %s in %q", i, w, l.events)
		}
	}
	for _, e := range l.events[len(want):] {
		if !strings.Contains(e, " e evicted ") {
			t.Errorf("event %s", e)
		}
	}
	if len(l.events) != len(want)+3 {
		t.Errorf("%d events: %q", len(l.events), l.events)
	}
}

// What is read and not there is told of, wherever it is read: alone (on the node that is asked), in a transaction, in a script; as
// redis-server 7.0.15 does. What is written is not.
func TestKeyMisses(t *testing.T) {
	r := newRunner()
	l := new(listener)
	r.machine.SetHost(l)
	r.apply("sadd", "s", "a")
	r.read("get", "quiet")
	r.set(t, "notify-keyspace-events", "Em")
	for line, want := range map[string]int{
		"get x": 1, "exists x y s": 2, "ttl x": 1, "sinter s x": 1, "mget x y": 2, "zunion 2 x y": 2, "object encoding x": 0, "smembers s": 0, "xread streams x 0": 1,
		"eval_ro return(redis.call('get','x')) 0": 1, "scan 0": 0,
	} {
		l.events = nil
		if r.read(strings.Fields(line)...); len(l.events) != want || want > 0 && l.events[0] != fmt.Sprintf("0 %s keymiss x", EventKeyMiss) {
			t.Errorf("read %s: %q, want %d", line, l.events, want)
		}
	}
	for line, want := range map[string]int{
		"get x": 1, "getdel x": 1, "getex x": 1, "spop x": 0, "del x": 0, "set s2 1": 0, "sunionstore d x s": 1, "copy x y": 1, "incr n": 0, "bitop and d x y": 2,
		"eval redis.call('get','x') 0": 1, "zrangestore d x 0 -1": 1,
	} {
		l.events = nil
		if r.apply(strings.Fields(line)...); len(l.events) != want {
			t.Errorf("%s: %q, want %d", line, l.events, want)
		}
		l.events = nil
		if r.transact(nil, strings.Fields(line)); len(l.events) != want {
			t.Errorf("%s in a transaction: %q, want %d", line, l.events, want)
		}
	}
}

// Settings of compact encodings hold for what is written from then on, on every replica; both names of a setting are one.
func TestEncodingsFollowTheSettings(t *testing.T) {
	fields := func(command, key string, count, length int) []string {
		args := []string{command, key}
		for i := range count {
			name := fmt.Sprintf("%0*d", length, i)
			switch command {
			case "hset":
				args = append(args, name, "v")
			case "zadd":
				args = append(args, "1", name)
			case "rpush":
				args = append(args, name)
			case "sadd":
				args = append(args, "m"+name[1:])
			}
		}
		return args
	}
	tests := []struct {
		setting, value string
		write          []string
		before, after  string
	}{
		{"hash-max-listpack-entries", "3", fields("hset", "k", 4, 5), "listpack", "hashtable"},
		{"hash-max-ziplist-entries", "1000", fields("hset", "k", 900, 5), "hashtable", "listpack"},
		{"hash-max-listpack-value", "10", fields("hset", "k", 1, 11), "listpack", "hashtable"},
		{"hash-max-listpack-value", "100", fields("hset", "k", 1, 100), "hashtable", "listpack"},
		{"set-max-listpack-entries", "0", fields("sadd", "k", 1, 5), "listpack", "hashtable"},
		{"set-max-listpack-entries", "1024", fields("sadd", "k", 1000, 5), "hashtable", "listpack"},
		{"set-max-listpack-value", "5", fields("sadd", "k", 1, 6), "listpack", "hashtable"},
		{"set-max-intset-entries", "2", []string{"sadd", "k", "1", "2", "3"}, "intset", "hashtable"},
		{"zset-max-listpack-entries", "3", fields("zadd", "k", 4, 5), "listpack", "skiplist"},
		{"zset-max-ziplist-entries", "400", fields("zadd", "k", 399, 5), "skiplist", "listpack"},
		{"zset-max-listpack-value", "100000", fields("zadd", "k", 1, 255), "skiplist", "listpack"},
		{"list-max-listpack-size", "3", []string{"rpush", "k", "1", "2", "3", "4"}, "listpack", "quicklist"},
		{"list-max-ziplist-size", "200", []string{"rpush", "k", "1", "2", "3", "4"}, "listpack", "listpack"},
		{"list-max-listpack-size", "-1", fields("rpush", "k", 500, 10), "listpack", "quicklist"},
		{"list-max-listpack-size", "-5", fields("rpush", "k", 2000, 10), "quicklist", "listpack"},
		{"zset-max-ziplist-value", "10", fields("zadd", "k", 1, 11), "listpack", "skiplist"},
	}
	for _, test := range tests {
		encoding := func(r *runner, key string) string {
			return strings.Split(r.apply("object", "encoding", key)+"\r\n\r\n", "\r\n")[1]
		}
		r := newRunner()
		r.apply(test.write...)
		if got := encoding(r, "k"); got != test.before {
			t.Errorf("%.40q: %s, want %s", test.write, got, test.before)
		}
		r.set(t, test.setting, test.value)
		dump, _, _ := resp.Decode([]byte(r.apply("dump", "k")))
		r.apply("del", "k")
		r.apply(test.write...)
		r.apply("copy", "k", "twin")
		if got := r.apply("restore", "restored", "0", dump.Text); got != "+OK\r\n" {
			t.Errorf("restore: %s", got)
		}
		for _, key := range []string{"k", "twin", "restored"} {
			if got := encoding(r, key); got != test.after {
				t.Errorf("%s %s, %.40q, %s: %s, want %s", test.setting, test.value, test.write, key, got, test.after)
			}
		}
		checkMachine(t, r.machine)
		if name := strings.Replace(test.setting, "ziplist", "listpack", 1); name != test.setting {
			old, _ := r.machine.Setting(test.setting)
			if now, _ := r.machine.Setting(name); now != test.value || old != now {
				t.Errorf("%s is %s, %s is %s", test.setting, old, name, now)
			}
		}
	}
	// A value that shrinks below a limit that came later stays right.
	r := newRunner()
	r.apply(fields("hset", "h", 100, 5)...)
	r.apply(fields("zadd", "z", 100, 5)...)
	r.set(t, "hash-max-listpack-entries", "10", "zset-max-listpack-entries", "10")
	r.apply("hset", "h", "00001", "other")
	r.apply("zadd", "z", "7", "00001")
	r.want(t, "$9\r\nhashtable\r\n", "object", "encoding", "h")
	r.want(t, "$8\r\nskiplist\r\n", "object", "encoding", "z")
	r.want(t, ":100\r\n", "hlen", "h")
	r.want(t, ":99\r\n", "zrank", "z", "00001")
	checkMachine(t, r.machine)
}

package kv

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

func (r *runner) transact(watches []Watch, commands ...[]string) string {
	list := make([][][]byte, len(commands))
	for i, args := range commands {
		list[i] = bytesOf(args)
	}
	return r.applyPayload(AppendTransaction(nil, watches, list))
}

func (r *runner) watch(key string) Watch {
	return Watch{Key: []byte(key), Version: r.machine.Version(0, []byte(key))}
}

func (r *runner) want(t *testing.T, want string, args ...string) {
	t.Helper()
	if got := r.apply(args...); got != want {
		t.Errorf("%q gave %q, want %q", args, got, want)
	}
}

// A resent request must not be executed twice, and one that overtook another not at all (rule S13).
func TestRequestIsExecutedOnce(t *testing.T) {
	m := New()
	incr := AppendCommand(nil, bytesOf([]string{"incr", "a"}))
	verdicts := []struct {
		session  smr.SessionID
		sequence uint64
		want     smr.Admission
	}{{1, 1, smr.Execute}, {1, 1, smr.Duplicate}, {1, 3, smr.OutOfOrder}, {1, 2, smr.Execute}, {2, 2, smr.OutOfOrder}, {2, 1, smr.Execute}, {1, 1, smr.Duplicate}}
	for i, v := range verdicts {
		var reply resp.Reply
		got := m.Apply(Instant{LSN: smr.LSN(100 * i)}, smr.Request{Session: v.session, Sequence: v.sequence, Payload: incr}, &reply)
		if got != v.want || (len(reply.Buf) > 0) != (v.want == smr.Execute) {
			t.Errorf("request %d: verdict %v with reply %q, want %v", i, got, reply.Buf, v.want)
		}
	}
	var reply resp.Reply
	if m.Read(0, bytesOf([]string{"get", "a"}), &reply); string(reply.Buf) != "$1\r\n3\r\n" {
		t.Errorf("three requests left %q", reply.Buf)
	}
	if m.LastSequence(1) != 2 || m.LastSequence(3) != 0 {
		t.Errorf("last sequences %d and %d", m.LastSequence(1), m.LastSequence(3))
	}
}

// A key must vanish when log time reaches its expiry, for reads at once, from the state with the next frame, and never
// by a clock.
func TestKeysExpireByLogTime(t *testing.T) {
	r := newRunner()
	r.apply("set", "a", "1", "px", "100")
	r.apply("set", "b", "1", "px", "5000")
	r.want(t, ":100\r\n", "pttl", "a")
	r.stamp += 99
	r.want(t, "$1\r\n1\r\n", "get", "a")
	r.machine.Advance(r.stamp+1, r.lsn)
	if got := r.read("get", "a"); got != "$-1\r\n" {
		t.Errorf("expired key reads %q", got)
	}
	if got := r.machine.DBSize(0); got != 1 {
		t.Errorf("%d keys after the frame that reached the expiry", got)
	}
	r.stamp -= 10_000 // the clock of a new master may be behind: log time must not go back
	r.want(t, ":-2\r\n", "pttl", "a")
	r.want(t, ":1\r\n", "persist", "b")
	r.want(t, ":-1\r\n", "pttl", "b")
}

// One frame takes out a bounded number of expired keys; the others must be invisible all the same.
func TestExpiryIsBoundedPerFrame(t *testing.T) {
	r := newRunner()
	for i := range dueEachFrame + 500 {
		r.apply("set", strconv.Itoa(i), "x", "px", "10")
	}
	r.apply("set", "stays", "x")
	r.stamp += 10
	r.machine.Advance(r.stamp, r.lsn)
	if n := r.machine.DBSize(0); n != 501 {
		t.Errorf("%d keys after one frame", n)
	}
	if got := r.read("keys", "*"); got != "*1\r\n$5\r\nstays\r\n" {
		t.Errorf("visible: %q", got)
	}
	if got := r.read("randomkey"); got != "$5\r\nstays\r\n" {
		t.Errorf("drawn: %q", got)
	}
	r.want(t, ":1\r\n", "setnx", strconv.Itoa(dueEachFrame+100), "new")
	r.machine.Advance(r.stamp, r.lsn)
	if n := r.machine.DBSize(0); n != 2 {
		t.Errorf("%d keys after two frames", n)
	}
}

// EXEC must fail if and only if a watched key changed, whatever way it changed. Each case changes the key between
// WATCH and EXEC; a missed change would let two transactions both win.
func TestWatchedKeyThatChangedStopsTransaction(t *testing.T) {
	change := map[string][][]string{
		"set":            {{"set", "k", "2"}},
		"same value":     {{"set", "k", "1"}},
		"del":            {{"del", "k"}},
		"del and set":    {{"del", "k"}, {"set", "k", "1"}},
		"expire":         {{"pexpire", "k", "100000"}},
		"rename away":    {{"rename", "k", "l"}},
		"rename over":    {{"set", "l", "1"}, {"rename", "l", "k"}},
		"append":         {{"append", "k", "x"}},
		"flush":          {{"flushall"}},
		"flush and set":  {{"flushall"}, {"set", "k", "1"}},
		"getdel":         {{"getdel", "k"}},
		"setrange":       {{"setrange", "k", "0", "x"}},
		"incr":           {{"incr", "k"}},
		"other type":     {{"del", "k"}, {"sadd", "k", "m"}},
		"past expiry":    {{"expireat", "k", "1"}},
		"by transaction": {{"multi"}},
	}
	for name, commands := range change {
		r := newRunner()
		r.apply("set", "k", "1")
		w := r.watch("k")
		for _, args := range commands {
			if args[0] == "multi" {
				r.transact(nil, []string{"set", "k", "3"})
				continue
			}
			r.apply(args...)
		}
		if got := r.transact([]Watch{w}, []string{"set", "won", "1"}); got != "*-1\r\n" {
			t.Errorf("%s: transaction gave %q", name, got)
		}
		if r.read("exists", "won") != ":0\r\n" {
			t.Errorf("%s: transaction was executed", name)
		}
	}
}

func TestUnchangedWatchedKeyLetsTransactionPass(t *testing.T) {
	for _, args := range [][]string{
		{"get", "k"}, {"set", "k", "2", "nx"}, {"setnx", "k", "2"}, {"set", "other", "1"}, {"del", "nosuch"}, {"expire", "k", "5", "xx"}, {"persist", "k"},
		{"sadd", "k", "m"}, {"touch", "k"}, {"rename", "nosuch", "k"}, {"incr", "k", "x"}, {"renamenx", "other", "k"}, {"getex", "k"},
	} {
		r := newRunner()
		r.apply("set", "k", "1")
		w := r.watch("k")
		r.apply(args...)
		if got := r.transact([]Watch{w}, []string{"incr", "won"}); got != "*1\r\n:1\r\n" {
			t.Errorf("%q: transaction gave %q", args, got)
		}
	}
}

// An absent key has a version too: creation, and creation with deletion, must be seen.
func TestWatchedAbsentKey(t *testing.T) {
	r := newRunner()
	w := r.watch("k")
	if got := r.transact([]Watch{w}, []string{"incr", "n"}); got != "*1\r\n:1\r\n" {
		t.Errorf("nothing changed: %q", got)
	}
	r.apply("set", "k", "1")
	if got := r.transact([]Watch{w}, []string{"incr", "n"}); got != "*-1\r\n" {
		t.Errorf("created: %q", got)
	}
	r.apply("del", "k")
	if got := r.transact([]Watch{w}, []string{"incr", "n"}); got != "*-1\r\n" {
		t.Errorf("created and removed: %q", got)
	}
	w = r.watch("k")
	r.apply("set", "k", "1", "px", "10")
	r.stamp += 20
	r.apply("ping")
	if got := r.transact([]Watch{w}, []string{"incr", "n"}); got != "*-1\r\n" {
		t.Errorf("created and expired: %q", got)
	}
}

// A watched key that expires has changed, whether it was already taken out or is only invisible. The version that stays
// behind in the slot must not be taken for that of the key, even if one transaction set both.
func TestWatchedKeyThatExpired(t *testing.T) {
	r := newRunner()
	r.apply("set", "other{s}", "1")
	r.transact(nil, []string{"set", "k{s}", "1", "px", "10"}, []string{"del", "other{s}"})
	w := r.watch("k{s}")
	r.machine.now += 20 // expired, not yet taken out
	if r.machine.Version(0, []byte("k{s}")) == w.Version {
		t.Error("invisible key has its old version")
	}
	r.machine.Advance(r.machine.now, r.lsn)
	if r.machine.DBSize(0) != 0 || r.machine.Version(0, []byte("k{s}")) == w.Version {
		t.Error("removed key has its old version")
	}
}

// Two requests of one frame must be told apart: a reader may look between them.
func TestVersionsDifferWithinFrame(t *testing.T) {
	m := New()
	seen := make(map[smr.LSN]bool)
	for i := range 5 {
		m.Apply(Instant{LSN: 1000, Index: i, Stamp: 1}, smr.Request{Session: 1, Sequence: uint64(i + 1), Payload: AppendCommand(nil, bytesOf([]string{"set", "k", "v"}))}, nil)
		version := m.Version(0, []byte("k"))
		if seen[version] {
			t.Fatalf("version %d came twice", version)
		}
		seen[version] = true
	}
}

// A command that fails in a transaction leaves the others as they are; each reply stands in its place.
func TestTransactionGoesOnAfterError(t *testing.T) {
	r := newRunner()
	got := r.transact(nil, []string{"set", "a", "x"}, []string{"incr", "a"}, []string{"nosuch"}, []string{"get"}, []string{"slowlog", "len"}, []string{"ping"},
		[]string{"echo", "hi"}, []string{"select", "16"}, []string{"time"}, []string{"get", "a"})
	want := "*10\r\n+OK\r\n-ERR value is not an integer or out of range\r\n-ERR unknown command 'nosuch', with args beginning with: \r\n" +
		"-ERR wrong number of arguments for 'get' command\r\n-ERR command 'slowlog' is not allowed in a transaction\r\n+PONG\r\n$2\r\nhi\r\n" +
		"-ERR DB index is out of range\r\n*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n$1\r\nx\r\n"
	if got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got := r.transact(nil); got != "*0\r\n" {
		t.Errorf("empty transaction gave %q", got)
	}
}

// A read must change nothing, not even take out what has expired: several run at the same time.
func TestReadChangesNothing(t *testing.T) {
	r := newRunner()
	for _, args := range [][]string{{"set", "a", "1"}, {"set", "b", "1", "px", "5"}, {"rpush", "l", "1", "2"}, {"sadd", "s", "1", "2"}, {"hset", "h", "f", "v"}, {"zadd", "z", "1", "m"}} {
		r.apply(args...)
	}
	r.machine.now += 10
	before := r.machine.Digest()
	for _, c := range Commands() {
		if c.Flags&Readonly == 0 {
			continue
		}
		for _, key := range []string{"a", "b", "l", "s", "h", "z", "0", "1"} {
			for argc := 1; argc < 6; argc++ {
				args := append([]string{c.Name}, strings.Split(strings.Repeat(key+" ", argc), " ")...)
				r.read(args[:argc]...)
			}
		}
	}
	if r.machine.Digest() != before {
		t.Error("a read changed the state")
	}
	if got := r.read("set", "a", "2"); !strings.HasPrefix(got, "-ERR command 'set' writes") {
		t.Errorf("a write as a read gave %q", got)
	}
}

// SCAN must return everything that stays, at least once, however the table changes in between, and must end although
// others keep adding. The cursor of one node must go on at another.
func TestScanReturnsWhatStays(t *testing.T) {
	a, b := newRunner(), newRunner()
	both := func(args ...string) {
		a.apply(args...)
		b.apply(args...)
	}
	for i := range 1000 {
		both("set", fmt.Sprintf("stays:%d", i), "x")
		both("set", fmt.Sprintf("goes:%d", i), "x")
	}
	seen := make(map[string]int)
	cursor, calls := "0", 0
	for {
		node := a
		if calls%2 == 1 {
			node = b
		}
		v, _, err := resp.Decode([]byte(node.read("scan", cursor, "count", "7")))
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range v.Items[1].Items {
			seen[item.Text]++
		}
		both("del", fmt.Sprintf("goes:%d", calls*5%1000), fmt.Sprintf("goes:%d", calls*11%1000), fmt.Sprintf("new:%d", calls))
		for j := range 20 {
			both("set", fmt.Sprintf("new:%d:%d", calls, j), "x")
		}
		calls++
		if cursor = v.Items[0].Text; cursor == "0" {
			break
		}
		if calls > 1000 {
			t.Fatal("the scan does not end")
		}
	}
	for i := range 1000 {
		if n := seen[fmt.Sprintf("stays:%d", i)]; n != 1 {
			t.Errorf("stays:%d was returned %d times", i, n)
		}
	}
}

// Lots are drawn by the log: equal on all replicas, different from one request to the next, every member possible.
func TestDrawsFollowFromLog(t *testing.T) {
	a, b := newRunner(), newRunner()
	seen := make(map[string]bool)
	for round := range 200 {
		for _, r := range []*runner{a, b} {
			r.apply("sadd", "s", "1", "2", "3", "4", "5", "6", "7", "8")
		}
		args := []string{"spop", "s"}
		if round%3 == 1 {
			args = []string{"spop", "s", "3"}
		}
		first, second := a.apply(args...), b.apply(args...)
		if first != second {
			t.Fatalf("round %d: %q and %q", round, first, second)
		}
		seen[first] = true
	}
	for i := 1; i <= 8; i++ {
		if !seen[fmt.Sprintf("$1\r\n%d\r\n", i)] {
			t.Errorf("%d was never drawn", i)
		}
	}
	if a.machine.Digest() != b.machine.Digest() {
		t.Error("digests differ")
	}
	var reply resp.Reply
	draws := make(map[string]bool)
	for range 100 {
		reply.Reset()
		a.machine.Read(0, bytesOf([]string{"srandmember", "s"}), &reply)
		draws[string(reply.Buf)] = true
	}
	if len(draws) < 3 {
		t.Errorf("reads draw always the same: %v", draws)
	}
}

// What would take memory without bound must be refused.
func TestMemoryOfOneCommandIsBounded(t *testing.T) {
	r := newRunner()
	r.want(t, "-"+errTooLong+"\r\n", "setrange", "k", "536870912", "x")
	r.want(t, "-"+errTooLong+"\r\n", "setrange", "k", "9223372036854775807", "x")
	r.apply("sadd", "s", "m")
	r.apply("hset", "h", "f", "v")
	r.apply("zadd", "z", "1", "m")
	for _, args := range [][]string{{"srandmember", "s", "-1000000000"}, {"hrandfield", "h", "-1000000000", "withvalues"}, {"zrandmember", "z", "-1000000000"}} {
		if got := r.apply(args...); got != "-ERR value is out of range\r\n" {
			t.Errorf("%q gave %d bytes", args, len(got))
		}
	}
	if s := r.machine.Stats(); s.Keys != 3 || s.Memory < 300 || s.Memory > 3000 || s.Sessions != 1 {
		t.Errorf("stats %+v", s)
	}
}

// A payload that does not decode must be answered, not executed, and not stop the machine.
func TestMalformedPayloadIsRefused(t *testing.T) {
	r := newRunner()
	for _, payload := range []string{"", "\x00", "\x03", "\x01", "\x01\x00", "\x01\x01", "\x01\x01\x05a", "\x01\x01\x01ab", "\x02", "\x02\xff\xff\xff\xff\x0f", "\x02\x00\x01\x00",
		"\x02\x01\x10\x01k12345678\x00", "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"} {
		if got := r.applyPayload([]byte(payload)); !strings.HasPrefix(got, "-ERR payload: ") {
			t.Errorf("payload %q gave %q", payload, got)
		}
	}
	if r.machine.DBSize(0) != 0 {
		t.Error("something was executed")
	}
}

// What is left of an expiry must shrink between two frames, but a clock that runs ahead must not take it away.
func TestRemainingTimeFollowsTheReadersClock(t *testing.T) {
	r := newRunner()
	r.apply("set", "k", "v", "px", "10000")
	stamp := r.machine.Now()
	for _, step := range []struct{ clock, want int64 }{{0, 10000}, {stamp - 5000, 10000}, {stamp + 400, 9600}, {stamp + 1000, 9000}, {stamp + 3_600_000, 9000}} {
		var reply resp.Reply
		r.machine.Read(step.clock, bytesOf([]string{"pttl", "k"}), &reply)
		if want := fmt.Sprintf(":%d\r\n", step.want); string(reply.Buf) != want {
			t.Errorf("clock %d: %q, want %q", step.clock-stamp, reply.Buf, want)
		}
	}
}

// Each key that expires counts once, whether time or a write takes it out.
func TestExpiredKeysAreCounted(t *testing.T) {
	r := newRunner()
	for _, key := range []string{"a", "b", "c", "d"} {
		r.apply("set", key, "v", "px", "5")
	}
	r.apply("del", "d")
	r.machine.now += 10
	r.apply("set", "a", "again") // meets it
	r.machine.Advance(r.machine.now, r.machine.applied+1)
	if got := r.machine.Stats().Expired; got != 3 {
		t.Errorf("%d keys expired, want 3", got)
	}
}

// The lowest rank has no opposite: Redis 7.2 refuses it, where 7.0 takes it.
func TestLowestRankIsRefused(t *testing.T) {
	r := newRunner()
	r.apply("rpush", "l", "a", "b", "a")
	r.want(t, "-ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807\r\n", "lpos", "l", "a", "rank", "-9223372036854775808")
	r.want(t, "$-1\r\n", "lpos", "l", "a", "rank", "-9223372036854775807")
	r.want(t, ":0\r\n", "lpos", "l", "a", "rank", "-2")
	r.want(t, "-ERR value is not an integer or out of range\r\n", "lpos", "l", "a", "rank", "-9223372036854775809")
}

// The registers of a HyperLogLog are packed and counted right, by the command that Redis has for it.
func TestSelfTestOfHyperLogLog(t *testing.T) {
	r := newRunner()
	r.want(t, "+OK\r\n", "pfselftest")
}

package kv

import (
	"fmt"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// checkWaiters checks that the lists by key, the leases and the waiters agree, and that nobody waits for what is there.
func checkWaiters(t rapid.TB, m *Machine) {
	t.Helper()
	checkTable(t, &m.waiters)
	lists, leases := 0, 0
	m.waiters.each(func(n *node[waiter]) bool {
		w := &n.value
		for _, key := range w.keys {
			lists++
			l := m.waiting[waitKey{w.envelope.Database, key}]
			if l == nil || l.waiters.findText(n.key) == nil || l.waiters.findText(n.key).value != n {
				t.Fatalf("a waiter is not in the list of %q", key)
			}
			if m.couldServe(waitKey{w.envelope.Database, key}, w) {
				t.Fatalf("somebody waits for %q, which is there", key)
			}
		}
		return true
	})
	for at, l := range m.waiting {
		checkTable(t, &l.waiters)
		lists -= l.waiters.size
		if l.waiters.size == 0 || l.ready {
			t.Fatalf("list of %v: %d waiters, ready %v", at, l.waiters.size, l.ready)
		}
	}
	for i, l := range m.leases {
		leases += l.waiters
		if l.waiters == 0 || i > 0 && m.leases[i-1].session >= l.session {
			t.Fatalf("lease %d: %+v", i, l)
		}
	}
	if lists != 0 || leases != m.waiters.size || len(m.ready) > 0 {
		t.Fatalf("%d entries of lists too many, %d waiters leased, %d wait, %d keys are ready", lists, leases, m.waiters.size, len(m.ready))
	}
}

// owner is the node of one machine: it keeps the replies of the commands that wait.
type owner struct {
	listener
	replies map[string]*resp.Reply
	ended   map[string]int
}

func (o *owner) Served(session smr.SessionID, sequence uint64) *resp.Reply {
	name := waiterName(session, sequence)
	if o.replies[name] == nil {
		o.replies[name] = new(resp.Reply)
	}
	return o.replies[name]
}

func (o *owner) ServedEnd(session smr.SessionID, sequence uint64, again bool) {
	if !again {
		o.ended[waiterName(session, sequence)]++
	}
}

// twin feeds a log to two machines, one of which has a host, and counts where elements go.
type twin struct {
	t         *rapid.T
	a, b      *Machine
	host      *owner
	at        Instant
	sequences [4]uint64
	pushed    []string       // elements that were taken into the state
	gone      map[string]int // how often each element was handed out
}

// submit also returns what the command itself replied.
func (w *twin) submit(session int, payload []byte) string {
	w.sequences[session]++
	request := smr.Request{Session: smr.SessionID(session + 1), Sequence: w.sequences[session], Payload: payload}
	var reply resp.Reply
	w.a.Apply(w.at, request, &reply)
	w.b.Apply(w.at, request, nil)
	if _, blocked := w.a.Blocked(); blocked && len(reply.Buf) > 0 {
		w.t.Fatalf("waits and has replied %q", reply.Buf)
	}
	w.at.LSN += smr.LSN(len(payload) + 100)
	w.a.Advance(w.at.Stamp, w.at.LSN)
	w.b.Advance(w.at.Stamp, w.at.LSN)
	w.take(reply.Buf)
	checkWaiters(w.t, w.a)
	return string(reply.Buf)
}

// check compares what went in with what came out and what is there.
func (w *twin) check() {
	for name, reply := range w.host.replies {
		if w.host.ended[name] > 1 {
			w.t.Fatalf("waiter %x ended %d times", name, w.host.ended[name])
		}
		w.take(reply.Buf)
	}
	for _, d := range &w.a.databases {
		d.keys.each(func(e *entry) bool {
			switch o := e.value.object().(type) {
			case *list:
				o.each(0, func(s []byte) bool {
					w.gone[string(s)]++
					return true
				})
			case *zsetObject:
				o.eachRank(0, o.length(), false, func(m ranked) bool {
					w.gone[string(m.name)]++
					return true
				})
			}
			return true
		})
	}
	for _, element := range w.pushed {
		if w.gone[element] != 1 {
			w.t.Fatalf("element %s is in %d places", element, w.gone[element])
		}
	}
	if len(w.gone) != len(w.pushed) {
		w.t.Fatalf("%d elements went in, %d came out", len(w.pushed), len(w.gone))
	}
}

// take counts the elements in replies. Moves between keys reply with an element that stays: they are not counted.
func (w *twin) take(b []byte) {
	for len(b) > 0 {
		v, used, err := resp.Decode(b)
		if used == 0 || err != nil {
			w.t.Fatalf("reply %q", b)
		}
		b = b[used:]
		if v.Kind == '*' && !v.Null && len(v.Items) >= 2 {
			w.takeElements(v.Items[1:])
		}
	}
}

func (w *twin) takeElements(items []resp.Value) {
	for _, item := range items {
		if len(item.Items) > 0 {
			w.takeElements(item.Items)
		} else if len(item.Text) > 1 && item.Text[0] == 'e' {
			w.gone[item.Text]++
		}
	}
}

// Any schedule of blocking commands, pushes, moves, time-outs, signs of life and silences: two machines that execute the same
// log stay equal (with a host or without), nobody waits for what is there, no command ends twice, and each element is handed
// out once or is still there.
func TestWaitersAreDeterministicAndLoseNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &twin{t: t, a: strict(), b: New(), gone: make(map[string]int), at: Instant{LSN: 1, Stamp: 1_000}}
		w.host = &owner{replies: make(map[string]*resp.Reply), ended: make(map[string]int)}
		w.a.SetHost(w.host)
		key := func() string { return rapid.SampledFrom([]string{"k", "l", "m"}).Draw(t, "key") }
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			session := rapid.IntRange(0, 3).Draw(t, "session")
			envelope := Envelope{Database: rapid.IntRange(0, 1).Draw(t, "database")}
			first, second := "e"+strconv.Itoa(2*step), "e"+strconv.Itoa(2*step+1)
			var args []string
			switch rapid.IntRange(0, 15).Draw(t, "what") {
			case 0, 1:
				args = []string{"blpop", key(), key(), "0"}
			case 2:
				args = []string{"brpop", key(), "1.5"}
			case 3:
				args = []string{"blmove", key(), key(), "left", "right", "0"}
			case 4:
				args = []string{"blmpop", "0", "2", key(), key(), "left", "count", "2"}
			case 5:
				args = []string{"bzpopmin", key(), "0"}
			case 6:
				args = []string{"bzmpop", "0", "1", key(), "max", "count", "3"}
			case 7, 8, 9:
				args = []string{"rpush", key(), first, second}
			case 10:
				args = []string{"zadd", key(), "1", first, "2", second}
			case 11:
				args = []string{"swapdb", "0", "1"}
			case 12, 13:
				record := WaiterRecord(rapid.SampledFrom([]WaiterEnd{WaiterTimedOut, WaiterUnblocked, WaiterGone}).Draw(t, "end"),
					uint64(rapid.IntRange(0, int(w.sequences[session])).Draw(t, "sequence")))
				w.submit(session, Envelope{}.AppendRecord(nil, record))
				continue
			case 14:
				w.submit(session, Envelope{}.AppendRecord(nil, SignRecord(fmt.Sprintf("n%d", session/2))))
				continue
			default:
				w.at.Stamp += int64(rapid.IntRange(0, 3000).Draw(t, "elapsed"))
				w.a.Advance(w.at.Stamp, w.at.LSN)
				w.b.Advance(w.at.Stamp, w.at.LSN)
				checkWaiters(t, w.a)
				continue
			}
			reply := w.submit(session, envelope.AppendCommand(nil, bytesOf(args)))
			if reply != "" && reply[0] == ':' {
				w.pushed = append(w.pushed, first, second)
			}
		}
		if w.a.Digest() != w.b.Digest() {
			t.Fatal("the states differ")
		}
		checkMachine(t, w.a)
		w.check()
	})
}

// What Redis 7 does, step by step: keys that became ready are served in that order, each to those who came first; a push of
// several elements, a move that feeds another waiter, a key of another kind, a transaction that takes back what it gave.
func TestWaitersAreServedAsRedisDoes(t *testing.T) {
	r := newRunner()
	h := &owner{replies: make(map[string]*resp.Reply), ended: make(map[string]int)}
	r.machine.SetHost(h)
	wait := func(args ...string) (reply func() string) {
		if got := r.apply(args...); got != "" {
			t.Fatalf("%q does not wait: %q", args, got)
		}
		name := waiterName(1, r.sequence)
		return func() string {
			if h.ended[name] == 0 {
				return ""
			}
			return string(h.replies[name].Buf)
		}
	}
	want := func(what string, reply func() string, want string) {
		t.Helper()
		if got := reply(); got != want {
			t.Errorf("%s: reply %q, want %q", what, got, want)
		}
	}
	first, second := wait("blpop", "a", "b", "0"), wait("brpop", "b", "0")
	both := wait("blmpop", "0", "2", "b", "c", "left", "count", "10")
	r.transact(nil, []string{"rpush", "b", "1", "2", "3", "4"}, []string{"rpush", "a", "5"})
	want("the first takes from the key that comes first in its command", first, "*2\r\n$1\r\na\r\n$1\r\n5\r\n")
	want("the second", second, "*2\r\n$1\r\nb\r\n$1\r\n4\r\n")
	want("the third takes the rest", both, "*2\r\n$1\r\nb\r\n*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n")

	last := wait("blpop", "z", "0")
	chain := []func() string{wait("blmove", "x", "y", "left", "left", "0"), wait("brpoplpush", "y", "z", "0")}
	r.apply("lpush", "x", "v")
	want("a chain of moves", chain[0], "$1\r\nv\r\n")
	want("a chain of moves", chain[1], "$1\r\nv\r\n")
	want("its end", last, "*2\r\n$1\r\nz\r\n$1\r\nv\r\n")

	patient, ranked := wait("blpop", "k", "0"), wait("bzpopmax", "k", "0")
	r.apply("set", "k", "a string")
	r.transact(nil, []string{"del", "k"}, []string{"rpush", "k", "v"}, []string{"del", "k"})
	want("nothing is left of a transaction", patient, "")
	r.apply("zadd", "k", "1", "m", "2", "n")
	want("a sorted set is for those who wait for one", ranked, "*3\r\n$1\r\nk\r\n$1\r\nn\r\n$1\r\n2\r\n")
	want("and not for others", patient, "")
	r.apply("rpush", "source", "moved")
	r.apply("rename", "source", "k")
	want("RENAME brings a key", patient, "*2\r\n$1\r\nk\r\n$5\r\nmoved\r\n")

	move := wait("blmove", "from", "wrong", "left", "left", "0")
	r.apply("set", "wrong", "x")
	r.apply("rpush", "from", "kept")
	want("the target is of another kind", move, "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n")
	r.want(t, ":1\r\n", "llen", "from")

	other := wait("blpop", "swapped", "0")
	r.in(1, "rpush", "swapped", "v")
	want("another database", other, "")
	r.in(7, "swapdb", "1", "0")
	want("SWAPDB brings it", other, "*2\r\n$7\r\nswapped\r\n$1\r\nv\r\n")
	if n := r.machine.AllWaiters(); n != 0 {
		t.Errorf("%d still wait", n)
	}
	checkWaiters(t, r.machine)
}

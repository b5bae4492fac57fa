package kv

import (
	"strings"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// in executes one command in a database.
func (r *runner) in(database int, args ...string) string {
	return r.applyPayload(Envelope{Database: database}.AppendCommand(nil, bytesOf(args)))
}

// Each step names a database; the replies are those of redis-server 7.0.15 to the same commands behind SELECT.
func TestCommandsStayInTheirDatabase(t *testing.T) {
	steps := []struct {
		database int
		command  string
		want     string
	}{
		{0, "set a zero", "+OK\r\n"}, {1, "get a", "$-1\r\n"}, {1, "set a one", "+OK\r\n"}, {0, "get a", "$4\r\nzero\r\n"},
		{1, "dbsize", ":1\r\n"}, {0, "move a 1", ":0\r\n"}, {0, "move a 0", "-ERR source and destination objects are the same\r\n"},
		{0, "move a 16", "-ERR DB index is out of range\r\n"}, {0, "move a x", "-ERR value is not an integer or out of range\r\n"},
		{0, "move a 99999999999", "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n"},
		{0, "move nosuch 1", ":0\r\n"}, {0, "set e x px 100000", "+OK\r\n"}, {0, "move e 3", ":1\r\n"}, {3, "pttl e", ":100000\r\n"}, {0, "exists e", ":0\r\n"},
		{0, "copy a a", "-ERR source and destination objects are the same\r\n"}, {0, "copy a a db 1", ":0\r\n"}, {0, "copy a a db 1 replace", ":1\r\n"}, {1, "get a", "$4\r\nzero\r\n"},
		{3, "copy e f db 0", ":1\r\n"}, {0, "pttl f", ":100000\r\n"}, {0, "copy a a db 77", "-ERR DB index is out of range\r\n"}, {0, "copy a b db", "-ERR syntax error\r\n"},
		{1, "set a one", "+OK\r\n"}, {5, "swapdb 0 1", "+OK\r\n"}, {0, "get a", "$3\r\none\r\n"}, {1, "get a", "$4\r\nzero\r\n"}, {1, "pttl f", ":100000\r\n"},
		{0, "swapdb 0 16", "-ERR DB index is out of range\r\n"}, {0, "swapdb x 1", "-ERR invalid first DB index\r\n"}, {0, "swapdb 0 x", "-ERR invalid second DB index\r\n"},
		{0, "swapdb 2 2", "+OK\r\n"}, {1, "flushdb", "+OK\r\n"}, {0, "dbsize", ":1\r\n"}, {1, "dbsize", ":0\r\n"}, {3, "dbsize", ":1\r\n"}, {1, "flushall", "+OK\r\n"}, {3, "dbsize", ":0\r\n"},
		{2, "set only here", "+OK\r\n"}, {2, "randomkey", "$4\r\nonly\r\n"}, {1, "randomkey", "$-1\r\n"}, {2, "scan 0", "*2\r\n$1\r\n0\r\n*1\r\n$4\r\nonly\r\n"}, {0, "keys *", "*0\r\n"},
	}
	r := newRunner()
	for i, s := range steps {
		if got := r.in(s.database, strings.Fields(s.command)...); got != s.want {
			t.Errorf("step %d, database %d, %s: %q, want %q", i, s.database, s.command, got, s.want)
		}
		checkMachine(t, r.machine)
	}
}

// A watched key of one database must not be mistaken for its namesake in another, and SWAPDB changes what a name means:
// even where transactions gave both keys the same version.
func TestWatchKnowsItsDatabase(t *testing.T) {
	r := newRunner()
	r.applyPayload(AppendTransaction(nil, nil, [][][]byte{bytesOf([]string{"set", "k", "0"}), bytesOf([]string{"select", "1"}), bytesOf([]string{"set", "k", "1"})}))
	if got := r.in(1, "get", "k"); got != "$1\r\n1\r\n" {
		t.Fatalf("SELECT in a transaction: %q", got)
	}
	watch := func(database int) []Watch {
		return []Watch{{Database: database, Key: []byte("k"), Version: r.machine.Version(database, []byte("k"))}}
	}
	w := watch(0)
	r.in(1, "set", "k", "other")
	if got := r.transact(w, []string{"ping"}); got != "*1\r\n+PONG\r\n" {
		t.Errorf("a change in another database stopped the transaction: %q", got)
	}
	r.applyPayload(AppendTransaction(nil, nil, [][][]byte{bytesOf([]string{"set", "k", "0"}), bytesOf([]string{"select", "1"}), bytesOf([]string{"set", "k", "1"})}))
	for _, w := range [][]Watch{watch(0), watch(1), watch(2)} {
		before := w[0].Version
		r.in(0, "swapdb", "0", "1")
		got := r.transact(w, []string{"ping"})
		if stopped := got == "*-1\r\n"; stopped != (w[0].Database < 2) {
			t.Errorf("database %d, version %d: %q", w[0].Database, before, got)
		}
	}
}

// Payloads with an envelope come back as they were; one that says nothing, or too much, is refused.
func TestEnvelopeOfPayload(t *testing.T) {
	args := bytesOf([]string{"get", "k"})
	for _, e := range []Envelope{{}, {Database: 15}, {User: "al"}, {NoTouch: true}, {Database: 3, User: strings.Repeat("u", 300), NoTouch: true}} {
		for _, b := range [][]byte{e.AppendCommand(nil, args), e.AppendRecord(nil, args), e.AppendTransaction(nil, []Watch{{Database: 7, Key: []byte("w")}}, [][][]byte{args})} {
			p, err := DecodePayload(b)
			if err != nil || p.Envelope != e || len(p.Commands) != 1 || p.Transaction != (len(p.Watches) == 1) || p.Transaction && p.Watches[0].Database != 7 {
				t.Errorf("%+v came back as %+v, %v", e, p, err)
			}
			for i := range b {
				DecodePayload(b[:i])
			}
		}
	}
	for _, b := range []string{"\x81\x00\x01\x01x", "\x81\x40\x01\x01x", "\x81", "\x81\x21\x00\x01\x01x\x00", "\x84\x01\x01\x01x", "\x83\x31\x05ab"} {
		var reply resp.Reply
		m := New()
		if m.Apply(Instant{}, smr.Request{Session: 1, Sequence: 1, Payload: []byte(b)}, &reply); !strings.HasPrefix(string(reply.Buf), "-ERR payload: ") {
			t.Errorf("%q was answered %q", b, reply.Buf)
		}
	}
	var reply resp.Reply
	New().Apply(Instant{}, smr.Request{Session: 1, Sequence: 1, Payload: Envelope{}.AppendRecord(nil, bytesOf([]string{"get", "k"}))}, &reply)
	if got := string(reply.Buf); got != "-ERR unknown record 'get'\r\n" {
		t.Errorf("a command as a record: %q", got)
	}
}

package kv

import (
	"fmt"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// What could go wrong: fetching changes something, is no match for what a table holds (no index, other kinds of values, places that were let go, keys that are not
// there), or takes memory.
func TestWarmthChangesNothing(t *testing.T) {
	m := New()
	m.leaving.spoil = true
	sequence := uint64(0)
	do := func(args ...string) []byte {
		sequence++
		payload := AppendCommand(nil, bytesOf(args))
		var reply resp.Reply
		if m.Apply(Instant{LSN: smr.LSN(sequence * 1000), Stamp: int64(sequence)}, smr.Request{Session: 1, Sequence: sequence, Payload: payload}, &reply); reply.Errors > 0 {
			t.Fatalf("%v: %s", args, reply.Buf)
		}
		return payload
	}
	var w Warmth
	payloads := [][]byte{nil, {0}, {255}, AppendCommand(nil, bytesOf([]string{"PING"})), AppendCommand(nil, bytesOf([]string{"GET", "nowhere"}))}
	for _, keys := range []int{1, smallTable, 3 * WarmKeys, 2000} { // without an index and with one
		for i := range keys {
			name := fmt.Sprintf("%d:%d", keys, i)
			switch i % 8 {
			case 0:
				payloads = append(payloads, do("SET", name, fmt.Sprint(i)))
			case 1:
				payloads = append(payloads, do("SET", name, string(make([]byte, i))))
			case 2:
				payloads = append(payloads, do("HSET", name, "field", "value"))
			case 3:
				payloads = append(payloads, do("ZADD", name, "1", "member"))
			case 4:
				payloads = append(payloads, do("RPUSH", name, "element"))
			case 5:
				payloads = append(payloads, do("SADD", name, "member"))
			case 6:
				payloads = append(payloads, do("XADD", name, "1-1", "field", "value"))
			case 7:
				payloads = append(payloads, do("SET", name, "gone"), do("DEL", name))
			}
		}
		digest, read := m.Digest(), w.read
		for from := 0; from < len(payloads); from += 50 {
			for _, payload := range payloads[from:min(from+50, len(payloads))] {
				w.Request(m, payload)
				w.Key(m, 3, []byte("in a database without keys"))
			}
			w.Fetch()
		}
		if m.Digest() != digest {
			t.Fatalf("%d keys: the state has changed", keys)
		}
		if fetched := w.read != read; fetched != (m.databases[0].keys.index != nil) {
			t.Fatalf("%d keys: fetched %v", keys, fetched)
		}
	}
	if n := testing.AllocsPerRun(10, func() {
		for _, payload := range payloads[5 : 5+2*WarmKeys] { // more than it takes; the first ones make errors
			w.Request(m, payload)
		}
		w.Fetch()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

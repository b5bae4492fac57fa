package kv

import (
	"fmt"
	"strconv"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// benchmarkApply executes payloads round and round, each as a frame of its own, with a reply.
func benchmarkApply(b *testing.B, m *Machine, payloads [][]byte) {
	reply := resp.Reply{Proto: 2}
	request := smr.Request{Session: 1, Slot: smr.NoSlot, Sequence: m.LastSequence(1)}
	at := Instant{LSN: m.Applied(), Stamp: m.Now()}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		reply.Reset()
		request.Sequence++
		request.Payload = payloads[i%len(payloads)]
		at.LSN += 200
		at.Stamp++
		if m.Apply(at, request, &reply) != smr.Execute || reply.Errors > 0 {
			b.Fatalf("reply %q", reply.Buf)
		}
		m.Advance(at.Stamp, at.LSN+200)
	}
}

const benchmarkKeys = 100_000

func payloadsOf(command func(i int) []string) [][]byte {
	payloads := make([][]byte, benchmarkKeys)
	for i := range payloads {
		payloads[i] = AppendCommand(nil, bytesOf(command(i)))
	}
	return payloads
}

// filled returns a machine that has executed the payloads.
func filled(payloads [][]byte) *Machine {
	m := New()
	for i, payload := range payloads {
		m.Apply(Instant{LSN: smr.LSN(200 * i), Stamp: 1}, smr.Request{Session: 1, Sequence: m.LastSequence(1) + 1, Payload: payload}, nil)
	}
	m.Advance(1, smr.LSN(200*len(payloads)))
	return m
}

func key(i int) string { return fmt.Sprintf("key:%012d", i*7919%benchmarkKeys) }

var value64 = fmt.Sprintf("%064d", 7)

func setPayloads() [][]byte {
	return payloadsOf(func(i int) []string { return []string{"SET", key(i), value64} })
}

func BenchmarkApplySet64(b *testing.B) {
	payloads := setPayloads()
	benchmarkApply(b, filled(payloads), payloads)
}

// A new key each time: SET and DEL in turns.
func BenchmarkApplySetNew64(b *testing.B) {
	var payloads [][]byte
	for i := range benchmarkKeys {
		payloads = append(payloads, AppendCommand(nil, bytesOf([]string{"SET", key(i), value64})), AppendCommand(nil, bytesOf([]string{"DEL", key(i)})))
	}
	benchmarkApply(b, New(), payloads)
}

func BenchmarkApplyIncr(b *testing.B) {
	payloads := payloadsOf(func(i int) []string { return []string{"INCR", key(i)} })
	benchmarkApply(b, filled(payloads), payloads)
}

func BenchmarkApplySetExpiring(b *testing.B) {
	payloads := payloadsOf(func(i int) []string { return []string{"SET", key(i), value64, "PX", "50000"} })
	benchmarkApply(b, filled(payloads), payloads)
}

func BenchmarkApplyZadd(b *testing.B) {
	payloads := payloadsOf(func(i int) []string { return []string{"ZADD", "z", strconv.Itoa(i * 31 % 1_000_003), key(i)} })
	benchmarkApply(b, filled(payloads), payloads)
}

func BenchmarkApplyLpushRpop(b *testing.B) {
	var payloads [][]byte
	for i := range 1000 {
		payloads = append(payloads, AppendCommand(nil, bytesOf([]string{"LPUSH", "l", key(i)})), AppendCommand(nil, bytesOf([]string{"RPOP", "l"})))
	}
	benchmarkApply(b, filled(payloads[:1]), payloads)
}

func BenchmarkApplyHset(b *testing.B) {
	payloads := payloadsOf(func(i int) []string { return []string{"HSET", "h" + strconv.Itoa(i%1000), key(i), value64} })
	benchmarkApply(b, filled(payloads), payloads)
}

func benchmarkRead(b *testing.B, m *Machine, command func(i int) []string) {
	var commands [][][]byte
	for i := range 10_000 {
		commands = append(commands, bytesOf(command(i)))
	}
	var reply resp.Reply
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		reply.Reset()
		m.Read(0, commands[i%len(commands)], &reply)
		if reply.Errors > 0 {
			b.Fatalf("reply %q", reply.Buf)
		}
	}
}

func BenchmarkReadGet(b *testing.B) {
	benchmarkRead(b, filled(setPayloads()), func(i int) []string { return []string{"GET", key(i)} })
}

func zsetMachine() *Machine {
	return filled(payloadsOf(func(i int) []string { return []string{"ZADD", "z", strconv.Itoa(i * 31 % 1_000_003), key(i)} }))
}

func BenchmarkReadZrank(b *testing.B) {
	benchmarkRead(b, zsetMachine(), func(i int) []string { return []string{"ZRANK", "z", key(i)} })
}

func BenchmarkReadZrange10(b *testing.B) {
	benchmarkRead(b, zsetMachine(), func(i int) []string {
		return []string{"ZRANGE", "z", strconv.Itoa(i * 9), strconv.Itoa(i*9 + 9), "WITHSCORES"}
	})
}

func BenchmarkDigest100k(b *testing.B) {
	m := filled(setPayloads())
	for b.Loop() {
		m.Digest()
	}
}

package kv

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"lockstep/smr"
)

// logOf returns a log of so many SET commands, in frames of requestsEach requests, of values of 64 bytes.
func logOf(commands, keys, requestsEach int) []byte {
	var log, body, payload []byte
	for i := 0; i < commands; {
		body = body[:0]
		count := min(requestsEach, commands-i)
		for range count {
			payload = AppendCommand(payload[:0], bytesOf([]string{"SET", fmt.Sprintf("key:%012d", i*7919%keys), value64}))
			body = smr.AppendRequest(body, smr.Request{Session: smr.SessionID(1 + i%16), Slot: smr.NoSlot, Sequence: uint64(1 + i/16), Payload: payload})
			i++
		}
		log = smr.AppendFrame(log, smr.Frame{LSN: smr.LSN(len(log)), Epoch: 1, Stamp: int64(1_000_000 + i), Kind: smr.KindRequests, Count: count, Body: body})
	}
	return log
}

// replayLog executes a log from its beginning, as a node does that starts: each frame is checked, decoded and applied.
func replayLog(b *testing.B, log []byte) *Machine {
	m := New()
	for at := 0; at < len(log); {
		f, err := smr.DecodeFrame(log[at:], smr.LSN(at))
		if err != nil {
			b.Fatal(err)
		}
		rest := f.Body
		for i := range f.Count {
			var request smr.Request
			request, rest, _ = smr.CutRequest(rest)
			if m.Apply(Instant{LSN: f.LSN, Index: i, Stamp: f.Stamp}, request, nil) != smr.Execute {
				b.Fatal("a request was not executed")
			}
		}
		m.Advance(f.Stamp, f.End())
		at = int(f.End())
	}
	return m
}

// Replaying a million SETs: of as many keys, and of a hundred thousand. SET/s is by the clock, SET/cpu-s by the processor time of the
// whole process, garbage collection included: on one core without neighbours (-cpu 1) both are the same.
func BenchmarkReplaySet(b *testing.B) {
	const commands = 1_000_000
	for _, keys := range []int{1_000_000, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			log := logOf(commands, keys, 64)
			b.ResetTimer()
			began := processorTime()
			for range b.N {
				if m := replayLog(b, log); m.DBSize(0) != keys {
					b.Fatalf("%d keys", m.DBSize(0))
				}
			}
			b.ReportMetric(commands*float64(b.N)/b.Elapsed().Seconds(), "SET/s")
			b.ReportMetric(commands*float64(b.N)/(processorTime()-began).Seconds(), "SET/cpu-s")
		})
	}
}

// processorTime returns what this process has used so far.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

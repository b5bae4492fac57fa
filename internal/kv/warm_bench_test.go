package kv

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// SET and GET of keys that are there, drawn at random, in frames and pipelines of some length: with Warmth and without, in turns within one process.
// An operation is one command.
func BenchmarkWarmth(b *testing.B) {
	for _, keys := range []int{10_000, 100_000, 1_000_000} {
		random := rand.New(rand.NewPCG(1, 2))
		payloads, gets := make([][]byte, keys), make([][][]byte, keys)
		for i := range payloads {
			name := fmt.Sprintf("key:%012d", i)
			payloads[i] = AppendCommand(nil, bytesOf([]string{"SET", name, value64}))
			gets[i] = bytesOf([]string{"GET", name})
		}
		m := filled(payloads)
		random.Shuffle(keys, func(i, j int) {
			payloads[i], payloads[j] = payloads[j], payloads[i]
			gets[i], gets[j] = gets[j], gets[i]
		})
		sequence := m.LastSequence(1)
		var reply resp.Reply
		for _, load := range []struct {
			name    string
			batches []int
			warm    func(w *Warmth, i int)
			do      func(i int)
		}{
			{"SET", []int{1, 4, 16, 64}, func(w *Warmth, i int) { w.Request(m, payloads[i]) }, func(i int) {
				sequence++
				m.Apply(Instant{LSN: smr.LSN(sequence * 100), Stamp: 1_000_000}, smr.Request{Session: 1, Sequence: sequence, Payload: payloads[i]}, nil)
			}},
			{"GET", []int{4, 16}, func(w *Warmth, i int) { w.Key(m, 0, gets[i][1]) }, func(i int) { m.Read(0, gets[i], &reply) }},
		} {
			for _, batch := range load.batches {
				for _, warm := range []string{"cold", "warm"} {
					b.Run(fmt.Sprintf("keys=%d/%s/batch=%d/%s", keys, load.name, batch, warm), func(b *testing.B) {
						var w Warmth
						at := random.IntN(keys)
						for i := 0; i < b.N; i += batch {
							if at += batch; at+batch > keys {
								at = 0
							}
							if warm == "warm" {
								for j := range batch {
									load.warm(&w, at+j)
								}
								w.Fetch()
							}
							reply.Reset()
							for j := range batch {
								load.do(at + j)
							}
						}
					})
				}
			}
		}
	}
}

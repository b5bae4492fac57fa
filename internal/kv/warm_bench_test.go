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
		for _, batch := range []int{1, 4, 16, 64} {
			for _, warm := range []string{"cold", "warm"} {
				b.Run(fmt.Sprintf("keys=%d/SET/batch=%d/%s", keys, batch, warm), func(b *testing.B) {
					var w Warmth
					at := random.IntN(keys)
					for i := 0; i < b.N; i += batch {
						if at += batch; at+batch > keys {
							at = 0
						}
						if warm == "warm" {
							for _, payload := range payloads[at : at+batch] {
								w.Request(m, payload)
							}
							w.Fetch()
						}
						for _, payload := range payloads[at : at+batch] {
							sequence++
							m.Apply(Instant{LSN: smr.LSN(sequence * 100), Stamp: 1_000_000}, smr.Request{Session: 1, Sequence: sequence, Payload: payload}, nil)
						}
					}
				})
			}
		}
		var reply resp.Reply
		for _, batch := range []int{4, 16} {
			for _, warm := range []string{"cold", "warm"} {
				b.Run(fmt.Sprintf("keys=%d/GET/batch=%d/%s", keys, batch, warm), func(b *testing.B) {
					var w Warmth
					at := random.IntN(keys)
					for i := 0; i < b.N; i += batch {
						if at += batch; at+batch > keys {
							at = 0
						}
						if warm == "warm" {
							for _, args := range gets[at : at+batch] {
								w.Key(m, 0, args[1])
							}
							w.Fetch()
						}
						reply.Reset()
						for _, args := range gets[at : at+batch] {
							m.Read(0, args, &reply)
						}
					}
				})
			}
		}
	}
}

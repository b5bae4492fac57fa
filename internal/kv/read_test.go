package kv

import (
	"sync"
	"testing"

	"lockstep/internal/resp"
)

// Several goroutines read while nothing is applied: the race detector sees any hidden write, such as a lazy expiry or
// a cached draw.
func TestReadsRunConcurrently(t *testing.T) {
	r := newRunner()
	for _, args := range [][]string{{"set", "a", "1"}, {"set", "b", "1", "px", "5"}, {"rpush", "l", "1", "2"}, {"sadd", "s", "1", "2"}, {"hset", "h", "f", "v"}, {"zadd", "z", "1", "m"}} {
		r.apply(args...)
	}
	r.machine.now += 10
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			var reply resp.Reply
			for range 50 {
				for _, args := range [][]string{{"get", "a"}, {"get", "b"}, {"lrange", "l", "0", "-1"}, {"srandmember", "s"}, {"hgetall", "h"}, {"zrange", "z", "0", "-1"}, {"randomkey"},
					{"scan", "0"}, {"keys", "*"}, {"zunion", "2", "z", "s"}, {"sinter", "s", "s"}, {"object", "encoding", "a"}, {"ttl", "b"}, {"nosuch"}} {
					r.machine.Read(0, bytesOf(args), &reply)
				}
				r.machine.Version(0, []byte("b"))
				r.machine.Stats()
				CommandReply(bytesOf([]string{"command", "docs", "get"}), &reply)
				reply.Reset()
			}
		})
	}
	group.Wait()
}

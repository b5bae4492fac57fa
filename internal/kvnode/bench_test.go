package kvnode

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkCommands measures the shell and the machine with a log that commits in memory, over loopback sockets:
// the client side is in the same process and takes its share of the processors.
func BenchmarkCommands(b *testing.B) {
	for _, name := range []string{"SET", "GET"} {
		for _, depth := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/connections=50/pipeline=%d", name, depth), func(b *testing.B) {
				benchmark(b, name, 50, depth)
			})
		}
	}
}

func benchmark(b *testing.B, name string, connections, depth int) {
	address := newFakeGroup(b, 1, nil).serve(b, 0)
	request, reply := appendCommand(nil, [][]byte{[]byte("SET"), []byte("key:000000000042"), []byte("xxx")}), "+OK\r\n"
	setup := dial(b, address)
	setup.Write(request)
	setup.want(reply)
	if name == "GET" {
		request, reply = appendCommand(nil, [][]byte{[]byte("GET"), []byte("key:000000000042")}), "$3\r\nxxx\r\n"
	}
	request, answer := bytes.Repeat(request, depth), make([]byte, depth*len(reply))
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var wait sync.WaitGroup
	for range connections {
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		mine := bytes.Clone(answer)
		wait.Go(func() {
			for left.Add(-int64(depth)) > -int64(depth) {
				if _, err := c.Write(request); err != nil {
					b.Error(err)
					return
				}
				if _, err := io.ReadFull(c, mine); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

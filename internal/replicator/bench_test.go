package replicator

import (
	"fmt"
	"sort"
	"testing"
	"time"
)

// BenchmarkCommit measures three replicators in one process, copies 2, sync always, 64-byte requests: from the write of
// a batch to the client's socket until a KV node has read it from the log below Safe.
//
//	one:    one client, one request at a time: the latency of a commit
//	pipe:   one client with 64 batches of 16 requests in flight: throughput
func BenchmarkCommit(b *testing.B) {
	for _, c := range []struct {
		name            string
		batch, inFlight uint64
	}{{"one", 1, 1}, {"batch-50", 50, 1}, {"pipe-64x16", 16, 64}, {"pipe-16x256", 256, 16}} {
		b.Run(c.name, func(b *testing.B) { benchmarkCommit(b, c.batch, c.inFlight) })
	}
}

func benchmarkCommit(b *testing.B, batch, inFlight uint64) {
	var nodes []*tester
	for i := range 3 {
		cfg := testConfig(tempDir(b), fmt.Sprintf("n%d", i+1))
		cfg.FileSize = 0
		nodes = append(nodes, start(b, cfg))
	}
	kv := attachKV(nodes[0])
	c := create(b, 2, nodes...)
	if master := c.elect(nodes...); master != nodes[0] {
		b.Fatal("another master than expected")
	}
	client, err := dialClient(nodes[0], 5)
	if err != nil {
		b.Fatal(err)
	}
	defer client.conn.Close()
	if err := client.conn.SetDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, 64)
	var took []time.Duration
	var sent, executed uint64
	starts := make(map[uint64]time.Time, inFlight)
	b.ReportAllocs()
	for b.Loop() {
		if sent-executed >= batch*inFlight {
			executed += batch
			if err := kv.awaitExecuted(5, executed); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(starts[executed]))
			delete(starts, executed)
		}
		starts[sent+batch] = time.Now()
		if err := client.propose(sent+1, sent+batch, payload); err != nil {
			b.Fatal(err)
		}
		sent += batch
	}
	if err := kv.awaitExecuted(5, sent); err != nil {
		b.Fatal(err)
	}
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	if len(took) > 0 {
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	}
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "requests/s")
}

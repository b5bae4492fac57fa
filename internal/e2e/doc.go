// Package e2e holds the end-to-end tests: real processes on loopback, started as `smrctl up` starts them, real clients,
// and faults by signal. It has no code of its own, and nothing imports it.
//
// # How a test judges
//
// Writers append unique numbers to lists and count counters through every KV node while things are killed. Each operation
// ends as acknowledged, as refused (certainly not executed), or as unknown (an -UNCERTAIN reply, or a connection that
// broke on a node that was killed). Afterwards every KV node must show the same lists: every acknowledged number exactly
// once and in order, no refused number, an unknown one at most once. Readers check that no read misses a write that was
// acknowledged before the read was sent.
//
// # Tours
//
// TestTours takes existing clients round what Redis offers, at every node, with a fail-over in the middle: go-redis and its
// Sentinel client, rueidis with its cache, python3-redis, redis-cli, redis-benchmark. They share one cluster; in the end all
// nodes have the same digest. Programs that are not installed are skipped, and the test says so.
//
// Nothing is asserted about time: whatever must come true is waited for with a generous deadline. `-short` takes the
// faults of the master only. With `-race` the processes are built with the race detector too. Every log is searched for
// what no process may ever write: panics, broken invariants, data races.
package e2e

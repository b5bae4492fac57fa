// Package chaos drives a cluster of real processes with concurrent clients while faults happen, and checks what the clients
// saw. It is a tool and a test, not a part of the system: it knows the processes only through their ports, files and signals.
//
//	Run ── startCluster   processes of internal/local; every data and management address is one of our own proxy
//	   ├── load           clients on every KV node; each operation goes into the history
//	   ├── nemesis        lanes that draw faults from the seed; the guard keeps them within what the group survives
//	   ├── watch          live line; samples of what the configuration masters see
//	   └── Judge          the history against the rules below; windows without an acknowledged write, each with its causes
//
// # Operations
//
// Every key takes a bounded number of operations and is never used again, so that checking stays fast; a key with an
// operation of unknown outcome is retired at once. The first letter of a key says what it is:
//
//	r  register    SET of unique values, GET, and compare-and-set by WATCH, GET, MULTI, SET, EXEC
//	c  counter     INCR, GET
//	t  text        APPEND of unique pieces, GET
//	l  list        RPUSH of unique integers, LRANGE 0 -1
//	p  pair        two keys written by one MULTI/EXEC with one value and read by another: never seen to differ
//
// An operation ends as "ok", as "refused" (an error reply that promises that it was not and never will be executed:
// NOREPLICAS, MASTERDOWN, EXECABORT) or as "unknown" (UNCERTAIN, a connection that broke, no answer in time). At the end,
// when all is healed, every key is read on every node.
//
// # Rules
//
//   - Each key's history is linearizable (porcupine), where an unknown operation may take effect at any time or never.
//   - What a list holds at the end: every acknowledged integer exactly once, no refused one, each unknown one at most once;
//     every read is a prefix of it; its order agrees with real time.
//   - No reply is an error that nobody expects.
//   - Every window without an acknowledged write overlaps a fault or follows one closely, or this machine was slow for a
//     quarter of it (a probe of its disk and processor tells). Fail-overs are named beside, but explain nothing.
//   - At the end the group is whole again, and all KV nodes have the same digest at the same LSN.
//
// # History file
//
// One JSON value a line: {"call": op} when an operation is sent, {"return": op} when its outcome is known, stamped with
// nanoseconds of a monotonic clock that began with the run. An operation without a return is unknown. Check judges such a
// file again.
package chaos

// Package chaos drives a cluster of real processes with concurrent clients while faults happen, and checks what the clients
// saw. It is a tool and a test, not a part of the system: it knows the processes only through their ports, files and signals.
//
//	Run ── startCluster   processes of internal/local; every data and management address is one of our own proxy
//	   ├── load           clients on every KV node; each operation goes into the history
//	   ├── listenAll      a subscriber on every KV node
//	   ├── intrude        where passwords are wanted: attempts to get in without one, or with an old one (passwords.go)
//	   ├── nemesis        lanes that draw faults from the seed; the guard keeps them within what the group survives; one lane more
//	   │                  for what happens in the life of a cluster (lifecycle.go): images, nodes that come and go, restores
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
//	p  pair        two keys written by one MULTI/EXEC with one value and read by another, or both watched: never seen to differ
//	e  script      EVAL or FCALL of a script that counts, appends, and pushes on three keys: never seen to disagree
//	q  queue       RPUSH of unique integers; BLPOP and BLMPOP by several waiting clients
//	m  moves       LPUSH; BLMOVE and BRPOPLPUSH to another list
//	z  priorities  ZADD; BZPOPMIN and BZMPOP
//	s  stream      XADD; XREADGROUP, also with BLOCK, by a consumer for each client; XACK of most
//
// Beside the keys, every client publishes messages on two channels, and a subscriber of each node listens to both.
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
//   - A compare-and-set fails only if somebody else may have written the key since it was watched.
//   - Queues: an element is delivered once at most, and was delivered, is still there, was moved, or went to a pop whose outcome is
//     unknown: there must be one for each (Handed lists them: an element may go to a client whose connection broke, or whose node
//     died, until the group knows). First in, first out, or by score; nobody waits in vain.
//   - Streams: every acknowledged entry once under its ID, IDs in the order of real time; the group gives each entry to one
//     consumer, once, in order, or holds it pending for one whose read ended without an answer; XACK takes it off the list for good.
//   - Pub/sub: all subscriptions hear one order, which is that of real time, without gaps: nothing acknowledged is missing between
//     what a connection heard, nor, if it lasted until the end, behind it.
//   - Restores: what a cluster restored to a marked LSN holds is read as if it had been read at that moment, and checked with the rest.
//   - No reply is an error that nobody expects.
//   - Passwords, where they are wanted: nothing is read or written without one; a password that was given up is refused by every node that has answered
//     a read since, and wherever it is taken nothing is read or written with it; clients that have logged in keep their rights.
//   - Every window without an acknowledged write overlaps a fault or follows one closely, or this machine was slow for a
//     quarter of it (a probe of its disk and processor tells). Fail-overs are named beside, but explain nothing.
//   - At the end the group is whole again, and all KV nodes have the same digest at the same LSN.
//
// # Forced recovery
//
// RunRecoveries is a run of another kind: two of three nodes are lost for good, again and again, most times after the third had been cut off; the
// group is recovered by force. Every acknowledged write that is lost must lie behind the LSN that the recovery reported, and none may be that
// was sent afterwards.
//
// # History file
//
// One JSON value a line: {"call": op} when an operation is sent, {"return": op} when its outcome is known, stamped with
// nanoseconds of a monotonic clock that began with the run. An operation without a return is unknown. Check judges such a
// file again.
package chaos

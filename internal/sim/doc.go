// Package sim runs a whole group of replicas, with all that can go wrong around it, on one goroutine in virtual time.
//
// One uint64 seed decides everything: options, faults, network, disks, clocks and workload each draw from a stream of
// their own. The same seed gives the same events on any machine. What runs is the real thing: smr/replica, smr/session,
// internal/failover, internal/kv and package log on log/simfs. Only the shells around them are written again here, because
// the real ones live on goroutines and sockets; they follow internal/replicator, smr/client and internal/confmaster.
//
// # A schedule
//
//	0 ........................ faultsEnd ................ at most options.HealMillis more
//	anything may fail;         everything is mended; within that time a write and a linearizable read must
//	nothing wrong may be       succeed on every KV node, and all nodes must hold the same state
//	committed
//
// # What goes wrong
//
// Faults are a list, drawn from the seed, each with a number of its own from which it draws what it needs: so leaving one out
// changes no other, and a failure can be shrunk. Each kind has a probe.
//
//	disk       power cuts that lose, tear (at sectors) or reorder what was not synced; crashes within a call; failed writes
//	           and syncs; a full and a slow disk; one flipped bit at rest in log, metadata or hard state; the log, the hard state
//	           or all of it gone; the disks of two machines exchanged
//	network    cuts one way and both ways, delay, connections that end for one side or both and at any byte, old and new
//	           ones at once; control messages lost, repeated and late
//	images     of a KV node lost or damaged; taking one fails; a replica comes late and empty to a group that has trimmed its log
//	processes  killed, stopped and resumed; machines suspended; clocks that jump and run at other rates
//	life       replicas added (by an operator or by themselves), removed, drained, replaced; copies, min_copies and what counts
//	           as slow set anew; changes cancelled; disks replaced; a quorum lost for good and the group recovered by force, while
//	           those that are lost hold what the others do not; what was left out comes back, as it was, or with its KV node's images
//	           only; for half of it another fault close behind
//	restore    what is archived is restored, to an LSN or a time, into a new cluster beside: what is sent to one of the two comes to the other,
//	           images too; a process is started with the other's directory or log files; the new one has faults of its own
//	decisions  wrong suspicion, reconfigurations that nothing calls for, switch-overs, other policies, fail-over of the
//	           configuration master
//
// A bit is flipped only where package log promises to tell damage from a torn tail: not in what was synced last before a
// power cut, whose durable mark the same cut may take (see "Recovery" there).
//
// # What is checked, after every event that could change it
//
//   - bytes: any two replicas agree on every byte below their Commit, for ever; also what a KV node reads from the files;
//   - Safe never goes back in a process life, nor does Applied; Safe <= Commit, Safe <= Durable <= End; nothing counts as
//     durable before the disk has it;
//   - one writer per epoch;
//   - a restart loses no byte that was reported durable and no promise, unless the disk was harmed, and then it is a new
//     incarnation; a log that was not harmed is never called damaged; a directory of another node is refused, one's own is not;
//   - an acknowledged request is in the committed log and executes exactly once; a refused one never does; no request twice;
//   - replies of every request, and digests of the state, are equal on all nodes at the same LSN;
//   - a linearizable read, and a write, is ordered after everything that was answered before it was asked;
//   - no replica stops because its log contradicts its master's;
//   - nothing is trimmed above the image that the KV node beside can start from, or above Safe; a log that begins at an image gives
//     up nothing that it had in common with what is committed; its digest is that of the whole stream;
//   - a state that was loaded from an image, at whatever LSN, equals that of the other nodes, and goes on equal;
//   - an element that was pushed to a queue is popped exactly once or still there; no EXEC passes whose keys have changed since WATCH;
//     entries of a stream are delivered to a consumer group in turn and once; what scripts have written agrees; every listener hears
//     every message, in one order on all nodes; no command waits on behalf of nobody.
//
// A restored cluster (restore.go) is a world of its own on the same time, with a checker of its own, which begins with the part of the history
// that was restored: the state has to be that of executing it anew, and end with the last frame at or below the target. A restore is
// refused only for what the archive does not have. Whatever is of the other cluster is refused by its id. Requests that were
// executed behind the target are unknown in the new cluster: none of them may come up there.
//
// A forced recovery gives the stream up at what its first master holds. From then on the checker has two lineages (lineage.go): the
// one that goes on shares with the other what lies below the cut, and every check above holds within it. The cut may not lie below what the
// recovery has announced as lost at most; a log, a state, an image or an archive never joins parts of both; the one that was given up commits
// nothing more; no read that was asked since sees it. One schedule in four has such a life.
//
// One schedule in two takes images and trims. An image is the rows of the real machine (kv.BeginImage), in memory; what pebble
// makes of them is tested with package checkpoint.
//
// # Parts
//
//	world.go       time, events, hash of events          network.go    connections, datagrams, cuts
//	options.go     what a seed draws                     replicator.go shell of smr/replica; disk.go, home.go, feed.go
//	image.go       images of KV nodes: taken in steps, loaded, fetched from others
//	clients.go     clients that wait, watch, take from groups, run scripts, listen; model.go: what they must see
//	faults.go      faults as a list with identities      kvnode.go     shell of smr/session and internal/kv
//	workload.go    what clients do                       confmaster.go oracle; raft.go: three etcd-raft members
//	life.go        operators: replicas, copies, disks, quorums
//	archive.go     archive of the stream and of images  restore.go     a cluster made of it
//	lineage.go     what was given up by force, and what not
//	check.go       the checks above                      shrink.go     fewer faults, same violation; regressions
//
// # The configuration master
//
// In fast mode one State and one Driver decide, with a delay; fail-overs of the configuration master itself are a fault that
// replaces the Driver by a fresh one. In full mode three raft.RawNodes with simulated storage carry three of them. etcd raft
// draws its election time-outs from crypto/rand.Reader; while a full schedule runs that variable is replaced by a
// reader that draws from the seed. So only one full schedule runs at a time in a process.
package sim

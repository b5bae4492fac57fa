// Package confmaster is the shell of the configuration master: etcd raft in pebble, streams to the replicators, calls to
// them, gRPC for operators and peers, and the Sentinel protocol for Redis clients. What is decided, and when, is
// internal/failover's.
//
// # Goroutines
//
// All are started by Run and have ended when it returns.
//
//	goroutine            owns                              queue, and what happens when it is full
//	raft loop            raft, store, State, Driver        inbox of 1024 functions: senders wait
//	link, one a peer     one Raft stream                   256 messages: dropped, raft sends again
//	opiner               own opinions on their way         a mailbox of one: the newest counts
//	watch, one a replica one Watch stream                  none: it waits for the inbox
//	call, one a call     one order to a replicator         at most 256 at once: answered as unavailable
//	gRPC                 calls of operators and peers      256 a connection
//	Sentinel accept, one goroutine a client, one more while it is subscribed
//	                                                       4096 clients: refused; 256 events: cut off
//
// The loop never dials or sleeps. It writes the raft log itself: nothing may be sent before that.
//
// # Files
//
//	DIR/lock           locked while the process runs
//	DIR/identity.json  format version, cluster, own number, number of configuration masters
//	DIR/raft/          pebble: the raft log, hard state and the newest snapshot; keys are drawn in storage.go
//	DIR/raft.mark      lower bound of what the raft store has made durable; drawn in mark.go
//
// An empty DIR is refused without Config.New: a voter that has forgotten its votes and acknowledgements could help to give an
// epoch out twice (S1). It may be given once more for a directory that was lost, after the others have elected a leader
// among themselves: that leader then has all that was ever committed, and no older term has a candidate left.
package confmaster

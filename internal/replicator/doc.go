// Package replicator is the shell around smr/replica: the sockets, files, clock and goroutines of one replica of a
// group's log. Run is all of it.
//
// It decides nothing about safety. One goroutine at a time has the turn at the core (the loop, see below); it turns what arrives into inputs and
// carries out effects as the manual in smr/replica says. Bytes of requests cross this package without being looked into.
//
// # Connections
//
//	port      peer                    messages
//	data      slaves, KV nodes (TCP)  smr/wire; SlaveHello or ClientHello decides which
//	manage    configuration master    gRPC: proto.Replicator, health, reflection
//	socket    the KV node beside      smr/wire over a unix socket, mode 0600; one at a time, the newest counts
//
// Every port bounds its connections, the time a peer may take to say who it is (2 s), and the size of what it may send
// before that (wire.HelloLimit). A peer of another cluster, group or wire version is told so and refused.
//
// # Directory
//
// See home. The rules of S10 are decided when it is opened: a directory without state, with damaged state, with a lost
// or damaged log, or one that ran in a relaxed sync mode when the machine went down becomes a new incarnation, which
// accepts nothing until it has learned the current epoch. What is left of the old one is kept in DIR/quarantine, of the
// newest few (Keep.Quarantined); older ones are removed at a start, which says so. A log without any state beside it is
// refused: it may be somebody else's.
//
// # What goes, and what comes in its place
//
// The core says when the log may be trimmed (smr/replica, "Trimming"); the log writer saves that as the place where the log may
// begin, then removes whole files. A trim that waits behind an append on a full disk is carried out first: it may be what makes
// room. A slave whose log the master's no longer reaches shows NeedImage to its KV node, with the nodes that Follow has named, and
// to the configuration master. The KV node fetches an image, or has one, and brings its Base; the log begins anew there (log.BeginAt)
// and the slave dials on. The KV node of a replica whose log reaches further back than its state needs one, too: then the log stays.
//
// # Way of a request
//
//	client reader -> proposals -> loop: all that wait become one Propose, one frame
//	                                |-> disk: appends in order, one sync for all that wait -> DiskDone
//	                                '-> stream: the same bytes -> feeder of each slave -> one Append
//	slave: dialer's reader -> upstream -> loop -> disk -> DiskDone -> Ack -> master: loop -> Commit
//	Safe moves -> local: Status to the KV node, which reads the frames from DIR/log
//	Checkpoint of the KV node -> local: Progress -> loop -> disk: Trim
//
// # Goroutines
//
// All are started in Run's group and have ended when it returns. "One" means one a process.
//
//	goroutine               owns                          is sent to through             when that is full
//	whoever has the turn    core, connection tables       control (256), upstream (256), the sender waits: that socket is read no
//	at the loop                                           proposals (256)                further. Proposals and upstream also wait while
//	                                                                                     more than 32 MiB wait for the disk or it is full
//	loop (one)              an alarm for the next tick    turn.Left
//	                        that matters; the turn, when
//	                        others have had it for long
//	log writer (one)        log, hard state               queue of operations            bounded by the loop's holding back; beyond 65536
//	                                                                                     operations the process gives up
//	log writer -> loop      -                             mailbox: progress              newest replaces older
//	feeder (each slave)     what the socket does not take link.queued (64), stream       heartbeats replace each other; a peer that lets
//	                        at once, a log.Reader         (16 MiB, or what is not        more gather is hung up. What has left the stream
//	                                                      written yet)                   is read from files
//	slave reader (each)     socket's read side            -                              -
//	dialer (one)            connection to the master,     mailbox: the order in force    newest replaces older
//	                        its read side
//	writer to the master    what it does not take at once link.queued (64)               acknowledgements replace each other
//	client reader (each)    socket's read side            -                              -
//	client writer (each)    what it does not take at once newest ReadReady, 1024 counts  the client is hung up
//	local reader (one)      session with the KV node      -                              -
//	local writer (one)      what it does not take at once mailbox: newest Status         newest replaces older
//	acceptors (data, local) the listeners                 -                              connections above the limit are closed
//	events (one)            log lines                     queue (1024)                   lines are counted and dropped
//	gRPC server             management calls              128 connections x 64 streams   refused; 256 orders may wait for replies
//	closer (one)            ends listeners at the end     -                              -
//
// The readers and the log writer bring something: they put it into a queue and step the core themselves, if nobody else does, and write
// what follows from it to whatever sockets take it at once (internal/turn, internal/speaker). So a request passes from the KV node's socket to the
// slaves' sockets on one goroutine, and an acknowledgement from the slave's socket to the KV node's. After maxRounds a
// reader leaves the turn to the loop's own goroutine: its socket must not wait for others without end. Orders are always left to it.
//
// Memory for messages: a client's message above 1 MiB needs one of four slots until the core has it; the master's
// stream is read while less than 4 MiB of it wait for the loop; the stream keeps 16 MiB of the newest bytes for feeders.
//
// While requests are held back and sockets not read, clients get a CopiesCounted with ID 0, which answers no question,
// every 250 ms: otherwise they would take the master for dead, connect anew and resend everything.
//
// # Failing disks
//
// A failed write or sync ends the process with an error: what the disk holds is unknown, and recovery at the next start
// finds out. A full disk does not: log.Append tells before it has written anything. The append and all that was ordered
// after it wait until space returns. Meanwhile the loop takes no proposals, says Writable false to KV nodes and slaves, goes
// on counting acknowledgements (bytes that C slaves hold may commit), and ReplicaState.disk_stuck_ms grows. An order that
// must be saved first (fence, follow) is answered when space returns; an election does with the answers of others.
package replicator

// Package kvnode is the shell of a KV node: a server of the Redis protocol (RESP2, RESP3, inline) in front of the
// state machine of internal/kv, which executes the committed log that smr/client delivers.
//
// It may not know how the log is replicated: it sees it through the interface Log. It decides nothing about the
// state: whatever changes the keyspace goes through the log, as one request per command or per EXEC.
//
// # How commands meet the log
//
// All complete commands of one network read are a batch; its replies leave in one write. Consecutive writes and
// reads of a batch are a run (run.go): its writes are submitted at once, and when one comes up in the committed log the
// goroutine that applies the log executes it, with the reads that stand around it in the run, and appends the
// replies to the connection's buffer in order. A run without writes takes a read index, waits until this node
// has executed the log up to it, and reads. Commands of the shell (CLIENT, INFO, CONFIG ...) are executed between runs.
//
// # Commands that wait
//
// BLPOP and its like are submitted alone (blocked.go). If the machine says that the request waits, the connection's goroutine
// goes on reading from its socket, which tells it of the client's end, without any lock; what the client pipelines stays in the
// read buffer. The machine's goroutine writes the reply when the waiter is served (kv.Host). A time-out, CLIENT UNBLOCK and the
// loss of the client are records; until one is executed the command still waits.
//
// # Invariants
//
//   - Replies leave in the order of the commands, and commands of one connection take effect in that order.
//   - A read sees everything that was acknowledged, by any node, before it arrived; or it is answered -MASTERDOWN.
//   - A write that is answered -NOREPLICAS was not and never will be executed. One that is answered -UNCERTAIN was sent,
//     and may yet be executed. Every other error reply to a write is the machine's own: the write was executed, and
//     that is its reply.
//   - A key whose expiry has passed by the clock of this node is not read as alive: log time is moved first.
//   - Memory for a connection is bounded by MaxQuery + MaxOutput + a transaction of at most smr.MaxPayload.
//
// # Goroutines
//
//	goroutine           started by        owns                                       ends when
//	Serve               Run               the listener                               its context ends
//	sample              Serve             the last measurement                       that context ends
//	keepClientMemory    Serve             nothing                                    that context ends
//	conn.serve          Serve             the connection, and its run while no       the client leaves, is cut or
//	                                      write of it is open                        killed, or the node stops
//	keepBlocked         Serve             what the log must know of commands that    the node has stopped
//	                                      wait here: signs of life, lost clients
//	output.drain        conn.serve        writing to the socket while it lives       its backlog is sent, or the socket closed
//	apply (ApplyFrame)  smr/client        the machine (write lock), and every run    smr/client ends
//	                                      while one of its writes is open
//	imageKeeper.run     Run               images; the machine a slice at a time      that context ends
//	tier.run            Run               values between memory and image, while     that context ends
//	                                      no frame moves them
//
// With a bound of memory (tier.go) ApplyFrame may wait for an image that is being taken, before it takes any lock; it ends with imageKeeper.run.
// A connection's goroutine waits for the log only in await, waitApplied, countCopies, submitNothing and pause; each of
// them also ends with Node.stopped, which is closed only after the log calls back no more. The lock order is:
// frame, machine, run. All of them have ended when Run returns.
package kvnode

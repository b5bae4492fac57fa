// Package replica is the core of the replicator: rules S1 to S13 of DESIGN.md section 5 as a function.
//
// Step(input, effects) is the whole of it. There is no clock, socket, file, goroutine, lock, log line, random
// number or map iteration in here; the shell (internal/replicator, internal/sim) owns those. The same inputs give
// the same effects on any machine.
//
// # Manual for the shell
//
// One goroutine calls Step, for as many inputs as are waiting, with one Effects that gathers; then it carries
// the effects out and calls Effects.Reset:
//
//   - Disk operations go, in order, to one goroutine that owns the log and the hard state. It executes them in
//     order and may sync once for many. It reports DiskDone{Ticket, Durable} when everything up to that ticket is
//     durable: appends synced (as the sync mode defines), states saved, rewinds and trims done. What may only be
//     said once something is durable the core keeps until then, so everything in Send and Replies may leave
//     at once.
//   - Send goes out in order on each connection. A connection that cannot take it is closed and reported ConnDown.
//   - Feed says from which LSN on a slave is to be sent the stream: everything the master has in its log from there
//     and everything that later Append operations add, as Append messages of whole frames with the current
//     Epoch() and Commit() as of when they are composed, until the connection is closed.
//   - Hangup closes a connection. Nothing of it may be delivered to Step afterwards. ConnDown is not expected for it.
//   - Dial orders one connection to the master (again after ConnDown, after a pause of the shell's choice), until
//     another Dial replaces it or StopDial is set. Connected reports success.
//   - Replies answer management orders. DropClients closes all client connections: their requests may or may not have
//     been appended; the KV nodes resend.
//
// ConnIDs are chosen by the shell, never used twice in a process life, and name slave connections of either
// direction. Bytes in inputs belong to the core from then on; bytes in effects belong to the shell from then on, and
// nobody changes either.
package replica

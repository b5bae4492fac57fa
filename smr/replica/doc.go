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
//     durable: appends synced (as the sync mode defines), states saved, rewinds, beginnings and trims done. What may only
//     be said once something is durable the core keeps until then, so everything in Send and Replies may leave
//     at once. Before the log begins anew, or is trimmed, the LSN is saved as the place that it may begin at: a log whose
//     oldest files were lost looks the same otherwise.
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
//
// # Images
//
// A slave whose common prefix with its master ends below the master's Start cannot be fed. It says so (Status.NeedImage), goes
// on dialling, and lets its log begin anew at the LSN b of an image of the state that its KV node has, or fetches, and brings
// (ImageLoaded). Everything below an image is committed, because a KV node executes below Safe only (S12): so the bytes below b
// are the same in every log that is ever elected. What the replica had promised is kept:
//
//   - What it acknowledged (S5, S6). Let c be the end of what its log H and the image's History share. If c is the end of H,
//     the log below b holds all of H: beginning there is what appending the bytes up to b would be. If c < min(b, end of H),
//     the bytes of H from c on differ from committed ones, so no rule ever holds for them: dropping them is the rewind of S7,
//     with the image in place of the master's History. If c = b, the log holds more than the image, which may be acknowledged:
//     the image is not taken. So no committed byte that the replica holds is ever missing afterwards, whoever counts it.
//   - What was safe (S12): c below Safe would mean that two committed streams differ. It stops, as in S7.
//   - What an election may conclude from its Position (S4). Afterwards that is (epoch of the byte below b, b). The log is a
//     prefix of what the master of that epoch wrote, so it holds everything that was committed in epochs before, and of this
//     one all below b: Positions compare as they do for a log that was fed.
//   - Answers to fences (S2, S3). Only a slave lets its log begin anew; following has withdrawn its answer. A fence that comes
//     while the disk is at it is answered behind it, with the new Position: b counts in End at once, as a rewind does.
//   - Its promise (S7): that of the image's last epoch is saved first, as for a byte that is stored.
//   - Durable, and with it every acknowledgement, stays at or below c until the log has begun. A crash leaves the old log or
//     the new one, and both hold what lies below c.
//   - Its incarnation (S10) stays: nothing that it held was lost. One that did lose its log is a new incarnation, blank until it
//     has learned the epoch, and a learner until S8: the image makes it catch up sooner, and is counted for nothing before.
//   - Commit becomes at least b: not taken from a connection (S7), but from the image. After a restart everything below Start is
//     committed likewise.
//
// The image's History, digest and LSN come from the log beside which it was taken. It is taken only if the master's last hello has
// that History: everything below an image is committed, so a master of its last epoch or a later one has it, unless a forced
// recovery has given its stream up. Such an image is refused (Effects.RefuseImage), and the KV node with it; one whose stream the
// last hello cannot tell waits for the next.
//
// # Trimming
//
// Every trimEvery ticks, while a KV node is attached, everything below
//
//	min(Checkpoint, Safe, End - KeepBytes, where the log ended KeepTicks ago, what slaves need but at least End - LagBytes)
//
// may go, once that is a file. What slaves need is what each member and each slave of this reign has acknowledged, gone ones
// included: so an empty replica that has said hello holds the log back while its image travels, as far as LagBytes goes. Start,
// as told to slaves, moves at once; the files go later, whole ones only, so that the log may reach further back than it says.
// Nobody reads there: feeders below Start hear log.ErrTrimmed and hang up, and the slave's next hello finds that it needs an image.
package replica

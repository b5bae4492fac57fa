// Package client is what a deterministic program links to be replicated: goroutines and sockets around smr/session.
// A KV node has one Client for its life. It keeps two connections, the local one to the replicator beside it and one to
// the master's replicator, reads committed frames from the local replicator's log files, and hands them to its
// Machine in order. It knows nothing of what requests mean.
//
// # A request's way
//
// Submit copies the payload into the inbox; the session loop, or whoever calls Flush after TrySubmit, gives all that has gathered their sequences, notes the
// Waiters under them, and sends one Propose. When the frame comes up in the committed log, the Machine takes the Waiter
// of each request of its own session (Take) just before it executes it, and writes the reply straight into it. So the
// client never carries replies, and no look-up is needed but the one in a queue: sequences are executed in order. Only
// when a request is not executed in time the client itself calls the Waiter (Finish).
//
// # Goroutines
//
//	goroutine       owns                      waits for                      is sent
//	session loop    ticks; session.Session    inbox, ticks                   inbox: requests, reads, what masters say
//	                and waiters with the turn
//	apply loop      log.Reader, the Machine   a new status, retries          status, by the local reader
//	                while it has mu
//	local           local connection          the replicator (3 s)           status messages
//	  local writer  writes of it              news, 1.5 s, a checkpoint      -
//	master          dialling                  a new master, the connection   target, by the local reader
//	  reader        reads of it               the master                     ReadReady, CopiesCounted
//	  writer        what it takes not at once link queue                     messages, by who steps the session
//
// What a status makes safe is executed by the local reader itself if it is little and prompt (applyLoop.here, Machine.Prompt): so a request changes goroutines
// nowhere between the replicator's socket and its reply. Much, what may take long, and all that is not the rule (a log to be proved, an image, an error) is left to the
// apply loop; a reader that does not hear is hung up on.
//
// The session is stepped by one goroutine at a time, which writes what follows from it to the master at once (internal/turn, internal/speaker): its own;
// that of Flush; those that hear the replicator and the master.
//
// All are started by Run and end before it returns. Machine methods and the callbacks of WaitApplied and Read run on the
// apply loop or the local reader; Finish and the callbacks of ReadIndex and CountCopies run on whichever goroutine steps the session, or on the one that
// called; FetchImage has a goroutine of its own, which the apply loop starts and waits for. None may block, and none may call Run.
//
// # Queues
//
//	inbox       bounded by Config.MaxPending and MaxPendingBytes together with what the session keeps. Full: Submit waits
//	            for room, at most Config.Timeout (or, with RefuseWhenFull, does not wait), then Overloaded.
//	reads       bounded by Config.MaxReads in the session. Full: ErrOverloaded.
//	LSN waiters bounded by Config.MaxReads. Full: ErrOverloaded.
//	link queue  holds references to what the session keeps anyway.
//
// # Faults
//
//   - Replicator gone: dialled for ever. What was executed stays right; reads at an LSN go on. New requests are refused
//     once it has been away for Config.RefuseAfter, because nobody here would see them executed.
//   - Replicator back with another log: it is held against what was executed, byte for byte (a running digest) at Applied, by its
//     epochs while it does not reach as far. Until it was found to be of the same stream nothing is executed and nobody is told
//     an LSN to read at or that one is reached; if it is of another one Run ends with ErrOtherStream. While the replicator is away
//     reads go on: a master that leads another history after a forced recovery is not told from one that does not, until it is back.
//   - Log begins behind Applied, or the master's behind the end of the one beside: Config.FetchImage gets an image, while
//     reads of the state as it is go on. If the image lies above Applied it is loaded between two frames, and requests of
//     this node below it that are not answered yet get Uncertain; then the replicator is told where its log can begin.
//     Without FetchImage Run ends with ErrTrimmed in the first case.
//   - Master gone or silent: dialled again, also when nothing says that it changed; everything pending is sent again.
//   - Log damaged: reading is tried again; Stats tells why nothing moves. The replicator mends its log or refills it.
package client

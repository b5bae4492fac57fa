// Package session is the core of the client library: rule S13 of DESIGN.md section 5 as a function. It decides what
// is sent to which master and when, what is sent again, and when a caller may be told what.
//
// It knows no clock, socket, goroutine or lock, and nothing of what payloads mean. Time is the input Tick.
//
// # A request's way
//
//	submitted --> unsent --(first sent: gets its sequence)--> sent --(seen in the committed log)--> executed
//	                |                                           |
//	                | no master or not writable for RefuseAfter,| not executed within Timeout
//	                | or not sent within Timeout                v
//	                v                                       answered Uncertain, but still pending: it is
//	              answered Refused: never sent,             sent again like any other until it is executed
//	              never will be
//
// # Rules
//
//   - Sequences are given in the order of submission when a request is first sent, from 1 and without gaps. Hence a
//     request that was refused leaves no gap, and a request that has a sequence is never refused.
//   - What has a sequence is kept until it is executed. On each new connection everything that is pending is sent again,
//     from the oldest, before anything new: so each connection carries a run of sequences that follows on what is
//     committed, and the duplicate check of every state machine (smr.SessionTable) admits each once.
//     The master's side of it: whoever loses a proposal of a connection takes no later one of it (and closes it),
//     else a gap would be committed, and nothing behind a gap is ever executed.
//   - Requests are executed in the order of their sequences, which is the order of submission.
//   - Reads that wait are asked for together. A question covers only reads that were there before it was sent, and is
//     asked anew on each connection.
//   - A connection on which nothing is heard is asked for a sign of life, then dropped.
//
// # Manual for the shell
//
// One goroutine calls Step for as many inputs as are waiting, with one Effects that gathers, then Flush once: only
// Flush sends requests and questions, so that one wake-up makes one batch. Then it carries the effects out and calls
// Effects.Reset:
//
//   - Numbered says which sequence a ticket got. It is to be known to whoever looks for own requests in the
//     committed log before the messages in Send leave.
//   - Send goes out in order. Messages for a connection that is gone are thrown away. Their memory is never
//     changed again.
//   - Drop closes a connection; its Disconnected may be reported or not.
//   - Done, Reads and Counts are answers to callers. There is none for a request that is executed: the shell learns
//     that first and tells Step (Executed).
//
// Tickets are numbers of the shell's choice, which grow from one Submit to the next, and from one Read to the next.
// ConnIDs are never 0 and never used twice.
package session

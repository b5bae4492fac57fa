// Package resp reads and writes the Redis serialization protocol (RESP2 and RESP3) in memory: a bounded,
// incremental parser of requests, encoders that append replies, and a reader of replies for tools and tests.
//
// It may not know what a command means, and it does no I/O: bytes in, bytes out. It is pure in the sense of
// STYLE.md, so that the state machine may write replies with it.
//
// # Requests
//
//	*<count>\r\n                 multibulk: count arguments follow
//	$<length>\r\n<bytes>\r\n     one argument; the two bytes behind it are skipped unread, as in Redis
//	<word> <word> ...\n          inline: anything that does not begin with '*'; quotes as in Redis
//
// # Invariants
//
//   - A Parser takes no memory for what has only been announced: its own memory grows with bytes received.
//   - Arguments of a multibulk request share memory with the buffer given to Next; those of an inline request
//     share memory with the Parser. Both are valid until the next call.
//   - Splitting the input anywhere between two calls does not change the requests (a fuzz target shows it).
//   - An error is final: the stream has lost its frame, the connection must be closed.
package resp

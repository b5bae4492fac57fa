// Package smr is the vocabulary of Lockstep: the words that every other package uses, and the record
// format of the replication stream. It imports the standard library only and knows nothing of sockets,
// files, clocks or Redis.
//
// # Words
//
// A byte of the stream has an LSN. A mastership has an Epoch. A byte is durable on a replica, committed
// in the group, safe for the local KV node, then applied. A checkpoint lets the log be trimmed from the
// front; a rewind cuts it at the back. Copies counts the master. On one replica there always holds
//
//	Start <= Checkpoint <= Applied <= Safe <= Commit   and   Safe <= Durable <= End
//
// (Commit may be ahead of Durable on a slave that lags).
//
// # Frames
//
// The stream is a sequence of frames. The frame is the unit of append, checksum, shipping and
// acknowledgement. All integers are little endian.
//
//	offset size
//	     0    4  CRC32C (Castagnoli) of the bytes [4, length)
//	     4    4  length of the frame in bytes, header included, HeaderSize..MaxFrame
//	     8    8  LSN of the frame's first byte, so that stale bytes of a recycled file never pass
//	    16    8  epoch of the master that wrote it
//	    24    8  that master's commit LSN at that time, at most the frame's own LSN
//	    32    8  timestamp, milliseconds since 1970 UTC, never smaller than in the frame before
//	    40    1  kind (KindRequests, KindEpochStart, KindCommit, KindTick)
//	    41    3  zero
//	    44    4  count of requests in the body (0 unless KindRequests)
//	    48       body
//
// # Requests
//
// The body of a KindRequests frame is count requests, one after the other:
//
//	offset size
//	     0    4  length of the payload in bytes, 0..MaxPayload
//	     4    2  hash slot of the key (0..16383), or NoSlot
//	     6    1  flags, defined by the state machine
//	     7    1  zero
//	     8    8  session: the random id of the KV node's process life that submitted it
//	    16    8  sequence of the request in its session, from 1, without gaps
//	    24       payload
//
// # Epoch starts
//
// The body of a KindEpochStart frame is a Config as AppendConfig writes it:
//
//	offset size
//	     0    8  epoch
//	     8    8  reign: the election epoch that this epoch belongs to
//	    16    2  copies
//	    18    2  number of members
//	    20       master's name: 1 byte length, bytes
//	             each member, sorted by name: 1 byte length, name, 8 bytes incarnation
package smr

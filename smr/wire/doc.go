// Package wire turns the messages of smr/message.go into bytes and back: slave, client and local connections.
// It is pure, it bounds every length before it takes memory, and its decoder is canonical: what it accepts,
// AppendMessage writes again byte for byte.
//
// It knows nothing of sockets, deadlines or epochs; Reader wraps any io.Reader.
//
// # Messages
//
// A connection carries one message after the other. All integers are little endian.
//
//	offset size
//	     0    4  length of the rest, that is, of all bytes behind offset 8
//	     4    4  CRC32C (Castagnoli) of the rest
//	     8    1  type
//	     9    1  flags: of a hello or welcome the highest feature level of who speaks less one, of Status the cluster's level less
//	             one; of all others zero
//	    10       body
//
// In bodies, "string" is 2 bytes length and the bytes, "bool" is one byte 0 or 1, "handshake" is what each hello
// and each welcome begins with, so that the first message in either direction tells who is speaking:
//
//	0    4  "LSTP"
//	4    2  wire version (Version)
//	6       cluster string, group string, node string
//
// Bodies by type:
//
//	 1 Reject         1 code, 8 epoch, reason string
//	 2 SlaveHello     handshake, 8 epoch, 8 incarnation
//	 3 MasterHello    handshake, 8 epoch, 8 start, 8 end, 2 length of the configuration and that
//	                  (smr.AppendConfig; length 0: none), 4 count of spans, each span: 8 epoch, 8 from
//	 4 SlaveStart     8 epoch, 8 from
//	 5 Append         8 epoch, 8 commit, 8 from, frames to the end of the message
//	 6 Heartbeat      8 epoch, 8 commit, 8 round, writable bool, 8 lease in ticks of 10 ms, lease over bool
//	 7 Ack            8 epoch, 8 durable, 8 round, 8 leased round
//	16 ClientHello    handshake, 8 session
//	17 ClientWelcome  handshake, 8 epoch
//	18 Propose        4 count, requests (smr.AppendRequest) to the end of the message
//	19 ReadIndex      8 id
//	20 ReadReady      8 id, 8 LSN
//	21 CountCopies    8 id, 8 LSN
//	22 CopiesCounted  8 id, 4 copies
//	32 LocalHello     handshake, 8 session, 4 pid, KV address string, administration address string,
//	                  8 applied, 8 checkpoint
//	33 LocalWelcome   handshake, 8 incarnation, log directory string, page string
//	34 Status         1 role, 8 epoch, master string, master address string, 8 start, 8 safe, 8 commit,
//	                  writable bool, 8 LSN that an image is needed at or above
//	35 Progress       8 applied, 8 checkpoint
//	36 ImageSources   2 count, each: node string, administration address string
//	37 LocalBase      log.Base to the end of the message
//	38 Transfer       8 bytes done, 8 in total, 8 a second, address string
//
// Reject as it was in version 1, and the first 14 bytes of every hello, stay as they are in all versions: that is what two
// peers of different versions need in order to refuse each other with a reason. So do the flags, which tell levels: processes of the
// first level write what was written before there were any.
//
// # Ownership
//
// Append.Frames and Propose.Requests share memory with the bytes that were decoded; every other message is a copy.
// Reader gives each Append and each Propose fresh memory, which belongs to the receiver.
package wire

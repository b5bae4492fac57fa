// Package log is the LSN-addressed log of one replica: the bytes of a group's replication stream in files of fixed
// length, and the replica's hard state. It appends, syncs, recovers, rewinds (cuts at the back), trims (cuts at the
// front) and lets readers, in this process or another, read beside the writer.
//
// It knows frames only as far as their headers go, and nothing of epochs' meaning, of roles, peers, sockets or clocks.
// It makes no promise on its own: what End, Durable and Damage mean for the replica is for the caller to say.
//
// # Use
//
// One goroutine owns a Log. It appends batches of whole frames, syncs after one or many of them (group commit: while one
// Sync runs, others gather the next batch), and tells nobody that a byte is durable before Sync has returned. After any
// error of Append (but smr.ErrBadFrame and ErrFull), Sync, SyncNow or Settle, and after Err is not nil, the process
// says so and ends: what the disk holds is unknown, and only Open finds out. When the log has been idle for a moment
// the owner calls Settle. In the relaxed sync modes it calls SyncNow by its own timer; Synced then tells the exposure.
//
// When Open reports Damage the owner takes a new incarnation, durably, before it appends; Open repeats the report
// until then. A known hard state with LogBegun and an empty log without Damage means that the files were taken away:
// that is a new incarnation too.
//
// # Invariants
//
//   - Start <= End, Durable <= End. What Open returns as End is durable. An empty log may stand at any LSN (BeginAt).
//   - Files follow each other without a hole: base of the next = base + data size of the one before.
//   - All files but the last are full, sealed, durable, and marked as continued.
//   - In the last file every byte of the data part at or above End is zero, durably, whenever Append begins.
//   - Of a file's two slots the newer one is durable before the older one is overwritten.
//   - The order of names (spare file, log file, no file) changes one directory sync at a time, so that a hole in the
//     chain of files is never the work of a crash.
//
// # Files
//
//	00000000000000000000   a log file; the name is its base, the LSN of its first byte, as 20 digits
//	spare-N                a file prepared for later: allocated, zeros written over all of it past the page cache, synced. Removed at Open and Close
//	begin                  a log file that is to take the place of all others; a log that begins at a Base begins so
//	reserve                64 KiB that are freed when a full device would keep a damage report from being written
//	lock                   locked (flock) by the process that owns the log
//	damage                 the damage report that waits for the first append of the new incarnation
//	quarantine-N/          damaged files, and report.txt: target, file, LSN and reason, a line each
//
// A log file is a data part, of a size that is a power of two, and a metadata part. The stream's bytes fill the data
// parts exactly; a frame may lie across two files or many. Integers are little endian, checksums are CRC32C
// (Castagnoli), the digest is xxhash64. Offsets behind the data part, for a data part of D bytes:
//
//	offset      size
//	D           4096   slot 0 (even sequences)
//	D+4096      4096   slot 1 (odd sequences)
//	D+8192      S      seal; S = 96 + 4 * pages, rounded up to 4096
//	D+8192+S    H      History at the base; H >= 16 * spans, a multiple of 4096: room for the spans when the file was prepared,
//	                   and 64 more
//	D+8192+S+H  4096   header: the last block of the file, whatever the sizes are
//
// Header and History, written before the file gets its name, and never again:
//
//	offset size
//	     0    8  "lockstep"
//	     8    4  format version: 1
//	    12    4  checksum of the header block without these 4 bytes. All versions to come keep these three fields
//	    16    8  base
//	    24    8  size of the data part, D
//	    32    4  size of a page, the unit of checksums: 16 KiB, or D if that is less
//	    36    4  number of spans in the History
//	    40    4  checksum of the H bytes of History
//	    44    4  checksum of the head: the bytes [base, min(first frame, base + D))
//	    48    8  start of the frame that covers the base, or the base
//	    56    8  first frame: the first LSN from the base on where a frame begins, or the base
//	    64    8  timestamp of the last frame that begins below the base
//	    72    8  highest commit LSN of the frames that begin below the base
//	    80    8  xxhash64 of cluster, a zero byte, group
//	    88   76  running digest of all bytes of the stream below the base: an xxhash.Digest as it marshals itself
//	   164    4  zero
//	   168       cluster and group: 1 byte length, bytes; then zeros
//
//	A span is 8 bytes epoch, 8 bytes first LSN; zeros fill the last block.
//
// A slot is one state of the durable mark. It fills a block of its own, so that no torn write takes both:
//
//	offset size
//	     0    4  checksum of the bytes [4, 64)
//	     4    4  kind: "mark" durable mark, "lean" clean end, "cont" continued in a further file, "rwin" rewind intent
//	     8    8  sequence; the higher valid one holds
//	    16    8  base of the file
//	    24    8  LSN: a frame boundary below which all is durable; of an intent, where the log has to end
//	    32    8  End when it was written
//	    40       zeros
//
// The seal, written when the file is full:
//
//	offset size
//	     0    4  checksum of the bytes [4, 96 + 4 * pages)
//	     4    4  number of pages
//	     8    8  base of the file
//	    16   76  running digest at the end of the file
//	    92    4  zero
//	    96       checksum of each page, 4 bytes; then zeros
//
// # Order of writes
//
//	append    data, and zeros over those of the last block (pwritev, no metadata of the file system changes, nothing is read)
//	sync      fdatasync; then the slot "mark", which the next fdatasync takes along
//	next file seal of the full one, fdatasync | header, History and slot of a spare file, fdatasync | rename, sync directory |
//	          slot "cont" of the full one, fdatasync
//	rewind    slot "rwin" in the file that holds the point, fdatasync | files above removed, from the back, sync directory |
//	          seal and bytes behind the point zeroed, fdatasync | slot "mark", fdatasync | the other slot, fdatasync
//	trim      one file removed, from the front, sync directory | the next
//	begin     header, History and slot of a spare file, fdatasync | named "begin", sync directory | all log files removed, from
//	          the front, sync directory | "begin" gets its 20 digits, sync directory
//	close     sync, mark | slot "lean", fdatasync | the other slot, fdatasync
//	damage    report durable under the name "damage" | files renamed into the quarantine, sync both directories |
//	          at the first append: report removed, sync directory
//
// # Recovery
//
// A file named "begin" that checks says that all others were to go: Open finishes that first. One that does not check is
// damage, as some of the others may be gone.
//
// Open reads the metadata of all files, finishes a rewind whose intent it finds, checks the chain, the seals and
// (Options.VerifyBytes) the pages of the full files, and scans the frames of the last one. Before it trusts the last file it
// syncs it and drops it from the page cache: bytes that a failed sync left in memory are not on the disk. B is the LSN
// of the last file's newest slot, x the first LSN from which the bytes are no valid frame.
//
//	  what is found                                              verdict
//	1 header, seal of a full file, page of a full file or both   damage
//	  slots do not check; a hole between files; a file that was
//	  continued and has no next; contradicting headers
//	2 one slot does not check, the other does                    repaired: any slot was true when it was written
//	3 newest slot of a file is a rewind intent                   the rewind is finished, files above do not count
//	4 x < B                                                      damage: those bytes were durable
//	5 x >= B, nothing but zeros from x on                        the log ends at x
//	6 x >= B, the frame at x is not whole because the next       cut at x: rotation had not got so far
//	  file is missing
//	7 x >= B, the frame at x has a line of 64 bytes that is      cut at x: a write that was never synced has lost this line.
//	  all zero as far as it belongs to the frame                 What follows is cut too, valid frames included
//	8 x >= B, the frame at x has no such line                    damage: the file was zero before it was written, so what a
//	                                                             crash loses is zero; these bytes were changed otherwise
//	9 the frame at x checks but does not continue the stream     damage
//
// A cut is a rewind to x, with its intent; so a crash in the midst of recovery is one more case of row 3.
//
// Rows 7 and 8 need no mark and hence also judge what was synced last before a power cut, whose mark may not have
// reached the disk. What stays undecided is a frame at or above B that is damaged and holds 64 zero bytes of its own:
// row 7 cuts it. B trails the last sync by at most one Sync (after Settle and Close by nothing), so that takes a power cut
// and damage to the bytes synced last at the same time, and the bytes are on Copies-1 other replicas if they were acknowledged.
//
// The commit LSN in a later frame is no evidence. It says what is durable on Copies members, not here: a slave that
// catches up holds committed bytes that it has not synced, and a power cut may tear these and keep the frame that carries
// the commit. Calling this damage would cost the replica its vote for bytes that it never acknowledged; cutting it is
// safe, since nothing at or above Durable was acknowledged.
//
// Lines of 64 bytes instead of sectors of 512: a page may be written back while a pwrite copies into it, and the device
// then holds the front part of a sector. A copy moves whole lines.
//
// # Base
//
// A log may begin above 0: at the LSN of an image of the state, see Base and BeginAt. Start then is that LSN. As bytes, little
// endian:
//
//	offset size
//	     0    8  "lstpbase"
//	     8    4  format version: 1
//	    12    4  checksum of all bytes but these 4
//	    16    8  LSN
//	    24    8  timestamp of the last frame below it
//	    32    8  highest commit LSN of the frames below it
//	    40    4  number of spans in the History
//	    44   76  running digest of all bytes of the stream below it, as in the header of a file
//	   120       cluster and group: 1 byte length, bytes; then the spans, 16 bytes each
//
// # What the mark costs
//
// The mark is written after every sync: one pwrite of 64 bytes into a page that the next fdatasync then writes as well.
// 60,000 appends of 512 bytes with a sync each, modes taking turns every 50 (ext4 on a virtual disk, two shared cores):
//
//	never            p50 102 us, p90 151 us
//	every 64 KiB     p50 101 us, p90 149 us
//	after each sync  p50 110 us, p90 162 us
//
// Those 8 us buy that B trails by one sync at most, whatever its size, with nobody's help; the constant markEvery sets it.
// Settle makes the last mark durable when the log is idle.
//
// # Hard state
//
// The file "state" has two blocks of 4096 bytes. Save writes both with the next two sequences, each followed by a sync,
// the older block first; only then does it return. So any block that checks holds the last state that was acknowledged
// or a later one: a torn write or a flipped bit takes one copy and never brings an older promise back. If neither checks,
// OpenState reports ErrCorrupt. A sequence lies in block sequence mod 2.
//
//	offset size
//	     0    8  "lstpstat"
//	     8    4  format version: 1
//	    12    4  checksum of the block without these 4 bytes
//	    16    8  sequence
//	    24    8  promise
//	    32    8  incarnation
//	    40    8  lease hold, ticks
//	    48    8  flags: 1 clean, 2 log begun
//	    56    8  how far the log may have been trimmed
//	    64    8  zero, for later
//	    72       cluster, group, node, boot id: 1 byte length, bytes; then zeros
package log

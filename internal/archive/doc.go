// Package archive keeps what a group's log no longer holds: ranges of the committed stream, and images. It knows names,
// bytes and checksums; what reads a range (internal/backup) knows what is in it.
//
// It may not know who is master, what a state machine is, or where the cluster runs. Several replicas may write the
// same archive at the same time.
//
// # Store
//
// A Store keeps objects under names with slashes. An object appears whole or not at all; only manifests are ever replaced. Dir is a
// Store on a file system, which may be one that machines share.
//
// # Names
//
//	CLUSTER/GROUP/log/FROM-END-SUM.log           the bytes [FROM, END) of the stream, whole frames, as they were written
//	CLUSTER/GROUP/log/FROM-END-SUM.log.zst       the same, compressed
//	CLUSTER/GROUP/log/FROM-END.json              what the range is: without it the range is not there
//	CLUSTER/GROUP/images/LSN-TIME-TOKEN/FILE     a file of an image (internal/checkpoint)
//	CLUSTER/GROUP/images/LSN.json                what the image is, and in which folder; written last
//
// FROM, END and LSN have 20 digits, so that names sort as LSNs do; SUM is the CRC32C of the object, in 8 hexadecimal digits. TIME is when the folder was begun
// (20060102T150405Z) and TOKEN 16 hexadecimal digits drawn at random. CLUSTER and GROUP are escaped as in URLs.
//
// Nobody ever writes into an object or a folder that a manifest names: the bytes of two writers are not the same for one image, nor for one range that
// two versions pack. The manifest of the later one takes the place of the other's, as a whole. Versions before that wrote
// FROM-END.log and images/LSN/FILE (format 1 of ranges, 1 and 2 of images); they are read and removed as all others.
//
// What a crash leaves of an object that was being written nobody sees: a file with a name that List does not show, parts that were never made an
// object. Sweep removes it.
//
// # Manifest
//
// There is no one manifest, which several writers would have to agree about, but one for each range: format, cluster, group, from,
// end, stamps and number of its frames, coding, size and CRC32C of the object as stored, node, and a checksum of all
// this. Ranges of different replicas may overlap; their bytes are the same, because they are committed. Chain picks
// ranges that follow each other without a gap, or says where the gap is.
//
// # Invariants
//
//   - What is in the archive is committed: nobody appends a range above the Commit that it knows.
//   - A manifest is written after its object is durable.
//   - All ranges are of one history: who leads appends nothing behind what its log does not have.
package archive

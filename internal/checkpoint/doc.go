// Package checkpoint keeps images of a state machine: directories from which a KV node can begin, followed by the log
// from the image's LSN on. They are written beside the machine while it goes on executing, and only what changed since
// the last one is written again.
//
// It may know of pebble, files and internal/kv; not of sockets, of the replicator, or of how images travel.
//
// # Where images are
//
//	<data>/images/00000000000000012345/   an image: files of pebble, immutable, and image.json
//	<data>/images/00000000000000012345.new/  one that is being made, or is left over from a crash: no image
//	<data>/live/                          the store that the next image is written to; made anew at every start
//	<data>/live-apart1/ ...               that of a process of its own, for one image
//
//	<data>/cold1/ ...                     an image that is kept open for values that are not in memory; removed at every start
//
// The name of an image is its LSN, 20 digits. Its files are hard links: an image shares with the one before what has not
// changed since. A directory is an image when its name has 20 digits and its image.json is valid. It gets that name, by
// renaming, after every file in it was synced and verified, so that a crash never leaves half an image under that name.
//
// # image.json
//
// One JSON object:
//
//	format   1; a higher number was written by a newer version and is refused
//	cluster  id of the cluster; an image of another one is refused
//	group    name of the group, likewise
//	lsn      everything below is in the image, nothing from there on
//	stamp    log time at lsn, in milliseconds since 1970 UTC
//	created  when the image was begun, by the node's clock, RFC 3339
//	base     what a log needs to begin at lsn, opaque (log.Base), base64; absent if it is not known
//	digest   of the state at lsn: 32 hexadecimal digits, see below
//	keys     how many keys there are in all databases
//	rows     how many rows of pebble there are
//	bytes    size of all files
//	written  size of those files that the image before did not have; equal to bytes for a full image
//	overlay  bytes that images wrote since all rows were last written one behind the other
//	files    name, size, crc32c (Castagnoli, of the whole file) of each file but image.json, sorted by name
//	check    crc32c of this object as encoding/json writes it, with check 0
//
// # Beside others
//
// Rows are taken from the machine in slices of 32 KB, each in one hold of its lock. An image is written and verified, and the store put
// in order, with half of a processor at most: after 0.5 ms of work there is as long a rest, unless Options say that nobody works beside, or that
// somebody can do nothing until the image is there (Waiting). Where Options say how to begin one, a process of its own does it (apart.go), which is nicer
// than all others, has its own garbage collector, and takes no more than a quarter of what nobody uses of the processors (Courtesy): a twentieth of one where
// they are all in use, so that an image takes ten times as long, and more from half a minute on, so that it ends. What an image costs is what changed, and one look at all rows when it is verified.
//
// # Digest
//
// The rows of an image are what internal/kv makes of the state (kv.ImageRows, kv.LoadImage). The digest is the sum, modulo 2^64 each, of
// two hashes of every row: xxHash64 of (uvarint length of key, key, value), and xxHash64 of the same with the seed 1. It does
// not depend on the order of rows, so that it is kept up to date with each row that is written, and it is computed again
// from the files before an image is announced, and whenever one is loaded.
package checkpoint

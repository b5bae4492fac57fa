// Package backup keeps images in an archive (internal/archive) and makes a new cluster of an image and the log behind it.
//
// It may know of images, logs and the state machine; not of a running cluster: who wants a backup brings the image.
//
// # A backup
//
// is an image in the archive: its files in a folder that nobody else writes into, CLUSTER/GROUP/images/LSN-TIME-TOKEN/, and
// CLUSTER/GROUP/images/LSN.json, written last:
//
//	format, cluster, group, lsn, stamp, created, label, bytes, node, folder
//	image   the image's own image.json, base64: it has size and checksum of every file
//	check   CRC32C of this object as encoding/json writes it, with check 0
//
// # What is kept
//
// Keep says how much; Plan says what that removes, and Remove does it: first the manifest of each image that goes, then its files, then ranges of
// the log that end at or below the oldest image that stays, then what no manifest names and is old enough to be what a crash left behind. Whenever it is
// cut short, each image that is listed is whole and has its log. Several may do it at once.
//
// # Restoring
//
// The newest backup at or below the target is loaded, the archived log executed on top of it, up to the last frame that ends at or below the
// target LSN, or was written at or before the target time. Of the state there a new image is made, and the directories of
// all nodes of a new cluster:
//
//	INTO/NODE         a replicator's: hard state of a new incarnation that has promised nothing, and an empty log that
//	                  begins at the target LSN
//	INTO/NODE-images  a KV node's: the image
//
// Cluster id and History are new: the log says that everything below the target LSN is of epoch 1, the epoch that a
// configuration master founds groups with. So no process of the old cluster will speak with one of the new, and a
// group is founded of these nodes as of empty ones: all of them begin at the same LSN, whoever is elected.
//
// All of it is made beside INTO and gets its name at the end: a restore that fails leaves nothing.
package backup

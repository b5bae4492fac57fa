// Package transfer brings an image of the keyspace (internal/checkpoint) from one KV node to another, through the gRPC
// service of the node that has it. Source is the sending side, Fetch the receiving one.
//
// It may not know what is in an image, nor who decides that one is needed.
//
// # Sending
//
// Hold lends an image: its files are linked into a directory of the lease (LENT/LEASE), so that the node may replace and
// remove its images as it likes meanwhile; the bytes stay until the lease ends. It ends when it is released, or when its
// time passes without a Fetch. At most Senders leases are out at once, one to a borrower: another one is answered "busy", and is to
// try elsewhere. All senders together stay below BytesPerSecond. The leases of a former life are removed at the start.
//
// # Receiving
//
//	images/                  complete images, by LSN
//	incoming/                the one that is on its way; it is no image for anybody
//	incoming/NAME.part       a file that is not complete; what is there is continued
//	incoming/NAME            a file that is complete and had its checksum
//	incoming/image.json      written last of all
//
// Fetch takes the sources in their order. Whatever breaks, it goes on with the next, after the last with the first, and keeps what
// it has: a file with the name, size and checksum that the (perhaps newer) image wants is not fetched again, also not after a
// restart. Only when all files are there, durable, and the image verified by internal/checkpoint, the directory gets its
// name among the images, in one rename. An image of another cluster or group is never begun. When the disk is full, what was fetched is removed.
//
// # Invariants
//
//   - A directory in images/ is a complete, verified image.
//   - There is at most one incoming directory, and at most one Fetch at a time for it.
//   - A chunk is written only if its checksum holds and it continues the file.
package transfer

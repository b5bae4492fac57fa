// Package simfs is a file system in memory that behaves like a disk behind a page cache: until a file is synced its
// writes may be lost, kept or torn by a crash, and until a directory is synced its names may be. It fails, fills up,
// flips bits and crashes on order, and does the same thing again for the same seed. It implements log.FS for the tests
// of package log and for the simulator.
//
// # Model
//
// A file is the bytes on the disk, and an ordered list of writes that were not synced. Readers see the disk with all of
// them applied. Sync moves them to the disk. A crash takes each sector of 512 bytes by itself and applies the first n of
// the writes that touch it, n drawn from the seed: so a sector is never torn inside a write, and may be lost, kept or
// caught half-way, while its neighbour fares otherwise. A length that was not synced is the old or the new one, and
// never shorter than what a kept write needs.
//
// A sync that fails leaves the bytes in memory but off the disk, and later syncs do not know of them any more; only
// DropCache or a crash shows what is on the disk. Real kernels do just that.
//
// Changes of names (create, rename, remove, make directory) are durable once their directory is synced; a crash keeps
// any subset of the others, but a rename as a whole or not at all.
//
// # Calls
//
// Every call of log.FS and log.File but Close is counted. Hook sees each one before it happens, with its number and
// label, and may fail it, which leaves it undone (or half done, for a write), or crash the file system before or after it.
// After a crash all calls on this FS return ErrCrashed; Crashed returns the FS that the next process finds.
package simfs

// Package keyhash hashes keys for tables in memory. It stands outside of the pure packages because its seed is drawn when
// the process starts, so that nobody can send keys that all fall into one place. A hash is hence another one in every process:
// it may decide how fast something is found, never what is found or in which order, and never leave the process.
package keyhash

import "hash/maphash"

var seed = maphash.MakeSeed()

// Bytes returns the hash of b. All of its bits are as good as drawn.
func Bytes(b []byte) uint64 { return maphash.Bytes(seed, b) }

// String returns the hash of s, which is that of the same bytes.
func String(s string) uint64 { return maphash.String(seed, s) }

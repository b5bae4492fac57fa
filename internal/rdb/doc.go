// Package rdb writes and reads whole files in the format of Redis' snapshots (RDB), and writes a keyspace as JSON and as
// commands. Values are what DUMP and RESTORE carry: internal/kv encodes and decodes them.
//
// It may not know where a keyspace comes from, nor whom commands are sent to.
//
// # Format
//
// What is written is version 10, of Redis 7.0: that and everything newer loads it. What is read is version 1 to 12.
//
//	"REDIS" and the version, 4 digits
//	250 AUX          name, text: who wrote the file
//	245 FUNCTION2    the code of a library
//	254 SELECTDB     number of a database; what follows belongs to it
//	251 RESIZEDB     number of keys, number of keys that expire
//	252 EXPIRE       Unix time in milliseconds, 8 bytes little endian: of the key that follows (253: seconds, 4 bytes)
//	0..              type of a value; key, value
//	255 EOF          checksum of everything before, 8 bytes little endian (CRC64 of Jones; 0 is none)
//
// # Reading what comes from outside
//
// The reader keeps one value at a time, of at most its limit; a larger one is read over and reported with the item. Lengths
// are believed only as far as bytes come. What the group cannot hold (modules, fields that expire) is an item that says so, if its end can be
// found; else the file is refused from there on. Values are not looked into: RESTORE does that, on every node alike.
package rdb

// Package kv is the deterministic state machine behind the Redis protocol: a keyspace of native data structures, the
// commands on it, and the exactly-once check of rule S13. The committed log is its only input; the same log gives
// the same state and the same replies on every node.
//
// It may not know of sockets, files, clocks or goroutines. Time is the stamp of a frame. Randomness comes from the
// LSN of a frame and the index of the request in it. Connections, transactions being queued, INFO and the like
// belong to the shell (internal/kvnode).
//
// # Calling it
//
// One goroutine calls Apply for each request of a frame, then Advance once for the frame (also for frames without
// requests). Several goroutines may call Read, Version, Now and the other questions at the same time while no Apply or
// Advance runs; the shell's lock sees to that. Nothing handed in is kept: whatever enters the state is copied.
//
// # Invariants
//
//   - Now never decreases. A key is visible while Now < its expiry; it is taken out by the first write that meets it
//     or by Advance, at the same LSN everywhere.
//   - Iteration never follows a Go map: a table keeps its nodes in the order of their insertion, numbered from 1. Every
//     reply that lists something uses that order (or a sorted one), and cursors of SCAN are those numbers, so that
//     they are valid on every node.
//   - Entries, keys and strings lie in memory that the garbage collector does not look into (storage.go). An entry, its key and its value are what
//     they were until the request ends that met them, and of no use behind it.
//   - A key's version is a number that grows with the log and is different for any two requests; WATCH compares it.
//   - A command checks all of its arguments before it changes anything.
//
// # How a command is written
//
// A command is a row of a []Command and a function of a call. The row goes into a group of its own file, the group into
// assemble (command.go).
//
//   - c.find, c.text, objectOf give the entry of a key in the call's database, c.create makes one that find did not find. Every
//     change ends with c.touch(e) (behind the change: it measures the value), c.settle, c.setText, c.setObject, c.drop or
//     c.expireAt; whatever makes an entry and fills it ends with one of them.
//   - c.notify(class, event, key) tells of a change, at the points where Redis does (keyspace notifications).
//   - c.block(blocking{...}) makes a command wait that found nothing: it returns true and the command returns without a
//     reply; it is executed again, from the beginning, when a key is ready. It returns false where nothing may wait, and the
//     command replies what it replies in a transaction. A key that is created, or given another object, is ready by
//     itself; a change that a waiting command wants to see without that (XADD to a stream that is there) calls c.ready(key).
//   - c.nested() says that the command stands in a transaction or a script. Whoever executes several commands in one request
//     copies its call, sets selected (SELECT leaves its number there), args, seed (another one for each) and reply, and calls run.
//   - What a command needs beside its arguments must be in the state (settings: settingRules; or a field of Machine), and all
//     of the state in Digest.
//
// # Waiting commands
//
// A waiter (waiters.go) is state: its session and sequence, its envelope, keys and arguments. After each request the keys
// that became ready are taken in order, and those who wait for each in the order in which they came, as Redis does: each is
// executed again, and waits on in its place if it still finds nothing. A waiter ends by being served, by a record of its own
// session (WaiterRecord: time-out, CLIENT UNBLOCK, client gone), by a sign of another session of the same node (SignRecord),
// or when its session shows no sign for leaseLimit of lease time. All nodes agree on which of these came first. The reply
// is written where Host.Served says: only at the node that owns the client.
//
// # Settings
//
// Settings that decide what commands do (maxmemory, notify-keyspace-events, thresholds of encodings ...) are state and are
// changed by SettingRecord. Every owner keeps its settingRules in its own file and adds the group to settingRules.
//
// # Payload of a request
//
//	offset size
//	     0    1  bits 0-6 format: 1 command, 2 transaction, 3 record; every other number is refused; bit 7: an envelope follows
//	             envelope: 1 byte, bits 0-3 the selected database, bit 4 no-touch, bit 5 a user follows, the others 0;
//	             if bit 5: uvarint length of the user's name, name. Without an envelope: database 0, the default user
//	             format 1, 3: one command
//	             format 2: uvarint count of watches, the watches, uvarint count of commands, the commands
//
//	command: uvarint count of arguments (at least 1), each: uvarint length, bytes
//	watch:   uvarint database, uvarint length of the key, key, 8 bytes version, little endian
package kv

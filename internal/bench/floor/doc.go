// Package floor is the bare skeleton of a write's way through a group of three nodes. It stores bytes and moves them, and does nothing else: what
// it reaches is what Lockstep's arrangement of processes could reach at most on a machine. `smrctl bench floor` puts it under the same
// loads as Lockstep and redis-server, and docs/performance.md holds Lockstep's rows against it.
//
// # Processes
//
//	clients --TCP--> front n1 --unix socket--> logger n1 --TCP--> logger n2, logger n3
//	                                               |                  :          :          only if full:
//	                                             file               file       file     front n2, front n3
//
// A front takes clients. It answers a GET at once, and puts SETs into a frame, which goes to the logger beside it. While as many frames as
// Config.Flights are under way, SETs gather for the next. The logger of n1 sends a frame to the other two, writes it into its file and
// makes it durable; they write it, make it durable and acknowledge it. When two of the three loggers have it, the front is told, and answers.
//
// The full skeleton has as many processes as three nodes of Lockstep without configuration masters: each node's front executes committed
// frames into a map. Loggers of n2 and n3 learn what is committed with the next frame, or 2 ms later if there is none. A skeleton that is not
// full has one front, executes nothing, and answers each GET with the same value.
//
// # What it leaves out
//
// Everything that makes a system of it: elections, epochs, leases, sessions, checksums, recovery, connections that are made again (a
// logger that is gone stays away), other commands than GET and SET. What it keeps is what is measured: in the sync mode always a
// SET is answered only when it is durable in two files.
//
// # Why it is as cheap as Go can be
//
// Each process is one goroutine that waits for all its sockets at once (epoll) and calls the system directly, without telling Go's scheduler:
// nobody is woken to take its processor while it waits, and nothing but the monitor thread runs beside it. Nothing is allocated for a
// request, and the collector is off. Files are full of zeros from the start, and each write begins on a page of its own, so that a sync neither moves the file's
// end nor writes a page twice. A timer may be a millisecond late (internal/slack), as in Lockstep.
//
// # Format
//
// A frame, on sockets and in files; integers are little endian:
//
//	 0  size    uint32  bytes of the whole frame, 24 to 8 MiB
//	 4  zero    uint32
//	 8  number  uint64  1, 2, 3, ...; of a frame without commands: that of the last one
//	16  commit  uint64  all frames up to this number are committed
//	24  commands as the clients sent them
//
// Acknowledgements, and what a front is told, are the number of a frame: uint64. A file is a ring of 64 MiB. Frames that come together are written
// together, at the next multiple of 4 KiB.
package floor

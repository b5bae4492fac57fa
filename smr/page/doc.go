// Package page is a page of memory that a replicator shares with the KV node beside it, so that a read under the master's lease
// (S11) costs no system call: the replicator writes until when its lease holds and what its Commit is, the KV node looks.
//
// # File
//
// Each life of a replicator makes a new file of Size bytes, mode 0600, in place of the last one (by rename: who has mapped the old
// one keeps it, and its lease runs out by the clock). All integers are 8 bytes in the byte order of the machine, because nobody
// else reads them:
//
//	 0  "LSTPPG01"
//	 8  number of changes; odd while one is going on
//	16  until: the lease holds before this time on CLOCK_MONOTONIC, in nanoseconds; 0: there is none
//	24  gap: CLOCK_REALTIME - CLOCK_MONOTONIC in nanoseconds, as of when until was computed
//	32  commit LSN of the master
//
// # Clocks
//
// The replicator counts its lease on CLOCK_BOOTTIME, which goes on while the machine is suspended. Go reads only the two clocks
// above without a system call, and CLOCK_MONOTONIC stands still meanwhile. But CLOCK_REALTIME is set forward by as much as was slept
// when the machine wakes up: so whoever finds another gap than the one in the page trusts nothing in it. What is
// shorter than Tolerance, and what the clock is slewed by, lies within the bound that is taken off the lease.
//
// # Order
//
// The replicator writes the page before anything that depends on it leaves the process: a Commit before anybody hears of it, the
// end of the lease before the fence is answered. A reader looks after its read has arrived. So what was acknowledged before a
// read arrived is below the Commit that it finds.
package page

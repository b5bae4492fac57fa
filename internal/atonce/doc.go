// Package atonce makes system calls that return at once, without telling Go's scheduler. It may not know who asks, and what for.
//
// An ordinary system call tells the scheduler that it may block. If the process had nothing to do before, that wakes the scheduler's monitor thread,
// which from then on looks every 20 microseconds whether the call is still going on, for as long as the process works and a little longer. For a
// server that is woken for each message, does some ten microseconds of work and sleeps again, the monitor is woken as often as itself: a third of all changes of threads of a cluster
// were its (docs/performance-notes.md).
//
// A call of this package holds one of the scheduler's processors for as long as it takes. So it is for calls that cannot wait: for sockets that do not block,
// for what is known to be in memory. Calls that wait, for a disk or for an event, have to be ordinary ones.
//
// It is one of two packages that may use unsafe: the kernel is given addresses.
package atonce

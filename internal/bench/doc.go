// Package bench measures a Lockstep cluster, side by side with redis-server where that is installed, and drills
// fail-overs. It stands behind `smrctl bench` and `make bench`.
//
// It measures from outside only: sockets, and the CPU time that /proc shows for the processes it started. It knows
// nothing of how they work.
//
// # What is compared
//
// Three Lockstep replicas with copies 2 and sync always, and three redis-servers (one master, two replicas) with
// appendfsync always whose pipelines of writes are each closed by WAIT 1 0: the nearest thing that Redis offers. (It is
// less: a redis-server's replica acknowledges before its own fsync.) Rounds alternate between the two, so that what else
// the machine does hits both; the figures are medians over the rounds. All connections go to the master.
//
// Absolute figures depend on the machine. Only the ratios of one run on one machine mean something.
package bench

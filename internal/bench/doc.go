// Package bench measures Lockstep and redis-server side by side, and any server of the Redis protocol by itself. It stands
// behind `smrctl bench`, `make bench`, `make bench-smoke` and `make drill`.
//
// It measures from outside only: sockets, and what /proc shows of the processes that it started. It knows nothing of how
// they work, except for the hello of a data connection, by which links are told apart (links.go).
//
// # Parts
//
//	Load        what is sent, how fast, by how many: Run is the load generator
//	Histogram   durations within 1 %
//	System      what can be started: Lockstep with a sync mode, redis-servers with WAIT, the bare skeleton of package floor
//	Env         where rows run; it owns the systems, in turn
//	Row         a figure with its goal: issue 6's table in speed.go, faults.go and bytes.go, issue 5's in lifecycle.go
//	Report      what came of it: table, JSON, CSV, plots, a page, and what moved against a baseline
//
// # Load generator
//
// Each thread waits for all its sockets at once (epoll). An idle connection is sent a pipeline of requests, made by copying a
// text and writing numbers into its places, and is idle again when all replies have come. A closed loop sends at once; an
// open loop (Load.Rate) has a time table for pipelines, and the latency of each runs from when it should have been sent, so
// that servers that stall are not spared the requests that could not be sent meanwhile (coordinated omission). How much too
// late the generator itself was is measured beside it. Its own processor time is part of each result: it shares the cores.
//
// # What is compared
//
// Systems of one row run at the same time and are put under load in turn, in rounds, so that what else the machine does hits
// both; who comes first changes from round to round. A figure is the ratio of the medians. Pipelines of writes to
// redis-servers end with WAIT 1 0: the nearest thing that Redis offers to a write on two machines. (It is less: a replica
// acknowledges before its own fsync.) Absolute figures depend on the machine. Only the ratios of one run mean something.
package bench

// Package local runs a whole cluster as operating-system processes on the loopback interface of one machine: `smrctl up`,
// `smrctl down` and `smrctl node` stand on it, and so do the end-to-end tests and the benchmark.
//
// It knows command lines, files, ports and process ids. It knows nothing of the data path, and of the control plane only
// what it takes to register the group and to see that it serves.
//
// # The directory
//
//	cluster.json       what the cluster is (type Plan); written once, when it is created
//	lock               flock, held by whoever starts or stops processes
//	n1/ n2/ ...        directories of the replicators
//	c1/ c2/ ...        directories of the configuration masters
//	logs/NAME.log      what the process NAME wrote on its standard error
//	pids/NAME.pid      "PID START BOOT": process id, its start time in clock ticks since boot, and the boot's id
//	bin/               binaries, if they had to be built
//
// Names of processes: c1 (configuration master), n1-replicator, n1-kvnode.
//
// # Invariants
//
//   - A process is signalled only if its id, start time and boot are those written down, so never a stranger that
//     was given the same id later.
//   - Nothing is started before everything that can be checked has been: directory, disk space, ports, binaries.
//   - If not all of what was asked comes to serve, all that was started is stopped again.
package local

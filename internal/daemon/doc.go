// Package daemon is what the three servers (kvnode, replicator, confmaster) have in common as programs: exit codes,
// signals, the flags that all of them take and how flags are read, refused and explained, the logger, and the version.
// A main package declares its own flags and says what to check and what to run; everything else is here.
//
// It may not know: what any of the servers does. Nothing below cmd imports it.
package daemon

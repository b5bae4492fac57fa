// Package drill breaks a running cluster on purpose, within what it must survive, while clients write and everything they see is
// checked: `smrctl drill`.
//
// It knows the configuration masters (package admin), the agents in replicators and configuration masters (package fault, by gRPC),
// clients that judge what they see (package chaos) and, of a cluster on this machine, how to start a process again (package local).
//
//	Run ── tidyUp     what a drill left that was killed: processes that do not run, keys
//	   ├── inspect    refuses what the group could not survive
//	   ├── reserve    every agent belongs to this drill now; another one is refused, whoever runs it
//	   ├── clients    chaos.Workload
//	   ├── guard      watches for what the drill has not broken itself, and aborts
//	   ├── kind.do    makes the fault, holds it, takes it back
//	   ├── mend       starts what does not run, waits until the group is whole
//	   └── judge      reads every key on every node, checks the history, compares digests
//
// # Invariants
//
//   - One host at a time, one group, for a time that the place of the fault bounds itself (package fault): whatever becomes of smrctl, the
//     fault ends. What only smrctl can undo (on one machine nobody else starts a killed process) stands in run.json before it is
//     done, and the next `smrctl drill` does it.
//   - Whoever has an agent end what a drill holds there (`smrctl drill abort`, the web page) aborts the drill.
//   - An abort takes the fault back at once and judges nothing as passed.
//   - A drill changes no configuration: it makes faults, and (switchover, rolling-restart) hands mastership over.
//
// # Files
//
//	DIR/lock           flock of the smrctl that runs a drill
//	DIR/ID/run.json    what was begun; stays
//	DIR/ID/progress.txt   what happens, a line each, until there is a report
//	DIR/ID/report.json
//	DIR/ID/report.html one file, with a timeline
//	DIR/ID/history.jsonl, key-*.html   only if the drill did not pass
package drill

// Package fault makes faults in the own process on order: for drills (internal/drill), where the operator has allowed them with
// --allow-drills. Replicators and configuration masters each have one Agent, which offers proto.Drills on the management port.
//
// It knows sockets, files, processes and a clock, and whose they are; nothing of replication.
//
// # Faults
//
//	reserve    nothing is done; the process belongs to the drill meanwhile
//	kill       SIGKILL to this process, to the KV node attached to it, or to both
//	pause      SIGSTOP, and SIGCONT at the end
//	links      what peers send does not arrive, what this process sends does not arrive, or both: on the connections of its ports and
//	           those that it dials. TCP connections stay; what was held back arrives late, as after a real partition
//	slow-disk  each sync takes longer
//	full-disk  the log finds no room for further frames
//	lose-log   log and hard state are set aside in the directory's quarantine, and this process is killed
//	clock      the wall clock is read as if it had been set back. Never forward: log time cannot go back, so keys would expire for good
//
// # Invariants
//
//   - Without --allow-drills nothing is wrapped, and each call is refused.
//   - A fault lasts for as long as the call that made it, and ends by itself after its limit at the latest: when the caller dies, the
//     fault goes with its connection. A paused process is woken by a helper of its own executable, which depends on nobody.
//   - Faults of one drill at a time.
//   - The connection over which a fault was ordered is exempt from it, so that it can be taken back.
//   - A process is signalled by a descriptor of it (pidfd), never by a number that may be another's by now.
//
// # Goroutines
//
// The agent has none of its own: a fault is held by the goroutine of its call.
package fault

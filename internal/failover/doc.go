// Package failover is the core of the configuration master: what raft replicates (State), and what its leader
// decides (Driver). Both are functions of their inputs: there is no clock, socket, file, goroutine, lock, log line,
// random number or map iteration in here. The shell (internal/confmaster) owns those.
//
// # Invariants
//
//   - Epochs are given out by State.Apply only, one above the last, and never twice (S1).
//
//   - Choose keeps members and copies of the last established configuration, and Apply itself counts the answers of
//     the candidates against it, by (name, incarnation), and compares their Positions (S4).
//
//   - Establish is applied only for the highest epoch given out (S6).
//
//   - BeginReconfigure is applied only in the reign of the last election, and never between BeginElection and
//     its Choose (S3). Its base is always Established, never a provisional configuration (S8).
//
//   - At most one Change of the replicas runs, and its step is in State. What an operator changes is refused if the group has
//     another Version than the operator saw.
//
//   - A replica is unregistered only when it is in no configuration that counts, and leads nothing.
//
//   - A forced recovery (recover.go) is the one way in which Established is replaced without Establish. Its configuration has one
//     copy, so that every kept replica must answer the election; outcasts never follow, count or are admitted.
//
//   - Every decision is applied in raft before a call that follows from it leaves, and every step is idempotent by
//     epoch. What the Driver merely observes is volatile: the next leader continues from State alone.
//
//   - The feature level never decreases, and is raised only when every confmaster and replicator and KV node of every registered
//     replica was heard of lately and can it (level.go). What encodes it is the same for all levels.
//
// # Manual for the shell
//
// Every confmaster holds one State and one Driver, both owned by one goroutine:
//
//	state := failover.NewState(cluster)               // or DecodeState(snapshot)
//	driver := failover.New(options, state)            // the Driver reads *state during Step, and keeps the pointer
//	result := state.Apply(command)                    // for every committed entry, in order, on every confmaster
//	driver.Step(&failover.Committed{Result: result}, &effects)
//
// After a snapshot was installed (*state = *decoded) Step(&Restored{}) is called. Commands travel through raft as
// Command.Encode and DecodeCommand; a committed entry that does not decode is a fatal error (version skew). A confmaster that cannot
// State.FeatureLevel ends: after Apply, before the next entry, and before a snapshot is decoded (StateLevel).
//
// Inputs on every confmaster, leader or not:
//
//   - Tick every 10 ms.
//   - Observed for every message of a Watch stream. The shell watches every replica of every group of State at its
//     ManageAddr (interval ProbeTicks), and dials again for ever.
//   - Unreachable when such a stream broke by the other side (reset, EOF) or a dial was refused. Not when the shell
//     itself cancelled it, and not for a dial that merely takes long: silence is counted by ticks.
//
// For status the shell asks Driver.Report(group) and Driver.Standing(group, node), on any confmaster.
//
// When Effects.Opine is set, and every OpineTicks, the shell sends Driver.Opinions() to the raft leader (nothing is
// sent to itself); the leader feeds what it receives to Step as Opinions.
//
// Inputs on the raft leader: Elected once it leads and has applied every entry up to the first of its own term; Opinions;
// Answer for each Call, exactly once, at the latest after Call.TimeoutTicks; Request of operators. Deposed as soon
// as it leads no longer.
//
// Effects: Proposals go to raft (they may be lost: the Driver proposes again); Calls go to replicators, each in
// its own goroutine, without waiting for each other; Replies answer Requests; Events are observations of this
// confmaster. Events of decisions are in Result.Events, the same on every confmaster.
package failover

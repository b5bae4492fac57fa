// Package level knows feature levels: numbers that say which features all processes of a cluster can, so that versions can be mixed
// while a cluster is upgraded, and taken back as long as nothing has changed that the older one does not understand.
//
// A program knows the highest level that it can (Highest). A cluster has one level, in the replicated state of its configuration
// masters; an operator raises it when every process can more, and nobody ever lowers it. What a process may do it asks its Gate,
// which starts at the first level, or at the one that was saved, and learns from the configuration masters.
//
// # Rules
//
//   - 0, or no number at all, is level 1: messages and states of before there were levels say nothing.
//   - Every new cluster begins at level 1, whatever its programs can: nobody has to know who founds it with what. Raising is one command.
//   - A feature of level L is used only by who has learned that the cluster's level is L or above; and whoever has learned it refuses
//     every peer that cannot L, and hangs up on those that are connected.
//   - A process that cannot the cluster's level ends with exit code 2 as soon as it learns of it, before it takes part.
//   - What tells of a level is understood by every level: the command RaiseLevel and the field Level of the configuration masters' state
//     (internal/failover), Target.level of management calls (proto), the flags of hellos and of Status (smr/wire), and the
//     file "level" of a replica (internal/replicator). These formats never change.
//
// It knows nothing of how a level travels, and imports nothing.
package level

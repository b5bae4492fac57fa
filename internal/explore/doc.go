// Package explore searches every state of small groups, breadth first, with the real cores: smr/replica for each replica and
// internal/failover's State.Apply for the decisions of the configuration master. An adversary drives both: it begins elections
// for no reason, chooses by any answers that Apply accepts, reconfigures, delivers orders and log bytes late, out of order, many
// times or never, crashes replicas and takes their disks away. There is no clock: nothing that waits for a tick is explored.
//
// # What is checked in every state
//
//   - Two different bytes are never committed at one LSN.
//   - What a replica takes for committed was committed, with the bytes that it holds; it never finds its promise broken.
//   - One epoch has one writer; the master of the present reign holds all committed bytes.
//   - An election begun now, with any sufficient set of answers, would keep all committed bytes.
//   - No invariant of a core breaks.
//
// # How it is fast
//
// A state of the world is a tuple of small numbers: the state of each replica with its disk, of the configuration master, of
// each connection, what was decided for each epoch, the committed log. Each component state is kept once. What a step of a
// component does is computed once, by the real core, and remembered: a search of a million states runs the core some ten
// thousand times. States that differ by the names of replicas only count once (the core asks for names only whether they are
// equal; their order decides nothing but the order of effects). Process lives, tickets and connections have no numbers of their
// own in a fingerprint: whether an order names the present life is noted beside the order, tickets count from the last one that is
// done, a connection is known by its slave and a slot that is used again. A fingerprint has 64 bits; two states that share one by
// chance would be taken for one (for 40 million states that happens once in 20 thousand searches).
//
// # What never vanishes
//
// Fence, lead, follow, reconfigure, established and learn orders can be delivered at any time, any number of times, once they were
// given out; so can a report. What a master sent on a connection stays deliverable to its slave until that hangs up, also after
// the master crashed, lost the bytes, was fenced or hung up. Within a connection bytes keep their order.
//
// # What may happen at once, and why that is enough
//
// Some steps only ever add to what must be kept. To take them as soon as possible gives the strongest obligation: if an
// election loses bytes that were committed late, it also loses them if they were committed early, because nothing else in the
// system asks whether they are (commit only feeds Safe, and the checks here). Hence by default
//
//   - acknowledgements, hello and start of a slave reach the master at once (Scope.SlowMaster: as letters that may come when
//     the connection is gone);
//   - a slave's disk is done at once (SlowSlaves, SlowDisk): a byte received, not synced and lost in a crash is as a byte never
//     received, a promise not saved as an order not delivered; and without crashes the master's disk too;
//   - established is told at once (SlowTold);
//   - the master's answer to a hello arrives at once (SlowHello: later, when both logs have moved on);
//   - follow connects at once, and is not delivered while its master does not lead (SlowFollow): a replica that has promised but not
//     attached behaves as one that was fenced, or that nothing was delivered to; and a fence that no election waits for any
//     more only stops its receiver, which the adversary can do by giving it nothing. Not for a replica that lost its disk: a blank
//     one can be revived by such an order (F1, F9).
//
// Each of them can be a step of its own, and the scopes of Full contain smaller ones in which they are.
//
// # What is left out
//
// Ticks, read rounds, leases, checkpoints and trimming, damage of disks, relaxed sync modes; the Driver, in whose place the
// adversary decides. Those are for internal/sim.
//
// With the build tag `mutants` the tests switch rules off and show at which depth, and after how many states, each is missed.
package explore

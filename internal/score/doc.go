// Package score measures how good the simulator and the explorer are at their work: it plants errors in the real cores (package
// mutant), one after the other, and counts how many are found, how soon and by what. All of them must be.
//
// # How an error is hunted
//
//   - By the simulator: schedules of internal/sim in fast mode, with the seeds 1, 2, 3 and so on. The first that breaks a promise counts;
//     without the planted error the same schedule must break none. Its faults are then made fewer.
//   - By the explorer: the scope that internal/explore names for it, breadth first, up to a number of states.
//
// One of the two is enough. Some errors need an order of events that random schedules hardly ever meet; others (disks, sessions,
// reads, time) lie outside of what the explorer knows.
//
// # Quickly
//
// testdata/known.json remembers, for each error, seeds that found it. The continuous integration tries those first and searches only
// where they no longer find it, because the simulator has changed since. So it stays short, and red means that an error is not
// found any more, or that a seed finds something without any error.
//
// Errors that do no harm because a second rule is enough are planted too. They must not be found alone; planted
// together with the second rule they must be.
package score

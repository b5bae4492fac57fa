// Package plan says what drills there are, whether a group could survive one as it stands now, and what it would do: for `smrctl drill`,
// which does it, and for the web page, which shows it before somebody does.
//
// It looks at what others have asked for (proto.ClusterStatus, answers of agents) and asks nobody itself.
//
// It may not know: how a fault is made, clients, sockets.
package plan

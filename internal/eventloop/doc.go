// Package eventloop watches many TCP connections from one goroutine: one system call tells which of them have something to
// read, and whoever is told reads and answers there and then. A connection that is ready costs no change of goroutines, no
// wake-up of a thread and no read that finds nothing, which is most of what a small request costs otherwise.
//
// It may not know what the connections are for. It is Linux's epoll, edge-triggered, with every socket registered once.
//
// # Turns
//
// At any time one party has the turn of a socket: only it reads, and only it executes what was read. While nobody has it the
// socket is at rest, and the loop gives the turn to the Handler when something arrives. The turn may be passed on, to another
// goroutine or to a callback; whoever has it ends it with Rest. What arrives meanwhile is not lost: Rest then reports false, and
// the turn goes on.
//
//	           arrives: Handler.Ready             arrives
//	at rest ---------------------------> turn ------------> turn, more has arrived
//	   ^                                  | |                        |
//	   +----------------------------------+ +<-----------------------+
//	             Rest: true                        Rest: false
//
// # Sockets
//
// A Socket is a net.Conn as well. A goroutine that has the turn may use it as one: it waits for what the loop sees. Close may be
// called by anybody; the descriptor is given back by Release, when no call uses it any more, so that a number is never used for
// another connection by mistake.
//
// # Goroutines
//
// Run is the only one, started by the caller. Handlers are called on it and must not block for long: all other connections
// of the loop wait meanwhile. What they begin for several connections is finished together, when nothing else is ready (New's after).
package eventloop

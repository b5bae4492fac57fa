package kvnode

import "testing"

// Reads of streams that wait are served by an XADD on any node, with what came after they asked; XREAD without BLOCK does not
// go through the log.
func TestBlockedReadsOfStreamsAreServedAcrossNodes(t *testing.T) {
	g := newFakeGroup(t, 3, nil)
	reader, worker, writer := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1)), dial(t, g.serve(t, 2))
	writer.expect("XADD s 1-1 f old", "$3\r\n1-1\r\n")
	writer.expect("XGROUP CREATE s g $", "+OK\r\n")
	reader.expect("XREAD STREAMS s $", "*-1\r\n")
	reader.expect("XREAD BLOCK 10 STREAMS s $", "*-1\r\n")
	reader.send("XREAD BLOCK 0 STREAMS s $", "PING")
	awaitWaiters(t, g.nodes[2], 1)
	worker.send("XREADGROUP GROUP g c BLOCK 0 STREAMS s >")
	awaitWaiters(t, g.nodes[2], 2)
	writer.expect("XADD s 2-1 f new", "$3\r\n2-1\r\n")
	const entry = "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n2-1\r\n*2\r\n$1\r\nf\r\n$3\r\nnew\r\n"
	reader.want(entry, "+PONG\r\n")
	worker.want(entry)
	worker.expect("XACK s g 2-1", ":1\r\n")
	worker.send("XREADGROUP GROUP g c BLOCK 0 STREAMS s >")
	awaitWaiters(t, g.nodes[2], 1)
	writer.expect("DEL s", ":1\r\n")
	worker.want("-NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option\r\n")
}

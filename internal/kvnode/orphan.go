package kvnode

import (
	"time"

	"lockstep/smr"
)

// orphan is what the keeper knows about a replicator that is not there. Its goroutine owns it.
//
// Such a node can execute nothing, while the group goes on elsewhere. A redis-server in its place would be dead, and existing
// clients look for another node only when their connection breaks: they ask Sentinel, or take the next address. So the
// connections are closed when writes have begun to be refused, and again whatever was opened meanwhile. Two kinds stay: who
// reads what is here, however old (READONLY), and who waits in a blocking command, because what it waits for may have
// been taken out of the data for it and must reach it when the replicator is back.
type orphan struct {
	since time.Duration // node time at which the replicator was missed first, or connections were closed last
	away  bool
}

// look closes connections if the replicator has been away for Config.RefuseAfter. It returns how many.
func (o *orphan) look(n *Node) (closed int) {
	now := n.now()
	switch {
	case n.log.Status().Role != smr.RoleNone:
		o.away = false
		return 0
	case !o.away:
		o.away, o.since = true, now
		return 0
	case now-o.since < n.config.RefuseAfter:
		return 0
	}
	o.since = now
	for _, c := range n.clients.list() {
		if _, _, _, _, _, readonly := c.about.text(); readonly || c.about.blocked.Load() != nil {
			continue
		}
		c.disconnect()
		closed++
	}
	return closed
}

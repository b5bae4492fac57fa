package kvnode

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/resp"
)

const (
	// evictionPeriod is how often the memory of all clients is compared with maxmemory-clients, if that limits it.
	evictionPeriod = 100 * time.Millisecond
	// unlimitedPeriod is how often it is looked whether it does.
	unlimitedPeriod = time.Second
	// nameBytes is what a watched key or a subscription counts, in bytes.
	nameBytes = 128
)

// clientLimit is maxmemory-clients: bytes, or a part of maxmemory. The zero value is no limit.
type clientLimit struct {
	bytes   int64
	percent int64
}

func (l clientLimit) String() string {
	if l.percent > 0 {
		return strconv.FormatInt(l.percent, 10) + "%"
	}
	return strconv.FormatInt(l.bytes, 10)
}

// parseClientLimit reads a value of maxmemory-clients.
func parseClientLimit(value string) (clientLimit, error) {
	if digits, found := strings.CutSuffix(value, "%"); found {
		percent, ok := resp.ParseInt([]byte(digits))
		if ok && percent > 100 {
			return clientLimit{}, errors.New("argument must be less or equal to 100")
		}
		if !ok || percent < 0 {
			return clientLimit{}, errors.New("argument must be a memory or percent value")
		}
		return clientLimit{percent: percent}, nil
	}
	size, err := parseMemory(value)
	if err != nil {
		return clientLimit{}, errors.New("argument must be a memory or percent value")
	}
	return clientLimit{bytes: size}, nil
}

// clientLimitSetting is maxmemory-clients, a setting of each node.
func (s *settings) clientLimitSetting(n *Node) setting {
	return setting{name: "maxmemory-clients", get: func() string { return s.clientLimit.Load().String() },
		check: func(value string) (func(), error) {
			limit, err := parseClientLimit(value)
			return func() {
				s.clientLimit.Store(&limit)
				n.evictClients()
			}, err
		}}
}

// clientBound returns how much memory all clients together may take, in bytes; 0: no limit.
func (n *Node) clientBound() int64 {
	limit := n.settings.clientLimit.Load()
	if limit.percent == 0 {
		return limit.bytes
	}
	n.lock.RLock()
	defer n.lock.RUnlock()
	text, _ := n.machine.Setting("maxmemory")
	most, _ := strconv.ParseInt(text, 10, 64)
	return most / 100 * limit.percent
}

// memory returns what the connection takes, in bytes: its buffers, the transaction that it queues, what it watches and listens to.
func (a *about) memory() int64 {
	names := int64(a.watched.Load())
	for i := range a.subscriptions {
		names += int64(a.subscriptions[i].Load())
	}
	return a.pending.Load() + a.room.Load() + a.multiBytes.Load() + names*nameBytes
}

func (c *conn) memory() int64 { return c.about.memory() + c.out.waiting.Load() }

// evictable reports whether the connection may be closed to save memory.
func (c *conn) evictable() bool {
	_, _, _, noEvict, _, _ := c.about.text()
	return !noEvict && !c.about.monitoring.Load()
}

// evictClients closes the clients that take most until the others take no more than maxmemory-clients allows, as Redis does. Those that have
// CLIENT NO-EVICT stay, and count.
func (n *Node) evictClients() {
	bound := n.clientBound()
	if bound == 0 {
		return
	}
	type candidate struct {
		c    *conn
		size int64
	}
	var total int64
	var all []candidate
	for _, c := range n.clients.list() {
		size := c.memory()
		if c.about.monitoring.Load() {
			continue
		}
		total += size
		if c.evictable() {
			all = append(all, candidate{c, size})
		}
	}
	if total <= bound {
		return
	}
	slices.SortFunc(all, func(a, b candidate) int { return int(b.size - a.size) })
	for _, e := range all {
		if total <= bound {
			return
		}
		if e.c.disconnect() {
			n.stats.evictedClients.Add(1)
			n.logger.Warn("client evicted", "client", e.c.net.RemoteAddr().String(), "bytes", e.size, "all", total, "limit", bound)
		}
		total -= e.size
	}
}

// keepClientMemory looks after maxmemory-clients until ctx is done.
func (n *Node) keepClientMemory(ctx context.Context) {
	timer := time.NewTimer(evictionPeriod)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		n.evictClients()
		if n.clientBound() == 0 {
			timer.Reset(unlimitedPeriod)
		} else {
			timer.Reset(evictionPeriod)
		}
	}
}

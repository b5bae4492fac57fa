package kv

import (
	"math"

	"lockstep/internal/resp"
)

// streamGroupOf returns the stream and the group that arguments 1 and 2 name, zero values if one is absent; false after an error
// reply because the key holds something else.
func (c call) streamGroupOf() (s *stream, e *entry, g *streamGroup, ok bool) {
	s, e, ok = objectOf[*stream](c, c.args[1])
	if ok && e != nil {
		g = s.group(c.args[2])
	}
	return s, e, g, ok
}

// replyNoGroup replies that the key or the group of arguments 1 and 2 is absent.
func (c call) replyNoGroup() {
	c.reply.Error("NOGROUP No such key '" + cText(c.args[1]) + "' or consumer group '" + cText(c.args[2]) + "'")
}

func xack(c call) {
	_, e, g, ok := c.streamGroupOf()
	if !ok {
		return
	}
	if g == nil {
		c.reply.Int(0)
		return
	}
	ids, ok := c.streamIDs(3)
	if !ok {
		return
	}
	var count int64
	for _, id := range ids {
		if g.acknowledge(id) {
			count++
		}
	}
	if count > 0 {
		c.touch(e)
	}
	c.reply.Int(count)
}

// pendingQuery is the long form of XPENDING.
type pendingQuery struct {
	start, end streamID
	count      int64
	idle       int64 // milliseconds, at least
	consumer   []byte
}

func (c call) parsePendingQuery() (q pendingQuery, ok bool) {
	at := 3
	if c.is(3, "idle") {
		if q.idle, ok = c.integer(4); !ok {
			return q, false
		}
		if len(c.args) < 8 {
			c.reply.Error(errSyntax)
			return q, false
		}
		at += 2
	}
	if q.count, ok = c.integer(at + 2); !ok {
		return q, false
	}
	if q.start, ok = c.streamBound(at, 0); !ok {
		return q, false
	}
	if q.end, ok = c.streamBound(at+1, math.MaxUint64); !ok {
		return q, false
	}
	if at+3 < len(c.args) {
		q.consumer = c.args[at+3]
	}
	return q, true
}

func xpending(c call) {
	if len(c.args) != 3 && (len(c.args) < 6 || len(c.args) > 9) {
		c.reply.Error(errSyntax)
		return
	}
	var q pendingQuery
	ok := true
	if len(c.args) >= 6 {
		if q, ok = c.parsePendingQuery(); !ok {
			return
		}
	}
	_, _, g, ok := c.streamGroupOf()
	switch {
	case !ok:
	case g == nil:
		c.replyNoGroup()
	case len(c.args) == 3:
		c.replyPendingSummary(g)
	default:
		c.replyPending(g, q)
	}
}

func (c call) replyPendingSummary(g *streamGroup) {
	c.reply.Array(4)
	c.reply.Int(int64(g.pending.size))
	first, _, ok := g.pending.first()
	if !ok {
		c.reply.Null()
		c.reply.Null()
		c.reply.NullArray()
		return
	}
	last, _, _ := g.pending.last()
	replyStreamID(c.reply, first)
	replyStreamID(c.reply, last)
	mark, n := c.reply.Mark(), 0
	for _, consumer := range g.consumers {
		if consumer.pending.size == 0 {
			continue
		}
		n++
		c.reply.Array(2)
		c.reply.BulkString(consumer.name)
		c.reply.BulkInt(int64(consumer.pending.size))
	}
	c.reply.InsertArray(mark, n)
}

func (c call) replyPending(g *streamGroup, q pendingQuery) {
	mark, n := c.reply.Mark(), int64(0)
	visit := func(id streamID, p *pendingEntry) bool {
		if n >= q.count || q.end.less(id) {
			return false
		}
		idle := c.now - p.delivered
		if q.idle != 0 && idle < q.idle {
			return true
		}
		n++
		c.reply.Array(4)
		replyStreamID(c.reply, id)
		c.reply.BulkString(g.owner(p).name)
		c.reply.Int(max(idle, 0))
		c.reply.Int(p.deliveries)
		return true
	}
	if q.consumer == nil {
		g.pending.ascend(q.start, visit)
	} else if consumer := g.consumer(q.consumer); consumer != nil {
		consumer.pending.ascend(q.start, func(id streamID, _ *struct{}) bool { return visit(id, g.pending.find(id)) })
	}
	c.reply.InsertArray(mark, int(n))
}

// claimOptions are the options of XCLAIM.
type claimOptions struct {
	ids       []streamID
	idle      int64 // milliseconds, at least
	delivered int64 // milliseconds since 1970 UTC
	retries   int64 // -1: not given
	force     bool
	justID    bool
	last      streamID
}

func (c call) parseClaim() (o claimOptions, ok bool) {
	if o.idle, ok = c.between(4, math.MinInt64, math.MaxInt64, "ERR Invalid min-idle-time argument for XCLAIM"); !ok {
		return o, false
	}
	i := 5
	for ; i < len(c.args); i++ {
		id, ok := parseStreamID(c.args[i], 0, false)
		if !ok {
			break
		}
		o.ids = append(o.ids, id.streamID)
	}
	o.retries, o.delivered = -1, -1
	for ; i < len(c.args); i++ {
		more := i+1 < len(c.args)
		ok = true
		switch {
		case c.is(i, "force"):
			o.force = true
		case c.is(i, "justid"):
			o.justID = true
		case more && c.is(i, "idle"):
			i++
			o.delivered, ok = c.claimNumber(i, "IDLE")
			o.delivered = c.now - o.delivered
		case more && c.is(i, "time"):
			i++
			o.delivered, ok = c.claimNumber(i, "TIME")
		case more && c.is(i, "retrycount"):
			i++
			o.retries, ok = c.claimNumber(i, "RETRYCOUNT")
		case more && c.is(i, "lastid"):
			i++
			o.last, ok = c.streamID(i)
		default:
			c.reply.Error("ERR Unrecognized XCLAIM option '" + cText(c.args[i]) + "'")
			return o, false
		}
		if !ok {
			return o, false
		}
	}
	if o.delivered < 0 || o.delivered > c.now {
		o.delivered = c.now
	}
	return o, true
}

// claimNumber reads argument i, the value of an option of XCLAIM.
func (c call) claimNumber(i int, option string) (int64, bool) {
	return c.between(i, math.MinInt64, math.MaxInt64, "ERR Invalid "+option+" option argument for XCLAIM")
}

func xclaim(c call) {
	s, e, g, ok := c.streamGroupOf()
	if !ok {
		return
	}
	if g == nil {
		c.replyNoGroup()
		return
	}
	o, ok := c.parseClaim()
	if !ok {
		return
	}
	if g.last.less(o.last) {
		g.last = o.last
	}
	consumer := c.seeConsumer(g, c.args[3], c.args[1])
	mark, n := c.reply.Mark(), 0
	for _, id := range o.ids {
		p := pendingEntry{}
		before := g.pending.find(id)
		found, there := s.find(id)
		switch {
		case !there:
			g.acknowledge(id)
			continue
		case before != nil:
			if o.idle > 0 && c.now-before.delivered < o.idle {
				continue
			}
			p = *before
		case o.force:
			p.deliveries = 1
		default:
			continue
		}
		p.delivered = o.delivered
		if o.retries >= 0 {
			p.deliveries = o.retries
		} else if !o.justID {
			p.deliveries++
		}
		g.assign(id, consumer, p)
		consumer.active = c.now
		c.replyClaimed(found, o.justID)
		n++
	}
	c.reply.InsertArray(mark, n)
	c.touch(e)
}

func (c call) replyClaimed(e streamEntry, justID bool) {
	if justID {
		replyStreamID(c.reply, e.id)
	} else {
		e.reply(c.reply)
	}
}

const (
	// claimTries is how many pending entries XAUTOCLAIM looks at for each that it may claim.
	claimTries = 10
	// maxClaims is the largest COUNT of XAUTOCLAIM that Redis reads; from hugeClaims on it has no memory for the reply.
	maxClaims  = math.MaxInt64 / 16
	hugeClaims = 1 << 43
)

// autoclaim is a parsed XAUTOCLAIM.
type autoclaim struct {
	idle   int64 // milliseconds, at least
	start  streamID
	count  int64
	justID bool
}

func (c call) parseAutoclaim() (o autoclaim, ok bool) {
	if o.idle, ok = c.between(4, math.MinInt64, math.MaxInt64, "ERR Invalid min-idle-time argument for XAUTOCLAIM"); !ok {
		return o, false
	}
	if o.start, ok = c.streamBound(5, 0); !ok {
		return o, false
	}
	o.count = 100
	for i := 6; i < len(c.args); i++ {
		switch {
		case c.is(i, "count") && i+1 < len(c.args):
			i++
			if o.count, ok = c.between(i, 1, maxClaims, "ERR COUNT must be > 0"); !ok {
				return o, false
			}
		case c.is(i, "justid"):
			o.justID = true
		default:
			c.reply.Error(errSyntax)
			return o, false
		}
	}
	return o, true
}

func xautoclaim(c call) {
	o, ok := c.parseAutoclaim()
	if !ok {
		return
	}
	s, e, g, ok := c.streamGroupOf()
	if !ok {
		return
	}
	if g == nil {
		c.replyNoGroup()
		return
	}
	if o.count >= hugeClaims {
		c.reply.Error("ERR Insufficient memory, failed allocating transient memory, COUNT too high.")
		return
	}
	consumer := c.seeConsumer(g, c.args[3], c.args[1])
	claimed, gone, next := c.collectClaims(s, g, o)
	for _, id := range gone {
		g.acknowledge(id)
	}
	c.reply.Array(3)
	replyStreamID(c.reply, next)
	c.reply.Array(len(claimed))
	for _, id := range claimed {
		p := *g.pending.find(id)
		p.delivered = c.now
		if !o.justID {
			p.deliveries++
		}
		g.assign(id, consumer, p)
		consumer.active = c.now
		if c.reply == nil {
			continue
		}
		found, _ := s.find(id)
		c.replyClaimed(found, o.justID)
	}
	c.replyStreamIDs(gone)
	c.touch(e)
}

func (c call) replyStreamIDs(ids []streamID) {
	c.reply.Array(len(ids))
	for _, id := range ids {
		replyStreamID(c.reply, id)
	}
}

// collectClaims returns the pending entries that XAUTOCLAIM claims, those that are no more, and where to go on, 0-0 at the end.
func (c call) collectClaims(s *stream, g *streamGroup, o autoclaim) (claimed, gone []streamID, next streamID) {
	tries, count := o.count*claimTries, o.count
	g.pending.ascend(o.start, func(id streamID, p *pendingEntry) bool {
		if tries == 0 || count == 0 {
			next = id
			return false
		}
		tries--
		_, there := s.find(id)
		switch {
		case !there:
			gone = append(gone, id)
			count--
		case o.idle <= 0 || c.now-p.delivered >= o.idle:
			claimed = append(claimed, id)
			count--
		}
		return true
	})
	return claimed, gone, next
}

// replyPEL replies up to count (0: all) entries of a tree of pending entries.
func replyPEL[V any](reply *resp.Reply, t *idTree[V], count int64, each func(id streamID, value *V)) {
	n := int64(t.size)
	if count > 0 {
		n = min(n, count)
	}
	reply.Array(int(n))
	if n == 0 {
		return
	}
	t.ascend(streamID{}, func(id streamID, value *V) bool {
		each(id, value)
		n--
		return n > 0
	})
}

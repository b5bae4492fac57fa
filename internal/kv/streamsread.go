package kv

import (
	"slices"

	"lockstep/internal/resp"
)

// streamRead is a parsed XREAD or XREADGROUP.
type streamRead struct {
	timeout  int64 // milliseconds, 0: for ever; -1: do not wait
	count    int64 // entries of each stream; not positive: all
	keys     int   // index of the first key
	streams  int   // how many
	group    []byte
	consumer []byte
	noAck    bool
}

// wanted is a stream that XREAD found, with what is wanted of it.
type wanted struct {
	stream   *stream
	entry    *entry
	group    *streamGroup
	consumer *streamConsumer
	after    streamID // entries behind this one
	fresh    bool     // XREADGROUP: those that the group was not given yet (">")
	current  bool     // XREAD: those behind the last one there is now ("$")
}

func xread(c call)      { c.readStreams("xread") }
func xreadGroup(c call) { c.readStreams("xreadgroup") }

func (c call) readStreams(name string) {
	o, ok := c.parseStreamRead(name)
	if !ok {
		return
	}
	var few [4]wanted
	list, ok := c.findWanted(o, few[:0])
	if !ok {
		return
	}
	mark, n := c.reply.Mark(), 0
	for i, w := range list {
		if w.stream == nil {
			continue
		}
		if w.group != nil {
			w.consumer = c.seeConsumer(w.group, o.consumer, c.args[o.keys+i])
		}
		if w.fresh { // the same key may stand there twice
			w.after = w.group.last
		}
		if w.served() {
			n++
			c.replyWanted(w, o, c.args[o.keys+i])
		}
		if w.group != nil {
			c.touch(w.entry)
		}
	}
	switch {
	case n > 0 && c.reply != nil && c.reply.Proto >= 3:
		c.reply.InsertMap(mark, n)
	case n > 0:
		c.reply.InsertArray(mark, n)
	case o.timeout >= 0:
		c.waitForStreams(o, list)
	default:
		c.reply.NullArray()
	}
}

// replyWanted replies the key of a stream and its entries.
func (c call) replyWanted(w wanted, o streamRead, key []byte) {
	if c.reply != nil && c.reply.Proto < 3 {
		c.reply.Array(2)
	}
	c.reply.Bulk(key)
	switch start, _ := w.after.next(); {
	case w.group == nil:
		c.replyStreamRange(w.stream, start, lastStreamID, o.count, false)
	case w.fresh:
		c.deliverNew(w, start, o)
	default:
		c.deliverAgain(w, start, o)
	}
}

// waitForStreams answers a read with BLOCK that found nothing.
func (c call) waitForStreams(o streamRead, list []wanted) {
	b := blocking{kind: "stream", keys: c.args[o.keys : o.keys+o.streams], timeout: o.timeout, evenGone: o.group != nil}
	for i, w := range list {
		if w.current { // what is the last one now must not change while it waits
			if b.args == nil {
				b.args = slices.Clone(c.args)
			}
			b.args[o.keys+o.streams+i] = w.after.append(nil)
		}
	}
	if !c.block(b) {
		c.reply.NullArray()
	}
}

// parseStreamRead reads the options up to the first key, or replies an error.
func (c call) parseStreamRead(name string) (o streamRead, ok bool) {
	o.timeout = -1
	grouped := name == "xreadgroup"
	for i := 1; i < len(c.args) && o.keys == 0; i++ {
		more := len(c.args) - 1 - i
		switch {
		case c.is(i, "block") && more > 0:
			i++
			if o.timeout, ok = c.streamTimeout(i); !ok {
				return o, false
			}
		case c.is(i, "count") && more > 0:
			i++
			if o.count, ok = c.integer(i); !ok {
				return o, false
			}
		case c.is(i, "streams") && more > 0:
			o.keys, o.streams = i+1, more/2
			if more%2 != 0 {
				symbol := "$"
				if grouped {
					symbol = ">"
				}
				c.reply.Error("ERR Unbalanced '" + name + "' list of streams: for each stream key an ID or '" + symbol + "' must be specified.")
				return o, false
			}
		case c.is(i, "group") && more >= 2:
			if !grouped {
				c.reply.Error("ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.")
				return o, false
			}
			o.group, o.consumer = c.args[i+1], c.args[i+2]
			i += 2
		case c.is(i, "noack"):
			if !grouped {
				c.reply.Error("ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.")
				return o, false
			}
			o.noAck = true
		default:
			c.reply.Error(errSyntax)
			return o, false
		}
	}
	switch {
	case o.keys == 0:
		c.reply.Error(errSyntax)
	case grouped && o.group == nil:
		c.reply.Error("ERR Missing GROUP option for XREADGROUP")
	default:
		return o, true
	}
	return o, false
}

// streamTimeout reads argument i as a time to wait in milliseconds, or replies an error.
func (c call) streamTimeout(i int) (int64, bool) {
	n, ok := resp.ParseInt(c.args[i])
	switch {
	case !ok:
		c.reply.Error("ERR timeout is not an integer or out of range")
	case n < 0:
		c.reply.Error("ERR timeout is negative")
	case n > 0 && n > 1<<63-1-c.now:
		c.reply.Error("ERR timeout is out of range")
	default:
		return n, true
	}
	return 0, false
}

// findWanted looks the streams and groups up, reads the IDs, and appends what it found to list; or it replies an error.
func (c call) findWanted(o streamRead, list []wanted) ([]wanted, bool) {
	for i := range o.streams {
		key, at := c.args[o.keys+i], o.keys+o.streams+i
		s, e, ok := objectOf[*stream](c, key)
		if !ok {
			return nil, false
		}
		w := wanted{stream: s, entry: e}
		if o.group != nil {
			if e != nil {
				w.group = s.group(o.group)
			}
			if w.group == nil {
				c.reply.Error("NOGROUP No such key '" + cText(key) + "' or consumer group '" + cText(o.group) + "' in XREADGROUP with GROUP option")
				return nil, false
			}
		}
		switch string(c.args[at]) {
		case "$":
			if o.group != nil {
				c.reply.Error("ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer " +
					"by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty result set.")
				return nil, false
			}
			w.current = true
			if e != nil {
				w.after = s.last
			}
		case ">":
			if o.group == nil {
				c.reply.Error("ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.")
				return nil, false
			}
			w.fresh = true
		default:
			if w.after, ok = c.streamID(at); !ok {
				return nil, false
			}
			w.fresh = o.group != nil && w.after == lastStreamID // Redis' own mark for ">"
		}
		list = append(list, w)
	}
	return list, true
}

// served reports whether the stream can be answered for at once: there is something behind the ID, or it is a consumer's
// history.
func (w wanted) served() bool {
	if w.group != nil && !w.fresh {
		return true
	}
	return w.stream.length > 0 && w.after.less(w.stream.top())
}

// seeConsumer returns the consumer of that name, new if need be, and notes that it was there. key is that of the stream.
func (c call) seeConsumer(g *streamGroup, name, key []byte) *streamConsumer {
	consumer := g.consumer(name)
	if consumer == nil {
		consumer = g.addConsumer(string(name), c.now)
		c.notify(EventStream, "xgroup-createconsumer", key)
	}
	consumer.seen = c.now
	return consumer
}

// deliverNew replies entries that the group was not given yet, which become pending for the consumer.
func (c call) deliverNew(w wanted, start streamID, o streamRead) {
	mark, n := c.reply.Mark(), 0
	w.stream.ascend(start, lastStreamID, func(e streamEntry) bool {
		w.group.deliver(w.stream, e.id)
		e.reply(c.reply)
		if !o.noAck {
			w.group.assign(e.id, w.consumer, pendingEntry{delivered: c.now, deliveries: 1})
			w.consumer.active = c.now
		}
		n++
		return int64(n) != o.count
	})
	c.reply.InsertArray(mark, n)
}

// deliverAgain replies what is pending for the consumer. An entry that is no more has null for its fields.
func (c call) deliverAgain(w wanted, start streamID, o streamRead) {
	mark, n := c.reply.Mark(), 0
	w.consumer.pending.ascend(start, func(id streamID, _ *struct{}) bool {
		if e, ok := w.stream.find(id); ok {
			e.reply(c.reply)
			w.group.changing(id)
			p := w.group.pending.find(id)
			p.delivered = c.now
			p.deliveries++
		} else {
			c.reply.Array(2)
			replyStreamID(c.reply, id)
			c.reply.NullArray()
		}
		n++
		return int64(n) != o.count
	})
	c.reply.InsertArray(mark, n)
}

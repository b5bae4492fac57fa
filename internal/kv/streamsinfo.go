package kv

import "slices"

var xinfoHelp = []string{
	"XINFO <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
	"CONSUMERS <key> <groupname>",
	"    Show consumers of <groupname>.",
	"GROUPS <key>",
	"    Show the stream consumer groups.",
	"STREAM <key> [FULL [COUNT <count>]",
	"    Show information about the stream.",
	"HELP",
	"    Prints this help.",
}

func xinfo(c call) {
	name := c.streamSubcommand("xinfo", xinfoArity)
	switch name {
	case "":
		return
	case "help":
		c.replyHelp(xinfoHelp)
		return
	}
	s, e, ok := objectOf[*stream](c, c.args[2])
	switch {
	case !ok:
	case e == nil:
		c.reply.Error(errNoKey)
	case name == "groups":
		c.replyGroups(s)
	case name == "consumers":
		g := s.group(c.args[3])
		if g == nil {
			c.reply.Error("NOGROUP No such consumer group '" + cText(c.args[3]) + "' for key name '" + cText(c.args[2]) + "'")
			return
		}
		c.replyConsumers(g)
	default:
		c.replyStream(s)
	}
}

// member appends the name of a member of a map; its value follows.
func (c call) member(name string) { c.reply.BulkString(name) }

func (c call) intMember(name string, n int64) {
	c.member(name)
	c.reply.Int(n)
}

func (c call) idMember(name string, id streamID) {
	c.member(name)
	replyStreamID(c.reply, id)
}

// countMember appends a number that nobody may know.
func (c call) countMember(name string, n int64, known bool) {
	c.member(name)
	if known {
		c.reply.Int(n)
	} else {
		c.reply.Null()
	}
}

func (c call) replyGroups(s *stream) {
	c.reply.Array(len(s.groups))
	for _, g := range s.groups {
		c.reply.Map(6)
		c.member("name")
		c.reply.BulkString(g.name)
		c.intMember("consumers", int64(len(g.consumers)))
		c.intMember("pending", int64(g.pending.size))
		c.idMember("last-delivered-id", g.last)
		c.countMember("entries-read", g.read, g.read != unknownCount)
		lag, known := g.lag(s)
		c.countMember("lag", lag, known)
	}
}

func (c call) replyConsumers(g *streamGroup) {
	c.reply.Array(len(g.consumers))
	for _, consumer := range g.consumers {
		c.reply.Map(4)
		c.member("name")
		c.reply.BulkString(consumer.name)
		c.intMember("pending", int64(consumer.pending.size))
		c.intMember("idle", max(0, c.now-consumer.seen))
		inactive := int64(-1)
		if consumer.active >= 0 {
			inactive = max(0, c.now-consumer.active)
		}
		c.intMember("inactive", inactive)
	}
}

// defaultFullCount is how many entries XINFO STREAM FULL shows without COUNT.
const defaultFullCount = 10

func (c call) replyStream(s *stream) {
	full, count := false, int64(defaultFullCount)
	if options := len(c.args) - 3; options > 0 {
		if options != 1 && options != 3 || !c.is(3, "full") || options == 3 && !c.is(4, "count") {
			c.subcommandSyntax()
			return
		}
		full = true
		if options == 3 {
			var ok bool
			if count, ok = c.integer(5); !ok {
				return
			}
			if count < 0 {
				count = defaultFullCount
			}
		}
	}
	if full {
		c.reply.Map(9)
	} else {
		c.reply.Map(10)
	}
	c.intMember("length", int64(s.length))
	c.intMember("radix-tree-keys", int64(s.blocks.size))
	c.intMember("radix-tree-nodes", s.radixNodes())
	c.idMember("last-generated-id", s.last)
	c.idMember("max-deleted-entry-id", s.maxDeleted)
	c.intMember("entries-added", int64(s.added))
	c.idMember("recorded-first-entry-id", s.first)
	if full {
		c.replyFull(s, count)
		return
	}
	c.intMember("groups", int64(len(s.groups)))
	c.member("first-entry")
	c.replyEdge(s, false)
	c.member("last-entry")
	c.replyEdge(s, true)
}

// replyEdge replies the first or the last entry, null if there is none.
func (c call) replyEdge(s *stream, last bool) {
	visit := func(e streamEntry) bool {
		e.reply(c.reply)
		return false
	}
	switch {
	case s.length == 0:
		c.reply.Null()
	case last:
		s.descend(streamID{}, lastStreamID, visit)
	default:
		s.ascend(streamID{}, lastStreamID, visit)
	}
}

func (c call) replyFull(s *stream, count int64) {
	c.member("entries")
	c.replyStreamRange(s, streamID{}, lastStreamID, count, false)
	c.member("groups")
	c.reply.Array(len(s.groups))
	for _, g := range s.groups {
		c.reply.Map(7)
		c.member("name")
		c.reply.BulkString(g.name)
		c.idMember("last-delivered-id", g.last)
		c.countMember("entries-read", g.read, g.read != unknownCount)
		lag, known := g.lag(s)
		c.countMember("lag", lag, known)
		c.intMember("pel-count", int64(g.pending.size))
		c.member("pending")
		replyPEL(c.reply, &g.pending, count, func(id streamID, p *pendingEntry) {
			c.reply.Array(4)
			replyStreamID(c.reply, id)
			c.reply.BulkString(g.owner(p).name)
			c.reply.Int(p.delivered)
			c.reply.Int(p.deliveries)
		})
		c.member("consumers")
		c.reply.Array(len(g.consumers))
		for _, consumer := range g.consumers {
			c.replyFullConsumer(g, consumer, count)
		}
	}
}

func (c call) replyFullConsumer(g *streamGroup, consumer *streamConsumer, count int64) {
	c.reply.Map(5)
	c.member("name")
	c.reply.BulkString(consumer.name)
	c.intMember("seen-time", consumer.seen)
	c.intMember("active-time", consumer.active)
	c.intMember("pel-count", int64(consumer.pending.size))
	c.member("pending")
	replyPEL(c.reply, &consumer.pending, count, func(id streamID, _ *struct{}) {
		p := g.pending.find(id)
		c.reply.Array(3)
		replyStreamID(c.reply, id)
		c.reply.Int(p.delivered)
		c.reply.Int(p.deliveries)
	})
}

// radixSample is how many blocks radixNodes looks at.
const radixSample = 4096

// radixNodes returns how many nodes the radix tree would have in which Redis keeps these blocks; of a very large stream it
// is estimated.
func (s *stream) radixNodes() int64 {
	keys := make([][16]byte, 0, min(s.blocks.size, radixSample))
	s.blocks.ascend(streamID{}, func(id streamID, _ **streamBlock) bool {
		keys = append(keys, id.bytes())
		return len(keys) < radixSample
	})
	switch {
	case len(keys) == 0:
		return 1
	case s.blocks.size > len(keys):
		return int64(float64(radixNodes(keys, 0)) / float64(len(keys)) * float64(s.blocks.size))
	}
	return radixNodes(keys, 0)
}

// bytes returns the ID as Redis orders it: both halves big endian.
func (id streamID) bytes() (b [16]byte) {
	for i := range 8 {
		b[i], b[8+i] = byte(id.ms>>(56-8*i)), byte(id.seq>>(56-8*i))
	}
	return b
}

// radixNodes counts the nodes of a radix tree of sorted, different keys that are equal up to depth: a node for every branch
// and every end, and one for every run of bytes in between.
func radixNodes(keys [][16]byte, depth int) int64 {
	first, last := keys[0], keys[len(keys)-1]
	branch := depth
	for branch < 16 && first[branch] == last[branch] {
		branch++
	}
	nodes := int64(1)
	if branch > depth {
		nodes++
	}
	if branch == 16 {
		return nodes
	}
	for len(keys) > 0 {
		n := slices.IndexFunc(keys, func(k [16]byte) bool { return k[branch] != keys[0][branch] })
		if n < 0 {
			n = len(keys)
		}
		nodes += radixNodes(keys[:n], branch+1)
		keys = keys[n:]
	}
	return nodes
}

package kv

import (
	"math"
	"strings"

	"lockstep/internal/resp"
)

var streamCommands = []Command{
	{Name: "xack", Arity: -4, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: xack},
	{Name: "xadd", Arity: -5, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: xadd},
	{Name: "xautoclaim", Arity: -6, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: xautoclaim},
	{Name: "xclaim", Arity: -6, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: xclaim},
	{Name: "xdel", Arity: -3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: xdel},
	{Name: "xgroup", Arity: -2, Flags: Write, run: xgroup},
	{Name: "xinfo", Arity: -2, Flags: Readonly, run: xinfo},
	{Name: "xlen", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: xlen},
	{Name: "xpending", Arity: -3, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: xpending},
	{Name: "xrange", Arity: -4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: xrange},
	{Name: "xread", Arity: -4, Flags: Readonly | Movable | Blocking, run: xread, streams: true},
	{Name: "xreadgroup", Arity: -7, Flags: Write | Movable | Blocking, run: xreadGroup, streams: true},
	{Name: "xrevrange", Arity: -4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: xrevRange},
	{Name: "xsetid", Arity: -3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: xsetID},
	{Name: "xtrim", Arity: -4, Flags: Write, FirstKey: 1, LastKey: 1, Step: 1, run: xtrim},
}

// addOptions are the options of XADD and XTRIM.
type addOptions struct {
	trim     streamTrim
	id       parsedStreamID
	draw     bool // "*": the ID is to be found
	noStream bool // a stream that is absent stays so
	fields   int  // XADD: index of the first field
}

// parseAddOptions reads the options of XADD (up to the ID) or XTRIM.
func (c call) parseAddOptions(adding bool) (o addOptions, ok bool) {
	limited := false
	i := 2
options:
	for ; i < len(c.args); i++ {
		more := len(c.args) - 1 - i
		switch {
		case adding && string(c.args[i]) == "*":
			o.draw = true
			break options
		case c.is(i, "maxlen") && more > 0, c.is(i, "minid") && more > 0:
			if i, ok = c.parseTrim(&o.trim, i); !ok {
				return o, false
			}
		case c.is(i, "limit") && more > 0:
			i++
			if o.trim.limit, ok = c.integer(i); !ok {
				return o, false
			}
			if o.trim.limit < 0 {
				c.reply.Error("ERR The LIMIT argument must be >= 0.")
				return o, false
			}
			limited = true
		case adding && c.is(i, "nomkstream"):
			o.noStream = true
		case adding:
			if o.id, ok = parseStreamID(c.args[i], 0, true); !ok {
				c.reply.Error(errStreamID)
				return o, false
			}
			break options
		default:
			c.reply.Error(errSyntax)
			return o, false
		}
	}
	o.fields = i + 1
	switch {
	case o.trim.limit > 0 && o.trim.strategy == trimNothing:
		c.reply.Error("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy")
		return o, false
	case !adding && o.trim.strategy == trimNothing:
		c.reply.Error("ERR syntax error, XTRIM must be called with a trimming strategy")
		return o, false
	case limited && !o.trim.approx:
		c.reply.Error("ERR syntax error, LIMIT cannot be used without the special ~ option")
		return o, false
	case !limited && o.trim.approx:
		o.trim.limit = c.m.set.stream.trimLimit()
	}
	return o, true
}

// parseTrim reads MAXLEN or MINID, which stands at argument i, and returns the index of its last argument.
func (c call) parseTrim(t *streamTrim, i int) (last int, ok bool) {
	if t.strategy != trimNothing {
		c.reply.Error("ERR syntax error, MAXLEN and MINID options at the same time are not compatible")
		return i, false
	}
	t.strategy = trimByLength
	if c.is(i, "minid") {
		t.strategy = trimByID
	}
	i++
	if sign := string(c.args[i]); i+1 < len(c.args) && (sign == "~" || sign == "=") {
		t.approx = sign == "~"
		i++
	}
	if t.strategy == trimByID {
		t.id, ok = c.streamID(i)
		return i, ok
	}
	length, ok := c.integer(i)
	if ok && length < 0 {
		c.reply.Error("ERR The MAXLEN argument must be >= 0.")
		return i, false
	}
	t.length = uint64(length)
	return i, ok
}

const errXaddSmall = "ERR The ID specified in XADD is equal or smaller than the target stream top item"

func xadd(c call) {
	o, ok := c.parseAddOptions(true)
	if !ok {
		return
	}
	if len(c.args)-o.fields < 2 || (len(c.args)-o.fields)%2 != 0 {
		c.reply.Error(WrongArityError("xadd"))
		return
	}
	if !o.draw && !o.id.drawSeq && o.id.streamID == (streamID{}) {
		c.reply.Error("ERR The ID specified in XADD must be greater than 0-0")
		return
	}
	s, e, ok := objectOf[*stream](c, c.args[1])
	if !ok {
		return
	}
	var last streamID
	if e == nil && o.noStream {
		c.reply.Null()
		return
	}
	if e != nil {
		last = s.last
	}
	if last == lastStreamID {
		c.reply.Error("ERR The stream has exhausted the last possible ID, unable to add more items")
		return
	}
	id, ok := c.drawStreamID(o, last)
	if !ok {
		c.reply.Error(errXaddSmall)
		return
	}
	pairs := c.args[o.fields:]
	if textBytes(pairs) > maxEntryBytes {
		c.reply.Error("ERR Elements are too large to be stored")
		return
	}
	if e == nil {
		s, e = new(stream), c.create(c.args[1])
		c.db.keys.setObject(e, s)
	}
	s.append(id, pairs, c.m.set.stream, c.version)
	replyStreamID(c.reply, id)
	c.notify(EventStream, "xadd", c.args[1])
	if s.trim(o.trim, c.version) > 0 {
		c.notify(EventStream, "xtrim", c.args[1])
	}
	c.touch(e)
	c.ready(c.args[1])
}

// drawStreamID returns the ID of a new entry behind last; false if what the client gave is not behind it. Time is log time,
// but an ID never goes back.
func (c call) drawStreamID(o addOptions, last streamID) (streamID, bool) {
	id := o.id.streamID
	switch {
	case o.draw:
		if now := uint64(max(0, c.now)); now > last.ms {
			return streamID{now, 0}, true
		}
		return last.next()
	case o.id.drawSeq && last.ms == id.ms:
		if last.seq == math.MaxUint64 {
			return id, false
		}
		return streamID{id.ms, last.seq + 1}, true
	}
	return id, last.less(id)
}

func xtrim(c call) {
	o, ok := c.parseAddOptions(false)
	if !ok {
		return
	}
	s, e, ok := objectOf[*stream](c, c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Int(0)
		return
	}
	removed := s.trim(o.trim, c.version)
	if removed > 0 {
		c.touch(e)
		c.notify(EventStream, "xtrim", c.args[1])
	}
	c.reply.Int(removed)
}

func xlen(c call) {
	s, e, ok := objectOf[*stream](c, c.args[1])
	switch {
	case !ok:
	case e == nil:
		c.reply.Int(0)
	default:
		c.reply.Int(int64(s.length))
	}
}

func xdel(c call) {
	s, e, ok := objectOf[*stream](c, c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Int(0)
		return
	}
	ids, ok := c.streamIDs(2)
	if !ok {
		return
	}
	var removed int64
	first := s.first
	for _, id := range ids {
		if s.remove(id, c.version) {
			removed++
			if id == first {
				first = streamID{}
			}
		}
	}
	if removed > 0 {
		if first != s.first || s.length == 0 {
			s.findFirst()
		}
		c.touch(e)
		c.notify(EventStream, "xdel", c.args[1])
	}
	c.reply.Int(removed)
}

func xrange(c call)    { c.streamRange(2, 3) }
func xrevRange(c call) { c.streamRange(3, 2) }

// streamRange answers XRANGE and XREVRANGE, whose bounds stand at the given arguments.
func (c call) streamRange(startAt, endAt int) {
	start, ok := c.streamBound(startAt, 0)
	if !ok {
		return
	}
	end, ok := c.streamBound(endAt, math.MaxUint64)
	if !ok {
		return
	}
	count := int64(-1)
	for i := 4; i < len(c.args); i += 2 {
		if !c.is(i, "count") || i+1 >= len(c.args) {
			c.reply.Error(errSyntax)
			return
		}
		if count, ok = c.integer(i + 1); !ok {
			return
		}
		count = max(count, 0)
	}
	s, e, ok := objectOf[*stream](c, c.args[1])
	switch {
	case !ok:
	case e == nil:
		c.reply.Array(0)
	case count == 0:
		c.reply.NullArray()
	default:
		c.replyStreamRange(s, start, end, count, startAt > endAt)
	}
}

// replyStreamRange replies up to count entries (not positive: all) from start to end, or backwards.
func (c call) replyStreamRange(s *stream, start, end streamID, count int64, backwards bool) {
	mark, n := c.reply.Mark(), 0
	visit := func(e streamEntry) bool {
		e.reply(c.reply)
		n++
		return int64(n) != count
	}
	if backwards {
		s.descend(start, end, visit)
	} else {
		s.ascend(start, end, visit)
	}
	c.reply.InsertArray(mark, n)
}

// reply appends the entry as an array of its ID and its fields and values.
func (e streamEntry) reply(reply *resp.Reply) {
	if reply == nil {
		return
	}
	reply.Array(2)
	replyStreamID(reply, e.id)
	reply.Array(2 * e.fields)
	e.each(func(field, value packed) {
		field.reply(reply)
		value.reply(reply)
	})
}

func xsetID(c call) {
	last, ok := c.streamID(2)
	if !ok {
		return
	}
	added, maxDeleted := int64(-1), streamID{}
	for i := 3; i < len(c.args); i += 2 {
		switch more := i+1 < len(c.args); {
		case more && c.is(i, "entriesadded"):
			if added, ok = c.integer(i + 1); !ok {
				return
			}
			if added < 0 {
				c.reply.Error("ERR entries_added must be positive")
				return
			}
		case more && c.is(i, "maxdeletedid"):
			if maxDeleted, ok = c.streamID(i + 1); !ok {
				return
			}
			if last.less(maxDeleted) {
				c.reply.Error("ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id")
				return
			}
		default:
			c.reply.Error(errSyntax)
			return
		}
	}
	s, e, ok := objectOf[*stream](c, c.args[1])
	switch {
	case !ok:
	case e == nil:
		c.reply.Error(errNoKey)
	case last.less(s.maxDeleted):
		c.reply.Error("ERR The ID specified in XSETID is smaller than current max_deleted_entry_id")
	case s.length > 0 && last.less(s.top()):
		c.reply.Error("ERR The ID specified in XSETID is smaller than the target stream top item")
	case s.length > 0 && added >= 0 && s.length > uint64(added):
		c.reply.Error("ERR The entries_added specified in XSETID is smaller than the target stream length")
	default:
		s.last = last
		if added >= 0 {
			s.added = uint64(added)
		}
		if maxDeleted != (streamID{}) {
			s.maxDeleted = maxDeleted
		}
		c.touch(e)
		c.notify(EventStream, "xsetid", c.args[1])
		c.reply.OK()
	}
}

// groupArity gives the arity of the subcommands of XGROUP, infoArity that of XINFO's.
var (
	xgroupArity = map[string]int{"create": -5, "setid": -5, "destroy": 4, "createconsumer": 5, "delconsumer": 5, "help": 2}
	xinfoArity  = map[string]int{"stream": -3, "groups": 3, "consumers": 4, "help": 2}
)

// streamSubcommand returns the subcommand of a container in lower case; "" after an error reply.
func (c call) streamSubcommand(container string, arities map[string]int) string {
	name := lower(string(c.args[1]))
	arity, ok := arities[name]
	if !ok {
		c.reply.Error("ERR unknown subcommand '" + string(cString(c.args[1], 128)) + "'. Try " + strings.ToUpper(container) + " HELP.")
		return ""
	}
	if len(c.args) != arity && (arity > 0 || len(c.args) < -arity) {
		c.reply.Error(WrongArityError(container + "|" + name))
		return ""
	}
	return name
}

// subcommandSyntax replies that the arguments of a subcommand are wrong, as Redis does.
func (c call) subcommandSyntax() {
	c.reply.Error("ERR unknown subcommand or wrong number of arguments for '" + string(cString(c.args[1], 128)) + "'. Try " +
		strings.ToUpper(string(c.args[0])) + " HELP.")
}

func (c call) replyHelp(lines []string) {
	c.reply.Array(len(lines))
	for _, line := range lines {
		c.reply.Simple(line)
	}
}

var xgroupHelp = []string{
	"XGROUP <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
	"CREATE <key> <groupname> <id|$> [option]",
	"    Create a new consumer group. Options are:",
	"    * MKSTREAM",
	"      Create the empty stream if it does not exist.",
	"    * ENTRIESREAD entries_read",
	"      Set the group's entries_read counter (internal use).",
	"CREATECONSUMER <key> <groupname> <consumer>",
	"    Create a new consumer in the specified group.",
	"DELCONSUMER <key> <groupname> <consumer>",
	"    Remove the specified consumer.",
	"DESTROY <key> <groupname>",
	"    Remove the specified group.",
	"SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
	"    Set the current group ID and entries_read counter.",
	"HELP",
	"    Prints this help.",
}

const errXgroupKey = "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option " +
	"to create an empty stream automatically."

func xgroup(c call) {
	name := c.streamSubcommand("xgroup", xgroupArity)
	if name == "" {
		return
	}
	if name == "help" {
		c.replyHelp(xgroupHelp)
		return
	}
	makeStream, read, ok := c.parseGroupOptions(name)
	if !ok {
		return
	}
	s, e, ok := objectOf[*stream](c, c.args[2])
	if !ok {
		return
	}
	if e == nil && !makeStream {
		c.reply.Error(errXgroupKey)
		return
	}
	var g *streamGroup
	if e != nil {
		g = s.group(c.args[3])
	}
	if g == nil && name != "create" && name != "destroy" {
		c.reply.Error("NOGROUP No such consumer group '" + cText(c.args[3]) + "' for key name '" + cText(c.args[2]) + "'")
		return
	}
	switch name {
	case "create":
		c.createGroup(s, e, read)
	case "setid":
		c.setGroupID(s, e, g, read)
	case "destroy":
		if g == nil {
			c.reply.Int(0)
			return
		}
		s.dropGroup(c.args[3])
		c.groupChanged(e, "xgroup-destroy")
		c.ready(c.args[2]) // those who wait in the group learn that it is gone
		c.reply.Int(1)
	case "createconsumer":
		c.createConsumer(e, g)
	case "delconsumer":
		c.dropConsumer(e, g)
	}
}

// cText returns what C prints of an argument.
func cText(arg []byte) string { return string(cString(arg, len(arg))) }

// parseGroupOptions reads the options of XGROUP CREATE and SETID; read is unknownCount if it is not given.
func (c call) parseGroupOptions(subcommand string) (makeStream bool, read int64, ok bool) {
	read = unknownCount
	for i := 5; i < len(c.args); i++ {
		switch {
		case subcommand == "create" && c.is(i, "mkstream"):
			makeStream = true
		case (subcommand == "create" || subcommand == "setid") && c.is(i, "entriesread") && i+1 < len(c.args):
			i++
			if read, ok = c.integer(i); !ok {
				return false, 0, false
			}
			if read < 0 && read != unknownCount {
				c.reply.Error("ERR value for ENTRIESREAD must be positive or -1")
				return false, 0, false
			}
		default:
			c.subcommandSyntax()
			return false, 0, false
		}
	}
	return makeStream, read, true
}

func (c call) createGroup(s *stream, e *entry, read int64) {
	if len(c.args) > 8 {
		c.subcommandSyntax()
		return
	}
	var id streamID
	if string(c.args[4]) != "$" {
		var ok bool
		if id, ok = c.streamID(4); !ok {
			return
		}
	} else if e != nil {
		id = s.last
	}
	if e != nil && s.group(c.args[3]) != nil {
		c.reply.Error("BUSYGROUP Consumer Group name already exists")
		return
	}
	if e == nil {
		s, e = new(stream), c.create(c.args[2])
		c.db.keys.setObject(e, s)
	}
	s.addGroup(string(c.args[3]), id, read)
	c.groupChanged(e, "xgroup-create")
	c.reply.OK()
}

func (c call) setGroupID(s *stream, e *entry, g *streamGroup, read int64) {
	if len(c.args) != 5 && len(c.args) != 7 {
		c.subcommandSyntax()
		return
	}
	id := s.last
	if string(c.args[4]) != "$" {
		var ok bool
		if id, ok = c.streamPoint(4); !ok {
			return
		}
	}
	g.last, g.read = id, read
	c.groupChanged(e, "xgroup-setid")
	c.reply.OK()
}

// streamPoint reads argument i as an ID, "-" or "+", or replies an error.
func (c call) streamPoint(i int) (streamID, bool) {
	switch string(c.args[i]) {
	case "-":
		return streamID{}, true
	case "+":
		return lastStreamID, true
	}
	return c.streamID(i)
}

func (c call) createConsumer(e *entry, g *streamGroup) {
	if g.addConsumer(string(c.args[4]), c.now) == nil {
		c.reply.Int(0)
		return
	}
	c.groupChanged(e, "xgroup-createconsumer")
	c.reply.Int(1)
}

func (c call) dropConsumer(e *entry, g *streamGroup) {
	consumer := g.consumer(c.args[4])
	if consumer == nil {
		c.reply.Int(0)
		return
	}
	c.reply.Int(int64(consumer.pending.size))
	g.dropConsumer(consumer)
	c.groupChanged(e, "xgroup-delconsumer")
}

// groupChanged ends a change that a subcommand of XGROUP made.
func (c call) groupChanged(e *entry, event string) {
	c.touch(e)
	c.notify(EventStream, event, c.args[2])
}

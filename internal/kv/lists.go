package kv

import (
	"fmt"
	"math"

	"lockstep/internal/view"
)

var listCommands = []Command{
	{Name: "lindex", Arity: 3, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: lindex},
	{Name: "linsert", Arity: 5, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: linsert},
	{Name: "llen", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: llen},
	{Name: "lmove", Arity: 5, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 2, Step: 1, run: lmove},
	{Name: "lpop", Arity: -2, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: lpop},
	{Name: "lpos", Arity: -3, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: lpos},
	{Name: "lpush", Arity: -3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: lpush},
	{Name: "lpushx", Arity: -3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: lpushX},
	{Name: "lrange", Arity: 4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: lrange},
	{Name: "lrem", Arity: 4, Flags: Write, FirstKey: 1, LastKey: 1, Step: 1, run: lrem},
	{Name: "lset", Arity: 4, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: lset},
	{Name: "ltrim", Arity: 4, Flags: Write, FirstKey: 1, LastKey: 1, Step: 1, run: ltrim},
	{Name: "rpop", Arity: -2, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: rpop},
	{Name: "rpoplpush", Arity: 3, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 2, Step: 1, run: rpopLpush},
	{Name: "rpush", Arity: -3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: rpush},
	{Name: "rpushx", Arity: -3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: rpushX},
}

// listEnd is an end of a list.
type listEnd uint8

const (
	left listEnd = iota
	right
)

func pushEvent(end listEnd) string {
	if end == left {
		return "lpush"
	}
	return "rpush"
}

func popEvent(end listEnd) string {
	if end == left {
		return "lpop"
	}
	return "rpop"
}

// settle ends a change of a collection and tells of the event: an empty one is taken out.
func (c call) settle(e *entry, size int, class EventClass, event string) {
	key := view.Bytes(e.key())
	if size > 0 {
		c.touch(e)
		c.notify(class, event, key)
		return
	}
	c.notify(class, event, key)
	c.drop(e)
	c.notify(EventGeneric, "del", key)
}

func lpush(c call)  { c.push(left, true) }
func rpush(c call)  { c.push(right, true) }
func lpushX(c call) { c.push(left, false) }
func rpushX(c call) { c.push(right, false) }

func (c call) push(end listEnd, create bool) {
	l, e, ok := objectOf[*list](c, c.args[1])
	if !ok {
		return
	}
	if e == nil {
		if !create {
			c.reply.Int(0)
			return
		}
		l, e = &list{limits: c.limits()}, c.create(c.args[1])
		c.db.keys.setObject(e, l)
	}
	for _, arg := range c.args[2:] {
		l.push(end, arg)
	}
	c.touch(e)
	c.notify(EventList, pushEvent(end), c.args[1])
	c.reply.Int(int64(l.length))
}

func lpop(c call) { c.popEnd("lpop", left) }
func rpop(c call) { c.popEnd("rpop", right) }

func (c call) popEnd(command string, end listEnd) {
	if len(c.args) > 3 {
		c.reply.Error(WrongArityError(command))
		return
	}
	counted, count := len(c.args) == 3, 1
	if counted {
		var ok bool
		if count, ok = c.positive(2); !ok {
			return
		}
	}
	l, e, ok := objectOf[*list](c, c.args[1])
	switch {
	case !ok:
		return
	case e == nil && counted:
		c.reply.NullArray()
		return
	case e == nil:
		c.reply.Null()
		return
	}
	if !counted {
		c.reply.Bulk(l.pop(end))
		c.settle(e, l.length, EventList, popEvent(end))
		return
	}
	c.popMany(e, l, end, count)
}

// popMany takes up to count elements off a list and replies them.
func (c call) popMany(e *entry, l *list, end listEnd, count int) {
	count = min(count, l.length)
	c.reply.Array(count)
	if count == 0 {
		return
	}
	for range count {
		c.reply.Bulk(l.pop(end))
	}
	c.settle(e, l.length, EventList, popEvent(end))
}

func llen(c call) {
	l, e, ok := objectOf[*list](c, c.args[1])
	switch {
	case !ok:
	case e == nil:
		c.reply.Int(0)
	default:
		c.reply.Int(int64(l.length))
	}
}

func lrange(c call) {
	start, end, ok := c.integers(2)
	if !ok {
		return
	}
	l, e, ok := objectOf[*list](c, c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Array(0)
		return
	}
	from, limit := indexRange(start, end, l.length)
	c.reply.Array(limit - from)
	l.each(from, func(s []byte) bool {
		if from == limit {
			return false
		}
		c.reply.Bulk(s)
		from++
		return true
	})
}

// indexRange turns the inclusive bounds of LRANGE, LTRIM and ZRANGE into a half open range within length; from == end
// if nothing is in it.
func indexRange(start, stop int64, length int) (from, end int) {
	n := int64(length)
	start = fromEnd(start, n)
	if stop < 0 {
		stop += n
	}
	if start > stop || start >= n {
		return 0, 0
	}
	return int(start), int(min(stop, n-1)) + 1
}

func lindex(c call) {
	l, e, ok := objectOf[*list](c, c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Null()
		return
	}
	i, ok := c.listIndex(l, 2)
	switch {
	case !ok:
	case i < 0:
		c.reply.Null()
	default:
		c.reply.Bulk(l.index(i))
	}
}

// listIndex reads argument i as an index into l: -1 if it lies outside; false after an error reply.
func (c call) listIndex(l *list, i int) (int, bool) {
	n, ok := c.integer(i)
	if n < 0 {
		n += int64(l.length)
	}
	if n < 0 || n >= int64(l.length) {
		n = -1
	}
	return int(n), ok
}

func lset(c call) {
	l, e, ok := objectOf[*list](c, c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Error(errNoKey)
		return
	}
	i, ok := c.listIndex(l, 2)
	if !ok {
		return
	}
	if i < 0 {
		c.reply.Error(errIndex)
		return
	}
	l.set(i, c.args[3])
	c.touch(e)
	c.notify(EventList, "lset", c.args[1])
	c.reply.OK()
}

func linsert(c call) {
	after := c.is(2, "after")
	if !after && !c.is(2, "before") {
		c.reply.Error(errSyntax)
		return
	}
	l, e, ok := objectOf[*list](c, c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Int(0)
		return
	}
	at, found := 0, false
	l.each(0, func(s []byte) bool {
		found = string(s) == string(c.args[3])
		at++
		return !found
	})
	if !found {
		c.reply.Int(-1)
		return
	}
	if !after {
		at--
	}
	l.insert(at, c.args[4])
	c.touch(e)
	c.notify(EventList, "linsert", c.args[1])
	c.reply.Int(int64(l.length))
}

// betweenLongs reads argument i as an integer above MinInt64, or replies as Redis does.
func (c call) betweenLongs(i int) (int64, bool) {
	n, ok := c.integer(i)
	if ok && n == math.MinInt64 {
		c.reply.Error(fmt.Sprintf("ERR value is out of range, value must between %d and %d", -math.MaxInt64, math.MaxInt64))
		return 0, false
	}
	return n, ok
}

func lrem(c call) {
	count, ok := c.integer(2)
	if !ok {
		return
	}
	l, e, ok := objectOf[*list](c, c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Int(0)
		return
	}
	limit := max(count, -count)
	if count == math.MinInt64 { // has no opposite: Redis takes out all, from the back
		limit = 0
	}
	removed := l.removeEqual(c.args[3], clampInt(limit), count < 0)
	if removed > 0 {
		c.settle(e, l.length, EventList, "lrem")
	}
	c.reply.Int(int64(removed))
}

func ltrim(c call) {
	start, stop, ok := c.integers(2)
	if !ok {
		return
	}
	l, e, ok := objectOf[*list](c, c.args[1])
	if !ok {
		return
	}
	if e != nil {
		from, end := indexRange(start, stop, l.length)
		l.trim(from, end)
		c.settle(e, l.length, EventList, "ltrim")
	}
	c.reply.OK()
}

// lposOptions are the options of LPOS.
type lposOptions struct {
	rank   int64
	count  int // -1: not given
	maxLen int // 0: no limit
}

func (c call) parseLposOptions() (o lposOptions, ok bool) {
	o = lposOptions{rank: 1, count: -1}
	for i := 3; i < len(c.args); i += 2 {
		var n int64
		switch more := i+1 < len(c.args); {
		case more && c.is(i, "rank"):
			if o.rank, ok = c.integer(i + 1); ok && o.rank == math.MinInt64 {
				c.reply.Error("ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807")
				return o, false
			}
			if ok && o.rank == 0 {
				c.reply.Error("ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... " +
					"or use negative to start from the end of the list")
				return o, false
			}
		case more && c.is(i, "count"):
			n, ok = c.between(i+1, 0, math.MaxInt64, "ERR COUNT can't be negative")
			o.count = clampInt(n)
		case more && c.is(i, "maxlen"):
			n, ok = c.between(i+1, 0, math.MaxInt64, "ERR MAXLEN can't be negative")
			o.maxLen = clampInt(n)
		default:
			c.reply.Error(errSyntax)
			ok = false
		}
		if !ok {
			return o, false
		}
	}
	return o, true
}

func lpos(c call) {
	o, ok := c.parseLposOptions()
	if !ok {
		return
	}
	l, e, ok := objectOf[*list](c, c.args[1])
	if !ok {
		return
	}
	var places []int
	if e != nil {
		places = l.positions(c.args[2], o)
	}
	switch {
	case o.count >= 0:
		c.reply.Array(len(places))
		for _, place := range places {
			c.reply.Int(int64(place))
		}
	case len(places) == 0:
		c.reply.Null()
	default:
		c.reply.Int(int64(places[0]))
	}
}

// positions returns the indices of the elements equal to s that LPOS asks for.
func (l *list) positions(s []byte, o lposOptions) []int {
	var places []int
	wanted := max(1, o.count)
	if o.count == 0 {
		wanted = math.MaxInt
	}
	skip, seen := max(o.rank, -o.rank)-1, 0
	visit := func(item []byte) bool {
		if string(item) == string(s) {
			if skip > 0 {
				skip--
			} else if o.rank > 0 {
				places = append(places, seen)
			} else {
				places = append(places, l.length-1-seen)
			}
		}
		seen++
		return len(places) < wanted && (o.maxLen == 0 || seen < o.maxLen)
	}
	if o.rank > 0 {
		l.each(0, visit)
	} else {
		l.eachBack(visit)
	}
	return places
}

func (c call) listEnd(i int) (listEnd, bool) {
	switch {
	case c.is(i, "left"):
		return left, true
	case c.is(i, "right"):
		return right, true
	}
	c.reply.Error(errSyntax)
	return left, false
}

// listEnds reads arguments i and i+1.
func (c call) listEnds(i int) (from, to listEnd, ok bool) {
	if from, ok = c.listEnd(i); ok {
		to, ok = c.listEnd(i + 1)
	}
	return from, to, ok
}

func lmove(c call) {
	if from, to, ok := c.listEnds(3); ok {
		c.moveElement(from, to)
	}
}

func rpopLpush(c call) { c.moveElement(right, left) }

func (c call) moveElement(from, to listEnd) {
	source, sourceEntry, ok := objectOf[*list](c, c.args[1])
	if !ok {
		return
	}
	if sourceEntry == nil {
		c.reply.Null()
		return
	}
	target, targetEntry, ok := objectOf[*list](c, c.args[2])
	if !ok {
		return
	}
	s := source.pop(from)
	if targetEntry == nil {
		target, targetEntry = &list{limits: c.limits()}, c.create(c.args[2])
		c.db.keys.setObject(targetEntry, target)
	}
	target.push(to, s)
	c.touch(targetEntry)
	c.notify(EventList, pushEvent(to), c.args[2])
	c.settle(sourceEntry, source.length, EventList, popEvent(from))
	c.reply.Bulk(s)
}

package kv

import (
	"math"

	"lockstep/internal/resp"
)

var zsetCommands = []Command{
	{Name: "zadd", Arity: -4, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zadd},
	{Name: "zcard", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zcard},
	{Name: "zdiff", Arity: -3, Flags: Readonly | Movable, run: zdiff, numkeys: 1},
	{Name: "zdiffstore", Arity: -4, Flags: Write | DenyOOM | Movable, FirstKey: 1, LastKey: 1, Step: 1, run: zdiffStore, numkeys: 2},
	{Name: "zincrby", Arity: 4, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zincrBy},
	{Name: "zinter", Arity: -3, Flags: Readonly | Movable, run: zinter, numkeys: 1},
	{Name: "zintercard", Arity: -3, Flags: Readonly | Movable, run: zinterCard, numkeys: 1},
	{Name: "zinterstore", Arity: -4, Flags: Write | DenyOOM | Movable, FirstKey: 1, LastKey: 1, Step: 1, run: zinterStore, numkeys: 2},
	{Name: "zmscore", Arity: -3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zmScore},
	{Name: "zpopmax", Arity: -2, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zpopMax},
	{Name: "zpopmin", Arity: -2, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zpopMin},
	{Name: "zrandmember", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: zrandMember, random: true},
	{Name: "zrank", Arity: -3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zrank},
	{Name: "zrem", Arity: -3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zrem},
	{Name: "zrevrank", Arity: -3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zrevRank},
	{Name: "zscan", Arity: -3, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: zscan},
	{Name: "zscore", Arity: 3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zscore},
	{Name: "zunion", Arity: -3, Flags: Readonly | Movable, run: zunion, numkeys: 1},
	{Name: "zunionstore", Arity: -4, Flags: Write | DenyOOM | Movable, FirstKey: 1, LastKey: 1, Step: 1, run: zunionStore, numkeys: 2},
}

func (c call) zset() (*zsetObject, *entry, bool) { return objectOf[*zsetObject](c, c.args[1]) }

// zaddOptions are the conditions of ZADD.
type zaddOptions struct {
	nx, xx, gt, lt bool
	ch             bool // count changes too, not only additions
	incr           bool
}

const errNaN = "ERR resulting score is not a number (NaN)"

// parseZaddOptions returns the options and the place of the first score.
func (c call) parseZaddOptions() (o zaddOptions, i int) {
	for i = 2; i < len(c.args); i++ {
		switch {
		case c.is(i, "nx"):
			o.nx = true
		case c.is(i, "xx"):
			o.xx = true
		case c.is(i, "gt"):
			o.gt = true
		case c.is(i, "lt"):
			o.lt = true
		case c.is(i, "ch"):
			o.ch = true
		case c.is(i, "incr"):
			o.incr = true
		default:
			return o, i
		}
	}
	return o, i
}

func zadd(c call) {
	o, i := c.parseZaddOptions()
	pairs := len(c.args) - i
	switch {
	case pairs == 0 || pairs%2 == 1:
		c.reply.Error(errSyntax)
	case o.nx && o.xx:
		c.reply.Error("ERR XX and NX options at the same time are not compatible")
	case o.gt && o.nx || o.lt && o.nx || o.gt && o.lt:
		c.reply.Error("ERR GT, LT, and/or NX options at the same time are not compatible")
	case o.incr && pairs > 2:
		c.reply.Error("ERR INCR option supports a single increment-element pair")
	default:
		c.addScores(o, c.args[i:])
	}
}

func zincrBy(c call) { c.addScores(zaddOptions{incr: true}, c.args[2:]) }

// addScores executes ZADD and ZINCRBY: pairs holds scores and members.
func (c call) addScores(o zaddOptions, pairs [][]byte) {
	scores := make([]float64, len(pairs)/2)
	for i := range scores {
		var ok bool
		if scores[i], ok = parseDouble(pairs[2*i]); !ok {
			c.reply.Error(errFloat)
			return
		}
	}
	z, e, ok := c.zset()
	if !ok {
		return
	}
	if e == nil {
		if o.xx {
			c.replyScores(o, scoreResult{})
			return
		}
		z, e = &zsetObject{limits: c.limits()}, c.create(c.args[1])
		c.db.keys.setObject(e, z)
	}
	var r scoreResult
	for i, score := range scores {
		if !z.applyScore(o, pairs[2*i+1], score, &r) {
			c.reply.Error(errNaN) // only with INCR, hence of a single pair: nothing has changed
			return
		}
	}
	if r.added+r.moved > 0 {
		c.touch(e)
		event := "zadd"
		if o.incr {
			event = "zincr"
		}
		c.notify(EventZset, event, c.args[1])
	}
	c.replyScores(o, r)
}

// scoreResult is what the pairs of one ZADD did.
type scoreResult struct {
	added, moved int64
	score        float64 // of the last pair that the conditions let through
	admitted     bool
}

// applyScore executes one pair. It reports false if the score would be no number.
func (z *zsetObject) applyScore(o zaddOptions, name []byte, score float64, r *scoreResult) bool {
	old, found := z.score(name)
	if !found {
		if !o.xx {
			z.insertNew(name, score)
			r.added++
			r.score, r.admitted = score, true
		}
		return true
	}
	if o.nx {
		return true
	}
	if o.incr {
		if score += old; math.IsNaN(score) {
			return false
		}
	}
	if o.lt && score >= old || o.gt && score <= old {
		return true
	}
	if score != old {
		z.move(name, score)
		r.moved++
	}
	r.score, r.admitted = score, true
	return true
}

func (c call) replyScores(o zaddOptions, r scoreResult) {
	switch {
	case o.incr && r.admitted:
		c.reply.Double(r.score)
	case o.incr:
		c.reply.Null()
	case o.ch:
		c.reply.Int(r.added + r.moved)
	default:
		c.reply.Int(r.added)
	}
}

func zrem(c call) { removeElements[*zsetObject](c, EventZset, "zrem") }

func zcard(c call) { replyLength[*zsetObject](c) }

func zscore(c call) {
	if z, e, ok := c.zset(); ok {
		c.replyScore(z, e, c.args[2])
	}
}

func (c call) replyScore(z *zsetObject, e *entry, name []byte) {
	if e != nil {
		if score, found := z.score(name); found {
			c.reply.Double(score)
			return
		}
	}
	c.reply.Null()
}

func zmScore(c call) {
	z, e, ok := c.zset()
	if !ok {
		return
	}
	c.reply.Array(len(c.args) - 2)
	for _, name := range c.args[2:] {
		c.replyScore(z, e, name)
	}
}

func zrank(c call)    { c.replyRank(false) }
func zrevRank(c call) { c.replyRank(true) }

func (c call) replyRank(reverse bool) {
	withScore := len(c.args) > 3
	if len(c.args) > 4 || withScore && !c.is(3, "withscore") {
		c.reply.Error(errSyntax)
		return
	}
	z, e, ok := c.zset()
	if !ok {
		return
	}
	var score float64
	found := false
	if e != nil {
		score, found = z.score(c.args[2])
	}
	switch {
	case !found && withScore:
		c.reply.NullArray()
		return
	case !found:
		c.reply.Null()
		return
	}
	rank := z.rank(ranked{c.args[2], score})
	if reverse {
		rank = z.length() - 1 - rank
	}
	if withScore {
		c.reply.Array(2)
	}
	c.reply.Int(int64(rank))
	if withScore {
		c.reply.Double(score)
	}
}

func zpopMin(c call) { c.popScores(false) }
func zpopMax(c call) { c.popScores(true) }

func (c call) popScores(highest bool) {
	if len(c.args) > 3 {
		c.reply.Error(errSyntax)
		return
	}
	counted, count := len(c.args) == 3, 1
	if counted {
		var ok bool
		if count, ok = c.positive(2); !ok {
			return
		}
	}
	z, e, ok := c.zset()
	if !ok {
		return
	}
	if e == nil || count == 0 {
		c.reply.Array(0)
		return
	}
	count = min(count, z.length())
	if counted {
		c.pairsHeader(count, true)
	} else {
		c.reply.Array(2) // RESP3 nests the pairs only if a count was given
	}
	z.popEnd(count, highest, func(m ranked) {
		if counted {
			c.pairHeader(true)
		}
		c.reply.Bulk(m.name)
		c.reply.Double(m.score)
	})
	c.settle(e, z.length(), EventZset, scorePopEvent(highest))
}

func scorePopEvent(highest bool) string {
	if highest {
		return "zpopmax"
	}
	return "zpopmin"
}

// popEnd takes count members out at one end, 0 < count <= length, after it has shown them.
func (z *zsetObject) popEnd(count int, highest bool, show func(ranked)) {
	from, end := 0, count
	if highest {
		from, end = z.length()-count, z.length()
	}
	z.eachRank(from, end, highest, func(m ranked) bool {
		show(m)
		return true
	})
	z.dropRanks(from, end)
}

func zrandMember(c call) {
	o, ok := c.parseRandom("withscores")
	if !ok {
		return
	}
	z, e, ok := c.zset()
	if !ok {
		return
	}
	if e == nil {
		c.replyNothing(o.counted)
		return
	}
	replyRandom(c, z, o, func(e element) { c.reply.Double(e.score) })
}

func zscan(c call) {
	cursor, ok := c.scanCursor(2)
	if !ok {
		return
	}
	z, e, ok := c.zset()
	if !ok {
		return
	}
	if e == nil {
		c.scanHeader(0, 0)
		return
	}
	o, ok := c.scanOptions(3, cursor)
	if !ok {
		return
	}
	scanElements(c, z, o, func(e element) { c.replyScoreText(z, e.score) })
}

// replyScoreText replies a score as ZSCAN shows it: a string in both protocols. The compact encoding holds whole numbers
// as integers and shows all their digits.
func (c call) replyScoreText(z *zsetObject, score float64) {
	if z.big == nil && score == math.Trunc(score) && math.Abs(score) <= math.MaxInt64/2 {
		c.reply.BulkInt(int64(score))
		return
	}
	var digits [40]byte
	c.reply.Bulk(resp.AppendDouble(digits[:0], score))
}

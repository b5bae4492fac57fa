package kv

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

var zsetRangeCommands = []Command{
	{Name: "zcount", Arity: 4, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zcount},
	{Name: "zlexcount", Arity: 4, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: zlexCount},
	{Name: "zrange", Arity: -4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: zrange},
	{Name: "zrangebylex", Arity: -4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: zrangeByLex},
	{Name: "zrangebyscore", Arity: -4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: zrangeByScore},
	{Name: "zrangestore", Arity: -5, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 2, Step: 1, run: zrangeStore},
	{Name: "zremrangebylex", Arity: 4, Flags: Write, FirstKey: 1, LastKey: 1, Step: 1, run: zremRangeByLex},
	{Name: "zremrangebyrank", Arity: 4, Flags: Write, FirstKey: 1, LastKey: 1, Step: 1, run: zremRangeByRank},
	{Name: "zremrangebyscore", Arity: 4, Flags: Write, FirstKey: 1, LastKey: 1, Step: 1, run: zremRangeByScore},
	{Name: "zrevrange", Arity: -4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: zrevRange},
	{Name: "zrevrangebylex", Arity: -4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: zrevRangeByLex},
	{Name: "zrevrangebyscore", Arity: -4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: zrevRangeByScore},
}

// rangeKind says what the bounds of a range are.
type rangeKind uint8

const (
	anyRange rangeKind = iota // not yet said
	byRank
	byScore
	byLex
)

// rangeRequest is a parsed request for a range of a sorted set.
type rangeRequest struct {
	kind          rangeKind
	reverse       bool
	scores        bool
	offset, limit int64 // limit negative: none

	start, stop int64               // byRank
	below       func(m ranked) bool // byScore, byLex: m stands before the range
	notAbove    func(m ranked) bool // byScore, byLex: m stands in or before the range
}

const (
	errScoreRange = "ERR min or max is not a float"
	errLexRange   = "ERR min or max not valid string range item"
)

// scoreBound reads a bound of a score range as Redis does: '(' excludes it; what strtod leaves unread is an error, but an
// empty number is 0.
func scoreBound(b []byte) (bound float64, excluded, ok bool) {
	text := string(b)
	text, excluded = strings.CutPrefix(text, "(")
	text = strings.TrimLeft(text, " \t\n\v\f\r")
	if text == "" {
		return 0, excluded, len(b) == 0 || len(b) == 1 && excluded
	}
	text, ok = numberText([]byte(text))
	if !ok {
		return 0, excluded, false
	}
	bound, err := strconv.ParseFloat(text, 64)
	return bound, excluded, err == nil || math.IsInf(bound, 0)
}

// parseScores sets the bounds of a score range, or replies an error.
func (c call) parseScores(r *rangeRequest, lowest, highest []byte) bool {
	low, lowOut, ok := scoreBound(lowest)
	high, highOut, ok2 := scoreBound(highest)
	if !ok || !ok2 {
		c.reply.Error(errScoreRange)
		return false
	}
	r.below = func(m ranked) bool { return m.score < low || lowOut && m.score == low }
	r.notAbove = func(m ranked) bool { return m.score < high || !highOut && m.score == high }
	return true
}

// lexBound is a bound of a range of names: before all, behind all, or at a name.
type lexBound struct {
	side     int // -1 before all, +1 behind all, 0 at the name
	name     []byte
	excluded bool
}

func parseLexBound(b []byte) (lexBound, bool) {
	switch {
	case string(b) == "-":
		return lexBound{side: -1}, true
	case string(b) == "+":
		return lexBound{side: 1}, true
	case len(b) > 0 && (b[0] == '(' || b[0] == '['):
		return lexBound{name: b[1:], excluded: b[0] == '('}, true
	}
	return lexBound{}, false
}

// compare returns where name stands: before (-1), at (0) or behind (+1) the bound.
func (l lexBound) compare(name []byte) int {
	if l.side != 0 {
		return -l.side
	}
	return bytes.Compare(name, l.name)
}

// parseNames sets the bounds of a range of names, or replies an error.
func (c call) parseNames(r *rangeRequest, lowest, highest []byte) bool {
	low, ok := parseLexBound(lowest)
	high, ok2 := parseLexBound(highest)
	if !ok || !ok2 {
		c.reply.Error(errLexRange)
		return false
	}
	r.below = func(m ranked) bool {
		order := low.compare(m.name)
		return order < 0 || order == 0 && low.excluded
	}
	r.notAbove = func(m ranked) bool {
		order := high.compare(m.name)
		return order < 0 || order == 0 && !high.excluded
	}
	return true
}

// ranksOf returns the half open range of ranks that r asks for, before offset and limit.
func (z *zsetObject) ranksOf(r rangeRequest) (from, end int) {
	if r.kind == byRank {
		from, end = indexRange(r.start, r.stop, z.length())
		if r.reverse {
			from, end = z.length()-end, z.length()-from
		}
		return from, end
	}
	from, end = z.countWhile(r.below), z.countWhile(r.notAbove)
	return from, max(from, end)
}

// selected returns the half open range of ranks that r asks for.
func (z *zsetObject) selected(r rangeRequest) (from, end int) {
	from, end = z.ranksOf(r)
	if r.kind == byRank {
		return from, end
	}
	size := int64(end - from)
	skip, take := r.offset, r.limit
	if skip < 0 || skip > size {
		skip = size
	}
	if take < 0 || take > size-skip {
		take = size - skip
	}
	if r.reverse {
		return end - int(skip+take), end - int(skip)
	}
	return from + int(skip), from + int(skip+take)
}

func zrange(c call)    { c.rangeCommand(rangeRequest{}, 1) }
func zrevRange(c call) { c.rangeCommand(rangeRequest{kind: byRank, reverse: true}, 1) }

func zrangeByScore(c call)    { c.rangeCommand(rangeRequest{kind: byScore}, 1) }
func zrangeByLex(c call)      { c.rangeCommand(rangeRequest{kind: byLex}, 1) }
func zrevRangeByScore(c call) { c.rangeCommand(rangeRequest{kind: byScore, reverse: true}, 1) }
func zrevRangeByLex(c call)   { c.rangeCommand(rangeRequest{kind: byLex, reverse: true}, 1) }
func zrangeStore(c call)      { c.rangeCommand(rangeRequest{}, 2) }

// rangeCommand answers all forms of ZRANGE. source is the argument of the key that is read; with 2, argument 1 is the
// key that takes the result. kind and reverse are given where the command's name says them.
func (c call) rangeCommand(r rangeRequest, source int) {
	unified := r.kind == anyRange
	if !c.parseRangeOptions(&r, source, unified) || !c.parseRangeBounds(&r, source) {
		return
	}
	z, e, ok := objectOf[*zsetObject](c, c.args[source])
	if !ok {
		return
	}
	from, end := 0, 0
	if e != nil {
		from, end = z.selected(r)
	}
	if source == 1 {
		c.pairsHeader(end-from, r.scores)
		if from < end {
			z.eachRank(from, end, r.reverse, func(m ranked) bool {
				c.replyRanked(m, r.scores)
				return true
			})
		}
		return
	}
	var members []ranked
	if from < end {
		z.eachRank(from, end, r.reverse, func(m ranked) bool {
			members = append(members, m)
			return true
		})
	}
	result := &zsetObject{limits: c.limits()}
	for _, m := range members {
		result.insertNew(m.name, m.score)
	}
	c.replace(c.args[1], result, len(members), EventZset, "zrangestore")
	c.reply.Int(int64(len(members)))
}

// replyRanked replies a member, with its score if asked: flat in RESP2, a pair in RESP3.
func (c call) replyRanked(m ranked, score bool) {
	c.pairHeader(score)
	c.reply.Bulk(m.name)
	if score {
		c.reply.Double(m.score)
	}
}

func (c call) parseRangeOptions(r *rangeRequest, source int, unified bool) bool {
	r.limit = -1
	for i := source + 3; i < len(c.args); i++ {
		switch {
		case source == 1 && c.is(i, "withscores"):
			r.scores = true
		case c.is(i, "limit") && i+2 < len(c.args):
			var ok bool
			if r.offset, r.limit, ok = c.integers(i + 1); !ok {
				return false
			}
			i += 2
		case unified && !r.reverse && c.is(i, "rev"):
			r.reverse = true
		case r.kind == anyRange && c.is(i, "bylex"):
			r.kind = byLex
		case r.kind == anyRange && c.is(i, "byscore"):
			r.kind = byScore
		default:
			c.reply.Error(errSyntax)
			return false
		}
	}
	if r.kind == anyRange {
		r.kind = byRank
	}
	switch {
	case r.limit != -1 && r.kind == byRank:
		c.reply.Error("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
		return false
	case r.scores && r.kind == byLex:
		c.reply.Error("ERR syntax error, WITHSCORES not supported in combination with BYLEX")
		return false
	}
	return true
}

func (c call) parseRangeBounds(r *rangeRequest, source int) bool {
	low, high := c.args[source+1], c.args[source+2]
	if r.reverse && r.kind != byRank {
		low, high = high, low
	}
	var ok bool
	switch r.kind {
	case byScore:
		return c.parseScores(r, low, high)
	case byLex:
		return c.parseNames(r, low, high)
	}
	r.start, r.stop, ok = c.integers(source + 1)
	return ok
}

func zcount(c call) {
	r := rangeRequest{kind: byScore}
	if c.parseScores(&r, c.args[2], c.args[3]) {
		c.replyCount(r)
	}
}

func zlexCount(c call) {
	r := rangeRequest{kind: byLex}
	if c.parseNames(&r, c.args[2], c.args[3]) {
		c.replyCount(r)
	}
}

func (c call) replyCount(r rangeRequest) {
	z, e, ok := c.zset()
	switch {
	case !ok:
	case e == nil:
		c.reply.Int(0)
	default:
		from, end := z.ranksOf(r)
		c.reply.Int(int64(end - from))
	}
}

func zremRangeByRank(c call) {
	r := rangeRequest{kind: byRank}
	var ok bool
	if r.start, r.stop, ok = c.integers(2); ok {
		c.removeRange(r, "zremrangebyrank")
	}
}

func zremRangeByScore(c call) {
	r := rangeRequest{kind: byScore}
	if c.parseScores(&r, c.args[2], c.args[3]) {
		c.removeRange(r, "zremrangebyscore")
	}
}

func zremRangeByLex(c call) {
	r := rangeRequest{kind: byLex}
	if c.parseNames(&r, c.args[2], c.args[3]) {
		c.removeRange(r, "zremrangebylex")
	}
}

func (c call) removeRange(r rangeRequest, event string) {
	z, e, ok := c.zset()
	if !ok {
		return
	}
	if e == nil {
		c.reply.Int(0)
		return
	}
	from, end := z.ranksOf(r)
	if from < end {
		z.dropRanks(from, end)
		c.settle(e, z.length(), EventZset, event)
	}
	c.reply.Int(int64(end - from))
}

package kv

import (
	"math"
	"math/big"
	"strconv"

	"lockstep/internal/resp"
)

// blockingCommands take from the first of several keys that has something, and wait if none has (those that begin with
// B).
var blockingCommands = []Command{
	{Name: "blmove", Arity: 6, Flags: Write | DenyOOM | Blocking, FirstKey: 1, LastKey: 2, Step: 1, run: blmove},
	{Name: "blmpop", Arity: -5, Flags: Write | Blocking | Movable, numkeys: 2, run: blmpop},
	{Name: "blpop", Arity: -3, Flags: Write | Blocking, FirstKey: 1, LastKey: -2, Step: 1, run: blpop},
	{Name: "brpop", Arity: -3, Flags: Write | Blocking, FirstKey: 1, LastKey: -2, Step: 1, run: brpop},
	{Name: "brpoplpush", Arity: 4, Flags: Write | DenyOOM | Blocking, FirstKey: 1, LastKey: 2, Step: 1, run: brpopLpush},
	{Name: "bzmpop", Arity: -5, Flags: Write | Blocking | Movable, numkeys: 2, run: bzmpop},
	{Name: "bzpopmax", Arity: -3, Flags: Write | Blocking | Fast, FirstKey: 1, LastKey: -2, Step: 1, run: bzpopMax},
	{Name: "bzpopmin", Arity: -3, Flags: Write | Blocking | Fast, FirstKey: 1, LastKey: -2, Step: 1, run: bzpopMin},
	{Name: "lmpop", Arity: -4, Flags: Write | Movable, numkeys: 1, run: lmpop},
	{Name: "zmpop", Arity: -4, Flags: Write | Movable, numkeys: 1, run: zmpop},
}

// maxTimeout is the longest time-out that Redis can add to its clock, in milliseconds.
const maxTimeout = float64(math.MaxInt64)

// timeout reads argument i as seconds, and returns milliseconds, rounded up; 0 is for ever. It replies an error if it is none.
func (c call) timeout(i int) (int64, bool) {
	seconds, ok := parseLongDouble(c.args[i])
	if !ok {
		c.reply.Error("ERR timeout is not a float or out of range")
		return 0, false
	}
	millis, _ := seconds.Mul(seconds, big.NewFloat(1000)).Float64()
	millis = math.Ceil(millis)
	switch {
	case millis < 0:
		c.reply.Error("ERR timeout is negative")
		return 0, false
	case millis >= maxTimeout-float64(c.now):
		c.reply.Error("ERR timeout is out of range")
		return 0, false
	}
	return int64(millis), true
}

func blpop(c call) { blockingPop[*list](c, "list", c.pairOfList("lpop", left)) }
func brpop(c call) { blockingPop[*list](c, "list", c.pairOfList("rpop", right)) }

func bzpopMin(c call) { blockingPop[*zsetObject](c, "zset", c.tripleOfScore(false)) }
func bzpopMax(c call) { blockingPop[*zsetObject](c, "zset", c.tripleOfScore(true)) }

// blockingPop takes from the first of the keys that holds a T, or waits for one as long as the last argument says.
func blockingPop[T object](c call, kind string, take func(key []byte)) {
	last := len(c.args) - 1
	timeout, ok := c.timeout(last)
	if !ok {
		return
	}
	keys := c.args[1:last]
	key, ok := firstOf[T](c, keys)
	switch {
	case !ok:
	case key != nil:
		take(key)
	case !c.block(blocking{kind: kind, keys: keys, timeout: timeout}):
		c.reply.NullArray()
	}
}

// pairOfList pops one element of the list at a key and replies both.
func (c call) pairOfList(command string, end listEnd) func(key []byte) {
	return func(key []byte) {
		c.reply.Array(2)
		c.reply.Bulk(key)
		c.args = [][]byte{[]byte(command), key}
		c.popEnd(command, end)
	}
}

// tripleOfScore pops one member of the sorted set at a key and replies key, member and score.
func (c call) tripleOfScore(highest bool) func(key []byte) {
	return func(key []byte) {
		c.reply.Array(3)
		c.reply.Bulk(key)
		c.popRanked(key, 1, highest, nil)
	}
}

// firstOf returns the first of the keys that is there, nil if none is; false after an error reply because it holds
// something else.
func firstOf[T object](c call, keys [][]byte) ([]byte, bool) {
	for _, key := range keys {
		if _, e, ok := objectOf[T](c, key); !ok || e != nil {
			return key, ok
		}
	}
	return nil, true
}

func blmove(c call) {
	if from, to, ok := c.listEnds(3); ok {
		c.blockingMove(5, from, to)
	}
}

func brpopLpush(c call) { c.blockingMove(3, right, left) }

func (c call) blockingMove(timeoutAt int, from, to listEnd) {
	timeout, ok := c.timeout(timeoutAt)
	if !ok {
		return
	}
	_, e, ok := objectOf[*list](c, c.args[1])
	switch {
	case !ok:
	case e != nil:
		c.moveElement(from, to)
	case !c.block(blocking{kind: "list", keys: c.args[1:2], timeout: timeout}):
		c.reply.Null()
	}
}

// popRequest are the arguments of LMPOP and its sisters.
type popRequest struct {
	keys  [][]byte
	where []byte // LEFT, RIGHT, MIN, MAX
	count int
}

// popRequest reads the arguments from that which counts the keys on, or replies an error. first and second are the words
// that may stand behind the keys.
func (c call) popRequest(i int, first, second string) (p popRequest, ok bool) {
	n, ok := resp.ParseInt(c.args[i])
	if !ok || n < 1 {
		c.reply.Error("ERR numkeys should be greater than 0")
		return p, false
	}
	if n > int64(len(c.args)-i-2) {
		c.reply.Error(errSyntax)
		return p, false
	}
	p.keys = c.args[i+1 : i+1+int(n)]
	at := i + 1 + int(n)
	if !c.is(at, first) && !c.is(at, second) {
		c.reply.Error(errSyntax)
		return p, false
	}
	p.where, p.count = c.args[at], 1
	switch rest := len(c.args) - at - 1; {
	case rest == 0:
		return p, true
	case rest < 2 || !c.is(at+1, "count"):
		c.reply.Error(errSyntax)
		return p, false
	}
	count, ok := resp.ParseInt(c.args[at+2])
	switch {
	case !ok || count < 1:
		c.reply.Error("ERR count should be greater than 0")
		return p, false
	case len(c.args) > at+3:
		c.reply.Error(errSyntax)
		return p, false
	}
	p.count = clampInt(count)
	return p, true
}

func lmpop(c call)  { c.popLists(1) }
func blmpop(c call) { c.popLists(2) }
func zmpop(c call)  { c.popScoresOf(1) }
func bzmpop(c call) { c.popScoresOf(2) }

// popLists answers LMPOP and BLMPOP.
func (c call) popLists(numkeys int) {
	popSeveral[*list](c, numkeys, "list", "left", "right", func(key []byte, p popRequest) {
		command, end := "lpop", left
		if isWord(p.where, "right") {
			command, end = "rpop", right
		}
		c.args = [][]byte{[]byte(command), key, strconv.AppendInt(nil, int64(p.count), 10)}
		c.popEnd(command, end)
	})
}

// popScoresOf answers ZMPOP and BZMPOP.
func (c call) popScoresOf(numkeys int) {
	popSeveral[*zsetObject](c, numkeys, "zset", "min", "max", func(key []byte, p popRequest) {
		c.popRanked(key, p.count, isWord(p.where, "max"), func(count int) { c.reply.Array(count) })
	})
}

// popSeveral replies the first of the keys that holds a T, and what take replies of it. The command may wait if its first
// argument is not yet numkeys, but a time-out.
func popSeveral[T object](c call, numkeys int, kind, first, second string, take func(key []byte, p popRequest)) {
	p, ok := c.popRequest(numkeys, first, second)
	if !ok {
		return
	}
	wait := numkeys > 1
	timeout := int64(0)
	if wait {
		if timeout, ok = c.timeout(1); !ok {
			return
		}
	}
	key, ok := firstOf[T](c, p.keys)
	switch {
	case !ok:
	case key != nil:
		c.reply.Array(2)
		c.reply.Bulk(key)
		take(key, p)
	case !wait || !c.block(blocking{kind: kind, keys: p.keys, timeout: timeout}):
		c.reply.NullArray()
	}
}

// popRanked takes up to count members off one end of the sorted set at key, which is there, and replies them with their
// scores: as pairs behind header(how many) if there is one, else one behind the other.
func (c call) popRanked(key []byte, count int, highest bool, header func(count int)) {
	z, e, _ := objectOf[*zsetObject](c, key)
	count = min(count, z.length())
	if header != nil {
		header(count)
	}
	z.popEnd(count, highest, func(m ranked) {
		if header != nil {
			c.reply.Array(2)
		}
		c.reply.Bulk(m.name)
		c.reply.Double(m.score)
	})
	c.settle(e, z.length(), EventZset, scorePopEvent(highest))
}

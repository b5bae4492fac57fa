package kv

import (
	"fmt"
	"math"
	"slices"
)

// aggregate says how the scores of a member of several sets become one.
type aggregate uint8

const (
	aggregateSum aggregate = iota
	aggregateMin
	aggregateMax
)

// combine follows Redis' comparisons to the letter: they decide what a NaN and the sign of a zero become.
func (a aggregate) combine(x, y float64) float64 {
	switch {
	case a == aggregateMin && y < x, a == aggregateMax && y > x:
		return y
	case a != aggregateSum:
		return x
	}
	if sum := x + y; !math.IsNaN(sum) {
		return sum
	}
	return 0 // +inf and -inf
}

// algebraKind is one of the three operations on sorted sets.
type algebraKind uint8

const (
	union algebraKind = iota
	intersection
	difference
)

// operand is one source: a sorted set, or a set whose members count 1.
type operand struct {
	scores *zsetObject
	set    *setObject
	weight float64
}

func (o operand) size() int {
	switch {
	case o.scores != nil:
		return o.scores.length()
	case o.set != nil:
		return o.set.length()
	}
	return 0
}

// score returns the weighted score of a member: perhaps NaN, for combine.
func (o operand) score(name []byte) (float64, bool) {
	switch {
	case o.scores != nil:
		score, found := o.scores.score(name)
		return score * o.weight, found
	case o.set != nil:
		return o.weight, o.set.has(name)
	}
	return 0, false
}

func (o operand) weighted(score float64) float64 {
	if score *= o.weight; math.IsNaN(score) {
		return 0 // 0 times infinity
	}
	return score
}

// each visits the members with their weighted scores.
func (o operand) each(visit func(ranked) bool) {
	switch {
	case o.scores != nil:
		o.scores.each(func(m ranked) bool { return visit(ranked{m.name, o.weighted(m.score)}) })
	case o.set != nil:
		o.set.each(func(name []byte) bool { return visit(ranked{name, o.weighted(1)}) })
	}
}

// algebra is a parsed ZUNION, ZINTER or ZDIFF, with or without STORE.
type algebra struct {
	kind      algebraKind
	command   string
	store     bool
	cardinal  bool // ZINTERCARD
	operands  []operand
	aggregate aggregate
	scores    bool
	limit     int
}

func zunion(c call)      { c.combineScores(algebra{kind: union, command: "zunion"}) }
func zinter(c call)      { c.combineScores(algebra{kind: intersection, command: "zinter"}) }
func zdiff(c call)       { c.combineScores(algebra{kind: difference, command: "zdiff"}) }
func zunionStore(c call) { c.combineScores(algebra{kind: union, command: "zunionstore", store: true}) }
func zinterStore(c call) {
	c.combineScores(algebra{kind: intersection, command: "zinterstore", store: true})
}
func zdiffStore(c call) {
	c.combineScores(algebra{kind: difference, command: "zdiffstore", store: true})
}
func zinterCard(c call) {
	c.combineScores(algebra{kind: intersection, command: "zintercard", cardinal: true})
}

func (c call) combineScores(a algebra) {
	if !c.parseOperands(&a) {
		return
	}
	result := a.compute()
	switch {
	case a.cardinal:
		c.reply.Int(int64(len(result)))
	case a.store:
		c.replace(c.args[1], zsetOf(result, c.limits()), len(result), EventZset, a.command)
		c.reply.Int(int64(len(result)))
	default:
		sortRanked(result)
		c.pairsHeader(len(result), a.scores)
		for _, m := range result {
			c.replyRanked(m, a.scores)
		}
	}
}

// parseOperands reads the sources and options, or replies an error.
func (c call) parseOperands(a *algebra) bool {
	at := 1
	if a.store {
		at = 2
	}
	count, ok := c.integer(at)
	if !ok {
		return false
	}
	if count < 1 {
		c.reply.Error(fmt.Sprintf("ERR at least 1 input key is needed for '%s' command", a.command))
		return false
	}
	first := at + 1
	if count > int64(len(c.args)-first) {
		c.reply.Error(errSyntax)
		return false
	}
	for _, key := range c.args[first : first+int(count)] {
		o := operand{weight: 1}
		if e := c.find(key); e != nil {
			switch source := e.value.object().(type) {
			case *zsetObject:
				o.scores = source
			case *setObject:
				o.set = source
			default:
				c.reply.Error(wrongType)
				return false
			}
		}
		a.operands = append(a.operands, o)
	}
	return c.parseAlgebraOptions(a, first+int(count))
}

func (c call) parseAlgebraOptions(a *algebra, i int) bool {
	a.limit = math.MaxInt
	if a.cardinal {
		var ok bool
		a.limit, ok = c.cardLimit(i)
		return ok
	}
	for i < len(c.args) {
		left := len(c.args) - i - 1
		switch {
		case a.kind != difference && left >= len(a.operands) && c.is(i, "weights"):
			if !c.parseWeights(a, i+1) {
				return false
			}
			i += 1 + len(a.operands)
		case a.kind != difference && left >= 1 && c.is(i, "aggregate"):
			switch {
			case c.is(i+1, "sum"):
				a.aggregate = aggregateSum
			case c.is(i+1, "min"):
				a.aggregate = aggregateMin
			case c.is(i+1, "max"):
				a.aggregate = aggregateMax
			default:
				c.reply.Error(errSyntax)
				return false
			}
			i += 2
		case !a.store && c.is(i, "withscores"):
			a.scores = true
			i++
		default:
			c.reply.Error(errSyntax)
			return false
		}
	}
	return true
}

func (c call) parseWeights(a *algebra, i int) bool {
	for j := range a.operands {
		weight, ok := parseDouble(c.args[i+j])
		if !ok {
			c.reply.Error("ERR weight value is not a float")
			return false
		}
		a.operands[j].weight = weight
	}
	return true
}

// compute returns the result, in any order; the names belong to the sources. Redis begins with the smallest source, which
// decides how sums are rounded.
func (a algebra) compute() []ranked {
	operands := a.operands
	if a.kind != difference {
		operands = slices.Clone(operands)
		slices.SortStableFunc(operands, func(x, y operand) int { return x.size() - y.size() })
	}
	var result []ranked
	switch a.kind {
	case union:
		places := make(map[string]int)
		for _, o := range operands {
			o.each(func(m ranked) bool {
				if i, found := places[string(m.name)]; found {
					result[i].score = a.aggregate.combine(result[i].score, m.score)
				} else {
					places[string(m.name)] = len(result)
					result = append(result, m)
				}
				return true
			})
		}
	case intersection:
		operands[0].each(func(m ranked) bool {
			for _, o := range operands[1:] {
				other, ok := o.score(m.name)
				if !ok {
					return true
				}
				m.score = a.aggregate.combine(m.score, other)
			}
			result = append(result, m)
			return len(result) < a.limit
		})
	case difference:
		operands[0].each(func(m ranked) bool {
			for _, o := range operands[1:] {
				if _, ok := o.score(m.name); ok {
					return true
				}
			}
			result = append(result, m)
			return true
		})
	}
	return result
}

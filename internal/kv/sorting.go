package kv

import (
	"bytes"
	"math"
	"slices"
	"strconv"
)

var sortCommands = []Command{
	{Name: "lcs", Arity: -3, Flags: Readonly, FirstKey: 1, LastKey: 2, Step: 1, run: lcs},
	{Name: "sort", Arity: -2, Flags: Write | DenyOOM | Movable, FirstKey: 1, LastKey: 1, Step: 1, run: sortKey},
	{Name: "sort_ro", Arity: -2, Flags: Readonly | Movable, FirstKey: 1, LastKey: 1, Step: 1, run: sortKeyRO},
}

// sortRequest is a parsed SORT.
type sortRequest struct {
	descending, alpha bool
	start, count      int64  // of LIMIT; a negative count: all
	by                []byte // pattern, nil: the elements themselves
	unsorted          bool   // BY with a pattern without '*'
	get               [][]byte
	store             []byte
}

func (c call) parseSort(storable bool) (r sortRequest, ok bool) {
	r.count = -1
	for i := 2; i < len(c.args); i++ {
		left := len(c.args) - i - 1
		switch {
		case c.is(i, "asc"):
			r.descending = false
		case c.is(i, "desc"):
			r.descending = true
		case c.is(i, "alpha"):
			r.alpha = true
		case c.is(i, "limit") && left >= 2:
			if r.start, r.count, ok = c.integers(i + 1); !ok {
				return r, false
			}
			i += 2
		case storable && c.is(i, "store") && left >= 1:
			i++
			r.store = c.args[i]
		case c.is(i, "by") && left >= 1:
			i++
			r.by = c.args[i]
			r.unsorted = r.unsorted || starOf(r.by) < 0
		case c.is(i, "get") && left >= 1:
			i++
			r.get = append(r.get, c.args[i])
		default:
			c.reply.Error(errSyntax)
			return r, false
		}
	}
	return r, true
}

// starOf returns the place of the '*' of a pattern, -1 if there is none; like C, it does not look beyond a NUL.
func starOf(pattern []byte) int {
	return bytes.IndexByte(cString(pattern, len(pattern)), '*')
}

// lookUp returns what a pattern of BY or GET stands for with an element: the element itself ("#"), a string, or a field
// of a hash behind "->".
func (c call) lookUp(pattern, element []byte) ([]byte, bool) {
	if string(pattern) == "#" {
		return element, true
	}
	star := starOf(pattern)
	if star < 0 {
		return nil, false
	}
	prefix, suffix := pattern[:star], pattern[star+1:]
	var field []byte
	if arrow := bytes.Index(cString(suffix, len(suffix)), []byte("->")); arrow >= 0 && arrow+2 < len(suffix) && suffix[arrow+2] != 0 {
		suffix, field = suffix[:arrow], suffix[arrow+2:]
	}
	e := c.find(slices.Concat(prefix, element, suffix))
	switch {
	case e == nil:
		return nil, false
	case field != nil:
		if h, ok := e.value.object().(*hashObject); ok {
			return h.get(field)
		}
		return nil, false
	}
	return e.value.text(), isText(e)
}

// sortItem is an element to be sorted.
type sortItem struct {
	element []byte
	score   float64
	weight  []byte // what BY found, with ALPHA; nil: nothing
}

func sortKey(c call)   { c.sort(true) }
func sortKeyRO(c call) { c.sort(false) }

func (c call) sort(storable bool) {
	r, ok := c.parseSort(storable)
	if !ok {
		return
	}
	var items []sortItem
	collect := func(element []byte) bool {
		items = append(items, sortItem{element: element})
		return true
	}
	if e := c.find(c.args[1]); e != nil {
		switch o := e.value.object().(type) {
		case *list:
			o.each(0, collect)
		case *setObject:
			o.each(collect)
			if r.unsorted && r.store != nil { // what is stored shall not depend on the order of a hash table
				r.unsorted, r.alpha, r.by = false, true, nil
			}
		case *zsetObject:
			o.eachRank(0, o.length(), false, func(m ranked) bool { return collect(m.name) })
		default:
			c.reply.Error(wrongType)
			return
		}
	}
	switch {
	case !r.unsorted:
		if !c.weigh(r, items) {
			c.reply.Error("ERR One or more scores can't be converted into double")
			return
		}
		slices.SortStableFunc(items, r.compare)
	case r.descending && !isSet(c.find(c.args[1])):
		slices.Reverse(items)
	}
	c.answerSort(r, r.limit(items))
}

func isSet(e *entry) bool {
	if e == nil {
		return false
	}
	_, ok := e.value.object().(*setObject)
	return ok
}

// weigh finds what items are compared by; it reports false if a weight is no number where one is needed.
func (c call) weigh(r sortRequest, items []sortItem) (ok bool) {
	ok = true
	for i := range items {
		weight := items[i].element
		if r.by != nil {
			var found bool
			if weight, found = c.lookUp(r.by, weight); !found {
				continue
			}
		}
		if r.alpha {
			items[i].weight = weight
			if weight == nil {
				items[i].weight = []byte{}
			}
			continue
		}
		score, valid := sortScore(weight)
		items[i].score = score
		ok = ok && valid
	}
	return ok
}

// smallestNormal is the smallest positive float64 of full precision.
const smallestNormal = 0x1p-1022

// sortScore reads a number as C's strtod does, which skips leading space and takes nothing for 0.
func sortScore(b []byte) (float64, bool) {
	b = cString(b, len(b))
	if len(b) == 0 {
		return 0, true
	}
	if isWord(b, "inf") || isWord(b, "+inf") || isWord(b, "-inf") {
		f, err := strconv.ParseFloat(string(b), 64)
		return f, err == nil
	}
	f, ok := parseDouble(bytes.TrimLeft(b, " \t\n\v\f\r"))
	return f, ok && (f == 0 || math.Abs(f) >= smallestNormal) // strtod says that digits were lost
}

func (r sortRequest) compare(a, b sortItem) int {
	order := 0
	switch {
	case r.alpha && (a.weight == nil || b.weight == nil):
		if a.weight != nil {
			order = 1
		} else if b.weight != nil {
			order = -1
		}
	case r.alpha && r.store == nil: // Redis compares as the locale says; ours is C
		order = bytes.Compare(cString(a.weight, len(a.weight)), cString(b.weight, len(b.weight)))
	case r.alpha:
		order = bytes.Compare(a.weight, b.weight)
	case a.score < b.score:
		order = -1
	case a.score > b.score:
		order = 1
	default:
		order = bytes.Compare(a.element, b.element)
	}
	if r.descending {
		return -order
	}
	return order
}

func (r sortRequest) limit(items []sortItem) []sortItem {
	size := int64(len(items))
	start := min(max(r.start, 0), size)
	if r.count < 0 {
		return items[start:]
	}
	return items[start : start+min(r.count, size-start)]
}

func (c call) answerSort(r sortRequest, items []sortItem) {
	size := len(items)
	if len(r.get) > 0 {
		size *= len(r.get)
	}
	if r.store == nil {
		c.reply.Array(size)
		for _, item := range items {
			c.eachOfItem(r, item, func(text []byte, found bool) {
				if found {
					c.reply.Bulk(text)
				} else {
					c.reply.Null()
				}
			})
		}
		return
	}
	result := &list{limits: c.limits()}
	for _, item := range items {
		c.eachOfItem(r, item, func(text []byte, _ bool) { result.push(right, text) })
	}
	c.replace(r.store, result, size, EventList, "sortstore")
	c.reply.Int(int64(size))
}

// eachOfItem visits what SORT answers for one element.
func (c call) eachOfItem(r sortRequest, item sortItem, visit func(text []byte, found bool)) {
	if len(r.get) == 0 {
		visit(item.element, true)
	}
	for _, pattern := range r.get {
		visit(c.lookUp(pattern, item.element))
	}
}

// maxLCS bounds the table of LCS in cells, which take four bytes each, as proto-max-bulk-len does in Redis.
const maxLCS = maxString / 4

// lcsOptions are the options of LCS.
type lcsOptions struct {
	length, places, lengths bool // LEN, IDX, WITHMATCHLEN
	shortest                int64
}

func (c call) parseLCS() (o lcsOptions, ok bool) {
	for i := 3; i < len(c.args); i++ {
		switch {
		case c.is(i, "idx"):
			o.places = true
		case c.is(i, "len"):
			o.length = true
		case c.is(i, "withmatchlen"):
			o.lengths = true
		case c.is(i, "minmatchlen") && i+1 < len(c.args):
			i++
			if o.shortest, ok = c.integer(i); !ok {
				return o, false
			}
		default:
			c.reply.Error(errSyntax)
			return o, false
		}
	}
	if o.places && o.length {
		c.reply.Error("ERR If you want both the length and indexes, please just use IDX.")
		return o, false
	}
	return o, true
}

func lcs(c call) {
	var texts [2][]byte
	for i, key := range c.args[1:3] {
		e := c.find(key)
		if e == nil {
			continue
		}
		if !isText(e) {
			c.reply.Error("ERR The specified keys must contain string values")
			return
		}
		texts[i] = e.value.text()
	}
	o, ok := c.parseLCS()
	if !ok {
		return
	}
	a, b := texts[0], texts[1]
	if int64(len(a)+1)*int64(len(b)+1) > maxLCS {
		c.reply.Error("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")
		return
	}
	t := newLCSTable(a, b)
	length := int64(t.at(len(a), len(b)))
	switch {
	case o.length:
		c.reply.Int(length)
	case o.places:
		c.reply.Map(2)
		c.reply.BulkString("matches")
		mark, count := c.reply.Mark(), 0
		t.matches(func(m lcsMatch) {
			if o.shortest <= 0 || int64(m.length) >= o.shortest {
				c.replyMatch(m, o.lengths)
				count++
			}
		})
		c.reply.InsertArray(mark, count)
		c.reply.BulkString("len")
		c.reply.Int(length)
	default:
		common := make([]byte, length)
		t.matches(func(m lcsMatch) {
			length -= int64(m.length)
			copy(common[length:], a[m.first:m.first+m.length])
		})
		c.reply.Bulk(common)
	}
}

func (c call) replyMatch(m lcsMatch, length bool) {
	parts := 2
	if length {
		parts = 3
	}
	c.reply.Array(parts)
	for _, from := range []int{m.first, m.second} {
		c.reply.Array(2)
		c.reply.Int(int64(from))
		c.reply.Int(int64(from + m.length - 1))
	}
	if length {
		c.reply.Int(int64(m.length))
	}
}

// lcsTable holds the length of the longest common subsequence of every prefix of a and every prefix of b.
type lcsTable struct {
	a, b    []byte
	lengths []uint32
}

func newLCSTable(a, b []byte) lcsTable {
	width := len(b) + 1
	t := lcsTable{a, b, make([]uint32, (len(a)+1)*width)}
	for i := 1; i <= len(a); i++ {
		above, row := t.lengths[(i-1)*width:i*width], t.lengths[i*width:(i+1)*width]
		for j := 1; j <= len(b); j++ {
			if a[i-1] == b[j-1] {
				row[j] = above[j-1] + 1
			} else {
				row[j] = max(above[j], row[j-1])
			}
		}
	}
	return t
}

func (t lcsTable) at(i, j int) uint32 { return t.lengths[i*(len(t.b)+1)+j] }

// lcsMatch is a run of equal bytes: where it begins in both texts.
type lcsMatch struct{ first, second, length int }

// matches visits the runs of the longest common subsequence from the last to the first.
func (t lcsTable) matches(visit func(lcsMatch)) {
	run := lcsMatch{}
	for i, j := len(t.a), len(t.b); i > 0 && j > 0; {
		if t.a[i-1] == t.b[j-1] {
			i, j = i-1, j-1
			run = lcsMatch{i, j, run.length + 1}
			continue
		}
		if run.length > 0 {
			visit(run)
			run.length = 0
		}
		if t.at(i-1, j) > t.at(i, j-1) {
			i--
		} else {
			j--
		}
	}
	if run.length > 0 {
		visit(run)
	}
}

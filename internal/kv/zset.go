package kv

import (
	"bytes"
	"slices"

	"lockstep/internal/view"
)

// zsetObject is a sorted set: packed in order of rank while it is small, then a table by name and a tree by rank for good.
type zsetObject struct {
	pack  pack
	count int // of the pack's members
	big   *zsetTable
	// limits are the machine's; nil: standardLimits.
	limits *packLimits
}

// zsetTable holds members by name in the order of insertion, and by rank.
type zsetTable struct {
	table[float64]
	ranks ranking
}

func (t *zsetTable) put(name string, score float64) { t.ranks.insert(t.insert(name, score)) }

// ranked is a member with its score. The name belongs to the sorted set.
type ranked struct {
	name  []byte
	score float64
}

// before is the order of sorted sets: by score, then by name, byte for byte.
func (m ranked) before(other ranked) bool {
	return m.score < other.score || m.score == other.score && bytes.Compare(m.name, other.name) < 0
}

func rankedOf(m *member) ranked { return ranked{view.Bytes(m.key), m.value} }

func (z *zsetObject) length() int {
	if z.big != nil {
		return z.big.table.size
	}
	return z.count
}

// score returns the score of a member.
func (z *zsetObject) score(name []byte) (float64, bool) {
	if z.big != nil {
		if m := z.big.find(name); m != nil {
			return m.value, true
		}
		return 0, false
	}
	at := z.pack.find(name, 2)
	if at < 0 {
		return 0, false
	}
	_, text, _ := z.pack.entry(at, 2)
	return readScore(text), true
}

// insertNew puts in a member that is not there.
func (z *zsetObject) insertNew(name []byte, score float64) {
	if z.big == nil && (z.count >= z.limits.of().zset.entries || len(name) > z.limits.of().zset.text) {
		z.unpack()
	}
	if z.big != nil {
		z.big.put(string(name), score)
		return
	}
	var room [8]byte
	at := 0
	for at < len(z.pack) {
		other, text, end := z.pack.entry(at, 2)
		if (ranked{name, score}).before(ranked{other, readScore(text)}) {
			break
		}
		at = end
	}
	z.pack.splice(at, at, name, appendScore(room[:0], score))
	z.count++
}

// unpack makes a table of the pack.
func (z *zsetObject) unpack() {
	z.big = new(zsetTable)
	for i := 0; i < len(z.pack); {
		name, text, end := z.pack.entry(i, 2)
		z.big.put(string(name), readScore(text))
		i = end
	}
	z.pack, z.count = nil, 0
}

// move gives a member that is there another score.
func (z *zsetObject) move(name []byte, score float64) {
	if z.big != nil {
		m := z.big.find(name)
		z.big.ranks.remove(m)
		if z.big.image != nil {
			z.big.image.before(m.id)
		}
		m.value = score
		z.big.ranks.insert(m)
		return
	}
	z.drop(name)
	z.insertNew(name, score)
}

// drop takes a member out and reports whether it was there.
func (z *zsetObject) drop(name []byte) bool {
	if z.big != nil {
		m := z.big.find(name)
		if m != nil {
			z.big.ranks.remove(m)
			z.big.remove(m)
		}
		return m != nil
	}
	at := z.pack.find(name, 2)
	if at >= 0 {
		z.pack.drop(at, 2)
		z.count--
	}
	return at >= 0
}

// dropRanks takes out the members with ranks from..end.
func (z *zsetObject) dropRanks(from, end int) {
	if z.big != nil {
		for _, m := range z.big.ranks.members(from, end, false) {
			z.big.ranks.remove(m)
			z.big.remove(m)
		}
		return
	}
	if from < end {
		z.pack.splice(z.pack.skip(from, 2), z.pack.skip(end, 2))
		z.count -= end - from
	}
}

// countWhile returns how many members from the first on satisfy inside, which must hold for a prefix of the order.
func (z *zsetObject) countWhile(inside func(ranked) bool) int {
	if z.big != nil {
		return z.big.ranks.countWhile(func(m *member) bool { return inside(rankedOf(m)) })
	}
	count := 0
	for i := 0; i < len(z.pack); count++ {
		name, text, end := z.pack.entry(i, 2)
		if !inside(ranked{name, readScore(text)}) {
			break
		}
		i = end
	}
	return count
}

// rank returns how many members stand before m.
func (z *zsetObject) rank(m ranked) int {
	return z.countWhile(func(other ranked) bool { return other.before(m) })
}

// eachRank visits the members with ranks from..end until visit returns false, from the highest to the lowest if reverse.
func (z *zsetObject) eachRank(from, end int, reverse bool, visit func(ranked) bool) {
	if from >= end {
		return
	}
	if z.big == nil {
		z.eachPacked(from, end, reverse, visit)
		return
	}
	r := &z.big.ranks
	if reverse {
		for l, left := r.at(end-1), end-from; left > 0 && visit(rankedOf(l.member())); left-- {
			l = l.prev()
		}
		return
	}
	for l, left := r.at(from), end-from; left > 0 && visit(rankedOf(l.member())); left-- {
		l = l.next()
	}
}

func (z *zsetObject) eachPacked(from, end int, reverse bool, visit func(ranked) bool) {
	var room [128]int // places, to walk backwards
	places := room[:0]
	at := z.pack.skip(from, 2)
	for range end - from {
		places = append(places, at)
		_, _, at = z.pack.entry(at, 2)
	}
	if reverse {
		slices.Reverse(places)
	}
	for _, at := range places {
		name, text, _ := z.pack.entry(at, 2)
		if !visit(ranked{name, readScore(text)}) {
			return
		}
	}
}

// each visits all members until visit returns false.
func (z *zsetObject) each(visit func(ranked) bool) {
	if z.big != nil {
		z.big.each(func(m *member) bool { return visit(rankedOf(m)) })
		return
	}
	z.eachPacked(0, z.count, false, visit)
}

func (z *zsetObject) elements(visit func(element) bool) {
	z.each(func(m ranked) bool { return visit(element{name: m.name, score: m.score}) })
}

func (z *zsetObject) draw(d *dice) element {
	if z.big != nil {
		m := z.big.draw(d)
		return element{name: view.Bytes(m.key), score: m.value}
	}
	name, text, _ := z.pack.entry(z.pack.skip(d.below(z.count), 2), 2)
	return element{name: name, score: readScore(text)}
}

func (z *zsetObject) scan(cursor uint64, count int, visit func(element)) uint64 {
	if z.big != nil {
		return z.big.scan(cursor, count, func(m *member) { visit(element{name: view.Bytes(m.key), score: m.value}) })
	}
	z.elements(func(e element) bool {
		visit(e)
		return true
	})
	return 0
}

func (z *zsetObject) kind() string { return "zset" }

func (z *zsetObject) encoding() string {
	if z.big != nil {
		return "skiplist"
	}
	return "listpack"
}

func (z *zsetObject) size() int {
	if z.big != nil {
		return 192 + z.big.bytes + z.big.table.size*(nodeOverhead+48)
	}
	return 48 + cap(z.pack)
}

func (z *zsetObject) clone() object {
	twin := &zsetObject{pack: slices.Clone(z.pack), count: z.count, limits: z.limits}
	if z.big != nil {
		twin.big = new(zsetTable)
		z.big.each(func(m *member) bool { twin.big.put(m.key, m.value); return true })
	}
	return twin
}

func (z *zsetObject) digest(d *digester) {
	d.number(uint64(z.length()))
	d.text(z.encoding())
	if z.big == nil {
		d.bytes(z.pack)
		return
	}
	d.number(z.big.lastID)
	z.big.each(func(m *member) bool {
		d.number(m.id)
		d.text(m.key)
		d.float(m.value)
		return true
	})
}

// zsetOf makes a sorted set of members that need not be in order; nothing of theirs is kept. It gets the encoding that
// its size calls for.
func zsetOf(members []ranked, limits *packLimits) *zsetObject {
	z, limit := &zsetObject{limits: limits}, limits.of().zset
	if len(members) > limit.entries || slices.ContainsFunc(members, func(m ranked) bool { return len(m.name) > limit.text }) {
		z.big = new(zsetTable)
		for _, m := range members {
			z.big.put(string(m.name), m.score)
		}
		return z
	}
	for _, m := range members {
		z.insertNew(m.name, m.score)
	}
	return z
}

// sortRanked puts members in the order of sorted sets. No score is NaN.
func sortRanked(members []ranked) {
	slices.SortFunc(members, func(a, b ranked) int {
		switch {
		case a.before(b):
			return -1
		case b.before(a):
			return 1
		}
		return 0
	})
}

package kv

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// pack is a small collection in one piece of memory: texts of at most maxPacked bytes, each behind a byte with its
// length. An entry is a name, or a name and a value: the methods take the width, 1 or 2.
//
//	set     name
//	hash    name value
//	zset    name score, in order of rank; a score is a zigzag integer of 0 to 7 bytes, or the 8 bytes of a float64,
//	        little endian both
//
// What the methods return is part of the pack: it may neither be kept nor changed, and is valid until the pack changes.
type pack []byte

const (
	// maxPacked is the largest length of a text in a pack, in bytes.
	maxPacked = 255
	// maxPackEntries bounds the settings: a pack is searched from its beginning.
	maxPackEntries = 4096
)

// packLimit says up to where a collection is a pack: entries, and bytes of one text.
type packLimit struct{ entries, text int }

// packLimits are the limits of all types: what Redis' settings about compact encodings say.
type packLimits struct {
	hash, set, zset packLimit
	integers        int       // members of a set of integers only
	list            packLimit // text: bytes of all elements together
}

var standardLimits = packLimits{packLimit{512, 64}, packLimit{128, 64}, packLimit{128, 64}, 512, packLimit{math.MaxInt, 8 << 10}}

func (l *packLimits) of() *packLimits {
	if l == nil {
		return &standardLimits
	}
	return l
}

// limits are the limits of this machine, which change with its settings; an object obeys them when it is next written.
func (c call) limits() *packLimits { return &c.m.set.packs }

var packSettings = []settingRule{
	packSetting("hash-max-listpack-entries", standardLimits.hash.entries, maxPackEntries, func(l *packLimits, n int) { l.hash.entries = n }),
	packSetting("hash-max-listpack-value", standardLimits.hash.text, maxPacked, func(l *packLimits, n int) { l.hash.text = n }),
	packSetting("set-max-intset-entries", standardLimits.integers, maxPackEntries, func(l *packLimits, n int) { l.integers = n }),
	packSetting("set-max-listpack-entries", standardLimits.set.entries, maxPackEntries, func(l *packLimits, n int) { l.set.entries = n }),
	packSetting("set-max-listpack-value", standardLimits.set.text, maxPacked, func(l *packLimits, n int) { l.set.text = n }),
	packSetting("zset-max-listpack-entries", standardLimits.zset.entries, maxPackEntries, func(l *packLimits, n int) { l.zset.entries = n }),
	packSetting("zset-max-listpack-value", standardLimits.zset.text, maxPacked, func(l *packLimits, n int) { l.zset.text = n }),
	{name: "list-max-listpack-size", standard: "-2", parse: parseBetween(math.MinInt32, math.MaxInt32), apply: func(m *Machine, value string) {
		n, _ := strconv.Atoi(value)
		m.set.packs.list = listLimit(n)
	}},
	{name: "list-max-ziplist-size", alias: "list-max-listpack-size", parse: parseBetween(math.MinInt32, math.MaxInt32)},
	{name: "hash-max-ziplist-entries", alias: "hash-max-listpack-entries", parse: parsePackLimit("hash-max-ziplist-entries")},
	{name: "hash-max-ziplist-value", alias: "hash-max-listpack-value", parse: parsePackLimit("hash-max-ziplist-value")},
	{name: "zset-max-ziplist-entries", alias: "zset-max-listpack-entries", parse: parsePackLimit("zset-max-ziplist-entries")},
	{name: "zset-max-ziplist-value", alias: "zset-max-listpack-value", parse: parsePackLimit("zset-max-ziplist-value")},
}

// listLimit returns what list-max-listpack-size means: a number of elements (and no more than 8 KB), or -1 to -5 for 4 to 64 KB.
func listLimit(n int) packLimit {
	if n >= 0 {
		return packLimit{max(n, 1), 8 << 10}
	}
	return packLimit{math.MaxInt, 4 << 10 << (min(-n, 5) - 1)}
}

// packSetting returns the rule of one limit. Values above most are taken and shown, and have the effect of most.
func packSetting(name string, standard, most int, set func(*packLimits, int)) settingRule {
	return settingRule{name: name, standard: strconv.Itoa(standard), parse: parsePackLimit(name), apply: func(m *Machine, value string) {
		n, _ := strconv.ParseInt(value, 10, 64)
		set(&m.set.packs, int(min(n, int64(most))))
	}}
}

// parsePackLimit returns how the value of a limit is read: a number of entries, or bytes with a unit.
func parsePackLimit(name string) func(string) (string, string) {
	if strings.HasSuffix(name, "-entries") {
		return parseBetween(0, math.MaxInt64)
	}
	return parseMemory
}

// text returns the text at place i and the place behind it.
func (p pack) text(i int) ([]byte, int) {
	end := i + 1 + int(p[i])
	return p[i+1 : end : end], end
}

// entry returns the entry at place i and the place behind it; the value is nil with width 1.
func (p pack) entry(i, width int) (name, value []byte, end int) {
	name, end = p.text(i)
	if width == 2 {
		value, end = p.text(end)
	}
	return name, value, end
}

// find returns the place of the entry of that name, -1 if there is none.
func (p pack) find(name []byte, width int) int {
	for i := 0; i < len(p); {
		end := i + 1 + int(p[i])
		if int(p[i]) == len(name) && string(p[i+1:end]) == string(name) {
			return i
		}
		if width == 2 {
			end += 1 + int(p[end])
		}
		i = end
	}
	return -1
}

// skip returns the place of the entry that stands count entries behind the first.
func (p pack) skip(count, width int) int {
	i := 0
	for range count * width {
		i += 1 + int(p[i])
	}
	return i
}

// splice puts texts in the place of what stands between from and end.
func (p *pack) splice(from, end int, texts ...[]byte) {
	size := 0
	for _, text := range texts {
		size += 1 + len(text)
	}
	old := *p
	tail := len(old) - end
	length := from + size + tail
	b := old
	if length > cap(old) || length < cap(old)/4 {
		// The allocator rounds up; nothing more, because small collections are many.
		b = append(pack(nil), make([]byte, length)...)
		copy(b, old[:from])
		copy(b[from+size:length], old[end:])
	} else {
		b = b[:length]
		copy(b[from+size:length], old[end:])
	}
	for _, text := range texts {
		b[from] = byte(len(text))
		from += 1 + copy(b[from+1:], text)
	}
	*p = b[:length]
}

// drop takes out the entry at place i.
func (p *pack) drop(i, width int) {
	_, _, end := p.entry(i, width)
	p.splice(i, end)
}

// appendScore appends the encoding of a score. A zero loses its sign, as in Redis' compact encoding.
func appendScore(b []byte, score float64) []byte {
	if !isInteger(score) {
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(score))
	}
	n := int64(score)
	zigzag := uint64(n<<1) ^ uint64(n>>63)
	var digits [8]byte
	binary.LittleEndian.PutUint64(digits[:], zigzag)
	return append(b, digits[:(bits.Len64(zigzag)+7)/8]...)
}

func readScore(b []byte) float64 {
	var digits [8]byte
	copy(digits[:], b)
	n := binary.LittleEndian.Uint64(digits[:])
	if len(b) == 8 {
		return math.Float64frombits(n)
	}
	return float64(int64(n>>1) ^ -int64(n&1))
}

// element is an element of a collection: name and text of a hash's field, name of a set's member, name and score of a
// sorted set's member. The bytes belong to the collection.
type element struct {
	name, text []byte
	score      float64
}

// collection is what HRANDFIELD, SRANDMEMBER and ZRANDMEMBER draw from and SCAN walks over.
type collection interface {
	// length is the number of elements.
	length() int
	// draw returns one of the elements, each with the same probability.
	draw(d *dice) element
	// elements visits all until visit returns false.
	elements(visit func(element) bool)
	// scan visits some elements behind a cursor and returns the next cursor, 0 at the end; a small collection all.
	scan(cursor uint64, count int, visit func(element)) uint64
	// drop takes the element of that name out and reports whether it was there.
	drop(name []byte) bool
}

// replyLength answers HLEN, SCARD and ZCARD.
func replyLength[T interface {
	object
	collection
}](c call) {
	from, e, ok := objectOf[T](c, c.args[1])
	switch {
	case !ok:
	case e == nil:
		c.reply.Int(0)
	default:
		c.reply.Int(int64(from.length()))
	}
}

// removeElements answers HDEL, SREM and ZREM: it takes the elements that the arguments name out.
func removeElements[T interface {
	object
	collection
}](c call, class EventClass, event string) {
	from, e, ok := objectOf[T](c, c.args[1])
	if !ok {
		return
	}
	var removed int64
	if e != nil {
		for _, name := range c.args[2:] {
			if from.drop(name) {
				removed++
			}
		}
		if removed > 0 {
			c.settle(e, from.length(), class, event)
		}
	}
	c.reply.Int(removed)
}

// drawElements returns the elements that a count asks for: count different ones, or -count with repeats.
func drawElements(c call, from collection, count int64) []element {
	if count < 0 {
		d := c.dice()
		drawn := make([]element, -count)
		for i := range drawn {
			drawn[i] = from.draw(d)
		}
		return drawn
	}
	all := make([]element, 0, from.length())
	from.elements(func(e element) bool {
		all = append(all, e)
		return true
	})
	if count >= int64(len(all)) {
		return all
	}
	d := c.dice()
	for i := range int(count) {
		j := i + d.below(len(all)-i)
		all[i], all[j] = all[j], all[i]
	}
	return all[:count]
}

// replyRandom answers HRANDFIELD, SRANDMEMBER and ZRANDMEMBER; value replies what stands beside a name.
func replyRandom(c call, from collection, o randomOptions, value func(element)) {
	if !o.counted {
		c.reply.Bulk(from.draw(c.dice()).name)
		return
	}
	drawn := drawElements(c, from, o.count)
	c.pairsHeader(len(drawn), o.values)
	for _, e := range drawn {
		c.pairHeader(o.values)
		c.reply.Bulk(e.name)
		if o.values {
			value(e)
		}
	}
}

// scanElements answers HSCAN, SSCAN and ZSCAN; value, if any, replies what stands behind each name.
func scanElements(c call, from collection, o scanOptions, value func(element)) {
	var found []element
	next := from.scan(o.cursor, o.count, func(e element) {
		if !o.match || globMatch(o.pattern, string(e.name)) {
			found = append(found, e)
		}
	})
	size := len(found)
	if value != nil {
		size *= 2
	}
	c.scanHeader(next, size)
	for _, e := range found {
		c.reply.Bulk(e.name)
		if value != nil {
			value(e)
		}
	}
}

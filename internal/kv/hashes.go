package kv

import (
	"math"
	"slices"
	"strconv"

	"lockstep/internal/resp"
	"lockstep/internal/view"
)

// hashObject is a hash in the order of insertion: packed while it is small, then a table for good.
type hashObject struct {
	pack  pack
	count int // of the pack's fields
	big   *hashTable
	// limits are the machine's; nil: standardLimits.
	limits *packLimits
}

type hashTable struct {
	table[[]byte]
	valueBytes int // sum of the lengths of the values
}

var hashCommands = []Command{
	{Name: "hdel", Arity: -3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hdel},
	{Name: "hexists", Arity: 3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hexists},
	{Name: "hget", Arity: 3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hget},
	{Name: "hgetall", Arity: 2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: hgetAll},
	{Name: "hincrby", Arity: 4, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hincrBy},
	{Name: "hincrbyfloat", Arity: 4, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hincrByFloat},
	{Name: "hkeys", Arity: 2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: hkeys},
	{Name: "hlen", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hlen},
	{Name: "hmget", Arity: -3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hmget},
	{Name: "hmset", Arity: -4, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hmset},
	{Name: "hrandfield", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: hrandField, random: true},
	{Name: "hscan", Arity: -3, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: hscan},
	{Name: "hset", Arity: -4, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hset},
	{Name: "hsetnx", Arity: 4, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hsetNX},
	{Name: "hstrlen", Arity: 3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: hstrlen},
	{Name: "hvals", Arity: 2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: hvals},
}

// get returns the value of a field.
func (h *hashObject) get(field []byte) ([]byte, bool) {
	if h.big != nil {
		if n := h.big.find(field); n != nil {
			return n.value, true
		}
		return nil, false
	}
	at := h.pack.find(field, 2)
	if at < 0 {
		return nil, false
	}
	_, text, _ := h.pack.entry(at, 2)
	return text, true
}

// set stores a field and reports whether it is new.
func (h *hashObject) set(field, text []byte) bool {
	limit := h.limits.of().hash
	if h.big == nil && (h.count > limit.entries || len(field) > limit.text || len(text) > limit.text) {
		h.unpack()
	}
	if h.big != nil {
		return h.big.set(field, text)
	}
	if at := h.pack.find(field, 2); at >= 0 {
		_, at = h.pack.text(at)
		_, end := h.pack.text(at)
		h.pack.splice(at, end, text)
		return false
	}
	if h.count >= limit.entries {
		h.unpack()
		return h.big.set(field, text)
	}
	h.pack.splice(len(h.pack), len(h.pack), field, text)
	h.count++
	return true
}

func (h *hashTable) set(field, text []byte) bool {
	n := h.find(field)
	isNew := n == nil
	if isNew {
		n = h.insert(string(field), nil)
	} else if h.image != nil {
		h.image.before(n.id)
	}
	h.valueBytes += len(text) - len(n.value)
	n.value = replaceBytes(n.value, text)
	return isNew
}

// replaceBytes returns a copy of text, in the memory of old if that is neither too small nor a waste.
func replaceBytes(old, text []byte) []byte {
	if cap(old) >= len(text) && cap(old) <= 2*len(text)+32 {
		return append(old[:0], text...)
	}
	b := make([]byte, len(text))
	copy(b, text)
	return b
}

// unpack makes a table of the pack.
func (h *hashObject) unpack() {
	h.big = new(hashTable)
	for i := 0; i < len(h.pack); {
		field, text, end := h.pack.entry(i, 2)
		h.big.set(field, text)
		i = end
	}
	h.pack, h.count = nil, 0
}

// drop takes a field out and reports whether it was there.
func (h *hashObject) drop(field []byte) bool {
	if h.big != nil {
		n := h.big.find(field)
		if n != nil {
			h.big.valueBytes -= len(n.value)
			h.big.remove(n)
		}
		return n != nil
	}
	at := h.pack.find(field, 2)
	if at >= 0 {
		h.pack.drop(at, 2)
		h.count--
	}
	return at >= 0
}

func (h *hashObject) length() int {
	if h.big != nil {
		return h.big.table.size
	}
	return h.count
}

func (h *hashObject) elements(visit func(element) bool) {
	if h.big != nil {
		h.big.each(func(n *node[[]byte]) bool { return visit(element{name: view.Bytes(n.key), text: n.value}) })
		return
	}
	for i := 0; i < len(h.pack); {
		field, text, end := h.pack.entry(i, 2)
		if !visit(element{name: field, text: text}) {
			return
		}
		i = end
	}
}

func (h *hashObject) draw(d *dice) element {
	if h.big != nil {
		n := h.big.draw(d)
		return element{name: view.Bytes(n.key), text: n.value}
	}
	field, text, _ := h.pack.entry(h.pack.skip(d.below(h.count), 2), 2)
	return element{name: field, text: text}
}

func (h *hashObject) scan(cursor uint64, count int, visit func(element)) uint64 {
	if h.big != nil {
		return h.big.scan(cursor, count, func(n *node[[]byte]) { visit(element{name: view.Bytes(n.key), text: n.value}) })
	}
	h.elements(func(e element) bool {
		visit(e)
		return true
	})
	return 0
}

func (h *hashObject) kind() string { return "hash" }

func (h *hashObject) encoding() string {
	if h.big != nil {
		return "hashtable"
	}
	return "listpack"
}

func (h *hashObject) size() int {
	if h.big != nil {
		return 192 + h.big.bytes + h.big.valueBytes + h.big.table.size*(nodeOverhead+48)
	}
	return 48 + cap(h.pack)
}

func (h *hashObject) clone() object {
	twin := &hashObject{pack: slices.Clone(h.pack), count: h.count, limits: h.limits}
	if h.big != nil {
		twin.big = new(hashTable)
		h.elements(func(e element) bool { twin.big.set(e.name, e.text); return true })
	}
	return twin
}

func (h *hashObject) digest(d *digester) {
	d.number(uint64(h.length()))
	d.text(h.encoding())
	if h.big == nil {
		d.bytes(h.pack)
		return
	}
	d.number(h.big.lastID)
	h.big.each(func(n *node[[]byte]) bool {
		d.number(n.id)
		d.text(n.key)
		d.bytes(n.value)
		return true
	})
}

func (c call) hash() (*hashObject, *entry, bool) { return objectOf[*hashObject](c, c.args[1]) }

// hashToWrite returns the hash of the first key and its entry, made if there was none.
func (c call) hashToWrite() (*hashObject, *entry, bool) {
	h, e, ok := c.hash()
	if ok && e == nil {
		h, e = &hashObject{limits: c.limits()}, c.create(c.args[1])
		c.db.keys.setObject(e, h)
	}
	return h, e, ok
}

// field returns the value of the field that argument 2 names; false for found if there is none, for ok after an error
// reply.
func (c call) field() (text []byte, found, ok bool) {
	h, e, ok := c.hash()
	if !ok || e == nil {
		return nil, false, ok
	}
	text, found = h.get(c.args[2])
	return text, found, true
}

func hset(c call) {
	if created, ok := c.setFields("hset"); ok {
		c.reply.Int(created)
	}
}

func hmset(c call) {
	if _, ok := c.setFields("hmset"); ok {
		c.reply.OK()
	}
}

func (c call) setFields(command string) (created int64, ok bool) {
	if len(c.args)%2 == 1 {
		c.reply.Error(WrongArityError(command))
		return 0, false
	}
	h, e, ok := c.hashToWrite()
	if !ok {
		return 0, false
	}
	for i := 2; i < len(c.args); i += 2 {
		if h.set(c.args[i], c.args[i+1]) {
			created++
		}
	}
	c.touch(e)
	c.notify(EventHash, "hset", c.args[1])
	return created, true
}

func hsetNX(c call) {
	h, e, ok := c.hash()
	if !ok {
		return
	}
	if e != nil {
		if _, found := h.get(c.args[2]); found {
			c.reply.Int(0)
			return
		}
	}
	h, e, _ = c.hashToWrite()
	h.set(c.args[2], c.args[3])
	c.touch(e)
	c.notify(EventHash, "hset", c.args[1])
	c.reply.Int(1)
}

func hget(c call) {
	text, found, ok := c.field()
	switch {
	case !ok:
	case found:
		c.reply.Bulk(text)
	default:
		c.reply.Null()
	}
}

func hmget(c call) {
	h, e, ok := c.hash()
	if !ok {
		return
	}
	c.reply.Array(len(c.args) - 2)
	for _, field := range c.args[2:] {
		if e != nil {
			if text, found := h.get(field); found {
				c.reply.Bulk(text)
				continue
			}
		}
		c.reply.Null()
	}
}

func hexists(c call) {
	_, found, ok := c.field()
	switch {
	case !ok:
	case found:
		c.reply.Int(1)
	default:
		c.reply.Int(0)
	}
}

func hstrlen(c call) {
	if text, _, ok := c.field(); ok {
		c.reply.Int(int64(len(text)))
	}
}

func hlen(c call) { replyLength[*hashObject](c) }

func hdel(c call) { removeElements[*hashObject](c, EventHash, "hdel") }

func hgetAll(c call) {
	h, e, ok := c.hash()
	if !ok {
		return
	}
	if e == nil {
		c.reply.Map(0)
		return
	}
	c.reply.Map(h.length())
	h.elements(func(e element) bool {
		c.reply.Bulk(e.name)
		c.reply.Bulk(e.text)
		return true
	})
}

func hkeys(c call) { c.replyFields(func(e element) { c.reply.Bulk(e.name) }) }
func hvals(c call) { c.replyFields(func(e element) { c.reply.Bulk(e.text) }) }

func (c call) replyFields(one func(element)) {
	h, e, ok := c.hash()
	if !ok {
		return
	}
	if e == nil {
		c.reply.Array(0)
		return
	}
	c.reply.Array(h.length())
	h.elements(func(e element) bool {
		one(e)
		return true
	})
}

func hincrBy(c call) {
	delta, ok := c.integer(3)
	if !ok {
		return
	}
	text, found, ok := c.field()
	if !ok {
		return
	}
	var old int64
	if found {
		if old, ok = resp.ParseInt(text); !ok {
			c.reply.Error("ERR hash value is not an integer")
			return
		}
	}
	sum, ok := addInt(old, delta)
	if !ok {
		c.reply.Error(errOverflow)
		return
	}
	h, e, _ := c.hashToWrite()
	h.set(c.args[2], strconv.AppendInt(nil, sum, 10))
	c.touch(e)
	c.notify(EventHash, "hincrby", c.args[1])
	c.reply.Int(sum)
}

func hincrByFloat(c call) {
	delta, ok := parseLongDouble(c.args[3])
	if !ok {
		c.reply.Error(errFloat)
		return
	}
	if delta.IsInf() {
		c.reply.Error("ERR value is NaN or Infinity")
		return
	}
	old, found, ok := c.field()
	if !ok {
		return
	}
	if !found {
		old = zeroText
	}
	text, problem := addLongDouble(old, c.args[3], "ERR hash value is not a float", "ERR increment would produce NaN or Infinity")
	if problem != "" {
		c.reply.Error(problem)
		return
	}
	h, e, _ := c.hashToWrite()
	h.set(c.args[2], text)
	c.touch(e)
	c.notify(EventHash, "hincrbyfloat", c.args[1])
	c.reply.Bulk(text)
}

func hscan(c call) {
	cursor, ok := c.scanCursor(2)
	if !ok {
		return
	}
	h, e, ok := c.hash()
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
	scanElements(c, h, o, func(e element) { c.reply.Bulk(e.text) })
}

// randomOptions are the arguments of HRANDFIELD and ZRANDMEMBER behind the key.
type randomOptions struct {
	counted bool
	count   int64 // negative: the same element may come again
	values  bool
}

// maxRepeats bounds how many elements a negative count may ask for: the reply would otherwise take any memory.
const maxRepeats = 1 << 24

// parseRandom reads the count and the word that asks for values, or replies an error.
func (c call) parseRandom(word string) (o randomOptions, ok bool) {
	if len(c.args) == 2 {
		return o, true
	}
	o.counted = true
	if o.count, ok = c.betweenLongs(2); !ok {
		return o, false
	}
	if len(c.args) > 4 || len(c.args) == 4 && !c.is(3, word) {
		c.reply.Error(errSyntax)
		return o, false
	}
	o.values = len(c.args) == 4
	if o.values && (o.count < -math.MaxInt64/2 || o.count > math.MaxInt64/2) || o.count < -maxRepeats {
		c.reply.Error(errRange)
		return o, false
	}
	return o, true
}

// pairsHeader begins a list of n names, or of pairs: flat in RESP2, an array of each in RESP3.
func (c call) pairsHeader(n int, pairs bool) {
	if pairs && !c.three() {
		n *= 2
	}
	c.reply.Array(n)
}

func (c call) pairHeader(pairs bool) {
	if pairs && c.three() {
		c.reply.Array(2)
	}
}

// three reports whether the reply is in RESP3.
func (c call) three() bool { return c.reply != nil && c.reply.Proto >= 3 }

func hrandField(c call) {
	o, ok := c.parseRandom("withvalues")
	if !ok {
		return
	}
	h, e, ok := c.hash()
	if !ok {
		return
	}
	if e == nil {
		c.replyNothing(o.counted)
		return
	}
	replyRandom(c, h, o, func(e element) { c.reply.Bulk(e.text) })
}

// replyNothing answers a draw from a key that is absent.
func (c call) replyNothing(counted bool) {
	if counted {
		c.reply.Array(0)
		return
	}
	c.reply.Null()
}

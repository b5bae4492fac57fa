package kv

import (
	"math"
	"slices"

	"lockstep/internal/resp"
	"lockstep/internal/view"
)

// setObject is a set in the order of insertion: packed while it is small, then a table for good.
type setObject struct {
	pack  pack
	count int  // of the pack's members
	mixed bool // a member of the pack is no integer
	big   *table[struct{}]
	// limits are the machine's; nil: standardLimits.
	limits *packLimits
}

var setCommands = []Command{
	{Name: "sadd", Arity: -3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: sadd},
	{Name: "scard", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: scard},
	{Name: "sdiff", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: -1, Step: 1, run: sdiff},
	{Name: "sdiffstore", Arity: -3, Flags: Write | DenyOOM, FirstKey: 1, LastKey: -1, Step: 1, run: sdiffStore},
	{Name: "sinter", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: -1, Step: 1, run: sinter},
	{Name: "sintercard", Arity: -3, Flags: Readonly | Movable, run: sinterCard, numkeys: 1},
	{Name: "sinterstore", Arity: -3, Flags: Write | DenyOOM, FirstKey: 1, LastKey: -1, Step: 1, run: sinterStore},
	{Name: "sismember", Arity: 3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: sisMember},
	{Name: "smembers", Arity: 2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: smembers},
	{Name: "smismember", Arity: -3, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: smisMember},
	{Name: "smove", Arity: 4, Flags: Write | Fast, FirstKey: 1, LastKey: 2, Step: 1, run: smove},
	{Name: "spop", Arity: -2, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: spop},
	{Name: "srandmember", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: srandMember, random: true},
	{Name: "srem", Arity: -3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: srem},
	{Name: "sscan", Arity: -3, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: sscan},
	{Name: "sunion", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: -1, Step: 1, run: sunion},
	{Name: "sunionstore", Arity: -3, Flags: Write | DenyOOM, FirstKey: 1, LastKey: -1, Step: 1, run: sunionStore},
}

func (s *setObject) has(member []byte) bool {
	if s.big != nil {
		return s.big.find(member) != nil
	}
	return s.pack.find(member, 1) >= 0
}

// add puts a member in and reports whether it is new.
func (s *setObject) add(member []byte) bool {
	if s.has(member) {
		return false
	}
	if s.big == nil && !s.fits(member) {
		s.big = new(table[struct{}])
		s.eachPacked(func(member []byte) bool {
			s.big.insert(string(member), struct{}{})
			return true
		})
		s.pack, s.count, s.mixed = nil, 0, false
	}
	if s.big != nil {
		s.big.insert(string(member), struct{}{})
		return true
	}
	s.pack.splice(len(s.pack), len(s.pack), member)
	s.count++
	return true
}

// fits reports whether the pack, as intset or as listpack of Redis, takes one more member, and notes which of them it is.
func (s *setObject) fits(member []byte) bool {
	limits := s.limits.of()
	if _, integer := resp.ParseInt(member); integer && !s.mixed {
		return s.count < limits.integers
	}
	if s.count >= limits.set.entries || len(member) > limits.set.text {
		return false
	}
	s.mixed = true
	return true
}

// drop takes a member out and reports whether it was there.
func (s *setObject) drop(member []byte) bool {
	if s.big != nil {
		n := s.big.find(member)
		if n != nil {
			s.big.remove(n)
		}
		return n != nil
	}
	at := s.pack.find(member, 1)
	if at >= 0 {
		s.pack.drop(at, 1)
		s.count--
	}
	return at >= 0
}

func (s *setObject) length() int {
	if s.big != nil {
		return s.big.size
	}
	return s.count
}

func (s *setObject) eachPacked(visit func(member []byte) bool) {
	for i := 0; i < len(s.pack); {
		member, end := s.pack.text(i)
		if !visit(member) {
			return
		}
		i = end
	}
}

// each visits the members until visit returns false.
func (s *setObject) each(visit func(member []byte) bool) {
	if s.big == nil {
		s.eachPacked(visit)
		return
	}
	s.big.each(func(n *node[struct{}]) bool { return visit(view.Bytes(n.key)) })
}

func (s *setObject) elements(visit func(element) bool) {
	s.each(func(member []byte) bool { return visit(element{name: member}) })
}

func (s *setObject) draw(d *dice) element {
	if s.big != nil {
		return element{name: view.Bytes(s.big.draw(d).key)}
	}
	member, _ := s.pack.text(s.pack.skip(d.below(s.count), 1))
	return element{name: member}
}

func (s *setObject) scan(cursor uint64, count int, visit func(element)) uint64 {
	if s.big != nil {
		return s.big.scan(cursor, count, func(n *node[struct{}]) { visit(element{name: view.Bytes(n.key)}) })
	}
	s.eachPacked(func(member []byte) bool {
		visit(element{name: member})
		return true
	})
	return 0
}

// members returns a copy of all members.
func (s *setObject) members() [][]byte {
	members := make([][]byte, 0, s.length())
	s.each(func(member []byte) bool {
		members = append(members, slices.Clone(member))
		return true
	})
	return members
}

func (s *setObject) kind() string { return "set" }

func (s *setObject) encoding() string {
	switch {
	case s.big != nil:
		return "hashtable"
	case s.mixed:
		return "listpack"
	}
	return "intset"
}

func (s *setObject) size() int {
	if s.big != nil {
		return 176 + s.big.bytes + s.big.size*(nodeOverhead+24)
	}
	return 48 + cap(s.pack)
}

func (s *setObject) clone() object {
	twin := &setObject{pack: slices.Clone(s.pack), count: s.count, mixed: s.mixed, limits: s.limits}
	if s.big != nil {
		twin.big = new(table[struct{}])
		s.each(func(member []byte) bool { twin.big.insert(string(member), struct{}{}); return true })
	}
	return twin
}

func (s *setObject) digest(d *digester) {
	d.number(uint64(s.length()))
	d.text(s.encoding())
	if s.big == nil {
		d.bytes(s.pack)
		return
	}
	d.number(s.big.lastID)
	s.big.each(func(n *node[struct{}]) bool {
		d.number(n.id)
		d.text(n.key)
		return true
	})
}

func (c call) set(key []byte) (*setObject, *entry, bool) { return objectOf[*setObject](c, key) }

func (c call) setToWrite(key []byte) (*setObject, *entry, bool) {
	s, e, ok := c.set(key)
	if ok && e == nil {
		s, e = &setObject{limits: c.limits()}, c.create(key)
		c.db.keys.setObject(e, s)
	}
	return s, e, ok
}

func sadd(c call) {
	s, e, ok := c.setToWrite(c.args[1])
	if !ok {
		return
	}
	var added int64
	for _, member := range c.args[2:] {
		if s.add(member) {
			added++
		}
	}
	if added > 0 {
		c.touch(e)
		c.notify(EventSet, "sadd", c.args[1])
	}
	c.reply.Int(added)
}

func srem(c call) { removeElements[*setObject](c, EventSet, "srem") }

func scard(c call) { replyLength[*setObject](c) }

func sisMember(c call) {
	if s, e, ok := c.set(c.args[1]); ok {
		c.replyMember(s, e, c.args[2])
	}
}

func (c call) replyMember(s *setObject, e *entry, member []byte) {
	if e != nil && s.has(member) {
		c.reply.Int(1)
		return
	}
	c.reply.Int(0)
}

func smisMember(c call) {
	s, e, ok := c.set(c.args[1])
	if !ok {
		return
	}
	c.reply.Array(len(c.args) - 2)
	for _, member := range c.args[2:] {
		c.replyMember(s, e, member)
	}
}

func smembers(c call) {
	s, e, ok := c.set(c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Set(0)
		return
	}
	c.reply.Set(s.length())
	s.each(func(member []byte) bool {
		c.reply.Bulk(member)
		return true
	})
}

func (c call) replySet(members [][]byte) {
	c.reply.Set(len(members))
	for _, member := range members {
		c.reply.Bulk(member)
	}
}

func smove(c call) {
	source, sourceEntry, ok := c.set(c.args[1])
	if !ok {
		return
	}
	if sourceEntry == nil {
		c.reply.Int(0)
		return
	}
	_, targetEntry, ok := c.set(c.args[2])
	if !ok {
		return
	}
	if sourceEntry == targetEntry {
		c.replyMember(source, sourceEntry, c.args[3])
		return
	}
	if !source.drop(c.args[3]) {
		c.reply.Int(0)
		return
	}
	c.settle(sourceEntry, source.length(), EventSet, "srem")
	target, targetEntry, _ := c.setToWrite(c.args[2])
	if target.add(c.args[3]) {
		c.touch(targetEntry)
		c.notify(EventSet, "sadd", c.args[2])
	}
	c.reply.Int(1)
}

func spop(c call) {
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
	s, e, ok := c.set(c.args[1])
	switch {
	case !ok:
		return
	case counted && (e == nil || count == 0):
		c.reply.Set(0)
		return
	case e == nil:
		c.reply.Null()
		return
	}
	if !counted {
		member := slices.Clone(s.draw(c.dice()).name)
		c.reply.Bulk(member)
		s.drop(member)
		c.settle(e, s.length(), EventSet, "spop")
		return
	}
	popped := s.popSome(c, count)
	c.replySet(popped)
	c.settle(e, s.length(), EventSet, "spop")
}

// popSome takes up to count members out, drawn by lot.
func (s *setObject) popSome(c call, count int) [][]byte {
	if count >= s.length() {
		all := s.members()
		*s = setObject{}
		return all
	}
	d := c.dice()
	popped := make([][]byte, count)
	for i := range popped {
		popped[i] = slices.Clone(s.draw(d).name)
		s.drop(popped[i])
	}
	return popped
}

func srandMember(c call) {
	if len(c.args) > 3 {
		c.reply.Error(errSyntax)
		return
	}
	o, ok := c.parseRandom("")
	if !ok {
		return
	}
	s, e, ok := c.set(c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.replyNothing(o.counted)
		return
	}
	replyRandom(c, s, o, nil)
}

func sscan(c call) {
	cursor, ok := c.scanCursor(2)
	if !ok {
		return
	}
	s, e, ok := c.set(c.args[1])
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
	scanElements(c, s, o, nil)
}

// setsOf returns the sets of keys, nil for one that is absent; false after an error reply.
func (c call) setsOf(keys [][]byte) ([]*setObject, bool) {
	sets := make([]*setObject, len(keys))
	for i, key := range keys {
		var ok bool
		if sets[i], _, ok = c.set(key); !ok {
			return nil, false
		}
	}
	return sets, true
}

// intersect returns up to limit members that all sets have, in the order of the smallest set. The members belong to it.
func intersect(sets []*setObject, limit int) [][]byte {
	if slices.Contains(sets, nil) {
		return nil
	}
	smallest := slices.MinFunc(sets, func(a, b *setObject) int { return a.length() - b.length() })
	var members [][]byte
	smallest.each(func(member []byte) bool {
		for _, s := range sets {
			if s != smallest && !s.has(member) {
				return true
			}
		}
		members = append(members, member)
		return len(members) < limit
	})
	return members
}

// unite returns the members of all sets. They belong to the sets.
func unite(sets []*setObject) [][]byte {
	var members [][]byte
	seen := make(map[string]struct{})
	for _, s := range sets {
		if s == nil {
			continue
		}
		s.each(func(member []byte) bool {
			if _, ok := seen[string(member)]; !ok {
				seen[string(member)] = struct{}{}
				members = append(members, member)
			}
			return true
		})
	}
	return members
}

// subtract returns the members of the first set that no other has. They belong to it.
func subtract(sets []*setObject) [][]byte {
	if sets[0] == nil {
		return nil
	}
	var members [][]byte
	sets[0].each(func(member []byte) bool {
		for _, s := range sets[1:] {
			if s != nil && s.has(member) {
				return true
			}
		}
		members = append(members, member)
		return true
	})
	return members
}

func intersectAll(sets []*setObject) [][]byte { return intersect(sets, math.MaxInt) }

func sinter(c call)      { c.combine(intersectAll) }
func sunion(c call)      { c.combine(unite) }
func sdiff(c call)       { c.combine(subtract) }
func sinterStore(c call) { c.combineStore(intersectAll, "sinterstore") }
func sunionStore(c call) { c.combineStore(unite, "sunionstore") }
func sdiffStore(c call)  { c.combineStore(subtract, "sdiffstore") }

func (c call) combine(operation func([]*setObject) [][]byte) {
	if sets, ok := c.setsOf(c.args[1:]); ok {
		c.replySet(operation(sets))
	}
}

func (c call) combineStore(operation func([]*setObject) [][]byte, event string) {
	sets, ok := c.setsOf(c.args[2:])
	if !ok {
		return
	}
	members := operation(sets)
	result := &setObject{limits: c.limits()}
	for _, member := range members {
		result.add(member)
	}
	count := len(members)
	c.replace(c.args[1], result, count, EventSet, event)
	c.reply.Int(int64(count))
}

// replace gives a key a new object without expiry and tells of the event; an empty one only takes the old out.
func (c call) replace(key []byte, o object, size int, class EventClass, event string) {
	old := c.peek(key)
	switch {
	case size > 0 && old != nil: // no new key
		c.persist(old)
		c.setObject(old, o)
		c.notify(class, event, key)
	case size > 0:
		c.setObject(c.create(key), o)
		c.notify(class, event, key)
	case old != nil:
		c.drop(old)
		c.notify(EventGeneric, "del", key)
	}
}

func sinterCard(c call) {
	count, ok := c.between(1, 1, math.MaxInt64, "ERR numkeys should be greater than 0")
	if !ok {
		return
	}
	if count > int64(len(c.args)-2) {
		c.reply.Error("ERR Number of keys can't be greater than number of args")
		return
	}
	limit, ok := c.cardLimit(2 + int(count))
	if !ok {
		return
	}
	sets, ok := c.setsOf(c.args[2 : 2+count])
	if !ok {
		return
	}
	c.reply.Int(int64(len(intersect(sets, limit))))
}

// cardLimit reads the options of SINTERCARD and ZINTERCARD from argument i on.
func (c call) cardLimit(i int) (int, bool) {
	limit := math.MaxInt
	for ; i < len(c.args); i += 2 {
		if !c.is(i, "limit") || i+1 == len(c.args) {
			c.reply.Error(errSyntax)
			return 0, false
		}
		n, ok := c.between(i+1, 0, math.MaxInt64, "ERR LIMIT can't be negative")
		if !ok {
			return 0, false
		}
		if limit = clampInt(n); limit == 0 {
			limit = math.MaxInt
		}
	}
	return limit, true
}

package kv

import (
	"math"
	"strconv"

	"lockstep/internal/resp"
)

// maxString bounds the length of a string in bytes, as proto-max-bulk-len does in Redis.
const maxString = 512 << 20

const errTooLong = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"

var stringCommands = []Command{
	{Name: "append", Arity: 3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: appendText},
	{Name: "decr", Arity: 2, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: decr},
	{Name: "decrby", Arity: 3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: decrBy},
	{Name: "get", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: get},
	{Name: "getdel", Arity: 2, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: getDel},
	{Name: "getex", Arity: -2, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: getEx},
	{Name: "getrange", Arity: 4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: getRange},
	{Name: "getset", Arity: 3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: getSet},
	{Name: "incr", Arity: 2, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: incr},
	{Name: "incrby", Arity: 3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: incrBy},
	{Name: "incrbyfloat", Arity: 3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: incrByFloat},
	{Name: "mget", Arity: -2, Flags: Readonly | Fast, FirstKey: 1, LastKey: -1, Step: 1, run: mget},
	{Name: "mset", Arity: -3, Flags: Write | DenyOOM, FirstKey: 1, LastKey: -1, Step: 2, run: mset},
	{Name: "msetnx", Arity: -3, Flags: Write | DenyOOM, FirstKey: 1, LastKey: -1, Step: 2, run: msetNX},
	{Name: "psetex", Arity: 4, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: psetEx},
	{Name: "set", Arity: -3, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: set},
	{Name: "setex", Arity: 4, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: setEx},
	{Name: "setnx", Arity: 3, Flags: Write | DenyOOM | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: setNX},
	{Name: "setrange", Arity: 4, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: setRange},
	{Name: "strlen", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: strlen},
	{Name: "substr", Arity: 4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: getRange},
}

// setOptions are the options of SET and GETEX.
type setOptions struct {
	onlyNew, onlyOld, get, keepTTL, persist bool
	unit                                    string // ex, px, exat, pxat, or empty
	expiry                                  int    // argument that holds the time
}

// parseSetOptions reads the options from argument i on. It reports false where Redis says syntax error.
func (c call) parseSetOptions(i int, forSet bool) (o setOptions, ok bool) {
	for ; i < len(c.args); i++ {
		switch {
		case forSet && c.is(i, "nx") && !o.onlyOld:
			o.onlyNew = true
		case forSet && c.is(i, "xx") && !o.onlyNew:
			o.onlyOld = true
		case forSet && c.is(i, "get"):
			o.get = true
		case forSet && c.is(i, "keepttl") && o.unit == "":
			o.keepTTL = true
		case !forSet && c.is(i, "persist") && o.unit == "":
			o.persist = true
		default:
			unit := c.timeUnit(i)
			if unit == "" || i+1 == len(c.args) || o.keepTTL || o.persist || o.unit != "" && o.unit != unit {
				return o, false
			}
			i++
			o.unit, o.expiry = unit, i
		}
	}
	return o, true
}

func (c call) timeUnit(i int) string {
	for _, unit := range []string{"ex", "px", "exat", "pxat"} {
		if c.is(i, unit) {
			return unit
		}
	}
	return ""
}

// expiry reads argument i as the expiry of a new value and returns it in milliseconds since 1970 UTC, or replies an error.
func (c call) expiry(i int, unit, command string) (int64, bool) {
	n, ok := c.integer(i)
	if !ok {
		return 0, false
	}
	seconds := unit == "ex" || unit == "exat"
	relative := unit == "ex" || unit == "px"
	if n <= 0 || seconds && n > math.MaxInt64/1000 {
		return c.badExpiry(command)
	}
	if seconds {
		n *= 1000
	}
	if relative {
		if n > math.MaxInt64-c.now {
			return c.badExpiry(command)
		}
		n += c.now
	}
	return n, true
}

func (c call) badExpiry(command string) (int64, bool) {
	c.reply.Error("ERR invalid expire time in '" + command + "' command")
	return 0, false
}

func set(c call) {
	key, text := c.args[1], c.args[2]
	if len(c.args) == 3 {
		c.store(key, text, nil)
		c.notify(EventString, "set", key)
		c.reply.OK()
		return
	}
	o, ok := c.parseSetOptions(3, true)
	if !ok {
		c.reply.Error(errSyntax)
		return
	}
	var at int64
	if o.unit != "" {
		if at, ok = c.expiry(o.expiry, o.unit, "set"); !ok {
			return
		}
	}
	e := c.peek(key)
	if o.get {
		if e != nil && e.value.held&heldCold != 0 && isText(e) {
			e = c.readBack(e)
		}
		if !c.replyText(e) {
			return
		}
	}
	if o.onlyNew && e != nil || o.onlyOld && e == nil {
		if !o.get {
			c.reply.Null()
		}
		return
	}
	if e == nil {
		e = c.create(key)
	}
	c.setText(e, text)
	if !o.keepTTL && o.unit == "" {
		c.persist(e)
	}
	c.notify(EventString, "set", key)
	if o.unit != "" {
		c.expireAt(e, at)
		c.notify(EventGeneric, "expire", key)
	}
	if !o.get {
		c.reply.OK()
	}
}

// store sets a key to a string; without at, the key does not expire.
func (c call) store(key, text []byte, at *int64) {
	e := c.peek(key)
	if e == nil {
		e = c.create(key)
	}
	c.setText(e, text)
	if at != nil {
		c.expireAt(e, *at)
	} else {
		c.persist(e)
	}
}

// replyText replies the string of an entry, or that there is none; false after an error reply.
func (c call) replyText(e *entry) bool {
	switch {
	case e == nil:
		c.reply.Null()
	case !isText(e):
		c.reply.Error(wrongType)
		return false
	default:
		c.reply.Bulk(e.value.text())
	}
	return true
}

func setNX(c call) {
	if c.peek(c.args[1]) != nil {
		c.reply.Int(0)
		return
	}
	c.store(c.args[1], c.args[2], nil)
	c.notify(EventString, "set", c.args[1])
	c.reply.Int(1)
}

func setEx(c call)  { c.setWithExpiry("ex", "setex") }
func psetEx(c call) { c.setWithExpiry("px", "psetex") }

func (c call) setWithExpiry(unit, command string) {
	if at, ok := c.expiry(2, unit, command); ok {
		c.store(c.args[1], c.args[3], &at)
		c.notify(EventString, "set", c.args[1])
		c.notify(EventGeneric, "expire", c.args[1])
		c.reply.OK()
	}
}

func get(c call) { c.replyText(c.find(c.args[1])) }

func getDel(c call) {
	e := c.find(c.args[1])
	if c.replyText(e) && e != nil {
		c.drop(e)
		c.notify(EventGeneric, "del", c.args[1])
	}
}

func getEx(c call) {
	o, ok := c.parseSetOptions(2, false)
	if !ok {
		c.reply.Error(errSyntax)
		return
	}
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Null()
		return
	}
	var at int64
	if o.unit != "" {
		if at, ok = c.expiry(o.expiry, o.unit, "getex"); !ok {
			return
		}
	}
	c.reply.Bulk(e.value.text())
	switch {
	case o.unit != "" && at <= c.now:
		c.drop(e)
		c.notify(EventGeneric, "del", c.args[1])
	case o.unit != "":
		c.expireAt(e, at)
		c.notify(EventGeneric, "expire", c.args[1])
	case o.persist && c.persist(e):
		c.notify(EventGeneric, "persist", c.args[1])
	}
}

func getSet(c call) {
	if c.replyText(c.find(c.args[1])) {
		c.store(c.args[1], c.args[2], nil)
		c.notify(EventString, "set", c.args[1])
	}
}

func mget(c call) {
	c.reply.Array(len(c.args) - 1)
	for _, key := range c.args[1:] {
		if e := c.find(key); e != nil && isText(e) {
			c.reply.Bulk(e.value.text())
		} else {
			c.reply.Null()
		}
	}
}

func mset(c call) {
	if len(c.args)%2 == 0 {
		c.reply.Error(WrongArityError("mset"))
		return
	}
	c.storePairs()
	c.reply.OK()
}

func msetNX(c call) {
	if len(c.args)%2 == 0 {
		c.reply.Error(WrongArityError("msetnx"))
		return
	}
	for i := 1; i < len(c.args); i += 2 {
		if c.peek(c.args[i]) != nil {
			c.reply.Int(0)
			return
		}
	}
	c.storePairs()
	c.reply.Int(1)
}

func (c call) storePairs() {
	for i := 1; i < len(c.args); i += 2 {
		c.store(c.args[i], c.args[i+1], nil)
		c.notify(EventString, "set", c.args[i])
	}
}

func appendText(c call) {
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	text := c.args[2]
	if e == nil {
		e = c.create(c.args[1])
		c.setText(e, text)
		c.notify(EventString, "append", c.args[1])
		c.reply.Int(int64(len(text)))
		return
	}
	if len(e.value.text())+len(text) > maxString {
		c.reply.Error(errTooLong)
		return
	}
	at := len(e.value.text())
	c.db.keys.lengthen(e, len(text), heldRaw)
	copy(e.value.text()[at:], text)
	c.touch(e)
	c.notify(EventString, "append", c.args[1])
	c.reply.Int(int64(len(e.value.text())))
}

func strlen(c call) {
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	if e == nil {
		c.reply.Int(0)
		return
	}
	c.reply.Int(int64(len(e.value.text())))
}

func getRange(c call) {
	start, end, ok := c.integers(2)
	if !ok {
		return
	}
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	if e == nil || start < 0 && end < 0 && start > end {
		c.reply.Bulk(nil)
		return
	}
	length := int64(len(e.value.text()))
	start, end = fromEnd(start, length), fromEnd(end, length)
	end = min(end, length-1)
	if start > end {
		c.reply.Bulk(nil)
		return
	}
	c.reply.Bulk(e.value.text()[start : end+1])
}

// fromEnd turns a negative index, which counts from the end, into one from the start, at least 0.
func fromEnd(i, length int64) int64 {
	if i < 0 {
		i += length
	}
	return max(0, i)
}

func setRange(c call) {
	offset, ok := c.integer(2)
	if !ok {
		return
	}
	if offset < 0 {
		c.reply.Error("ERR offset is out of range")
		return
	}
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	text := c.args[3]
	var length int64
	if e != nil {
		length = int64(len(e.value.text()))
	}
	if len(text) == 0 {
		c.reply.Int(length)
		return
	}
	if offset > maxString-int64(len(text)) {
		c.reply.Error(errTooLong)
		return
	}
	if e == nil {
		e = c.create(c.args[1])
	}
	if end := int(offset) + len(text); end > len(e.value.text()) {
		c.db.keys.lengthen(e, end-len(e.value.text()), heldRaw)
	}
	copy(e.value.text()[offset:], text)
	e.value.held = heldRaw
	c.touch(e)
	c.notify(EventString, "setrange", c.args[1])
	c.reply.Int(int64(len(e.value.text())))
}

func incr(c call) { c.addInteger(1) }
func decr(c call) { c.addInteger(-1) }

func incrBy(c call) {
	if delta, ok := c.integer(2); ok {
		c.addInteger(delta)
	}
}

func decrBy(c call) {
	delta, ok := c.integer(2)
	if !ok {
		return
	}
	if delta == math.MinInt64 {
		c.reply.Error("ERR decrement would overflow")
		return
	}
	c.addInteger(-delta)
}

const errOverflow = "ERR increment or decrement would overflow"

func (c call) addInteger(delta int64) {
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	var n int64
	if e != nil {
		if n, ok = resp.ParseInt(e.value.text()); !ok {
			c.reply.Error(errInteger)
			return
		}
	}
	sum, ok := addInt(n, delta)
	if !ok {
		c.reply.Error(errOverflow)
		return
	}
	if e == nil {
		e = c.create(c.args[1])
	}
	var digits [20]byte
	c.setText(e, strconv.AppendInt(digits[:0], sum, 10))
	c.notify(EventString, "incrby", c.args[1])
	c.reply.Int(sum)
}

// addInt returns a+b, false if that overflows.
func addInt(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

func incrByFloat(c call) {
	e, ok := c.text(c.args[1])
	if !ok {
		return
	}
	old := zeroText
	if e != nil {
		old = e.value.text()
	}
	text, problem := addLongDouble(old, c.args[2], errFloat, "ERR increment would produce NaN or Infinity")
	if problem != "" {
		c.reply.Error(problem)
		return
	}
	if e == nil {
		e = c.create(c.args[1])
	}
	as := heldFloat
	if len(text) > embeddedText {
		as = heldRaw
	}
	c.setTextAs(e, text, as)
	c.notify(EventString, "incrbyfloat", c.args[1])
	c.reply.Bulk(text)
}

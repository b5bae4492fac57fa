package kv

import "math"

var expireCommands = []Command{
	{Name: "expire", Arity: -3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: expire},
	{Name: "expireat", Arity: -3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: expireAt},
	{Name: "expiretime", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: expireTime},
	{Name: "persist", Arity: 2, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: persist},
	{Name: "pexpire", Arity: -3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: pexpire},
	{Name: "pexpireat", Arity: -3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: pexpireAt},
	{Name: "pexpiretime", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: pexpireTime},
	{Name: "pttl", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: pttl},
	{Name: "ttl", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: ttl},
}

func expire(c call)    { c.setExpiry("expire", 1000, c.now) }
func pexpire(c call)   { c.setExpiry("pexpire", 1, c.now) }
func expireAt(c call)  { c.setExpiry("expireat", 1000, 0) }
func pexpireAt(c call) { c.setExpiry("pexpireat", 1, 0) }

// expireOptions are the conditions of EXPIRE: no expiry yet, one already, only a later one, only an earlier one.
type expireOptions struct{ nx, xx, gt, lt bool }

func (c call) parseExpireOptions() (o expireOptions, ok bool) {
	for i := 3; i < len(c.args); i++ {
		switch {
		case c.is(i, "nx"):
			o.nx = true
		case c.is(i, "xx"):
			o.xx = true
		case c.is(i, "gt"):
			o.gt = true
		case c.is(i, "lt"):
			o.lt = true
		default:
			c.reply.Error("ERR Unsupported option " + string(cString(c.args[i], len(c.args[i]))))
			return o, false
		}
	}
	switch {
	case o.nx && (o.xx || o.gt || o.lt):
		c.reply.Error("ERR NX and XX, GT or LT options at the same time are not compatible")
		return o, false
	case o.gt && o.lt:
		c.reply.Error("ERR GT and LT options at the same time are not compatible")
		return o, false
	}
	return o, true
}

// admit reports whether the conditions let an expiry at replace the present one.
func (o expireOptions) admit(expires bool, present, at int64) bool {
	switch {
	case o.nx && expires, o.xx && !expires:
		return false
	case o.gt && (!expires || at <= present):
		return false
	case o.lt && expires && at >= present:
		return false
	}
	return true
}

// setExpiry answers EXPIRE and its sisters: unit in milliseconds, base in milliseconds since 1970 UTC.
func (c call) setExpiry(command string, unit, base int64) {
	o, ok := c.parseExpireOptions()
	if !ok {
		return
	}
	at, ok := c.integer(2)
	if !ok {
		return
	}
	if at > math.MaxInt64/unit || at < math.MinInt64/unit || at*unit > math.MaxInt64-base {
		c.badExpiry(command)
		return
	}
	at = at*unit + base
	e := c.peek(c.args[1])
	if e == nil || !o.admit(e.value.due != 0, c.expiryOf(e), at) {
		c.reply.Int(0)
		return
	}
	if at <= c.now {
		c.drop(e)
		c.notify(EventGeneric, "del", c.args[1])
	} else {
		c.expireAt(e, at)
		c.notify(EventGeneric, "expire", c.args[1])
	}
	c.reply.Int(1)
}

func persist(c call) {
	if e := c.peek(c.args[1]); e != nil && c.persist(e) {
		c.notify(EventGeneric, "persist", c.args[1])
		c.reply.Int(1)
		return
	}
	c.reply.Int(0)
}

func ttl(c call)         { c.replyExpiry(1000, c.now) }
func pttl(c call)        { c.replyExpiry(1, c.now) }
func expireTime(c call)  { c.replyExpiry(1000, 0) }
func pexpireTime(c call) { c.replyExpiry(1, 0) }

// replyExpiry replies the expiry counted from base in units, -1 if there is none, -2 if there is no key.
func (c call) replyExpiry(unit, base int64) {
	e := c.peek(c.args[1])
	switch {
	case e == nil:
		c.reply.Int(-2)
	case e.value.due == 0:
		c.reply.Int(-1)
	case unit == 1:
		c.reply.Int(max(0, c.expiryOf(e)-base))
	default:
		left := uint64(max(0, c.expiryOf(e)-base)) // the latest possible expiry may not overflow
		c.reply.Int(int64((left + 500) / 1000))
	}
}

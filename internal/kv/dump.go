package kv

import (
	"math"
)

var dumpCommands = []Command{
	{Name: "dump", Arity: 2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: dump},
	{Name: "restore", Arity: -4, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: restore},
	{Name: "restore-asking", Arity: -4, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: restore},
}

func dump(c call) {
	e := c.find(c.args[1])
	if e == nil {
		c.reply.Null()
		return
	}
	c.reply.Bulk(appendFooter(appendRDBValue(nil, e)))
}

// restoreOptions are the options of RESTORE. What it says about use is checked, and not kept: log time alone decides what
// is old.
type restoreOptions struct{ replace, absolute bool }

func (c call) parseRestore() (o restoreOptions, ok bool) {
	idle, frequency := false, false
	for i := 4; i < len(c.args); i++ {
		more := i+1 < len(c.args)
		switch {
		case c.is(i, "replace"):
			o.replace = true
		case c.is(i, "absttl"):
			o.absolute = true
		case c.is(i, "idletime") && more && !frequency:
			i++
			if idle, ok = true, c.within(i, math.MaxInt64, "ERR Invalid IDLETIME value, must be >= 0"); !ok {
				return o, false
			}
		case c.is(i, "freq") && more && !idle:
			i++
			if frequency, ok = true, c.within(i, 255, "ERR Invalid FREQ value, must be >= 0 and <= 255"); !ok {
				return o, false
			}
		default:
			c.reply.Error(errSyntax)
			return o, false
		}
	}
	return o, true
}

// within reports whether argument i is an integer in 0..high, or replies an error.
func (c call) within(i int, high int64, text string) bool {
	n, ok := c.integer(i)
	if ok && (n < 0 || n > high) {
		c.reply.Error(text)
		return false
	}
	return ok
}

func restore(c call) {
	o, ok := c.parseRestore()
	if !ok {
		return
	}
	key := c.args[1]
	old := c.peek(key)
	if old != nil && !o.replace {
		c.reply.Error("BUSYKEY Target key name already exists.")
		return
	}
	at, ok := c.integer(2)
	if !ok {
		return
	}
	if at < 0 {
		c.reply.Error("ERR Invalid TTL value, must be >= 0")
		return
	}
	v, whole, err := readDump(c.args[3], c.limits())
	switch {
	case !whole:
		c.reply.Error("ERR DUMP payload version or checksum are wrong")
		return
	case err != nil:
		c.reply.Error("ERR Bad data format")
		return
	}
	if at > 0 && !o.absolute {
		at = min(at, math.MaxInt64-c.now) + c.now
	}
	if old != nil {
		c.drop(old)
	}
	if at > 0 && at <= c.now {
		if old != nil {
			c.notify(EventGeneric, "del", key)
		}
		c.reply.OK()
		return
	}
	e := c.create(key)
	if v.object != nil {
		c.setObject(e, v.object)
	} else {
		c.db.keys.setText(e, v.text, heldText)
		c.touch(e)
	}
	if at > 0 {
		c.expireAt(e, at)
	}
	c.notify(EventGeneric, "restore", key)
	c.reply.OK()
}

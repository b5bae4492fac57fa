package kv

// visible reports whether a key of the database has not expired by log time.
func (m *Machine) visible(d *database, e *entry) bool { return e.value.due == 0 || m.now < d.due.at(e) }

// find returns the entry of a key that is visible, with its value. A write takes an expired one out on the way. What a read gets of a
// value that is not in memory belongs to it alone.
func (c call) find(key []byte) *entry { return c.meet(key, heldCold) }

// peek is find for those who do not use the value: if it is not in memory, it stays where it is.
func (c call) peek(key []byte) *entry { return c.meet(key, 0) }

// meet is find and peek: values held so are read back. (It is one function, because calls are passed by value.)
func (c call) meet(key []byte, readBack held) *entry {
	e := c.db.keys.find(key)
	if e == nil {
		return nil
	}
	if !c.m.visible(c.db, e) {
		if c.writing {
			c.m.expire(c.db, e, c.version)
		}
		return nil
	}
	if c.writing && e.value.version <= c.m.image.begun { // else it is marked: it changed since
		c.db.before(c.m, e)
	}
	if c.writing && !c.noTouch {
		e.value.use(c)
	}
	if c.m.tier.host != nil {
		c.m.tier.host.Used(c.db.tag, e.id)
	}
	if e.value.held&readBack != 0 {
		return c.readBack(e)
	}
	return e
}

// create makes an entry for a key that find did not find.
func (c call) create(key []byte) *entry {
	e := c.db.keys.insert(key)
	e.value.version, e.value.uses, e.value.used = c.version, usesAtFirst, uint32(c.now/1000)
	c.db.before(c.m, e)
	if c.m.waiters.size > 0 {
		c.m.markReady(c.db.number, e.key())
	}
	c.notify(EventNew, "new", key)
	return e
}

// touch notes that the entry has changed. It is called behind the change: it measures the value.
func (c call) touch(e *entry) {
	e.value.version = c.version
	c.resize(e, int64(entrySize(e)))
}

func (c call) resize(e *entry, size int64) {
	c.m.used += size - e.value.size()
	e.value.setSize(size)
	if c.m.host != nil {
		c.m.host.Changed(c.db.number, e.key())
	}
}

// touchExpiry is touch for an entry whose value may be cold: its expiry has come (1) or gone (-1), or has another time (0).
func (c call) touchExpiry(e *entry, came int64) {
	if e.value.held&heldCold == 0 {
		c.touch(e)
		return
	}
	e.value.version = c.version
	c.resize(e, e.value.size()+came*dueBytes)
}

// drop takes an entry out.
func (c call) drop(e *entry) { c.db.remove(c.m, e, c.version) }

// setText makes the entry a string. Expiry stays.
func (c call) setText(e *entry, text []byte) {
	c.setTextAs(e, text, heldText)
}

func (c call) setTextAs(e *entry, text []byte, as held) {
	c.m.letGo(e)
	c.db.keys.setText(e, text, as)
	c.touch(e)
}

// setObject makes the entry hold an object. Expiry stays.
func (c call) setObject(e *entry, o object) {
	c.m.letGo(e)
	c.db.keys.setObject(e, o)
	c.touch(e)
	if c.m.waiters.size > 0 {
		c.m.markReady(c.db.number, e.key())
	}
}

// expireAt makes the entry expire at a time, in milliseconds since 1970 UTC.
func (c call) expireAt(e *entry, at int64) {
	if e.value.due != 0 {
		c.db.due.change(e, at)
		c.touchExpiry(e, 0)
	} else {
		c.db.due.add(e, at)
		c.touchExpiry(e, 1)
	}
}

// expiryOf returns when an entry expires, in milliseconds since 1970 UTC; 0: never.
func (c call) expiryOf(e *entry) int64 {
	if e.value.due == 0 {
		return 0
	}
	return c.db.due.at(e)
}

// persist takes the expiry away and reports whether there was one.
func (c call) persist(e *entry) bool {
	if e.value.due == 0 {
		return false
	}
	c.db.due.remove(e)
	c.touchExpiry(e, -1)
	return true
}

const wrongType = "WRONGTYPE Operation against a key holding the wrong kind of value"

// text returns the entry of a key that holds a string, nil if it is absent; false after an error reply.
func (c call) text(key []byte) (*entry, bool) {
	e := c.find(key)
	if e != nil && !isText(e) {
		c.reply.Error(wrongType)
		return nil, false
	}
	return e, true
}

// objectOf returns the object of a key and its entry, zero values if it is absent; false after an error reply
// because the key holds something else.
func objectOf[T object](c call, key []byte) (o T, e *entry, ok bool) {
	if e = c.find(key); e == nil {
		return o, nil, true
	}
	if o, ok = e.value.object().(T); !ok {
		c.reply.Error(wrongType)
	}
	return o, e, ok
}

package kv

import (
	"lockstep/smr"
)

// value is what a key holds.
type value struct {
	// text is the value of a string. A string has no object, or a textEncoding in its place.
	text    []byte
	object  object
	due     *due // nil: never expires
	version smr.LSN
	size    int64   // as counted in Machine.used, of when the key was last touched
	access  recency // when, and how often, it was used
}

// entry is a key of the keyspace.
type entry = node[value]

// object is the value of a key that is no plain string.
type object interface {
	// kind is the answer of TYPE.
	kind() string
	// encoding is the answer of OBJECT ENCODING.
	encoding() string
	// clone returns a copy that shares nothing that can change.
	clone() object
	// size estimates the memory that the object takes, in bytes.
	size() int
	// digest feeds the whole content to d, in the object's order.
	digest(d *digester)
}

// textEncoding marks a string whose encoding does not follow from its content, as Redis would report it: "raw" after
// it was changed in place, however short it is; "embstr" for the result of INCRBYFLOAT, even if that is an integer.
type textEncoding string

const (
	rawText   textEncoding = "raw"
	floatText textEncoding = "embstr"
)

func (t textEncoding) kind() string       { return "string" }
func (t textEncoding) encoding() string   { return string(t) }
func (t textEncoding) clone() object      { return t }
func (t textEncoding) size() int          { return 0 }
func (t textEncoding) digest(d *digester) { d.text(string(t)) }

func isText(e *entry) bool {
	if e.value.object == nil {
		return true
	}
	_, ok := e.value.object.(textEncoding)
	return ok
}

func kindOf(e *entry) string {
	if isText(e) {
		return "string"
	}
	return e.value.object.kind()
}

// visible reports whether the key has not expired by log time.
func (m *Machine) visible(e *entry) bool { return e.value.due == nil || m.now < e.value.due.at }

// find returns the entry of a key that is visible. A write takes an expired one out on the way.
func (c call) find(key []byte) *entry {
	e := c.db.keys.find(key)
	if e == nil {
		return nil
	}
	if !c.m.visible(e) {
		if c.writing {
			c.m.expire(c.db, e, c.version)
		}
		return nil
	}
	if c.writing {
		c.db.before(c.m, e)
	}
	if c.writing && !c.noTouch {
		e.value.access.use(c)
	}
	return e
}

// create makes an entry for a key that find did not find.
func (c call) create(key []byte) *entry {
	e := c.db.keys.insert(string(key), value{version: c.version, access: newRecency(c.now)})
	c.db.before(c.m, e)
	if c.m.waiters.size > 0 {
		c.m.markReady(c.db.number, e.key)
	}
	c.notify(EventNew, "new", key)
	return e
}

// touch notes that the entry has changed. It is called behind the change: it measures the value.
func (c call) touch(e *entry) {
	e.value.version = c.version
	size := int64(entrySize(e))
	c.m.used += size - e.value.size
	e.value.size = size
	if c.m.host != nil {
		c.m.host.Changed(c.db.number, e.key)
	}
}

// drop takes an entry out.
func (c call) drop(e *entry) { c.db.remove(c.m, e, c.version) }

// setText makes the entry a string. Expiry stays.
func (c call) setText(e *entry, text []byte) {
	e.value.text = replaceBytes(e.value.text, text)
	e.value.object = nil
	c.touch(e)
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

// setObject makes the entry hold an object. Expiry stays.
func (c call) setObject(e *entry, o object) {
	e.value.text, e.value.object = nil, o
	c.touch(e)
	if c.m.waiters.size > 0 {
		c.m.markReady(c.db.number, e.key)
	}
}

// expireAt makes the entry expire at a time, in milliseconds since 1970 UTC.
func (c call) expireAt(e *entry, at int64) {
	if e.value.due != nil {
		c.db.due.change(e.value.due, at)
	} else {
		e.value.due = c.db.due.add(e, at)
	}
	c.touch(e)
}

// persist takes the expiry away and reports whether there was one.
func (c call) persist(e *entry) bool {
	if e.value.due == nil {
		return false
	}
	c.db.due.remove(e.value.due)
	e.value.due = nil
	c.touch(e)
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
	if o, ok = e.value.object.(T); !ok {
		c.reply.Error(wrongType)
	}
	return o, e, ok
}

// due is the expiry of a key.
type due struct {
	at    int64 // milliseconds since 1970 UTC
	entry *entry
	index int // in the heap
}

// dueHeap is a binary heap of expiries: first the earliest, of several the key that was inserted first.
type dueHeap struct{ heap []*due }

func (h *dueHeap) first() *due {
	if len(h.heap) == 0 {
		return nil
	}
	return h.heap[0]
}

func (h *dueHeap) add(e *entry, at int64) *due {
	d := &due{at: at, entry: e, index: len(h.heap)}
	h.heap = append(h.heap, d)
	h.up(d.index)
	return d
}

func (h *dueHeap) remove(d *due) {
	if d == nil {
		return
	}
	last := len(h.heap) - 1
	i := d.index
	h.swap(i, last)
	h.heap[last] = nil
	h.heap = h.heap[:last]
	if i < last {
		h.down(i)
		h.up(i)
	}
}

func (h *dueHeap) change(d *due, at int64) {
	d.at = at
	h.down(d.index)
	h.up(d.index)
}

func (h *dueHeap) before(i, j int) bool {
	a, b := h.heap[i], h.heap[j]
	return a.at < b.at || a.at == b.at && a.entry.id < b.entry.id
}

func (h *dueHeap) swap(i, j int) {
	h.heap[i], h.heap[j] = h.heap[j], h.heap[i]
	h.heap[i].index, h.heap[j].index = i, j
}

func (h *dueHeap) up(i int) {
	for i > 0 && h.before(i, (i-1)/2) {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (h *dueHeap) down(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h.heap); child++ {
			if h.before(child, least) {
				least = child
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

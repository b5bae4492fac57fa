package kv

import (
	"fmt"
	"math"

	"lockstep/internal/resp"
	"lockstep/internal/view"
	"lockstep/smr"
)

// databaseCommands are those that name another database than the selected one.
var databaseCommands = []Command{
	{Name: "copy", Arity: -3, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 2, Step: 1, run: copyKey},
	{Name: "move", Arity: 3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: moveKey},
	{Name: "swapdb", Arity: 3, Flags: Write | Fast, run: swapDatabases},
}

// Databases is how many numbered keyspaces there are.
const Databases = 16

// database is one numbered keyspace.
type database struct {
	number int // changes with SWAPDB
	keys   keyTable
	due    dueHeap

	// deleted holds, for each slot, the version of the last removal of a key (nil: none was); flushed that of the
	// last FLUSHDB or FLUSHALL. They stand in for the version of a key that is absent. No key's version counts as
	// lower than swapped, the version of the last SWAPDB.
	deleted *removals
	flushed smr.LSN
	swapped smr.LSN

	// What images know of the keys; no part of the state.
	tag     byte        // the number that the database began with
	marks   numberMarks // rows are keys, by their number
	cleared uint64      // keys up to this number are gone since the last image was begun
	checked uint64      // the last key that an image compared
	since   bitmap      // rows that changed between the pinned image and the last that was begun (tier.go)
}

// version returns what WATCH remembers of a key (Machine.Version).
func (d *database) version(m *Machine, key []byte) smr.LSN {
	if e := d.keys.find(key); e != nil {
		version := max(e.value.version, d.swapped)
		if !m.visible(d, e) {
			version |= expiredVersion
		}
		return version
	}
	return max(d.flushed, d.swapped, d.deleted.of(Slot(key)))
}

// remove takes a key out and leaves its version with the slot.
func (d *database) remove(m *Machine, e *entry, version smr.LSN) {
	d.goes(m, e)
	m.letGo(e)
	d.due.remove(e)
	key := e.key()
	d.keys.remove(e)
	if d.deleted == nil {
		d.deleted = new(removals)
	}
	d.deleted.note(Slot(view.Bytes(key)), version)
	m.used -= e.value.size()
	if m.waiters.size > 0 {
		m.markReady(d.number, key)
	}
	if m.host != nil {
		m.host.Changed(d.number, key)
	}
}

// flush takes all keys out. The numbers of keys go on, so that a cursor of SCAN stays valid.
func (d *database) flush(m *Machine, version smr.LSN) {
	d.keys.each(func(e *entry) bool {
		m.uncount(e)
		m.used -= e.value.size()
		return true
	})
	if m.waiters.size > 0 {
		m.markAllReady(d.number)
	}
	d.clears(m)
	d.keys = keyTable{lastID: d.keys.lastID, leaving: &m.leaving}
	d.due = dueHeap{}
	d.deleted = nil // all versions below that of the flush
	d.flushed = version
	if m.host != nil {
		m.host.Flushed(d.number)
	}
}

// database reads argument i as the number of a database, or replies an error.
func (c call) database(i int) (*database, bool) {
	n, ok := c.integer(i)
	if !ok {
		return nil, false
	}
	if n != int64(int32(n)) {
		c.reply.Error(fmt.Sprintf("ERR value is out of range, value must between %d and %d", math.MinInt32, math.MaxInt32))
		return nil, false
	}
	if n < 0 || n >= Databases {
		c.reply.Error(errDatabase)
		return nil, false
	}
	return c.m.databases[n], true
}

// in returns the same call in another database.
func (c call) in(d *database) call {
	c.db = d
	return c
}

const errDatabase = "ERR DB index is out of range"

const errSameObject = "ERR source and destination objects are the same"

func copyKey(c call) {
	replace, target := false, c
	for i := 3; i < len(c.args); i++ {
		switch {
		case c.is(i, "replace"):
			replace = true
		case c.is(i, "db") && i+1 < len(c.args):
			i++
			d, ok := c.database(i)
			if !ok {
				return
			}
			target = c.in(d)
		default:
			c.reply.Error(errSyntax)
			return
		}
	}
	if target.db == c.db && string(c.args[1]) == string(c.args[2]) {
		c.reply.Error(errSameObject)
		return
	}
	source, old := c.peek(c.args[1]), target.peek(c.args[2])
	if source == nil || old != nil && !replace {
		c.reply.Int(0)
		return
	}
	if source.value.held&heldCold != 0 {
		source = c.readBack(source)
	}
	if old != nil {
		target.drop(old)
	}
	twin := target.create(c.args[2])
	if o := source.value.object(); o != nil {
		target.db.keys.setObject(twin, o.clone())
	} else {
		as := source.value.held
		if as == heldText {
			as = heldOwn
		}
		target.db.keys.setText(twin, source.value.text(), as)
	}
	target.touch(twin)
	if source.value.due != 0 {
		target.expireAt(twin, c.db.due.at(source))
	}
	target.notify(EventGeneric, "copy_to", c.args[2])
	c.reply.Int(1)
}

func moveKey(c call) {
	d, ok := c.database(2)
	switch {
	case !ok:
		return
	case d == c.db:
		c.reply.Error(errSameObject)
		return
	}
	target := c.in(d)
	source := c.find(c.args[1])
	if source == nil || target.peek(c.args[1]) != nil {
		c.reply.Int(0)
		return
	}
	expires := source.value.due != 0
	var at int64
	if expires {
		at = c.db.due.at(source)
	}
	twin := c.replant(source, target, c.args[1])
	target.touch(twin)
	if expires {
		target.expireAt(twin, at)
	}
	c.notify(EventGeneric, "move_from", c.args[1])
	target.notify(EventGeneric, "move_to", c.args[1])
	c.reply.Int(1)
}

// replant takes an entry out and makes one that holds what it held, in another place. It has been met by find.
func (c call) replant(source *entry, target call, key []byte) *entry {
	from := c.db.keys.storage
	var held value
	from.move(&held, &source.value, from)
	c.drop(source)
	twin := target.create(key)
	target.db.keys.storage.move(&twin.value, &held, from)
	return twin
}

// swapDatabases is SWAPDB: those who have selected one of the two work with the keys of the other from now on, and so do those
// who wait in it.
func swapDatabases(c call) {
	first, ok := resp.ParseInt(c.args[1])
	if !ok || first != int64(int32(first)) {
		c.reply.Error("ERR invalid first DB index")
		return
	}
	second, ok := resp.ParseInt(c.args[2])
	if !ok || second != int64(int32(second)) {
		c.reply.Error("ERR invalid second DB index")
		return
	}
	if first < 0 || first >= Databases || second < 0 || second >= Databases {
		c.reply.Error(errDatabase)
		return
	}
	if first != second {
		c.m.swap(int(first), int(second), c.version)
	}
	c.reply.OK()
}

func (m *Machine) swap(first, second int, version smr.LSN) {
	a, b := m.databases[first], m.databases[second]
	m.databases[first], m.databases[second] = b, a
	a.number, b.number = second, first
	a.swapped, b.swapped = version, version
	for _, number := range [2]int{first, second} {
		if m.waiters.size > 0 {
			m.markAllReady(number)
		}
		if m.host != nil {
			m.host.Flushed(number)
		}
	}
}

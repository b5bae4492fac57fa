package kv

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"lockstep/internal/view"
	"lockstep/smr"
)

// A value is cold when it is not in memory, but in the rows of an image that is kept open for it (ColdRows). Its key, expiry, version,
// size and recency stay. Whatever needs the value reads it back: a write for good, a read for itself alone (and offers it to
// the host, Tier.Read, which may hand it to TakeBack).
//
// Which values are cold is no part of the state, and nothing that a command says depends on it: nodes differ in it.
//
// # Invariants
//
//   - The row of a cold value's key in the pinned image has the content of that value; so have the rows of its large object. (Its front, with
//     version, expiry and recency, may be older.) It follows from: only a value that is clean becomes cold, and one that is cold
//     does not change.
//   - A value is clean when nothing of its key was marked as changed since the pinned image was begun: the marks of the database
//     since the last image was begun, and database.since for those between the pinned image and that one.
//   - Every image that is begun later has that content, too: an image that is not full leaves the row as it is, or is told to exchange
//     its front (RowFront); a full one is told to copy it.

// Tier is told which keys are used, and says which are idle. Its methods may be called by all who may call Read, at the same time.
type Tier interface {
	// Used says that a key was used. It is called often.
	Used(database byte, key uint64)
	// Idle reports whether a key was not used since Idle was asked of it last. It may say no without need.
	Idle(database byte, key uint64) bool
	// Read is given a value that was read back for somebody who could not keep it. The value may be read until the machine is changed.
	Read(back ReadBack)
}

// ColdRows are the rows of an image. The methods may be called by all who may call Read, at the same time. What is visited is valid during
// the call.
type ColdRows interface {
	// Row visits the value of a row. That it is not there is an error.
	Row(key []byte, visit func(value []byte) error) error
	// Rows visits the rows from, end in the order of their keys.
	Rows(from, end []byte, visit func(key, value []byte) error) error
}

// Damage is what the machine panics with when a value cannot be read back, or is not what it was. There is no reply and no state that would be
// right: whoever runs the machine must stop with it, and begin anew with another image.
type Damage struct {
	Database int
	Key      string
	Err      error
}

func (d *Damage) Error() string {
	return fmt.Sprintf("read back the value of key %.100q in database %d: %v", d.Key, d.Database, d.Err)
}

func (d *Damage) Unwrap() error { return d.Err }

// ReadBack is a value that was read back.
type ReadBack struct {
	tag     byte
	id      uint64
	version smr.LSN
	value   loose
	size    int64
}

// Bytes estimates the memory that it takes.
func (r ReadBack) Bytes() int64 { return r.size }

// tiering is what the machine knows of its cold values.
type tiering struct {
	host    Tier     // nil: all values stay in memory
	rows    ColdRows // of the pinned image; nil: there is none
	lineage uint32   // of that image: imaging.lineage

	keys  int   // that are cold
	bytes int64 // which their values would take
	back  int64 // values that became warm again

	// The hand of the clock: the key behind which Chill goes on.
	hand   uint64
	at     int // database
	barren int // keys looked at since the last that became cold
	buffer []byte
}

// TierStats describes the cold values.
type TierStats struct {
	Keys     int   // whose values are cold
	Bytes    int64 // that these values would take in memory
	Resident int64 // estimate of the memory of all keys and of those values that are here, in bytes
	Back     int64 // values that became warm again since the machine began
}

// SetTier lets values become cold; host is told of uses.
func (m *Machine) SetTier(host Tier) { m.tier.host = host }

// TierStats returns figures about the cold values.
func (m *Machine) TierStats() TierStats {
	t := &m.tier
	return TierStats{Keys: t.keys, Bytes: t.bytes, Resident: m.used - t.bytes, Back: t.back}
}

// Pin says that rows are those of the last image, which was stored as a whole and is kept for as long as no other is pinned. It is called
// between frames, behind EndImage or LoadImage, with nothing applied in between. It returns the rows that are not needed any more, nil for none.
func (m *Machine) Pin(rows ColdRows) (before ColdRows) {
	t := &m.tier
	before, t.rows, t.lineage = t.rows, rows, m.image.lineage
	for _, d := range &m.databases {
		d.since = bitmap{}
	}
	return before
}

// minCold is the least that a value takes, in bytes, beside its key, to become cold: for less there is nothing to gain.
const minCold = 16

// Chill makes idle and clean values cold until no more than target bytes are resident, or so many keys were looked at. It is called between
// frames, while nobody reads. It reports whether it met none that can become cold in two rounds: only a new image helps.
func (m *Machine) Chill(target int64, looks int) (exhausted bool) {
	m.settle()
	t := &m.tier
	if t.rows == nil {
		return m.used-t.bytes > target
	}
	all := 0
	for _, d := range &m.databases {
		all += d.keys.size
	}
	for m.used-t.bytes > target && looks > 0 {
		if t.barren > 2*all+Databases {
			t.barren = 0
			return true
		}
		d := m.databases[t.at]
		before := looks
		d.keys.eachFrom(t.hand+1, func(e *entry) bool {
			t.hand = e.id
			t.barren++
			looks--
			if m.chillable(d, e) && t.host.Idle(d.tag, e.id) {
				m.chill(d, e)
				t.barren = 0
			}
			return looks > 0 && m.used-t.bytes > target
		})
		if looks > 0 && m.used-t.bytes > target { // the end of the database
			t.hand, t.at = 0, (t.at+1)%Databases
			if before == looks {
				t.barren++
			}
		}
	}
	return false
}

// chillable reports whether a value may become cold.
func (m *Machine) chillable(d *database, e *entry) bool {
	return e.value.held&heldCold == 0 && contentSize(e) >= minCold && m.clean(d, e)
}

// clean reports whether the pinned image has the key with what it holds.
func (m *Machine) clean(d *database, e *entry) bool {
	row := rowID(e.id)
	return m.tier.rows != nil && !d.marks.changed(row) && !d.since.has(row)
}

// chill lets the value of an entry of a database go that is clean.
func (m *Machine) chill(d *database, e *entry) {
	t := &m.tier
	sum, large := uint32(0), largeOf(e) != nil
	if !large {
		t.buffer = appendContent(t.buffer[:0], e, false)
		sum = crc32.Checksum(t.buffer, castagnoli)
		if cap(t.buffer) > 1<<20 {
			t.buffer = nil
		}
	}
	shown := showsOther
	for i, encoding := range coldEncodings {
		if encoding == encodingOf(e) {
			shown = coldShown(i)
		}
	}
	if references(e) != 1 {
		shown = showsShared
	}
	d.keys.storage.leaveContent(&e.value)
	e.value.setCold(e.value.held, cold{sum: sum, shown: shown, large: large})
	m.count(e)
}

// count and uncount keep the figures about cold values.
func (m *Machine) count(e *entry) {
	m.tier.keys++
	m.tier.bytes += contentSize(e)
}

func (m *Machine) uncount(e *entry) {
	if e.value.held&heldCold != 0 {
		m.tier.keys--
		m.tier.bytes -= contentSize(e)
	}
}

// letGo is called when an entry is about to hold something else, or nothing: a cold value need not be read back.
func (m *Machine) letGo(e *entry) {
	if e.value.held&heldCold != 0 {
		m.uncount(e)
		e.value.box, e.value.held = view.BoxBytes(noText, 0), heldText
	}
}

// contentSize is the part of an entry's size that is gone while its value is cold.
func contentSize(e *entry) int64 {
	size := e.value.size() - int64(nodeOverhead+entryBytes+e.name.Len())
	if e.value.due != 0 {
		size -= dueBytes
	}
	return size
}

// readBack returns the entry with its cold value: the same one for a write, one of its own for a read.
func (c call) readBack(e *entry) *entry {
	back := c.m.valueOf(c.db, e)
	held := back.value.loose()
	if c.writing {
		c.m.warm(c.db, e, held)
		return e
	}
	if c.m.tier.host != nil {
		c.m.tier.host.Read(ReadBack{tag: c.db.tag, id: e.id, version: e.value.version, value: held, size: e.value.size()})
	}
	return back
}

// warm puts a value that was read back into its entry.
func (m *Machine) warm(d *database, e *entry, back loose) {
	m.uncount(e)
	d.keys.set(e, back)
	m.tier.back++
}

// TakeBack puts a value that was read back into its key, if that is still as it was then. It is called between frames, while nobody reads.
func (m *Machine) TakeBack(back ReadBack) bool {
	for _, d := range &m.databases {
		if d.tag != back.tag {
			continue
		}
		e := d.keys.first(back.id)
		if e == nil || e.id != back.id || e.value.version != back.version || e.value.held != back.value.held|heldCold {
			return false
		}
		m.warm(d, e, back.value)
		return true
	}
	return false
}

var (
	errOtherRow   = errors.New("its row in the image is of something else")
	errOtherValue = errors.New("its row in the image does not hold what it held")
)

// valueOf reads the value of an entry that is cold, and returns it in an entry of its own. It changes nothing: several readers may do so at the same
// time.
func (m *Machine) valueOf(d *database, e *entry) *entry {
	held, err := m.readBack(d, e)
	if err == nil {
		back := detach(e, held)
		if back.value.held == e.value.held&^heldCold && int64(entrySize(back)) == e.value.size() {
			return back
		}
		err = errOtherValue
	}
	panic(&Damage{Database: d.number, Key: strings.Clone(e.key()), Err: err})
}

func (m *Machine) readBack(d *database, e *entry) (held loose, err error) {
	is := coldOf(e)
	l := ImageLoader{m: m, lineage: m.tier.lineage}
	err = m.tier.rows.Row(rowKey{space: spaceKeys, part: d.tag, number: e.id}.append(nil), func(row []byte) error {
		r := rowReader{rest: row}
		s := r.entry()
		switch {
		case r.err != nil:
			return r.err
		case string(s.key) != e.key() || s.large != is.large:
			return errOtherRow
		case !is.large && crc32.Checksum(r.rest, castagnoli) != is.sum:
			return errOtherValue
		}
		if held = l.content(s, &r); r.err == nil && len(r.rest) > 0 {
			r.fail()
		}
		held.text = slices.Clone(held.text) // the row is valid during this call
		return r.err
	})
	if err == nil && is.large {
		from, end := ObjectRows(l.order[0].o.object)
		err = m.tier.rows.Rows(from, end, l.part)
		if err == nil && !l.order[0].complete() {
			err = errOtherValue
		}
	}
	return held, err
}

// cold is what stays in memory of a cold value.
type cold struct {
	sum   uint32 // CRC32C of the content of its row, 0 if it is large
	shown coldShown
	large bool // a large object
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// coldShown is what OBJECT says of a cold value: a place in coldEncodings.
type coldShown uint8

var coldEncodings = [...]string{"", "int", "int", "embstr", "raw", "listpack", "hashtable", "intset", "quicklist", "skiplist", "stream"}

const (
	showsOther  coldShown = iota
	showsShared           // a small integer: Redis shares its object
)

func (s cold) encoding() string { return coldEncodings[s.shown] }

func (s cold) references() int64 {
	if s.shown == showsShared {
		return sharedReferences
	}
	return 1
}

const coldLarge = 1 << 40

// coldOf returns what is known of the cold value of an entry.
func coldOf(e *entry) cold {
	n := e.value.box.Number()
	return cold{sum: uint32(n), shown: coldShown(n >> 32), large: n&coldLarge != 0}
}

// setCold makes the value one that is not here.
func (v *value) setCold(as held, c cold) {
	n := uint64(c.sum) | uint64(c.shown)<<32
	if c.large {
		n |= coldLarge
	}
	v.box, v.held = view.BoxNumber(n), as|heldCold
}

package kv

import (
	"lockstep/internal/view"
	"lockstep/smr"
)

// value is what a key holds, in 40 bytes: with key and number an entry takes 64.
type value struct {
	box     view.Box // a string, a pointer to an object, or what is known of a cold value: held says which. The storage fills it
	version smr.LSN
	// sizeLow and sizeHigh are the size as counted in Machine.used, of when the key was last touched.
	sizeLow  uint32
	sizeHigh uint16
	uses     uint8 // how often the key was used: a logarithmic counter as Redis has it, of when it was last used
	held     held
	due      uint32 // 1 + the place of the expiry in the heap; 0: the key never expires
	used     uint32 // when the key was last used: seconds of log time since 1970, modulo 2^32
}

// held says what kind of value the box of a value holds.
type held uint8

const (
	heldText held = iota
	// heldRaw and heldFloat are strings whose encoding does not follow from their content, as Redis would report it: "raw" after one
	// was changed in place, however short it is; "embstr" for the result of INCRBYFLOAT, even if that is an integer.
	heldRaw
	heldFloat
	// heldOwn is a string like any other that shares nothing: the copy of a small integer, as OBJECT REFCOUNT tells.
	heldOwn
	heldHash
	heldSet
	heldZset
	heldList
	heldStream

	// heldCold is set beside another one while the value is not in memory (tier.go).
	heldCold held = 0x80
)

// entry is a key of the keyspace. The garbage collector sees nothing in it (storage).
type entry struct {
	value value
	name  view.Box // the key
	id    uint64   // numbers the insertions into the database from 1 and is never given twice
}

// key returns the key. Whoever keeps it beyond the request copies it.
func (e *entry) key() string { return e.name.Text() }

// object is the value of a key that is no string.
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

// text returns the string that the value is, nil if it is none. It may be changed in place, but not appended to (keyTable.lengthen). A cold
// value must have been read back.
func (v *value) text() []byte {
	if v.held > heldOwn {
		v.mustBeHere()
		return nil
	}
	return v.box.Bytes()
}

// mustBeHere stops who takes a cold value for one in memory: whatever it would say of it is wrong.
func (v *value) mustBeHere() {
	if v.held&heldCold != 0 {
		panic("kv: a cold value was used without reading it back")
	}
}

// object returns the object that the value is, nil if it is a string. A cold value must have been read back.
func (v *value) object() object {
	switch v.held {
	case heldHash:
		return view.Open[hashObject](&v.box)
	case heldSet:
		return view.Open[setObject](&v.box)
	case heldZset:
		return view.Open[zsetObject](&v.box)
	case heldList:
		return view.Open[list](&v.box)
	case heldStream:
		return view.Open[stream](&v.box)
	}
	v.mustBeHere()
	return nil
}

// setObject makes the value an object, which somebody else keeps alive, in a place with that number.
func (v *value) setObject(o object, place uint32) {
	switch o := o.(type) {
	case *hashObject:
		v.box, v.held = view.BoxPointer(o, place), heldHash
	case *setObject:
		v.box, v.held = view.BoxPointer(o, place), heldSet
	case *zsetObject:
		v.box, v.held = view.BoxPointer(o, place), heldZset
	case *list:
		v.box, v.held = view.BoxPointer(o, place), heldList
	case *stream:
		v.box, v.held = view.BoxPointer(o, place), heldStream
	default:
		panic("kv: no value can hold a " + o.kind())
	}
}

// loose is what a key can hold, where it stands in no table.
type loose struct {
	text   []byte // shared, if object is nil
	object object
	held   held // of a text
}

// loose returns what the value holds, which is shared.
func (v *value) loose() loose { return loose{text: v.text(), object: v.object(), held: v.held} }

// detached is an entry that stands in no table and keeps alive what it holds.
type detached struct {
	entry
	keeps loose
}

// detach returns an entry that is like e, but holds something else. Both have the same key, as bytes.
//
//go:noinline
func detach(e *entry, l loose) *entry { // neither may lie on a stack, of which the boxes would not know that it moved
	d := &detached{*e, l}
	if l.object != nil {
		d.value.setObject(l.object, 0)
	} else {
		d.value.box, d.value.held = view.BoxBytes(l.text, 0), l.held
	}
	return &d.entry
}

func (v *value) size() int64 { return int64(v.sizeHigh)<<32 | int64(v.sizeLow) }

// setSize takes a size of up to 256 TB.
func (v *value) setSize(size int64) { v.sizeLow, v.sizeHigh = uint32(size), uint16(size>>32) }

func isText(e *entry) bool { return e.value.held&^heldCold <= heldOwn }

// kindOf is the answer of TYPE, also of a cold value.
func kindOf(e *entry) string {
	switch e.value.held &^ heldCold {
	case heldHash:
		return "hash"
	case heldSet:
		return "set"
	case heldZset:
		return "zset"
	case heldList:
		return "list"
	case heldStream:
		return "stream"
	}
	return "string"
}

package kv

import (
	"lockstep/internal/view"
	"lockstep/smr"
)

// value is what a key holds, in 40 bytes: with key and number an entry takes 64, a size in which the allocator has no loss.
type value struct {
	box     view.Box // a string, a pointer to an object, or what is known of a cold value: held says which
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

// entry is a key of the keyspace.
type entry = node[value]

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

// text returns the string that the value is, nil if it is none. It may be changed in place. A cold value must have been read back.
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

// setText makes the value a string, which is kept.
func (v *value) setText(text []byte, as held) { v.box, v.held = view.BoxBytes(text), as }

// object returns the object that the value is, nil if it is a string. A cold value must have been read back.
func (v *value) object() object {
	switch v.held {
	case heldHash:
		return view.Open[hashObject](v.box)
	case heldSet:
		return view.Open[setObject](v.box)
	case heldZset:
		return view.Open[zsetObject](v.box)
	case heldList:
		return view.Open[list](v.box)
	case heldStream:
		return view.Open[stream](v.box)
	}
	v.mustBeHere()
	return nil
}

func (v *value) setObject(o object) {
	switch o := o.(type) {
	case *hashObject:
		v.box, v.held = view.BoxPointer(o), heldHash
	case *setObject:
		v.box, v.held = view.BoxPointer(o), heldSet
	case *zsetObject:
		v.box, v.held = view.BoxPointer(o), heldZset
	case *list:
		v.box, v.held = view.BoxPointer(o), heldList
	case *stream:
		v.box, v.held = view.BoxPointer(o), heldStream
	default:
		panic("kv: no value can hold a " + o.kind())
	}
}

// take makes the value hold what another one holds, and nothing else of it. The other one must not be used any more.
func (v *value) take(other value) { v.box, v.held = other.box, other.held }

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

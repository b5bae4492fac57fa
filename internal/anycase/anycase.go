// Package anycase finds what has a name that may be written in any case, as a command of Redis. A look-up takes no memory, and mostly one multiplication and one
// comparison: every request is looked up on every node.
package anycase

import (
	"math/bits"
)

// Table holds values by names in lower case. It never changes, so that any number of goroutines may use it.
type Table[T any] struct {
	slots []slot[T] // a power of two of them, at least twice as many as there are names; a name is in the first free one from its hash on
	shift int
}

type slot[T any] struct {
	name  string // "": free
	value T
}

// New returns a table of values. Names are in lower case, and not empty; New panics otherwise.
func New[T any](values map[string]T) *Table[T] {
	width := bits.Len(uint(2*len(values) + 1))
	t := &Table[T]{slots: make([]slot[T], 1<<width), shift: 64 - width}
	for name, value := range values {
		if name == "" || !same([]byte(name), name) {
			panic("anycase: " + name + " is not in lower case")
		}
		at := t.hash([]byte(name))
		for t.slots[at].name != "" {
			at = (at + 1) & (len(t.slots) - 1)
		}
		t.slots[at] = slot[T]{name, value}
	}
	return t
}

// Find returns the value of that name, in any case of its ASCII letters.
func (t *Table[T]) Find(name []byte) (value T, found bool) {
	if len(name) == 0 {
		return value, false
	}
	for at := t.hash(name); t.slots[at].name != ""; at = (at + 1) & (len(t.slots) - 1) {
		if same(name, t.slots[at].name) {
			return t.slots[at].value, true
		}
	}
	return value, false
}

// hash returns the slot where the search for a name begins. It looks at the length and the first eight bytes only: commands differ in them, nearly all.
func (t *Table[T]) hash(name []byte) int {
	word := uint64(len(name))
	for _, b := range name[:min(len(name), 8)] {
		word = word<<8 ^ word>>56 ^ uint64(b|0x20) // the bit in which both cases of a letter differ
	}
	return int(word * 0x9e3779b97f4a7c15 >> t.shift)
}

// same reports whether a name is that in lower case.
func same(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, b := range name {
		if b >= 'A' && b <= 'Z' {
			b += 'a' - 'A'
		}
		if b != lower[i] {
			return false
		}
	}
	return true
}

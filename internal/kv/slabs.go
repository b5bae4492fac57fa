package kv

import (
	"encoding/binary"
	"math/bits"

	"lockstep/internal/view"
)

// Slabs are the memory of a keyspace: pieces of which the garbage collector marks each as one thing, and does not look into those of texts and
// entries. A slab has places of one size, of which each holds a text (a key or a string), an entry or an object (a hash, a list ...).
//
// # Invariants
//
//   - A free place that was in use once holds the number of the next one, as slab.free says the first.
//   - A slab stands in the list of its shelf exactly if it has room and is not being cleared.
//   - A slab of which no place is in use any more goes, unless no other one of its shelf has room: of each kind there is one at most.

// kind says what a slab holds: texts of one size, or what is no text.
type kind uint8

const (
	// The sizes of places for texts differ by 8 bytes up to smallText; above, there are sizesEach sizes to a doubling, up to largestText. A
	// longer text has a slab of its own.
	smallText   = 128
	doublings   = 7
	sizesEach   = 8
	largestText = smallText << doublings
	textKinds   = smallText/8 + doublings*sizesEach

	kindLargeText = kind(textKinds)
	kindEntry     = kind(textKinds + 1)
	kindObject    = kind(textKinds + 2)
)

const (
	// placeBits is the number of bits of a place within a slab of entries or objects.
	placeBits = 9
	maxPlaces = 1 << placeBits
	// slabBytes and largeSlabBytes bound a slab of texts: of those of up to 1 KB, and of longer ones.
	slabBytes      = 32 << 10
	largeSlabBytes = 128 << 10
	// firstPlaces is how many places the first slab of a shelf has. The next ones have as many as are in use.
	firstPlaces = 8
	// objectBytes is what the place of an object takes.
	objectBytes = 20
)

// kindOfText returns the kind of slab in which a text of that length finds its place. It must not be empty.
func kindOfText(length int) kind {
	switch {
	case length <= smallText:
		return kind((length - 1) >> 3)
	case length > largestText:
		return kindLargeText
	}
	doubling := bits.Len(uint(length-1)) - 8 // smallText<<doubling < length <= smallText<<(doubling+1)
	step := (length - 1 - smallText<<doubling) / (smallText / sizesEach << doubling)
	return kind(smallText/8 + doubling*sizesEach + step)
}

// textSize returns the size of the places of a kind, in bytes.
func textSize(k kind) int {
	if k < smallText/8 {
		return 8 * (int(k) + 1)
	}
	doubling, step := (int(k)-smallText/8)/sizesEach, (int(k)-smallText/8)%sizesEach
	return smallText<<doubling + (step+1)*(smallText/sizesEach<<doubling)
}

// slab is a number of places of one kind.
type slab struct {
	texts   []byte   // of texts,
	entries []entry  // of entries,
	objects []object // or of objects
	links   []uint32 // of objects: see setLink

	kind     kind
	listed   bool
	clearing bool   // what it holds goes to other slabs (compact.go): nothing new comes
	size     uint32 // of a place, in bytes
	places   uint32
	given    uint32 // how many places were ever in use: the first ones
	used     uint32 // how many are
	free     uint32 // 1 + the free place that is taken next; 0: none of those that were given is free
	before   uint32 // neighbours in the list of the shelf; 0: none
	behind   uint32
}

// link returns which free place comes behind a free place, as slab.free says the first.
func (s *slab) link(i uint32) uint32 {
	switch s.kind {
	case kindEntry:
		return s.entries[i].value.used
	case kindObject:
		return s.links[i]
	}
	return binary.LittleEndian.Uint32(s.texts[i*s.size:])
}

func (s *slab) setLink(i, next uint32) {
	switch s.kind {
	case kindEntry:
		s.entries[i].value.used = next
	case kindObject:
		s.links[i] = next
	case kindLargeText: // has one place
	default:
		binary.LittleEndian.PutUint32(s.texts[i*s.size:], next)
	}
}

// text returns the memory of a place.
func (s *slab) text(i uint32) []byte {
	at := int(i) * int(s.size)
	return s.texts[at : at+int(s.size) : at+int(s.size)]
}

// wipe empties a place that is free. spoil leaves nothing in it that can be used: who still does is found out.
func (s *slab) wipe(i uint32, spoil bool) {
	switch {
	case s.kind == kindObject:
		s.objects[i] = nil
	case !spoil:
	case s.kind == kindEntry:
		s.entries[i] = entry{name: view.BoxNumber(1), value: value{held: heldCold | heldStream}} // a byte at no address
	default:
		for at := range s.text(i) {
			s.text(i)[at] = 0xDB
		}
	}
}

// shelf is the slabs of one kind.
type shelf struct {
	first uint32 // slab with room; 0: none has
	given int    // those that were ever in use
	used  int    // those that are
}

// pool is slabs of some kinds, by their numbers.
type pool struct {
	slabs   []*slab // nil: the number is given to none; 0 never is
	spare   []uint32
	shelves []shelf
	lowest  kind  // which shelf is the first
	bytes   int64 // of the places that were ever in use
	waste   int64 // of those of them that are free
}

func newPool(lowest kind, kinds int) pool {
	return pool{slabs: make([]*slab, 1), shelves: make([]shelf, kinds), lowest: lowest}
}

func (p *pool) shelf(k kind) *shelf { return &p.shelves[k-p.lowest] }

// take takes a place that is free.
func (p *pool) take(k kind) (s *slab, number, i uint32) {
	number = p.shelf(k).first
	if number == 0 {
		number = p.put(p.next(k))
	}
	return p.takeOf(number)
}

// takeOf takes a place of a slab that has room.
func (p *pool) takeOf(number uint32) (s *slab, _, i uint32) {
	s = p.slabs[number]
	if s.free != 0 {
		i = s.free - 1
		s.free = s.link(i)
		p.waste -= int64(s.size)
	} else {
		i = s.given
		p.give(s)
	}
	p.shelf(s.kind).used++
	if s.used++; s.used == s.places {
		p.unlist(number)
	}
	return s, number, i
}

// give counts a place that was never in use.
func (p *pool) give(s *slab) {
	s.given++
	p.shelf(s.kind).given++
	p.bytes += int64(s.size)
}

// next makes a slab for a shelf that has no room.
func (p *pool) next(k kind) *slab {
	s := &slab{kind: k}
	places := max(firstPlaces, p.shelf(k).used)
	switch k {
	case kindEntry:
		s.entries = make([]entry, min(places, maxPlaces))
		s.places, s.size = uint32(len(s.entries)), entryBytes
	case kindObject:
		s.objects = make([]object, min(places, maxPlaces))
		s.places, s.size = uint32(len(s.objects)), objectBytes
		s.links = make([]uint32, s.places)
	default:
		size, limit := textSize(k), slabBytes
		if size > 1<<10 {
			limit = largeSlabBytes
		}
		places = min(places, limit/size)
		s.size, s.places = uint32(size), uint32(places)
		s.texts = make([]byte, places*size)
	}
	return s
}

// put gives a number to a slab.
func (p *pool) put(s *slab) (number uint32) {
	if last := len(p.spare) - 1; last >= 0 {
		number, p.spare = p.spare[last], p.spare[:last]
		p.slabs[number] = s
	} else {
		number = uint32(len(p.slabs))
		if s.kind >= kindEntry && number >= 1<<(32-placeBits) {
			panic("kv: more than four billion keys")
		}
		p.slabs = append(p.slabs, s)
	}
	p.list(number)
	return number
}

// free gives a place back, and reports whether the slab went with it.
func (p *pool) free(number, i uint32, spoil bool) (gone bool) {
	s := p.slabs[number]
	s.wipe(i, spoil)
	s.setLink(i, s.free)
	s.free = i + 1
	s.used--
	p.shelf(s.kind).used--
	p.waste += int64(s.size)
	if !s.listed && !s.clearing {
		p.list(number)
	}
	if s.used > 0 || s.listed && s.before == 0 && s.behind == 0 && s.kind != kindLargeText {
		return false
	}
	p.drop(number)
	return true
}

// drop takes a slab out, whose places are free.
func (p *pool) drop(number uint32) {
	s, on := p.slabs[number], p.shelf(p.slabs[number].kind)
	p.unlist(number)
	on.given -= int(s.given)
	p.bytes -= int64(s.given) * int64(s.size)
	p.waste -= int64(s.given) * int64(s.size)
	p.slabs[number] = nil
	p.spare = append(p.spare, number)
}

// dropUnused takes out the slabs of kinds of which no place is in use.
func (p *pool) dropUnused() {
	for i := range p.shelves {
		for on := &p.shelves[i]; on.used == 0 && on.first != 0; {
			p.drop(on.first)
		}
	}
}

func (p *pool) list(number uint32) {
	s, on := p.slabs[number], p.shelf(p.slabs[number].kind)
	s.listed, s.before, s.behind = true, 0, on.first
	if on.first != 0 {
		p.slabs[on.first].before = number
	}
	on.first = number
}

func (p *pool) unlist(number uint32) {
	s := p.slabs[number]
	if !s.listed {
		return
	}
	if s.before != 0 {
		p.slabs[s.before].behind = s.behind
	} else {
		p.shelf(s.kind).first = s.behind
	}
	if s.behind != 0 {
		p.slabs[s.behind].before = s.before
	}
	s.listed, s.before, s.behind = false, 0, 0
}

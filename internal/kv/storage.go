package kv

import (
	"slices"

	"lockstep/internal/view"
)

// storage is the memory of the keys of one database: their entries, the texts of keys and strings, and the objects.
//
// Go's garbage collector sees the slabs, and the objects in them. An entry refers to its texts and to its object by a view.Box, which the
// collector does not see, and others refer to entries by their numbers, or by a view.Hidden. So a cycle marks some tens of thousands
// of slabs for a million keys, whatever the keys hold as strings.
//
// # Invariants
//
//   - What a box of an entry refers to lies in a place of this storage that is in use; the place is of no other entry.
//   - What is let go stays as it is until the next request begins (leaving): within a request nobody meets other bytes, another object or another
//     entry where he met one. Whoever keeps a key for longer copies it; nobody may keep the bytes of a string, which are also changed in
//     place.
//   - The number of an entry is its slab's number<<placeBits + its place. No entry has number 0.
type storage struct {
	nodes   pool
	texts   pool
	objects pool
	entries [][]entry // those of the slabs of nodes
	leaving *leaving
	compact compaction
}

func newStorage(l *leaving) *storage {
	return &storage{
		nodes: newPool(kindEntry, 1), texts: newPool(0, int(kindLargeText)+1), objects: newPool(kindObject, 1),
		entries: make([][]entry, 1), leaving: l,
	}
}

// leaving is what the entries of a machine let go during this request.
type leaving struct {
	places   []leavingPlace
	wasteful bool  // some storage has more free places than it should
	least    int64 // bytes of free places that are no waste: leastWaste, but in tests
	spoil    bool  // what is released is overwritten, so that a test meets whoever still uses it
}

type leavingPlace struct {
	of        *storage
	kind      kind
	number, i uint32 // of the slab, within the slab
}

// keptLeaving bounds the memory that is kept between requests for what they let go, in places.
const keptLeaving = 4096

// release gives back what was let go. It is called where nobody is in the midst of a request.
func (l *leaving) release() {
	for at := range l.places {
		p := &l.places[at]
		p.of.free(p.kind, p.number, p.i, l.spoil)
		if p.of.wasteful() {
			l.wasteful = true
		}
		p.of = nil
	}
	if l.places = l.places[:0]; cap(l.places) > keptLeaving {
		l.places = nil
	}
}

func (s *storage) leave(k kind, number, i uint32) {
	s.leaving.places = append(s.leaving.places, leavingPlace{s, k, number, i})
}

func (s *storage) free(k kind, number, i uint32, spoil bool) {
	switch k {
	case kindEntry:
		if s.nodes.free(number, i, spoil) {
			s.entries[number] = nil
		}
	case kindObject:
		s.objects.free(number, i, spoil)
	default:
		s.texts.free(number, i, spoil)
	}
}

// entry returns the entry with a number.
func (s *storage) entry(number uint32) *entry {
	return &s.entries[number>>placeBits][number&(maxPlaces-1)]
}

// addEntry returns a place for an entry.
func (s *storage) addEntry() (number uint32, e *entry) {
	at, slab, i := s.nodes.take(kindEntry)
	if int(slab) >= len(s.entries) {
		s.entries = append(s.entries, nil)
	}
	s.entries[slab] = at.entries
	return slab<<placeBits | i, &at.entries[i]
}

// leaveEntry lets an entry go with what it holds.
func (s *storage) leaveEntry(number uint32, e *entry) {
	s.leaveContent(&e.value)
	s.leaveText(e.name)
	s.leave(kindEntry, number>>placeBits, number&(maxPlaces-1))
}

// addText returns memory for a text of that length, which must not be 0. Behind it there is room up to its capacity.
func (s *storage) addText(length int) (text []byte, number uint32) {
	k := kindOfText(length)
	if k == kindLargeText {
		return s.adopt(make([]byte, length))
	}
	slab, number, i := s.texts.take(k)
	return slab.text(i)[:length], number
}

// adopt makes memory of Go's the slab of one long text.
func (s *storage) adopt(memory []byte) (text []byte, number uint32) {
	_, number, _ = s.texts.takeOf(s.texts.put(&slab{kind: kindLargeText, texts: memory[:cap(memory)], size: uint32(cap(memory)), places: 1}))
	return memory, number
}

// copyText returns a copy of a text in the storage.
func (s *storage) copyText(text []byte) view.Box {
	switch {
	case len(text) == 0:
		return view.BoxBytes(noText, 0)
	case len(text) > largestText:
		return view.BoxBytes(s.adopt(slices.Clone(text)))
	}
	place, number := s.addText(len(text))
	copy(place, text)
	return view.BoxBytes(place, number)
}

// noText is the text of no bytes: it has no place.
var noText = []byte{}

// room returns the memory of the place in which a text begins; nil for one that has none.
func (s *storage) room(text *view.Box) []byte {
	if text.Place() == 0 {
		return nil
	}
	slab := s.texts.slabs[text.Place()]
	return slab.text(uint32(text.OffsetIn(slab.texts)) / slab.size)
}

func (s *storage) leaveText(text view.Box) {
	if number := text.Place(); number != 0 {
		slab := s.texts.slabs[number]
		s.leave(slab.kind, number, uint32(text.OffsetIn(slab.texts))/slab.size)
	}
}

// leaveContent lets go what a value holds. The value still shows it until the next request.
func (s *storage) leaveContent(v *value) {
	switch {
	case v.held <= heldOwn:
		s.leaveText(v.box)
	case v.held&heldCold == 0:
		s.leave(kindObject, v.box.Place()>>placeBits, v.box.Place()&(maxPlaces-1))
	}
}

// setText makes a value a string: a copy of text, in the memory of the string that it was if that is neither too small nor a waste.
func (s *storage) setText(v *value, text []byte, as held) {
	if v.held <= heldOwn && len(text) > 0 {
		room := v.box.Bytes()
		if len(room) != len(text) {
			room = s.room(&v.box)
		}
		if cap(room) >= len(text) && cap(room) <= 2*len(text)+32 {
			if &room[0] != &text[0] { // else it was changed in place
				copy(room[:len(text)], text)
			}
			v.box, v.held = view.BoxBytes(room[:len(text)], v.box.Place()), as
			return
		}
	}
	box := s.copyText(text)
	s.leaveContent(v)
	v.box, v.held = box, as
}

// lengthen makes a string longer by so many zeros.
func (s *storage) lengthen(v *value, by int, as held) {
	old := v.text()
	length := len(old) + by
	room, number := s.room(&v.box), v.box.Place()
	if cap(room) < length {
		spare := 0
		if len(old) > 0 { // it may grow again
			spare = length / 4
		}
		room, number = s.addText(length + spare)
		copy(room, old)
		s.leaveText(v.box)
	}
	clear(room[len(old):length])
	v.box, v.held = view.BoxBytes(room[:length], number), as
}

// setObject makes a value an object.
func (s *storage) setObject(v *value, o object) {
	slab, number, i := s.objects.take(kindObject)
	slab.objects[i] = o
	s.leaveContent(v)
	v.setObject(o, number<<placeBits|i)
}

// set makes a value what stands in no table.
func (s *storage) set(v *value, from loose) {
	if from.object != nil {
		s.setObject(v, from.object)
	} else {
		s.setText(v, from.text, from.held)
	}
}

// move makes a value hold what another one holds, which then holds nothing: an empty string.
func (s *storage) move(v *value, from *value, of *storage) {
	box, held := from.box, from.held
	switch {
	case s == of:
	case held > heldOwn:
		s.setObject(v, from.object())
		of.leaveContent(from)
		box, held = v.box, v.held
	case box.Place() != 0 && of.texts.slabs[box.Place()].kind == kindLargeText: // the memory itself goes
		memory := of.room(&box)[:box.Len()]
		of.texts.free(box.Place(), 0, false) // that is but its number
		box = view.BoxBytes(s.adopt(memory))
	default:
		kept := s.copyText(box.Bytes())
		of.leaveText(box)
		box = kept
	}
	from.box, from.held = view.BoxBytes(noText, 0), heldText
	v.box, v.held = box, held
}

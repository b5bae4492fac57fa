package kv

import (
	"lockstep/internal/keyhash"
	"lockstep/internal/view"
)

// keyTable is the keys of a database: a table as in table.go, whose nodes are entries in a storage, by their numbers. It has the same order, in the
// same chunks.
//
// Invariants: those of table; storage is nil or has no other entries in use than those of the table, and those that it lets go.
type keyTable struct {
	index   *index[uint32]
	order   chunks[uint32]
	size    int
	lastID  uint64
	storage *storage
	leaving *leaving // of the machine
}

// find returns the entry of a key, nil if there is none. It is of use until the next request begins.
func (t *keyTable) find(key []byte) *entry {
	if t.index != nil {
		upper := uint32(keyhash.Bytes(key) >> 32)
		s, entries := t.index.segmentOf(upper), t.storage.entries
		hashes, nodes := s.hashes, s.nodes[:len(s.hashes)]
		for i := s.first(upper); ; {
			n := nodes[i]
			if n == 0 {
				return nil
			}
			if hashes[i] == upper {
				if e := &entries[n>>placeBits][n&(maxPlaces-1)]; e.name.Text() == string(key) {
					return e
				}
			}
			if i++; i == len(nodes) {
				i = 0
			}
		}
	}
	for _, chunk := range t.order {
		for _, n := range chunk {
			if e := t.storage.entry(n); e.name.Text() == string(key) {
				return e
			}
		}
	}
	return nil
}

func (t *keyTable) findText(key string) *entry { return t.find(view.Bytes(key)) }

// insert adds an entry that holds nothing. The key, which is copied, must not be there yet.
func (t *keyTable) insert(key []byte) *entry {
	t.lastID++
	number, e := t.add(key, t.lastID)
	if t.index == nil && t.size > smallTable {
		t.index = newIndex[uint32]()
		for _, chunk := range t.order {
			for _, n := range chunk {
				t.index.insert(keyhash.String(t.storage.entry(n).key()), n)
			}
		}
	}
	if t.index != nil {
		t.index.insert(keyhash.Bytes(key), number)
	}
	t.order.add(number)
	return e
}

// add makes an entry that stands nowhere yet.
func (t *keyTable) add(key []byte, id uint64) (number uint32, e *entry) {
	if t.storage == nil {
		t.storage = newStorage(t.leaving)
	}
	number, e = t.storage.addEntry()
	*e = entry{name: t.storage.copyText(key), id: id}
	t.size++
	return number, e
}

// remove takes out an entry of this table.
func (t *keyTable) remove(e *entry) {
	at, i := t.place(e.id)
	number := t.order[at][i]
	t.order.cut(at, i)
	t.size--
	if t.index != nil {
		t.index.remove(keyhash.String(e.key()), number)
	}
	t.storage.leaveEntry(number, e)
}

// place returns the chunk in which an id stands or would stand, and the place in it of the first entry whose id is at least that. The table must
// not be empty.
func (t *keyTable) place(id uint64) (at, i int) {
	low, high := 0, len(t.order)
	for high-low > 1 {
		middle := (low + high) / 2
		if t.storage.entry(t.order[middle][0]).id <= id {
			low = middle
		} else {
			high = middle
		}
	}
	chunk := t.order[low]
	first, end := 0, len(chunk)
	for first < end {
		middle := (first + end) / 2
		if t.storage.entry(chunk[middle]).id < id {
			first = middle + 1
		} else {
			end = middle
		}
	}
	return low, first
}

// each visits all entries in the order of their insertion until visit returns false. visit must not change the table.
func (t *keyTable) each(visit func(*entry) bool) { t.visitFrom(0, 0, visit) }

func (t *keyTable) visitFrom(at, i int, visit func(*entry) bool) {
	t.order.from(at, i, func(n uint32) bool { return visit(t.storage.entry(n)) })
}

// scan is that of table.
func (t *keyTable) scan(cursor uint64, count int, visit func(*entry)) uint64 {
	if t.size == 0 {
		return 0
	}
	at := len(t.order) - 1
	i := len(t.order[at]) - 1
	if cursor != 0 && cursor < t.storage.entry(t.order[at][i]).id {
		if at, i = t.place(cursor); i == len(t.order[at]) || t.storage.entry(t.order[at][i]).id != cursor {
			i--
		}
	}
	if next, more := t.order.back(at, i, count, func(n uint32) { visit(t.storage.entry(n)) }); more {
		return t.storage.entry(next).id
	}
	return 0
}

// draw returns an entry, each with the same probability. The table must not be empty.
func (t *keyTable) draw(d *dice) *entry { return t.storage.entry(t.order.draw(d)) }

// shaped makes an empty table ready for restore: of so many entries, in so many chunks.
func (t *keyTable) shaped(lastID uint64, size, count int) {
	t.lastID = lastID
	if size > smallTable {
		t.index = newIndexFor[uint32](size)
	}
	t.order = make(chunks[uint32], 0, count)
}

// restore puts in an entry that holds nothing, as an image has it, behind all that are there; sizes are those of all chunks. It returns nil if the
// entry cannot stand there.
func (t *keyTable) restore(id uint64, key []byte, sizes []int) *entry {
	last := len(t.order) - 1
	if last >= 0 && t.storage.entry(t.order[last][len(t.order[last])-1]).id >= id || id == 0 {
		return nil
	}
	if _, fits := t.order.full(sizes); !fits || t.index == nil && t.find(key) != nil {
		return nil
	}
	number, e := t.add(key, id)
	if t.index != nil && !t.index.insertNew(keyhash.Bytes(key), number, func(other uint32) bool {
		return t.storage.entry(other).name.Text() == string(key)
	}) {
		return nil // the table is of no use any more
	}
	t.order.restore(number, sizes)
	return e
}

// seek returns the place of the first entry whose number is at least id; false if there is none.
func (t *keyTable) seek(id uint64) (chunk, i int, ok bool) {
	if t.size == 0 {
		return 0, 0, false
	}
	if chunk, i = t.place(id); i == len(t.order[chunk]) {
		chunk, i = chunk+1, 0
	}
	return chunk, i, chunk < len(t.order)
}

// first returns the first entry whose number is at least id, nil if there is none.
func (t *keyTable) first(id uint64) *entry {
	chunk, i, ok := t.seek(id)
	if !ok {
		return nil
	}
	return t.storage.entry(t.order[chunk][i])
}

// ceil returns the row of the first entry at or behind one.
func (t *keyTable) ceil(row streamID) (streamID, bool) {
	e := t.first(row.seq)
	if e == nil {
		return streamID{}, false
	}
	return rowID(e.id), true
}

// eachFrom visits the entries whose number is at least id, in order, until visit returns false.
func (t *keyTable) eachFrom(id uint64, visit func(*entry) bool) {
	if at, i, ok := t.seek(id); ok {
		t.visitFrom(at, i, visit)
	}
}

func (t *keyTable) setText(e *entry, text []byte, as held) { t.storage.setText(&e.value, text, as) }

// lengthen makes the string of an entry longer by so many zeros.
func (t *keyTable) lengthen(e *entry, by int, as held) { t.storage.lengthen(&e.value, by, as) }

func (t *keyTable) setObject(e *entry, o object) { t.storage.setObject(&e.value, o) }

// set makes an entry hold what stands in no table.
func (t *keyTable) set(e *entry, l loose) { t.storage.set(&e.value, l) }

package kv

import "slices"

// shaped makes an empty table ready for restore: of so many elements, in so many chunks.
func (t *table[V]) shaped(lastID uint64, size, count int) {
	t.lastID = lastID
	if size > smallTable {
		t.index = newIndexFor[*node[V]](size)
	}
	t.order = make(chunks[*node[V]], 0, count)
}

// restore puts in an element as an image has it, behind all that are there; sizes are those of all chunks. It reports false if
// the element cannot stand there.
func (t *table[V]) restore(id uint64, key string, v V, sizes []int) (*node[V], bool) {
	last := len(t.order) - 1
	if last >= 0 && t.order[last][len(t.order[last])-1].id >= id || id == 0 {
		return nil, false
	}
	if _, fits := t.order.full(sizes); !fits {
		return nil, false
	}
	n := &node[V]{key: key, id: id, value: v}
	if t.index == nil && t.findText(key) != nil || t.index != nil && !insertNewNode(t.index, n) {
		return nil, false
	}
	t.order.restore(n, sizes)
	t.size++
	t.bytes += len(key)
	return n, true
}

// seek returns the place of the first element whose number is at least id; false if there is none.
func (t *table[V]) seek(id uint64) (chunk, i int, ok bool) {
	if t.size == 0 {
		return 0, 0, false
	}
	chunk = t.chunkOf(id)
	i, _ = slices.BinarySearchFunc(t.order[chunk], id, byID[V])
	if i == len(t.order[chunk]) {
		chunk, i = chunk+1, 0
	}
	return chunk, i, chunk < len(t.order)
}

// ceil returns the row of the first element at or behind one.
func (t *table[V]) ceil(row streamID) (streamID, bool) {
	chunk, i, ok := t.seek(row.seq)
	if !ok {
		return streamID{}, false
	}
	return rowID(t.order[chunk][i].id), true
}

// eachFrom visits the elements whose number is at least id, in order, until visit returns false.
func (t *table[V]) eachFrom(id uint64, visit func(*node[V]) bool) {
	if at, i, ok := t.seek(id); ok {
		t.order.from(at, i, visit)
	}
}

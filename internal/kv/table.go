package kv

import (
	"slices"

	"lockstep/internal/keyhash"
	"lockstep/internal/view"
)

const (
	// smallTable is the largest number of nodes that are searched one by one, without an index.
	smallTable = 12
)

// node is one element of a table. The keys of a database have a table of their own (keytable.go). id numbers the
// insertions into its table from 1 and is never given twice.
type node[V any] struct {
	value V // first: as the last field an empty one would take memory
	key   string
	id    uint64
}

// table is a hash table that remembers the order of insertion.
//
// Invariants: ids ascend over all chunks; index is nil or holds exactly the nodes.
type table[V any] struct {
	index  *index[*node[V]]
	order  chunks[*node[V]]
	size   int
	lastID uint64
	bytes  int          // sum of the lengths of the keys
	image  *objectImage // of a large object; nil: it is in no image, or its owner sees to that
}

func (t *table[V]) find(key []byte) *node[V] {
	if t.index != nil {
		return findNode(t.index, keyhash.Bytes(key), key)
	}
	for _, chunk := range t.order {
		for _, n := range chunk {
			if n.key == string(key) {
				return n
			}
		}
	}
	return nil
}

func (t *table[V]) findText(key string) *node[V] { return t.find(view.Bytes(key)) }

// insert adds a node. The key must not be there yet.
func (t *table[V]) insert(key string, value V) *node[V] {
	t.lastID++
	if t.image != nil {
		t.image.before(t.lastID)
	}
	n := &node[V]{key: key, id: t.lastID, value: value}
	t.size++
	t.bytes += len(key)
	if t.index == nil && t.size > smallTable {
		t.index = newIndex[*node[V]]()
		t.each(func(n *node[V]) bool {
			t.index.insert(keyhash.String(n.key), n)
			return true
		})
	}
	if t.index != nil {
		t.index.insert(keyhash.String(key), n)
	}
	t.order.add(n)
	return n
}

// remove takes out a node of this table.
func (t *table[V]) remove(n *node[V]) {
	if t.image != nil {
		t.image.before(n.id)
	}
	at := t.chunkOf(n.id)
	i, _ := slices.BinarySearchFunc(t.order[at], n.id, byID[V])
	t.order.cut(at, i)
	t.size--
	t.bytes -= len(n.key)
	if t.index != nil {
		t.index.remove(keyhash.String(n.key), n)
	}
}

func byID[V any](n *node[V], id uint64) int {
	switch {
	case n.id < id:
		return -1
	case n.id > id:
		return 1
	}
	return 0
}

// chunkOf returns the last chunk that begins at or below id, 0 if there is none.
func (t *table[V]) chunkOf(id uint64) int {
	low, high := 0, len(t.order)
	for high-low > 1 {
		middle := (low + high) / 2
		if t.order[middle][0].id <= id {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}

// each visits all nodes in the order of their insertion until visit returns false. visit must not change the table.
func (t *table[V]) each(visit func(*node[V]) bool) { t.order.from(0, 0, visit) }

// scan visits up to count nodes, from the newest to the oldest, and returns the cursor to go on with, 0 at the end.
// cursor is what the last call returned, 0 to begin.
//
// A cursor is the id of the next node to visit. Nodes that come while a scan is under way have a higher id and are
// not visited, so that the scan ends; a node that stays is visited exactly once.
func (t *table[V]) scan(cursor uint64, count int, visit func(*node[V])) uint64 {
	if t.size == 0 {
		return 0
	}
	at := len(t.order) - 1
	i := len(t.order[at]) - 1
	if cursor != 0 && cursor < t.order[at][i].id {
		at = t.chunkOf(cursor)
		var found bool
		if i, found = slices.BinarySearchFunc(t.order[at], cursor, byID[V]); !found {
			i--
		}
	}
	if next, more := t.order.back(at, i, count, visit); more {
		return next.id
	}
	return 0
}

// draw returns a node, each with the same probability. The table must not be empty.
func (t *table[V]) draw(d *dice) *node[V] { return t.order.draw(d) }

// keys returns the keys in the order of insertion.
func (t *table[V]) keys() []string {
	keys := make([]string, 0, t.size)
	t.each(func(n *node[V]) bool {
		keys = append(keys, n.key)
		return true
	})
	return keys
}

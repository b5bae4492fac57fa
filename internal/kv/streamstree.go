package kv

import "slices"

// idPageSize is the largest number of IDs of a page.
const idPageSize = 64

// idTree is an ordered map from stream IDs to values: a B+ tree. Finding, inserting and removing take O(log n).
//
// Invariants: no page is empty; all leaves have the same depth; the IDs of every page ascend; below an inner page, pages[i]
// holds IDs at or above ids[i] and below ids[i+1]. A page is split when it is full, in half, or at the end if IDs come in
// order, which leaves full pages behind; two neighbours that fit into half a page become one.
type idTree[V any] struct {
	root *idPage[V]
	size int
}

// idPage is a leaf, with ids and values, or an inner page, with ids and pages.
type idPage[V any] struct {
	ids    []streamID
	values []V
	pages  []*idPage[V]
}

// child returns the index of the page below p that covers id.
func (p *idPage[V]) child(id streamID) int {
	i, found := slices.BinarySearchFunc(p.ids, id, streamID.compare)
	if !found && i > 0 {
		i--
	}
	return i
}

// find returns the place of the value of id, nil if there is none. It is valid until the tree changes.
func (t *idTree[V]) find(id streamID) *V {
	p := t.root
	if p == nil {
		return nil
	}
	for p.pages != nil {
		p = p.pages[p.child(id)]
	}
	if i, found := slices.BinarySearchFunc(p.ids, id, streamID.compare); found {
		return &p.values[i]
	}
	return nil
}

// set puts a value at id and reports whether there was none before.
func (t *idTree[V]) set(id streamID, value V) bool {
	if t.root == nil {
		t.root = &idPage[V]{ids: []streamID{id}, values: []V{value}}
		t.size = 1
		return true
	}
	added, right := t.root.set(id, value)
	if right != nil {
		t.root = &idPage[V]{ids: []streamID{t.root.ids[0], right.ids[0]}, pages: []*idPage[V]{t.root, right}}
	}
	if added {
		t.size++
	}
	return added
}

// set returns the page that was split off behind p, if any; its first ID is a lower bound of what it holds.
func (p *idPage[V]) set(id streamID, value V) (added bool, right *idPage[V]) {
	if p.pages == nil {
		i, found := slices.BinarySearchFunc(p.ids, id, streamID.compare)
		if found {
			p.values[i] = value
			return false, nil
		}
		target, i, right := p.room(i)
		target.ids = slices.Insert(target.ids, i, id)
		target.values = slices.Insert(target.values, i, value)
		return true, right
	}
	i := p.child(id)
	if id.less(p.ids[i]) {
		p.ids[i] = id
	}
	added, below := p.pages[i].set(id, value)
	if below == nil {
		return added, nil
	}
	target, i, right := p.room(i + 1)
	target.ids = slices.Insert(target.ids, i, below.ids[0])
	target.pages = slices.Insert(target.pages, i, below)
	return added, right
}

// room makes room for an insertion at place: it returns the page and the place to insert at, and the page that it split
// off behind p, if p was full.
func (p *idPage[V]) room(place int) (target *idPage[V], at int, right *idPage[V]) {
	size := len(p.ids)
	if size < idPageSize {
		return p, place, nil
	}
	cut := size / 2
	if place == size {
		cut = size
	}
	right = &idPage[V]{ids: slices.Clone(p.ids[cut:])}
	p.ids = slices.Delete(p.ids, cut, size)
	if p.pages == nil {
		right.values = slices.Clone(p.values[cut:])
		p.values = slices.Delete(p.values, cut, size)
	} else {
		right.pages = slices.Clone(p.pages[cut:])
		p.pages = slices.Delete(p.pages, cut, size)
	}
	if place < cut {
		return p, place, right
	}
	return right, place - cut, right
}

// remove takes id out and reports whether it was there.
func (t *idTree[V]) remove(id streamID) bool {
	if t.root == nil || !t.root.remove(id) {
		return false
	}
	t.size--
	for t.root.pages != nil && len(t.root.pages) == 1 {
		t.root = t.root.pages[0]
	}
	if len(t.root.ids) == 0 {
		t.root = nil
	}
	return true
}

func (p *idPage[V]) remove(id streamID) bool {
	if p.pages == nil {
		i, found := slices.BinarySearchFunc(p.ids, id, streamID.compare)
		if found {
			p.ids = slices.Delete(p.ids, i, i+1)
			p.values = slices.Delete(p.values, i, i+1)
		}
		return found
	}
	i := p.child(id)
	if !p.pages[i].remove(id) {
		return false
	}
	if len(p.pages[i].ids) == 0 {
		p.ids = slices.Delete(p.ids, i, i+1)
		p.pages = slices.Delete(p.pages, i, i+1)
	} else if !p.maybeMerge(i) {
		p.maybeMerge(i - 1)
	}
	return true
}

// maybeMerge joins the pages i and i+1 below p if both fit into half a page.
func (p *idPage[V]) maybeMerge(i int) bool {
	if i < 0 || i+1 >= len(p.pages) || len(p.pages[i].ids)+len(p.pages[i+1].ids) > idPageSize/2 {
		return false
	}
	left, right := p.pages[i], p.pages[i+1]
	left.ids = append(left.ids, right.ids...)
	left.values = append(left.values, right.values...)
	left.pages = append(left.pages, right.pages...)
	p.ids = slices.Delete(p.ids, i+1, i+2)
	p.pages = slices.Delete(p.pages, i+1, i+2)
	return true
}

// ascend visits the IDs from start on, in order, until visit returns false. visit must not insert or remove.
func (t *idTree[V]) ascend(start streamID, visit func(id streamID, value *V) bool) {
	if t.root != nil {
		t.root.ascend(start, visit)
	}
}

func (p *idPage[V]) ascend(start streamID, visit func(streamID, *V) bool) bool {
	if p.pages == nil {
		i, _ := slices.BinarySearchFunc(p.ids, start, streamID.compare)
		for ; i < len(p.ids); i++ {
			if !visit(p.ids[i], &p.values[i]) {
				return false
			}
		}
		return true
	}
	for i := p.child(start); i < len(p.pages); i++ {
		if !p.pages[i].ascend(start, visit) {
			return false
		}
	}
	return true
}

// descend visits the IDs from end down, in order, until visit returns false. visit must not insert or remove.
func (t *idTree[V]) descend(end streamID, visit func(id streamID, value *V) bool) {
	if t.root != nil {
		t.root.descend(end, visit)
	}
}

func (p *idPage[V]) descend(end streamID, visit func(streamID, *V) bool) bool {
	if p.pages == nil {
		i, found := slices.BinarySearchFunc(p.ids, end, streamID.compare)
		if !found {
			i--
		}
		for ; i >= 0; i-- {
			if !visit(p.ids[i], &p.values[i]) {
				return false
			}
		}
		return true
	}
	for i := p.child(end); i >= 0; i-- {
		if !p.pages[i].descend(end, visit) {
			return false
		}
	}
	return true
}

// first returns the lowest ID and its value; false if the tree is empty.
func (t *idTree[V]) first() (id streamID, value V, ok bool) {
	t.ascend(streamID{}, func(at streamID, v *V) bool {
		id, value, ok = at, *v, true
		return false
	})
	return id, value, ok
}

// last returns the highest ID and its value; false if the tree is empty.
func (t *idTree[V]) last() (id streamID, value V, ok bool) {
	t.descend(lastStreamID, func(at streamID, v *V) bool {
		id, value, ok = at, *v, true
		return false
	})
	return id, value, ok
}

// clone returns a copy whose values are those that twin makes of the values.
func (t *idTree[V]) clone(twin func(V) V) idTree[V] {
	if t.root == nil {
		return idTree[V]{}
	}
	return idTree[V]{root: t.root.clone(twin), size: t.size}
}

func (p *idPage[V]) clone(twin func(V) V) *idPage[V] {
	q := &idPage[V]{ids: slices.Clone(p.ids)}
	if p.pages == nil {
		q.values = make([]V, len(p.values))
		for i, v := range p.values {
			q.values[i] = twin(v)
		}
		return q
	}
	q.pages = make([]*idPage[V], len(p.pages))
	for i, below := range p.pages {
		q.pages[i] = below.clone(twin)
	}
	return q
}

package kv

import "math/bits"

// rowID returns the ID of a numbered row: rows are numbered, or have the ID of what they hold of a stream.
func rowID(number uint64) streamID { return streamID{seq: number} }

// markSet is a set of rows.
type markSet interface {
	// put puts a row in and reports whether it was not there.
	put(row streamID) bool
	// drop takes a row out and reports whether it was there.
	drop(row streamID) bool
	has(row streamID) bool
	// lowest returns the lowest row; false if there is none.
	lowest() (row streamID, ok bool)
}

// bitmap is a markSet for rows whose numbers lie close together: bits in pages of 512; pages that hold none do not exist.
type bitmap struct{ pages idTree[bitPage] }

type bitPage [8]uint64

const pageBits = 512

func (b *bitmap) at(row streamID) (page streamID, word int, bit uint64) {
	return streamID{row.ms, row.seq / pageBits}, int(row.seq % pageBits / 64), 1 << (row.seq % 64)
}

func (b *bitmap) has(row streamID) bool {
	page, word, bit := b.at(row)
	p := b.pages.find(page)
	return p != nil && p[word]&bit != 0
}

func (b *bitmap) put(row streamID) bool {
	page, word, bit := b.at(row)
	p := b.pages.find(page)
	if p == nil {
		var fresh bitPage
		fresh[word] = bit
		b.pages.set(page, fresh)
		return true
	}
	was := p[word]
	p[word] |= bit
	return was&bit == 0
}

func (b *bitmap) drop(row streamID) bool {
	page, word, bit := b.at(row)
	p := b.pages.find(page)
	if p == nil || p[word]&bit == 0 {
		return false
	}
	if p[word] &^= bit; *p == (bitPage{}) {
		b.pages.remove(page)
	}
	return true
}

func (b *bitmap) lowest() (row streamID, ok bool) {
	id, page, ok := b.pages.first()
	if !ok {
		return streamID{}, false
	}
	for i, word := range page {
		if word != 0 {
			return streamID{id.ms, id.seq*pageBits + uint64(64*i+bits.TrailingZeros64(word))}, true
		}
	}
	return streamID{}, false // no page is empty
}

// add puts in all rows of another set.
func (b *bitmap) add(other *bitmap) {
	other.pages.ascend(streamID{}, func(id streamID, page *bitPage) bool {
		p := b.pages.find(id)
		if p == nil {
			b.pages.set(id, *page)
			return true
		}
		for i := range p {
			p[i] |= page[i]
		}
		return true
	})
}

// idSet is a markSet for rows whose IDs may lie far apart.
type idSet struct{ tree idTree[struct{}] }

func (s *idSet) has(row streamID) bool { return s.tree.find(row) != nil }

func (s *idSet) put(row streamID) bool { return s.tree.set(row, struct{}{}) }

func (s *idSet) drop(row streamID) bool { return s.tree.remove(row) }

func (s *idSet) lowest() (row streamID, ok bool) {
	row, _, ok = s.tree.first()
	return row, ok
}

// rowMarks says which rows of one space (the keys of a database, the parts of a large object) an image has to write.
//
// Invariants: a row that changed since the last image was begun is in now. While an image is taken, the rows that it still has to
// write are those of todo; or, in a sweep, all from next to limit but those of todo, which were written ahead.
type rowMarks[S any, P interface {
	*S
	markSet
}] struct {
	now    S
	todo   S
	sweep  bool
	next   streamID
	limit  streamID // the last row that there was when the last image was begun
	stored streamID // no row behind it was ever written
}

type (
	numberMarks = rowMarks[bitmap, *bitmap]
	idMarks     = rowMarks[idSet, *idSet]
)

// begin starts an image: of what changed, or of all rows up to last.
func (r *rowMarks[S, P]) begin(all bool, last streamID) {
	var none S
	r.todo, r.now = r.now, none
	r.sweep, r.next, r.limit = all, streamID{}, last
	if all {
		r.todo = none
	}
}

// before notes that a row is about to change, come or go. It reports whether an image that is being taken has to be given the row
// first.
func (r *rowMarks[S, P]) before(row streamID) bool {
	switch {
	case !P(&r.now).put(row):
		return false
	case !r.sweep:
		return P(&r.todo).drop(row)
	}
	return !row.less(r.next) && !r.limit.less(row) && P(&r.todo).put(row)
}

// gone notes, behind before, that a row will not come again. One that came since the last image was begun need not be remembered.
func (r *rowMarks[S, P]) gone(row streamID) {
	if r.limit.less(row) {
		P(&r.now).drop(row)
	}
}

// take returns the next row that the image has to write; false if there is none left. ceil returns the first row at or
// behind an ID that is there. A row that is not there is returned if an earlier image may hold it.
func (r *rowMarks[S, P]) take(ceil func(streamID) (streamID, bool)) (row streamID, present, ok bool) {
	for r.sweep {
		row, present = ceil(r.next)
		if !present || r.limit.less(row) {
			break
		}
		next, more := row.next()
		if r.next = next; !more {
			r.limit = streamID{} // row was the last that there can be
			r.next = lastStreamID
		}
		if !P(&r.todo).drop(row) {
			return row, true, true
		}
	}
	if r.sweep {
		var none S
		r.sweep, r.todo = false, none
	}
	for {
		if row, ok = P(&r.todo).lowest(); !ok {
			r.stored = r.limit
			return streamID{}, false, false
		}
		P(&r.todo).drop(row)
		found, there := ceil(row)
		if there = there && found == row; there || !r.stored.less(row) {
			return row, there, true
		}
	}
}

// changed reports whether a row changed since the last image was begun.
func (r *rowMarks[S, P]) changed(row streamID) bool { return P(&r.now).has(row) }

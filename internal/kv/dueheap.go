package kv

import "lockstep/internal/view"

const (
	// duePage is how many expiries stand in one piece of memory: a heap grows by a page, and never moves what it holds.
	duePage = 1 << duePageBits
	// duePageBits is the number of bits of a place within a page.
	duePageBits = 10
)

// due is the expiry of a key.
type due struct {
	at    int64 // milliseconds since 1970 UTC
	entry view.Hidden[entry]
}

// dueHeap is a binary heap of expiries of the keys of one table, which keeps the entries alive: first the earliest, of several the key that was inserted first.
//
// Invariants: value.due of an entry in the heap is 1 + its place; all pages but the last are full, no page is empty.
type dueHeap struct {
	pages [][]due
	size  int
}

// get returns the expiry at place i. What it points to is valid until the heap changes.
func (h *dueHeap) get(i int) *due { return &h.pages[i>>duePageBits][i&(duePage-1)] }

// first returns the earliest expiry, nil if there is none.
func (h *dueHeap) first() *due {
	if h.size == 0 {
		return nil
	}
	return h.get(0)
}

// at returns when a key expires that does, in milliseconds since 1970 UTC.
func (h *dueHeap) at(e *entry) int64 { return h.get(int(e.value.due - 1)).at }

// add gives an expiry to a key that has none.
func (h *dueHeap) add(e *entry, at int64) {
	last := len(h.pages) - 1
	if last < 0 || len(h.pages[last]) == duePage {
		var page []due
		if last >= 0 {
			page = make([]due, 0, duePage)
		}
		h.pages = append(h.pages, page)
		last++
	}
	h.pages[last] = append(h.pages[last], due{at, view.Hide(e)})
	e.value.due = uint32(h.size + 1)
	h.size++
	h.up(h.size - 1)
}

// remove takes the expiry of a key away, if it has one.
func (h *dueHeap) remove(e *entry) {
	if e.value.due == 0 {
		return
	}
	i := int(e.value.due - 1)
	h.size--
	h.swap(i, h.size)
	last := len(h.pages) - 1
	end := len(h.pages[last]) - 1
	h.pages[last][end] = due{}
	if h.pages[last] = h.pages[last][:end]; end == 0 {
		h.pages[last] = nil
		h.pages = h.pages[:last]
	}
	e.value.due = 0
	if i < h.size {
		h.down(i)
		h.up(i)
	}
}

// change gives another time to a key that expires.
func (h *dueHeap) change(e *entry, at int64) {
	h.get(int(e.value.due - 1)).at = at
	h.down(int(e.value.due - 1))
	h.up(int(e.value.due - 1))
}

func (h *dueHeap) before(i, j int) bool {
	a, b := h.get(i), h.get(j)
	return a.at < b.at || a.at == b.at && a.entry.Pointer().id < b.entry.Pointer().id
}

func (h *dueHeap) swap(i, j int) {
	a, b := h.get(i), h.get(j)
	*a, *b = *b, *a
	a.entry.Pointer().value.due, b.entry.Pointer().value.due = uint32(i+1), uint32(j+1)
}

func (h *dueHeap) up(i int) {
	for i > 0 && h.before(i, (i-1)/2) {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (h *dueHeap) down(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < h.size; child++ {
			if h.before(child, least) {
				least = child
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

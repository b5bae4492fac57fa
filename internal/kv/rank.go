package kv

import (
	"slices"
	"sort"
)

// pageSize is the largest number of members of a leaf and of pages below an inner page.
const pageSize = 64

// member is a member of a sorted set: its value is the score.
type member = node[float64]

// memberBefore is the order of sorted sets: by score, then by name, byte for byte.
func memberBefore(a, b *member) bool {
	return a.value < b.value || a.value == b.value && a.key < b.key
}

// ranking keeps members in order and knows their ranks: a B+ tree whose pages count what is below them.
//
// Invariants: all leaves have the same depth; no page is empty, but the root of an empty ranking; count is the number
// of members below; low is the first of them; leaves are linked in order.
type ranking struct{ root *page }

type page struct {
	count      int
	low        *member
	members    []*member // of a leaf
	pages      []*page   // of an inner page, else nil
	prev, next *page     // of a leaf
}

func (r *ranking) size() int {
	if r.root == nil {
		return 0
	}
	return r.root.count
}

// fill puts members into an empty ranking.
func (r *ranking) fill(members []*member) {
	slices.SortFunc(members, func(a, b *member) int {
		switch {
		case memberBefore(a, b):
			return -1
		case memberBefore(b, a):
			return 1
		}
		return 0
	})
	for _, m := range members {
		r.insert(m)
	}
}

// insert puts in a member that is not there.
func (r *ranking) insert(m *member) {
	if r.root == nil {
		r.root = new(page)
	}
	if right := r.root.insert(m); right != nil {
		root := &page{pages: []*page{r.root, right}}
		root.recount()
		r.root = root
	}
}

// remove takes out a member that is there. Its score must not have changed since it was put in.
func (r *ranking) remove(m *member) {
	r.root.remove(m)
	for len(r.root.pages) == 1 {
		r.root = r.root.pages[0]
	}
	if r.root.count == 0 {
		r.root = nil
	}
}

// insert returns the page that has to stand behind p, if p had to be split.
func (p *page) insert(m *member) *page {
	if p.pages == nil {
		i := sort.Search(len(p.members), func(i int) bool { return memberBefore(m, p.members[i]) })
		p.members = slices.Insert(p.members, i, m)
		p.recount()
		if len(p.members) > pageSize {
			return p.splitLeaf(i == len(p.members)-1)
		}
		return nil
	}
	i := p.childOf(m)
	if right := p.pages[i].insert(m); right != nil {
		p.pages = slices.Insert(p.pages, i+1, right)
	}
	p.count++
	p.low = p.pages[0].low
	if len(p.pages) <= pageSize {
		return nil
	}
	half := len(p.pages) / 2
	right := &page{pages: slices.Clone(p.pages[half:])}
	clear(p.pages[half:])
	p.pages = p.pages[:half]
	p.recount()
	right.recount()
	return right
}

// splitLeaf halves a leaf, or takes off only its last member where members arrive in order.
func (p *page) splitLeaf(ascending bool) *page {
	at := len(p.members) / 2
	if ascending {
		at = len(p.members) - 1
	}
	right := &page{members: slices.Clone(p.members[at:]), prev: p, next: p.next}
	if p.next != nil {
		p.next.prev = right
	}
	p.next = right
	clear(p.members[at:])
	p.members = p.members[:at]
	p.recount()
	right.recount()
	return right
}

func (p *page) recount() {
	if p.pages == nil {
		if p.count = len(p.members); p.count > 0 {
			p.low = p.members[0]
		}
		return
	}
	p.count, p.low = 0, p.pages[0].low
	for _, below := range p.pages {
		p.count += below.count
	}
}

// childOf returns the index of the page below p where m stands or belongs.
func (p *page) childOf(m *member) int {
	i := sort.Search(len(p.pages), func(i int) bool { return memberBefore(m, p.pages[i].low) })
	return max(0, i-1)
}

func (p *page) remove(m *member) {
	if p.pages == nil {
		i := sort.Search(len(p.members), func(i int) bool { return !memberBefore(p.members[i], m) })
		p.members = slices.Delete(p.members, i, i+1)
		p.recount()
		return
	}
	i := p.childOf(m)
	p.pages[i].remove(m)
	p.count--
	if p.pages[i].count == 0 {
		p.pages[i].unlink()
		p.pages = slices.Delete(p.pages, i, i+1)
	} else if !p.maybeJoin(i) {
		p.maybeJoin(i - 1)
	}
	if p.count > 0 {
		p.low = p.pages[0].low
	}
}

// unlink takes an empty leaf out of the chain. (An inner page becomes empty together with its last leaf.)
func (p *page) unlink() {
	if p.prev != nil {
		p.prev.next = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	}
}

// maybeJoin makes one of the pages i and i+1 below p if both fit into half a page.
func (p *page) maybeJoin(i int) bool {
	if i < 0 || i+1 >= len(p.pages) {
		return false
	}
	left, right := p.pages[i], p.pages[i+1]
	if len(left.members)+len(right.members) > pageSize/2 || len(left.pages)+len(right.pages) > pageSize/2 {
		return false
	}
	left.members = append(left.members, right.members...)
	left.pages = append(left.pages, right.pages...)
	left.recount()
	if left.pages == nil {
		right.unlink()
	}
	p.pages = slices.Delete(p.pages, i+1, i+2)
	return true
}

// rankOf returns how many members stand before m.
func (r *ranking) rankOf(m *member) int {
	return r.countWhile(func(other *member) bool { return memberBefore(other, m) })
}

// countWhile returns how many members from the first on satisfy inside, which must hold for a prefix of the order.
func (r *ranking) countWhile(inside func(*member) bool) int {
	count := 0
	p := r.root
	if p == nil {
		return 0
	}
	for p.pages != nil {
		i := sort.Search(len(p.pages), func(i int) bool { return !inside(p.pages[i].low) })
		if i == 0 {
			return count
		}
		for _, below := range p.pages[:i-1] {
			count += below.count
		}
		p = p.pages[i-1]
	}
	return count + sort.Search(len(p.members), func(i int) bool { return !inside(p.members[i]) })
}

// place is a place in the chain of leaves.
type place struct {
	leaf *page
	i    int
}

// at returns the place of rank i, 0 <= i < size.
func (r *ranking) at(i int) place {
	p := r.root
	for p.pages != nil {
		for _, below := range p.pages {
			if i < below.count {
				p = below
				break
			}
			i -= below.count
		}
	}
	return place{p, i}
}

func (l place) member() *member { return l.leaf.members[l.i] }

func (l place) next() place {
	if l.i++; l.i == len(l.leaf.members) {
		return place{l.leaf.next, 0}
	}
	return l
}

func (l place) prev() place {
	if l.i--; l.i >= 0 {
		return l
	}
	if l.leaf = l.leaf.prev; l.leaf != nil {
		l.i = len(l.leaf.members) - 1
	}
	return l
}

// members returns those with ranks from..end, from the highest to the lowest if reverse.
func (r *ranking) members(from, end int, reverse bool) []*member {
	if from >= end {
		return nil
	}
	members := make([]*member, 0, end-from)
	if reverse {
		for l := r.at(end - 1); len(members) < end-from; l = l.prev() {
			members = append(members, l.member())
		}
		return members
	}
	for l := r.at(from); len(members) < end-from; l = l.next() {
		members = append(members, l.member())
	}
	return members
}

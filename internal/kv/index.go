package kv

import (
	"slices"

	"lockstep/internal/keyhash"
)

// index finds the nodes of a table by the hash of their keys. It knows nothing of nodes but what refers to them: a pointer, or a number; the zero
// value of it is no node.
//
// It is a directory of segments: the upper bits of a hash choose the segment, the bits behind them the slot in which a search
// begins, and goes on slot by slot. A segment that is too full gets larger by a fifth to a half, and at the largest size is cut into two,
// by one more bit of the hash. So an insertion moves at most one segment and never all nodes, however many nodes there are about seven tenths
// of the slots are in use, and a search that finds nothing ends soon. The directory doubles when a segment needs a bit more
// than it has: eight bytes for some hundreds of keys.
//
// The hash differs from process to process (internal/keyhash). Nothing visible depends on it, nor on the order of slots.
//
// Invariants: a node stands at its first slot or behind it, with no empty slot between; a segment of depth d is in all places of the
// directory that have its d upper bits; no segment is fuller than maxFill allows.
type index[N comparable] struct {
	segments []*segment[N] // 1<<depth of them
	depth    uint8
}

// segment holds the nodes whose hashes agree in their upper depth bits. The hashes stand apart, so that a search reads
// little, and the garbage collector nothing of them.
type segment[N comparable] struct {
	hashes []uint32 // upper halves of the hashes
	nodes  []N
	used   int
	depth  uint8
}

// segmentSizes are the numbers of slots that a segment may have: those for which the allocator rounds nothing up.
var segmentSizes = []int{24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 640, 768, largestSegment}

// largestSegment is the number of slots at which a segment is cut into two.
const largestSegment = 1024

// maxDepth bounds the directory by the bits that a hash has.
const maxDepth = 31

// maxFill is how many of so many slots may be in use.
func maxFill(slots int) int { return slots - slots/5 }

// minFill: a segment of which only one in so many slots is in use gets smaller.
const minFill = 5

// first returns the slot in which the search for a hash begins.
func (s *segment[N]) first(hash uint32) int {
	return int(uint64(hash<<s.depth) * uint64(len(s.nodes)) >> 32)
}

func newSegment[N comparable](slots int, depth uint8) *segment[N] {
	return &segment[N]{hashes: make([]uint32, slots), nodes: make([]N, slots), depth: depth}
}

func newIndex[N comparable]() *index[N] {
	return &index[N]{segments: []*segment[N]{newSegment[N](segmentSizes[0], 0)}}
}

// usualFill is how many nodes a segment of an index that is made for a known number of them has at most, on average: so many that a
// segment whose share is larger is seldom cut.
const usualFill = 700

// newIndexFor returns an empty index in which so many nodes have room, but for a few segments that will have to grow.
func newIndexFor[N comparable](count int) *index[N] {
	x := &index[N]{}
	for count>>x.depth > usualFill && x.depth < maxDepth {
		x.depth++
	}
	mean := count >> x.depth
	spread := 0 // of the shares: twice the square root of the mean
	for spread*spread < 4*mean {
		spread++
	}
	x.segments = make([]*segment[N], 1<<x.depth)
	for i := range x.segments {
		x.segments[i] = newSegment[N](slotsFor(mean+spread), x.depth)
	}
	return x
}

func (x *index[N]) segmentOf(hash uint32) *segment[N] {
	return x.segments[uint64(hash)<<x.depth>>32]
}

// findNode returns the node with that key, nil if there is none.
func findNode[V any](x *index[*node[V]], hash uint64, key []byte) *node[V] {
	upper := uint32(hash >> 32)
	s := x.segmentOf(upper)
	hashes, nodes := s.hashes, s.nodes[:len(s.hashes)]
	for i := s.first(upper); ; {
		n := nodes[i]
		if n == nil || hashes[i] == upper && n.key == string(key) {
			return n
		}
		if i++; i == len(nodes) {
			i = 0
		}
	}
}

// insert adds a node that is not there.
func (x *index[N]) insert(hash uint64, n N) {
	upper := uint32(hash >> 32)
	s := x.segmentOf(upper)
	for s.used >= maxFill(len(s.nodes)) {
		x.makeRoom(s, upper)
		s = x.segmentOf(upper)
	}
	s.put(upper, n)
}

// insertNew adds a node unless there is one with its hash that is the same, and reports whether it did.
func (x *index[N]) insertNew(hash uint64, n N, same func(other N) bool) bool {
	var none N
	upper := uint32(hash >> 32)
	s := x.segmentOf(upper)
	for s.used >= maxFill(len(s.nodes)) {
		x.makeRoom(s, upper)
		s = x.segmentOf(upper)
	}
	i := s.first(upper)
	for s.nodes[i] != none {
		if s.hashes[i] == upper && same(s.nodes[i]) {
			return false
		}
		if i++; i == len(s.nodes) {
			i = 0
		}
	}
	s.hashes[i], s.nodes[i] = upper, n
	s.used++
	return true
}

// insertNewNode adds a node unless there is one with its key, and reports whether it did.
func insertNewNode[V any](x *index[*node[V]], n *node[V]) bool {
	return x.insertNew(keyhash.String(n.key), n, func(other *node[V]) bool { return other.key == n.key })
}

func (s *segment[N]) put(hash uint32, n N) {
	var none N
	i := s.first(hash)
	for s.nodes[i] != none {
		if i++; i == len(s.nodes) {
			i = 0
		}
	}
	s.hashes[i], s.nodes[i] = hash, n
	s.used++
}

// makeRoom replaces a full segment, one of whose hashes is given, by a larger one or by two. Where the next bit is the same for all
// hashes a segment grows beyond the largest size, too; with hashes as good as drawn that does not happen.
func (x *index[N]) makeRoom(s *segment[N], hash uint32) {
	ones := 0
	if len(s.nodes) >= largestSegment && s.depth < maxDepth {
		s.each(func(hash uint32, _ N) { ones += int(hash << s.depth >> 31) })
	}
	if ones == 0 || ones == s.used {
		slots := 2 * len(s.nodes)
		if i, _ := slices.BinarySearch(segmentSizes, len(s.nodes)+1); i < len(segmentSizes) {
			slots = segmentSizes[i]
		}
		x.resize(s, hash, slots)
		return
	}
	if s.depth == x.depth {
		twice := make([]*segment[N], 2*len(x.segments))
		for i, s := range x.segments {
			twice[2*i], twice[2*i+1] = s, s
		}
		x.segments = twice
		x.depth++
	}
	halves := [2]*segment[N]{newSegment[N](slotsFor(s.used-ones), s.depth+1), newSegment[N](slotsFor(ones), s.depth+1)}
	s.each(func(hash uint32, n N) { halves[hash<<s.depth>>31].put(hash, n) })
	x.replace(s, hash, halves[0], halves[1])
}

// resize replaces a segment, one of whose hashes is given, by one with so many slots.
func (x *index[N]) resize(s *segment[N], hash uint32, slots int) {
	resized := newSegment[N](slots, s.depth)
	s.each(resized.put)
	x.replace(s, hash, resized, resized)
}

// slotsFor returns the size of a segment for so many nodes and one more.
func slotsFor(count int) int {
	slots := segmentSizes[0]
	for i := 1; maxFill(slots) <= count; i++ {
		if slots *= 2; i < len(segmentSizes) {
			slots = segmentSizes[i]
		}
	}
	return slots
}

// replace puts a segment, one of whose hashes is given, out of the directory, and zeros and ones in its place: the one where the next bit
// is clear and the one where it is set.
func (x *index[N]) replace(s *segment[N], hash uint32, zeros, ones *segment[N]) {
	places := 1 << (x.depth - s.depth)
	from := int(uint64(hash)<<s.depth>>32) << (x.depth - s.depth)
	for i := range places {
		if zeros == ones || i < places/2 {
			x.segments[from+i] = zeros
		} else {
			x.segments[from+i] = ones
		}
	}
}

func (s *segment[N]) each(visit func(hash uint32, n N)) {
	var none N
	for i, n := range s.nodes {
		if n != none {
			visit(s.hashes[i], n)
		}
	}
}

// remove takes out a node that is there, and moves up those behind it that would not be found any more.
func (x *index[N]) remove(hash uint64, n N) {
	var none N
	upper := uint32(hash >> 32)
	s := x.segmentOf(upper)
	slots := len(s.nodes)
	gap := s.slotOf(upper, n)
	for i := gap; ; {
		if i++; i == slots {
			i = 0
		}
		if s.nodes[i] == none {
			break
		}
		// The node may stand in the gap if its first slot does not lie behind the gap and up to it.
		if (i-s.first(s.hashes[i])+slots)%slots >= (i-gap+slots)%slots {
			s.hashes[gap], s.nodes[gap] = s.hashes[i], s.nodes[i]
			gap = i
		}
	}
	s.nodes[gap] = none
	s.used--
	if slots > segmentSizes[0] && s.used < slots/minFill {
		x.resize(s, upper, slotsFor(2*s.used))
	}
}

// renumber puts another node in the place of one that is there.
func (x *index[N]) renumber(hash uint64, n, by N) {
	upper := uint32(hash >> 32)
	s := x.segmentOf(upper)
	s.nodes[s.slotOf(upper, n)] = by
}

// slotOf returns the slot of a node that is there. A table whose index and order disagree must not be used any more, by anybody.
func (s *segment[N]) slotOf(upper uint32, n N) int {
	var none N
	i := s.first(upper)
	for s.nodes[i] != n {
		if s.nodes[i] == none {
			panic("kv: a node of a table is not in its index")
		}
		if i++; i == len(s.nodes) {
			i = 0
		}
	}
	return i
}

// likely returns the first node with that upper half of a hash, the zero value if there is none: it need not be the one of a certain key.
func (x *index[N]) likely(upper uint32) N {
	var none N
	s := x.segmentOf(upper)
	hashes, nodes := s.hashes, s.nodes[:len(s.hashes)]
	for i := s.first(upper); ; {
		if n := nodes[i]; n == none || hashes[i] == upper {
			return n
		}
		if i++; i == len(nodes) {
			i = 0
		}
	}
}

package kv

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"lockstep/internal/keyhash"
)

// checkIndex reports how an index of so many nodes with these keys breaks its invariants.
func checkIndex[N comparable](t rapid.TB, x *index[N], size int, key func(N) string) {
	var none N
	t.Helper()
	if len(x.segments) != 1<<x.depth {
		t.Fatalf("%d segments at depth %d", len(x.segments), x.depth)
	}
	for i := 0; i < len(x.segments); {
		s := x.segments[i]
		if s.depth > x.depth || i%(1<<(x.depth-s.depth)) != 0 {
			t.Fatalf("segment %d has depth %d of %d", i, s.depth, x.depth)
		}
		for range 1 << (x.depth - s.depth) {
			if x.segments[i] != s {
				t.Fatalf("segment %d of depth %d is not in all of its places", i, s.depth)
			}
			i++
		}
		used := 0
		for at, n := range s.nodes {
			if n == none {
				continue
			}
			used++
			hash := uint32(keyhash.String(key(n)) >> 32)
			if s.hashes[at] != hash || x.segmentOf(hash) != s {
				t.Fatalf("node %q has the hash %x and stands with %x", key(n), hash, s.hashes[at])
			}
		}
		if used != s.used || used > maxFill(len(s.nodes)) || len(s.hashes) != len(s.nodes) {
			t.Fatalf("%d slots, %d in use, %d counted", len(s.nodes), used, s.used)
		}
		size -= used
	}
	if size != 0 {
		t.Fatalf("the index lacks %d nodes", size)
	}
}

func keyOf[V any](n *node[V]) string { return n.key }

// Each segment must grow, split and shrink without losing a node, whatever is put in and taken out in between: a search that ends
// too early, or a node that stands in the wrong half, would show as a key that is lost.
func TestIndexAgainstMap(t *testing.T) {
	t.Parallel()
	dice := rand.New(rand.NewPCG(7, 0))
	x, naive := newIndex[*node[int]](), make(map[string]*node[int])
	var keys []string
	check := func() {
		t.Helper()
		checkIndex(t, x, len(naive), keyOf[int])
		for key, n := range naive {
			if got := findNode(x, keyhash.String(key), []byte(key)); got != n {
				t.Fatalf("%s is lost", key)
			}
		}
	}
	for round, goal := range []int{3000, 40, 50_000, 20_000, 30_000, 0, 100} {
		for len(naive) != goal {
			if len(naive) < goal || dice.IntN(8) == 0 && goal > 0 {
				key := "k" + strconv.Itoa(round) + "-" + strconv.Itoa(dice.IntN(1<<40))
				if naive[key] != nil {
					continue
				}
				naive[key] = &node[int]{key: key}
				keys = append(keys, key)
				x.insert(keyhash.String(key), naive[key])
			} else {
				at := dice.IntN(len(keys))
				key := keys[at]
				keys[at] = keys[len(keys)-1]
				keys = keys[:len(keys)-1]
				x.remove(keyhash.String(key), naive[key])
				delete(naive, key)
				if findNode(x, keyhash.String(key), []byte(key)) != nil {
					t.Fatalf("%s is still found", key)
				}
			}
		}
		check()
	}
}

// Hashes that agree in all bits that the directory can have must neither end the process nor be mixed up.
func TestIndexOfEqualHashes(t *testing.T) {
	t.Parallel()
	for _, hash := range []uint64{0, 1 << 63, 1<<64 - 1} {
		x := newIndex[*node[int]]()
		var nodes []*node[int]
		for i := range 3000 {
			nodes = append(nodes, &node[int]{key: strconv.Itoa(i)})
			x.insert(hash, nodes[i])
		}
		for i, n := range nodes {
			if findNode(x, hash, []byte(n.key)) != n {
				t.Fatalf("%d of equal hashes is lost", i)
			}
		}
		for _, n := range nodes[1:] {
			x.remove(hash, n)
		}
		if findNode(x, hash, []byte("0")) != nodes[0] || len(x.segments) > 1<<3 {
			t.Fatalf("the node that stays is lost, or %d segments were made", len(x.segments))
		}
	}
}

// What could go wrong: an index made for a number of nodes is too small for them, so that it grows anyway, much too large, or takes a
// key twice.
func TestIndexForSoManyNodes(t *testing.T) {
	t.Parallel()
	for _, count := range []int{0, 1, 12, 700, 701, 1400, 5000, 50_000} {
		x := newIndexFor[*node[int]](count)
		slots := 0
		for _, s := range x.segments {
			slots += len(s.nodes)
		}
		if slots > 2*count+largestSegment {
			t.Errorf("%d slots for %d nodes", slots, count)
		}
		segments := len(x.segments)
		for i := range count {
			n := &node[int]{key: strconv.Itoa(i), id: uint64(i)}
			if !insertNewNode(x, n) || insertNewNode(x, &node[int]{key: n.key}) {
				t.Fatalf("key %s of %d", n.key, count)
			}
		}
		checkIndex(t, x, count, keyOf[int])
		for i := range count {
			key := strconv.Itoa(i)
			if n := findNode(x, keyhash.String(key), []byte(key)); n == nil || n.id != uint64(i) {
				t.Fatalf("%s of %d nodes is not found", key, count)
			}
		}
		if len(x.segments) != segments { // it may happen by chance, with a probability far below one in a million
			t.Errorf("the index for %d nodes has %d segments, then %d", count, segments, len(x.segments))
		}
	}
}

// What could go wrong: a node that is missing is looked for around and around, with the machine locked, in place of ending the process.
func TestMissingNodeEndsTheSearch(t *testing.T) {
	for name, take := range map[string]func(*index[uint32]){
		"remove":   func(x *index[uint32]) { x.remove(7<<32, 9) },
		"renumber": func(x *index[uint32]) { x.renumber(7<<32, 9, 10) },
	} {
		x := newIndex[uint32]()
		x.insert(7<<32, 8)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s goes on", name)
				}
			}()
			take(x)
		}()
	}
}

package kv

import "slices"

// chunkNodes is the largest number of nodes of a chunk.
const chunkNodes = 128

// chunks are the nodes of a table in the order of their insertion, at most chunkNodes in a piece: an insertion appends to the last one, a removal
// shifts one. Two neighbours that fit into half a chunk become one, so that chunks stay filled well enough for a fair and fast draw. A node is a
// pointer or a number; whoever knows the ids looks nodes up.
//
// Invariant: no chunk is empty.
type chunks[N any] [][]N

// add puts a node behind all others.
func (c *chunks[N]) add(n N) {
	order := *c
	last := len(order) - 1
	if last < 0 || len(order[last]) == chunkNodes {
		var chunk []N
		if last >= 0 { // a table that goes on growing
			chunk = make([]N, 0, chunkNodes)
		}
		order = append(order, chunk)
		last++
		*c = order
	}
	order[last] = append(order[last], n)
}

// full reports whether the next node that restore adds begins a chunk, where sizes are those of all chunks; fits, whether it may.
func (c chunks[N]) full(sizes []int) (full, fits bool) {
	last := len(c) - 1
	full = last < 0 || len(c[last]) == sizes[last]
	return full, !full || last+1 < len(sizes)
}

// restore puts a node behind all others, in chunks of given sizes. It must fit.
func (c *chunks[N]) restore(n N, sizes []int) {
	if full, _ := c.full(sizes); full {
		*c = append(*c, make([]N, 0, sizes[len(*c)]))
	}
	order := *c
	order[len(order)-1] = append(order[len(order)-1], n)
}

// cut takes out node i of a chunk.
func (c *chunks[N]) cut(at, i int) {
	order := *c
	order[at] = slices.Delete(order[at], i, i+1)
	if len(order[at]) == 0 {
		*c = slices.Delete(order, at, at+1)
		return
	}
	c.maybeMerge(at)
	c.maybeMerge(at - 1)
}

// maybeMerge joins chunk at and the one behind it if both fit into half a chunk.
func (c *chunks[N]) maybeMerge(at int) {
	order := *c
	if at < 0 || at+1 >= len(order) || len(order[at])+len(order[at+1]) > chunkNodes/2 {
		return
	}
	order[at] = append(order[at], order[at+1]...)
	*c = slices.Delete(order, at+1, at+2)
}

// from visits node i of a chunk and those behind it until visit returns false. i may be the end of the chunk.
func (c chunks[N]) from(at, i int, visit func(N) bool) {
	for ; at < len(c); at, i = at+1, 0 {
		for ; i < len(c[at]); i++ {
			if !visit(c[at][i]) {
				return
			}
		}
	}
}

// back visits node i of a chunk, none of that chunk if i is -1, and those before it, up to count of them. It returns the one to go on with, false if
// there is none.
func (c chunks[N]) back(at, i, count int, visit func(N)) (next N, more bool) {
	for {
		for ; i >= 0; i-- {
			if count == 0 {
				return c[at][i], true
			}
			visit(c[at][i])
			count--
		}
		if at--; at < 0 {
			return next, false
		}
		i = len(c[at]) - 1
	}
}

// draw returns a node, each with the same probability. There must be one.
func (c chunks[N]) draw(d *dice) N {
	if len(c) == 1 {
		return c[0][d.below(len(c[0]))]
	}
	for { // a place of a full chunk that this chunk does not fill is drawn again: at least one in four is filled
		chunk := c[d.below(len(c))]
		if i := d.below(chunkNodes); i < len(chunk) {
			return chunk[i]
		}
	}
}

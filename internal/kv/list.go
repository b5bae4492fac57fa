package kv

import (
	"encoding/binary"
	"slices"
)

const (
	// listChunkItems is the largest number of elements of a chunk.
	listChunkItems = 128
	// listChunkBytes is where a chunk with several elements ends, as a node of Redis' quicklist does
	// (list-max-listpack-size -2).
	listChunkBytes = 8 << 10
)

// list is a sequence of byte strings with both ends in O(1): a doubly linked list of chunks.
//
// Invariant: no chunk is empty; length is the sum of theirs.
type list struct {
	first, last *listChunk
	length      int
	bytes       int // sum of the lengths of the elements
	// limits are the machine's; nil: standardLimits.
	limits *packLimits
	image  *objectImage // nil: the list was in no image as a large one
	quick  bool         // in encoding quicklist: it was too large for one listpack, and has not shrunk to half of one since
}

// listChunk holds its elements one behind the other in packed[start:], each between two copies of its length: a byte
// below 255, or 255 and four bytes (behind the element: the four bytes, then 255). The free room before start lets the
// front grow without moving the rest.
type listChunk struct {
	prev, next *listChunk
	packed     []byte
	start      int
	count      int
	mark       uint64 // what an image knows of it: see chunkSame
}

const longElement = 255

// lengthSize is how many bytes one of the lengths of an element takes.
func lengthSize(length int) int {
	if length < longElement {
		return 1
	}
	return 5
}

// itemSize is how many bytes an element of that length takes in a chunk.
func itemSize(length int) int { return length + 2*lengthSize(length) }

// putItem writes an element to b, which has exactly the size for it.
func putItem(b, s []byte) {
	if len(s) < longElement {
		b[0], b[len(b)-1] = byte(len(s)), byte(len(s))
		copy(b[1:], s)
		return
	}
	b[0], b[len(b)-1] = longElement, longElement
	binary.LittleEndian.PutUint32(b[1:], uint32(len(s)))
	copy(b[5:], s)
	binary.LittleEndian.PutUint32(b[len(b)-5:], uint32(len(s)))
}

// after returns the element that begins at place i and the place behind it.
func (k *listChunk) after(i int) ([]byte, int) {
	length, size := int(k.packed[i]), 1
	if length == longElement {
		length, size = int(binary.LittleEndian.Uint32(k.packed[i+1:])), 5
	}
	from := i + size
	return k.packed[from : from+length : from+length], from + length + size
}

// before returns the element that ends at place i and the place where it begins.
func (k *listChunk) before(i int) ([]byte, int) {
	length, size := int(k.packed[i-1]), 1
	if length == longElement {
		length, size = int(binary.LittleEndian.Uint32(k.packed[i-5:])), 5
	}
	end := i - size
	return k.packed[end-length : end : end], end - length - size
}

// place returns where element i of the chunk begins, 0 <= i <= count, walking from the nearer end.
func (k *listChunk) place(i int) int {
	if i <= k.count/2 {
		at := k.start
		for range i {
			_, at = k.after(at)
		}
		return at
	}
	at := len(k.packed)
	for range k.count - i {
		_, at = k.before(at)
	}
	return at
}

func (k *listChunk) size() int { return len(k.packed) - k.start }

// full reports whether the chunk takes no more element of that length.
func (k *listChunk) full(length int) bool {
	return k.count >= listChunkItems || k.count > 0 && k.size()+itemSize(length) > listChunkBytes
}

// put puts an element at the place where element i begins, moving what is behind.
func (k *listChunk) put(i int, s []byte) {
	at, size := k.place(i)-k.start, itemSize(len(s))
	if i == 0 && k.count > 0 {
		if k.start < size { // double the room in front
			room := max(size, min(k.size(), listChunkBytes/2))
			packed := make([]byte, room+k.size())
			copy(packed[room:], k.packed[k.start:])
			k.packed, k.start = packed, room
		}
		k.start -= size
		putItem(k.packed[k.start:k.start+size], s)
		k.count++
		return
	}
	if i < k.count || k.count == 0 {
		packed := append([]byte(nil), make([]byte, k.size()+size)...)
		copy(packed, k.packed[k.start:k.start+at])
		copy(packed[at+size:], k.packed[k.start+at:])
		k.packed, k.start = packed, 0
	} else {
		k.packed = slices.Grow(k.packed, size)[:len(k.packed)+size]
	}
	putItem(k.packed[k.start+at:k.start+at+size], s)
	k.count++
}

func (l *list) push(end listEnd, s []byte) {
	k, i := l.first, 0
	if end == right {
		k = l.last
	}
	if k == nil || k.full(len(s)) {
		before := l.last
		if end == left {
			before = nil
		}
		k = new(listChunk)
		l.linkAfter(before, k)
	}
	if end == right {
		i = k.count
	}
	l.changing(k)
	k.put(i, s)
	l.grown(len(s))
}

// grown accounts for an element that came.
func (l *list) grown(length int) {
	l.length++
	l.bytes += length
	l.settleEncoding()
}

// pop takes an element off and returns it; it is not part of the list any more and may be kept.
func (l *list) pop(end listEnd) []byte {
	k := l.first
	if end == right {
		k = l.last
	}
	l.changing(k)
	var s []byte
	if end == left {
		s, k.start = k.after(k.start)
	} else {
		var at int
		s, at = k.before(len(k.packed))
		k.packed = k.packed[:at]
	}
	k.count--
	s = slices.Clone(s)
	l.shrunk(k, 1, len(s))
	return s
}

// shrunk accounts for elements that left chunk k.
func (l *list) shrunk(k *listChunk, count, bytes int) {
	l.length -= count
	l.bytes -= bytes
	if k.count == 0 {
		l.unlink(k)
	} else if cap(k.packed) > 256 && k.size() < cap(k.packed)/4 {
		k.packed, k.start = slices.Clone(k.packed[k.start:]), 0
	}
	l.settleEncoding()
}

// settleEncoding decides between listpack and quicklist as Redis does: a list of one listpack becomes a quicklist when it
// is too large, and is one listpack again when it has shrunk to half of that.
func (l *list) settleEncoding() {
	limit := l.limits.of().list
	if l.quick {
		limit.entries /= 2
		limit.text /= 2
	}
	l.quick = l.exceeds(limit)
}

// exceeds reports whether the elements are too many, or too large together, for one listpack. It looks at no more chunks than
// the limit has room for.
func (l *list) exceeds(limit packLimit) bool {
	if l.length > limit.entries || l.bytes+2*l.length > limit.text {
		return true
	}
	size := 7
	for k := l.first; k != nil && size <= limit.text; k = k.next {
		size += k.size()
	}
	return size > limit.text
}

// linkAfter puts chunk k behind at, or first if at is nil.
func (l *list) linkAfter(at, k *listChunk) {
	k.prev = at
	if at == nil {
		k.next, l.first = l.first, k
	} else {
		k.next, at.next = at.next, k
	}
	if k.next == nil {
		l.last = k
	} else {
		k.next.prev = k
	}
}

func (l *list) unlink(k *listChunk) {
	l.leaves(k)
	if k.prev == nil {
		l.first = k.next
	} else {
		k.prev.next = k.next
	}
	if k.next == nil {
		l.last = k.prev
	} else {
		k.next.prev = k.prev
	}
}

// at returns the chunk of the element with index i, 0 <= i < length, and its number there, walking from the nearer end.
func (l *list) at(i int) (*listChunk, int) {
	if i < l.length/2 {
		k := l.first
		for ; i >= k.count; k = k.next {
			i -= k.count
		}
		return k, i
	}
	i = l.length - i
	k := l.last
	for ; i > k.count; k = k.prev {
		i -= k.count
	}
	return k, k.count - i
}

// index returns the element with index i, 0 <= i < length. It belongs to the list.
func (l *list) index(i int) []byte {
	k, i := l.at(i)
	s, _ := k.after(k.place(i))
	return s
}

// each visits the elements from index from on until visit returns false. They belong to the list.
func (l *list) each(from int, visit func([]byte) bool) {
	if from >= l.length {
		return
	}
	for k, i := l.at(from); k != nil; k, i = k.next, 0 {
		for at := k.place(i); at < len(k.packed); {
			s, end := k.after(at)
			if !visit(s) {
				return
			}
			at = end
		}
	}
}

// eachBack visits the elements from the last to the first until visit returns false.
func (l *list) eachBack(visit func([]byte) bool) {
	for k := l.last; k != nil; k = k.prev {
		for at := len(k.packed); at > k.start; {
			s, from := k.before(at)
			if !visit(s) {
				return
			}
			at = from
		}
	}
}

// set replaces the element with index i, 0 <= i < length.
func (l *list) set(i int, s []byte) {
	k, i := l.at(i)
	l.changing(k)
	at := k.place(i)
	old, end := k.after(at)
	l.bytes += len(s) - len(old)
	if len(s) == len(old) {
		copy(old, s)
		return
	}
	packed := append([]byte(nil), make([]byte, k.size()-(end-at)+itemSize(len(s)))...)
	n := copy(packed, k.packed[k.start:at])
	putItem(packed[n:n+itemSize(len(s))], s)
	copy(packed[n+itemSize(len(s)):], k.packed[end:])
	k.packed, k.start = packed, 0
	if k.count > 1 && k.size() > listChunkBytes { // a chunk of its own
		if i > 0 {
			l.split(k, i)
			k = k.next
		}
		if k.count > 1 && k.size() > listChunkBytes {
			l.split(k, 1)
		}
	}
	l.settleEncoding()
}

// insert puts s at index i, 0 <= i <= length.
func (l *list) insert(i int, s []byte) {
	switch i {
	case 0:
		l.push(left, s)
		return
	case l.length:
		l.push(right, s)
		return
	}
	k, i := l.at(i)
	if k.full(len(s)) && i > 0 {
		l.split(k, i)
	}
	if i == k.count && k.next != nil && k.full(len(s)) {
		k, i = k.next, 0
	}
	if k.full(len(s)) {
		fresh := new(listChunk)
		before := k
		if i == 0 {
			before = k.prev
		}
		l.linkAfter(before, fresh)
		k, i = fresh, 0
	}
	l.changing(k)
	k.put(i, s)
	l.grown(len(s))
}

// split moves the elements from i on, 0 < i < count, to a chunk of their own behind k.
func (l *list) split(k *listChunk, i int) {
	l.changing(k)
	at := k.place(i)
	l.linkAfter(k, &listChunk{packed: slices.Clone(k.packed[at:]), count: k.count - i})
	k.packed, k.start, k.count = slices.Clone(k.packed[k.start:at]), 0, i
}

// trim keeps the elements from, end.
func (l *list) trim(from, end int) {
	for n := l.length - end; n > 0; {
		n -= l.cut(l.last, n, right)
	}
	for n := from; n > 0; {
		n -= l.cut(l.first, n, left)
	}
}

// cut takes up to n elements out of chunk k, which stands at that end: all at once if they are the whole chunk.
func (l *list) cut(k *listChunk, n int, end listEnd) int {
	size := k.count
	if size > n {
		l.pop(end)
		return 1
	}
	l.changing(k)
	bytes := 0
	for at := k.start; at < len(k.packed); {
		var s []byte
		s, at = k.after(at)
		bytes += len(s)
	}
	k.count = 0
	l.shrunk(k, size, bytes)
	return size
}

// removeEqual takes out up to limit elements equal to s (0: all), from the back if back, and returns how many.
func (l *list) removeEqual(s []byte, limit int, back bool) int {
	removed := 0
	step := func(k *listChunk) *listChunk { return k.next }
	k := l.first
	if back {
		step = func(k *listChunk) *listChunk { return k.prev }
		k = l.last
	}
	for k != nil && (limit == 0 || removed < limit) {
		next := step(k)
		removed += l.removeFrom(k, s, limit-removed, back)
		k = next
	}
	return removed
}

// removeFrom takes out of chunk k up to limit elements equal to s (not positive: all).
func (l *list) removeFrom(k *listChunk, s []byte, limit int, back bool) int {
	var doomed []int
	if back {
		for at := len(k.packed); at > k.start; {
			var item []byte
			if item, at = k.before(at); string(item) == string(s) {
				if doomed = append(doomed, at); len(doomed) == limit {
					break
				}
			}
		}
		slices.Reverse(doomed)
	} else {
		for at := k.start; at < len(k.packed); {
			item, end := k.after(at)
			if string(item) == string(s) {
				if doomed = append(doomed, at); len(doomed) == limit {
					break
				}
			}
			at = end
		}
	}
	if len(doomed) == 0 {
		return 0
	}
	l.changing(k)
	size := itemSize(len(s))
	packed := append([]byte(nil), make([]byte, k.size()-len(doomed)*size)...)
	from, n := k.start, 0
	for _, at := range doomed {
		n += copy(packed[n:], k.packed[from:at])
		from = at + size
	}
	copy(packed[n:], k.packed[from:])
	k.packed, k.start = packed, 0
	k.count -= len(doomed)
	l.shrunk(k, len(doomed), len(doomed)*len(s))
	return len(doomed)
}

func (l *list) kind() string { return "list" }

func (l *list) encoding() string {
	if l.quick {
		return "quicklist"
	}
	return "listpack"
}

func (l *list) size() int { return 128 + l.bytes + l.bytes/8 + 3*l.length }

func (l *list) clone() object {
	twin := &list{length: l.length, bytes: l.bytes, quick: l.quick, limits: l.limits}
	for k := l.first; k != nil; k = k.next {
		twin.linkAfter(twin.last, &listChunk{packed: slices.Clone(k.packed[k.start:]), count: k.count})
	}
	return twin
}

// digest also feeds where the chunks end, because that decides the encoding later on.
func (l *list) digest(d *digester) {
	d.number(uint64(l.length))
	d.text(l.encoding())
	for k := l.first; k != nil; k = k.next {
		d.number(uint64(k.count))
		d.bytes(k.packed[k.start:])
	}
}

package kv

import "encoding/binary"

// From these sizes on an object is large: its parts have rows of their own.
const (
	largeTable   = 256 // elements of a hash, set or sorted set
	largeList    = 8   // chunks
	largeStream  = 8   // blocks
	largePending = 256 // pending entries of all groups of a stream

	// itemsEach is how many numbers of elements of a table share a row.
	itemsEach = 32
)

// largeContent is an object that may be large.
type largeContent interface {
	object
	// large reports whether its parts have rows of their own.
	large() bool
	// imageOf returns where the object keeps what images know of it.
	imageOf() **objectImage
	// begin starts an image of its parts: of those that changed, or of all.
	begin(o *objectImage, all bool)
	// appendShape appends the row partShape.
	appendShape(b []byte) []byte
}

// objectImage is what images know of a large object. An object without one was in no image.
type objectImage struct {
	image   *imaging
	object  uint64 // its number
	lineage uint32
	content largeContent

	items rowSource   // of a table
	marks numberMarks // of its rows

	chunk uint64   // the last number given to a chunk of a list
	gone  []uint64 // chunks that were taken out

	blocks idMarks // of a stream
	group  uint32  // the last number given to a group of it
	ended  []uint32
}

// rowSource makes the rows of a table.
type rowSource interface {
	// ceil returns the first row at or behind one that is there.
	ceil(row streamID) (streamID, bool)
	last() streamID
	// appendItems appends the elements of a row and reports whether there are any.
	appendItems(b []byte, row uint64) ([]byte, bool)
}

// largeOf returns the large object of an entry, nil if it holds none.
func largeOf(e *entry) largeContent {
	if content, ok := e.value.object().(largeContent); ok && content.large() {
		return content
	}
	return nil
}

// beginObject starts to take the parts of the large object of an entry; nil if it holds none.
func (i *imaging) beginObject(e *entry) *objectImage {
	content, ok := e.value.object().(largeContent)
	if !ok {
		return nil
	}
	at := content.imageOf()
	if !content.large() {
		if at != nil {
			*at = nil
		}
		return nil
	}
	o, all := *at, false
	if o == nil || o.lineage != i.lineage {
		i.object++
		o, all = &objectImage{image: i, object: i.object, lineage: i.lineage, content: content}, true
		*at = o
	}
	content.begin(o, all)
	return o
}

// running reports whether what the image still has to take can be taken.
func (o *objectImage) running() bool { return o.image.running && o.lineage == o.image.lineage }

// before is called when an element of a table is about to change, come or go.
func (o *objectImage) before(element uint64) {
	if row := element / itemsEach; o.marks.before(rowID(row)) && o.running() {
		o.takeItems(row, &o.image.early)
	}
}

// beginItems starts to take the elements of a table.
func (o *objectImage) beginItems(items rowSource, all bool) {
	o.items = items
	o.marks.begin(all, items.last())
	o.image.work = append(o.image.work, (*itemsWork)(o))
}

func (o *objectImage) takeItems(row uint64, rows *ImageRows) {
	key := rowKey{space: spaceObjects, number: o.object, part: partItems, row: row}
	head := rows.begin(RowPut, key)
	var present bool
	if rows.data, present = o.items.appendItems(rows.data, row); present {
		rows.end(head)
		return
	}
	rows.data = rows.data[:head]
	rows.remove(key)
}

// itemsWork takes the elements of a table.
type itemsWork objectImage

func (w *itemsWork) next(_ *imaging, rows *ImageRows) bool {
	row, _, ok := w.marks.take(w.items.ceil)
	if ok {
		(*objectImage)(w).takeItems(row.seq, rows)
	}
	return ok
}

// tableRows makes the rows of a table.
//
//	value of a row: of each element in the order of their numbers: uvarint difference of its number to the one before (to the lowest
//	of the row), uvarint length of the key, key, value
type tableRows[V any] struct {
	table       *table[V]
	appendValue func(b []byte, value V) []byte
}

func (t tableRows[V]) ceil(row streamID) (streamID, bool) {
	id, ok := t.table.ceil(rowID(row.seq * itemsEach))
	return rowID(id.seq / itemsEach), ok
}

func (t tableRows[V]) last() streamID { return rowID(t.table.lastID / itemsEach) }

func (t tableRows[V]) appendItems(b []byte, row uint64) ([]byte, bool) {
	size := len(b)
	b = t.append(b, row*itemsEach, (row+1)*itemsEach)
	return b, len(b) > size
}

// append appends the elements with numbers from, end.
func (t tableRows[V]) append(b []byte, from, end uint64) []byte {
	before := from
	t.table.eachFrom(from, func(n *node[V]) bool {
		if n.id >= end {
			return false
		}
		b = binary.AppendUvarint(b, n.id-before)
		b = appendRowText(b, n.key)
		b = t.appendValue(b, n.value)
		before = n.id
		return true
	})
	return b
}

// appendTableShape appends what the rows of the elements do not tell: the last number given, and how many elements each chunk
// has, which decides what is drawn.
func appendTableShape[V any](b []byte, t *table[V]) []byte {
	return appendOrder(b, t.lastID, t.size, t.order)
}

func appendOrder[N any](b []byte, lastID uint64, size int, order [][]N) []byte {
	b = binary.AppendUvarint(b, lastID)
	b = binary.AppendUvarint(b, uint64(size))
	b = binary.AppendUvarint(b, uint64(len(order)))
	for _, chunk := range order {
		b = binary.AppendUvarint(b, uint64(len(chunk)))
	}
	return b
}

func (h *hashObject) rows() tableRows[[]byte] {
	return tableRows[[]byte]{&h.big.table, func(b, value []byte) []byte { return appendRowText(b, value) }}
}

func (h *hashObject) large() bool                    { return h.big != nil && h.big.table.size >= largeTable }
func (h *hashObject) begin(o *objectImage, all bool) { o.beginItems(h.rows(), all) }
func (h *hashObject) appendShape(b []byte) []byte    { return appendTableShape(b, &h.big.table) }
func (h *hashObject) imageOf() **objectImage {
	if h.big == nil {
		return nil
	}
	return &h.big.image
}

func (s *setObject) rows() tableRows[struct{}] {
	return tableRows[struct{}]{s.big, func(b []byte, _ struct{}) []byte { return b }}
}

func (s *setObject) large() bool                    { return s.big != nil && s.big.size >= largeTable }
func (s *setObject) begin(o *objectImage, all bool) { o.beginItems(s.rows(), all) }
func (s *setObject) appendShape(b []byte) []byte    { return appendTableShape(b, s.big) }
func (s *setObject) imageOf() **objectImage {
	if s.big == nil {
		return nil
	}
	return &s.big.image
}

func (z *zsetObject) rows() tableRows[float64] {
	return tableRows[float64]{&z.big.table, appendRowFloat}
}

func (z *zsetObject) large() bool                    { return z.big != nil && z.big.table.size >= largeTable }
func (z *zsetObject) begin(o *objectImage, all bool) { o.beginItems(z.rows(), all) }
func (z *zsetObject) appendShape(b []byte) []byte    { return appendTableShape(b, &z.big.table) }
func (z *zsetObject) imageOf() **objectImage {
	if z.big == nil {
		return nil
	}
	return &z.big.image
}

// A list gives its chunks numbers. What an image knows of a chunk is in its mark: the number, 0 if it has none, times 4; bit 0:
// it did not change since an image was begun; bit 1: the image that is being taken still has to write it.
const (
	chunkSame  = 1
	chunkAwait = 2
	chunkShift = 2
)

func (l *list) large() bool            { return l.chunks() >= largeList }
func (l *list) imageOf() **objectImage { return &l.image }

// chunks counts the chunks, up to largeList.
func (l *list) chunks() int {
	n := 0
	for k := l.first; k != nil && n < largeList; k = k.next {
		n++
	}
	return n
}

func (l *list) begin(o *objectImage, all bool) {
	w := &chunksWork{o: o, gone: o.gone}
	o.gone = nil
	for k := l.first; k != nil; k = k.next {
		if all || k.mark>>chunkShift == 0 {
			o.chunk++
			k.mark = o.chunk << chunkShift
		}
		if k.mark&chunkSame == 0 {
			k.mark |= chunkSame | chunkAwait
			w.chunks = append(w.chunks, k)
		}
	}
	o.image.work = append(o.image.work, w)
}

// appendShape appends the numbers of the chunks in their order.
func (l *list) appendShape(b []byte) []byte {
	before := int64(0)
	for k := l.first; k != nil; k = k.next {
		number := int64(k.mark >> chunkShift)
		b = binary.AppendVarint(b, number-before)
		before = number
	}
	return b
}

// changing is called when a chunk is about to change.
func (l *list) changing(k *listChunk) {
	if l.image == nil || k.mark&chunkSame == 0 {
		return
	}
	if k.mark&chunkAwait != 0 && l.image.running() {
		l.image.takeChunk(k, &l.image.image.early)
	}
	k.mark &^= chunkSame | chunkAwait
}

// leaves is called when a chunk was taken out.
func (l *list) leaves(k *listChunk) {
	if l.image != nil && k.mark>>chunkShift != 0 {
		l.image.gone = append(l.image.gone, k.mark>>chunkShift)
	}
}

func (o *objectImage) chunkKey(number uint64) rowKey {
	return rowKey{space: spaceObjects, number: o.object, part: partItems, row: number}
}

func (o *objectImage) takeChunk(k *listChunk, rows *ImageRows) {
	head := rows.begin(RowPut, o.chunkKey(k.mark>>chunkShift))
	rows.data = appendChunk(rows.data, k)
	rows.end(head)
}

func appendChunk(b []byte, k *listChunk) []byte {
	b = binary.AppendUvarint(b, uint64(k.count))
	return appendRowText(b, k.packed[k.start:])
}

// chunksWork takes the chunks of a list.
type chunksWork struct {
	o      *objectImage
	chunks []*listChunk
	gone   []uint64
}

func (w *chunksWork) next(_ *imaging, rows *ImageRows) bool {
	if n := len(w.gone); n > 0 {
		rows.remove(w.o.chunkKey(w.gone[n-1]))
		w.gone = w.gone[:n-1]
		return true
	}
	if len(w.chunks) == 0 {
		return false
	}
	k := w.chunks[0]
	w.chunks = w.chunks[1:]
	if k.mark&chunkAwait != 0 {
		k.mark &^= chunkAwait
		w.o.takeChunk(k, rows)
	}
	return true
}

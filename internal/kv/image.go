package kv

import (
	"slices"

	"lockstep/internal/acl"
	"lockstep/smr"
)

// An image holds the state as it was at one LSN, as rows of keys and values. It is taken beside the log: BeginImage fixes the LSN,
// NextRows is called again and again, between frames, and returns some rows each time; what is about to change before its row was
// taken is taken first. Only rows that changed since the image before are taken.
//
// What the machine remembers for it is no part of the state and not in Digest: other nodes take images at other LSNs.

// imaging is what the machine knows about its images.
type imaging struct {
	tracking bool // changes are noted: an image was begun or loaded
	running  bool // an image is being taken
	failed   bool // the last one was not stored: the next one begins anew
	pinned   bool // cold values are read from an earlier one

	begun   smr.LSN // of the last image that was begun or loaded: keys with a later version are marked as changed since
	lineage uint32  // counts the full images; parts of large objects that were written in another one are not there
	object  uint64  // the last large object that was given a number

	early ImageRows  // what was taken because it was about to change
	work  []rowsWork // what has still to be looked through, the last first
	heads ImageRows  // rows that were made when the image was begun

	users *acl.Users // as the last image has them
}

// rowsWork is a part of an image that is being taken.
type rowsWork interface {
	// next appends some more rows and reports whether there may be others.
	next(i *imaging, rows *ImageRows) bool
}

// ImageStart says what an image is of.
type ImageStart struct {
	LSN   smr.LSN // everything below is in it
	Stamp int64   // log time at LSN, in milliseconds since 1970 UTC
	Keys  int
	// Full says that all rows will come: whoever keeps them begins with none.
	Full bool
}

// BeginImage starts an image of the state as it is now. It is called between frames, and not while another image is taken. An
// image is full if it is the first, if the one before was not stored, or if that is asked for.
func (m *Machine) BeginImage(full bool) ImageStart {
	i := &m.image
	full = full || !i.tracking || i.failed
	if full {
		i.lineage++
		i.users = nil
	}
	i.tracking, i.running, i.failed, i.pinned = true, true, false, m.tier.rows != nil
	i.begun = m.applied
	i.early.Reset()
	i.heads.Reset()
	i.work = i.work[:0]
	keys := 0
	for _, d := range &m.databases {
		keys += d.keys.size
		d.beginImage(i, full)
	}
	m.appendHeads(&i.heads)
	return ImageStart{LSN: m.applied, Stamp: m.now, Keys: keys, Full: full}
}

// NextRows appends rows of the image to a batch until it has grown by about limit bytes, and reports whether there are more. It
// may be called by one goroutine while others read, but not while anything is applied. A single row may be larger than limit.
func (m *Machine) NextRows(limit int, rows *ImageRows) (more bool) {
	i := &m.image
	begin := rows.Len()
	for _, batch := range []*ImageRows{&i.heads, &i.early} {
		rows.data = append(rows.data, batch.data...)
		if batch.Reset(); cap(batch.data) > 1<<20 {
			*batch = ImageRows{}
		}
	}
	if begin == 0 {
		rows.early = len(rows.data)
	}
	// Rows that are there already and need not be written again take time and leave no bytes: they are counted, too.
	for looked := 0; len(i.work) > 0 && rows.Len()-begin+looked < limit; looked += 64 {
		last := len(i.work) - 1
		w := i.work[last]
		if w.next(i, rows) {
			continue
		}
		at := slices.Index(i.work, w) // it may have put others behind itself
		i.work = slices.Delete(i.work, at, at+1)
	}
	return len(i.work) > 0
}

// EndImage ends an image. stored says that it was written as a whole; else the next one will be full.
func (m *Machine) EndImage(stored bool) {
	i := &m.image
	i.running, i.failed = false, !stored
	i.work, i.early, i.heads = nil, ImageRows{}, ImageRows{}
}

// EarlyRows returns how many bytes of rows wait for NextRows because they had to be taken before a change.
func (m *Machine) EarlyRows() int { return m.image.early.Len() }

// before is called when an entry is about to change, come or go.
func (d *database) before(m *Machine, e *entry) {
	if m.image.tracking && d.marks.before(rowID(e.id)) && m.image.running {
		m.image.takeKey(d.tag, &d.due, e, &m.image.early)
	}
}

// goes is called when an entry is about to be taken out.
func (d *database) goes(m *Machine, e *entry) {
	if d.before(m, e); m.image.tracking {
		d.marks.gone(rowID(e.id))
	}
}

// clears is called when all entries are about to be taken out.
func (d *database) clears(m *Machine) {
	i := &m.image
	if !i.tracking {
		return
	}
	if i.running { // the image goes on with what is left behind
		left, expiries := d.keys, d.due
		i.work = append(i.work, &keysWork{tag: d.tag, keys: &left, due: &expiries, marks: pointerTo(d.marks)})
	}
	d.cleared = d.keys.lastID
	d.marks = numberMarks{limit: d.marks.limit, stored: d.marks.stored}
}

func pointerTo[T any](value T) *T { return &value }

func (d *database) beginImage(i *imaging, full bool) {
	if d.cleared > 0 && !full {
		i.heads.removeRange(rowKey{space: spaceKeys, part: d.tag}, rowKey{space: spaceKeys, part: d.tag, number: d.cleared + 1})
	}
	d.cleared = 0
	if i.pinned {
		d.since.add(&d.marks.now)
	}
	d.marks.begin(full, rowID(d.keys.lastID))
	w := &keysWork{tag: d.tag, keys: &d.keys, due: &d.due, marks: &d.marks}
	if !full {
		w.checks = d
	}
	i.work = append(i.work, w)
}

// keysWork takes the keys of a database.
type keysWork struct {
	tag   byte
	keys  *keyTable
	due   *dueHeap // of the keys
	marks *numberMarks
	// checks is the database of which some rows that did not change are to be compared, nil for none; left says how many.
	checks *database
	left   int
	begun  bool
}

// checkedEach is the part of the keys of a database that one image compares with what earlier ones wrote: one in so many.
const checkedEach = 64

func (w *keysWork) next(i *imaging, rows *ImageRows) bool {
	row, present, ok := w.marks.take(w.keys.ceil)
	switch {
	case !ok:
		return w.check(i, rows)
	case present:
		i.takeKey(w.tag, w.due, w.keys.first(row.seq), rows)
	default:
		rows.remove(rowKey{space: spaceKeys, part: w.tag, number: row.seq})
	}
	return true
}

// check appends what the row of a key must hold that has not changed: one that is not so was missed when it changed.
func (w *keysWork) check(i *imaging, rows *ImageRows) bool {
	d := w.checks
	if d == nil || d.keys.size == 0 {
		return false
	}
	if !w.begun {
		w.begun, w.left = true, d.keys.size/checkedEach+1
	}
	for ; w.left > 0; w.left-- {
		row, ok := d.keys.ceil(rowID(d.checked + 1))
		if !ok || w.marks.limit.less(row) {
			d.checked = 0
			return false
		}
		d.checked = row.seq
		if !w.marks.changed(row) {
			w.left--
			i.checkKey(d, d.keys.first(row.seq), rows)
			return true
		}
	}
	return false
}

// takeFront appends what an image has to know of a key whose value is cold.
func (i *imaging) takeFront(op RowOp, tag byte, expiries *dueHeap, e *entry, rows *ImageRows) {
	head := rows.begin(op, rowKey{space: spaceKeys, part: tag, number: e.id})
	expires := byte(0)
	if e.value.due != 0 {
		expires = entryDue
	}
	rows.data = appendFront(append(rows.data, expires), expiries, e)
	rows.end(head)
}

// takeKey appends the row of a key. If it holds a large object, its parts come later.
func (i *imaging) takeKey(tag byte, expiries *dueHeap, e *entry, rows *ImageRows) {
	if e.value.held&heldCold != 0 {
		i.takeFront(RowFront, tag, expiries, e, rows)
		return
	}
	large := i.beginObject(e)
	head := rows.begin(RowPut, rowKey{space: spaceKeys, part: tag, number: e.id})
	rows.data = appendEntry(rows.data, expiries, e, large)
	rows.end(head)
	if large != nil {
		head = rows.begin(RowPut, rowKey{space: spaceObjects, number: large.object, part: partShape})
		rows.data = large.content.appendShape(rows.data)
		rows.end(head)
	}
}

func (i *imaging) checkKey(d *database, e *entry, rows *ImageRows) {
	if e.value.held&heldCold != 0 {
		i.takeFront(RowCheckFront, d.tag, &d.due, e, rows)
		return
	}
	var large *objectImage
	if content := largeOf(e); content != nil {
		if large = *content.imageOf(); large == nil || large.lineage != i.lineage {
			return
		}
	}
	head := rows.begin(RowCheck, rowKey{space: spaceKeys, part: d.tag, number: e.id})
	rows.data = appendEntry(rows.data, &d.due, e, large)
	rows.end(head)
}

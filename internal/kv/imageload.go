package kv

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"lockstep/internal/script"
	"lockstep/smr"
)

// ImageLoader fills a machine with the rows of an image. The machine must be new. After an error it is of no use.
type ImageLoader struct {
	m       *Machine
	seen    [8]bool // parts of the machine
	keys    [Databases]*keyLoader
	objects map[uint64]*objectLoader
	order   []*objectLoader
	last    *objectLoader // the one that the last row was of
	lineage uint32        // of the image
	// lazy: values stay cold of those keys that would make more than keep bytes resident.
	lazy bool
	keep int64
}

// objectLoader fills a large object.
type objectLoader struct {
	o        *objectImage
	row      func(key rowKey, r *rowReader)
	complete func() bool
}

// LoadImage returns a loader of rows for a new machine.
func LoadImage(m *Machine) *ImageLoader {
	m.image.tracking = true
	return &ImageLoader{m: m}
}

// LoadCold is LoadImage for a machine whose values are cold as soon as keep bytes are resident. The rows must then be pinned before the
// machine is used.
func LoadCold(m *Machine, keep int64) *ImageLoader {
	l := LoadImage(m)
	l.lazy, l.keep = true, keep
	return l
}

var errImage = errors.New("not what a machine wrote")

// Row takes the next row, in the order of their keys. Nothing of it is kept.
func (l *ImageLoader) Row(key, value []byte) error {
	at, err := parseRowKey(key)
	if err == nil {
		r := rowReader{rest: value}
		switch at.space {
		case spaceMachine:
			l.machineRow(at, &r)
		case spaceKeys:
			l.keyRow(at, &r)
		default:
			l.objectRow(at, &r)
		}
		if err = r.err; err == nil && len(r.rest) > 0 {
			err = errRow
		}
	}
	if err != nil {
		return fmt.Errorf("load row %x: %w", key, err)
	}
	return nil
}

// part takes the next row of a large object.
func (l *ImageLoader) part(key, value []byte) error {
	at, err := parseRowKey(key)
	if err != nil {
		return err
	}
	r := rowReader{rest: value}
	if l.objectRow(at, &r); r.err == nil && len(r.rest) > 0 {
		r.fail()
	}
	return r.err
}

func (l *ImageLoader) machineRow(at rowKey, r *rowReader) {
	part := at.part
	if part >= rowDatabases {
		tag := part - rowDatabases
		if tag >= Databases || l.keys[tag] != nil {
			r.fail()
			return
		}
		d := l.m.databases[tag]
		shape := r.database(d)
		if r.err == nil {
			l.keys[tag] = newKeyLoader(&d.keys, shape)
		}
		return
	}
	l.seen[part] = true
	switch part {
	case rowMachine:
		r.machine(l.m)
		l.lineage = l.m.image.lineage
	case rowSessions:
		sessions, rest, err := smr.DecodeSessionTable(r.rest)
		if l.m.sessions, r.rest = sessions, rest; err != nil {
			r.fail()
		}
	case rowSettings:
		r.settings(l.m)
	case rowUsers:
		l.m.users = r.users()
		l.m.image.users = l.m.users
	case rowScripts:
		// They ran within the limits of their time.
		limits := l.m.lua.limits
		l.m.lua.limits = script.Limits{Instructions: math.MaxInt64, Memory: math.MaxInt64}
		r.scripts(l.m)
		l.m.lua.limits = limits
	case rowWaiters:
		r.waiters(l.m)
	}
}

func (l *ImageLoader) keyRow(at rowKey, r *rowReader) {
	if at.part >= Databases || l.keys[at.part] == nil {
		r.fail()
		return
	}
	d, keys := l.m.databases[at.part], l.keys[at.part]
	s := r.entry()
	if r.err != nil {
		return
	}
	e := keys.add(at.number, s.key)
	if e == nil {
		r.fail()
		return
	}
	asleep := l.lazy && l.m.used-l.m.tier.bytes+s.size > l.keep
	if asleep {
		l.leave(s, &e.value, r)
	} else if held := l.content(s, r); r.err == nil {
		d.keys.set(e, held)
	}
	if r.err != nil {
		return
	}
	e.value.version, e.value.used, e.value.uses = s.version, s.used, s.uses
	e.value.setSize(s.size)
	l.m.used += s.size
	if s.expires {
		d.due.add(e, s.due)
	}
	if asleep {
		l.m.count(e)
	}
}

// leave makes a value cold.
func (l *ImageLoader) leave(s storedEntry, v *value, r *rowReader) {
	is, as := cold{large: s.large}, heldText
	shows := func(kind held, encoding string) {
		as, is.shown = kind, coldShown(slices.Index(coldEncodings[:], encoding))
	}
	switch flag := len(r.rest) > 0 && r.rest[0] == 1; s.kind {
	case entryPackedHash:
		shows(heldHash, "listpack")
	case entryHash:
		shows(heldHash, "hashtable")
	case entryPackedSet:
		shows(heldSet, "intset")
		if flag {
			shows(heldSet, "listpack")
		}
	case entrySet:
		shows(heldSet, "hashtable")
	case entryPackedZset:
		shows(heldZset, "listpack")
	case entryZset:
		shows(heldZset, "skiplist")
	case entryList:
		shows(heldList, "listpack")
		if flag {
			shows(heldList, "quicklist")
		}
	case entryStream:
		shows(heldStream, "stream")
	case entryText, entryRawText, entryFloatText, entryOwnText:
		if s.large {
			r.fail()
			return
		}
		l.leaveText(s, v, r)
		return
	default:
		r.fail()
		return
	}
	if s.large {
		if s.kind < entryHash || s.kind > entryStream || s.object == 0 || l.objects[s.object] != nil {
			r.fail()
			return
		}
		l.large(s, nil, func(_ rowKey, r *rowReader) { r.rest = nil }, func() bool { return true })
	} else {
		is.sum = crc32.Checksum(r.rest, castagnoli)
	}
	r.rest = nil
	v.setCold(as, is)
}

func (l *ImageLoader) leaveText(s storedEntry, v *value, r *rowReader) {
	is := cold{sum: crc32.Checksum(r.rest, castagnoli)}
	e := detach(&entry{}, l.content(s, r))
	if is.shown = coldShown(slices.Index(coldEncodings[:], encodingOf(e))); references(e) != 1 {
		is.shown = showsShared
	}
	v.setCold(e.value.held, is)
}

// content reads what a key holds. A string shares the memory of the row.
func (l *ImageLoader) content(s storedEntry, r *rowReader) (held loose) {
	limits := &l.m.set.packs
	if s.large && (s.kind < entryHash || s.kind > entryStream || s.object == 0 || l.objects[s.object] != nil) {
		r.fail()
		return held
	}
	switch s.kind {
	case entryText, entryRawText, entryFloatText, entryOwnText:
		switch s.kind {
		case entryRawText:
			held.held = heldRaw
		case entryFloatText:
			held.held = heldFloat
		case entryOwnText:
			held.held = heldOwn
		}
		held.text, r.rest = r.rest, nil
	case entryPackedHash:
		h := &hashObject{limits: limits}
		h.pack, h.count = r.pack(2)
		held.object = h
	case entryPackedSet:
		s := &setObject{limits: limits, mixed: r.byte() == 1}
		s.pack, s.count = r.pack(1)
		held.object = s
	case entryPackedZset:
		z := &zsetObject{limits: limits}
		z.pack, z.count = r.pack(2)
		held.object = z
	case entryHash:
		h := &hashObject{limits: limits, big: &hashTable{}}
		held.object = h
		loadTable(l, s, h, &h.big.table, r, func(r *rowReader) []byte {
			text := r.text()
			h.big.valueBytes += len(text)
			return append(make([]byte, 0, len(text)), text...)
		}, nil)
	case entrySet:
		t := &setObject{limits: limits, big: &table[struct{}]{}}
		held.object = t
		loadTable(l, s, t, t.big, r, func(*rowReader) struct{} { return struct{}{} }, nil)
	case entryZset:
		z := &zsetObject{limits: limits, big: &zsetTable{}}
		held.object = z
		var members []*member
		loadTable(l, s, z, &z.big.table, r, (*rowReader).float, func(m *member, last bool) {
			if members = append(members, m); last {
				z.big.ranks.fill(members)
				members = nil
			}
		})
	case entryList:
		held.object = l.list(s, limits, r)
	case entryStream:
		held.object = l.stream(s, r)
	default:
		r.fail()
	}
	return held
}

// large notes a large object, whose rows come later.
func (l *ImageLoader) large(s storedEntry, content largeContent, row func(rowKey, *rowReader), complete func() bool) *objectImage {
	o := &objectImage{image: &l.m.image, object: s.object, lineage: l.lineage, content: content}
	if s.object > l.m.image.object { // not where a cold value is read back: others read
		l.m.image.object = s.object
	}
	loader := &objectLoader{o: o, row: row, complete: complete}
	if l.objects == nil {
		l.objects = make(map[uint64]*objectLoader)
	}
	l.objects[s.object], l.order = loader, append(l.order, loader)
	return o
}

// loadTable reads a table from the row of its key, or lets the rows that come do so. each is told of every element, and which one is the last.
func loadTable[V any](l *ImageLoader, s storedEntry, content largeContent, t *table[V], r *rowReader, read func(*rowReader) V, each func(n *node[V], last bool)) {
	var loader *tableLoader[V]
	begin := func(r *rowReader) {
		shape := r.tableShape()
		if r.err != nil {
			return
		}
		loader = newTableLoader(t, shape, read)
		if each != nil {
			loader.insert = func(n *node[V]) { each(n, loader.loaded == shape.size) }
		}
	}
	if !s.large {
		if begin(r); r.err == nil {
			if loader.items(r, 0); !loader.complete() {
				r.fail()
			}
		}
		return
	}
	var o *objectImage
	o = l.large(s, content, func(key rowKey, r *rowReader) {
		switch {
		case key.part == partShape && loader == nil:
			if begin(r); r.err == nil {
				o.marks.limit = rowID(t.lastID / itemsEach)
				o.marks.stored = o.marks.limit
				t.image = o
			}
		case key.part == partItems && loader != nil:
			loader.items(r, key.row*itemsEach)
		default:
			r.fail()
		}
	}, func() bool { return loader != nil && loader.complete() })
}

func (r *rowReader) float() float64 { return math.Float64frombits(r.fixed()) }

func (l *ImageLoader) list(s storedEntry, limits *packLimits, r *rowReader) *list {
	o := &list{limits: limits, quick: r.byte() == 1}
	if !s.large {
		for len(r.rest) > 0 && r.err == nil {
			k := new(listChunk)
			r.chunk(k, o)
			o.linkAfter(o.last, k)
		}
		if o.length == 0 {
			r.fail()
		}
		return o
	}
	var image *objectImage
	var chunks map[uint64]*listChunk
	image = l.large(s, o, func(key rowKey, r *rowReader) {
		switch {
		case key.part == partShape && chunks == nil:
			chunks = make(map[uint64]*listChunk, len(r.rest))
			number := int64(0)
			for len(r.rest) > 0 && r.err == nil {
				number += r.int()
				k := &listChunk{mark: uint64(number)<<chunkShift | chunkSame}
				if number <= 0 || chunks[uint64(number)] != nil {
					r.fail()
					return
				}
				chunks[uint64(number)] = k
				image.chunk = max(image.chunk, uint64(number))
				o.linkAfter(o.last, k)
			}
			o.image = image
		case key.part == partItems && chunks[key.row] != nil:
			r.chunk(chunks[key.row], o)
			delete(chunks, key.row)
		default:
			r.fail()
		}
	}, func() bool { return chunks != nil && len(chunks) == 0 && o.length > 0 })
	return o
}

func (l *ImageLoader) stream(s storedEntry, r *rowReader) *stream {
	o := r.streamHead()
	if !s.large {
		r.groups(o)
		for range r.count(8) {
			o.restoreBlock(r)
		}
		for _, g := range o.groups {
			for range r.count(5) {
				id := r.id()
				if p := r.pending(); r.err == nil && !g.restore(id, p) {
					r.fail()
				}
			}
			g.number = 0
		}
		return o
	}
	var image *objectImage
	shaped := false
	image = l.large(s, o, func(key rowKey, r *rowReader) {
		switch {
		case key.part == partShape && !shaped:
			shaped = true
			r.groups(o)
			for _, g := range o.groups {
				image.group = max(image.group, g.number)
				g.image = image
			}
			o.image = image
		case key.part == partBlocks && shaped:
			if o.restoreBlock(r); r.err == nil && o.tail.master != key.id {
				r.fail()
			}
			image.blocks.limit, image.blocks.stored = key.id, key.id
		case key.part == partPending && shaped:
			i := slices.IndexFunc(o.groups, func(g *streamGroup) bool { return g.number == key.group })
			p := r.pending()
			if i < 0 || r.err != nil || !o.groups[i].restore(key.id, p) {
				r.fail()
				return
			}
			o.groups[i].marks.limit, o.groups[i].marks.stored = key.id, key.id
		default:
			r.fail()
		}
	}, func() bool { return shaped })
	return o
}

// restoreBlock reads a block and puts it behind the others.
func (s *stream) restoreBlock(r *rowReader) {
	b := r.block()
	if r.err != nil || s.tail != nil && !s.tail.last.less(b.master) || !b.sound() {
		r.fail()
		return
	}
	s.blocks.set(b.master, b)
	s.tail = b
	s.bytes += len(b.data)
}

// sound reports whether the elements of a block can be walked through.
func (b *streamBlock) sound() bool {
	if b.live < 0 || b.deleted < 0 || b.fields < 0 || b.head <= 0 || b.head > len(b.data) {
		return false
	}
	at := 0
	for at < len(b.data) {
		size := packedSize(b.data[at:])
		if size == 0 {
			return false
		}
		at += size + packedLengthSize(size)
	}
	return at == len(b.data)
}

func (l *ImageLoader) objectRow(at rowKey, r *rowReader) {
	if l.last == nil || l.last.o.object != at.number {
		if l.last = l.objects[at.number]; l.last == nil {
			r.fail()
			return
		}
	}
	l.last.row(at, r)
}

// End checks that the image was whole. The machine can then go on with the log from Applied on.
func (l *ImageLoader) End() error {
	m := l.m
	for _, part := range []byte{rowMachine, rowSessions, rowSettings, rowUsers, rowScripts, rowWaiters} {
		if !l.seen[part] {
			return fmt.Errorf("load image: %w: part %d of the machine is missing", errImage, part)
		}
	}
	for _, o := range l.order {
		if !o.complete() {
			return fmt.Errorf("load image: %w: parts of object %d are missing", errImage, o.o.object)
		}
	}
	m.image.begun = m.applied
	byNumber := m.databases
	for tag, d := range m.databases {
		if l.keys[tag] == nil || !l.keys[tag].complete() {
			return fmt.Errorf("load image: %w: keys of database %d are missing", errImage, tag)
		}
		if d.number < 0 || d.number >= Databases {
			return fmt.Errorf("load image: %w: a database has number %d", errImage, d.number)
		}
		byNumber[d.number] = nil
		d.marks.limit = rowID(d.keys.lastID)
		d.marks.stored = d.marks.limit
	}
	for number, d := range byNumber {
		if d != nil {
			return fmt.Errorf("load image: %w: no database has number %d", errImage, number)
		}
	}
	for _, d := range slices.Clone(m.databases[:]) {
		m.databases[d.number] = d
	}
	if m.host != nil {
		m.host.UsersChanged(m.Users())
	}
	return nil
}

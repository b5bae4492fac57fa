package kv

import (
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lockstep/smr"
)

// strict returns a machine that moves entries all the time, and overwrites what they let go.
func strict() *Machine {
	m := New()
	m.leaving.least, m.leaving.spoil = 0, true
	return m
}

// checkKeys reports how the table of the keys of a database, or its storage, breaks its invariants.
func checkKeys(t rapid.TB, table *keyTable) {
	t.Helper()
	size, last := 0, uint64(0)
	for i, chunk := range table.order {
		if len(chunk) == 0 || len(chunk) > chunkNodes {
			t.Fatalf("chunk %d has %d entries", i, len(chunk))
		}
		for _, n := range chunk {
			e := table.storage.entry(n)
			if e.id <= last || e.id > table.lastID {
				t.Fatalf("entry %d follows %d", e.id, last)
			}
			if table.find([]byte(e.key())) != e || table.first(e.id) != e {
				t.Fatalf("entry %q is not found", e.key())
			}
			last = e.id
			size++
		}
		if i > 0 && len(table.order[i-1])+len(chunk) <= chunkNodes/2 && len(table.order) > 1 && i < len(table.order)-1 {
			t.Fatalf("chunks %d and %d should be one: %d and %d entries", i-1, i, len(table.order[i-1]), len(chunk))
		}
	}
	if size != table.size {
		t.Fatalf("size %d: counted %d", table.size, size)
	}
	if table.index != nil {
		checkIndex(t, table.index, size, func(n uint32) string { return table.storage.entry(n).key() })
	}
	if table.storage != nil {
		checkStorage(t, table)
	}
}

// checkStorage reports a place that is lost, that two refer to, or that is in use and free at the same time.
func checkStorage(t rapid.TB, table *keyTable) {
	t.Helper()
	s := table.storage
	places := make(map[leavingPlace]bool)
	note := func(of kind, number, i uint32) {
		p := leavingPlace{s, of, number, i}
		if places[p] {
			t.Fatalf("place %d of slab %d of kind %d is met twice", i, number, of)
		}
		places[p] = true
	}
	for _, p := range table.leaving.places {
		if p.of == s {
			note(p.kind, p.number, p.i)
		}
	}
	text := func(number uint32, offset int) {
		slab := s.texts.slabs[number]
		if offset%int(slab.size) != 0 {
			t.Fatalf("a text begins %d bytes behind the begin of a place of %d", offset%int(slab.size), slab.size)
		}
		note(slab.kind, number, uint32(offset)/slab.size)
	}
	for _, chunk := range table.order {
		for _, n := range chunk {
			e := s.entry(n)
			note(kindEntry, n>>placeBits, n&(maxPlaces-1))
			if number := e.name.Place(); number != 0 {
				text(number, e.name.OffsetIn(s.texts.slabs[number].texts))
			}
			switch v := &e.value; {
			case v.held <= heldOwn && v.box.Place() != 0:
				text(v.box.Place(), v.box.OffsetIn(s.texts.slabs[v.box.Place()].texts))
			case v.held > heldOwn && v.held&heldCold == 0:
				number, i := v.box.Place()>>placeBits, v.box.Place()&(maxPlaces-1)
				note(kindObject, number, i)
				if s.objects.slabs[number].objects[i] != v.object() {
					t.Fatalf("%q refers to another object than its place", e.key())
				}
			}
		}
	}
	used := 0
	for _, p := range []*pool{&s.nodes, &s.texts, &s.objects} {
		used += checkPool(t, p)
	}
	if used != len(places) {
		t.Fatalf("%d places are in use, %d are met", used, len(places))
	}
}

// checkPool returns how many places are in use.
func checkPool(t rapid.TB, p *pool) (used int) {
	t.Helper()
	listed := make(map[uint32]bool)
	for i := range p.shelves {
		before := uint32(0)
		for number := p.shelves[i].first; number != 0; number = p.slabs[number].behind {
			if s := p.slabs[number]; s.before != before || s.kind != p.lowest+kind(i) || listed[number] {
				t.Fatalf("slab %d is in a wrong list", number)
			}
			listed[number] = true
			before = number
		}
	}
	var bytes, waste int64
	empty := make(map[kind]uint32)
	for number, s := range p.slabs {
		if s == nil {
			continue
		}
		free := 0
		for i := s.free; i != 0; i = s.link(i - 1) {
			if free++; i > s.given || free > int(s.given) {
				t.Fatalf("slab %d: the free places lead to %d of %d", number, i, s.given)
			}
		}
		if s.used+uint32(free) != s.given || s.given > s.places || s.listed != (s.used < s.places && !s.clearing) || s.listed != listed[uint32(number)] {
			t.Fatalf("slab %d: %d places in use, %d free, %d given, listed %v", number, s.used, free, s.given, s.listed)
		}
		if s.used == 0 {
			if empty[s.kind] != 0 {
				t.Fatalf("slabs %d and %d are both empty", empty[s.kind], number)
			}
			empty[s.kind] = uint32(number)
		}
		used += int(s.used)
		bytes += int64(s.given * s.size)
		waste += int64((s.given - s.used) * s.size)
	}
	if bytes != p.bytes || waste != p.waste {
		t.Fatalf("%d bytes of %d are free, %d of %d are counted", waste, bytes, p.waste, p.bytes)
	}
	return used
}

// Each length must find a place that is large enough and hardly larger, of a size that another length has, too.
func TestTextsFitTheirPlaces(t *testing.T) {
	t.Parallel()
	before := 0
	for length := 1; length <= largestText; length++ {
		k := kindOfText(length)
		size := textSize(k)
		if k >= kindLargeText || size < length || size > max(length+8, length*9/8) || size < before || textSize(k) == length && length < largestText && kindOfText(length+1) != k+1 {
			t.Fatalf("%d bytes: kind %d of places of %d", length, k, size)
		}
		before = size
	}
	if got := kindOfText(largestText + 1); got != kindLargeText || kindOfText(largestText) != kindLargeText-1 {
		t.Fatalf("the longest have kind %d", got)
	}
}

// model is a database beside a map, with everything that its storage can do.
type model struct {
	t     *testing.T
	m     *Machine
	d     *database
	dice  *rand.Rand
	naive map[string]string // strings; of a list: the letter l and its number
	keys  []string
	stale []stale
}

// stale is what a request met, and what it held then.
type stale struct {
	key, was string
	text     []byte
	held     string
}

func newModel(t *testing.T, seed uint64) *model {
	m := strict()
	return &model{t: t, m: m, d: m.databases[0], dice: rand.New(rand.NewPCG(seed, 1)), naive: make(map[string]string)}
}

// text returns a string of a length that any kind of place may have.
func (w *model) text() string {
	length := w.dice.IntN(40)
	switch w.dice.IntN(20) {
	case 0:
		length = w.dice.IntN(2000)
	case 1:
		length = w.dice.IntN(3 * largestText)
	}
	return strings.Repeat(string(rune('a'+w.dice.IntN(26))), length)
}

// begin begins a request: behind it nothing of the last one may be used.
func (w *model) begin() {
	for _, s := range w.stale {
		if s.key != s.was || string(s.text) != s.held {
			w.t.Fatalf("within a request %q became %q, or its value another one", s.was, s.key)
		}
	}
	w.stale = nil
	w.m.settle()
}

// hold notes an entry that is about to be let go or changed to something of another place.
func (w *model) hold(e *entry) {
	key := e.key()
	s := stale{key: key, was: strings.Clone(key)}
	if isText(e) {
		s.text = e.value.text()
		s.held = string(s.text)
	}
	w.stale = append(w.stale, s)
}

func (w *model) pick() (string, *entry) {
	if len(w.keys) == 0 {
		return "", nil
	}
	key := w.keys[w.dice.IntN(len(w.keys))]
	e := w.d.keys.find([]byte(key))
	if e == nil || e.key() != key {
		w.t.Fatalf("%q is lost", key)
	}
	return key, e
}

func (w *model) insert() {
	key := strconv.Itoa(w.dice.IntN(1 << 40))
	if w.dice.IntN(10) == 0 {
		key += w.text()
	}
	if _, ok := w.naive[key]; ok {
		return
	}
	e := w.d.keys.insert([]byte(key))
	w.keys = append(w.keys, key)
	w.naive[key] = ""
	if w.dice.IntN(4) == 0 {
		w.d.due.add(e, int64(w.dice.IntN(1000)))
	}
	w.change(key, e)
}

func (w *model) change(key string, e *entry) {
	if w.dice.IntN(8) == 0 {
		l := &list{length: w.dice.IntN(1 << 30)}
		w.naive[key] = "l" + strconv.Itoa(l.length)
		w.d.keys.setObject(e, l)
		return
	}
	if isText(e) && w.dice.IntN(3) == 0 {
		by := w.dice.IntN(100)
		w.naive[key] += strings.Repeat("\x00", by)
		w.d.keys.lengthen(e, by, heldRaw)
		return
	}
	text := w.text()
	w.naive[key] = text
	w.d.keys.setText(e, []byte(text), heldText)
}

func (w *model) remove() {
	if key, e := w.pick(); e != nil {
		w.hold(e)
		w.d.due.remove(e)
		w.d.keys.remove(e)
		delete(w.naive, key)
		at := slices.Index(w.keys, key)
		w.keys = slices.Delete(w.keys, at, at+1)
	}
}

func (w *model) check() {
	w.t.Helper()
	checkKeys(w.t, &w.d.keys)
	if w.d.keys.size != len(w.naive) {
		w.t.Fatalf("%d keys, want %d", w.d.keys.size, len(w.naive))
	}
	at := 0
	w.d.keys.each(func(e *entry) bool {
		if e.key() != w.keys[at] {
			w.t.Fatalf("key %d is %q, want %q", at, e.key(), w.keys[at])
		}
		at++
		want, got := w.naive[e.key()], string(e.value.text())
		if l, ok := e.value.object().(*list); ok {
			got = "l" + strconv.Itoa(l.length)
		}
		if got != want {
			w.t.Fatalf("%q holds %.50q, want %.50q", e.key(), got, want)
		}
		if e.value.due != 0 && w.d.due.get(int(e.value.due-1)).entry.Pointer() != e {
			w.t.Fatalf("the expiry of %q is of another entry", e.key())
		}
		return true
	})
}

// What could go wrong: two entries share a place, an entry moves and is not found any more, what a command holds changes before its request ends, a
// place or a slab is lost, or the garbage collector frees what an entry refers to.
func TestStorageAgainstMap(t *testing.T) {
	t.Parallel()
	w := newModel(t, 11)
	moved := 0
	for round, goal := range []int{10, 3000, 200, 2000, 0, 700, 20, 1500} {
		for step := 0; len(w.keys) != goal; step++ {
			w.begin()
			for range w.dice.IntN(6) {
				switch key, e := w.pick(); {
				case w.dice.IntN(3) > 0 && len(w.keys) < goal || len(w.keys) == 0:
					w.insert()
				case len(w.keys) > goal || w.dice.IntN(4) == 0:
					w.remove()
				default:
					w.change(key, e)
				}
				if len(w.keys) == goal {
					break
				}
			}
			if w.d.keys.storage != nil {
				moved += len(w.d.keys.storage.compact.cleared)
			}
			if step%200 == 0 {
				runtime.GC()
				w.check()
			}
		}
		w.check()
		if round == 5 {
			w.m.databases[0].flush(w.m, 1)
			clear(w.naive)
			w.keys, w.stale = nil, nil
			w.check()
		}
	}
	if moved == 0 {
		t.Error("no slab was cleared: the test did not see entries move")
	}
}

// What could go wrong: memory that few keys are left in is never given back; or a request waits until all of it was moved.
func TestStorageGivesMemoryBack(t *testing.T) {
	t.Parallel()
	w := newModel(t, 5)
	for range 20_000 {
		key := strconv.Itoa(w.dice.IntN(1 << 40))
		w.d.keys.setText(w.d.keys.insert([]byte(key)), []byte(strings.Repeat("v", 100)), heldText)
		w.keys, w.naive[key] = append(w.keys, key), strings.Repeat("v", 100)
	}
	full := w.d.keys.storage.bytes()
	for len(w.keys) > 2000 {
		w.begin()
		w.remove()
	}
	for range 10_000 { // of requests that free nothing
		w.begin()
	}
	w.check()
	s := w.d.keys.storage
	if s.wasteful() || s.bytes() > full/10*4/3+full/100 {
		t.Errorf("2000 keys of 20000 take %d bytes, %d of them free; all took %d", s.bytes(), s.waste(), full)
	}
	w.m.databases[0].flush(w.m, 1)
	if w.d.keys.storage != nil {
		t.Error("a database without keys has a storage")
	}
}

// One request may look at so many entries and no more, whatever there is to move.
func TestCompactionIsBounded(t *testing.T) {
	t.Parallel()
	w := newModel(t, 6)
	for i := range 20_000 {
		w.d.keys.insert([]byte(strconv.Itoa(i)))
	}
	for i := range 20_000 {
		if i%4 > 0 {
			w.d.keys.remove(w.d.keys.findText(strconv.Itoa(i)))
		}
	}
	w.m.leaving.release()
	w.m.leaving.wasteful = true
	for range 5 {
		before := w.d.keys.storage.compact.next
		w.m.settle()
		if passed := w.d.keys.storage.compact.next - before; passed == 0 || passed > 4*compactEach+4 {
			t.Fatalf("a request that freed nothing passed %d ids, one in four of them of an entry", passed)
		}
	}
}

// The garbage collector looks into whatever has a pointer in it: then a million keys would be three million objects to mark.
func TestEntriesHaveNoPointers(t *testing.T) {
	t.Parallel()
	for _, shape := range []reflect.Type{reflect.TypeFor[entry](), reflect.TypeFor[due]()} {
		var look func(part reflect.Type)
		look = func(part reflect.Type) {
			switch kind := part.Kind(); {
			case kind == reflect.Struct:
				for i := range part.NumField() {
					look(part.Field(i).Type)
				}
			case kind == reflect.Array:
				look(part.Elem())
			case kind > reflect.Complex128:
				t.Errorf("%v has a %v in it", shape, part)
			}
		}
		look(shape)
	}
	if size := reflect.TypeFor[entry]().Size(); size != entryBytes {
		t.Errorf("an entry takes %d bytes, %d are counted", size, entryBytes)
	}
}

// Who still uses an entry, a key or a string behind its request must be found out by the tests.
func TestStaleEntriesAreSpoilt(t *testing.T) {
	t.Parallel()
	m := strict()
	d := m.databases[0]
	d.keys.insert([]byte("stays"))
	e := d.keys.insert([]byte("key"))
	d.keys.setText(e, []byte("a text"), heldText)
	text := e.value.text()
	d.keys.remove(e)
	if e.key() != "key" || string(text) != "a text" || string(e.value.text()) != "a text" {
		t.Fatalf("within the request %q holds %q", e.key(), text)
	}
	m.settle()
	if string(text) == "a text" {
		t.Error("the string is still there")
	}
	for name, use := range map[string]func() bool{
		"the key":   func() bool { return e.key() == "key" },
		"the value": func() bool { return e.value.text() != nil },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s could be used", name)
				}
			}()
			use()
		}()
	}
}

// In steady state keys that are changed, and others that come and go, take no memory of Go's.
func TestKeysTakeNoMemoryInSteadyState(t *testing.T) {
	m := New()
	m.leaving.least = 1 << 20 // also with the race detector
	request := smr.Request{Session: 1, Slot: smr.NoSlot}
	at := Instant{LSN: 1, Stamp: 1}
	var payloads [][]byte
	for i := range 1000 {
		key := strconv.Itoa(i)
		payloads = append(payloads, AppendCommand(nil, bytesOf([]string{"set", key, strings.Repeat("v", i)})),
			AppendCommand(nil, bytesOf([]string{"set", key, strings.Repeat("w", i)})), AppendCommand(nil, bytesOf([]string{"del", strconv.Itoa((i + 500) % 1000)})))
	}
	all := func() {
		for _, payload := range payloads {
			request.Sequence++
			request.Payload = payload
			at.LSN += 2000
			m.Apply(at, request, nil)
			m.Advance(at.Stamp, at.LSN+2000)
		}
	}
	all()
	all()
	if n := testing.AllocsPerRun(5, all); n > 100 { // slabs that go and come
		t.Errorf("%v allocations in %d commands", n, len(payloads))
	}
}

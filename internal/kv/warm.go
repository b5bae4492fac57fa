package kv

import "lockstep/internal/keyhash"

// WarmKeys is for how many keys a Warmth fetches memory together: more than a processor can have on their way at once.
const WarmKeys = 64

// LeastWarm is for how many keys it is worth it.
const LeastWarm = 4

// Warmth has the processor's caches fetch the memory of keys that will be looked up soon. Whoever looks up one key after the other waits up to five
// times for each, as keys lie anywhere: for a segment of the index, its slot, the entry, the text of the key and that of the value. Warmth takes each
// of these steps for all keys before the next step, so that the waits of a step overlap.
//
// It changes nothing, and nothing depends on which keys it was given. It belongs to one goroutine; while it is in use, nobody may change the machine.
// The zero value is ready for use.
type Warmth struct {
	count  int
	tables [WarmKeys]*keyTable
	hashes [WarmKeys]uint32 // upper halves
	nodes  [WarmKeys]uint32
	read   uint64 // sum of what was fetched: without a use the compiler would leave the reading out
}

// Request adds a key of a payload: the first argument of its command, which is a key for nearly all commands.
func (w *Warmth) Request(m *Machine, payload []byte) {
	r := payloadReader{rest: payload}
	format, envelope := r.format()
	if format != formatCommand && format != formatRecord || r.count("arguments", 1) < 2 {
		return
	}
	r.bytes() // the command's name
	if key := r.bytes(); r.err == nil {
		w.Key(m, envelope.Database, key)
	}
}

// Key adds a key of a database, unless there are WarmKeys already.
func (w *Warmth) Key(m *Machine, database int, key []byte) {
	t := &m.databases[database].keys
	if t.index == nil || w.count == WarmKeys {
		return
	}
	w.tables[w.count], w.hashes[w.count] = t, uint32(keyhash.Bytes(key)>>32)
	w.count++
}

// Fetch fetches what belongs to the keys that were added, and forgets them.
func (w *Warmth) Fetch() {
	count := w.count
	if w.count = 0; count < LeastWarm {
		return
	}
	read := uint64(0)
	for i, upper := range w.hashes[:count] { // without a branch that depends on what is read: the processor would wait for it
		s := w.tables[i].index.segmentOf(upper)
		slot := s.first(upper)
		read += uint64(s.hashes[slot]) + uint64(s.nodes[slot])
	}
	for i, upper := range w.hashes[:count] {
		w.nodes[i] = w.tables[i].index.likely(upper)
	}
	for i, n := range w.nodes[:count] {
		if n != 0 {
			read += w.tables[i].storage.entry(n).id
		}
	}
	for i, n := range w.nodes[:count] {
		if n == 0 {
			continue
		}
		e := w.tables[i].storage.entry(n)
		read += firstByte(e.name.Text())
		if e.value.held <= heldOwn {
			read += firstByte(e.value.box.Text())
		}
	}
	w.read += read
}

func firstByte(text string) uint64 {
	if text == "" {
		return 0
	}
	return uint64(text[0])
}

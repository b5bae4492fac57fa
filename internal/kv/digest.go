package kv

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math"

	"lockstep/smr"
)

// digester hashes the state piece by piece. Every piece carries its length, so that no two states have the same bytes.
type digester struct {
	hash   hash.Hash
	buffer []byte
}

func (d *digester) number(n uint64) {
	d.buffer = binary.LittleEndian.AppendUint64(d.buffer, n)
	d.maybeFlush()
}

func (d *digester) float(f float64) { d.number(math.Float64bits(f)) }

func (d *digester) text(s string) {
	d.buffer = binary.LittleEndian.AppendUint64(d.buffer, uint64(len(s)))
	d.buffer = append(d.buffer, s...)
	d.maybeFlush()
}

func (d *digester) bytes(b []byte) {
	d.buffer = binary.LittleEndian.AppendUint64(d.buffer, uint64(len(b)))
	d.buffer = append(d.buffer, b...)
	d.maybeFlush()
}

func (d *digester) maybeFlush() {
	if len(d.buffer) > 16<<10 {
		d.flush()
	}
}

func (d *digester) flush() {
	d.hash.Write(d.buffer)
	d.buffer = d.buffer[:0]
}

// Digest hashes everything that decides future states and replies: log time, Applied, sessions, every key with
// its place in the order, version, expiry and content, and the versions of removals. Two machines that applied the
// same log up to the same LSN have the same digest. It takes time in proportion to the state.
func (m *Machine) Digest() [32]byte {
	d := digester{hash: sha256.New()}
	d.number(uint64(m.now))
	d.number(uint64(m.applied))
	d.bytes(m.sessions.Append(nil))
	m.set.digest(&d)
	d.users(m.Users())
	m.lua.digest(&d)
	d.number(uint64(m.used))
	m.digestWaiters(&d)
	for _, database := range &m.databases {
		database.digest(m, &d)
	}
	d.flush()
	return [32]byte(d.hash.Sum(nil))
}

func (b *database) digest(m *Machine, d *digester) {
	d.number(uint64(b.flushed))
	d.number(uint64(b.swapped))
	b.deleted.each(func(slot uint16, version smr.LSN) {
		d.number(uint64(slot))
		d.number(uint64(version))
	})
	d.number(math.MaxUint64)
	d.number(b.keys.lastID)
	d.number(uint64(b.keys.size))
	b.keys.each(func(e *entry) bool {
		d.number(e.id)
		d.text(e.key())
		b.digestEntry(m, d, e)
		return true
	})
}

func (d *digester) flag(truth bool) {
	n := uint64(0)
	if truth {
		n = 1
	}
	d.number(n)
}

func (b *database) digestEntry(m *Machine, d *digester, e *entry) {
	d.number(uint64(e.value.version))
	d.number(uint64(e.value.size()))
	if e.value.held&heldCold != 0 {
		e = m.valueOf(b, e)
	}
	d.number(uint64(e.value.used) | uint64(e.value.uses)<<32 | uint64(e.value.held)<<40)
	if e.value.due != 0 {
		d.number(uint64(b.due.at(e)))
	} else {
		d.number(math.MaxUint64)
	}
	d.text(kindOf(e))
	if o := e.value.object(); o != nil {
		o.digest(d)
	} else {
		d.bytes(e.value.text())
	}
}

// Stats describes the keyspace.
type Stats struct {
	Keys      int // of all databases
	Expires   int // keys that have an expiry
	Databases [Databases]DatabaseStats
	Sessions  int
	// Memory is the estimate of the bytes that the keys take: what maxmemory is compared with.
	Memory int64
	// Expired counts the keys that were taken out because their time had come, Evicted those taken out for want of memory,
	// since the machine began.
	Expired int64
	Evicted int64
	Waiters int // commands that wait for a key
	// WaitedKeys are the keys that they wait for, WaitedEvenGone those of them that serve somebody by vanishing, too.
	WaitedKeys, WaitedEvenGone int
	Now                        int64
	Applied                    smr.LSN
}

// DatabaseStats describes one database.
type DatabaseStats struct{ Keys, Expires int }

// Stats returns figures about the state.
func (m *Machine) Stats() Stats {
	s := Stats{
		Sessions: m.sessions.Len(), Memory: m.used, Expired: m.expired, Evicted: m.evicted, Waiters: m.waiters.size, WaitedKeys: len(m.waiting), WaitedEvenGone: m.waitedEvenGone(),
		Now: m.now, Applied: m.applied,
	}
	for i, d := range &m.databases {
		s.Databases[i] = DatabaseStats{Keys: d.keys.size, Expires: d.due.size}
		s.Keys += d.keys.size
		s.Expires += d.due.size
	}
	return s
}

// Overheads of the estimates, in bytes. They are the same on every node, whatever its storage takes.
const (
	nodeOverhead = 26 // index slot and place in the order
	entryBytes   = 64
	dueBytes     = 18
)

func entrySize(e *entry) int {
	n := nodeOverhead + entryBytes + e.name.Len() + len(e.value.text())
	if e.value.due != 0 {
		n += dueBytes
	}
	if o := e.value.object(); o != nil {
		n += o.size()
	}
	return n
}

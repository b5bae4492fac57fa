package kv

import (
	"encoding/binary"
	"strings"

	"lockstep/internal/acl"
	"lockstep/internal/script"
	"lockstep/smr"
)

// appendHeads appends the rows of everything but keys. Users are left out if they are as in the image before.
func (m *Machine) appendHeads(rows *ImageRows) {
	row := func(part byte, fill func(b []byte) []byte) {
		head := rows.begin(RowPut, rowKey{space: spaceMachine, part: part})
		rows.data = fill(rows.data)
		rows.end(head)
	}
	row(rowMachine, m.appendMachine)
	row(rowSessions, m.sessions.Append)
	row(rowSettings, m.set.appendRow)
	row(rowScripts, m.lua.appendRow)
	row(rowWaiters, m.appendWaiters)
	if users := m.Users(); users != m.image.users { // sets of users do not change
		m.image.users = users
		row(rowUsers, func(b []byte) []byte { return appendUsers(b, users) })
	}
	for _, d := range &m.databases {
		row(rowDatabases+d.tag, d.appendRow)
	}
}

// appendMachine appends the row rowMachine:
//
//	varint log time, uvarint Applied, varint lease time, uvarint last number of a waiter, uvarint count of leases, each: uvarint session,
//	uvarint length of the node's name, name, varint when it was seen; uvarint lineage
func (m *Machine) appendMachine(b []byte) []byte {
	b = binary.AppendVarint(b, m.now)
	b = binary.AppendUvarint(b, uint64(m.applied))
	b = binary.AppendVarint(b, m.leaseTime)
	b = binary.AppendUvarint(b, m.waiters.lastID)
	b = binary.AppendUvarint(b, uint64(len(m.leases)))
	for _, l := range m.leases {
		b = binary.AppendUvarint(b, uint64(l.session))
		b = appendRowText(b, l.node)
		b = binary.AppendVarint(b, l.seen)
	}
	return binary.AppendUvarint(b, uint64(m.image.lineage))
}

func (r *rowReader) machine(m *Machine) {
	m.now = r.int()
	m.applied = smr.LSN(r.uint())
	m.leaseTime = r.int()
	m.waiters.lastID = r.uint()
	for range r.count(3) {
		m.leases = append(m.leases, lease{session: smr.SessionID(r.uint()), node: string(r.text()), seen: r.int()})
	}
	m.image.lineage = uint32(r.uint())
}

// appendRow appends the settings that were set: each uvarint length, name, uvarint length, value.
func (s *settings) appendRow(b []byte) []byte {
	for _, v := range s.values {
		b = appendRowText(appendRowText(b, v.name), v.value)
	}
	return b
}

func (r *rowReader) settings(m *Machine) {
	for len(r.rest) > 0 {
		name, value := string(r.text()), string(r.text())
		if r.err != nil || findRule(name) == nil {
			r.fail()
			return
		}
		m.changeSetting(name, value)
	}
}

// appendUsers appends users: each uvarint length, name, uvarint length, its rules.
func appendUsers(b []byte, users *acl.Users) []byte {
	for _, u := range users.All() {
		b = appendRowText(appendRowText(b, u.Name()), u.Describe())
	}
	return b
}

func (r *rowReader) users() *acl.Users {
	users := firstUsers
	for len(r.rest) > 0 {
		name, rules := string(r.text()), string(r.text())
		if r.err != nil {
			return users
		}
		changed, err := users.With(name, append([]string{"reset"}, strings.Fields(rules)...))
		if err != nil {
			r.fail()
			return users
		}
		users = changed
	}
	return users
}

// appendRow appends the scripts: those loaded, those evaluated, the libraries; each uvarint count, then the sources with their
// lengths, in their order; scripts have their sum before them.
func (l *luaState) appendRow(b []byte) []byte {
	for _, scripts := range []*table[string]{&l.loaded, &l.evaluated} {
		b = binary.AppendUvarint(b, uint64(scripts.size))
		scripts.each(func(s *node[string]) bool {
			b = appendRowText(appendRowText(b, s.key), s.value)
			return true
		})
	}
	b = binary.AppendUvarint(b, uint64(len(l.libraries)))
	for _, lib := range l.libraries {
		b = appendRowText(b, lib.Source)
	}
	return b
}

func (r *rowReader) scripts(m *Machine) {
	l := &m.lua
	for _, scripts := range []*table[string]{&l.loaded, &l.evaluated} {
		for range r.count(2) {
			sum, source := string(r.text()), string(r.text())
			if r.err != nil || scripts.findText(sum) != nil {
				r.fail()
				return
			}
			scripts.insert(sum, source)
			l.bytes += storedBytes(source)
		}
	}
	var libraries []*script.Library
	c := call{m: m, writing: true}
	for range r.count(1) {
		with, _, problem := c.withLibrary(libraries, string(r.text()), false)
		if problem != "" {
			r.fail()
			return
		}
		libraries = with
	}
	l.setLibraries(libraries)
}

// appendWaiters appends who waits: each uvarint number, session, sequence, database, flags (bit 0 no-touch, bit 1 evenGone), texts: user, kind;
// uvarint counts of keys and of arguments, with the texts behind each.
func (m *Machine) appendWaiters(b []byte) []byte {
	m.waiters.each(func(n *node[waiter]) bool {
		w := &n.value
		b = binary.AppendUvarint(b, n.id)
		b = binary.AppendUvarint(b, uint64(w.session))
		b = binary.AppendUvarint(b, w.sequence)
		b = binary.AppendUvarint(b, uint64(w.envelope.Database))
		b = appendRowFlag(b, w.envelope.NoTouch)
		b = appendRowFlag(b, w.evenGone)
		b = appendRowText(appendRowText(b, w.envelope.User), w.kind)
		b = binary.AppendUvarint(b, uint64(len(w.keys)))
		for _, key := range w.keys {
			b = appendRowText(b, key)
		}
		b = binary.AppendUvarint(b, uint64(len(w.args)))
		for _, arg := range w.args {
			b = appendRowText(b, arg)
		}
		return true
	})
	return b
}

// waiters reads those who wait. The leases must be there.
func (r *rowReader) waiters(m *Machine) {
	last := m.waiters.lastID
	for len(r.rest) > 0 {
		id := r.uint()
		w := waiter{session: smr.SessionID(r.uint()), sequence: r.uint()}
		database := r.uint()
		w.envelope.NoTouch, w.evenGone = r.byte() == 1, r.byte() == 1
		w.envelope.User, w.kind = string(r.text()), string(r.text())
		for range r.count(1) {
			w.keys = append(w.keys, string(r.text()))
		}
		for range r.count(1) {
			w.args = append(w.args, append([]byte{}, r.text()...))
		}
		name := waiterName(w.session, w.sequence)
		i, leased := m.findLease(w.session)
		if r.err != nil || database >= Databases || !leased || id == 0 || id > last || m.waiters.findText(name) != nil || len(w.args) == 0 {
			r.fail()
			return
		}
		w.envelope.Database = int(database)
		m.waiters.lastID = id - 1
		m.addWaiter(m.waiters.insert(name, w))
		m.leases[i].waiters++
	}
	m.waiters.lastID = last
}

// appendRow appends the row rowDatabases:
//
//	uvarint number as clients know it, uvarint version of the last flush, uvarint version of the last SWAPDB, uvarint count of slots with
//	a removal, each: uvarint difference to the slot before, uvarint version; shape of the keys (appendTableShape)
func (d *database) appendRow(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(d.number))
	b = binary.AppendUvarint(b, uint64(d.flushed))
	b = binary.AppendUvarint(b, uint64(d.swapped))
	slots := uint64(0)
	d.deleted.each(func(uint16, smr.LSN) { slots++ })
	b = binary.AppendUvarint(b, slots)
	before := uint16(0)
	d.deleted.each(func(slot uint16, version smr.LSN) {
		b = binary.AppendUvarint(b, uint64(slot-before))
		b = binary.AppendUvarint(b, uint64(version))
		before = slot
	})
	return appendOrder(b, d.keys.lastID, d.keys.size, d.keys.order)
}

func (r *rowReader) database(d *database) tableShape {
	d.number = int(r.uint())
	d.flushed, d.swapped = smr.LSN(r.uint()), smr.LSN(r.uint())
	slot := uint64(0)
	for range r.count(2) {
		slot += r.uint()
		version := smr.LSN(r.uint())
		if slot >= smr.Slots {
			r.fail()
			break
		}
		if d.deleted == nil {
			d.deleted = &removals{}
		}
		d.deleted.note(uint16(slot), version)
	}
	return r.tableShape()
}

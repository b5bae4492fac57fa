package smr

import (
	"encoding/binary"
	"fmt"
	"sort"
)

// MaxSessions bounds a SessionTable. Each start of a KV node takes one entry; the one that was executed from
// longest ago goes first, so a living session is lost only after this many others were active since.
const MaxSessions = 1 << 16

// SessionTable remembers the last sequence executed for each session: the duplicate check of rule S13. It is
// part of the state of every state machine, of its digest and of every checkpoint. Not safe for concurrent use.
type SessionTable struct {
	entries map[SessionID]sessionEntry
}

type sessionEntry struct {
	sequence uint64
	last     LSN // LSN of the frame that held it, for eviction
}

// Admission is the verdict of SessionTable.Admit.
type Admission uint8

const (
	// Execute: the request is the next of its session.
	Execute Admission = iota
	// Duplicate: it was executed before.
	Duplicate
	// OutOfOrder: a request before it is missing, or its session is unknown and it is not the first. It must
	// not be executed; the session resends it in order, or its owner finds its session gone.
	OutOfOrder
)

// Admit judges the request (session, sequence) found in the frame at lsn and records it if the verdict is
// Execute. Every replica calls it for every request in log order and therefore gets the same verdicts.
func (t *SessionTable) Admit(session SessionID, sequence uint64, lsn LSN) Admission {
	entry := t.entries[session]
	switch {
	case sequence <= entry.sequence:
		return Duplicate
	case sequence != entry.sequence+1:
		return OutOfOrder
	}
	if t.entries == nil {
		t.entries = make(map[SessionID]sessionEntry)
	}
	if entry.sequence == 0 && len(t.entries) >= MaxSessions {
		t.evict()
	}
	t.entries[session] = sessionEntry{sequence: sequence, last: lsn}
	return Execute
}

// Last returns the last sequence executed for session, 0 if it is unknown.
func (t *SessionTable) Last(session SessionID) uint64 { return t.entries[session].sequence }

// Len returns the number of sessions.
func (t *SessionTable) Len() int { return len(t.entries) }

// evict drops the session that was executed from longest ago; of several in one frame the smallest id.
func (t *SessionTable) evict() {
	var victim SessionID
	var oldest LSN
	for id, entry := range t.entries { // minimum of a total order: the order of visits does not matter
		if victim == 0 || entry.last < oldest || entry.last == oldest && id < victim {
			victim, oldest = id, entry.last
		}
	}
	delete(t.entries, victim)
}

// Append appends the table sorted by session: 4 bytes count, then session, sequence, last LSN, 8 bytes each,
// little endian.
func (t *SessionTable) Append(b []byte) []byte {
	ids := make([]SessionID, 0, len(t.entries))
	for id := range t.entries { // sorted below
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	b = binary.LittleEndian.AppendUint32(b, uint32(len(ids)))
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint64(b, uint64(id))
		b = binary.LittleEndian.AppendUint64(b, t.entries[id].sequence)
		b = binary.LittleEndian.AppendUint64(b, uint64(t.entries[id].last))
	}
	return b
}

// DecodeSessionTable reads what Append wrote and returns the bytes that follow.
func DecodeSessionTable(b []byte) (SessionTable, []byte, error) {
	if len(b) < 4 {
		return SessionTable{}, nil, fmt.Errorf("session table of %d bytes is too short", len(b))
	}
	count := int(binary.LittleEndian.Uint32(b))
	b = b[4:]
	if count > MaxSessions || len(b) < 24*count {
		return SessionTable{}, nil, fmt.Errorf("session table of %d entries in %d bytes", count, len(b))
	}
	t := SessionTable{entries: make(map[SessionID]sessionEntry, count)}
	for range count {
		t.entries[SessionID(binary.LittleEndian.Uint64(b))] = sessionEntry{
			sequence: binary.LittleEndian.Uint64(b[8:]),
			last:     LSN(binary.LittleEndian.Uint64(b[16:])),
		}
		b = b[24:]
	}
	return t, b, nil
}

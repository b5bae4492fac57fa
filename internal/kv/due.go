package kv

// Questions of the shell about expiry. Like Read, they may be asked by several goroutines while nothing is applied.

// EarliestDue returns the earliest expiry of all keys in milliseconds since 1970 UTC, 0 if no key expires.
func (m *Machine) EarliestDue() int64 {
	earliest := int64(0)
	for _, d := range &m.databases {
		if first := d.due.first(); first != nil && (earliest == 0 || first.at < earliest) {
			earliest = first.at
		}
	}
	return earliest
}

// NextDue returns the earliest expiry above log time among the keys that a reading command touches, 0 if there is
// none. For a command whose keys are not known from its arguments (KEYS, SCAN, DBSIZE ...) every key counts, and the
// answer may be too early. args must have passed CheckArity.
func (m *Machine) NextDue(database int, command *Command, args [][]byte) int64 {
	d := m.databases[database]
	if command.Flags&Readonly == 0 {
		return 0
	}
	var room [16][]byte
	keys, ok := command.Keys(args, room[:0])
	if !ok || len(keys) == 0 {
		if first := d.due.first(); first != nil {
			return max(first.at, m.now+1) // what has expired by log time may hide the next one
		}
		return 0
	}
	earliest := int64(0)
	for _, key := range keys {
		e := d.keys.find(key)
		if e == nil || e.value.due == 0 || d.due.at(e) <= m.now {
			continue
		}
		if at := d.due.at(e); earliest == 0 || at < earliest {
			earliest = at
		}
	}
	return earliest
}

// CountKeys returns how many of the keys that a command touches are there, and how many are not.
func (m *Machine) CountKeys(database int, command *Command, args [][]byte) (present, absent int) {
	var room [16][]byte
	keys, ok := command.Keys(args, room[:0])
	if !ok {
		return 0, 0
	}
	d := m.databases[database]
	for _, key := range keys {
		if e := d.keys.find(key); e != nil && m.visible(d, e) {
			present++
		} else {
			absent++
		}
	}
	return present, absent
}

// KeySize estimates the bytes that a key and its value take; false if the key is not there.
func (m *Machine) KeySize(database int, key []byte) (size int, ok bool) {
	d := m.databases[database]
	e := d.keys.find(key)
	if e == nil || !m.visible(d, e) {
		return 0, false
	}
	return int(e.value.size()), true
}

// Glob reports whether text matches a pattern of KEYS.
func Glob(pattern, text string) bool { return globMatch(pattern, text) }

package kv

import (
	"lockstep/internal/acl"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// EventClass is a class of keyspace events: a letter of notify-keyspace-events.
type EventClass uint16

// The classes of events, and the two kinds of channel they are published on.
const (
	EventKeyspace EventClass = 1 << iota // K: __keyspace@<db>__ is wanted
	EventKeyevent                        // E: __keyevent@<db>__ is wanted
	EventGeneric                         // g: DEL, EXPIRE, RENAME ...
	EventString                          // $
	EventList                            // l
	EventSet                             // s
	EventHash                            // h
	EventZset                            // z
	EventExpired                         // x
	EventEvicted                         // e
	EventStream                          // t
	EventKeyMiss                         // m
	EventModule                          // d
	EventNew                             // n

	// EventAll is what A stands for: every class but m and n.
	EventAll = EventGeneric | EventString | EventList | EventSet | EventHash | EventZset | EventExpired | EventEvicted |
		EventStream | EventModule
)

// eventLetters are the letters of the classes, in the order of the constants.
const eventLetters = "KEg$lshzxetmdn"

// ParseEvents reads a value of notify-keyspace-events; false if a letter is unknown.
func ParseEvents(letters string) (classes EventClass, ok bool) {
	for i := range len(letters) {
		if letters[i] == 'A' {
			classes |= EventAll
			continue
		}
		class := EventClass(0)
		for j := range len(eventLetters) {
			if eventLetters[j] == letters[i] {
				class = 1 << j
			}
		}
		if class == 0 {
			return 0, false
		}
		classes |= class
	}
	return classes, true
}

// String returns the letters as CONFIG GET notify-keyspace-events shows them.
func (classes EventClass) String() string {
	var letters []byte
	if classes&EventAll == EventAll {
		letters = append(letters, 'A')
		classes &^= EventAll
	}
	for _, letter := range []byte("g$lshzxetdKEmn") { // Redis' order
		if class, _ := ParseEvents(string(letter)); classes&class != 0 {
			letters = append(letters, letter)
		}
	}
	return string(letters)
}

// Host is the node around a machine: it is told what concerns its own clients. All of its methods are called from
// Apply or Advance, on the goroutine that runs them, and must neither block nor call the machine. Nothing that they
// return may enter the state: other nodes' hosts answer otherwise.
type Host interface {
	// Published delivers a message of PUBLISH (or SPUBLISH, if sharded) to the clients of this node and returns how many
	// got it. channel and message may not be kept.
	Published(channel, message []byte, sharded bool) (receivers int)
	// Changed says that a key was created, changed or removed. It may come several times for one command. The key may not be kept.
	Changed(database int, key string)
	// Flushed says that all keys of a database were removed, or exchanged for others (SWAPDB).
	Flushed(database int)
	// Event is a keyspace event of a class that notify-keyspace-events selects. Those of EventKeyMiss also come from ReadIn, on
	// the goroutine of whoever reads: several at a time. The key may not be kept.
	Event(database int, class EventClass, event, key string)
	// Served returns where to write the reply of a waiting command that is about to be executed again, or ends otherwise;
	// nil if no client of this node waits for it.
	Served(session smr.SessionID, sequence uint64) *resp.Reply
	// ServedEnd says that what Served returned holds the whole reply now; or, if again, that the command goes on waiting.
	ServedEnd(session smr.SessionID, sequence uint64, again bool)
	// UsersChanged says that users were created, changed or removed. The set may be kept.
	UsersChanged(users *acl.Users)
}

// SetHost makes the machine tell h what happens; nil: nobody. It is called before the first Apply.
func (m *Machine) SetHost(h Host) { m.host = h }

// notify tells of a change of a key that has happened, if notify-keyspace-events selects the class.
func (c call) notify(class EventClass, event string, key []byte) {
	if c.m.set.events&class != 0 {
		c.m.event(c.db.number, class, event, string(key))
	}
}

// misses tells of the keys that the command, which is about to be executed, reads and does not find.
func (c call) misses(command *Command) {
	if c.m.host == nil || command.Name == "object" || c.writing && c.m.serving != nil {
		return
	}
	reads := command.Name == "getdel" || command.Name == "getex" || command.Name == "getset"
	uses, ok := KeyUses(FullName(c.args), c.args, nil)
	if !ok {
		return
	}
	for _, use := range uses {
		if use.Access&acl.Write != 0 && !reads {
			continue
		}
		if e := c.db.keys.find(use.Key); e == nil || !c.m.visible(c.db, e) {
			c.m.event(c.db.number, EventKeyMiss, "keymiss", string(use.Key))
		}
	}
}

// event tells the host of a keyspace event.
func (m *Machine) event(database int, class EventClass, event, key string) {
	if m.set.events&class != 0 && m.host != nil {
		m.host.Event(database, class, event, key)
	}
}

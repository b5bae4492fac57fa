package kv

import (
	"encoding/binary"
	"slices"
	"strings"

	"lockstep/smr"
)

const (
	// leaseLimit is how long a session may show no sign while commands of it wait, in milliseconds of lease time.
	leaseLimit = 15_000
	// leaseStep bounds how much one frame adds to lease time, in milliseconds: a group that could not commit for a minute
	// has lost no sign of anybody.
	leaseStep = 1_000
)

const (
	errUnblocked = "UNBLOCKED client unblocked via CLIENT UNBLOCK"
	errLeaseOver = "UNBLOCKED force unblock from blocking operation, instance state changed (the group heard nothing of this node for 15 seconds)"
)

// waiter is a command that waits for a key: BLPOP and the like. It is plain data of the state.
type waiter struct {
	session  smr.SessionID
	sequence uint64
	envelope Envelope
	kind     string // of value that it waits for: "list", "zset", "stream"
	keys     []string
	evenGone bool // a key that vanishes serves it, too
	args     [][]byte
}

// waitKey is a key that somebody waits for.
type waitKey struct {
	database int
	key      string
}

// waitList holds those who wait for one key, in the order in which they came.
type waitList struct {
	waiters table[*node[waiter]]
	ready   bool // in Machine.ready
}

// lease is the claim of a session to its waiters.
type lease struct {
	session smr.SessionID
	node    string // who the session said it is; empty: not yet
	seen    int64  // lease time of its last request
	waiters int
}

// blocking says what a command waits for.
type blocking struct {
	kind string // of value, as TYPE names it
	keys [][]byte
	// timeout is in milliseconds, 0: for ever. The node that the client is connected to keeps it.
	timeout int64
	// evenGone: the command is also executed again when a key vanishes (XREADGROUP).
	evenGone bool
	// args are executed in place of the call's (XREAD with "$"); nil: those of the call.
	args [][]byte
}

// block makes the command wait until one of the keys has a value of the kind; it is then executed again, as if it had
// arrived at that moment. It reports false where nothing may wait (in transactions and scripts): the command then
// replies that it found nothing. When it reports true the command has replied nothing, and returns.
func (c call) block(b blocking) bool {
	if !c.writing || c.selected != nil {
		return false
	}
	m := c.m
	if m.serving != nil { // still nothing for it: it keeps its place
		m.waitsAgain = true
		return true
	}
	args := b.args
	if args == nil {
		args = c.args
	}
	w := waiter{
		session: m.session, sequence: m.sequence, envelope: c.envelope(), kind: b.kind, evenGone: b.evenGone,
		args: cloneArgs(args),
	}
	for _, key := range b.keys {
		if !slices.Contains(w.keys, string(key)) {
			w.keys = append(w.keys, string(key))
		}
	}
	m.addWaiter(m.waiters.insert(waiterName(w.session, w.sequence), w))
	m.leaseOf(w.session).waiters++
	m.blocked, m.blockedFor = true, b.timeout
	return true
}

// addWaiter puts a waiter into the lists of its keys.
func (m *Machine) addWaiter(n *node[waiter]) {
	for _, key := range n.value.keys {
		at := waitKey{n.value.envelope.Database, key}
		l := m.waiting[at]
		if l == nil {
			l = new(waitList)
			if m.waiting == nil {
				m.waiting = make(map[waitKey]*waitList)
			}
			m.waiting[at] = l
		}
		l.waiters.insert(n.key, n)
	}
}

// waitedEvenGone counts the keys that somebody waits for who is served when they vanish, too.
func (m *Machine) waitedEvenGone() int {
	keys := make(map[waitKey]bool)
	m.waiters.each(func(n *node[waiter]) bool {
		for _, key := range n.value.keys {
			if n.value.evenGone {
				keys[waitKey{n.value.envelope.Database, key}] = true
			}
		}
		return true
	})
	return len(keys)
}

func cloneArgs(args [][]byte) [][]byte {
	kept := make([][]byte, len(args))
	for i, arg := range args {
		kept[i] = append([]byte{}, arg...)
	}
	return kept
}

// waiterName is the key of a waiter in Machine.waiters.
func waiterName(session smr.SessionID, sequence uint64) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(session))
	binary.BigEndian.PutUint64(b[8:], sequence)
	return string(b[:])
}

// Blocked reports whether the request that Apply has just executed waits now, and for how long it wants to, in
// milliseconds; 0 is for ever. Its reply comes through Host.Served.
func (m *Machine) Blocked() (timeout int64, blocked bool) { return m.blockedFor, m.blocked }

// Waits reports whether a request of a session waits.
func (m *Machine) Waits(session smr.SessionID, sequence uint64) bool {
	return m.waiters.findText(waiterName(session, sequence)) != nil
}

// Waiters returns how many commands of a session wait.
func (m *Machine) Waiters(session smr.SessionID) int {
	if i, found := m.findLease(session); found {
		return m.leases[i].waiters
	}
	return 0
}

// Waiting returns the requests of a session that wait, in the order in which they came.
func (m *Machine) Waiting(session smr.SessionID) (sequences []uint64) {
	m.waiters.each(func(n *node[waiter]) bool {
		if n.value.session == session {
			sequences = append(sequences, n.value.sequence)
		}
		return true
	})
	return sequences
}

// AllWaiters returns how many commands of all sessions wait.
func (m *Machine) AllWaiters() int { return m.waiters.size }

// ready says that a key may now serve those who wait for it, once the command, transaction or script has ended. Keys that
// come into being or get another kind of value say so by themselves.
func (c call) ready(key []byte) {
	if c.m.waiters.size > 0 {
		c.m.markReady(c.db.number, string(key))
	}
}

func (m *Machine) markReady(database int, key string) {
	at := waitKey{database, key}
	if l := m.waiting[at]; l != nil && !l.ready {
		l.ready, at.key = true, strings.Clone(key)
		m.ready = append(m.ready, at)
	}
}

// markAllReady marks every key of a database that somebody waits for, in the order in which they came.
func (m *Machine) markAllReady(database int) {
	m.waiters.each(func(n *node[waiter]) bool {
		if n.value.envelope.Database == database {
			for _, key := range n.value.keys {
				m.markReady(database, key)
			}
		}
		return true
	})
}

// serve executes the commands that wait for keys that became ready. Keys are taken in the order in which they became
// ready, those who wait for one in the order in which they came. What becomes ready meanwhile comes behind.
func (m *Machine) serve(now int64, version smr.LSN) {
	for len(m.ready) > 0 {
		batch := m.ready
		m.ready = nil
		for _, at := range batch {
			l := m.waiting[at]
			if l == nil {
				continue // the last one who waited went
			}
			l.ready = false
			var waiting []*node[waiter]
			l.waiters.each(func(n *node[*node[waiter]]) bool {
				waiting = append(waiting, n.value)
				return true
			})
			for _, n := range waiting {
				if !m.couldServe(at, &n.value) || m.waiters.findText(n.key) == nil {
					continue
				}
				m.serveWaiter(n, now, version)
			}
		}
	}
}

// couldServe reports whether the key is there and holds what w waits for.
func (m *Machine) couldServe(at waitKey, w *waiter) bool {
	d := m.databases[at.database]
	e := d.keys.findText(at.key)
	if e == nil || !m.visible(d, e) {
		return w.evenGone
	}
	return kindOf(e) == w.kind || w.evenGone
}

// serveWaiter executes a waiting command again.
func (m *Machine) serveWaiter(n *node[waiter], now int64, version smr.LSN) {
	w := &n.value
	c := call{m: m, db: m.databases[w.envelope.Database], args: w.args, now: now, version: version, seed: n.id, user: w.envelope.User, noTouch: w.envelope.NoTouch, writing: true}
	if m.host != nil {
		c.reply = m.host.Served(w.session, w.sequence)
	}
	m.serving, m.waitsAgain = n, false
	c.run()
	m.serving = nil
	if !m.waitsAgain {
		m.forget(n)
	}
	if m.host != nil {
		m.host.ServedEnd(w.session, w.sequence, m.waitsAgain)
	}
}

// end ends a waiter that found nothing: answer writes its reply, if a client of this node waits for it.
func (m *Machine) end(n *node[waiter], text string) {
	w := &n.value
	if m.host != nil {
		reply := m.host.Served(w.session, w.sequence)
		if text == "" {
			reply.NullArray()
		} else {
			reply.Error(text)
		}
		m.host.ServedEnd(w.session, w.sequence, false)
	}
	m.forget(n)
}

// forget takes a waiter out.
func (m *Machine) forget(n *node[waiter]) {
	w := &n.value
	m.waiters.remove(n)
	for _, key := range w.keys {
		at := waitKey{w.envelope.Database, key}
		l := m.waiting[at]
		l.waiters.remove(l.waiters.findText(n.key))
		if l.waiters.size == 0 {
			delete(m.waiting, at)
		}
	}
	i, _ := m.findLease(w.session)
	if m.leases[i].waiters--; m.leases[i].waiters == 0 {
		m.leases = slices.Delete(m.leases, i, i+1)
	}
}

func (m *Machine) findLease(session smr.SessionID) (int, bool) {
	return slices.BinarySearchFunc(m.leases, session, func(l lease, session smr.SessionID) int {
		switch {
		case l.session < session:
			return -1
		case l.session > session:
			return 1
		}
		return 0
	})
}

// leaseOf returns the lease of a session, a new one if it has none.
func (m *Machine) leaseOf(session smr.SessionID) *lease {
	i, found := m.findLease(session)
	if !found {
		m.leases = slices.Insert(m.leases, i, lease{session: session, seen: m.leaseTime})
	}
	return &m.leases[i]
}

// seen notes a sign of life of a session.
func (m *Machine) seen(session smr.SessionID) {
	if i, found := m.findLease(session); found {
		m.leases[i].seen = m.leaseTime
	}
}

// endLeases takes out the waiters of sessions that showed no sign for too long. elapsed is the log time that went by
// with this frame, in milliseconds.
func (m *Machine) endLeases(elapsed int64) {
	m.leaseTime += min(elapsed, leaseStep)
	for i := 0; i < len(m.leases); {
		if m.leaseTime-m.leases[i].seen <= leaseLimit {
			i++
			continue
		}
		m.endSession(m.leases[i].session) // takes the lease out
	}
}

// endSession takes all waiters of a session out, the oldest first.
func (m *Machine) endSession(session smr.SessionID) {
	var ended []*node[waiter]
	m.waiters.each(func(n *node[waiter]) bool {
		if n.value.session == session {
			ended = append(ended, n)
		}
		return true
	})
	for _, n := range ended {
		m.end(n, errLeaseOver)
	}
}

// digestWaiters feeds everything about who waits to d. The lists by key follow from the waiters.
func (m *Machine) digestWaiters(d *digester) {
	d.number(m.waiters.lastID)
	d.number(uint64(m.waiters.size))
	m.waiters.each(func(n *node[waiter]) bool {
		w := &n.value
		d.number(n.id)
		d.text(n.key)
		d.number(uint64(w.envelope.Database))
		d.text(w.envelope.User)
		d.flag(w.envelope.NoTouch)
		d.text(w.kind)
		d.flag(w.evenGone)
		d.number(uint64(len(w.keys)))
		for _, key := range w.keys {
			d.text(key)
		}
		d.number(uint64(len(w.args)))
		for _, arg := range w.args {
			d.bytes(arg)
		}
		return true
	})
	d.number(uint64(m.leaseTime))
	d.number(uint64(len(m.leases)))
	for _, l := range m.leases {
		d.number(uint64(l.session))
		d.text(l.node)
		d.number(uint64(l.seen))
		d.number(uint64(l.waiters))
	}
}

// Records about waiters. All of them speak of the session that they come from.
var waiterRecords = []Command{
	{Name: "waiter", Arity: 3, run: endWaiter},
	{Name: "sign", Arity: 2, run: sign},
}

// WaiterEnd says why a waiting command waits no longer.
type WaiterEnd string

// The ends of a waiter that are no service: its time is over (or CLIENT UNBLOCK ... TIMEOUT), CLIENT UNBLOCK ... ERROR, its
// client has left.
const (
	WaiterTimedOut  WaiterEnd = "timeout"
	WaiterUnblocked WaiterEnd = "error"
	WaiterGone      WaiterEnd = "gone"
)

// WaiterRecord returns the arguments of the record that ends a waiting request of the session that submits the record.
// Its reply is 1, or 0 if the request waits no longer.
func WaiterRecord(end WaiterEnd, sequence uint64) [][]byte {
	return [][]byte{[]byte("waiter"), []byte(end), binary.BigEndian.AppendUint64(nil, sequence)}
}

func endWaiter(c call) {
	if len(c.args[2]) != 8 {
		c.reply.Error(errSyntax)
		return
	}
	n := c.m.waiters.findText(waiterName(c.m.session, binary.BigEndian.Uint64(c.args[2])))
	if n == nil {
		c.reply.Int(0)
		return
	}
	switch WaiterEnd(c.args[1]) {
	case WaiterTimedOut:
		c.m.end(n, "")
	case WaiterUnblocked:
		c.m.end(n, errUnblocked)
	case WaiterGone:
		c.m.forget(n)
	default:
		c.reply.Error(errSyntax)
		return
	}
	c.reply.Int(1)
}

// SignRecord returns the arguments of the record by which a session shows that it lives, and on which node: waiters of
// other sessions of that node are over. A session with waiters submits one every 5 seconds, and a node one when it starts.
func SignRecord(node string) [][]byte { return [][]byte{[]byte("sign"), []byte(node)} }

func sign(c call) {
	m, name := c.m, string(c.args[1])
	for i := 0; i < len(m.leases); {
		if l := &m.leases[i]; l.session != m.session && l.node == name && name != "" {
			m.endSession(l.session)
			continue
		} else if l.session == m.session {
			l.node = name
		}
		i++
	}
	c.reply.OK()
}

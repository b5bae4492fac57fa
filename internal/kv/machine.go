package kv

import (
	"lockstep/internal/acl"
	"lockstep/internal/mutant"
	"lockstep/internal/resp"
	"lockstep/smr"
)

const (
	// dueEachFrame bounds how many expired keys one Advance takes out.
	dueEachFrame = 1000
	// keptArgs bounds the memory kept between requests, in arguments.
	keptArgs = 4096
	// maxBehind bounds how far the clock of who reads is believed to be ahead of log time, in milliseconds: a master
	// that has nothing to write lets log time move once a second.
	maxBehind = 1000
	// expiredVersion marks the version of a key that is there but no longer visible.
	expiredVersion = smr.LSN(1) << 63
)

// Instant is the place of a request in the committed log: the LSN of its frame, its index in the frame, and the
// frame's stamp in milliseconds since 1970 UTC.
type Instant struct {
	LSN   smr.LSN
	Index int
	Stamp int64
}

// Machine is the state. See the package comment for who may call what when.
type Machine struct {
	databases [Databases]*database
	sessions  smr.SessionTable
	set       settings
	users     *acl.Users // nil: those of a new group
	lua       luaState

	// now is the log time: the largest stamp seen, in milliseconds since 1970 UTC.
	now     int64
	applied smr.LSN

	// used is the estimate of the memory of all keys, in bytes: the sum of their sizes.
	used int64

	// noRoom: the request being applied began while the keys took more than maxmemory and nothing could be evicted. It is set
	// for those requests only that ask.
	noRoom bool

	expired int64 // keys taken out because their time had come
	evicted int64 // keys taken out for want of memory

	// waiters are the commands that wait for a key, in the order in which they came; waiting finds those of a key.
	// leases has an entry for each session with waiters, sorted; leaseTime is the clock they are measured by, in
	// milliseconds: log time without its jumps.
	waiters   table[waiter]
	waiting   map[waitKey]*waitList
	ready     []waitKey // keys that became ready during this request
	leases    []lease
	leaseTime int64

	// What follows is of the request being applied and no part of the state.
	session    smr.SessionID
	sequence   uint64
	selected   int           // the database selected in the transaction
	serving    *node[waiter] // the waiter that is executed again
	waitsAgain bool          // it found nothing again
	blocked    bool          // the request waits
	blockedFor int64         // for so many milliseconds, 0: for ever
	args       [][]byte      // arguments of the command being applied, reused

	host Host // nil: nobody

	image   imaging // no part of the state
	tier    tiering // nor is this
	leaving leaving // nor this
}

// New returns the state before the first byte of the log.
func New() *Machine {
	m := new(Machine)
	for i := range m.databases {
		m.databases[i] = &database{number: i, tag: byte(i), keys: keyTable{leaving: &m.leaving}}
	}
	m.leaving.least, m.leaving.spoil = leastWaste, spoilReleased
	m.defaults()
	return m
}

// Now returns the log time in milliseconds since 1970 UTC: the stamp of the last frame.
func (m *Machine) Now() int64 { return m.now }

// Applied returns the end of the last frame.
func (m *Machine) Applied() smr.LSN { return m.applied }

// DBSize returns the number of keys of a database, including those that have expired and were not met since.
func (m *Machine) DBSize(database int) int { return m.databases[database].keys.size }

// LastSequence returns the last sequence executed of a session, 0 if it is unknown.
func (m *Machine) LastSequence(session smr.SessionID) uint64 { return m.sessions.Last(session) }

// Version returns what WATCH has to remember of a key. If the key changes, is created, removed or expires, then
// Version changes. (It may also change when another absent key of the slot does: a transaction is then given up
// without need, never carried out wrongly.)
func (m *Machine) Version(database int, key []byte) smr.LSN {
	return m.databases[database].version(m, key)
}

// Apply executes one request of the committed log, unless its session has executed it before or has not yet come
// to it. The reply is written only with the verdict Execute; it is nil where nobody waits for it.
func (m *Machine) Apply(at Instant, request smr.Request, reply *resp.Reply) smr.Admission {
	m.settle()
	m.now = max(m.now, at.Stamp)
	admission := m.sessions.Admit(request.Session, request.Sequence, at.LSN)
	if mutant.On(mutant.DuplicateExecuted) && admission == smr.Duplicate {
		admission = smr.Execute
	}
	if admission != smr.Execute {
		return admission
	}
	m.session, m.sequence, m.blocked = request.Session, request.Sequence, false
	if len(m.leases) > 0 {
		m.seen(request.Session)
	}
	// A request takes more than one byte of the frame, and its header comes before: LSN + index + 1 is different for
	// any two requests of the log and grows with it.
	c := call{m: m, reply: reply, now: m.now, version: at.LSN + smr.LSN(at.Index) + 1, writing: true}
	m.execute(c, request.Payload)
	if len(m.ready) > 0 {
		m.serve(c.now, c.version)
	}
	return admission
}

// execute executes a payload.
func (m *Machine) execute(c call, payload []byte) {
	r := payloadReader{rest: payload}
	format, envelope := r.format()
	if r.err == nil && (format == formatCommand || format == formatRecord) {
		m.args = r.args(m.args[:0])
		if r.err == nil && len(r.rest) == 0 {
			c.db, c.user, c.noTouch, c.args = m.databases[envelope.Database], envelope.User, envelope.NoTouch, m.args
			if format == formatRecord {
				c.runRecord()
			} else {
				c.run()
			}
			if cap(m.args) > keptArgs {
				m.args = nil
			}
			return
		}
	}
	m.transaction(c, payload)
}

// transaction executes the payload of format 2, or says what is wrong with a payload.
func (m *Machine) transaction(c call, payload []byte) {
	p, err := DecodePayload(payload)
	if err != nil {
		c.reply.Error("ERR " + err.Error())
		return
	}
	for _, w := range p.Watches {
		if m.Version(w.Database, w.Key) != w.Version {
			c.reply.NullArray()
			return
		}
	}
	c.user, c.noTouch = p.Envelope.User, p.Envelope.NoTouch
	m.selected = p.Envelope.Database
	c.selected = &m.selected
	if m.set.maxMemory > 0 {
		grows, asks := p.denyOOM()
		m.noRoom = (grows || asks) && !c.room()
		if grows && m.noRoom {
			c.reply.Error("EXECABORT Transaction discarded because of: " + errOutOfMemory)
			return
		}
	}
	c.reply.Array(len(p.Commands))
	for i, args := range p.Commands {
		c.db, c.args, c.seed = m.databases[m.selected], args, uint64(i)
		c.run()
	}
}

// Advance ends a frame: log time moves to stamp and Applied to end. It takes out a bounded number of keys that have
// expired. It is also called for frames without requests.
func (m *Machine) Advance(stamp int64, end smr.LSN) {
	if mutant.On(mutant.SessionsForgotten) && stamp > m.now+50 {
		m.sessions = smr.SessionTable{}
	}
	m.settle()
	elapsed := max(stamp-m.now, 0)
	m.now += elapsed
	m.applied = max(m.applied, end)
	if len(m.leases) > 0 {
		m.endLeases(elapsed)
	}
	left := dueEachFrame
	for _, d := range &m.databases {
		for ; left > 0 && d.due.size > 0 && d.due.first().at <= m.now; left-- {
			m.expire(d, d.due.first().entry.Pointer(), m.applied)
		}
	}
	if m.set.maxMemory > 0 && m.used+m.lua.bytes > m.set.maxMemory {
		call{m: m, now: m.now, version: m.applied, writing: true}.room()
	}
	if len(m.ready) > 0 {
		m.serve(m.now, m.applied)
	}
}

// denyOOM reports whether any of the commands is refused when there is no memory (grows), and whether any asks for itself.
func (p *Payload) denyOOM() (grows, asks bool) {
	for _, args := range p.Commands {
		if command := Lookup(args[0]); command != nil {
			grows = grows || command.Flags&DenyOOM != 0
			asks = asks || command.asksRoom
		}
	}
	return grows, asks
}

// expire takes out a key whose time has come.
func (m *Machine) expire(d *database, e *entry, version smr.LSN) {
	d.remove(m, e, version)
	m.expired++
	m.event(d.number, EventExpired, "expired", e.key())
}

// Read executes a command that changes nothing on database 0 (ReadIn).
func (m *Machine) Read(clock int64, args [][]byte, reply *resp.Reply) {
	m.ReadIn(Envelope{}, clock, args, reply)
}

// ReadIn executes a command that changes nothing, on the state as it is. Keys that have expired by log time are
// invisible to it. clock is the caller's clock in milliseconds since 1970 UTC: what is left of an expiry is told by it,
// because log time stands still between two frames; it is believed up to maxBehind. 0 stands for log time. A command that
// draws lots takes its seed from Applied and from the reply's Draws, which it counts.
func (m *Machine) ReadIn(envelope Envelope, clock int64, args [][]byte, reply *resp.Reply) {
	if command := (call{args: args, reply: reply}).command(); command != nil {
		m.ReadAs(command, envelope, clock, args, reply)
	}
}

// ReadAs is ReadIn for who has looked the command up and found that it takes so many arguments.
func (m *Machine) ReadAs(command *Command, envelope Envelope, clock int64, args [][]byte, reply *resp.Reply) {
	if command.Flags&Write != 0 && command.Writes(args) {
		reply.Error("ERR command '" + command.Name + "' writes and cannot be executed as a read")
		return
	}
	now := max(m.now, min(clock, m.now+maxBehind))
	if mutant.On(mutant.ReaderMovesTime) {
		m.now = now
	}
	c := call{m: m, db: m.databases[envelope.Database], args: args, reply: reply, now: now, version: m.applied, user: envelope.User, noTouch: envelope.NoTouch}
	c.denials = envelope.Denials
	if command.random && reply != nil {
		reply.Draws++
		c.seed = reply.Draws | 1<<63
	}
	if c.m.set.events&EventKeyMiss != 0 {
		c.misses(command)
	}
	command.run(c)
}

// call is one execution of one command. It is passed by value: a pointer would have to live on the heap, because
// commands are called through the table.
type call struct {
	m       *Machine
	db      *database // that the command works in
	args    [][]byte
	reply   *resp.Reply
	now     int64
	version smr.LSN // of whatever this command changes
	seed    uint64
	// selected is where SELECT leaves its number; nil outside of transactions and scripts. Whoever executes several
	// commands (a transaction, a script) gives it to each, and finds in it the database of the next.
	selected *int
	// denials is told what scripts of a read are denied; nil: nobody is.
	denials Denials
	user    string // who the client is; empty: the default user
	noTouch bool   // the command is no use of the keys it meets (CLIENT NO-TOUCH)
	writing bool   // false in Read: nothing may change
	script  bool   // part of a script: what it replies enters the state and may not depend on this node
}

// nested reports whether the command is part of a transaction or of a script: it may not wait.
func (c call) nested() bool { return c.selected != nil }

// envelope returns what a command of this call's client would carry.
func (c call) envelope() Envelope {
	return Envelope{Database: c.db.number, User: c.user, NoTouch: c.noTouch}
}

// run looks the command up and executes it, or replies why not.
func (c call) run() {
	command := c.command()
	if command == nil {
		return
	}
	if c.m.set.maxMemory > 0 && !c.nested() && (command.Flags&DenyOOM != 0 || command.asksRoom) {
		if c.m.noRoom = !c.room(); c.m.noRoom && command.Flags&DenyOOM != 0 {
			c.reply.Error(errOutOfMemory)
			return
		}
	}
	if c.m.set.events&EventKeyMiss != 0 {
		c.misses(command)
	}
	command.run(c)
}

// command returns the command that the arguments name, or replies why it cannot be executed here and returns nil.
func (c call) command() *Command {
	command := Lookup(c.args[0])
	switch {
	case command == nil:
		c.reply.Error(UnknownCommandError(c.args))
	case !command.CheckArity(len(c.args)):
		c.reply.Error(WrongArityError(command.Name))
	case command.run == nil:
		c.reply.Error("ERR command '" + command.Name + "' is not allowed in a transaction")
	default:
		return command
	}
	return nil
}

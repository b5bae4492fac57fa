package sim

import (
	"errors"
	"hash/maphash"

	"lockstep/internal/kv"
	"lockstep/internal/mutant"
	"lockstep/internal/resp"
	"lockstep/log"
	"lockstep/smr"
	"lockstep/smr/session"
)

const (
	whatKVTick = 60 + iota
	whatKVWake
	whatApply
	whatDialMaster
	whatAttach
	whatOperate
	whatUnwelcome
)

const (
	progressTicks = 10 // between two reports of progress
	kvRetryLow    = 5 * millisecond
	kvRetryHigh   = 100 * millisecond
	applyBytes    = 4 << 10
)

// kvnode is one process life of a KV node: smr/client and internal/kvnode in virtual time.
type kvnode struct {
	w  *world
	h  *host
	id smr.SessionID

	dead, alive, paused bool
	stalled             []actor
	session             *session.Session
	out                 session.Effects
	machine             *kv.Machine
	images              imaging
	applied             smr.LSN
	executed            uint64 // own requests

	local      *end
	attached   bool
	page       *page // of the life of the replicator that it is attached to
	status     smr.Status
	localPause int64

	master      *end
	masterID    session.ConnID // of the accepted connection, 0 if none
	lastID      session.ConnID
	to          target // of the dial or connection under way
	connecting  bool
	masterPause int64
	connectedAt int64

	lineage *lineage   // of the state, for the checker
	trail   *log.Trail // what was executed amounts to
	proved  bool       // the log beside was held against it
	doubted bool       // nobody is told meanwhile that an LSN is reached

	reader      *log.Reader
	readPause   int64
	applyIsNext bool // planned
	wakeIsNext  bool

	lastTicket session.Ticket
	unsent     []*operation // submitted, without a sequence
	sent       []*operation // sequences executed+1 and up; nil where nobody waits
	reads      []*operation // in order of tickets
	waiting    []*operation // reads that have an LSN and wait for Applied
	count      int          // operations that nobody has answered
	requests   int          // results in the log so far: replies and messages
	at         kv.Instant   // of the request that is executed
	waits      blocking
	heard      int // messages since heardFrom
	heardFrom  smr.LSN
	reply      resp.Reply
	ticks      int
	executedIn session.Executed
}

type target struct {
	node  smr.NodeID
	epoch smr.Epoch
}

func startKV(h *host) *kvnode {
	w := h.w
	k := &kvnode{w: w, h: h, id: smr.SessionID(w.name()), alive: true, machine: kv.New(), trail: log.NewTrail(), lineage: w.check.lineage}
	k.session = session.New(session.Options{
		ID: k.id, MaxPending: 200, MaxPendingBytes: 65 << 20, MaxReads: 100, BatchBytes: 4 << 10,
		RefuseAfterTicks: w.o.RefuseTicks, TimeoutTicks: w.o.TimeoutTicks, AskTicks: w.o.SessionDeadTicks / 3,
		DeadTicks: w.o.SessionDeadTicks,
	})
	k.machine.SetHost((*kvHost)(k))
	k.loadOwn()
	k.heardFrom = k.applied
	k.waits.announce = w.o.Mix&(mixQueues|mixStreams) != 0
	if w.trace != nil {
		w.say(string(h.id), "kv node starts: session %x", uint64(k.id)&0xffff)
	}
	w.after(between(w.draw.clock, 0, h.tick()), k, whatKVTick)
	w.after(between(w.draw.clock, 0, 2*millisecond), k, whatAttach)
	w.after(between(w.draw.work, 0, w.o.OpMicros), k, whatOperate)
	return k
}

func (k *kvnode) die(how death) {
	k.dead, k.alive = true, false
	for _, e := range []*end{k.local, k.master} {
		switch {
		case e == nil:
		case how == dieVanished:
			e.vanish()
		default:
			e.close()
		}
	}
	k.closeReader()
}

func (k *kvnode) closeReader() {
	if k.reader != nil {
		_ = k.reader.Close()
		k.reader = nil
	}
}

func (k *kvnode) pause() { k.paused = true }

func (k *kvnode) resume() {
	k.paused = false
	for _, s := range k.stalled {
		k.w.after(between(k.w.draw.clock, 1, 500), s, whatPump)
	}
	k.stalled = k.stalled[:0]
}

func (k *kvnode) fire(what uint64) {
	if k.dead {
		return
	}
	if k.paused {
		if what == whatKVTick || what == whatOperate {
			k.w.after(k.h.tick(), k, what)
		} else {
			k.stalled = append(k.stalled, stalled{k, what})
		}
		return
	}
	switch what {
	case whatKVTick:
		k.w.after(k.h.tick(), k, whatKVTick)
		k.tick()
	case whatKVWake:
		k.wakeIsNext = false
		k.flush()
	case whatApply:
		k.applyIsNext = false
		k.apply()
	case whatDialMaster:
		k.connecting = false
		k.dialMaster()
	case whatAttach:
		k.dialLocal()
	case whatOperate:
		k.w.work.operate(k)
	}
}

func (k *kvnode) tick() {
	k.ticks++
	k.session.Step(&session.Tick{}, &k.out)
	if k.ticks%progressTicks == 0 && k.attached {
		progress := &smr.Progress{Applied: k.applied, Checkpoint: k.images.checkpoint}
		if k.doubted {
			progress.Checkpoint = 0
		}
		k.local.send(progress, 32)
		k.applySoon() // to look again for a proof
	}
	if k.ticks%progressTicks == 0 {
		k.answerLate()
	}
	if k.w.o.ImageBytes > 0 {
		k.tickImage()
	}
	if k.w.o.Mix&(mixQueues|mixStreams) != 0 {
		k.keepBlocked()
	}
	k.flush()
}

// wake has the session flushed soon, so that several inputs make one batch.
func (k *kvnode) wake() {
	if !k.wakeIsNext {
		k.wakeIsNext = true
		k.w.after(between(k.w.draw.network, 1, 100), k, whatKVWake)
	}
}

// flush lets the session send and carries out what it wants.
func (k *kvnode) flush() {
	k.executedIn.Through = k.executed
	k.session.Step(&k.executedIn, &k.out)
	k.session.Flush(&k.out)
	out := &k.out
	for i := range out.Done {
		k.done(&out.Done[i])
	}
	for _, n := range out.Numbered {
		op := k.unsent[0]
		k.unsent = k.unsent[1:]
		if op.ticket != n.Ticket {
			k.w.violate("requests are not sent in order", "%s: ticket %d, expected %d", k.h.id, n.Ticket, op.ticket)
		}
		op.sequence = n.Sequence
		k.sent = append(k.sent, op)
		k.w.check.numbered(k, op)
	}
	for _, send := range out.Send {
		if k.master != nil && send.Conn == k.masterID {
			size := 32
			if m, ok := send.Message.(*smr.Propose); ok {
				size += len(m.Requests)
			}
			k.master.send(send.Message, size)
		}
	}
	for _, conn := range out.Drop {
		if k.master != nil && conn == k.masterID {
			k.w.hit(probeSessionDrop)
			k.leaveMaster()
			k.dialSoon()
		}
	}
	for _, done := range out.Reads {
		k.readsDone(done)
	}
	for _, done := range out.ReadsRefused {
		k.dropRead(done.Ticket)
	}
	out.Reset()
}

// done answers an operation that was not executed, or may not have been.
func (k *kvnode) done(done *session.Done) {
	if done.Sequence != 0 {
		if done.Sequence <= k.executed {
			return // it was executed, and answered, before the session had heard of it
		}
		i := int(done.Sequence - k.executed - 1)
		if i >= len(k.sent) {
			k.w.violate("an answer to no request", "%s: sequence %d, %d executed", k.h.id, done.Sequence, k.executed)
		}
		if op := k.sent[i]; op != nil {
			k.sent[i] = nil
			k.answered(op, outcomeUncertain)
		}
		return
	}
	if len(k.unsent) == 0 || k.unsent[0].ticket != done.Ticket {
		k.w.violate("an answer to no request", "%s: ticket %d", k.h.id, done.Ticket)
	}
	op := k.unsent[0]
	k.unsent = k.unsent[1:]
	k.answered(op, outcomeRefused)
}

func (k *kvnode) answered(op *operation, outcome outcome) {
	k.count--
	k.w.check.answered(k, op, outcome)
}

func (k *kvnode) submit(op *operation) {
	k.lastTicket++
	op.ticket = k.lastTicket
	k.count++
	before := len(k.out.Done)
	k.session.Step(&session.Submit{Ticket: op.ticket, Slot: op.slot, Payload: op.payload}, &k.out)
	if len(k.out.Done) > before { // turned away, which is answered at once
		k.out.Done = k.out.Done[:before]
		k.answered(op, outcomeRefused)
		return
	}
	k.unsent = append(k.unsent, op)
	k.wake()
}

func (k *kvnode) read(op *operation) {
	if p := k.page; p != nil && !k.doubted && k.h.clock() < p.until {
		k.w.hit(probeLeaseRead)
		k.count++
		op.index = p.commit
		if mutant.On(mutant.LeaseAtSafe) {
			op.index = k.applied
		}
		k.readAt(op)
		return
	}
	k.lastTicket++
	op.ticket = k.lastTicket
	k.reads = append(k.reads, op)
	k.count++
	k.session.Step(&session.Read{Ticket: op.ticket}, &k.out)
	k.wake()
}

func (k *kvnode) dropRead(ticket session.Ticket) {
	for i, op := range k.reads {
		if op.ticket == ticket {
			k.reads = append(k.reads[:i], k.reads[i+1:]...)
			k.answered(op, outcomeRefused)
			return
		}
	}
}

// readsDone gives reads their LSN.
func (k *kvnode) readsDone(done session.ReadDone) {
	n := 0
	for n < len(k.reads) && k.reads[n].ticket <= done.Through {
		op := k.reads[n]
		n++
		if done.Outcome != session.Success {
			k.answered(op, outcomeRefused)
			continue
		}
		op.index = done.LSN
		k.readAt(op)
	}
	k.reads = append(k.reads[:0], k.reads[n:]...)
}

// readAt carries out a read that has its LSN, once that is executed.
func (k *kvnode) readAt(op *operation) {
	if k.applied >= op.index && (!k.doubted || mutant.On(mutant.ReadUnproved)) {
		k.execute(op)
		return
	}
	k.w.hit(probeReadWaits)
	k.waiting = append(k.waiting, op)
}

// answerLate refuses reads that have waited for too long: their LSN may be one of a stream that was given up.
func (k *kvnode) answerLate() {
	kept := k.waiting[:0]
	for _, op := range k.waiting {
		if op.waits += progressTicks; op.waits > k.w.o.TimeoutTicks {
			k.w.hit(probeReadLate)
			k.answered(op, outcomeRefused)
		} else {
			kept = append(kept, op)
		}
	}
	k.waiting = kept
}

// execute carries out a read on the machine as it is.
func (k *kvnode) execute(op *operation) {
	k.reply.Reset()
	k.machine.Read(k.h.stamp(), op.args, &k.reply)
	k.count--
	k.w.check.read(k, op, k.reply.Buf)
}

// apply reads what is safe from the files and executes some of it.
func (k *kvnode) apply() {
	if !k.attached || k.status.Safe == 0 || k.applied < k.status.Start || k.applied >= k.status.Safe && k.proved {
		return
	}
	if k.reader == nil {
		reader, err := log.OpenReader(k.h.disk, dirLog)
		if err != nil {
			k.applyFailed(err)
			return
		}
		k.reader = reader
	}
	if !k.proved && !k.prove() || k.applied >= k.status.Safe {
		return
	}
	buffer := k.w.buffers.take()
	bytes := 0
	_, buffer, err := k.reader.Frames(buffer, k.applied, k.status.Safe, func(f smr.Frame, raw []byte) error {
		if bytes > applyBytes {
			return errEnough
		}
		bytes += len(raw)
		k.frame(f, raw)
		return nil
	})
	k.w.buffers.put(buffer)
	if err != nil && err != errEnough {
		k.applyFailed(err)
		return
	}
	k.readPause = 0
	k.answerReads()
	k.wake()
	k.applySoon()
}

// prove holds the log beside against what was executed, and reports whether they are of one stream: see smr/client, which it follows.
func (k *kvnode) prove() bool {
	lsn := min(k.applied, k.status.Safe)
	if lsn < k.applied && k.status.Role == smr.RoleMaster { // the master's log is the stream
		if base, err := k.reader.BaseAt(k.applied); err == nil && k.trail.Fits(&base) {
			k.accept()
			return true
		}
	}
	if k.applied > 0 {
		base, err := k.reader.BaseAt(lsn)
		switch {
		case errors.Is(err, log.ErrNoBorder):
			k.estranged("no frame of the log begins at " + itoa(uint64(lsn)))
			return false
		case err != nil:
			k.applyFailed(err)
			return false
		case !k.trail.Fits(&base):
			k.estranged("the log has another stream below " + itoa(uint64(lsn)))
			return false
		}
	}
	if lsn < k.applied {
		return false
	}
	k.accept()
	return true
}

// accept notes that what was executed is of the stream of the log beside.
func (k *kvnode) accept() {
	k.proved, k.doubted = true, false
	k.answerReads()
}

// estranged ends a node whose state is not of the group's stream. The supervisor starts it again, in vain, until an operator has
// cleared its directory.
func (k *kvnode) estranged(why string) {
	w, h := k.w, k.h
	if w.trace != nil {
		w.say(string(h.id), "kv node ends: its state is of another stream: %s", why)
	}
	w.hit(probeEstranged)
	if len(w.check.older) == 0 {
		w.violate("a state is taken for that of another stream", "%s up to %d: %s", h.id, k.applied, why)
	}
	h.crashKV()
	w.after(w.o.Restarts*millisecond, later(h.startKV), 0)
	if h.clearing {
		return
	}
	h.clearing = true
	drive := h.drive
	w.after(between(w.draw.control, w.o.Restarts, 500)*millisecond, later(func() {
		h.clearing = false
		if h.drive == drive {
			h.crashKV()
			drive.images = nil
			h.startKV()
		}
	}), 0)
}

func (k *kvnode) applyFailed(err error) {
	k.w.hit(probeApplyFailed)
	if k.w.trace != nil {
		k.w.say(string(k.h.id), "log unreadable at %d: %v", k.applied, err)
	}
	k.closeReader()
	k.readPause = min(max(kvRetryLow, 2*k.readPause), kvRetryHigh)
	if !k.applyIsNext {
		k.applyIsNext = true
		k.w.after(k.readPause, k, whatApply)
	}
}

func (k *kvnode) applySoon() {
	if !k.applyIsNext && (k.applied < k.status.Safe || !k.proved) {
		k.applyIsNext = true
		k.w.after(between(k.w.draw.network, 1, 200), k, whatApply)
	}
}

// frame executes one frame.
func (k *kvnode) frame(f smr.Frame, raw []byte) {
	k.w.check.applying(k, f, raw)
	if f.Kind == smr.KindRequests {
		rest := f.Body
		for i := range f.Count {
			request, behind, err := smr.CutRequest(rest)
			if err != nil {
				k.w.violate("a safe frame does not decode", "%s at %d: %v", k.h.id, f.LSN, err)
			}
			rest = behind
			k.request(kv.Instant{LSN: f.LSN, Index: i, Stamp: f.Stamp}, request)
		}
	}
	k.machine.Advance(f.Stamp, f.End())
	k.trail.Follow(f, raw)
	k.applied = f.End()
	k.w.check.applied(k)
}

func (k *kvnode) request(at kv.Instant, request smr.Request) {
	k.reply.Reset()
	k.at = at
	admission := k.machine.Apply(at, request, &k.reply)
	k.w.check.executed(k, request, admission, k.reply.Buf)
	if request.Session != k.id {
		return
	}
	switch admission {
	case smr.OutOfOrder:
		k.w.violate("a session is lost", "%s: sequence %d at %d, %d executed", k.h.id, request.Sequence, at.LSN, k.executed)
	case smr.Duplicate:
		k.w.hit(probeDuplicate)
	case smr.Execute:
		k.executed++
		op := k.sent[0]
		k.sent = k.sent[1:]
		if k.noteBlocked(op, request.Sequence) {
			return
		}
		if op != nil {
			k.count--
			k.w.check.acknowledged(k, op, at, k.reply.Buf)
		}
	}
}

func (k *kvnode) answerReads() {
	if k.doubted {
		return
	}
	kept := k.waiting[:0]
	for _, op := range k.waiting {
		if op.index <= k.applied {
			k.execute(op)
		} else {
			kept = append(kept, op)
		}
	}
	k.waiting = kept
}

// dialLocal attaches to the replicator beside this node.
func (k *kvnode) dialLocal() {
	k.localPause = min(max(kvRetryLow, 2*k.localPause), kvRetryHigh)
	k.w.dial(k.h.place, k.h.id, true, func(e *end) {
		switch {
		case k.dead:
			if e != nil {
				e.alive, e.port = &k.alive, (*deaf)(nil)
				e.close()
			}
		case e == nil:
			k.w.after(k.localPause, k, whatAttach)
		default:
			k.local = e
			e.port, e.alive = (*beside)(k), &k.alive
			e.send(&smr.LocalHello{Handshake: k.w.handshake(k.h.id), Session: k.id, Applied: k.applied}, 64)
		}
	})
}

// beside is a KV node's side of the local connection.
type beside kvnode

func (b *beside) hear(_ *end, message any) {
	k := (*kvnode)(b)
	if k.paused {
		k.stalled = append(k.stalled, later(func() { b.hear(nil, message) }))
		return
	}
	switch m := message.(type) {
	case *smr.LocalWelcome:
		k.attached, k.localPause, k.status.Safe = true, 0, 0
		k.proved, k.doubted = false, k.applied > 0
		k.page = k.h.page // of the newest life, which may be over: the file stays
		k.status.Start, k.status.NeedImage, k.images.sources = 0, 0, nil
		k.lateBase()
		k.closeReader()
	case *smr.Reject:
		k.estranged(m.Reason)
	case *smr.ImageSources:
		k.images.sources = m.Sources
	case *smr.Status:
		wasWritable := k.status.Writable
		if m.Safe > m.Commit {
			k.w.violate("safe above commit", "%s is told safe %d commit %d", k.h.id, m.Safe, m.Commit)
		}
		k.status = *m
		if wasWritable != m.Writable {
			k.session.Step(&session.Writable{Writable: m.Writable}, &k.out)
			k.wake()
		}
		k.retarget()
		k.applySoon()
	}
}

func (b *beside) gone(*end) {
	k := (*kvnode)(b)
	if k.attached && k.status.Writable {
		k.session.Step(&session.Writable{Writable: false}, &k.out)
	}
	k.local, k.attached, k.page = nil, false, nil
	k.status.Role, k.status.Writable = smr.RoleNone, false
	k.w.after(k.localPause, k, whatAttach)
}

// retarget connects to the master if it is not the one that is connected, or being dialled.
func (k *kvnode) retarget() {
	now := target{k.status.Master, k.status.Epoch}
	if now.node == "" {
		return
	}
	if k.master != nil && (now.node != k.to.node || now.epoch > k.to.epoch) {
		k.w.hit(probeRetarget)
		k.leaveMaster()
	}
	if k.master == nil {
		k.masterPause = 0
		k.dialMaster()
	}
}

func (k *kvnode) leaveMaster() {
	if k.master == nil {
		return
	}
	k.master.close()
	k.master = nil
	if k.masterID != 0 {
		k.session.Step(&session.Disconnected{Conn: k.masterID}, &k.out)
		k.masterID = 0
	}
}

func (k *kvnode) dialSoon() {
	if !k.connecting && k.master == nil {
		k.connecting = true
		k.masterPause = min(max(kvRetryLow, 2*k.masterPause), kvRetryHigh)
		k.w.after(k.masterPause, k, whatDialMaster)
	}
}

func (k *kvnode) dialMaster() {
	to := target{k.status.Master, k.status.Epoch}
	if k.connecting || k.master != nil || to.node == "" {
		return
	}
	k.connecting = true
	k.w.dial(k.h.place, to.node, false, func(e *end) {
		k.connecting = false
		if e == nil {
			if !k.dead {
				k.dialSoon()
			}
			return
		}
		e.alive, e.port = &k.alive, (*deaf)(nil)
		if k.dead || k.master != nil {
			e.close()
			return
		}
		k.master, k.to = e, to
		e.port = (*toMaster)(k)
		e.send(&smr.ClientHello{Handshake: k.w.handshake(k.h.id), Session: k.id}, 64)
		k.w.after(dialPatience, later(func() { k.unwelcome(e) }), whatUnwelcome)
	})
}

// unwelcome gives up a connection on which nobody has said a word: who accepted it may have lost power since.
func (k *kvnode) unwelcome(e *end) {
	switch {
	case k.dead || e != k.master || k.masterID != 0:
	case k.paused:
		k.stalled = append(k.stalled, later(func() { k.unwelcome(e) }))
	default:
		k.w.hit(probeUnwelcome)
		k.leaveMaster()
		k.dialSoon()
	}
}

// toMaster is a KV node's side of the connection to the master.
type toMaster kvnode

func (t *toMaster) hear(e *end, message any) {
	k := (*kvnode)(t)
	if k.paused {
		k.stalled = append(k.stalled, later(func() { t.hear(e, message) }))
		return
	}
	if e != k.master {
		return
	}
	switch m := message.(type) {
	case *smr.ClientWelcome:
		if m.Epoch < k.to.epoch || k.w.isForeign(m.Handshake, "") {
			k.leaveMaster()
			k.dialSoon()
			return
		}
		k.to.epoch = m.Epoch
		k.lastID++
		k.masterID, k.connectedAt = k.lastID, k.w.now
		k.session.Step(&session.Connected{Conn: k.masterID}, &k.out)
	case *smr.Reject:
		k.leaveMaster()
		k.dialSoon()
	case *smr.ReadReady:
		k.session.Step(&session.ReadReady{Conn: k.masterID, Message: *m}, &k.out)
	case *smr.CopiesCounted:
		k.session.Step(&session.CopiesCounted{Conn: k.masterID, Message: *m}, &k.out)
	}
	k.wake()
}

func (t *toMaster) gone(e *end) {
	k := (*kvnode)(t)
	if e != k.master {
		return
	}
	if k.w.now-k.connectedAt > second {
		k.masterPause = 0
	}
	k.leaveMaster()
	k.dialSoon()
}

// seedOfReplies makes hashes of replies comparable within a schedule only; their values are never folded into its hash.
var seedOfReplies = maphash.MakeSeed()

func hashOf(b []byte) uint64 { return maphash.Bytes(seedOfReplies, b) }

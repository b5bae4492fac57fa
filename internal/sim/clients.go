package sim

import (
	"bytes"
	"strconv"

	"lockstep/internal/acl"
	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// kind of an operation of a client, beside lists (operation.key) and what nobody looks at.
type kind uint8

const (
	kindPlain   kind = iota
	kindPush         // of the element operation.id to a queue
	kindPop          // from a queue; it may wait
	kindMove         // from queue to queue; it may wait
	kindCount        // INCR of a counter
	kindSwap         // EXEC behind WATCH: sets a counter that had operation.number to the next
	kindClear        // DEL of a counter
	kindEntry        // XADD of the entry operation.id
	kindFetch        // XREADGROUP; it may wait
	kindConfirm      // XACK of operation.entry
	kindScript       // EVAL that writes twice
	kindFailing      // EVAL that writes once and fails
	kindPublish      // of the message operation.id
	kindRecord       // of the node itself
)

// Groups of operations, bits of Options.Mix.
const (
	mixQueues = 1 << iota
	mixCounters
	mixStreams
	mixScripts
	mixMessages
	mixAll = 1<<iota - 1
)

var (
	queueKeys   = [][]byte{[]byte("q0"), []byte("q1")}
	counterKeys = [][]byte{[]byte("w0"), []byte("w1")}
	streamKey   = []byte("st")
	scriptKeys  = [][]byte{[]byte("sl"), []byte("sc")}
	channel     = []byte("ch")
)

const (
	scriptTwice = "redis.call('rpush',KEYS[1],ARGV[1]) return redis.call('incr',KEYS[2])"
	scriptFails = "redis.call('rpush',KEYS[1],ARGV[1]) error('enough')"
	// signPeriod and endRetry are as in internal/kvnode.
	signPeriod = 5 * second
	endRetry   = 200 * millisecond
)

// mixed submits an operation of one of the groups that the schedule has.
func (l *workload) mixed(k *kvnode) {
	r := l.w.draw.work
	switch x := r.IntN(8); l.groups[r.IntN(len(l.groups))] {
	case mixQueues:
		l.queue(k, x)
	case mixCounters:
		l.counter(k, x, r.IntN(len(counterKeys)))
	case mixStreams:
		l.stream(k, x)
	case mixScripts:
		op := l.newOperation(k.h, -1)
		op.kind = kindScript
		args := [][]byte{[]byte("eval"), []byte(scriptTwice), []byte("2"), scriptKeys[0], scriptKeys[1], strconv.AppendUint(nil, op.id, 10)}
		if x == 0 {
			op.kind, args[1] = kindFailing, []byte(scriptFails)
		}
		k.submitCommand(op, scriptKeys[0], args)
	default:
		op := l.newOperation(k.h, -1)
		op.kind = kindPublish
		k.submitCommand(op, nil, [][]byte{[]byte("publish"), channel, strconv.AppendUint(nil, op.id, 10)})
	}
}

func (k *kvnode) submitCommand(op *operation, key []byte, args [][]byte) {
	op.slot = smr.NoSlot
	if key != nil {
		op.slot = kv.Slot(key)
	}
	op.payload = kv.AppendCommand(nil, args)
	k.submit(op)
}

// queue pushes elements and pops them, waiting or not. Some of those who wait leave.
func (l *workload) queue(k *kvnode, x int) {
	r := l.w.draw.work
	from, to := queueKeys[r.IntN(2)], queueKeys[r.IntN(2)]
	op := l.newOperation(k.h, -1)
	switch {
	case x < 3:
		op.kind = kindPush
		name := "rpush"
		if x == 0 {
			name = "lpush"
		}
		k.submitCommand(op, from, [][]byte{[]byte(name), from, strconv.AppendUint(nil, op.id, 10)})
		return
	case x == 3:
		op.kind = kindPop
		k.submitCommand(op, from, [][]byte{[]byte("rpop"), from})
		return
	}
	millis := between(r, 30, 600)
	timeout := strconv.AppendFloat(nil, float64(millis)/1000, 'f', 3, 64)
	if x == 7 {
		op.kind = kindMove
		k.submitCommand(op, nil, [][]byte{[]byte("blmove"), from, to, []byte("left"), []byte("right"), timeout})
	} else {
		op.kind = kindPop
		k.submitCommand(op, nil, [][]byte{[]byte("blpop"), queueKeys[0], queueKeys[1], timeout})
	}
	if r.IntN(6) == 0 {
		l.w.after(between(r, 0, millis*millisecond), later(func() { k.leave(op) }), 11)
	}
}

// counter counts, or sets a counter to what follows its value if nobody has changed it since.
func (l *workload) counter(k *kvnode, x, which int) {
	key := counterKeys[which]
	op := l.newOperation(k.h, -1)
	op.which = which
	switch x {
	case 0:
		op.kind = kindClear
		k.submitCommand(op, key, [][]byte{[]byte("del"), key})
	case 1, 2:
		op.kind = kindCount
		k.submitCommand(op, key, [][]byte{[]byte("incr"), key})
	default: // WATCH and GET look at what this node has executed, however old
		op.kind = kindSwap
		op.number = k.readNumber("get", key)
		watch := kv.Watch{Key: key, Version: k.machine.Version(0, key)}
		op.slot = kv.Slot(key)
		op.payload = kv.AppendTransaction(nil, []kv.Watch{watch}, [][][]byte{{[]byte("set"), key, strconv.AppendInt(nil, op.number+1, 10)}})
		k.submit(op)
	}
}

// stream adds entries and has a consumer group take and confirm them.
func (l *workload) stream(k *kvnode, x int) {
	r := l.w.draw.work
	op := l.newOperation(k.h, -1)
	group, consumer := []byte("g"), []byte(k.h.id)
	model := &l.w.check.model
	switch {
	case x < 3:
		op.kind = kindEntry
		k.submitCommand(op, streamKey, [][]byte{[]byte("xadd"), streamKey, []byte("*"), []byte("f"), strconv.AppendUint(nil, op.id, 10)})
	case x == 3 && len(model.pending) > 0:
		op.kind = kindConfirm
		op.entry = model.pending[r.IntN(len(model.pending))]
		k.submitCommand(op, streamKey, [][]byte{[]byte("xack"), streamKey, group, []byte(op.entry)})
	case x == 3 || len(model.entries) == 0:
		k.submitCommand(op, streamKey, [][]byte{[]byte("xgroup"), []byte("create"), streamKey, group, []byte("0"), []byte("mkstream")})
	case x == 4:
		k.submitCommand(op, streamKey, [][]byte{[]byte("xautoclaim"), streamKey, group, consumer, []byte("0"), []byte("0"), []byte("count"), []byte("2")})
	default:
		op.kind = kindFetch
		args := [][]byte{[]byte("xreadgroup"), []byte("group"), group, consumer, []byte("count"), []byte("3")}
		if x == 7 {
			args = append(args, []byte("block"), strconv.AppendInt(nil, between(r, 30, 400), 10))
		}
		k.submitCommand(op, streamKey, append(args, []byte("streams"), streamKey, []byte(">")))
	}
}

// readNumber executes a read that replies with a number, here and now; what is not there counts as 0.
func (k *kvnode) readNumber(name string, key []byte) int64 {
	k.reply.Reset()
	k.machine.Read(0, [][]byte{[]byte(name), key}, &k.reply)
	n, _ := lastNumber(k.reply.Buf)
	return n
}

// blockedOperation waits in the state for a key.
type blockedOperation struct {
	op       *operation
	sequence uint64
	deadline int64
	ending   bool // the record that ends it is on its way
}

// blocking is what a KV node does about commands that wait; see internal/kvnode/blocked.go, which it follows.
type blocking struct {
	all       []blockedOperation
	abandoned []uint64 // sequences whose reply nobody wants
	announce  bool     // the first sign is not in the log yet
	signed    int64
	reply     resp.Reply
}

// noteBlocked is called behind a request of this node that has been executed; op is nil if nobody waits for its reply.
// It reports whether the request waits.
func (k *kvnode) noteBlocked(op *operation, sequence uint64) bool {
	timeout, blocked := k.machine.Blocked()
	if !blocked {
		return false
	}
	k.w.hit(probeBlocked)
	switch {
	case op == nil:
		k.w.hit(probeBlockedOrphan)
		k.waits.abandoned = append(k.waits.abandoned, sequence)
	case op.left:
		k.waits.abandoned = append(k.waits.abandoned, sequence)
		k.answered(op, outcomeUncertain)
	default:
		k.waits.all = append(k.waits.all, blockedOperation{op: op, sequence: sequence, deadline: k.w.now + timeout*millisecond})
	}
	return true
}

// leave is called when the client of an operation closes its connection.
func (k *kvnode) leave(op *operation) {
	if k.dead || op.outcome != outcomePending {
		return
	}
	op.left = true
	for i, b := range k.waits.all {
		if b.op == op {
			k.w.hit(probeClientLeft)
			k.waits.all = append(k.waits.all[:i], k.waits.all[i+1:]...)
			k.waits.abandoned = append(k.waits.abandoned, b.sequence)
			k.answered(op, outcomeUncertain)
			return
		}
	}
}

// keepBlocked submits the records about commands that wait.
func (k *kvnode) keepBlocked() {
	b := &k.waits
	for i := range b.all {
		if w := &b.all[i]; !w.ending && w.deadline <= k.w.now {
			w.ending = true
			sequence := w.sequence
			k.submitRecord(kv.WaiterRecord(kv.WaiterTimedOut, sequence), func(executed bool) { k.endFailed(sequence, executed) })
		}
	}
	abandoned := b.abandoned
	b.abandoned = nil
	for _, sequence := range abandoned {
		k.submitRecord(kv.WaiterRecord(kv.WaiterGone, sequence), func(executed bool) {
			if !executed {
				b.abandoned = append(b.abandoned, sequence)
			}
		})
	}
	if (b.announce || len(b.all) > 0) && (b.signed == 0 || k.w.now-b.signed >= signPeriod) {
		b.signed = k.w.now
		k.submitRecord(kv.SignRecord(string(k.h.id)), func(executed bool) { b.announce = b.announce && !executed })
	}
}

// endFailed lets a command that could not be ended wait a little longer.
func (k *kvnode) endFailed(sequence uint64, executed bool) {
	for i := range k.waits.all {
		if w := &k.waits.all[i]; w.sequence == sequence && !executed {
			w.ending, w.deadline = false, k.w.now+endRetry
		}
	}
}

func (k *kvnode) submitRecord(args [][]byte, done func(executed bool)) {
	op := k.w.work.newOperation(k.h, -1)
	op.kind, op.done, op.slot = kindRecord, done, smr.NoSlot
	op.payload = kv.Envelope{}.AppendRecord(nil, args)
	k.submit(op)
}

// jumped is called when the state has become that of an image: what waits there and has nobody who wants it is ended, and who
// waits here for what is over there is told that its outcome is unknown.
func (k *kvnode) jumped() {
	kept := k.waits.all[:0]
	for _, b := range k.waits.all {
		if k.machine.Waits(k.id, b.sequence) {
			kept = append(kept, b)
			continue
		}
		k.w.hit(probeJumpedWaiter)
		k.answered(b.op, outcomeUncertain)
	}
	k.waits.all = kept
	for _, sequence := range k.machine.Waiting(k.id) {
		if !k.waitsFor(sequence) {
			k.waits.abandoned = append(k.waits.abandoned, sequence)
		}
	}
}

func (k *kvnode) waitsFor(sequence uint64) bool {
	for _, b := range k.waits.all {
		if b.sequence == sequence {
			return true
		}
	}
	return false
}

// kvHost is what a KV node's machine tells.
type kvHost kvnode

var _ kv.Host = (*kvHost)(nil)

// Changed, Flushed, Event and UsersChanged implement kv.Host.
func (*kvHost) Changed(int, string)                      {}
func (*kvHost) Flushed(int)                              {}
func (*kvHost) Event(int, kv.EventClass, string, string) {}
func (*kvHost) UsersChanged(*acl.Users)                  {}

// Published implements kv.Host: every node has one client that listens.
func (x *kvHost) Published(_, message []byte, _ bool) int {
	k := (*kvnode)(x)
	k.heard++
	if k.w.check.result(k, hashOf(message)) {
		k.lineage.model.messages = append(k.lineage.model.messages, k.at.LSN)
	}
	return 1
}

// Served implements kv.Host.
func (x *kvHost) Served(smr.SessionID, uint64) *resp.Reply {
	x.waits.reply.Reset()
	return &x.waits.reply
}

// ServedEnd implements kv.Host.
func (x *kvHost) ServedEnd(session smr.SessionID, sequence uint64, again bool) {
	k := (*kvnode)(x)
	if again {
		return
	}
	reply := k.waits.reply.Buf
	c := k.w.check
	if c.result(k, hashOf(reply)^sequence) {
		k.w.hit(probeServed)
		k.lineage.model.served = append(k.lineage.model.served, served{c.owners[requestID{session, sequence}], bytes.Clone(reply), k.applied})
	}
	for i, b := range k.waits.all {
		if session == k.id && b.sequence == sequence {
			k.waits.all = append(k.waits.all[:i], k.waits.all[i+1:]...)
			k.count--
			c.acknowledged(k, b.op, k.at, reply)
			return
		}
	}
}

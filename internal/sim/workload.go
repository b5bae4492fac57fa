package sim

import (
	"strconv"

	"lockstep/internal/kv"
	"lockstep/smr"
	"lockstep/smr/session"
)

// outcome of an operation.
type outcome uint8

const (
	outcomePending outcome = iota
	outcomeDone
	outcomeRefused
	outcomeUncertain
)

// operation is one command of a client.
type operation struct {
	id       uint64 // unique in the schedule; what a list-append appends
	node     *host
	key      int  // of the list, -1 for other commands
	reading  bool // linearizable read
	args     [][]byte
	payload  []byte
	slot     uint16
	ticket   session.Ticket
	sequence uint64
	index    smr.LSN // of a read
	asked    *lineage
	waits    int // ticks
	floor    int // the list had at least so many elements when it was asked
	outcome  outcome
	executed bool // seen in the committed log
	final    bool // of the last phase: must succeed

	// Of the kinds in clients.go.
	kind   kind
	left   bool // its client has gone
	taken  bool // what it brought was popped, or delivered
	which  int
	number int64
	entry  string
	done   func(executed bool)
}

// workload is what clients do. Lists of unique numbers show what is lost, doubled or out of order.
type workload struct {
	w      *world
	all    []*operation // by id-1
	finals int          // operations of the last phase that have not succeeded
	stop   bool
	groups []int // of Options.Mix
}

func (l *workload) init(w *world) {
	l.w = w
	for group := 1; group < mixAll; group <<= 1 {
		if w.o.Mix&group != 0 {
			l.groups = append(l.groups, group)
		}
	}
}

const maxOutstanding = 24

var listKeys = [][]byte{[]byte("l0"), []byte("l1"), []byte("l2"), []byte("l3")}

// operate is an event of a KV node: one client asks something.
func (l *workload) operate(k *kvnode) {
	w := l.w
	r := w.draw.work
	wait := between(r, 1, 2*w.o.OpMicros)
	if w.healing {
		wait *= 4
	}
	w.after(wait, k, whatOperate)
	if k.count >= maxOutstanding || l.stop {
		return
	}
	key := r.IntN(w.o.Keys)
	p := r.Float64()
	if p >= w.o.ReadShare && chance(r, w.o.Mixed) {
		l.mixed(k)
		return
	}
	switch {
	case p < w.o.ReadShare:
		op := l.newOperation(k.h, key)
		op.reading = true
		op.args = [][]byte{[]byte("lrange"), listKeys[key], []byte("0"), []byte("-1")}
		if r.IntN(3) > 0 {
			op.args = [][]byte{[]byte("llen"), listKeys[key]}
		}
		k.read(op)
	case p < w.o.ReadShare+0.15*(1-w.o.ReadShare):
		k.submit(l.other(k.h, int(r.Uint64N(8)), r.Uint64()))
	default:
		k.submit(l.appending(k.h, key, chance(r, w.o.Large)))
	}
}

func (l *workload) newOperation(h *host, key int) *operation {
	op := &operation{id: uint64(len(l.all) + 1), node: h, key: key, asked: l.w.check.lineage}
	if key >= 0 {
		op.floor = l.w.check.floor(key)
	}
	l.all = append(l.all, op)
	return op
}

// appending returns a list-append, with a long tail now and then so that frames cross files.
func (l *workload) appending(h *host, key int, large bool) *operation {
	op := l.newOperation(h, key)
	args := [][]byte{[]byte("rpush"), listKeys[key], strconv.AppendUint(nil, op.id, 10)}
	op.slot = kv.Slot(listKeys[key])
	if large {
		filler := make([]byte, between(l.w.draw.work, 1<<10, 12<<10))
		op.payload = kv.AppendTransaction(nil, nil, [][][]byte{args, {[]byte("set"), []byte("filler"), filler}})
		op.slot = smr.NoSlot
		return op
	}
	op.payload = kv.AppendCommand(nil, args)
	return op
}

// other returns a command of another kind: time, randomness and several types take part in the digests.
func (l *workload) other(h *host, kind int, x uint64) *operation {
	op := l.newOperation(h, -1)
	key := []byte("k" + strconv.FormatUint(x%5, 10))
	number := strconv.AppendUint(nil, x%100, 10)
	var args [][]byte
	switch kind {
	case 0:
		args = [][]byte{[]byte("set"), key, number, []byte("px"), strconv.AppendUint(nil, 20+x%500, 10)}
	case 1:
		args = [][]byte{[]byte("sadd"), []byte("s"), number}
	case 2:
		args = [][]byte{[]byte("spop"), []byte("s")}
	case 3:
		args = [][]byte{[]byte("zadd"), []byte("z"), number, key}
	case 4:
		args = [][]byte{[]byte("hset"), []byte("h"), key, number}
	case 5:
		args = [][]byte{[]byte("incr"), []byte("c")}
	case 6:
		args = [][]byte{[]byte("del"), key}
	default:
		args = [][]byte{[]byte("append"), []byte("a"), number}
	}
	op.slot = kv.Slot(args[1])
	op.payload = kv.AppendCommand(nil, args)
	return op
}

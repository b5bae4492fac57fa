package sim

import (
	"bytes"
	"slices"
	"strconv"

	"lockstep/smr"
)

// model follows what the operations of clients.go have to do, in the order in which they are executed: it is told of each once,
// by whichever node comes to it first. That the others give the same replies is checked apart.
type model struct {
	w        *world
	counters [2]int64
	entries  []uint64 // of the stream: operations, in the order in which they were added
	fetched  int      // so many of them were delivered to the group
	pending  []string // IDs of entries that were delivered and not confirmed
	listed   int64    // elements of the list of the scripts
	scripts  int64    // that ran to their end
	messages []smr.LSN
	served   []served // by the request that is being executed, which comes first
}

// served is a waiting operation that got its reply.
type served struct {
	op    *operation
	reply []byte
	lsn   smr.LSN
}

// flush takes in what the last request has served.
func (m *model) flush() {
	for _, s := range m.served {
		if l := m.w.check.lineage; &l.model == m {
			l.learn(m.w, s.lsn, s.op, s.reply)
		}
		m.done(s.op, s.reply)
	}
	m.served = m.served[:0]
}

// done is called with the reply of an operation.
func (m *model) done(op *operation, reply []byte) {
	if op == nil || op.kind == kindPlain || op.kind == kindPush || op.kind == kindRecord || op.kind == kindPublish || op.kind == kindMove {
		return
	}
	n, isNumber := lastNumber(reply)
	switch op.kind {
	case kindPop:
		if isNumber {
			m.take(op, kindPush, n)
		}
	case kindCount:
		m.counters[op.which]++
		m.expect(op, reply, m.counters[op.which])
	case kindClear:
		m.counters[op.which] = 0
	case kindSwap:
		if !bytes.Equal(reply, []byte("*1\r\n+OK\r\n")) {
			m.w.hit(probeWatchFailed)
			break
		}
		if m.counters[op.which] != op.number {
			m.w.violate("a stale transaction is executed", "operation %d saw %d, it is %d", op.id, op.number, m.counters[op.which])
		}
		m.w.hit(probeWatchHeld)
		m.counters[op.which]++
	case kindEntry:
		m.entries = append(m.entries, op.id)
	case kindFetch:
		m.fetch(op, reply)
	case kindConfirm:
		want := int64(0)
		if i := slices.Index(m.pending, op.entry); i >= 0 {
			want, m.pending = 1, slices.Delete(m.pending, i, i+1)
			m.w.hit(probeConfirmed)
		}
		m.expect(op, reply, want)
	case kindScript:
		m.listed++
		m.scripts++
		m.expect(op, reply, m.scripts)
	case kindFailing:
		m.listed++ // what it wrote before it failed stays
		m.w.hit(probeScriptFailed)
	}
}

func (m *model) expect(op *operation, reply []byte, want int64) {
	if string(reply) != ":"+strconv.FormatInt(want, 10)+"\r\n" {
		m.w.violate("a wrong reply", "operation %d: %q, expected %d", op.id, reply, want)
	}
}

// take notes that what an operation brought was taken by another: once. Operations know this of the stream that the group has now, not of those that were given
// up: a node that kept one of them may execute more of it.
func (m *model) take(op *operation, brought kind, id int64) {
	if m != &m.w.check.lineage.model {
		return
	}
	all := m.w.work.all
	if id < 1 || id > int64(len(all)) || all[id-1].kind != brought || !all[id-1].executed {
		m.w.violate("an element that nobody has pushed", "operation %d took %d", op.id, id)
	}
	if all[id-1].taken {
		m.w.violate("an element is popped twice", "operation %d took %d", op.id, id)
	}
	all[id-1].taken = true
}

// fetch takes the entries that a consumer group delivered: the next ones, each once.
func (m *model) fetch(op *operation, reply []byte) {
	var all [4 * 3][]byte
	texts := bulks(reply, all[:0])
	for texts = texts[min(1, len(texts)):]; len(texts) >= 3; texts = texts[3:] { // behind the name of the stream: ID, field, value
		id, err := strconv.ParseInt(string(texts[2]), 10, 64)
		if err != nil || m.fetched >= len(m.entries) || m.entries[m.fetched] != uint64(id) {
			m.w.violate("an entry is not delivered in its turn", "operation %d: %q, %d of %d were delivered", op.id, reply, m.fetched, len(m.entries))
		}
		m.take(op, kindEntry, id)
		m.fetched++
		m.pending = append(m.pending, string(texts[0]))
		m.w.hit(probeFetched)
	}
}

// settled compares the state of a node with the model, when all that is committed has been executed there.
func (m *model) settled(k *kvnode) {
	for i, key := range counterKeys {
		if n := k.readNumber("get", key); n != m.counters[i] {
			m.w.violate("a counter is wrong", "%s: %d in place of %d", key, n, m.counters[i])
		}
	}
	for i, want := range []int64{m.listed, m.scripts} {
		name := []string{"llen", "get"}[i]
		if n := k.readNumber(name, scriptKeys[i]); n != want {
			m.w.violate("scripts have written something else", "%s: %d in place of %d", scriptKeys[i], n, want)
		}
	}
	if n := k.readNumber("xlen", streamKey); n != int64(len(m.entries)) {
		m.w.violate("entries of a stream are lost", "%d of %d", n, len(m.entries))
	}
	m.queues(k)
	first, _ := slices.BinarySearch(m.messages, k.heardFrom)
	if want := len(m.messages) - first; k.heard != want {
		m.w.violate("a message was missed", "%s heard %d of %d since %d", k.h.id, k.heard, want, k.heardFrom)
	}
	if n := k.machine.Waiters(k.id); n > 0 && len(k.waits.abandoned) == 0 {
		m.w.violate("a command waits for nobody", "%s: %d, %v", k.h.id, n, k.machine.Waiting(k.id))
	}
}

// queues checks that every element that was pushed was popped, or is there, and not both.
func (m *model) queues(k *kvnode) {
	there := make(map[uint64]bool)
	for _, key := range queueKeys {
		k.reply.Reset()
		k.machine.Read(0, [][]byte{[]byte("lrange"), key, []byte("0"), []byte("-1")}, &k.reply)
		for _, text := range bulks(k.reply.Buf, nil) {
			id, err := strconv.ParseUint(string(text), 10, 64)
			if err != nil || there[id] {
				m.w.violate("an element is there twice", "%s in %s", text, key)
			}
			there[id] = true
		}
	}
	for _, op := range m.w.work.all {
		if op.kind == kindPush && op.executed && op.taken == there[op.id] {
			m.w.violate("an element is lost or doubled", "operation %d: popped %v, there %v", op.id, op.taken, there[op.id])
		}
	}
}

// lastNumber returns the number in the last line of a reply.
func lastNumber(reply []byte) (int64, bool) {
	reply = bytes.TrimSuffix(reply, []byte("\r\n"))
	line := reply[bytes.LastIndexByte(reply, '\n')+1:]
	if len(line) > 0 && line[0] == ':' {
		line = line[1:]
	}
	n, err := strconv.ParseInt(string(line), 10, 64)
	return n, err == nil
}

// bulks appends all texts in a reply.
func bulks(reply []byte, texts [][]byte) [][]byte {
	for len(reply) > 0 {
		line, rest, _ := bytes.Cut(reply, []byte("\r\n"))
		reply = rest
		if line[0] != '$' {
			continue
		}
		if n, err := strconv.Atoi(string(line[1:])); err == nil && n >= 0 {
			texts = append(texts, reply[:n])
			reply = reply[n+2:]
		}
	}
	return texts
}

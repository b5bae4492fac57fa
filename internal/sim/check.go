package sim

import (
	"bytes"
	"errors"
	"strconv"

	"lockstep/internal/kv"
	"lockstep/log"
	"lockstep/log/simfs"
	"lockstep/smr"
	"lockstep/smr/replica"

	"github.com/cespare/xxhash/v2"
)

// checker holds what is true for ever, and compares with it what everybody does.
type checker struct {
	w        *world
	*lineage            // that the group has now
	older    []*lineage // oldest first
	owners   map[requestID]*operation
	writers  map[smr.Epoch]smr.Life

	forcedEpoch smr.Epoch // of the last forced recovery, 0 if there was none
	announced   smr.LSN   // below it nothing may be lost by those on record which nobody has led since
}

type requestID struct {
	session  smr.SessionID
	sequence uint64
}

func newChecker(w *world) *checker {
	return &checker{w: w, lineage: newLineage(w), owners: make(map[requestID]*operation), writers: make(map[smr.Epoch]smr.Life)}
}

func (c *checker) floor(key int) int { return c.floors[key] }

// recovered is called when a replicator has opened its directory. It returns the log.
func (c *checker) recovered(h *host, m *home) ([]byte, error) {
	w := c.w
	end := m.log.End()
	start := m.log.Start()
	_, sum := m.log.Digest()
	s := c.lineageOf(m.log.History().PositionOf(end).Epoch, end, func(log []byte) bool { return xxhash.Sum64(log) == sum })
	if start > s.end() {
		w.violate("a log begins above commit", "%s begins at %d, committed is %d", h.id, start, s.end())
	}
	shadow := make([]byte, end, max(end, s.end())+16<<10)
	copy(shadow, s.committed[:start])
	reader, err := log.OpenReader(h.disk, dirLog)
	if err == nil {
		_, err = reader.ReadAt(shadow[start:], start, end)
		_ = reader.Close()
	}
	switch {
	case errors.Is(err, simfs.ErrCrashed):
		return nil, err
	case err != nil:
		w.violate("a recovered log cannot be read", "%s: %v", h.id, err)
	}
	if sum != xxhash.Sum64(shadow) {
		w.violate("the digest of a log is wrong", "%s: %d to %d", h.id, start, end)
	}
	d := h.drive
	if d.node != "" && d.node != h.id {
		w.violate("a directory of another node was opened", "%s opened that of %s", h.id, d.node)
	}
	if m.saved.Incarnation != d.incarnation {
		switch {
		case d.incarnation != 0 && !d.harmed:
			w.violate("a healthy replica became a new incarnation", "%s: %s", h.id, m.renewd)
		case d.incarnation != 0:
			w.hit(probeReborn)
		}
		*d = drive{home: d.home, incarnation: m.saved.Incarnation, images: d.images}
	}
	d.node = h.id // also where a state came back that was moved away: the disk had crashed in that call
	if m.saved.Promise < d.promised {
		w.violate("a promise is lost", "%s promised %d, after the restart %d", h.id, d.promised, m.saved.Promise)
	}
	if end < d.durable {
		w.violate("durable bytes are lost", "%s: durable %d, after the restart the log ends at %d", h.id, d.durable, end)
	}
	if m.report.CutBytes > 0 {
		w.hit(probeTailCut)
	}
	if known := min(len(d.last), int(d.durable), len(shadow)); !bytes.Equal(shadow[:known], d.last[:known]) {
		w.violate("durable bytes have changed", "%s below %d", h.id, known)
	}
	c.agree(s, h, shadow, 0, min(m.log.LastCommit(), end))
	d.harmed, d.durable, d.judged, d.promised = false, end, min(d.judged, end), m.saved.Promise // what was found is durable
	h.lineage = s
	return shadow, nil
}

// appended is called for every append that a core gives out.
func (c *checker) appended(r *replicator, at smr.LSN, frames []byte) {
	c.w.fold(uint64(at)<<16 ^ uint64(len(frames)))
	if r.core.Commit() > at+smr.LSN(len(frames)) {
		c.w.hit(probeLagging)
	}
}

// event is called for every event of a core.
func (c *checker) event(r *replicator, e *replica.Event) {
	w := c.w
	if w.trace != nil {
		w.say(string(r.h.id), "%s epoch %d lsn %d %s %s", e.Name, e.Epoch, e.LSN, e.Node, e.Text)
	}
	if e.Name == replica.EventReconfigure && w.cutReconfigured > 0 && !w.healing {
		w.cutOff(r.h.place, w.now+w.cutReconfigured*millisecond)
		w.cutReconfigured = 0
	}
	switch e.Name {
	case replica.EventAwaitsLease:
		w.hit(probeLeaseAwaited)
	case replica.EventBroken:
		w.violate("a log contradicts its master's", "%s: %s", r.h.id, e.Text)
	case replica.EventLeading, replica.EventReconfigure:
		if life, known := c.writers[e.Epoch]; known && life != r.life {
			w.violate("two writers in one epoch", "epoch %d: life %x, then %x on %s", e.Epoch, life, r.life, r.h.id)
		}
		c.writers[e.Epoch] = r.life
		if e.Name == replica.EventLeading {
			w.stats.Elections++
			if c.forcedEpoch > c.after && e.Epoch > c.forcedEpoch {
				c.fork(r)
			}
		} else {
			w.stats.Reconfigured++
			w.hit(probeReconfigured)
		}
	case replica.EventEstablished:
		w.stats.Established++
	case replica.EventRejected:
		w.hit(probeRejected)
	case replica.EventImageForeign:
		w.hit(probeImageForeign)
	case replica.EventBegun:
		w.hit(probeBegun)
	case replica.EventNeedImage:
		w.hit(probeNeedImage)
		if w.o.ImageBytes > 0 {
			break
		}
		w.violate("a checkpoint is needed", "%s: nothing was trimmed: %s", r.h.id, e.Text)
	}
}

// status is called when a replicator's loop has come round.
func (c *checker) status(r *replicator, before, after *replica.Status) {
	w := c.w
	switch {
	case after.Safe < before.Safe:
		w.violate("safe went back", "%s: %d after %d", r.h.id, after.Safe, before.Safe)
	case after.Safe > after.Commit || after.Safe > after.Durable || after.Durable > after.End || after.Start > after.Safe && after.Start > 0:
		w.violate("the order of LSNs is broken", "%s: start %d safe %d commit %d durable %d end %d", r.h.id,
			after.Start, after.Safe, after.Commit, after.Durable, after.End)
	case after.Durable > r.h.drive.durable:
		w.violate("counted as durable before it is", "%s: %d, the disk has %d", r.h.id, after.Durable, r.h.drive.durable)
	case int(after.End) != len(r.shadow):
		w.violate("the log is not what was ordered", "%s: end %d, %d bytes ordered", r.h.id, after.End, len(r.shadow))
	case after.Commit < min(before.Commit, before.End, after.End): // what lies above the own log is forgotten with its master
		w.violate("commit went back", "%s: %d after %d", r.h.id, after.Commit, before.Commit)
	}
	if after.Leading || after.Joined {
		r.h.lineage = c.of(after.Epoch)
	}
	if after.Leading && after.Commit != before.Commit {
		c.leases(r, after)
	}
	if after.Leading && after.Commit > after.Durable {
		w.hit(probeMasterLags)
	}
	if after.Commit != before.Commit || after.End != before.End {
		w.fold(uint64(after.Commit)<<32 ^ uint64(after.End))
		from := min(before.Commit, before.End)
		c.agree(r.h.lineage, r.h, r.shadow, min(from, after.End), min(after.Commit, after.End))
	}
}

// leases holds S11 against what a master has just committed: nobody who is not its KV node may still read under a lease of an
// earlier reign.
func (c *checker) leases(r *replicator, status *replica.Status) {
	for _, h := range c.w.hosts {
		if h.kv == nil || h.kv.page == nil || h.kv.page == r.page {
			continue
		}
		if p := h.kv.page; p.epoch < status.Config.Reign && h.clock() < p.until {
			c.w.violate("a lease outlives an election", "%s may read under epoch %d for %d microseconds more, %s commits in epoch %d",
				h.id, p.epoch, p.until-h.clock(), r.h.id, status.Config.Epoch)
		}
	}
}

// agree compares a part of a log with the committed prefix of its stream, which it makes longer if it can.
func (c *checker) agree(s *lineage, h *host, shadow []byte, from, end smr.LSN) {
	if from >= end {
		return
	}
	known := min(end, s.end())
	if from < known && !bytes.Equal(shadow[from:known], s.committed[from:known]) {
		at := from
		for shadow[at] == s.committed[at] {
			at++
		}
		c.w.violate("committed bytes differ", "%s at %d", h.id, at)
	}
	switch {
	case end <= s.end():
	case s != c.lineage:
		c.w.violate("a stream that was given up goes on", "%s commits up to %d, committed was %d when it was given up", h.id, end, s.end())
	default:
		c.commit(shadow[s.end():end])
	}
}

// commit takes new committed bytes in: whole frames.
func (c *checker) commit(frames []byte) {
	for len(frames) > 0 {
		f, err := smr.DecodeFrame(frames, c.end())
		if err != nil {
			c.w.violate("committed bytes are no frames", "%v", err)
		}
		c.committed = append(c.committed, frames[:f.Size()]...)
		c.w.stats.Frames++
		if f.Kind == smr.KindRequests {
			c.requests(f)
		}
		frames = frames[f.Size():]
	}
}

func (c *checker) requests(f smr.Frame) {
	w := c.w
	for rest := f.Body; len(rest) > 0; {
		request, behind, err := smr.CutRequest(rest)
		if err != nil {
			w.violate("committed bytes are no frames", "%v", err)
		}
		rest = behind
		op := c.owners[requestID{request.Session, request.Sequence}]
		if op == nil || !bytes.Equal(op.payload, request.Payload) {
			w.violate("a request that nobody made is committed", "session %x sequence %d at %d", request.Session, request.Sequence, f.LSN)
		}
		admission := c.sessions.Admit(request.Session, request.Sequence, f.LSN)
		if admission != smr.Execute {
			continue
		}
		switch {
		case op.executed:
			w.violate("a request executes twice", "operation %d at %d", op.id, f.LSN)
		case op.outcome == outcomeRefused:
			w.violate("a refused request executes", "operation %d at %d", op.id, f.LSN)
		}
		op.executed = true
		if op.outcome == outcomeUncertain {
			w.hit(probeUncertainDone)
		}
		if op.key >= 0 {
			if len(c.lists[op.key]) < op.floor {
				w.violate("a write is ordered before what was answered before it", "operation %d is element %d, %d were known",
					op.id, len(c.lists[op.key]), op.floor)
			}
			op.floor = len(c.lists[op.key]) // from here on: its place
			c.lists[op.key] = append(c.lists[op.key], op.id)
		}
	}
}

// applying is called before a KV node executes a frame that it has read from its files.
func (c *checker) applying(k *kvnode, f smr.Frame, raw []byte) {
	if f.LSN != k.applied {
		c.w.violate("a frame is skipped or repeated", "%s executed up to %d, next is %d", k.h.id, k.applied, f.LSN)
	}
	if len(c.older) > 0 {
		c.moveOn(k, f, raw)
	}
	s := k.lineage
	switch {
	case f.End() > s.end():
		c.w.violate("executed above commit", "%s executes up to %d, committed is %d", k.h.id, f.End(), s.end())
	case !bytes.Equal(raw, s.committed[f.LSN:f.End()]):
		c.w.violate("executed bytes differ from committed ones", "%s at %d", k.h.id, f.LSN)
	}
}

// executed is called with every result of every KV node.
func (c *checker) executed(k *kvnode, request smr.Request, admission smr.Admission, reply []byte) {
	first := c.result(k, hashOf(reply)^uint64(admission))
	if _, blocked := k.machine.Blocked(); first && admission == smr.Execute && !blocked {
		op := c.owners[requestID{request.Session, request.Sequence}]
		k.lineage.learn(c.w, k.applied, op, reply)
		k.lineage.model.done(op, reply)
	}
	k.lineage.model.flush()
}

// result takes what a node has come to next, a reply or a message, as a hash, and reports whether it is the first to come there.
func (c *checker) result(k *kvnode, hash uint64) (first bool) {
	s := k.lineage
	first = k.requests == len(s.results)
	if k.requests > len(s.results) && s != c.lineage {
		k.requests++ // nobody had come so far when this stream was given up
		return false
	}
	if first {
		s.results = append(s.results, hash)
		if c.w.o.mayLose() {
			s.resultAt = append(s.resultAt, k.applied)
		}
	} else if s.results[k.requests] != hash {
		c.w.violate("nodes give different replies", "%s: result %d, at %d", k.h.id, k.requests, k.at.LSN)
	}
	k.requests++
	return first
}

// applied is called when a KV node has executed a frame.
func (c *checker) applied(k *kvnode) {
	k.lineage.model.flush()
	if (uint64(k.applied)*0x9E3779B97F4A7C15)>>57 == 0 {
		c.digest(k)
	}
}

// digest compares the state of a node with that of others at the same LSN.
func (c *checker) digest(k *kvnode) {
	digest := k.machine.Digest()
	if known, ok := k.lineage.digests[k.applied]; ok && known != digest {
		c.w.violate("states differ", "%s at %d", k.h.id, k.applied)
	}
	k.lineage.digests[k.applied] = digest
}

// numbered is called when a request gets its sequence, before it is sent.
func (c *checker) numbered(k *kvnode, op *operation) {
	c.owners[requestID{k.id, op.sequence}] = op
}

// acknowledged is called when a client gets the reply to its write.
func (c *checker) acknowledged(k *kvnode, op *operation, at kv.Instant, reply []byte) {
	given := k.lineage != c.lineage // what was executed of a stream that is given up by now: announced as lost
	switch {
	case op.outcome != outcomePending:
		c.w.violate("answered twice", "operation %d", op.id)
	case at.LSN >= k.lineage.end() || !op.executed && !given:
		c.w.violate("acknowledged before commit", "operation %d at %d, committed is %d", op.id, at.LSN, c.end())
	}
	op.outcome = outcomeDone
	c.w.stats.Acknowledged++
	if op.key >= 0 && (!given || at.LSN < c.sharedEnd(k.lineage, c.lineage)) {
		if want := op.floor + 1; reply[0] == ':' && string(reply) != ":"+strconv.Itoa(want)+"\r\n" {
			c.w.violate("a wrong reply", "operation %d: %q, it is element %d", op.id, reply, want)
		}
		c.floors[op.key] = max(c.floors[op.key], op.floor+1)
	}
	if op.done != nil {
		op.done(true)
	}
	c.succeeded(op)
}

// answered is called when an operation ended without a result.
func (c *checker) answered(_ *kvnode, op *operation, result outcome) {
	if op.outcome != outcomePending {
		c.w.violate("answered twice", "operation %d", op.id)
	}
	op.outcome = result
	if op.done != nil {
		op.done(false)
	}
	switch result {
	case outcomeRefused:
		c.w.stats.Refused++
		if op.executed {
			c.w.violate("a refused request executes", "operation %d", op.id)
		}
	case outcomeUncertain:
		c.w.stats.Uncertain++
		c.w.hit(probeUncertain)
	}
}

// read is called with the reply to a linearizable read. One that was asked before a forced recovery may see what was there before it.
func (c *checker) read(k *kvnode, op *operation, reply []byte) {
	op.outcome = outcomeDone
	c.w.stats.Reads++
	if k.lineage != c.lineage && k.applied > c.sharedEnd(k.lineage, c.lineage) {
		if op.asked != c.lineage {
			return
		}
		c.w.violate("a read sees a stream that was given up", "operation %d on %s: read at %d, applied %d", op.id, k.h.id, op.index, k.applied)
	}
	line := bytes.IndexByte(reply, '\r')
	n, err := strconv.Atoi(string(reply[1:max(line, 1)]))
	list := c.lists[op.key]
	switch {
	case err != nil || n > len(list):
		c.w.violate("a wrong reply", "operation %d: %q, %d elements are committed", op.id, reply, len(list))
	case n < op.floor:
		c.w.violate("a linearizable read misses what was answered before", "operation %d on %s: %d elements, %d were known; read at %d, applied %d",
			op.id, k.h.id, n, op.floor, op.index, k.applied)
	}
	if reply[0] == '*' {
		rest := reply[line+2:]
		var want []byte
		for _, id := range list[:n] {
			digits := strconv.FormatUint(id, 10)
			want = append(want, '$')
			want = strconv.AppendInt(want, int64(len(digits)), 10)
			want = append(want, "\r\n"...)
			want = append(want, digits...)
			want = append(want, "\r\n"...)
		}
		if !bytes.Equal(rest, want) {
			c.w.violate("a wrong reply", "operation %d: %q, committed is %v", op.id, rest, list[:n])
		}
	}
	c.floors[op.key] = max(c.floors[op.key], n)
	c.succeeded(op)
}

func (c *checker) succeeded(op *operation) {
	if op.final {
		op.final = false
		c.w.work.finals--
	}
}

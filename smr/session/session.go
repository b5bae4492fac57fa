package session

import (
	"encoding/binary"

	"lockstep/internal/invariant"
	"lockstep/internal/mutant"
	"lockstep/smr"
)

const (
	// chunkSize is the size in bytes of the memory in which small requests are put one behind the other, so that a run
	// of them is a Propose without being copied; the first ones are smaller. Requests above aloneSize get memory of their own.
	chunkSize  = 256 << 10
	firstChunk = 8 << 10
	aloneSize  = chunkSize / 4
	// sequenceAt is the offset of the sequence in an encoded request (drawn in package smr).
	sequenceAt = 16
	// maxRounds bounds the questions for an LSN to read at that are on their way; further reads wait for the next.
	maxRounds = 4
)

// Session is the client side of one group: see the package comment. Not safe for concurrent use.
type Session struct {
	options Options
	now     uint64 // ticks

	conn     ConnID // 0: not connected
	heard    uint64 // tick of the last sign of life on conn
	asked    bool   // for a sign of life, since heard
	lastID   uint64 // of a question
	writable bool
	lostAt   uint64 // tick since which there is no writable master; meaningless while there is one
	refusing bool   // there was none for RefuseAfterTicks
	stopped  bool

	// Requests in order of submission: sent, then unsent. The sequence of sent[i] is executed+1+i.
	//
	// Invariant: doubted <= sent.len() and onConn <= sent.len().
	sent     fifo[request]
	unsent   fifo[request]
	executed uint64
	doubted  int // so many of sent, from the front, were answered Uncertain
	onConn   int // so many of sent, from the front, have been sent on conn
	bytes    int // of all in sent and unsent
	chunk    []byte

	// Reads in order of arrival. The first of them belong to rounds, in order; the rest has not been asked for on conn.
	reads   fifo[wait]
	rounds  []round
	inRound int // reads that belong to rounds
	counts  []count
}

type request struct {
	wait
	encoded []byte // its capacity reaches to the end of its chunk
}

// wait is a caller's ticket and the tick at which it is answered in any case.
type wait struct {
	ticket   Ticket
	deadline uint64
}

// round is a question for an LSN and how many of the reads it answers.
type round struct {
	id    uint64
	reads int
	sent  uint64 // tick
}

type count struct {
	wait
	lsn smr.LSN
	id  uint64 // 0: not asked on conn
}

// New returns a session that has sent nothing and is not connected. Options must be valid.
func New(options Options) *Session {
	err := options.Validate()
	invariant.Assert(err == nil, "session options are valid", err)
	return &Session{options: options}
}

// Pending returns the requests that are neither executed nor refused, and their bytes.
func (s *Session) Pending() (requests, bytes int) { return s.sent.len() + s.unsent.len(), s.bytes }

// Refusing reports whether new requests and reads are refused at once.
func (s *Session) Refusing() bool { return s.refusing }

// Step takes one input and adds what follows from it to effects.
func (s *Session) Step(in Input, effects *Effects) {
	switch in := in.(type) {
	case *Submit:
		s.submit(in, effects)
	case *Read:
		s.read(in, effects)
	case *Count:
		s.count(in, effects)
	case *Executed:
		s.dropExecuted(in.Through)
	case *ReadReady:
		s.answerReads(in, effects)
	case *CopiesCounted:
		s.answerCount(in, effects)
	case *Tick:
		s.tick(effects)
	case *Busy:
		if in.Conn == s.conn {
			s.heard = s.now
		}
	case *Connected:
		s.connect(in.Conn)
	case *Disconnected:
		if in.Conn == s.conn {
			s.disconnect()
		}
	case *Writable:
		was := s.available()
		s.writable = in.Writable
		s.noteAvailability(was)
	case *Stop:
		s.stop(effects)
	}
}

// Flush sends what is to be sent on the present connection.
func (s *Session) Flush(effects *Effects) {
	if s.conn == 0 || s.stopped {
		return
	}
	s.number(effects)
	s.propose(effects)
	if unasked := s.reads.len() - s.inRound; unasked > 0 && len(s.rounds) < maxRounds {
		s.lastID++
		s.rounds = append(s.rounds, round{id: s.lastID, reads: unasked, sent: s.now})
		s.inRound += unasked
		s.send(effects, &smr.ReadIndex{ID: s.lastID})
	}
	for i := range s.counts {
		if c := &s.counts[i]; c.id == 0 {
			s.lastID++
			c.id = s.lastID
			s.send(effects, &smr.CountCopies{ID: c.id, LSN: c.lsn})
		}
	}
}

// number gives everything unsent its sequence.
func (s *Session) number(effects *Effects) {
	for s.unsent.len() > 0 {
		r := s.unsent.pop()
		s.sent.push(r)
		sequence := s.executed + uint64(s.sent.len())
		binary.LittleEndian.PutUint64(r.encoded[sequenceAt:], sequence)
		effects.Numbered = append(effects.Numbered, Numbered{Ticket: r.ticket, Sequence: sequence})
	}
}

// propose sends what has not been sent on this connection, in order of sequence.
func (s *Session) propose(effects *Effects) {
	for s.onConn < s.sent.len() {
		first := s.sent.at(s.onConn)
		batch := &smr.Propose{Count: 1, Requests: first.encoded}
		s.onConn++
		for s.onConn < s.sent.len() {
			next := s.sent.at(s.onConn).encoded
			if len(batch.Requests)+len(next) > s.options.BatchBytes || !follows(batch.Requests, next) {
				break
			}
			batch.Requests = batch.Requests[:len(batch.Requests)+len(next)]
			batch.Count++
			s.onConn++
		}
		batch.Requests = batch.Requests[:len(batch.Requests):len(batch.Requests)]
		s.send(effects, batch)
	}
}

// follows reports whether next lies in memory right behind batch, in the same chunk.
func follows(batch, next []byte) bool {
	end := len(batch)
	return end < cap(batch) && &batch[: end+1 : end+1][end] == &next[0]
}

func (s *Session) send(effects *Effects, message any) {
	effects.Send = append(effects.Send, Send{Conn: s.conn, Message: message})
}

func (s *Session) submit(in *Submit, effects *Effects) {
	size := smr.RequestHeaderSize + len(in.Payload)
	requests, bytes := s.Pending()
	outcome := Success
	switch {
	case len(in.Payload) > smr.MaxPayload:
		outcome = TooLarge
	case s.refusing || s.stopped:
		outcome = Refused
	case requests >= s.options.MaxPending || bytes+size > s.options.MaxPendingBytes:
		outcome = Overloaded
	}
	if outcome != Success {
		effects.Done = append(effects.Done, Done{Ticket: in.Ticket, Outcome: outcome})
		return
	}
	s.unsent.push(request{wait: s.wait(in.Ticket), encoded: s.encode(in, size)})
	s.bytes += size
}

// encode puts the request, without its sequence, behind the one before.
func (s *Session) encode(in *Submit, size int) []byte {
	r := smr.Request{Session: s.options.ID, Slot: in.Slot, Flags: in.Flags, Payload: in.Payload}
	if size > aloneSize {
		return smr.AppendRequest(make([]byte, 0, size), r)
	}
	if cap(s.chunk)-len(s.chunk) < size {
		s.chunk = make([]byte, 0, max(firstChunk, size, min(2*cap(s.chunk), chunkSize)))
	}
	start := len(s.chunk)
	s.chunk = smr.AppendRequest(s.chunk, r)
	return s.chunk[start:]
}

func (s *Session) read(in *Read, effects *Effects) {
	switch {
	case s.refusingReads() || s.stopped:
		effects.ReadsRefused = append(effects.ReadsRefused, Done{Ticket: in.Ticket, Outcome: Refused})
	case s.reads.len() >= s.options.MaxReads:
		effects.ReadsRefused = append(effects.ReadsRefused, Done{Ticket: in.Ticket, Outcome: Overloaded})
	default:
		s.reads.push(s.wait(in.Ticket))
	}
}

func (s *Session) count(in *Count, effects *Effects) {
	switch {
	case s.stopped:
		effects.Counts = append(effects.Counts, CountDone{Ticket: in.Ticket, Outcome: Refused})
	case len(s.counts) >= s.options.MaxReads:
		effects.Counts = append(effects.Counts, CountDone{Ticket: in.Ticket, Outcome: Overloaded})
	default:
		s.counts = append(s.counts, count{wait: s.wait(in.Ticket), lsn: in.LSN})
	}
}

func (s *Session) wait(ticket Ticket) wait {
	return wait{ticket: ticket, deadline: s.now + uint64(s.options.TimeoutTicks)}
}

// dropExecuted forgets requests that were executed.
func (s *Session) dropExecuted(through uint64) {
	if through <= s.executed {
		return
	}
	executed := int(through - s.executed)
	if executed > s.sent.len() {
		invariant.Fail("only what was sent is executed", through, s.executed, s.sent.len())
	}
	for range executed {
		s.bytes -= len(s.sent.pop().encoded)
	}
	s.executed = through
	s.doubted = max(0, s.doubted-executed)
	s.onConn = max(0, s.onConn-executed)
}

// answerReads answers the reads of all rounds up to that of the message.
func (s *Session) answerReads(in *ReadReady, effects *Effects) {
	if in.Conn != s.conn {
		return
	}
	s.hear()
	answered := 0
	for len(s.rounds) > 0 && s.rounds[0].id <= in.Message.ID {
		answered += s.rounds[0].reads
		s.rounds = s.rounds[1:]
	}
	s.inRound -= answered
	if mutant.On(mutant.ReadWaitless) {
		in.Message.LSN = 0
	}
	if last := s.takeReads(answered); answered > 0 {
		effects.Reads = append(effects.Reads, ReadDone{Through: last, LSN: in.Message.LSN})
	}
}

// takeReads removes the first reads and returns the ticket of the last of them.
func (s *Session) takeReads(number int) (last Ticket) {
	for range number {
		last = s.reads.pop().ticket
	}
	return last
}

func (s *Session) answerCount(in *CopiesCounted, effects *Effects) {
	if in.Conn != s.conn {
		return
	}
	s.hear()
	if in.Message.ID == 0 {
		return // a sign of life, the answer to no question
	}
	for i, c := range s.counts {
		if c.id == in.Message.ID {
			effects.Counts = append(effects.Counts, CountDone{Ticket: c.ticket, Copies: in.Message.Copies})
			s.counts = append(s.counts[:i], s.counts[i+1:]...)
			return
		}
	}
}

func (s *Session) hear() { s.heard, s.asked = s.now, false }

func (s *Session) connect(conn ConnID) {
	invariant.Assert(conn != 0 && conn != s.conn, "a connection has a name of its own", conn)
	s.disconnect()
	was := s.available()
	s.conn = conn
	if mutant.On(mutant.ResendRenumbered) {
		s.renumber()
	}
	s.hear()
	s.noteAvailability(was)
}

// renumber is a mutant at work: what is about to be sent again gets sequences behind those in use.
func (s *Session) renumber() {
	for i := range s.sent.len() {
		r := s.sent.at(i)
		r.encoded = append([]byte(nil), r.encoded...)
		binary.LittleEndian.PutUint64(r.encoded[sequenceAt:], s.executed+uint64(s.sent.len()+1+i))
	}
}

// disconnect makes everything that waits for an answer of this connection wait for the next.
func (s *Session) disconnect() {
	was := s.available()
	s.conn = 0
	s.onConn = 0
	s.rounds, s.inRound = nil, 0
	for i := range s.counts {
		s.counts[i].id = 0
	}
	s.noteAvailability(was)
}

func (s *Session) available() bool { return s.conn != 0 && s.writable }

// noteAvailability follows a change of what available reports.
func (s *Session) noteAvailability(was bool) {
	switch is := s.available(); {
	case is:
		s.refusing = false
	case was:
		s.lostAt = s.now
	}
}

func (s *Session) tick(effects *Effects) {
	s.now++
	if !s.available() && s.now-s.lostAt >= uint64(s.options.RefuseAfterTicks) {
		s.refusing = true
	}
	if s.refusing {
		s.refuseUnsent(effects)
	}
	if s.refusingReads() {
		s.failReads(s.reads.len(), effects)
	}
	s.answerLate(effects)
	if s.conn == 0 {
		return
	}
	switch silent := s.now - s.heard; {
	case silent >= uint64(s.options.DeadTicks):
		effects.Drop = append(effects.Drop, s.conn)
		s.disconnect()
	case silent >= uint64(s.options.AskTicks) && !s.asked:
		s.asked = true
		s.lastID++
		s.send(effects, &smr.CountCopies{ID: s.lastID})
	}
}

// refusingReads reports whether reads are refused at once. That takes more than for writes: a master that is connected and
// not writable, because its disk is full, still tells what is committed. It is hopeless if it has left a round without an
// answer for as long as it takes to refuse writes.
func (s *Session) refusingReads() bool {
	if !s.refusing {
		return false
	}
	return s.conn == 0 || len(s.rounds) > 0 && s.now-s.rounds[0].sent >= uint64(s.options.RefuseAfterTicks)
}

// refuseUnsent answers everything that was not sent.
func (s *Session) refuseUnsent(effects *Effects) {
	for s.unsent.len() > 0 {
		s.refuseFirst(effects)
	}
}

// refuseFirst answers the oldest request that was not sent.
func (s *Session) refuseFirst(effects *Effects) {
	r := s.unsent.pop()
	s.bytes -= len(r.encoded)
	effects.Done = append(effects.Done, Done{Ticket: r.ticket, Outcome: Refused})
}

// failReads answers the first reads that there is no LSN to read at.
func (s *Session) failReads(number int, effects *Effects) {
	if number == 0 {
		return
	}
	left := number // to be taken out of rounds, which stay: their answers are still to come
	for i := range s.rounds {
		taken := min(left, s.rounds[i].reads)
		s.rounds[i].reads -= taken
		s.inRound -= taken
		left -= taken
	}
	effects.Reads = append(effects.Reads, ReadDone{Through: s.takeReads(number), Outcome: Refused})
}

// answerLate answers everybody whose deadline has come. All of them have waited equally long: deadlines are in order.
func (s *Session) answerLate(effects *Effects) {
	for s.doubted < s.sent.len() && s.late(s.sent.at(s.doubted).wait) {
		s.doubt(effects)
	}
	for s.unsent.len() > 0 && s.late(s.unsent.at(0).wait) {
		s.refuseFirst(effects)
	}
	late := 0
	for late < s.reads.len() && s.late(*s.reads.at(late)) {
		late++
	}
	s.failReads(late, effects)
	for len(s.counts) > 0 && s.late(s.counts[0].wait) {
		s.failFirstCount(effects)
	}
}

func (s *Session) late(w wait) bool { return s.now >= w.deadline }

// doubt answers the oldest sent request that has no answer yet. It stays pending.
func (s *Session) doubt(effects *Effects) {
	r := s.sent.at(s.doubted)
	s.doubted++
	effects.Done = append(effects.Done, Done{Ticket: r.ticket, Sequence: s.executed + uint64(s.doubted), Outcome: Uncertain})
}

func (s *Session) failFirstCount(effects *Effects) {
	effects.Counts = append(effects.Counts, CountDone{Ticket: s.counts[0].ticket, Outcome: Refused})
	s.counts = s.counts[1:]
}

func (s *Session) stop(effects *Effects) {
	s.stopped = true
	s.refuseUnsent(effects)
	s.failReads(s.reads.len(), effects)
	for s.doubted < s.sent.len() {
		s.doubt(effects)
	}
	for len(s.counts) > 0 {
		s.failFirstCount(effects)
	}
}

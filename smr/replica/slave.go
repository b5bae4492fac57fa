package replica

import (
	"fmt"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// followState is how far a slave has come with its master.
type followState uint8

const (
	followNone    followState = iota
	followSaving              // the promise is on its way to the disk
	followDialing             // the shell dials
	followGreeted             // hello sent
	followCutting             // the master's History has come; promise and rewind are on their way to the disk
	followStreams             // start sent; bytes and commit are taken
)

type follow struct {
	master    smr.NodeID
	state     followState
	ticket    uint64 // of the save before dialling, or of the rewind before the start
	conn      ConnID // the connection of the last hello: bytes come from no other (S7)
	heard     uint64 // tick
	acked     uint64 // tick of the last acknowledgement
	round     uint64 // highest round seen on conn
	leased    uint64 // highest round on conn whose lease was granted
	writable  bool
	needImage bool
	imageFrom smr.LSN // with needImage: the master's Start
	// stream is what the master's last hello said of its log, with needImage: an image of another stream helps nobody.
	stream stream
}

// stream is what a master says of its log: its epoch, and the History of it below end.
type stream struct {
	epoch   smr.Epoch
	history smr.History
	end     smr.LSN
}

// imageVerdict says what an image is to a log that follows a master.
type imageVerdict uint8

const (
	imageFits    imageVerdict = iota
	imageUnknown              // it may lie above what the master had at its last hello, or the master may be stale
	imageForeign              // its stream was given up
)

// judge tells whether the stream below an image at lsn is the master's. All below an image is committed: a master of its last
// epoch wrote it, and one of a later epoch was elected with it, unless it was lost and the group was recovered by force (S4).
func (s *stream) judge(history smr.History, lsn smr.LSN) imageVerdict {
	switch {
	case smr.CommonEnd(history, lsn, s.history, s.end) == lsn:
		return imageFits
	case history.EpochAt(lsn-1) > s.epoch || smr.CommonEnd(history, lsn, s.history, s.end) == s.end:
		return imageUnknown
	}
	return imageForeign
}

// dial orders a connection to the master.
func (r *Replica) dial(out *Effects) {
	r.follow.state = followDialing
	r.follow.conn, r.follow.round, r.follow.leased = 0, 0, 0
	out.Dial = &Dial{Master: r.follow.master, Epoch: r.promise}
}

// leaveMaster stops following, if it does.
func (r *Replica) leaveMaster(out *Effects) {
	if r.mode != modeSlave {
		return
	}
	if r.follow.conn != 0 {
		out.Hangup = append(out.Hangup, r.follow.conn)
	}
	out.Dial, out.StopDial = nil, true
	r.follow = follow{}
	r.mode = modeIdle
}

// masterGone begins anew with the same master. The shell paces the dials.
func (r *Replica) masterGone(out *Effects, why string) {
	if r.follow.state == followStreams {
		r.event(out, EventMasterGone, r.end, r.follow.master, why)
	}
	r.dial(out)
}

// giveUp hangs up on the master's connection and dials again.
func (r *Replica) giveUp(out *Effects, why string) {
	out.Hangup = append(out.Hangup, r.follow.conn)
	r.masterGone(out, why)
}

func (r *Replica) connected(in *Connected, out *Effects) {
	if r.mode != modeSlave || r.follow.state != followDialing {
		out.Hangup = append(out.Hangup, in.Conn)
		return
	}
	r.follow.conn, r.follow.state, r.follow.heard = in.Conn, followGreeted, r.ticks
	out.Send = append(out.Send, Send{Conn: in.Conn, Message: &smr.SlaveHello{
		Handshake: r.handshake(), Epoch: r.promise, Incarnation: r.o.Self.Incarnation,
	}})
}

// masterHello computes the end of the common prefix from the log as it is now and cuts what is above (S7).
func (r *Replica) masterHello(in *MasterHello, out *Effects) {
	if r.mode != modeSlave || in.Conn != r.follow.conn || r.follow.state != followGreeted {
		return
	}
	hello := &in.Hello
	if hello.Epoch < r.promise || hello.Node != r.follow.master || hello.History.Check() != nil || hello.Start > hello.End {
		r.giveUp(out, fmt.Sprintf("hello of %s in epoch %d, %d is promised", hello.Node, hello.Epoch, r.promise))
		return
	}
	r.follow.heard = r.ticks
	common := smr.CommonEnd(r.history, r.end, hello.History, hello.End)
	switch {
	case mutant.On(mutant.NoRewind):
		common = r.end
	case mutant.On(mutant.RewindToCommit):
		common = min(r.commit, r.end)
	}
	switch {
	case common < r.Safe():
		r.stop(fmt.Sprintf("master %s of epoch %d shares the log only below %d, but bytes below %d were safe here",
			hello.Node, hello.Epoch, common, r.Safe()), out)
		return
	case common < hello.Start:
		r.follow.needImage, r.follow.imageFrom = true, hello.Start
		r.follow.stream = stream{epoch: hello.Epoch, history: hello.History.Clone(), end: hello.End}
		r.event(out, EventNeedImage, common, hello.Node, fmt.Sprintf("its log begins at %d", hello.Start))
		r.giveUp(out, "a checkpoint is needed first")
		return
	}
	r.follow.needImage, r.follow.imageFrom, r.follow.stream = false, 0, stream{}
	if hello.Config.Epoch != 0 {
		r.cfg = hello.Config
	}
	ticket := r.raiseAttached(hello.Epoch, out)
	if common < r.end {
		ticket = r.rewindTo(common, out)
		r.event(out, EventRewound, common, hello.Node, "")
	}
	r.forgetHearsay()
	r.follow.state, r.follow.ticket = followCutting, ticket
	r.hold(held{ticket: ticket, kind: heldStart, conn: in.Conn}, out)
}

// raiseAttached raises the promise because of the master that is attached to (S7).
func (r *Replica) raiseAttached(epoch smr.Epoch, out *Effects) uint64 {
	if mutant.On(mutant.AttachUnpromised) {
		return r.ticket
	}
	return r.raisePromise(epoch, out)
}

// rewindTo cuts the log at the back.
func (r *Replica) rewindTo(point smr.LSN, out *Effects) uint64 {
	r.end = point
	r.durable = min(r.durable, point)
	r.stampFloor = 0
	r.history = r.history.RewoundTo(point).Clone()
	ticket := r.disk(out, DiskOp{Rewind: &Rewind{To: point}})
	r.rewind.ticket, r.rewind.to = ticket, point
	return ticket
}

// askForStream follows the rewind: bytes and commit are taken from here on.
func (r *Replica) askForStream(conn ConnID, out *Effects) {
	if r.mode != modeSlave || conn != r.follow.conn || r.follow.state != followCutting {
		return
	}
	r.follow.state = followStreams
	out.Send = append(out.Send, Send{Conn: conn, Message: &smr.SlaveStart{Epoch: r.promise, From: r.end}})
	r.event(out, EventJoined, r.end, r.follow.master, "")
	r.acknowledge(out)
}

// fromMaster checks a message of the stream: the connection of the last hello, and an epoch not below the promise.
func (r *Replica) fromMaster(conn ConnID, epoch smr.Epoch, out *Effects) bool {
	if r.mode != modeSlave || conn != r.follow.conn || r.follow.state != followStreams {
		return false
	}
	if epoch < r.promise && !mutant.On(mutant.FencedFollows) {
		r.giveUp(out, fmt.Sprintf("the stream carries epoch %d, %d is promised", epoch, r.promise))
		return false
	}
	r.follow.heard = r.ticks
	return true
}

// received stores bytes of the stream.
func (r *Replica) received(in *Received, out *Effects) {
	if !r.fromMaster(in.Conn, in.Append.Epoch, out) {
		return
	}
	if in.Append.From != r.end {
		r.giveUp(out, fmt.Sprintf("the stream goes on at %d, the log ends at %d", in.Append.From, r.end))
		return
	}
	// Check first, then change: the bytes are stored whole or not at all.
	seen, err := r.checkFrames(in.Append.Epoch, in.Append.Frames)
	if err != nil {
		r.giveUp(out, err.Error())
		return
	}
	if len(in.Append.Frames) > 0 {
		r.history = append(r.history, seen.starts...)
		r.lastStamp, r.stampFloor = seen.stamp, seen.stamp
		if seen.config.Epoch != 0 {
			if seen.config.Epoch > r.cfg.Epoch {
				r.cfg = seen.config
			}
			r.raiseAttached(seen.config.Epoch, out) // saved before the append: the log writer works in order
		}
		r.end += smr.LSN(len(in.Append.Frames))
		r.disk(out, DiskOp{Append: in.Append.Frames})
		if mutant.On(mutant.AckBeforeSync) {
			r.acknowledge(out)
		}
	}
	r.learnCommit(in.Append.Commit)
}

// seenFrames is what a run of received frames adds to the state.
type seenFrames struct {
	starts []smr.Span
	config smr.Config // of the last epoch start, zero if none
	stamp  int64
}

func (r *Replica) checkFrames(epoch smr.Epoch, frames []byte) (seenFrames, error) {
	seen := seenFrames{stamp: r.stampFloor}
	current := r.position().Epoch
	for lsn := r.end; len(frames) > 0; {
		f, err := smr.DecodeFrame(frames, lsn)
		if err != nil {
			return seen, err
		}
		switch {
		case f.Epoch > epoch:
			return seen, fmt.Errorf("frame at %d of epoch %d in a message of epoch %d", lsn, f.Epoch, epoch)
		case f.Kind == smr.KindEpochStart && f.Epoch <= current, f.Kind != smr.KindEpochStart && f.Epoch != current:
			return seen, fmt.Errorf("frame at %d of epoch %d follows epoch %d", lsn, f.Epoch, current)
		case f.Stamp < seen.stamp:
			return seen, fmt.Errorf("frame at %d: its time %d goes back from %d", lsn, f.Stamp, seen.stamp)
		}
		if f.Kind == smr.KindEpochStart {
			seen.config, _, err = smr.DecodeConfig(f.Body)
			if err != nil {
				return seen, fmt.Errorf("epoch start at %d: %w", lsn, err)
			}
			seen.starts = append(seen.starts, smr.Span{Epoch: f.Epoch, From: lsn})
		}
		current, seen.stamp = f.Epoch, f.Stamp
		frames, lsn = frames[f.Size():], f.End()
	}
	return seen, nil
}

// forgetHearsay forgets a commit above the own End: it was another master's word. Of what is here it was true, because the bytes
// were that master's too; what the next one writes there may be other bytes, after a forced recovery.
func (r *Replica) forgetHearsay() {
	if !mutant.On(mutant.HearsayKept) {
		r.commit = min(r.commit, r.end)
	}
}

// learnCommit takes a commit LSN from the master: only on a connection whose rewind is done (S7).
func (r *Replica) learnCommit(commit smr.LSN) { r.commit = max(r.commit, commit) }

func (r *Replica) beat(in *Beat, out *Effects) {
	if mutant.On(mutant.CommitBeforeRewind) && r.mode == modeSlave && in.Conn == r.follow.conn && r.follow.state == followGreeted {
		r.learnCommit(in.Heartbeat.Commit)
	}
	if !r.fromMaster(in.Conn, in.Heartbeat.Epoch, out) {
		return
	}
	r.learnCommit(in.Heartbeat.Commit)
	r.follow.writable = in.Heartbeat.Writable
	r.grantLease(&in.Heartbeat, out)
	// A heartbeat that only brings a commit LSN needs no answer of its own: acknowledgements come with every sync.
	if in.Heartbeat.Round > r.follow.round || r.ticks-r.follow.acked >= ackTicks {
		r.follow.round = max(r.follow.round, in.Heartbeat.Round)
		r.acknowledge(out)
	}
}

// busy takes note that the master is sending something large. The master hears of it too: heartbeats wait behind what it
// sends, so that there is nothing else to answer.
func (r *Replica) busy(in *Busy, out *Effects) {
	if r.mode != modeSlave || in.Conn != r.follow.conn || r.follow.state < followGreeted {
		return
	}
	r.follow.heard = r.ticks
	if r.ticks-r.follow.acked >= ackTicks {
		r.acknowledge(out)
	}
}

// ackTicks is how long a slave may be without an acknowledgement before the next heartbeat is answered in any case.
const ackTicks = 4

// acknowledge tells the master what is durable here and the last round seen. Of several in one Effects only the last
// is sent.
func (r *Replica) acknowledge(out *Effects) {
	if r.follow.state != followStreams {
		return
	}
	r.follow.acked = r.ticks
	ack := smr.Ack{Epoch: r.promise, Durable: r.durable, Round: r.follow.round, Leased: r.follow.leased}
	if mutant.On(mutant.AckBeforeSync) {
		ack.Durable = r.end
	}
	if mutant.On(mutant.FencedFollows) && r.fence.epoch != 0 {
		ack.Epoch = r.cfg.Epoch
	}
	if last := lastSend(out, r.follow.conn); last != nil {
		if earlier, ok := last.(*smr.Ack); ok {
			*earlier = ack
			return
		}
	}
	out.Send = append(out.Send, Send{Conn: r.follow.conn, Message: &ack})
}

func (r *Replica) rejected(in *Rejected, out *Effects) {
	if r.mode != modeSlave || in.Conn != r.follow.conn {
		r.connDown(in.Conn, out)
		return
	}
	r.event(out, EventRejected, r.end, r.follow.master, in.Reject.Reason)
	r.giveUp(out, in.Reject.Reason)
}

func (r *Replica) tickSlave(out *Effects) {
	if r.follow.conn != 0 && r.ticks-r.follow.heard > uint64(r.o.DeadTicks) {
		r.giveUp(out, "the master is silent")
	}
}

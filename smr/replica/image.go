package replica

import (
	"fmt"

	"lockstep/internal/invariant"
	"lockstep/internal/mutant"
	"lockstep/smr"
)

// imageLoaded lets the log begin anew at the LSN of an image, if that is what it takes to follow. Why nothing promised is
// undone by it: see "Images" in doc.go.
func (r *Replica) imageLoaded(in *ImageLoaded, out *Effects) {
	wanted := r.mode == modeSlave && r.follow.needImage && in.LSN >= r.follow.imageFrom
	if !wanted && !(mutant.On(mutant.ImageUnasked) && r.mode == modeSlave) || in.LSN == 0 || checkHistory(in.History, in.LSN) != nil {
		return // late: another image, or the stream, has come first
	}
	if wanted && !mutant.On(mutant.ImageOfAny) {
		switch r.follow.stream.judge(in.History, in.LSN) {
		case imageUnknown:
			return // until the next hello
		case imageForeign:
			out.RefuseImage = fmt.Sprintf("the image at LSN %d is of a stream that the group has given up: at LSN %d its epoch is %d, which is not in the log of master %s",
				in.LSN, in.LSN-1, in.History.EpochAt(in.LSN-1), r.follow.master)
			r.event(out, EventImageForeign, in.LSN, r.follow.master, out.RefuseImage)
			return
		}
	}
	common := smr.CommonEnd(r.history, r.end, in.History, in.LSN)
	switch {
	case common >= in.LSN && !mutant.On(mutant.ImageUnasked):
		return // the log holds all of it: giving that up would take back what was acknowledged
	case common < r.Safe() && !mutant.On(mutant.ImageUnasked):
		r.stop(fmt.Sprintf("an image at %d shares the log only below %d, but bytes below %d were safe here", in.LSN, common, r.Safe()), out)
		return
	}
	r.raiseAttached(in.History.EpochAt(in.LSN-1), out) // as for a byte that is stored
	r.start, r.end = in.LSN, in.LSN
	r.durable = min(r.durable, common)
	r.history = in.History.Clone()
	r.lastStamp, r.stampFloor = max(r.lastStamp, in.Stamp), in.Stamp
	ticket := r.disk(out, DiskOp{Begin: &Begin{LSN: in.LSN, Base: in.Base}})
	r.rewind.ticket, r.rewind.to = ticket, common
	if mutant.On(mutant.ImageCountedEarly) {
		r.rewind.ticket, r.durable = r.done, in.LSN
	}
	r.commit = max(r.commit, in.LSN)
	r.follow.needImage, r.follow.imageFrom, r.follow.stream = false, 0, stream{}
	r.event(out, EventBegun, in.LSN, r.follow.master, "")
}

// checkHistory tells why no log with this History can end at end > 0.
func checkHistory(h smr.History, end smr.LSN) error {
	if err := h.Check(); err != nil {
		return err
	}
	if len(h) == 0 || h[0].From != 0 || h[0].Epoch == 0 || h[len(h)-1].From >= end {
		return fmt.Errorf("history %v at %d", h, end)
	}
	return nil
}

const (
	// trimEvery is how often it is looked whether something may be trimmed, in ticks.
	trimEvery = 10
	// forgetTicks is for how long the log is kept for a slave that has gone and is no member.
	forgetTicks = 60_000
	// ageMarks is how many marks of time are kept at most: age is told to 1/ageMarks of KeepTicks.
	ageMarks = 16
)

// trim is what the front of the log waits for.
type trim struct {
	// marks say where the log ended at a tick, oldest first; floor is where it ended KeepTicks ago, 0 if that is not known.
	marks []ageMark
	floor smr.LSN
}

type ageMark struct {
	tick uint64
	end  smr.LSN
}

// maybeTrim lets the oldest part of the log go, if enough of it may.
func (r *Replica) maybeTrim(out *Effects) {
	policy := &r.o.Trim
	if policy.Grain == 0 || r.ticks%trimEvery != 0 {
		return
	}
	r.markAge()
	if !r.attached || r.mode == modeStopped {
		return // nobody is there to say from where it can be restarted
	}
	to := min(r.checkpoint, r.Safe(), less(r.end, policy.KeepBytes))
	if mutant.On(mutant.TrimAboveCheckpoint) {
		to = min(r.Safe(), less(r.end, policy.KeepBytes))
	}
	if policy.KeepTicks > 0 {
		to = min(to, r.trim.floor)
	}
	to = min(to, max(r.neededBySlaves(), less(r.end, policy.LagBytes)))
	if to < r.start || to-r.start < policy.Grain {
		return
	}
	invariant.Assert(to <= r.durable, "trim below durable", to, r.durable)
	r.start = to
	r.disk(out, DiskOp{Trim: &Trim{To: to}})
	r.event(out, EventTrimmed, to, "", "")
}

func less(lsn, bytes smr.LSN) smr.LSN {
	if lsn < bytes {
		return 0
	}
	return lsn - bytes
}

// neededBySlaves returns the LSN from which on a slave, a learner or a member that is away may need the log.
func (r *Replica) neededBySlaves() smr.LSN {
	needed := r.end
	if r.mode != modeMaster {
		return needed
	}
	for i := range r.lead.peers {
		p := &r.lead.peers[i]
		if p.streams || r.cfg.Has(p.member) || r.ticks-p.heard < forgetTicks {
			needed = min(needed, p.durable)
		}
	}
	for _, m := range r.cfg.Members {
		if i, known := r.findPeer(m.Node); m != r.o.Self && (!known || r.lead.peers[i].member != m) {
			needed = 0
		}
	}
	return needed
}

// markAge notes where the log ends now, for KeepTicks.
func (r *Replica) markAge() {
	keep := r.o.Trim.KeepTicks
	if keep == 0 {
		return
	}
	t := &r.trim
	for len(t.marks) > 0 && r.ticks-t.marks[0].tick >= keep {
		t.floor = min(t.marks[0].end, r.end) // a rewind may have come between
		t.marks = t.marks[1:]
	}
	if n := len(t.marks); n == 0 || r.ticks-t.marks[n-1].tick >= keep/ageMarks {
		t.marks = append(t.marks, ageMark{tick: r.ticks, end: r.end})
	}
}

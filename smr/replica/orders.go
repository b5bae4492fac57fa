package replica

import (
	"fmt"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// order carries out a management order and answers it, now or once what it promises is durable.
func (r *Replica) order(in Input, out *Effects) {
	var id OrderID
	var err error
	answered := true // by this function; otherwise the answer is held
	switch in := in.(type) {
	case *Fence:
		id = in.Order
		answered, err = false, r.orderFence(in, out)
	case *Lead:
		id, err = in.Order, r.orderLead(in, out)
	case *Follow:
		id = in.Order
		answered, err = false, r.orderFollow(in, out)
	case *Reconfigure:
		id = in.Order
		answered, err = false, r.orderReconfigure(in, out)
	case *Established:
		id, err = in.Order, r.orderEstablished(in, out)
	case *Learn:
		id = in.Order
		answered, err = false, r.orderLearn(in, out)
	}
	if answered || err != nil {
		out.Replies = append(out.Replies, Reply{Order: id, Err: err})
	}
}

// orderFence promises an epoch (S2).
func (r *Replica) orderFence(in *Fence, out *Effects) error {
	switch {
	case r.mode == modeStopped:
		return ErrStopped
	case r.blank:
		return ErrBlank
	case in.Epoch == r.promise && (r.mode == modeFenced || fenceUnheeded()) && r.fence.epoch == in.Epoch:
		// The same life repeats the same answer until it leads or attaches.
		r.endGrant(in)
		r.fence.waiting = append(r.fence.waiting, in.Order)
		r.releaseFence(out)
		return nil
	case in.Epoch < r.promise || in.Epoch == r.promise && !(mutant.On(mutant.FenceEqual) && r.mode == modeIdle):
		// Accepting an epoch again after a restart would let a late duplicate of lead start a second history in it.
		return fmt.Errorf("fence for epoch %d: %w: %d is promised", in.Epoch, ErrStale, r.promise)
	}
	if mutant.On(mutant.FencedLeads) && r.mode == modeMaster || mutant.On(mutant.FencedFollows) && r.mode == modeSlave {
		r.refuseFences(out)
		ticket := r.raisePromise(in.Epoch, out)
		r.fence = fence{epoch: in.Epoch, waiting: []OrderID{in.Order}}
		r.hold(held{ticket: ticket, kind: heldFence}, out)
		return nil
	}
	if r.mode == modeMaster {
		// Connections of slaves stay open: what was appended still reaches them, so that a planned hand-over ends
		// with equal logs. Their acknowledgements no longer count here.
		r.abdicate(out)
		r.returnLease(out)
	} else {
		r.leaveReign(out)
		r.leaveMaster(out)
	}
	r.refuseFences(out) // of a lower epoch, still waiting for their save
	r.mode = modeFenced
	r.endGrant(in)
	ticket := r.raisePromise(in.Epoch, out)
	r.fence = fence{epoch: in.Epoch, waiting: []OrderID{in.Order}}
	r.hold(held{ticket: ticket, kind: heldFence}, out)
	r.event(out, EventFenced, r.end, "", "")
	if r.leaseRuns() {
		r.event(out, EventAwaitsLease, r.end, "", "")
	}
	return nil
}

// releaseFence answers the waiting fence orders, if the promise is durable and every lease that this replica granted, in this
// life or in the one before, has run out.
func (r *Replica) releaseFence(out *Effects) {
	if r.mode != modeFenced && !fenceUnheeded() || r.fence.epoch != r.promise || len(r.fence.waiting) == 0 {
		return
	}
	if !r.fence.ready {
		if r.leaseRuns() || r.heldKind(heldFence) {
			return
		}
		r.fence.ready = true
		r.fence.answer = FenceAnswer{
			Epoch: r.fence.epoch, Incarnation: r.o.Self.Incarnation, Life: r.o.Life,
			Position: r.position(), History: r.history.Clone(), Commit: r.commit, Applied: r.applied,
		}
	}
	for _, id := range r.fence.waiting {
		answer := r.fence.answer
		out.Replies = append(out.Replies, Reply{Order: id, Answer: &answer})
	}
	r.fence.waiting = r.fence.waiting[:0]
}

func (r *Replica) heldKind(kind heldKind) bool {
	for _, h := range r.held {
		if h.kind == kind {
			return true
		}
	}
	return false
}

// refuseFences answers fence orders that wait while the replica is told something else.
func (r *Replica) refuseFences(out *Effects) {
	for _, id := range r.fence.waiting {
		out.Replies = append(out.Replies, Reply{Order: id, Err: fmt.Errorf("fence for epoch %d: %w: overtaken", r.fence.epoch, ErrStale)})
	}
	r.fence = fence{}
	kept := r.held[:0]
	for _, h := range r.held {
		if h.kind != heldFence {
			kept = append(kept, h)
		}
	}
	r.held = kept
}

// orderLead makes this replica master (S3).
func (r *Replica) orderLead(in *Lead, out *Effects) error {
	switch {
	case r.mode == modeStopped:
		return ErrStopped
	case r.blank:
		return ErrBlank
	case (in.Incarnation != r.o.Self.Incarnation || in.Life != r.o.Life) && !mutant.On(mutant.LeadOtherLife) && !mutant.On(mutant.LifeUnchecked):
		return fmt.Errorf("lead in epoch %d: %w", in.Config.Epoch, ErrOtherLife)
	case r.mode == modeMaster && r.cfg.Reign == in.Config.Epoch:
		return nil // a duplicate
	case in.Config.Epoch < r.promise && !mutant.On(mutant.LateLead):
		return fmt.Errorf("lead in epoch %d: %w: %d is promised", in.Config.Epoch, ErrStale, r.promise)
	case (r.mode != modeFenced && !fenceUnheeded() || r.fence.epoch != in.Config.Epoch || !r.fence.ready) && !mutant.On(mutant.LeadOtherLife) && !mutant.On(mutant.LateLead):
		return fmt.Errorf("lead in epoch %d: %w", in.Config.Epoch, ErrNotFenced)
	}
	if err := r.checkConfig(in.Config, in.Base); err != nil {
		return err
	}
	if in.Config.Reign != in.Config.Epoch {
		return fmt.Errorf("%w: lead in epoch %d names reign %d", ErrBadConfig, in.Config.Epoch, in.Config.Reign)
	}
	r.leaveReign(out) // slaves of a reign before the fence
	r.leaveMaster(out)
	r.refuseFences(out)
	r.mode = modeMaster
	r.beginReign(in.Config.Clone(), in.Base.Clone(), out)
	return nil
}

// orderReconfigure takes a new epoch of the reign that this replica leads (S8).
func (r *Replica) orderReconfigure(in *Reconfigure, out *Effects) error {
	if mutant.On(mutant.ReconfigureUnled) && r.mode != modeMaster && r.mode != modeStopped && !r.blank && in.Config.Epoch >= r.promise {
		return r.takeReign(in, out)
	}
	switch {
	case r.mode != modeMaster || r.cfg.Reign != in.Config.Reign:
		return fmt.Errorf("reconfigure to epoch %d of reign %d: %w", in.Config.Epoch, in.Config.Reign, ErrNotMaster)
	case in.Config.Equal(r.cfg):
		out.Replies = append(out.Replies, Reply{Order: in.Order})
		return nil
	case in.Config.Epoch <= r.cfg.Epoch || in.Config.Epoch < r.promise:
		return fmt.Errorf("reconfigure to epoch %d: %w: epoch is %d", in.Config.Epoch, ErrStale, r.cfg.Epoch)
	}
	if err := r.checkConfig(in.Config, in.Base); err != nil {
		return err
	}
	if in.Base.Epoch > r.base.Epoch && !mutant.On(mutant.OldRuleAsTold) {
		r.base = in.Base.Clone()
	}
	if mutant.On(mutant.BaseIsProvisional) {
		r.base = r.cfg
	}
	ticket := r.raisePromise(in.Config.Epoch, out)
	r.beginEpoch(in.Config.Clone(), out)
	r.hold(held{ticket: ticket, kind: heldReply, order: in.Order}, out)
	r.event(out, EventReconfigure, r.end, "", describe(in.Config))
	r.advanceCommit(out)
	return nil
}

// takeReign is a mutant at work: it leads because of a reconfiguration.
func (r *Replica) takeReign(in *Reconfigure, out *Effects) error {
	if err := r.checkConfig(in.Config, in.Base); err != nil {
		return err
	}
	r.leaveReign(out)
	r.leaveMaster(out)
	r.refuseFences(out)
	r.mode = modeMaster
	ticket := r.raisePromise(in.Config.Epoch, out)
	r.beginReign(in.Config.Clone(), in.Base.Clone(), out)
	r.hold(held{ticket: ticket, kind: heldReply, order: in.Order}, out)
	return nil
}

// fenceUnheeded reports whether a mutant lets a fenced replica go on with what it was doing.
func fenceUnheeded() bool { return mutant.On(mutant.FencedLeads) || mutant.On(mutant.FencedFollows) }

func (r *Replica) checkConfig(config, base smr.Config) error {
	if err := config.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	if err := base.Check(); err != nil {
		return fmt.Errorf("%w: last established: %w", ErrBadConfig, err)
	}
	if config.Master != r.o.Self.Node || !config.Has(r.o.Self) {
		return fmt.Errorf("%w: epoch %d has master %q, this is %q", ErrBadConfig, config.Epoch, config.Master, r.o.Self.Node)
	}
	if base.Epoch >= config.Epoch {
		return fmt.Errorf("%w: epoch %d builds on the later epoch %d", ErrBadConfig, config.Epoch, base.Epoch)
	}
	return nil
}

// orderEstablished notes that a configuration of this reign is established, so that its rule alone holds (S5, S6).
func (r *Replica) orderEstablished(in *Established, out *Effects) error {
	if r.mode != modeMaster || in.Config.Reign != r.cfg.Reign {
		return fmt.Errorf("established epoch %d: %w", in.Config.Epoch, ErrNotMaster)
	}
	if err := in.Config.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	if in.Config.Epoch == r.cfg.Epoch && !in.Config.Equal(r.cfg) {
		return fmt.Errorf("%w: epoch %d is %s here", ErrBadConfig, in.Config.Epoch, describe(r.cfg))
	}
	if in.Config.Epoch > r.base.Epoch && in.Config.Epoch <= r.cfg.Epoch {
		r.base = in.Config.Clone()
		r.event(out, EventEstablished, r.end, "", describe(in.Config))
		r.advanceCommit(out)
		r.confirmReads(out)
	}
	return nil
}

// orderFollow makes this replica a slave (S7).
func (r *Replica) orderFollow(in *Follow, out *Effects) error {
	switch {
	case r.mode == modeStopped:
		return ErrStopped
	case r.blank:
		return ErrBlank
	case in.Master == r.o.Self.Node || smr.CheckNodeID(string(in.Master)) != nil:
		return fmt.Errorf("%w: follow %q", ErrBadConfig, in.Master)
	case in.Epoch < r.promise || in.Epoch == 0:
		return fmt.Errorf("follow in epoch %d: %w: %d is promised", in.Epoch, ErrStale, r.promise)
	case r.mode == modeMaster && in.Epoch <= r.cfg.Epoch:
		return fmt.Errorf("follow in epoch %d: %w: this replica leads epoch %d", in.Epoch, ErrStale, r.cfg.Epoch)
	case r.mode == modeSlave && r.follow.master == in.Master && in.Epoch == r.promise:
		r.hold(held{ticket: r.ticket, kind: heldReply, order: in.Order}, out)
		return nil // follows already
	}
	if r.mode == modeMaster {
		r.abdicate(out)
	}
	r.leaveReign(out)
	r.leaveMaster(out)
	r.refuseFences(out)
	r.mode = modeSlave
	if mutant.On(mutant.RewindEarly) && r.commit < r.end {
		r.rewindTo(r.commit, out)
	}
	ticket := r.raiseAttached(in.Epoch, out)
	r.follow = follow{master: in.Master, state: followSaving, ticket: ticket}
	r.hold(held{ticket: ticket, kind: heldReply, order: in.Order}, out)
	r.hold(held{ticket: ticket, kind: heldDial}, out)
	r.event(out, EventFollowing, r.end, in.Master, "")
	return nil
}

// orderLearn tells a blank replica the current epoch (S10).
func (r *Replica) orderLearn(in *Learn, out *Effects) error {
	if !r.blank {
		out.Replies = append(out.Replies, Reply{Order: in.Order})
		return nil
	}
	ticket := r.raisePromise(in.Epoch, out)
	r.hold(held{ticket: ticket, kind: heldLearn, order: in.Order}, out)
	return nil
}

func describe(c smr.Config) string {
	text := fmt.Sprintf("epoch %d reign %d master %s copies %d members", c.Epoch, c.Reign, c.Master, c.Copies)
	for _, m := range c.Members {
		text += " " + string(m.Node)
	}
	return text
}

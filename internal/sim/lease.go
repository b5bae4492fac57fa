package sim

import (
	"math/rand/v2"

	"lockstep/internal/failover"
	"lockstep/smr"
)

// What can go wrong with read leases (S11) needs two things at the same time, which faults that are drawn one by one hardly ever
// are. These are drawn besides, by schedules with leases.
const (
	// FaultLeaseRestart: the master is cut off, and those who granted it a lease are killed and come back at once.
	FaultLeaseRestart FaultKind = "cut-off-master-and-restart-grantors"
	// FaultLeaseLate: the slaves' grants come late, and the configuration masters see the master no more.
	FaultLeaseLate FaultKind = "late-grants-of-a-master-unseen"
	// FaultLeaseSleep: the master's host is suspended.
	FaultLeaseSleep FaultKind = "suspend-master"
	// FaultLeaseAlone: copies are lowered to one, and the master is cut off as soon as it has heard of it.
	FaultLeaseAlone FaultKind = "lower-copies-and-cut-off-master"
)

var leaseFaults = []FaultKind{FaultLeaseRestart, FaultLeaseLate, FaultLeaseSleep, FaultLeaseAlone}

// drawLeaseFaults draws from a stream of its own.
func drawLeaseFaults(o *Options) (faults []Fault) {
	if o.LeaseTicks == 0 {
		return nil
	}
	r := rand.New(rand.NewPCG(o.Seed, 12))
	for range r.IntN(3) {
		faults = append(faults, Fault{At: 200 + r.Int64N(o.FaultMillis), Kind: leaseFaults[r.IntN(len(leaseFaults))],
			Millis: 400 + int64(r.ExpFloat64()*500), Number: r.Uint64() >> 11})
	}
	return faults
}

// leader returns the host whose replicator leads the highest epoch, nil if none does.
func (w *world) leader() *host {
	var found *host
	epoch := smr.Epoch(0)
	for _, h := range w.hosts {
		if r := h.replicator; r != nil && r.status.Leading && r.status.Epoch > epoch {
			found, epoch = h, r.status.Epoch
		}
	}
	return found
}

// strikeLease carries out one of leaseFaults.
func (w *world) strikeLease(f *Fault) {
	leader, draw := w.leader(), f.draw()
	if leader == nil {
		return
	}
	until := w.now + f.Millis*millisecond
	switch f.Kind {
	case FaultLeaseRestart:
		w.cutOff(leader.place, until)
		for _, h := range w.hosts {
			if h != leader && h.replicator != nil {
				h.crashReplicator()
				w.after(1+draw.Int64N(20*millisecond), later(h.startReplicator), 8)
			}
		}
	case FaultLeaseLate:
		n := &w.net
		for _, h := range w.hosts {
			if h != leader {
				at := h.place*n.places + leader.place
				n.slow[at], n.slowBy[at] = until, 50*millisecond+draw.Int64N(150*millisecond)
			}
		}
		for _, m := range w.masters {
			for _, at := range []int{m.place*n.places + leader.place, leader.place*n.places + m.place} {
				n.cut[at] = max(n.cut[at], until)
			}
		}
	case FaultLeaseSleep:
		w.suspend(f, leader)
	case FaultLeaseAlone:
		w.cutReconfigured = f.Millis
		w.decide(f, func(cmd *failover.Command, g *failover.Group) {
			cmd.BeginReconfigure = &failover.BeginReconfigure{Group: groupName, Expect: g.Epoch, Reign: g.Reign.Epoch, Kind: failover.EntryAdmit,
				Copies: 1, Members: g.Current().Members, Reason: "for no reason"}
		})
	}
}

// suspend stops a machine for a while: its processes, its timers and its network, but not the time.
func (w *world) suspend(f *Fault, h *host) {
	h.fallAsleep(f.Millis * millisecond)
	w.strikePause(f, h)
	w.cutOff(h.place, w.now+f.Millis*millisecond)
}

package replica

import (
	"testing"

	"lockstep/smr"
)

// What could go wrong: Rest promises too much, the shell sleeps over a heartbeat, and a slave gives its master up, or a fence is answered late.
// Each tick of random worlds that lies within a rest must leave nothing to do; and there must be such ticks, or the promise is worth nothing.
func TestTicksOfARestDoNothing(t *testing.T) {
	rests, masters := 0, 0
	for seed := uint64(1); seed <= 60; seed++ {
		w := newWorld(seed, 3, 2)
		for range 400 {
			w.act(1, 20)
			for _, n := range w.nodes {
				if n.r == nil {
					continue
				}
				c := n.r.Clone()
				for rest := c.Rest(); rest > 1; rest-- {
					if next := c.Rest(); next < rest {
						t.Fatalf("seed %d: %s was to rest for %d ticks more, and then for %d", seed, n.id, rest, next)
					}
					out := Effects{}
					c.Step(&Tick{Stamp: int64(w.next)}, &out)
					if len(out.Disk)+len(out.Send)+len(out.Hangup)+len(out.Replies)+len(out.Reads)+len(out.Events) > 0 || out.Dial != nil {
						t.Fatalf("seed %d: %s was to rest for %d ticks more, and notes %+v", seed, n.id, rest, out)
					}
					rests++
					if c.mode == modeMaster {
						masters++
					}
				}
			}
		}
		if w.fault != "" {
			t.Fatal(w.fault)
		}
	}
	if rests < 1000 || masters < 100 {
		t.Fatalf("only %d ticks of rests, %d at masters", rests, masters)
	}
}

// What could go wrong: a master that nobody uses asks for leases all the same and wakes its slaves for nothing; or one that is used again gets none, so
// that each read asks its slaves for ever.
func TestUnusedMasterAsksForNoLease(t *testing.T) {
	self, other := smr.Member{Node: "n1", Incarnation: 1}, smr.Member{Node: "n2", Incarnation: 2}
	r := New(Options{Self: self, Life: 1, Promise: 1, LeaseTicks: 20})
	beats, asks, clock := 0, 0, int64(0)
	var step func(in Input)
	step = func(in Input) {
		var out Effects
		r.Step(in, &out)
		if len(out.Disk) > 0 {
			step(&DiskDone{Ticket: r.ticket, Durable: r.end})
		}
		for _, send := range out.Send {
			if beat, ok := send.Message.(*smr.Heartbeat); ok {
				beats++
				if beat.Lease > 0 {
					asks++
				}
				step(&PeerAck{Conn: 1, Ack: smr.Ack{Epoch: 2, Durable: r.end, Round: beat.Round, Leased: beat.Round}})
			}
		}
	}
	pass := func(ticks int) (beaten, asked int) {
		before, askedBefore := beats, asks
		for range ticks {
			clock += TickMillis * 1000
			step(&Tick{Clock: clock})
		}
		return beats - before, asks - askedBefore
	}
	config := func(epoch smr.Epoch) smr.Config {
		return smr.Config{Epoch: epoch, Reign: epoch, Master: "n1", Copies: 2, Members: []smr.Member{self, other}}
	}
	step(&Fence{Order: 1, Epoch: 2})
	step(&Lead{Order: 2, Incarnation: 1, Life: 1, Config: config(2), Base: config(1)})
	hello := smr.SlaveHello{Epoch: 2, Incarnation: 2}
	hello.Node = "n2"
	step(&PeerHello{Conn: 1, Hello: hello})
	step(&PeerStart{Conn: 1, Start: smr.SlaveStart{Epoch: 2}})
	if beaten, asked := pass(useTicks - 1); asked < useTicks/5-2 || beaten < asked || r.leaseHolds(clock) == false || r.Status().Unused {
		t.Fatalf("in use: %d heartbeats, %d ask for a lease, until %d at %d", beaten, asked, r.LeaseUntil(), clock)
	}
	pass(1)
	if beaten, asked := pass(1000); asked > 0 || beaten > 1000/restBeat+30 || beaten < 1000/restBeat || !r.Status().Unused || r.leaseHolds(clock) {
		t.Fatalf("unused: %d heartbeats, %d ask for a lease, until %d at %d", beaten, asked, r.LeaseUntil(), clock)
	}
	step(&ReadIndex{Client: 1, ID: 1, Clock: clock})
	pass(1)
	if !r.leaseHolds(clock) || r.Status().Unused {
		t.Fatalf("in use again, the lease holds until %d at %d", r.LeaseUntil(), clock)
	}
}

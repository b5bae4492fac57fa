package drill

import (
	"context"
	"time"

	"lockstep/internal/fault"
	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/proto"
)

// Kind is a drill.
type Kind struct {
	Name   string `json:"name"`
	What   string `json:"what"`   // is done
	Proves string `json:"proves"` // if it passes

	target target
	moves  bool // another master must be elected
	takes  bool // a replica does not count meanwhile: the others must be enough for copies
	agent  bool // needs agents that are allowed
	do     func(*run, context.Context) error
}

// target says whom a drill hits.
type target int

const (
	theMaster target = iota
	aSlave
	everyNode  // one after the other
	theLeader  // of the configuration masters
	aMajority  // of them
	nobodyElse // a planned change only
)

// Sizes of faults.
const (
	syncDelay = 150 * time.Millisecond
	clockBack = time.Hour
)

// Kinds are all drills, in the order in which they are shown.
var Kinds = []Kind{
	{"kill-master", "kill -9 of the master's replicator and KV node, as when its machine dies", "another replica leads within seconds; clients of the other nodes see a pause", theMaster, true, true, true, (*run).killMaster},
	{"kill-kvnode", "kill -9 of the master's KV node; its replicator goes on", "mastership moves to a replica whose KV node lives", theMaster, true, false, true, (*run).killKVNode},
	{"pause-master", "the master's replicator and KV node stand still (SIGSTOP), then go on as if nothing had been", "another replica leads; the old master acknowledges nothing when it wakes", theMaster, true, true, true, (*run).pauseMaster},
	{"isolate-master", "the master's replicator can neither send nor receive", "another replica leads; the old master takes no write that is lost", theMaster, true, true, true, (*run).isolateMaster},
	{"one-way-cut", "what the master's replicator sends does not arrive; it hears everybody", "another replica leads, though the old one thinks that all is well", theMaster, true, true, true, (*run).cutOneWay},
	{"slow-disk", "each sync of the master's log takes 150 ms longer", "writes get slow, or are committed by the others' disks; nothing is lost", theMaster, false, false, true, (*run).slowDisk},
	{"full-disk", "the master's log finds no room", "the process stays up; writes wait or another replica leads; all goes on when there is room", theMaster, false, true, true, (*run).fillDisk},
	{"lose-disk", "log and hard state of a slave are gone, and its replicator with them", "it comes back as a new replica, is filled by its peers, and becomes a member again", aSlave, false, true, true, (*run).loseDisk},
	{"kill-confmaster-leader", "kill -9 of the leader of the configuration masters", "clients notice nothing; another one leads", theLeader, false, false, true, (*run).killLeader},
	{"lose-confmaster-majority", "more than half of the configuration masters stand still", "clients notice nothing, though nobody could elect a master meanwhile", aMajority, false, false, true, (*run).loseMajority},
	{"rolling-restart", "each node's processes are restarted, one node after the other, the master last and after a hand-over", "clients of the other nodes see pauses, no error", everyNode, false, true, true, (*run).restartAll},
	{"switchover", "mastership is handed over, as for maintenance", "clients see a short pause, no error", nobodyElse, true, false, false, (*run).switchOver},
	{"clock-jump", "the master's clock is set back by an hour", "log time stands still until the clock has caught up; nothing is lost, nothing expires early", theMaster, false, false, true, (*run).turnClockBack},
}

// Find returns the drill of that name, nil if there is none.
func Find(name string) *Kind {
	for i := range Kinds {
		if Kinds[i].Name == name {
			return &Kinds[i]
		}
	}
	return nil
}

// Names lists the names of all drills.
func Names() (names []string) {
	for i := range Kinds {
		names = append(names, Kinds[i].Name)
	}
	return names
}

func (r *run) killMaster(ctx context.Context) error {
	victim := r.plan.Victims[0]
	r.willStart(local.ReplicatorOf(victim), local.KVNodeOf(victim))
	if err := r.strike(ctx, victim, &proto.InjectRequest{Fault: fault.Kill, Process: true, Kvnode: true}); err != nil {
		return err
	}
	return r.awaitOtherMaster(ctx, victim)
}

func (r *run) killKVNode(ctx context.Context) error {
	victim := r.plan.Victims[0]
	r.willStart(local.KVNodeOf(victim))
	if err := r.strike(ctx, victim, &proto.InjectRequest{Fault: fault.Kill, Kvnode: true}); err != nil {
		return err
	}
	return r.awaitOtherMaster(ctx, victim)
}

func (r *run) pauseMaster(ctx context.Context) error {
	return r.hold(ctx, true, &proto.InjectRequest{Fault: fault.Pause, Process: true, Kvnode: true})
}

func (r *run) isolateMaster(ctx context.Context) error {
	return r.hold(ctx, true, &proto.InjectRequest{Fault: fault.Links, Inbound: true, Outbound: true})
}

func (r *run) cutOneWay(ctx context.Context) error {
	return r.hold(ctx, true, &proto.InjectRequest{Fault: fault.Links, Outbound: true})
}

func (r *run) slowDisk(ctx context.Context) error {
	return r.hold(ctx, false, &proto.InjectRequest{Fault: fault.SlowDisk, DelayMs: uint32(syncDelay.Milliseconds())})
}

func (r *run) fillDisk(ctx context.Context) error {
	return r.hold(ctx, false, &proto.InjectRequest{Fault: fault.FullDisk})
}

func (r *run) turnClockBack(ctx context.Context) error {
	return r.hold(ctx, false, &proto.InjectRequest{Fault: fault.Clock, ShiftMs: uint32(clockBack.Milliseconds())})
}

func (r *run) loseDisk(ctx context.Context) error {
	victim := r.plan.Victims[0]
	r.renewed = victim
	r.willStart(local.ReplicatorOf(victim))
	return r.strike(ctx, victim, &proto.InjectRequest{Fault: fault.LoseLog})
}

func (r *run) killLeader(ctx context.Context) error {
	leader := r.plan.Victims[0]
	r.willStart(leader)
	return r.strike(ctx, leader, &proto.InjectRequest{Fault: fault.Kill, Process: true})
}

func (r *run) loseMajority(ctx context.Context) error {
	return r.hold(ctx, false, &proto.InjectRequest{Fault: fault.Pause, Process: true})
}

func (r *run) switchOver(ctx context.Context) error {
	r.struck()
	reply, err := r.Client.Switchover(ctx, r.Group, r.Node)
	if err != nil {
		return err
	}
	r.mark("drill", "handed over: "+reply.GetText())
	pause.For(ctx, r.Hold)
	return nil
}

// restartAll restarts one node after the other, slaves first.
func (r *run) restartAll(ctx context.Context) error {
	r.struck()
	for _, victim := range r.plan.Victims {
		group, err := r.group(ctx)
		if err != nil {
			return err
		}
		if group.GetMaster() == victim {
			reply, err := r.Client.Switchover(ctx, r.Group, "")
			if err != nil {
				return err
			}
			r.mark("drill", "handed over: "+reply.GetText())
		}
		if err := r.restartNode(ctx, victim); err != nil {
			return err
		}
	}
	return nil
}

// restartNode restarts the processes of a node and waits until the group is whole again.
func (r *run) restartNode(ctx context.Context, node string) error {
	r.touch(node)
	before := r.lives()
	r.willStart(local.ReplicatorOf(node), local.KVNodeOf(node))
	if r.Local == nil {
		r.mark("drill", "kill "+node+": its supervisor starts it again")
		if err := r.injectOnce(ctx, node, &proto.InjectRequest{Fault: fault.Kill, Process: true, Kvnode: true}); err != nil {
			return err
		}
	} else {
		r.mark("drill", "restart "+node)
		for _, name := range []string{local.KVNodeOf(node), local.ReplicatorOf(node)} {
			killed, err := r.Local.StopProcess(name)
			if err != nil {
				return err
			}
			if killed {
				r.complain("%s did not stop in good order", name)
			}
		}
	}
	return r.mend(ctx, before)
}

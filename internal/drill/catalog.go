package drill

import (
	"context"
	"time"

	"lockstep/internal/fault"
	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/proto"
)

// acts are what each drill does, by its name.
var acts = map[string]func(*run, context.Context) error{
	"kill-master":              (*run).killMaster,
	"kill-kvnode":              (*run).killKVNode,
	"pause-master":             (*run).pauseMaster,
	"isolate-master":           (*run).isolateMaster,
	"one-way-cut":              (*run).cutOneWay,
	"slow-disk":                (*run).slowDisk,
	"full-disk":                (*run).fillDisk,
	"lose-disk":                (*run).loseDisk,
	"kill-confmaster-leader":   (*run).killLeader,
	"lose-confmaster-majority": (*run).loseMajority,
	"rolling-restart":          (*run).restartAll,
	"switchover":               (*run).switchOver,
	"clock-jump":               (*run).turnClockBack,
}

// Sizes of faults.
const (
	syncDelay = 150 * time.Millisecond
	clockBack = time.Hour
)

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

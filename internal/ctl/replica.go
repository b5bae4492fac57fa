package ctl

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/proto"
)

func newReplica(s *screen) *cobra.Command {
	return group("replica", "Add, remove, drain or replace replicas of a group",
		newReplicaAdd(s), newReplicaRemove(s), newReplicaDrain(s), newReplicaReplace(s))
}

func checkHostPort(addr string) error {
	if !strings.Contains(addr, ":") {
		return usage("address %q: use host:port, the management address of the replicator", addr)
	}
	return nil
}

func newReplicaAdd(s *screen) *cobra.Command {
	c := &changing{}
	var preference int32
	command := c.command(s, &cobra.Command{
		Use:   "add GROUP NODE ADDR",
		Short: "Register a replica; it becomes a member when it has caught up",
		Long: `Registers the replica whose replicator answers at ADDR (its management address) under the name NODE. It fetches an image
from a peer if the log of the master no longer reaches back far enough, follows as a learner, and is admitted when it has
caught up. A replicator that was started with --join needs no such command.`,
		Args: cobra.ExactArgs(3), ValidArgsFunction: c.nodesOf(1),
	}, func(_ context.Context, _ *admin.Client, args []string) (*planned, error) {
		if err := checkHostPort(args[2]); err != nil {
			return nil, err
		}
		return &planned{finished: untilMember(args[1]), request: &proto.ChangeRequest{Group: args[0], Change: &proto.ChangeRequest_AddReplica{
			AddReplica: &proto.ReplicaSpec{Node: args[1], ManageAddr: args[2], Preference: preference}}}}, nil
	})
	command.Flags().Int32Var(&preference, "preference", 0, "of several candidates that are as far, the one with the highest `number` leads")
	c.addWait(command)
	return command
}

func newReplicaRemove(s *screen) *cobra.Command {
	c := &changing{}
	var handOver bool
	command := c.command(s, &cobra.Command{
		Use:   "remove GROUP NODE",
		Short: "Drop a replica from the membership and from the group",
		Long: `Drops a replica, living or dead. Refused when too few replicas would be left for the group's copies: add one first, use
replace, or lower copies. Its processes go on until they are stopped; nothing counts on them any more.`,
		Args: cobra.ExactArgs(2), ValidArgsFunction: c.nodesOf(1),
	}, func(_ context.Context, _ *admin.Client, args []string) (*planned, error) {
		return &planned{finished: untilGone(args[1], false), request: &proto.ChangeRequest{Group: args[0], Change: &proto.ChangeRequest_RemoveReplica{
			RemoveReplica: &proto.RemoveReplica{Node: args[1], Switchover: handOver}}}}, nil
	})
	command.Flags().BoolVar(&handOver, "switchover", false, "if it leads, hand mastership over first")
	c.addWait(command)
	return command
}

func newReplicaDrain(s *screen) *cobra.Command {
	c := &changing{}
	var handOver, undo bool
	command := c.command(s, &cobra.Command{
		Use:   "drain GROUP NODE",
		Short: "Take a replica out of the membership for a while; it goes on following",
		Long: `A drained replica holds no copy that counts and never leads, so that it can be stopped, restarted or moved at leisure.
--undo ends that.`,
		Args: cobra.ExactArgs(2), ValidArgsFunction: c.nodesOf(1),
	}, func(_ context.Context, _ *admin.Client, args []string) (*planned, error) {
		finished := untilGone(args[1], true)
		if undo {
			finished = untilMember(args[1])
		}
		return &planned{finished: finished, request: &proto.ChangeRequest{Group: args[0], Change: &proto.ChangeRequest_DrainReplica{
			DrainReplica: &proto.DrainReplica{Node: args[1], Switchover: handOver, Undo: undo}}}}, nil
	})
	command.Flags().BoolVar(&handOver, "switchover", false, "if it leads, hand mastership over first")
	command.Flags().BoolVar(&undo, "undo", false, "make it a member again")
	c.addWait(command)
	return command
}

func newReplicaReplace(s *screen) *cobra.Command {
	c := &changing{}
	var handOver bool
	command := c.command(s, &cobra.Command{
		Use:   "replace GROUP OLD NEW [ADDR]",
		Short: "Put a replica in place of another one; copies stay as many all the while",
		Long: `Registers NEW, whose replicator answers at ADDR (its management address; not needed if it joined by itself), waits until it
is a member, and only then drops OLD, living or dead. A configuration master that dies in the middle changes nothing: the
next one goes on. 'smrctl group cancel' ends it where it stands.`,
		Args: cobra.RangeArgs(3, 4), ValidArgsFunction: c.nodesOf(1),
	}, func(ctx context.Context, client *admin.Client, args []string) (*planned, error) {
		by := &proto.ReplicaSpec{Node: args[2]}
		if len(args) == 4 {
			if err := checkHostPort(args[3]); err != nil {
				return nil, err
			}
			by.ManageAddr = args[3]
		} else {
			group, err := client.Group(ctx, args[0])
			if err != nil {
				return nil, err
			}
			known := replicaIn(group, args[2])
			if known == nil {
				return nil, usage("%s is not registered in group %s: name its management address", args[2], args[0])
			}
			by.ManageAddr, by.DataAddr, by.KvAddr = known.GetManageAddr(), known.GetDataAddr(), known.GetKvAddr()
		}
		return &planned{request: &proto.ChangeRequest{Group: args[0], Change: &proto.ChangeRequest_ReplaceReplica{
			ReplaceReplica: &proto.ReplaceReplica{Node: args[1], By: by, Switchover: handOver}}},
			finished: func(group *proto.GroupStatus) string {
				if waiting := untilMember(args[2])(group); waiting != "" {
					return waiting
				}
				return untilGone(args[1], false)(group)
			}}, nil
	})
	command.Flags().BoolVar(&handOver, "switchover", false, "if OLD leads, hand mastership over before it leaves")
	c.addWait(command)
	return command
}

// transfer is the JSON of an image on its way to a replica.
type transfer struct {
	From           string `json:"from"` // management address of a KV node
	BytesDone      uint64 `json:"bytes_done"`
	BytesTotal     uint64 `json:"bytes_total"`
	BytesPerSecond uint64 `json:"bytes_per_second"`
	SecondsLeft    uint64 `json:"seconds_left"` // 0 while it cannot be said
}

func transferOf(state *proto.ReplicaState) *transfer {
	if state.GetBytesTotal() == 0 {
		return nil
	}
	t := &transfer{From: state.GetImageFrom(), BytesDone: state.GetBytesDone(), BytesTotal: state.GetBytesTotal(), BytesPerSecond: state.GetBytesPerSecond()}
	if t.BytesPerSecond > 0 {
		t.SecondsLeft = (t.BytesTotal - min(t.BytesTotal, t.BytesDone) + t.BytesPerSecond - 1) / t.BytesPerSecond
	}
	return t
}

func (t *transfer) String() string {
	text := fmt.Sprintf("image from %s: %s of %s (%d %%), %s/s", t.From, size(t.BytesDone), size(t.BytesTotal), t.BytesDone*100/t.BytesTotal, size(t.BytesPerSecond))
	if t.SecondsLeft > 0 {
		text += fmt.Sprintf(", %d s left", t.SecondsLeft)
	}
	return text
}

// size shows a number of bytes for people.
func size(bytes uint64) string {
	for _, unit := range []struct {
		name string
		size uint64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes >= unit.size {
			return fmt.Sprintf("%.1f %s", float64(bytes)/float64(unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%d B", bytes)
}

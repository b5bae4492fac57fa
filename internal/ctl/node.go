package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/local"
	"lockstep/proto"
)

func newNodeAdd(s *screen) *cobra.Command {
	var at where
	var dry dryRun
	wait := &changing{}
	command := &cobra.Command{
		Use:   "add [NODE]",
		Short: "Start a further replicator and KV node, which join the group",
		Long: `Starts the processes of a new node (n4, …; the next free name if none is given) on this machine. Its replicator registers
itself, is filled by its peers, and becomes a member.`,
		Args: cobra.MaximumNArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			cluster, err := local.Open(at.dir)
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			if dry.on {
				return dry.show(s, []string{fmt.Sprintf("start the replicator and the KV node of %s; they join group %s", cmp.Or(name, "a further node"), cluster.Plan.Group)})
			}
			bin, err := binaries(ctx, cluster.Dir, s)
			if err != nil {
				return err
			}
			started, err := cluster.AddNode(name, bin)
			var list []done
			for _, p := range started {
				list = append(list, done{Process: p.Name, Pid: p.Pid, Done: "started"})
			}
			if len(list) > 0 {
				err = errors.Join(showDone(s, list), err)
			}
			if err != nil || wait.noWait {
				return err
			}
			client, err := cluster.Admin()
			if err != nil {
				return err
			}
			defer client.Close()
			return explainSilence(wait.await(ctx, s, client, cluster.Plan.Group, untilMember(started[0].Node)), cluster)
		}),
	}
	at.addDir(command)
	dry.add(command)
	wait.addWait(command)
	return command
}

// aside is the JSON of a directory that was set aside.
type aside struct {
	Node string `json:"node"`
	Dir  string `json:"dir"` // "" if there was none
}

func showAside(s *screen, node, dir, what string) error {
	return s.show(aside{Node: node, Dir: dir}, func() {
		if dir == "" {
			s.printf("%s %s: it had no directory\n", node, what)
			return
		}
		s.printf("%s %s; what it held is in %s\n", node, what, dir)
	})
}

func newNodeRemove(s *screen) *cobra.Command {
	var at where
	var dry dryRun
	command := &cobra.Command{
		Use:   "remove NODE",
		Short: "Stop the processes of a node that was removed from the group, and set its directory aside",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			cluster, err := local.Open(at.dir)
			if err != nil {
				return err
			}
			client, err := cluster.Admin()
			if err != nil {
				return err
			}
			defer client.Close()
			if dry.on {
				return dry.show(s, []string{fmt.Sprintf("stop the processes of %s, if it is removed from group %s, and set its directory aside", args[0], cluster.Plan.Group)})
			}
			dir, err := cluster.RemoveNode(ctx, client, args[0])
			if err != nil {
				return explainSilence(err, cluster)
			}
			return showAside(s, args[0], dir, "removed")
		}),
	}
	at.addDir(command)
	dry.add(command)
	return command
}

func newNodeWipe(s *screen) *cobra.Command {
	var at where
	var dry dryRun
	command := &cobra.Command{
		Use:   "wipe NODE",
		Short: "Set the directory of a stopped node aside; it comes back empty and is filled by its peers",
		Long: `What a lost disk does, on purpose: the node's next start is a new incarnation that holds nothing. Refused while its processes
run, and while the group would not survive the loss of that replica.`,
		Args: cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			cluster, err := local.Open(at.dir)
			if err != nil {
				return err
			}
			client, err := cluster.Admin()
			if err != nil {
				return err
			}
			defer client.Close()
			group, err := client.Group(ctx, cluster.Plan.Group)
			if err != nil {
				return explainSilence(err, cluster)
			}
			if err := mayWipe(group, args[0]); err != nil {
				return err
			}
			if dry.on {
				return dry.show(s, []string{fmt.Sprintf("set the directory of %s aside; it comes back empty", args[0])})
			}
			dir, err := cluster.WipeNode(args[0])
			if err != nil {
				return err
			}
			return showAside(s, args[0], dir, "wiped")
		}),
	}
	at.addDir(command)
	dry.add(command)
	return command
}

// mayWipe refuses to throw a copy away while the others are not enough.
func mayWipe(group *proto.GroupStatus, node string) error {
	r := replicaIn(group, node)
	if r == nil || !r.GetMember() {
		return nil // nothing counts on it
	}
	others := uint32(0)
	for _, other := range group.GetReplicas() {
		if other.GetNode() != node && other.GetMember() && other.GetUp() && time.Duration(other.GetLastSeenMs())*time.Millisecond < 5*time.Second {
			others++
		}
	}
	if others < group.GetCopies() {
		return fmt.Errorf("%s is a member, and only %d others are there for %d copies: bring those back first, or replace %s with `smrctl replica replace`",
			node, others, group.GetCopies(), node)
	}
	return nil
}

package ctl

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/internal/bytesize"
	"lockstep/proto"
)

func newGroup(s *screen) *cobra.Command {
	return group("group", "Create, list and configure groups; recover one by force",
		newGroupCreate(s), newGroupList(s), newGroupSet(s), newGroupCancel(s), newGroupRecover(s))
}

// policyFlags are the settings of a group.
type policyFlags struct {
	copies, minCopies uint32
	sync, slowBytes   string
	slowLag, slowFor  time.Duration
}

func (p *policyFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.Uint32Var(&p.copies, "copies", 0, "replicas that must hold a write, master included")
	flags.Uint32Var(&p.minCopies, "min-copies", 0, "how far copies may be lowered automatically")
	flags.StringVar(&p.slowBytes, "slow-bytes", "", "a member that is more than so many `bytes` behind its master (or with KiB, MiB, GiB) is slow; 0: never")
	flags.DurationVar(&p.slowLag, "slow-lag", 0, "a member that is more than that behind in time is slow; at least 1s, 0: never")
	flags.DurationVar(&p.slowFor, "slow-for", 0, "a member that is slow for so long is dropped, and admitted again once it has kept up for as long")
}

// policy returns what was given on the command line.
func (p *policyFlags) policy(command *cobra.Command) (*proto.Policy, error) {
	policy := &proto.Policy{Copies: p.copies, MinCopies: p.minCopies, Sync: p.sync}
	if p.slowBytes != "" {
		bytes, err := bytesize.Parse(p.slowBytes, bytesize.Max)
		if err != nil {
			return nil, usage("--slow-bytes: %v", err)
		}
		slow := uint64(bytes)
		policy.SlowBytes = &slow
	}
	for _, field := range []struct {
		flag  string
		value time.Duration
		to    **uint32
	}{{"slow-lag", p.slowLag, &policy.SlowMs}, {"slow-for", p.slowFor, &policy.SlowForMs}} {
		if !command.Flags().Changed(field.flag) {
			continue
		}
		millis := field.value.Milliseconds()
		if millis < 0 || millis > math.MaxInt32 {
			return nil, usage("--%s %v: use 0 to 24h", field.flag, field.value)
		}
		value := uint32(millis)
		*field.to = &value
	}
	return policy, nil
}

func newGroupList(s *screen) *cobra.Command {
	var at where
	var watch watching
	command := &cobra.Command{
		Use:   "list",
		Short: "List groups with their policies and versions",
		Args:  cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			client, cluster, err := at.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			return watch.run(ctx, s, func(ctx context.Context) error {
				reply, err := client.Status(ctx)
				if err != nil {
					return explainSilence(err, cluster)
				}
				groups := statusOf(reply).Groups
				return s.show(map[string][]groupStatus{"groups": groups}, func() { showGroups(s, groups) })
			})
		}),
	}
	at.addAll(command)
	watch.add(command)
	return command
}

func showGroups(s *screen, groups []groupStatus) {
	rows := [][]string{{"GROUP", "STATE", "MASTER", "REPLICAS", "COPIES", "WANTED", "MIN", "SLOW", "VERSION", "NOW"}}
	for _, g := range groups {
		rows = append(rows, []string{g.Name, g.State, g.Master, strconv.Itoa(len(g.Replicas)), decimal(uint64(g.Copies)), decimal(uint64(g.Policy.Copies)),
			decimal(uint64(g.MinCopies)), g.Policy.slow(), decimal(g.Version), g.Plan})
	}
	s.table(rows)
}

func newGroupSet(s *screen) *cobra.Command {
	c := &changing{}
	var p policyFlags
	command := &cobra.Command{
		Use:   "set GROUP",
		Short: "Change copies, min-copies, or when a slow member is dropped",
		Long: `Changes the policy of a group; what is not named stays. Copies are raised as soon as enough members are there and lowered at
once, without stopping the master.`,
		Args: cobra.ExactArgs(1),
	}
	c.command(s, command, func(_ context.Context, _ *admin.Client, args []string) (*planned, error) {
		policy, err := p.policy(command)
		if err != nil {
			return nil, err
		}
		named := false
		for _, flag := range []string{"copies", "min-copies", "slow-bytes", "slow-lag", "slow-for"} {
			named = named || command.Flags().Changed(flag)
		}
		if !named {
			return nil, usage("nothing to change: name --copies, --min-copies, --slow-bytes, --slow-lag or --slow-for")
		}
		return &planned{request: &proto.ChangeRequest{Group: args[0], Change: &proto.ChangeRequest_SetPolicy{SetPolicy: policy}}}, nil
	})
	p.add(command)
	return command
}

func newGroupCancel(s *screen) *cobra.Command {
	c := &changing{}
	return c.command(s, &cobra.Command{
		Use:   "cancel GROUP",
		Short: "End the change of replicas that is running, where it stands",
		Long:  "Ends a remove, drain or replace that cannot go on. The replica that was to leave stays; one that was added stays as well.",
		Args:  cobra.ExactArgs(1),
	}, func(_ context.Context, _ *admin.Client, args []string) (*planned, error) {
		return &planned{request: &proto.ChangeRequest{Group: args[0], Change: &proto.ChangeRequest_Cancel{Cancel: &proto.CancelChange{}}}}, nil
	})
}

func newGroupRecover(s *screen) *cobra.Command {
	c := &changing{}
	var force, acceptLoss bool
	var confirm string
	command := &cobra.Command{
		Use:   "recover GROUP --force --accept-loss",
		Short: "Go on with the replicas that are left, after too many were lost; writes may be lost",
		Long: `For a group of which so many replicas are lost for good that no master can be elected: makes those that are left the group. What
only the others held is lost, though it may have been acknowledged: first it is shown what that may be. The lost replicas must
not be running. In the state they are in they never come back: set their directories aside, and start them anew.

The group's name must be typed, or given with --confirm. The loss stays on record: smrctl status and smrctl explain show it.`,
		Args: cobra.ExactArgs(1),
	}
	c.command(s, command, func(_ context.Context, _ *admin.Client, args []string) (*planned, error) {
		if !c.dryRun && (!force || !acceptLoss) {
			return nil, usage("this may lose acknowledged writes: look with --dry-run first, then say --force --accept-loss")
		}
		asked := &proto.Recover{Confirm: confirm, AcceptLoss: acceptLoss}
		return &planned{request: &proto.ChangeRequest{Group: args[0], Change: &proto.ChangeRequest_Recover{Recover: asked}},
			confirm: func(plan *proto.ChangePlan) error {
				if since := plan.GetRecovery().GetSinceMs(); since != 0 && s.human() {
					s.printf("  the lost replicas were last seen at %s\n", time.UnixMilli(since).Format(timeForm))
				}
				if confirm != "" {
					return nil
				}
				return c.ask(s, fmt.Sprintf("From then on the group says for ever: %s.\nType the name of the group to go on: ", plan.GetRecovery().GetText()), func(answer string) bool {
					asked.Confirm = answer
					return answer == args[0]
				})
			},
			finished: func(g *proto.GroupStatus) string {
				if g.GetEstablished() != g.GetEpoch() || g.GetMaster() == "" {
					return fmt.Sprintf("a master of epoch %d", g.GetEpoch())
				}
				return ""
			}}, nil
	})
	command.Flags().BoolVar(&force, "force", false, "do what no configuration master would do by itself")
	command.Flags().BoolVar(&acceptLoss, "accept-loss", false, "accept that acknowledged writes may be lost")
	command.Flags().StringVar(&confirm, "confirm", "", "the `name` of the group, in place of typing it")
	c.addWait(command)
	return command
}

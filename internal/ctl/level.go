package ctl

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/proto"
)

// levelShown is the JSON of `smrctl level show`.
type levelShown struct {
	Level     uint32         `json:"level"`    // the cluster's
	Possible  uint32         `json:"possible"` // to which it can be raised now; level if it cannot
	Processes []levelProcess `json:"processes"`
	Brings    []levelBrings  `json:"brings"` // what levels above the cluster's bring, as the configuration masters know
}

type levelProcess struct {
	Kind    string `json:"kind"`  // confmaster, replicator, kvnode
	Group   string `json:"group"` // "" of configuration masters
	Name    string `json:"name"`
	Version string `json:"version"` // "" if it is not known
	Highest uint32 `json:"highest"` // level that it can, 0 if it is not known
	Problem string `json:"problem"` // why what it can now is not known, "" if it is
}

type levelBrings struct {
	Level  uint32 `json:"level"`
	Brings string `json:"brings"`
}

// levelRaised is the JSON of `smrctl level raise`.
type levelRaised struct {
	Done   bool          `json:"done"` // false: a dry run
	Before uint32        `json:"before"`
	Level  uint32        `json:"level"` // of the cluster, then
	Brings []levelBrings `json:"brings"`
	Text   string        `json:"text"`
}

func newLevel(s *screen) *cobra.Command {
	return group("level", "Show and raise the feature level, which all processes support", newLevelShow(s), newLevelRaise(s))
}

func newLevelShow(s *screen) *cobra.Command {
	var at where
	command := &cobra.Command{
		Use:   "show",
		Short: "Show what every process supports, the cluster's feature level, and what raising it would bring",
		Long: `A feature that older versions do not understand is used only from a feature level of the cluster on. The level is raised by an operator
when every process supports more: after an upgrade that is not to be taken back.`,
		Args: cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			client, cluster, err := at.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			levels, err := client.Levels(ctx)
			if err != nil {
				return explainSilence(err, cluster)
			}
			shown := levelsOf(levels, kvVersions(ctx, client))
			return s.show(shown, func() { showLevels(s, &shown) })
		}),
	}
	at.addAll(command)
	return command
}

// kvVersions asks every KV node for its version, which the configuration masters do not know; by group and node.
func kvVersions(ctx context.Context, client *admin.Client) map[[2]string]string {
	versions := make(map[[2]string]string)
	status, err := client.Status(ctx)
	if err != nil {
		return versions // they are left out
	}
	var mu sync.Mutex
	for _, g := range status.GetGroups() {
		askAll(membersOf(g, client.Login), func(_ int, m kvMember) {
			_ = askNode(ctx, g.GetName(), m, nodePatience, func(ctx context.Context, node proto.KVNodeClient, target *proto.Target) error {
				state, err := node.State(ctx, &proto.KVStateRequest{Target: target})
				mu.Lock()
				defer mu.Unlock()
				versions[[2]string{g.GetName(), m.node}] = state.GetVersion()
				return err
			})
		})
	}
	return versions
}

func levelsOf(reply *proto.LevelsReply, kv map[[2]string]string) levelShown {
	shown := levelShown{Level: reply.GetLevel(), Possible: reply.GetPossible(), Processes: []levelProcess{}, Brings: bringsOf(reply, 0)}
	for _, p := range reply.GetProcesses() {
		process := levelProcess{p.GetKind(), p.GetGroup(), p.GetName(), p.GetVersion(), p.GetHighest(), p.GetProblem()}
		if process.Kind == "kvnode" {
			process.Version = kv[[2]string{process.Group, process.Name}]
		}
		shown.Processes = append(shown.Processes, process)
	}
	return shown
}

// bringsOf lists what levels bring, up to one; 0: all.
func bringsOf(reply *proto.LevelsReply, to uint32) []levelBrings {
	list := []levelBrings{}
	for _, row := range reply.GetBrings() {
		if to == 0 || row.GetLevel() <= to {
			list = append(list, levelBrings{row.GetLevel(), row.GetBrings()})
		}
	}
	return list
}

func showLevels(s *screen, shown *levelShown) {
	s.printf("Feature level %d", shown.Level)
	if shown.Possible > shown.Level {
		s.printf("; every process supports %d: `smrctl level raise` when the upgrade is not to be taken back", shown.Possible)
	}
	s.printf("\n\n")
	rows := [][]string{{"PROCESS", "GROUP", "NAME", "VERSION", "SUPPORTS", "PROBLEM"}}
	for _, p := range shown.Processes {
		can := "?"
		if p.Highest > 0 {
			can = strconv.Itoa(int(p.Highest))
		}
		rows = append(rows, []string{p.Kind, p.Group, p.Name, p.Version, can, p.Problem})
	}
	s.table(rows)
	if len(shown.Brings) == 0 {
		return
	}
	s.printf("\n")
	rows = [][]string{{"LEVEL", "BRINGS"}}
	for _, row := range shown.Brings {
		rows = append(rows, []string{strconv.Itoa(int(row.Level)), row.Brings})
	}
	s.table(rows)
}

func newLevelRaise(s *screen) *cobra.Command {
	var c changing
	command := &cobra.Command{
		Use:   "raise [LEVEL]",
		Short: "Raise the feature level of the cluster, for good",
		Long: `Raises the feature level, to the highest one that every process supports, or to LEVEL. It is refused while a configuration master, a replicator of any
registered replica or a KV node does not support it, or was not heard of lately. A level is never lowered: a program that does not
support it ends with exit code 2 from then on, so that an upgrade can be taken back only before.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c.input = command.InOrStdin()
			return work(func(ctx context.Context, args []string) error {
				to := uint64(0)
				if len(args) > 0 {
					var err error
					if to, err = strconv.ParseUint(args[0], 10, 8); err != nil || to == 0 {
						return usage("level %q: give a number from 1 to 255", args[0])
					}
				}
				client, cluster, err := c.dial()
				if err != nil {
					return err
				}
				defer client.Close()
				return explainSilence(c.raiseLevel(ctx, s, client, uint32(to)), cluster)
			})(command, args)
		},
	}
	c.addFlags(command)
	return command
}

func (c *changing) raiseLevel(ctx context.Context, s *screen, client *admin.Client, to uint32) error {
	plan, err := client.RaiseLevel(ctx, &proto.RaiseLevelRequest{To: to, DryRun: true})
	if err != nil {
		return fmt.Errorf("raise the feature level: %w", err)
	}
	if to == 0 {
		to = plan.GetPossible()
	}
	result := levelRaised{Before: plan.GetLevel(), Level: plan.GetLevel(), Brings: bringsOf(plan, to), Text: plan.GetText()}
	if to <= plan.GetLevel() || c.dryRun {
		if to <= plan.GetLevel() {
			result.Brings = []levelBrings{}
		}
		return s.show(result, func() {
			showBrings(s, result.Brings)
			s.printf("%s\n", result.Text)
		})
	}
	if s.human() {
		showBrings(s, result.Brings)
	}
	if !c.yes {
		question := fmt.Sprintf("Raise the feature level from %d to %d? It is never lowered, and programs that do not support it are not let in any more. [y/N] ", plan.GetLevel(), to)
		if err := c.ask(s, question, func(answer string) bool { return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes") }); err != nil {
			return err
		}
	}
	done, err := client.RaiseLevel(ctx, &proto.RaiseLevelRequest{To: to, Seen: plan.GetLevel()})
	if err != nil {
		return fmt.Errorf("raise the feature level: %w", err)
	}
	result.Done, result.Level, result.Text = true, done.GetLevel(), done.GetText()
	return s.show(result, func() { s.printf("%s\n", result.Text) })
}

func showBrings(s *screen, rows []levelBrings) {
	for _, row := range rows {
		s.printf("  level %d brings: %s\n", row.Level, row.Brings)
	}
}

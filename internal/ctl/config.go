package ctl

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/internal/drift"
	"lockstep/proto"
)

// aboutSettings says in each help text who decides.
const aboutSettings = `The configuration masters keep what is wanted, with a version and a history, and give it to every node: at once, and again when a node
starts. What a client does with CONFIG SET, ACL SETUSER or FUNCTION LOAD takes effect, too; it is not taken back, and shows as drift in
` + "`smrctl config diff`" + ` until somebody sets it again.`

func newConfig(s *screen) *cobra.Command {
	return group("config", "Settings of the KV nodes: one record for all of them", newConfigGet(s), newConfigSet(s), newConfigForget(s), newConfigDiff(s), newConfigHistory(s))
}

// ofGroup adds the flag that says which group is meant, where arguments are something else.
func ofGroup(command *cobra.Command, name *string) {
	command.Flags().StringVar(name, "group", "", "`name` of the group (default: the only one)")
}

func givenGroup(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// lookSettings makes a command that shows settings, once or again and again.
func lookSettings(s *screen, command *cobra.Command, kind string, show func(now *standing, args []string) error) *cobra.Command {
	var at where
	var watch watching
	var name string
	command.RunE = work(func(ctx context.Context, args []string) error {
		client, cluster, group, err := at.dialGroup(ctx, givenGroup(name))
		if err != nil {
			return err
		}
		defer client.Close()
		return watch.run(ctx, s, func(ctx context.Context) error {
			now, err := settingsNow(ctx, client, group, kind)
			if err != nil {
				return explainSilence(err, cluster)
			}
			return show(now, args)
		})
	})
	at.addAll(command)
	watch.add(command)
	ofGroup(command, &name)
	return command
}

// configLine is a setting as `config get` shows it.
type configLine struct {
	Name    string            `json:"name"`
	Wanted  *string           `json:"wanted"`  // null: nothing is on record
	Version uint64            `json:"version"` // that brought it, 0 if nothing is on record
	Scope   string            `json:"scope"`   // group, node, noted or fixed
	Nodes   map[string]string `json:"nodes"`   // what each node that answers has
}

func newConfigGet(s *screen) *cobra.Command {
	var all bool
	command := &cobra.Command{
		Use:   "get [NAME…]",
		Short: "Show settings: what is wanted, and what every node has",
		Long: `Shows the settings on record; with names (patterns with * and ? are possible) those, with --all every one.

Scope: group (replicated, the same everywhere), node (of each KV node), noted (a parameter of Redis that nothing depends on), fixed
(follows from how the process was started).

` + aboutSettings,
	}
	lookSettings(s, command, kindConfig, func(now *standing, args []string) error {
		lines, err := now.configLines(args, all)
		if err != nil {
			return err
		}
		return s.show(map[string]any{"group": now.Group, "version": now.Wanted.GetVersion(), "settings": lines}, func() { showConfig(s, now, lines) })
	})
	command.Flags().BoolVar(&all, "all", false, "every setting, also those that nothing is wanted of")
	return command
}

// configLines chooses settings by patterns.
func (s *standing) configLines(patterns []string, all bool) ([]configLine, error) {
	lines := []configLine{}
	known := s.Names(kindConfig)
	matched := make(map[string]bool)
	for _, name := range known {
		chosen := all || len(patterns) == 0 && s.Find(kindConfig, name) != nil
		for _, pattern := range patterns {
			if hit, err := path.Match(strings.ToLower(pattern), name); err != nil {
				return nil, usage("pattern %q: %v", pattern, err)
			} else if hit {
				chosen, matched[pattern] = true, true
			}
		}
		if chosen {
			lines = append(lines, s.configLine(name))
		}
	}
	for _, pattern := range patterns {
		if !matched[pattern] {
			if err := s.FirstError(); err != nil {
				return nil, err
			}
			return nil, unknownName("setting", pattern, known)
		}
	}
	return lines, nil
}

func (s *standing) configLine(name string) configLine {
	line := configLine{Name: name, Nodes: map[string]string{}}
	if item := s.Find(kindConfig, name); item != nil {
		line.Wanted, line.Version = &item.Value, item.GetVersion()
	}
	for i := range s.Nodes {
		if have := s.Nodes[i].Of(kindConfig, name); have != nil {
			line.Scope, line.Nodes[s.Nodes[i].Node] = have.GetScope(), have.GetValue()
		}
	}
	return line
}

func showConfig(s *screen, now *standing, lines []configLine) {
	s.printf("Group %s: settings version %d\n", s.paint(bold, now.Group), now.Wanted.GetVersion())
	if len(lines) == 0 {
		s.printf("Nothing is on record: `smrctl config set NAME VALUE` puts something there, --all shows what the nodes have.\n")
		return
	}
	heading := []string{"NAME", "WANTED", "VERSION", "SCOPE"}
	for _, n := range now.Nodes {
		heading = append(heading, strings.ToUpper(n.Node))
	}
	rows := [][]string{heading}
	for _, l := range lines {
		wanted, version := "-", "-"
		if l.Wanted != nil {
			wanted, version = quoteEmpty(*l.Wanted), decimal(l.Version)
		}
		row := []string{l.Name, wanted, version, l.Scope}
		for _, n := range now.Nodes {
			value, answered := l.Nodes[n.Node]
			cell := quoteEmpty(value)
			if !answered {
				cell = "?"
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	s.table(rows)
	for _, n := range now.Nodes {
		if n.Err != nil {
			s.printf("  %v\n", n.Err)
		}
	}
}

func quoteEmpty(value string) string {
	if value == "" {
		return `""`
	}
	return value
}

// settingCommand makes a command that changes settings.
func settingCommand(s *screen, command *cobra.Command, plan func(ctx context.Context, client *admin.Client, group string, args []string) (*proto.ChangeSettings, error)) *cobra.Command {
	c := &changing{}
	var name string
	var version uint64
	command.RunE = func(command *cobra.Command, args []string) error {
		c.input = command.InOrStdin()
		return work(func(ctx context.Context, args []string) error {
			client, cluster, group, err := c.dialGroup(ctx, givenGroup(name))
			if err != nil {
				return err
			}
			defer client.Close()
			change, err := plan(ctx, client, group, args)
			if err != nil {
				return explainSilence(err, cluster)
			}
			return explainSilence(c.changeSettings(ctx, s, client, group, change, version), cluster)
		})(command, args)
	}
	c.addFlags(command)
	c.addWait(command)
	ofGroup(command, &name)
	command.Flags().Uint64Var(&version, "if-version", 0, "refuse, with exit code 5, unless the settings have this version, as `smrctl config get` shows it")
	return command
}

func newConfigSet(s *screen) *cobra.Command {
	return settingCommand(s, &cobra.Command{
		Use:     "set NAME VALUE [NAME VALUE…]",
		Short:   "Set settings on every node of a group: all of them or none",
		Long:    "A name or value that a node does not take is refused, and nothing is changed. Setting what is set already brings it to every node\nagain.\n\n" + aboutSettings,
		Example: "  smrctl config set maxmemory 2gb maxmemory-policy allkeys-lru",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args)%2 != 0 {
				return fmt.Errorf("%d arguments: give pairs of a name and a value", len(args))
			}
			return nil
		},
	}, func(_ context.Context, _ *admin.Client, _ string, args []string) (*proto.ChangeSettings, error) {
		change := &proto.ChangeSettings{}
		for pair := range slices.Chunk(args, 2) {
			change.Settings = append(change.Settings, &proto.Setting{Kind: kindConfig, Name: strings.ToLower(pair[0]), Value: pair[1]})
		}
		return change, nil
	})
}

func newConfigForget(s *screen) *cobra.Command {
	return settingCommand(s, &cobra.Command{
		Use:   "forget NAME…",
		Short: "Take settings off the record: the nodes keep what they have, and lose it when they start again unless it is replicated",
		Args:  cobra.MinimumNArgs(1),
	}, func(_ context.Context, _ *admin.Client, _ string, args []string) (*proto.ChangeSettings, error) {
		change := &proto.ChangeSettings{Forget: true}
		for _, name := range args {
			change.Settings = append(change.Settings, &proto.Setting{Kind: kindConfig, Name: strings.ToLower(name)})
		}
		return change, nil
	})
}

func newConfigDiff(s *screen) *cobra.Command {
	return lookSettings(s, &cobra.Command{
		Use:   "diff",
		Short: "Show drift: nodes that have something else than is wanted, and why",
		Long:  "Compares every node with the record (settings, users and function libraries), and settings that nothing is wanted of among the nodes.\nExit code 3 if there is a difference.\n\n" + aboutSettings,
		Args:  cobra.NoArgs,
	}, "", func(now *standing, _ []string) error {
		list := now.Differences()
		err := s.show(map[string]any{"group": now.Group, "version": now.Wanted.GetVersion(), "drift": list}, func() {
			if len(list) == 0 {
				s.printf("group %s: every node has settings version %d\n", now.Group, now.Wanted.GetVersion())
				return
			}
			rows := [][]string{{"NODE", "KIND", "NAME", "WANTED", "HAS", "WHY"}}
			for _, d := range list {
				rows = append(rows, []string{d.Node, d.Kind, d.Name, quoteEmpty(d.Wanted), quoteEmpty(d.Has), d.Why})
			}
			s.table(rows)
		})
		if err == nil && len(list) > 0 {
			err = found("group %s: %d differences", now.Group, len(list))
		}
		return err
	})
}

// historyLine is one change of one setting.
type historyLine struct {
	Version uint64 `json:"version"`
	Time    string `json:"time"`
	By      string `json:"by"`
	What    string `json:"what"` // set, removed, forgotten
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Value   string `json:"value"`
	Before  string `json:"before"`
}

func newConfigHistory(s *screen) *cobra.Command {
	var at where
	var name string
	command := &cobra.Command{
		Use:   "history [NAME…]",
		Short: "Show who changed which setting, user or function library when",
		Long:  "Shows the last 200 changes, oldest first; with names those of these. Long values are cut, hashes of passwords shortened.",
		RunE: work(func(ctx context.Context, args []string) error {
			client, cluster, group, err := at.dialGroup(ctx, givenGroup(name))
			if err != nil {
				return err
			}
			defer client.Close()
			reply, err := client.Settings(ctx, group, true)
			if err != nil {
				return explainSilence(err, cluster)
			}
			lines := []historyLine{}
			for _, h := range reply.GetHistory() {
				if len(args) == 0 || slices.Contains(args, h.GetName()) {
					lines = append(lines, historyLine{Version: h.GetVersion(), Time: time.UnixMilli(h.GetTimeMs()).Format(timeForm), By: h.GetBy(), What: h.GetWhat(),
						Kind: h.GetKind(), Name: h.GetName(), Value: drift.Shown(h.GetKind(), h.GetValue()), Before: drift.Shown(h.GetKind(), h.GetBefore())})
				}
			}
			return s.show(map[string]any{"group": group, "history": lines}, func() {
				rows := [][]string{{"VERSION", "TIME", "BY", "WHAT", "KIND", "NAME", "VALUE", "BEFORE"}}
				for _, l := range lines {
					rows = append(rows, []string{decimal(l.Version), l.Time, l.By, l.What, l.Kind, l.Name, l.Value, l.Before})
				}
				s.table(rows)
			})
		}),
	}
	at.addAll(command)
	ofGroup(command, &name)
	return command
}

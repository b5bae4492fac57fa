package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/proto"
)

// dialGroup is dial, and finds out which group is meant: the one named, or the only one there is. The client belongs to the caller.
func (w *where) dialGroup(ctx context.Context, args []string) (*admin.Client, *local.Cluster, string, error) {
	client, cluster, err := w.dial()
	if err != nil {
		return nil, nil, "", err
	}
	name, err := onlyGroup(ctx, client, args)
	if err != nil {
		client.Close()
		return nil, nil, "", explainSilence(err, cluster)
	}
	return client, cluster, name, nil
}

// onlyGroup returns the group named, or the only one there is.
func onlyGroup(ctx context.Context, client *admin.Client, args []string) (string, error) {
	status, err := client.Status(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, group := range status.GetGroups() {
		names = append(names, group.GetName())
	}
	switch {
	case len(args) == 1 && !slices.Contains(names, args[0]):
		return "", fmt.Errorf("the configuration masters know no group %q: there are %v", args[0], names)
	case len(args) == 1:
		return args[0], nil
	case len(names) == 0:
		return "", errors.New("the configuration masters know no group")
	case len(names) == 1:
		return names[0], nil
	}
	return "", usage("there are several groups: name one of %v", names)
}

func newSwitchover(s *screen) *cobra.Command {
	var at where
	var target string
	var dry dryRun
	command := &cobra.Command{
		Use:   "switchover [GROUP]",
		Short: "Hand mastership of a group over, without losing anything",
		Long:  "Hands mastership over to the node given with --to, or to the most suitable one, and returns when the new master is\nestablished. Clients of living nodes see a short pause and no error.",
		Args:  cobra.MaximumNArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			client, cluster, name, err := at.dialGroup(ctx, args)
			if err != nil {
				return err
			}
			defer client.Close()
			if dry.on {
				steps, err := switchoverSteps(ctx, client, name, target)
				if err != nil {
					return err
				}
				return dry.show(s, steps)
			}
			reply, err := client.Switchover(ctx, name, target)
			if err != nil {
				return fmt.Errorf("switch-over of group %s: %w", name, explainSilence(err, cluster))
			}
			result := struct {
				Group string `json:"group"`
				Epoch uint64 `json:"epoch"`
				Text  string `json:"text"`
			}{name, reply.GetEpoch(), reply.GetText()}
			return s.show(result, func() { s.printf("group %s, epoch %d: %s\n", name, result.Epoch, result.Text) })
		}),
	}
	at.addAll(command)
	dry.add(command)
	command.Flags().StringVar(&target, "to", "", "node that is to become master")
	err := command.RegisterFlagCompletionFunc("to", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		cluster, err := local.Open(at.dir)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return nodeNames(cluster)[:len(cluster.Plan.Replicas)], cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the flag stands above
	}
	return command
}

// switchoverSteps is what a switch-over would do, or why it would be refused. The configuration masters look again when it is done.
func switchoverSteps(ctx context.Context, client *admin.Client, name, target string) ([]string, error) {
	group, err := client.Group(ctx, name)
	if err != nil {
		return nil, err
	}
	if target == "" {
		return []string{fmt.Sprintf("hand mastership of group %s over from %s to the most suitable slave", name, group.GetMaster())}, nil
	}
	r := replicaIn(group, target)
	switch {
	case r == nil:
		return nil, fmt.Errorf("%s is no replica of group %s%s", target, name, didYouMean(target, replicaNames(group)))
	case target == group.GetMaster():
		return []string{fmt.Sprintf("nothing: %s is the master of group %s already", target, name)}, nil
	case !r.GetMember() || !r.GetUp():
		return nil, fmt.Errorf("%s is no member of group %s that is up: it cannot lead now", target, name)
	}
	return []string{fmt.Sprintf("hand mastership of group %s over from %s to %s, which is %d bytes behind", name, group.GetMaster(), target, r.GetLagBytes())}, nil
}

func replicaNames(group *proto.GroupStatus) []string {
	var names []string
	for _, r := range group.GetReplicas() {
		names = append(names, r.GetNode())
	}
	return names
}

// decision is one entry of the work log.
type decision struct {
	ID         uint64      `json:"id"`
	Time       string      `json:"time"`
	Group      string      `json:"group"`
	Epoch      uint64      `json:"epoch"`
	Kind       string      `json:"kind"`
	Reason     string      `json:"reason"`
	Master     string      `json:"master"`
	Confmaster uint64      `json:"confmaster"` // which one decided
	Witnesses  []witness   `json:"witnesses"`
	Candidates []candidate `json:"candidates"`
}

type witness struct {
	Confmaster uint64 `json:"confmaster"`
	Node       string `json:"node"`
	Saw        string `json:"saw"`
	SilentMs   uint32 `json:"silent_ms"`
}

type candidate struct {
	Node          string `json:"node"`
	Incarnation   string `json:"incarnation"`
	PositionEpoch uint64 `json:"position_epoch"`
	EndLSN        uint64 `json:"end_lsn"`
	CommitLSN     uint64 `json:"commit_lsn"`
	AppliedLSN    uint64 `json:"applied_lsn"`
	Chosen        bool   `json:"chosen"`
	Note          string `json:"note"`
}

func decisionOf(e *proto.WorkEntry) decision {
	d := decision{
		ID: e.GetId(), Time: time.UnixMilli(e.GetTimeMs()).Format(timeForm), Group: e.GetGroup(), Epoch: e.GetEpoch(), Kind: e.GetKind(),
		Reason: e.GetReason(), Master: e.GetMaster(), Confmaster: e.GetConfmaster(), Witnesses: []witness{}, Candidates: []candidate{},
	}
	for _, w := range e.GetWitnesses() {
		d.Witnesses = append(d.Witnesses, witness{Confmaster: w.GetConfmaster(), Node: w.GetNode(), Saw: w.GetSaw(), SilentMs: w.GetSilentMs()})
	}
	for _, c := range e.GetCandidates() {
		d.Candidates = append(d.Candidates, candidate{
			Node: c.GetNode(), Incarnation: fmt.Sprintf("%016x", c.GetIncarnation()), PositionEpoch: c.GetPositionEpoch(), EndLSN: c.GetEnd(),
			CommitLSN: c.GetCommit(), AppliedLSN: c.GetApplied(), Chosen: c.GetChosen(), Note: c.GetNote(),
		})
	}
	return d
}

// workLogLimit is how many decisions are asked for: what configuration masters keep.
const workLogLimit = 1000

func newExplain(s *screen) *cobra.Command {
	var at where
	var watch watching
	var all bool
	command := &cobra.Command{
		Use:   "explain [GROUP]",
		Short: "Show the last fail-over: who saw what, the candidates, and why one was chosen",
		Long:  "Shows the last election of a group and all decisions since: which configuration master saw what, the Position of every\ncandidate, and why the new master was chosen.",
		Args:  cobra.MaximumNArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			client, cluster, name, err := at.dialGroup(ctx, args)
			if err != nil {
				return err
			}
			defer client.Close()
			return watch.run(ctx, s, func(ctx context.Context) error {
				entries, err := client.WorkLog(ctx, name, workLogLimit)
				if err != nil {
					return explainSilence(err, cluster)
				}
				if !all {
					entries = sinceElection(entries)
				}
				list := []decision{}
				for _, entry := range entries {
					list = append(list, decisionOf(entry))
				}
				return s.show(map[string][]decision{"decisions": list}, func() { showDecisions(s, name, list) })
			})
		}),
	}
	at.addAll(command)
	watch.add(command)
	command.Flags().BoolVar(&all, "all", false, "show every decision that is still on record")
	return command
}

// sinceElection returns the entries from the last election on. An election that had to be begun anew, because the one before
// came to nothing, belongs to the same story.
func sinceElection(entries []*proto.WorkEntry) []*proto.WorkEntry {
	start := 0
	for i, entry := range entries {
		if !beginsElection(entry) {
			continue
		}
		start = i
		for start > 0 && entries[start-1].GetKind() != "established" && entries[start-1].GetKind() != "created" {
			start--
		}
	}
	return entries[start:]
}

func beginsElection(entry *proto.WorkEntry) bool {
	return entry.GetKind() == "election" || entry.GetKind() == "switchover"
}

func showDecisions(s *screen, group string, list []decision) {
	if len(list) == 0 {
		s.printf("Nothing has been decided about group %s.\n", group)
		return
	}
	for _, d := range list {
		s.printf("%s  epoch %d  %s  (decided by c%d)\n", d.Time, d.Epoch, s.paint(bold, d.Kind), d.Confmaster)
		if d.Reason != "" {
			s.printf("  %s\n", d.Reason)
		}
		if d.Master != "" {
			s.printf("  master: %s\n", d.Master)
		}
		if len(d.Witnesses) > 0 {
			rows := [][]string{{"  SEEN BY", "NODE", "SILENT MS", "WHAT"}}
			for _, w := range d.Witnesses {
				rows = append(rows, []string{"  c" + decimal(w.Confmaster), w.Node, decimal(uint64(w.SilentMs)), w.Saw})
			}
			s.table(rows)
		}
		if len(d.Candidates) > 0 {
			rows := [][]string{{"  CANDIDATE", "POSITION EPOCH", "END", "COMMIT", "APPLIED", "", "NOTE"}}
			for _, c := range d.Candidates {
				mark := ""
				if c.Chosen {
					mark = "chosen"
				}
				rows = append(rows, []string{"  " + c.Node, decimal(c.PositionEpoch), decimal(c.EndLSN), decimal(c.CommitLSN), decimal(c.AppliedLSN), mark, c.Note})
			}
			s.table(rows)
		}
		s.printf("\n")
	}
}

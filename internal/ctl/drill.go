package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"lockstep/internal/admin"
	"lockstep/internal/drill"
	"lockstep/internal/drill/plan"
	"lockstep/internal/drill/report"
	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/proto"
)

// drillsDir is where a cluster on this machine keeps the history of its drills, below its directory.
const drillsDir = "drills"

func newDrills(s *screen) *cobra.Command {
	return group("drill", "Break a running cluster on purpose, within what it must survive, and see that it does",
		newDrillList(s), newDrillRun(s), newDrillAbort(s), newDrillHistory(s), newDrillShow(s), newDrillSchedule(s))
}

func newDrillList(s *screen) *cobra.Command {
	var at drillPlace
	command := &cobra.Command{
		Use:   "list",
		Short: "Show what drills there are, and how each went last",
		Args:  cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			reports, err := at.reports(ctx, s)
			if err != nil {
				return err
			}
			last := make(map[string]*report.Report)
			for _, r := range reports {
				last[r.Drill] = r
			}
			type entry struct {
				plan.Kind
				Last    string `json:"last"` // id of the last run, "" if there was none
				Verdict string `json:"verdict"`
			}
			var list []entry
			for _, k := range plan.Kinds {
				e := entry{Kind: k}
				if r := last[k.Name]; r != nil {
					e.Last, e.Verdict = r.ID, r.Verdict
				}
				list = append(list, e)
			}
			return s.show(map[string]any{"drills": list}, func() {
				rows := [][]string{{"DRILL", "LAST", "WHAT IS DONE"}}
				if s.wide() {
					rows[0] = append(rows[0], "WHAT IT PROVES")
				}
				for _, e := range list {
					row := []string{e.Name, e.Verdict, e.What}
					if s.wide() {
						row = append(row, e.Proves)
					}
					rows = append(rows, row)
				}
				s.table(rows)
			})
		}),
	}
	at.add(command)
	return command
}

// drillPlace says which cluster, and where the history of its drills is.
type drillPlace struct {
	where
	history string
}

func (p *drillPlace) add(command *cobra.Command) {
	p.addAll(command)
	p.addLogin(command)
	command.Flags().StringVar(&p.history, "history", "", "`directory` of the history of drills (default: DIR/drills of a cluster on this machine; else one for each cluster in $XDG_STATE_HOME/lockstep/drills)")
	if err := command.MarkFlagDirname("history"); err != nil {
		panic(err) // the flag stands above
	}
}

// dirOf is where the history is.
func (p *drillPlace) dirOf(ctx context.Context, client *admin.Client, cluster *local.Cluster) (string, error) {
	switch {
	case p.history != "":
		return p.history, nil
	case cluster != nil:
		return filepath.Join(cluster.Dir, drillsDir), nil
	}
	status, err := client.Status(ctx)
	if err != nil {
		return "", err
	}
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the history of drills: %w: use --history", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "lockstep", "drills", filepath.Base(filepath.Clean("/"+status.GetCluster()))), nil
}

// reports reads the history. What a killed drill left is cleaned up before.
func (p *drillPlace) reports(ctx context.Context, s *screen) ([]*report.Report, error) {
	dir, err := p.tidied(ctx, s)
	if err != nil {
		return nil, err
	}
	return drill.Reports(dir)
}

func (p *drillPlace) tidied(ctx context.Context, s *screen) (string, error) {
	if p.history == "" && len(p.confmasters) == 0 {
		if _, err := local.Open(p.dir); errors.Is(err, local.ErrNoCluster) && p.dir == defaultDir {
			return filepath.Join(p.dir, drillsDir), nil // what drills there are can be looked at without a cluster
		}
	}
	client, cluster, err := p.dial()
	if err != nil {
		return "", err
	}
	defer client.Close()
	dir, err := p.dirOf(ctx, client, cluster)
	if err != nil {
		return "", err
	}
	if drill.Unfinished(dir) {
		config := drill.Config{Client: client, Local: cluster, Dir: dir, Progress: s.note}
		if cluster != nil {
			if config.Binaries, err = binaries(ctx, cluster.Dir, s); err != nil {
				return "", err
			}
		}
		if err := drill.Leftovers(ctx, config); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func newDrillRun(s *screen) *cobra.Command {
	var at drillPlace
	var ask changing
	var config drill.Config
	var times int
	var every time.Duration
	command := &cobra.Command{
		Use:   "run DRILL [GROUP]",
		Short: "Run a drill on a group that serves",
		Long: `Clients write on every KV node and check what they read, the fault is made, the group recovers, and every key is read on every node.
Refused if the group could not survive it: a replica or a configuration master is missing, too few copies, a change or another
drill is under way. Taken back at once if something else breaks, if no write is acknowledged for --longest, on Ctrl-C, and when smrctl
dies: the fault ends with its connection, and by itself after its time.

` + "`smrctl drill list`" + ` shows what drills there are. A cluster from ` + "`smrctl up`" + ` allows them; elsewhere replicators and configuration masters
must be started with --allow-drills, below a supervisor that starts them again.

The clients use keys of their own, which are deleted afterwards. The report stays in the history: ` + "`smrctl drill show last`" + `. Exit code 3: the
drill was done and did not pass.`,
		Example: "  smrctl drill run kill-master\n  smrctl drill run switchover --times 20 --yes\n  smrctl drill run lose-disk --node n3",
		Args:    cobra.RangeArgs(1, 2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return plan.Names(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	at.add(command)
	flags := command.Flags()
	flags.StringVar(&config.Node, "node", "", "the `node` that is hit, of drills that leave a choice, or to which mastership is handed over")
	flags.DurationVar(&config.Hold, "hold", plan.DefaultHold, "how long the fault lasts, 1s to 1m")
	flags.DurationVar(&config.Longest, "longest", plan.DefaultLongest, "longest time without an acknowledged write; beyond that the drill is aborted")
	flags.IntVar(&config.Clients, "clients", plan.DefaultClients, "clients on each KV node, 1 to 50")
	flags.IntVar(&times, "times", 1, "how often, one after the other; ends with the first that does not pass")
	flags.DurationVar(&every, "every", 0, "again and again, so long after each other, until Ctrl-C or the first that does not pass")
	flags.BoolVar(&ask.dryRun, "dry-run", false, "show what was looked at and what would be done, and do nothing")
	flags.BoolVar(&ask.yes, "yes", false, "do it without asking")
	command.MarkFlagsMutuallyExclusive("times", "every")
	command.MarkFlagsMutuallyExclusive("dry-run", "yes")
	command.RunE = func(command *cobra.Command, args []string) error {
		ask.input = command.InOrStdin()
		return work(func(ctx context.Context, args []string) error {
			config.Drill = args[0]
			if err := checkDrill(args[0]); err != nil {
				return err
			}
			if err := config.Check(); err != nil {
				return &misuse{err}
			}
			if times < 1 || times > 1000 || every < 0 {
				return usage("--times %d, --every %v: use 1 to 1000 times, or a time above 0", times, every)
			}
			return runDrills(ctx, s, &at, &ask, config, args[1:], times, every)
		})(command, args)
	}
	return command
}

// runDrills runs a drill as often as asked.
func runDrills(ctx context.Context, s *screen, at *drillPlace, ask *changing, config drill.Config, args []string, times int, every time.Duration) error {
	client, cluster, name, err := at.dialGroup(ctx, args)
	if err != nil {
		return err
	}
	defer client.Close()
	if config.Dir, err = at.dirOf(ctx, client, cluster); err != nil {
		return err
	}
	config.Client, config.Local, config.Group, config.By, config.Progress, config.Dial = client, cluster, name, operator(), s.note, dialAgent(client.Login)
	if cluster != nil {
		if config.Binaries, err = binaries(ctx, cluster.Dir, s); err != nil {
			return err
		}
	}
	config.Digests = func(ctx context.Context) error { return sameDigests(ctx, client, name) }
	if ask.dryRun {
		plan, err := drill.Inspect(ctx, config)
		if err != nil {
			return err
		}
		return s.show(plan, func() { showDrillPlan(s, plan) })
	}
	config.Confirm = func(plan *plan.Plan) error {
		if ask.yes {
			return nil
		}
		showDrillPlan(&screen{out: s.notes, notes: s.notes, format: "table"}, plan)
		return ask.ask(s, "Do it? [y/N] ", func(answer string) bool { return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes") })
	}
	passed := 0
	for {
		result, err := drill.Run(ctx, config)
		if err != nil {
			return err
		}
		s.compact = times > 1 || every > 0
		if err := s.show(result, func() { showDrill(s, result, filepath.Join(config.Dir, result.ID)) }); err != nil {
			return err
		}
		if !result.Good() {
			return found("drill %s did not pass (%d had passed before): %s", result.Drill, passed, strings.Join(result.Problems, "; "))
		}
		passed++
		config.Confirm = nil // it was asked once
		if every == 0 && passed == times {
			break
		}
		if every > 0 {
			s.note(fmt.Sprintf("passed %d times; the next one in %v", passed, every))
			if !pause.For(ctx, every) {
				return nil
			}
		}
	}
	if times > 1 {
		s.note(fmt.Sprintf("passed %d times of %d", passed, times))
	}
	return nil
}

// stopped is the JSON of `smrctl drill abort`.
type stopped struct {
	Group string `json:"group"`
	Drill string `json:"drill"` // id
	By    string `json:"by"`    // who runs it
	Text  string `json:"text"`
}

func newDrillAbort(s *screen) *cobra.Command {
	var at where
	var ask changing
	command := &cobra.Command{
		Use:   "abort [GROUP]",
		Short: "End the drill that is under way, whoever runs it and wherever",
		Long: `Every process that the drill has takes its faults back at once, and whoever runs it is told: it cleans up, and its verdict is aborted. It is
what "Abort" of the web page does. Needs the role operator, and is in ` + "`smrctl audit`" + `.`,
		Args: cobra.MaximumNArgs(1),
	}
	at.addAll(command)
	command.Flags().BoolVar(&ask.yes, "yes", false, "do it without asking")
	command.RunE = func(command *cobra.Command, args []string) error {
		ask.input = command.InOrStdin()
		return work(func(ctx context.Context, args []string) error {
			client, cluster, name, err := at.dialGroup(ctx, args)
			if err != nil {
				return err
			}
			defer client.Close()
			state, err := client.DrillState(ctx, name)
			if err != nil {
				return explainSilence(err, cluster)
			}
			id, by := drillOf(state)
			if id == "" {
				return fmt.Errorf("no drill has a process of group %s now: nothing to abort", name)
			}
			s.note(fmt.Sprintf("drill %s of %s is under way", id, by))
			if !ask.yes {
				if err := ask.ask(s, "Abort it? [y/N] ", func(answer string) bool { return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes") }); err != nil {
					return err
				}
			}
			reply, err := client.EndDrill(ctx, name, id)
			if err != nil {
				return explainSilence(err, cluster)
			}
			return s.show(stopped{name, id, by, reply.GetText()}, func() { s.printf("%s\n", reply.GetText()) })
		})(command, args)
	}
	return command
}

// drillOf is the drill that has a process, and who runs it; "" if none does.
func drillOf(state *proto.DrillStateReply) (id, by string) {
	for _, a := range state.GetAgents() {
		if a.GetFaults().GetDrill() != "" {
			return a.GetFaults().GetDrill(), a.GetFaults().GetBy()
		}
	}
	return "", ""
}

// dialAgent connects to the management port of a process.
func dialAgent(login admin.Login) func(addr string) (*grpc.ClientConn, error) {
	return func(addr string) (*grpc.ClientConn, error) { return nodeConn(login, addr, "", "", grpc.WithNoProxy()) }
}

// sameDigests reports why the KV nodes do not hold the same state, or why that is not known.
func sameDigests(ctx context.Context, client *admin.Client, name string) error {
	group, err := client.Group(ctx, name)
	if err != nil {
		return err
	}
	lines, err := digestsOf(ctx, name, membersOf(group, client.Login))
	if err != nil {
		return err
	}
	for _, l := range lines {
		switch {
		case l.Digest == "":
			return fmt.Errorf("%s does not tell its digest: %s", l.Node, l.Error)
		case l.Digest != lines[0].Digest || l.LSN != lines[0].LSN:
			return fmt.Errorf("%s and %s hold different states at LSN %d", lines[0].Node, l.Node, l.LSN)
		}
	}
	return nil
}

func showDrillPlan(s *screen, plan *plan.Plan) {
	for _, check := range plan.Checks {
		s.printf("  checked: %s\n", check)
	}
	for i, step := range plan.Steps {
		s.printf("  %d. %s\n", i+1, step)
	}
}

// showDrill shows a report to people. folder is where it stands.
func showDrill(s *screen, r *report.Report, folder string) {
	colour := map[string]string{report.Passed: green, report.Failed: red, report.Aborted: yellow}[r.Verdict]
	s.printf("drill %s on group %s: %s\n", r.Drill, r.Group, s.paint(colour, r.Verdict))
	for _, p := range r.Problems {
		s.printf("  %s\n", p)
	}
	line := func(name, format string, args ...any) { s.printf("  %-14s %s\n", name, fmt.Sprintf(format, args...)) }
	if len(r.Victims) > 0 {
		line("hit", "%s", strings.Join(r.Victims, ", "))
	}
	if r.FaultAt > 0 {
		line("detection", "%s", report.Millis(r.DetectionMs))
		line("election", "%s", report.Millis(r.ElectionMs))
		line("first write", "%s after the fault", report.Millis(r.FirstWriteMs))
		line("longest pause", "%.0f ms without an acknowledged write", r.PauseMs)
		line("whole again", "%s", report.Millis(r.MendedMs))
	}
	if r.MasterAfter != "" {
		line("master", "%s (epoch %d) before, %s (epoch %d) after", r.MasterBefore, r.EpochBefore, r.MasterAfter, r.EpochAfter)
		line("checked", "%d acknowledged writes and %d reads of %d keys, every key on %d nodes; %d broken promises; digests %s",
			r.Writes, r.Reads, r.Keys, r.Nodes, len(r.Violations), r.Digests)
	}
	if len(r.Errors) == 0 && r.MasterAfter != "" {
		line("errors", "none that a client saw")
	}
	for _, e := range r.Errors {
		where := e.Node
		if e.Victim {
			where += ", which was hit"
		}
		line("errors", "%d × %s (%s)", e.Count, e.Name, where)
	}
	if s.wide() {
		for _, m := range r.Timeline {
			line(fmt.Sprintf("%+.3f s", float64(m.Stamp-r.FaultAt)/1e9), "%s: %s", m.Who, m.Text)
		}
	}
	line("report", "%s", filepath.Join(folder, "report.html"))
}

func newDrillHistory(s *screen) *cobra.Command {
	var at drillPlace
	command := &cobra.Command{
		Use:   "history",
		Short: "Show all drills that were run here, and how they went",
		Args:  cobra.NoArgs,
		RunE: work(func(ctx context.Context, _ []string) error {
			reports, err := at.reports(ctx, s)
			if err != nil {
				return err
			}
			type entry struct {
				ID           string   `json:"id"`
				Drill        string   `json:"drill"`
				Group        string   `json:"group"`
				Verdict      string   `json:"verdict"`
				Began        string   `json:"began"`
				By           string   `json:"by"`
				FirstWriteMs *float64 `json:"first_write_ms"`
				PauseMs      float64  `json:"pause_ms"`
				Writes       int      `json:"writes"`
				Errors       int      `json:"errors_of_others"` // on nodes that were not hit
				Problems     []string `json:"problems"`
			}
			list := []entry{}
			for _, r := range reports {
				list = append(list, entry{r.ID, r.Drill, r.Group, r.Verdict, r.Began.UTC().Format(time.RFC3339), r.By, r.FirstWriteMs, r.PauseMs, r.Writes, r.ErrorsOfOthers(), r.Problems})
			}
			return s.show(map[string]any{"drills": list}, func() {
				if len(list) == 0 {
					s.printf("no drill was run yet\n")
					return
				}
				rows := [][]string{{"ID", "GROUP", "VERDICT", "FIRST WRITE", "PAUSE MS", "WRITES", "ERRORS"}}
				if s.wide() {
					rows[0] = append(rows[0], "BY", "PROBLEMS")
				}
				for _, e := range list {
					row := []string{e.ID, e.Group, e.Verdict, report.Millis(e.FirstWriteMs), fmt.Sprintf("%.0f", e.PauseMs), fmt.Sprint(e.Writes), fmt.Sprint(e.Errors)}
					if s.wide() {
						row = append(row, e.By, strings.Join(e.Problems, "; "))
					}
					rows = append(rows, row)
				}
				s.table(rows)
			})
		}),
	}
	at.add(command)
	return command
}

func newDrillShow(s *screen) *cobra.Command {
	var at drillPlace
	var html string
	command := &cobra.Command{
		Use:   "show ID|last",
		Short: "Show the report of a drill; -o wide with its timeline",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			dir, err := at.tidied(ctx, s)
			if err != nil {
				return err
			}
			result, page, err := drill.Read(dir, args[0])
			if err != nil {
				return err
			}
			if html != "" {
				file, err := os.OpenFile(html, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
				if err != nil {
					return fmt.Errorf("write the report: %w", err)
				}
				if err := errors.Join(result.WriteHTML(file), file.Close()); err != nil {
					return err
				}
				s.note("written to " + html)
			}
			return s.show(result, func() { showDrill(s, result, filepath.Dir(page)) })
		}),
	}
	at.add(command)
	command.Flags().StringVar(&html, "html", "", "write the report as one HTML page to this new `file`, too")
	return command
}

// checkDrill refuses what is no drill.
func checkDrill(name string) error {
	if plan.Find(name) == nil {
		return usage("there is no drill %q%s: `%s drill list` shows them", name, didYouMean(name, plan.Names()), program())
	}
	return nil
}

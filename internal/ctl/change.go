package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/proto"
)

// changing is what all commands that change a group have in common.
type changing struct {
	where
	dryRun, yes bool
	noWait      bool
	patience    time.Duration
	input       io.Reader
}

func (c *changing) addFlags(command *cobra.Command) {
	c.addAll(command)
	command.Flags().BoolVar(&c.dryRun, "dry-run", false, "show what would be checked and done, and change nothing")
	command.Flags().BoolVar(&c.yes, "yes", false, "do it without asking")
	command.MarkFlagsMutuallyExclusive("dry-run", "yes")
}

func (c *changing) addWait(command *cobra.Command) {
	command.Flags().BoolVar(&c.noWait, "no-wait", false, "return as soon as the change is decided; `smrctl status` shows how it goes on")
	command.Flags().DurationVar(&c.patience, "timeout", 10*time.Minute, "how long to wait until it is carried out; it goes on by itself afterwards")
}

// changed is the JSON of a change.
type changed struct {
	Group   string   `json:"group"`
	Done    bool     `json:"done"` // false: a dry run
	Version uint64   `json:"version"`
	Epoch   uint64   `json:"epoch"`
	Checks  []string `json:"checks"`
	Steps   []string `json:"steps"`
	Text    string   `json:"text"`
}

// planned runs one change: it shows the plan, asks, does it, and waits until finished says that it is carried out.
type planned struct {
	request  *proto.ChangeRequest
	confirm  func(plan *proto.ChangePlan) error // in place of the question
	finished func(group *proto.GroupStatus) (waiting string)
}

// command makes a cobra command of a change.
func (c *changing) command(s *screen, command *cobra.Command, plan func(ctx context.Context, client *admin.Client, args []string) (*planned, error)) *cobra.Command {
	command.RunE = func(command *cobra.Command, args []string) error {
		c.input = command.InOrStdin()
		return work(func(ctx context.Context, args []string) error {
			client, cluster, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			change, err := plan(ctx, client, args)
			if err != nil {
				return explainSilence(err, cluster)
			}
			return explainSilence(c.run(ctx, s, client, change), cluster)
		})(command, args)
	}
	c.addFlags(command)
	return command
}

func (c *changing) run(ctx context.Context, s *screen, client *admin.Client, change *planned) error {
	request := change.request
	request.DryRun = true
	plan, err := client.Change(ctx, request)
	if err != nil {
		return fmt.Errorf("group %s: %w", request.GetGroup(), err)
	}
	if s.human() {
		showPlan(s, plan)
	}
	if c.dryRun {
		return c.show(s, request.GetGroup(), plan, plan)
	}
	if change.confirm != nil {
		err = change.confirm(plan)
	} else if !c.yes {
		err = c.ask(s, "Do it? [y/N] ", func(answer string) bool { return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes") })
	}
	if err != nil {
		return err
	}
	request.DryRun, request.Version = false, plan.GetVersion()
	done, err := client.Change(ctx, request)
	if err != nil {
		return fmt.Errorf("group %s: %w", request.GetGroup(), err)
	}
	if err := c.show(s, request.GetGroup(), plan, done); err != nil || c.noWait || change.finished == nil {
		return err
	}
	return c.await(ctx, s, client, request.GetGroup(), func(group *proto.GroupStatus) string {
		if group.GetVersion() < done.GetVersion() {
			return "the configuration masters to show it"
		}
		return change.finished(group)
	})
}

func showPlan(s *screen, plan *proto.ChangePlan) {
	for _, check := range plan.GetChecks() {
		s.printf("  checked: %s\n", check)
	}
	for i, step := range plan.GetSteps() {
		s.printf("  %d. %s\n", i+1, step)
	}
}

func (c *changing) show(s *screen, group string, plan, done *proto.ChangePlan) error {
	result := changed{Group: group, Done: !c.dryRun, Version: done.GetVersion(), Epoch: done.GetEpoch(), Checks: append([]string{}, plan.GetChecks()...),
		Steps: append([]string{}, plan.GetSteps()...), Text: done.GetText()}
	return s.show(result, func() { s.printf("group %s: %s\n", group, result.Text) })
}

// ask puts a question on the notes and reads one line.
func (c *changing) ask(s *screen, question string, agrees func(answer string) bool) error {
	fmt.Fprint(s.notes, question)
	answer, err := bufio.NewReader(io.LimitReader(c.input, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer == "" {
		return errors.New("nobody answered: nothing was changed; --help tells what to say in place of the question")
	}
	if !agrees(strings.TrimSpace(answer)) {
		return errors.New("not confirmed: nothing was changed")
	}
	return nil
}

// await waits until the change is carried out.
func (c *changing) await(ctx context.Context, s *screen, client *admin.Client, name string, finished func(*proto.GroupStatus) string) error {
	look := func(ctx context.Context, waiting string) (string, error) {
		group, err := client.Group(ctx, name)
		switch {
		case err != nil:
			return waiting, nil
		case group == nil:
			return "", fmt.Errorf("group %s is gone", name)
		}
		return finished(group), nil
	}
	waiting, err := c.poll(ctx, s, 200*time.Millisecond, "the configuration masters to answer", look)
	if waiting != "" {
		return fmt.Errorf("not done within %v: waiting for %s; it goes on by itself, see `%s status`", c.patience, waiting, program())
	}
	return err
}

// poll looks every so often until nothing is waited for, and shows what is when that changes. look is told what was waited for and
// says what is now; an error of it ends the wait. If c.patience does not suffice, what was waited for last is returned with the
// reason; it is empty otherwise.
func (c *changing) poll(ctx context.Context, s *screen, every time.Duration, waiting string, look func(ctx context.Context, waiting string) (string, error)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	told := ""
	for {
		now, err := look(ctx, waiting)
		if err != nil {
			return "", err
		}
		if now == "" {
			s.note("done")
			return "", nil
		}
		if waiting = now; waiting != told {
			told = waiting
			s.note("waiting for " + waiting)
		}
		select {
		case <-ctx.Done():
			return waiting, ctx.Err()
		case <-ticker.C:
		}
	}
}

// replicaIn returns the status of a replica, nil if it is not registered.
func replicaIn(group *proto.GroupStatus, node string) *proto.ReplicaStatus {
	for _, r := range group.GetReplicas() {
		if r.GetNode() == node {
			return r
		}
	}
	return nil
}

// untilMember waits until node is a member of an established configuration.
func untilMember(node string) func(*proto.GroupStatus) string {
	return func(group *proto.GroupStatus) string {
		r := replicaIn(group, node)
		switch {
		case r == nil:
			return node + " to be registered"
		case !r.GetMember():
			return fmt.Sprintf("%s to become a member%s", node, progressText(r))
		case group.GetEstablished() != group.GetEpoch():
			return fmt.Sprintf("epoch %d to be established", group.GetEpoch())
		}
		return ""
	}
}

// untilGone waits until node is no longer registered, or (drained) no longer a member.
func untilGone(node string, drained bool) func(*proto.GroupStatus) string {
	return func(group *proto.GroupStatus) string {
		r := replicaIn(group, node)
		if r != nil && (!drained || r.GetMember() || group.GetEstablished() != group.GetEpoch()) {
			text := node + " to leave"
			if group.GetPlan() != "" {
				text += " (" + group.GetPlan() + ")"
			}
			return text
		}
		return ""
	}
}

// progressText says how far a replica that is no member is.
func progressText(r *proto.ReplicaStatus) string {
	state := r.GetState()
	switch {
	case !r.GetUp():
		return ": it is not up"
	case state.GetBytesTotal() > 0:
		t := transferOf(state)
		return fmt.Sprintf(": image %d %%", t.BytesDone*100/max(t.BytesTotal, 1))
	case state.GetNeedImage():
		return ": it needs an image"
	}
	return ""
}

// nodesOf offers the nodes of a cluster on this machine to the shell.
func (c *changing) nodesOf(position int) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		cluster, err := local.Open(c.dir)
		switch {
		case err != nil:
			return nil, cobra.ShellCompDirectiveNoFileComp
		case len(args) == 0 && position > 0:
			return []string{cluster.Plan.Group}, cobra.ShellCompDirectiveNoFileComp
		}
		return nodeNames(cluster)[:len(cluster.Plan.Replicas)], cobra.ShellCompDirectiveNoFileComp
	}
}

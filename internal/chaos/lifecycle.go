package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/proto"
)

// lifecycle lists what happens in the years of a cluster: images, trimming, nodes that come and go, backups. It has a lane of its
// own, so that faults act at the same time. What operators do is done with smrctl.
func lifecycle(r *run) []kind {
	return []kind{
		{"checkpoint", 8, (*turn).checkpoint},
		{"slave left behind the log", 5, (*turn).leaveBehind},
		{"replica added", 6, (*turn).addReplica},
		{"replica removed", 6, (*turn).removeReplica},
		{"replica replaced", 5, (*turn).replaceReplica},
		{"replica drained", 4, (*turn).drainReplica},
		{"node wiped", 4, (*turn).wipeNode},
		{"backup and restore", 4, r.backUp},
	}
}

// changing is the claim of whoever changes the set of replicas: the group takes one change at a time.
const changing = "the right to change the replicas"

// smrctl runs the operator's tool against the cluster and returns what it says.
func (c *cluster) smrctl(ctx context.Context, args ...string) (string, error) {
	args = append(args, "--confmaster", strings.Join(c.Plan.ConfmasterAddrs(), ","))
	if c.Plan.TLS {
		files := c.AdminCertificate()
		args = append(args, "--tls-ca", files.CA, "--tls-cert", files.Cert, "--tls-key", files.Key)
	}
	return c.tool(ctx, args...)
}

// isUnanswered reports whether smrctl could not tell what becomes of what it was to do (smrctl help exit-codes).
func isUnanswered(err error) bool {
	var ended *exec.ExitError
	return errors.As(err, &ended) && ended.ExitCode() == 4
}

// tool runs smrctl with these arguments alone.
func (c *cluster) tool(ctx context.Context, args ...string) (string, error) {
	command := exec.CommandContext(ctx, filepath.Join(c.binaries, "smrctl"), args...)
	out, err := command.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("smrctl %s: %w: %s", strings.Join(args[:min(3, len(args))], " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// describe adds to the fault's detail.
func (t *turn) describe(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fault.Detail != "" {
		t.fault.Detail += "; "
	}
	t.fault.Detail += fmt.Sprintf(format, args...)
}

// yield gives claims back before the turn ends.
func (t *turn) yield(things ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, thing := range things {
		delete(t.claimed, thing)
	}
	kept := t.claims[:0]
	for _, thing := range t.claims {
		if t.claimed[thing] {
			kept = append(kept, thing)
		}
	}
	t.claims = kept
}

// checkpoint has one node or all take an image, whatever else is going on.
func (t *turn) checkpoint() bool {
	ctx, cancel := context.WithTimeout(t.ctx, 20*time.Second)
	defer cancel()
	node := t.node()
	switch t.rng.IntN(3) {
	case 0:
		t.begin([]string{"*"}, "smrctl checkpoint")
		if _, err := t.smrctl(ctx, "checkpoint", t.Plan.Group); err != nil {
			t.idle("%s", firstLine(err.Error()))
		}
	case 1:
		t.begin([]string{node}, "smrctl checkpoint --node")
		if _, err := t.smrctl(ctx, "checkpoint", t.Plan.Group, "--node", node); err != nil {
			t.idle("%s", firstLine(err.Error()))
		}
	default:
		t.begin([]string{node}, "BGSAVE")
		if _, err := once(ctx, t.login(), t.addrOf(node), 5*time.Second, "BGSAVE"); err != nil {
			t.idle("%s", firstLine(err.Error()))
		}
	}
	t.end(nil)
	return true
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// addrOf returns where the KV node of a node is.
func (c *cluster) addrOf(node string) string {
	for _, r := range c.Plan.Replicas {
		if r.Node == node {
			return r.KVAddr
		}
	}
	return ""
}

// mayChange claims the right to change replicas and to destroy, with processes, if all nodes are full members. It gives
// everything back if they are not.
func (t *turn) mayChange(processes ...string) bool {
	if !t.claim(append([]string{changing, destroying}, processes...)...) {
		return false
	}
	ctx, cancel := context.WithTimeout(t.ctx, wholePatience)
	defer cancel()
	return pause.Until(ctx, untilPause, func() error { return t.whole(ctx) }) == nil
}

// wholePatience is how long a change waits for other faults to leave the group whole for a moment.
const wholePatience = 5 * time.Second

func processesOf(node string) []string {
	return []string{local.ReplicatorOf(node), local.KVNodeOf(node)}
}

// order has smrctl make a change, and reports whether the group has taken it on. The configuration masters may refuse it for
// reasons that other faults have given them.
func (t *turn) order(args ...string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), 30*time.Second)
	defer cancel()
	version := func() (version uint64, err error) {
		err = pause.Until(ctx, untilPause, func() error {
			group, _, err := t.group(ctx)
			version = group.GetVersion()
			return err
		})
		return version, err
	}
	before, err := version()
	if err != nil {
		t.idle("the version of the group: %s", err)
		return false
	}
	// Without an answer it may yet be taken on, until somebody who leads has answered, if only with a refusal of the repetition.
	_ = pause.Until(ctx, untilPause, func() error {
		if _, err = t.smrctl(ctx, append(args, "--yes", "--no-wait")...); err == nil || !isUnanswered(err) {
			return nil
		}
		return err
	})
	if err == nil {
		return true
	}
	if now, unclear := version(); unclear == nil && now > before {
		return true
	}
	t.idle("%s", err)
	return false
}

// awaitGroup waits until the group is as wanted; while the run lasts, for as long as other faults like, and afterwards for a
// time. What does not come true is a broken promise.
func (t *turn) awaitGroup(rule string, wanted func(*proto.GroupStatus) error) bool {
	ctx, cancel := t.patient()
	defer cancel()
	err := pause.Until(ctx, untilPause, func() error {
		group, _, err := t.group(ctx)
		if err != nil {
			return err
		}
		return wanted(group)
	})
	if err != nil {
		t.failed(rule, "fault %d: %v", t.fault.ID, err)
		return false
	}
	return true
}

// patient is a context that ends a good while after the run has.
func (t *turn) patient() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.ctx))
	stop := context.AfterFunc(t.ctx, func() { time.AfterFunc(2*healTime, cancel) })
	return ctx, func() {
		stop()
		cancel()
	}
}

const carriedOut = "a change of replicas is carried out"

// isMember waits for a node to be a full member.
func isMember(node string) func(*proto.GroupStatus) error {
	return func(group *proto.GroupStatus) error { return admitted(group, node) }
}

// isGone waits for a node to be no replica of the group.
func isGone(node string) func(*proto.GroupStatus) error {
	return func(group *proto.GroupStatus) error {
		if replica(group, node) != nil || group.GetEstablished() != group.GetEpoch() {
			return fmt.Errorf("%s is still there: %s, %s", node, group.GetPlan(), group.GetDetail())
		}
		return nil
	}
}

// launch starts the processes of a node with empty directories.
func (t *turn) launch(r local.Replica) error {
	if err := t.emptyNode(r.Node); err != nil {
		return err
	}
	t.enlist(r)
	return t.startAll(processesOf(r.Node)...)
}

// retire stops the processes of a node, in either way, and empties its directories.
func (t *turn) retire(node string) error {
	t.dismiss(node)
	if t.rng.IntN(2) == 0 {
		for _, name := range []string{local.KVNodeOf(node), local.ReplicatorOf(node)} {
			if killed, err := t.StopProcess(name); err == nil && killed {
				t.failed("processes stop in good order", "%s, which was removed, had to be killed", name)
			}
		}
	}
	t.kill(processesOf(node)...)
	return t.emptyNode(node)
}

// emptyNode empties the directories of a node that does not run.
func (c *cluster) emptyNode(node string) error {
	var all error
	for _, dir := range []string{c.KVDir(node), c.ReplicaDir(node)} {
		if err := emptyDirectory(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// spare claims a node that is not there.
func (t *turn) spare() (local.Replica, bool) {
	for _, r := range t.spares() {
		if t.claim(processesOf(r.Node)...) {
			return r, true
		}
	}
	return local.Replica{}, false
}

// addReplica starts a new node and has the group take it in.
func (t *turn) addReplica() bool {
	r, found := t.spare()
	if !found || !t.claim(changing) {
		return false
	}
	t.begin([]string{r.Node}, "")
	err := t.launch(r)
	if err == nil && !t.order("replica", "add", t.Plan.Group, r.Node, t.manage[r.Node]) {
		t.end(t.retire(r.Node))
		return true
	}
	t.yield(processesOf(r.Node)...)
	t.end(err)
	t.awaitGroup(carriedOut, isMember(r.Node))
	t.noteAdmitted()
	return true
}

func (t *turn) noteAdmitted() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fault.Admit = t.now()
}

// removeReplica has the group drop a replica if enough are left, and takes its node away.
func (t *turn) removeReplica() bool {
	node := t.node()
	if len(t.nodes()) <= replicas || !t.mayChange(processesOf(node)...) {
		return false
	}
	t.begin([]string{node}, "")
	if !t.order("replica", "remove", t.Plan.Group, node, "--switchover") {
		t.end(nil)
		return true
	}
	var err error
	if t.awaitGroup(carriedOut, isGone(node)) {
		err = t.retire(node)
	}
	t.end(err)
	return true
}

// replaceReplica puts a new node in the place of another.
func (t *turn) replaceReplica() bool {
	node := t.node()
	by, found := t.spare()
	if !found || !t.mayChange(processesOf(node)...) {
		return false
	}
	t.begin([]string{node, by.Node}, "%s by %s", node, by.Node)
	err := t.launch(by)
	if err == nil && !t.order("replica", "replace", t.Plan.Group, node, by.Node, t.manage[by.Node], "--switchover") {
		t.end(t.retire(by.Node))
		return true
	}
	t.yield(processesOf(by.Node)...)
	both := func(group *proto.GroupStatus) error {
		return errors.Join(isMember(by.Node)(group), isGone(node)(group))
	}
	if t.awaitGroup(carriedOut, both) {
		err = errors.Join(err, t.retire(node))
	}
	t.end(err)
	t.noteAdmitted()
	return true
}

// drainReplica takes a replica out of the membership, restarts it, and takes it back.
func (t *turn) drainReplica() bool {
	node := t.node()
	if !t.mayChange(processesOf(node)...) {
		return false
	}
	t.begin([]string{node}, "")
	// An order that was not answered may have been carried out all the same: it is taken back in any case.
	drained := t.order("replica", "drain", t.Plan.Group, node, "--switchover") && t.awaitGroup(carriedOut, func(group *proto.GroupStatus) error {
		if replica(group, node).GetMember() || group.GetEstablished() != group.GetEpoch() {
			return fmt.Errorf("%s is still a member: %s, %s", node, group.GetPlan(), group.GetDetail())
		}
		return nil
	})
	t.wait(0, 2*time.Second)
	var err error
	if drained && t.rng.IntN(2) == 0 {
		t.describe("restarted meanwhile")
		t.kill(processesOf(node)...)
		t.wait(0, 2*time.Second)
		err = t.startAll(processesOf(node)...)
	}
	ctx, cancel := t.patient()
	defer cancel()
	undone := pause.Until(ctx, untilPause, func() error {
		_, err := t.smrctl(ctx, "replica", "drain", t.Plan.Group, node, "--undo", "--yes", "--no-wait")
		if group, _, groupErr := t.group(ctx); groupErr == nil && replica(group, node).GetStanding() == "" {
			return nil
		}
		return err
	})
	t.end(errors.Join(err, undone))
	t.yield(processesOf(node)...)
	t.awaitGroup(carriedOut, isMember(node))
	t.noteAdmitted()
	return true
}

// wipeNode takes the directories of a node away, images and all, as `smrctl node wipe` does: it is filled by its peers, with an
// image, for the log does not reach back.
func (t *turn) wipeNode() bool {
	node := t.node()
	if !t.mayChange(processesOf(node)...) {
		return false
	}
	before := t.incarnation(node)
	t.begin([]string{node}, "")
	t.kill(processesOf(node)...)
	err := t.emptyNode(node)
	t.wait(0, time.Second)
	t.end(errors.Join(err, t.startAll(processesOf(node)...)))
	t.yield(processesOf(node)...)
	t.awaitAdmission(node, before, before != 0)
	return true
}

// leaveBehind keeps a slave away until the others' logs begin behind where its own ends: only an image helps it then.
func (t *turn) leaveBehind() bool {
	_, others := t.roles()
	node := others[0]
	if !t.mayChange(processesOf(node)...) {
		return false
	}
	victims := processesOf(node)
	if t.rng.IntN(2) == 0 {
		victims = victims[:1] // the KV node goes on reading, and jumps to an image
	}
	t.begin([]string{node}, "away: %s", strings.Join(victims, ", "))
	t.kill(victims...)
	ctx, cancel := context.WithTimeout(t.ctx, 25*time.Second)
	var end, start uint64
	value := strings.Repeat("x", 128<<10)
	for i := 0; start <= end || end == 0; i++ {
		r := t.nodes()[i%len(t.nodes())]
		// Whatever comes of it: this key is nobody's business.
		_, _ = once(ctx, t.login(), r.KVAddr, time.Second, "SET", "ballast", value)
		if group, _, err := t.group(ctx); err == nil && group.GetMaster() != "" {
			end = replica(group, node).GetState().GetEnd()
			start = replica(group, group.GetMaster()).GetState().GetStart()
		}
		if !pause.For(ctx, 50*time.Millisecond) {
			break
		}
	}
	cancel()
	if start <= end {
		t.idle("the log still reaches back: it begins at %d, %s ends at %d", start, node, end)
	} else {
		t.describe("its log ends at %d, the master's begins at %d", end, start)
	}
	t.end(t.startAll(victims...))
	t.yield(processesOf(node)...)
	t.awaitGroup("a slave that was left behind is filled", isMember(node))
	t.noteAdmitted()
	return true
}

package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstep/internal/chaos"
	"lockstep/internal/fault"
	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/proto"
)

// pauseFault is the one that nobody can count the effects of.
const pauseFault = fault.Pause

// handOver is how long a drill that has just ended may take to let go of the agents.
const handOver = 3 * time.Second

// maxLag is how far a slave may be behind before a drill, in bytes.
const maxLag = 16 << 20

// Plan is what a drill will do.
type Plan struct {
	Drill   string        `json:"drill"`
	Group   string        `json:"group"`
	Victims []string      `json:"victims"`
	Checks  []string      `json:"checks"` // what was looked at, and found in order
	Steps   []string      `json:"steps"`
	Hold    time.Duration `json:"hold_ns"`

	master       string
	epoch        uint64
	version      uint64
	members      []string          // that must be members again at the end
	incarnations map[string]uint64 // of replicas
	clientsAt    []local.Replica
}

// Refusal says why a drill is not done.
type Refusal struct {
	Drill, Group string
	Problems     []string
}

// Error implements error.
func (r *Refusal) Error() string {
	return fmt.Sprintf("drill %s on group %s is refused; nothing was done:\n  %s", r.Drill, r.Group, strings.Join(r.Problems, "\n  "))
}

// look asks for the state of everything.
func (r *run) look(ctx context.Context) (*proto.ClusterStatus, *proto.GroupStatus, error) {
	status, err := r.Client.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, group := range status.GetGroups() {
		if group.GetName() == r.Group {
			r.mu.Lock()
			r.status = group
			r.mu.Unlock()
			return status, group, nil
		}
	}
	return status, nil, fmt.Errorf("the configuration masters do not know group %s", r.Group)
}

func (r *run) group(ctx context.Context) (*proto.GroupStatus, error) {
	_, group, err := r.look(ctx)
	return group, err
}

// last is the group as it was seen last.
func (r *run) last() *proto.GroupStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// inspect looks whether the drill may be done, and plans it.
func (r *run) inspect(ctx context.Context) (*Plan, error) {
	status, group, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Drill: r.Drill, Group: r.Group, Hold: r.Hold, master: group.GetMaster(), epoch: group.GetEpoch(), version: group.GetVersion(), incarnations: map[string]uint64{}}
	for _, replica := range group.GetReplicas() {
		p.incarnations[replica.GetNode()] = replica.GetState().GetIncarnation()
		p.clientsAt = append(p.clientsAt, local.Replica{Node: replica.GetNode(), KVAddr: kvAddr(replica)})
		if replica.GetMember() {
			p.members = append(p.members, replica.GetNode())
		}
	}
	r.plan = p
	problems := wholeness(status, group, p)
	problems = append(problems, r.margins(status, group, p)...)
	if err := r.choose(status, group, p); err != nil {
		problems = append(problems, err.Error())
	}
	r.closeAgents()
	if err := r.dialAgents(status, group); err != nil {
		return nil, err
	}
	if len(problems) == 0 {
		problems = append(r.askAgents(ctx, p), r.askNodes(ctx, p)...)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		return nil, &Refusal{Drill: r.Drill, Group: r.Group, Problems: problems}
	}
	p.Steps = r.steps(p)
	return p, nil
}

// kvAddr is where clients reach a replica's KV node.
func kvAddr(replica *proto.ReplicaStatus) string {
	if addr := replica.GetState().GetKvAddr(); addr != "" {
		return addr
	}
	return replica.GetKvAddr()
}

// wholeness lists what is not as it should be before and after a drill.
func wholeness(status *proto.ClusterStatus, group *proto.GroupStatus, p *Plan) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if !status.GetHasLeader() {
		bad("the configuration masters have no leader")
	}
	for _, c := range status.GetConfmasters() {
		if !c.GetUp() && !c.GetLeader() {
			bad("configuration master %d is not up", c.GetId())
		}
	}
	if group.GetState() != "ok" {
		bad("the group is %s: %s", group.GetState(), group.GetDetail())
	}
	if group.GetEpoch() != group.GetEstablished() {
		bad("epoch %d is not established yet", group.GetEpoch())
	}
	if group.GetPlan() != "" {
		bad("a change is under way: %s", group.GetPlan())
	}
	for _, replica := range group.GetReplicas() {
		node, state := replica.GetNode(), replica.GetState()
		switch {
		case !replica.GetUp():
			bad("%s is not up%s", node, because(replica.GetSaw()))
		case state.GetStopped():
			bad("%s has stopped: it found its log wrong", node)
		case !state.GetAttached():
			bad("%s has no KV node", node)
		case state.GetNeedImage() || state.GetBytesTotal() > 0:
			bad("%s is being filled with an image", node)
		case slices.Contains(p.members, node) && !replica.GetMember():
			bad("%s is not a member", node)
		case replica.GetMember() && state.GetRole() != "master" && state.GetRole() != "slave":
			bad("%s is %s", node, state.GetRole())
		case replica.GetLagBytes() > maxLag:
			bad("%s is %d bytes behind its master", node, replica.GetLagBytes())
		}
	}
	return problems
}

// because is a reason behind a statement, "" if it is not known.
func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// margins lists what the group could not survive.
func (r *run) margins(status *proto.ClusterStatus, group *proto.GroupStatus, p *Plan) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	members, copies := len(p.members), int(group.GetCopies())
	if r.kind.takes && members-1 < copies {
		bad("%d members are there and a write needs %d copies: with one less writes would be refused", members, copies)
	}
	if (r.kind.moves || r.kind.target == everyNode) && members < 2 {
		bad("there is nobody else who could lead")
	}
	if want := group.GetPolicy().GetCopies(); want != 0 && group.GetCopies() < want {
		bad("copies are lowered to %d of %d", group.GetCopies(), want)
	}
	if n := len(status.GetConfmasters()); (r.kind.target == theLeader || r.kind.target == aMajority) && n < 3 {
		bad("there is %d configuration master: nobody could take over", n)
	}
	if len(problems) == 0 {
		p.Checks = append(p.Checks, fmt.Sprintf("%d of %d replicas are members and up, %d copies are needed", members, len(group.GetReplicas()), copies),
			fmt.Sprintf("%d configuration masters are up and have a leader; no change is under way", len(status.GetConfmasters())))
	}
	return problems
}

// choose picks the victims.
func (r *run) choose(status *proto.ClusterStatus, group *proto.GroupStatus, p *Plan) error {
	var slaves, others []string
	for _, node := range p.members {
		if node != p.master {
			slaves = append(slaves, node)
		}
	}
	leader := ""
	for _, c := range status.GetConfmasters() {
		if c.GetLeader() {
			leader = confmasterName(c.GetId())
		} else {
			others = append(others, confmasterName(c.GetId()))
		}
	}
	if r.Node != "" && !slices.Contains(p.members, r.Node) {
		return fmt.Errorf("node %q is no member: use one of %s", r.Node, strings.Join(p.members, ", "))
	}
	switch r.kind.target {
	case theMaster:
		if r.Node != "" && r.Node != p.master {
			return fmt.Errorf("drill %s is for the master, which is %s: hand over to %s first (`smrctl switchover --to %s`)", r.Drill, p.master, r.Node, r.Node)
		}
		p.Victims = []string{p.master}
	case aSlave:
		victim := r.Node
		if victim == p.master {
			return fmt.Errorf("drill %s is for a slave, and %s is the master", r.Drill, victim)
		}
		if victim == "" && len(slaves) > 0 {
			victim = slaves[len(slaves)-1]
		}
		if victim == "" {
			return errors.New("there is no slave")
		}
		p.Victims = []string{victim}
	case everyNode:
		if r.Node != "" {
			return fmt.Errorf("drill %s is for all nodes: leave the node away", r.Drill)
		}
		p.Victims = append(slaves, p.master)
	case theLeader:
		p.Victims = []string{leader}
	case aMajority:
		p.Victims = append([]string{leader}, others[:max(0, min(len(others), (len(others)+1)/2))]...)
	case nobodyElse:
		p.Victims = nil
	}
	return nil
}

// askAgents asks who allows faults, and whether another drill is under way anywhere.
func (r *run) askAgents(ctx context.Context, p *Plan) (problems []string) {
	r.allowed = make(map[string]bool)
	patience, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	for _, name := range r.agentNames() {
		var reply *proto.FaultsReply
		var err error
		_ = pause.Until(patience, poll, func() error { // what is in force in the end is told below
			if reply, err = r.agents[name].faults(ctx); reply.GetDrill() != "" {
				return errors.New(reply.GetDrill())
			}
			return nil
		})
		switch {
		case err != nil:
			problems = append(problems, err.Error())
		case reply.GetDrill() != "":
			problems = append(problems, fmt.Sprintf("another drill is under way: %s of %s at %s", reply.GetDrill(), reply.GetBy(), name))
		case !reply.GetAllowed() && r.kind.agent && slices.Contains(p.Victims, name):
			problems = append(problems, fmt.Sprintf("drills are not allowed at %s: start its process with --allow-drills", name))
		}
		r.allowed[name] = reply.GetAllowed()
	}
	if len(problems) == 0 {
		p.Checks = append(p.Checks, "no other drill is under way")
	}
	return problems
}

// askNodes tries whether clients are let in everywhere.
func (r *run) askNodes(ctx context.Context, p *Plan) (problems []string) {
	for _, replica := range p.clientsAt {
		if err := chaos.Knock(ctx, r.Client.Login, replica.KVAddr); err != nil {
			problems = append(problems, fmt.Sprintf("clients are not let in at %s (%s): %v", replica.Node, replica.KVAddr, err))
		}
	}
	if len(problems) == 0 {
		p.Checks = append(p.Checks, "clients are let in at every KV node")
	}
	return problems
}

// steps says what will be done.
func (r *run) steps(p *Plan) []string {
	victims := "the group"
	if len(p.Victims) > 0 {
		victims = strings.Join(p.Victims, ", ")
	}
	steps := []string{
		fmt.Sprintf("%d clients write on each of %d KV nodes, to keys of their own (*:%s*), and check what they read", r.Clients, len(p.clientsAt), keyName("")),
		fmt.Sprintf("%s (%s)", r.kind.What, victims),
	}
	if r.kind.target != everyNode {
		steps = append(steps, fmt.Sprintf("that lasts %v at most; it is taken back before if something else breaks, or no write is acknowledged for %v", r.Hold, r.Longest))
	}
	if r.Local != nil && (strings.HasPrefix(r.Drill, "kill") || r.Drill == "lose-disk" || r.Drill == "rolling-restart") {
		steps = append(steps, "what was killed is started again")
	}
	return append(steps, "when the group is whole again, every key is read on every node, checked and deleted")
}

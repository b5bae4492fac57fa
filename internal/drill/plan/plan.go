package plan

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/proto"
)

// Bounds and defaults of Order.
const (
	DefaultHold    = 8 * time.Second
	MaxHold        = time.Minute
	DefaultLongest = 45 * time.Second
	DefaultClients = 2
	// KeyMark is in the name of every key that a drill writes.
	KeyMark = "lockstep-drill:"

	// maxLag is how far a slave may be behind before a drill, in bytes.
	maxLag = 16 << 20
)

// Order is what an operator chooses.
type Order struct {
	Drill   string
	Group   string
	Node    string        // the victim, or whom to hand over to; "": as the drill says
	Hold    time.Duration // how long a fault lasts, 1s to MaxHold
	Longest time.Duration // longest time without an acknowledged write, beyond that the drill is aborted; 1s to 10m
	Clients int           // on each KV node, 1 to 50
}

// Check returns all problems of an order.
func (o *Order) Check() error {
	var problems []error
	if Find(o.Drill) == nil {
		problems = append(problems, fmt.Errorf("drill %q: use one of %v", o.Drill, Names()))
	}
	if o.Hold < time.Second || o.Hold > MaxHold {
		problems = append(problems, fmt.Errorf("hold %v: use 1s to %v", o.Hold, MaxHold))
	}
	if o.Longest < time.Second || o.Longest > 10*time.Minute {
		problems = append(problems, fmt.Errorf("longest pause %v: use 1s to 10m", o.Longest))
	}
	if o.Clients < 1 || o.Clients > 50 {
		problems = append(problems, fmt.Errorf("clients %d: use 1 to 50", o.Clients))
	}
	return errors.Join(problems...)
}

// Plan is what a drill will do, to a group as it was when somebody looked.
type Plan struct {
	Drill   string        `json:"drill"`
	Group   string        `json:"group"`
	Victims []string      `json:"victims"`
	Checks  []string      `json:"checks"` // what was looked at, and found in order
	Steps   []string      `json:"steps"`
	Hold    time.Duration `json:"hold_ns"`

	Master       string            `json:"-"`
	Epoch        uint64            `json:"-"`
	Version      uint64            `json:"-"`
	Members      []string          `json:"-"` // that must be members again at the end
	Incarnations map[string]uint64 `json:"-"` // of replicas
}

// Agent is where faults are made, and what it answered: in a replicator, or in a configuration master.
type Agent struct {
	Name    string // of the node, or c1
	Allowed bool   // --allow-drills
	Drill   string // that has the process now, "" if none
	By      string // who runs that
	Problem string // why nothing is known, "" if it answered
	// Why it cannot pause its process or signal the KV node beside it, "" if it can.
	NoPause, NoKVNode string
}

// Confmaster is what a configuration master is called in plans and on clusters of one machine.
func Confmaster(id uint64) string { return "c" + strconv.FormatUint(id, 10) }

// Make plans a drill whose order was checked. The problems are all reasons that the state of the cluster gives against it; with one of
// them the plan is not to be carried out. Agents have their say in Ask.
func Make(status *proto.ClusterStatus, group *proto.GroupStatus, order *Order) (*Plan, []string) {
	kind := Find(order.Drill)
	p := &Plan{Drill: order.Drill, Group: group.GetName(), Hold: order.Hold, Master: group.GetMaster(), Epoch: group.GetEpoch(), Version: group.GetVersion(), Incarnations: map[string]uint64{}}
	for _, replica := range group.GetReplicas() {
		p.Incarnations[replica.GetNode()] = replica.GetState().GetIncarnation()
		if replica.GetMember() {
			p.Members = append(p.Members, replica.GetNode())
		}
	}
	problems := append(p.Wholeness(status, group), p.margins(kind, status, group)...)
	if err := p.choose(kind, status, order.Node); err != nil {
		problems = append(problems, err.Error())
	}
	p.Steps = steps(p, kind, order, len(group.GetReplicas()))
	return p, problems
}

// Ask takes down what the agents answered, and returns what speaks against the drill.
func (p *Plan) Ask(agents []Agent) (problems []string) {
	kind := Find(p.Drill)
	for _, a := range agents {
		switch {
		case a.Problem != "":
			problems = append(problems, a.Problem)
		case a.Drill != "":
			problems = append(problems, fmt.Sprintf("another drill is under way: %s of %s at %s", a.Drill, a.By, a.Name))
		case !a.Allowed && kind.Agent && slices.Contains(p.Victims, a.Name):
			problems = append(problems, fmt.Sprintf("drills are not allowed at %s: start its process with --allow-drills", a.Name))
		case kind.KVNode && a.NoKVNode != "" && slices.Contains(p.Victims, a.Name):
			problems = append(problems, a.Name+": "+a.NoKVNode)
		case kind.Pauses && a.NoPause != "" && slices.Contains(p.Victims, a.Name):
			problems = append(problems, a.Name+": "+a.NoPause)
		}
	}
	if len(problems) == 0 {
		p.Checks = append(p.Checks, "no other drill is under way")
	}
	return problems
}

// Wholeness lists what is not as it should be before and after a drill.
func (p *Plan) Wholeness(status *proto.ClusterStatus, group *proto.GroupStatus) (problems []string) {
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
		case slices.Contains(p.Members, node) && !replica.GetMember():
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
func (p *Plan) margins(kind *Kind, status *proto.ClusterStatus, group *proto.GroupStatus) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	members, copies := len(p.Members), int(group.GetCopies())
	if kind.Takes && members-1 < copies {
		bad("%d members are there and a write needs %d copies: with one less writes would be refused", members, copies)
	}
	if (kind.Moves || kind.Target == EveryNode) && members < 2 {
		bad("there is nobody else who could lead")
	}
	if want := group.GetPolicy().GetCopies(); want != 0 && group.GetCopies() < want {
		bad("copies are lowered to %d of %d", group.GetCopies(), want)
	}
	if n := len(status.GetConfmasters()); (kind.Target == TheLeader || kind.Target == AMajority) && n < 3 {
		bad("there is %d configuration master: nobody could take over", n)
	}
	if len(problems) == 0 {
		p.Checks = append(p.Checks, fmt.Sprintf("%d of %d replicas are members and up, %d copies are needed", members, len(group.GetReplicas()), copies),
			fmt.Sprintf("%d configuration masters are up and have a leader; no change is under way", len(status.GetConfmasters())))
	}
	return problems
}

// choose picks the victims.
func (p *Plan) choose(kind *Kind, status *proto.ClusterStatus, node string) error {
	var slaves, others []string
	for _, member := range p.Members {
		if member != p.Master {
			slaves = append(slaves, member)
		}
	}
	leader := ""
	for _, c := range status.GetConfmasters() {
		if c.GetLeader() {
			leader = Confmaster(c.GetId())
		} else {
			others = append(others, Confmaster(c.GetId()))
		}
	}
	if node != "" && !slices.Contains(p.Members, node) {
		return fmt.Errorf("node %q is no member: use one of %s", node, strings.Join(p.Members, ", "))
	}
	switch kind.Target {
	case TheMaster:
		if node != "" && node != p.Master {
			return fmt.Errorf("drill %s is for the master, which is %s: hand over to %s first (`smrctl switchover --to %s`)", p.Drill, p.Master, node, node)
		}
		p.Victims = []string{p.Master}
	case ASlave:
		victim := node
		if victim == p.Master {
			return fmt.Errorf("drill %s is for a slave, and %s is the master", p.Drill, victim)
		}
		if victim == "" && len(slaves) > 0 {
			victim = slaves[len(slaves)-1]
		}
		if victim == "" {
			return errors.New("there is no slave")
		}
		p.Victims = []string{victim}
	case EveryNode:
		if node != "" {
			return fmt.Errorf("drill %s is for all nodes: leave the node away", p.Drill)
		}
		p.Victims = append(slaves, p.Master)
	case TheLeader:
		p.Victims = []string{leader}
	case AMajority:
		p.Victims = append([]string{leader}, others[:max(0, min(len(others), (len(others)+1)/2))]...)
	case NobodyElse:
		p.Victims = nil
	}
	return nil
}

// steps says what will be done.
func steps(p *Plan, kind *Kind, order *Order, nodes int) []string {
	victims := "the group"
	if len(p.Victims) > 0 {
		victims = strings.Join(p.Victims, ", ")
	}
	steps := []string{
		fmt.Sprintf("%d clients write on each of %d KV nodes, to keys of their own (*:%s*), and check what they read", order.Clients, nodes, KeyMark),
		fmt.Sprintf("%s (%s)", kind.What, victims),
	}
	if kind.Target != EveryNode {
		steps = append(steps, fmt.Sprintf("that lasts %v at most; it is taken back before if something else breaks, or no write is acknowledged for %v", order.Hold, order.Longest))
	}
	return append(steps, lastStep)
}

// lastStep of every drill.
const lastStep = "when the group is whole again, every key is read on every node, checked and deleted"

// StartsAgain notes that whoever runs the drill starts what it kills: nobody else does, on one machine.
func (p *Plan) StartsAgain() {
	if strings.HasPrefix(p.Drill, "kill") || p.Drill == "lose-disk" || p.Drill == "rolling-restart" {
		p.Steps = slices.Insert(p.Steps, len(p.Steps)-1, "what was killed is started again")
	}
}

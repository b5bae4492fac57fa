package drill

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"lockstep/internal/chaos"
	"lockstep/internal/drill/plan"
	"lockstep/internal/fault"
	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/proto"
)

// pauseFault is the one that nobody can count the effects of.
const pauseFault = fault.Pause

// handOver is how long a drill that has just ended may take to let go of the agents.
const handOver = 3 * time.Second

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
func (r *run) inspect(ctx context.Context) (*plan.Plan, error) {
	status, group, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	p, problems := plan.Make(status, group, &r.Order)
	if r.Local != nil {
		p.StartsAgain()
	}
	r.plan, r.clientsAt = p, nil
	for _, replica := range group.GetReplicas() {
		r.clientsAt = append(r.clientsAt, local.Replica{Node: replica.GetNode(), KVAddr: kvAddr(replica)})
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
	return p, nil
}

// kvAddr is where clients reach a replica's KV node.
func kvAddr(replica *proto.ReplicaStatus) string {
	if addr := replica.GetState().GetKvAddr(); addr != "" {
		return addr
	}
	return replica.GetKvAddr()
}

// askAgents asks who allows faults, and whether another drill is under way anywhere.
func (r *run) askAgents(ctx context.Context, p *plan.Plan) (problems []string) {
	r.allowed = make(map[string]bool)
	patience, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	var answers []plan.Agent
	for _, name := range r.agentNames() {
		answer := plan.Agent{Name: name}
		_ = pause.Until(patience, poll, func() error { // what is in force in the end is told below
			reply, err := r.agents[name].faults(ctx)
			if answer.Problem = ""; err != nil {
				answer.Problem = err.Error()
			}
			answer.Allowed, answer.NoPause, answer.NoKVNode = reply.GetAllowed(), reply.GetNoPause(), reply.GetNoKvnode()
			if answer.Drill, answer.By = reply.GetDrill(), reply.GetBy(); answer.Drill != "" {
				return errors.New(answer.Drill)
			}
			return nil
		})
		r.allowed[name] = answer.Allowed
		answers = append(answers, answer)
	}
	return p.Ask(answers)
}

// askNodes tries whether clients are let in everywhere.
func (r *run) askNodes(ctx context.Context, p *plan.Plan) (problems []string) {
	for _, replica := range r.clientsAt {
		if err := chaos.Knock(ctx, r.Client.Login, replica.KVAddr); err != nil {
			problems = append(problems, fmt.Sprintf("clients are not let in at %s (%s): %v", replica.Node, replica.KVAddr, err))
		}
	}
	if len(problems) == 0 {
		p.Checks = append(p.Checks, "clients are let in at every KV node")
	}
	return problems
}

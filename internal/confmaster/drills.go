package confmaster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/trust"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

// agentPatience bounds one question to an agent: one that is paused or cut off does not answer.
const agentPatience = time.Second

// agent is where drills make faults: in a replicator, in a peer, or here.
type agent struct {
	name   string
	target *lockstep.Target
	at     *remote // nil: this process
}

// agents lists those of a group and of the configuration masters.
func (s *service) agents(ctx context.Context, group string) ([]agent, error) {
	known, err := s.Status(ctx, &lockstep.StatusRequest{})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(known.GetGroups(), func(g *lockstep.GroupStatus) bool { return g.GetName() == group })
	if i < 0 {
		return nil, status.Errorf(codes.NotFound, "there is no group %.100q: `smrctl status` lists them", group)
	}
	var list []agent
	for _, r := range known.GetGroups()[i].GetReplicas() {
		at := replicatorAt(r.GetManageAddr(), smr.NodeID(r.GetNode()))
		list = append(list, agent{r.GetNode(), s.node.target(group, smr.NodeID(r.GetNode())), &at})
	}
	for i := range s.node.config.Peers {
		p := &s.node.config.Peers[i]
		a := agent{fmt.Sprintf("c%d", p.ID), &lockstep.Target{Cluster: s.node.config.Cluster}, nil}
		if p.ID != s.node.config.ID {
			at := p.remote()
			a.at = &at
		}
		list = append(list, a)
	}
	return list, nil
}

// each asks all agents at once. ask is called from several goroutines, with a nil client for this process.
func (s *service) each(ctx context.Context, agents []agent, ask func(ctx context.Context, i int, client lockstep.DrillsClient) error) []error {
	problems := make([]error, len(agents))
	ctx, cancel := context.WithTimeout(trust.PassOn(ctx), agentPatience)
	defer cancel()
	var asking sync.WaitGroup
	for i, a := range agents {
		asking.Go(func() {
			if a.at == nil {
				problems[i] = ask(ctx, i, nil)
				return
			}
			conn, err := s.conns.get(*a.at)
			if err == nil {
				err = ask(ctx, i, lockstep.NewDrillsClient(conn))
			}
			problems[i] = err
		})
	}
	asking.Wait()
	return problems
}

// DrillState asks every agent which drill has it.
func (s *service) DrillState(ctx context.Context, request *lockstep.DrillStateRequest) (*lockstep.DrillStateReply, error) {
	agents, err := s.agents(ctx, request.GetGroup())
	if err != nil {
		return nil, err
	}
	reply := &lockstep.DrillStateReply{}
	for _, a := range agents {
		reply.Agents = append(reply.Agents, &lockstep.DrillAgent{Name: a.name})
	}
	problems := s.each(ctx, agents, func(ctx context.Context, i int, client lockstep.DrillsClient) (err error) {
		if client == nil {
			reply.Agents[i].Faults = s.node.drills.State()
			return nil
		}
		reply.Agents[i].Faults, err = client.Faults(ctx, &lockstep.FaultsRequest{Target: agents[i].target})
		return err
	})
	for i, err := range problems {
		switch {
		case status.Code(err) == codes.Unimplemented: // of an earlier version
			reply.Agents[i].Faults = &lockstep.FaultsReply{}
		case err != nil:
			reply.Agents[i].Problem = fmt.Sprintf("%s does not say whether a drill has it: %s", agents[i].name, status.Convert(err).Message())
		}
	}
	return reply, nil
}

// EndDrill has every agent take back what a drill holds there. Agents that do not answer are left out: whoever runs the drill learns
// of it from one of them, and what they hold ends with his connection. The leader does it, and puts it on record; where there is none,
// or it is what the drill has stopped, this configuration master does it.
func (s *service) EndDrill(ctx context.Context, request *lockstep.EndDrillRequest) (*lockstep.ChangeReply, error) {
	if out, conn, err := s.leaderConn(ctx); err == nil && conn != nil {
		call, cancel := context.WithTimeout(out, 2*agentPatience)
		defer cancel()
		reply, err := lockstep.NewConfmasterClient(conn).EndDrill(call, request)
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded && code != codes.Unimplemented || ctx.Err() != nil {
			return reply, err
		}
	}
	group, drill := request.GetGroup(), request.GetDrill()
	agents, err := s.agents(ctx, group)
	if err != nil {
		return nil, err
	}
	if drill == "" || len(drill) > 128 {
		return nil, status.Errorf(codes.InvalidArgument, "drill %.100q: name the id of the one that is under way", drill)
	}
	by := trust.CallerOf(ctx).String()
	problems := s.each(ctx, agents, func(ctx context.Context, i int, client lockstep.DrillsClient) error {
		if client == nil {
			_, err := s.node.drills.End(drill, by)
			return err
		}
		_, err := client.End(ctx, &lockstep.EndFaultsRequest{Target: agents[i].target, Drill: drill, By: by})
		return err
	})
	var told []string
	for i, err := range problems {
		if err == nil {
			told = append(told, agents[i].name)
		}
	}
	what := "end drill " + drill
	if len(told) == 0 {
		return nil, s.audit(ctx, group, what, status.Errorf(codes.NotFound, "drill %s holds no process of group %s, so nothing was ended: it is over, or it runs without agents (Ctrl-C where it was begun)", drill, group))
	}
	reply := &lockstep.ChangeReply{Text: fmt.Sprintf("%s was told at %s: its faults are taken back, and whoever runs it cleans up", drill, strings.Join(told, ", "))}
	if s.node.leader.Load() != s.node.config.ID { // the work log is written there
		s.node.logger.Warn("audit: not in the work log of the group, because no leader answered", "who", by, "group", group, "what", what, "outcome", "done")
		return reply, nil
	}
	return reply, s.audit(ctx, group, what, nil)
}

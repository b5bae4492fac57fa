package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/drill/plan"
	"lockstep/internal/fault"
	"lockstep/proto"
)

// agent is where faults are made: in a replicator, or in a configuration master.
type agent struct {
	name   string // of the node, or c1
	addr   string
	target *proto.Target
	conn   *grpc.ClientConn // one, so that orders come over the connection that is exempt from cuts
	drills proto.DrillsClient
}

// agentPatience bounds an order until it is carried out.
const agentPatience = 10 * time.Second

// dialAgents prepares connections to all agents of the group and of the configuration masters.
func (r *run) dialAgents(cluster *proto.ClusterStatus, group *proto.GroupStatus) error {
	r.agents = make(map[string]*agent)
	add := func(name, addr string, target *proto.Target) error {
		conn, err := r.Dial(addr)
		if err != nil {
			return fmt.Errorf("agent of %s at %s: %w", name, addr, err)
		}
		r.agents[name] = &agent{name: name, addr: addr, target: target, conn: conn, drills: proto.NewDrillsClient(conn)}
		return nil
	}
	var problems []error
	for _, replica := range group.GetReplicas() {
		target := &proto.Target{Cluster: cluster.GetCluster(), Group: group.GetName(), Node: replica.GetNode()}
		problems = append(problems, add(replica.GetNode(), replica.GetManageAddr(), target))
	}
	for _, c := range cluster.GetConfmasters() {
		problems = append(problems, add(plan.Confmaster(c.GetId()), c.GetAddr(), &proto.Target{Cluster: cluster.GetCluster()}))
	}
	return errors.Join(problems...)
}

func (r *run) closeAgents() {
	for _, a := range r.agents {
		a.conn.Close() // it takes with it what is still held
	}
}

// faults asks an agent what it may do, and what is in force there.
func (a *agent) faults(ctx context.Context) (*proto.FaultsReply, error) {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	reply, err := a.drills.Faults(ctx, &proto.FaultsRequest{Target: a.target})
	if status.Code(err) == codes.Unimplemented {
		return &proto.FaultsReply{}, nil // of an earlier version
	}
	if err != nil {
		return nil, a.explain(err)
	}
	return reply, nil
}

func (a *agent) explain(err error) error {
	return fmt.Errorf("%s at %s: %s", a.name, a.addr, status.Convert(err).Message())
}

// held is a fault, or a reservation, that lasts for as long as its call.
type held struct {
	release context.CancelFunc
	ended   chan struct{} // closed when it is over
	err     error         // why it ended; nil when it was taken back after its limit. Valid once ended is closed
	hits    uint64        // likewise
}

// order has an agent make a fault and returns once it is there. ctx ends it.
func (r *run) order(ctx context.Context, a *agent, limit time.Duration, in *proto.InjectRequest) (*held, error) {
	in.Target, in.Drill, in.By, in.LimitMs = a.target, r.report.ID, r.By, uint32(limit.Milliseconds())
	ctx, release := context.WithCancel(ctx)
	h := &held{release: release, ended: make(chan struct{})}
	began := make(chan error, 1)
	go func() {
		defer close(h.ended)
		stream, err := a.drills.Inject(ctx, in)
		var state *proto.InjectState
		if err == nil {
			state, err = stream.Recv()
		}
		if err == nil && in.GetFault() != fault.Reserve {
			r.mark(a.name, state.GetText())
		}
		began <- err
		for err == nil && !state.GetOver() {
			state, err = stream.Recv()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			h.err = a.explain(err)
		}
		if status.Code(err) == codes.Aborted { // somebody wants the drill to end
			r.abort(h.err)
		}
		h.hits = state.GetHits()
	}()
	timer := time.NewTimer(agentPatience)
	defer timer.Stop()
	select {
	case err := <-began:
		if in.GetFault() == fault.Kill && in.GetProcess() || in.GetFault() == fault.LoseLog {
			if status.Code(err) == codes.Unavailable { // who is killed answers no more
				return h, nil
			}
			if err == nil {
				release()
				return nil, fmt.Errorf("%s at %s: its process was to be killed, and lives", a.name, a.addr)
			}
		}
		if err != nil {
			release()
			return nil, a.explain(err)
		}
		return h, nil
	case <-timer.C:
		release()
		return nil, fmt.Errorf("%s at %s: no answer within %v", a.name, a.addr, agentPatience)
	}
}

// reserve takes every agent for this drill that allows it, for as long as the run lasts.
func (r *run) reserve(ctx context.Context) error {
	for _, name := range r.agentNames() {
		a := r.agents[name]
		if !r.allowed[name] {
			continue
		}
		if _, err := r.order(ctx, a, fault.MaxReserve, &proto.InjectRequest{Fault: fault.Reserve}); err != nil {
			return err
		}
	}
	return nil
}

// lives remembers which incarnation of each replica there is, and which process.
func (r *run) lives() map[string]uint64 {
	lives := make(map[string]uint64)
	for _, replica := range r.last().GetReplicas() {
		lives[replica.GetNode()] = replica.GetState().GetLife()
	}
	return lives
}

// nodeOf is the node of a process.
func nodeOf(process string) string {
	node, _, _ := strings.Cut(process, "-")
	return node
}

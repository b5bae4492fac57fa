package confmaster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"lockstep/internal/fault"
	lockstep "lockstep/proto"
)

// heldAgent is an agent that a drill holds.
type heldAgent struct {
	state  grpc.ServerStreamingClient[lockstep.InjectState]
	cancel context.CancelFunc
}

// hold reserves the agent of a process for a drill, as smrctl does, and returns once it has it.
func hold(t *testing.T, conn grpc.ClientConnInterface, drill, by string) (*heldAgent, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	stream, err := lockstep.NewDrillsClient(conn).Inject(ctx, &lockstep.InjectRequest{Target: &lockstep.Target{Cluster: "c"}, Drill: drill, By: by,
		Fault: fault.Reserve, LimitMs: uint32(fault.MaxReserve.Milliseconds())})
	if err == nil {
		_, err = stream.Recv()
	}
	return &heldAgent{stream, cancel}, err
}

// ended waits until the agent is given back, and tells why.
func (h *heldAgent) ended() error {
	for {
		if _, err := h.state.Recv(); err != nil {
			return err
		}
	}
}

// drillsAt lists which drill has which process, as configuration master i tells it: "n1=d1 of ann".
func (c *testCluster) drillsAt(i int) string {
	c.t.Helper()
	var held []string
	eventually(c.t, "the agents are asked", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		reply, err := c.client(i).DrillState(ctx, &lockstep.DrillStateRequest{Group: "g1"})
		held = nil
		for _, a := range reply.GetAgents() {
			if len(a.GetFaults().GetFaults()) > 0 {
				held = append(held, fmt.Sprintf("%s=%s of %s", a.GetName(), a.GetFaults().GetDrill(), a.GetFaults().GetBy()))
			}
		}
		return err
	})
	slices.Sort(held)
	return strings.Join(held, ", ")
}

func (c *testCluster) endDrill(i int, group, drill string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	reply, err := c.client(i).EndDrill(ctx, &lockstep.EndDrillRequest{Group: group, Drill: drill})
	return reply.GetText(), err
}

// What could go wrong: of two operators who drill at a time the later one is not told; an order to end one drill ends another one, or is given twice
// and both seem to have done it; the one who runs it is not told who has ended it; nothing of it is on record; a new leader of the configuration
// masters, or none, cannot end what was begun before.
func TestDrillIsEndedByItsName(t *testing.T) {
	defer goleak.VerifyNone(t)
	c := newTestCluster(t, 3, "n1", "n2", "n3")
	defer c.close()
	c.create(c.leader())
	at := c.follower()
	leader := c.leader()
	leads := fmt.Sprintf("c%d", leader+1)
	var dialed []*grpc.ClientConn
	defer func() {
		for _, conn := range dialed {
			conn.Close()
		}
	}()
	agent := func(node string) grpc.ClientConnInterface {
		conn, err := grpc.NewClient("passthrough:///"+c.group.of(node).manage, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		dialed = append(dialed, conn)
		return conn
	}
	must := func(h *heldAgent, err error) *heldAgent {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if got := c.drillsAt(at); got != "" {
		t.Errorf("before any drill: %s", got)
	}
	replicator, confmaster := must(hold(t, agent("n1"), "d1", "ann")), must(hold(t, c.members[leader].conn, "d1", "ann"))
	if got, want := c.drillsAt(at), leads+"=d1 of ann, n1=d1 of ann"; got != want {
		t.Errorf("drills are %s, want %s", got, want)
	}
	if _, err := hold(t, agent("n1"), "d2", "bob"); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "drill d1 of ann is under way here") {
		t.Errorf("a second drill: %v", err)
	}
	for _, w := range []struct {
		what, group, drill string
		code               codes.Code
		text               string
	}{
		{"another one's name", "g1", "d2", codes.NotFound, "drill d2 holds no process of group g1"},
		{"no name", "g1", "", codes.InvalidArgument, "name the id"},
		{"too long a name", "g1", strings.Repeat("x", 129), codes.InvalidArgument, "name the id"},
		{"another group", "g2", "d1", codes.NotFound, "there is no group"},
	} {
		if _, err := c.endDrill(at, w.group, w.drill); status.Code(err) != w.code || !strings.Contains(err.Error(), w.text) {
			t.Errorf("%s: %v", w.what, err)
		}
	}
	if got, want := c.drillsAt(at), leads+"=d1 of ann, n1=d1 of ann"; got != want {
		t.Errorf("after orders that were refused drills are %s, want %s", got, want)
	}
	text, err := c.endDrill(at, "g1", "d1")
	if err != nil || !strings.Contains(text, "d1 was told at n1, "+leads) {
		t.Errorf("ended: %q, %v", text, err)
	}
	for _, h := range []*heldAgent{replicator, confmaster} {
		if err := h.ended(); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "ended by") {
			t.Errorf("who runs the drill is told %v", err)
		}
	}
	eventually(t, "nothing is held", func() error {
		if got := c.drillsAt(at); got != "" {
			return fmt.Errorf("drills are %s", got)
		}
		return nil
	})
	if text, err := c.endDrill(at, "g1", "d1"); status.Code(err) != codes.NotFound {
		t.Errorf("ended twice: %q, %v", text, err)
	}

	second := must(hold(t, agent("n1"), "d2", "bob"))
	c.kill(leader)
	next := c.leader()
	if got := c.drillsAt(next); got != "n1=d2 of bob" {
		t.Errorf("the next leader tells of %q", got)
	}
	eventually(t, "it is ended under the next leader", func() error { // which has just begun
		_, err := c.endDrill(c.follower(), "g1", "d2")
		return err
	})
	if err := second.ended(); status.Code(err) != codes.Aborted {
		t.Errorf("who runs it is told %v", err)
	}
	log := c.workLog(next)
	for _, entry := range []string{"end drill d1", "end drill d2"} {
		if !strings.Contains(log, entry) {
			t.Errorf("the work log has no %q:\n%s", entry, log)
		}
	}

	third := must(hold(t, agent("n2"), "d3", "carl"))
	c.kill(next)
	last := 3 - leader - next
	eventually(t, "it is ended without a leader", func() error {
		_, err := c.endDrill(last, "g1", "d3")
		return err
	})
	if err := third.ended(); status.Code(err) != codes.Aborted {
		t.Errorf("who runs it is told %v", err)
	}
}

// workLog returns the work log of g1 as text.
func (c *testCluster) workLog(i int) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := c.client(i).WorkLog(ctx, &lockstep.WorkLogRequest{Group: "g1", Limit: 100})
	if err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprint(reply.GetEntries())
}

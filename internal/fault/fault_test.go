package fault

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"lockstep/proto"
)

// patience is how long anything may take to come true before a test fails.
const patience = 30 * time.Second

// TestMain lets the test binary be the helper that pauses processes, and a process that can be paused.
func TestMain(m *testing.M) {
	Helper()
	if os.Getenv("BE_A_VICTIM") != "" {
		time.Sleep(time.Hour) // without a timer Go would see a deadlock
	}
	goleak.VerifyTestMain(m)
}

// pair returns both ends of a connection: near can be cut, far cannot.
func pair(t *testing.T, a *Agent) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if far, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = a.Listener(listener).Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func quietAgent(o Options) *Agent {
	o.Logger = slog.New(slog.DiscardHandler)
	return New(o)
}

// What could go wrong: a cut lets something through, loses what was held back, breaks deadlines, or outlives its end. Seen at both ends.
func TestCutHoldsBackAndLoses(t *testing.T) {
	a := quietAgent(Options{Allowed: true, Links: true})
	near, far := pair(t, a)
	heal := a.links.cut(true, true, "elsewhere", &a.hits)

	if _, err := far.Write([]byte("in")); err != nil {
		t.Fatal(err)
	}
	if err := near.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := near.Read(make([]byte, 8)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read during a cut: %d bytes, %v", n, err)
	}
	if err := near.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := near.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write during a cut: %d bytes, %v", n, err)
	}
	if err := near.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := near.Write([]byte("out"))
		written <- err
	}()
	heal()
	if err := <-written; err != nil {
		t.Errorf("a write that waited: %v", err)
	}
	for _, end := range []struct {
		conn net.Conn
		want string
	}{{near, "in"}, {far, "out"}} {
		buffer := make([]byte, len(end.want))
		if _, err := io.ReadFull(end.conn, buffer); err != nil || string(buffer) != end.want {
			t.Errorf("after the cut: %q, %v", buffer, err)
		}
	}
	if a.hits.Load() == 0 {
		t.Error("nothing was counted")
	}
}

// A read that had begun before the cut must not hand out what came afterwards, and must not lose it either.
func TestReadUnderWayIsCutToo(t *testing.T) {
	a := quietAgent(Options{Allowed: true, Links: true})
	near, far := pair(t, a)
	type result struct {
		text string
		err  error
	}
	results := make(chan result, 2)
	read := func() {
		buffer := make([]byte, 8)
		n, err := near.Read(buffer)
		results <- result{string(buffer[:n]), err}
	}
	go read()
	heal := a.links.cut(true, false, "elsewhere", &a.hits)
	before := a.hits.Load()
	if _, err := far.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); a.hits.Load() == before; { // until the reader has met the cut
		if time.Now().After(deadline) {
			t.Fatal("the reader does not meet the cut")
		}
	}
	select {
	case r := <-results:
		t.Fatalf("read during a cut: %+v", r)
	default:
	}
	if err := near.SetReadDeadline(time.Now()); err != nil { // it gives up
		t.Fatal(err)
	}
	if r := <-results; r.text != "" || !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("read that gave up: %+v", r)
	}
	heal()
	if err := near.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go read()
	if r := <-results; r.text != "late" || r.err != nil {
		t.Errorf("after the cut: %+v", r)
	}
}

// The connection over which a cut was ordered is exempt, a direction that is not cut goes on, and Close frees whoever waits.
func TestCutExemptAndDirections(t *testing.T) {
	a := quietAgent(Options{Allowed: true, Links: true})
	near, far := pair(t, a)
	heal := a.links.cut(true, true, near.RemoteAddr().String(), &a.hits)
	if _, err := near.Write([]byte("a")); err != nil {
		t.Errorf("the exempt connection: %v", err)
	}
	heal()
	defer a.links.cut(true, false, "elsewhere", &a.hits)()
	if _, err := near.Write([]byte("b")); err != nil {
		t.Errorf("outbound while inbound is cut: %v", err)
	}
	buffer := make([]byte, 2)
	if _, err := io.ReadFull(far, buffer); err != nil || string(buffer) != "ab" {
		t.Errorf("%q, %v", buffer, err)
	}
	freed := make(chan error, 1)
	go func() {
		_, err := near.Read(make([]byte, 1))
		freed <- err
	}()
	near.Close()
	if err := <-freed; err == nil {
		t.Error("a read went on after Close")
	}
}

// Without --allow-drills nothing is wrapped, and a nil agent does nothing.
func TestNothingWithoutPermission(t *testing.T) {
	a := quietAgent(Options{})
	near, _ := pair(t, a)
	if _, wrapped := near.(*conn); wrapped {
		t.Error("a connection was wrapped")
	}
	var none *Agent
	if none.Allowed() || none.DiskFull() || none.SyncDelay() != 0 || time.Since(none.Now()) > time.Minute {
		t.Error("a nil agent makes faults")
	}
}

// serve offers an agent and returns a client of it.
func serve(t *testing.T, a *Agent) proto.DrillsClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	a.Register(server, func(target *proto.Target) error {
		if target.GetNode() != "n1" {
			return status.Error(codes.FailedPrecondition, "not the replica that is meant")
		}
		return nil
	}, make(chan struct{}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-served
	})
	return proto.NewDrillsClient(conn)
}

var n1 = &proto.Target{Node: "n1"}

// inject orders a fault and returns the answer, and what ends it.
func inject(t *testing.T, c proto.DrillsClient, in *proto.InjectRequest) (*proto.InjectState, grpc.ServerStreamingClient[proto.InjectState], context.CancelFunc, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	stream, err := c.Inject(ctx, in)
	if err != nil {
		return nil, nil, cancel, err
	}
	state, err := stream.Recv()
	return state, stream, cancel, err
}

// What could go wrong: a fault without a permission, for another process, without a limit, or beside another drill's.
func TestOrdersAreChecked(t *testing.T) {
	order := func(change func(*proto.InjectRequest)) *proto.InjectRequest {
		in := &proto.InjectRequest{Target: n1, Drill: "d", By: "me", LimitMs: 60000, Fault: SlowDisk, DelayMs: 5}
		change(in)
		return in
	}
	allowed := serve(t, quietAgent(Options{Allowed: true, Disk: true}))
	first := quietAgent(Options{Allowed: true, KVNode: func() int { return 0 }})
	first.first = true
	for name, test := range map[string]struct {
		client proto.DrillsClient
		in     *proto.InjectRequest
		code   codes.Code
		says   string
	}{
		"not allowed":   {serve(t, quietAgent(Options{Disk: true})), order(func(*proto.InjectRequest) {}), codes.FailedPrecondition, "--allow-drills"},
		"somebody else": {allowed, order(func(in *proto.InjectRequest) { in.Target = &proto.Target{Node: "n2"} }), codes.FailedPrecondition, "not the replica"},
		"no drill":      {allowed, order(func(in *proto.InjectRequest) { in.Drill = "" }), codes.InvalidArgument, "drill"},
		"no limit":      {allowed, order(func(in *proto.InjectRequest) { in.LimitMs = 0 }), codes.InvalidArgument, "limit"},
		"for ever":      {allowed, order(func(in *proto.InjectRequest) { in.LimitMs = 3_600_000 }), codes.InvalidArgument, "limit"},
		"too slow":      {allowed, order(func(in *proto.InjectRequest) { in.DelayMs = 60_000 }), codes.InvalidArgument, "10000"},
		"no KV node":    {allowed, order(func(in *proto.InjectRequest) { in.Fault, in.Kvnode = Kill, true }), codes.FailedPrecondition, "KV node"},
		"pid 1":         {serve(t, first), order(func(in *proto.InjectRequest) { in.Fault, in.Process = Pause, true }), codes.FailedPrecondition, "init: true"},
		"kill nobody":   {allowed, order(func(in *proto.InjectRequest) { in.Fault = Kill }), codes.InvalidArgument, "say what"},
		"no links":      {allowed, order(func(in *proto.InjectRequest) { in.Fault, in.Inbound = Links, true }), codes.FailedPrecondition, "cannot be cut"},
		"no log":        {allowed, order(func(in *proto.InjectRequest) { in.Fault = LoseLog }), codes.FailedPrecondition, "no log"},
		"clock":         {allowed, order(func(in *proto.InjectRequest) { in.Fault = Clock }), codes.InvalidArgument, "clock"},
		"unknown":       {allowed, order(func(in *proto.InjectRequest) { in.Fault = "meteor" }), codes.InvalidArgument, "not known"},
	} {
		_, _, cancel, err := inject(t, test.client, test.in)
		cancel()
		if status.Code(err) != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What cannot be done is said before somebody orders it.
	if s := first.State(); !strings.Contains(s.GetNoPause(), "pid 1") || !strings.Contains(s.GetNoKvnode(), "container of its own") {
		t.Errorf("the first process of a container says %v", s)
	}
	if s := quietAgent(Options{Allowed: true, KVNode: func() int { return 17 }}).State(); s.GetNoPause() != "" || s.GetNoKvnode() != "" {
		t.Errorf("a process beside its KV node says %v", s)
	}
}

// A fault is taken back when the caller hangs up, and by itself when its time is over; another drill is refused meanwhile.
func TestFaultsEnd(t *testing.T) {
	a := quietAgent(Options{Allowed: true, Disk: true, Links: true})
	client := serve(t, a)
	_, _, hangUp, err := inject(t, client, &proto.InjectRequest{Target: n1, Drill: "one", By: "ann", LimitMs: 60000, Fault: FullDisk})
	if err != nil || !a.DiskFull() {
		t.Fatalf("full disk: %v, %v", a.DiskFull(), err)
	}
	_, _, cancel, err := inject(t, client, &proto.InjectRequest{Target: n1, Drill: "two", By: "bob", LimitMs: 60000, Fault: Reserve})
	cancel()
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "drill one of ann") {
		t.Errorf("another drill: %v", err)
	}
	reply, err := client.Faults(context.Background(), &proto.FaultsRequest{Target: n1})
	if err != nil || reply.GetDrill() != "one" || len(reply.GetFaults()) != 1 || reply.GetLeftMs() == 0 {
		t.Errorf("in force: %v, %v", reply, err)
	}
	hangUp()
	for deadline := time.Now().Add(patience); a.DiskFull(); {
		if time.Now().After(deadline) {
			t.Fatal("the fault outlives its call")
		}
	}
	for reply.GetDrill() != "" {
		if reply, err = client.Faults(context.Background(), &proto.FaultsRequest{Target: n1}); err != nil {
			t.Fatal(err)
		}
	}

	_, stream, cancel, err := inject(t, client, &proto.InjectRequest{Target: n1, Drill: "three", LimitMs: 1, Fault: Clock, ShiftMs: 3_600_000})
	defer cancel()
	if err != nil {
		t.Fatal(err)
	}
	over, err := stream.Recv()
	if err != nil || !over.GetOver() || time.Since(a.Now()) > time.Minute {
		t.Errorf("after its time: %v, %v, the clock shows %v", over, err, a.Now())
	}
}

// victim starts a process that does nothing.
func victim(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BE_A_VICTIM=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // it may have been killed already
	return cmd
}

// awaitState waits until the system shows the process in one of the states.
func awaitState(t *testing.T, pid int, states string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if strings.Contains(states, rest[:1]) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is in state %s, not in one of %s", pid, rest[:1], states)
		}
	}
}

// A paused process goes on when the caller hangs up; and when its time is over, though nobody does anything.
func TestPauseEnds(t *testing.T) {
	cmd := victim(t)
	client := serve(t, quietAgent(Options{Allowed: true, KVNode: func() int { return cmd.Process.Pid }}))
	for _, limit := range []uint32{60000, 200} {
		state, stream, hangUp, err := inject(t, client, &proto.InjectRequest{Target: n1, Drill: "d", LimitMs: limit, Fault: Pause, Kvnode: true})
		if err != nil || !strings.Contains(state.GetText(), "paused") {
			t.Fatalf("%v, %v", state, err)
		}
		if limit == 60000 {
			awaitState(t, cmd.Process.Pid, "T")
			hangUp()
		} else if over, err := stream.Recv(); err != nil || !over.GetOver() {
			t.Errorf("after its time: %v, %v", over, err)
		}
		awaitState(t, cmd.Process.Pid, "SR")
		hangUp()
		for reply := (&proto.FaultsReply{Drill: "d"}); reply.GetDrill() != ""; { // until the agent is free
			if reply, err = client.Faults(context.Background(), &proto.FaultsRequest{Target: n1}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Kill kills, and nobody else.
func TestKill(t *testing.T) {
	cmd := victim(t)
	client := serve(t, quietAgent(Options{Allowed: true, KVNode: func() int { return cmd.Process.Pid }}))
	if _, _, _, err := inject(t, client, &proto.InjectRequest{Target: n1, Drill: "d", LimitMs: 1000, Fault: Kill, Kvnode: true}); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the victim ended with %v", err)
	}
}

// The process at the other end of a unix socket is what the kernel says.
func TestPeerProcess(t *testing.T) {
	listener, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	far, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	if pid := PeerProcess(near); pid != os.Getpid() {
		t.Errorf("pid %d, want %d", pid, os.Getpid())
	}
}

// What could go wrong: an operator ends a drill, and what it holds stays; another drill is ended in its place; whoever runs it is not told by whom
// it was ended, or takes that for the end of its time.
func TestDrillIsEndedByAnOperator(t *testing.T) {
	a := quietAgent(Options{Allowed: true, Disk: true})
	client := serve(t, a)
	var streams []grpc.ServerStreamingClient[proto.InjectState]
	for _, fault := range []string{Reserve, SlowDisk} {
		_, stream, _, err := inject(t, client, &proto.InjectRequest{Target: n1, Drill: "d", By: "me", LimitMs: 60000, Fault: fault, DelayMs: 5})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	for _, wrong := range []struct {
		in   *proto.EndFaultsRequest
		code codes.Code
	}{
		{&proto.EndFaultsRequest{Target: n1, Drill: "e", By: "olga"}, codes.NotFound},
		{&proto.EndFaultsRequest{Target: n1, Drill: "", By: "olga"}, codes.NotFound},
		{&proto.EndFaultsRequest{Target: n1, Drill: "d"}, codes.InvalidArgument},
		{&proto.EndFaultsRequest{Target: &proto.Target{Node: "n2"}, Drill: "d", By: "olga"}, codes.FailedPrecondition},
	} {
		if _, err := client.End(t.Context(), wrong.in); status.Code(err) != wrong.code {
			t.Errorf("%v: %v", wrong.in, err)
		}
	}
	if a.SyncDelay() == 0 {
		t.Fatal("the fault is over, and nobody has ended it")
	}
	reply, err := client.End(t.Context(), &proto.EndFaultsRequest{Target: n1, Drill: "d", By: "olga"})
	if err != nil || reply.GetEnded() != 2 {
		t.Errorf("%v, %v", reply, err)
	}
	for _, stream := range streams {
		if _, err := stream.Recv(); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "ended by olga") {
			t.Errorf("whoever runs the drill hears: %v", err)
		}
	}
	if a.SyncDelay() != 0 || a.State().GetDrill() != "" {
		t.Errorf("left: %v", a.State())
	}
	if _, err := (*Agent)(nil).End("d", "olga"); status.Code(err) != codes.NotFound {
		t.Errorf("where there is no agent: %v", err)
	}
}

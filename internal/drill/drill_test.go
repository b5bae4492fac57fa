package drill

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"lockstep/internal/admin"
	"lockstep/internal/chaos"
	"lockstep/internal/drill/plan"
	"lockstep/internal/drill/report"
	"lockstep/internal/fault"
	"lockstep/proto"
)

var update = flag.Bool("update", false, "write testdata anew; review the difference line by line")

// healthy is a group of three that may be drilled.
func healthy() *proto.ClusterStatus {
	group := &proto.GroupStatus{Name: "g1", Epoch: 4, Established: 4, Master: "n1", Copies: 2, State: "ok", Version: 1, Policy: &proto.Policy{Copies: 2}}
	for i, node := range []string{"n1", "n2", "n3"} {
		role := "slave"
		if i == 0 {
			role = "master"
		}
		group.Replicas = append(group.Replicas, &proto.ReplicaStatus{Node: node, Up: true, Member: true, KvAddr: "127.0.0.1:1",
			State: &proto.ReplicaState{Node: node, Role: role, Attached: true, Incarnation: uint64(i + 1)}})
	}
	status := &proto.ClusterStatus{Cluster: "c", HasLeader: true, Groups: []*proto.GroupStatus{group}}
	for id := range uint64(3) {
		status.Confmasters = append(status.Confmasters, &proto.ConfmasterStatus{Id: id + 1, Leader: id == 1, Up: true})
	}
	return status
}

// fakes are a configuration master that shows one state, and an agent that every address leads to.
type fakes struct {
	proto.UnimplementedConfmasterServer
	proto.UnimplementedDrillsServer
	status *proto.ClusterStatus
	faults *proto.FaultsReply
}

func (f *fakes) Status(context.Context, *proto.StatusRequest) (*proto.ClusterStatus, error) {
	return f.status, nil
}

func (f *fakes) Faults(context.Context, *proto.FaultsRequest) (*proto.FaultsReply, error) {
	return f.faults, nil
}

func (f *fakes) Inject(*proto.InjectRequest, grpc.ServerStreamingServer[proto.InjectState]) error {
	return status.Error(codes.FailedPrecondition, "nobody may do anything in this test")
}

// letsIn returns the address of somebody who answers every client as a KV node answers PING.
func letsIn(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("+PONG\r\n"))
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

// look starts the fakes and returns a configuration that is about them.
func (f *fakes) start(t *testing.T) Config { return f.startWith(t, f) }

// startWith has another agent than the fakes themselves.
func (f *fakes) startWith(t *testing.T, drills proto.DrillsServer) Config {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	proto.RegisterConfmasterServer(server, f)
	proto.RegisterDrillsServer(server, drills)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	client, err := admin.New([]string{listener.Addr().String()}, admin.Login{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for _, r := range f.status.GetGroups()[0].GetReplicas() {
		r.KvAddr = letsIn(t)
	}
	return Config{Order: plan.Order{Group: "g1", Hold: time.Second, Longest: time.Minute, Clients: 1}, Client: client, Dir: t.TempDir(), By: "tester", Progress: func(line string) { t.Log(line) },
		Dial: func(string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		}}
}

// What could go wrong: a drill on a group that does not survive it. Every reason is tried with every drill; nothing may have been done.
func TestDrillsAreRefused(t *testing.T) {
	group := func(s *proto.ClusterStatus) *proto.GroupStatus { return s.Groups[0] }
	for name, test := range map[string]struct {
		spoil func(*proto.ClusterStatus, *proto.FaultsReply)
		says  string
		only  []string // drills for which it is a reason; nil: all
	}{
		"no leader":           {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { s.HasLeader = false }, "have no leader", nil},
		"a confmaster down":   {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { s.Confmasters[2].Up = false }, "configuration master 3 is not up", nil},
		"degraded":            {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { group(s).State = "degraded" }, "the group is degraded", nil},
		"not established":     {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { group(s).Epoch = 5 }, "epoch 5 is not established", nil},
		"a change":            {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { group(s).Plan = "replace n1" }, "a change is under way: replace n1", nil},
		"a replica down":      {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { group(s).Replicas[1].Up = false }, "n2 is not up", nil},
		"no KV node":          {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { group(s).Replicas[1].State.Attached = false }, "n2 has no KV node", nil},
		"an image under way":  {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { group(s).Replicas[2].State.BytesTotal = 9 }, "n3 is being filled", nil},
		"a replica that lags": {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { group(s).Replicas[2].LagBytes = 1 << 30 }, "n3 is 1073741824 bytes behind", nil},
		"copies lowered":      {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { group(s).Policy.Copies = 3 }, "copies are lowered to 2 of 3", nil},
		"a drill":             {func(_ *proto.ClusterStatus, f *proto.FaultsReply) { f.Drill, f.By = "x-kill-master", "bob" }, "another drill is under way: x-kill-master of bob", nil},
		"no margin": {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { group(s).Copies, group(s).Policy.Copies = 3, 3 }, "3 members are there and a write needs 3 copies",
			[]string{"kill-master", "pause-master", "isolate-master", "one-way-cut", "full-disk", "lose-disk", "rolling-restart"}},
		"one confmaster": {func(s *proto.ClusterStatus, _ *proto.FaultsReply) { s.Confmasters = s.Confmasters[1:2] }, "nobody could take over",
			[]string{"kill-confmaster-leader", "lose-confmaster-majority"}},
		"not allowed": {func(_ *proto.ClusterStatus, f *proto.FaultsReply) { f.Allowed = false }, "start its process with --allow-drills",
			[]string{"kill-master", "kill-kvnode", "pause-master", "isolate-master", "one-way-cut", "slow-disk", "full-disk", "lose-disk", "kill-confmaster-leader",
				"lose-confmaster-majority", "rolling-restart", "clock-jump"}},
		"a KV node in a container of its own": {func(_ *proto.ClusterStatus, f *proto.FaultsReply) { f.NoKvnode = "its process cannot be seen" }, "n1: its process cannot be seen",
			[]string{"kill-master", "kill-kvnode", "pause-master", "rolling-restart"}},
		"pid 1": {func(_ *proto.ClusterStatus, f *proto.FaultsReply) { f.NoPause = "it cannot stand still" }, ": it cannot stand still",
			[]string{"pause-master", "lose-confmaster-majority"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakes{status: healthy(), faults: &proto.FaultsReply{Allowed: true}}
			test.spoil(f.status, f.faults)
			config := f.start(t)
			drills := test.only
			if drills == nil {
				drills = plan.Names()
			}
			if name == "a drill" {
				drills = drills[:1] // it is waited for a little
			}
			for _, config.Drill = range drills {
				_, err := Inspect(context.Background(), config)
				var refusal *Refusal
				if !errors.As(err, &refusal) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%s: %v", config.Drill, err)
				}
				if _, err := Run(context.Background(), config); !errors.As(err, &refusal) {
					t.Errorf("%s is run: %v", config.Drill, err)
				}
			}
			if list, err := Reports(config.Dir); len(list) > 0 || err != nil || Unfinished(config.Dir) {
				t.Errorf("something is in the history: %v, %v", list, err)
			}
		})
	}
}

// Without a reason against it every drill is planned, and hits whom it should; wrong victims are refused.
func TestDrillsArePlanned(t *testing.T) {
	config := (&fakes{status: healthy(), faults: &proto.FaultsReply{Allowed: true}}).start(t)
	for drill, victims := range map[string]string{
		"kill-master": "n1", "lose-disk": "n3", "kill-confmaster-leader": "c2", "lose-confmaster-majority": "c2 c1", "rolling-restart": "n2 n3 n1", "switchover": "",
	} {
		config.Drill = drill
		plan, err := Inspect(context.Background(), config)
		if err != nil || strings.Join(plan.Victims, " ") != victims || len(plan.Checks) < 3 || len(plan.Steps) < 3 {
			t.Errorf("%s: %+v, %v", drill, plan, err)
		}
	}
	for _, wrong := range []struct{ drill, node, says string }{
		{"kill-master", "n2", "is for the master, which is n1"}, {"lose-disk", "n1", "n1 is the master"}, {"lose-disk", "n9", "no member"}, {"rolling-restart", "n1", "all nodes"},
	} {
		config.Drill, config.Node = wrong.drill, wrong.node
		if _, err := Inspect(context.Background(), config); err == nil || !strings.Contains(err.Error(), wrong.says) {
			t.Errorf("%s of %s: %v", wrong.drill, wrong.node, err)
		}
	}
	config.Node = ""
	for _, wrong := range []plan.Order{{Drill: "earthquake"}, {Drill: "kill-master", Hold: time.Hour}, {Drill: "kill-master", Clients: 1000}} {
		c := config
		c.Drill, c.Hold, c.Clients = wrong.Drill, max(c.Hold, wrong.Hold), max(c.Clients, wrong.Clients)
		if _, err := Inspect(context.Background(), c); err == nil {
			t.Errorf("%+v was taken", wrong)
		}
	}
}

// An operator who says no, and a drill that is refused when it is to begin, leave nothing behind.
func TestNothingIsLeftOfADrillThatDidNotBegin(t *testing.T) {
	config := (&fakes{status: healthy(), faults: &proto.FaultsReply{Allowed: true}}).start(t)
	config.Drill = "kill-master"
	config.Confirm = func(*plan.Plan) error { return errors.New("no") }
	if _, err := Run(context.Background(), config); err == nil || err.Error() != "no" {
		t.Errorf("%v", err)
	}
	config.Confirm = nil // the agent refuses the reservation
	var refusal *Refusal
	if _, err := Run(context.Background(), config); !errors.As(err, &refusal) {
		t.Errorf("%v", err)
	}
	if Unfinished(config.Dir) {
		t.Error("a run is left")
	}
}

// Only one smrctl at a time drills from one history.
func TestHistoryIsLocked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openHistory(filepath.Join(file, "drills")); err == nil || !strings.Contains(err.Error(), "--history names another one") {
		t.Errorf("where no directory can be made: %v", err)
	}
	dir := t.TempDir()
	h, err := openHistory(dir)
	if err != nil {
		t.Fatal(err)
	}
	var refusal *Refusal
	if _, err := openHistory(dir); !errors.As(err, &refusal) {
		t.Errorf("%v", err)
	}
	h.close()
	if h, err = openHistory(dir); err != nil {
		t.Fatal(err)
	}
	h.close()
}

// example is a report of a drill that went in an ordinary way, made of operations whose figures are known.
func example() *report.Report {
	const ms = int64(time.Millisecond)
	began := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	r := &run{Config: Config{Order: plan.Order{Drill: "kill-master", Group: "g1"}, By: "ann@desk"}, kind: plan.Find("kill-master"), began: time.Now()}
	r.report = newReport(&r.Config, r.kind, "20261121T100000.000Z-kill-master")
	r.report.Began, r.report.Version = began, "0.1.0"
	note(r.report, &plan.Plan{Victims: []string{"n1"}, Checks: []string{"3 of 3 replicas are members"}, Master: "n1", Epoch: 4})
	r.report.MasterAfter, r.report.EpochAfter, r.report.Digests, r.report.Nodes, r.report.Keys, r.report.Violations = "n2", 5, "equal", 3, 2, []string{}
	r.strikeAt, r.mendedAt = 1000*ms, 2000*ms
	r.timeline = []report.Moment{{Stamp: 1300 * ms, Who: "confmaster", Name: established, Text: "established n2"}, {Stamp: 1000 * ms, Who: "drill", Text: "the fault is there"},
		{Stamp: 1100 * ms, Who: "confmaster", Name: electionBegun, Text: "election-begun n1"}}
	var ops []chaos.Op
	for at := int64(0); at < 2500; at += 50 {
		op := chaos.Op{Node: "n2", Key: "c1", Kind: chaos.Incr, Call: at * ms, Return: (at + 5) * ms, Outcome: chaos.OK}
		if at >= 1000 && at < 1350 { // the first one waits until the new master leads
			op.Return = 1352 * ms
		}
		ops = append(ops, op, chaos.Op{Node: "n3", Key: "c1", Kind: chaos.Get, Call: at * ms, Return: (at + 1) * ms, Outcome: chaos.OK})
	}
	for _, note := range []string{"EOF", "read tcp: connection reset by peer", "NOREPLICAS too few", "read tcp: i/o timeout"} {
		ops = append(ops, chaos.Op{Node: "n1", Key: "c1", Kind: chaos.Incr, Call: 1001 * ms, Outcome: chaos.Unknown, Note: note})
	}
	r.conclude(ops, 2500*ms)
	r.report.Seconds = 9
	return r.report
}

// What could go wrong: figures that are not what happened. Those of an example are known by hand.
func TestFigures(t *testing.T) {
	r := example()
	if !r.Good() || report.Millis(r.DetectionMs) != "100 ms" || report.Millis(r.ElectionMs) != "200 ms" || report.Millis(r.FirstWriteMs) != "352 ms" || r.PauseMs != 352 || report.Millis(r.MendedMs) != "1000 ms" {
		t.Errorf("%s: detection %s, election %s, first write %s, pause %v, whole %s", r.Summary(), report.Millis(r.DetectionMs), report.Millis(r.ElectionMs), report.Millis(r.FirstWriteMs), r.PauseMs, report.Millis(r.MendedMs))
	}
	if r.Writes != 50 || r.Reads != 50 || len(r.Errors) != 3 || r.Errors[0].Name != "connection lost" || r.Errors[0].Count != 2 || !r.Errors[0].Victim || r.ErrorsOfOthers() != 0 {
		t.Errorf("%d writes, %d reads, errors %+v", r.Writes, r.Reads, r.Errors)
	}
}

// A drill passes only if its promise was kept: mastership that has not moved, no write afterwards, a problem, or an abort are no pass.
func TestVerdicts(t *testing.T) {
	verdict := func(change func(*run)) string {
		r := &run{kind: plan.Find("kill-master"), report: &report.Report{EpochBefore: 1, EpochAfter: 2}, strikeAt: 1, began: time.Now()}
		change(r)
		r.conclude([]chaos.Op{{Kind: chaos.Incr, Call: 2, Return: 3, Outcome: chaos.OK}}, 10)
		return r.report.Verdict
	}
	for want, change := range map[string]func(*run){
		report.Passed: func(*run) {}, report.Aborted: func(r *run) { r.abortedBy = errors.New("ctrl-c") }, report.Failed: func(r *run) { r.report.EpochAfter = 1 },
	} {
		if got := verdict(change); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := verdict(func(r *run) { r.complain("digests differ") }); got != report.Failed {
		t.Errorf("with a problem: %s", got)
	}
	if got := verdict(func(r *run) { r.strikeAt = 5 }); got != report.Failed {
		t.Errorf("without a write: %s", got)
	}
}

// The page is one file that needs nothing from elsewhere, and whatever comes from outside is escaped. What it looks like is reviewed in
// testdata/report.html.
func TestPage(t *testing.T) {
	r := example()
	const evil = `<script>alert(1)</script>"'&`
	r.By, r.Problems, r.Timeline[0].Text, r.Errors[0].Name, r.Violations, r.Checks = evil, []string{evil}, evil, evil, []string{evil}, []string{evil}
	var page bytes.Buffer
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	if text := page.String(); strings.Contains(text, "<script") || strings.Contains(text, "http://") && !strings.Contains(text, `xmlns="http://www.w3.org/2000/svg"`) || strings.Count(text, "&lt;script&gt;") < 6 {
		t.Errorf("not escaped, or not self-contained:\n%s", text)
	}
	// A long text late in the timeline begins inside of the picture, and what comes right before the fault is not at -0.000 s.
	page.Reset()
	r = example()
	r.Timeline = []report.Moment{{Stamp: r.FaultAt - 1000, Who: "n1", Text: "links"}, {Stamp: r.FaultAt * 3 / 2, Who: "confmaster", Text: strings.Repeat("reconfigure ", 20)}}
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	if text := page.String(); strings.Contains(text, "-0.000 s") || strings.Contains(text, `text-anchor="end"`) || !strings.Contains(text, `<text x="10" `) {
		t.Errorf("the picture of a timeline:\n%s", text)
	}
	page.Reset()
	if err := example().WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.html")
	if *update {
		if err := os.WriteFile(golden, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(want, page.Bytes()) {
		t.Errorf("the page is not as in %s (%v): go test ./internal/drill -run Page -update, and look at it", golden, err)
	}
}

// Reports come back as they were kept, by id, its beginning, or as the last one; what was not finished is no report.
func TestHistoryKeepsReports(t *testing.T) {
	dir := t.TempDir()
	h, err := openHistory(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	first := example()
	folder, err := h.begin(first.ID, unfinished{ID: first.ID})
	if err != nil || !Unfinished(dir) {
		t.Fatalf("unfinished %v, %v", Unfinished(dir), err)
	}
	if err := os.WriteFile(filepath.Join(folder, opsName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.finish(first, folder); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, opsName)); !errors.Is(err, os.ErrNotExist) || Unfinished(dir) {
		t.Errorf("the operations of a drill that passed are kept: %v, unfinished %v", err, Unfinished(dir))
	}
	for _, id := range []string{first.ID, "20261121T1", "last"} {
		if r, _, err := Read(dir, id); err != nil || r.ID != first.ID || r.Writes != first.Writes {
			t.Errorf("%s: %v, %v", id, r, err)
		}
	}
	if _, _, err := Read(dir, "1999"); err == nil {
		t.Error("a drill of 1999 was found")
	}
	if next := h.nextID("kill-master", first.Began); next == first.ID {
		t.Error("an id was given twice")
	}
}

// The fault that a held call ends on is told: a limit that is longer than an agent takes would be refused there.
func TestLimitsFitTheAgents(t *testing.T) {
	if plan.MaxHold > fault.MaxLimit {
		t.Errorf("a fault of %v is possible, agents take %v", plan.MaxHold, fault.MaxLimit)
	}
}

// reserving is an agent that any drill may have, until somebody ends it.
type reserving struct {
	fakes
	reserved chan struct{} // one for each reservation
	end      chan struct{} // closed: somebody ends the drill
}

func (f *reserving) Inject(_ *proto.InjectRequest, out grpc.ServerStreamingServer[proto.InjectState]) error {
	if err := out.Send(&proto.InjectState{Text: "reserved"}); err != nil {
		return err
	}
	f.reserved <- struct{}{}
	select {
	case <-f.end:
		return status.Error(codes.Aborted, "ended by operator/olga")
	case <-out.Context().Done():
		return out.Context().Err()
	}
}

// What could go wrong: somebody ends a drill at its agents, and whoever runs it goes on breaking things, or does not say by whom it was
// ended.
func TestDrillEndsWhenItsAgentIsEnded(t *testing.T) {
	f := &reserving{fakes: fakes{status: healthy(), faults: &proto.FaultsReply{Allowed: true}}, reserved: make(chan struct{}, 10), end: make(chan struct{})}
	config := f.startWith(t, f)
	r := &run{Config: config, kind: plan.Find("kill-master"), report: &report.Report{ID: "x"}, allowed: map[string]bool{}}
	status, group, err := r.look(t.Context())
	if err == nil {
		err = r.dialAgents(status, group)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.closeAgents()
	for name := range r.agents {
		r.allowed[name] = true
	}
	ctx, abort := context.WithCancelCause(t.Context())
	defer abort(nil)
	r.abort = abort
	if err := r.reserve(ctx); err != nil {
		t.Fatal(err)
	}
	close(f.end)
	<-ctx.Done()
	if cause := context.Cause(ctx); !strings.Contains(cause.Error(), "ended by operator/olga") {
		t.Errorf("aborted because of %v", cause)
	}
}

// What could go wrong: a drill passes though what it was to kill lives, as a process does that the kernel keeps its own signals from.
func TestWhoWasToBeKilledMustNotAnswer(t *testing.T) {
	f := &reserving{fakes: fakes{status: healthy(), faults: &proto.FaultsReply{Allowed: true}}, reserved: make(chan struct{}, 10), end: make(chan struct{})}
	r := &run{Config: f.startWith(t, f), kind: plan.Find("kill-confmaster-leader"), report: &report.Report{ID: "x"}}
	status, group, err := r.look(t.Context())
	if err == nil {
		err = r.dialAgents(status, group)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.closeAgents()
	for _, in := range []*proto.InjectRequest{{Fault: fault.Kill, Process: true}, {Fault: fault.LoseLog}} {
		if _, err := r.order(t.Context(), r.agents["c2"], agentPatience, in); err == nil || !strings.Contains(err.Error(), "was to be killed, and lives") {
			t.Errorf("%s: %v", in.GetFault(), err)
		}
	}
	if _, err := r.order(t.Context(), r.agents["n1"], agentPatience, &proto.InjectRequest{Fault: fault.Kill, Kvnode: true}); err != nil {
		t.Errorf("a replicator outlives its KV node: %v", err)
	}
}

// What a drill says while it runs comes back line by line; what is no line, or not yet a whole one, is left out.
func TestProgressComesBack(t *testing.T) {
	text := report.ProgressLine(time.UnixMilli(1700000000001), "drill: n1\nis killed") + report.ProgressLine(time.UnixMilli(1700000000002), "+1.000 s  established")
	steps := report.Progress(text + "no line\n" + "17000")
	if len(steps) != 2 || steps[1] != (report.Step{TimeMs: 1700000000002, Text: "+1.000 s established"}) || steps[0].Text != "drill: n1 is killed" {
		t.Errorf("%+v", steps)
	}
}

package ctl

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pb "google.golang.org/protobuf/proto"

	"lockstep/internal/kv"
	"lockstep/log"
	"lockstep/proto"
	"lockstep/smr"
)

// fakeCluster is a configuration master and two KV nodes whose figures do not change unless a script says so. (n3 of the
// example is down.)
type fakeCluster struct {
	confmaster
	addr     string
	nodes    map[string]*fakeNode
	settings *proto.GroupSettings
	events   []*proto.Event
	levels   *proto.LevelsReply

	mu sync.Mutex // a script's change and a call exclude each other
}

// server returns a server whose answers are copies: no script changes them while they are on their way.
func (f *fakeCluster) server(register func(*grpc.Server)) (addr string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		out, err := handler(ctx, in)
		if message, ok := out.(pb.Message); ok && err == nil {
			out = pb.Clone(message)
		}
		return out, err
	}))
	register(server)
	go server.Serve(listener)
	return listener.Addr().String(), server.Stop, nil
}

// fakeNode is a KV node.
type fakeNode struct {
	proto.UnimplementedKVNodeServer
	settings *proto.NodeSettings
	digest   *proto.DigestReply
	past     bool     // the point of a digest is past, once
	asked    []uint64 // points of digests
}

func (n *fakeNode) Settings(context.Context, *proto.SettingsRequest) (*proto.NodeSettings, error) {
	return n.settings, nil
}

func (n *fakeNode) Digest(_ context.Context, in *proto.DigestRequest) (*proto.DigestReply, error) {
	n.asked = append(n.asked, in.GetAt())
	if n.past {
		n.past = false
		return nil, status.Error(codes.OutOfRange, "it is past")
	}
	return n.digest, nil
}

func (n *fakeNode) State(context.Context, *proto.KVStateRequest) (*proto.KVState, error) {
	return &proto.KVState{Applied: n.digest.GetLsn(), Version: "0.1.0", Images: []*proto.Image{{Lsn: 200, CreatedMs: time.Now().UnixMilli()}}}, nil
}

func (f *fakeCluster) Settings(context.Context, *proto.GroupSettingsRequest) (*proto.GroupSettings, error) {
	return f.settings, f.refuse
}

// Change takes everything but what was seen at another version, and a setting that is called unknown.
func (f *fakeCluster) Change(_ context.Context, in *proto.ChangeRequest) (*proto.ChangePlan, error) {
	change := in.GetSettings()
	if change == nil {
		return &proto.ChangePlan{Version: 3, Epoch: 7, Checks: []string{"it was looked at"}, Steps: []string{"it is done"}, Text: "done"}, f.refuse
	}
	if v := in.GetVersion(); v != 0 && v != f.settings.Version {
		return nil, status.Errorf(codes.Aborted, "the group was changed meanwhile: its settings have version %d, you saw %d: look at them again", f.settings.Version, v)
	}
	plan := &proto.ChangePlan{Version: f.settings.Version, Epoch: 7, Checks: []string{"node n1 takes them"}, Text: "nothing was changed"}
	for _, s := range change.GetSettings() {
		if s.GetName() == "unknown" {
			return nil, status.Error(codes.InvalidArgument, `refused by node n1: config unknown: there is no setting "unknown"`)
		}
		plan.Steps = append(plan.Steps, "set "+s.GetKind()+" "+s.GetName()+" to "+s.GetValue())
	}
	if !in.GetDryRun() {
		plan.Version++
		plan.Text = "settings version 5"
	}
	return plan, nil
}

func (f *fakeCluster) Levels(context.Context, *proto.LevelsRequest) (*proto.LevelsReply, error) {
	return f.levels, f.refuse
}

// RaiseLevel raises to what is possible, and refuses more as the configuration masters do.
func (f *fakeCluster) RaiseLevel(_ context.Context, in *proto.RaiseLevelRequest) (*proto.LevelsReply, error) {
	to := in.GetTo()
	if to == 0 {
		to = max(f.levels.GetPossible(), 1)
	}
	reply := pb.Clone(f.levels).(*proto.LevelsReply)
	switch {
	case in.GetSeen() != 0 && in.GetSeen() != f.levels.GetLevel():
		return nil, status.Errorf(codes.Aborted, "the feature level was raised meanwhile: it is %d, you saw %d: look at it again", f.levels.GetLevel(), in.GetSeen())
	case to < f.levels.GetLevel():
		return nil, status.Errorf(codes.FailedPrecondition, "the cluster's feature level is %d: it is never lowered", f.levels.GetLevel())
	case to == f.levels.GetLevel():
		reply.Text = fmt.Sprintf("the cluster's feature level is %d already", to)
	case to > f.levels.GetPossible():
		return nil, status.Errorf(codes.FailedPrecondition, "the feature level cannot become %d now. Every process must be up and support it; upgrade or start these, or remove their replicas:\n  KV node of g1/n2 supports level 2 at most\n  replicator of g1/n3: it is down: silent", to)
	case in.GetDryRun():
		reply.Text = fmt.Sprintf("the feature level would become %d in place of %d; nothing was changed", to, f.levels.GetLevel())
	default:
		f.levels.Level, f.levels.Brings = to, nil
		reply = pb.Clone(f.levels).(*proto.LevelsReply)
		reply.Text = fmt.Sprintf("feature level %d in place of 1: all processes support it; none that does not is let in from now on (ann)", to)
	}
	return reply, nil
}

// exampleLevels is a cluster of which n3 is down.
func exampleLevels() *proto.LevelsReply {
	return &proto.LevelsReply{Level: 1, Possible: 1, Processes: []*proto.LevelOf{
		{Kind: "confmaster", Name: "c1", Version: "0.2.0 0123456789ab", Highest: 3},
		{Kind: "replicator", Group: "g1", Name: "n1", Version: "0.2.0 0123456789ab", Highest: 3},
		{Kind: "kvnode", Group: "g1", Name: "n1", Highest: 3},
		{Kind: "replicator", Group: "g1", Name: "n2", Version: "0.2.0 0123456789ab", Highest: 3},
		{Kind: "kvnode", Group: "g1", Name: "n2", Highest: 2},
		{Kind: "replicator", Group: "g1", Name: "n3", Problem: "it is down: silent"},
		{Kind: "kvnode", Group: "g1", Name: "n3", Problem: "its replicator is down: silent"},
	}, Brings: []*proto.LevelRow{{Level: 2, Brings: "something new"}, {Level: 3, Brings: "something newer"}}}
}

// OpenWeb gives a code where there is a page.
func (f *fakeCluster) OpenWeb(context.Context, *proto.OpenWebRequest) (*proto.OpenWebReply, error) {
	page := f.cluster.GetConfmasters()[0].GetPage()
	if page == "" {
		return nil, status.Error(codes.FailedPrecondition, "this configuration master shows no web page: start it with --http HOST:PORT (and not with --web=false)")
	}
	return &proto.OpenWebReply{Page: page, Code: "ABCDEFGHIJKLMNOPQRSTUVWXYZ", GoodMs: 120_000, Who: "operator/ann"}, nil
}

func (f *fakeCluster) Events(in *proto.EventsRequest, out grpc.ServerStreamingServer[proto.Event]) error {
	for _, e := range f.events {
		if e.GetId() > in.GetAfter() && (in.GetGroup() == "" || in.GetGroup() == e.GetGroup()) {
			if err := out.Send(e); err != nil {
				return err
			}
		}
	}
	<-out.Context().Done()
	return nil
}

func startFake(t *testing.T) *fakeCluster {
	f := &fakeCluster{confmaster: confmaster{cluster: example(), entries: exampleEntries()}, nodes: map[string]*fakeNode{}, settings: exampleSettings(), events: exampleEvents(), levels: exampleLevels()}
	for _, name := range []string{"n1", "n2"} {
		n := &fakeNode{settings: exampleNode(), digest: &proto.DigestReply{Lsn: 251, Digest: []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}, Keys: 12}}
		addr, stop, err := f.server(func(s *grpc.Server) { proto.RegisterKVNodeServer(s, n) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		replicaIn(f.cluster.Groups[0], name).State.KvAdminAddr = addr
		f.nodes[name] = n
	}
	addr, stop, err := f.server(func(s *grpc.Server) { proto.RegisterConfmasterServer(s, f) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	f.addr = addr
	return f
}

// names are the addresses that differ from run to run, and what stands for them.
func (f *fakeCluster) names() map[string]string {
	names := map[string]string{f.addr: "CONFMASTER"}
	for _, r := range f.cluster.GetGroups() {
		for _, r := range r.GetReplicas() {
			if addr := r.GetState().GetKvAdminAddr(); addr != "" {
				names[addr] = r.GetNode() + "-ADMIN"
			}
		}
	}
	return names
}

// change is the command "fake WHAT" of a script.
func (f *fakeCluster) change(ts *testscript.TestScript, args []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch args[0] {
	case "transfer":
		state := f.cluster.Groups[0].Replicas[1].State
		state.NeedImage, state.ImageFrom, state.BytesDone, state.BytesTotal, state.BytesPerSecond = true, "n1", 96<<20, 384<<20, 32<<20
	case "empty":
		f.cluster = &proto.ClusterStatus{}
	case "drift":
		n := f.nodes["n2"].settings
		n.Settings = append([]*proto.NodeSetting{{Kind: "config", Name: "timeout", Value: "99", Scope: "node", Origin: "CONFIG SET by default from 10.0.0.7:5000"}}, n.Settings[1:]...)
	case "late":
		f.nodes["n2"].settings.Version = 1
		f.settings.Problems = []string{"n2: config timeout: this node does not know it"}
	case "nodrift":
		f.nodes["n2"].settings, f.settings.Problems = exampleNode(), nil
		f.cluster.Groups[0].Replicas = f.cluster.Groups[0].Replicas[:2]
	case "other-digest":
		f.nodes["n2"].digest = &proto.DigestReply{Lsn: 251, Digest: []byte{9, 9, 9, 9, 9, 9, 9, 9}, Keys: 11}
	case "log":
		writeLog(ts, ts.MkAbs(args[1]), args[2])
	case "web":
		f.cluster.Confmasters[0].Page = "https://10.0.0.1:9121/"
	case "version": // the configuration master answers at its own address, too, and is of an older version
		f.cluster.Confmasters[0].Addr, f.cluster.Version = f.addr, "0.0.9"
	case "audit":
		for i, text := range []string{"admin/root from 10.0.0.9:40000: change user app: done", "operator/otto from 10.0.0.7:5000: switch over: refused: n3 is down"} {
			f.entries = append(f.entries, &proto.WorkEntry{Id: uint64(5 + i), TimeMs: 1_700_000_200_000 + int64(i)*1000, Group: "g1", Epoch: 7, Kind: "note",
				Reason: auditMark + text + " (2023-11-14T22:13:20.000000001Z)", Confmaster: 1})
		}
	case "level": // n3 is up again, and all can 2
		f.levels.Possible = 2
		for _, p := range f.levels.Processes[5:] {
			p.Highest, p.Problem, p.Version = 2, "", "0.1.9"
		}
	case "past":
		f.nodes["n2"].past = true
	default:
		ts.Fatalf("fake %s: not known", args[0])
	}
}

func exampleSettings() *proto.GroupSettings {
	return &proto.GroupSettings{Group: "g1", Version: 4, Shared: 4,
		Settings: []*proto.Setting{
			{Kind: "config", Name: "maxmemory", Value: "104857600", Version: 1},
			{Kind: "config", Name: "timeout", Value: "30", Version: 2},
			{Kind: "function", Name: "mylib", Value: "#!lua name=mylib\n", Version: 4},
			{Kind: "user", Name: "ann", Value: "on #0123456789abcdef ~* +get", Version: 3},
			{Kind: "user", Name: "bob", Removed: true, Version: 3},
		},
		History: []*proto.SettingsChange{
			{Version: 1, TimeMs: 1_700_000_000_000, By: "ann@desk", What: "set", Kind: "config", Name: "maxmemory", Value: "104857600"},
			{Version: 3, TimeMs: 1_700_000_100_000, By: "ann@desk", What: "set", Kind: "user", Name: "ann", Value: "on #0123456789abcdef ~* +get", Before: "off"},
			{Version: 3, TimeMs: 1_700_000_100_000, By: "bob@desk", What: "removed", Kind: "user", Name: "bob"},
			{Version: 4, TimeMs: 1_700_000_100_000, By: "ann@desk", What: "set", Kind: "function", Name: "mylib", Value: "#!lua name=mylib\n"},
		}}
}

func exampleNode() *proto.NodeSettings {
	return &proto.NodeSettings{Version: 4, Applied: 250, Settings: []*proto.NodeSetting{
		{Kind: "config", Name: "timeout", Value: "30", Scope: "node", Origin: "the configuration masters, version 2"},
		{Kind: "config", Name: "maxmemory", Value: "104857600", Scope: "group"},
		{Kind: "config", Name: "hz", Value: "10", Scope: "noted"},
		{Kind: "user", Name: "ann", Value: "on #0123456789abcdef ~* +get", Scope: "group"},
		{Kind: "user", Name: "default", Value: "on nopass ~* &* +@all", Scope: "group"},
		{Kind: "function", Name: "mylib", Value: "#!lua name=mylib\n", Scope: "group"},
	}}
}

func exampleEvents() []*proto.Event {
	return []*proto.Event{
		{Id: 1, TimeMs: 1_700_000_000_000, Group: "g1", Name: "created", Text: "group of 3 replicas registered"},
		{Id: 2, TimeMs: 1_700_000_100_000, Group: "g1", Name: "election-begun", Node: "n3", Epoch: 6, Text: "n3 is down"},
		{Id: 3, TimeMs: 1_700_000_100_080, Group: "g1", Name: "switch-master", Node: "n1", Epoch: 7, Text: "n1 leads after n3", FromAddr: "127.0.0.1:6381", ToAddr: "127.0.0.1:6379"},
	}
}

// exampleEntries is the work log of example: a fail-over from n3 to n1.
func exampleEntries() []*proto.WorkEntry {
	return []*proto.WorkEntry{
		{Id: 1, TimeMs: 1_700_000_000_000, Group: "g1", Kind: "created", Reason: "group of 3 replicas registered: copies 2, at least 1", Confmaster: 1},
		{Id: 2, TimeMs: 1_700_000_100_000, Group: "g1", Epoch: 6, Kind: "election", Reason: "n3 is down", Confmaster: 1,
			Witnesses: []*proto.Witness{{Confmaster: 1, Node: "n3", Saw: "connection refused", SilentMs: 40}, {Confmaster: 2, Node: "n3", Saw: "silent", SilentMs: 1010}}},
		{Id: 3, TimeMs: 1_700_000_100_050, Group: "g1", Epoch: 6, Kind: "chosen", Reason: "highest Position", Master: "n1", Confmaster: 1,
			Candidates: []*proto.Candidate{{Node: "n1", Incarnation: 1, PositionEpoch: 5, End: 400, Commit: 250, Applied: 250, Chosen: true, Note: "highest Position"},
				{Node: "n2", Incarnation: 2, PositionEpoch: 5, End: 380, Commit: 250, Applied: 240}}},
		{Id: 4, TimeMs: 1_700_000_100_080, Group: "g1", Epoch: 7, Kind: "established", Reason: "established: epoch 7, master n1, copies 2, members n1 n2", Master: "n1", Confmaster: 1},
	}
}

// writeLog writes a log with what KV nodes submit; a word tells its last value.
func writeLog(ts *testscript.TestScript, dir, word string) {
	l, _, err := log.Open(log.Options{Dir: dir, FileSize: testFileSize, Cluster: "c", Group: "g1", Synchronous: true})
	ts.Check(err)
	at := smr.LSN(0)
	put := func(f smr.Frame) {
		f.LSN, f.Epoch, f.Stamp = at, 1, 1_700_000_000_000+int64(at)
		f.Commit = min(at, 300)
		frame := smr.AppendFrame(nil, f)
		ts.Check(l.Append(frame))
		at += smr.LSN(len(frame))
	}
	config := smr.Config{Epoch: 1, Reign: 1, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: 7}}}
	put(smr.Frame{Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, config)})
	args := func(words ...string) (list [][]byte) {
		for _, w := range words {
			list = append(list, []byte(w))
		}
		return list
	}
	for i, payload := range [][]byte{
		kv.AppendCommand(nil, args("SET", "user:1", "ann")),
		kv.AppendCommand(nil, args("SET", "blob", "\xff\x00 and \"more\"")),
		kv.AppendTransaction(nil, nil, [][][]byte{args("INCR", "n"), args("LPUSH", "list", "a b")}),
		kv.Envelope{Database: 2}.AppendCommand(nil, args("DEL", "user:1")),
		kv.Envelope{}.AppendRecord(nil, args("setting", "maxmemory", "100")),
		kv.AppendCommand(nil, args("SET", "user:2", word)),
	} {
		put(smr.Frame{Kind: smr.KindRequests, Count: 1, Body: smr.AppendRequest(nil, smr.Request{Session: 5, Sequence: uint64(i + 1), Slot: 3, Payload: payload})})
	}
	ts.Check(l.Close())
}

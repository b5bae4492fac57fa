package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/proto"
)

// confmaster answers as configuration masters do, with what a test gives it.
type confmaster struct {
	proto.UnimplementedConfmasterServer
	cluster *proto.ClusterStatus
	entries []*proto.WorkEntry
	refuse  error
}

func (c *confmaster) Status(context.Context, *proto.StatusRequest) (*proto.ClusterStatus, error) {
	return c.cluster, c.refuse
}

func (c *confmaster) WorkLog(context.Context, *proto.WorkLogRequest) (*proto.WorkLogReply, error) {
	return &proto.WorkLogReply{Entries: c.entries}, c.refuse
}

func (c *confmaster) Switchover(_ context.Context, r *proto.SwitchoverRequest) (*proto.ChangeReply, error) {
	return &proto.ChangeReply{Epoch: 9, Text: r.GetGroup() + " is led by " + r.GetTo()}, c.refuse
}

// serve starts c and returns where it listens.
func serve(t *testing.T, c proto.ConfmasterServer) string {
	t.Helper()
	return serveAny(t, c)
}

func serveAny(t *testing.T, c proto.ConfmasterServer) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	proto.RegisterConfmasterServer(server, c)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// run executes a command line.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, problems bytes.Buffer
	code = Run(context.Background(), args, &out, &problems)
	return out.String(), problems.String(), code
}

func example() *proto.ClusterStatus {
	replica := func(node string, pid uint32, role string, applied uint64) *proto.ReplicaStatus {
		return &proto.ReplicaStatus{
			Node: node, KvAddr: "127.0.0.1:6379", DataAddr: "127.0.0.1:16379", ManageAddr: "127.0.0.1:17379", LastSeenMs: 12, Up: true, Member: true,
			State: &proto.ReplicaState{Incarnation: 0xfedcba9876543210, Role: role, Pid: pid, KvPid: pid + 1, Attached: true,
				Start: 1, End: 400, Durable: 300, Commit: 250, Applied: applied},
		}
	}
	down := replica("n3", 30, "slave", 0)
	down.Up, down.State.Attached, down.LastSeenMs = false, false, 5000
	return &proto.ClusterStatus{
		Cluster: "x", HasLeader: true,
		Groups: []*proto.GroupStatus{{
			Name: "g1", Epoch: 7, Established: 7, Master: "n1", Copies: 2, MinCopies: 1, Sync: "always", State: "degraded", Detail: "n3 is down",
			Replicas: []*proto.ReplicaStatus{replica("n1", 10, "master", 250), replica("n2", 20, "slave", 240), down},
		}},
		Confmasters: []*proto.ConfmasterStatus{{Id: 1, Addr: "127.0.0.1:18379", SentinelAddr: "127.0.0.1:26379", Pid: 5, Leader: true, Up: true}},
	}
}

// What could go wrong: a field of the status is renamed or forgotten, and scripts break. The whole text is held against what
// the issue promises, field by field and in order.
func TestStatusJSONIsAsPromised(t *testing.T) {
	addr := serve(t, &confmaster{cluster: example()})
	stdout, stderr, code := run(t, "status", "--confmaster", addr, "-o", "json")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(stdout)); err != nil {
		t.Fatal(err)
	}
	replica := func(node, role, rest string) string {
		return `{"node":"` + node + `","role":"` + role + `","kv_addr":"127.0.0.1:6379",` + rest +
			`,"member":true,"standing":"","checkpoint_lsn":0,"behind_bytes":0,"behind_ms":0,"need_image":false,"transfer":null,"version":"","highest_level":0,"kv_highest_level":0}`
	}
	lsns := `"incarnation":"fedcba9876543210","start_lsn":1,"end_lsn":400,"durable_lsn":300,"commit_lsn":250,`
	want := `{"groups":[{"name":"g1","epoch":7,"master":"n1","copies":2,"min_copies":1,"sync":"always","state":"degraded","replicas":[` +
		replica("n1", "master", `"kv_pid":11,"replicator_addr":"127.0.0.1:16379","replicator_pid":10,`+lsns+`"applied_lsn":250,"lag_bytes":0,"last_seen_ms":12`) + "," +
		replica("n2", "slave", `"kv_pid":21,"replicator_addr":"127.0.0.1:16379","replicator_pid":20,`+lsns+`"applied_lsn":240,"lag_bytes":10,"last_seen_ms":12`) + "," +
		replica("n3", "down", `"kv_pid":0,"replicator_addr":"127.0.0.1:16379","replicator_pid":30,`+lsns+`"applied_lsn":0,"lag_bytes":250,"last_seen_ms":5000`) +
		`],"established":7,"detail":"n3 is down","plan":"","version":0,"policy":{"copies":0,"min_copies":0,"slow_bytes":0,"slow_ms":0,"slow_for_ms":0},` +
		`"recoveries":[]}],"confmasters":[{"id":1,"addr":"127.0.0.1:18379","sentinel_addr":"127.0.0.1:26379","pid":5,"leader":true,"version":"","highest_level":0}],"level":1}`
	if strings.TrimSpace(compact.String()) != want {
		t.Errorf("got\n%s\nwant\n%s", compact.String(), want)
	}
}

func TestStatusTableNamesWhatMatters(t *testing.T) {
	addr := serve(t, &confmaster{cluster: example()})
	stdout, _, code := run(t, "status", "--confmaster", addr)
	for _, part := range []string{"Group g1: degraded, master n1, epoch 7, copies 2 (quorum 1)", "n3 is down", "127.0.0.1:26379", "leader"} {
		if code != 0 || !strings.Contains(stdout, part) {
			t.Errorf("exit code %d, %q is missing in\n%s", code, part, stdout)
		}
	}
	if strings.Contains(stdout, "\x1b") {
		t.Error("colours in a file")
	}
}

// What could go wrong: an empty cluster shows null where scripts expect a list.
func TestEmptyStatusHasListsNotNull(t *testing.T) {
	addr := serve(t, &confmaster{cluster: &proto.ClusterStatus{}})
	stdout, _, _ := run(t, "status", "--confmaster", addr, "-o", "json")
	if strings.Contains(stdout, "null") {
		t.Errorf("status is %s", stdout)
	}
	addr = serve(t, &confmaster{cluster: &proto.ClusterStatus{Groups: []*proto.GroupStatus{{Name: "g1"}}}})
	stdout, _, _ = run(t, "explain", "g1", "--confmaster", addr, "-o", "json")
	if strings.TrimSpace(stdout) != "{\n  \"decisions\": []\n}" {
		t.Errorf("explain is %s", stdout)
	}
}

// What could go wrong: a misspelt group looks like one about which nothing was ever decided.
func TestUnknownGroupIsAnError(t *testing.T) {
	addr := serve(t, &confmaster{cluster: &proto.ClusterStatus{Groups: []*proto.GroupStatus{{Name: "g1"}}}})
	if _, stderr, code := run(t, "explain", "g2", "--confmaster", addr); code != 1 || !strings.Contains(stderr, `no group "g2"`) || !strings.Contains(stderr, "g1") {
		t.Errorf("code %d, %s", code, stderr)
	}
}

// What could go wrong: one dead configuration master hides the two that live, or a refusal is taken for silence.
func TestAnyConfmasterMayAnswer(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	silent := serve(t, &confmaster{refuse: status.Error(codes.Unavailable, "no leader here")})
	addr := serve(t, &confmaster{cluster: example()})
	list := strings.Join([]string{dead.Addr().String(), silent, addr}, ",")
	if _, stderr, code := run(t, "status", "--confmaster", list); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, stderr, code := run(t, "status", "--confmaster", dead.Addr().String()+","+silent); code != exitNobody || !strings.Contains(stderr, "no leader here") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	refusing := serve(t, &confmaster{cluster: example(), refuse: status.Error(codes.FailedPrecondition, "n2 lags too far behind")})
	if _, stderr, code := run(t, "switchover", "g1", "--to", "n2", "--confmaster", refusing+","+addr); code != 1 || !strings.Contains(stderr, "n2 lags too far behind") {
		t.Errorf("a refusal: exit code %d: %s", code, stderr)
	}
}

func TestSwitchoverFindsTheOnlyGroup(t *testing.T) {
	addr := serve(t, &confmaster{cluster: example()})
	stdout, stderr, code := run(t, "switchover", "--to", "n2", "--confmaster", addr, "-o", "json")
	var result struct {
		Group, Text string
		Epoch       uint64
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != 0 || result.Group != "g1" || result.Epoch != 9 || result.Text != "g1 is led by n2" {
		t.Errorf("exit code %d, %+v, %v %s", code, result, err, stderr)
	}
	two := example()
	two.Groups = append(two.Groups, &proto.GroupStatus{Name: "g2"})
	addr = serve(t, &confmaster{cluster: two})
	if _, stderr, code := run(t, "switchover", "--confmaster", addr); code != 2 || !strings.Contains(stderr, "g1 g2") {
		t.Errorf("with two groups: exit code %d: %s", code, stderr)
	}
}

// What could go wrong: explain shows an old story, or only the end of one that took two elections.
func TestExplainBeginsWithTheLastElection(t *testing.T) {
	kinds := []string{"created", "election", "chosen", "established", "drop", "established", "election", "unavailable", "election", "chosen", "established", "admit"}
	var entries []*proto.WorkEntry
	for i, kind := range kinds {
		entries = append(entries, &proto.WorkEntry{Id: uint64(i), Kind: kind, Group: "g1"})
	}
	entries[6].Witnesses = []*proto.Witness{{Confmaster: 2, Node: "n1", Saw: "connection refused", SilentMs: 40}}
	entries[9].Candidates = []*proto.Candidate{{Node: "n2", PositionEpoch: 4, End: 1000, Chosen: true, Note: "highest Position"}, {Node: "n3", PositionEpoch: 4, End: 900}}
	got := sinceElection(entries)
	if len(got) != 6 || got[0].GetId() != 6 {
		t.Errorf("the story begins with entry %d and has %d", got[0].GetId(), len(got))
	}
	if all := sinceElection(entries[4:6]); len(all) != 2 {
		t.Errorf("without an election %d entries are shown", len(all))
	}
	addr := serve(t, &confmaster{cluster: example(), entries: entries})
	stdout, _, code := run(t, "explain", "--confmaster", addr)
	for _, part := range []string{"connection refused", "c2", "highest Position", "chosen", "900"} {
		if code != 0 || !strings.Contains(stdout, part) {
			t.Errorf("exit code %d, %q is missing in\n%s", code, part, stdout)
		}
	}
	if stdout, _, _ := run(t, "explain", "--all", "--confmaster", addr, "-o", "json"); strings.Count(stdout, `"kind"`) != len(kinds) {
		t.Errorf("--all shows\n%s", stdout)
	}
}

// What could go wrong: wrong usage is reported as a failure, so that scripts try again for ever; or help fails.
func TestExitCodes(t *testing.T) {
	t.Chdir(t.TempDir())
	cases := []struct {
		args string
		code int
		says string
	}{
		{"--help", 0, ""},
		{"help up", 0, ""},
		{"up --help", 0, ""},
		{"version", 0, ""},
		{"version -o json", 0, ""},
		{"completion bash", 0, ""},
		{"completion fish", 0, ""},
		{"nonsense", 2, "unknown command"},
		{"node", 2, "start, stop, kill"},
		{"node revive n1", 2, "unknown command \"revive\""},
		{"node kill", 2, "1 arg"},
		{"node kill n1 --what all", 2, "replicator, kvnode or both"},
		{"log", 2, "dump, verify"},
		{"log dump", 2, "1 arg"},
		{"status --interval 1ms", 2, "50ms"},
		{"status --dir a --confmaster b:1", 2, "none of the others"},
		{"switchover a b", 2, "at most 1"},
		{"bench figures --rounds 0", 2, "rounds"},
		{"bench figures --rows nosuch", 2, "nosuch"},
		{"bench floor --rounds 0", 2, "rounds"},
		{"bench floor --rows get-rate", 2, "set-p16, set-c1, mix"},
		{"bench floor --flights 0", 2, "--flights"},
		{"bench floor-part {}", 1, "kind"},
		{"bench failover --kills 0", 2, "--kills"},
		{"bench failover --what disk", 2, "--what"},
		{"up --timeout -1s", 2, "timeout"},
		{"version -o xml", 2, "table, wide, json or yaml"},
		{"status", 1, "smrctl up"},
		{"node kill n1", 1, "no cluster here"},
	}
	for _, c := range cases {
		stdout, stderr, code := run(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.says) || (code == 0) != (stdout != "") {
			t.Errorf("smrctl %s: exit code %d, want %d and %q: %s%s", c.args, code, c.code, c.says, stdout, stderr)
		}
	}
	if entries, err := os.ReadDir("."); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

func TestTableKeepsColumns(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, format: "table"}
	s.table([][]string{{"NAME", "LSN", "NOTE"}, {"größe", "5", "a"}, {"b", "1234", ""}})
	if want := "NAME    LSN  NOTE\ngröße     5  a\nb      1234\n"; out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestDirectoryIsRelativeAsGiven(t *testing.T) {
	base := filepath.Join("/", "data", "c")
	if got := relative(filepath.Join(base, "logs", "c1.log"), base, "c"); got != "c/logs/c1.log" {
		t.Errorf("got %s", got)
	}
}

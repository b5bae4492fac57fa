package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/proto"
)

// changer answers changes, and remembers them.
type changer struct {
	confmaster
	mu      sync.Mutex
	asked   []*proto.ChangeRequest
	refuses error
}

func (c *changer) Change(_ context.Context, r *proto.ChangeRequest) (*proto.ChangePlan, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r)
	if c.refuses != nil {
		return nil, c.refuses
	}
	return &proto.ChangePlan{Version: 7, Epoch: 3, Checks: []string{"all is well"}, Steps: []string{"first this", "then that"}, Text: "it was decided",
		Recovery: &proto.Recovery{Text: "writes from LSN 5 on may be lost", SinceMs: 1000}}, nil
}

// tell executes a command line with something to read.
func tell(input string, args ...string) (stdout, stderr string, code int) {
	var out, problems bytes.Buffer
	s := &screen{out: &out, notes: &problems}
	root := newRoot(s)
	root.SetArgs(args)
	root.SetIn(strings.NewReader(input))
	if err := root.ExecuteContext(context.Background()); err != nil {
		return out.String(), problems.String() + err.Error(), 1
	}
	return out.String(), problems.String(), 0
}

func serveChanger(t *testing.T, c *changer) string {
	t.Helper()
	c.cluster = example()
	return serveAny(t, c)
}

// What could go wrong: something is changed without a yes, with another version than the plan's, or although it was only to
// be shown; a word is taken for the name of the group; an option does not reach the configuration master.
func TestChangesAreShownAskedAndVersioned(t *testing.T) {
	for _, test := range []struct {
		name, input string
		args        []string
		carriedOut  bool
		holds       string // in the request as JSON
	}{
		{"dry run", "y\n", []string{"replica", "remove", "g1", "n3", "--dry-run"}, false, `"node":"n3"`},
		{"yes", "", []string{"replica", "remove", "g1", "n3", "--yes", "--no-wait", "--switchover"}, true, `"switchover":true`},
		{"asked, yes", "y\n", []string{"replica", "drain", "g1", "n3", "--no-wait"}, true, `"DrainReplica"`},
		{"asked, no", "n\n", []string{"replica", "drain", "g1", "n3"}, false, `"DrainReplica"`},
		{"asked, nobody", "", []string{"replica", "drain", "g1", "n3", "--undo"}, false, `"undo":true`},
		{"policy", "yes\n", []string{"group", "set", "g1", "--copies", "3", "--slow-bytes", "64MiB", "--slow-lag", "30s", "--slow-for", "10s"}, true, `"slow_bytes":67108864,"slow_ms":30000,"slow_for_ms":10000`},
		{"cancel", "y\n", []string{"group", "cancel", "g1"}, true, `"Cancel"`},
		{"replace", "y\n", []string{"replica", "replace", "g1", "n1", "n4", "h:9", "--no-wait"}, true, `"manage_addr":"h:9"`},
		{"replace by one that is registered", "y\n", []string{"replica", "replace", "g1", "n1", "n2", "--no-wait"}, true, `"manage_addr":"127.0.0.1:17379"`},
		{"recover, typed", "g1\n", []string{"group", "recover", "g1", "--force", "--accept-loss", "--no-wait"}, true, `"accept_loss":true`},
		{"recover, yes is no name", "yes\n", []string{"group", "recover", "g1", "--force", "--accept-loss", "--no-wait"}, false, `"accept_loss":true`},
		{"recover, only looked at", "", []string{"group", "recover", "g1", "--dry-run"}, false, `"Recover"`},
		{"recover, confirmed", "", []string{"group", "recover", "g1", "--force", "--accept-loss", "--confirm", "g1", "--no-wait"}, true, `"confirm":"g1"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &changer{}
			addr := serveChanger(t, c)
			stdout, stderr, code := tell(test.input, append(test.args, "--confmaster", addr)...)
			if len(c.asked) == 0 || !c.asked[0].GetDryRun() {
				t.Fatalf("the plan was not asked for: %s%s", stdout, stderr)
			}
			content, err := json.Marshal(c.asked[len(c.asked)-1].GetChange())
			if err != nil || !strings.Contains(string(content), test.holds) {
				t.Errorf("asked for %s, want %s in it (%v)", content, test.holds, err)
			}
			carriedOut := len(c.asked) == 2 && !c.asked[1].GetDryRun() && c.asked[1].GetVersion() == 7
			if carriedOut != test.carriedOut || len(c.asked) > 2 || !strings.Contains(stdout, "all is well") || !strings.Contains(stdout, "2. then that") {
				t.Errorf("%d requests, carried out: %v, exit code %d\n%s%s", len(c.asked), carriedOut, code, stdout, stderr)
			}
		})
	}
}

func TestChangesAreRefused(t *testing.T) {
	c := &changer{refuses: status.Error(codes.FailedPrecondition, "2 replicas would be left, min_copies is 3")}
	addr := serveChanger(t, c)
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"replica", "remove", "g1", "n3", "--yes"}, "min_copies is 3"},
		{[]string{"replica", "add", "g1", "n4", "host"}, "host:port"},
		{[]string{"replica", "replace", "g1", "n1", "n9"}, "n9 is not registered"},
		{[]string{"replica", "remove", "g1", "n3", "--yes", "--dry-run"}, "yes"},
		{[]string{"group", "set", "g1"}, "nothing to change"},
		{[]string{"group", "set", "g1", "--slow-bytes", "much"}, "no number of bytes"},
		{[]string{"group", "set", "g1", "--slow-lag", "-1s"}, "slow-lag"},
		{[]string{"group", "recover", "g1"}, "--force --accept-loss"},
		{[]string{"group", "recover", "g1", "--force"}, "--force --accept-loss"},
	} {
		stdout, stderr, code := tell("", append(test.args, "--confmaster", addr)...)
		if code == 0 || !strings.Contains(stderr, test.says) {
			t.Errorf("%v: exit code %d, want %q\n%s%s", test.args, code, test.says, stdout, stderr)
		}
	}
}

// What could go wrong: the status hides that a group was recovered by force, that a replica waits for an image, or how far
// that is.
func TestStatusShowsTransfersAndRecoveries(t *testing.T) {
	cluster := example()
	group := cluster.Groups[0]
	group.Recoveries = []*proto.Recovery{{Epoch: 5, TimeMs: 1000, Lost: []string{"n9"}, Text: "writes from LSN 5 on may be lost"}}
	slave := group.Replicas[1]
	slave.Member, slave.Standing, slave.LagMs, slave.LagBytes = false, "drained", 2500, 5<<20
	slave.State.NeedImage, slave.State.ImageFrom = true, "127.0.0.1:9"
	slave.State.BytesDone, slave.State.BytesTotal, slave.State.BytesPerSecond = 25<<20, 100<<20, 10<<20
	addr := serve(t, &confmaster{cluster: cluster})
	stdout, _, _ := run(t, "status", "--confmaster", addr)
	for _, part := range []string{"RECOVERED BY FORCE epoch 5", "writes from LSN 5", "n2: drained", "learner",
		"n2: image from 127.0.0.1:9: 25.0 MiB of 100.0 MiB (25 %), 10.0 MiB/s, 8 s left", "n2: 5.0 MiB and 2.5 s behind"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("the status lacks %q:\n%s", part, stdout)
		}
	}
	stdout, _, _ = run(t, "status", "--confmaster", addr, "-o", "json")
	for _, part := range []string{`"recoveries": [`, `"from_lsn": 0`, `"bytes_total": 104857600`, `"seconds_left": 8`, `"role": "learner"`, `"need_image": true`} {
		if !strings.Contains(stdout, part) {
			t.Errorf("the JSON lacks %s:\n%s", part, stdout)
		}
	}
}

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lockstep/internal/admin"
	"lockstep/smr"
	"lockstep/smr/wire"
)

// What could go wrong: anything. Faults of all kinds, drawn from the time, go through a cluster for 20 seconds while clients
// work; the seed is in the log. The report and the history of a run that failed are kept.
func TestMixedFaultsKeepThePromises(t *testing.T) {
	dir := freshDirectory(t)
	seed := uint64(time.Now().UnixNano()%1_000_000) + 1
	report, err := Run(context.Background(), Config{
		Dir: dir, Binaries: binaries, Seed: seed, Duration: 20 * time.Second, Clients: 2,
		Progress: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report.Summary())
	if !report.Good() {
		for _, v := range report.Checked.Violations {
			t.Errorf("%s: %s %s", v.Rule, v.Key, v.Text)
		}
		t.Errorf("undecided: %v; everything is kept in %s", report.Checked.Undecided, dir)
	}
	if report.Effective() == 0 || report.Outcomes[OK] == 0 || report.Checked.Ops == 0 {
		t.Errorf("%d faults, %d operations done: that proves nothing", report.Effective(), report.Outcomes[OK])
	}
	if len(report.Checked.Kinds) != len(letterNames) {
		t.Errorf("of %d kinds of keys only these were used: %v", len(letterNames), report.Checked.Kinds)
	}
	again, err := Check(filepath.Join(dir, "history.jsonl"), dir)
	if err != nil || again.Ops != report.Checked.Ops || len(again.Violations) != 0 && report.Good() {
		t.Errorf("the history file gives %+v, error %v", again, err)
	}
	content, err := os.ReadFile(filepath.Join(dir, "report.json"))
	var read Report
	if err == nil {
		err = json.Unmarshal(content, &read)
	}
	if err != nil || read.Seed != seed || len(read.Faults) != len(report.Faults) {
		t.Errorf("report.json: seed %d, %d faults, error %v", read.Seed, len(read.Faults), err)
	}
	if info, err := os.Stat(filepath.Join(dir, "report.html")); err != nil || info.Size() == 0 {
		t.Errorf("report.html: %v", err)
	}
}

// What could go wrong: the proxy does not do what the timeline says, and faults of links are none. A listener that echoes
// stands behind it.
func TestProxyDoesWhatItsRulesSay(t *testing.T) {
	echo := echoServer(t)
	x := newProxy(1)
	defer x.close()
	addr, err := x.listen("", "n2", dataPort, echo)
	if err != nil {
		t.Fatal(err)
	}
	hello := wire.AppendMessage(nil, &smr.SlaveHello{Handshake: smr.Handshake{Cluster: "c", Group: "g1", Node: "n1"}, Epoch: 1, Incarnation: 2})
	open := func() *conn {
		c, err := dial(context.Background(), admin.Login{}, addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// trip sends bytes and reports whether they come back within the time.
	trip := func(c *conn, bytes []byte, within time.Duration) error {
		if err := c.SetDeadline(time.Now().Add(within)); err != nil {
			return err
		}
		if _, err := c.Write(bytes); err != nil {
			return err
		}
		back := make([]byte, len(bytes))
		for n := 0; n < len(back); {
			got, err := c.Read(back[n:])
			if err != nil {
				return err
			}
			n += got
		}
		if string(back) != string(bytes) {
			return fmt.Errorf("%q came back as %q", bytes, back)
		}
		return nil
	}
	const soon, long = 100 * time.Millisecond, 10 * time.Second
	c := open()
	if err := trip(c, hello, long); err != nil {
		t.Fatalf("without rules: %v", err)
	}
	for _, r := range []*rule{
		{Source: "n3", Target: "n2", Port: dataPort, Cut: true},
		{Source: "n1", Target: "n3", Port: dataPort, Cut: true},
		{Source: "*", Target: "n2", Port: managePort, Cut: true},
	} {
		heal := x.apply(r)
		if err := trip(c, []byte("x"), long); err != nil {
			t.Errorf("a rule for others (%s): %v", r, err)
		}
		heal()
	}
	for _, r := range []*rule{
		{Source: "n1", Target: "n2", Port: dataPort, Forward: true},
		{Source: "*", Target: "n2", Port: dataPort, Backward: true},
	} {
		heal := x.apply(r)
		if err := trip(c, []byte("late"), soon); err == nil {
			t.Errorf("%s: bytes pass", r)
		}
		heal()
		if err := trip(c, nil, long); err != nil {
			t.Error(err)
		}
		back := make([]byte, 4)
		if err := c.SetDeadline(time.Now().Add(long)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(back); err != nil || string(back[:n]) != "late" {
			t.Errorf("%s: healed, %q came back, error %v", r, back[:n], err)
		}
	}
	heal := x.apply(&rule{Source: "n1", Target: "n2", Port: dataPort, Delay: 50 * time.Millisecond})
	began := time.Now()
	if err := trip(c, []byte("x"), long); err != nil || time.Since(began) < 100*time.Millisecond {
		t.Errorf("delayed by 50 ms each way: back after %v, error %v", time.Since(began), err)
	}
	heal()
	heal = x.apply(&rule{Source: "n1", Target: "n2", Port: dataPort, MidFrame: true})
	broken := false
	for range 1000 {
		if broken = trip(c, []byte("a long enough chunk"), long) != nil; broken {
			break
		}
	}
	if !broken {
		t.Error("no connection ends in the midst of a frame")
	}
	heal()
	c = open()
	if err := trip(c, hello, long); err != nil {
		t.Fatalf("healed: %v", err)
	}
	defer x.apply(&rule{Source: "n1", Target: "n2", Port: dataPort, Cut: true})()
	if err := trip(c, []byte("x"), long); err == nil {
		t.Error("a cut connection carries bytes")
	}
	if err := trip(open(), hello, long); err == nil {
		t.Error("a cut link takes new connections")
	}
}

// What could go wrong: two lanes destroy data at the same time and take more copies than the group survives, and what looks
// like a lost write is our own doing.
func TestClaimsExcludeEachOther(t *testing.T) {
	n := &nemesis{claimed: make(map[string]bool)}
	a, b := &turn{nemesis: n}, &turn{nemesis: n}
	if !a.claim(destroying, "n1-replicator") {
		t.Fatal("the first claim is refused")
	}
	if b.claim("n2-replicator", destroying) || n.claimed["n2-replicator"] {
		t.Error("two may destroy, or half a claim is kept")
	}
	if !b.claim("n2-replicator") {
		t.Error("a free process is refused")
	}
	a.release()
	if !b.claim(destroying) {
		t.Error("what was released is not free")
	}
}

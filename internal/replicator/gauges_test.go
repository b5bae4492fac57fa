package replicator

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lockstep/internal/obs"
	"lockstep/smr"
	"lockstep/smr/replica"
)

// What could go wrong: a slave that lacks old bytes is shown as late by seconds too few, memory grows while one is away for
// long, or a rewound log leaves ages of bytes that are not there.
func TestTrailTellsAges(t *testing.T) {
	t.Parallel()
	var trail trail
	began := time.Now()
	at := func(n int) time.Time { return began.Add(time.Duration(n) * time.Millisecond) }
	if age := trail.age(0, at(0)); age != 0 {
		t.Errorf("an empty log is %v old", age)
	}
	const marks = 50_000 // a byte each millisecond, and nobody has any of them
	for n := range marks {
		trail.add(mark{smr.LSN(n + 1), at(n)}, 0)
	}
	if len(trail.marks) > maxTrail {
		t.Errorf("%d marks are kept", len(trail.marks))
	}
	for _, lsn := range []int{0, 1, 999, 17_777, marks - 500} {
		want := at(marks).Sub(at(lsn))
		if age := trail.age(smr.LSN(lsn), at(marks)); age < want || age > want+trail.spacing {
			t.Errorf("the byte at %d is %v old, and shown as %v; spacing %v", lsn, want, age, trail.spacing)
		}
	}
	if age := trail.age(marks, at(marks)); age != 0 {
		t.Errorf("nothing is lacking, and it is %v old", age)
	}
	trail.cut(marks / 2)
	if age := trail.age(marks/2, at(marks)); age != 0 {
		t.Errorf("bytes that were cut are %v old", age)
	}
	trail.add(mark{marks, at(marks)}, marks/2)
	trail.add(mark{marks + 1, at(marks + 10)}, marks/2)
	if len(trail.marks) != 2 || trail.spacing != leastTrail {
		t.Errorf("%d marks and a spacing of %v are left when all have all", len(trail.marks), trail.spacing)
	}
}

// show returns what the observer says of a subject, as Prometheus would read it.
func show(subject obs.Subject) string {
	observer := obs.New("replicator", "1", nil)
	observer.Show(subject)
	return get(observer, "/metrics")
}

func get(observer *obs.Observer, path string) string {
	answer := httptest.NewRecorder()
	observer.Handler(false).ServeHTTP(answer, httptest.NewRequest("GET", path, nil))
	return fmt.Sprintf("%d %s", answer.Code, answer.Body)
}

// What could go wrong: a stage is counted twice, not at all, or for bytes that were cut. Statuses are played to the gauges.
func TestStagesAreMeasuredOnce(t *testing.T) {
	t.Parallel()
	g := newGauges("g1", "n1")
	for _, s := range []replica.Status{
		{End: 100, Durable: 100, Commit: 100}, // what was there before is not measured
		{End: 200, Durable: 100, Commit: 100},
		{End: 300, Durable: 200, Commit: 100},
		{End: 300, Durable: 300, Commit: 200},
		{End: 300, Durable: 300, Commit: 300},
		{End: 400, Durable: 300, Commit: 300},
		{End: 350, Durable: 350, Commit: 300}, // rewound: 400 never comes
		{End: 350, Durable: 350, Commit: 350},
		{End: 450, Durable: 450, Commit: 450},
	} {
		g.round(&s)
	}
	for range 3 * maxPassing { // more than are watched: nothing is measured twice or kept for ever
		g.round(&replica.Status{End: g.passing.seen.end + 10, Durable: 450, Commit: 450})
	}
	if len(g.passing.ends) > maxPassing {
		t.Errorf("%d ends are kept", len(g.passing.ends))
	}
	g.round(&replica.Status{End: g.passing.seen.end, Durable: g.passing.seen.end, Commit: g.passing.seen.end})
	text := show(metricsOf{g})
	for _, want := range []string{
		fmt.Sprintf(`lockstep_replica_commit_duration_seconds_count{group="g1",node="n1",stage="durable"} %d`, 3+maxPassing),
		fmt.Sprintf(`lockstep_replica_commit_duration_seconds_count{group="g1",node="n1",stage="commit"} %d`, 3+maxPassing),
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("lacks %s:\n%s", want, lines(text, "commit_duration_seconds_count"))
		}
	}
	if len(g.passing.ends) != 0 {
		t.Errorf("%d ends are left", len(g.passing.ends))
	}
	var none *gauges // a test's configuration that did not go through withDefaults
	none.round(&replica.Status{})
	none.happened(nil)
	none.proposed(&replica.Propose{})
	none.noteSynced(1)
}

// lines returns those with that part.
func lines(text, part string) string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

// What could go wrong: lag, roles or readiness of a running group are shown wrongly, or not at all. Three replicators run;
// one is stopped.
func TestGroupIsShown(t *testing.T) {
	t.Parallel()
	var nodes []*tester
	observers := make(map[*tester]*obs.Observer)
	serving := make(chan string, 3)
	for i := range 3 {
		cfg := testConfig(tempDir(t), fmt.Sprintf("n%d", i+1))
		cfg.Observer = obs.New("replicator", "1", func() { serving <- cfg.Node })
		x := start(t, cfg)
		nodes = append(nodes, x)
		observers[x] = cfg.Observer
		<-serving
	}
	master := nodes[0]
	for _, x := range nodes {
		if got := get(observers[x], "/readyz"); !strings.HasPrefix(got, "503 it neither leads") {
			t.Errorf("%s before there is a group: %s", x.cfg.Node, got)
		}
	}
	attachKV(master)
	c := create(t, 2, nodes...)
	if c.elect(nodes...) != master {
		t.Fatal("another master than expected")
	}
	client, err := dialClient(master, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	if err := client.propose(1, 20, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	holds := func(x *tester, path string, parts ...string) {
		t.Helper()
		eventually(t, func() error {
			text := get(observers[x], path)
			for _, part := range parts {
				if !strings.Contains(text, part) {
					return fmt.Errorf("%s of %s lacks %q:\n%s", path, x.cfg.Node, part, lines(text, "lockstep_replica"))
				}
			}
			return nil
		})
	}
	const own = `group="g1",node="n1"`
	holds(master, "/metrics", `lockstep_replica_role{`+own+`,role="master"} 1`, `lockstep_replica_slave_lag_bytes{`+own+`,slave="n2"} 0`,
		`lockstep_replica_slave_lag_seconds{`+own+`,slave="n3"} 0`, `lockstep_replica_slave_streams{group="g1",member="true",node="n1",slave="n3"} 1`,
		`lockstep_replica_copies{group="g1",kind="streaming",node="n1"} 3`, `lockstep_replica_lease_seconds{group="g1",kind="left",node="n1"} 0.`,
		`lockstep_replica_lease_seconds{group="g1",kind="length",node="n1"} 0.2`, `lockstep_replica_frame_requests_sum{`+own+`} 20`,
		`lockstep_replica_exposure_bytes{`+own+`} 0`, `lockstep_replica_uncommitted_seconds{`+own+`} 0`, `lockstep_replica_connections{group="g1",kind="client",node="n1"} 1`,
		`lockstep_replica_events_total{event="leading",`+own+`} 1`)
	holds(master, "/readyz?role=master", "200 ok")
	holds(master, "/readyz?role=slave", "503 it leads")
	holds(nodes[1], "/readyz?role=slave", "200 ok")
	holds(nodes[1], "/readyz?role=master", "503 it does not lead: its role is")
	holds(nodes[1], "/livez", "200 ok")
	if err := nodes[2].stop(); err != nil {
		t.Fatal(err)
	}
	if err := client.propose(21, 30, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	holds(master, "/metrics", `lockstep_replica_slave_streams{group="g1",member="true",node="n1",slave="n3"} 0`,
		`lockstep_replica_events_total{event="slave-gone",`+own+`} 1`)
	eventually(t, func() error {
		text := get(observers[master], "/metrics")
		if strings.Contains(text, `lockstep_replica_slave_lag_bytes{`+own+`,slave="n3"} 0`+"\n") || strings.Contains(text, `lockstep_replica_slave_lag_seconds{`+own+`,slave="n3"} 0`+"\n") {
			return fmt.Errorf("a slave that is gone is not shown as late:\n%s", lines(text, "slave_lag"))
		}
		return nil
	})
}

// What could go wrong: the relaxed modes look as safe as the strict one. Bytes that the system has and the disk may not have
// are shown, with their age.
func TestExposureIsShown(t *testing.T) {
	t.Parallel()
	cfg := testConfig(tempDir(t), "n1")
	cfg.Sync = smr.SyncOS
	cfg.Observer = obs.New("replicator", "1", nil)
	x := start(t, cfg)
	attachKV(x)
	create(t, 1, x).elect(x)
	client, err := dialClient(x, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	if err := client.propose(1, 20, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		text := get(cfg.Observer, "/metrics")
		for _, name := range []string{"exposure_bytes", "exposure_seconds"} {
			if strings.Contains(text, "lockstep_replica_"+name+`{group="g1",node="n1"} 0`+"\n") {
				return fmt.Errorf("%s is 0:\n%s", name, lines(text, "lockstep_replica_lsn"))
			}
		}
		return nil
	})
}

// metricsOf are gauges alone as a Subject.
type metricsOf struct{ *gauges }

func (m metricsOf) Collect(metrics chan<- obs.Metric) { m.gauges.collect(metrics) }
func (m metricsOf) Live() error                       { return nil }
func (m metricsOf) Ready(obs.Role) []string           { return nil }

// BenchmarkScrape is what /metrics of a replicator costs.
func BenchmarkScrape(b *testing.B) {
	cfg := testConfig(tempDir(b), "n1")
	cfg.Observer = obs.New("replicator", "1", nil)
	start(b, cfg)
	for b.Loop() {
		get(cfg.Observer, "/metrics")
	}
}

// BenchmarkRound is what the metrics cost the loop in each round that appends, makes durable and commits.
func BenchmarkRound(b *testing.B) {
	g := newGauges("g1", "n1")
	status := replica.Status{Peers: make([]replica.PeerStatus, 2)}
	for b.Loop() {
		status.End += 100
		g.round(&status)
		status.Durable, status.Commit = status.End, status.End
		status.Peers[0].Durable, status.Peers[1].Durable = status.End, status.End
		g.noteSynced(status.End)
		g.round(&status)
	}
}

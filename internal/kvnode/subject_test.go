package kvnode

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lockstep/internal/obs"
	"lockstep/smr"
)

// look asks what an observer of the node says.
func look(n *Node, path string) string {
	observer := obs.New("kvnode", "1", nil)
	observer.Show(newSubject(n))
	answer := httptest.NewRecorder()
	observer.Handler(false).ServeHTTP(answer, httptest.NewRequest("GET", path, nil))
	return fmt.Sprintf("%d %s", answer.Code, answer.Body)
}

// What could go wrong: a counter is not what clients did, the set for existing dashboards is missing, or a load balancer is
// told of a node that cannot serve. Clients talk to two nodes; one loses its replicator. The first read of a node takes two rounds to the master:
// one tells who may use it.
func TestNodeIsShown(t *testing.T) {
	t.Parallel()
	g := newFakeGroup(t, 2, nil)
	first, second := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	first.expect("SET k 1", "+OK\r\n")
	first.expect("SET l 2", "+OK\r\n")
	second.expect("GET k", "$1\r\n1\r\n")
	first.expect("EXPIRE k 1000", ":1\r\n")
	first.expect("GET", "-ERR wrong number of arguments for 'get' command\r\n")
	holds := func(n *Node, path string, parts ...string) {
		t.Helper()
		eventually(t, path+" says "+strings.Join(parts, ", "), func() bool {
			text := look(n, path)
			for _, part := range parts {
				if !strings.Contains(text, part) {
					return false
				}
			}
			return true
		})
	}
	one, two := g.nodes[0].node, g.nodes[1].node
	holds(one, "/metrics", `lockstep_kv_role{group="g1",node="n1",role="master"} 1`, `lockstep_kv_keys{group="g1",node="n1"} 2`,
		`lockstep_kv_condition{condition="writable",group="g1",node="n1"} 1`, `lockstep_kv_apply_lag_bytes{group="g1",node="n1"} 0`,
		`lockstep_kv_commit_duration_seconds_count{group="g1",node="n1"} 3`, `lockstep_kv_pipeline_writes_sum{group="g1",node="n1"} 3`,
		`redis_commands_total{cmd="set"} 2`, `redis_db_keys{db="db0"} 2`, `redis_db_keys_expiring{db="db0"} 1`, "redis_connected_clients 1",
		`redis_errors_total{err="ERR"} 1`, `role="master"`, "redis_config_maxclients 10000", "redis_up 1")
	holds(two, "/metrics", `lockstep_kv_keys{group="g1",node="n2"} 2`, `lockstep_kv_read_index_duration_seconds_count{group="g1",node="n2"} 2`,
		"redis_keyspace_hits_total 1", "redis_master_link_up{", `role="slave"`)
	holds(one, "/readyz?role=master", "200 ok")
	holds(one, "/readyz?role=slave", "503 it is not beside a slave: its role is master")
	holds(two, "/readyz?role=slave", "200 ok")
	holds(two, "/readyz?role=master", "503 it is not beside the master: its role is slave")
	holds(two, "/livez", "200 ok")
	g.set(func() { g.nodes[1].orphaned = true })
	holds(two, "/readyz", "503 the replicator beside it is not there\ngroup g1 has no master\n")
	holds(two, "/livez", "200 ok")
	g.set(func() { g.nodes[1].orphaned = false })
	holds(two, "/readyz", "200 ok")
}

// What could go wrong: a node that executes something long is killed, or one that is wedged never is. Only a keyspace that
// is held all the time, at one place of the log, for long, is dead.
func TestOnlyAWedgedNodeIsDead(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := &subject{since: began}
	for _, step := range []struct {
		seconds int
		free    bool
		applied smr.LSN
		dead    bool
	}{
		{10, false, 5, false}, {50, false, 5, false}, {60, false, 9, false}, {110, true, 9, false}, {165, false, 9, false},
		{171, false, 9, true}, {172, false, 10, false}, {300, false, 10, true}, {301, true, 10, false},
	} {
		err := s.judge(step.free, step.applied, began.Add(time.Duration(step.seconds)*time.Second))
		if (err != nil) != step.dead {
			t.Errorf("%+v: %v", step, err)
		}
	}
}

// BenchmarkScrape is what /metrics of a KV node costs, with 100 clients and 1000 keys.
func BenchmarkScrape(b *testing.B) {
	g := newFakeGroup(b, 1, nil)
	address := g.serve(b, 0)
	for i := range 100 {
		c := dial(b, address)
		for j := range 10 {
			c.expect(fmt.Sprintf("SET k%d 1", 10*i+j), "+OK\r\n")
		}
	}
	observer := obs.New("kvnode", "1", nil)
	observer.Show(newSubject(g.nodes[0].node))
	handler := observer.Handler(false)
	for b.Loop() {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
	}
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"lockstep/internal/local"
)

// tour is a round trip of one client through what Redis offers, at one node. What it returns goes on with the same
// connections after a fail-over: waiting commands, subscriptions and half-sent pipelines have been through it. A tour
// has no client that retries, except where it says so: on nodes that live nothing may fail.
type tour struct {
	name string
	run  func(t *testing.T, s *stage) (after func(t *testing.T, s *stage))
}

var (
	libraries = []tour{
		{"go-redis", tourGoRedis},
		{"go-redis Sentinel", tourSentinel},
		{"rueidis", tourRueidis},
		{"python3-redis", tourPython},
	}
	allTours = append(slices.Clone(libraries), tour{"redis-cli", tourCLI}, tour{"redis-benchmark", tourBenchmark}, tour{"tracking RESP2", tourTracking})
)

// stage is where a tour runs: in which cluster and at which node. The keys of a tour begin with its id.
type stage struct {
	*world
	node string
	id   string
	db   int // a database that no tour at another node uses

	killed string // the node that was master and was killed, after the fail-over
	up     bool   // it was started again

	whole *testing.T // what is closed at its end lives through the fail-over
}

// here is the address of the node at which the client is.
func (s *stage) here() string { return s.addr(s.node) }

// there is the address of another node that is up.
func (s *stage) there() string {
	replicas := s.Plan.Replicas
	for i, r := range replicas {
		if r.Node != s.node {
			continue
		}
		for step := 1; ; step++ {
			if other := replicas[(i+step)%len(replicas)].Node; s.up || other != s.killed {
				return s.addr(other)
			}
		}
	}
	panic("no node " + s.node)
}

// broken reports whether the connections of this tour broke.
func (s *stage) broken() bool { return s.node == s.killed }

// key returns a key of this tour alone.
func (s *stage) key(name string) string { return s.id + ":" + name }

// ctx returns a context that ends with the test, and long after anything should have come true.
func (s *stage) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// waits returns when n clients of a node that bear this name wait in a blocking command.
func (s *stage) waits(t *testing.T, addr, client string, n int) {
	t.Helper()
	c := mustDial(t, addr)
	eventually(t, fmt.Sprintf("%d clients %s wait", n, client), func() error {
		list := c.must(t, "CLIENT", "LIST").Text
		found := 0
		for line := range strings.Lines(list) {
			if strings.Contains(line, " name="+client+" ") && strings.Contains(line, " flags=b") {
				found++
			}
		}
		if found != n {
			return fmt.Errorf("%d do: %s", found, list)
		}
		return nil
	})
}

// What could go wrong: each part of Redis works alone and by itself, and existing clients fail nevertheless: with what they
// send first, on a node that does not lead, with clients of other nodes, or while the master dies. Tours of real clients run
// on every node; then the master is killed, the tours go on at the nodes that live, and at last at the one that came back.
// In the end all nodes must hold the same.
func TestTours(t *testing.T) {
	w := start(t, local.Options{}, nil)
	mustDial(t, w.addr("n1")).must(t, "CONFIG", "SET", "notify-keyspace-events", "KEA")
	rounds := []struct {
		name      string
		processes func(node string) []string
		tours     []tour
	}{
		{"replicator and KV node", func(node string) []string { return []string{local.ReplicatorOf(node), local.KVNodeOf(node)} }, allTours},
		{"replicator", func(node string) []string { return []string{local.ReplicatorOf(node)} }, libraries},
	}
	if testing.Short() {
		rounds = rounds[:1]
	}
	for i, round := range rounds {
		if !t.Run(round.name, func(t *testing.T) { w.tour(t, fmt.Sprintf("round%d", i), round.tours, round.processes) }) {
			return
		}
	}
}

// tour runs tours at all nodes, with one fail-over in their middle.
func (w *world) tour(t *testing.T, round string, tours []tour, processes func(node string) []string) {
	var mu sync.Mutex
	afters := make(map[*stage]func(*testing.T, *stage))
	var stages []*stage
	name := func(s *stage) string { return strings.ReplaceAll(strings.TrimPrefix(s.id, round+":"), ":", "/") }
	ok := t.Run("before", func(p *testing.T) {
		for i, r := range w.Plan.Replicas {
			for _, tour := range tours {
				s := &stage{world: w, node: r.Node, id: round + ":" + strings.ReplaceAll(tour.name, " ", "-") + ":" + r.Node, db: i + 1, whole: t}
				stages = append(stages, s)
				p.Run(name(s), func(p *testing.T) {
					p.Parallel()
					after := tour.run(p, s)
					mu.Lock()
					defer mu.Unlock()
					afters[s] = after
				})
			}
		}
	})
	if !ok {
		return
	}
	old, _ := w.master(t)
	w.kill(t, processes(old)...)
	now := w.masterIsNot(t, old)
	t.Logf("mastership passed from %s to %s", old, now)
	goOn := func(p *testing.T, node func(string) bool) {
		for _, s := range stages {
			if after := afters[s]; after != nil && node(s.node) {
				p.Run(name(s), func(p *testing.T) {
					p.Parallel()
					after(p, s)
				})
			}
		}
	}
	for _, s := range stages {
		s.killed = old
	}
	if !t.Run("after", func(p *testing.T) { goOn(p, func(node string) bool { return node != old }) }) {
		return
	}
	w.startAgain(t, processes(old)...)
	w.healthy(t)
	for _, s := range stages {
		s.up = true
	}
	t.Run("back", func(p *testing.T) { goOn(p, func(node string) bool { return node == old }) })
	w.sameEverywhere(t)
}

// sameEverywhere waits until all nodes have applied the same, and compares what they hold.
func (w *world) sameEverywhere(t *testing.T) {
	t.Helper()
	eventually(t, "equal digests", func() error {
		var positions []int64
		var digests, debug []string
		for _, r := range w.Plan.Replicas {
			value, err := once(w.addr(r.Node), "SMR", "DIGEST")
			if err != nil {
				return err
			}
			if len(value.Items) != 2 {
				t.Fatalf("SMR DIGEST answers %v", value)
			}
			positions, digests = append(positions, value.Items[0].Int), append(digests, value.Items[1].Text)
			if value, err = once(w.addr(r.Node), "DEBUG", "DIGEST"); err != nil {
				return err
			}
			debug = append(debug, value.Text)
		}
		for i := range digests {
			for j := range i {
				if positions[i] == positions[j] && digests[i] != digests[j] {
					t.Fatalf("two nodes differ at the same LSN: %v %v", positions, digests)
				}
			}
			if positions[i] != positions[0] || debug[i] != debug[0] {
				return fmt.Errorf("positions %v, digests %v, DEBUG DIGEST %v", positions, digests, debug)
			}
		}
		return nil
	})
}

// result is what a call in the background has returned.
type result[T any] struct {
	value T
	err   error
}

// later makes a call in the background.
func later[T any](call func() (T, error)) <-chan result[T] {
	c := make(chan result[T], 1)
	go func() {
		value, err := call()
		c <- result[T]{value, err}
	}()
	return c
}

var errEarly = errors.New("it has ended already")

// pending fails the test if a call in the background has ended.
func pending[T any](t *testing.T, what string, c <-chan result[T]) {
	t.Helper()
	select {
	case r := <-c:
		t.Fatalf("%s: %v: %v, %v", what, errEarly, r.value, r.err)
	default:
	}
}

// equal fails the test unless a call went well and returned what it must.
func equal(t *testing.T, what string, want any) func(got any, err error) {
	t.Helper()
	return func(got any, err error) {
		t.Helper()
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v; want %v", what, got, err, want)
		}
	}
}

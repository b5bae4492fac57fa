package chaos

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/internal/resp"
	"lockstep/proto"
)

// patience is how long anything may take to come true before a test fails: far longer than needed, so that a slow machine
// fails nothing.
const patience = time.Minute

// binaries is the directory with all four commands, built once.
var binaries string

// ancestors is the one cluster that the tests of the ancestor's faults share, one after the other.
var ancestors struct {
	once    sync.Once
	dir     string
	cluster *cluster
	err     error
}

func TestMain(m *testing.M) {
	os.Exit(runAll(m))
}

func runAll(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "ls-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if c := ancestors.cluster; c != nil {
			if killed, err := c.stop(); err != nil || len(killed) > 0 {
				fmt.Fprintf(os.Stderr, "stop: killed %v, error %v\n", killed, err)
				code = 1
			}
		}
		if code != 0 {
			fmt.Fprintf(os.Stderr, "everything is kept in %s\n", dir)
			return
		}
		os.RemoveAll(dir)
	}()
	binaries = filepath.Join(dir, "bin")
	if err := local.Build(context.Background(), "../..", binaries); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ancestors.dir = dir
	return m.Run()
}

// freshDirectory returns a new directory among what is kept when a test fails; its path is short enough for sockets.
func freshDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(ancestors.dir, "d")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// world is the shared cluster as one test sees it.
type world struct {
	*cluster
	t *testing.T
}

// shared returns the shared cluster, whole.
func shared(t *testing.T) *world {
	t.Helper()
	ancestors.once.Do(func() {
		port, _, err := local.ReservePorts(local.Options{})
		if err != nil {
			ancestors.err = err
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		ancestors.cluster, ancestors.err = startCluster(ctx, layout{dir: filepath.Join(ancestors.dir, "a"), binaries: binaries, port: port, seed: 3})
	})
	if ancestors.err != nil {
		t.Fatal(ancestors.err)
	}
	w := &world{ancestors.cluster, t}
	w.wholeAgain()
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range w.Processes() {
				t.Logf("%s (pid %d):\n%s", p.Name, p.Pid, w.Tail(p.Name, 12))
			}
		}
	})
	return w
}

// eventually waits until attempt returns nil.
func (w *world) eventually(what string, attempt func(ctx context.Context) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := pause.Until(ctx, untilPause, func() error { return attempt(ctx) }); err != nil {
		w.t.Fatalf("%s: still not so after %v: %v", what, patience, err)
	}
}

// wholeAgain waits until every node is a full member and every KV node serves.
func (w *world) wholeAgain() {
	w.t.Helper()
	w.eventually("the group is whole", w.whole)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.AwaitHealthy(ctx, w.admin); err != nil {
		w.t.Fatal(err)
	}
}

// standing returns the master, the other nodes and the epoch of a group that is whole.
func (w *world) standing() (master string, others []string, epoch uint64) {
	w.t.Helper()
	w.eventually("a master is established", func(ctx context.Context) error {
		group, _, err := w.group(ctx)
		if err != nil {
			return err
		}
		if group.GetMaster() == "" || group.GetEpoch() != group.GetEstablished() {
			return fmt.Errorf("epoch %d, established %d", group.GetEpoch(), group.GetEstablished())
		}
		master, epoch = group.GetMaster(), group.GetEpoch()
		return nil
	})
	for _, r := range w.Plan.Replicas {
		if r.Node != master {
			others = append(others, r.Node)
		}
	}
	return master, others, epoch
}

func (w *world) replica(node string) local.Replica {
	at := slices.IndexFunc(w.Plan.Replicas, func(r local.Replica) bool { return r.Node == node })
	return w.Plan.Replicas[at]
}

// do does one command on a node; it may not fail.
func (w *world) do(node string, args ...string) resp.Value {
	w.t.Helper()
	value, err := once(context.Background(), w.login(), w.replica(node).KVAddr, patience, args...)
	if err != nil {
		w.t.Fatalf("%v on %s: %v", args, node, err)
	}
	return value
}

// back starts processes again that were killed.
func (w *world) back(names ...string) {
	w.t.Helper()
	for _, name := range names {
		if err := w.start(name); err != nil {
			w.t.Fatal(err)
		}
	}
}

// manage returns a client of the management port at an address, on a connection of its own.
func manage(t *testing.T, addr string) proto.ReplicatorClient {
	t.Helper()
	connection, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return proto.NewReplicatorClient(connection)
}

// target addresses a management call.
func (w *world) target(node string) *proto.Target {
	return &proto.Target{Cluster: w.Plan.Cluster, Group: w.Plan.Group, Node: node}
}

// state asks a replicator for its state.
func (w *world) state(node string) (*proto.ReplicaState, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return manage(w.t, w.replica(node).ManageAddr).State(ctx, &proto.WatchRequest{Target: w.target(node)})
}

func (w *world) mustState(node string) *proto.ReplicaState {
	w.t.Helper()
	state, err := w.state(node)
	if err != nil {
		w.t.Fatalf("state of %s: %v", node, err)
	}
	return state
}

// confmasters lists their processes.
func (w *world) confmasters() []string {
	var names []string
	for _, m := range w.Plan.Confmasters {
		names = append(names, m.Name())
	}
	return names
}

// written pushes n integers onto a fresh list through a node and returns its key.
func (w *world) written(node string, n int) string {
	w.t.Helper()
	key := fmt.Sprintf("list:%s:%d", w.t.Name(), time.Now().UnixNano())
	for i := range n {
		w.do(node, "RPUSH", key, fmt.Sprint(i))
	}
	return key
}

// holds checks on every node given that a list holds the integers from 0 to n-1.
func (w *world) holds(key string, n int, nodes ...string) {
	w.t.Helper()
	for _, node := range nodes {
		value := w.do(node, "LRANGE", key, "0", "-1")
		for i, item := range value.Items {
			if item.Text != fmt.Sprint(i) {
				w.t.Fatalf("%s on %s has %q at %d", key, node, item.Text, i)
			}
		}
		if len(value.Items) != n {
			w.t.Fatalf("%s on %s has %d integers of %d acknowledged ones", key, node, len(value.Items), n)
		}
	}
}

// echoServer sends back what it gets.
func echoServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			wait.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // until either side ends it
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		wait.Wait()
	})
	return listener.Addr().String()
}

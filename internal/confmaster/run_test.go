package confmaster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	lockstep "lockstep/proto"
)

// portsGiven counts what freeAddr gave out.
var portsGiven atomic.Int32

// freeAddr returns an address that nobody listens on, and that nobody but its owner will: a loopback address of this
// process alone, with a port that is given out once. No connection to elsewhere ever takes it for its own end.
func freeAddr(t *testing.T) string {
	t.Helper()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.%d", 64+pid>>16&127, pid>>8&255, pid&255)
	for {
		port := 2000 + portsGiven.Add(1)
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
		if errors.Is(err, syscall.EADDRINUSE) && port < 60000 {
			continue // somebody has it on all addresses
		}
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		return l.Addr().String()
	}
}

func alone(t *testing.T, dir string) Config {
	addr := freeAddr(t)
	return Config{Dir: dir, New: true, Cluster: "c", ID: 1, Peers: []Peer{{ID: 1, Addr: addr}}, Sentinel: freeAddr(t),
		Probe: DefaultProbe, Suspect: DefaultSuspect, Drop: DefaultDrop, Lower: DefaultLower, Logger: quietLogger()}
}

// runs starts a configuration master and returns what stops it and waits.
func runs(t *testing.T, config Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, config) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// eventually repeats try until it succeeds.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// What could go wrong: a group is forgotten by a restart, a second process uses the same directory, a directory of
// somebody else is taken over, or goroutines stay behind.
func TestGroupSurvivesRestartAndDirectoryIsGuarded(t *testing.T) {
	defer goleak.VerifyNone(t)
	config := alone(t, t.TempDir()+"/c1")
	group := &lockstep.CreateGroupRequest{Name: "g1", Copies: 1, MinCopies: 1, Replicas: []*lockstep.ReplicaSpec{
		{Node: "n1", ManageAddr: freeAddr(t), DataAddr: freeAddr(t), KvAddr: "127.0.0.1:6379"}}}
	call := func(f func(context.Context, lockstep.ConfmasterClient) error) error {
		conn, err := grpc.NewClient("passthrough:///"+config.self().Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return f(ctx, lockstep.NewConfmasterClient(conn))
	}
	known := func(ctx context.Context, client lockstep.ConfmasterClient) error {
		status, err := client.Status(ctx, &lockstep.StatusRequest{})
		if err == nil && (len(status.GetGroups()) != 1 || status.GetGroups()[0].GetState() != "creating") {
			err = fmt.Errorf("status is %v", status)
		}
		return err
	}

	stop := runs(t, config)
	eventually(t, "create the group", func() error {
		return call(func(ctx context.Context, client lockstep.ConfmasterClient) error {
			_, err := client.CreateGroup(ctx, group)
			return err
		})
	})
	if err := call(known); err != nil {
		t.Fatal(err)
	}
	second := config
	second.Peers, second.Sentinel = []Peer{{ID: 1, Addr: freeAddr(t)}}, ""
	if err := Run(t.Context(), second); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("a second process: %v", err)
	}
	stop()

	for _, foreign := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Cluster = "other" }, `belongs to cluster "c"`},
		{func(c *Config) { c.ID, c.Peers[0].ID = 2, 2 }, "belongs to configuration master 1"},
		{func(c *Config) { c.Dir = t.TempDir() + "/.." }, "no identity"},
	} {
		other := config
		other.Peers = []Peer{config.Peers[0]}
		foreign.change(&other)
		if err := Run(t.Context(), other); err == nil || !strings.Contains(err.Error(), foreign.want) {
			t.Fatalf("want %q, got %v", foreign.want, err)
		}
	}

	stop = runs(t, config)
	eventually(t, "the group after a restart", func() error { return call(known) })
	stop()
}

// What could go wrong: Sentinel clients match on exact texts and types; these are redis-server 7.0.15's for a Sentinel
// that knows no master yet. A malformed request ends its own connection only.
func TestSentinelAnswersAsRedis(t *testing.T) {
	defer goleak.VerifyNone(t)
	config := alone(t, t.TempDir()+"/c1")
	stop := runs(t, config)
	defer stop()
	var conn net.Conn
	eventually(t, "dial Sentinel", func() (err error) {
		conn, err = net.Dial("tcp", config.Sentinel)
		return err
	})
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	reader := bufio.NewReader(conn)
	for _, c := range []struct{ request, want string }{
		{"PING", "+PONG\r\n"},
		{"PING hello", "$5\r\nhello\r\n"},
		{"ROLE", "*2\r\n$8\r\nsentinel\r\n*0\r\n"},
		{"sentinel masters", "*0\r\n"},
		{"SENTINEL GET-MASTER-ADDR-BY-NAME no", "*-1\r\n"},
		{"SENTINEL MASTER no", "-ERR No such master with that name\r\n"},
		{"SENTINEL CKQUORUM no", "-ERR No such master with that name\r\n"},
		{"SENTINEL MASTERS x", "-ERR wrong number of arguments for 'sentinel|masters' command\r\n"},
		{"SENTINEL", "-ERR wrong number of arguments for 'sentinel' command\r\n"},
		{"SENTINEL nosuch", "-ERR unknown subcommand 'nosuch'. Try SENTINEL HELP.\r\n"},
		{"SENTINEL RESET nomatch", ":0\r\n"},
		{"SENTINEL IS-MASTER-DOWN-BY-ADDR 127.0.0.1 99 0 *", "*3\r\n:0\r\n$1\r\n*\r\n:0\r\n"},
		{"HELLO 4", "-NOPROTO unsupported protocol version\r\n"},
		{"HELLO 3 foo", "-ERR Syntax error in HELLO option 'foo'\r\n"},
		{"GET a", "-ERR unknown command 'GET', with args beginning with: 'a' \r\n"},
		{"CLIENT SETNAME foo", "+OK\r\n"},
		{"CLIENT GETNAME", "$3\r\nfoo\r\n"},
		{"PUBLISH a b", "-ERR Only HELLO messages are accepted by Sentinel instances.\r\n"},
		{"SUBSCRIBE a b", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"},
		{"PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n"},
		{"UNSUBSCRIBE a", "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n"},
		{"UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n"},
	} {
		fmt.Fprintf(conn, "%s\r\n", c.request)
		got := make([]byte, len(c.want))
		if _, err := io.ReadFull(reader, got); err != nil || string(got) != c.want {
			t.Fatalf("%s answers %q (%v), want %q", c.request, got, err, c.want)
		}
	}
	bad, err := net.Dial("tcp", config.Sentinel)
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	bad.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprint(bad, "*99999999\r\n")
	if text, err := io.ReadAll(bad); err != nil || !strings.HasPrefix(string(text), "-ERR Protocol error: ") {
		t.Fatalf("a malformed request is answered %q, %v", text, err)
	}
	fmt.Fprint(conn, "PING\r\n")
	if line, err := reader.ReadString('\n'); err != nil || line != "+PONG\r\n" {
		t.Fatalf("another client notices: %q, %v", line, err)
	}
}

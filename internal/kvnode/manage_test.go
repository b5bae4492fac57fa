package kvnode

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"lockstep/internal/checkpoint"
	"lockstep/internal/transfer"
	"lockstep/proto"
	"lockstep/smr"
)

// emptyImages takes images without files.
type emptyImages struct {
	dir string
	err error

	mu  sync.Mutex
	lsn smr.LSN
}

func (e *emptyImages) Dir() string { return e.dir }

func (e *emptyImages) TakeImage(context.Context) (smr.LSN, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lsn += 100
	m := checkpoint.Manifest{
		Format: checkpoint.Format, Cluster: "c", Group: "g1", LSN: e.lsn, Stamp: 5, Created: time.Unix(7, 0), Keys: 3, Digest: strings.Repeat("0", 32),
	}
	raw, err := m.Encode()
	dir := filepath.Join(e.dir, checkpoint.Name(e.lsn))
	return e.lsn, errors.Join(err, e.err, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, checkpoint.ManifestName), raw, 0o644))
}

// startManage serves the management port of a node and returns a client of it, and its address.
func startManage(t *testing.T, node *Node, images Images) (proto.KVNodeClient, *grpc.ClientConn, string) {
	t.Helper()
	m, err := node.openManage(images)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.serve(ctx) }()
	conn, err := grpc.NewClient("passthrough:///"+m.address(""), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return proto.NewKVNodeClient(conn), conn, m.address("")
}

// What could go wrong: a call meant for another node is answered; what the port tells is not so; an image reaches a node of
// another cluster.
func TestManagementPort(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	dial(t, g.serve(t, 0)).expect("SET k 1", "+OK\r\n")
	images := &emptyImages{dir: filepath.Join(t.TempDir(), "images")}
	client, conn, address := startManage(t, g.nodes[0].node, images)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	health, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "lockstep.v1.KVNode"})
	if err != nil || health.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}
	here := &proto.Target{Cluster: "c", Group: "g1", Node: "n1"}
	for _, other := range []*proto.Target{{Cluster: "c2"}, {Group: "g2"}, {Cluster: "c", Group: "g1", Node: "n2"}} {
		_, first := client.State(ctx, &proto.KVStateRequest{Target: other})
		_, second := client.Checkpoint(ctx, &proto.CheckpointRequest{Target: other})
		_, third := client.Images(ctx, &proto.ImagesRequest{Target: other})
		_, fourth := client.Hold(ctx, &proto.HoldRequest{Target: &proto.Target{Cluster: "c", Group: "g1", Node: "n2"}, Borrower: "n2"})
		for i, err := range []error{first, second, third, fourth} {
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "not the node that is meant") {
				t.Errorf("call %d for %v: %v", i, other, err)
			}
		}
	}
	if _, err := client.Hold(ctx, &proto.HoldRequest{Borrower: "n2"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("image for nobody knows which cluster: %v", err)
	}
	reply, err := client.Checkpoint(ctx, &proto.CheckpointRequest{Target: here})
	if err != nil || reply.Image.GetLsn() != 100 || reply.Image.GetKeys() != 3 || reply.Image.GetCreatedMs() != 7000 {
		t.Errorf("checkpoint: %v, %v", reply, err)
	}
	list, err := client.Images(ctx, &proto.ImagesRequest{})
	if err != nil || len(list.Images) != 1 || list.Images[0].StampMs != 5 {
		t.Errorf("images: %v, %v", list, err)
	}
	state, err := client.State(ctx, &proto.KVStateRequest{Target: here})
	if err != nil || state.Keys != 1 || state.Node != "n1" || state.Applied == 0 || state.Pid != uint32(os.Getpid()) || len(state.Images) != 1 ||
		!strings.HasPrefix(state.KvAddr, "127.0.0.1:") || state.Receiving != nil {
		t.Errorf("state: %v, %v", state, err)
	}
	dir := t.TempDir()
	got, err := transfer.Fetch(ctx, []transfer.Peer{{Node: "n1", Address: address}}, transfer.Options{
		Cluster: "c", Group: "g1", Node: "n2", Images: filepath.Join(dir, "images"), Incoming: filepath.Join(dir, "incoming"), AtLeast: 150, Meter: transfer.NewMeter(),
	})
	if err != nil || got.LSN != 200 {
		t.Errorf("fetched %+v, %v", got, err)
	}
	images.err = errors.New("the disk is full")
	if _, err := client.Checkpoint(ctx, &proto.CheckpointRequest{Target: here}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("checkpoint that fails: %v", err)
	}
}

// A node without images says so, and a port in use is named.
func TestManagementPortWithoutImages(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	client, _, address := startManage(t, g.nodes[0].node, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, first := client.Checkpoint(ctx, &proto.CheckpointRequest{})
	_, second := client.Hold(ctx, &proto.HoldRequest{Target: &proto.Target{Cluster: "c", Group: "g1"}, Borrower: "n2"})
	for _, err := range []error{first, second} {
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "keeps no images") {
			t.Error(err)
		}
	}
	if state, err := client.State(ctx, &proto.KVStateRequest{}); err != nil || len(state.Images) != 0 {
		t.Errorf("%v, %v", state, err)
	}
	other := g.nodes[1].node
	other.config.Admin.Listen = address
	if _, err := other.openManage(nil); err == nil || !strings.Contains(err.Error(), "listen for the management") {
		t.Errorf("port in use: %v", err)
	}
	other.config.Admin.Listen = ""
	if m, err := other.openManage(nil); m != nil || err != nil {
		t.Errorf("no port: %v, %v", m, err)
	}
}

// What could go wrong: a management port that listens on all addresses is announced as 0.0.0.0, where each peer reaches itself.
func TestManagementPortIsAnnouncedByTheNameOfTheNode(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for listen, want := range map[string]string{"0.0.0.0:7400": "n1", "[::]:7400": "n1", ":7400": "n1", "10.0.0.1:7400": "10.0.0.1", "host:7400": "host"} {
		m := &manage{node: &Node{}, listener: listener}
		m.node.config.Admin.Listen = listen
		if got := m.address("n1:6379"); got != net.JoinHostPort(want, port) {
			t.Errorf("%s is announced as %s", listen, got)
		}
	}
	if got := (*manage)(nil).address("n1:6379"); got != "" {
		t.Errorf("no port is announced as %s", got)
	}
}

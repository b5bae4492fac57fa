package transfer

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/checkpoint"
	"lockstep/proto"
	"lockstep/smr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reporter is what testing.T and rapid.T have in common.
type reporter interface {
	Helper()
	Fatalf(format string, args ...any)
}

// makeImage writes an image whose files have the contents given.
func makeImage(t reporter, images string, lsn smr.LSN, contents map[string]string) *checkpoint.Manifest {
	t.Helper()
	m := &checkpoint.Manifest{
		Format: 1, Cluster: "c1", Group: "g1", LSN: lsn, Stamp: 1_700_000_000_000, Created: time.Unix(1_700_000_000, 0),
		Digest: fmt.Sprintf("%032x", uint64(lsn)), Keys: 3,
	}
	dir := filepath.Join(images, checkpoint.Name(lsn))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	for name, text := range contents {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatalf("%v", err)
		}
		m.Files = append(m.Files, checkpoint.File{Name: name, Size: int64(len(text)), CRC32C: crc32.Checksum([]byte(text), castagnoli)})
		m.Bytes += int64(len(text))
	}
	slices.SortFunc(m.Files, func(a, b checkpoint.File) int { return strings.Compare(a.Name, b.Name) })
	writeManifest(t, dir, m)
	return m
}

func writeManifest(t reporter, dir string, m *checkpoint.Manifest) {
	t.Helper()
	encoded, err := m.Encode()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, checkpoint.ManifestName), encoded, 0o644)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// holds fails unless images holds an image with the contents given.
func holds(t reporter, images string, lsn smr.LSN, contents map[string]string) {
	t.Helper()
	dir := filepath.Join(images, checkpoint.Name(lsn))
	if _, err := checkpoint.Verify(dir); err != nil {
		t.Fatalf("%v", err)
	}
	for name, want := range contents {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Fatalf("file %s: %v, %d bytes instead of %d, or others", name, err, len(got), len(want))
		}
	}
}

// giver is a KV node that has images.
type giver struct {
	proto.UnimplementedKVNodeServer
	source   *Source
	images   string
	lent     string
	address  string
	take     func() // what Checkpoint does
	mu       sync.Mutex
	requests []*proto.FetchRequest
	sent     atomic.Int64
	hang     atomic.Bool // send nothing
	stop     func()
}

func startGiver(t testing.TB, o SourceOptions) *giver {
	t.Helper()
	dir := t.TempDir()
	g := newGiver(t, dir, o)
	t.Cleanup(g.stop)
	return g
}

func newGiver(t reporter, dir string, o SourceOptions) *giver {
	t.Helper()
	o.Images, o.Lent = filepath.Join(dir, "images"), filepath.Join(dir, "lent")
	source, err := NewSource(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	g := &giver{source: source, images: o.Images, lent: o.Lent, address: listener.Addr().String(), take: func() {}}
	server := grpc.NewServer()
	proto.RegisterKVNodeServer(server, g)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { source.Run(ctx) })
	tasks.Go(func() { _ = server.Serve(listener) })
	g.stop = func() {
		server.Stop()
		cancel()
		tasks.Wait()
	}
	return g
}

func (g *giver) peer() Peer { return Peer{Node: "n1", Address: g.address} }

func (g *giver) Hold(ctx context.Context, in *proto.HoldRequest) (*proto.HoldReply, error) {
	return g.source.Hold(ctx, in)
}

func (g *giver) Release(ctx context.Context, in *proto.ReleaseRequest) (*proto.ReleaseReply, error) {
	return g.source.Release(ctx, in)
}

func (g *giver) Checkpoint(context.Context, *proto.CheckpointRequest) (*proto.CheckpointReply, error) {
	g.take()
	return &proto.CheckpointReply{}, nil
}

func (g *giver) Fetch(in *proto.FetchRequest, out grpc.ServerStreamingServer[proto.Chunk]) error {
	g.mu.Lock()
	g.requests = append(g.requests, in)
	g.mu.Unlock()
	if g.hang.Load() {
		<-out.Context().Done()
		return status.Error(codes.Canceled, "given up")
	}
	return g.source.Fetch(in, counted{out, &g.sent})
}

type counted struct {
	grpc.ServerStreamingServer[proto.Chunk]
	sent *atomic.Int64
}

func (c counted) Send(chunk *proto.Chunk) error {
	c.sent.Add(int64(len(chunk.Content)))
	return c.ServerStreamingServer.Send(chunk)
}

// taker returns the options of a node that fetches into dir.
func taker(dir string) Options {
	return Options{
		Cluster: "c1", Group: "g1", Node: "n9", Images: filepath.Join(dir, "images"), Incoming: filepath.Join(dir, "incoming"),
		Rounds: 1, Pause: time.Millisecond, Meter: NewMeter(),
	}
}

// isEmpty reports whether a directory is empty, or not there.
func isEmpty(dir string) bool {
	entries, _ := os.ReadDir(dir)
	return len(entries) == 0
}

// await waits until the condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for this: %s", what)
		}
	}
}

// breaking returns a dialer whose connections break once so many bytes have come in.
func breaking(budget int) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return &breakingConn{Conn: conn, left: budget}, nil
	})
}

type breakingConn struct {
	net.Conn
	left int
}

func (c *breakingConn) Read(b []byte) (int, error) {
	if c.left == 0 {
		c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

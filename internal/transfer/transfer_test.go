package transfer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/checkpoint"
	"lockstep/proto"
	"lockstep/smr"
)

// filler returns text of a size that looks like nothing else.
func filler(seed uint64, size int) string {
	r := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// What could go wrong: a file is changed, left out or fetched twice; the lease stays; what is there already is fetched again.
func TestImageArrivesOnce(t *testing.T) {
	t.Parallel()
	g := startGiver(t, SourceOptions{})
	contents := map[string]string{"000004.sst": filler(1, 700_000), "MANIFEST-000001": filler(2, 300), "empty": ""}
	makeImage(t, g.images, 10, map[string]string{"old": "old"})
	want := makeImage(t, g.images, 20, contents)
	o := taker(t.TempDir())
	got, err := Fetch(context.Background(), []Peer{g.peer()}, o)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, o.Images, 20, contents)
	if got.LSN != 20 || got.Digest != want.Digest || g.sent.Load() != want.Bytes {
		t.Errorf("got LSN %d, %d bytes sent of %d", got.LSN, g.sent.Load(), want.Bytes)
	}
	if p := o.Meter.Progress(); p.Busy || p.Done != want.Bytes || p.Total != want.Bytes || p.Peer != "n1" || p.Problem != "" {
		t.Errorf("progress at the end: %+v", p)
	}
	if _, err := os.Stat(o.Incoming); !errors.Is(err, os.ErrNotExist) || !isEmpty(g.lent) {
		t.Errorf("something is left: %v, lent directory empty: %v", err, isEmpty(g.lent))
	}
	if _, err := Fetch(context.Background(), []Peer{g.peer()}, o); err != nil || g.sent.Load() != want.Bytes {
		t.Errorf("fetched again: %v, %d bytes sent", err, g.sent.Load())
	}
}

// What could go wrong: after a break, a restart of either side, or when a newer image has taken the place of the one that
// was begun, the parts are put together wrongly, or the transfer never ends. Seen in the bytes of the image.
func TestBreaksAtRandomBytes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		g := newGiver(t, filepath.Join(dir, "from"), SourceOptions{})
		lsn := smr.LSN(100)
		contents := map[smr.LSN]map[string]string{}
		shared := filler(seed, r.IntN(300_000))
		take := func() {
			lsn += 10
			contents[lsn] = map[string]string{"shared.sst": shared}
			for i := range r.IntN(5) {
				contents[lsn][fmt.Sprintf("%06d.sst", i)] = filler(uint64(lsn)+uint64(i), r.IntN(150_000))
			}
			makeImage(t, g.images, lsn, contents[lsn])
		}
		take()
		o := taker(filepath.Join(dir, "to"))
		for range r.IntN(7) {
			broken := o
			broken.Dial = append(broken.Dial, breaking(r.IntN(400_000)))
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond) // a connection that breaks at once is dialled for ever
			_, err := Fetch(ctx, []Peer{g.peer()}, broken)
			cancel()
			if err == nil {
				break
			}
			if !isEmpty(o.Images) {
				t.Fatalf("seed %d: an image in spite of %v", seed, err)
			}
			switch r.IntN(4) {
			case 0:
				take()
				if err := os.RemoveAll(filepath.Join(g.images, checkpoint.Name(lsn-10))); err != nil {
					t.Fatal(err)
				}
			case 1:
				g.stop()
				g = newGiver(t, filepath.Join(dir, "from"), SourceOptions{})
			case 2: // power cut here: what was not synced may be anything
				parts, _ := filepath.Glob(filepath.Join(o.Incoming, "*"+partSuffix))
				for _, part := range parts {
					if size := partSize(part); size > 0 {
						damage(t, part, r.Int64N(size))
					}
				}
			}
		}
		o.Rounds = 0
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		got, err := Fetch(ctx, []Peer{g.peer()}, o)
		cancel()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		holds(t, o.Images, got.LSN, contents[got.LSN])
		if _, err := os.Stat(o.Incoming); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("seed %d: incoming: %v", seed, err)
		}
		g.stop()
	}
}

// damage flips a bit of a file.
func damage(t reporter, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer file.Close()
	var b [1]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		t.Fatalf("%v", err)
	}
	b[0] ^= 4
	if _, err := file.WriteAt(b[:], at); err != nil {
		t.Fatalf("%v", err)
	}
}

// What could go wrong: after a break everything is fetched from its beginning. Seen in what the source is asked for.
func TestBrokenTransferIsContinued(t *testing.T) {
	t.Parallel()
	g := startGiver(t, SourceOptions{})
	contents := map[string]string{"a.sst": filler(1, 100_000), "b.sst": filler(2, 900_000)}
	makeImage(t, g.images, 20, contents)
	o := taker(t.TempDir())
	for i := 0; ; i++ {
		broken := o
		broken.Dial = append(broken.Dial, breaking(700_000))
		if _, err := Fetch(context.Background(), []Peer{g.peer()}, broken); err == nil {
			break
		} else if i > 10 {
			t.Fatal(err)
		}
	}
	holds(t, o.Images, 20, contents)
	g.mu.Lock()
	defer g.mu.Unlock()
	last := g.requests[len(g.requests)-1]
	if len(g.requests) < 3 || last.File != "b.sst" || last.Offset == 0 {
		t.Errorf("asked for %v", g.requests)
	}
	for _, request := range g.requests[1:] {
		if request.File == "a.sst" {
			t.Errorf("a.sst was complete and is asked for again: %v", g.requests)
		}
	}
}

// What could go wrong: a source that is busy, gone, hangs, or has a damaged file ends the transfer although another node
// has the image.
func TestNextSourceIsTried(t *testing.T) {
	t.Parallel()
	contents := map[string]string{"a.sst": filler(1, 50_000)}
	good := startGiver(t, SourceOptions{})
	makeImage(t, good.images, 20, contents)

	busy := startGiver(t, SourceOptions{Senders: 1})
	makeImage(t, busy.images, 30, contents)
	if _, err := busy.source.Hold(context.Background(), &proto.HoldRequest{Borrower: "n8"}); err != nil {
		t.Fatal(err)
	}
	hanging := startGiver(t, SourceOptions{})
	makeImage(t, hanging.images, 30, contents)
	hanging.hang.Store(true)
	damaged := startGiver(t, SourceOptions{})
	makeImage(t, damaged.images, 30, contents)
	damage(t, filepath.Join(damaged.images, checkpoint.Name(30), "a.sst"), 77)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := Peer{Node: "n1", Address: listener.Addr().String()}
	listener.Close()

	for _, test := range []struct {
		name, says string
		peer       Peer
	}{
		{"busy", "1 images are being sent already: try another node", busy.peer()},
		{"hanging", "sent nothing for 200ms", hanging.peer()},
		{"damaged", "do not have their checksum", damaged.peer()},
		{"gone", "connection refused", gone},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := taker(t.TempDir())
			o.Silence = time.Minute
			if test.name == "hanging" {
				o.Silence = 200 * time.Millisecond
			}
			if _, err := Fetch(context.Background(), []Peer{test.peer}, o); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("alone: %v, want %q", err, test.says)
			}
			if p := o.Meter.Progress(); p.Busy || !strings.Contains(p.Problem, test.says) {
				t.Errorf("progress: %+v", p)
			}
			o.Rounds = 0 // on a busy machine the good one may seem to hang, too
			got, err := Fetch(context.Background(), []Peer{test.peer, good.peer()}, o)
			if err != nil || got.LSN != 20 {
				t.Fatalf("%+v, %v", got, err)
			}
			holds(t, o.Images, 20, contents)
		})
	}
}

// What could go wrong: an image that this node must not have is begun, or its files land outside of its directory.
func TestUnusableImageIsNotBegun(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, says string
		spoil      func(o *Options, m *checkpoint.Manifest)
		is         error
	}{
		{"cluster", `cluster "c1"`, func(o *Options, _ *checkpoint.Manifest) { o.Cluster = "c2" }, checkpoint.ErrForeign},
		{"group", `group "g1"`, func(o *Options, _ *checkpoint.Manifest) { o.Group = "g2" }, checkpoint.ErrForeign},
		{"newer", "this version reads up to", func(_ *Options, m *checkpoint.Manifest) { m.Format = 99 }, nil},
		{"name", "is no name of a file", func(_ *Options, m *checkpoint.Manifest) { m.Files[0].Name = "a" + partSuffix }, nil},
		{"large", "make room", func(_ *Options, m *checkpoint.Manifest) { m.Files[0].Size, m.Bytes = 1<<60, 1<<60 }, ErrNoSpace},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := startGiver(t, SourceOptions{})
			m := makeImage(t, g.images, 20, map[string]string{"a": "x"})
			o := taker(t.TempDir())
			test.spoil(&o, m)
			raw, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			// The source reads over what it cannot read: this is one that does not.
			g.source.mu.Lock()
			g.source.leases[5] = &lease{id: 5, dir: t.TempDir(), manifest: m, raw: raw, meter: NewMeter(), used: time.Now()}
			g.source.mu.Unlock()
			manifest, err := checkManifest(raw, o.withDefaults())
			if err == nil {
				r := receiver{o: o.withDefaults(), manifest: manifest, raw: raw}
				err = r.receive(context.Background())
			}
			if err == nil || !strings.Contains(err.Error(), test.says) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v, want %q", err, test.says)
			}
			if _, err := os.Stat(o.Incoming); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("incoming: %v", err)
			}
		})
	}
	g := startGiver(t, SourceOptions{})
	makeImage(t, g.images, 20, map[string]string{"a": "x"})
	o := taker(t.TempDir())
	o.Cluster, o.Rounds = "c2", 0 // for ever, if it were not for good
	if _, err := Fetch(context.Background(), []Peer{g.peer()}, o); !errors.Is(err, checkpoint.ErrForeign) {
		t.Errorf("image of another cluster: %v", err)
	}
}

// What could go wrong: a joining node waits for ever for an image that nobody takes, or gets one that is too old for the log.
func TestSourceIsAskedToTakeAnImage(t *testing.T) {
	t.Parallel()
	g := startGiver(t, SourceOptions{})
	next := smr.LSN(20)
	g.take = func() {
		makeImage(t, g.images, next, map[string]string{"a": "x"})
		next += 10
	}
	o := taker(t.TempDir())
	for _, atLeast := range []smr.LSN{0, 25} {
		o.AtLeast = atLeast
		if got, err := Fetch(context.Background(), []Peer{g.peer()}, o); err != nil || got.LSN < atLeast {
			t.Fatalf("at least %d: %+v, %v", atLeast, got, err)
		}
	}
	o.AtLeast = 1000
	if _, err := Fetch(context.Background(), []Peer{g.peer()}, o); err == nil || !strings.Contains(err.Error(), "the newest is of LSN 40") {
		t.Errorf("too old: %v", err)
	}
}

// What could go wrong: the node removes an image while a peer reads it; or what is lent is kept for ever, with its disk space.
func TestLentImageStaysUntilItsLeaseEnds(t *testing.T) {
	t.Parallel()
	g := startGiver(t, SourceOptions{Lease: 200 * time.Millisecond})
	makeImage(t, g.images, 20, map[string]string{"a": "content"})
	ctx := context.Background()
	reply, err := g.source.Hold(ctx, &proto.HoldRequest{Borrower: "n8"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(g.images); err != nil {
		t.Fatal(err)
	}
	lease, err := g.source.borrow(reply.Lease) // a stream runs: the lease does not run out
	if err != nil {
		t.Fatal(err)
	}
	if g.source.expired(lease) {
		t.Error("a lease in use is taken to be over")
	}
	if got, err := os.ReadFile(filepath.Join(lease.dir, "a")); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
	if list := g.source.Transfers(); len(list) != 1 || list[0].Peer != "n8" || list[0].BytesTotal != 7 || list[0].Lsn != 20 {
		t.Errorf("transfers: %v", list)
	}
	g.source.giveBack(lease)
	await(t, "the lease runs out", func() bool { return isEmpty(g.lent) })
	if _, err := g.source.borrow(reply.Lease); status.Code(err) != codes.NotFound {
		t.Errorf("after its end: %v", err)
	}
	if _, err := g.source.Release(ctx, &proto.ReleaseRequest{Lease: reply.Lease}); err != nil {
		t.Errorf("release of nothing: %v", err)
	}
}

// What could go wrong: a transfer takes the whole line from the clients of the node. The rate is an upper bound: it can be
// checked without a guess how fast this machine is.
func TestRateIsNotExceeded(t *testing.T) {
	t.Parallel()
	const bytes, bound = 768 << 10, 2 << 20
	for _, side := range []string{"source", "receiver"} {
		o := taker(t.TempDir())
		source := SourceOptions{}
		if side == "source" {
			source.BytesPerSecond = bound
		} else {
			o.BytesPerSecond = bound
		}
		g := startGiver(t, source)
		makeImage(t, g.images, 20, map[string]string{"a": filler(1, bytes)})
		began := time.Now()
		if _, err := Fetch(context.Background(), []Peer{g.peer()}, o); err != nil {
			t.Fatal(err)
		}
		if took, least := time.Since(began), time.Duration(float64(bytes-maxChunk)/bound*float64(time.Second)); took < least {
			t.Errorf("bound at the %s: %d bytes in %v, at least %v are due", side, bytes, took, least)
		}
	}
	o := taker(t.TempDir())
	o.BytesPerSecond = 5
	if _, err := Fetch(context.Background(), []Peer{{Node: "n1", Address: "127.0.0.1:1"}}, o); err == nil || !strings.Contains(err.Error(), "at least 65536") {
		t.Errorf("a rate of 5: %v", err)
	}
}

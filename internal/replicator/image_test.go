package replicator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lockstep/log"
	"lockstep/proto"
	"lockstep/smr"
	"lockstep/smr/replica"
	"lockstep/smr/wire"
)

// testImage is the state of a testKV and the base of the log at its LSN.
type testImage struct {
	base     log.Base
	sessions smr.SessionTable
	executed map[smr.SessionID]uint64
}

// image returns the state as it is now.
func (k *testKV) image() (*testImage, error) {
	reader, err := log.OpenReader(nil, filepath.Join(k.x.cfg.Dir, "log"))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	base, err := reader.BaseAt(k.applied)
	if err != nil {
		return nil, err
	}
	sessions, _, err := smr.DecodeSessionTable(k.sessions.Append(nil))
	return &testImage{base: base, sessions: sessions, executed: maps.Clone(k.executed)}, err
}

// bring loads an image, unless the state is newer, and tells the replicator of it.
func (k *testKV) bring(from smr.LSN) error {
	image, err := k.fetch(from)
	if err != nil || image.base.LSN < from {
		return nil // asked again with the next status
	}
	k.mu.Lock()
	if image.base.LSN > k.applied {
		k.applied, k.sessions, k.executed = image.base.LSN, image.sessions, image.executed
	}
	k.mu.Unlock()
	encoded, err := image.base.AppendBinary(nil)
	if err != nil {
		return err
	}
	_, err = k.conn.Write(wire.AppendMessage(wire.AppendMessage(nil, &smr.Transfer{Done: 7, Total: 9, PerSecond: 3, From: "127.0.0.1:2"}),
		&smr.LocalBase{Base: encoded}))
	return err
}

// trimming is a configuration that keeps as little of the log as it can.
func trimming(dir, node string) Config {
	cfg := testConfig(dir, node)
	cfg.FileSize = 16 << 10
	cfg.Keep = Keep{Bytes: 1, LagBytes: 1}
	return cfg
}

// attachRaw is a KV node that does as it is told.
func attachRaw(t *testing.T, x *tester) (net.Conn, *wire.Reader) {
	t.Helper()
	conn, err := net.Dial("unix", x.ends.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(wire.AppendMessage(nil, &smr.LocalHello{Handshake: handshake(x.cfg.Node), Session: 9})); err != nil {
		t.Fatal(err)
	}
	r := wire.NewReader(conn, wire.LocalLimit)
	if _, err := wire.Expect[smr.LocalWelcome](r); err != nil {
		t.Fatal(err)
	}
	return conn, r
}

// load proposes requests of one session one after the other and waits for them at k.
func load(t *testing.T, c *testClient, k *testKV, from, to uint64) {
	t.Helper()
	payload := make([]byte, 2000)
	for sequence := from; sequence <= to; sequence++ {
		if err := c.propose(sequence, sequence, payload); err != nil {
			t.Fatal(err)
		}
		if err := k.awaitExecuted(c.session, sequence); err != nil {
			t.Fatal(err)
		}
	}
}

// What could go wrong: the log grows for ever, or goes where somebody needs it; a replica whose log the master's no longer reaches
// never joins, joins with a hole, or loses what it is after a restart. An empty replica joins a group that has trimmed its log,
// then one whose log has become too old.
func TestReplicaJoinsBelowTheMastersStartByAnImage(t *testing.T) {
	a, b := start(t, trimming(tempDir(t), "n1")), start(t, trimming(tempDir(t), "n2"))
	kv := attachKVWith(a, func(k *testKV) { k.keeps = true })
	c := create(t, 1, a, b)
	c.elect(a)
	client, err := dialClient(a, 77)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	load(t, client, kv, 1, 60)
	a.await("trimmed", func(s *proto.ReplicaState) bool { return s.Start >= 64<<10 && s.Start <= s.Checkpoint })
	eventually(t, func() error {
		files, err := log.Survey(nil, filepath.Join(a.cfg.Dir, "log"))
		if err == nil && (len(files) > 4 || files[0].Base == 0) {
			err = fmt.Errorf("%d files from %d on", len(files), files[0].Base)
		}
		return err
	})

	follow := func(x *tester) {
		t.Helper()
		err := call(func(ctx context.Context) error {
			_, err := x.manage.Follow(ctx, &proto.FollowRequest{Target: x.target(), Epoch: c.epoch, Master: "n1", MasterAddr: a.ends.Data.String(),
				Sources: []*proto.ImageSource{{Node: "n1", AdminAddr: "127.0.0.1:2"}}})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	fetch := func(k *testKV) {
		k.keeps = true
		k.fetch = func(smr.LSN) (*testImage, error) { return kv.image() }
	}
	follow(b)
	b.await("needs an image", func(s *proto.ReplicaState) bool { return s.NeedImage && s.End == 0 })
	refuseGivenUp(t, b, kv)
	other := attachKVWith(b, fetch)
	joined := func(x *tester, k *testKV, through uint64) {
		t.Helper()
		x.await("joined", func(s *proto.ReplicaState) bool { return s.Joined && !s.NeedImage && s.Start > 0 })
		if err := k.awaitExecuted(77, through); err != nil {
			t.Fatal(err)
		}
	}
	joined(b, other, 60)
	state := b.state()
	if state.KvAdminAddr != "127.0.0.1:2" || state.BytesDone != 7 || state.BytesTotal != 9 || state.BytesPerSecond != 3 || state.ImageFrom != "127.0.0.1:2" {
		t.Errorf("%v", state)
	}
	eventually(t, func() error {
		other.mu.Lock()
		defer other.mu.Unlock()
		if len(other.sources) != 1 || other.sources[0] != (smr.ImageSource{Node: "n1", Addr: "127.0.0.1:2"}) {
			return fmt.Errorf("the KV node was told %v", other.sources)
		}
		return nil
	})
	load(t, client, kv, 61, 70)
	if err := other.awaitExecuted(77, 70); err != nil {
		t.Fatal(err)
	}

	// Away while the master's log goes on and is trimmed: it comes back as what it was, and with an image again.
	incarnation := state.Incarnation
	other.detach()
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	end := a.state().End
	load(t, client, kv, 71, 120)
	a.await("trimmed further", func(s *proto.ReplicaState) bool { return s.Start > end })
	b = start(t, b.cfg)
	follow(b)
	b.await("needs an image again", func(s *proto.ReplicaState) bool { return s.NeedImage && s.End >= end })
	other = attachKVWith(b, fetch)
	joined(b, other, 120)
	load(t, client, kv, 121, 125)
	if err := other.awaitExecuted(77, 125); err != nil {
		t.Fatal(err)
	}
	if got := b.state().Incarnation; got != incarnation {
		t.Errorf("incarnation %x became %x", incarnation, got)
	}
	for _, x := range []*tester{a, b} { // what is left of both logs is the same
		x.await("all", func(s *proto.ReplicaState) bool { return s.Commit == s.End })
	}
}

// refuseGivenUp has a KV node bring an image of a stream that its master does not have: it is sent away with a reason.
func refuseGivenUp(t *testing.T, x *tester, source *testKV) {
	t.Helper()
	image, err := source.image()
	if err != nil {
		t.Fatal(err)
	}
	base := image.base
	base.History = append(base.History.Clone(), smr.Span{Epoch: base.History[len(base.History)-1].Epoch, From: base.LSN - 1})
	base.History[len(base.History)-2].Epoch-- // the same epochs begin elsewhere
	encoded, _ := base.AppendBinary(nil)
	conn, r := attachRaw(t, x)
	defer conn.Close()
	if _, err := conn.Write(wire.AppendMessage(nil, &smr.LocalBase{Base: encoded})); err != nil {
		t.Fatal(err)
	}
	for {
		message, err := r.Next()
		if err != nil {
			t.Fatalf("the connection ends without a reason: %v", err)
		}
		if reject, ok := message.(*smr.Reject); ok {
			if reject.Code != smr.RejectForeign || !strings.Contains(reject.Reason, "given up") {
				t.Errorf("%+v", reject)
			}
			break
		}
	}
	if x.state().End != 0 {
		t.Error("the log has begun")
	}
}

// What could go wrong: an image of another group becomes this one's log.
func TestBaseOfAnotherGroupIsRefused(t *testing.T) {
	x := start(t, testConfig(tempDir(t), "n1"))
	for name, base := range map[string]*log.Base{"foreign": {Cluster: "other", Group: testGroup}, "none": nil} {
		conn, r := attachRaw(t, x)
		encoded := []byte("lstpbase")
		if base != nil {
			encoded, _ = base.AppendBinary(nil)
		}
		if _, err := conn.Write(wire.AppendMessage(nil, &smr.LocalBase{Base: encoded})); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if _, err := r.Next(); err == nil {
				return fmt.Errorf("%s: the connection goes on", name)
			}
			return nil
		})
	}
	if x.state().End != 0 {
		t.Error("the log has begun")
	}
}

// What could go wrong: a full disk waits for room that only a trim would make, and the trim waits behind the append.
func TestTrimMakesRoomOnAFullDisk(t *testing.T) {
	fs := newFaultFS()
	cfg := trimming(tempDir(t), "n1")
	cfg.fs = fs
	cfg.Logger = quiet()
	h, err := openHome(cfg.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	defer h.release()
	d := newDisk(h)
	var frames [][]byte
	lsn := smr.LSN(0)
	add := func(f smr.Frame) {
		f.LSN, f.Epoch, f.Stamp = lsn, 1, 1
		frames = append(frames, smr.AppendFrame(nil, f))
		lsn = f.End()
	}
	config := smr.Config{Epoch: 1, Reign: 1, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: 1}}}
	add(smr.Frame{Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, config)})
	for sequence := range uint64(120) {
		add(smr.Frame{Kind: smr.KindRequests, Count: 1, Body: smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: sequence + 1, Slot: smr.NoSlot,
			Payload: make([]byte, 1000)})})
	}
	var removed atomic.Int64
	fs.set(log.LabelSpareCreate, func() error {
		files, err := log.Survey(nil, filepath.Join(cfg.Dir, "log"))
		if err != nil || len(files) >= 3 {
			return syscall.ENOSPC // until one of the three files goes
		}
		if len(files) > 0 && files[0].Base > 0 {
			removed.Add(1)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	var ticket uint64
	submit := func(op replica.DiskOp) {
		t.Helper()
		ticket++
		op.Ticket = ticket
		if err := d.submit([]replica.DiskOp{op}); err != nil {
			t.Fatal(err)
		}
	}
	done := func() bool { return d.executed.Load() == ticket }
	for _, frame := range frames {
		submit(replica.DiskOp{Append: frame})
		eventually(t, func() error {
			if !done() && !d.full.Load() {
				return errors.New("neither written nor full")
			}
			return nil
		})
		if d.full.Load() {
			submit(replica.DiskOp{Trim: &replica.Trim{To: h.log.Durable()}})
			eventually(t, func() error {
				if !done() {
					return errors.New("the trim has not made room")
				}
				return nil
			})
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if removed.Load() == 0 || h.log.Start() == 0 || h.saved.LogStart < h.log.Start() {
		t.Errorf("start %d, allowed %d", h.log.Start(), h.saved.LogStart)
	}
	if err := h.closeCleanly(); err != nil {
		t.Fatal(err)
	}
}

// What could go wrong: logs that were set aside fill the disk, or the newest of them goes. Nothing is said about it.
func TestOnlyTheNewestQuarantinedLogsAreKept(t *testing.T) {
	cfg, _ := grown(t, smr.SyncAlways, true)
	now := time.Now()
	made := func(age time.Duration, elements ...string) string {
		t.Helper()
		dir := filepath.Join(append([]string{cfg.Dir}, elements...)...)
		if err := os.MkdirAll(filepath.Join(dir, "inner"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "inner", "00000000000000000000"), []byte("bytes"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	oldest := made(4*time.Hour, "quarantine", "log-before-000000000000000a")
	older := made(3*time.Hour, "log", "quarantine-1")
	newer := made(2*time.Hour, "quarantine", "log-before-0000000000000001")
	newest := made(time.Hour, "log", "quarantine-2")
	x := start(t, cfg)
	for dir, kept := range map[string]bool{oldest: false, older: false, newer: true, newest: true} {
		if _, err := os.Stat(dir); (err == nil) != kept {
			t.Errorf("%s: kept %v, should be %v", dir, err == nil, kept)
		}
	}
	text := x.logged.String()
	for _, part := range []string{"quarantined log removed", "quarantined logs kept", oldest, newest, "limit=2"} {
		if !strings.Contains(text, part) {
			t.Errorf("nothing is said of %q:\n%s", part, text)
		}
	}
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
}

package replicator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"lockstep/log"
	"lockstep/proto"
	"lockstep/smr"
	"lockstep/smr/replica"
	"lockstep/smr/wire"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// faultFS is the system's file system with faults in calls of chosen labels.
type faultFS struct {
	log.OS
	mu    sync.Mutex
	fault map[log.Label]func() error // called before the call; its error is the call's
}

func newFaultFS() *faultFS { return &faultFS{fault: make(map[log.Label]func() error)} }

func (f *faultFS) set(label log.Label, fault func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault[label] = fault
}

func (f *faultFS) check(label log.Label) error {
	f.mu.Lock()
	fault := f.fault[label]
	f.mu.Unlock()
	if fault == nil {
		return nil
	}
	if err := fault(); err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	return nil
}

func (f *faultFS) Create(label log.Label, name string) (log.File, error) {
	if err := f.check(label); err != nil {
		return nil, err
	}
	return f.wrap(f.OS.Create(label, name))
}

func (f *faultFS) Open(label log.Label, name string) (log.File, error) {
	return f.wrap(f.OS.Open(label, name))
}

func (f *faultFS) OpenRead(label log.Label, name string) (log.File, error) {
	return f.wrap(f.OS.OpenRead(label, name))
}

func (f *faultFS) wrap(file log.File, err error) (log.File, error) {
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f}, nil
}

type faultFile struct {
	log.File
	fs *faultFS
}

func (f *faultFile) WriteAt(label log.Label, p []byte, at int64) error {
	if err := f.fs.check(label); err != nil {
		return err
	}
	return f.File.WriteAt(label, p, at)
}

func (f *faultFile) WriteBlocks(label log.Label, p []byte, at int64) error {
	if err := f.fs.check(label); err != nil {
		return err
	}
	return f.File.WriteBlocks(label, p, at)
}

func (f *faultFile) WriteZeros(label log.Label, at, size int64) error {
	if err := f.fs.check(label); err != nil {
		return err
	}
	return f.File.WriteZeros(label, at, size)
}

func (f *faultFile) Sync(label log.Label) error {
	if err := f.fs.check(label); err != nil {
		return err
	}
	return f.File.Sync(label)
}

func (f *faultFile) ReadAt(label log.Label, p []byte, at int64) (int, error) {
	if err := f.fs.check(label); err != nil {
		return 0, err
	}
	return f.File.ReadAt(label, p, at)
}

// startThreeWith starts a group whose first replica has a file system with faults, and makes it lead.
func startThreeWith(t testing.TB, fs *faultFS) (nodes []*tester, kvs []*testKV, c *conductor) {
	t.Helper()
	for i := range 3 {
		cfg := testConfig(tempDir(t), fmt.Sprintf("n%d", i+1))
		if i == 0 {
			cfg.fs = fs
		}
		nodes = append(nodes, start(t, cfg))
	}
	for _, x := range nodes {
		kvs = append(kvs, attachKV(x))
	}
	c = create(t, 2, nodes...)
	if master := c.elect(nodes...); master != nodes[0] {
		t.Fatal("another master than expected")
	}
	return nodes, kvs, c
}

func proposeUntil(t testing.TB, x *tester, k *testKV, session smr.SessionID, from, to uint64, payload []byte) {
	t.Helper()
	client, err := dialClient(x, session)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	for sequence := from; sequence <= to; sequence++ {
		if err := client.propose(sequence, sequence, payload); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.awaitExecuted(session, to); err != nil {
		t.Fatal(err)
	}
}

// A full disk at the master: nothing is writable, which everybody is told; the process stays up, goes on answering, and
// when space returns so does service, with nothing lost and nothing doubled.
func TestFullDiskAtTheMasterPausesWrites(t *testing.T) {
	fs := newFaultFS()
	nodes, kvs, _ := startThreeWith(t, fs)
	proposeUntil(t, nodes[0], kvs[0], 3, 1, 10, []byte("before"))
	fs.set(log.LabelSpareCreate, func() error { return syscall.ENOSPC })
	client, err := dialClient(nodes[0], 3)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	payload := bytes.Repeat([]byte("x"), 10<<10)
	// More than two log files, so that the spare one is used up too.
	for sequence := uint64(11); sequence <= 110; sequence++ {
		if err := client.propose(sequence, sequence, payload); err != nil {
			t.Fatal(err)
		}
	}
	nodes[0].await("not writable", func(s *proto.ReplicaState) bool { return s.Leading && !s.Writable && s.DiskStuckMs > 0 })
	for _, k := range kvs {
		k.awaitStatus("not writable", func(s smr.Status) bool { return !s.Writable })
	}
	// Its client must not take the silence of a held socket for death.
	if alive, err := wire.Expect[smr.CopiesCounted](client.r); err != nil || alive.ID != 0 {
		t.Fatalf("sign of life: %+v, %v", alive, err)
	}
	fs.set(log.LabelSpareCreate, nil)
	for _, k := range kvs {
		if err := k.awaitExecuted(3, 110); err != nil {
			t.Fatal(err)
		}
		k.awaitStatus("writable", func(s smr.Status) bool { return s.Writable })
	}
	if s := nodes[0].state(); !s.Leading {
		t.Errorf("the master has changed: %s", s)
	}
}

// A failed sync: the process must end, because nobody knows what the disk holds; it must not acknowledge. The others
// go on without it, and it comes back with what it had acknowledged.
func TestFailedSyncEndsTheProcess(t *testing.T) {
	fs := newFaultFS()
	nodes, kvs, c := startThreeWith(t, fs)
	proposeUntil(t, nodes[0], kvs[0], 3, 1, 10, []byte("before"))
	broken := errors.New("the disk is broken")
	fs.set(log.LabelSync, func() error { return broken })
	client, err := dialClient(nodes[0], 3)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	if err := client.propose(11, 11, nil); err != nil {
		t.Fatal(err)
	}
	<-nodes[0].ended
	if !errors.Is(nodes[0].err, broken) {
		t.Fatalf("Run returned %v", nodes[0].err)
	}
	master := c.elect(nodes[1], nodes[2])
	proposeUntil(t, master, kvs[1], 3, 11, 20, nil)
	fs.set(log.LabelSync, nil)
	nodes[0] = start(t, nodes[0].cfg)
	if nodes[0].state().Blank {
		t.Error("a failed sync made a new incarnation")
	}
	kvs[0] = attachKV(nodes[0])
	c.follow(nodes[0], master)
	if err := kvs[0].awaitExecuted(3, 20); err != nil {
		t.Fatal(err)
	}
}

// A wedged disk at the master must be visible from outside although nothing goes on, and the commit of the others'
// copies must not depend on it: copies 2 are on the two slaves.
func TestWedgedDiskIsVisibleAndNotNeeded(t *testing.T) {
	fs := newFaultFS()
	nodes, kvs, _ := startThreeWith(t, fs)
	release := make(chan struct{})
	fs.set(log.LabelSync, func() error { <-release; return nil })
	client, err := dialClient(nodes[0], 3)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	if err := client.propose(1, 1, []byte("on the slaves")); err != nil {
		t.Fatal(err)
	}
	for _, k := range kvs[1:] {
		if err := k.awaitExecuted(3, 1); err != nil {
			t.Fatal(err)
		}
	}
	s := nodes[0].await("stuck", func(s *proto.ReplicaState) bool { return s.DiskStuckMs >= 50 })
	if s.Safe >= s.Commit {
		t.Errorf("the master's own Safe %d reaches Commit %d without its disk", s.Safe, s.Commit)
	}
	close(release)
	if err := kvs[0].awaitExecuted(3, 1); err != nil {
		t.Fatal(err)
	}
	nodes[0].await("not stuck", func(s *proto.ReplicaState) bool { return s.DiskStuckMs == 0 })
}

// A slave that comes late is fed from files, because memory holds only the newest bytes; then from memory again. Large
// requests cross every limit on the way.
func TestLateSlaveCatchesUpFromFiles(t *testing.T) {
	var nodes []*tester
	for i := range 3 {
		cfg := testConfig(tempDir(t), fmt.Sprintf("n%d", i+1))
		cfg.FileSize = 8 << 20
		nodes = append(nodes, start(t, cfg))
	}
	kv := attachKV(nodes[0])
	late := nodes[2]
	c := create(t, 2, nodes...)
	c.elect(nodes[:2]...)
	big := bytes.Repeat([]byte("0123456789abcdef"), 200<<10) // 3.2 MiB: above every buffer
	proposeUntil(t, nodes[0], kv, 3, 1, 7, big)
	proposeUntil(t, nodes[0], kv, 3, 8, 400, big[:1000])
	lateKV := attachKV(late)
	c.follow(late, nodes[0])
	if err := lateKV.awaitExecuted(3, 400); err != nil {
		t.Fatal(err)
	}
	proposeUntil(t, nodes[0], lateKV, 3, 401, 404, big)
	commit := smr.LSN(nodes[0].await("settled", func(s *proto.ReplicaState) bool { return s.Commit == s.End }).Commit)
	for _, x := range nodes {
		x.await("all durable", func(s *proto.ReplicaState) bool { return s.Durable >= uint64(commit) })
	}
	compareLogs(t, commit, nodes)
}

// In the relaxed modes a byte counts before it is synced; all else is the same.
func TestRelaxedSyncModesCommit(t *testing.T) {
	for _, mode := range []smr.SyncMode{smr.SyncInterval, smr.SyncOS} {
		t.Run(mode.String(), func(t *testing.T) {
			fs := newFaultFS()
			var nodes []*tester
			for i := range 2 {
				cfg := testConfig(tempDir(t), fmt.Sprintf("n%d", i+1))
				cfg.Sync, cfg.SyncMillis, cfg.fs = mode, 5, fs
				nodes = append(nodes, start(t, cfg))
			}
			var syncs sync.Map
			fs.set(log.LabelSync, func() error { syncs.Store("done", true); return nil })
			kv := attachKV(nodes[1])
			c := create(t, 2, nodes...)
			master := c.elect(nodes...)
			proposeUntil(t, master, kv, 3, 1, 100, []byte("x"))
			if mode == smr.SyncInterval {
				eventually(t, func() error {
					if _, done := syncs.Load("done"); !done {
						return errors.New("nothing was synced in the background")
					}
					return nil
				})
			} else if _, done := syncs.Load("done"); done {
				t.Error("mode os synced frames")
			}
			if master.state().Sync != mode.String() {
				t.Error("state does not show the mode")
			}
		})
	}
}

// A wedged loop must be visible from outside, in State and in Watch, although it answers no order any more.
func TestWedgedLoopIsVisible(t *testing.T) {
	cfg := testConfig(tempDir(t), "n1")
	var n *node
	cfg.started = func(started *node) { n = started }
	x := start(t, cfg)
	watch, err := x.manage.Watch(t.Context(), &proto.WatchRequest{Target: x.target(), IntervalMs: 10})
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	n.loop.control <- item{input: &replica.Detached{}, taken: func() { <-release }}
	n.loop.knock()
	for {
		state, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if state.LoopIdleMs >= 100 {
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := x.manage.Fence(ctx, &proto.FenceRequest{Target: x.target(), Epoch: 2}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("an order at a wedged loop: %v", err)
	}
	stuck := x.state()
	close(release)
	x.await("the loop goes on", func(s *proto.ReplicaState) bool { return s.LoopIdleMs < 100 && s.LoopCount > stuck.LoopCount })
}

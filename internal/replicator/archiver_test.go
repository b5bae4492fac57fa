package replicator

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"lockstep/internal/archive"
	"lockstep/log"
	"lockstep/smr"
)

// What could go wrong: the archive lacks bytes, has others than the log, or a new master leaves a gap between its part and that
// of the one before. Every byte of the archive is compared with the logs.
func TestArchiveHoldsWhatIsCommittedAcrossMasters(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	var nodes []*tester
	var kvs []*testKV
	for i := range 3 {
		cfg := testConfig(tempDir(t), fmt.Sprintf("n%d", i+1))
		cfg.Archive = Archive{Dir: root, Every: 10 * time.Millisecond, Compress: i != 1}
		nodes = append(nodes, start(t, cfg))
		kvs = append(kvs, attachKV(nodes[i]))
	}
	c := create(t, 2, nodes...)
	store, err := archive.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	archived := archive.OpenLog(store, testCluster, testGroup)
	ctx := context.Background()
	for round := range 2 {
		master := c.elect(nodes...)
		session := smr.SessionID(50 + round)
		client, err := dialClient(master, session)
		if err != nil {
			t.Fatal(err)
		}
		for sequence := uint64(1); sequence <= 200; sequence += 20 {
			if err := client.propose(sequence, sequence+19, []byte(strings.Repeat("value", 50))); err != nil {
				t.Fatal(err)
			}
		}
		for _, k := range kvs {
			if err := k.awaitExecuted(session, 200); err != nil {
				t.Fatal(err)
			}
		}
		client.conn.Close()
		commit := master.state().Commit
		eventually(t, func() error {
			if end, err := archived.End(ctx); err != nil || uint64(end) < commit {
				return fmt.Errorf("the archive ends at %d, committed are %d, %v", end, commit, err)
			}
			return nil
		})
		at := slices.Index(nodes, master)
		nodes, kvs = slices.Delete(nodes, at, at+1), slices.Delete(kvs, at, at+1)
		if err := master.stop(); err != nil {
			t.Fatal(err)
		}
	}
	last := nodes[0]
	spans, err := archived.Spans(ctx)
	if err != nil {
		t.Fatal(err)
	}
	end := spans[len(spans)-1].End
	if _, err := archive.Chain(spans, 0, end); err != nil {
		t.Fatalf("%v: %v", spans, err)
	}
	reader, err := log.OpenReader(nil, last.cfg.Dir+"/log")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	limit := min(smr.LSN(last.state().Durable), end)
	for _, span := range spans {
		_, content, err := archived.Read(ctx, span)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, len(content))
		n, err := reader.ReadAt(want, span.From, limit)
		if err != nil || string(content[:n]) != string(want[:n]) {
			t.Errorf("%v: %d bytes, %v, or others than in the log", span, n, err)
		}
	}
}

// What could go wrong: the log is trimmed below what is archived, or for ever kept because the archive is gone.
func TestTrimWaitsForTheArchiveWithinABound(t *testing.T) {
	t.Parallel()
	n := &node{snapshot: newSnapshot()}
	a := &archiver{node: n, o: Archive{LagBytes: 1000}}
	look := func(safe, archived, checkpoint, want smr.LSN) {
		t.Helper()
		status := n.snapshot.get()
		status.Safe = safe
		n.snapshot.set(status)
		a.archived.Store(uint64(archived))
		if got := a.hold(checkpoint); got != want {
			t.Errorf("safe %d, archived %d, checkpoint %d: the log may be trimmed to %d, want %d", safe, archived, checkpoint, got, want)
		}
	}
	look(500, 0, 400, 0)
	look(500, 300, 400, 300)
	look(500, 450, 400, 400)
	look(900, 450, 800, 450)
	look(2000, 450, 800, 800)   // the bound: 1000 would go, the checkpoint is lower
	look(5000, 450, 4900, 4000) // the archive gets a gap
	look(5000, 450, 4950, 4000)
	look(5000, 4800, 4950, 4800)
	look(5000, 4800, 0, 0) // another life of the KV node, without an image (simulation seed 200000082)
	look(5000, 4900, 4950, 4900)
	var none *archiver
	if got := none.hold(77); got != 77 {
		t.Errorf("without an archive: %d", got)
	}
}

// What could go wrong: an archive that is not there, or goes away, stops the replica; when it comes back nothing is archived.
func TestReplicaOutlivesItsArchive(t *testing.T) {
	t.Parallel()
	root := t.TempDir() + "/mount"
	cfg := testConfig(tempDir(t), "n1")
	cfg.Archive = Archive{Dir: root, Every: 10 * time.Millisecond}
	x := start(t, cfg)
	k := attachKV(x)
	c := create(t, 1, x)
	master := c.elect(x)
	client, err := dialClient(master, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	if err := client.propose(1, 20, []byte("value")); err != nil {
		t.Fatal(err)
	}
	if err := k.awaitExecuted(7, 20); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if text := x.logged.String(); !strings.Contains(text, "make the directory, or mount what should be there") {
			return fmt.Errorf("the log says nothing of the archive:\n%s", text)
		}
		return nil
	})
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	store, err := archive.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	commit := x.state().Commit
	eventually(t, func() error {
		if end, err := archive.OpenLog(store, testCluster, testGroup).End(context.Background()); err != nil || uint64(end) < commit {
			return fmt.Errorf("the archive ends at %d, committed are %d, %v", end, commit, err)
		}
		return nil
	})
}

// What could go wrong: a group whose log was given up by force goes on in the archive where the old one ended: what was committed instead is never archived, and
// nobody is told. Or the two are mixed.
func TestArchiveKeepsOneHistory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store, err := archive.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	archived := archive.OpenLog(store, testCluster, testGroup)
	ctx := context.Background()
	life := func(session smr.SessionID, requests uint64) (x *tester, stop func()) {
		cfg := testConfig(tempDir(t), "n1") // an empty one: nothing is left of the life before
		cfg.Archive = Archive{Dir: root, Every: 10 * time.Millisecond}
		x = start(t, cfg)
		k := attachKV(x)
		master := create(t, 1, x).elect(x)
		client, err := dialClient(master, session)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.propose(1, requests, []byte(strings.Repeat("value", 50))); err != nil {
			t.Fatal(err)
		}
		if err := k.awaitExecuted(session, requests); err != nil {
			t.Fatal(err)
		}
		return x, func() {
			client.conn.Close()
			if err := x.stop(); err != nil {
				t.Fatal(err)
			}
		}
	}
	reaches := func(x *tester) {
		t.Helper()
		commit := x.state().Commit
		eventually(t, func() error {
			if end, err := archived.End(ctx); err != nil || uint64(end) < commit {
				return fmt.Errorf("the archive ends at %d, committed are %d, %v", end, commit, err)
			}
			return nil
		})
	}
	x, stop := life(7, 20)
	reaches(x)
	stop()
	before, err := archived.Spans(ctx)
	if err != nil || len(before) == 0 {
		t.Fatalf("%v, %v", before, err)
	}
	for _, requests := range []uint64{3, 200} { // the log is shorter than the archive, and longer
		x, stop = life(8+smr.SessionID(requests), requests)
		eventually(t, func() error {
			if text := x.logged.String(); !strings.Contains(text, "a recovery by force has given it up") {
				return fmt.Errorf("the log says nothing of the archive:\n%s", text)
			}
			return nil
		})
		if requests < 200 {
			stop()
		}
	}
	if spans, err := archived.Spans(ctx); err != nil || !slices.Equal(spans, before) {
		t.Errorf("%v in place of %v, %v", spans, before, err)
	}
	folder := root + "/" + archive.Folder(testCluster, testGroup)
	if err := os.Rename(folder, root+"/before-the-recovery"); err != nil {
		t.Fatal(err)
	}
	reaches(x)
	spans, err := archived.Spans(ctx)
	if err != nil || spans[0].From != 0 {
		t.Errorf("%v, %v", spans, err)
	}
	stop()
}

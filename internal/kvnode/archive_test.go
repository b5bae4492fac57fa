package kvnode

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lockstep/internal/archive"
	"lockstep/internal/backup"
	"lockstep/smr"
)

// archiving is a node of a fake group that archives images.
type archiving struct {
	*imageArchiver
	t     *testing.T
	group *fakeGroup
	c     *redisClient
	root  string
	in    backup.Archive
}

func newArchiving(t *testing.T, change func(*ArchiveConfig)) *archiving {
	t.Helper()
	root := t.TempDir()
	g := newFakeGroup(t, 2, nil)
	slave := g.nodes[1]
	config := ArchiveConfig{Where: root, LogBytes: 64 << 10, Every: 24 * time.Hour}
	if change != nil {
		change(&config)
	}
	slave.node.config.Archive = config
	slave.node.config.Admin.BytesPerSecond = 64 << 20
	k, _ := imaged(t, slave, t.TempDir())
	a := &archiving{imageArchiver: k.archiver, t: t, group: g, c: dial(t, g.serve(t, 1)), root: root}
	a.patient = 0
	store, err := archive.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	a.in = backup.Archive{Store: store, Cluster: slave.node.config.Cluster, Group: slave.node.config.Group}
	a.c.expect("set first 1", "+OK\r\n")
	eventually(t, "the node has caught up", func() bool { slave.node.noteProgress(); return slave.node.caughtUp.Load() })
	return a
}

func (a *archiving) mustLook() {
	a.t.Helper()
	if err := a.look(context.Background()); err != nil {
		a.t.Fatal(err)
	}
}

func (a *archiving) list() []backup.Backup {
	a.t.Helper()
	list, problems, err := a.in.List(context.Background())
	if err != nil || len(problems) > 0 {
		a.t.Fatal(problems, err)
	}
	return list
}

// write lets the log grow by about so many bytes.
func (a *archiving) write(bytes int) {
	a.t.Helper()
	for ; bytes > 0; bytes -= 8 << 10 {
		a.c.expect("set k"+strconv.Itoa(bytes)+" "+strings.Repeat("v", 8<<10), "+OK\r\n")
	}
}

// What could go wrong: no image gets into the archive, or one at each look, or the bounds of the archive are not kept to; links of the image
// stay on the disk.
func TestImagesAreArchivedWhenTheyAreDue(t *testing.T) {
	a := newArchiving(t, func(c *ArchiveConfig) { c.Keep.Images = 2 })
	a.mustLook()
	first := a.list()
	if len(first) != 1 || first[0].Node != "n2" || first[0].LSN == 0 {
		t.Fatalf("the first look: %+v", first)
	}
	a.write(8 << 10)
	a.mustLook()
	if n := len(a.list()); n != 1 {
		t.Errorf("%d images although the log grew little", n)
	}
	for i := range 3 {
		a.write(64 << 10)
		a.patient = 0
		a.mustLook()
		list := a.list()
		if len(list) != 2 || i == 2 && list[0].LSN <= first[0].LSN {
			t.Errorf("round %d: %+v", i, list)
		}
	}
	f := &a.facts
	if f.archived != 4 || f.count != 2 || f.lsn != a.list()[1].LSN || f.failures != 0 || f.bytes == 0 {
		t.Errorf("facts: %d archived, %d there, the newest %d", f.archived, f.count, f.lsn)
	}
	if _, err := os.Stat(filepath.Join(a.keeper.config.Dir, "archiving")); err == nil {
		t.Error("links of an image are left")
	}
}

// What could go wrong: all nodes archive the same image; an old one is never followed by another; a gap in the log that is archived makes what
// lies behind it lost for ever.
func TestWhenAnImageIsDue(t *testing.T) {
	a := newArchiving(t, nil)
	ctx, now, n := context.Background(), time.Now(), a.keeper.node
	newest := &backup.Backup{LSN: n.Applied() - 1, Created: now}
	due := func(newest *backup.Backup, at time.Time) bool {
		t.Helper()
		due, err := a.due(ctx, a.in, newest, at)
		if err != nil {
			t.Fatal(err)
		}
		return due
	}
	for _, test := range []struct {
		patient float64
		after   time.Duration
		due     bool
	}{{0, 24*time.Hour - time.Second, false}, {0, 24 * time.Hour, true}, {1, 28 * time.Hour, false}, {1, 29 * time.Hour, true}} {
		if a.patient = test.patient; due(newest, now.Add(test.after)) != test.due {
			t.Errorf("%+v is not so", test)
		}
	}
	if newest.LSN = n.Applied(); due(newest, now.Add(48*time.Hour)) {
		t.Error("nothing has happened since, and an image is due")
	}
	n.config.Node = "n1" // the master, in a fake group
	newest.LSN--
	if a.patient = 0; due(newest, now.Add(28*time.Hour)) || !due(newest, now.Add(29*time.Hour)) {
		t.Error("the master's node is as patient as a slave's")
	}
	n.config.Node = "n2"

	l := a.in.Log()
	for _, from := range []smr.LSN{newest.LSN, newest.LSN + 20} {
		if _, err := l.Append(ctx, archive.Content{From: from, Bytes: make([]byte, 10), Frames: 1, Node: "n1"}, false); err != nil {
			t.Fatal(err)
		}
	}
	found := false
	for range archiveGapLooks {
		found = found || due(newest, now)
	}
	if !found {
		t.Error("there is a gap behind the newest image, and no other is due")
	}
	n.caughtUp.Store(false)
	if due(newest, now.Add(48*time.Hour)) {
		t.Error("a node that has not caught up archives its image")
	}
}

// What could go wrong: an archive that is not there ends the node, or is not told of.
func TestAnArchiveThatIsGoneIsTold(t *testing.T) {
	a := newArchiving(t, func(c *ArchiveConfig) { c.Every = time.Second })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	if err := os.Remove(a.root); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(ended)
		a.run(ctx)
	}()
	eventually(t, "the failure is counted", func() bool {
		a.facts.mu.Lock()
		defer a.facts.mu.Unlock()
		return a.facts.failures == 1 && strings.Contains(a.facts.failure, "mount what should be there")
	})
	cancel()
	<-ended
}

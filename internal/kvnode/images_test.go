package kvnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/internal/checkpoint"
	"lockstep/smr"
	"lockstep/smr/client"
)

// imaged lets a node of a fake group keep images in a directory. told receives the checkpoints that the replicator is told of.
func imaged(t testing.TB, l *fakeLog, dir string) (k *imageKeeper, told func() smr.LSN) {
	t.Helper()
	config := l.node.config
	config.Images.Dir = dir
	k, machine, err := openImages(config)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var last smr.LSN
	k.base = func(lsn smr.LSN) ([]byte, error) { return []byte(fmt.Sprint("base of ", lsn)), nil }
	k.store = func(lsn smr.LSN) {
		mu.Lock()
		defer mu.Unlock()
		last = lsn
	}
	k.tell = func(smr.Transfer) {}
	l.node.keep(k, machine)
	ctx, cancel := context.WithCancel(context.Background())
	var task sync.WaitGroup
	task.Go(func() { k.run(ctx) })
	task.Go(func() { k.tier.run(ctx) })
	t.Cleanup(func() {
		cancel()
		task.Wait()
		k.close()
	})
	return k, func() smr.LSN {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

func (c *redisClient) infoLine(section, field string) string {
	c.t.Helper()
	for line := range strings.Lines(c.do("info " + section)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return value
		}
	}
	c.t.Fatalf("INFO %s has no %s", section, field)
	return ""
}

// What could go wrong: a node begins with another state than the one it saved, or with the right one and goes on otherwise; or what
// SAVE, BGSAVE, LASTSAVE and INFO say of images is made up.
func TestNodeStartsFromImageAndLog(t *testing.T) {
	dir := t.TempDir()
	g := newFakeGroup(t, 2, nil)
	keeper, told := imaged(t, g.nodes[0], dir)
	c := dial(t, g.serve(t, 0))
	if saved := c.do("lastsave"); saved == ":0\r\n" {
		t.Errorf("LASTSAVE before any image: %q", saved)
	}
	for i := range 300 {
		c.expect(fmt.Sprintf("set key%d value", i), "+OK\r\n")
	}
	if changes := c.infoLine("persistence", "rdb_changes_since_last_save"); changes == "0" {
		t.Error("300 writes are no changes")
	}
	c.expect("save", "+OK\r\n")
	if changes := c.infoLine("persistence", "rdb_changes_since_last_save"); changes != "0" {
		t.Errorf("%s changes since SAVE", changes)
	}
	if told() == 0 || told() != keeper.facts.lsn {
		t.Errorf("the replicator was told of %d, the image is at %d", told(), keeper.facts.lsn)
	}
	first := told()
	c.expect("set key7 changed", "+OK\r\n")
	c.expect("bgsave", "+Background saving started\r\n")
	eventually(t, "BGSAVE", func() bool { return told() > first && c.infoLine("persistence", "rdb_bgsave_in_progress") == "0" })
	c.expect("set key8 behind", "+OK\r\n")
	if status := c.infoLine("persistence", "rdb_last_bgsave_status"); status != "ok" {
		t.Errorf("rdb_last_bgsave_status is %s", status)
	}

	// Another life, of the other node of the group: the image, then the log from there.
	other := g.nodes[1]
	eventually(t, "the other node has executed everything", func() bool { return other.node.Applied() == g.nodes[0].node.Applied() })
	images, err := checkpoint.List(keeper.Dir())
	if err != nil || len(images) != 2 {
		t.Fatalf("images: %v, %v", images, err)
	}
	again := t.TempDir()
	if err := os.CopyFS(filepath.Join(again, "images"), os.DirFS(keeper.Dir())); err != nil {
		t.Fatal(err)
	}
	config := other.node.config
	config.Images.Dir = again
	k, machine, err := openImages(config)
	if err != nil || machine == nil {
		t.Fatalf("restored %v: %v", machine, err)
	}
	restored := NewNode(config, 999, strings.Repeat("b", 40), other)
	restored.keep(k, machine)
	defer k.close()
	if restored.Applied() != images[0].LSN || !restored.hasImage() {
		t.Errorf("restored at %d, the newest image is at %d", restored.Applied(), images[0].LSN)
	}
	if made := restored.fromImages(client.Config{}); made.Applied != images[0].LSN || made.Checkpoint != images[0].LSN || made.FetchImage == nil {
		t.Errorf("the client begins at %d, checkpoint %d", made.Applied, made.Checkpoint)
	}
	g.mu.Lock()
	history := g.history
	g.mu.Unlock()
	for _, frame := range history {
		if frame.LSN >= restored.Applied() {
			if err := restored.ApplyFrame(frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	if restored.machine.Digest() != other.node.machine.Digest() {
		t.Error("the restored node differs from one that has executed everything")
	}
}

// What could go wrong: a node that lags behind the log takes a newer image, and its clients go on with what they knew: values they
// remember, commands that wait for what has happened below the image.
func TestNodeGoesOnWithAnImageOfAPeer(t *testing.T) {
	g := newFakeGroup(t, 2, nil)
	keeper, _ := imaged(t, g.nodes[0], t.TempDir())
	dir := t.TempDir()
	lagging, told := imaged(t, g.nodes[1], dir)
	a, b := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	tracked := dial(t, g.nodes[1].node.address.Load().String())
	tracked.do("hello 3")
	tracked.expect("client tracking on", "+OK\r\n")
	tracked.do("get key")
	b.send("blpop served 0")
	eventually(t, "a command waits", func() bool { return g.nodes[1].node.blocked.count() == 1 })
	waiting := dial(t, g.nodes[1].node.address.Load().String())
	waiting.send("blpop later 0")
	eventually(t, "another one waits", func() bool { return g.nodes[1].node.blocked.count() == 2 })
	listener := dial(t, g.nodes[1].node.address.Load().String())
	listener.do("subscribe news")
	g.set(func() { g.nodes[1].lagging = true })
	a.expect("set key new", "+OK\r\n")
	a.do("publish news skipped")
	a.expect("rpush served x", ":1\r\n")
	lsn, err := keeper.TakeImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(lagging.Dir(), os.DirFS(keeper.Dir())); err != nil {
		t.Fatal(err)
	}
	if _, err := lagging.load(lsn); err != nil {
		t.Fatal(err)
	}
	if applied := g.nodes[1].node.Applied(); applied != lsn || told() != lsn {
		t.Errorf("applied %d, told %d, the image is at %d", applied, told(), lsn)
	}
	if reply := string(b.next()); !strings.HasPrefix(reply, "-UNCERTAIN ") {
		t.Errorf("a command that was served below the image is answered %q", reply)
	}
	if pushed := string(tracked.next()); !strings.Contains(pushed, "invalidate") {
		t.Errorf("a client that remembers values is told %q", pushed)
	}
	if pushed := listener.next(); pushed != nil { // it must know that it may have missed something
		t.Errorf("a client that listens goes on behind what it did not hear, with %q", pushed)
	}
	g.set(func() {
		for n, frame := range g.history {
			if frame.LSN < lsn {
				g.nodes[1].applied = n + 1
			}
		}
		g.nodes[1].lagging = false
	})
	tracked.expect("get key", "$3\r\nnew\r\n")
	a.expect("rpush later y", ":1\r\n")
	if reply := string(waiting.next()); !strings.Contains(reply, "later") {
		t.Errorf("a command that still waits is answered %q", reply)
	}
	a.do("set key newer")
	eventually(t, "both nodes have executed everything", func() bool { return g.nodes[0].node.Applied() == g.nodes[1].node.Applied() })
	if g.nodes[0].node.machine.Digest() != g.nodes[1].node.machine.Digest() {
		t.Error("the nodes differ")
	}
	if _, err := lagging.bring(t.Context(), client.Need{From: lsn + 1<<40}); err == nil {
		t.Error("an image is brought that nobody has")
	}
}

// What could go wrong: images are never taken by themselves, or again and again for nothing; or a node begins in the directory of
// another group.
func TestImagesAreTakenWhenDue(t *testing.T) {
	dir := t.TempDir()
	g := newFakeGroup(t, 1, func(c *Config) { c.Images.LogBytes = minImageLog })
	k, told := imaged(t, g.nodes[0], dir)
	c := dial(t, g.serve(t, 0))
	c.do("set a " + strings.Repeat("x", 1000))
	if k.due(time.Now()) {
		t.Error("an image is due after one small write")
	}
	if !k.due(time.Now().Add(k.config.Every + time.Second)) {
		t.Error("no image is due after its time")
	}
	for range minImageLog / 1000 {
		c.do("set a " + strings.Repeat("x", 1000))
	}
	eventually(t, "an image", func() bool { return told() > 0 })
	if now := time.Now(); restsTill(now, nil).After(now) || !restsTill(now, errors.New("no room")).After(now) {
		t.Error("an image that was wanted, and taken, keeps those away that are due; or one that failed is tried again at once")
	}

	config := g.nodes[0].node.config
	config.Images.Dir, config.Group = dir, "other"
	config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	if _, _, err := openImages(config); !errors.Is(err, checkpoint.ErrForeign) {
		t.Errorf("another group in the same directory: %v", err)
	}
}

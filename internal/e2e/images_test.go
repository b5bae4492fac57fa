package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"lockstep/internal/local"
)

// startLSN returns where a replica's log begins, as the configuration masters see it.
func (w *world) startLSN(node string) (uint64, error) {
	group, err := w.group()
	if err != nil {
		return 0, err
	}
	for _, r := range group.GetReplicas() {
		if r.GetNode() == node {
			return r.GetState().GetStart(), nil
		}
	}
	return 0, fmt.Errorf("%s is no replica", node)
}

// What could go wrong: a node without anything cannot join a group whose log begins above 0, by itself and with what its
// replicas keep of the log: it waits for ever, begins with half of the state, or differs from the others afterwards. So a node
// is added, and another one loses its disks.
func TestEmptyReplicasJoinATrimmedGroupByImage(t *testing.T) {
	t.Parallel()
	w := start(t, local.Options{Confmasters: 1}, map[local.Kind][]string{
		local.KindReplicator: {"--file-size", "64KiB", "--log-keep-bytes", "64KiB", "--log-lag-cap", "128KiB"},
		local.KindKVNode:     {"--image-log", "64KiB"},
	})
	written := 0
	grow := func() {
		c := mustDial(t, w.addr("n1"))
		for range 500 {
			written++
			c.must(t, "SET", "key:"+strconv.Itoa(written%300), strings.Repeat("v", written%700))
			c.must(t, "RPUSH", "list", strconv.Itoa(written))
		}
		w.operate(t, "checkpoint")
	}
	trimmed := func(nodes ...string) {
		for _, node := range nodes {
			eventually(t, "the log of "+node+" is trimmed", func() error {
				start, err := w.startLSN(node)
				if err == nil && start == 0 {
					err = fmt.Errorf("it begins at %d", start)
				}
				return err
			})
		}
	}
	filled := func(node string) {
		t.Helper()
		w.healthy(t)
		if start, err := w.startLSN(node); err != nil || start == 0 {
			t.Errorf("the log of %s begins at %d, error %v: it did not need an image", node, start, err)
		}
		content, err := os.ReadFile(w.LogPath(local.KVNodeOf(node)))
		if err != nil || !strings.Contains(string(content), `msg="image loaded"`) {
			t.Errorf("%s did not load an image, error %v", node, err)
		}
		c := mustDial(t, w.addr(node))
		if got := c.must(t, "LLEN", "list"); got.Int != int64(written) {
			t.Errorf("%s has %d of %d", node, got.Int, written)
		}
		c.must(t, "SET", "written-at", node)
		w.sameEverywhere(t)
	}
	grow()
	trimmed("n1", "n2", "n3")
	if _, err := w.AddNode("n4", binaries); err != nil {
		t.Fatal(err)
	}
	eventually(t, "n4 is registered", func() error {
		_, err := w.startLSN("n4")
		return err
	})
	filled("n4")

	w.kill(t, local.KVNodeOf("n2"), local.ReplicatorOf("n2"))
	if _, err := w.WipeNode("n2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(w.LogPath(local.KVNodeOf("n2"))); err != nil {
		t.Fatal(err)
	}
	grow()
	w.startAgain(t, local.ReplicatorOf("n2"), local.KVNodeOf("n2"))
	filled("n2")
}

// A group is recovered by force without writes that only the lost replicas held. The KV node of one of them has executed these writes and goes on running
// while its replicator begins anew with an empty directory. What could go wrong: it takes the log of the other history for the
// continuation of its own, and serves what no other node has, for ever. It has to end and say what to do; wiped, it is like the
// others.
func TestKVNodeOfAnotherHistoryIsRefused(t *testing.T) {
	t.Parallel()
	w := start(t, local.Options{Confmasters: 1}, map[local.Kind][]string{local.KindKVNode: {"--write-timeout", "60s", "--refuse-after", "60s"}})
	mustDial(t, w.addr("n3")).must(t, "SET", "key", "kept")
	w.kill(t, local.KVNodeOf("n3"), local.ReplicatorOf("n3"))
	eventually(t, "a write without n3", func() error {
		_, err := once(w.addr("n1"), "SET", "key", "lost")
		return err
	})
	for range 50 {
		mustDial(t, w.addr("n1")).must(t, "INCR", "lost")
	}
	w.kill(t, local.ReplicatorOf("n1"), local.ReplicatorOf("n2"), local.KVNodeOf("n2"))
	for _, node := range []string{"n1", "n2"} {
		if err := os.RemoveAll(w.ReplicaDir(node)); err != nil {
			t.Fatal(err)
		}
	}
	w.startAgain(t, local.ReplicatorOf("n3"), local.KVNodeOf("n3"))
	eventually(t, "the loss of the quorum is seen", func() error {
		group, err := w.group()
		if err == nil && group.GetState() != "unavailable" {
			err = fmt.Errorf("%s: %s", group.GetState(), group.GetDetail())
		}
		return err
	})
	eventually(t, "the lost replicas have been silent for long enough", func() error {
		_, stderr, code := smrctl(t, w.Dir, "group", "recover", "g1", "--dry-run", "--dir", w.Dir)
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, stderr)
		}
		return nil
	})
	ended := w.Ended(local.KVNodeOf("n1"))
	w.operate(t, "group", "recover", "g1", "--force", "--accept-loss", "--confirm", "g1")
	eventually(t, "n3 serves what is left", func() error {
		value, err := once(w.addr("n3"), "GET", "key")
		if err == nil && value.Text != "kept" {
			t.Fatalf("n3 has %q", value.Text)
		}
		return err
	})
	if w.Pid(local.KVNodeOf("n1")) == 0 {
		t.Fatal("the KV node of n1 ended without a replicator")
	}
	w.startAgain(t, local.ReplicatorOf("n1"))
	eventually(t, "the KV node of n1 ends", func() error {
		if value, err := once(w.addr("n1"), "GET", "key"); err == nil && value.Text != "kept" {
			t.Fatalf("n1 answers %q, which its group does not have", value.Text)
		}
		select {
		case <-ended:
			return nil
		default:
			return fmt.Errorf("it runs:\n%s", w.Tail(local.KVNodeOf("n1"), 3))
		}
	})
	if tail := w.Tail(local.KVNodeOf("n1"), 3); !strings.Contains(tail, "smrctl node wipe n1") {
		t.Errorf("it ended without saying what to do:\n%s", tail)
	}
	w.operate(t, "node", "stop", "n1")
	for _, node := range []string{"n2", "n1"} { // the replicator of n1 may be a member again: another one has to be there first
		w.operate(t, "node", "wipe", node)
		w.operate(t, "node", "start", node)
		eventually(t, node+" is a member", func() error {
			group, err := w.group()
			for _, r := range group.GetReplicas() {
				if r.GetNode() == node && r.GetMember() && r.GetUp() && group.GetEpoch() == group.GetEstablished() {
					return err
				}
			}
			return fmt.Errorf("%s: %s, error %v", group.GetState(), group.GetDetail(), err)
		})
	}
	w.healthy(t)
	for _, node := range []string{"n1", "n2", "n3"} {
		c := mustDial(t, w.addr(node))
		if key, lost := c.must(t, "GET", "key"), c.must(t, "EXISTS", "lost"); key.Text != "kept" || lost.Int != 0 {
			t.Errorf("%s has key %q and %d keys that were lost", node, key.Text, lost.Int)
		}
	}
	w.sameEverywhere(t)
}

// imageWriter returns the process that writes an image for a KV node, 0 if none does.
func imageWriter(kvnode int) int {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", kvnode)) // the pattern is one
	for _, name := range names {
		children, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(children)) {
			if comm, err := os.ReadFile("/proc/" + child + "/comm"); err == nil && strings.TrimSpace(string(comm)) == "kvnode-image" {
				if id, err := strconv.Atoi(child); err == nil {
					return id
				}
			}
		}
	}
	return 0
}

// The process that writes an image is killed, as the kernel would where memory runs out, or stopped while its KV node is killed. What could go wrong: half an image is
// taken for one, files are left, the node waits for the process for ever, or the process goes on without it.
func TestImageWriterIsKilled(t *testing.T) {
	t.Parallel()
	w := start(t, local.Options{Confmasters: 1}, nil)
	c := mustDial(t, w.addr("n1"))
	for i := range 200 {
		args := []string{"MSET"}
		for j := range 200 {
			args = append(args, fmt.Sprintf("key:%d", i*200+j), strings.Repeat(strconv.Itoa(i*j), 40))
		}
		c.must(t, args...)
	}
	images := filepath.Join(w.KVDir("n1"), "images")
	writer := func() (id int) {
		eventually(t, "a process writes an image", func() error {
			if id = imageWriter(w.Pid(local.KVNodeOf("n1"))); id == 0 {
				return errors.New("there is none")
			}
			return nil
		})
		return id
	}
	save := func() <-chan string {
		said := make(chan string, 1)
		go func() {
			value, err := once(w.addr("n1"), "SAVE")
			said <- fmt.Sprint(value.Text, err)
		}()
		return said
	}
	killed := false
	for try := range 50 {
		c.must(t, "SET", "try", strconv.Itoa(try))
		said := save()
		if err := syscall.Kill(writer(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if answer := <-said; strings.Contains(answer, "killed") {
			killed = true
			break
		}
	}
	if !killed {
		t.Error("no image failed, though its process was killed")
	}
	if found, err := filepath.Glob(filepath.Join(w.KVDir("n1"), "live*")); err != nil || len(found) > 0 {
		t.Errorf("left behind are %q, %v", found, err)
	}
	c.must(t, "SET", "try", "again")
	if answer := <-save(); !strings.Contains(answer, "OK") {
		t.Errorf("the next image: %s", answer)
	}
	// It is stopped, so that it would do its work afterwards.
	c.must(t, "SET", "last", "1")
	save()
	id := writer()
	if err := syscall.Kill(id, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(images)
	if err != nil {
		t.Fatal(err)
	}
	w.kill(t, local.KVNodeOf("n1"))
	eventually(t, "the process ends with its KV node", func() error {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
		if err == nil && !strings.Contains(string(state), ") Z ") {
			return fmt.Errorf("it goes on: %s", state)
		}
		return nil
	})
	w.startAgain(t, local.KVNodeOf("n1"))
	w.healthy(t)
	if after, err := os.ReadDir(images); err != nil || len(after) < 1 || len(before) < 1 {
		t.Errorf("images: %v before, %v after, %v", before, after, err)
	}
	w.sameEverywhere(t)
}

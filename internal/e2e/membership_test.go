package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/internal/local"
)

// counter increments one key on a node for ever; every acknowledged value must be one more than the last.
type counter struct {
	stop  chan struct{}
	tasks sync.WaitGroup
	last  int64
	err   error
}

func count(addr, key string) *counter {
	c := &counter{stop: make(chan struct{})}
	c.tasks.Go(func() {
		conn, err := dial(addr)
		if err != nil {
			c.err = err
			return
		}
		defer conn.Close()
		for {
			select {
			case <-c.stop:
				return
			default:
			}
			value, err := conn.do("INCR", key)
			if err != nil || value.Int != c.last+1 {
				c.err = fmt.Errorf("INCR after %d gave %d: %w", c.last, value.Int, err)
				return
			}
			c.last++
		}
	})
	return c
}

func (c *counter) end(t *testing.T) int64 {
	t.Helper()
	close(c.stop)
	c.tasks.Wait()
	if c.err != nil {
		t.Error(c.err)
	}
	return c.last
}

// operate runs smrctl on the cluster's directory; it must succeed.
func (w *world) operate(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := smrctl(t, w.Dir, append(args, "--dir", w.Dir)...)
	if code != 0 {
		t.Fatalf("smrctl %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// refused runs smrctl; it must fail and say why.
func (w *world) refused(t *testing.T, says string, args ...string) {
	t.Helper()
	stdout, stderr, code := smrctl(t, w.Dir, append(args, "--dir", w.Dir)...)
	if code != 1 || !strings.Contains(stderr, says) {
		t.Errorf("smrctl %s: exit code %d, want 1 with %q\n%s%s", strings.Join(args, " "), code, says, stdout, stderr)
	}
}

// reload reads what other smrctls have made of the cluster.
func (w *world) reload(t *testing.T) {
	t.Helper()
	cluster, err := local.Open(w.Dir)
	if err != nil {
		t.Fatal(err)
	}
	w.Plan = cluster.Plan
}

// A machine is replaced while a client writes: the new node joins by itself, the master is replaced by it, its processes are
// removed. Then all but one replica are lost, the group is recovered by force, and the lost ones come back: with their old
// logs they are left out, wiped they are members again. What could go wrong: an error or a wrong count at the client, a
// change that is not carried out or not refused, a write lost that the replica that was left had, an outcast that is
// counted.
func TestMachineIsReplacedAndQuorumRecovered(t *testing.T) {
	t.Parallel()
	w := start(t, local.Options{Confmasters: 1}, map[local.Kind][]string{local.KindKVNode: {"--write-timeout", "60s", "--refuse-after", "60s"}})
	old, _ := w.master(t)
	others := w.others(old)
	writer := count(w.addr(others[0]), "writes")

	w.operate(t, "node", "add", "n4")
	w.reload(t)
	w.refused(t, "the master: hand over first", "replica", "replace", "g1", old, "n4", "--yes")
	w.refused(t, "add replicas first", "group", "set", "g1", "--copies", "5", "--yes")
	w.refused(t, "first `smrctl replica remove", "node", "remove", old)
	if plan := w.operate(t, "replica", "replace", "g1", old, "n4", "--switchover", "--dry-run"); !strings.Contains(plan, "hand mastership over") {
		t.Errorf("the plan of a replacement is\n%s", plan)
	}
	w.operate(t, "replica", "replace", "g1", old, "n4", "--switchover", "--yes")
	w.operate(t, "node", "remove", old)
	w.reload(t)
	w.healthy(t)
	written := writer.end(t)
	if written == 0 {
		t.Error("nothing was written meanwhile")
	}

	w.operate(t, "node", "kill", others[0])
	w.operate(t, "node", "kill", others[1])
	eventually(t, "the loss of the quorum is seen", func() error {
		group, err := w.group()
		if err == nil && group.GetState() != "unavailable" {
			err = fmt.Errorf("%s: %s", group.GetState(), group.GetDetail())
		}
		return err
	})
	w.refused(t, "nobody answered", "group", "recover", "g1", "--force", "--accept-loss")
	w.refused(t, "is not the name of the group", "group", "recover", "g1", "--force", "--accept-loss", "--confirm", "g2")
	w.operate(t, "group", "recover", "g1", "--force", "--accept-loss", "--confirm", "g1")
	written = w.counts(t, "n4", written)

	w.operate(t, "node", "start", others[0])
	eventually(t, others[0]+" is left out", func() error {
		group, err := w.group()
		if err == nil && !strings.Contains(group.GetDetail(), others[0]+" was left out by the forced recovery") {
			err = fmt.Errorf("%s: %s", group.GetState(), group.GetDetail())
		}
		return err
	})
	w.operate(t, "node", "stop", others[0])
	for _, node := range others {
		w.operate(t, "node", "wipe", node)
		w.operate(t, "node", "start", node)
	}
	w.healthy(t)
	w.counts(t, others[1], written)
	w.showsRecovery(t, others)
}

// counts increments the key on a node, which must give the value after the last one, and returns it. A try of which
// nobody knows whether it was executed may have counted as well.
func (w *world) counts(t *testing.T, node string, last int64) (now int64) {
	t.Helper()
	tries := int64(1)
	eventually(t, node+" counts on", func() error {
		value, err := once(w.addr(node), "INCR", "writes")
		if is(err, "UNCERTAIN") {
			tries++
		}
		if err == nil && (value.Int <= last || value.Int > last+tries) {
			t.Fatalf("%s counts %d after %d", node, value.Int, last)
		}
		now = value.Int
		return err
	})
	return now
}

// showsRecovery looks for the permanent mark of a forced recovery.
func (w *world) showsRecovery(t *testing.T, lost []string) {
	t.Helper()
	var status struct {
		Groups []struct {
			State      string `json:"state"`
			Recoveries []struct {
				Lost []string `json:"lost"`
				From uint64   `json:"from_lsn"`
			} `json:"recoveries"`
		} `json:"groups"`
	}
	if err := json.Unmarshal([]byte(w.operate(t, "status", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	if r := status.Groups[0].Recoveries; len(r) != 1 || len(r[0].Lost) != len(lost) || r[0].From == 0 {
		t.Errorf("the status shows recoveries %+v", r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	entries, err := w.admin.WorkLog(ctx, "g1", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.GetKind() == "recovered" && time.UnixMilli(entry.GetTimeMs()).Before(time.Now()) {
			return
		}
	}
	t.Error("the work log has no entry of the forced recovery")
}

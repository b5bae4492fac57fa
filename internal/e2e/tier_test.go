package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"lockstep/internal/local"
)

// memoryField returns a field of INFO memory.
func memoryField(addr, name string) (int64, error) {
	value, err := once(addr, "INFO", "memory")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(value.Text) {
		if text, found := strings.CutPrefix(strings.TrimSpace(line), name+":"); found {
			return strconv.ParseInt(text, 10, 64)
		}
	}
	return 0, fmt.Errorf("INFO memory has no %s", name)
}

// What could go wrong: with more data than may be in memory a node that is killed comes back with less, or with something else; or it takes all
// into memory at its start. Four times the bound is written; nodes are killed under load, and everything is read on each.
func TestMoreDataThanMemorySurvivesKills(t *testing.T) {
	const keys, each, size = 6400, 40, 10_000
	w := start(t, local.Options{Replicas: 2, Confmasters: 1, Copies: 1}, map[local.Kind][]string{local.KindKVNode: {"--tier-memory", "16MiB"}})
	w.healthy(t)
	text := func(i int) string { return strconv.Itoa(i) + strings.Repeat(string(rune('a'+i%26)), size) }
	master, _ := w.master(t)
	c := mustDial(t, w.addr(master))
	for i := 0; i < keys; i += each {
		args := []string{"MSET"}
		for j := i; j < i+each; j++ {
			args = append(args, "key"+strconv.Itoa(j), text(j))
		}
		c.must(t, args...)
	}
	holds := func(node string) {
		eventually(t, "most values of "+node+" are cold", func() error {
			resident, err := memoryField(w.addr(node), "tiering_resident_bytes")
			if err != nil {
				return err
			}
			cold, err := memoryField(w.addr(node), "tiering_cold_keys")
			if err == nil && (resident > 16<<20/100*110 || cold < keys/2) {
				err = fmt.Errorf("%d bytes are in memory, %d keys are cold", resident, cold)
			}
			return err
		})
	}
	for _, r := range w.Plan.Replicas {
		holds(r.Node)
		other := w.others(r.Node)
		l := w.startLoad(t, loadOptions{victims: []string{r.Node}, mayRefuse: true})
		w.kill(t, local.KVNodeOf(r.Node))
		l.progress(t, other...)
		w.startAgain(t, local.KVNodeOf(r.Node))
		w.healthy(t)
		l.finish(t)
		holds(r.Node)
		back := mustDial(t, w.addr(r.Node))
		for i := 0; i < keys; i += 13 {
			if got := back.must(t, "GET", "key"+strconv.Itoa(i)).Text; got != text(i) {
				t.Fatalf("key%d on %s: %.20q with %d bytes", i, r.Node, got, len(got))
			}
		}
	}
	w.sameEverywhere(t)
	for _, r := range w.Plan.Replicas {
		readsBack, err := memoryField(w.addr(r.Node), "tiering_reads_back")
		if readsBack == 0 {
			err = errors.Join(err, errors.New("nothing was read back"))
		}
		if err != nil {
			t.Errorf("%s: %v", r.Node, err)
		}
	}
}

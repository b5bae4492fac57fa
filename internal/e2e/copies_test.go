package e2e

import (
	"fmt"
	"slices"
	"testing"

	"lockstep/internal/local"
)

// quick makes KV nodes give up soon, so that the tests need not wait for the times that suit people.
var quick = map[local.Kind][]string{
	local.KindKVNode: {"--write-timeout", "1500ms", "--refuse-after", "1s"},
}

// What could go wrong: with too few copies a write is acknowledged all the same, or is refused although it was sent and
// commits later, or the refusals never end. Two replicas of three are killed; the third one, master or slave, must answer
// a write in flight with UNCERTAIN, later ones with NOREPLICAS, and everything works again when they are back.
func TestTooFewCopies(t *testing.T) {
	w := start(t, local.Options{}, quick)
	for _, survivorLeads := range []bool{true, false} {
		t.Run(fmt.Sprintf("survivor leads: %v", survivorLeads), func(t *testing.T) { w.starve(t, survivorLeads) })
	}
}

func (w *world) starve(t *testing.T, survivorLeads bool) {
	w.healthy(t)
	survivor, _ := w.master(t)
	if !survivorLeads {
		survivor = w.others(survivor)[0]
	}
	list := fmt.Sprintf("starve%d", loads.Add(1))
	var wanted, refused []int64 // acknowledged; certainly not executed
	uncertain := make(map[int64]bool)
	c := mustDial(t, w.addr(survivor))
	next := int64(0)
	push := func() error {
		next++
		_, err := c.do("RPUSH", list, fmt.Sprint(next))
		switch {
		case err == nil:
			wanted = append(wanted, next)
		case is(err, "UNCERTAIN"):
			uncertain[next] = true
		case is(err, "NOREPLICAS"):
			refused = append(refused, next)
		default:
			t.Fatalf("push %d on the survivor %s: %v", next, survivor, err)
		}
		return err
	}
	if err := push(); err != nil {
		t.Fatal(err)
	}

	var processes []string
	for _, node := range w.others(survivor) {
		processes = append(processes, local.ReplicatorOf(node), local.KVNodeOf(node))
	}
	w.kill(t, processes...)
	// Sent at once: the group does not know yet that it cannot, so this one goes out, and its outcome is unknown.
	if err := push(); err == nil {
		t.Fatal("a write was acknowledged by one replica of three")
	}
	eventually(t, "new writes are refused", func() error {
		err := push()
		if err == nil {
			t.Fatal("a write was acknowledged by one replica of three")
		}
		if !is(err, "NOREPLICAS") {
			return err
		}
		return nil
	})
	if value, err := c.do("LRANGE", list, "0", "-1"); err == nil {
		t.Errorf("a read that cannot be linearizable was answered: %v", value)
	}
	c.must(t, "PING")
	group, err := w.group()
	if err != nil {
		t.Fatal(err)
	}
	if group.GetState() == "ok" {
		t.Errorf("the group is called ok with one replica of three")
	}

	w.startAgain(t, processes...)
	w.healthy(t)
	eventually(t, "writes are taken again", push)
	for _, r := range w.Plan.Replicas {
		got, err := numbers(r.KVAddr, list)
		if err != nil {
			t.Fatal(err)
		}
		known := slices.DeleteFunc(slices.Clone(got), func(n int64) bool { return uncertain[n] })
		if !slices.Equal(known, wanted) || len(got) > len(wanted)+len(uncertain) {
			t.Errorf("%s holds %v: acknowledged were %v, uncertain %v, refused %v", r.Node, got, wanted, uncertain, refused)
		}
	}
}

// What could go wrong: one replica lost of three is taken for too few copies.
func TestOneReplicaLostIsNoReasonToRefuse(t *testing.T) {
	w := start(t, local.Options{}, quick)
	master, _ := w.master(t)
	lost := w.others(master)[1]
	l := w.startLoad(t, loadOptions{victims: []string{lost}})
	w.kill(t, local.ReplicatorOf(lost), local.KVNodeOf(lost))
	for range 10 {
		l.progress(t, w.others(lost)...)
	}
	l.finishOn(t, w.others(lost)...)
}

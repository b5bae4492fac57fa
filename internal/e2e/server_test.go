package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"lockstep/internal/local"
)

// What an operator does with redis-cli alone: hand mastership over by FAILOVER, from any node, and end nodes by SHUTDOWN in all its forms. The
// group goes on, and nothing that was acknowledged is lost.
func TestFailoverAndShutdownByCommand(t *testing.T) {
	w := start(t, local.Options{Replicas: 3, Confmasters: 1}, nil)
	w.healthy(t)
	written := 0
	write := func() {
		t.Helper()
		for _, r := range w.Plan.Replicas {
			eventually(t, "a write by "+r.Node, func() error {
				_, err := once(r.KVAddr, "SADD", "written", fmt.Sprint(written))
				return err
			})
			written++
		}
	}
	failOver := func(asked string, words ...string) {
		t.Helper()
		eventually(t, "FAILOVER", func() error { // refused as long as the members have not caught up with the last one
			value, err := once(w.addr(asked), append([]string{"FAILOVER"}, words...)...)
			if err == nil && value.Text != "OK" {
				t.Fatalf("FAILOVER is answered %v", value)
			}
			return err
		})
	}
	old, _ := w.master(t)
	target, third := w.others(old)[0], w.others(old)[1]
	host, port, _ := net.SplitHostPort(w.addr(target))
	for words, problem := range map[string]string{
		"FAILOVER TO " + host + " 1":       "ERR FAILOVER target HOST and PORT is not a replica.",
		"FAILOVER TO " + host + " x":       "ERR value is not an integer or out of range",
		"FAILOVER TO " + host + " 1 FORCE": "ERR FAILOVER with force option requires both a timeout and target HOST and IP.",
		"FAILOVER FORCE":                   "ERR FAILOVER with force option requires both a timeout and target HOST and IP.",
		"FAILOVER TIMEOUT 0":               "ERR FAILOVER timeout must be greater than 0",
		"FAILOVER TIMEOUT x":               "ERR value is not an integer or out of range",
		"FAILOVER ABORT":                   "ERR No failover in progress.",
		"FAILOVER ABORT TIMEOUT 5":         "ERR syntax error",
		"SHUTDOWN ABORT":                   "ERR No shutdown in progress.",
		"SHUTDOWN SAVE NOSAVE":             "ERR syntax error",
		"SHUTDOWN ABORT NOW":               "ERR syntax error",
		"SHUTDOWN LATER":                   "ERR syntax error",
		"REPLICAOF " + host + " " + port:   "ERR replicas of a group are not made with REPLICAOF",
	} {
		if _, err := once(w.addr(third), strings.Fields(words)...); err == nil || !strings.HasPrefix(err.Error(), problem) {
			t.Errorf("%s: %v", words, err)
		}
	}
	write()
	failOver(third, "TO", host, port, "TIMEOUT", "60000")
	if name, _ := w.master(t); name != target {
		t.Errorf("%s is the master, not %s", name, target)
	}
	write()
	failOver(target, "TIMEOUT", "60000")
	if now := w.masterIsNot(t, target); now == "" {
		t.Error("no master")
	}
	write()
	for i, words := range [][]string{{"SHUTDOWN"}, {"SHUTDOWN", "NOSAVE", "NOW"}, {"shutdown", "save", "force"}} {
		node := w.Plan.Replicas[i].Node
		if value, err := once(w.addr(node), words...); err == nil {
			t.Errorf("%v is answered %v", words, value)
		} else if strings.HasPrefix(err.Error(), "ERR") {
			t.Errorf("%v: %v", words, err)
		}
		<-w.Ended(local.KVNodeOf(node))
		for _, other := range w.others(node) {
			eventually(t, "the group goes on", func() error {
				_, err := once(w.addr(other), "SCARD", "written")
				return err
			})
		}
		w.startAgain(t, local.KVNodeOf(node))
		w.healthy(t)
		write()
	}
	for _, r := range w.Plan.Replicas {
		if value := mustDial(t, r.KVAddr).must(t, "SCARD", "written"); value.Int != int64(written) {
			t.Errorf("%s holds %v writes of %d", r.Node, value, written)
		}
	}
}

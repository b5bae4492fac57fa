package client

import (
	"errors"
	"strings"
	"testing"

	"lockstep/smr"
)

// What could go wrong: a node that cannot the cluster's feature level knocks for ever at a replicator that refuses it, at its start or
// when the level is raised while it is attached; or it does not say what it can.
func TestTooLowALevelEndsTheNode(t *testing.T) {
	refusal := &smr.Reject{Code: smr.RejectLevel, Reason: "the cluster's feature level is 3, and you support 2 at most"}
	g := newGroup(t)
	g.serveLocal()
	g.lead("n2", 1)
	config := testConfig(g)
	config.Level = 2
	r := start(t, config)
	until(t, "it is attached", func() bool { return r.Stats().Attached })
	g.mu.Lock()
	told := g.hello.Level
	g.refusal = refusal
	g.mu.Unlock()
	if told != 2 {
		t.Errorf("it says that it can level %d", told)
	}
	g.update(func(*smr.Status) {})
	if err := r.end(t); !errors.Is(err, ErrLevel) || !strings.Contains(err.Error(), refusal.Reason) {
		t.Errorf("raised while attached: Run ended with %v", err)
	}

	g = newGroup(t)
	g.mu.Lock()
	g.refusedHello = refusal
	g.mu.Unlock()
	g.serveLocal()
	r = start(t, testConfig(g))
	if err := r.end(t); !errors.Is(err, ErrLevel) || !strings.Contains(err.Error(), refusal.Reason) {
		t.Errorf("raised before: Run ended with %v", err)
	}
}

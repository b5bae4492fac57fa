package ctl

import (
	"context"
	"testing"

	"lockstep/internal/admin"
)

// What could go wrong: nodes are past the first point, and the second one is so far ahead that a group in which nobody writes comes to
// it after they have given up (15 s, at 48 bytes a second; found by drills).
func TestDigestOfAnIdleGroupStaysNear(t *testing.T) {
	fake := startFake(t)
	client, err := admin.New([]string{fake.addr}, admin.Login{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	group, err := client.Group(context.Background(), "g1")
	if err != nil {
		t.Fatal(err)
	}
	fake.nodes["n2"].past = true
	if _, err := digestsOf(context.Background(), "g1", membersOf(group, client.Login)); err != nil {
		t.Fatal(err)
	}
	asked, applied := fake.nodes["n2"].asked, fake.nodes["n2"].digest.GetLsn()
	if last := asked[len(asked)-1]; len(asked) != 2 || last <= applied || last > applied+10*48 {
		t.Errorf("executed up to %d, asked for digests at %v", applied, asked)
	}
}

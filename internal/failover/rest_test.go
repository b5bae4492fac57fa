package failover

import "testing"

// What could go wrong: Rest promises nothing worth having, because something that a group in good order never loses keeps it at 1; or it promises
// it while something is under way. That a tick of a rest does nothing is checked with every tick of every world.
func TestGroupInGoodOrderRests(t *testing.T) {
	w := newWorld(options{nodes: 3, confmasters: 3, policy: Policy{Copies: 2, MinCopies: 2}, calm: true})
	w.lead(0)
	w.create(3)
	w.run(400)
	if why := w.healthy(); why != "" || w.failed != "" {
		t.Fatalf("the group does not become whole: %s %s", why, w.failed)
	}
	before := w.rests
	w.run(300)
	if rests := w.rests - before; w.failed != "" || rests < 300*3/2 {
		t.Fatalf("%d of 900 ticks belonged to rests; %s", rests, w.failed)
	}
	leader := w.cms[w.leader].driver
	if !leader.Leading() || leader.Suspects() {
		t.Fatalf("leading %v, suspects %v", leader.Leading(), leader.Suspects())
	}
	w.step(w.cms[w.leader], &Unreachable{Group: "g1", Node: w.group().Reign.Master, Saw: "connection refused"})
	if rest := leader.Rest(); rest != 1 || !leader.Suspects() {
		t.Fatalf("the leader rests for %d ticks while it suspects the master", rest)
	}
}

package replica

import "testing"

// What could go wrong: Rest promises too much, the shell sleeps over a heartbeat, and a slave gives its master up, or a fence is answered late.
// Each tick of random worlds that lies within a rest must leave nothing to do; and there must be such ticks, or the promise is worth nothing.
func TestTicksOfARestDoNothing(t *testing.T) {
	rests, masters := 0, 0
	for seed := uint64(1); seed <= 60; seed++ {
		w := newWorld(seed, 3, 2)
		for range 400 {
			w.act(1, 20)
			for _, n := range w.nodes {
				if n.r == nil {
					continue
				}
				c := n.r.Clone()
				for rest := c.Rest(); rest > 1; rest-- {
					if next := c.Rest(); next < rest {
						t.Fatalf("seed %d: %s was to rest for %d ticks more, and then for %d", seed, n.id, rest, next)
					}
					out := Effects{}
					c.Step(&Tick{Stamp: int64(w.next)}, &out)
					if len(out.Disk)+len(out.Send)+len(out.Hangup)+len(out.Replies)+len(out.Reads)+len(out.Events) > 0 || out.Dial != nil {
						t.Fatalf("seed %d: %s was to rest for %d ticks more, and notes %+v", seed, n.id, rest, out)
					}
					rests++
					if c.mode == modeMaster {
						masters++
					}
				}
			}
		}
		if w.fault != "" {
			t.Fatal(w.fault)
		}
	}
	if rests < 1000 || masters < 100 {
		t.Fatalf("only %d ticks of rests, %d at masters", rests, masters)
	}
}

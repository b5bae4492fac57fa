package bench

import (
	"math"
	"testing"
	"time"
)

// What could go wrong: a kind of process is left out of the sum, or the time that was measured is not the one that passed.
func TestIdleSharesAreSummedUp(t *testing.T) {
	out := idleOutcome(map[string]time.Duration{"kvnode": 300 * time.Millisecond, "confmaster": 600 * time.Millisecond, "replicator": 0}, time.Minute)
	if math.Abs(out.Value-1.5) > 1e-9 || len(out.Notes) != 1 || out.Notes[0] != "in %, all of a kind: confmaster 1.00, kvnode 0.50, replicator 0.00" {
		t.Errorf("%v %q", out.Value, out.Notes)
	}
}

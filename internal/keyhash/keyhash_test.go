package keyhash

import (
	"fmt"
	"testing"
)

// A text must have one hash however it is handed in, and neighbours must differ in the bits that tables look at.
func TestHashesOfTexts(t *testing.T) {
	high, low := make(map[uint64]bool), make(map[uint64]bool)
	for i := range 10_000 {
		s := fmt.Sprintf("key:%d", i)
		h := String(s)
		if h != Bytes([]byte(s)) {
			t.Fatalf("%q has two hashes", s)
		}
		high[h>>32], low[h&(1<<32-1)] = true, true
	}
	if len(high) < 9_900 || len(low) < 9_900 { // one in a hundred thousand pairs of halves meets by chance
		t.Errorf("10000 keys have %d upper and %d lower halves", len(high), len(low))
	}
	if String("") != Bytes(nil) {
		t.Error("the empty text has two hashes")
	}
	if n := testing.AllocsPerRun(10, func() { String("key") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

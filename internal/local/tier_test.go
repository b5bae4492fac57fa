package local

import (
	"slices"
	"strings"
	"testing"
)

// What could go wrong: the memory that was asked for does not reach the KV nodes, is forgotten when the cluster is resumed, or nonsense is taken.
func TestTierMemoryIsKept(t *testing.T) {
	dir := t.TempDir()
	given := func(c *Cluster) string {
		for _, p := range c.Processes() {
			if p.Kind != KindKVNode {
				continue
			}
			args := c.arguments(p)
			if at := slices.Index(args, "--tier-memory"); at >= 0 {
				return args[at+1]
			}
		}
		return ""
	}
	c, err := Prepare(dir, Options{TierMemory: 64 << 20})
	if err != nil || given(c) != "67108864" {
		t.Fatalf("%q, %v", given(c), err)
	}
	if err := savePlan(dir, c.Plan); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		asked int64
		want  string
	}{{0, "67108864"}, {128 << 20, "134217728"}} {
		if c, err = Prepare(dir, Options{TierMemory: test.asked}); err != nil || given(c) != test.want {
			t.Errorf("resumed with %d: %q, %v", test.asked, given(c), err)
		}
	}
	if _, err := Prepare(t.TempDir(), Options{TierMemory: 1 << 20}); err == nil || !strings.Contains(err.Error(), "tier-memory") {
		t.Errorf("1 MiB: %v", err)
	}
	if c, err = Prepare(t.TempDir(), Options{}); err != nil || given(c) != "" {
		t.Errorf("nothing asked for: %q, %v", given(c), err)
	}
}

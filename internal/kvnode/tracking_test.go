package kvnode

import (
	"testing"

	"lockstep/internal/view"
)

// A key that changed is told of at the end of the frame. The machine may have something else in its memory by then.
func TestTrackingCopiesKeys(t *testing.T) {
	t.Parallel()
	n := new(Node)
	n.shell.tracker.active.Store(1)
	memory := []byte("a key")
	key := view.BoxBytes(memory, 0)
	n.Changed(0, key.Text())
	copy(memory, "other")
	if got := n.shell.tracker.pending; len(got) != 1 || got[0].key != "a key" {
		t.Errorf("at the end of the frame %v is told of", got)
	}
}

package checkpoint

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// What could go wrong: work on an image takes a processor for itself, or rests for ever where the clock jumps.
func TestWorkOnImagesRestsAsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		rested := func(worked time.Duration) time.Duration {
			time.Sleep(worked)
			begun := time.Now()
			p.rest(t.Context())
			return time.Since(begun)
		}
		rested(0) // work begins
		for _, step := range []struct{ worked, rest time.Duration }{
			{paceWork - 1, 0}, {1, paceWork}, {3 * time.Millisecond, 3 * time.Millisecond}, {time.Hour, paceRest}, {paceWork, paceWork},
		} {
			if got := rested(step.worked); got != step.rest {
				t.Errorf("after %v of work there is a rest of %v, not %v", step.worked, got, step.rest)
			}
		}
		if p.hurried = true; rested(time.Hour) != 0 {
			t.Error("there are rests though nobody waits")
		}
		p.hurried = false
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(time.Second)
		begun := time.Now()
		if p.rest(ctx); time.Since(begun) != 0 {
			t.Error("an image that is given up rests")
		}
	})
}

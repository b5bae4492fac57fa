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
		if p.waiting = func() bool { return true }; rested(time.Hour) != 0 {
			t.Error("there are rests though somebody waits")
		}
		p.waiting = func() bool { return false }
		if p.resume(); rested(paceWork) != paceWork {
			t.Error("there are no rests though nobody waits any more")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(time.Second)
		begun := time.Now()
		if p.rest(ctx); time.Since(begun) != 0 {
			t.Error("an image that is given up rests")
		}
	})
}

// What could go wrong: an image takes what others need, never ends on a busy machine, or is written slowly though nobody works beside.
func TestImagesTakeWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle, known, worked := 0.0, false, time.Duration(0)
		courtesy := Courtesy{Idle: func() (float64, bool) { return idle, known }, Worked: func() time.Duration { return worked }}.begin()
		p := pace{courtesy: courtesy}
		rested := func(wall, work time.Duration) time.Duration {
			time.Sleep(wall)
			worked += work
			begun := time.Now()
			p.rest(t.Context())
			return time.Since(begun)
		}
		rested(0, 0) // work begins
		const ms = time.Millisecond
		for i, step := range []struct {
			idle             float64
			known            bool
			wall, work, rest time.Duration
		}{
			{0, false, ms, ms, ms},
			{2, true, ms, ms, ms},
			{0.5, true, ms, ms, 7 * ms},
			{0, true, ms, ms, 19 * ms},
			{0, true, paceWork, paceWork - 1, 0}, // others worked
			{0, true, 0, 1, 19 * paceWork},
			{0, true, time.Second, ms, 19 * ms},
			{0.5, true, time.Second, time.Second, 7 * paceRest},
		} {
			idle, known = step.idle, step.known
			if got := rested(step.wall, step.work); got != step.rest {
				t.Errorf("%d: %v", i, got)
			}
		}
		idle = 0
		time.Sleep(2*paceSoon - time.Since(courtesy.begun))
		if got := rested(ms, ms); got.Round(ms/10) != 9*ms {
			t.Errorf("after a minute: %v", got)
		}
		time.Sleep(time.Hour)
		if got := rested(ms, ms); got != ms {
			t.Errorf("after an hour: %v", got)
		}
		if p.hurried = true; rested(time.Hour, time.Hour) != 0 {
			t.Error("there are rests though nobody may wait")
		}
	})
}

package pause

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// What could go wrong: a pause goes on when its context has ended, or is cut short while it lives; either is seen in the time that passed.
func TestPauseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		for _, step := range []struct {
			length time.Duration
			lives  bool
			passed time.Duration
		}{
			{0, true, 0}, {-time.Second, true, 0}, {2 * time.Second, true, 2 * time.Second}, {2 * time.Second, false, 3 * time.Second}, {0, false, 3 * time.Second},
		} {
			if lives := For(ctx, step.length); lives != step.lives || time.Since(began) != step.passed {
				t.Errorf("%v: lives %v after %v, want %v after %v", step.length, lives, time.Since(began), step.lives, step.passed)
			}
		}
	})
}

// What could go wrong: the last word of an attempt is lost, or one that went well is tried again.
func TestUntilTellsWhatWasMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		missing := errors.New("not yet")
		if err := Until(t.Context(), time.Second, func() error {
			if tries++; tries < 3 {
				return missing
			}
			return nil
		}); err != nil || tries != 3 {
			t.Errorf("%v after %d tries", err, tries)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		tries = 0
		if err := Until(ctx, time.Minute, func() error { tries++; return missing }); !errors.Is(err, missing) || tries != 2 {
			t.Errorf("%v after %d tries", err, tries)
		}
	})
}

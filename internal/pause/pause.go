// Package pause waits, for as long as a context lives. It knows nothing else.
package pause

import (
	"context"
	"time"
)

// For waits for d and reports whether ctx lives on.
func For(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Until tries again, each time after a pause, until attempt returns nil; when ctx ends before, the last error says what was missing.
func Until(ctx context.Context, every time.Duration, attempt func() error) error {
	for {
		err := attempt()
		if err == nil || !For(ctx, every) {
			return err
		}
	}
}

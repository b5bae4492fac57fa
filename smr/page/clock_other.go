//go:build !linux

package page

import (
	"errors"
	"os"
	"time"
)

// Clocks is what the clocks of this machine show at one moment. Here no clock is known to go on while the machine is suspended: so
// there are no leases, and reads ask the members.
type Clocks struct{ Boot, Monotonic, Gap int64 }

// Now reads the clocks.
func Now() Clocks { return Clocks{} }

// Boot returns 0: there is no such clock.
func Boot() int64 { return 0 }

func monotonicBase() (start time.Time, base int64) { return time.Time{}, 0 }

func mapFile(*os.File, bool) (memory []byte, unmap func() error, err error) {
	return nil, nil, errors.ErrUnsupported
}

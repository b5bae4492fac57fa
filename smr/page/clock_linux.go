package page

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Clocks is what the clocks of this machine show at one moment.
type Clocks struct {
	Boot      int64 // CLOCK_BOOTTIME in microseconds: goes on while the machine is suspended; 0 if there is none
	Monotonic int64 // CLOCK_MONOTONIC in nanoseconds, not after Boot was read
	Gap       int64 // CLOCK_REALTIME - CLOCK_MONOTONIC in nanoseconds
}

// Now reads the clocks.
func Now() Clocks {
	start, base := monotonicBase()
	boot := Boot()
	if base == 0 || boot == 0 {
		return Clocks{}
	}
	return Clocks{Boot: boot, Monotonic: base, Gap: start.UnixNano() - base}
}

// Boot reads CLOCK_BOOTTIME in microseconds; 0 if there is none.
func Boot() int64 {
	var at unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &at) != nil {
		return 0
	}
	return at.Nano() / int64(time.Microsecond)
}

// monotonicBase returns a time and what CLOCK_MONOTONIC showed then, or a little later: the best of some tries, because the process
// may be interrupted between the two. 0 if there is no such clock.
func monotonicBase() (start time.Time, base int64) {
	best := time.Duration(-1)
	for range 4 {
		before := time.Now()
		var at unix.Timespec
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &at) != nil {
			return time.Time{}, 0
		}
		if took := time.Since(before); best < 0 || took < best {
			best, start, base = took, before, at.Nano()
		}
		if best < time.Microsecond {
			break
		}
	}
	return start, base
}

func mapFile(file *os.File, write bool) (memory []byte, unmap func() error, err error) {
	protection := unix.PROT_READ
	if write {
		protection |= unix.PROT_WRITE
	}
	memory, err = unix.Mmap(int(file.Fd()), 0, Size, protection, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, &os.PathError{Op: "mmap", Path: file.Name(), Err: err}
	}
	return memory, func() error { return unix.Munmap(memory) }, nil
}

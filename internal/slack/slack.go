// Package slack lets the kernel wake a process up to a millisecond late from a sleep (timer slack, prctl(2)).
//
// Go's monitor thread sleeps for 20 µs at a time while goroutines run or system calls block. With the kernel's default of 50 µs it wakes up to
// 15,000 times a second in each process, and on a virtual machine each time costs an exit to the hypervisor: with the nine processes of a group
// of three on one machine that was a third of all processor time of a load of SETs, and most of its p99 (docs/performance-notes.md). Nothing here
// needs a timer that is better than a millisecond.
package slack

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Time is how late a sleep may end.
	Time = time.Millisecond
	// done in the environment: this process was executed again already.
	done = "LOCKSTEP_TIMER_SLACK"
)

// Take gives the process that slack. The monitor thread runs before any code of ours, and a thread's slack is its own affair but that it is
// inherited, by threads and through execve: so the program is executed again, as the same process with the same arguments, unless whoever
// started it has set the slack already (systemd: TimerSlackNSec=). It is the first thing that a program does: descriptors
// that are open are lost. Where it is impossible nothing happens.
func Take() {
	if os.Getenv(done) != "" {
		os.Unsetenv(done) // for children
		return
	}
	runtime.LockOSThread() // the slack that is set is that of the thread that executes
	defer runtime.UnlockOSThread()
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || now >= int(Time) || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(Time), 0, 0, 0) != nil {
		return
	}
	program, err := os.Executable()
	if err != nil {
		return
	}
	// It is not /proc/self/exe itself: ps and top would show that name. It returns only if it fails, which changes nothing.
	_ = syscall.Exec(program, os.Args, append(os.Environ(), done+"=1")) // #nosec G204 -- the own program and its own arguments
}

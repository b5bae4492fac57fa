// Package place deals the nodes of a cluster on one machine to its processors.
package place

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"lockstep/internal/apart"

	"golang.org/x/sys/unix"
)

// of returns the processor, of those that this process may use, that the processes of a node share where there are fewer processors than nodes; ok is
// false where there are enough, or only one.
//
// The processes of a node wake each other for every request. On one processor that is a change of threads; on two it is an interrupt to a processor that
// sleeps, which on virtual machines costs several times as much (docs/performance-notes.md). Nodes, on the other hand, work at the same time.
func of(allowed []int, nodes, index int) (processor int, ok bool) {
	count := len(allowed)
	if count <= 1 || count >= nodes {
		return 0, false
	}
	return allowed[index%count], true
}

// Start starts a process of a node, of which there are so many, on its node's processor. Where there are enough processors it is started as usual. What the
// process begins to give way to all others may use any processor (apart.Roaming). index is that of the node, from 0.
func Start(cmd *exec.Cmd, nodes, index int) error {
	// What a process may use it has from the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("look which processors may be used: %w", os.NewSyscallError("sched_getaffinity", err))
	}
	processors := apart.Members(&allowed)
	processor, ok := of(processors, nodes, index)
	if !ok {
		return cmd.Start()
	}
	var own unix.CPUSet
	own.Set(processor)
	if err := unix.SchedSetaffinity(0, &own); err != nil {
		return cmd.Start() // it may not be chosen here: then the system chooses
	}
	cmd.Env = append(cmd.Environ(), apart.Roaming+"="+apart.RoamingOver(processors))
	defer func() { _ = unix.SchedSetaffinity(0, &allowed) }() // what the thread had it may have; an error now would leave a process that nobody knows of
	return cmd.Start()
}

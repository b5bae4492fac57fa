// Package place deals the nodes of a cluster on one machine to its processors. What gives way to all others, or has a processor busy for long by itself, may use
// any nevertheless.
package place

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// of returns the processor, of those that this process may use, for a part of a node where there are fewer processors than nodes; ok is false where there are
// enough, or only one.
//
// The processes of a node wake each other for every request. On one processor that is a change of threads; on two it is an interrupt to a processor that
// sleeps, which on virtual machines costs several times as much (docs/performance-notes.md). Nodes, on the other hand, work at the same time. So a node has one
// processor; only those that are left over, the last ones, if each processor has as many others, give their second parts to the next processors: one would be full
// while others rest.
func of(allowed []int, nodes, index int, part Part) (processor int, ok bool) {
	count := len(allowed)
	if count <= 1 || count >= nodes {
		return 0, false
	}
	if over := nodes % count; part == Second && index >= nodes-over {
		index += over
	}
	return allowed[index%count], true
}

// Part says which process of a node one is.
type Part int

// Parts of a node.
const (
	First  Part = iota // its replicator, and the configuration master beside it
	Second             // its KV node
)

// Start starts a process of a node, of which there are so many, on the processor that it is to have. Where there are enough processors it is started as usual. What
// the process lets roam may use any processor. index is that of the node, from 0.
func Start(cmd *exec.Cmd, nodes, index int, part Part) error {
	// What a process may use it has from the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("look which processors may be used: %w", os.NewSyscallError("sched_getaffinity", err))
	}
	processors := members(&allowed)
	processor, ok := of(processors, nodes, index, part)
	if !ok {
		return cmd.Start()
	}
	var own unix.CPUSet
	own.Set(processor)
	if err := unix.SchedSetaffinity(0, &own); err != nil {
		return cmd.Start() // it may not be chosen here: then the system chooses
	}
	cmd.Env = append(cmd.Environ(), Roaming+"="+list(processors))
	defer func() { _ = unix.SchedSetaffinity(0, &allowed) }() // what the thread had it may have; an error now would leave a process that nobody knows of
	return cmd.Start()
}

// Roaming in the environment of a program names the processors that Roam is for, as "0,1,5", though the program itself may use fewer of them. Whoever binds a
// program to processors sets it, or does not.
const Roaming = "LOCKSTEP_ROAMING"

// Roam lets the calling goroutine alone, and processes that it starts, use the processors that Roaming names, until back is called. Where that is forbidden, or
// Roaming names none, nothing changes. The goroutine keeps its thread meanwhile.
func Roam() (back func()) {
	processors, ok := parse(os.Getenv(Roaming))
	if !ok {
		return func() {}
	}
	runtime.LockOSThread() // threads that Go starts meanwhile are no children of this one
	var own unix.CPUSet
	if err := unix.SchedGetaffinity(0, &own); err != nil || unix.SchedSetaffinity(0, &processors) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		_ = unix.SchedSetaffinity(0, &own) // what the thread had it may have
		runtime.UnlockOSThread()
	}
}

// members lists the processors of a set, the lowest first.
func members(set *unix.CPUSet) (processors []int) {
	for processor, left := 0, set.Count(); left > 0; processor++ {
		if set.IsSet(processor) {
			processors = append(processors, processor)
			left--
		}
	}
	return processors
}

// list returns the value of Roaming that stands for these processors.
func list(processors []int) string {
	words := make([]string, len(processors))
	for i, processor := range processors {
		words[i] = strconv.Itoa(processor)
	}
	return strings.Join(words, ",")
}

// parse is the reverse of list.
func parse(list string) (processors unix.CPUSet, ok bool) {
	for word := range strings.SplitSeq(list, ",") {
		processor, err := strconv.Atoi(word)
		if err != nil {
			return unix.CPUSet{}, false
		}
		processors.Set(processor)
	}
	return processors, true
}

package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a server under load.
type Process struct {
	Kind string // "kvnode", "replicator", "confmaster", "redis-server"
	Node string
	Pid  int
}

// clockTick is the unit of times in /proc/PID/stat: 10 ms on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuTime returns the processor time that a process has used, user and system, of all its threads; 0 if there is none.
func cpuTime(pid int) time.Duration {
	// The clock of another process: what clock_getcpuclockid makes. It counts nanoseconds, /proc ticks of 10 ms.
	const schedClock = 2
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &used); err == nil {
		return time.Duration(used.Nano())
	}
	return ticksOf(pid)
}

// ticksOf is cpuTime out of /proc/PID/stat.
func ticksOf(pid int) time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	text := string(content)
	fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64) // fields 14 and 15 of the whole line
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * clockTick
}

// procNumber returns the number behind a name in a file of /proc/PID; 0 if there is none. Kilobytes are returned as bytes.
func procNumber(pid int, file, name string) uint64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		rest, found := strings.CutPrefix(line, name+":")
		fields := strings.Fields(rest)
		if !found || len(fields) == 0 {
			continue
		}
		number, _ := strconv.ParseUint(fields[0], 10, 64)
		if len(fields) > 1 && fields[1] == "kB" {
			number <<= 10
		}
		return number
	}
	return 0
}

// residentSize is the memory of a process that is in RAM, in bytes.
func residentSize(pid int) uint64 { return procNumber(pid, "status", "VmRSS") }

// writtenBytes is what a process has made the system write to disks, in whole pages.
func writtenBytes(pid int) uint64 { return procNumber(pid, "io", "write_bytes") }

// usage is what processes have used.
type usage map[Process]time.Duration

func usageOf(list []Process) usage {
	all := make(usage)
	for _, p := range list {
		all[p] = cpuTime(p.Pid)
	}
	return all
}

// since returns what was used since earlier, by kind of process.
func (u usage) since(earlier usage) map[string]time.Duration {
	kinds := make(map[string]time.Duration)
	for p, now := range u {
		kinds[p.Kind] += now - earlier[p]
	}
	return kinds
}

package apart

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstLook is how long the processors are watched until Idle knows anything, longestLook for how long later: the kernel counts in
	// hundredths of a second.
	firstLook   = 50 * time.Millisecond
	longestLook = 500 * time.Millisecond
)

// Processors tells how many processors of the machine nobody uses. The zero value is ready; its methods may be called by any goroutine.
type Processors struct {
	mu    sync.Mutex
	look  time.Duration // how long the look under way takes
	begun time.Time     // when it began
	then  times         // what the kernel had counted by then
	idle  float64
	known bool
	read  func() ([]byte, error) // nil: of this machine
}

// times are what the first line of /proc/stat counts, for all processors together, in ticks.
type times struct{ idle, all uint64 }

// Idle returns how many processors nobody used lately, for 50 to 500 ms. It is not known at first, and where the kernel does not tell: /proc/stat (proc(5)).
func (p *Processors) Idle() (processors float64, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if since := time.Since(p.begun); p.begun.IsZero() || since >= p.look {
		p.count()
	}
	return p.idle, p.known
}

// count ends one look and begins the next.
func (p *Processors) count() {
	read := p.read
	if read == nil {
		read = func() ([]byte, error) { return os.ReadFile("/proc/stat") }
	}
	text, err := read()
	now, count, ok := countedIn(text)
	if err != nil || !ok {
		p.known = false
	} else if all := now.all - p.then.all; !p.begun.IsZero() && p.then.all > 0 && now.all > p.then.all && now.idle >= p.then.idle {
		p.idle, p.known = float64(count)*min(float64(now.idle-p.then.idle)/float64(all), 1), true
	}
	p.begun, p.then, p.look = time.Now(), now, min(max(2*p.look, firstLook), longestLook)
}

// countedIn reads /proc/stat: "cpu" and the ticks that all processors together spent in user, nice, system, idle, iowait, irq, softirq, steal,
// and in what is part of user and nice already; then a line for each processor.
func countedIn(text []byte) (counted times, processors int, ok bool) {
	const idle, waiting, own = 3, 4, 8
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < own+1 || !bytes.HasPrefix(fields[0], []byte("cpu")) {
			continue
		}
		if len(fields[0]) > len("cpu") {
			processors++
			continue
		}
		for i, field := range fields[1 : own+1] {
			ticks, err := strconv.ParseUint(string(field), 10, 64)
			if err != nil {
				return times{}, 0, false
			}
			counted.all += ticks
			if i == idle || i == waiting {
				counted.idle += ticks
			}
		}
	}
	return counted, processors, processors > 0 && counted.all > 0
}

// Worked returns how much time of processors this process took.
func Worked() time.Duration {
	var used unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used) != nil {
		return 0 // there is no system without it
	}
	return time.Duration(used.Nano())
}

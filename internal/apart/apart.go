package apart

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"lockstep/internal/place"

	"golang.org/x/sys/unix"
)

const (
	// Nice is by how much the process is nicer than the one that begins it (nice(2)): where both want a processor it gets a tenth.
	Nice = 10
	// pipeBytes is how far what is written may be ahead of who reads it.
	pipeBytes = 1 << 20
	// tailBytes is how much of what it says at its end, of standard error, is kept.
	tailBytes = 4 << 10
	// leastBadness is what Yield makes the badness of the process at least, of -1000 to 1000: where memory runs out it goes first.
	leastBadness = "500"
)

// Process is one that Start began. What is written is its standard input, what is read its standard output.
type Process struct {
	in, out *os.File
	command *exec.Cmd
	ended   chan struct{}
	err     error // when ended is closed
	closing sync.Once
}

// Start begins the program that is running, as it is running, even if its file was exchanged since, with other arguments. The process is killed when this one
// ends, however that happens.
func Start(arguments ...string) (*Process, error) {
	in, p, err := pipe()
	if err != nil {
		return nil, err
	}
	out, told, err := pipe()
	if err != nil {
		_, _ = in.Close(), p.Close()
		return nil, err
	}
	widen(p)
	var last tail
	process := &Process{in: p, out: out, ended: make(chan struct{})}
	process.command = exec.Command("/proc/self/exe", arguments...) // #nosec G204 -- the own program
	process.command.Args[0] = os.Args[0]
	process.command.Stdin, process.command.Stdout, process.command.Stderr = in, told, &last
	process.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	begun := make(chan error)
	onThread(func() {
		// Niceness is inherited from the thread, which cannot take it back, and the process is killed when the thread ends.
		if nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, min(20-nice+Nice, 19))
		}
		place.Roam()
		err := process.command.Start()
		_, _ = in.Close(), told.Close()
		begun <- err
		if err != nil {
			return
		}
		if err := process.command.Wait(); err != nil {
			process.err = errors.New(strings.TrimSuffix(fmt.Sprintf("%s: %s", err, last.text()), ": "))
		}
		close(process.ended)
	})
	if err := <-begun; err != nil {
		_, _ = p.Close(), out.Close()
		return nil, fmt.Errorf("begin %s once more: %w", os.Args[0], err)
	}
	return process, nil
}

// onThread calls do on a thread of its own, which ends with it. It is not the main thread, which would go on.
func onThread(do func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			do()
			return
		}
		onAnother := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(onAnother)
			do()
		}()
		<-onAnother
		runtime.UnlockOSThread()
	}()
}

func pipe() (read, write *os.File, err error) {
	read, write, err = os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	return read, write, nil
}

// widen lets a pipe hold more, where that is allowed.
func widen(pipe *os.File) {
	raw, err := pipe.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
	}
}

// Read reads from its standard output.
func (p *Process) Read(b []byte) (int, error) { return p.out.Read(b) }

// Write writes to its standard input.
func (p *Process) Write(b []byte) (int, error) { return p.in.Write(b) }

// ID returns its process id.
func (p *Process) ID() int { return p.command.Process.Pid }

// Kill ends it at once.
func (p *Process) Kill() { _ = p.command.Process.Kill() } // it has ended already otherwise

// Wait returns when it has ended. The error says how, if it was not by itself, with the end of what it wrote to its standard error. Nothing can be read
// or written behind it.
func (p *Process) Wait() error {
	<-p.ended
	p.closing.Do(func() { _, _ = p.in.Close(), p.out.Close() })
	return p.err
}

// Yield is what such a process calls first: it uses one processor, is the first to go when memory runs out, and has a name of its own in lists of
// processes, of at most 15 bytes. What is forbidden here is not done.
func Yield(name string) {
	runtime.GOMAXPROCS(1)
	if badness, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil && len(strings.TrimSpace(string(badness))) < len(leastBadness) {
		_ = os.WriteFile("/proc/self/oom_score_adj", []byte(leastBadness), 0o600)
	}
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0o600)
	// Where the kernel shares processors out among sessions first (sched(7), autogroups), niceness counts within a session only: the process has
	// its own, and that is as nice.
	_ = os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(Nice)), 0o600)
}

// tail keeps the end of what is written.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if len(t.kept) > 2*tailBytes {
		t.kept = bytes.Clone(t.kept[len(t.kept)-tailBytes:])
	}
	return len(b), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.kept[max(0, len(t.kept)-tailBytes):]))
}

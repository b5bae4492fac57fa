package floor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/place"
)

// Options say which skeleton is to be started.
type Options struct {
	Program []string // what runs RunPart of the argument behind it
	Dir     string   // an empty directory
	Sync    string   // SyncAlways or SyncOS
	Full    bool     // a front on every node, which executes
	Flights int      // frames that may be on their way at once
}

// Skeleton is one that runs. Stop must be called.
type Skeleton struct {
	Addr  string // where clients connect, host:port
	Parts []Part
}

// Part is a process of the skeleton.
type Part struct {
	Kind, Node string
	Pid        int
	File       string // of a logger
	command    *exec.Cmd
}

// readyTime bounds how long a process may take until it is ready: a logger fills its file.
const readyTime = time.Minute

// nodes are the names of all nodes, the master's first.
var nodes = []string{"n1", "n2", "n3"}

// Start starts the processes of a skeleton: loggers before whom they serve. They die with this process.
func Start(ctx context.Context, o Options) (*Skeleton, error) {
	s := &Skeleton{}
	fail := func(err error) (*Skeleton, error) { return nil, errors.Join(err, s.Stop()) }
	base := Config{Sync: o.Sync, Full: o.Full, Flights: o.Flights}
	var peers []int
	for _, node := range nodes[1:] {
		c := base
		c.Kind, c.Node = KindLogger, node
		port, err := s.start(ctx, o, c)
		if err != nil {
			return fail(err)
		}
		peers = append(peers, port)
	}
	c := base
	c.Kind, c.Node, c.Peers = KindLogger, nodes[0], peers
	if _, err := s.start(ctx, o, c); err != nil {
		return fail(err)
	}
	for i, node := range nodes {
		if i > 0 && !o.Full {
			break
		}
		c := base
		c.Kind, c.Node, c.Follows = KindFront, node, i > 0
		port, err := s.start(ctx, o, c)
		if err != nil {
			return fail(err)
		}
		if i == 0 {
			s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		}
	}
	return s, nil
}

// start starts a process and waits until it is ready. It returns the port on which it listens.
func (s *Skeleton) start(ctx context.Context, o Options, c Config) (port int, err error) {
	name := c.Kind + " " + c.Node
	text, err := json.Marshal(c)
	if err != nil {
		return 0, fmt.Errorf("start %s of the floor: %w", name, err)
	}
	says := filepath.Join(o.Dir, c.Node+"-"+c.Kind+".stderr")
	stderr, err := os.Create(says)
	if err != nil {
		return 0, fmt.Errorf("start %s of the floor: %w", name, err)
	}
	defer stderr.Close()
	command := exec.Command(o.Program[0], append(o.Program[1:len(o.Program):len(o.Program)], string(text))...)
	command.Dir, command.Stderr = o.Dir, stderr
	// One processor, as nothing runs beside the loop, and no signals to a thread that is in a system call for long.
	command.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	out, err := command.StdoutPipe()
	if err == nil {
		part := place.Second // as a KV node
		if c.Kind == KindLogger {
			part = place.First
		}
		err = place.Start(command, len(nodes), slices.Index(nodes, c.Node), part)
	}
	if err != nil {
		return 0, fmt.Errorf("start %s of the floor: %w", name, err)
	}
	part := Part{Kind: c.Kind, Node: c.Node, Pid: command.Process.Pid, command: command}
	if c.Kind == KindLogger {
		part.File = filepath.Join(o.Dir, c.Node+".log")
	}
	s.Parts = append(s.Parts, part)
	timer := time.AfterFunc(readyTime, func() { _ = command.Process.Kill() })
	defer timer.Stop()
	defer context.AfterFunc(ctx, func() { _ = command.Process.Kill() })()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		port, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		said, _ := os.ReadFile(says)
		return 0, fmt.Errorf("start %s of the floor: it did not get ready within %v: %w: %s", name, readyTime, errors.Join(err, context.Cause(ctx)), strings.TrimSpace(string(said)))
	}
	return port, nil
}

// Stop kills all processes.
func (s *Skeleton) Stop() error {
	var problems []error
	for _, p := range s.Parts {
		if err := p.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			problems = append(problems, fmt.Errorf("kill %s %s of the floor: %w", p.Kind, p.Node, err))
		}
		_ = p.command.Wait() // killed: its status says only that
	}
	s.Parts = nil
	return errors.Join(problems...)
}

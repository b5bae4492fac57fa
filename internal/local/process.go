package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/place"
	"lockstep/internal/wholefile"
)

// Kind of a process: the name of its binary.
type Kind string

const (
	KindReplicator Kind = "replicator"
	KindKVNode     Kind = "kvnode"
	KindConfmaster Kind = "confmaster"
)

// Process is one process of the cluster as its files show it.
type Process struct {
	Name string
	Kind Kind
	Node string // "n1", "c1"
	Addr string // where it listens: Redis, data, or the configuration masters' port
	Pid  int    // 0 if it does not run
}

// identity tells a process from another one that was given the same id later.
type identity struct {
	pid   int
	start string // field 22 of /proc/PID/stat: clock ticks since boot
	boot  string // /proc/sys/kernel/random/boot_id
}

// identify returns the identity of a living process; ok is false if there is none (a zombie does not live).
func identify(pid int) (id identity, ok bool) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return identity{}, false
	}
	// The second field is the command in parentheses and may itself hold blanks and parentheses.
	_, rest, found := cutLast(string(content), ") ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return identity{}, false
	}
	return identity{pid: pid, start: fields[19], boot: bootID()}, true
}

func cutLast(s, separator string) (before, after string, found bool) {
	at := strings.LastIndex(s, separator)
	if at < 0 {
		return s, "", false
	}
	return s[:at], s[at+len(separator):], true
}

func bootID() string {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(content))
}

// lives reports whether exactly this process still runs.
func (id identity) lives() bool {
	now, ok := identify(id.pid)
	return ok && now == id
}

// signal sends sig if exactly this process still runs; it reports whether it does.
func (id identity) signal(sig os.Signal) bool {
	process, err := os.FindProcess(id.pid) // holds on to the process, so that the id cannot pass to another one below
	if err != nil {
		return false
	}
	defer process.Release()
	return id.lives() && process.Signal(sig) == nil
}

func (c *Cluster) pidPath(name string) string { return filepath.Join(c.Dir, "pids", name+".pid") }

// LogPath is where the process of that name writes its log.
func (c *Cluster) LogPath(name string) string { return filepath.Join(c.Dir, "logs", name+".log") }

// writePid notes who runs as name.
func (c *Cluster) writePid(name string, id identity) error {
	return wholefile.Write(c.pidPath(name), []byte(fmt.Sprintf("%d %s %s\n", id.pid, id.start, id.boot)))
}

// readPid returns who was last noted as name, and whether that process lives.
func (c *Cluster) readPid(name string) (identity, bool) {
	content, err := os.ReadFile(c.pidPath(name))
	if err != nil {
		return identity{}, false
	}
	fields := strings.Fields(string(content))
	if len(fields) != 3 {
		return identity{}, false
	}
	pid, err := strconv.Atoi(fields[0])
	if err != nil || pid <= 1 {
		return identity{}, false
	}
	id := identity{pid: pid, start: fields[1], boot: fields[2]}
	return id, id.lives()
}

// Pid returns the id of the process of that name, 0 if it does not run.
func (c *Cluster) Pid(name string) int {
	if id, lives := c.readPid(name); lives {
		return id.pid
	}
	return 0
}

// ReplicatorOf is the name of the process that is the replicator of a node.
func ReplicatorOf(node string) string { return node + "-replicator" }

// KVNodeOf is the name of the process that is the KV node of a node.
func KVNodeOf(node string) string { return node + "-kvnode" }

// Processes lists all processes of the cluster: configuration masters, replicators, KV nodes.
func (c *Cluster) Processes() []Process {
	list := c.listed()
	for i := range list {
		list[i].Pid = c.Pid(list[i].Name)
	}
	return list
}

// listed is Processes without their ids.
func (c *Cluster) listed() []Process {
	var list []Process
	for _, m := range c.Plan.Confmasters {
		list = append(list, Process{Name: m.Name(), Kind: KindConfmaster, Node: m.Name(), Addr: m.Addr})
	}
	for _, r := range c.Plan.Replicas {
		list = append(list, Process{Name: ReplicatorOf(r.Node), Kind: KindReplicator, Node: r.Node, Addr: r.DataAddr})
	}
	for _, r := range c.Plan.Replicas {
		list = append(list, Process{Name: KVNodeOf(r.Node), Kind: KindKVNode, Node: r.Node, Addr: r.KVAddr})
	}
	return list
}

// child is a process started by this process.
type child struct {
	name string
	done chan struct{} // closed when it has ended
	err  error         // how it ended; valid once done is closed
}

// spawn starts one process in a session of its own, so that a Ctrl-C in the terminal reaches smrctl alone, and notes its id.
func (c *Cluster) spawn(p Process) (*child, error) {
	out, err := openLog(c.LogPath(p.Name))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(c.binaries, string(p.Kind)), c.arguments(p)...) // #nosec G204 -- a program of Lockstep beside smrctl, without a shell
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.DieWithParent {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	fmt.Fprintf(out, "--- %s smrctl starts %s\n", time.Now().Format(time.RFC3339), strings.Join(cmd.Args, " "))
	part := place.First
	if p.Kind == KindKVNode {
		part = place.Second
	}
	if err := place.Start(cmd, len(c.Plan.Replicas), c.indexOf(p.Node), part); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	kid := &child{name: p.Name, done: make(chan struct{})}
	id, lives := identify(cmd.Process.Pid)
	go func() {
		kid.err = cmd.Wait()
		close(kid.done)
	}()
	c.mu.Lock()
	c.children[p.Name] = kid
	c.mu.Unlock()
	if !lives { // ended at once: nobody to note down, and done will say so
		return kid, nil
	}
	if err := c.writePid(p.Name, id); err != nil {
		id.signal(syscall.SIGKILL)
		return nil, err
	}
	return kid, nil
}

// maxLog is the size in bytes from which a log is put aside when its process starts.
const maxLog = 16 << 20

func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("put log aside: %w", err)
		}
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return file, nil
}

// Signal sends sig to the process of that name.
func (c *Cluster) Signal(name string, sig os.Signal) error {
	id, lives := c.readPid(name)
	if !lives || !id.signal(sig) {
		return fmt.Errorf("%s: %w", name, ErrNotRunning)
	}
	return nil
}

// ErrNotRunning: the process named does not run.
var ErrNotRunning = errors.New("not running")

// defaultStopTime is how long a process may take to end by itself.
const defaultStopTime = 10 * time.Second

// stop ends the processes of these names: asks them, and kills those that still live after c.stopTime. It returns the names
// of those that were running, and of those that had to be killed.
func (c *Cluster) stop(names []string) (stopped, killed []string) {
	var living []identity
	for _, name := range names {
		if id, lives := c.readPid(name); lives && id.signal(syscall.SIGTERM) {
			id.signal(syscall.SIGCONT) // a process stopped by SIGSTOP would never see the request
			living = append(living, id)
			stopped = append(stopped, name)
		}
	}
	waitEnd(living, c.stopTime)
	for i, id := range living {
		if id.signal(syscall.SIGKILL) {
			killed = append(killed, stopped[i])
		}
	}
	waitEnd(living, c.stopTime)
	for _, name := range stopped {
		_ = os.Remove(c.pidPath(name)) // what is left of pid files belongs to processes that ended in another way
	}
	return stopped, killed
}

// StoppedOnPurpose reports whether no process of the cluster runs and all were stopped by Stop or StopProcess.
func (c *Cluster) StoppedOnPurpose() bool {
	for _, p := range c.Processes() {
		if _, err := os.Stat(c.pidPath(p.Name)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// waitEnd returns when none of the processes lives, or after the time given.
func waitEnd(list []identity, limit time.Duration) {
	deadline := time.Now().Add(limit)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for _, id := range list {
		for id.lives() && time.Now().Before(deadline) {
			<-poll.C
		}
	}
}

// indexOf returns the place of a node, or of the configuration master that stands beside it, in the plan.
func (c *Cluster) indexOf(node string) int {
	for i, m := range c.Plan.Confmasters {
		if m.Name() == node {
			return i
		}
	}
	for i, r := range c.Plan.Replicas {
		if r.Node == node {
			return i
		}
	}
	return 0
}

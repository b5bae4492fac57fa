package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"lockstep/internal/trust"
	"lockstep/internal/wholefile"
)

// Cluster is a cluster of processes on this machine, described by its directory.
type Cluster struct {
	Dir     string // absolute
	Plan    Plan
	Resumed bool // Start found it in its directory

	// Extra holds further flags for the processes of a kind.
	Extra map[Kind][]string
	// DieWithParent makes the system kill the processes when this process ends, however it ends.
	DieWithParent bool
	// Progress is told what happens, one line at a time. It must not be nil.
	Progress func(line string)

	binaries string
	keeper   *trust.Keeper // of Admin, opened when it is first asked for
	stopTime time.Duration // how long a process may take to end by itself

	mu       sync.Mutex
	children map[string]*child // processes started by this process, the last one of each name
}

// Open returns the cluster that dir holds.
func Open(dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", dir, err)
	}
	plan, err := loadPlan(dir)
	if err != nil {
		return nil, err
	}
	return newCluster(dir, plan, true), nil
}

func newCluster(dir string, plan Plan, resumed bool) *Cluster {
	return &Cluster{Dir: dir, Plan: plan, Resumed: resumed, Progress: func(string) {}, stopTime: defaultStopTime, children: make(map[string]*child)}
}

// Prepare returns the cluster that dir holds, or a new one as asked. It changes nothing on disk. What is asked of a cluster
// that exists (every value that is not zero) must be what it is.
func Prepare(dir string, asked Options) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", dir, err)
	}
	known, err := checkDir(dir)
	if err != nil {
		return nil, err
	}
	if known {
		plan, err := loadPlan(dir)
		if err != nil {
			return nil, err
		}
		if err := plan.differs(asked); err != nil {
			return nil, fmt.Errorf("%s holds a cluster that is not as asked: %w\n  leave the flag away to resume it, or choose another --dir for a new one", dir, err)
		}
		if asked.Archive != "" {
			plan.Archive = asked.Archive
		}
		if asked.TierMemory != 0 {
			plan.TierMemory = asked.TierMemory
		}
		return newCluster(dir, plan, true), nil
	}
	options := asked.WithDefaults()
	if err := options.Check(); err != nil {
		return nil, err
	}
	return newCluster(dir, newPlan(options), false), nil
}

// differs reports what was asked and is not so.
func (p Plan) differs(asked Options) error {
	var problems []error
	number := func(what string, asked, is int) {
		if asked != 0 && asked != is {
			problems = append(problems, fmt.Errorf("%s is %d, asked for %d", what, is, asked))
		}
	}
	number("replicas", asked.Replicas, len(p.Replicas))
	number("confmasters", asked.Confmasters, len(p.Confmasters))
	number("port", asked.Port, p.Port)
	number("copies", asked.Copies, p.Copies)
	number("min-copies", asked.MinCopies, p.MinCopies)
	if asked.TLS && !p.TLS {
		problems = append(problems, errors.New("its connections have no TLS, asked for TLS"))
	}
	if asked.Sync != "" && asked.Sync != p.Sync {
		problems = append(problems, fmt.Errorf("sync is %s, asked for %s", p.Sync, asked.Sync))
	}
	return errors.Join(problems...)
}

// Start starts all processes with the binaries in the directory given and returns when the group serves on every KV node.
// If that does not come true before ctx ends, everything is stopped again and the error shows the tail of the log that
// matters.
func (c *Cluster) Start(ctx context.Context, binaries string) error {
	unlock, err := c.begin(binaries)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.startAll(ctx); err != nil {
		c.Progress("stopping what was started")
		c.stopAll()
		return err
	}
	return nil
}

// begin checks all that can be checked before anything is started, and takes the directory's lock.
func (c *Cluster) begin(binaries string) (unlock func(), err error) {
	if missing := missingBinaries(binaries); len(missing) > 0 {
		return nil, fmt.Errorf("%w: %s lacks %s", ErrNoBinaries, binaries, strings.Join(missing, ", "))
	}
	c.binaries = binaries
	if err := c.Preflight(); err != nil {
		return nil, err
	}
	for _, dir := range []string{c.Dir, filepath.Join(c.Dir, "logs"), filepath.Join(c.Dir, "pids")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	// Once more, now that nobody else can be at it.
	known, err := checkDir(c.Dir)
	switch {
	case err != nil:
	case known && !c.Resumed:
		err = fmt.Errorf("%s was taken by another smrctl just now: try again", c.Dir)
	case known:
		if err = c.checkStopped(); err == nil {
			err = savePlan(c.Dir, c.Plan) // archive and memory may be others from now on
		}
	default:
		err = savePlan(c.Dir, c.Plan)
	}
	if err == nil {
		err = c.Certify()
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return func() { _ = lock.Close() }, nil
}

// Preflight reports why Start would fail, as far as that can be seen without touching anything.
func (c *Cluster) Preflight() error {
	if err := c.checkStopped(); err != nil {
		return err
	}
	return errors.Join(checkDisk(c.Dir, MinFree), checkPorts(c.Plan))
}

// checkStopped reports processes of the cluster that run already.
func (c *Cluster) checkStopped() error {
	var running []string
	for _, p := range c.Processes() {
		if p.Pid != 0 {
			running = append(running, fmt.Sprintf("%s (pid %d)", p.Name, p.Pid))
		}
	}
	if len(running) > 0 {
		return fmt.Errorf("%w in %s: %s: look with `smrctl status --dir %s`, stop with `smrctl down --dir %s`", ErrRunning, c.Dir, strings.Join(running, ", "), c.Dir, c.Dir)
	}
	return nil
}

// ErrRunning: the cluster, or the process named, runs already.
var ErrRunning = errors.New("already running")

func (c *Cluster) startAll(ctx context.Context) error {
	var kids []*child
	for _, p := range c.Processes() {
		if err := ctx.Err(); err != nil {
			return err
		}
		kid, err := c.spawn(p)
		if err != nil {
			return err
		}
		kids = append(kids, kid)
	}
	c.Progress(fmt.Sprintf("started %d processes, waiting for the group to serve", len(kids)))

	// The first process that ends while we wait ends the wait.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, kid := range kids {
		go func() {
			select {
			case <-kid.done:
				cancel(c.endedEarly(kid))
			case <-ctx.Done():
			}
		}()
	}
	err := c.awaitService(ctx)
	if err == nil {
		err = c.NoteFounded()
	}
	var early *earlyEnd
	if errors.As(context.Cause(ctx), &early) {
		return early
	}
	return err
}

// earlyEnd is the error of a process that ended while the cluster was being started.
type earlyEnd struct {
	name, reason, path, tail string
}

func (e *earlyEnd) Error() string {
	return fmt.Sprintf("%s ended while starting (%s). The end of its log %s:\n%s", e.name, e.reason, e.path, e.tail)
}

func (c *Cluster) endedEarly(kid *child) error {
	return &earlyEnd{name: kid.name, reason: howEnded(kid.err), path: c.LogPath(kid.name), tail: c.Tail(kid.name, 10)}
}

func howEnded(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// Tail returns the last lines that the process wrote to its log, indented.
func (c *Cluster) Tail(name string, lines int) string {
	const most = 16 << 10 // bytes
	file, err := os.Open(c.LogPath(name))
	if err != nil {
		return "  " + err.Error()
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "  " + err.Error()
	}
	buffer := make([]byte, min(info.Size(), most))
	n, _ := file.ReadAt(buffer, info.Size()-int64(len(buffer)))
	all := strings.Split(strings.TrimRight(string(buffer[:n]), "\n"), "\n")
	return "  " + strings.Join(all[max(0, len(all)-lines):], "\n  ")
}

// Stop stops all processes of the cluster. It returns the names of those that were running, and of those that did not end by
// themselves and were killed.
func (c *Cluster) Stop() (stopped, killed []string, err error) {
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, nil, err
	}
	defer lock.Close()
	if plan, err := loadPlan(c.Dir); err == nil {
		c.Plan = plan // another smrctl may have added nodes since
	}
	stopped, killed = c.stopAll()
	return stopped, killed, nil
}

// stopAll stops KV nodes first, so that they can answer what is in flight, then replicators, then configuration masters.
func (c *Cluster) stopAll() (stopped, killed []string) {
	for _, kind := range []Kind{KindKVNode, KindReplicator, KindConfmaster} {
		var names []string
		for _, p := range c.Processes() {
			if p.Kind == kind {
				names = append(names, p.Name)
			}
		}
		ended, hard := c.stop(names)
		stopped, killed = append(stopped, ended...), append(killed, hard...)
	}
	return stopped, killed
}

// StartProcess starts one process that does not run, with the binaries in the directory given. It does not wait until it
// serves, but reports a process that ends at once.
func (c *Cluster) StartProcess(name, binaries string) (pid int, err error) {
	lock, err := lockDir(c.Dir)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	for _, p := range c.Processes() {
		if p.Name != name {
			continue
		}
		if p.Pid != 0 {
			return 0, fmt.Errorf("%s: %w (pid %d)", name, ErrRunning, p.Pid)
		}
		c.binaries = binaries
		kid, err := c.spawn(p)
		if err != nil {
			return 0, err
		}
		early := time.NewTimer(300 * time.Millisecond)
		defer early.Stop()
		select {
		case <-kid.done:
			return 0, c.endedEarly(kid)
		case <-early.C:
			return c.Pid(name), nil
		}
	}
	return 0, c.unknown(name)
}

// StopProcess stops one process, killing it if it does not end by itself; it reports whether that was necessary.
func (c *Cluster) StopProcess(name string) (killed bool, err error) {
	if c.Pid(name) == 0 {
		return false, fmt.Errorf("%s: %w", name, ErrNotRunning)
	}
	_, hard := c.stop([]string{name})
	return len(hard) > 0, nil
}

// Ended returns a channel that is closed when the process of that name, started by this process, has ended; nil if there is
// none.
func (c *Cluster) Ended(name string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kid := c.children[name]; kid != nil {
		return kid.done
	}
	return nil
}

// HowEnded tells how a process that this Cluster started has ended ("exit status 2"), "" while it runs or if it was not started here.
func (c *Cluster) HowEnded(name string) string {
	c.mu.Lock()
	kid := c.children[name]
	c.mu.Unlock()
	if kid == nil {
		return ""
	}
	select {
	case <-kid.done:
		return howEnded(kid.err)
	default:
		return ""
	}
}

func (c *Cluster) unknown(name string) error {
	var names []string
	for _, p := range c.Processes() {
		names = append(names, p.Name)
	}
	return fmt.Errorf("no process %q: there are %s", name, strings.Join(names, ", "))
}

// foundedName is the file that says that the cluster has served once: from then on no configuration master may begin with
// an empty directory.
const foundedName = "founded"

func (c *Cluster) founded() bool {
	_, err := os.Stat(filepath.Join(c.Dir, foundedName))
	return err == nil
}

// NoteFounded notes that the cluster serves. Start does it; who starts a new cluster process by process has to.
func (c *Cluster) NoteFounded() error {
	if c.founded() {
		return nil
	}
	return wholefile.Write(filepath.Join(c.Dir, foundedName), []byte("configuration masters with an empty directory are refused from now on\n"))
}

// ReplicaDir is the directory of a node's replicator.
func (c *Cluster) ReplicaDir(node string) string { return filepath.Join(c.Dir, node) }

// KVDir is the directory of a node's images.
func (c *Cluster) KVDir(node string) string { return filepath.Join(c.Dir, node+"-images") }

// arguments is the command line of a process.
func (c *Cluster) arguments(p Process) []string {
	args := []string{"--cluster", c.Plan.Cluster}
	switch p.Kind {
	case KindReplicator:
		r, _ := c.Plan.find(p.Node)
		args = append(args, "--dir", c.ReplicaDir(r.Node), "--group", c.Plan.Group, "--node", r.Node,
			"--data", r.DataAddr, "--manage", r.ManageAddr, "--sync", c.Plan.Sync)
		if c.Plan.Archive != "" {
			args = append(args, "--archive", c.Plan.Archive)
		}
		if r.Joins {
			args = append(args, "--join", strings.Join(c.Plan.ConfmasterAddrs(), ","))
		}
	case KindKVNode:
		var peers []string
		for _, r := range c.Plan.Replicas {
			peers = append(peers, r.Node+"="+r.KVAddr)
		}
		r, _ := c.Plan.find(p.Node)
		args = append(args, "--replicator-dir", c.ReplicaDir(r.Node), "--data", c.KVDir(r.Node), "--group", c.Plan.Group, "--node", r.Node,
			c.clientPort(), r.KVAddr, "--announce", r.KVAddr, "--admin", r.AdminAddr(), "--peers", strings.Join(peers, ","),
			"--masters", strings.Join(c.Plan.ConfmasterAddrs(), ","))
		if c.Plan.Archive != "" {
			args = append(args, "--archive", c.Plan.Archive)
		}
		if c.Plan.TierMemory > 0 {
			args = append(args, "--tier-memory", strconv.FormatInt(c.Plan.TierMemory, 10))
		}
	case KindConfmaster:
		var peers []string
		var self Confmaster
		for _, m := range c.Plan.Confmasters {
			peers = append(peers, strconv.Itoa(m.ID)+"="+m.Addr)
			if m.Name() == p.Node {
				self = m
			}
		}
		args = append(args, "--dir", filepath.Join(c.Dir, self.Name()), "--id", strconv.Itoa(self.ID),
			"--peers", strings.Join(peers, ","), c.sentinelPort(), self.SentinelAddr)
		args = append(args, "--drills", c.DrillsDir())
		if !c.founded() {
			args = append(args, "--new")
		}
	}
	if p.Kind != KindKVNode {
		args = append(args, "--allow-drills") // everything listens on the loopback interface only
	}
	args = append(args, c.tlsFlags(p)...)
	return append(append(args, c.httpFlags(p)...), c.Extra[p.Kind]...)
}

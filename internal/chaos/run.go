package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// Config of a run.
type Config struct {
	Dir      string        // for data, history and report; must be new or empty, and have a short path (sockets)
	Binaries string        // directory with the programs of the cluster
	Seed     uint64        // what faults are drawn from
	Duration time.Duration // of the time with faults
	Lanes    int           // faults at a time at most; default 2
	TLS      bool          // the cluster speaks nothing else
	// Passwords: nobody is let in without one, and it is changed again and again.
	Passwords bool
	Pause     time.Duration // mean pause of a lane between two faults; default 1 s
	Clients   int           // on each KV node; default 3
	Only      []string      // kinds of faults to draw from; default all
	Port      int           // first port of the cluster; default: any that is free
	Progress  func(string)  // is told what happens, a line at a time, from one goroutine at a time
}

func (c *Config) setDefaults() error {
	if c.Lanes == 0 {
		c.Lanes = 2
	}
	if c.Pause == 0 {
		c.Pause = time.Second
	}
	if c.Clients == 0 {
		c.Clients = 3
	}
	if c.Lanes < 1 || c.Lanes > 8 || c.Clients < 1 || c.Clients > 100 || c.Pause < 0 || c.Duration < time.Second {
		return errors.New("use 1 to 8 lanes, 1 to 100 clients and at least one second")
	}
	if c.Port != 0 {
		return nil
	}
	var err error
	c.Port, _, err = local.ReservePorts(local.Options{Replicas: replicas + spareNodes}) // until this process ends
	return err
}

// run is a run in progress.
type run struct {
	Config
	cluster *cluster
	history *history
	load    *load
	nemesis *nemesis
	report  *Report

	// Owned by whoever holds the claim restoring.
	restored int64 // when a restore last ended
	moments  int   // that were restored

	speaking sync.Mutex // Progress is called by one at a time

	mu         sync.Mutex
	violations []Violation
}

// Run does a run and leaves its report in Dir. The error says that the run could not be done; broken promises are in the
// report.
func Run(ctx context.Context, config Config) (*Report, error) {
	if err := config.setDefaults(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	r := &run{Config: config}
	var err error
	if r.history, err = newHistory(filepath.Join(config.Dir, "history.jsonl"), time.Now()); err != nil {
		return nil, err
	}
	r.load = &load{history: r.history, ring: newKeyring(), listened: make(chan struct{}), nodes: func() []local.Replica { return r.cluster.nodes() }}
	r.report = &Report{Seed: config.Seed, Began: time.Now(), Machine: machine(), Version: version()}
	if err := os.Mkdir(r.archive(), 0o755); err != nil {
		return nil, fmt.Errorf("make the archive: %w", err)
	}
	r.say(fmt.Sprintf("seed %d: starting a cluster in %s", config.Seed, config.Dir))
	if r.cluster, err = startCluster(ctx, layout{dir: filepath.Join(config.Dir, "c"), binaries: config.Binaries, port: config.Port, seed: config.Seed,
		spares: spareNodes, archive: r.archive(), tls: config.TLS, flags: flagsOfRuns()}); err != nil {
		_, closeErr := r.history.close()
		return nil, errors.Join(err, closeErr)
	}
	r.load.login = r.cluster.login
	if err = r.prepare(ctx); err == nil {
		err = r.drive(ctx)
	}
	killed, stopErr := r.cluster.stop()
	if len(killed) > 0 {
		r.failed("processes stop in good order", "at the end these had to be killed: %s", strings.Join(killed, ", "))
	}
	ops, closeErr := r.history.close()
	if err := errors.Join(err, stopErr, closeErr); err != nil {
		return nil, err
	}
	r.say(fmt.Sprintf("checking %d operations", len(ops)))
	r.judge(ops)
	if err := r.report.write(config.Dir); err != nil {
		return nil, err
	}
	return r.report, nil
}

// prepare sees to it that the operator's tool can do what faults and changes need, and that passwords are wanted if they shall be.
func (r *run) prepare(ctx context.Context) error {
	if r.Passwords {
		return r.wantPasswords(ctx)
	}
	_, err := r.cluster.smrctl(ctx, "status")
	return err
}

// spareNodes is how many nodes more than at first there may be.
const spareNodes = 2

// archive is the directory into which the cluster is archived.
func (r *run) archive() string {
	dir, err := filepath.Abs(filepath.Join(r.Dir, "archive"))
	if err != nil {
		return filepath.Join(r.Dir, "archive") // replicators refuse it, and say so
	}
	return dir
}

// flagsOfRuns makes images and trimming frequent: whoever is away for a while needs an image.
func flagsOfRuns() map[local.Kind][]string {
	return map[local.Kind][]string{
		local.KindKVNode:     {"--write-timeout", "4s", "--refuse-after", "3s", "--image-log", "1MiB", "--image-every", "10s"},
		local.KindReplicator: {"--log-keep-bytes", "1MiB", "--log-lag-cap", "4MiB", "--archive-every", "200ms", "--archive-zstd"},
	}
}

func (r *run) say(line string) {
	r.speaking.Lock()
	defer r.speaking.Unlock()
	r.Progress(line)
}

// failed notes a broken promise.
func (r *run) failed(rule, format string, args ...any) {
	v := Violation{Rule: rule, Text: fmt.Sprintf(format, args...)}
	r.mu.Lock()
	r.violations = append(r.violations, v)
	r.mu.Unlock()
	r.say("VIOLATION: " + v.Rule + ": " + v.Text)
}

// kinds returns the faults to draw from, and what happens in the life of a cluster beside them.
func (r *run) kinds() (faults, changes []kind, err error) {
	disks, notes := diskFaults(r.cluster)
	r.report.Notes = notes
	for _, note := range notes {
		r.say(note)
	}
	faults, changes = append(append(processFaults(), linkFaults()...), disks...), lifecycle(r)
	if len(r.Only) == 0 {
		return faults, changes, nil
	}
	all := kindNames(slices.Concat(faults, changes))
	for _, name := range r.Only {
		if !slices.ContainsFunc(slices.Concat(faults, changes), func(k kind) bool { return k.name == name }) {
			return nil, nil, fmt.Errorf("fault %q: there are %s", name, all)
		}
	}
	others := func(k kind) bool { return !slices.Contains(r.Only, k.name) }
	return slices.DeleteFunc(faults, others), slices.DeleteFunc(changes, others), nil
}

// healPatience bounds how long the group may take to be whole again once nothing disturbs it any more.
const healPatience = 2 * time.Minute

// workLogLimit is how many decisions are asked for: all that the configuration masters keep.
const workLogLimit = 1000

// drive runs clients and faults, heals everything and reads everything.
func (r *run) drive(ctx context.Context) error {
	r.nemesis = &nemesis{cluster: r.cluster, now: r.history.now, progress: r.say, failed: r.failed,
		claimed: make(map[string]bool), active: make(map[int]*Fault)}
	faults, changes, err := r.kinds()
	if err != nil {
		return err
	}
	if err := r.load.loadLibrary(ctx); err != nil {
		return err
	}
	loading, stopLoad := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stopLoad()
	listening, stopListening := context.WithCancel(ctx)
	go r.load.listenAll(listening, r.Seed)
	defer func() {
		stopListening()
		<-r.load.listened
	}()
	clients.Go(func() { r.load.run(loading, r.Clients, r.Seed) })
	clients.Go(func() { r.watch(loading) })
	var stalls []Phase
	var stallErr error
	clients.Go(func() { stalls, stallErr = probeStalls(loading, r.Dir, r.history.now) })
	r.report.LoadFrom = r.history.now()
	pause.For(ctx, 2*time.Second) // without faults first: what that looks like belongs to the report

	disturbing, calm := context.WithTimeout(ctx, r.Duration)
	defer calm()
	var lanes sync.WaitGroup
	for lane := range r.Lanes {
		lanes.Go(func() { r.nemesis.lane(disturbing, lane, r.Seed, faults, r.Pause) })
	}
	lanes.Go(func() { r.nemesis.lane(disturbing, r.Lanes, r.Seed, changes, r.Pause) })
	var changed []Phase
	if r.Passwords {
		lanes.Go(func() { changed = r.changePasswords(disturbing) })
		clients.Go(func() { r.intrude(loading) })
	}
	lanes.Wait()
	r.say("no more faults; waiting for the group to be whole")
	healing, cancel := context.WithTimeout(ctx, healPatience)
	defer cancel()
	if err := r.cluster.awaitServing(healing); err != nil {
		r.failed("the group is whole again at the end", "%v", err)
	}
	pause.For(ctx, 2*time.Second)
	r.report.LoadTo = r.history.now()
	stopLoad()
	clients.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := r.load.endPublishing(ctx); err != nil {
		r.failed("whoever listens hears everything", "%v", err)
	}
	stopListening()
	<-r.load.listened // before the history ends
	if stallErr != nil {
		return stallErr
	}
	asking, cancelAsking := context.WithTimeout(ctx, 30*time.Second)
	defer cancelAsking()
	entries, err := r.cluster.admin.WorkLog(asking, r.cluster.Plan.Group, workLogLimit)
	if err != nil {
		r.failed("decisions can be explained", "the work log: %v", err)
	}
	r.report.Phases = slices.Concat(failOvers(entries, r.history.began, r.report.LoadTo), stalls, changed)
	if err := r.load.finalReads(ctx); err != nil {
		r.failed("everything can be read at the end", "%v", err)
	}
	if err := r.compareDigests(ctx); err != nil {
		r.failed("all KV nodes hold the same", "%v", err)
	}
	if r.Passwords {
		r.intrudeEverywhere(ctx)
	}
	return nil
}

// watch shows a line every few seconds, and starts again what ended although nobody did anything to it.
func (r *run) watch(ctx context.Context) {
	began := time.Now()
	for i := 0; pause.For(ctx, time.Second); i++ {
		r.nemesis.revive()
		if i%5 != 4 {
			continue
		}
		ok, refused, unknown, last := r.history.tally()
		total, active := r.nemesis.snapshot()
		asking, cancel := context.WithTimeout(ctx, time.Second)
		master := "?"
		if group, _, err := r.cluster.group(asking); err == nil {
			master = fmt.Sprintf("%s epoch %d %s", group.GetMaster(), group.GetEpoch(), group.GetState())
		}
		cancel()
		r.say(fmt.Sprintf("%3.0f s: %d faults (now: %s), %d ok, %d refused, %d unknown, last write %d ms ago, master %s",
			time.Since(began).Seconds(), total, strings.Join(active, ", "), ok, refused, unknown, (r.history.now()-last)/int64(time.Millisecond), master))
	}
}

// revive starts processes that nobody has claimed and that do not run. That they ended by themselves is a broken promise.
func (n *nemesis) revive() {
	for _, p := range n.processes() {
		t := &turn{nemesis: n, fault: &Fault{}}
		if !t.claim(p.Name) {
			continue
		}
		if n.Pid(p.Name) == 0 {
			n.failed("processes end only when they must", "%s ended by itself; the end of its log:\n%s", p.Name, n.Tail(p.Name, 12))
			if err := n.start(p.Name); err != nil {
				n.failed("processes come back by themselves", "%v", err)
			}
		}
		t.release()
	}
}

// compareDigests reads the digests of all KV nodes until they are of one LSN, and compares them.
func (r *run) compareDigests(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return pause.Until(ctx, untilPause, func() error {
		var lsn int64
		var sum, first string
		for i, replica := range r.cluster.nodes() {
			value, err := once(ctx, r.cluster.login(), replica.KVAddr, 10*time.Second, "SMR", "DIGEST")
			if err != nil {
				return fmt.Errorf("digest of %s: %w", replica.Node, err)
			}
			if len(value.Items) != 2 {
				return fmt.Errorf("digest of %s: a reply of %d items", replica.Node, len(value.Items))
			}
			switch {
			case i == 0:
				lsn, sum, first = value.Items[0].Int, value.Items[1].Text, replica.Node
			case value.Items[0].Int != lsn:
				return fmt.Errorf("%s is at LSN %d and %s at %d", first, lsn, replica.Node, value.Items[0].Int)
			case value.Items[1].Text != sum:
				return fmt.Errorf("at LSN %d the digest of %s is %s and that of %s is %s", lsn, first, sum, replica.Node, value.Items[1].Text)
			}
		}
		return nil
	})
}

// judge holds what the clients saw against the rules.
func (r *run) judge(ops []Op) {
	p := r.report
	p.Seconds = r.Duration.Seconds()
	p.Faults = r.nemesis.faults()
	p.Checked = checkHistory(ops, r.Dir)
	p.Checked.Violations = append(p.Checked.Violations, r.violations...)
	for _, text := range r.load.unexpected {
		p.Checked.Violations = append(p.Checked.Violations, Violation{Rule: "no unexpected reply", Text: text})
	}
	p.PerKind = perKind(p.Faults)
	p.Windows = findWindows(ops, p.Faults, p.Phases, p.LoadFrom, p.LoadTo)
	p.Checked.Violations = append(p.Checked.Violations, judgeWindows(p.Windows)...)
	p.Latencies = latencies(ops)
	p.WritesPerSecond = perSecond(ops, p.LoadTo)
	p.Outcomes = map[Outcome]int{}
	for _, op := range ops {
		p.Outcomes[op.Outcome]++
	}
	p.FailedDials = r.load.refused.Load()
	p.Images = r.countImages()
}

// countImages counts what the processes said of images and logs.
func (r *run) countImages() Images {
	images := Images{Restored: r.moments}
	for _, replica := range r.cluster.Plan.Replicas {
		kv, log := r.cluster.LogPath(local.KVNodeOf(replica.Node)), r.cluster.LogPath(local.ReplicatorOf(replica.Node))
		loaded, started := countLines(kv, `msg="image loaded"`), countLines(kv, "milliseconds=")-countLines(kv, `msg="image taken"`)
		images.Taken += countLines(kv, `msg="image taken"`)
		images.Needed += countLines(kv, `msg="image needed"`)
		images.Loaded += min(loaded, started)
		images.Jumped += loaded - min(loaded, started)
		images.Trimmed += countLines(log, `msg="log trimmed"`)
	}
	return images
}

// Check judges a history file again. Pictures go to dir.
func Check(path, dir string) (Checked, error) {
	file, err := os.Open(path)
	if err != nil {
		return Checked{}, fmt.Errorf("open history: %w", err)
	}
	defer file.Close()
	ops, err := readHistory(file)
	if err != nil {
		return Checked{}, err
	}
	return checkHistory(ops, dir), nil
}

func machine() string {
	kernel := make([]byte, 64)
	file, err := os.Open("/proc/sys/kernel/osrelease")
	if err != nil {
		return fmt.Sprintf("%s/%s, %d CPUs", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	}
	defer file.Close()
	n, _ := file.Read(kernel)
	return fmt.Sprintf("%s/%s %s, %d CPUs", runtime.GOOS, runtime.GOARCH, strings.TrimSpace(string(kernel[:n])), runtime.NumCPU())
}

// version is the commit that the program was built from, as far as the build tells.
func version() string {
	revision, modified := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				modified = " with changes"
			}
		}
	}
	return revision + modified
}

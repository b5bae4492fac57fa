package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/bench/parts"
	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// Lifecycle is the system of the rows about restarts, images and joining. It keeps no more log than it must, so that a replica
// which joins needs an image, and takes images when a row says so.
const Lifecycle = "lockstep-lifecycle"

func startLifecycle(ctx context.Context, e *Env, dir string) (*Running, error) {
	return e.startLockstep(ctx, dir, local.Options{}, map[local.Kind][]string{
		local.KindReplicator: {"--log-keep-bytes", "1MiB", "--file-size", "16MiB"},
		local.KindKVNode:     {"--image-log", "1GiB", "--image-every", "24h"},
	})
}

// lifecycleRows are the figures of restart, images and joining: issue 5.
func lifecycleRows() []Row {
	atMost := func(bound float64, unit string) Goal { return Goal{Bound: bound, Unit: unit} }
	atLeast := func(bound float64, unit string) Goal { return Goal{Bound: bound, AtLeast: true, Unit: unit} }
	var rows []Row
	for _, m := range []struct {
		name, about string
		goal        Goal
		measure     func(*lifecycle, context.Context) (Outcome, error)
		system      string // Lifecycle, if it is empty
	}{
		{"image-share", "bytes of an image after 1 % of a million keys of 100 bytes were changed, by those of a full one", atMost(5, "%"), (*lifecycle).imageShare, ""},
		{"image-p99", "p99 of SET at half of the maximum while images are written, by the p99 without; medians of single seconds", atMost(1.5, ""), (*lifecycle).imageP99, ""},
		{"restart", "kill -9 of a node with a million keys and 64 MiB of log behind its image: from its start until it serves", atMost(3, "s"), (*lifecycle).restarts, ""},
		{"image-load", "loading that image at a restart", atLeast(200, "MB/s"), (*lifecycle).imageLoad, ""},
		{"join", "SETs answered while an empty replica joins a group of a million keys, at half of the maximum, of those sent", atLeast(70, "%"), (*lifecycle).join, ""},
		{"restart-by-log", "random restarts under writes after which a node needed no image", atLeast(100, "%"), (*lifecycle).randomRestarts, LockstepAlways},
	} {
		system := cmp.Or(m.system, Lifecycle)
		rows = append(rows, Row{Name: m.name, About: m.about, Goal: m.goal, Systems: []string{system}, Run: func(ctx context.Context, e *Env) (Outcome, error) {
			running, err := e.System(ctx, system)
			if err != nil {
				return Outcome{}, err
			}
			l := newLifecycle(e, running.Cluster)
			if err := l.fill(ctx, running); err != nil {
				return Outcome{}, err
			}
			return m.measure(l, ctx)
		}})
	}
	return append(rows,
		Row{Name: "cold-read", About: "p50 of a GET of one client while a node keeps a quarter of its data in memory: most values are read from its last image",
			Goal: atMost(1, "ms"), Run: coldRead},
		Row{Name: "log-replay", About: "SETs of 64 bytes executed from a log, a second of processor time", Goal: atLeast(1e6, "1/s"), Run: logReplay},
		Row{Name: "log-scan", About: "reading a GiB of log that is in memory, with all checksums, processor time", Goal: atMost(2.5, "s"), Run: logScan})
}

// lifecycle is a cluster that is measured.
type lifecycle struct {
	e        *Env
	cluster  *local.Cluster
	keys     int
	logBytes int64 // behind an image
	dice     *rand.Rand
}

// lifecycleValue is the size of values in bytes.
const lifecycleValue = 100

func newLifecycle(e *Env, cluster *local.Cluster) *lifecycle {
	l := &lifecycle{e: e, cluster: cluster, keys: 1_000_000, logBytes: 64 << 20, dice: rand.New(rand.NewPCG(5, 1))}
	if e.Small {
		l.keys, l.logBytes = l.keys/10, l.logBytes/10
	}
	return l
}

// replicas returns the master and the others.
func (l *lifecycle) replicas(ctx context.Context) (master local.Replica, slaves []local.Replica, err error) {
	at, err := masterOf(ctx, l.cluster)
	if err != nil {
		return master, nil, err
	}
	return l.cluster.Plan.Replicas[at], slices.Delete(slices.Clone(l.cluster.Plan.Replicas), at, at+1), nil
}

func lifecycleKey(b []byte, number int) []byte {
	return strconv.AppendInt(append(b, "life:"...), int64(100_000_000+number), 10)
}

// set appends a command that sets a key to bytes that cannot be compressed.
func (l *lifecycle) set(b []byte, key int) []byte {
	var value [lifecycleValue + 4]byte // eight at a time
	for i := 0; i < lifecycleValue; i += 8 {
		n := l.dice.Uint64()
		for j := range 8 {
			value[i+j] = byte(n >> (8 * j))
		}
	}
	return appendCommand(b, "SET", lifecycleKey(nil, key), value[:lifecycleValue])
}

// change sets so many keys, drawn, on a node.
func (l *lifecycle) change(ctx context.Context, addr string, count int) error {
	return pour(ctx, addr, func(b []byte) ([]byte, bool) {
		if count == 0 {
			return b, false
		}
		count--
		return l.set(b, l.dice.IntN(l.keys)), true
	})
}

// fill sets all keys, once for each system.
func (l *lifecycle) fill(ctx context.Context, running *Running) error {
	if running.filled[Lifecycle] {
		return nil
	}
	master, _, err := l.replicas(ctx)
	if err != nil {
		return err
	}
	begun, next := time.Now(), 0
	err = pour(ctx, master.KVAddr, func(b []byte) ([]byte, bool) {
		if next == l.keys {
			return b, false
		}
		next++
		return l.set(b, next-1), true
	})
	if err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	running.filled[Lifecycle] = true
	l.e.Progress(fmt.Sprintf("%d keys in %.1f s", l.keys, time.Since(begun).Seconds()))
	return l.level(ctx)
}

// level returns when every KV node has executed what is committed now.
func (l *lifecycle) level(ctx context.Context) error {
	client, err := l.cluster.Admin()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return l.cluster.AwaitHealthy(ctx, client) // every KV node answers a linearizable read
}

// imageFigures are of one image.
type imageFigures struct {
	Bytes, Written int64
	taken          time.Duration
}

// image makes a node take an image, and reads what it wrote.
func (l *lifecycle) image(ctx context.Context, r local.Replica) (figures imageFigures, err error) {
	begun := time.Now()
	if _, err := ask(ctx, r.KVAddr, "SAVE"); err != nil {
		return figures, fmt.Errorf("image of %s: %w", r.Node, err)
	}
	figures.taken = time.Since(begun)
	names, err := filepath.Glob(filepath.Join(l.cluster.KVDir(r.Node), "images", "*", "image.json"))
	if err != nil || len(names) == 0 {
		return figures, errors.Join(fmt.Errorf("image of %s: none is there", r.Node), err)
	}
	slices.Sort(names)
	content, err := os.ReadFile(names[len(names)-1])
	if err != nil {
		return figures, err
	}
	return figures, json.Unmarshal(content, &figures)
}

func (l *lifecycle) imageShare(ctx context.Context) (o Outcome, err error) {
	master, slaves, err := l.replicas(ctx)
	if err != nil {
		return o, err
	}
	full, err := l.image(ctx, slaves[0])
	if err != nil {
		return o, err
	}
	if err := l.change(ctx, master.KVAddr, l.keys/100); err != nil {
		return o, err
	}
	if err := l.level(ctx); err != nil {
		return o, err
	}
	changed, err := l.image(ctx, slaves[0])
	o.Value = 100 * float64(changed.Written) / float64(full.Bytes)
	o.Measured = fmt.Sprintf("%.1f of %.1f MB", float64(changed.Written)/1e6, float64(full.Bytes)/1e6)
	o.Notes = append(o.Notes, fmt.Sprintf("the full image took %.1f s, the other %.1f s", full.taken.Seconds(), changed.taken.Seconds()))
	return o, err
}

const (
	// lifecycleConns is the number of connections of writers.
	lifecycleConns = 50
	// phaseTime is how long writes go on with and without an image in each round: several images.
	phaseTime = 5 * time.Second
)

// maximum measures how many writes a second there can be.
func (l *lifecycle) maximum(ctx context.Context, addr string) (float64, error) {
	w := newWriters(addr, lifecycleConns, 0, l.keys)
	ctx, cancel := context.WithTimeout(ctx, phaseTime)
	defer cancel()
	begun := time.Now()
	err := w.run(ctx)
	if count := w.total(); count > 0 {
		return float64(count) / time.Since(begun).Seconds(), err
	}
	return 0, errors.Join(errors.New("not one write was answered"), err)
}

// imageP99 writes at half of the maximum, in turns with the master's node writing one image behind the other, and without.
func (l *lifecycle) imageP99(ctx context.Context) (o Outcome, err error) {
	master, _, err := l.replicas(ctx)
	if err != nil {
		return o, err
	}
	if _, err := l.image(ctx, master); err != nil { // a full one, perhaps
		return o, err
	}
	most, err := l.maximum(ctx, master.KVAddr)
	if err != nil {
		return o, err
	}
	w := newWriters(master.KVAddr, lifecycleConns, most/2, l.keys)
	var quiet, beside [][]*timesKept // for each round its seconds
	var images []float64             // how long each took, in seconds
	writeImages := func() error {
		for begun := time.Now(); time.Since(begun) < phaseTime; {
			figures, err := l.image(ctx, master)
			if err != nil {
				return err
			}
			images = append(images, figures.taken.Seconds())
		}
		return nil
	}
	rest := func() error {
		if !pause.For(ctx, phaseTime) {
			return ctx.Err()
		}
		return nil
	}
	err = w.during(ctx, func() error {
		for range l.e.Rounds {
			without, err := w.phase(rest)
			if err != nil {
				return err
			}
			with, err := w.phase(writeImages)
			if err != nil {
				return err
			}
			quiet, beside = append(quiet, without), append(beside, with)
		}
		return nil
	})
	if err != nil {
		return o, err
	}
	// figures returns the medians of what the seconds of each round say, and that of all of them.
	figures := func(rounds [][]*timesKept, quantile float64) (each []float64, all float64) {
		var every []float64
		for _, seconds := range rounds {
			var of []float64
			for _, second := range seconds {
				of = append(of, micros(second.times.Quantile(quantile))/1000)
			}
			each, every = append(each, median(of)), append(every, of...)
		}
		return each, median(every)
	}
	total := func(rounds [][]*timesKept) float64 {
		var all Histogram
		for _, second := range slices.Concat(rounds...) {
			all.Merge(&second.times)
		}
		return micros(all.Quantile(0.99)) / 1000
	}
	withEach, with := figures(beside, 0.99)
	withoutEach, without := figures(quiet, 0.99)
	_, middleWith := figures(beside, 0.5)
	_, middleWithout := figures(quiet, 0.5)
	o.compare(withEach, withoutEach)
	o.Value = by(with, without)
	o.Measured = fmt.Sprintf("%.1f by %.1f ms", with, without)
	o.Notes = append(o.Notes, fmt.Sprintf("%.0f SETs a second; %d images, of %.1f s; median of single seconds with and without: p50 %.1f and %.1f ms, p99 %.1f and %.1f ms", most/2,
		len(images), median(images), middleWith, middleWithout, with, without),
		fmt.Sprintf("of all seconds together, with their stalls: p99 %.1f and %.1f ms; rounds: %.1f and %.1f ms", total(beside), total(quiet), withEach, withoutEach))
	return o, nil
}

// restarts kills both processes of a slave.
func (l *lifecycle) restarts(ctx context.Context) (o Outcome, err error) {
	var all []float64
	for range l.e.Rounds {
		master, slaves, err := l.replicas(ctx)
		if err != nil {
			return o, err
		}
		if err := l.grow(ctx, master, slaves[0]); err != nil {
			return o, err
		}
		taken, err := l.restart(ctx, slaves[0])
		if err != nil {
			return o, err
		}
		all = append(all, taken.Seconds())
		used := cpuTime(l.cluster.Pid(local.KVNodeOf(slaves[0].Node))) + cpuTime(l.cluster.Pid(local.ReplicatorOf(slaves[0].Node)))
		o.Notes = append(o.Notes, fmt.Sprintf("served after %.2f s, of which its processes used %.2f s of processor time", taken.Seconds(), used.Seconds()))
		l.e.Progress(fmt.Sprintf("%s serves after %.2f s", slaves[0].Node, taken.Seconds()))
		if err := l.level(ctx); err != nil {
			return o, err
		}
	}
	slices.Sort(all)
	o.Value, o.Low, o.High = all[len(all)/2], all[0], all[len(all)-1]
	o.Measured = fmt.Sprintf("%d keys, %d MiB of log", l.keys, l.logBytes>>20)
	return o, nil
}

// grow takes an image of a node and lets the log grow behind it.
func (l *lifecycle) grow(ctx context.Context, master, node local.Replica) error {
	if _, err := l.image(ctx, node); err != nil {
		return err
	}
	from, err := infoNumber(ctx, node.KVAddr, "smr_applied_lsn")
	if err != nil {
		return err
	}
	for at := from; at-from < l.logBytes; {
		if err := l.change(ctx, master.KVAddr, 1+int((l.logBytes-(at-from))/(3*lifecycleValue))); err != nil {
			return err
		}
		if at, err = infoNumber(ctx, master.KVAddr, "smr_applied_lsn"); err != nil {
			return err
		}
	}
	return l.level(ctx)
}

// restart kills a node and measures from its start until it answers a read that must not be old.
func (l *lifecycle) restart(ctx context.Context, r local.Replica) (time.Duration, error) {
	names := []string{local.KVNodeOf(r.Node), local.ReplicatorOf(r.Node)} // the KV node has the most to do: it is started first
	if err := l.end(names, syscall.SIGKILL); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	begun := time.Now()
	served := make(chan error, 1)
	go func() { served <- untilServed(ctx, r.KVAddr) }()
	err := l.begin(names)
	if err != nil {
		cancel()
	}
	err = errors.Join(err, <-served)
	return time.Since(begun), err
}

func (l *lifecycle) end(names []string, signal syscall.Signal) error {
	for _, name := range names {
		if err := l.cluster.Signal(name, signal); err != nil {
			return err
		}
	}
	for _, name := range names {
		<-l.cluster.Ended(name)
	}
	return nil
}

func (l *lifecycle) begin(names []string) error {
	for _, name := range names {
		if _, err := l.cluster.StartProcess(name, l.e.Binaries); err != nil {
			return err
		}
	}
	return nil
}

// untilServed returns when a KV node answers a linearizable read.
func untilServed(ctx context.Context, addr string) error {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		_, err := ask(ctx, addr, "GET", string(lifecycleKey(nil, 1)))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w", addr, err)
		case <-poll.C:
		}
	}
}

// imageLoad restarts a slave's KV node and reads what it says of its image.
func (l *lifecycle) imageLoad(ctx context.Context) (o Outcome, err error) {
	var all []float64
	for range l.e.Rounds {
		_, slaves, err := l.replicas(ctx)
		if err != nil {
			return o, err
		}
		if _, err := l.image(ctx, slaves[0]); err != nil {
			return o, err
		}
		if _, err := l.restart(ctx, slaves[0]); err != nil {
			return o, err
		}
		var bytes, took float64
		for word := range strings.FieldsSeq(l.lastLine(local.KVNodeOf(slaves[0].Node), "image loaded")) {
			name, number, _ := strings.Cut(word, "=")
			switch value, _ := strconv.ParseFloat(number, 64); name {
			case "bytes":
				bytes = value
			case "milliseconds":
				took = value
			}
		}
		if bytes == 0 || took == 0 {
			return o, fmt.Errorf("%s does not say that it loaded an image: see %s", slaves[0].Node, l.cluster.LogPath(local.KVNodeOf(slaves[0].Node)))
		}
		all = append(all, bytes/1000/took)
		o.Measured = fmt.Sprintf("%.0f MB in %.2f s", bytes/1e6, took/1000)
	}
	slices.Sort(all)
	o.Value, o.Low, o.High = all[len(all)/2], all[0], all[len(all)-1]
	return o, nil
}

// lastLine returns the last line of a process's log that holds a text, from the text on.
func (l *lifecycle) lastLine(name, text string) string {
	content, err := os.ReadFile(l.cluster.LogPath(name))
	if err != nil {
		return ""
	}
	at := strings.LastIndex(string(content), text)
	if at < 0 {
		return ""
	}
	line, _, _ := strings.Cut(string(content[at:]), "\n")
	return line
}

// fetched counts the images that KV nodes got of their peers.
func (l *lifecycle) fetched() (count int) {
	for _, r := range l.cluster.Plan.Replicas {
		content, err := os.ReadFile(l.cluster.LogPath(local.KVNodeOf(r.Node)))
		if err == nil {
			count += strings.Count(string(content), `msg="image fetched"`)
		}
	}
	return count
}

// join lets an empty replica join while the group takes writes at half of the maximum. It stays.
func (l *lifecycle) join(ctx context.Context) (o Outcome, err error) {
	for _, r := range l.cluster.Plan.Replicas { // so that the log of each begins behind an image
		if _, err := l.image(ctx, r); err != nil {
			return o, err
		}
	}
	master, _, err := l.replicas(ctx)
	if err != nil {
		return o, err
	}
	most, err := l.maximum(ctx, master.KVAddr)
	if err != nil {
		return o, err
	}
	w := newWriters(master.KVAddr, lifecycleConns, most/2, l.keys)
	fetched := l.fetched()
	var sent, reached, worst float64
	var taken time.Duration
	err = w.during(ctx, func() error {
		if !pause.For(ctx, time.Second) { // all writers are connected
			return ctx.Err()
		}
		watching, seen := context.WithCancel(ctx)
		defer seen()
		slowest := make(chan float64, 1)
		go func() { slowest <- worstSecond(watching, w) }()
		begun, before := time.Now(), w.total()
		if _, err := l.cluster.AddNode("", l.e.Binaries); err != nil {
			return err
		}
		err := l.level(ctx)
		taken = time.Since(begun)
		sent, reached = taken.Seconds()*most/2, float64(w.total()-before)
		seen()
		worst = <-slowest
		return err
	})
	if err != nil {
		return o, err
	}
	o.Value = 100 * reached / sent
	o.Measured = fmt.Sprintf("%.0f of %.0f a second", reached/taken.Seconds(), most/2)
	o.Notes = append(o.Notes, fmt.Sprintf("it joined in %.1f s; %.0f %% in the worst second", taken.Seconds(), 200*worst/most))
	if l.fetched() == fetched {
		o.Notes = append(o.Notes, "it was filled from the log, not by an image")
	}
	return o, nil
}

// randomRestarts kills or stops a process or a node, drawn each time, lets others write, and starts it again. The group keeps as much log as
// one does by default: a slave that takes an image trims its own log without regard to others, and may lead next.
func (l *lifecycle) randomRestarts(ctx context.Context) (o Outcome, err error) {
	restarts := 100
	if l.e.Small {
		restarts = 5
	}
	by := 0 // the log
	for i := range restarts {
		fetched := l.fetched()
		replicas := l.cluster.Plan.Replicas
		at := l.dice.IntN(len(replicas))
		node := replicas[at].Node
		other := replicas[(at+1+l.dice.IntN(len(replicas)-1))%len(replicas)]
		names := [][]string{{local.KVNodeOf(node)}, {local.ReplicatorOf(node)}, {local.KVNodeOf(node), local.ReplicatorOf(node)}}[l.dice.IntN(3)]
		if err := l.end(names, []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[l.dice.IntN(2)]); err != nil {
			return o, err
		}
		if err := l.change(ctx, other.KVAddr, l.dice.IntN(20_000)); err != nil {
			return o, fmt.Errorf("restart %d: write to %s: %w", i+1, other.Node, err)
		}
		if l.dice.IntN(4) == 0 {
			if _, err := l.image(ctx, other); err != nil {
				return o, err
			}
		}
		if err := l.begin(names); err != nil {
			return o, err
		}
		if err := l.level(ctx); err != nil {
			return o, fmt.Errorf("restart %d of %v: %w", i+1, names, err)
		}
		if l.fetched() == fetched {
			by++
		}
		if (i+1)%10 == 0 {
			l.e.Progress(fmt.Sprintf("%d of %d restarts, %d without an image", i+1, restarts, by))
		}
	}
	o.Value = 100 * float64(by) / float64(restarts)
	o.Measured = fmt.Sprintf("%d of %d", by, restarts)
	return o, nil
}

// logReplay measures inside of this process.
func logReplay(_ context.Context, e *Env) (Outcome, error) {
	commands := 1_000_000
	if e.Small {
		commands /= 10
	}
	f, err := parts.Replay(commands)
	return Outcome{Value: float64(f.Amount) / f.CPU.Seconds(), Measured: fmt.Sprintf("%d in %.2f s, %.2f s of processor time", f.Amount, f.Wall.Seconds(), f.CPU.Seconds())}, err
}

func logScan(_ context.Context, e *Env) (Outcome, error) {
	dir, err := e.Directory("scan")
	if err != nil {
		return Outcome{}, err
	}
	bytes := int64(256 << 20)
	if e.Small {
		bytes /= 10
	}
	f, err := parts.Scan(dir, bytes)
	gib := float64(f.Amount) / (1 << 30)
	return Outcome{Value: f.CPU.Seconds() / gib, Measured: fmt.Sprintf("%d MiB in %.2f s", f.Amount>>20, f.Wall.Seconds())}, errors.Join(err, os.RemoveAll(dir))
}

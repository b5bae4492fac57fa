package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"lockstep/internal/local"
)

// Stage is one part of a write under one load.
type Stage struct {
	Load  string  `json:"load"`
	What  string  `json:"what"`
	Mean  float64 `json:"mean"`
	Unit  string  `json:"unit"`
	Floor string  `json:"floor"` // of this machine, if there is one
}

// floors are what the machine itself takes.
type floors struct {
	sync time.Duration // writing 4 KiB into a file that is long enough, and fdatasync: p50
	trip time.Duration // a request over TCP on loopback and its answer: p50
}

// RunStages measures where the time of SETs goes: of the processes' own histograms (/metrics), and beside them what the machine
// takes at least. With a directory, profiles and traces of all processes under each load are written there.
func RunStages(ctx context.Context, e *Env, profiles, revision string) (stages []Stage, report *Report, err error) {
	report = newReport(e, revision)
	flag := []string{"--pprof"}
	extra := map[local.Kind][]string{local.KindKVNode: flag, local.KindReplicator: flag, local.KindConfmaster: flag}
	r, err := e.StartLockstep(ctx, "stages", local.Options{}, extra)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	least, err := measureFloors(r.Cluster.Dir)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range []Load{loadOf("set", 1, 1), loadOf("set", 50, 1), loadOf("set", 50, 16)} {
		l.Time = e.Time * time.Duration(e.Rounds)
		l.Warmup = 0 // the histograms count it too
		before, err := scrapeAll(ctx, r.Cluster)
		if err != nil {
			return nil, nil, err
		}
		var profiled chan error
		if profiles != "" {
			profiled = make(chan error, 1)
			name := fmt.Sprintf("set-c%d-p%d", l.Connections, l.Pipeline)
			go func() { profiled <- profileAll(ctx, r.Cluster, filepath.Join(profiles, name), l.Time) }()
		}
		s, err := e.Measure(ctx, r, "master", l)
		if profiled != nil {
			err = errors.Join(err, <-profiled)
		}
		if err != nil {
			return nil, nil, err
		}
		s.Row = fmt.Sprintf("stages-c%d-p%d", l.Connections, l.Pipeline)
		e.Keep(s)
		after, err := scrapeAll(ctx, r.Cluster)
		if err != nil {
			return nil, nil, err
		}
		master, err := masterOf(ctx, r.Cluster)
		if err != nil {
			return nil, nil, err
		}
		stages = append(stages, stagesOf(s, before, after, r.Cluster.Plan.Replicas[master].Node, least)...)
	}
	report.finish(e)
	return stages, report, nil
}

// scrapeAll reads the metrics of all replicators and KV nodes, by process.
func scrapeAll(ctx context.Context, cluster *local.Cluster) (map[string]metrics, error) {
	all := make(map[string]metrics)
	for _, p := range cluster.Processes() {
		if p.Kind == local.KindConfmaster {
			continue
		}
		m, err := scrape(ctx, cluster.HTTPAddr(p))
		if err != nil {
			return nil, fmt.Errorf("metrics of %s: %w", p.Name, err)
		}
		all[p.Name] = m
	}
	return all, nil
}

// stagesOf lists the parts of a write, in the order in which they happen.
func stagesOf(s Sample, before, after map[string]metrics, master string, least floors) []Stage {
	load := fmt.Sprintf("%d connections, pipeline %d", s.Load.Connections, s.Load.Pipeline)
	mean := func(process, name string, labels ...string) float64 {
		now, then := after[process], before[process]
		return by(now.sum(name+"_sum", labels...)-then.sum(name+"_sum", labels...), now.sum(name+"_count", labels...)-then.sum(name+"_count", labels...))
	}
	slave := func(name string, labels ...string) float64 { // the faster one: it makes the second copy
		fastest := 0.0
		for process := range after {
			node, kind, _ := strings.Cut(process, "-")
			if value := mean(process, name, labels...); kind == "replicator" && node != master && value > 0 && (fastest == 0 || value < fastest) {
				fastest = value
			}
		}
		return fastest
	}
	leader, node := local.ReplicatorOf(master), local.KVNodeOf(master)
	sync, trip := fmt.Sprintf("%.0f us: 4 KiB and fdatasync", micros(least.sync)), fmt.Sprintf("%.0f us: a round trip on loopback", micros(least.trip))
	stages := []Stage{
		{load, "requests in one frame", mean(leader, "lockstep_replica_frame_requests"), "", ""},
		{load, "bytes of requests in one frame", mean(leader, "lockstep_replica_frame_bytes"), "", ""},
		{load, "master: writing frames into the file", 1e6 * mean(leader, "lockstep_replica_write_duration_seconds"), "us", ""},
		{load, "master: fdatasync", 1e6 * mean(leader, "lockstep_replica_fsync_duration_seconds", `purpose="frames"`), "us", sync},
		{load, "faster slave: fdatasync", 1e6 * slave("lockstep_replica_fsync_duration_seconds", `purpose="frames"`), "us", sync},
		{load, "master: from in the log until durable here", 1e6 * mean(leader, "lockstep_replica_commit_duration_seconds", `stage="durable"`), "us", sync},
		{load, "master: from in the log until on two disks", 1e6 * mean(leader, "lockstep_replica_commit_duration_seconds", `stage="commit"`), "us", sync + ", beside a trip"},
		{load, "KV node: from handed to the log until committed and executed", 1e6 * mean(node, "lockstep_kv_commit_duration_seconds"), "us", ""},
		{load, "client: until answered (mean)", s.Latency.Mean, "us", trip},
	}
	for _, kind := range []string{"kvnode", "replicator", "confmaster"} {
		stages = append(stages, Stage{load, "CPU of all " + kind + "s for a SET", s.Kinds[kind], "us", ""})
	}
	return append(stages, Stage{load, "CPU of the load generator for a SET", s.OwnCPU, "us", ""})
}

// measureFloors asks the machine, in the directory of the servers' disks.
func measureFloors(dir string) (floors, error) {
	disk, err := syncFloor(dir)
	if err != nil {
		return floors{}, fmt.Errorf("floor of a sync: %w", err)
	}
	trip, err := tripFloor()
	if err != nil {
		return floors{}, fmt.Errorf("floor of a round trip: %w", err)
	}
	return floors{disk, trip}, nil
}

const floorTries = 300

func syncFloor(dir string) (time.Duration, error) {
	file, err := os.CreateTemp(dir, "floor")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	page := make([]byte, 4<<10)
	for range floorTries { // so that the file need not grow below
		if _, err := file.Write(page); err != nil {
			return 0, err
		}
	}
	if err := file.Sync(); err != nil {
		return 0, err
	}
	var all Histogram
	for i := range floorTries {
		begun := time.Now()
		if _, err := file.WriteAt(page, int64(i*len(page))); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return 0, err
		}
		all.Add(time.Since(begun), 1)
	}
	return all.Quantile(0.5), nil
}

func tripFloor() (time.Duration, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(struct{ io.Writer }{conn}, conn) // until the other side has enough
	})
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	piece := make([]byte, 107)
	var all Histogram
	for range 10 * floorTries {
		begun := time.Now()
		if _, err := conn.Write(piece); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(conn, piece); err != nil {
			return 0, err
		}
		all.Add(time.Since(begun), 1)
	}
	return all.Quantile(0.5), nil
}

// traceTime is how long an execution trace is.
const traceTime = time.Second

// profileAll writes what every process can tell of itself while it is under load, as DIR-PROCESS.KIND: where its processor time went (cpu), what
// was allocated (allocs), where goroutines waited for each other (block) and for locks (mutex), for all of length but its last
// seconds, and then what the scheduler did (trace; go tool trace). The kinds are read with go tool pprof.
func profileAll(ctx context.Context, cluster *local.Cluster, prefix string, length time.Duration) error {
	if err := os.MkdirAll(filepath.Dir(prefix), 0o755); err != nil {
		return fmt.Errorf("make directory for profiles: %w", err)
	}
	seconds := max(int((length - 2*traceTime).Seconds()), 1)
	var group errgroup.Group
	for _, p := range cluster.Processes() {
		for kind, page := range map[string]string{"cpu": "profile", "allocs": "allocs", "block": "block", "mutex": "mutex"} {
			group.Go(func() error {
				url := fmt.Sprintf("http://%s/debug/pprof/%s?seconds=%d", cluster.HTTPAddr(p), page, seconds)
				if err := fetch(ctx, url, prefix+"-"+p.Name+"."+kind); err != nil || kind != "cpu" {
					return err
				}
				url = fmt.Sprintf("http://%s/debug/pprof/trace?seconds=%d", cluster.HTTPAddr(p), int(traceTime.Seconds()))
				return fetch(ctx, url, prefix+"-"+p.Name+".trace")
			})
		}
	}
	return group.Wait()
}

func fetch(ctx context.Context, url, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", url, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %s", response.Status)
	}
	if err == nil {
		err = os.WriteFile(path, content, 0o644)
	}
	if err != nil {
		return fmt.Errorf("profile %s: %w", url, err)
	}
	return nil
}

// RecordStages is Record for the parts of a write.
func (r *Report) RecordStages(page string, stages []Stage) error {
	var b strings.Builder
	r.writeWhen(&b)
	b.WriteString("\n\n| load | part of a write | mean | floor of this machine |\n|---|---|---|---|\n")
	for _, s := range stages {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.Load, s.What, strings.TrimSpace(number(s.Mean)+" "+s.Unit), s.Floor)
	}
	return replaceBetween(page, "stages", b.String())
}

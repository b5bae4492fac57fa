package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// loopRows are the figures of issue 6 that are not a comparison of systems: the tail at half the maximum rate, and bytes.
func loopRows() []Row {
	return []Row{
		{Name: "open-p99", About: "p99 of SET by its p50, open loop at half the maximum rate, 50 connections, sync always", Goal: Goal{Bound: 3},
			Systems: []string{LockstepAlways}, Smoke: true, Run: openTail},
		{Name: "bytes-disk", About: "bytes in the log of a node for a 64-byte SET by the command's own bytes, pipeline 16", Goal: Goal{Bound: 1.4}, Run: func(ctx context.Context, e *Env) (Outcome, error) {
			return e.volume(ctx, func(v *volumes) float64 { return v.log })
		}},
		{Name: "bytes-wire", About: "bytes between the master and one slave, both directions, for a 64-byte SET by the command's own bytes, pipeline 16", Goal: Goal{Bound: 1.4}, Run: func(ctx context.Context, e *Env) (Outcome, error) {
			return e.volume(ctx, func(v *volumes) float64 { return v.wire })
		}},
	}
}

// openTail finds the maximum rate in a closed loop, and then sends half of it whatever happens.
func openTail(ctx context.Context, e *Env) (Outcome, error) {
	place := side{LockstepAlways, "master"}
	var closed, open []Sample
	for round := range e.Rounds {
		s, err := e.measureSide(ctx, "open-p99", place, loadOf("set", 50, 1), round)
		if err != nil {
			return Outcome{}, err
		}
		closed = append(closed, s)
		l := loadOf("set", 50, 1)
		l.Rate = s.Rate / 2
		if s, err = e.measureSide(ctx, "open-p99", place, l, round); err != nil {
			return Outcome{}, err
		}
		open = append(open, s)
	}
	tail := func(s Sample) float64 { return by(s.Latency.P99, s.Latency.P50) }
	all := figuresOf(open, tail)
	out := Outcome{Value: median(all), Errors: failed(open) + failed(closed)}
	out.Low, out.High = all[0], all[0]
	for _, ratio := range all {
		out.Low, out.High = min(out.Low, ratio), max(out.High, ratio)
	}
	p99 := func(s Sample) float64 { return s.Latency.P99 }
	out.Measured = fmt.Sprintf("%s us by %s us at %s/s", number(median(figuresOf(open, p99))), number(median(figuresOf(open, p50.of))), number(median(figuresOf(open, rate.of))))
	out.Notes = []string{describe("closed loop", closed), describe("open loop", open),
		fmt.Sprintf("the generator itself sent too late by %s us (p99)", number(median(figuresOf(open, func(s Sample) float64 { return s.Late }))))}
	return out, nil
}

// volumes are bytes for an operation.
type volumes struct {
	command float64 // of the request as a client sends it
	log     float64 // in the log of one node
	disk    float64 // that all servers made the system write, in whole pages
	wire    float64 // between the master and one slave
	routes  []string
	rate    float64
	errors  uint64
}

// volume measures bytes, once for all rows that show of it.
func (e *Env) volume(ctx context.Context, figure func(*volumes) float64) (Outcome, error) {
	if e.volumes == nil {
		r, x, err := e.startLinked(ctx, "bytes")
		if err != nil {
			return Outcome{}, err
		}
		v, err := e.measureVolumes(ctx, r, x)
		if err = errors.Join(err, r.Stop()); err != nil {
			return Outcome{}, err
		}
		e.volumes = v
	}
	v := e.volumes
	return Outcome{
		Value: by(figure(v), v.command), Measured: fmt.Sprintf("%.1f bytes by %.1f", figure(v), v.command), Errors: v.errors,
		Notes: append([]string{
			fmt.Sprintf("%.0f operations a second through proxies", v.rate),
			fmt.Sprintf("all servers together made the system write %.0f bytes for an operation, in whole pages", v.disk)}, v.routes...),
	}, nil
}

func (e *Env) measureVolumes(ctx context.Context, r *Running, x *links) (*volumes, error) {
	l := loadOf("set", 50, 16)
	l.Warmup, l.Time = 0, e.Time
	request, _, _ := newSource(l, nil, 0).append(nil, 1)
	logs, carried := func() (float64, error) { return logBytes(ctx, r.Cluster) }, x.carriedBytes
	logBefore, err := logs()
	if err != nil {
		return nil, err
	}
	carriedBefore := carried()
	s, err := e.Measure(ctx, r, "master", l)
	if err != nil {
		return nil, err
	}
	// What was acknowledged is on two nodes; the third has it soon.
	if !pause.For(ctx, time.Second) {
		return nil, ctx.Err()
	}
	logAfter, err := logs()
	if err != nil {
		return nil, err
	}
	operations, nodes := float64(s.Operations), float64(len(r.Cluster.Plan.Replicas))
	v := &volumes{command: float64(len(request)), log: (logAfter - logBefore) / operations / nodes, disk: s.Written, rate: s.Rate, errors: s.Failed()}
	for key, now := range carried() {
		grown := float64(now-carriedBefore[key]) / operations
		if grown >= 0.1 {
			v.routes = append(v.routes, fmt.Sprintf("%s to the %s port of %s: %.1f bytes", key.kind, key.port, key.target, grown))
		}
		if key.kind == string(local.KindReplicator) && key.port == dataPort {
			v.wire += grown / (nodes - 1)
		}
	}
	slices.Sort(v.routes)
	return v, nil
}

// logBytes returns how many bytes of frames the replicators have written into their logs, all together.
func logBytes(ctx context.Context, cluster *local.Cluster) (float64, error) {
	total := 0.0
	for _, p := range cluster.Processes() {
		if p.Kind != local.KindReplicator {
			continue
		}
		metrics, err := scrape(ctx, cluster.HTTPAddr(p))
		if err != nil {
			return 0, fmt.Errorf("metrics of %s: %w", p.Name, err)
		}
		total += metrics.sum("lockstep_replica_written_bytes_total")
	}
	return total, nil
}

// metrics are the series of one process, by name with labels.
type metrics map[string]float64

// scrape reads /metrics.
func scrape(ctx context.Context, addr string) (metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", addr, response.Status)
	}
	all := make(metrics)
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		at := strings.LastIndexByte(lines.Text(), ' ')
		if at < 0 || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		if value, err := strconv.ParseFloat(lines.Text()[at+1:], 64); err == nil {
			all[lines.Text()[:at]] = value
		}
	}
	return all, lines.Err()
}

// sum adds up all series of a name whose labels contain each of those given, like `stage="commit"`.
func (m metrics) sum(name string, labels ...string) float64 {
	total := 0.0
series:
	for series, value := range m {
		found, rest, _ := strings.Cut(series, "{")
		if found != name {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue series
			}
		}
		total += value
	}
	return total
}

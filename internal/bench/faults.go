package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// faultRows are the figures of issue 6 about fail-overs and planned changes of the master.
func faultRows() []Row {
	seconds := func(bound float64) Goal { return Goal{Bound: bound, Unit: "s"} }
	return []Row{
		{Name: "failover", About: "kill -9 of the master's processes until the first acknowledged write on another node, p50 of the kills", Goal: seconds(0.5),
			Systems: []string{LockstepAlways}, Smoke: true, Run: func(ctx context.Context, e *Env) (Outcome, error) {
				return e.failover(ctx, func(r DrillReport) float64 { return r.P50ms })
			}},
		{Name: "failover-max", About: "the same, maximum", Goal: seconds(1), Systems: []string{LockstepAlways}, Run: func(ctx context.Context, e *Env) (Outcome, error) {
			return e.failover(ctx, func(r DrillReport) float64 { return r.MaxMs })
		}},
		{Name: "vanished", About: "the master's host vanishes (nothing passes from or to it, its configuration master included) until the first acknowledged write, maximum",
			Goal: seconds(2), Run: vanished},
		{Name: "switchover", About: "planned switch-over, longest pause of a writer on any node, maximum", Goal: Goal{Bound: 50, Unit: "ms"},
			Systems: []string{LockstepAlways}, Run: switchover},
	}
}

// failover runs the drill, once for all rows that show of it.
func (e *Env) failover(ctx context.Context, figure func(DrillReport) float64) (Outcome, error) {
	if e.drilled == nil {
		r, err := e.System(ctx, LockstepAlways)
		if err != nil {
			return Outcome{}, err
		}
		report, err := e.kill(ctx, r.Cluster, DrillConfig{Binaries: e.Binaries, Kills: e.Kills, What: "both", Progress: e.Progress})
		if err != nil {
			return Outcome{}, err
		}
		e.drilled = &report
	}
	var all []float64
	for _, kill := range e.drilled.Kills {
		all = append(all, kill.Ms)
	}
	out := pauses(all)
	out.Value, out.Errors = figure(*e.drilled)/1000, uint64(e.drilled.Errors)
	out.Low, out.High = out.Low/1000, out.High/1000
	return out, nil
}

// pauses sums times in milliseconds up.
func pauses(all []float64) Outcome {
	sorted := slices.Sorted(slices.Values(all))
	var shown []string
	for _, ms := range sorted {
		shown = append(shown, fmt.Sprintf("%.0f", ms))
	}
	return Outcome{
		Low: sorted[0], High: sorted[len(sorted)-1],
		Measured: fmt.Sprintf("%d times: p50 %.0f ms, max %.0f ms", len(all), median(all), sorted[len(sorted)-1]),
		Notes:    []string{"all, in ms: " + strings.Join(shown, " ")},
	}
}

// vanished takes the master's host away, again and again.
func vanished(ctx context.Context, e *Env) (Outcome, error) {
	r, x, err := e.startLinked(ctx, "vanish")
	if err != nil {
		return Outcome{}, err
	}
	var all []float64
	var failures []string
	for i := range max(e.Kills/10, 3) {
		kill, vanishErr := e.vanishOnce(ctx, r, x)
		if vanishErr != nil {
			err = fmt.Errorf("host %d: %w", i+1, vanishErr)
			break
		}
		if kill.Error != "" {
			failures = append(failures, kill.Error)
		}
		all = append(all, kill.Ms)
		e.Progress(fmt.Sprintf("vanished: %s, write acknowledged on %s after %.0f ms %s", kill.Killed, kill.On, kill.Ms, kill.Error))
	}
	if err = errors.Join(err, r.Stop()); err != nil {
		return Outcome{}, err
	}
	out := pauses(all)
	out.Value, out.Low, out.High, out.Errors = out.High/1000, out.Low/1000, out.High/1000, uint64(len(failures))
	out.Notes = append(out.Notes, failures...)
	return out, nil
}

// vanishOnce takes the host of the master away once, and leaves the group whole again.
func (e *Env) vanishOnce(ctx context.Context, r *Running, x *links) (Kill, error) {
	ctx, cancel := context.WithTimeout(ctx, drillTimeout)
	defer cancel()
	client, err := r.Cluster.Admin()
	if err != nil {
		return Kill{}, err
	}
	defer client.Close()
	if err := r.Cluster.AwaitHealthy(ctx, client); err != nil {
		return Kill{}, err
	}
	master, err := masterOf(ctx, r.Cluster)
	if err != nil {
		return Kill{}, err
	}
	conns, err := connectSurvivors(ctx, r.Cluster, master)
	defer closeAll(conns)
	if err != nil {
		return Kill{}, err
	}
	node := r.Cluster.Plan.Replicas[master].Node
	begun := time.Now()
	back := x.vanish(node, r.Cluster.Plan.Confmasters[master].Name())
	defer back()
	kill := firstWrite(conns, begun)
	kill.Killed = node
	return kill, nil
}

// switchover hands mastership on while one client writes on each node.
func switchover(ctx context.Context, e *Env) (Outcome, error) {
	r, err := e.System(ctx, LockstepAlways)
	if err != nil {
		return Outcome{}, err
	}
	client, err := r.Cluster.Admin()
	if err != nil {
		return Outcome{}, err
	}
	defer client.Close()
	var planned, quiet []float64
	for i := range max(min(e.Kills, 20), 1) {
		for _, change := range []bool{false, true} {
			longest, err := e.pauseOfWriters(ctx, r.Cluster, client, change)
			if err != nil {
				return Outcome{}, fmt.Errorf("switch-over %d: %w", i+1, err)
			}
			if change {
				planned = append(planned, longest)
			} else {
				quiet = append(quiet, longest)
			}
		}
		e.Progress(fmt.Sprintf("switch-over %d: longest pause of a writer %.1f ms, %.1f ms before it", i+1, planned[i], quiet[i]))
	}
	out := pauses(planned)
	out.Value = out.High
	still := pauses(quiet)
	out.Notes = append(out.Notes, "as long without a switch-over: "+still.Measured)
	return out, nil
}

const (
	writersRun  = 300 * time.Millisecond // before a switch-over, and as long without one
	writersRest = 500 * time.Millisecond // behind it
)

// pauseOfWriters lets a client write on each node, hands mastership on if change is true, and returns the longest time, in
// milliseconds, that any of them waited for an acknowledgement.
func (e *Env) pauseOfWriters(ctx context.Context, cluster *local.Cluster, client *admin.Client, change bool) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, drillTimeout)
	defer cancel()
	if err := cluster.AwaitHealthy(ctx, client); err != nil {
		return 0, err
	}
	conns, err := connectSurvivors(ctx, cluster, -1)
	defer closeAll(conns)
	if err != nil {
		return 0, err
	}
	stop := make(chan struct{})
	longest := make([]time.Duration, len(conns))
	errs := make([]error, len(conns))
	var wait sync.WaitGroup
	for i, s := range conns {
		wait.Go(func() { longest[i], errs[i] = s.writeUntil(stop) })
	}
	living := pause.For(ctx, writersRun)
	if change && living {
		_, err = client.Switchover(ctx, cluster.Plan.Group, "")
	}
	pause.For(ctx, writersRest)
	close(stop)
	wait.Wait()
	return float64(slices.Max(longest)) / float64(time.Millisecond), errors.Join(append(errs, err, ctx.Err())...)
}

// writeUntil writes until stop is closed, and returns the longest time that a write took.
func (s *survivor) writeUntil(stop <-chan struct{}) (longest time.Duration, err error) {
	for {
		select {
		case <-stop:
			return longest, nil
		default:
		}
		begun := time.Now()
		if err := s.write(); err != nil {
			return longest, fmt.Errorf("writer on %s: %w", s.node, err)
		}
		longest = max(longest, time.Since(begun))
	}
}

// connectSurvivors connects to all nodes but one; -1 is none. The caller closes what is returned, also beside an error.
func connectSurvivors(ctx context.Context, cluster *local.Cluster, without int) (conns []*survivor, err error) {
	for i, r := range cluster.Plan.Replicas {
		if i == without {
			continue
		}
		s, err := connectSurvivor(ctx, r)
		if s != nil {
			conns = append(conns, s)
		}
		if err != nil {
			return conns, fmt.Errorf("KV node of %s: %w", r.Node, err)
		}
	}
	return conns, nil
}

func closeAll(conns []*survivor) {
	for _, s := range conns {
		s.conn.Close()
	}
}

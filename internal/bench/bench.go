package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// Config of a comparison.
type Config struct {
	Dir      string        // for the data of all servers; removed afterwards
	Binaries string        // directory of Lockstep's
	Rounds   int           // of every scenario and server
	Duration time.Duration // of one scenario in one round
	Progress func(line string)
}

// Report is the outcome of a comparison.
type Report struct {
	Machine   string   `json:"machine"`
	Redis     string   `json:"redis"` // version, "" if it is not installed
	Rounds    int      `json:"rounds"`
	Seconds   float64  `json:"seconds"` // of one scenario in one round
	Scenarios []Result `json:"scenarios"`
}

// Result of one scenario.
type Result struct {
	Name     string   `json:"name"`
	Lockstep Figures  `json:"lockstep"`
	Redis    *Figures `json:"redis"` // null if it is not installed
	Ratio    *Ratio   `json:"ratio"` // Lockstep's figures by Redis'
}

// Figures are medians over the rounds.
type Figures struct {
	Rate  float64 `json:"ops_per_second"`
	P50us float64 `json:"p50_us"` // of a whole pipeline
	P99us float64 `json:"p99_us"`
	CPUus float64 `json:"cpu_us_per_op"` // of all server processes together
}

// Ratio compares Lockstep with Redis.
type Ratio struct {
	Rate float64 `json:"ops_per_second"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	CPU  float64 `json:"cpu"`
}

// Run starts the servers, puts every scenario on them in alternating rounds, and stops them.
func Run(ctx context.Context, c Config) (report Report, err error) {
	dir, err := workDir(c.Dir)
	if err != nil {
		return Report{}, err
	}
	defer os.RemoveAll(dir)
	report = Report{Machine: machine(), Rounds: c.Rounds, Seconds: c.Duration.Seconds()}

	lockstep, _, err := startLockstep(ctx, filepath.Join(dir, "lockstep"), c.Binaries, c.Progress)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, lockstep.stop()) }()
	targets := []*target{lockstep}
	if binary, err := exec.LookPath("redis-server"); err == nil {
		redis, err := startRedis(ctx, dir, binary)
		if err != nil {
			return report, err
		}
		defer func() { err = errors.Join(err, redis.stop()) }()
		report.Redis = redis.version
		targets = append(targets, redis)
	} else {
		c.Progress("redis-server is not installed: no comparison")
	}
	samples, err := runRounds(ctx, c, targets)
	if err != nil {
		return report, err
	}
	for i, s := range scenarios {
		result := Result{Name: s.Name, Lockstep: medians(samples[0][i])}
		if len(targets) > 1 {
			figures := medians(samples[1][i])
			result.Redis, result.Ratio = &figures, compare(result.Lockstep, figures)
		}
		report.Scenarios = append(report.Scenarios, result)
	}
	return report, nil
}

// workDir makes a directory below parent for one run and returns its absolute path.
func workDir(parent string) (string, error) {
	parent, err := filepath.Abs(parent)
	if err == nil {
		err = os.MkdirAll(parent, 0o755)
	}
	dir := ""
	if err == nil {
		dir, err = os.MkdirTemp(parent, "b")
	}
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}

// runRounds returns the samples of every target and scenario.
func runRounds(ctx context.Context, c Config, targets []*target) ([][][]sample, error) {
	samples := make([][][]sample, len(targets))
	for i := range targets {
		samples[i] = make([][]sample, len(scenarios))
	}
	for round := range c.Rounds {
		for at, s := range scenarios {
			for i := range targets {
				if round%2 == 1 {
					i = len(targets) - 1 - i // who comes first takes turns too
				}
				got, err := measure(ctx, s, targets[i], c.Duration)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", targets[i].name, s.Name, err)
				}
				samples[i][at] = append(samples[i][at], got)
				c.Progress(fmt.Sprintf("round %d of %d: %-34s %-8s %9.0f ops/s  p50 %v", round+1, c.Rounds, s.Name, targets[i].name, got.rate, got.p50.Round(time.Microsecond)))
			}
		}
	}
	return samples, nil
}

// measure runs one scenario against one target.
func measure(ctx context.Context, s scenario, t *target, duration time.Duration) (sample, error) {
	before, begun := cpuTime(t.pids), time.Now()
	operations, h, err := s.run(ctx, t.master, t.closing, duration)
	taken := time.Since(begun)
	if err != nil {
		return sample{}, err
	}
	if operations == 0 {
		return sample{}, errors.New("not one operation was answered")
	}
	return sample{
		rate: float64(operations) / taken.Seconds(),
		p50:  h.quantile(0.5), p99: h.quantile(0.99),
		cpu: float64((cpuTime(t.pids) - before).Microseconds()) / float64(operations),
	}, nil
}

func medians(samples []sample) Figures {
	return Figures{
		Rate:  median(samples, func(s sample) float64 { return s.rate }),
		P50us: median(samples, func(s sample) float64 { return micros(s.p50) }),
		P99us: median(samples, func(s sample) float64 { return micros(s.p99) }),
		CPUus: median(samples, func(s sample) float64 { return s.cpu }),
	}
}

func median(samples []sample, figure func(sample) float64) float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, figure(s))
	}
	slices.Sort(all)
	if n := len(all); n%2 == 0 {
		return (all[n/2-1] + all[n/2]) / 2
	}
	return all[len(all)/2]
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func compare(lockstep, redis Figures) *Ratio {
	by := func(a, b float64) float64 {
		if b == 0 {
			return 0 // too little CPU time to be seen
		}
		return a / b
	}
	return &Ratio{
		Rate: by(lockstep.Rate, redis.Rate), P50: by(lockstep.P50us, redis.P50us),
		P99: by(lockstep.P99us, redis.P99us), CPU: by(lockstep.CPUus, redis.CPUus),
	}
}

func machine() string {
	return fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

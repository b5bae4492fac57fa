package sim

import (
	"syscall"
	"testing"
)

// BenchmarkSchedules is one schedule of fast mode an operation: at least 200 a second are wanted of one core. The second
// figure is by the time that a core gave to this process, for a machine that is busy with other things.
func BenchmarkSchedules(b *testing.B) {
	seed := uint64(1 << 20)
	var events uint64
	before := cpuSeconds(b)
	for b.Loop() {
		r := Run(Config{Seed: seed})
		if r.Violation != nil {
			b.Fatal(r.Explain("under test"))
		}
		events += r.Stats.Events
		seed++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "schedules/s")
	b.ReportMetric(float64(b.N)/(cpuSeconds(b)-before), "schedules/cpu-s")
	b.ReportMetric(float64(events)/float64(b.N), "events")
}

func cpuSeconds(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

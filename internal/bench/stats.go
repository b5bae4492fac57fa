package bench

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
)

// median returns the middle of values, which it does not change; 0 if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// by divides; 0 if there is nothing to divide by.
func by(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// figuresOf returns one figure of each sample.
func figuresOf(samples []Sample, figure func(Sample) float64) []float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, figure(s))
	}
	return all
}

func failed(samples []Sample) (total uint64) {
	for _, s := range samples {
		total += s.Failed()
	}
	return total
}

func machine() string {
	return fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

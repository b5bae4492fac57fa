package obs

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// Kind of a metric whose value is read when somebody looks.
type Kind = prometheus.ValueType

// The kinds.
const (
	Gauge   = prometheus.GaugeValue
	Counter = prometheus.CounterValue
)

// Labels are names and values that all metrics of a Family set have.
type Labels = prometheus.Labels

// Family describes the metrics of one name.
type Family struct {
	kind Kind
	desc *prometheus.Desc
}

// NewFamily describes metrics with the given labels, beside the constant ones.
func NewFamily(kind Kind, name, help string, constant Labels, labels ...string) Family {
	return Family{kind: kind, desc: prometheus.NewDesc(name, help, labels, constant)}
}

// Send sends one metric of the family; labels are the values, in order. Bytes that are no text are shown as "?".
func (f Family) Send(metrics chan<- prometheus.Metric, value float64, labels ...string) {
	for i, label := range labels {
		if !utf8.ValidString(label) {
			labels = slices.Clone(labels)
			labels[i] = strings.ToValidUTF8(label, "?")
		}
	}
	metrics <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
}

// Fact is 1 for what is so and 0 for what is not.
func Fact(truth bool) float64 {
	if truth {
		return 1
	}
	return 0
}

// States sends one metric for each of the states, 1 for the current one and 0 for the others. A current state that is
// not among them is sent as well.
func (f Family) States(metrics chan<- prometheus.Metric, current string, states []string, labels ...string) {
	known := false
	for _, state := range states {
		known = known || state == current
		f.Send(metrics, Fact(state == current), append(labels[:len(labels):len(labels)], state)...)
	}
	if !known && current != "" {
		f.Send(metrics, 1, append(labels[:len(labels):len(labels)], current)...)
	}
}

// Durations are the buckets of histograms of time, in seconds: from 25 µs to 10 s.
func Durations() []float64 {
	return []float64{25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10}
}

// Powers are buckets from 1 to 2^last, each four times the one before.
func Powers(last int) []float64 {
	var buckets []float64
	for i := 0; i <= last; i += 2 {
		buckets = append(buckets, float64(uint64(1)<<i))
	}
	return buckets
}

// Histogram counts observations in buckets. Observe takes some ten nanoseconds and no lock.
type Histogram = prometheus.Histogram

// NewHistogram returns a histogram with these buckets.
func NewHistogram(name, help string, constant Labels, buckets []float64) Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: constant, Buckets: buckets})
}

// With returns labels and some more.
func With(labels Labels, name, value string) Labels {
	all := Labels{name: value}
	for n, v := range labels {
		all[n] = v
	}
	return all
}

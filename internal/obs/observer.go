package obs

import (
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Role that a process is asked to be ready for.
type Role string

// The roles. For a configuration master, Master is the one that leads.
const (
	AnyRole Role = "any"
	Master  Role = "master"
	Slave   Role = "slave"
)

// Metric is one value with its name and labels.
type Metric = prometheus.Metric

// Subject is a running server as it is seen from outside. Its methods are called from any goroutine, also several at
// once, and must be quick: they look at what is published anyway and take no part in a loop.
type Subject interface {
	// Collect sends the current metrics.
	Collect(metrics chan<- Metric)
	// Live returns why the process should be restarted; nil if a restart would not help.
	Live() error
	// Ready returns what keeps the process from serving in that role; nothing if it serves.
	Ready(role Role) []string
}

// Observer knows the subject of a process. All its methods may be called from any goroutine; on a nil Observer they do
// nothing.
type Observer struct {
	Program, Version string
	// Address is where Serve listens, host:port, and Secure whether with TLS; "" for nowhere. Set before the program runs.
	Address string
	Secure  bool

	registry *prometheus.Registry

	mu      sync.Mutex
	subject Subject
	serving func()
	web     http.Handler
}

// New returns the observer of this process, which shows no server yet. serving, which may be nil, is called once: when
// the server listens on all its ports.
func New(program, version string, serving func()) *Observer {
	o := &Observer{Program: program, Version: version, registry: prometheus.NewRegistry(), serving: serving}
	number, revision, _ := strings.Cut(version, " ")
	o.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		shown{o}, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lockstep_build_info", Help: "Which build this process is; always 1.",
			ConstLabels: prometheus.Labels{"program": program, "version": number, "revision": revision, "go_version": runtime.Version()},
		}, func() float64 { return 1 }))
	return o
}

// Certificate shows until when the certificate of this process is good.
func (o *Observer) Certificate(ends func() time.Time) {
	o.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lockstep_certificate_expiry_timestamp_seconds", Help: "With TLS: when the certificate of this process ends, in seconds since 1970.",
	}, func() float64 { return float64(ends().Unix()) }))
}

// Show makes s the subject. Until then the process lives and is not ready.
func (o *Observer) Show(s Subject) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.subject = s
}

// Mount makes web answer / and everything below /web/.
func (o *Observer) Mount(web http.Handler) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.web = web
}

func (o *Observer) mounted() http.Handler {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.web
}

// Serving says that the server listens on all its ports.
func (o *Observer) Serving() {
	if o == nil {
		return
	}
	o.mu.Lock()
	serving := o.serving
	o.serving = nil
	o.mu.Unlock()
	if serving != nil {
		serving()
	}
}

func (o *Observer) current() Subject {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.subject
}

// Live returns why the process should be restarted, nil if it should not.
func (o *Observer) Live() error {
	if s := o.current(); s != nil {
		return s.Live()
	}
	return nil
}

// Ready returns what keeps the process from serving in that role.
func (o *Observer) Ready(role Role) []string {
	if s := o.current(); s != nil {
		return s.Ready(role)
	}
	return []string{"it is starting"}
}

// shown collects from whatever is the subject. It describes nothing, so that the registry checks what comes.
type shown struct{ observer *Observer }

// Describe implements prometheus.Collector.
func (shown) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s shown) Collect(metrics chan<- prometheus.Metric) {
	if subject := s.observer.current(); subject != nil {
		subject.Collect(metrics)
	}
}

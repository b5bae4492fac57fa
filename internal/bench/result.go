package bench

import (
	"cmp"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Result is what came of a load.
type Result struct {
	Load       Load              `json:"load"`
	Begun      time.Time         `json:"begun"`
	Seconds    float64           `json:"seconds"` // that counted: until the last reply
	Operations uint64            `json:"operations"`
	Rate       float64           `json:"ops_per_second"` // of those answered without an error
	Latency    Latency           `json:"latency"`        // of whole pipelines; in an open loop from when they should have been sent
	Empty      uint64            `json:"empty"`          // replies that say: no such key
	Errors     map[string]uint64 `json:"errors"`         // operations by why they failed
	Examples   map[string]string `json:"examples,omitempty"`
	Late       float64           `json:"late_p99_us"`         // open loop: how much too late the generator itself sent
	OwnCPU     float64           `json:"generator_cpu_us_op"` // µs of the generator's threads for an operation
	Slices     []Slice           `json:"slices"`

	whole, late Histogram
	cpu         time.Duration
	begin, end  time.Duration
	parts       map[int]*part
}

// Slice is a piece of the time line.
type Slice struct {
	At         float64 `json:"at_s"` // its beginning
	Operations uint64  `json:"operations"`
	Failed     uint64  `json:"failed"`
	P50        float64 `json:"p50_us"`
	P99        float64 `json:"p99_us"`
	Max        float64 `json:"max_us"`
}

// part is a slice that is being counted. cells are the buckets in use: there are many slices.
type part struct {
	operations, failed uint64
	cells              []cell
	most               time.Duration
}

type cell struct {
	bucket int
	count  uint64
}

// recorder is what one thread has seen.
type recorder struct {
	slice       time.Duration
	counting    bool
	from, until time.Duration
	whole, late Histogram
	now         Histogram // of the slice at
	at          int
	current     part
	parts       map[int]*part
	operations  uint64
	empty       uint64
	errors      map[string]uint64
	examples    map[string]string
	cpu         time.Duration
}

func newRecorder(slice time.Duration) *recorder {
	return &recorder{slice: slice, parts: make(map[int]*part), errors: make(map[string]uint64), examples: make(map[string]string)}
}

// beginCPU must be called on the thread, as end must.
func (r *recorder) beginCPU() { r.cpu = -threadTime() }

// threadTime is the processor time of the calling thread.
func threadTime() time.Duration {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
		return 0
	}
	return time.Duration(used.Nano())
}

// begin forgets what the warm-up brought.
func (r *recorder) begin(now time.Duration) {
	r.counting, r.from, r.until = true, now, now
	r.empty = 0
	clear(r.errors)
	r.beginCPU()
}

func (r *recorder) end(now time.Duration) {
	if r.operations == 0 {
		r.until = now
	}
	r.cpu += threadTime()
	r.flush()
}

// answered counts a pipeline whose replies have all come.
func (r *recorder) answered(now, taken time.Duration, size, failed uint64) {
	if !r.counting {
		return
	}
	r.move(now)
	r.whole.Add(taken, size)
	r.now.Add(taken, size)
	r.operations += size - failed
	r.current.operations += size - failed
	r.current.failed += failed
	r.until = now
}

// unanswered counts operations that did not end: they took at least until now.
func (r *recorder) unanswered(now, intended time.Duration, size uint64, why string) {
	if !r.counting {
		return
	}
	r.move(now)
	r.errors[why] += size
	r.whole.Add(now-intended, size)
	r.now.Add(now-intended, size)
	r.current.failed += size
	r.until = now
}

// fails counts operations by the error that ended them, and keeps the first text of each.
func (r *recorder) fails(name string, text []byte, operations uint64) {
	r.errors[name] += operations
	r.explain(name, string(text))
}

func (r *recorder) explain(name, text string) {
	if _, known := r.examples[name]; !known && text != "" {
		r.examples[name] = text
	}
}

// move begins the slice that now lies in.
func (r *recorder) move(now time.Duration) {
	if at := int((now - r.from) / r.slice); at != r.at {
		r.flush()
		r.at = at
	}
}

func (r *recorder) flush() {
	for bucket, count := range r.now.counts {
		if count > 0 {
			r.current.cells = append(r.current.cells, cell{bucket, count})
		}
	}
	r.current.most = r.now.most
	if r.now.total > 0 {
		kept := r.current
		r.parts[r.at] = &kept
	}
	r.now, r.current = Histogram{}, part{}
}

func newResult(l Load, begun time.Time) *Result {
	return &Result{Load: l, Begun: begun, Errors: make(map[string]uint64), Examples: make(map[string]string), parts: make(map[int]*part), begin: -1}
}

// merge adds what a thread has seen.
func (r *Result) merge(seen *recorder) {
	r.whole.Merge(&seen.whole)
	r.late.Merge(&seen.late)
	r.Operations += seen.operations
	r.Empty += seen.empty
	r.cpu += seen.cpu
	for name, count := range seen.errors {
		r.Errors[name] += count
	}
	for name, text := range seen.examples {
		if r.Errors[name] > 0 {
			r.Examples[name] = text
		}
	}
	if r.begin < 0 || seen.from < r.begin {
		r.begin = seen.from
	}
	r.end = max(r.end, seen.until)
	for at, p := range seen.parts {
		if r.parts[at] == nil {
			r.parts[at] = &part{}
		}
		to := r.parts[at]
		to.operations += p.operations
		to.failed += p.failed
		to.most = max(to.most, p.most)
		to.cells = append(to.cells, p.cells...)
	}
}

// finish computes what is shown.
func (r *Result) finish() {
	r.Seconds = (r.end - r.begin).Seconds()
	if r.Seconds > 0 {
		r.Rate = float64(r.Operations) / r.Seconds
	}
	r.Latency = r.whole.Latency()
	r.Late = micros(r.late.Quantile(0.99))
	if r.Operations > 0 {
		r.OwnCPU = micros(r.cpu) / float64(r.Operations)
	}
	last := 0
	for at := range r.parts {
		last = max(last, at)
	}
	r.Slices = make([]Slice, last+1) // also those in which nothing happened
	for at := range r.Slices {
		s := Slice{At: (time.Duration(at) * r.Load.Slice).Seconds()}
		if p := r.parts[at]; p != nil {
			s.Operations, s.Failed, s.Max = p.operations, p.failed, micros(p.most)
			s.P50, s.P99 = p.quantile(0.5), p.quantile(0.99)
		}
		r.Slices[at] = s
	}
	r.parts = nil
}

// quantile returns a quantile in µs.
func (p *part) quantile(q float64) float64 {
	slices.SortFunc(p.cells, func(a, b cell) int { return cmp.Compare(a.bucket, b.bucket) })
	total := uint64(0)
	for _, c := range p.cells {
		total += c.count
	}
	rank := min(uint64(q*float64(total)), max(total, 1)-1)
	for _, c := range p.cells {
		if c.count > rank {
			return micros(min(middle(c.bucket), p.most))
		}
		rank -= c.count
	}
	return 0
}

// Failed is how many operations were not answered well.
func (r *Result) Failed() uint64 {
	total := uint64(0)
	for _, count := range r.Errors {
		total += count
	}
	return total
}

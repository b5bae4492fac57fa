package checkpoint

import (
	"context"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// paceWork is about how long the work on an image goes on in one go: who wakes meanwhile may wait as long for the processor. paceRest is the longest
	// work that is rested for.
	paceWork = 500 * time.Microsecond
	paceRest = 10 * time.Millisecond
	// paceMost and paceLeast are the parts of a processor that the work on an image takes: the most it ever takes, and what it takes of a machine that is
	// busy otherwise. paceOfIdle is the part of what nobody uses that it takes in between.
	paceMost   = 0.5
	paceLeast  = 0.05
	paceOfIdle = 0.25
	// paceSoon is how long an image may be written with paceLeast; behind that its least part grows with its age, so that it is done in the end.
	paceSoon = 30 * time.Second
)

// Courtesy is how the work on an image gives way where a process does nothing else.
type Courtesy struct {
	// Idle returns how many processors of the machine nobody uses, and false as long as that is not known.
	Idle func() (processors float64, known bool)
	// Worked returns how much time of processors this process took.
	Worked func() time.Duration
	begun  time.Time
}

// begin says that the work begins now.
func (c Courtesy) begin() *Courtesy {
	c.begun = time.Now()
	return &c
}

// share returns the part of a processor to take now. It comes to a fifth of what everybody else leaves, a quarter of what nobody uses then.
func (c *Courtesy) share() float64 {
	idle, known := c.Idle()
	if !known {
		return paceMost
	}
	least := max(paceLeast, paceLeast*float64(time.Since(c.begun))/float64(paceSoon))
	return min(max(paceOfIdle*idle, least), paceMost)
}

// pace keeps the work on an image at half of a processor, or at less where it is courteous: what others wait for goes on beside it. Each goroutine that works has one
// of its own. The zero value is ready.
type pace struct {
	courtesy *Courtesy // nil: it takes half of a processor
	resumed  time.Time
	worked   time.Duration // by then, with courtesy
	hurried  bool          // there are no rests
	waiting  func() bool   // Options.Waiting
}

// rest returns at once unless there was enough work since it returned last; then, after as long a time as the work asks for, or when ctx ends.
func (p *pace) rest(ctx context.Context) {
	if p.hurried || p.waiting != nil && p.waiting() {
		return
	}
	if p.resumed.IsZero() {
		p.resume()
		return
	}
	worked := time.Since(p.resumed) // on a busy machine others worked most of that time
	if worked < paceWork {
		return
	}
	share := paceMost
	if p.courtesy != nil {
		if worked = p.courtesy.Worked() - p.worked; worked < paceWork {
			return
		}
		share = p.courtesy.share()
	}
	timer := time.NewTimer(time.Duration(float64(min(worked, paceRest)) * (1 - share) / share))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	p.resume()
}

func (p *pace) resume() {
	p.resumed = time.Now()
	if p.courtesy != nil {
		p.worked = p.courtesy.Worked()
	}
}

// pacedFS paces those who write files: the flushes and compactions of a store.
type pacedFS struct {
	vfs.FS
	courtesy *Courtesy
	waiting  func() bool
}

// Create implements vfs.FS.
func (f pacedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return &pacedFile{File: file, pace: pace{courtesy: f.courtesy, waiting: f.waiting}}, nil
}

// Unwrap implements vfs.FS.
func (f pacedFS) Unwrap() vfs.FS { return f.FS }

// pacedFile is written by one goroutine at a time.
type pacedFile struct {
	vfs.File
	pace pace
}

// Write implements io.Writer.
func (f *pacedFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.pace.rest(context.Background())
	return n, err
}

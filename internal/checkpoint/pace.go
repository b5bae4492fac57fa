package checkpoint

import (
	"context"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// paceWork is about how long the work on an image goes on in one go: who wakes meanwhile may wait as long for the processor. paceRest is the longest
	// rest behind it.
	paceWork = 500 * time.Microsecond
	paceRest = 10 * time.Millisecond
)

// pace keeps the work on an image at half of a processor: what others wait for goes on beside it. Each goroutine that works has one
// of its own. The zero value is ready.
type pace struct {
	resumed time.Time
	hurried bool // there are no rests
}

// rest returns at once unless there was enough work since it returned last; then, after as long a time as the work took, or when ctx ends.
func (p *pace) rest(ctx context.Context) {
	if p.hurried {
		return
	}
	if p.resumed.IsZero() {
		p.resumed = time.Now()
		return
	}
	worked := time.Since(p.resumed)
	if worked < paceWork {
		return
	}
	timer := time.NewTimer(min(worked, paceRest)) // on a busy machine most of that time others worked
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	p.resumed = time.Now()
}

// pacedFS paces those who write files: the flushes and compactions of a store.
type pacedFS struct{ vfs.FS }

// Create implements vfs.FS.
func (f pacedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return &pacedFile{File: file}, nil
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

// Package meter holds the two things that the Lua engine of internal/script needs of Go's runtime and a pure package
// may not have itself: a context whose Done channel counts the instructions of the virtual machine, and a free list
// that several goroutines may share.
//
// The virtual machine asks Done once for every instruction. Nothing else ever waits on that channel: it is nil while there
// is something left and closed afterwards, so what a script may do depends on its instructions and on no clock.
package meter

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"
)

// Meter bounds what one run of a script may use. It is a context.Context for the virtual machine. One goroutine at a time
// may use it.
type Meter struct {
	instructions int64
	memory       int64
	limit        int64 // of the instructions, for the message
	cause        error // why the run is over; nil while it is not
}

var _ context.Context = (*Meter)(nil)

var errMemory = errors.New("not enough memory")

// over is what Done returns when nothing is left.
var over = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Reset gives the meter what a new run may use: instructions of the virtual machine, and bytes taken, which never
// come back during the run.
func (m *Meter) Reset(instructions, memory int64) {
	*m = Meter{instructions: instructions, memory: memory, limit: instructions}
}

// Done implements context.Context: each call is one instruction.
func (m *Meter) Done() <-chan struct{} {
	if m.instructions--; m.instructions >= 0 {
		return nil
	}
	return over
}

// Err implements context.Context: why nothing is left, nil while something is.
func (m *Meter) Err() error {
	switch {
	case m.cause != nil:
		return m.cause
	case m.instructions < 0:
		return errors.New("script used more than " + strconv.FormatInt(m.limit, 10) + " instructions")
	}
	return nil
}

// Deadline implements context.Context: there is none.
func (m *Meter) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context: there are none.
func (m *Meter) Value(any) any { return nil }

// Work counts n instructions (not negative) for work that a library function does, and returns Err.
func (m *Meter) Work(n int64) error {
	if m.instructions >= 0 {
		m.instructions = max(m.instructions-n, -1)
	}
	return m.Err()
}

// Take counts n bytes (not negative), and returns Err. When the memory is used up, the run is over.
func (m *Meter) Take(n int64) error {
	if m.memory -= n; m.memory < 0 && m.cause == nil {
		m.memory = 0
		m.cause, m.instructions = errMemory, -1
	}
	return m.Err()
}

// Pool keeps unused values of one kind. Its methods may be called by several goroutines. The zero Pool is empty.
type Pool[T any] struct{ free sync.Pool }

// Get returns a value that was Put before, nil if there is none.
func (p *Pool[T]) Get() *T {
	v, _ := p.free.Get().(*T)
	return v
}

// Put keeps v for a later Get. The caller may no longer use it.
func (p *Pool[T]) Put(v *T) { p.free.Put(v) }

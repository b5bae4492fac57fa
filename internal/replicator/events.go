package replicator

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"lockstep/smr/replica"
)

const (
	// maxEvents bounds the log lines that wait to be written. Beyond it lines are counted and dropped: a log that nobody
	// reads must not stop the loop.
	maxEvents = 1024
	// complainEvery is the least distance between two log lines about what peers send.
	complainEvery = time.Second
)

// events turns the core's events into log lines, in a goroutine of its own.
type events struct {
	logger  *slog.Logger
	queue   chan replica.Event
	dropped atomic.Uint64

	lastComplaint atomic.Int64 // process time in milliseconds
	suppressed    atomic.Uint64
}

func newEvents(logger *slog.Logger) *events {
	return &events{logger: logger, queue: make(chan replica.Event, maxEvents)}
}

// emit never blocks.
func (e *events) emit(list []replica.Event) {
	for _, event := range list {
		select {
		case e.queue <- event:
		default:
			e.dropped.Add(1)
		}
	}
}

// complain logs that a peer broke the protocol, at most once in a while.
func (e *events) complain(what, peer string, err error) {
	last, now := e.lastComplaint.Load(), processMillis()
	if last != 0 && now-last < complainEvery.Milliseconds() || !e.lastComplaint.CompareAndSwap(last, now) {
		e.suppressed.Add(1)
		return
	}
	e.logger.Warn("bad connection", "connection", what, "peer", peer, "error", err, "suppressed", e.suppressed.Swap(0))
}

// run writes lines until ctx ends, and then what is left.
func (e *events) run(ctx context.Context) error {
	for {
		select {
		case event := <-e.queue:
			e.write(event)
		case <-ctx.Done():
			for n := len(e.queue); n > 0; n-- {
				e.write(<-e.queue)
			}
			return nil
		}
	}
}

func (e *events) write(event replica.Event) {
	level := slog.LevelInfo
	switch event.Name {
	case replica.EventBroken:
		level = slog.LevelError
	case replica.EventNeedImage:
		level = slog.LevelWarn
	}
	arguments := []any{"epoch", uint64(event.Epoch), "lsn", uint64(event.LSN)}
	if event.Node != "" {
		arguments = append(arguments, "peer", string(event.Node))
	}
	if event.Text != "" {
		arguments = append(arguments, "text", event.Text)
	}
	if dropped := e.dropped.Swap(0); dropped > 0 {
		arguments = append(arguments, "dropped_lines", dropped)
	}
	e.logger.Log(context.Background(), level, string(event.Name), arguments...)
}

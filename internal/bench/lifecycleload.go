package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// askPatience bounds one question.
const askPatience = 10 * time.Minute // SAVE answers when an image is durable

// ask sends one command on a connection of its own and returns the reply: of a bulk string its bytes, of a missing one none, else its
// first line with its mark. An error reply is an error.
func ask(ctx context.Context, addr string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var raw [][]byte
	for _, arg := range args {
		raw = append(raw, []byte(arg))
	}
	if _, err := conn.Write(appendCommand(nil, name, raw...)); err != nil {
		return "", err
	}
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSpace(line)
	switch {
	case strings.HasPrefix(line, "-"):
		return "", fmt.Errorf("%s is answered %s", name, line)
	case !strings.HasPrefix(line, "$"):
		return line, nil
	}
	size, err := strconv.Atoi(line[1:])
	if err != nil || size < 0 {
		return "", err
	}
	var content bytes.Buffer
	_, err = io.CopyN(&content, reader, int64(size))
	return content.String(), err
}

// infoNumber returns a number of INFO.
func infoNumber(ctx context.Context, addr, field string) (int64, error) {
	info, err := ask(ctx, addr, "INFO", "everything")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(info) {
		if text, found := strings.CutPrefix(line, field+":"); found {
			return strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		}
	}
	return 0, fmt.Errorf("INFO of %s has no field %s", addr, field)
}

const (
	// pourConns and pourBatch say how commands are poured: so many connections, each with so many commands at once.
	pourConns = 8
	pourBatch = 256
)

// pour sends commands as fast as they are taken until next has none. next appends a command and reports whether it did; one
// goroutine at a time calls it. Error replies end it.
func pour(ctx context.Context, addr string, next func(b []byte) ([]byte, bool)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	more := true
	gather := func(b []byte) (batch []byte, count int) {
		mu.Lock()
		defer mu.Unlock()
		for more && count < pourBatch {
			if b, more = next(b); more {
				count++
			}
		}
		return b, count
	}
	var wait sync.WaitGroup
	for range pourConns {
		wait.Go(func() {
			if err := pourOne(ctx, addr, gather); err != nil {
				cancel(err)
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

func pourOne(ctx context.Context, addr string, gather func([]byte) ([]byte, int)) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reader := bufio.NewReaderSize(conn, 64<<10)
	var batch []byte
	for {
		var count int
		if batch, count = gather(batch[:0]); count == 0 {
			return nil
		}
		if _, err := conn.Write(batch); err != nil {
			return err
		}
		for range count {
			if err := skipOne(reader); err != nil {
				return err
			}
		}
	}
}

// writers set random keys, each of them one key at a time, together so many a second: a writer that falls behind its time does
// not wait, and what it is late counts as time that its write took.
type writers struct {
	addr        string
	connections int
	perSecond   float64 // of all together; 0: as many as there can be
	keys        int
	done        atomic.Int64
	kept        atomic.Pointer[timesKept] // where the times of writes are kept that begin now; nil: nowhere
}

// timesKept are the times that writes of one second took.
type timesKept struct {
	mu    sync.Mutex
	times Histogram
}

func (k *timesKept) add(taken time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.times.Add(taken, 1)
}

func newWriters(addr string, connections int, perSecond float64, keys int) *writers {
	return &writers{addr: addr, connections: connections, perSecond: perSecond, keys: keys}
}

func (w *writers) total() int64 { return w.done.Load() }

// phase runs do, and returns how long the writes took that began in each second of it: whole once the run has ended.
func (w *writers) phase(do func() error) (seconds []*timesKept, err error) {
	ended := make(chan error, 1)
	next := func() {
		kept := new(timesKept)
		seconds = append(seconds, kept)
		w.kept.Store(kept)
	}
	next()
	go func() { ended <- do() }()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for begun := time.Now(); ; {
		select {
		case begun = <-second.C:
			next()
		case err := <-ended:
			w.kept.Store(nil)
			if time.Since(begun) < time.Second/2 && len(seconds) > 1 { // that one is too short to say anything
				seconds = seconds[:len(seconds)-1]
			}
			return seconds, err
		}
	}
}

// run writes until ctx ends, which is no error. An error reply is one.
func (w *writers) run(ctx context.Context) error {
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	for range w.connections {
		wait.Go(func() {
			if err := w.write(running); err != nil && running.Err() == nil {
				cancel(err)
			}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(running)
}

// during writes while do runs.
func (w *writers) during(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx) }()
	err := do()
	cancel()
	return errors.Join(err, <-ended)
}

func (w *writers) write(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", w.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reader := bufio.NewReader(conn)
	distance := time.Duration(0)
	if w.perSecond > 0 {
		distance = time.Duration(float64(w.connections) / w.perSecond * float64(time.Second))
	}
	due := time.Now().Add(time.Duration(rand.Int64N(int64(distance) + 1)))
	timer := time.NewTimer(0)
	<-timer.C
	var request []byte
	value := make([]byte, lifecycleValue)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	for ctx.Err() == nil {
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return nil
			}
		} else if distance == 0 {
			due = time.Now()
		}
		kept := w.kept.Load()
		binary.LittleEndian.PutUint64(value, rand.Uint64()) // the rest is drawn once for each connection
		request = appendCommand(request[:0], "SET", lifecycleKey(nil, rand.IntN(w.keys)), value)
		if _, err := conn.Write(request); err != nil {
			return err
		}
		if err := skipOne(reader); err != nil {
			return err
		}
		if kept != nil {
			kept.add(time.Since(due))
		}
		w.done.Add(1)
		due = due.Add(distance)
	}
	return nil
}

// worstSecond returns the writes of the second with the fewest, until ctx ends.
func worstSecond(ctx context.Context, w *writers) float64 {
	worst, before := -1.0, w.total()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for begun := time.Now(); ; {
		select {
		case now := <-ticker.C:
			total := w.total()
			if rate := float64(total-before) / now.Sub(begun).Seconds(); worst < 0 || rate < worst {
				worst = rate
			}
			before, begun = total, now
		case <-ctx.Done():
			return max(worst, 0)
		}
	}
}

// skipOne reads the reply to a SET.
func skipOne(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if line[0] != '+' {
		return fmt.Errorf("SET is answered %s", bytes.TrimSpace(line))
	}
	return nil
}

package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"
)

// scenario is one kind of load.
type scenario struct {
	Name        string
	Command     string // SET or GET
	Connections int
	Pipeline    int
}

// scenarios are what `smrctl bench` runs, in this order.
var scenarios = []scenario{
	{"SET, 50 connections", "SET", 50, 1},
	{"SET, 50 connections, pipeline 16", "SET", 50, 16},
	{"SET, 1 connection", "SET", 1, 1},
	{"GET, 50 connections", "GET", 50, 1},
	{"GET, 50 connections, pipeline 16", "GET", 50, 16},
	{"GET, 1 connection", "GET", 1, 1},
}

const (
	valueSize = 64      // bytes
	keys      = 100_000 // different ones
)

// sample is what one run of a scenario came to.
type sample struct {
	rate     float64 // operations a second
	p50, p99 time.Duration
	cpu      float64 // µs of all server processes for each operation
}

// run puts the load on addr for about the duration. closing is sent behind every pipeline, and its reply awaited, but not counted.
func (s scenario) run(ctx context.Context, addr string, closing []byte, duration time.Duration) (operations uint64, h *histogram, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h = new(histogram)
	var mu sync.Mutex // guards h and operations
	var wait sync.WaitGroup
	end := time.Now().Add(duration)
	for range s.Connections {
		wait.Go(func() {
			own := new(histogram)
			count, err := s.runConnection(ctx, addr, closing, end, own)
			if err != nil {
				cancel(err)
			}
			mu.Lock()
			defer mu.Unlock()
			h.merge(own)
			operations += count
		})
	}
	wait.Wait()
	return operations, h, context.Cause(ctx)
}

func (s scenario) runConnection(ctx context.Context, addr string, closing []byte, end time.Time, h *histogram) (count uint64, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reader := bufio.NewReaderSize(conn, 64<<10)
	var request []byte
	for {
		begun := time.Now()
		if begun.After(end) {
			return count, nil
		}
		request = request[:0]
		for range s.Pipeline {
			request = s.appendCommand(request)
		}
		if s.Command == "SET" {
			request = append(request, closing...)
		}
		if _, err := conn.Write(request); err != nil {
			return count, err
		}
		replies := s.Pipeline
		if s.Command == "SET" && len(closing) > 0 {
			replies++
		}
		for range replies {
			if err := skipReply(reader); err != nil {
				return count, fmt.Errorf("%s: %w", s.Name, err)
			}
		}
		taken := time.Since(begun)
		for range s.Pipeline {
			h.add(taken)
		}
		count += uint64(s.Pipeline)
	}
}

var value = bytes.Repeat([]byte("x"), valueSize)

// appendCommand appends one command on a random key.
func (s scenario) appendCommand(b []byte) []byte {
	key := strconv.AppendInt([]byte("bench:"), keys+rand.Int64N(keys), 10) // always of the same length
	if s.Command == "SET" {
		return appendCommand(b, "SET", key, value)
	}
	return appendCommand(b, "GET", key)
}

func appendCommand(b []byte, name string, args ...[]byte) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(1+len(args)), 10)
	b = append(b, "\r\n"...)
	b = appendBulk(b, []byte(name))
	for _, arg := range args {
		b = appendBulk(b, arg)
	}
	return b
}

func appendBulk(b, content []byte) []byte {
	b = append(b, '$')
	b = strconv.AppendInt(b, int64(len(content)), 10)
	b = append(b, "\r\n"...)
	b = append(b, content...)
	return append(b, "\r\n"...)
}

// skipReply reads one reply that is not an array and returns an error reply as an error.
func skipReply(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	switch line[0] {
	case '+', ':':
		return nil
	case '-':
		return errors.New("server answers " + string(bytes.TrimSpace(line)))
	case '$':
		size, err := strconv.Atoi(string(bytes.TrimSpace(line[1:])))
		if err != nil || size < 0 {
			return err // "$-1" is a reply too: the key does not exist
		}
		_, err = io.CopyN(io.Discard, r, int64(size)+2)
		return err
	}
	return fmt.Errorf("unexpected reply %q", line)
}

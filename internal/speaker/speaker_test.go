package speaker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// queue is what a test has to say.
type queue struct {
	mu    sync.Mutex
	items [][]byte
	last  bool // the items are the last
	fails int  // so often composing fails
	heavy bool // only the patient get anything
	asked int
}

var errBroken = errors.New("broken")

func (q *queue) add(b []byte) {
	q.mu.Lock()
	q.items = append(q.items, b)
	q.mu.Unlock()
}

func (q *queue) compose(buffer []byte, patient bool) ([]byte, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked++
	if q.fails > 0 {
		q.fails--
		return buffer, false, errBroken
	}
	if q.heavy && !patient {
		return buffer, false, nil
	}
	for _, item := range q.items {
		buffer = append(buffer, item...)
	}
	last := q.last && len(q.items) > 0
	q.items = nil
	return buffer, last, nil
}

// pair returns both ends of a TCP connection; the first one's socket holds little.
func pair(t *testing.T) (here, there net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	here, err = net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := here.(*net.TCPConn).SetWriteBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

func forEver(int) time.Duration { return 0 }
func never() bool               { return false }

// What the socket takes is written by Say itself: nobody else runs.
func TestSayWritesAtOnce(t *testing.T) {
	here, there := pair(t)
	q := &queue{}
	s := New(here, q.compose, forEver)
	for _, text := range []string{"one", "two"} {
		q.add([]byte(text))
		s.Say()
		got := make([]byte, len(text))
		if _, err := io.ReadFull(there, got); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	s.Say() // nothing to say
	if written, writing := s.Progress(); written != 6 || writing {
		t.Fatalf("%d bytes written, writing %v", written, writing)
	}
}

// Many say more than the sockets hold: Say never waits for the peer, and all arrives, whole and in the order of what was composed. The same over a
// connection that only Run can write to.
func TestAllArrivesInOrder(t *testing.T) {
	pipeHere, pipeThere := net.Pipe()
	t.Cleanup(func() { pipeHere.Close(); pipeThere.Close() })
	tcpHere, tcpThere := pair(t)
	for name, ends := range map[string][2]net.Conn{"tcp": {tcpHere, tcpThere}, "pipe": {pipeHere, pipeThere}} {
		t.Run(name, func(t *testing.T) {
			const sayers, messages = 4, 300
			q := &queue{}
			s := New(ends[0], q.compose, func(int) time.Duration { return time.Minute })
			ctx, stop := context.WithCancel(t.Context())
			var tasks, said sync.WaitGroup
			tasks.Go(func() {
				if err := s.Run(ctx, never); err != nil {
					t.Error(err)
				}
			})
			for i := range sayers {
				said.Go(func() {
					for n := range messages {
						message := make([]byte, 8+(n*977)%9000)
						binary.LittleEndian.PutUint32(message, uint32(i))
						binary.LittleEndian.PutUint32(message[4:], uint32(len(message)))
						q.add(message)
						s.Say()
					}
				})
			}
			said.Wait() // before anybody reads
			next := make([]int, sayers)
			head := make([]byte, 8)
			for range sayers * messages {
				if _, err := io.ReadFull(ends[1], head); err != nil {
					t.Fatal(err)
				}
				i, size := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:])
				if i >= sayers || int(size) != 8+(next[i]*977)%9000 {
					t.Fatalf("sayer %d, %d bytes, where message %v was to come", i, size, next)
				}
				next[i]++
				if _, err := io.CopyN(io.Discard, ends[1], int64(size)-8); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			tasks.Wait()
		})
	}
}

// Behind the last message nothing is composed, and Run ends.
func TestNothingFollowsTheLast(t *testing.T) {
	here, there := pair(t)
	q := &queue{last: true}
	s := New(here, q.compose, forEver)
	q.add([]byte("bye"))
	s.Say()
	q.add([]byte("more"))
	s.Say()
	if err := s.Run(t.Context(), never); err != nil {
		t.Fatal(err)
	}
	here.Close()
	if got, err := io.ReadAll(there); err != nil || string(got) != "bye" {
		t.Fatalf("%q, %v", got, err)
	}
}

// What Say must not wait for, and errors of composing, are Run's.
func TestRunComposesPatiently(t *testing.T) {
	here, there := pair(t)
	q := &queue{heavy: true}
	s := New(here, q.compose, forEver)
	q.add([]byte("heavy"))
	s.Say()
	if written, _ := s.Progress(); written != 0 {
		t.Fatalf("%d bytes written", written)
	}
	ctx, stop := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	tasks.Go(func() {
		if err := s.Run(ctx, never); !errors.Is(err, errBroken) {
			t.Errorf("it ended with %v", err)
		}
	})
	got := make([]byte, 5)
	if _, err := io.ReadFull(there, got); err != nil || !bytes.Equal(got, []byte("heavy")) {
		t.Fatalf("%q, %v", got, err)
	}
	q.mu.Lock()
	q.fails = 2 // of Say, and of Run
	q.mu.Unlock()
	s.Say()
	s.Wake()
	tasks.Wait()
	stop()
}

// holdable is a connection whose writes may have to wait.
type holdable struct {
	net.Conn
	held atomic.Bool
}

func (h *holdable) NetConn() net.Conn { return h.Conn }
func (h *holdable) Held() bool        { return h.held.Load() }

// A wrapped connection is written to at once, but not while it holds writes back.
func TestWrappedConnectionsAreWrittenToUnlessHeld(t *testing.T) {
	here, there := pair(t)
	q := &queue{}
	h := &holdable{Conn: here}
	s := New(h, q.compose, forEver)
	q.add([]byte("a"))
	s.Say()
	h.held.Store(true)
	q.add([]byte("b"))
	s.Say()
	if written, _ := s.Progress(); written != 1 {
		t.Fatalf("%d bytes written", written)
	}
	h.held.Store(false)
	s.Say()
	got := make([]byte, 2)
	if _, err := io.ReadFull(there, got); err != nil || string(got) != "ab" {
		t.Fatalf("%q, %v", got, err)
	}
}

// A peer that is gone, or takes nothing, ends Run with an error, a stop without one.
func TestRunTellsWhyItEnds(t *testing.T) {
	here, there := pair(t)
	q := &queue{}
	s := New(here, q.compose, func(int) time.Duration { return 10 * time.Millisecond })
	q.add(make([]byte, 64<<20))
	s.Say()
	var timeout net.Error
	if err := s.Run(t.Context(), never); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("a peer that takes nothing: %v", err)
	}
	there.Close()
	here.Close()
	s.Say() // must not panic, nor wait
	if err := s.Run(t.Context(), never); err == nil {
		t.Fatal("a closed connection: no error")
	}
	if err := s.Run(t.Context(), func() bool { return true }); err != nil {
		t.Fatalf("stopped: %v", err)
	}
}

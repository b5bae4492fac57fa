package eventloop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = time.Minute

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (client net.Conn, server *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err = net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, accepted.(*net.TCPConn)
}

// running starts a loop, which ends with the test.
func running(t *testing.T) *Loop {
	t.Helper()
	loop, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var task sync.WaitGroup
	task.Go(func() {
		if err := loop.Run(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		loop.Stop()
		task.Wait()
	})
	return loop
}

// echo sends back what it reads, and releases the socket at the end.
type echo struct {
	t      *testing.T
	socket *Socket
	piece  int // bytes of a read
	turns  atomic.Int32
	done   chan error
}

func (e *echo) Ready() {
	if e.turns.Add(1) != 1 {
		e.t.Error("two have the turn")
	}
	b := make([]byte, e.piece)
	for {
		n, err := e.socket.TryRead(b)
		switch {
		case errors.Is(err, ErrAgain):
			e.turns.Add(-1)
			if e.socket.Rest() {
				return
			}
			e.turns.Add(1)
		case err != nil:
			e.turns.Add(-1)
			e.socket.Release()
			e.done <- err
			return
		default:
			if written, err := e.socket.TryWrite(b[:n]); written < n && err == nil { // an error: the client has gone, and TryRead tells it
				e.t.Errorf("wrote %d of %d", written, n)
			}
		}
	}
}

func (e *echo) Posted() { e.Ready() }

func newEcho(t *testing.T, piece int) (*echo, net.Conn) {
	t.Helper()
	client, server := pair(t)
	socket, err := NewSocket(server)
	if err != nil {
		t.Fatal(err)
	}
	return &echo{t: t, socket: socket, piece: piece, done: make(chan error, 1)}, client
}

func await(t *testing.T, done chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("nothing happens")
	}
	return nil
}

// A byte or an end that arrives at a bad moment of a turn would never be told again: edges come once. Many connections send, in pieces and
// with nudges and posts in between, and each must get everything back, and its end be seen.
func TestNothingThatArrivesIsLost(t *testing.T) {
	loop := running(t)
	var clients sync.WaitGroup
	for i := range 20 {
		e, client := newEcho(t, 1+7*i)
		if err := loop.Add(e.socket, e); err != nil {
			t.Fatal(err)
		}
		clients.Go(func() {
			for round := range 200 {
				sent := bytes.Repeat([]byte{byte(round)}, 1+(round*37)%500)
				if _, err := client.Write(sent); err != nil {
					t.Error(err)
					return
				}
				if round%5 == 0 {
					e.socket.Nudge()
				}
				got := make([]byte, len(sent))
				if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(sent, got) {
					t.Errorf("%d bytes came back as %q: %v", len(sent), got, err)
					return
				}
			}
			client.Write([]byte("last"))
			client.Close() // with something unread, and perhaps in one event with its end
			await(t, e.done)
		})
	}
	clients.Wait()
}

// The end may come in one event with the last bytes. It must be found by a handler that reads no further than these.
func TestTheEndBehindTheLastBytesIsSeen(t *testing.T) {
	e, client := newEcho(t, 100)
	client.Write([]byte("bytes"))
	client.(*net.TCPConn).CloseWrite()
	for deadline := time.Now().Add(patience); !halfClosed(e.socket); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the end does not arrive")
		}
	}
	once := &onceReader{socket: e.socket, done: make(chan error, 1)}
	if err := running(t).Add(e.socket, once); err != nil {
		t.Fatal(err)
	}
	if err := await(t, once.done); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
}

// onceReader reads once in a turn while the buffer is not filled, as a handler may.
type onceReader struct {
	socket *Socket
	done   chan error
}

func (r *onceReader) Posted() {}

func (r *onceReader) Ready() {
	b := make([]byte, 100)
	for {
		if _, err := r.socket.TryRead(b); err != nil && !errors.Is(err, ErrAgain) {
			r.socket.Release()
			r.done <- err
			return
		}
		if r.socket.Rest() {
			return
		}
	}
}

// halfClosed peeks whether the peer's end has arrived: only then the kernel tells both in one event.
func halfClosed(s *Socket) bool {
	raw, _ := s.SyscallConn()
	closed := false
	raw.Control(func(fd uintptr) { closed = tcpState(int(fd)) == tcpCloseWait })
	return closed
}

// A goroutine that has the turn uses the socket as any connection: it waits for bytes and for room, until its deadline or Close.
func TestSocketIsAConnection(t *testing.T) {
	client, server := pair(t)
	socket, err := NewSocket(server)
	if err != nil {
		t.Fatal(err)
	}
	turn := &turnTaker{taken: make(chan error, 1)}
	if err := running(t).Add(socket, turn); err != nil {
		t.Fatal(err)
	}
	defer socket.Release()
	client.Write([]byte("a"))
	await(t, turn.taken)

	b := make([]byte, 10)
	if n, err := socket.Read(b); n != 1 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	read := make(chan error, 1)
	go func() {
		n, err := socket.Read(b)
		if err == nil && string(b[:n]) != "later" {
			err = errors.New("read " + string(b[:n]))
		}
		read <- err
	}()
	client.Write([]byte("later"))
	if err := await(t, read); err != nil {
		t.Fatal(err)
	}

	go func() { _, err := socket.Read(b); read <- err }()
	socket.SetReadDeadline(time.Now().Add(time.Hour))
	socket.SetReadDeadline(time.Unix(1, 0)) // wakes it, whichever deadline it has seen
	if err := await(t, read); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("behind the deadline: %v", err)
	}
	socket.SetDeadline(time.Time{})

	written := make(chan error, 1)
	big := bytes.Repeat([]byte("x"), 16<<20) // more than both sockets hold
	go func() { _, err := socket.Write(big); written <- err }()
	if n, err := io.Copy(io.Discard, io.LimitReader(client, int64(len(big)))); n != int64(len(big)) || err != nil {
		t.Fatalf("%d bytes arrived: %v", n, err)
	}
	if err := await(t, written); err != nil {
		t.Fatal(err)
	}

	go func() { _, err := socket.Read(b); read <- err }()
	go func() { _, err := socket.Write(append(big, big...)); written <- err }()
	socket.Close()
	if err := await(t, read); err == nil {
		t.Error("read from a closed socket")
	}
	if err := await(t, written); err == nil {
		t.Error("wrote to a closed socket")
	}
	if _, err := io.Copy(io.Discard, client); err != nil {
		t.Errorf("the peer sees %v", err)
	}
}

// turnTaker keeps the turn for the test.
type turnTaker struct{ taken chan error }

func (h *turnTaker) Ready()  { h.taken <- nil }
func (h *turnTaker) Posted() {}

// A descriptor whose number has been given out again must never be used for the old connection.
func TestReleasedSocketUsesNoDescriptor(t *testing.T) {
	e, client := newEcho(t, 10)
	if err := running(t).Add(e.socket, e); err != nil {
		t.Fatal(err)
	}
	client.Close()
	await(t, e.done)
	if _, err := e.socket.TryWrite([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a released socket is written to: %v", err)
	}
	raw, _ := e.socket.SyscallConn()
	if err := raw.Control(func(uintptr) { t.Error("the descriptor is handed out") }); !errors.Is(err, net.ErrClosed) {
		t.Errorf("control: %v", err)
	}
	e.socket.Close()
	e.socket.Nudge()
}

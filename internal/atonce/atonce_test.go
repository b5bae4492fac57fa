package atonce

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns both ends of a connection over a unix socket.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestReaderWaitsAsTheSocketDoes(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	r := NewReader(b)
	if _, special := r.(*Reader); !special {
		t.Fatalf("a socket is read by a %T", r)
	}
	whole := bytes.Repeat([]byte("message "), 64<<10)
	go func() {
		for at := 0; at < len(whole); at += 1000 {
			if _, err := a.Write(whole[at:min(at+1000, len(whole))]); err != nil {
				return // the test fails at what is missing
			}
		}
		a.Close()
	}()
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Fatalf("read nothing: %d, %v", n, err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, whole) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(whole), err)
	}
}

func TestReaderKeepsDeadlinesAndHearsOfTheEnd(t *testing.T) {
	t.Parallel()
	_, b := pair(t)
	r := NewReader(b)
	b.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	b.SetReadDeadline(time.Time{})
	go b.Close()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	if again := NewReader(b); again == nil {
		t.Fatal("no reader of a closed socket")
	}
	inner, _ := net.Pipe()
	if r := NewReader(inner); r != io.Reader(inner) {
		t.Fatalf("what is no socket is read by a %T", r)
	}
}

func TestReadingTakesNoMemory(t *testing.T) {
	a, b := pair(t)
	r, message, got := NewReader(b), make([]byte, 100), make([]byte, 200)
	if allocations := testing.AllocsPerRun(100, func() {
		if _, err := a.Write(message); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(got); n != len(message) || err != nil {
			t.Fatal(n, err)
		}
	}); allocations != 0 {
		t.Fatalf("%v allocations", allocations)
	}
}

func TestCallsThatFindNothing(t *testing.T) {
	t.Parallel()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	if _, err := Read(fds[0], make([]byte, 1)); err != unix.EAGAIN {
		t.Fatal(err)
	}
	written := 0
	for {
		n, err := Write(fds[0], make([]byte, 4096))
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		written += n
	}
	if n, err := Read(fds[1], make([]byte, 2*written)); n == 0 || err != nil {
		t.Fatal(n, err)
	}
	epoll, err := unix.EpollCreate1(0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	events := make([]unix.EpollEvent, 4)
	if n, err := Poll(epoll, events); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fds[0], &unix.EpollEvent{Events: unix.EPOLLIN, Fd: 7}); err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[1])
	if n, err := Poll(epoll, events); n != 1 || err != nil || events[0].Fd != 7 {
		t.Fatal(n, err, events[0])
	}
	if n, err := Read(fds[0], make([]byte, 1)); n != 0 || err != nil {
		t.Fatalf("at the end: %d, %v", n, err)
	}
}

func TestReadCached(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4)
	n, err := ReadCached(int(f.Fd()), b, 5)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		t.Logf("this file system cannot tell: %v", err) // who reads asks otherwise then
	} else if n != 4 || err != nil || string(b) != "5678" {
		t.Fatal(n, err, string(b))
	} else if n, err = ReadCached(int(f.Fd()), b, 10); n != 0 || err != nil {
		t.Fatalf("at the end: %d, %v", n, err)
	}
	if count, err := Links(int(f.Fd())); count != 1 || err != nil {
		t.Fatal(count, err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if count, err := Links(int(f.Fd())); count != 0 || err != nil {
		t.Fatal(count, err)
	}
	if _, err := Links(-1); err != unix.EBADF {
		t.Fatal(err)
	}
}

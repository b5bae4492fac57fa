package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/admin"
)

// Target is where a load goes.
type Target struct {
	Addrs   []string    // host:port; connections are dealt to them in turn
	Login   admin.Login // certificate, user and password
	Closing []byte      // a command behind each pipeline with writes, whose reply must be a number above 0; nil is none
}

// dialTime bounds how long a connection may take to be made, and to be let in.
const dialTime = 5 * time.Second

// dial connects to one of the target's addresses and returns a non-blocking socket. The caller closes it. What carries TLS runs in
// carriers, until the socket or the connection is closed.
func (t Target) dial(addr string, carriers *sync.WaitGroup) (fd int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	conn, err := t.Login.DialRedis(ctx, addr)
	if err != nil {
		return -1, fmt.Errorf("connect to %s: %w", addr, err)
	}
	if plain, ok := conn.(*net.TCPConn); ok {
		fd, err = descriptorOf(plain)
		conn.Close() // the descriptor is another one of the same connection
	} else {
		fd, err = carry(conn, carriers)
	}
	if err != nil {
		return -1, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return fd, nil
}

// descriptorOf returns a descriptor of the connection that outlives it.
func descriptorOf(conn *net.TCPConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var failed error
	err = raw.Control(func(own uintptr) { fd, failed = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, failed); err != nil {
		return -1, err
	}
	return fd, nil
}

// carry puts a socket before a connection with TLS, and passes on what comes at either end. It takes the connection over.
func carry(conn net.Conn, carriers *sync.WaitGroup) (fd int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		conn.Close()
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	file := os.NewFile(uintptr(pair[1]), "load")
	inner, err := net.FileConn(file)
	if err = errors.Join(err, file.Close()); err != nil {
		conn.Close()
		unix.Close(pair[0])
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	pass := func(target io.Writer, source io.Reader) {
		_, _ = io.Copy(target, source) // an end of either is the end of both, which the load sees
		conn.Close()
		inner.Close()
	}
	carriers.Go(func() { pass(conn, inner) })
	carriers.Go(func() { pass(inner, conn) })
	return pair[0], nil
}

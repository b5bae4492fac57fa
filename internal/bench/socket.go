package bench

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Target is where a load goes.
type Target struct {
	Addrs    []string // host:port; connections are dealt to them in turn
	User     string   // of AUTH; "" is the default user
	Password string   // "": no AUTH
	Closing  []byte   // a command behind each pipeline with writes, whose reply must be a number above 0; nil is none
}

// dialTime bounds how long a connection may take to be made, and to be let in.
const dialTime = 5 * time.Second

// dial connects to one of the target's addresses and returns a non-blocking socket. The caller closes it.
func (t Target) dial(addr string) (fd int, err error) {
	resolved, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return -1, fmt.Errorf("address %s: %w", addr, err)
	}
	family, to := unix.AF_INET6, unix.Sockaddr(nil)
	if ip := resolved.IP.To4(); ip != nil {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: resolved.Port, Addr: [4]byte(ip)}
	} else {
		six := &unix.SockaddrInet6{Port: resolved.Port}
		copy(six.Addr[:], resolved.IP.To16())
		to = six
	}
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	patience := unix.NsecToTimeval(int64(dialTime))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience), // of connect too
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	if err == nil {
		if err = again(func() error { return unix.Connect(fd, to) }); err == nil {
			err = t.enter(fd)
		}
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return fd, nil
}

// again repeats a system call that a signal interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// enter authenticates a connection that blocks.
func (t Target) enter(fd int) error {
	if t.Password == "" {
		return nil
	}
	words := [][]byte{[]byte(t.Password)}
	if t.User != "" {
		words = [][]byte{[]byte(t.User), []byte(t.Password)}
	}
	request := appendCommand(nil, "AUTH", words...)
	for len(request) > 0 {
		var n int
		err := again(func() (err error) { n, err = unix.Write(fd, request); return err })
		if err != nil {
			return fmt.Errorf("authenticate: %w", err)
		}
		request = request[n:]
	}
	var answer replies
	piece := make([]byte, 512)
	for {
		var n int
		err := again(func() (err error) { n, err = unix.Read(fd, piece); return err })
		if err != nil || n == 0 {
			return errors.Join(errors.New("no answer to AUTH"), err)
		}
		_, done, err := answer.next(piece[:n])
		switch {
		case err != nil:
			return err
		case done && answer.kind == '-':
			return fmt.Errorf("AUTH is answered %s", answer.text)
		case done:
			return nil
		}
	}
}

package atonce

import (
	"io"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read reads what a descriptor that does not block has: 0 and nil at the end, EAGAIN if there is nothing.
func Read(fd int, b []byte) (n int, err error) {
	return result(syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))))
}

// Write gives a descriptor that does not block what it takes: EAGAIN if it takes nothing.
func Write(fd int, b []byte) (n int, err error) {
	return result(syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))))
}

// ReadCached reads from a file, beginning at an offset, what is in memory: fewer bytes than b has room for if the next are not, 0 and nil at the end of the
// file. EAGAIN says that the first byte is not in memory, EOPNOTSUPP and ENOSYS that this file system or kernel cannot tell.
func ReadCached(fd int, b []byte, at int64) (n int, err error) {
	piece := syscall.Iovec{Base: unsafe.SliceData(b)}
	piece.SetLen(len(b))
	return result(syscall.RawSyscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&piece)), 1, uintptr(at), 0, unix.RWF_NOWAIT))
}

// Links returns how many names a file has that is on a local file system.
//
// It asks for nothing else. A kernel that has told somebody the time of the last change (fstat does) gives the next write a time of its own, to the nanosecond, where
// writes within a tick share one otherwise: the inode is changed by every write then, and a file system without a journal
// writes it out with every fdatasync.
func Links(fd int) (count uint64, err error) {
	var stx unix.Statx_t
	if _, err := result(syscall.RawSyscall6(unix.SYS_STATX, uintptr(fd), uintptr(unsafe.Pointer(&noPath)), unix.AT_EMPTY_PATH, unix.STATX_NLINK,
		uintptr(unsafe.Pointer(&stx)), 0)); err == nil && stx.Mask&unix.STATX_NLINK != 0 {
		return uint64(stx.Nlink), nil
	}
	var st unix.Stat_t // a kernel, or a container, without statx
	_, err = result(syscall.RawSyscall(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(&st)), 0))
	return uint64(st.Nlink), err
}

var noPath byte // an empty string of C

// Poll is epoll_wait that does not wait.
func Poll(epoll int, events []unix.EpollEvent) (n int, err error) {
	return result(syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0))
}

func result(n, _ uintptr, errno syscall.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Reader reads from a socket of package net, and waits as that does. One goroutine at a time may use it.
type Reader struct {
	socket syscall.RawConn
	read   func(fd uintptr) bool // of RawConn.Read; made once, so that reading takes no memory

	// Of one call of Read.
	into []byte
	n    int
	err  error
}

// NewReader returns a Reader of conn, or conn itself if it is no socket. Deadlines are those of conn.
func NewReader(conn net.Conn) io.Reader {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return conn // which tells why
	}
	r := &Reader{socket: raw}
	r.read = r.attempt
	return r
}

// attempt reports whether there was something to read, or an error.
func (r *Reader) attempt(fd uintptr) bool {
	for {
		r.n, r.err = Read(int(fd), r.into)
		if r.err != unix.EINTR {
			return r.err != unix.EAGAIN
		}
	}
}

// Read implements io.Reader.
func (r *Reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	r.into = b
	err := r.socket.Read(r.read)
	r.into = nil
	switch {
	case err != nil:
		return 0, err
	case r.err != nil:
		return 0, &net.OpError{Op: "read", Net: "socket", Err: r.err}
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

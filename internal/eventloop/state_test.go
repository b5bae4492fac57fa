package eventloop

import "golang.org/x/sys/unix"

// tcpCloseWait is the state of a TCP connection whose peer has closed its side.
const tcpCloseWait = 8

// tcpState returns the state of a TCP connection, 0 if it cannot be had.
func tcpState(fd int) uint8 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.State
}

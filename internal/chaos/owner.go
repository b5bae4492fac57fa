package chaos

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"lockstep/internal/local"
)

// ownerOf tells which node has the other end of a connection of this machine, "" if none has. With TLS nothing that passes says so.
func (c *cluster) ownerOf(conn net.Conn) string {
	socket, err := socketOf(conn.RemoteAddr(), conn.LocalAddr())
	if err != nil {
		return ""
	}
	for _, r := range c.Plan.Replicas {
		for _, name := range []string{local.ReplicatorOf(r.Node), local.KVNodeOf(r.Node)} {
			if pid := c.Pid(name); pid != 0 && holds(pid, socket) {
				return r.Node
			}
		}
	}
	return ""
}

// socketOf finds the socket that is bound to one address and connected to another: what links of /proc/PID/fd say of it.
func socketOf(at, to net.Addr) (string, error) {
	file, err := os.Open("/proc/net/tcp")
	if err != nil {
		return "", fmt.Errorf("find the owner of a connection: %w", err)
	}
	defer file.Close()
	bound, connected := portOf(at), portOf(to)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// sl local_address rem_address st tx:rx tr:when retransmits uid timeout inode …
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && strings.HasSuffix(fields[1], bound) && strings.HasSuffix(fields[2], connected) {
			return "socket:[" + fields[9] + "]", nil
		}
	}
	return "", fmt.Errorf("%v has no connection to %v here: %w", at, to, os.ErrNotExist)
}

// portOf is a port as /proc/net/tcp writes it.
func portOf(addr net.Addr) string {
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "none"
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "none"
	}
	return fmt.Sprintf(":%04X", number)
}

// holds reports whether a process has a socket open.
func holds(pid int, socket string) bool {
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return false // it has ended, and its connection with it
	}
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(folder, entry.Name())); err == nil && target == socket {
			return true
		}
	}
	return false
}

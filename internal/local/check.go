package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"lockstep/internal/filelock"
)

// MinFree is the free disk space in bytes that a cluster must find when it starts.
const MinFree = 1 << 30

// maxSocketDir bounds the path of a directory with a unix socket "local.sock" in it: the system allows 107 bytes for the
// socket's path.
const maxSocketDir = 107 - len("/local.sock") - len("/n9")

// lockDir takes the directory's lock.
func lockDir(dir string) (*filelock.Lock, error) {
	path := filepath.Join(dir, "lock")
	lock, err := filelock.Take(path)
	if errors.Is(err, filelock.ErrHeld) {
		holder, _ := os.ReadFile(path) // without it nobody is named
		return nil, fmt.Errorf("%s is in use: another smrctl (pid %s) starts or stops processes there: wait for it", dir, bytes.TrimSpace(holder))
	}
	if err != nil {
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	if err := errors.Join(lock.Truncate(0), writeAt(lock.File, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return lock, nil
}

func writeAt(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}

// checkDir reports why a cluster cannot live in dir, an absolute path that need not exist. known is true if there is one.
func checkDir(dir string) (known bool, err error) {
	if len(dir) > maxSocketDir {
		return false, fmt.Errorf("the path %s has %d bytes, and sockets in it need a path of at most %d: choose a shorter --dir", dir, len(dir), maxSocketDir)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, syscall.ENOTDIR):
		return false, fmt.Errorf("%s is not a directory: choose another one with --dir", dir)
	case err != nil:
		return false, fmt.Errorf("read directory: %w", err)
	}
	var strangers []string
	for _, entry := range entries {
		switch entry.Name() {
		case planName:
			return true, nil
		case "lock", "logs", "pids", "bin": // left by an `up` that ended before it had begun a cluster
		default:
			strangers = append(strangers, entry.Name())
		}
	}
	if len(strangers) > 0 {
		return false, fmt.Errorf("%s holds other things (%s) and no cluster: choose an empty or new directory with --dir",
			dir, strings.Join(strangers[:min(3, len(strangers))], ", "))
	}
	return false, nil
}

// checkDisk reports whether the file system of dir, which need not exist yet, has too little space.
func checkDisk(dir string, needed uint64) error {
	for {
		var stat unix.Statfs_t
		err := unix.Statfs(dir, &stat)
		if errors.Is(err, unix.ENOENT) && filepath.Dir(dir) != dir {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return fmt.Errorf("free space of %s: %w", dir, err)
		}
		if free := stat.Bavail * uint64(stat.Bsize); free < needed {
			return fmt.Errorf("%s has %d MiB free and %d MiB are needed: make room, or choose another disk with --dir", dir, free>>20, needed>>20)
		}
		return nil
	}
}

// checkPorts binds every port of the plan for a moment and names all that somebody else has.
func checkPorts(p Plan) error {
	var problems []error
	try := func(owner, what, addr string) {
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s (%s of %s): %w", addr, what, owner, portProblem(err)))
			return
		}
		listener.Close()
	}
	for _, r := range p.Replicas {
		try(r.Node, "Redis port", r.KVAddr)
		try(r.Node, "data port", r.DataAddr)
		try(r.Node, "management port", r.ManageAddr)
		try(r.Node, "management port of the KV node", r.AdminAddr())
	}
	for _, c := range p.Confmasters {
		try(c.Name(), "port", c.Addr)
		try(c.Name(), "Sentinel port", c.SentinelAddr)
	}
	p.checkHTTP(try)
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("ports that cannot be had:\n%w", errors.Join(problems...))
}

// portProblem keeps of a failed listen what helps.
func portProblem(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return errors.New("in use by another process")
	case errors.Is(err, syscall.EACCES):
		return errors.New("ports below 1024 need root")
	}
	return err
}

// CheckPorts reports which ports of a cluster with these options somebody else has.
func CheckPorts(o Options) error { return checkPorts(newPlan(o.WithDefaults())) }

// Reserved first ports lie here: all ports of their clusters are then below those of outgoing connections on Linux.
const (
	reserveFirst = 10100
	reserveLimit = 12650
	reserveStep  = 10
	_            = uint(reserveStep - MaxReplicas)
	_            = uint(32768 - reserveLimit - sentinelPorts)
	_            = uint(httpReplicators - httpKVNodes - (reserveLimit - reserveFirst))
)

// ReservePorts returns a first port whose cluster can have all its ports, for tests and measurements. Until release, or
// the end of this process, no other caller on this machine is given the same: a cluster may also stop and come back.
func ReservePorts(o Options) (port int, release func(), err error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("lockstep-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, nil, fmt.Errorf("reserve ports: %w", err)
	}
	const blocks = (reserveLimit - reserveFirst) / reserveStep
	begin := rand.IntN(blocks) // #nosec G404 -- which ports are tried first is no secret
	for i := range blocks {
		o.Port = reserveFirst + (begin+i)%blocks*reserveStep
		lock, lockErr := filelock.Take(filepath.Join(dir, strconv.Itoa(o.Port)))
		if errors.Is(lockErr, filelock.ErrHeld) {
			continue
		}
		if lockErr != nil {
			return 0, nil, fmt.Errorf("reserve ports: %w", lockErr)
		}
		if err = CheckPorts(o); err == nil {
			return o.Port, func() { _ = lock.Close() }, nil
		}
		_ = lock.Close()
	}
	if err == nil {
		err = errors.New("all are reserved by others")
	}
	return 0, nil, fmt.Errorf("no free ports from %d to %d: %w", reserveFirst, reserveLimit, err)
}

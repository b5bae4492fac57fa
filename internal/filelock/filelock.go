// Package filelock lets one process at a time have what a file stands for: a directory, a port.
package filelock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrHeld: somebody else has the lock.
var ErrHeld = errors.New("another process has the lock")

// Lock is a file that is locked (flock(2)) until Close, or until this process ends. The owner may write into it.
type Lock struct{ *os.File }

// Take locks the file of that name, which is made if it is missing, for its owner alone. It does not wait: the error is ErrHeld if somebody has the lock.
func Take(path string) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", path, ErrHeld)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{file}, nil
}

// Close gives the lock back. To close the file is not enough: a process that this one is just beginning has a copy of it until its program runs.
func (l *Lock) Close() error {
	return errors.Join(unix.Flock(int(l.Fd()), unix.LOCK_UN), l.File.Close())
}

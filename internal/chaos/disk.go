package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// diskFaults lists faults of disks that can be had on this machine; notes tells which cannot, and why.
func diskFaults(c *cluster) (kinds []kind, notes []string) {
	kinds = []kind{
		{"wiped directory", 5, (*turn).wipe},
		{"damaged files", 8, (*turn).damage},
	}
	if c.small != "" {
		kinds = append(kinds, kind{"disk full", 5, (*turn).fill})
		notes = append(notes, fmt.Sprintf("disk full: the directory of %s is %s", c.small, c.smallKind))
	} else {
		notes = append(notes, "disk full is left out: "+c.smallKind)
	}
	if reason := traceable(); reason != "" {
		notes = append(notes, "failed and slow syncs are left out: "+reason)
	} else {
		kinds = append(kinds, kind{"failed sync", 4, (*turn).failSync}, kind{"slow disk", 4, (*turn).slowDisk})
	}
	return kinds, notes
}

// traceable says why strace cannot be used, "" if it can: it is tried on a process of our own.
func traceable() string {
	if _, err := exec.LookPath("strace"); err != nil {
		return "strace is not installed"
	}
	out, err := exec.Command("strace", "-f", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1", "true").CombinedOutput()
	if err != nil {
		return fmt.Sprintf("strace: %v: %s", err, strings.TrimSpace(string(out)))
	}
	return ""
}

// wipe takes a node's disk away: replicator and mostly the KV node are killed, and the directory comes back empty.
func (t *turn) wipe() bool {
	node := t.node()
	if !t.mayDestroy(node) {
		return false
	}
	before := t.incarnation(node)
	victims := []string{local.ReplicatorOf(node), local.KVNodeOf(node)}
	if t.rng.IntN(3) == 0 {
		victims = victims[:1] // the KV node keeps its state and meets a replicator that has nothing
	}
	t.begin([]string{node}, "killed with it: %s", strings.Join(victims, ", "))
	t.kill(victims...)
	err := emptyDirectory(t.ReplicaDir(node))
	t.wait(0, 2*time.Second)
	t.end(errors.Join(err, t.startAll(victims...)))
	t.awaitAdmission(node, before, before != 0)
	return true
}

// emptyDirectory removes all that is in dir; dir itself may be a mount point.
func emptyDirectory(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	if err != nil {
		return fmt.Errorf("empty %s: %w", dir, err)
	}
	return nil
}

// damage changes files of a node that does not run: flipped bits, a cut end, a missing or swapped log file.
func (t *turn) damage() bool {
	node := t.node()
	if !t.mayDestroy(node) {
		return false
	}
	before := t.incarnation(node)
	victims := []string{local.ReplicatorOf(node), local.KVNodeOf(node)}
	if t.rng.IntN(2) == 0 {
		victims = victims[:1]
	}
	t.begin([]string{node}, "")
	t.kill(victims...)
	text, err := t.damageFiles(t.ReplicaDir(node))
	t.mu.Lock()
	t.fault.Detail = fmt.Sprintf("%s; killed with it: %s", text, strings.Join(victims, ", "))
	t.mu.Unlock()
	t.progress(fmt.Sprintf("fault %d: %s", t.fault.ID, text))
	t.end(errors.Join(err, t.startAll(victims...)))
	t.awaitAdmission(node, before, false)
	return true
}

// damageFiles damages a replica's directory and tells how.
func (t *turn) damageFiles(dir string) (string, error) {
	files, err := logFiles(filepath.Join(dir, "log"))
	if err != nil || len(files) == 0 {
		return "no log file", err
	}
	file := files[t.rng.IntN(len(files))]
	if t.rng.IntN(2) == 0 {
		file = files[len(files)-1] // the one being written
	}
	switch t.rng.IntN(6) {
	case 0:
		return t.flip(filepath.Join(dir, "state", "state"), 1)
	case 1:
		return t.truncate(file)
	case 2:
		return "removed " + filepath.Base(file), os.Remove(file)
	case 3:
		if len(files) > 1 {
			return swapFiles(files[0], files[len(files)-1])
		}
		return t.flip(file, 1)
	case 4:
		return t.flip(file, 1+t.rng.IntN(20))
	}
	return t.flip(file, 1)
}

// logFiles lists the log files of a directory, oldest first.
func logFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if _, err := strconv.ParseUint(entry.Name(), 10, 64); err == nil && len(entry.Name()) == 20 {
			files = append(files, filepath.Join(dir, entry.Name()))
		}
	}
	slices.Sort(files)
	return files, nil
}

// flip flips single bits of a file.
func (t *turn) flip(path string, bits int) (string, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return "", err
	}
	var at []string
	for range bits {
		offset, bit := t.rng.Int64N(info.Size()), t.rng.IntN(8)
		b := make([]byte, 1)
		if _, err := file.ReadAt(b, offset); err != nil {
			return "", err
		}
		b[0] ^= 1 << bit
		if _, err := file.WriteAt(b, offset); err != nil {
			return "", err
		}
		at = append(at, fmt.Sprintf("%d.%d", offset, bit))
	}
	return fmt.Sprintf("flipped %s of %s", strings.Join(at, " "), filepath.Base(path)), nil
}

func (t *turn) truncate(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	size := t.rng.Int64N(info.Size())
	return fmt.Sprintf("cut %s from %d to %d bytes", filepath.Base(path), info.Size(), size), os.Truncate(path, size)
}

// swapFiles gives two files each other's name.
func swapFiles(a, b string) (string, error) {
	aside := a + ".aside"
	err := errors.Join(os.Rename(a, aside), os.Rename(b, a), os.Rename(aside, b))
	return fmt.Sprintf("swapped %s and %s", filepath.Base(a), filepath.Base(b)), err
}

// fill fills the small file system for a while. The process must stay up, and go on when there is room again.
func (t *turn) fill() bool {
	if !t.claim(local.ReplicatorOf(t.small), "file system of "+t.small) {
		return false
	}
	name := local.ReplicatorOf(t.small)
	pid := t.Pid(name)
	if pid == 0 {
		return false
	}
	filler := filepath.Join(t.ReplicaDir(t.small), "filler")
	length := t.between(3*time.Second, 8*time.Second)
	t.begin([]string{t.small}, "for %v", length.Round(time.Millisecond))
	err := fillUp(filler)
	if !t.useUp(length) {
		t.idle("what had been allocated ahead was enough")
	}
	if t.Pid(name) != pid {
		t.failed("a full disk leaves the process up", "fault %d: %s ended:\n%s", t.fault.ID, name, t.Tail(name, 5))
	}
	t.end(errors.Join(err, os.Remove(filler), t.startAll(name)))
	return true
}

// useUp writes large values for a time, so that the log needs what is not there: the log allocates ahead. It reports
// whether the replicator said that its disk is full.
func (t *turn) useUp(length time.Duration) bool {
	ctx, cancel := context.WithTimeout(t.ctx, length)
	defer cancel()
	path := t.LogPath(local.ReplicatorOf(t.small))
	before := countLines(path, `msg="disk full"`)
	value := strings.Repeat("x", 256<<10)
	for i := 0; countLines(path, `msg="disk full"`) == before; i++ {
		nodes := t.nodes()
		r := nodes[i%len(nodes)]
		// Whatever comes of it: this key is nobody's business.
		_, _ = once(ctx, t.login(), r.KVAddr, time.Second, "SET", "ballast", value)
		if !pause.For(ctx, 50*time.Millisecond) {
			return countLines(path, `msg="disk full"`) > before
		}
	}
	<-ctx.Done() // it is full for the rest of the time
	return true
}

// countLines counts the lines of a log that hold a text; none if it cannot be read.
func countLines(path, text string) int {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return strings.Count(string(content), text)
}

// fillUp writes a file until the file system has no room.
func fillUp(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	defer file.Close()
	// Nearly all of it is taken without writing it; what is left is written, because allocation stops short of the last block.
	var free syscall.Statfs_t
	if err := syscall.Fstatfs(int(file.Fd()), &free); err == nil {
		_ = syscall.Fallocate(int(file.Fd()), 0, 0, int64(free.Bavail)*free.Bsize*99/100)
	}
	if _, err := file.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	if err := file.Sync(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("fill: %w", err)
	}
	return nil
}

// inject attaches strace to a process with what it shall do to syncs. stop takes it away again.
func (t *turn) inject(pid int, what string) (stop func(), err error) {
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(pid), "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:"+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("strace: %w", err)
	}
	return func() {
		// Its death detaches it; how it ends says nothing.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}, nil
}

// failSync lets one sync of a replicator fail. The process must end by itself: what the disk holds is unknown.
func (t *turn) failSync() bool {
	name := local.ReplicatorOf(t.node())
	if !t.claim(name) || t.Pid(name) == 0 {
		return false
	}
	ended := t.Ended(name)
	t.begin([]string{name}, "the next sync answers EIO")
	stop, err := t.inject(t.Pid(name), "error=EIO:when=1")
	if err != nil {
		t.end(err)
		return true
	}
	ctx, cancel := context.WithTimeout(t.ctx, 5*time.Second)
	defer cancel()
	select {
	case <-ended:
	case <-ctx.Done(): // a slave that gets nothing has nothing to sync
		t.mu.Lock()
		t.fault.Detail += "; nothing was synced in time, so it was killed"
		t.mu.Unlock()
		t.kill(name)
	}
	stop()
	t.wait(0, time.Second)
	t.end(t.startAll(name))
	return true
}

// seesStuckDisk waits for a time and reports whether the replicator ever told of a disk operation of half the delay.
func (t *turn) seesStuckDisk(node string, length, delay time.Duration) bool {
	ctx, cancel := context.WithTimeout(t.ctx, length)
	defer cancel()
	seen := false
	for {
		if group, _, err := t.group(ctx); err == nil {
			stuck := time.Duration(replica(group, node).GetState().GetDiskStuckMs()) * time.Millisecond
			seen = seen || stuck >= delay/2
		}
		if !pause.For(ctx, 15*time.Millisecond) {
			return seen
		}
	}
}

// slowDisk makes every sync of a replicator take long.
func (t *turn) slowDisk() bool {
	node := t.node()
	name := local.ReplicatorOf(node)
	if !t.claim(name) || t.Pid(name) == 0 {
		return false
	}
	delay, length := t.between(100*time.Millisecond, 1500*time.Millisecond), t.between(3*time.Second, 6*time.Second)
	t.begin([]string{name}, "every sync takes %v, for %v", delay.Round(time.Millisecond), length.Round(time.Millisecond))
	stop, err := t.inject(t.Pid(name), fmt.Sprintf("delay_enter=%d", delay.Microseconds()))
	if err == nil {
		if !t.seesStuckDisk(node, length, delay) {
			t.idle("no disk operation took that long")
		}
		stop()
	}
	t.end(err)
	return true
}

package ctl

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// diskFree and diskPart are the room below which a disk is nearly full.
	diskFree = 1 << 30
	diskPart = 20 // a twentieth
	// syncTries is how many syncs are measured, syncSlow what their median should not exceed.
	syncTries = 15
	syncSlow  = 20 * time.Millisecond
	// filesWanted is how many open files a server should be allowed.
	filesWanted = 10_000
)

// fileSystems names those that matter, by their magic numbers.
var fileSystems = map[int64]struct {
	name    string
	problem string // "" if it is fine
}{
	unix.EXT4_SUPER_MAGIC:      {"ext2, ext3 or ext4", ""},
	unix.XFS_SUPER_MAGIC:       {"xfs", ""},
	unix.BTRFS_SUPER_MAGIC:     {"btrfs", "copy on write makes each append dear; use ext4 or xfs, or chattr +C on the directory"},
	unix.TMPFS_MAGIC:           {"tmpfs", "everything is lost when the machine stops"},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", "data in a container's own layer are lost with it; mount a volume"},
	unix.NFS_SUPER_MAGIC:       {"NFS", "locks and syncs of a network file system are not what the log relies on; use a disk of the machine"},
}

// checkDisks looks at the directories of the nodes on this machine.
func (d *doctor) checkDisks(ctx context.Context) {
	if d.cluster == nil {
		d.say(diagnosis{severityNote, "disks", machineName(), "not looked at: the directories of the nodes are not known here", "", "run doctor with --dir on the machine of a cluster from `smrctl up`; df and docs/runbooks.md elsewhere"})
		return
	}
	dirs := []string{d.cluster.Dir}
	for _, r := range d.cluster.Plan.Replicas {
		dirs = append(dirs, filepath.Join(d.cluster.Dir, r.Node))
	}
	seen := make(map[uint64]bool)
	for _, dir := range dirs {
		var stat unix.Stat_t
		if unix.Stat(dir, &stat) != nil || seen[uint64(stat.Dev)] || ctx.Err() != nil {
			continue
		}
		seen[uint64(stat.Dev)] = true
		d.checkDisk(dir)
	}
}

func (d *doctor) checkDisk(dir string) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		d.say(diagnosis{severityWarning, "disks", dir, "not known: " + err.Error(), "", ""})
		return
	}
	free, total := fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
	room := fmt.Sprintf("%s of %s free", size(free), size(total))
	if free < diskFree || free < total/diskPart {
		d.say(diagnosis{severityError, "disks", dir, room, "writes are refused when there is no room; reads go on", "make room or a larger disk; `--log-keep-bytes` of the replicator says how much log stays"})
	} else {
		d.fine("disks", dir, "%s", room)
	}
	if kind, known := fileSystems[int64(fs.Type)]; known && kind.problem != "" {
		d.say(diagnosis{severityWarning, "disks", dir, "the file system is " + kind.name, kind.problem, "move the directory to ext4 or xfs on a disk of this machine"})
	} else if known {
		d.fine("disks", dir, "the file system is %s", kind.name)
	}
	median, worst, err := syncTime(dir)
	text := fmt.Sprintf("a sync takes %v, the longest of %d %v", median.Round(10*time.Microsecond), syncTries, worst.Round(10*time.Microsecond))
	switch {
	case err != nil:
		d.say(diagnosis{severityWarning, "disks", dir, "the time of a sync is not known: " + err.Error(), "", ""})
	case median > syncSlow:
		d.say(diagnosis{severityWarning, "disks", dir, text, "every acknowledged write waits for one", "use a disk with a protected write cache, or see --sync"})
	default:
		d.fine("disks", dir, "%s", text)
	}
}

// syncTime measures appends of 4 KiB, each with fdatasync, in a file that is removed afterwards.
func syncTime(dir string) (median, worst time.Duration, err error) {
	file, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	page := make([]byte, 4096)
	var times []time.Duration
	for range syncTries {
		began := time.Now()
		if _, err := file.Write(page); err != nil {
			return 0, 0, err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return 0, 0, err
		}
		times = append(times, time.Since(began))
	}
	slices.SortFunc(times, func(a, b time.Duration) int { return cmp.Compare(a, b) })
	return times[len(times)/2], times[len(times)-1], nil
}

// checkLimits looks at what the kernel allows and does.
func (d *doctor) checkLimits(context.Context) {
	subject := machineName()
	limit := d.openFiles()
	if limit.soft < filesWanted {
		d.say(diagnosis{severityWarning, "limits", limit.subject, fmt.Sprintf("%d open files are possible", limit.soft), "clients are refused when there are more connections",
			fmt.Sprintf("allow %d: LimitNOFILE= in the unit, or ulimit -n", filesWanted)})
	} else {
		d.fine("limits", limit.subject, "%d open files are possible", limit.soft)
	}
	if text := kernelChoice("/sys/kernel/mm/transparent_hugepage/enabled"); text == "always" {
		d.say(diagnosis{severityNote, "limits", subject, "transparent huge pages are on for everybody", "memory is taken in larger pieces and pauses may be longer", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"})
	} else if text != "" {
		d.fine("limits", subject, "transparent huge pages: %s", text)
	}
	if readNumber("/proc/sys/vm/overcommit_memory") == 2 {
		d.say(diagnosis{severityNote, "limits", subject, "the kernel promises no more memory than it has (vm.overcommit_memory = 2)", "memory may be refused although much of it is free", "sysctl vm.overcommit_memory=0"})
	}
	memory := memoryInfo()
	switch used := memory["SwapTotal"] - memory["SwapFree"]; {
	case used > memory["SwapTotal"]/10 && used > 64<<10:
		d.say(diagnosis{severityWarning, "limits", subject, fmt.Sprintf("%s of swap are in use", size(used<<10)), "a node that is swapped out answers too late and is suspected", "give the machine more memory, or set maxmemory: `smrctl config set maxmemory SIZE`"})
	case memory["MemTotal"] > 0 && memory["MemAvailable"] < memory["MemTotal"]/20:
		d.say(diagnosis{severityWarning, "limits", subject, fmt.Sprintf("%s of %s memory are available", size(memory["MemAvailable"]<<10), size(memory["MemTotal"]<<10)), "the kernel may kill a node", "set maxmemory: `smrctl config set maxmemory SIZE`"})
	default:
		d.fine("limits", subject, "memory: %s of %s available", size(memory["MemAvailable"]<<10), size(memory["MemTotal"]<<10))
	}
}

type fileLimit struct {
	subject string
	soft    uint64
}

// openFiles returns the lowest limit of the processes of a cluster on this machine, else that of this process.
func (d *doctor) openFiles() fileLimit {
	var own unix.Rlimit
	lowest := fileLimit{machineName(), 0}
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &own) == nil {
		lowest.soft = own.Cur
	}
	if d.cluster == nil {
		return lowest
	}
	for _, p := range d.cluster.Processes() {
		var limit unix.Rlimit
		if p.Pid != 0 && unix.Prlimit(p.Pid, unix.RLIMIT_NOFILE, nil, &limit) == nil && limit.Cur < lowest.soft {
			lowest = fileLimit{p.Name, limit.Cur}
		}
	}
	return lowest
}

// kernelChoice returns the word in brackets of a file such as "always [madvise] never".
func kernelChoice(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), "[")
	word, _, _ := strings.Cut(rest, "]")
	return word
}

func readNumber(path string) uint64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// memoryInfo reads /proc/meminfo, in KiB.
func memoryInfo() map[string]uint64 {
	values := make(map[string]uint64)
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return values
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
			values[strings.TrimSuffix(fields[0], ":")] = n
		}
	}
	return values
}

// maxReplyWords and maxReplyBytes bound a reply that readStrings takes.
const (
	maxReplyWords = 1024
	maxReplyBytes = 16 << 20
)

// readStrings reads a status, an error, a bulk string or an array of these.
func readStrings(from io.Reader) ([]string, error) {
	reader := bufio.NewReader(io.LimitReader(from, maxReplyBytes))
	count := 1
	var words []string
	for len(words) < count {
		line, err := reader.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("read the reply: %w", err)
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			return nil, errors.New("read the reply: an empty line")
		}
		switch line[0] {
		case '-':
			return nil, errors.New(line[1:])
		case '*', '$':
			n, err := strconv.Atoi(line[1:])
			if err != nil || n < 0 || line[0] == '*' && (n > maxReplyWords || count > 1) || n > maxReplyBytes {
				return nil, fmt.Errorf("read the reply: %q", line)
			}
			if line[0] == '*' {
				count = n
				continue
			}
			text := make([]byte, n+2)
			if _, err := io.ReadFull(reader, text); err != nil {
				return nil, fmt.Errorf("read the reply: %w", err)
			}
			words = append(words, string(text[:n]))
		default:
			words = append(words, line[1:])
		}
	}
	return words, nil
}

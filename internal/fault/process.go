package fault

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// PeerProcess is the id of the process at the other end of a unix socket, as the kernel tells it to this process; 0 if it cannot be
// seen from here.
func PeerProcess(c net.Conn) int {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	err = raw.Control(func(fd uintptr) {
		if who, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(who.Pid)
		}
	})
	if err != nil {
		return 0
	}
	return pid
}

// targets opens the processes that are meant, the KV node first.
func (a *Agent) targets(process, kvnode bool) (list []*os.File, names []string, err error) {
	open := func(pid int, name string) error {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return status.Errorf(codes.FailedPrecondition, "open %s (pid %d): %v", name, pid, err)
		}
		list = append(list, os.NewFile(uintptr(fd), name))
		names = append(names, fmt.Sprintf("%s (pid %d)", name, pid))
		return nil
	}
	if kvnode {
		err = open(a.options.KVNode(), "the KV node")
	}
	if err == nil && process {
		err = open(os.Getpid(), "this process")
	}
	if err != nil {
		closeAll(list)
		return nil, nil, err
	}
	return list, names, nil
}

func closeAll(list []*os.File) {
	for _, f := range list {
		_ = f.Close() // descriptors of processes hold nothing back
	}
}

// killed is the exit code that shells and container engines show for SIGKILL.
const killed = 128 + int(unix.SIGKILL)

// kill kills what is meant, this process last: then it does not return.
func (a *Agent) kill(process, kvnode bool) (string, error) {
	list, names, err := a.targets(process, kvnode)
	if err != nil {
		return "", err
	}
	defer closeAll(list)
	for i, target := range list {
		if err := unix.PidfdSendSignal(int(target.Fd()), unix.SIGKILL, nil, 0); err != nil {
			return "", status.Errorf(codes.FailedPrecondition, "kill %s: %v", names[i], err)
		}
	}
	if process {
		unix.Exit(killed) // who is here still is the first process of a container (pid 1), whose own signals the kernel keeps from it
	}
	return fmt.Sprintf("killed %v", names), nil
}

// HelperArgument is the first argument of the helper that pauses processes, which is this executable once more.
const HelperArgument = "drill-pause-helper"

// pause stops what is meant, and lets it go on when it is taken back or the limit has passed. A helper does it: this process may be
// among those that stand still.
func (a *Agent) pause(process, kvnode bool, limit time.Duration) (undo func(), text string, err error) {
	list, names, err := a.targets(process, kvnode)
	if err != nil {
		return nil, "", err
	}
	defer closeAll(list)
	cmd := exec.Command("/proc/self/exe", HelperArgument, strconv.FormatInt(limit.Milliseconds(), 10)) // #nosec G204 -- the own program, with a number
	cmd.ExtraFiles = list
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, "", status.Errorf(codes.Internal, "start the helper: %v", err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, "", status.Errorf(codes.Internal, "start the helper: %v", err)
	}
	undo = func() {
		_ = in.Close() // it lets them go on
		err := cmd.Wait()
		a.options.Logger.Info("drill: processes go on", "processes", fmt.Sprint(names), "error", err)
	}
	// The answer comes before this process stands still, if it is among them.
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		undo()
		return nil, "", status.Errorf(codes.Internal, "the helper that pauses said nothing: %v", err)
	}
	if line != "ready\n" {
		undo()
		return nil, "", status.Errorf(codes.FailedPrecondition, "pause: %s", line)
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		undo()
		return nil, "", status.Errorf(codes.Internal, "the helper that pauses is gone: %v", err)
	}
	return undo, fmt.Sprintf("paused %v", names), nil
}

// Helper is the whole life of the helper, if this process is one: it stops the processes whose descriptors it was given, waits until
// its input ends or the limit has passed, lets them go on, and exits.
func Helper() {
	if len(os.Args) != 3 || os.Args[1] != HelperArgument {
		return
	}
	if err := helper(os.Args[2]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// firstExtraFile is the number of the first descriptor that a child is given.
const firstExtraFile = 3

// startPause is how long the helper waits after it was told to go, so that the answer to the order leaves a process that will stand
// still.
const startPause = 20 * time.Millisecond

func helper(text string) error {
	millis, err := strconv.Atoi(text)
	if err != nil || millis <= 0 || time.Duration(millis)*time.Millisecond > MaxLimit {
		return fmt.Errorf("limit %q", text)
	}
	var targets []int
	for fd := firstExtraFile; fd < firstExtraFile+2; fd++ {
		if err := unix.PidfdSendSignal(fd, 0, nil, 0); err == nil {
			targets = append(targets, fd)
		} else if !errors.Is(err, unix.EBADF) {
			return fmt.Errorf("signal a process: %w", err)
		}
	}
	fmt.Println("ready")
	input := bufio.NewReader(os.Stdin)
	if line, err := input.ReadString('\n'); err != nil || line != "go\n" {
		return fmt.Errorf("not told to go: %q", line)
	}
	limit := time.NewTimer(time.Duration(millis) * time.Millisecond)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = input.ReadByte() // the end of the input is the sign
	}()
	settle := time.NewTimer(startPause)
	select {
	case <-ended:
		return nil
	case <-settle.C:
	}
	signal := func(which unix.Signal) (err error) {
		for _, fd := range targets {
			err = errors.Join(err, unix.PidfdSendSignal(fd, which, nil, 0))
		}
		return err
	}
	err = signal(unix.SIGSTOP)
	if err == nil {
		select {
		case <-limit.C:
		case <-ended:
		}
	}
	return errors.Join(err, signal(unix.SIGCONT))
}

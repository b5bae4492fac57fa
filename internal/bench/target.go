package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/local"
)

// target is a running group of servers under load.
type target struct {
	name    string
	version string
	master  string // address for clients
	closing []byte // sent behind each pipeline of writes
	pids    []int
	stop    func() error
}

// startLockstep starts a cluster of three replicas in dir.
func startLockstep(ctx context.Context, dir, binaries string, progress func(string)) (*target, *local.Cluster, error) {
	port, _, err := local.ReservePorts(local.Options{}) // until this process ends
	if err != nil {
		return nil, nil, err
	}
	cluster, err := local.Prepare(dir, local.Options{Port: port})
	if err != nil {
		return nil, nil, err
	}
	cluster.DieWithParent = true
	cluster.Progress = progress
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := cluster.Start(starting, binaries); err != nil {
		return nil, nil, err
	}
	t := &target{name: "lockstep", stop: func() error { _, _, err := cluster.Stop(); return err }}
	for _, p := range cluster.Processes() {
		t.pids = append(t.pids, p.Pid)
	}
	master, err := masterOf(ctx, cluster)
	if err != nil {
		return nil, nil, errors.Join(err, t.stop())
	}
	t.master = cluster.Plan.Replicas[master].KVAddr
	return t, cluster, nil
}

// masterOf returns the index of the established master in the plan's replicas.
func masterOf(ctx context.Context, cluster *local.Cluster) (int, error) {
	client, err := admin.New(cluster.Plan.ConfmasterAddrs())
	if err != nil {
		return 0, err
	}
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return 0, err
	}
	for _, group := range status.GetGroups() {
		for i, r := range cluster.Plan.Replicas {
			if group.GetName() == cluster.Plan.Group && group.GetMaster() == r.Node {
				return i, nil
			}
		}
	}
	return 0, errors.New("the group has no master")
}

// startRedis starts three redis-servers in dir, one master and two replicas.
func startRedis(ctx context.Context, dir, binary string) (*target, error) {
	const servers = 3
	port, _, err := local.ReservePorts(local.Options{})
	if err != nil {
		return nil, err
	}
	t := &target{name: "redis", master: loopback(port), closing: appendCommand(nil, "WAIT", []byte("1"), []byte("0"))}
	var running []*exec.Cmd
	t.stop = func() error {
		var problems []error
		for _, cmd := range running {
			problems = append(problems, cmd.Process.Kill())
			cmd.Wait() // killed: its status says only that
		}
		return errors.Join(problems...)
	}
	if out, err := exec.CommandContext(ctx, binary, "--version").Output(); err == nil {
		t.version = strings.TrimSpace(string(out))
	}
	for i := range servers {
		home := filepath.Join(dir, "r"+strconv.Itoa(i+1))
		if err := os.MkdirAll(home, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make directory for redis-server: %w", err), t.stop())
		}
		args := []string{"--port", strconv.Itoa(port + i), "--bind", "127.0.0.1", "--dir", home, "--logfile", filepath.Join(home, "log"),
			"--appendonly", "yes", "--appendfsync", "always", "--save", "", "--auto-aof-rewrite-percentage", "0", "--repl-diskless-sync-delay", "0"}
		if i > 0 {
			args = append(args, "--replicaof", "127.0.0.1", strconv.Itoa(port))
		}
		cmd := exec.Command(binary, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, errors.Join(fmt.Errorf("start redis-server: %w", err), t.stop())
		}
		running = append(running, cmd)
		t.pids = append(t.pids, cmd.Process.Pid)
	}
	if err := awaitReplicas(ctx, t.master, servers-1); err != nil {
		return nil, errors.Join(err, t.stop())
	}
	return t, nil
}

// awaitReplicas returns when the redis-server has that many replicas which are up to date.
func awaitReplicas(ctx context.Context, addr string, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		if info, err := redisInfo(ctx, addr); err == nil && strings.Count(info, "state=online") >= replicas {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("redis-server at %s does not get its replicas", addr)
		case <-poll.C:
		}
	}
}

func redisInfo(ctx context.Context, addr string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("INFO replication\r\nQUIT\r\n")); err != nil {
		return "", err
	}
	var info strings.Builder
	reader := bufio.NewScanner(conn)
	for reader.Scan() {
		info.WriteString(reader.Text() + "\n")
	}
	return info.String(), reader.Err()
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// clockTick is the unit of CPU times in /proc: 10 ms on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuTime returns the CPU time that these processes have used.
func cpuTime(pids []int) time.Duration {
	var total time.Duration
	for _, pid := range pids {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		text := string(content)
		fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
		if len(fields) < 13 {
			continue
		}
		user, _ := strconv.ParseInt(fields[11], 10, 64) // fields 14 and 15 of the whole line
		system, _ := strconv.ParseInt(fields[12], 10, 64)
		total += time.Duration(user+system) * clockTick
	}
	return total
}

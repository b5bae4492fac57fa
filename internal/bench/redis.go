package bench

import (
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

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

// redis returns what starts a master and its replicas. fsync is a value of appendfsync, or "no": no append-only file at all.
func redis(servers int, fsync string) func(context.Context, *Env, string) (*Running, error) {
	return func(ctx context.Context, e *Env, dir string) (*Running, error) {
		binary, version, err := redisVersion(ctx)
		if err != nil {
			return nil, err
		}
		port, release, err := local.ReservePorts(local.Options{})
		if err != nil {
			return nil, err
		}
		r := &Running{Version: version, filled: make(map[string]bool)}
		if servers > 1 {
			r.closing = appendCommand(nil, "WAIT", []byte("1"), []byte("0"))
		}
		var running []*exec.Cmd
		r.stop = func() error {
			defer release()
			var problems []error
			for _, cmd := range running {
				problems = append(problems, cmd.Process.Kill())
				cmd.Wait() // killed: its status says only that
			}
			return errors.Join(problems...)
		}
		r.list = func() (list []Process) {
			for i, cmd := range running {
				list = append(list, Process{"redis-server", "r" + strconv.Itoa(i+1), cmd.Process.Pid})
			}
			return list
		}
		r.addrs = func(_ context.Context, place string) ([]string, error) {
			if place != "master" {
				return nil, errors.New("a replica of redis-server takes no writes: use master")
			}
			return []string{loopback(port)}, nil
		}
		for i := range servers {
			cmd, err := startRedis(binary, filepath.Join(dir, "r"+strconv.Itoa(i+1)), port, i, fsync)
			if err != nil {
				return nil, errors.Join(err, r.stop())
			}
			running = append(running, cmd)
		}
		if err := awaitReplicas(ctx, loopback(port), servers-1); err != nil {
			return nil, errors.Join(err, r.stop())
		}
		return r, nil
	}
}

// startRedis starts the redis-server with that index in a directory of its own; the first is the master.
func startRedis(binary, home string, port, index int, fsync string) (*exec.Cmd, error) {
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, fmt.Errorf("make directory for redis-server: %w", err)
	}
	args := []string{"--port", strconv.Itoa(port + index), "--bind", "127.0.0.1", "--dir", home, "--logfile", filepath.Join(home, "log"),
		"--save", "", "--repl-diskless-sync-delay", "0", "--maxclients", strconv.Itoa(maxConnections)}
	if fsync == "no" {
		args = append(args, "--appendonly", "no")
	} else {
		args = append(args, "--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0")
	}
	if index > 0 {
		args = append(args, "--replicaof", "127.0.0.1", strconv.Itoa(port))
	}
	cmd := exec.Command(binary, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	return cmd, nil
}

// awaitReplicas returns when the redis-server answers and has that many replicas which are up to date.
func awaitReplicas(ctx context.Context, addr string, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		asking, done := context.WithTimeout(ctx, dialTime)
		info, err := ask(asking, addr, "INFO", "replication")
		done()
		if err == nil && strings.Count(info, "state=online") >= replicas {
			return nil
		}
		if !pause.For(ctx, 100*time.Millisecond) {
			return fmt.Errorf("redis-server at %s does not get its %d replicas", addr, replicas)
		}
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

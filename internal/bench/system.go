package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"lockstep/internal/bench/floor"
	"lockstep/internal/local"
)

// System is something that can be measured.
type System struct {
	Name  string
	About string
	start func(ctx context.Context, e *Env, dir string) (*Running, error)
}

// Running is a system that was started. Its Stop must be called.
type Running struct {
	System
	Version string
	Cluster *local.Cluster // of Lockstep; else nil
	closing []byte         // behind each pipeline of writes
	list    func() []Process
	addrs   func(ctx context.Context, place string) ([]string, error)
	stop    func() error
	filled  map[string]bool // what was put in for reading
}

// Places are where clients connect: all to the master, all to one slave, dealt to every node.
var Places = []string{"master", "slave", "every"}

// Names of systems.
const (
	LockstepAlways   = "lockstep-always"
	LockstepInterval = "lockstep-interval"
	LockstepOS       = "lockstep-os"
	RedisSingle      = "redis-single"
	RedisAlways      = "redis3-always"
	RedisEverysec    = "redis3-everysec"
	RedisNo          = "redis3-no"
	FloorAlways      = "floor-always"
	FloorFullAlways  = "floor-full-always"
	FloorOS          = "floor-os"
	FloorFullOS      = "floor-full-os"
)

// Systems lists all systems there are.
func Systems() []System {
	return []System{
		{LockstepAlways, "3 Lockstep nodes, copies 2, sync always: a write is on two disks", lockstep("always")},
		{LockstepInterval, "3 Lockstep nodes, copies 2, sync interval", lockstep("interval")},
		{LockstepOS, "3 Lockstep nodes, copies 2, sync os: a write is in two kernels", lockstep("os")},
		{Lifecycle, "3 Lockstep nodes, copies 2, sync always, that keep no more log than they must", startLifecycle},
		{RedisSingle, "one redis-server, no append-only file", redis(1, "no")},
		{RedisAlways, "3 redis-servers, appendfsync always, WAIT 1 0 behind each pipeline of writes", redis(3, "always")},
		{RedisEverysec, "3 redis-servers, appendfsync everysec, WAIT 1 0", redis(3, "everysec")},
		{RedisNo, "3 redis-servers, appendonly no, WAIT 1 0", redis(3, "no")},
		{FloorAlways, "the bare skeleton of a write's way: a front and 3 loggers, a write is on two disks", bare(floor.SyncAlways, false)},
		{FloorFullAlways, "the same with a front on each node, which executes", bare(floor.SyncAlways, true)},
		{FloorOS, "the bare skeleton: a write is in two kernels", bare(floor.SyncOS, false)},
		{FloorFullOS, "the same with a front on each node, which executes", bare(floor.SyncOS, true)},
	}
}

// ErrNoRedis: redis-server is not installed, so that what is compared with it is not measured.
var ErrNoRedis = errors.New("redis-server is not installed")

// FindSystem returns the system of that name.
func FindSystem(name string) (System, error) {
	all := Systems()
	if at := slices.IndexFunc(all, func(s System) bool { return s.Name == name }); at >= 0 {
		return all[at], nil
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return System{}, fmt.Errorf("no system %q: use one of %s", name, strings.Join(names, ", "))
}

// Processes lists the servers that run now.
func (r *Running) Processes() []Process { return r.list() }

// Target returns where clients of a place connect now.
func (r *Running) Target(ctx context.Context, place string) (Target, error) {
	addrs, err := r.addrs(ctx, place)
	if err != nil {
		return Target{}, fmt.Errorf("%s: addresses of %q: %w", r.Name, place, err)
	}
	return Target{Addrs: addrs, Closing: r.closing}, nil
}

// Stop ends all processes of the system.
func (r *Running) Stop() error {
	if err := r.stop(); err != nil {
		return fmt.Errorf("stop %s: %w", r.Name, err)
	}
	return nil
}

// redisVersion returns what redis-server says of itself.
func redisVersion(ctx context.Context) (binary, version string, err error) {
	binary, err = exec.LookPath("redis-server")
	if err != nil {
		return "", "", ErrNoRedis
	}
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("%s --version: %w", binary, err)
	}
	return binary, strings.TrimSpace(string(out)), nil
}

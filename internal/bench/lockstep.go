package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lockstep/internal/local"
)

// startTime bounds how long a cluster may take to serve.
const startTime = 2 * time.Minute

// lockstep returns what starts three nodes with a sync mode.
func lockstep(sync string) func(context.Context, *Env, string) (*Running, error) {
	return func(ctx context.Context, e *Env, dir string) (*Running, error) {
		return e.startLockstep(ctx, dir, local.Options{Sync: sync}, nil)
	}
}

// StartLockstep starts a cluster of its own for a row, in a new directory with that name. extra, if not nil, are further
// flags by kind of process. The row must call Stop.
func (e *Env) StartLockstep(ctx context.Context, name string, options local.Options, extra map[local.Kind][]string) (*Running, error) {
	dir, err := e.Directory(name)
	if err != nil {
		return nil, err
	}
	return e.startLockstep(ctx, dir, options, extra)
}

func (e *Env) startLockstep(ctx context.Context, dir string, options local.Options, extra map[local.Kind][]string) (*Running, error) {
	port, release, err := local.ReservePorts(options)
	if err != nil {
		return nil, err
	}
	options.Port = port
	cluster, err := local.Prepare(dir, options)
	if err != nil {
		release()
		return nil, err
	}
	cluster.DieWithParent = true
	cluster.Extra = extra
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := cluster.Start(starting, e.Binaries); err != nil {
		release()
		return nil, err
	}
	return runningCluster(cluster, release), nil
}

// runningCluster wraps a cluster that runs. release is called when it has been stopped.
func runningCluster(cluster *local.Cluster, release func()) *Running {
	return &Running{
		System: System{Name: "lockstep-" + cluster.Plan.Sync}, Cluster: cluster, filled: make(map[string]bool),
		list: func() (list []Process) {
			for _, p := range cluster.Processes() {
				if p.Pid != 0 {
					list = append(list, Process{string(p.Kind), p.Node, p.Pid})
				}
			}
			return list
		},
		addrs: func(ctx context.Context, place string) ([]string, error) { return clusterAddrs(ctx, cluster, place) },
		stop: func() error {
			defer release()
			_, killed, err := cluster.Stop()
			if len(killed) > 0 {
				err = errors.Join(err, fmt.Errorf("%v did not end and were killed", killed))
			}
			return err
		},
	}
}

func clusterAddrs(ctx context.Context, cluster *local.Cluster, place string) (addrs []string, err error) {
	master := -1
	if place != "every" {
		if master, err = masterOf(ctx, cluster); err != nil {
			return nil, err
		}
	}
	for i, r := range cluster.Plan.Replicas {
		switch {
		case place == "every", place == "master" && i == master:
			addrs = append(addrs, r.KVAddr)
		case place == "slave" && i != master:
			return []string{r.KVAddr}, nil
		}
	}
	if len(addrs) == 0 {
		return nil, errors.New("there is none: use master, slave or every")
	}
	return addrs, nil
}

// masterOf returns the index of the established master in the plan's replicas.
func masterOf(ctx context.Context, cluster *local.Cluster) (int, error) {
	client, err := cluster.Admin()
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

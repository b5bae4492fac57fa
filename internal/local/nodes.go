package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/admin"
)

// replicaNumber tells which replica of a cluster on this machine a name stands for: n1 is 1. The number gives the ports.
func replicaNumber(node string) (int, error) {
	text, found := strings.CutPrefix(node, "n")
	number, err := strconv.Atoi(text)
	if !found || err != nil || number < 1 || number > MaxReplicas || strconv.Itoa(number) != text {
		return 0, fmt.Errorf("node %q: on this machine they are called n1 to n%d", node, MaxReplicas)
	}
	return number, nil
}

// replicaOf describes a replica of a cluster with that first port.
func replicaOf(port, number int) Replica {
	return Replica{
		Node:       "n" + strconv.Itoa(number),
		KVAddr:     loopback(port + number - 1),
		DataAddr:   loopback(port + dataPorts + number - 1),
		ManageAddr: loopback(port + managePorts + number - 1),
	}
}

// AddNode starts a further replicator and KV node, which join the group by themselves: node, or the next name that is
// free if it is empty. It returns the processes that it started; that the node is a member is for the caller to wait for.
func (c *Cluster) AddNode(node, binaries string) (started []Process, err error) {
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if c.Plan, err = loadPlan(c.Dir); err != nil {
		return nil, err
	}
	r, err := c.newReplica(node)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkDisk(c.Dir, MinFree), checkPorts(Plan{Replicas: []Replica{r}})); err != nil {
		return nil, err
	}
	for _, left := range []string{c.ReplicaDir(r.Node), c.KVDir(r.Node)} {
		if _, err := os.Lstat(left); err == nil {
			return nil, fmt.Errorf("%s holds what an earlier %s left: move it away, or choose another name", left, r.Node)
		}
	}
	plan := c.Plan
	plan.Replicas = slices.Concat(c.Plan.Replicas, []Replica{r})
	slices.SortFunc(plan.Replicas, func(x, y Replica) int { return strings.Compare(x.Node, y.Node) })
	if err := savePlan(c.Dir, plan); err != nil {
		return nil, err
	}
	c.Plan, c.binaries = plan, binaries
	if err := c.Certify(); err != nil {
		return nil, err
	}
	for _, p := range c.Processes() {
		if p.Node != r.Node {
			continue
		}
		kid, err := c.spawn(p)
		if err != nil {
			return started, err
		}
		early := time.NewTimer(300 * time.Millisecond)
		select {
		case <-kid.done:
			early.Stop()
			return started, c.endedEarly(kid)
		case <-early.C:
		}
		p.Pid = c.Pid(p.Name)
		started = append(started, p)
	}
	return started, nil
}

// newReplica describes the replica of that name, or of the first free one behind those that there are.
func (c *Cluster) newReplica(node string) (Replica, error) {
	last := 0
	for _, r := range c.Plan.Replicas {
		number, _ := replicaNumber(r.Node) // the plan was checked
		last = max(last, number)
	}
	for i := 0; node == "" && i < MaxReplicas; i++ {
		name := "n" + strconv.Itoa((last+i)%MaxReplicas+1)
		_, known := c.Plan.find(name)
		_, err := os.Lstat(c.ReplicaDir(name))
		if !known && err != nil {
			node = name
		}
	}
	if node == "" {
		return Replica{}, fmt.Errorf("%d nodes are all that a cluster on one machine can have", MaxReplicas)
	}
	number, err := replicaNumber(node)
	if err != nil {
		return Replica{}, err
	}
	if _, known := c.Plan.find(node); known {
		return Replica{}, fmt.Errorf("%s is a node of this cluster: choose another name", node)
	}
	r := replicaOf(c.Plan.Port, number)
	r.Joins = true
	return r, nil
}

// RemoveNode stops the processes of a node that is no replica of the group any more, and sets its directory aside. It returns
// where that is.
func (c *Cluster) RemoveNode(ctx context.Context, client *admin.Client, node string) (aside string, err error) {
	lock, err := lockDir(c.Dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if c.Plan, err = loadPlan(c.Dir); err != nil {
		return "", err
	}
	if _, known := c.Plan.find(node); !known {
		return "", fmt.Errorf("%s is no node of this cluster", node)
	}
	group, err := client.Group(ctx, c.Plan.Group)
	if err != nil {
		return "", err
	}
	for _, r := range group.GetReplicas() {
		if r.GetNode() == node {
			return "", fmt.Errorf("%s is a replica of group %s: first `smrctl replica remove %s %s`", node, c.Plan.Group, c.Plan.Group, node)
		}
	}
	if len(c.Plan.Replicas) == 1 {
		return "", fmt.Errorf("%s is the only node: stop the cluster with `smrctl down` instead", node)
	}
	c.stop([]string{KVNodeOf(node), ReplicatorOf(node)})
	plan := c.Plan
	plan.Replicas = slices.DeleteFunc(slices.Clone(c.Plan.Replicas), func(r Replica) bool { return r.Node == node })
	plan.Copies = min(plan.Copies, len(plan.Replicas)) // what the group has is up to the configuration masters
	plan.MinCopies = min(plan.MinCopies, plan.Copies)
	if err := savePlan(c.Dir, plan); err != nil {
		return "", err
	}
	c.Plan = plan
	return c.setAside(node, "removed")
}

// WipeNode sets the directory of a node whose processes do not run aside, so that it comes back as a new incarnation and is
// filled by its peers. It returns where the old directory is.
func (c *Cluster) WipeNode(node string) (aside string, err error) {
	lock, err := lockDir(c.Dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if c.Plan, err = loadPlan(c.Dir); err != nil {
		return "", err
	}
	if _, known := c.Plan.find(node); !known {
		return "", fmt.Errorf("%s is no replica of this cluster", node)
	}
	for _, p := range c.Processes() {
		if p.Node == node && p.Pid != 0 {
			return "", fmt.Errorf("%s: %w (pid %d): stop it first with `smrctl node stop %s`", p.Name, ErrRunning, p.Pid, node)
		}
	}
	return c.setAside(node, "wiped")
}

// setAside renames the directories of a node: the images first, so that a log that begins anew never finds those of the old.
func (c *Cluster) setAside(node, why string) (string, error) {
	aside := filepath.Join(c.Dir, fmt.Sprintf("%s.%s-%s", node, why, time.Now().UTC().Format("20060102T150405.000")))
	if err := os.Rename(c.KVDir(node), aside+"-images"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("set the images of %s aside: %w", node, err)
	}
	err := os.Rename(c.ReplicaDir(node), aside)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("set the directory of %s aside: %w", node, err)
	}
	return aside, nil
}

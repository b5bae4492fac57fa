package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/proto"
)

// cluster is a cluster of processes on this machine whose links all pass a proxy.
type cluster struct {
	*local.Cluster
	admin    *admin.Client
	letIn    credentials
	proxy    *proxy
	binaries string
	flags    map[local.Kind][]string
	announce map[string]string // of each replicator: its data address behind the proxy
	manage   map[string]string // and its management address
	peers    map[string]string // of each configuration master: --peers, with the others behind the proxy

	small     string // node whose directory is a small file system of its own, "" if there is none
	smallKind string // what that file system is, or why there is none
	unmount   func() error

	starting sync.Mutex // local starts one process at a time

	mu      sync.Mutex
	serving []local.Replica // replaced, never changed: nodes whose processes are meant to run
}

// layout is what a cluster shall be.
type layout struct {
	dir      string // must be new
	binaries string
	port     int // the first one
	seed     uint64
	spares   int    // nodes that are not there at first
	archive  string // "" for none
	tls      bool
	flags    map[local.Kind][]string
}

// cluster sizes. Small log files, so that every run passes many borders between them.
const (
	untilPause = 50 * time.Millisecond // between two attempts of what is waited for
	replicas   = 3
	copies     = 2
	fileSize   = 1 << 20 // bytes
	// Sizes of the file system that is filled, in bytes: a sparse file has room for the log of an hour and for what quarantine
	// keeps of it; tmpfs takes memory.
	imageSize = 4 << 30
	tmpfsSize = 192 << 20
)

// startPatience bounds how long a new cluster may take to serve.
const startPatience = time.Minute

// startCluster starts a cluster.
func startCluster(ctx context.Context, l layout) (c *cluster, err error) {
	plain, err := local.Prepare(l.dir, local.Options{Replicas: replicas + l.spares, Copies: copies, Port: l.port, Archive: l.archive, TLS: l.tls})
	if err != nil {
		return nil, err
	}
	plain.DieWithParent = true
	c = &cluster{Cluster: plain, proxy: newProxy(l.seed), binaries: l.binaries, flags: l.flags, serving: plain.Plan.Replicas[:replicas],
		announce: make(map[string]string), manage: make(map[string]string), peers: make(map[string]string)}
	defer func(begun *cluster) { // every return of an error takes what was started with it
		if err != nil {
			_, stopErr := begun.stop()
			err = errors.Join(err, stopErr)
		}
	}(c)
	if err := c.Preflight(); err != nil {
		return nil, err
	}
	for _, sub := range []string{"logs", "pids"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	request := &proto.CreateGroupRequest{Name: c.Plan.Group, Copies: copies, MinCopies: copies, Sync: c.Plan.Sync}
	for i, r := range c.Plan.Replicas {
		data, err := c.proxy.listen("", r.Node, dataPort, r.DataAddr)
		if err != nil {
			return nil, err
		}
		manage, err := c.proxy.listen("confmaster", r.Node, managePort, r.ManageAddr)
		if err != nil {
			return nil, err
		}
		c.announce[r.Node], c.manage[r.Node] = data, manage
		if i >= replicas {
			continue
		}
		request.Replicas = append(request.Replicas, &proto.ReplicaSpec{Node: r.Node, ManageAddr: manage, DataAddr: data, KvAddr: r.KVAddr})
	}
	if err := c.linkPeers(); err != nil {
		return nil, err
	}
	c.mountSmall(ctx, c.Plan.Replicas[l.seed%replicas].Node)
	if err := c.Certify(); err != nil {
		return nil, err
	}
	if c.admin, err = c.Admin(); err != nil {
		return nil, err
	}
	if c.letIn.login = c.admin.Login; l.tls { // what passes tells nobody where it comes from
		c.proxy.owner = c.ownerOf
	}
	for _, p := range c.processes() {
		if err := c.start(p.Name); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := c.create(ctx, request); err != nil {
		return nil, err
	}
	if err := c.awaitServing(ctx); err != nil {
		return nil, err
	}
	return c, c.NoteFounded()
}

// nodes lists the nodes whose processes are meant to run.
func (c *cluster) nodes() []local.Replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serving
}

// spares lists the nodes that are not there now.
func (c *cluster) spares() []local.Replica {
	serving := c.nodes()
	return slices.DeleteFunc(slices.Clone(c.Plan.Replicas), func(r local.Replica) bool { return slices.Contains(serving, r) })
}

// enlist takes a node into service.
func (c *cluster) enlist(r local.Replica) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = append(slices.Clone(c.serving), r)
}

// dismiss takes a node out of service.
func (c *cluster) dismiss(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = slices.DeleteFunc(slices.Clone(c.serving), func(r local.Replica) bool { return r.Node == node })
}

// processes lists the processes that are meant to run.
func (c *cluster) processes() []local.Process {
	spares := c.spares()
	return slices.DeleteFunc(c.Processes(), func(p local.Process) bool {
		return slices.ContainsFunc(spares, func(r local.Replica) bool { return r.Node == p.Node })
	})
}

// awaitServing waits until every node is a full member and every KV node answers a linearizable read.
func (c *cluster) awaitServing(ctx context.Context) error {
	return pause.Until(ctx, untilPause, func() error {
		if err := c.whole(ctx); err != nil {
			return err
		}
		for _, r := range c.nodes() {
			if _, err := once(ctx, c.login(), r.KVAddr, 5*time.Second, "EXISTS", "lockstep"); err != nil {
				return fmt.Errorf("KV node of %s: %w", r.Node, err)
			}
		}
		return nil
	})
}

// linkPeers leads the connections between configuration masters through the proxy.
func (c *cluster) linkPeers() error {
	for _, source := range c.Plan.Confmasters {
		var peers []string
		for _, target := range c.Plan.Confmasters {
			addr := target.Addr
			if target != source {
				var err error
				if addr, err = c.proxy.listen(source.Name(), target.Name(), peerPort, target.Addr); err != nil {
					return err
				}
			}
			peers = append(peers, fmt.Sprintf("%d=%s", target.ID, addr))
		}
		c.peers[source.Name()] = strings.Join(peers, ",")
	}
	return nil
}

// create registers the group as soon as the configuration masters take it.
func (c *cluster) create(ctx context.Context, request *proto.CreateGroupRequest) error {
	for {
		_, err := c.admin.CreateGroup(ctx, request)
		if err == nil {
			return nil
		}
		if !pause.For(ctx, 100*time.Millisecond) {
			return fmt.Errorf("create the group: %w", err)
		}
	}
}

// mountSmall gives a node's directory a file system of its own, which can be filled. Where that is not permitted it says why.
func (c *cluster) mountSmall(ctx context.Context, node string) {
	dir, image := c.ReplicaDir(node), filepath.Join(c.Dir, "small.img")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		c.smallKind = err.Error()
		return
	}
	run := func(name string, args ...string) error {
		if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	// A real file system on the real disk is the better one: what tmpfs syncs is nowhere.
	err := os.WriteFile(image, nil, 0o600)
	if err == nil {
		err = os.Truncate(image, imageSize)
	}
	if err == nil {
		err = run("mkfs.ext4", "-q", "-m", "0", image)
	}
	if err == nil {
		err = run("mount", "-o", "loop", image, dir)
	}
	c.smallKind = "ext4 in a file"
	if err != nil {
		tmpfs := run("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", tmpfsSize), "tmpfs", dir)
		if tmpfs != nil {
			c.smallKind = fmt.Sprintf("none: %v; %v", err, tmpfs)
			return
		}
		c.smallKind = "tmpfs"
	}
	c.small = node
	c.unmount = func() error { // also when ctx is over
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("umount: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	}
}

// start starts a process that does not run.
func (c *cluster) start(name string) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	for _, p := range c.Processes() {
		if p.Name != name {
			continue
		}
		extra := append([]string(nil), c.flags[p.Kind]...)
		if p.Kind == local.KindReplicator {
			extra = append(extra, "--announce", c.announce[p.Node], "--file-size", strconv.Itoa(fileSize))
		}
		if peers := c.peers[name]; peers != "" {
			extra = append(extra, "--peers", peers)
		}
		c.Extra = map[local.Kind][]string{p.Kind: extra}
	}
	if _, err := c.StartProcess(name, c.binaries); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return nil
}

// kill kills processes at once and waits until they are gone. Those that do not run are no error: another fault may have
// been there before.
func (c *cluster) kill(names ...string) {
	for _, name := range names {
		// The only possible error is that it does not run.
		_ = c.Signal(name, syscall.SIGKILL)
	}
	for _, name := range names {
		if ended := c.Ended(name); ended != nil {
			<-ended
		}
	}
}

// stop stops everything and takes away what was mounted.
func (c *cluster) stop() (killed []string, err error) {
	if c.admin != nil {
		c.admin.Close()
	}
	if _, statErr := os.Stat(c.Dir); statErr == nil {
		_, killed, err = c.Stop()
	}
	c.proxy.close()
	if c.unmount != nil {
		err = errors.Join(err, c.unmount())
		c.unmount = nil
	}
	return killed, err
}

// group returns the group's status as the configuration masters have it.
func (c *cluster) group(ctx context.Context) (*proto.GroupStatus, *proto.ClusterStatus, error) {
	status, err := c.admin.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, group := range status.GetGroups() {
		if group.GetName() == c.Plan.Group {
			return group, status, nil
		}
	}
	return nil, status, fmt.Errorf("the configuration masters do not know group %s", c.Plan.Group)
}

// replica returns what the configuration masters last saw of a node.
func replica(group *proto.GroupStatus, node string) *proto.ReplicaStatus {
	for _, r := range group.GetReplicas() {
		if r.GetNode() == node {
			return r
		}
	}
	return nil
}

// admitted reports why a node is not a full member of an established configuration, nil if it is.
func admitted(group *proto.GroupStatus, node string) error {
	r := replica(group, node)
	state := r.GetState()
	switch {
	case !r.GetUp():
		return fmt.Errorf("%s is not up", node)
	case !r.GetMember() || group.GetEpoch() != group.GetEstablished():
		return fmt.Errorf("%s: epoch %d, established %d, member %v", node, group.GetEpoch(), group.GetEstablished(), r.GetMember())
	case state.GetBlank() || !state.GetAttached() || state.GetRole() != "master" && state.GetRole() != "slave":
		return fmt.Errorf("%s is %s, blank %v, attached %v", node, state.GetRole(), state.GetBlank(), state.GetAttached())
	}
	return nil
}

// whole reports why not every node is a full member, nil if all are.
func (c *cluster) whole(ctx context.Context) error {
	group, _, err := c.group(ctx)
	if err != nil {
		return err
	}
	if group.GetState() != "ok" {
		return fmt.Errorf("the group is %s: %s", group.GetState(), group.GetDetail())
	}
	for _, r := range c.nodes() {
		if err := admitted(group, r.Node); err != nil {
			return err
		}
	}
	return nil
}

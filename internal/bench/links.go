package bench

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
	"lockstep/proto"
)

// links stand before the data and management ports of a cluster and between its configuration masters: what would be a
// network between machines. They count bytes, and a machine can vanish from them.
type links struct {
	cluster *local.Cluster
	wait    sync.WaitGroup

	mu        sync.Mutex
	listeners []net.Listener
	pipes     map[*pipe]struct{}
	gone      map[string]bool // nodes ("n1", "c1") from and to which nothing passes
	changed   chan struct{}   // closed and replaced when gone changes
	closed    bool
	carried   map[route]*atomic.Int64 // bytes, both directions
}

// route is from what kind of process to which port of which node.
type route struct{ kind, port, target string }

// Ports that links stand before.
const (
	dataPort   = "data"
	managePort = "manage"
	peerPort   = "peer"
)

// pipe is one connection.
type pipe struct {
	source, target string // nodes
	near, far      net.Conn
	carried        *atomic.Int64
	done           chan struct{}
	once           sync.Once
}

func (p *pipe) close() {
	p.once.Do(func() {
		close(p.done)
		p.near.Close()
		if p.far != nil {
			p.far.Close()
		}
	})
}

// startLinked starts a cluster whose machines only reach each other through links.
func (e *Env) startLinked(ctx context.Context, name string) (r *Running, x *links, err error) {
	dir, err := e.Directory(name)
	if err != nil {
		return nil, nil, err
	}
	port, release, err := local.ReservePorts(local.Options{})
	if err != nil {
		return nil, nil, err
	}
	cluster, err := local.Prepare(dir, local.Options{Port: port})
	if err != nil {
		release()
		return nil, nil, err
	}
	cluster.DieWithParent = true
	x = &links{cluster: cluster, pipes: make(map[*pipe]struct{}), gone: make(map[string]bool), changed: make(chan struct{}), carried: make(map[route]*atomic.Int64)}
	r = runningCluster(cluster, func() { x.close(); release() })
	defer func(begun *Running) {
		if err != nil {
			err = errors.Join(err, begun.Stop())
		}
	}(r)
	for _, sub := range []string{"logs", "pids"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, nil, fmt.Errorf("make directory: %w", err)
		}
	}
	request, flags, err := x.listenAll()
	if err != nil {
		return nil, nil, err
	}
	for _, p := range cluster.Processes() {
		cluster.Extra = map[local.Kind][]string{p.Kind: flags[p.Name]}
		if _, err := cluster.StartProcess(p.Name, e.Binaries); err != nil {
			return nil, nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := found(ctx, cluster, request); err != nil {
		return nil, nil, err
	}
	return r, x, cluster.NoteFounded()
}

// listenAll opens a link before every port and returns how the group is made, and what the processes must be told, by their names.
func (x *links) listenAll() (*proto.CreateGroupRequest, map[string][]string, error) {
	plan := x.cluster.Plan
	request := &proto.CreateGroupRequest{Name: plan.Group, Copies: uint32(plan.Copies), MinCopies: uint32(plan.MinCopies), Sync: plan.Sync}
	flags := make(map[string][]string)
	for _, r := range plan.Replicas {
		dataAddr, err := x.listen(r.Node, dataPort, r.DataAddr)
		if err != nil {
			return nil, nil, err
		}
		manage, err := x.listen(r.Node, managePort, r.ManageAddr)
		if err != nil {
			return nil, nil, err
		}
		flags[local.ReplicatorOf(r.Node)] = []string{"--announce", dataAddr}
		request.Replicas = append(request.Replicas, &proto.ReplicaSpec{Node: r.Node, ManageAddr: manage, DataAddr: dataAddr, KvAddr: r.KVAddr})
	}
	linked := make(map[int]string)
	for _, c := range plan.Confmasters {
		addr, err := x.listen(c.Name(), peerPort, c.Addr)
		if err != nil {
			return nil, nil, err
		}
		linked[c.ID] = addr
	}
	for _, c := range plan.Confmasters {
		var peers []string
		for _, other := range plan.Confmasters {
			addr := linked[other.ID]
			if other == c {
				addr = c.Addr
			}
			peers = append(peers, fmt.Sprintf("%d=%s", other.ID, addr))
		}
		flags[c.Name()] = []string{"--peers", strings.Join(peers, ",")}
	}
	return request, flags, nil
}

// found makes the group as soon as the configuration masters take it, and waits until it serves.
func found(ctx context.Context, cluster *local.Cluster, request *proto.CreateGroupRequest) error {
	client, err := cluster.Admin()
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		_, err := client.CreateGroup(ctx, request)
		if err == nil {
			return cluster.AwaitHealthy(ctx, client)
		}
		if !pause.For(ctx, 100*time.Millisecond) {
			return fmt.Errorf("create the group: %w", err)
		}
	}
}

// listen opens a link to a port of a node and returns its address.
func (x *links) listen(target, port, address string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("link to the %s port of %s: %w", port, target, err)
	}
	x.mu.Lock()
	x.listeners = append(x.listeners, listener)
	x.mu.Unlock()
	x.wait.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // closed
			}
			x.wait.Go(func() { x.serve(near, target, port, address) })
		}
	})
	return listener.Addr().String(), nil
}

// serve carries one connection.
func (x *links) serve(near net.Conn, target, port, address string) {
	from := x.process(near.RemoteAddr().(*net.TCPAddr).Port)
	p := &pipe{source: from.Node, target: target, near: near, done: make(chan struct{})}
	defer p.close()
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return
	}
	x.pipes[p] = struct{}{}
	key := route{string(from.Kind), port, target}
	if x.carried[key] == nil {
		x.carried[key] = new(atomic.Int64)
	}
	p.carried = x.carried[key]
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		delete(x.pipes, p)
		x.mu.Unlock()
	}()
	if !x.passable(p) { // a machine that has vanished takes no connection either
		return
	}
	far, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", address)
	if err != nil {
		return
	}
	x.mu.Lock()
	p.far = far
	closed := x.closed
	x.mu.Unlock()
	if closed {
		far.Close()
		return
	}
	x.wait.Go(func() {
		defer p.close()
		x.pump(p, far, near)
	})
	x.pump(p, near, far)
}

// pump carries bytes in one direction until the connection ends.
func (x *links) pump(p *pipe, source, target net.Conn) {
	piece := make([]byte, 64<<10)
	for {
		n, err := source.Read(piece)
		if err != nil || !x.passable(p) {
			return
		}
		p.carried.Add(int64(n))
		if _, err := target.Write(piece[:n]); err != nil {
			return
		}
	}
}

// passable waits until bytes may pass, and reports false if the connection ends before.
func (x *links) passable(p *pipe) bool {
	for {
		x.mu.Lock()
		held, changed := x.gone[p.source] || x.gone[p.target], x.changed
		x.mu.Unlock()
		if !held {
			return true
		}
		select {
		case <-changed:
		case <-p.done:
			return false
		}
	}
}

// vanish lets nothing pass from or to these nodes any more: bytes are neither delivered nor refused, as when a machine loses
// its power or its cable. The function returned brings them back.
func (x *links) vanish(nodes ...string) (back func()) {
	change := func(gone bool) {
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, node := range nodes {
			x.gone[node] = gone
		}
		close(x.changed)
		x.changed = make(chan struct{})
	}
	change(true)
	return func() { change(false) }
}

// carriedBytes returns how many bytes have passed, by route.
func (x *links) carriedBytes() map[route]int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := make(map[route]int64)
	for key, count := range x.carried {
		all[key] = count.Load()
	}
	return all
}

func (x *links) close() {
	x.mu.Lock()
	x.closed = true
	for _, listener := range x.listeners {
		listener.Close()
	}
	for p := range maps.Keys(x.pipes) {
		p.once.Do(func() { // close reads far, which is written under mu
			close(p.done)
			p.near.Close()
			if p.far != nil {
				p.far.Close()
			}
		})
	}
	x.mu.Unlock()
	x.wait.Wait()
}

// process finds out which process of the cluster has a connection with this port on its side: its socket's number stands in
// /proc/net/tcp, and among the open files of the process. It returns the zero value for anybody else.
func (x *links) process(port int) local.Process {
	socket := socketOf(port)
	if socket == "" {
		return local.Process{}
	}
	for _, p := range x.cluster.Processes() {
		if p.Pid != 0 && holds(p.Pid, socket) {
			return p
		}
	}
	return local.Process{}
}

// socketOf returns the number of the socket that has this port on its side of a connection on 127.0.0.1; "" if there is none.
func socketOf(port int) string {
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		return ""
	}
	local := []byte("0100007F:" + strings.ToUpper(hex.EncodeToString([]byte{byte(port >> 8), byte(port)})))
	for line := range bytes.Lines(table) {
		if fields := bytes.Fields(line); len(fields) > 9 && bytes.Equal(fields[1], local) && string(fields[9]) != "0" {
			return string(fields[9])
		}
	}
	return ""
}

func holds(pid int, socket string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, entry := range entries {
		if name, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && name == "socket:["+socket+"]" {
			return true
		}
	}
	return false
}

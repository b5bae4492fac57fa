package ctl

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"lockstep/internal/admin"
	"lockstep/internal/drift"
	"lockstep/internal/nearest"
	"lockstep/internal/trust"
	"lockstep/proto"
)

// Kinds of proto.Setting.
const (
	kindConfig   = drift.Config
	kindUser     = drift.User
	kindFunction = drift.Function
)

const (
	// nodePatience bounds one question to a KV node, nodeReply its answer in bytes.
	nodePatience = 3 * time.Second
	nodeReply    = 64 << 20
)

// kvMember is a KV node of a group as the configuration masters know it.
type kvMember struct {
	node, addr, kvAddr string
	up, master         bool
	attached           bool
	cluster            string
	login              admin.Login
}

// membersOf lists the KV nodes of a group, those that are down with an empty addr.
func membersOf(group *proto.GroupStatus, login admin.Login) []kvMember {
	var list []kvMember
	for _, r := range group.GetReplicas() {
		m := kvMember{node: r.GetNode(), kvAddr: r.GetKvAddr(), up: r.GetUp(), master: r.GetNode() == group.GetMaster(), cluster: r.GetState().GetCluster(), login: login}
		if r.GetUp() && r.GetState().GetAttached() {
			m.addr, m.attached = r.GetState().GetKvAdminAddr(), true
		}
		list = append(list, m)
	}
	return list
}

// askNode calls a KV node.
func askNode(ctx context.Context, group string, m kvMember, patience time.Duration, call func(context.Context, proto.KVNodeClient, *proto.Target) error) error {
	if m.addr == "" {
		return drift.Unreachable(m.node, m.up, m.attached)
	}
	conn, err := nodeConn(m.login, m.addr, trust.KVNode, m.node, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(nodeReply)))
	if err != nil {
		return fmt.Errorf("%s at %s: %w", m.node, m.addr, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := call(ctx, proto.NewKVNodeClient(conn), &proto.Target{Cluster: m.cluster, Group: group, Node: m.node}); err != nil {
		return &nodeError{m.node, m.addr, err}
	}
	return nil
}

// nodeError is the answer of a KV node that says no.
type nodeError struct {
	node, addr string
	err        error
}

func (e *nodeError) Error() string {
	return fmt.Sprintf("%s at %s: %s", e.node, e.addr, status.Convert(e.err).Message())
}
func (e *nodeError) Unwrap() error { return e.err }

// standing is what is wanted of a group and what its nodes have.
type standing struct{ drift.Standing }

// settingsNow asks the configuration masters and all nodes, the nodes at once.
func settingsNow(ctx context.Context, client *admin.Client, name, kind string) (*standing, error) {
	group, err := client.Group(ctx, name)
	if err != nil {
		return nil, err
	}
	wanted, err := client.Settings(ctx, name, false)
	if err != nil {
		return nil, err
	}
	members := membersOf(group, client.Login)
	now := &standing{drift.Standing{Group: name, Wanted: wanted, Nodes: make([]drift.Node, len(members))}}
	var asking sync.WaitGroup
	for i, m := range members {
		asking.Go(func() {
			n := drift.Node{Node: m.node}
			n.Err = askNode(ctx, name, m, nodePatience, func(ctx context.Context, node proto.KVNodeClient, target *proto.Target) (err error) {
				n.Have, err = node.Settings(ctx, &proto.SettingsRequest{Target: target, Kind: kind})
				return err
			})
			now.Nodes[i] = n
		})
	}
	asking.Wait()
	return now, nil
}

// operator names who runs this smrctl, for the history.
func operator() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// changeSettings runs a change of settings and waits until every node has it.
func (c *changing) changeSettings(ctx context.Context, s *screen, client *admin.Client, group string, change *proto.ChangeSettings, version uint64) error {
	change.By = operator()
	request := &proto.ChangeRequest{Group: group, Version: version, Change: &proto.ChangeRequest_Settings{Settings: change}}
	if err := c.run(ctx, s, client, &planned{request: request}); err != nil || c.dryRun || c.noWait {
		return err
	}
	return c.awaitSettings(ctx, s, client, group)
}

// awaitSettings waits until every node that is up has the newest version.
func (c *changing) awaitSettings(ctx context.Context, s *screen, client *admin.Client, group string) error {
	look := func(ctx context.Context, waiting string) (string, error) {
		now, err := settingsNow(ctx, client, group, kindConfig)
		if err != nil {
			return waiting, nil
		}
		return now.Lacking(), nil
	}
	waiting, err := c.poll(ctx, s, 100*time.Millisecond, "the configuration masters to answer", look)
	if waiting != "" {
		return fmt.Errorf("not done within %v: waiting for %s; it goes on by itself, see `%s config diff`: %w", c.patience, waiting, program(), err)
	}
	return err
}

// unknownName is the error about a name that nobody knows.
func unknownName(what, name string, known []string) error {
	if near := nearest.Name(name, known); near != "" {
		return fmt.Errorf("there is no %s %q: is it %q?", what, name, near)
	}
	return fmt.Errorf("there is no %s %q", what, name)
}

package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"lockstep/internal/admin"
	"lockstep/internal/nearest"
	"lockstep/internal/trust"
	"lockstep/proto"
)

// Kinds of proto.Setting.
const (
	kindConfig   = "config"
	kindUser     = "user"
	kindFunction = "function"
)

const (
	// nodePatience bounds one question to a KV node, nodeReply its answer in bytes.
	nodePatience = 3 * time.Second
	nodeReply    = 64 << 20
)

// kvMember is a KV node of a group as the configuration masters know it.
type kvMember struct {
	node, addr, kvAddr string
	master, attached   bool
	cluster            string
	login              admin.Login
}

// membersOf lists the KV nodes of a group, those that are down with an empty addr.
func membersOf(group *proto.GroupStatus, login admin.Login) []kvMember {
	var list []kvMember
	for _, r := range group.GetReplicas() {
		m := kvMember{node: r.GetNode(), kvAddr: r.GetKvAddr(), master: r.GetNode() == group.GetMaster(), cluster: r.GetState().GetCluster(), login: login}
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
		if m.attached {
			return fmt.Errorf("%s has no management port (--admin)", m.node)
		}
		return fmt.Errorf("the KV node of %s is down", m.node)
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
type standing struct {
	group  string
	wanted *proto.GroupSettings
	nodes  []nodeStanding // in the order of the status
}

type nodeStanding struct {
	node string
	have *proto.NodeSettings
	err  error // why it is not known
}

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
	now := &standing{group: name, wanted: wanted, nodes: make([]nodeStanding, len(members))}
	var asking sync.WaitGroup
	for i, m := range members {
		asking.Go(func() {
			n := nodeStanding{node: m.node}
			n.err = askNode(ctx, name, m, nodePatience, func(ctx context.Context, node proto.KVNodeClient, target *proto.Target) (err error) {
				n.have, err = node.Settings(ctx, &proto.SettingsRequest{Target: target, Kind: kind})
				return err
			})
			now.nodes[i] = n
		})
	}
	asking.Wait()
	return now, nil
}

// of returns what a node has of a setting, nil if it has none.
func (n *nodeStanding) of(kind, name string) *proto.NodeSetting {
	for _, s := range n.have.GetSettings() {
		if s.GetKind() == kind && s.GetName() == name {
			return s
		}
	}
	return nil
}

// find returns what is wanted of a setting, nil if nothing is on record.
func (s *standing) find(kind, name string) *proto.Setting {
	for _, item := range s.wanted.GetSettings() {
		if item.GetKind() == kind && item.GetName() == name {
			return item
		}
	}
	return nil
}

// names lists everything of a kind that is on record or on a node, sorted.
func (s *standing) names(kind string) []string {
	var names []string
	for _, item := range s.wanted.GetSettings() {
		if item.GetKind() == kind {
			names = append(names, item.GetName())
		}
	}
	for _, n := range s.nodes {
		for _, have := range n.have.GetSettings() {
			if have.GetKind() == kind {
				names = append(names, have.GetName())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// drift is a node that has something else than is wanted, or than the other nodes.
type drift struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Node   string `json:"node"`
	Wanted string `json:"wanted"`
	Has    string `json:"has"`
	Why    string `json:"why"`
}

// drifts compares every node with what is wanted.
func (s *standing) drifts(kinds ...string) []drift {
	list := []drift{}
	for _, item := range s.wanted.GetSettings() {
		if len(kinds) > 0 && !slices.Contains(kinds, item.GetKind()) {
			continue
		}
		for i := range s.nodes {
			if d := s.driftOf(&s.nodes[i], item); d != nil {
				list = append(list, *d)
			}
		}
	}
	if len(kinds) == 0 || slices.Contains(kinds, kindConfig) {
		list = append(list, s.unlike()...)
	}
	return list
}

// driftOf returns how a node differs from what is wanted, nil if it does not.
func (s *standing) driftOf(n *nodeStanding, item *proto.Setting) *drift {
	d := &drift{Kind: item.GetKind(), Name: item.GetName(), Node: n.node, Wanted: shown(item.GetKind(), item.GetValue())}
	if item.GetRemoved() {
		d.Wanted = "none"
	}
	if n.err != nil {
		d.Why = "not known: " + n.err.Error()
		return d
	}
	have := n.of(item.GetKind(), item.GetName())
	switch {
	case have == nil && item.GetRemoved(), have != nil && !item.GetRemoved() && have.GetValue() == item.GetValue():
		return nil
	case have == nil:
		d.Has, d.Why = "none", "somebody else removed it, or it did not take effect yet"
	default:
		d.Has, d.Why = shown(item.GetKind(), have.GetValue()), have.GetOrigin()
	}
	late := n.have.GetVersion() < item.GetVersion()
	if have.GetScope() == "group" || item.GetKind() != kindConfig {
		late = s.wanted.GetShared() < item.GetVersion()
		if d.Why == "" {
			d.Why = "somebody else changed it, on any node: it is replicated"
		}
	}
	if late {
		d.Why = "version " + decimal(item.GetVersion()) + " did not take effect yet"
		for _, problem := range s.wanted.GetProblems() {
			if strings.HasPrefix(problem, n.node+": ") {
				d.Why += ": " + strings.TrimPrefix(problem, n.node+": ")
			}
		}
	}
	if d.Why == "" {
		d.Why = "somebody else changed it on this node"
	}
	return d
}

// unlike lists settings of nodes that nothing is wanted of and that are not the same everywhere.
func (s *standing) unlike() []drift {
	var list []drift
	for _, name := range s.names(kindConfig) {
		if s.find(kindConfig, name) != nil {
			continue
		}
		values := make(map[string]bool)
		var of []drift
		for i := range s.nodes {
			n := &s.nodes[i]
			if have := n.of(kindConfig, name); have != nil && have.GetScope() == "node" {
				values[have.GetValue()] = true
				why := have.GetOrigin()
				if why == "" {
					why = "as the node was started"
				}
				of = append(of, drift{Kind: kindConfig, Name: name, Node: n.node, Has: have.GetValue(), Why: "not on record, and the nodes differ: " + why})
			}
		}
		if len(values) > 1 {
			list = append(list, of...)
		}
	}
	return list
}

// shown is a value for people: no secrets, and not too long.
func shown(kind, value string) string {
	if kind == kindUser {
		value = hideHashes(value)
	}
	if kind == kindFunction {
		return fmt.Sprintf("%d bytes, %s", len(value), shortDigest(value))
	}
	return value
}

// hideHashes shortens the hashes of passwords.
func hideHashes(rules string) string {
	words := strings.Fields(rules)
	for i, word := range words {
		if strings.HasPrefix(word, "#") && len(word) > 9 {
			words[i] = word[:9] + "…"
		}
	}
	return strings.Join(words, " ")
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
		return now.lacking(), nil
	}
	waiting, err := c.poll(ctx, s, 100*time.Millisecond, "the configuration masters to answer", look)
	if waiting != "" {
		return fmt.Errorf("not done within %v: waiting for %s; it goes on by itself, see `%s config diff`: %w", c.patience, waiting, program(), err)
	}
	return err
}

// lacking says who does not have the newest version yet, "" if everybody has who is up.
func (s *standing) lacking() string {
	for _, problem := range s.wanted.GetProblems() {
		return "a node to take it: " + problem
	}
	if s.wanted.GetShared() < s.wanted.GetVersion() {
		return "the group to execute it"
	}
	for _, n := range s.nodes {
		if n.err == nil && n.have.GetVersion() < s.wanted.GetVersion() {
			return n.node + " to take it"
		}
	}
	return ""
}

// unknownName is the error about a name that nobody knows.
func unknownName(what, name string, known []string) error {
	if near := nearest.Name(name, known); near != "" {
		return fmt.Errorf("there is no %s %q: is it %q?", what, name, near)
	}
	return fmt.Errorf("there is no %s %q", what, name)
}

// firstError returns why nothing is known of any node, nil if something is.
func (s *standing) firstError() error {
	var problems []error
	for _, n := range s.nodes {
		if n.err == nil {
			return nil
		}
		problems = append(problems, n.err)
	}
	return errors.Join(problems...)
}

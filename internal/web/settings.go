package web

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"lockstep/internal/drift"
	"lockstep/internal/trust"
	"lockstep/proto"
)

const (
	// driftGood is how long what the nodes said is shown to others, too.
	driftGood = time.Second
	// nodePatience bounds one question to a KV node.
	nodePatience = 3 * time.Second
	// hidden stands for what is not shown.
	hidden = "(hidden)"
	// changesShown bounds the history of settings, in changes; the newest are shown.
	changesShown = 50
	// valueShown bounds a value, in bytes.
	valueShown = 512
)

// settingsView is what is wanted of a group and what its nodes have.
type settingsView struct {
	Group       string             `json:"group"`
	Version     uint64             `json:"version"`
	Nodes       []nodeView         `json:"nodes"`
	Settings    []settingView      `json:"settings"`
	Differences []drift.Difference `json:"differences"`
	History     []settingChange    `json:"history"` // the newest first
}

type nodeView struct {
	Node    string `json:"node"`
	Problem string `json:"problem"` // why nothing is known of it
	Version uint64 `json:"version"`
}

type settingView struct {
	Name    string   `json:"name"`
	Wanted  *string  `json:"wanted"` // null: nothing is on record
	Version uint64   `json:"version"`
	Scope   string   `json:"scope"`
	Have    []string `json:"have"` // of each node, "?" where it is not known
	Differs bool     `json:"differs"`
}

type settingChange struct {
	Version uint64 `json:"version"`
	TimeMs  int64  `json:"time_ms"`
	By      string `json:"by"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Value   string `json:"value"`
	Before  string `json:"before"`
	What    string `json:"what"`
}

func (s *Server) settings(r *http.Request) (any, error) {
	group, err := s.group(r.Context(), r.URL.Query().Get("group"))
	if err != nil {
		return nil, err
	}
	s.drift.mu.Lock() // others wait and take what this one finds
	view := s.drift.found
	if view == nil || s.drift.group != group.GetName() || time.Since(s.drift.at) > driftGood {
		if view, err = s.compare(r.Context(), group); err == nil {
			s.drift.group, s.drift.found, s.drift.at = group.GetName(), view, time.Now()
		}
	}
	s.drift.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if !s.logged(r, trust.Viewer) {
		view = view.forVisitors()
	}
	return view, nil
}

// compare asks the configuration masters and all nodes, the nodes at once.
func (s *Server) compare(ctx context.Context, group *proto.GroupStatus) (*settingsView, error) {
	wanted, err := s.config.Masters.Settings(ctx, &proto.GroupSettingsRequest{Group: group.GetName(), History: true})
	if err != nil {
		return nil, err
	}
	now := &drift.Standing{Group: group.GetName(), Wanted: wanted, Nodes: make([]drift.Node, len(group.GetReplicas()))}
	var asking sync.WaitGroup
	for i, replica := range group.GetReplicas() {
		asking.Go(func() {
			node := drift.Node{Node: replica.GetNode()}
			node.Have, node.Err = s.nodeSettings(ctx, group.GetName(), replica)
			now.Nodes[i] = node
		})
	}
	asking.Wait()
	view := &settingsView{Group: now.Group, Version: wanted.GetVersion(), Nodes: []nodeView{}, Settings: []settingView{}, Differences: now.Differences(), History: []settingChange{}}
	differs := make(map[string]bool)
	for i := range view.Differences {
		d := &view.Differences[i]
		d.Wanted, d.Has = shown(d.Name, d.Wanted), shown(d.Name, d.Has)
		differs[d.Name] = differs[d.Name] || d.Kind == drift.Config
	}
	for _, n := range now.Nodes {
		node := nodeView{Node: n.Node, Version: n.Have.GetVersion()}
		if n.Err != nil {
			node.Problem = n.Err.Error()
		}
		view.Nodes = append(view.Nodes, node)
	}
	for _, name := range now.Names(drift.Config) {
		line := settingView{Name: name, Differs: differs[name]}
		if item := now.Find(drift.Config, name); item != nil {
			value := shown(name, item.GetValue())
			line.Wanted, line.Version = &value, item.GetVersion()
		}
		for i := range now.Nodes {
			has := "?"
			if have := now.Nodes[i].Of(drift.Config, name); have != nil {
				line.Scope, has = have.GetScope(), shown(name, have.GetValue())
			}
			line.Have = append(line.Have, has)
		}
		view.Settings = append(view.Settings, line)
	}
	for i := len(wanted.GetHistory()) - 1; i >= 0 && len(view.History) < changesShown; i-- {
		h := wanted.GetHistory()[i]
		view.History = append(view.History, settingChange{Version: h.GetVersion(), TimeMs: h.GetTimeMs(), By: h.GetBy(), Kind: h.GetKind(), Name: h.GetName(), What: h.GetWhat(),
			Value: shown(h.GetName(), drift.Shown(h.GetKind(), h.GetValue())), Before: shown(h.GetName(), drift.Shown(h.GetKind(), h.GetBefore()))})
	}
	return view, nil
}

// nodeSettings asks a KV node what it has.
func (s *Server) nodeSettings(ctx context.Context, group string, r *proto.ReplicaStatus) (*proto.NodeSettings, error) {
	state := r.GetState()
	if !r.GetUp() || !state.GetAttached() || state.GetKvAdminAddr() == "" {
		return nil, drift.Unreachable(r.GetNode(), r.GetUp(), state.GetAttached())
	}
	request := &proto.SettingsRequest{Target: &proto.Target{Cluster: s.config.Cluster, Group: group, Node: r.GetNode()}}
	reply, err := askNode(ctx, s, state.GetKvAdminAddr(), r.GetNode(), func(ctx context.Context, node proto.KVNodeClient) (*proto.NodeSettings, error) {
		return node.Settings(ctx, request)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %s", r.GetNode(), status.Convert(err).Message())
	}
	return reply, nil
}

// shown is the value of a setting as the page shows it: no secrets, and not too long.
func shown(name, value string) string {
	if value == "" {
		return ""
	}
	if drift.Secret(name) {
		return hidden
	}
	if len(value) > valueShown {
		return strings.ToValidUTF8(value[:valueShown], "") + "…"
	}
	return value
}

// forVisitors leaves out who may do what: that is for those who say who they are.
func (v *settingsView) forVisitors() *settingsView {
	out := *v
	out.Differences, out.History = append([]drift.Difference{}, v.Differences...), append([]settingChange{}, v.History...)
	for i := range out.Differences {
		if d := &out.Differences[i]; d.Kind == drift.User {
			d.Wanted, d.Has = hidden, hidden
		}
	}
	for i := range out.History {
		if h := &out.History[i]; h.Kind == drift.User {
			h.Value, h.Before = hidden, hidden
		}
	}
	return &out
}

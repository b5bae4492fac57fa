package confmaster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/failover"
	lockstep "lockstep/proto"
	"lockstep/smr"
)

const (
	// stewardRound is how often the leader looks whether the KV nodes have the settings that operators want.
	stewardRound = 500 * time.Millisecond
	// stewardAsks is how often a node that has them is asked again, in rounds: a restart makes it forget.
	stewardAsks = 6
	// stewardPatience bounds one call to a KV node.
	stewardPatience = 5 * time.Second
)

// steward brings the settings of State to the KV nodes, while this configuration master leads. What a node has it tells
// itself, so a new leader repeats nothing.
type steward struct {
	node  *node
	conns *conns
	had   map[replicaKey]uint64 // version that a node told last; of run only
	asked map[replicaKey]int    // rounds since then; of run only

	mu       sync.Mutex
	problems map[replicaKey]string // why a node does not take them
}

func newSteward(n *node, conns *conns) *steward {
	return &steward{node: n, conns: conns, had: make(map[replicaKey]uint64), asked: make(map[replicaKey]int), problems: make(map[replicaKey]string)}
}

// charge is a KV node to bring settings to.
type charge struct {
	replicaKey
	addr     string // its management address
	leads    bool
	settings failover.Settings // slices of State, which are replaced and never changed
}

// run looks after the nodes until ctx ends.
func (s *steward) run(ctx context.Context) error {
	ticker := time.NewTicker(stewardRound)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if s.node.leader.Load() == s.node.config.ID {
			s.round(ctx)
		}
	}
}

// round looks after every KV node once, the master's of a group first: what is replicated goes through it.
func (s *steward) round(ctx context.Context) {
	var list []charge
	done := make(chan struct{})
	err := s.node.send(ctx, func() error {
		list = s.node.charges()
		close(done)
		return nil
	})
	if err != nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
		return
	case <-s.node.stopped:
		return
	}
	slices.SortStableFunc(list, func(a, b charge) int {
		switch {
		case a.leads == b.leads:
			return 0
		case a.leads:
			return -1
		}
		return 1
	})
	shared := make(map[string]bool) // groups of which a node was given what is replicated in this round
	for _, c := range list {
		share := c.settings.Shared < c.settings.Version && !shared[c.group]
		if s.asked[c.replicaKey]++; s.had[c.replicaKey] >= c.settings.Version && !share && s.asked[c.replicaKey] < stewardAsks {
			continue
		}
		s.asked[c.replicaKey] = 0
		problem := s.look(ctx, c, share)
		shared[c.group] = shared[c.group] || share && problem == ""
		s.note(c.replicaKey, problem)
	}
}

// charges lists the KV nodes of groups that have settings. Called on the loop.
func (n *node) charges() []charge {
	var list []charge
	for i := range n.state.Groups {
		g := &n.state.Groups[i]
		if g.Settings.Version == 0 || !n.elected {
			continue
		}
		for j := range g.Replicas {
			key := replicaKey{g.Name, g.Replicas[j].Node}
			state := n.seen[key]
			if standing := n.driver.Standing(g.Name, key.node); !standing.Up || !state.GetAttached() || state.GetKvAdminAddr() == "" {
				continue
			}
			list = append(list, charge{replicaKey: key, addr: state.GetKvAdminAddr(), leads: g.Established.Master == key.node, settings: g.Settings})
		}
	}
	return list
}

// look asks a node what it has and gives it what it lacks. It returns why that did not work.
func (s *steward) look(ctx context.Context, c charge, share bool) (problem string) {
	conn, err := s.conns.get(kvNodeAt(c.addr, c.node))
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, stewardPatience)
	defer cancel()
	client := lockstep.NewKVNodeClient(conn)
	target := s.node.target(c.group, c.node)
	reply, err := client.ApplySettings(ctx, &lockstep.ApplySettingsRequest{Target: target})
	if err != nil {
		return status.Convert(err).Message()
	}
	s.had[c.replicaKey] = reply.GetVersion()
	if reply.GetVersion() >= c.settings.Version && !share {
		return ""
	}
	request := &lockstep.ApplySettingsRequest{Target: target, Version: c.settings.Version, Shared: share, SharedFrom: c.settings.Shared}
	for i := range c.settings.Items {
		if item := &c.settings.Items[i]; item.Version > reply.GetVersion() || share && item.Version > c.settings.Shared {
			request.Settings = append(request.Settings, settingMessage(item))
		}
	}
	reply, err = client.ApplySettings(ctx, request)
	if err != nil {
		return status.Convert(err).Message()
	}
	s.had[c.replicaKey] = reply.GetVersion()
	if len(reply.GetProblems()) > 0 {
		return strings.Join(reply.GetProblems(), "; ")
	}
	if share {
		s.share(ctx, c)
	}
	return ""
}

// share has it put on record that what is replicated went through the log. If that fails it is given once more: the same
// values again.
func (s *steward) share(ctx context.Context, c charge) {
	answered := make(chan struct{})
	err := s.node.send(ctx, func() error {
		if !s.node.elected {
			close(answered)
			return nil
		}
		s.node.ask(&failover.Request{Share: &failover.ShareSettings{Group: c.group, Version: c.settings.Version}}, func(failover.Reply) { close(answered) })
		return nil
	})
	if err != nil {
		return
	}
	select {
	case <-answered:
	case <-ctx.Done():
	case <-s.node.stopped:
	}
}

// note keeps what is wrong with a node, and says it once.
func (s *steward) note(key replicaKey, problem string) {
	s.mu.Lock()
	before := s.problems[key]
	delete(s.problems, key)
	if problem != "" {
		s.problems[key] = problem
	}
	s.mu.Unlock()
	if problem != "" && problem != before {
		s.node.logger.Warn("settings not taken", "group", key.group, "node", string(key.node), "text", problem)
	}
}

// problemsOf lists what is wrong with the nodes of a group.
func (s *steward) problemsOf(group string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for key, problem := range s.problems {
		if key.group == group {
			list = append(list, fmt.Sprintf("%s: %s", key.node, problem))
		}
	}
	slices.Sort(list)
	return list
}

func settingMessage(item *failover.Setting) *lockstep.Setting {
	return &lockstep.Setting{Kind: string(item.Kind), Name: item.Name, Value: item.Value, Removed: item.Removed, Version: item.Version}
}

// Settings answers what operators want of a group.
func (s *service) Settings(ctx context.Context, request *lockstep.GroupSettingsRequest) (*lockstep.GroupSettings, error) {
	out, conn, err := s.leaderConn(ctx)
	if err != nil {
		return nil, err
	}
	if conn != nil {
		return lockstep.NewConfmasterClient(conn).Settings(out, request)
	}
	reply, err := onLoop(ctx, s.node, func() *lockstep.GroupSettings {
		if g := s.node.state.Group(request.GetGroup()); g != nil {
			return settingsMessage(g, request.GetHistory())
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case reply == nil:
		return nil, status.Errorf(codes.NotFound, "group %q is not known", request.GetGroup())
	}
	reply.Problems = s.steward.problemsOf(request.GetGroup())
	return reply, nil
}

func settingsMessage(g *failover.Group, history bool) *lockstep.GroupSettings {
	out := &lockstep.GroupSettings{Group: g.Name, Version: g.Settings.Version, Shared: g.Settings.Shared}
	for i := range g.Settings.Items {
		out.Settings = append(out.Settings, settingMessage(&g.Settings.Items[i]))
	}
	for i := 0; history && i < len(g.Settings.History); i++ {
		c := &g.Settings.History[i]
		out.History = append(out.History, &lockstep.SettingsChange{Version: c.Version, TimeMs: c.StampMillis, By: c.By, Kind: string(c.Kind), Name: c.Name,
			Value: c.Value, Before: c.Before, What: c.What})
	}
	return out
}

// readSettings has a KV node check a change of settings: it alone knows what a value may be. Every node that is up must take it.
func (s *service) readSettings(ctx context.Context, group string, change *lockstep.ChangeSettings) (*failover.ChangeSettings, []string, error) {
	result := &failover.ChangeSettings{Forget: change.GetForget(), By: change.GetBy()}
	for _, item := range change.GetSettings() {
		result.Settings = append(result.Settings, failover.Setting{Kind: failover.SettingKind(item.GetKind()), Name: item.GetName(), Value: item.GetValue(), Removed: item.GetRemoved()})
	}
	if change.GetForget() {
		return result, nil, nil
	}
	have, err := s.Settings(ctx, &lockstep.GroupSettingsRequest{Group: group})
	if err != nil {
		return nil, nil, err
	}
	asked := uponDecided(have, change.GetSettings())
	nodes := s.kvNodes(group)
	if len(nodes) == 0 {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "no KV node of group %q with a management port is up: nobody can tell whether the values are right", group)
	}
	var checks []string
	for i, c := range nodes {
		conn, err := s.conns.get(kvNodeAt(c.addr, c.node))
		if err != nil {
			return nil, nil, status.Errorf(codes.FailedPrecondition, "node %s: %v", c.node, err)
		}
		call, cancel := context.WithTimeout(ctx, stewardPatience)
		reply, err := lockstep.NewKVNodeClient(conn).CheckSettings(call, &lockstep.CheckSettingsRequest{Target: s.node.target(group, c.node), Settings: asked})
		cancel()
		if err != nil {
			return nil, nil, status.Errorf(codes.FailedPrecondition, "node %s does not tell whether the values are right: %s", c.node, status.Convert(err).Message())
		}
		var problems []string
		for j, problem := range reply.GetProblems() {
			if problem != "" && j < len(result.Settings) {
				problems = append(problems, fmt.Sprintf("%s %s: %s", result.Settings[j].Kind, result.Settings[j].Name, problem))
			}
		}
		if len(problems) > 0 {
			return nil, nil, status.Errorf(codes.InvalidArgument, "refused by node %s: %s", c.node, strings.Join(problems, "; "))
		}
		for j, item := range reply.GetSettings() {
			if i == 0 && j < len(result.Settings) { // how it will read; the others read it the same
				result.Settings[j].Name, result.Settings[j].Value = item.GetName(), item.GetValue()
			}
		}
		checks = append(checks, fmt.Sprintf("node %s takes them", c.node))
	}
	return result, checks, nil
}

// uponDecided puts before the rules for a user what is decided of that user and may not be in the group's log yet: KV nodes apply rules to the user
// that they know.
func uponDecided(have *lockstep.GroupSettings, wanted []*lockstep.Setting) []*lockstep.Setting {
	list := slices.Clone(wanted)
	for i, item := range list {
		for _, decided := range have.GetSettings() {
			if decided.GetKind() == string(failover.SettingUser) && item.GetKind() == decided.GetKind() && item.GetName() == decided.GetName() &&
				!item.GetRemoved() && decided.GetVersion() > have.GetShared() {
				list[i] = &lockstep.Setting{Kind: item.GetKind(), Name: item.GetName(), Value: "reset " + decided.GetValue() + " " + item.GetValue()}
			}
		}
	}
	return list
}

// kvNodes lists the KV nodes of a group that are up, the master's first.
func (s *service) kvNodes(group string) []charge {
	var list []charge
	for _, g := range s.node.status.Load().GetGroups() {
		if g.GetName() != group {
			continue
		}
		for _, r := range g.GetReplicas() {
			if !r.GetUp() || !r.GetState().GetAttached() || r.GetState().GetKvAdminAddr() == "" {
				continue
			}
			c := charge{replicaKey: replicaKey{group, smr.NodeID(r.GetNode())}, addr: r.GetState().GetKvAdminAddr(), leads: r.GetNode() == g.GetMaster()}
			if c.leads {
				list = slices.Insert(list, 0, c)
				continue
			}
			list = append(list, c)
		}
	}
	return list
}

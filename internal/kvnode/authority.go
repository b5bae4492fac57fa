package kvnode

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/acl"
	"lockstep/internal/kv"
	"lockstep/internal/nearest"
	"lockstep/proto"
	"lockstep/smr"
)

// Kinds of proto.Setting.
const (
	kindConfig   = "config"
	kindUser     = "user"
	kindFunction = "function"
)

// maxNodeSettings bounds the settings of one request.
const maxNodeSettings = 2048

// authority is what this node knows of the configuration masters' settings, and who else changes settings here.
type authority struct {
	applying sync.Mutex // one ApplySettings at a time

	mu      sync.Mutex
	version uint64            // that took effect here, 0 after a start
	origins map[string]string // by setting: who changed it here last
	kept    map[string]string // by setting of this node: what the masters gave it last, and give it again after a start
}

// restored returns what a setting of this node would be after a start, at which it has the value atStart.
func (a *authority) restored(name, atStart string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if value, kept := a.kept[name]; kept {
		return value
	}
	return atStart
}

// noteKept remembers what the masters gave a setting of this node.
func (a *authority) noteKept(name, value string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept == nil {
		a.kept = make(map[string]string)
	}
	a.kept[name] = value
}

// noteOrigin remembers who changed a setting of this node.
func (a *authority) noteOrigin(name, origin string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.origins == nil {
		a.origins = make(map[string]string)
	}
	a.origins[name] = origin
}

// look returns the version and a copy of what is known about a setting.
func (a *authority) look(name string) (version uint64, origin string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.version, a.origins[name]
}

// Settings implements proto.KVNodeServer.
func (m *manage) Settings(_ context.Context, in *proto.SettingsRequest) (*proto.NodeSettings, error) {
	if err := m.checkTarget(in.GetTarget()); err != nil {
		return nil, err
	}
	n := m.node
	out := &proto.NodeSettings{Applied: uint64(n.Applied())}
	wanted := func(kind string) bool { return in.GetKind() == "" || in.GetKind() == kind }
	if wanted(kindConfig) {
		for _, s := range n.settings.all {
			if s.hidden {
				continue
			}
			_, origin := n.authority.look(s.name)
			out.Settings = append(out.Settings, &proto.NodeSetting{Kind: kindConfig, Name: s.name, Value: s.get(), Scope: s.scope(), Origin: origin})
		}
	}
	if wanted(kindUser) {
		for _, user := range n.shell.users.Load().All() {
			out.Settings = append(out.Settings, &proto.NodeSetting{Kind: kindUser, Name: user.Name(), Value: user.Describe(), Scope: "group"})
		}
	}
	if wanted(kindFunction) {
		n.lock.RLock()
		libraries := n.machine.Libraries()
		n.lock.RUnlock()
		for _, l := range libraries {
			out.Settings = append(out.Settings, &proto.NodeSetting{Kind: kindFunction, Name: l.Name, Value: l.Source, Scope: "group"})
		}
	}
	out.Version, _ = n.authority.look("")
	return out, nil
}

// scope says where a setting takes effect.
func (s *setting) scope() string {
	switch {
	case s.replicated:
		return "group"
	case s.noted:
		return "noted"
	case s.check == nil:
		return "fixed"
	}
	return "node"
}

// CheckSettings implements proto.KVNodeServer.
func (m *manage) CheckSettings(_ context.Context, in *proto.CheckSettingsRequest) (*proto.CheckSettingsReply, error) {
	if err := m.checkTarget(in.GetTarget()); err != nil {
		return nil, err
	}
	if len(in.GetSettings()) > maxNodeSettings {
		return nil, status.Errorf(codes.InvalidArgument, "%d settings at once: at most %d are possible", len(in.GetSettings()), maxNodeSettings)
	}
	// Rules change a user as it is. A node that has just started, or lags, knows an older one, or none.
	if slices.ContainsFunc(in.GetSettings(), func(s *proto.Setting) bool { return s.GetKind() == kindUser }) {
		if err := m.node.linearize(); err != nil {
			return nil, status.Errorf(codes.Unavailable, "node %s cannot ask its group which users there are: %v", m.node.config.Node, err)
		}
	}
	out := &proto.CheckSettingsReply{}
	for _, s := range in.GetSettings() {
		value, problem := m.node.checkSetting(s)
		if problem != "" {
			value = ""
		}
		out.Settings = append(out.Settings, &proto.Setting{Kind: s.GetKind(), Name: strings.ToLower(s.GetName()), Value: value, Removed: s.GetRemoved()})
		if s.GetKind() != kindConfig {
			out.Settings[len(out.Settings)-1].Name = s.GetName()
		}
		out.Problems = append(out.Problems, problem)
	}
	return out, nil
}

// checkSetting returns how a setting will read, or what is wrong with it.
func (n *Node) checkSetting(s *proto.Setting) (value, problem string) {
	switch s.GetKind() {
	case kindConfig:
		return n.settings.canonical(strings.ToLower(s.GetName()), s.GetValue())
	case kindUser:
		return n.checkUser(s)
	case kindFunction:
		if s.GetRemoved() {
			return "", ""
		}
		n.lock.Lock()
		name, problem := n.machine.CheckLibrary(s.GetValue())
		n.lock.Unlock()
		if problem == "" && name != s.GetName() {
			problem = fmt.Sprintf("the code names its library %q, not %q", name, s.GetName())
		}
		return s.GetValue(), strings.TrimPrefix(problem, "ERR ")
	}
	return "", fmt.Sprintf("unknown kind of setting %q", s.GetKind())
}

func (n *Node) checkUser(s *proto.Setting) (value, problem string) {
	name := s.GetName()
	switch {
	case s.GetRemoved() && name == acl.Default:
		return "", "the user default cannot be removed"
	case s.GetRemoved():
		return "", ""
	case !acl.ValidName(name):
		return "", "a name without blanks is needed"
	}
	rules := strings.Fields(s.GetValue())
	for i, rule := range rules {
		rules[i] = acl.Seal(rule)
	}
	changed, err := n.shell.users.Load().With(name, rules)
	if err != nil {
		return "", err.Error()
	}
	return changed.Get(name).Describe(), ""
}

// canonical returns how a value will read in CONFIG GET, or what is wrong with it.
func (s *settings) canonical(name, value string) (canonical, problem string) {
	found := s.find(name)
	if found == nil {
		var names []string
		for i := range s.all {
			names = append(names, s.all[i].name)
		}
		problem = fmt.Sprintf("there is no setting %q", name)
		if near := nearest.Name(name, names); near != "" {
			problem += fmt.Sprintf(": is it %q?", near)
		}
		return "", problem
	}
	if found.hidden {
		return "", name + " is a secret: give the user default a password instead, `smrctl user set default on '>PASSWORD'`"
	}
	if _, problem := found.change(value); problem != "" {
		return "", problem
	}
	switch {
	case found.replicated:
		return kv.CheckSetting(name, value)
	case name == "client-query-buffer-limit", name == "maxmemory-clients" && !strings.HasSuffix(value, "%"):
		size, _ := parseMemory(value) // was checked
		return fmt.Sprint(size), ""
	case name == "client-output-buffer-limit":
		limits, _ := parseOutputLimits(standardOutputLimits, value)
		return limits.String(), ""
	case name == "latency-tracking-info-percentiles":
		list, _ := parsePercentiles(value) // was checked
		return percentilesText(list), ""
	case found.noted:
		return noteCanonical(name, value), ""
	case value != strings.ToLower(value) && slices.Contains([]string{"yes", "no"}, strings.ToLower(value)):
		return strings.ToLower(value), ""
	}
	return value, ""
}

// noteCanonical returns the form in which a noted setting is shown. The value was checked.
func noteCanonical(name, value string) string {
	for _, entry := range notedSettings {
		if entry.name == name {
			value, _ = entry.valid(value)
		}
	}
	return value
}

// ApplySettings implements proto.KVNodeServer. With version 0 it changes nothing and tells which version took effect here.
func (m *manage) ApplySettings(ctx context.Context, in *proto.ApplySettingsRequest) (*proto.ApplySettingsReply, error) {
	if err := m.checkTarget(in.GetTarget()); err != nil {
		return nil, err
	}
	if len(in.GetSettings()) > maxNodeSettings {
		return nil, status.Errorf(codes.InvalidArgument, "%d settings at once: at most %d are possible", len(in.GetSettings()), maxNodeSettings)
	}
	n := m.node
	if !n.authority.applying.TryLock() {
		return nil, status.Errorf(codes.Unavailable, "node %s applies settings just now: try again", n.config.Node)
	}
	defer n.authority.applying.Unlock()
	known, _ := n.authority.look("")
	out := &proto.ApplySettingsReply{Version: known}
	if in.GetVersion() == 0 {
		return out, nil
	}
	for _, s := range in.GetSettings() {
		if err := ctx.Err(); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		if problem := n.applySetting(s, known, in); problem != "" {
			out.Problems = append(out.Problems, fmt.Sprintf("%s %s: %s", s.GetKind(), s.GetName(), problem))
		}
	}
	if len(out.Problems) == 0 {
		n.authority.mu.Lock()
		n.authority.version = max(n.authority.version, in.GetVersion())
		out.Version = n.authority.version
		n.authority.mu.Unlock()
	}
	return out, nil
}

// applySetting makes one setting take effect if it is new here, or, of the replicated ones, new to the group.
func (n *Node) applySetting(s *proto.Setting, known uint64, in *proto.ApplySettingsRequest) (problem string) {
	if record, shared := n.sharedRecord(s); shared {
		if !in.GetShared() || s.GetVersion() <= in.GetSharedFrom() {
			return ""
		}
		reply, err := n.executeAny(record, s.GetKind() == kindFunction)
		if err != nil {
			return err.Error()
		}
		if text, failed := strings.CutPrefix(string(reply), "-"); failed {
			if s.GetRemoved() && strings.Contains(text, "not found") {
				return "" // there is none, as wanted
			}
			return strings.TrimSpace(text)
		}
		return ""
	}
	if s.GetVersion() <= known {
		return ""
	}
	found := n.settings.find(s.GetName())
	if found == nil || found.hidden {
		return "this node does not know it: it is of version " + n.config.Version
	}
	change, problem := found.change(s.GetValue())
	if problem == "" {
		change()
		n.authority.noteKept(s.GetName(), found.get())
		n.authority.noteOrigin(s.GetName(), fmt.Sprintf("the configuration masters, version %d", s.GetVersion()))
	}
	return problem
}

// sharedRecord returns what the group executes for a setting that is replicated; false if it is one of this node.
func (n *Node) sharedRecord(s *proto.Setting) (record [][]byte, shared bool) {
	switch s.GetKind() {
	case kindConfig:
		if found := n.settings.find(s.GetName()); found == nil || !found.replicated {
			return nil, false
		}
		return kv.SettingRecord(s.GetName(), s.GetValue()), true
	case kindUser:
		if s.GetRemoved() {
			return kv.RemovalRecord([][]byte{[]byte(s.GetName())}), true
		}
		return kv.UserRecord(s.GetName(), append([]string{"reset"}, strings.Fields(s.GetValue())...)), true
	}
	if s.GetRemoved() {
		return [][]byte{[]byte("function"), []byte("delete"), []byte(s.GetName())}, true
	}
	return [][]byte{[]byte("function"), []byte("load"), []byte("replace"), []byte(s.GetValue())}, true
}

// executeAny has the group execute a record, or a command, and waits for its reply.
func (n *Node) executeAny(args [][]byte, command bool) ([]byte, error) {
	if !command {
		return n.executeRecord(args, 2)
	}
	return n.executePayload(kv.Envelope{}.AppendCommand(nil, args), 2)
}

// stopAt is a wait for the digest of the state at a point of the log that all nodes come to.
type stopAt struct {
	at    smr.LSN
	reply chan *proto.DigestReply // capacity 1
}

// digestPatience bounds how long a Digest waits for its point of the log: an idle stream moves once a second.
const digestPatience = 15 * time.Second

// Digest implements proto.KVNodeServer.
func (m *manage) Digest(ctx context.Context, in *proto.DigestRequest) (*proto.DigestReply, error) {
	if err := m.checkTarget(in.GetTarget()); err != nil {
		return nil, err
	}
	n := m.node
	wait := &stopAt{at: smr.LSN(in.GetAt()), reply: make(chan *proto.DigestReply, 1)}
	n.frame.Lock() // no frame is half executed
	applied := n.Applied()
	switch {
	case applied == wait.at || wait.at == 0:
		n.lock.RLock()
		reply := n.digestNow()
		n.lock.RUnlock()
		n.frame.Unlock()
		return reply, nil
	case applied > wait.at:
		n.frame.Unlock()
		return nil, status.Errorf(codes.OutOfRange, "node %s has executed the log up to %d already", n.config.Node, applied)
	}
	n.stops = append(n.stops, wait)
	n.frame.Unlock()
	defer n.forgetStop(wait)
	timer := time.NewTimer(digestPatience)
	defer timer.Stop()
	select {
	case reply := <-wait.reply:
		return reply, nil
	case <-timer.C:
		return nil, status.Errorf(codes.Unavailable, "node %s has executed the log up to %d: it does not come to %d", n.config.Node, n.Applied(), wait.at)
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-n.stopped:
		return nil, status.Error(codes.Unavailable, "the node stops")
	}
}

// digestNow returns the digest of the state as it is. Called with frame and the machine held.
func (n *Node) digestNow() *proto.DigestReply {
	digest := n.machine.Digest()
	reply := &proto.DigestReply{Lsn: uint64(n.machine.Applied()), Digest: digest[:]}
	for database := range kv.Databases {
		reply.Keys += uint64(n.machine.DBSize(database))
	}
	return reply
}

// answerStops answers those who wait for what was just executed. Called by the apply loop, which holds frame and the machine.
func (n *Node) answerStops(end smr.LSN) {
	var reply *proto.DigestReply
	n.stops = slices.DeleteFunc(n.stops, func(wait *stopAt) bool {
		if wait.at > end {
			return false
		}
		if reply == nil {
			reply = n.digestNow()
		}
		wait.reply <- reply
		return true
	})
}

func (n *Node) forgetStop(wait *stopAt) {
	n.frame.Lock()
	defer n.frame.Unlock()
	n.stops = slices.DeleteFunc(n.stops, func(other *stopAt) bool { return other == wait })
}

package drift

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"lockstep/internal/acl"
	"lockstep/proto"
)

// Kinds of proto.Setting.
const (
	Config   = "config"
	User     = "user"
	Function = "function"
)

// Standing is what is wanted of a group and what its nodes have.
type Standing struct {
	Group  string
	Wanted *proto.GroupSettings
	Nodes  []Node // in the order of the status
}

// Node is what one KV node has.
type Node struct {
	Node string
	Have *proto.NodeSettings
	Err  error // why it is not known
}

// Of returns what a node has of a setting, nil if it has none.
func (n *Node) Of(kind, name string) *proto.NodeSetting {
	for _, s := range n.Have.GetSettings() {
		if s.GetKind() == kind && s.GetName() == name {
			return s
		}
	}
	return nil
}

// Find returns what is wanted of a setting, nil if nothing is on record.
func (s *Standing) Find(kind, name string) *proto.Setting {
	for _, item := range s.Wanted.GetSettings() {
		if item.GetKind() == kind && item.GetName() == name {
			return item
		}
	}
	return nil
}

// Names lists everything of a kind that is on record or on a node, sorted.
func (s *Standing) Names(kind string) []string {
	var names []string
	for _, item := range s.Wanted.GetSettings() {
		if item.GetKind() == kind {
			names = append(names, item.GetName())
		}
	}
	for _, n := range s.Nodes {
		for _, have := range n.Have.GetSettings() {
			if have.GetKind() == kind {
				names = append(names, have.GetName())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Difference is a node that has something else than is wanted, or than the other nodes.
type Difference struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Node   string `json:"node"`
	Wanted string `json:"wanted"`
	Has    string `json:"has"`
	Why    string `json:"why"`
}

// Differences compares every node with what is wanted.
func (s *Standing) Differences(kinds ...string) []Difference {
	list := []Difference{}
	for _, item := range s.Wanted.GetSettings() {
		if len(kinds) > 0 && !slices.Contains(kinds, item.GetKind()) {
			continue
		}
		for i := range s.Nodes {
			if d := s.Difference(&s.Nodes[i], item); d != nil {
				list = append(list, *d)
			}
		}
	}
	if len(kinds) == 0 || slices.Contains(kinds, Config) {
		list = append(list, s.unlike()...)
	}
	return list
}

// Difference returns how a node differs from what is wanted, nil if it does not.
func (s *Standing) Difference(n *Node, item *proto.Setting) *Difference {
	d := &Difference{Kind: item.GetKind(), Name: item.GetName(), Node: n.Node, Wanted: Shown(item.GetKind(), item.GetValue())}
	if item.GetRemoved() {
		d.Wanted = "none"
	}
	if n.Err != nil {
		d.Why = "not known: " + n.Err.Error()
		return d
	}
	have := n.Of(item.GetKind(), item.GetName())
	switch {
	case have == nil && item.GetRemoved(), have != nil && !item.GetRemoved() && have.GetValue() == item.GetValue():
		return nil
	case have == nil:
		d.Has, d.Why = "none", "somebody else removed it, or it did not take effect yet"
	default:
		d.Has, d.Why = Shown(item.GetKind(), have.GetValue()), have.GetOrigin()
	}
	late := n.Have.GetVersion() < item.GetVersion()
	if have.GetScope() == "group" || item.GetKind() != Config {
		late = s.Wanted.GetShared() < item.GetVersion()
		if d.Why == "" {
			d.Why = "somebody else changed it, on any node: it is replicated"
		}
	}
	if late {
		d.Why = "version " + decimal(item.GetVersion()) + " did not take effect yet"
		for _, problem := range s.Wanted.GetProblems() {
			if strings.HasPrefix(problem, n.Node+": ") {
				d.Why += ": " + strings.TrimPrefix(problem, n.Node+": ")
			}
		}
	}
	if d.Why == "" {
		d.Why = "somebody else changed it on this node"
	}
	return d
}

// unlike lists settings of nodes that nothing is wanted of and that are not the same everywhere.
func (s *Standing) unlike() []Difference {
	var list []Difference
	for _, name := range s.Names(Config) {
		if s.Find(Config, name) != nil {
			continue
		}
		values := make(map[string]bool)
		var of []Difference
		for i := range s.Nodes {
			n := &s.Nodes[i]
			if have := n.Of(Config, name); have != nil && have.GetScope() == "node" {
				values[have.GetValue()] = true
				why := have.GetOrigin()
				if why == "" {
					why = "as the node was started"
				}
				of = append(of, Difference{Kind: Config, Name: name, Node: n.Node, Has: have.GetValue(), Why: "not on record, and the nodes differ: " + why})
			}
		}
		if len(values) > 1 {
			list = append(list, of...)
		}
	}
	return list
}

// Shown is a value for people: no secrets, and not too long.
func Shown(kind, value string) string {
	if kind == User {
		value = HideHashes(value)
	}
	if kind == Function && value != "" {
		return fmt.Sprintf("%d bytes, %s", len(value), ShortDigest(value))
	}
	return value
}

// HideHashes shortens the hashes of passwords.
func HideHashes(rules string) string {
	words := strings.Fields(rules)
	for i, word := range words {
		words[i] = acl.Shown(word)
	}
	return strings.Join(words, " ")
}

// Lacking says who does not have the newest version yet, "" if everybody has who is up.
func (s *Standing) Lacking() string {
	for _, problem := range s.Wanted.GetProblems() {
		return "a node to take it: " + problem
	}
	if s.Wanted.GetShared() < s.Wanted.GetVersion() {
		return "the group to execute it"
	}
	for _, n := range s.Nodes {
		if n.Err == nil && n.Have.GetVersion() < s.Wanted.GetVersion() {
			return n.Node + " to take it"
		}
	}
	return ""
}

// FirstError returns why nothing is known of any node, nil if something is.
func (s *Standing) FirstError() error {
	var problems []error
	for _, n := range s.Nodes {
		if n.Err == nil {
			return nil
		}
		problems = append(problems, n.Err)
	}
	return errors.Join(problems...)
}

// Secret reports whether the value of a setting is one: a password by which something logs in elsewhere, as masterauth is.
func Secret(name string) bool {
	return slices.ContainsFunc([]string{"pass", "auth", "masteruser", "secret"}, func(part string) bool { return strings.Contains(name, part) })
}

// ShortDigest tells two texts apart for people.
func ShortDigest(text string) string {
	return fmt.Sprintf("sha256 %x…", sha256.Sum256([]byte(text)))[:len("sha256 ")+12] + "…"
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// Unreachable tells why a KV node cannot be asked whose management address is not known: its replicator is not up, or no KV node is attached
// to that, or it has no such port.
func Unreachable(node string, up, attached bool) error {
	switch {
	case !up:
		return fmt.Errorf("the replicator of %s is down, and nothing is known of its KV node", node)
	case !attached:
		return fmt.Errorf("no KV node is attached to the replicator of %s", node)
	}
	return fmt.Errorf("%s has no management port (--admin)", node)
}

package failover

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"lockstep/smr"
)

// FormatVersion is the version of the encodings of Command and State: JSON with a Version beside the fields. An encoding
// with another version or with unknown fields is refused, because a confmaster that leaves out what it does not
// understand would no longer hold the same State as the others.
const FormatVersion = 1

type (
	encodedCommand struct {
		Version int
		Command
	}
	encodedState struct {
		Version int
		State
	}
)

// Encode returns the command as it travels through raft.
func (c *Command) Encode() []byte { return encode(encodedCommand{FormatVersion, *c}) }

// DecodeCommand reads what Encode wrote and checks it.
func DecodeCommand(b []byte) (Command, error) {
	var encoded encodedCommand
	if err := decode(b, MaxCommand, &encoded); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	if encoded.Version != FormatVersion {
		return Command{}, fmt.Errorf("decode command: version %d, this confmaster knows %d", encoded.Version, FormatVersion)
	}
	if err := encoded.Command.Check(); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	return encoded.Command, nil
}

// Encode returns the State as a snapshot.
func (s *State) Encode() []byte { return encode(encodedState{FormatVersion, *s}) }

// DecodeState reads what Encode wrote and checks it.
func DecodeState(b []byte) (*State, error) {
	var encoded encodedState
	if err := decode(b, MaxState, &encoded); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	if encoded.Version != FormatVersion {
		return nil, fmt.Errorf("decode state: version %d, this confmaster knows %d", encoded.Version, FormatVersion)
	}
	if err := encoded.State.check(); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	return &encoded.State, nil
}

func encode(value any) []byte {
	b, err := json.Marshal(value)
	if err != nil { // only types that JSON knows are in there
		panic(fmt.Sprintf("invariant broken: encode %T: %v", value, err))
	}
	return b
}

func decode(b []byte, limit int, value any) error {
	if len(b) > limit {
		return fmt.Errorf("%d bytes, at most %d are possible", len(b), limit)
	}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes follow its end")
	}
	return nil
}

// Group returns the name of the group that the command is about.
func (c *Command) Group() string {
	switch {
	case c.CreateGroup != nil:
		return c.CreateGroup.Name
	case c.Found != nil:
		return c.Found.Group
	case c.BeginElection != nil:
		return c.BeginElection.Group
	case c.Choose != nil:
		return c.Choose.Group
	case c.Establish != nil:
		return c.Establish.Group
	case c.BeginReconfigure != nil:
		return c.BeginReconfigure.Group
	case c.SetPolicy != nil:
		return c.SetPolicy.Group
	case c.SetReplica != nil:
		return c.SetReplica.Group
	case c.Note != nil:
		return c.Note.Group
	case c.AddReplica != nil:
		return c.AddReplica.Group
	case c.BeginChange != nil:
		return c.BeginChange.Group
	case c.AdvanceChange != nil:
		return c.AdvanceChange.Group
	case c.CancelChange != nil:
		return c.CancelChange.Group
	case c.Recover != nil:
		return c.Recover.Group
	case c.ChangeSettings != nil:
		return c.ChangeSettings.Group
	case c.ShareSettings != nil:
		return c.ShareSettings.Group
	}
	return "" // RaiseLevel is about all of them
}

// Check reports what is wrong with a command by itself, without a State.
func (c *Command) Check() error {
	bodies := 0
	for _, set := range []bool{c.CreateGroup != nil, c.Found != nil, c.BeginElection != nil, c.Choose != nil, c.Establish != nil,
		c.BeginReconfigure != nil, c.SetPolicy != nil, c.SetReplica != nil, c.Note != nil,
		c.AddReplica != nil, c.BeginChange != nil, c.AdvanceChange != nil, c.CancelChange != nil, c.Recover != nil,
		c.ChangeSettings != nil, c.ShareSettings != nil, c.RaiseLevel != nil} {
		if set {
			bodies++
		}
	}
	if bodies != 1 {
		return fmt.Errorf("command with %d bodies", bodies)
	}
	if c.RaiseLevel != nil {
		return c.RaiseLevel.check()
	}
	if err := smr.CheckNodeID(c.Group()); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	switch {
	case c.CreateGroup != nil:
		return c.CreateGroup.check()
	case c.Found != nil:
		return checkMembers(c.Found.Config.Members)
	case c.BeginElection != nil:
		return c.BeginElection.check()
	case c.Choose != nil:
		return c.Choose.check()
	case c.BeginReconfigure != nil:
		return c.BeginReconfigure.check()
	case c.SetPolicy != nil:
		return c.SetPolicy.Policy.check()
	case c.SetReplica != nil:
		return c.SetReplica.Replica.check()
	case c.Note != nil:
		return c.Note.check()
	case c.AddReplica != nil:
		return c.AddReplica.check()
	case c.BeginChange != nil:
		return c.BeginChange.check()
	case c.AdvanceChange != nil:
		return c.AdvanceChange.check()
	case c.Recover != nil:
		return c.Recover.check()
	case c.ChangeSettings != nil:
		return c.ChangeSettings.check()
	}
	return nil
}

func (c *CreateGroup) check() error {
	if err := c.Policy.check(); err != nil {
		return err
	}
	if len(c.Replicas) > MaxReplicas {
		return fmt.Errorf("%d replicas, at most %d are possible", len(c.Replicas), MaxReplicas)
	}
	if c.Policy.Copies > len(c.Replicas) && len(c.Replicas) > 0 { // without any it waits for replicas that join
		return fmt.Errorf("%d copies of %d replicas", c.Policy.Copies, len(c.Replicas))
	}
	for i := range c.Replicas {
		if err := c.Replicas[i].check(); err != nil {
			return err
		}
		for j := range i {
			if c.Replicas[i].Node == c.Replicas[j].Node {
				return fmt.Errorf("replica %s is named twice", c.Replicas[i].Node)
			}
			if c.Replicas[i].ManageAddr == c.Replicas[j].ManageAddr {
				return fmt.Errorf("replicas %s and %s have one management address %s", c.Replicas[j].Node, c.Replicas[i].Node, c.Replicas[i].ManageAddr)
			}
		}
	}
	return nil
}

func (p Policy) check() error {
	if p.MinCopies < 1 || p.MinCopies > p.Copies || p.Copies > smr.MaxMembers {
		return fmt.Errorf("copies %d with min_copies %d: 1 <= min_copies <= copies <= %d must hold", p.Copies, p.MinCopies, smr.MaxMembers)
	}
	if _, err := smr.ParseSyncMode(p.Sync.String()); err != nil {
		return err
	}
	if p.SlowMillis < 0 || p.SlowForMillis < 0 || p.SlowMillis > maxSlowMillis || p.SlowForMillis > maxSlowMillis {
		return fmt.Errorf("slow beyond %d ms for %d ms: use 0 to %d", p.SlowMillis, p.SlowForMillis, maxSlowMillis)
	}
	if p.SlowMillis > 0 && p.SlowMillis < minSlowMillis {
		return fmt.Errorf("slow beyond %d ms: use at least %d, it is measured every 100 ms", p.SlowMillis, minSlowMillis)
	}
	if bounded := p.SlowBytes > 0 || p.SlowMillis > 0; bounded && p.SlowForMillis == 0 {
		return errors.New("a bound for slow members needs a time for which they may be slow (slow-for)")
	}
	return nil
}

// Bounds of the times in the policy for slow members: a second, a day.
const (
	minSlowMillis = 1000
	maxSlowMillis = 24 * 3600 * 1000
)

func (r *Replica) check() error {
	if err := smr.CheckNodeID(string(r.Node)); err != nil {
		return err
	}
	if r.ManageAddr == "" || r.DataAddr == "" {
		return fmt.Errorf("replica %s needs a management and a data address", r.Node)
	}
	if len(r.ManageAddr) > 255 || len(r.DataAddr) > 255 || len(r.KVAddr) > 255 {
		return fmt.Errorf("replica %s has an address of more than 255 bytes", r.Node)
	}
	return nil
}

func (c *BeginElection) check() error {
	switch c.Kind {
	case ElectionFirst, ElectionFailover, ElectionSwitchover, ElectionForced:
	default:
		return fmt.Errorf("unknown kind of election %q", c.Kind)
	}
	return checkEvidence(c.Reason, c.Witnesses)
}

func (c *Choose) check() error {
	if len(c.Candidates) > MaxReplicas {
		return fmt.Errorf("%d candidates, at most %d are possible", len(c.Candidates), MaxReplicas)
	}
	for i, candidate := range c.Candidates {
		if len(candidate.Note) > MaxText {
			return fmt.Errorf("the note on candidate %s has %d bytes", candidate.Node, len(candidate.Note))
		}
		if err := smr.CheckNodeID(string(candidate.Node)); err != nil {
			return err
		}
		for j := range i {
			if c.Candidates[j].Node == candidate.Node {
				return fmt.Errorf("candidate %s is named twice", candidate.Node)
			}
		}
	}
	return checkEvidence(c.Reason, nil)
}

func (c *BeginReconfigure) check() error {
	switch c.Kind {
	case EntryDrop, EntryAdmit, EntryCopies:
	default:
		return fmt.Errorf("unknown kind of reconfiguration %q", c.Kind)
	}
	if err := checkMembers(c.Members); err != nil {
		return err
	}
	return checkEvidence(c.Reason, c.Witnesses)
}

func (c *Note) check() error {
	if c.Kind != EntryNote && c.Kind != EntryUnavailable {
		return fmt.Errorf("unknown kind of note %q", c.Kind)
	}
	return checkEvidence(c.Text, c.Witnesses)
}

func checkMembers(members []smr.Member) error {
	if len(members) > MaxReplicas {
		return fmt.Errorf("%d members, at most %d are possible", len(members), MaxReplicas)
	}
	return nil
}

func checkEvidence(text string, witnesses []Witness) error {
	if len(text) > MaxText {
		return fmt.Errorf("text of %d bytes, at most %d are possible", len(text), MaxText)
	}
	if len(witnesses) > MaxWitnesses {
		return fmt.Errorf("%d witnesses, at most %d are possible", len(witnesses), MaxWitnesses)
	}
	for _, witness := range witnesses {
		if len(witness.Saw) > MaxText {
			return fmt.Errorf("what a witness saw has %d bytes", len(witness.Saw))
		}
	}
	return nil
}

// check reports which invariant s breaks.
func (s *State) check() error {
	if len(s.Groups) > MaxGroups || len(s.Log) > MaxLog {
		return fmt.Errorf("%d groups and %d log entries, at most %d and %d are possible", len(s.Groups), len(s.Log), MaxGroups, MaxLog)
	}
	if s.NextEntry == 0 || s.NextEvent == 0 {
		return errors.New("the next entry or event has no number")
	}
	if s.Level < 0 || s.Level > smr.MaxLevel {
		return fmt.Errorf("feature level %d: 0 to %d are possible", s.Level, smr.MaxLevel)
	}
	for i := range s.Groups {
		if i > 0 && s.Groups[i-1].Name >= s.Groups[i].Name {
			return fmt.Errorf("groups are not sorted at %q", s.Groups[i].Name)
		}
		if err := s.Groups[i].check(); err != nil {
			return fmt.Errorf("group %q: %w", s.Groups[i].Name, err)
		}
	}
	return nil
}

func (g *Group) check() error {
	if err := smr.CheckNodeID(g.Name); err != nil {
		return err
	}
	if err := g.Policy.check(); err != nil {
		return err
	}
	if err := g.Settings.check(); err != nil {
		return err
	}
	if len(g.Recoveries) > MaxRecoveries {
		return fmt.Errorf("%d forced recoveries, at most %d are possible", len(g.Recoveries), MaxRecoveries)
	}
	if len(g.Removed) > MaxRemoved {
		return fmt.Errorf("%d removed replicas, at most %d are remembered", len(g.Removed), MaxRemoved)
	}
	if err := g.checkChange(); err != nil {
		return err
	}
	if len(g.Replicas) > MaxReplicas || len(g.Replicas) < g.Policy.Copies && g.Epoch != 0 {
		return fmt.Errorf("%d replicas for %d copies: at most %d are possible", len(g.Replicas), g.Policy.Copies, MaxReplicas)
	}
	for _, node := range append([]smr.NodeID{g.Reign.Master, g.Election.Target}, g.Election.Without...) {
		if node != "" && g.Replica(node) == nil {
			return fmt.Errorf("%s is not registered", node)
		}
	}
	for i := range g.Replicas {
		if err := g.Replicas[i].check(); err != nil {
			return err
		}
		if i > 0 && g.Replicas[i-1].Node >= g.Replicas[i].Node {
			return fmt.Errorf("replicas are not sorted at %s", g.Replicas[i].Node)
		}
	}
	for _, config := range []smr.Config{g.Established, g.Provisional} {
		if config.Epoch == 0 {
			continue
		}
		if err := config.Check(); err != nil {
			return err
		}
		for _, m := range config.Members {
			if g.Replica(m.Node) == nil {
				return fmt.Errorf("member %s is not registered", m.Node)
			}
		}
	}
	switch {
	case (g.Established.Epoch == 0) != (g.Epoch == 0):
		return fmt.Errorf("epoch %d with epoch %d established", g.Epoch, g.Established.Epoch)
	case g.Established.Epoch > g.Epoch || g.Election.Epoch > g.Epoch || g.Reign.Epoch > g.Epoch:
		return fmt.Errorf("an epoch above the highest given out, %d", g.Epoch)
	case g.Provisional.Epoch != 0 && (g.Provisional.Epoch <= g.Established.Epoch || g.Provisional.Epoch != g.Epoch):
		return fmt.Errorf("provisional epoch %d: established is %d, given out %d", g.Provisional.Epoch, g.Established.Epoch, g.Epoch)
	case g.Provisional.Epoch != 0 && (g.Provisional.Reign != g.Reign.Epoch || g.Provisional.Master != g.Reign.Master):
		return fmt.Errorf("provisional epoch %d is not of reign %d", g.Provisional.Epoch, g.Reign.Epoch)
	case (g.Reign.Epoch == 0) != (g.Reign.Master == ""):
		return fmt.Errorf("reign %d has master %q", g.Reign.Epoch, g.Reign.Master)
	case g.Election.Epoch != 0 && g.Election.Epoch <= g.Established.Epoch:
		return fmt.Errorf("election of epoch %d after epoch %d was established", g.Election.Epoch, g.Established.Epoch)
	case g.Electing() && g.Provisional.Epoch != 0:
		return fmt.Errorf("election of epoch %d beside provisional epoch %d", g.Election.Epoch, g.Provisional.Epoch)
	case g.Election.Epoch != 0 && g.Election.Chosen && (g.Reign.Epoch != g.Election.Epoch || g.Provisional.Epoch == 0):
		return fmt.Errorf("the election of epoch %d has chosen, but reign is %d", g.Election.Epoch, g.Reign.Epoch)
	}
	return nil
}

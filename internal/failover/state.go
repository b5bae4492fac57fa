package failover

import (
	"cmp"
	"errors"
	"fmt"
	"sort"
	"unicode/utf8"

	"lockstep/internal/mutant"
	"lockstep/smr"
)

// NewState returns the State of a cluster without groups.
func NewState(cluster string) *State { return &State{Cluster: cluster, NextEntry: 1, NextEvent: 1} }

// Group returns the group of that name, nil if there is none. It belongs to the State.
func (s *State) Group(name string) *Group {
	i := sort.Search(len(s.Groups), func(i int) bool { return s.Groups[i].Name >= name })
	if i < len(s.Groups) && s.Groups[i].Name == name {
		return &s.Groups[i]
	}
	return nil
}

// Replica returns the registered replica of that name, nil if there is none. It belongs to the Group.
func (g *Group) Replica(node smr.NodeID) *Replica {
	i := sort.Search(len(g.Replicas), func(i int) bool { return g.Replicas[i].Node >= node })
	if i < len(g.Replicas) && g.Replicas[i].Node == node {
		return &g.Replicas[i]
	}
	return nil
}

// AnswersNeeded returns how many members of the last established configuration must answer a fence (S4).
func (g *Group) AnswersNeeded() int {
	needed := len(g.Established.Members) - g.Established.Copies + 1
	if mutant.On(mutant.FewerAnswers) {
		needed = max(1, needed-1)
	}
	return needed
}

// comparePositions orders candidates: the epoch of the last byte first, then End (S4).
func comparePositions(x, y smr.Position) int {
	if mutant.On(mutant.LongestWins) {
		return cmp.Compare(x.End, y.End)
	}
	return x.Compare(y)
}

// Current returns the newest configuration given out: provisional, or else established.
func (g *Group) Current() smr.Config {
	if g.Provisional.Epoch != 0 {
		return g.Provisional
	}
	return g.Established
}

// Electing reports whether an election was begun and nobody has been chosen yet.
func (g *Group) Electing() bool { return g.Election.Epoch != 0 && !g.Election.Chosen }

// Counts reports whether the answer of a candidate counts for an election: by name and incarnation (S10).
func (g *Group) Counts(c Candidate) bool {
	if mutant.On(mutant.CountWiped) {
		_, known := g.Established.Find(c.Node)
		return known
	}
	return g.Established.Has(smr.Member{Node: c.Node, Incarnation: c.Incarnation})
}

// Apply carries out a committed command. It never fails: a command that is overtaken or invalid changes nothing and
// the Result says so. Every confmaster applies the same commands in the same order and gets the same results.
func (s *State) Apply(cmd *Command) Result {
	result := Result{ID: cmd.ID, Confmaster: cmd.Confmaster, Group: cmd.Group()}
	if err := cmd.Check(); err != nil {
		result.Reason = err.Error()
		return result
	}
	apply := applying{State: s, cmd: cmd, result: &result, group: s.Group(result.Group)}
	var err error
	switch {
	case cmd.RaiseLevel != nil:
		err = apply.raiseLevel(cmd.RaiseLevel)
	case cmd.CreateGroup != nil:
		err = apply.createGroup(cmd.CreateGroup)
	case apply.group == nil:
		err = fmt.Errorf("group %q is not known", result.Group)
	case cmd.Found != nil:
		err = apply.found(cmd.Found)
	case cmd.BeginElection != nil:
		err = apply.beginElection(cmd.BeginElection)
	case cmd.Choose != nil:
		err = apply.choose(cmd.Choose)
	case cmd.Establish != nil:
		err = apply.establish(cmd.Establish)
	case cmd.BeginReconfigure != nil:
		err = apply.beginReconfigure(cmd.BeginReconfigure)
	case cmd.SetPolicy != nil:
		err = apply.setPolicy(cmd.SetPolicy)
	case cmd.SetReplica != nil:
		err = apply.setReplica(cmd.SetReplica)
	case cmd.Note != nil:
		err = apply.note(cmd.Note)
	case cmd.AddReplica != nil:
		err = apply.addReplica(cmd.AddReplica)
	case cmd.BeginChange != nil:
		err = apply.beginChange(cmd.BeginChange)
	case cmd.AdvanceChange != nil:
		err = apply.advanceChange(cmd.AdvanceChange)
	case cmd.CancelChange != nil:
		err = apply.cancelChange(cmd.CancelChange)
	case cmd.Recover != nil:
		err = apply.recover(cmd.Recover)
	case cmd.ChangeSettings != nil:
		err = apply.changeSettings(cmd.ChangeSettings)
	case cmd.ShareSettings != nil:
		err = apply.shareSettings(cmd.ShareSettings)
	}
	result.Applied, result.Stale = err == nil, errors.Is(err, errVersion) || errors.Is(err, errRaised)
	if err != nil {
		result.Reason = err.Error()
	}
	if g := s.Group(result.Group); g != nil {
		result.Epoch = g.Epoch
	}
	return result
}

// applying is one Apply at work. Each method checks first and then changes.
type applying struct {
	*State
	cmd    *Command
	result *Result
	group  *Group // nil: the whole cluster
}

func (a *applying) createGroup(c *CreateGroup) error {
	replicas := append([]Replica(nil), c.Replicas...)
	sort.Slice(replicas, func(i, j int) bool { return replicas[i].Node < replicas[j].Node })
	if g := a.group; g != nil {
		if g.Policy != c.Policy || len(g.Replicas) != len(replicas) {
			return fmt.Errorf("group %q exists with another description", c.Name)
		}
		for i := range replicas {
			if g.Replicas[i].Node != replicas[i].Node || g.Replicas[i].ManageAddr != replicas[i].ManageAddr {
				return fmt.Errorf("group %q exists with another replica %s", c.Name, g.Replicas[i].Node)
			}
		}
		return nil
	}
	if len(a.Groups) >= MaxGroups {
		return fmt.Errorf("%d groups exist: no more are possible", len(a.Groups))
	}
	i := sort.Search(len(a.Groups), func(i int) bool { return a.Groups[i].Name >= c.Name })
	a.Groups = append(a.Groups, Group{})
	copy(a.Groups[i+1:], a.Groups[i:])
	a.Groups[i] = Group{Name: c.Name, Policy: c.Policy, Replicas: replicas, Version: 1}
	a.group = &a.Groups[i]
	text := fmt.Sprintf("group of %d replicas registered: copies %d, at least %d", len(replicas), c.Policy.Copies, c.Policy.MinCopies)
	a.log(WorkEntry{Kind: EntryCreated, Reason: text})
	a.event(Event{Name: EventCreated, Text: text})
	return nil
}

func (a *applying) found(c *Found) error {
	g := a.group
	if g.Epoch != 0 {
		return fmt.Errorf("overtaken: the group was founded before")
	}
	config := c.Config.Clone()
	config.Epoch, config.Reign = 1, 1
	if err := config.Check(); err != nil {
		return err
	}
	if config.Copies != g.Policy.Copies {
		return fmt.Errorf("founded with %d copies, the policy says %d", config.Copies, g.Policy.Copies)
	}
	for _, m := range config.Members {
		if g.Replica(m.Node) == nil {
			return fmt.Errorf("member %s is not registered", m.Node)
		}
	}
	g.Epoch, g.Established = 1, config
	text := "all replicas are blank, nothing can be lost: " + describe(config)
	a.log(WorkEntry{Kind: EntryFounded, Reason: text})
	a.event(Event{Name: EventFounded, Text: text})
	return nil
}

// beginElection gives out an epoch (S1). From here on nothing of an older reign is given out or established any more.
func (a *applying) beginElection(c *BeginElection) error {
	g := a.group
	switch {
	case g.Epoch == 0:
		return fmt.Errorf("the group is not founded")
	case c.Expect != g.Epoch:
		return fmt.Errorf("overtaken: epoch %d was expected, %d has been given out", c.Expect, g.Epoch)
	case c.Target != "" && g.Replica(c.Target) == nil:
		return fmt.Errorf("target %s is not registered", c.Target)
	}
	for _, node := range c.Without {
		if g.Replica(node) == nil {
			return fmt.Errorf("%s, which is to be left out, is not registered", node)
		}
	}
	if !mutant.On(mutant.EpochReused) || g.Election.Epoch != g.Epoch {
		g.Epoch++
	}
	if mutant.On(mutant.ElectByProvisional) && g.Provisional.Epoch != 0 {
		g.Established = g.Provisional.Clone()
	}
	if !mutant.On(mutant.EstablishSuperseded) {
		g.Provisional = smr.Config{}
	}
	g.Election = Election{Epoch: g.Epoch, Kind: c.Kind, Reason: c.Reason, Target: c.Target, Without: c.Without}
	kind := EntryElection
	if c.Kind == ElectionSwitchover {
		kind = EntrySwitchover
	}
	a.log(WorkEntry{Kind: kind, Reason: c.Reason, Witnesses: c.Witnesses, Master: g.Reign.Master})
	a.event(Event{Name: EventElection, Node: g.Reign.Master, Text: c.Reason})
	return nil
}

// choose records the winner. It keeps members and copies of the last established configuration (F2) and checks S4 with
// the candidates once more: a Driver that counted wrongly must not lose bytes.
func (a *applying) choose(c *Choose) error {
	g := a.group
	if !g.Electing() || g.Election.Epoch != c.Epoch || g.Epoch != c.Epoch && !mutant.On(mutant.ReconfigureElecting) {
		return fmt.Errorf("overtaken: no election of epoch %d waits for a choice, epoch %d has been given out", c.Epoch, g.Epoch)
	}
	chosen := Candidate{Node: c.Master, Incarnation: c.Incarnation, Life: c.Life}
	if !g.Counts(chosen) {
		return fmt.Errorf("%s in incarnation %d is no member of the last established configuration", c.Master, c.Incarnation)
	}
	count, found := 0, false
	for _, candidate := range c.Candidates {
		if candidate.Node == c.Master && candidate.Incarnation == c.Incarnation && candidate.Life == c.Life {
			chosen, found = candidate, true
		}
		if g.Counts(candidate) {
			count++
		}
	}
	if !found {
		return fmt.Errorf("%s was chosen without an answer of that life", c.Master)
	}
	if count < g.AnswersNeeded() {
		return fmt.Errorf("%d answers count, %d are needed", count, g.AnswersNeeded())
	}
	for _, candidate := range c.Candidates {
		if g.Counts(candidate) && comparePositions(candidate.Position, chosen.Position) > 0 {
			return fmt.Errorf("%s was chosen at %v, but %s is at %v", c.Master, chosen.Position, candidate.Node, candidate.Position)
		}
	}
	if g.Provisional.Epoch == 0 || !mutant.On(mutant.EstablishSuperseded) {
		g.Provisional = g.Established.Clone()
		g.Provisional.Epoch, g.Provisional.Reign, g.Provisional.Master = c.Epoch, c.Epoch, c.Master
		g.Provisional.Copies = g.chosenCopies()
	}
	g.Election.Chosen = true
	g.Reign = Reign{Epoch: c.Epoch, Master: c.Master, Incarnation: c.Incarnation, Life: c.Life}
	a.log(WorkEntry{Kind: EntryChosen, Reason: c.Reason, Candidates: c.Candidates, Master: c.Master})
	a.event(Event{Name: EventChosen, Node: c.Master, Text: c.Reason})
	return nil
}

// establish is applied only while no higher epoch has been given out (S6).
func (a *applying) establish(c *Establish) error {
	g := a.group
	if g.Provisional.Epoch == 0 || g.Provisional.Epoch != c.Epoch || g.Epoch != c.Epoch && !mutant.On(mutant.EstablishSuperseded) {
		return fmt.Errorf("overtaken: epoch %d is not the newest, %d has been given out", c.Epoch, g.Epoch)
	}
	before, election := g.Established, g.Election
	g.Established, g.Provisional, g.Election = g.Provisional, smr.Config{}, Election{}
	if mutant.On(mutant.EstablishSuperseded) && election.Epoch > c.Epoch {
		g.Election = election
	}
	text := "established: " + describe(g.Established)
	a.log(WorkEntry{Kind: EntryEstablished, Reason: text, Master: g.Established.Master})
	a.event(Event{Name: EventEstablished, Node: g.Established.Master, Text: text})
	former := before.Master
	if last := g.lastRecovery(); last != nil && last.Epoch == before.Epoch {
		former = last.Master // nobody led the epoch that was forced
	}
	if former != g.Established.Master && before.Epoch > 1 { // nobody led epoch 1
		a.event(Event{Name: EventSwitchMaster, Node: g.Established.Master,
			Text:     fmt.Sprintf("%s leads after %s", g.Established.Master, former),
			FromAddr: g.kvAddr(former), ToAddr: g.kvAddr(g.Established.Master)})
	}
	return nil
}

// beginReconfigure gives out an epoch of the present reign (S8). Never of an older one, and never once an election
// was begun after it (S3): an older master could otherwise complete a set of copies that the election does not know.
func (a *applying) beginReconfigure(c *BeginReconfigure) error {
	g := a.group
	switch {
	case c.Expect != g.Epoch:
		return fmt.Errorf("overtaken: epoch %d was expected, %d has been given out", c.Expect, g.Epoch)
	case g.Electing() && !mutant.On(mutant.ReconfigureElecting):
		return fmt.Errorf("overtaken: the election of epoch %d was begun", g.Election.Epoch)
	case g.Reign.Epoch == 0 || c.Reign != g.Reign.Epoch:
		return fmt.Errorf("overtaken: reign %d is not the present one, %d", c.Reign, g.Reign.Epoch)
	case c.Copies < g.Policy.MinCopies && c.Copies < g.Current().Copies:
		return fmt.Errorf("%d copies are fewer than the policy's %d", c.Copies, g.Policy.MinCopies)
	}
	config := smr.Config{Epoch: g.Epoch + 1, Reign: c.Reign, Master: g.Reign.Master, Copies: c.Copies,
		Members: append([]smr.Member(nil), c.Members...)}
	if err := config.Check(); err != nil {
		return err
	}
	if !config.Has(smr.Member{Node: g.Reign.Master, Incarnation: g.Reign.Incarnation}) {
		return fmt.Errorf("the master %s would be dropped", g.Reign.Master)
	}
	for _, m := range config.Members {
		if g.Replica(m.Node) == nil {
			return fmt.Errorf("member %s is not registered", m.Node)
		}
		if epoch := g.Outcast(m); epoch != 0 {
			return fmt.Errorf("member %s was left out by the forced recovery of epoch %d", m.Node, epoch)
		}
	}
	g.Epoch++
	g.Provisional = config
	text := c.Reason + ": " + describe(config)
	a.log(WorkEntry{Kind: c.Kind, Reason: text, Witnesses: c.Witnesses, Master: config.Master})
	a.event(Event{Name: EventReconfigure, Node: config.Master, Text: text})
	return nil
}

func (a *applying) setPolicy(c *SetPolicy) error {
	if err := a.group.checkVersion(c.Version); err != nil {
		return err
	}
	if err := a.group.checkPolicy(c.Policy); err != nil {
		return err
	}
	if a.group.Policy == c.Policy {
		return nil
	}
	a.group.Policy = c.Policy
	a.group.Version++
	text := "policy: " + c.Policy.describe()
	a.log(WorkEntry{Kind: EntryPolicy, Reason: text})
	a.event(Event{Name: EventPolicy, Text: text})
	return nil
}

func (p Policy) describe() string {
	text := fmt.Sprintf("copies %d, at least %d, sync %v", p.Copies, p.MinCopies, p.Sync)
	if p.SlowForMillis > 0 && (p.SlowBytes > 0 || p.SlowMillis > 0) {
		text += fmt.Sprintf(", slow beyond %d bytes or %d ms for %d ms", p.SlowBytes, p.SlowMillis, p.SlowForMillis)
	}
	return text
}

func (a *applying) setReplica(c *SetReplica) error {
	g := a.group
	known := g.Replica(c.Replica.Node)
	next := c.Replica
	switch {
	case known == nil && c.Known:
		return fmt.Errorf("overtaken: replica %s is not registered", c.Replica.Node)
	case c.Known:
		next.Preference, next.Drained = known.Preference, known.Drained
	}
	switch {
	case known != nil && *known == next:
		return nil
	case known == nil && len(g.Replicas) >= MaxReplicas:
		return fmt.Errorf("%d replicas are registered: no more are possible", len(g.Replicas))
	}
	g.register(next)
	a.log(WorkEntry{Kind: EntryNote, Reason: fmt.Sprintf("replica %s registered: management %s, data %s, KV %s, preference %d",
		next.Node, next.ManageAddr, next.DataAddr, next.KVAddr, next.Preference)})
	return nil
}

func (a *applying) note(c *Note) error {
	if c.Expect != a.group.Epoch {
		return fmt.Errorf("overtaken: epoch %d was expected, %d has been given out", c.Expect, a.group.Epoch)
	}
	a.log(WorkEntry{Kind: c.Kind, Reason: c.Text, Witnesses: c.Witnesses})
	if c.Kind == EntryUnavailable {
		a.event(Event{Name: EventUnavailable, Text: c.Text})
	}
	return nil
}

// log puts a decision into the work log.
func (a *applying) log(entry WorkEntry) {
	entry.ID, entry.StampMillis, entry.Confmaster = a.NextEntry, a.cmd.StampMillis, a.cmd.Confmaster
	if a.group != nil {
		entry.Group, entry.Epoch = a.group.Name, a.group.Epoch
	}
	entry.Reason = clip(entry.Reason)
	entry.Witnesses = append([]Witness(nil), entry.Witnesses...)
	entry.Candidates = append([]Candidate(nil), entry.Candidates...)
	a.NextEntry++
	if len(a.Log) >= MaxLog {
		a.Log = append(a.Log[:0], a.Log[len(a.Log)-MaxLog+1:]...)
	}
	a.Log = append(a.Log, entry)
	a.result.Entry = &entry
}

func (a *applying) event(event Event) {
	event.ID, event.StampMillis = a.NextEvent, a.cmd.StampMillis
	if a.group != nil {
		event.Group, event.Epoch = a.group.Name, a.group.Epoch
	}
	event.Text = clip(event.Text)
	a.NextEvent++
	a.result.Events = append(a.result.Events, event)
}

func (g *Group) kvAddr(node smr.NodeID) string {
	if r := g.Replica(node); r != nil {
		return r.KVAddr
	}
	return ""
}

func describe(c smr.Config) string {
	text := fmt.Sprintf("epoch %d, master %s, copies %d, members", c.Epoch, c.Master, c.Copies)
	for _, m := range c.Members {
		text += " " + string(m.Node)
	}
	return text
}

// clip cuts text to MaxText bytes of whole, valid characters.
func clip(text string) string {
	if len(text) <= MaxText && utf8.ValidString(text) {
		return text
	}
	clipped := make([]byte, 0, min(len(text), MaxText))
	for _, char := range text { // an invalid byte comes out as U+FFFD
		if len(clipped)+utf8.RuneLen(char) > MaxText {
			break
		}
		clipped = utf8.AppendRune(clipped, char)
	}
	return string(clipped)
}

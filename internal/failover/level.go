package failover

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"lockstep/smr"
)

// levelTicks is how lately another confmaster must have said what it can (3 s): it opines each second at least.
const levelTicks = 300

// The feature level of the cluster. Every cluster begins at 1; it is raised when all processes can more, and never lowered.
type (
	// RaiseLevel raises it. A confmaster that cannot To must end when it has applied this, and apply nothing behind it: it may not
	// understand that. So that it understands at least this, the encoding never changes, whatever FormatVersion later ones have.
	RaiseLevel struct {
		From int // the level that was seen
		To   int // above From
		By   string
	}
	// RaiseRequest of an operator.
	RaiseRequest struct {
		To     int    // 0: as high as all can
		Seen   int    // level that the operator saw, 0: whatever it is
		By     string // who asks
		DryRun bool   // say whether it would be done
	}
	// LevelReport says what the processes of the cluster can.
	LevelReport struct {
		Level     int // the cluster's
		Possible  int // to which it can be raised now; Level if it cannot
		Processes []ProcessLevel
	}
	// ProcessLevel is what is known of a process.
	ProcessLevel struct {
		Kind       ProcessKind
		Confmaster uint64     // of ProcessConfmaster
		Group      string     // of the others
		Node       smr.NodeID // of the others
		Highest    int        // level that it can, as it said last; 0: it has not
		Problem    string     // why what it can now is not known, "" if it is
	}
	// ProcessKind says what a process is.
	ProcessKind string
)

// Kinds of processes.
const (
	ProcessConfmaster ProcessKind = "confmaster"
	ProcessReplicator ProcessKind = "replicator"
	ProcessKVNode     ProcessKind = "kvnode"
)

// errRaised: the level is not the one that was seen.
var errRaised = errors.New("the feature level was raised meanwhile")

// FeatureLevel returns the level of the cluster: 1 in a State of before there were levels.
func (s *State) FeatureLevel() int { return max(1, s.Level) }

// StateLevel returns the level of an encoded State without reading anything else of it: a confmaster that cannot that level must not
// try to understand the rest. Like the encoding of RaiseLevel the field never changes.
func StateLevel(b []byte) (int, error) {
	var encoded struct{ Level int }
	if len(b) > MaxState {
		return 0, fmt.Errorf("decode the level of a state: %d bytes, at most %d are possible", len(b), MaxState)
	}
	if err := json.Unmarshal(b, &encoded); err != nil {
		return 0, fmt.Errorf("decode the level of a state: %w", err)
	}
	return max(1, encoded.Level), nil
}

func (c *RaiseLevel) check() error {
	if c.From < 1 || c.To <= c.From || c.To > smr.MaxLevel {
		return fmt.Errorf("feature level %d in place of %d: 1 <= from < to <= %d must hold", c.To, c.From, smr.MaxLevel)
	}
	return checkEvidence(c.By, nil)
}

func (a *applying) raiseLevel(c *RaiseLevel) error {
	if level := a.FeatureLevel(); c.From != level {
		return fmt.Errorf("%w: it is %d, you saw %d: look at it again", errRaised, level, c.From)
	}
	a.Level = c.To
	text := fmt.Sprintf("feature level %d in place of %d: all processes support it; none that does not is let in from now on", c.To, c.From)
	if c.By != "" {
		text += " (" + c.By + ")"
	}
	a.log(WorkEntry{Kind: EntryLevel, Reason: text})
	a.event(Event{Name: EventLevel, Text: text})
	return nil
}

// Levels tells what every process can: all confmasters, and replicator and KV node of every registered replica. Only the leader
// knows of other confmasters.
func (d *Driver) Levels() LevelReport {
	report := LevelReport{Level: d.state.FeatureLevel()}
	for _, voter := range d.o.Voters {
		report.Processes = append(report.Processes, d.confmasterLevel(voter))
	}
	for _, r := range d.replicas {
		report.Processes = append(report.Processes, d.replicaLevels(r)...)
	}
	report.Possible = smr.MaxLevel
	for _, p := range report.Processes {
		if p.Problem != "" {
			report.Possible = report.Level
		}
		report.Possible = max(report.Level, min(report.Possible, p.Highest))
	}
	return report
}

func (d *Driver) confmasterLevel(voter uint64) ProcessLevel {
	p := ProcessLevel{Kind: ProcessConfmaster, Confmaster: voter}
	if voter == d.o.Self {
		p.Highest = max(1, d.o.Level)
		return p
	}
	p.Problem = "it has not said what it can since this leader was elected"
	for i := range d.peers {
		if other := &d.peers[i]; other.from == voter {
			p.Highest, p.Problem = max(1, other.level), ""
			if silent := d.ticks - other.tick; silent >= levelTicks {
				p.Problem = fmt.Sprintf("it has said nothing for %d s", silent*TickMillis/1000)
			}
		}
	}
	return p
}

func (d *Driver) replicaLevels(r *replica) []ProcessLevel {
	replicator := ProcessLevel{Kind: ProcessReplicator, Group: r.group, Node: r.node}
	kv := ProcessLevel{Kind: ProcessKVNode, Group: r.group, Node: r.node}
	if r.seen {
		replicator.Highest = max(1, r.view.Level)
		if r.view.Attached {
			kv.Highest = max(1, r.view.KVLevel)
		}
	}
	why, known := d.opinion(r)
	switch {
	case !known:
		replicator.Problem = "it was not heard of yet"
		kv.Problem = replicator.Problem
	case why != "":
		replicator.Problem = "it is down: " + why
		kv.Problem = "its replicator is down: " + why
	case !r.view.Attached:
		kv.Problem = "it is not attached to its replicator"
	}
	return []ProcessLevel{replicator, kv}
}

// Name is what people call a process.
func (p *ProcessLevel) Name() string {
	switch p.Kind {
	case ProcessConfmaster:
		return fmt.Sprintf("configuration master c%d", p.Confmaster)
	case ProcessReplicator:
		return fmt.Sprintf("replicator of %s/%s", p.Group, p.Node)
	}
	return fmt.Sprintf("KV node of %s/%s", p.Group, p.Node)
}

// hinders returns why the cluster's level cannot become to because of this process, "" if it can.
func (p *ProcessLevel) hinders(to int) string {
	switch {
	case p.Problem != "":
		return p.Name() + ": " + p.Problem
	case p.Highest < to:
		return fmt.Sprintf("%s supports level %d at most", p.Name(), p.Highest)
	}
	return ""
}

// requestRaise raises the level, if every process is there and can it.
func (d *Driver) requestRaise(q *request, c *RaiseRequest, out *Effects) {
	report := d.Levels()
	to := c.To
	if to == 0 {
		to = max(report.Possible, report.Level+1) // what hinders the next level is to be told
	}
	reply, most := Reply{}, report.Level
	for i := range report.Processes {
		if why := report.Processes[i].hinders(to); why != "" {
			reply.Checks = append(reply.Checks, clip(why))
		}
		most = max(most, report.Processes[i].Highest)
	}
	switch {
	case c.Seen != 0 && c.Seen != report.Level:
		reply.Stale = true
		reply.Text = fmt.Sprintf("%v: it is %d, you saw %d: look at it again", errRaised, report.Level, c.Seen)
	case c.To != 0 && c.To < report.Level:
		reply.Text = fmt.Sprintf("the cluster's feature level is %d: it is never lowered", report.Level)
	case c.To == report.Level || c.To == 0 && most == report.Level:
		reply.Done, reply.Text = true, fmt.Sprintf("the cluster's feature level is %d already", report.Level)
	case to > smr.MaxLevel:
		reply.Text = fmt.Sprintf("there is no feature level %d: levels go up to %d", to, smr.MaxLevel)
	case len(reply.Checks) > 0:
		reply.Text = fmt.Sprintf("the feature level cannot become %d now. Every process must be up and support it; upgrade or start these, or remove their replicas:", to)
	case c.DryRun:
		reply.Done, reply.Text = true, fmt.Sprintf("the feature level would become %d in place of %d; nothing was changed", to, report.Level)
	}
	if reply.Text != "" {
		if reply.Done {
			reply.Checks = nil
		}
		q.reply(out, reply)
		return
	}
	q.change = true
	q.command = d.send(Command{RaiseLevel: &RaiseLevel{From: report.Level, To: to, By: clip(strings.TrimSpace(c.By))}}, out)
	d.requests = append(d.requests, q)
}

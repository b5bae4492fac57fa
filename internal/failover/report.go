package failover

import (
	"fmt"
	"strings"

	"lockstep/smr"
)

// Report says how a group is doing. On a confmaster that does not lead it knows less of the plans.
func (d *Driver) Report(group string) GroupReport {
	g := d.state.Group(group)
	if g == nil {
		return GroupReport{State: "unknown", Detail: fmt.Sprintf("group %q is not known", group)}
	}
	p := d.plan(group)
	missing := ""
	if p != nil {
		missing = p.missing
	}
	switch {
	case g.Reign.Epoch == 0:
		report := GroupReport{State: "creating", Detail: missing, Plan: "first election"}
		if g.Epoch == 0 {
			report.Plan = "found the group"
			if report.Detail == "" {
				report.Detail = "waiting for its replicas"
			}
		}
		return report
	case missing != "":
		return GroupReport{State: "unavailable", Detail: missing, Plan: electionPlan(g)}
	case g.Election.Epoch != 0:
		report := GroupReport{State: "electing", Detail: g.Election.Reason, Plan: electionPlan(g)}
		if g.Election.Chosen {
			report.Detail = strings.Join(append([]string{"not established yet"}, d.lacks(g, g.Provisional)...), "; ")
		}
		return report
	}
	report := GroupReport{State: "ok", Master: g.Established.Master}
	if g.Provisional.Epoch != 0 {
		report.Plan = "reconfigure: " + describe(g.Provisional)
	}
	if g.Change.Kind != "" {
		report.Plan = strings.TrimPrefix(report.Plan+"; "+g.Change.describe(), "; ")
	}
	if q := d.switchoverOf(group); q != nil {
		report.Plan = "switch-over"
		if q.target != "" {
			report.Plan += " to " + string(q.target)
		}
	}
	if lacks := d.lacks(g, g.Established); len(lacks) > 0 {
		report.State, report.Detail = "degraded", strings.Join(lacks, "; ")
	}
	if d.refuses(g, g.Established) {
		report.State = "unavailable"
	}
	return report
}

func electionPlan(g *Group) string {
	if g.Election.Epoch == 0 {
		return ""
	}
	plan := fmt.Sprintf("%s election of epoch %d", g.Election.Kind, g.Election.Epoch)
	if g.Election.Chosen {
		plan += fmt.Sprintf(": %s was chosen", g.Reign.Master)
	}
	return plan
}

// refuses reports whether the master is there and has too few slaves to take writes.
func (d *Driver) refuses(g *Group, config smr.Config) bool {
	master := d.replica(g.Name, config.Master)
	return master.seen && !master.suspected && !master.view.Writable
}

// lacks lists what keeps a group with a chosen master from being whole.
func (d *Driver) lacks(g *Group, config smr.Config) []string {
	lacks := make([]string, 0, len(g.Replicas)+2)
	master := d.replica(g.Name, config.Master)
	sees := master.seen && !master.suspected
	if why, known := d.opinion(master); known && why != "" {
		lacks = append(lacks, fmt.Sprintf("master %s: %s", master.node, why))
	}
	if d.refuses(g, config) {
		lacks = append(lacks, fmt.Sprintf("new writes are refused: %d copies are needed", config.Copies))
	}
	if sees && !d.attached(g, master.node) {
		lacks = append(lacks, fmt.Sprintf("master %s has no KV node", master.node))
	}
	if config.Copies < g.Policy.Copies {
		lacks = append(lacks, fmt.Sprintf("%d copies, the policy says %d", config.Copies, g.Policy.Copies))
	}
	for i := range g.Replicas {
		node := g.Replicas[i].Node
		if node == config.Master {
			continue
		}
		r := d.replica(g.Name, node)
		member, isMember := config.Find(node)
		why, known := d.opinion(r)
		switch {
		case known && why != "":
			lacks = append(lacks, fmt.Sprintf("%s: %s", node, why))
		case d.outcast(g, r) != 0:
			lacks = append(lacks, fmt.Sprintf("%s was left out by the forced recovery of epoch %d: its log may hold what the group has lost; set its directory aside and start it anew", node, d.outcast(g, r)))
		case !isMember && g.drained(node):
		case !isMember:
			lacks = append(lacks, fmt.Sprintf("%s is no member", node))
		case sees && !d.streams(g, master, member):
			lacks = append(lacks, fmt.Sprintf("%s does not stream from %s", node, master.node))
		}
	}
	return lacks
}

// Standing returns what this confmaster knows of a replica.
func (d *Driver) Standing(group string, node smr.NodeID) Standing {
	r := d.replica(group, node)
	if r == nil {
		return Standing{Saw: "not registered"}
	}
	why, known := d.opinion(r)
	standing := Standing{Seen: r.seen, View: r.view, SilentTicks: int(d.silence(r)), Up: known && why == "", Saw: why}
	g := d.state.Group(group)
	if p := d.plan(group); p != nil && p.upkept == g.Reign.Epoch && d.up(d.replica(group, g.Reign.Master)) {
		for _, u := range p.upkeep {
			if u.node == node && u.lag.set != 0 {
				standing.LagBytes, standing.LagMillis = u.lag.bytes, d.lagMillis(&u.lag)
			}
		}
	}
	if d.leading {
		standing.Up = known && !r.agreedDown
		if r.agreedDown {
			standing.Saw = d.complaint(r)
		}
	}
	return standing
}

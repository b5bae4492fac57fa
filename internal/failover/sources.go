package failover

import (
	"sort"

	"lockstep/smr"
)

// Source of an image: a KV node that has one.
type Source struct {
	Node smr.NodeID
	Addr string // its admin address
}

// sources returns whom a replica that needs an image asks, in order of preference: slaves before the master, then those
// with the newest image, then by name. Sources that SourceFetches others fetch from, or were sent to, are left out; with
// none left the replica waits for the next order.
func (d *Driver) sources(g *Group, p *plan, r, master *replica) []Source {
	if !r.view.NeedImage {
		return nil
	}
	type offer struct {
		Source
		leads bool
		image smr.LSN
	}
	var offers []offer
	for i := range g.Replicas {
		node := g.Replicas[i].Node
		o := d.replica(g.Name, node)
		if o == r || !d.up(o) || !o.seen || o.view.KVAdminAddr == "" || !d.attached(g, node) || o.view.NeedImage || o.view.Stopped ||
			o.view.Checkpoint == 0 || o.view.Checkpoint < master.view.Start || d.outcast(g, o) != 0 {
			continue
		}
		if d.fetches(g, p, r, o) >= d.o.SourceFetches {
			continue
		}
		offers = append(offers, offer{Source{node, o.view.KVAdminAddr}, node == master.node, o.view.Checkpoint})
	}
	sort.SliceStable(offers, func(i, j int) bool {
		x, y := &offers[i], &offers[j]
		if x.leads != y.leads {
			return !x.leads
		}
		return x.image > y.image
	})
	sources := make([]Source, 0, len(offers))
	for i := range offers {
		sources = append(sources, offers[i].Source)
	}
	if u := p.upkeepOf(r.node); len(sources) > 0 {
		u.source, u.sourceTick = sources[0].Node, d.ticks
	}
	return sources
}

// fetches counts the replicas other than r that fetch an image from o, or were sent to it lately.
func (d *Driver) fetches(g *Group, p *plan, r, o *replica) int {
	count := 0
	for i := range g.Replicas {
		other := d.replica(g.Name, g.Replicas[i].Node)
		if other == r || !other.seen || !d.up(other) || !other.view.NeedImage {
			continue
		}
		u := p.upkeepOf(other.node)
		sent := u.source == o.node && u.sourceTick != 0 && d.ticks-u.sourceTick < uint64(2*d.o.LeadTicks)
		if other.view.ImageFrom == o.view.KVAdminAddr || other.view.ImageFrom == "" && sent {
			count++
		}
	}
	return count
}

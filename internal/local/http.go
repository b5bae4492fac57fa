package local

import "path/filepath"

// The distances of HTTP ports from the first KV port. They are chosen so that clusters whose first ports were reserved
// (ReservePorts) cannot meet each other's.
const (
	httpKVNodes     = 3000
	httpReplicators = 6000
	httpConfmasters = 15000
)

// HTTPAddr is where a process of the cluster answers /metrics, /livez and /readyz; "" for a process that there is not.
func (c *Cluster) HTTPAddr(p Process) string {
	for i, r := range c.Plan.Replicas {
		switch {
		case p.Kind == KindKVNode && p.Node == r.Node:
			return loopback(c.Plan.Port + httpKVNodes + i)
		case p.Kind == KindReplicator && p.Node == r.Node:
			return loopback(c.Plan.Port + httpReplicators + i)
		}
	}
	for i, m := range c.Plan.Confmasters {
		if p.Kind == KindConfmaster && p.Node == m.Name() {
			return loopback(c.Plan.Port + httpConfmasters + i)
		}
	}
	return ""
}

// DrillsDir is where smrctl keeps the reports of drills, which the configuration masters show on their web page.
func (c *Cluster) DrillsDir() string { return filepath.Join(c.Dir, "drills") }

// WebPages lists where the configuration masters show the web page.
func (c *Cluster) WebPages() []string {
	scheme := "http://"
	if c.Plan.TLS {
		scheme = "https://"
	}
	var pages []string
	for _, m := range c.Plan.Confmasters {
		pages = append(pages, scheme+c.HTTPAddr(Process{Kind: KindConfmaster, Node: m.Name()})+"/")
	}
	return pages
}

// httpFlags are the flags that make a process answer there, unless somebody asked for something else.
func (c *Cluster) httpFlags(p Process) []string {
	for _, flag := range c.Extra[p.Kind] {
		if flag == "--http" {
			return nil
		}
	}
	return []string{"--http", c.HTTPAddr(p)}
}

// checkHTTP tries the HTTP ports of the plan, as checkPorts does the others.
func (p Plan) checkHTTP(try func(owner, what, addr string)) {
	c := &Cluster{Plan: p}
	for _, process := range c.listed() {
		try(process.Name, "HTTP port", c.HTTPAddr(process))
	}
}

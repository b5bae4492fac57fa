package confmaster

import (
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"lockstep/internal/failover"
	"lockstep/internal/trust"
	lockstep "lockstep/proto"
)

// failoverPatience is how long SENTINEL FAILOVER waits for a refusal before it answers OK.
const failoverPatience = 200 * time.Millisecond

// sentinelCommand is SENTINEL <subcommand>. Called with mu held.
func (c *sentinelClient) sentinelCommand(args []string) {
	r := &c.reply
	subcommand := strings.ToLower(args[1])
	count := map[string]int{"masters": 2, "master": 3, "replicas": 3, "slaves": 3, "sentinels": 3, "get-master-addr-by-name": 3,
		"ckquorum": 3, "myid": 2, "reset": 3, "failover": 3, "is-master-down-by-addr": 6, "pending-scripts": 2, "flushconfig": 2}
	if want, known := count[subcommand]; known && len(args) != want {
		r.Error(fmt.Sprintf("ERR wrong number of arguments for 'sentinel|%s' command", subcommand))
		return
	}
	v := c.view()
	switch subcommand {
	case "masters":
		r.Array(len(v.groups))
		for i := range v.groups {
			c.masterMap(v, &v.groups[i])
		}
	case "myid":
		r.BulkString(c.sentinel.myID)
	case "reset":
		matches := 0
		for i := range v.groups {
			if ok, err := path.Match(args[2], v.groups[i].name); ok && err == nil {
				matches++
			}
		}
		r.Int(int64(matches))
	case "config":
		c.configCommand(args)
	case "pending-scripts":
		r.Array(0)
	case "flushconfig":
		r.OK()
	case "is-master-down-by-addr":
		c.isMasterDown(v, args)
	case "master", "replicas", "slaves", "sentinels", "get-master-addr-by-name", "ckquorum", "failover":
		c.groupCommand(v, subcommand, args[2])
	case "set", "monitor", "remove", "simulate-failure", "debug", "info-cache":
		r.Error(fmt.Sprintf("ERR SENTINEL %s is not how a Lockstep cluster is changed: use smrctl", strings.ToUpper(subcommand)))
	case "help":
		help(r, "SENTINEL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", "CKQUORUM <master-name>", "CONFIG GET <param>",
			"FAILOVER <master-name>", "GET-MASTER-ADDR-BY-NAME <master-name>", "IS-MASTER-DOWN-BY-ADDR <ip> <port> <epoch> <runid>",
			"MASTER <master-name>", "MASTERS", "MYID", "REPLICAS <master-name>", "RESET <pattern>", "SENTINELS <master-name>", "HELP")
	default:
		r.Error(fmt.Sprintf("ERR unknown subcommand '%.128s'. Try SENTINEL HELP.", args[1]))
	}
}

// groupCommand is a subcommand about one master.
func (c *sentinelClient) groupCommand(v *redisView, subcommand, name string) {
	r := &c.reply
	var g *redisGroup
	for i := range v.groups {
		if v.groups[i].name == name {
			g = &v.groups[i]
		}
	}
	if g == nil || !g.hasOne {
		if subcommand == "get-master-addr-by-name" {
			r.NullArray()
		} else {
			r.Error("ERR No such master with that name")
		}
		return
	}
	switch subcommand {
	case "get-master-addr-by-name":
		r.Array(2)
		r.BulkString(g.master.host)
		r.BulkString(g.master.port)
	case "master":
		c.masterMap(v, g)
	case "replicas", "slaves":
		r.Array(len(g.slaves))
		for i := range g.slaves {
			c.slaveMap(v, g, &g.slaves[i])
		}
	case "sentinels":
		r.Array(len(v.others))
		for i := range v.others {
			c.peerMap(v, &v.others[i])
		}
	case "ckquorum":
		if v.usable >= v.quorum {
			r.Simple(fmt.Sprintf("OK %d usable Sentinels. Quorum and failover authorization can be reached", v.usable))
		} else {
			r.Error(fmt.Sprintf("NOQUORUM %d usable Sentinels. Not enough available Sentinels to reach the specified quorum for this master."+
				" Not enough available Sentinels to reach the majority and authorize a failover", v.usable))
		}
	case "failover":
		c.failover(g)
	}
}

// failover asks for a switch-over, wherever the leader is. As in Redis it goes on behind the reply; what is refused at once
// is told.
func (c *sentinelClient) failover(g *redisGroup) {
	s := c.sentinel
	caller := s.node.config.Keeper.ClientCaller(c.conn)
	if !caller.May(trust.Operator) {
		c.reply.Error("NOPERM a switch-over needs a certificate with the role operator: connect with one, or use smrctl switchover")
		return
	}
	ctx := trust.WithCaller(s.ctx, caller)
	refused := make(chan string, 1)
	s.tasks.Go(func() {
		_, err := s.service.Switchover(ctx, &lockstep.SwitchoverRequest{Group: g.name})
		text := ""
		if err != nil {
			text = status.Convert(err).Message()
			s.node.logger.Warn("switch-over asked for by a Sentinel client", "group", g.name, "error", text)
		}
		refused <- text
	})
	timer := time.NewTimer(failoverPatience)
	defer timer.Stop()
	select {
	case text := <-refused:
		if text != "" {
			c.reply.Error("NOGOODSLAVE " + text)
			return
		}
	case <-timer.C:
	case <-s.node.stopped:
		c.reply.Error("ERR stopping")
		return
	}
	c.reply.OK()
}

func (c *sentinelClient) isMasterDown(v *redisView, args []string) {
	if _, err := strconv.Atoi(args[3]); err != nil {
		c.reply.Error("ERR value is not an integer or out of range")
		return
	}
	down := int64(0)
	for i := range v.groups {
		if m := &v.groups[i].master; m.host == args[2] && m.port == args[3] && m.down {
			down = 1
		}
	}
	c.reply.Array(3)
	c.reply.Int(down)
	c.reply.BulkString("*")
	c.reply.Int(0)
}

func (c *sentinelClient) configCommand(args []string) {
	r := &c.reply
	if len(args) < 3 {
		r.Error("ERR wrong number of arguments for 'sentinel|config' command")
		return
	}
	if !strings.EqualFold(args[2], "get") || len(args) != 4 {
		r.Error("ERR Only SENTINEL CONFIG GET <option> / SET <option> <value> are supported.")
		return
	}
	host, port, _ := net.SplitHostPort(c.sentinel.node.config.SentinelAnnounce)
	if port == "" {
		port = "0"
	}
	all := [][2]string{{"resolve-hostnames", "yes"}, {"announce-hostnames", "yes"}, {"announce-ip", host}, {"announce-port", port},
		{"sentinel-user", ""}, {"sentinel-pass", ""}}
	var found [][2]string
	for _, setting := range all {
		if ok, err := path.Match(strings.ToLower(args[3]), setting[0]); ok && err == nil {
			found = append(found, setting)
		}
	}
	r.Map(len(found))
	for _, setting := range found {
		r.BulkString(setting[0])
		r.BulkString(setting[1])
	}
}

// field writes one field of an instance map.
type fields [][2]string

func (f *fields) add(name string, value any) { *f = append(*f, [2]string{name, fmt.Sprint(value)}) }

func (c *sentinelClient) write(f fields) {
	c.reply.Map(len(f))
	for _, pair := range f {
		c.reply.BulkString(pair[0])
		c.reply.BulkString(pair[1])
	}
}

// instance begins the map of a KV node with the fields that masters and slaves have in common.
func (c *sentinelClient) instance(v *redisView, g *redisGroup, n *redisNode, kind string) fields {
	var f fields
	name := g.name
	if kind == "slave" {
		name = net.JoinHostPort(n.host, n.port)
	}
	f.add("name", name)
	f.add("ip", n.host)
	f.add("port", n.port)
	f.add("runid", runID(c.sentinel.node.config.Cluster, g.name, string(n.node)))
	flags := kind
	if n.down {
		flags = "s_down," + kind + ",disconnected"
	}
	if n.agreed {
		flags = "s_down,o_down," + kind + ",disconnected"
	}
	if kind == "master" && g.electing {
		flags += ",failover_in_progress"
	}
	f.add("flags", flags)
	f.add("link-pending-commands", 0)
	f.add("link-refcount", 1)
	f.add("last-ping-sent", 0)
	f.add("last-ok-ping-reply", n.silent)
	f.add("last-ping-reply", n.silent)
	if n.down {
		f.add("s-down-time", n.downFor)
	}
	if n.agreed {
		f.add("o-down-time", n.downFor)
	}
	f.add("down-after-milliseconds", v.options.SuspectTicks*failover.TickMillis)
	f.add("info-refresh", n.silent)
	f.add("role-reported", kind)
	f.add("role-reported-time", n.silent)
	return f
}

func (c *sentinelClient) masterMap(v *redisView, g *redisGroup) {
	f := c.instance(v, g, &g.master, "master")
	f.add("config-epoch", uint64(g.epoch))
	f.add("num-slaves", len(g.slaves))
	f.add("num-other-sentinels", len(v.others))
	f.add("quorum", v.quorum)
	f.add("failover-timeout", v.options.SwitchTicks*failover.TickMillis)
	f.add("parallel-syncs", max(1, len(g.slaves)))
	c.write(f)
}

func (c *sentinelClient) slaveMap(v *redisView, g *redisGroup, n *redisNode) {
	f := c.instance(v, g, n, "slave")
	linkDown, link := n.downFor, "ok"
	if !n.joined {
		link = "err"
		linkDown = max(linkDown, 1)
	}
	f.add("master-link-down-time", linkDown)
	f.add("master-link-status", link)
	f.add("master-host", g.master.host)
	f.add("master-port", g.master.port)
	f.add("slave-priority", n.priority)
	f.add("slave-repl-offset", uint64(n.applied))
	f.add("replica-announced", 1)
	c.write(f)
}

func (c *sentinelClient) peerMap(v *redisView, p *redisPeer) {
	var f fields
	f.add("name", p.id)
	f.add("ip", p.host)
	f.add("port", p.port)
	f.add("runid", p.id)
	flags := "sentinel"
	if p.down {
		flags = "s_down,sentinel,disconnected"
	}
	f.add("flags", flags)
	f.add("link-pending-commands", 0)
	f.add("link-refcount", 1)
	f.add("last-ping-sent", 0)
	f.add("last-ok-ping-reply", 0)
	f.add("last-ping-reply", 0)
	if p.down {
		f.add("s-down-time", 1)
	}
	f.add("down-after-milliseconds", v.options.SuspectTicks*failover.TickMillis)
	f.add("last-hello-message", 0)
	leader := "?"
	if p.leader {
		leader = p.id
	}
	f.add("voted-leader", leader)
	f.add("voted-leader-epoch", 0)
	c.write(f)
}

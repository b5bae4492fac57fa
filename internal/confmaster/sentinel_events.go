package confmaster

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"lockstep/internal/failover"
)

// maxSubscriptions bounds the channels and patterns of one client.
const maxSubscriptions = 1024

// subscribe is SUBSCRIBE and PSUBSCRIBE. Called with mu held.
func (c *sentinelClient) subscribe(name string, channels []string) {
	list := &c.channels
	if name == "psubscribe" {
		list = &c.patterns
	}
	if c.subscriber == nil {
		if c.subscriber, _ = c.sentinel.node.events.subscribe(0); c.subscriber == nil {
			c.reply.Error("ERR too many subscribers")
			return
		}
		c.tasks.Go(c.sendEvents)
	}
	for _, channel := range channels {
		if !slices.Contains(*list, channel) {
			if len(c.channels)+len(c.patterns) >= maxSubscriptions {
				c.reply.Error(fmt.Sprintf("ERR more than %d subscriptions", maxSubscriptions))
				return
			}
			*list = append(*list, channel)
		}
		c.subscription(name, &channel)
	}
}

// unsubscribe is UNSUBSCRIBE and PUNSUBSCRIBE. Called with mu held.
func (c *sentinelClient) unsubscribe(name string, channels []string) {
	list := &c.channels
	if name == "punsubscribe" {
		list = &c.patterns
	}
	if len(channels) == 0 {
		channels = slices.Clone(*list)
		if len(channels) == 0 {
			c.subscription(name, nil)
		}
	}
	for _, channel := range channels {
		if i := slices.Index(*list, channel); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
		c.subscription(name, &channel)
	}
}

func (c *sentinelClient) subscription(name string, channel *string) {
	c.reply.Push(3)
	c.reply.BulkString(name)
	if channel == nil {
		c.reply.Null()
	} else {
		c.reply.BulkString(*channel)
	}
	c.reply.Int(int64(len(c.channels) + len(c.patterns)))
}

// sendEvents sends what happens to a client that has subscribed to it. A client that is too slow is cut off.
func (c *sentinelClient) sendEvents() {
	defer c.conn.Close()
	for {
		select {
		case <-c.sentinel.node.stopped:
			return
		case n, ok := <-c.subscriber.C:
			if !ok || c.sendMessages(n.messages) != nil {
				return
			}
		}
	}
}

func (c *sentinelClient) sendMessages(messages []message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range messages {
		if slices.Contains(c.channels, m.channel) {
			c.reply.Push(3)
			c.reply.BulkString("message")
			c.reply.BulkString(m.channel)
			c.reply.BulkString(m.text)
		}
		for _, pattern := range c.patterns {
			if ok, err := path.Match(pattern, m.channel); ok && err == nil {
				c.reply.Push(4)
				c.reply.BulkString("pmessage")
				c.reply.BulkString(pattern)
				c.reply.BulkString(m.channel)
				c.reply.BulkString(m.text)
			}
		}
	}
	return c.flush()
}

// sentinelMessages puts an event in the words of Redis Sentinel. The view must already show what the event tells.
func sentinelMessages(e *failover.Event, v *redisView) []message {
	g := v.group(e.Group)
	if g == nil {
		return nil
	}
	master := fmt.Sprintf("master %s %s %s", g.name, g.master.host, g.master.port)
	subject := master
	for i := range g.slaves {
		if s := &g.slaves[i]; s.node == e.Node {
			subject = slaveText(g, s)
		}
	}
	switch e.Name {
	case failover.EventSwitchMaster:
		from, to := addrText(e.FromAddr), addrText(e.ToAddr)
		messages := []message{{"+failover-end", "master " + g.name + " " + from}, {"+switch-master", g.name + " " + from + " " + to}}
		for i := range g.slaves {
			messages = append(messages, message{"+slave", slaveText(g, &g.slaves[i])})
		}
		return messages
	case failover.EventElection:
		return []message{{"+new-epoch", fmt.Sprint(e.Epoch)}, {"+try-failover", master}}
	case failover.EventChosen:
		return []message{{"+elected-leader", master}, {"+selected-slave", subject}}
	case failover.EventReconfigure:
		return []message{{"+new-epoch", fmt.Sprint(e.Epoch)}}
	case failover.EventSuspected:
		return []message{{"+sdown", subject}}
	case failover.EventSuspectedEnd:
		return []message{{"-sdown", subject}}
	case failover.EventAgreedDown:
		return []message{{"+odown", fmt.Sprintf("%s #quorum %d/%d", subject, v.quorum, v.quorum)}}
	case failover.EventAgreedDownEnd:
		return []message{{"-odown", subject}}
	case eventRestarted:
		return []message{{"+reboot", subject}}
	case eventJoined:
		return []message{{"+slave-reconf-done", subject}}
	case eventSentinel:
		id, addr, _ := strings.Cut(e.Text, " ")
		return []message{{"+sentinel", fmt.Sprintf("sentinel %s %s @ %s %s %s", id, addr, g.name, g.master.host, g.master.port)}}
	case eventRoleChange:
		return roleMessages(g, e, subject)
	}
	return nil
}

// roleMessages tells that a replica has another role: "+" if it is the one that it should have.
func roleMessages(g *redisGroup, e *failover.Event, subject string) []message {
	sign, wanted := "-", "slave"
	if g.master.node == e.Node {
		wanted = "master"
	}
	if e.Text == wanted {
		sign = "+"
	}
	messages := []message{{sign + "role-change", subject + " new reported role is " + e.Text}}
	if e.Text == "slave" && wanted == "slave" {
		messages = append(messages, message{"+convert-to-slave", subject})
	}
	return messages
}

// group returns the group of that name, nil if there is none or it has no master that clients could be told of.
func (v *redisView) group(name string) *redisGroup {
	for i := range v.groups {
		if g := &v.groups[i]; g.name == name && g.hasOne {
			return g
		}
	}
	return nil
}

func slaveText(g *redisGroup, s *redisNode) string {
	return fmt.Sprintf("slave %s %s %s @ %s %s %s", net.JoinHostPort(s.host, s.port), s.host, s.port, g.name, g.master.host, g.master.port)
}

// addrText turns host:port into "host port".
func addrText(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return strings.ReplaceAll(addr, ":", " ")
	}
	return host + " " + port
}

package kvnode

import (
	"bytes"
	"strings"
	"sync"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// maxSubscriptions bounds what one connection subscribes to.
const maxSubscriptions = 1 << 20

// Kinds of subscription.
type subscriptionKind int

const (
	toChannels subscriptionKind = iota
	toPatterns
	toShards
	subscriptionKinds
)

// Words of the confirmations.
var (
	subscribeWords   = [subscriptionKinds]string{"subscribe", "psubscribe", "ssubscribe"}
	unsubscribeWords = [subscriptionKinds]string{"unsubscribe", "punsubscribe", "sunsubscribe"}
)

// subscribers are the connections that listen to one channel or pattern.
type subscribers map[*conn]struct{}

// pubsub knows who listens to what on this node. Messages come from the log, from one goroutine: all listeners of all
// nodes get them in the same order.
type pubsub struct {
	mu sync.Mutex
	// by kind and name; of each connection the names are in conn.names
	listeners [subscriptionKinds]map[string]subscribers
}

// names are what a connection listens to, by kind. Guarded by pubsub.mu.
type names [subscriptionKinds]map[string]struct{}

// listening reports whether the connection listens to anything.
func (a *about) listening() bool {
	for i := range a.subscriptions {
		if a.subscriptions[i].Load() > 0 {
			return true
		}
	}
	return false
}

// add subscribes a connection to a name. It reports false if it did before.
func (p *pubsub) add(c *conn, kind subscriptionKind, name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, found := c.names[kind][name]; found {
		return false
	}
	if c.names[kind] == nil {
		c.names[kind] = make(map[string]struct{})
	}
	c.names[kind][name] = struct{}{}
	if p.listeners[kind] == nil {
		p.listeners[kind] = make(map[string]subscribers)
	}
	if p.listeners[kind][name] == nil {
		p.listeners[kind][name] = make(subscribers)
	}
	p.listeners[kind][name][c] = struct{}{}
	c.about.subscriptions[kind].Store(int32(len(c.names[kind])))
	return true
}

// remove ends a subscription. It reports false if there was none.
func (p *pubsub) remove(c *conn, kind subscriptionKind, name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, found := c.names[kind][name]; !found {
		return false
	}
	delete(c.names[kind], name)
	c.about.subscriptions[kind].Store(int32(len(c.names[kind])))
	all := p.listeners[kind]
	delete(all[name], c)
	if len(all[name]) == 0 {
		delete(all, name)
	}
	return true
}

// of returns what a connection listens to.
func (p *pubsub) of(c *conn, kind subscriptionKind) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]string, 0, len(c.names[kind]))
	for name := range c.names[kind] {
		list = append(list, name)
	}
	return list
}

// removeAll ends all subscriptions of a connection that ends or is reset.
func (p *pubsub) removeAll(c *conn) {
	for kind := range subscriptionKinds {
		for _, name := range p.of(c, kind) {
			p.remove(c, kind, name)
		}
	}
}

// matching returns the names of a kind that match a pattern, all if it is nil.
func (p *pubsub) matching(kind subscriptionKind, pattern []byte) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for name := range p.listeners[kind] {
		if pattern == nil || kv.Glob(string(pattern), name) {
			list = append(list, name)
		}
	}
	return list
}

func (p *pubsub) count(kind subscriptionKind, name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.listeners[kind][name])
}

// size returns how many different names of a kind somebody listens to.
func (p *pubsub) size(kind subscriptionKind) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.listeners[kind])
}

// message is one message on its way, encoded once for each protocol.
type message struct {
	words   [][]byte
	encoded [4][]byte
}

func (m *message) in(proto int) []byte {
	if m.encoded[proto] == nil {
		r := resp.Reply{Proto: proto}
		r.Push(len(m.words))
		for _, word := range m.words {
			r.Bulk(word)
		}
		m.encoded[proto] = r.Buf
	}
	return m.encoded[proto]
}

// publish gives a message to all who listen on this node and returns how many they were. It never waits.
func (p *pubsub) publish(channel, text []byte, sharded bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	kind, word := toChannels, "message"
	if sharded {
		kind, word = toShards, "smessage"
	}
	receivers := 0
	if listeners := p.listeners[kind][string(channel)]; len(listeners) > 0 {
		m := message{words: [][]byte{[]byte(word), channel, text}}
		for c := range listeners {
			c.push(m.in(int(c.about.proto.Load())))
			receivers++
		}
	}
	if sharded || len(p.listeners[toPatterns]) == 0 {
		return receivers
	}
	name := string(channel)
	for pattern, listeners := range p.listeners[toPatterns] {
		if !kv.Glob(pattern, name) {
			continue
		}
		m := message{words: [][]byte{[]byte("pmessage"), []byte(pattern), channel, text}}
		for c := range listeners {
			c.push(m.in(int(c.about.proto.Load())))
			receivers++
		}
	}
	return receivers
}

// push sends an out-of-band message, from any goroutine. A client that does not read is cut.
func (c *conn) push(b []byte) {
	if err := c.out.push(b); err != nil && c.disconnect() {
		c.noteCut(err)
	}
}

// Published implements kv.Host.
func (n *Node) Published(channel, text []byte, sharded bool) int {
	return n.shell.pubsub.publish(channel, text, sharded)
}

// Event implements kv.Host: a keyspace event becomes messages to the clients of this node.
func (n *Node) Event(database int, _ kv.EventClass, event, key string) {
	letters, _ := n.machine.Setting("notify-keyspace-events")
	place := "@" + string(appendInt(nil, database)) + "__:"
	if strings.Contains(letters, "K") {
		n.shell.pubsub.publish([]byte("__keyspace"+place+key), []byte(event), false)
	}
	if strings.Contains(letters, "E") {
		n.shell.pubsub.publish([]byte("__keyevent"+place+event), []byte(key), false)
	}
}

// confirm replies what became of a subscription, and how many there are now. name is nil if there was none to end.
func (c *conn) confirm(word string, kind subscriptionKind, name []byte) {
	count := c.about.subscriptions[toChannels].Load() + c.about.subscriptions[toPatterns].Load()
	if kind == toShards {
		count = c.about.subscriptions[toShards].Load()
	}
	c.reply.Push(3)
	c.reply.BulkString(word)
	if name == nil {
		c.reply.Null()
	} else {
		c.reply.Bulk(name)
	}
	c.reply.Int(int64(count))
}

// subscribeTo returns SUBSCRIBE, PSUBSCRIBE or SSUBSCRIBE.
func subscribeTo(kind subscriptionKind) func(c *conn, args [][]byte) {
	return func(c *conn, args [][]byte) {
		for _, name := range args[1:] {
			if c.about.subscriptions[kind].Load() >= maxSubscriptions {
				c.reply.Error("ERR too many subscriptions")
				break
			}
			c.node.shell.pubsub.add(c, kind, string(name))
			c.confirm(subscribeWords[kind], kind, name)
		}
		c.refresh()
	}
}

// unsubscribeFrom returns UNSUBSCRIBE, PUNSUBSCRIBE or SUNSUBSCRIBE: without names from all.
func unsubscribeFrom(kind subscriptionKind) func(c *conn, args [][]byte) {
	return func(c *conn, args [][]byte) {
		p := &c.node.shell.pubsub
		list := args[1:]
		if len(list) == 0 {
			for _, name := range p.of(c, kind) {
				list = append(list, []byte(name))
			}
		}
		for _, name := range list {
			p.remove(c, kind, string(name))
			c.reply.Raw(c.out.takeHeld()) // a message must not come behind the end of its subscription
			c.confirm(unsubscribeWords[kind], kind, name)
		}
		if len(list) == 0 {
			c.confirm(unsubscribeWords[kind], kind, nil)
		}
		c.refresh()
	}
}

// pubsubCommands returns the subcommands of PUBSUB. They tell of the clients of this node.
func pubsubCommands() []localCommand {
	channels := func(kind subscriptionKind) func(c *conn, args [][]byte) {
		return func(c *conn, args [][]byte) {
			if len(args) > 3 {
				c.reply.Error(unknownSubcommand("PUBSUB", args[1]))
				return
			}
			var pattern []byte
			if len(args) == 3 {
				pattern = args[2]
			}
			list := c.node.shell.pubsub.matching(kind, pattern)
			c.reply.Array(len(list))
			for _, name := range list {
				c.reply.BulkString(name)
			}
		}
	}
	counts := func(kind subscriptionKind) func(c *conn, args [][]byte) {
		return func(c *conn, args [][]byte) {
			c.reply.Array(2 * (len(args) - 2))
			for _, name := range args[2:] {
				c.reply.Bulk(name)
				c.reply.Int(int64(c.node.shell.pubsub.count(kind, string(name))))
			}
		}
	}
	return []localCommand{
		{name: "channels", arity: -2, local: channels(toChannels)},
		{name: "help", arity: 2, local: helpWith(pubsubHelp)},
		{name: "numpat", arity: 2, local: func(c *conn, _ [][]byte) { c.reply.Int(int64(c.node.shell.pubsub.size(toPatterns))) }},
		{name: "numsub", arity: -2, local: counts(toChannels)},
		{name: "shardchannels", arity: -2, local: channels(toShards)},
		{name: "shardnumsub", arity: -2, local: counts(toShards)},
	}
}

// unknownSubcommand is Redis' answer to a subcommand with arguments that it does not take.
func unknownSubcommand(container string, name []byte) string {
	return "ERR unknown subcommand or wrong number of arguments for '" + string(bytes.ToValidUTF8(name, nil)) + "'. Try " + container + " HELP."
}

// pingListening is PING of a RESP2 client that listens.
func (c *conn) pingListening(args [][]byte) {
	c.reply.Array(2)
	c.reply.BulkString("pong")
	if len(args) > 1 {
		c.reply.Bulk(args[1])
	} else {
		c.reply.BulkString("")
	}
}

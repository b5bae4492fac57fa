package kvnode

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// trackingMode is what CLIENT TRACKING has set for a connection. Its goroutine owns it; tracked is what others see.
type trackingMode struct {
	on, broadcast, optIn, optOut bool
	noLoop                       bool
	redirect                     int64 // 0: to the connection itself
	prefixes                     []string
	caching                      bool // CLIENT CACHING was the last command
}

// next reports whether the keys that a command reads are to be remembered. CLIENT CACHING is for the next command only, or for
// the whole next transaction.
func (m *trackingMode) next(command *command, queueing bool) bool {
	if command.name == "client|caching" || m.broadcast {
		return false
	}
	remember := !m.optIn && !m.optOut || m.optIn && m.caching || m.optOut && !m.caching
	if command.name != "multi" && (!queueing || command.immediate) {
		m.caching = false
	}
	return remember
}

// tracked is a connection in tracking mode, as the tracker sees it.
type tracked struct {
	conn     *conn
	redirect int64
	noLoop   bool
	prefixes []string // of the broadcast mode, else nil
}

// changedKey is a key that has changed in the frame being executed, and who changed it (nil: nobody here).
type changedKey struct {
	key string
	by  *conn
}

// tracker knows which clients of this node remember which keys, and tells them when those change. As in Redis it does
// not tell databases apart: a client is told of a change of the same name in any.
type tracker struct {
	active atomic.Int32 // connections in tracking mode

	mu      sync.Mutex
	clients map[int64]*tracked
	keys    map[string]map[int64]struct{}
	items   int          // entries in keys
	flushed bool         // everything was removed in this frame
	pending []changedKey // for the clients in broadcast mode, sent at the end of the frame
}

// begin puts a connection into tracking mode, or changes it.
func (t *tracker) begin(c *conn, mode trackingMode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients == nil {
		t.clients, t.keys = make(map[int64]*tracked), make(map[string]map[int64]struct{})
	}
	entry := &tracked{conn: c, redirect: mode.redirect, noLoop: mode.noLoop}
	if mode.broadcast {
		entry.prefixes = mode.prefixes
	}
	t.clients[c.id] = entry
	t.active.Store(int32(len(t.clients)))
}

// end takes a connection out. What it remembers is forgotten when it changes.
func (t *tracker) end(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.clients, c.id)
	t.active.Store(int32(len(t.clients)))
	if len(t.clients) == 0 {
		clear(t.keys)
		t.items, t.pending = 0, nil
	}
}

// remember notes that a client has read keys. The caller holds the machine: nobody changes them meanwhile.
func (t *tracker) remember(n *Node, id int64, uses []kv.KeyUse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients[id] == nil {
		return
	}
	for _, use := range uses {
		ids := t.keys[string(use.Key)]
		if ids == nil {
			ids = make(map[int64]struct{})
			t.keys[string(use.Key)] = ids
		}
		if _, found := ids[id]; !found {
			ids[id] = struct{}{}
			t.items++
		}
	}
	limit := int(n.settings.trackedKeys.Load())
	for key := range t.keys { // any: as Redis, which takes them at random
		if limit == 0 || len(t.keys) <= limit {
			break
		}
		t.invalidate(n, key, nil)
	}
}

// invalidate tells all who remember a key that it has changed, and forgets it. Called with mu held.
func (t *tracker) invalidate(n *Node, key string, by *conn) {
	ids, found := t.keys[key]
	if !found {
		return
	}
	delete(t.keys, key)
	t.items -= len(ids)
	for id := range ids {
		if client := t.clients[id]; client != nil && client.prefixes == nil && !(client.noLoop && client.conn == by) {
			n.sendInvalid(client, []string{key})
		}
	}
}

// flush tells the clients in broadcast mode what has changed in this frame. Called at the end of every frame.
func (t *tracker) flush(n *Node) {
	if t.active.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	pending, flushed := t.pending, t.flushed
	t.pending, t.flushed = nil, false
	for _, client := range t.clients {
		if flushed {
			n.sendInvalid(client, nil)
		}
	}
	if len(pending) == 0 {
		return
	}
	for _, client := range t.clients {
		var keys []string
		for _, prefix := range client.prefixes {
			for _, changed := range pending {
				if strings.HasPrefix(changed.key, prefix) && !(client.noLoop && client.conn == changed.by) && !slices.Contains(keys, changed.key) {
					keys = append(keys, changed.key)
				}
			}
		}
		if len(keys) > 0 {
			n.sendInvalid(client, keys)
		}
	}
}

// maxPendingKeys bounds the keys that are gathered for the clients in broadcast mode.
const maxPendingKeys = 256

// Changed implements kv.Host.
func (n *Node) Changed(_ int, key string) {
	t := &n.shell.tracker
	if t.active.Load() == 0 {
		return
	}
	key = strings.Clone(key) // it is kept until the end of the frame
	t.mu.Lock()
	t.invalidate(n, key, n.shell.acting)
	last := len(t.pending) - 1
	if last < 0 || t.pending[last] != (changedKey{key, n.shell.acting}) {
		t.pending = append(t.pending, changedKey{key, n.shell.acting})
	}
	full := len(t.pending) >= maxPendingKeys
	t.mu.Unlock()
	if full {
		t.flush(n)
	}
}

// Flushed implements kv.Host: all clients are told to forget everything, once for all databases.
func (n *Node) Flushed(int) {
	t := &n.shell.tracker
	if t.active.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.keys)
	t.items, t.pending, t.flushed = 0, nil, true
}

// invalidChannel is where RESP2 clients listen for what has become invalid.
const invalidChannel = "__redis__:invalidate"

// sendInvalid tells one client of keys that have changed; nil stands for all keys. Called with the tracker's mu held.
func (n *Node) sendInvalid(client *tracked, keys []string) {
	to := client.conn
	if client.redirect != 0 {
		if to = n.clients.get(client.redirect); to == nil {
			client.conn.about.brokenRedirect.Store(true)
			if client.conn.about.proto.Load() == 3 {
				r := resp.Reply{Proto: 3}
				r.Push(2)
				r.BulkString("tracking-redir-broken")
				r.Int(client.redirect)
				client.conn.push(r.Buf)
			}
			return
		}
	}
	r := resp.Reply{Proto: int(to.about.proto.Load())}
	switch {
	case r.Proto == 3:
		r.Push(2)
		r.BulkString("invalidate")
	case client.redirect != 0 && to.about.listening():
		r.Push(3)
		r.BulkString("message")
		r.BulkString(invalidChannel)
	default:
		return // RESP2 knows no messages but those of subscriptions
	}
	if keys == nil {
		r.Null()
	} else {
		r.Array(len(keys))
		for _, key := range keys {
			r.BulkString(key)
		}
	}
	to.push(r.Buf)
}

// rememberReads notes the keys that an operation has read. The caller holds the machine.
func (c *conn) rememberReads(o *op) {
	remember := func(command *command, args [][]byte) {
		if command.machine == nil || command.machine.Flags&kv.Readonly == 0 {
			return
		}
		if uses, ok := kv.KeyUses(command.name, args, nil); ok && len(uses) > 0 {
			c.node.shell.tracker.remember(c.node, c.id, uses)
		}
	}
	if o.queue == nil {
		remember(o.command, o.args)
		return
	}
	for _, q := range o.queue.commands {
		if q.command.acceptsArgs(len(q.args)) {
			remember(q.command, q.args)
		}
	}
}

// clientTracking is CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX prefix ...] [BCAST] [OPTIN] [OPTOUT] [NOLOOP].
func clientTracking(c *conn, args [][]byte) {
	var mode trackingMode
	redirected := false
	for i := 3; i < len(args); i++ {
		more := i+1 < len(args)
		switch {
		case isWord(args[i], "redirect") && more:
			i++
			if redirected {
				c.reply.Error("ERR A client can only redirect to a single other client")
				return
			}
			id, ok := resp.ParseInt(args[i])
			if !ok {
				c.reply.Error(errInteger)
				return
			}
			if c.node.clients.get(id) == nil {
				c.reply.Error("ERR The client ID you want redirect to does not exist")
				return
			}
			mode.redirect, redirected = id, id != 0
		case isWord(args[i], "bcast"):
			mode.broadcast = true
		case isWord(args[i], "optin"):
			mode.optIn = true
		case isWord(args[i], "optout"):
			mode.optOut = true
		case isWord(args[i], "noloop"):
			mode.noLoop = true
		case isWord(args[i], "prefix") && more:
			i++
			mode.prefixes = append(mode.prefixes, string(args[i]))
		default:
			c.reply.Error(errSyntax)
			return
		}
	}
	switch {
	case isWord(args[2], "off"):
		c.endTracking()
	case !isWord(args[2], "on"):
		c.reply.Error(errSyntax)
		return
	default:
		if problem := c.standing.tracking.checkChange(&mode); problem != "" {
			c.reply.Error(problem)
			return
		}
		c.beginTracking(mode)
	}
	c.reply.OK()
}

// checkChange says why a mode cannot follow this one.
func (m *trackingMode) checkChange(to *trackingMode) string {
	switch {
	case !to.broadcast && len(to.prefixes) > 0:
		return "ERR PREFIX option requires BCAST mode to be enabled"
	case m.on && m.broadcast != to.broadcast:
		return "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode."
	case to.broadcast && (to.optIn || to.optOut):
		return "ERR OPTIN and OPTOUT are not compatible with BCAST"
	case to.optIn && to.optOut:
		return "ERR You can't specify both OPTIN mode and OPTOUT mode"
	case to.optIn && m.optOut, to.optOut && m.optIn:
		return "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode."
	}
	overlap := func(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }
	for i, prefix := range to.prefixes {
		for _, old := range m.prefixes {
			if overlap(prefix, old) {
				return "ERR Prefix '" + prefix + "' overlaps with an existing prefix '" + old + "'. Prefixes for a single client must not overlap."
			}
		}
		for _, other := range to.prefixes[i+1:] {
			if overlap(prefix, other) {
				return "ERR Prefix '" + prefix + "' overlaps with another provided prefix '" + other + "'. Prefixes for a single client must not overlap."
			}
		}
	}
	return ""
}

func (c *conn) beginTracking(mode trackingMode) {
	mode.on = true
	mode.prefixes = append(slices.Clone(c.standing.tracking.prefixes), mode.prefixes...)
	if mode.broadcast && len(mode.prefixes) == 0 {
		mode.prefixes = []string{""}
	}
	c.standing.tracking = mode
	c.about.brokenRedirect.Store(false)
	c.about.redirect.Store(mode.redirect)
	c.about.tracking.Store(true)
	c.about.broadcast.Store(mode.broadcast)
	c.node.shell.tracker.begin(c, mode)
	c.refresh()
}

// endTracking takes the connection out of tracking mode.
func (c *conn) endTracking() {
	if !c.standing.tracking.on {
		return
	}
	c.standing.tracking = trackingMode{}
	c.about.tracking.Store(false)
	c.about.broadcast.Store(false)
	c.about.brokenRedirect.Store(false)
	c.about.redirect.Store(0)
	c.node.shell.tracker.end(c)
	c.refresh()
}

// clientCaching is CLIENT CACHING YES|NO.
func clientCaching(c *conn, args [][]byte) {
	mode := &c.standing.tracking
	switch yes := isWord(args[2], "yes"); {
	case !mode.on:
		c.reply.Error("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled")
		return
	case !yes && !isWord(args[2], "no"):
		c.reply.Error(errSyntax)
		return
	case yes && !mode.optIn:
		c.reply.Error("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
		return
	case !yes && !mode.optOut:
		c.reply.Error("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
		return
	}
	mode.caching = true
	c.reply.OK()
}

func clientGetRedir(c *conn, _ [][]byte) {
	if !c.standing.tracking.on {
		c.reply.Int(-1)
		return
	}
	c.reply.Int(c.standing.tracking.redirect)
}

func clientTrackingInfo(c *conn, _ [][]byte) {
	m := &c.standing.tracking
	var flags []string
	add := func(set bool, words ...string) {
		if set {
			flags = append(flags, words...)
		}
	}
	add(!m.on, "off")
	add(m.on, "on")
	add(m.broadcast, "bcast")
	add(m.optIn, "optin")
	add(m.optIn && m.caching, "caching-yes")
	add(m.optOut, "optout")
	add(m.optOut && m.caching, "caching-no")
	add(m.noLoop, "noloop")
	add(c.about.brokenRedirect.Load(), "broken_redirect")
	r := &c.reply
	r.Map(3)
	r.BulkString("flags")
	r.Set(len(flags))
	for _, flag := range flags {
		r.BulkString(flag)
	}
	r.BulkString("redirect")
	clientGetRedir(c, nil)
	r.BulkString("prefixes")
	r.Array(len(m.prefixes))
	for _, prefix := range slices.Sorted(slices.Values(m.prefixes)) { // as Redis has them
		r.BulkString(prefix)
	}
}

// Totals for INFO.
func (t *tracker) totals() (keys, items, prefixes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, client := range t.clients {
		prefixes += len(client.prefixes)
	}
	return len(t.keys), t.items, prefixes
}

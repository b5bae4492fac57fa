package confmaster

import (
	"context"
	"crypto/sha1" // #nosec G505 -- a name of 40 digits as Redis has it, of nothing secret
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/failover"
	"lockstep/internal/pause"
	"lockstep/internal/resp"
	"lockstep/smr"
)

const (
	// maxSentinelClients bounds the clients of the Sentinel port.
	maxSentinelClients = 4096
	// sentinelWrite is how long a client may take to read what was sent to it; sentinelIdle how long an unfinished
	// request may take.
	sentinelWrite = 5 * time.Second
	sentinelIdle  = 10 * time.Second
	// maxEcho bounds what an error repeats of a request, as in Redis.
	maxEcho = 128
	// redisVersion is what clients gate their features on.
	redisVersion = "7.0.15"
)

// redisView is what Sentinel clients see, made anew by the loop; nothing in it is changed afterwards.
type redisView struct {
	groups  []redisGroup
	quorum  int // majority of the configuration masters
	usable  int // configuration masters that are up
	options failover.Options
	others  []redisPeer // the other configuration masters
}

type redisGroup struct {
	name     string
	epoch    smr.Epoch
	master   redisNode
	hasOne   bool // a master was established, and its address is known
	electing bool
	slaves   []redisNode
}

type redisNode struct {
	node     smr.NodeID
	host     string
	port     string
	down     bool  // this configuration master thinks so: s_down
	agreed   bool  // of a master: a majority thinks so: o_down
	silent   int64 // ms since it was last heard of
	downFor  int64 // ms
	role     smr.Role
	applied  smr.LSN
	joined   bool
	priority int
}

type redisPeer struct {
	id     string
	host   string
	port   string
	down   bool
	leader bool
}

// redisView makes the view of Sentinel clients from State and Driver.
func (n *node) redisView(confmasters []redisPeer, usable int) *redisView {
	v := &redisView{quorum: len(n.config.Peers)/2 + 1, usable: usable, options: n.driver.Options(), others: confmasters}
	for i := range n.state.Groups {
		g := &n.state.Groups[i]
		// Until the next master is established clients are told of the last one, as Redis Sentinel does.
		out := redisGroup{name: g.Name, epoch: g.Epoch, hasOne: g.Established.Epoch > 1, electing: g.Election.Epoch != 0}
		for j := range g.Replicas {
			r := n.redisNode(g, &g.Replicas[j])
			if g.Replicas[j].Node == g.Established.Master {
				out.master = r
			} else {
				out.slaves = append(out.slaves, r)
			}
		}
		out.hasOne = out.hasOne && out.master.host != ""
		v.groups = append(v.groups, out)
	}
	return v
}

func (n *node) redisNode(g *failover.Group, r *failover.Replica) redisNode {
	standing := n.driver.Standing(g.Name, r.Node)
	addr := r.KVAddr
	if addr == "" {
		addr = standing.View.KVAddr // not registered: as its KV node says
	}
	out := redisNode{node: r.Node, silent: int64(standing.SilentTicks) * failover.TickMillis, role: standing.View.Role,
		applied: standing.View.Applied, joined: standing.View.Joined, priority: max(1, 100-r.Preference)}
	out.host, out.port, _ = net.SplitHostPort(addr)
	isMaster := r.Node == g.Established.Master
	switch {
	case standing.Saw != "":
		out.down, out.downFor = true, out.silent
		// A majority agrees: the leader counts it, the others see the election that it begins.
		out.agreed = isMaster && (n.driver.Leading() && !standing.Up || g.Election.Kind == failover.ElectionFailover)
	case standing.Seen && !standing.View.Attached:
		out.down = true // no KV node to talk to
	}
	return out
}

// runID returns 40 hex digits that stand for an instance.
func runID(parts ...string) string {
	sum := sha1.Sum([]byte(strings.Join(parts, "/"))) // #nosec G401 -- a name of 40 digits as Redis has it, of nothing secret
	return hex.EncodeToString(sum[:])
}

// sentinel serves the Sentinel protocol from the views and events of a node.
type sentinel struct {
	node    *node
	myID    string
	service *service // as gRPC serves it: FAILOVER passes on to the leader
	started time.Time

	clients  atomic.Int64 // connected
	lastID   atomic.Int64
	commands atomic.Int64 // carried out
	refused  atomic.Int64 // connections above the limit

	ctx   context.Context // of serve
	tasks sync.WaitGroup

	mu   sync.Mutex
	open map[*sentinelClient]struct{}
}

func newSentinel(n *node, s *service) *sentinel {
	return &sentinel{node: n, service: s, myID: sentinelID(n.config.Cluster, n.config.ID), started: time.Now(), open: make(map[*sentinelClient]struct{})}
}

func sentinelID(cluster string, id uint64) string {
	return runID(cluster, "confmaster", strconv.FormatUint(id, 10))
}

// serve accepts clients until ctx ends.
func (s *sentinel) serve(ctx context.Context, listeners []net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		for _, listener := range listeners {
			listener.Close()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.open { // each is only closed: the order does not matter
			c.conn.Close()
		}
	})
	defer stop()
	s.ctx = ctx
	defer s.tasks.Wait()
	for _, listener := range listeners {
		s.tasks.Go(func() { s.accept(ctx, listener) })
	}
	return nil
}

// accept takes the clients of one port until ctx ends.
func (s *sentinel) accept(ctx context.Context, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			s.node.logger.Warn("accept a Sentinel client", "error", err)
			pause.For(ctx, 50*time.Millisecond)
			continue
		}
		s.tasks.Go(func() { s.client(ctx, conn) })
	}
}

// sentinelClient is one connection. Its goroutine reads requests; while it is subscribed a second one sends events.
type sentinelClient struct {
	sentinel *sentinel
	conn     net.Conn
	id       int64
	began    time.Time
	face     face

	mu       sync.Mutex // guards what follows, and writing to conn
	reply    resp.Reply
	name     string
	silent   bool // CLIENT REPLY OFF
	skip     bool // CLIENT REPLY SKIP: not the next reply
	channels []string
	patterns []string

	subscriber *subscriber
	tasks      sync.WaitGroup
}

// sentinelLimits bound a request: many channels may be named in one, but nothing here is long.
var sentinelLimits = resp.Limits{Args: 2 * maxSubscriptions, Bulk: 16 << 10, Inline: 64 << 10, Query: 1 << 20, Trusted: true}

var errQuit = errors.New("the client leaves")

func (s *sentinel) client(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	if s.clients.Add(1) > maxSentinelClients {
		s.clients.Add(-1)
		s.refused.Add(1)
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte("-ERR max number of clients reached\r\n"))
		return
	}
	defer s.clients.Add(-1)
	c := &sentinelClient{sentinel: s, conn: conn, id: s.lastID.Add(1), began: time.Now(), reply: resp.Reply{Proto: 2}}
	c.face.show(c, "NULL")
	s.mu.Lock()
	s.open[c] = struct{}{}
	s.mu.Unlock()
	if ctx.Err() == nil {
		c.read()
	}
	conn.Close()
	if c.subscriber != nil {
		c.subscriber.leave()
	}
	c.tasks.Wait()
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
}

// read takes requests until the connection ends.
func (c *sentinelClient) read() {
	parser := resp.NewParser(sentinelLimits)
	buffer := make([]byte, 0, 4096)
	for {
		if len(buffer) > 0 {
			c.conn.SetReadDeadline(time.Now().Add(sentinelIdle))
		} else {
			c.conn.SetReadDeadline(time.Time{})
		}
		buffer = slices.Grow(buffer, 1024)
		n, err := c.conn.Read(buffer[len(buffer):cap(buffer)])
		if err != nil {
			return
		}
		buffer = buffer[:len(buffer)+n]
		rest := buffer
		for {
			args, used, err := parser.Next(rest)
			if err != nil {
				c.mu.Lock()
				c.reply.Error(err.Error())
				_ = c.flush()
				c.mu.Unlock()
				return
			}
			if used == 0 {
				break
			}
			if len(args) > 0 && c.request(args) != nil {
				return
			}
			rest = rest[used:]
		}
		buffer = append(buffer[:0], rest...)
	}
}

// request carries out one request and writes its reply.
func (c *sentinelClient) request(args [][]byte) error {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = string(a)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sentinel.commands.Add(1)
	before := len(c.reply.Buf)
	skip := c.skip
	err := c.command(words)
	if c.silent || skip {
		c.reply.Buf = c.reply.Buf[:before]
		c.skip = c.skip && !skip
	}
	c.face.show(c, strings.ToLower(words[0]))
	return errors.Join(err, c.flush())
}

// flush sends what is in reply. Called with mu held.
func (c *sentinelClient) flush() error {
	if len(c.reply.Buf) == 0 {
		return nil
	}
	c.conn.SetWriteDeadline(time.Now().Add(sentinelWrite))
	_, err := c.conn.Write(c.reply.Buf)
	c.reply.Reset()
	return err
}

// command writes the reply to one command. Called with mu held.
func (c *sentinelClient) command(args []string) error {
	r := &c.reply
	name := strings.ToLower(args[0])
	arity := func(low, high int) bool {
		if len(args) < low || high > 0 && len(args) > high {
			r.Error(fmt.Sprintf("ERR wrong number of arguments for '%s' command", name))
			return false
		}
		return true
	}
	switch name {
	case "ping":
		if arity(1, 2) {
			c.ping(args)
		}
	case "info":
		r.Verbatim("txt", c.info(args[1:]))
	case "role":
		if arity(1, 1) {
			r.Array(2)
			r.BulkString("sentinel")
			groups := c.view().groups
			r.Array(len(groups))
			for _, g := range groups {
				r.BulkString(g.name)
			}
		}
	case "hello":
		c.hello(args)
	case "auth":
		if arity(2, 0) {
			c.auth(args)
		}
	case "client":
		if arity(2, 0) {
			c.clientCommand(args)
		}
	case "command":
		c.commandCommand(args)
	case "sentinel":
		if arity(2, 0) {
			c.sentinelCommand(args)
		}
	case "subscribe", "psubscribe":
		if arity(2, 0) {
			c.subscribe(name, args[1:])
		}
	case "unsubscribe", "punsubscribe":
		c.unsubscribe(name, args[1:])
	case "publish":
		if arity(3, 3) {
			if args[1] != "__sentinel__:hello" {
				r.Error("ERR Only HELLO messages are accepted by Sentinel instances.")
			} else {
				r.Int(1)
			}
		}
	case "acl":
		if arity(2, 0) {
			c.acl(args)
		}
	case "quit":
		r.OK()
		_ = c.flush()
		return errQuit
	default:
		r.Error(unknownCommand(args))
	}
	return nil
}

func unknownCommand(args []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "ERR unknown command '%.*s', with args beginning with: ", maxEcho, args[0])
	echoed := 0
	for _, a := range args[1:] {
		if echoed >= maxEcho {
			break
		}
		before := b.Len()
		fmt.Fprintf(&b, "'%.*s' ", maxEcho-echoed, a)
		echoed += b.Len() - before
	}
	return b.String()
}

func (c *sentinelClient) view() *redisView { return c.sentinel.node.redis.Load() }

func (c *sentinelClient) ping(args []string) {
	r := &c.reply
	text := ""
	if len(args) == 2 {
		text = args[1]
	}
	switch {
	case r.Proto < 3 && len(c.channels)+len(c.patterns) > 0:
		r.Array(2)
		r.BulkString("pong")
		r.BulkString(text)
	case text != "":
		r.BulkString(text)
	default:
		r.Simple("PONG")
	}
}

// hello negotiates the protocol version.
func (c *sentinelClient) hello(args []string) {
	r := &c.reply
	proto, name := r.Proto, c.name
	if len(args) > 1 {
		version, err := strconv.ParseInt(args[1], 10, 64)
		switch {
		case err != nil:
			r.Error("ERR Protocol version is not an integer or out of range")
			return
		case version < 2 || version > 3:
			r.Error("NOPROTO unsupported protocol version")
			return
		}
		proto = int(version)
	}
	for i := 2; i < len(args); i++ {
		switch option := strings.ToLower(args[i]); {
		case option == "auth" && i+2 < len(args):
			if args[i+1] != "default" {
				r.Error("WRONGPASS invalid username-password pair or user is disabled.")
				return
			}
			i += 2
		case option == "setname" && i+1 < len(args):
			name = args[i+1]
			if !validName(name) {
				r.Error("ERR Client names cannot contain spaces, newlines or special characters.")
				return
			}
			i++
		default:
			r.Error(fmt.Sprintf("ERR Syntax error in HELLO option '%s'", args[i]))
			return
		}
	}
	r.Proto, c.name = proto, name
	r.Map(6)
	r.BulkString("server")
	r.BulkString("redis")
	r.BulkString("version")
	r.BulkString(redisVersion)
	r.BulkString("proto")
	r.Int(int64(proto))
	r.BulkString("id")
	r.Int(c.id)
	r.BulkString("mode")
	r.BulkString("sentinel")
	r.BulkString("modules")
	r.Array(0)
}

func validName(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return r < '!' || r > '~' })
}

func (c *sentinelClient) auth(args []string) {
	switch {
	case len(args) > 3:
		c.reply.Error("ERR syntax error")
	case len(args) == 2:
		c.reply.Error("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
	case args[1] != "default":
		c.reply.Error("WRONGPASS invalid username-password pair or user is disabled.")
	default:
		c.reply.OK()
	}
}

func (c *sentinelClient) acl(args []string) {
	switch strings.ToLower(args[1]) {
	case "whoami":
		c.reply.BulkString("default")
	case "users":
		c.reply.Array(1)
		c.reply.BulkString("default")
	default:
		c.reply.Error(fmt.Sprintf("ERR unknown subcommand '%.128s'. Try ACL HELP.", args[1]))
	}
}

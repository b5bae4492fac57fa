package confmaster

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/resp"
)

// clientCommand is CLIENT <subcommand>. Called with mu held.
func (c *sentinelClient) clientCommand(args []string) {
	r := &c.reply
	subcommand := strings.ToLower(args[1])
	switch {
	case subcommand == "id" && len(args) == 2:
		r.Int(c.id)
	case subcommand == "getname" && len(args) == 2:
		if c.name == "" {
			r.Null()
		} else {
			r.BulkString(c.name)
		}
	case subcommand == "setname" && len(args) == 3:
		if !validName(args[2]) {
			r.Error("ERR Client names cannot contain spaces, newlines or special characters.")
			return
		}
		c.name = args[2]
		r.OK()
	case subcommand == "setinfo" && len(args) == 4, subcommand == "no-evict" && len(args) == 3, subcommand == "no-touch" && len(args) == 3:
		r.OK()
	case subcommand == "reply" && len(args) == 3:
		switch strings.ToLower(args[2]) {
		case "on":
			c.silent = false
			r.OK()
		case "off":
			c.silent = true
		case "skip":
			c.skip = !c.silent
		default:
			r.Error("ERR syntax error")
		}
	case subcommand == "info" && len(args) == 2:
		c.face.show(c, "client|info")
		r.Verbatim("txt", c.describe())
	case subcommand == "list":
		c.face.show(c, "client|list")
		r.Verbatim("txt", c.sentinel.list())
	case subcommand == "help" && len(args) == 2:
		help(r, "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", "GETNAME", "ID", "INFO", "LIST",
			"NO-EVICT (ON|OFF)", "REPLY (ON|OFF|SKIP)", "SETINFO <option> <value>", "SETNAME <name>", "HELP")
	case slices.Contains([]string{"id", "getname", "setname", "setinfo", "reply", "info", "no-evict", "no-touch"}, subcommand):
		r.Error(fmt.Sprintf("ERR wrong number of arguments for 'client|%s' command", subcommand))
	default:
		r.Error(fmt.Sprintf("ERR unknown subcommand '%.128s'. Try CLIENT HELP.", args[1]))
	}
}

// face is what one client shows of itself to CLIENT LIST of others.
type face struct {
	mu      sync.Mutex
	name    string
	command string // the last one
	sub     int
	psub    int
	proto   int
	active  time.Time
}

// show updates the face. Called with the client's mu held, or before it has begun.
func (f *face) show(c *sentinelClient, command string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name, f.command, f.sub, f.psub, f.proto, f.active = c.name, command, len(c.channels), len(c.patterns), c.reply.Proto, time.Now()
}

// describe is the line of CLIENT LIST about a client, with the fields of Redis.
func (c *sentinelClient) describe() string {
	f := &c.face
	f.mu.Lock()
	defer f.mu.Unlock()
	flags := "N"
	if f.sub+f.psub > 0 {
		flags = "P"
	}
	now := time.Now()
	return fmt.Sprintf("id=%d addr=%s laddr=%s fd=0 name=%s age=%d idle=%d flags=%s db=0 sub=%d psub=%d ssub=0 multi=-1 qbuf=0 qbuf-free=0"+
		" argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=%.*s user=default redir=-1 resp=%d\n",
		c.id, c.conn.RemoteAddr(), c.conn.LocalAddr(), f.name, int64(now.Sub(c.began)/time.Second), int64(now.Sub(f.active)/time.Second),
		flags, f.sub, f.psub, maxEcho, strings.ReplaceAll(f.command, " ", "_"), f.proto)
}

// list describes all clients in the order of their ids.
func (s *sentinel) list() string {
	s.mu.Lock()
	clients := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	slices.SortFunc(clients, func(a, b *sentinelClient) int { return cmp.Compare(a.id, b.id) })
	var b strings.Builder
	for _, c := range clients {
		b.WriteString(c.describe())
	}
	return b.String()
}

func help(r *resp.Reply, lines ...string) {
	r.Array(len(lines))
	for _, line := range lines {
		r.Simple(line)
	}
}

// sentinelCommand is what COMMAND tells of a command.
type sentinelCommand struct {
	name  string
	arity int
}

// sentinelCommands are the commands that this port knows.
var sentinelCommands = []sentinelCommand{
	{"acl", -2}, {"auth", -2}, {"client", -2}, {"command", -1}, {"hello", -1}, {"info", -1}, {"ping", -1}, {"psubscribe", -2},
	{"publish", 3}, {"punsubscribe", -1}, {"quit", -1}, {"role", 1}, {"sentinel", -2}, {"subscribe", -2}, {"unsubscribe", -1},
}

func (c *sentinelClient) commandCommand(args []string) {
	r := &c.reply
	describe := func(i int) { // no keys, categories, tips or key specifications; subcommands are not listed
		r.Array(10)
		r.BulkString(sentinelCommands[i].name)
		r.Int(int64(sentinelCommands[i].arity))
		r.Set(1)
		r.Simple("sentinel")
		r.Int(0)
		r.Int(0)
		r.Int(0)
		for range 3 {
			r.Set(0)
		}
		r.Array(0)
	}
	subcommand := ""
	if len(args) > 1 {
		subcommand = strings.ToLower(args[1])
	}
	switch subcommand {
	case "":
		r.Array(len(sentinelCommands))
		for i := range sentinelCommands {
			describe(i)
		}
	case "count":
		r.Int(int64(len(sentinelCommands)))
	case "list":
		r.Array(len(sentinelCommands))
		for i := range sentinelCommands {
			r.BulkString(sentinelCommands[i].name)
		}
	case "docs":
		r.Map(0)
	case "info":
		r.Array(len(args) - 2)
		for _, name := range args[2:] {
			i := slices.IndexFunc(sentinelCommands, func(k sentinelCommand) bool { return k.name == strings.ToLower(name) })
			if i < 0 {
				r.Null()
			} else {
				describe(i)
			}
		}
	default:
		r.Error(fmt.Sprintf("ERR unknown subcommand '%.128s'. Try COMMAND HELP.", args[1]))
	}
}

// info is the text of INFO with the sections asked for.
func (c *sentinelClient) info(sections []string) string {
	wanted := func(name string) bool {
		if len(sections) == 0 {
			return true
		}
		for _, s := range sections {
			switch s = strings.ToLower(s); s {
			case name, "all", "default", "everything":
				return true
			}
		}
		return false
	}
	var parts []string
	uptime := int64(time.Since(c.sentinel.started) / time.Second)
	if wanted("server") {
		_, port, _ := net.SplitHostPort(c.sentinel.node.config.Sentinel)
		parts = append(parts, fmt.Sprintf("# Server\r\nredis_version:%s\r\nserver_name:lockstep\r\nredis_mode:sentinel\r\narch_bits:64\r\nprocess_id:%d\r\n"+
			"run_id:%s\r\ntcp_port:%s\r\nuptime_in_seconds:%d\r\nuptime_in_days:%d\r\nhz:100\r\n",
			redisVersion, pid(), c.sentinel.myID, port, uptime, uptime/86400))
	}
	if wanted("clients") {
		parts = append(parts, fmt.Sprintf("# Clients\r\nconnected_clients:%d\r\nmaxclients:%d\r\nblocked_clients:0\r\n", c.sentinel.clients.Load(), maxSentinelClients))
	}
	if wanted("stats") {
		parts = append(parts, fmt.Sprintf("# Stats\r\ntotal_connections_received:%d\r\ntotal_commands_processed:%d\r\nrejected_connections:%d\r\n",
			c.sentinel.lastID.Load()+c.sentinel.refused.Load(), c.sentinel.commands.Load(), c.sentinel.refused.Load()))
	}
	if wanted("sentinel") {
		v := c.view()
		text := fmt.Sprintf("# Sentinel\r\nsentinel_masters:%d\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\nsentinel_running_scripts:0\r\n"+
			"sentinel_scripts_queue_length:0\r\nsentinel_simulate_failure_flags:0\r\n", len(v.groups))
		for i, g := range v.groups {
			status := "ok"
			switch {
			case g.master.agreed:
				status = "odown"
			case g.master.down:
				status = "sdown"
			}
			text += fmt.Sprintf("master%d:name=%s,status=%s,address=%s,slaves=%d,sentinels=%d\r\n",
				i, g.name, status, net.JoinHostPort(g.master.host, g.master.port), len(g.slaves), len(v.others)+1)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "\r\n")
}

package kvnode

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lockstep/internal/acl"
	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// maxClientText bounds a name or library name that a client gives itself, in bytes.
const maxClientText = 1024

// clients are the open connections.
type clients struct {
	mu     sync.Mutex
	byID   map[int64]*conn
	lastID int64
}

// list returns the open connections in the order in which they came, without those that were ended.
func (l *clients) list() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*conn, 0, len(l.byID))
	for _, c := range l.byID {
		if !c.ended.Load() {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *conn) int { return int(a.id - b.id) })
	return all
}

// everyone returns all connections, those that were ended but have not left yet included.
func (l *clients) everyone() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.byID))
}

// get returns the connection of that id, or nil if it is none or was ended.
func (l *clients) get(id int64) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.byID[id]; c != nil && !c.ended.Load() {
		return c
	}
	return nil
}

// count returns how many connections there are, those that were ended but have not left yet included.
func (l *clients) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byID)
}

// set changes what others see.
func (a *about) set(change func(*about)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

// text returns the names, which change under mu.
func (a *about) text() (name, library, version string, noEvict, noTouch, readonly bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.name, a.library, a.libraryVersion, a.noEvict, a.noTouch, a.readonly
}

func (c *conn) setName(name []byte) {
	c.about.set(func(a *about) { a.name = string(name) })
}

// userName returns who the client is.
func (a *about) userName() string {
	if user := a.user.Load(); user != nil {
		return user.Name()
	}
	return "(superuser)"
}

// redirection returns where invalidation messages go: -1 if there are none.
func (a *about) redirection() int64 {
	if !a.tracking.Load() {
		return -1
	}
	return a.redirect.Load()
}

// kind returns the class of a client as CLIENT LIST TYPE knows it.
func (a *about) kind() string {
	switch {
	case a.monitoring.Load():
		return "replica"
	case a.listening():
		return "pubsub"
	}
	return "normal"
}

// validName reports whether text has only visible ASCII characters, and not too many of them.
func validName(text []byte) bool {
	for _, b := range text {
		if b < '!' || b > '~' {
			return false
		}
	}
	return len(text) <= maxClientText
}

// describe returns the line of CLIENT LIST, without its end.
func (c *conn) describe() string {
	a := &c.about
	now := c.node.now()
	name, library, version, noEvict, noTouch, readonly := a.text()
	flags := ""
	if a.monitoring.Load() {
		flags += "O"
	}
	if a.listening() {
		flags += "P"
	}
	if a.multi.Load() >= 0 {
		flags += "x"
	}
	if a.blocked.Load() != nil {
		flags += "b"
	}
	if a.tracking.Load() {
		flags += "t"
	}
	if a.brokenRedirect.Load() {
		flags += "R"
	}
	if a.broadcast.Load() {
		flags += "B"
	}
	if readonly {
		flags += "r"
	}
	if noEvict {
		flags += "e"
	}
	if noTouch {
		flags += "T"
	}
	if flags == "" {
		flags = "N"
	}
	last := "NULL"
	if command := a.command.Load(); command != nil {
		last = command.name
	}
	seconds := func(since int64) int64 { return int64((now - time.Duration(since)) / time.Second) }
	waiting := c.out.waiting.Load()
	chunks := min(waiting, 1)
	pending, room := a.pending.Load(), a.room.Load()
	return fmt.Sprintf("id=%d addr=%s laddr=%s fd=-1 name=%s age=%d idle=%d flags=%s db=%d sub=%d psub=%d ssub=%d multi=%d"+
		" qbuf=%d qbuf-free=%d argv-mem=0 multi-mem=%d rbs=0 rbp=0 obl=0 oll=%d omem=%d tot-mem=%d events=r cmd=%s user=%s redir=%d resp=%d"+
		" lib-name=%s lib-ver=%s",
		c.id, c.net.RemoteAddr(), c.net.LocalAddr(), name, seconds(int64(a.opened)), seconds(a.seen.Load()), flags, a.database.Load(),
		a.subscriptions[toChannels].Load(), a.subscriptions[toPatterns].Load(), a.subscriptions[toShards].Load(),
		a.multi.Load(), pending, room, a.multiBytes.Load(), chunks, waiting, c.memory(), last, a.userName(), a.redirection(), a.proto.Load(), library, version)
}

// clientCommands returns the subcommands of CLIENT.
func clientCommands() []localCommand {
	return []localCommand{
		{name: "caching", arity: 3, local: clientCaching},
		{name: "getname", arity: 2, local: clientGetName},
		{name: "getredir", arity: 2, local: clientGetRedir},
		{name: "help", arity: 2, local: helpWith(clientHelp)},
		{name: "id", arity: 2, local: func(c *conn, _ [][]byte) { c.reply.Int(c.id) }},
		{name: "info", arity: 2, local: func(c *conn, _ [][]byte) { c.reply.Verbatim("txt", c.describe()+"\n") }},
		{name: "kill", arity: -3, local: clientKill},
		{name: "list", arity: -2, local: clientList},
		{name: "no-evict", arity: 3, local: clientNoEvict},
		{name: "no-touch", arity: 3, local: clientNoTouch},
		{name: "pause", arity: -3, local: clientPause},
		{name: "reply", arity: 3, local: clientReply},
		{name: "setinfo", arity: 4, local: clientSetInfo},
		{name: "setname", arity: 3, local: clientSetName},
		{name: "tracking", arity: -3, local: clientTracking},
		{name: "trackinginfo", arity: 2, local: clientTrackingInfo},
		{name: "unblock", arity: -3, local: clientUnblock},
		{name: "unpause", arity: 2, local: clientUnpause},
	}
}

func clientSetName(c *conn, args [][]byte) {
	if !validName(args[2]) {
		c.reply.Error(errName)
		return
	}
	c.setName(args[2])
	c.reply.OK()
}

func clientGetName(c *conn, _ [][]byte) {
	name, _, _, _, _, _ := c.about.text()
	if name == "" {
		c.reply.Null()
		return
	}
	c.reply.BulkString(name)
}

func clientSetInfo(c *conn, args [][]byte) {
	option := strings.ToLower(string(args[2]))
	if option != "lib-name" && option != "lib-ver" {
		c.reply.Error("ERR Unrecognized option '" + string(args[2]) + "'")
		return
	}
	if !validName(args[3]) {
		c.reply.Error("ERR " + option + " cannot contain spaces, newlines or special characters.")
		return
	}
	c.about.set(func(a *about) {
		if option == "lib-name" {
			a.library = string(args[3])
		} else {
			a.libraryVersion = string(args[3])
		}
	})
	c.reply.OK()
}

// clientReply changes which replies the client wants. OFF and SKIP are not answered themselves.
func clientReply(c *conn, args [][]byte) {
	switch {
	case isWord(args[2], "on"):
		c.mode = replyMode{}
		c.reply.OK()
	case isWord(args[2], "off"):
		c.mode.off = true
	case isWord(args[2], "skip"):
		if !c.mode.off {
			c.mode.skipNext = true
		}
	default:
		c.reply.Error(errSyntax)
	}
}

func clientNoEvict(c *conn, args [][]byte) {
	c.setSwitch(args[2], func(a *about, on bool) { a.noEvict = on })
}

func clientNoTouch(c *conn, args [][]byte) {
	c.setSwitch(args[2], func(a *about, on bool) { a.noTouch, c.standing.noTouch = on, on })
}

// setSwitch reads ON or OFF.
func (c *conn) setSwitch(arg []byte, change func(a *about, on bool)) {
	on := isWord(arg, "on")
	if !on && !isWord(arg, "off") {
		c.reply.Error(errSyntax)
		return
	}
	c.about.set(func(a *about) { change(a, on) })
	c.reply.OK()
}

// clientUnblock ends the waiting command of a client.
func clientUnblock(c *conn, args [][]byte) {
	if len(args) > 4 {
		c.reply.Error(unknownSubcommand("CLIENT", args[1]))
		return
	}
	if len(args) == 4 && !isWord(args[3], "timeout") && !isWord(args[3], "error") {
		c.reply.Error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
		return
	}
	id, ok := resp.ParseInt(args[2])
	if !ok {
		c.reply.Error(errInteger)
		return
	}
	end := kv.WaiterTimedOut
	if len(args) == 4 && isWord(args[3], "error") {
		end = kv.WaiterUnblocked
	}
	for _, o := range c.node.clients.list() {
		if o.id == id {
			c.unblock(o, end)
			return
		}
	}
	c.reply.Int(0)
}

// clientList is CLIENT LIST [TYPE type] [ID id ...]. All clients are of type normal.
func clientList(c *conn, args [][]byte) {
	chosen := c.node.clients.list()
	switch {
	case len(args) == 4 && isWord(args[2], "type"):
		kind, known := clientKind(args[3])
		if !known {
			c.reply.Error("ERR Unknown client type '" + string(args[3]) + "'")
			return
		}
		chosen = slices.DeleteFunc(chosen, func(o *conn) bool { return o.about.kind() != kind })
	case len(args) > 3 && isWord(args[2], "id"):
		wanted := make(map[int64]bool)
		for _, arg := range args[3:] {
			id, ok := resp.ParseInt(arg)
			if !ok {
				c.reply.Error("ERR Invalid client ID")
				return
			}
			wanted[id] = true
		}
		chosen = slices.DeleteFunc(chosen, func(o *conn) bool { return !wanted[o.id] })
	case len(args) != 2:
		c.reply.Error(errSyntax)
		return
	}
	var lines strings.Builder
	for _, o := range chosen {
		lines.WriteString(o.describe())
		lines.WriteByte('\n')
	}
	c.reply.Verbatim("txt", lines.String())
}

// clientKind reads a type of client; false if Redis does not know it.
func clientKind(arg []byte) (kind string, known bool) {
	switch kind = strings.ToLower(string(arg)); kind {
	case "slave":
		return "replica", true
	case "normal", "master", "replica", "pubsub":
		return kind, true
	}
	return "", false
}

// killFilter says which clients CLIENT KILL ends.
type killFilter struct {
	id      int64 // 0: any
	address string
	local   string
	kind    string // see about.kind; empty: any
	user    string // empty: any
	self    bool   // the caller, too
}

func (f killFilter) matches(c *conn) bool {
	return (f.id == 0 || f.id == c.id) && (f.kind == "" || f.kind == c.about.kind()) && (f.user == "" || f.user == c.about.userName()) &&
		(f.address == "" || f.address == c.net.RemoteAddr().String()) &&
		(f.local == "" || f.local == c.net.LocalAddr().String())
}

// clientKill is CLIENT KILL address, or CLIENT KILL option value ... .
func clientKill(c *conn, args [][]byte) {
	filter := killFilter{address: string(args[2]), self: true}
	if len(args) > 3 {
		var problem string
		if filter, problem = parseKillFilter(c.knowUsers, args[2:]); problem != "" {
			c.reply.Error(problem)
			return
		}
	}
	killed := 0
	for _, o := range c.node.clients.list() {
		if !filter.matches(o) || o == c && !filter.self {
			continue
		}
		killed++
		if o == c {
			c.closing = true // behind the reply
			continue
		}
		o.disconnect()
	}
	switch {
	case len(args) > 3:
		c.reply.Int(int64(killed))
	case killed == 0:
		c.reply.Error("ERR No such client")
	default:
		c.reply.OK()
	}
}

func parseKillFilter(users func() *acl.Users, args [][]byte) (f killFilter, problem string) {
	for i := 0; i < len(args); i += 2 {
		if i+1 >= len(args) {
			return f, errSyntax
		}
		value := string(args[i+1])
		switch strings.ToLower(string(args[i])) {
		case "id":
			id, err := strconv.ParseInt(value, 10, 64)
			if err != nil || id < 1 {
				return f, "ERR client-id should be greater than 0"
			}
			f.id = id
		case "addr":
			f.address = value
		case "laddr":
			f.local = value
		case "type":
			kind, known := clientKind(args[i+1])
			if !known {
				return f, "ERR Unknown client type '" + value + "'"
			}
			f.kind = kind
		case "user":
			if users().Get(value) == nil {
				return f, "ERR No such user '" + value + "'"
			}
			f.user = value
		case "skipme":
			if !isWord(args[i+1], "yes") && !isWord(args[i+1], "no") {
				return f, errSyntax
			}
			f.self = isWord(args[i+1], "no")
		default:
			return f, errSyntax
		}
	}
	return f, ""
}

// host returns the address without the port.
func host(a net.Addr) string {
	text, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return text
}

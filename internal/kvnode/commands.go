package kvnode

import (
	"fmt"
	"slices"
	"strings"

	"lockstep/internal/acl"
	"lockstep/internal/anycase"
	"lockstep/internal/kv"
)

// command is one command as the shell sees it.
type command struct {
	// name is in lower case; that of a subcommand is "client|list".
	name  string
	arity int // as in kv.Command
	// machine describes the command to the machine; nil for those that only the shell knows.
	machine *kv.Command
	// local executes a command that the machine does not, or not alone; nil for all others. It is called from the
	// connection's goroutine, while no operation is open, and appends its reply to c.reply.
	local func(c *conn, args [][]byte)
	// write: it goes through the log.
	write bool
	// inMachine: in a transaction the machine executes it.
	inMachine bool
	// immediate: it is executed, not queued, between MULTI and EXEC.
	immediate bool
	// exec marks EXEC.
	exec bool

	access         *acl.Command // as access control knows it
	noAuth         bool         // allowed before the client has authenticated
	whileListening bool         // allowed to RESP2 clients that are subscribed
	mayWrite       bool         // it may write though it is no write (scripts)
	hidden         bool         // not shown by MONITOR
	unlogged       bool         // not in the slow log
	fast           bool         // its time does not grow with the value
	get            bool         // GET: its reply says whether the key was there
	quick          bool         // of the shell, and an event loop may execute it: it never waits
	pushes         bool         // its replies are messages: CLIENT REPLY OFF does not hold them back

	sub        map[string]*command // subcommands by name; nil if there are none
	subAnyCase *anycase.Table[*command]
	stats      commandStats
}

func (c *command) acceptsArgs(count int) bool {
	return count == c.arity || c.arity < 0 && count >= -c.arity
}

// writes reports whether the command with these arguments goes through the log.
func (c *command) writes(args [][]byte) bool { return c.write && c.machine.Writes(args) }

// commandTable finds commands.
type commandTable struct {
	byName  map[string]*command
	anyCase *anycase.Table[*command]
	all     []*command // in the order of kv.Commands, then those of the shell; subcommands behind their command
}

// localCommand is an entry of the shell's own table.
type localCommand struct {
	name      string
	arity     int // 0: that of the machine's table
	local     func(c *conn, args [][]byte)
	immediate bool
	exec      bool
	sub       []localCommand
}

// newCommandTable joins the machine's commands with those of the shell. A command that the machine's table calls
// local and the shell does not execute is not known.
func newCommandTable() *commandTable {
	t := &commandTable{byName: make(map[string]*command)}
	for _, machine := range kv.Commands() {
		if machine.Flags&kv.Local != 0 {
			continue
		}
		c := &command{
			name: machine.Name, arity: machine.Arity, machine: machine,
			write: machine.Flags&kv.Write != 0, inMachine: true,
		}
		t.add(c)
		for _, known := range kv.Subcommands(machine.Name) {
			t.addMachineSubcommand(c, known)
		}
	}
	for _, entry := range localCommands() {
		c := &command{name: entry.name, arity: entry.arity, local: entry.local, immediate: entry.immediate, exec: entry.exec}
		if machine := kv.Lookup([]byte(entry.name)); machine != nil {
			c.machine, c.inMachine = machine, machine.Executable()
			if entry.arity == 0 {
				c.arity = machine.Arity
			}
		}
		t.add(c)
		for _, sub := range entry.sub {
			if c.sub == nil {
				c.sub = make(map[string]*command)
			}
			s := &command{name: entry.name + "|" + sub.name, arity: sub.arity, local: sub.local}
			c.sub[sub.name] = s
			t.all = append(t.all, s)
		}
	}
	for _, c := range t.all {
		c.describe()
		c.subAnyCase = anycase.New(c.sub)
	}
	t.anyCase = anycase.New(t.byName)
	return t
}

// addMachineSubcommand gives a subcommand that the machine executes a place of its own, so that it is checked, counted and shown by its own name.
func (t *commandTable) addMachineSubcommand(c *command, known kv.Subcommand) {
	if c.sub == nil {
		c.sub = make(map[string]*command)
	}
	s := &command{name: c.name + "|" + known.Name, arity: known.Arity, machine: c.machine, write: c.write, inMachine: true}
	c.sub[known.Name] = s
	t.all = append(t.all, s)
}

// listening are the commands that a RESP2 client may send while it is subscribed.
var listening = []string{"ping", "subscribe", "unsubscribe", "psubscribe", "punsubscribe", "ssubscribe", "sunsubscribe", "quit", "reset"}

// quick are the commands of the shell that an event loop executes.
var quick = []string{"echo", "ping", "select", "time"}

// describe takes over what the table of COMMAND says.
func (c *command) describe() {
	c.access = kv.AccessTable().Lookup(c.name)
	c.whileListening = slices.Contains(listening, c.name)
	c.get = c.name == "get"
	c.quick = slices.Contains(quick, c.name)
	c.unlogged = c.name == "wait" || c.name == "waitaof" // their time is that of others
	c.pushes = c.whileListening && strings.HasSuffix(c.name, "subscribe")
	for _, flag := range kv.CommandFlags(c.name) {
		switch flag {
		case "no_auth":
			c.noAuth = true
		case "may_replicate":
			c.mayWrite = true
		case "fast":
			c.fast = true
		case "skip_slowlog":
			c.unlogged = true
		case "admin", "skip_monitor":
			c.hidden = true
		}
	}
}

func (t *commandTable) add(c *command) {
	t.byName[c.name] = c
	t.all = append(t.all, c)
}

// find returns the command that args begin with, or the error with which Redis refuses them; both if the command is
// known and cannot take these arguments.
func (t *commandTable) find(args [][]byte) (*command, string) {
	c, found := t.anyCase.Find(args[0])
	if !found {
		return nil, kv.UnknownCommandError(args)
	}
	if c.sub != nil && len(args) > 1 {
		sub, found := c.subAnyCase.Find(args[1])
		if !found {
			return nil, fmt.Sprintf("ERR unknown subcommand '%.128s'. Try %s HELP.", args[1], strings.ToUpper(c.name))
		}
		c = sub
	}
	if !c.acceptsArgs(len(args)) {
		return c, kv.WrongArityError(c.name)
	}
	return c, ""
}

// localCommands returns the table of the shell. Arities of subcommands are those of Redis 7.
func localCommands() []localCommand {
	return []localCommand{
		{name: "acl", sub: aclCommands()},
		{name: "asking", local: noCluster},
		{name: "auth", local: authCommand},
		{name: "bgrewriteaof", local: bgrewriteCommand},
		{name: "bgsave", local: bgsaveCommand},
		{name: "client", sub: clientCommands()},
		{name: "cluster", local: noCluster},
		{name: "command", local: commandCommand},
		{name: "config", sub: []localCommand{
			{name: "get", arity: -3, local: configGet},
			{name: "help", arity: 2, local: helpWith(configHelp)},
			{name: "resetstat", arity: 2, local: configResetStat},
			{name: "rewrite", arity: 2, local: configRewrite},
			{name: "set", arity: -4, local: configSet},
		}},
		{name: "debug", local: debugCommand},
		{name: "discard", local: discardCommand, immediate: true},
		{name: "echo", local: echoCommand},
		{name: "exec", local: unreachable, immediate: true, exec: true},
		{name: "failover", local: failoverCommand},
		{name: "hello", local: helloCommand},
		{name: "info", local: infoCommand},
		{name: "latency", arity: -2, sub: []localCommand{
			{name: "doctor", arity: 2, local: latencyDoctor},
			{name: "graph", arity: 3, local: latencyGraph},
			{name: "help", arity: 2, local: helpWith(latencyHelp)},
			{name: "histogram", arity: -2, local: latencyHistogram},
			{name: "history", arity: 3, local: latencyHistory},
			{name: "latest", arity: 2, local: latencyLatest},
			{name: "reset", arity: -2, local: latencyReset},
		}},
		{name: "lastsave", local: lastsaveCommand},
		{name: "lolwut", local: lolwutCommand},
		{name: "memory", arity: -2, sub: []localCommand{
			{name: "doctor", arity: 2, local: memoryDoctor},
			{name: "help", arity: 2, local: helpWith(memoryHelp)},
			{name: "malloc-stats", arity: 2, local: memoryMallocStats},
			{name: "purge", arity: 2, local: memoryPurge},
			{name: "stats", arity: 2, local: memoryStats},
			{name: "usage", arity: -3, local: memoryUsage},
		}},
		{name: "module", arity: -2, sub: []localCommand{
			{name: "help", arity: 2, local: helpWith(moduleHelp)},
			{name: "list", arity: 2, local: moduleList},
			{name: "load", arity: -3, local: moduleLoad},
			{name: "loadex", arity: -3, local: moduleLoad},
			{name: "unload", arity: 3, local: moduleUnload},
		}},
		{name: "monitor", local: monitorCommand},
		{name: "multi", local: multiCommand, immediate: true},
		{name: "pfselftest", local: func(c *conn, _ [][]byte) { kv.SelfTest(&c.reply) }},
		{name: "ping", local: pingCommand},
		{name: "psubscribe", local: subscribeTo(toPatterns)},
		{name: "pubsub", sub: pubsubCommands()},
		{name: "punsubscribe", local: unsubscribeFrom(toPatterns)},
		{name: "quit", local: quitCommand, immediate: true},
		{name: "readonly", arity: 1, local: readonlyCommand},
		{name: "readwrite", arity: 1, local: readwriteCommand},
		{name: "replicaof", local: replicaofCommand},
		{name: "reset", local: resetCommand, immediate: true},
		{name: "role", local: roleCommand},
		{name: "save", local: saveCommand},
		{name: "select", local: selectCommand},
		{name: "shutdown", local: shutdownCommand},
		{name: "slaveof", local: replicaofCommand},
		{name: "slowlog", arity: -2, sub: []localCommand{
			{name: "get", arity: -2, local: slowlogGet},
			{name: "help", arity: 2, local: helpWith(slowlogHelp)},
			{name: "len", arity: 2, local: slowlogLen},
			{name: "reset", arity: 2, local: slowlogReset},
		}},
		{name: "smr", sub: []localCommand{
			{name: "consistency", arity: -2, local: smrConsistency},
			{name: "digest", arity: 2, local: smrDigest},
			{name: "durability", arity: -2, local: smrDurability},
			{name: "help", arity: 2, local: helpWith(smrHelp)},
			{name: "lsn", arity: 2, local: smrLSN},
			{name: "status", arity: 2, local: smrStatus},
		}},
		{name: "ssubscribe", local: subscribeTo(toShards)},
		{name: "subscribe", local: subscribeTo(toChannels)},
		{name: "sunsubscribe", local: unsubscribeFrom(toShards)},
		{name: "time", local: timeCommand},
		{name: "unsubscribe", local: unsubscribeFrom(toChannels)},
		{name: "unwatch", local: unwatchCommand},
		{name: "wait", local: waitCommand},
		{name: "waitaof", local: waitAOFCommand},
		{name: "watch", local: watchCommand, immediate: true},
	}
}

// unreachable stands in the table for EXEC, which handle treats apart.
func unreachable(*conn, [][]byte) { panic("kvnode: EXEC is not a local command") }

// helpWith returns a command that answers a list of lines.
func helpWith(lines []string) func(c *conn, args [][]byte) {
	return func(c *conn, _ [][]byte) {
		c.reply.Array(len(lines))
		for _, line := range lines {
			c.reply.Simple(line)
		}
	}
}

package kv

// localCommands are answered by the shell. Those that have a function here can be executed in a transaction, where
// their reply must stand among the others.
var localCommands = []Command{
	{Name: "auth", Arity: -2, Flags: Local | Fast | NoAuth},
	{Name: "client", Arity: -2, Flags: Local},
	{Name: "command", Arity: -1, Flags: Local},
	{Name: "config", Arity: -2, Flags: Local | Admin, Subcommands: []string{"get", "help", "resetstat", "rewrite", "set"}},
	{Name: "debug", Arity: -2, Flags: Local | Admin},
	{Name: "discard", Arity: 1, Flags: Local | Fast},
	{Name: "echo", Arity: 2, Flags: Local | Fast, run: echo},
	{Name: "exec", Arity: 1, Flags: Local},
	{Name: "hello", Arity: -1, Flags: Local | Fast | NoAuth},
	{Name: "info", Arity: -1, Flags: Local},
	{Name: "latency", Arity: -2, Flags: Local | Admin, Subcommands: []string{"doctor", "graph", "help", "histogram", "history", "latest",
		"reset"}},
	{Name: "memory", Arity: -2, Flags: Local, Subcommands: []string{"doctor", "help", "malloc-stats", "purge", "stats", "usage"}},
	{Name: "module", Arity: -2, Flags: Local | Admin},
	{Name: "multi", Arity: 1, Flags: Local | Fast},
	{Name: "ping", Arity: -1, Flags: Local | Fast, run: ping},
	{Name: "quit", Arity: -1, Flags: Local | Fast | NoAuth},
	{Name: "readonly", Arity: 1, Flags: Local | Fast},
	{Name: "readwrite", Arity: 1, Flags: Local | Fast},
	{Name: "reset", Arity: 1, Flags: Local | Fast | NoAuth},
	{Name: "role", Arity: 1, Flags: Local | Fast},
	{Name: "select", Arity: 2, Flags: Local | Fast, run: selectDatabase},
	{Name: "slowlog", Arity: -2, Flags: Local | Admin, Subcommands: []string{"get", "help", "len", "reset"}},
	{Name: "smr", Arity: -2, Flags: Local | Admin, Subcommands: []string{"consistency", "digest", "durability", "help", "lsn",
		"status"}},
	{Name: "time", Arity: 1, Flags: Local | Fast, run: logTime},
	{Name: "unwatch", Arity: 1, Flags: Local | Fast, run: unwatch},
	{Name: "wait", Arity: 3, Flags: Local},
	{Name: "waitaof", Arity: 4, Flags: Local},
	{Name: "watch", Arity: -2, Flags: Local | Fast, FirstKey: 1, LastKey: -1, Step: 1},
}

func ping(c call) {
	switch len(c.args) {
	case 1:
		c.reply.Simple("PONG")
	case 2:
		c.reply.Bulk(c.args[1])
	default:
		c.reply.Error(WrongArityError("ping"))
	}
}

func echo(c call) { c.reply.Bulk(c.args[1]) }

func unwatch(c call) { c.reply.OK() }

// selectDatabase is SELECT in a transaction or a script: the commands behind it work in another database. (Alone it is the
// shell's.)
func selectDatabase(c call) {
	d, ok := c.database(1)
	if !ok {
		return
	}
	if c.selected != nil {
		*c.selected = d.number
	}
	c.reply.OK()
}

// logTime answers TIME from the log: seconds, and microseconds of which the log knows the thousands.
func logTime(c call) {
	c.reply.Array(2)
	c.reply.BulkInt(c.now / 1000)
	c.reply.BulkInt(c.now % 1000 * 1000)
}

package kv

// shellCommands are answered by the shell, and never in the machine.
var shellCommands = []Command{
	{Name: "acl", Arity: -2, Flags: Local | Admin},
	{Name: "asking", Arity: 1, Flags: Local | Fast},
	{Name: "bgrewriteaof", Arity: 1, Flags: Local | Admin},
	{Name: "bgsave", Arity: -1, Flags: Local | Admin},
	{Name: "cluster", Arity: -2, Flags: Local, Subcommands: []string{}},
	{Name: "failover", Arity: -1, Flags: Local | Admin},
	{Name: "lastsave", Arity: 1, Flags: Local | Fast},
	{Name: "lolwut", Arity: -1, Flags: Local | Fast},
	{Name: "monitor", Arity: 1, Flags: Local | Admin},
	{Name: "psubscribe", Arity: -2, Flags: Local},
	{Name: "pubsub", Arity: -2, Flags: Local},
	{Name: "punsubscribe", Arity: -1, Flags: Local},
	{Name: "replicaof", Arity: 3, Flags: Local | Admin},
	{Name: "save", Arity: 1, Flags: Local | Admin},
	{Name: "shutdown", Arity: -1, Flags: Local | Admin},
	{Name: "slaveof", Arity: 3, Flags: Local | Admin},
	{Name: "ssubscribe", Arity: -2, Flags: Local, FirstKey: 1, LastKey: -1, Step: 1},
	{Name: "subscribe", Arity: -2, Flags: Local},
	{Name: "sunsubscribe", Arity: -1, Flags: Local, FirstKey: 1, LastKey: -1, Step: 1},
	{Name: "unsubscribe", Arity: -1, Flags: Local},
}

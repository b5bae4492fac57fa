package kv

import (
	_ "embed"
	"slices"
	"strings"

	"lockstep/internal/resp"
)

// recorded is what redis-server 7.0 says about its commands: three replies in RESP3, written by
// internal/kv/oracle: COMMAND INFO, COMMAND DOCS, COMMAND HELP.
//
//go:embed commands.resp
var recorded []byte

// description is what COMMAND knows about a command or a subcommand.
type description struct {
	name string // "get", "client|id"
	info resp.Value
	docs resp.Value
	top  bool // no subcommand
}

// Places in the reply of COMMAND INFO.
const (
	infoArity = iota + 1
	infoFlags
	infoFirst
	infoLast
	infoStep
	infoCategories
	infoTips
	infoSpecs
	infoSubcommands
)

// newerArity names the commands that take other numbers of arguments since Redis 7.2 than the recorded server says.
var newerArity = []string{"zrank", "zrevrank"}

// catalog holds the descriptions of the commands of the table sorted by name, and the text of COMMAND HELP.
var catalog, commandHelp = readCatalog()

func readCatalog() ([]description, resp.Value) {
	// The file is part of the program; a test shows that it can be decoded and describes every command. (Here an
	// error only leaves descriptions out: the oracle, which writes the file, must run without it.)
	info, used, _ := resp.Decode(recorded)
	docs, more, _ := resp.Decode(recorded[used:])
	help, _, _ := resp.Decode(recorded[used+more:])
	var list []description
	for _, item := range append(info.Items, ownDescription().info, waitAOFDescription().info) {
		d := description{name: item.Items[0].Text, info: item, top: true}
		command := byName[d.name]
		if command == nil {
			continue // redis-server has it, this machine does not
		}
		if slices.Contains(newerArity, d.name) {
			d.info.Items = slices.Clone(d.info.Items)
			d.info.Items[infoArity].Int = int64(command.Arity)
		}
		switch d.docs, _ = lookupMap(docs, d.name); d.name {
		case "smr":
			d.docs = ownDescription().docs
		case "waitaof":
			d.docs = waitAOFDescription().docs
		}
		subcommands := d.keepSubcommands()
		d.setSubcommands(subcommands)
		list = append(append(list, d), subcommands...)
	}
	slices.SortFunc(list, func(a, b description) int { return strings.Compare(a.name, b.name) })
	return list, help
}

// keepSubcommands returns the descriptions of those subcommands of d that exist here, sorted by name.
func (d description) keepSubcommands() []description {
	var kept []description
	docs, _ := lookupMap(d.docs, "subcommands")
	command := byName[d.name]
	for _, item := range d.info.Items[infoSubcommands].Items {
		s := description{name: item.Items[0].Text, info: item}
		_, name, _ := strings.Cut(s.name, "|")
		if command != nil && command.Subcommands != nil && !slices.Contains(command.Subcommands, name) {
			continue
		}
		s.docs, _ = lookupMap(docs, s.name)
		kept = append(kept, s)
	}
	for _, own := range ownSubcommands {
		if strings.HasPrefix(own.name, d.name+"|") {
			kept = append(kept, own.describe())
		}
	}
	slices.SortFunc(kept, func(a, b description) int { return strings.Compare(a.name, b.name) })
	return kept
}

// setSubcommands makes kept the subcommands of d.
func (d *description) setSubcommands(kept []description) {
	info := resp.Value{Kind: '*'}
	docs := resp.Value{Kind: '%'}
	if len(kept) == 0 {
		info.Kind = '~' // as redis-server has it
	}
	for _, s := range kept {
		info.Items = append(info.Items, s.info)
		docs.Items = append(docs.Items, textValue('$', s.name), s.docs)
	}
	d.info.Items = slices.Clone(d.info.Items)
	d.info.Items[infoSubcommands] = info
	var items []resp.Value
	for i := 0; i+1 < len(d.docs.Items); i += 2 {
		if d.docs.Items[i].Text != "subcommands" {
			items = append(items, d.docs.Items[i], d.docs.Items[i+1])
		}
	}
	if len(kept) > 0 {
		items = append(items, textValue('$', "subcommands"), docs)
	}
	d.docs.Items = items
}

// ownSubcommand is a subcommand that the recorded redis-server does not describe.
type ownSubcommand struct {
	name                  string
	arity                 int64
	flags, categories     []string
	summary, group, since string
}

// Those of CLIENT came with Redis 7.2; Redis keeps silent about those of DEBUG; SMR is ours.
var ownSubcommands = []ownSubcommand{
	{"client|no-touch", 3, []string{"noscript", "loading", "stale"}, []string{"@slow", "@connection"},
		"Controls whether commands sent by the client affect the LRU/LFU of accessed keys", "connection", "7.2.0"},
	{"client|setinfo", 4, []string{"noscript", "loading", "stale"}, []string{"@slow", "@connection"},
		"Sets information specific to the client or connection", "connection", "7.2.0"},
	{"smr|consistency", -2, []string{"noscript", "loading", "stale"}, []string{"@slow", "@connection"},
		"Sets or returns how new the state must be that the connection reads", "connection", "1.0.0"},
	{"smr|durability", -2, []string{"noscript", "loading", "stale"}, []string{"@slow", "@connection"},
		"Sets or returns how many members must hold a write of the connection before it is acknowledged", "connection", "1.0.0"},
	{"smr|lsn", 2, []string{"noscript", "loading", "stale"}, []string{"@slow", "@connection"},
		"Returns the LSN of the connection's last write", "connection", "1.0.0"},
	{"smr|digest", 2, []string{"admin", "noscript", "loading", "stale"}, []string{"@admin", "@slow", "@dangerous"},
		"Returns the LSN up to which this node has executed the log, and the digest of its state there", "server", "1.0.0"},
	{"smr|help", 2, []string{"loading", "stale"}, []string{"@slow"}, "Show helpful text about the different subcommands", "server", "1.0.0"},
	{"smr|status", 2, []string{"admin", "noscript", "loading", "stale"}, []string{"@admin", "@slow", "@dangerous"},
		"Returns role, epoch, master and LSNs of this node", "server", "1.0.0"},
}

func (s ownSubcommand) describe() description {
	none, zero := resp.Value{Kind: '*'}, resp.Value{Kind: ':'}
	return description{
		name: s.name,
		info: resp.Value{Kind: '*', Items: []resp.Value{textValue('$', s.name), {Kind: ':', Int: s.arity}, setValue(s.flags...),
			zero, zero, zero, setValue(s.categories...), none, none, none}},
		docs: resp.Value{Kind: '%', Items: []resp.Value{textValue('$', "summary"), textValue('$', s.summary),
			textValue('$', "since"), textValue('$', s.since), textValue('$', "group"), textValue('$', s.group)}},
	}
}

// ownDescription describes SMR, which Redis does not have.
func ownDescription() description {
	d := ownSubcommand{"smr", -2, []string{"admin", "noscript", "loading", "stale"}, []string{"@admin", "@slow", "@dangerous"},
		"Shows the replication of this node", "server", "1.0.0"}.describe()
	d.docs.Items = append(d.docs.Items, textValue('$', "complexity"), textValue('$', "O(1)"))
	return d
}

// waitAOFDescription describes WAITAOF, which came with Redis 7.2.
func waitAOFDescription() description {
	d := ownSubcommand{"waitaof", 4, []string{"noscript"}, []string{"@slow", "@blocking", "@connection"},
		"Blocks until the writes of the connection are in the append-only files of this node and of so many replicas", "generic", "7.2.0"}.describe()
	d.info.Items[infoTips] = resp.Value{Kind: '~', Items: []resp.Value{textValue('$', "request_policy:all_shards"), textValue('$', "response_policy:agg_min")}}
	arguments := resp.Value{Kind: '*'}
	for _, name := range []string{"numlocal", "numreplicas", "timeout"} {
		arguments.Items = append(arguments.Items, resp.Value{Kind: '%', Items: []resp.Value{textValue('$', "name"), textValue('$', name),
			textValue('$', "type"), textValue('$', "integer")}})
	}
	d.docs.Items = append(d.docs.Items, textValue('$', "complexity"), textValue('$', "O(1)"), textValue('$', "arguments"), arguments)
	return d
}

func textValue(kind byte, text string) resp.Value { return resp.Value{Kind: kind, Text: text} }

func setValue(items ...string) resp.Value {
	v := resp.Value{Kind: '~'}
	for _, item := range items {
		v.Items = append(v.Items, textValue('+', item))
	}
	return v
}

// lookupMap returns the value of a key of a map reply.
func lookupMap(m resp.Value, key string) (resp.Value, bool) {
	for i := 0; i+1 < len(m.Items); i += 2 {
		if m.Items[i].Text == key {
			return m.Items[i+1], true
		}
	}
	return resp.Value{}, false
}

// describe finds a command or subcommand by its full name, in any case.
func describe(name string) (description, bool) {
	i, found := slices.BinarySearchFunc(catalog, lower(name), func(d description, name string) int {
		return strings.Compare(d.name, name)
	})
	if !found {
		return description{}, false
	}
	return catalog[i], true
}

// hasFlag reports whether COMMAND INFO shows a flag.
func (d description) hasFlag(name string) bool {
	return slices.ContainsFunc(d.info.Items[infoFlags].Items, func(v resp.Value) bool { return v.Text == name })
}

// container reports whether all that a command does is done by subcommands.
func container(name string) bool {
	d, _ := describe(name)
	return len(d.info.Items) > infoSubcommands && len(d.info.Items[infoSubcommands].Items) > 0
}

// describeSubcommand returns what COMMAND INFO says of a subcommand of a container; false if there is none of that name, in any case.
func describeSubcommand(container string, name []byte) (resp.Value, bool) {
	d, _ := describe(container)
	for _, sub := range d.info.Items[infoSubcommands].Items {
		if len(sub.Items) > infoArity && isWord(name, strings.TrimPrefix(sub.Items[0].Text, container+"|")) {
			return sub, true
		}
	}
	return resp.Value{}, false
}

// Summary returns one sentence about a command, its group and the version of Redis that brought it.
func (c *Command) Summary() (summary, group, since string) {
	d, _ := describe(c.Name)
	text := func(key string) string {
		v, _ := lookupMap(d.docs, key)
		return v.Text
	}
	return text("summary"), text("group"), text("since")
}

// CommandReply answers COMMAND and its subcommands. args is the whole command.
func CommandReply(args [][]byte, reply *resp.Reply) {
	if len(args) == 1 {
		replyInfo(nil, reply)
		return
	}
	subcommand := lower(string(args[1]))
	d, ok := describe("command|" + subcommand)
	if !ok {
		reply.Error("ERR unknown subcommand '" + string(cString(args[1], 128)) + "'. Try COMMAND HELP.")
		return
	}
	if arity := int(d.info.Items[infoArity].Int); len(args) != arity && (arity > 0 || len(args) < -arity) {
		reply.Error(WrongArityError(d.name))
		return
	}
	switch subcommand {
	case "count":
		reply.Int(int64(len(commands)))
	case "docs":
		replyDocs(args[2:], reply)
	case "info":
		replyInfo(args[2:], reply)
	case "list":
		replyList(args, reply)
	case "getkeys":
		replyKeys(args[2:], false, reply)
	case "getkeysandflags":
		replyKeys(args[2:], true, reply)
	case "help":
		commandHelp.Append(reply)
	}
}

// replyInfo replies what is known about names, or about every command.
func replyInfo(names [][]byte, reply *resp.Reply) {
	if len(names) == 0 {
		reply.Array(len(commands))
		for _, d := range catalog {
			if d.top {
				d.info.Append(reply)
			}
		}
		return
	}
	reply.Array(len(names))
	for _, name := range names {
		if d, ok := describe(string(name)); ok {
			d.info.Append(reply)
		} else {
			reply.Null()
		}
	}
}

func replyDocs(names [][]byte, reply *resp.Reply) {
	var found []description
	for _, name := range names {
		if d, ok := describe(string(name)); ok {
			found = append(found, d)
		}
	}
	if len(names) == 0 {
		for _, d := range catalog {
			if d.top {
				found = append(found, d)
			}
		}
	}
	reply.Map(len(found))
	for _, d := range found {
		reply.BulkString(d.name)
		d.docs.Append(reply)
	}
}

func replyList(args [][]byte, reply *resp.Reply) {
	admit := func(description) bool { return true }
	switch {
	case len(args) == 2:
	case len(args) != 5 || !isWord(args[2], "filterby"):
		reply.Error(errSyntax)
		return
	case isWord(args[3], "module"):
		admit = func(description) bool { return false }
	case isWord(args[3], "aclcat"):
		category := "@" + lower(string(args[4]))
		admit = func(d description) bool {
			return slices.ContainsFunc(d.info.Items[infoCategories].Items, func(v resp.Value) bool { return v.Text == category })
		}
	case isWord(args[3], "pattern"):
		pattern := lower(string(args[4]))
		admit = func(d description) bool { return globMatch(pattern, d.name) }
	default:
		reply.Error(errSyntax)
		return
	}
	var names []string
	for _, d := range catalog {
		if admit(d) {
			names = append(names, d.name)
		}
	}
	reply.Array(len(names))
	for _, name := range names {
		reply.BulkString(name)
	}
}

// replyKeys replies the keys of the command args, perhaps each with its flags.
func replyKeys(args [][]byte, flags bool, reply *resp.Reply) {
	d, ok := describe(string(args[0]))
	if ok && len(d.info.Items[infoSubcommands].Items) > 0 && len(args) > 1 {
		d, ok = describe(d.name + "|" + string(args[1]))
	}
	if !ok {
		reply.Error("ERR Invalid command specified")
		return
	}
	arity := int(d.info.Items[infoArity].Int)
	switch {
	case !slices.ContainsFunc(commandUses[d.name].specs, func(s keySpec) bool { return !s.fake }):
		reply.Error("ERR The command has no key arguments")
		return
	case len(args) != arity && (arity > 0 || len(args) < -arity):
		reply.Error("ERR Invalid number of arguments specified for command")
		return
	}
	keys := toldKeys(d.name, args)
	if len(keys) == 0 && !d.hasFlag("no_mandatory_keys") {
		reply.Error("ERR Invalid arguments specified for command")
		return
	}
	reply.Array(len(keys))
	for _, k := range keys {
		if flags {
			reply.Array(2)
		}
		reply.Bulk(k.Key)
		if flags {
			resp.Value{Kind: '~', Items: k.flags}.Append(reply)
		}
	}
}

// specNumber returns a number of the inner map of begin_search or find_keys.
func specNumber(v resp.Value, key string) int {
	spec, _ := lookupMap(v, "spec")
	n, _ := lookupMap(spec, key)
	return int(n.Int)
}

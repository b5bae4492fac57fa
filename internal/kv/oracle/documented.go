package main

import (
	"slices"
	"strconv"
	"strings"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// documented draws calls of every command of the machine from what COMMAND DOCS says about its arguments: options in all combinations,
// keys of the right type and of every other, and now and then one argument too few, one too many, or one of another kind.
type documented struct {
	generator
	commands []documentedCommand
	asksKeys bool // asks COMMAND GETKEYS and GETKEYSANDFLAGS about the calls instead
}

// documentedCommand is one command, or one subcommand.
type documentedCommand struct {
	words     []string // its name
	group     string
	arguments []resp.Value
}

// notDrawn are commands whose reply is about a time, a draw, a script or a moment, those that would wait or empty everything, and ranges by name,
// which Redis specifies for equal scores only.
var notDrawn = []string{"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro", "function", "script", "flushall", "flushdb", "swapdb", "command", "dump", "restore",
	"restore-asking", "blpop", "brpop", "blmove", "brpoplpush", "blmpop", "bzpopmin", "bzpopmax", "bzmpop", "publish", "spublish", "time", "select", "move",
	"pfdebug", "pfselftest", "spop", "randomkey", "xadd", "xautoclaim", "xclaim", "xreadgroup", "xinfo", "xpending", "lcs",
	"pfcount", "dbsize", "sort", "sort_ro", "zlexcount", "zrangebylex", "zrevrangebylex", "zremrangebylex"}

// newDocumented reads what the server says of its commands. Those that the machine does not execute are left out, unless asksKeys: the
// keys of every command are asked then, because none is executed.
func newDocumented(s *server, g generator, asksKeys bool) (*documented, error) {
	d := &documented{generator: g, asksKeys: asksKeys}
	if _, err := s.do("hello", "3"); err != nil {
		return nil, err
	}
	for _, command := range kv.Commands() {
		if !asksKeys && (!command.Executable() || slices.Contains(notDrawn, command.Name)) {
			continue
		}
		reply, err := s.do("command", "docs", command.Name)
		if err != nil {
			return nil, err
		}
		v, _, err := resp.Decode(reply)
		if err != nil {
			return nil, err
		}
		d.add(v)
	}
	return d, nil
}

// add takes the commands of a map from names to what is said of them.
func (d *documented) add(docs resp.Value) {
	for i := 0; i+1 < len(docs.Items); i += 2 {
		about := docs.Items[i+1]
		if subcommands := field(about, "subcommands"); len(subcommands.Items) > 0 {
			d.add(subcommands)
			continue
		}
		d.commands = append(d.commands, documentedCommand{
			words: strings.Split(docs.Items[i].Text, "|"), group: field(about, "group").Text, arguments: field(about, "arguments").Items,
		})
	}
}

// field returns a field of a map, an empty value if it has none of that name.
func field(v resp.Value, name string) resp.Value {
	for i := 0; i+1 < len(v.Items); i += 2 {
		if v.Items[i].Text == name {
			return v.Items[i+1]
		}
	}
	return resp.Value{}
}

// draw returns one command.
func (d *documented) draw() []string { return d.call(d.commands[d.IntN(len(d.commands))]) }

// aboutKeys returns a command that asks for the keys of a call.
func (d *documented) aboutKeys(call []string) []string {
	return append([]string{"command", d.pick([]string{"getkeys", "getkeysandflags"})}, call...)
}

// call returns a call of one command.
func (d *documented) call(command documentedCommand) []string {
	args := slices.Clone(command.words)
	for _, argument := range command.arguments {
		args = append(args, d.argument(command.group, argument)...)
	}
	name := len(command.words)
	switch at := name + d.IntN(max(1, len(args)-name)); {
	case len(args) == name:
	case d.IntN(12) == 0:
		args = args[:len(args)-1]
	case d.IntN(16) == 0:
		args = append(args, d.word("V"))
	case d.IntN(8) == 0:
		args[at] = d.word(d.pick([]string{"I", "F", "V", "S", "K", "C"}))
	}
	return args
}

// argument draws the words of one argument: none if it is left out.
func (d *documented) argument(group string, about resp.Value) (words []string) {
	flags := field(about, "flags")
	has := func(flag string) bool {
		return slices.ContainsFunc(flags.Items, func(v resp.Value) bool { return v.Text == flag })
	}
	if has("optional") && d.IntN(5) > 1 {
		return nil
	}
	token := field(about, "token").Text
	if token == "BLOCK" {
		return nil
	}
	times := 1
	if has("multiple") {
		times += d.IntN(3)
	}
	for i := range times {
		if token != "" && (i == 0 || has("multiple_token")) {
			words = append(words, token)
		}
		words = append(words, d.values(group, about)...)
	}
	return words
}

// values draws what stands for one argument, behind its token.
func (d *documented) values(group string, about resp.Value) (words []string) {
	parts := field(about, "arguments").Items
	switch field(about, "type").Text {
	case "pure-token":
		return nil
	case "oneof":
		return d.argument(group, parts[d.IntN(len(parts))])
	case "block":
		for _, part := range parts {
			words = append(words, d.argument(group, part)...)
		}
		return words
	case "key":
		return []string{d.key(group)}
	case "integer":
		if strings.HasPrefix(field(about, "name").Text, "num") && d.IntN(6) > 0 {
			return []string{strconv.Itoa(1 + d.IntN(3))}
		}
		return []string{d.pick([]string{"0", "1", "2", "-1", "10", d.word("I"), d.word("T")})}
	case "double":
		return []string{d.word("F")}
	case "pattern":
		return []string{d.word("G")}
	case "unix-time":
		return []string{d.word("A")}
	}
	switch field(about, "name").Text {
	case "min", "max", "start", "end", "stop":
		return []string{d.word(d.pick([]string{"S", "X", "I"}))}
	case "unit":
		return []string{d.word("U")}
	}
	return []string{d.pick([]string{d.word("M"), d.word("M"), d.word("V")})}
}

// keysOf are keys of the type that commands of a group are for.
var keysOf = map[string][]string{
	"string": {"string", "a", "number"}, "hash": {"hash", "h1"}, "list": {"list", "l1"}, "set": {"set", "s1", "numbers"}, "sorted-set": {"zset", "z1"},
	"bitmap": {"string", "bits"}, "geo": {"geo"}, "hyperloglog": {"hll"}, "stream": {"stream"},
}

func (d *documented) key(group string) string {
	if own := keysOf[group]; own != nil && d.IntN(5) > 0 {
		return d.pick(own)
	}
	return d.pick([]string{"string", "number", "hash", "list", "set", "zset", "stream", "geo", "hll", "absent", "numbers", "bits", "s1", "z1"})
}

// documentedFixture makes keys of every type.
var documentedFixture = [][]string{
	{"set", "number", "41"}, {"sadd", "numbers", "1", "2", "3"}, {"geoadd", "geo", "13.361389", "38.115556", "m1", "15.087269", "37.502669", "m2"},
	{"pfadd", "hll", "a", "b", "c"}, {"setbit", "bits", "100", "1"}, {"xadd", "stream", "5-1", "f", "v"}, {"xadd", "stream", "5-2", "f", "v", "g", "w"},
	{"xgroup", "create", "stream", "m1", "0"}, {"sadd", "s1", "m2", "m3", "m4"}, {"zadd", "z1", "5", "m2", "6", "m5"}, {"rpush", "l1", "m1"}, {"hset", "h1", "m1", "7"},
}

// sequence returns the commands of one sequence, which begins with an empty keyspace.
func (d *documented) sequence(length int) [][]string {
	commands := slices.Concat(fixture[1:], documentedFixture)
	if d.asksKeys {
		commands = nil
	}
	for range length {
		args := d.draw()
		switch {
		case d.asksKeys:
			commands = append(commands, d.aboutKeys(args))
		case !brief(args) && !slices.Contains(args, "BYLEX"): // see notDrawn
			commands = append(commands, args)
		}
	}
	return commands
}

package kv

import (
	"strings"

	"lockstep/internal/acl"
	"lockstep/internal/resp"
)

// keySpec says where some keys of a command are and what it does to them: a key specification of COMMAND INFO.
type keySpec struct {
	flags  []resp.Value
	access acl.Access

	keyword string // found behind this word (upper case), from argument start on (negative: searched from the end)
	begin   int    // else: found from this argument on
	start   int
	unknown bool // cannot be told from the specification
	fake    bool // no key, but routed like one: a channel of SSUBSCRIBE and its like
	partial bool // there may be keys that the specification does not tell of

	counted      bool // a number says how many keys follow
	count, first int  // places of the number and of the first key, from where they begin
	last, limit  int
	step         int
}

// commandUse is what access control has to know about one command or subcommand.
type commandUse struct {
	specs    []keySpec
	channels channelUse
}

// channelUse says which arguments are channels.
type channelUse struct {
	first, last int // as FirstKey and LastKey; first 0: none
	pattern     bool
}

// channelUses are the commands that name channels.
var channelUses = map[string]channelUse{
	"subscribe": {first: 1, last: -1}, "ssubscribe": {first: 1, last: -1}, "psubscribe": {first: 1, last: -1, pattern: true},
	"publish": {first: 1, last: 1}, "spublish": {first: 1, last: 1},
}

// commandUses holds every command and subcommand by its full name.
var commandUses = readCommandUses()

func readCommandUses() map[string]commandUse {
	all := make(map[string]commandUse, len(catalog))
	for _, d := range catalog {
		u := commandUse{channels: channelUses[d.name]}
		for _, spec := range d.info.Items[infoSpecs].Items {
			u.specs = append(u.specs, readSpec(spec))
		}
		all[d.name] = u
	}
	return all
}

func readSpec(v resp.Value) keySpec {
	flags, _ := lookupMap(v, "flags")
	search, _ := lookupMap(v, "begin_search")
	find, _ := lookupMap(v, "find_keys")
	s := keySpec{flags: flags.Items, step: max(1, specNumber(find, "keystep"))}
	for _, flag := range flags.Items {
		switch flag.Text {
		case "access":
			s.access |= acl.Read
		case "insert", "delete", "update":
			s.access |= acl.Write
		case "not_key":
			s.unknown, s.fake = true, true
		case "incomplete":
			s.partial = true
		}
	}
	switch kind, _ := lookupMap(search, "type"); kind.Text {
	case "index":
		s.begin = specNumber(search, "index")
	case "keyword":
		inner, _ := lookupMap(search, "spec")
		word, _ := lookupMap(inner, "keyword")
		s.keyword, s.start = strings.ToUpper(word.Text), specNumber(search, "startfrom")
	default:
		s.unknown = true
	}
	switch kind, _ := lookupMap(find, "type"); kind.Text {
	case "range":
		s.last, s.limit = specNumber(find, "lastkey"), specNumber(find, "limit")
	case "keynum":
		s.counted, s.count, s.first = true, specNumber(find, "keynumidx"), specNumber(find, "firstkey")
	default:
		s.unknown = true
	}
	return s
}

// place returns the first and the last argument that the specification means; first 0: none. It reports false if the
// arguments do not fit.
func (s *keySpec) place(args [][]byte) (first, last int, ok bool) {
	first = s.begin
	if s.keyword != "" {
		if first = s.find(args); first == 0 {
			return 0, 0, true
		}
	}
	switch {
	case s.counted:
		at := first + s.count
		if at >= len(args) {
			return 0, 0, false
		}
		first += s.first
		count, isNumber := resp.ParseInt(args[at])
		if !isNumber || count < 0 || count > int64((len(args)-first+s.step-1)/s.step) {
			return 0, 0, false
		}
		if count == 0 {
			return 0, 0, true
		}
		last = first + (int(count)-1)*s.step
	case s.last >= 0:
		last = first + s.last
	case s.limit > 0:
		last = first + (len(args)-first)/s.limit + s.last
	default:
		last = len(args) + s.last
	}
	return first, last, last < len(args)
}

// find returns the argument behind the keyword, 0 if it is not there.
func (s *keySpec) find(args [][]byte) int {
	at, step := s.start, 1
	if at < 0 {
		at, step = at+len(args), -1
	}
	for ; at > 0 && at < len(args)-1; at += step {
		if strings.EqualFold(string(args[at]), s.keyword) {
			return at + 1
		}
	}
	return 0
}

// KeyUse is a key among the arguments of a command.
type KeyUse struct {
	Key    []byte
	Access acl.Access
	flags  []resp.Value // as COMMAND GETKEYSANDFLAGS names them
}

// KeyUses appends the keys that a command touches, and how, to uses. name is the full name of the command or subcommand
// (lower case), args all arguments. It reports false if they do not fit the command.
func KeyUses(name string, args [][]byte, uses []KeyUse) ([]KeyUse, bool) {
	from, specs := len(uses), commandUses[name].specs
	for i := range specs {
		s := &specs[i]
		if s.unknown {
			continue
		}
		first, last, ok := s.place(args)
		if !ok {
			return uses, false
		}
		for at := first; first > 0 && at <= last; at += s.step {
			uses = append(uses, KeyUse{args[at], s.access, s.flags})
		}
	}
	refineKeys(name, args, uses[from:])
	switch name {
	case "sort":
		uses = sortDestination(args, uses)
	case "georadius", "georadiusbymember": // the last one counts, a specification finds the first
		uses = withRadiusDestination(args, uses)
	}
	return uses, true
}

// refineKeys makes the flags of a command whose specification has variable ones those of these arguments.
func refineKeys(name string, args [][]byte, uses []KeyUse) {
	switch name {
	case "set":
		refine(uses, setReads(args), acl.Write, "OW", "update")
	case "bitfield":
		refine(uses, bitfieldWrites(args), acl.Read, "RO", "access")
	}
}

// refine replaces what a specification with variable flags says, unless both is the case: the command reads and writes.
func refine(uses []KeyUse, both bool, access acl.Access, flags ...string) {
	if both {
		flags = []string{"RW", "access", "update"}
		access = acl.Read | acl.Write
	}
	for i := range uses {
		uses[i].Access, uses[i].flags = access, setValue(flags...).Items
	}
}

// setReads reports whether SET has the option GET.
func setReads(args [][]byte) bool {
	for _, arg := range args[min(3, len(args)):] {
		if isWord(arg, "get") {
			return true
		}
	}
	return false
}

// bitfieldWrites reports whether BITFIELD has anything but GET and OVERFLOW with their arguments.
func bitfieldWrites(args [][]byte) bool {
	for i := 2; i < len(args); i++ {
		switch left := len(args) - i - 1; {
		case isWord(args[i], "get") && left >= 2:
			i += 2
		case isWord(args[i], "overflow") && left >= 1:
			i++
		default:
			return true
		}
	}
	return false
}

// sortDestination appends the key behind the last STORE of SORT.
func sortDestination(args [][]byte, uses []KeyUse) []KeyUse {
	store := 0
	for i := 2; i < len(args); i++ {
		switch {
		case isWord(args[i], "limit"):
			i += 2
		case isWord(args[i], "get"), isWord(args[i], "by"):
			i++
		case isWord(args[i], "store") && i+1 < len(args):
			store, i = i+1, i+1
		}
	}
	if store == 0 {
		return uses
	}
	return append(uses, KeyUse{args[store], acl.Write, setValue("OW", "update").Items})
}

// HasKeys reports whether a command, named in full, touches keys.
func HasKeys(name string) bool { return len(commandUses[name].specs) > 0 }

// Channels returns the channels that a command names for access control.
func Channels(name string, args [][]byte) []acl.Channel {
	use := commandUses[name].channels
	if use.first == 0 {
		return nil
	}
	last := use.last
	if last < 0 {
		last += len(args)
	}
	var channels []acl.Channel
	for i := use.first; i <= last && i < len(args); i++ {
		channels = append(channels, acl.Channel{Name: args[i], Pattern: use.pattern})
	}
	return channels
}

// accessTable is what access control knows about the commands.
var accessTable = acl.NewTable(accessCommands(), func(pattern, text string) bool { return globMatch(pattern, text) })

func accessCommands() []acl.Command {
	var list []acl.Command
	for _, d := range catalog {
		c := acl.Command{Name: d.name}
		for _, category := range d.info.Items[infoCategories].Items {
			c.Categories = append(c.Categories, strings.TrimPrefix(category.Text, "@"))
		}
		for _, flag := range d.info.Items[infoFlags].Items {
			c.Open = c.Open || flag.Text == "no_auth"
		}
		list = append(list, c)
	}
	return list
}

package kv

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"lockstep/internal/anycase"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// Flag is a property of a command.
type Flag uint32

const (
	// Write: the command may change the keyspace; it goes through the log.
	Write Flag = 1 << iota
	// Readonly: the command reads the keyspace; Machine.Read can execute it.
	Readonly
	// DenyOOM: the command may take memory and is refused when there is none.
	DenyOOM
	// Fast: the time it takes does not depend on the size of the value, or only logarithmically.
	Fast
	// Admin: for operators.
	Admin
	// Local: the shell answers it, not the machine; it stands in the table for COMMAND and arity. Those that Bare also
	// reports can nevertheless be executed in a transaction.
	Local
	// NoAuth: allowed before the client has authenticated.
	NoAuth
	// Movable: FirstKey, LastKey and Step do not describe all keys; Keys does.
	Movable
	// Blocking: the command waits if it finds nothing (MayBlock).
	Blocking
)

// Command describes one command. It does not change.
type Command struct {
	Name string // lower case
	// Arity counts the arguments, the name included; -n means at least n.
	Arity int
	Flags Flag
	// FirstKey, LastKey and Step say which arguments are keys; LastKey may be negative (from the end); all 0: none.
	FirstKey, LastKey, Step int
	// Subcommands are the names of those that exist, sorted; nil if Redis has none, or all of Redis' exist.
	Subcommands []string
	// ReadonlySubcommands are those of a Write command that change nothing.
	ReadonlySubcommands []string

	run      func(call)
	numkeys  int  // argument that counts the keys behind it, 0: none
	asksRoom bool // Machine.noRoom is looked at, although it is no DenyOOM
	random   bool // draws lots even when it only reads
	streams  bool // the keys are the first half of what stands behind the word STREAMS
	sized    bool // Brief looks at its keys
	ranged   bool // and at its arguments
}

// CheckArity reports whether argc arguments, the name included, are acceptable.
func (c *Command) CheckArity(argc int) bool {
	return argc == c.Arity || c.Arity < 0 && argc >= -c.Arity
}

// Writes reports whether the command with these arguments may change the state and hence goes through the log.
func (c *Command) Writes(args [][]byte) bool {
	if c.Flags&Write == 0 {
		return false
	}
	return c.ReadonlySubcommands == nil || len(args) < 2 ||
		!slices.ContainsFunc(c.ReadonlySubcommands, func(name string) bool { return isWord(args[1], name) })
}

// MayBlock reports whether the command, executed by Apply outside of a transaction, may wait: BLPOP and the like, and XREAD and
// XREADGROUP with BLOCK. It then goes through the log, even if it only reads.
func (c *Command) MayBlock(args [][]byte) bool {
	if c.Flags&Blocking == 0 {
		return false
	}
	if c.Name[0] == 'b' {
		return true
	}
	for _, arg := range args[1:] {
		if isWord(arg, "block") || isWord(arg, "streams") {
			return isWord(arg, "block")
		}
	}
	return false
}

// Executable reports whether the machine can execute the command: alone, or inside a transaction if it is Local.
func (c *Command) Executable() bool { return c.run != nil }

// Keys appends the keys among args to keys. It reports false if args, which must have passed CheckArity, do not fit
// the command.
func (c *Command) Keys(args [][]byte, keys [][]byte) ([][]byte, bool) {
	if c.FirstKey > 0 {
		last := c.LastKey
		if last < 0 {
			last += len(args)
		}
		for i := c.FirstKey; i <= last; i += c.Step {
			if i >= len(args) {
				return keys, false
			}
			keys = append(keys, args[i])
		}
	}
	if c.numkeys > 0 {
		if c.numkeys >= len(args) {
			return keys, false
		}
		count, ok := resp.ParseInt(args[c.numkeys])
		first := c.numkeys + 1
		if !ok || count < 1 || count > int64(len(args)-first) {
			return keys, false
		}
		keys = append(keys, args[first:first+int(count)]...)
	}
	if c.streams {
		at := slices.IndexFunc(args, func(arg []byte) bool { return isWord(arg, "streams") }) + 1
		if at == 0 || at == len(args) || (len(args)-at)%2 != 0 {
			return keys, false
		}
		keys = append(keys, args[at:at+(len(args)-at)/2]...)
	}
	return keys, true
}

// Slot returns the slot of the command's keys for a request's header: smr.NoSlot if it has none or of several slots.
func (c *Command) Slot(args [][]byte) uint16 {
	if c.FirstKey > 0 && c.FirstKey == c.LastKey && c.numkeys == 0 && c.FirstKey < len(args) {
		return Slot(args[c.FirstKey])
	}
	keys, ok := c.Keys(args, nil)
	if !ok || len(keys) == 0 {
		return smr.NoSlot
	}
	slot := Slot(keys[0])
	for _, key := range keys[1:] {
		if Slot(key) != slot {
			return smr.NoSlot
		}
	}
	return slot
}

// commands holds every command, sorted by name; byName finds one.
var commands, byName = assemble(keyCommands, databaseCommands, expireCommands, stringCommands, listCommands, blockingCommands, hashCommands, setCommands,
	zsetCommands, zsetRangeCommands, streamCommands, pubsubCommands, shellCommands, bitCommands, hyperLogLogCommands, geoCommands, sortCommands, dumpCommands, scriptCommands, functionCommands, localCommands)

func assemble(groups ...[]Command) ([]*Command, map[string]*Command) {
	var sorted []*Command
	index := make(map[string]*Command)
	for _, group := range groups {
		for i := range group {
			group[i].sized, group[i].ranged = sized[group[i].Name], ranged[group[i].Name]
			sorted = append(sorted, &group[i])
			index[group[i].Name] = &group[i]
		}
	}
	slices.SortFunc(sorted, func(a, b *Command) int { return strings.Compare(a.Name, b.Name) })
	return sorted, index
}

// Commands returns every command, sorted by name.
func Commands() []*Command { return slices.Clone(commands) }

// Lookup returns the command of that name, in any case, or nil.
func Lookup(name []byte) *Command {
	command, _ := inAnyCase.Find(name)
	return command
}

var inAnyCase = anycase.New(byName)

// UnknownCommandError returns the text with which Redis refuses a command that it does not know: it quotes the first
// 128 bytes of the name and of the arguments.
func UnknownCommandError(args [][]byte) string {
	var quoted strings.Builder
	for _, arg := range args[1:] {
		left := 128 - quoted.Len()
		if left <= 0 {
			break
		}
		fmt.Fprintf(&quoted, "'%s' ", cString(arg, left))
	}
	return fmt.Sprintf("ERR unknown command '%s', with args beginning with: %s", cString(args[0], 128), quoted.String())
}

// cString returns what C's %.*s prints of b: up to limit bytes, and not beyond a NUL.
func cString(b []byte, limit int) []byte {
	b = b[:min(len(b), limit)]
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return b
}

// WrongArityError returns the text with which Redis refuses a wrong number of arguments.
func WrongArityError(name string) string {
	return "ERR wrong number of arguments for '" + name + "' command"
}

// Error texts that many commands share.
const (
	errSyntax   = "ERR syntax error"
	errInteger  = "ERR value is not an integer or out of range"
	errFloat    = "ERR value is not a valid float"
	errNoKey    = "ERR no such key"
	errIndex    = "ERR index out of range"
	errPositive = "ERR value is out of range, must be positive"
	errRange    = "ERR value is out of range"
)

// integer reads argument i as a 64 bit integer, or replies an error.
func (c call) integer(i int) (int64, bool) {
	n, ok := resp.ParseInt(c.args[i])
	if !ok {
		c.reply.Error(errInteger)
	}
	return n, ok
}

// integers reads arguments i and i+1.
func (c call) integers(i int) (first, second int64, ok bool) {
	if first, ok = c.integer(i); ok {
		second, ok = c.integer(i + 1)
	}
	return first, second, ok
}

// positive reads argument i as an integer in 0..MaxInt64, or replies an error.
func (c call) positive(i int) (int, bool) {
	n, ok := resp.ParseInt(c.args[i])
	if !ok || n < 0 {
		c.reply.Error(errPositive)
		return 0, false
	}
	return int(n), true
}

// between reads argument i as an integer within limits, or replies text.
func (c call) between(i int, low, high int64, text string) (int64, bool) {
	n, ok := resp.ParseInt(c.args[i])
	if !ok || n < low || n > high {
		c.reply.Error(text)
		return 0, false
	}
	return n, true
}

// is reports whether argument i is word (lower case), in any case.
func (c call) is(i int, word string) bool { return isWord(c.args[i], word) }

func isWord(arg []byte, word string) bool {
	if len(arg) != len(word) {
		return false
	}
	for i, b := range arg {
		if b >= 'A' && b <= 'Z' {
			b += 'a' - 'A'
		}
		if b != word[i] {
			return false
		}
	}
	return true
}

// clampInt narrows n to the range of int.
func clampInt(n int64) int { return int(max(math.MinInt, min(math.MaxInt, n))) }

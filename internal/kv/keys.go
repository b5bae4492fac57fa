package kv

import (
	"math"
	"strconv"
	"strings"

	"lockstep/internal/resp"
)

var keyCommands = []Command{
	{Name: "dbsize", Arity: 1, Flags: Readonly | Fast, run: dbSize},
	{Name: "del", Arity: -2, Flags: Write, FirstKey: 1, LastKey: -1, Step: 1, run: del},
	{Name: "exists", Arity: -2, Flags: Readonly | Fast, FirstKey: 1, LastKey: -1, Step: 1, run: exists},
	{Name: "flushall", Arity: -1, Flags: Write, run: flush},
	{Name: "flushdb", Arity: -1, Flags: Write, run: flush},
	{Name: "keys", Arity: 2, Flags: Readonly, run: keys},
	{Name: "object", Arity: -2, Flags: Readonly, run: objectCommand},
	{Name: "randomkey", Arity: 1, Flags: Readonly, run: randomKey, random: true},
	{Name: "rename", Arity: 3, Flags: Write, FirstKey: 1, LastKey: 2, Step: 1, run: rename},
	{Name: "renamenx", Arity: 3, Flags: Write | Fast, FirstKey: 1, LastKey: 2, Step: 1, run: renameNX},
	{Name: "scan", Arity: -2, Flags: Readonly, run: scan},
	{Name: "touch", Arity: -2, Flags: Readonly | Fast, FirstKey: 1, LastKey: -1, Step: 1, run: exists},
	{Name: "type", Arity: 2, Flags: Readonly | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: typeOf},
	{Name: "unlink", Arity: -2, Flags: Write | Fast, FirstKey: 1, LastKey: -1, Step: 1, run: del},
}

func dbSize(c call) { c.reply.Int(int64(c.db.keys.size)) }

// del also answers UNLINK: taking a value out is cheap, its memory is collected beside the machine's work.
func del(c call) {
	var count int64
	for _, key := range c.args[1:] {
		if e := c.peek(key); e != nil {
			c.drop(e)
			c.notify(EventGeneric, "del", key)
			count++
		}
	}
	c.reply.Int(count)
}

// exists also answers TOUCH: there is no access time to change.
func exists(c call) {
	var count int64
	for _, key := range c.args[1:] {
		if c.peek(key) != nil {
			count++
		}
	}
	c.reply.Int(count)
}

func typeOf(c call) {
	e := c.peek(c.args[1])
	if e == nil {
		c.reply.Simple("none")
		return
	}
	c.reply.Simple(kindOf(e))
}

func keys(c call) {
	pattern := string(c.args[1])
	mark, count := c.reply.Mark(), 0
	c.db.keys.each(func(e *entry) bool {
		if c.m.visible(c.db, e) && (pattern == "*" || globMatch(pattern, e.key())) {
			c.reply.BulkString(e.key())
			count++
		}
		return true
	})
	c.reply.InsertArray(mark, count)
}

// randomTries bounds the draws that may meet expired keys.
const randomTries = 100

func randomKey(c call) {
	if c.db.keys.size == 0 {
		c.reply.Null()
		return
	}
	d := c.dice()
	for range randomTries {
		if e := c.db.keys.draw(d); c.m.visible(c.db, e) {
			c.reply.BulkString(e.key())
			return
		}
	}
	var found *entry // nearly all have expired: the oldest that has not
	c.db.keys.each(func(e *entry) bool {
		if c.m.visible(c.db, e) {
			found = e
		}
		return found == nil
	})
	if found == nil {
		c.reply.Null()
		return
	}
	c.reply.BulkString(found.key())
}

func flush(c call) {
	if len(c.args) > 2 || len(c.args) == 2 && !c.is(1, "async") && !c.is(1, "sync") {
		c.reply.Error(errSyntax)
		return
	}
	if c.is(0, "flushall") {
		for _, d := range &c.m.databases {
			d.flush(c.m, c.version)
		}
	} else {
		c.db.flush(c.m, c.version)
	}
	c.reply.OK()
}

func rename(c call) {
	if c.move() {
		c.reply.OK()
	}
}

func renameNX(c call) {
	if c.peek(c.args[1]) != nil && c.peek(c.args[2]) != nil {
		c.reply.Int(0)
		return
	}
	if c.move() {
		c.reply.Int(1)
	}
}

// move gives the value of the first key to the second, or replies that there is none.
func (c call) move() bool {
	source := c.find(c.args[1])
	if source == nil {
		c.reply.Error(errNoKey)
		return false
	}
	if string(c.args[1]) == string(c.args[2]) {
		return true
	}
	if target := c.peek(c.args[2]); target != nil {
		c.drop(target)
	}
	expires := source.value.due != 0
	var at int64
	if expires {
		at = c.db.due.at(source)
	}
	target := c.replant(source, c, c.args[2])
	c.touch(target)
	if expires {
		c.expireAt(target, at)
	}
	c.notify(EventGeneric, "rename_from", c.args[1])
	c.notify(EventGeneric, "rename_to", c.args[2])
	return true
}

// scanOptions are the options of SCAN, HSCAN, SSCAN and ZSCAN.
type scanOptions struct {
	cursor  uint64
	count   int
	pattern string
	match   bool   // pattern was given, and is not "*"
	kind    string // of SCAN, if typed
	typed   bool   // TYPE was given
}

// scanCursor reads argument i as a cursor as C's strtoul does (a sign is allowed, nothing is 0), or replies an error.
func (c call) scanCursor(i int) (uint64, bool) {
	text := string(c.args[i])
	sign := strings.HasPrefix(text, "-") || strings.HasPrefix(text, "+")
	if sign {
		text = text[1:]
	}
	if text == "" && !sign {
		return 0, true
	}
	cursor, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		c.reply.Error("ERR invalid cursor")
		return 0, false
	}
	if c.args[i][0] == '-' {
		cursor = -cursor
	}
	return cursor, true
}

// scanOptions reads the options from argument i on, or replies an error.
func (c call) scanOptions(i int, cursor uint64) (o scanOptions, ok bool) {
	o = scanOptions{cursor: cursor, count: 10}
	for ; i < len(c.args); i += 2 {
		switch more := i+1 < len(c.args); {
		case more && c.is(i, "count"):
			n, ok := c.integer(i + 1)
			if !ok {
				return o, false
			}
			if n < 1 {
				c.reply.Error(errSyntax)
				return o, false
			}
			o.count = clampInt(n)
		case more && c.is(i, "match"):
			o.pattern = string(c.args[i+1])
			o.match = o.pattern != "*"
		case more && c.is(i, "type") && c.is(0, "scan"):
			o.kind, o.typed = string(c.args[i+1]), true
		default:
			c.reply.Error(errSyntax)
			return o, false
		}
	}
	return o, true
}

func (o scanOptions) matches(key string) bool { return !o.match || globMatch(o.pattern, key) }

func scan(c call) {
	cursor, ok := c.scanCursor(1)
	if !ok {
		return
	}
	o, ok := c.scanOptions(2, cursor)
	if !ok {
		return
	}
	var found []string
	next := c.db.keys.scan(o.cursor, o.count, func(e *entry) {
		if c.m.visible(c.db, e) && o.matches(e.key()) && (!o.typed || isWord([]byte(kindOf(e)), lower(o.kind))) {
			found = append(found, e.key())
		}
	})
	c.scanHeader(next, len(found))
	for _, key := range found {
		c.reply.BulkString(key)
	}
}

func (c call) scanHeader(next uint64, count int) {
	c.reply.Array(2)
	c.reply.BulkString(strconv.FormatUint(next, 10))
	c.reply.Array(count)
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

var objectHelp = []string{
	"OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
	"ENCODING <key>",
	"    Return the kind of internal representation used in order to store the value",
	"    associated with a <key>.",
	"FREQ <key>",
	"    Return the access frequency index of the <key>. The returned integer is",
	"    proportional to the logarithm of the recent access frequency of the key.",
	"IDLETIME <key>",
	"    Return the idle time of the <key>, that is the approximated number of",
	"    seconds elapsed since the last access to the key.",
	"REFCOUNT <key>",
	"    Return the number of references of the value associated with the specified",
	"    <key>.",
	"HELP",
	"    Prints this help.",
}

func objectCommand(c call) {
	subcommand := lower(string(c.args[1]))
	switch subcommand {
	case "help", "encoding", "refcount", "idletime", "freq":
	default:
		c.reply.Error("ERR unknown subcommand '" + string(cString(c.args[1], 128)) + "'. Try OBJECT HELP.")
		return
	}
	if subcommand == "help" && len(c.args) != 2 || subcommand != "help" && len(c.args) != 3 {
		c.reply.Error(WrongArityError("object|" + subcommand))
		return
	}
	if subcommand == "help" {
		c.reply.Array(len(objectHelp))
		for _, line := range objectHelp {
			c.reply.Simple(line)
		}
		return
	}
	e := c.peek(c.args[2])
	if e == nil {
		c.reply.Null()
		return
	}
	switch subcommand {
	case "encoding":
		c.reply.BulkString(encodingOf(e))
	case "refcount":
		c.reply.Int(references(e))
	case "idletime", "freq":
		c.replyUse(e, subcommand == "freq")
	}
}

// references answers OBJECT REFCOUNT: Redis shares the objects of small integers and says so by a fixed number.
func references(e *entry) int64 {
	if e.value.held&heldCold != 0 {
		return coldOf(e).references()
	}
	if n, ok := resp.ParseInt(e.value.text()); ok && e.value.held == heldText && n >= 0 && n < 10_000 {
		return sharedReferences
	}
	return 1
}

const sharedReferences = math.MaxInt32

// embeddedText is the length in bytes up to which Redis keeps a string in encoding "embstr".
const embeddedText = 44

func encodingOf(e *entry) string {
	if e.value.held&heldCold != 0 {
		return coldOf(e).encoding()
	}
	switch e.value.held {
	case heldText, heldOwn:
	case heldRaw:
		return "raw"
	case heldFloat:
		return "embstr"
	default:
		return e.value.object().encoding()
	}
	text := e.value.text()
	if _, ok := resp.ParseInt(text); ok {
		return "int"
	}
	if len(text) <= embeddedText {
		return "embstr"
	}
	return "raw"
}

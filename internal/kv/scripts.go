package kv

import (
	"slices"
	"strconv"
	"strings"

	"lockstep/internal/resp"
	"lockstep/internal/script"
	"lockstep/internal/script/meter"
)

var scriptCommands = []Command{
	{Name: "eval", Arity: -3, Flags: Write | Movable, numkeys: 2, asksRoom: true, run: func(c call) { c.eval(false) }},
	{Name: "eval_ro", Arity: -3, Flags: Readonly | Movable, numkeys: 2, random: true, run: func(c call) { c.eval(true) }},
	{Name: "evalsha", Arity: -3, Flags: Write | Movable, numkeys: 2, asksRoom: true, run: func(c call) { c.evalSum(false) }},
	{Name: "evalsha_ro", Arity: -3, Flags: Readonly | Movable, numkeys: 2, random: true, run: func(c call) { c.evalSum(true) }},
	{Name: "script", Arity: -2, Flags: Write, ReadonlySubcommands: []string{"debug", "exists", "help", "kill"}, run: scriptCommand},
}

// lua is what the machine has of Lua. Scripts and libraries are part of the state, engines are not: they hold nothing between
// two runs but compiled programs.
type luaState struct {
	// loaded are the sources that came by SCRIPT LOAD, evaluated those that came by EVAL only: at most maxEvaluated, the one
	// unused for longest first. The keys are the sums.
	loaded, evaluated table[string]
	libraries         []*script.Library // sorted by name
	bytes             int64             // what all of these count for in memory
	limits            script.Limits

	engine  *script.Engine            // of whoever applies the log
	engines meter.Pool[script.Engine] // of those who read
	host    *scriptHost               // of the engine, reused
}

const (
	// maxEvaluated bounds the scripts that EVAL leaves in the state: who builds another script for each call would fill it.
	maxEvaluated = 500
	// storedOverhead is what a script takes beside its source, in bytes.
	storedOverhead = 256
)

func storedBytes(source string) int64 { return int64(len(source)) + storedOverhead }

func (l *luaState) digest(d *digester) {
	for _, scripts := range []*table[string]{&l.loaded, &l.evaluated} {
		d.number(uint64(scripts.size))
		scripts.each(func(s *node[string]) bool {
			d.text(s.value)
			return true
		})
	}
	d.number(uint64(len(l.libraries)))
	for _, lib := range l.libraries {
		d.text(lib.Source)
	}
}

// find returns the script of a sum, nil if there is none.
func (l *luaState) find(sum string) *node[string] {
	if s := l.loaded.findText(sum); s != nil {
		return s
	}
	return l.evaluated.findText(sum)
}

// used notes that a script is executed: of those that EVAL left it is the last to go.
func (l *luaState) used(s *node[string]) {
	last := l.evaluated.order
	if l.evaluated.size == 0 || last[len(last)-1][len(last[len(last)-1])-1] == s || l.evaluated.findText(s.key) != s {
		return
	}
	l.evaluated.remove(s)
	l.evaluated.insert(s.key, s.value)
}

// evaluate adds a script that is not there, in place of one unused for longest if there are too many.
func (l *luaState) evaluate(sum, source string) {
	if l.evaluated.size == maxEvaluated {
		oldest := l.evaluated.order[0][0]
		l.bytes -= storedBytes(oldest.value)
		l.evaluated.remove(oldest)
	}
	l.evaluated.insert(sum, source)
	l.bytes += storedBytes(source)
}

// load adds a script for good.
func (l *luaState) load(sum, source string) {
	if l.loaded.findText(sum) != nil {
		return
	}
	if s := l.evaluated.findText(sum); s != nil {
		l.evaluated.remove(s)
		l.bytes -= storedBytes(s.value)
	}
	l.loaded.insert(sum, source)
	l.bytes += storedBytes(source)
}

// scriptSettings bound each run. They are the same on every node, so that all end a run at the same instruction.
var scriptSettings = []settingRule{
	{name: "lua-instruction-limit", standard: "100000000", parse: parseBetween(10_000, 1e12), apply: func(m *Machine, value string) {
		m.lua.limits.Instructions, _ = strconv.ParseInt(value, 10, 64)
	}},
	{name: "lua-memory-limit", standard: strconv.Itoa(512 << 20), parse: parseMemory, apply: func(m *Machine, value string) {
		m.lua.limits.Memory, _ = strconv.ParseInt(value, 10, 64)
	}},
}

// borrow returns the engine for this call; giveBack takes it when it is no longer used.
func (c call) borrow() *script.Engine {
	l := &c.m.lua
	e := l.engine
	if !c.writing {
		e = l.engines.Get()
	}
	if e == nil {
		e = script.NewEngine()
	}
	if c.writing {
		l.engine = e
	}
	return e
}

func (c call) giveBack(e *script.Engine) {
	if !c.writing {
		c.m.lua.engines.Put(e)
	}
}

// scriptKeys cuts the arguments behind the number of keys, which is argument 2, into keys and others.
func (c call) scriptKeys(errNumber string) (keys, args [][]byte, ok bool) {
	n, isNumber := resp.ParseInt(c.args[2])
	switch {
	case !isNumber:
		c.reply.Error(errNumber)
	case n > int64(len(c.args)-3):
		c.reply.Error("ERR Number of keys can't be greater than number of args")
	case n < 0:
		c.reply.Error("ERR Number of keys can't be negative")
	default:
		return c.args[3 : 3+n], c.args[3+n:], true
	}
	return nil, nil, false
}

// sumLength is how many digits the SHA1 of a script has.
const sumLength = 40

const errNoScript = "NOSCRIPT No matching script. Please use EVAL."

// evalSum executes a script of the state.
func (c call) evalSum(readonly bool) {
	if len(c.args[1]) != sumLength {
		c.reply.Error(errNoScript)
		return
	}
	if _, _, ok := c.scriptKeys(errInteger); !ok {
		return
	}
	stored := c.m.lua.find(lower(string(c.args[1])))
	if stored == nil {
		c.reply.Error(errNoScript)
		return
	}
	if c.writing {
		c.m.lua.used(stored)
	}
	c.runScript(stored.key, []byte(stored.value), readonly)
}

// eval executes a script and, if it comes through the log, keeps it.
func (c call) eval(readonly bool) {
	if _, _, ok := c.scriptKeys(errInteger); !ok {
		return
	}
	sum := script.Sum(c.args[1])
	if c.writing {
		if stored := c.m.lua.find(sum); stored != nil {
			c.m.lua.used(stored)
		} else if c.compiles(sum, c.args[1]) {
			c.m.lua.evaluate(sum, string(c.args[1]))
		} else {
			return
		}
	}
	c.runScript(sum, c.args[1], readonly)
}

// compiles reports whether the source is a script, or replies why it is none.
func (c call) compiles(sum string, source []byte) bool {
	_, code, skipped, err := script.Split(source)
	if err == nil {
		e := c.borrow()
		err = e.Check(sum, code, skipped)
		c.giveBack(e)
	}
	if err != nil {
		c.reply.Error(err.Error())
		return false
	}
	return true
}

const (
	errWriteFlag    = "ERR Can not execute a script with write flag using *_ro command."
	errScriptMemory = "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'"
	errWriteOnly    = "ERR Write commands are not allowed from read-only scripts."
)

func (c call) runScript(sum string, source []byte, readonly bool) {
	header, code, skipped, err := script.Split(source)
	if err != nil {
		c.reply.Error(err.Error())
		return
	}
	h, problem := c.newScriptHost(readonly, header.Present, header.Flags)
	if problem != "" {
		c.reply.Error(problem)
		return
	}
	keys, args, _ := c.scriptKeys(errInteger)
	e := c.borrow()
	e.Run(code, skipped, script.Call{Name: sum, Keys: keys, Args: args, Host: h, Now: c.now, Seed: c.dice().source.Uint64(), Limits: c.runLimits()}, c.reply)
	c.giveBack(e)
}

func (c call) runLimits() script.Limits {
	limits := c.m.lua.limits
	limits.Reply = script.DefaultLimits.Reply
	return limits
}

// outOfMemory reports whether this request began without room for more (Machine.noRoom).
func (c call) outOfMemory() bool { return c.writing && c.m.set.maxMemory > 0 && c.m.noRoom }

// newScriptHost returns what a script or function executes its commands through, or why it may not run. Only a script without
// a shebang line declares nothing about itself.
func (c call) newScriptHost(readonly, declares bool, flags []string) (host *scriptHost, problem string) {
	noWrites, allowOOM := slices.Contains(flags, script.NoWrites), slices.Contains(flags, script.AllowOOM)
	switch {
	case declares && readonly && !noWrites:
		return nil, errWriteFlag
	case declares && c.outOfMemory() && !allowOOM && !noWrites:
		return nil, errScriptMemory
	}
	h := new(scriptHost)
	if c.writing {
		if c.m.lua.host == nil {
			c.m.lua.host = h
		}
		h = c.m.lua.host
	}
	*h = scriptHost{c: c, selected: c.db.number, reply: resp.Reply{}}
	h.c.selected, h.c.script = &h.selected, true
	h.readonly = readonly || noWrites
	h.noGrowth = c.outOfMemory() && !allowOOM
	return h, ""
}

// scriptHost executes the commands of one script: in the database of the call, which SELECT changes for the rest of the
// script, at the same log time, each with lots of its own.
type scriptHost struct {
	c        call
	selected int
	commands uint64 // executed so far
	readonly bool
	noGrowth bool // there is no memory, and nothing was written yet: a DenyOOM command is refused
	reply    resp.Reply
}

// ScriptLogger is a Host that wants the lines of redis.log.
type ScriptLogger interface {
	// ScriptLog is called from Apply: level is 0 (debug) to 3 (warning).
	ScriptLog(level int, message string)
}

// Call implements script.Host.
func (h *scriptHost) Call(args [][]byte, proto int, reply []byte) []byte {
	h.reply = resp.Reply{Buf: reply, Proto: proto}
	c := h.c
	command, problem := scriptable(args)
	if problem == "" {
		problem = c.denied(args, true)
	}
	switch {
	case problem != "":
	case h.readonly && command.Flags&Write != 0:
		problem = errWriteOnly
	case h.noGrowth && command.Flags&DenyOOM != 0:
		problem = errOutOfMemory
	}
	if problem != "" {
		h.reply.Error(problem)
		return h.reply.Buf
	}
	if command.Writes(args) {
		h.noGrowth = false // what has begun goes on to its end
	}
	h.commands++
	c.db, c.args, c.reply = c.m.databases[h.selected], args, &h.reply
	c.seed = c.seed<<32 + h.commands
	c.run()
	return h.reply.Buf
}

// Work implements script.Host.
func (h *scriptHost) Work(args [][]byte) int64 {
	command, problem := scriptable(args)
	if problem != "" {
		return 0
	}
	c := h.c
	c.db, c.args = c.m.databases[h.selected], args
	return c.work(command)
}

// Allowed implements script.Host.
func (h *scriptHost) Allowed(args [][]byte) (bool, string) {
	if Lookup(args[0]) == nil {
		return false, "ERR Invalid command passed to redis.acl_check_cmd()"
	}
	return h.c.denied(args, false) == "", ""
}

// Log implements script.Host.
func (h *scriptHost) Log(level int, message string) {
	if logger, ok := h.c.m.host.(ScriptLogger); ok && h.c.writing {
		logger.ScriptLog(level, message)
	}
}

const (
	errScriptUnknown = "ERR Unknown Redis command called from script"
	errScriptArity   = "ERR Wrong number of args calling Redis command from script"
	errScriptRefused = "ERR This Redis command is not allowed from script"
)

// scriptable returns the command that a script asks for, or why it may not.
func scriptable(args [][]byte) (*Command, string) {
	command := Lookup(args[0])
	switch {
	case command == nil:
		return nil, errScriptUnknown
	case !command.CheckArity(len(args)):
		return nil, errScriptArity
	}
	if len(args) > 1 && container(command.Name) {
		d, known := describeSubcommand(command.Name, args[1])
		if !known {
			return nil, errScriptUnknown
		}
		if arity := int(d.Items[infoArity].Int); len(args) != arity && (arity > 0 || len(args) < -arity) {
			return nil, errScriptArity
		}
	}
	if command.run == nil || noScript[command.Name] {
		return nil, errScriptRefused
	}
	return command, ""
}

// noScript holds the commands that Redis refuses to scripts.
var noScript = func() map[string]bool {
	refused := make(map[string]bool)
	for _, command := range Commands() {
		if slices.Contains(CommandFlags(command.Name), "noscript") {
			refused[command.Name] = true
		}
	}
	for _, name := range []string{"eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro", "function", "script"} {
		refused[name] = true
	}
	return refused
}()

// subcommand is one of a command that has several. Its arity counts all arguments, as in Command.
type subcommand struct {
	name  string
	arity int
	run   func(call)
}

// dispatch executes the subcommand that argument 1 names.
func (c call) dispatch(of string, list []subcommand) {
	for _, s := range list {
		if !c.is(1, s.name) {
			continue
		}
		if n := len(c.args); n != s.arity && (s.arity > 0 || n < -s.arity) {
			c.reply.Error(WrongArityError(of + "|" + s.name))
			return
		}
		s.run(c)
		return
	}
	c.reply.Error("ERR unknown subcommand '" + string(cString(c.args[1], 128)) + "'. Try " + strings.ToUpper(of) + " HELP.")
}

func (c call) lines(list []string) {
	c.reply.Array(len(list))
	for _, line := range list {
		c.reply.Simple(line)
	}
}

const errNotBusy = "NOTBUSY No scripts in execution right now."

func scriptCommand(c call) {
	c.dispatch("script", []subcommand{
		{"debug", 3, func(c call) {
			c.reply.Error("ERR SCRIPT DEBUG is not possible here: a script runs on every replica")
		}},
		{"exists", -3, scriptExists},
		{"flush", -2, scriptFlush},
		{"help", 2, func(c call) { c.lines(scriptHelp) }},
		{"kill", 2, func(c call) { c.reply.Error(errNotBusy) }}, // a run never lasts beyond its record
		{"load", 3, func(c call) {
			sum := script.Sum(c.args[2])
			if c.m.lua.find(sum) != nil || c.compiles(sum, c.args[2]) {
				c.m.lua.load(sum, string(c.args[2]))
				c.reply.BulkString(sum)
			}
		}},
	})
}

func scriptExists(c call) {
	c.reply.Array(len(c.args) - 2)
	for _, sum := range c.args[2:] {
		n := int64(0)
		if c.m.lua.find(lower(string(sum))) != nil {
			n = 1
		}
		c.reply.Int(n)
	}
}

func scriptFlush(c call) {
	if len(c.args) > 3 || len(c.args) == 3 && !c.is(2, "sync") && !c.is(2, "async") {
		c.reply.Error("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
		return
	}
	c.m.lua.flushScripts()
	c.reply.OK()
}

func (l *luaState) flushScripts() {
	for _, scripts := range []*table[string]{&l.loaded, &l.evaluated} {
		l.bytes -= int64(scripts.size) * storedOverhead
		scripts.each(func(s *node[string]) bool {
			l.bytes -= int64(len(s.value))
			return true
		})
		*scripts = table[string]{}
	}
}

// ScriptStats counts what the state holds of Lua.
type ScriptStats struct {
	Scripts, Libraries, Functions int
	// Memory is what they count for, in bytes, when the state is compared with maxmemory.
	Memory int64
	// EvalMemory is the part of scripts that are no libraries.
	EvalMemory int64
}

// Scripts counts scripts and function libraries.
func (m *Machine) Scripts() ScriptStats {
	l := &m.lua
	s := ScriptStats{Scripts: l.loaded.size + l.evaluated.size, Libraries: len(l.libraries), Memory: l.bytes, EvalMemory: l.bytes}
	for _, lib := range l.libraries {
		s.EvalMemory -= storedBytes(lib.Source)
		s.Functions += len(lib.Functions)
	}
	return s
}

var scriptHelp = []string{
	"SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
	"DEBUG (YES|SYNC|NO)",
	"    Set the debug mode for subsequent scripts executed.",
	"EXISTS <sha1> [<sha1> ...]",
	"    Return information about the existence of the scripts in the script cache.",
	"FLUSH [ASYNC|SYNC]",
	"    Flush the Lua scripts cache. Very dangerous on replicas.",
	"    When called without the optional mode argument, the behavior is determined by the",
	"    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
	"    * ASYNC: Asynchronously flush the scripts cache.",
	"    * SYNC: Synchronously flush the scripts cache.",
	"KILL",
	"    Kill the currently executing Lua script.",
	"LOAD <script>",
	"    Load a script into the scripts cache without executing it.",
	"HELP",
	"    Prints this help.",
}

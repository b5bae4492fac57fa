package kv

import (
	"encoding/binary"
	"slices"
	"strings"

	"lockstep/internal/script"
)

var functionCommands = []Command{
	{Name: "fcall", Arity: -3, Flags: Write | Movable, numkeys: 2, asksRoom: true, run: func(c call) { c.fcall(false) }},
	{Name: "fcall_ro", Arity: -3, Flags: Readonly | Movable, numkeys: 2, random: true, run: func(c call) { c.fcall(true) }},
	{Name: "function", Arity: -2, Flags: Write, ReadonlySubcommands: []string{"dump", "help", "kill", "list", "stats"}, asksRoom: true, run: functionCommand},
}

func (l *luaState) findLibrary(name string) (int, bool) {
	return slices.BinarySearchFunc(l.libraries, name, func(lib *script.Library, name string) int { return strings.Compare(lib.Name, name) })
}

// function returns the function of that name and its library, nil if there is none.
func function(libraries []*script.Library, name string) (*script.Library, *script.Function) {
	for _, lib := range libraries {
		if f := lib.Find(name); f != nil {
			return lib, f
		}
	}
	return nil, nil
}

func (c call) fcall(readonly bool) {
	name := string(c.args[1])
	lib, f := function(c.m.lua.libraries, name)
	if f == nil {
		c.reply.Error("ERR Function not found")
		return
	}
	keys, args, ok := c.scriptKeys("ERR Bad number of keys provided")
	if !ok {
		return
	}
	h, problem := c.newScriptHost(readonly, true, f.Flags)
	if problem != "" {
		c.reply.Error(problem)
		return
	}
	e := c.borrow()
	e.RunFunction(lib, script.Call{Name: name, Keys: keys, Args: args, Host: h, Now: c.now, Seed: c.dice().source.Uint64(), Limits: c.runLimits()}, c.reply)
	c.giveBack(e)
}

func functionCommand(c call) {
	c.dispatch("function", []subcommand{
		{"delete", 3, functionDelete},
		{"dump", 2, functionDump},
		{"flush", -2, functionFlush},
		{"help", 2, func(c call) { c.lines(functionHelp) }},
		{"kill", 2, func(c call) { c.reply.Error(errNotBusy) }},
		{"list", -2, functionList},
		{"load", -3, functionLoad},
		{"restore", -3, functionRestore},
		{"stats", 2, functionStats},
	})
}

// setLibraries changes the libraries and what they count for.
func (l *luaState) setLibraries(libraries []*script.Library) {
	for _, lib := range l.libraries {
		l.bytes -= storedBytes(lib.Source)
	}
	for _, lib := range libraries {
		l.bytes += storedBytes(lib.Source)
	}
	l.libraries = libraries
}

func functionDelete(c call) {
	i, found := c.m.lua.findLibrary(string(c.args[2]))
	if !found {
		c.reply.Error("ERR Library not found")
		return
	}
	c.m.lua.setLibraries(slices.Delete(slices.Clone(c.m.lua.libraries), i, i+1))
	c.reply.OK()
}

func functionFlush(c call) {
	if len(c.args) > 3 {
		c.reply.Error("ERR unknown subcommand or wrong number of arguments for '" + string(cString(c.args[1], 128)) + "'. Try FUNCTION HELP.")
		return
	}
	if len(c.args) == 3 && !c.is(2, "sync") && !c.is(2, "async") {
		c.reply.Error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")
		return
	}
	c.m.lua.setLibraries(nil)
	c.reply.OK()
}

func functionLoad(c call) {
	replace := len(c.args) == 4 && c.is(2, "replace")
	if len(c.args) > 4 || len(c.args) == 4 && !replace {
		c.reply.Error("ERR Unknown option given: " + string(cString(c.args[2], 128)))
		return
	}
	if c.outOfMemory() {
		c.reply.Error(errOutOfMemory)
		return
	}
	libraries, name, problem := c.withLibrary(c.m.lua.libraries, string(c.args[len(c.args)-1]), replace)
	if problem != "" {
		c.reply.Error(problem)
		return
	}
	c.m.lua.setLibraries(libraries)
	c.reply.BulkString(name)
}

// withLibrary returns libraries with one more, made from source, or the reply that says why not.
func (c call) withLibrary(libraries []*script.Library, source string, replace bool) (with []*script.Library, name, problem string) {
	name, err := script.LibraryName(source)
	if err != nil {
		return nil, "", err.Error()
	}
	l := luaState{libraries: slices.Clone(libraries)}
	i, found := l.findLibrary(name)
	if found && !replace {
		return nil, "", "ERR Library '" + name + "' already exists"
	}
	e := c.borrow()
	lib, err := e.Load(source, c.runLimits())
	c.giveBack(e)
	if err != nil {
		return nil, "", err.Error()
	}
	if found {
		l.libraries = slices.Delete(l.libraries, i, i+1)
	}
	for _, f := range lib.Functions {
		if _, other := function(l.libraries, f.Name); other != nil {
			return nil, "", "ERR Function " + f.Name + " already exists"
		}
	}
	return slices.Insert(l.libraries, i, lib), name, ""
}

// Library is a function library as it was loaded.
type Library struct{ Name, Source string }

// Libraries returns the function libraries, by name.
func (m *Machine) Libraries() []Library {
	var list []Library
	for _, l := range m.lua.libraries {
		list = append(list, Library{l.Name, l.Source})
	}
	return list
}

// CheckLibrary returns the name of the library that source would make here, in place of one of that name, or what is wrong
// with it, in the words of FUNCTION LOAD. It changes nothing, but the caller must have the machine for itself.
func (m *Machine) CheckLibrary(source string) (name, problem string) {
	_, name, problem = call{m: m}.withLibrary(m.lua.libraries, source, true)
	return name, problem
}

func functionList(c call) {
	var pattern []byte
	named, code := false, false
	for i := 2; i < len(c.args); i++ {
		switch {
		case !code && c.is(i, "withcode"):
			code = true
		case !named && c.is(i, "libraryname"):
			if i++; i == len(c.args) {
				c.reply.Error("ERR library name argument was not given")
				return
			}
			pattern, named = c.args[i], true
		default:
			c.reply.Error("ERR Unknown argument " + string(cString(c.args[i], 128)))
			return
		}
	}
	mark, n := c.reply.Mark(), 0
	for _, lib := range c.m.lua.libraries {
		if !named || matchGlobFold(pattern, lib.Name) {
			c.describeLibrary(lib, code)
			n++
		}
	}
	c.reply.InsertArray(mark, n)
}

// matchGlobFold matches in any case, as FUNCTION LIST does.
func matchGlobFold(pattern []byte, name string) bool {
	return globMatch(lower(string(pattern)), lower(name))
}

func (c call) describeLibrary(lib *script.Library, code bool) {
	fields := 3
	if code {
		fields++
	}
	c.reply.Map(fields)
	c.reply.BulkString("library_name")
	c.reply.BulkString(lib.Name)
	c.reply.BulkString("engine")
	c.reply.BulkString("LUA")
	c.reply.BulkString("functions")
	c.reply.Array(len(lib.Functions))
	for _, f := range lib.Functions {
		c.reply.Map(3)
		c.reply.BulkString("name")
		c.reply.BulkString(f.Name)
		c.reply.BulkString("description")
		if f.Description == "" {
			c.reply.Null()
		} else {
			c.reply.BulkString(f.Description)
		}
		c.reply.BulkString("flags")
		c.reply.Set(len(f.Flags))
		for _, flag := range f.Flags {
			c.reply.Simple(flag)
		}
	}
	if code {
		c.reply.BulkString("library_code")
		c.reply.BulkString(lib.Source)
	}
}

func functionStats(c call) {
	functions := 0
	for _, lib := range c.m.lua.libraries {
		functions += len(lib.Functions)
	}
	c.reply.Map(2)
	c.reply.BulkString("running_script")
	c.reply.Null()
	c.reply.BulkString("engines")
	c.reply.Map(1)
	c.reply.BulkString("LUA")
	c.reply.Map(2)
	c.reply.BulkString("libraries_count")
	c.reply.Int(int64(len(c.m.lua.libraries)))
	c.reply.BulkString("functions_count")
	c.reply.Int(int64(functions))
}

// rdbFunction is the type of a library in a payload of FUNCTION DUMP: its source follows.
const rdbFunction = 245

func functionDump(c call) {
	var b []byte
	for _, lib := range c.m.lua.libraries {
		b = appendRDBLength(append(b, rdbFunction), uint64(len(lib.Source)))
		b = append(b, lib.Source...)
	}
	c.reply.Bulk(appendFooter(b))
}

func functionRestore(c call) {
	flush, replace := false, false
	switch {
	case len(c.args) > 4:
		c.reply.Error("ERR unknown subcommand or wrong number of arguments for '" + string(cString(c.args[1], 128)) + "'. Try FUNCTION HELP.")
		return
	case len(c.args) < 4, c.is(3, "append"):
	case c.is(3, "flush"):
		flush = true
	case c.is(3, "replace"):
		replace = true
	default:
		c.reply.Error("ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.")
		return
	}
	if c.outOfMemory() {
		c.reply.Error(errOutOfMemory)
		return
	}
	sources, problem := readLibraries(c.args[2])
	if problem != "" {
		c.reply.Error(problem)
		return
	}
	restored := c.m.lua.libraries
	if flush {
		restored = nil
	}
	seen := make(map[string]bool)
	for _, source := range sources {
		name, _ := script.LibraryName(source)
		if seen[name] {
			c.reply.Error("ERR Library '" + name + "' already exists")
			return
		}
		seen[name] = true
		if restored, _, problem = c.withLibrary(restored, source, replace); problem != "" {
			c.reply.Error(strings.Replace(problem, "ERR Library '"+name+"' already", "ERR Library "+name+" already", 1))
			return
		}
	}
	c.m.lua.setLibraries(restored)
	c.reply.OK()
}

// maxRestored bounds the libraries of one payload.
const maxRestored = 10_000

// readLibraries returns the sources in a payload of FUNCTION DUMP.
func readLibraries(payload []byte) (sources []string, problem string) {
	end := len(payload) - rdbFooter
	if end < 0 || binary.LittleEndian.Uint16(payload[end:]) > rdbNewest ||
		binary.LittleEndian.Uint64(payload[end+2:]) != crc64Of(payload[:end+2]) {
		return nil, "ERR DUMP payload version or checksum are wrong"
	}
	r := rdbReader{rest: payload[:end]}
	for len(r.rest) > 0 && len(sources) < maxRestored {
		if r.byte() != rdbFunction {
			return nil, "ERR given type is not a function"
		}
		source := r.text()
		if r.err != nil {
			return nil, "ERR failed loading the given functions payload"
		}
		sources = append(sources, string(source))
	}
	return sources, ""
}

var functionHelp = []string{
	"FUNCTION <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
	"LOAD [REPLACE] <FUNCTION CODE>",
	"    Create a new library with the given library name and code.",
	"DELETE <LIBRARY NAME>",
	"    Delete the given library.",
	"LIST [LIBRARYNAME PATTERN] [WITHCODE]",
	"    Return general information on all the libraries:",
	"    * Library name",
	"    * The engine used to run the Library",
	"    * Library description",
	"    * Functions list",
	"    * Library code (if WITHCODE is given)",
	"    It also possible to get only function that matches a pattern using LIBRARYNAME argument.",
	"STATS",
	"    Return information about the current function running:",
	"    * Function name",
	"    * Command used to run the function",
	"    * Duration in MS that the function is running",
	"    If no function is running, return nil",
	"    In addition, returns a list of available engines.",
	"KILL",
	"    Kill the current running function.",
	"FLUSH [ASYNC|SYNC]",
	"    Delete all the libraries.",
	"    When called without the optional mode argument, the behavior is determined by the",
	"    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
	"    * ASYNC: Asynchronously flush the libraries.",
	"    * SYNC: Synchronously flush the libraries.",
	"DUMP",
	"    Return a serialized payload representing the current libraries, can be restored using FUNCTION RESTORE command",
	"RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]",
	"    Restore the libraries represented by the given payload, it is possible to give a restore policy to",
	"    control how to handle existing libraries (default APPEND):",
	"    * FLUSH: delete all existing libraries.",
	"    * APPEND: appends the restored libraries to the existing libraries. On collision, abort.",
	"    * REPLACE: appends the restored libraries to the existing libraries, On collision, replace the old",
	"      libraries with the new libraries (notice that even on this option there is a chance of failure",
	"      in case of functions name collision with another library).",
	"HELP",
	"    Prints this help.",
}

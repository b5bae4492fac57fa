package script

import (
	"crypto/sha1" // #nosec G505 -- redis.sha1hex is SHA-1
	"encoding/hex"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// Version is the version of Redis whose scripting this is.
const (
	Version       = "7.2.4"
	versionNumber = 0x00070204
)

// openRedis makes the library redis, for scripts and functions, and the one that the code of a library sees while it is loaded.
func (e *Engine) openRedis() {
	t := e.open("redis", []library{
		{"acl_check_cmd", redisAllowed}, {"breakpoint", func(f frame) int { return f.pushBool(false) }}, {"call", redisCall}, {"debug", func(frame) int { return 0 }},
		{"error_reply", redisError}, {"log", redisLog}, {"pcall", redisPcall}, {"register_function", redisRegisterLate}, {"replicate_commands", func(f frame) int { return f.pushBool(true) }},
		{"set_repl", redisSetRepl}, {"setresp", redisSetResp}, {"sha1hex", redisSum}, {"status_reply", redisStatus},
	})
	constants(t)
	loader := e.state.CreateTable(0, 16)
	e.register(loader, []library{{"log", redisLog}, {"register_function", redisRegister}})
	constants(loader)
	e.freeze(loader)
	globals := e.state.CreateTable(0, 1)
	globals.RawSetString("redis", loader)
	e.loadGlobals = globals
	e.loading = e.environment(globals)
	loader.Metatable = globals.Metatable // an absent field is told as a global variable is
	e.freeze(globals)
}

func constants(t *lua.LTable) {
	t.RawSetString("REDIS_VERSION", lua.LString(Version))
	t.RawSetString("REDIS_VERSION_NUM", lua.LNumber(versionNumber))
	for i, name := range []string{"LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING"} {
		t.RawSetString(name, lua.LNumber(i))
	}
	for i, name := range []string{"REPL_NONE", "REPL_AOF", "REPL_SLAVE", "REPL_ALL"} {
		t.RawSetString(name, lua.LNumber(i))
	}
	t.RawSetString("REPL_REPLICA", lua.LNumber(2))
}

// raiseReply raises an error reply, as redis.call does; text begins with its code.
func (f frame) raiseReply(text string) { f.l.Error(f.e.errorTable(f.l, text), 0) }

// arguments collects what stands for a command; false if an argument is neither text nor number. They are valid until the next
// command.
func (f frame) arguments() ([][]byte, bool) {
	e, n := f.e, f.count()
	b, args := e.argText[:0], e.args[:0]
	for i := 1; i <= n; i++ {
		switch v := f.l.Get(i).(type) {
		case lua.LString:
			b = append(b, v...)
		case lua.LNumber:
			b = appendArgument(b, float64(v))
		default:
			return nil, false
		}
	}
	from := 0
	for i := 1; i <= n; i++ { // the buffer no longer moves
		length := 0
		switch v := f.l.Get(i).(type) {
		case lua.LString:
			length = len(v)
		case lua.LNumber:
			var digits [40]byte
			length = len(appendArgument(digits[:0], float64(v)))
		}
		args = append(args, b[from:from+length:from+length])
		from += length
	}
	e.argText, e.args = b, args
	if cap(b) > keptBytes {
		e.argText = nil
	}
	if cap(args) > keptArguments {
		e.args = nil
	}
	return args, true
}

const (
	// keptBytes and keptArguments bound the memory that an engine keeps between commands.
	keptBytes     = 1 << 20
	keptArguments = 1 << 12
	// callWork is what a command counts, in instructions, besides its bytes.
	callWork = 100
)

// command executes a command and returns the value of its reply; problem is not empty if there was none to execute.
func (f frame) command() (v lua.LValue, problem string) {
	e := f.e
	if f.count() == 0 {
		return nil, "ERR Please specify at least one argument for this redis lib call"
	}
	args, ok := f.arguments()
	if !ok {
		return nil, "ERR Lua redis lib command arguments must be strings or integers"
	}
	if e.host == nil {
		return nil, "ERR redis.call/pcall can only be called inside a script invocation"
	}
	size := 0
	for _, arg := range args {
		size += len(arg)
	}
	e.work(f.l, callWork+size/64)
	e.work64(f.l, e.host.Work(args))
	reply := e.host.Call(args, e.proto, e.reply[:0])
	if e.reply = reply; cap(reply) > keptBytes {
		e.reply = nil
	}
	e.work(f.l, len(reply)/32)
	v, _ = e.readReply(f.l, reply)
	return v, ""
}

func redisCall(f frame) int {
	v, problem := f.command()
	if problem != "" {
		f.raiseReply(problem)
	}
	if isError(v) {
		v.(*lua.LTable).RawSetString("ignore_error_stats_update", lua.LTrue)
		f.l.Error(v, 0)
	}
	return f.push(v)
}

func redisPcall(f frame) int {
	v, problem := f.command()
	if problem != "" {
		v = f.e.errorTable(f.l, problem)
	}
	if isError(v) {
		v.(*lua.LTable).RawSetString("ignore_error_stats_update", lua.LTrue)
	}
	return f.push(v)
}

func isError(v lua.LValue) bool {
	t, ok := v.(*lua.LTable)
	return ok && t.RawGetString("err") != lua.LNil
}

func redisError(f frame) int {
	text, ok := f.l.Get(1).(lua.LString)
	if !ok || f.count() != 1 {
		return f.push(f.e.errorTable(f.l, "ERR wrong number or type of arguments"))
	}
	return f.push(f.e.errorTable(f.l, errorCode(strings.TrimPrefix(string(text), "-"))))
}

// errorCode returns an error with a code in front if it has none: a single word is no code.
func errorCode(text string) string {
	text = strings.Trim(text, "\r\n")
	if !strings.Contains(text, " ") {
		return "ERR " + text
	}
	return text
}

func redisStatus(f frame) int {
	text, ok := f.l.Get(1).(lua.LString)
	if !ok || f.count() != 1 {
		return f.push(f.e.errorTable(f.l, "ERR wrong number or type of arguments"))
	}
	return f.push(f.e.field(f.l, "ok", text))
}

func redisSum(f frame) int {
	if f.count() != 1 {
		f.raiseReply("ERR wrong number of arguments")
	}
	text, _ := textOf(f.l.Get(1))
	f.e.work(f.l, len(text)/16)
	sum := sha1.Sum([]byte(text)) // #nosec G401 -- redis.sha1hex is SHA-1
	return f.pushText(hex.EncodeToString(sum[:]))
}

func redisLog(f frame) int {
	if f.count() < 2 {
		f.raiseReply("ERR redis.log() requires two arguments or more.")
	}
	level, ok := f.l.Get(1).(lua.LNumber)
	if !ok {
		f.raiseReply("ERR First argument must be a number (log level).")
	}
	if level < 0 || level > 3 {
		f.raiseReply("ERR Invalid debug level.")
	}
	var words []string
	for i := 2; i <= f.count(); i++ {
		if text, ok := textOf(f.l.Get(i)); ok {
			words = append(words, text)
		}
	}
	f.e.work(f.l, callWork)
	if f.e.host != nil {
		text := strings.Join(words, " ")
		f.e.host.Log(int(level), text[:min(len(text), maxLogged)])
	}
	return 0
}

// maxLogged bounds one line of redis.log, in bytes, as Redis does.
const maxLogged = 1024

func redisSetResp(f frame) int {
	if f.count() != 1 {
		f.raiseReply("ERR redis.setresp() requires one argument.")
	}
	version, ok := f.l.Get(1).(lua.LNumber)
	if !ok || version != 2 && version != 3 {
		f.raiseReply("ERR RESP version must be 2 or 3.")
	}
	f.e.proto = int(version)
	return 0
}

// redisSetRepl changes nothing: every replica executes the script.
func redisSetRepl(f frame) int {
	if f.count() != 1 {
		f.raiseReply("ERR redis.set_repl() requires two arguments.")
	}
	flags, ok := f.l.Get(1).(lua.LNumber)
	if !ok || flags < 0 || flags > 3 {
		f.raiseReply("ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.")
	}
	return 0
}

func redisAllowed(f frame) int {
	if f.count() == 0 {
		f.raiseReply("ERR Please specify at least one argument for this redis lib call")
	}
	args, ok := f.arguments()
	if !ok {
		f.raiseReply("ERR redis.acl_check_cmd() arguments must be strings or integers")
	}
	if f.e.host == nil {
		return f.pushBool(false)
	}
	allowed, problem := f.e.host.Allowed(args)
	if problem != "" {
		f.raiseReply(problem)
	}
	return f.pushBool(allowed)
}

package script

import (
	"crypto/sha1" // #nosec G505 -- Redis names scripts by their SHA-1
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"

	"lockstep/internal/resp"
	"lockstep/internal/script/meter"
)

// Limits bounds one run.
type Limits struct {
	// Instructions of the virtual machine; the work of library functions counts in proportion.
	Instructions int64
	// Memory that strings, tables and closures take, in bytes, estimated. What is no longer used is not given back.
	Memory int64
	// Reply bounds the encoded reply, in bytes.
	Reply int
}

// DefaultLimits are generous: a run that meets them holds up its group for seconds.
var DefaultLimits = Limits{Instructions: 100_000_000, Memory: 512 << 20, Reply: 64 << 20}

// MaxSource bounds the code of one program, in bytes.
const MaxSource = 4 << 20

const (
	// maxFrames bounds the calls of Lua functions within each other, in the main thread of a run and in a coroutine.
	maxFrames          = 4000
	maxCoroutineFrames = 200
	// maxRegisters bounds the values on the stack of a thread.
	maxRegisters          = 1 << 19
	maxCoroutineRegisters = 1 << 15
	// maxInner bounds how deep calls of Lua functions by functions of this package are nested, as Lua does.
	maxInner = 190
	// maxCached bounds the compiled programs that an engine keeps, in programs and in bytes of their code.
	maxCached      = 1000
	maxCachedBytes = 32 << 20
)

// Host is what a script can reach. It is called from the goroutine of Run. Nothing handed to it may be kept.
type Host interface {
	// Call executes a command and appends its encoded reply to reply, in version proto of the protocol. An error reply
	// is the answer that redis.call raises and redis.pcall returns.
	Call(args [][]byte, proto int, reply []byte) []byte
	// Work returns what executing the command will cost, in instructions: it is counted before Call.
	Work(args [][]byte) int64
	// Allowed reports whether the user may execute the command; problem is not empty if there is no such command.
	Allowed(args [][]byte) (allowed bool, problem string)
	// Log writes to the log of this node; level is 0 (debug) to 3 (warning).
	Log(level int, message string)
}

// Call describes one run.
type Call struct {
	// Name stands in error messages: the SHA1 of a script, the name of a function.
	Name       string
	Keys, Args [][]byte
	Host       Host
	Now        int64  // log time in milliseconds
	Seed       uint64 // of math.random
	Limits     Limits
}

// Engine is one Lua state. It is not safe for several goroutines. What a run leaves behind cannot be seen by the next.
type Engine struct {
	state       *lua.LState
	meter       meter.Meter
	globals     *lua.LTable // the real ones: what a script sees as _G
	env         *lua.LTable // the environment of all programs: empty, and refers to globals
	loading     *lua.LTable // the environment of libraries; loadGlobals while they are loaded
	loadGlobals *lua.LTable
	frozen      map[*lua.LTable]bool
	hidden      [3]lua.LValue // concat, set, new
	// ipairsStep is the iterator of ipairs, trampoline what every protected call calls first.
	ipairsStep, trampoline *lua.LFunction

	cached      map[string]*lua.LFunction // compiled programs by chunk name and source
	cachedBytes int

	// Of the run:
	host    Host
	now     int64
	proto   int // of the replies that redis.call makes
	random  uint64
	inner   int                 // calls of Lua functions by functions of this package, nested
	noYield int                 // of these, those since the last switch of coroutines
	named   map[any]int         // numbers of what tostring named
	deleted map[*lua.LTable]int // fields deleted since the table was last compacted
	reply   []byte
	args    [][]byte
	argText []byte
	library *Library // being loaded
	json    jsonOptions
}

// NewEngine returns an engine without programs.
func NewEngine() *Engine {
	e := &Engine{
		state: lua.NewState(lua.Options{
			SkipOpenLibs: true, CallStackSize: maxFrames,
			RegistrySize: 1 << 10, RegistryMaxSize: maxRegisters, RegistryGrowStep: 1 << 10,
		}),
		frozen: make(map[*lua.LTable]bool),
		cached: make(map[string]*lua.LFunction),
	}
	// The options are those of the threads that follow.
	e.state.Options.CallStackSize, e.state.Options.RegistrySize, e.state.Options.RegistryMaxSize = maxCoroutineFrames, 256, maxCoroutineRegisters
	e.meter.Reset(1<<40, 1<<40)
	e.state.SetContext(&e.meter)
	e.openLibraries()
	return e
}

// Sum returns the name of a script: the SHA1 of its code in hexadecimal digits.
func Sum(code []byte) string {
	sum := sha1.Sum(code) // #nosec G401 -- Redis names scripts by their SHA-1
	return hex.EncodeToString(sum[:])
}

// Chunk names, as they stand in error messages.
const (
	scriptChunk   = "user_script"
	functionChunk = "user_function"
)

// Check compiles the code of the script named sum, without its shebang line, and returns why it cannot be: the text is a
// reply.
func (e *Engine) Check(sum string, code []byte, skipped int) error {
	if _, err := e.compile(sum, scriptChunk, code, skipped); err != nil {
		return errors.New("ERR Error compiling script (new function): " + err.Error())
	}
	return nil
}

// compile returns the function that the code is, compiled before or now. key stands for the code: the SHA1 of a script,
// the source of a library. skipped is the number of lines that stood before the code.
func (e *Engine) compile(key, chunk string, code []byte, skipped int) (*lua.LFunction, error) {
	if f := e.cached[key]; f != nil {
		return f, nil
	}
	f, err := e.compileNew(chunk, strings.Repeat("\n", skipped)+string(code))
	if err != nil {
		return nil, err
	}
	if len(e.cached) >= maxCached || e.cachedBytes+len(code) > maxCachedBytes {
		clear(e.cached)
		e.cachedBytes = 0
	}
	e.cached[strings.Clone(key)] = f
	e.cachedBytes += len(code)
	return f, nil
}

// compileNew compiles code. It does so inside of a protected call: if the compiler of gopher-lua should panic at some
// code, then the code is refused, instead of every replica falling.
func (e *Engine) compileNew(chunk, code string) (*lua.LFunction, error) {
	if len(code) > MaxSource {
		return nil, errors.New(chunk + ":1: code of more than " + strconv.Itoa(MaxSource) + " bytes")
	}
	var compiled *lua.LFunction
	var problem error
	saved := e.meter
	e.meter.Reset(1<<40, 1<<40)
	err := e.state.GPCall(func(l *lua.LState) int {
		compiled, problem = e.compileProtected(l, chunk, code)
		return 0
	}, lua.LNil)
	e.meter = saved
	if problem != nil {
		return nil, problem
	}
	if err != nil {
		return nil, errors.New(chunk + ":1: " + e.errorText(err))
	}
	return compiled, nil
}

func (e *Engine) compileProtected(l *lua.LState, chunk, code string) (*lua.LFunction, error) {
	tree, err := parse.Parse(strings.NewReader(code), chunk)
	if err != nil {
		return nil, syntaxError(chunk, err)
	}
	if tooDeep(tree) {
		return nil, errors.New(chunk + ":1: chunk has too many syntax levels")
	}
	proto, err := lua.Compile(rewrite(tree), chunk)
	if err != nil {
		return nil, syntaxError(chunk, err)
	}
	outer := l.NewFunctionFromProto(proto)
	outer.Env = e.env
	if chunk == functionChunk {
		outer.Env = e.loading
	}
	l.Push(outer)
	for _, f := range e.hidden {
		l.Push(f)
	}
	l.Call(len(e.hidden), 1)
	f := l.Get(-1).(*lua.LFunction)
	l.Pop(1)
	return f, nil
}

// syntaxError tells where code is wrong as Lua does.
func syntaxError(chunk string, err error) error {
	var where *parse.Error
	if !errors.As(err, &where) {
		text := err.Error()
		if compile, ok := err.(*lua.CompileError); ok {
			text = strconv.Itoa(compile.Line) + ": " + compile.Message
		}
		return errors.New(chunk + ":" + text)
	}
	if where.Pos.Line < 0 {
		return errors.New(chunk + ":1: syntax error near '<eof>'")
	}
	near := where.Token
	if near == "" {
		near = "<eof>"
	}
	return errors.New(chunk + ":" + strconv.Itoa(max(where.Pos.Line, 1)) + ": " + where.Message + " near '" + near + "'")
}

// Run executes the code of a script, without its shebang line. call.Name is the Sum of the whole script. Its reply, or the error that ended it, is appended to reply,
// which may be nil. It returns the text of the error that ended it, "" if none did.
func (e *Engine) Run(code []byte, skipped int, call Call, reply *resp.Reply) string {
	if err := e.Check(call.Name, code, skipped); err != nil {
		reply.Error(err.Error())
		return err.Error()
	}
	f, _ := e.compile(call.Name, scriptChunk, code, skipped)
	e.begin(call)
	e.globals.RawSetString("KEYS", e.stringTable(call.Keys))
	e.globals.RawSetString("ARGV", e.stringTable(call.Args))
	text := e.execute(f, call, reply)
	e.globals.RawSetString("KEYS", lua.LNil)
	e.globals.RawSetString("ARGV", lua.LNil)
	return text
}

// begin makes everything as it is for every run.
func (e *Engine) begin(call Call) {
	e.meter.Reset(call.Limits.Instructions, call.Limits.Memory)
	e.host, e.now, e.proto, e.inner, e.noYield = call.Host, call.Now, 2, 0, 0
	e.random = call.Seed & (1<<48 - 1)
	e.json = defaultJSON
	clear(e.named)
	clear(e.deleted)
}

// execute calls f with args and writes what it returns.
func (e *Engine) execute(f *lua.LFunction, call Call, reply *resp.Reply, args ...lua.LValue) (problem string) {
	l := e.state
	l.SetTop(0)
	l.Push(f)
	for _, arg := range args {
		l.Push(arg)
	}
	err := e.protect(l, len(args), 1)
	if err == nil {
		err = e.meter.Err() // the last instruction may have been a call that went beyond
	}
	if err != nil {
		problem = e.failure(err, call.Name)
		reply.Error(problem)
	} else {
		e.writeReply(l.Get(-1), reply, call.Limits.Reply)
	}
	l.SetTop(0)
	e.host = nil
	return problem
}

// protect is a protected call of the function that stands on the stack below its count arguments. gopher-lua alone would describe
// the whole stack for each error, which takes time in proportion to the square of its depth, and nobody counts it.
func (e *Engine) protect(l *lua.LState, count, results int) error {
	l.Insert(e.trampoline, -count-1)
	return l.PCall(count+1, results, nil)
}

// bounce calls its first argument with the others, with an error told by briefly.
func bounce(f frame) int {
	f.l.Panic = briefly
	f.l.Call(f.count()-1, lua.MultRet)
	return f.count()
}

// briefly raises the value on the stack, with the nearest place in a program in the stead of a stack trace.
func briefly(l *lua.LState) {
	place := "?"
	for level := range 4 {
		if where := l.Where(level); where != "" && !strings.HasPrefix(where, "[G]") {
			place = where
			break
		}
	}
	panic(&lua.ApiError{Type: lua.ApiErrorRun, Object: l.Get(-1), StackTrace: place})
}

// failure returns the error reply of a run that an error ended.
func (e *Engine) failure(err error, name string) string {
	message := "ERR unknown error"
	var lost *lua.ApiError
	if !errors.As(err, &lost) {
		return "ERR " + err.Error() + " script: " + name + "."
	}
	switch v := e.cleanError(lost).(type) {
	case *lua.LTable:
		if text, ok := v.RawGetString("err").(lua.LString); ok {
			message = string(text)
		}
	case lua.LString:
		message = "ERR " + string(v)
	case lua.LNumber:
		message = "ERR " + numberText(float64(v))
	default:
		message = "ERR " + v.String()
	}
	message += " script: " + name
	if place := placeOf(lost.StackTrace); place != "" {
		message += ", on @" + place
	}
	return message + "."
}

// placeOf finds the first line of a stack trace that is a place in a program: "user_script:1".
func placeOf(trace string) string {
	for line := range strings.SplitSeq(trace, "\n") {
		line = strings.TrimPrefix(line, "\t")
		if !strings.HasPrefix(line, scriptChunk+":") && !strings.HasPrefix(line, functionChunk+":") {
			continue
		}
		name, rest, _ := strings.Cut(line, ":")
		if number, _, ok := strings.Cut(rest, ":"); ok {
			return name + ":" + number
		}
	}
	return ""
}

// errorText returns the message of an error that a protected call returned.
func (e *Engine) errorText(err error) string {
	var lost *lua.ApiError
	if errors.As(err, &lost) {
		return e.cleanError(lost).String()
	}
	return err.Error()
}

func (e *Engine) stringTable(list [][]byte) *lua.LTable {
	t := e.state.CreateTable(len(list), 0)
	for i, b := range list {
		t.RawSetInt(i+1, lua.LString(b))
	}
	return t
}

// work counts the work of a library function, in instructions, and ends the run if there is nothing left.
func (e *Engine) work(l *lua.LState, n int) { e.work64(l, int64(n)) }

func (e *Engine) work64(l *lua.LState, n int64) {
	if err := e.meter.Work(n); err != nil {
		l.RaiseError("%s", err.Error())
	}
}

// take counts memory, in bytes, and ends the run if there is nothing left.
func (e *Engine) take(l *lua.LState, n int) {
	if err := e.meter.Take(int64(n)); err != nil {
		l.RaiseError("%s", err.Error())
	}
}

// pushString pushes text that the script did not have before.
func (e *Engine) pushString(l *lua.LState, text string) {
	e.take(l, len(text)+stringBytes)
	l.Push(lua.LString(text))
}

// enter begins a call of a Lua function by a function of this package; leave ends it.
func (e *Engine) enter(l *lua.LState) {
	if e.inner >= maxInner {
		l.RaiseError("C stack overflow")
	}
	e.inner++
	e.noYield++
}

func (e *Engine) leave() {
	e.inner--
	e.noYield--
}

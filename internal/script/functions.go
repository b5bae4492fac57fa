package script

import (
	"errors"
	"slices"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"lockstep/internal/resp"
)

// Flags of a script or function.
const (
	NoWrites        = "no-writes"
	AllowOOM        = "allow-oom"
	AllowStale      = "allow-stale"
	NoCluster       = "no-cluster"
	AllowCrossSlots = "allow-cross-slot-keys"
)

var knownFlags = []string{NoWrites, AllowOOM, AllowStale, NoCluster, AllowCrossSlots}

// Header is what the first line of a script says.
type Header struct {
	Present bool
	Flags   []string // in the order of knownFlags
}

// Has reports whether the header has a flag.
func (h Header) Has(flag string) bool { return slices.Contains(h.Flags, flag) }

// Split separates the header of a script from its code. skipped is the number of lines that the header takes: what Run wants.
// The text of an error is a reply.
func Split(source []byte) (h Header, code []byte, skipped int, err error) {
	if !strings.HasPrefix(string(source[:min(2, len(source))]), "#!") {
		return Header{}, source, 0, nil
	}
	line, rest, ok := strings.Cut(string(source), "\n")
	if !ok {
		return Header{}, nil, 0, errors.New("ERR Invalid script shebang")
	}
	words := strings.Split(line, " ")
	if words[0] != "#!lua" {
		return Header{}, nil, 0, errors.New("ERR Unexpected engine in script shebang: " + words[0])
	}
	h.Present = true
	for _, word := range words[1:] {
		list, ok := strings.CutPrefix(word, "flags=")
		if !ok {
			return Header{}, nil, 0, errors.New("ERR Unknown lua shebang option: " + word)
		}
		for _, flag := range strings.Split(list, ",") {
			if !slices.Contains(knownFlags, flag) {
				return Header{}, nil, 0, errors.New("ERR Unexpected flag in script shebang: " + flag)
			}
			h.Flags = append(h.Flags, flag)
		}
	}
	return h, []byte(rest), 1, nil
}

// Function is one function of a library.
type Function struct {
	Name, Description string
	Flags             []string // in the order of knownFlags
}

// Has reports whether the function has a flag.
func (f Function) Has(flag string) bool { return slices.Contains(f.Flags, flag) }

// Library is a library of functions. It does not change once it is loaded.
type Library struct {
	Name      string
	Source    string // header and code
	Functions []Function
	callbacks []*lua.LFunction // of the engine that loads it, only while it does
}

// Find returns the function of that name, nil if there is none.
func (l *Library) Find(name string) *Function {
	for i := range l.Functions {
		if l.Functions[i].Name == name {
			return &l.Functions[i]
		}
	}
	return nil
}

const errLibraryName = "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long"

func validName(name string) bool {
	for _, c := range []byte(name) {
		if !isLetter(c) && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return name != ""
}

// LibraryName reads the header of a library. The text of an error is a reply.
func LibraryName(source string) (name string, err error) {
	if !strings.HasPrefix(source, "#!") {
		return "", errors.New("ERR Missing library metadata")
	}
	line, _, ok := strings.Cut(source, "\n")
	if !ok {
		return "", errors.New("ERR Invalid library metadata")
	}
	words := strings.Fields(line)
	given := false
	for _, word := range words[1:] {
		value, ok := cutFold(word, "name=")
		if !ok {
			return "", errors.New("ERR Invalid metadata value given: " + word)
		}
		if given {
			return "", errors.New("ERR Invalid metadata value, name argument was given multiple times")
		}
		name, given = unquoteWord(value), true
	}
	if !given {
		return "", errors.New("ERR Library name was not given")
	}
	if !validName(name) {
		return "", errors.New(errLibraryName)
	}
	if engine := words[0][2:]; !strings.EqualFold(engine, "lua") {
		return "", errors.New("ERR Engine '" + engine + "' not found")
	}
	return name, nil
}

func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// unquoteWord takes the quotes around a word away.
func unquoteWord(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// Load executes the code of a library and returns it with its functions. The text of an error is a reply.
func (e *Engine) Load(source string, limits Limits) (*Library, error) {
	name, err := LibraryName(source)
	if err != nil {
		return nil, err
	}
	e.begin(Call{Limits: limits})
	lib, err := e.load(name, source)
	if err != nil {
		return nil, err
	}
	if len(lib.Functions) == 0 {
		return nil, errors.New("ERR No functions registered")
	}
	lib.callbacks = nil
	return lib, nil
}

// load executes the code of a library within a run.
func (e *Engine) load(name, source string) (*Library, error) {
	_, code, _ := strings.Cut(source, "\n")
	main, err := e.compile(source, functionChunk, []byte(code), 1)
	if err != nil {
		return nil, errors.New("ERR Error compiling function: " + err.Error())
	}
	lib := &Library{Name: name, Source: source}
	e.library = lib
	meta := e.loading.Metatable.(*lua.LTable)
	meta.RawSetString("__index", e.loadGlobals)
	l := e.state
	l.SetTop(0)
	l.Push(main)
	err = e.protect(l, 0, 0)
	l.SetTop(0)
	meta.RawSetString("__index", e.globals)
	e.library = nil
	if err == nil {
		err = e.meter.Err()
	}
	if err == nil {
		return lib, nil
	}
	switch v := plainError(e.caught(err)).(type) {
	case lua.LString:
		text := string(v)
		if _, isReply := e.caught(err).(*lua.LTable); !isReply {
			text = "ERR " + text
		}
		return nil, errors.New("ERR Error registering functions: " + text)
	default:
		return nil, errors.New("ERR Error registering functions: ERR unknown error")
	}
}

// RunFunction executes a function of a library. The code of the library is executed anew before: what its local variables held
// after an earlier call is forgotten. Everything else is as in Run.
func (e *Engine) RunFunction(lib *Library, call Call, reply *resp.Reply) string {
	e.begin(call)
	host := e.host
	e.host = nil
	loaded, err := e.load(lib.Name, lib.Source)
	if err != nil {
		reply.Error(err.Error())
		return err.Error()
	}
	e.host = host
	for i := range loaded.Functions {
		if loaded.Functions[i].Name == call.Name {
			return e.execute(loaded.callbacks[i], call, reply, e.stringTable(call.Keys), e.stringTable(call.Args))
		}
	}
	text := "ERR Function not found"
	reply.Error(text)
	return text
}

func redisRegisterLate(f frame) int {
	f.raiseReply("ERR redis.register_function can only be called on FUNCTION LOAD command")
	return 0
}

// redisRegister is redis.register_function, in both of its forms.
func redisRegister(f frame) int {
	fn, callback := Function{}, (*lua.LFunction)(nil)
	switch {
	case f.count() < 1 || f.count() > 2:
		f.raiseReply("ERR wrong number of arguments to redis.register_function")
	case f.count() == 1:
		fn, callback = registered(f)
	default:
		name, ok := textOf(f.l.Get(1))
		if !ok {
			f.raiseReply("ERR first argument to redis.register_function must be a string")
		}
		if callback, ok = f.l.Get(2).(*lua.LFunction); !ok {
			f.raiseReply("ERR second argument to redis.register_function must be a function")
		}
		fn.Name = name
	}
	lib := f.e.library
	switch {
	case lib == nil:
		return redisRegisterLate(f)
	case !validName(fn.Name):
		f.raiseReply(errLibraryName)
	case lib.Find(fn.Name) != nil:
		f.raiseReply("ERR Function already exists in the library")
	}
	f.e.take(f.l, 1000)
	lib.Functions = append(lib.Functions, fn)
	lib.callbacks = append(lib.callbacks, callback)
	return 0
}

// registered reads the table form of register_function.
func registered(f frame) (fn Function, callback *lua.LFunction) {
	t, ok := f.l.Get(1).(*lua.LTable)
	if !ok {
		f.raiseReply("ERR calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).")
	}
	named := false
	for k, v := t.Next(lua.LNil); k != lua.LNil; k, v = t.Next(k) {
		key, ok := k.(lua.LString)
		if !ok {
			f.raiseReply("ERR named argument key given to redis.register_function is not a string")
		}
		switch strings.ToLower(string(key)) {
		case "function_name":
			if fn.Name, ok = textOf(v); !ok {
				f.raiseReply("ERR function_name argument given to redis.register_function must be a string")
			}
			named = true
		case "description":
			if fn.Description, ok = textOf(v); !ok {
				f.raiseReply("ERR description argument given to redis.register_function must be a string")
			}
		case "callback":
			if callback, ok = v.(*lua.LFunction); !ok {
				f.raiseReply("ERR callback argument given to redis.register_function must be a function")
			}
		case "flags":
			list, ok := v.(*lua.LTable)
			if !ok {
				f.raiseReply("ERR flags argument to redis.register_function must be a table representing function flags")
			}
			fn.Flags = flagsOf(f, list)
		default:
			f.raiseReply("ERR unknown argument given to redis.register_function")
		}
	}
	if !named {
		f.raiseReply("ERR redis.register_function must get a function name argument")
	}
	if callback == nil {
		f.raiseReply("ERR redis.register_function must get a callback argument")
	}
	return fn, callback
}

func flagsOf(f frame, list *lua.LTable) (flags []string) {
	given := make(map[string]bool)
	for i := 1; ; i++ {
		v := list.RawGetInt(i)
		if v == lua.LNil {
			break
		}
		text, ok := textOf(v)
		if !ok || !slices.Contains(knownFlags, text) {
			f.raiseReply("ERR unknown flag given")
		}
		given[text] = true
	}
	for _, flag := range knownFlags {
		if given[flag] {
			flags = append(flags, flag)
		}
	}
	return flags
}

package script

import (
	"errors"
	"math"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// openLibraries makes everything that a script finds.
func (e *Engine) openLibraries() {
	l := e.state
	e.globals = l.CreateTable(0, 64)
	e.globals.RawSetString("_G", e.globals)
	e.globals.RawSetString("_VERSION", lua.LString("Lua 5.1"))
	e.register(e.globals, baseLibrary)
	e.trampoline = e.function(library{"pcall", bounce})
	e.ipairsStep = e.function(library{"ipairs", ipairsStep})
	e.openCoroutines()
	text := e.open("string", stringLibrary)
	e.open("table", tableLibrary)
	numbers := e.open("math", mathLibrary)
	numbers.RawSetString("pi", lua.LNumber(math.Pi))
	numbers.RawSetString("huge", lua.LNumber(math.Inf(1)))
	e.open("os", osLibrary)
	e.open("bit", bitLibrary)
	e.openJSON()
	packer := e.open("cmsgpack", packLibrary)
	packer.RawSetString("_NAME", lua.LString("cmsgpack"))
	packer.RawSetString("_VERSION", lua.LString("lua-cmsgpack 0.4.0"))
	packer.RawSetString("_DESCRIPTION", lua.LString("MessagePack for Lua"))
	e.open("struct", structLibrary)
	e.openRedis()

	// Texts that stand for numbers in arithmetic are read here, and not by gopher-lua, which takes 010 for 8.
	strings := l.CreateTable(0, 8)
	strings.RawSetString("__index", text)
	e.register(strings, textArithmetic)
	e.freeze(strings)
	l.SetMetatable(lua.LString(""), strings)

	e.env = e.environment(e.globals)
	e.freeze(e.globals)
	// Programs find globals through env; the hidden functions are reached through upvalues.
	for i, entry := range []library{{"concat", concat}, {"set", set}, {"new", created}} {
		e.hidden[i] = e.function(entry)
	}
}

// open makes a global library.
func (e *Engine) open(name string, entries []library) *lua.LTable {
	t := e.state.CreateTable(0, len(entries))
	e.register(t, entries)
	e.globals.RawSetString(name, t)
	e.freeze(t)
	return t
}

func (e *Engine) freeze(t *lua.LTable) { e.frozen[t] = true }

// environment returns what programs have as their environment: it finds all in globals and refuses everything else.
func (e *Engine) environment(globals *lua.LTable) *lua.LTable {
	l := e.state
	missing := l.CreateTable(0, 1)
	missing.RawSetString("__index", e.function(library{"index", nonexistent}))
	e.freeze(missing)
	globals.Metatable = missing
	proxy, meta := l.CreateTable(0, 0), l.CreateTable(0, 2)
	meta.RawSetString("__index", globals)
	meta.RawSetString("__newindex", e.function(library{"newindex", func(f frame) int {
		f.fail(readOnlyTable)
		return 0
	}}))
	proxy.Metatable = meta
	return proxy
}

func nonexistent(f frame) int {
	name, _ := textOf(f.l.Get(2))
	f.fail("Script attempted to access nonexistent global variable '" + name + "'")
	return 0
}

// concat is the operator '..' on all its arguments.
func concat(f frame) int {
	n := f.count()
	size := 0
	for i := 1; i <= n; i++ {
		switch v := f.l.Get(i).(type) {
		case lua.LString:
			size += len(v)
		case lua.LNumber:
			size += 24
		default:
			return concatSlowly(f, n)
		}
	}
	f.e.take(f.l, size+stringBytes)
	f.e.work(f.l, size/64)
	b := make([]byte, 0, size)
	for i := 1; i <= n; i++ {
		switch v := f.l.Get(i).(type) {
		case lua.LString:
			b = append(b, v...)
		case lua.LNumber:
			b = append(b, numberText(float64(v))...)
		}
	}
	f.l.Push(lua.LString(b))
	return 1
}

// concatSlowly joins from the right, two by two, as metamethods expect it.
func concatSlowly(f frame, n int) int {
	right := f.l.Get(n)
	for i := n - 1; i > 0; i-- {
		left := f.l.Get(i)
		a, okA := textOf(left)
		b, okB := textOf(right)
		if okA && okB {
			f.e.take(f.l, len(a)+len(b)+stringBytes)
			right = lua.LString(a + b)
			continue
		}
		op := f.l.GetMetaField(left, "__concat")
		if op == lua.LNil {
			op = f.l.GetMetaField(right, "__concat")
		}
		if op == lua.LNil {
			bad := left
			if okA {
				bad = right
			}
			f.fail("attempt to concatenate a " + bad.Type().String() + " value")
		}
		right = f.callOne(op, left, right)
	}
	return f.push(right)
}

// set is the assignment to a field.
func set(f frame) int {
	target, key, value := f.l.Get(1), f.l.Get(2), f.l.Get(3)
	t, ok := target.(*lua.LTable)
	if !ok {
		if f.l.GetMetaField(target, "__newindex") == lua.LNil {
			f.fail("attempt to index a " + target.Type().String() + " value")
		}
		f.l.SetTable(target, key, value)
		return 0
	}
	if f.e.frozen[t] {
		f.fail(readOnlyTable)
	}
	if t.Metatable != lua.LNil && t.RawGet(key) == lua.LNil && f.l.GetMetaField(t, "__newindex") != lua.LNil {
		setByMeta(f, t, key, value)
		return 0
	}
	f.e.assign(f.l, t, key, value)
	return 0
}

// setByMeta follows __newindex.
func setByMeta(f frame, t *lua.LTable, key, value lua.LValue) {
	var target lua.LValue = t
	for range lua.MaxTableGetLoop {
		if next, ok := target.(*lua.LTable); ok {
			if next.RawGet(key) != lua.LNil || f.l.GetMetaField(next, "__newindex") == lua.LNil {
				if f.e.frozen[next] {
					f.fail(readOnlyTable)
				}
				f.e.assign(f.l, next, key, value)
				return
			}
		}
		handler := f.l.GetMetaField(target, "__newindex")
		switch handler.(type) {
		case *lua.LFunction:
			f.callOne(handler, target, key, value)
			return
		case *lua.LNilType:
			f.fail("attempt to index a " + target.Type().String() + " value")
		}
		target = handler
	}
	f.fail("loop in settable")
}

// created counts the memory of a table or closure that a program has made, and returns it. A table comes with the number of
// its fields in the source.
func created(f frame) int {
	switch v := f.l.Get(1).(type) {
	case *lua.LFunction:
		size := closureBytes
		if !v.IsG {
			size += len(v.Upvalues) * upvalueBytes
		}
		f.e.take(f.l, size)
	case *lua.LTable:
		length := v.MaxN()
		fields, _ := f.l.Get(2).(lua.LNumber)
		f.e.take(f.l, tableBytes+length*slotBytes+int(fields)*entryBytes)
		if length == 0 && fields > 0 || length > int(fields) {
			return f.push(f.e.trimmed(f.l, v, length))
		}
		if fields == 0 {
			f.l.Push(f.l.CreateTable(1, 1)) // grows from small, where the constructor's would begin with 32
			return 1
		}
	}
	f.l.SetTop(1)
	return 1
}

// trimmed returns the table without nils at the end of its array.
func (e *Engine) trimmed(l *lua.LState, t *lua.LTable, length int) *lua.LTable {
	var last lua.LValue = lua.LNil
	if length > 0 {
		last = lua.LNumber(length)
	}
	if field, _ := t.Next(last); field != lua.LNil {
		return t // it has fields besides
	}
	fresh := l.CreateTable(length, 0)
	for i := 1; i <= length; i++ {
		fresh.RawSetInt(i, t.RawGetInt(i))
	}
	e.work(l, length/16)
	return fresh
}

var baseLibrary = []library{
	{"assert", baseAssert}, {"collectgarbage", collectGarbage}, {"error", baseError}, {"gcinfo", gcInfo}, {"getmetatable", getMetatable},
	{"ipairs", ipairs}, {"load", load}, {"loadstring", loadString}, {"next", next}, {"pairs", pairs}, {"pcall", pcall}, {"rawequal", rawEqual},
	{"rawget", rawGet}, {"rawset", rawSet}, {"select", selectArguments}, {"setmetatable", setMetatable}, {"tonumber", toNumber},
	{"tostring", toString}, {"type", typeName}, {"unpack", unpack}, {"xpcall", xpcall},
}

func baseAssert(f frame) int {
	if !lua.LVAsBool(f.any(1)) {
		if text, ok := textOf(f.l.Get(2)); ok {
			f.fail(text)
		}
		if f.count() > 1 && !f.absent(2) {
			f.l.Error(f.l.Get(2), 0)
		}
		f.fail("assertion failed!")
	}
	return f.count()
}

// collectGarbage does nothing: what a script may take does not depend on what is collected.
func collectGarbage(f frame) int { return f.pushNumber(0) }

func gcInfo(f frame) int { return f.pushNumber(0) }

func baseError(f frame) int {
	v, level := f.l.Get(1), f.integerOr(2, 1)
	if text, ok := textOf(v); ok && level > 0 {
		if where := f.l.Where(min(level, maxFrames)); where != "" && !strings.HasPrefix(where, "[G]") {
			text = where + " " + text
			f.e.take(f.l, len(text)+stringBytes)
		}
		f.raise(text)
	}
	f.l.Error(v, 0)
	return 0
}

func getMetatable(f frame) int { return f.push(f.l.GetMetatable(f.any(1))) }

func setMetatable(f frame) int {
	t := f.table(1)
	meta := f.l.Get(2)
	if _, ok := meta.(*lua.LTable); !ok && (meta != lua.LNil || f.count() < 2) {
		f.argError(2, "nil or table expected")
	}
	if f.l.GetMetaField(t, "__metatable") != lua.LNil {
		f.fail("cannot change a protected metatable")
	}
	if f.e.frozen[t] {
		f.raise(readOnlyTable)
	}
	t.Metatable = meta
	return f.push(t)
}

func ipairs(f frame) int {
	t := f.table(1)
	return f.push(f.e.ipairsStep, t, lua.LNumber(0))
}

func ipairsStep(f frame) int {
	t, i := f.table(1), f.integer(2)+1
	v := t.RawGetInt(i)
	if v == lua.LNil {
		return f.push(lua.LNil)
	}
	return f.push(lua.LNumber(i), v)
}

func next(f frame) int {
	t := f.table(1)
	if f.absent(2) {
		f.e.compact(f.l, t)
	}
	k, v := t.Next(f.l.Get(2))
	if k == lua.LNil {
		return f.push(lua.LNil)
	}
	return f.push(k, v)
}

func pairs(f frame) int {
	t := f.table(1)
	return f.push(f.e.globals.RawGetString("next"), t, lua.LNil)
}

func rawEqual(f frame) int { return f.pushBool(f.l.RawEqual(f.any(1), f.any(2))) }

func rawGet(f frame) int { return f.push(f.table(1).RawGet(f.any(2))) }

func rawSet(f frame) int {
	t, key, value := f.table(1), f.any(2), f.any(3)
	if f.e.frozen[t] {
		f.raise(readOnlyTable)
	}
	f.e.assign(f.l, t, key, value)
	return f.push(t)
}

func selectArguments(f frame) int {
	if text, ok := f.l.Get(1).(lua.LString); ok && text == "#" {
		return f.pushNumber(float64(f.count() - 1))
	}
	n, count := f.integer(1), f.count()
	if n < 0 {
		n += count
	} else {
		n = min(n, count)
	}
	if n < 1 {
		f.argError(1, "index out of range")
	}
	return count - n
}

func toNumber(f frame) int {
	base := f.integerOr(2, 10)
	if base == 10 {
		switch v := f.any(1).(type) {
		case lua.LNumber:
			return f.push(v)
		case lua.LString:
			if n, ok := parseNumber(string(v)); ok {
				return f.pushNumber(n)
			}
		}
		return f.push(lua.LNil)
	}
	text := strings.Trim(f.text(1), " \t\n\v\f\r")
	if base < 2 || base > 36 {
		f.argError(2, "base out of range")
	}
	negative := strings.HasPrefix(text, "-")
	text = strings.TrimPrefix(strings.TrimPrefix(text, "-"), "+")
	if base == 16 && len(text) > 2 && (strings.HasPrefix(text, "0x") || strings.HasPrefix(text, "0X")) {
		text = text[2:]
	}
	n, err := strconv.ParseUint(text, base, 64)
	if errors.Is(err, strconv.ErrSyntax) || strings.IndexByte(text, '_') >= 0 {
		return f.push(lua.LNil)
	}
	if negative {
		n = -n // as strtoul does
	}
	return f.pushNumber(float64(n))
}

func toString(f frame) int {
	v := f.any(1)
	if handler := f.l.GetMetaField(v, "__tostring"); handler != lua.LNil {
		return f.push(f.callOne(handler, v))
	}
	return f.pushText(f.e.show(v))
}

// show returns a value as text. What has no text of its own is named by a number that follows from the run.
func (e *Engine) show(v lua.LValue) string {
	if text, ok := textOf(v); ok {
		return text
	}
	switch v.(type) {
	case *lua.LNilType, lua.LBool:
		return v.String()
	}
	if v == lua.LValue(jsonNull) {
		return "userdata: (nil)"
	}
	if e.named == nil {
		e.named = make(map[any]int)
	}
	number, ok := e.named[v]
	if !ok {
		number = len(e.named) + 1
		e.named[v] = number
	}
	digits := strconv.FormatInt(int64(number)*16, 16)
	return v.Type().String() + ": 0x" + strings.Repeat("0", max(0, 12-len(digits))) + digits
}

func typeName(f frame) int { return f.push(lua.LString(f.any(1).Type().String())) }

// maxUnpack bounds the values that one call can return, as Lua's stack does.
const maxUnpack = 7990

func unpack(f frame) int {
	t, first := f.table(1), f.integerOr(2, 1)
	last := f.integerOr(3, t.Len())
	if first > last {
		return 0
	}
	if uint(last-first) >= maxUnpack {
		f.fail("too many results to unpack")
	}
	f.e.work(f.l, (last-first)/16)
	for i := first; i <= last; i++ {
		f.l.Push(t.RawGet(lua.LNumber(i)))
	}
	return last - first + 1
}

// pcall calls its first argument. As in Redis, an error that is a table with a text in its field "err" comes back as that
// text.
func pcall(f frame) int {
	f.any(1)
	n := f.count()
	f.e.enter(f.l)
	err := f.e.protect(f.l, n-1, lua.MultRet)
	f.e.leave()
	if err != nil {
		return f.push(lua.LFalse, plainError(f.e.caught(err)))
	}
	f.l.Insert(lua.LTrue, 1)
	return f.count()
}

func plainError(v lua.LValue) lua.LValue {
	if t, ok := v.(*lua.LTable); ok {
		if text, ok := t.RawGetString("err").(lua.LString); ok {
			return text
		}
	}
	return v
}

func xpcall(f frame) int {
	f.any(2)
	handler := f.l.Get(2)
	f.l.SetTop(1)
	f.e.enter(f.l)
	err := f.e.protect(f.l, 0, lua.MultRet)
	f.e.leave()
	if err == nil {
		f.l.Insert(lua.LTrue, 1)
		return f.count()
	}
	value := f.e.caught(err)
	f.l.Push(handler)
	f.l.Push(value)
	f.e.enter(f.l)
	err = f.e.protect(f.l, 1, lua.MultRet)
	f.e.leave()
	if err != nil {
		return f.push(lua.LFalse, f.e.caught(err))
	}
	f.l.Insert(lua.LFalse, 1)
	return f.count()
}

// caught returns the value of an error that a protected call returned.
func (e *Engine) caught(err error) lua.LValue {
	_ = e.meter.Work(errorWork)
	var lost *lua.ApiError
	if errors.As(err, &lost) {
		return e.cleanError(lost)
	}
	return lua.LString(err.Error())
}

// cleanError returns the value of an error, with the texts of gopher-lua made those of Lua as far as they can be, and
// without addresses.
func (e *Engine) cleanError(lost *lua.ApiError) lua.LValue {
	text, ok := lost.Object.(lua.LString)
	if !ok {
		return lost.Object
	}
	message := string(text)
	if lost.Type == lua.ApiErrorPanic {
		_ = e.meter.Work(panicWork)
		if place := placeOf(lost.StackTrace); place != "" {
			message = place + ": " + message
		}
		return lua.LString(message)
	}
	if before, kinds, ok := strings.Cut(message, "attempt to compare "); ok {
		if one, other, _ := strings.Cut(kinds, " with "); one == other {
			return lua.LString(before + "attempt to compare two " + one + " values")
		}
		return text
	}
	for _, t := range translations {
		before, after, ok := strings.Cut(message, t.ours)
		if !ok {
			continue
		}
		kind := t.kind
		if kind == "" {
			kind = firstKind(after)
		}
		return lua.LString(before + t.theirs + kind + " value")
	}
	return text
}

// errorWork is what an error that was caught counts, in instructions.
const errorWork = 200

// panicWork is what a failure within gopher-lua counts, in instructions: it describes the whole stack.
const panicWork = maxFrames * maxFrames / 2

// translations are texts of gopher-lua and those of Lua.
var translations = []struct{ ours, theirs, kind string }{
	{"attempt to index a non-table object(", "attempt to index a ", ""},
	{"cannot perform add operation between ", "attempt to perform arithmetic on a ", ""},
	{"cannot perform sub operation between ", "attempt to perform arithmetic on a ", ""},
	{"cannot perform mul operation between ", "attempt to perform arithmetic on a ", ""},
	{"cannot perform div operation between ", "attempt to perform arithmetic on a ", ""},
	{"cannot perform mod operation between ", "attempt to perform arithmetic on a ", ""},
	{"cannot perform pow operation between ", "attempt to perform arithmetic on a ", ""},
	{"__unm undefined", "attempt to perform arithmetic on a ", "non-number"},
	{"__len undefined", "attempt to get length of a ", "non-table"},
	{"attempt to call a non-function object", "attempt to call a ", "non-function"},
}

// firstKind returns the first name of a type in text that arithmetic does not take.
func firstKind(text string) string {
	first, rest, _ := strings.Cut(text, " and ")
	first, _, _ = strings.Cut(first, ")")
	if first == "number" && rest != "" {
		return rest
	}
	return first
}

func load(f frame) int {
	source := f.function(1)
	name := f.textOr(2, "=(load)")
	var code []byte
	for {
		v := f.callOne(source)
		piece, ok := textOf(v)
		if v == lua.LNil || ok && piece == "" {
			break
		}
		if !ok {
			return f.push(lua.LNil, lua.LString("reader function must return a string"))
		}
		f.e.take(f.l, len(piece))
		code = append(code, piece...)
	}
	return loadCode(f, string(code), name)
}

func loadString(f frame) int {
	code := f.text(1)
	return loadCode(f, code, f.textOr(2, code))
}

// loadCode compiles code anew, whether it was before or not: a function is equal to itself only.
func loadCode(f frame, code, name string) int {
	f.e.work(f.l, 1000+len(code)*10)
	f.e.take(f.l, 4000+len(code)*40)
	if strings.HasPrefix(code, "\x1b") {
		return f.push(lua.LNil, lua.LString(chunkName(name)+": bad binary format"))
	}
	compiled, err := f.e.compileNew(chunkName(name), code)
	if err != nil {
		return f.push(lua.LNil, lua.LString(err.Error()))
	}
	return f.push(compiled)
}

// chunkName returns how messages name a chunk: "=name" and "@name" as name, code by its first line.
func chunkName(name string) string {
	const limit = 45
	if rest, ok := strings.CutPrefix(name, "="); ok {
		return rest[:min(len(rest), limit)]
	}
	if rest, ok := strings.CutPrefix(name, "@"); ok {
		return rest[:min(len(rest), limit)]
	}
	line, _, cut := strings.Cut(name, "\n")
	if len(line) > limit {
		line, cut = line[:limit], true
	}
	if cut {
		line += "..."
	}
	return `[string "` + line + `"]`
}

// textArithmetic is what arithmetic does with texts.
var textArithmetic = []library{
	{"__add", arithmetic(func(a, b float64) float64 { return a + b })}, {"__sub", arithmetic(func(a, b float64) float64 { return a - b })},
	{"__mul", arithmetic(func(a, b float64) float64 { return a * b })}, {"__div", arithmetic(func(a, b float64) float64 { return a / b })},
	{"__mod", arithmetic(modulo)}, {"__pow", arithmetic(math.Pow)}, {"__unm", arithmetic(func(a, _ float64) float64 { return -a })},
}

func arithmetic(operator func(a, b float64) float64) func(f frame) int {
	return func(f frame) int {
		if f.count() < 2 {
			f.l.Push(f.l.Get(1)) // of the unary minus
		}
		var operands [2]float64
		for i := range operands {
			switch v := f.l.Get(i + 1).(type) {
			case lua.LNumber:
				operands[i] = float64(v)
				continue
			case lua.LString:
				if n, ok := parseNumber(string(v)); ok {
					operands[i] = n
					continue
				}
			}
			f.fail("attempt to perform arithmetic on a " + f.l.Get(i+1).Type().String() + " value")
		}
		return f.pushNumber(operator(operands[0], operands[1]))
	}
}

// modulo is a - floor(a/b)*b.
func modulo(a, b float64) float64 {
	v := math.Mod(a, b)
	if b > 0 && v < 0 || b < 0 && v > 0 {
		v += b
	}
	return v
}

// openCoroutines makes the library of coroutines. Their switch is gopher-lua's; around it, the meter is handed on and nesting
// is bounded.
func (e *Engine) openCoroutines() {
	l := e.state
	saved := l.G.Global
	l.G.Global = l.CreateTable(0, 1)
	lua.OpenCoroutine(l)
	l.Pop(1)
	original := l.G.Global.RawGetString("coroutine").(*lua.LTable)
	l.G.Global = saved
	builtin := func(name string) lua.LGFunction { return original.RawGetString(name).(*lua.LFunction).GFunction }
	resume, wrapped := builtin("resume"), builtin("wrap")
	create := func(f frame, make lua.LGFunction) *lua.LFunction {
		f.function(1)
		f.e.take(f.l, coroutineBytes)
		make(f.l)
		fn, _ := f.l.Get(-1).(*lua.LFunction)
		return fn
	}
	switchTo := func(f frame, resume lua.LGFunction) int {
		if f.e.inner >= maxInner/2 {
			f.fail("C stack overflow")
		}
		f.e.inner++
		outer := f.e.noYield
		f.e.noYield = 0
		defer func() { f.e.inner, f.e.noYield = f.e.inner-1, outer }()
		return resume(f.l)
	}
	t := e.open("coroutine", []library{
		{"create", func(f frame) int {
			create(f, builtin("create"))
			f.l.Get(-1).(*lua.LState).SetContext(&f.e.meter)
			return 1
		}},
		{"resume", func(f frame) int {
			f.l.CheckThread(1)
			depth := f.e.inner
			n := switchTo(f, resume)
			f.e.inner = depth
			if n > 1 && f.l.Get(-n) == lua.LFalse {
				f.l.Replace(-1, plainError(f.e.cleanError(&lua.ApiError{Object: f.l.Get(-1), Type: lua.ApiErrorRun})))
			}
			return n
		}},
		{"running", func(f frame) int { return builtin("running")(f.l) }},
		{"status", func(f frame) int { return builtin("status")(f.l) }},
		{"wrap", func(f frame) int {
			fn := create(f, wrapped)
			thread := fn.Upvalues[0].Value().(*lua.LState)
			thread.SetContext(&f.e.meter)
			f.l.Push(f.l.NewClosure(func(l *lua.LState) int {
				return switchTo(frame{f.e, l, "wrap"}, fn.GFunction)
			}, thread))
			return 1
		}},
		{"yield", func(f frame) int {
			if f.e.noYield > 0 {
				f.fail("attempt to yield across metamethod/C-call boundary")
			}
			if f.l.Parent == nil {
				f.fail("attempt to yield from outside a coroutine")
			}
			return -1
		}},
	})
	e.freeze(t)
}

const coroutineBytes = 32 << 10

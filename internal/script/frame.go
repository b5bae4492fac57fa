package script

import (
	"math"
	"strconv"

	lua "github.com/yuin/gopher-lua"
)

// frame is a call of a library function: its arguments, and the words to complain about them.
type frame struct {
	e    *Engine
	l    *lua.LState
	name string
}

// library is a function of a library: it pushes its results and returns their number.
type library struct {
	name string
	call func(f frame) int
}

// function makes a library function a value of Lua.
func (e *Engine) function(entry library) *lua.LFunction {
	return e.state.NewFunction(func(l *lua.LState) int { return entry.call(frame{e, l, entry.name}) })
}

// register puts functions into a table, in their order.
func (e *Engine) register(t *lua.LTable, entries []library) {
	for _, entry := range entries {
		t.RawSetString(entry.name, e.function(entry))
	}
}

// fail raises an error of the library, which Lua prefixes with the line of the caller.
func (f frame) fail(text string) { f.l.RaiseError("%s", text) }

// raise raises text as it is.
func (f frame) raise(text string) { f.l.Error(lua.LString(text), 0) }

func (f frame) argError(n int, text string) {
	f.fail("bad argument #" + strconv.Itoa(n) + " to '" + f.name + "' (" + text + ")")
}

func (f frame) typeError(n int, expected string) {
	got := "no value"
	if n <= f.l.GetTop() {
		got = f.l.Get(n).Type().String()
	}
	f.argError(n, expected+" expected, got "+got)
}

func (f frame) count() int { return f.l.GetTop() }

func (f frame) any(n int) lua.LValue {
	if n > f.l.GetTop() {
		f.argError(n, "value expected")
	}
	return f.l.Get(n)
}

func (f frame) absent(n int) bool { return f.l.Get(n) == lua.LNil }

func (f frame) text(n int) string {
	text, ok := textOf(f.l.Get(n))
	if !ok {
		f.typeError(n, "string")
	}
	return text
}

func (f frame) textOr(n int, otherwise string) string {
	if f.absent(n) {
		return otherwise
	}
	return f.text(n)
}

func (f frame) number(n int) float64 {
	switch v := f.l.Get(n).(type) {
	case lua.LNumber:
		return float64(v)
	case lua.LString:
		if number, ok := parseNumber(string(v)); ok {
			return number
		}
	}
	f.typeError(n, "number")
	return 0
}

// integer returns an argument as lua_Integer: truncated, and the same on every processor.
func (f frame) integer(n int) int { return int(integerOf(f.number(n))) }

func (f frame) integerOr(n, otherwise int) int {
	if f.absent(n) {
		return otherwise
	}
	return f.integer(n)
}

func (f frame) table(n int) *lua.LTable {
	t, ok := f.l.Get(n).(*lua.LTable)
	if !ok {
		f.typeError(n, "table")
	}
	return t
}

func (f frame) function(n int) *lua.LFunction {
	fn, ok := f.l.Get(n).(*lua.LFunction)
	if !ok {
		f.typeError(n, "function")
	}
	return fn
}

func (f frame) push(values ...lua.LValue) int {
	for _, v := range values {
		f.l.Push(v)
	}
	return len(values)
}

func (f frame) pushText(text string) int {
	f.e.pushString(f.l, text)
	return 1
}

func (f frame) pushNumber(n float64) int {
	f.l.Push(lua.LNumber(n))
	return 1
}

func (f frame) pushBool(b bool) int {
	f.l.Push(lua.LBool(b))
	return 1
}

// call calls fn with args and returns its first result.
func (f frame) callOne(fn lua.LValue, args ...lua.LValue) lua.LValue {
	f.e.enter(f.l)
	defer f.e.leave()
	f.l.Push(fn)
	for _, arg := range args {
		f.l.Push(arg)
	}
	f.l.Call(len(args), 1)
	v := f.l.Get(-1)
	f.l.Pop(1)
	return v
}

// isIndex reports whether n is a place of a table's array, and which.
func isIndex(v lua.LValue) (int, bool) {
	n, ok := v.(lua.LNumber)
	if !ok || float64(n) != math.Trunc(float64(n)) || n < 1 || n >= lua.LNumber(lua.MaxArrayIndex) {
		return 0, false
	}
	return int(n), true
}

const readOnlyTable = "Attempt to modify a readonly table"

// assign sets a field of a table, raw, and counts the memory that it takes.
func (e *Engine) assign(l *lua.LState, t *lua.LTable, key, value lua.LValue) {
	if n, ok := isIndex(key); ok {
		e.assignIndex(l, t, n, value)
		return
	}
	if value == lua.LNil {
		if t.RawGet(key) != lua.LNil {
			t.RawSet(key, value)
			if e.deleted == nil {
				e.deleted = make(map[*lua.LTable]int)
			}
			e.deleted[t]++
		}
		return
	}
	if t.RawGet(key) == lua.LNil {
		e.take(l, entryBytes)
	}
	l.RawSet(t, key, value) // complains about NaN and nil
}

// assignIndex sets a place of the array. The array never ends in nil, so that its length is known at once.
func (e *Engine) assignIndex(l *lua.LState, t *lua.LTable, n int, value lua.LValue) {
	if t.RawGetInt(n) != lua.LNil {
		if value == lua.LNil && t.MaxN() == n {
			t.Remove(n)
			for left := n - 1; left > 0 && t.RawGetInt(left) == lua.LNil; left-- {
				t.Remove(left)
			}
			return
		}
		t.RawSetInt(n, value)
		return
	}
	if value == lua.LNil {
		return
	}
	if length := t.MaxN(); n > length {
		e.take(l, (n-length)*2*slotBytes)
		e.work(l, (n-length)/16)
	}
	t.RawSetInt(n, value)
}

// compact forgets the keys of fields that were deleted, if they are many: iteration would otherwise meet them for
// ever. It is called where an iteration begins.
func (e *Engine) compact(l *lua.LState, t *lua.LTable) {
	if len(e.deleted) == 0 || e.deleted[t] < compactAt {
		return
	}
	left := count(t)
	if e.deleted[t] < left {
		return
	}
	fresh := l.CreateTable(t.MaxN(), left)
	for k, v := t.Next(lua.LNil); k != lua.LNil; k, v = t.Next(k) {
		fresh.RawSet(k, v)
	}
	fresh.Metatable = t.Metatable
	*t = *fresh
	delete(e.deleted, t)
}

const compactAt = 64

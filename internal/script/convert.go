package script

import (
	"bytes"
	"strconv"

	lua "github.com/yuin/gopher-lua"

	"lockstep/internal/resp"
)

// maxReplyDepth bounds the nesting of the tables that a script returns.
const maxReplyDepth = 1000

// writeReply encodes what a script returned, by the rules of Redis. limit bounds the reply, in bytes.
func (e *Engine) writeReply(v lua.LValue, reply *resp.Reply, limit int) {
	if reply == nil {
		return
	}
	mark, errs := reply.Mark(), reply.Errors
	w := replyWriter{reply: reply, end: mark + limit, proto: e.proto}
	w.value(v, 0)
	if w.problem != "" {
		reply.Buf, reply.Errors = reply.Buf[:mark], errs
		reply.Error(w.problem)
	}
}

type replyWriter struct {
	reply   *resp.Reply
	end     int // what Mark may be at most
	proto   int // that the script speaks
	problem string
}

func (w *replyWriter) value(v lua.LValue, depth int) {
	if w.problem != "" {
		return
	}
	if w.reply.Mark() > w.end {
		w.problem = "ERR the reply of the script is too large"
		return
	}
	switch v := v.(type) {
	case lua.LString:
		w.reply.BulkString(string(v))
	case lua.LNumber:
		w.reply.Int(integerOf(float64(v)))
	case lua.LBool:
		switch {
		case w.proto >= 3:
			w.reply.Bool(bool(v))
		case bool(v):
			w.reply.Int(1)
		default:
			w.reply.Null()
		}
	case *lua.LTable:
		if depth > maxReplyDepth {
			w.problem = "ERR reached lua stack limit"
			return
		}
		w.table(v, depth+1)
	default:
		w.reply.Null()
	}
}

// integerOf truncates as a conversion to long long does on amd64.
func integerOf(f float64) int64 {
	const limit = 1 << 63
	if f >= -limit && f < limit {
		return int64(f)
	}
	return -limit
}

func (w *replyWriter) table(t *lua.LTable, depth int) {
	if text, ok := textField(t, "err"); ok {
		w.reply.Error(text)
		return
	}
	if text, ok := textField(t, "ok"); ok {
		w.reply.Simple(oneLine(text))
		return
	}
	if f, ok := t.RawGetString("double").(lua.LNumber); ok {
		w.reply.Double(float64(f))
		return
	}
	if m, ok := t.RawGetString("map").(*lua.LTable); ok {
		w.reply.Map(count(m))
		for k, v := m.Next(lua.LNil); k != lua.LNil; k, v = m.Next(k) {
			w.value(k, depth)
			w.value(v, depth)
		}
		return
	}
	if m, ok := t.RawGetString("set").(*lua.LTable); ok {
		w.reply.Set(count(m))
		for k, _ := m.Next(lua.LNil); k != lua.LNil; k, _ = m.Next(k) {
			w.value(k, depth)
		}
		return
	}
	if text, ok := textField(t, "big_number"); ok {
		w.reply.BigNumber(oneLine(text))
		return
	}
	if v, ok := t.RawGetString("verbatim_string").(*lua.LTable); ok {
		text, isText := textField(v, "string")
		format, hasFormat := textField(v, "format")
		if isText && hasFormat {
			w.reply.Verbatim(format, text)
			return
		}
	}
	mark, n := w.reply.Mark(), 0
	for ; ; n++ {
		v := t.RawGetInt(n + 1)
		if v == lua.LNil {
			break
		}
		w.value(v, depth)
		if w.problem != "" {
			return
		}
	}
	w.reply.InsertArray(mark, n)
}

// textField returns a field that is a string or a number.
func textField(t *lua.LTable, name string) (string, bool) {
	return textOf(t.RawGetString(name))
}

// textOf returns a string, or a number as text, as lua_tostring does.
func textOf(v lua.LValue) (string, bool) {
	switch v := v.(type) {
	case lua.LString:
		return string(v), true
	case lua.LNumber:
		return numberText(float64(v)), true
	}
	return "", false
}

// count returns the number of entries of a table.
func count(t *lua.LTable) (n int) {
	for k, _ := t.Next(lua.LNil); k != lua.LNil; k, _ = t.Next(k) {
		n++
	}
	return n
}

// oneLine replaces CR and LF by spaces.
func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c == '\r' || c == '\n' {
			b[i] = ' '
		}
	}
	return string(b)
}

// readReply returns the value that stands for the first encoded reply of b, and what is behind it. The reply was encoded by
// this node.
func (e *Engine) readReply(l *lua.LState, b []byte) (lua.LValue, []byte) {
	end := bytes.IndexByte(b, '\r')
	if end < 1 {
		return lua.LNil, nil
	}
	line, rest := b[1:end], b[end+2:]
	switch b[0] {
	case ':':
		n, _ := strconv.ParseInt(string(line), 10, 64)
		return lua.LNumber(n), rest
	case '$':
		if line[0] == '-' {
			return lua.LFalse, rest
		}
		text, rest := e.readBulk(l, line, rest)
		return text, rest
	case '+':
		return e.field(l, "ok", e.newString(l, line)), rest
	case '-':
		return e.errorTable(l, string(line)), rest
	case '_':
		return lua.LNil, rest
	case '#':
		return lua.LBool(line[0] == 't'), rest
	case ',':
		e.work(l, entryWork)
		f, _ := parseNumber(string(line))
		return e.field(l, "double", lua.LNumber(f)), rest
	case '(':
		e.work(l, entryWork)
		return e.field(l, "big_number", e.newString(l, line)), rest
	case '=':
		e.work(l, entryWork)
		text, rest := e.readBulk(l, line, rest)
		verbatim := e.newTable(l, 0, 2)
		verbatim.RawSetString("format", text[:3])
		verbatim.RawSetString("string", text[4:])
		return e.field(l, "verbatim_string", verbatim), rest
	}
	if line[0] == '-' {
		return lua.LFalse, rest // a null array of RESP2
	}
	n, _ := strconv.Atoi(string(line))
	return e.readItems(l, b[0], n, rest)
}

// What a value of a reply counts, in instructions, besides its bytes: one in a list; a key with its value in a table, or one that is a table of its
// own. The engine spends as much time on them as on so many instructions of a loop that makes tables.
const (
	valueWork = 4
	entryWork = 12
)

func (e *Engine) readItems(l *lua.LState, kind byte, n int, rest []byte) (lua.LValue, []byte) {
	var key, value lua.LValue
	if kind == '%' || kind == '~' {
		e.work(l, n*entryWork)
	} else {
		e.work(l, n*valueWork)
	}
	switch kind {
	case '%':
		t := e.newTable(l, 0, n)
		for range n {
			key, rest = e.readReply(l, rest)
			value, rest = e.readReply(l, rest)
			if key != lua.LNil {
				t.RawSet(key, value)
			}
		}
		return e.field(l, "map", t), rest
	case '~':
		t := e.newTable(l, 0, n)
		for range n {
			if key, rest = e.readReply(l, rest); key != lua.LNil {
				t.RawSet(key, lua.LTrue)
			}
		}
		return e.field(l, "set", t), rest
	}
	t := e.newTable(l, n, 0)
	for i := range n {
		if value, rest = e.readReply(l, rest); value != lua.LNil {
			t.RawSetInt(i+1, value)
		}
	}
	return t, rest
}

func (e *Engine) readBulk(l *lua.LState, line, rest []byte) (lua.LString, []byte) {
	n, _ := strconv.Atoi(string(line))
	return e.newString(l, rest[:n]), rest[n+2:]
}

// Estimates of what values take, in bytes.
const (
	stringBytes  = 32
	tableBytes   = 256
	slotBytes    = 16  // of the array of a table
	entryBytes   = 120 // of its fields
	closureBytes = 96
	upvalueBytes = 64
)

func (e *Engine) newString(l *lua.LState, b []byte) lua.LString {
	e.take(l, len(b)+stringBytes)
	return lua.LString(b)
}

// newTable makes a table that will hold as many values in its array and its fields.
func (e *Engine) newTable(l *lua.LState, values, fields int) *lua.LTable {
	e.take(l, tableBytes+values*slotBytes+fields*entryBytes)
	return l.CreateTable(values, fields)
}

// field returns a table with one field.
func (e *Engine) field(l *lua.LState, name string, v lua.LValue) *lua.LTable {
	t := e.newTable(l, 0, 1)
	t.RawSetString(name, v)
	return t
}

// errorTable returns what stands for an error reply: a text that begins with its code.
func (e *Engine) errorTable(l *lua.LState, text string) *lua.LTable {
	return e.field(l, "err", e.newString(l, []byte(text)))
}

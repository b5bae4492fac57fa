package script

import (
	"math"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// jsonNull is cjson.null. It is shared by all engines: nothing can change it.
var jsonNull = &lua.LUserData{Metatable: lua.LNil}

// jsonOptions are the settings of cjson. A script that changes them does so for its own run.
type jsonOptions struct {
	sparseConvert           bool
	sparseRatio, sparseSafe int
	encodeDepth             int
	decodeDepth             int
	precision               int
	keepBuffer              bool
	encodeInvalid           string // on, off, null
	decodeInvalid           string // on, off
}

var defaultJSON = jsonOptions{
	sparseRatio: 2, sparseSafe: 10, encodeDepth: 1000, decodeDepth: 1000, precision: 14, keepBuffer: true, encodeInvalid: "off", decodeInvalid: "on",
}

func (e *Engine) openJSON() {
	t := e.open("cjson", []library{
		{"decode", jsonDecode}, {"decode_invalid_numbers", jsonInvalid(func(o *jsonOptions) *string { return &o.decodeInvalid }, "off", "on")},
		{"decode_max_depth", jsonNumber(func(o *jsonOptions) *int { return &o.decodeDepth }, 1, math.MaxInt32)},
		{"encode", jsonEncode}, {"encode_invalid_numbers", jsonInvalid(func(o *jsonOptions) *string { return &o.encodeInvalid }, "off", "on", "null")},
		{"encode_keep_buffer", jsonKeepBuffer},
		{"encode_max_depth", jsonNumber(func(o *jsonOptions) *int { return &o.encodeDepth }, 1, math.MaxInt32)},
		{"encode_number_precision", jsonNumber(func(o *jsonOptions) *int { return &o.precision }, 1, 14)},
		{"encode_sparse_array", jsonSparse}, {"new", func(f frame) int { return f.push(f.e.globals.RawGetString("cjson")) }},
	})
	t.RawSetString("null", jsonNull)
	t.RawSetString("_NAME", lua.LString("cjson"))
	t.RawSetString("_VERSION", lua.LString("2.1.0"))
}

func jsonNumber(option func(*jsonOptions) *int, low, high int) func(f frame) int {
	return func(f frame) int {
		target := option(&f.e.json)
		if !f.absent(1) {
			n := f.integer(1)
			if n < low || n > high {
				f.argError(1, "expected integer between "+strconv.Itoa(low)+" and "+strconv.Itoa(high))
			}
			*target = n
		}
		return f.pushNumber(float64(*target))
	}
}

func jsonInvalid(option func(*jsonOptions) *string, words ...string) func(f frame) int {
	return func(f frame) int {
		target := option(&f.e.json)
		switch v := f.l.Get(1).(type) {
		case *lua.LNilType:
		case lua.LBool:
			*target = words[0]
			if v {
				*target = words[1]
			}
		default:
			word := f.text(1)
			known := false
			for _, w := range words {
				known = known || w == word
			}
			if !known {
				f.argError(1, "invalid option '"+word+"'")
			}
			*target = word
		}
		if *target == "null" {
			return f.push(lua.LString("null"))
		}
		return f.pushBool(*target == "on")
	}
}

func jsonKeepBuffer(f frame) int {
	if !f.absent(1) {
		f.e.json.keepBuffer = lua.LVAsBool(f.l.Get(1))
	}
	return f.pushBool(f.e.json.keepBuffer)
}

func jsonSparse(f frame) int {
	o := &f.e.json
	if !f.absent(1) {
		o.sparseConvert = lua.LVAsBool(f.l.Get(1))
	}
	for i, target := range []*int{&o.sparseRatio, &o.sparseSafe} {
		if !f.absent(i + 2) {
			n := f.integer(i + 2)
			if n < 0 || n > math.MaxInt32 {
				f.argError(i+2, "expected integer between 0 and 2147483647")
			}
			*target = n
		}
	}
	return f.push(lua.LBool(o.sparseConvert), lua.LNumber(o.sparseRatio), lua.LNumber(o.sparseSafe))
}

func jsonEncode(f frame) int {
	if f.count() != 1 {
		f.argError(1, "expected 1 argument")
	}
	w := jsonWriter{f: f}
	w.value(f.l.Get(1), 0)
	return f.pushText(string(w.b))
}

type jsonWriter struct {
	f    frame
	b    []byte
	paid int
}

// pay counts the memory of what was written since the last time.
func (w *jsonWriter) pay() {
	if grown := len(w.b) - w.paid; grown > 4096 {
		w.f.e.take(w.f.l, grown)
		w.f.e.work(w.f.l, grown/16)
		w.paid = len(w.b)
	}
}

func (w *jsonWriter) value(v lua.LValue, depth int) {
	w.pay()
	switch v := v.(type) {
	case lua.LString:
		w.text(string(v))
	case lua.LNumber:
		w.number(float64(v))
	case lua.LBool:
		w.b = append(w.b, v.String()...)
	case *lua.LNilType:
		w.b = append(w.b, "null"...)
	case *lua.LTable:
		w.table(v, depth+1)
	default:
		if v == lua.LValue(jsonNull) {
			w.b = append(w.b, "null"...)
			return
		}
		w.fail(v.Type().String(), "type not supported")
	}
}

func (w *jsonWriter) fail(kind, reason string) {
	w.f.fail("Cannot serialise " + kind + ": " + reason)
}

func (w *jsonWriter) number(n float64) {
	if math.IsNaN(n) || math.IsInf(n, 0) {
		switch w.f.e.json.encodeInvalid {
		case "off":
			w.fail("number", "must not be NaN or Inf")
		case "null":
			w.b = append(w.b, "null"...)
			return
		}
		if math.IsNaN(n) {
			w.b = append(w.b, "nan"...)
			return
		}
	}
	w.b = appendG(w.b, n, w.f.e.json.precision)
}

func (w *jsonWriter) text(s string) {
	const digits = "0123456789abcdef"
	w.b = append(w.b, '"')
	for _, c := range []byte(s) {
		switch c {
		case '"', '\\', '/':
			w.b = append(w.b, '\\', c)
		case '\b':
			w.b = append(w.b, `\b`...)
		case '\f':
			w.b = append(w.b, `\f`...)
		case '\n':
			w.b = append(w.b, `\n`...)
		case '\r':
			w.b = append(w.b, `\r`...)
		case '\t':
			w.b = append(w.b, `\t`...)
		default:
			if c < 32 || c == 127 {
				w.b = append(w.b, `\u00`...)
				w.b = append(w.b, digits[c>>4], digits[c&15])
				continue
			}
			w.b = append(w.b, c)
		}
	}
	w.b = append(w.b, '"')
}

func (w *jsonWriter) table(t *lua.LTable, depth int) {
	if depth > w.f.e.json.encodeDepth || depth > maxJSONDepth {
		w.f.fail("Cannot serialise, excessive nesting (" + strconv.Itoa(depth) + ")")
	}
	if n := w.arrayLength(t); n > 0 {
		w.b = append(w.b, '[')
		for i := 1; i <= n; i++ {
			if i > 1 {
				w.b = append(w.b, ',')
			}
			w.value(t.RawGet(lua.LNumber(i)), depth)
		}
		w.b = append(w.b, ']')
		return
	}
	w.b = append(w.b, '{')
	comma := false
	for k, v := t.Next(lua.LNil); k != lua.LNil; k, v = t.Next(k) {
		if comma {
			w.b = append(w.b, ',')
		}
		comma = true
		switch k := k.(type) {
		case lua.LString:
			w.text(string(k))
		case lua.LNumber:
			w.b = append(w.b, '"')
			w.number(float64(k))
			w.b = append(w.b, '"')
		default:
			w.fail("table", "table key must be a number or string")
		}
		w.b = append(w.b, ':')
		w.value(v, depth)
	}
	w.b = append(w.b, '}')
}

// maxJSONDepth bounds what a script may allow itself by encode_max_depth and decode_max_depth.
const maxJSONDepth = 10_000

// arrayLength returns the largest index of a table that has nothing but indices, -1 for any other table.
func (w *jsonWriter) arrayLength(t *lua.LTable) int {
	largest, items := 0, 0
	for k, _ := t.Next(lua.LNil); k != lua.LNil; k, _ = t.Next(k) {
		n, ok := k.(lua.LNumber)
		if !ok || n < 1 || float64(n) != math.Floor(float64(n)) || n > math.MaxInt32 {
			return -1
		}
		largest, items = max(largest, int(n)), items+1
	}
	w.f.e.work(w.f.l, items/8)
	o := &w.f.e.json
	if o.sparseRatio > 0 && largest > items*o.sparseRatio && largest > o.sparseSafe {
		if !o.sparseConvert {
			w.fail("table", "excessively sparse array")
		}
		return -1
	}
	return largest
}

func jsonDecode(f frame) int {
	if f.count() != 1 {
		f.argError(1, "expected 1 argument")
	}
	text := f.text(1)
	if len(text) >= 2 && (text[0] == 0 || text[1] == 0) {
		f.fail("JSON parser does not support UTF-16 or UTF-32")
	}
	f.e.work(f.l, len(text)/4)
	p := jsonParser{f: f, text: text}
	p.next()
	v := p.value(0)
	if p.next(); p.kind != jsonEnd {
		p.unexpected("the end")
	}
	return f.push(v)
}

// Kinds of tokens, named as cjson names them.
const (
	jsonObjectBegin = "T_OBJ_BEGIN"
	jsonObjectEnd   = "T_OBJ_END"
	jsonArrayBegin  = "T_ARR_BEGIN"
	jsonArrayEnd    = "T_ARR_END"
	jsonString      = "T_STRING"
	jsonNumeric     = "T_NUMBER"
	jsonBoolean     = "T_BOOLEAN"
	jsonNullToken   = "T_NULL"
	jsonColon       = "T_COLON"
	jsonComma       = "T_COMMA"
	jsonEnd         = "T_END"
)

var punctuation = [128]string{
	'{': jsonObjectBegin, '}': jsonObjectEnd, '[': jsonArrayBegin, ']': jsonArrayEnd, ',': jsonComma, ':': jsonColon,
}

type jsonParser struct {
	f    frame
	text string
	at   int // behind the token

	kind   string // of the token; what is wrong with it if it is none
	begin  int
	str    string
	number float64
	truth  bool
}

func (p *jsonParser) unexpected(expected string) {
	p.f.fail("Expected " + expected + " but found " + p.kind + " at character " + strconv.Itoa(p.begin+1))
}

// next reads the next token.
func (p *jsonParser) next() {
	for p.at < len(p.text) && strings.IndexByte(" \t\n\r", p.text[p.at]) >= 0 {
		p.at++
	}
	p.begin = p.at
	if p.at == len(p.text) {
		p.kind = jsonEnd
		return
	}
	c := p.text[p.at]
	switch c {
	case '{', '}', '[', ']', ',', ':':
		p.at++
		p.kind = punctuation[c]
		return
	case '"':
		p.readString()
		return
	case 't', 'f', 'n':
		if p.word("true", jsonBoolean) || p.word("false", jsonBoolean) || p.word("null", jsonNullToken) {
			p.truth = c == 't'
			return
		}
	}
	p.readNumber()
}

func (p *jsonParser) word(word, kind string) bool {
	if !strings.HasPrefix(p.text[p.at:], word) {
		return false
	}
	p.at += len(word)
	p.kind = kind
	return true
}

// readNumber reads what strtod takes: also hexadecimal digits, infinity and nan, if they are allowed.
func (p *jsonParser) readNumber() {
	rest := p.text[p.at:]
	end := numberEnd(rest)
	digits := rest[:end]
	number, ok := parseNumber(digits)
	if end == 0 || !ok {
		p.kind = "invalid token"
		return
	}
	if p.f.e.json.decodeInvalid == "off" && !plainJSONNumber(digits) {
		p.kind = "invalid number"
		return
	}
	p.at += end
	p.kind, p.number = jsonNumeric, number
}

// numberEnd returns the length of the number that s begins with.
func numberEnd(s string) int {
	i := 0
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		i++
	}
	if i < len(s) {
		for _, word := range []string{"infinity", "inf", "nan"} {
			if len(s)-i >= len(word) && strings.EqualFold(s[i:i+len(word)], word) {
				return i + len(word)
			}
		}
	}
	if i+2 < len(s) && s[i] == '0' && s[i+1]|0x20 == 'x' && isHex(s[i+2]) {
		for i += 2; i < len(s) && isHex(s[i]); i++ {
		}
		return i
	}
	digits := 0
	for ; i < len(s) && (s[i] >= '0' && s[i] <= '9'); i++ {
		digits++
	}
	if i < len(s) && s[i] == '.' {
		for i++; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
			digits++
		}
	}
	if digits == 0 {
		return 0
	}
	if i < len(s) && s[i]|0x20 == 'e' {
		end := i + 1
		if end < len(s) && (s[end] == '-' || s[end] == '+') {
			end++
		}
		if end < len(s) && s[end] >= '0' && s[end] <= '9' {
			for i = end; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
			}
		}
	}
	return i
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

// plainJSONNumber reports whether the digits are a number as JSON has it, but for a point at the end.
func plainJSONNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	if s == "" || s[0] < '0' || s[0] > '9' {
		return false
	}
	return s[0] != '0' || len(s) == 1 || (s[1] < '0' || s[1] > '9') && s[1]|0x20 != 'x'
}

func (p *jsonParser) readString() {
	i := p.at + 1
	from := i
	var b []byte
	for {
		if i >= len(p.text) {
			p.kind, p.begin = "unexpected end of string", i
			return
		}
		c := p.text[i]
		if c == '"' {
			break
		}
		if c != '\\' {
			i++
			continue
		}
		b = append(b, p.text[from:i]...)
		var problem string
		b, i, problem = p.escape(b, i)
		if problem != "" {
			p.kind, p.begin = problem, i
			return
		}
		from = i
	}
	if b == nil {
		p.str = p.text[from:i]
	} else {
		p.str = string(append(b, p.text[from:i]...))
	}
	p.kind, p.at = jsonString, i+1
}

// escape appends what the escape at i stands for and returns the place behind it, or what is wrong with it.
func (p *jsonParser) escape(b []byte, i int) ([]byte, int, string) {
	if i+1 >= len(p.text) {
		return b, i, "invalid escape code"
	}
	switch c := p.text[i+1]; c {
	case '"', '\\', '/':
		return append(b, c), i + 2, ""
	case 'b':
		return append(b, '\b'), i + 2, ""
	case 'f':
		return append(b, '\f'), i + 2, ""
	case 'n':
		return append(b, '\n'), i + 2, ""
	case 'r':
		return append(b, '\r'), i + 2, ""
	case 't':
		return append(b, '\t'), i + 2, ""
	case 'u':
		point, ok := p.unit(i)
		end := i + 6
		if ok && point >= 0xD800 && point < 0xE000 {
			low, isLow := p.unit(i + 6)
			if ok = point < 0xDC00 && isLow && low >= 0xDC00 && low < 0xE000; ok {
				point = (point-0xD800)<<10 + (low - 0xDC00) + 0x10000
				end = i + 12
			}
		}
		if !ok {
			return b, i, "invalid unicode escape code"
		}
		return append(b, string(rune(point))...), end, ""
	}
	return b, i, "invalid escape code"
}

// unit reads \uXXXX at i.
func (p *jsonParser) unit(i int) (int, bool) {
	if i+6 > len(p.text) || p.text[i] != '\\' || p.text[i+1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(p.text[i+2:i+6], 16, 32)
	return int(n), err == nil
}

// value returns the value that the token begins.
func (p *jsonParser) value(depth int) lua.LValue {
	f := p.f
	switch p.kind {
	case jsonString:
		f.e.take(f.l, len(p.str)+stringBytes)
		return lua.LString(strings.Clone(p.str))
	case jsonNumeric:
		return lua.LNumber(p.number)
	case jsonBoolean:
		return lua.LBool(p.truth)
	case jsonNullToken:
		return jsonNull
	case jsonObjectBegin, jsonArrayBegin:
		if depth++; depth > f.e.json.decodeDepth || depth > maxJSONDepth {
			f.fail("Found too many nested data structures (" + strconv.Itoa(depth) + ") at character " + strconv.Itoa(p.begin+1))
		}
		if p.kind == jsonArrayBegin {
			return p.array(depth)
		}
		return p.object(depth)
	}
	p.unexpected("value")
	return nil
}

func (p *jsonParser) object(depth int) lua.LValue {
	f := p.f
	t := f.e.newTable(f.l, 0, 1)
	if p.next(); p.kind == jsonObjectEnd {
		return t
	}
	for {
		if p.kind != jsonString {
			p.unexpected("object key string")
		}
		f.e.take(f.l, len(p.str)+entryBytes)
		key := strings.Clone(p.str)
		if p.next(); p.kind != jsonColon {
			p.unexpected("colon")
		}
		p.next()
		t.RawSetString(key, p.value(depth))
		switch p.next(); p.kind {
		case jsonObjectEnd:
			return t
		case jsonComma:
		default:
			p.unexpected("comma or object end")
		}
		p.next()
	}
}

func (p *jsonParser) array(depth int) lua.LValue {
	f := p.f
	t := f.e.newTable(f.l, 1, 0)
	if p.next(); p.kind == jsonArrayEnd {
		return t
	}
	for i := 1; ; i++ {
		f.e.take(f.l, 2*slotBytes)
		t.RawSetInt(i, p.value(depth))
		switch p.next(); p.kind {
		case jsonArrayEnd:
			return t
		case jsonComma:
		default:
			p.unexpected("comma or array end")
		}
		p.next()
	}
}

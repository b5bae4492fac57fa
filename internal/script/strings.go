package script

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

var stringLibrary = []library{
	{"byte", stringByte}, {"char", stringChar}, {"find", stringFind}, {"format", stringFormat}, {"gfind", stringGmatch}, {"gmatch", stringGmatch},
	{"gsub", stringGsub}, {"len", stringLen}, {"lower", stringLower}, {"match", stringMatch}, {"rep", stringRep}, {"reverse", stringReverse},
	{"sub", stringSub}, {"upper", stringUpper},
}

// place makes an index of Lua, which may count from the end, one that counts from the beginning.
func place(i, length int) int {
	if i < 0 {
		return max(i+length+1, 0)
	}
	return i
}

func stringByte(f frame) int {
	text := f.text(1)
	first := place(f.integerOr(2, 1), len(text))
	last := min(place(f.integerOr(3, first), len(text)), len(text))
	first = max(first, 1)
	if first > last {
		return 0
	}
	if last-first >= maxUnpack {
		f.fail("string slice too long")
	}
	for _, c := range []byte(text[first-1 : last]) {
		f.l.Push(lua.LNumber(c))
	}
	return last - first + 1
}

func stringChar(f frame) int {
	b := make([]byte, f.count())
	for i := range b {
		n := f.integer(i + 1)
		if n < 0 || n > 255 {
			f.argError(i+1, "invalid value")
		}
		b[i] = byte(n)
	}
	return f.pushText(string(b))
}

func stringLen(f frame) int { return f.pushNumber(float64(len(f.text(1)))) }

// mapped pushes text with every byte replaced.
func mapped(f frame, text string, replace func(c byte) byte) int {
	f.e.take(f.l, len(text)+stringBytes)
	f.e.work(f.l, len(text)/32)
	b := []byte(text)
	for i, c := range b {
		b[i] = replace(c)
	}
	return f.push(lua.LString(b))
}

func stringLower(f frame) int {
	return mapped(f, f.text(1), func(c byte) byte {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	})
}

func stringUpper(f frame) int {
	return mapped(f, f.text(1), func(c byte) byte {
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		return c
	})
}

func stringReverse(f frame) int {
	text := f.text(1)
	i := len(text)
	return mapped(f, text, func(byte) byte {
		i--
		return text[i]
	})
}

func stringRep(f frame) int {
	text, n := f.text(1), max(f.integer(2), 0)
	if len(text) > 0 && n > math.MaxInt32 {
		f.e.take(f.l, math.MaxInt64/2)
	}
	if len(text) == 0 {
		n = 0
	}
	f.e.take(f.l, len(text)*n+stringBytes)
	f.e.work(f.l, len(text)*n/64)
	return f.push(lua.LString(strings.Repeat(text, n)))
}

func stringSub(f frame) int {
	text := f.text(1)
	first := max(place(f.integer(2), len(text)), 1)
	last := min(place(f.integerOr(3, -1), len(text)), len(text))
	if first > last {
		return f.push(lua.LString(""))
	}
	return f.pushText(text[first-1 : last])
}

// start returns the index from which find and match search, from 0; false if it is beyond the text.
func start(f frame, n, length int) int {
	return min(max(place(f.integerOr(n, 1), length)-1, 0), length)
}

func stringFind(f frame) int {
	text, pattern := f.text(1), f.text(2)
	init := start(f, 3, len(text))
	if lua.LVAsBool(f.l.Get(4)) || !strings.ContainsAny(pattern, "^$*+?.([%-") {
		f.e.work(f.l, (len(text)-init)/16)
		i := strings.Index(text[init:], pattern)
		if i < 0 {
			return f.push(lua.LNil)
		}
		return f.push(lua.LNumber(init+i+1), lua.LNumber(init+i+len(pattern)))
	}
	m, s, e := search(f, text, pattern, init)
	if e < 0 {
		return f.push(lua.LNil)
	}
	f.push(lua.LNumber(s+1), lua.LNumber(e))
	return m.pushValues(s, e, false) + 2
}

func stringMatch(f frame) int {
	text, pattern := f.text(1), f.text(2)
	m, s, e := search(f, text, pattern, start(f, 3, len(text)))
	if e < 0 {
		return f.push(lua.LNil)
	}
	return m.pushValues(s, e, true)
}

// search finds the first match at or behind init; e is -1 if there is none.
func search(f frame, text, pattern string, init int) (m *matcher, s, e int) {
	m = &matcher{f: f, text: text, pattern: pattern}
	anchored := strings.HasPrefix(pattern, "^")
	if anchored {
		m.pattern = pattern[1:]
	}
	for s = init; s <= len(text); s++ {
		m.level = 0
		if e = m.match(s, 0); e >= 0 || anchored {
			return m, s, e
		}
	}
	return m, s, -1
}

func stringGmatch(f frame) int {
	text, pattern := f.text(1), f.text(2)
	m := &matcher{f: f, text: text, pattern: pattern}
	at := 0
	return f.push(f.e.function(library{"gmatch", func(f frame) int {
		m.f, m.depth = f, 0
		for s := at; s <= len(text); s++ {
			m.level = 0
			if e := m.match(s, 0); e >= 0 {
				if at = e; e == s {
					at++
				}
				return m.pushValues(s, e, true)
			}
		}
		return f.push(lua.LNil)
	}}))
}

func stringGsub(f frame) int {
	text, pattern := f.text(1), f.text(2)
	replacement := f.l.Get(3)
	switch replacement.(type) {
	case lua.LString, lua.LNumber, *lua.LTable, *lua.LFunction:
	default:
		f.argError(3, "string/function/table expected")
	}
	limit := f.integerOr(4, len(text)+1)
	m := &matcher{f: f, text: text, pattern: pattern}
	anchored := strings.HasPrefix(pattern, "^")
	if anchored {
		m.pattern = pattern[1:]
	}
	var b []byte
	s, n := 0, 0
	for n < limit {
		m.level = 0
		e := m.match(s, 0)
		if e >= 0 {
			n++
			b = m.replace(b, s, e, replacement)
		}
		switch {
		case e > s:
			s = e
		case s < len(text):
			b = append(b, text[s])
			s++
		default:
			anchored = true
		}
		if anchored {
			break
		}
	}
	if s < len(text) {
		b = append(b, text[s:]...)
	}
	f.pushText(string(b))
	return 1 + f.pushNumber(float64(n))
}

// replace appends what stands for the match of text[s:e].
func (m *matcher) replace(b []byte, s, e int, replacement lua.LValue) []byte {
	f := m.f
	var v lua.LValue
	switch r := replacement.(type) {
	case *lua.LTable:
		v = f.l.GetTable(r, m.value(0, s, e))
	case *lua.LFunction:
		captures := make([]lua.LValue, max(m.level, 1))
		for i := range captures {
			captures[i] = m.value(i, s, e)
		}
		v = f.callOne(r, captures...)
	default:
		text, _ := textOf(r)
		return m.expand(b, text, s, e)
	}
	if !lua.LVAsBool(v) {
		return append(b, m.text[s:e]...)
	}
	text, ok := textOf(v)
	if !ok {
		f.fail("invalid replacement value (a " + v.Type().String() + ")")
	}
	f.e.take(f.l, len(text))
	return append(b, text...)
}

// expand appends a replacement in which %1 stands for a capture.
func (m *matcher) expand(b []byte, text string, s, e int) []byte {
	m.f.e.take(m.f.l, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c != '%' {
			b = append(b, c)
			continue
		}
		if i++; i == len(text) {
			return append(b, 0) // as C reads the end of a string
		}
		switch c = text[i]; {
		case c < '0' || c > '9':
			b = append(b, c)
		case c == '0':
			m.f.e.take(m.f.l, e-s)
			b = append(b, m.text[s:e]...)
		default:
			value, _ := textOf(m.value(int(c-'1'), s, e))
			b = append(b, value...)
		}
	}
	return b
}

func stringFormat(f frame) int {
	format := f.text(1)
	var b []byte
	arg := 1
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b = append(b, format[i])
			continue
		}
		if i++; i < len(format) && format[i] == '%' {
			b = append(b, '%')
			continue
		}
		spec := directive{precision: -1}
		i = spec.parse(f, format, i)
		arg++
		b = spec.append(b, f, arg)
		if len(b) > 4096 {
			f.e.take(f.l, len(b)/8) // what grows is paid for while it grows
		}
	}
	return f.pushText(string(b))
}

// directive is one directive of a format.
type directive struct {
	minus, plus, space, sharp, zero bool
	width, precision                int
	verb                            byte
}

// parse reads the directive behind '%' and returns the place of its last character.
func (d *directive) parse(f frame, format string, i int) int {
	begin := i
	for ; i < len(format) && strings.IndexByte("-+ #0", format[i]) >= 0; i++ {
		switch format[i] {
		case '-':
			d.minus = true
		case '+':
			d.plus = true
		case ' ':
			d.space = true
		case '#':
			d.sharp = true
		case '0':
			d.zero = true
		}
	}
	if i-begin > 5 {
		f.fail("invalid format (repeated flags)")
	}
	number := func() int {
		n := 0
		for digits := 0; i < len(format) && format[i] >= '0' && format[i] <= '9'; i++ {
			n = n*10 + int(format[i]-'0')
			if digits++; digits > 2 {
				f.fail("invalid format (width or precision too long)")
			}
		}
		return n
	}
	d.width = number()
	if i < len(format) && format[i] == '.' {
		i++
		d.precision = number()
	}
	if i < len(format) {
		d.verb = format[i]
	}
	return i
}

func (d *directive) append(b []byte, f frame, arg int) []byte {
	if d.verb == 's' && arg > f.count() {
		f.argError(arg, "no value")
	}
	switch d.verb {
	case 'c':
		return d.pad(b, "", []byte{byte(f.integer(arg))})
	case 'd', 'i':
		n := integerOf(f.number(arg))
		return d.integer(b, strconv.FormatUint(magnitude(n), 10), d.sign(n < 0))
	case 'u':
		return d.integer(b, strconv.FormatUint(unsignedOf(f.number(arg)), 10), "")
	case 'o':
		digits := strconv.FormatUint(unsignedOf(f.number(arg)), 8)
		if d.sharp && digits[0] != '0' {
			digits = "0" + digits
		}
		return d.integer(b, digits, "")
	case 'x', 'X':
		n := unsignedOf(f.number(arg))
		digits, prefix := strconv.FormatUint(n, 16), ""
		if d.sharp && n != 0 {
			prefix = "0x"
		}
		if d.verb == 'X' {
			digits, prefix = strings.ToUpper(digits), strings.ToUpper(prefix)
		}
		return d.integer(b, digits, prefix)
	case 'e', 'E', 'f', 'g', 'G':
		return d.float(b, f.number(arg))
	case 'q':
		return quoted(b, f.text(arg))
	case 's':
		text := f.text(arg)
		if d.precision < 0 && len(text) >= 100 {
			f.e.take(f.l, len(text))
			return append(b, text...)
		}
		if i := strings.IndexByte(text, 0); i >= 0 {
			text = text[:i] // as C prints
		}
		if d.precision >= 0 {
			text = text[:min(len(text), d.precision)]
		}
		d.zero = false
		return d.pad(b, "", []byte(text))
	}
	f.fail("invalid option '%" + string(rune(d.verb)) + "' to 'format'")
	return b
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

// unsignedOf converts as C does on amd64: what is out of range becomes 2^63.
func unsignedOf(f float64) uint64 {
	if f >= 0 && f < 1<<64 {
		return uint64(f)
	}
	return uint64(integerOf(f))
}

func (d *directive) sign(negative bool) string {
	switch {
	case negative:
		return "-"
	case d.plus:
		return "+"
	case d.space:
		return " "
	}
	return ""
}

func (d *directive) integer(b []byte, digits, prefix string) []byte {
	if d.precision >= 0 {
		d.zero = false
		if d.precision == 0 && digits == "0" {
			digits = ""
		}
		digits = strings.Repeat("0", max(0, d.precision-len(digits))) + digits
	}
	return d.pad(b, prefix, []byte(digits))
}

func (d *directive) float(b []byte, n float64) []byte {
	sign := d.sign(math.Signbit(n) && !math.IsNaN(n))
	precision := d.precision
	if precision < 0 {
		precision = 6
	}
	var text []byte
	size := math.Abs(n)
	switch {
	case math.IsNaN(n):
		text, sign, d.zero = []byte("nan"), "-", false
	case math.IsInf(n, 0):
		text, d.zero = []byte("inf"), false
	case d.verb == 'g' || d.verb == 'G':
		if text = appendG(nil, size, precision); d.sharp {
			text = sharpG(size, precision)
		}
	default:
		text = strconv.AppendFloat(nil, size, d.verb|0x20, precision, 64)
		if d.sharp && precision == 0 {
			text = pointed(text)
		}
	}
	if d.verb < 'a' {
		text = bytes.ToUpper(text)
	}
	return d.pad(b, sign, text)
}

// sharpG is %#g: the zeros at the end stay.
func sharpG(n float64, precision int) []byte {
	precision = max(precision, 1)
	text := strconv.AppendFloat(nil, n, 'e', precision-1, 64)
	mark := bytes.IndexByte(text, 'e')
	exponent, _ := strconv.Atoi(string(text[mark+1:]))
	if exponent < -4 || exponent >= precision {
		return pointed(text)
	}
	return pointed(strconv.AppendFloat(nil, n, 'f', precision-1-exponent, 64))
}

// pointed puts a point behind the digits if there is none.
func pointed(text []byte) []byte {
	end := len(text)
	if mark := bytes.IndexByte(text, 'e'); mark >= 0 {
		end = mark
	}
	if bytes.IndexByte(text, '.') >= 0 {
		return text
	}
	return append(append(bytes.Clone(text[:end]), '.'), text[end:]...)
}

// pad appends sign and text, as wide as asked.
func (d *directive) pad(b []byte, sign string, text []byte) []byte {
	fill := max(0, d.width-len(sign)-len(text))
	switch {
	case d.minus:
		b = append(append(b, sign...), text...)
		return append(b, bytes.Repeat([]byte{' '}, fill)...)
	case d.zero:
		b = append(b, sign...)
		return append(append(b, bytes.Repeat([]byte{'0'}, fill)...), text...)
	}
	b = append(b, bytes.Repeat([]byte{' '}, fill)...)
	return append(append(b, sign...), text...)
}

// quoted appends text as a literal of Lua.
func quoted(b []byte, text string) []byte {
	b = append(b, '"')
	for _, c := range []byte(text) {
		switch c {
		case '"', '\\', '\n':
			b = append(b, '\\', c)
		case '\r':
			b = append(b, "\\r"...)
		case 0:
			b = append(b, "\\000"...)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
